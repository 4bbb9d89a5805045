//! Old entries go: killed at each write, beside people who change things, and by terms that change.

use super::*;
use crate::audit::{CARRY, EXPIRE, Entry, LogError};
use crate::domain::retention::{Retention, Terms};
use crate::ledger::retain::Keeper;
use std::cell::Cell;

/// Entries that go together, here.
const SEGMENT: u64 = 256;

thread_local! {
    static DAY: Cell<i64> = const { Cell::new(0) };
}

/// A clock that each test sets by itself.
fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000 + DAY.get() * 86_400).unwrap()
}

fn open(scratch: &Scratch) -> Result<Ledger, LedgerError> {
    Ledger::open(Box::new(scratch.store.clone()), scratch.log(), now)
}

fn kept_180_days(_: &State) -> Option<Terms> {
    Some(Terms::of_days(180))
}

/// 600 entries of the first day: twenty people come, one goes by another role, and much is only noted.
fn long_ago() -> Scratch {
    DAY.set(0);
    let scratch = Scratch::new();
    let ledger = open(&scratch).unwrap();
    for n in 0..20 {
        invite(&ledger, &format!("p{n}")).unwrap();
    }
    for n in 0..580 {
        ledger.note(&call("slice.read"), serde_json::json!({ "n": n })).unwrap();
    }
    assert_eq!(ledger.size(), 600);
    scratch
}

/// Until all is done that is to be done.
fn through(scratch: &Scratch, mut keeper: Keeper) {
    for _ in 0..3 {
        // With the ledger goes what the store and the directory lack.
        if keeper.look(&open(scratch).unwrap(), kept_180_days).unwrap() {
            return;
        }
    }
    panic!("it does not come to an end");
}

fn key() -> String {
    SigningKey::fixed(7).vkey(ORIGIN)
}

fn gone(scratch: &Scratch) -> u64 {
    verify::directory(&scratch.path(), &key()).unwrap().gone.map_or(0, |gone| gone.entries)
}

fn actions(scratch: &Scratch) -> Vec<String> {
    let log = scratch.log();
    let bodies = log.read(log.first().unwrap().max(600), log.size()).unwrap();
    bodies.iter().map(|body| Entry::from_bytes(body).unwrap().action).collect()
}

/// What is known of people.
fn people(ledger: &Ledger) -> Vec<Record> {
    ledger.state().records().into_iter().filter(|record| matches!(record, Record::Person(_))).collect()
}

