//! Asks a witness: C2SP tlog-witness, as a log does.

use super::config::CosignerConfig;
use super::cosignature::{self, WitnessKey};
use super::server::hash;
use crate::audit::note;
use crate::audit::{Checkpoint, Hash};
use crate::https::{Address, Https, Question};
use crate::notify::line;
use data_encoding::BASE64;
use hyper::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use std::fmt::Write;
use std::time::Duration;
use zeroize::Zeroizing;

/// For one question.
const LIMIT: Duration = Duration::from_secs(10);
/// What a witness's clock may differ from this one: an answer of long ago is not taken for one of now.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// What a witness says to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The checkpoint with both signatures, and when.
    Cosigned(String, Timestamp),
    /// It is at this size.
    At(u64),
    /// It has seen another history, or was not shown that it is the same.
    Differs,
    /// Anything else.
    Failed(String),
}

/// A witness and whom it cosigns; checked, not asked.
pub(super) struct Client {
    server: Https,
    prefix: String,
    key: WitnessKey,
    /// The log's public key.
    log: String,
}

impl Client {
    pub(super) fn new(config: &CosignerConfig, log: &str) -> Result<Self, String> {
        let key = WitnessKey::parse(&config.key).map_err(|e| format!("`key`: {e}"))?;
        let address = Address::parse(&config.url)
            .map_err(|what| format!("`url` is `{}`: {what}", line(&config.url, 100)))?;
        if address.path.contains('?') {
            return Err(format!("`url` is `{}`: more than a prefix of URLs", line(&config.url, 100)));
        }
        let server = address.server(&config.ca_file, LIMIT)?;
        let prefix = address.path.trim_end_matches('/').to_owned();
        Ok(Self { server, prefix, key, log: log.to_owned() })
    }

    pub(super) fn key(&self) -> &WitnessKey {
        &self.key
    }

    pub(super) fn log(&self) -> &str {
        &self.log
    }

    /// Shows it a checkpoint that has grown out of what the log was at `old`.
    pub(super) async fn add(&self, old: u64, proof: &[Hash], note: &str, now: Timestamp) -> Answer {
        let mut body = format!("old {old}\n");
        for hash in proof {
            let _ = writeln!(body, "{}", BASE64.encode(hash));
        }
        let _ = write!(body, "\n{note}");
        let path = format!("{}/add-checkpoint", self.prefix);
        let headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("user-agent", concat!("holmd/", env!("CARGO_PKG_VERSION"))),
        ];
        let body = Zeroizing::new(body.into_bytes());
        let question = Question { method: Method::POST, path: &path, headers: &headers, body };
        match self.server.ask(question).await {
            Ok((status, body)) => self.read(status, &body, note, now),
            Err(why) => Answer::Failed(line(&why, 300)),
        }
    }

    fn read(&self, status: StatusCode, body: &[u8], note: &str, now: Timestamp) -> Answer {
        let text = std::str::from_utf8(body).unwrap_or_default();
        let failed = |why: &str| Answer::Failed(why.to_owned());
        match status {
            StatusCode::OK => self.cosigned(text, note, now).unwrap_or_else(Answer::Failed),
            StatusCode::CONFLICT => {
                let size = text.strip_suffix('\n').and_then(|size| size.parse().ok());
                size.map_or_else(|| failed("it answers 409, and not at which size it is"), Answer::At)
            }
            StatusCode::UNPROCESSABLE_ENTITY => Answer::Differs,
            StatusCode::NOT_FOUND => failed("it does not know this log: give its operator the log's key"),
            StatusCode::FORBIDDEN => {
                failed("it knows another key of this log: give its operator the right one")
            }
            other => Answer::Failed(format!("it answers {}", other.as_u16())),
        }
    }

    /// Of the lines only its own are taken, and only where they are over this checkpoint, now.
    fn cosigned(&self, lines: &str, note: &str, now: Timestamp) -> Result<Answer, String> {
        let (at, line) = cosignature::newest(&format!("{note}{lines}"), &self.key)
            .map_err(|e| format!("its cosignature is not to be believed: {e}"))?;
        if at.duration_since(now).abs() > SKEW {
            return Err(format!(
                "it says that it cosigned at {at}, and it is {now:.0} here: one clock is wrong"
            ));
        }
        Ok(Answer::Cosigned(format!("{note}{line}"), at))
    }

    /// What it cosigned last, if it shows that, and both signed it.
    pub(super) async fn latest(&self) -> Option<(Checkpoint, String)> {
        let origin = note::name_of(&self.log).ok()?;
        let path = format!("{}/{}/checkpoint", self.prefix, hash(&origin));
        let question =
            Question { method: Method::GET, path: &path, headers: &[], body: Zeroizing::default() };
        let (status, body) = self.server.ask(question).await.ok()?;
        let note = std::str::from_utf8(&body).ok().filter(|_| status.is_success())?;
        let (head, _) = cosignature::cosigned(note, &self.log, &self.key).ok()?;
        Some((head, note.to_owned()))
    }
}

#[cfg(test)]
mod tests;
