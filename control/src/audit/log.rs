//! The log, for its one writer. What was appended is durable in the journal; [`Flush::run`] lays it down in the directory,
//! where all others read it. The order of writing is drawn in [`super`].

use super::checkpoint::Checkpoint;
use super::disk::{Disk, DiskError};
use super::entry::MAX_ENTRY;
use super::journal::{self, Journal};
use super::key::SigningKey;
use super::layout::{self, Tile};
use super::note::{self, MAX_NOTE, NoteError};
use super::tip::{Tip, TooLong};
use super::tree::{self, Edge, Hash, WIDTH};
use super::view::{View, fetch, hashes};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// The head of a log, in its directory.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// A log that can be appended to. It can be read as what it is now ([`View`]).
pub struct Log {
    disk: Arc<Disk>,
    journal: Journal,
    origin: String,
    key: SigningKey,
    view: Arc<View>,
    /// What lies in the directory. Held by whoever lays down, which takes a while.
    laid: Arc<Mutex<Laid>>,
    /// Entries that do, as far as was seen.
    seen: u64,
    /// The checkpoint that a failed append may have made durable: nothing but it may come next, or two
    /// histories of one log would have been signed and seen.
    doubtful: Option<String>,
}

/// What lies in the directory, under its checkpoint.
#[derive(Debug)]
struct Laid {
    size: u64,
    /// Up to where the journal is of no more use.
    journal: u64,
    /// Directories with partial tiles, older forms among them.
    untidy: BTreeSet<String>,
}

/// What is in the journal alone, to be laid down in the directory. Appends go on meanwhile.
pub struct Flush {
    disk: Arc<Disk>,
    laid: Arc<Mutex<Laid>>,
    view: Arc<View>,
    journal: u64,
}

/// How much waits for [`Log::flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unflushed {
    /// Nothing.
    Nothing,
    /// Something.
    Some,
    /// So much that appends will soon have to wait for it.
    Much,
}

/// Why the log cannot be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. The log is as it was.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is something already.
    #[error("there is a log in `{0}` already, or what is left of one")]
    Exists(PathBuf),
    /// A file that the checkpoint refers to is not there.
    #[error("the log lacks `{0}`: stop, find out who removed it, and restore the whole log from a copy")]
    Missing(PathBuf),
    /// The checkpoint is not this log's.
    #[error("the checkpoint `{path}` is damaged or another log's")]
    Checkpoint {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: NoteError,
    },
    /// A file is not what the checkpoint says of it.
    #[error(
        "`{0}` does not agree with the signed checkpoint: stop, find out who changed it, and restore the \
         whole log from a copy"
    )]
    Damaged(PathBuf),
    /// The journal is not what belongs behind the checkpoint.
    #[error(
        "the journal `{path}` does not fit the log: {why}. stop, find out who changed it or which of the two was \
         restored from a copy, and restore both as they were at one time"
    )]
    Journal {
        /// Its file.
        path: PathBuf,
        /// In what.
        why: String,
    },
    /// A log cannot have this name.
    #[error("`{0}` cannot be the name of a log: it must have no spaces and no `+`")]
    Origin(String),
    /// An entry is longer than [`MAX_ENTRY`].
    #[error("an entry has {0} bytes, and {MAX_ENTRY} is the most")]
    TooLong(usize),
    /// Something else was appended than what had failed half-way.
    #[error(
        "an earlier append failed after its checkpoint was written: append the same entries again, or \
         open the log anew"
    )]
    Doubtful,
    /// They were there, and were removed when their time was over.
    #[error("the entries before {first} are gone: their time was over, as `log.expire` says")]
    Expired {
        /// The first that is kept.
        first: u64,
    },
    /// No such entries.
    #[error("there are no entries {start} to {end}: the log has {size}")]
    Range {
        /// The first that was asked for.
        start: u64,
        /// One past the last.
        end: u64,
        /// Entries in the log.
        size: u64,
    },
}

impl Log {
    /// Begin a log without entries. The directory is made; one that holds a log is refused.
    pub fn create(dir: &Path, origin: &str, key: SigningKey) -> Result<Self, LogError> {
        if !note::is_name(origin) {
            return Err(LogError::Origin(origin.escape_debug().to_string()));
        }
        let disk = Disk::create(dir)?;
        let left = disk.path_beside(journal::SUFFIX).symlink_metadata().is_ok();
        if left || disk.has(CHECKPOINT) || disk.has("tile") {
            return Err(LogError::Exists(dir.to_path_buf()));
        }
        let tip = Tip::default();
        let note = sign(&key, origin, tip.size(), tip.root());
        disk.write(CHECKPOINT, note.as_bytes())?;
        disk.sync_root()?;
        let view = View::of(&disk, tip, note, Vec::new());
        Self::of(disk, origin, key, view, Laid { size: 0, journal: 0, untidy: BTreeSet::new() })
    }

