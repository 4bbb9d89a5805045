use super::*;
use crate::audit::Log;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

const ORIGIN: &str = "holm.example/log";

fn project(name: &str, n: u32) -> Value {
    let id = format!("{n:08x}-0000-4000-8000-000000000000");
    json!({ "op": "put", "of": { "kind": "project", "id": id, "name": name, "level": "3",
        "level_name": "sensitive", "purpose": format!("study {n}"), "lead": "dina", "members": ["dina"],
        "created": "2026-11-03T13:02:11Z", "pack": "p/1" } })
}

fn lock(subject: &str) -> Value {
    json!({ "op": "put", "of": { "kind": "lock", "subject": subject, "by": "frida", "at": "2026-11-03T13:02:11Z",
        "reason": "x" } })
}

/// A log about heart, what is about none, and what is about another.
fn log(dir: &std::path::Path) -> Log {
    let mut log = Log::create(dir, ORIGIN, SigningKey::fixed(7)).unwrap();
    let what: [(Option<&str>, &str, Vec<Value>); 8] = [
        (Some("heart"), "person/dina", vec![project("heart", 1)]),
        (Some("brain"), "person/lars", vec![project("brain", 2)]),
        (Some("heart"), "person/frida", vec![lock("project/heart")]),
        (None, "holmd", vec![]),
        (Some("heart"), "person/rosa", vec![]),
        (
            Some("heart"),
            "person/frida",
            vec![json!({ "op": "delete", "of": "lock/project/heart" }), lock("keys/heart")],
        ),
        (None, "host/dgx", vec![]),
        (Some("brain"), "person/lars", vec![]),
    ];
    for (index, (project, actor, changes)) in (0..).zip(what) {
        let entry = Entry {
            v: 1,
            index,
            time: Timestamp::from_second(1_790_000_000).unwrap(),
            request: format!("r{index}"),
            actor: actor.to_owned(),
            peer: String::new(),
            action: "slice.read".to_owned(),
            resource: "x".to_owned(),
            project: project.map(str::to_owned),
            level: None,
            outcome: "allowed".to_owned(),
            reasons: Vec::new(),
            pack: None,
            detail: Value::Null,
            changes,
        };
        log.append(&[entry.to_bytes().unwrap()]).unwrap();
    }
    log
}

/// Of these entries, so many in a part.
fn bundle(indices: &[u64], part: usize, size: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let log = log(&dir.path().join("log"));
    let of = Of {
        log: ORIGIN.to_owned(),
        size,
        incident: 1,
        project: "heart".parse().unwrap(),
        level: "3 sensitive".to_owned(),
        pack: "p/1 abc".to_owned(),
    };
    let (mut writer, mut all) = Writer::new(of, log.root_at(size).unwrap(), SigningKey::fixed(7));
    for indices in indices.chunks(part) {
        let one = |index: &u64| {
            let body = log.read(*index, *index + 1).unwrap().remove(0);
            (*index, body, log.inclusion_in(*index, size).unwrap())
        };
        let entries: Vec<_> = indices.iter().map(one).collect();
        all.extend(writer.entries(&entries).unwrap());
    }
    all.extend(writer.finish(&[("pack.toml".to_owned(), "name = \"p\"\n".to_owned())]));
    all
}

fn vkey() -> String {
    SigningKey::fixed(7).vkey(ORIGIN)
}

const HEART: [u64; 6] = [0, 2, 3, 4, 5, 6];

