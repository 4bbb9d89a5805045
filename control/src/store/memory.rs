//! A store that forgets: for tests and for comparing the others with.

use super::{Store, StoreError, Waiting};
use crate::domain::{Change, Record};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Records in memory.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Tables>);

/// Records by key, and the outbox by index.
type Tables = (BTreeMap<String, Record>, BTreeMap<u64, Vec<u8>>);

impl MemoryStore {
    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn records(&self) -> Result<Vec<Record>, StoreError> {
        Ok(self.lock().0.values().cloned().collect())
    }

    fn outbox(&self) -> Result<Vec<Waiting>, StoreError> {
        Ok(self.lock().1.iter().map(|(index, body)| Waiting { index: *index, body: body.clone() }).collect())
    }

    fn commit(&self, changes: &[Change], entries: &[Waiting]) -> Result<(), StoreError> {
        let mut all = self.lock();
        for change in changes {
            match change {
                Change::Put(record) => drop(all.0.insert(record.key(), record.clone())),
                Change::Delete(key) => drop(all.0.remove(key)),
            }
        }
        all.1.extend(entries.iter().map(|entry| (entry.index, entry.body.clone())));
        Ok(())
    }

    fn sealed(&self, below: u64) -> Result<(), StoreError> {
        self.lock().1.retain(|index, _| *index >= below);
        Ok(())
    }

    fn replace(&self, records: &[Record]) -> Result<(), StoreError> {
        let mut all = self.lock();
        all.0 = records.iter().map(|r| (r.key(), r.clone())).collect();
        all.1.clear();
        Ok(())
    }
}
