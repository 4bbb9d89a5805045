//! Whatever the clock, the officers and the lead do in whatever order: nobody gets in after the time is over.

use super::*;
use crate::domain::records::{Change, Hold, Lock, Placement};
use crate::domain::register::{self, Registration};
use crate::domain::tests::{heart, requested};
use holm_policies::{Action, Identity, Pack, Principal, Request, Resource};
use proptest::prelude::*;

const DAY: i64 = 86_400;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// So many days after the start.
fn day(days: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + days * DAY).unwrap()
}

fn pack() -> Pack {
    Pack::builtin("aau-2018").unwrap()
}

fn demands(pack: &Pack) -> Demands<'static> {
    let level = pack.level("2").unwrap();
    Demands { approvals: level.approvals, outside: None, lease_days: level.lease_days }
}

/// A project that ends after so many days, all filed, and one slice asked for on day 0.
fn world(ends: i64) -> State {
    let new = Registration {
        legal_basis: Some("e".to_owned()),
        special_categories: Some(false),
        research: Some(true),
        data_management_plan: Some(register::Filed { reference: "DMP 1".to_owned(), expires: None }),
        ends: Some(day(ends)),
        ..Default::default()
    };
    let p = register::file(&heart("2"), new, day(0)).unwrap();
    let mut s = requested(1, 1, 1, 0);
    (s.project, s.requested) = (p.id, day(0));
    let mut state = State::default();
    state.apply(&[Change::Put(Record::Project(p))]);
    state.apply(&put(s));
    state
}

fn slice_of(state: &State) -> Slice {
    state.slices.values().next().unwrap().clone()
}

fn project_of(state: &State) -> Project {
    state.projects.values().next().unwrap().clone()
}

/// As a round does it, until there is nothing to do.
fn round(state: &mut State, pack: &Pack, now: Timestamp) -> Vec<&'static str> {
    let mut done = Vec::new();
    if let Some(changes) = project_ended(&project_of(state), now) {
        state.apply(&changes);
        done.push("project.end");
    }
    while let Some((action, changes)) = due(state, &slice_of(state), pack.level("2"), now) {
        assert!(done.len() < 8, "it never rests: {done:?}");
        state.apply(&changes);
        done.push(action);
    }
    done
}

/// Approved, on a host and ready.
fn run(state: &mut State, pack: &Pack, by: &str, at: Timestamp) {
    let s = slice_of(state);
    if let Ok(changes) = slice::approve(&s, demands(pack), &name(by), "", at) {
        state.apply(&changes);
    }
    work(state);
}

/// What is approved is placed and gets ready.
fn work(state: &mut State) {
    let mut s = slice_of(state);
    if s.state == SliceState::Approved {
        s.placement =
            Some(Placement { host: name("dgx"), partition: 1, devices: Vec::new(), nodes: Vec::new() });
        s.state = SliceState::Ready;
        state.apply(&put(s));
    }
}

/// What the host has stopped is stopped.
fn rest(state: &mut State) {
    let mut s = slice_of(state);
    if s.state == SliceState::Stopping {
        s.state = SliceState::Stopped;
        state.apply(&put(s));
    }
}

/// A member asks, and the pack answers.
fn may(state: &State, pack: &Pack, action: Action, now: Timestamp) -> bool {
    let (p, s) = (project_of(state), slice_of(state));
    let resource = Resource::Slice {
        project: p.name.clone(),
        name: s.name.clone(),
        level: s.level.clone(),
        lead: p.lead.clone(),
        members: p.members.clone(),
        readers: p.readers.iter().cloned().collect(),
        requested_by: s.requested_by.clone(),
        approved_by: Vec::new(),
        held_by: Vec::new(),
        missing: register::missing(&p, &register::demanded(pack, &s.level), now),
        lapsed: register::lapsed(&p, now),
        lease_over: s.lease_over(now),
    };
    let identity = Identity::Person { name: p.lead, roles: vec!["lead".to_owned()] };
    let principal = Principal { identity, known: true };
    pack.decide(&Request { principal, action, resource }).allow
}

#[test]
fn a_request_that_nobody_approves_is_withdrawn_by_itself() {
    let (pack, mut state) = (pack(), world(400));
    assert_eq!(round(&mut state, &pack, day(29)), [""; 0]);
    assert_eq!(round(&mut state, &pack, day(30)), ["slice.expire"]);
    let s = slice_of(&state);
    assert_eq!((s.state, s.reason.as_str()), (SliceState::Withdrawn, "it was not approved within 30 days"));
}

