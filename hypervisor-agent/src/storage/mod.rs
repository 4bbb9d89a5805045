//! Encrypted volumes: one qcow2 file a volume, LUKS inside it, on top of a base image that all share.
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

mod erase;
mod qcow2;
mod qemu_img;

pub use self::qemu_img::passphrase;

use crate::{
    config::{ImageFormat, StorageConfig},
    edge::{EdgeError, Key, Result, VolumeState},
};
use holm_proto::{ids::VolumeId, v1};
use prost::Message as _;
use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

const TOOL: &str = concat!("holm-agent ", env!("CARGO_PKG_VERSION"));
const GIB: u64 = 1 << 30;

/// All of the file system that holds the volumes, GiB; 0 where it cannot be said, or is smaller.
pub fn capacity_gib(volumes: &Path) -> u64 {
    // Before the first volume there may be no directory yet: then what is above it.
    let there = volumes.ancestors().find(|path| path.exists());
    there
        .and_then(|path| rustix::fs::statvfs(path).ok())
        .map_or(0, |system| system.f_blocks.saturating_mul(system.f_frsize) / GIB)
}

/// The volumes of a host.
#[derive(Debug, Clone)]
pub struct Volumes {
    config: StorageConfig,
}

impl Volumes {
    /// The volumes that the configuration names. Nothing is touched.
    pub fn new(config: StorageConfig) -> Self {
        Self { config }
    }

    /// Where a complete volume lies.
    pub fn path(&self, volume: VolumeId) -> PathBuf {
        self.config.volumes.join(volume.to_string())
    }

    /// How far a volume has come.
    pub fn state(&self, volume: VolumeId) -> Result<VolumeState> {
        let [done, making, erasing] = self.names(volume);
        if exists(&done)? {
            return check(&done).map(|()| VolumeState::Complete);
        }
        if exists(&making)? || exists(&erasing)? {
            return Ok(VolumeState::Partial);
        }
        Ok(VolumeState::Absent)
    }

