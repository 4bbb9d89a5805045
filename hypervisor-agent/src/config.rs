//! The agent's configuration file: how the agent works, and what its machine is. A field that is not known is
//! an error, so that a slip of the pen is never a setting left at its default.
//!
//! `holm-agent.example.toml` beside this crate's manifest is the documentation of the file.

mod overcommit;

pub use self::overcommit::Overcommit;

use crate::commission::judge::{LEAST_KERNEL, LEAST_QEMU};
use holm_proto::{gpu::GpuKind, ids::PciAddress};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How the agent works.
    #[serde(default)]
    pub agent: AgentConfig,
    /// What its machine is. Only a simulated one needs none.
    pub host: Option<HostConfig>,
    /// How a simulated machine behaves. Looked at with `--simulate` only.
    #[serde(default)]
    pub simulate: SimulateConfig,
}

/// How the agent works: the section `[agent]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Where `holm enrol --dir` put this host's key, certificate, authority and server.
    pub identity: PathBuf,
    /// Where the agent keeps what it must not forget. Small, and of this host alone.
    pub record: PathBuf,
    /// How long a guest may take from its machine's start until its Slurm is ready, seconds.
    pub boot_limit_s: u32,
    /// How long a guest that was asked to stop may take before its machine is cut off, seconds.
    pub stop_limit_s: u32,
}

impl AgentConfig {
    /// How long a guest may take.
    pub fn boot_limit(&self) -> Duration {
        Duration::from_secs(self.boot_limit_s.into())
    }

    /// How long a guest may take to stop.
    pub fn stop_limit(&self) -> Duration {
        Duration::from_secs(self.stop_limit_s.into())
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            identity: "/etc/holm/agent".into(),
            record: "/var/lib/holm/agent".into(),
            // An emulated guest takes minutes.
            boot_limit_s: 20 * 60,
            stop_limit_s: 30,
        }
    }
}

/// How a simulated machine behaves: the section `[simulate]`. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulateConfig {
    /// Where the machine's state lies; below the agent's record where it is not said.
    pub directory: Option<PathBuf>,
    /// Every call takes this long at least.
    pub call_ms: u64,
    /// Making a volume takes this much longer.
    pub volume_ms: u64,
    /// Starting a machine takes this much longer.
    pub start_ms: u64,
    /// From a machine's start until its guest says that it boots.
    pub boot_ms: u64,
    /// From then until its Slurm is ready.
    pub slurm_ms: u64,
    /// Cleaning a device takes this much longer.
    pub sanitise_ms: u64,
    /// A guest that is asked to stop takes this long.
    pub stop_ms: u64,
    /// Where a machine that is there is reached, by the Unix socket of vhost-device-vsock: who connects to a slice, to any, is
    /// led to its SSH server. Otherwise what is said is said back.
    pub ssh: Option<PathBuf>,
}

impl Default for SimulateConfig {
    fn default() -> Self {
        Self {
            directory: None,
            call_ms: 1,
            volume_ms: 20,
            start_ms: 20,
            boot_ms: 50,
            slurm_ms: 50,
            sanitise_ms: 5,
            stop_ms: 5,
            ssh: None,
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not there, or not readable.
    #[error("`{}` cannot be read: say `--config FILE`", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// It is not what it should be.
    #[error("`{}` is not a configuration of holm-agent: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        message: String,
    },
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() })
    }
}

