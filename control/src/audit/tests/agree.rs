//! Two verifiers that share no line, ours and `deploy/docs/verify-log.py`, say the same of logs that somebody changed: bytes
//! and files of a copy, all hashes made to fit, checkpoints and entries that whoever holds the key signed.

mod entries;
mod expired;
mod files;
mod golang;
mod notes;

use super::tamper::{Files, bundle, copies, leaves};
use super::*;
use crate::audit::{Checkpoint, Outline, note, verify};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

const VERIFIER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docs/verify-log.py");

/// Calls the verifier as its own `main` does, for each line of standard input.
const DRIVER: &str = r#"
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("verifier", sys.argv[1])
verifier = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verifier)
for case in map(json.loads, sys.stdin):
    try:
        earlier = [note.encode() for note in case["earlier"]]
        size, root, gone, first, last = verifier.verify(case["dir"], case["key"], earlier)
        print(json.dumps({"entries": size, "root": root.hex(), "gone": gone, "first": first, "last": last}))
    except (ValueError, OSError) as refused:
        print(json.dumps({"refused": ascii(refused)}))
"#;

/// Logs to be judged by both.
pub(super) struct Cases {
    dir: TempDir,
    list: Vec<Case>,
}

struct Case {
    name: String,
    key: String,
    earlier: Vec<String>,
    good: bool,
}

impl Cases {
    pub(super) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), list: Vec::new() }
    }

    fn place(&self, number: usize) -> std::path::PathBuf {
        self.dir.path().join(number.to_string())
    }

    /// Its directory may be changed further.
    pub(super) fn add(&mut self, name: &str, good: bool, files: &Files) -> std::path::PathBuf {
        let at = self.place(self.list.len());
        lay_out(&at, files);
        self.list.push(Case { name: name.to_owned(), key: vkey(), earlier: Vec::new(), good });
        at
    }

    fn bad(&mut self, name: &str, files: &Files) -> std::path::PathBuf {
        self.add(name, false, files)
    }

    fn with_key(&mut self, good: bool, key: &str, files: &Files) {
        self.add(&format!("the key `{key}`"), good, files);
        self.list.last_mut().unwrap().key = key.to_owned();
    }

    pub(super) fn with_earlier(&mut self, name: &str, good: bool, files: &Files, earlier: &str) {
        self.add(name, good, files);
        self.list.last_mut().unwrap().earlier.push(earlier.to_owned());
    }

    fn ours(&self, number: usize, case: &Case) -> Value {
        let judged = || {
            let heads: Result<Vec<_>, _> =
                case.earlier.iter().map(|n| Checkpoint::verify(n, &case.key)).collect();
            verify::directory_from(&self.place(number), &case.key, &heads?, |_: &Outline| None::<()>)
        };
        match judged() {
            Ok((v, _)) => {
                let time = |time: Option<Timestamp>| time.map(|t| t.to_string()).unwrap_or_default();
                let (root, first, last) = (HEXLOWER.encode(&v.root), time(v.first), time(v.last));
                let gone = v.gone.map_or(0, |gone| gone.entries);
                json!({ "entries": v.entries, "root": root, "gone": gone, "first": first, "last": last })
            }
            Err(e) => json!({ "refused": crate::ledger::chain(&e) }),
        }
    }

    fn theirs(&self) -> Vec<Value> {
        let mut input = Vec::new();
        for (number, case) in self.list.iter().enumerate() {
            let dir = self.place(number);
            let line = json!({ "dir": dir.to_str().unwrap(), "key": case.key, "earlier": case.earlier });
            writeln!(input, "{line}").unwrap();
        }
        let mut child =
            python(["-c", DRIVER, VERIFIER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(&input).unwrap());
            child.wait_with_output().unwrap()
        });
        assert!(output.status.success(), "the verifier in Python did not come to its end");
        let said = String::from_utf8(output.stdout).unwrap();
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Both say the same of each, and what is expected. How many were refused.
    pub(super) fn judge(&self) -> usize {
        let theirs = self.theirs();
        assert_eq!(theirs.len(), self.list.len());
        let mut wrong = Vec::new();
        let mut refused = 0;
        for (number, (case, theirs)) in self.list.iter().zip(&theirs).enumerate() {
            let ours = self.ours(number, case);
            let same = match (ours.get("refused"), theirs.get("refused")) {
                (Some(_), Some(_)) => true,
                _ => ours == *theirs,
            };
            refused += usize::from(ours.get("refused").is_some());
            if !same || ours.get("refused").is_none() != case.good {
                wrong.push(format!(
                    "{}: expected {}\n  ours:   {ours}\n  theirs: {theirs}",
                    case.name, case.good
                ));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), self.list.len(), wrong.join("\n"));
        refused
    }
}

/// `python3` with these arguments, or what to do about it.
pub(super) fn python<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new("python3");
    let there = Command::new("python3").arg("--version").output().is_ok_and(|out| out.status.success());
    assert!(there, "this test needs python3: run deploy/packages, or apt-get install python3");
    command.args(args);
    command
}

/// Numbers that are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// The files of a log of these entries, signed by this key.
pub(super) fn log_of(bodies: &[Vec<u8>], key: SigningKey) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::create(&dir.path().join("log"), ORIGIN, key).unwrap();
    log.append(bodies).unwrap();
    log.flush().unwrap();
    files(&dir.path().join("log"))
}

fn changed(files: &Files, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Files {
    let mut files = files.clone();
    change(files.get_mut(name).unwrap());
    files
}

fn with(files: &Files, name: &str, bytes: impl Into<Vec<u8>>) -> Files {
    let mut files = files.clone();
    files.insert(name.to_owned(), bytes.into());
    files
}

pub(super) fn checkpoint(files: &Files) -> String {
    String::from_utf8(files["checkpoint"].clone()).unwrap()
}

#[test]
fn as_an_auditor_calls_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, old) = (dir.path().join("log"), dir.path().join("old"));
    lay_out(&log, &copies(300)[1]);
    fs::write(&old, checkpoint(&copies(256)[0])).unwrap();
    fs::write(dir.path().join("key"), format!("{}\n", vkey())).unwrap();
    let (log, old) = (log.to_str().unwrap(), old.to_str().unwrap());
    let key_file = dir.path().join("key");
    let run = |args: &[&str]| {
        let output = python([VERIFIER]).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let verified = verify::directory(Path::new(log), &vkey()).unwrap();
    let expected = format!(
        "verified {ORIGIN}\nentries  300\ngone     0\nroot     {}\nfirst    {}\nlast     {}\n",
        HEXLOWER.encode(&verified.root),
        entry(0).time,
        entry(299).time
    );
    for args in [&[log, &vkey()][..], &[log, key_file.to_str().unwrap()], &[log, &vkey(), "--earlier", old]] {
        assert_eq!(run(args), (Some(0), expected.clone(), String::new()));
    }
    fs::write(dir.path().join("log/notes"), "").unwrap();
    let (code, said, why) = run(&[log, &vkey()]);
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert_eq!(why, format!("{log} is NOT the log that was signed: notes is no part of the log\n"));
    for args in [
        &[][..],
        &[log],
        &[log, "nonsense"],
        &[log, &vkey(), "--earlier", "/nowhere"],
        &[log, &vkey(), "more"],
    ] {
        let (code, said, why) = run(args);
        assert_eq!((code, said.as_str()), (Some(2), ""), "{args:?}");
        assert!(why.starts_with("usage: "), "{why}");
    }
    let source = fs::read_to_string(VERIFIER).unwrap();
    assert!(source.lines().count() < 200, "an auditor is promised that it is short");
}
