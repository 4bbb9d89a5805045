//! Encrypted volumes. Two back ends do the same in two ways, and one suite (`conformance`) holds both to it:
//!
//! | | [`qcow2_luks`] | [`lvm_luks2`] |
//! |---|---|---|
//! | a volume is | a file, LUKS inside | a logical volume, LUKS2 on it |
//! | who encrypts | QEMU, given the key by libvirt | the kernel, given the key by `cryptsetup` |
//! | a root volume | qcow2 over the base image | the same, on the opened device |
//! | other volumes | qcow2, empty | the same, each cluster in its place |
//! | what it is becoming | in the file's name | in a tag of the logical volume |
//!
//! Either way a volume's name is its id and nothing else, what it is becoming is read without its key, and how long
//! it takes to make one does not depend on its size.

mod anew;
pub mod backup;
mod elsewhere;
mod erase;
mod evidence;
pub mod lvm_luks2;
mod qcow2;
pub mod qcow2_luks;
mod qemu_img;
mod tool;

#[cfg(test)]
mod conformance;

pub use self::tool::passphrase;

use self::{
    backup::{Backups, Staging},
    elsewhere::Elsewhere,
    lvm_luks2::LvmLuks2,
    qcow2_luks::Qcow2Luks,
};
use crate::{
    config::{ImageFormat, Overcommit, StorageBackend, StorageConfig},
    edge::{
        Anew, Backup, EdgeError, Key, Keys, Made, Rekeyed, Result, Room, VolumeKind as Kind, VolumeState,
        Watch,
    },
};
use holm_proto::{ids::VolumeId, v1};
use secrecy::ExposeSecretMut as _;
use std::{
    collections::BTreeSet,
    fmt::Debug,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

const GIB: u64 = 1 << 30;

/// How a machine gets at a volume that is open. What is found there is qcow2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disk {
    /// A file with LUKS in it: who opens it needs the key.
    File(PathBuf),
    /// A block device behind which everything is encrypted: who opens it needs no key.
    Block(PathBuf),
}

/// How far a volume has grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grown {
    /// It has the size.
    Done,
    /// There is room for it, and the machine that has it open must be told (libvirt's `blockResize`).
    TellMachine,
}

/// A way to keep volumes. Each call blocks, has a limit, and ends the same when it is begun again after a kill at
/// any point. Two calls for one volume at once are kept apart by [`Volumes`].
pub trait Backend: Staging + Debug + Send + Sync {
    /// How far a volume has come; needs no key. One whose header is damaged is an error: it may hold data.
    fn state(&self, volume: VolumeId) -> Result<VolumeState>;
    /// Makes a volume of `size_gib` GiB that only `key` opens. One that exists is refused, and so is an area that
    /// holds something; what an earlier call left half made is made anew.
    fn create(&self, volume: VolumeId, kind: Kind, size_gib: u64, key: &Key) -> Result<()> {
        self.create_over(volume, kind, size_gib, key, None)
    }
    /// The same of a root volume over this image; `None`: over the one of the configuration.
    fn create_over(
        &self,
        volume: VolumeId,
        kind: Kind,
        size_gib: u64,
        key: &Key,
        over: Option<Base<'_>>,
    ) -> Result<()>;
    /// Makes a complete volume ready for a machine. Nothing happens where it is, but a wrong key is still refused
    /// where the key is used here.
    fn open(&self, volume: VolumeId, key: &Key) -> Result<Disk>;
    /// Takes back what [`Backend::open`] did; refused while something uses it. Nothing happens where it is closed.
    fn close(&self, volume: VolumeId) -> Result<()>;
    /// Closes every volume that nothing uses, but for these. One that something looks at just then stays open until
    /// it is asked again.
    fn close_idle(&self, but: &BTreeSet<VolumeId>) -> Result<()>;
    /// Makes a volume larger, open or not. A smaller size is refused; the one it has is no error.
    fn grow(&self, volume: VolumeId, size_gib: u64, key: &Key) -> Result<Grown>;
    /// Afterwards `new` opens it and `old` does not. Cut off, it is opened by one of them or both: ask again.
    fn change_passphrase(&self, volume: VolumeId, old: &Key, new: &Key) -> Result<Rekeyed>;
    /// Overwrites header and key slots, gives the area back, removes the volume, and says what was done; the same
    /// when it is asked again. Where there is nothing, nothing was erased.
    ///
    /// What makes the data unreadable is that the key is gone everywhere else: nothing promises that writing over a
    /// block writes over what it was. This takes away the other half all the same.
    fn erase(&self, volume: VolumeId) -> Result<v1::VolumeEvidence>;
    /// Lets go of what is remembered of an erasure.
    fn forget(&self, volume: VolumeId) -> Result<()>;
    /// Room for volumes, used or not, GiB.
    fn capacity_gib(&self) -> Result<u64>;
    /// How full that is which volumes share; `None` where each has its room for itself.
    fn room(&self) -> Result<Option<Room>>;
    /// What keeps this host from keeping volumes: programs, groups, modules that are not there.
    fn lacks(&self) -> Vec<String>;
}

