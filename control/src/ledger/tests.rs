//! Kills and failures between deciding, storing, logging and telling; many at once.

use super::*;
use crate::audit::{SigningKey, verify};
use crate::domain::records::Person;
use crate::store::MemoryStore;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const ORIGIN: &str = "holm.example/log";

/// A store that outlives its ledger, as a disk does, and fails, waits or panics when told to.
#[derive(Clone, Default)]
struct Disk(Arc<(MemoryStore, AtomicBool, Mutex<Vec<usize>>, AtomicBool)>);

impl Store for Disk {
    fn records(&self) -> Result<Vec<Record>, StoreError> {
        self.0.0.records()
    }
    fn outbox(&self) -> Result<Vec<Waiting>, StoreError> {
        self.0.0.outbox()
    }
    fn commit(&self, changes: &[Change], entries: &[Waiting]) -> Result<(), StoreError> {
        if self.0.1.load(Ordering::Relaxed) {
            return Err(StoreError { what: "no space left".to_owned(), cause: None });
        }
        assert!(!self.0.3.load(Ordering::Relaxed), "what a store asserts");
        // Whoever holds this keeps the disk busy.
        self.0.2.lock().unwrap().push(entries.len());
        self.0.0.commit(changes, entries)
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
        account: None,
        login: None,
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
    scratch.store.commit(&[person("bo", 20_002)], &[Waiting { index: 1, body: body.clone() }]).unwrap();

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
    scratch.store.commit(&[], &[Waiting { index: 0, body }]).unwrap();
    let ledger = scratch.ledger();
    assert_eq!(ledger.size(), 1, "it was logged twice");
    scratch.assert_agreed(ledger);
}

#[test]
fn a_store_and_a_log_that_do_not_belong_together_are_refused() {
    let scratch = Scratch::new();
    invite(&scratch.ledger(), "ada").unwrap();
    let waiting = |index| [Waiting { index, body: b"another".to_vec() }];
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
    scratch.store.commit(&[], &outbox).unwrap();
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
        assert!(refusal.to_string().starts_with("nothing happens while it cannot be logged"), "{refusal}");
    }
    let decide = |_: &State, _| -> Option<Decided<()>> { panic!("nothing is decided") };
    assert_eq!(ledger.commit_if(&call("slice.place"), decide).unwrap_err().kind, RefusalKind::Unavailable);
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

/// While `ada` is being written, `bo` and `cy` are decided; then what `and_then` does happens, and all are written.
fn three_at_once(scratch: &Scratch, ledger: &Ledger, and_then: impl FnOnce()) -> Vec<Result<u32, Refusal>> {
    let busy = scratch.store.0.2.lock().unwrap();
    let decided = |most: usize| {
        while ledger.next.lock().unwrap().batch.entries.len() != most {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| invite(ledger, "ada"));
        // Taken, and stuck at the disk: the writer is held, and nothing is left to be taken.
        while ledger.size_decided() != 1 || ledger.decided().writing.is_none() {
            std::thread::yield_now();
        }
        decided(0);
        let second = scope.spawn(|| invite(ledger, "bo"));
        decided(1);
        let third = scope.spawn(|| invite(ledger, "cy"));
        decided(2);
        assert_eq!(names(ledger), Vec::<String>::new(), "nobody is told of what is not durable");
        and_then();
        drop(busy);
        [first, second, third].map(|one| one.join().unwrap()).into()
    })
}

#[test]
fn what_is_decided_while_the_disk_is_busy_is_written_together() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let all = three_at_once(&scratch, &ledger, || {});
    // Each was decided on what the one before had decided.
    assert_eq!(all, [Ok(20_001), Ok(20_002), Ok(20_003)]);
    assert_eq!(*scratch.store.0.2.lock().unwrap(), [1, 2]);
    assert_eq!(names(&ledger), ["ada", "bo", "cy"]);
    let entries = logged(&ledger);
    assert_eq!(entries.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 1, 2]);
    scratch.assert_agreed(ledger);
}

#[test]
fn what_was_decided_on_what_cannot_be_logged_never_was() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    for one in three_at_once(&scratch, &ledger, || scratch.break_log()) {
        let refusal = one.unwrap_err();
        assert!(refusal.to_string().starts_with("nothing happens while it cannot be logged"), "{refusal}");
    }
    assert_eq!((names(&ledger), ledger.size()), (Vec::<String>::new(), 0));
    invite(&ledger, "dan").unwrap_err();
    scratch.mend_log();
    // `ada` was in the store already.
    assert_eq!(invite(&ledger, "dan").unwrap(), 20_002);
    assert_eq!(names(&ledger), ["ada", "dan"]);
    scratch.assert_agreed(ledger);
}

