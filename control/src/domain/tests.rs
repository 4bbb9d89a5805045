//! Whatever happens, in whatever order: random lives of devices and slices on one host, half of them as
//! a good holmd and agent would have it, half as nobody should.

use super::device::{self, Report};
use super::project::Membership;
use super::records::{
    Certificate, Change, Device, DeviceState, Evidence, Guest, Hold, Invitation, OtherVolume, Person,
    Placement, Project, Record, Run, Slice, SliceState, Subject, VolumeEvidence, VolumeKind,
};
use super::register::Filed;
use super::slice::{self, Phase, Sighting};
use super::{Refusal, RefusalKind, State, people, project, register};
use holm_proto::ids::{Name, PciAddress, ProjectId, RunId, SliceId, VolumeId};
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid;
use proptest::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

const GPUS: u8 = 3;
const MEMORY: u64 = 32 << 30;

/// No more than a slice was asked for under.
const ONE: slice::Demands<'static> = slice::Demands { approvals: 1, outside: None, lease_days: 0 };

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A project of this level that ada leads and is alone in.
pub(super) fn heart(level: &str) -> Project {
    Project {
        id: ProjectId::new_v4(),
        name: name("heart"),
        level: level.to_owned(),
        level_name: level.to_owned(),
        purpose: "beats".to_owned(),
        lead: name("ada"),
        members: vec![name("ada")],
        readers: BTreeSet::new(),
        created: now(0),
        pack: "aau-2018/1".to_owned(),
        department: String::new(),
        hold: None,
        disk_gib: None,
        registration: Default::default(),
        agreements: Default::default(),
        warned: Vec::new(),
        data_sets: Vec::new(),
        ended: None,
        declassification: None,
    }
}

fn host() -> Name {
    name("dgx")
}

fn now(second: usize) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn address(n: u8) -> PciAddress {
    PciAddress { domain: 0, bus: 0x34 + n, device: 0, function: 0 }
}

fn addresses(bits: u8) -> BTreeSet<PciAddress> {
    (0..GPUS).filter(|n| bits >> n & 1 == 1).map(address).collect()
}

/// A device as an agent reports it, in a state that no agent may decide.
fn seen(n: u8, id: &str) -> Device {
    Device {
        host: host(),
        address: address(n),
        gpu: true,
        id: id.to_owned(),
        numa_node: 0,
        iommu_group: Some(u32::from(n)),
        physical_id: Some(u32::from(n) + 1),
        driver: "vfio-pci".to_owned(),
        reset_methods: vec!["bus".to_owned()],
        memory_bytes: MEMORY,
        problem: String::new(),
        hardware: Default::default(),
        health: None,
        state: DeviceState::Free,
        reason: String::new(),
        slice: None,
        evidence: None,
        maintenance: None,
    }
}

fn slice_id(n: u8) -> SliceId {
    SliceId::from_untyped_uuid(Uuid::from_u128(u128::from(n) + 1))
}

pub(crate) fn requested(n: u8, gpus: u32, needed: u32, second: usize) -> Slice {
    Slice {
        id: slice_id(n),
        project: ProjectId::from_untyped_uuid(Uuid::from_u128(99)),
        name: name(&format!("s{n}")),
        level: "2".to_owned(),
        level_name: "confidential".to_owned(),
        gpus,
        vcpus: 6,
        memory_mib: 92_160,
        disk_gib: 100,
        others: others(n),
        state: SliceState::Requested,
        reason: String::new(),
        requested_by: name("ada"),
        requested: now(second),
        approvals: vec![],
        approvals_needed: needed,
        placement: None,
        volume: VolumeId::from_untyped_uuid(Uuid::from_u128(u128::from(n) + 1)),
        key_fingerprint: String::new(),
        key_given: None,
        key_destroyed: None,
        generation: 0,
        changed: now(second),
        guest: None,
        evidence: vec![],
        detached: None,
        certificate: None,
        closed_by: None,
        closed_at: None,
        hold: None,
        keep_until: None,
        released: None,
        volume_evidence: None,
        from: None,
        until: None,
        placed: None,
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
        copies: Default::default(),
        scheduler: Vec::new(),
        drain: None,
        enlarged: Vec::new(),
        resized: None,
    }
}

/// Some have other disks.
fn others(n: u8) -> Vec<OtherVolume> {
    let other = |kind, at: u128| OtherVolume {
        id: VolumeId::from_untyped_uuid(Uuid::from_u128(u128::from(n) + at)),
        kind,
        size_gib: 1,
        key_fingerprint: String::new(),
        evidence: None,
        key: None,
    };
    match n % 2 {
        0 => vec![other(VolumeKind::Data, 1 << 32), other(VolumeKind::Scratch, 1 << 33)],
        _ => Vec::new(),
    }
}

fn erasure(volume: VolumeId, erased: bool, at: Timestamp) -> VolumeEvidence {
    VolumeEvidence {
        volume,
        erased,
        method: "luks-header, discard".to_owned(),
        bytes_overwritten: if erased { MEMORY } else { 0 },
        bytes_discarded: 0,
        took_ms: 1,
        tool: "holm-agent/1".to_owned(),
        detail: String::new(),
        at,
    }
}

fn certificate() -> Certificate {
    Certificate { body: "{}".to_owned(), note: "a note".to_owned() }
}

fn evidence(run: RunId, address: PciAddress, at: Timestamp) -> Evidence {
    Evidence {
        run,
        address,
        cleaned: true,
        method: "bar".to_owned(),
        pattern: "zero".to_owned(),
        bytes_unreached: 0,
        bytes_total: MEMORY,
        bytes_written: MEMORY,
        bytes_verified: MEMORY,
        bytes_dirty_before: 0,
        took_ms: 60_000,
        tool: "holm-scrub/1".to_owned(),
        detail: "cleaned".to_owned(),
        at,
    }
}

/// How a report of one device is less than it should be.
#[derive(Debug, Clone, Copy)]
enum Flaw {
    None,
    Missing,
    NotCleaned,
    OtherRun,
    LessMemory,
    LessWritten,
    LessVerified,
    NoMemory,
}

