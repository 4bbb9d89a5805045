//! Files of a log: each is wholly there, durable, or not there at all. A file is written beside its
//! place, synced and renamed into it, so that nothing that a checkpoint refers to is ever half of one.
//! The journal alone, which lies beside the directory, is written in place.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;

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

/// Files that are written at the same time.
const WRITERS: usize = 16;

/// The directory of a log. While this lives no other process, and no other part of this one, writes it.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    handle: File,
    /// Directories whose own entry in their parent is known to be durable.
    durable: Mutex<BTreeSet<PathBuf>>,
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
            durable: Mutex::default(),
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

    /// Write files, many at a time where there are many: to wait for each by itself would take as long as all appends did
    /// that they are from.
    pub(super) fn write_all(&self, files: &[(String, &[u8])]) -> Result<(), DiskError> {
        let each =
            |files: &[(String, &[u8])]| files.iter().try_for_each(|(file, bytes)| self.write(file, bytes));
        if files.len() <= WRITERS {
            return each(files);
        }
        std::thread::scope(|scope| {
            let part = files.len().div_ceil(WRITERS);
            let spawn = |part| std::thread::Builder::new().spawn_scoped(scope, move || each(part));
            let writers: Vec<_> = files.chunks(part).map(spawn).collect();
            let panicked = |_| Err(self.failed("write", io::Error::other("a writer panicked")));
            // All are waited for, whatever the first of them says.
            let ended = |writer: io::Result<ScopedJoinHandle<'_, _>>| match writer {
                Ok(writer) => writer.join().unwrap_or_else(panicked),
                Err(none) => Err(self.failed("write", none)),
            };
            writers.into_iter().map(ended).collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// Make it durable that these files are where they are.
    pub(super) fn sync_above<'a>(&self, files: impl Iterator<Item = &'a str>) -> Result<(), DiskError> {
        let mut dirs = BTreeSet::new();
        let mut news = BTreeSet::new();
        let durable = self.durable().clone();
        for file in files {
            dirs.extend(Path::new(file).parent().map(Path::to_path_buf));
            for dir in Path::new(file).ancestors().skip(1).filter(|dir| !durable.contains(*dir)) {
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
        self.durable().extend(news);
        Ok(())
    }

    /// Make durable what lies in the log's own directory.
    pub(super) fn sync_root(&self) -> Result<(), DiskError> {
        self.act("sync", &self.root, || self.handle.sync_all())
    }

    /// Remove what is in a directory but for the files in `keep`, and the directory with the last of
    /// it. Not durable; nothing there was any use.
    pub(super) fn sweep(&self, dir: &str, keep: &BTreeSet<String>) -> Result<(), DiskError> {
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
            self.durable().remove(Path::new(dir));
        }
        Ok(())
    }

    /// What lies beside the directory, under its name with more to it.
    pub(super) fn path_beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.root.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        self.root.with_file_name(name)
    }

    /// The bytes of a file beside the directory, where there is one.
    pub(super) fn read_beside(&self, suffix: &str, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
        match read_at(self.path_beside(suffix), limit) {
            Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// A file beside the directory, to be written in place. Where there is none of this length, one of zeroes takes its
    /// place.
    pub(super) fn beside(&self, suffix: &str, length: u64) -> Result<File, DiskError> {
        let path = self.path_beside(suffix);
        if !path.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == length) {
            let new = self.path_beside(&format!("{suffix}.new"));
            let out = self.act("write", &new, || {
                let mut out =
                    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
                io::copy(&mut io::repeat(0).take(length), &mut out)?;
                Ok(out)
            })?;
            self.act("sync", &new, || out.sync_all())?;
            self.act("rename", &new, || fs::rename(&new, &path))?;
            self.act("sync", path.parent().unwrap_or(&path), || sync_parent(&path))?;
        }
        self.act("open", &path, || OpenOptions::new().write(true).open(&path))
    }

    fn durable(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> DiskError {
        DiskError { what, path: self.root.clone(), source }
    }

    /// One operation: the only place where this directory changes.
    pub(super) fn act<T>(
        &self,
        what: &'static str,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, DiskError> {
        #[cfg(test)]
        let shown =
            path.strip_prefix(&self.root).or_else(|_| path.strip_prefix(self.root.parent().unwrap_or(path)));
        #[cfg(test)]
        let act = || self.faults.around(what, shown.unwrap_or(path), act);
        act().map_err(|source| DiskError { what, path: path.to_path_buf(), source })
    }
}

/// A file's bytes. One that is longer than `limit` is cut off one byte after it.
pub(super) fn read(root: &Path, file: &str, limit: u64) -> Result<Vec<u8>, DiskError> {
    read_at(root.join(file), limit)
}

fn read_at(path: PathBuf, limit: u64) -> Result<Vec<u8>, DiskError> {
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

/// What tests do to a disk: write down each operation, let one fail, keep it busy.
#[cfg(test)]
pub(crate) mod faults {
    use std::fmt;
    use std::io;
    use std::path::Path;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    /// Where the operation fails.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum When {
        Before,
        After,
    }

    /// Copies are of the same disk.
    #[derive(Debug, Clone, Default)]
    pub struct Faults(Arc<Mutex<Plan>>);

    #[derive(Default)]
    struct Plan {
        done: Vec<String>,
        fail: Option<(usize, When)>,
        panic: bool,
        refuse: Option<&'static str>,
        seen: Option<Seen>,
    }

    type Seen = Box<dyn FnMut(&str) + Send>;

    impl fmt::Debug for Plan {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Plan").field("done", &self.done).field("fail", &self.fail).finish_non_exhaustive()
        }
    }

    /// While this lives the disk does nothing.
    pub struct Busy<'a>(MutexGuard<'a, Plan>);

    impl Busy<'_> {
        /// When it is no more busy, it fails.
        pub fn fail(&mut self) {
            self.0.fail = Some((0, When::Before));
            self.0.done.clear();
        }
    }

    impl Faults {
        /// Forget the operations so far; of those to come, let this and all later ones fail.
        pub fn plan(&self, fail: Option<(usize, When)>) {
            *self.lock() = Plan { fail, ..Plan::default() };
        }

        /// The next one panics.
        pub fn panic(&self) {
            self.lock().panic = true;
        }

        /// Operations fail that have this in their name.
        pub fn refuse(&self, part: Option<&'static str>) {
            self.lock().refuse = part;
        }

        /// Is told each operation, when it is done.
        pub fn see(&self, seen: impl FnMut(&str) + Send + 'static) {
            self.lock().seen = Some(Box::new(seen));
        }

        pub fn busy(&self) -> Busy<'_> {
            Busy(self.lock())
        }

        /// Operations that were done since.
        pub fn done(&self) -> Vec<String> {
            self.lock().done.clone()
        }

        fn lock(&self) -> MutexGuard<'_, Plan> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        pub fn around<T>(
            &self,
            what: &str,
            path: &Path,
            act: impl FnOnce() -> io::Result<T>,
        ) -> io::Result<T> {
            let mut plan = self.lock();
            assert!(!std::mem::take(&mut plan.panic), "what a disk asserts");
            let killed = || Err(io::Error::other("killed"));
            if plan.refuse.is_some_and(|part| path.to_string_lossy().contains(part)) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            match plan.fail {
                Some((at, _)) if plan.done.len() > at => return killed(),
                Some((at, When::Before)) if plan.done.len() == at => return killed(),
                _ => {}
            }
            let done = act()?;
            let path = if path == Path::new("") { Path::new(".") } else { path };
            let operation = format!("{what} {}", path.display());
            if let Some(seen) = &mut plan.seen {
                seen(&operation);
            }
            plan.done.push(operation);
            match plan.fail {
                Some((at, When::After)) if plan.done.len() == at + 1 => killed(),
                _ => Ok(done),
            }
        }
    }
}
