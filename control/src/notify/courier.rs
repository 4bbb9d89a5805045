//! Carries one channel's messages from the log to whom they are for. A task of its own for each channel: none waits for
//! another, and no call waits for any.
//!
//! ```text
//!              ┌────────────── more ──────────────┐
//!              ▼                                  │
//!   what waits and is due, or else what the log has next ──▶ delivered ─────────▶ book
//!              │ nothing                          ├─ later ──▶ waiting ─────────▶ book
//!              ▼                                  ├─ never ──▶ entry notify.fail ▶ book
//!   until the log grows or something is due       └─ away, lost ▶ an alert, and the same again after a while
//! ```
//!
//! The book is written after a message was taken: a kill between the two sends it again, under the same id.

use super::book::{self, Book, WAITING_MAX, Waiting};
use super::event::{Event, events};
use super::mail::Smtp;
use super::webhook::Webhook;
use super::{Notify, message_id};
use crate::app::App;
use crate::audit::{Entry, LogError};
use crate::domain::Refusal;
use crate::kept;
use crate::ledger::{Call, chain};
use holm_proto::ids::Name;
use jiff::{SignedDuration, Timestamp};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Entries that are read at a time.
const BATCH: u64 = 256;
/// What is refused for so long is given up.
const GIVE_UP: SignedDuration = SignedDuration::from_hours(72);
/// So often in a row one message is lost; then the next is tried: it may be that message alone.
const LOST_MAX: u32 = 5;
/// The longest pause between two tries of a message.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// And where nothing can be sent: whoever mends it does not wait for longer.
const DOWN_MAX: Duration = Duration::from_secs(300);

/// One message for one receiver.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    /// Which of its entry's.
    pub(super) key: String,
    /// The same whenever it is sent.
    pub(super) id: String,
    pub(super) to: Option<Name>,
    pub(super) event: Event,
}

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is the other side's now.
    Delivered,
    /// This one was refused for now.
    Later(String),
    /// This one was refused for good.
    Never(String),
    /// Nobody can be reached, or lets holmd in.
    Away(String),
    /// It was reached, and this came to nothing: no word on whether it was taken.
    Lost(String),
}

/// Where messages go.
pub(super) enum Channel {
    /// To each person.
    Mail {
        server: Arc<Smtp>,
        /// Kept as long as there is something to send.
        open: Option<Box<AsyncSmtpConnection>>,
    },
    /// To a program, once.
    Webhook(Arc<Webhook>),
}

impl Channel {
    /// Of all that there can be.
    pub(super) const NAMES: [&str; 2] = ["smtp", "webhook"];

    /// In the log, in alerts and on disk.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Mail { .. } => "smtp",
            Self::Webhook(_) => "webhook",
        }
    }

    /// The messages that an event is on this channel.
    pub(super) fn letters(&self, event: &Event, log: &str) -> Vec<Letter> {
        let letter = |key: String, to: Option<Name>| {
            let id = format!("{}-{key}", message_id(log, event.entry));
            Letter { key, id, to, event: event.clone() }
        };
        match self {
            Self::Mail { .. } => {
                let each = event.to.iter();
                each.map(|name| letter(format!("{}-{name}", event.number), Some(name.clone()))).collect()
            }
            Self::Webhook(_) => vec![letter(event.number.to_string(), None)],
        }
    }

    pub(super) async fn send(
        &mut self,
        letter: &Letter,
        notify: &Notify,
        log: &str,
        now: Timestamp,
    ) -> Outcome {
        let texts = &notify.templates;
        match self {
            Self::Webhook(hook) => hook.send(letter, log, texts, now).await,
            Self::Mail { server, open } => {
                let Some(name) = &letter.to else { return Outcome::Delivered };
                let to = match server.address(name) {
                    Ok(to) => to,
                    Err(why) => return Outcome::Never(why),
                };
                let message = match server.message(letter, &to, texts) {
                    Ok(message) => message,
                    Err(why) => return Outcome::Never(why),
                };
                let connection = match open.take() {
                    Some(connection) => connection,
                    None => match server.connect().await {
                        Ok(connection) => connection,
                        Err(why) => return Outcome::Away(why),
                    },
                };
                let (outcome, again) = server.send(connection, to, &message).await;
                *open = again;
                outcome
            }
        }
    }

    /// There is nothing to send: servers do not like who stays.
    async fn rest(&mut self) {
        if let Self::Mail { open, .. } = self
            && let Some(mut connection) = open.take()
        {
            let _ = tokio::time::timeout(Duration::from_secs(5), connection.quit()).await;
        }
    }
}

/// What comes next.
enum Turn {
    /// There may be more to do at once.
    More,
    /// There is not, until the log grows, or until then.
    Rest(Option<Timestamp>),
    /// It has to wait, for this reason.
    Down(String),
}

/// What the log has next for a channel.
enum Found {
    /// Of this entry, these letters.
    Letters(u64, Vec<Letter>),
    /// Nothing up to here.
    Nothing(u64),
}

