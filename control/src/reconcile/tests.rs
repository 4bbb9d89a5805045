//! Rounds over a real store and log, with reports of a host that is not there.

use super::*;
use crate::config::Config;
use crate::domain::people;
use crate::domain::records::{
    Approval, Change, Device, DeviceState, Evidence, Hold, Host, Project, Record, VolumeEvidence,
};
use crate::domain::register::{Filed, Registration};
use crate::domain::slice::{Phase, Sighting};
use crate::setup::{self, tests::options};
use holm_proto::ids::{PciAddress, ProjectId, SliceId, VolumeId};
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;

const MEMORY: u64 = 1 << 20;

struct Ground {
    app: App,
    host: Name,
    session: u64,
    project: ProjectId,
    _dir: tempfile::TempDir,
    _agent: mpsc::Receiver<Result<v1::ToAgent, tonic::Status>>,
}

/// Keys for SSH certificates.
const CAS: crate::reconcile::Trusted<'_> =
    crate::reconcile::Trusted { whole: "ca", terminal: "terminal ca", recorded: "recorded ca" };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn gpu(n: u8) -> PciAddress {
    PciAddress { domain: 0, bus: n, device: 0, function: 0 }
}

/// All that level 2 demands, for a long time.
fn filed() -> Registration {
    let paper = Filed { reference: "2026-17".to_owned(), expires: None };
    Registration {
        legal_basis: Some("e".to_owned()),
        special_categories: Some(false),
        research: Some(true),
        data_management_plan: Some(paper),
        ends: Some(Timestamp::MAX),
        ..Registration::default()
    }
}

