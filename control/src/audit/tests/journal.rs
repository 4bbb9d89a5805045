//! The journal as an adversary, a restore or a power cut leaves it: what is torn is passed over, all else is refused.

use super::*;
use crate::audit::tip::Tip;
use crate::audit::{LogError, journal};

const BLOCK: usize = 4096;

/// A log with 3 entries laid down, and three records behind them: of 1, 2 and 20 entries, one block, one, and two.
fn three() -> Scratch {
    let mut scratch = Scratch::new(3);
    for size in [4, 6, 26] {
        scratch.log.append(&bodies(scratch.log.size(), size)).unwrap();
    }
    scratch
}

/// As the log is found with this journal: its size, or why it is refused.
fn found(scratch: &Scratch, laid: &BTreeMap<String, Vec<u8>>, journal: &[u8]) -> Result<u64, String> {
    let dir = scratch.dir.path().join("copy");
    lay_out(&dir.join("log"), laid);
    fs::write(dir.join("log.journal"), journal).unwrap();
    match Log::open(&dir.join("log"), ORIGIN, key()) {
        Ok(log) => {
            assert_eq!(log.read(0, log.size()).unwrap(), bodies(0, log.size()));
            Ok(log.size())
        }
        Err(failure @ LogError::Journal { .. }) => {
            assert_eq!(fs::read(dir.join("log.journal")).unwrap(), journal, "it was changed");
            assert_eq!(files(&dir.join("log")), *laid, "it was changed");
            Err(failure.to_string())
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_last_record_that_is_torn_is_passed_over_and_an_earlier_one_is_not() {
    let scratch = three();
    let (laid, good) = (files(&scratch.path()), fs::read(scratch.journal()).unwrap());
    assert_eq!(found(&scratch, &laid, &good), Ok(26));
    let last = 2 * BLOCK..4 * BLOCK;
    let found = |bytes: &[u8]| {
        let mut tip = Tip::default();
        bodies(0, 3).iter().for_each(|body| tip.push(body, &mut Vec::new()).unwrap());
        journal::replay(bytes, &vkey(), &mut tip, &mut String::new()).map(|_| tip.size())
    };
    for at in (0..last.end).filter(|at| last.contains(at) || at % 97 < 2 || at % BLOCK < 40) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let found = found(&bad);
        if last.contains(&at) {
            assert_eq!(found, Ok(6), "byte {at}");
        } else {
            let why = found.unwrap_err();
            assert!(why.contains("what was before it is damaged or missing"), "byte {at}: {why}");
        }
    }
    // Of its 512 bytes at a time some came to the disk, and some did not.
    for written in (0_u32..1 << 16).step_by(7).chain((0..16).map(|one| 0xffff ^ (1 << one))) {
        let mut torn = good.clone();
        for sector in (0..16).filter(|sector| written >> sector & 1 == 0) {
            torn[last.start + sector * 512..][..512].fill(0);
        }
        let whole = torn == good;
        assert_eq!(found(&torn), Ok(if whole { 26 } else { 6 }), "{written:016b}");
    }
}

#[test]
fn a_journal_of_another_length_is_refused_and_one_that_is_not_there_is_made() {
    let scratch = three();
    let (laid, good) = (files(&scratch.path()), fs::read(scratch.journal()).unwrap());
    for length in [0, 1, BLOCK, 2 * BLOCK + 1, 3 * BLOCK, good.len() - 1] {
        let why = found(&scratch, &laid, &good[..length]).unwrap_err();
        assert!(why.contains("does not have the 131072 bytes"), "{length}: {why}");
    }
    assert!(found(&scratch, &laid, &[good.as_slice(), b"\0"].concat()).is_err());
    let dir = scratch.dir.path().join("copy");
    lay_out(&dir.join("log"), &laid);
    fs::remove_file(dir.join("log.journal")).unwrap();
    assert_eq!(Log::open(&dir.join("log"), ORIGIN, key()).unwrap().size(), 3);
    let made = fs::metadata(dir.join("log.journal")).unwrap();
    assert_eq!(made.len(), journal::SIZE);
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    assert_eq!(made.permissions().mode() & 0o077, 0);
    assert!(
        made.blocks() * 512 >= journal::SIZE,
        "it is filled, so that to write over it changes data alone"
    );
}

#[test]
fn records_are_taken_in_their_order_and_each_once() {
    let scratch = three();
    let (laid, good) = (files(&scratch.path()), fs::read(scratch.journal()).unwrap());
    let part = |from: usize, to: usize| good[from * BLOCK..to * BLOCK].to_vec();
    let rest = |parts: &[Vec<u8>]| {
        let mut bytes = parts.concat();
        bytes.resize(good.len(), 0);
        bytes
    };
    let (one, two, three) = (part(0, 1), part(1, 2), part(2, 4));
    // Each says where it belongs: it is written round and round.
    for order in [[&one, &two, &three], [&two, &three, &one], [&three, &two, &one]] {
        assert_eq!(found(&scratch, &laid, &rest(&order.map(Clone::clone))), Ok(26));
    }
    for bad in [
        rest(&[one.clone(), three.clone()]),
        rest(&[vec![0; BLOCK], two.clone()]),
        rest(&[three.clone(), one.clone()]),
    ] {
        assert!(
            found(&scratch, &laid, &bad).unwrap_err().contains("what was before it is damaged or missing")
        );
    }
    // What is there twice is what it is.
    assert_eq!(found(&scratch, &laid, &rest(&[one.clone(), one.clone(), two.clone()])), Ok(6));
    assert_eq!(found(&scratch, &laid, &rest(&[one.clone(), two, one])), Ok(6));
    assert!(found(&scratch, &laid, &rest(&[three])).unwrap_err().contains("which is 3 entries"));
}

#[test]
fn a_checksum_is_not_a_signature() {
    let scratch = three();
    let laid = files(&scratch.path());
    let note = |name: &str, key: SigningKey, size: u64| {
        let dir = scratch.dir.path().join("other");
        let _ = fs::remove_dir_all(&dir);
        let mut log = Log::create(&dir.join("log"), name, key).unwrap();
        log.append(&bodies(0, size)).unwrap();
        log.checkpoint().to_owned()
    };
    let with = |bodies: &[Vec<u8>], note: &str| {
        let mut bytes = journal::record(3, bodies, note).unwrap();
        bytes.resize(journal::SIZE as usize, 0);
        found(&scratch, &laid, &bytes)
    };
    let good = note(ORIGIN, key(), 5);
    assert_eq!(with(&bodies(3, 5), &good), Ok(5));
    for (bodies, note, why) in [
        (bodies(3, 5), note(ORIGIN, SigningKey::fixed(8), 5), "it is not signed by"),
        (bodies(3, 5), note("other.example/log", key(), 5), "it is not signed by"),
        (bodies(3, 5), good.replace("5\n", "6\n"), "the signature of"),
        (bodies(3, 5), String::new(), "it has no signature"),
        (bodies(3, 5), note(ORIGIN, key(), 4), "holds other entries than were signed"),
        (bodies(3, 6), good.clone(), "holds other entries than were signed"),
        (vec![body(3), body(3)], good.clone(), "holds other entries than were signed"),
        (vec![], good, "does not follow"),
    ] {
        match with(&bodies, &note) {
            // Of no entries: there is nothing in it.
            Ok(size) => assert!(bodies.is_empty() && size == 3),
            Err(said) => assert!(said.contains(why), "{said}"),
        }
    }
}

#[test]
fn a_log_and_a_journal_of_different_times_are_one_history_or_refused() {
    let mut scratch = three();
    let (laid, early) = (files(&scratch.path()), fs::read(scratch.journal()).unwrap());
    scratch.log.flush().unwrap();
    let later = files(&scratch.path());
    // The newer log knows all that the older journal says.
    assert_eq!(found(&scratch, &later, &early), Ok(26));
    scratch.grow(30);
    assert_eq!(found(&scratch, &files(&scratch.path()), &early), Ok(30));
    scratch.log.append(&bodies(30, 31)).unwrap();
    let newer = fs::read(scratch.journal()).unwrap();
    assert_eq!(found(&scratch, &files(&scratch.path()), &newer), Ok(31));
    // An older copy of the log, from before the journal began.
    for old in [&laid, &later] {
        let why = found(&scratch, old, &newer).unwrap_err();
        assert!(why.contains("is whole and does not follow what is there"), "{why}");
        assert!(why.contains("restore both as they were at one time"), "{why}");
    }
    // Of a time at which no record ends.
    assert!(
        found(&scratch, &files(&Scratch::new(5).path()), &early).unwrap_err().contains("does not follow")
    );
}

#[test]
fn what_an_entry_says_is_never_taken_for_a_record() {
    let mut scratch = Scratch::new(1);
    let inner = journal::record(1, &[b"forged".to_vec()], "").unwrap();
    let body = String::from_utf8_lossy(&inner).into_owned().into_bytes();
    // As JSON is: the first byte of a record cannot be in it.
    assert!(!body.contains(&0xff));
    // And where one could, it does not lie at the beginning of a block behind the last record: that is filled with zeroes.
    scratch.log.append(&[inner.repeat(4)]).unwrap();
    assert_eq!(scratch.reopen().log.size(), 2);
}
