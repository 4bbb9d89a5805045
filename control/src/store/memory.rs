//! A store that forgets: for tests and for comparing the others with.

use super::{Applied, Store, StoreError};
use crate::domain::{Change, Record};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Tables>);

/// Records by key, and up to where they are from.
type Tables = (BTreeMap<String, Record>, Option<Applied>);

impl MemoryStore {
    /// As they are, for tests that make them otherwise.
    #[cfg(test)]
    pub(crate) fn tables(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn records(&self) -> Result<Vec<Record>, StoreError> {
        Ok(self.lock().0.values().cloned().collect())
    }

    fn applied(&self) -> Result<Option<Applied>, StoreError> {
        Ok(self.lock().1)
    }

    fn apply(&self, changes: &[Change], now: Applied) -> Result<(), StoreError> {
        let mut all = self.lock();
        for change in changes {
            match change {
                Change::Put(record) => drop(all.0.insert(record.key(), record.clone())),
                Change::Delete(key) => drop(all.0.remove(key)),
            }
        }
        all.1 = Some(now);
        Ok(())
    }

    fn replace(&self, records: &[Record], now: Applied) -> Result<(), StoreError> {
        *self.lock() = (records.iter().map(|r| (r.key(), r.clone())).collect(), Some(now));
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
