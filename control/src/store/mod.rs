//! Where records are kept. The log is the truth; a store is what can be looked up fast, and can be
//! rebuilt from the log.
//!
//! It follows the log: with the changes of entries it is written, all at once, up to which entry they are. What it lacks
//! after a kill is read from the log.

mod memory;
mod sled;

pub use memory::MemoryStore;
pub use sled::SledStore;

use crate::audit::{Hash, Log};
use crate::domain::{Change, Record};

/// What a store says when it cannot.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StoreError {
    /// What was being done.
    pub what: String,
    /// What the system said.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    fn because(what: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { what: what.to_owned(), cause: Some(cause.into()) }
    }
}

/// Up to where a store has followed the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the log.
    pub size: u64,
    /// The root over all of them: of no other log.
    pub root: Hash,
}

impl Applied {
    /// All of it.
    pub fn of(log: &Log) -> Self {
        Self { size: log.size(), root: log.root() }
    }

    fn bytes(self) -> Vec<u8> {
        [self.size.to_be_bytes().as_slice(), &self.root].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (size, root) = bytes.split_first_chunk()?;
        Some(Self { size: u64::from_be_bytes(*size), root: root.try_into().ok()? })
    }
}

/// A place for records. One writer.
pub trait Store: Send {
    /// Every record.
    fn records(&self) -> Result<Vec<Record>, StoreError>;
    /// Up to where; `None`: it is new, and holds nothing.
    fn applied(&self) -> Result<Option<Applied>, StoreError>;
    /// All of the changes, in this order, and up to where they are from, or nothing. Durable with the next flush.
    fn apply(&self, changes: &[Change], now: Applied) -> Result<(), StoreError>;
    /// Replace everything, as when rebuilding from the log. Durable when it returns.
    fn replace(&self, records: &[Record], now: Applied) -> Result<(), StoreError>;
    /// Make it durable.
    fn flush(&self) -> Result<(), StoreError>;
}

/// The bytes of a record: a version, a checksum, JSON. A torn or rotten value is found, not used.
fn encode(record: &Record) -> Result<Vec<u8>, StoreError> {
    let body = serde_json::to_vec(record)
        .map_err(|e| StoreError::because(&format!("record `{}` cannot be written", record.key()), e))?;
    let mut bytes = vec![1];
    bytes.extend(crc32fast::hash(&body).to_be_bytes());
    bytes.extend(body);
    Ok(bytes)
}

fn decode(key: &str, bytes: &[u8]) -> Result<Record, StoreError> {
    let corrupt = |why: &str| StoreError {
        what: format!(
            "record `{key}` in the store {why}; run `holmd rebuild` to make the store anew from the log"
        ),
        cause: None,
    };
    let (head, body) = bytes.split_at_checked(5).ok_or_else(|| corrupt("is cut off"))?;
    if head.first() != Some(&1) {
        return Err(corrupt("is of a version this holmd does not know"));
    }
    if head.get(1..) != Some(crc32fast::hash(body).to_be_bytes().as_slice()) {
        return Err(corrupt("does not match its checksum"));
    }
    let record: Record = serde_json::from_slice(body)
        .map_err(|e| StoreError::because(&format!("record `{key}` in the store cannot be read"), e))?;
    if record.key() == key { Ok(record) } else { Err(corrupt("is another record's")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::records::Person;

    fn person(name: &str) -> Record {
        Record::Person(Person {
            name: name.parse().unwrap(),
            roles: vec!["lead".into()],
            uid: 20_001,
            created: jiff::Timestamp::UNIX_EPOCH,
            enrolled: false,
            certificate: String::new(),
            renewed: String::new(),
            revoked: None,
            void: None,
            account: None,
            login: None,
        })
    }

    /// What every store must do; `reopen` gives a new handle on the same data where there is any.
    fn conformance<S: Store>(store: S, reopen: impl Fn(S) -> S) {
        assert_eq!((store.records().unwrap(), store.applied().unwrap()), (vec![], None));
        let at = |size: u64| Applied { size, root: [u8::try_from(size).unwrap(); 32] };
        store.apply(&[Change::Put(person("ada")), Change::Put(person("bo"))], at(1)).unwrap();
        let again = [
            Change::Delete("person/bo".into()),
            Change::Put(person("cy")),
            Change::Delete("person/cy".into()),
        ];
        store.apply(&again, at(3)).unwrap();
        store.flush().unwrap();
        let store = reopen(store);
        assert_eq!((store.records().unwrap(), store.applied().unwrap()), (vec![person("ada")], Some(at(3))));
        store.apply(&[], at(4)).unwrap();
        store.apply(&[Change::Delete("person/nobody".into())], at(5)).unwrap();
        assert_eq!((store.records().unwrap(), store.applied().unwrap()), (vec![person("ada")], Some(at(5))));
        store.replace(&[person("cy")], at(2)).unwrap();
        let store = reopen(store);
        assert_eq!((store.records().unwrap(), store.applied().unwrap()), (vec![person("cy")], Some(at(2))));
    }

    #[test]
    fn memory_conforms() {
        conformance(MemoryStore::default(), |s| s);
    }

    #[test]
    fn sled_conforms() {
        let dir = tempfile::tempdir().unwrap();
        let open = || SledStore::open(dir.path()).unwrap();
        conformance(open(), |s| {
            drop(s);
            open()
        });
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let good = encode(&person("ada")).unwrap();
        assert_eq!(decode("person/ada", &good).unwrap(), person("ada"));
        assert!(decode("person/bo", &good).is_err());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(decode("person/ada", &bad).is_err(), "byte {at}");
            assert!(decode("person/ada", &good[..at]).is_err(), "cut at {at}");
        }
    }
}
