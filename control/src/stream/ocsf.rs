//! Entries as the Open Cybersecurity Schema Framework (OCSF, <https://schema.ocsf.io>) has them, version 1.3.0. Pure.
//!
//! | entry | class | activity |
//! |---|---|---|
//! | `enrol`, `certificate.renew`, `certificate.use`, `login…`, `slice.connect` | Authentication 3002 | Logon 1 |
//! | what ends in `create`, `invite…`, `request`, `make`, `add…`, `set`, `backup` | API Activity 6003 | Create 1 |
//! | `…read`, `…watch`, `…record`, `…certificate`, `observe.…` | API Activity 6003 | Read 2 |
//! | what ends in `destroy`, `remove`, `revoke`, `lift`, `withdraw`, `close` | API Activity 6003 | Delete 4 |
//! | everything else | API Activity 6003 | Update 3 |
//!
//! `status_id` is 1 where it was allowed or observed and 2 where it was refused; `severity_id` 1 (informational) or 3 (medium),
//! the same. `metadata.sequence` is the entry's number, `metadata.uid` the call's id, and `metadata.log_name` the log: by these
//! a collector knows what it had before. What OCSF has no field for is in `unmapped`: the entry but for its head.

use crate::audit::Entry;
use serde_json::{Value, json};
use std::net::SocketAddr;

const VERSION: &str = "1.3.0";
const AUTHENTICATION: (u32, u32) = (3, 3002);
const API_ACTIVITY: (u32, u32) = (6, 6003);

/// One entry of this log.
pub fn event(entry: &Entry, log: &str) -> Value {
    let ((category, class), activity) = kind(&entry.action);
    let refused = entry.outcome == "refused";
    let (kind, name) = entry.actor.split_once('/').unwrap_or(("", &entry.actor));
    let user = json!({ "name": name, "type_id": if kind == "person" { 1 } else { 3 } });
    let mut event = json!({
        "category_uid": category,
        "class_uid": class,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "severity_id": if refused { 3 } else { 1 },
        "status_id": if refused { 2 } else { 1 },
        "status_detail": entry.reasons.join("; "),
        "time": entry.time.as_millisecond(),
        "message": format!("{} {} {}: {}", entry.actor, entry.action, entry.resource, entry.outcome),
        "metadata": {
            "version": VERSION,
            "product": { "name": "holmd", "vendor_name": "Holm", "version": env!("CARGO_PKG_VERSION") },
            "log_name": log,
            "sequence": entry.index,
            "uid": entry.request,
            "original_time": entry.time.to_string(),
        },
        "actor": { "user": user },
        "src_endpoint": endpoint(&entry.peer),
        "unmapped": {
            "project": entry.project,
            "outcome": entry.outcome,
            "pack": entry.pack,
            "detail": entry.detail,
            "changes": entry.changes,
        },
    });
    if let Value::Object(fields) = &mut event {
        if class == AUTHENTICATION.1 {
            fields.insert("user".to_owned(), user);
            fields.insert("is_remote".to_owned(), true.into());
        } else {
            let api = json!({
                "operation": entry.action,
                "request": { "uid": entry.request },
                "service": { "name": "holmd" },
            });
            fields.insert("api".to_owned(), api);
            fields.insert("resources".to_owned(), json!([{ "name": entry.resource }]));
        }
    }
    event
}

fn kind(action: &str) -> ((u32, u32), u32) {
    let (noun, verb) = action.split_once('.').unwrap_or(("", action));
    let begins = |all: &[&str]| all.iter().any(|one| verb.starts_with(one));
    match noun {
        "observe" => (API_ACTIVITY, 2),
        "login" => (AUTHENTICATION, 1),
        "certificate" if begins(&["renew", "use"]) => (AUTHENTICATION, 1),
        _ if verb == "enrol" || matches!(action, "slice.connect" | "slice.recordings") => (AUTHENTICATION, 1),
        _ if begins(&["read", "watch", "record", "certificate"]) => (API_ACTIVITY, 2),
        _ if begins(&["create", "invite", "request", "make", "add", "set", "backup"]) => (API_ACTIVITY, 1),
        _ if begins(&["destroy", "remove", "revoke", "lift", "withdraw", "close"]) => (API_ACTIVITY, 4),
        _ => (API_ACTIVITY, 3),
    }
}

/// Where it came from: what holmd does by itself, and what comes over a machine's own tunnel, comes from holmd.
fn endpoint(peer: &str) -> Value {
    match peer.parse::<SocketAddr>() {
        Ok(address) => json!({ "ip": address.ip().to_string(), "port": address.port() }),
        Err(_) => json!({ "name": "holmd" }),
    }
}
