//! HTTPS to a key provider, from the provider's thread.

use super::KeyError;
use crate::https::{self, Question};
use hyper::StatusCode;
use hyper::http::uri::Authority;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// For one request; below what the guard allows for a key.
const LIMIT: Duration = Duration::from_secs(4);

pub(super) struct Https {
    server: https::Https,
    runtime: tokio::runtime::Runtime,
}

impl Https {
    /// `address` is `https://HOST[:PORT]`; only the authorities in the PEM file are believed.
    pub(super) fn new(address: &str, port: u16, ca: &Path) -> Result<Self, KeyError> {
        let wrong =
            || KeyError::new(format!("`{}` is no address: say https://HOST:PORT", address.escape_debug()));
        let authority = address.strip_prefix("https://").ok_or_else(wrong)?.trim_end_matches('/');
        let authority: Authority = authority.parse().map_err(|_| wrong())?;
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let roots = https::roots(ca).map_err(KeyError::new)?;
        let server = https::Https::new(&authority, port, Some(roots), LIMIT).map_err(KeyError::new)?;
        // It is used, and dropped, on the thread of the provider alone.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| KeyError::because("the key provider cannot be given a thread", e))?;
        Ok(Self { server, runtime })
    }

    /// Status and body. An error: it was not reached, or did not answer in time.
    pub(super) fn ask(&self, question: Question<'_>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), KeyError> {
        self.runtime.block_on(self.server.ask(question)).map_err(KeyError::unreachable)
    }
}
