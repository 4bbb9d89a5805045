//! The client against the stand-in library, which `tests/libnvfm` is built to.

use super::*;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where cargo puts what it builds for tests, beside the test itself.
pub fn library() -> PathBuf {
    let library = std::env::current_exe().unwrap().parent().unwrap().join("libnvfm.so");
    assert!(
        library.is_file(),
        "`{}` is not there: is `holm-test-libnvfm` a dev-dependency?",
        library.display()
    );
    library
}

/// A Fabric Manager that is a directory.
pub struct World {
    directory: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("fm")).unwrap();
        Self { directory }
    }

    pub fn config(&self) -> FabricConfig {
        FabricConfig {
            model: FabricModel::SharedNvswitch,
            library: library(),
            address: self.path("").to_str().unwrap().trim_end_matches('/').to_owned(),
            record: self.directory.path().join("fabric.json"),
            // A machine that is busy with something else takes its time. Tests of limits have their own.
            call_limit_s: 120,
            start_limit_s: 120,
            // Nothing happens that a test does not ask for.
            watch_s: 3600,
        }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join("fm").join(file)
    }

    pub fn control(&self, text: &str) {
        // The client may be reading: it sees the old or the new.
        let making = self.path("control-new");
        fs::write(&making, text).unwrap();
        fs::rename(making, self.path("control")).unwrap();
    }

    fn clock(&self, seconds: u64) {
        fs::write(self.path("clock"), seconds.to_string()).unwrap();
    }

    /// What was called since this was asked last.
    pub fn trace(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("trace")).unwrap_or_default();
        let _ = fs::remove_file(self.path("trace"));
        text.lines().map(|line| line.trim_start_matches("fm").to_owned()).collect()
    }

    fn recorded(&self) -> String {
        fs::read_to_string(self.directory.path().join("fabric.json")).unwrap_or_default()
    }

    fn fabric(&self) -> Nvfm {
        Nvfm::new(self.config()).unwrap()
    }

    /// Its own, with other times.
    fn quick(&self, call_limit_s: u32, start_limit_s: u32) -> Nvfm {
        Nvfm::new(FabricConfig { call_limit_s, start_limit_s, ..self.config() }).unwrap()
    }
}

/// Waits for what another thread does, with a limit.
fn until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "it did not come about");
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn active(fabric: &Nvfm) -> Vec<u32> {
    fabric.active().unwrap().into_iter().collect()
}

fn says<T: std::fmt::Debug>(outcome: Result<T>, words: &str) {
    let error = outcome.unwrap_err().chain();
    assert!(error.contains(words), "{error}");
}

#[test]
fn every_call_can_be_made_again() {
    let world = World::new();
    let fabric = world.fabric();
    for _ in 0..2 {
        fabric.activate(9).unwrap();
        fabric.activate(10).unwrap();
        assert_eq!(active(&fabric), [9, 10]);
        assert_eq!(world.recorded(), "[9,10]");
    }
    for _ in 0..2 {
        fabric.deactivate(9).unwrap();
        assert_eq!((active(&fabric), world.recorded().as_str()), (vec![10], "[10]"));
    }
    // One connection, and no call that would be refused.
    let trace = world.trace();
    assert_eq!(trace.iter().filter(|call| *call == "Connect").count(), 1);
    let changes: Vec<&String> =
        trace.iter().filter(|call| call.contains("activate") || call.contains("Activate")).collect();
    assert_eq!(
        changes,
        ["ActivateFabricPartition 9", "ActivateFabricPartition 10", "DeactivateFabricPartition 9"]
    );
}

#[test]
fn overlapping_is_refused_by_name() {
    let world = World::new();
    let fabric = world.fabric();
    fabric.activate(5).unwrap();
    says(fabric.activate(9), "partition `9` has GPUs in common with partition `5`, which is up");
    says(fabric.activate(0), "with partition `5`");
    says(fabric.activate(33), "offers no partition `33`");
    world.control("missing 16");
    says(fabric.activate(16), "offers no partition `16`");
    fabric.deactivate(16).unwrap();
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![5], "[5]"));
}

#[test]
fn an_agent_that_was_killed_finds_what_is_up() {
    let world = World::new();
    world.fabric().activate(17).unwrap();
    let fabric = world.fabric();
    assert_eq!(fabric.maybe_active(), BTreeSet::from([17]), "without asking");
    fabric.activate(17).unwrap();
    assert_eq!(active(&fabric), [17]);
    // One that was killed between the record and the call, or after a call whose end it did not see.
    fs::write(world.config().record, "[9,17]").unwrap();
    let fabric = world.fabric();
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![17], "[17]"));
    fs::write(world.config().record, "[]").unwrap();
    let fabric = world.fabric();
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![17], "[17]"));
}

