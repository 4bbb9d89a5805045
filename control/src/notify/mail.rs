//! Mail by SMTP: one message for each person, so that nobody sees who else got it and one refusal is one person's.
//!
//! ```text
//!   connect ─▶ STARTTLS ─▶ AUTH ─▶ MAIL ─┬─▶ RCPT ─▶ DATA ─▶ delivered
//!       │          │         │       │   │     │       │
//!       └──────────┴─────────┘           │     ├───────┴─ 4xx: later, this message alone
//!                   │                    │     ├───────── 5xx: never, this message alone
//!                   ▼                    ▼     ▼
//!         away: everything waits       refused; 421, silence: lost
//! ```

use super::config::{SmtpConfig, Tls};
use super::courier::{Letter, Outcome};
use super::template::{Templates, line};
use super::{Wrong, secret, wrong};
use crate::ledger::chain;
use holm_proto::ids::Name;
use jiff::Timestamp;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment, Body, Mailbox, MessageBuilder, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{Error, response::Severity};
use lettre::{Address, Message};
use secrecy::{ExposeSecret, SecretString};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// For a connection, and for a message.
const LIMIT: Duration = Duration::from_secs(30);
/// Mailboxes that get the log's head: an entry names those who refuse it.
const HEADS_MAX: usize = 16;
/// In the address of who gets it.
const NAME: &str = "{name}";

/// A mail server and who holmd is there; checked, not asked.
pub(super) struct Smtp {
    server: String,
    port: u16,
    tls: Option<(Tls, TlsParameters)>,
    from: Mailbox,
    address: String,
    heads_to: Vec<Address>,
    login: Option<(String, SecretString)>,
    hello: ClientId,
}

impl Smtp {
    pub(super) fn new(config: &SmtpConfig) -> Result<Self, Wrong> {
        let from: Mailbox =
            config.from.parse().map_err(|_| wrong("from", &config.from, "no mail address"))?;
        let probe = config.address.replacen(NAME, "name", 1);
        if !config.address.contains(NAME) || probe.contains('{') || probe.parse::<Address>().is_err() {
            return Err(wrong("address", &config.address, "no mail address with `{name}` in it, once"));
        }
        let mailbox = |to: &String| to.parse().map_err(|_| wrong("heads_to", to, "no mail address"));
        let heads_to: Vec<Address> = config.heads_to.iter().map(mailbox).collect::<Result<_, _>>()?;
        if heads_to.len() > HEADS_MAX {
            return Err(Wrong(format!(
                "`heads_to` names {} mailboxes, and {HEADS_MAX} is the most",
                heads_to.len()
            )));
        }
        let tls = match config.tls {
            Tls::None => None,
            tls => Some((tls, parameters(&config.server, &config.ca_file)?)),
        };
        let login = match (&config.username, &config.password) {
            (None, None) => None,
            (Some(_), Some(_)) if tls.is_none() => {
                return Err(Wrong("a password goes over TLS alone: set `tls = \"starttls\"`".to_owned()));
            }
            (Some(username), Some(password)) => {
                let secret = secret(password)?;
                let text = std::str::from_utf8(secret.expose_secret())
                    .map_err(|_| Wrong("the password is no text".to_owned()))?;
                Some((username.clone(), SecretString::from(text)))
            }
            _ => return Err(Wrong("`username` and `password` stand together".to_owned())),
        };
        let port = config.port.unwrap_or(config.tls.port());
        let (server, address) = (config.server.clone(), config.address.clone());
        Ok(Self { server, port, tls, from, address, heads_to, login, hello: hello() })
    }

    /// HOST:PORT.
    pub(super) fn at(&self) -> String {
        format!("{}:{}", self.server, self.port)
    }

    /// Where this person's mail goes.
    pub(super) fn address(&self, name: &Name) -> Result<Address, String> {
        self.address.replacen(NAME, name.as_str(), 1).parse().map_err(|e| format!("{name}: {e}"))
    }

    /// Who keeps heads of the log.
    pub(super) fn heads_to(&self) -> &[Address] {
        &self.heads_to
    }

    /// Where it comes from.
    pub(super) fn from(&self) -> &Address {
        &self.from.email
    }

    /// As it is sent: the same whenever it is, so that one who gets it twice can tell.
    pub(super) fn message(
        &self,
        letter: &Letter,
        to: &Address,
        texts: &Templates,
    ) -> Result<Vec<u8>, String> {
        let text = texts.text(&letter.event);
        let message = self
            .about(&letter.id, &text.subject, letter.event.time, to)
            .singlepart(SinglePart::plain(text.body));
        message.map(|message| message.formatted()).map_err(|e| chain(&e))
    }

    /// A text with a file beside it, which comes out as it went in whatever is done to texts on the way.
    pub(super) fn with_file(
        &self,
        (id, subject, time): (&str, &str, Timestamp),
        to: &Address,
        text: String,
        (name, file): (&str, &str),
    ) -> Result<Vec<u8>, String> {
        let body = Body::new_with_encoding(file.as_bytes().to_vec(), ContentTransferEncoding::Base64);
        let body = body.map_err(|_| "a file cannot be sent".to_owned())?;
        let file = Attachment::new(name.to_owned()).body(body, ContentType::TEXT_PLAIN);
        let parts = MultiPart::mixed().singlepart(SinglePart::plain(text)).singlepart(file);
        let message = self.about(id, subject, time, to).multipart(parts);
        message.map(|message| message.formatted()).map_err(|e| chain(&e))
    }

