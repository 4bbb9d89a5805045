//! The log's signed head, mailed once a day to mailboxes that are kept elsewhere: the weakest of witnesses, which checks nothing,
//! and whose mail nobody here can take back.
//!
//! ```text
//!   a day after the one before ──▶ an entry: its size and root ──▶ kept ──▶ sent to each ──▶ an entry: to how many
//!                                                                   ▲           │
//!                                                                   └── left ◀──┴──▶ no answer: again after a while, until the
//!                                                                                    next is due; the third time an entry
//! ```
//!
//! The entry comes first, so who goes through a mailbox later knows which mails there must be.

use super::courier::Outcome;
use super::mail::Smtp;
use super::message_id;
use crate::app::App;
use crate::audit::Checkpoint;
use crate::kept;
use crate::ledger::Call;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const DAILY: SignedDuration = SignedDuration::from_hours(24);
/// The clock is looked at this often: it may jump, and a machine may sleep.
const LOOK: Duration = Duration::from_secs(600);
/// So often in a row it has to fail before that is said.
const FAILED_MAX: u32 = 3;
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// A head that goes out, and where it still has to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Round {
    at: Timestamp,
    note: String,
    left: BTreeSet<String>,
    /// Who will not have it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    refused: BTreeSet<String>,
    /// What came of it is an entry.
    told: bool,
}

/// A clock that was set back delays the next one by a day at most.
fn is_due(last: Timestamp, now: Timestamp) -> bool {
    now.duration_since(last).abs() >= DAILY
}

/// Sends until holmd ends.
pub(super) async fn run(app: Arc<App>, smtp: Arc<Smtp>) {
    let path = app.config.data.join("notify").join("heads.json");
    let round = kept::read(&path).unwrap_or_else(|failure| {
        // Then one goes out now.
        tracing::warn!("`{}` cannot be read: {failure}", path.display());
        None
    });
    let retry = Duration::from_secs(app.config.notify.retry_seconds.into());
    let mut heads = Heads { app, smtp, path, round, failed: 0 };
    let mut pause = retry;
    loop {
        match heads.turn().await {
            Ok(wait) => {
                (heads.failed, pause) = (0, retry);
                tokio::time::sleep(wait).await;
            }
            Err(why) => {
                tracing::warn!("the log's head is not mailed: {why}");
                heads.failed = heads.failed.saturating_add(1);
                if heads.failed == FAILED_MAX
                    && let Err(failure) = heads.logged(json!({ "state": "behind", "why": why })).await
                {
                    tracing::error!("that cannot be logged: {failure}");
                    // It is said when it can be.
                    heads.failed -= 1;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX).max(retry);
            }
        }
    }
}

struct Heads {
    app: Arc<App>,
    smtp: Arc<Smtp>,
    path: PathBuf,
    round: Option<Round>,
    /// Turns in a row.
    failed: u32,
}

impl Heads {
    /// What is to be done now. How long there is nothing to do then, or why it has to be done again.
    async fn turn(&mut self) -> Result<Duration, String> {
        let now = self.app.ledger.now();
        let mut round = match self.round.take() {
            Some(round) if !is_due(round.at, now) => round,
            before => {
                // Where some never took the last one, that is over.
                if let Some(before) = before.filter(|before| !before.left.is_empty()) {
                    let lack: Vec<&String> = before.left.iter().collect();
                    let ended = self.logged(json!({ "state": "given up", "lack": lack })).await;
                    if ended.is_err() {
                        self.round = Some(before);
                        return ended.map(|()| LOOK);
                    }
                }
                self.begun(now).await?
            }
        };
        let sent = self.send(&mut round).await;
        let kept = self.keep(&round).await;
        self.round = Some(round);
        sent.and(kept).map(|()| LOOK)
    }

    /// A new head, with its entry.
    async fn begun(&self, at: Timestamp) -> Result<Round, String> {
        let note = self.app.ledger.checkpoint();
        let (size, root) = (self.head(&note)?.size, note.lines().nth(2));
        let left: BTreeSet<String> = self.smtp.heads_to().iter().map(ToString::to_string).collect();
        self.logged(json!({ "state": "sending", "size": size, "root": root, "to": left.len() })).await?;
        let round = Round { at, note, left, refused: BTreeSet::new(), told: false };
        self.keep(&round).await?;
        Ok(round)
    }

