//! Members of a project that come and go while its slice runs.

use super::world::{A, Mode, World, slice};
use crate::{edge::GuestEvent, edge::Host as _, guest::digest_of};
use holm_proto::v1::GuestUser;
use std::time::Duration;

fn user(name: &str, uid: u32) -> GuestUser {
    GuestUser { name: name.to_owned(), uid }
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