#[test]
fn after_a_restart_it_is_told_what_is_up_before_anything_else() {
    let world = World::new();
    let fabric = world.fabric();
    fabric.activate(9).unwrap();
    fabric.activate(17 + 7).unwrap();
    world.trace();
    world.control("restart");
    fabric.activate(10).unwrap();
    assert_eq!(
        world.trace(),
        [
            // The old connection is dead: its end is seen at the first question.
            "GetSupportedFabricPartitions",
            "Connect",
            "GetSupportedFabricPartitions",
            "SetActivatedFabricPartitions [9,24]",
            "GetSupportedFabricPartitions",
            "ActivateFabricPartition 10",
        ]
    );
    assert_eq!(active(&fabric), [9, 10, 24]);
}

#[test]
fn it_is_told_also_that_nothing_is_up_and_by_an_agent_that_has_just_come() {
    let world = World::new();
    world.control("restart");
    let fabric = world.fabric();
    assert!(active(&fabric).is_empty());
    assert!(world.trace().contains(&"SetActivatedFabricPartitions []".to_owned()));
    fabric.activate(0).unwrap();
    world.control("restart");
    assert_eq!(active(&world.fabric()), [0], "from the record alone");
}

#[test]
fn it_is_looked_at_without_being_asked() {
    let world = World::new();
    world.fabric().activate(9).unwrap();
    world.control("restart");
    let fabric = Nvfm::new(FabricConfig { watch_s: 1, ..world.config() }).unwrap();
    fabric.watch();
    let told = |times| {
        let text = fs::read_to_string(world.path("trace")).unwrap_or_default();
        text.matches("SetActivatedFabricPartitions [9]").count() == times
    };
    until(|| told(1));
    world.control("restart");
    until(|| told(2));
    assert_eq!(active(&fabric), [9]);
}

#[test]
fn a_window_that_was_missed_is_an_error_until_it_is_started_again() {
    let world = World::new();
    world.fabric().activate(9).unwrap();
    world.control("restart");
    let fabric = world.quick(10, 1);
    world.clock(0);
    Nvfm::look(&world.config()).unwrap_err();
    world.clock(61);
    says(fabric.active(), "cannot be reached");
    says(fabric.activate(10), "FM_ST_CONNECTION_NOT_VALID");
    assert_eq!(world.recorded(), "[9]", "nobody has said that it is down");
    world.control("start 0");
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![], "[]"), "started afresh, nothing is up");
}

#[test]
fn one_that_starts_is_waited_for() {
    let world = World::new();
    let fabric = world.fabric();
    world.control("start 30");
    thread::scope(|scope| {
        scope.spawn(|| {
            until(|| {
                fs::read_to_string(world.path("trace")).unwrap_or_default().matches("GetSupported").count()
                    > 1
            });
            world.clock(30);
        });
        fabric.activate(1).unwrap();
    });
    world.control("start 30");
    says(world.quick(10, 1).activate(2), "starts and knows no partitions yet: FM_ST_NOT_CONFIGURED");
}

#[test]
fn what_somebody_must_do_is_said_at_once() {
    let world = World::new();
    let fabric = world.fabric();
    world.control("mismatch");
    says(fabric.activate(1), "install the SDK package `nvidia-fabricmanager-dev` of the version");
    world.control("fail fmGetSupportedFabricPartitions -3");
    says(fabric.activate(1), "set `FABRIC_MODE=1`");
    let nowhere = |config| Nvfm::new(config).unwrap();
    says(
        nowhere(FabricConfig { library: "/nowhere/libnvfm.so.1".into(), ..world.config() }).active(),
        "`/nowhere/libnvfm.so.1` cannot be loaded: install",
    );
    let long = format!("/{}", "a".repeat(256));
    says(nowhere(FabricConfig { address: long, ..world.config() }).active(), "has no address such as");
    let other = FabricConfig { library: std::env::current_exe().unwrap(), ..world.config() };
    says(nowhere(other).active(), "cannot be loaded");
    let gone = FabricConfig { address: "/nowhere/fm".to_owned(), start_limit_s: 0, ..world.config() };
    says(nowhere(gone).active(), "cannot be reached at `/nowhere/fm`");
}

#[test]
fn a_call_that_failed_leaves_what_is_true() {
    let world = World::new();
    let fabric = world.fabric();
    // It did nothing; it did its work and said otherwise; it timed out half way.
    world.control("fail fmActivateFabricPartition -2");
    says(fabric.activate(9), "does not activate partition `9`: FM_ST_GENERIC_ERROR");
    assert_eq!(fabric.maybe_active(), BTreeSet::from([9]), "it is not known to be down");
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![], "[]"));
    world.control("late fmActivateFabricPartition -5");
    says(fabric.activate(9), "FM_ST_TIMEOUT");
    fabric.activate(9).unwrap();
    world.control("late fmDeactivateFabricPartition -10");
    says(fabric.deactivate(9), "does not deactivate partition `9`: FM_ST_NVLINK_ERROR");
    fabric.deactivate(9).unwrap();
    // Another was quicker.
    world.control("fail fmActivateFabricPartition -7");
    says(fabric.activate(9), "FM_ST_IN_USE");
    world.control("late fmActivateFabricPartition -7");
    fabric.activate(9).unwrap();
    world.control("late fmDeactivateFabricPartition -4");
    fabric.deactivate(9).unwrap();
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![], "[]"));
    world.control("fail fmActivateFabricPartition -99");
    says(fabric.activate(9), "fmReturn_t -99");
}

