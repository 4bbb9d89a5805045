//! The real host: sysfs, VFIO, `qemu-img`, libvirt. It decides nothing; each method is one subject's module.

use crate::{
    commission,
    config::{FabricModel, HostConfig},
    edge::{
        Anew, Backup, DomainSpec, DomainStatus, EdgeError, GuestEvent, Host, Image, Key, Keys, Made, Rekeyed,
        Result, Room, Seed, VolumeKind, VolumeState, Watch,
    },
    fabric::{self, Fabric},
    guest::{self, Channels, Seeds},
    handover::{Handover, Hands},
    hypervisor::{Libvirt, Machine, Opened, Parts, ScrubSpec},
    images::Images,
    inventory::{
        self, ground,
        sysfs::{PciFunction, Sysfs},
    },
    sanitise::{Ground, Sanitisers},
    storage::{self, Grown, Volumes, backup::Backups},
    vfio,
};
use holm_proto::{
    ids::{BackupId, PciAddress, RunId, SliceId, VolumeId},
    v1,
};
use std::{
    any::Any,
    collections::BTreeSet,
    fs::DirBuilder,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// This machine.
#[derive(Debug)]
pub struct RealHost {
    config: HostConfig,
    sysfs: Sysfs,
    volumes: Volumes,
    backups: Option<Backups>,
    images: Images,
    seeds: Seeds,
    channels: Channels,
    libvirt: Libvirt,
    sanitisers: Sanitisers,
    scrubs: Arc<Scrubs>,
    in_hand: Arc<Mutex<BTreeSet<PciAddress>>>,
    fabric: Arc<dyn Fabric>,
    handover: Handover<OverVfio>,
}

impl RealHost {
    /// Closes the disks that no machine uses: of one that ended by itself, never started, or was destroyed while
    /// something still looked at its disk. Each look does it again, so what stays open holds up nothing else.
    fn close_idle(&self) {
        if let Err(error) = self.volumes.close_idle() {
            tracing::error!("a volume that nothing uses stays open: {}", error.chain());
        }
    }

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
            &config.fabric.record,
            &config.guest.images,
        ];
        if let Some(path) = paths
            .into_iter()
            .chain(&config.guest.library)
            .find(|path| !path.is_absolute() || path.to_str().is_none())
        {
            return Err(EdgeError::new(format!("`{}` is no absolute path in UTF-8", path.display())));
        }
        let (fabric, sysfs) = (fabric::of(&config)?, Sysfs::new(&config.sysfs));
        let libvirt = Libvirt::new(config.libvirt.clone(), config.machines.clone());
        let scrubs =
            Arc::new(Scrubs { libvirt: libvirt.clone(), sysfs: sysfs.clone(), ours: Mutex::default() });
        Ok(Self {
            handover: Handover::new(
                Arc::clone(&fabric),
                fabric::table(&config.platform)?,
                config.devices.physical_ids.clone(),
                OverVfio { sysfs: sysfs.clone() },
            ),
            sanitisers: Sanitisers::new(&config, &sysfs, Arc::clone(&scrubs) as _),
            scrubs,
            sysfs,
            volumes: Volumes::new(config.storage.clone())?,
            backups: config.backup.clone().map(|to| Backups::new(to, config.storage.clone())).transpose()?,
            images: Images::new(config.guest.images.clone()),
            seeds: Seeds::new(config.slices.clone(), config.devices.gpus.clone()),
            channels: Channels::new(config.guest_sockets.clone()),
            libvirt,
            in_hand: Arc::default(),
            fabric,
            config,
        })
    }

    /// The store, where no machine of the backup's slice runs.
    fn store(&self, backup: &Backup) -> Result<&Backups> {
        if self.libvirt.machines()?.iter().any(|machine| machine.slice == backup.slice && machine.running) {
            return Err(EdgeError::new("its machine runs: what is copied must not change meanwhile"));
        }
        self.any_store()
    }

    fn any_store(&self) -> Result<&Backups> {
        self.backups.as_ref().ok_or_else(|| {
            EdgeError::new("this host has no place for backups: an operator names one in `[host.backup]`")
        })
    }

    /// Opens the disks of a machine. Its scratch disk is made here: its key is nowhere else, and gone with this call.
    fn open(&self, spec: &DomainSpec, keys: &Keys) -> Result<(Vec<Opened>, Vec<storage::Hand>)> {
        // Of an earlier start that was given up and went through after all: its disks are in use.
        let runs = self.libvirt.machines()?.iter().any(|m| m.slice == spec.slice && m.running);
        let others =
            spec.others.iter().filter(|_| !runs).map(|other| (other.volume, other.kind, other.size_gib));
        let (mut all, mut hands) = (Vec::new(), Vec::new());
        for (volume, kind, size_gib) in std::iter::once((spec.volume, VolumeKind::Root, 0)).chain(others) {
            let fresh;
            let key = match kind {
                VolumeKind::Scratch => {
                    self.volumes.erase(volume)?;
                    fresh = storage::random_key()?;
                    self.volumes.create(volume, kind, size_gib, &fresh)?;
                    &fresh
                }
                VolumeKind::Root | VolumeKind::Data => keys
                    .get(&volume)
                    .ok_or_else(|| EdgeError::new(format!("the key of volume `{volume}` is not here")))?,
            };
            let (disk, hand) = self.volumes.open(volume, key)?;
            hands.push(hand);
            let passphrase = matches!(disk, storage::Disk::File(_)).then(|| storage::passphrase(key));
            all.push(Opened { volume, kind, disk, passphrase });
        }
        Ok((all, hands))
    }

    /// A GPU of a partition that is up is kept from resets on purpose: it lacks nothing.
    fn with_resets(&self, mut inventory: v1::Inventory) -> v1::Inventory {
        let quiet: BTreeSet<String> = self.handover.quiet().iter().map(ToString::to_string).collect();
        for device in inventory.devices.iter_mut().filter(|device| quiet.contains(&device.address)) {
            device.reset_methods.push("none while its partition is up".to_owned());
        }
        inventory
    }

    /// What sysfs does not say. A GPU that is pulled out while a machine has it stays on the bus until the machine
    /// lets go of it, and vfio-pci has let go of it already.
    fn completed(&self, mut inventory: v1::Inventory) -> v1::Inventory {
        inventory.volumes_gib = self.volumes.promises_gib();
        inventory.backups = Host::backups(self).to_owned();
        let loose = |device: &&mut v1::PciDevice| {
            device.kind() == v1::DeviceKind::Gpu && device.driver != vfio::DRIVER && device.problem.is_empty()
        };
        let mut loose: Vec<&mut v1::PciDevice> = inventory.devices.iter_mut().filter(loose).collect();
        if !loose.is_empty() {
            // Where libvirt does not answer, what it would say is seen at the next look.
            let held = running(self.libvirt.machines().unwrap_or_default());
            let held: BTreeSet<String> = held.iter().map(ToString::to_string).collect();
            for device in loose.iter_mut().filter(|device| held.contains(&device.address)) {
                device.problem = "it is being pulled out of a machine that runs".to_owned();
            }
        }
        inventory
    }
}

