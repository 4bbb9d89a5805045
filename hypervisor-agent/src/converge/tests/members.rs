//! Members of a project that come and go while its slice runs, and what its Slurm is told.

use super::world::{A, Mode, World, slice};
use crate::{edge::GuestEvent, edge::Host as _, guest::digest_of};
use holm_proto::v1::{GuestScheduler, GuestUser, JobClass};
use std::time::Duration;

fn user(name: &str, uid: u32) -> GuestUser {
    GuestUser { name: name.to_owned(), uid, read_only: false }
}

/// Seconds until the guest has said that these are its people.
fn until_said(world: &mut World) -> u64 {
    let wanted = digest_of(&world.users);
    let said = |world: &World| {
        let state = world.engine().lock();
        state.slices.get(&slice(A)).is_some_and(|slice| slice.people.says == Some(wanted.clone()))
    };
    for second in 0..60 {
        if said(world) {
            return second;
        }
        world.advance(slice(A));
        world.now.instant += Duration::from_secs(1);
    }
    panic!("it does not say so");
}

#[test]
fn who_is_no_member_any_more_is_none_in_the_guest_within_seconds_and_may_come_back() {
    let mut world = World::new(Mode::default());
    world.users = vec![user("ida", 10_001), user("frida", 10_002)];
    world.settle();
    assert_eq!(until_said(&mut world), 0, "its seed says so");
    for users in [vec![user("ida", 10_001)], Vec::new(), vec![user("frida", 10_002), user("ida", 10_001)]] {
        world.users = users;
        world.holmd.generation += 1;
        world.exchange();
        let took = until_said(&mut world);
        assert!((1..=5).contains(&took), "{took} s");
    }
    // An agent that begins finds out by itself: what was told before it may have been lost.
    world.begin(i64::MAX);
    world.settle();
    let took = until_said(&mut world);
    assert!(took <= 5, "{took} s");
    let events = world.host.guest_events(slice(A)).unwrap();
    assert!(!events.iter().any(|event| matches!(event, GuestEvent::People(_))), "{events:?}");
}

#[test]
fn a_guest_is_told_its_classes_of_jobs_until_it_has_them_and_what_it_said_of_jobs_before_is_forgotten() {
    let classes = vec![JobClass { name: "normal".to_owned(), priority: 1, gpus: None, wall_minutes: 60 }];
    let told = |of: &str, drain| Some(GuestScheduler { classes: classes.clone(), drain, of: of.to_owned() });
    let mut world = World::new(Mode::default());
    world.scheduler = told("00000000000000aa", false);
    world.settle();
    let says = |world: &World| {
        let state = world.engine().lock();
        let slice = state.slices.get(&slice(A)).unwrap();
        let observed = slice.observed(super::world::slice(A), true, false).unwrap();
        (observed.scheduler, observed.jobs)
    };
    let until = |world: &mut World, of: &str| {
        for second in 0..60 {
            if says(world).0 == of {
                return second;
            }
            world.advance(slice(A));
            world.now.instant += Duration::from_secs(1);
        }
        panic!("it does not say so");
    };
    until(&mut world, "00000000000000aa");
    world.advance(slice(A));
    assert!(says(&world).1.is_some(), "it speaks of its jobs");
    world.scheduler = told("00000000000000bb", true);
    world.holmd.generation += 1;
    world.exchange();
    let took = until(&mut world, "00000000000000bb");
    assert!((1..=5).contains(&took), "{took} s");
    // What no slice can be told is not told.
    for bad in [
        told("BB", true),
        told("", true),
        Some(GuestScheduler { classes: Vec::new(), ..told("00000000000000cc", true).unwrap() }),
    ] {
        world.scheduler = bad;
        world.holmd.generation += 1;
        world.exchange();
        world.advance(slice(A));
        assert_eq!(says(&world).0, "00000000000000bb");
    }
}
