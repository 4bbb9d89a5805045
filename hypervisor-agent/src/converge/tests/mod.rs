//! Convergence under kills, faults and any order of events, against the simulated host and a small model of
//! holmd. A killed agent is one whose every later call and writing has no effect; the next one starts from
//! what is on the disk.

mod full;
mod jobs;
mod life;
mod members;
mod voices;
mod world;

pub use self::world::Fuse;

use self::world::{A, B, C, Mode, Stands, TestHost, World, gpus, slice, volume, volumes};
use super::{Driver, Engine, Limits, Record, Refused};
use crate::edge::Host as _;
use holm_proto::{
    ids::{RunId, SliceId},
    v1,
};
use newtype_uuid::GenericUuid as _;
use proptest::prelude::*;
use std::{
    fs,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

#[test]
fn a_story_from_delivery_to_the_next_owner() {
    let mut world = World::new(Mode::default());
    world.story();
    world.assert_end_of_story();
    let mut said = world.holmd.said.clone().unwrap();
    // By the guest's own clock.
    said.slices.iter_mut().filter_map(|slice| slice.jobs.as_mut()).for_each(|jobs| jobs.time = 0);
    let names: Vec<&str> = said.slices[0].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "bind devices to vfio-pci",
            "activate partition",
            "create encrypted volume",
            "write seed",
            "start machine",
            "guest boots",
            "slurm ready"
        ]
    );
    insta::with_settings!({ snapshot_path => "../golden", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_debug_snapshot!("observed", said);
    });
}

#[test]
fn every_call_made_twice_changes_nothing() {
    let mut once = World::new(Mode::default());
    once.story();
    let mut twice = World::new(Mode { twice: true, ..Mode::default() });
    twice.story();
    twice.assert_end_of_story();
    assert_eq!(once.end(), twice.end());
}

#[test]
fn a_kill_at_any_moment_is_a_pause() {
    killed_at_any_moment(World::story);
}

#[test]
fn a_kill_at_any_moment_keeps_what_is_on_hold() {
    killed_at_any_moment(World::story_with_a_hold);
}

fn killed_at_any_moment(story: fn(&mut World)) {
    let mut whole = World::new(Mode::default());
    story(&mut whole);
    let moments = i64::try_from(whole.moments + whole.fuse.burnt.load(Ordering::Relaxed)).unwrap();
    assert!(moments > 100, "{moments}");
    for moment in 0..moments {
        let mut world = World::new(Mode::default());
        world.begin(moment);
        story(&mut world);
        world.assert_end_of_story();
        // A slice is placed again where the agent that cleaned its devices is gone.
        let timeless = |mut end: world::End| {
            end.1.iter_mut().for_each(|slice| slice.2 = 0);
            end
        };
        assert_eq!(timeless(whole.end()), timeless(world.end()), "killed at moment {moment}");
    }
}

#[test]
fn a_failure_of_any_call_is_overcome() {
    for story in [World::story, World::story_with_a_hold] {
        let mut whole = World::new(Mode::default());
        story(&mut whole);
        let calls = whole.calls.load(Ordering::Relaxed);
        for number in 0..calls {
            for late in [false, true] {
                let mut world = World::new(Mode { fail: Some((number, late)), ..Mode::default() });
                story(&mut world);
                world.assert_end_of_story();
                assert_eq!(whole.end(), world.end(), "call {number} failed, late: {late}");
            }
        }
    }
}

