//! Copies of volumes in a store: made while nothing uses the volume, fetched to an area beside it.
//!
//! ```text
//!   make:      raw bytes ─▶ chunks not there yet ─▶ … ─▶ manifest: from now on it is a backup
//!   restore:   manifest ─▶ each volume: stage ─▶ chunks, each checked ─▶ header checked
//!                                  all of them staged ─▶ each takes its volume's place
//!   drill:     the same, opened with the key instead, and each staged area erased before the next
//! ```
//!
//! What is copied is the volume as it lies, encrypted: where the key is destroyed all copies are noise. (On LVM without a
//! thin pool a part of it that was never written is what the drive held before: the operator erases it.) The bytes of a backup are known by the SHA-256 of its manifest,
//! which is remembered elsewhere, so that a store that changes, loses or rolls back anything is found out.
//!
//! A kill at any point leaves chunks without a manifest, or an area that is staged and no volume yet. Begun again, the
//! chunks that are there and whole are used and the area is thrown away. In the store nothing is named but ids:
//!
//! ```text
//!   BACKUP/manifest    JSON, see `manifest`
//!   BACKUP/SHA-256     a chunk of 16 MiB, the last one shorter; those of zeros alone are not kept
//! ```

mod lvm;
pub(super) use lvm::staged;
mod manifest;
mod qcow2;
mod store;
#[cfg(test)]
pub(super) mod tests;

use self::{
    manifest::{CHUNK_BYTES, Manifest, VERSION, VolumeCopy},
    store::Store,
};
use super::{Backend, step};
use crate::{
    config::{BackupConfig, StorageBackend, StorageConfig},
    edge::{Backup, EdgeError, Key, Keys, Made, Result, Watch},
};
use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::HEXLOWER;
use holm_proto::ids::{BackupId, VolumeId};
use rustix::{
    fs::{FallocateFlags, FileType, fallocate, fstat},
    io::Errno,
};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// What is written to try a store.
const PROBE: &[u8] = b"holm-agent check";

/// What a back end does beside its own volumes, so that they can be copied and copies tried.
pub trait Staging {
    /// The bytes of a complete volume as they lie, encrypted.
    fn raw(&self, volume: VolumeId) -> Result<File>;
    /// An area of `bytes` beside a volume, for a copy of it. What an earlier one left is thrown away.
    fn stage(&self, volume: VolumeId, bytes: u64) -> Result<File>;
    /// Refuses a staged copy whose header is not whole, and with a key one that it does not open. Says what was
    /// looked at.
    fn check_staged(&self, volume: VolumeId, root: bool, key: Option<&Key>) -> Result<&'static str>;
    /// A copy of what a volume holds, staged: opened by the same key, and encrypted under a data key that it never had. What
    /// lies beside it must be gone. `base` is the image that it lies over, if it does. `through` is told of the bytes, and of
    /// how many there are; its error ends it.
    fn stage_anew(
        &self,
        volume: VolumeId,
        base: Option<&Path>,
        key: &Key,
        through: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<u64>;
    /// The staged copy takes the place of the volume, which from then on lies beside it. Cut off, the volume is one or the
    /// other.
    fn swap_staged(&self, volume: VolumeId, root: bool) -> Result<()>;
    /// The staged copy takes the place of the volume, which is erased.
    fn take_staged(&self, volume: VolumeId, root: bool) -> Result<()> {
        self.swap_staged(volume, root)?;
        self.drop_staged(volume)
    }
    /// Volumes that something lies beside: staged, or what was there before.
    fn left_staged(&self) -> Result<BTreeSet<VolumeId>>;
    /// Overwrites all that lies beside a volume, which then is only to be dropped; how many bytes.
    fn overwrite_staged(&self, volume: VolumeId) -> Result<u64>;
    /// Erases what is staged. Nothing happens where nothing is.
    fn drop_staged(&self, volume: VolumeId) -> Result<()>;
}

/// The backups of a host's volumes.
#[derive(Debug)]
pub struct Backups {
    config: BackupConfig,
    storage: StorageConfig,
}

impl Backups {
    /// Those that the configuration names. Nothing is touched.
    pub fn new(config: BackupConfig, storage: StorageConfig) -> Result<Self> {
        config.check().map_err(EdgeError::new)?;
        Ok(Self { config, storage })
    }

    /// Where they go, in a word.
    pub fn place(&self) -> &'static str {
        if self.config.s3.is_some() { "s3" } else { "directory" }
    }

