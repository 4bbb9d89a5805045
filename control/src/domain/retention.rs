//! For how long entries of the log are kept, and from where on it is kept now. Pure.
//!
//! ```text
//!   0 ……… first ……… next …………………………………………… size
//!   │ gone │ past its days │ the first entry that is not, or that a hold keeps
//!          └──── whole segments of this go next ────┘
//! ```
//!
//! Only what is at the front goes, and only as whole segments: one entry that is kept for ever keeps all that came after it.

use super::records::{Change, Record};
use super::{State, days};
use holm_policies::Pack;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A pack destroys nothing before it was in force for so long: officers see that it is, and can load another.
pub const GRACE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// From where on the log is kept: there is one at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The first entry that is kept. Those before it are gone, or about to be.
    pub first: u64,
    /// Since when.
    pub since: Timestamp,
}

/// What of an entry says for how long it is kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// When it was decided.
    pub time: Timestamp,
    /// Of its project, then.
    pub level: Option<&'a str>,
    /// Which.
    pub project: Option<&'a str>,
}

/// For how long entries are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// By which pack, NAME/VERSION.
    pack: String,
    /// By level, days; 0: for ever.
    levels: BTreeMap<String, u32>,
    /// Of no project.
    others: u32,
    /// Projects of which nothing goes: on hold, or with an incident that is open.
    held: BTreeSet<String>,
}

impl Terms {
    /// By the pack in force and by what is held now.
    pub fn of(pack: &Pack, state: &State) -> Self {
        let here = pack.levels().iter().filter(|level| level.runs_here);
        Self {
            pack: pack.id().to_owned(),
            levels: here.map(|level| (level.id.clone(), level.log_days)).collect(),
            others: pack.log_days(),
            held: held(state),
        }
    }

    /// As many days for all.
    #[cfg(test)]
    pub(crate) fn of_days(days: u32) -> Self {
        Self { pack: "site/1".to_owned(), levels: BTreeMap::new(), others: days, held: BTreeSet::new() }
    }

    /// Nothing ever goes.
    pub fn keep_all(&self) -> bool {
        self.others == 0 && self.levels.values().all(|days| *days == 0)
    }

    /// By which pack.
    pub fn pack(&self) -> &str {
        &self.pack
    }

    /// Days by level, and of entries of no project, as the log has them.
    pub fn days(&self) -> (&BTreeMap<String, u32>, u32) {
        (&self.levels, self.others)
    }

    /// Its time is over, and nothing holds it.
    pub fn is_past(&self, entry: Kept<'_>, now: Timestamp) -> bool {
        // What concerns no project may concern one that is held.
        if entry.project.map_or(!self.held.is_empty(), |project| self.held.contains(project)) {
            return false;
        }
        let kept = match entry.level {
            // One that the pack does not know, of a pack before it, is kept as long as any.
            Some(level) => self.levels.get(level).copied().unwrap_or_else(|| self.longest()),
            // A project that there was not: nobody knows how sensitive it would have been.
            None if entry.project.is_some() => self.longest(),
            None => self.others,
        };
        kept > 0 && entry.time.checked_add(days(kept)).is_ok_and(|until| until <= now)
    }

    /// Days; 0: for ever.
    fn longest(&self) -> u32 {
        let all = || self.levels.values().chain([&self.others]).copied();
        if all().any(|days| days == 0) { 0 } else { all().max().unwrap_or(0) }
    }
}

/// Projects of which nothing goes, by name.
fn held(state: &State) -> BTreeSet<String> {
    let on_hold = state.projects.values().filter(|project| project.hold.is_some());
    let slices = state.slices.values().filter(|slice| slice.hold.is_some());
    let theirs = slices.filter_map(|slice| state.projects.get(&slice.project));
    let open = state.incidents.values().filter(|incident| incident.closed.is_none());
    let named = on_hold.chain(theirs).map(|project| project.name.to_string());
    named.chain(open.map(|incident| incident.project.to_string())).collect()
}

/// The first entry that the state says is kept.
pub fn first(state: &State) -> u64 {
    state.retention.as_ref().map_or(0, |retention| retention.first)
}

/// The pack in force is so for long enough to destroy something.
pub fn may_begin(state: &State, now: Timestamp) -> bool {
    let since = state.policy.as_ref().map(|policy| policy.since);
    since.is_some_and(|since| now.duration_since(since) >= GRACE)
}

/// Where whole segments end, of those whose entries are all before `next`.
pub const fn whole(next: u64, segment: u64) -> u64 {
    match next.checked_rem(segment) {
        Some(rest) => next - rest,
        None => 0,
    }
}

/// From now on the log is kept from this entry on; `None`: it is so already.
pub fn begin_at(state: &State, entry: u64, now: Timestamp) -> Option<Vec<Change>> {
    let next = Retention { first: entry, since: now };
    (entry > first(state)).then(|| vec![Change::Put(Record::Retention(next))])
}

/// Of records as they were a moment ago those that still are so. Who changed one since has written it down by itself.
pub fn unchanged(state: &State, records: &[Record]) -> Vec<Change> {
    let same = |record: &&Record| state.current(record).as_ref() == Some(*record);
    records.iter().filter(same).cloned().map(Change::Put).collect()
}

#[cfg(test)]
mod tests;
