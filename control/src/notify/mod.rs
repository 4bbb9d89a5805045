//! Tells people, by mail or to a program, that something waits for them or has become of what they asked for.
//!
//! ```text
//!   sealed log ──▶ events(entry, state): pure ──▶ letters ──▶ mail: one each       book: how far, on disk
//!       ▲            who, what, which command                 webhook: one a program
//!       └── observe.alert: what begins and ends on hosts; notify.fail, observe.notify: events to nobody
//! ```
//!
//! Every message comes at least once and says by its id whether it came before. It names project, slice, level, who asks
//! and the command to run: nothing that people, hosts or guests wrote, for mail is read on the way. Whether anybody is
//! told changes nothing of what happens: no call waits for it.

mod alerts;
mod audience;
mod book;
mod config;
mod courier;
mod event;
mod mail;
mod mailbox;
mod template;
#[cfg(test)]
mod tests;
mod webhook;

pub(crate) use template::line;

pub use config::{NotifyConfig, SmtpConfig, Tls, WebhookConfig};

use crate::app::{App, Failure};
use crate::config::Config;
use crate::domain::alert::{Alert, Scope};
use crate::kept;
use crate::keys::{Secret, read_secret};
use crate::ledger::chain;
use aws_lc_rs::digest;
use courier::{Channel, Courier, Outcome};
use data_encoding::HEXLOWER;
use holm_proto::ids::Name;
use jiff::Timestamp;
use mail::Smtp;
use secrecy::SecretSlice;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use template::Templates;
use webhook::Webhook;

/// What holmd tells people by.
pub struct Notify {
    smtp: Option<Arc<Smtp>>,
    webhook: Option<Arc<Webhook>>,
    templates: Templates,
    /// By channel, since when and why nothing can be sent.
    down: Mutex<BTreeMap<&'static str, (Timestamp, String)>>,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrong(String);

fn wrong(name: &str, value: &str, what: &str) -> Wrong {
    Wrong(format!("`{name}` is `{}`: {what}", template::line(value, 100)))
}

/// Nobody sits there when holmd is to send something: a secret is not asked for.
fn secret(from: &Secret) -> Result<SecretSlice<u8>, Wrong> {
    match from {
        Secret::Prompt => Err(Wrong("a secret is in a file or a systemd credential here".to_owned())),
        from => read_secret(from).map_err(|e| Wrong(chain(&e))),
    }
}

impl Notify {
    /// As the configuration says. Files are read; nobody is asked.
    pub fn load(config: &Config) -> Result<Self, Failure> {
        let next = "mend [notify] in holmd.toml, then: holmd check";
        let of = |what: &'static str| {
            move |e: Wrong| Failure::because(format!("[notify.{what}] cannot be used"), next, e)
        };
        let notify = &config.notify;
        if !(1..=3600).contains(&notify.retry_seconds) {
            let text =
                format!("`retry_seconds` in [notify] can be 1 to 3600: `{}` is not", notify.retry_seconds);
            return Err(Failure::new(text, next));
        }
        let templates = Templates::load(notify.templates.as_deref())
            .map_err(|e| Failure::because("the templates of messages cannot be used", next, e))?;
        let smtp = notify.smtp.as_ref().map(Smtp::new).transpose().map_err(of("smtp"))?;
        let webhook = notify.webhook.as_ref().map(Webhook::new).transpose().map_err(of("webhook"))?;
        Ok(Self {
            smtp: smtp.map(Arc::new),
            webhook: webhook.map(Arc::new),
            templates,
            down: Mutex::default(),
        })
    }

    /// Where messages go, in words.
    pub fn summary(&self) -> String {
        let mail = self.smtp.as_ref().map(|smtp| match smtp.heads_to().len() {
            0 => format!("mail by {}", smtp.at()),
            n => format!("mail by {}, the log's head to {n} mailboxes", smtp.at()),
        });
        let hook = self.webhook.as_ref().map(|hook| format!("webhook at {}", hook.at()));
        let all: Vec<String> = mail.into_iter().chain(hook).collect();
        if all.is_empty() { "nobody is told".to_owned() } else { all.join(", ") }
    }

