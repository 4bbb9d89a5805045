//! The one writer: a change and its log entry become durable together, or neither happens.
//!
//! ```text
//!   closure(&State) ──▶ changes + entry ──▶ the next batch          one decides at a time, on what was decided before
//!                                               │
//!                                               ▼                   one thread writes, batch after batch ([`write`])
//!                       log: entries under one signed checkpoint, one sync
//!                                               │
//!                                               ▼
//!                       state in memory, callers answered, effects released
//! ```
//!
//! While a batch is written the next one is decided: on what will be so when the one before is durable. Where that fails
//! nobody of either was answered, and all that was decided meanwhile is decided no more. Who waits for the disk holds a
//! task ([`Pending::durable`]) or a thread ([`Ledger::commit`]), and nobody who reads the log or lays it down holds up who
//! writes it.
//!
//! An entry holds its changes, so the log is all that must be durable: the store follows it ([`follow`]), and a kill at any
//! point leaves nothing to be made good but that. What is before an entry may go when all that there is was written down anew
//! after it ([`retain`]).

mod follow;
mod next;
pub mod retain;
mod room;
mod write;

pub use follow::{Standing, compare, replay};
pub use write::Pending;

use crate::audit::{Hash, Log, LogError, View};
use crate::domain::{Change, Refusal, RefusalKind, State};
use crate::store::{Applied, Store, StoreError};
use follow::Follower;
use holm_proto::ids::RequestId;
use jiff::Timestamp;
use next::Head;
use room::Room;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use write::{Shared, Writes};

/// Who wants what: the head of a log entry, known before anything is decided.
#[derive(Debug, Clone)]
pub struct Call {
    /// Of this call.
    pub request: RequestId,
    /// `person/NAME`, `host/NAME`, `holmd` or `unknown`.
    pub actor: String,
    /// Socket address, or empty.
    pub peer: String,
    /// As `slice.approve`.
    pub action: &'static str,
    /// As `slice/heart/main`.
    pub resource: String,
    /// The project it concerns.
    pub project: Option<String>,
    /// By the clock of who says it, where that is another.
    pub source_time: Option<Timestamp>,
}

impl Call {
    /// A call of holmd's own.
    pub fn own(action: &'static str, resource: String) -> Self {
        Self {
            request: RequestId::new_v4(),
            actor: "holmd".to_owned(),
            peer: String::new(),
            action,
            resource,
            project: None,
            source_time: None,
        }
    }
}

/// What a closure decided: changes, what the log says of them, and what the caller gets.
#[derive(Debug)]
pub struct Decided<T> {
    /// May be none: then only the entry is written.
    pub changes: Vec<Change>,
    /// More for the log. Never a secret.
    pub detail: serde_json::Value,
    /// Which rules spoke.
    pub reasons: Vec<String>,
    /// NAME/VERSION of the policy pack, where one was asked.
    pub pack: Option<String>,
    /// For the caller.
    pub value: T,
}

impl<T> Decided<T> {
    /// Changes and a value, nothing more to say.
    pub fn new(changes: Vec<Change>, value: T) -> Self {
        Self { changes, detail: serde_json::Value::Null, reasons: Vec::new(), pack: None, value }
    }
}

/// Why a ledger does not open.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LedgerError {
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    #[error("the log cannot be opened")]
    Log(#[from] LogError),
    #[error(
        "the store knows {store} entries, and the log has {log}: it was restored from an older copy, or cut short"
    )]
    Ahead { store: u64, log: u64 },
    #[error(
        "the first {size} entries of the log are not those that the store knows: one of them is another log's"
    )]
    Differs { size: u64 },
    #[error("the store is not what the log says: it is another log's, or was changed")]
    Other,
    #[error("the thread that follows the log cannot be started")]
    Thread(#[source] std::io::Error),
    #[error("entry {index} of the log cannot be read")]
    Entry { index: u64, source: serde_json::Error },
}

/// The state, and the only way to change it.
pub struct Ledger {
    shared: Arc<Shared>,
    /// With it what is decided is written.
    writes: Writes,
    /// So many entries are in the store.
    stored: Arc<AtomicU64>,
    /// On the disk; absent: as much as is wanted.
    room: OnceLock<Room>,
    clock: fn() -> Timestamp,
}

impl Ledger {
    /// Open: the store reads from the log what it lacks.
    pub fn open(store: Box<dyn Store>, log: Log, clock: fn() -> Timestamp) -> Result<Self, LedgerError> {
        let state = follow::catch_up(store.as_ref(), &log)?;
        let shared = Arc::new(Shared::new(state, log));
        let follower = Follower::start(Arc::clone(&shared.writer), store).map_err(LedgerError::Thread)?;
        let stored = follower.stored();
        let writes = Writes::start(Arc::clone(&shared), follower).map_err(LedgerError::Thread)?;
        Ok(Self { shared, writes, stored, room: OnceLock::new(), clock })
    }

    /// From now on people begin nothing new where less than so many bytes are free where this directory lies.
    pub fn keep_free(&self, dir: &Path, least: u64) {
        let _ = self.room.set(Room::new(dir.to_path_buf(), least));
    }

    /// The bytes that are free, where those are too few.
    pub fn short(&self) -> Option<u64> {
        self.room.get().and_then(Room::short)
    }

    /// Whether a change by this call would find room. [`Self::decide`] asks by itself; this is for who only tries.
    pub fn admits(&self, call: &Call) -> Result<(), Refusal> {
        self.room.get().map_or(Ok(()), |room| room.admits(call))
    }

