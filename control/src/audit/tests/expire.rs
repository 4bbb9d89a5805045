//! Old entries go, and what is left is still the log that was signed.

use super::tamper::Files;
use super::*;
use crate::audit::disk::faults::When;
use crate::audit::export::{self, Item};
use crate::audit::verify::{self, Checker, VerifyError};
use crate::audit::{Checkpoint, EXPIRE, Gone, LogError, Outline};
use serde_json::{Value, json};

/// The entry that says that those before `first` may be gone.
pub(super) fn expire(index: u64, first: impl Into<Value>) -> Entry {
    let detail = json!({ "first": first.into() });
    Entry { actor: "holmd".to_owned(), action: EXPIRE.to_owned(), detail, ..entry(index) }
}

/// A log of `size` entries, of which number `at` says that those before `first` may be gone.
pub(super) fn telling(size: u64, at: u64, first: u64) -> Vec<Vec<u8>> {
    let mut all = bodies(0, size);
    all[at as usize] = expire(at, first).to_bytes().unwrap();
    all
}

/// Without the bundles of its first entries.
pub(super) fn without(files: &Files, bundles: std::ops::Range<u64>) -> Files {
    let mut files = files.clone();
    for bundle in bundles {
        files.remove(&format!("tile/entries/{bundle:03}")).unwrap();
    }
    files
}

fn scratch(size: u64, at: u64, first: u64) -> Scratch {
    let mut scratch = Scratch::new(0);
    scratch.log.append(&telling(size, at, first)).unwrap();
    scratch.log.flush().unwrap();
    scratch
}

/// Hashes alone of what is gone, and the entries after it.
fn items(log: &Log) -> Vec<Item> {
    let first = log.first().unwrap();
    let gone = (0..first).step_by(256).map(|start| Item::Gone(log.leaves(start, start + 256).unwrap()));
    gone.chain(log.read(first, log.size()).unwrap().into_iter().map(Item::Entry)).collect()
}

fn online(log: &Log, items: &[Item]) -> Result<verify::Verified, VerifyError> {
    let mut checker = Checker::new(log.checkpoint(), &vkey())?;
    for item in items {
        match item {
            Item::Entry(body) => checker.push(body)?,
            Item::Gone(leaves) => checker.skip(leaves)?,
        }
    }
    checker.finish()
}

#[test]
fn what_is_before_the_first_goes_and_all_else_is_proven_still() {
    let mut scratch = scratch(1100, 1050, 768);
    let before = files(&scratch.path());
    assert_eq!(scratch.log.first().unwrap(), 0);
    scratch.log.to_expire(768, 1100).unwrap().run().unwrap();
    assert_eq!(files(&scratch.path()), without(&before, 0..3));
    // Also while it goes on, and anew.
    scratch.log.append(&[body(1100)]).unwrap();
    scratch.log.flush().unwrap();
    scratch = scratch.reopen();
    let log = &scratch.log;
    assert_eq!(log.first().unwrap(), 768);
    assert!(log.begins_by(768).is_ok() && log.begins_by(1024).is_ok());
    let missing = log.begins_by(512).unwrap_err().to_string();
    assert!(missing.contains("tile/entries/002"), "{missing}");
    assert!(matches!(log.read(767, 768), Err(LogError::Missing(_))));
    assert_eq!(log.read(768, 1050).unwrap(), bodies(768, 1050));
    // By the hashes, which are all there.
    let head = Checkpoint::verify(log.checkpoint(), &vkey()).unwrap();
    for index in [0, 255, 256, 767, 768, 1100] {
        verify::inclusion(&head, index, &body(index), &log.inclusion(index).unwrap()).unwrap();
    }
    for size in [0, 1, 256, 300, 767, 768, 1000] {
        let old = Checkpoint { size, root: log.root_at(size).unwrap(), ..head.clone() };
        assert_eq!(old.root, Scratch::new(size).log.root());
        verify::consistency(&old, &head, &log.consistency(size).unwrap()).unwrap();
    }
    assert_eq!(log.leaves(250, 260).unwrap().concat(), tamper::leaves(&bodies(250, 260)));

    let verified = verify::directory(&scratch.path(), &vkey()).unwrap();
    let gone = Gone { entries: 768, may: 768, at: entry(1050).time };
    assert_eq!((verified.entries, verified.gone), (1101, Some(gone)));
    assert_eq!((verified.first, verified.last), (Some(entry(768).time), Some(entry(1100).time)));
    assert_eq!(online(log, &items(log)).unwrap(), verified);
    // What it was before, also where that is gone by now.
    for size in [1, 256, 700, 768, 1000] {
        let old = Checkpoint { size, root: log.root_at(size).unwrap(), ..head.clone() };
        let judge = |old: Checkpoint| {
            verify::directory_from(&scratch.path(), &vkey(), &[old], |e: &Outline| Some(e.index))
        };
        assert_eq!(judge(old.clone()).unwrap().1, (768..1101).collect::<Vec<_>>());
        let other = Checkpoint { root: [7; 32], ..old };
        assert!(matches!(judge(other), Err(VerifyError::Rewritten(of)) if of == size));
    }
    let out = scratch.dir.path().join("export");
    assert_eq!(export::write(&out, log.checkpoint(), &vkey(), &[], items(log)).unwrap(), verified);
    assert_eq!(verify::directory(&out, &vkey()).unwrap(), verified);
    let mut exported = files(&out);
    exported.remove("vkey").unwrap();
    assert_eq!(exported, files(&scratch.path()));
}

#[test]
fn nothing_goes_before_the_entry_that_says_so_lies_in_the_directory() {
    let mut scratch = Scratch::new(600);
    scratch.log.append(&[expire(600, 512).to_bytes().unwrap()]).unwrap();
    assert!(scratch.log.to_expire(512, 601).is_none());
    scratch.log.flush().unwrap();
    scratch.log.to_expire(512, 601).unwrap().run().unwrap();
    assert_eq!(scratch.log.first().unwrap(), 512);
}