#[test]
fn a_lease_ends_and_is_approved_anew() {
    let (pack, mut state) = (pack(), world(2000));
    run(&mut state, &pack, "olga", day(1));
    assert_eq!(slice_of(&state).lease, Some(day(366)));
    assert!(may(&state, &pack, Action::SliceConnect, day(365)));
    assert_eq!(round(&mut state, &pack, day(365)), [""; 0]);

    // Nobody gets in from that moment, whether or not somebody has looked.
    assert!(!may(&state, &pack, Action::SliceConnect, day(366)));
    assert_eq!(round(&mut state, &pack, day(366)), ["slice.end"]);
    rest(&mut state);
    let s = slice_of(&state);
    assert_eq!(s.state, SliceState::Stopped);
    assert_eq!(s.reason, "the time for which it was approved ended on 2027-09-22");
    // Nor by a clock that goes back, nor is it destroyed however long it lies.
    assert!(!may(&state, &pack, Action::SliceConnect, day(2)));
    assert!(!may(&state, &pack, Action::SliceStart, day(2)));
    assert_eq!(round(&mut state, &pack, day(1900)), [""; 0]);

    state.apply(&extend(&slice_of(&state), &name("ada"), "another year", day(370)).unwrap());
    let twice = extend(&slice_of(&state), &name("ada"), "", day(370)).unwrap_err();
    assert_eq!(twice.to_string(), "ada asked for more time already, and it waits for approval");
    let own = approve(&slice_of(&state), demands(&pack), &name("ada"), "", day(371)).unwrap_err();
    assert_eq!(own.to_string(), "nobody approves what they asked for themselves");
    assert!(!may(&state, &pack, Action::SliceStart, day(371)), "asking for it is not having it");
    state.apply(&approve(&slice_of(&state), demands(&pack), &name("olga"), "", day(371)).unwrap());
    let s = slice_of(&state);
    assert_eq!((s.lease, s.extension), (Some(day(736)), None));
    assert_eq!((s.approvals.len(), s.renewed.len(), s.reason.as_str()), (1, 1, ""));
    assert!(may(&state, &pack, Action::SliceStart, day(372)));
}

#[test]
fn more_time_is_never_less() {
    let (pack, mut state) = (pack(), world(2000));
    run(&mut state, &pack, "olga", day(0));
    state.apply(&extend(&slice_of(&state), &name("ada"), "", day(10)).unwrap());
    let shorter = Demands { lease_days: 30, ..demands(&pack) };
    state.apply(&approve(&slice_of(&state), shorter, &name("olga"), "", day(11)).unwrap());
    assert_eq!(slice_of(&state).lease, Some(day(365)), "a pack that gives less takes nothing away");
    // What was answered before is not said of what is asked now.
    state.apply(&extend(&slice_of(&state), &name("ada"), "", day(20)).unwrap());
    state.apply(&drop_extension(&slice_of(&state), "rejected by olga: no").unwrap());
    assert_eq!(slice_of(&state).reason, "more time was rejected by olga: no");
    state.apply(&extend(&slice_of(&state), &name("ada"), "", day(21)).unwrap());
    assert_eq!(slice_of(&state).reason, "");
    let unbounded = Slice { lease: None, extension: None, ..slice_of(&state) };
    assert!(extend(&unbounded, &name("ada"), "", day(22)).is_err());
}

#[test]
fn more_time_that_nobody_approves_is_forgotten_and_said_so() {
    let (pack, mut state) = (pack(), world(2000));
    run(&mut state, &pack, "olga", day(0));
    state.apply(&extend(&slice_of(&state), &name("ada"), "", day(10)).unwrap());
    assert_eq!(round(&mut state, &pack, day(40)), ["slice.expire"]);
    let s = slice_of(&state);
    assert_eq!((s.state, s.extension), (SliceState::Ready, None));
    assert_eq!(s.reason, "more time was not approved within 30 days");
    assert!(approve(&slice_of(&state), demands(&pack), &name("olga"), "", day(41)).is_err());
}

#[test]
fn more_time_takes_as_many_as_the_request_did() {
    let mut s = slice_of(&world(2000));
    (s.state, s.lease) = (SliceState::Ready, Some(day(100)));
    s.extension = Some(Extension {
        by: name("ada"),
        at: day(1),
        comment: String::new(),
        approvals: Vec::new(),
        size: None,
    });
    let p = heart("3");
    let two = Demands { approvals: 2, outside: Some(&p), lease_days: 180 };
    let Change::Put(Record::Slice(once)) = approve(&s, two, &name("olga"), "", day(2)).unwrap().remove(0)
    else {
        panic!("no slice")
    };
    assert_eq!(once.lease, Some(day(100)));
    assert!(approve(&once, two, &name("olga"), "", day(2)).is_err(), "she has approved it already");
    let Change::Put(Record::Slice(twice)) = approve(&once, two, &name("otto"), "", day(3)).unwrap().remove(0)
    else {
        panic!("no slice")
    };
    assert_eq!((twice.lease, twice.extension), (Some(day(183)), None));
}