#[derive(Debug, Clone)]
enum Op {
    /// What should happen next with this slice.
    Advance(u8),
    /// What should happen next with the devices.
    Tidy,
    Request {
        n: u8,
        gpus: u32,
        needed: u32,
    },
    Approve {
        n: u8,
        by: u8,
    },
    Reject(u8),
    Withdraw(u8),
    Place {
        n: u8,
        devices: u8,
    },
    See {
        n: u8,
        older: u64,
        phase: u8,
        gpus: u32,
        erased: bool,
        attached: u8,
    },
    Close(u8),
    Hold {
        n: u8,
        freeze: bool,
    },
    Lift(u8),
    Stop(u8),
    Start(u8),
    /// As soon as nothing keeps it.
    EndKeeping(u8),
    Inventory {
        present: u8,
        exchanged: u8,
        watched: bool,
    },
    InUse(u8),
    /// What the agent's own record says of each device.
    Noted([u8; GPUS as usize]),
    /// The same, of a slice for which nothing was begun.
    TakeBack {
        n: u8,
        marks: [u8; GPUS as usize],
    },
    Order(u8),
    Report {
        run: prop::sample::Index,
        flaws: [Flaw; GPUS as usize],
    },
    Release(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..4_u8;
    let flaw = || {
        prop_oneof![
            6 => Just(Flaw::None),
            1 => Just(Flaw::Missing),
            1 => Just(Flaw::NotCleaned),
            1 => Just(Flaw::OtherRun),
            1 => Just(Flaw::LessMemory),
            1 => Just(Flaw::LessWritten),
            1 => Just(Flaw::LessVerified),
            1 => Just(Flaw::NoMemory),
        ]
    };
    let sighting = (n.clone(), 0..2_u64, 0..7_u8, 0..3_u32, any::<bool>(), 0..8_u8).prop_map(
        |(n, older, phase, gpus, erased, attached)| Op::See { n, older, phase, gpus, erased, attached },
    );
    prop_oneof![
        24 => n.clone().prop_map(Op::Advance),
        8 => Just(Op::Tidy),
        2 => (n.clone(), 1..3_u32, 1..3_u32).prop_map(|(n, gpus, needed)| Op::Request { n, gpus, needed }),
        2 => (n.clone(), 0..3_u8).prop_map(|(n, by)| Op::Approve { n, by }),
        1 => n.clone().prop_map(Op::Reject),
        1 => n.clone().prop_map(Op::Withdraw),
        3 => (n.clone(), 0..8_u8).prop_map(|(n, devices)| Op::Place { n, devices }),
        6 => sighting,
        2 => n.clone().prop_map(Op::Close),
        2 => (n.clone(), any::<bool>()).prop_map(|(n, freeze)| Op::Hold { n, freeze }),
        1 => n.clone().prop_map(Op::Lift),
        2 => n.clone().prop_map(Op::Stop),
        3 => n.clone().prop_map(Op::Start),
        2 => n.clone().prop_map(Op::EndKeeping),
        2 => (0..8_u8, 0..8_u8, any::<bool>())
            .prop_map(|(present, exchanged, watched)| Op::Inventory { present: present | 1, exchanged, watched }),
        1 => (0..8_u8).prop_map(Op::InUse),
        1 => [0..6_u8, 0..6, 0..6].prop_map(Op::Noted),
        1 => (n.clone(), [0..6_u8, 0..6, 0..6]).prop_map(|(n, marks)| Op::TakeBack { n, marks }),
        3 => (0..8_u8).prop_map(Op::Order),
        4 => (any::<prop::sample::Index>(), [flaw(), flaw(), flaw()]).prop_map(|(run, flaws)| Op::Report { run, flaws }),
        2 => (0..GPUS).prop_map(Op::Release),
    ]
}

/// A state and every run there ever was: a run can be reported again after it ended.
#[derive(Debug, Clone)]
struct World {
    state: State,
    runs: Vec<Run>,
    second: usize,
}

impl World {
    fn new() -> Self {
        let mut state = State::default();
        let seen: Vec<Device> = (0..GPUS).map(|n| seen(n, "1af4:1110")).collect();
        state.apply(&device::inventory(&state, &host(), &seen, true));
        Self { state, runs: vec![], second: 0 }
    }

    /// The changes that an operation makes, by the functions that the service calls, with the guards
    /// that the service has.
    fn changes(&mut self, op: &Op) -> Vec<Change> {
        let (state, now) = (&self.state, now(self.second));
        let slice = |n: &u8| state.slices.get(&slice_id(*n));
        let none = Vec::new;
        match op {
            Op::Advance(n) => match slice(n) {
                Some(slice) => self.advance(&slice.clone()),
                None => slice::request(state, requested(*n, 1, 1, self.second)).unwrap_or_default(),
            },
            Op::Tidy => {
                // The oldest run ends well; where there is none, one begins.
                let attached = self.held();
                match self.state.runs.values().min_by_key(|run| run.started).cloned() {
                    Some(run) => self.report(&run, [Flaw::None; GPUS as usize]),
                    None => self.order(&attached),
                }
            }
            Op::Request { n, .. } if slice(n).is_some() => none(),
            Op::Request { n, gpus, needed } => {
                slice::request(state, requested(*n, *gpus, *needed, self.second)).unwrap_or_default()
            }
            Op::Approve { n, by } => {
                let by = name(["ada", "olga", "otto"][usize::from(*by)]);
                slice(n).and_then(|s| slice::approve(s, ONE, &by, "fine", now).ok()).unwrap_or_default()
            }
            Op::Reject(n) => {
                slice(n).and_then(|s| slice::reject(s, &name("olga"), "no", now).ok()).unwrap_or_default()
            }
            Op::Withdraw(n) => slice(n).and_then(|s| slice::withdraw(s, now).ok()).unwrap_or_default(),
            Op::Place { n, devices } => {
                let devices = addresses(*devices).into_iter().collect();
                let placement = Placement { host: host(), partition: 17, devices, nodes: Vec::new() };
                slice(n).and_then(|s| slice::place(state, s, placement, now).ok()).unwrap_or_default()
            }
            Op::See { n, older, phase, gpus, erased, attached } => {
                let Some(slice) = slice(n) else { return none() };
                let sighting = Sighting {
                    generation: slice.generation.saturating_sub(*older),
                    phase: PHASES[usize::from(*phase)],
                    reason: "broken".to_owned(),
                    guest: Some(guest(*gpus)).filter(|_| *gpus > 0),
                    volume_erased: *erased,
                    volume: Some(erasure(slice.volume, *gpus > 0, now)),
                    others: slice.others.iter().map(|o| erasure(o.id, *gpus > 0, now)).collect(),
                    change: None,
                };
                slice::observe(state, slice, &sighting, &addresses(*attached), now).unwrap_or_default()
            }
            Op::Close(n) => {
                // The level of some keeps what is closed for a while.
                let keep = SignedDuration::from_secs(i64::from(n % 2) * 5);
                let close = |s| slice::close(state, s, Some(&name("ada")), keep, now).ok();
                slice(n).and_then(close).unwrap_or_default()
            }
            Op::Hold { n, freeze } => {
                let hold = Hold { by: name("olga"), at: now, reason: "a case".to_owned() };
                slice(n).and_then(|s| slice::hold(s, hold, *freeze).ok()).unwrap_or_default()
            }
            Op::Lift(n) => slice(n).and_then(|s| slice::lift(s).ok()).unwrap_or_default(),
            Op::Stop(n) => slice(n).and_then(|s| slice::stop(s, &name("ada"), now).ok()).unwrap_or_default(),
            Op::Start(n) => slice(n).and_then(|s| slice::start(state, s, None, now).ok()).unwrap_or_default(),
            Op::EndKeeping(n) => {
                let done = |s: &&Slice| {
                    SliceState::KEPT.contains(&s.state) && slice::kept_by(state, s, now).is_none()
                };
                slice(n).filter(done).map(|s| slice::end_keeping(s, now)).unwrap_or_default()
            }
            Op::Inventory { present, exchanged, watched } => {
                let seen: Vec<Device> = (0..GPUS)
                    .filter(|n| present >> n & 1 == 1)
                    .map(|n| seen(n, if exchanged >> n & 1 == 1 { "1af4:1111" } else { "1af4:1110" }))
                    .collect();
                let mut changes = device::inventory(state, &host(), &seen, *watched);
                changes.extend(device::bereft(state, &changes));
                changes
            }
            Op::Noted(marks) => device::noted(state, &host(), &notes(*marks)),
            Op::TakeBack { n, marks } => {
                let Some(slice) = slice(n) else { return none() };
                let sighting = Sighting {
                    generation: slice.generation,
                    phase: Phase::Preparing,
                    reason: String::new(),
                    guest: None,
                    volume_erased: false,
                    volume: None,
                    others: Vec::new(),
                    change: None,
                };
                slice::take_back(state, slice, &sighting, false, &notes(*marks), now).unwrap_or_default()
            }
            Op::InUse(attached) => device::in_use_by_others(state, &host(), &addresses(*attached)),
            Op::Order(attached) => self.order(&addresses(*attached)),
            Op::Report { run, flaws } => match self.runs.len() {
                0 => none(),
                runs => match state.runs.get(&self.runs[run.index(runs)].id) {
                    Some(run) => self.report(run, *flaws),
                    None => none(),
                },
            },
            Op::Release(n) => {
                let device = &state.devices[&(host(), address(*n))];
                device::release(device, &name("oscar"), "looked at")
                    .map_or_else(|_| none(), |change| vec![change])
            }
        }
    }

