//! The store and the log's directory follow what was appended: nobody waits for either.
//!
//! ```text
//!   append ──▶ journal, synced ──▶ answered
//!                 │
//!                 └── within a second, or when it is half full ──▶ directory of the log: tiles, checkpoint
//!                                                             └──▶ store: records, and up to where they are so
//! ```
//!
//! Opening reads from the log what the store lacks. So a store that was restored from an older copy catches up; one that
//! knows another log's past, or more than the log, is refused.

use super::write::Writer;
use super::{Applied, LedgerError, chain};
use crate::audit::{Entry, Flush, Log, LogError, Unflushed};
use crate::domain::{Change, Record, State, retention};
use crate::store::Store;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// So long the directory and the store may be behind: a copy of them is as old.
const DELAY: Duration = Duration::from_secs(1);
/// Changes that wait for a store that fails; what is beyond them it reads from the log at the next start.
const WAITING_MAX: usize = 100_000;
/// Entries that are read from the log at once.
const AT_ONCE: usize = 4096;

/// How a store stands to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is what the log says.
    Same,
    /// It is what the log said so many entries ago; opening reads them.
    Behind(u64),
    /// It is not what the log says.
    Other,
}

/// Compare a store with the log, record by record.
pub fn compare(store: &dyn Store, log: &Log) -> Result<Standing, LedgerError> {
    let (said, found) = (store.applied()?, sorted(store.records()?).records());
    if said.is_none() && found.is_empty() && log.size() > 0 {
        return Ok(Standing::Behind(log.size()));
    }
    let then = said.unwrap_or_else(|| Applied::of(log));
    belongs(then, log)?;
    let first = log.first()?;
    let state = if then.size < first { State::default() } else { replayed(log, first, then.size)? };
    let same = match retention::first(&state) >= first {
        true => found == state.records(),
        // What it was then nobody knows any more: what it becomes is compared.
        false if then.size < first => {
            replay(log)?;
            return Ok(Standing::Behind(log.size() - then.size));
        }
        false => {
            let mut becomes = sorted(found);
            each_change(log, then.size..log.size(), |change| becomes.apply(&[change]))?;
            becomes.records() == replay(log)?
        }
    };
    Ok(match same {
        true if then.size == log.size() => Standing::Same,
        true => Standing::Behind(log.size() - then.size),
        false => Standing::Other,
    })
}

/// Replay a log into records: what a store must hold. Of one that lacks its beginning, what it was then is written down anew in
/// what is there.
pub fn replay(log: &Log) -> Result<Vec<Record>, LedgerError> {
    let state = replayed(log, log.first()?, log.size())?;
    log.begins_by(retention::first(&state))?;
    Ok(state.records())
}

/// The state, when the store has what it lacked.
pub(super) fn catch_up(store: &dyn Store, log: &Log) -> Result<State, LedgerError> {
    let now = Applied::of(log);
    match store.applied()? {
        Some(then) => {
            belongs(then, log)?;
            if then.size < log.first()? {
                store.replace(&replay(log)?, now)?;
            } else if then.size < now.size {
                let mut changes = Vec::new();
                each_change(log, then.size..now.size, |change| changes.push(change))?;
                store.apply(&changes, now)?;
            }
        }
        // A new one, or one that does not say how far it is: it must be all that the log says.
        None => {
            let (found, said) = (store.records()?, replay(log)?);
            if !found.is_empty() && sorted(found).records() != said {
                return Err(LedgerError::Other);
            }
            store.replace(&said, now)?;
        }
    }
    let state = sorted(store.records()?);
    log.begins_by(retention::first(&state))?;
    Ok(state)
}

/// Whether the log had this root at this size.
fn belongs(then: Applied, log: &Log) -> Result<(), LedgerError> {
    if then.size > log.size() {
        return Err(LedgerError::Ahead { store: then.size, log: log.size() });
    }
    match log.root_at(then.size)? == then.root {
        true => Ok(()),
        false => Err(LedgerError::Differs { size: then.size }),
    }
}

fn sorted(records: Vec<Record>) -> State {
    let mut state = State::default();
    records.into_iter().for_each(|record| state.apply(&[Change::Put(record)]));
    state
}

/// What these entries say.
fn replayed(log: &Log, first: u64, end: u64) -> Result<State, LedgerError> {
    let mut state = State::default();
    each_change(log, first..end, |change| state.apply(&[change]))?;
    Ok(state)
}

