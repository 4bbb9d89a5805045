//! The life of devices on both sides at once: this agent's engine on the simulated machine, and holmd's own
//! rules, under schedules in which anything is killed, fails, is lost or pulled out at any moment.
//!
//! ```text
//!   people ──▶ holmd: State, domain, reconcile::{fit, intended}     killed between any two commits
//!                │ down                      ▲ up                   messages wait, are lost with a session,
//!                ▼                           │                      reports come twice and late
//!              Engine + Record (on a disk)                          killed between any two writings and effects
//!                │
//!                ▼
//!              SimulatedHost: who wrote to which device             faults, strangers, libvirt ends, unplugging
//! ```
//!
//! What is true is asked of the machine, not of the records: it knows whose bytes are on a device, and only a
//! whole cleaning takes them off.

use super::{super::*, world, world::Fuse};
use crate::{
    edge::{
        self, Backup, DomainSpec, DomainStatus, EdgeError, GuestEvent, Host, Key, Keys, Made, Room, Seed,
        VolumeKind, VolumeState, Watch,
    },
    session::what_matters,
    simulate::SimulatedHost,
};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_control::{
    domain::{
        Change, Record as Stored, State, backup, device, disks, people,
        records::{self, Device, DeviceState, Evidence, Guest, Hold, Slice, SliceState, VolumeEvidence},
        slice::{self, Phase, Sighting},
    },
    placement::{PartitionTable, choose},
    reconcile,
};
use holm_policies::Pack;
use holm_proto::{
    ids::{BackupId, JobId, Name, PciAddress, ProjectId, RunId, SliceId, VolumeId},
    v1,
};
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::{GenericUuid as _, TypedUuid, TypedUuidKind};
use proptest::{
    prelude::*,
    test_runner::{TestError, TestRunner},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, LazyLock, atomic::Ordering},
    time::{Duration, Instant},
};

/// What levels demand, where that is told to a host.
static PACK: LazyLock<Pack> = LazyLock::new(|| Pack::builtin("aau-2018").unwrap());

/// Two pairs that the fabric can join, of the sixteen GPUs there are.
const BUSES: [u8; 4] = [0x34, 0x36, 0x39, 0x3b];
const MOST_SLICES: usize = 5;
/// Schedules, where nobody says otherwise.
const SCHEDULES: u32 = 2000;

fn gpu(number: usize) -> PciAddress {
    PciAddress { domain: 0, bus: BUSES[number % BUSES.len()], device: 0, function: 0 }
}

fn typed<K: TypedUuidKind>(text: &str) -> TypedUuid<K> {
    TypedUuid::from_untyped_uuid(uuid::Uuid::parse_str(text).unwrap())
}

/// holmd's state before anything happened: a host that is simulated, or what it says of cleaning is not believed.
fn known() -> State {
    let mut state = State::default();
    let host = "dgx".parse().unwrap();
    for change in people::invite_host(&state.clone(), &host, String::new(), "olga", Timestamp::UNIX_EPOCH) {
        let Change::Put(Stored::Host(host)) = change else { continue };
        state.apply(&[Change::Put(Stored::Host(records::Host { simulated: true, ..host }))]);
    }
    state
}

/// What a key is in these tests.
fn key_of(key: VolumeId) -> Vec<u8> {
    vec![key.as_bytes()[15]; 32]
}

fn next_of(s: &Slice, volume: VolumeId) -> Vec<u8> {
    let next = s.next_keys().iter().find(|next| next.volume == volume);
    next.map(|next| key_of(next.key)).unwrap_or_default()
}

/// As the simulated host has it of a volume.
fn fingerprint(key: VolumeId) -> String {
    HEXLOWER.encode(digest(&SHA256, &key_of(key)).as_ref())
}

/// As holmd reads it.
fn volume_evidence(told: &v1::VolumeEvidence, at: Timestamp) -> VolumeEvidence {
    VolumeEvidence {
        volume: told.volume_id.parse().unwrap(),
        erased: told.erased,
        method: told.method.clone(),
        bytes_overwritten: told.bytes_overwritten,
        bytes_discarded: told.bytes_discarded,
        took_ms: told.took_ms,
        tool: told.tool.clone(),
        detail: told.detail.clone(),
        at,
    }
}

/// The simulated machine behind a fuse. What must be on the disk before an effect is looked for there.
#[derive(Debug)]
struct Watched {
    inner: Arc<SimulatedHost>,
    record: PathBuf,
    fuse: Arc<Fuse>,
}

impl Watched {
    fn call<T>(&self, work: impl FnOnce(&SimulatedHost) -> edge::Result<T>) -> edge::Result<T> {
        Fuse::burn(Some(&self.fuse))?;
        let outcome = work(&self.inner);
        Fuse::burn(Some(&self.fuse))?;
        outcome
    }

    /// As the next agent would find it.
    fn stored(&self, device: PciAddress) -> Mark {
        let text = fs::read(self.record.join("devices")).unwrap();
        let body = text.splitn(2, |byte| *byte == b'\n').nth(1).unwrap();
        let notes: Notes = serde_json::from_slice(body).unwrap();
        notes.get(device).unwrap().mark.clone()
    }
}