    fn advance(&self, s: &Slice) -> Vec<Change> {
        let (state, now) = (&self.state, now(self.second));
        let agent = |phase| {
            let sighting = Sighting {
                generation: s.generation,
                phase,
                reason: String::new(),
                guest: Some(guest(s.gpus)),
                volume_erased: true,
                volume: Some(erasure(s.volume, true, now)),
                others: s.others.iter().map(|o| erasure(o.id, true, now)).collect(),
                change: None,
            };
            slice::observe(state, s, &sighting, &BTreeSet::new(), now).unwrap_or_default()
        };
        match s.state {
            SliceState::Requested => {
                let by = if s.approvals.iter().any(|a| a.by == name("olga")) { "otto" } else { "olga" };
                slice::approve(s, ONE, &name(by), "fine", now).unwrap()
            }
            SliceState::Approved => {
                let free = state.devices.values().filter(|d| d.state == DeviceState::Free);
                let devices: Vec<PciAddress> = free.map(|d| d.address).take(s.gpus as usize).collect();
                if devices.len() < s.gpus as usize {
                    return slice::waits(s, "queued: full").unwrap_or_default();
                }
                slice::place(
                    state,
                    s,
                    Placement { host: host(), partition: 17, devices, nodes: Vec::new() },
                    now,
                )
                .unwrap()
            }
            SliceState::Placed if s.key_fingerprint.is_empty() => slice::keyed(
                s,
                &s.keyed_volumes().map(|k| (k.volume, "0123456789abcdef".to_owned())).collect(),
            ),
            SliceState::Placed => agent(Phase::Preparing),
            SliceState::Preparing => agent(Phase::Booting),
            SliceState::Booting => agent(Phase::Ready),
            SliceState::Ready | SliceState::Failed => {
                slice::close(state, s, Some(&name("ada")), SignedDuration::ZERO, now).unwrap()
            }
            SliceState::Keeping | SliceState::Stopping => agent(Phase::Kept),
            SliceState::Stopped => {
                slice::close(state, s, Some(&name("ada")), SignedDuration::ZERO, now).unwrap()
            }
            SliceState::Kept if s.hold.is_some() => slice::lift(s).unwrap(),
            SliceState::Kept if s.closed_at.is_none() => {
                slice::close(state, s, Some(&name("ada")), SignedDuration::ZERO, now).unwrap()
            }
            SliceState::Kept if slice::kept_by(state, s, now).is_none() => slice::end_keeping(s, now),
            SliceState::Closing | SliceState::Destroying if s.key_destroyed.is_none() => {
                slice::key_destroyed(s, now)
            }
            SliceState::Closing => agent(Phase::Destroying),
            SliceState::Destroying if s.detached.is_none() => agent(Phase::Absent),
            SliceState::Destroying if slice::remains(&self.state, s).is_empty() => {
                slice::destroyed(s, certificate(), now)
            }
            _ => vec![],
        }
    }

    fn order(&mut self, attached: &BTreeSet<PciAddress>) -> Vec<Change> {
        let id = RunId::from_untyped_uuid(Uuid::from_u128(self.runs.len() as u128 + 1));
        match device::order_run(&self.state, &host(), attached, id, now(self.second)) {
            Some((run, changes)) => {
                self.runs.push(run);
                changes
            }
            None => vec![],
        }
    }

