//! Carries the log's head to one witness. A task of its own for each: none waits for another, and no call waits for any.
//!
//! ```text
//!                 ┌──────────────────── it is at another size, no larger than the log's ───┐
//!                 ▼                                                                         │
//!   head, proof ──▶ asked ──▶ cosigned ──▶ kept: covered ──▶ until the log has grown, and so long at least, or a day
//!                     │
//!                     ├──▶ not answered, or not so ──▶ the third time: behind ──┐
//!                     └──▶ larger than the log, or another root ──▶ alarm ──────┴──▶ again after a while
//! ```
//!
//! Only that the state changes is an entry: the entry makes a new head, which is cosigned, which changes nothing.

use super::book::{self, Standing, State};
use super::client::{Answer, Client};
use super::cosignature;
use super::state::Witnesses;
use crate::app::{App, Failure};
use crate::audit::{Checkpoint, LogError, note, verify};
use crate::kept;
use crate::ledger::{Call, chain};
use holm_proto::ids::Name;
use jiff::SignedDuration;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Answers of one turn: a witness that says each time that it is somewhere else is asked no more.
const ASKED_MAX: u32 = 3;
/// So often in a row it has to fail before that is said.
const FAILED_MAX: u32 = 3;
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// A head that did not change is cosigned anew after this.
const DAILY: SignedDuration = SignedDuration::from_hours(23);

/// What came of a turn.
enum Turn {
    Cosigned(Checkpoint, jiff::Timestamp, String),
    Failed(String),
    /// And what proves it, if it was to be had.
    Alarm(String, Option<String>),
}

/// Finds where each witness was left. Blocks on the disk.
pub fn open(app: &Arc<App>) -> Result<Couriers, Failure> {
    let log = app.log_key.vkey(&app.config.log_origin);
    let open = |(name, client): (Name, Client)| {
        let path = book::path(&app.config.data, &name);
        let standing = Standing::open(&path, client.log(), client.key(), app.ledger.now()).map_err(|e| {
            let what = format!("`{}`, what is known of a witness, cannot be read", path.display());
            Failure::because(what, "see to the disk, or remove the file: what it cosigned is forgotten", e)
        })?;
        app.witnesses.set(&name, standing.clone());
        Ok(Courier { app: Arc::clone(app), name, client, path, standing, failed: 0 })
    };
    let clients = Witnesses::clients(&app.config.witness, &log)?;
    clients.into_iter().map(open).collect::<Result<_, _>>().map(Couriers)
}

/// One for each witness.
pub struct Couriers(Vec<Courier>);

/// Shows the log's head to witnesses until holmd ends; ends at once where there are none.
pub async fn run(couriers: Couriers) {
    futures::future::join_all(couriers.0.into_iter().map(Courier::run)).await;
}

struct Courier {
    app: Arc<App>,
    name: Name,
    client: Client,
    path: PathBuf,
    standing: Standing,
    /// Turns in a row that failed.
    failed: u32,
}

