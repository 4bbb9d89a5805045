//! The real host: sysfs, VFIO, `qemu-img`, libvirt. It decides nothing; each method is one subject's module.

use crate::{
    config::HostConfig,
    edge::{DomainSpec, DomainStatus, EdgeError, GuestEvent, Host, Key, Result, Seed, VolumeState},
    fabric,
    guest::{self, Channels, Seeds},
    hypervisor::{Libvirt, Parts},
    inventory::{self, sysfs::Sysfs},
    sanitise,
    storage::Volumes,
    vfio,
};
use holm_proto::{
    ids::{PciAddress, SliceId, VolumeId},
    v1,
};
use std::{
    collections::BTreeSet,
    fs::DirBuilder,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// This machine.
#[derive(Debug)]
pub struct RealHost {
    config: HostConfig,
    sysfs: Sysfs,
    volumes: Volumes,
    seeds: Seeds,
    channels: Channels,
    libvirt: Libvirt,
    in_hand: Arc<Mutex<BTreeSet<PciAddress>>>,
}

impl RealHost {
    /// The machine that the configuration describes. Nothing of it is touched yet.
    pub fn new(config: HostConfig) -> Result<Self> {
        let paths = [
            &config.sysfs,
            &config.guest_sockets,
            &config.slices,
            &config.storage.volumes,
            &config.storage.base_image,
            &config.storage.qemu_img,
            &config.guest.kernel,
            &config.guest.initrd,
        ];
        if let Some(path) = paths.into_iter().find(|path| !path.is_absolute() || path.to_str().is_none()) {
            return Err(EdgeError::new(format!("`{}` is no absolute path in UTF-8", path.display())));
        }
        Ok(Self {
            sysfs: Sysfs::new(&config.sysfs),
            volumes: Volumes::new(config.storage.clone()),
            seeds: Seeds::new(config.slices.clone(), config.devices.gpus.clone()),
            channels: Channels::new(config.guest_sockets.clone()),
            libvirt: Libvirt::new(config.libvirt.clone()),
            in_hand: Arc::default(),
            config,
        })
    }
}

impl Host for RealHost {
    fn platform(&self) -> &str {
        &self.config.platform
    }

    fn simulated(&self) -> bool {
        false
    }

    fn inventory(&self) -> Result<v1::Inventory> {
        inventory::read(&self.sysfs, &self.config.devices)
    }

    fn inventory_now(&self) -> Result<v1::Inventory> {
        inventory::read_now(&self.sysfs, &self.config.devices)
    }

    fn attached(&self) -> Result<BTreeSet<PciAddress>> {
        let machines = self.libvirt.machines()?;
        let mut attached: BTreeSet<PciAddress> = machines
            .into_iter()
            .filter(|machine| machine.running)
            .flat_map(|machine| machine.devices)
            .collect();
        // To look is to open the group for a moment, and whoever opens it in that moment is turned away:
        // what this process is about to open is therefore not looked at, and nothing is begun meanwhile.
        let in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        attached.extend(in_hand.iter().copied());
        for function in self.sysfs.functions()? {
            if inventory::kind(&function, &self.config.devices).is_some()
                && !attached.contains(&function.address)
                && vfio::held(&function)?
            {
                attached.insert(function.address);
            }
        }
        Ok(attached)
    }

    fn bind(&self, device: PciAddress) -> Result<()> {
        let _hold = Hold::take(&self.in_hand, &[device])?;
        vfio::bind(&self.sysfs, device)
    }

    fn sanitise(&self, device: PciAddress) -> Result<v1::Evidence> {
        let _hold = Hold::take(&self.in_hand, &[device])?;
        Ok(sanitise::run(&self.sysfs, &self.config.devices, device))
    }

    fn activate_partition(&self, partition: u32) -> Result<()> {
        fabric::activate(partition)
    }

    fn deactivate_partition(&self, partition: u32) -> Result<()> {
        fabric::deactivate(partition)
    }

    fn volume(&self, volume: VolumeId) -> Result<VolumeState> {
        self.volumes.state(volume)
    }

    fn create_volume(&self, volume: VolumeId, size_gib: u64, key: &Key) -> Result<()> {
        self.volumes.create(volume, size_gib, key)
    }

    fn erase_volume(&self, volume: VolumeId) -> Result<()> {
        self.volumes.erase(volume)
    }

    fn write_seed(&self, seed: &Seed) -> Result<()> {
        self.seeds.write(seed)
    }

    fn remove_seed(&self, slice: SliceId) -> Result<()> {
        self.seeds.remove(slice)
    }

    fn domains(&self) -> Result<Vec<DomainStatus>> {
        let machines = self.libvirt.machines()?;
        Ok(machines
            .into_iter()
            .map(|machine| DomainStatus { slice: machine.slice, running: machine.running })
            .collect())
    }

    fn start_domain(&self, spec: &DomainSpec, key: &Key) -> Result<()> {
        make_passable(&self.config.guest_sockets)?;
        let hold = Hold::take(&self.in_hand, &spec.devices)?;
        let guest = &self.config.guest;
        let parts = Parts {
            guest,
            kernel: &self.seeds.own_copy(spec.slice, &guest.kernel, "vmlinuz")?,
            initrd: &self.seeds.own_copy(spec.slice, &guest.initrd, "initrd.img")?,
            volume: &self.volumes.path(spec.volume),
            base: &self.config.storage.base_image,
            base_format: self.config.storage.base_format,
            seed: &self.seeds.path(spec.slice),
            channel: &self.channels.path(spec.slice),
        };
        self.libvirt.start(spec, &parts, key, hold)
    }

    fn destroy_domain(&self, slice: SliceId) -> Result<()> {
        self.libvirt.destroy(slice)?;
        self.channels.forget(slice)
    }

    fn guest_events(&self, slice: SliceId) -> Result<Vec<GuestEvent>> {
        self.channels.events(slice)
    }

    fn connect_ssh(&self, slice: SliceId) -> Result<OwnedFd> {
        let machine = self.libvirt.machines()?.into_iter().find(|machine| machine.slice == slice);
        let cid = machine
            .and_then(|machine| machine.cid)
            .ok_or_else(|| EdgeError::new(format!("the machine of slice `{slice}` does not run")))?;
        guest::connect(slice, cid)
    }
}

/// Devices that this process is about to open, or has open, until it is dropped.
#[derive(Debug)]
struct Hold {
    in_hand: Arc<Mutex<BTreeSet<PciAddress>>>,
    devices: BTreeSet<PciAddress>,
}

impl Hold {
    fn take(in_hand: &Arc<Mutex<BTreeSet<PciAddress>>>, devices: &[PciAddress]) -> Result<Self> {
        let mut all = in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(busy) = devices.iter().find(|device| all.contains(device)) {
            return Err(EdgeError::new(format!("`{busy}` is being worked on: wait for that to end")));
        }
        all.extend(devices);
        drop(all);
        Ok(Self { in_hand: Arc::clone(in_hand), devices: devices.iter().copied().collect() })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut all = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|device| !self.devices.contains(device));
    }
}

/// Makes a directory through which QEMU may pass and which it may not list.
fn make_passable(directory: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(directory)
        .map_err(|error| EdgeError::because(format!("cannot make `{}`", directory.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_in_one_hand() {
        let in_hand = Arc::default();
        let devices: Vec<PciAddress> =
            ["0000:34:00.0", "0000:36:00.0"].map(|text| text.parse().unwrap()).into();
        let hold = Hold::take(&in_hand, &devices).unwrap();
        assert!(Hold::take(&in_hand, &devices[1..]).is_err());
        drop(hold);
        let _first = Hold::take(&in_hand, &devices[..1]).unwrap();
        // One that is refused takes nothing away from the one that holds.
        assert!(Hold::take(&in_hand, &devices).is_err());
        assert!(Hold::take(&in_hand, &devices[..1]).is_err());
        assert!(Hold::take(&in_hand, &devices[1..]).is_ok());
    }
}