    fn report(&self, run: &Run, flaws: [Flaw; GPUS as usize]) -> Vec<Change> {
        let mut report = Report::new();
        for (n, flaw) in (0..GPUS).zip(flaws) {
            let mut e = evidence(run.id, address(n), now(self.second));
            match flaw {
                Flaw::None => {}
                Flaw::Missing => continue,
                Flaw::NotCleaned => e.cleaned = false,
                Flaw::OtherRun => e.run = RunId::from_untyped_uuid(Uuid::from_u128(u128::MAX)),
                Flaw::LessMemory => {
                    (e.bytes_total, e.bytes_written, e.bytes_verified) = (MEMORY - 1, MEMORY - 1, MEMORY - 1)
                }
                Flaw::LessWritten => e.bytes_written -= 1,
                Flaw::LessVerified => e.bytes_verified -= 1,
                Flaw::NoMemory => (e.bytes_total, e.bytes_written, e.bytes_verified) = (0, 0, 0),
            }
            report.insert(address(n), e);
        }
        let (all, mut changes) = device::reported(&self.state, run, &report);
        // What a certificate goes by calls clean what holmd believes, and nothing else.
        for e in &all {
            let free = |d: &Device| d.address == e.address && d.state == DeviceState::Free;
            let freed =
                changes.iter().any(|change| matches!(change, Change::Put(Record::Device(d)) if free(d)));
            assert_eq!(e.cleaned, freed, "{e:?}");
        }
        if let Some(slice) =
            run.slice.and_then(|id| self.state.slices.get(&id)).filter(|s| !s.state.is_final())
        {
            changes.extend(slice::with_evidence(slice, all));
        }
        changes
    }

    /// What machines hold, by what was intended.
    fn held(&self) -> BTreeSet<PciAddress> {
        let holding = self.state.slices.values().filter(|s| holds(s));
        holding.flat_map(|s| s.placement.iter().flat_map(|p| p.devices.clone())).collect()
    }
}

/// Of each device: dirty, clean, a slice's, or nothing.
fn notes(marks: [u8; GPUS as usize]) -> device::Notes {
    let note = |mark: u8| match mark {
        0 => Some(device::Note::Dirty("x".to_owned())),
        1 => Some(device::Note::Clean(RunId::from_untyped_uuid(Uuid::from_u128(1)))),
        5.. => None,
        mark => Some(device::Note::Assigned(slice_id(mark - 2))),
    };
    (0..GPUS).zip(marks).filter_map(|(n, mark)| Some((address(n), note(mark)?))).collect()
}

const PHASES: [Phase; 7] = [
    Phase::Absent,
    Phase::Preparing,
    Phase::Booting,
    Phase::Ready,
    Phase::Failed,
    Phase::Destroying,
    Phase::Kept,
];

fn guest(gpus: u32) -> Guest {
    Guest { ssh_host_key: "ssh-ed25519 AAAA".to_owned(), gpus, slurm: "24.11".to_owned() }
}

/// A machine may have its devices open: from being placed until the host says that all is released.
fn holds(slice: &Slice) -> bool {
    slice.placement.is_some() && slice.detached.is_none() && slice.released.is_none()
}

/// States that may follow directly.
fn next(state: SliceState) -> &'static [SliceState] {
    use SliceState::*;
    match state {
        Requested => &[Approved, Rejected, Withdrawn],
        Approved => &[Placed, Withdrawn, Stopped, Keeping],
        Placed => &[Approved, Preparing, Booting, Ready, Failed, Stopping, Keeping, Closing],
        Preparing => &[Approved, Booting, Ready, Failed, Stopping, Keeping, Closing],
        Booting => &[Ready, Failed, Stopping, Keeping, Closing],
        Ready => &[Failed, Stopping, Keeping, Closing],
        Failed => &[Stopping, Keeping, Closing],
        Stopping => &[Stopped, Keeping, Closing],
        Stopped => &[Approved, Keeping, Closing],
        Keeping => &[Kept, Closing],
        Kept => &[Closing],
        Closing => &[Destroying],
        Destroying => &[Destroyed],
        Rejected | Withdrawn | Destroyed => &[],
    }
}

/// What a device's new state needs to have come from.
fn lawful(op: &Op, old: &Device, new: &Device, reported: Option<&Run>) -> Result<(), String> {
    use DeviceState::*;
    let evidence = new.evidence.as_ref();
    let ok = match (old.state, new.state) {
        (old, new) if old == new => true,
        (Sanitising, Free) => evidence.is_some_and(|e| {
            reported.is_some_and(|run| run.id == e.run && run.devices.contains(&new.address))
                && e.cleaned
                && e.address == new.address
                && [e.bytes_total, e.bytes_written, e.bytes_verified] == [new.memory_bytes; 3]
        }),
        (Free, Claimed) => matches!(op, Op::Place { .. } | Op::Advance(_)) && new.slice.is_some(),
        (Claimed, Assigned) => matches!(op, Op::See { .. } | Op::Advance(_)),
        (Claimed, Dirty) if matches!(op, Op::TakeBack { .. }) => new.slice.is_none(),
        (Claimed | Assigned, Dirty) => matches!(op, Op::See { .. } | Op::Advance(_)),
        (Free, Dirty) => matches!(op, Op::Inventory { .. } | Op::InUse(_) | Op::Noted(_)),
        (Dirty, Sanitising) => matches!(op, Op::Order(_) | Op::Tidy),
        (Sanitising, Quarantined) => matches!(op, Op::Report { .. } | Op::Inventory { .. } | Op::Tidy),
        (Claimed | Assigned, Quarantined) if matches!(op, Op::Noted(_)) => true,
        (_, Quarantined) => matches!(op, Op::Inventory { .. }),
        (Quarantined, Dirty) => matches!(op, Op::Release(_)),
        _ => false,
    };
    if ok {
        Ok(())
    } else {
        Err(format!("{op:?} took {} from {:?} to {:?}", old.address, old.state, new.state))
    }
}

