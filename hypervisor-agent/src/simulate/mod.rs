//! A DGX-2 that is not there: the same decisions as on a real one, and nothing behind them. For tests, load
//! and demos; it says what it is wherever it is shown.
//!
//! Its state lies in a directory, so that a killed agent finds what it would find on a real host: machines
//! that run on, disks half made, device memory that remembers who wrote to it. Its guests answer a connection
//! with an echo: there is no SSH server and no Slurm in them.

mod backup;
mod fabric;
mod faults;
mod guest;
mod machine;
mod topology;

pub use self::{
    faults::{Faults, Guests},
    machine::{Domain, Machine, Volume, Written},
};

use crate::{
    config::{ImageFormat, SimulateConfig},
    edge::{
        Anew, Backup, DomainSpec, DomainStatus, EdgeError, GuestEvent, Host, Image, Key, Keys, Made, Rekeyed,
        Result, Room, Seed, VolumeKind, VolumeState, Watch,
    },
    fabric::Fabric as _,
};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{BASE64, HEXLOWER};
use holm_proto::{
    ids::{BackupId, PciAddress, RunId, SliceId, VolumeId},
    v1,
};
use secrecy::ExposeSecret as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::DirBuilderExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const TOOL: &str = concat!("holm-agent ", env!("CARGO_PKG_VERSION"), ", simulated");
/// What a LUKS header and its key slots take.
const HEADER_BYTES: u64 = 4 << 20;
/// How often a call that hangs looks whether it may go on.
const HANGS: Duration = Duration::from_millis(20);
/// Connections to guests at a time.
const MOST_CONNECTIONS: usize = 256;

/// A simulated machine.
#[derive(Debug)]
pub struct SimulatedHost {
    file: PathBuf,
    config: SimulateConfig,
    faults: Faults,
    machine: Mutex<Machine>,
    /// How full its disks are, as each guest has said to this agent.
    said: Mutex<BTreeMap<SliceId, Vec<v1::DiskUse>>>,
    /// What each guest has said to this agent: like a real one, it says its state again to a new one.
    told: Mutex<BTreeMap<SliceId, Told>>,
    /// What each guest claims for the log.
    claims: Mutex<BTreeMap<SliceId, guest::Claims>>,
    connections: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Boot,
    End,
}