/// The volumes of a host.
#[derive(Debug, Clone)]
pub struct Volumes {
    backend: Arc<dyn Backend>,
    overcommit: Overcommit,
    elsewhere: Arc<Elsewhere>,
    in_hand: Arc<Mutex<BTreeSet<VolumeId>>>,
    base_image: PathBuf,
    /// Nothing lies beside a volume that is nobody's.
    cleared: Arc<AtomicBool>,
}

impl Volumes {
    /// The volumes that the configuration names. Nothing is touched.
    pub fn new(config: StorageConfig) -> Result<Self> {
        config.check().map_err(EdgeError::new)?;
        let elsewhere = Arc::new(Elsewhere::new(&config));
        let (overcommit, base_image) = (config.overcommit, config.base_image.clone());
        let backend: Arc<dyn Backend> = match config.backend {
            StorageBackend::Qcow2Luks => Arc::new(Qcow2Luks::new(config)),
            StorageBackend::LvmLuks2 => Arc::new(LvmLuks2::new(config)?),
        };
        let (in_hand, cleared) = (Arc::default(), Arc::default());
        Ok(Self { backend, overcommit, elsewhere, in_hand, base_image, cleared })
    }

    /// See [`Backend::state`]. One that the other back end keeps is an error, here and wherever it is worked on.
    pub fn state(&self, volume: VolumeId) -> Result<VolumeState> {
        self.elsewhere.refuse(volume)?;
        self.backend.state(volume)
    }

    /// See [`Backend::create`].
    pub fn create(&self, volume: VolumeId, kind: Kind, size_gib: u64, key: &Key) -> Result<()> {
        self.create_over(volume, kind, size_gib, key, None)
    }

    /// See [`Backend::create_over`].
    pub fn create_over(
        &self,
        volume: VolumeId,
        kind: Kind,
        size_gib: u64,
        key: &Key,
        over: Option<Base<'_>>,
    ) -> Result<()> {
        let _hand = self.take(volume)?;
        self.backend.create_over(volume, kind, size_gib, key, over)
    }

    /// See [`Backend::open`]. It is not closed as idle, and nothing else is done to it, as long as the hand holds it:
    /// until the machine has it.
    pub fn open(&self, volume: VolumeId, key: &Key) -> Result<(Disk, Hand)> {
        let hand = self.take(volume)?;
        Ok((self.backend.open(volume, key)?, hand))
    }

