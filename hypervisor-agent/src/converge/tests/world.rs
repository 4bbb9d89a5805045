//! The simulated host behind a fuse, a small model of holmd, and the agent between them.

use super::super::{Engine, Limits, Now, Record, RecordError, Turn};
use crate::{
    config::SimulateConfig,
    edge::{
        self, Backup, DomainSpec, DomainStatus, EdgeError, GuestEvent, Host, Key, Keys, Made, Room, Seed,
        VolumeKind, VolumeState, Watch,
    },
    simulate::{Machine, SimulatedHost},
};
use holm_proto::{
    ids::{BackupId, PciAddress, RunId, SliceId, VolumeId},
    v1,
};
use newtype_uuid::GenericUuid as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The moments at which an agent can be killed, counted.
#[derive(Debug)]
pub struct Fuse {
    pub(super) left: AtomicI64,
    pub(super) dead: AtomicBool,
    pub(super) burnt: AtomicU64,
}

impl Fuse {
    pub(super) fn new(moments: i64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicI64::new(moments),
            dead: AtomicBool::new(false),
            burnt: AtomicU64::new(0),
        })
    }

    /// A moment passes; an error when the agent is dead from here on.
    pub fn burn(fuse: Option<&Self>) -> edge::Result<()> {
        let Some(fuse) = fuse else { return Ok(()) };
        fuse.burnt.fetch_add(1, Ordering::Relaxed);
        if fuse.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            fuse.dead.store(true, Ordering::Relaxed);
        }
        if fuse.is_dead() { Err(EdgeError::new("killed")) } else { Ok(()) }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

/// What a test does to calls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mode {
    /// Each is made twice.
    pub(super) twice: bool,
    /// The one with this number fails before, or after, it did its work.
    pub(super) fail: Option<(u64, bool)>,
}

/// The simulated host behind a fuse, watched.
#[derive(Debug)]
pub(super) struct TestHost {
    pub(super) inner: Arc<SimulatedHost>,
    pub(super) faults: std::path::PathBuf,
    pub(super) fuse: Arc<Fuse>,
    pub(super) mode: Mode,
    pub(super) calls: Arc<AtomicU64>,
    /// Slices that may start now.
    pub(super) allowed: Arc<Mutex<BTreeSet<SliceId>>>,
    /// Where each slice waits with its volume until another one has come as far.
    pub(super) meeting: Option<(Mutex<u32>, Condvar)>,
}

impl TestHost {
    fn call<T>(&self, work: impl Fn(&SimulatedHost) -> edge::Result<T>) -> edge::Result<T> {
        Fuse::burn(Some(&self.fuse))?;
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.mode.fail == Some((number, false)) {
            return Err(EdgeError::new("a fault"));
        }
        if self.mode.twice {
            work(&self.inner)?;
        }
        let outcome = work(&self.inner);
        if self.mode.fail == Some((number, true)) {
            return Err(EdgeError::new("a late fault"));
        }
        Fuse::burn(Some(&self.fuse))?;
        outcome
    }
}

