//! Old entries go, and all that can be known of the state stays.
//!
//! ```text
//!   past their days, at the front ──▶ log.carry: each record as it is ──▶ log.expire: first ──▶ bundles are removed
//!                                     (who changes one meanwhile           │
//!                                      writes it down herself)             └─ durable, in the directory, in the store
//! ```
//!
//! What is after `first` says by itself what the state is: a record was carried behind it, or changed there. A kill before
//! `log.expire` leaves entries that do no harm, one after it files that the next start removes.

use super::{Call, Decided, Ledger};
use crate::audit::{CARRY, EXPIRE, Entry, Hash, LogError, told};
use crate::domain::retention::{self, Kept, Terms};
use crate::domain::{Record, Refusal, State};
use serde_json::json;
use std::sync::atomic::Ordering;

/// Bytes of records that are carried in one entry: more only where a record by itself has more.
const CARRIED: usize = 24 * 1024;
/// Entries that are read at once: as many as lie in one file.
const AT_ONCE: u64 = 256;

/// Why nothing went.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RetainError {
    #[error("the log cannot be read, or nothing of it removed")]
    Log(#[from] LogError),
    #[error("entry {index} of the log cannot be read")]
    Entry { index: u64, source: serde_json::Error },
    #[error("a record cannot be written")]
    Record(#[source] serde_json::Error),
    #[error("it cannot be logged: {0}")]
    Refused(Refusal),
    #[error(
        "the state says that the entries before {first} may go, and no `log.expire` in the log does: the store was \
         changed. stop holmd, find out by whom, then: holmd rebuild"
    )]
    Unsaid { first: u64 },
}

/// Sees to it that entries go when their time is over.
#[derive(Debug)]
pub struct Keeper {
    /// Entries that go together.
    segment: u64,
    /// What came of the last look: the first entry that was not past, by these terms.
    next: u64,
    terms: Option<Terms>,
    /// Entries that the log must have in its directory and in the store before anything is removed.
    logged: u64,
    /// What is before this one is removed.
    removed: u64,
}

impl Keeper {
    /// Nothing was looked at yet.
    pub const fn new(segment: u64) -> Self {
        Self { segment, next: 0, terms: None, logged: 0, removed: 0 }
    }

    #[cfg(test)]
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether all is done that is to be done now. `terms` of a state; `None`: nothing goes now.
    pub fn look(
        &mut self,
        ledger: &Ledger,
        terms: impl Fn(&State) -> Option<Terms>,
    ) -> Result<bool, RetainError> {
        if !self.remove(ledger)? {
            return Ok(false);
        }
        let Some(now) = terms(&ledger.state()).filter(|now| !now.keep_all()) else {
            // By what clock it was looked before, nobody knows.
            self.terms = None;
            return Ok(true);
        };
        let first = retention::whole(self.past(ledger, &now)?, self.segment);
        if first <= ledger.first() {
            return Ok(true);
        }
        carry(ledger)?;
        let call = Call::own(EXPIRE, "log".to_owned());
        let begun = ledger.commit_if(&call, |state, at| {
            // Somebody may have put another pack in force, or a project on hold.
            terms(state).filter(|then| *then == now)?;
            let changes = retention::begin_at(state, first, at)?;
            let (levels, others) = now.days();
            let detail = json!({
                "first": first,
                "before": retention::first(state),
                "days": levels,
                "days_of_no_project": others,
            });
            let pack = Some(now.pack().to_owned());
            Some(Decided { detail, pack, ..Decided::new(changes, ()) })
        });
        if begun.map_err(RetainError::Refused)? {
            self.logged = ledger.size();
        }
        self.remove(ledger)
    }

    /// Removes what may be gone; false where that must wait.
    fn remove(&mut self, ledger: &Ledger) -> Result<bool, RetainError> {
        let first = ledger.first();
        if self.removed < first {
            if ledger.log().first()? < first && !is_said(ledger, first)? {
                return Err(RetainError::Unsaid { first });
            }
            if !ledger.expire(first, self.logged)? {
                return Ok(false);
            }
            self.removed = first;
        }
        Ok(true)
    }

