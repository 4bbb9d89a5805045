//! One logical volume a volume, LUKS2 on it, opened by the kernel while a machine runs.
//!
//! ```text
//!          lvcreate                the area is empty             header (and image) made
//!   absent ────────▶ holm.making ─────────────────▶ holm.formatting ─────────────────▶ no tag (complete)
//!      ▲                  │                                │                              │
//!      │ lvremove         │ lvremove                       ▼                              ▼
//!      └──────────────────┴─────────────────────────────────────────────────────── holm.erasing
//! ```
//!
//! The words are tags of the logical volume, which LVM changes in one write, and which are read without any key; with
//! them stand what the volume is for, and `holm.changing` while its key is changed. All but the last two mean partial.
//!
//! Formatting happens once in a volume's life: where `holm.making` becomes `holm.formatting`, and only where nothing is
//! found that anybody knows. A complete volume whose header is damaged or gone is an error and never formatted. The
//! header that is checked is the one that is used: `cryptsetup` opens the volume by a copy of the checked bytes.
//!
//! Within, a volume is a qcow2 image written onto the opened device: every write is encrypted below it, and whatever a
//! tenant writes, the host's udev and LVM find no file system and no volume group of hers on a device of its own. A
//! root volume is a thin layer over the base image that way; the others lie in the order of their disk, each place
//! known from the start.

pub(super) mod crypt;
pub(super) mod header;
mod lvm;
#[cfg(test)]
mod tests;

use self::{
    crypt::Mapping,
    header::Fault,
    lvm::{Found, Group},
};
use super::{
    Backend, Base, Disk, GIB, Grown, Kind,
    backup::staged,
    base_of, bytes_of,
    erase::{self, Wiped},
    evidence::{Remembered, evidence},
    exists, failed,
    qcow2_luks::smaller,
    qemu_img::{self, Changed},
    step,
    tool::{self, Copy, passphrase},
    wrong_key,
};
use crate::{
    config::StorageConfig,
    edge::{EdgeError, Key, Rekeyed, Result, Room, VolumeState},
};
use holm_proto::{ids::VolumeId, v1};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _},
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

pub(super) const MAKING: &str = "holm.making";
const FORMATTING: &str = "holm.formatting";
const ERASING: &str = "holm.erasing";
const CHANGING: &str = "holm.changing";
const BLKID: &str = "/usr/sbin/blkid";
const BLKDISCARD: &str = "/usr/sbin/blkdiscard";
/// How long what LVM said of its room is good for: an inventory is taken every few seconds.
const CAPACITY_AGE: Duration = Duration::from_secs(60);

/// The volumes in a volume group.
#[derive(Debug)]
pub struct LvmLuks2 {
    config: StorageConfig,
    pub(super) group: Group,
    remembered: Remembered,
    capacity: Mutex<Option<(Instant, u64)>>,
    /// Two volumes are not promised the same room.
    pub(super) promising: Mutex<()>,
}

impl LvmLuks2 {
    /// Those that the configuration names. Nothing is touched.
    pub fn new(config: StorageConfig) -> Result<Self> {
        let group = config.volume_group.clone();
        let name = group.ok_or_else(|| EdgeError::new("`[host.storage]` names no `volume_group`"))?.into();
        Ok(Self {
            group: Group {
                name,
                pool: config.thin_pool.clone().map(Into::into),
                overcommit: config.overcommit,
            },
            remembered: Remembered::new(config.volumes.clone()),
            config,
            capacity: Mutex::default(),
            promising: Mutex::default(),
        })
    }

    pub(super) fn find(&self, volume: VolumeId) -> Result<Option<Found>> {
        self.group.find(volume).map_err(|error| {
            EdgeError::because(format!("cannot ask LVM about volume group `{}`", self.group.name), error)
        })
    }

    /// The first bytes of a volume's device.
    fn head(&self, volume: VolumeId, found: &Found, bytes: u64) -> io::Result<Vec<u8>> {
        if !found.active {
            self.group.activate(volume)?;
        }
        read_head(&self.group.path(volume), bytes)
    }

