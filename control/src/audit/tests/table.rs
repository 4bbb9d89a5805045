//! The table of `deploy/docs/audit-log.md`: what is detected, and by whom. Each of its cells is tried.

use super::agree::{Cases, checkpoint, log_of};
use super::expire::{expire, without};
use super::tamper::{Files, bundle, leaves};
use super::*;
use crate::audit::{Checkpoint, verify};

const PAGE: &str = include_str!("../../../../deploy/docs/audit-log.md");
/// Entries of the log when its checkpoint was seen.
const SEEN: u64 = 300;

fn false_entry(index: u64) -> Vec<u8> {
    Entry { actor: "person/bob".to_owned(), ..entry(index) }.to_bytes().unwrap()
}

/// These entries, each saying that it is where it is.
fn renumbered(entries: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    (0..).zip(entries).map(|(index, of)| Entry { index, ..entry(of) }.to_bytes().unwrap()).collect()
}

/// What somebody makes of the entries.
fn changed(what: &str) -> Vec<Vec<u8>> {
    match what {
        "an entry dropped" => renumbered((0..SEEN).filter(|n| *n != 7)),
        "an entry inserted" => renumbered((0..7).chain([3]).chain(7..SEEN)),
        "two entries exchanged" => renumbered((0..SEEN).map(|n| match n {
            7 => 11,
            11 => 7,
            n => n,
        })),
        "the end cut off" => bodies(0, SEEN - 1),
        "the last entry replaced" => [bodies(0, SEEN - 1), vec![false_entry(SEEN - 1)]].concat(),
        "rolled back to the copy of the day before" => bodies(0, SEEN - 50),
        "forked: two officers are shown two histories" => {
            [bodies(0, SEEN - 20), vec![false_entry(SEEN - 20)], bodies(SEEN - 19, SEEN + 5)].concat()
        }
        "forked after the last checkpoint that was seen" | "something false logged" => {
            [bodies(0, SEEN), vec![false_entry(SEEN)]].concat()
        }
        _ => panic!("nobody tries `{what}`"),
    }
}

/// All files but the checkpoint as they must be for these entries, in a log of so many.
fn made_to_fit(bodies: &[Vec<u8>]) -> Files {
    let honest = log_of(&super::bodies(0, SEEN), key());
    let mut files = log_of(bodies, SigningKey::fixed(8));
    // Also under the names that the checkpoint asks for.
    let last = bodies.get(256..).unwrap_or_default();
    files.insert(format!("tile/entries/001.p/{}", SEEN - 256), bundle(last));
    files.insert(format!("tile/0/001.p/{}", SEEN - 256), leaves(last));
    files.insert("checkpoint".to_owned(), honest["checkpoint"].clone());
    files.retain(|name, _| honest.contains_key(name));
    files
}

/// The log of before, and an entry which says that what is before `first` may be gone.
fn telling(first: u64) -> Vec<Vec<u8>> {
    [bodies(0, SEEN), vec![expire(SEEN, first).to_bytes().unwrap()]].concat()
}

/// What is shown where old entries are gone; `None`: that is not what was done.
fn shown_expired(what: &str) -> Option<Files> {
    let told = || log_of(&telling(256), key());
    let mut gone = without(&told(), 0..1);
    match what {
        "old entries removed, which no `log.expire` names" => {
            return Some(without(&log_of(&bodies(0, SEEN), key()), 0..1));
        }
        "more entries removed than `log.expire` names" => {
            let more = [telling(256), bodies(SEEN + 1, 600)].concat();
            return Some(without(&log_of(&more, key()), 0..2));
        }
        "a hash of entries that are gone changed" => gone.get_mut("tile/0/000").unwrap()[100] ^= 1,
        "hashes of entries that are gone removed" => drop(gone.remove("tile/0/000").unwrap()),
        "old entries removed, and a `log.expire` put in, without the key" => {
            let mut forged = without(&made_to_fit(&telling(256)), 0..1);
            forged.insert("tile/0/000".to_owned(), leaves(&bodies(0, 256)));
            return Some(forged);
        }
        "old entries removed before their time, with the key" => {}
        _ => return None,
    }
    Some(gone)
}

/// What is shown then.
fn shown(what: &str) -> Files {
    if let Some(files) = shown_expired(what) {
        return files;
    }
    let honest = log_of(&bodies(0, SEEN), key());
    match what.rsplit_once(", with") {
        _ if what == "one bit flipped" => {
            let mut files = honest;
            files.get_mut("tile/entries/000").unwrap()[1000] ^= 1;
            files
        }
        _ if what == "signed by another key" => log_of(&bodies(0, SEEN + 1), SigningKey::fixed(8)),
        Some((what, "out the key")) => made_to_fit(&changed(what)),
        Some((what, " the key")) => log_of(&changed(what), key()),
        _ => log_of(&changed(what), key()),
    }
}

/// Whether who has seen the checkpoint of before, and is shown this one with the best proof there is, refuses to sign it.
fn a_witness_refuses(before: &Checkpoint, files: &Files) -> bool {
    let Ok(head) = Checkpoint::verify(&checkpoint(files), &vkey()) else { return true };
    if head == *before {
        return false;
    }
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path(), files);
    let log = Log::open(dir.path(), ORIGIN, key()).unwrap();
    log.consistency(before.size).map_or(true, |proof| verify::consistency(before, &head, &proof).is_err())
}

#[test]
fn the_table_of_what_is_detected() {
    let before = checkpoint(&log_of(&bodies(0, SEEN), key()));
    let head = Checkpoint::verify(&before, &vkey()).unwrap();
    let rows: Vec<Vec<&str>> = PAGE
        .lines()
        .skip_while(|line| !line.starts_with("| what was done |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 22, "a row that is not there is not tried");
    // Both verifiers say so; a cell that neither or one bears out is named.
    let mut cases = Cases::new();
    for row in &rows {
        let [what, alone, earlier, witness] = row[..] else { panic!("{row:?}") };
        let yes = |cell: &str| match cell {
            "yes" => true,
            "no" => false,
            _ => panic!("`{cell}` is neither yes nor no"),
        };
        let files = shown(what);
        cases.add(&format!("{what}, the log alone"), !yes(alone), &files);
        cases.with_earlier(&format!("{what}, with an earlier checkpoint"), !yes(earlier), &files, &before);
        assert_eq!(a_witness_refuses(&head, &files), yes(witness), "{what}, by a witness");
    }
    cases.judge();
}