/// The machine that an agent serves: the section `[host]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// Which partition table the machine's fabric has: `dgx-2` or `hgx-a100`.
    #[serde(default = "default_platform")]
    pub platform: String,
    /// Where sysfs is mounted.
    #[serde(default = "default_sysfs")]
    pub sysfs: PathBuf,
    /// Where the sockets of guests lie. QEMU must be able to pass through it.
    #[serde(default = "default_guest_sockets")]
    pub guest_sockets: PathBuf,
    /// Where the first-boot seeds lie, a directory a slice. QEMU must be able to pass through it.
    #[serde(default = "default_slices")]
    pub slices: PathBuf,
    /// Which devices are handed out.
    pub devices: DevicesConfig,
    /// What connects its GPUs.
    #[serde(default)]
    pub fabric: FabricConfig,
    /// How their memory is cleaned.
    #[serde(default)]
    pub sanitise: SanitiseConfig,
    /// The encrypted disks.
    pub storage: StorageConfig,
    /// Where backups of its slices' disks go. Not said, there are none.
    #[serde(default)]
    pub backup: Option<BackupConfig>,
    /// What a slice's machine boots.
    pub guest: GuestConfig,
    /// How machines lie on the host.
    #[serde(default)]
    pub machines: MachinesConfig,
    /// How libvirt is reached.
    #[serde(default)]
    pub libvirt: LibvirtConfig,
    /// What the host must be beyond what every host must.
    #[serde(default)]
    pub commission: CommissionConfig,
}

/// What the host must be beyond what every host must: `[host.commission]`. Nothing here makes a demand of the
/// list weaker.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommissionConfig {
    /// The oldest kernel that will do.
    pub minimum_kernel: Version,
    /// The oldest QEMU that will do.
    pub minimum_qemu: Version,
    /// Huge pages that each NUMA node must have reserved, MiB. Not said: it should have some.
    pub hugepages_mib_per_node: Option<u64>,
}

impl Default for CommissionConfig {
    fn default() -> Self {
        Self { minimum_kernel: LEAST_KERNEL, minimum_qemu: LEAST_QEMU, hugepages_mib_per_node: None }
    }
}

/// The first two numbers of a version, `6.12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
#[allow(missing_docs, reason = "they are what they are called")]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// The version with which a longer one begins, `6.12` of `6.12.95+deb12-amd64`.
    pub fn at_the_head_of(text: &str) -> Option<Self> {
        let (major, rest) = text.split_once('.')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Self { major: major.parse().ok()?, minor: rest.get(..digits)?.parse().ok()? })
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let whole = Self::at_the_head_of(&text).filter(|version| version.to_string() == text);
        whole.ok_or_else(|| format!("`{}` is not a version: write it as `6.12`", text.escape_debug()))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Which devices are handed out: `[host.devices]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicesConfig {
    /// What a GPU is, `vvvv:dddd`.
    #[serde(default = "default_gpus")]
    pub gpus: Vec<PciId>,
    /// What an NVSwitch is.
    #[serde(default = "default_nvswitches")]
    pub nvswitches: Vec<PciId>,
    /// GPUs whose prefetchable BARs *are* their memory, all of it, so that writing the BAR cleans the
    /// device. It is not so for an NVIDIA GPU, whose BAR1 is a window behind the GPU's own page tables: a
    /// device not listed here is never called clean.
    #[serde(default)]
    pub memory_in_bar: Vec<PciId>,
    /// The fabric's number of each GPU, 1 to 16, learnt when the host was commissioned.
    #[serde(default)]
    pub physical_ids: BTreeMap<PciAddress, u32>,
}

/// What connects the GPUs: `[host.fabric]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FabricConfig {
    /// Who drives the fabric. What follows is looked at for `shared-nvswitch` only.
    pub model: FabricModel,
    /// Fabric Manager's client library: a path, or a name that the loader finds.
    pub library: PathBuf,
    /// Where Fabric Manager listens: `HOST` or `HOST:PORT`, or the path of its socket.
    pub address: String,
    /// Which partitions may be up: what Fabric Manager is told after it was restarted.
    pub record: PathBuf,
    /// How long one call may take, seconds. One that takes longer is given up.
    pub call_limit_s: u32,
    /// How long a Fabric Manager that starts, or cannot be reached, is waited for, seconds.
    pub start_limit_s: u32,
    /// How often it is looked at, seconds. One that was restarted waits for 60.
    pub watch_s: u32,
}

/// Who drives the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FabricModel {
    /// Nobody: single GPUs, or an emulated machine.
    #[default]
    None,
    /// Fabric Manager in shared NVSwitch mode.
    SharedNvswitch,
}

impl FabricModel {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SharedNvswitch => "shared-nvswitch",
        }
    }
}