impl Host for RealHost {
    fn platform(&self) -> &str {
        &self.config.platform
    }

    fn simulated(&self) -> bool {
        false
    }

    fn begin(&self) -> Result<()> {
        self.fabric.watch();
        for error in self.handover.begin() {
            // It is in the inventory as well, where the device is found without a way to reset it.
            tracing::error!("a device is not as it should be: {}", error.chain());
        }
        Ok(())
    }

    fn inventory(&self) -> Result<v1::Inventory> {
        let inventory = inventory::read_with(&self.sysfs, &self.config.devices, &self.handover.quiet())?;
        Ok(self.completed(inventory))
    }

    fn inventory_now(&self) -> Result<v1::Inventory> {
        let inventory = inventory::read_now(&self.sysfs, &self.config.devices, &self.handover.quiet())?;
        Ok(self.completed(inventory))
    }

    fn commission(&self) -> v1::Commissioning {
        let fabric = || -> commission::Fabric {
            let driven = self.config.fabric.model != FabricModel::None;
            driven.then(|| {
                let compared = fabric::table(&self.config.platform).and_then(|table| {
                    Ok(fabric::compare(table, &self.fabric.partitions()?, &self.config.devices.physical_ids))
                });
                compared.map_err(|error| error.chain())
            })
        };
        commission::report(&commission::Facts::read(
            Path::new("/"),
            &self.config.sysfs,
            self.config.commission.clone(),
            self.inventory().map(|inventory| self.with_resets(inventory)).map_err(|error| error.chain()),
            self.libvirt.qemu_version().map_err(|error| error.chain()),
            fabric(),
        ))
    }

