//! The store of one machine: sled 0.34, used as its limits ask for. One writer, and one tree, so that one batch holds changes
//! and up to where they are from.

use super::{Applied, Store, StoreError, decode, encode};
use crate::domain::{Change, Record};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of sled's page cache: all of Holm's records are in memory anyway.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// A store that was closed a moment ago is free within this: a program that is just being started by another thread has a
/// copy of its lock until it begins.
const FREED: Duration = Duration::from_secs(1);

/// Records in a sled database.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    records: sled::Tree,
}

/// Under what it is kept up to where it is. No record's: those have a `/`, or are `policy`.
const APPLIED: &str = "applied";

impl SledStore {
    /// Open or make the database in this directory.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let what = format!("the store in `{}` cannot be opened", dir.display());
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            // Who writes says when.
            .flush_every_ms(None);
        let db = free(&config).map_err(|e| StoreError::because(&what, e))?;
        let records = db.open_tree("records").map_err(|e| StoreError::because(&what, e))?;
        Ok(Self { db, records })
    }

    fn write(&self, mut batch: sled::Batch, now: Applied) -> Result<(), StoreError> {
        batch.insert(APPLIED, now.bytes());
        self.records.apply_batch(batch).map_err(|e| StoreError::because("the store cannot be written", e))
    }
}

/// Opens it as soon as nobody has its lock.
#[expect(clippy::disallowed_methods, reason = "there is no event for a lock that is let go")]
fn free(config: &sled::Config) -> sled::Result<sled::Db> {
    let until = Instant::now() + FREED;
    loop {
        match config.open() {
            Err(sled::Error::Io(e))
                if e.to_string().contains("could not acquire lock") && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

impl Store for SledStore {
    fn records(&self) -> Result<Vec<Record>, StoreError> {
        let pairs = self.records.iter().filter(|pair| !pair.as_ref().is_ok_and(|(key, _)| *key == APPLIED));
        pairs
            .map(|pair| {
                let (key, value) = pair.map_err(|e| StoreError::because("the store cannot be read", e))?;
                decode(&String::from_utf8_lossy(&key), &value)
            })
            .collect()
    }

    fn applied(&self) -> Result<Option<Applied>, StoreError> {
        let found =
            self.records.get(APPLIED).map_err(|e| StoreError::because("the store cannot be read", e))?;
        let damaged = || StoreError {
            what:
                "the store does not say up to where it is; run `holmd rebuild` to make it anew from the log"
                    .to_owned(),
            cause: None,
        };
        found.map(|bytes| Applied::parse(&bytes).ok_or_else(damaged)).transpose()
    }

    fn apply(&self, changes: &[Change], now: Applied) -> Result<(), StoreError> {
        // Of one record the last is what counts: a batch has no order of its own.
        let mut last = BTreeMap::new();
        for change in changes {
            match change {
                Change::Put(record) => last.insert(record.key(), Some(record)),
                Change::Delete(key) => last.insert(key.clone(), None),
            };
        }
        let mut batch = sled::Batch::default();
        for (key, record) in last {
            match record {
                Some(record) => batch.insert(key.as_bytes(), encode(record)?),
                None => batch.remove(key.as_bytes()),
            }
        }
        self.write(batch, now)
    }

    fn replace(&self, records: &[Record], now: Applied) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for key in self.records.iter().keys() {
            batch.remove(key.map_err(|e| StoreError::because("the store cannot be read", e))?);
        }
        for record in records {
            batch.insert(record.key().as_bytes(), encode(record)?);
        }
        self.write(batch, now)?;
        self.flush()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| StoreError::because("the store cannot be written", e))?;
        Ok(())
    }
}
