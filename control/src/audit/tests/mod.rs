//! The log against what the standards say, a library that shares no code with it, a disk that fails at
//! every step, and an adversary who may change every byte.

mod agree;
mod expire;
mod format;
mod journal;
mod kill;
mod open;
mod power;
mod proven;
mod sample;
mod table;
mod tamper;
mod tree;

use super::{Entry, Log, SigningKey};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

const ORIGIN: &str = "holm.example/log";

/// A log in a directory that goes with it.
struct Scratch {
    dir: TempDir,
    log: Log,
}

/// In memory where there is a place: what is synced is written down, and nothing is waited for.
fn tempdir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

impl Scratch {
    /// With this many entries.
    fn new(size: u64) -> Self {
        let dir = tempdir();
        let mut log = Log::create(&dir.path().join("log"), ORIGIN, key()).unwrap();
        log.append(&bodies(0, size)).unwrap();
        log.flush().unwrap();
        Self { dir, log }
    }

    /// Appended, and laid down in the directory.
    fn grow(&mut self, to: u64) {
        self.log.append(&bodies(self.log.size(), to)).unwrap();
        self.log.flush().unwrap();
    }

    fn journal(&self) -> std::path::PathBuf {
        self.dir.path().join("log.journal")
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("log")
    }

    /// As after a stop and a start.
    fn reopen(self) -> Self {
        drop(self.log);
        let log = Log::open(&self.dir.path().join("log"), ORIGIN, key()).unwrap();
        Self { dir: self.dir, log }
    }
}

fn key() -> SigningKey {
    SigningKey::fixed(7)
}

fn vkey() -> String {
    key().vkey(ORIGIN)
}

fn entry(index: u64) -> Entry {
    Entry {
        v: 1,
        index,
        time: Timestamp::from_second(1_790_000_000 + i64::try_from(index).unwrap()).unwrap(),
        request: "b4f1c3de-6f5d-4f0e-9d43-0d7f6f0c2a11".to_owned(),
        actor: "person/ada".to_owned(),
        peer: "192.0.2.7:50412".to_owned(),
        action: "slice.request".to_owned(),
        resource: format!("slice/heart/n{index}"),
        project: Some("heart".to_owned()),
        level: None,
        outcome: "allowed".to_owned(),
        reasons: vec!["lead-requests".to_owned()],
        pack: Some("aau-2018/1".to_owned()),
        detail: serde_json::json!({ "gpus": 2 }),
        changes: vec![],
    }
}

fn body(index: u64) -> Vec<u8> {
    entry(index).to_bytes().unwrap()
}

fn bodies(start: u64, end: u64) -> Vec<Vec<u8>> {
    (start..end).map(body).collect()
}

/// Every file below a directory.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(at) = dirs.pop() {
        for item in fs::read_dir(at).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                all.insert(name, fs::read(path).unwrap());
            }
        }
    }
    all
}

/// A directory with these files and no others.
fn lay_out(dir: &Path, files: &BTreeMap<String, Vec<u8>>) {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
