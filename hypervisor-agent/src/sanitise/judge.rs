//! Judging a report. Pure: what was ordered, what is said, and which devices that shows to be clean.

use holm_proto::gpu::GpuKind;
use holm_scrub::protocol::{Expected, Method, Order, Outcome, Report};
use std::collections::BTreeMap;

/// For every device of the order, in its order, its outcome or why it is not clean. A report that is another
/// order's, or that speaks of devices which were not ordered or of one twice, is none: `Err`.
pub fn judge(order: &Order, report: &Report) -> Result<Vec<Result<Outcome, String>>, String> {
    if report.run != order.run || report.nonce != order.nonce {
        return Err("the report is another run's".to_owned());
    }
    let mut said: BTreeMap<u8, &Outcome> = BTreeMap::new();
    for outcome in &report.devices {
        if !order.devices.iter().any(|device| device.slot == outcome.slot) {
            return Err(format!(
                "the report speaks of a device at place {}, where there is none",
                outcome.slot
            ));
        }
        if said.insert(outcome.slot, outcome).is_some() {
            return Err(format!("the report speaks twice of the device at place {}", outcome.slot));
        }
    }
    let one = |device: &Expected| {
        let outcome = said.get(&device.slot).ok_or("the report does not speak of it")?;
        match unsound(order.method, device, outcome) {
            None => Ok((*outcome).clone()),
            Some(why) => Err(why),
        }
    };
    Ok(order.devices.iter().map(one).collect())
}

/// Why what is said of a device does not show that it is clean.
fn unsound(method: Method, device: &Expected, said: &Outcome) -> Option<String> {
    if !said.cleaned {
        let detail = printable(&said.detail, 300);
        return Some(if detail.is_empty() {
            "it was not cleaned, and nothing says why".to_owned()
        } else {
            detail
        });
    }
    let (total, written, verified) = (said.bytes_total, said.bytes_written, said.bytes_verified);
    if total != device.bytes || written == 0 {
        return Some(format!("{total} bytes were covered and {written} written, it has {}", device.bytes));
    }
    if verified != written {
        return Some(format!("of {written} bytes written {verified} were verified"));
    }
    if written.checked_add(said.bytes_unreached) != Some(total) {
        return Some(format!(
            "{written} bytes written and {} not reached are not {total}",
            said.bytes_unreached
        ));
    }
    let most = match method {
        Method::Bar => 0,
        Method::Cuda => GpuKind::of(&device.id).map_or(0, GpuKind::most_unreached),
    };
    if said.bytes_unreached > most {
        return Some(format!("{} bytes were not reached, {most} at most may be", said.bytes_unreached));
    }
    None
}

/// What is safe to show on a terminal, in a page and in a log.
pub fn printable(text: &str, most: usize) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~')).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn order(method: Method, devices: u8) -> Order {
        let devices =
            (0..devices).map(|slot| Expected { slot, id: "10de:1db8".to_owned(), bytes: 32 * GIB }).collect();
        Order { run: "run".into(), nonce: "nonce".into(), method, devices }
    }

    fn outcome(slot: u8, unreached: u64) -> Outcome {
        Outcome {
            slot,
            cleaned: true,
            bytes_total: 32 * GIB,
            bytes_written: 32 * GIB - unreached,
            bytes_verified: 32 * GIB - unreached,
            bytes_unreached: unreached,
            ..Outcome::default()
        }
    }

    fn report(devices: Vec<Outcome>) -> Report {
        Report { run: "run".into(), nonce: "nonce".into(), tool: "t".into(), devices }
    }

    #[test]
    fn a_sound_report_in_any_order() {
        let all = judge(&order(Method::Bar, 2), &report(vec![outcome(1, 0), outcome(0, 0)])).unwrap();
        assert_eq!(all, [Ok(outcome(0, 0)), Ok(outcome(1, 0))]);
        let kept = (32_768 - 32_480) << 20;
        assert!(judge(&order(Method::Cuda, 1), &report(vec![outcome(0, kept)])).unwrap()[0].is_ok());
    }

    #[test]
    fn another_runs_another_starts_and_a_muddled_report_are_none() {
        let order = order(Method::Bar, 2);
        let good = report(vec![outcome(0, 0), outcome(1, 0)]);
        for bad in [
            Report { run: "other".into(), ..good.clone() },
            Report { nonce: "other".into(), ..good.clone() },
            report(vec![outcome(0, 0), outcome(1, 0), outcome(2, 0)]),
            report(vec![outcome(0, 0), outcome(1, 0), outcome(1, 0)]),
        ] {
            assert!(judge(&order, &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_device_is_not_clean_and_the_others_are() {
        for devices in [vec![outcome(0, 0)], vec![]] {
            let all = judge(&order(Method::Bar, 2), &report(devices.clone())).unwrap();
            assert_eq!((all[0].is_ok(), all[1].is_ok()), (!devices.is_empty(), false));
        }
    }

    #[test]
    fn a_gap_is_not_clean() {
        let none = Outcome { bytes_total: 0, bytes_written: 0, bytes_verified: 0, ..outcome(0, 0) };
        for bad in [
            Outcome { cleaned: false, ..outcome(0, 0) },
            Outcome { bytes_verified: 32 * GIB - 1, ..outcome(0, 0) },
            Outcome { bytes_verified: 32 * GIB + 1, ..outcome(0, 0) },
            Outcome { bytes_unreached: 1, ..outcome(0, 0) },
            Outcome { bytes_unreached: u64::MAX, ..outcome(0, 0) },
            Outcome { bytes_total: 16 * GIB, ..outcome(0, 16 * GIB) },
            outcome(0, 32 * GIB),
            outcome(0, GIB),
            none,
        ] {
            for method in [Method::Bar, Method::Cuda] {
                assert!(judge(&order(method, 1), &report(vec![bad.clone()])).unwrap()[0].is_err(), "{bad:?}");
            }
        }
        assert!(judge(&order(Method::Bar, 1), &report(vec![outcome(0, 4096)])).unwrap()[0].is_err());
        // A kind of which nothing is known keeps nothing.
        let mut unknown = order(Method::Cuda, 1);
        unknown.devices[0].id = "10de:ffff".to_owned();
        assert!(judge(&unknown, &report(vec![outcome(0, 4096)])).unwrap()[0].is_err());
    }

    proptest! {
        #[test]
        fn what_is_called_clean_is_covered(
            cleaned: bool, total in 0u64..5, written in 0u64..5, verified in 0u64..5, unreached in 0u64..5,
        ) {
            let mut order = order(Method::Bar, 1);
            order.devices[0].bytes = 4;
            let said = Outcome {
                cleaned, bytes_total: total, bytes_written: written, bytes_verified: verified,
                bytes_unreached: unreached, ..Outcome::default()
            };
            let clean = judge(&order, &report(vec![said])).unwrap()[0].is_ok();
            prop_assert_eq!(clean, cleaned && (total, written, verified, unreached) == (4, 4, 4, 0));
        }
    }
}
