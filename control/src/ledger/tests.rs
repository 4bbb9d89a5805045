//! Kills and failures between deciding, logging, telling and storing; many at once.

mod full;
mod retain;

use super::*;
use crate::audit::faults::{Busy, When};
use crate::audit::{Entry, SigningKey, verify};
use crate::domain::Record;
use crate::domain::records::Person;
use crate::store::MemoryStore;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const ORIGIN: &str = "holm.example/log";

/// A store that outlives its ledger, as a disk does, and fails or panics when told to.
#[derive(Clone, Default)]
struct Disk(Arc<(MemoryStore, AtomicBool, AtomicBool)>);

impl Disk {
    fn fail(&self, fail: bool) {
        self.0.1.store(fail, Ordering::Relaxed);
    }

    fn panic(&self, panic: bool) {
        self.0.2.store(panic, Ordering::Relaxed);
    }
}

impl Store for Disk {
    fn records(&self) -> Result<Vec<Record>, StoreError> {
        self.0.0.records()
    }
    fn applied(&self) -> Result<Option<Applied>, StoreError> {
        self.0.0.applied()
    }
    fn apply(&self, changes: &[Change], now: Applied) -> Result<(), StoreError> {
        if self.0.1.load(Ordering::Relaxed) {
            return Err(StoreError { what: "no space left".to_owned(), cause: None });
        }
        assert!(!self.0.2.load(Ordering::Relaxed), "what a store asserts");
        self.0.0.apply(changes, now)
    }
    fn replace(&self, records: &[Record], now: Applied) -> Result<(), StoreError> {
        self.0.0.replace(records, now)
    }
    fn flush(&self) -> Result<(), StoreError> {
        self.0.0.flush()
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

    /// What is stored is what is logged.
    fn assert_agreed(&self, ledger: Ledger) {
        let state = ledger.state();
        let key = SigningKey::fixed(7).vkey(ORIGIN);
        verify::entries(&ledger.checkpoint(), &key, ledger.entries(0, ledger.size()).unwrap()).unwrap();
        drop(ledger);
        assert_eq!(state.records(), sorted(self.store.records().unwrap()));
        assert_eq!(state.records(), replay(&self.log()).unwrap());
        assert_eq!(self.store.applied().unwrap(), Some(Applied::of(&self.log())));
        assert_eq!(*state, *self.ledger().state());
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
        source_time: None,
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
fn a_store_of_an_older_copy_catches_up_and_so_does_one_that_a_kill_left_behind() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    invite(&ledger, "ada").unwrap();
    drop(ledger);
    let (records, applied) = (scratch.store.records().unwrap(), scratch.store.applied().unwrap().unwrap());
    assert_eq!((records.len(), applied), (1, Applied::of(&scratch.log())));
    let ledger = scratch.ledger();
    invite(&ledger, "bo").unwrap();
    let other = |_: &State, _| Ok(Decided::new(vec![person("ada", 7)], ()));
    ledger.commit(&call("person.invite"), other).unwrap();
    drop(ledger);
    // The whole store as it was before: what changed since is not as it was then.
    scratch.store.replace(&records, applied).unwrap();
    assert_eq!(compare(&scratch.store, &scratch.log()).unwrap(), Standing::Behind(2));
    let ledger = scratch.ledger();
    let uids: Vec<u32> = ledger.state().people.values().map(|person| person.uid).collect();
    assert_eq!(uids, [7, 20_002]);
    scratch.assert_agreed(ledger);
    assert_eq!(compare(&scratch.store, &scratch.log()).unwrap(), Standing::Same);
}

#[test]
fn a_store_that_is_new_or_of_before_it_said_up_to_where_it_is_is_what_the_log_says_or_refused() {
    let scratch = Scratch::new();
    invite(&scratch.ledger(), "ada").unwrap();
    let records = scratch.store.records().unwrap();
    let again = |records: &[Record]| {
        let again = Scratch { dir: tempfile::tempdir().unwrap(), store: Disk::default() };
        // As a store of another version: records, and not up to where.
        *again.store.0.0.tables() = (records.iter().map(|r| (r.key(), r.clone())).collect(), None);
        let compared = compare(&again.store, &scratch.log()).unwrap();
        let opened = Ledger::open(Box::new(again.store.clone()), scratch.log(), clock);
        (compared, opened.map(|ledger| names(&ledger)))
    };
    let (compared, opened) = again(&[]);
    assert_eq!((compared, opened.unwrap()), (Standing::Behind(1), vec!["ada".to_owned()]));
    let (compared, opened) = again(&records);
    assert_eq!((compared, opened.unwrap()), (Standing::Same, vec!["ada".to_owned()]));
    let Change::Put(bo) = person("bo", 20_002) else { panic!("a record") };
    assert!(matches!(again(&[records[0].clone(), bo]), (Standing::Other, Err(LedgerError::Other))));
}

#[test]
fn a_store_and_a_log_of_different_histories_are_refused() {
    let scratch = Scratch::new();
    invite(&scratch.ledger(), "ada").unwrap();
    let good = scratch.store.applied().unwrap().unwrap();
    let records = scratch.store.records().unwrap();
    let refused = |size: u64, root: [u8; 32]| {
        scratch.store.replace(&records, Applied { size, root }).unwrap();
        let compared = compare(&scratch.store, &scratch.log()).unwrap_err();
        let opened = scratch.open().err().unwrap();
        assert_eq!(compared.to_string(), opened.to_string());
        assert_eq!(scratch.store.applied().unwrap(), Some(Applied { size, root }), "it was changed");
        opened
    };
    assert!(matches!(refused(2, good.root), LedgerError::Ahead { store: 2, log: 1 }));
    assert!(matches!(refused(1, [0; 32]), LedgerError::Differs { size: 1 }));
    assert!(matches!(refused(0, good.root), LedgerError::Differs { size: 0 }));
    // What holmd does not see at each start, a comparison does.
    scratch.store.replace(&[], good).unwrap();
    assert_eq!(compare(&scratch.store, &scratch.log()).unwrap(), Standing::Other);
    // As a rebuild leaves it.
    scratch.store.replace(&replay(&scratch.log()).unwrap(), good).unwrap();
    let ledger = scratch.ledger();
    invite(&ledger, "cy").unwrap();
    scratch.assert_agreed(ledger);
}

#[test]
fn where_the_log_fails_nothing_happens_until_a_restart_which_finds_what_came_to_the_disk() {
    // Nothing of it, all of it, and all of it synced.
    for (step, when, names_then) in [
        (0, When::Before, ["ada", "eve"].as_slice()),
        (0, When::After, &["ada", "bo", "eve"]),
        (1, When::After, &["ada", "bo", "eve"]),
    ] {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        invite(&ledger, "ada").unwrap();
        let told = ledger.subscribe();
        let faults = ledger.faults();
        faults.plan(Some((step, when)));
        let refusal = invite(&ledger, "bo").unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unavailable);
        assert!(refusal.to_string().starts_with("nothing happens while it cannot be logged"), "{refusal}");
        assert!(refusal.to_string().contains("it may still take effect after a restart"), "{refusal}");
        // Not even when the disk is well again: nobody knows what is on it.
        faults.plan(None);
        let decide = |_: &State, _| -> Option<Decided<()>> { panic!("nothing is decided") };
        assert_eq!(
            ledger.commit_if(&call("slice.place"), decide).unwrap_err().kind,
            RefusalKind::Unavailable
        );
        invite(&ledger, "cy").unwrap_err();
        assert_eq!((names(&ledger), ledger.size()), (vec!["ada".to_owned()], 1));
        assert!(!told.has_changed().unwrap());
        drop(ledger);
        let ledger = scratch.ledger();
        invite(&ledger, "eve").unwrap();
        assert_eq!(names(&ledger), names_then);
        scratch.assert_agreed(ledger);
    }
}

#[test]
fn where_there_is_no_room_for_the_log_it_goes_on_when_there_is() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let faults = ledger.faults();
    faults.refuse(Some("checkpoint"));
    let mut entries = 0;
    let refusal = loop {
        match invite(&ledger, &format!("p{entries}")) {
            Ok(_) => entries += 1,
            Err(refusal) => break refusal,
        }
    };
    // As many as the journal holds; of what is refused then nothing is anywhere.
    assert_eq!((entries, ledger.size(), names(&ledger).len()), (32, 32, 32));
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert!(!refusal.to_string().contains("it may still take effect"), "{refusal}");
    invite(&ledger, "more").unwrap_err();
    faults.refuse(None);
    assert_eq!(invite(&ledger, "more").unwrap(), 20_033);
    scratch.assert_agreed(ledger);
}

