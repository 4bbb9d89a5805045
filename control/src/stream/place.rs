//! How far each sink is in the log, and which are away.

use super::config::StreamConfig;
use super::courier;
use crate::app::Failure;
use crate::domain::alert::{Alert, Scope};
use crate::kept;
use holm_proto::ids::Name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// The first entry that the sink has not for certain.
    pub(super) next: u64,
}

impl Place {
    /// As it was kept. A new sink gets the log from its first entry on; one that has more than there is, what comes now: the
    /// log was restored from a copy.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let next = kept::read::<Self>(path)?.map_or(0, |place| place.next);
        Ok(Self { next: next.min(size) })
    }
}

/// Where it is kept.
pub(super) fn path(data: &Path, name: &Name) -> PathBuf {
    data.join("stream").join(format!("{name}.json"))
}

/// Sinks that are away, since when and why.
#[derive(Debug, Default)]
pub struct Streams(Mutex<BTreeMap<Name, (Timestamp, String)>>);

impl Streams {
    /// Whether they can be used, in words. Nobody is asked.
    pub fn check(config: &StreamConfig) -> Result<String, Failure> {
        courier::check(config)
    }

    /// Of each that is away.
    pub fn alerts(&self) -> Vec<Alert> {
        let down = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alert = |(name, (since, why)): (&Name, &(Timestamp, String))| Alert {
            code: "stream-down",
            scope: Scope::Host,
            text: format!("{name} has got nothing of the log since {since:.0}: {why}"),
            mend: "see [stream] in holmd.toml; nothing is lost meanwhile".to_owned(),
            prevents: Vec::new(),
        };
        down.iter().map(alert).collect()
    }

    pub(super) fn down(&self, name: &Name, why: &str, now: Timestamp) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), (now, why.to_owned()));
    }

    pub(super) fn up(&self, name: &Name) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}
