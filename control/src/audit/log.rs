//! The log, for its one writer. What was appended is durable in the journal; [`Log::flush`] lays it down in the directory,
//! where all others read it. The order of writing is drawn in [`super`].

use super::checkpoint::Checkpoint;
use super::disk::{Disk, DiskError};
use super::entry::MAX_ENTRY;
use super::journal::{self, Journal};
use super::key::SigningKey;
use super::layout::{self, Tile};
use super::note::{self, MAX_NOTE, NoteError};
use super::tip::{Part, Tip, TooLong};
use super::tree::{self, Edge, Hash, WIDTH};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// The head of a log, in its directory.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// A log that can be appended to.
pub struct Log {
    disk: Disk,
    journal: Journal,
    origin: String,
    key: SigningKey,
    tip: Tip,
    root: Hash,
    note: String,
    /// Entries that lie in the directory, under its checkpoint.
    laid: u64,
    /// Full tiles and bundles that do not lie there yet.
    full: BTreeMap<Tile, Vec<u8>>,
    /// Directories with partial tiles, older forms among them.
    untidy: BTreeSet<String>,
    /// The checkpoint that a failed append may have made durable: nothing but it may come next, or two
    /// histories of one log would have been signed and seen.
    doubtful: Option<String>,
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
        Self::of(disk, origin, key, tip, note)
    }

    /// Open a log of this name that this key signed. Reads its right edge only; what lies to the left
    /// is checked when it is read. What is in the journal alone is laid down.
    pub fn open(dir: &Path, origin: &str, key: SigningKey) -> Result<Self, LogError> {
        let mut disk = Disk::open(dir)?;
        let path = disk.path(CHECKPOINT);
        let bytes = fetch(&disk, CHECKPOINT, MAX_NOTE as u64)?;
        let mut note = String::from_utf8(bytes)
            .map_err(|_| NoteError::Form("it is no text"))
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source })?;
        let head = Checkpoint::verify(&note, &key.vkey(origin))
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source })?;
        let mut tip = edge(&disk, head.size)?;
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
        let behind = tip.size() > head.size;
        if behind {
            lay_down(&mut disk, head.size, &full, &tip, &note)?;
        }
        let mut log = Self::of(disk, origin, key, tip, note)?;
        if behind {
            log.tidy();
        }
        Ok(log)
    }

    /// All of it lies in the directory.
    fn of(disk: Disk, origin: &str, key: SigningKey, tip: Tip, note: String) -> Result<Self, LogError> {
        let journal = Journal::open(&disk)?;
        let (root, laid) = (tip.root(), tip.size());
        let untidy = partial_directories(&tip);
        let full = BTreeMap::new();
        let origin = origin.to_owned();
        Ok(Self { disk, journal, origin, key, tip, root, note, laid, full, untidy, doubtful: None })
    }

    /// Entries in it.
    pub const fn size(&self) -> u64 {
        self.tip.size()
    }

    /// The hash over all of them.
    pub const fn root(&self) -> Hash {
        self.root
    }

    /// The hash over all that there were at this size.
    pub fn root_at(&self, size: u64) -> Result<Hash, LogError> {
        if size > self.size() {
            return Err(LogError::Range { start: 0, end: size, size: self.size() });
        }
        if size == 0 { Ok(tree::empty()) } else { self.subtree(0, size) }
    }

    /// The signed checkpoint.
    pub fn checkpoint(&self) -> &str {
        &self.note
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
        let mut tip = self.tip.clone();
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
        match record.as_ref().filter(|record| self.journal.fits(record.len())) {
            Some(record) => self.journal.write(&self.disk, record)?,
            // More than any journal takes: there is nothing in it by now.
            None => self.lay_down(&full, &tip, &note)?,
        }
        self.doubtful = None;
        (self.tip, self.root, self.note) = (tip, root, note);
        if self.laid == self.size() {
            self.tidy();
        } else {
            self.full.extend(full);
        }
        Ok(())
    }

    /// Lay down in the directory what is in the journal alone. Where it fails, nothing is lost, and it can be done again.
    pub fn flush(&mut self) -> Result<(), LogError> {
        if self.doubtful.is_some() {
            return Err(LogError::Doubtful);
        }
        if self.laid == self.size() {
            return Ok(());
        }
        // Kept until they lie there: a panic on the way must not be a hole below a checkpoint that comes later.
        let full: Vec<Part> = self.full.iter().map(|(tile, bytes)| (*tile, bytes.clone())).collect();
        self.lay_down(&full, &self.tip.clone(), &self.note.clone())?;
        self.full.clear();
        self.journal.restart();
        self.tidy();
        Ok(())
    }

    /// A failed append may be durable all the same: only the same one can follow, or the log is opened anew.
    pub const fn is_doubtful(&self) -> bool {
        self.doubtful.is_some()
    }

    /// What is to be flushed.
    pub fn unflushed(&self) -> Unflushed {
        match self.laid == self.size() {
            true => Unflushed::Nothing,
            false if self.journal.is_half_full() => Unflushed::Much,
            false => Unflushed::Some,
        }
    }

    /// The entries from `start` up to, without, `end`, each checked against the checkpoint.
    pub fn read(&self, start: u64, end: u64) -> Result<Vec<Vec<u8>>, LogError> {
        let size = self.size();
        if start > end || end > size {
            return Err(LogError::Range { start, end, size });
        }
        let mut entries = Vec::new();
        for index in start / WIDTH..end.div_ceil(WIDTH) {
            let first = index * WIDTH;
            let wanted = |(at, _): &(u64, &[u8])| (start..end).contains(at);
            match Tile::entries(index, size) {
                Some(tile) if !tile.is_partial() => {
                    let bytes = self.bundle(tile, index)?;
                    let bodies = layout::entries_of(&bytes).0;
                    entries.extend((first..).zip(bodies).filter(wanted).map(|(_, body)| body.to_vec()));
                }
                _ => {
                    let bodies = self.tip.entries();
                    entries.extend((first..).zip(bodies).filter(wanted).map(|(_, body)| body.to_vec()));
                }
            }
        }
        Ok(entries)
    }

    /// Proof that the log's root covers entry `index`; for [`super::verify::inclusion`].
    pub fn inclusion(&self, index: u64) -> Result<Vec<Hash>, LogError> {
        self.inclusion_in(index, self.size())
    }

    /// The same of the root that the log had at `size`.
    pub fn inclusion_in(&self, index: u64, size: u64) -> Result<Vec<Hash>, LogError> {
        if index >= size || size > self.size() {
            return Err(LogError::Range { start: index, end: size, size: self.size() });
        }
        tree::inclusion(index, size, |low, high| self.subtree(low, high))
    }

    /// Proof that the log starts with what it was at size `old`; for [`super::verify::consistency`].
    pub fn consistency(&self, old: u64) -> Result<Vec<Hash>, LogError> {
        let size = self.size();
        if old > size {
            return Err(LogError::Range { start: 0, end: old, size });
        }
        tree::consistency(old, size, |low, high| self.subtree(low, high))
    }

    /// The hash over the 65,536 entries from `part` times as many on: a node of the tree.
    pub fn over(&self, part: u64) -> Result<Hash, LogError> {
        let (size, wide) = (self.size(), WIDTH * WIDTH);
        let start = part.saturating_mul(wide);
        match start.checked_add(wide).filter(|end| *end <= size) {
            Some(end) => self.subtree(start, end),
            None => Err(LogError::Range { start, end: start.saturating_add(wide), size }),
        }
    }

    /// A full bundle whose entries are those that the root covers.
    fn bundle(&self, tile: Tile, index: u64) -> Result<Vec<u8>, LogError> {
        if let Some(bytes) = self.full.get(&tile) {
            return Ok(bytes.clone());
        }
        let bytes = fetch(&self.disk, &tile.path(), tile.limit())?;
        let (bodies, whole) = layout::entries_of(&bytes);
        let leaves: Vec<Hash> = bodies.iter().map(|body| tree::leaf(body)).collect();
        if !whole || leaves.len() as u64 != tile.width() || tree::root_of(&leaves) != self.hash(1, index)? {
            return Err(LogError::Damaged(self.disk.path(&tile.path())));
        }
        Ok(bytes)
    }

    /// The hashes of a tile, the ones that the root covers: a full tile's root stands in the level above,
    /// and what is partial is known already.
    fn row(&self, level: u8, index: u64) -> Result<Vec<Hash>, LogError> {
        let tile = match Tile::hashes(level, index, self.size()) {
            Some(tile) if !tile.is_partial() => tile,
            _ => return Ok(self.tip.row(level).to_vec()),
        };
        if let Some(bytes) = self.full.get(&tile) {
            return Ok(layout::hashes_of(bytes));
        }
        let row = hashes(&self.disk, tile)?;
        if tree::root_of(&row) != self.hash(level + 1, index)? {
            return Err(LogError::Damaged(self.disk.path(&tile.path())));
        }
        Ok(row)
    }

    fn hash(&self, level: u8, index: u64) -> Result<Hash, LogError> {
        let row = self.row(level, index / WIDTH)?;
        let at = usize::try_from(index % WIDTH).ok();
        at.and_then(|at| row.get(at).copied()).ok_or(LogError::Damaged(self.disk.path("tile")))
    }

    /// The hash over leaves of a subtree, as proofs ask for them.
    fn subtree(&self, low: u64, high: u64) -> Result<Hash, LogError> {
        let leaves = high - low;
        if !leaves.is_power_of_two() {
            let middle = low + tree::split(leaves);
            return Ok(tree::node(&self.subtree(low, middle)?, &self.subtree(middle, high)?));
        }
        // Full, so it lies within one tile.
        let height = leaves.ilog2();
        let level = u8::try_from(height / 8).unwrap_or(u8::MAX);
        let first = low >> (8 * (height / 8));
        let row = self.row(level, first / WIDTH)?;
        let (skip, take) = ((first % WIDTH) as usize, 1_usize << (height % 8));
        let row: Vec<Hash> = row.into_iter().skip(skip).take(take).collect();
        Ok(tree::root_of(&row))
    }

    fn lay_down(&mut self, full: &[Part], tip: &Tip, note: &str) -> Result<(), DiskError> {
        self.untidy.extend(partial_directories(tip));
        lay_down(&mut self.disk, self.laid, full, tip, note)?;
        self.laid = tip.size();
        Ok(())
    }

    /// Remove what the checkpoint no longer refers to: older forms of the partial tiles, now and before. What stays goes
    /// with the next flush.
    fn tidy(&mut self) {
        let keep: BTreeSet<String> = self.tip.partial().iter().map(|(tile, _)| tile.path()).collect();
        match self.untidy.iter().try_for_each(|dir| self.disk.sweep(dir, &keep)) {
            Ok(()) => self.untidy = partial_directories(&self.tip),
            Err(failure) => tracing::debug!("an older partial tile stays: {failure}: {}", failure.source),
        }
    }

    /// What a test does to its disk.
    #[cfg(test)]
    pub(crate) const fn faults(&self) -> &super::disk::faults::Faults {
        &self.disk.faults
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

/// Write what is new since the log had `laid` entries, then the checkpoint over it.
fn lay_down(disk: &mut Disk, laid: u64, full: &[Part], tip: &Tip, note: &str) -> Result<(), DiskError> {
    let partial = tip.partial();
    let new = full.iter().chain(partial.iter().filter(|(tile, _)| !tile.is_of(laid)));
    let files: Vec<(String, &[u8])> = new.map(|(tile, bytes)| (tile.path(), bytes.as_slice())).collect();
    disk.write_all(&files)?;
    disk.sync_above(files.iter().map(|(path, _)| path.as_str()))?;
    disk.write(CHECKPOINT, note.as_bytes())?;
    disk.sync_root()
}

/// The right edge of a log of this size, as it lies on disk, and consistent in itself.
fn edge(disk: &Disk, size: u64) -> Result<Tip, LogError> {
    let mut rows = Vec::new();
    for level in 0u8..8 {
        let at_level = size >> (8 * level);
        if at_level == 0 {
            break;
        }
        let tile = Tile::hashes(level, at_level / WIDTH, size);
        rows.push(tile.map_or(Ok(Vec::new()), |tile| hashes(disk, tile))?);
    }
    let Some(tile) = Tile::entries(size / WIDTH, size) else {
        return Ok(Tip::of(Edge::of(size, rows), Vec::new()));
    };
    let bundle = fetch(disk, &tile.path(), tile.limit())?;
    let (bodies, whole) = layout::entries_of(&bundle);
    let leaves: Vec<Hash> = bodies.iter().map(|body| tree::leaf(body)).collect();
    if !whole || rows.first() != Some(&leaves) {
        return Err(LogError::Damaged(disk.path(&tile.path())));
    }
    Ok(Tip::of(Edge::of(size, rows), bundle))
}

fn hashes(disk: &Disk, tile: Tile) -> Result<Vec<Hash>, LogError> {
    let bytes = fetch(disk, &tile.path(), tile.limit())?;
    if bytes.len() as u64 != tile.limit() {
        return Err(LogError::Damaged(disk.path(&tile.path())));
    }
    Ok(layout::hashes_of(&bytes))
}

/// The bytes of a file that must be there, and no longer than that.
fn fetch(disk: &Disk, file: &str, limit: u64) -> Result<Vec<u8>, LogError> {
    match disk.read(file, limit) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Err(LogError::Missing(e.path)),
        Ok(bytes) if bytes.len() as u64 > limit => Err(LogError::Damaged(disk.path(file))),
        read => Ok(read?),
    }
}