impl Host for TestHost {
    fn platform(&self) -> &str {
        self.inner.platform()
    }
    fn simulated(&self) -> bool {
        true
    }
    fn inventory(&self) -> edge::Result<v1::Inventory> {
        self.inner.inventory()
    }
    fn commission(&self) -> v1::Commissioning {
        self.inner.commission()
    }
    fn attached(&self) -> edge::Result<BTreeSet<PciAddress>> {
        self.call(Host::attached)
    }
    fn bind(&self, device: PciAddress) -> edge::Result<()> {
        self.call(|host| host.bind(device))
    }
    fn sanitise(&self, run: RunId, devices: &[PciAddress]) -> edge::Result<Vec<v1::Evidence>> {
        self.call(|host| host.sanitise(run, devices))
    }
    fn activate_partition(&self, partition: u32) -> edge::Result<()> {
        self.call(|host| host.activate_partition(partition))
    }
    fn deactivate_partition(&self, partition: u32) -> edge::Result<()> {
        self.call(|host| host.deactivate_partition(partition))
    }
    fn active_partitions(&self) -> edge::Result<BTreeSet<u32>> {
        self.call(Host::active_partitions)
    }
    fn restore_partitions(&self, active: &BTreeSet<u32>) -> edge::Result<()> {
        self.call(|host| host.restore_partitions(active))
    }
    fn volume(&self, volume: VolumeId) -> edge::Result<VolumeState> {
        self.call(|host| host.volume(volume))
    }
    fn create_volume(
        &self,
        volume: VolumeId,
        kind: VolumeKind,
        size_gib: u64,
        key: &Key,
    ) -> edge::Result<()> {
        if let Some((came, all)) = &self.meeting {
            let mut came = came.lock().unwrap();
            *came += 1;
            all.notify_all();
            let (came, _) = all.wait_timeout_while(came, Duration::from_secs(30), |came| *came < 2).unwrap();
            assert_eq!(*came, 2, "slices wait for each other");
        }
        // Twice is a refusal here, as on the real host: the second time it is not the agent's to ask.
        self.call(|host| {
            if host.volume(volume)? == VolumeState::Complete {
                Ok(())
            } else {
                host.create_volume(volume, kind, size_gib, key)
            }
        })
        .or_else(|error| {
            // One more moment: the kill in the middle, which leaves half a volume.
            if self.fuse.is_dead() && self.inner.volume(volume)? == VolumeState::Absent {
                fs::write(&self.faults, "fail:finish_volume\n").unwrap();
                let _ = self.inner.create_volume(volume, kind, size_gib, key);
                fs::write(&self.faults, "").unwrap();
            }
            Err(error)
        })
    }
    fn image(&self) -> edge::Image {
        self.inner.image()
    }
    fn image_of(&self, id: &str) -> edge::Image {
        self.inner.image_of(id)
    }
    fn grow_volume(
        &self,
        slice: SliceId,
        volume: VolumeId,
        kind: VolumeKind,
        size_gib: u64,
        key: &Key,
    ) -> edge::Result<()> {
        self.call(|host| host.grow_volume(slice, volume, kind, size_gib, key))
    }
    fn change_key(&self, volume: VolumeId, old: &Key, new: &Key) -> edge::Result<edge::Rekeyed> {
        self.call(|host| host.change_key(volume, old, new))
    }
    fn erase_volume(&self, volume: VolumeId) -> edge::Result<v1::VolumeEvidence> {
        self.call(|host| host.erase_volume(volume))
    }
    fn forget_volume(&self, volume: VolumeId) -> edge::Result<()> {
        self.call(|host| host.forget_volume(volume))
    }
    fn room(&self) -> edge::Result<Option<Room>> {
        Fuse::burn(Some(&self.fuse))?;
        self.inner.room()
    }
    fn backups(&self) -> &'static str {
        self.inner.backups()
    }
    fn back_up(&self, backup: &Backup, watch: &dyn Watch) -> edge::Result<Made> {
        self.call(|host| host.back_up(backup, watch))
    }
    fn restore_backup(&self, backup: &Backup, watch: &dyn Watch) -> edge::Result<u64> {
        self.call(|host| host.restore_backup(backup, watch))
    }
    fn drill_backup(
        &self,
        backup: &Backup,
        keys: &Keys,
        watch: &dyn Watch,
    ) -> edge::Result<(&'static str, u64)> {
        self.call(|host| host.drill_backup(backup, keys, watch))
    }
    fn encrypt_anew(&self, of: &Backup, keys: &Keys, watch: &dyn Watch) -> edge::Result<edge::Anew> {
        self.call(|host| host.encrypt_anew(of, keys, watch))
    }
    fn remove_backup(&self, backup: BackupId) -> edge::Result<()> {
        self.call(|host| host.remove_backup(backup))
    }
    fn write_seed(&self, seed: &Seed) -> edge::Result<()> {
        self.call(|host| host.write_seed(seed))
    }
    fn remove_seed(&self, slice: SliceId) -> edge::Result<()> {
        self.call(|host| host.remove_seed(slice))
    }
    fn domains(&self) -> edge::Result<Vec<DomainStatus>> {
        self.call(Host::domains)
    }
    fn start_domain(&self, spec: &DomainSpec, keys: &Keys) -> edge::Result<()> {
        assert!(self.allowed.lock().unwrap().contains(&spec.slice), "{} is not to start now", spec.slice);
        let machine = self.inner.machine();
        for device in &spec.devices {
            let holder = machine.holder(*device);
            assert!(holder.is_none_or(|holder| holder == spec.slice), "{device} is {holder:?}'s");
        }
        self.call(|host| host.start_domain(spec, keys))
    }
    fn resume_domain(&self, slice: SliceId) -> edge::Result<()> {
        self.call(|host| host.resume_domain(slice))
    }
    fn destroy_domain(&self, slice: SliceId, grace: Duration) -> edge::Result<()> {
        self.call(|host| host.destroy_domain(slice, grace))
    }
    fn guest_events(&self, slice: SliceId) -> edge::Result<Vec<GuestEvent>> {
        // What a guest says it says once.
        Fuse::burn(Some(&self.fuse))?;
        self.inner.guest_events(slice)
    }
    fn acknowledge_guest(&self, slice: SliceId, boot: &str, seq: u64) -> edge::Result<()> {
        self.inner.acknowledge_guest(slice, boot, seq)
    }
    fn tell_guest_scheduler(&self, slice: SliceId, scheduler: &v1::GuestScheduler) -> edge::Result<()> {
        self.inner.tell_guest_scheduler(slice, scheduler)
    }

    fn tell_guest_people(&self, slice: SliceId, users: &[v1::GuestUser]) -> edge::Result<()> {
        self.inner.tell_guest_people(slice, users)
    }
    fn connect_ssh(&self, slice: SliceId) -> edge::Result<OwnedFd> {
        self.inner.connect_ssh(slice)
    }
}

