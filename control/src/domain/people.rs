//! People and hosts get in by a one-time code that somebody who may has asked for.

use super::lock::Subject as Locked;
use super::records::{Change, Host, Invitation, Person, Record, Subject};
use super::{Refusal, RefusalKind, State};
use holm_proto::ids::Name;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// How long a code can be used.
pub const CODE_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// Accounts in slices are numbered from here.
const FIRST_UID: u32 = 20_001;

/// The roles there are.
pub const ROLES: [&str; 5] = ["lead", "researcher", "officer", "operator", "auditor"];

/// Invite a person. One who is known keeps the roles she has, and gets a new certificate.
pub fn invite_person(
    state: &State,
    name: &Name,
    roles: &[String],
    hash: String,
    by: &str,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    for role in roles {
        if !ROLES.contains(&role.as_str()) {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("`{}` is no role: there are {}", role.escape_debug(), ROLES.join(", ")),
            ));
        }
    }
    let person = match state.people.get(name) {
        Some(known) if roles.is_empty() || known.roles == roles => known.clone(),
        Some(known) => {
            return Err(Refusal::new(
                RefusalKind::Exists,
                format!("`{name}` is known already, as {}", known.roles.join(", ")),
            )
            .hint(format!(
                "holm person invite {name}   (without --role: a new certificate for the same person)"
            )));
        }
        None if roles.is_empty() => {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                format!("`{name}` is not known yet: say what role"),
            )
            .hint(format!("holm person invite {name} --role researcher")));
        }
        None => Person {
            name: name.clone(),
            roles: roles.to_vec(),
            uid: state.people.values().map(|p| p.uid + 1).max().unwrap_or(FIRST_UID),
            created: now,
            enrolled: false,
            certificate: String::new(),
        },
    };
    let mut changes = vec![Change::Put(Record::Person(person))];
    changes.extend(invitation(state, Subject::Person(name.clone()), hash, by, now));
    Ok(changes)
}

/// Invite a host. One that is known gets a new certificate.
pub fn invite_host(state: &State, name: &Name, hash: String, by: &str, now: Timestamp) -> Vec<Change> {
    let host = state.hosts.get(name).cloned().unwrap_or_else(|| Host {
        name: name.clone(),
        created: now,
        simulated: false,
        platform: String::new(),
        agent_version: String::new(),
        cpus: 0,
        numa_nodes: 0,
        memory_mib: 0,
        iommu: false,
        kernel: String::new(),
        watch: String::new(),
        machine: None,
        disagreements: Vec::new(),
        certificate: String::new(),
        present: BTreeSet::new(),
        commissioning: None,
        volumes_gib: 0,
        maintenance: None,
        backups: String::new(),
    });
    let mut changes = vec![Change::Put(Record::Host(host))];
    changes.extend(invitation(state, Subject::Host(name.clone()), hash, by, now));
    changes
}

/// The one invitation of this subject. A code that was given out before it is of no use any more: it may have
/// gone to the wrong person, which is why there is a new one.
fn invitation(state: &State, subject: Subject, hash: String, by: &str, now: Timestamp) -> Vec<Change> {
    let over = state.invitations.values().filter(|i| i.subject == subject || now >= i.expires);
    let mut changes: Vec<Change> =
        over.map(|i| Change::Delete(Record::Invitation(i.clone()).key())).collect();
    let expires = expiry(now);
    changes.push(Change::Put(Record::Invitation(Invitation { hash, subject, by: by.to_owned(), expires })));
    changes
}

/// Whoever used a code has this certificate from now on, and no other.
pub fn certified(state: &State, subject: &Subject, fingerprint: &str) -> Vec<Change> {
    let certificate = fingerprint.to_owned();
    let record = match subject {
        Subject::Person(name) => state
            .people
            .get(name)
            .map(|p| Record::Person(Person { enrolled: true, certificate, ..p.clone() })),
        Subject::Host(name) => state.hosts.get(name).map(|h| Record::Host(Host { certificate, ..h.clone() })),
    };
    record.map(Change::Put).into_iter().collect()
}

/// Use a code. It is gone afterwards, whether or not the certificate reaches whom it is for.
pub fn enrol(state: &State, hash: &str, now: Timestamp) -> Result<(Subject, Vec<Change>), Refusal> {
    let no = || {
        // One text for unknown, used and expired: a guesser learns nothing.
        Refusal::new(RefusalKind::Denied, "this code is not known, was used already, or has expired")
            .hint("ask the person who invited you for a new one")
    };
    let invitation = state.invitations.get(hash).ok_or_else(no)?;
    // What a locked person gave out is good for nothing as long as she is locked.
    let locked = invitation.by.parse().is_ok_and(|by| state.locks.contains_key(&Locked::Person(by)));
    if now >= invitation.expires || locked {
        return Err(no());
    }
    let mut changes = vec![Change::Delete(Record::Invitation(invitation.clone()).key())];
    if let Subject::Person(name) = &invitation.subject {
        let mut person = state.people.get(name).ok_or_else(no)?.clone();
        person.enrolled = true;
        changes.push(Change::Put(Record::Person(person)));
    }
    Ok((invitation.subject.clone(), changes))
}

fn expiry(now: Timestamp) -> Timestamp {
    now.checked_add(CODE_LIFE).unwrap_or(Timestamp::MAX)
}