impl SimulatedHost {
    /// The machine whose state lies in `directory`; a new one where there is none.
    pub fn new(directory: &Path, config: SimulateConfig) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| EdgeError::because(format!("cannot make `{}`", directory.display()), error))?;
        let file = directory.join("machine.json");
        Ok(Self {
            machine: Mutex::new(Machine::load(&file)?),
            file,
            config,
            faults: Faults::new(directory),
            said: Mutex::default(),
            told: Mutex::default(),
            claims: Mutex::default(),
            connections: Arc::default(),
        })
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<SliceId, guest::Claims>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine as it is now.
    pub fn machine(&self) -> Machine {
        self.lock().clone()
    }

    /// A call: its faults, its time, its effect, its state saved.
    fn call<T>(
        &self,
        method: &str,
        more_ms: u64,
        effect: impl FnOnce(&mut Machine) -> Result<T>,
    ) -> Result<T> {
        if self.faults.take("fail", method) {
            return Err(EdgeError::new(format!("a simulated fault: `{method}` failed")));
        }
        while self.faults.has("hang", method) {
            pause(HANGS);
        }
        pause(Duration::from_millis(self.config.call_ms + more_ms + self.faults.slow_ms(method)));
        let mut machine = self.lock();
        let mut after = machine.clone();
        let full = self.faults.room_percent() == 100;
        for (slice, domain) in &mut after.domains {
            domain.running &= !self.faults.ends(*slice);
            // Each of them writes all the time.
            domain.paused |= full;
        }
        for gpu in self.faults.devices("used") {
            after.memory.entry(gpu).or_insert(Written { by: None, bytes: 1 });
        }
        let outcome = effect(&mut after);
        if after != *machine {
            after.save(&self.file)?;
            *machine = after;
        }
        drop(machine);
        if outcome.is_ok() && self.faults.take("fail-after", method) {
            return Err(EdgeError::new(format!("a simulated fault: `{method}` failed at its end")));
        }
        outcome
    }

    fn sanitise_one(&self, device: PciAddress) -> Result<v1::Evidence> {
        let started = Instant::now();
        self.call("sanitise", self.config.sanitise_ms, |machine| {
            if !machine.bound.contains(&device) || self.faults.is_absent(device) {
                return Err(EdgeError::new(format!("`{device}` is not on vfio-pci")));
            }
            if machine.holder(device).is_some() || self.faults.is_held(device) {
                return Err(EdgeError::new(format!("something holds `{device}`: stop it first")));
            }
            let total = machine::GPU_MEMORY_BYTES;
            let dirty = machine.memory.remove(&device).map_or(0, |written| written.bytes);
            let left = u64::from(self.faults.is_stuck(device));
            if left > 0 {
                machine.memory.insert(device, Written { by: None, bytes: left });
            }
            Ok(v1::Evidence {
                address: device.to_string(),
                cleaned: left == 0,
                method: "simulated".to_owned(),
                bytes_total: total,
                bytes_written: total,
                bytes_verified: total - left,
                bytes_dirty_before: dirty,
                took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                tool: TOOL.to_owned(),
                detail: match left {
                    0 => String::new(),
                    _ => format!("{left} bytes read back otherwise than they were written"),
                },
                ..Default::default()
            })
        })
    }

    /// A twentieth of each disk is used, unless somebody says otherwise.
    fn disks(&self, slice: SliceId, domain: &Domain) -> Vec<v1::DiskUse> {
        let disk = |(name, gib): (&str, u64)| {
            let used = self.faults.disk_percent(slice, name).unwrap_or(5);
            let left = |all: u64| all / 100 * (100 - used);
            let (bytes, files) = (gib.saturating_mul(1 << 30), gib.saturating_mul(16_384));
            v1::DiskUse {
                name: name.to_owned(),
                bytes,
                free: left(bytes),
                files,
                files_free: files / 100 * 98,
            }
        };
        let others = domain.others.iter().map(|(kind, gib)| match kind {
            VolumeKind::Root => ("root", *gib),
            VolumeKind::Data => ("data", *gib),
            VolumeKind::Scratch => ("scratch", *gib),
        });
        let root = self.lock().volumes.get(&domain.volume).map_or(1, |volume| volume.size_gib);
        std::iter::once(("root", root)).chain(others).map(disk).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for SimulatedHost {
    fn platform(&self) -> &str {
        "dgx-2"
    }

    fn simulated(&self) -> bool {
        true
    }

    fn inventory(&self) -> Result<v1::Inventory> {
        self.call("inventory", 0, |machine| {
            let mut inventory = machine.inventory();
            let absent: BTreeSet<String> =
                self.faults.devices("absent").iter().map(ToString::to_string).collect();
            inventory.devices.retain(|device| !absent.contains(&device.address));
            Ok(inventory)
        })
    }

    fn commission(&self) -> v1::Commissioning {
        crate::commission::simulated()
    }

    fn attached(&self) -> Result<BTreeSet<PciAddress>> {
        self.call("attached", 0, |machine| {
            let strangers: BTreeSet<PciAddress> =
                ["held", "used"].iter().flat_map(|kind| self.faults.devices(kind)).collect();
            let held = |gpu: &PciAddress| machine.holder(*gpu).is_some() || strangers.contains(gpu);
            Ok(machine::gpus().filter(held).collect())
        })
    }

    fn bind(&self, device: PciAddress) -> Result<()> {
        self.call("bind", 0, |machine| {
            if !machine::gpus().any(|gpu| gpu == device) || self.faults.is_absent(device) {
                return Err(EdgeError::new(format!("there is no GPU at `{device}`")));
            }
            if machine.holder(device).is_some() || self.faults.is_held(device) {
                return Err(EdgeError::new(format!("something holds `{device}`: stop it first")));
            }
            machine.bound.insert(device);
            Ok(())
        })
    }

    fn sanitise(&self, _run: RunId, devices: &[PciAddress]) -> Result<Vec<v1::Evidence>> {
        let clean = |device: &PciAddress| {
            self.sanitise_one(*device).unwrap_or_else(|error| v1::Evidence {
                address: device.to_string(),
                detail: error.chain(),
                ..Default::default()
            })
        };
        Ok(devices.iter().map(clean).collect())
    }

    fn activate_partition(&self, partition: u32) -> Result<()> {
        self.activate(partition)
    }

    fn deactivate_partition(&self, partition: u32) -> Result<()> {
        self.deactivate(partition)
    }

    fn active_partitions(&self) -> Result<BTreeSet<u32>> {
        self.active()
    }

    fn restore_partitions(&self, active: &BTreeSet<u32>) -> Result<()> {
        self.restore(active)
    }

    fn volume(&self, volume: VolumeId) -> Result<VolumeState> {
        self.call("volume", 0, |machine| {
            Ok(match machine.volumes.get(&volume) {
                None => VolumeState::Absent,
                Some(Volume { complete: false, .. }) => VolumeState::Partial,
                Some(Volume { complete: true, .. }) => VolumeState::Complete,
            })
        })
    }

    fn create_volume(&self, volume: VolumeId, _: VolumeKind, size_gib: u64, key: &Key) -> Result<()> {
        // A kill from here on leaves half a volume.
        self.call("create_volume", self.config.volume_ms, |machine| {
            match machine.volumes.get(&volume) {
                Some(there) if there.complete => {
                    return Err(EdgeError::new(format!(
                        "volume `{volume}` exists: a volume is never made anew over another"
                    )));
                }
                _ => {}
            }
            let made = Volume { complete: false, size_gib, key: fingerprint(key), data_of: None, written: 0 };
            machine.volumes.insert(volume, made);
            Ok(())
        })?;
        self.call("finish_volume", 0, |machine| {
            if let Some(volume) = machine.volumes.get_mut(&volume) {
                volume.complete = true;
            }
            Ok(())
        })
    }

    fn image(&self) -> Image {
        Image {
            base: "simulated".into(),
            format: ImageFormat::Raw,
            kernel: "simulated".into(),
            initrd: "simulated".into(),
        }
    }

    fn image_of(&self, id: &str) -> Image {
        Image { base: std::path::Path::new("simulated").join(id).join("base.raw"), ..self.image() }
    }

    fn grow_volume(
        &self,
        _: SliceId,
        volume: VolumeId,
        _: VolumeKind,
        size_gib: u64,
        key: &Key,
    ) -> Result<()> {
        self.call("grow_volume", self.config.volume_ms, |machine| {
            let there = complete(machine, volume)?;
            if there.key != fingerprint(key) {
                return Err(EdgeError::new(format!("the key does not open volume `{volume}`")));
            }
            if there.size_gib > size_gib {
                return Err(EdgeError::new(format!(
                    "volume `{volume}` has {} GiB and would have {size_gib}: a volume never becomes smaller",
                    there.size_gib
                )));
            }
            there.size_gib = size_gib;
            Ok(())
        })
    }

    fn change_key(&self, volume: VolumeId, old: &Key, new: &Key) -> Result<Rekeyed> {
        self.call("change_key", self.config.volume_ms, |machine| {
            let there = complete(machine, volume)?;
            if ![fingerprint(old), fingerprint(new)].contains(&there.key) {
                return Err(EdgeError::new(format!("the key does not open volume `{volume}`")));
            }
            there.key = fingerprint(new);
            Ok(Rekeyed::Done)
        })
    }

    fn erase_volume(&self, volume: VolumeId) -> Result<v1::VolumeEvidence> {
        self.call("erase_volume", 0, |machine| {
            if let Some(gone) = machine.volumes.remove(&volume) {
                machine.erased.insert(volume, gone.size_gib);
            }
            let bytes = machine.erased.get(&volume).map(|gib| gib.saturating_mul(1 << 30));
            Ok(v1::VolumeEvidence {
                volume_id: volume.to_string(),
                erased: bytes.is_some(),
                method: "simulated".to_owned(),
                bytes_overwritten: bytes.map_or(0, |_| HEADER_BYTES),
                bytes_discarded: bytes.unwrap_or(0),
                took_ms: 0,
                tool: TOOL.to_owned(),
                detail: if bytes.is_some() {
                    String::new()
                } else {
                    "there was no disk on the host".to_owned()
                },
            })
        })
    }

    fn forget_volume(&self, volume: VolumeId) -> Result<()> {
        self.call("forget_volume", 0, |machine| {
            machine.erased.remove(&volume);
            Ok(())
        })
    }

    fn room(&self) -> Result<Option<Room>> {
        self.call("room", 0, |machine| {
            let bytes = machine.inventory().volumes_gib.saturating_mul(1 << 30);
            let free = bytes / 100 * (100 - self.faults.room_percent());
            Ok(Some(Room { bytes, free }))
        })
    }
    fn backups(&self) -> &'static str {
        "simulated"
    }

    fn back_up(&self, backup: &Backup, watch: &dyn Watch) -> Result<Made> {
        self.copy_to_store(backup, watch)
    }

    fn restore_backup(&self, backup: &Backup, watch: &dyn Watch) -> Result<u64> {
        self.copy_back(backup, watch)
    }

    fn drill_backup(&self, backup: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<(&'static str, u64)> {
        self.try_copy(backup, keys, watch)
    }

    fn encrypt_anew(&self, of: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<Anew> {
        self.write_anew(of, keys, watch)
    }

    fn remove_backup(&self, backup: BackupId) -> Result<()> {
        self.call("remove_backup", 0, |machine| {
            machine.backups.remove(&backup);
            Ok(())
        })
    }

    fn write_seed(&self, seed: &Seed) -> Result<()> {
        self.call("write_seed", 0, |machine| {
            machine.seeds.insert(seed.slice);
            Ok(())
        })?;
        self.claims().insert(seed.slice, guest::Claims::new(seed));
        Ok(())
    }

    fn remove_seed(&self, slice: SliceId) -> Result<()> {
        self.call("remove_seed", 0, |machine| {
            machine.seeds.remove(&slice);
            Ok(())
        })
    }

    fn domains(&self) -> Result<Vec<DomainStatus>> {
        self.call("domains", 0, |machine| {
            let status = |(slice, domain): (&SliceId, &Domain)| DomainStatus {
                slice: *slice,
                running: domain.running,
                paused: domain.running && domain.paused,
                devices: domain.devices.clone(),
            };
            Ok(machine.domains.iter().map(status).collect())
        })
    }

    fn start_domain(&self, spec: &DomainSpec, keys: &Keys) -> Result<()> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&spec.slice);
        self.said.lock().unwrap_or_else(PoisonError::into_inner).remove(&spec.slice);
        self.claims().entry(spec.slice).or_default().boot(spec.devices.len());
        self.call("start_domain", self.config.start_ms, |machine| {
            if let Some(device) = spec.devices.iter().find(|device| self.faults.is_absent(**device)) {
                return Err(EdgeError::new(format!("there is no GPU at `{device}`")));
            }
            start(machine, spec, keys)
        })
    }

    fn resume_domain(&self, slice: SliceId) -> Result<()> {
        self.call("resume_domain", 0, |machine| {
            if let Some(domain) = machine.domains.get_mut(&slice) {
                domain.paused = false;
            }
            Ok(())
        })
    }

    fn destroy_domain(&self, slice: SliceId, grace: Duration) -> Result<()> {
        let runs = self.lock().domains.get(&slice).is_some_and(|domain| domain.running);
        let takes = Duration::from_millis(self.config.stop_ms);
        let stops = !grace.is_zero() && takes <= grace && self.faults.guests() != Guests::Silent;
        if runs {
            pause(if stops { takes } else { grace });
        }
        self.call("destroy_domain", 0, |machine| {
            if machine.domains.remove(&slice).is_some_and(|domain| domain.running) && !stops {
                machine.cut.insert(slice);
            }
            Ok(())
        })
    }

    fn guest_events(&self, slice: SliceId) -> Result<Vec<GuestEvent>> {
        let domain =
            self.lock().domains.get(&slice).filter(|domain| domain.running && !domain.paused).cloned();
        let Some(domain) = domain else { return Ok(Vec::new()) };
        let age = now_ms().saturating_sub(domain.started_ms);
        let guests = self.faults.guests();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        let mut say = |what: Told, due: u64, event: GuestEvent| {
            if guests != Guests::Silent && age >= due && told.get(&slice) < Some(&what) {
                told.insert(slice, what);
                events.push(event);
            }
        };
        let ready = self.config.boot_ms + self.config.slurm_ms;
        say(Told::Boot, self.config.boot_ms, GuestEvent::Boot);
        say(
            Told::End,
            ready,
            match guests {
                Guests::Fail => GuestEvent::Failed("a simulated fault: Slurm did not start".to_owned()),
                Guests::Well | Guests::Silent => GuestEvent::Ready(v1::Guest {
                    ssh_host_key: host_key(slice),
                    gpus: u32::try_from(domain.devices.len()).unwrap_or(u32::MAX),
                    slurm: "simulated".to_owned(),
                }),
            },
        );
        if told.get(&slice) == Some(&Told::End) && guests == Guests::Well {
            drop(told);
            let disks = self.disks(slice, &domain);
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            // Like a real one it says what is another than it said.
            if said.get(&slice) != Some(&disks) {
                said.insert(slice, disks.clone());
                events.push(GuestEvent::Disks(disks));
            }
            drop(said);
            let floods = self.faults.has("flood", &slice.to_string());
            let mut claims = self.claims();
            let claims = claims.entry(slice).or_default();
            claims.say(&mut events, floods);
            claims.use_gpus(domain.devices.len(), &mut events);
        }
        Ok(events)
    }

    fn acknowledge_guest(&self, slice: SliceId, boot: &str, seq: u64) -> Result<()> {
        self.claims().entry(slice).or_default().acknowledged(boot, seq);
        Ok(())
    }

    fn tell_guest_people(&self, slice: SliceId, users: &[v1::GuestUser]) -> Result<()> {
        self.claims().entry(slice).or_default().admit(users);
        Ok(())
    }

    fn tell_guest_scheduler(&self, slice: SliceId, scheduler: &v1::GuestScheduler) -> Result<()> {
        self.claims().entry(slice).or_default().schedule(&scheduler.of);
        Ok(())
    }

    fn connect_ssh(&self, slice: SliceId) -> Result<OwnedFd> {
        self.call("connect_ssh", 0, |machine| match machine.domains.get(&slice) {
            Some(domain) if domain.running => Ok(()),
            _ => Err(EdgeError::new(format!("the machine of slice `{slice}` does not run"))),
        })?;
        let failed = |error| EdgeError::because("a simulated guest does not answer", error);
        if let Some(socket) = &self.config.ssh {
            return there(socket).map_err(failed);
        }
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        if self.connections.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(EdgeError::new("a simulated guest takes no more connections"));
        }
        let gpus = self.lock().domains.get(&slice).map_or(0, |domain| domain.devices.len());
        self.claims().entry(slice).or_default().visited(gpus);
        let connections = Arc::clone(&self.connections);
        thread::Builder::new()
            .name("guest".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || {
                echo(theirs);
                connections.fetch_sub(1, Ordering::Relaxed);
            })
            .map_err(failed)?;
        Ok(ours.into())
    }
}