impl Ground {
    /// A host with 16 free GPUs, connected, and a project.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = setup::init(&options(&dir.path().join("holmd"))).unwrap();
        let app = App::open(Config::load(&made.config).unwrap()).unwrap();
        let host: Name = "dgx".parse().unwrap();
        let (send, receive) = mpsc::channel(8);
        let session = app.live.begin(&host, send);
        let project = ProjectId::new_v4();
        let ground = Self { app, host, session, project, _dir: dir, _agent: receive };
        let lead: Name = "dina".parse().unwrap();
        let mut changes = vec![Change::Put(Record::Project(Project {
            id: project,
            name: "heart".parse().unwrap(),
            level: "2".to_owned(),
            level_name: "confidential".to_owned(),
            purpose: "a study".to_owned(),
            lead: lead.clone(),
            members: vec![lead],
            readers: BTreeSet::new(),
            created: at(0),
            pack: "aau-2018/1".to_owned(),
            department: String::new(),
            hold: None,
            disk_gib: None,
            registration: filed(),
            agreements: Default::default(),
            warned: Vec::new(),
            data_sets: Vec::new(),
            ended: None,
            declassification: None,
        }))];
        let host =
            people::invite_host(&crate::domain::State::default(), &ground.host, String::new(), "olga", at(0));
        changes.extend(host.into_iter().map(|change| match change {
            Change::Put(Record::Host(host)) => Change::Put(Record::Host(Host { simulated: true, ..host })),
            other => other,
        }));
        for n in 1..=16 {
            changes.push(Change::Put(Record::Device(Device {
                host: ground.host.clone(),
                address: gpu(n),
                gpu: true,
                id: "10de:1db8".to_owned(),
                numa_node: 0,
                iommu_group: Some(n.into()),
                physical_id: Some(n.into()),
                driver: String::new(),
                reset_methods: Vec::new(),
                memory_bytes: MEMORY,
                problem: String::new(),
                hardware: Default::default(),
                health: None,
                state: DeviceState::Free,
                reason: String::new(),
                slice: None,
                evidence: None,
                maintenance: None,
            })));
        }
        ground.put(changes);
        ground.report(BTreeSet::new());
        ground
    }

    fn put(&self, changes: Vec<Change>) {
        let call = Call::own("test", String::new());
        self.app.ledger.commit(&call, |_, _| Ok(Decided::new(changes, ()))).unwrap();
    }

    fn report(&self, attached: BTreeSet<PciAddress>) {
        let now = self.app.ledger.now();
        assert!(self.app.live.report(&self.host, self.session, now, attached, BTreeMap::new()));
    }

    /// An approved request, asked for in this order.
    fn approved(&self, name: &str, gpus: u32, order: i64) -> SliceId {
        let id = SliceId::new_v4();
        self.put(vec![Change::Put(Record::Slice(Box::new(Slice {
            id,
            project: self.project,
            name: name.parse().unwrap(),
            level: "2".to_owned(),
            level_name: "confidential".to_owned(),
            gpus,
            vcpus: 6,
            memory_mib: 1024,
            disk_gib: 10,
            others: Vec::new(),
            state: SliceState::Approved,
            reason: String::new(),
            requested_by: "dina".parse().unwrap(),
            requested: at(order),
            approvals: Vec::new(),
            approvals_needed: 1,
            placement: None,
            volume: VolumeId::new_v4(),
            key_fingerprint: String::new(),
            key_given: None,
            key_destroyed: None,
            generation: 0,
            changed: at(order),
            guest: None,
            evidence: Vec::new(),
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
        })))]);
        id
    }

    fn round(&self) {
        round(&self.app).unwrap();
    }

    fn slice(&self, id: SliceId) -> Slice {
        self.app.ledger.state().slices[&id].clone()
    }

    /// The agent says this of the slice.
    fn seen(&self, id: SliceId, phase: Phase) {
        self.seen_with(id, phase, true);
    }

    /// And this of what became of its disk.
    fn seen_with(&self, id: SliceId, phase: Phase, erased: bool) {
        let sighting = Sighting {
            generation: self.slice(id).generation,
            phase,
            reason: String::new(),
            guest: None,
            others: Vec::new(),
            change: None,
            volume_erased: phase == Phase::Absent,
            volume: Some(VolumeEvidence {
                volume: self.slice(id).volume,
                erased,
                method: "luks-header".to_owned(),
                bytes_overwritten: if erased { 4096 } else { 0 },
                bytes_discarded: 0,
                took_ms: 1,
                tool: "test".to_owned(),
                detail: String::new(),
                at: self.app.ledger.now(),
            }),
        };
        let call = Call::own("observe.slice", String::new());
        let changed = self.app.ledger.commit_if(&call, |state, now| {
            let s = state.slices.get(&id)?;
            Some(Decided::new(slice::observe(state, s, &sighting, &BTreeSet::new(), now)?, ()))
        });
        assert!(changed.unwrap());
    }

    fn close(&self, id: SliceId) {
        self.close_and_keep(id, SignedDuration::ZERO, self.app.ledger.now());
    }

    fn close_and_keep(&self, id: SliceId, keep: SignedDuration, at: Timestamp) {
        let (state, dina) = (self.app.ledger.state(), "dina".parse().unwrap());
        self.put(slice::close(&state, &self.slice(id), Some(&dina), keep, at).unwrap());
    }

    fn hold(&self, reason: &str) -> Hold {
        Hold { by: "frida".parse().unwrap(), at: self.app.ledger.now(), reason: reason.to_owned() }
    }

    /// Every run that is ordered is reported, of all devices but these.
    fn clean(&self, all_but: &[PciAddress]) {
        for run in self.app.ledger.state().runs.values() {
            let report = run
                .devices
                .iter()
                .filter(|a| !all_but.contains(a))
                .map(|a| {
                    let evidence = Evidence {
                        run: run.id,
                        address: *a,
                        cleaned: true,
                        method: "simulated".to_owned(),
                        pattern: "zero".to_owned(),
                        bytes_unreached: 0,
                        bytes_total: MEMORY,
                        bytes_written: MEMORY,
                        bytes_verified: MEMORY,
                        bytes_dirty_before: 7,
                        took_ms: 1,
                        tool: "test".to_owned(),
                        detail: String::new(),
                        at: self.app.ledger.now(),
                    };
                    (*a, evidence)
                })
                .collect();
            let state = self.app.ledger.state();
            let (evidence, mut changes) = device::reported(&state, run, &report);
            if let Some(s) = run.slice.and_then(|id| state.slices.get(&id)) {
                changes.extend(slice::with_evidence(s, evidence));
            }
            self.put(changes);
        }
    }
}

#[test]
fn of_two_who_want_the_last_partition_the_first_gets_it_and_the_other_waits() {
    let ground = Ground::new();
    ground.approved("half", 8, 1);
    ground.round();
    // The later request is written first: the order of asking counts.
    let (second, first) = (ground.approved("second", 8, 3), ground.approved("first", 8, 2));
    ground.round();
    assert_eq!(ground.slice(first).state, SliceState::Placed);
    let waiting = ground.slice(second);
    assert_eq!(waiting.state, SliceState::Approved);
    assert_eq!(waiting.reason, "queued: no GPU is free");
    let state = ground.app.ledger.state();
    assert!(state.devices.values().all(|d| d.state == DeviceState::Claimed));
    // The keys are made in the next round; then nothing more happens, however often it is looked at.
    ground.round();
    let size = ground.app.ledger.size();
    for _ in 0..3 {
        ground.round();
    }
    assert_eq!(ground.app.ledger.size(), size);
}