    /// A volume that must be complete, its header whole. One that a change of key tore is mended.
    pub(super) fn complete(&self, volume: VolumeId) -> Result<Found> {
        let found = self.find(volume)?.filter(|found| !is_partial(found));
        let found = found.ok_or_else(|| EdgeError::new(format!("there is no complete volume `{volume}`")))?;
        if self.header(volume, &found)? == Err(Fault::Torn) && found.tags.contains(CHANGING) {
            tracing::warn!(%volume, "its header was torn while its key was changed: mended from the whole copy");
            crypt::repair(&self.group.path(volume))
                .map_err(|error| failed("mend the header of", volume, error))?;
        }
        self.header(volume, &found)?.map_err(|fault| damaged(volume, fault))?;
        Ok(found)
    }

    fn header(&self, volume: VolumeId, found: &Found) -> Result<std::result::Result<header::Header, Fault>> {
        let head = self.head(volume, found, header::BYTES as u64);
        let head = head.map_err(|error| failed("read the header of", volume, error))?;
        Ok(header::check(&head, volume))
    }

    /// How a volume is open, if it is. A device of its name that is another's is an error.
    pub(super) fn mapping(&self, volume: VolumeId) -> Result<Option<Mapping>> {
        let all = crypt::mappings().map_err(|error| failed("look whether the kernel has", volume, error))?;
        let mapping = all.into_iter().find(|mapping| mapping.volume == volume);
        if mapping.as_ref().is_some_and(|mapping| !mapping.ours) {
            return Err(EdgeError::new(format!(
                "`{}` is not of the agent's making: look at `dmsetup info`, and remove it",
                crypt::path(volume).display()
            )));
        }
        Ok(mapping)
    }

    /// Opens it by the very bytes that were checked.
    pub(super) fn map(&self, volume: VolumeId, found: &Found, key: &Key) -> Result<()> {
        let failed = |error| failed("open", volume, error);
        let head = self.head(volume, found, header::DATA_OFFSET).map_err(failed)?;
        header::check(&head, volume).map_err(|fault| damaged(volume, fault))?;
        let copy = Copy::new(&head).map_err(failed)?;
        let device = self.group.path(volume);
        if crypt::open(&copy, &device, volume, key, self.config.discard).map_err(failed)? {
            Ok(())
        } else {
            Err(wrong_key(volume))
        }
    }

    /// From an empty area on.
    fn format(
        &self,
        volume: VolumeId,
        found: &Found,
        bytes: u64,
        key: &Key,
        base: Option<Base<'_>>,
    ) -> Result<()> {
        let device = self.group.path(volume);
        let failed = |error| failed("make", volume, error);
        self.group.tag(volume, &[FORMATTING], &[MAKING]).map_err(failed)?;
        tracing::info!(%volume, device = %device.display(), "formatted, this once");
        step();
        crypt::format(&device, volume, key).map_err(failed)?;
        step();
        self.header(volume, found)?.map_err(|fault| damaged(volume, fault))?;
        self.map(volume, found, key)?;
        step();
        qemu_img::create(&self.config, &crypt::path(volume), bytes, base, None)?;
        File::open(crypt::path(volume)).and_then(|file| file.sync_all()).map_err(failed)?;
        step();
        self.close(volume)?;
        step();
        File::open(&device).and_then(|file| file.sync_all()).map_err(failed)?;
        self.group.tag(volume, &[], &[FORMATTING]).map_err(failed)?;
        step();
        Ok(())
    }

