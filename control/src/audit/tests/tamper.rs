//! Somebody has a copy and may do with it what they like.

use super::*;
use crate::audit::layout;
use crate::audit::verify::{self, VerifyError};
use crate::audit::{Checkpoint, Hash, export, tree};

pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// A log's directory, or an export of it.
pub(super) fn copies(size: u64) -> [Files; 2] {
    let scratch = Scratch::new(size);
    let out = scratch.dir.path().join("export");
    let entries = scratch.log.read(0, size).unwrap();
    export::write(&out, scratch.log.checkpoint(), &vkey(), &[], entries).unwrap();
    [files(&scratch.path()), files(&out)]
}

/// What verifying these files says.
fn judge(files: &Files) -> Result<verify::Verified, VerifyError> {
    let dir = tempfile::tempdir().unwrap();
    lay_out(&dir.path().join("copy"), files);
    verify::directory(&dir.path().join("copy"), &vkey())
}

fn found(files: &Files) -> String {
    judge(files).unwrap_err().to_string()
}

/// The bundle of these entries.
pub(super) fn bundle(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut bundle = Vec::new();
    bodies.iter().for_each(|body| assert!(layout::add_entry(&mut bundle, body)));
    bundle
}

pub(super) fn leaves(bodies: &[Vec<u8>]) -> Vec<u8> {
    bodies.iter().map(|body| tree::leaf(body)).collect::<Vec<Hash>>().concat()
}

#[test]
fn every_changed_byte_is_found() {
    for good in copies(5) {
        judge(&good).unwrap();
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path(), &good);
        let verify = || verify::directory(dir.path(), &vkey());
        for (name, bytes) in &good {
            let path = dir.path().join(name);
            for at in 0..bytes.len() {
                for flip in [0x01, 0x20, 0x80] {
                    let mut bad = bytes.clone();
                    bad[at] ^= flip;
                    fs::write(&path, &bad).unwrap();
                    assert!(verify().is_err(), "byte {at} of {name}");
                }
                fs::write(&path, &bytes[..at]).unwrap();
                assert!(verify().is_err(), "{name} cut at {at}");
                let mut longer = bytes.clone();
                longer.insert(at, bytes[at]);
                fs::write(&path, &longer).unwrap();
                assert!(verify().is_err(), "byte {at} of {name} doubled");
            }
            for more in [b"\n".as_slice(), b"\0", b"\0\0", b" "] {
                fs::write(&path, [bytes.as_slice(), more].concat()).unwrap();
                assert!(verify().is_err(), "{name} is longer");
            }
            fs::remove_file(&path).unwrap();
            // Without the key that it brings along, an export is a log's directory.
            assert_eq!(verify().is_ok(), name == "vkey", "{name} is missing");
            fs::write(&path, bytes).unwrap();
        }
        verify().unwrap();
    }
}

#[test]
fn in_a_log_of_several_tiles_too() {
    let [good, _] = copies(515);
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path(), &good);
    for (name, bytes) in &good {
        for at in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            fs::write(dir.path().join(name), &bad).unwrap();
            assert!(verify::directory(dir.path(), &vkey()).is_err(), "byte {at} of {name}");
        }
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    verify::directory(dir.path(), &vkey()).unwrap();
}

