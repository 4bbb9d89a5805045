//! One qcow2 file a volume, LUKS inside it, a root volume on top of a base image that all share.
//!
//! ```text
//!            create                      rename
//!   absent ─────────▶ ID.tmp (partial) ─────────▶ ID (complete)
//!      ▲                     │                      │ rename
//!      │   unlink            ▼ overwrite            ▼
//!      └──────────────────────────────────── ID.erasing (partial)
//! ```
//!
//! What was done to it is written to `ID.erased` before the file goes, so that whoever asks again after a kill is
//! told the same, and stays there until it is stored elsewhere.
//!
//! A kill between any two of these leaves one of the three names, and each is taken up again from there.
//! A file called `ID` whose header is damaged is neither complete nor partial but an error: it may hold
//! data, and is never made again on a guess.

use super::{
    Backend, Base, Disk, GIB, Grown, Kind, base_of, bytes_of, erase,
    evidence::{Remembered, evidence},
    exists, failed, qcow2,
    qemu_img::{self, Changed},
    refuse_promise, step, wrong_key,
};
use crate::{
    config::StorageConfig,
    edge::{EdgeError, Key, Rekeyed, Result, Room, VolumeState},
};
use holm_proto::{ids::VolumeId, v1};
use rustix::fs::StatVfs;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The end of the name of a copy beside a volume, see [`super::backup`].
pub(super) const STAGED: &str = ".staged";

/// The volumes in a directory.
#[derive(Debug)]
pub struct Qcow2Luks {
    config: StorageConfig,
    remembered: Remembered,
    /// Bytes of volumes that are being made or grown: two are not promised the same room.
    promising: Mutex<BTreeMap<VolumeId, u64>>,
}

impl Qcow2Luks {
    /// Those that the configuration names. Nothing is touched.
    pub fn new(config: StorageConfig) -> Self {
        Self { remembered: Remembered::new(config.volumes.clone()), config, promising: Mutex::default() }
    }

    /// Promises a volume so much, until what is returned is dropped: by then it has it.
    pub(super) fn promise(&self, volume: VolumeId, bytes: u64) -> io::Result<Promise<'_>> {
        let mut promising = self.promising.lock().unwrap_or_else(PoisonError::into_inner);
        let mut promised: BTreeMap<VolumeId, u64> = BTreeMap::new();
        for file in fs::read_dir(&self.config.volumes)? {
            let name = file?.file_name();
            let name = name.to_str().unwrap_or_default();
            let (volume, staged) = match name.strip_suffix(STAGED) {
                Some(volume) => (volume, true),
                None => (name, false),
            };
            // What is half made or half erased is made again or goes.
            let Ok(id) = volume.parse() else { continue };
            let path = self.path(id);
            // One that was erased meanwhile has nothing; one that is damaged is another's trouble.
            let takes = match staged {
                false => qcow2::read(&path).ok().map(|header| header.bytes),
                true => fs::metadata(self.config.volumes.join(name)).ok().map(|of| taken(&path) + of.len()),
            };
            let promise = promised.entry(id).or_default();
            *promise = takes.unwrap_or_default().max(*promise);
        }
        promised.extend(promising.iter().map(|(id, bytes)| (*id, *bytes)));
        promised.remove(&volume);
        let promised = promised.values().copied().fold(0, u64::saturating_add);
        let what = format!("the file system of `{}`", self.config.volumes.display());
        let room = all_bytes(&self.system()?);
        refuse_promise((&what, ""), room, self.config.overcommit, promised, bytes)?;
        promising.insert(volume, bytes);
        Ok(Promise { of: &self.promising, volume })
    }

    /// Promises a volume at rest as much as it takes with a copy of `bytes` beside it: what it has not written yet is
    /// the copy's.
    pub(super) fn promise_copy(&self, volume: VolumeId, bytes: u64) -> io::Result<Promise<'_>> {
        let path = self.path(volume);
        let own = qcow2::read(&path).map_or(0, |header| header.bytes);
        self.promise(volume, own.max(taken(&path).saturating_add(bytes)))
    }

    /// The file system that holds the volumes.
    fn system(&self) -> io::Result<StatVfs> {
        // Before the first volume there may be no directory yet: then what is above it.
        let there = self.config.volumes.ancestors().find(|path| path.exists());
        let there = there.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
        Ok(rustix::fs::statvfs(there)?)
    }

    pub(super) fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// Where a complete volume lies.
    pub(super) fn path(&self, volume: VolumeId) -> PathBuf {
        self.config.volumes.join(volume.to_string())
    }

    /// The names a volume goes by: complete, being made, being erased.
    fn names(&self, volume: VolumeId) -> [PathBuf; 3] {
        ["", ".tmp", ".erasing"].map(|end| self.config.volumes.join(format!("{volume}{end}")))
    }

    /// Where a volume lies that must be complete.
    pub(super) fn complete(&self, volume: VolumeId) -> Result<PathBuf> {
        match self.state(volume)? {
            VolumeState::Complete => Ok(self.path(volume)),
            _ => Err(EdgeError::new(format!("there is no complete volume `{volume}`"))),
        }
    }

    fn make(&self, volume: VolumeId, bytes: u64, key: &Key, base: Option<Base<'_>>) -> Result<()> {
        let [done, making, _] = self.names(volume);
        qemu_img::create(&self.config, &making, bytes, base, Some(key))?;
        check(&making)?;
        let finish = || -> io::Result<()> {
            fs::set_permissions(&making, Permissions::from_mode(0o600))?;
            File::open(&making)?.sync_all()?;
            step();
            fs::rename(&making, &done)?;
            step();
            self.sync_directory()
        };
        finish().map_err(|error| failed("finish", volume, error))
    }

    fn unseen(&self, error: io::Error) -> EdgeError {
        EdgeError::because(format!("cannot look at `{}`", self.config.volumes.display()), error)
    }

    pub(super) fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.config.volumes)?.sync_all()
    }
}