    /// Copies volumes that nothing uses. Those that have been copied by an earlier try are not copied again.
    pub fn make(&self, backend: &dyn Backend, wanted: &Backup, watch: &dyn Watch) -> Result<Made> {
        let store = Store::open(&self.config)?;
        let there = store.list(wanted.id)?;
        let mut all = Vec::new();
        for (volume, root) in &wanted.volumes {
            // One that is damaged is not a copy worth having, and the file is opened once.
            let file = backend.raw(*volume)?;
            let bytes = length(&file).map_err(|error| failed("read", *volume, error))?;
            all.push((*volume, *root, file, bytes));
        }
        let total = all.iter().map(|(.., bytes)| *bytes).sum();
        let mut through = Through { watch, done: 0, total };
        let (mut stored, mut volumes) = (0_u64, Vec::new());
        let zeros =
            vec![0; usize::try_from(CHUNK_BYTES).map_err(|_| EdgeError::new("chunks are too large"))?];
        for (volume, root, file, bytes) in all {
            let mut copy = VolumeCopy { volume, root, bytes, chunks: Vec::new() };
            for (index, length) in (0..).zip(copy.lengths()) {
                let chunk = read(&file, index, length).map_err(|error| failed("read", volume, error))?;
                if zeros.get(..length) != Some(&chunk) {
                    let name = HEXLOWER.encode(digest(&SHA256, &chunk).as_ref());
                    // What a store has damaged is not taken for a part of this one: older ones go for it.
                    let is_there = there.get(&name) == Some(&(length as u64))
                        && store.chunk(wanted.id, &name, length).is_ok();
                    if !is_there {
                        store.put(wanted.id, &name, chunk)?;
                        step();
                    }
                    copy.chunks.push((index, name));
                    stored = stored.saturating_add(length as u64);
                }
                through.more(length)?;
            }
            volumes.push(copy);
        }
        let base_sha256 =
            wanted.volumes.iter().any(|(_, root)| *root).then(|| self.base(wanted)).transpose()?;
        let manifest = Manifest {
            version: VERSION,
            backup: wanted.id,
            backend: self.backend().to_owned(),
            chunk_bytes: CHUNK_BYTES,
            base_sha256,
            volumes,
        };
        let bytes = manifest.write()?;
        let sha256 = HEXLOWER.encode(digest(&SHA256, &bytes).as_ref());
        stored = stored.saturating_add(bytes.len() as u64);
        store.put(wanted.id, manifest::NAME, bytes)?;
        step();
        // What an earlier try left of what the disks were then: under other keys, maybe.
        let chunks = manifest.volumes.iter().flat_map(|copy| &copy.chunks).map(|(_, name)| name.as_str());
        let named: BTreeSet<&str> = chunks.chain([manifest::NAME]).collect();
        store.delete(wanted.id, there.into_keys().filter(|name| !named.contains(name.as_str())))?;
        step();
        Ok(Made { manifest_sha256: sha256, bytes: total, stored_bytes: stored })
    }

    /// Makes volumes what they were. Each stays as it is until all of them are fetched and found whole.
    pub fn restore(&self, backend: &dyn Backend, wanted: &Backup, watch: &dyn Watch) -> Result<u64> {
        let outcome = self.fetch(wanted, watch, |store, copy, through| {
            self.stage(store, backend, wanted.id, copy, through)?;
            backend.check_staged(copy.volume, copy.root, None).map(drop)
        });
        let taken = outcome.and_then(|(manifest, total)| {
            step();
            for (number, copy) in manifest.volumes.iter().enumerate() {
                // It took its time: the slice may be on hold by now, or holmd away, which would have said so.
                if !watch.is_wanted() {
                    return Err(EdgeError::new(format!(
                        "it is not known whether holmd wants it still: of {} disks {number} were put back",
                        manifest.volumes.len()
                    )));
                }
                backend.take_staged(copy.volume, copy.root)?;
            }
            Ok(total)
        });
        if taken.is_err() {
            self.clear(backend, wanted);
        }
        taken
    }

    /// Tries whether volumes could be restored, and opens each with its key. What was looked at, and the bytes of it.
    pub fn drill(
        &self,
        backend: &dyn Backend,
        wanted: &Backup,
        keys: &Keys,
        watch: &dyn Watch,
    ) -> Result<(&'static str, u64)> {
        let mut looked = "";
        let outcome = self.fetch(wanted, watch, |store, copy, through| {
            let none = || EdgeError::new(format!("the key of volume `{}` is not here", copy.volume));
            let key = keys.get(&copy.volume).ok_or_else(none)?;
            self.stage(store, backend, wanted.id, copy, through)?;
            looked = backend.check_staged(copy.volume, copy.root, Some(key))?;
            step();
            backend.drop_staged(copy.volume)
        });
        if outcome.is_err() {
            self.clear(backend, wanted);
        }
        Ok((looked, outcome?.1))
    }

    /// What keeps this host from having backups: something is written to the store, read again and removed.
    pub fn lacks(&self) -> Vec<String> {
        let probe = BackupId::new_v4();
        let tried = Store::open(&self.config).and_then(|store| {
            let name = HEXLOWER.encode(digest(&SHA256, PROBE).as_ref());
            store.put(probe, &name, PROBE.to_vec())?;
            let read = store.chunk(probe, &name, PROBE.len()).map(drop);
            store.remove(probe)?;
            read
        });
        tried.err().map(|error| error.chain()).into_iter().collect()
    }

