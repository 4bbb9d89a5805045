//! People and hosts get in by a one-time code that somebody who may has asked for.

use super::lock::Subject as Locked;
use super::records::{Change, Confirmed, Host, Invitation, Person, Record, Revoked, Subject};
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
            renewed: String::new(),
            revoked: None,
            void: None,
            account: None,
            login: None,
        },
    };
    let waits = waits(state, &person, by);
    let mut changes = vec![Change::Put(Record::Person(person))];
    changes.extend(invitation(state, Subject::Person(name.clone()), hash, by, waits, now));
    Ok(changes)
}

/// Whoever uses a code is the person it names. One who alone could make an officer, or give somebody else's name a new
/// certificate, would have two voices, or another's data: it takes a second one's word. Where there is nobody who could
/// give it, as when the first officers enrol, one is enough.
fn waits(state: &State, invited: &Person, by: &str) -> bool {
    let another = invited.name.as_str() != by;
    let matters = another && (invited.enrolled || is(invited, "officer"));
    matters && state.people.values().any(|who| may_confirm(state, who, invited, by))
}

/// Who may give the second word for a code that `by` gave out for this person.
pub fn confirmers<'a>(state: &'a State, name: &'a Name, by: &'a str) -> impl Iterator<Item = &'a Name> {
    let invited = state.people.get(name);
    let may = move |who: &&Person| invited.is_some_and(|invited| may_confirm(state, who, invited, by));
    state.people.values().filter(may).map(|who| &who.name)
}

/// Another officer; where it makes no officer, or there is no other one, an operator too. Nobody for herself.
fn may_confirm(state: &State, who: &Person, invited: &Person, by: &str) -> bool {
    let other = |p: &Person| p.enrolled && p.name != invited.name && p.name.as_str() != by;
    let officers = || state.people.values().any(|p| is(p, "officer") && other(p));
    let operator = || is(who, "operator") && (!is(invited, "officer") || !officers());
    other(who) && (is(who, "officer") || operator())
}

fn is(person: &Person, role: &str) -> bool {
    person.roles.iter().any(|one| one == role)
}

/// A second one's word for the code that waits for it and has this id: another may have been given out since she was asked.
/// Nobody: that is said offline, where no second one can.
pub fn confirm(
    state: &State,
    name: &Name,
    id: &str,
    by: Option<&Name>,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    let waits = |i: &&Invitation| i.waits && i.subject == Subject::Person(name.clone()) && now < i.expires;
    let Some(found) = state.invitations.values().find(waits) else {
        return Err(Refusal::new(RefusalKind::State, format!("no code for `{name}` waits to be confirmed"))
            .hint(format!("holm person invite {name}")));
    };
    if found.id() != id {
        let text = format!("the code for `{name}` that waits is another one, of `{}`", found.by);
        return Err(Refusal::new(RefusalKind::State, text).hint("ask whether it was meant: holm person list"));
    }
    if let Some(by) = by {
        let denied = |text: &str| Err(Refusal::new(RefusalKind::Denied, text));
        if found.by == by.as_str() {
            return denied("nobody confirms a code that she gave out herself: another officer must do it");
        }
        let fits =
            |who| state.people.get(name).is_some_and(|invited| may_confirm(state, who, invited, &found.by));
        if !state.people.get(by).is_some_and(fits) {
            let text = "an officer confirms it, or an operator where it makes no officer or there is no other, and \
                        nobody her own";
            return denied(text);
        }
    }
    let confirmed = by.map(|by| Confirmed { by: by.clone(), at: now });
    Ok(vec![Change::Put(Record::Invitation(Invitation { waits: false, confirmed, ..found.clone() }))])
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
        renewed: String::new(),
        revoked: None,
        present: BTreeSet::new(),
        commissioning: None,
        volumes_gib: 0,
        maintenance: None,
        backups: String::new(),
    });
    let mut changes = vec![Change::Put(Record::Host(host))];
    changes.extend(invitation(state, Subject::Host(name.clone()), hash, by, false, now));
    changes
}