/// How a slice stands in the model of holmd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// Its devices are not free yet.
    Queued,
    Starting,
    Booting,
    Ready,
    Failed,
    /// To be taken apart but for its volume.
    Keeping,
    /// Its volume is left, its devices are others' to have.
    Kept,
    Closing,
    /// The host has said that nothing of it is left.
    Gone,
}

/// As much of holmd as an agent can tell.
#[derive(Debug)]
pub(super) struct Holmd {
    pub(super) generation: u64,
    pub(super) session: bool,
    pub(super) asked: BTreeSet<(SliceId, u64)>,
    /// Slices whose host was given the key of their disk: they are not placed again.
    pub(super) given: BTreeSet<SliceId>,
    pub(super) slices: BTreeMap<SliceId, (Stands, u64, Vec<PciAddress>)>,
    pub(super) runs: BTreeMap<RunId, Vec<PciAddress>>,
    pub(super) runs_made: u8,
    pub(super) dirty: BTreeSet<PciAddress>,
    pub(super) free: BTreeSet<PciAddress>,
    pub(super) attached: BTreeSet<PciAddress>,
    pub(super) said: Option<v1::Observed>,
    /// Slices whose machine ran, and so had a disk.
    pub(super) ran: BTreeSet<SliceId>,
    /// Slices whose devices were released before their disks were erased.
    pub(super) released: BTreeSet<SliceId>,
    /// The host's processor that a slice is to have for itself.
    pub(super) cpus: BTreeMap<SliceId, u32>,
}

/// What is left: the machine, each slice with phase, generation and reason, and the free devices.
pub(super) type End = (Machine, Vec<(String, i32, u64, String)>, BTreeSet<PciAddress>);

pub(super) struct World {
    pub(super) directory: tempfile::TempDir,
    pub(super) host: Arc<SimulatedHost>,
    pub(super) engine: Option<Engine>,
    pub(super) fuse: Arc<Fuse>,
    pub(super) mode: Mode,
    pub(super) calls: Arc<AtomicU64>,
    pub(super) allowed: Arc<Mutex<BTreeSet<SliceId>>>,
    pub(super) moments: u64,
    pub(super) now: Now,
    pub(super) holmd: Holmd,
    pub(super) limits: Limits,
    /// What holmd wants done with disks and backups.
    pub(super) jobs: Vec<v1::IntendedJob>,
    /// The members of the project.
    pub(super) users: Vec<v1::GuestUser>,
    /// Their classes of jobs.
    pub(super) scheduler: Option<v1::GuestScheduler>,
}

