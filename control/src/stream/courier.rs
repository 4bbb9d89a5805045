//! Carries the log to one sink. A task of its own for each: none waits for another, and no call waits for any.
//!
//! ```text
//!                 ┌───────────── more ─────────────┐
//!                 ▼                                │
//!   what the log has next ──▶ written ──▶ after a while, or many: its head ──▶ confirmed ──▶ place
//!                 ▲              │                                    │
//!                 └── again from the place ◀── failed ────────────────┘
//! ```

use super::config::{Format, SinkConfig, StreamConfig};
use super::file;
use super::place;
use super::record::Record;
use super::syslog::Syslog;
use crate::app::{App, Failure};
use crate::kept::{self, Place};
use crate::ledger::{Call, chain};
use crate::notify::line;
use holm_proto::ids::Name;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Entries that are read at a time: of 64 KiB at most each.
const BATCH: u64 = 64;
/// So many that are not confirmed are enough.
const OPEN_MAX: u64 = 4096;
/// So long a sink may have what is not confirmed.
const OPEN_TIME: Duration = Duration::from_secs(5);
/// So often in a row it has to fail before that is said.
const FAILED_MAX: u32 = 3;
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(300);

enum Sink {
    Syslog(Box<Syslog>),
    File(PathBuf),
}

impl Sink {
    fn new(config: &SinkConfig) -> Result<Self, String> {
        match config {
            SinkConfig::Syslog { server, ca_file, .. } => {
                Ok(Self::Syslog(Box::new(Syslog::new(server, ca_file).map_err(|why| line(&why, 300))?)))
            }
            SinkConfig::File { path, .. } if !path.is_absolute() => Err("`path` is not absolute".to_owned()),
            SinkConfig::File { path, .. } => Ok(Self::File(path.clone())),
        }
    }

    fn at(&self) -> String {
        match self {
            Self::Syslog(syslog) => format!("syslog at {}", syslog.at()),
            Self::File(path) => path.display().to_string(),
        }
    }

    async fn write(&mut self, records: Vec<Record>) -> Result<(), String> {
        match self {
            Self::Syslog(syslog) => syslog.write(&records).await,
            Self::File(path) => {
                let path = path.clone();
                let at = path.display().to_string();
                let written = tokio::task::spawn_blocking(move || file::append(&path, &records)).await;
                written.map_err(|e| e.to_string())?.map_err(|e| format!("`{at}` cannot be written: {e}"))
            }
        }
    }

    async fn confirm(&mut self) -> Result<(), String> {
        match self {
            Self::Syslog(syslog) => syslog.confirm().await,
            // It was synced.
            Self::File(_) => Ok(()),
        }
    }
}

/// Whether it can be used, in words. Nobody is asked.
pub(super) fn check(config: &StreamConfig) -> Result<String, Failure> {
    let next = "mend [stream] in holmd.toml, then: holmd check";
    if !(1..=3600).contains(&config.retry_seconds) {
        let text = format!("`retry_seconds` in [stream] can be 1 to 3600: `{}` is not", config.retry_seconds);
        return Err(Failure::new(text, next));
    }
    let sink = |(name, sink)| {
        let wrong = |why| Failure::new(format!("[stream.sinks.{name}] cannot be used: {why}"), next);
        Sink::new(sink).map(|sink| sink.at()).map_err(wrong)
    };
    let all: Vec<String> = config.sinks.iter().map(sink).collect::<Result<_, _>>()?;
    Ok(if all.is_empty() { "nowhere".to_owned() } else { all.join(", ") })
}

/// Finds where each sink was left. Blocks on the disk.
pub fn open(app: &Arc<App>) -> Result<Couriers, Failure> {
    let open = |(name, config): (&Name, &SinkConfig)| {
        let path = place::path(&app.config.data, name);
        let unread = |e| {
            let what = format!("`{}`, how far a sink is, cannot be read", path.display());
            Failure::because(
                what,
                "see to the disk, or remove the file: that sink gets the whole log again",
                e,
            )
        };
        // A new sink gets all of the log.
        let place = Place::open(&path, app.ledger.size(), 0).map_err(unread)?;
        let sink = Sink::new(config).map_err(|why| Failure::new(why, "holmd check"))?;
        let (app, name, format) = (Arc::clone(app), name.clone(), config.format());
        Ok(Courier {
            app,
            name,
            sink,
            format,
            path,
            sent: place.next,
            place,
            since: None,
            failed: 0,
            down: false,
        })
    };
    app.config.stream.sinks.iter().map(open).collect::<Result<_, _>>().map(Couriers)
}

/// One for each sink.
pub struct Couriers(Vec<Courier>);

