//! The key that signs the log: one file, for the owner's eyes only.

use super::{disk, note};
use aws_lc_rs::encoding::{AsDer, Pkcs8V2Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::HEXLOWER;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};
use zeroize::Zeroizing;

/// An Ed25519 key that signs. Clones are the same key.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The disk failed, or a file is there already.
    #[error("cannot {what} the signing key `{path}`")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The key's file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others could have copied it.
    #[error(
        "the signing key `{path}` has mode {mode:03o}: others may have read it. make a new key, or, if you are \
         sure that nobody did, run `chmod 600`"
    )]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The bytes are no key.
    #[error("the signing key `{0}` is damaged or no Ed25519 key in PKCS#8 form: restore it from a copy")]
    Damaged(PathBuf),
    /// No random numbers to be had.
    #[error("the system gives no random numbers")]
    Random,
}

/// A key in PKCS#8 form has some 80 bytes; what is longer is none.
const LIMIT: usize = 4096;

impl SigningKey {
    /// Make a key and its file, durable when it returns. Refuses where there is a file already: with
    /// the key a log would lose its name.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
        let der: Pkcs8V2Der<'_> = pair.as_der().map_err(|_| KeyError::Random)?;
        disk::write_new(path, der.as_ref()).map_err(|e| failed("write", path, e))?;
        Ok(Self(Arc::new(pair)))
    }

    /// Read it from its file, which nobody but the owner may be able to read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file = fs::File::open(path).map_err(|e| failed("open", path, e))?;
        let mode = file.metadata().map_err(|e| failed("open", path, e))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_path_buf(), mode });
        }
        // Of this capacity from the start: growing would leave copies behind.
        let mut der = Zeroizing::new(Vec::with_capacity(LIMIT + 1));
        file.take(LIMIT as u64 + 1).read_to_end(&mut der).map_err(|e| failed("read", path, e))?;
        let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| KeyError::Damaged(path.to_path_buf()))?;
        Ok(Self(Arc::new(pair)))
    }

    /// Sign. The same bytes get the same signature, always.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes).as_ref().to_vec()
    }

    /// The public half.
    pub fn public(&self) -> [u8; 32] {
        self.0.public_key().as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// The public half as verifiers want it: `NAME+HASH+KEY`.
    pub fn vkey(&self, name: &str) -> String {
        note::vkey(name, &self.public())
    }

    /// The same key in each run of a test.
    #[cfg(test)]
    pub(crate) fn fixed(seed: u8) -> Self {
        Self(Arc::new(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&HEXLOWER.encode(&self.public())).finish()
    }
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> KeyError {
    KeyError::Io { what, path: path.to_path_buf(), source }
}
