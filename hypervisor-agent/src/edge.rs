//! Where decisions end and the machine begins.
//!
//! [`Host`] is all that an agent can do to a machine. The real host and the simulated one differ behind
//! it and nowhere else (invariant 9). Every method blocks, has a time limit of its own, may be called
//! again after a kill at any point (invariant 6), and reads the machine rather than remembering it.

use crate::config::ImageFormat;
use holm_proto::ids::{BackupId, PciAddress, RunId, SliceId, VolumeId};
use holm_proto::v1;
use secrecy::SecretBox;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// A volume key: 32 random bytes, wiped when dropped, not shown by `Debug`.
pub type Key = SecretBox<[u8; 32]>;

/// The keys of a slice's volumes.
pub type Keys = BTreeMap<VolumeId, Key>;

/// What went wrong at the edge, in words for a person; the cause is chained, not repeated.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct EdgeError {
    /// What was being done, to what.
    pub what: String,
    /// What the system said.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EdgeError {
    /// An error with nothing underneath.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None }
    }

    /// An error with the system's own word chained.
    pub fn because(
        what: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what: what.into(), cause: Some(cause.into()) }
    }

    /// The whole chain on one line, outermost first.
    pub fn chain(&self) -> String {
        let mut text = self.what.clone();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }
}

/// The outcome of a call at the edge.
pub type Result<T> = std::result::Result<T, EdgeError>;

/// How far a volume has come. What is neither absent nor provably complete is partial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeState {
    /// Nothing of it is there.
    Absent,
    /// Something is there that was never finished: it holds no data and is made again.
    Partial,
    /// Made, with its header in place.
    Complete,
}

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// A slice's own layer over the base image that all share.
    Root,
    /// A project's data: empty when it is made.
    Data,
    /// Room to work in that nobody keeps: empty at each start.
    Scratch,
}

/// A volume beside the root volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherVolume {
    /// Which.
    pub volume: VolumeId,
    /// Data or scratch.
    pub kind: VolumeKind,
    /// GiB.
    pub size_gib: u64,
    /// It holds data: the guest is not to format it.
    pub used: bool,
}

/// What a root volume is a layer over, and what boots it: they belong together, and a slice keeps those that it was
/// made with until it is rebuilt, whatever the host has for new ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The base image, which is shared and only read.
    pub base: PathBuf,
    /// How that is written.
    pub format: ImageFormat,
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initial file system.
    pub initrd: PathBuf,
}

/// What was encrypted anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anew {
    /// Of the volumes, bytes.
    pub bytes: u64,
    /// Of what was there before, bytes.
    pub overwritten: u64,
}

/// What became of a wish to change a volume's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rekeyed {
    /// The new key opens it, and the old one does not.
    Done,
    /// A machine has it open in a way that keeps its header from being changed: nothing was done.
    AtRest,
}

/// How full the file system or thin pool is that volumes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// All that volumes may have.
    pub bytes: u64,
    /// What nobody has yet.
    pub free: u64,
}

impl Room {
    /// Rounded down, so that only what is full is 100.
    pub fn used_percent(self) -> u64 {
        holm_proto::fullness::percent(self.bytes, self.free)
    }
}

/// A slice's virtual machine as the hypervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainStatus {
    /// Whose it is.
    pub slice: SliceId,
    /// Its process runs.
    pub running: bool,
    /// It runs and stands still: there was no room for what it wrote.
    pub paused: bool,
    /// The devices that it is defined with.
    pub devices: Vec<PciAddress>,
}

/// A part of one NUMA node that is a slice's alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaShare {
    /// The host's node.
    pub node: u32,
    /// Logical processors, all siblings of each core.
    pub cpus: Vec<u32>,
    /// Memory, MiB.
    pub memory_mib: u64,
}

/// What a virtual machine is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSpec {
    /// Whose it is.
    pub slice: SliceId,
    /// Shown on the domain (title), for the operator: the level's name only, never a project or person.
    pub level_name: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Its encrypted root disk.
    pub volume: VolumeId,
    /// Its other disks, at most one of each kind.
    pub others: Vec<OtherVolume>,
    /// Its devices, each in a viable group bound to vfio-pci.
    pub devices: Vec<PciAddress>,
    /// Where its memory and processors lie; empty: anywhere, shared with others. Where it is not, it holds all
    /// of the machine's processors and memory, each processor once.
    pub nodes: Vec<NumaShare>,
    /// What its root disk is a layer over, and what boots it; `None`: what the host has for new ones.
    pub image: Option<Image>,
}

/// What is handed to the guest at its first boot.
#[derive(Debug, Clone, PartialEq)]
pub struct Seed {
    /// Whose it is.
    pub slice: SliceId,
    /// Shown on the login banner.
    pub project: String,
    /// As the pack names it.
    pub level: String,
    /// As people call it.
    pub level_name: String,
    /// How many GPUs the slice was given.
    pub gpus: u32,
    /// Accounts.
    pub users: Vec<v1::GuestUser>,
    /// OpenSSH form of the key that signs people's certificates.
    pub ssh_ca: String,
    /// Its classes of jobs; `None`: as its image has them.
    pub scheduler: Option<v1::GuestScheduler>,
    /// Its level allows a terminal over SSH and copying in, and nothing else.
    pub terminal_only: bool,
    /// OpenSSH form of the key that signs people's certificates then.
    pub ssh_terminal_ca: String,
    /// The same where what a terminal shows is recorded as well; empty: it is not.
    pub ssh_recorded_ca: String,
    /// Its other disks.
    pub others: Vec<OtherVolume>,
}

