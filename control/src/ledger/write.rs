//! One thread makes durable what is decided, batch after batch.
//!
//! ```text
//!          decided ──▶ batch ──▶ taken ──▶ written, synced ──▶ state and view ──▶ those are woken whose it is
//!                        ▲                       │
//!                        └── filled meanwhile ◀──┘
//! ```
//!
//! It sleeps only where nothing is decided, and is woken only then.

use super::follow::Follower;
use super::next::{Batch, Next};
use super::{chain, not_durable};
use crate::audit::{Log, Unflushed, View};
use crate::domain::{Change, Refusal, State};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::{Notify, watch};

/// What is said of a write that was not ended: a panic in the middle of it.
const BEGUN: &str =
    "a write was begun and not ended: it may still take effect after a restart, so look before you ask again";

/// What deciding, writing and reading have in common.
pub(super) struct Shared {
    /// Held while somebody decides.
    next: Mutex<Next>,
    /// There is something to be written, or there will be nothing any more.
    due: Condvar,
    /// Held while a batch becomes durable. Who needs both has this one first.
    pub(super) writer: Arc<Mutex<Writer>>,
    /// The log as it was when the last batch was durable.
    view: RwLock<Arc<View>>,
    state: RwLock<Arc<State>>,
    changed: watch::Sender<u64>,
}

pub(super) struct Writer {
    pub(super) log: Log,
    /// Durable in the log, and not in the store yet.
    pub(super) changes: Vec<Change>,
    pub(super) batches: u64,
}

/// What those wait for whose changes are in a batch.
#[derive(Default)]
pub(super) struct Writing {
    /// What became of it.
    outcome: OnceLock<Result<(), String>>,
    /// For tasks; threads wait for the outcome itself.
    ended: Notify,
}

/// What was decided and is not durable yet.
#[must_use = "nobody may be told before it is durable"]
pub struct Pending<T> {
    answer: Result<T, Refusal>,
    batch: Arc<Writing>,
}

impl Writing {
    pub(super) fn end(&self, outcome: Result<(), String>) {
        let _ = self.outcome.set(outcome);
        self.ended.notify_waiters();
    }
}

impl<T> Pending<T> {
    pub(super) const fn new(answer: Result<T, Refusal>, batch: Arc<Writing>) -> Self {
        Self { answer, batch }
    }

    /// The answer, when it is durable. Blocks this thread.
    pub fn wait(self) -> Result<T, Refusal> {
        self.batch.outcome.wait().as_ref().map_err(|why| not_durable(why))?;
        self.answer
    }

    /// The answer, when it is durable. It becomes so whether or not this is awaited.
    pub async fn durable(self) -> Result<T, Refusal> {
        let batch = Arc::clone(&self.batch);
        // Made before the look: what ends in between wakes it.
        let ended = batch.ended.notified();
        if batch.outcome.get().is_none() {
            ended.await;
        }
        self.wait()
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Shared {
    /// All that this log has is durable.
    pub(super) fn new(state: State, log: Log) -> Self {
        Self {
            next: Mutex::new(Next::new(state.clone(), log.size())),
            due: Condvar::new(),
            view: RwLock::new(log.view()),
            state: RwLock::new(Arc::new(state)),
            changed: watch::channel(log.size()).0,
            writer: Arc::new(Mutex::new(Writer { log, changes: Vec::new(), batches: 0 })),
        }
    }

    pub(super) fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To decide on. Everything is refused where the log cannot be written: audit before effect.
    pub(super) fn next(&self) -> Result<MutexGuard<'_, Next>, Refusal> {
        let next = self.decided();
        match &next.stuck {
            Some(why) => Err(not_durable(why)),
            None => Ok(next),
        }
    }

    pub(super) fn decided(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was decided: it is written, at once or after what is being written.
    pub(super) fn added(&self, next: MutexGuard<'_, Next>) {
        let sleeps = next.writing.is_none();
        drop(next);
        if sleeps {
            self.due.notify_one();
        }
    }

    /// Nothing more is decided.
    pub(super) fn close(&self) {
        self.decided().closed = true;
        self.due.notify_one();
    }

    /// What is to be written next; `None`: nothing ever.
    fn take(&self) -> Option<Batch> {
        let mut next = self.decided();
        next.writing = None;
        while next.batch.entries.is_empty() {
            if next.closed {
                return None;
            }
            next = self.due.wait(next).unwrap_or_else(PoisonError::into_inner);
        }
        next.writing = Some(Arc::clone(&next.batch.writing));
        Some(std::mem::take(&mut next.batch))
    }

    fn write(&self, batch: Batch, follower: &Follower) -> Result<(), String> {
        let mut writer = self.writer();
        let Batch { changes, entries, .. } = batch;
        let before = writer.log.unflushed();
        let done = match writer.log.append(&entries) {
            Ok(()) => {
                // What follows has them whatever becomes of publishing them.
                let from = writer.changes.len();
                writer.changes.extend(changes);
                writer.batches += 1;
                self.publish(writer.changes.get(from..).unwrap_or_default(), writer.log.view());
                Ok(())
            }
            Err(failure) => {
                let mut text = format!("the log failed: {}", chain(&failure));
                let doubtful = writer.log.is_doubtful();
                if doubtful {
                    text.push_str("; it may still take effect after a restart: look before you ask again");
                }
                tracing::error!("{text}");
                let mut next = self.decided();
                // What was decided on it meanwhile was decided on what is not so.
                next.stuck = Some(text.clone());
                next.give_up();
                if !doubtful {
                    // Nothing of it is anywhere.
                    next.stuck = None;
                }
                (next.state, next.size, next.writing) =
                    (State::clone(&self.state()), writer.log.size(), None);
                Err(text)
            }
        };
        let waits = writer.log.unflushed();
        if waits != before || (waits == Unflushed::Nothing && !writer.changes.is_empty()) {
            follower.wake(waits);
        }
        done
    }

    /// Nobody knows what is on the disk, and what was decided on it may not be so.
    fn broken(&self) -> String {
        let mut next = self.decided();
        next.stuck = Some(BEGUN.to_owned());
        next.give_up();
        BEGUN.to_owned()
    }

    fn publish(&self, changes: &[Change], log: Arc<View>) {
        let size = log.size();
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = log;
        if !changes.is_empty() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            Arc::make_mut(&mut state).apply(changes);
        }
        self.changed.send_replace(size);
    }
}

/// Where the thread ends otherwise than it should, nobody waits for it for ever.
struct Ends<'a>(&'a Shared);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let why = self.0.broken();
        if let Some(writing) = self.0.decided().writing.take() {
            writing.end(Err(why));
        }
    }
}

/// The thread that writes, and after it the one that follows.
pub(super) struct Writes(Option<JoinHandle<()>>);

impl Writes {
    pub(super) fn start(shared: Arc<Shared>, follower: Follower) -> std::io::Result<Self> {
        let run = move || {
            let _ends = Ends(&shared);
            while let Some(batch) = shared.take() {
                let writing = Arc::clone(&batch.writing);
                let written = catch_unwind(AssertUnwindSafe(|| shared.write(batch, &follower)));
                writing.end(written.unwrap_or_else(|_| Err(shared.broken())));
            }
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(run).map(|thread| Self(Some(thread)))
    }

    /// After it was closed: until all is written.
    pub(super) fn join(&mut self) {
        let _ = self.0.take().map(JoinHandle::join);
    }
}