fn check(op: &Op, before: &World, after: &World) -> Result<(), TestCaseError> {
    // Of one operation at most one run ends: the one that is gone now, or was reported again.
    let reported = before.state.runs.values().find(|run| !after.state.runs.contains_key(&run.id));
    for (key, new) in after.state.devices.iter() {
        let lawful = lawful(op, &before.state.devices[key], new, reported);
        prop_assert!(lawful.is_ok(), "{}", lawful.unwrap_err());
    }
    for device in after.state.devices.values() {
        let users: Vec<&Slice> = after
            .state
            .slices
            .values()
            .filter(|s| holds(s) && s.placement.iter().any(|p| p.devices.contains(&device.address)))
            .collect();
        prop_assert!(users.len() <= 1, "{} belongs to {users:#?}", device.address);
        // What a machine may have open is nobody else's, and nobody cleans it.
        if let Some(user) = users.first() {
            prop_assert_eq!(device.slice, Some(user.id));
            prop_assert!(!matches!(device.state, DeviceState::Free | DeviceState::Sanitising), "{device:?}");
        }
        if DeviceState::TAKEN.contains(&device.state) {
            prop_assert_eq!(users.len(), 1, "nobody has {:?}", device);
        }
        if device.state == DeviceState::Free {
            prop_assert!(device.slice.is_none());
        }
    }
    if let Op::See { n, older, erased, attached, .. } = op {
        let old = before.state.slices.get(&slice_id(*n));
        if old.is_some_and(|s| *older > 0 && s.generation > 0) {
            prop_assert_eq!(&before.state, &after.state, "what was seen of an older generation counts");
        }
        if old.is_some_and(|s| holds(s) && !holds(&after.state.slices[&s.id])) {
            let new = &after.state.slices[&slice_id(*n)];
            let stays = matches!(new.state, SliceState::Kept | SliceState::Stopped);
            prop_assert!(*erased || stays, "released with its disk still there");
            let devices = old.iter().flat_map(|s| &s.placement).flat_map(|p| &p.devices);
            prop_assert!(devices.collect::<Vec<_>>().iter().all(|a| !addresses(*attached).contains(a)));
        }
    }
    for (id, old) in before.state.slices.iter() {
        let new = &after.state.slices[id];
        prop_assert!(
            new.state == old.state || next(old.state).contains(&new.state),
            "{op:?} took a slice from {:?} to {:?}",
            old.state,
            new.state
        );
        prop_assert!(new.generation >= old.generation);
        if old.state != SliceState::Closing && new.state == SliceState::Closing {
            let kept = slice::kept_by(&after.state, new, now(after.second));
            prop_assert!(kept.is_none(), "{op:?} has it destroyed: {kept:?}");
        }
        prop_assert!(!old.state.is_final() || new.state == old.state);
    }
    for slice in after.state.slices.values() {
        let officers: BTreeSet<&Name> = slice.approvals.iter().map(|a| &a.by).collect();
        prop_assert_eq!(officers.len(), slice.approvals.len(), "somebody counts twice");
        prop_assert!(!officers.contains(&slice.requested_by), "her own approval counts");
        let unapproved = [SliceState::Requested, SliceState::Rejected, SliceState::Withdrawn];
        prop_assert!(
            unapproved.contains(&slice.state) || officers.len() >= slice.approvals_needed as usize,
            "{:?} with {} approvals",
            slice.state,
            officers.len()
        );
        // On hold its key is there; and who is kept runs no more, and is asked for no key.
        let goes =
            matches!(slice.state, SliceState::Closing | SliceState::Destroying | SliceState::Destroyed);
        prop_assert!(!goes || slice.hold.is_none(), "{slice:#?}");
        let rests = [SliceState::KEPT.as_slice(), &[SliceState::Stopping, SliceState::Stopped]].concat();
        prop_assert!(
            slice.released.is_none() || goes || slice.home().is_some() || rests.contains(&slice.state)
        );
        prop_assert!(slice.home().is_none() || !holds(slice), "{slice:#?}");
        if slice.state == SliceState::Ready {
            prop_assert_eq!(slice.guest.as_ref().map(|g| g.gpus), Some(slice.gpus));
        }
        if slice.detached.is_some() {
            prop_assert!(slice.others.iter().all(|other| other.evidence.is_some()), "{slice:#?}");
        }
        if slice.state == SliceState::Destroyed {
            prop_assert!(
                slice.key_destroyed.is_some() && slice.detached.is_some() && slice.certificate.is_some()
            );
            let was = &before.state.slices[&slice.id];
            let quarantined = |a: &PciAddress| {
                let device = &before.state.devices[&(host(), *a)];
                device.state == DeviceState::Quarantined && device.slice == Some(slice.id)
            };
            // Of each time that it had a device.
            let since = |e: &&Evidence| slice.placed.is_some_and(|placed| e.at >= placed);
            let shown: BTreeSet<PciAddress> =
                slice.evidence.iter().filter(since).map(|e| e.address).collect();
            let mut devices = slice.placement.iter().flat_map(|p| &p.devices);
            prop_assert!(was.state.is_final() || devices.all(|a| shown.contains(a) || quarantined(a)));
            let own = |d: &&Device| d.slice == Some(slice.id) && d.state != DeviceState::Quarantined;
            prop_assert!(was.state.is_final() || after.state.devices.values().find(own).is_none());
        }
        // What a certificate says of the disk is what its own host said of this very disk.
        if slice::volume_erased(slice) {
            let told = slice.volume_evidence.as_ref();
            prop_assert!(
                slice.detached.is_some() && told.is_some_and(|e| e.erased && e.volume == slice.volume)
            );
        }
    }
    Ok(())
}

/// Where everything stands, without times and words.
fn standing(state: &State) -> Vec<String> {
    let slices = state.slices.values().map(|s| {
        let times = (s.key_destroyed.is_some(), s.detached.is_some(), s.approvals.len(), s.evidence.len());
        format!("{} {:?} {} {times:?} {:?}", s.id, s.state, s.generation, s.placement)
    });
    let devices = state.devices.values().map(|d| format!("{} {:?} {:?}", d.address, d.state, d.slice));
    slices.chain(devices).collect()
}

