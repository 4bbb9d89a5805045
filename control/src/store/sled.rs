//! The store of one machine: sled 0.34, used as its limits ask for. One writer; one transaction over
//! both trees; flushed before a commit returns; the outbox keyed by big-endian index.

use super::{Store, StoreError, Waiting, decode, encode};
use crate::domain::{Change, Record};
use sled::Transactional;
use sled::transaction::ConflictableTransactionError;
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
    outbox: sled::Tree,
}

impl SledStore {
    /// Open or make the database in this directory.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let what = format!("the store in `{}` cannot be opened", dir.display());
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            // Commits flush by themselves; a background flush promises nothing and costs wake-ups.
            .flush_every_ms(None);
        let db = free(&config).map_err(|e| StoreError::because(&what, e))?;
        let records = db.open_tree("records").map_err(|e| StoreError::because(&what, e))?;
        let outbox = db.open_tree("outbox").map_err(|e| StoreError::because(&what, e))?;
        Ok(Self { db, records, outbox })
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| StoreError::because("the store cannot be written", e))?;
        Ok(())
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
        self.records
            .iter()
            .map(|pair| {
                let (key, value) = pair.map_err(|e| StoreError::because("the store cannot be read", e))?;
                decode(&String::from_utf8_lossy(&key), &value)
            })
            .collect()
    }

    fn outbox(&self) -> Result<Vec<Waiting>, StoreError> {
        self.outbox
            .iter()
            .map(|pair| {
                let (key, body) = pair.map_err(|e| StoreError::because("the outbox cannot be read", e))?;
                let index = key
                    .as_ref()
                    .try_into()
                    .map(u64::from_be_bytes)
                    .map_err(|e| StoreError::because("the outbox has a key that is no index", e))?;
                Ok(Waiting { index, body: body.to_vec() })
            })
            .collect()
    }

    fn commit(&self, changes: &[Change], entries: &[Waiting]) -> Result<(), StoreError> {
        let encoded = changes
            .iter()
            .map(|change| match change {
                Change::Put(record) => Ok((record.key(), Some(encode(record)?))),
                Change::Delete(key) => Ok((key.clone(), None)),
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        (&self.records, &self.outbox)
            .transaction(|(records, outbox)| {
                for (key, value) in &encoded {
                    match value {
                        Some(value) => drop(records.insert(key.as_bytes(), value.as_slice())?),
                        None => drop(records.remove(key.as_bytes())?),
                    }
                }
                for entry in entries {
                    outbox.insert(&entry.index.to_be_bytes(), entry.body.as_slice())?;
                }
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|e| StoreError::because("the store refused the change", format!("{e:?}")))?;
        self.flush()
    }

    fn sealed(&self, below: u64) -> Result<(), StoreError> {
        for key in self.outbox.range(..below.to_be_bytes()).keys() {
            let key = key.map_err(|e| StoreError::because("the outbox cannot be read", e))?;
            self.outbox.remove(key).map_err(|e| StoreError::because("the outbox cannot be written", e))?;
        }
        Ok(())
    }

    fn replace(&self, records: &[Record]) -> Result<(), StoreError> {
        let written = |e| StoreError::because("the store cannot be written", e);
        self.records.clear().map_err(written)?;
        self.outbox.clear().map_err(written)?;
        for record in records {
            self.records.insert(record.key(), encode(record)?).map_err(written)?;
        }
        self.flush()
    }
}
