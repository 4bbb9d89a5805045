//! Watches the log: an entry that a rule takes makes another, `observe.alarm`, and that one is mail to officers.
//!
//! ```text
//!   sealed log ──▶ Watch::see: pure, by rules ──▶ entry observe.alarm ──▶ notify: officers, but for whom it is about
//!                                                         │
//!                                                         └── book: how far, on disk, after the entry
//! ```
//!
//! A kill between the entry and the book has it said twice, never not at all. What rules count is remembered no longer than
//! they say, and read anew from the log when holmd starts.

mod rule;
#[cfg(test)]
mod tests;

pub use rule::{Alarm, Watch, WatchConfig};

use crate::app::App;
use crate::audit::Entry;
use crate::kept::{self, Place};
use crate::ledger::{Call, chain};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The action of an alarm's entry.
pub const ALARM: &str = "observe.alarm";

/// Entries read at once.
const BATCH: u64 = 256;
/// Entries that are read again at the start, at most.
const AGAIN: u64 = 65_536;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// Until holmd ends.
pub async fn run(app: Arc<App>) {
    let mut size = app.ledger.subscribe();
    let mut watcher = None;
    loop {
        size.mark_unchanged();
        let worker = Arc::clone(&app);
        let turn = tokio::task::spawn_blocking(move || {
            let mut watcher = match watcher {
                Some(watcher) => watcher,
                None => Watcher::open(&worker)?,
            };
            watcher.turn(&worker)?;
            Ok::<_, String>(watcher)
        });
        watcher = match turn.await.map_err(|e| e.to_string()).flatten() {
            Ok(watcher) => Some(watcher),
            Err(why) => {
                tracing::error!("the log is not watched: {why}");
                tokio::time::sleep(PAUSE).await;
                None
            }
        };
        if watcher.is_some() && size.changed().await.is_err() {
            return;
        }
    }
}

/// Goes through the log.
struct Watcher {
    watch: Watch,
    path: PathBuf,
    next: u64,
}

impl Watcher {
    /// Where it was left; a holmd that never watched begins at the log's end.
    fn open(app: &App) -> Result<Self, String> {
        let mut watch = Watch::new(app.config.watch.as_deref())?;
        let path = app.config.data.join("notify").join("watch.json");
        let size = app.ledger.size();
        let place = Place::open(&path, size, size).map_err(|e| format!("`{}`: {e}", path.display()))?;
        let next = place.next;
        // What rules count began before.
        let since = app.ledger.now().checked_sub(watch.memory()).unwrap_or(jiff::Timestamp::MIN);
        let mut at = next.saturating_sub(AGAIN).max(app.ledger.first());
        while at < next {
            let until = (at + BATCH).min(next);
            for entry in read(app, at, until)?.iter().filter(|entry| entry.time >= since) {
                watch.see(entry);
            }
            at = until;
        }
        Ok(Self { watch, path, next })
    }

    /// All that the log has by now. Where an alarm cannot be logged, it begins again with that entry.
    fn turn(&mut self, app: &App) -> Result<(), String> {
        let size = *app.ledger.subscribe().borrow();
        self.next = kept::kept(self.next, app.ledger.first(), "the watch");
        while self.next < size {
            for entry in read(app, self.next, (self.next + BATCH).min(size))? {
                // An alarm is no cause of another.
                if entry.action != ALARM {
                    let told = self.watch.see(&entry).iter().try_for_each(|alarm| tell(app, &entry, alarm));
                    if told.is_err() {
                        self.keep();
                        return told;
                    }
                }
                self.next = entry.index + 1;
            }
            self.keep();
        }
        Ok(())
    }

    /// Where that fails nothing is said again before a restart.
    fn keep(&self) {
        if let Err(e) = kept::write(&self.path, &Place { next: self.next }) {
            tracing::error!("`{}`, how far the log was watched, cannot be written: {e}", self.path.display());
        }
    }
}

fn read(app: &App, start: u64, end: u64) -> Result<Vec<Entry>, String> {
    let bodies = app.ledger.entries(start, end).map_err(|e| chain(&e))?;
    bodies.iter().map(|body| Entry::from_bytes(body).map_err(|e| chain(&e))).collect()
}

fn tell(app: &App, entry: &Entry, alarm: &Alarm) -> Result<(), String> {
    let call = Call { project: entry.project.clone(), ..Call::own(ALARM, format!("alarm/{}", alarm.rule)) };
    let detail =
        json!({ "entry": entry.index, "actor": entry.actor, "count": alarm.count, "first": alarm.first });
    let said = app.ledger.note(&call, detail);
    said.map_err(|refusal| refusal.to_string())
}