#[test]
fn only_evidence_of_the_whole_disk_says_erased() {
    let at = now(1);
    let mut slice = requested(1, 1, 1, 1);
    let good = erasure(slice.volume, true, at);
    let of = |slice: &mut Slice, evidence: Option<VolumeEvidence>, detached: bool| {
        slice.volume_evidence = evidence;
        slice.detached = detached.then_some(at);
        slice::volume_erased(slice)
    };
    assert!(of(&mut slice, Some(good.clone()), true));
    assert!(!of(&mut slice, None, true), "that the host let go of it is no evidence");
    assert!(!of(&mut slice, Some(good.clone()), false));
    assert!(!of(&mut slice, Some(VolumeEvidence { erased: false, ..good.clone() }), true));
    assert!(!of(&mut slice, Some(VolumeEvidence { bytes_overwritten: 0, ..good.clone() }), true));
    assert!(!of(&mut slice, Some(erasure(VolumeId::from_untyped_uuid(Uuid::nil()), true, at)), true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn nothing_that_happens_breaks_a_rule(ops in prop::collection::vec(op(), 1..150)) {
        let mut world = World::new();
        for op in ops {
            world.second += 1;
            let before = world.clone();
            let changes = world.changes(&op);
            world.state.apply(&changes);
            check(&op, &before, &world)?;

            // Applied again, as after a kill between log and memory: the same.
            let mut twice = world.state.clone();
            twice.apply(&changes);
            prop_assert_eq!(&twice, &world.state);

            // Asked for again, as after an answer that was lost: no further.
            if !matches!(op, Op::Advance(_) | Op::Tidy | Op::Order(_) | Op::EndKeeping(_)) {
                let mut again = world.clone();
                again.second += 1;
                let changes = again.changes(&op);
                again.state.apply(&changes);
                prop_assert_eq!(standing(&again.state), standing(&world.state), "{:?}", op);
            }
        }
        // What is written down is what is meant.
        for record in world.state.records() {
            let text = serde_json::to_string(&Change::Put(record.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), Change::Put(record));
        }
    }
}

/// Do what should happen next until nothing does.
fn settle(world: &mut World, n: u8, until: SliceState) {
    for _ in 0..30 {
        if world.state.slices.get(&slice_id(n)).is_some_and(|s| s.state == until) {
            return;
        }
        for op in [Op::Tidy, Op::Advance(n)] {
            world.second += 1;
            let changes = world.changes(&op);
            world.state.apply(&changes);
        }
    }
    panic!("slice {n} is not {until:?}: {:#?}", world.state);
}

#[test]
fn from_request_to_certificate_and_the_device_goes_to_the_next() {
    let mut world = World::new();
    assert!(world.state.devices.values().all(|d| d.state == DeviceState::Dirty), "never seen before");
    settle(&mut world, 0, SliceState::Ready);
    let held = world.held();
    assert_eq!(held.len(), 1);
    settle(&mut world, 0, SliceState::Destroyed);
    assert_eq!(world.held(), BTreeSet::new());
    settle(&mut world, 1, SliceState::Ready);
    assert_eq!(world.held(), held, "the first that is free");
    assert_eq!(world.state.slices[&slice_id(1)].generation, 1);
    assert_eq!(world.state.slices[&slice_id(0)].generation, 2);
}

#[test]
fn a_hold_comes_in_time_or_not_at_all() {
    let mut world = World::new();
    let hold = |world: &World, freeze| {
        let s = &world.state.slices[&slice_id(0)];
        slice::hold(s, Hold { by: name("olga"), at: now(world.second), reason: "a case".to_owned() }, freeze)
    };
    settle(&mut world, 0, SliceState::Approved);
    assert!(
        hold(&world, false).unwrap_err().to_string().contains("cannot be put on hold"),
        "there is nothing yet"
    );
    settle(&mut world, 0, SliceState::Ready);
    world.state.apply(&hold(&world, false).unwrap());
    assert_eq!(world.state.slices[&slice_id(0)].state, SliceState::Ready, "a hold is no lock");
    assert!(hold(&world, false).unwrap_err().to_string().contains("on hold already, by olga: a case"));
    world.state.apply(&hold(&world, true).unwrap());
    let frozen = world.state.slices[&slice_id(0)].clone();
    assert_eq!((frozen.state, frozen.reason.as_str()), (SliceState::Keeping, "frozen by olga: a case"));
    assert!(!SliceState::STARTING.contains(&frozen.state), "its key is given to nobody");
    // Lifted it stays frozen: what nobody has closed is not destroyed.
    world.state.apply(&slice::lift(&frozen).unwrap());
    assert!(slice::lift(&world.state.slices[&slice_id(0)]).is_err());
    settle(&mut world, 0, SliceState::Kept);
    let kept = world.state.slices[&slice_id(0)].clone();
    let why = slice::kept_by(&world.state, &kept, now(world.second)).unwrap();
    assert_eq!(why, "frozen: until somebody closes it");
    settle(&mut world, 0, SliceState::Closing);
    assert!(hold(&world, true).unwrap_err().to_string().contains("no hold helps"));
    settle(&mut world, 0, SliceState::Destroyed);
}

#[test]
fn what_was_stopped_is_started_where_its_disk_is_and_keeps_its_key() {
    let mut world = World::new();
    settle(&mut world, 0, SliceState::Ready);
    let slice = |world: &World| world.state.slices[&slice_id(0)].clone();
    let ready = slice(&world);
    let apply =
        |world: &mut World, changes: Result<Vec<Change>, Refusal>| world.state.apply(&changes.unwrap());
    let stop = |world: &World| slice::stop(&slice(world), &name("ada"), now(world.second));
    let start = |world: &World| slice::start(&world.state, &slice(world), None, now(world.second));
    assert!(start(&world).unwrap_err().to_string().contains("cannot be started"));
    let changes = stop(&world);
    apply(&mut world, changes);
    assert!(stop(&world).unwrap_err().to_string().contains("cannot be stopped"), "once is enough");
    settle(&mut world, 0, SliceState::Stopped);
    let stopped = slice(&world);
    assert!(
        !holds(&stopped) && !SliceState::STARTING.contains(&stopped.state),
        "no key for what does not start"
    );
    assert!(slice::withdraw(&stopped, now(world.second)).is_err());

    // What it had is another's before it is cleaned for nobody.
    let had = ready.placement.as_ref().unwrap().devices[0];
    assert_eq!(world.state.devices[&(host(), had)].state, DeviceState::Dirty);

    let changes = start(&world);
    apply(&mut world, changes);
    let waits = slice(&world);
    assert_eq!((waits.state, waits.home()), (SliceState::Approved, Some(&host())));
    assert!(
        slice::withdraw(&waits, now(world.second)).unwrap_err().to_string().contains("has a disk already")
    );
    let elsewhere = Placement { host: name("other"), partition: 17, devices: Vec::new(), nodes: Vec::new() };
    let refused = slice::place(&world.state, &waits, elsewhere, now(world.second)).unwrap_err();
    assert!(refused.to_string().contains("on another host"), "{refused}");
    settle(&mut world, 0, SliceState::Ready);
    let again = slice(&world);
    assert_eq!((again.volume, &again.key_fingerprint), (ready.volume, &ready.key_fingerprint));
    assert!(again.generation > ready.generation && again.past.len() == 1 && holds(&again));

    // An officer's hold takes a start back; what is on hold is not started.
    let changes = stop(&world);
    apply(&mut world, changes);
    settle(&mut world, 0, SliceState::Stopped);
    let changes = start(&world);
    apply(&mut world, changes);
    let hold = Hold { by: name("olga"), at: now(world.second), reason: "a case".to_owned() };
    let changes = slice::hold(&slice(&world), hold, false);
    apply(&mut world, changes);
    assert_eq!(slice(&world).state, SliceState::Stopped);
    assert!(start(&world).unwrap_err().to_string().contains("on hold, by olga: a case"));
    let changes = slice::lift(&slice(&world));
    apply(&mut world, changes);
    settle(&mut world, 0, SliceState::Destroyed);
}

/// However often it is stopped, its record stays as large as its devices make it, and what it used is not forgotten.
#[test]
fn stopping_often_fills_no_record_and_forgets_no_use() {
    let mut world = World::new();
    settle(&mut world, 0, SliceState::Ready);
    let slice = |world: &World| world.state.slices[&slice_id(0)].clone();
    let mut used = SignedDuration::ZERO;
    for _ in 0..200 {
        let changes = slice::stop(&slice(&world), &name("ada"), now(world.second)).unwrap();
        world.state.apply(&changes);
        settle(&mut world, 0, SliceState::Stopped);
        let stopped = slice(&world);
        used += stopped.released.unwrap().duration_since(stopped.placed.unwrap());
        assert!(stopped.others.iter().all(|o| o.erased() == (o.kind == VolumeKind::Scratch)));
        let changes = slice::start(&world.state, &stopped, None, now(world.second)).unwrap();
        world.state.apply(&changes);
        settle(&mut world, 0, SliceState::Ready);
        assert!(slice(&world).others.iter().all(|o| o.evidence.is_none()), "scratch is another by then");
    }
    let often = slice(&world);
    let counted = often.past.iter().map(|span| span.until.duration_since(span.from));
    assert_eq!(counted.fold(SignedDuration::ZERO, |all, one| all + one), used);
    assert!(often.evidence.len() <= usize::from(GPUS) && often.past.len() <= 64);
    settle(&mut world, 0, SliceState::Destroyed);
}

/// A device that it lost uncleaned is in its certificate as that, whatever was said of the device before, and though
/// the slice was started again with another.
#[test]
fn a_device_lost_between_two_starts_has_no_evidence() {
    let mut world = World::new();
    settle(&mut world, 0, SliceState::Ready);
    let slice = |world: &World| world.state.slices[&slice_id(0)].clone();
    let had = slice(&world).placement.unwrap().devices[0];
    for lost in [false, true] {
        let changes = slice::stop(&slice(&world), &name("ada"), now(world.second)).unwrap();
        world.state.apply(&changes);
        if lost {
            // Gone before anybody cleaned it.
            world.second += 1;
            let sighting = Sighting {
                generation: slice(&world).generation,
                phase: Phase::Kept,
                reason: String::new(),
                guest: None,
                volume_erased: false,
                volume: None,
                others: Vec::new(),
                change: None,
            };
            let s = slice(&world);
            let changes = slice::observe(&world.state, &s, &sighting, &BTreeSet::new(), now(world.second));
            world.state.apply(&changes.unwrap());
            let gone = (0..GPUS).filter(|n| address(*n) != had).fold(0, |all, n| all | 1 << n);
            let changes = world.changes(&Op::Inventory { present: gone, exchanged: 0, watched: true });
            world.state.apply(&changes);
        } else {
            settle(&mut world, 0, SliceState::Stopped);
            // Until it is clean and free again, so that the slice gets it again.
            for _ in 0..4 {
                world.second += 1;
                let changes = world.changes(&Op::Tidy);
                world.state.apply(&changes);
            }
        }
        let changes = slice::start(&world.state, &slice(&world), None, now(world.second)).unwrap();
        world.state.apply(&changes);
        settle(&mut world, 0, SliceState::Ready);
    }
    let now_has = slice(&world);
    assert!(!now_has.placement.as_ref().unwrap().devices.contains(&had));
    assert!(now_has.evidence.iter().any(|e| e.address == had && e.cleaned), "of the first time");
    let lost: Vec<PciAddress> = slice::without_evidence(&world.state, &now_has).map(|d| d.address).collect();
    assert_eq!(lost, [had]);
}

#[test]
fn an_exchanged_device_is_cleaned_before_anyone_gets_it() {
    let mut world = World::new();
    for _ in 0..2 {
        let changes = world.changes(&Op::Tidy);
        world.state.apply(&changes);
    }
    let changes = world.changes(&Op::Inventory { present: 7, exchanged: 2, watched: true });
    world.state.apply(&changes);
    let states: Vec<DeviceState> = world.state.devices.values().map(|d| d.state).collect();
    assert_eq!(states, [DeviceState::Free, DeviceState::Dirty, DeviceState::Free]);
    assert_eq!(world.state.devices[&(host(), address(1))].reason, "it was 1af4:1110 and is 1af4:1111");
}

#[test]
fn what_nobody_watched_is_cleaned_before_anyone_gets_it() {
    let mut world = World::new();
    for _ in 0..2 {
        let changes = world.changes(&Op::Tidy);
        world.state.apply(&changes);
    }
    let changes = world.changes(&Op::Inventory { present: 7, exchanged: 0, watched: true });
    assert!(changes.is_empty(), "the agent reconnected, and was there all the time");
    let changes = world.changes(&Op::Inventory { present: 7, exchanged: 0, watched: false });
    world.state.apply(&changes);
    assert!(world.state.devices.values().all(|d| d.state == DeviceState::Dirty));
}

#[test]
fn an_earlier_run_speaks_for_no_later_one() {
    let mut world = World::new();
    let run = |world: &mut World, op: Op| {
        let changes = world.changes(&op);
        world.state.apply(&changes);
        world.state.devices[&(host(), address(0))].state
    };
    assert_eq!(run(&mut world, Op::Order(0)), DeviceState::Sanitising);
    assert_eq!(
        run(&mut world, Op::Inventory { present: 6, exchanged: 0, watched: true }),
        DeviceState::Quarantined
    );
    assert_eq!(
        run(&mut world, Op::Inventory { present: 7, exchanged: 1, watched: true }),
        DeviceState::Quarantined
    );
    assert_eq!(run(&mut world, Op::Release(0)), DeviceState::Dirty);
    // What is there now was never seen by the run that has not reported yet.
    assert_eq!(run(&mut world, Op::Order(0)), DeviceState::Dirty);
    assert_eq!(run(&mut world, Op::Tidy), DeviceState::Dirty);
    assert_eq!(run(&mut world, Op::Tidy), DeviceState::Sanitising);
    assert_eq!(run(&mut world, Op::Tidy), DeviceState::Free);
    let evidence = world.state.devices[&(host(), address(0))].evidence.clone();
    assert_eq!(evidence.map(|e| e.run), Some(world.runs[1].id));
}

#[test]
fn a_machine_whose_device_was_lost_keeps_it_from_others() {
    let mut world = World::new();
    settle(&mut world, 0, SliceState::Ready);
    let run = |world: &mut World, op: Op| {
        let changes = world.changes(&op);
        world.state.apply(&changes);
        world.state.devices[&(host(), address(0))].state
    };
    assert_eq!(
        run(&mut world, Op::Inventory { present: 6, exchanged: 0, watched: true }),
        DeviceState::Quarantined
    );
    assert_eq!(
        run(&mut world, Op::Inventory { present: 7, exchanged: 0, watched: true }),
        DeviceState::Quarantined
    );
    // The operator says it is well; the machine still has it.
    assert_eq!(run(&mut world, Op::Release(0)), DeviceState::Dirty);
    assert_eq!(run(&mut world, Op::Order(0)), DeviceState::Dirty);
    // Closed and released it is cleaned, with evidence for the machine's certificate.
    settle(&mut world, 0, SliceState::Destroyed);
    assert_eq!(world.state.devices[&(host(), address(0))].state, DeviceState::Free);
}

pub(super) fn person(name: &str, roles: &[&str]) -> Person {
    Person {
        name: name.parse().unwrap(),
        roles: roles.iter().map(ToString::to_string).collect(),
        uid: 20_001,
        created: now(0),
        enrolled: true,
        certificate: String::new(),
        renewed: String::new(),
        revoked: None,
        void: None,
        account: None,
        login: None,
    }
}

#[test]
fn only_those_who_work_with_data_join_a_project() {
    let mut state = State::default();
    for (name, role) in [("ada", "lead"), ("rita", "researcher"), ("olga", "officer"), ("oscar", "operator")]
    {
        state.apply(&[Change::Put(Record::Person(person(name, &[role])))]);
    }
    let heart = heart("2");
    state.apply(&project::create(&state, heart.clone()).unwrap());
    assert_eq!(project::create(&state, heart.clone()).unwrap_err().kind, RefusalKind::Exists);
    state.apply(&[Change::Put(Record::Person(person("otto", &["officer", "researcher"])))]);
    // Who is known, and as what, is not told.
    let unknown =
        project::add_member(&state, &heart, &name("nobody"), Membership::default(), now(1)).unwrap_err();
    assert_eq!(unknown.kind, RefusalKind::NotFound);
    for stranger in ["olga", "oscar", "otto"] {
        let refused =
            project::add_member(&state, &heart, &name(stranger), Membership::default(), now(1)).unwrap_err();
        assert_eq!(refused.to_string().replace(stranger, "nobody"), unknown.to_string());
    }
    for _ in 0..2 {
        let heart = state.project(&name("heart")).unwrap();
        state.apply(
            &project::add_member(&state, heart, &name("rita"), Membership::default(), now(1)).unwrap(),
        );
        assert_eq!(state.project(&name("heart")).unwrap().members, [name("ada"), name("rita")]);
    }
}

/// ```text
///   none ──add──▶ reads and writes ◀──add --read-only, --read-write──▶ reads ; remove ──▶ none
/// ```
#[test]
fn a_member_reads_or_writes_and_goes_and_the_lead_does_neither() {
    let mut state = State::default();
    for (name, role) in [("ada", "lead"), ("rita", "researcher")] {
        state.apply(&[Change::Put(Record::Person(person(name, &[role])))]);
    }
    state.apply(&project::create(&state, heart("2")).unwrap());
    let (ada, rita) = (name("ada"), name("rita"));
    let heart = |state: &State| state.project(&name("heart")).unwrap().clone();
    let filed = Filed { reference: "AAU-7".to_owned(), expires: Some(now(100)) };
    for (read_only, agreement, reads) in [
        (None, None, false),
        (Some(true), Some(filed.clone()), true),
        (None, None, true),
        (Some(false), None, false),
        (Some(true), None, true),
    ] {
        let how = Membership { read_only, agreement };
        state.apply(&project::add_member(&state, &heart(&state), &rita, how, now(1)).unwrap());
        assert_eq!(heart(&state).readers.contains(&rita), reads);
        assert_eq!(heart(&state).members, [ada.clone(), rita.clone()]);
    }
    assert_eq!(heart(&state).agreements.get(&rita), Some(&filed));
    let reads = Membership { read_only: Some(true), agreement: None };
    let refused = project::add_member(&state, &heart(&state), &ada, reads, now(1)).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Invalid);
    assert_eq!(project::remove_member(&state, &heart(&state), &ada).unwrap_err().kind, RefusalKind::Invalid);
    state.apply(&project::remove_member(&state, &heart(&state), &rita).unwrap());
    let left = heart(&state);
    assert_eq!((&left.members[..], left.readers.len()), (&[ada][..], 0));
    // Added again she is one whose agreement ends, and who is gone is warned of to nobody.
    assert_eq!(left.agreements.get(&rita), Some(&filed));
    assert!(register::lapsed(&left, now(200)).is_empty());
    assert_eq!(project::remove_member(&state, &left, &rita).unwrap_err().kind, RefusalKind::NotFound);
    // She begins anew, as one who writes.
    state.apply(&project::add_member(&state, &left, &rita, Membership::default(), now(1)).unwrap());
    assert!(heart(&state).readers.is_empty());
    assert_eq!(register::lapsed(&heart(&state), now(200)), std::slice::from_ref(&rita));
    // One who decides by now stays of the project, for all that it keeps her from.
    state.apply(&[Change::Put(Record::Person(person("rita", &["researcher", "officer"])))]);
    let refused = project::remove_member(&state, &heart(&state), &rita).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::State);
}

