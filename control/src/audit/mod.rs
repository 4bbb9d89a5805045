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
//!   append:   tiles ──sync──▶ directories ──sync──▶ checkpoint.new ──sync──▶ rename ──sync──▶ answered
//!                                                                              │
//!                                                          older partial tiles are removed
//! ```
//!
//! A kill before the rename leaves the old checkpoint and bytes that nothing refers to; they are
//! ignored, and overwritten when the log grows over them. A kill after it leaves the new checkpoint
//! and some older partial tiles, which go with the next append. Nothing else is ever repaired.

mod checkpoint;
mod disk;
mod entry;
pub mod export;
mod json;
mod key;
mod layout;
mod log;
pub mod note;
pub mod proven;
mod tip;
pub(crate) mod tree;
pub mod verify;

#[cfg(test)]
mod tests;

pub use self::checkpoint::Checkpoint;
pub use self::disk::DiskError;
pub use self::entry::{Entry, EntryError, MAX_ENTRY};
pub use self::key::{KeyError, SigningKey};
pub use self::log::{Log, LogError};
pub use self::tree::Hash;
