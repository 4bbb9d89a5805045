//! A log as it is at one moment: read and proven beside its writer, who is waited for by nobody here. Whatever a checkpoint
//! refers to never changes; what does not lie in the directory yet is in memory.

use super::disk::{self, Disk};
use super::layout::{self, Tile};
use super::log::LogError;
use super::tip::{Part, Tip};
use super::tree::{self, Hash, WIDTH};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Full tiles and bundles.
pub(super) type Parts = BTreeMap<Tile, Arc<[u8]>>;

/// All that was appended up to a signed checkpoint.
#[derive(Debug)]
pub struct View {
    /// Where the log's directory is.
    pub(super) root: PathBuf,
    pub(super) tip: Tip,
    pub(super) hash: Hash,
    pub(super) note: String,
    /// What may not lie in the directory yet.
    pub(super) full: Arc<Parts>,
}

impl View {
    pub(super) fn of(disk: &Disk, tip: Tip, note: String, full: Vec<Part>) -> Self {
        let full = full.into_iter().map(|(tile, bytes)| (tile, bytes.into())).collect();
        Self { root: disk.path(""), hash: tip.root(), tip, note, full: Arc::new(full) }
    }

    /// With more, and the hash over all of it; some has become `full`. What lies in the directory of `laid` entries is not kept in memory.
    pub(super) fn grown(&self, (tip, hash): (Tip, Hash), note: String, full: Vec<Part>, laid: u64) -> Self {
        let kept = match full.is_empty() && !self.full.keys().any(|tile| tile.is_of(laid)) {
            true => Arc::clone(&self.full),
            false => {
                let kept = self.full.iter().filter(|(tile, _)| !tile.is_of(laid));
                let kept = kept.map(|(tile, bytes)| (*tile, Arc::clone(bytes)));
                Arc::new(kept.chain(full.into_iter().map(|(tile, bytes)| (tile, bytes.into()))).collect())
            }
        };
        Self { root: self.root.clone(), hash, tip, note, full: kept }
    }

    /// Entries in it.
    pub const fn size(&self) -> u64 {
        self.tip.size()
    }

    /// The hash over all of them.
    pub const fn root(&self) -> Hash {
        self.hash
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
            return Ok(bytes.to_vec());
        }
        let bytes = fetch(&self.root, &tile.path(), tile.limit())?;
        let (bodies, whole) = layout::entries_of(&bytes);
        let leaves: Vec<Hash> = bodies.iter().map(|body| tree::leaf(body)).collect();
        if !whole || leaves.len() as u64 != tile.width() || tree::root_of(&leaves) != self.hash(1, index)? {
            return Err(LogError::Damaged(self.root.join(tile.path())));
        }
        Ok(bytes)
    }

    /// The hashes of a tile, the ones that the root covers: a full tile's root stands in the level above,
    /// and what is partial is known already.
    pub(super) fn row(&self, level: u8, index: u64) -> Result<Vec<Hash>, LogError> {
        let tile = match Tile::hashes(level, index, self.size()) {
            Some(tile) if !tile.is_partial() => tile,
            _ => return Ok(self.tip.row(level).to_vec()),
        };
        if let Some(bytes) = self.full.get(&tile) {
            return Ok(layout::hashes_of(bytes));
        }
        let row = hashes(&self.root, tile)?;
        if tree::root_of(&row) != self.hash(level + 1, index)? {
            return Err(LogError::Damaged(self.root.join(tile.path())));
        }
        Ok(row)
    }

    fn hash(&self, level: u8, index: u64) -> Result<Hash, LogError> {
        let row = self.row(level, index / WIDTH)?;
        let at = usize::try_from(index % WIDTH).ok();
        at.and_then(|at| row.get(at).copied()).ok_or(LogError::Damaged(self.root.join("tile")))
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
}

pub(super) fn hashes(root: &Path, tile: Tile) -> Result<Vec<Hash>, LogError> {
    let bytes = fetch(root, &tile.path(), tile.limit())?;
    if bytes.len() as u64 != tile.limit() {
        return Err(LogError::Damaged(root.join(tile.path())));
    }
    Ok(layout::hashes_of(&bytes))
}

/// The bytes of a file that must be there, and no longer than that.
pub(super) fn fetch(root: &Path, file: &str, limit: u64) -> Result<Vec<u8>, LogError> {
    match disk::read(root, file, limit) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Err(LogError::Missing(e.path)),
        Ok(bytes) if bytes.len() as u64 > limit => Err(LogError::Damaged(root.join(file))),
        read => Ok(read?),
    }
}
