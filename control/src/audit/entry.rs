//! One entry of the log, as JSON. What is hashed and kept are the bytes; this is what they mean.

use super::json;
use jiff::Timestamp;
use serde::de::{DeserializeOwned, Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes that an entry may have: its length is written in 16 bits.
pub const MAX_ENTRY: usize = u16::MAX as usize;

/// The version that is written here and read here.
const VERSION: u32 = 1;

/// What can come of it.
pub const OUTCOMES: [&str; 3] = ["allowed", "refused", "observed"];

/// What was asked, by whom, and what came of it. Its changes are read as JSON; written they are what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "C: Deserialize<'de>"))]
pub struct Entry<C = Value> {
    /// Version of this form: 1.
    pub v: u32,
    /// Its place in the log, so that an entry by itself says where it belongs.
    pub index: u64,
    /// When it was decided.
    #[serde(deserialize_with = "json::time")]
    pub time: Timestamp,
    /// The call's id.
    pub request: String,
    /// `person/NAME`, `host/NAME`, `holmd` or `unknown`.
    pub actor: String,
    /// Socket address; empty where there was none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// As `slice.approve`.
    pub action: String,
    /// As `slice/heart/main`.
    pub resource: String,
    /// The project it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The project's level when it was decided, as its pack names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// One of [`OUTCOMES`].
    pub outcome: String,
    /// Which rules spoke, or why it was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// NAME/VERSION of the policy pack that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<String>,
    /// More, by action. Never a secret.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
    /// The whole transition: from these the store can be made anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<C>,
}

/// One whose changes nobody asks for: they are most of what an entry is.
pub type Outline = Entry<IgnoredAny>;

/// Why an entry cannot be logged.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// Longer than [`MAX_ENTRY`].
    #[error("the log entry of `{action}` would have {length} bytes, and 65535 is the most")]
    TooLong {
        /// Of the entry.
        action: String,
        /// Of its JSON.
        length: usize,
    },
    /// It has no JSON form.
    #[error("the log entry of `{action}` cannot be written")]
    Json {
        /// Of the entry.
        action: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl<C: Serialize> Entry<C> {
    /// The bytes that are hashed.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EntryError> {
        let action = || self.action.clone();
        // Most are shorter.
        let mut bytes = Vec::with_capacity(1 << 10);
        serde_json::to_writer(&mut bytes, self)
            .map_err(|source| EntryError::Json { action: action(), source })?;
        // What nobody could read back is not written.
        json::strict(&bytes).map_err(|source| EntryError::Json { action: action(), source })?;
        if bytes.len() > MAX_ENTRY {
            return Err(EntryError::TooLong { action: action(), length: bytes.len() });
        }
        Ok(bytes)
    }
}

impl Entry {
    /// What bytes of the log mean.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        Self::read(bytes)
    }
}

impl<C: DeserializeOwned> Entry<C> {
    /// The same, where no more is wanted of its changes than `C`. What is no entry is none whatever that is.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let text = json::strict(bytes)?;
        let entry: Self = serde_json::from_str(text)?;
        if entry.v == VERSION {
            return Ok(entry);
        }
        Err(serde_json::Error::custom(format!("it is of version {}, this reads version {VERSION}", entry.v)))
    }
}