pub(super) fn slice(number: u8) -> SliceId {
    SliceId::from_untyped_uuid(uuid::Uuid::from_bytes([number; 16]))
}

pub(super) fn volume(slice: SliceId) -> VolumeId {
    VolumeId::from_untyped_uuid(slice.into_untyped_uuid())
}

/// Its disk for data.
pub(super) fn data(slice: SliceId) -> VolumeId {
    VolumeId::from_untyped_uuid(uuid::Uuid::from_u128(slice.into_untyped_uuid().as_u128() ^ 1 << 64))
}

/// Its disk to work on.
pub(super) fn scratch(slice: SliceId) -> VolumeId {
    VolumeId::from_untyped_uuid(uuid::Uuid::from_u128(slice.into_untyped_uuid().as_u128() ^ 1 << 65))
}

/// All that these have.
pub(super) fn volumes(slices: impl IntoIterator<Item = SliceId>) -> BTreeSet<VolumeId> {
    slices.into_iter().flat_map(|id| [volume(id), data(id), scratch(id)]).collect()
}

pub(super) fn gpus(buses: &[u8]) -> Vec<PciAddress> {
    buses.iter().map(|bus| PciAddress { domain: 0, bus: *bus, device: 0, function: 0 }).collect()
}

pub(super) const A: u8 = 1;
pub(super) const B: u8 = 2;
pub(super) const C: u8 = 3;

impl World {
    /// A and B want devices of their own; C wants those of A.
    pub(super) fn new(mode: Mode) -> Self {
        // Nothing here is to survive a power cut.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let wishes = [(A, &[0x34, 0x3b][..]), (B, &[0x36]), (C, &[0x34, 0x3b])];
        let slices = wishes.map(|(number, buses)| (slice(number), (Stands::Queued, 0, gpus(buses))));
        let holmd = Holmd {
            generation: 0,
            session: false,
            asked: BTreeSet::new(),
            given: BTreeSet::new(),
            slices: BTreeMap::from(slices),
            runs: BTreeMap::new(),
            runs_made: 0,
            dirty: gpus(&[0x34, 0x3b, 0x36]).into_iter().collect(),
            free: BTreeSet::new(),
            attached: BTreeSet::new(),
            said: None,
            ran: BTreeSet::new(),
            released: BTreeSet::new(),
            cpus: BTreeMap::new(),
        };
        let host = Arc::new(Self::simulated(&directory));
        let limits =
            Limits { tries: u32::MAX, ..Limits::new(Duration::from_secs(1200), Duration::from_millis(20)) };
        let mut world = Self {
            directory,
            host,
            engine: None,
            fuse: Fuse::new(i64::MAX),
            mode,
            calls: Arc::default(),
            allowed: Arc::default(),
            moments: 0,
            now: Now { instant: Instant::now() + Duration::from_secs(1 << 20), wall_ms: 1 },
            holmd,
            limits,
            jobs: Vec::new(),
            users: Vec::new(),
            scheduler: None,
        };
        world.begin(i64::MAX);
        world
    }

    pub(super) fn simulated(directory: &tempfile::TempDir) -> SimulatedHost {
        let quick = SimulateConfig {
            directory: None,
            call_ms: 0,
            volume_ms: 0,
            start_ms: 0,
            boot_ms: 0,
            slurm_ms: 0,
            sanitise_ms: 0,
            stop_ms: 0,
            ssh: None,
        };
        SimulatedHost::new(&directory.path().join("host"), quick).unwrap()
    }

