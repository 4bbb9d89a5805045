//! The log on disk, for its one writer. The order of writing is drawn in [`super`].

use super::checkpoint::Checkpoint;
use super::disk::{Disk, DiskError};
use super::entry::MAX_ENTRY;
use super::key::SigningKey;
use super::layout::{self, Tile};
use super::note::{self, MAX_NOTE, NoteError};
use super::tip::{Part, Tip, TooLong};
use super::tree::{self, Edge, Hash, WIDTH};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, io};

/// The head of a log, in its directory.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// A log that can be appended to.
pub struct Log {
    disk: Disk,
    origin: String,
    key: SigningKey,
    tip: Tip,
    note: String,
    /// The checkpoint that a failed append may have put in place: nothing but it may come next, or two
    /// histories of one log would have been signed and seen.
    doubtful: Option<String>,
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
        if disk.has(CHECKPOINT) || disk.has("tile") {
            return Err(LogError::Exists(dir.to_path_buf()));
        }
        let tip = Tip::default();
        let note = sign(&key, origin, &tip);
        let log = Self { disk, origin: origin.to_owned(), key, tip, note, doubtful: None };
        log.disk.write(CHECKPOINT, log.note.as_bytes())?;
        log.disk.sync_root()?;
        Ok(log)
    }

    /// Open a log of this name that this key signed. Reads its right edge only; what lies to the left
    /// is checked when it is read.
    pub fn open(dir: &Path, origin: &str, key: SigningKey) -> Result<Self, LogError> {
        let disk = Disk::open(dir)?;
        let path = disk.path(CHECKPOINT);
        let bytes = fetch(&disk, CHECKPOINT, MAX_NOTE as u64)?;
        let note = String::from_utf8(bytes)
            .map_err(|_| NoteError::Form("it is no text"))
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source })?;
        let head = Checkpoint::verify(&note, &key.vkey(origin))
            .map_err(|source| LogError::Checkpoint { path: path.clone(), source })?;
        let tip = edge(&disk, head.size)?;
        if tip.root() != head.root {
            return Err(LogError::Damaged(disk.path("tile")));
        }
        Ok(Self { disk, origin: origin.to_owned(), key, tip, note, doubtful: None })
    }

    /// Entries in it.
    pub const fn size(&self) -> u64 {
        self.tip.size()
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
        let mut parts = Vec::new();
        for body in entries {
            tip.push(body, &mut parts).map_err(|TooLong(length)| LogError::TooLong(length))?;
        }
        let before = self.tip.partial();
        parts.extend(tip.partial().into_iter().filter(|part| !before.contains(part)));
        let note = sign(&self.key, &self.origin, &tip);
        if self.doubtful.as_ref().is_some_and(|doubtful| *doubtful != note) {
            return Err(LogError::Doubtful);
        }

        let paths: Vec<String> = parts.iter().map(|(tile, _)| tile.path()).collect();
        for ((_, bytes), path) in parts.iter().zip(&paths) {
            self.disk.write(path, bytes)?;
        }
        self.disk.sync_above(paths.iter().map(String::as_str))?;
        self.doubtful = Some(note.clone());
        self.disk.write(CHECKPOINT, note.as_bytes())?;
        self.disk.sync_root()?;
        self.doubtful = None;
        (self.tip, self.note) = (tip, note);

        // The entries are safe whatever comes of this; what stays goes with the next append.
        if let Err(failure) = self.sweep(&before) {
            tracing::debug!("an older partial tile stays: {failure}: {}", failure.source);
        }
        Ok(())
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

    /// Remove what the checkpoint no longer refers to: older forms of the partial tiles, now and before.
    fn sweep(&mut self, before: &[Part]) -> Result<(), DiskError> {
        let now: Vec<Tile> = self.tip.partial().into_iter().map(|(tile, _)| tile).collect();
        let keep: BTreeSet<String> = now.iter().map(Tile::path).collect();
        let left = now.iter().filter_map(Tile::before);
        let tiles = before.iter().map(|(tile, _)| *tile).chain(left).chain(now.iter().copied());
        let dirs: BTreeSet<String> = tiles.map(|tile| tile.partial_directory()).collect();
        dirs.iter().try_for_each(|dir| self.disk.sweep(dir, &keep))
    }

    /// The disk, for its faults.
    #[cfg(test)]
    pub(super) const fn disk(&self) -> &Disk {
        &self.disk
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

fn sign(key: &SigningKey, origin: &str, tip: &Tip) -> String {
    let head = Checkpoint { origin: origin.to_owned(), size: tip.size(), root: tip.root() };
    note::sign(key, origin, &head.text())
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