#[test]
fn a_kill_on_the_way_leaves_a_good_log_and_the_next_start_goes_on() {
    let steps = [
        "remove tile/entries/000",
        "remove tile/entries/001",
        "remove tile/entries/002",
        "sync tile/entries",
    ];
    for (step, when) in (0..steps.len()).flat_map(|step| [(step, When::Before), (step, When::After)]) {
        let mut scratch = scratch(1000, 900, 768);
        scratch.log.faults().plan(Some((step, when)));
        scratch.log.to_expire(768, 1000).unwrap().run().unwrap_err();
        let verified = verify::directory(&scratch.path(), &vkey()).unwrap();
        let gone = (step + usize::from(when == When::After)).min(3) as u64 * 256;
        assert_eq!(verified.gone.map_or(0, |gone| gone.entries), gone, "{step} {when:?}");
        scratch = scratch.reopen();
        assert_eq!(scratch.log.first().unwrap(), gone);
        scratch.log.faults().plan(None);
        scratch.log.to_expire(768, 1000).unwrap().run().unwrap();
        let left = usize::try_from(gone / 256).unwrap();
        let expected = if left < 3 { &steps[left..] } else { &[] };
        assert_eq!(scratch.log.faults().done(), expected);
        assert_eq!(verify::directory(&scratch.path(), &vkey()).unwrap().gone.unwrap().entries, 768);
    }
    // What a loss of power, or a copy that was put back, left in between goes as well.
    let scratch = scratch(1000, 900, 768);
    fs::remove_file(scratch.path().join("tile/entries/001")).unwrap();
    assert!(verify::directory(&scratch.path(), &vkey()).is_err());
    scratch.log.to_expire(768, 1000).unwrap().run().unwrap();
    verify::directory(&scratch.path(), &vkey()).unwrap();
}

#[test]
fn more_than_one_directory() {
    let (size, first) = (256 * 1003 + 5, 256 * 1002);
    let scratch = scratch(size, size - 1, first);
    scratch.log.faults().plan(None);
    scratch.log.to_expire(first, size).unwrap().run().unwrap();
    let done = scratch.log.faults().done();
    assert_eq!((done.len(), done[1000].as_str()), (1004, "sync tile/entries"));
    assert_eq!(
        &done[1001..],
        ["remove tile/entries/x001/000", "remove tile/entries/x001/001", "sync tile/entries/x001"]
    );
    assert_eq!(verify::directory(&scratch.path(), &vkey()).unwrap().gone.unwrap().entries, first);
    assert_eq!(scratch.reopen().log.first().unwrap(), first);
}

#[test]
fn what_is_missing_without_a_reason_is_named() {
    let judge = |files: &Files| {
        let dir = tempfile::tempdir().unwrap();
        lay_out(&dir.path().join("copy"), files);
        verify::directory(&dir.path().join("copy"), &vkey()).map_err(|e| e.to_string())
    };
    let good = agree::log_of(&telling(1100, 1050, 512), key());
    let at = entry(1050).time;
    let gone = |entries| Some(Gone { entries, may: 512, at });
    assert_eq!(judge(&good).unwrap().gone, None);
    assert_eq!(judge(&without(&good, 0..1)).unwrap().gone, gone(256));
    assert_eq!(judge(&without(&good, 0..2)).unwrap().gone, gone(512));
    assert_eq!(
        judge(&without(&good, 0..3)).unwrap_err(),
        "`tile/entries/000` is missing, and no entry of holmd's says that the first 768 may be gone"
    );
    assert_eq!(judge(&without(&good, 1..2)).unwrap_err(), "`tile/entries/001` is missing");
    let mut files = without(&good, 0..1);
    files.remove("tile/0/000").unwrap();
    assert_eq!(judge(&files).unwrap_err(), "`tile/0/000` is missing");
    let mut files = without(&good, 0..1);
    files.get_mut("tile/0/000").unwrap()[0] ^= 1;
    assert_eq!(
        judge(&files).unwrap_err(),
        "`tile/1/000.p/4` does not hold the hash over the entries from 0 on"
    );
}

#[test]
fn over_the_wire_whole_bundles_alone_may_be_hashes_and_only_at_the_front() {
    let mut scratch = scratch(1000, 900, 512);
    scratch.log.to_expire(512, 1000).unwrap().run().unwrap();
    // What was in memory still is not there any more.
    scratch = scratch.reopen();
    let log = &scratch.log;
    let good = items(log);
    online(log, &good).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<Item>)| {
        let mut items = good.clone();
        change(&mut items);
        online(log, &items).unwrap_err().to_string()
    };
    let missing = |bundle: &str| format!("`tile/entries/{bundle}` is missing");
    let leaves = |start, end| Item::Gone(log.leaves(start, end).unwrap());
    assert_eq!(refused(&|all| all[0] = leaves(0, 255)), missing("000"));
    assert_eq!(refused(&|all| all[0] = leaves(0, 512)), missing("000"));
    assert_eq!(refused(&|all| drop(all.splice(3..259, [leaves(515, 771)]))), missing("002"));
    assert_eq!(refused(&|all| drop(all.splice(258.., [leaves(768, 1000)]))), missing("003.p/232"));
    // More than may be.
    let more = refused(&|all| drop(all.splice(2..258, [leaves(512, 768)])));
    assert!(more.ends_with("the first 768 may be gone"), "{more}");
    let other = refused(&|all| all[1] = Item::Gone(vec![[7; 32]; 256]));
    assert!(other.starts_with("the 1000 entries are not those"), "{other}");
}