    /// Makes a volume of `size_gib` GiB that only `key` opens. One that exists is refused.
    pub fn create(&self, volume: VolumeId, size_gib: u64, key: &Key) -> Result<()> {
        let [done, making, erasing] = self.names(volume);
        if exists(&done)? {
            return Err(EdgeError::new(format!(
                "volume `{volume}` exists: a volume is never made anew over another"
            )));
        }
        let bytes = size_gib
            .checked_mul(GIB)
            .filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok())
            .ok_or_else(|| EdgeError::new(format!("a volume of `{size_gib}` GiB cannot be made")))?;
        let least = self.base_bytes()?;
        if bytes < least {
            return Err(EdgeError::new(format!(
                "a volume of `{size_gib}` GiB is smaller than the base image: ask for {} GiB or more",
                least.div_ceil(GIB)
            )));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.config.volumes)
            .map_err(|error| self.failed("make the directory of", volume, error))?;
        for leftover in [&making, &erasing] {
            erase::erase(leftover, |_| Ok(()))
                .map_err(|error| self.failed("clear what is left of", volume, error))?;
        }
        let made = self.make(volume, bytes, key, &making, &done);
        if made.is_err()
            && let Err(error) = erase::erase(&making, |_| Ok(()))
        {
            tracing::warn!(%volume, %error, "a half-made volume stays until it is made or erased again");
        }
        made
    }

    /// Overwrites header and key slots, gives the area back, removes the volume, and says what was done; the same
    /// when it is asked again. Where there is nothing, nothing was erased.
    ///
    /// What makes the data unreadable is that the key is gone everywhere else: no file system promises that
    /// writing over a file writes over its blocks. This takes away the other half all the same.
    pub fn erase(&self, volume: VolumeId) -> Result<v1::VolumeEvidence> {
        let failed = |error| self.failed("erase", volume, error);
        let started = Instant::now();
        let [done, making, erasing] = self.names(volume);
        if exists(&done)? {
            fs::rename(&done, &erasing).map_err(failed)?;
            self.sync_directory().map_err(failed)?;
        }
        // One that was never finished holds no data.
        let half = erase::erase(&making, |wiped| self.remember(&evidence(volume, wiped, started)));
        let whole = erase::erase(&erasing, |wiped| self.remember(&evidence(volume, wiped, started)));
        match whole.map_err(failed)?.or(half.map_err(failed)?) {
            Some(wiped) => Ok(evidence(volume, wiped, started)),
            None => Ok(self.remembered(volume)?.unwrap_or_else(|| v1::VolumeEvidence {
                volume_id: volume.to_string(),
                tool: TOOL.to_owned(),
                detail: "there was no disk on the host".to_owned(),
                ..Default::default()
            })),
        }
    }

    /// Lets go of what is remembered of an erasure.
    pub fn forget(&self, volume: VolumeId) -> Result<()> {
        match fs::remove_file(self.erased(volume)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(self.failed("forget the erasure of", volume, error))
            }
            _ => Ok(()),
        }
    }

    fn remember(&self, evidence: &v1::VolumeEvidence) -> io::Result<()> {
        let path = self.config.volumes.join(format!("{}.erased", evidence.volume_id));
        let making = path.with_extension("erased.new");
        let mut file = File::create(&making)?;
        file.write_all(&evidence.encode_to_vec())?;
        file.sync_all()?;
        fs::rename(&making, &path)?;
        self.sync_directory()
    }

    fn remembered(&self, volume: VolumeId) -> Result<Option<v1::VolumeEvidence>> {
        let path = self.erased(volume);
        let failed = |error| self.failed("read what was done to", volume, error);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let evidence = v1::VolumeEvidence::decode(bytes.as_slice()).map_err(|error| failed(error.into()))?;
        Ok((evidence.volume_id == volume.to_string()).then_some(evidence))
    }

    fn erased(&self, volume: VolumeId) -> PathBuf {
        self.config.volumes.join(format!("{volume}.erased"))
    }

    fn make(&self, volume: VolumeId, bytes: u64, key: &Key, making: &Path, done: &Path) -> Result<()> {
        qemu_img::create(&self.config, making, bytes, key)?;
        check(making)?;
        let finish = || -> io::Result<()> {
            fs::set_permissions(making, Permissions::from_mode(0o600))?;
            File::open(making)?.sync_all()?;
            fs::rename(making, done)?;
            self.sync_directory()
        };
        finish().map_err(|error| self.failed("finish", volume, error))
    }

    /// The virtual size of the base image.
    fn base_bytes(&self) -> Result<u64> {
        let path = &self.config.base_image;
        let failed = |error: io::Error| {
            EdgeError::because(format!("cannot read the base image `{}`", path.display()), error)
        };
        match self.config.base_format {
            ImageFormat::Raw => Ok(fs::metadata(path).map_err(failed)?.len()),
            ImageFormat::Qcow2 => Ok(qcow2::read(path).map_err(failed)?.bytes),
        }
    }

    /// The names a volume goes by: complete, being made, being erased.
    fn names(&self, volume: VolumeId) -> [PathBuf; 3] {
        ["", ".tmp", ".erasing"].map(|end| self.config.volumes.join(format!("{volume}{end}")))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.config.volumes)?.sync_all()
    }

    fn failed(&self, doing: &str, volume: VolumeId, error: io::Error) -> EdgeError {
        EdgeError::because(format!("cannot {doing} volume `{volume}`"), error)
    }
}

fn evidence(volume: VolumeId, wiped: erase::Wiped, started: Instant) -> v1::VolumeEvidence {
    let (method, detail) = match wiped.discarded {
        0 => ("luks-header", "what holds it takes nothing back: the rest is noise without the key"),
        _ => ("luks-header, discard", ""),
    };
    v1::VolumeEvidence {
        volume_id: volume.to_string(),
        // An empty file had nothing to overwrite.
        erased: true,
        method: method.to_owned(),
        bytes_overwritten: wiped.overwritten,
        bytes_discarded: wiped.discarded,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        tool: TOOL.to_owned(),
        detail: detail.to_owned(),
    }
}

