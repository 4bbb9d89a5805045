//! What is locked.

use super::{time_json, when};
use crate::output::Table;
use crate::text::{Clock, instant};
use holm_proto::v1::Lock;
use serde_json::{Value, json};

/// A list.
pub fn locks(all: &[Lock], clock: &Clock) -> Table {
    let row = |l: &Lock| {
        vec![
            l.subject.as_str().into(),
            l.by.as_str().into(),
            when(l.at.as_ref(), clock),
            l.reason.as_str().into(),
        ]
    };
    Table {
        columns: vec!["locked", "by", "since", "why"],
        rows: all.iter().map(row).collect(),
        empty: "nothing is locked",
    }
}

/// `by frida, 2026-11-03 14:02:11`; empty where it is not locked.
pub(super) fn locked(lock: Option<&Lock>, clock: &Clock) -> String {
    let Some(lock) = lock else { return String::new() };
    let at = instant(lock.at.as_ref()).map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
    format!("by {}{at}", lock.by)
}

/// As `holm.v1.Lock` has it.
pub fn lock_json(l: &Lock) -> Value {
    json!({ "subject": l.subject, "by": l.by, "at": time_json(l.at.as_ref()), "reason": l.reason })
}