#[test]
fn what_was_decided_while_the_store_failed_never_was() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let fails = || scratch.store.0.1.store(true, Ordering::Relaxed);
    let all = three_at_once(&scratch, &ledger, fails);
    // The first was past the place where it fails.
    assert!(all[0].is_ok() && all[1].is_err() && all[2].is_err(), "{all:?}");
    scratch.store.0.1.store(false, Ordering::Relaxed);
    assert!(invite(&ledger, "dan").is_err(), "only after a restart");
    assert_eq!(names(&ledger), ["ada"]);
    drop(ledger);
    let ledger = scratch.ledger();
    assert_eq!(invite(&ledger, "dan").unwrap(), 20_002);
    scratch.assert_agreed(ledger);
}

#[test]
fn many_at_once_are_each_decided_once_and_none_is_missing() {
    const CALLERS: usize = 8;
    const EACH: usize = 25;
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let uids: Vec<u32> = std::thread::scope(|scope| {
        let caller = |caller: usize| {
            let ledger = &ledger;
            scope.spawn(move || -> Vec<u32> {
                (0..EACH).map(|n| invite(ledger, &format!("p{caller}-{n}")).unwrap()).collect()
            })
        };
        let all: Vec<_> = (0..CALLERS).map(caller).collect();
        all.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    let once: std::collections::BTreeSet<u32> = uids.iter().copied().collect();
    assert_eq!((once.len(), names(&ledger).len(), ledger.size()), (200, 200, 200));
    let written: usize = scratch.store.0.2.lock().unwrap().iter().sum();
    assert_eq!(written, CALLERS * EACH);
    scratch.assert_agreed(ledger);
}

#[test]
fn that_there_is_nothing_to_do_is_said_when_what_it_was_found_on_is_durable() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let busy = scratch.store.0.2.lock().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| invite(&ledger, "ada"));
        while ledger.size_decided() != 1 {
            std::thread::yield_now();
        }
        let (seen, looked) = std::sync::mpsc::channel();
        let second = scope.spawn(|| {
            let done = ledger.commit_if(&call("observe.person"), move |state, _| {
                seen.send(state.people.len()).unwrap();
                None
            });
            (done.unwrap(), names(&ledger))
        });
        assert_eq!((looked.recv().unwrap(), names(&ledger).len()), (1, 0));
        drop(busy);
        assert_eq!(second.join().unwrap(), (false, vec!["ada".to_owned()]));
        assert_eq!(first.join().unwrap(), Ok(20_001));
    });
    scratch.assert_agreed(ledger);
}

#[test]
fn a_panic_in_the_middle_of_a_write_ends_all_writing_and_wakes_everybody() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    invite(&ledger, "ada").unwrap();
    scratch.store.0.3.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let all: Vec<_> = ["bo", "cy", "dan"].map(|name| scope.spawn(|| invite(&ledger, name))).into();
        // One of them writes; the others are told, and none waits for ever.
        let ended: Vec<_> = all.into_iter().map(|one| one.join()).collect();
        assert!(ended.iter().all(|one| one.as_ref().is_ok_and(Result::is_err) || one.is_err()));
        assert!(ended.iter().any(Result::is_err));
    });
    scratch.store.0.3.store(false, Ordering::Relaxed);
    // Not even that there is nothing to do is found on what never was.
    let decide = |_: &State, _| -> Option<Decided<()>> { panic!("nothing is decided") };
    assert_eq!(ledger.commit_if(&call("slice.place"), decide).unwrap_err().kind, RefusalKind::Unavailable);
    let refusal = invite(&ledger, "eve").unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert_eq!((names(&ledger), ledger.size()), (vec!["ada".to_owned()], 1));
    drop(ledger);
    let ledger = scratch.ledger();
    assert_eq!(invite(&ledger, "eve").unwrap(), 20_002);
    scratch.assert_agreed(ledger);
}

#[test]
fn that_there_is_nothing_to_do_is_not_said_where_what_it_was_found_on_never_was() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let (seen, looked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let mut idle = None;
        let all = three_at_once(&scratch, &ledger, || {
            scratch.break_log();
            idle = Some(scope.spawn(|| {
                ledger.commit_if(&call("observe.person"), move |state, _| {
                    seen.send(state.people.len()).unwrap();
                    None
                })
            }));
            assert_eq!(looked.recv().unwrap(), 3);
        });
        assert!(all.iter().all(Result::is_err));
        let idle = idle.unwrap().join().unwrap();
        assert_eq!(idle.unwrap_err().kind, RefusalKind::Unavailable);
    });
    scratch.mend_log();
    invite(&ledger, "dan").unwrap();
    scratch.assert_agreed(ledger);
}
