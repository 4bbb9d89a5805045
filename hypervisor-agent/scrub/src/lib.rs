//! `holm-scrub`: overwrites all memory of the devices it is given, reads all of it back, and says what it
//! saw and what it could not reach.
//!
//! It runs in a small machine of its own, without disk or network, which a host's agent starts for nothing
//! else ([`serve`]), or by hand ([`cli`]). Who reads its report believes none of it unseen: the
//! device that it worked on may have been tampered with by who had it before.
//!
//! ```text
//!   agent                          machine
//!     │ start ───────────────────▶ /init ─▶ holm-scrub --serve
//!     │ Order {run, nonce, …} ───▶   │ looks for each device below the port that the order names
//!     │ ◀─────────────── Progress    │ what was there ─▶ pattern ─▶ read ─▶ zero ─▶ read
//!     │ ◀──────── Report {run, …}    │
//!     │ end ─────────────────────▶   ╳
//! ```

pub mod bar;
#[cfg(feature = "cuda")]
pub mod cli;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod memory;
pub mod overwrite;
pub mod pci;
pub mod protocol;
pub mod serve;

/// Which build did the work.
pub const TOOL: &str = concat!("holm-scrub ", env!("CARGO_PKG_VERSION"));

/// Why a device is not clean, in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// A failure, with the system's own word.
    pub fn because(what: impl std::fmt::Display, cause: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {cause}"))
    }
}
