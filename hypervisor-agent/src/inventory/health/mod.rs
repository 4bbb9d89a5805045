//! Health: what a GPU's driver knows of it, and what that means.
//!
//! ```text
//!   bound to `nvidia` ──▶ NVML ──▶ Reading ──▶ judge ──▶ healthy, degraded or failed
//!   anything else, or NVML fails ──────────────────────▶ unknown, and why
//! ```
//!
//! Unknown is never healthy. NVML sees only what is bound to NVIDIA's own driver, so on a host whose GPUs are
//! on vfio-pci all of them are unknown here, and their health comes from a machine that has them.
//!
//! NVML is opened for a look and closed again: held open it would keep the driver from being unbound. XIDs
//! therefore are not read: NVML tells only those that happen while somebody listens. [`judge`] takes them
//! from whoever did.

mod nvml;

pub use nvml::Library;

use crate::edge::Result;
use holm_proto::{ids::PciAddress, v1};

/// Double-bit errors since the driver was loaded: from one on the GPU has failed until it is reset. The fabric
/// manager's guide names a double-bit error first among what degrades a GPU; NVIDIA's page on dynamic page
/// retirement lets no new work onto it before a reset.
const UNCORRECTED_NOW: u64 = 1;
/// Double-bit errors in the GPU's whole life: from one on it is looked at. Their pages are retired by now.
const UNCORRECTED_EVER: u64 = 1;
/// Retired pages, of both causes: NVIDIA's DCGM fails a GPU at 63 (`DCGM_LIMIT_MAX_RETIRED_PAGES`; 60 before).
const RETIRED_FAILED: u32 = 60;
/// And warns from this many on (`DCGM_LIMIT_MAX_RETIRED_PAGES_SOFT_LIMIT`).
const RETIRED_DEGRADED: u32 = 15;
/// XIDs after which the GPU is not to be given to anybody, as NVIDIA's catalogue describes them.
const XIDS_FAILED: [(u32, &str); 4] = [
    (48, "double-bit ECC error"),
    (64, "a page could not be retired"),
    (79, "fallen off the bus"),
    (95, "uncontained ECC error"),
];
/// XIDs that a program brings about by itself: they say nothing of the GPU.
const XIDS_OF_PROGRAMS: [u32; 4] = [13, 31, 43, 45];

/// What was read of one GPU. What is absent the GPU or its driver does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// ECC is on.
    pub ecc: Option<bool>,
    /// Single-bit errors in its life.
    pub corrected: Option<u64>,
    /// Double-bit errors since the driver was loaded.
    pub uncorrected_now: Option<u64>,
    /// Double-bit errors in its life.
    pub uncorrected: Option<u64>,
    /// Pages taken out of use.
    pub retired_pages: Option<u32>,
    /// Pages that will be at the next reset.
    pub retiring: Option<bool>,
    /// Errors that its driver reported.
    pub xids: Vec<u32>,
    /// NVLinks that are up, of how many.
    pub links: Option<(u32, u32)>,
    /// Of its VBIOS.
    pub firmware: String,
    /// Degrees Celsius. It has no part in the judgement.
    pub temperature_c: Option<u32>,
}

/// Something that knows GPUs, open for one look.
pub trait Source {
    /// "nvml 535.183.01"
    fn name(&self) -> &str;

    /// What it knows of one GPU.
    fn read(&self, gpu: PciAddress) -> Result<Reading>;
}

/// Opens a [`Source`], or says why there is none.
pub type Open<'a> = dyn Fn() -> Result<Box<dyn Source>> + 'a;

/// The health of one device, with what its firmware is, where anybody says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Found {
    /// As it is told.
    pub health: v1::Health,
    /// Of a GPU's VBIOS.
    pub firmware: String,
}

/// Looks at every device of a list, each with the driver that it is bound to: in the same order.
pub fn look(devices: &[(PciAddress, v1::DeviceKind, &str)], open: &Open<'_>) -> Vec<Found> {
    let told = |(_, kind, driver): &(PciAddress, v1::DeviceKind, &str)| {
        *kind == v1::DeviceKind::Gpu && *driver == "nvidia"
    };
    // A host that has given its GPUs away does not load a library to learn nothing.
    let source = devices.iter().any(told).then(open);
    let one = |device: &(PciAddress, v1::DeviceKind, &str)| match &source {
        Some(Ok(source)) if told(device) => match source.read(device.0) {
            Ok(reading) => judge(source.name(), reading),
            Err(error) => unknown(format!("{}: {}", source.name(), error.chain())),
        },
        Some(Err(error)) if told(device) => unknown(error.chain()),
        _ if device.1 != v1::DeviceKind::Gpu => unknown("nothing here tells of NVSwitches".to_owned()),
        _ if device.2.is_empty() => unknown("on no driver: NVML does not see it".to_owned()),
        _ => unknown(format!("on `{}`: NVML does not see it", device.2)),
    };
    devices.iter().map(one).collect()
}

