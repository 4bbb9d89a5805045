//! The `[notify]` of `holmd.toml`.

use crate::keys::Secret;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who is told of what happens, and how; nobody by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifyConfig {
    /// So long after a failure it is tried again, 1 to 3600; twice as long each time, up to 5 minutes where nothing can be
    /// sent, and to an hour for a message that is refused.
    pub retry_seconds: u32,
    /// A directory with texts of the site's own, `KIND.txt`; of a kind that has none the built-in text is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<PathBuf>,
    /// By mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp: Option<SmtpConfig>,
    /// By HTTP, to a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookConfig>,
}

impl NotifyConfig {
    /// Nothing was said of it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self { retry_seconds: 30, templates: None, smtp: None, webhook: None }
    }
}

/// A mail server that takes mail from holmd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// Its name, as its certificate has it.
    pub server: String,
    /// By default that of `tls`: 587, 465 or 25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How what goes there is kept from others.
    pub tls: Tls,
    /// Certificates, PEM: no other authority is believed.
    #[serde(default = "system")]
    pub ca_file: PathBuf,
    /// Who it is from, `holm@example.org` or `Holm <holm@example.org>`.
    pub from: String,
    /// Where a person's mail goes, `{name}@example.org`.
    pub address: String,
    /// Mailboxes of others that keep the log's signed head, once a day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads_to: Vec<String>,
    /// Whom holmd is there; absent: it does not log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// With what it logs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// TLS towards a mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tls {
    /// Asked for on the connection; a server that has none is refused.
    Starttls,
    /// From the first byte.
    Implicit,
    /// None: to a relay on the same machine or network. No password goes over it.
    None,
}

impl Tls {
    /// Where such servers listen.
    pub fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Implicit => 465,
            Self::None => 25,
        }
    }
}

/// A program that is told by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `https://HOST[:PORT]/PATH`; `http://` on this machine alone.
    pub url: String,
    /// With what holmd signs what it says; 16 bytes at least.
    pub secret: Secret,
    /// Certificates, PEM: no other authority is believed.
    #[serde(default = "system")]
    pub ca_file: PathBuf,
}

/// The authorities that Debian's `ca-certificates` brings along.
fn system() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}