/// Carries the log until holmd ends; ends at once where there is no sink.
pub async fn run(couriers: Couriers) {
    futures::future::join_all(couriers.0.into_iter().map(Courier::run)).await;
}

struct Courier {
    app: Arc<App>,
    name: Name,
    sink: Sink,
    format: (Format, bool),
    path: PathBuf,
    place: Place,
    /// The next that is to be written.
    sent: u64,
    /// Since when something is not confirmed.
    since: Option<Instant>,
    /// Failures in a row.
    failed: u32,
    /// That is an entry.
    down: bool,
}

impl Courier {
    async fn run(mut self) {
        let mut ledger = self.app.ledger.subscribe();
        let first = Duration::from_secs(self.app.config.stream.retry_seconds.into());
        let mut pause = first;
        loop {
            ledger.mark_unchanged();
            let due = self.since.map(|since| since + OPEN_TIME);
            let turn =
                if self.sent - self.place.next >= OPEN_MAX || due.is_some_and(|due| due <= Instant::now()) {
                    self.confirm().await
                } else {
                    self.more().await
                };
            match turn {
                Ok(true) => pause = first,
                Ok(false) => {
                    let rest = due.unwrap_or_else(|| Instant::now() + PAUSE_MAX);
                    tokio::select! {
                        _ = ledger.changed() => {}
                        () = tokio::time::sleep_until(rest) => {}
                    }
                }
                Err(why) => {
                    self.fails(&why).await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX).max(first);
                }
            }
        }
    }

    /// Whether there may be more to do at once.
    async fn more(&mut self) -> Result<bool, String> {
        // Not `size`: that waits for whoever writes.
        let size = *self.app.ledger.subscribe().borrow();
        let first = self.app.ledger.first();
        self.sent = kept::kept(self.sent, first, self.name.as_str());
        self.place.next = self.place.next.max(first);
        let (app, start, (format, changes)) = (Arc::clone(&self.app), self.sent, self.format);
        let end = size.min(start.saturating_add(BATCH));
        if start >= end {
            return Ok(false);
        }
        let read = tokio::task::spawn_blocking(move || {
            let (log, now) = (&app.config.log_origin, app.ledger.now());
            let bodies = app.ledger.entries(start, end).map_err(|e| chain(&e))?;
            let record =
                |(index, body): (u64, Vec<u8>)| Record::entry(index, &body, log, format, changes, now);
            Ok::<_, String>((start..).zip(bodies).map(record).collect())
        });
        self.sink.write(read.await.map_err(|e| e.to_string())??).await?;
        self.sent = end;
        self.since.get_or_insert_with(Instant::now);
        Ok(true)
    }

    /// The log's head goes after it; then what was written is the sink's.
    async fn confirm(&mut self) -> Result<bool, String> {
        let app = Arc::clone(&self.app);
        let head = tokio::task::spawn_blocking(move || {
            Record::head(&app.ledger.checkpoint(), &app.config.log_origin, app.ledger.now())
        });
        self.sink.write(vec![head.await.map_err(|e| e.to_string())?]).await?;
        self.sink.confirm().await?;
        let (path, place) = (self.path.clone(), Place { next: self.sent });
        let kept = tokio::task::spawn_blocking(move || kept::write(&path, &place)).await;
        let at = |e: &dyn std::fmt::Display| format!("`{}` cannot be written: {e}", self.path.display());
        kept.map_err(|e| at(&e))?.map_err(|e| at(&e))?;
        (self.place, self.since, self.failed) = (Place { next: self.sent }, None, 0);
        if self.down && self.said(None).await {
            self.down = false;
        }
        self.app.streams.up(&self.name);
        Ok(true)
    }

    async fn fails(&mut self, why: &str) {
        tracing::warn!(sink = self.name.as_str(), "it does not get the log: {why}");
        // What is not confirmed is written again.
        (self.sent, self.since) = (self.place.next, None);
        self.failed = self.failed.saturating_add(1);
        if self.failed >= FAILED_MAX && !self.down {
            self.app.streams.down(&self.name, why, self.app.ledger.now());
            self.down = self.said(Some(why.to_owned())).await;
        }
    }

    /// An entry: that it is away, or there again.
    async fn said(&self, down: Option<String>) -> bool {
        let app = Arc::clone(&self.app);
        let call = Call::own("observe.stream", format!("stream/{}", self.name));
        let detail = json!({ "down": down, "next": self.place.next });
        let written = tokio::task::spawn_blocking(move || app.ledger.note(&call, detail));
        match written.await {
            Ok(Ok(())) => true,
            Ok(Err(refusal)) => {
                tracing::error!("that cannot be logged: {refusal}");
                false
            }
            Err(_) => false,
        }
    }
}
