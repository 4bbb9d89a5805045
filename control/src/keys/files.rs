//! Small files that are whole or not there, and gone when they are destroyed.
//!
//! ```text
//!   write_new   ID.new written, synced ─▶ linked to ID ─▶ ID.new unlinked
//!   shred       ID renamed to ID.old ─▶ overwritten, unlinked
//!   replace     ID.new written, synced ─▶ ID linked to ID.old ─▶ ID.new renamed over ID ─▶ ID.old overwritten, unlinked
//! ```
//!
//! A kill between any two leaves ID whole, old or new, and perhaps a neighbour that [`sweep`] takes away.

use super::KeyError;
use aws_lc_rs::rand::fill;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// No file of keys is larger, bytes.
pub(super) const MOST: u64 = 4096;

const NEW: &str = "new";
const OLD: &str = "old";

/// The path with one more ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(ending);
    name.into()
}

/// What is in the file; `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
    let failed = |e| KeyError::because(format!("`{}` cannot be read", path.display()), e);
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let most = usize::try_from(MOST).unwrap_or(usize::MAX);
    // With its whole room from the start: one that grows leaves pieces of itself behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(most.saturating_add(1)));
    file.take(MOST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(KeyError::new(format!(
            "`{}` is too large for a key: restore it from a copy",
            path.display()
        )));
    }
    Ok(Some(bytes))
}

/// A whole new file or none, durable when it returns. Refuses one that exists: a key is never overwritten by another.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    sweep(path)?;
    let new = write_beside(path, bytes)?;
    step(path)?;
    // hard_link refuses where rename would replace.
    let linked = fs::hard_link(&new, path);
    step(path)?;
    fs::remove_file(&new)?;
    linked?;
    sync_parent(path)
}

/// Put other bytes into a file that exists, and destroy what was in it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    sweep(path)?;
    let (new, old) = (write_beside(path, bytes)?, beside(path, OLD));
    step(path)?;
    fs::hard_link(path, &old)?;
    step(path)?;
    fs::rename(&new, path)?;
    sync_parent(path)?;
    destroy(&old)
}

/// Put a file that exists in the place of another, and destroy what was there.
pub(super) fn take_place(from: &Path, path: &Path) -> io::Result<()> {
    sweep(path)?;
    let old = beside(path, OLD);
    step(path)?;
    fs::hard_link(path, &old)?;
    step(path)?;
    fs::rename(from, path)?;
    sync_parent(path)?;
    destroy(&old)
}

/// Destroy the file and what a kill left beside it. Nothing happens where there is no file.
pub(super) fn shred(path: &Path) -> Result<(), KeyError> {
    let done = || -> io::Result<()> {
        sweep(path)?;
        step(path)?;
        // Away from its name first: half destroyed under it, it would be a key that does not open.
        let old = beside(path, OLD);
        match fs::rename(path, &old) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        sync_parent(path)?;
        destroy(&old)
    };
    done().map_err(|e| {
        KeyError::because(format!("the wrapped key `{}` cannot be destroyed", path.display()), e)
    })
}

/// Take away what a kill left beside this file.
pub(super) fn sweep(path: &Path) -> io::Result<()> {
    let of = |path: &Path| match fs::metadata(path) {
        Ok(meta) => Ok(Some(meta.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    for ending in [NEW, OLD] {
        let left = beside(path, ending);
        match of(&left)? {
            None => {}
            // Another name of the very file: overwriting it would destroy what is in use.
            same if same == of(path)? => {
                step(path)?;
                fs::remove_file(&left)?;
                sync_parent(path)?;
            }
            Some(_) => destroy(&left)?,
        }
    }
    Ok(())
}

/// Take away everything that a kill left in a directory.
pub(super) fn sweep_all(dir: &Path) -> Result<(), KeyError> {
    let fail = |e| KeyError::because(format!("the key directory `{}` cannot be tidied", dir.display()), e);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|ending| ending == NEW || ending == OLD) {
            sweep(&path.with_extension("")).map_err(fail)?;
        }
    }
    Ok(())
}

/// The ids that name the files in a directory.
pub(super) fn ids(dir: &Path) -> Result<Vec<uuid::Uuid>, KeyError> {
    let fail = |e| KeyError::because(format!("the key directory `{}` cannot be read", dir.display()), e);
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        ids.extend(name.to_str().and_then(|n| n.parse::<uuid::Uuid>().ok()));
    }
    ids.sort();
    Ok(ids)
}

/// The numbers N of the files `STEM.N` in a directory.
pub(super) fn numbered(dir: &Path, stem: &str) -> Result<Vec<u32>, KeyError> {
    let fail = |e| KeyError::because(format!("the key directory `{}` cannot be read", dir.display()), e);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let number = |name: &str| name.strip_prefix(stem)?.strip_prefix('.')?.parse::<u32>().ok();
        // As it is written, and no other way: `kek.02` is nobody's.
        let written = |number: &u32| name.to_str() == Some(&format!("{stem}.{number}"));
        numbers.extend(name.to_str().and_then(number).filter(written));
    }
    Ok(numbers)
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    let new = beside(path, NEW);
    step(path)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    step(path)?;
    file.write_all(bytes)?;
    step(path)?;
    file.sync_all()?;
    Ok(new)
}

/// Overwrite, sync, unlink, sync.
fn destroy(path: &Path) -> io::Result<()> {
    step(path)?;
    let mut file = match OpenOptions::new().write(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(4096).clamp(64, 4096);
    let mut noise = vec![0; length];
    fill(&mut noise).map_err(|_| io::Error::other("no random numbers to be had"))?;
    file.write_all(&noise)?;
    file.sync_all()?;
    step(path)?;
    fs::remove_file(path)?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    step(path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(not(test))]
#[allow(clippy::unnecessary_wraps, reason = "in tests it fails")]
fn step(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Where a test kills whoever writes below a directory: after so many steps, for good.
#[cfg(test)]
use kill::step;

#[cfg(test)]
pub(super) mod kill {
    use std::collections::BTreeMap;
    use std::io;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    static LEFT: Mutex<BTreeMap<PathBuf, usize>> = Mutex::new(BTreeMap::new());

    pub(crate) fn after(dir: &Path, steps: usize) {
        LEFT.lock().unwrap().insert(dir.to_path_buf(), steps);
    }

    /// Whether it came to that; from now on nothing is killed there.
    pub(crate) fn happened(dir: &Path) -> bool {
        LEFT.lock().unwrap().remove(dir) == Some(0)
    }

    pub(crate) fn step(path: &Path) -> io::Result<()> {
        let mut all = LEFT.lock().unwrap();
        let Some((_, left)) = all.iter_mut().find(|(dir, _)| path.starts_with(dir)) else { return Ok(()) };
        *left = left.saturating_sub(1);
        if *left == 0 { Err(io::Error::other("killed")) } else { Ok(()) }
    }
}
