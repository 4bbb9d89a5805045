//! Which partitions may be up, in a file: what Fabric Manager is told after it was restarted.
//!
//! A partition is in it before it is brought up and until it is known to be down. It may so list one that is
//! not up, which costs nothing, and never lacks one that is, which would cut a running machine's NVLinks.

use crate::edge::{EdgeError, Result};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The record. Shared by those who ask and the thread that calls.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    partitions: Mutex<BTreeSet<u32>>,
}

impl Ledger {
    /// Reads it; where there is no file, nothing was ever brought up.
    pub fn open(path: &Path) -> Result<Self> {
        let partitions = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                EdgeError::because(
                    format!("`{}` does not say which fabric partitions are up", path.display()),
                    error,
                )
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => {
                return Err(EdgeError::because(format!("cannot read `{}`", path.display()), error));
            }
        };
        Ok(Self { path: path.to_owned(), partitions: Mutex::new(partitions) })
    }

    /// What may be up.
    pub fn all(&self) -> BTreeSet<u32> {
        self.lock().clone()
    }

    /// From now on this may be up.
    pub fn add(&self, partition: u32) -> Result<()> {
        let mut all = self.all();
        all.insert(partition);
        self.replace(&all)
    }

    /// It is down.
    pub fn remove(&self, partition: u32) -> Result<()> {
        let mut all = self.all();
        all.remove(&partition);
        self.replace(&all)
    }

    /// All that may be up. Stored when it returns.
    pub fn replace(&self, partitions: &BTreeSet<u32>) -> Result<()> {
        let mut held = self.lock();
        if *held != *partitions {
            self.write(partitions).map_err(|error| {
                EdgeError::because(format!("cannot write `{}`", self.path.display()), error)
            })?;
            held.clone_from(partitions);
        }
        Ok(())
    }

    fn write(&self, partitions: &BTreeSet<u32>) -> std::io::Result<()> {
        let making = self.path.with_extension("tmp");
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory)?;
        let mut file = File::create(&making)?;
        file.write_all(&serde_json::to_vec(partitions)?)?;
        file.sync_all()?;
        fs::rename(&making, &self.path)?;
        File::open(directory)?.sync_all()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_outlives_its_agent_and_is_not_guessed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/fabric.json");
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.all(), BTreeSet::new());
        ledger.add(5).unwrap();
        ledger.add(17).unwrap();
        ledger.remove(5).unwrap();
        ledger.remove(6).unwrap();
        assert_eq!(Ledger::open(&path).unwrap().all(), BTreeSet::from([17]));
        fs::write(&path, "[17").unwrap();
        let error = Ledger::open(&path).unwrap_err().chain();
        assert!(error.contains("does not say which fabric partitions are up"), "{error}");
    }
}