fn complete(machine: &mut Machine, volume: VolumeId) -> Result<&mut Volume> {
    let there = machine.volumes.get_mut(&volume).filter(|volume| volume.complete);
    there.ok_or_else(|| EdgeError::new(format!("there is no volume `{volume}`")))
}

fn start(machine: &mut Machine, spec: &DomainSpec, keys: &Keys) -> Result<()> {
    let slice = spec.slice;
    if machine.domains.get(&slice).is_some_and(|domain| domain.running) {
        return Ok(());
    }
    for device in &spec.devices {
        if let Some(holder) = machine.holder(*device) {
            return Err(EdgeError::new(format!(
                "`{device}` is in the hands of the machine of slice `{holder}`"
            )));
        }
        if !machine.bound.contains(device) {
            return Err(EdgeError::new(format!("`{device}` is not on vfio-pci")));
        }
    }
    let cpus: BTreeSet<u32> = spec.nodes.iter().flat_map(|share| share.cpus.clone()).collect();
    let crowded = machine.domains.iter().find(|(_, other)| other.running && !other.cpus.is_disjoint(&cpus));
    if let Some((other, _)) = crowded {
        return Err(EdgeError::new(format!("the machine of slice `{other}` has a processor of it")));
    }
    if !machine.seeds.contains(&slice) {
        return Err(EdgeError::new(format!("slice `{slice}` has no seed")));
    }
    for scratch in spec.others.iter().filter(|other| other.kind == VolumeKind::Scratch) {
        let made = Volume {
            complete: true,
            size_gib: scratch.size_gib,
            key: String::new(),
            data_of: None,
            written: 0,
        };
        machine.volumes.insert(scratch.volume, made);
    }
    let others = spec.others.iter().map(|other| (other.volume, other.kind));
    for (id, kind) in std::iter::once((spec.volume, VolumeKind::Root)).chain(others) {
        let volume = machine.volumes.get_mut(&id).filter(|volume| volume.complete);
        let volume = volume.ok_or_else(|| EdgeError::new(format!("there is no volume `{id}`")))?;
        if kind != VolumeKind::Scratch && keys.get(&id).map(fingerprint).as_ref() != Some(&volume.key) {
            return Err(EdgeError::new(format!("the key does not open volume `{id}`")));
        }
        volume.written += 1;
        if let Some(other) = volume.data_of.replace(slice).filter(|other| *other != slice) {
            machine.leaks.push(format!("{slice} has the disk of {other}"));
        }
    }
    for device in &spec.devices {
        // A tenant may read all that is there, and leaves something behind.
        if let Some(before) = machine.memory.get(device).filter(|written| written.by != Some(slice)) {
            machine.leaks.push(format!("{slice} can read {} bytes on {device}", before.bytes));
        }
        machine.memory.insert(*device, Written { by: Some(slice), bytes: machine::GPU_MEMORY_BYTES / 2 });
    }
    let domain = Domain {
        running: true,
        devices: spec.devices.clone(),
        volume: spec.volume,
        others: spec.others.iter().map(|other| (other.kind, other.size_gib)).collect(),
        paused: false,
        cpus,
        started_ms: now_ms(),
    };
    machine.domains.insert(slice, domain);
    Ok(())
}