impl Courier {
    async fn run(mut self) {
        let mut ledger = self.app.ledger.subscribe();
        let every = Duration::from_secs(self.app.config.witness.every_seconds.into());
        let mut pause = every;
        loop {
            let turn = self.turn().await;
            let good = matches!(turn, Turn::Cosigned(..));
            self.take(turn).await;
            if !good {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX).max(every);
                continue;
            }
            pause = every;
            tokio::time::sleep(every).await;
            let left = self
                .standing
                .newest
                .as_ref()
                .map(|newest| DAILY.saturating_sub(self.app.ledger.now().duration_since(newest.at)));
            let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
            let has = self.standing.has;
            tokio::select! {
                _ = ledger.wait_for(|size| *size != has) => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// Ask, from where it is.
    async fn turn(&self) -> Turn {
        let mut old = self.standing.has;
        for _ in 0..ASKED_MAX {
            let app = Arc::clone(&self.app);
            let read = tokio::task::spawn_blocking(move || app.ledger.extension(old)).await;
            let (note, proof) = match read {
                Ok(Ok(read)) => read,
                Ok(Err(LogError::Range { size, .. })) => return self.shorter(old, size).await,
                Ok(Err(failure)) => {
                    return Turn::Failed(format!("the log cannot be read: {}", chain(&failure)));
                }
                Err(failure) => return Turn::Failed(failure.to_string()),
            };
            let head = match Checkpoint::verify(&note, self.client.log()) {
                Ok(head) => head,
                Err(failure) => return Turn::Failed(format!("the log's own head: {failure}")),
            };
            match self.client.add(old, &proof, &note, self.app.ledger.now()).await {
                Answer::Cosigned(note, at) => return Turn::Cosigned(head, at, note),
                Answer::Failed(why) => return Turn::Failed(why),
                Answer::Differs => {
                    let why = format!(
                        "it has cosigned {old} entries of this log that are not the first {old} of this one: the log \
                         was forked or changed"
                    );
                    return Turn::Alarm(why, self.evidence().await);
                }
                Answer::At(size) if size > head.size => return self.shorter(size, head.size).await,
                Answer::At(size) if size == old => {
                    return Turn::Failed(format!("it is at {size} entries, and will not go on from there"));
                }
                Answer::At(size) => {
                    if size < old && old == self.standing.has {
                        tracing::warn!(
                            witness = self.name.as_str(),
                            "it had cosigned {old} entries and says that it has {size}: it was restored from a copy"
                        );
                    }
                    old = size;
                }
            }
        }
        Turn::Failed("it says each time that it is at another size".to_owned())
    }

    /// It has more than there is.
    async fn shorter(&self, cosigned: u64, size: u64) -> Turn {
        let why =
            format!("it has cosigned {cosigned} entries, and the log has {size}: the log was rolled back");
        Turn::Alarm(why, self.evidence().await)
    }

    /// A head that it shows, signed by both, that is none of this log's.
    async fn evidence(&self) -> Option<String> {
        let (other, shown) = self.client.latest().await?;
        let (app, log, text) = (Arc::clone(&self.app), self.client.log().to_owned(), other.text());
        let own = tokio::task::spawn_blocking(move || match app.ledger.extension(other.size) {
            Ok((head, proof)) => Checkpoint::verify(&head, &log)
                .is_ok_and(|head| verify::consistency(&other, &head, &proof).is_ok()),
            // What the log does not have is not its own; what cannot be read proves nothing.
            Err(failure) => !matches!(failure, LogError::Range { .. }),
        });
        if !own.await.is_ok_and(|own| !own) {
            return None;
        }
        // An entry takes no more than it must: a note may have any number of other signatures.
        let (_, cosigned) = cosignature::newest(&shown, self.client.key()).ok()?;
        let own = note::verified_line(&shown, self.client.log()).ok()?;
        Some(format!("{text}\n{own}{cosigned}"))
    }

    /// Keep it, and say it where it is news.
    async fn take(&mut self, turn: Turn) {
        let (state, why) = match turn {
            Turn::Cosigned(head, at, note) => {
                self.failed = 0;
                self.standing.covers(&head, at, note);
                self.standing.evidence = None;
                (State::Covered, None)
            }
            Turn::Failed(why) => {
                tracing::warn!(witness = self.name.as_str(), "the log's head is not cosigned: {why}");
                self.failed = self.failed.saturating_add(1);
                match self.standing.state {
                    // Silence takes no alarm back.
                    State::Alarm => (State::Alarm, self.standing.why.clone()),
                    State::Behind => (State::Behind, Some(why)),
                    _ if self.failed >= FAILED_MAX => (State::Behind, Some(why)),
                    other => (other, Some(why)),
                }
            }
            Turn::Alarm(why, evidence) => {
                tracing::error!(witness = self.name.as_str(), "ALARM: {why}");
                self.standing.evidence = evidence.or(self.standing.evidence.take());
                (State::Alarm, Some(why))
            }
        };
        let before = self.standing.state;
        self.standing.why = why;
        if before != state {
            self.standing.since = self.app.ledger.now();
        }
        self.app.witnesses.set(&self.name, Standing { state, ..self.standing.clone() });
        if before != state {
            self.standing.state = state;
            // Before it is kept: killed in between it is said twice rather than never.
            if let Err(failure) = self.logged(before).await {
                tracing::error!(witness = self.name.as_str(), "that cannot be logged: {failure}");
                // It is said when it can be.
                self.standing.state = before;
            }
        }
        let (path, standing) = (self.path.clone(), self.standing.clone());
        let kept = tokio::task::spawn_blocking(move || kept::write(&path, &standing)).await;
        if let Ok(Err(failure)) = kept {
            tracing::error!("`{}` cannot be written: {failure}", self.path.display());
        }
    }

    async fn logged(&self, before: State) -> Result<(), String> {
        let standing = &self.standing;
        let detail = json!({
            "state": standing.state,
            "before": before,
            "key": standing.key,
            "size": standing.newest.as_ref().map(|newest| newest.size),
            "why": standing.why,
            "evidence": standing.evidence,
        });
        let app = Arc::clone(&self.app);
        let call = Call::own("observe.witness", format!("witness/{}", self.name));
        let written = tokio::task::spawn_blocking(move || app.ledger.note(&call, detail));
        written.await.map_err(|e| e.to_string())?.map_err(|refusal| refusal.to_string())
    }
}