#[test]
fn it_is_the_same_bytes_each_time_and_tells_what_the_entries_say_in_the_end() {
    let all = bundle(&HEART, 4, 8);
    assert_eq!(all, bundle(&HEART, 4, 8));
    let verified = verify(all.as_slice(), &vkey()).unwrap();
    assert_eq!((verified.entries, verified.of.incident, verified.of.size), (6, 1, 8));
    let mut from = all.as_slice();
    let mut files = BTreeMap::new();
    while let Some((name, bytes)) = tar::next(&mut from).unwrap() {
        files.insert(name, String::from_utf8(bytes).unwrap());
    }
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let parts = ["entries/000000.jsonl", "entries/000001.jsonl"];
    assert_eq!(
        names,
        ["MANIFEST", "checkpoint", parts[0], parts[1], "people.json", "policy/pack.toml", "records.json"]
    );
    assert!(files["records.json"].contains("study 1") && files["records.json"].contains("keys/heart"));
    assert!(!files["records.json"].contains("project/heart"), "that lock was lifted");
    let people: BTreeMap<String, Value> = serde_json::from_str(&files["people.json"]).unwrap();
    assert_eq!(people.into_keys().collect::<Vec<_>>(), ["person/dina", "person/frida", "person/rosa"]);
    // And the system's own tools read it.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("b.tar"), &all).unwrap();
    let ran = std::process::Command::new("sh")
        .args([
            "-c",
            "tar xf b.tar && grep '^[0-9a-f]\\{64\\}  ' MANIFEST | sha256sum --check --strict --quiet",
        ])
        .current_dir(dir.path())
        .status();
    assert!(ran.unwrap().success());
}

#[test]
fn every_changed_byte_of_it_is_found_and_one_that_is_missing_or_too_much() {
    let all = bundle(&HEART, 4, 8);
    for at in 0..all.len() {
        let mut bad = all.clone();
        bad[at] ^= 1;
        assert!(verify(bad.as_slice(), &vkey()).is_err(), "byte {at}");
    }
    assert!(verify(&all[..all.len() - 1], &vkey()).is_err());
    assert!(verify([all.as_slice(), b"x"].concat().as_slice(), &vkey()).is_err());
    assert!(verify(all.as_slice(), &SigningKey::fixed(8).vkey(ORIGIN)).is_err());
}

#[test]
fn what_is_signed_and_does_not_follow_is_refused() {
    // Of another project, out of order, or more of what is derived than follows.
    assert!(matches!(verify(bundle(&[0, 1, 2], 4, 8).as_slice(), &vkey()), Err(BundleError::Entry(1))));
    let dir = tempfile::tempdir().unwrap();
    let log = log(&dir.path().join("log"));
    let of = Of {
        log: ORIGIN.to_owned(),
        size: 8,
        incident: 1,
        project: "heart".parse().unwrap(),
        level: "3".to_owned(),
        pack: "p".to_owned(),
    };
    let one =
        |index| (index, log.read(index, index + 1).unwrap().remove(0), log.inclusion_in(index, 8).unwrap());
    let made = |parts: &[u64], more: Option<&str>| {
        let (mut writer, mut all) = Writer::new(of.clone(), log.root_at(8).unwrap(), SigningKey::fixed(7));
        for index in parts {
            all.extend(writer.entries(&[one(*index)]).unwrap());
        }
        all.extend(more.map(|name| writer.file(name, b"x")).unwrap_or_default());
        all.extend(writer.finish(&[]));
        verify(all.as_slice(), &vkey())
    };
    assert!(made(&[2, 4], None).is_ok());
    assert!(matches!(made(&[4, 2], None), Err(BundleError::Entry(2))));
    assert!(matches!(made(&[2], Some("certificates/x.note")), Err(BundleError::Derived(_))));
    assert!(matches!(made(&[2], Some("records.json")), Err(BundleError::File(_))));
}

proptest! {
    #[test]
    fn what_a_tar_is_made_of_is_read_back(files in prop::collection::vec(("[a-z/]{1,90}", prop::collection::vec(any::<u8>(), 0..1200)), 0..5)) {
        let mut all: Vec<u8> = files.iter().flat_map(|(name, bytes)| tar::member(name, bytes)).collect();
        all.extend(tar::end());
        let mut from = all.as_slice();
        let mut read = Vec::new();
        while let Some(file) = tar::next(&mut from).unwrap() {
            read.push(file);
        }
        prop_assert_eq!(read, files);
    }
}
