//! What lies on disk and what is signed, byte by byte: others read it with other tools.

use super::*;
use crate::audit::layout::{self, Tile};
use crate::audit::{EntryError, MAX_ENTRY, note, verify};
use data_encoding::HEXLOWER;

/// Files as people can read them.
fn shown(files: &BTreeMap<String, Vec<u8>>) -> String {
    let mut text = String::new();
    for (name, bytes) in files {
        text.push_str(&format!("== {name}, {} bytes\n", bytes.len()));
        if name.starts_with("tile/entries/") {
            for body in layout::entries_of(bytes).0 {
                text.push_str(&format!("{:04x} {}\n", body.len(), String::from_utf8_lossy(body)));
            }
        } else if name.starts_with("tile/") {
            let row = layout::hashes_of(bytes);
            row.iter().take(4).for_each(|hash| text.push_str(&format!("{}\n", HEXLOWER.encode(hash))));
        } else {
            text.push_str(&String::from_utf8_lossy(bytes));
        }
    }
    text
}

#[test]
fn a_small_log_on_disk() {
    let scratch = Scratch::new(3);
    insta::assert_snapshot!(shown(&files(&scratch.path())));
}

#[test]
fn an_empty_log_on_disk() {
    insta::assert_snapshot!(shown(&files(&Scratch::new(0).path())));
}

#[test]
fn where_the_files_of_a_larger_log_lie() {
    let mut scratch = Scratch::new(200);
    for n in 200..520 {
        scratch.grow(n + 1);
    }
    let names: Vec<String> = files(&scratch.path()).into_keys().collect();
    assert_eq!(
        names,
        [
            "checkpoint",
            "tile/0/000",
            "tile/0/001",
            "tile/0/002.p/8",
            "tile/1/000.p/2",
            "tile/entries/000",
            "tile/entries/001",
            "tile/entries/002.p/8",
        ],
        "older partial tiles are removed"
    );
    let deep = |index, size| Tile::entries(index, size).unwrap().path();
    assert_eq!(deep(1_234_067, u64::MAX), "tile/entries/x001/x234/067");
    assert_eq!(deep(1000, 256_007), "tile/entries/x001/000.p/7");
}

#[test]
fn what_is_on_disk_is_for_the_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new(1);
    for path in ["", "checkpoint", "tile", "tile/entries/000.p", "tile/entries/000.p/1", "tile/0/000.p/1"] {
        let mode = fs::metadata(scratch.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "`{path}` has mode {mode:o}");
    }
}

#[test]
fn an_entry_with_nothing_more_to_say() {
    let mut entry = entry(0);
    entry.peer.clear();
    entry.reasons.clear();
    (entry.project, entry.pack, entry.detail) = (None, None, serde_json::Value::Null);
    let bytes = entry.to_bytes().unwrap();
    insta::assert_snapshot!(String::from_utf8_lossy(&bytes));
    assert_eq!(Entry::from_bytes(&bytes).unwrap(), entry);
}

