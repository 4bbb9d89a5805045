//! How long a slice may run, and what becomes of it when that is over. The clock decides, so all of this is asked with a
//! time, and by whoever looks: access is refused by it at once, and the rest follows in the next round.
//!
//! ```text
//!   requested ── not approved within `request_days` ──▶ withdrawn
//!
//!             approved              `lease_days` later
//!   no lease ──────────▶ leased ────────────────────────▶ over: stopped, nobody gets in, its disks stay
//!                        │ ▲  ▲                            │
//!         its lead asks  │ │  └──── approved anew ─────────┤ its lead asks for more
//!         for more       ▼ │ approved anew, rejected,      ▼
//!                        asked ◀── taken back, expired ── asked, and over
//!
//!   project ── its end date ──▶ ended: its slices are stopped, nobody gets in
//!     ▲                           │ `closing_days` after that was seen
//!     └── a later date is filed ──┤
//!                                 ▼
//!                               its slices are closed: keys destroyed, certificates. What is on hold, locked or frozen
//!                               is left alone until that is lifted.
//! ```
//!
//! What was seen to be over stays so whatever the clock says afterwards, until a later end is set. Whether a clock can be
//! gone by is for `reconcile::clock` to say: by one that jumps nothing of this is done.

use super::lock::{self, Subject};
use super::records::{Approval, Change, Ended, Extension, Project, Record, Slice, SliceState};
use super::slice::{self, Demands, put};
use super::{Refusal, RefusalKind, State, days, resize};
use holm_policies::Level;
use holm_proto::ids::Name;
use jiff::Timestamp;

/// How an answer to a request for more time or another size goes on, where it stands as the slice's reason.
const ANSWER: &str = " was ";
/// What is asked for.
const MORE_TIME: &str = "more time";
const OTHER_SIZE: &str = "another size";
/// So many leases of a project's slices are warned of, those that end first.
const WARNED_MAX: usize = 16;

impl Slice {
    /// The time for which it was approved is over.
    pub fn lease_over(&self, now: Timestamp) -> bool {
        over(self.lease, self.ended.as_ref(), now)
    }
}

impl Project {
    /// Its end date is past.
    pub fn is_over(&self, now: Timestamp) -> bool {
        over(self.registration.ends, self.ended.as_ref(), now)
    }

    /// When its slices are closed by themselves; absent: they are not, or its end is yet to come.
    pub fn closes(&self, level: &Level, now: Timestamp) -> Option<Timestamp> {
        let seen =
            self.ended.as_ref().filter(|seen| self.registration.ends.is_some_and(|end| end <= seen.end))?;
        (level.closing_days > 0 && self.is_over(now)).then(|| after(seen.at, level.closing_days))
    }
}

fn over(end: Option<Timestamp>, seen: Option<&Ended>, now: Timestamp) -> bool {
    end.is_some_and(|end| now >= end || seen.is_some_and(|seen| end <= seen.end))
}

fn after(at: Timestamp, n: u32) -> Timestamp {
    at.checked_add(days(n)).unwrap_or(Timestamp::MAX)
}

/// Until when one runs that is approved now; `days` 0: as long as its project. One that is reserved begins later.
pub(super) fn until(days: u32, from: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    (days > 0).then(|| after(from.unwrap_or(now).max(now), days))
}

/// Its lead asks for more time. It counts from the day on which that is approved.
pub fn extend(s: &Slice, by: &Name, comment: &str, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    if s.home().is_none() {
        slice::demand(s, &SliceState::OPEN, "extended")?;
    }
    nothing_asked(s)?;
    if s.lease.is_none() {
        let text = "it was approved for no certain time: it runs as long as its project";
        return Err(Refusal::new(RefusalKind::State, text));
    }
    let (by, comment) = (by.clone(), comment.to_owned());
    let asked = Extension { by, at: now, comment, approvals: Vec::new(), size: None };
    Ok(put(Slice { extension: Some(asked), reason: unanswered(s), ..s.clone() }))
}

/// Of what is asked for later one thing at a time: who approves it looks at that.
pub(super) fn nothing_asked(s: &Slice) -> Result<(), Refusal> {
    let Some(asked) = &s.extension else { return Ok(()) };
    let text = format!("{} asked for {} already, and it waits for approval", asked.by, thing(asked));
    Err(Refusal::new(RefusalKind::Exists, text))
}