#[test]
fn racing_requests_never_share_a_device() {
    let ground = Ground::new();
    for n in 0..12 {
        ground.approved(&format!("s{n}"), [1, 2, 4, 8][n % 4], n as i64);
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| ground.round());
        }
    });
    let state = ground.app.ledger.state();
    let mut owners: BTreeMap<PciAddress, SliceId> = BTreeMap::new();
    for s in state.slices.values() {
        for address in s.placement.iter().flat_map(|p| &p.devices) {
            assert!(owners.insert(*address, s.id).is_none(), "{address} has two owners");
            assert_eq!(state.devices[&(ground.host.clone(), *address)].slice, Some(s.id));
        }
    }
    assert!(!owners.is_empty());
}

#[test]
fn a_placed_slice_is_intended_only_with_its_key_in_the_log() {
    let ground = Ground::new();
    let id = ground.approved("main", 2, 1);
    place::all(&ground.app, &mut |done| done).unwrap();
    let now = || intended(&ground.app.ledger.state(), &ground.app.pack(), &ground.host, CAS);
    assert!(now().slices.is_empty());
    ground.round();
    assert_eq!(now().slices.len(), 1);
    assert_eq!(ground.slice(id).key_fingerprint.len(), 16);
    assert_eq!(now().slices[0].goal(), v1::Goal::Run);
    // What its level allows over SSH; of a level that the pack does not know, the least.
    let at = |level: &str| {
        let slice = Slice { level: level.to_owned(), ..ground.slice(id) };
        ground.put(vec![Change::Put(Record::Slice(Box::new(slice)))]);
        now().slices[0].terminal_only
    };
    assert_eq!([at("3"), at("9"), at("2")], [true, true, false]);
    let other: Name = "other".parse().unwrap();
    assert!(intended(&ground.app.ledger.state(), &ground.app.pack(), &other, CAS).slices.is_empty());
}

#[test]
fn what_is_freed_is_cleaned_and_then_given_to_who_waited() {
    let ground = Ground::new();
    let (first, second) = (ground.approved("first", 16, 1), ground.approved("second", 16, 2));
    ground.round();
    ground.round();
    let key = |s: &Slice| ground.app.keys.open_volume_key(s.project, s.volume).unwrap();
    assert!(key(&ground.slice(first)).is_some());
    ground.close(first);
    ground.round();
    let closing = ground.slice(first);
    assert!(closing.key_destroyed.is_some() && key(&closing).is_none());
    assert!(closing.reason.contains("machine, disk and devices gone"), "{}", closing.reason);
    // Not before the host says that nothing holds them any more.
    assert!(ground.app.ledger.state().runs.is_empty());
    ground.seen(first, Phase::Absent);
    // Something still has one of them open.
    ground.report(BTreeSet::from([gpu(3)]));
    ground.round();
    let state = ground.app.ledger.state();
    assert_eq!(state.runs.values().map(|r| r.devices.len()).collect::<Vec<_>>(), [15]);
    assert_eq!(state.devices[&(ground.host.clone(), gpu(3))].state, DeviceState::Dirty);
    ground.clean(&[]);
    ground.report(BTreeSet::new());
    ground.round();
    assert_eq!(ground.slice(first).state, SliceState::Destroying);
    assert_eq!(ground.slice(second).state, SliceState::Approved);
    ground.clean(&[]);
    ground.round();
    ground.round();
    let ended = ground.slice(first);
    assert_eq!(ended.state, SliceState::Destroyed);
    assert_eq!(ended.evidence.len(), 16);
    let certificate = ended.certificate.unwrap();
    let vkey = ground.app.log_key.vkey(&ground.app.config.log_origin);
    let text = crate::audit::note::verify(&certificate.note, &vkey).unwrap();
    assert_eq!(text, format!("{}\n", certificate.body));
    let said: serde_json::Value = serde_json::from_str(&certificate.body).unwrap();
    assert_eq!(said["volume"]["header_and_key_slots_overwritten"], true);
    assert_eq!(said["volume"]["evidence"]["bytes_overwritten"], 4096);
    assert_eq!(ground.slice(second).state, SliceState::Placed);
}