#[test]
fn a_project_ends_and_its_slices_are_destroyed_after_the_days_of_grace() {
    let (pack, mut state) = (pack(), world(100));
    run(&mut state, &pack, "olga", day(0));
    assert!(may(&state, &pack, Action::SliceConnect, day(99)));
    assert!(!may(&state, &pack, Action::SliceConnect, day(100)));
    // holmd was away for a week: the days count from when that was seen.
    assert_eq!(round(&mut state, &pack, day(107)), ["project.end", "slice.end"]);
    rest(&mut state);
    assert_eq!(slice_of(&state).reason, "its project ended on 2026-12-30");
    assert!(!may(&state, &pack, Action::SliceConnect, day(50)), "a clock that goes back opens nothing");
    assert_eq!(round(&mut state, &pack, day(136)), [""; 0]);
    let terms = terms(state.slices.values(), &project_of(&state), pack.level("2"), day(120));
    assert_eq!(terms.last().unwrap(), &("the time until its slices are destroyed".to_owned(), day(137)));
    assert_eq!(round(&mut state, &pack, day(137)), ["slice.close"]);
    let s = slice_of(&state);
    assert_eq!((s.state, s.closed_by, s.closed_at), (SliceState::Closing, None, Some(day(137))));
}

#[test]
fn what_is_on_hold_or_whose_project_goes_on_is_not_destroyed() {
    let (pack, mut state) = (pack(), world(100));
    run(&mut state, &pack, "olga", day(0));
    round(&mut state, &pack, day(100));
    rest(&mut state);
    let hold = Hold { by: name("olga"), at: day(101), reason: "a complaint".to_owned() };
    let mut held = state.clone();
    held.apply(&slice::hold(&slice_of(&state), hold, false).unwrap());
    assert_eq!(round(&mut held, &pack, day(300)), [""; 0]);
    held.apply(&slice::lift(&slice_of(&held)).unwrap());
    assert_eq!(round(&mut held, &pack, day(300)), ["slice.close"]);

    // A later date is filed within the days of grace: all is as it was, and the next end has its own.
    let new = Registration { ends: Some(day(300)), ..Default::default() };
    let p = register::file(&project_of(&state), new, day(120)).unwrap();
    state.apply(&[Change::Put(Record::Project(p))]);
    assert!(may(&state, &pack, Action::SliceStart, day(121)));
    assert_eq!(round(&mut state, &pack, day(299)), [""; 0]);
    assert_eq!(round(&mut state, &pack, day(300)), ["project.end"]);
    assert_eq!(round(&mut state, &pack, day(329)), [""; 0]);
    assert_eq!(round(&mut state, &pack, day(330)), ["slice.close"]);
}

#[test]
fn who_is_locked_out_while_her_project_ends_has_all_the_days_of_grace() {
    for subject in ["project/heart", "keys/heart", "person/ada"] {
        let (pack, mut state) = (pack(), world(100));
        state.apply(&[Change::Put(Record::Person(crate::domain::tests::person("ada", &["lead"])))]);
        run(&mut state, &pack, "olga", day(0));
        let subject: Subject = subject.parse().unwrap();
        let lock =
            Lock { subject: subject.clone(), by: name("olga"), at: day(99), reason: "a case".to_owned() };
        state.apply(&lock::set(&state, lock).unwrap());
        round(&mut state, &pack, day(101));
        if subject != Subject::Person(name("ada")) {
            assert_eq!(slice_of(&state).state, SliceState::Ready, "what is locked stays as it is");
        }
        assert!(!may(&state, &pack, Action::SliceConnect, day(101)), "and nobody gets in");
        round(&mut state, &pack, day(199));
        assert_eq!(slice_of(&state).closed_at, None, "{subject}");
        state.apply(&lock::lift(&state, &subject, &name("olga"), 1, day(200)).unwrap());
        round(&mut state, &pack, day(200));
        rest(&mut state);
        assert_eq!(round(&mut state, &pack, day(229)), [""; 0]);
        assert_eq!(round(&mut state, &pack, day(230)), ["slice.close"]);
    }
}

#[test]
fn what_a_clock_ahead_of_its_time_saw_is_seen_again() {
    let (pack, mut state) = (pack(), world(100));
    run(&mut state, &pack, "olga", day(0));
    assert_eq!(round(&mut state, &pack, day(4000)), ["project.end", "slice.end"]);
    rest(&mut state);
    assert_eq!(round(&mut state, &pack, day(100))[0], "project.end");
    assert_eq!(round(&mut state, &pack, day(129)), [""; 0]);
    assert_eq!(round(&mut state, &pack, day(130)), ["slice.close"]);
}