/// Refuses a file that is no qcow2 with a LUKS header in its place.
fn check(path: &Path) -> Result<()> {
    let not = |error| EdgeError::because(format!("`{}` is no encrypted volume", path.display()), error);
    let header = qcow2::read(path).map_err(not)?;
    let area = header.luks.ok_or_else(|| not(io::Error::other("its header names no LUKS header")))?;
    qcow2::check_luks(path, area).map_err(not)
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(EdgeError::because(format!("cannot look at `{}`", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Volumes in a temporary directory, over a base image of 1 MiB that begins with a known text.
    struct Fixture {
        directory: tempfile::TempDir,
        volumes: Volumes,
        volume: VolumeId,
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("base, with=signs.raw");
        let mut bytes = b"the base image".to_vec();
        bytes.resize(1 << 20, 0);
        fs::write(&base, bytes).unwrap();
        let config = StorageConfig {
            volumes: directory.path().join("volumes"),
            base_image: base,
            base_format: ImageFormat::Raw,
            qemu_img: "/usr/bin/qemu-img".into(),
        };
        Fixture { directory, volumes: Volumes::new(config), volume: id() }
    }

    fn id() -> VolumeId {
        "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap()
    }

    fn key(byte: u8) -> Key {
        Key::new(Box::new([byte; 32]))
    }

    /// What a holder of this key reads of the volume, as QEMU itself sees it.
    fn read(path: &Path, byte: u8) -> Option<Vec<u8>> {
        let out = tempfile::NamedTempFile::new().unwrap();
        let mut child = Command::new("/usr/bin/qemu-img")
            .args(["dd", "--object", "secret,id=k,file=/proc/self/fd/0", "--image-opts"])
            .arg(format!("if=driver=qcow2,encrypt.key-secret=k,file.filename={}", path.display()))
            .arg(format!("of={}", out.path().display()))
            .args(["bs=1M", "count=1"])
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let text = format!("{byte:02x}").repeat(32);
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait().unwrap().success().then(|| fs::read(out.path()).unwrap())
    }

    #[test]
    fn only_the_key_opens_a_volume() {
        let Fixture { volumes, volume, directory: _directory } = fixture();
        assert_eq!(volumes.state(volume).unwrap(), VolumeState::Absent);
        volumes.create(volume, 1, &key(7)).unwrap();
        assert_eq!(volumes.state(volume).unwrap(), VolumeState::Complete);
        let path = volumes.path(volume);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path, 7).unwrap().starts_with(b"the base image"));
        assert_eq!(read(&path, 8), None);
    }

    #[test]
    fn a_volume_is_never_made_over_another() {
        let Fixture { volumes, volume, directory: _directory } = fixture();
        volumes.create(volume, 1, &key(7)).unwrap();
        let before = fs::read(volumes.path(volume)).unwrap();
        let error = volumes.create(volume, 1, &key(8)).unwrap_err();
        assert!(error.chain().contains("never made anew"));
        assert!(fs::read(volumes.path(volume)).unwrap() == before);
    }

    #[test]
    fn what_a_kill_leaves_is_partial_and_taken_up_again() {
        for end in [".tmp", ".erasing"] {
            for bytes in [&b""[..], b"QFI\xfb", &[0; 100_000]] {
                let Fixture { volumes, volume, directory } = fixture();
                let left = directory.path().join(format!("volumes/{volume}{end}"));
                fs::create_dir_all(left.parent().unwrap()).unwrap();
                fs::write(&left, bytes).unwrap();
                assert_eq!(volumes.state(volume).unwrap(), VolumeState::Partial);
                volumes.create(volume, 1, &key(7)).unwrap();
                assert_eq!(volumes.state(volume).unwrap(), VolumeState::Complete);
                assert!(!left.exists());
                fs::write(&left, bytes).unwrap();
                volumes.erase(volume).unwrap();
                assert_eq!(volumes.state(volume).unwrap(), VolumeState::Absent);
                volumes.erase(volume).unwrap();
            }
        }
    }

    #[test]
    fn a_damaged_volume_is_an_error_and_not_made_again() {
        let Fixture { volumes, volume, directory: _directory } = fixture();
        volumes.create(volume, 1, &key(7)).unwrap();
        let path = volumes.path(volume);
        let whole = fs::read(&path).unwrap();
        let luks = usize::try_from(qcow2::read(&path).unwrap().luks.unwrap().offset).unwrap();
        for at in [0, 35, luks] {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            fs::write(&path, bytes).unwrap();
            let error = volumes.state(volume).unwrap_err().chain();
            assert!(error.contains("is no encrypted volume"), "{error}");
            assert!(volumes.create(volume, 1, &key(7)).is_err());
        }
        volumes.erase(volume).unwrap();
        assert_eq!(volumes.state(volume).unwrap(), VolumeState::Absent);
    }

    #[test]
    fn erasing_leaves_neither_header_nor_key_slots() {
        let Fixture { volumes, volume, directory } = fixture();
        volumes.create(volume, 1, &key(7)).unwrap();
        // A second name keeps the blocks within reach after the volume is gone.
        let kept = directory.path().join("kept");
        fs::hard_link(volumes.path(volume), &kept).unwrap();
        let before = fs::read(&kept).unwrap();
        let area = qcow2::read(&kept).unwrap().luks.unwrap();
        let slots = usize::try_from(area.offset).unwrap()..usize::try_from(area.offset + area.bytes).unwrap();
        let evidence = volumes.erase(volume).unwrap();
        assert!(evidence.erased && evidence.method.contains("luks-header"), "{evidence:?}");
        assert_eq!(volumes.state(volume).unwrap(), VolumeState::Absent);
        let after = fs::read(&kept).unwrap();
        assert_eq!(read(&kept, 7), None);
        assert!(before[slots.clone()].iter().any(|byte| *byte != 0));
        assert!(after[slots].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn evidence_is_the_same_until_it_is_stored_elsewhere() {
        let Fixture { volumes, volume, directory: _directory } = fixture();
        let nothing = volumes.erase(volume).unwrap();
        assert!(!nothing.erased && nothing.bytes_overwritten == 0 && nothing.detail.contains("no disk"));
        volumes.create(volume, 1, &key(7)).unwrap();
        let length = fs::metadata(volumes.path(volume)).unwrap().len();
        let evidence = volumes.erase(volume).unwrap();
        assert!(evidence.erased && evidence.bytes_overwritten > 0, "{evidence:?}");
        assert!([0, length].contains(&evidence.bytes_discarded), "{evidence:?}");
        // Another agent, after a kill.
        let again = Volumes::new(volumes.config.clone());
        for _ in 0..2 {
            let told = again.erase(volume).unwrap();
            assert_eq!(v1::VolumeEvidence { took_ms: evidence.took_ms, ..told }, evidence);
        }
        assert_eq!(volumes.state(volume).unwrap(), VolumeState::Absent);
        for _ in 0..2 {
            volumes.forget(volume).unwrap();
            assert_eq!(volumes.erase(volume).unwrap(), nothing);
        }
        assert_eq!(fs::read_dir(&volumes.config.volumes).unwrap().count(), 0);
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        let Fixture { volumes, volume, directory } = fixture();
        for size in [0, u64::MAX, u64::MAX / GIB] {
            assert!(volumes.create(volume, size, &key(7)).is_err());
        }
        File::options()
            .write(true)
            .open(directory.path().join("base, with=signs.raw"))
            .unwrap()
            .set_len(3 * GIB + 1)
            .unwrap();
        let error = volumes.create(volume, 3, &key(7)).unwrap_err();
        assert!(error.chain().contains("ask for 4 GiB"), "{}", error.chain());
        assert_eq!(volumes.state(volume).unwrap(), VolumeState::Absent);
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
        fixture.volumes.config.qemu_img = script;
        let error = fixture.volumes.create(fixture.volume, 1, &key(0xa7)).unwrap_err();
        assert!(error.chain().contains("no room"), "{}", error.chain());
        let secret = "a7".repeat(32);
        assert_eq!(fs::read_to_string(directory.join("seen.stdin")).unwrap(), secret);
        let seen = fs::read_to_string(seen).unwrap();
        assert!(seen.contains("encrypt.format=luks") && !seen.contains("a7a7a7"), "{seen}");
        assert!(!seen.contains("CARGO"), "the agent's environment is not handed on: {seen}");
    }
}
