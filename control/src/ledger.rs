//! The one writer: a change and its log entry become durable together, or neither happens.
//!
//! ```text
//!   closure(&State) ──▶ changes + entry ──▶ store: one transaction (changes + entry in the outbox), flushed
//!                                               │
//!                                               ▼
//!                       log: entry sealed under a signed checkpoint, synced
//!                                               │
//!                                               ▼
//!                       state in memory, caller answered, effects released
//! ```
//!
//! A kill between store and log leaves the entry in the outbox; opening the ledger seals it first.
//! A kill between log and memory leaves nothing: memory is read from the store.

use crate::audit::{Entry, Log, LogError};
use crate::domain::{Change, Record, Refusal, RefusalKind, State};
use crate::store::{Store, StoreError, Waiting};
use holm_proto::ids::RequestId;
use jiff::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
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
    #[error("the outbox starts at entry {outbox} and the log ends at {log}: one of them is of another time")]
    Gap { outbox: u64, log: u64 },
    #[error("entry {index} of the log differs from the one in the outbox: one of them was changed")]
    Differs { index: u64 },
    #[error("the store is not what the log says: it was restored from an older copy, or changed")]
    Other,
    #[error("entry {index} of the log cannot be read")]
    Entry { index: u64, source: serde_json::Error },
}

/// The state, and the only way to change it.
pub struct Ledger {
    writer: Mutex<Writer>,
    state: RwLock<Arc<State>>,
    changed: watch::Sender<u64>,
    clock: fn() -> Timestamp,
}

struct Writer {
    store: Box<dyn Store>,
    log: Log,
    /// In the store's outbox, not in the log yet, because the log could not be written.
    unsealed: Option<(Waiting, Vec<Change>)>,
    /// The store failed half-way: what it holds is known only after a restart.
    broken: Option<String>,
}

impl Ledger {
    /// Open: seal what a kill left in the outbox, then read the state.
    pub fn open(store: Box<dyn Store>, mut log: Log, clock: fn() -> Timestamp) -> Result<Self, LedgerError> {
        let mut last = None;
        for waiting in store.outbox()? {
            last = last.max(Some(waiting.index));
            if waiting.index < log.size() {
                let sealed = log.read(waiting.index, waiting.index + 1)?;
                if sealed.first() != Some(&waiting.body) {
                    return Err(LedgerError::Differs { index: waiting.index });
                }
            } else if waiting.index == log.size() {
                log.append(std::slice::from_ref(&waiting.body))?;
            } else {
                return Err(LedgerError::Gap { outbox: waiting.index, log: log.size() });
            }
        }
        // The newest entry stays in the outbox and tells of what time the store is. One restored from an older
        // copy would hold devices for free that others have by now.
        store.sealed(log.size().saturating_sub(1))?;
        let mut state = State::default();
        for record in store.records()? {
            state.apply(&[Change::Put(record)]);
        }
        let newest = last.is_some_and(|last| last + 1 == log.size());
        if !newest && state.records() != replay(&log)? {
            return Err(LedgerError::Other);
        }
        let (changed, _) = watch::channel(log.size());
        let writer = Writer { store, log, unsealed: None, broken: None };
        Ok(Self { writer: Mutex::new(writer), state: RwLock::new(Arc::new(state)), changed, clock })
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
        let mut writer = self.lock();
        writer.ready()?;
        self.catch_up(&mut writer);
        let now = self.now();
        match decide(&self.state(), now) {
            Ok(decided) => {
                let outcome = if call.action.starts_with("observe.") { "observed" } else { "allowed" };
                let head = (outcome, decided.reasons, decided.pack, decided.detail);
                self.write(&mut writer, call, head, decided.changes, now)?;
                Ok(decided.value)
            }
            Err(refusal) => {
                let head =
                    ("refused", refusal.reasons.clone(), refusal.pack.clone(), serde_json::Value::Null);
                self.write(&mut writer, call, head, Vec::new(), now)?;
                Err(refusal)
            }
        }
    }

