//! The review of the log by sample: officers look at some accesses of each period, and say of each that it is in order, or not.
//!
//! ```text
//!                 the period is over:         holmd draws          the last of its entries is
//!   (it goes on) ───────────────────▶ Closed ────────────▶ Open ── signed off or flagged ────▶ Done
//!                   review.close              review.draw    │                                  ▲
//!                                                            └── it is due: overdue, each week ──┘
//! ```
//!
//! Which entries they are follows from the log (`audit::sample`), and nobody chooses them. No officer decides on an entry that
//! is about herself. What was said of an entry stays said. An entry that is flagged is through: what comes of it, a lock or an
//! incident, is not the review's.

use super::records::{Change, Record};
use super::{Refusal, RefusalKind, State};
use holm_proto::ids::Name;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The longest comment on an entry, in characters: with all of them the record still fits into an entry of the log.
pub const COMMENT_MAX: usize = 200;
/// Entries of a sample, at most.
pub const ENTRIES_MAX: usize = 40;
/// One that is overdue is told again after so long.
const AGAIN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// One sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// From 1.
    pub number: u32,
    /// When its period ended.
    pub closed: Timestamp,
    /// At most so many entries are drawn.
    pub entries: usize,
    /// Absent: it is not drawn yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
}

/// What was drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The entry that ended its period.
    pub close: u64,
    /// When it was drawn.
    pub drawn: Timestamp,
    /// By then it is to be done.
    pub due: Timestamp,
    /// The entries, in the order of the log.
    pub items: Vec<Item>,
    /// When it was said last that it is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Timestamp>,
    /// When the last of them was decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Timestamp>,
}

/// An entry to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its number in the log.
    pub entry: u64,
    /// Whom it is about.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub about: BTreeSet<Name>,
    /// What an officer said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
}

/// What an officer said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// Who.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// Something is wrong with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flagged: bool,
    /// Of one that is flagged, what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
}

impl Review {
    /// So many of its entries are decided on, and so many of these flagged.
    pub fn counts(&self) -> (usize, usize) {
        let decided =
            || self.sample.iter().flat_map(|sample| &sample.items).filter_map(|item| item.decided.as_ref());
        (decided().count(), decided().filter(|said| said.flagged).count())
    }

    /// It was to be done by now, and is not.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.sample.as_ref().is_some_and(|sample| sample.done.is_none() && now >= sample.due)
    }
}

fn put(review: Review) -> Change {
    Change::Put(Record::Review(review))
}

/// The period is over, where it is: the next one begins. `began`: the first, with the log.
pub fn close(
    state: &State,
    began: Timestamp,
    length: SignedDuration,
    entries: usize,
    now: Timestamp,
) -> Option<Review> {
    let last = state.reviews.values().next_back();
    // One after the other: a sample is of what came since the one before.
    if last.is_some_and(|last| last.sample.is_none()) {
        return None;
    }
    let began = last.map_or(began, |last| last.closed);
    let number = last.map_or(0, |last| last.number).checked_add(1)?;
    (now.duration_since(began) >= length).then_some(Review { number, closed: now, entries, sample: None })
}

/// The sample was drawn. One of nothing is done.
pub fn drawn(
    state: &State,
    number: u32,
    close: u64,
    items: Vec<Item>,
    time: SignedDuration,
    now: Timestamp,
) -> Option<Vec<Change>> {
    let review = state.reviews.get(&number).filter(|review| review.sample.is_none())?;
    let due = now.checked_add(time).unwrap_or(Timestamp::MAX);
    let done = items.is_empty().then_some(now);
    let sample = Some(Sample { close, drawn: now, due, items, told: None, done });
    Some(vec![put(Review { sample, ..review.clone() })])
}

/// An officer says of one entry that it is in order, or what is wrong with it.
pub fn decide(state: &State, number: u32, entry: u64, said: Decided) -> Result<Vec<Change>, Refusal> {
    let invalid = |text: String| Err(Refusal::new(RefusalKind::Invalid, text));
    if said.comment.chars().count() > COMMENT_MAX || said.comment.chars().any(char::is_control) {
        return invalid(format!("a comment on an entry is one line of {COMMENT_MAX} characters at most"));
    }
    if said.flagged && said.comment.trim().is_empty() {
        return invalid("say what is wrong with it: a flag without a word helps nobody".to_owned());
    }
    let none = |text: String, next: String| Err(Refusal::new(RefusalKind::NotFound, text).hint(next));
    let Some(review) = state.reviews.get(&number) else {
        return none(format!("there is no review {number}"), "holm audit review list".to_owned());
    };
    let mut next = review.clone();
    let Some(sample) = &mut next.sample else {
        let text = format!("review {number} is not drawn yet");
        return Err(Refusal::new(RefusalKind::State, text).hint("in a moment: holm audit review list"));
    };
    let Some(item) = sample.items.iter_mut().find(|item| item.entry == entry) else {
        let next = format!("holm audit review show {number}");
        return none(format!("entry {entry} is not in the sample of review {number}"), next);
    };
    if item.about.contains(&said.by) {
        let text = format!("entry {entry} is about `{}`: another officer must look at it", said.by);
        return Err(Refusal::new(RefusalKind::Denied, text));
    }
    if let Some(before) = &item.decided {
        let how = if before.flagged { "flagged" } else { "signed off" };
        let text =
            format!("entry {entry} was {how} already, by {}: what was said of it stays said", before.by);
        return Err(Refusal::new(RefusalKind::State, text));
    }
    let at = said.at;
    item.decided = Some(said);
    sample.done = sample.items.iter().all(|item| item.decided.is_some()).then_some(at);
    Ok(vec![put(next)])
}

/// It is overdue, where that is to be said now.
pub fn overdue(state: &State, number: u32, now: Timestamp) -> Option<Vec<Change>> {
    let review = state.reviews.get(&number).filter(|review| review.is_overdue(now))?;
    let mut next = review.clone();
    let sample = next.sample.as_mut()?;
    if sample.told.is_some_and(|told| now.duration_since(told) < AGAIN) {
        return None;
    }
    sample.told = Some(now);
    Some(vec![put(next)])
}

#[cfg(test)]
mod tests;