#[test]
fn a_store_that_fails_or_panics_keeps_nobody_waiting_and_catches_up() {
    for panics in [false, true] {
        let scratch = Scratch::new();
        let ledger = scratch.ledger();
        scratch.store.fail(!panics);
        scratch.store.panic(panics);
        for n in 0..40 {
            invite(&ledger, &format!("p{n}")).unwrap();
        }
        drop(ledger);
        assert!(scratch.store.records().unwrap().is_empty());
        scratch.store.fail(false);
        scratch.store.panic(false);
        let ledger = scratch.ledger();
        assert_eq!(names(&ledger).len(), 40);
        scratch.assert_agreed(ledger);
    }
}

#[test]
fn store_and_directory_follow_while_it_runs() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    // A journal that is half full is not waited for.
    for n in 0..20 {
        invite(&ledger, &format!("p{n}")).unwrap();
    }
    while scratch.store.records().unwrap().len() < 17 {
        std::thread::yield_now();
    }
    let key = SigningKey::fixed(7).vkey(ORIGIN);
    assert!(verify::directory(&scratch.path(), &key).unwrap().entries >= 17);
    scratch.assert_agreed(ledger);
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
    assert_eq!((names(&ledger).len(), ledger.size()), (0, 1));
    invite(&ledger, "bo").unwrap();
    scratch.assert_agreed(ledger);
}