    /// As [`Self::commit`], for what holmd does by itself: `None` means there is nothing to do, and
    /// nothing is written.
    pub fn commit_if(
        &self,
        call: &Call,
        decide: impl FnOnce(&State, Timestamp) -> Option<Decided<()>>,
    ) -> Result<bool, Refusal> {
        let mut writer = self.lock();
        writer.ready()?;
        self.catch_up(&mut writer);
        let now = self.now();
        let Some(decided) = decide(&self.state(), now) else { return Ok(false) };
        let outcome = if call.action.starts_with("observe.") { "observed" } else { "allowed" };
        let head = (outcome, decided.reasons, decided.pack, decided.detail);
        self.write(&mut writer, call, head, decided.changes, now)?;
        Ok(true)
    }

    /// Note that somebody was refused before anything could be decided.
    pub fn refused(&self, call: &Call, reason: &str) {
        let refusal = Refusal::new(RefusalKind::Denied, reason);
        if let Err(failure) = self.commit::<()>(call, |_, _| Err(refusal)) {
            tracing::info!(actor = call.actor, peer = call.peer, "refused: {failure}");
        }
    }

    /// The signed checkpoint.
    pub fn checkpoint(&self) -> String {
        self.lock().log.checkpoint().to_owned()
    }

    /// Entries as they were hashed.
    pub fn entries(&self, start: u64, end: u64) -> Result<Vec<Vec<u8>>, LogError> {
        self.lock().log.read(start, end)
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.lock().log.size()
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the log took late is in memory from now on.
    fn catch_up(&self, writer: &mut Writer) {
        let size = writer.log.size();
        if let Some((_, changes)) = writer.unsealed.take_if(|(waiting, _)| waiting.index < size) {
            self.publish(&changes, size);
        }
    }

    fn write(
        &self,
        writer: &mut Writer,
        call: &Call,
        (outcome, reasons, pack, detail): (&str, Vec<String>, Option<String>, serde_json::Value),
        changes: Vec<Change>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let entry = Entry {
            v: 1,
            index: writer.log.size(),
            time: now,
            request: call.request.to_string(),
            actor: call.actor.clone(),
            peer: call.peer.clone(),
            action: call.action.to_owned(),
            resource: bounded(&call.resource),
            project: call.project.as_deref().map(bounded),
            outcome: outcome.to_owned(),
            reasons: reasons.iter().map(|r| bounded(r)).collect(),
            pack,
            detail,
            changes: changes.iter().map(logged).collect(),
        };
        // Only this one cannot be written; the next one can.
        let body = entry.to_bytes().map_err(|e| Refusal::new(RefusalKind::Invalid, e.to_string()))?;
        let waiting = Waiting { index: writer.log.size(), body };
        if let Err(failure) = writer.store.commit(&changes, &waiting) {
            let text = format!("the store failed: {}", chain(&failure));
            tracing::error!("{text}");
            writer.broken = Some(text.clone());
            return Err(not_durable(&text));
        }
        if let Err(failure) = writer.log.append(std::slice::from_ref(&waiting.body)) {
            let text = format!("the log failed: {}", chain(&failure));
            tracing::error!("{text}");
            writer.unsealed = Some((waiting, changes));
            return Err(not_durable(&text));
        }
        let size = writer.log.size();
        // Older entries leave the outbox with the next flush; until then opening finds them in the log.
        if let Err(failure) = writer.store.sealed(waiting.index) {
            tracing::warn!("the outbox keeps older entries: {}", chain(&failure));
        }
        self.publish(&changes, size);
        Ok(())
    }

    fn publish(&self, changes: &[Change], size: u64) {
        if !changes.is_empty() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            Arc::make_mut(&mut state).apply(changes);
        }
        self.changed.send_replace(size);
    }
}

impl Writer {
    /// Refuse everything while the log cannot be written: audit before effect.
    fn ready(&mut self) -> Result<(), Refusal> {
        if let Some(broken) = &self.broken {
            return Err(not_durable(broken));
        }
        let stuck = self.unsealed.as_ref().filter(|(w, _)| w.index == self.log.size());
        if let Some((waiting, _)) = stuck {
            let body = waiting.body.clone();
            self.log.append(&[body]).map_err(|e| not_durable(&format!("the log failed: {}", chain(&e))))?;
        }
        Ok(())
    }
}

/// Replay a log into records: what a store must hold.
pub fn replay(log: &Log) -> Result<Vec<Record>, LedgerError> {
    let mut state = State::default();
    for (index, body) in (0..).zip(log.read(0, log.size())?) {
        let unreadable = |source| LedgerError::Entry { index, source };
        let entry = Entry::from_bytes(&body).map_err(unreadable)?;
        for change in entry.changes {
            let change: Change = serde_json::from_value(change).map_err(unreadable)?;
            state.apply(&[change]);
        }
    }
    Ok(state.records())
}

