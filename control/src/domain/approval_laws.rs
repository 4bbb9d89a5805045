//! Whoever does whatever in whatever order: what it takes until a slice is approved.
//!
//! The pack is asked first and the domain then, as the service does it; who calls may have any roles.

use super::project::Membership;
use super::records::{Approval, Change, Project, Record, Slice, SliceState};
use super::slice::{self, Demands};
use super::tests::{heart, person, requested};
use super::{State, project};
use holm_policies::{Action, Identity, Obligation, Pack, Principal, Request, Resource};
use holm_proto::ids::Name;
use jiff::Timestamp;
use proptest::prelude::*;
use std::collections::BTreeSet;

const PEOPLE: [&str; 5] = ["ada", "bo", "cy", "dee", "eve"];
const ROLES: [&str; 5] = ["lead", "researcher", "officer", "operator", "auditor"];

#[derive(Debug, Clone)]
enum Act {
    Request,
    Approve(&'static str),
    Reject,
    Withdraw,
    AddMember(usize),
    RemoveMember(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Request),
        6 => prop::sample::select(vec!["", "fine", "DPIA 2026-17"]).prop_map(Act::Approve),
        1 => Just(Act::Reject),
        1 => Just(Act::Withdraw),
        2 => (0..PEOPLE.len()).prop_map(Act::AddMember),
        1 => (0..PEOPLE.len()).prop_map(Act::RemoveMember),
    ]
}

fn roles() -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(ROLES.to_vec(), 0..=3)
        .prop_map(|roles| roles.into_iter().map(str::to_owned).collect())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn now(second: usize) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn may(pack: &Pack, who: (&str, &[String]), action: Action, resource: Resource) -> bool {
    let identity = Identity::Person { name: name(who.0), roles: who.1.to_vec() };
    pack.decide(&Request { principal: Principal { identity, known: true }, action, resource }).allow
}

fn of_project(p: &Project) -> Resource {
    Resource::Project {
        name: p.name.clone(),
        level: p.level.clone(),
        lead: p.lead.clone(),
        members: p.members.clone(),
        readers: p.readers.iter().cloned().collect(),
        held_by: Vec::new(),
        missing: Vec::new(),
        lapsed: Vec::new(),
    }
}

fn of_slice(p: &Project, s: &Slice) -> Resource {
    Resource::Slice {
        project: p.name.clone(),
        name: s.name.clone(),
        level: s.level.clone(),
        lead: p.lead.clone(),
        members: p.members.clone(),
        readers: p.readers.iter().cloned().collect(),
        requested_by: s.requested_by.clone(),
        approved_by: s.approvals.iter().map(|a| a.by.clone()).collect(),
        held_by: Vec::new(),
        missing: Vec::new(),
        lapsed: Vec::new(),
        lease_over: false,
    }
}

/// What this call changes, by pack and domain.
fn called(
    pack: &Pack,
    state: &State,
    people: &[Vec<String>],
    (at, act): &(usize, Act),
    second: usize,
) -> Vec<Change> {
    let of = |at: usize| (PEOPLE[at], people[at].as_slice());
    let who = of(*at);
    let Some(p) = state.projects.values().next() else { return Vec::new() };
    let living = state.slices.values().find(|s| !s.state.is_final());
    let now = now(second);
    let done = match (act, living) {
        (Act::Request, None) if may(pack, who, Action::SliceRequest, of_project(p)) => {
            let number = u8::try_from(state.slices.len()).unwrap();
            let mut slice = requested(number, 1, 1, second);
            slice.project = p.id;
            slice.level.clone_from(&p.level);
            slice.requested_by = name(who.0);
            slice.approvals_needed = pack.level(&p.level).map_or(u32::MAX, |level| level.approvals);
            slice::request(state, slice)
        }
        (Act::Approve(comment), Some(s)) if may(pack, who, Action::SliceApprove, of_slice(p, s)) => {
            let level = pack.level(&s.level).unwrap();
            let outside = level.obligations.contains(&Obligation::OutsideApprover).then_some(p);
            let demands = Demands { approvals: level.approvals, outside, lease_days: level.lease_days };
            slice::approve(s, demands, &name(who.0), comment, now)
        }
        (Act::Reject, Some(s)) if may(pack, who, Action::SliceReject, of_slice(p, s)) => {
            slice::reject(s, &name(who.0), "no", now)
        }
        (Act::Withdraw, Some(s)) if may(pack, who, Action::SliceWithdraw, of_slice(p, s)) => {
            slice::withdraw(s, now)
        }
        (Act::AddMember(at), _) if may(pack, who, Action::ProjectAddMember, of_project(p)) => {
            let (mut known, member) = (state.clone(), of(*at));
            let roles: Vec<&str> = member.1.iter().map(String::as_str).collect();
            known.apply(&[Change::Put(Record::Person(person(member.0, &roles)))]);
            project::add_member(&known, p, &name(member.0), Membership::default(), now)
        }
        (Act::RemoveMember(at), _) if may(pack, who, Action::ProjectRemoveMember, of_project(p)) => {
            project::remove_member(state, p, &name(of(*at).0))
        }
        _ => Ok(Vec::new()),
    };
    done.unwrap_or_default()
}