    /// Open a log of this name that this key signed. Reads its right edge only; what lies to the left
    /// is checked when it is read. What is in the journal alone is laid down.
    pub fn open(dir: &Path, origin: &str, key: SigningKey) -> Result<Self, LogError> {
        let disk = Disk::open(dir)?;
        let path = disk.path(CHECKPOINT);
        let bytes = fetch(dir, CHECKPOINT, MAX_NOTE as u64)?;
        let mut note = String::from_utf8(bytes)
            .map_err(|_| NoteError::Form("it is no text"))
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source })?;
        let head = Checkpoint::verify(&note, &key.vkey(origin))
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source })?;
        let mut tip = edge(dir, head.size)?;
        if tip.root() != head.root {
            return Err(LogError::Damaged(disk.path("tile")));
        }
        let bytes = disk.read_beside(journal::SUFFIX, journal::SIZE)?;
        let misfit = |why| LogError::Journal { path: disk.path_beside(journal::SUFFIX), why };
        if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 != journal::SIZE) {
            return Err(misfit(format!("it does not have the {} bytes that it must have", journal::SIZE)));
        }
        let bytes = bytes.unwrap_or_default();
        let full = journal::replay(&bytes, &key.vkey(origin), &mut tip, &mut note).map_err(misfit)?;
        let mut laid = Laid { size: head.size, journal: 0, untidy: partial_directories(&tip) };
        let view = View::of(&disk, tip, note, full);
        match view.size() > head.size {
            true => laid.put(&disk, &view, 0)?,
            // What a flush that failed, and a kill after it, have left.
            false => laid.tidy(&disk, &view.tip),
        }
        Self::of(disk, origin, key, view, laid)
    }

    /// All of it lies in the directory.
    fn of(disk: Disk, origin: &str, key: SigningKey, mut view: View, laid: Laid) -> Result<Self, LogError> {
        view.full = Arc::default();
        let (journal, seen) = (Journal::open(&disk)?, laid.size);
        let (disk, view, laid) = (Arc::new(disk), Arc::new(view), Arc::new(Mutex::new(laid)));
        Ok(Self { disk, journal, origin: origin.to_owned(), key, view, laid, seen, doubtful: None })
    }

    /// The key that others need to verify it, `NAME+HASH+KEY`.
    pub fn vkey(&self) -> String {
        self.key.vkey(&self.origin)
    }

    /// Append entries: all of them are durable under a signed checkpoint when it returns, or the log is
    /// as it was and the same call may be made again.
    pub fn append(&mut self, entries: &[Vec<u8>]) -> Result<(), LogError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.look();
        let mut tip = self.view.tip.clone();
        let mut full = Vec::new();
        for body in entries {
            tip.push(body, &mut full).map_err(|TooLong(length)| LogError::TooLong(length))?;
        }
        let root = tip.root();
        let note = sign(&self.key, &self.origin, tip.size(), root);
        if self.doubtful.as_ref().is_some_and(|doubtful| *doubtful != note) {
            return Err(LogError::Doubtful);
        }
        let record = journal::record(self.size(), entries, &note);
        let fits = |journal: &Journal| record.as_ref().is_some_and(|record| journal.fits(record.len()));
        if self.doubtful.is_none() && !fits(&self.journal) {
            self.flush()?;
        }

        self.doubtful = Some(note.clone());
        let view = Arc::new(self.view.grown((tip, root), note, full, self.seen));
        match record.as_ref().filter(|record| self.journal.fits(record.len())) {
            Some(record) => self.journal.write(&self.disk, record)?,
            // More than any journal takes: there is nothing in it by now.
            None => held(&self.laid).put(&self.disk, &view, self.journal.end())?,
        }
        self.doubtful = None;
        self.view = view;
        Ok(())
    }

    /// Lay down in the directory what is in the journal alone. Where it fails, nothing is lost, and it can be done again.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.to_flush()?.run()?;
        self.look();
        Ok(())
    }

    /// What [`Self::flush`] does, for another thread.
    pub fn to_flush(&self) -> Result<Flush, LogError> {
        if self.doubtful.is_some() {
            return Err(LogError::Doubtful);
        }
        let (disk, laid) = (Arc::clone(&self.disk), Arc::clone(&self.laid));
        Ok(Flush { disk, laid, view: Arc::clone(&self.view), journal: self.journal.end() })
    }

    /// As it is now, to be read while it grows.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// A failed append may be durable all the same: only the same one can follow, or the log is opened anew.
    pub const fn is_doubtful(&self) -> bool {
        self.doubtful.is_some()
    }

    /// What is to be flushed.
    pub fn unflushed(&self) -> Unflushed {
        let (size, journal) = self.looked();
        match size == self.size() {
            true => Unflushed::Nothing,
            false if self.journal.is_half_full(journal) => Unflushed::Much,
            false => Unflushed::Some,
        }
    }

    /// The directory, and how many entries lie in it at least.
    pub(super) fn laid(&self) -> (Arc<Disk>, u64) {
        (Arc::clone(&self.disk), self.looked().0)
    }

    fn look(&mut self) {
        let (size, journal) = self.looked();
        self.seen = size;
        self.journal.release(journal);
    }

    /// What was laid down; where somebody is about it, what was before.
    fn looked(&self) -> (u64, u64) {
        match self.laid.try_lock() {
            Ok(laid) => (laid.size, laid.journal),
            Err(TryLockError::Poisoned(laid)) => (laid.get_ref().size, laid.get_ref().journal),
            Err(TryLockError::WouldBlock) => (self.seen, 0),
        }
    }

    /// What a test does to its disk.
    #[cfg(test)]
    pub(crate) fn faults(&self) -> &super::disk::faults::Faults {
        &self.disk.faults
    }
}