impl FabricConfig {
    /// How long one call may take.
    pub fn call_limit(&self) -> Duration {
        Duration::from_secs(self.call_limit_s.into())
    }

    /// How long a start is waited for.
    pub fn start_limit(&self) -> Duration {
        Duration::from_secs(self.start_limit_s.into())
    }

    /// How often it is looked at.
    pub fn watch_pause(&self) -> Duration {
        Duration::from_secs(self.watch_s.into())
    }
}

impl Default for FabricConfig {
    fn default() -> Self {
        Self {
            model: FabricModel::None,
            library: "libnvfm.so.1".into(),
            address: "127.0.0.1:6666".to_owned(),
            record: "/var/lib/holm/fabric.json".into(),
            call_limit_s: 60,
            start_limit_s: 60,
            watch_s: 5,
        }
    }
}

/// How device memory is cleaned: `[host.sanitise]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SanitiseConfig {
    /// By kind of device. One that is neither here nor in `memory_in_bar` is never called clean.
    pub methods: BTreeMap<PciId, CleanMethod>,
    /// The scrubbing machine, for the methods that take one.
    pub vm: Option<ScrubVmConfig>,
}

impl SanitiseConfig {
    /// How a kind of device is cleaned. Where it is known that its BARs are windows, not through them, whatever the
    /// configuration says.
    pub fn method(&self, devices: &DevicesConfig, id: &str) -> Option<CleanMethod> {
        let named = self.methods.iter().find(|(kind, _)| kind.as_str() == id).map(|(_, method)| *method);
        let open = || devices.memory_in_bar.iter().any(|kind| kind.as_str() == id);
        let method = named.or_else(|| open().then_some(CleanMethod::Bar));
        method.filter(|method| *method == CleanMethod::VmCuda || GpuKind::of(id).is_none())
    }
}

/// How the memory of a device is cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum CleanMethod {
    /// Through its BARs, by this process. They must be all of its memory.
    #[serde(rename = "bar")]
    Bar,
    /// Through its BARs, by a machine of its own. They must be all of its memory.
    #[serde(rename = "scrub-vm/bar")]
    VmBar,
    /// Through NVIDIA's driver, in a machine of its own.
    #[serde(rename = "scrub-vm/cuda")]
    VmCuda,
}

impl CleanMethod {
    /// As evidence names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bar => "bar",
            Self::VmBar => "scrub-vm/bar",
            Self::VmCuda => "scrub-vm/cuda",
        }
    }
}

/// The scrubbing machine: `[host.sanitise.vm]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubVmConfig {
    /// The directory that `deploy/scrub-image/build` made.
    pub image: PathBuf,
    /// SHA-256 of the image's `manifest`, in lower-case hexadecimal. No other image is started.
    pub sha256: String,
    /// Its memory, MiB. NVIDIA's driver wants some for each device.
    #[serde(default = "default_scrub_memory_mib")]
    pub memory_mib: u64,
    /// Its virtual CPUs.
    #[serde(default = "default_scrub_vcpus")]
    pub vcpus: u32,
    /// From its start until it has begun, seconds.
    #[serde(default = "default_scrub_start_limit_s")]
    pub start_limit_s: u32,
    /// And then for each GiB of device memory, seconds.
    #[serde(default = "default_scrub_limit_per_gib_s")]
    pub limit_per_gib_s: u32,
}

/// The encrypted disks: `[host.storage]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// How volumes are kept.
    #[serde(default)]
    pub backend: StorageBackend,
    /// Where the volumes lie, or what is remembered of them. QEMU must be able to pass through it.
    #[serde(default = "default_volumes")]
    pub volumes: PathBuf,
    /// The volume group they lie in. Of `lvm-luks2` only, which cannot do without.
    #[serde(default)]
    pub volume_group: Option<LvmName>,
    /// The thin pool in it that they come from; not said, each has its room for itself. Of `lvm-luks2` only.
    #[serde(default)]
    pub thin_pool: Option<LvmName>,
    /// So many times what there is may be promised to volumes together. Of files and thin pools.
    #[serde(default)]
    pub overcommit: Overcommit,
    /// What a guest discards is given back to what lies below. It shows there which parts of a disk are in use.
    #[serde(default)]
    pub discard: bool,
    /// The image that every volume starts from; shared, only read, and readable by QEMU.
    pub base_image: PathBuf,
    /// How it is written.
    #[serde(default)]
    pub base_format: ImageFormat,
    /// QEMU's tool for disk images.
    #[serde(default = "default_qemu_img")]
    pub qemu_img: PathBuf,
}