#[test]
fn a_disk_on_hold_outlives_its_record_and_is_started_with_no_device_of_anothers() {
    let mut world = World::new(Mode::default());
    world.settle();
    world.keep(A);
    world.settle();
    assert_eq!((seen(&world, A).phase(), world.stands(C)), (v1::Phase::Kept, Stands::Ready));
    // No key is asked for, and who wants it to run again with what is another's by now waits.
    assert!(world.engine().keys_wanted().iter().all(|wanted| wanted.slice != slice(A)));
    let mut intended = world.intended();
    intended.generation += 1;
    for want in intended.slices.iter_mut().filter(|want| want.slice_id == slice(A).to_string()) {
        want.set_goal(v1::Goal::Run);
        want.generation += 1;
        want.devices = gpus(&[0x34, 0x3b]).iter().map(ToString::to_string).collect();
    }
    world.engine().intend(intended.clone()).unwrap();
    world.advance(slice(A));
    world.advance(slice(A));
    let waits = seen(&world, A);
    assert_eq!(waits.phase(), v1::Phase::Preparing);
    assert!(waits.reason.contains("which another slice has"), "{}", waits.reason);
    assert!(world.engine().keys_wanted().iter().all(|wanted| wanted.slice != slice(A)));
    assert!(world.host.machine().volumes.contains_key(&volume(slice(A))));
    // The agent's record is gone: what is left is not what others have.
    world.engine = None;
    fs::remove_file(world.directory.path().join(format!("record/slices/{}", slice(A)))).unwrap();
    world.holmd.generation = intended.generation;
    world.holmd.slices.get_mut(&slice(A)).unwrap().1 += 2;
    world.begin(i64::MAX);
    world.settle();
    assert_eq!(world.stands(A), Stands::Kept);
    assert!(world.host.machine().volumes.contains_key(&volume(slice(A))));
    world.lift(A);
    world.settle();
    assert!(world.host.machine().partitions.contains(&9));
    world.assert_end_of_story();
}

