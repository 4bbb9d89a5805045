//! Cleaning a device's memory between two owners.
//!
//! ```text
//!   kind of device ─▶ method           who does it
//!                     bar              this process, through VFIO                         bar
//!                     scrub-vm/bar     holm-scrub in a machine of its own, the same way   scrub_vm
//!                     scrub-vm/cuda    holm-scrub there, through NVIDIA's driver          scrub_vm
//!                     none said        nobody: it is not clean
//! ```
//!
//! A VFIO reset does not clear device memory; these do, and say what they saw. Whatever goes wrong, the
//! evidence says `cleaned: false` and why, and the device stays dirty: there is no answer that means
//! "nothing to do".

mod bar;
mod dialogue;
mod image;
mod judge;
mod scrub_vm;

pub use self::{
    bar::Bars,
    scrub_vm::{Ground, ScrubVm},
};

use crate::{
    config::{CleanMethod, HostConfig, ScrubVmConfig},
    edge::Result,
    inventory::sysfs::{PciFunction, Sysfs},
};
use holm_proto::{
    ids::{PciAddress, RunId},
    v1::Evidence,
};
use std::{any::Any, collections::BTreeMap, sync::Arc};

const TOOL: &str = concat!("holm-agent ", env!("CARGO_PKG_VERSION"));

/// Whether the scrubbing machine's image is the configured one, to its last byte.
pub fn check_image(config: &ScrubVmConfig) -> Result<()> {
    image::Image::load(config).map(drop)
}

/// A way to clean devices.
pub trait Sanitiser: Send + Sync {
    /// Cleans the devices of one run. Evidence for each, in any order; of one that is missing there is none. Who
    /// takes the devices where this process cannot take them back keeps `hold` until he has let go.
    fn sanitise(
        &self,
        run: RunId,
        devices: &[PciFunction],
        hold: Arc<dyn Any + Send + Sync>,
    ) -> Vec<Evidence>;
}

/// The ways to clean that a host has, by kind of device.
pub struct Sanitisers {
    config: HostConfig,
    sysfs: Sysfs,
    ways: BTreeMap<CleanMethod, Box<dyn Sanitiser>>,
}

impl Sanitisers {
    /// Those that a configuration names; machines stand on `ground`.
    pub fn new(config: &HostConfig, sysfs: &Sysfs, ground: Arc<dyn Ground>) -> Self {
        let bars = Box::new(Bars { sysfs: sysfs.clone() });
        let mut ways: BTreeMap<CleanMethod, Box<dyn Sanitiser>> =
            BTreeMap::from([(CleanMethod::Bar, bars as _)]);
        if let Some(vm) = &config.sanitise.vm {
            for method in [CleanMethod::VmBar, CleanMethod::VmCuda] {
                ways.insert(method, Box::new(ScrubVm::new(config, vm.clone(), method, Arc::clone(&ground))));
            }
        }
        Self { config: config.clone(), sysfs: sysfs.clone(), ways }
    }

    /// Cleans the devices of one run: evidence for each, in their order.
    pub fn sanitise(
        &self,
        run: RunId,
        devices: &[PciAddress],
        hold: &Arc<impl Any + Send + Sync>,
    ) -> Vec<Evidence> {
        let mut found: BTreeMap<String, Evidence> = BTreeMap::new();
        let mut groups: BTreeMap<CleanMethod, Vec<PciFunction>> = BTreeMap::new();
        for device in devices {
            match self.method(*device) {
                Ok((method, function)) => groups.entry(method).or_default().push(function),
                Err(why) => drop(found.insert(device.to_string(), not_cleaned(*device, "", why))),
            }
        }
        for (method, functions) in groups {
            let hold: Arc<dyn Any + Send + Sync> = hold.clone();
            let all = match self.ways.get(&method) {
                Some(way) => way.sanitise(run, &functions, hold),
                None => Vec::new(),
            };
            found.extend(all.into_iter().map(|evidence| (evidence.address.clone(), evidence)));
        }
        devices
            .iter()
            .map(|device| {
                let evidence = found.remove(&device.to_string());
                let mut evidence =
                    evidence.unwrap_or_else(|| not_cleaned(*device, "", "nothing was said of it".to_owned()));
                evidence.run_id = run.to_string();
                evidence
            })
            .collect()
    }