/// Where backups go: `[host.backup]`. One of the two.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupConfig {
    /// A directory, as of a mounted share, with a file `holm-backups` in it.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// A bucket.
    #[serde(default)]
    pub s3: Option<S3Config>,
}

/// A bucket of an S3-compatible store: `[host.backup.s3]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// `https://HOST[:PORT]`.
    pub endpoint: String,
    /// Its name.
    pub bucket: String,
    /// As the store wants it signed.
    #[serde(default = "default_region")]
    pub region: String,
    /// In front of every name; empty: nothing.
    #[serde(default)]
    pub prefix: String,
    /// A file of root's alone with `access_key_id` and `secret_access_key`.
    pub credentials: PathBuf,
    /// Authorities of its certificate beside those that the host trusts, PEM.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

impl BackupConfig {
    /// What does not go together.
    pub fn check(&self) -> Result<(), String> {
        match (&self.directory, &self.s3) {
            (Some(directory), None) if directory.is_absolute() => Ok(()),
            (Some(directory), None) => Err(format!("`{}` is no absolute path", directory.display())),
            (None, Some(s3)) if s3.endpoint.starts_with("https://") => Ok(()),
            (None, Some(s3)) => {
                let endpoint = s3.endpoint.escape_debug();
                Err(format!("`{endpoint}` is no endpoint of `[host.backup.s3]`: say https://HOST:PORT"))
            }
            (None, None) | (Some(_), Some(_)) => {
                Err("`[host.backup]` names one place: a `directory`, or `[host.backup.s3]`".to_owned())
            }
        }
    }
}

impl StorageConfig {
    /// What does not go together.
    pub fn check(&self) -> Result<(), String> {
        let of_lvm = [("volume_group", &self.volume_group), ("thin_pool", &self.thin_pool)];
        match (self.backend, of_lvm.into_iter().find(|(_, name)| name.is_some())) {
            (StorageBackend::LvmLuks2, _) if self.volume_group.is_none() => Err(
                "`[host.storage]` says `backend = \"lvm-luks2\"` and no `volume_group`: name the one that `vgs` lists"
                    .to_owned(),
            ),
            (StorageBackend::Qcow2Luks, Some((field, _))) => Err(format!(
                "`{field}` in `[host.storage]` is for `backend = \"lvm-luks2\"`: say that too, or leave it out"
            )),
            (StorageBackend::LvmLuks2, _) if self.thin_pool.is_none() && !self.overcommit.is_one() => Err(
                "`overcommit` in `[host.storage]` is for files and thin pools: without `thin_pool` each volume has its \
                 room for itself, so leave it out"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

/// How volumes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum StorageBackend {
    /// Each a qcow2 file with LUKS in it, which QEMU encrypts.
    #[default]
    #[serde(rename = "qcow2-luks")]
    Qcow2Luks,
    /// Each a logical volume with LUKS2 on it, which the kernel encrypts.
    #[serde(rename = "lvm-luks2")]
    LvmLuks2,
}

/// The name of a volume group or logical volume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LvmName(String);

impl TryFrom<String> for LvmName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
        if (1..=127).contains(&text.len())
            && text.bytes().all(known)
            && !text.starts_with('-')
            && !matches!(text.as_str(), "." | "..")
        {
            return Ok(Self(text));
        }
        let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
        Err(format!("`{shown}` is not a name that LVM takes: letters, digits and `+_.-`, not `-` first"))
    }
}

impl From<LvmName> for String {
    fn from(name: LvmName) -> Self {
        name.0
    }
}

/// How a disk image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Bytes as they are.
    #[default]
    Raw,
    /// QEMU's own format.
    Qcow2,
}