impl Host for Watched {
    fn platform(&self) -> &str {
        self.inner.platform()
    }
    fn simulated(&self) -> bool {
        true
    }
    fn inventory(&self) -> edge::Result<v1::Inventory> {
        let mut inventory = self.inner.inventory()?;
        let ours: BTreeSet<String> = (0..BUSES.len()).map(|n| gpu(n).to_string()).collect();
        inventory.devices.retain(|device| ours.contains(&device.address));
        Ok(inventory)
    }
    fn commission(&self) -> v1::Commissioning {
        self.inner.commission()
    }
    fn attached(&self) -> edge::Result<BTreeSet<PciAddress>> {
        self.call(Host::attached)
    }
    fn bind(&self, device: PciAddress) -> edge::Result<()> {
        if !self.fuse.is_dead() {
            let mark = self.stored(device);
            assert!(!matches!(mark, Mark::Clean { .. }), "{device} is touched, and {}", mark.text());
        }
        self.call(|host| host.bind(device))
    }
    fn sanitise(&self, run: RunId, devices: &[PciAddress]) -> edge::Result<Vec<v1::Evidence>> {
        for device in devices.iter().filter(|_| !self.fuse.is_dead()) {
            let mark = self.stored(*device);
            assert!(matches!(mark, Mark::Dirty { .. }), "{device} is cleaned, and {}", mark.text());
        }
        // Device by device, so that a kill finds a run half done.
        let one = |device: &PciAddress| self.call(|host| host.sanitise(run, std::slice::from_ref(device)));
        let all: edge::Result<Vec<Vec<v1::Evidence>>> = devices.iter().map(one).collect();
        Ok(all?.into_iter().flatten().collect())
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
        self.call(|host| host.create_volume(volume, kind, size_gib, key))
    }
    fn image(&self) -> edge::Image {
        self.inner.image()
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
        for device in spec.devices.iter().filter(|_| !self.fuse.is_dead()) {
            let mark = self.stored(*device);
            assert_eq!(mark, Mark::Assigned { slice: spec.slice }, "{device} at the start of {}", spec.slice);
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
    fn connect_ssh(&self, _: SliceId) -> edge::Result<OwnedFd> {
        Err(EdgeError::new("nobody connects here"))
    }
}

#[derive(Debug, Clone)]
enum Up {
    Inventory(v1::Inventory),
    Observed(v1::Observed),
    Key(v1::KeyRequest),
    Report(v1::SanitiseReport),
}

#[derive(Debug, Clone)]
enum Down {
    Intended(v1::Intended),
    Key(v1::VolumeKey),
    Refused(v1::KeyRefused),
}

/// What both sides forget with a session.
#[derive(Debug, Default)]
struct Talk {
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    // The agent's.
    together: bool,
    asked: BTreeSet<KeyWanted>,
    reported: BTreeSet<String>,
    inventory: Option<v1::Inventory>,
    // holmd's.
    told: Option<v1::Intended>,
    first: Option<u64>,
    attached: Option<BTreeSet<PciAddress>>,
    notes: Option<device::Notes>,
    keyed: BTreeSet<(SliceId, u64)>,
}

struct Life {
    directory: tempfile::TempDir,
    // The agent.
    host: Arc<SimulatedHost>,
    engine: Option<Engine>,
    fuse: Arc<Fuse>,
    watch: u32,
    now: Now,
    // holmd.
    name: Name,
    state: State,
    generation: u64,
    /// Commits until it is killed.
    commits: i64,
    ids: u128,
    // Between them.
    talk: Option<Talk>,
    /// Every report that was ever sent.
    reports: Vec<v1::SanitiseReport>,
    // What is wrong with the machine.
    faults: Vec<String>,
    stranger: Option<PciAddress>,
    unplugged: BTreeSet<PciAddress>,
    /// Of slices whose machines ran.
    disks: BTreeSet<VolumeId>,
}

impl Life {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let host = Arc::new(world::World::simulated(&directory));
        let name: Name = "dgx".parse().unwrap();
        let mut life = Self {
            directory,
            host,
            engine: None,
            fuse: Fuse::new(i64::MAX),
            watch: 0,
            now: Now { instant: Instant::now() + Duration::from_secs(1 << 20), wall_ms: 1 },
            state: known(),
            generation: 0,
            commits: i64::MAX,
            ids: 0,
            talk: None,
            reports: Vec::new(),
            faults: Vec::new(),
            stranger: None,
            unplugged: BTreeSet::new(),
            disks: BTreeSet::new(),
            name,
        };
        let invited = people::invite_host(&life.state, &life.name, "h".to_owned(), "test", life.at());
        life.commit(invited);
        life.begin();
        life
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_millisecond(i64::try_from(self.now.wall_ms).unwrap()).unwrap()
    }

    fn id<K: TypedUuidKind>(&mut self) -> TypedUuid<K> {
        self.ids += 1;
        TypedUuid::from_untyped_uuid(uuid::Uuid::from_u128(self.ids))
    }

    // --- the agent

    fn begin(&mut self) {
        self.engine = None;
        self.talk = None;
        self.watch += 1;
        self.host = Arc::new(world::World::simulated(&self.directory));
        self.fuse = Fuse::new(i64::MAX);
        let path = self.directory.path().join("record");
        let host = Arc::new(Watched {
            inner: Arc::clone(&self.host),
            record: path.clone(),
            fuse: Arc::clone(&self.fuse),
        });
        let end = Instant::now() + Duration::from_secs(30);
        let (mut record, loaded) = loop {
            match Record::open(&path) {
                Err(RecordError::InUse(_)) if Instant::now() < end => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        record.fuse = Some(Arc::clone(&self.fuse));
        let limits = Limits { tries: 3, ..Limits::new(Duration::from_secs(1200), Duration::ZERO) };
        self.engine = Some(Engine::new(host, record, loaded, limits));
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn work(&self, number: usize, turns: usize) {
        let slices = self.engine().slices();
        if let Some(id) = (!slices.is_empty()).then(|| slices[number % slices.len()]) {
            let _ = (0..turns).take_while(|_| self.engine().advance(id, self.now) == Turn::Again).count();
        }
    }

    /// As `session::report`.
    fn say(&mut self) {
        let Some(mut talk) = self.talk.take() else { return };
        if talk.together {
            for wanted in self.engine().keys_wanted() {
                if talk.asked.insert(wanted.clone()) {
                    talk.up.push_back(Up::Key(v1::KeyRequest {
                        slice_id: wanted.slice.to_string(),
                        volume_id: wanted.volume.to_string(),
                        generation: wanted.generation,
                        job_id: wanted.job.map(|job| job.to_string()).unwrap_or_default(),
                    }));
                }
            }
            if let Some(inventory) = self.engine().inventory() {
                let matters = Some(what_matters(&inventory));
                if talk.inventory != matters {
                    talk.inventory = matters;
                    talk.up.push_back(Up::Inventory(inventory));
                }
            }
            let reports = self.engine().reports();
            if let Some(observed) = self.engine().observed() {
                talk.up.push_back(Up::Observed(observed));
                for report in reports {
                    if talk.reported.insert(report.run_id.clone()) {
                        self.reports.push(report.clone());
                        talk.up.push_back(Up::Report(report));
                    }
                }
            }
        }
        self.talk = Some(talk);
    }

    fn hear(&mut self) {
        let Some(down) = self.talk.as_mut().and_then(|talk| talk.down.pop_front()) else { return };
        match down {
            Down::Intended(intended) => match self.engine().intend(intended) {
                Ok(()) => self.talk.as_mut().unwrap().together = true,
                Err(Refused::Record(_)) => self.part(),
                Err(refused @ Refused::Old { .. }) => panic!("holmd went back: {refused}"),
            },
            Down::Key(key) => self.engine().take_key(key),
            Down::Refused(refused) => self.engine().refuse_key(&refused),
        }
    }

    // --- the session

    fn meet(&mut self) {
        if self.talk.is_some() {
            return;
        }
        let Ok(inventory) = self.engine().host().inventory() else { return };
        assert!(self.engine().seen() <= self.generation, "holmd is older than the agent");
        let mut talk = Talk { inventory: Some(what_matters(&inventory)), ..Talk::default() };
        let host = self.state.hosts[&self.name].clone();
        let watch = self.watch.to_string();
        let seen = self.devices(&inventory);
        let mut changes = device::inventory(&self.state, &self.name, &seen, watch == host.watch);
        changes.extend(device::bereft(&self.state, &changes));
        let backups = inventory.backups.clone();
        changes.push(Change::Put(Stored::Host(records::Host { watch, backups, ..host })));
        if self.commit(changes) {
            talk.told = None;
            self.talk = Some(talk);
        }
    }

    fn part(&mut self) {
        self.talk = None;
        self.engine().disconnected();
    }

    // --- holmd

    /// False where it was killed before; what it writes is whole or not there.
    fn commit(&mut self, changes: Vec<Change>) -> bool {
        if self.commits <= 0 {
            return false;
        }
        if !changes.is_empty() {
            self.commits -= 1;
            self.generation += 1;
            self.state.apply(&changes);
        }
        true
    }

    fn devices(&self, inventory: &v1::Inventory) -> Vec<Device> {
        let device = |d: &v1::PciDevice| Device {
            host: self.name.clone(),
            address: d.address.parse().unwrap(),
            gpu: true,
            id: d.id.clone(),
            numa_node: d.numa_node,
            iommu_group: d.iommu_group,
            physical_id: d.physical_id,
            driver: String::new(),
            reset_methods: Vec::new(),
            memory_bytes: d.memory_bytes,
            problem: String::new(),
            hardware: Default::default(),
            health: None,
            maintenance: None,
            state: DeviceState::Dirty,
            reason: String::new(),
            slice: None,
            evidence: None,
        };
        inventory.devices.iter().map(device).collect()
    }

    fn tell(&mut self) {
        let generation = self.generation;
        let wanted = reconcile::intended(
            &self.state,
            &PACK,
            &self.name,
            reconcile::Trusted { whole: "ca", terminal: "ca", recorded: "ca" },
        );
        let Some(talk) = self.talk.as_mut().filter(|_| self.commits > 0) else { return };
        if talk.told.as_ref() != Some(&wanted) {
            talk.told = Some(wanted.clone());
            talk.first.get_or_insert(generation);
            talk.down.push_back(Down::Intended(v1::Intended { generation, ..wanted }));
        }
    }

    fn listen(&mut self) {
        let Some(up) = self.talk.as_mut().filter(|_| self.commits > 0).and_then(|talk| talk.up.pop_front())
        else {
            return;
        };
        match up {
            Up::Inventory(inventory) => {
                let seen = self.devices(&inventory);
                let mut changes = device::inventory(&self.state, &self.name, &seen, true);
                changes.extend(device::bereft(&self.state, &changes));
                self.commit(changes);
            }
            Up::Observed(observed) => self.observed(&observed),
            Up::Key(request) => self.key(request),
            Up::Report(report) => self.judge(&report),
        }
    }

    fn observed(&mut self, observed: &v1::Observed) {
        let attached: BTreeSet<PciAddress> = observed.attached.iter().map(|a| a.parse().unwrap()).collect();
        let note = |d: &v1::DeviceNote| match d.mark() {
            v1::DeviceMark::Unspecified => panic!("a note of nothing"),
            v1::DeviceMark::Dirty => device::Note::Dirty(d.reason.clone()),
            v1::DeviceMark::Clean => device::Note::Clean(typed(&d.of)),
            v1::DeviceMark::Assigned => device::Note::Assigned(typed(&d.of)),
        };
        let notes: device::Notes =
            observed.devices.iter().map(|d| (d.address.parse().unwrap(), note(d))).collect();
        let talk = self.talk.as_mut().unwrap();
        let complete = talk.first.is_some_and(|first| observed.generation >= first);
        talk.attached = Some(attached.clone());
        talk.notes = Some(notes.clone());
        self.ended(&observed.jobs);
        let ids: Vec<SliceId> = self.state.slices.keys().copied().collect();
        for id in ids {
            let s = &self.state.slices[&id];
            if s.placement.is_none() || s.state.is_final() {
                continue;
            }
            let seen = observed.slices.iter().find(|seen| seen.slice_id == id.to_string());
            let sighting = match seen {
                None if !complete => continue,
                None => Sighting {
                    generation: s.generation,
                    phase: Phase::Absent,
                    reason: String::new(),
                    guest: None,
                    volume_erased: false,
                    volume: None,
                    others: Vec::new(),
                    change: None,
                },
                Some(seen) => Sighting {
                    generation: seen.generation,
                    phase: match seen.phase() {
                        v1::Phase::Unspecified => continue,
                        v1::Phase::Absent => Phase::Absent,
                        v1::Phase::Preparing => Phase::Preparing,
                        v1::Phase::Booting => Phase::Booting,
                        v1::Phase::Ready => Phase::Ready,
                        v1::Phase::Failed => Phase::Failed,
                        v1::Phase::Destroying => Phase::Destroying,
                        v1::Phase::Kept => Phase::Kept,
                    },
                    reason: seen.reason.clone(),
                    guest: seen.guest.as_ref().map(|g| Guest {
                        ssh_host_key: g.ssh_host_key.clone(),
                        gpus: g.gpus,
                        slurm: g.slurm.clone(),
                    }),
                    volume_erased: seen.volume_erased,
                    volume: seen.volume.as_ref().map(|told| volume_evidence(told, self.at())),
                    others: seen.volumes.iter().map(|told| volume_evidence(told, self.at())).collect(),
                    change: seen.change.as_ref().map(|told| disks::Changed {
                        number: told.number,
                        done: told.done,
                        note: told.note.clone(),
                    }),
                },
            };
            let begun = seen.is_none_or(|seen| !seen.steps.is_empty());
            let at = self.at();
            let changes = slice::take_back(&self.state, s, &sighting, begun, &notes, at)
                .or_else(|| slice::observe(&self.state, s, &sighting, &attached, at));
            self.commit(changes.unwrap_or_default());
        }
    }

    fn key(&mut self, request: v1::KeyRequest) {
        let id: SliceId = typed(&request.slice_id);
        let s = &self.state.slices[&id];
        let talk = self.talk.as_mut().unwrap();
        let may = if request.job_id.is_empty() {
            s.may_have_keys()
                && s.generation == request.generation
                && talk.keyed.insert((id, request.generation))
        } else {
            let drilled = s.copies.job.as_ref().filter(|job| job.kind.takes_keys());
            drilled.is_some_and(|job| job.id.to_string() == request.job_id)
        };
        talk.down.push_back(if may {
            Down::Key(v1::VolumeKey {
                slice_id: request.slice_id,
                volume_id: request.volume_id,
                generation: request.generation,
                key: key_of(s.keyed_volumes().next().unwrap().key),
                next: next_of(s, s.volume),
                others: s
                    .keyed_volumes()
                    .skip(1)
                    .map(|keyed| v1::OtherKey {
                        volume_id: keyed.volume.to_string(),
                        key: key_of(keyed.key),
                        next: next_of(s, keyed.volume),
                    })
                    .collect(),
                job_id: request.job_id,
            })
        } else {
            Down::Refused(v1::KeyRefused {
                slice_id: request.slice_id,
                generation: request.generation,
                reason: "no".to_owned(),
                later: false,
                job_id: request.job_id,
            })
        });
    }

    fn judge(&mut self, report: &v1::SanitiseReport) {
        let id: RunId = typed(&report.run_id);
        let Some(run) = self.state.runs.get(&id) else { return };
        let evidence = report.evidence.iter().map(|e| {
            let evidence = Evidence {
                run: typed(&e.run_id),
                address: e.address.parse().unwrap(),
                cleaned: e.cleaned,
                method: e.method.clone(),
                bytes_total: e.bytes_total,
                bytes_written: e.bytes_written,
                bytes_verified: e.bytes_verified,
                bytes_dirty_before: e.bytes_dirty_before,
                took_ms: e.took_ms,
                tool: e.tool.clone(),
                detail: e.detail.clone(),
                pattern: e.pattern.clone(),
                bytes_unreached: e.bytes_unreached,
                at: self.at(),
            };
            (evidence.address, evidence)
        });
        let (all, mut changes) = device::reported(&self.state, run, &evidence.collect());
        device::doubt(&mut changes, id, self.talk.as_ref().and_then(|talk| talk.notes.as_ref()));
        let last = run.slice.and_then(|id| self.state.slices.get(&id)).filter(|s| !s.state.is_final());
        if let Some(s) = last {
            changes.extend(slice::with_evidence(s, all));
        }
        self.commit(changes);
    }

    /// As `reconcile::round`.
    fn round(&mut self) {
        let reported =
            self.talk.as_ref().and_then(|talk| Some((talk.attached.clone()?, talk.notes.clone()?)));
        if let Some((attached, notes)) = &reported {
            let changes = device::in_use_by_others(&self.state, &self.name, attached);
            self.commit(changes);
            let changes = device::noted(&self.state, &self.name, notes);
            self.commit(changes);
            let mut busy = attached.clone();
            busy.extend(device::unnoted(&self.state, &self.name, notes));
            loop {
                let id = self.id();
                let run = device::order_run(&self.state, &self.name, &busy, id, self.at());
                let Some((_, changes)) = run else { break };
                if !self.commit(changes) {
                    break;
                }
            }
        }
        let ids: Vec<SliceId> = self.state.slices.keys().copied().collect();
        for id in ids {
            let job: JobId = self.id();
            let (s, at) = (&self.state.slices[&id], self.at());
            let changes = match s.state {
                SliceState::Approved if reported.is_some() => {
                    let placement = self.fit(s.gpus);
                    placement.map(|placement| slice::place(&self.state, s, placement, at).unwrap())
                }
                SliceState::Placed if s.key_fingerprint.is_empty() => {
                    let prints = s.keyed_volumes().map(|keyed| (keyed.volume, "0123".to_owned()));
                    Some(slice::keyed(s, &prints.collect()))
                }
                SliceState::Keeping | SliceState::Kept if slice::kept_by(&self.state, s, at).is_none() => {
                    Some(slice::end_keeping(s, at))
                }
                SliceState::Closing | SliceState::Destroying if s.key_destroyed.is_none() => {
                    Some(slice::key_destroyed(s, at))
                }
                SliceState::Closing | SliceState::Destroying
                    if !s.copies.backups.is_empty()
                        && s.copies.removal.is_none()
                        && s.copies.job.is_none() =>
                {
                    backup::remove(s, job, at)
                }
                SliceState::Destroying if slice::remains(&self.state, s).is_empty() => {
                    let certificate = records::Certificate { body: String::new(), note: String::new() };
                    Some(slice::destroyed(s, certificate, at))
                }
                _ => None,
            };
            self.commit(changes.unwrap_or_default());
            let s = &self.state.slices[&id];
            let prints = s.all_keys().into_iter().map(|key| (key, "4567".to_owned())).collect();
            let made = (s.due_change().is_none()).then(|| disks::made(s, &prints)).flatten();
            self.commit(made.unwrap_or_default());
            let s = &self.state.slices[&id];
            if !s.spent.is_empty() {
                self.commit(disks::spent(s, &s.spent.clone()));
            }
        }
    }

    /// The partition that holmd would choose of the GPUs that are free. Processors, memory and disk are not what
    /// this is about.
    fn fit(&self, gpus: u32) -> Option<records::Placement> {
        let free: BTreeMap<u32, PciAddress> = self
            .state
            .host_devices(&self.name)
            .filter(|d| d.state == DeviceState::Free && d.problem.is_empty())
            .filter_map(|d| Some((d.physical_id?, d.address)))
            .collect();
        let table = PartitionTable::dgx2();
        let occupied = table.physical_ids().filter(|id| !free.contains_key(id)).collect();
        let partition = choose(&table, &occupied, gpus).ok()?;
        let devices = table.members(partition).iter().map(|id| free[id]).collect();
        Some(records::Placement { host: self.name.clone(), partition, devices, nodes: Vec::new() })
    }

    // --- people

    fn request(&mut self, gpus: u32) {
        if self.state.slices.len() >= MOST_SLICES {
            return;
        }
        let (id, volume): (SliceId, VolumeId) = (self.id(), self.id());
        // Some have a disk for data and one to work on.
        let other = |id, kind| records::OtherVolume {
            id,
            kind,
            size_gib: 1,
            key_fingerprint: String::new(),
            evidence: None,
            key: None,
        };
        let others = match self.ids % 3 {
            0 => Vec::new(),
            _ => vec![
                other(self.id(), records::VolumeKind::Data),
                other(self.id(), records::VolumeKind::Scratch),
            ],
        };
        let lead: Name = "dina".parse().unwrap();
        let project = ProjectId::from_untyped_uuid(uuid::Uuid::from_u128(1 << 100));
        let mut changes = vec![Change::Put(Stored::Project(records::Project {
            id: project,
            name: "heart".parse().unwrap(),
            level: "2".to_owned(),
            level_name: "confidential".to_owned(),
            purpose: String::new(),
            lead: lead.clone(),
            members: Vec::new(),
            readers: BTreeSet::new(),
            created: self.at(),
            pack: String::new(),
            department: String::new(),
            hold: None,
            disk_gib: None,
            registration: Default::default(),
            agreements: Default::default(),
            warned: Vec::new(),
            data_sets: Vec::new(),
            ended: None,
            declassification: None,
        }))];
        changes.push(Change::Put(Stored::Slice(Box::new(Slice {
            id,
            project,
            name: format!("s{}", self.ids).parse().unwrap(),
            level: "2".to_owned(),
            level_name: "confidential".to_owned(),
            gpus,
            vcpus: 6,
            memory_mib: 1024,
            disk_gib: 10,
            others,
            state: SliceState::Approved,
            reason: String::new(),
            requested_by: lead,
            requested: self.at(),
            approvals: Vec::new(),
            approvals_needed: 0,
            placement: None,
            volume,
            key_fingerprint: String::new(),
            key_given: None,
            key_destroyed: None,
            generation: 0,
            changed: self.at(),
            guest: None,
            volume_evidence: None,
            from: None,
            until: None,
            placed: None,
            evidence: Vec::new(),
            detached: None,
            certificate: None,
            closed_by: None,
            closed_at: None,
            hold: None,
            keep_until: None,
            released: None,
            used: false,
            worked: false,
            past: Vec::new(),
            key: None,
            retired: Vec::new(),
            change: None,
            spent: Vec::new(),
            lease: None,
            renewed: Vec::new(),
            ended: None,
            extension: None,
            scheduler: Vec::new(),
            drain: None,
            enlarged: Vec::new(),
            resized: None,
            copies: Default::default(),
        }))));
        self.commit(changes);
    }

    /// Whatever its lead may do to be rid of it.
    fn end_slice(&mut self, number: usize) {
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        // Of some the level wants the disk for a while.
        let keep = SignedDuration::from_secs(if number % 2 == 1 { 40 } else { 0 });
        let changes = slice::close(&self.state, s, Some(&"dina".parse().unwrap()), keep, self.at())
            .or_else(|_| slice::withdraw(s, self.at()))
            .unwrap_or_default();
        self.commit(changes);
    }

    fn hold(&mut self, number: usize, freeze: bool) {
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        let hold = Hold { by: "frida".parse().unwrap(), at: self.at(), reason: "a case".to_owned() };
        let changes = slice::hold(s, hold, freeze).unwrap_or_default();
        self.commit(changes);
    }

    fn lift(&mut self, number: usize) {
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        let changes = slice::lift(s).unwrap_or_default();
        self.commit(changes);
    }

    fn stop(&mut self, number: usize) {
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        let changes = slice::stop(s, &"dina".parse().unwrap(), self.at()).unwrap_or_default();
        self.commit(changes);
    }

    fn start(&mut self, number: usize, rebuild: bool) {
        let volume = self.id();
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        let changes = slice::start(&self.state, s, rebuild.then_some(volume), self.at()).unwrap_or_default();
        self.commit(changes);
    }

    fn grow(&mut self, number: usize) {
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        let home = s.others.iter().find(|other| other.kind == records::VolumeKind::Data);
        let sizes = disks::Sizes {
            disk: Some(s.disk_gib + 1),
            home: home.map(|home| home.size_gib + 1),
            scratch: None,
        };
        let changes = disks::grow(s, &sizes, &"dina".parse().unwrap(), self.at()).unwrap_or_default();
        self.commit(changes);
    }

    fn rekey(&mut self, number: usize) {
        let fresh: Vec<VolumeId> = (0..2).map(|_| self.id()).collect();
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        let mut fresh = fresh.into_iter();
        let changes =
            disks::rekey(&self.state, s, || fresh.next().unwrap(), &"dina".parse().unwrap(), self.at());
        self.commit(changes.unwrap_or_default());
    }

    /// Something is begun with its disks or backups: made, tried, restored, or encrypted anew.
    fn copy(&mut self, number: usize, kind: backup::JobKind) {
        let (id, job) = (self.id(), self.id());
        let Some(s) = self.state.slices.values().nth(number % MOST_SLICES) else { return };
        let wish = backup::Wish { job, by: "dina".parse().unwrap(), now: self.at() };
        let changes = match kind {
            backup::JobKind::Backup => backup::back_up(&self.state, s, id, 2, &wish),
            backup::JobKind::Reencrypt => backup::reencrypt(&self.state, s, &wish),
            backup::JobKind::Drill => backup::drill(&self.state, s, None, &wish),
            backup::JobKind::Restore | backup::JobKind::Remove => {
                let newest = s.copies.newest().map_or(id, |newest| newest.id);
                backup::restore(&self.state, s, newest, &wish)
            }
        };
        self.commit(changes.unwrap_or_default());
    }

    /// As `api::jobs`.
    fn ended(&mut self, jobs: &[v1::ObservedJob]) {
        for job in jobs {
            let id: JobId = typed(&job.job_id);
            let failed = match job.phase() {
                v1::JobPhase::Done => None,
                v1::JobPhase::Failed => Some(job.reason.clone()),
                v1::JobPhase::Running | v1::JobPhase::Unspecified => continue,
            };
            let told = backup::Told {
                job: id,
                failed,
                sha256: job.manifest_sha256.clone(),
                bytes: job.total_bytes,
                stored_bytes: job.stored_bytes,
                method: job.method.clone(),
                removed: job.removed.iter().map(|id| typed(id)).collect(),
            };
            let (following, at) = (self.id(), self.at());
            let changes = self.state.slices.values().find_map(|s| backup::told(s, &told, following, at));
            self.commit(changes.unwrap_or_default());
        }
    }

    fn release(&mut self, device: PciAddress) {
        let device = self.state.devices.get(&(self.name.clone(), device));
        let released = device.and_then(|d| device::release(d, &"olga".parse().unwrap(), "looked at").ok());
        self.commit(released.into_iter().collect());
    }

    // --- what happens

    fn write_faults(&self) {
        let mut lines = self.faults.clone();
        lines.extend(self.stranger.iter().map(|device| format!("used:{device}")));
        lines.extend(self.unplugged.iter().map(|device| format!("absent:{device}")));
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.directory.path().join("host/faults"), text).unwrap();
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Request(gpus) => self.request(*gpus),
            Event::End(number) => self.end_slice(*number),
            Event::Hold(number, freeze) => self.hold(*number, *freeze),
            Event::Lift(number) => self.lift(*number),
            Event::Stop(number) => self.stop(*number),
            Event::Start(number, rebuild) => self.start(*number, *rebuild),
            Event::Grow(number) => self.grow(*number),
            Event::Rekey(number) => self.rekey(*number),
            Event::Copy(number, kind) => self.copy(*number, *kind),
            Event::Job => drop(self.engine().work(self.now)),
            Event::Release(number) => self.release(gpu(*number)),
            Event::Round => self.round(),
            Event::Work(number, turns) => self.work(*number, *turns),
            Event::Clean => drop(self.engine().clean(self.now)),
            Event::Look => drop(self.engine().look_at(true, self.now)),
            Event::Meet => self.meet(),
            Event::Part => self.part(),
            Event::Say => self.say(),
            Event::Listen(messages) => (0..*messages).for_each(|_| self.listen()),
            Event::Tell => self.tell(),
            Event::Hear => self.hear(),
            Event::Again(which) => {
                // What was reported once comes again, however late.
                if !self.reports.is_empty() && self.talk.is_some() {
                    self.judge(&self.reports[which.index(self.reports.len())].clone());
                }
            }
            Event::Time(seconds) => self.pass(*seconds),
            Event::KillAgent(moments) => self.fuse.left.store(*moments, Ordering::Relaxed),
            Event::KillHolmd(commits) => self.commits = *commits,
            Event::Damage => {
                self.engine = None;
                let path = self.directory.path().join("record/devices");
                if let Ok(whole) = fs::read(&path) {
                    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
                }
                self.begin();
            }
            Event::Fault(fault) => {
                self.faults = vec![(*fault).to_owned()];
                self.write_faults();
            }
            Event::LibvirtEnds => {
                // It is started again, and every machine has gone with it.
                let machines = self.host.machine().domains;
                self.faults = machines.keys().map(|slice| format!("gone:{slice}")).collect();
                self.faults.push("fail:domains:2".to_owned());
                self.write_faults();
            }
            Event::Stranger(number) => {
                let taken = self.engine().lock().notes.assigned(gpu(*number)).is_some();
                let held = self.host.machine().holder(gpu(*number)).is_some();
                if self.stranger.is_none() && !taken && !held {
                    self.stranger = Some(gpu(*number));
                    self.write_faults();
                    // It writes.
                    let _ = self.host.domains();
                }
            }
            Event::Leaves => {
                self.leave();
            }
            Event::Unplug(number) => {
                self.unplugged.insert(gpu(*number));
                self.write_faults();
            }
            Event::Plug => {
                self.unplugged.clear();
                self.write_faults();
            }
            Event::All => self.all(),
        }
        self.revive();
    }

    /// One who came and went between two looks is not seen: that is known, and documented.
    fn leave(&mut self) {
        let noticed = self.stranger.is_some_and(|device| {
            let notes = self.engine().lock().notes.clone();
            !matches!(notes.get(device).map(|note| &note.mark), Some(Mark::Clean { .. }))
        });
        if noticed {
            self.stranger = None;
            self.write_faults();
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.wall_ms += seconds * 1000;
    }

    /// Everything once.
    fn all(&mut self) {
        self.meet();
        self.engine().look_at(true, self.now);
        self.say();
        while self.commits > 0 && self.talk.as_ref().is_some_and(|talk| !talk.up.is_empty()) {
            self.listen();
        }
        self.round();
        self.tell();
        while self.talk.as_ref().is_some_and(|talk| !talk.down.is_empty()) {
            self.hear();
        }
        for number in 0..self.engine().slices().len() {
            self.work(number, 50);
        }
        self.engine().clean(self.now);
        self.engine().work(self.now);
    }

    fn revive(&mut self) {
        if self.fuse.is_dead() {
            self.begin();
        }
        if self.commits <= 0 {
            // What is on its disk is what it knows.
            let text = serde_json::to_vec(&self.state.records()).unwrap();
            let mut state = known();
            for record in serde_json::from_slice::<Vec<Stored>>(&text).unwrap() {
                state.apply(&[Change::Put(record)]);
            }
            assert_eq!(state, self.state);
            self.state = state;
            self.commits = i64::MAX;
            self.part();
        }
    }

    // --- what must be so

    fn check(&mut self) {
        let machine = self.host.machine();
        assert_eq!(machine.leaks, Vec::<String>::new());
        let mut held = BTreeSet::new();
        for device in machine.domains.values().filter(|d| d.running).flat_map(|d| &d.devices) {
            assert!(held.insert(*device), "{device} is in two machines");
        }
        let tenant = |device: &PciAddress| machine.memory.get(device).and_then(|written| written.by);
        for device in self.state.devices.values() {
            let address = device.address;
            if device.state == DeviceState::Free {
                assert_eq!(tenant(&address), None, "{address} is free, with a tenant's bytes on it");
                assert!(!held.contains(&address), "{address} is free, and a machine has it");
                let evidence = device.evidence.as_ref().expect("free without evidence");
                assert!(evidence.cleaned && evidence.bytes_verified == device.memory_bytes);
            }
            let owners = self.state.slices.values().filter(|s| {
                s.holds_devices()
                    && !s.state.is_final()
                    && s.placement.iter().any(|p| p.devices.contains(&address))
            });
            assert!(owners.count() <= 1, "{address} has two owners");
            if device.state == DeviceState::Quarantined {
                assert!(!device.reason.is_empty());
            }
        }
        for s in self.state.slices.values() {
            let kept = s.hold.is_some() || matches!(s.state, SliceState::Keeping | SliceState::Kept);
            assert!(!kept || s.key_destroyed.is_none(), "{} is kept, without its key", s.name);
            if matches!(s.state, SliceState::Booting | SliceState::Ready) {
                self.disks.insert(s.volume);
            }
            // Stopped and started however often, it has the disk that it had.
            let goes = matches!(s.state, SliceState::Closing | SliceState::Destroying) || s.state.is_final();
            if !goes && self.disks.contains(&s.volume) {
                assert!(machine.volumes.contains_key(&s.volume), "{} is without its disk", s.name);
            }
            // And what opens a disk holmd has, whoever was killed while it was changed.
            for keyed in s.keyed_volumes().filter(|_| !goes && s.key_destroyed.is_none()) {
                let Some(disk) = machine.volumes.get(&keyed.volume) else { continue };
                let next = s.next_keys().iter().filter(|next| next.volume == keyed.volume);
                let mut keys = next.map(|next| next.key).chain([keyed.key]);
                assert!(keys.any(|key| fingerprint(key) == disk.key), "{}: nothing opens {disk:?}", s.name);
            }
            assert!(s.retired.iter().all(|old| old.id != s.volume), "{}", s.name);
            // Who is told that there is a backup has one.
            let whole = s.copies.backups.iter().filter(|b| !goes && b.made.is_some() && !b.going);
            for backup in whole {
                assert!(machine.backups.contains_key(&backup.id), "{}: {backup:?} is not there", s.name);
            }
        }
        for (device, note) in self.engine().lock().notes.iter() {
            if matches!(note.mark, Mark::Clean { .. }) {
                assert_eq!(tenant(&device), None, "{device} is noted clean, with a tenant's bytes on it");
                assert!(!held.contains(&device), "{device} is noted clean, and a machine has it");
            }
        }
    }

    /// All is well again, and nobody asks for anything, until nothing changes any more.
    fn settle(&mut self) {
        let mut same = 0;
        for _ in 0..300 {
            let before = self.state.clone();
            self.all();
            self.pass(30);
            self.revive();
            self.check();
            same = if before == self.state { same + 1 } else { 0 };
            if same == 4 {
                return;
            }
        }
        panic!("it does not come to rest: {:#?} {:#?}", self.state.slices, self.engine().observed());
    }

    /// Nothing is lost: each device is free, in a slice's hands, or set aside for a reason.
    fn account(&self) {
        for device in self.state.devices.values() {
            let owner = device.slice.and_then(|id| self.state.slices.get(&id));
            let fine = match device.state {
                DeviceState::Free => true,
                DeviceState::Quarantined => !device.reason.is_empty(),
                DeviceState::Claimed | DeviceState::Assigned => {
                    owner.is_some_and(|s| !s.state.is_final() && s.holds_devices())
                }
                DeviceState::Dirty | DeviceState::Sanitising => false,
            };
            let said = self.engine().observed();
            assert!(fine, "{device:#?} is lost: {owner:#?} {said:#?} {:#?}", self.state.runs);
        }
        assert!(self.state.runs.is_empty());
    }

    fn end(&mut self) {
        self.faults.clear();
        self.unplugged.clear();
        self.write_faults();
        self.fuse.left.store(i64::MAX, Ordering::Relaxed);
        self.commits = i64::MAX;
        while self.stranger.is_some() {
            self.engine().look_at(true, self.now);
            self.leave();
        }
        self.settle();
        self.account();
        // Everybody goes home.
        (0..MOST_SLICES).for_each(|number| self.lift(number));
        // What waits to be started again is stopped first.
        let waits = |s: &Slice| s.home().is_some();
        let waits: Vec<bool> = self.state.slices.values().map(waits).collect();
        (0..MOST_SLICES).filter(|n| waits.get(*n) == Some(&true)).for_each(|number| self.stop(number));
        (0..MOST_SLICES).for_each(|number| self.end_slice(number));
        self.settle();
        self.account();
        for s in self.state.slices.values() {
            assert!(s.state.is_final(), "{s:#?} {:#?}", self.engine().observed());
        }
        // An operator has looked at what was set aside.
        (0..BUSES.len()).for_each(|number| self.release(gpu(number)));
        self.settle();
        assert_eq!(self.state.devices.len(), BUSES.len());
        for device in self.state.devices.values() {
            assert_eq!(device.state, DeviceState::Free, "{device:#?}");
        }
        let machine = self.host.machine();
        for s in self.state.slices.values() {
            let failed = s.copies.removal.as_ref().is_some_and(|removal| !removal.failed.is_empty());
            let left = s.copies.backups.iter().any(|backup| machine.backups.contains_key(&backup.id));
            assert!(failed || !left, "a backup outlives its slice, and nobody says so: {s:#?}");
            assert!(s.copies.job.is_none(), "{s:#?}");
        }
        assert!(machine.domains.is_empty() && machine.partitions.is_empty() && machine.seeds.is_empty());
        assert!(machine.volumes.is_empty(), "{:?}", machine.volumes);
        assert!((0..BUSES.len()).all(|number| !machine.memory.contains_key(&gpu(number))));
    }
}

#[derive(Debug, Clone)]
enum Event {
    Request(u32),
    End(usize),
    Hold(usize, bool),
    Lift(usize),
    Stop(usize),
    Start(usize, bool),
    Grow(usize),
    Rekey(usize),
    Copy(usize, backup::JobKind),
    Job,
    Release(usize),
    Round,
    Work(usize, usize),
    Clean,
    Look,
    Meet,
    Part,
    Say,
    Listen(usize),
    Tell,
    Hear,
    Again(prop::sample::Index),
    Time(u64),
    KillAgent(i64),
    KillHolmd(i64),
    Damage,
    Fault(&'static str),
    LibvirtEnds,
    Stranger(usize),
    Leaves,
    Unplug(usize),
    Plug,
    All,
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop::sample::select(vec![
        "",
        "fail:bind",
        "fail-after:bind",
        "fail:start_domain:4",
        "fail-after:start_domain",
        "fail:finish_volume",
        "fail:destroy_domain",
        "fail-after:destroy_domain",
        "fail:erase_volume",
        "fail:attached:2",
        "fail:domains:3",
        "fail:sanitise",
        "fail-after:sanitise",
        "fail-after:deactivate_partition",
        "fail:inventory",
        "stuck:0000:34:00.0",
        "held:0000:36:00.0",
    ]);
    prop_oneof![
        6 => prop::sample::select(vec![1, 1, 2]).prop_map(Event::Request),
        3 => (0..MOST_SLICES).prop_map(Event::End),
        2 => (0..MOST_SLICES, any::<bool>()).prop_map(|(n, freeze)| Event::Hold(n, freeze)),
        1 => (0..MOST_SLICES).prop_map(Event::Lift),
        3 => (0..MOST_SLICES).prop_map(Event::Stop),
        5 => (0..MOST_SLICES, any::<bool>()).prop_map(|(n, rebuild)| Event::Start(n, rebuild)),
        2 => (0..MOST_SLICES).prop_map(Event::Grow),
        2 => (0..MOST_SLICES).prop_map(Event::Rekey),
        4 => ((0..MOST_SLICES), prop_oneof![
            3 => Just(backup::JobKind::Backup),
            1 => Just(backup::JobKind::Drill),
            1 => Just(backup::JobKind::Reencrypt),
            1 => Just(backup::JobKind::Restore),
        ]).prop_map(|(number, kind)| Event::Copy(number, kind)),
        4 => Just(Event::Job),
        1 => (0..BUSES.len()).prop_map(Event::Release),
        6 => Just(Event::Round),
        6 => (0..MOST_SLICES, prop::sample::select(vec![1, 3, 50])).prop_map(|(n, turns)| Event::Work(n, turns)),
        4 => Just(Event::Clean),
        4 => Just(Event::Look),
        3 => Just(Event::Meet),
        1 => Just(Event::Part),
        5 => Just(Event::Say),
        6 => (1usize..4).prop_map(Event::Listen),
        5 => Just(Event::Tell),
        5 => Just(Event::Hear),
        1 => any::<prop::sample::Index>().prop_map(Event::Again),
        2 => (1u64..700).prop_map(Event::Time),
        4 => (0i64..16).prop_map(Event::KillAgent),
        3 => (0i64..4).prop_map(Event::KillHolmd),
        1 => Just(Event::Damage),
        3 => fault.prop_map(Event::Fault),
        1 => Just(Event::LibvirtEnds),
        1 => (0..BUSES.len()).prop_map(Event::Stranger),
        1 => Just(Event::Leaves),
        1 => (0..BUSES.len()).prop_map(Event::Unplug),
        1 => Just(Event::Plug),
        16 => Just(Event::All),
    ]
}

fn live(events: &[Event]) {
    let mut life = Life::new();
    for event in events {
        life.happen(event);
        life.check();
    }
    life.end();
}

#[test]
fn no_device_is_free_without_evidence_and_none_is_lost() {
    let schedules = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let schedules: u32 = schedules.unwrap_or(SCHEDULES);
    let threads = u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let config = ProptestConfig {
                    cases: schedules.div_ceil(threads),
                    max_shrink_iters: std::env::var("PROPTEST_MAX_SHRINK_ITERS")
                        .ok()
                        .and_then(|t| t.parse().ok())
                        .unwrap_or(3000),
                    failure_persistence: None,
                    ..ProptestConfig::default()
                };
                let outcome = TestRunner::new(config).run(&prop::collection::vec(event(), 0..80), |events| {
                    live(&events);
                    Ok(())
                });
                if let Err(TestError::Fail(why, events)) = outcome {
                    panic!("{why}\n{events:#?}");
                }
            });
        }
    });
}