    /// How a device is cleaned, or why it cannot be.
    fn method(&self, device: PciAddress) -> std::result::Result<(CleanMethod, PciFunction), String> {
        let function = self.sysfs.function(device).map_err(|error| error.chain())?;
        let function = function.ok_or_else(|| format!("there is no device at `{device}`"))?;
        let method = self.config.sanitise.method(&self.config.devices, &function.id).ok_or_else(|| {
            format!(
                "nothing says how a device of the kind {} is cleaned, so `{device}` is not clean: name a method in \
                 `[host.sanitise]`",
                function.id
            )
        })?;
        match self.ways.contains_key(&method) {
            true => Ok((method, function)),
            false => Err(format!(
                "`{device}` is cleaned by `{}`, and there is no scrubbing machine: write `[host.sanitise.vm]`",
                method.as_str()
            )),
        }
    }
}

impl std::fmt::Debug for Sanitisers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sanitisers").field("config", &self.config.sanitise).finish_non_exhaustive()
    }
}

fn not_cleaned(device: PciAddress, method: &str, detail: String) -> Evidence {
    Evidence {
        address: device.to_string(),
        method: method.to_owned(),
        tool: TOOL.to_owned(),
        detail,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{edge, hypervisor::ScrubSpec, inventory::fixture::Machine};

    struct Nowhere;

    impl Ground for Nowhere {
        fn start(&self, _: &ScrubSpec, _: Arc<dyn Any + Send + Sync>) -> edge::Result<()> {
            panic!("nothing is to be started")
        }
        fn end(&self, _: RunId) -> edge::Result<()> {
            panic!("nothing was started")
        }
        fn let_go(&self, _: PciAddress) -> edge::Result<()> {
            panic!("nothing was taken")
        }
    }

    fn clean(machine: &Machine, change: impl FnOnce(&mut HostConfig), address: &str) -> Evidence {
        let mut config: HostConfig = toml::from_str(
            "[devices]\n[storage]\nbase_image = \"/b\"\n[guest]\nkernel = \"/k\"\ninitrd = \"/i\"\ncmdline = \"\"",
        )
        .unwrap();
        config.devices = machine.devices();
        change(&mut config);
        let sanitisers = Sanitisers::new(&config, &machine.sysfs(), Arc::new(Nowhere));
        let run = "b4c0a5a0-0000-4000-8000-000000000001".parse().unwrap();
        let all = sanitisers.sanitise(run, &[address.parse().unwrap()], &Arc::new(()));
        assert_eq!(
            (all.len(), all[0].run_id.as_str(), all[0].address.as_str()),
            (1, &*run.to_string(), address)
        );
        assert!(!all[0].cleaned && !all[0].detail.is_empty() && all[0].tool.starts_with("holm-agent "));
        assert_eq!((all[0].bytes_written, all[0].bytes_verified), (0, 0));
        all[0].clone()
    }

    #[test]
    fn a_kind_of_which_nothing_is_said_is_never_called_clean() {
        let evidence = clean(&Machine::dgx2(), |config| config.devices.memory_in_bar.clear(), "0000:34:00.0");
        assert!(evidence.detail.contains("nothing says how"), "{}", evidence.detail);
    }

    #[test]
    fn a_method_without_its_machine_cleans_nothing() {
        let cuda = |config: &mut HostConfig| {
            let kind = config.devices.gpus[0].clone();
            config.sanitise.methods.insert(kind, CleanMethod::VmCuda);
        };
        let evidence = clean(&Machine::dgx2(), cuda, "0000:34:00.0");
        assert!(evidence.detail.contains("[host.sanitise.vm]"), "{}", evidence.detail);
    }

    #[test]
    fn without_a_memory_bar_there_is_no_nothing_to_do() {
        let machine = Machine::dgx2();
        machine.set("0000:34:00.0", "resource", Some("0x0 0xfff 0x200\n"));
        let evidence = clean(&machine, |_| {}, "0000:34:00.0");
        assert!(evidence.detail.contains("no memory BAR") && evidence.method == "bar", "{}", evidence.detail);
    }

    #[test]
    fn what_cannot_be_reached_is_not_clean() {
        for address in ["0000:34:00.0", "0000:99:00.0"] {
            clean(&Machine::dgx2(), |_| {}, address);
        }
    }
}