    /// Takes a volume away, and what opened it first. `None` where nothing was ever written to it.
    pub(super) fn wipe(
        &self,
        volume: VolumeId,
        found: &Found,
        before_gone: impl FnOnce(Wiped) -> io::Result<()>,
    ) -> Result<Option<Wiped>> {
        self.close(volume)?;
        let failed = |error| failed("erase", volume, error);
        if found.tags.contains(MAKING) {
            self.group.remove(volume).map_err(failed)?;
            return Ok(None);
        }
        if !found.tags.contains(ERASING) {
            self.group.tag(volume, &[ERASING], &[]).map_err(failed)?;
            step();
        }
        let device = self.group.path(volume);
        let wipe = || -> io::Result<Wiped> {
            if !found.active {
                self.group.activate(volume)?;
            }
            let mut wiped = erase::wipe_device(&device, header::DATA_OFFSET)?;
            // What a thin pool has taken back reads as zeros; it takes it by this only.
            if wiped.discarded == 0
                && self.group.pool.is_some()
                && tool::run(Command::new(BLKDISCARD).arg(&device), None)?.done().is_ok()
            {
                wiped.discarded = found.bytes;
            }
            step();
            before_gone(wiped)?;
            step();
            self.group.remove(volume)?;
            step();
            Ok(wiped)
        };
        wipe().map(Some).map_err(failed)
    }
}

impl Backend for LvmLuks2 {
    fn state(&self, volume: VolumeId) -> Result<VolumeState> {
        let mut found = self.find(volume)?;
        if found.is_none() {
            self.put_back(volume)?;
            found = self.find(volume)?;
        }
        let Some(found) = found else { return Ok(VolumeState::Absent) };
        if is_partial(&found) {
            return Ok(VolumeState::Partial);
        }
        match self.header(volume, &found)? {
            Ok(_) => Ok(VolumeState::Complete),
            Err(Fault::Torn) if found.tags.contains(CHANGING) => Ok(VolumeState::Complete),
            Err(fault) => Err(damaged(volume, fault)),
        }
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
        let found = self.find(volume)?;
        if found.as_ref().is_some_and(|found| !is_partial(found)) {
            return Err(exists(volume));
        }
        let bytes = bytes_of(base, size_gib)?;
        if let Some(found) = found {
            self.wipe(volume, &found, |_| Ok(()))?;
        }
        step();
        let failed = |error| failed("make", volume, error);
        let found = {
            let _alone = self.promising.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = around(bytes);
            let room = self.group.has_room(bytes);
            room.and_then(|()| self.group.make(volume, bytes, &[MAKING, tag(kind)])).map_err(failed)?
        };
        step();
        let device = self.group.path(volume);
        if let Some(what) = found_in(&device).map_err(failed)? {
            return Err(EdgeError::new(format!(
                "volume `{volume}` would lie over something ({what}) in the free space of volume group `{}`: nothing \
                 was written; if nobody needs it, `wipefs --all {}`, and ask again",
                self.group.name,
                device.display()
            )));
        }
        let made = self.format(volume, &found, bytes, key, base);
        if made.is_err()
            && let Ok(Some(found)) = self.find(volume)
            && is_partial(&found)
            && let Err(error) = self.wipe(volume, &found, |_| Ok(()))
        {
            let error = error.chain();
            tracing::warn!(%volume, error, "a half-made volume stays until it is made or erased again");
        }
        made
    }

    fn open(&self, volume: VolumeId, key: &Key) -> Result<Disk> {
        let found = self.complete(volume)?;
        match self.mapping(volume)? {
            None => self.map(volume, &found, key)?,
            Some(_) => {
                let opens = crypt::opens(&self.group.path(volume), key);
                if !opens.map_err(|error| failed("open", volume, error))? {
                    return Err(wrong_key(volume));
                }
            }
        }
        Ok(Disk::Block(crypt::path(volume)))
    }

    fn close(&self, volume: VolumeId) -> Result<()> {
        if self.mapping(volume)?.is_none()
            || crypt::close(volume).map_err(|error| failed("close", volume, error))?
        {
            return Ok(());
        }
        Err(EdgeError::new(format!(
            "volume `{volume}` is in use: `fuser -v {}` says by what",
            crypt::path(volume).display()
        )))
    }

    fn close_idle(&self, but: &BTreeSet<VolumeId>) -> Result<()> {
        let all = crypt::mappings()
            .map_err(|error| EdgeError::because("cannot look which volumes the kernel has open", error))?;
        let idle = all.into_iter().filter(|mapping| mapping.ours && !mapping.used);
        let busy = |volume: &VolumeId| but.iter().any(|one| one == volume || staged(*one) == *volume);
        let mut outcome = Ok(());
        for volume in idle.map(|mapping| mapping.volume).filter(|volume| !busy(volume)) {
            // udev looks at a device whenever somebody has closed it: next time, then.
            match crypt::close(volume) {
                Ok(true) => tracing::info!(%volume, "nothing uses it: closed"),
                Ok(false) => {}
                // The others are closed all the same.
                Err(error) => outcome = Err(failed("close", volume, error)),
            }
        }
        outcome
    }

