//! The built-in packs held against what they must and must never allow.

mod broken;
mod diff;
mod laws;
mod matrix;

use crate::{Action, Decision, Identity, Pack, Principal, Request, Resource};
use holm_proto::ids::Name;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|t| name(t)).collect()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&t| t.to_owned()).collect()
}

fn person(who: &str, roles: &[&str]) -> Principal {
    Principal { identity: Identity::Person { name: name(who), roles: strings(roles) }, known: true }
}

fn host(who: &str) -> Principal {
    Principal { identity: Identity::Host { name: name(who) }, known: true }
}

/// Led by lina, with ravn, opal and mona in it. olga has put it on hold.
fn project(level: &str) -> Resource {
    Resource::Project {
        name: name("heart"),
        level: level.to_owned(),
        lead: name("lina"),
        members: names(&["lina", "ravn", "opal", "mona"]),
        readers: Vec::new(),
        held_by: names(&["olga"]),
        missing: Vec::new(),
        lapsed: Vec::new(),
    }
}

/// Asked for by lina, approved once by olga, and put on hold by her.
fn slice(level: &str) -> Resource {
    Resource::Slice {
        project: name("heart"),
        name: name("train"),
        level: level.to_owned(),
        lead: name("lina"),
        members: names(&["lina", "ravn", "opal", "mona"]),
        readers: Vec::new(),
        requested_by: name("lina"),
        approved_by: names(&["olga"]),
        held_by: names(&["olga"]),
        missing: Vec::new(),
        lapsed: Vec::new(),
        lease_over: false,
    }
}

/// The same, of a project that has yet to file something, or where ravn's agreement has ended.
fn but(mut resource: Resource, without: &[&str], ended: &[&str]) -> Resource {
    if let Resource::Project { missing, lapsed, .. } | Resource::Slice { missing, lapsed, .. } = &mut resource
    {
        (*missing, *lapsed) = (strings(without), names(ended));
    }
    resource
}

fn account(who: &str, roles: &[&str]) -> Resource {
    Resource::Person { name: name(who), roles: strings(roles) }
}

fn pack() -> Pack {
    Pack::builtin("aau-2018").unwrap()
}

fn ask(pack: &Pack, principal: &Principal, action: Action, resource: &Resource) -> Decision {
    pack.decide(&Request { principal: principal.clone(), action, resource: resource.clone() })
}

/// What is remembered of one question is no answer to another that differs anywhere.
#[test]
fn what_was_answered_is_not_taken_for_an_answer_to_something_else() {
    let (pack, ravn) = (pack(), person("ravn", &["researcher"]));
    let may = |who: &Principal, resource: &Resource| ask(&pack, who, Action::SliceStart, resource);
    let without = |gone: &str| match slice("2") {
        Resource::Slice {
            project, name, level, lead, mut members, readers, requested_by, lapsed, ..
        } => {
            members.retain(|member| member.as_str() != gone);
            let (approved_by, held_by, missing) = (Vec::new(), Vec::new(), Vec::new());
            let lease_over = false;
            Resource::Slice {
                project,
                name,
                level,
                lead,
                members,
                readers,
                requested_by,
                approved_by,
                held_by,
                missing,
                lapsed,
                lease_over,
            }
        }
        other => other,
    };
    let reads = |mut resource: Resource| {
        if let Resource::Slice { readers, .. } = &mut resource {
            *readers = names(&["ravn"]);
        }
        resource
    };
    let over = |mut resource: Resource| {
        if let Resource::Slice { lease_over, .. } = &mut resource {
            *lease_over = true;
        }
        resource
    };
    for _ in 0..2 {
        assert!(may(&ravn, &without("nobody")).allow);
        assert!(!may(&ravn, &without("ravn")).allow);
        assert!(!may(&ravn, &over(without("nobody"))).allow);
        assert!(!may(&ravn, &reads(without("nobody"))).allow);
        assert!(!may(&ravn, &but(without("nobody"), &[], &["ravn"])).allow);
        assert!(!may(&person("ravn", &["lead", "officer"]), &without("nobody")).allow);
        assert!(!may(&Principal { known: false, ..ravn.clone() }, &without("nobody")).allow);
        assert!(!ask(&pack, &ravn, Action::SliceApprove, &without("nobody")).allow);
        // Another pack, another answer.
        let other = Pack::builtin("aau-2026").unwrap();
        assert_eq!(ask(&other, &ravn, Action::SliceStart, &without("nobody")).pack, "aau-2026/6");
    }
}

/// More than is remembered, and questions too long to be.
#[test]
fn what_is_forgotten_is_answered_again() {
    let pack = pack();
    let crowd: Vec<Name> = (0..200).map(|n| name(&format!("p{n}"))).collect();
    let of = |number: usize, level: &str, members: &[Name]| Resource::Project {
        name: name(&format!("project-{number}")),
        level: level.to_owned(),
        lead: name("lina"),
        members: members.to_vec(),
        readers: Vec::new(),
        held_by: Vec::new(),
        missing: Vec::new(),
        lapsed: Vec::new(),
    };
    let in_it = person("p199", &["researcher"]);
    // What was asked when it was loaded.
    let before = pack.answered.holds();
    for number in 0..3 {
        assert!(ask(&pack, &in_it, Action::ProjectRead, &of(number, "2", &crowd)).allow);
        assert!(!ask(&pack, &in_it, Action::ProjectRead, &of(number, "2", &crowd[..199])).allow);
    }
    // Whoever asks about what she makes up fills nothing with it.
    ask(&pack, &in_it, Action::ProjectRead, &of(0, &"x".repeat(1 << 20), &[]));
    assert_eq!(pack.answered.holds(), before);
    // Who is not enrolled costs nothing to be answered.
    let nobody = Principal { known: false, ..person("ravn", &[]) };
    let (mut most, mut last) = (0, 0);
    for number in 0..60_000 {
        ask(&pack, &nobody, Action::ProjectRead, &of(number, "2", &crowd[..20]));
        let (held, bytes) = pack.answered.holds();
        assert!(bytes <= crate::answered::MOST);
        (most, last) = (most.max(held), held);
    }
    assert!(last < most && most < 60_000, "{last} of {most}");
}
