//! A loss of power at each step of appends and of laying them down. What was not synced may be on the disk or not: of the
//! journal every 512 bytes by themselves, of the directory all, or nothing but what is certain.

use super::*;
use crate::audit::verify;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

/// What the disk may hold after a loss of power.
#[derive(Clone, Default)]
struct Image {
    /// Entries of appends that had returned.
    acknowledged: u64,
    dirs: Vec<BTreeMap<String, Vec<u8>>>,
    /// As last synced, and what was written since, by sector.
    journal: Vec<u8>,
    unsynced: BTreeMap<usize, Vec<u8>>,
}

impl Image {
    /// With some of what was not synced: nothing, all, each by itself, all but each, and each beginning of it.
    fn journals(&self) -> BTreeSet<Vec<u8>> {
        let count = self.unsynced.len();
        let with = |kept: &dyn Fn(usize) -> bool| {
            let mut bytes = self.journal.clone();
            for (_, (at, sector)) in self.unsynced.iter().enumerate().filter(|(n, _)| kept(*n)) {
                bytes[*at..at + sector.len()].copy_from_slice(sector);
            }
            bytes
        };
        let mut all = BTreeSet::from([with(&|_| false), with(&|_| true)]);
        for one in 0..count {
            all.extend([with(&|n| n == one), with(&|n| n != one), with(&|n| n < one)]);
        }
        all
    }
}

/// An operation, and of a rename the bytes of the file that is now in its place.
type Done = (String, Vec<u8>);

/// What is certain to be in the directory: of `old`, everything; of what was done since, files that were synced under
/// names that were synced, in directories that were.
fn certain(old: &BTreeMap<String, Vec<u8>>, done: &[Done]) -> BTreeMap<String, Vec<u8>> {
    let parent = |path: &str| path.rsplit_once('/').map_or(".", |(dir, _)| dir).to_owned();
    let synced_after = |at: usize, what: &str| done[at..].iter().any(|(op, _)| *op == format!("sync {what}"));
    let mut disk = old.clone();
    for (at, (op, bytes)) in done.iter().enumerate() {
        let Some(beside) = op.strip_prefix("rename ") else { continue };
        let file = beside.strip_suffix(".new").unwrap();
        let written = done[..at].iter().rposition(|(op, _)| *op == format!("write {beside}")).unwrap();
        let mut named = synced_after(at, &parent(file));
        let mut dir = parent(file);
        while dir != "." {
            let known = old.keys().any(|name| name.starts_with(&format!("{dir}/")));
            let made = done.iter().position(|(op, _)| {
                op.strip_prefix("make ")
                    .is_some_and(|made| made == dir || made.starts_with(&format!("{dir}/")))
            });
            named &= known || made.is_some_and(|at| synced_after(at, &parent(&dir)));
            dir = parent(&dir);
        }
        if named {
            let mut bytes = bytes.clone();
            if !done[written..at].iter().any(|(op, _)| *op == format!("sync {beside}")) {
                bytes.truncate(bytes.len() / 2);
            }
            disk.insert(file.to_owned(), bytes);
        }
    }
    disk
}

/// What is on the disk at each step of `act`, with what may be.
fn images(scratch: &mut Scratch, act: impl FnOnce(&mut Log)) -> Vec<Image> {
    let (dir, journal) = (scratch.path(), scratch.journal());
    let old = files(&dir);
    let first = Image {
        acknowledged: scratch.log.size(),
        dirs: vec![old.clone()],
        journal: fs::read(&journal).unwrap(),
        unsynced: BTreeMap::new(),
    };
    let all = Arc::new(Mutex::new((vec![first], Vec::<Done>::new())));
    let seen = Arc::clone(&all);
    scratch.log.faults().see(move |operation| {
        let mut seen = seen.lock().unwrap();
        let renamed = operation.strip_prefix("rename ").and_then(|beside| beside.strip_suffix(".new"));
        let bytes = renamed.map(|file| fs::read(dir.join(file)).unwrap()).unwrap_or_default();
        seen.1.push((operation.to_owned(), bytes));
        let mut image = seen.0.last().unwrap().clone();
        let now = fs::read(&journal).unwrap();
        for (n, sector) in now.chunks(SECTOR).enumerate() {
            if image.journal[n * SECTOR..][..SECTOR] != *sector {
                image.unsynced.insert(n * SECTOR, sector.to_vec());
            }
        }
        if operation == "sync log.journal" {
            (image.journal, image.unsynced) = (now, BTreeMap::new());
        }
        image.dirs = vec![certain(&old, &seen.1), files(&dir)];
        seen.0.push(image);
    });
    act(&mut scratch.log);
    scratch.log.faults().plan(None);
    let (mut all, _) = Arc::try_unwrap(all).ok().unwrap().into_inner().unwrap();
    // What is acknowledged by then is so only when the append returns, which is after its last step.
    let last = all.last_mut().unwrap();
    last.acknowledged = scratch.log.size();
    all
}

/// Each of them opens, with all that was acknowledged and nothing but what was appended, and goes on.
fn assert_recovers(images: &[Image], upto: u64) {
    let dir = tempdir();
    let (path, journal) = (dir.path().join("log"), dir.path().join("log.journal"));
    for (step, image) in images.iter().enumerate() {
        for files in &image.dirs {
            for bytes in image.journals() {
                lay_out(&path, files);
                fs::write(&journal, bytes).unwrap();
                let mut log = Log::open(&path, ORIGIN, key()).unwrap_or_else(|e| panic!("step {step}: {e}"));
                let size = log.size();
                assert!((image.acknowledged..=upto).contains(&size), "{size} at step {step}");
                assert_eq!(log.read(0, size).unwrap(), bodies(0, size));
                log.append(&bodies(size, upto + 1)).unwrap();
                log.flush().unwrap();
                assert_eq!(verify::directory(&path, &vkey()).unwrap().entries, upto + 1);
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_missing_and_nothing_half_written_is_accepted() {
    for start in [0, 5, 250, 255] {
        let mut scratch = Scratch::new(start);
        // Twice, so that the journal holds what was before.
        for _ in 0..2 {
            for count in [1, 2, 12] {
                let to = scratch.log.size() + count;
                let found = images(&mut scratch, |log| log.append(&bodies(to - count, to)).unwrap());
                assert_recovers(&found, to);
            }
            let size = scratch.log.size();
            let found = images(&mut scratch, |log| log.flush().unwrap());
            assert_recovers(&found, size);
        }
    }
}

#[test]
fn what_no_journal_takes_too() {
    let mut scratch = Scratch::new(5);
    scratch.log.append(&bodies(5, 7)).unwrap();
    let found = images(&mut scratch, |log| log.append(&bodies(7, 520)).unwrap());
    assert_recovers(&found, 520);
}
