//! Whether a log is what was signed: of a copy of its directory or an export, and of entries as they
//! came over the wire. Needs the log's public key, which must come from elsewhere than the copy, and
//! trusts nothing but it.
//!
//! Everything is made anew from the entries, and every file compared with what it must be. So each byte
//! of the copy counts, and what differs is named: an entry by its index, anything else by its file.

mod bundle;
mod files;

use self::bundle::Bundle;
use self::files::Files;
use super::checkpoint::Checkpoint;
use super::disk::DiskError;
use super::entry::{Entry, MAX_ENTRY, Outline};
use super::expire::{self, Gone, Told};
use super::export::VKEY;
use super::layout::Tile;
use super::log::CHECKPOINT;
use super::note::{MAX_NOTE, NoteError};
use super::sample::{self, Redraw, Redrawn};
use super::tip::{self, Part};
use super::tree::{self, Edge, Hash, WIDTH};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::path::Path;

/// A log that is what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its name.
    pub origin: String,
    /// How many entries it has.
    pub entries: u64,
    /// Over all of them.
    pub root: Hash,
    /// Entries that are gone; `None`: all are there.
    pub gone: Option<Gone>,
    /// Of its first entry that is there.
    pub first: Option<Timestamp>,
    /// Of its last entry.
    pub last: Option<Timestamp>,
    /// Its samples, drawn again. One that is not good is a log as it was signed all the same.
    pub samples: Vec<Redrawn>,
}

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Not there, or removed.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A link, a device, or another thing that is not what it seems.
    #[error("`{0}` is no plain file")]
    NoFile(String),
    /// Nothing that was signed refers to it.
    #[error(
        "`{0}` is no part of the log up to its checkpoint: it was added; or a kill left it, and then it goes \
         when holmd next writes the log"
    )]
    Extra(String),
    /// An older form of a file, which must agree with the present one.
    #[error("`{0}` is older than the checkpoint and does not agree with it")]
    Older(String),
    /// Changed, another log's, or signed by somebody else.
    #[error("the checkpoint is not to be believed")]
    Checkpoint(#[from] NoteError),
    /// A note that a witness is said to have signed.
    #[error("`{file}` is no checkpoint of this log")]
    Witness {
        /// The note.
        file: String,
        /// Why.
        source: NoteError,
    },
    /// An export brings the key along, for people to compare.
    #[error("`{VKEY}` holds another key than the one to verify with")]
    Key,
    /// Cut short, or longer than it was.
    #[error("`{file}` does not have the {expected} bytes that it must have")]
    Length {
        /// The tile.
        file: String,
        /// What it must have.
        expected: u64,
    },
    /// Cut short, longer than it was, or a length in it was changed.
    #[error("`{file}` does not hold {expected} whole entries, from entry {first} on")]
    Bundle {
        /// The bundle.
        file: String,
        /// The index of its first entry.
        first: u64,
        /// What it must hold.
        expected: u64,
    },
    /// An entry or its hash was changed.
    #[error("entry {index} is not as it was logged: `{bundle}` and its hash in `{tile}` do not agree")]
    Entry {
        /// Its place in the log.
        index: u64,
        /// Where its bytes are.
        bundle: String,
        /// Where its hash is.
        tile: String,
    },
    /// A hash over hashes was changed.
    #[error("`{file}` does not hold the hash over the entries from {first} on")]
    Tile {
        /// The tile.
        file: String,
        /// The index of the first entry under the hash.
        first: u64,
    },
    /// They went before they might, or somebody removed them.
    #[error("`{file}` is missing, and no entry of holmd's says that the first {gone} may be gone")]
    Gone {
        /// The first bundle.
        file: String,
        /// Entries that are missing.
        gone: u64,
    },
    /// The bytes are no entry.
    #[error("entry {index} cannot be read")]
    Unreadable {
        /// Its place in the log.
        index: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// Exchanged, inserted, or left out.
    #[error("in the place of entry {index} is entry {found}")]
    Place {
        /// The place.
        index: u64,
        /// What the entry says of itself.
        found: u64,
    },
    /// Longer than any entry can be.
    #[error("entry {index} has {length} bytes, and {MAX_ENTRY} is the most")]
    TooLong {
        /// Its place in the log.
        index: u64,
        /// Of its bytes.
        length: usize,
    },
    /// The end is missing.
    #[error("the checkpoint counts {expected} entries, and only {found} are there")]
    Few {
        /// What was signed.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Entries that nobody signed.
    #[error("the checkpoint counts {0} entries, and there are more")]
    Many(u64),
    /// Every part agrees with the others, and none with the checkpoint.
    #[error("the {0} entries are not those that were signed: the hash over all of them is another")]
    Root(u64),
    /// It was taken before what it is compared with.
    #[error(
        "it has {found} entries, and had {expected} already: it is an older copy, or entries are missing"
    )]
    Before {
        /// What was signed.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// Signed twice, with a different past.
    #[error("the log was written anew: its first {0} entries are not those that were signed before")]
    Rewritten(u64),
    /// Of an inclusion or consistency proof.
    #[error("the proof does not show it")]
    Proof,
}

/// Verify a copy of a log's directory, or an export. Of entries that are gone the hashes are verified in their place, and that
/// the log says that they may be.
pub fn directory(dir: &Path, vkey: &str) -> Result<Verified, VerifyError> {
    directory_from(dir, vkey, &[], |_: &Outline| None::<()>).map(|(verified, _)| verified)
}

/// The same, and that the log begins with all that it was at each of `earlier`. With it comes what `pick` takes from the entries,
/// in their order; it is asked by several threads. Of an [`Outline`] it sees no changes, which takes two thirds of the time.
pub fn directory_from<T: Send, C: DeserializeOwned>(
    dir: &Path,
    vkey: &str,
    earlier: &[Checkpoint],
    pick: impl Fn(&Entry<C>) -> Option<T> + Sync,
) -> Result<(Verified, Vec<T>), VerifyError> {
    let files = Files::of(dir);
    let note = files.take(CHECKPOINT, MAX_NOTE as u64)?;
    let note = String::from_utf8(note).map_err(|_| NoteError::Form("it is no text"))?;
    let mut checker = Checker::new(&note, vkey)?;
    files.own_key(vkey)?;
    for known in earlier.iter().cloned().chain(files.witnessed(vkey)?) {
        checker.begin_with(known)?;
    }
    let size = checker.head.size;
    files.plain()?;
    let mut picked = Vec::new();
    bundle::in_order(&files, size, files.gone(size)?, &pick, |bundle| {
        checker.add(&bundle, |tile, hashes| files.compare(tile, &hashes.concat()))?;
        picked.extend(bundle.picked);
        Ok(())
    })?;
    // Of the leaves' level what is partial is compared already, where the bundle is named.
    for (tile, hashes) in tip::partial_tiles(&checker.edge).filter(|(tile, _)| !tile.is_over_entries()) {
        files.compare(tile, &hashes)?;
    }
    let verified = checker.finish()?;
    files.rest(size)?;
    Ok((verified, picked))
}

/// Verify entries, all of them from the first on, against a checkpoint.
pub fn entries(
    note: &str,
    vkey: &str,
    entries: impl IntoIterator<Item = Vec<u8>>,
) -> Result<Verified, VerifyError> {
    let mut checker = Checker::new(note, vkey)?;
    for body in entries {
        checker.push(&body)?;
    }
    checker.finish()
}

/// Verify that `entry` is number `index` of the log at this checkpoint, by a proof of
/// [`super::Log::inclusion`].
pub fn inclusion(head: &Checkpoint, index: u64, entry: &[u8], proof: &[Hash]) -> Result<(), VerifyError> {
    let shown = tree::includes(index, head.size, tree::leaf(entry), proof, &head.root);
    shown.then_some(()).ok_or(VerifyError::Proof)
}

/// Verify that the log at `head` starts with all that it was at `old`, by a proof of
/// [`super::Log::consistency`].
pub fn consistency(old: &Checkpoint, head: &Checkpoint, proof: &[Hash]) -> Result<(), VerifyError> {
    let shown = old.origin == head.origin && tree::extends(old.size, &old.root, head.size, &head.root, proof);
    shown.then_some(()).ok_or(VerifyError::Proof)
}

/// Verifies entries one by one as they come.
#[derive(Debug)]
pub struct Checker {
    head: Checkpoint,
    /// What the log was before: by size, the next one last.
    known: Vec<Checkpoint>,
    edge: Edge,
    /// Entries that are gone.
    gone: u64,
    told: Option<Told>,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    samples: Redraw,
}

impl Checker {
    /// Against this checkpoint, if the key in `vkey` signed it.
    pub fn new(note: &str, vkey: &str) -> Result<Self, VerifyError> {
        let head = Checkpoint::verify(note, vkey)?;
        let (known, edge, samples) = (Vec::new(), Edge::default(), Redraw::default());
        Ok(Self { head, known, edge, gone: 0, told: None, first: None, last: None, samples })
    }

    /// Before the first entry: the log must begin with all that it was at `earlier`.
    pub fn begin_with(&mut self, earlier: Checkpoint) -> Result<(), VerifyError> {
        let (found, expected) = (self.head.size, earlier.size);
        if expected > found {
            return Err(VerifyError::Before { expected, found });
        }
        if earlier.origin != self.head.origin || (expected == 0 && earlier.root != self.edge.root()) {
            return Err(VerifyError::Rewritten(expected));
        }
        if expected > 0 {
            let at = self.known.partition_point(|known| known.size > expected);
            self.known.insert(at, earlier);
        }
        Ok(())
    }

    /// The next entry. That it is the one that was signed shows only at the end.
    pub fn push(&mut self, body: &[u8]) -> Result<(), VerifyError> {
        self.push_to(body, &mut Vec::new())
    }

    /// Before the first entry that is there: the hashes of a whole bundle of those that are gone.
    pub fn skip(&mut self, leaves: &[Hash]) -> Result<(), VerifyError> {
        self.skip_to(leaves, &mut Vec::new())
    }

    /// No entry is missing but those that may be gone, and all were signed.
    pub fn finish(self) -> Result<Verified, VerifyError> {
        let (found, expected) = (self.edge.size(), self.head.size);
        if found < expected {
            return Err(VerifyError::Few { expected, found });
        }
        if self.edge.root() != self.head.root {
            return Err(VerifyError::Root(expected));
        }
        let gone = match self.told.filter(|told| told.first >= self.gone) {
            _ if self.gone == 0 => None,
            Some(told) => Some(Gone { entries: self.gone, may: told.first, at: told.at }),
            None => {
                let file = Tile::entries(0, expected).map(|tile| tile.path()).unwrap_or_default();
                return Err(VerifyError::Gone { file, gone: self.gone });
            }
        };
        let Checkpoint { origin, size, root } = self.head;
        let samples = self.samples.finish();
        Ok(Verified { origin, entries: size, root, gone, first: self.first, last: self.last, samples })
    }

    /// [`Self::push`], handing on what tiles of hashes the entry completes.
    pub(super) fn push_to(&mut self, body: &[u8], full: &mut Vec<Part>) -> Result<(), VerifyError> {
        let index = self.edge.size();
        if index >= self.head.size {
            return Err(VerifyError::Many(self.head.size));
        }
        if body.len() > MAX_ENTRY {
            return Err(VerifyError::TooLong { index, length: body.len() });
        }
        let entry: Outline = understand(index, body)?;
        self.saw(entry.time);
        self.told = self.told.max(expire::told(&entry));
        self.grow(tree::leaf(body), full)?;
        if let Some(step) = sample::step(&entry) {
            self.samples.take(index, step, || self.edge.root());
        }
        Ok(())
    }

    /// [`Self::skip`], handing on what tiles of hashes these complete.
    pub(super) fn skip_to(&mut self, leaves: &[Hash], full: &mut Vec<Part>) -> Result<(), VerifyError> {
        let (index, size) = (self.edge.size(), self.head.size);
        if index != self.gone || leaves.len() as u64 != WIDTH || size - index < WIDTH {
            let file = Tile::entries(index / WIDTH, size).map(|tile| tile.path()).unwrap_or_default();
            return Err(VerifyError::Missing(file));
        }
        self.skipped(WIDTH);
        leaves.iter().try_for_each(|leaf| self.grow(*leaf, full))
    }

    /// So many more are gone.
    fn skipped(&mut self, entries: u64) {
        self.gone += entries;
        self.samples.lacks_the_beginning();
    }

    fn grow(&mut self, leaf: Hash, full: &mut Vec<Part>) -> Result<(), VerifyError> {
        let size = self.edge.size() + 1;
        let Ok(()) = self.edge.push::<Infallible>(leaf, |level, index, row| {
            full.extend(Tile::hashes(level, index, size).map(|tile| (tile, row.concat())));
            Ok(())
        });
        while let Some(known) = self.known.pop_if(|known| known.size == size) {
            if known.root != self.edge.root() {
                return Err(VerifyError::Rewritten(size));
            }
        }
        Ok(())
    }

    /// What partial tiles of hashes there are beside the full ones.
    pub(super) fn partial(&self) -> impl Iterator<Item = Part> {
        tip::partial_tiles(&self.edge)
    }

    /// A whole bundle, whose entries are understood; `full` gets the tiles above it that it completes.
    fn add<T>(
        &mut self,
        bundle: &Bundle<T>,
        mut full: impl FnMut(Tile, &[Hash]) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        if bundle.gone {
            self.skipped(bundle.leaves.len() as u64);
        }
        let start = self.edge.size();
        let size = start + bundle.leaves.len() as u64;
        let root_at = |size| {
            let mut edge = self.edge.clone();
            for (leaf, _) in bundle.leaves.iter().zip(start..size) {
                let Ok(()) = edge.push::<Infallible>(*leaf, |_, _, _| Ok(()));
            }
            edge.root()
        };
        while let Some(known) = self.known.pop_if(|known| known.size <= size) {
            if known.root != root_at(known.size) {
                return Err(VerifyError::Rewritten(known.size));
            }
        }
        self.told = self.told.max(bundle.told);
        for (index, step) in &bundle.steps {
            self.samples.take(*index, step.clone(), || root_at(index + 1));
        }
        for time in bundle.times.into_iter().flatten() {
            self.saw(time);
        }
        match bundle.over {
            Some(over) => {
                self.edge.push_tile(over, |level, index, row| match Tile::hashes(level, index, size) {
                    Some(tile) => full(tile, row),
                    None => Ok(()),
                })
            }
            None => bundle.leaves.iter().try_for_each(|leaf| self.edge.push(*leaf, |_, _, _| Ok(()))),
        }
    }

    fn saw(&mut self, time: Timestamp) {
        self.first = self.first.or(Some(time));
        self.last = Some(time);
    }
}

/// The entry `index`.
fn understand<C: DeserializeOwned>(index: u64, body: &[u8]) -> Result<Entry<C>, VerifyError> {
    let entry = Entry::read(body).map_err(|source| VerifyError::Unreadable { index, source })?;
    match entry.index == index {
        true => Ok(entry),
        false => Err(VerifyError::Place { index, found: entry.index }),
    }
}
