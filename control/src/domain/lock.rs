//! Locks: what a security officer takes away from somebody or something, until an officer gives it back.
//!
//! ```text
//!   free ── set, by an officer, for a reason ──▶ locked ── lift, by an officer ──▶ free
//! ```
//!
//! What a lock bites on, from the moment that it is in the log, whatever the policy pack says:
//! * of a **person**: all that she asks for, her open streams, and the codes that she gave out and nobody has used;
//! * of a **project** or a **slice**: everything that is done with it, but that those who watch or run Holm read it, and
//!   what officers do: reject, hold, freeze, lock, and of incidents all. It is not placed, its host gets no key, and nobody connects. What
//!   runs runs on: to stop it, it is frozen. What would be destroyed stays, unless it is closing already;
//! * of a **device**: nothing new is placed on it. Who has it keeps it;
//! * of a project's **keys**: no host is given one, so nothing starts; none leaves Holm, is rotated or is destroyed. The
//!   key-encryption key can still be rotated: that wraps them anew, and gives them to nobody.
//!
//! A lock goes by names, so that it also bites on what gets a name later. Who set it and why is for officers and auditors;
//! others learn whom to ask.
//!
//! There is always an officer who can act: nobody locks herself, and whoever is locked locks nobody. So two officers cannot
//! lock each other: one of the two comes first, and lifts the lock that she set, for a person's takes one officer.

use super::records::{Change, Lock, Person, Record, Slice};
use super::{Refusal, RefusalKind, State, lease};
use holm_policies::{Action, Identity, Request, Resource};
use holm_proto::ids::{Name, PciAddress};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Reading, in what is locked.
const READING: [Action; 4] =
    [Action::ProjectRead, Action::SliceRead, Action::SliceWatch, Action::SliceCertificate];
/// Who reads it all the same.
const READERS: [&str; 3] = ["officer", "auditor", "operator"];
/// What officers do with it all the same.
const DECIDING: [Action; 8] = [
    Action::SliceReject,
    Action::HoldSet,
    Action::HoldLift,
    Action::LockSet,
    Action::LockLift,
    Action::IncidentOpen,
    Action::IncidentNotify,
    Action::IncidentClose,
];
/// What takes a slice's keys, now or as it starts.
const KEYED: [Action; 7] = [
    Action::KeysEscrow,
    Action::SliceStart,
    Action::SliceRebuild,
    Action::SliceRestore,
    Action::SliceGrow,
    Action::SliceRekey,
    Action::SliceDrill,
];

/// What is locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// `person/NAME`
    Person(Name),
    /// `project/NAME`
    Project(Name),
    /// `slice/PROJECT/NAME`
    Slice(Name, Name),
    /// `device/HOST/ADDRESS`
    Device(Name, PciAddress),
    /// `keys/PROJECT`
    Keys(Name),
}

/// Why a text names nothing that can be locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing that can be locked: there is person/NAME, project/NAME, slice/PROJECT/NAME, device/HOST/ADDRESS and keys/PROJECT"
)]
pub struct NoSubject(String);

impl FromStr for Subject {
    type Err = NoSubject;

    fn from_str(text: &str) -> Result<Self, NoSubject> {
        let no = || NoSubject(text.chars().take(80).flat_map(char::escape_debug).collect());
        let name = |text: &str| text.parse::<Name>().map_err(|_| no());
        match *text.split('/').collect::<Vec<_>>() {
            ["person", person] => Ok(Self::Person(name(person)?)),
            ["project", project] => Ok(Self::Project(name(project)?)),
            ["slice", project, slice] => Ok(Self::Slice(name(project)?, name(slice)?)),
            ["device", host, at] => Ok(Self::Device(name(host)?, at.parse().map_err(|_| no())?)),
            ["keys", project] => Ok(Self::Keys(name(project)?)),
            _ => Err(no()),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = NoSubject;
    fn try_from(text: String) -> Result<Self, NoSubject> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.to_string()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(name) => write!(f, "person/{name}"),
            Self::Project(name) => write!(f, "project/{name}"),
            Self::Slice(project, name) => write!(f, "slice/{project}/{name}"),
            Self::Device(host, address) => write!(f, "device/{host}/{address}"),
            Self::Keys(project) => write!(f, "keys/{project}"),
        }
    }
}

/// Lock it.
pub fn set(state: &State, lock: Lock) -> Result<Vec<Change>, Refusal> {
    if lock.subject == Subject::Person(lock.by.clone()) {
        let text = "nobody locks herself: another officer must do it";
        return Err(Refusal::new(RefusalKind::Denied, text));
    }
    if let Some(before) = state.locks.get(&lock.subject) {
        let text = format!("`{}` is locked already, by {}: {}", before.subject, before.by, before.reason);
        return Err(Refusal::new(RefusalKind::State, text).hint("holm lock list"));
    }
    let person = match &lock.subject {
        Subject::Person(name) => state.people.get(name),
        _ => None,
    };
    let void = person.map(|p| Record::Person(Person { void: Some(lock.at), ..p.clone() }));
    Ok(void.into_iter().chain([Record::Lock(lock)]).map(Change::Put).collect())
}