#[test]
fn what_is_wrong_is_named() {
    let [good, export] = copies(515);
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = good.clone();
        change(files.entry(name.to_owned()).or_default());
        found(&files)
    };
    let without = |name: &str| {
        let mut files = good.clone();
        files.remove(name).unwrap();
        found(&files)
    };
    let second = bodies(0, 256).iter().take(1).map(|b| b.len() + 2).sum::<usize>();
    assert_eq!(
        with("tile/entries/000", &|b| b[second + 20] ^= 1),
        "entry 1 is not as it was logged: `tile/entries/000` and its hash in `tile/0/000` do not agree"
    );
    assert_eq!(
        with("tile/0/001", &|b| b[32 * 44] ^= 1),
        "entry 300 is not as it was logged: `tile/entries/001` and its hash in `tile/0/001` do not agree"
    );
    assert_eq!(
        with("tile/1/000.p/2", &|b| b[40] ^= 1),
        "`tile/1/000.p/2` does not hold the hash over the entries from 256 on"
    );
    assert_eq!(
        with("tile/entries/002.p/3", &|b| b.truncate(b.len() - 1)),
        "`tile/entries/002.p/3` does not hold 3 whole entries, from entry 512 on"
    );
    assert_eq!(
        with("tile/entries/000", &|b| b[0] ^= 0x80),
        "`tile/entries/000` does not hold 256 whole entries, from entry 0 on"
    );
    assert_eq!(
        with("tile/0/000", &|b| b.truncate(100)),
        "`tile/0/000` does not have the 8192 bytes that it must have"
    );
    assert_eq!(without("tile/0/000"), "`tile/0/000` is missing");
    assert_eq!(without("tile/entries/002.p/3"), "`tile/entries/002.p/3` is missing");
    assert_eq!(without("checkpoint"), "`checkpoint` is missing");
    for extra in
        ["tile/entries/002.p/4", "tile/entries/003", "tile/2/000.p/1", "checkpoint.new", "notes", "tile/x"]
    {
        let error = with(extra, &|b| b.extend(b"?"));
        assert!(error.starts_with(&format!("`{extra}` is no part of the log")), "{error}");
    }
    for older in ["tile/entries/001.p/9", "tile/0/000.p/01", "tile/0/002.p/0", "tile/0/002.p/2"] {
        let error = with(older, &|b| b.extend(b"?"));
        assert!(error.starts_with(&format!("`{older}` is ")), "{error}");
    }
    let mut files = export;
    files.insert("vkey".to_owned(), format!("{}\n", SigningKey::fixed(8).vkey(ORIGIN)).into_bytes());
    assert_eq!(found(&files), "`vkey` holds another key than the one to verify with");

    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path(), &good);
    std::os::unix::fs::symlink("checkpoint", dir.path().join("link")).unwrap();
    let error = verify::directory(dir.path(), &vkey()).unwrap_err().to_string();
    assert_eq!(error, "`link` is no plain file");
}

#[test]
fn a_forger_who_makes_all_the_hashes_fit_lacks_the_signature() {
    let [good, _] = copies(5);
    let forged = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut bodies = bodies(0, 5);
        change(&mut bodies);
        let mut files = good.clone();
        files.insert("tile/entries/000.p/5".to_owned(), bundle(&bodies));
        files.insert("tile/0/000.p/5".to_owned(), leaves(&bodies));
        (
            found(&files),
            crate::ledger::chain(&verify::entries(&checkpoint(&good), &vkey(), bodies).unwrap_err()),
        )
    };
    let root = "the 5 entries are not those that were signed: the hash over all of them is another";
    // A word exchanged.
    let renamed = |b: &mut Vec<Vec<u8>>| {
        b[2] = String::from_utf8(b[2].clone()).unwrap().replace("ada", "bob").into_bytes();
    };
    assert_eq!(forged(&renamed), (root.to_owned(), root.to_owned()));
    // Two exchanged.
    let swapped = "in the place of entry 1 is entry 3".to_owned();
    assert_eq!(forged(&|b| b.swap(1, 3)), (swapped.clone(), swapped));
    // Two exchanged, and what they say of their places, too.
    let renumbered = |b: &mut Vec<Vec<u8>>| {
        for (at, from) in [(1, 3), (3, 1)] {
            b[at] = Entry { index: at as u64, ..entry(from) }.to_bytes().unwrap();
        }
    };
    assert_eq!(forged(&renumbered), (root.to_owned(), root.to_owned()));
    // No entry at all.
    let (there, wire) = forged(&|b| b[4] = b"{}".to_vec());
    assert_eq!(there, "entry 4 cannot be read");
    assert!(wire.starts_with("entry 4 cannot be read: missing field"), "{wire}");
}

fn checkpoint(files: &Files) -> String {
    String::from_utf8(files["checkpoint"].clone()).unwrap()
}

