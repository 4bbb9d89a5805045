//! Files of a log: each is wholly there, durable, or not there at all. A file is written beside its
//! place, synced and renamed into it, so that nothing that a checkpoint refers to is ever half of one.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the disk said.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} `{path}`")]
pub struct DiskError {
    /// What was tried.
    pub what: &'static str,
    /// With which file or directory.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// The directory of a log. While this lives no other process, and no other part of this one, writes it.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    handle: File,
    /// Directories whose own entry in their parent is known to be durable.
    durable: BTreeSet<PathBuf>,
    #[cfg(test)]
    pub(super) faults: faults::Faults,
}

impl Drop for Disk {
    /// By itself the lock would outlive this for a moment: whoever begins a program gives it a copy of every open file until
    /// it is that program.
    fn drop(&mut self) {
        if let Err(e) = self.handle.unlock() {
            tracing::warn!("the lock of `{}` is not given back: {e}", self.root.display());
        }
    }
}

impl Disk {
    /// Take a directory for writing. What a kill left in it unsynced is made durable first, before
    /// anything is built on it.
    pub(super) fn open(root: &Path) -> Result<Self, DiskError> {
        let failed = |source| DiskError { what: "open", path: root.to_path_buf(), source };
        let handle = File::open(root).map_err(failed)?;
        handle.try_lock().map_err(|e| match e {
            fs::TryLockError::WouldBlock => failed(io::Error::other("another process has it open")),
            fs::TryLockError::Error(e) => failed(e),
        })?;
        handle.sync_all().map_err(failed)?;
        Ok(Self {
            root: root.to_path_buf(),
            handle,
            durable: BTreeSet::new(),
            #[cfg(test)]
            faults: faults::Faults::default(),
        })
    }

    /// Make a directory where there is none, for the owner's eyes only, and take it.
    pub(super) fn create(root: &Path) -> Result<Self, DiskError> {
        let failed = |source| DiskError { what: "make", path: root.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        sync_parent(root).map_err(failed)?;
        Self::open(root)
    }

    /// Where a file lies.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// Something of this name is there.
    pub(super) fn has(&self, file: &str) -> bool {
        self.path(file).symlink_metadata().is_ok()
    }

    /// A file's bytes. One that is longer than `limit` is cut off one byte after it.
    pub(super) fn read(&self, file: &str, limit: u64) -> Result<Vec<u8>, DiskError> {
        read(&self.root, file, limit)
    }

    /// Write a file and sync it. Its directories are synced by [`Self::sync_above`].
    pub(super) fn write(&self, file: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let (path, beside) = (self.path(file), self.path(&format!("{file}.new")));
        if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
            self.act("make", dir, || DirBuilder::new().recursive(true).mode(0o700).create(dir))?;
        }
        let out = self.act("write", &beside, || {
            let mut out =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            out.write_all(bytes)?;
            Ok(out)
        })?;
        self.act("sync", &beside, || out.sync_all())?;
        self.act("rename", &beside, || fs::rename(&beside, &path))
    }