#[test]
fn on_hold_devices_go_to_who_waits_and_key_and_disk_stay() {
    let ground = Ground::new();
    let (first, second) = (ground.approved("first", 16, 1), ground.approved("second", 16, 2));
    ground.round();
    ground.round();
    let key = || {
        let s = ground.slice(first);
        ground.app.keys.open_volume_key(s.project, s.volume).unwrap()
    };
    let goal = |id: SliceId| {
        let all = intended(&ground.app.ledger.state(), &ground.app.pack(), &ground.host, CAS).slices;
        all.into_iter()
            .find(|s| s.slice_id == id.into_untyped_uuid().to_string())
            .map(|s| (s.goal(), s.devices.len()))
    };
    ground.put(slice::hold(&ground.slice(first), ground.hold("a case"), false).unwrap());
    ground.round();
    assert_eq!(goal(first), Some((v1::Goal::Run, 16)), "a hold stops nothing");
    ground.close(first);
    ground.round();
    let closed = ground.slice(first);
    assert_eq!((closed.state, closed.reason.as_str()), (SliceState::Keeping, "on hold by frida: a case"));
    assert_eq!(goal(first), Some((v1::Goal::Kept, 16)));
    ground.seen(first, Phase::Kept);
    ground.round();
    assert_eq!((ground.slice(first).state, goal(first)), (SliceState::Kept, Some((v1::Goal::Kept, 0))));
    ground.clean(&[]);
    ground.round();
    ground.round();
    assert_eq!(ground.slice(second).state, SliceState::Placed, "on what was the first's");
    assert_eq!(goal(second), Some((v1::Goal::Run, 16)));
    assert!(key().is_some() && ground.slice(first).key_destroyed.is_none());
    // As often as it is looked.
    let size = ground.app.ledger.size();
    (0..3).for_each(|_| ground.round());
    assert_eq!(ground.app.ledger.size(), size);

    ground.put(slice::lift(&ground.slice(first)).unwrap());
    ground.round();
    ground.round();
    let closing = ground.slice(first);
    assert!(closing.state == SliceState::Closing && key().is_none() && closing.key_destroyed.is_some());
    assert_eq!(goal(first), Some((v1::Goal::Destroyed, 0)));
    assert!(slice::hold(&closing, ground.hold("too late"), false).is_err());
    ground.seen(first, Phase::Absent);
    ground.round();
    let ended = ground.slice(first);
    assert_eq!((ended.state, ended.evidence.len()), (SliceState::Destroyed, 16));
    let state = ground.app.ledger.state();
    assert!(state.devices.values().all(|d| d.state == DeviceState::Claimed && d.slice == Some(second)));
}

#[test]
fn what_is_closed_stays_as_long_as_its_level_wants() {
    let ground = Ground::new();
    let (short, long) = (ground.approved("short", 1, 1), ground.approved("long", 1, 2));
    ground.round();
    ground.round();
    let yesterday = ground.app.ledger.now() - SignedDuration::from_hours(24);
    ground.close_and_keep(short, SignedDuration::from_hours(23), yesterday);
    ground.close_and_keep(long, SignedDuration::from_hours(25), yesterday);
    assert_eq!(ground.slice(short).state, SliceState::Keeping);
    ground.round();
    assert!(ground.slice(long).reason.starts_with("its level keeps what is closed: until 20"));
    assert!(ground.slice(long).key_destroyed.is_none());
    ground.round();
    ground.round();
    // Also where the host has not said yet that its devices are released.
    let ended = ground.slice(short);
    assert!(ended.state == SliceState::Closing && ended.key_destroyed.is_some());
    assert_eq!(ground.slice(long).state, SliceState::Keeping);
}

#[test]
fn a_project_on_hold_keeps_every_slice_of_it() {
    let ground = Ground::new();
    let (one, two) = (ground.approved("one", 1, 1), ground.approved("two", 1, 2));
    ground.round();
    ground.round();
    let project = || ground.app.ledger.state().projects[&ground.project].clone();
    ground.put(crate::domain::project::hold(&project(), ground.hold("a case")).unwrap());
    ground.close(one);
    ground.close(two);
    ground.put(slice::hold(&ground.slice(two), ground.hold("another"), false).unwrap());
    ground.round();
    assert_eq!(ground.slice(one).reason, "its project is on hold by frida: a case");
    assert_eq!(ground.slice(two).reason, "on hold by frida: another");
    ground.put(crate::domain::project::lift(&project()).unwrap());
    ground.round();
    assert_eq!(
        (ground.slice(one).state, ground.slice(two).state),
        (SliceState::Closing, SliceState::Keeping)
    );
    assert!(crate::domain::project::lift(&project()).is_err());
}