#[test]
fn what_is_past_goes_and_a_store_that_is_lost_is_made_from_what_is_left() {
    let scratch = long_ago();
    DAY.set(179);
    through(&scratch, Keeper::new(SEGMENT));
    assert_eq!((gone(&scratch), actions(&scratch).len()), (0, 0), "a day too early");
    DAY.set(180);
    let before = people(&open(&scratch).unwrap());
    let (old, applied) = (scratch.store.records().unwrap(), scratch.store.applied().unwrap().unwrap());
    let mut keeper = Keeper::new(SEGMENT);
    let ledger = open(&scratch).unwrap();
    assert!(!keeper.look(&ledger, kept_180_days).unwrap(), "the directory does not have it yet");
    assert_eq!(gone(&scratch), 0);
    assert_eq!(ledger.first(), 512);
    while !keeper.look(&ledger, kept_180_days).unwrap() {
        std::thread::yield_now();
    }
    assert_eq!(gone(&scratch), 512);
    assert!(matches!(ledger.entries(511, 512), Err(LogError::Expired { first: 512 })));
    assert!(matches!(ledger.entries(0, 600), Err(LogError::Expired { first: 512 })));
    assert!(ledger.entries(0, 0).unwrap().is_empty());
    assert_eq!(ledger.entries(512, 600).unwrap().len(), 88);
    assert_eq!(ledger.leaves(0, 512).unwrap().len(), 512);
    assert_eq!(people(&ledger), before);
    invite(&ledger, "zoe").unwrap();
    let state = ledger.state();
    drop(ledger);
    let (last, carried) =
        actions(&scratch).split_last().map(|(last, rest)| (last.clone(), rest.to_vec())).unwrap();
    assert_eq!((last.as_str(), carried.last().unwrap().as_str()), ("person.invite", EXPIRE));
    assert!(carried.len() > 1 && carried[..carried.len() - 1].iter().all(|action| action == CARRY));

    assert_eq!(replay(&scratch.log()).unwrap(), state.records());
    assert_eq!(compare(&scratch.store, &scratch.log()).unwrap(), Standing::Same);
    // Lost; of before all that, which knows what is gone; and of in between.
    *scratch.store.0.0.tables() = Default::default();
    assert!(matches!(compare(&scratch.store, &scratch.log()).unwrap(), Standing::Behind(_)));
    assert_eq!(*open(&scratch).unwrap().state(), *state);
    scratch.store.replace(&old, applied).unwrap();
    assert!(matches!(compare(&scratch.store, &scratch.log()).unwrap(), Standing::Behind(_)));
    assert_eq!(*open(&scratch).unwrap().state(), *state);
    let early = Applied { size: 10, root: scratch.log().root_at(10).unwrap() };
    scratch.store.replace(&old[..10], early).unwrap();
    assert!(matches!(compare(&scratch.store, &scratch.log()).unwrap(), Standing::Behind(_)));
    assert_eq!(*open(&scratch).unwrap().state(), *state);
    let late = Applied { size: 600, root: scratch.log().root_at(600).unwrap() };
    scratch.store.replace(&old[1..], late).unwrap();
    let compared = compare(&scratch.store, &scratch.log()).unwrap();
    assert!(matches!(compared, Standing::Behind(_)), "what it lacks is in what it reads");
    assert_eq!(*open(&scratch).unwrap().state(), *state);

    // Nothing more until more is past.
    through(&scratch, Keeper::new(SEGMENT));
    assert_eq!(actions(&scratch).last().unwrap(), "person.invite");
}

#[test]
fn a_kill_at_any_write_loses_nothing_and_the_next_start_goes_on() {
    DAY.set(0);
    let made = long_ago();
    let (records, applied) = (made.store.records().unwrap(), made.store.applied().unwrap().unwrap());
    let again = || {
        let scratch = Scratch { dir: tempfile::tempdir().unwrap(), store: Disk::default() };
        let copied =
            std::process::Command::new("cp").arg("-r").arg(made.path()).arg(scratch.dir.path()).status();
        assert!(copied.unwrap().success());
        scratch.store.replace(&records, applied).unwrap();
        scratch
    };
    DAY.set(200);
    let before = people(&open(&again()).unwrap());
    // In the entries, and what is laid down when the ledger goes; then where what they say is done.
    for (stage, steps) in [(0, 24), (1, 4)] {
        for (step, when) in (0..steps).flat_map(|step| [(step, When::Before), (step, When::After)]) {
            let scratch = again();
            if stage == 1 {
                assert!(!Keeper::new(SEGMENT).look(&open(&scratch).unwrap(), kept_180_days).unwrap());
            }
            let ledger = open(&scratch).unwrap();
            ledger.faults().plan(Some((step, when)));
            let looked = Keeper::new(SEGMENT).look(&ledger, kept_180_days);
            drop(ledger);
            let what = format!("{stage} {step} {when:?}: {looked:?}");
            assert_eq!(people(&open(&scratch).unwrap()), before, "{what}");
            verify::directory(&scratch.path(), &key()).unwrap_or_else(|e| panic!("{what}: {e}"));
            // The store goes as well.
            let lost = Scratch { dir: tempfile::tempdir().unwrap(), store: Disk::default() };
            let made_anew = Ledger::open(Box::new(lost.store.clone()), scratch.log(), now).unwrap();
            assert_eq!(people(&made_anew), before, "{what}");
            drop(made_anew);
            through(&scratch, Keeper::new(SEGMENT));
            assert_eq!(gone(&scratch), 512, "{what}");
            let ledger = open(&scratch).unwrap();
            assert_eq!((people(&ledger), ledger.first()), (before.clone(), 512), "{what}");
            drop(ledger);
            assert_eq!(replay(&scratch.log()).unwrap(), sorted(scratch.store.records().unwrap()), "{what}");
        }
    }
}