    /// A new agent, which lives for so many moments.
    pub(super) fn begin(&mut self, moments: i64) {
        self.moments += self.fuse.burnt.load(Ordering::Relaxed);
        self.engine = None;
        self.holmd.session = false;
        self.host = Arc::new(Self::simulated(&self.directory));
        self.fuse = Fuse::new(moments);
        let host = Arc::new(TestHost {
            inner: Arc::clone(&self.host),
            faults: self.directory.path().join("host/faults"),
            fuse: Arc::clone(&self.fuse),
            mode: self.mode,
            calls: Arc::clone(&self.calls),
            allowed: Arc::clone(&self.allowed),
            meeting: None,
        });
        // A process that another test is about to start shares the old agent's lock until it begins.
        let end = Instant::now() + Duration::from_secs(30);
        let (mut record, loaded) = loop {
            match Record::open(&self.directory.path().join("record")) {
                Err(RecordError::InUse(_)) if Instant::now() < end => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        record.fuse = Some(Arc::clone(&self.fuse));
        self.engine = Some(Engine::new(host, record, loaded, self.limits.clone()));
    }

    pub(super) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// What holmd wants of this host.
    pub(super) fn intended(&self) -> v1::Intended {
        let wanted = self.holmd.slices.iter().filter_map(|(id, (stands, generation, devices))| {
            let goal = match stands {
                Stands::Queued | Stands::Gone => return None,
                Stands::Starting | Stands::Booting | Stands::Ready | Stands::Failed => v1::Goal::Run,
                Stands::Keeping | Stands::Kept => v1::Goal::Kept,
                Stands::Closing => v1::Goal::Destroyed,
            };
            let released = self.holmd.released.contains(id);
            Some(v1::IntendedSlice {
                slice_id: id.to_string(),
                generation: *generation,
                goal: goal.into(),
                project: "p".to_owned(),
                disk_gib: 10,
                vcpus: 1,
                memory_mib: 1024,
                devices: devices.iter().filter(|_| !released).map(ToString::to_string).collect(),
                partition: 9,
                users: self.users.clone(),
                scheduler: self.scheduler.clone(),
                volume_id: volume(*id).to_string(),
                volumes: [(data(*id), v1::VolumeKind::Data), (scratch(*id), v1::VolumeKind::Scratch)]
                    .map(|(id, kind)| v1::IntendedVolume {
                        volume_id: id.to_string(),
                        kind: kind.into(),
                        size_gib: 2,
                        used: false,
                    })
                    .into(),
                nodes: self
                    .holmd
                    .cpus
                    .get(id)
                    .map(|cpu| v1::NumaShare { node: 0, cpus: vec![*cpu], memory_mib: 1024 })
                    .into_iter()
                    .collect(),
                ..Default::default()
            })
        });
        v1::Intended {
            generation: self.holmd.generation,
            slices: wanted.collect(),
            runs: self
                .holmd
                .runs
                .iter()
                .map(|(id, devices)| v1::SanitiseRun {
                    run_id: id.to_string(),
                    devices: devices.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            jobs: self.jobs.clone(),
        }
    }

    /// holmd's own work: cleaning is ordered, what has room is placed.
    pub(super) fn reconcile(&mut self) {
        let holmd = &mut self.holmd;
        let dirty: Vec<PciAddress> =
            holmd.dirty.iter().copied().filter(|device| !holmd.attached.contains(device)).collect();
        if !dirty.is_empty() {
            holmd.runs_made += 1;
            let id = RunId::from_untyped_uuid(uuid::Uuid::from_bytes([holmd.runs_made; 16]));
            holmd.dirty.retain(|device| !dirty.contains(device));
            holmd.runs.insert(id, dirty);
            holmd.generation += 1;
        }
        for (stands, generation, devices) in holmd.slices.values_mut() {
            if *stands == Stands::Queued && devices.iter().all(|device| holmd.free.contains(device)) {
                *stands = Stands::Starting;
                *generation += 1;
                holmd.free.retain(|device| !devices.contains(device));
                holmd.generation += 1;
            }
        }
    }

    /// One exchange over the session, beginning it where there is none.
    pub(super) fn exchange(&mut self) {
        if !self.holmd.session {
            self.engine().disconnected();
            self.holmd.session = true;
            self.holmd.asked.clear();
        }
        self.reconcile();
        let may = |stands: &Stands| matches!(stands, Stands::Starting | Stands::Booting);
        *self.allowed.lock().unwrap() =
            self.holmd.slices.iter().filter(|(_, (stands, ..))| may(stands)).map(|(id, _)| *id).collect();
        if self.engine().intend(self.intended()).is_err() {
            // It is being killed.
            return;
        }
        for wanted in self.engine().keys_wanted() {
            if let Some(job) = wanted.job {
                self.engine().take_key(v1::VolumeKey {
                    slice_id: wanted.slice.to_string(),
                    volume_id: wanted.volume.to_string(),
                    key: vec![wanted.slice.as_bytes()[0]; 32],
                    others: vec![v1::OtherKey {
                        volume_id: data(wanted.slice).to_string(),
                        key: vec![wanted.slice.as_bytes()[1]; 32],
                        next: Vec::new(),
                    }],
                    job_id: job.to_string(),
                    ..Default::default()
                });
                continue;
            }
            let (stands, generation, _) = &self.holmd.slices[&wanted.slice];
            let once = self.holmd.asked.insert((wanted.slice, wanted.generation));
            if once && *generation == wanted.generation && *stands == Stands::Starting {
                self.holmd.given.insert(wanted.slice);
                self.engine().take_key(v1::VolumeKey {
                    slice_id: wanted.slice.to_string(),
                    volume_id: wanted.volume.to_string(),
                    generation: wanted.generation,
                    key: vec![wanted.slice.as_bytes()[0]; 32],
                    others: vec![v1::OtherKey {
                        volume_id: data(wanted.slice).to_string(),
                        key: vec![wanted.slice.as_bytes()[1]; 32],
                        next: Vec::new(),
                    }],
                    ..Default::default()
                });
            } else if !once {
                self.engine().refuse_key(&v1::KeyRefused {
                    slice_id: wanted.slice.to_string(),
                    generation: wanted.generation,
                    reason: "it was given in this session".to_owned(),
                    later: false,
                    ..Default::default()
                });
            }
        }
        self.hear();
        if self.engine().observed().is_none() {
            return;
        }
        for report in self.engine().reports() {
            self.judge(&report);
        }
    }

    /// holmd believes what the agent observes; what it says must be so.
    pub(super) fn hear(&mut self) {
        let Some(observed) = self.engine().observed() else { return };
        let machine = self.host.machine();
        self.holmd.attached = observed.attached.iter().map(|text| text.parse().unwrap()).collect();
        for domain in machine.domains.values().filter(|domain| domain.running) {
            assert!(domain.devices.iter().all(|device| self.holmd.attached.contains(device)), "overlooked");
        }
        let notes: BTreeMap<PciAddress, &v1::DeviceNote> =
            observed.devices.iter().map(|note| (note.address.parse().unwrap(), note)).collect();
        let clean = |device: &PciAddress| notes[device].mark() == v1::DeviceMark::Clean;
        // Free is what the agent knows as clean.
        let doubted: Vec<PciAddress> =
            self.holmd.free.iter().copied().filter(|device| !clean(device)).collect();
        self.holmd.free.retain(|device| !doubted.contains(device));
        self.holmd.dirty.extend(doubted);
        for seen in &observed.slices {
            let id: SliceId = seen.slice_id.parse().unwrap();
            let (stands, generation, devices) = self.holmd.slices.get_mut(&id).unwrap();
            if seen.generation != *generation {
                continue;
            }
            let its = |device: &PciAddress| clean(device) || notes[device].of == seen.slice_id;
            if *stands == Stands::Starting
                && seen.phase() == v1::Phase::Preparing
                && seen.steps.is_empty()
                && !self.holmd.given.contains(&id)
                && !devices.iter().all(its)
            {
                // Nothing was begun with what is not clean: it is placed again.
                *stands = Stands::Queued;
                self.holmd.dirty.extend(devices.iter().copied());
                self.holmd.generation += 1;
                continue;
            }
            *stands = match (*stands, seen.phase()) {
                (Stands::Starting, v1::Phase::Booting) => {
                    self.holmd.ran.insert(id);
                    Stands::Booting
                }
                (Stands::Starting | Stands::Booting, v1::Phase::Ready) => {
                    assert_eq!(seen.guest.as_ref().unwrap().gpus as usize, devices.len());
                    assert!(seen.steps.iter().all(|step| step.done));
                    self.holmd.ran.insert(id);
                    Stands::Ready
                }
                (Stands::Starting | Stands::Booting | Stands::Ready, v1::Phase::Failed) => Stands::Failed,
                (Stands::Keeping, v1::Phase::Kept) => {
                    assert!(!machine.domains.contains_key(&id) && !machine.seeds.contains(&id));
                    if devices.iter().any(|device| self.holmd.attached.contains(device)) {
                        continue;
                    }
                    self.holmd.released.insert(id);
                    self.holmd.dirty.extend(devices.iter().copied());
                    self.holmd.generation += 1;
                    Stands::Kept
                }
                (Stands::Closing, v1::Phase::Absent) => {
                    assert!(seen.volume_erased && !machine.domains.contains_key(&id));
                    assert!(!machine.volumes.contains_key(&volume(id)) && !machine.seeds.contains(&id));
                    // Whatever was killed when: what was a disk has evidence of its end.
                    let evidence = seen.volume.as_ref().unwrap();
                    assert_eq!(evidence.volume_id, volume(id).to_string());
                    assert!(evidence.erased || !self.holmd.ran.contains(&id), "{evidence:?}");
                    assert!(volumes([id]).is_disjoint(&machine.volumes.keys().copied().collect()));
                    for other in [data(id), scratch(id)] {
                        let told = seen.volumes.iter().find(|told| told.volume_id == other.to_string());
                        let evidence = told.expect("it has evidence of its end, too");
                        // Of scratch holmd heard when the slice was kept, if it was.
                        let heard = other == scratch(id) && self.holmd.released.contains(&id);
                        let ran = self.holmd.ran.contains(&id) && !heard;
                        assert!(evidence.erased || !ran, "{evidence:?}");
                    }
                    if !self.holmd.released.contains(&id) {
                        if devices.iter().any(|device| self.holmd.attached.contains(device)) {
                            continue;
                        }
                        self.holmd.dirty.extend(devices.iter().copied());
                    }
                    self.holmd.generation += 1;
                    Stands::Gone
                }
                (stands, _) => stands,
            };
            if matches!(stands, Stands::Keeping | Stands::Kept) && self.holmd.ran.contains(&id) {
                assert!(machine.volumes.contains_key(&volume(id)), "the disk of {id} is kept");
                assert!(machine.volumes.contains_key(&data(id)), "its data, too");
                assert!(*stands != Stands::Kept || !machine.volumes.contains_key(&scratch(id)));
            }
        }
        self.holmd.said = Some(observed);
    }

    /// Evidence is for every device of the run, by its id, and true.
    pub(super) fn judge(&mut self, report: &v1::SanitiseReport) {
        let id: RunId = report.run_id.parse().unwrap();
        let Some(devices) = self.holmd.runs.remove(&id) else { return };
        let machine = self.host.machine();
        assert_eq!(report.evidence.len(), devices.len());
        for (device, evidence) in devices.iter().zip(&report.evidence) {
            assert_eq!((&evidence.run_id, &evidence.address), (&report.run_id, &device.to_string()));
            if evidence.cleaned {
                let said = self.holmd.said.as_ref().unwrap();
                let note = said.devices.iter().find(|note| note.address == evidence.address).unwrap();
                if note.mark() != v1::DeviceMark::Clean {
                    // By an agent that has ended since.
                    self.holmd.dirty.insert(*device);
                    continue;
                }
                assert!(!machine.memory.contains_key(device) && machine.holder(*device).is_none());
                self.holmd.free.insert(*device);
            } else {
                // Quarantined, and released by an operator's word.
                assert!(!evidence.detail.is_empty());
                self.holmd.dirty.insert(*device);
            }
        }
        self.holmd.generation += 1;
    }

    pub(super) fn close(&mut self, number: u8) {
        let (stands, generation, devices) = self.holmd.slices.get_mut(&slice(number)).unwrap();
        match stands {
            Stands::Queued => *stands = Stands::Gone,
            Stands::Starting | Stands::Booting | Stands::Ready | Stands::Failed => {
                *stands = Stands::Closing;
                *generation += 1;
                self.holmd.generation += 1;
            }
            Stands::Keeping | Stands::Kept | Stands::Closing | Stands::Gone => {}
        }
        let _ = devices;
    }

    /// It is closed, and its disk on hold. For one that is being destroyed a hold comes too late.
    pub(super) fn keep(&mut self, number: u8) {
        let closing = self.stands(number) == Stands::Closing;
        self.close(number);
        let (stands, ..) = self.holmd.slices.get_mut(&slice(number)).unwrap();
        if *stands == Stands::Closing && !closing {
            *stands = Stands::Keeping;
        }
    }

    /// The hold is lifted.
    pub(super) fn lift(&mut self, number: u8) {
        let (stands, generation, _) = self.holmd.slices.get_mut(&slice(number)).unwrap();
        if matches!(stands, Stands::Keeping | Stands::Kept) {
            *stands = Stands::Closing;
            *generation += 1;
            self.holmd.generation += 1;
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.holmd.session = false;
        self.engine().disconnected();
        self.allowed.lock().unwrap().clear();
    }

    /// Everything once, and time passes. An agent that was killed begins anew.
    pub(super) fn round(&mut self) {
        self.exchange();
        self.engine().look_at(true, self.now);
        for id in self.engine().slices() {
            self.advance(id);
        }
        self.engine().clean(self.now);
        self.engine().work(self.now);
        self.now.instant += Duration::from_secs(30);
        self.now.wall_ms += 30_000;
        self.revive();
    }

    pub(super) fn advance(&self, id: SliceId) {
        // A worker that is asked again at once asks again at once, but not for ever.
        let turns = (0..1000).take_while(|_| self.engine().advance(id, self.now) == Turn::Again).count();
        assert!(turns < 1000, "{id} turns without end");
    }

    pub(super) fn revive(&mut self) {
        assert_eq!(self.host.machine().leaks, Vec::<String>::new());
        if self.fuse.is_dead() {
            self.begin(i64::MAX);
        }
    }

    /// Until nothing changes any more.
    pub(super) fn settle(&mut self) {
        let mut same = 0;
        let mut before = None;
        for _ in 0..500 {
            self.round();
            let after = (self.end(), self.holmd.generation, self.engine().version());
            same = if before.as_ref() == Some(&after) { same + 1 } else { 0 };
            // `intend` in each round counts as a change.
            before = Some((after.0, after.1, after.2 + 1));
            if same == 3 {
                return;
            }
        }
        panic!("it does not come to rest: {:#?}", self.engine().observed());
    }

    /// What is left in the end, without times.
    pub(super) fn end(&self) -> End {
        let mut machine = self.host.machine();
        machine.domains.values_mut().for_each(|domain| domain.started_ms = 0);
        let observed = self.engine().observed().unwrap_or_default();
        let slices = observed.slices.into_iter();
        let slices = slices.map(|slice| (slice.slice_id, slice.phase, slice.generation, slice.reason));
        (machine, slices.collect(), self.holmd.free.clone())
    }

    /// A and B come up, A is closed, C gets its devices.
    pub(super) fn story(&mut self) {
        self.settle();
        self.close(A);
        self.settle();
    }

    /// The same with A's disk kept until C runs on what was A's.
    pub(super) fn story_with_a_hold(&mut self) {
        self.settle();
        self.keep(A);
        self.settle();
        assert_eq!((self.stands(A), self.stands(C)), (Stands::Kept, Stands::Ready));
        assert!(self.host.machine().volumes.contains_key(&volume(slice(A))));
        self.lift(A);
        self.settle();
        // It was C's by then.
        assert!(self.host.machine().partitions.contains(&9), "the partition of what runs is up");
    }

    pub(super) fn stands(&self, number: u8) -> Stands {
        self.holmd.slices[&slice(number)].0
    }

    pub(super) fn assert_end_of_story(&self) {
        assert_eq!(
            [A, B, C].map(|number| self.stands(number)),
            [Stands::Gone, Stands::Ready, Stands::Ready],
            "{:#?}",
            self.holmd.said
        );
        let machine = self.host.machine();
        assert!(machine.domains.keys().copied().eq([slice(B), slice(C)]));
        assert!(machine.volumes.keys().copied().eq(volumes([slice(B), slice(C)])));
        let files = fs::read_dir(self.directory.path().join("record/slices")).unwrap().count();
        assert_eq!(files, 2, "what is gone is forgotten");
        assert_eq!(fs::read_dir(self.directory.path().join("record/runs")).unwrap().count(), 0);
    }
}
