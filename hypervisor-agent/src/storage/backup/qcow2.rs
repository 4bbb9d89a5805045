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
        qcow2_luks::{Promise, Qcow2Luks, STAGED, check, taken},
        qemu_img, step, wrong_key,
    },
};
use holm_proto::ids::VolumeId;
use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use std::{
    collections::BTreeSet,
    fs::{self, File, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

fn staged(config: &StorageConfig, volume: VolumeId) -> PathBuf {
    config.volumes.join(format!("{volume}{STAGED}"))
}

impl Qcow2Luks {
    /// Room for a copy of `bytes` beside a volume.
    fn room_beside(&self, volume: VolumeId, bytes: u64) -> Result<Promise<'_>> {
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
        self.promise_copy(volume, bytes).map_err(|error| failed("stage", volume, error))
    }
}

impl Staging for Qcow2Luks {
    fn raw(&self, volume: VolumeId) -> Result<File> {
        File::open(self.complete(volume)?).map_err(|error| failed("read", volume, error))
    }

    fn stage(&self, volume: VolumeId, bytes: u64) -> Result<File> {
        self.drop_staged(volume)?;
        // Counted from now on by the file that is there.
        let _promise = self.room_beside(volume, bytes)?;
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

    fn stage_anew(
        &self,
        volume: VolumeId,
        base: Option<&Path>,
        key: &Key,
        through: &mut dyn FnMut(u64, u64) -> Result<()>,
    ) -> Result<u64> {
        let (from, to) = (self.complete(volume)?, staged(self.config(), volume));
        let lacks = |error| failed("encrypt anew", volume, error);
        if !qemu_img::opens(self.config(), &from, key).map_err(lacks)? {
            return Err(wrong_key(volume));
        }
        let total = taken(&from);
        let _promise = self.room_beside(volume, total)?;
        through(0, total)?;
        step();
        let mut given_up = None;
        let may_go_on = || {
            through(taken(&to).min(total), total).map_err(|error| {
                given_up = Some(error);
                io::Error::other("given up")
            })
        };
        let done = qemu_img::encrypt_anew(self.config(), (&from, &to), base, key, may_go_on);
        if let Some(error) = given_up {
            return Err(error);
        }
        done.map_err(lacks)?;
        step();
        let finish = || -> io::Result<()> {
            fs::set_permissions(&to, Permissions::from_mode(0o600))?;
            File::open(&to)?.sync_all()
        };
        finish().map_err(lacks)?;
        step();
        through(total, total)?;
        Ok(total)
    }

    fn swap_staged(&self, volume: VolumeId, _: bool) -> Result<()> {
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
        Ok(())
    }

    fn left_staged(&self) -> Result<BTreeSet<VolumeId>> {
        let directory = &self.config().volumes;
        let unseen = |error| EdgeError::because(format!("cannot look at `{}`", directory.display()), error);
        let files = match fs::read_dir(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
            files => files.map_err(unseen)?,
        };
        let name = |file: io::Result<fs::DirEntry>| Ok(file.map_err(unseen)?.file_name());
        let names = files.map(name).collect::<Result<Vec<_>>>()?;
        Ok(names.iter().filter_map(|name| name.to_str()?.strip_suffix(STAGED)?.parse().ok()).collect())
    }

    fn overwrite_staged(&self, volume: VolumeId) -> Result<u64> {
        match erase::overwrite_all(&staged(self.config(), volume)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            done => done.map_err(|error| failed("overwrite what was", volume, error)),
        }
    }

    fn drop_staged(&self, volume: VolumeId) -> Result<()> {
        erase::erase(&staged(self.config(), volume), |_| Ok(()))
            .map(drop)
            .map_err(|error| failed("clear a copy of", volume, error))
    }
}
