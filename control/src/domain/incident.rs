//! A breach, or what may be one: what is of its project is frozen, and a clock runs (GDPR, article 33).
//!
//! ```text
//!              an officer opens it          the authority was told           closed, for a reason
//!   (nothing) ────────────────────▶ Open ────────────────────────▶ Notified ────────────────────▶ Closed
//!                                    │ │                                                            ▲
//!                                    │ └───────────── no need to tell it, for a reason ─────────────┘
//!                                    └── 48, 24 and 6 hours before the end of the 72, and then: said
//! ```
//!
//! With it the project is locked and put on hold: nothing of it starts, nobody connects, and no key and no disk is destroyed.
//! What runs runs on: to stop it with its disks as they are, freeze the slice (`holm slice hold --freeze`). Lock and hold are lifted as any are, and closing the
//! incident lifts neither.

use super::lock::{self, Subject};
use super::records::{Change, Hold, Lock, Record};
use super::{Refusal, RefusalKind, State, project};
use holm_proto::ids::Name;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// How long the controller has from when she became aware of it.
pub const HOURS: i64 = 72;
/// What is left when it is said, in hours.
const REMINDERS: [i64; 4] = [48, 24, 6, 0];
/// Somebody may have become aware of it so long before it is opened.
const AWARE: SignedDuration = SignedDuration::from_hours(31 * 24);

/// One incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    /// From 1.
    pub number: u32,
    /// Of which project.
    pub project: Name,
    /// Who opened it.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// When somebody who answers for the data became aware of it: from then the clock runs.
    pub aware: Timestamp,
    /// The authority was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notified: Option<Notified>,
    /// It is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Closed>,
    /// What was left when it was said last, in hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<i64>,
}

/// The authority was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notified {
    /// The officer who says so.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// Under which the authority has it.
    pub reference: String,
    /// Where it came late, why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// It is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closed {
    /// The officer.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

impl Incident {
    /// By then the authority is to be told.
    pub fn deadline(&self) -> Timestamp {
        self.aware.checked_add(SignedDuration::from_hours(HOURS)).unwrap_or(Timestamp::MAX)
    }

    /// The clock runs.
    pub fn is_pending(&self) -> bool {
        self.notified.is_none() && self.closed.is_none()
    }

    /// It ran out.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.is_pending() && now >= self.deadline()
    }
}

fn put(incident: Incident) -> Change {
    Change::Put(Record::Incident(incident))
}

fn no<T>(kind: RefusalKind, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(kind, text).hint("holm audit incident list"))
}

/// Open one of a project that there is, and freeze that.
pub fn open(
    state: &State,
    of: &Name,
    by: &Name,
    reason: &str,
    aware: Timestamp,
    now: Timestamp,
) -> Result<(Incident, Vec<Change>), Refusal> {
    if let Some(open) = state.incidents.values().find(|one| one.project == *of && one.closed.is_none()) {
        return no(RefusalKind::State, format!("incident {} of `{of}` is open already", open.number));
    }
    if aware > now || now.duration_since(aware) > AWARE {
        let text = "somebody became aware of it by now, and in the last 31 days: a clock that begins at another time is none";
        return Err(Refusal::new(RefusalKind::Invalid, text).hint("--aware TIME"));
    }
    let Some(project) = state.project(of) else {
        return no(RefusalKind::NotFound, format!("there is no project `{of}`"));
    };
    let number = state.incidents.keys().next_back().map_or(0, |last| *last).saturating_add(1);
    let incident = Incident {
        number,
        project: of.clone(),
        by: by.clone(),
        at: now,
        reason: reason.to_owned(),
        aware,
        notified: None,
        closed: None,
        said: None,
    };
    let mut changes = vec![put(incident.clone())];
    let why = format!("incident {number}");
    let subject = Subject::Project(of.clone());
    if !state.locks.contains_key(&subject) {
        changes.extend(lock::set(state, Lock { subject, by: by.clone(), at: now, reason: why.clone() })?);
    }
    if project.hold.is_none() {
        changes.extend(project::hold(project, Hold { by: by.clone(), at: now, reason: why })?);
    }
    Ok((incident, changes))
}

/// One that is not closed.
fn open_one(state: &State, number: u32) -> Result<&Incident, Refusal> {
    match state.incidents.get(&number) {
        None => no(RefusalKind::NotFound, format!("there is no incident {number}")),
        Some(Incident { closed: Some(closed), .. }) => no(
            RefusalKind::State,
            format!("incident {number} was closed by {}: {}", closed.by, closed.reason),
        ),
        Some(open) => Ok(open),
    }
}

/// The authority was told.
pub fn notified(state: &State, number: u32, told: Notified) -> Result<(Incident, Vec<Change>), Refusal> {
    let incident = open_one(state, number)?;
    if let Some(before) = &incident.notified {
        let text = format!("the authority was told of incident {number} under `{}`", before.reference);
        return no(RefusalKind::State, text);
    }
    if incident.is_overdue(told.at) && told.reason.is_empty() {
        let text = format!(
            "it comes later than {HOURS} hours: say why, as the authority is told (GDPR, article 33(1))"
        );
        return Err(Refusal::new(RefusalKind::Invalid, text).hint("--reason TEXT"));
    }
    let next = Incident { notified: Some(told), ..incident.clone() };
    Ok((next.clone(), vec![put(next)]))
}

/// It is over.
pub fn close(state: &State, number: u32, closed: Closed) -> Result<(Incident, Vec<Change>), Refusal> {
    let next = Incident { closed: Some(closed), ..open_one(state, number)?.clone() };
    Ok((next.clone(), vec![put(next)]))
}

/// So many hours are left, where that is to be said now. Of several that went by at once, the last.
pub fn warn(state: &State, number: u32, now: Timestamp) -> Option<(i64, Vec<Change>)> {
    let incident = state.incidents.get(&number).filter(|incident| incident.is_pending())?;
    let left = incident.deadline().duration_since(now);
    let reached =
        REMINDERS.iter().copied().filter(|hours| left <= SignedDuration::from_hours(*hours)).min()?;
    if incident.said.is_some_and(|said| said <= reached) {
        return None;
    }
    Some((reached, vec![put(Incident { said: Some(reached), ..incident.clone() })]))
}

#[cfg(test)]
mod tests;