fn logged(change: &Change) -> serde_json::Value {
    serde_json::to_value(change).unwrap_or_default()
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
mod tests {
    use super::*;
    use crate::audit::{SigningKey, verify};
    use crate::domain::records::Person;
    use crate::store::MemoryStore;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    const ORIGIN: &str = "holm.example/log";

    /// A store that outlives its ledger, as a disk does, and fails when told to.
    #[derive(Clone, Default)]
    struct Disk(Arc<(MemoryStore, AtomicBool)>);

    impl Store for Disk {
        fn records(&self) -> Result<Vec<Record>, StoreError> {
            self.0.0.records()
        }
        fn outbox(&self) -> Result<Vec<Waiting>, StoreError> {
            self.0.0.outbox()
        }
        fn commit(&self, changes: &[Change], entry: &Waiting) -> Result<(), StoreError> {
            if self.0.1.load(Ordering::Relaxed) {
                return Err(StoreError { what: "no space left".to_owned(), cause: None });
            }
            self.0.0.commit(changes, entry)
        }
        fn sealed(&self, below: u64) -> Result<(), StoreError> {
            self.0.0.sealed(below)
        }
        fn replace(&self, records: &[Record]) -> Result<(), StoreError> {
            self.0.0.replace(records)
        }
    }

    struct Scratch {
        dir: tempfile::TempDir,
        store: Disk,
    }

    impl Scratch {
        fn new() -> Self {
            let scratch = Self { dir: tempfile::tempdir().unwrap(), store: Disk::default() };
            Log::create(&scratch.path(), ORIGIN, SigningKey::fixed(7)).unwrap();
            scratch
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("log")
        }

        fn log(&self) -> Log {
            Log::open(&self.path(), ORIGIN, SigningKey::fixed(7)).unwrap()
        }

        fn open(&self) -> Result<Ledger, LedgerError> {
            Ledger::open(Box::new(self.store.clone()), self.log(), clock)
        }

        fn ledger(&self) -> Ledger {
            self.open().unwrap()
        }

        /// While something lies where the new checkpoint is written, the log fails.
        fn break_log(&self) {
            std::fs::create_dir(self.path().join("checkpoint.new")).unwrap();
        }

        fn mend_log(&self) {
            std::fs::remove_dir(self.path().join("checkpoint.new")).unwrap();
        }

        /// What is stored is what is logged.
        fn assert_agreed(&self, ledger: Ledger) {
            let state = ledger.state();
            let key = SigningKey::fixed(7).vkey(ORIGIN);
            verify::entries(&ledger.checkpoint(), &key, ledger.entries(0, ledger.size()).unwrap()).unwrap();
            drop(ledger);
            assert_eq!(state.records(), sorted(self.store.records().unwrap()));
            assert_eq!(state.records(), replay(&self.log()).unwrap());
            assert_eq!(*state, *self.ledger().state());
            assert_eq!(self.store.outbox().unwrap().len(), 1);
        }
    }

    fn clock() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    fn sorted(records: Vec<Record>) -> Vec<Record> {
        let mut state = State::default();
        records.into_iter().for_each(|record| state.apply(&[Change::Put(record)]));
        state.records()
    }

    fn person(name: &str, uid: u32) -> Change {
        Change::Put(Record::Person(Person {
            name: name.parse().unwrap(),
            roles: vec!["researcher".to_owned()],
            uid,
            created: clock(),
            enrolled: false,
            certificate: String::new(),
            renewed: String::new(),
            revoked: None,
            void: None,
        }))
    }

    fn call(action: &'static str) -> Call {
        Call {
            request: RequestId::new_v4(),
            actor: "person/oscar".to_owned(),
            peer: "192.0.2.7:50412".to_owned(),
            action,
            resource: "person/ada".to_owned(),
            project: None,
        }
    }

    /// Add a person under the next number.
    fn invite(ledger: &Ledger, name: &str) -> Result<u32, Refusal> {
        ledger.commit(&call("person.invite"), |state, _| {
            let uid = 20_001 + u32::try_from(state.people.len()).unwrap();
            Ok(Decided::new(vec![person(name, uid)], uid))
        })
    }

    fn names(ledger: &Ledger) -> Vec<String> {
        ledger.state().people.keys().map(ToString::to_string).collect()
    }

    fn logged(ledger: &Ledger) -> Vec<Entry> {
        let bodies = ledger.entries(0, ledger.size()).unwrap();
        bodies.iter().map(|body| Entry::from_bytes(body).unwrap()).collect()
    }

    #[test]
    fn a_change_is_stored_logged_and_told() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        let told = ledger.subscribe();
        assert_eq!(invite(&ledger, "ada").unwrap(), 20_001);
        assert_eq!(invite(&ledger, "bo").unwrap(), 20_002);
        assert_eq!((names(&ledger), *told.borrow()), (vec!["ada".to_owned(), "bo".to_owned()], 2));
        let entries = logged(&ledger);
        assert_eq!((entries[1].index, entries[1].time, entries[1].outcome.as_str()), (1, clock(), "allowed"));
        assert_eq!((entries[1].actor.as_str(), entries[1].changes.len()), ("person/oscar", 1));
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn a_refusal_is_logged_and_changes_nothing() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        let refusal = Refusal::new(RefusalKind::Denied, "officers only");
        let answer = ledger.commit::<()>(&call("slice.approve"), |_, _| Err(refusal.clone()));
        assert_eq!(answer.unwrap_err(), refusal);
        ledger.refused(&call("session.open"), "no certificate");
        let entries = logged(&ledger);
        for (entry, reason) in entries.iter().zip(["officers only", "no certificate"]) {
            assert_eq!((entry.outcome.as_str(), &entry.reasons[..]), ("refused", &[reason.to_owned()][..]));
            assert!(entry.changes.is_empty());
        }
        assert_eq!((entries.len(), ledger.state().records().len()), (2, 0));
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn what_is_seen_is_called_that_and_what_is_nothing_is_not_written() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        assert!(!ledger.commit_if(&call("observe.slice"), |_, _| None).unwrap());
        assert_eq!(ledger.size(), 0);
        let seen = |_: &State, _| Some(Decided::new(vec![person("ada", 1)], ()));
        assert!(ledger.commit_if(&call("observe.slice"), seen).unwrap());
        assert_eq!(logged(&ledger)[0].outcome, "observed");
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn a_kill_between_store_and_log_is_made_good_at_the_next_start() {
        let scratch = Scratch::new();
        invite(&scratch.ledger(), "ada").unwrap();
        // The entry as it would be written, from a life in which there was no kill.
        let other = Scratch::new();
        let ledger = other.ledger();
        invite(&ledger, "ada").unwrap();
        invite(&ledger, "bo").unwrap();
        let body = ledger.entries(1, 2).unwrap().remove(0);
        scratch.store.commit(&[person("bo", 20_002)], &Waiting { index: 1, body: body.clone() }).unwrap();

        let ledger = scratch.ledger();
        assert_eq!((ledger.size(), names(&ledger).len()), (2, 2));
        assert_eq!(ledger.entries(1, 2).unwrap(), [body]);
        assert_eq!(invite(&ledger, "cy").unwrap(), 20_003);
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn a_kill_between_log_and_memory_leaves_nothing() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        invite(&ledger, "ada").unwrap();
        let body = ledger.entries(0, 1).unwrap().remove(0);
        drop(ledger);
        // The outbox was not emptied yet.
        scratch.store.commit(&[], &Waiting { index: 0, body }).unwrap();
        let ledger = scratch.ledger();
        assert_eq!(ledger.size(), 1, "it was logged twice");
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn a_store_and_a_log_that_do_not_belong_together_are_refused() {
        let scratch = Scratch::new();
        invite(&scratch.ledger(), "ada").unwrap();
        let waiting = |index| Waiting { index, body: b"another".to_vec() };
        scratch.store.commit(&[], &waiting(2)).unwrap();
        assert!(matches!(scratch.open(), Err(LedgerError::Gap { outbox: 2, log: 1 })));
        scratch.store.replace(&[]).unwrap();
        scratch.store.commit(&[], &waiting(0)).unwrap();
        assert!(matches!(scratch.open(), Err(LedgerError::Differs { index: 0 })));
        assert_eq!(scratch.log().size(), 1);
    }

    #[test]
    fn a_store_of_another_time_than_the_log_is_refused() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        invite(&ledger, "ada").unwrap();
        let (records, outbox) = (scratch.store.records().unwrap(), scratch.store.outbox().unwrap());
        invite(&ledger, "bo").unwrap();
        drop(ledger);
        // The whole store as it was before.
        scratch.store.replace(&records).unwrap();
        scratch.store.commit(&[], &outbox[0]).unwrap();
        assert!(matches!(scratch.open(), Err(LedgerError::Other)));
        // And without a word of when that was.
        scratch.store.replace(&records).unwrap();
        assert!(matches!(scratch.open(), Err(LedgerError::Other)));
        // As a rebuild leaves it.
        scratch.store.replace(&replay(&scratch.log()).unwrap()).unwrap();
        let ledger = scratch.ledger();
        invite(&ledger, "cy").unwrap();
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn while_the_log_fails_nothing_happens_and_then_it_catches_up() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        invite(&ledger, "ada").unwrap();
        let told = ledger.subscribe();
        scratch.break_log();
        for name in ["bo", "cy"] {
            let refusal = invite(&ledger, name).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Unavailable);
            assert!(
                refusal.to_string().starts_with("nothing happens while it cannot be logged"),
                "{refusal}"
            );
        }
        let decide = |_: &State, _| -> Option<Decided<()>> { panic!("nothing is decided") };
        assert_eq!(
            ledger.commit_if(&call("slice.place"), decide).unwrap_err().kind,
            RefusalKind::Unavailable
        );
        assert_eq!((names(&ledger), ledger.size()), (vec!["ada".to_owned()], 1));
        assert!(!told.has_changed().unwrap());

        // `bo` was in the store's transaction already; `cy` never was, and decides after `bo`.
        scratch.mend_log();
        assert_eq!(invite(&ledger, "dan").unwrap(), 20_003);
        assert_eq!(names(&ledger), ["ada", "bo", "dan"]);
        assert_eq!(logged(&ledger).iter().map(|e| e.index).collect::<Vec<_>>(), [0, 1, 2]);
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn a_restart_while_the_log_fails_waits_until_it_is_mended() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        scratch.break_log();
        invite(&ledger, "ada").unwrap_err();
        drop(ledger);
        assert!(matches!(scratch.open(), Err(LedgerError::Log(_))));
        scratch.mend_log();
        let ledger = scratch.ledger();
        assert_eq!((names(&ledger), ledger.size()), (vec!["ada".to_owned()], 1));
        scratch.assert_agreed(ledger);
    }

    #[test]
    fn after_the_store_failed_nothing_happens_until_a_restart() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        scratch.store.0.1.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            let refusal = invite(&ledger, "ada").unwrap_err();
            assert!(refusal.to_string().ends_with("the store failed: no space left"), "{refusal}");
            scratch.store.0.1.store(false, Ordering::Relaxed);
        }
        assert_eq!((names(&ledger).len(), ledger.size()), (0, 0));
        drop(ledger);
        invite(&scratch.ledger(), "ada").unwrap();
        scratch.assert_agreed(scratch.ledger());
    }

    #[test]
    fn what_strangers_send_is_bounded_and_what_is_too_long_is_refused_before_anything_happens() {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        let mut long = call("slice.show");
        long.resource = "\u{1F600}".repeat(100_000);
        long.project = Some("x".repeat(100_000));
        ledger.refused(&long, &"\0".repeat(100_000));
        let entries = logged(&ledger);
        assert_eq!(entries[0].resource.chars().count(), 400);
        assert_eq!((entries[0].project.as_ref().unwrap().len(), entries[0].reasons[0].len()), (400, 400));

        let answer = ledger.commit(&call("slice.request"), |_, _| {
            let mut decided = Decided::new(vec![person("ada", 1)], ());
            decided.detail = "x".repeat(crate::audit::MAX_ENTRY).into();
            Ok(decided)
        });
        assert!(answer.unwrap_err().to_string().contains("65535 is the most"));
        assert_eq!((names(&ledger).len(), ledger.size(), scratch.store.outbox().unwrap().len()), (0, 1, 1));
        invite(&ledger, "bo").unwrap();
        scratch.assert_agreed(ledger);
    }
}
