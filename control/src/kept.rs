//! Small files that holmd keeps beside the log: where it was in something. Whole or not there, durable when it is said.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What is in a small file; `None` where there is none.
pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
    }
}

/// How far somebody is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// The first entry that is not through.
    pub(crate) next: u64,
}

impl Place {
    /// As it was kept; who is new begins at `new`. Where that is beyond the log, which was restored from a copy, at its end.
    pub(crate) fn open(path: &Path, size: u64, new: u64) -> io::Result<Self> {
        let next = read::<Self>(path)?.map_or(new, |place| place.next);
        Ok(Self { next: next.min(size) })
    }
}

/// Where somebody goes on who is here, of a log that is kept from `first` on. That she missed something is said.
pub(crate) fn kept(next: u64, first: u64, who: &str) -> u64 {
    if next < first {
        tracing::warn!(
            "{who} has not seen entries {next} to {}, and they are gone: it goes on after them",
            first - 1
        );
    }
    next.max(first)
}

/// Gone, or not there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The whole of it or what was there before, durable when it returns.
pub(crate) fn write<T: Serialize>(path: &Path, what: &T) -> io::Result<()> {
    write_bytes(path, &serde_json::to_vec(what)?)
}

/// The same, as it is.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(directory)?.sync_all()
}
