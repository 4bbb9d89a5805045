//! A kill, or a loss of power, at each step of an append.

use super::*;
use crate::audit::disk::faults::When;
use crate::audit::{LogError, verify};
use std::sync::Mutex;

/// From every kind of edge: none, partial tiles, tiles about to fill, tiles just filled.
const CASES: [(u64, u64); 6] = [(0, 1), (5, 6), (5, 300), (255, 256), (255, 257), (256, 257)];

/// A log just opened; made once for each size.
fn opened(size: u64) -> Scratch {
    static MADE: Mutex<BTreeMap<u64, BTreeMap<String, Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let dir = tempfile::tempdir().unwrap();
    let mut made = MADE.lock().unwrap();
    lay_out(&dir.path().join("log"), made.entry(size).or_insert_with(|| files(&Scratch::new(size).path())));
    let log = Log::open(&dir.path().join("log"), ORIGIN, key()).unwrap();
    Scratch { dir, log }
}

/// Operations of an append that nothing disturbs.
fn operations(from: u64, to: u64) -> Vec<String> {
    let mut scratch = opened(from);
    scratch.log.disk().faults.plan(None);
    scratch.log.append(&bodies(from, to)).unwrap();
    scratch.log.disk().faults.done()
}

/// An append from one size to another that fails at a step.
fn disturbed(from: u64, to: u64, step: usize, when: When) -> (Scratch, Result<(), LogError>) {
    let mut scratch = opened(from);
    scratch.log.disk().faults.plan(Some((step, when)));
    let result = scratch.log.append(&bodies(from, to));
    (scratch, result)
}

fn each_step(mut test: impl FnMut(u64, u64, usize, When)) {
    for (from, to) in CASES {
        for step in 0..operations(from, to).len() {
            test(from, to, step, When::Before);
            test(from, to, step, When::After);
        }
    }
}

/// The log is what was appended, and nothing else is there.
fn assert_whole(scratch: &Scratch, size: u64) {
    assert_eq!(scratch.log.size(), size);
    assert_eq!(scratch.log.read(0, size).unwrap(), bodies(0, size));
    assert_eq!(verify::directory(&scratch.path(), &vkey()).unwrap().entries, size);
}

#[test]
fn the_order_of_an_append() {
    insta::assert_snapshot!(operations(255, 257).join("\n"));
}

#[test]
fn in_a_running_log_only_what_changes_is_written() {
    let mut scratch = Scratch::new(300);
    scratch.log.append(&bodies(300, 301)).unwrap();
    scratch.log.disk().faults.plan(None);
    scratch.log.append(&bodies(301, 302)).unwrap();
    insta::assert_snapshot!(scratch.log.disk().faults.done().join("\n"));
}

#[test]
fn a_failed_append_can_be_made_again() {
    each_step(|from, to, step, when| {
        let (mut scratch, result) = disturbed(from, to, step, when);
        if result.is_err() {
            // As it was, and readable, while the disk is broken.
            assert_eq!(scratch.log.size(), from);
            assert_eq!(scratch.log.read(0, from).unwrap(), bodies(0, from));
            assert!(scratch.log.append(&bodies(from, to)).is_err(), "the disk is still broken");
            scratch.log.disk().faults.plan(None);
            scratch.log.append(&bodies(from, to)).unwrap();
        }
        assert_whole(&scratch, to);
        assert_whole(&scratch.reopen(), to);
    });
}

#[test]
fn after_a_kill_it_is_the_old_log_or_the_new() {
    each_step(|from, to, step, when| {
        let (scratch, result) = disturbed(from, to, step, when);
        let mut scratch = scratch.reopen();
        let size = scratch.log.size();
        assert!(size == to || (size == from && result.is_err()), "{size} at step {step} of {from} to {to}");
        assert_eq!(scratch.log.read(0, size).unwrap(), bodies(0, size));
        // What the store's outbox still has is appended, and nothing of the kill is left.
        scratch.log.append(&bodies(size, to + 1)).unwrap();
        assert_whole(&scratch, to + 1);
    });
}