#[test]
fn another_checkpoint_is_refused() {
    let [good, _] = copies(5);
    let with = |checkpoint: String| {
        let mut files = good.clone();
        files.insert("checkpoint".to_owned(), checkpoint.into_bytes());
        crate::ledger::chain(&judge(&files).unwrap_err())
    };
    let refused = "the checkpoint is not to be believed: it is not signed by `holm.example/log`";
    let dir = tempfile::tempdir().unwrap();
    let mut stranger = Log::create(&dir.path().join("a"), ORIGIN, SigningKey::fixed(8)).unwrap();
    stranger.append(&bodies(0, 5)).unwrap();
    stranger.flush().unwrap();
    assert_eq!(with(stranger.checkpoint().to_owned()), refused);
    let mut renamed = Log::create(&dir.path().join("b"), "other.example/log", key()).unwrap();
    renamed.append(&bodies(0, 5)).unwrap();
    renamed.flush().unwrap();
    assert_eq!(with(renamed.checkpoint().to_owned()), refused);
    // The same key, the same name, another history or another time.
    let mut twin = Log::create(&dir.path().join("c"), ORIGIN, key()).unwrap();
    twin.append(&[body(0), body(1), body(2), body(3), body(3)]).unwrap();
    twin.flush().unwrap();
    assert_eq!(
        with(twin.checkpoint().to_owned()),
        "the 5 entries are not those that were signed: the hash over all of them is another"
    );
    assert_eq!(with(checkpoint(&copies(6)[0])), "`tile/entries/000.p/6` is missing");
    // What is left of the five is more than an earlier checkpoint covers.
    let older = with(checkpoint(&copies(4)[0]));
    assert_eq!(older, "`tile/entries/000.p/4` is missing");
    let mut both = good.clone();
    both.extend(copies(4)[0].clone());
    assert!(found(&both).contains("is no part of the log up to its checkpoint"));
}

#[test]
fn entries_over_the_wire() {
    let [good, _] = copies(300);
    let note = checkpoint(&good);
    let verified = verify::entries(&note, &vkey(), bodies(0, 300)).unwrap();
    assert_eq!((verified.entries, verified.last), (300, Some(entry(299).time)));
    assert_eq!(verified, judge(&good).unwrap());
    let refused = |bodies| verify::entries(&note, &vkey(), bodies).unwrap_err().to_string();
    assert_eq!(refused(bodies(0, 299)), "the checkpoint counts 300 entries, and only 299 are there");
    assert_eq!(refused(bodies(0, 301)), "the checkpoint counts 300 entries, and there are more");
    assert_eq!(refused([bodies(0, 7), bodies(8, 300)].concat()), "in the place of entry 7 is entry 8");
    let none = verify::entries(&checkpoint(&copies(0)[0]), &vkey(), []).unwrap();
    assert_eq!((none.entries, none.first, none.root), (0, None, tree::empty()));
}

#[test]
fn a_long_entry_is_refused_before_it_is_hashed() {
    let note = checkpoint(&copies(1)[0]);
    let long = Entry { resource: "x".repeat(70_000), ..entry(0) };
    let error =
        verify::entries(&note, &vkey(), [serde_json::to_vec(&long).unwrap()]).unwrap_err().to_string();
    assert!(error.starts_with("entry 0 has 70") && error.ends_with("and 65535 is the most"), "{error}");
}

#[test]
fn a_copy_begins_with_what_was_signed_before() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("copy");
    lay_out(&at, &copies(300)[1]);
    let head = |size| Checkpoint::verify(&checkpoint(&copies(size)[0]), &vkey()).unwrap();
    let judge = |earlier: &Checkpoint| {
        verify::directory_from(&at, &vkey(), std::slice::from_ref(earlier), |e: &Entry| Some(e.index))
            .map(|(_, seen)| seen)
            .map_err(|e| e.to_string())
    };
    for size in [0, 1, 255, 256, 257, 300] {
        assert_eq!(judge(&head(size)), Ok((0..300).collect()), "{size}");
        let other = Checkpoint { root: [7; 32], ..head(size) };
        assert!(judge(&other).unwrap_err().contains("written anew"), "{size}");
        let name = Checkpoint { origin: "other.example/log".to_owned(), ..head(size) };
        assert!(judge(&name).unwrap_err().contains("written anew"), "{size}");
    }
    assert_eq!(
        judge(&head(301)).unwrap_err(),
        "it has 300 entries, and had 301 already: it is an older copy, or entries are missing"
    );
}