fn thing(asked: &Extension) -> &'static str {
    if asked.size.is_some() { OTHER_SIZE } else { MORE_TIME }
}

/// One approval more for that. With the last one needed it has the time, or the size.
pub fn approve(
    s: &Slice,
    demands: Demands<'_>,
    by: &Name,
    comment: &str,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    let mut next = s.clone();
    let Some(asked) = &mut next.extension else { return Err(none_asked()) };
    if asked.size.is_some() && s.home().is_none() {
        slice::demand(s, &SliceState::OPEN, "given another size")?;
    }
    let approval = Approval { by: by.clone(), at: now, comment: comment.to_owned() };
    let size = asked.size;
    if demands.one_more(&asked.by, &mut asked.approvals, approval)?.is_none() {
        let approvals = next.extension.take().map(|asked| asked.approvals).unwrap_or_default();
        if let Some(size) = size {
            next.enlarged = approvals;
            resize::give(&mut next, size, now);
            return Ok(put(next));
        }
        next.renewed = approvals;
        next.lease = extended(s.lease, demands.lease_days, now);
        // That its time was over is over.
        next.reason = if s.lease_over(now) { String::new() } else { unanswered(s) };
    }
    Ok(put(next))
}

/// Until when it runs with more time that is approved now: never less than before, whatever the pack says since.
pub fn extended(lease: Option<Timestamp>, days: u32, now: Timestamp) -> Option<Timestamp> {
    until(days, None, now).map(|new| lease.map_or(new, |old| new.max(old)))
}

/// Its reason, but for an answer to what was asked before.
pub(super) fn unanswered(s: &Slice) -> String {
    let is_answer = [MORE_TIME, OTHER_SIZE]
        .iter()
        .any(|asked| s.reason.strip_prefix(asked).is_some_and(|rest| rest.starts_with(ANSWER)));
    if is_answer { String::new() } else { s.reason.clone() }
}

/// It is rejected, its lead takes it back, or nobody approved it: it runs as long as it would have. `why`, for her to
/// read; empty: nothing new.
pub fn drop_extension(s: &Slice, why: &str) -> Result<Vec<Change>, Refusal> {
    let Some(asked) = &s.extension else { return Err(none_asked()) };
    let reason = if why.is_empty() { s.reason.clone() } else { format!("{}{ANSWER}{why}", thing(asked)) };
    Ok(put(Slice { extension: None, reason, ..s.clone() }))
}

fn none_asked() -> Refusal {
    Refusal::new(RefusalKind::State, "nobody has asked for more time or another size for it")
}

/// The project has ended and nobody has seen that yet.
pub fn project_ended(p: &Project, now: Timestamp) -> Option<Vec<Change>> {
    let end = p.registration.ends.filter(|_| p.is_over(now))?;
    let ended = news(p.ended.as_ref(), end, now)?;
    Some(vec![Change::Put(Record::Project(Project { ended: Some(ended), ..p.clone() }))])
}

/// This end, where it was not seen before. One that a clock ahead of its time has seen is seen again.
fn news(seen: Option<&Ended>, end: Timestamp, now: Timestamp) -> Option<Ended> {
    seen.is_none_or(|seen| seen.end < end || seen.at > now).then_some(Ended { end, at: now })
}

/// What the clock has made due: its action, as the log names it, and what it changes. `level` is as the pack in force
/// has it; of one that is not known nothing is closed.
pub fn due(
    state: &State,
    s: &Slice,
    level: Option<&Level>,
    now: Timestamp,
) -> Option<(&'static str, Vec<Change>)> {
    if s.state.is_final() {
        return None;
    }
    let expired = expired(s, level.map_or(0, |level| level.request_days), now);
    let named = |action| move |changes| (action, changes);
    expired
        .map(named("slice.expire"))
        .or_else(|| ended(state, s, now).map(named("slice.end")))
        .or_else(|| closed(state, s, level?, now).map(named("slice.close")))
}