pub(super) struct Courier {
    app: Arc<App>,
    channel: Channel,
    path: PathBuf,
    book: Book,
    /// How often in a row the message that is next was lost.
    lost: u32,
}

impl Courier {
    /// Where it was left. Blocks on the disk.
    pub(super) fn open(app: Arc<App>, channel: Channel) -> Result<Self, String> {
        let path = book::path(&app.config.data, channel.name());
        let book = Book::open(&path, app.ledger.size())
            .map_err(|e| format!("`{}` cannot be used: {}", path.display(), chain(&e)))?;
        Ok(Self { app, channel, path, book, lost: 0 })
    }

    /// Until holmd ends.
    pub(super) async fn run(mut self) {
        let mut ledger = self.app.ledger.subscribe();
        let first = Duration::from_secs(self.app.config.notify.retry_seconds.into());
        let mut pause = first;
        loop {
            ledger.mark_unchanged();
            match self.turn().await {
                Turn::More => pause = first,
                Turn::Rest(until) => {
                    self.channel.rest().await;
                    let left = until.map(|until| until.duration_since(self.app.ledger.now()));
                    let left = left.map(|left| Duration::try_from(left).unwrap_or_default());
                    tokio::select! {
                        _ = ledger.changed() => {}
                        () = tokio::time::sleep(left.unwrap_or(PAUSE_MAX)) => {}
                    }
                }
                Turn::Down(why) => {
                    self.stands(Some(why)).await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(DOWN_MAX).max(first);
                }
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        let now = self.app.ledger.now();
        let due = self.book.waiting.iter().filter(|w| w.due <= now).min_by_key(|w| w.due).cloned();
        if let Some(waiting) = due {
            return self.again(waiting, now).await;
        }
        let soonest = self.book.waiting.iter().map(|w| w.due).min();
        if self.book.waiting.len() >= WAITING_MAX {
            return Turn::Rest(soonest);
        }
        // Not `size`: that waits for whoever writes.
        let size = *self.app.ledger.subscribe().borrow();
        if self.book.next >= size {
            return Turn::Rest(soonest);
        }
        let first = self.app.ledger.first();
        if self.book.next < first {
            self.book.through(kept::kept(self.book.next, first, "a channel of messages"));
        }
        match self.read(self.book.next, size).await {
            Err(why) => Turn::Down(why),
            Ok(Found::Nothing(next)) => {
                // Not written: what is not told is looked at again for nothing, and no more.
                self.book.through(next);
                Turn::More
            }
            Ok(Found::Letters(entry, letters)) => {
                if self.book.next != entry {
                    self.book.through(entry);
                }
                let done = &self.book.done;
                match letters.into_iter().find(|letter| !done.contains(&letter.key)) {
                    Some(letter) => self.first(letter, now).await,
                    None => {
                        self.book.through(entry + 1);
                        self.keep().await
                    }
                }
            }
        }
    }

    /// One that was not tried yet.
    async fn first(&mut self, letter: Letter, now: Timestamp) -> Turn {
        match self.send(&letter, now).await {
            Outcome::Delivered => {}
            Outcome::Later(_) => self.put_off(&letter, now),
            Outcome::Never(why) => {
                if let Err(refusal) = self.given_up(&letter, &why).await {
                    return Turn::Down(refusal.to_string());
                }
            }
            Outcome::Away(why) => return Turn::Down(why),
            Outcome::Lost(why) => {
                self.lost += 1;
                if self.lost >= LOST_MAX {
                    self.lost = 0;
                    self.put_off(&letter, now);
                    self.book.done.insert(letter.key);
                    self.keep().await;
                }
                return Turn::Down(why);
            }
        }
        self.lost = 0;
        self.book.done.insert(letter.key);
        self.keep().await
    }

    /// The others do not wait for this one.
    fn put_off(&mut self, letter: &Letter, now: Timestamp) {
        let (entry, due) = (letter.event.entry, self.due(1, now));
        self.book.waiting.push(Waiting { entry, letter: letter.key.clone(), tries: 1, since: now, due });
    }

    /// One that was refused before.
    async fn again(&mut self, waiting: Waiting, now: Timestamp) -> Turn {
        let is = |w: &Waiting| w.entry == waiting.entry && w.letter == waiting.letter;
        let letter = match self.read(waiting.entry, waiting.entry + 1).await {
            Err(why) => return Turn::Down(why),
            Ok(Found::Letters(_, letters)) => letters.into_iter().find(|letter| letter.key == waiting.letter),
            Ok(Found::Nothing(_)) => None,
        };
        // Who is not to hear of it any more is not told.
        let Some(letter) = letter else {
            self.book.waiting.retain(|w| !is(w));
            return self.keep().await;
        };
        let again = now.duration_since(waiting.since) < GIVE_UP;
        match self.send(&letter, now).await {
            Outcome::Delivered => {}
            Outcome::Away(why) => return Turn::Down(why),
            Outcome::Lost(why) => {
                self.later(&waiting, now).await;
                return Turn::Down(why);
            }
            Outcome::Later(_) if again => return self.later(&waiting, now).await,
            Outcome::Later(why) | Outcome::Never(why) => {
                if let Err(refusal) = self.given_up(&letter, &why).await {
                    return Turn::Down(refusal.to_string());
                }
            }
        }
        self.book.waiting.retain(|w| !is(w));
        self.keep().await
    }

    /// Refused once more.
    async fn later(&mut self, waiting: &Waiting, now: Timestamp) -> Turn {
        let tries = waiting.tries.saturating_add(1);
        let due = self.due(tries, now);
        let is = |w: &&mut Waiting| w.entry == waiting.entry && w.letter == waiting.letter;
        for w in self.book.waiting.iter_mut().filter(is) {
            (w.tries, w.due) = (tries, due);
        }
        self.keep().await
    }

    async fn send(&mut self, letter: &Letter, now: Timestamp) -> Outcome {
        let app = Arc::clone(&self.app);
        let outcome = self.channel.send(letter, &app.notify, &app.config.log_origin, now).await;
        if let Outcome::Later(why) | Outcome::Never(why) = &outcome {
            tracing::warn!(channel = self.channel.name(), id = letter.id, "a message is refused: {why}");
        }
        if !matches!(outcome, Outcome::Away(_) | Outcome::Lost(_)) && self.stands(None).await {
            // What waited for it while it was ill has waited long enough.
            self.book.waiting.iter_mut().for_each(|w| w.due = now);
        }
        outcome
    }

    fn due(&self, tries: u32, now: Timestamp) -> Timestamp {
        let first = Duration::from_secs(self.app.config.notify.retry_seconds.into());
        let pause = first.saturating_mul(1 << tries.saturating_sub(1).min(20)).min(PAUSE_MAX);
        now.checked_add(pause).unwrap_or(Timestamp::MAX)
    }

    /// What is known of this entry on, before `end`.
    async fn read(&self, start: u64, end: u64) -> Result<Found, String> {
        let (app, end) = (Arc::clone(&self.app), end.min(start.saturating_add(BATCH)));
        let read = tokio::task::spawn_blocking(move || {
            let (bodies, state) = match app.ledger.entries(start, end) {
                // Nobody is told any more of what is gone.
                Err(LogError::Expired { .. }) => (Vec::new(), app.ledger.state()),
                bodies => (bodies?, app.ledger.state()),
            };
            // One that cannot be read keeps a Holm from starting, not its messages from being sent.
            let entries = bodies.iter().filter_map(|body| Entry::from_bytes(body).ok());
            Ok(entries.map(|entry| (entry.index, events(&entry, &state))).collect::<Vec<_>>())
        });
        let read = read.await.map_err(|e| e.to_string())?;
        for (entry, all) in read.map_err(|e: LogError| chain(&e))? {
            let log = &self.app.config.log_origin;
            let letters: Vec<Letter> =
                all.iter().flat_map(|event| self.channel.letters(event, log)).collect();
            if !letters.is_empty() {
                return Ok(Found::Letters(entry, letters));
            }
        }
        Ok(Found::Nothing(end))
    }

    async fn keep(&self) -> Turn {
        let (path, book) = (self.path.clone(), self.book.clone());
        let kept = tokio::task::spawn_blocking(move || kept::write(&path, &book)).await;
        match kept {
            Ok(Ok(())) => Turn::More,
            Ok(Err(e)) => Turn::Down(format!("`{}` cannot be written: {}", self.path.display(), chain(&e))),
            Err(e) => Turn::Down(e.to_string()),
        }
    }

    /// An entry says what was not delivered. It is an event to nobody.
    async fn given_up(&self, letter: &Letter, why: &str) -> Result<(), Refusal> {
        let call = Call::own("notify.fail", format!("notify/{}", self.channel.name()));
        let detail = json!({
            "id": letter.id,
            "entry": letter.event.entry,
            "kind": letter.event.kind.text(),
            "to": letter.to,
            "why": why,
        });
        self.commit(call, detail).await
    }

    /// Whether it can be reached: an alert, and an entry where that changes. True where it has.
    async fn stands(&self, down: Option<String>) -> bool {
        let (name, now) = (self.channel.name(), self.app.ledger.now());
        if !self.app.notify.stands(name, down.clone(), now) {
            return false;
        }
        match &down {
            Some(why) => tracing::error!(channel = name, "nothing can be sent: {why}"),
            None => tracing::info!(channel = name, "messages are sent again"),
        }
        let call = Call::own("observe.notify", format!("notify/{name}"));
        if let Err(refusal) = self.commit(call, json!({ "down": down })).await {
            tracing::error!(channel = name, "that cannot be logged: {refusal}");
        }
        true
    }

    async fn commit(&self, call: Call, detail: serde_json::Value) -> Result<(), Refusal> {
        let app = Arc::clone(&self.app);
        let written = tokio::task::spawn_blocking(move || app.ledger.note(&call, detail));
        let lost =
            |e: tokio::task::JoinError| Refusal::new(crate::domain::RefusalKind::Unavailable, e.to_string());
        written.await.map_err(lost)?
    }
}
