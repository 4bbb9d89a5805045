//! The one writer: a change and its log entry become durable together, or neither happens.
//!
//! ```text
//!   closure(&State) ──▶ changes + entry ──▶ the next batch          one decides at a time, on what was decided before
//!                                               │
//!                                               ▼                   who comes first writes for all who have decided:
//!                       log: entries under one signed checkpoint, one sync
//!                                               │
//!                                               ▼
//!                       state in memory, callers answered, effects released
//! ```
//!
//! While a batch is written the next one is decided: on what will be so when the one before is durable. Where that fails
//! nobody of either was answered, and all that was decided meanwhile is decided no more.
//!
//! ```text
//!   decided, in a batch ──▶ the first of it? ── yes ──▶ waits for who writes the batch before, takes this one, writes it
//!                                  │ no                       │
//!                                  └──▶ waits for hers ◀──────┘  woken: who writes the next one, then all of this one
//! ```
//!
//! Nobody else is woken, and nobody who reads the log or lays it down holds up who writes it.
//!
//! An entry holds its changes, so the log is all that must be durable: the store follows it ([`follow`]), and a kill at any
//! point leaves nothing to be made good but that. What is before an entry may go when all that there is was written down anew
//! after it ([`retain`]).

mod follow;
pub mod retain;
mod room;

pub use follow::{Standing, compare, replay};

use crate::audit::{Entry, Hash, Log, LogError, Unflushed, View};
use crate::domain::{Change, Record, Refusal, RefusalKind, State};
use crate::store::{Applied, Store, StoreError};
use follow::Follower;
use holm_proto::ids::RequestId;
use jiff::Timestamp;
use room::Room;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use tokio::sync::watch;

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
    /// Held while somebody decides.
    next: Mutex<Next>,
    /// Held while a batch becomes durable. Who needs both has this one first.
    writer: Arc<Mutex<Writer>>,
    follower: Follower,
    /// The log as it was when the last batch was durable.
    view: RwLock<Arc<View>>,
    state: RwLock<Arc<State>>,
    changed: watch::Sender<u64>,
    /// On the disk; absent: as much as is wanted.
    room: OnceLock<Room>,
    clock: fn() -> Timestamp,
}

/// What is decided.
struct Next {
    /// As it will be when all that is decided is durable.
    state: State,
    /// Entries that the log will have then.
    size: u64,
    batch: Batch,
    /// The batch that is being written; absent: none is.
    writing: Option<Arc<Writing>>,
    /// Nothing is decided any more, and why: what the log holds is known only after a restart.
    stuck: Option<String>,
}

/// What becomes durable together.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    entries: Vec<Vec<u8>>,
    writing: Arc<Writing>,
}

/// What those wait for whose changes are in a batch.
#[derive(Default)]
struct Writing {
    /// What became of it.
    outcome: OnceLock<Result<(), String>>,
    /// Who writes the next one may begin.
    ended: OnceLock<()>,
}

/// Who decided, on her way to what becomes of it.
struct Waits {
    batch: Arc<Writing>,
    /// She writes it, after this one.
    leads: Option<Option<Arc<Writing>>>,
}

struct Writer {
    log: Log,
    /// Durable in the log, and not in the store yet.
    changes: Vec<Change>,
    batches: u64,
}

/// What is said of a write that was not ended: a panic in the middle of it.
const BEGUN: &str =
    "a write was begun and not ended: it may still take effect after a restart, so look before you ask again";

impl Ledger {
    /// Open: the store reads from the log what it lacks.
    pub fn open(store: Box<dyn Store>, log: Log, clock: fn() -> Timestamp) -> Result<Self, LedgerError> {
        let state = follow::catch_up(store.as_ref(), &log)?;
        let view = RwLock::new(log.view());
        let (changed, _) = watch::channel(log.size());
        let (batch, writing) = (Batch::default(), None);
        let next = Next { state: state.clone(), size: log.size(), batch, writing, stuck: None };
        let writer = Arc::new(Mutex::new(Writer { log, changes: Vec::new(), batches: 0 }));
        let follower = Follower::start(Arc::clone(&writer), store).map_err(LedgerError::Thread)?;
        Ok(Self {
            next: Mutex::new(next),
            writer,
            follower,
            view,
            state: RwLock::new(Arc::new(state)),
            changed,
            room: OnceLock::new(),
            clock,
        })
    }