/// Lift its lock. `approvals`: how many officers its level takes.
pub fn lift(
    state: &State,
    subject: &Subject,
    by: &Name,
    approvals: u32,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    let Some(lock) = state.locks.get(subject) else {
        let text = format!("`{subject}` is not locked");
        return Err(Refusal::new(RefusalKind::State, text).hint("holm lock list"));
    };
    if approvals > 1 && &lock.by == by {
        let text = format!(
            "where a slice takes two approvals, a lock takes two officers: another one than `{by}`, who set it, \
             must lift it"
        );
        return Err(Refusal::new(RefusalKind::Denied, text));
    }
    let mut changes = lease::grace_again(state, subject, now);
    changes.push(Change::Delete(Record::Lock(lock.clone()).key()));
    Ok(changes)
}

/// The same where no officer is left who could: whoever has holmd's machine does it.
pub fn lift_offline(state: &State, subject: &Subject, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    let by = state.locks.get(subject).map(|lock| lock.by.clone());
    by.map_or_else(
        || Err(Refusal::new(RefusalKind::State, format!("`{subject}` is not locked"))),
        |by| lift(state, subject, &by, 1, now),
    )
}

/// Refuses what a locked person asks for.
pub fn person(state: &State, name: &Name) -> Result<(), Refusal> {
    free(state.locks.get(&Subject::Person(name.clone())), "nothing that she asks for is done")
}

/// Refuses what must not be done with what is locked, though the pack allows it.
pub fn permits(state: &State, request: &Request) -> Result<(), Refusal> {
    let (project, slice) = match &request.resource {
        Resource::Project { name, .. } => (name, None),
        Resource::Slice { project, name, .. } => (project, Some(name)),
        Resource::System | Resource::Log | Resource::Host { .. } | Resource::Person { .. } => return Ok(()),
    };
    if request.action == Action::KeysEscrow {
        free(any_slice(state, project), "no key of it leaves holmd")?;
    }
    if KEYED.contains(&request.action) {
        free(state.locks.get(&Subject::Keys(project.clone())), "no key of it leaves holmd")?;
    }
    let has = |role: &str| match &request.principal.identity {
        Identity::Person { roles, .. } => roles.iter().any(|r| r == role),
        Identity::Host { .. } => false,
    };
    let reads = READING.contains(&request.action) && READERS.iter().any(|role| has(role));
    let decides = DECIDING.contains(&request.action) && has("officer");
    match within(state, project, slice) {
        Some(lock) if !reads && !decides => free(Some(lock), "nothing is done with it"),
        _ => Ok(()),
    }
}

/// The lock of a slice or of its project.
pub fn of_slice<'a>(state: &'a State, slice: &Slice) -> Option<&'a Lock> {
    within(state, &state.projects.get(&slice.project)?.name, Some(&slice.name))
}

/// What keeps a slice's keys from its host, and so the slice from starting.
pub fn of_keys<'a>(state: &'a State, slice: &Slice) -> Option<&'a Lock> {
    let keys = || state.locks.get(&Subject::Keys(state.projects.get(&slice.project)?.name.clone()));
    of_slice(state, slice).or_else(keys)
}

/// Refuses a slice's keys to its host. Who reads it may not know by whom they are locked.
pub fn keys(state: &State, slice: &Slice) -> Result<(), Refusal> {
    let text = "it is locked: its keys are given to nobody";
    of_keys(state, slice).map_or(Ok(()), |_| Err(Refusal::new(RefusalKind::State, text)))
}

/// Refuses to rotate a project's keys.
pub fn rotation(state: &State, project: &Name) -> Result<(), Refusal> {
    let keys = state.locks.get(&Subject::Keys(project.clone()));
    let locked = keys.or_else(|| within(state, project, None)).or_else(|| any_slice(state, project));
    free(locked, "its keys stay as they are")
}

/// The lock of any slice of a project, whose keys are all taken at once.
fn any_slice<'a>(state: &'a State, project: &Name) -> Option<&'a Lock> {
    state.locks.values().find(|lock| matches!(&lock.subject, Subject::Slice(of, _) if of == project))
}

fn within<'a>(state: &'a State, project: &Name, slice: Option<&Name>) -> Option<&'a Lock> {
    let of_slice = |name: &Name| state.locks.get(&Subject::Slice(project.clone(), name.clone()));
    slice.and_then(of_slice).or_else(|| state.locks.get(&Subject::Project(project.clone())))
}