/// While `ada` is being written, `bo` and `cy` are decided; then what `and_then` does happens, and all are written.
fn three_at_once(ledger: &Ledger, and_then: impl FnOnce(&mut Busy<'_>)) -> Vec<Result<u32, Refusal>> {
    let faults = ledger.faults();
    let mut busy = faults.busy();
    let decided = |most: usize| {
        while ledger.shared.decided().batch.entries.len() != most {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| invite(ledger, "ada"));
        // Taken, and stuck at the disk: the writer is held, and nothing is left to be taken.
        while ledger.shared.decided().size != 1 || ledger.shared.decided().writing.is_none() {
            std::thread::yield_now();
        }
        decided(0);
        let second = scope.spawn(|| invite(ledger, "bo"));
        decided(1);
        let third = scope.spawn(|| invite(ledger, "cy"));
        decided(2);
        assert_eq!(names(ledger), Vec::<String>::new(), "nobody is told of what is not durable");
        and_then(&mut busy);
        drop(busy);
        [first, second, third].map(|one| one.join().unwrap()).into()
    })
}

#[test]
fn what_is_decided_while_the_disk_is_busy_is_written_together() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let all = three_at_once(&ledger, |_| {});
    // Each was decided on what the one before had decided.
    assert_eq!(all, [Ok(20_001), Ok(20_002), Ok(20_003)]);
    let writes = ledger.faults().done().iter().filter(|op| *op == "write log.journal").count();
    assert_eq!(writes, 2, "the first by itself, and the others together");
    assert_eq!(names(&ledger), ["ada", "bo", "cy"]);
    let entries = logged(&ledger);
    assert_eq!(entries.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 1, 2]);
    scratch.assert_agreed(ledger);
}