/// Nobody can say, and why.
pub fn unknown(source: String) -> Found {
    let health = v1::Health { state: v1::HealthState::Unknown.into(), source, ..Default::default() };
    Found { health, firmware: String::new() }
}

/// What a reading means. The worst of it decides; all of it is said.
pub fn judge(source: &str, reading: Reading) -> Found {
    use v1::HealthState::{Degraded, Failed, Healthy, Unknown};
    let mut said: Vec<(v1::HealthState, String)> = Vec::new();
    let mut say = |state, text: String| said.push((state, text));
    if let Some(count) = reading.uncorrected_now.filter(|count| *count >= UNCORRECTED_NOW) {
        say(Failed, format!("{count} uncorrectable memory errors since its driver was loaded"));
    } else if let Some(count) = reading.uncorrected.filter(|count| *count >= UNCORRECTED_EVER) {
        say(Degraded, format!("{count} uncorrectable memory errors in its life"));
    }
    match reading.retired_pages {
        Some(count @ RETIRED_FAILED..) => say(Failed, format!("{count} retired pages: to be replaced")),
        Some(count @ RETIRED_DEGRADED..) => say(Degraded, format!("{count} retired pages")),
        _ => {}
    }
    if reading.retiring == Some(true) {
        say(Failed, "pages wait to be retired: reset it".to_owned());
    }
    if reading.ecc == Some(false) {
        say(Degraded, "ECC is off".to_owned());
    }
    for xid in reading.xids.iter().filter(|xid| !XIDS_OF_PROGRAMS.contains(xid)) {
        match XIDS_FAILED.iter().find(|(known, _)| known == xid) {
            Some((_, words)) => say(Failed, format!("XID {xid}: {words}")),
            None => say(Degraded, format!("XID {xid}")),
        }
    }
    // On the host all links are up once the fabric is; partitions with fewer exist only for guests.
    if let Some((up, all)) = reading.links.filter(|(up, all)| up < all) {
        say(Degraded, format!("{up} of {all} NVLinks are up"));
    }
    // A GPU with ECC tells at least how its memory is: one that tells nothing is not called healthy.
    let told = reading.uncorrected_now.is_some() || reading.uncorrected.is_some();
    let worst = [Failed, Degraded].into_iter().find(|state| said.iter().any(|(s, _)| s == state));
    let state = worst.unwrap_or(if told { Healthy } else { Unknown });
    let mut reasons: Vec<String> = said.into_iter().map(|(_, text)| text).collect();
    if state == Unknown {
        reasons.push("it does not count memory errors".to_owned());
    }
    let health = v1::Health {
        state: state.into(),
        source: source.to_owned(),
        reason: reasons.join("; "),
        ecc_corrected: reading.corrected,
        ecc_uncorrected: reading.uncorrected,
        retired_pages: reading.retired_pages,
        xids: reading.xids,
        links_up: reading.links.map(|(up, _)| up),
        links: reading.links.map(|(_, all)| all),
        temperature_c: reading.temperature_c,
        at: None,
    };
    Found { health, firmware: reading.firmware }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::EdgeError;
    use holm_proto::v1::DeviceKind::{Gpu, Nvswitch};
    use holm_proto::v1::HealthState::{self, Degraded, Failed, Healthy, Unknown};
    use std::cell::Cell;
    use std::collections::BTreeMap;

    struct Told(BTreeMap<PciAddress, Reading>);

    impl Source for Told {
        fn name(&self) -> &str {
            "nvml 535.183.01"
        }

        fn read(&self, gpu: PciAddress) -> Result<Reading> {
            self.0.get(&gpu).cloned().ok_or_else(|| EdgeError::new("the GPU is lost"))
        }
    }

    fn well() -> Reading {
        Reading {
            ecc: Some(true),
            corrected: Some(3),
            uncorrected_now: Some(0),
            uncorrected: Some(0),
            retired_pages: Some(0),
            retiring: Some(false),
            links: Some((6, 6)),
            firmware: "88.00.42.00.01".to_owned(),
            ..Default::default()
        }
    }

    fn judged(reading: Reading) -> (HealthState, String) {
        let found = judge("nvml 535.183.01", reading).health;
        (found.state(), found.reason)
    }

    #[test]
    fn what_each_finding_means() {
        assert_eq!(judged(well()), (Healthy, String::new()));
        type Spoil = fn(&mut Reading);
        let findings: [(Spoil, HealthState, &str); 12] = [
            (|r| r.uncorrected_now = Some(1), Failed, "1 uncorrectable memory errors since"),
            (|r| r.uncorrected = Some(2), Degraded, "2 uncorrectable memory errors in its life"),
            (|r| r.retired_pages = Some(14), Healthy, ""),
            (|r| r.retired_pages = Some(15), Degraded, "15 retired pages"),
            (|r| r.retired_pages = Some(60), Failed, "60 retired pages: to be replaced"),
            (|r| r.retiring = Some(true), Failed, "pages wait to be retired"),
            (|r| r.ecc = Some(false), Degraded, "ECC is off"),
            (|r| r.xids = vec![31, 43], Healthy, ""),
            (|r| r.xids = vec![74], Degraded, "XID 74"),
            (|r| r.xids = vec![79], Failed, "XID 79: fallen off the bus"),
            (|r| r.links = Some((5, 6)), Degraded, "5 of 6 NVLinks are up"),
            (|r| r.links = Some((0, 6)), Degraded, "0 of 6 NVLinks are up"),
        ];
        for (spoil, state, reason) in findings {
            let mut reading = well();
            spoil(&mut reading);
            let (found, said) = judged(reading.clone());
            assert_eq!(found, state, "{reading:?}");
            assert!(said.starts_with(reason), "{said}");
        }
    }

    #[test]
    fn the_worst_decides_and_all_is_said() {
        let reading = Reading { retired_pages: Some(20), xids: vec![48], links: Some((4, 6)), ..well() };
        let (state, reason) = judged(reading);
        assert_eq!(state, Failed);
        assert_eq!(reason, "20 retired pages; XID 48: double-bit ECC error; 4 of 6 NVLinks are up");
    }

    #[test]
    fn one_that_tells_nothing_is_not_healthy() {
        let (state, reason) = judged(Reading::default());
        assert_eq!((state, reason.as_str()), (Unknown, "it does not count memory errors"));
        assert_eq!(judged(Reading { xids: vec![79], ..Reading::default() }).0, Failed);
    }

    #[test]
    fn only_what_is_on_the_driver_is_asked_about_and_unknown_says_why() {
        let at = |text: &str| text.parse::<PciAddress>().unwrap();
        let devices = [
            (at("0000:34:00.0"), Gpu, "nvidia"),
            (at("0000:36:00.0"), Gpu, "vfio-pci"),
            (at("0000:39:00.0"), Gpu, "nvidia"),
            (at("0000:3b:00.0"), Gpu, ""),
            (at("0000:61:00.0"), Nvswitch, "nvidia-nvswitch"),
        ];
        let found = look(&devices, &|| Ok(Box::new(Told([(at("0000:34:00.0"), well())].into()))));
        let said: Vec<(HealthState, &str)> =
            found.iter().map(|found| (found.health.state(), found.health.source.as_str())).collect();
        assert_eq!(
            said,
            [
                (Healthy, "nvml 535.183.01"),
                (Unknown, "on `vfio-pci`: NVML does not see it"),
                (Unknown, "nvml 535.183.01: the GPU is lost"),
                (Unknown, "on no driver: NVML does not see it"),
                (Unknown, "nothing here tells of NVSwitches"),
            ]
        );
        assert_eq!(found[0].firmware, "88.00.42.00.01");
        let found = look(&devices[..1], &|| Err(EdgeError::new("NVML cannot be loaded")));
        assert_eq!(
            (found[0].health.state(), found[0].health.source.as_str()),
            (Unknown, "NVML cannot be loaded")
        );
        let opened = Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            Err(EdgeError::new("no"))
        };
        look(&devices[1..2], &open);
        look(&devices[4..], &open);
        assert_eq!(opened.get(), 0, "a library was loaded to learn nothing");
    }
}
