//! One thing goes wrong, and exactly that is said and blocked.

use super::*;
use crate::domain::machine::{Hardware, Health};
use crate::domain::people;
use crate::domain::records::{Change, Record};
use holm_proto::ids::Name;
use proptest::prelude::*;

fn name() -> Name {
    "dgx".parse().unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn address(n: u8) -> PciAddress {
    PciAddress { domain: 0, bus: n, device: 0, function: 0 }
}

fn hardware() -> Hardware {
    let mut hardware = Hardware::default();
    hardware.firmware.push_str("88.00.51.00.04");
    hardware
}

fn device(n: u8, gpu: bool) -> Device {
    Device {
        host: name(),
        address: address(n),
        gpu,
        id: if gpu { "10de:1db8" } else { "10de:1ac2" }.to_owned(),
        numa_node: 0,
        iommu_group: Some(n.into()),
        physical_id: gpu.then_some(n.into()),
        driver: "vfio-pci".to_owned(),
        reset_methods: vec!["bus".to_owned()],
        memory_bytes: if gpu { 32 << 30 } else { 0 },
        problem: String::new(),
        hardware: hardware(),
        health: None,
        state: DeviceState::Free,
        reason: String::new(),
        slice: None,
        maintenance: None,
        evidence: None,
    }
}

fn report() -> Commissioning {
    Commissioning {
        at: at(0),
        received: at(0),
        agent_version: "0.1.0".to_owned(),
        simulated: false,
        failed: Vec::new(),
        passed: CHECKS.iter().map(|check| check.id.to_owned()).collect(),
        sha256: String::new(),
        signature: String::new(),
    }
}

/// A real DGX-2 with nothing wrong; GPUs are 1 to 16, NVSwitches 17 to 28.
struct Ground {
    state: State,
    host: Host,
    bill: Bill,
    heard: Heard,
    now: Timestamp,
}

impl Ground {
    fn new() -> Self {
        let mut state = State::default();
        let changes = people::invite_host(&state, &name(), String::new(), "olga", at(0));
        state.apply(&changes);
        for n in 1..=28 {
            state.apply(&[Change::Put(Record::Device(device(n, n <= 16)))]);
        }
        let mut host = state.hosts[&name()].clone();
        host.present = (1..=28).map(address).collect();
        host.commissioning = Some(report());
        host.agent_version = "0.1.0".to_owned();
        Self {
            state,
            host,
            bill: Bill::dgx2(),
            heard: Heard { reported: Some(at(5)), ..Heard::default() },
            now: at(6),
        }
    }

    fn device(&mut self, n: u8) -> &mut Device {
        std::sync::Arc::make_mut(&mut self.state.devices).get_mut(&(name(), address(n))).unwrap()
    }

    fn alerts(&self) -> Vec<Alert> {
        alerts(&self.state, &self.host, &self.bill, &self.heard, self.now)
    }
}

fn check(id: &str, must: bool) -> FailedCheck {
    FailedCheck {
        id: id.to_owned(),
        title: String::new(),
        unknown: false,
        must,
        found: "so".to_owned(),
        mend: "otherwise".to_owned(),
    }
}

fn fails(ground: &mut Ground, id: &str, must: bool) {
    let report = ground.host.commissioning.as_mut().unwrap();
    report.passed.retain(|passed| passed != id);
    report.failed.push(check(id, must));
}

fn ill(ground: &mut Ground, n: u8, state: HealthState) {
    let health = Health { state, reason: "a link is down".to_owned(), ..Health::default() };
    ground.device(n).health = Some(health);
}

/// What is blocked, in short: the host, two together, or these devices.
fn in_short(blocked: &Blocked) -> (bool, bool, Vec<u8>) {
    let devices = blocked.devices.keys().map(|address| address.bus).collect();
    (blocked.host.is_some(), blocked.together.is_some(), devices)
}

type Case = (&'static [&'static str], (bool, bool, &'static [u8]), fn(&mut Ground));

const HOST: (bool, bool, &[u8]) = (true, false, &[]);
const FABRIC: (bool, bool, &[u8]) = (false, true, &[]);
const NOTHING: (bool, bool, &[u8]) = (false, false, &[]);
const THIRD: (bool, bool, &[u8]) = (false, false, &[3]);

const CASES: &[Case] = &[
    (&[], NOTHING, |_| {}),
    (&["report-stale"], HOST, |g| g.heard.reported = None),
    (&["report-stale"], HOST, |g| {
        g.now = at(5).checked_add(STALE_REPORT).unwrap().checked_add(SignedDuration::from_secs(1)).unwrap();
    }),
    (&[], NOTHING, |g| g.now = at(5).checked_add(STALE_REPORT).unwrap()),
    (&[], NOTHING, |g| g.heard.volumes = Some((1000, 201))),
    (&["volumes-nearly-full"], NOTHING, |g| g.heard.volumes = Some((1000, 200))),
    (&["volumes-full"], NOTHING, |g| g.heard.volumes = Some((1000, 100))),
    (&["slices-paused"], HOST, |g| g.heard.paused = 1),
    (&["slices-paused", "volumes-full"], HOST, |g| (g.heard.paused, g.heard.volumes) = (2, Some((1000, 0)))),
    (&["not-commissioned"], HOST, |g| g.host.commissioning = None),
    (&["commissioning-stale"], HOST, |g| {
        g.now = at(1).checked_add(STALE_COMMISSIONING).unwrap();
        g.heard.reported = Some(g.now);
    }),
    (&["commissioning-failed"], HOST, |g| fails(g, "swap-off", true)),
    // Whether it must is holmd's to say.
    (&["commissioning-failed"], HOST, |g| fails(g, "swap-off", false)),
    (&["commissioning-failed", "commissioning-failed"], HOST, |g| {
        fails(g, "swap-off", true);
        fails(g, "ksm-off", true);
    }),
    (&["commissioning-failed"], HOST, |g| {
        g.host.commissioning.as_mut().unwrap().passed.retain(|id| id != "iommu-on");
    }),
    (&["commissioning-failed"], HOST, |g| fails(g, "hugepages", true)),
    (&[], NOTHING, |g| fails(g, "hugepages", false)),
    (&["commissioning-failed"], HOST, |g| fails(g, "of-a-later-release", true)),
    (&["gpu-missing"], NOTHING, |g| {
        g.host.present.remove(&address(3));
    }),
    (&["nvswitch-missing"], FABRIC, |g| {
        g.host.present.remove(&address(20));
    }),
    (&["gpu-unexpected"], HOST, |g| {
        g.state.apply(&[Change::Put(Record::Device(device(40, true)))]);
        g.host.present.insert(address(40));
    }),
    (&["gpu-unexpected"], THIRD, |g| g.device(3).id = "10de:1db7".to_owned()),
    (&["nvswitch-unexpected"], FABRIC, |g| g.device(20).id = "10de:22a3".to_owned()),
    (&["nvswitch-unexpected"], FABRIC, |g| {
        g.state.apply(&[Change::Put(Record::Device(device(40, false)))]);
        g.host.present.insert(address(40));
    }),
    (&["memory-differs"], THIRD, |g| g.device(3).memory_bytes = 16 << 30),
    (&["firmware-differs"], THIRD, |g| g.device(3).hardware.firmware = "88.00.00.00.00".to_owned()),
    (&[], NOTHING, |g| g.device(3).hardware.firmware.clear()),
    (&["device-quarantined"], THIRD, |g| g.device(3).state = DeviceState::Quarantined),
    (&["device-problem"], THIRD, |g| g.device(3).problem = "no way to reset it".to_owned()),
    (&["device-problem"], FABRIC, |g| g.device(20).problem = "no way to reset it".to_owned()),
    (&["device-unhealthy"], THIRD, |g| ill(g, 3, HealthState::Failed)),
    (&["device-unhealthy"], FABRIC, |g| ill(g, 20, HealthState::Failed)),
    (&["device-degraded"], NOTHING, |g| ill(g, 3, HealthState::Degraded)),
    (&[], NOTHING, |g| ill(g, 3, HealthState::Unknown)),
    // Of a simulated host only what is not made up.
    (&["report-stale"], HOST, |g| {
        g.host.simulated = true;
        g.host.commissioning = None;
        g.host.present.clear();
        g.heard.reported = None;
    }),
];

#[test]
fn each_says_and_blocks_exactly_what_it_is() {
    for (number, (codes, (host, together, devices), spoil)) in CASES.iter().enumerate() {
        let mut ground = Ground::new();
        spoil(&mut ground);
        let alerts = ground.alerts();
        let said: Vec<&str> = alerts.iter().map(|alert| alert.code).collect();
        assert_eq!(said, *codes, "case {number}: {alerts:#?}");
        let expected = (*host, *together, devices.to_vec());
        assert_eq!(in_short(&blocked(&alerts)), expected, "case {number}: {alerts:#?}");
        assert!(alerts.iter().all(|alert| !alert.text.is_empty() && !alert.mend.is_empty()));
    }
}

#[test]
fn only_a_silent_host_keeps_slices_from_being_closed() {
    for (number, (codes, _, spoil)) in CASES.iter().enumerate() {
        let mut ground = Ground::new();
        spoil(&mut ground);
        let closing = ground.alerts().iter().any(|alert| alert.prevents.contains(&Prevents::Closing));
        assert_eq!(closing, codes.contains(&"report-stale"), "case {number}");
    }
}

#[test]
fn a_pinned_firmware_is_the_only_right_one_and_of_halves_none_is() {
    let mut ground = Ground::new();
    ground.bill.firmware.insert("10de:1db8".to_owned(), "88.00.51.00.05".to_owned());
    assert_eq!(ground.alerts().len(), 16);
    ground.device(3).hardware.firmware = "88.00.51.00.05".to_owned();
    assert_eq!(ground.alerts().len(), 15);
    // One that does not say what it has is not taken for right.
    ground.device(3).hardware.firmware.clear();
    let alerts = ground.alerts();
    assert_eq!(alerts.iter().filter(|alert| alert.code == "firmware-unknown").count(), 1);
    assert_eq!(blocked(&alerts).devices.len(), 16);
    let mut ground = Ground::new();
    for n in 1..=8 {
        ground.device(n).hardware.firmware = "88.00.51.00.05".to_owned();
    }
    assert_eq!(in_short(&blocked(&ground.alerts())).2, (1..=16).collect::<Vec<u8>>());
}

/// One way in which a device may be wrong; 0 and what no case has is none.
fn spoil(device: &mut Device, fault: u8) {
    let ill = |state| Some(Health { state, ..Health::default() });
    match fault {
        1 => device.id = "8086:10d3".to_owned(),
        2 => device.memory_bytes /= 2,
        3 => device.problem = "no way to reset it".to_owned(),
        4 => device.state = DeviceState::Quarantined,
        5 => device.health = ill(HealthState::Failed),
        6 => device.health = ill(HealthState::Unknown),
        7 => device.hardware.firmware = "88.00.00.00.00".to_owned(),
        _ => {}
    }
}

proptest! {
    /// Whatever goes wrong at once: what is not blocked has nothing wrong with it.
    #[test]
    fn what_is_not_blocked_is_as_it_should_be(
        faults in prop::collection::vec((1..=28_u8, 0..8_u8), 0..8),
        gone in prop::collection::btree_set(1..=28_u8, 0..3),
        left_out in prop::collection::btree_set(0..CHECKS.len(), 0..2),
        checked in any::<bool>(),
        age in 0..200_i64,
    ) {
        let mut ground = Ground::new();
        for (n, fault) in &faults {
            spoil(ground.device(*n), *fault);
        }
        gone.iter().for_each(|n| { ground.host.present.remove(&address(*n)); });
        let mut listed = report();
        left_out.iter().for_each(|n| listed.passed.retain(|id| id != CHECKS[*n].id));
        let complete = left_out.iter().all(|n| !CHECKS[*n].must);
        ground.host.commissioning = checked.then_some(listed);
        ground.now = at(5 + age);
        let blocked = blocked(&ground.alerts());
        prop_assert_eq!(blocked.host.is_none(), checked && complete && age <= STALE_REPORT.as_secs());
        for device in ground.state.devices.values().filter(|d| ground.host.present.contains(&d.address)) {
            let ill = device.health.as_ref().is_some_and(|h| h.state == HealthState::Failed);
            let wrong = ill || !device.problem.is_empty();
            if device.gpu {
                let wrong = wrong
                    || device.state == DeviceState::Quarantined
                    || !ground.bill.gpu_ids.contains(&device.id)
                    || ground.bill.memory_bytes.get(&device.id).is_some_and(|m| *m != device.memory_bytes);
                prop_assert!(!wrong || blocked.devices.contains_key(&device.address));
            } else {
                let wrong = wrong || !ground.bill.nvswitch_ids.contains(&device.id);
                prop_assert!(!wrong || blocked.together.is_some());
            }
        }
        let switch_gone = gone.iter().any(|n| *n > 16);
        prop_assert!(!switch_gone || blocked.together.is_some());
    }
}