    fn attached(&self) -> Result<BTreeSet<PciAddress>> {
        let (machines, scrubs) = self.libvirt.machines_and_scrubs()?;
        // Of an agent that was killed: it holds devices that nobody waits for.
        for stray in self.scrubs.strays(scrubs) {
            tracing::warn!(run = %stray, "a scrubbing machine was left behind: ended");
            self.libvirt.end_scrub(stray)?;
        }
        // Of a machine that ended by itself, or was destroyed while something still looked at its disk.
        self.close_idle();
        let mut attached = running(machines);
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

    fn sanitise(&self, run: RunId, devices: &[PciAddress]) -> Result<Vec<v1::Evidence>> {
        make_passable(&self.config.guest_sockets)?;
        let hold = Arc::new(Hold::take(&self.in_hand, devices)?);
        let _ours = self.scrubs.ours(run);
        Ok(self.sanitisers.sanitise(run, devices, &hold))
    }

    fn activate_partition(&self, partition: u32) -> Result<()> {
        let _hold = Hold::take(&self.in_hand, &self.handover.devices(partition)?)?;
        self.handover.activate(partition)
    }

    fn deactivate_partition(&self, partition: u32) -> Result<()> {
        let _hold = Hold::take(&self.in_hand, &self.handover.devices(partition)?)?;
        self.handover.deactivate(partition)
    }

    fn active_partitions(&self) -> Result<BTreeSet<u32>> {
        self.fabric.active()
    }

    fn restore_partitions(&self, active: &BTreeSet<u32>) -> Result<()> {
        self.fabric.restore(active)
    }

    fn volume(&self, volume: VolumeId) -> Result<VolumeState> {
        self.volumes.state(volume)
    }

    fn create_volume(&self, volume: VolumeId, kind: VolumeKind, size_gib: u64, key: &Key) -> Result<()> {
        self.volumes.create(volume, kind, size_gib, key)
    }

    fn image(&self) -> Image {
        Image {
            base: self.config.storage.base_image.clone(),
            format: self.config.storage.base_format,
            kernel: self.config.guest.kernel.clone(),
            initrd: self.config.guest.initrd.clone(),
        }
    }

    fn image_of(&self, id: &str) -> Image {
        if id.is_empty() { self.image() } else { self.images.image(id) }
    }

    fn images(&self) -> Result<Vec<String>> {
        self.images.list()
    }

    fn create_root(&self, volume: VolumeId, size_gib: u64, key: &Key, over: &Image) -> Result<()> {
        self.images.check(over)?;
        self.volumes.create_over(volume, VolumeKind::Root, size_gib, key, Some((&over.base, over.format)))
    }

    fn grow_volume(
        &self,
        slice: SliceId,
        volume: VolumeId,
        kind: VolumeKind,
        size_gib: u64,
        key: &Key,
    ) -> Result<()> {
        if self.volumes.grow(volume, size_gib, key)? == Grown::TellMachine {
            self.libvirt.grow(slice, kind, size_gib)?;
        }
        // A guest that does not listen makes its file systems larger when it boots.
        self.channels.ask_to_grow(slice).map(drop)
    }

    fn change_key(&self, volume: VolumeId, old: &Key, new: &Key) -> Result<Rekeyed> {
        self.volumes.change_passphrase(volume, old, new)
    }

    fn erase_volume(&self, volume: VolumeId) -> Result<v1::VolumeEvidence> {
        self.volumes.erase(volume)
    }

    fn forget_volume(&self, volume: VolumeId) -> Result<()> {
        self.volumes.forget(volume)
    }

    fn room(&self) -> Result<Option<Room>> {
        self.volumes.room()
    }
    fn backups(&self) -> &'static str {
        self.backups.as_ref().map_or("", Backups::place)
    }

