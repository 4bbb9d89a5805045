//! What guests claim for the log, on its way through the engine.

use super::{
    fault,
    world::{A, B, Mode, World, slice},
};
use crate::edge::Host as _;
use holm_proto::v1::{GuestAck, GuestClaims};

fn said(world: &World, number: u8) -> Option<GuestClaims> {
    let all = world.engine().guest_claims(world.now.instant);
    all.into_iter().find(|claims| claims.slice_id == slice(number).to_string())
}

fn acknowledge(world: &World, said: &GuestClaims) {
    let seq = said.claims.last().map_or(0, |claim| claim.seq);
    let ack = GuestAck { slice_id: said.slice_id.clone(), boot: said.boot.clone(), seq };
    world.engine().take_guest_ack(&ack, world.now.instant);
}

/// Both are ready, and what they claimed so far is in the log.
fn ready() -> World {
    let mut world = World::new(Mode::default());
    world.settle();
    for said in world.engine().guest_claims(world.now.instant) {
        assert!(said.generation > 0 && !said.claims.is_empty() && said.dropped == 0, "{said:?}");
        acknowledge(&world, &said);
    }
    world
}

#[test]
fn a_guest_that_floods_is_dropped_and_counted_and_its_neighbour_is_heard_at_once() {
    let world = ready();
    fault(&world, &format!("flood:{}\n", slice(A)));
    for _ in 0..50 {
        world.advance(slice(A));
    }
    (0..3).for_each(|_| drop(world.host.connect_ssh(slice(B)).unwrap()));
    world.advance(slice(B));
    for _ in 0..50 {
        world.advance(slice(A));
    }
    let all = world.engine().guest_claims(world.now.instant);
    let of = |number| all.iter().find(|claims| claims.slice_id == slice(number).to_string()).unwrap();
    let (flood, other) = (of(A), of(B));
    assert!(flood.dropped > 99_000 && flood.claims.len() <= 64, "{} dropped", flood.dropped);
    assert_eq!((other.dropped, other.claims.len()), (0, 12));
    // Nor does it grow: what was said is all that is kept.
    acknowledge(&world, other);
    assert_eq!(said(&world, B), None);
}

#[test]
fn what_was_not_acknowledged_is_said_again_in_the_next_session_and_by_no_slice_but_its_own() {
    let mut world = ready();
    drop(world.host.connect_ssh(slice(A)).unwrap());
    world.advance(slice(A));
    let first = said(&world, A).unwrap();
    assert_eq!(first.claims.len(), 4);
    assert_eq!(said(&world, A), None, "it is under way");
    // An answer about another slice, and one about another run, are answers to nothing.
    acknowledge(&world, &GuestClaims { slice_id: slice(B).to_string(), ..first.clone() });
    acknowledge(&world, &GuestClaims { slice_id: "../x".to_owned(), ..first.clone() });
    world.disconnect();
    assert_eq!(said(&world, A), Some(first.clone()));
    acknowledge(&world, &first);
    assert_eq!(said(&world, A), None);
    // An agent that comes later hears what its guest was not told is in the log, and the guest counts on.
    world.begin(i64::MAX);
    world.settle();
    assert!(said(&world, A).is_some());
}