/// The one invitation of this subject. A code that was given out before it is of no use any more: it may have
/// gone to the wrong person, which is why there is a new one.
fn invitation(
    state: &State,
    subject: Subject,
    hash: String,
    by: &str,
    waits: bool,
    now: Timestamp,
) -> Vec<Change> {
    let over = state.invitations.values().filter(|i| i.subject == subject || now >= i.expires);
    let mut changes: Vec<Change> =
        over.map(|i| Change::Delete(Record::Invitation(i.clone()).key())).collect();
    let expires = expiry(now);
    let by = by.to_owned();
    let code = Invitation { hash, subject, by, expires, waits, confirmed: None };
    changes.push(Change::Put(Record::Invitation(code)));
    changes
}

/// What is known of somebody's certificates.
struct Certificates {
    newest: String,
    renewed: String,
    revoked: Option<Revoked>,
}

fn certificates(state: &State, subject: &Subject) -> Option<Certificates> {
    let of = |newest: &String, renewed: &String, revoked: &Option<Revoked>| Certificates {
        newest: newest.clone(),
        renewed: renewed.clone(),
        revoked: revoked.clone(),
    };
    match subject {
        Subject::Person(name) => state.people.get(name).map(|p| of(&p.certificate, &p.renewed, &p.revoked)),
        Subject::Host(name) => state.hosts.get(name).map(|h| of(&h.certificate, &h.renewed, &h.revoked)),
    }
}

fn with(state: &State, subject: &Subject, has: Certificates) -> Vec<Change> {
    let Certificates { newest: certificate, renewed, revoked } = has;
    let record = match subject {
        Subject::Person(name) => {
            let with = |p: &Person| Person { certificate, renewed, revoked, enrolled: true, ..p.clone() };
            state.people.get(name).map(with).map(Record::Person)
        }
        Subject::Host(name) => {
            let with = |h: &Host| Host { certificate, renewed, revoked, ..h.clone() };
            state.hosts.get(name).map(with).map(Record::Host)
        }
    };
    record.map(Change::Put).into_iter().collect()
}

/// Somebody else gave this code out, and not who uses it herself.
pub fn is_anothers(state: &State, hash: &str) -> bool {
    state.invitations.get(hash).is_some_and(|i| match &i.subject {
        Subject::Person(name) => i.by != name.as_str(),
        Subject::Host(_) => true,
    })
}

/// Whoever used a code has this certificate from now on, and no other. Where it is `anothers`, she may have another account
/// at the OpenID provider, too.
pub fn certified(state: &State, subject: &Subject, fingerprint: &str, anothers: bool) -> Vec<Change> {
    let newest = fingerprint.to_owned();
    let mut changes =
        logged_out(with(state, subject, Certificates { newest, renewed: String::new(), revoked: None }));
    for change in changes.iter_mut().filter(|_| anothers) {
        if let Change::Put(Record::Person(person)) = change {
            person.account = None;
        }
    }
    changes
}

/// What somebody proved who had the certificate before says nothing of who has this one.
fn logged_out(mut changes: Vec<Change>) -> Vec<Change> {
    for change in &mut changes {
        if let Change::Put(Record::Person(person)) = change {
            person.login = None;
        }
    }
    changes
}

/// Whoever renewed hers has two until she uses the new one: an answer that gets lost costs nobody her certificate.
pub fn renewed(state: &State, subject: &Subject, fingerprint: &str) -> Vec<Change> {
    let Some(has) = certificates(state, subject) else { return Vec::new() };
    with(state, subject, Certificates { renewed: fingerprint.to_owned(), ..has })
}

/// She has used the one that she renewed hers to: the one before ends. `None`: nothing changes.
pub fn taken_up(state: &State, subject: &Subject, fingerprint: &str) -> Option<Vec<Change>> {
    let has = certificates(state, subject)?;
    (has.renewed == fingerprint && !fingerprint.is_empty())
        .then(|| with(state, subject, Certificates { newest: has.renewed, renewed: String::new(), ..has }))
}