impl Deref for Log {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("origin", &self.origin)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

fn sign(key: &SigningKey, origin: &str, size: u64, root: Hash) -> String {
    note::sign(key, origin, &Checkpoint { origin: origin.to_owned(), size, root }.text())
}

/// Where the partial tiles lie, and those of before that a kill may have left.
fn partial_directories(tip: &Tip) -> BTreeSet<String> {
    let now: Vec<Tile> = tip.partial().into_iter().map(|(tile, _)| tile).collect();
    let left = now.iter().filter_map(Tile::before);
    now.iter().copied().chain(left).map(|tile| tile.partial_directory()).collect()
}

impl Laid {
    /// Write what is new, then the checkpoint over it.
    fn put(&mut self, disk: &Disk, view: &View, journal: u64) -> Result<(), DiskError> {
        let partial = view.tip.partial();
        self.untidy.extend(partial_directories(&view.tip));
        let full = view.full.iter().map(|(tile, bytes)| (tile, &**bytes));
        let new = full.chain(partial.iter().map(|(tile, bytes)| (tile, bytes.as_slice())));
        let new = new.filter(|(tile, _)| !tile.is_of(self.size));
        let files: Vec<(String, &[u8])> = new.map(|(tile, bytes)| (tile.path(), bytes)).collect();
        disk.write_all(&files)?;
        disk.sync_above(files.iter().map(|(path, _)| path.as_str()))?;
        disk.write(CHECKPOINT, view.note.as_bytes())?;
        disk.sync_root()?;
        (self.size, self.journal) = (view.size(), journal);
        self.tidy(disk, &view.tip);
        Ok(())
    }

    /// Remove what the checkpoint no longer refers to: older forms of the partial tiles, now and before. What stays goes
    /// with the next flush.
    fn tidy(&mut self, disk: &Disk, tip: &Tip) {
        let keep: BTreeSet<String> = tip.partial().iter().map(|(tile, _)| tile.path()).collect();
        match self.untidy.iter().try_for_each(|dir| disk.sweep(dir, &keep)) {
            Ok(()) => self.untidy = partial_directories(tip),
            Err(failure) => tracing::debug!("an older partial tile stays: {failure}: {}", failure.source),
        }
    }
}

impl Flush {
    /// Do it. Where it fails, nothing is lost, and it can be done again.
    pub fn run(self) -> Result<(), LogError> {
        let mut laid = held(&self.laid);
        match laid.size < self.view.size() {
            true => Ok(laid.put(&self.disk, &self.view, self.journal)?),
            false => Ok(()),
        }
    }
}

/// A panic on the way leaves it as it was.
fn held(laid: &Mutex<Laid>) -> MutexGuard<'_, Laid> {
    laid.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right edge of a log of this size, as it lies on disk, and consistent in itself.
fn edge(dir: &Path, size: u64) -> Result<Tip, LogError> {
    let mut rows = Vec::new();
    for level in 0u8..8 {
        let at_level = size >> (8 * level);
        if at_level == 0 {
            break;
        }
        let tile = Tile::hashes(level, at_level / WIDTH, size);
        rows.push(tile.map_or(Ok(Vec::new()), |tile| hashes(dir, tile))?);
    }
    let Some(tile) = Tile::entries(size / WIDTH, size) else {
        return Ok(Tip::of(Edge::of(size, rows), &[]));
    };
    let bundle = fetch(dir, &tile.path(), tile.limit())?;
    let (bodies, whole) = layout::entries_of(&bundle);
    let leaves: Vec<Hash> = bodies.iter().map(|body| tree::leaf(body)).collect();
    if !whole || rows.first() != Some(&leaves) {
        return Err(LogError::Damaged(dir.join(tile.path())));
    }
    Ok(Tip::of(Edge::of(size, rows), &bodies))
}