#[test]
fn a_disk_that_was_not_erased_is_in_the_certificate() {
    let ground = Ground::new();
    let first = ground.approved("first", 1, 1);
    ground.round();
    ground.close(first);
    ground.seen_with(first, Phase::Absent, false);
    ground.round();
    ground.clean(&[]);
    ground.round();
    let ended = ground.slice(first);
    assert_eq!(ended.state, SliceState::Destroyed);
    let said: serde_json::Value = serde_json::from_str(&ended.certificate.unwrap().body).unwrap();
    assert_eq!(said["volume"]["header_and_key_slots_overwritten"], false);
    assert_eq!(said["volume"]["evidence"]["erased"], false);
}

#[test]
fn a_device_that_was_not_cleaned_is_in_the_certificate_and_not_given_away() {
    let ground = Ground::new();
    let first = ground.approved("first", 16, 1);
    ground.round();
    ground.close(first);
    ground.seen(first, Phase::Absent);
    ground.round();
    ground.clean(&[gpu(5)]);
    let next = ground.approved("next", 16, 2);
    ground.round();
    ground.round();
    let ended = ground.slice(first);
    assert_eq!(ended.state, SliceState::Destroyed);
    let bad: Vec<PciAddress> = ended.evidence.iter().filter(|e| !e.cleaned).map(|e| e.address).collect();
    assert_eq!(bad, [gpu(5)]);
    assert_eq!(
        ground.app.ledger.state().devices[&(ground.host.clone(), gpu(5))].state,
        DeviceState::Quarantined
    );
    assert!(ground.slice(next).reason.contains("at most 8"), "{}", ground.slice(next).reason);
}

#[test]
fn the_projects_key_goes_with_its_last_volume() {
    let ground = Ground::new();
    let (one, two) = (ground.approved("one", 1, 1), ground.approved("two", 1, 2));
    ground.round();
    ground.round();
    assert_eq!(ground.app.keys.all().unwrap().len(), 1 + 1 + 2);
    ground.close(one);
    ground.round();
    assert_eq!(ground.app.keys.all().unwrap().len(), 1 + 1 + 1);
    ground.close(two);
    ground.round();
    assert_eq!(ground.app.keys.all().unwrap().len(), 1);
}

#[test]
fn without_a_host_everybody_waits_and_is_told_why() {
    let ground = Ground::new();
    ground.app.live.end(&ground.host, ground.session);
    let id = ground.approved("main", 1, 1);
    ground.round();
    assert_eq!(ground.slice(id).reason, "queued: no host is connected");
}

#[test]
fn a_free_device_that_somebody_uses_is_dirty() {
    let ground = Ground::new();
    ground.report(BTreeSet::from([gpu(1)]));
    ground.round();
    let state = ground.app.ledger.state();
    let device = &state.devices[&(ground.host.clone(), gpu(1))];
    assert_eq!(device.state, DeviceState::Dirty);
    assert!(state.runs.is_empty(), "it is still held");
}

#[test]
fn an_entry_that_is_too_long_holds_up_nobody_else() {
    let ground = Ground::new();
    let first = ground.approved("first", 1, 1);
    let second = ground.approved("second", 1, 2);
    let mut long = ground.slice(first);
    // It fits into the log once, and not together with a device.
    long.level_name = "x".repeat(64_500);
    ground.put(vec![Change::Put(Record::Slice(Box::new(long)))]);
    let refusal = round(&ground.app).unwrap_err();
    assert!(refusal.to_string().contains("65535 is the most"), "{refusal}");
    assert_eq!(ground.slice(first).state, SliceState::Approved);
    assert_eq!(ground.slice(second).state, SliceState::Placed);
}

