//! Old entries go: the front of the log, bundle by bundle. Their hashes stay, all of them, and with these the signed heads,
//! every proof, and what can be verified: C2SP tlog-tiles, "Pruning", whose minimum index is the `first` here. It lets hashes
//! go as well, and recommends to go no further than to refuse requests; here the text is to be gone, and the hashes cost little.
//!
//! ```text
//!   log.carry …        what the state is, written down anew
//!   log.expire         first: from which entry on the log is kept
//!        │ durable, laid down in the directory, and in the store
//!        ▼
//!   tile/entries/000, 001, …   removed, the first of them first; each directory synced before the next
//! ```
//!
//! A kill on the way leaves a log that begins earlier than it might: the next start goes on.

use super::disk::{Disk, DiskError};
use super::entry::Entry;
use super::layout::Tile;
use super::log::{Log, LogError};
use super::tree::{Hash, WIDTH};
use super::view::View;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::sync::Arc;

/// The action of the entry that says from where on the log is kept.
pub const EXPIRE: &str = "log.expire";
/// The action of the entries before it, which say what the state is.
pub const CARRY: &str = "log.carry";
/// Entries that go together: those under one hash of the second level, as they are one file of the index.
pub const SEGMENT: u64 = WIDTH * WIDTH;

/// Bundles in one directory.
const IN_DIRECTORY: u64 = 1000;

/// What a log has of entries that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// So many are, from the first on.
    pub entries: u64,
    /// So many may be: what the last `log.expire` says.
    pub may: u64,
    /// When it was logged.
    pub at: Timestamp,
}

/// That entries may be gone, as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    /// Those before this one.
    pub(crate) first: u64,
    pub(crate) at: Timestamp,
}

/// Whether this entry says that those before another may be gone: holmd's own, of what was before it.
pub(crate) fn told<C>(entry: &Entry<C>) -> Option<Told> {
    let own = entry.actor == "holmd" && entry.action == EXPIRE && entry.outcome != "refused";
    let first = entry.detail.get("first").filter(|_| own).and_then(Value::as_u64)?;
    (first <= entry.index).then_some(Told { first, at: entry.time })
}

impl View {
    /// The first entry that is there. Before it are hashes alone.
    pub fn first(&self) -> Result<u64, LogError> {
        let full = self.size() / WIDTH;
        if full == 0 || self.has(0)? {
            return Ok(0);
        }
        // What goes, goes from the first on. Where it was otherwise, reading what is missing says so.
        let (mut gone, mut there) = (0, full);
        while there - gone > 1 {
            let middle = gone + (there - gone) / 2;
            if self.has(middle)? { there = middle } else { gone = middle }
        }
        Ok(there * WIDTH)
    }

    /// A full bundle is there.
    fn has(&self, index: u64) -> Result<bool, LogError> {
        let Some(tile) = Tile::entries(index, self.size()) else { return Ok(false) };
        if self.full.contains_key(&tile) {
            return Ok(true);
        }
        let path = self.root.join(tile.path());
        match path.symlink_metadata() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(DiskError { what: "read", path, source }.into()),
        }
    }

    /// It begins no later than the log says that it may: with `first`.
    pub(crate) fn begins_by(&self, first: u64) -> Result<(), LogError> {
        if self.first()? <= first {
            return Ok(());
        }
        // The first that is missing and should not be.
        let tile = Tile::entries(first / WIDTH, self.size());
        Err(LogError::Missing(self.root.join(tile.map(|tile| tile.path()).unwrap_or_default())))
    }

    /// The hashes of the entries from `start` up to, without, `end`, which are there also where the entries are gone.
    pub fn leaves(&self, start: u64, end: u64) -> Result<Vec<Hash>, LogError> {
        let size = self.size();
        if start > end || end > size {
            return Err(LogError::Range { start, end, size });
        }
        let mut leaves = Vec::new();
        for index in start / WIDTH..end.div_ceil(WIDTH) {
            let row = (index * WIDTH..).zip(self.row(0, index)?);
            leaves.extend(row.filter(|(at, _)| (start..end).contains(at)).map(|(_, leaf)| leaf));
        }
        Ok(leaves)
    }
}

/// Removes what is before an entry.
pub struct Expire {
    disk: Arc<Disk>,
    first: u64,
}

impl Log {
    /// To remove the bundles before `first`, as an entry says that they may be gone: one of the first `size`. `None`: these
    /// do not lie in the directory yet.
    pub fn to_expire(&self, first: u64, size: u64) -> Option<Expire> {
        let (disk, laid) = self.laid();
        (laid >= size && laid >= first).then_some(Expire { disk, first })
    }
}

impl Expire {
    /// Do it. Where it fails, or is killed, it can be done again.
    pub fn run(self) -> Result<(), LogError> {
        let end = self.first / WIDTH;
        for group in 0..end.div_ceil(IN_DIRECTORY) {
            let bundles = (group * IN_DIRECTORY..end).take(IN_DIRECTORY as usize);
            let files = bundles.filter_map(|index| Tile::entries(index, self.first)).map(|tile| tile.path());
            self.remove(files)?;
        }
        Ok(())
    }

    /// Files of one directory, those that are there, in this order.
    fn remove(&self, mut files: impl Iterator<Item = String>) -> Result<(), DiskError> {
        let Some(first) = files.next() else { return Ok(()) };
        let directory = self.disk.path(first.rsplit_once('/').map_or("", |(directory, _)| directory));
        let failed = |source| DiskError { what: "read", path: directory.clone(), source };
        let names = match fs::read_dir(&directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names.map_err(failed)?,
        };
        let there: BTreeSet<_> =
            names.map(|item| Ok(item?.file_name())).collect::<io::Result<_>>().map_err(failed)?;
        let mut removed = false;
        for file in std::iter::once(first).chain(files) {
            let path = self.disk.path(&file);
            if path.file_name().is_some_and(|name| there.contains(name)) {
                self.disk.act("remove", &path, || fs::remove_file(&path))?;
                removed = true;
            }
        }
        // Or a loss of power could leave a later one gone and an earlier one there.
        match removed {
            true => self.disk.act("sync", &directory, || File::open(&directory)?.sync_all()),
            false => Ok(()),
        }
    }
}
