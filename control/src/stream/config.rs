//! The `[stream]` of `holmd.toml`.

use holm_proto::ids::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where the log goes as it grows; nowhere by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamConfig {
    /// So long after a failure it is tried again, 1 to 3600; twice as long each time, up to 5 minutes.
    pub retry_seconds: u32,
    /// By names of the site's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sinks: BTreeMap<Name, SinkConfig>,
}

impl StreamConfig {
    /// Nothing was said of it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self { retry_seconds: 5, sinks: BTreeMap::new() }
    }
}

/// What takes the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SinkConfig {
    /// A collector that speaks syslog over TLS.
    Syslog {
        /// `HOST[:PORT]`, as its certificate has it; 6514 without a port.
        server: String,
        /// Certificates, PEM: no other authority is believed.
        #[serde(default = "system")]
        ca_file: PathBuf,
        /// What is in a message.
        #[serde(default)]
        format: Format,
        /// The whole records that an entry changed, too: purposes, reasons, names.
        #[serde(default)]
        changes: bool,
    },
    /// A file that grows; what takes it on, and away, is the collector's agent.
    File {
        /// Made where there is none.
        path: PathBuf,
        /// What is in a line.
        #[serde(default)]
        format: Format,
        /// As for syslog.
        #[serde(default)]
        changes: bool,
    },
}

/// What a record is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The entry.
    #[default]
    Holm,
    /// As the Open Cybersecurity Schema Framework has it.
    Ocsf,
}

impl SinkConfig {
    pub(super) fn format(&self) -> (Format, bool) {
        match self {
            Self::Syslog { format, changes, .. } | Self::File { format, changes, .. } => (*format, *changes),
        }
    }
}

/// The authorities that Debian's `ca-certificates` brings along.
fn system() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}