#[test]
fn what_was_frozen_and_is_free_again_goes_with_its_project() {
    let (pack, mut state) = (pack(), world(100));
    run(&mut state, &pack, "olga", day(0));
    let hold = Hold { by: name("olga"), at: day(50), reason: "a complaint".to_owned() };
    state.apply(&slice::hold(&slice_of(&state), hold, true).unwrap());
    let mut s = slice_of(&state);
    s.state = SliceState::Kept;
    state.apply(&put(s));
    round(&mut state, &pack, day(100));
    assert_eq!(round(&mut state, &pack, day(200)), [""; 0]);
    state.apply(&slice::lift(&slice_of(&state)).unwrap());
    assert_eq!(round(&mut state, &pack, day(200)), ["slice.close"]);
}

#[derive(Debug, Clone)]
enum Act {
    /// The clock goes on by so many days, or back.
    Days(i64),
    Round,
    Approve,
    Extend,
    Reject,
    Start,
    Rest,
    /// So many days from now.
    File(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (-200..250_i64).prop_map(Act::Days),
        4 => Just(Act::Round),
        3 => Just(Act::Approve),
        3 => Just(Act::Extend),
        1 => Just(Act::Reject),
        3 => Just(Act::Start),
        3 => Just(Act::Rest),
        1 => (1..900_i64).prop_map(Act::File),
    ]
}

proptest! {
    /// The time of each approval and each date filed is kept beside, by a model that knows none of the above.
    #[test]
    fn no_order_of_clock_expiry_and_approvals_leaves_access_open(acts in prop::collection::vec(act(), 1..60)) {
        let (pack, mut state) = (pack(), world(500));
        let (mut today, mut project_end, mut lease_end) = (0, 500, None);
        // Ends that a round has seen: they stay, whatever the clock says.
        let (mut seen_project, mut seen_lease) = (i64::MIN, i64::MIN);
        for act in acts {
            let now = day(today);
            let before = slice_of(&state);
            match act {
                Act::Days(days) => today += days,
                Act::Round => {
                    round(&mut state, &pack, now);
                    if today >= project_end {
                        seen_project = seen_project.max(project_end);
                    }
                    if let Some(end) = lease_end.filter(|end| today >= *end && !before.state.is_final()) {
                        seen_lease = seen_lease.max(end);
                    }
                    let s = slice_of(&state);
                    let over = today >= project_end || lease_end.is_some_and(|end| today >= end);
                    prop_assert!(!(over && SliceState::WANTED.contains(&s.state)), "it runs on: {:?}", s.state);
                }
                Act::Approve if before.extension.is_some() => {
                    if let Ok(changes) = approve(&before, demands(&pack), &name("olga"), "", now) {
                        state.apply(&changes);
                        lease_end = lease_end.map(|end: i64| end.max(today + 365));
                    }
                }
                Act::Approve if before.state == SliceState::Requested => {
                    if may(&state, &pack, Action::SliceConnect, now) {
                        run(&mut state, &pack, "olga", now);
                        lease_end = Some(today + 365);
                    }
                }
                Act::Approve => {}
                Act::Extend => {
                    let asked = extend(&before, &name("ada"), "", now).unwrap_or_default();
                    state.apply(&asked);
                }
                Act::Reject => {
                    let dropped = drop_extension(&before, "rejected").unwrap_or_default();
                    state.apply(&dropped);
                }
                Act::Start => {
                    if may(&state, &pack, Action::SliceStart, now) {
                        let started = slice::start(&state, &before, None, now).unwrap_or_default();
                        state.apply(&started);
                        work(&mut state);
                    }
                }
                Act::Rest => rest(&mut state),
                Act::File(days) => {
                    let new = Registration { ends: Some(day(today + days)), ..Default::default() };
                    let p = register::file(&project_of(&state), new, now).unwrap();
                    state.apply(&[Change::Put(Record::Project(p))]);
                    project_end = today + days;
                }
            }
            let now = day(today);
            let over = today >= project_end
                || project_end <= seen_project
                || lease_end.is_some_and(|end| today >= end || end <= seen_lease);
            if over {
                for action in [Action::SliceConnect, Action::SliceStart, Action::SliceRestore] {
                    prop_assert!(!may(&state, &pack, action, now), "{action} on day {today}");
                }
            }
            // And nothing is destroyed that was not over for all the days of grace, by the clock that saw it end.
            let s = slice_of(&state);
            if s.closed_at.is_some() && before.closed_at.is_none() {
                let seen = project_of(&state).ended.unwrap();
                prop_assert!(s.closed_at.unwrap() >= after(seen.at, 30));
                prop_assert!(seen.end >= day(project_end));
            }
        }
    }
}