fn free(lock: Option<&Lock>, so: &str) -> Result<(), Refusal> {
    let Some(lock) = lock else { return Ok(()) };
    let (subject, by) = (&lock.subject, &lock.by);
    let text = format!("`{subject}` is locked, and {so}: ask `{by}`, who locked it, or another officer");
    Err(Refusal::new(RefusalKind::Denied, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_policies::Principal;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn lock(subject: &str, by: &str) -> Lock {
        let (subject, by) = (subject.parse().unwrap(), name(by));
        Lock { subject, by, at: Timestamp::UNIX_EPOCH, reason: "a case".to_owned() }
    }

    fn locked(subject: &str) -> State {
        let mut state = State::default();
        state.apply(&set(&state, lock(subject, "frida")).unwrap());
        state
    }

    fn heart() -> Resource {
        let (lead, members) = (name("ada"), vec![name("ada")]);
        Resource::Project {
            name: name("heart"),
            level: "2".to_owned(),
            lead,
            members,
            readers: Vec::new(),
            held_by: Vec::new(),
            missing: Vec::new(),
            lapsed: Vec::new(),
        }
    }

    fn main_of(project: &str) -> Resource {
        Resource::Slice {
            project: name(project),
            name: name("main"),
            level: "2".to_owned(),
            lead: name("ada"),
            members: vec![name("ada")],
            readers: Vec::new(),
            requested_by: name("ada"),
            approved_by: Vec::new(),
            held_by: Vec::new(),
            missing: Vec::new(),
            lapsed: Vec::new(),
            lease_over: false,
        }
    }

    /// What whoever has this role may still do, were the pack to allow everything.
    fn left(state: &State, role: &str, resource: &Resource) -> Vec<Action> {
        let identity = Identity::Person { name: name("otto"), roles: vec![role.to_owned()] };
        let principal = Principal { identity, known: true };
        let request = |action| Request { principal: principal.clone(), action, resource: resource.clone() };
        Action::ALL.iter().copied().filter(|action| permits(state, &request(*action)).is_ok()).collect()
    }

    #[test]
    fn in_a_locked_project_only_what_is_listed_is_left() {
        let mut officers: Vec<Action> = [READING.as_slice(), &DECIDING].concat();
        officers.sort_unstable();
        for (state, resource) in [
            (locked("project/heart"), heart()),
            (locked("project/heart"), main_of("heart")),
            (locked("slice/heart/main"), main_of("heart")),
        ] {
            for (role, expected) in
                [("lead", &[][..]), ("researcher", &[]), ("auditor", &READING), ("operator", &READING)]
            {
                assert_eq!(left(&state, role, &resource), expected, "{role}");
            }
            let mut all = left(&state, "officer", &resource);
            all.sort_unstable();
            assert_eq!(all, officers);
            assert_eq!(left(&state, "lead", &main_of("brain")).len(), Action::ALL.len());
        }
        let keys = locked("keys/heart");
        let all = left(&keys, "lead", &main_of("heart"));
        assert_eq!(all.len() + KEYED.len(), Action::ALL.len());
        assert!(KEYED.iter().all(|action| !all.contains(action)));
    }

    #[test]
    fn only_these_texts_name_something() {
        for text in
            ["person/ada", "project/heart", "slice/heart/main", "device/dgx/0000:34:00.0", "keys/heart"]
        {
            assert_eq!(text.parse::<Subject>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "person",
            "person/",
            "person/Ada",
            "person/a/b",
            "slice/heart",
            "device/dgx/34",
            "host/dgx",
            "keys/heart/main",
            "/ada",
            "PERSON/ada",
            "person/ada ",
        ] {
            assert!(bad.parse::<Subject>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Whatever officers do to each other, there is one who can act, and she can lift what is locked of people.
        #[test]
        fn officers_never_lock_each_other_out(steps in prop::collection::vec((0..4_usize, 0..4_usize, any::<bool>()), 0..60)) {
            let officers = ["frida", "gustav", "helga", "ivar"];
            let mut state = State::default();
            for (by, of, sets) in steps {
                let (by, of) = (name(officers[by]), Subject::Person(name(officers[of])));
                if person(&state, &by).is_err() {
                    continue;
                }
                let changes = match sets {
                    true => set(&state, Lock { subject: of, by, at: Timestamp::UNIX_EPOCH, reason: String::new() }),
                    false => lift(&state, &of, &by, 1, Timestamp::UNIX_EPOCH),
                };
                state.apply(&changes.unwrap_or_default());
                let free: Vec<Name> =
                    officers.iter().map(|o| name(o)).filter(|o| person(&state, o).is_ok()).collect();
                prop_assert!(!free.is_empty());
                for subject in state.locks.keys() {
                    prop_assert!(lift(&state, subject, &free[0], 1, Timestamp::UNIX_EPOCH).is_ok());
                }
            }
        }
    }
}