    /// Removes a backup from the store, whole or not. One that is not there is removed.
    pub fn remove(&self, backup: BackupId) -> Result<()> {
        Store::open(&self.config)?.remove(backup)
    }

    /// Reads the manifest and has each volume fetched.
    fn fetch(
        &self,
        wanted: &Backup,
        watch: &dyn Watch,
        mut each: impl FnMut(&Store, &VolumeCopy, &mut Through<'_>) -> Result<()>,
    ) -> Result<(Manifest, u64)> {
        let store = Store::open(&self.config)?;
        let manifest = Manifest::read(&store.manifest(wanted.id)?, wanted)?;
        if manifest.backend != self.backend() {
            return Err(EdgeError::new(format!(
                "backup `{}` is of volumes that `{}` keeps, and this host has `{}`",
                wanted.id,
                manifest.backend,
                self.backend()
            )));
        }
        let over_base = manifest.base_sha256.is_some() && wanted.volumes.iter().any(|(_, root)| *root);
        if over_base && manifest.base_sha256 != Some(self.base(wanted)?) {
            return Err(EdgeError::new(format!(
                "backup `{}` lies over another base image than `{}`: put back the image of that time",
                wanted.id,
                self.storage.base_image.display()
            )));
        }
        let total = manifest.volumes.iter().map(|copy| copy.bytes).sum();
        let mut through = Through { watch, done: 0, total };
        for copy in &manifest.volumes {
            each(&store, copy, &mut through)?;
        }
        Ok((manifest, total))
    }

    /// Fetches one volume to an area beside it. Each chunk is what the manifest says or nothing is.
    fn stage(
        &self,
        store: &Store,
        backend: &dyn Backend,
        backup: BackupId,
        copy: &VolumeCopy,
        through: &mut Through<'_>,
    ) -> Result<()> {
        let volume = copy.volume;
        let file = backend.stage(volume, copy.bytes)?;
        step();
        let lacks = |error| failed("write a copy of", volume, error);
        let device = FileType::from_raw_mode(fstat(&file).map_err(|e| lacks(e.into()))?.st_mode)
            == FileType::BlockDevice;
        let mut kept = copy.chunks.iter().peekable();
        for (index, length) in (0..).zip(copy.lengths()) {
            let at = index * CHUNK_BYTES;
            match kept.next_if(|(kept, _)| *kept == index) {
                Some((_, name)) => {
                    let chunk = store.chunk(backup, name, length)?;
                    file.write_all_at(&chunk, at).map_err(lacks)?;
                }
                // A new file is empty there; a device holds what somebody left.
                None if device => zero(&file, at, length as u64).map_err(lacks)?,
                None => {}
            }
            through.more(length)?;
        }
        file.sync_all().map_err(lacks)?;
        step();
        Ok(())
    }

    fn clear(&self, backend: &dyn Backend, wanted: &Backup) {
        for (volume, _) in &wanted.volumes {
            if let Err(error) = backend.drop_staged(*volume) {
                tracing::warn!(%volume, "a copy that was fetched stays for now: {}", error.chain());
            }
        }
    }

    fn backend(&self) -> &'static str {
        match self.storage.backend {
            StorageBackend::Qcow2Luks => "qcow2-luks",
            StorageBackend::LvmLuks2 => "lvm-luks2",
        }
    }

    /// SHA-256 of the base image that the root volume lies over.
    fn base(&self, of: &Backup) -> Result<String> {
        let path = of.base.as_ref().unwrap_or(&self.storage.base_image);
        sha256(path).map_err(|error| {
            EdgeError::because(format!("cannot read the base image `{}`", path.display()), error)
        })
    }
}

/// How far it is, told as it goes.
struct Through<'a> {
    watch: &'a dyn Watch,
    done: u64,
    total: u64,
}

impl Through<'_> {
    fn more(&mut self, bytes: usize) -> Result<()> {
        self.done = self.done.saturating_add(bytes as u64);
        if self.watch.through(self.done, self.total) {
            return Ok(());
        }
        Err(EdgeError::new("it was given up: nobody wants it any more"))
    }
}

fn read(file: &File, index: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; length];
    file.read_exact_at(&mut chunk, index * CHUNK_BYTES)?;
    Ok(chunk)
}

/// Of a file or a block device.
fn length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Makes a stretch of a block device read as zeros, by the drive where it can.
fn zero(file: &File, at: u64, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, at, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => {
            file.write_all_at(&vec![0; usize::try_from(length).map_err(io::Error::other)?], at)
        }
        Err(error) => Err(error.into()),
    }
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let (mut context, mut piece) = (Context::new(&SHA256), vec![0; 1 << 20]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(HEXLOWER.encode(context.finish().as_ref())),
            length => context.update(piece.get(..length).unwrap_or_default()),
        }
    }
}

fn failed(doing: &str, volume: VolumeId, error: io::Error) -> EdgeError {
    EdgeError::because(format!("cannot {doing} volume `{volume}`"), error)
}