fn each_change(
    log: &Log,
    entries: std::ops::Range<u64>,
    mut each: impl FnMut(Change),
) -> Result<(), LedgerError> {
    for start in entries.clone().step_by(AT_ONCE) {
        let end = entries.end.min(start + AT_ONCE as u64);
        for (index, body) in (start..).zip(log.read(start, end)?) {
            let unreadable = |source| LedgerError::Entry { index, source };
            let entry = Entry::from_bytes(&body).map_err(unreadable)?;
            for change in entry.changes {
                each(serde_json::from_value(change).map_err(unreadable)?);
            }
        }
    }
    Ok(())
}

/// The thread that follows. With it goes what is left to be done.
pub(super) struct Follower {
    /// So many entries are in the store.
    stored: Arc<AtomicU64>,
    wake: Option<Sender<Unflushed>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// The store has all of the log.
    pub(super) fn start(writer: Arc<Mutex<Writer>>, store: Box<dyn Store>) -> std::io::Result<Self> {
        let (wake, woken) = channel();
        let size = writer.lock().unwrap_or_else(PoisonError::into_inner).log.size();
        let stored = Arc::new(AtomicU64::new(size));
        let seen = Arc::clone(&stored);
        let mut follow =
            Follow { writer, store, stored: seen, waiting: Vec::new(), lost: false, said: false };
        let thread =
            std::thread::Builder::new().name("ledger".to_owned()).spawn(move || follow.run(&woken))?;
        Ok(Self { stored, wake: Some(wake), thread: Some(thread) })
    }

    /// How many entries the store has, now and later.
    pub(super) fn stored(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.stored)
    }

    /// So much waits.
    pub(super) fn wake(&self, waits: Unflushed) {
        // Where the thread is gone, an append makes room by itself.
        let _ = self.wake.as_ref().map(|wake| wake.send(waits));
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.wake = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Follow {
    writer: Arc<Mutex<Writer>>,
    store: Box<dyn Store>,
    stored: Arc<AtomicU64>,
    /// For the store.
    waiting: Vec<Change>,
    /// It lacks something that does not wait for it any more.
    lost: bool,
    /// It was said that something fails.
    said: bool,
}

impl Follow {
    fn run(&mut self, woken: &Receiver<Unflushed>) {
        let mut left = Unflushed::Nothing;
        loop {
            let mut waits = match left {
                Unflushed::Nothing => woken.recv().map_err(|_| RecvTimeoutError::Disconnected),
                some => Ok(some),
            };
            let until = Instant::now() + DELAY;
            while waits.is_ok_and(|waits| waits < Unflushed::Much) {
                waits = woken.recv_timeout(until.saturating_duration_since(Instant::now()));
            }
            // Whatever it was: without this thread nothing would be laid down any more.
            let followed = catch_unwind(AssertUnwindSafe(|| self.follow()));
            let failure = followed.unwrap_or_else(|_| Err("it panicked".to_owned())).err();
            left = match failure {
                // What came meanwhile: nobody says of it that there is something.
                None => self.writer().log.unflushed(),
                Some(_) => Unflushed::Some,
            };
            let failed = failure.is_some();
            if let Some(failure) = failure.filter(|_| !self.said) {
                tracing::error!(
                    "what is logged is safe, but the store or the log's directory is behind: {failure}"
                );
            }
            self.said = failed;
            if waits == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&mut self) -> Result<(), String> {
        let mut changes = Vec::new();
        let (now, flush) = {
            let mut writer = self.writer();
            std::mem::swap(&mut changes, &mut writer.changes);
            (Applied::of(&writer.log), writer.log.to_flush())
        };
        self.waiting.append(&mut changes);
        let flushed = flush.and_then(Flush::run);
        // Of a write in doubt who was to write it says more.
        let flushed = match flushed {
            Ok(()) | Err(LogError::Doubtful) => Ok(()),
            Err(failure) => Err(format!("the log cannot be laid down: {}", chain(&failure))),
        };
        self.lost |= self.waiting.len() > WAITING_MAX;
        if self.lost {
            self.waiting.clear();
            return flushed;
        }
        let stored = catch_unwind(AssertUnwindSafe(|| {
            self.store.apply(&self.waiting, now)?;
            self.store.flush()
        }));
        match stored {
            Ok(Ok(())) => {
                self.waiting.clear();
                self.stored.store(now.size, Ordering::Release);
            }
            Ok(Err(failure)) => return Err(chain(&failure)),
            Err(_) => {
                self.lost = true;
                return Err("the store panicked, and is left alone until the next start".to_owned());
            }
        }
        flushed
    }
}
