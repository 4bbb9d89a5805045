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