    fn grow(&self, volume: VolumeId, size_gib: u64, key: &Key) -> Result<Grown> {
        let bytes = bytes_of(None, size_gib)?;
        let found = self.complete(volume)?;
        let failed = |error| failed("grow", volume, error);
        // One GiB less is what fits without what LVM rounds up.
        let next = size_gib.checked_add(1).and_then(|gib| gib.checked_mul(GIB));
        if next.is_some_and(|next| found.bytes >= around(next)) {
            return Err(smaller(volume, size_gib, found.bytes));
        }
        if !crypt::opens(&self.group.path(volume), key).map_err(failed)? {
            return Err(wrong_key(volume));
        }
        if found.bytes < around(bytes) {
            let _alone = self.promising.lock().unwrap_or_else(PoisonError::into_inner);
            let larger = around(bytes);
            let room = self.group.has_room(larger.saturating_sub(found.bytes));
            room.and_then(|()| self.group.extend(volume, larger)).map_err(failed)?;
            step();
        }
        let before = self.mapping(volume)?;
        if before.is_some() {
            crypt::resize(volume, key).map_err(failed)?;
            step();
        }
        if before.as_ref().is_some_and(|mapping| mapping.used) {
            return Ok(Grown::TellMachine);
        }
        if before.is_none() {
            self.map(volume, &found, key)?;
        }
        step();
        let resized = qemu_img::resize(&self.config, &crypt::path(volume), bytes, None).map_err(failed);
        step();
        if before.is_none() {
            self.close(volume)?;
        }
        Ok(if resized? == Changed::InUse { Grown::TellMachine } else { Grown::Done })
    }

    fn change_passphrase(&self, volume: VolumeId, old: &Key, new: &Key) -> Result<Rekeyed> {
        let found = self.complete(volume)?;
        let device = self.group.path(volume);
        let failed = |error| failed("change the passphrase of", volume, error);
        let opens = |key| crypt::opens(&device, key).map_err(failed);
        let has_new = opens(new)?;
        let has_old = passphrase(old) != passphrase(new) && opens(old)?;
        if !has_new && !has_old {
            return Err(wrong_key(volume));
        }
        if !found.tags.contains(CHANGING) {
            self.group.tag(volume, &[CHANGING], &[]).map_err(failed)?;
            step();
        }
        if !has_new {
            crypt::add_key(&device, old, new).map_err(failed)?;
            step();
            if !opens(new)? {
                return Err(EdgeError::new(format!(
                    "volume `{volume}` kept its key: the new one does not open it"
                )));
            }
        }
        if has_old {
            crypt::remove_key(&device, old).map_err(failed)?;
            step();
        }
        // What is left is one key, and it is the new one.
        let header = self.header(volume, &found)?.map_err(|fault| damaged(volume, fault))?;
        if header.slots != 1 || !opens(new)? {
            return Err(EdgeError::new(format!(
                "{} keys open volume `{volume}`, and one should",
                header.slots
            )));
        }
        File::open(&device).and_then(|file| file.sync_all()).map_err(failed)?;
        self.group.tag(volume, &[], &[CHANGING]).map_err(failed)?;
        step();
        Ok(Rekeyed::Done)
    }

    fn erase(&self, volume: VolumeId) -> Result<v1::VolumeEvidence> {
        let started = Instant::now();
        let remember = |wiped| self.remembered.remember(&evidence(volume, wiped, started));
        let wiped = match self.find(volume)? {
            Some(found) => self.wipe(volume, &found, remember)?,
            None => None,
        };
        match wiped {
            Some(wiped) => Ok(evidence(volume, wiped, started)),
            None => {
                self.remembered.recall(volume).map_err(|error| failed("say what was done to", volume, error))
            }
        }
    }

