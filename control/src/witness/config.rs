//! The `[witness]` of `holmd.toml`.

use holm_proto::ids::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Who holds the log's head outside; nobody by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WitnessConfig {
    /// A new head goes out this often at most, 1 to 3600; one that did not change once a day.
    pub every_seconds: u32,
    /// Those who check that it has only grown, and cosign it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cosigners: BTreeMap<Name, CosignerConfig>,
}

impl WitnessConfig {
    /// Nothing was said of it.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for WitnessConfig {
    fn default() -> Self {
        Self { every_seconds: 60, cosigners: BTreeMap::new() }
    }
}

/// A witness that speaks C2SP tlog-witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosignerConfig {
    /// What its calls are below, `https://HOST[:PORT][/PATH]`; `http://` on this machine alone.
    pub url: String,
    /// Its public key, `NAME+HASH+KEY`: what others sign is not believed.
    pub key: String,
    /// Certificates, PEM: no other authority is believed.
    #[serde(default = "system")]
    pub ca_file: PathBuf,
}

/// The authorities that Debian's `ca-certificates` brings along.
fn system() -> PathBuf {
    "/etc/ssl/certs/ca-certificates.crt".into()
}
