//! A log taken along: its entries as somebody received them, in the form in which it lies on holmd's own
//! disk, so that [`super::verify::directory`] and other people's tools for C2SP tlog-tiles can read it.
//!
//! Hashes are not copied but made anew, so an export is verified while it is written. The checkpoint
//! comes last: an export that was cut short has none.

use super::checkpoint::Checkpoint;
use super::disk::{Disk, DiskError};
use super::layout::{self, Tile};
use super::log::CHECKPOINT;
use super::tree::{Hash, WIDTH};
use super::verify::{Checker, Verified, VerifyError};
use std::fs;
use std::path::{Path, PathBuf};

/// The key that verifies the export. Compare it with one from elsewhere: whoever forges an export forges
/// this, too.
pub const VKEY: &str = "vkey";

/// The directory of checkpoints that witnesses signed, a file a witness.
pub const WITNESS: &str = "witness";

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Nothing is overwritten.
    #[error("`{0}` is not empty: name a directory that is, or that is not there yet")]
    NotEmpty(PathBuf),
    /// The entries are not those of the checkpoint.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

/// What an export is made of.
#[derive(Debug, Clone)]
pub enum Item {
    /// An entry, as it was logged.
    Entry(Vec<u8>),
    /// Before the first of them: the hashes of a whole bundle of entries that are gone.
    Gone(Vec<Hash>),
}

impl From<Vec<u8>> for Item {
    fn from(body: Vec<u8>) -> Self {
        Self::Entry(body)
    }
}

/// Write an export of the entries under a checkpoint, all of them from the first on. They must begin with all that the log
/// was at each of `earlier`.
pub fn write(
    dir: &Path,
    note: &str,
    vkey: &str,
    earlier: &[Checkpoint],
    entries: impl IntoIterator<Item = impl Into<Item>>,
) -> Result<Verified, ExportError> {
    let mut checker = Checker::new(note, vkey)?;
    earlier.iter().try_for_each(|known| checker.begin_with(known.clone()))?;
    let disk = Disk::create(dir)?;
    let failed = |source| DiskError { what: "read", path: dir.to_path_buf(), source };
    if fs::read_dir(dir).map_err(failed)?.next().is_some() {
        return Err(ExportError::NotEmpty(dir.to_path_buf()));
    }
    let mut paths = Vec::new();
    let mut put = |disk: &Disk, path: String, bytes: &[u8]| {
        disk.write(&path, bytes)?;
        paths.push(path);
        Ok::<(), DiskError>(())
    };
    let (mut bundle, mut tiles) = (Vec::new(), Vec::new());
    let mut size = 0;
    for item in entries {
        let gone = match item.into() {
            Item::Entry(body) => {
                checker.push_to(&body, &mut tiles)?;
                layout::add_entry(&mut bundle, &body);
                size += 1;
                false
            }
            Item::Gone(leaves) => {
                checker.skip_to(&leaves, &mut tiles)?;
                size += leaves.len() as u64;
                true
            }
        };
        for (tile, bytes) in tiles.drain(..) {
            if tile.is_over_entries() && !gone {
                put(&disk, tile.bundle().path(), &std::mem::take(&mut bundle))?;
            }
            put(&disk, tile.path(), &bytes)?;
        }
    }
    if let Some(tile) = Tile::entries(size / WIDTH, size) {
        put(&disk, tile.path(), &bundle)?;
    }
    for (tile, bytes) in checker.partial() {
        put(&disk, tile.path(), &bytes)?;
    }
    let verified = checker.finish()?;
    put(&disk, VKEY.to_owned(), format!("{vkey}\n").as_bytes())?;
    disk.sync_above(paths.iter().map(String::as_str))?;
    disk.write(CHECKPOINT, note.as_bytes())?;
    disk.sync_root()?;
    Ok(verified)
}