    fn forget(&self, volume: VolumeId) -> Result<()> {
        self.remembered.forget(volume).map_err(|error| failed("forget the erasure of", volume, error))
    }

    /// What volumes have and what nobody has, in the volume group or its thin pool.
    fn capacity_gib(&self) -> Result<u64> {
        let mut kept = self.capacity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gib)) = kept.filter(|(at, _)| at.elapsed() < CAPACITY_AGE) {
            return Ok(gib);
        }
        let bytes = self.group.capacity().map_err(|error| {
            EdgeError::because(format!("cannot ask LVM about volume group `{}`", self.group.name), error)
        })?;
        let gib = bytes / GIB;
        *kept = Some((Instant::now(), gib));
        Ok(gib)
    }

    fn room(&self) -> Result<Option<Room>> {
        self.group.room().map_err(|error| {
            EdgeError::because(
                format!("cannot ask LVM how full volume group `{}` is", self.group.name),
                error,
            )
        })
    }

    fn lacks(&self) -> Vec<String> {
        let programs = [lvm::LVM, crypt::CRYPTSETUP, crypt::DMSETUP, BLKID, BLKDISCARD];
        let missing = programs.into_iter().filter(|program| !Path::new(program).is_file());
        let missing: Vec<String> = missing
            .map(|program| format!("there is no `{program}`: install lvm2, cryptsetup-bin, util-linux"))
            .collect();
        if !missing.is_empty() {
            return missing;
        }
        let capacity = self.capacity_gib().err();
        let mapper =
            crypt::mappings().err().map(|error| EdgeError::because("the kernel has no device mapper", error));
        let waits = self.group.tells_when_full().is_ok_and(|tells| !tells).then(|| {
            EdgeError::new(format!(
                "a full thin pool keeps who writes waiting, in which no machine can be stopped, rather than telling QEMU, \
                 which pauses the machine: `lvchange --errorwhenfull y {0}/{1}`",
                self.group.name,
                self.group.pool.as_deref().unwrap_or_default()
            ))
        });
        capacity.into_iter().chain(mapper).chain(waits).map(|error| error.chain()).collect()
    }
}

fn is_partial(found: &Found) -> bool {
    [MAKING, FORMATTING, ERASING].iter().any(|tag| found.tags.contains(*tag))
}

pub(super) fn tag(kind: Kind) -> &'static str {
    match kind {
        Kind::Root => "holm.root",
        Kind::Data => "holm.data",
        Kind::Scratch => "holm.scratch",
    }
}

/// A disk of `bytes` with all that lies around it: the LUKS2 header and the image's tables, which take 8 and 2 bytes
/// for each 64 KiB at most, and a few whole clusters of 2 MiB.
fn around(bytes: u64) -> u64 {
    header::DATA_OFFSET + bytes / 4096 + (32 << 20) + bytes
}

pub(super) fn damaged(volume: VolumeId, fault: Fault) -> EdgeError {
    EdgeError::because(format!("volume `{volume}` cannot be used"), fault)
}

/// What is found in an area that should be empty.
fn found_in(device: &Path) -> io::Result<Option<String>> {
    let head = read_head(device, header::BYTES as u64)?;
    if header::is_luks(&head) {
        return Ok(Some("LUKS".to_owned()));
    }
    if head.starts_with(b"QFI\xfb") {
        return Ok(Some("qcow2".to_owned()));
    }
    let ended = tool::run(Command::new(BLKID).args(["--probe", "--output", "export"]).arg(device), None)?;
    match ended.code() {
        Some(2) => return Ok(None),
        Some(8) => return Ok(Some("several things at once".to_owned())),
        _ => {}
    }
    let answer = ended.answer()?;
    let answer = String::from_utf8_lossy(&answer);
    let kind = answer.lines().find_map(|line| line.strip_prefix("TYPE=").or(line.strip_prefix("PTTYPE=")));
    Ok(Some(kind.unwrap_or("something").escape_debug().to_string()))
}

pub(super) fn read_head(device: &Path, bytes: u64) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(device)?.take(bytes).read_to_end(&mut head)?;
    Ok(head)
}