#[test]
fn who_changes_something_meanwhile_has_the_last_word() {
    let scratch = long_ago();
    let ledger = open(&scratch).unwrap();
    for n in 0..400 {
        invite(&ledger, &format!("many{n}")).unwrap();
    }
    DAY.set(400);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            DAY.set(400);
            let mut uid = 0;
            while !over.load(Ordering::Relaxed) {
                uid += 1;
                let name = format!("many{}", (uid * 37) % 400);
                ledger
                    .commit(&call("person.invite"), |_, _| Ok(Decided::new(vec![person(&name, uid)], ())))
                    .unwrap();
            }
        });
        let looked = Keeper::new(SEGMENT).look(&ledger, kept_180_days);
        over.store(true, Ordering::Relaxed);
        changes.join().unwrap();
        looked.unwrap();
    });
    assert_eq!(ledger.first(), 768);
    let state = ledger.state();
    drop(ledger);
    through(&scratch, Keeper::new(SEGMENT));
    assert_eq!(gone(&scratch), 768);
    assert_eq!(replay(&scratch.log()).unwrap(), state.records());
    let carried = actions(&scratch).iter().filter(|action| *action == CARRY).count();
    assert!(carried > 1, "in more than one entry");
}

#[test]
fn terms_that_change_before_it_is_written_down_end_it() {
    let scratch = long_ago();
    DAY.set(400);
    let ledger = open(&scratch).unwrap();
    let asked = Cell::new(0);
    let changing = |_: &State| {
        asked.set(asked.get() + 1);
        Some(Terms::of_days(180 + asked.get()))
    };
    assert!(Keeper::new(SEGMENT).look(&ledger, changing).unwrap());
    assert!(Keeper::new(SEGMENT).look(&ledger, |_| None).unwrap());
    assert!(Keeper::new(SEGMENT).look(&ledger, |_| Some(Terms::of_days(0))).unwrap());
    assert_eq!(ledger.first(), 0);
    drop(ledger);
    assert!(actions(&scratch).iter().all(|action| action == CARRY));
    assert_eq!(gone(&scratch), 0);
}

#[test]
fn each_look_reads_on_from_where_the_one_before_stopped() {
    let scratch = long_ago();
    let ledger = open(&scratch).unwrap();
    let mut keeper = Keeper::new(1 << 20);
    DAY.set(400);
    assert!(keeper.look(&ledger, kept_180_days).unwrap());
    assert_eq!(keeper.next(), 600);
    ledger.note(&call("slice.read"), serde_json::Value::Null).unwrap();
    assert!(keeper.look(&ledger, kept_180_days).unwrap());
    assert_eq!((keeper.next(), ledger.first()), (600, 0));
    assert!(keeper.look(&ledger, |_| Some(Terms::of_days(500))).unwrap());
    assert_eq!(keeper.next(), 0, "other terms, and nothing is past");
}

#[test]
fn a_log_whose_beginning_somebody_removed_is_refused() {
    let scratch = long_ago();
    std::fs::remove_file(scratch.path().join("tile/entries/000")).unwrap();
    let refused = |error: LedgerError| {
        assert!(matches!(error, LedgerError::Log(LogError::Missing(_))), "{error}");
    };
    refused(open(&scratch).err().unwrap());
    refused(replay(&scratch.log()).err().unwrap());
    // Also where the store was made to say that it may be so, which the log does not.
    let mut records = scratch.store.records().unwrap();
    records.push(Record::Retention(Retention { first: 256, since: now() }));
    let applied = scratch.store.applied().unwrap().unwrap();
    scratch.store.replace(&records, applied).unwrap();
    refused(compare(&scratch.store, &scratch.log()).err().unwrap());
    assert!(verify::directory(&scratch.path(), &key()).is_err());
}
