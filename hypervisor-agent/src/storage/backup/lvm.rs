//! Staged copies of logical volumes: one beside the volume, under an id that no volume has, renamed into its place.
//!
//! ```text
//!   absent ─ stage ─▶ staged (holm.making) ─ take ─▶ staged, no tag that means partial
//!                          ID ─ rename ─▶ former; staged ─ rename ─▶ ID; former is erased
//! ```
//!
//! Cut off between the two renames there is no volume of its name: whoever stages or clears next puts the former back.

use super::{CHUNK_BYTES, Staging, failed};
use crate::{
    edge::{EdgeError, Key, Result, VolumeKind},
    storage::{
        Backend as _,
        lvm_luks2::{LvmLuks2, MAKING, crypt, damaged, header, read_head, tag},
        step, wrong_key,
    },
};
use holm_proto::ids::VolumeId;
use newtype_uuid::GenericUuid as _;
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    sync::PoisonError,
};
use zeroize::Zeroizing;

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
        let Some(old) = self.find(former(volume))? else { return Ok(()) };
        if self.find(volume)?.is_none() {
            tracing::warn!(%volume, "a restore was cut off in the middle: the volume of before is put back");
            return self
                .group
                .rename(former(volume), volume)
                .map_err(|error| failed("put back", volume, error));
        }
        self.wipe(former(volume), &old, |_| Ok(())).map(drop)
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

    /// Both are opened, and one is copied onto the other as it reads: all of it, whether it was ever written or not. The
    /// copy's header has an id of its own until the copy is whole.
    fn stage_anew(
        &self,
        volume: VolumeId,
        key: &Key,
        through: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<u64> {
        self.drop_staged(volume)?;
        let (found, to) = (self.complete(volume)?, staged(volume));
        let lacks = |error| failed("encrypt anew", volume, error);
        self.open(volume, key)?;
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
        let mut from = File::open(crypt::path(volume)).map_err(lacks)?;
        let mut into = File::options().write(true).open(crypt::path(to)).map_err(lacks)?;
        let chunk = usize::try_from(CHUNK_BYTES).map_err(|error| lacks(io::Error::other(error)))?;
        let mut chunk = Zeroizing::new(vec![0; chunk]);
        let mut done = 0;
        while done < total {
            through(done, total)?;
            let length = usize::try_from(total - done).map_or(chunk.len(), |left| left.min(chunk.len()));
            let piece = chunk.get_mut(..length).unwrap_or_default();
            from.read_exact(piece).and_then(|()| into.write_all(piece)).map_err(lacks)?;
            done = done.saturating_add(length as u64);
        }
        into.sync_all().map_err(lacks)?;
        step();
        drop((from, into));
        self.close(to)?;
        self.close(volume)?;
        step();
        crypt::belongs(&self.group.path(to), volume).map_err(lacks)?;
        step();
        through(total, total)?;
        Ok(total)
    }

    fn take_staged(&self, volume: VolumeId, root: bool) -> Result<()> {
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
        self.settle(volume)
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
