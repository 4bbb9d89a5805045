//! Keys: one per volume, wrapped by its project's, wrapped by the provider's key-encryption key.
//!
//! ```text
//!   KEK, generation k        project/ID, generation n        volume/ID
//!   at the provider   ──wraps──▶  a file here   ──wraps──▶  a file here  ──opens──▶  a slice's disk
//!        │ rotate                      │ rotate
//!        ▼                             ▼
//!   k + 1: every project/ID       n + 1 in project/ID.next: every volume/ID
//!   is wrapped anew, then k       is wrapped anew, then it takes the place of
//!   is destroyed                  project/ID, and n is destroyed
//! ```
//!
//! What a wrapped key is for is bound in as associated data ([`wrapped`]), so that one moved to another record, project
//! or generation does not open. Wrapped keys are small files of their own and never in the store or the log, both of
//! which keep old values: destroying a key is overwriting and unlinking one file. The project's key goes with the last
//! of its volumes, so that an earlier copy of a wrapped volume key is of no use either. What this cannot reach is a
//! copy of this whole directory made elsewhere before: back it up apart from the disks, or not at all.
//!
//! No plain key is kept but the KEK of the file provider: each key that is handed out is opened for it alone. So with
//! the provider away nothing new starts, and what runs runs on.

mod attempt;
mod config;
mod files;
mod guard;
mod https;
mod local;
mod pkcs11;
mod ring;
mod rotate;
mod secret;
#[cfg(test)]
mod tests;
mod tpm2;
mod vault;
mod wrapped;

pub use attempt::{Attempt, opens_with};
pub use config::{ProviderConfig, Secret};
pub use guard::Health;
pub use ring::{Keyring, Standing};
pub use rotate::Done;
pub(crate) use secret::read as read_secret;

use aws_lc_rs::digest;
use aws_lc_rs::rand::fill;
use data_encoding::HEXLOWER;
use secrecy::{ExposeSecret, SecretBox};
use std::io;

/// A key of 32 bytes: wiped when dropped, not shown by `Debug`.
pub type Key = SecretBox<[u8; KEY_BYTES]>;

const KEY_BYTES: usize = 32;

/// Why a key could not be had. Never says anything of the key itself.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct KeyError {
    /// What was being done.
    pub what: String,
    /// The provider cannot be reached, or answers nobody now: the same may be asked again.
    pub unreachable: bool,
    /// What the system said.
    #[source]
    pub cause: Option<io::Error>,
}

impl KeyError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), unreachable: false, cause: None }
    }

    fn because(what: impl Into<String>, cause: io::Error) -> Self {
        Self { what: what.into(), unreachable: false, cause: Some(cause) }
    }

    fn unreachable(what: impl Into<String>) -> Self {
        Self { what: what.into(), unreachable: true, cause: None }
    }
}

/// Who holds a key-encryption key. Called from one thread of its own ([`guard`]), so it may wait.
trait Provider: Send {
    /// The newest generation of the key-encryption key, from 1.
    fn generation(&mut self) -> Result<u32, KeyError>;
    /// Wrap under this generation; `about` is bound in.
    fn wrap(&mut self, key: &Key, generation: u32, about: &[u8]) -> Result<Vec<u8>, KeyError>;
    /// Open what [`Self::wrap`] made. `about` has to be the same.
    fn unwrap(&mut self, sealed: &[u8], generation: u32, about: &[u8]) -> Result<Key, KeyError>;
    /// Make a new generation; what is wrapped from now on is wrapped by it, and older ones still open.
    fn rotate(&mut self) -> Result<u32, KeyError>;
    /// Nothing is wrapped by generations below this one any more: destroy those that this provider can destroy.
    fn retire(&mut self, below: u32) -> Result<(), KeyError>;
    /// The key-encryption keys that holmd itself holds, for the drill: name and key.
    fn own(&self) -> Vec<(String, Key)> {
        Vec::new()
    }
    /// What is not as it should be, and yet no failure; may be empty.
    fn remark(&self) -> String {
        String::new()
    }
    /// Whether it does what it is for, by doing it.
    fn check(&mut self) -> Result<(), KeyError> {
        const ABOUT: &[u8] = b"holm/key-check/v1";
        let (probe, generation) = (random()?, self.generation()?);
        let sealed = self.wrap(&probe, generation, ABOUT)?;
        let back = self.unwrap(&sealed, generation, ABOUT)?;
        if back.expose_secret() == probe.expose_secret() {
            return Ok(());
        }
        Err(KeyError::new("the key provider gives back another key than it was given"))
    }
}

/// SHA-256 of a key under a name of its own, first 16 hexadecimal digits.
pub fn fingerprint(key: &Key) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"holm/key-fingerprint/v1\0");
    context.update(key.expose_secret());
    HEXLOWER.encode(context.finish().as_ref()).chars().take(16).collect()
}

fn as_key(bytes: &[u8]) -> Option<Key> {
    let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
    Some(Key::init_with_mut(|key: &mut [u8; KEY_BYTES]| key.copy_from_slice(bytes)))
}

fn again(key: &Key) -> Key {
    Key::init_with_mut(|copy: &mut [u8; KEY_BYTES]| copy.copy_from_slice(key.expose_secret()))
}

fn random() -> Result<Key, KeyError> {
    let mut good = true;
    let key = Key::init_with_mut(|key: &mut [u8; KEY_BYTES]| good = fill(key).is_ok());
    if good { Ok(key) } else { Err(KeyError::new("no random numbers to be had")) }
}
