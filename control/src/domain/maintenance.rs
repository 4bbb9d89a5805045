//! Out of service and back, by an operator's word: a host, or one device of it.
//!
//! ```text
//!   in service ── drain: reason ──▶ in maintenance        nothing new is placed there; what runs there runs on
//!       ▲                                 │               and is closed as ever
//!       └───────────── resume ────────────┘
//! ```

use super::records::{Change, Device, Host, Maintenance, Record};
use super::{Refusal, RefusalKind};
use holm_proto::ids::Name;
use jiff::Timestamp;

/// What an operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Out of service; otherwise back.
    pub out: bool,
    /// Who.
    pub by: Name,
    /// Why; needed to take out of service.
    pub reason: String,
}

/// A host.
pub fn host(host: &Host, order: &Order, now: Timestamp) -> Result<Change, Refusal> {
    let maintenance = ordered(host.maintenance.as_ref(), order, &format!("{}", host.name), now)?;
    Ok(Change::Put(Record::Host(Host { maintenance, ..host.clone() })))
}

/// A GPU. An NVSwitch is given to nobody: that it is out of service would hold nothing back.
pub fn device(device: &Device, order: &Order, now: Timestamp) -> Result<Change, Refusal> {
    if !device.gpu {
        let text = format!("{} is an NVSwitch, which no slice is given: take its host out", device.address);
        let hint = format!("holm host drain {} --reason \"…\"", device.host);
        return Err(Refusal::new(RefusalKind::Invalid, text).hint(hint));
    }
    let what = format!("{} --device {}", device.host, device.address);
    let maintenance = ordered(device.maintenance.as_ref(), order, &what, now)?;
    Ok(Change::Put(Record::Device(Device { maintenance, ..device.clone() })))
}

/// Said again it is another reason; since when stays.
fn ordered(
    current: Option<&Maintenance>,
    order: &Order,
    what: &str,
    now: Timestamp,
) -> Result<Option<Maintenance>, Refusal> {
    if !order.out {
        return match current {
            Some(_) => Ok(None),
            None => Err(Refusal::new(RefusalKind::State, "it is in service already")),
        };
    }
    if order.reason.trim().is_empty() {
        let hint = format!("holm host drain {what} --reason \"…\"");
        return Err(Refusal::new(RefusalKind::Invalid, "what goes out of service has a reason").hint(hint));
    }
    let since = current.map_or(now, |m| m.since);
    Ok(Some(Maintenance { by: order.by.clone(), reason: order.reason.clone(), since }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_and_back() {
        let name: Name = "dgx".parse().unwrap();
        let changes = crate::domain::people::invite_host(
            &crate::domain::State::default(),
            &name,
            String::new(),
            "olga",
            Timestamp::UNIX_EPOCH,
        );
        let Some(Change::Put(Record::Host(first))) = changes.into_iter().next() else { panic!("no host") };
        let at = |second| Timestamp::from_second(second).unwrap();
        let order = |out, reason: &str| Order { out, by: "olga".parse().unwrap(), reason: reason.to_owned() };
        let of = |change: Change| match change {
            Change::Put(Record::Host(h)) => h,
            other => panic!("{other:?}"),
        };
        assert_eq!(host(&first, &order(false, ""), at(1)).unwrap_err().kind, RefusalKind::State);
        assert_eq!(host(&first, &order(true, " "), at(1)).unwrap_err().kind, RefusalKind::Invalid);
        let out = of(host(&first, &order(true, "a fan"), at(1)).unwrap());
        let again = of(host(&out, &order(true, "two fans"), at(2)).unwrap());
        let now = again.maintenance.clone().unwrap();
        assert_eq!((now.reason.as_str(), now.since), ("two fans", at(1)));
        assert_eq!(of(host(&again, &order(false, ""), at(3)).unwrap()), first);
    }
}