    /// The state now. Cheap; does not change under the reader.
    pub fn state(&self) -> Arc<State> {
        self.shared.state()
    }

    /// Says the log's size after each commit.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.subscribe()
    }

    /// Now, as this ledger sees it.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Decide, make durable, apply. A refusal is an entry as well. Blocks on the disk.
    pub fn commit<T>(
        &self,
        call: &Call,
        decide: impl FnOnce(&State, Timestamp) -> Result<Decided<T>, Refusal>,
    ) -> Result<T, Refusal> {
        self.decide(call, decide)?.wait()
    }

    /// As [`Self::commit`], without waiting for the disk: nobody may be told until [`Pending`] is awaited.
    pub fn decide<T>(
        &self,
        call: &Call,
        decide: impl FnOnce(&State, Timestamp) -> Result<Decided<T>, Refusal>,
    ) -> Result<Pending<T>, Refusal> {
        let (mut next, now) = (self.shared.next()?, self.now());
        let decided = decide(&next.state, now).and_then(|decided| match decided.changes.is_empty() {
            false => self.admits(call).map(|()| decided),
            true => Ok(decided),
        });
        let (head, changes, answer) = match decided {
            Ok(decided) => {
                let head = Head::of(call, decided.reasons, decided.pack, decided.detail);
                (head, decided.changes, Ok(decided.value))
            }
            Err(refusal) => {
                let (reasons, pack) = (refusal.reasons.clone(), refusal.pack.clone());
                let head = Head { outcome: "refused", reasons, pack, detail: serde_json::Value::Null };
                (head, Vec::new(), Err(refusal))
            }
        };
        let batch = next.add(call, head, changes, now)?;
        self.shared.added(next);
        Ok(Pending::new(answer, batch))
    }

    /// An entry that changes nothing: that something was seen or done.
    pub fn note(&self, call: &Call, detail: serde_json::Value) -> Result<(), Refusal> {
        self.commit(call, |_, _| Ok(Decided { detail, ..Decided::new(Vec::new(), ()) }))
    }

    /// As [`Self::commit`], for what holmd does by itself: `None` means there is nothing to do, and
    /// nothing is written.
    pub fn commit_if(
        &self,
        call: &Call,
        decide: impl FnOnce(&State, Timestamp) -> Option<Decided<()>>,
    ) -> Result<bool, Refusal> {
        let (mut next, now) = (self.shared.next()?, self.now());
        let Some(decided) = decide(&next.state, now) else {
            let found_on = next.pending();
            drop(next);
            return found_on.map_or(Ok(false), |batch| Pending::new(Ok(false), batch).wait());
        };
        let head = Head::of(call, decided.reasons, decided.pack, decided.detail);
        let batch = next.add(call, head, decided.changes, now)?;
        self.shared.added(next);
        Pending::new(Ok(true), batch).wait()
    }

    /// Note that somebody was refused before anything could be decided.
    pub fn refused(&self, call: &Call, reason: &str) {
        let refusal = Refusal::new(RefusalKind::Denied, reason);
        match self.commit::<()>(call, |_, _| Err(refusal)) {
            Err(failure) if failure.kind == RefusalKind::Unavailable => {
                tracing::error!(
                    actor = call.actor,
                    peer = call.peer,
                    reason,
                    "refused, which is in no log: {failure}"
                );
            }
            Err(failure) => tracing::info!(actor = call.actor, peer = call.peer, "refused: {failure}"),
            Ok(()) => {}
        }
    }

    /// The log as it is now, to be read. Cheap; does not change under the reader, and holds up nobody.
    pub fn log(&self) -> Arc<View> {
        self.shared.view()
    }

    /// The signed checkpoint.
    pub fn checkpoint(&self) -> String {
        self.log().checkpoint().to_owned()
    }

    /// Entries as they were hashed.
    pub fn entries(&self, start: u64, end: u64) -> Result<Vec<Vec<u8>>, LogError> {
        retain::read(self, start, end)
    }

    /// The signed checkpoint, and the proof that the log begins with what it was at size `old`.
    pub fn extension(&self, old: u64) -> Result<(String, Vec<Hash>), LogError> {
        let log = self.log();
        Ok((log.checkpoint().to_owned(), log.consistency(old)?))
    }

    /// How many batches were written since it was opened.
    pub fn batches(&self) -> u64 {
        self.shared.writer().batches
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.log().size()
    }

    /// The proof that an entry is in the log as it was at `size`.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        self.log().inclusion_in(index, size)
    }

    /// The root over all entries that there were at `size`.
    pub fn root_at(&self, size: u64) -> Result<Hash, LogError> {
        self.log().root_at(size)
    }

    /// The log's hash over 65,536 entries, as an index of it is known by.
    pub fn over(&self, part: u64) -> Result<Hash, LogError> {
        self.log().over(part)
    }

    #[cfg(test)]
    fn faults(&self) -> crate::audit::faults::Faults {
        self.shared.writer().log.faults().clone()
    }
}

impl Drop for Ledger {
    /// What was decided is written, and followed.
    fn drop(&mut self) {
        self.shared.close();
        self.writes.join();
    }
}

fn not_durable(why: &str) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, format!("nothing happens while it cannot be logged: {why}"))
        .hint("tell an operator: free space on holmd's disk, then restart holmd")
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