/// What a file takes of its file system.
pub(super) fn taken(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.blocks().saturating_mul(512))
}

/// Room that a volume is promised and may not have yet.
pub(super) struct Promise<'a> {
    of: &'a Mutex<BTreeMap<VolumeId, u64>>,
    volume: VolumeId,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.volume);
    }
}

fn all_bytes(system: &StatVfs) -> u64 {
    system.f_blocks.saturating_mul(system.f_frsize)
}

impl Backend for Qcow2Luks {
    fn state(&self, volume: VolumeId) -> Result<VolumeState> {
        let [done, making, erasing] = self.names(volume);
        if is_there(&done)? {
            return check(&done).map(|()| VolumeState::Complete);
        }
        if is_there(&making)? || is_there(&erasing)? {
            return Ok(VolumeState::Partial);
        }
        Ok(VolumeState::Absent)
    }

    fn create_over(
        &self,
        volume: VolumeId,
        kind: Kind,
        size_gib: u64,
        key: &Key,
        over: Option<Base<'_>>,
    ) -> Result<()> {
        let base = base_of(&self.config, kind, over);
        let [done, making, erasing] = self.names(volume);
        if is_there(&done)? {
            return Err(exists(volume));
        }
        let bytes = bytes_of(base, size_gib)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.config.volumes)
            .map_err(|error| failed("make the directory of", volume, error))?;
        for leftover in [&making, &erasing] {
            erase::erase(leftover, |_| Ok(()))
                .map_err(|error| failed("clear what is left of", volume, error))?;
        }
        step();
        let _promise = self.promise(volume, bytes).map_err(|error| failed("make", volume, error))?;
        let made = self.make(volume, bytes, key, base);
        if made.is_err()
            && let Err(error) = erase::erase(&making, |_| Ok(()))
        {
            tracing::warn!(%volume, %error, "a half-made volume stays until it is made or erased again");
        }
        made
    }

    /// QEMU opens it, and looks at the key then.
    fn open(&self, volume: VolumeId, _: &Key) -> Result<Disk> {
        self.complete(volume).map(Disk::File)
    }

    fn close(&self, _: VolumeId) -> Result<()> {
        Ok(())
    }

    fn close_idle(&self, _: &BTreeSet<VolumeId>) -> Result<()> {
        Ok(())
    }

    fn grow(&self, volume: VolumeId, size_gib: u64, key: &Key) -> Result<Grown> {
        let bytes = bytes_of(None, size_gib)?;
        let path = self.complete(volume)?;
        let failed = |error| failed("grow", volume, error);
        if !qemu_img::opens(&self.config, &path, key).map_err(failed)? {
            return Err(wrong_key(volume));
        }
        let has = qcow2::read(&path).map_err(failed)?.bytes;
        if bytes < has {
            return Err(smaller(volume, size_gib, has));
        }
        if bytes == has {
            return Ok(Grown::Done);
        }
        let _promise = self.promise(volume, bytes).map_err(failed)?;
        step();
        let grown = match qemu_img::resize(&self.config, &path, bytes, Some(key)).map_err(failed)? {
            Changed::Done => Grown::Done,
            Changed::InUse => Grown::TellMachine,
        };
        step();
        Ok(grown)
    }

    fn change_passphrase(&self, volume: VolumeId, old: &Key, new: &Key) -> Result<Rekeyed> {
        let path = self.complete(volume)?;
        let failed = |error| failed("change the passphrase of", volume, error);
        let opens = |key| qemu_img::opens(&self.config, &path, key).map_err(failed);
        let sync = || File::open(&path).and_then(|file| file.sync_all()).map_err(failed);
        if !opens(new)? {
            if !opens(old)? {
                return Err(wrong_key(volume));
            }
            if qemu_img::add_key(&self.config, &path, old, new).map_err(failed)? == Changed::InUse {
                return Ok(Rekeyed::AtRest);
            }
            sync()?;
            step();
            if !opens(new)? {
                return Err(EdgeError::new(format!(
                    "volume `{volume}` kept its key: the new one does not open it"
                )));
            }
        }
        step();
        if super::passphrase(old) != super::passphrase(new) && opens(old)? {
            if qemu_img::remove_key(&self.config, &path, old, new).map_err(failed)? == Changed::InUse {
                return Ok(Rekeyed::AtRest);
            }
            sync()?;
            step();
            if opens(old)? {
                return Err(EdgeError::new(format!("the old key still opens volume `{volume}`: ask again")));
            }
        }
        Ok(Rekeyed::Done)
    }

    fn erase(&self, volume: VolumeId) -> Result<v1::VolumeEvidence> {
        let failed = |error| failed("erase", volume, error);
        let started = Instant::now();
        let [done, making, erasing] = self.names(volume);
        if is_there(&done)? {
            fs::rename(&done, &erasing).map_err(failed)?;
            step();
            self.sync_directory().map_err(failed)?;
        }
        // One that was never finished holds no data.
        let remember = |wiped| {
            step();
            self.remembered.remember(&evidence(volume, wiped, started)).inspect(|()| step())
        };
        let half = erase::erase(&making, remember);
        let whole = erase::erase(&erasing, remember);
        match whole.map_err(failed)?.or(half.map_err(failed)?) {
            Some(wiped) => Ok(evidence(volume, wiped, started)),
            None => self.remembered.recall(volume).map_err(failed),
        }
    }

    fn forget(&self, volume: VolumeId) -> Result<()> {
        self.remembered.forget(volume).map_err(|error| failed("forget the erasure of", volume, error))
    }

    /// All of the file system that holds the volumes.
    fn capacity_gib(&self) -> Result<u64> {
        Ok(all_bytes(&self.system().map_err(|error| self.unseen(error))?) / GIB)
    }

    /// As QEMU's user finds it, without what is kept for root.
    fn room(&self) -> Result<Option<Room>> {
        let system = self.system().map_err(|error| self.unseen(error))?;
        let of = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        let used = of(system.f_blocks.saturating_sub(system.f_bfree));
        let free = of(system.f_bavail);
        Ok(Some(Room { bytes: used.saturating_add(free), free }))
    }

    fn lacks(&self) -> Vec<String> {
        self.capacity_gib().err().map(|error| error.chain()).into_iter().collect()
    }
}

