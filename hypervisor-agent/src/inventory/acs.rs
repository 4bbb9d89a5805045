//! What a bridge's configuration space says: which kind of port it is, and what it does with what one device
//! behind it sends to another.
//!
//! Without Access Control Services a switch hands a packet from one of its downstream ports to another by
//! itself, past the IOMMU. So each downstream port must check who a packet claims to be from (source
//! validation), send requests and completions up to the root (redirects), and hand on what comes back
//! (upstream forwarding).
//!
//! The bytes come from a device: what cannot be followed is absent, never a guess and never an error.
//! Anybody but root is shown 64 bytes, which hold none of it.

use holm_proto::v1::{Acs, BridgeKind};

/// Where the status register says whether there are capabilities.
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 0x10;
/// The first capability; the list ends below the extended space.
const CAPABILITIES: usize = 0x34;
const CAPABILITY_EXPRESS: u8 = 0x10;
/// The first extended capability.
const EXTENDED: usize = 0x100;
const EXTENDED_ACS: u16 = 0x000d;
/// More links than these in either list are a circle.
const MOST_LINKS: usize = 512;

/// The bits of the capability and of the control register.
pub const SOURCE_VALIDATION: u16 = 1;
/// Requests go up to the root.
pub const REQUEST_REDIRECT: u16 = 1 << 2;
/// Completions go up to the root.
pub const COMPLETION_REDIRECT: u16 = 1 << 3;
/// What the root sends back to where it came from is handed on.
pub const UPSTREAM_FORWARDING: u16 = 1 << 4;

/// Which kind of port a bridge is; unspecified where its configuration space was not shown.
pub fn kind(config: &[u8]) -> BridgeKind {
    if config.len() <= 64 || config.iter().take(4).all(|byte| *byte == 0xff) {
        return BridgeKind::Unspecified;
    }
    let Some(at) = capability(config, CAPABILITY_EXPRESS) else { return BridgeKind::Conventional };
    match word(config, at + 2).map(|flags| flags >> 4 & 0xf) {
        Some(4) => BridgeKind::RootPort,
        Some(5) => BridgeKind::Upstream,
        Some(6) => BridgeKind::Downstream,
        Some(_) => BridgeKind::Conventional,
        None => BridgeKind::Unspecified,
    }
}

/// What the port can do and what is switched on; the four flags say what is on.
pub fn acs(config: &[u8]) -> Option<Acs> {
    let at = extended(config, EXTENDED_ACS)?;
    let (capability, control) = (word(config, at + 4)?, word(config, at + 6)?);
    Some(Acs {
        source_validation: control & SOURCE_VALIDATION != 0,
        request_redirect: control & REQUEST_REDIRECT != 0,
        completion_redirect: control & COMPLETION_REDIRECT != 0,
        upstream_forwarding: control & UPSTREAM_FORWARDING != 0,
        capability: capability.into(),
        control: control.into(),
    })
}

fn capability(config: &[u8], wanted: u8) -> Option<usize> {
    if word(config, STATUS)? & STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut at = usize::from(*config.get(CAPABILITIES)? & !3);
    for _ in 0..MOST_LINKS {
        // The header ends at 0x40: a capability before it is none.
        if at < 0x40 {
            return None;
        }
        if *config.get(at)? == wanted {
            return Some(at);
        }
        at = usize::from(*config.get(at + 1)? & !3);
    }
    None
}

fn extended(config: &[u8], wanted: u16) -> Option<usize> {
    let mut at = EXTENDED;
    for _ in 0..MOST_LINKS {
        let (id, next) = (word(config, at)?, usize::from(word(config, at + 2)? >> 4));
        if id == wanted {
            return Some(at);
        }
        // Nothing at all stands for an empty list, ones throughout for a device that is gone.
        if id == 0xffff || next < EXTENDED || next % 4 != 0 {
            return None;
        }
        at = next;
    }
    None
}

fn word(config: &[u8], at: usize) -> Option<u16> {
    let bytes = config.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::config::{Port, configuration};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_of_port() {
        for (port, expected) in [
            (Port::Root, BridgeKind::RootPort),
            (Port::Upstream, BridgeKind::Upstream),
            (Port::Downstream, BridgeKind::Downstream),
            (Port::Conventional, BridgeKind::Conventional),
        ] {
            assert_eq!(kind(&configuration(port, "10b5:9797", None)), expected);
        }
    }

    #[test]
    fn what_is_on_and_what_could_be() {
        let config = configuration(Port::Downstream, "10b5:9797", Some((0x5f, 0x1d)));
        let found = acs(&config).unwrap();
        assert!(found.source_validation && found.request_redirect);
        assert!(found.completion_redirect && found.upstream_forwarding);
        assert_eq!((found.capability, found.control), (0x5f, 0x1d));
        let off = acs(&configuration(Port::Downstream, "10b5:9797", Some((0x5f, 0)))).unwrap();
        assert!(!off.source_validation && !off.upstream_forwarding);
        assert_eq!(acs(&configuration(Port::Upstream, "10b5:9797", None)), None);
    }

    #[test]
    fn what_is_not_shown_is_absent() {
        let config = configuration(Port::Downstream, "10b5:9797", Some((0x5f, 0x1d)));
        assert_eq!((kind(&config[..64]), acs(&config[..64])), (BridgeKind::Unspecified, None));
        assert_eq!((kind(&config[..256]), acs(&config[..256])), (BridgeKind::Downstream, None));
        let gone = vec![0xff; 4096];
        assert_eq!((kind(&gone), acs(&gone)), (BridgeKind::Unspecified, None));
    }

    #[test]
    fn a_circle_ends() {
        let mut config = configuration(Port::Downstream, "10b5:9797", None);
        config[0x100..0x104].copy_from_slice(&[0x01, 0x00, 0x01, 0x10]);
        assert_eq!(acs(&config), None);
        config[0x40..0x42].copy_from_slice(&[0x01, 0x40]);
        assert_eq!(kind(&config), BridgeKind::Conventional);
    }

    proptest! {
        #[test]
        fn any_bytes_end(config in prop::collection::vec(any::<u8>(), 0..4096)) {
            kind(&config);
            acs(&config);
        }
    }
}
