//! The order of things, as the fabric, the kernel and the devices see it.

use super::*;
use crate::{
    edge::EdgeError,
    fabric::{NoFabric, Nvfm, nvfm::tests::World},
    inventory::{fixture::Machine, sysfs::Sysfs},
    vfio,
};
use std::{fs::OpenOptions, io::Write as _, path::PathBuf, sync::Mutex};

/// Hands that write to a machine made of files, and write down what they do where the stand-in for Fabric Manager
/// writes down what it is asked.
#[derive(Debug)]
struct Traced {
    sysfs: Sysfs,
    trace: PathBuf,
    /// What happens to `DOING ADDRESS` instead.
    fails: Mutex<BTreeSet<String>>,
    held: Mutex<BTreeSet<PciAddress>>,
}

impl Traced {
    fn note(&self, doing: &str, device: PciAddress) -> Result<()> {
        let line = format!("{doing} {device}");
        let mut file = OpenOptions::new().append(true).create(true).open(&self.trace).unwrap();
        writeln!(file, "{line}").unwrap();
        if self.fails.lock().unwrap().contains(&line) { Err(EdgeError::new(line)) } else { Ok(()) }
    }
}

impl Hands for Traced {
    fn viable(&self, device: PciAddress) -> Result<()> {
        self.note("viable", device)
    }
    fn reset(&self, device: PciAddress) -> Result<()> {
        assert!(!vfio::are_suppressed(&self.sysfs, device).unwrap(), "it could not be reset");
        self.note("reset", device)
    }
    fn is_quiet(&self, device: PciAddress) -> Result<bool> {
        vfio::are_suppressed(&self.sysfs, device)
    }
    fn quieten(&self, device: PciAddress) -> Result<()> {
        if !vfio::are_suppressed(&self.sysfs, device)? {
            self.note("reset_method=", device)?;
        }
        vfio::suppress(&self.sysfs, device)
    }
    fn allow_resets(&self, device: PciAddress) -> Result<()> {
        if vfio::are_suppressed(&self.sysfs, device)? {
            self.note("reset_method=default", device)?;
        }
        vfio::allow(&self.sysfs, device)
    }
    fn is_held(&self, device: PciAddress) -> Result<bool> {
        Ok(self.held.lock().unwrap().contains(&device))
    }
}

struct Host {
    world: World,
    machine: Machine,
}

impl Host {
    fn new() -> Self {
        Self { world: World::new(), machine: Machine::dgx2() }
    }

    /// An agent that has just come.
    fn agent(&self) -> Handover<Traced> {
        self.over(Arc::new(Nvfm::new(self.world.config()).unwrap()))
    }

    fn over(&self, fabric: Arc<dyn Fabric>) -> Handover<Traced> {
        let hands = Traced {
            sysfs: self.machine.sysfs(),
            trace: self.world.path("trace"),
            fails: Mutex::default(),
            held: Mutex::default(),
        };
        Handover::new(fabric, PartitionTable::dgx2(), self.machine.devices().physical_ids, hands)
    }

    /// What happened, without questions.
    fn trace(&self) -> String {
        let asked = |line: &String| !line.starts_with("Get") && !line.starts_with("Connect");
        self.world.trace().into_iter().filter(asked).collect::<Vec<String>>().join("\n")
    }

    fn quiet(&self) -> usize {
        let devices = self.machine.devices().physical_ids;
        devices.keys().filter(|device| vfio::are_suppressed(&self.machine.sysfs(), **device).unwrap()).count()
    }
}

/// The devices of partition 9.
fn pair() -> [PciAddress; 2] {
    ["0000:34:00.0", "0000:3b:00.0"].map(|text| text.parse().unwrap())
}

fn says<T: std::fmt::Debug>(outcome: Result<T>, words: &str) {
    let error = outcome.unwrap_err().chain();
    assert!(error.contains(words), "{error}");
}

