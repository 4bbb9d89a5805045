//! What is looked for. Pure.

use super::terms;
use crate::audit::{Entry, OUTCOMES};
use jiff::Timestamp;
use std::ops::Range;

/// What entries must all be. Nothing said: all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    terms: Vec<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Otherwise the newest come first.
    pub oldest_first: bool,
    /// The first entry that is looked at, in the order asked for.
    pub from: Option<u64>,
}

/// What cannot be looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum QueryError {
    #[error("`{0}` is no outcome: there are allowed, refused and observed")]
    Outcome(String),
    #[error("`{0}` has no word in it to look for: words are letters and digits")]
    Words(String),
    #[error("nothing is from {since} on and before {until}")]
    Times { since: Timestamp, until: Timestamp },
    #[error("{0} bytes are too long to be looked for: {TEXT} is the most")]
    Long(usize),
}

/// Bytes of what is looked for.
const TEXT: usize = 1024;

impl Query {
    /// By whom: `person/ada`, `host/dgx`, `holmd`.
    pub fn actor(self, name: &str) -> Result<Self, QueryError> {
        self.with(terms::actor, name)
    }

    /// About what, as `slice/heart/main`.
    pub fn resource(self, name: &str) -> Result<Self, QueryError> {
        self.with(terms::resource, name)
    }

    /// About a project.
    pub fn project(self, name: &str) -> Result<Self, QueryError> {
        self.with(terms::project, name)
    }

    /// About a project that had this level then.
    pub fn level(self, name: &str) -> Result<Self, QueryError> {
        self.with(terms::level, name)
    }

    /// Of a device, HOST/ADDRESS, that it changed its state or whose it is.
    pub fn device(self, name: &str) -> Result<Self, QueryError> {
        self.with(terms::device, name)
    }

    /// An action, as `slice.approve`; `slice` is all those of slices.
    pub fn action(self, name: &str) -> Result<Self, QueryError> {
        self.with(terms::action, name)
    }

    /// `allowed`, `refused` or `observed`.
    pub fn outcome(self, name: &str) -> Result<Self, QueryError> {
        match OUTCOMES.contains(&name) {
            true => self.with(terms::outcome, name),
            false => Err(QueryError::Outcome(name.chars().take(64).collect())),
        }
    }

    /// Of one call.
    pub fn request(self, id: &str) -> Result<Self, QueryError> {
        self.with(terms::request, id)
    }

    /// All of these words are in it, wherever.
    pub fn text(mut self, text: &str) -> Result<Self, QueryError> {
        bounded(text)?;
        let words: Vec<String> = terms::words(text).collect();
        if words.is_empty() {
            return Err(QueryError::Words(text.escape_debug().take(64).collect()));
        }
        self.terms.extend(words);
        Ok(self)
    }

    /// From then on, and before then. Times are those in the entries.
    pub fn between(mut self, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Self, QueryError> {
        match (since, until) {
            (Some(since), Some(until)) if since >= until => Err(QueryError::Times { since, until }),
            _ => {
                (self.since, self.until) = (since, until);
                Ok(self)
            }
        }
    }

    fn with(mut self, term: fn(&str) -> String, text: &str) -> Result<Self, QueryError> {
        bounded(text)?;
        self.terms.push(term(text));
        Ok(self)
    }

    /// What the index is asked for.
    pub(super) fn terms(&self) -> &[String] {
        &self.terms
    }

    /// Whether it is what was asked for: the last word on an entry that was read.
    pub fn takes(&self, entry: &Entry) -> bool {
        let in_time = self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until);
        // Nothing is taken apart where nothing is looked for.
        in_time
            && (self.terms.is_empty() || {
                let mut missing: Vec<&String> = self.terms.iter().collect();
                terms::of(entry, &mut |term| missing.retain(|wanted| **wanted != term));
                missing.is_empty()
            })
    }

    /// Whether entries of these times, ms since 1970, may be in time.
    pub(super) fn overlaps(&self, (first, last): (i64, i64)) -> bool {
        self.since.is_none_or(|since| last >= since.as_millisecond())
            && self.until.is_none_or(|until| first <= until.as_millisecond())
    }

    /// The entries that are looked at, of a log of this size.
    pub(super) fn range(&self, size: u64) -> Range<u64> {
        match (self.oldest_first, self.from) {
            (true, from) => from.unwrap_or(0).min(size)..size,
            (false, None) => 0..size,
            (false, Some(from)) => 0..from.saturating_add(1).min(size),
        }
    }

    /// Nothing is asked for that was before then.
    pub fn is_after(&self, time: Timestamp) -> bool {
        self.since.is_some_and(|since| since >= time)
    }

    /// In the order asked for.
    pub(super) fn ordered<T>(&self, range: Range<T>) -> Box<dyn Iterator<Item = T>>
    where
        Range<T>: DoubleEndedIterator<Item = T> + 'static,
    {
        if self.oldest_first { Box::new(range) } else { Box::new(range.rev()) }
    }
}

fn bounded(text: &str) -> Result<(), QueryError> {
    if text.len() > TEXT { Err(QueryError::Long(text.len())) } else { Ok(()) }
}