/// Takes all certificates of a person or a host away, and codes that would get another. Whoever had her key may have made
/// codes for others and approved in her name: those codes and what is not decided yet go, too. What else she is stays: to
/// keep her from getting one, she is locked.
pub fn revoke(state: &State, subject: &Subject, revoked: Revoked) -> Result<Vec<Change>, Refusal> {
    let no = |text: String| Refusal::new(RefusalKind::State, text);
    let (what, name) = match subject {
        Subject::Person(name) => ("person", name),
        Subject::Host(name) => ("host", name),
    };
    if subject == &Subject::Person(revoked.by.clone()) {
        let text = "nobody revokes her own certificate: another officer must do it";
        return Err(Refusal::new(RefusalKind::Denied, text));
    }
    let has = certificates(state, subject).ok_or_else(|| no(format!("there is no {what} `{name}`")))?;
    if let Some(before) = &has.revoked {
        return Err(no(format!("it is revoked already, by {}: {}", before.by, before.reason))
            .hint(format!("holm {what} invite {name}")));
    }
    if state.people.get(name).is_some_and(|p| what == "person" && !p.enrolled) {
        return Err(no(format!("`{name}` has no certificate")));
    }
    let made = |i: &Invitation| what == "person" && i.by == name.as_str();
    let codes = state.invitations.values().filter(|i| &i.subject == subject || made(i));
    let mut changes: Vec<Change> =
        codes.map(|i| Change::Delete(Record::Invitation(i.clone()).key())).collect();
    let renewed = String::new();
    let at = revoked.at;
    changes.extend(logged_out(with(state, subject, Certificates { renewed, revoked: Some(revoked), ..has })));
    for change in &mut changes {
        if let Change::Put(Record::Person(person)) = change {
            person.void = Some(at);
        }
    }
    Ok(changes)
}

/// Refuses a certificate that is good for nothing any more, of who is known.
pub fn holds(state: &State, subject: &Subject, fingerprint: &str) -> Result<(), Refusal> {
    let Some(has) = certificates(state, subject) else { return Ok(()) };
    let denied = |text: String, next: &str| Err(Refusal::new(RefusalKind::Denied, text).hint(next));
    if let Some(revoked) = has.revoked {
        let text = format!(
            "this certificate was revoked by `{}`: whoever may invite you gives you a new code",
            revoked.by
        );
        return denied(text, "holm enrol CODE");
    }
    // Where none is noted, it was given out before that was done.
    if has.newest.is_empty() || has.newest == fingerprint || has.renewed == fingerprint {
        return Ok(());
    }
    denied(
        "this certificate was replaced by a newer one: if you did not enrol again or renew it, somebody did in your \
         name, and an officer must know"
            .to_owned(),
        "holm doctor",
    )
}

/// Use a code. It is gone afterwards, whether or not the certificate reaches whom it is for.
pub fn enrol(state: &State, hash: &str, now: Timestamp) -> Result<(Subject, Vec<Change>), Refusal> {
    let no = || {
        // One text for all of it: a guesser learns nothing.
        let text = "this code is not known, was used already, has expired, or waits to be confirmed";
        Refusal::new(RefusalKind::Denied, text)
            .hint("ask the person who invited you: for a new one, or to have another officer confirm it")
    };
    let invitation = state.invitations.get(hash).ok_or_else(no)?;
    // What a locked person gave out is good for nothing as long as she is locked. What one whose certificate was revoked
    // gave out is gone, and so is what somebody else gives out in her name before that is in the log.
    let locked = invitation.by.parse::<Name>().is_ok_and(|by| {
        let revoked = state.people.get(&by).is_some_and(|p| p.revoked.is_some());
        revoked || state.locks.contains_key(&Locked::Person(by))
    });
    // Nor is a word that somebody else may have given in a second one's name.
    let void = |c: &Confirmed| {
        let void = state.people.get(&c.by).and_then(|p| p.void).is_some_and(|void| c.at <= void);
        void || state.locks.contains_key(&Locked::Person(c.by.clone()))
    };
    let unsaid = invitation.waits || invitation.confirmed.as_ref().is_some_and(void);
    if now >= invitation.expires || unsaid || locked {
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
