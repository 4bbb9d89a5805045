//! Memory that only NVIDIA's driver hands out: all of it is allocated, which leaves what the driver keeps for
//! itself, and that is said.

mod driver;

pub use self::driver::PATTERN_TEXT;

use self::driver::{Gpu, Taken};
use crate::{
    Failure,
    overwrite::overwrite,
    pci::Function,
    protocol::{Expected, Outcome},
    serve::not_cleaned,
};
use std::{collections::BTreeMap, time::Instant};

/// Cleans the devices of an order: the driver must have these and no others.
pub(crate) fn clean_all(
    found: Vec<Result<(Expected, Function), (u8, Failure)>>,
    progress: &mut dyn FnMut(u8, &str),
) -> Vec<Outcome> {
    let expected = found.len();
    let gpus = by_address().and_then(|gpus| match gpus.len() == expected {
        true => Ok(gpus),
        false => Err(Failure(format!("the driver has {} devices, {expected} were given", gpus.len()))),
    });
    let clean_one = |found: Result<(Expected, Function), (u8, Failure)>| {
        let (device, function) = match found {
            Ok(found) => found,
            Err((slot, failure)) => return not_cleaned(slot, &failure),
        };
        let gpu = gpus.as_ref().map_err(Clone::clone).and_then(|gpus| {
            gpus.get(&function.address)
                .copied()
                .ok_or_else(|| Failure(format!("the driver does not have `{}`", function.address)))
        });
        match gpu {
            Ok(gpu) => {
                let outcome = clean(gpu, Some(device.bytes), &mut |step| progress(device.slot, step));
                Outcome { slot: device.slot, ..outcome }
            }
            Err(failure) => not_cleaned(device.slot, &failure),
        }
    };
    found.into_iter().map(clean_one).collect()
}

/// Every device that the driver has.
pub(crate) fn by_address() -> Result<BTreeMap<String, Gpu>, Failure> {
    driver::gpus()?.into_iter().map(|gpu| Ok((gpu.address()?, gpu))).collect()
}

/// Overwrites all that the driver hands out. `total`: how much memory the device has, where the caller knows;
/// else it is what the driver shows.
pub(crate) fn clean(gpu: Gpu, total: Option<u64>, step: &mut dyn FnMut(&str)) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome { pattern: PATTERN_TEXT.to_owned(), ..Outcome::default() };
    match try_clean(gpu, total, &mut outcome, step) {
        Ok(()) => outcome.cleaned = true,
        Err(failure) => outcome.detail = failure.to_string(),
    }
    outcome.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    outcome
}

fn try_clean(
    gpu: Gpu,
    total: Option<u64>,
    outcome: &mut Outcome,
    step: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let shown = gpu.bytes()?;
    outcome.bytes_total = total.unwrap_or(shown);
    if shown > outcome.bytes_total {
        return Err(Failure(format!(
            "it shows {shown} bytes of memory, the host knows {}",
            outcome.bytes_total
        )));
    }
    step("allocate");
    let taken = Taken::all_of(gpu)?;
    let counts = overwrite(&mut taken.stretches(), step)?;
    outcome.bytes_dirty_before = counts.dirty_before;
    outcome.bytes_written = counts.written;
    outcome.bytes_verified = counts.verified;
    outcome.bytes_unreached = outcome.bytes_total.checked_sub(counts.written).ok_or_else(|| {
        Failure(format!("{} bytes were allocated of {}", counts.written, outcome.bytes_total))
    })?;
    match counts.written.saturating_sub(counts.verified) {
        0 => Ok(()),
        wrong => Err(Failure(format!("{wrong} bytes read back otherwise than they were written"))),
    }
}