#[test]
fn memory_is_given_out_once() {
    let ground = Ground::new();
    let state = ground.app.ledger.state();
    let invited = crate::domain::people::invite_host(&state, &ground.host, "h".to_owned(), "test", at(0));
    let Some(Change::Put(Record::Host(mut host))) = invited.into_iter().next() else { panic!("no host") };
    host.memory_mib = 1536;
    ground.put(vec![Change::Put(Record::Host(host))]);
    let (first, second) = (ground.approved("first", 1, 1), ground.approved("second", 1, 2));
    ground.round();
    assert_eq!(ground.slice(first).state, SliceState::Placed);
    assert_eq!(ground.slice(second).reason, "queued: 1024 MiB of memory are not free");
    ground.close(first);
    ground.seen(first, Phase::Absent);
    ground.round();
    assert_eq!(ground.slice(second).state, SliceState::Placed);
}

#[test]
fn one_that_is_placed_again_has_not_lost_its_turn() {
    let ground = Ground::new();
    ground.approved("half", 8, 1);
    ground.round();
    let (again, other) = (ground.approved("again", 8, 9), ground.approved("other", 8, 5));
    // It was approved at 2, placed, and taken back at 9.
    let approvals = vec![Approval { by: "frida".parse().unwrap(), at: at(2), comment: String::new() }];
    ground.put(vec![Change::Put(Record::Slice(Box::new(Slice { approvals, ..ground.slice(again) })))]);
    ground.round();
    assert_eq!(ground.slice(again).state, SliceState::Placed);
    assert_eq!(ground.slice(other).state, SliceState::Approved);
}

#[test]
fn only_what_is_approved_stands_in_the_way_of_a_reservation() {
    let ground = Ground::new();
    let hour = |n: i64| at(n * 3600);
    let of = |name: &str, gpus, state, asked, from| {
        let id = ground.approved(name, gpus, 0);
        let s = Slice {
            state,
            requested: hour(asked),
            from: Some(hour(from)),
            until: Some(hour(from + 10)),
            ..ground.slice(id)
        };
        ground.put(vec![Change::Put(Record::Slice(Box::new(s.clone())))]);
        s
    };
    let may = |s: &Slice| place::reservable(&ground.app, &ground.app.ledger.state(), s);
    let many = |s: &Slice| place::too_many(&ground.app.ledger.state(), s);
    let all = of("all", 16, SliceState::Requested, 0, 100);
    let mine = of("mine", 1, SliceState::Requested, 0, 105);
    assert!(may(&mine) && may(&all), "nobody has approved either");
    let approved = |s: &Slice, state| {
        ground.put(vec![Change::Put(Record::Slice(Box::new(Slice { state, ..s.clone() })))]);
    };
    for (state, stands) in [
        (SliceState::Approved, true),
        (SliceState::Ready, true),
        (SliceState::Closing, false),
        (SliceState::Withdrawn, false),
    ] {
        approved(&all, state);
        assert_eq!(may(&mine), !stands, "{state:?}");
    }
    approved(&all, SliceState::Approved);
    // What was asked for at the last minute is no reservation: it stands in nobody's way, and nobody in its.
    let hasty = of("hasty", 16, SliceState::Requested, 95, 100);
    assert!(may(&hasty));
    approved(&all, SliceState::Withdrawn);
    approved(&hasty, SliceState::Approved);
    assert!(may(&mine));
    // Two are open; of four the fifth is refused, and none of those already there.
    assert!(!many(&mine));
    of("third", 1, SliceState::Requested, 0, 500);
    let fourth = of("fourth", 1, SliceState::Requested, 0, 500);
    assert!(!many(&fourth));
    let fifth = Slice { id: SliceId::new_v4(), ..fourth.clone() };
    assert!(many(&fifth) && !many(&Slice { from: None, ..fifth.clone() }));
    assert!(!many(&Slice { project: ProjectId::new_v4(), ..fifth }));
}

#[test]
fn many_who_look_at_the_queue_at_once_cost_one_plan() {
    let ground = Ground::new();
    ground.approved("main", 16, 1);
    let look = |now| place::Queue::recent(&ground.app, &ground.app.ledger.state(), now);
    let first = look(at(1_000_000));
    assert!(std::sync::Arc::ptr_eq(&first, &look(at(1_000_000))));
    assert!(!std::sync::Arc::ptr_eq(&first, &look(at(1_000_001))), "a second later");
    let second = look(at(1_000_001));
    ground.approved("next", 1, 2);
    let third = look(at(1_000_001));
    assert!(!std::sync::Arc::ptr_eq(&second, &third) && third.wishes.len() == 2);
}
