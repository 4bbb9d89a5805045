//! What is known of a witness, on disk: what it cosigned, up to where it is, and how it stands.

use super::cosignature::{self, WitnessKey};
use crate::audit::Checkpoint;
use crate::kept;
use holm_proto::ids::Name;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Cosigned heads that are kept beside the newest: the last of each day.
const DAYS: usize = 31;
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// How it stands with a witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has not answered yet.
    New,
    /// It cosigned the log's head when it was asked last.
    Covered,
    /// It was asked several times, and did not.
    Behind,
    /// It has seen another history of this log.
    Alarm,
}

impl State {
    /// For programs.
    pub fn text(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Covered => "covered",
            Self::Behind => "behind",
            Self::Alarm => "alarm",
        }
    }
}

/// A head that a witness cosigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Covered {
    /// Entries below it.
    pub size: u64,
    /// As the witness's clock said.
    pub at: Timestamp,
    /// Signed by both.
    pub note: String,
}

/// How it stands with one witness, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Its public key.
    pub key: String,
    /// How it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Why it does not stand better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The size that it has, as far as is known.
    pub has: u64,
    /// The newest head that it cosigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Covered>,
    /// Older ones, the last of each day, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Covered>,
    /// A head that the log's key and the witness's signed, and that this log does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

impl Standing {
    /// What was kept of the witness with this key; what is not signed by log and witness is not believed.
    pub(super) fn open(path: &Path, log: &str, key: &WitnessKey, now: Timestamp) -> io::Result<Self> {
        let kept = kept::read::<Self>(path)?.filter(|kept| kept.key == key.vkey());
        let new = || Self {
            key: key.vkey(),
            state: State::New,
            since: now,
            why: None,
            has: 0,
            newest: None,
            days: Vec::new(),
            evidence: None,
        };
        let mut standing = kept.unwrap_or_else(new);
        let sound = |covered: &Covered| {
            cosignature::cosigned(&covered.note, log, key)
                .is_ok_and(|(head, at)| (head.size, at) == (covered.size, covered.at))
        };
        standing.newest = standing.newest.filter(sound);
        standing.days.retain(sound);
        Ok(standing)
    }

    /// It cosigned this head.
    pub(super) fn covers(&mut self, head: &Checkpoint, at: Timestamp, note: String) {
        if let Some(before) = self.newest.take()
            && before.at.as_second().div_euclid(DAY.as_secs()) != at.as_second().div_euclid(DAY.as_secs())
        {
            self.days.push(before);
            let over = self.days.len().saturating_sub(DAYS);
            self.days.drain(..over);
        }
        self.has = head.size;
        self.newest = Some(Covered { size: head.size, at, note });
    }
}

/// Where it is kept.
pub(super) fn path(data: &Path, name: &Name) -> PathBuf {
    data.join("witness").join(format!("{name}.json"))
}