/// Anything that can happen to an agent.
#[derive(Debug, Clone)]
enum Event {
    Advance(u8),
    Clean,
    Look,
    Exchange,
    Disconnect,
    Close(u8),
    Keep(u8),
    Lift(u8),
    Time(u64),
    Kill(i64),
    Fault(&'static str),
    /// An intention of long ago, from a holmd that was restored.
    Replay,
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop::sample::select(vec![
        "fail:bind",
        "fail:start_domain:2",
        "fail-after:start_domain",
        "fail:finish_volume",
        "fail-after:create_volume",
        "fail:destroy_domain",
        "fail-after:destroy_domain",
        "fail:erase_volume",
        "fail:attached",
        "fail:domains",
        "fail:sanitise",
        "fail-after:sanitise",
        "fail-after:deactivate_partition",
        "stuck:0000:34:00.0",
        "held:0000:36:00.0",
        "room:100",
        "room:95",
        "fail:room",
        "fail:resume_domain",
    ]);
    prop_oneof![
        12 => (A..=C).prop_map(Event::Advance),
        4 => Just(Event::Clean),
        4 => Just(Event::Look),
        8 => Just(Event::Exchange),
        1 => Just(Event::Disconnect),
        1 => (A..=C).prop_map(Event::Close),
        1 => (A..=C).prop_map(Event::Keep),
        1 => (A..=C).prop_map(Event::Lift),
        2 => (1u64..60).prop_map(Event::Time),
        2 => (0i64..12).prop_map(Event::Kill),
        2 => fault.prop_map(Event::Fault),
        1 => Just(Event::Replay),
    ]
}

impl World {
    fn happen(&mut self, event: &Event, old: &mut Option<v1::Intended>) {
        match event {
            Event::Advance(number) => self.advance(slice(*number)),
            Event::Clean => drop(self.engine().clean(self.now)),
            Event::Look => drop(self.engine().look_at(true, self.now)),
            Event::Exchange => {
                self.exchange();
                old.get_or_insert(self.intended());
            }
            Event::Disconnect => self.disconnect(),
            Event::Close(number) => self.close(*number),
            Event::Keep(number) => self.keep(*number),
            Event::Lift(number) => self.lift(*number),
            Event::Time(seconds) => self.now.instant += Duration::from_secs(*seconds),
            Event::Kill(moments) => self.fuse.left.store(*moments, Ordering::Relaxed),
            Event::Fault(fault) => {
                fs::write(self.directory.path().join("host/faults"), format!("{fault}\n")).unwrap();
            }
            Event::Replay => {
                let newer = self.engine().seen();
                if let Some(old) = old.clone().filter(|old| old.generation < newer) {
                    assert!(matches!(self.engine().intend(old), Err(Refused::Old { .. })));
                }
            }
        }
        self.revive();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_it_ends_well(events in prop::collection::vec(event(), 0..120)) {
        let mut world = World::new(Mode::default());
        let mut old = None;
        for event in &events {
            world.happen(event, &mut old);
        }
        // Then all is well again: what was wanted is so.
        fs::write(world.directory.path().join("host/faults"), "").unwrap();
        // As long as it may take until a machine that was paused is tried again.
        world.now.instant += Duration::from_secs(601);
        world.settle();
        [A, B, C].iter().for_each(|number| world.lift(*number));
        world.settle();
        for number in [A, B, C] {
            if world.stands(number) == Stands::Failed {
                // The one failure that there may be here; its lead closes it.
                let why = seen(&world, number).reason;
                prop_assert!(why.contains("was in other hands after it was made ready"), "{number}: {why}");
                world.close(number);
                world.settle();
            }
        }
        for number in [A, B, C] {
            let stands = world.stands(number);
            let blocked = number == C && world.stands(A) != Stands::Gone;
            let fine = matches!(stands, Stands::Ready | Stands::Gone) || (blocked && stands == Stands::Queued);
            // C may have been first.
            let waits = number == A && stands == Stands::Queued && world.stands(C) == Stands::Ready;
            prop_assert!(fine || waits, "{number} is {stands:?}: {:#?}", world.holmd.said);
        }
        let machine = world.host.machine();
        prop_assert!(machine.domains.values().all(|domain| !domain.paused), "it was paused, and there is room");
        let ready: Vec<SliceId> = world.holmd.slices.iter()
            .filter(|(_, (stands, ..))| *stands == Stands::Ready).map(|(id, _)| *id).collect();
        prop_assert!(machine.domains.keys().copied().eq(ready.iter().copied()));
        prop_assert!(machine.volumes.keys().copied().eq(volumes(ready.iter().copied())));
        prop_assert!(machine.seeds.iter().copied().eq(ready.iter().copied()));
    }
}

fn limited(tries: u32) -> World {
    let mut world = World::new(Mode::default());
    world.limits.tries = tries;
    world.begin(i64::MAX);
    world
}

fn fault(world: &World, text: &str) {
    fs::write(world.directory.path().join("host/faults"), text).unwrap();
}

fn seen(world: &World, number: u8) -> v1::ObservedSlice {
    let observed = world.engine().observed().unwrap();
    observed.slices.into_iter().find(|seen| seen.slice_id == slice(number).to_string()).unwrap()
}

/// Somebody takes B's GPU.
const TAKEN: &str = "held:0000:36:00.0\n";

#[test]
fn a_stranger_who_comes_before_anything_is_begun_has_the_slice_placed_again() {
    let mut world = World::new(Mode::default());
    // Until B's GPU is clean and its own; then, between two looks, somebody takes it.
    for _ in 0..10 {
        if world.stands(B) != Stands::Starting {
            world.engine().look_at(true, world.now);
            world.engine().clean(world.now);
            world.exchange();
        }
    }
    assert_eq!(world.stands(B), Stands::Starting);
    world.exchange();
    fault(&world, TAKEN);
    world.advance(slice(B));
    world.exchange();
    assert_eq!(world.stands(B), Stands::Queued, "{:#?}", world.holmd.said);
    fault(&world, "");
    world.story();
    world.assert_end_of_story();
}

#[test]
fn a_stranger_who_comes_after_the_devices_were_bound_fails_the_slice_at_once() {
    let mut world = World::new(Mode::default());
    fault(&world, "fail:activate_partition:1000\n");
    let bound = |world: &World| {
        let said = world.holmd.said.iter().flat_map(|said| &said.slices);
        said.filter(|seen| seen.slice_id == slice(B).to_string())
            .any(|seen| seen.steps.iter().any(|s| s.done))
    };
    (0..10).for_each(|_| world.round());
    assert!(bound(&world), "{:#?}", world.holmd.said);
    world.begin(i64::MAX);
    fault(&world, TAKEN);
    world.settle();
    assert_eq!((world.stands(A), world.stands(B)), (Stands::Ready, Stands::Failed));
    let reason = seen(&world, B).reason;
    assert!(reason.contains("`0000:36:00.0` was in other hands after it was made ready"), "{reason}");
    fault(&world, "");
    world.close(B);
    world.settle();
    assert_eq!(world.stands(B), Stands::Gone);
}

#[test]
fn what_fails_again_and_again_is_given_up_and_kept() {
    let mut world = limited(3);
    fault(&world, "fail:start_domain:1000\n");
    world.settle();
    let failed = seen(&world, A);
    assert_eq!(failed.phase(), v1::Phase::Failed);
    assert!(failed.reason.contains("`start_domain` failed"), "{}", failed.reason);
    let faults = fs::read_to_string(world.directory.path().join("host/faults")).unwrap();
    assert_eq!(faults, "fail:start_domain:994\n", "three tries for each of two slices");
    // Not tried again, not after a kill either; and its disk stays.
    fault(&world, "");
    world.begin(i64::MAX);
    world.settle();
    assert_eq!(seen(&world, A).phase(), v1::Phase::Failed);
    assert_eq!(
        world.host.machine().volumes.len(),
        2 * 2,
        "what scratch there was is made anew at each start"
    );
    world.close(A);
    world.settle();
    assert_eq!((world.stands(A), world.stands(C)), (Stands::Gone, Stands::Ready));
}

#[test]
fn a_guest_that_says_nothing_fails_in_the_end_and_its_machine_is_kept() {
    let mut world = limited(3);
    fault(&world, "guest:silent\n");
    world.settle();
    assert_eq!(seen(&world, A).phase(), v1::Phase::Booting);
    world.now.instant += Duration::from_secs(1200);
    world.settle();
    let failed = seen(&world, A);
    assert_eq!(failed.phase(), v1::Phase::Failed);
    assert_eq!(failed.reason, "its guest was not ready within 1200 s");
    assert!(world.host.machine().domains[&slice(A)].running);
}

#[test]
fn a_guest_that_gives_up_fails() {
    let mut world = limited(3);
    fault(&world, "guest:fails\n");
    world.settle();
    assert!(seen(&world, A).reason.starts_with("its guest gave up: "));
}

#[test]
fn a_machine_that_ended_is_not_started_again() {
    let mut world = limited(3);
    world.settle();
    fault(&world, &format!("gone:{}\n", slice(A)));
    world.settle();
    let failed = seen(&world, A);
    assert_eq!((failed.phase(), world.stands(A)), (v1::Phase::Failed, Stands::Failed));
    assert!(failed.reason.contains("its machine has ended"), "{}", failed.reason);
    assert!(!world.host.machine().domains[&slice(A)].running);
}

#[test]
fn without_holmd_what_runs_runs_and_nothing_starts() {
    let mut world = limited(3);
    world.settle();
    world.close(A);
    world.settle();
    let before = world.host.machine();
    world.begin(i64::MAX);
    // A new agent without a session, and with a slice of which it would know what to do.
    for _ in 0..5 {
        world.engine().look_at(true, world.now);
        for id in world.engine().slices() {
            world.advance(id);
        }
        world.engine().clean(world.now);
    }
    assert_eq!(world.host.machine(), before);
    // One that loses it in the middle stops short of the start.
    let mut world = limited(3);
    for _ in 0..50 {
        world.exchange();
        world.engine().look_at(true, world.now);
        world.engine().clean(world.now);
        if !world.engine().keys_wanted().is_empty() || world.stands(A) == Stands::Starting {
            break;
        }
    }
    world.exchange();
    world.engine().advance(slice(A), world.now);
    world.engine().advance(slice(A), world.now);
    world.disconnect();
    world.advance(slice(A));
    assert_eq!(seen(&world, A).reason, "waits for holmd: nothing new starts without it");
    assert_eq!(world.host.machine().domains.len(), 0);
    world.settle();
    assert_eq!(world.stands(A), Stands::Ready);
}

#[test]
fn a_key_that_does_not_come_is_waited_for_only_so_long() {
    let mut world = limited(3);
    // As if it had been given before and was lost.
    let mut intended = None;
    for _ in 0..40 {
        world.exchange();
        world.engine().look_at(true, world.now);
        world.engine().clean(world.now);
        if world.stands(A) == Stands::Starting {
            intended = Some(world.intended());
            break;
        }
    }
    world.disconnect();
    world.engine().intend(intended.unwrap()).unwrap();
    world.engine().look_at(true, world.now);
    world.advance(slice(A));
    assert_eq!(seen(&world, A).reason, "waits for its volume's key");
    let wanted = world.engine().keys_wanted().into_iter().find(|key| key.slice == slice(A)).unwrap();
    let refused = v1::KeyRefused {
        slice_id: wanted.slice.to_string(),
        generation: wanted.generation,
        reason: "no\u{1b}[2J".to_owned(),
        later: false,
        ..Default::default()
    };
    world.engine().refuse_key(&v1::KeyRefused { generation: 99, ..refused.clone() });
    world.engine().refuse_key(&refused);
    world.advance(slice(A));
    assert_eq!(seen(&world, A).reason, "waits for its volume's key, which holmd refused: no [2J");
    assert!(!world.engine().keys_wanted().contains(&wanted), "not asked for again in this session");
    world.now.instant += Duration::from_secs(599);
    world.advance(slice(A));
    assert_eq!(seen(&world, A).phase(), v1::Phase::Preparing);
    // One that is to come later has no such limit, and comes without being asked for.
    world.engine().disconnected();
    world.engine().intend(world.intended()).unwrap();
    world.engine().refuse_key(&v1::KeyRefused { later: true, ..refused.clone() });
    world.advance(slice(A));
    world.now.instant += Duration::from_secs(3600);
    world.advance(slice(A));
    assert!(
        seen(&world, A).reason.contains("the key provider cannot be reached"),
        "{}",
        seen(&world, A).reason
    );
    assert_eq!(seen(&world, A).phase(), v1::Phase::Preparing);
    // In the next session it is, and the clock begins anew.
    world.engine().disconnected();
    world.engine().intend(world.intended()).unwrap();
    assert!(world.engine().keys_wanted().contains(&wanted));
    world.advance(slice(A));
    world.now.instant += Duration::from_secs(601);
    world.advance(slice(A));
    let failed = seen(&world, A);
    assert_eq!(failed.phase(), v1::Phase::Failed);
    assert!(failed.reason.contains("given up after 10 minutes"), "{}", failed.reason);
}

#[test]
fn an_orphan_is_kept_and_named() {
    let mut world = limited(3);
    world.settle();
    let id = slice(A);
    // holmd has forgotten it, and the agent's record as well.
    world.holmd.slices.remove(&id);
    world.holmd.slices.remove(&slice(C));
    world.holmd.generation += 1;
    for forget in [false, true] {
        if forget {
            world.engine = None;
            fs::remove_dir_all(world.directory.path().join("record")).unwrap();
        }
        world.begin(i64::MAX);
        world.engine().look_at(true, world.now);
        world.engine().intend(world.intended()).unwrap();
        for slice in world.engine().slices() {
            world.advance(slice);
        }
        assert_eq!(seen(&world, A).reason, "it runs and holmd does not intend it: kept");
        let observed = world.engine().observed().unwrap();
        assert!(gpus(&[0x34, 0x3b]).iter().all(|gpu| observed.attached.contains(&gpu.to_string())));
        assert!(world.host.machine().domains[&id].running);
    }
    // One that is meant to be gone is ended, remembered or not.
    world.holmd.slices.insert(id, (Stands::Closing, 9, gpus(&[0x34, 0x3b])));
    world.holmd.generation += 1;
    world.settle();
    assert_eq!(world.stands(A), Stands::Gone);
    assert!(!world.host.machine().domains.contains_key(&id));
}

#[test]
fn a_damaged_record_freezes_one_slice_and_no_other() {
    let mut world = limited(3);
    world.settle();
    let path = world.directory.path().join(format!("record/slices/{}", slice(A)));
    let whole = fs::read(&path).unwrap();
    world.engine = None;
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    world.begin(i64::MAX);
    world.close(A);
    world.close(B);
    world.settle();
    let frozen = seen(&world, A);
    assert!(frozen.phase() == v1::Phase::Destroying && frozen.reason.contains("damaged"), "{frozen:?}");
    assert!(world.host.machine().domains[&slice(A)].running, "destroyed on ignorance");
    assert_eq!(world.stands(B), Stands::Gone);
    // The operator has looked and moved it away.
    fs::remove_file(&path).unwrap();
    world.begin(i64::MAX);
    world.settle();
    assert_eq!((world.stands(A), world.stands(C)), (Stands::Gone, Stands::Ready));
}

#[test]
fn older_and_contradicting_wishes_are_refused() {
    let mut world = limited(3);
    world.settle();
    let run = world.intended();
    let generation = run.slices[0].generation;
    let offer = |world: &World, generation: u64, goal: v1::Goal| {
        let mut message = run.clone();
        message.generation = world.engine().seen() + 1;
        message.slices[0].generation = generation;
        message.slices[0].goal = goal.into();
        world.engine().intend(message).unwrap();
        for _ in 0..3 {
            world.engine().look_at(true, world.now);
            world.advance(slice(A));
        }
    };
    // Destroying under an older generation, and under the one it runs under.
    offer(&world, generation - 1, v1::Goal::Destroyed);
    offer(&world, generation, v1::Goal::Destroyed);
    assert!(world.host.machine().domains[&slice(A)].running);
    // Once it is destroyed nothing brings it back, whatever the generation says.
    offer(&world, generation + 1, v1::Goal::Destroyed);
    assert_eq!(seen(&world, A).phase(), v1::Phase::Absent);
    world.allowed.lock().unwrap().clear();
    offer(&world, generation + 2, v1::Goal::Run);
    assert!(!world.host.machine().domains.contains_key(&slice(A)));
    let after = seen(&world, A);
    assert!(
        after.phase() == v1::Phase::Failed && after.reason.contains("nothing brings it back"),
        "{after:?}"
    );
}

#[test]
fn a_volume_that_was_in_use_and_is_gone_is_not_made_again() {
    let mut world = limited(2);
    fault(&world, "fail:start_domain:1000\n");
    world.settle();
    // Behind the agent's back, and under a new generation.
    world.host.erase_volume(volume(slice(A))).unwrap();
    fault(&world, "");
    let mut message = world.intended();
    message.generation += 1;
    message.slices[0].generation += 1;
    world.engine().intend(message).unwrap();
    world.engine().look_at(true, world.now);
    world.advance(slice(A));
    let failed = seen(&world, A);
    assert!(failed.phase() == v1::Phase::Failed && failed.reason.contains("is not there"), "{failed:?}");
    assert!(!world.host.machine().volumes.contains_key(&volume(slice(A))));
}

#[test]
fn devices_in_a_slices_hands_are_not_cleaned() {
    let mut world = limited(3);
    world.settle();
    let run = RunId::from_untyped_uuid(uuid::Uuid::from_bytes([99; 16]));
    let mut message = world.intended();
    message.generation += 1;
    message.runs = vec![v1::SanitiseRun {
        run_id: run.to_string(),
        devices: ["0000:34:00.0", "0000:57:00.0", "0000:99:00.0"].map(str::to_owned).into(),
    }];
    world.engine().intend(message.clone()).unwrap();
    for _ in 0..10 {
        world.engine().clean(world.now);
        world.now.instant += Duration::from_secs(30);
    }
    let reports = world.engine().reports();
    let evidence = &reports[0].evidence;
    let cleaned: Vec<bool> = evidence.iter().map(|evidence| evidence.cleaned).collect();
    assert_eq!(cleaned, [false, true, false]);
    assert!(evidence[0].detail.contains("has it") && evidence[2].detail.contains("no GPU"), "{evidence:?}");
    assert!(evidence.iter().all(|evidence| evidence.run_id == run.to_string()));
    // Told again, in the same words, by the next agent, until it is no longer asked for.
    world.begin(i64::MAX);
    world.engine().intend(message.clone()).unwrap();
    assert_eq!(world.engine().reports(), reports);
    message.runs.clear();
    message.generation += 1;
    world.engine().intend(message).unwrap();
    assert_eq!(world.engine().reports(), []);
}

#[test]
fn two_slices_never_share_a_processor() {
    let mut world = limited(3);
    world.holmd.cpus = [(slice(A), 5), (slice(B), 5)].into();
    world.settle();
    let (first, second) = match world.stands(A) {
        Stands::Ready => (A, B),
        _ => (B, A),
    };
    assert_eq!(world.stands(first), Stands::Ready);
    assert!(seen(&world, second).reason.starts_with("waits for processor `5`"));
    // It does not wait for ever, and says whom it waited for.
    world.now.instant += Duration::from_secs(600);
    world.settle();
    let refused = seen(&world, second);
    assert_eq!(refused.phase(), v1::Phase::Failed);
    assert!(refused.reason.contains("processor `5`, which another slice has"));
    assert_eq!(world.host.machine().domains.len(), 1);
}

#[test]
fn a_guest_that_was_ready_is_asked_to_stop() {
    for (faults, cut) in [("", false), ("guest:silent\n", true)] {
        let mut world = limited(3);
        world.settle();
        fault(&world, faults);
        world.close(A);
        world.settle();
        assert_eq!(world.stands(A), Stands::Gone);
        assert_eq!(world.host.machine().cut.contains(&slice(A)), cut);
    }
    // One that was never ready has nothing to write down, and is not waited for.
    let mut world = limited(3);
    world.limits.stop = Duration::from_secs(3600);
    world.begin(i64::MAX);
    fault(&world, "guest:silent\n");
    world.settle();
    world.close(A);
    world.settle();
    assert!(world.host.machine().cut.contains(&slice(A)));
}

#[test]
fn the_erasure_of_a_volume_is_told_until_holmd_has_heard_of_it() {
    let mut world = limited(3);
    world.settle();
    world.close(A);
    world.exchange();
    world.advance(slice(A));
    let told = seen(&world, A);
    assert_eq!(told.phase(), v1::Phase::Absent);
    assert!(told.volume.as_ref().is_some_and(|volume| volume.erased && volume.bytes_overwritten > 0));
    assert!(world.host.machine().erased.is_empty(), "the machine need not remember what the record has");
    world.begin(i64::MAX);
    world.engine().intend(world.intended()).unwrap();
    world.engine().look_at(true, world.now);
    world.advance(slice(A));
    assert_eq!(seen(&world, A).volume, told.volume);
}

#[test]
fn slices_come_up_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let host = Arc::new(TestHost {
        inner: Arc::new(World::simulated(&directory)),
        faults: directory.path().join("host/faults"),
        fuse: Fuse::new(i64::MAX),
        mode: Mode::default(),
        calls: Arc::default(),
        allowed: Arc::new(Mutex::new([A, B].map(slice).into())),
        meeting: Some(Default::default()),
    });
    let (record, loaded) = Record::open(&directory.path().join("record")).unwrap();
    let driver = Driver::start(Arc::new(Engine::new(
        host,
        record,
        loaded,
        Limits::new(Duration::from_secs(60), Duration::from_secs(1)),
    )))
    .unwrap();
    let wanted = |number: u8, bus: u8| v1::IntendedSlice {
        slice_id: slice(number).to_string(),
        generation: 1,
        goal: v1::Goal::Run.into(),
        project: "p".to_owned(),
        disk_gib: 10,
        devices: gpus(&[bus]).iter().map(ToString::to_string).collect(),
        partition: 17,
        volume_id: volume(slice(number)).to_string(),
        ..Default::default()
    };
    let run = v1::SanitiseRun {
        run_id: uuid::Uuid::from_bytes([9; 16]).to_string(),
        devices: gpus(&[0x34, 0x36]).iter().map(ToString::to_string).collect(),
    };
    driver
        .intend(v1::Intended { generation: 1, slices: Vec::new(), runs: vec![run], ..Default::default() })
        .unwrap();
    let engine = driver.engine();
    let end = Instant::now() + Duration::from_secs(60);
    while engine.reports().is_empty() {
        assert!(Instant::now() < end, "they are not cleaned");
        engine.wait(engine.version(), Some(Instant::now() + Duration::from_millis(10)));
    }
    let message = v1::Intended {
        generation: 2,
        slices: vec![wanted(A, 0x34), wanted(B, 0x36)],
        runs: Vec::new(),
        ..Default::default()
    };
    driver.intend(message).unwrap();
    loop {
        let version = engine.version();
        for wanted in engine.keys_wanted() {
            engine.take_key(v1::VolumeKey {
                slice_id: wanted.slice.to_string(),
                volume_id: wanted.volume.to_string(),
                generation: 1,
                key: vec![7; 32],
                others: Vec::new(),
                ..Default::default()
            });
        }
        let observed = engine.observed().unwrap_or_default();
        if observed.slices.iter().filter(|slice| slice.phase() == v1::Phase::Ready).count() == 2 {
            break;
        }
        assert!(Instant::now() < end, "{observed:#?}");
        engine.wait(version, Some(end));
    }
    // Nothing of what runs ends with the agent.
    assert!(driver.stop(Duration::from_secs(30)));
}