    fn about(&self, id: &str, subject: &str, time: Timestamp, to: &Address) -> MessageBuilder {
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(subject)
            .date(SystemTime::from(time))
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            // Nobody's absence is answered to.
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
    }

    /// A connection on which mail can be sent.
    pub(super) async fn connect(&self) -> Result<Box<AsyncSmtpConnection>, String> {
        match tokio::time::timeout(LIMIT, self.greet()).await {
            Ok(Ok(connection)) => Ok(Box::new(connection)),
            Ok(Err(failure)) => Err(format!("`{}`: {}", self.at(), said(&failure))),
            Err(_) => Err(format!("`{}`: no answer within {} s", self.at(), LIMIT.as_secs())),
        }
    }

    async fn greet(&self) -> Result<AsyncSmtpConnection, Error> {
        let at = (self.server.as_str(), self.port);
        let wrap = self.tls.as_ref().filter(|(tls, _)| *tls == Tls::Implicit);
        let first = wrap.map(|(_, parameters)| parameters.clone());
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(at, Some(LIMIT), &self.hello, first, None).await?;
        if let Some((Tls::Starttls, parameters)) = &self.tls {
            connection.starttls(parameters.clone(), &self.hello).await?;
        }
        if let Some((username, password)) = &self.login {
            let credentials = Credentials::new(username.clone(), password.expose_secret().to_owned());
            connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials).await?;
        }
        Ok(connection)
    }

    /// Sends one message. Where the connection is of no use afterwards, that is `None`.
    pub(super) async fn send(
        &self,
        mut connection: Box<AsyncSmtpConnection>,
        to: Address,
        message: &[u8],
    ) -> (Outcome, Option<Box<AsyncSmtpConnection>>) {
        let mut sent = Box::pin(async {
            let outcome = self.transact(&mut connection, to, message).await;
            let again = match &outcome {
                Outcome::Delivered => true,
                Outcome::Later(_) | Outcome::Never(_) => connection.command(Rset).await.is_ok(),
                Outcome::Away(_) | Outcome::Lost(_) => false,
            };
            (outcome, again)
        });
        match tokio::time::timeout(LIMIT, &mut sent).await {
            Ok((outcome, again)) => {
                drop(sent);
                (outcome, again.then_some(connection))
            }
            Err(_) => {
                (Outcome::Lost(format!("`{}`: no answer within {} s", self.at(), LIMIT.as_secs())), None)
            }
        }
    }

    async fn transact(&self, connection: &mut AsyncSmtpConnection, to: Address, message: &[u8]) -> Outcome {
        let lost = |e: Error| Outcome::Lost(format!("`{}`: {}", self.at(), said(&e)));
        // A server that takes nothing from this sender takes nothing from holmd.
        if let Err(failure) = connection.command(Mail::new(Some(self.from.email.clone()), Vec::new())).await {
            return lost(failure);
        }
        if let Err(failure) = connection.command(Rcpt::new(to, Vec::new())).await {
            return refused(failure, lost);
        }
        if let Err(failure) = connection.command(Data).await {
            return refused(failure, lost);
        }
        match connection.message(message).await {
            Ok(_) => Outcome::Delivered,
            Err(failure) => refused(failure, lost),
        }
    }
}

/// What a refusal of one message means for it.
fn refused(failure: Error, lost: impl FnOnce(Error) -> Outcome) -> Outcome {
    let code = failure.status().map(|code| (code.severity, u16::from(code)));
    match code {
        // It goes away; it wants holmd to log in; it does not believe who holmd is.
        None | Some((_, 421 | 530 | 534 | 535 | 538)) => lost(failure),
        Some((Severity::TransientNegativeCompletion, _)) => Outcome::Later(said(&failure)),
        Some((Severity::PermanentNegativeCompletion, _)) => Outcome::Never(said(&failure)),
        Some(_) => lost(failure),
    }
}

/// What the other side says is shown to people.
fn said(failure: &Error) -> String {
    line(&failure.to_string(), 300)
}

fn parameters(server: &str, ca: &Path) -> Result<TlsParameters, Wrong> {
    // Read by the same rules as everywhere, for the words.
    crate::https::roots(ca).map_err(Wrong)?;
    let unread = |e: &dyn std::error::Error| Wrong(format!("`{}` cannot be used: {e}", ca.display()));
    let pem = std::fs::read(ca).map_err(|e| unread(&e))?;
    TlsParameters::builder(server.to_owned())
        .certificate_store(CertificateStore::None)
        .add_root_certificate(Certificate::from_pem(&pem).map_err(|e| unread(&e))?)
        .build()
        .map_err(|e| unread(&e))
}

/// This machine's name, where it is one that can be said.
fn hello() -> ClientId {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok();
    let sound = |name: &&str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    };
    ClientId::Domain(name.filter(sound).unwrap_or("localhost").to_owned())
}
