//! Whether a log is what was signed: of a copy of its directory or an export, and of entries as they
//! came over the wire. Needs the log's public key, which must come from elsewhere than the copy, and
//! trusts nothing but it.
//!
//! Everything is made anew from the entries, and every file compared with what it must be. So each byte
//! of the copy counts, and what differs is named: an entry by its index, anything else by its file.

use super::checkpoint::Checkpoint;
use super::disk::{self, DiskError};
use super::entry::{Entry, MAX_ENTRY};
use super::export::VKEY;
use super::layout::{self, Tile};
use super::log::CHECKPOINT;
use super::note::{MAX_NOTE, NoteError};
use super::tip::{Part, Tip, TooLong};
use super::tree::{self, Hash, WIDTH};
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A log that is what was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its name.
    pub origin: String,
    /// How many entries it has.
    pub entries: u64,
    /// Over all of them.
    pub root: Hash,
    /// Of its first entry.
    pub first: Option<Timestamp>,
    /// Of its last entry.
    pub last: Option<Timestamp>,
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

/// Verify a copy of a log's directory, or an export.
pub fn directory(dir: &Path, vkey: &str) -> Result<Verified, VerifyError> {
    directory_from(dir, vkey, None, |_| {})
}

/// The same, and that the log begins with all that it was at `earlier`. `seen` is told every entry, which
/// counts for nothing until all is verified.
pub fn directory_from(
    dir: &Path,
    vkey: &str,
    earlier: Option<&Checkpoint>,
    mut seen: impl FnMut(&Entry),
) -> Result<Verified, VerifyError> {
    let mut files = Files::below(dir)?;
    let note = files.take(CHECKPOINT, MAX_NOTE as u64)?;
    let note = String::from_utf8(note).map_err(|_| NoteError::Form("it is no text"))?;
    let mut checker = Checker::new(&note, vkey)?;
    if files.found.contains(VKEY) && files.take(VKEY, MAX_NOTE as u64)? != format!("{vkey}\n").as_bytes() {
        return Err(VerifyError::Key);
    }
    // What witnesses signed is held against the log by whoever knows their keys.
    files.found.retain(|file| !file.starts_with("witness/"));
    let size = checker.head.size;
    if let Some(expected) = earlier.map(|e| e.size).filter(|expected| *expected > size) {
        return Err(VerifyError::Before { expected, found: size });
    }
    checker.begins_with(earlier)?;
    let mut parts = Vec::new();
    for index in 0.. {
        let Some(tile) = Tile::entries(index, size) else { break };
        let bundle = files.take(&tile.path(), tile.limit())?;
        let (bodies, whole) = layout::entries_of(&bundle);
        if !whole || bodies.len() as u64 != tile.width() {
            let (first, expected) = (tile.entry(0), tile.width());
            return Err(VerifyError::Bundle { file: tile.path(), first, expected });
        }
        for body in &bodies {
            checker.grow(body, &mut parts)?;
            checker.begins_with(earlier)?;
        }
        if checker.tip.size() == size {
            parts.extend(checker.tip.partial());
        }
        for (part, expected) in parts.drain(..).filter(|(part, _)| part.is_hashes()) {
            files.compare(part, &expected, tile)?;
        }
        for (at, body) in bodies.iter().enumerate() {
            seen(&checker.understand(tile.entry(at as u64), body)?);
        }
    }
    let verified = checker.finish()?;
    files.rest()?;
    Ok(verified)
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
    tip: Tip,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

impl Checker {
    /// Against this checkpoint, if the key in `vkey` signed it.
    pub fn new(note: &str, vkey: &str) -> Result<Self, VerifyError> {
        Ok(Self { head: Checkpoint::verify(note, vkey)?, tip: Tip::default(), first: None, last: None })
    }

    /// The next entry. That it is the one that was signed shows only at the end.
    pub fn push(&mut self, body: &[u8]) -> Result<(), VerifyError> {
        self.push_to(body, &mut Vec::new())
    }

    /// No entry is missing, and all were signed.
    pub fn finish(self) -> Result<Verified, VerifyError> {
        let (found, expected) = (self.tip.size(), self.head.size);
        if found < expected {
            return Err(VerifyError::Few { expected, found });
        }
        if self.tip.root() != self.head.root {
            return Err(VerifyError::Root(expected));
        }
        let Checkpoint { origin, size, root } = self.head;
        Ok(Verified { origin, entries: size, root, first: self.first, last: self.last })
    }

    /// [`Self::push`], handing on what files the entry completes.
    pub(super) fn push_to(&mut self, body: &[u8], full: &mut Vec<Part>) -> Result<(), VerifyError> {
        let index = self.tip.size();
        if index >= self.head.size {
            return Err(VerifyError::Many(self.head.size));
        }
        self.understand(index, body)?;
        self.grow(body, full)
    }

    /// What files there are beside the full ones.
    pub(super) fn partial(&self) -> Vec<Part> {
        self.tip.partial()
    }

    fn grow(&mut self, body: &[u8], full: &mut Vec<Part>) -> Result<(), VerifyError> {
        let index = self.tip.size();
        self.tip.push(body, full).map_err(|TooLong(length)| VerifyError::TooLong { index, length })
    }

    /// Once as many entries are there as `earlier` counts, they must be those that it was signed over.
    fn begins_with(&self, earlier: Option<&Checkpoint>) -> Result<(), VerifyError> {
        match earlier.filter(|earlier| earlier.size == self.tip.size()) {
            Some(earlier) if earlier.root != self.tip.root() || earlier.origin != self.head.origin => {
                Err(VerifyError::Rewritten(earlier.size))
            }
            _ => Ok(()),
        }
    }

    fn understand(&mut self, index: u64, body: &[u8]) -> Result<Entry, VerifyError> {
        let entry = Entry::from_bytes(body).map_err(|source| VerifyError::Unreadable { index, source })?;
        if entry.index != index {
            return Err(VerifyError::Place { index, found: entry.index });
        }
        self.first = self.first.or(Some(entry.time));
        self.last = Some(entry.time);
        Ok(entry)
    }
}

/// The files of a copy: those found, and of them those that were verified.
struct Files {
    dir: PathBuf,
    found: BTreeSet<String>,
    verified: BTreeSet<String>,
}

impl Files {
    fn below(dir: &Path) -> Result<Self, VerifyError> {
        let mut found = BTreeSet::new();
        let mut dirs = vec![String::new()];
        while let Some(at) = dirs.pop() {
            let path = dir.join(&at);
            let failed = |source| DiskError { what: "read", path: path.clone(), source };
            for item in fs::read_dir(&path).map_err(failed)? {
                let item = item.map_err(failed)?;
                let name = format!("{at}{}", item.file_name().to_string_lossy());
                let kind = item.file_type().map_err(failed)?;
                if kind.is_dir() {
                    dirs.push(format!("{name}/"));
                } else if kind.is_file() {
                    found.insert(name);
                } else {
                    return Err(VerifyError::NoFile(name));
                }
            }
        }
        Ok(Self { dir: dir.to_path_buf(), found, verified: BTreeSet::new() })
    }

    /// The bytes of a file that must be there. Whoever takes it verifies it.
    fn take(&mut self, file: &str, limit: u64) -> Result<Vec<u8>, VerifyError> {
        let bytes = match disk::read(&self.dir, file, limit) {
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => {
                return Err(VerifyError::Missing(file.to_owned()));
            }
            bytes => bytes?,
        };
        self.found.remove(file);
        self.verified.insert(file.to_owned());
        Ok(bytes)
    }

    /// A tile of hashes must be this; where it stands over entries, they are in `bundle`.
    fn compare(&mut self, tile: Tile, expected: &[u8], bundle: Tile) -> Result<(), VerifyError> {
        let file = tile.path();
        let bytes = self.take(&file, tile.limit())?;
        if bytes.len() != expected.len() {
            return Err(VerifyError::Length { file, expected: expected.len() as u64 });
        }
        let (is, must) = (layout::hashes_of(&bytes), layout::hashes_of(expected));
        let Some(at) = is.iter().zip(&must).position(|(is, must)| is != must) else { return Ok(()) };
        let first = tile.entry(at as u64);
        Err(match tile.is_over_entries() {
            true => VerifyError::Entry { index: first, bundle: bundle.path(), tile: file },
            false => VerifyError::Tile { file, first },
        })
    }

    /// What is left may be older forms of partial tiles, which a kill can leave, and nothing else.
    fn rest(&self) -> Result<(), VerifyError> {
        for file in &self.found {
            let extra = || VerifyError::Extra(file.clone());
            let (dir, width) = file.rsplit_once('/').ok_or_else(extra)?;
            let full = dir.strip_suffix(".p").ok_or_else(extra)?;
            let width = width.parse().ok().filter(|w: &u64| width == w.to_string()).ok_or_else(extra)?;
            let mut partial = self.verified.range(format!("{dir}/")..format!("{dir}0"));
            let (present, present_width) = match partial.next() {
                Some(present) => (present, present.strip_prefix(dir).and_then(|w| w.get(1..)?.parse().ok())),
                None => (self.verified.get(full).ok_or_else(extra)?, Some(WIDTH)),
            };
            if width == 0 || present_width.is_none_or(|present| width >= present) {
                return Err(extra());
            }
            let bytes = disk::read(&self.dir, present, u64::MAX - 1)?;
            let older = disk::read(&self.dir, file, bytes.len() as u64)?;
            let (count, whole) = if full.starts_with("tile/entries/") {
                let (bodies, whole) = layout::entries_of(&older);
                (bodies.len(), whole)
            } else {
                let row = layout::hashes_of(&older);
                (row.len(), row.concat() == older)
            };
            if !whole || count as u64 != width || !bytes.starts_with(&older) {
                return Err(VerifyError::Older(file.clone()));
            }
        }
        Ok(())
    }
}