/// Two slices that run: the first on a pair, the second on one device.
fn two_that_run() -> Life {
    let mut life = Life::new();
    life.request(2);
    life.settle();
    life.request(1);
    life.settle();
    assert!(life.state.slices.values().all(|s| s.state == SliceState::Ready));
    life
}

#[test]
fn a_device_pulled_out_of_a_running_machine_is_set_aside_and_the_rest_goes_on() {
    let mut life = two_that_run();
    let first = life.state.slices.keys().next().copied().unwrap();
    let gone = life.state.slices[&first].placement.as_ref().unwrap().devices[0];
    let number = (0..BUSES.len()).find(|number| gpu(*number) == gone).unwrap();
    life.happen(&Event::Unplug(number));
    life.settle();
    let device = |life: &Life| life.state.devices[&(life.name.clone(), gone)].clone();
    assert_eq!(
        (device(&life).state, device(&life).reason.as_str()),
        (DeviceState::Quarantined, device::GONE)
    );
    assert!(life.state.slices[&first].reason.contains(&gone.to_string()));
    assert!(life.state.slices.values().all(|s| s.state == SliceState::Ready), "both run on");
    life.happen(&Event::End(0));
    life.settle();
    let ended = life.state.slices[&first].clone();
    assert_eq!(ended.state, SliceState::Destroyed);
    assert_eq!(ended.evidence.len(), 1, "of the device that is there");
    let states: Vec<SliceState> = life.state.slices.values().map(|s| s.state).collect();
    assert_eq!(states, [SliceState::Destroyed, SliceState::Ready]);
    // It stays set aside when it is back, until an operator has looked; then it is cleaned.
    life.happen(&Event::Plug);
    life.settle();
    assert_eq!(device(&life).state, DeviceState::Quarantined);
    assert!(life.host.machine().memory.contains_key(&gone), "with what its tenant left on it");
    life.release(gone);
    life.settle();
    assert_eq!(device(&life).state, DeviceState::Free);
    life.end();
}

#[test]
fn where_the_record_of_devices_is_damaged_all_are_dirty_and_it_is_said_aloud() {
    let mut life = two_that_run();
    life.happen(&Event::Damage);
    let notes = life.engine().lock().notes.clone();
    assert_eq!(notes, Notes::default());
    life.engine().look_at(true, life.now);
    let notes = life.engine().lock().notes.clone();
    let machines = life.host.machine();
    for number in 0..BUSES.len() {
        // Machines that run have what they have.
        assert_eq!(notes.assigned(gpu(number)), machines.holder(gpu(number)));
        assert!(!matches!(notes.get(gpu(number)).unwrap().mark, Mark::Clean { .. }));
    }
    let told = life.engine().observed().unwrap().disagreements;
    assert!(told[0].found.contains("damaged") && told[0].done == "every device is dirty", "{told:?}");
    assert_eq!(told.len(), 1 + 3, "and three devices that machines have: {told:?}");
    // Told until holmd has heard it, and then no more.
    life.settle();
    life.request(1);
    life.settle();
    life.request(1);
    life.settle();
    assert_eq!(life.engine().observed().unwrap().disagreements, []);
    life.end();
}
