//! Disks that fill up: those of slices, as their guests claim, and the host's own.

use super::{
    fault, seen,
    world::{A, B, Mode, Stands, World, slice},
};
use holm_proto::v1;
use std::time::Duration;

fn ready() -> World {
    let mut world = World::new(Mode::default());
    world.settle();
    assert_eq!((world.stands(A), world.stands(B)), (Stands::Ready, Stands::Ready));
    world
}

fn look(world: &World) {
    world.engine().look_at(true, world.now);
}

#[test]
fn a_host_without_room_pauses_machines_and_they_go_on_when_there_is_some() {
    let mut world = ready();
    let left = |world: &World| world.engine().observed().unwrap().volumes.unwrap().free;
    assert!(!seen(&world, A).paused && left(&world) > 0);
    fault(&world, "room:100\n");
    let version = world.engine().version();
    look(&world);
    assert!(world.engine().version() > version, "it is told at once");
    for number in [A, B] {
        let now = seen(&world, number);
        assert!(now.paused && now.phase() == v1::Phase::Ready, "{now:?}");
    }
    assert_eq!(left(&world), 0);
    // As long as there is none nothing is tried.
    for _ in 0..100 {
        world.round();
    }
    assert!(world.host.machine().domains.values().all(|domain| domain.paused));
    assert_eq!((world.stands(A), world.stands(B)), (Stands::Ready, Stands::Ready));
    fault(&world, "fail:resume_domain\nroom:50\n");
    world.round();
    world.round();
    world.round();
    assert!(world.host.machine().domains.values().all(|domain| !domain.paused));
    assert!(!seen(&world, A).paused && !seen(&world, B).paused && left(&world) > 0);
    world.settle();
}

#[test]
fn an_agent_that_comes_later_finds_them_paused_and_has_them_go_on() {
    let mut world = ready();
    fault(&world, "room:100\n");
    look(&world);
    world.begin(i64::MAX);
    world.settle();
    assert!(seen(&world, A).paused);
    fault(&world, "");
    world.settle();
    assert!(!seen(&world, A).paused && !world.host.machine().domains[&slice(A)].paused);
}

#[test]
fn one_that_stands_still_is_closed_without_being_asked_to_stop() {
    let mut world = ready();
    fault(&world, "room:100\n");
    look(&world);
    world.close(A);
    let begun = std::time::Instant::now();
    world.settle();
    assert_eq!(world.stands(A), Stands::Gone);
    assert!(begun.elapsed() < world.limits.stop || world.limits.stop < Duration::from_secs(1));
    assert!(world.host.machine().cut.contains(&slice(A)), "it was cut off");
    assert!(seen(&world, B).paused, "and its neighbour is what it was");
}

#[test]
fn standing_still_is_no_slow_boot() {
    let mut world = World::new(Mode::default());
    fault(&world, "guest:silent\n");
    for _ in 0..10 {
        world.round();
    }
    assert_eq!(world.stands(A), Stands::Booting);
    fault(&world, "room:100\n");
    look(&world);
    assert!(seen(&world, A).paused);
    world.now.instant += world.limits.boot * 3;
    world.round();
    assert_eq!(world.stands(A), Stands::Booting, "{:?}", seen(&world, A));
    fault(&world, "");
    world.settle();
    assert_eq!(world.stands(A), Stands::Ready, "{:?}", seen(&world, A));
}

#[test]
fn what_a_guest_says_of_its_disks_is_handed_on_now_and_then() {
    let mut world = ready();
    let root = |world: &World| {
        let disks = seen(world, A).disks;
        disks.iter().find(|disk| disk.name == "root").map(v1::DiskUse::used_percent)
    };
    assert_eq!(root(&world), Some(5));
    let says = |world: &World, percent: u8| fault(world, &format!("disk:{}:root:{percent}\n", slice(A)));
    says(&world, 85);
    world.advance(slice(A));
    let version = world.engine().version();
    says(&world, 95);
    world.advance(slice(A));
    assert_eq!((root(&world), world.engine().version()), (Some(85), version), "too soon");
    world.round();
    world.round();
    assert_eq!(root(&world), Some(95));
    // The next agent is told again.
    world.begin(i64::MAX);
    world.settle();
    assert_eq!(root(&world), Some(95));
    // Stopped, it says nothing.
    world.keep(A);
    world.settle();
    assert_eq!(root(&world), None);
}