    fn back_up(&self, backup: &Backup, watch: &dyn Watch) -> Result<Made> {
        self.volumes.back_up(self.store(backup)?, backup, watch)
    }

    fn restore_backup(&self, backup: &Backup, watch: &dyn Watch) -> Result<u64> {
        self.volumes.restore(self.store(backup)?, backup, watch)
    }

    fn drill_backup(&self, backup: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<(&'static str, u64)> {
        self.volumes.drill(self.store(backup)?, backup, keys, watch)
    }

    fn encrypt_anew(&self, of: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<Anew> {
        self.volumes.encrypt_anew(of, keys, watch)
    }

    fn clear_staged(&self) {
        self.volumes.clear_staged();
    }

    fn remove_backup(&self, backup: BackupId) -> Result<()> {
        self.any_store()?.remove(backup)
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
            .map(|machine| DomainStatus {
                slice: machine.slice,
                running: machine.running,
                paused: machine.paused,
                devices: machine.devices.into_iter().collect(),
            })
            .collect())
    }

    fn start_domain(&self, spec: &DomainSpec, keys: &Keys) -> Result<()> {
        make_passable(&self.config.guest_sockets)?;
        let hold = Hold::take(&self.in_hand, &spec.devices)?;
        self.handover.check_start(&spec.devices)?;
        let guest = &self.config.guest;
        let image = spec.image.clone().unwrap_or_else(|| self.image());
        if let Some(gone) =
            [&image.base, &image.kernel, &image.initrd].into_iter().find(|path| !path.exists())
        {
            return Err(EdgeError::new(format!(
                "`{}` is not there, which the slice was made with: put it back, or stop the slice and start it with \
                 `--rebuild`",
                gone.display()
            )));
        }
        if let Some(gone) = guest.library.as_ref().filter(|path| !path.is_file()) {
            let text = format!("`{}` is not there, which `library` in [host.guest] names", gone.display());
            return Err(EdgeError::new(text));
        }
        self.images.check(&image)?;
        let cmdline = self.images.cmdline(&image)?;
        let kernel = self.seeds.own_copy(spec.slice, &image.kernel, "vmlinuz")?;
        let initrd = self.seeds.own_copy(spec.slice, &image.initrd, "initrd.img")?;
        let ground = ground::read(&self.sysfs, &spec.devices)?;
        // Out of hand again where one of them does not open.
        let (opened, hands) = self.open(spec, keys).inspect_err(|_| self.close_idle())?;
        let parts = Parts {
            guest,
            library: guest.library.as_deref(),
            cmdline: cmdline.as_deref().unwrap_or(&guest.cmdline),
            kernel: &kernel,
            initrd: &initrd,
            volumes: &opened,
            discard: self.config.storage.discard,
            base: &image.base,
            base_format: image.format,
            seed: &self.seeds.path(spec.slice),
            channel: &self.channels.path(spec.slice),
        };
        let started = self.libvirt.start(spec, &ground, &parts, (hold, hands));
        if started.is_err() {
            self.close_idle();
        }
        started
    }

    fn take_back_keys(&self, slice: SliceId) -> Result<()> {
        self.libvirt.take_back_keys(slice)
    }

    fn resume_domain(&self, slice: SliceId) -> Result<()> {
        self.libvirt.resume(slice)
    }

    fn destroy_domain(&self, slice: SliceId, grace: Duration) -> Result<()> {
        // Whatever becomes of the asking, the machine ends.
        if !grace.is_zero() {
            let asked = self.channels.ask_to_stop(slice);
            match asked.and_then(|asked| Ok(!asked || self.libvirt.wait(slice, grace)?)) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(%slice, "its guest did not stop within {} s", grace.as_secs()),
                Err(error) => tracing::warn!(%slice, error = error.chain(), "its guest is not asked to stop"),
            }
        }
        self.libvirt.destroy(slice)?;
        self.close_idle();
        self.channels.forget(slice)
    }

