//! People, projects, invitations.

use super::lock::{lock_json, locked};
use super::{time_json, when, when_full, yes_no};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::{Clock, instant};
use holm_proto::v1::{Invitation, Login, Person, Project, Waiting};
use serde_json::{Value, json};

/// A list of people.
pub fn people(all: &[Person], clock: &Clock) -> Table {
    let row = |p: &Person| {
        vec![
            p.name.as_str().into(),
            p.roles.join(", ").into(),
            match (p.lock.as_ref(), p.revoked, p.waits.as_ref()) {
                (Some(lock), ..) => bad(format!("locked by {}", lock.by)),
                (None, true, _) => bad("certificate revoked".to_owned()),
                (None, false, Some(code)) => waiting(code),
                (None, false, None) => yes_no(p.enrolled),
            },
            when(p.created.as_ref(), clock),
        ]
    };
    Table {
        columns: vec!["person", "roles", "enrolled", "invited"],
        rows: all.iter().map(row).collect(),
        empty: "nobody you may see",
    }
}

/// One person.
pub fn person(p: &Person, clock: &Clock) -> Sheet {
    let enrolled = match (p.revoked, p.enrolled) {
        (true, _) => Cell::new("certificate revoked").tone(Tone::Bad),
        (false, true) => Cell::new("enrolled").tone(Tone::Good),
        (false, false) => Cell::new("invited").tone(Tone::Busy),
    };
    let mut sheet = Sheet::new(&p.name).state(enrolled);
    sheet
        .line("roles", p.roles.join(", "))
        .line("invited", when_full(p.created.as_ref(), clock))
        .line("code", p.waits.as_ref().map(waiting).unwrap_or_default())
        .line("login", p.login.as_ref().map(|login| logged_in(login, clock)).unwrap_or_default())
        .line("locked", bad(locked(p.lock.as_ref(), clock)));
    sheet
}

fn logged_in(login: &Login, clock: &Clock) -> Cell {
    let at = instant(login.at.as_ref()).map(|at| clock.full(at)).unwrap_or_default();
    match login.second_factor {
        true => Cell::new(format!("{at}, with a second factor ({})", login.how)),
        false => Cell::new(format!("{at}, without a second factor ({})", login.how)).tone(Tone::Busy),
    }
}

/// As `holm.v1.Person` has it.
pub fn person_json(p: &Person) -> Value {
    json!({
        "name": p.name,
        "roles": p.roles,
        "created": time_json(p.created.as_ref()),
        "enrolled": p.enrolled,
        "revoked": p.revoked,
        "waits": p.waits.as_ref().map(|code| json!({ "id": code.id, "by": code.by })),
        "lock": p.lock.as_ref().map(lock_json),
        "login": p.login.as_ref().map(|login| json!({
            "at": time_json(login.at.as_ref()),
            "second_factor": login.second_factor,
            "how": login.how,
        })),
    })
}

/// A list of projects; a star stands at the current one.
pub fn projects(all: &[Project], current: Option<&str>, clock: &Clock) -> Table {
    let row = |p: &Project| {
        let star = if current == Some(p.name.as_str()) { " *" } else { "" };
        vec![
            Cell::both(format!("{}{star}", p.name), &p.name),
            Cell::both(level(p), &p.level),
            p.lead.as_str().into(),
            p.members.len().to_string().into(),
            when(p.created.as_ref(), clock),
            filed(p),
            p.purpose.as_str().into(),
        ]
    };
    Table {
        columns: vec!["project", "level", "lead", "members", "registered", "filed", "purpose"],
        rows: all.iter().map(row).collect(),
        empty: "no projects that you may see: a lead registers one, and adds its members",
    }
}

/// Whether all is filed that the level demands, and what is about to run out.
fn filed(p: &Project) -> Cell {
    match (p.missing.len(), p.warnings.first()) {
        (0, None) => Cell::new("all").tone(Tone::Good),
        (0, Some(warning)) => Cell::new(warning).tone(Tone::Busy),
        (n, _) => Cell::both(format!("{n} missing"), format!("missing {n}")).tone(Tone::Bad),
    }
}

/// Its members, and which of them only read.
pub fn members(p: &Project) -> String {
    let reads = |name: &String| if p.readers.contains(name) { " (reads only)" } else { "" };
    let all: Vec<String> = p.members.iter().map(|name| format!("{name}{}", reads(name))).collect();
    all.join(", ")
}

/// One project.
pub fn project(p: &Project, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(&p.name);
    sheet
        .line("level", Cell::both(level(p), &p.level))
        .line("purpose", p.purpose.as_str())
        .line("lead", p.lead.as_str())
        .line("department", p.department.as_str())
        .line("members", members(p))
        .line("disks", p.quota.as_ref().map(super::quota).unwrap_or_default())
        .line("on hold", p.hold.as_ref().map(|h| super::slice::hold(h, clock)).unwrap_or_default())
        .line("locked", bad(locked(p.lock.as_ref(), clock)))
        .line("keys locked", bad(locked(p.keys_lock.as_ref(), clock)))
        .line("registered", when_full(p.created.as_ref(), clock));
    super::registration::lines(&mut sheet, p, clock);
    sheet.line("rules", p.pack.as_str()).line("id", p.id.as_str());
    sheet
}

/// As `holm.v1.Project` has it.
pub fn project_json(p: &Project) -> Value {
    json!({
        "id": p.id,
        "name": p.name,
        "level": p.level,
        "level_name": p.level_name,
        "purpose": p.purpose,
        "lead": p.lead,
        "members": p.members,
        "readers": p.readers,
        "etag": p.etag,
        "created": time_json(p.created.as_ref()),
        "pack": p.pack,
        "department": p.department,
        "hold": p.hold.as_ref().map(super::slice::hold_json),
        "quota": p.quota.as_ref().map(super::quota_json),
        "registration": p.registration.as_ref().map(super::registration::json),
        "missing": p.missing,
        "warnings": p.warnings,
        "data_sets": p.data_sets.iter().map(super::registration::data_set_json).collect::<Vec<_>>(),
        "declassification": p.declassification.as_ref().map(super::registration::lowering_json),
        "agreements": p.agreements.iter().map(super::registration::agreement_json).collect::<Vec<_>>(),
        "lock": p.lock.as_ref().map(lock_json),
        "keys_lock": p.keys_lock.as_ref().map(lock_json),
    })
}

/// As `holm.v1.Invitation` has it.
pub fn invitation_json(i: &Invitation) -> Value {
    json!({ "code": i.code, "expires": time_json(i.expires.as_ref()), "identity": i.identity, "waits": i.waits })
}

/// `person/ada`, of the URI in a certificate.
pub fn short_identity(uri: &str) -> &str {
    uri.strip_prefix("spiffe://holm/").unwrap_or(uri)
}

/// `code 1f0c2d3e of frida waits to be confirmed`.
fn waiting(code: &Waiting) -> Cell {
    Cell::new(format!("code {} of {} waits to be confirmed", code.id, code.by)).tone(Tone::Busy)
}

fn bad(text: String) -> Cell {
    Cell::new(text).tone(Tone::Bad)
}

fn level(p: &Project) -> String {
    if p.level_name.is_empty() { p.level.clone() } else { format!("{} ({})", p.level, p.level_name) }
}
