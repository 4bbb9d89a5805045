//! An entry of the log, and its head, as a collector gets them. Pure.

use super::config::Format;
use super::ocsf;
use crate::audit::Entry;
use jiff::Timestamp;
use serde_json::{Value, json};

/// One JSON object, and what syslog says beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) time: Timestamp,
    /// The entry's number; of a head, how many are below it.
    pub(super) number: u64,
    /// The action, or `checkpoint`.
    pub(super) action: String,
    pub(super) actor: String,
    pub(super) outcome: String,
    pub(super) json: String,
}

impl Record {
    /// Of an entry, as it was hashed. One that cannot be read is passed on as it is: nothing is left out.
    pub(super) fn entry(
        index: u64,
        body: &[u8],
        log: &str,
        format: Format,
        changes: bool,
        now: Timestamp,
    ) -> Self {
        let Ok(mut entry) = Entry::from_bytes(body) else {
            let json = json!({ "index": index, "log": log, "unreadable": String::from_utf8_lossy(body) });
            return Self {
                time: now,
                number: index,
                action: "unreadable".to_owned(),
                actor: String::new(),
                outcome: String::new(),
                json: json.to_string(),
            };
        };
        if !changes {
            entry.changes.clear();
        }
        let value = match format {
            Format::Holm => {
                let mut value = serde_json::to_value(&entry).unwrap_or_default();
                if let Value::Object(fields) = &mut value {
                    fields.insert("log".to_owned(), log.into());
                }
                value
            }
            Format::Ocsf => ocsf::event(&entry, log),
        };
        Self {
            time: entry.time,
            number: index,
            action: entry.action,
            actor: entry.actor,
            outcome: entry.outcome,
            json: value.to_string(),
        }
    }

    /// Of the log's signed head.
    pub(super) fn head(note: &str, log: &str, now: Timestamp) -> Self {
        let size = note.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or_default();
        Self {
            time: now,
            number: size,
            action: "checkpoint".to_owned(),
            actor: "holmd".to_owned(),
            outcome: "observed".to_owned(),
            json: json!({ "log": log, "size": size, "checkpoint": note }).to_string(),
        }
    }
}