    fn guest_events(&self, slice: SliceId) -> Result<Vec<GuestEvent>> {
        self.channels.events(slice)
    }

    fn acknowledge_guest(&self, slice: SliceId, boot: &str, seq: u64) -> Result<()> {
        // One that was not told says it again.
        self.channels.acknowledge(slice, boot, seq).map(drop)
    }

    fn tell_guest_people(&self, slice: SliceId, users: &[v1::GuestUser]) -> Result<()> {
        // Until it says so it is told again.
        self.channels.tell_people(slice, users).map(drop)
    }

    fn tell_guest_scheduler(&self, slice: SliceId, scheduler: &v1::GuestScheduler) -> Result<()> {
        self.channels.tell_scheduler(slice, scheduler).map(drop)
    }

    fn connect_ssh(&self, slice: SliceId) -> Result<OwnedFd> {
        let machine = self.libvirt.machines()?.into_iter().find(|machine| machine.slice == slice);
        let cid = machine
            .and_then(|machine| machine.cid)
            .ok_or_else(|| EdgeError::new(format!("the machine of slice `{slice}` does not run")))?;
        guest::connect(slice, cid)
    }
}

/// What handing over does to devices, through VFIO.
#[derive(Debug)]
struct OverVfio {
    sysfs: Sysfs,
}

impl OverVfio {
    fn function(&self, device: PciAddress) -> Result<PciFunction> {
        let function = self.sysfs.function(device)?;
        function.ok_or_else(|| EdgeError::new(format!("there is no device at `{device}`")))
    }
}

impl Hands for OverVfio {
    fn viable(&self, device: PciAddress) -> Result<()> {
        vfio::bind(&self.sysfs, device)
    }

    fn reset(&self, device: PciAddress) -> Result<()> {
        vfio::Device::open(&self.sysfs, &self.function(device)?)?.reset()
    }

    fn is_quiet(&self, device: PciAddress) -> Result<bool> {
        vfio::are_suppressed(&self.sysfs, device)
    }

    fn quieten(&self, device: PciAddress) -> Result<()> {
        vfio::suppress(&self.sysfs, device)
    }

    fn allow_resets(&self, device: PciAddress) -> Result<()> {
        vfio::allow(&self.sysfs, device)
    }

    fn is_held(&self, device: PciAddress) -> Result<bool> {
        vfio::still_held(&self.function(device)?)
    }
}

/// The scrubbing machines of this process.
#[derive(Debug)]
struct Scrubs {
    libvirt: Libvirt,
    sysfs: Sysfs,
    ours: Mutex<BTreeSet<RunId>>,
}

impl Scrubs {
    /// Until it is dropped, the machine of this run is no stray.
    fn ours(self: &Arc<Self>, run: RunId) -> Ours {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
        Ours { scrubs: Arc::clone(self), run }
    }

    fn strays(&self, seen: Vec<RunId>) -> Vec<RunId> {
        let ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        seen.into_iter().filter(|run| !ours.contains(run)).collect()
    }
}

#[derive(Debug)]
struct Ours {
    scrubs: Arc<Scrubs>,
    run: RunId,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.scrubs.ours.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
    }
}

impl Ground for Scrubs {
    fn start(&self, spec: &ScrubSpec, hold: Arc<dyn Any + Send + Sync>) -> Result<()> {
        self.libvirt.start_scrub(spec, hold)
    }

    fn end(&self, run: RunId) -> Result<()> {
        self.libvirt.end_scrub(run)
    }

