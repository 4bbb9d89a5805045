//! Staged copies of logical volumes: one beside the volume, under an id that no volume has, renamed into its place.
//!
//! ```text
//!   absent ─ stage ─▶ staged (holm.making) ─ take ─▶ staged, no tag that means partial
//!                          ID ─ rename ─▶ former; staged ─ rename ─▶ ID; former is erased
//! ```
//!
//! Cut off between the two renames there is no volume of its name: whoever stages or clears next puts the former back.

use super::{Staging, failed};
use crate::{
    edge::{EdgeError, Key, Result, VolumeKind},
    storage::{
        Backend as _, GIB, erase,
        lvm_luks2::{LvmLuks2, MAKING, crypt, damaged, header, read_head, tag},
        step, wrong_key,
    },
};
use holm_proto::ids::VolumeId;
use newtype_uuid::GenericUuid as _;
use rustix::fs::OFlags;
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::PoisonError,
};
use zeroize::Zeroizing;

/// So much is copied at once, and left out where it was never written.
const PIECE_BYTES: usize = 1 << 20;
/// What direct reads and writes lie at multiples of.
const SECTOR: usize = 4096;
/// A part in so many of a thin pool is left to the machines.
const LEFT_FREE: u64 = 20;

/// Volumes have ids of version 4. These are of none that `uuid` makes, and each belongs to one volume.
fn beside(volume: VolumeId, version: u8) -> VolumeId {
    let mut bytes = *volume.as_untyped_uuid().as_bytes();
    if let Some(byte) = bytes.get_mut(6) {
        *byte = (version << 4) | (*byte & 0x0f);
    }
    VolumeId::from_untyped_uuid(uuid::Uuid::from_bytes(bytes))
}

/// The id that a copy beside a volume has.
pub fn staged(volume: VolumeId) -> VolumeId {
    beside(volume, 8)
}

fn former(volume: VolumeId) -> VolumeId {
    beside(volume, 9)
}

impl LvmLuks2 {
    /// Makes good a rename that was cut off, and erases what was replaced.
    fn settle(&self, volume: VolumeId) -> Result<()> {
        self.put_back(volume)?;
        let Some(old) = self.find(former(volume))? else { return Ok(()) };
        self.wipe(former(volume), &old, |_| Ok(())).map(drop)
    }

    /// Makes good a rename that was cut off: whoever looks for the volume finds the one of before.
    pub(in crate::storage) fn put_back(&self, volume: VolumeId) -> Result<()> {
        if self.find(volume)?.is_some() || self.find(former(volume))?.is_none() {
            return Ok(());
        }
        tracing::warn!(%volume, "a copy was cut off from taking its place: the volume of before is put back");
        self.group.rename(former(volume), volume).map_err(|error| failed("put back", volume, error))
    }

    /// Copies what is there to read, opened, to the staged volume, opened. What was never written, and so reads as zeros
    /// without its key, is not written there either: from a thin pool that would be room that others have.
    fn copy_opened(
        &self,
        volume: VolumeId,
        total: u64,
        through: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let lacks = |error| failed("encrypt anew", volume, error);
        let open = |path: PathBuf, write: bool| {
            // What a tenant wrote is not for the host's memory.
            let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
            File::options().read(!write).write(write).custom_flags(direct).open(path)
        };
        let raw = open(self.group.path(volume), false).map_err(lacks)?;
        let from = open(crypt::path(volume), false).map_err(lacks)?;
        let into = open(crypt::path(staged(volume)), true).map_err(lacks)?;
        let (mut hidden, mut plain, zeros) = (Aligned::new(), Aligned::new(), vec![0; PIECE_BYTES]);
        let mut done = 0;
        while done < total {
            if done.is_multiple_of(GIB) {
                self.leaves_room(volume)?;
            }
            through(done, total)?;
            let length = usize::try_from(total - done).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let (hidden, plain) = (hidden.first(length), plain.first(length));
            raw.read_exact_at(hidden, header::DATA_OFFSET + done).map_err(lacks)?;
            if zeros.get(..length) != Some(&*hidden) {
                from.read_exact_at(plain, done)
                    .and_then(|()| into.write_all_at(plain, done))
                    .map_err(lacks)?;
            }
            done = done.saturating_add(length as u64);
        }
        into.sync_all().map_err(lacks)
    }

    /// Refuses to take the last of a thin pool from the machines that write to it.
    fn leaves_room(&self, volume: VolumeId) -> Result<()> {
        let room = self.group.room().map_err(|error| failed("find room for", volume, error))?;
        match room {
            Some(room) if room.free < room.bytes / LEFT_FREE => Err(EdgeError::new(format!(
                "the thin pool has {} of {} GiB left, data or tables: no disk is encrypted anew below a twentieth \
                 (`lvextend`)",
                room.free / GIB,
                room.bytes / GIB
            ))),
            _ => Ok(()),
        }
    }
}

/// Memory as direct reads and writes want it, cleared when it goes.
struct Aligned(Zeroizing<Vec<u8>>, usize);

impl Aligned {
    fn new() -> Self {
        let bytes = Zeroizing::new(vec![0; PIECE_BYTES + SECTOR]);
        let at = bytes.as_ptr().align_offset(SECTOR);
        Self(bytes, at)
    }

    fn first(&mut self, length: usize) -> &mut [u8] {
        self.0.get_mut(self.1..).and_then(|rest| rest.get_mut(..length)).unwrap_or_default()
    }
}