/// What the properties below forbid otherwise: two officers, neither of the project.
#[test]
fn the_plain_way_leads_there() {
    let pack = Pack::builtin("aau-2018").unwrap();
    let people: Vec<Vec<String>> =
        ["lead", "officer", "officer", "operator", "auditor"].map(|role| vec![role.to_owned()]).into();
    let mut state = State::default();
    state.apply(&[Change::Put(Record::Project(heart("3")))]);
    let states: Vec<SliceState> =
        [(0, Act::Request), (1, Act::Approve("")), (1, Act::Approve("")), (2, Act::Approve(""))]
            .iter()
            .enumerate()
            .map(|(second, act)| {
                state.apply(&called(&pack, &state.clone(), &people, act, second));
                state.slices.values().next().unwrap().state
            })
            .collect();
    let waits = SliceState::Requested;
    assert_eq!(states, [waits, waits, waits, SliceState::Approved]);
}

proptest! {
    #[test]
    fn nothing_is_approved_but_by_enough_distinct_officers_who_did_not_ask(
        level in prop::sample::select(vec!["2", "3"]),
        mut people in prop::collection::vec(roles(), PEOPLE.len()),
        acts in prop::collection::vec((0..PEOPLE.len(), act()), 1..40),
    ) {
        let pack = Pack::builtin("aau-2018").unwrap();
        // Otherwise nothing is ever asked for.
        people[0].push("lead".to_owned());
        let mut state = State::default();
        state.apply(&[Change::Put(Record::Project(heart(level)))]);
        for (second, act) in acts.iter().enumerate() {
            state.apply(&called(&pack, &state.clone(), &people, act, second));
            for s in state.slices.values().filter(|s| s.state == SliceState::Approved) {
                let by: BTreeSet<&Name> = s.approvals.iter().map(|a: &Approval| &a.by).collect();
                let needed = usize::try_from(pack.level(level).unwrap().approvals).unwrap();
                prop_assert!(by.len() >= needed, "{by:?}");
                for who in by {
                    let at = PEOPLE.iter().position(|p| *p == who.as_str()).unwrap();
                    prop_assert!(people[at].iter().any(|role| role == "officer"));
                    prop_assert!(who != &s.requested_by);
                    prop_assert!(who != &state.projects[&s.project].lead);
                }
            }
        }
    }

    /// The pack forbids that an officer of the project approves. Where a site's pack does not, the obligation still
    /// wants one from outside.
    #[test]
    fn where_one_from_outside_is_demanded_insiders_are_not_enough(
        members in prop::sample::subsequence(PEOPLE.to_vec(), 0..=5),
        approvers in prop::collection::vec(prop::sample::select(PEOPLE.to_vec()), 1..6),
        needed in 1_u32..4,
    ) {
        let mut p = heart("3");
        p.members = members.iter().map(|member| name(member)).collect();
        let mut slice = requested(1, 1, needed, 0);
        slice.requested_by = name("zoe");
        for (second, by) in approvers.iter().enumerate() {
            let demands = Demands { approvals: needed, outside: Some(&p), lease_days: 0 };
            let changes = slice::approve(&slice, demands, &name(by), "", now(second)).unwrap_or_default();
            if let Some(Change::Put(Record::Slice(next))) = changes.into_iter().next() {
                slice = *next;
            }
        }
        let outside = slice.approvals.iter().any(|a| a.by != p.lead && !p.members.contains(&a.by));
        let distinct: BTreeSet<&str> = approvers.iter().copied().collect();
        let enough = distinct.len() >= usize::try_from(needed).unwrap();
        if slice.state == SliceState::Approved {
            prop_assert!(outside && slice.approvals.len() >= usize::try_from(needed).unwrap());
        } else {
            prop_assert!(!enough || !outside, "{:?}", slice.reason);
        }
    }
}