/// What of an append is certain to be on the disk: of `old`, everything; of what was done since, files
/// that were synced under names that were synced, in directories that were.
fn certain(
    old: &BTreeMap<String, Vec<u8>>,
    new: &BTreeMap<String, Vec<u8>>,
    done: &[String],
) -> BTreeMap<String, Vec<u8>> {
    let parent = |path: &str| path.rsplit_once('/').map_or(".", |(dir, _)| dir).to_owned();
    let synced_after = |at: usize, what: &str| done[at..].iter().any(|op| *op == format!("sync {what}"));
    let mut disk = old.clone();
    for (at, op) in done.iter().enumerate() {
        let Some(beside) = op.strip_prefix("rename ") else { continue };
        let file = beside.strip_suffix(".new").unwrap();
        let written = done[..at].iter().rposition(|op| *op == format!("write {beside}")).unwrap();
        let mut named = synced_after(at, &parent(file));
        let mut dir = parent(file);
        while dir != "." {
            let known = old.keys().any(|name| name.starts_with(&format!("{dir}/")));
            let made = done.iter().position(|op| {
                op.strip_prefix("make ")
                    .is_some_and(|made| made == dir || made.starts_with(&format!("{dir}/")))
            });
            named &= known || made.is_some_and(|at| synced_after(at, &parent(&dir)));
            dir = parent(&dir);
        }
        if named {
            let mut bytes = new.get(file).cloned().unwrap_or_default();
            if !done[written..at].iter().any(|op| *op == format!("sync {beside}")) {
                bytes.truncate(bytes.len() / 2);
            }
            disk.insert(file.to_owned(), bytes);
        }
    }
    disk
}

#[test]
fn after_a_loss_of_power_too() {
    each_step(|from, to, step, when| {
        let old = files(&opened(from).path());
        let (scratch, result) = disturbed(from, to, step, when);
        let done = scratch.log.disk().faults.done();
        let left = certain(&old, &files(&scratch.path()), &done);
        let dir = scratch.path();
        drop(scratch.log);
        lay_out(&dir, &left);
        let mut log = Log::open(&dir, ORIGIN, key()).unwrap();
        let size = log.size();
        assert!(size == to || (size == from && result.is_err()), "{size} at step {step} of {from} to {to}");
        assert_eq!(log.read(0, size).unwrap(), bodies(0, size));
        log.append(&bodies(size, to + 1)).unwrap();
        assert_eq!(verify::directory(&dir, &vkey()).unwrap().entries, to + 1);
    });
}

#[test]
fn a_log_signs_no_second_history() {
    let steps = operations(5, 6);
    let renamed = steps.iter().position(|op| op == "rename checkpoint.new").unwrap();
    for (step, when) in [(renamed, When::Before), (renamed, When::After), (renamed + 1, When::Before)] {
        let (mut scratch, result) = disturbed(5, 6, step, when);
        assert!(result.is_err());
        scratch.log.disk().faults.plan(None);
        let refused = scratch.log.append(&[b"something else".to_vec()]).unwrap_err();
        assert!(matches!(refused, LogError::Doubtful), "{refused}");
        assert!(matches!(scratch.log.append(&bodies(5, 7)), Err(LogError::Doubtful)));
        scratch.log.append(&bodies(5, 6)).unwrap();
        scratch.log.append(&bodies(6, 7)).unwrap();
        assert_whole(&scratch, 7);
    }
    // Before that, nothing was signed that anybody could have seen.
    let (mut scratch, result) = disturbed(5, 6, 0, When::After);
    assert!(result.is_err());
    scratch.log.disk().faults.plan(None);
    scratch.log.append(&bodies(5, 8)).unwrap();
    assert_whole(&scratch, 8);
}

#[test]
fn what_a_kill_left_behind_is_verified_where_it_can_be_and_named_where_not() {
    let steps = operations(5, 6);
    let removed = steps.iter().position(|op| op.starts_with("remove")).unwrap();
    let (scratch, result) = disturbed(5, 6, removed, When::Before);
    assert!(result.is_ok(), "what is not tidied up is no failure");
    verify::directory(&scratch.path(), &vkey()).unwrap();
    let older = scratch.path().join("tile/entries/000.p/5");
    let mut bytes = fs::read(&older).unwrap();
    bytes[9] ^= 1;
    fs::write(&older, bytes).unwrap();
    let error = verify::directory(&scratch.path(), &vkey()).unwrap_err().to_string();
    assert_eq!(error, "`tile/entries/000.p/5` is older than the checkpoint and does not agree with it");

    let signed = steps.iter().position(|op| op == "write checkpoint.new").unwrap();
    let (scratch, result) = disturbed(5, 6, signed, When::Before);
    assert!(result.is_err());
    let error = verify::directory(&scratch.path(), &vkey()).unwrap_err().to_string();
    assert!(error.starts_with("`tile/0/000.p/6` is no part of the log up to its checkpoint"), "{error}");
}