#[test]
fn what_was_decided_on_what_cannot_be_logged_never_was() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    for one in three_at_once(&ledger, |busy| busy.fail()) {
        let refusal = one.unwrap_err();
        assert!(refusal.to_string().starts_with("nothing happens while it cannot be logged"), "{refusal}");
    }
    assert_eq!((names(&ledger), ledger.size()), (Vec::<String>::new(), 0));
    invite(&ledger, "dan").unwrap_err();
    drop(ledger);
    let ledger = scratch.ledger();
    assert_eq!(invite(&ledger, "dan").unwrap(), 20_001);
    assert_eq!(names(&ledger), ["dan"]);
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
    scratch.assert_agreed(ledger);
}

#[tokio::test]
async fn who_waits_holds_no_thread_and_who_goes_away_takes_nothing_back() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let faults = ledger.faults();
    let busy = faults.busy();
    let decide = |n: u32| {
        let decided = move |_: &State, _| Ok(Decided::new(vec![person(&format!("p{n}"), n)], n));
        ledger.decide(&call("person.invite"), decided).unwrap()
    };
    // One thread decides them all while the disk does nothing.
    let mut all: Vec<_> = (0..100).map(decide).collect();
    drop(all.pop());
    let mut first = Box::pin(all.remove(0).durable());
    assert!(futures::poll!(&mut first).is_pending());
    assert_eq!((names(&ledger).len(), ledger.size()), (0, 0));
    drop(busy);
    assert_eq!(first.await, Ok(0));
    for (n, one) in (1..).zip(all) {
        assert_eq!(one.durable().await, Ok(n));
    }
    // Of the last one nobody waits for it.
    let last = ledger.commit_if(&call("observe.person"), |_, _| None);
    assert_eq!((last, names(&ledger).len(), ledger.size()), (Ok(false), 100, 100));
    scratch.assert_agreed(ledger);
}

#[test]
fn where_the_disk_does_nothing_no_more_is_decided_than_can_be_written_at_once() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let faults = ledger.faults();
    let busy = faults.busy();
    let long = || {
        ledger.decide(&call("person.invite"), |_, _| {
            Ok(Decided { detail: "x".repeat(65_000).into(), ..Decided::new(Vec::new(), ()) })
        })
    };
    let mut all = vec![long().unwrap()];
    while ledger.shared.decided().writing.is_none() {
        std::thread::yield_now();
    }
    let refusal = loop {
        match long() {
            Ok(one) => all.push(one),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((all.len(), refusal.kind), (33, RefusalKind::Unavailable));
    assert!(refusal.to_string().contains("too much waits for holmd's disk"), "{refusal}");
    drop(busy);
    assert!(all.into_iter().all(|one| one.wait() == Ok(())));
    invite(&ledger, "ada").unwrap();
    assert_eq!(ledger.size(), 34);
    scratch.assert_agreed(ledger);
}

#[test]
fn what_was_decided_is_written_though_nobody_is_there_any_more() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let waits =
        ledger.decide(&call("person.invite"), |_, _| Ok(Decided::new(vec![person("ada", 20_001)], ())));
    drop(ledger);
    assert_eq!(waits.unwrap().wait(), Ok(()));
    let ledger = scratch.ledger();
    assert_eq!(names(&ledger), ["ada"]);
    scratch.assert_agreed(ledger);
}

#[test]
fn that_there_is_nothing_to_do_is_said_when_what_it_was_found_on_is_durable() {
    let scratch = Scratch::new();
    let ledger = scratch.ledger();
    let faults = ledger.faults();
    let busy = faults.busy();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| invite(&ledger, "ada"));
        while ledger.shared.decided().size != 1 {
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
    ledger.faults().panic();
    std::thread::scope(|scope| {
        let all: Vec<_> = ["bo", "cy", "dan"].map(|name| scope.spawn(|| invite(&ledger, name))).into();
        // All are told, and none waits for ever.
        assert!(all.into_iter().all(|one| one.join().unwrap().is_err()));
    });
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
        let all = three_at_once(&ledger, |busy| {
            busy.fail();
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
    drop(ledger);
    let ledger = scratch.ledger();
    invite(&ledger, "dan").unwrap();
    scratch.assert_agreed(ledger);
}