/// A backup of volumes of one slice, as holmd knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Which: its name in the store.
    pub id: BackupId,
    /// Whose volumes.
    pub slice: SliceId,
    /// SHA-256 of its manifest, hexadecimal; empty of one that is to be made.
    pub manifest_sha256: String,
    /// Of which volumes, and which of them is a root volume.
    pub volumes: Vec<(VolumeId, bool)>,
    /// What the root volume lies over; `None`: what the host has for new ones.
    pub base: Option<PathBuf>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// SHA-256 of its manifest, hexadecimal.
    pub manifest_sha256: String,
    /// Of the volumes as they lie.
    pub bytes: u64,
    /// What lies in the store of it.
    pub stored_bytes: u64,
}

/// Who wants to know how far something is.
pub trait Watch {
    /// So many bytes are through, of so many. False: nobody wants it any more, it is to end.
    fn through(&self, done: u64, total: u64) -> bool;
    /// holmd is there and wants it still: asked before what cannot be taken back.
    fn is_wanted(&self) -> bool;
}

/// What a guest says of itself. Every byte of it is hostile until parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest's own start-up program runs.
    Boot,
    /// Slurm runs and knows its GPUs.
    Ready(v1::Guest),
    /// The guest gave up.
    Failed(String),
    /// How full its disks are: each at most once, none with more free than it has.
    Disks(Vec<v1::DiskUse>),
    /// It lives.
    Alive,
    /// What it calls the people who have accounts in it: as it was told, or nothing. Of nobody else does anything run.
    People(String),
    /// What it calls the classes of jobs that it has: as it was told, or nothing.
    Scheduler(String),
    /// What it claims of its jobs: plausible, as [`holm_proto::jobs`] has it.
    Jobs(v1::JobsUse),
    /// What it claims to have seen: plausible, as [`holm_proto::guest`] has it.
    Claim {
        /// The run of the guest that it is numbered in.
        boot: String,
        /// What.
        claim: v1::GuestClaim,
    },
    /// So many lines were no event, or too many at once.
    Lost(u64),
}

