//! Staged copies of files: `ID.staged` beside the volume, put in its place in one rename.
//!
//! ```text
//!   absent ─ stage ─▶ ID.staged ─ take ─▶ exchanged with ID, in one step ─▶ ID.staged is what was: erased
//! ```

use super::{Staging, failed};
use crate::{
    config::StorageConfig,
    edge::{EdgeError, Key, Result},
    storage::{
        GIB, erase,
        qcow2_luks::{Qcow2Luks, STAGED, check},
        qemu_img, step, wrong_key,
    },
};
use holm_proto::ids::VolumeId;
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

fn staged(config: &StorageConfig, volume: VolumeId) -> PathBuf {
    config.volumes.join(format!("{volume}{STAGED}"))
}

impl Staging for Qcow2Luks {
    fn raw(&self, volume: VolumeId) -> Result<File> {
        File::open(self.complete(volume)?).map_err(|error| failed("read", volume, error))
    }

    fn stage(&self, volume: VolumeId, bytes: u64) -> Result<File> {
        self.drop_staged(volume)?;
        let directory = &self.config().volumes;
        let room = statvfs(directory).map_err(|error| failed("find room for", volume, error.into()))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        if free < bytes {
            return Err(EdgeError::new(format!(
                "a copy of volume `{volume}` takes {} GiB, and `{}` has {} GiB left: make room there",
                bytes.div_ceil(GIB),
                directory.display(),
                free / GIB
            )));
        }
        // Counted from now on by the file that is there.
        let promise = self.promise_copy(volume, bytes);
        let _promise = promise.map_err(|error| failed("stage", volume, error))?;
        let path = staged(self.config(), volume);
        let make = || -> io::Result<File> {
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            file.set_len(bytes)?;
            Ok(file)
        };
        make().map_err(|error| failed("stage", volume, error))
    }

    fn check_staged(&self, volume: VolumeId, _: bool, key: Option<&Key>) -> Result<&'static str> {
        let path = staged(self.config(), volume);
        check(&path)?;
        let Some(key) = key else { return Ok("sha-256, header") };
        let opens = qemu_img::opens(self.config(), &path, key);
        if !opens.map_err(|error| failed("open a copy of", volume, error))? {
            return Err(wrong_key(volume));
        }
        qemu_img::check(self.config(), &path, Some(key))
            .map_err(|error| failed("find whole a copy of", volume, error))?;
        Ok("sha-256, header, key, image")
    }

    fn take_staged(&self, volume: VolumeId, _: bool) -> Result<()> {
        let (path, done) = (staged(self.config(), volume), self.path(volume));
        let take = || -> io::Result<()> {
            match renameat_with(CWD, &path, CWD, &done, RenameFlags::EXCHANGE) {
                // There is no volume to take the place of.
                Err(error) if io::Error::from(error).kind() == ErrorKind::NotFound => {
                    fs::rename(&path, &done)?
                }
                outcome => outcome?,
            }
            step();
            self.sync_directory()
        };
        take().map_err(|error| failed("put a copy in the place of", volume, error))?;
        step();
        self.drop_staged(volume)
    }

    fn drop_staged(&self, volume: VolumeId) -> Result<()> {
        erase::erase(&staged(self.config(), volume), |_| Ok(()))
            .map(drop)
            .map_err(|error| failed("clear a copy of", volume, error))
    }
}
