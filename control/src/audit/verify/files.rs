//! The files of a copy: each is read as what it must be, and at the end none may be left over.

use super::VerifyError;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::disk::DiskError;
use crate::audit::export::{VKEY, WITNESS};
use crate::audit::layout::{self, Tile};
use crate::audit::log::CHECKPOINT;
use crate::audit::note::{MAX_NOTE, NoteError};
use crate::audit::tree::WIDTH;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A copy of a log's directory, or an export.
pub(super) struct Files<'a> {
    dir: &'a Path,
}

impl<'a> Files<'a> {
    pub(super) const fn of(dir: &'a Path) -> Self {
        Self { dir }
    }

    /// The bytes of a file that must be there. One that is longer than `limit` is cut off one byte after it.
    pub(super) fn take(&self, file: &str, limit: u64) -> Result<Vec<u8>, VerifyError> {
        read(&self.dir.join(file), limit).map_err(|source| self.failed(file, source))
    }

    /// Nothing but files and directories lies there: by links one file would be at as many places as anybody likes.
    pub(super) fn plain(&self) -> Result<(), VerifyError> {
        self.each_file(|_, _| Ok(()))
    }

    /// How many entries are gone, of so many: bundles that are not there, from the first on. Over what is gone the hashes lie:
    /// where they do not, no further bundle is looked for, or a huge size that somebody signed would take years.
    pub(super) fn gone(&self, size: u64) -> Result<u64, VerifyError> {
        let mut gone = 0;
        while let Some(tile) = Tile::entries(gone / WIDTH, size).filter(|tile| !tile.is_partial()) {
            if self.is_there(tile)? {
                break;
            }
            gone += WIDTH;
            if !self.is_there(tile.over_entries())? {
                break;
            }
        }
        Ok(gone)
    }

    fn is_there(&self, tile: Tile) -> Result<bool, VerifyError> {
        match self.dir.join(tile.path()).symlink_metadata() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed(&tile.path(), e)),
        }
    }

    /// Where the copy brings a key along, it is this one.
    pub(super) fn own_key(&self, vkey: &str) -> Result<(), VerifyError> {
        match self.take(VKEY, MAX_NOTE as u64) {
            Err(VerifyError::Missing(_)) => Ok(()),
            Ok(there) if there == format!("{vkey}\n").as_bytes() => Ok(()),
            Ok(_) => Err(VerifyError::Key),
            Err(e) => Err(e),
        }
    }

    /// The checkpoints that witnesses signed as well, as they lie beside the log.
    pub(super) fn witnessed(&self, vkey: &str) -> Result<Vec<Checkpoint>, VerifyError> {
        let mut all = Vec::new();
        self.each_in(WITNESS, |file, path, kind| {
            if kind.is_dir() {
                return Ok(());
            }
            let bytes = read(path, MAX_NOTE as u64).map_err(|source| self.failed(&file, source))?;
            let note = String::from_utf8(bytes).map_err(|_| NoteError::Form("it is no text"));
            let head = note.and_then(|note| Checkpoint::verify(&note, vkey));
            all.push(head.map_err(|source| VerifyError::Witness { file, source })?);
            Ok(())
        })?;
        Ok(all)
    }

    /// A tile of hashes must be this.
    pub(super) fn compare(&self, tile: Tile, expected: &[u8]) -> Result<(), VerifyError> {
        let file = tile.path();
        let bytes = self.take(&file, tile.limit())?;
        if bytes.len() != expected.len() {
            return Err(VerifyError::Length { file, expected: expected.len() as u64 });
        }
        let (is, must) = (layout::hashes_of(&bytes), layout::hashes_of(expected));
        let Some(at) = is.iter().zip(&must).position(|(is, must)| is != must) else { return Ok(()) };
        let first = tile.entry(at as u64);
        Err(match tile.is_over_entries() {
            true => VerifyError::Entry { index: first, bundle: tile.bundle().path(), tile: file },
            false => VerifyError::Tile { file, first },
        })
    }

    /// What was not read may be older forms of partial tiles, which a kill can leave, and nothing else.
    pub(super) fn rest(&self, size: u64) -> Result<(), VerifyError> {
        self.each_file(|dir, file| match file {
            CHECKPOINT | VKEY => Ok(()),
            _ if dir == WITNESS => Ok(()),
            _ => self.is_tile_of(file, size),
        })
    }

    /// Every file, by its directory and its path below the copy.
    fn each_file(
        &self,
        mut each: impl FnMut(&str, &str) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            self.each_in(&dir, |file, _, kind| {
                if kind.is_dir() {
                    dirs.push(file);
                    return Ok(());
                }
                if !kind.is_file() {
                    return Err(VerifyError::NoFile(file));
                }
                each(&dir, &file)
            })?;
        }
        Ok(())
    }

    /// The file is a tile that was read, or an older form of one.
    fn is_tile_of(&self, file: &str, size: u64) -> Result<(), VerifyError> {
        let extra = || VerifyError::Extra(file.to_owned());
        let tile = Tile::at(file).ok_or_else(extra)?;
        let present =
            tile.of_size(size).filter(|present| present.width() >= tile.width()).ok_or_else(extra)?;
        if present == tile {
            return Ok(());
        }
        let bytes = self.take(&present.path(), present.limit())?;
        let older = self.take(file, tile.limit())?;
        let (count, whole) = if tile.is_hashes() {
            let row = layout::hashes_of(&older);
            (row.len(), row.concat() == older)
        } else {
            let (bodies, whole) = layout::entries_of(&older);
            (bodies.len(), whole)
        };
        match whole && count as u64 == tile.width() && bytes.starts_with(&older) {
            true => Ok(()),
            false => Err(VerifyError::Older(file.to_owned())),
        }
    }

    /// What lies in a directory, by its path below the copy. One that is not there is empty, but for the copy itself.
    fn each_in(
        &self,
        dir: &str,
        mut each: impl FnMut(String, &Path, fs::FileType) -> Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        let path = self.dir.join(dir);
        let failed = |source| DiskError { what: "read", path: path.clone(), source };
        let items = match fs::read_dir(&path) {
            Err(e) if !dir.is_empty() && e.kind() == io::ErrorKind::NotFound => return Ok(()),
            items => items.map_err(failed)?,
        };
        for item in items {
            let item = item.map_err(failed)?;
            let name = item.file_name();
            let name = name.to_string_lossy();
            let file = if dir.is_empty() { name.into_owned() } else { format!("{dir}/{name}") };
            each(file, &item.path(), item.file_type().map_err(failed)?)?;
        }
        Ok(())
    }

    fn failed(&self, file: &str, source: io::Error) -> VerifyError {
        let path: PathBuf = self.dir.join(file);
        match source.kind() {
            io::ErrorKind::NotFound => VerifyError::Missing(file.to_owned()),
            _ if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                VerifyError::NoFile(file.to_owned())
            }
            io::ErrorKind::IsADirectory => VerifyError::NoFile(file.to_owned()),
            _ => DiskError { what: "read", path, source }.into(),
        }
    }
}

/// A plain file's bytes: nobody's link is followed, and no pipe waited for.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let there = file.metadata()?;
    if !there.is_file() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(there.len().min(limit)).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
