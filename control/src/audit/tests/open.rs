//! Keys and logs that are refused, in words, and left as they are.

use super::*;
use crate::audit::{KeyError, LogError, note};
use std::os::unix::fs::PermissionsExt;

fn refused(dir: &Path, origin: &str, key: SigningKey) -> String {
    let before = files(dir);
    let error = Log::open(dir, origin, key).unwrap_err();
    assert_eq!(files(dir), before, "it was changed");
    crate::ledger::chain(&error)
}

#[test]
fn a_log_is_begun_once() {
    let scratch = Scratch::new(1);
    let dir = scratch.path();
    drop(scratch.log);
    let again = |origin| Log::create(&dir, origin, key()).unwrap_err().to_string();
    assert_eq!(
        again(ORIGIN),
        format!("there is a log in `{}` already, or what is left of one", dir.display())
    );
    fs::remove_file(dir.join("checkpoint")).unwrap();
    assert!(again(ORIGIN).contains("what is left of one"));
    assert_eq!(again("a log"), "`a log` cannot be the name of a log: it must have no spaces and no `+`");
}

#[test]
fn a_kill_while_it_is_begun_is_no_log_yet() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("checkpoint.new"), "half of").unwrap();
    assert!(matches!(Log::open(dir.path(), ORIGIN, key()), Err(LogError::Missing(_))));
    Log::create(dir.path(), ORIGIN, key()).unwrap();
    assert_eq!(Log::open(dir.path(), ORIGIN, key()).unwrap().size(), 0);
}

#[test]
fn it_has_one_writer() {
    let scratch = Scratch::new(1);
    assert!(refused(&scratch.path(), ORIGIN, key()).ends_with("another process has it open"));
    scratch.reopen();
}

#[test]
fn another_key_or_name_is_refused() {
    let scratch = Scratch::new(3);
    let dir = scratch.path();
    drop(scratch.log);
    for (origin, key) in [(ORIGIN, SigningKey::fixed(8)), ("other.example/log", key())] {
        assert_eq!(
            refused(&dir, origin, key),
            format!(
                "the checkpoint `{}` is damaged or another log's: it is not signed by `{origin}`",
                dir.join("checkpoint").display()
            )
        );
    }
    // Signed with the right key, but no checkpoint of this log.
    for text in
        ["other.example/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", "a deletion certificate\n"]
    {
        fs::write(dir.join("checkpoint"), note::sign(&key(), ORIGIN, text)).unwrap();
        assert!(refused(&dir, ORIGIN, key()).contains("it is no signed note: it"), "{text}");
    }
}

#[test]
fn every_damage_at_the_edge_is_found_at_opening() {
    for size in [3, 256, 259] {
        let scratch = Scratch::new(size);
        let good = files(&scratch.path());
        let dir = scratch.path();
        drop(scratch.log);
        let edge = |name: &&String| *name == "checkpoint" || name.contains(".p/");
        for name in good.keys().filter(edge) {
            for at in 0..good[name].len() {
                let mut bad = good[name].clone();
                bad[at] ^= 1;
                fs::write(dir.join(name), &bad).unwrap();
                assert!(Log::open(&dir, ORIGIN, key()).is_err(), "byte {at} of {name}");
            }
            for cut in [0, good[name].len() - 1] {
                fs::write(dir.join(name), &good[name][..cut]).unwrap();
                refused(&dir, ORIGIN, key());
            }
            fs::write(dir.join(name), [good[name].as_slice(), b"\0\0"].concat()).unwrap();
            refused(&dir, ORIGIN, key());
            fs::remove_file(dir.join(name)).unwrap();
            assert_eq!(
                refused(&dir, ORIGIN, key()),
                format!(
                    "the log lacks `{}`: stop, find out who removed it, and restore the whole log from a copy",
                    dir.join(name).display()
                )
            );
            fs::write(dir.join(name), &good[name]).unwrap();
        }
        assert_eq!(Log::open(&dir, ORIGIN, key()).unwrap().size(), size);
    }
}

#[test]
fn what_lies_to_the_left_is_read_when_asked_for_and_not_believed() {
    let scratch = Scratch::new(600);
    let dir = scratch.path();
    drop(scratch.log);
    let bundle = fs::read(dir.join("tile/entries/000")).unwrap();
    fs::remove_file(dir.join("tile/entries/000")).unwrap();
    fs::remove_file(dir.join("tile/0/000")).unwrap();

    let log = Log::open(&dir, ORIGIN, key()).unwrap();
    assert_eq!(log.read(256, 600).unwrap(), bodies(256, 600));
    assert!(matches!(log.read(255, 256), Err(LogError::Missing(path)) if path.ends_with("tile/entries/000")));
    assert!(matches!(log.inclusion(3), Err(LogError::Missing(path)) if path.ends_with("tile/0/000")));
    for at in [0, 2, 77, bundle.len() - 1] {
        let mut bad = bundle.clone();
        bad[at] ^= 1;
        fs::write(dir.join("tile/entries/000"), bad).unwrap();
        assert!(matches!(log.read(0, 1), Err(LogError::Damaged(_))), "byte {at}");
    }
    fs::write(dir.join("tile/entries/000"), bundle).unwrap();
    assert_eq!(log.read(0, 256).unwrap(), bodies(0, 256));
    for (start, end) in [(2, 1), (0, 601), (u64::MAX, u64::MAX)] {
        assert!(matches!(log.read(start, end), Err(LogError::Range { .. })));
    }
    assert!(log.read(600, 600).unwrap().is_empty());
}

#[test]
fn a_key_comes_back_from_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.key");
    let key = SigningKey::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = SigningKey::load(&path).unwrap();
    assert_eq!((again.public(), again.sign(b"text")), (key.public(), key.sign(b"text")));
    assert_eq!(again.vkey(ORIGIN), key.vkey(ORIGIN));
    assert_ne!(key.public(), SigningKey::create(&dir.path().join("other")).unwrap().public());

    let before = fs::read(&path).unwrap();
    assert!(matches!(SigningKey::create(&path), Err(KeyError::Io { what: "write", .. })));
    assert_eq!(fs::read(&path).unwrap(), before, "a key was replaced");
}

#[test]
fn a_key_that_others_can_read_or_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.key");
    SigningKey::create(&path).unwrap();
    for mode in [0o640, 0o604, 0o601, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = SigningKey::load(&path).unwrap_err();
        assert!(matches!(&error, KeyError::Exposed { mode: found, .. } if *found == mode), "{error}");
        assert!(error.to_string().contains("run `chmod 600`"), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    SigningKey::load(&path).unwrap();
    for bad in [vec![], b"no key".to_vec(), vec![0x30; 100_000]] {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, bad).unwrap();
        assert!(matches!(SigningKey::load(&path), Err(KeyError::Damaged(_))));
    }
    let error = SigningKey::load(&dir.path().join("none")).unwrap_err().to_string();
    assert!(error.starts_with("cannot open the signing key `"), "{error}");
}

#[test]
fn a_key_shows_no_secret() {
    let seed = [7; 32];
    let shown = format!("{:?} {:#?}", key(), key());
    assert!(shown.contains(&data_encoding::HEXLOWER.encode(&key().public())));
    assert!(!shown.contains(&data_encoding::HEXLOWER.encode(&seed)) && !shown.contains("7, 7"));
    let scratch = Scratch::new(1);
    assert_eq!(format!("{:?}", scratch.log), r#"Log { origin: "holm.example/log", size: 1, .. }"#);
}