    /// To each who has not got it; then an entry.
    async fn send(&self, round: &mut Round) -> Result<(), String> {
        if round.told {
            return Ok(());
        }
        let head = self.head(&round.note)?;
        let mut why = Ok(());
        for to in round.left.clone() {
            match self.one(&head, round, &to).await {
                Outcome::Delivered => {}
                Outcome::Never(no) => {
                    tracing::error!("`{to}` takes no head of the log: {no}");
                    round.refused.insert(to.clone());
                }
                Outcome::Later(no) | Outcome::Away(no) | Outcome::Lost(no) => {
                    why = Err(no);
                    continue;
                }
            }
            round.left.remove(&to);
        }
        if round.left.is_empty() {
            let refused: Vec<&String> = round.refused.iter().collect();
            let took = self.smtp.heads_to().len().saturating_sub(refused.len());
            let state = if refused.is_empty() { "sent" } else { "refused" };
            self.logged(json!({ "state": state, "size": head.size, "took": took, "refused": refused }))
                .await?;
            round.told = true;
        }
        why
    }

    async fn one(&self, head: &Checkpoint, round: &Round, to: &str) -> Outcome {
        // Kept from before the configuration was changed.
        let Some(to) = self.smtp.heads_to().iter().find(|known| known.to_string() == to) else {
            return Outcome::Never("it is in the configuration no more".to_owned());
        };
        let (origin, size) = (&head.origin, head.size);
        let subject = format!("{origin}: {size} entries");
        let root = round.note.lines().nth(2).unwrap_or_default();
        let text = format!(
            "On {:.0} the log {origin} had {size} entries. The hash over all of them is\n\n  {root}\n\n\
             Keep this message where nobody who runs Holm can reach it. The file with it says the same and is signed by\n\
             the log. Whoever has the file, and the log or an export of it, runs\n\n  holm audit verify --earlier head.txt\n\n\
             which fails where the log does not begin with these {size} entries any more.\n",
            round.at
        );
        let id = format!("{}-head", message_id(origin, size));
        match self.smtp.with_file((&id, &subject, round.at), to, text, ("head.txt", &round.note)) {
            Err(why) => Outcome::Never(why),
            Ok(message) => match self.smtp.connect().await {
                Ok(connection) => self.smtp.send(connection, to.clone(), &message).await.0,
                Err(why) => Outcome::Away(why),
            },
        }
    }

    fn head(&self, note: &str) -> Result<Checkpoint, String> {
        let key = self.app.log_key.vkey(&self.app.config.log_origin);
        Checkpoint::verify(note, &key).map_err(|failure| format!("the log's own head: {failure}"))
    }

    async fn keep(&self, round: &Round) -> Result<(), String> {
        let (path, round) = (self.path.clone(), round.clone());
        let kept = tokio::task::spawn_blocking(move || kept::write(&path, &round)).await;
        let failed = |e: std::io::Error| format!("`{}` cannot be written: {e}", self.path.display());
        kept.map_err(|e| e.to_string())?.map_err(failed)
    }

    async fn logged(&self, detail: Value) -> Result<(), String> {
        let app = Arc::clone(&self.app);
        let call = Call::own("observe.mailbox", "notify/heads".to_owned());
        let written = tokio::task::spawn_blocking(move || app.ledger.note(&call, detail)).await;
        written.map_err(|e| e.to_string())?.map_err(|refusal| refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_due_a_day_after_the_one_before_whichever_way_a_clock_jumps() {
        let at = |hours: i64| Timestamp::from_second(1_790_000_000 + hours * 3600).unwrap();
        for (now, due) in [(0, false), (23, false), (24, true), (500, true), (-1, false), (-24, true)] {
            assert_eq!(is_due(at(0), at(now)), due, "{now}");
        }
    }
}