    /// The first entry that is not past, from where it was the last time.
    fn past(&mut self, ledger: &Ledger, terms: &Terms) -> Result<u64, RetainError> {
        if self.terms.as_ref() != Some(terms) {
            (self.next, self.terms) = (0, Some(terms.clone()));
        }
        let (now, size) = (ledger.now(), ledger.size());
        self.next = self.next.max(ledger.first());
        while self.next < size {
            let end = (self.next / AT_ONCE + 1).saturating_mul(AT_ONCE).min(size);
            for (index, body) in (self.next..).zip(ledger.entries(self.next, end)?) {
                let entry =
                    Entry::from_bytes(&body).map_err(|source| RetainError::Entry { index, source })?;
                let (level, project) = (entry.level.as_deref(), entry.project.as_deref());
                if !terms.is_past(Kept { time: entry.time, level, project }, now) {
                    return Ok(self.next);
                }
                self.next = index + 1;
            }
        }
        Ok(self.next)
    }
}

/// The log itself says so: the state is made from a store, which nobody signs.
fn is_said(ledger: &Ledger, first: u64) -> Result<bool, RetainError> {
    let mut end = ledger.size();
    while end > first {
        let start = end.saturating_sub(AT_ONCE).max(first);
        for (index, body) in (start..).zip(ledger.entries(start, end)?) {
            let entry = Entry::from_bytes(&body).map_err(|source| RetainError::Entry { index, source })?;
            if told(&entry).is_some_and(|told| told.first >= first) {
                return Ok(true);
            }
        }
        end = start;
    }
    Ok(false)
}

/// Every record as it is, written down anew: none is lost with the entries that made it so.
fn carry(ledger: &Ledger) -> Result<(), RetainError> {
    let records = ledger.state().records();
    let mut rest = records.as_slice();
    while !rest.is_empty() {
        let (mut bytes, mut many) = (0, 0);
        for record in rest {
            bytes += serde_json::to_vec(record).map_err(RetainError::Record)?.len();
            if many > 0 && bytes > CARRIED {
                break;
            }
            many += 1;
        }
        let (now, later) = rest.split_at(many);
        write(ledger, now).map_err(RetainError::Refused)?;
        rest = later;
    }
    Ok(())
}

/// Those of them that are as they were. What somebody else changed is in the log by itself, behind what goes.
fn write(ledger: &Ledger, records: &[Record]) -> Result<bool, Refusal> {
    ledger.commit_if(&Call::own(CARRY, "log".to_owned()), |state, _| {
        let changes = retention::unchanged(state, records);
        (!changes.is_empty()).then(|| Decided::new(changes, ()))
    })
}

/// As [`Ledger::entries`]: of those that are gone it says so.
pub(super) fn read(ledger: &Ledger, start: u64, end: u64) -> Result<Vec<Vec<u8>>, LogError> {
    let gone = |first: u64| start < end && start < first;
    let first = ledger.first();
    if gone(first) {
        return Err(LogError::Expired { first });
    }
    // They may go while they are read.
    ledger.log().read(start, end).map_err(|failure| match ledger.first() {
        first if gone(first) => LogError::Expired { first },
        _ => failure,
    })
}

impl Ledger {
    /// The first entry that is kept. Those before it are gone, or about to be.
    pub fn first(&self) -> u64 {
        retention::first(&self.state())
    }

    /// The hashes of entries, also of those that are gone.
    pub fn leaves(&self, start: u64, end: u64) -> Result<Vec<Hash>, LogError> {
        self.log().leaves(start, end)
    }

    /// Remove what is before `first`, if directory and store have the log's first `size` entries, of which one says so.
    fn expire(&self, first: u64, size: u64) -> Result<bool, LogError> {
        let stored = self.stored.load(Ordering::Acquire);
        let expire =
            self.shared.writer().log.to_expire(first, size).filter(|_| stored >= size && stored >= first);
        expire.map_or(Ok(false), |expire| expire.run().map(|()| true))
    }
}