pub(super) fn smaller(volume: VolumeId, size_gib: u64, has: u64) -> EdgeError {
    EdgeError::new(format!(
        "volume `{volume}` has {} GiB and would have {size_gib}: a volume never becomes smaller",
        has / GIB
    ))
}

/// Refuses a file that is no qcow2 with a LUKS header in its place.
pub(super) fn check(path: &Path) -> Result<()> {
    let not = |error| EdgeError::because(format!("`{}` is no encrypted volume", path.display()), error);
    let header = qcow2::read(path).map_err(not)?;
    let area = header.luks.ok_or_else(|| not(io::Error::other("its header names no LUKS header")))?;
    qcow2::check_luks(path, area).map_err(not)
}

fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(EdgeError::because(format!("cannot look at `{}`", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::backup::Staging as _;
    use crate::{
        config::{ImageFormat, Overcommit, StorageBackend},
        storage::conformance::{self, Ground, id, key},
    };

    crate::storage::conformance::suite!(ground);

    /// Volumes in a temporary directory.
    struct Fixture {
        directory: tempfile::TempDir,
        config: StorageConfig,
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base, with=signs.raw");
        conformance::make_base(&base);
        let config = StorageConfig {
            backend: StorageBackend::Qcow2Luks,
            volumes: directory.path().join("volumes"),
            volume_group: None,
            thin_pool: None,
            discard: false,
            // What disks are tested that no test machine has room for.
            overcommit: Overcommit::try_from(10.0).unwrap(),
            base_image: base,
            base_format: ImageFormat::Raw,
            qemu_img: "/usr/bin/qemu-img".into(),
        };
        Fixture { directory, config }
    }

    fn ground() -> Option<Fixture> {
        Some(fixture())
    }

    impl Fixture {
        fn volumes(&self) -> Qcow2Luks {
            Qcow2Luks::new(self.config.clone())
        }
    }

    impl Ground for Fixture {
        fn config(&self) -> StorageConfig {
            self.config.clone()
        }

        fn backend(&self) -> Box<dyn Backend> {
            Box::new(self.volumes())
        }

        fn headers(&self, volume: VolumeId) -> Vec<(PathBuf, u64)> {
            let path = self.volumes().path(volume);
            let luks = qcow2::read(&path).unwrap().luks.unwrap().offset;
            [0, 35, luks].map(|at| (path.clone(), at)).into()
        }

        fn used(&self) -> u64 {
            use std::os::unix::fs::MetadataExt as _;
            let files = fs::read_dir(&self.config.volumes).into_iter().flatten();
            files.map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
        }
    }

    #[test]
    fn only_root_reads_a_volume() {
        let fixture = fixture();
        fixture.volumes().create(id(), Kind::Root, 1, &key(7)).unwrap();
        let mode = fs::metadata(fixture.volumes().path(id())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn whatever_a_kill_leaves_is_partial_and_taken_up_again() {
        for end in [".tmp", ".erasing"] {
            for bytes in [&b""[..], b"QFI\xfb", &[0; 100_000]] {
                let fixture = fixture();
                let volumes = fixture.volumes();
                let left = fixture.directory.path().join(format!("volumes/{}{end}", id()));
                fs::create_dir_all(left.parent().unwrap()).unwrap();
                fs::write(&left, bytes).unwrap();
                assert_eq!(volumes.state(id()).unwrap(), VolumeState::Partial);
                volumes.create(id(), Kind::Root, 1, &key(7)).unwrap();
                assert_eq!(volumes.state(id()).unwrap(), VolumeState::Complete);
                assert!(!left.exists());
                fs::write(&left, bytes).unwrap();
                volumes.erase(id()).unwrap();
                assert_eq!(volumes.state(id()).unwrap(), VolumeState::Absent);
                volumes.erase(id()).unwrap();
            }
        }
    }

    #[test]
    fn erasing_leaves_neither_header_nor_key_slots() {
        let fixture = fixture();
        let volumes = fixture.volumes();
        volumes.create(id(), Kind::Root, 1, &key(7)).unwrap();
        // A second name keeps the blocks within reach after the volume is gone.
        let kept = fixture.directory.path().join("kept");
        fs::hard_link(volumes.path(id()), &kept).unwrap();
        let before = fs::read(&kept).unwrap();
        let area = qcow2::read(&kept).unwrap().luks.unwrap();
        let slots = usize::try_from(area.offset).unwrap()..usize::try_from(area.offset + area.bytes).unwrap();
        let evidence = volumes.erase(id()).unwrap();
        let length = u64::try_from(before.len()).unwrap();
        assert!([0, length].contains(&evidence.bytes_discarded), "{evidence:?}");
        let after = fs::read(&kept).unwrap();
        assert!(before[slots.clone()].iter().any(|byte| *byte != 0));
        assert!(after[slots].iter().all(|byte| *byte == 0));
        volumes.forget(id()).unwrap();
        assert_eq!(fs::read_dir(&fixture.config.volumes).unwrap().count(), 0);
    }

    /// Whoever broke out into QEMU could have written its header.
    #[test]
    fn a_header_that_names_another_base_image_is_not_followed() {
        let fixture = fixture();
        let volumes = fixture.volumes();
        volumes.create(id(), Kind::Root, 1, &key(7)).unwrap();
        conformance::write(&volumes, 7);
        let stranger = fixture.directory.path().join("stranger");
        conformance::make_base(&stranger);
        for expected in [Some(stranger.as_path()), None] {
            let error = volumes.stage_anew(id(), expected, &key(7), &mut |_, _| Ok(())).unwrap_err().chain();
            assert!(error.contains("names another base image"), "{error}");
        }
        assert_eq!(conformance::has_mark(&volumes, 7), Some(true));
        assert!(volumes.left_staged().unwrap().is_empty());
    }

    #[test]
    fn a_disk_smaller_than_the_base_image_is_refused() {
        let fixture = fixture();
        File::options().write(true).open(&fixture.config.base_image).unwrap().set_len(3 * GIB + 1).unwrap();
        let volumes = fixture.volumes();
        let error = volumes.create(id(), Kind::Root, 3, &key(7)).unwrap_err();
        assert!(error.chain().contains("ask for 4 GiB"), "{}", error.chain());
        assert_eq!(volumes.state(id()).unwrap(), VolumeState::Absent);
        volumes.create(id(), Kind::Data, 3, &key(7)).unwrap();
    }

    #[test]
    fn no_more_is_promised_than_may_be() {
        let mut fixture = fixture();
        fixture.config.overcommit = Overcommit::try_from(0.1).unwrap();
        let volumes = fixture.volumes();
        let most = fixture.config.overcommit.of(volumes.capacity_gib().unwrap());
        let other: VolumeId = "6f9619ff-8b86-4d01-b42d-00cf4fc964fe".parse().unwrap();
        volumes.create(id(), Kind::Data, most - 1, &key(7)).unwrap();
        let error = volumes.create(other, Kind::Data, 2, &key(8)).unwrap_err().chain();
        assert!(error.contains("may promise") && error.contains("no room for 2 more"), "{error}");
        assert_eq!(volumes.state(other).unwrap(), VolumeState::Absent);
        volumes.create(other, Kind::Data, 1, &key(8)).unwrap();
        assert!(volumes.grow(other, 3, &key(8)).unwrap_err().chain().contains("may promise"));
        assert_eq!(volumes.grow(other, 1, &key(8)).unwrap(), Grown::Done);
        // What is being made counts, and what is gone does not.
        volumes.erase(id()).unwrap();
        let made = volumes.promise(id(), (most - 2) * GIB).unwrap();
        assert!(volumes.promise(other, 3 * GIB).is_err());
        drop(made);
        assert_eq!(volumes.grow(other, 3, &key(8)).unwrap(), Grown::Done);
        // A copy of a volume has what the volume has not written; where that is too little it is promised like a volume.
        drop(volumes.stage(other, 2 * GIB).unwrap());
        assert!(volumes.promise(id(), (most - 3) * GIB).is_ok());
        volumes.drop_staged(other).unwrap();
        drop(volumes.stage(other, 4 * GIB).unwrap());
        assert!(volumes.promise(id(), (most - 3) * GIB).is_err());
        assert!(volumes.promise(id(), (most - 6) * GIB).is_ok());
        let error = volumes.stage(other, (most + 1) * GIB).unwrap_err().chain();
        assert!(error.contains("may promise") || error.contains("GiB left"), "{error}");
        assert!(
            volumes.promise(id(), (most - 4) * GIB).is_ok(),
            "what could not be staged is promised nothing"
        );
        let room = volumes.room().unwrap().unwrap();
        assert!(room.free <= room.bytes && room.bytes > 0, "{room:?}");
    }

    #[test]
    fn a_key_is_changed_more_often_than_there_are_key_slots() {
        let fixture = fixture();
        let volumes = fixture.volumes();
        volumes.create(id(), Kind::Data, 1, &key(0)).unwrap();
        for (old, new) in (0..9).zip(1..) {
            volumes.change_passphrase(id(), &key(old), &key(new)).unwrap();
        }
        assert_eq!(conformance::has_mark(&volumes, 9), Some(false));
    }

    #[test]
    fn a_machine_that_has_it_open_is_told() {
        let fixture = fixture();
        let volumes = fixture.volumes();
        volumes.create(id(), Kind::Data, 1, &key(7)).unwrap();
        // Line by line, so that what it says comes when it says it.
        let mut child = std::process::Command::new("/usr/bin/stdbuf")
            .args([
                "-oL",
                "/usr/bin/qemu-io",
                "--object",
                "secret,id=k,file=/proc/self/fd/0",
                "-c",
                "read 0 512",
                "-c",
                "sleep 100000",
                "--image-opts",
            ])
            .arg(format!("driver=qcow2,encrypt.key-secret=k,file.filename={}", volumes.path(id()).display()))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(
            &mut child.stdin.take().unwrap(),
            super::super::passphrase(&key(7)).as_bytes(),
        )
        .unwrap();
        // What it has read it has opened, and locked.
        let mut said = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut said)
            .unwrap();
        assert!(said.contains("read 512/512"), "{said}");
        let grown = volumes.grow(id(), 2, &key(7));
        let changed = volumes.change_passphrase(id(), &key(7), &key(8));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(grown.unwrap(), Grown::TellMachine);
        assert_eq!(changed.unwrap(), Rekeyed::AtRest);
    }

    #[test]
    fn the_key_is_in_no_argument_and_no_environment() {
        let mut fixture = fixture();
        let directory = fixture.directory.path();
        let script = directory.join("qemu-img");
        let seen = directory.join("seen");
        fs::write(
            &script,
            format!(
                "#!/bin/sh\n{{ tr '\\0' '\\n' </proc/$$/cmdline; tr '\\0' '\\n' </proc/$$/environ; ls -l /proc/$$/fd; \
                 }} >{0}\ncat >{0}.stdin\necho 'no room' >&2\nexit 1\n",
                seen.display()
            ),
        )
        .unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        fixture.config.qemu_img = script;
        let error = fixture.volumes().create(id(), Kind::Root, 1, &key(0xa7)).unwrap_err();
        assert!(error.chain().contains("no room"), "{}", error.chain());
        let secret = "a7".repeat(32);
        assert_eq!(fs::read_to_string(directory.join("seen.stdin")).unwrap(), secret);
        let seen = fs::read_to_string(seen).unwrap();
        assert!(seen.contains("encrypt.format=luks") && !seen.contains("a7a7a7"), "{seen}");
        assert!(!seen.contains("CARGO"), "the agent's environment is not handed on: {seen}");
    }
}