#[test]
fn a_code_is_used_once_and_in_time() {
    let mut state = State::default();
    let hash = "ab".repeat(32);
    let roles = ["researcher".to_owned()];
    let changes =
        people::invite_person(&state, &name("rita"), &roles, hash.clone(), "oscar", now(0)).unwrap();
    state.apply(&changes);
    let end = now(0).checked_add(people::CODE_LIFE).unwrap();
    assert!(people::enrol(&state, &hash, end).is_err());
    assert!(people::enrol(&state, "another", now(1)).is_err());
    let (subject, changes) = people::enrol(&state, &hash, now(1)).unwrap();
    assert_eq!(subject, Subject::Person(name("rita")));
    state.apply(&changes);
    assert!(state.people[&name("rita")].enrolled);
    // One text for unknown, used and late: a guesser learns nothing.
    let used = people::enrol(&state, &hash, now(2)).unwrap_err();
    assert_eq!(used, people::enrol(&state, "another", now(2)).unwrap_err());
    // Codes never change what a person may.
    let more = ["officer".to_owned()];
    assert!(people::invite_person(&state, &name("rita"), &more, hash.clone(), "oscar", now(3)).is_err());
    let again = people::invite_person(&state, &name("rita"), &[], hash, "oscar", now(3)).unwrap();
    state.apply(&again);
    assert_eq!(state.people[&name("rita")].roles, roles);
    assert!(matches!(state.invitations.values().next(), Some(Invitation { by, .. }) if by == "oscar"));
}
