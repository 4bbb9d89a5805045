//! Where records are kept. The log is the truth; a store is what can be looked up fast, and can be
//! rebuilt from the log.
//!
//! A change and its log entry are written in one transaction: the entry waits in the outbox until the
//! log has sealed it.

mod memory;
mod sled;

pub use memory::MemoryStore;
pub use sled::SledStore;

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

/// One log entry that waits to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its index in the log.
    pub index: u64,
    /// Exactly the bytes that will be hashed.
    pub body: Vec<u8>,
}

/// A place for records. One writer; durable when a call returns.
pub trait Store: Send {
    /// Every record.
    fn records(&self) -> Result<Vec<Record>, StoreError>;
    /// Every entry in the outbox, in order.
    fn outbox(&self) -> Result<Vec<Waiting>, StoreError>;
    /// All of the changes, in this order, and the entries, or nothing.
    fn commit(&self, changes: &[Change], entries: &[Waiting]) -> Result<(), StoreError>;
    /// Forget outbox entries below this index: the log has them. Need not be durable at once.
    fn sealed(&self, below: u64) -> Result<(), StoreError>;
    /// Replace everything, as when rebuilding from the log.
    fn replace(&self, records: &[Record]) -> Result<(), StoreError>;
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
        assert_eq!(store.records().unwrap(), vec![]);
        let waiting = |index| Waiting { index, body: format!("entry {index}").into_bytes() };
        store.commit(&[Change::Put(person("ada")), Change::Put(person("bo"))], &[waiting(0)]).unwrap();
        let again = [
            Change::Delete("person/bo".into()),
            Change::Put(person("cy")),
            Change::Delete("person/cy".into()),
        ];
        store.commit(&again, &[waiting(1), waiting(2)]).unwrap();
        let store = reopen(store);
        assert_eq!(store.records().unwrap(), vec![person("ada")]);
        assert_eq!(store.outbox().unwrap(), vec![waiting(0), waiting(1), waiting(2)]);
        store.sealed(2).unwrap();
        assert_eq!(store.outbox().unwrap(), vec![waiting(2)]);
        store.commit(&[Change::Delete("person/nobody".into())], &[waiting(3)]).unwrap();
        store.replace(&[person("cy")]).unwrap();
        let store = reopen(store);
        assert_eq!(store.records().unwrap(), vec![person("cy")]);
        assert_eq!(store.outbox().unwrap(), vec![]);
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