#[test]
fn a_call_that_hangs_is_given_up_and_nothing_is_done_late() {
    let world = World::new();
    let fabric = world.quick(1, 1);
    fabric.activate(10).unwrap();
    world.control("hang fmActivateFabricPartition");
    let before = Instant::now();
    says(fabric.activate(9), "has not answered `fmActivateFabricPartition` for 1 s");
    assert!(before.elapsed() < Duration::from_secs(8));
    // Stuck: whatever is asked fails at once, and is not done later.
    let before = Instant::now();
    says(fabric.deactivate(10), "nothing else can be asked meanwhile");
    says(fabric.active(), "systemctl status nvidia-fabricmanager");
    assert!(before.elapsed() < Duration::from_millis(500));
    assert_eq!(fabric.maybe_active(), BTreeSet::from([9, 10]));
    world.control("");
    until(|| fabric.stuck().is_none());
    // The call that hung was made, and that is found out.
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![9, 10], "[9,10]"));
    assert!(!world.trace().iter().any(|call| call.starts_with("Deactivate")));
    fabric.deactivate(9).unwrap();
}

#[test]
fn what_waits_behind_a_call_that_hangs_is_not_done_late() {
    let world = World::new();
    let fabric = world.quick(2, 1);
    fabric.activate(10).unwrap();
    world.control("hang fmGetSupportedFabricPartitions");
    thread::scope(|scope| {
        let listing = scope.spawn(|| fabric.active());
        until(|| fabric.calls.running().is_some());
        let waiting = scope.spawn(|| fabric.deactivate(10));
        says(listing.join().unwrap(), "has not answered");
        says(waiting.join().unwrap(), "has not answered");
    });
    world.control("");
    until(|| fabric.stuck().is_none());
    assert_eq!(active(&fabric), [10]);
    assert!(!world.trace().iter().any(|call| call.starts_with("Deactivate")));
}

#[test]
fn a_look_changes_nothing() {
    let world = World::new();
    world.fabric().activate(9).unwrap();
    world.trace();
    let seen = Nvfm::look(&world.config()).unwrap();
    assert_eq!(seen.len(), 33);
    assert!(seen[9].active && !seen[10].active);
    assert_eq!((seen[9].gpus[1].physical_id, seen[9].gpus[1].links), (4, 5));
    assert_eq!(seen[9].gpus[1].pci_bus_id, "00000000:3B:00.0");
    assert_eq!(world.trace(), ["Connect", "GetSupportedFabricPartitions"]);
    world.control("restart");
    says(Nvfm::look(&world.config()), "FM_ST_NOT_CONFIGURED");
    assert_eq!(world.trace(), ["Connect", "GetSupportedFabricPartitions"], "it waits for the agent");
}

#[test]
fn what_it_shows_is_the_table_and_which_gpu_is_where() {
    use crate::fabric::{compare, learn};
    use holm_proto::platform::PartitionTable;
    let world = World::new();
    let fabric = world.fabric();
    let learnt = learn(&fabric.partitions().unwrap()).unwrap();
    assert_eq!(learnt.len(), 16);
    assert_eq!(learnt[&"0000:e7:00.0".parse().unwrap()], 16);
    let differences = |fabric: &Nvfm| compare(PartitionTable::dgx2(), &fabric.partitions().unwrap(), &learnt);
    assert_eq!(differences(&fabric), Vec::<String>::new());
    world.control("missing 32\ngpu 1 00000000:35:00.0");
    assert_eq!(
        differences(&fabric),
        [
            "partition `32` of a `dgx-2` is not offered: a GPU, a switch or a link of it failed",
            "`0000:35:00.0` is GPU 1 and the configuration does not name it",
            "the configuration says that `0000:34:00.0` is GPU 1, and the fabric shows none there",
        ]
    );
}

#[test]
fn a_record_that_was_kept_elsewhere_is_taken_over() {
    let world = World::new();
    world.control("restart");
    let fabric = world.fabric();
    fabric.restore(&BTreeSet::from([1, 7])).unwrap();
    assert_eq!(active(&fabric), [1, 7]);
    // Where nobody waits for it, what is up stays as it is.
    fabric.restore(&BTreeSet::from([2])).unwrap();
    assert_eq!((active(&fabric), world.recorded().as_str()), (vec![1, 7], "[1,7]"));
    world.control("restart");
    says(fabric.restore(&BTreeSet::from([1, 9])), "does not take that {1, 9} are up: FM_ST_BADPARAM");
}

#[test]
fn the_record_must_be_readable() {
    let world = World::new();
    fs::write(world.config().record, "9").unwrap();
    says(Nvfm::new(world.config()), "does not say which fabric partitions are up");
    assert!(Path::new(&world.config().record).is_file());
}
