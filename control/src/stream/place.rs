//! Where it is kept how far each sink is in the log, and which are away.

use super::config::StreamConfig;
use super::courier;
use crate::app::Failure;
use crate::domain::alert::{Alert, Scope};
use holm_proto::ids::Name;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
