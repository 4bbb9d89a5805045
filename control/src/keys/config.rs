//! The `[keys]` of `holmd.toml`.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who holds the key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "provider", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ProviderConfig {
    /// Files beside the wrapped keys.
    File {
        /// With what they are sealed; without it they are plain, and their mode is all that keeps them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seal: Option<Secret>,
        /// With what they were sealed before; until the next `holm keys rotate --kek`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        former_seal: Option<Secret>,
    },
    /// The transit engine of HashiCorp Vault or OpenBao.
    Vault {
        /// `https://HOST:PORT`.
        address: String,
        /// Certificates, PEM: no other authority is believed.
        ca_file: PathBuf,
        /// Where the engine is mounted.
        #[serde(default = "transit")]
        mount: String,
        /// The name of its key, of type aes256-gcm96 or chacha20-poly1305.
        key: String,
        /// The token that holmd shows.
        token: Secret,
        /// A namespace; empty for none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        namespace: String,
    },
    /// A hardware security module by PKCS #11.
    Pkcs11 {
        /// The maker's library.
        module: PathBuf,
        /// Label of the token.
        token: String,
        /// Label of the AES-256 keys in it; each generation is one, its CKA_ID four bytes, big-endian.
        key: String,
        /// The PIN of the token's user.
        pin: Secret,
    },
    /// A TPM 2.0 of holmd's machine.
    Tpm2 {
        /// Its device, by its whole path; or `swtpm:host=…,port=…`, one in software.
        #[serde(default = "resource_manager")]
        device: String,
    },
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self::File { seal: None, former_seal: None }
    }
}

/// Where a secret comes from. Never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Secret {
    /// A file that its owner alone can read.
    File(PathBuf),
    /// A systemd credential (`LoadCredentialEncrypted=NAME:…`), by its name.
    Credential(String),
    /// Asked for on the terminal when holmd starts.
    Prompt,
}

/// The kernel's, which several can use at once.
fn resource_manager() -> String {
    "/dev/tpmrm0".to_owned()
}

fn transit() -> String {
    "transit".to_owned()
}