impl Staging for LvmLuks2 {
    fn raw(&self, volume: VolumeId) -> Result<File> {
        self.complete(volume)?;
        if self.mapping(volume)?.is_some() {
            self.close(volume)?;
        }
        File::open(self.group.path(volume)).map_err(|error| failed("read", volume, error))
    }

    fn stage(&self, volume: VolumeId, bytes: u64) -> Result<File> {
        self.drop_staged(volume)?;
        let lacks = |error| failed("stage", volume, error);
        {
            let _alone = self.promising.lock().unwrap_or_else(PoisonError::into_inner);
            let room = self.group.has_room(bytes);
            room.and_then(|()| self.group.make(staged(volume), bytes, &[MAKING])).map_err(lacks)?;
        }
        let path = self.group.path(staged(volume));
        File::options().read(true).write(true).open(path).map_err(lacks)
    }

    /// The image in a root volume is not opened: the kernel would have to, under a name of its own.
    fn check_staged(&self, volume: VolumeId, _: bool, key: Option<&Key>) -> Result<&'static str> {
        let path = self.group.path(staged(volume));
        let head = read_head(&path, header::BYTES as u64);
        let head = head.map_err(|error| failed("read the header of a copy of", volume, error))?;
        header::check(&head, volume).map_err(|fault| damaged(volume, fault))?;
        let Some(key) = key else { return Ok("sha-256, header") };
        if !crypt::opens(&path, key).map_err(|error| failed("open a copy of", volume, error))? {
            return Err(wrong_key(volume));
        }
        Ok("sha-256, header, key")
    }

    /// Both are opened, and one is copied onto the other as it reads. The copy's header has an id of its own until the copy
    /// is whole.
    fn stage_anew(
        &self,
        volume: VolumeId,
        _: Option<&Path>,
        key: &Key,
        through: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<u64> {
        let (found, to) = (self.complete(volume)?, staged(volume));
        let lacks = |error| failed("encrypt anew", volume, error);
        // One that is open is of a size of then.
        self.close(volume)?;
        self.leaves_room(volume)?;
        let copy = {
            let _alone = self.promising.lock().unwrap_or_else(PoisonError::into_inner);
            let room = self.group.has_room(found.bytes);
            room.and_then(|()| self.group.make(to, found.bytes, &[MAKING])).map_err(lacks)?
        };
        step();
        crypt::format(&self.group.path(to), to, key).map_err(lacks)?;
        step();
        self.map(to, &copy, key)?;
        step();
        let total = found.bytes.saturating_sub(header::DATA_OFFSET);
        self.map(volume, &found, key)?;
        step();
        let copied = self.copy_opened(volume, total, through);
        step();
        self.close(to)?;
        self.close(volume)?;
        copied?;
        step();
        let device = self.group.path(to);
        crypt::belongs(&device, volume).map_err(lacks)?;
        File::open(device).and_then(|file| file.sync_all()).map_err(lacks)?;
        step();
        through(total, total)?;
        Ok(total)
    }

    fn swap_staged(&self, volume: VolumeId, root: bool) -> Result<()> {
        let lacks = |error| failed("put a copy in the place of", volume, error);
        if self.find(staged(volume))?.is_none() {
            return Err(EdgeError::new(format!("nothing is staged for volume `{volume}`")));
        }
        self.close(volume)?;
        let kind = tag(if root { VolumeKind::Root } else { VolumeKind::Data });
        self.group.tag(staged(volume), &[kind], &[MAKING]).map_err(lacks)?;
        step();
        if self.find(volume)?.is_some() {
            self.group.rename(volume, former(volume)).map_err(lacks)?;
            step();
        }
        self.group.rename(staged(volume), volume).map_err(lacks)?;
        step();
        Ok(())
    }

    fn left_staged(&self) -> Result<BTreeSet<VolumeId>> {
        let all = self.group.all().map_err(|error| {
            EdgeError::because(format!("cannot ask LVM about volume group `{}`", self.group.name), error)
        })?;
        let of =
            |id: &VolumeId| [8, 9].contains(&id.as_untyped_uuid().get_version_num()).then(|| beside(*id, 4));
        Ok(all.iter().filter_map(of).collect())
    }

    fn overwrite_staged(&self, volume: VolumeId) -> Result<u64> {
        self.put_back(volume)?;
        let mut overwritten = 0_u64;
        for id in [former(volume), staged(volume)] {
            let Some(found) = self.find(id)? else { continue };
            self.close(id)?;
            let overwrite = || {
                if !found.active {
                    self.group.activate(id)?;
                }
                erase::overwrite_all(&self.group.path(id))
            };
            let bytes = overwrite().map_err(|error| failed("overwrite what was", volume, error))?;
            overwritten = overwritten.saturating_add(bytes);
            step();
        }
        Ok(overwritten)
    }

    fn drop_staged(&self, volume: VolumeId) -> Result<()> {
        self.settle(volume)?;
        match self.find(staged(volume))? {
            // Whatever its tag says, it is overwritten: it may hold a header that a key opens.
            Some(found) => {
                let mut found = found;
                found.tags.remove(MAKING);
                self.wipe(staged(volume), &found, |_| Ok(())).map(drop)
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_a_volume_has_an_id_of_its_own() {
        let volume: VolumeId = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap();
        assert_eq!(staged(volume).to_string(), "6f9619ff-8b86-8d01-b42d-00cf4fc964ff");
        assert_eq!(former(volume).to_string(), "6f9619ff-8b86-9d01-b42d-00cf4fc964ff");
    }
}
