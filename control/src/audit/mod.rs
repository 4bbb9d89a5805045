//! The tamper-evident log: what was asked, by whom, and what came of it, so that anybody who holds
//! the log's public key can tell whether a byte of it was changed, without trusting this machine.
//!
//! Entries are leaves of a Merkle tree (RFC 6962, SHA-256). The tree lies on disk as C2SP tlog-tiles,
//! its head is a C2SP tlog-checkpoint, a signed note with an Ed25519 signature.
//!
//! ```text
//!   DIR/checkpoint                origin, number of entries, root; signed. The truth.
//!   DIR/tile/entries/000          entries 0 to 255, each a big-endian u16 length and its bytes
//!   DIR/tile/entries/001.p/7      entries 256 to 262
//!   DIR/tile/0/000                their hashes, 32 bytes each
//!   DIR/tile/0/001.p/7
//!   DIR/tile/1/000.p/1            one hash for each full tile of the level below
//!
//!   DIR.journal                   entries that do not lie in DIR yet: see [`journal`]
//!
//!   append:   entries and the checkpoint signed over them, into the journal ──sync──▶ answered
//!
//!   flush:    tiles ──sync──▶ directories ──sync──▶ checkpoint.new ──sync──▶ rename ──sync──▶ of the journal so much is free
//!                                                                              │
//!                                                          older partial tiles are removed
//! ```
//!
//! A kill in an append leaves a whole record, which counts, or a torn one, which nobody was told of: only the last can be
//! one, and it is passed over. A kill in a flush before the rename leaves the old checkpoint, the journal behind it, and
//! bytes that nothing refers to, which are overwritten; one after it the new checkpoint, and some older partial tiles, which
//! go with the next flush. Opening makes a flush of what the journal has. Nothing else is ever repaired: a record that fits
//! nowhere, or is not signed, is refused.
//!
//! Old entries go, from the first on, where an entry says so; their hashes stay: see [`expire`].
//!
//! The journal lies beside the directory, so that a copy of the directory alone is a log, as old as its last flush.

mod checkpoint;
mod disk;
mod entry;
mod expire;
pub mod export;
mod journal;
mod json;
mod key;
mod layout;
mod log;
pub mod note;
pub mod proven;
pub mod sample;
mod tip;
pub(crate) mod tree;
pub mod verify;
mod view;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::disk::faults;

pub use self::checkpoint::Checkpoint;
pub use self::disk::DiskError;
pub use self::entry::{Entry, EntryError, MAX_ENTRY, OUTCOMES, Outline};
pub(crate) use self::expire::told;
pub use self::expire::{CARRY, EXPIRE, Expire, Gone, SEGMENT};
pub use self::key::{KeyError, SigningKey};
pub use self::log::{Flush, Log, LogError, Unflushed};
pub use self::tree::Hash;
pub use self::view::View;