    fn let_go(&self, device: PciAddress) -> Result<()> {
        let gone = || EdgeError::new(format!("there is no device at `{device}` any more"));
        let function = self.sysfs.function(device)?.ok_or_else(gone)?;
        // Opening it shows that nothing has its group.
        vfio::Device::open(&self.sysfs, &function)?.reset()?;
        match vfio::still_held(&function)? {
            false => Ok(()),
            true => Err(EdgeError::new(format!("something holds `{device}`"))),
        }
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

/// What machines that run have.
fn running(machines: Vec<Machine>) -> BTreeSet<PciAddress> {
    machines.into_iter().filter(|machine| machine.running).flat_map(|machine| machine.devices).collect()
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

    /// One whole life on a real host, such as the virtual DGX-2: `HOLM_CONFIG` names the agent's configuration,
    /// `HOLM_GPUS` the GPUs, `HOLM_SHARE` a processor of node 0 that the machine is to have for itself.
    #[test]
    #[ignore = "it wants a host with devices, libvirt and a guest image"]
    fn a_machine_lives_and_ends_on_this_host() {
        use crate::{config::Config, edge::OtherVolume};
        use std::time::Instant;
        let variable = |name: &str| std::env::var(name).ok();
        let config = Config::load(Path::new(&variable("HOLM_CONFIG").unwrap())).unwrap().host.unwrap();
        let host = RealHost::new(config).unwrap();
        let devices: Vec<PciAddress> =
            variable("HOLM_GPUS").unwrap().split(' ').map(|text| text.parse().unwrap()).collect();
        let slice: SliceId = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        let volume: VolumeId = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap();
        let data: VolumeId = "6f9619ff-8b86-4d01-b42d-00cf4fc964f1".parse().unwrap();
        let scratch: VolumeId = "6f9619ff-8b86-4d01-b42d-00cf4fc964f2".parse().unwrap();
        let key = || Key::new(Box::new([7; 32]));
        let keys = Keys::from([(volume, key()), (data, key())]);
        let share = variable("HOLM_SHARE").map(|cpu| crate::edge::NumaShare {
            node: 0,
            cpus: vec![cpu.parse().unwrap()],
            memory_mib: 1024,
        });
        let spec = DomainSpec {
            slice,
            level_name: "test".to_owned(),
            vcpus: 1,
            memory_mib: 1024,
            volume,
            others: vec![
                OtherVolume { volume: data, kind: VolumeKind::Data, size_gib: 1, used: false },
                OtherVolume { volume: scratch, kind: VolumeKind::Scratch, size_gib: 1, used: false },
            ],
            nodes: share.into_iter().collect(),
            image: None,
            devices: devices.clone(),
        };
        let seed = Seed {
            slice,
            project: "test".to_owned(),
            level: "3".to_owned(),
            level_name: "test".to_owned(),
            gpus: u32::try_from(devices.len()).unwrap(),
            users: Vec::new(),
            others: spec.others.clone(),
            scheduler: None,
            ssh_ca: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJQzSd2F4DPi1bWeTkVGt8mHnWJl1sCcqcPl1jeIHoq holm"
                .to_owned(),
            terminal_only: false,
            ssh_terminal_ca: String::new(),
            ssh_recorded_ca: String::new(),
        };
        let began = Instant::now();
        let after = |what: &str| println!("{:6.1} s  {what}", began.elapsed().as_secs_f64());
        host.destroy_domain(slice, Duration::ZERO).unwrap();
        for volume in [volume, data, scratch] {
            host.erase_volume(volume).unwrap();
            host.forget_volume(volume).unwrap();
        }
        devices.iter().for_each(|device| host.bind(*device).unwrap());
        host.create_volume(volume, VolumeKind::Root, 4, &key()).unwrap();
        host.create_volume(data, VolumeKind::Data, 1, &key()).unwrap();
        host.write_seed(&seed).unwrap();
        after("prepared");
        host.start_domain(&spec, &keys).unwrap();
        after("started");
        let end = Instant::now() + Duration::from_secs(600);
        let guest = loop {
            assert!(Instant::now() < end, "the guest is not ready");
            let events = host.guest_events(slice).unwrap();
            assert!(!events.iter().any(|event| matches!(event, GuestEvent::Failed(_))), "{events:?}");
            if let Some(GuestEvent::Ready(guest)) =
                events.into_iter().find(|event| matches!(event, GuestEvent::Ready(_)))
            {
                break guest;
            }
            host.libvirt.wait(slice, Duration::from_millis(200)).unwrap();
        };
        after("ready");
        assert_eq!(guest.gpus, seed.gpus);
        if let Some(command) = variable("HOLM_THEN") {
            std::process::Command::new("sh").args(["-c", &command]).status().unwrap();
        }
        host.destroy_domain(slice, Duration::from_secs(120)).unwrap();
        after("stopped");
        let evidence = host.erase_volume(volume).unwrap();
        after(&format!("{evidence:?}"));
        assert!(evidence.erased && evidence.bytes_overwritten > 0);
        host.forget_volume(volume).unwrap();
        host.remove_seed(slice).unwrap();
        assert!(host.domains().unwrap().is_empty() && host.attached().unwrap().is_empty());
    }

    #[test]
    fn a_machine_of_ours_is_no_stray() {
        let config = crate::config::LibvirtConfig { uri: "test:///default".to_owned() };
        let scrubs = Arc::new(Scrubs {
            libvirt: Libvirt::new(config, crate::config::MachinesConfig::default()),
            sysfs: Sysfs::new("/sys"),
            ours: Mutex::default(),
        });
        let run: RunId = "b4c0a5a0-0000-4000-8000-000000000001".parse().unwrap();
        let ours = scrubs.ours(run);
        assert_eq!(scrubs.strays(vec![run]), []);
        drop(ours);
        assert_eq!(scrubs.strays(vec![run]), [run]);
    }

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

    /// The order of things on a kernel with VFIO, over the stand-in for Fabric Manager. On the virtual DGX-2:
    /// `HOLM_VFIO_GPU=1af4:1110 target/debug/deps/holm_agent-… --ignored handed_over_for_real --nocapture`
    #[test]
    #[ignore = "needs root and GPUs that nobody uses, of the kind that HOLM_VFIO_GPU says"]
    fn handed_over_for_real() {
        use crate::fabric::{Nvfm, nvfm::tests::World};
        use holm_proto::platform::PartitionTable;
        let kind = std::env::var("HOLM_VFIO_GPU").unwrap();
        let sysfs = Sysfs::new("/sys");
        let gpus = sysfs.functions().unwrap().into_iter().filter(|function| function.id == kind);
        let numbers: std::collections::BTreeMap<PciAddress, u32> =
            gpus.map(|gpu| gpu.address).zip(1..).collect();
        let world = World::new();
        let fabric = Arc::new(Nvfm::new(world.config()).unwrap());
        let over = || OverVfio { sysfs: sysfs.clone() };
        let handover = Handover::new(fabric, PartitionTable::dgx2(), numbers, over());
        let methods = |device| sysfs.function(device).unwrap().unwrap().reset_methods;
        let devices = handover.devices(9).unwrap();
        for device in &devices {
            println!("{device}: {:?}", methods(*device));
        }
        for _ in 0..2 {
            let began = std::time::Instant::now();
            handover.activate(9).unwrap();
            println!("up after {:?}", began.elapsed());
            handover.check_start(&devices).unwrap();
            assert!(devices.iter().all(|device| methods(*device).is_empty()));
        }
        // Quiet, it is reset by nothing but its bus: what it reaches is asked of the kernel.
        let function = sysfs.function(devices[0]).unwrap().unwrap();
        let device = vfio::Device::open(&sysfs, &function).unwrap();
        assert!(over().is_held(devices[0]).unwrap());
        assert!(handover.deactivate(9).unwrap_err().chain().contains("still holds"));
        device.reset().unwrap();
        device.enable_memory().unwrap();
        for bar in function.memory_bars() {
            println!("BAR {}: {} bytes mapped", bar.index, device.map(bar, 0).map(|_| bar.bytes).unwrap());
        }
        drop(device);
        handover.deactivate(9).unwrap();
        assert!(devices.iter().all(|device| !methods(*device).is_empty()));
        println!("{}", world.trace().join("\n"));
    }
}
