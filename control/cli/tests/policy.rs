//! The rules as people and scripts read them, and packs checked, signed and compared without holmd.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use holm_cli::view;
use holm_policies::{FILES, Pack, diff};
use holm_proto::v1::PolicyExplanation;
use std::path::Path;
use std::process::{Command, Output};

fn holm(directory: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holm"))
        .args(words)
        .current_dir(directory)
        .env("HOLM_CONFIG", directory.join("profiles"))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

#[test]
fn tables() {
    let pack = Pack::builtin("aau-2026").unwrap();
    insta::assert_snapshot!("levels", view::levels(&pack).text(false, Some(120)));
    let rules = view::site_rules(&pack);
    assert_eq!(rules.rows.len(), 20);
    let other = Pack::builtin("aau-2018").unwrap();
    insta::assert_snapshot!("difference", view::difference(&diff(&other, &pack)).text(false, None));
    assert_eq!(view::difference(&diff(&pack, &pack)).text(false, None).trim(), "nothing becomes different");
    let mut answer = PolicyExplanation {
        allowed: false,
        reasons: vec![
            "only a security officer approves or rejects a slice: ask one (rule slice.decide)".to_owned(),
        ],
        pack: "aau-2018/7".to_owned(),
        roles: vec!["officer".to_owned()],
    };
    insta::assert_snapshot!("explanation", view::explanation("slice.approve", &answer).text(false));
    answer.roles.clear();
    assert!(view::explanation("slice.approve", &answer).text(false).contains("nobody outside"));
}

#[test]
fn a_pack_is_checked_signed_and_compared_offline() {
    let directory = tempfile::tempdir().unwrap();
    let (here, mine) = (directory.path(), directory.path().join("mine"));
    std::fs::create_dir(&mine).unwrap();
    let whole = Pack::builtin("aau-2018").unwrap();
    for (name, text) in FILES.iter().zip(whole.texts()) {
        std::fs::write(mine.join(name), text).unwrap();
    }
    let done = holm(here, &["policy", "check", "mine"]);
    assert!(done.status.success(), "{}", said(&done));
    let same = holm(here, &["policy", "diff", "mine", "aau-2018"]);
    assert!(said(&same).contains("nothing becomes different"), "{}", said(&same));

    let key = holm(here, &["policy", "keygen", "site.key", "--name", "site.test", "--quiet"]);
    assert!(said(&key).starts_with("site.test+"), "{}", said(&key));
    let again = holm(here, &["policy", "keygen", "site.key", "--name", "site.test"]);
    assert_eq!(again.status.code(), Some(1), "a key is not written over");
    let odd = holm(here, &["policy", "sign", "mine", "--key", "site.key", "--name", "two words"]);
    assert_eq!(odd.status.code(), Some(2), "{}", said(&odd));
    let signed = holm(here, &["policy", "sign", "mine", "--key", "site.key", "--name", "site.test"]);
    assert!(signed.status.success(), "{}", said(&signed));
    let signature = std::fs::read_to_string(mine.join("pack.sig")).unwrap();
    assert!(signature.starts_with("holm policy pack\naau-2018/"), "{signature}");

    // What is wrong is said with file and line, and nothing of it is signed.
    let manifest = std::fs::read_to_string(mine.join("pack.toml")).unwrap();
    std::fs::write(mine.join("pack.toml"), manifest.replace("\"vtpm\"", "\"moat\"")).unwrap();
    std::fs::remove_file(mine.join("pack.sig")).unwrap();
    for words in [
        &["policy", "check", "mine"][..],
        &["policy", "sign", "mine", "--key", "site.key", "--name", "site.test"],
    ] {
        let refused = holm(here, words);
        assert_eq!(refused.status.code(), Some(1));
        assert!(said(&refused).contains("mine/pack.toml:"), "{}", said(&refused));
        assert!(said(&refused).contains("nothing in Holm enforces `moat`"), "{}", said(&refused));
    }
    assert!(!mine.join("pack.sig").exists());
}
