//! A disk on which not a byte is free. The journal has its whole length from the start and is written over in place: what is
//! refused then can still be written down, and that is why nothing else is kept in reserve.

use super::*;
use crate::store::SledStore;
use std::path::Path;
use std::process::Command;

/// A disk of its own, in memory.
struct Small(tempfile::TempDir);

impl Small {
    /// None where it cannot be mounted, which takes root; and that is said.
    fn mounted(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=700");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "holm-test"]).arg(dir.path()).output();
        match mount {
            Ok(done) if done.status.success() => Some(Self(dir)),
            failed => {
                println!("skipped: a disk of its own cannot be mounted: {failed:?}");
                None
            }
        }
    }

    fn ledger(&self) -> Ledger {
        let store = SledStore::open(&self.0.path().join("store")).unwrap();
        Ledger::open(Box::new(store), self.log(), clock).unwrap()
    }

    fn log(&self) -> Log {
        Log::open(&self.0.path().join("log"), ORIGIN, SigningKey::fixed(7)).unwrap()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // A store that was closed keeps its files for a moment.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Take what is free, to the last byte.
fn fill(ballast: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(ballast).unwrap();
    let full = loop {
        if let Err(failure) = file.write_all(&[1; 4096]) {
            break failure;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn where_not_a_byte_is_free_what_is_refused_is_still_logged_until_the_journal_is_full() {
    let Some(disk) = Small::mounted("4m") else { return };
    let ballast = disk.0.path().join("ballast");
    drop(Log::create(&disk.0.path().join("log"), ORIGIN, SigningKey::fixed(7)).unwrap());
    let ledger = disk.ledger();
    invite(&ledger, "ada").unwrap();
    fill(&ballast);

    let refuse = |ledger: &Ledger| {
        let denied = Refusal::new(RefusalKind::Denied, "not this one");
        ledger.commit::<()>(&call("slice.request"), |_, _| Err(denied)).unwrap_err().kind
    };
    let mut refused = 0;
    while refuse(&ledger) == RefusalKind::Denied {
        refused += 1;
        assert!(refused < 100, "the disk is not full");
    }
    // Of 32 records that a journal of tests holds; holmd's holds 2048, or fewer that are longer.
    assert!(refused >= 28, "{refused}");
    // Not one more is answered; and what was, is there.
    assert_eq!(refuse(&ledger), RefusalKind::Unavailable);
    let failure = invite(&ledger, "bo").unwrap_err();
    assert!(failure.to_string().contains("No space left"), "{failure}");
    assert_eq!((ledger.size(), names(&ledger)), (1 + refused, vec!["ada".to_owned()]));

    // A kill, as far as the log can tell: nothing of it was laid down.
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(refuse(&ledger), RefusalKind::Denied, "it goes on by itself");
    drop(ledger);
    let ledger = disk.ledger();
    assert_eq!((ledger.size(), names(&ledger)), (2 + refused, vec!["ada".to_owned()]));
    let outcomes: Vec<String> = logged(&ledger).into_iter().map(|entry| entry.outcome).collect();
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "refused").count() as u64, 1 + refused);
    let key = SigningKey::fixed(7).vkey(ORIGIN);
    drop(ledger);
    assert_eq!(verify::directory(&disk.0.path().join("log"), &key).unwrap().entries, 2 + refused);
}

#[test]
fn a_start_on_a_full_disk_loses_nothing_and_is_made_again_when_there_is_room() {
    let Some(disk) = Small::mounted("4m") else { return };
    let ballast = disk.0.path().join("ballast");
    let path = disk.0.path().join("log");
    let mut log = Log::create(&path, ORIGIN, SigningKey::fixed(7)).unwrap();
    log.append(&[b"one".to_vec()]).unwrap();
    fill(&ballast);
    log.append(&[b"two".to_vec(), b"three".to_vec()]).unwrap();
    assert!(log.flush().is_err());
    drop(log);
    let failure = Log::open(&path, ORIGIN, SigningKey::fixed(7)).map(drop).unwrap_err();
    assert!(chain(&failure).contains("No space left"), "{}", chain(&failure));
    std::fs::remove_file(&ballast).unwrap();
    let log = disk.log();
    assert_eq!(log.read(0, 3).unwrap(), [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
}