#[test]
fn an_entry_of_another_form_is_not_guessed_at() {
    let text = String::from_utf8(body(0)).unwrap();
    assert_eq!(Entry::from_bytes(text.as_bytes()).unwrap(), entry(0));
    for (from, to, why) in [
        (r#""v":1"#, r#""v":2"#, "version 2"),
        (r#""v":1"#, r#""v":1,"w":1"#, "unknown field `w`"),
        (r#""outcome":"allowed","#, "", "missing field `outcome`"),
    ] {
        let error = Entry::from_bytes(text.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn the_longest_entry_and_one_byte_more() {
    let mut scratch = Scratch::new(0);
    let longest = vec![b'x'; MAX_ENTRY];
    scratch.log.append(&[longest.clone(), vec![], longest.clone()]).unwrap();
    scratch.log.flush().unwrap();
    let before = files(&scratch.path());
    let refused = scratch.log.append(&[b"short".to_vec(), vec![b'x'; MAX_ENTRY + 1]]).unwrap_err();
    assert_eq!(refused.to_string(), "an entry has 65536 bytes, and 65535 is the most");
    assert_eq!(files(&scratch.path()), before, "nothing of it was written");
    let scratch = scratch.reopen();
    assert_eq!(scratch.log.read(0, 3).unwrap(), [longest.clone(), vec![], longest]);

    let mut entry = entry(0);
    entry.resource.clear();
    let rest = entry.to_bytes().unwrap().len();
    entry.resource = "x".repeat(MAX_ENTRY - rest);
    assert_eq!(entry.to_bytes().unwrap().len(), MAX_ENTRY);
    entry.resource.push('x');
    assert!(matches!(entry.to_bytes(), Err(EntryError::TooLong { length: 65_536, .. })));
}

#[test]
fn a_note_that_another_tool_signed() {
    // The example of golang.org/x/mod/sumdb/note.
    let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let text = "If you think cryptography is the answer to your problem,\n\
                then you don't know what your problem is.\n";
    let line = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdng\
                otpRZb6KE6RyyBwJnAM=\n";
    assert_eq!(note::verify(&format!("{text}\n{line}"), vkey).unwrap(), text);
    assert!(note::verify(&format!("{text} \n{line}"), vkey).is_err());
}

#[test]
fn notes_are_refused_in_words() {
    let note = note::sign(&key(), ORIGIN, "one\n\ntwo\n");
    assert_eq!(note::verify(&note, &vkey()).unwrap(), "one\n\ntwo\n");
    let refused = |note: &str, vkey: &str| note::verify(note, vkey).unwrap_err().to_string();
    assert_eq!(
        refused(&note.replace("one", "two"), &vkey()),
        "the signature of `holm.example/log` does not fit: the text or the signature was changed"
    );
    let stranger = SigningKey::fixed(8).vkey(ORIGIN);
    assert_eq!(refused(&note, &stranger), "it is not signed by `holm.example/log`");
    for (bad, why) in [
        ("", "it has no signature"),
        ("text\n", "it has no signature"),
        ("text\n\n", "its last line is cut short"),
        ("text\n\nno signature\n", "a signature line is damaged"),
        ("text\n\n\u{2014} name AAAA\n", "a signature is too short"),
        ("te\0xt\n\n", "it holds control characters"),
    ] {
        assert_eq!(refused(bad, &vkey()), format!("it is no signed note: {why}"), "{bad:?}");
    }
    assert!(refused(&"x".repeat(note::MAX_NOTE + 1), &vkey()).contains("larger than 1 MiB"));
    for bad in ["", "a", "a+b+c", "a+00000000+AQ==", &vkey().replace("holm", "halm"), &format!("{} ", vkey())]
    {
        assert!(refused(&note, bad).contains("is no public key"), "{bad}");
    }
    // A witness may sign as well.
    let witness = note::sign(&SigningKey::fixed(8), "witness.example", "one\n\ntwo\n");
    let line = witness.rsplit_once("\n\n").unwrap().1;
    assert!(note::verify(&format!("{note}{line}"), &vkey()).is_ok());
    assert!(note::verify(&format!("{note}{line}"), &SigningKey::fixed(8).vkey("witness.example")).is_ok());
}

#[test]
fn an_export_is_the_log_without_its_past() {
    let mut scratch = Scratch::new(250);
    scratch.grow(300);
    let out = scratch.dir.path().join("export");
    let log = &scratch.log;
    let written =
        crate::audit::export::write(&out, log.checkpoint(), &log.vkey(), &[], log.read(0, 300).unwrap())
            .unwrap();
    assert_eq!(verify::directory(&out, &vkey()).unwrap(), written);
    assert_eq!(verify::directory(&scratch.path(), &vkey()).unwrap(), written);
    let mut expected = files(&scratch.path());
    expected.insert("vkey".to_owned(), format!("{}\n", vkey()).into_bytes());
    assert_eq!(files(&out), expected);
    assert_eq!(
        (written.entries, written.first, written.last),
        (300, Some(entry(0).time), Some(entry(299).time))
    );
}

#[test]
fn an_export_of_other_entries_has_no_checkpoint() {
    let scratch = Scratch::new(5);
    let export = |name: &str, entries: Vec<Vec<u8>>| {
        let out = scratch.dir.path().join(name);
        let log = &scratch.log;
        let result = crate::audit::export::write(&out, log.checkpoint(), &log.vkey(), &[], entries);
        (out, result.map_err(|e| e.to_string()))
    };
    for (name, entries, why) in [
        ("few", bodies(0, 4), "the checkpoint counts 5 entries, and only 4 are there"),
        ("many", bodies(0, 6), "the checkpoint counts 5 entries, and there are more"),
        ("order", bodies(1, 6), "in the place of entry 0 is entry 1"),
    ] {
        let (out, result) = export(name, entries);
        assert_eq!(result.unwrap_err(), why);
        assert!(!out.join("checkpoint").exists(), "{name}");
    }
    let (out, result) = export("good", bodies(0, 5));
    result.unwrap();
    let (_, again) = export("good", bodies(0, 5));
    assert_eq!(
        again.unwrap_err(),
        format!("`{}` is not empty: name a directory that is, or that is not there yet", out.display())
    );
}