    /// Closes what no machine uses: one that ended, whoever ended it, or never started.
    pub fn close_idle(&self) -> Result<()> {
        // Nobody begins to open one meanwhile.
        self.backend.close_idle(&self.in_hand.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// See [`Backend::grow`].
    pub fn grow(&self, volume: VolumeId, size_gib: u64, key: &Key) -> Result<Grown> {
        let _hand = self.take(volume)?;
        self.backend.grow(volume, size_gib, key)
    }

    /// See [`Backend::change_passphrase`].
    pub fn change_passphrase(&self, volume: VolumeId, old: &Key, new: &Key) -> Result<Rekeyed> {
        let _hand = self.take(volume)?;
        self.backend.change_passphrase(volume, old, new)
    }

    /// See [`Backups::make`]. Nothing else is done to any of them meanwhile; so of those that follow.
    pub fn back_up(&self, to: &Backups, wanted: &Backup, watch: &dyn Watch) -> Result<Made> {
        let _hands = self.take_all(wanted)?;
        to.make(&*self.backend, wanted, watch)
    }

    /// See [`Backups::restore`].
    pub fn restore(&self, from: &Backups, wanted: &Backup, watch: &dyn Watch) -> Result<u64> {
        let _hands = self.take_all(wanted)?;
        let outcome = from.restore(&*self.backend, wanted, watch);
        self.cleared.fetch_and(outcome.is_ok(), Ordering::Relaxed);
        outcome
    }

    /// See [`Backups::drill`].
    pub fn drill(
        &self,
        from: &Backups,
        wanted: &Backup,
        keys: &Keys,
        watch: &dyn Watch,
    ) -> Result<(&'static str, u64)> {
        let _hands = self.take_all(wanted)?;
        let outcome = from.drill(&*self.backend, wanted, keys, watch);
        self.cleared.fetch_and(outcome.is_ok(), Ordering::Relaxed);
        outcome
    }

    /// See [`anew::encrypt`]. Nothing else is done to any of them meanwhile.
    pub fn encrypt_anew(&self, wanted: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<Anew> {
        let _hands = self.take_all(wanted)?;
        let outcome = anew::encrypt(&*self.backend, &self.base_image, wanted, keys, watch);
        self.cleared.fetch_and(outcome.is_ok(), Ordering::Relaxed);
        outcome
    }

    /// Overwrites and removes what lies beside volumes, of a copy that a kill or a failure cut off. By what was begun and
    /// ended elsewhere nobody would be reminded of it, and a key that opens a volume no more would open that still.
    pub fn clear_staged(&self) {
        if self.cleared.load(Ordering::Relaxed) {
            return;
        }
        let clear =
            |volume: VolumeId| self.take(volume).and_then(|_hand| anew::clear(&*self.backend, volume));
        let all = self.backend.left_staged();
        let outcome = all.and_then(|all| all.into_iter().try_for_each(|volume| clear(volume).map(drop)));
        match outcome {
            Ok(()) => self.cleared.store(true, Ordering::Relaxed),
            Err(error) => tracing::warn!("what lies beside a volume stays for now: {}", error.chain()),
        }
    }

    /// See [`Backend::erase`]. A copy that was fetched goes first.
    pub fn erase(&self, volume: VolumeId) -> Result<v1::VolumeEvidence> {
        let _hand = self.take(volume)?;
        self.backend.drop_staged(volume)?;
        self.backend.erase(volume)
    }

    /// See [`Backend::forget`].
    pub fn forget(&self, volume: VolumeId) -> Result<()> {
        self.backend.forget(volume)
    }

    /// See [`Backend::room`].
    pub fn room(&self) -> Result<Option<Room>> {
        self.backend.room()
    }

    /// What may be promised to volumes together, GiB; 0 where it cannot be said.
    pub fn promises_gib(&self) -> u64 {
        self.backend.capacity_gib().map(|gib| self.overcommit.of(gib)).unwrap_or_else(|error| {
            tracing::error!("no room for volumes: {}", error.chain());
            0
        })
    }

    /// See [`Backend::lacks`].
    pub fn lacks(&self) -> Vec<String> {
        self.backend.lacks()
    }

    fn take_all(&self, wanted: &Backup) -> Result<Vec<Hand>> {
        wanted.volumes.iter().map(|(volume, _)| self.take(*volume)).collect()
    }

    fn take(&self, volume: VolumeId) -> Result<Hand> {
        self.elsewhere.refuse(volume)?;
        let mut all = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.insert(volume) {
            return Err(EdgeError::new(format!(
                "volume `{volume}` is being worked on: wait for that to end"
            )));
        }
        Ok(Hand { in_hand: Arc::clone(&self.in_hand), volume })
    }
}

/// A key that nobody else has.
pub fn random_key() -> Result<Key> {
    let mut key = Key::new(Box::new([0; 32]));
    aws_lc_rs::rand::fill(key.expose_secret_mut().as_mut_slice())
        .map_err(|_| EdgeError::new("no random numbers to be had"))?;
    Ok(key)
}

/// A volume that is being worked on, until this is dropped.
#[derive(Debug)]
pub struct Hand {
    in_hand: Arc<Mutex<BTreeSet<VolumeId>>>,
    volume: VolumeId,
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.volume);
    }
}

/// An image that a root volume is a layer over, and how it is written.
pub type Base<'a> = (&'a Path, ImageFormat);