    /// Channels by which nothing can be sent now.
    pub fn alerts(&self) -> Vec<Alert> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let alert = |(name, (since, why)): (&&str, &(Timestamp, String))| Alert {
            code: if *name == "smtp" { "notify-smtp-down" } else { "notify-webhook-down" },
            scope: Scope::Host,
            text: format!("no message was sent since {since:.0}: {why}"),
            mend: "on holmd's machine: holmd notify test; nothing is lost meanwhile".to_owned(),
            prevents: Vec::new(),
        };
        down.iter().map(alert).collect()
    }

    /// Sends a test message by every channel; by mail to this person, or to where mail comes from.
    pub async fn test(
        &self,
        log: &str,
        to: Option<&Name>,
        now: Timestamp,
    ) -> Vec<(String, Result<String, String>)> {
        let mut all = Vec::new();
        for mut channel in self.channels() {
            let event = event::trial(now, to.into_iter().cloned().collect());
            let sent = match &channel {
                Channel::Mail { server, .. } if to.is_none() => self.to_itself(server, &event, log).await,
                _ => {
                    let letter = channel.letters(&event, log).into_iter().next();
                    match letter {
                        Some(letter) => channel.send(&letter, self, log, now).await,
                        None => Outcome::Never("there is nobody to tell".to_owned()),
                    }
                }
            };
            let at = match &channel {
                Channel::Mail { server, .. } => server.at(),
                Channel::Webhook(hook) => hook.at().to_owned(),
            };
            let result = match sent {
                Outcome::Delivered => Ok(format!("`{at}` has taken a test message")),
                Outcome::Later(why) => Err(format!("`{at}` takes it later: {why}")),
                Outcome::Never(why) => Err(format!("`{at}` refuses it: {why}")),
                Outcome::Away(why) | Outcome::Lost(why) => Err(why),
            };
            all.push((channel.name().to_owned(), result));
        }
        all
    }

    async fn to_itself(&self, server: &Smtp, event: &event::Event, log: &str) -> Outcome {
        let id = format!("{}-test", message_id(log, event.entry));
        let letter = courier::Letter { key: String::new(), id, to: None, event: event.clone() };
        let message = match server.message(&letter, server.from(), &self.templates) {
            Ok(message) => message,
            Err(why) => return Outcome::Never(why),
        };
        match server.connect().await {
            Ok(connection) => server.send(connection, server.from().clone(), &message).await.0,
            Err(why) => Outcome::Away(why),
        }
    }

    fn channels(&self) -> Vec<Channel> {
        let mail = self.smtp.iter().map(|smtp| Channel::Mail { server: Arc::clone(smtp), open: None });
        mail.chain(self.webhook.iter().map(|hook| Channel::Webhook(Arc::clone(hook)))).collect()
    }

    /// Whether that is news.
    fn stands(&self, name: &'static str, down: Option<String>, now: Timestamp) -> bool {
        let mut all = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        match down {
            None => all.remove(name).is_some(),
            Some(why) => {
                let since = all.get(name).map(|(since, _)| *since);
                all.insert(name, (since.unwrap_or(now), why));
                since.is_none()
            }
        }
    }
}

/// Finds where each channel was left, or begins at the log's end: what happens from now on is told. Blocks on the disk.
pub fn open(app: &Arc<App>) -> Couriers {
    let channels = app.notify.channels();
    for name in Channel::NAMES.iter().filter(|name| channels.iter().all(|channel| channel.name() != **name)) {
        // Whoever wants it again some day does not want what happened meanwhile.
        if let Err(failure) = kept::remove(&book::path(&app.config.data, name)) {
            tracing::warn!(channel = name, "how far it was is kept: {failure}");
        }
    }
    let open = |channel: Channel| {
        let name = channel.name();
        let opened = Courier::open(Arc::clone(app), channel);
        opened
            .inspect_err(|why| {
                tracing::error!(channel = name, "nobody is told of anything: {why}");
                app.notify.stands(name, Some(why.clone()), app.ledger.now());
            })
            .ok()
    };
    Couriers(channels.into_iter().filter_map(open).collect())
}

/// One for each channel.
pub struct Couriers(Vec<Courier>);

/// Tells people until holmd ends; ends at once where nobody is to be told.
pub async fn run(app: Arc<App>, couriers: Couriers) {
    if !app.notify.channels().is_empty() {
        let all = futures::future::join_all(couriers.0.into_iter().map(Courier::run));
        let smtp = app.notify.smtp.clone();
        let heads = async {
            if let Some(smtp) = smtp.filter(|smtp| !smtp.heads_to().is_empty()) {
                mailbox::run(Arc::clone(&app), smtp).await;
            }
        };
        tokio::join!(all, heads, alerts::run(Arc::clone(&app)));
    }
}

/// The same for one entry of one log, whoever asks.
fn message_id(log: &str, entry: u64) -> String {
    let hash = HEXLOWER.encode(digest::digest(&digest::SHA256, log.as_bytes()).as_ref());
    let log: String = hash.chars().take(8).collect();
    format!("holm-{log}-{entry}")
}