impl ImageFormat {
    /// As QEMU and libvirt call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What a slice's machine boots: `[host.guest]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestConfig {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its first root file system.
    pub initrd: PathBuf,
    /// Its command line.
    pub cmdline: String,
    /// Images that holmd may have slices made over, each in a directory of its own.
    #[serde(default = "default_images")]
    pub images: PathBuf,
    /// A disk of container images that every slice reads, as `deploy/library` makes it; not said: none.
    #[serde(default)]
    pub library: Option<PathBuf>,
    /// `host-passthrough`, or the name of a processor of QEMU's (`qemu64` under emulation).
    #[serde(default = "default_cpu")]
    pub cpu: String,
}

/// How machines lie on the host: `[host.machines]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachinesConfig {
    /// The pages that a machine's memory is made of.
    pub huge_pages: HugePages,
    /// Logical processors of the host's own: QEMU's own threads run there, and no slice gets them. Where none
    /// is named, QEMU's threads share the processors of their slice.
    pub host_cpus: BTreeSet<u32>,
    /// A machine's disk has a thread of its own.
    pub io_thread: bool,
}

impl Default for MachinesConfig {
    fn default() -> Self {
        Self { huge_pages: HugePages::None, host_cpus: BTreeSet::new(), io_thread: true }
    }
}

/// The pages that a machine's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum HugePages {
    /// 1 GiB, reserved when the host boots.
    #[serde(rename = "1G")]
    OneGib,
    /// 2 MiB.
    #[serde(rename = "2M")]
    TwoMib,
    /// The processor's ordinary ones.
    #[default]
    #[serde(rename = "none")]
    None,
}

impl HugePages {
    /// A page's size, MiB; `None` for ordinary ones.
    pub fn mib(self) -> Option<u64> {
        match self {
            Self::OneGib => Some(1024),
            Self::TwoMib => Some(2),
            Self::None => None,
        }
    }
}

/// How libvirt is reached: `[host.libvirt]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LibvirtConfig {
    /// Its address.
    #[serde(default = "default_libvirt_uri")]
    pub uri: String,
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        Self { uri: default_libvirt_uri() }
    }
}

/// A kind of PCI device, `vvvv:dddd` in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct PciId(String);

/// Why a text is not a [`PciId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of PCI device: write vendor and device as `10de:1db8`")]
pub struct NotAPciId(String);

impl PciId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PciId {
    type Error = NotAPciId;

    fn try_from(text: String) -> Result<Self, NotAPciId> {
        let hex =
            |part: &str| part.len() == 4 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match text.split_once(':') {
            Some((vendor, device)) if hex(vendor) && hex(device) => Ok(Self(text)),
            _ => Err(NotAPciId(text.chars().take(40).flat_map(char::escape_debug).collect())),
        }
    }
}

fn default_platform() -> String {
    "dgx-2".to_owned()
}

fn default_sysfs() -> PathBuf {
    "/sys".into()
}

fn default_guest_sockets() -> PathBuf {
    "/run/holm/guest".into()
}

fn default_slices() -> PathBuf {
    "/var/lib/holm/slices".into()
}

fn default_volumes() -> PathBuf {
    "/var/lib/holm/volumes".into()
}

fn default_qemu_img() -> PathBuf {
    "/usr/bin/qemu-img".into()
}

fn default_images() -> PathBuf {
    "/var/lib/holm/images".into()
}