/// What a root volume is made over, by the configuration where nothing else is said; nothing of another.
fn base_of<'a>(config: &'a StorageConfig, kind: Kind, over: Option<Base<'a>>) -> Option<Base<'a>> {
    (kind == Kind::Root).then(|| over.unwrap_or((config.base_image.as_path(), config.base_format)))
}

/// The bytes of a new volume, if it can have that size over this.
fn bytes_of(base: Option<Base<'_>>, size_gib: u64) -> Result<u64> {
    // Below the largest file: room for what lies around it.
    let bytes = size_gib
        .checked_mul(GIB)
        .filter(|bytes| *bytes > 0 && *bytes <= 1 << 62)
        .ok_or_else(|| EdgeError::new(format!("a volume of `{size_gib}` GiB cannot be made")))?;
    let least = base.map_or(Ok(0), base_bytes)?;
    if bytes < least {
        return Err(EdgeError::new(format!(
            "a volume of `{size_gib}` GiB is smaller than the base image: ask for {} GiB or more",
            least.div_ceil(GIB)
        )));
    }
    Ok(bytes)
}

/// The virtual size of the base image.
fn base_bytes((path, format): Base<'_>) -> Result<u64> {
    let failed = |error: io::Error| {
        EdgeError::because(format!("cannot read the base image `{}`", path.display()), error)
    };
    match format {
        ImageFormat::Raw => Ok(fs::metadata(path).map_err(failed)?.len()),
        ImageFormat::Qcow2 => Ok(qcow2::read(path).map_err(failed)?.bytes),
    }
}

/// Refuses what would be promised beyond what there is. `what`: that which volumes share, and how it is made larger.
fn refuse_promise(
    what: (&str, &str),
    room: u64,
    overcommit: Overcommit,
    promised: u64,
    more: u64,
) -> io::Result<()> {
    let most = overcommit.of(room);
    if promised.saturating_add(more) <= most {
        return Ok(());
    }
    let times = if overcommit.is_one() { String::new() } else { format!(" and may promise {}", most / GIB) };
    Err(io::Error::other(format!(
        "{} has {} GiB{times}, {} of them promised to volumes: there is no room for {} more; make it larger{}, or \
         destroy a slice that is not needed",
        what.0,
        room / GIB,
        promised.div_ceil(GIB),
        more.div_ceil(GIB),
        what.1
    )))
}

fn exists(volume: VolumeId) -> EdgeError {
    EdgeError::new(format!("volume `{volume}` exists: a volume is never made anew over another"))
}

fn wrong_key(volume: VolumeId) -> EdgeError {
    EdgeError::new(format!("the key does not open volume `{volume}`"))
}

fn failed(doing: &str, volume: VolumeId, error: io::Error) -> EdgeError {
    EdgeError::because(format!("cannot {doing} volume `{volume}`"), error)
}

/// A step is done and the next not begun: where tests end an operation as a kill would.
#[cfg(not(test))]
fn step() {}
#[cfg(test)]
use conformance::step;