    /// Make it durable that these files are where they are.
    pub(super) fn sync_above<'a>(&mut self, files: impl Iterator<Item = &'a str>) -> Result<(), DiskError> {
        let mut dirs = BTreeSet::new();
        let mut news = BTreeSet::new();
        for file in files {
            dirs.extend(Path::new(file).parent().map(Path::to_path_buf));
            for dir in Path::new(file).ancestors().skip(1).filter(|dir| !self.durable.contains(*dir)) {
                if let Some(parent) = dir.parent() {
                    dirs.insert(parent.to_path_buf());
                    news.insert(dir.to_path_buf());
                }
            }
        }
        // From the leaves up: a directory is found only when all that is in it is there.
        for dir in dirs.iter().rev() {
            let path = self.root.join(dir);
            self.act("sync", &path, || File::open(&path)?.sync_all())?;
        }
        self.durable.extend(news);
        Ok(())
    }

    /// Make durable what lies in the log's own directory.
    pub(super) fn sync_root(&self) -> Result<(), DiskError> {
        self.act("sync", &self.root, || self.handle.sync_all())
    }

    /// Remove what is in a directory but for the files in `keep`, and the directory with the last of
    /// it. Not durable; nothing there was any use.
    pub(super) fn sweep(&mut self, dir: &str, keep: &BTreeSet<String>) -> Result<(), DiskError> {
        let path = self.path(dir);
        let names = match fs::read_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names.map_err(|source| DiskError { what: "read", path: path.clone(), source })?,
        };
        let mut kept = false;
        for name in names {
            let name = name.map_err(|source| DiskError { what: "read", path: path.clone(), source })?;
            if keep.contains(&format!("{dir}/{}", name.file_name().to_string_lossy())) {
                kept = true;
            } else {
                self.act("remove", &name.path(), || fs::remove_file(name.path()))?;
            }
        }
        if !kept {
            self.act("remove", &path, || fs::remove_dir(&path))?;
            self.durable.remove(Path::new(dir));
        }
        Ok(())
    }

    /// One operation: the only place where this directory changes.
    fn act<T>(
        &self,
        what: &'static str,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, DiskError> {
        #[cfg(test)]
        let act = || self.faults.around(what, path.strip_prefix(&self.root).unwrap_or(path), act);
        act().map_err(|source| DiskError { what, path: path.to_path_buf(), source })
    }
}

/// A file's bytes. One that is longer than `limit` is cut off one byte after it.
pub(super) fn read(root: &Path, file: &str, limit: u64) -> Result<Vec<u8>, DiskError> {
    let path = root.join(file);
    let mut bytes = Vec::new();
    let result = File::open(&path).and_then(|f| f.take(limit.saturating_add(1)).read_to_end(&mut bytes));
    match result {
        Ok(_) => Ok(bytes),
        Err(source) => Err(DiskError { what: "read", path, source }),
    }
}

/// A new file for the owner's eyes only, durable with its place in the directory. Refuses one that exists.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
    if written.is_err() {
        // Half a file would be in the way of the next try.
        let _ = fs::remove_file(path);
    }
    written
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if dir == Path::new("") => File::open(".")?.sync_all(),
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// What tests do to a disk: write down each operation, and let one fail.
#[cfg(test)]
pub(super) mod faults {
    use std::io;
    use std::path::Path;
    use std::sync::Mutex;

    /// Where the operation fails.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum When {
        Before,
        After,
    }

    #[derive(Debug, Default)]
    pub struct Faults(Mutex<Plan>);

    #[derive(Debug, Default)]
    struct Plan {
        done: Vec<String>,
        fail: Option<(usize, When)>,
    }

    impl Faults {
        /// Forget the operations so far; of those to come, let this and all later ones fail.
        pub fn plan(&self, fail: Option<(usize, When)>) {
            *self.0.lock().unwrap() = Plan { done: Vec::new(), fail };
        }

        /// Operations that were done since.
        pub fn done(&self) -> Vec<String> {
            self.0.lock().unwrap().done.clone()
        }

        pub fn around<T>(
            &self,
            what: &str,
            path: &Path,
            act: impl FnOnce() -> io::Result<T>,
        ) -> io::Result<T> {
            let mut plan = self.0.lock().unwrap();
            let killed = || Err(io::Error::other("killed"));
            match plan.fail {
                Some((at, _)) if plan.done.len() > at => return killed(),
                Some((at, When::Before)) if plan.done.len() == at => return killed(),
                _ => {}
            }
            let done = act()?;
            let path = if path == Path::new("") { Path::new(".") } else { path };
            plan.done.push(format!("{what} {}", path.display()));
            match plan.fail {
                Some((at, When::After)) if plan.done.len() == at + 1 => killed(),
                _ => Ok(done),
            }
        }
    }
}
