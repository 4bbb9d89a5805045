//! How far a channel is in the log, on disk: so nothing is lost with the process, and little is said twice.
//!
//! ```text
//!   …, told, told, [ next: told to `done`, not to the others yet ], not looked at, …
//!     └─ waiting: refused for now, each with when it is tried again
//! ```
//!
//! Texts are not kept: the log has what they are made of.

use crate::kept::{read, write};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// As many wait at most; then the log waits.
pub(super) const WAITING_MAX: usize = 1000;

/// A place in the log, and what was left behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Book {
    /// The first entry that is not through.
    pub(super) next: u64,
    /// Which letters of that entry are.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) done: BTreeSet<String>,
    /// Letters of entries before, by entry and letter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) waiting: Vec<Waiting>,
}

/// A letter that was refused for now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiting {
    pub(super) entry: u64,
    pub(super) letter: String,
    /// How often it was tried.
    pub(super) tries: u32,
    /// When first.
    pub(super) since: Timestamp,
    /// When again.
    pub(super) due: Timestamp,
}

impl Book {
    /// What was kept; where nothing was, one that begins here.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let book = match read(path)? {
            Some(book) => book,
            None => {
                let new = Self::at(size);
                write(path, &new)?;
                new
            }
        };
        // The log was restored from a copy: what comes now is new.
        Ok(if book.next > size { Self::at(size) } else { book })
    }

    pub(super) fn at(next: u64) -> Self {
        Self { next, done: BTreeSet::new(), waiting: Vec::new() }
    }

    /// The whole entry is through.
    pub(super) fn through(&mut self, next: u64) {
        self.next = next;
        self.done.clear();
    }
}

/// Where a channel's is kept.
pub(super) fn path(data: &Path, name: &str) -> PathBuf {
    data.join("notify").join(format!("{name}.json"))
}
