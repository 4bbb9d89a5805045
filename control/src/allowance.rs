//! How much of what is refused becomes an entry of its own: a flood must neither fill the log nor keep others waiting.

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What somebody may cause.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// After that one more in this time.
    pub refill: SignedDuration,
    /// That some were dropped is said so often.
    pub said: SignedDuration,
}

/// What becomes of something that would be an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It is one.
    Yes,
    /// It is dropped. `say`: that so many were, since it was said last, is to be an entry.
    No {
        /// How many, where it is to be said.
        say: Option<u64>,
    },
}

/// What one of them may still cause.
#[derive(Debug)]
pub struct Allowance {
    rate: Rate,
    pub(crate) left: u32,
    /// `left` counts up to then.
    at: Timestamp,
    dropped: u64,
    said: Option<Timestamp>,
}

impl Allowance {
    /// All of it.
    pub fn new(rate: Rate, now: Timestamp) -> Self {
        Self { rate, left: rate.burst, at: now, dropped: 0, said: None }
    }

    /// One is taken.
    pub fn take(&mut self, now: Timestamp) -> Admitted {
        self.fill(now);
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            return Admitted::Yes;
        }
        self.dropped = self.dropped.saturating_add(1);
        if self.said.is_some_and(|said| now.duration_since(said) < self.rate.said) {
            return Admitted::No { say: None };
        }
        self.said = Some(now);
        Admitted::No { say: Some(std::mem::take(&mut self.dropped)) }
    }

    /// Nothing of it is missing, or was given back by time.
    pub fn is_whole(&mut self, now: Timestamp) -> bool {
        self.fill(now);
        self.left >= self.rate.burst
    }

    /// It was none after all.
    fn give_back(&mut self) {
        self.left = self.left.saturating_add(1).min(self.rate.burst);
    }

    fn fill(&mut self, now: Timestamp) {
        let Rate { burst, refill, .. } = self.rate;
        // A clock that ran ahead and was set right: what it gave in advance is not waited for.
        self.at = self.at.min(now);
        self.said = self.said.filter(|said| *said <= now);
        let more = now.duration_since(self.at).as_secs().max(0) / refill.as_secs();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if self.left.saturating_add(more) >= burst {
            (self.left, self.at) = (burst, now);
        } else {
            self.left += more;
            // What is left of the time counts to the next.
            self.at = self.at.checked_add(refill * i32::try_from(more).unwrap_or(0)).unwrap_or(now);
        }
    }
}

/// Calls that are under way or were refused, of each certificate: one that was stolen takes nothing from the one that its
/// owner has since.
#[derive(Debug, Default)]
pub struct Callers(Mutex<BTreeMap<String, Allowance>>);

/// Who is refused so often has nothing to ask for.
const OF_CALLER: Rate =
    Rate { burst: 200, refill: SignedDuration::from_secs(2), said: SignedDuration::from_mins(1) };
/// So many are remembered; of those beyond, the ones that have all of theirs are forgotten.
const REMEMBERED: usize = 4096;

impl Callers {
    /// A call begins.
    pub fn begin(&self, certificate: &str, now: Timestamp) -> Admitted {
        if cfg!(fuzzing) {
            // What is made up is mostly refused, and is to be heard.
            return Admitted::Yes;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > REMEMBERED {
            all.retain(|_, allowance| {
                allowance.fill(now);
                allowance.left < allowance.rate.burst
            });
        }
        all.entry(certificate.to_owned()).or_insert_with(|| Allowance::new(OF_CALLER, now)).take(now)
    }

    /// It was not refused.
    pub fn answered(&self, certificate: &str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowance) = all.get_mut(certificate) {
            allowance.give_back();
        }
    }
}