/// Nobody approved it in time.
fn expired(s: &Slice, days: u32, now: Timestamp) -> Option<Vec<Change>> {
    let late = |since: Timestamp| days > 0 && now >= after(since, days);
    if s.state == SliceState::Requested {
        let why = || format!("it was not approved within {days} days");
        return late(s.requested).then(|| slice::end_request(s, why(), now));
    }
    let why = format!("not approved within {days} days");
    s.extension.as_ref().filter(|asked| late(asked.at)).and_then(|_| drop_extension(s, &why).ok())
}

/// Its time is over: it is stopped, and that is remembered.
fn ended(state: &State, s: &Slice, now: Timestamp) -> Option<Vec<Change>> {
    let project = state.projects.get(&s.project)?;
    let lease = s.lease.filter(|_| s.lease_over(now));
    let date = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    let why = match (project.registration.ends.filter(|_| project.is_over(now)), lease) {
        (Some(end), _) => format!("its project ended on {}", date(end)),
        (None, Some(end)) => format!("the time for which it was approved ended on {}", date(end)),
        (None, None) => return None,
    };
    let seen = lease.and_then(|end| news(s.ended.as_ref(), end, now));
    let noted = || Slice { ended: seen.clone().or_else(|| s.ended.clone()), ..s.clone() };
    // What officers have locked stays as it is until they lift that; nobody gets in.
    if lock::of_keys(state, s).is_none() {
        if s.state == SliceState::Approved && s.home().is_none() {
            return Some(slice::end_request(&noted(), why, now));
        }
        if s.home().is_some() || SliceState::STOPPABLE.contains(&s.state) {
            return slice::halt(&noted(), why, now).ok();
        }
    }
    seen.is_some().then(|| put(noted()))
}

/// Its project has ended, its days of grace are over, and nothing keeps it.
fn closed(state: &State, s: &Slice, level: &Level, now: Timestamp) -> Option<Vec<Change>> {
    let project = state.projects.get(&s.project)?;
    project.closes(level, now).filter(|closes| now >= *closes)?;
    let kept = slice::held(state, s).is_some()
        || lock::of_keys(state, s).is_some()
        // Nobody else could file a later end.
        || state.locks.contains_key(&Subject::Person(project.lead.clone()));
    // Frozen, and free again.
    let rests = SliceState::KEPT.contains(&s.state) && s.closed_at.is_none();
    if kept || !(rests || SliceState::OPEN.contains(&s.state)) {
        return None;
    }
    slice::close(state, s, None, days(level.keep_closed_days), now).ok()
}

/// Whoever was locked out while its project ended has all the days of grace, from when that is lifted.
pub(super) fn grace_again(state: &State, subject: &Subject, now: Timestamp) -> Vec<Change> {
    let of = |p: &&Project| match subject {
        Subject::Person(name) => &p.lead == name,
        Subject::Project(name) | Subject::Slice(name, _) | Subject::Keys(name) => &p.name == name,
        Subject::Device(..) => false,
    };
    let again = |p: &Project| {
        let ended = p.ended.as_ref().filter(|_| p.is_over(now))?;
        let ended = Some(Ended { at: ended.at.max(now), ..ended.clone() });
        Some(Change::Put(Record::Project(Project { ended, ..p.clone() })))
    };
    state.projects.values().filter(of).filter_map(again).collect()
}

/// What of a project's slices ends some day, as the register warns of it.
pub fn terms<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    p: &Project,
    level: Option<&Level>,
    now: Timestamp,
) -> Vec<(String, Timestamp)> {
    let living: Vec<&Slice> =
        slices.filter(|s| SliceState::OPEN.contains(&s.state) || s.home().is_some()).collect();
    let lease = |s: &&Slice| Some((format!("the lease of {}", s.name), s.lease?));
    let mut all: Vec<(String, Timestamp)> = living.iter().filter_map(lease).collect();
    all.sort_by_key(|(_, ends)| *ends);
    all.truncate(WARNED_MAX);
    let closes = level.and_then(|level| p.closes(level, now)).filter(|_| !living.is_empty());
    all.extend(closes.map(|at| ("the time until its slices are destroyed".to_owned(), at)));
    all
}

#[cfg(test)]
mod tests;