/// All that an agent can do to a machine.
pub trait Host: Send + Sync + 'static {
    /// `dgx-2` or what the configuration says.
    fn platform(&self) -> &str;
    /// True where nothing is real.
    fn simulated(&self) -> bool;
    /// Make good what an earlier agent left half done, and begin to look after the machine. An agent that serves
    /// calls it once, before anything else; it does not wait.
    fn begin(&self) -> Result<()> {
        Ok(())
    }
    /// The machine as it is now. Two looks at a machine that has not changed are equal.
    fn inventory(&self) -> Result<v1::Inventory>;
    /// The same with what is true of this moment only, such as temperatures: for the greeting of a session.
    fn inventory_now(&self) -> Result<v1::Inventory> {
        self.inventory()
    }
    /// Is the machine fit to keep tenants apart? What cannot be found out is said to be unknown.
    fn commission(&self) -> v1::Commissioning;
    /// Devices that a domain holds or whose VFIO group something has open.
    fn attached(&self) -> Result<BTreeSet<PciAddress>>;

    /// Bind to vfio-pci and check that the group is viable. Nothing happens where that is so already.
    fn bind(&self, device: PciAddress) -> Result<()>;
    /// Overwrite and read back all memory of a run's devices, each bound. Evidence for each; one of which none
    /// comes back, an `Err` and `cleaned: false` all mean dirty.
    fn sanitise(&self, run: RunId, devices: &[PciAddress]) -> Result<Vec<v1::Evidence>>;
    /// Bring up the fabric partition, before a machine starts in it; nothing happens where it is up. An error
    /// where one that overlaps it is up.
    fn activate_partition(&self, partition: u32) -> Result<()>;
    /// Take down the fabric partition, after its machine is gone; nothing happens where it is down.
    fn deactivate_partition(&self, partition: u32) -> Result<()>;
    /// The partitions that are up, as the fabric says; none where no fabric is driven.
    fn active_partitions(&self) -> Result<BTreeSet<u32>>;
    /// These are up: for a fabric manager that was restarted and waits to be told. Where none waits, what is up
    /// stays as it is.
    fn restore_partitions(&self, active: &BTreeSet<u32>) -> Result<()>;

    /// How far the volume has come.
    fn volume(&self, volume: VolumeId) -> Result<VolumeState>;
    /// Make the volume. Only ever called for one that is absent, or partial and never used.
    fn create_volume(&self, volume: VolumeId, kind: VolumeKind, size_gib: u64, key: &Key) -> Result<()>;
    /// What the host is configured with for new root volumes.
    fn image(&self) -> Image;
    /// The image of that id, whether it is here or not; of none, [`Self::image`].
    fn image_of(&self, _id: &str) -> Image {
        self.image()
    }
    /// The ids of images that are here.
    fn images(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    /// As [`Self::create_volume`], of a root volume over this image; an error where that is not here or not what it is called.
    fn create_root(&self, volume: VolumeId, size_gib: u64, key: &Key, _over: &Image) -> Result<()> {
        self.create_volume(volume, VolumeKind::Root, size_gib, key)
    }
    /// Make a volume larger, and tell the machine of its slice, where it runs. Nothing happens where it has the size.
    fn grow_volume(
        &self,
        slice: SliceId,
        volume: VolumeId,
        kind: VolumeKind,
        size_gib: u64,
        key: &Key,
    ) -> Result<()>;
    /// Afterwards `new` opens it and `old` does not. Cut off, it is opened by one of them or both: ask again.
    fn change_key(&self, volume: VolumeId, old: &Key, new: &Key) -> Result<Rekeyed>;
    /// Overwrite header and key slots, sync, give the area back, remove, and say what was done. Asked again it
    /// says the same, until [`Host::forget_volume`]. Where there is nothing it says that nothing was erased.
    fn erase_volume(&self, volume: VolumeId) -> Result<v1::VolumeEvidence>;
    /// Let go of what is remembered of a volume's erasure: its evidence is stored elsewhere.
    fn forget_volume(&self, volume: VolumeId) -> Result<()>;

    /// How full that is which volumes share; `None` where each has its room for itself.
    fn room(&self) -> Result<Option<Room>>;
    /// Where backups go, in a word; empty: nowhere.
    fn backups(&self) -> &'static str {
        ""
    }
    /// Copy volumes that no machine uses to the store. Begun again, what is there already is not copied again.
    fn back_up(&self, backup: &Backup, watch: &dyn Watch) -> Result<Made>;
    /// Make volumes that no machine uses what they were, all of them or none; how many bytes they have. What is in the
    /// store is checked first.
    fn restore_backup(&self, backup: &Backup, watch: &dyn Watch) -> Result<u64>;
    /// Fetch volumes to where no machine uses them, check them, open them with their keys and erase them. What was
    /// looked at, and how many bytes they have.
    fn drill_backup(&self, backup: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<(&'static str, u64)>;
    /// Write what volumes hold anew, under other data keys: volumes that no machine uses, and that their keys open before and
    /// after.
    fn encrypt_anew(&self, of: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<Anew>;
    /// Remove what lies beside volumes, of a copy that was cut off.
    fn clear_staged(&self) {}
    /// Remove a backup from the store, whole or not. One that is not there is removed.
    fn remove_backup(&self, backup: BackupId) -> Result<()>;

    /// Write the first-boot seed, replacing one that is there.
    fn write_seed(&self, seed: &Seed) -> Result<()>;
    /// Remove it. Nothing happens where there is none.
    fn remove_seed(&self, slice: SliceId) -> Result<()>;

    /// Every domain that is Holm's, running or only defined.
    fn domains(&self) -> Result<Vec<DomainStatus>>;
    /// Define (validated), lend the keys as ephemeral private secrets, start, take the secrets away. A scratch volume is
    /// made for it, under a key that nobody else ever has; one of before is erased first.
    fn start_domain(&self, spec: &DomainSpec, keys: &Keys) -> Result<()>;
    /// Take back what [`Host::start_domain`] lent and could not take back, because its agent ended.
    fn take_back_keys(&self, _: SliceId) -> Result<()> {
        Ok(())
    }
    /// Let a machine go on that was paused because there was no room for what it wrote: it writes that again. Nothing
    /// happens to one that runs, or that was paused by somebody.
    fn resume_domain(&self, slice: SliceId) -> Result<()>;
    /// Ask the guest to stop and give it `grace` to do so, then stop it, undefine it with its TPM state and
    /// secret; returns when the process is gone. Nothing happens where there is none.
    fn destroy_domain(&self, slice: SliceId, grace: Duration) -> Result<()>;

    /// What the guest said since it was asked last. Never waits.
    fn guest_events(&self, slice: SliceId) -> Result<Vec<GuestEvent>>;
    /// Tell the guest that what it claimed in this run of it is in the log up to this number. Never waits, and may be lost.
    fn acknowledge_guest(&self, slice: SliceId, boot: &str, seq: u64) -> Result<()>;
    /// Tell the guest who has an account in it from now on. Never waits, and may be lost.
    fn tell_guest_people(&self, slice: SliceId, users: &[v1::GuestUser]) -> Result<()>;
    /// Tell the guest which classes of jobs it has from now on, and whether jobs begin. Never waits, and may be lost.
    fn tell_guest_scheduler(&self, slice: SliceId, scheduler: &v1::GuestScheduler) -> Result<()>;
    /// A connected stream socket to the slice's SSH server.
    fn connect_ssh(&self, slice: SliceId) -> Result<OwnedFd>;
}
