//! What is decided, and not written yet.

use super::Call;
use super::write::Writing;
use crate::audit::Entry;
use crate::domain::{Change, Record, Refusal, RefusalKind, State};
use jiff::Timestamp;
use std::sync::Arc;

/// Bytes of entries that are decided while a batch is written: a quarter of the journal. What does not fit in there is written to
/// the directory, file by file, while all wait.
const WAITING_MAX: usize = 2 << 20;

/// What is decided.
pub(super) struct Next {
    /// As it will be when all that is decided is durable.
    pub(super) state: State,
    /// Entries that the log will have then.
    pub(super) size: u64,
    pub(super) batch: Batch,
    /// The batch that was taken last; absent: what became of it is known.
    pub(super) writing: Option<Arc<Writing>>,
    /// Nothing is decided any more, and why: what the log holds is known only after a restart.
    pub(super) stuck: Option<String>,
    /// Nobody is there to decide anything.
    pub(super) closed: bool,
}

/// What becomes durable together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) entries: Vec<Vec<u8>>,
    /// Of all of them.
    bytes: usize,
    pub(super) writing: Arc<Writing>,
}

/// What an entry says of a decision.
pub(super) struct Head {
    pub(super) outcome: &'static str,
    pub(super) reasons: Vec<String>,
    pub(super) pack: Option<String>,
    pub(super) detail: serde_json::Value,
}

impl Head {
    pub(super) fn of(
        call: &Call,
        reasons: Vec<String>,
        pack: Option<String>,
        detail: serde_json::Value,
    ) -> Self {
        let observed = ["observe.", "guest."].iter().any(|by| call.action.starts_with(by));
        let outcome = if observed { "observed" } else { "allowed" };
        Self { outcome, reasons, pack, detail }
    }
}

impl Next {
    /// Nothing is, but what is durable.
    pub(super) fn new(state: State, size: u64) -> Self {
        Self { state, size, batch: Batch::default(), writing: None, stuck: None, closed: false }
    }

    /// Decided: it is as if it were so, for whoever decides next.
    pub(super) fn add(
        &mut self,
        call: &Call,
        head: Head,
        changes: Vec<Change>,
        now: Timestamp,
    ) -> Result<Arc<Writing>, Refusal> {
        let entry = Entry {
            v: 1,
            index: self.size,
            time: now,
            request: call.request.to_string(),
            actor: call.actor.clone(),
            peer: call.peer.clone(),
            action: call.action.to_owned(),
            resource: bounded(&call.resource),
            project: call.project.as_deref().map(bounded),
            level: self.level(call, &changes),
            outcome: head.outcome.to_owned(),
            reasons: head.reasons.iter().map(|r| bounded(r)).collect(),
            pack: head.pack,
            detail: dated(head.detail, call.source_time),
            changes: changes.iter().collect(),
        };
        // Only this one cannot be written; the next one can.
        let body = entry.to_bytes().map_err(|e| Refusal::new(RefusalKind::Invalid, e.to_string()))?;
        if self.batch.bytes + body.len() > WAITING_MAX {
            let text = "nothing happens while it cannot be logged: too much waits for holmd's disk";
            return Err(Refusal::new(RefusalKind::Unavailable, text).hint("try again in a moment"));
        }
        self.batch.bytes += body.len();
        self.state.apply(&changes);
        self.batch.entries.push(body);
        self.batch.changes.extend(changes);
        self.size += 1;
        Ok(Arc::clone(&self.batch.writing))
    }

    /// What is found on this state is so when this is durable.
    pub(super) fn pending(&self) -> Option<Arc<Writing>> {
        match self.batch.entries.is_empty() {
            false => Some(Arc::clone(&self.batch.writing)),
            true => self.writing.clone(),
        }
    }

    /// What waits to be written is not.
    pub(super) fn give_up(&mut self) {
        let why = self.stuck.clone().unwrap_or_default();
        std::mem::take(&mut self.batch).writing.end(Err(why));
    }

    /// Of the project that a call concerns, where there is one of that name, be it since just now.
    fn level(&self, call: &Call, changes: &[Change]) -> Option<String> {
        let name = call.project.as_deref()?.parse().ok()?;
        let made = changes.iter().find_map(|change| match change {
            Change::Put(Record::Project(project)) if project.name == name => Some(project),
            _ => None,
        });
        made.or_else(|| self.state.project(&name)).map(|project| project.level.clone())
    }
}

/// With the time by another clock than holmd's.
fn dated(mut detail: serde_json::Value, source: Option<Timestamp>) -> serde_json::Value {
    let Some(time) = source else { return detail };
    if detail.is_null() {
        detail = serde_json::Value::Object(serde_json::Map::new());
    }
    if let Some(fields) = detail.as_object_mut() {
        fields.insert("source_time".to_owned(), time.to_string().into());
    }
    detail
}

/// What strangers send reaches the log in part, never whole.
fn bounded(text: &str) -> String {
    let end = text.char_indices().nth(400).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default().to_owned()
}