fn fingerprint(key: &Key) -> String {
    HEXLOWER.encode(digest(&SHA256, key.expose_secret()).as_ref())
}

/// A well-formed key, always the same for one slice. No private key belongs to it.
fn host_key(slice: SliceId) -> String {
    let bytes = digest(&SHA256, slice.to_string().as_bytes());
    let mut blob = Vec::from(*b"\0\0\0\x0bssh-ed25519\0\0\0\x20");
    blob.extend_from_slice(bytes.as_ref());
    format!("ssh-ed25519 {}", BASE64.encode(&blob))
}

/// As rust-vmm's vhost-device-vsock has it: the port is asked for in a line, and answered in one.
fn there(socket: &Path) -> std::io::Result<OwnedFd> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(b"CONNECT 22\n")?;
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
    }
    Ok(stream.into())
}

/// The whole of a simulated guest: what it hears it says.
fn echo(mut stream: UnixStream) {
    let mut piece = [0; 32 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        let said = piece.get(..length).unwrap_or_default();
        if stream.write_all(said).is_err() {
            return;
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// What a machine that is not there would need this long for.
fn pause(time: Duration) {
    if !time.is_zero() {
        let (_keep, never) = mpsc::channel::<()>();
        let _ = never.recv_timeout(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::NumaShare;
    use std::fs;

    fn quick() -> SimulateConfig {
        SimulateConfig {
            directory: None,
            call_ms: 0,
            volume_ms: 0,
            start_ms: 0,
            boot_ms: 0,
            slurm_ms: 0,
            sanitise_ms: 0,
            stop_ms: 0,
            ssh: None,
        }
    }

    fn slice(last: char) -> SliceId {
        format!("0190163d-8694-739b-aea5-966c26f8ad9{last}").parse().unwrap()
    }

    fn volume(last: char) -> VolumeId {
        format!("6f9619ff-8b86-4d01-b42d-00cf4fc964f{last}").parse().unwrap()
    }

    fn gpu(bus: u8) -> PciAddress {
        PciAddress { domain: 0, bus, device: 0, function: 0 }
    }

    fn keys(last: char, byte: u8) -> Keys {
        Keys::from([(volume(last), key(byte))])
    }

    fn key(byte: u8) -> Key {
        Key::new(Box::new([byte; 32]))
    }

    fn spec(last: char, devices: &[PciAddress]) -> DomainSpec {
        DomainSpec {
            slice: slice(last),
            level_name: String::new(),
            vcpus: 1,
            memory_mib: 1024,
            volume: volume(last),
            others: Vec::new(),
            devices: devices.to_vec(),
            nodes: Vec::new(),
            image: None,
        }
    }

    fn seed(last: char) -> Seed {
        Seed {
            slice: slice(last),
            project: "p".to_owned(),
            level: "3".to_owned(),
            level_name: String::new(),
            gpus: 1,
            users: Vec::new(),
            ssh_ca: String::new(),
            scheduler: None,
            terminal_only: false,
            ssh_terminal_ca: String::new(),
            ssh_recorded_ca: String::new(),
            others: Vec::new(),
        }
    }

    fn up(host: &SimulatedHost, last: char, device: PciAddress) -> Result<()> {
        host.bind(device)?;
        host.create_volume(volume(last), VolumeKind::Root, 10, &key(7))?;
        host.write_seed(&seed(last))?;
        host.start_domain(&spec(last, &[device]), &keys(last, 7))
    }

    #[test]
    fn it_is_a_dgx2_and_says_that_it_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        let inventory = host.inventory().unwrap();
        let gpus: Vec<&v1::PciDevice> =
            inventory.devices.iter().filter(|device| device.kind() == v1::DeviceKind::Gpu).collect();
        assert_eq!((gpus.len(), inventory.devices.len()), (16, 28));
        assert_eq!((gpus[0].address.as_str(), gpus[15].address.as_str()), ("0000:34:00.0", "0000:e7:00.0"));
        let ids: BTreeSet<u32> = gpus.iter().filter_map(|gpu| gpu.physical_id).collect();
        let groups: BTreeSet<u32> =
            inventory.devices.iter().filter_map(|device| device.iommu_group).collect();
        assert!(ids.into_iter().eq(1..=16) && groups.len() == 28);
        assert_eq!(gpus.iter().filter(|gpu| gpu.numa_node == 0).count(), 8);
        assert!(host.simulated() && inventory.kernel == "simulated");
    }

    #[test]
    fn it_is_there_after_its_agent_was_killed() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        host.sanitise_one(gpu(0x34)).unwrap_err();
        host.bind(gpu(0x34)).unwrap();
        let evidence = host.sanitise_one(gpu(0x34)).unwrap();
        assert!(evidence.cleaned && evidence.bytes_dirty_before > 0, "what is delivered is dirty");
        up(&host, '1', gpu(0x34)).unwrap();
        // It boots, is ready, says how full its disks are, lives, whose accounts and which classes of jobs it has and what they
        // use, and claims that its root disk is mounted, a login, a job, its end and a logout.
        assert_eq!(host.guest_events(slice('1')).unwrap().len(), 12);
        assert_eq!(host.guest_events(slice('1')).unwrap(), []);
        let before = host.machine();
        drop(host);
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        assert_eq!(host.machine(), before);
        assert_eq!(host.attached().unwrap().into_iter().collect::<Vec<_>>(), [gpu(0x34)]);
        assert_eq!(host.guest_events(slice('1')).unwrap().len(), 8, "a new agent is told again");
        assert!(host.bind(gpu(0x34)).is_err() && host.sanitise_one(gpu(0x34)).is_err());
        host.destroy_domain(slice('1'), Duration::ZERO).unwrap();
        let evidence = host.sanitise_one(gpu(0x34)).unwrap();
        assert_eq!(evidence.bytes_dirty_before, machine::GPU_MEMORY_BYTES / 2);
        assert_eq!(host.machine().leaks, Vec::<String>::new());
    }

    #[test]
    fn it_refuses_what_a_real_one_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        up(&host, '1', gpu(0x34)).unwrap();
        host.create_volume(volume('2'), VolumeKind::Root, 1, &key(1)).unwrap();
        assert!(
            host.create_volume(volume('2'), VolumeKind::Root, 1, &key(1))
                .unwrap_err()
                .chain()
                .contains("never made anew")
        );
        let no = |spec: &DomainSpec, byte: u8, word: &str| {
            let error = host.start_domain(spec, &Keys::from([(spec.volume, key(byte))])).unwrap_err().chain();
            assert!(error.contains(word), "{error}");
        };
        no(&spec('2', &[gpu(0x34)]), 1, "in the hands of");
        no(&spec('2', &[gpu(0x36)]), 1, "not on vfio-pci");
        host.bind(gpu(0x36)).unwrap();
        no(&spec('2', &[gpu(0x36)]), 1, "no seed");
        host.write_seed(&seed('2')).unwrap();
        no(&spec('2', &[gpu(0x36)]), 2, "does not open");
        no(&DomainSpec { volume: volume('3'), ..spec('2', &[gpu(0x36)]) }, 1, "no volume");
        assert!(host.activate_partition(33).is_err() && host.bind(gpu(0x61)).is_err());
        // A device nobody has cleaned: this is what the tests of the agent look for.
        host.start_domain(&spec('2', &[gpu(0x36)]), &keys('2', 1)).unwrap();
        assert_eq!(host.machine().leaks.len(), 2, "the first one was not cleaned either");
    }

    #[test]
    fn faults_strike() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        let fault = |text: &str| fs::write(directory.path().join("faults"), text).unwrap();
        fault("fail:finish_volume\n");
        host.create_volume(volume('1'), VolumeKind::Root, 1, &key(7)).unwrap_err();
        assert_eq!(host.volume(volume('1')).unwrap(), VolumeState::Partial);
        fault("fail-after:start_domain\n");
        assert!(up(&host, '1', gpu(0x34)).is_err());
        assert!(host.domains().unwrap()[0].running);
        fault(&format!("gone:{}\n", slice('1')));
        assert!(!host.domains().unwrap()[0].running);
        fault("stuck:0000:34:00.0\n");
        let evidence = host.sanitise_one(gpu(0x34)).unwrap();
        assert!(!evidence.cleaned && evidence.bytes_verified < evidence.bytes_total);
        fault("held:0000:36:00.0\n");
        assert!(host.attached().unwrap().contains(&gpu(0x36)) && host.bind(gpu(0x36)).is_err());
        fault("hang:domains\n");
        thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            let host = &host;
            scope.spawn(move || send.send(host.domains().is_ok()));
            assert!(receive.recv_timeout(Duration::from_millis(60)).is_err());
            fault("");
            assert!(receive.recv_timeout(Duration::from_secs(20)).unwrap());
        });
    }

    #[test]
    fn a_guest_stops_when_it_is_asked_or_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        for (last, faults, grace, cut) in
            [('1', "", 50, false), ('2', "guest:silent\n", 50, true), ('3', "", 0, true)]
        {
            fs::write(directory.path().join("faults"), faults).unwrap();
            up(&host, last, gpu(0x34)).unwrap();
            let began = Instant::now();
            host.destroy_domain(slice(last), Duration::from_millis(grace)).unwrap();
            assert!(began.elapsed() >= Duration::from_millis(if faults.is_empty() { 0 } else { grace }));
            assert_eq!(host.machine().cut.contains(&slice(last)), cut, "{last}");
            host.destroy_domain(slice(last), Duration::from_secs(60)).unwrap();
            assert!(host.domains().unwrap().is_empty());
        }
    }

    #[test]
    fn no_two_machines_have_one_processor() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        let nodes = |cpus: &[u32]| vec![NumaShare { node: 0, cpus: cpus.to_vec(), memory_mib: 1024 }];
        for (last, bus, cpus, may) in [('1', 0x34, [1, 49], true), ('2', 0x36, [2, 49], false)] {
            host.bind(gpu(bus)).unwrap();
            host.create_volume(volume(last), VolumeKind::Root, 1, &key(7)).unwrap();
            host.write_seed(&seed(last)).unwrap();
            let started = host
                .start_domain(&DomainSpec { nodes: nodes(&cpus), ..spec(last, &[gpu(bus)]) }, &keys(last, 7));
            assert_eq!(started.is_ok(), may, "{started:?}");
        }
    }

    #[test]
    fn erasing_is_told_until_it_is_stored() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        assert!(!host.erase_volume(volume('1')).unwrap().erased);
        host.create_volume(volume('1'), VolumeKind::Root, 1, &key(7)).unwrap();
        for _ in 0..2 {
            let evidence = host.erase_volume(volume('1')).unwrap();
            assert_eq!((evidence.erased, evidence.bytes_discarded), (true, 1 << 30));
        }
        host.forget_volume(volume('1')).unwrap();
        assert!(!host.erase_volume(volume('1')).unwrap().erased);
    }

    #[test]
    fn a_guest_echoes() {
        let directory = tempfile::tempdir().unwrap();
        let host = SimulatedHost::new(directory.path(), quick()).unwrap();
        assert!(host.connect_ssh(slice('1')).is_err());
        up(&host, '1', gpu(0x34)).unwrap();
        let mut stream = UnixStream::from(host.connect_ssh(slice('1')).unwrap());
        stream.write_all(b"hello").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
    }
}