    /// From now on people begin nothing new where less than so many bytes are free where this directory lies.
    pub fn keep_free(&self, dir: &Path, least: u64) {
        let _ = self.room.set(Room::new(dir.to_path_buf(), least));
    }

    /// The bytes that are free, where those are too few.
    pub fn short(&self) -> Option<u64> {
        self.room.get().and_then(Room::short)
    }

    /// The state now. Cheap; does not change under the reader.
    pub fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says the log's size after each commit.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
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
        let (answer, waits) = {
            let (mut next, now) = (self.next()?, self.now());
            let decided = decide(&next.state, now).and_then(|decided| match self.room.get() {
                Some(room) if !decided.changes.is_empty() => room.admits(call).map(|()| decided),
                _ => Ok(decided),
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
            (answer, next.add(call, head, changes, now)?)
        };
        self.durable(waits)?;
        answer
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
        let waits = {
            let (mut next, now) = (self.next()?, self.now());
            let Some(decided) = decide(&next.state, now) else {
                // What that was found on is in the next batch, or in the one that is being written, or durable.
                let pending = (!next.batch.entries.is_empty()).then(|| Arc::clone(&next.batch.writing));
                let found_on = pending.or_else(|| next.writing.clone());
                drop(next);
                let found_on = found_on.map(|batch| Waits { batch, leads: None });
                return found_on.map_or(Ok(()), |waits| self.durable(waits)).map(|()| false);
            };
            let head = Head::of(call, decided.reasons, decided.pack, decided.detail);
            next.add(call, head, decided.changes, now)?
        };
        self.durable(waits)?;
        Ok(true)
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
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
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
        self.lock().batches
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
        self.lock().log.faults().clone()
    }

    #[cfg(test)]
    fn size_decided(&self) -> u64 {
        self.decided().size
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To decide on. Everything is refused where the log cannot be written: audit before effect.
    fn next(&self) -> Result<MutexGuard<'_, Next>, Refusal> {
        let next = self.decided();
        match &next.stuck {
            Some(why) => Err(not_durable(why)),
            None => Ok(next),
        }
    }

    fn decided(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a batch is durable, or writes it.
    fn durable(&self, waits: Waits) -> Result<(), Refusal> {
        if let Some(before) = waits.leads {
            before.inspect(|before| {
                before.ended.wait();
            });
            let taken = {
                let mut next = self.decided();
                if next.stuck.is_some() {
                    next.give_up();
                }
                // Unless it was given up.
                let mine = Arc::ptr_eq(&next.batch.writing, &waits.batch);
                mine.then(|| {
                    next.writing = Some(Arc::clone(&waits.batch));
                    std::mem::take(&mut next.batch)
                })
            };
            if let Some(batch) = taken {
                let mut leads = Leads { ledger: self, batch: &waits.batch, done: Err(BEGUN.to_owned()) };
                leads.done = self.write(&mut self.lock(), batch);
            }
        }
        waits.batch.outcome.wait().clone().map_err(|why| not_durable(&why))
    }

    fn write(&self, writer: &mut Writer, batch: Batch) -> Result<(), String> {
        let Batch { changes, entries, .. } = batch;
        let before = writer.log.unflushed();
        let done = match writer.log.append(&entries) {
            Ok(()) => {
                self.publish(&changes, writer.log.view());
                writer.changes.extend(changes);
                writer.batches += 1;
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
                (next.state, next.size) = (State::clone(&self.state()), writer.log.size());
                Err(text)
            }
        };
        let waits = writer.log.unflushed();
        if waits != before && waits != Unflushed::Nothing {
            self.follower.wake(waits);
        }
        done
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

/// What an entry says of a decision.
struct Head {
    outcome: &'static str,
    reasons: Vec<String>,
    pack: Option<String>,
    detail: serde_json::Value,
}

impl Head {
    fn of(call: &Call, reasons: Vec<String>, pack: Option<String>, detail: serde_json::Value) -> Self {
        let observed = ["observe.", "guest."].iter().any(|by| call.action.starts_with(by));
        let outcome = if observed { "observed" } else { "allowed" };
        Self { outcome, reasons, pack, detail }
    }
}

impl Next {
    /// Decided: it is as if it were so, for whoever decides next.
    fn add(
        &mut self,
        call: &Call,
        head: Head,
        changes: Vec<Change>,
        now: Timestamp,
    ) -> Result<Waits, Refusal> {
        let entry = Entry {
            v: 1,
            index: self.size,
            time: now,
            request: call.request.to_string(),
            actor: call.actor.clone(),
            peer: call.peer.clone(),
            action: call.action.to_owned(),
            resource: bounded(&call.resource),
            project: call.project.as_deref().map(bounded),
            level: self.level(call, &changes),
            outcome: head.outcome.to_owned(),
            reasons: head.reasons.iter().map(|r| bounded(r)).collect(),
            pack: head.pack,
            detail: dated(head.detail, call.source_time),
            changes: changes.iter().map(logged).collect(),
        };
        // Only this one cannot be written; the next one can.
        let body = entry.to_bytes().map_err(|e| Refusal::new(RefusalKind::Invalid, e.to_string()))?;
        self.state.apply(&changes);
        let leads = self.batch.entries.is_empty().then(|| self.writing.clone());
        self.batch.entries.push(body);
        self.batch.changes.extend(changes);
        self.size += 1;
        Ok(Waits { batch: Arc::clone(&self.batch.writing), leads })
    }

    /// Of the project that a call concerns, where there is one of that name, be it since just now.
    fn level(&self, call: &Call, changes: &[Change]) -> Option<String> {
        let name = call.project.as_deref()?.parse().ok()?;
        let made = changes.iter().find_map(|change| match change {
            Change::Put(Record::Project(project)) if project.name == name => Some(project),
            _ => None,
        });
        made.or_else(|| self.state.project(&name)).map(|project| project.level.clone())
    }

    /// What waits to be written is not.
    fn give_up(&mut self) {
        let why = self.stuck.clone().unwrap_or_default();
        let _ = std::mem::take(&mut self.batch).writing.outcome.set(Err(why));
    }
}

/// Who writes. Whatever becomes of her, the others are woken; and where that is a panic, what was decided is not so, and
/// nothing more is decided on it.
struct Leads<'a> {
    ledger: &'a Ledger,
    batch: &'a Writing,
    done: Result<(), String>,
}

impl Drop for Leads<'_> {
    fn drop(&mut self) {
        let mut next = self.ledger.decided();
        next.writing = None;
        if std::thread::panicking() {
            next.stuck = Some(BEGUN.to_owned());
        }
        drop(next);
        // First the one who keeps the disk busy.
        let _ = self.batch.ended.set(());
        let _ = self.batch.outcome.set(std::mem::replace(&mut self.done, Ok(())));
    }
}

fn logged(change: &Change) -> serde_json::Value {
    serde_json::to_value(change).unwrap_or_default()
}

/// With the time by another clock than holmd's.
fn dated(mut detail: serde_json::Value, source: Option<Timestamp>) -> serde_json::Value {
    let Some(time) = source else { return detail };
    if detail.is_null() {
        detail = serde_json::Value::Object(serde_json::Map::new());
    }
    if let Some(fields) = detail.as_object_mut() {
        fields.insert("source_time".to_owned(), time.to_string().into());
    }
    detail
}

/// What strangers send reaches the log in part, never whole.
fn bounded(text: &str) -> String {
    text.chars().take(400).collect()
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