#[test]
fn the_order_with_a_shared_fabric() {
    let host = Host::new();
    let handover = host.agent();
    says(handover.check_start(&pair()), "partition `9` is not up");
    handover.activate(9).unwrap();
    insta::assert_snapshot!(host.trace(), @r"
    viable 0000:34:00.0
    viable 0000:3b:00.0
    reset 0000:34:00.0
    reset 0000:3b:00.0
    reset_method= 0000:34:00.0
    reset_method= 0000:3b:00.0
    ActivateFabricPartition 9
    ");
    handover.check_start(&pair()).unwrap();
    assert_eq!(handover.quiet(), BTreeSet::from(pair()));
    // The machine runs and is gone.
    handover.hands.held.lock().unwrap().insert(pair()[1]);
    says(handover.deactivate(9), "something still holds `0000:3b:00.0`");
    handover.hands.held.lock().unwrap().clear();
    assert_eq!(host.trace(), "");
    handover.deactivate(9).unwrap();
    insta::assert_snapshot!(host.trace(), @r"
    DeactivateFabricPartition 9
    reset_method=default 0000:34:00.0
    reset_method=default 0000:3b:00.0
    ");
    assert_eq!((handover.quiet().len(), host.quiet()), (0, 0));
}

#[test]
fn the_order_without_a_fabric() {
    let host = Host::new();
    let handover = host.over(Arc::new(NoFabric::new(PartitionTable::dgx2())));
    handover.activate(9).unwrap();
    handover.check_start(&pair()).unwrap();
    handover.deactivate(9).unwrap();
    // The kernel resets what a machine opens: nothing is done here, and nothing is taken away.
    assert_eq!((host.trace().as_str(), host.quiet()), ("", 0));
    assert!(handover.activate(33).is_err());
}

#[test]
fn what_is_up_is_not_reset_again() {
    let host = Host::new();
    host.agent().activate(9).unwrap();
    host.trace();
    // The agent was killed, and the host lost what it was told.
    vfio::allow(&host.machine.sysfs(), pair()[0]).unwrap();
    let handover = host.agent();
    assert!(handover.begin().is_empty());
    says(handover.check_start(&pair()), "would reset `0000:34:00.0`");
    handover.activate(9).unwrap();
    assert_eq!(host.trace(), "reset_method= 0000:34:00.0");
    handover.check_start(&pair()).unwrap();
    handover.activate(9).unwrap();
    handover.deactivate(9).unwrap();
    handover.deactivate(9).unwrap();
    assert_eq!(host.trace().matches("DeactivateFabricPartition").count(), 1);
}

#[test]
fn a_failure_at_each_step_is_undone() {
    for (fails, words) in [
        ("viable 0000:3b:00.0", "viable"),
        ("reset 0000:3b:00.0", "reset"),
        ("reset_method= 0000:3b:00.0", "reset_method="),
    ] {
        let host = Host::new();
        let handover = host.agent();
        handover.hands.fails.lock().unwrap().insert(fails.to_owned());
        says(handover.activate(9), words);
        let trace = host.trace();
        assert!(
            !trace.contains("Activate")
                && trace.ends_with(if words == "reset_method=" {
                    "reset_method=default 0000:34:00.0"
                } else {
                    fails
                }),
            "{trace}"
        );
        assert_eq!((host.quiet(), handover.fabric.maybe_active().len()), (0, 0));
        // And the next try goes through.
        handover.hands.fails.lock().unwrap().clear();
        handover.activate(9).unwrap();
        handover.check_start(&pair()).unwrap();
    }
}

#[test]
fn a_fabric_that_refuses_leaves_devices_that_can_be_reset() {
    let host = Host::new();
    let handover = host.agent();
    handover.activate(17).unwrap();
    host.trace();
    says(handover.activate(9), "partition `17`, which is up");
    assert_eq!(host.trace(), "", "nothing of it was touched");
    // GPU 1 is in use by partition 17, and stays quiet for it.
    assert_eq!(handover.quiet(), BTreeSet::from([pair()[0]]));
    assert_eq!(host.quiet(), 1);
    says(handover.activate(40), "no fabric partition `40`");
}

#[test]
fn a_fabric_that_does_not_say_leaves_them_quiet() {
    let host = Host::new();
    let handover = host.agent();
    host.world.control("late fmActivateFabricPartition -5");
    says(handover.activate(9), "FM_ST_TIMEOUT");
    assert_eq!((host.quiet(), handover.quiet().len()), (2, 2));
    host.trace();
    handover.activate(9).unwrap();
    assert_eq!(host.trace(), "", "it had come up");
    // One that had not: it begins anew.
    host.world.control("fail fmActivateFabricPartition -5");
    says(handover.activate(10), "FM_ST_TIMEOUT");
    handover.activate(10).unwrap();
    assert_eq!(host.quiet(), 4);
}

#[test]
fn a_later_agent_makes_good_what_was_left_quiet() {
    let host = Host::new();
    host.agent().activate(9).unwrap();
    // Another agent was killed between quieting and the fabric, or the model was changed.
    for device in ["0000:36:00.0", "0000:e7:00.0"] {
        vfio::suppress(&host.machine.sysfs(), device.parse().unwrap()).unwrap();
    }
    host.trace();
    let handover = host.agent();
    for _ in 0..2 {
        assert!(handover.begin().is_empty());
    }
    assert_eq!(
        host.trace(),
        "reset_method=default 0000:36:00.0\nreset_method=default 0000:e7:00.0",
        "once, and not those of partition 9"
    );
    let none = host.over(Arc::new(NoFabric::new(PartitionTable::dgx2())));
    assert!(none.begin().is_empty());
    assert_eq!(host.quiet(), 0);
}

#[test]
fn devices_that_are_no_partition_do_not_start() {
    let host = Host::new();
    let handover = host.agent();
    let [first, _] = pair();
    says(handover.check_start(&[first, "0000:36:00.0".parse().unwrap()]), "{1, 2} are no partition");
    says(handover.check_start(&["0000:61:00.0".parse().unwrap()]), "`0000:61:00.0` has no number");
    says(handover.check_start(&[]), "no partition");
    let mut numbers = host.machine.devices().physical_ids;
    numbers.remove(&first);
    let fabric = Arc::clone(&handover.fabric);
    let fewer = Handover::new(fabric, PartitionTable::dgx2(), numbers, handover.hands);
    says(fewer.activate(9), "no device has the number 1");
}