fn default_cpu() -> String {
    "host-passthrough".to_owned()
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_libvirt_uri() -> String {
    "qemu:///system".to_owned()
}

fn default_scrub_memory_mib() -> u64 {
    4096
}

fn default_scrub_vcpus() -> u32 {
    2
}

fn default_scrub_start_limit_s() -> u32 {
    300
}

fn default_scrub_limit_per_gib_s() -> u32 {
    20
}

fn default_gpus() -> Vec<PciId> {
    vec![PciId("10de:1db8".to_owned())]
}

fn default_nvswitches() -> Vec<PciId> {
    vec![PciId("10de:1ac2".to_owned()), PciId("10de:1ac1".to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = r#"
        [devices]
        [storage]
        base_image = "/usr/lib/holm/guest.raw"
        [guest]
        kernel = "/usr/lib/holm/vmlinuz"
        initrd = "/usr/lib/holm/initrd.img"
        cmdline = "root=/dev/vda"
    "#;

    #[test]
    fn defaults_fill_the_smallest_file() {
        let config: HostConfig = toml::from_str(SMALLEST).unwrap();
        assert_eq!(config.platform, "dgx-2");
        assert_eq!(config.devices.gpus, [PciId("10de:1db8".to_owned())]);
        assert!(config.devices.memory_in_bar.is_empty());
        assert_eq!(config.libvirt.uri, "qemu:///system");
        assert_eq!(config.fabric, FabricConfig::default());
    }

    #[test]
    fn unknown_and_malformed_fields_are_refused() {
        for (bad, word) in [
            (SMALLEST.replace("[devices]", "[devices]\ngpu = []"), "unknown field `gpu`"),
            (SMALLEST.replace("[devices]", "[devices]\ngpus = [\"10DE:1db8\"]"), "`10DE:1db8` is not a kind"),
            (
                SMALLEST.replace("[devices]", "[devices]\nphysical_ids = { \"34:00.0\" = 1 }"),
                "not a PCI address",
            ),
            (SMALLEST.replace("cmdline", "cmd_line"), "unknown field `cmd_line`"),
            (SMALLEST.replace("[storage]", "[fabric]\nsocket = \"/x\"\n[storage]"), "unknown field `socket`"),
            (
                SMALLEST.replace("[storage]", "[fabric]\nmodel = \"full\"\n[storage]"),
                "unknown variant `full`",
            ),
            (format!("{SMALLEST}\n[machines]\nhuge_pages = \"4K\""), "unknown variant `4K`"),
            (SMALLEST.replace("[guest]", "[commission]\nskip = []\n[guest]"), "unknown field `skip`"),
            (SMALLEST.replace("[storage]", "[storage]\nbackend = \"lvm\""), "unknown variant `lvm`"),
            (SMALLEST.replace("[storage]", "[storage]\nvolume_group = \"a/b\""), "`a/b` is not a name"),
            (SMALLEST.replace("[storage]", "[storage]\nthin_pool = \"-p\""), "`-p` is not a name"),
            (SMALLEST.replace("[storage]", "[storage]\nvolume_group = \"\""), "`` is not a name"),
            (SMALLEST.replace("[storage]", "[storage]\novercommit = 0.0"), "0.1 to 10"),
            (SMALLEST.replace("[guest]", "[commission]\nminimum_qemu = \"10\"\n[guest]"), "not a version"),
        ] {
            let error = toml::from_str::<HostConfig>(&bad).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn what_is_said_of_storage_goes_together() {
        let check = |text: &str| {
            let text = SMALLEST.replace("[storage]", &format!("[storage]\n{text}"));
            toml::from_str::<HostConfig>(&text).unwrap().storage.check()
        };
        let lvm = "backend = \"lvm-luks2\"";
        let group = "volume_group = \"vg-1\"";
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("backend = \"qcow2-luks\"\ndiscard = true"), Ok(()));
        assert_eq!(check(&format!("{lvm}\n{group}\nthin_pool = \"pool\"")), Ok(()));
        assert!(check(lvm).unwrap_err().contains("no `volume_group`"));
        assert!(check(group).unwrap_err().contains("`volume_group` in"));
        assert!(check("thin_pool = \"pool\"").unwrap_err().contains("`thin_pool` in"));
        let twice = "overcommit = 2.0";
        assert_eq!(check(twice), Ok(()));
        assert_eq!(check(&format!("{lvm}\n{group}\nthin_pool = \"pool\"\n{twice}")), Ok(()));
        assert!(check(&format!("{lvm}\n{group}\n{twice}")).unwrap_err().contains("`overcommit` in"));
    }

    #[test]
    fn backups_go_to_one_place() {
        let check = |text: &str| {
            let text = format!("{SMALLEST}\n{text}");
            toml::from_str::<HostConfig>(&text).unwrap().backup.unwrap().check()
        };
        let bucket = "[backup.s3]\nendpoint = \"https://s3:9000\"\nbucket = \"holm\"\ncredentials = \"/c\"";
        assert_eq!(check("[backup]\ndirectory = \"/srv\""), Ok(()));
        assert_eq!(check(bucket), Ok(()));
        assert!(check("[backup]").unwrap_err().contains("names one place"));
        assert!(check(&format!("[backup]\ndirectory = \"/srv\"\n{bucket}")).is_err());
        assert!(check("[backup]\ndirectory = \"srv\"").unwrap_err().contains("no absolute path"));
        // Credentials are shown to nobody in the clear.
        assert!(check(&bucket.replace("https", "http")).unwrap_err().contains("say https://"));
        assert!(toml::from_str::<HostConfig>(&format!("{SMALLEST}\n[backup]\npath = \"/x\"")).is_err());
    }

    #[test]
    fn the_example_is_a_configuration() {
        let text = include_str!("../holm-agent.example.toml");
        let config: Config = toml::from_str(text).unwrap();
        // What it says is commented out is what holds without it.
        assert_eq!(config.agent, AgentConfig::default());
        assert_eq!(config.simulate, SimulateConfig::default());
        let host = config.host.unwrap();
        assert_eq!((host.platform.as_str(), host.devices.physical_ids.len()), ("dgx-2", 16));
        let all: String =
            text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        let config: Config = toml::from_str(&all).unwrap();
        assert_eq!(config.agent, AgentConfig::default());
        let directory = Some("/var/lib/holm/agent/simulated".into());
        assert_eq!(config.simulate, SimulateConfig { directory, ..SimulateConfig::default() });
        assert_eq!(config.host, Some(host));
        let error =
            toml::from_str::<Config>(&text.replace("[agent]", "[agent]\nboot_limit = 3")).unwrap_err();
        assert!(error.to_string().contains("unknown field `boot_limit`"));
    }

    #[test]
    fn a_kind_without_a_method_has_none() {
        let text = SMALLEST.replace("[devices]", "[devices]\nmemory_in_bar = [\"1af4:1110\"]");
        let method = |more: &str, id: &str| {
            let config: HostConfig = toml::from_str(&format!("{text}{more}")).unwrap();
            config.sanitise.method(&config.devices, id)
        };
        assert_eq!(method("", "10de:1db8"), None);
        assert_eq!(method("", "1af4:1110"), Some(CleanMethod::Bar));
        let named = "[sanitise.methods]\n\"10de:1db8\" = \"scrub-vm/cuda\"\n\"1af4:1110\" = \"scrub-vm/bar\"";
        assert_eq!(method(named, "10de:1db8"), Some(CleanMethod::VmCuda));
        assert_eq!(method(named, "1af4:1110"), Some(CleanMethod::VmBar));
        // Its BARs are windows: whoever says that they are its memory is not believed.
        for bars in ["bar", "scrub-vm/bar"] {
            assert_eq!(method(&format!("[sanitise.methods]\n\"10de:1db8\" = \"{bars}\""), "10de:1db8"), None);
        }
        let in_bar = SMALLEST.replace("[devices]", "[devices]\nmemory_in_bar = [\"10de:1db8\"]");
        let config: HostConfig = toml::from_str(&in_bar).unwrap();
        assert_eq!(config.sanitise.method(&config.devices, "10de:1db8"), None);
        for bad in ["\"10de:1db8\" = \"none\"", "\"10de:1db8\" = \"\"", "v100 = \"bar\""] {
            assert!(toml::from_str::<HostConfig>(&format!("{text}[sanitise.methods]\n{bad}")).is_err());
        }
    }

    #[test]
    fn physical_ids_are_keyed_by_address() {
        let text = SMALLEST.replace("[devices]", "[devices]\nphysical_ids = { \"0000:34:00.0\" = 1 }");
        let config: HostConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.devices.physical_ids[&"0000:34:00.0".parse().unwrap()], 1);
    }
}
