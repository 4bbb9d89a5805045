//! A program that is told by HTTP, and can tell that it was holmd who said so.
//!
//! `Holm-Signature: t=SECONDS,v1=HEX`, where HEX is the HMAC-SHA256 of `SECONDS.BODY` under the secret that both have.
//! The time is that of this try: whoever keeps to it cannot be sent an old message again.

use super::config::WebhookConfig;
use super::courier::{Letter, Outcome};
use super::template::{Templates, line};
use super::{Wrong, secret, wrong};
use crate::https::{Address, Https, Question};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use zeroize::Zeroizing;

/// For one message.
const LIMIT: Duration = Duration::from_secs(5);
/// A secret of fewer bytes can be guessed.
const SECRET_LEAST: usize = 16;
/// What signs a message.
const SIGNATURE: &str = "holm-signature";

/// Where it is, and the secret; checked, not asked.
pub(super) struct Webhook {
    server: Https,
    at: String,
    path: String,
    key: hmac::Key,
}

impl Webhook {
    pub(super) fn new(config: &WebhookConfig) -> Result<Self, Wrong> {
        let address = Address::parse(&config.url).map_err(|what| wrong("url", &config.url, what))?;
        let server = address.server(&config.ca_file, LIMIT).map_err(Wrong)?;
        let secret = secret(&config.secret)?;
        if secret.expose_secret().len() < SECRET_LEAST {
            return Err(Wrong(format!(
                "the secret of the webhook has fewer than {SECRET_LEAST} bytes: openssl rand -hex 32"
            )));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose_secret());
        Ok(Self { server, at: address.authority.to_string(), path: address.path, key })
    }

    /// HOST[:PORT].
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    pub(super) async fn send(
        &self,
        letter: &Letter,
        log: &str,
        texts: &Templates,
        now: Timestamp,
    ) -> Outcome {
        let body = body(letter, log, texts).to_string();
        let signature = self.signature(now.as_second(), &body);
        let headers = [
            ("content-type", "application/json"),
            ("user-agent", concat!("holmd/", env!("CARGO_PKG_VERSION"))),
            ("idempotency-key", letter.id.as_str()),
            (SIGNATURE, &signature),
        ];
        let body = Zeroizing::new(body.into_bytes());
        let question = Question { method: Method::POST, path: &self.path, headers: &headers, body };
        match self.server.ask(question).await {
            Ok((status, _)) => outcome(&self.at, status),
            Err(why) => Outcome::Away(line(&why, 300)),
        }
    }

    fn signature(&self, seconds: i64, body: &str) -> String {
        let tag = hmac::sign(&self.key, format!("{seconds}.{body}").as_bytes());
        format!("t={seconds},v1={}", HEXLOWER.encode(tag.as_ref()))
    }
}

/// What it is told.
fn body(letter: &Letter, log: &str, texts: &Templates) -> serde_json::Value {
    let event = &letter.event;
    let text = texts.text(event);
    json!({
        "id": letter.id,
        "log": log,
        "entry": event.entry,
        "time": event.time,
        "kind": event.kind.text(),
        "to": event.to,
        "fields": event.fields.iter().map(|(name, value)| (*name, line(value, 400))).collect::<BTreeMap<_, _>>(),
        "subject": text.subject,
        "text": text.body,
    })
}

/// A program that cannot make sense of one message may of the next; otherwise it is not there, or not the right one.
fn outcome(at: &str, status: StatusCode) -> Outcome {
    let text = format!("`{at}` answers {}", status.as_u16());
    match status {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Outcome::Never(text)
        }
        _ => Outcome::Lost(text),
    }
}
