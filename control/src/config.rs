//! holmd's one configuration file. An unknown field is an error that names the file and the line.

use crate::domain::review::ENTRIES_MAX;
use crate::identity::Caller;
use crate::keys::ProviderConfig;
use crate::login::LoginConfig;
use crate::notify::NotifyConfig;
use crate::stream::StreamConfig;
use crate::watch::WatchConfig;
use crate::witness::WitnessConfig;
use holm_proto::ids::Name;
use holm_proto::platform::Bill;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// `holmd.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Everything holmd keeps: CA, keys, store, log.
    pub data: PathBuf,
    /// For people and agents: TLS 1.3, client certificates demanded.
    pub listen: SocketAddr,
    /// For enrolment by one-time code: TLS 1.3, no client certificate.
    pub enrol_listen: SocketAddr,
    /// What people and agents dial, HOST:PORT; told to them at enrolment.
    pub server: String,
    /// A directory with a policy pack, or the name of one that holmd brings along.
    pub pack: String,
    /// Who may sign packs.
    #[serde(default, skip_serializing_if = "PolicyConfig::is_empty")]
    pub policy: PolicyConfig,
    /// Guest images.
    #[serde(default, skip_serializing_if = "ImageConfig::is_empty")]
    pub image: ImageConfig,
    /// The log's name in its checkpoints, as a schema-less URL.
    pub log_origin: String,
    /// What a slice gets where the request does not say.
    #[serde(default)]
    pub defaults: Defaults,
    /// The partition table of the hosts' fabric.
    #[serde(default = "dgx2")]
    pub platform: String,
    /// What the hosts are delivered with, where it is not what their platform is.
    #[serde(default, skip_serializing_if = "BillConfig::is_empty")]
    pub bill: BillConfig,
    /// How slices are placed.
    #[serde(default)]
    pub placement: Placement,
    /// Of slices' disks.
    #[serde(default)]
    pub backup: BackupConfig,
    /// Of people and hosts.
    #[serde(default)]
    pub certificates: CertificateConfig,
    /// Of the disk on which `data` lies.
    #[serde(default)]
    pub disk: DiskConfig,
    /// Of slices' guests.
    #[serde(default)]
    pub guest: GuestConfig,
    /// Who holds the key-encryption key.
    #[serde(default)]
    pub keys: ProviderConfig,
    /// Who held it before: it opens what it wrapped until that is wrapped anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_keys: Option<ProviderConfig>,
    /// Who may be given a project's keys, beside holmd.
    #[serde(default, skip_serializing_if = "EscrowConfig::is_empty")]
    pub escrow: EscrowConfig,
    /// Who is told of what happens, and how.
    #[serde(default, skip_serializing_if = "NotifyConfig::is_default")]
    pub notify: NotifyConfig,
    /// Where people prove a second factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<LoginConfig>,
    /// What in the log officers hear of at once; absent: `watch/rules.toml` of this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<Vec<WatchConfig>>,
    /// How the log is reviewed by sample.
    #[serde(default, skip_serializing_if = "ReviewConfig::is_default")]
    pub review: ReviewConfig,
    /// Who holds the log's head outside.
    #[serde(default, skip_serializing_if = "WitnessConfig::is_default")]
    pub witness: WitnessConfig,
    /// Where the log goes as it grows.
    #[serde(default, skip_serializing_if = "StreamConfig::is_default")]
    pub stream: StreamConfig,
}

/// Packs that are loaded while holmd runs, and directories that `pack` names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// Public keys, as `holm policy keygen` prints them; none: no pack is loaded, and a directory needs no signature.
    pub signers: Vec<String>,
}

/// Guest images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// Public keys of those who make images, as `holm image keygen` prints them; none: no image is added.
    pub signers: Vec<String>,
}

impl ImageConfig {
    /// Nobody does.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }
}

impl PolicyConfig {
    /// Nobody may.
    pub fn is_empty(&self) -> bool {
        self.signers.is_empty()
    }
}

/// Backups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// As many whole ones of a slice are kept, 1 to 8; the oldest goes when a new one is whole.
    pub keep: usize,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self { keep: 3 }
    }
}

/// Samples of the log for officers to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReviewConfig {
    /// One is drawn of every so many days, 1 to 366.
    pub every_days: u32,
    /// Of so many entries, 1 to 40; there may be fewer.
    pub entries: usize,
    /// It is overdue after so many days, 1 to 366.
    pub due_days: u32,
}

impl Default for ReviewConfig {
    fn default() -> Self {
        Self { every_days: 30, entries: 20, due_days: 14 }
    }
}

impl ReviewConfig {
    /// As shipped.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What makes no sense of it.
    pub fn check(&self) -> Result<(), String> {
        let days = |name: &str, days: u32| match days {
            1..=366 => Ok(()),
            other => Err(format!("`{name}` in [review] can be 1 to 366: `{other}` is not")),
        };
        days("every_days", self.every_days)?;
        days("due_days", self.due_days)?;
        match self.entries {
            1..=ENTRIES_MAX => Ok(()),
            other => Err(format!("`entries` in [review] can be 1 to {ENTRIES_MAX}: `{other}` is not")),
        }
    }
}

/// Of holmd's own disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// Below so many MiB that are free people begin nothing new. 0: there is no limit.
    pub keep_free_mib: u32,
}

impl Default for DiskConfig {
    fn default() -> Self {
        // Some hundred thousand entries: time enough to make room.
        Self { keep_free_mib: 512 }
    }
}

/// What is expected of slices' guests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuestConfig {
    /// After so many minutes one that says nothing is shown as degraded: 6 to 1440. It is to say every five that it lives.
    pub silent_minutes: u32,
}

impl Default for GuestConfig {
    fn default() -> Self {
        Self { silent_minutes: 15 }
    }
}

impl GuestConfig {
    /// Whether it says what can be.
    pub fn check(&self) -> Result<(), String> {
        match self.silent_minutes {
            6..=1440 => Ok(()),
            other => Err(format!("`silent_minutes` in [guest] can be 6 to 1440: `{other}` is not")),
        }
    }

    /// So long a guest may say nothing.
    pub fn silence(&self) -> SignedDuration {
        SignedDuration::from_mins(self.silent_minutes.into())
    }
}

/// Certificates that holmd gives out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateConfig {
    /// So long one of a person is good, 1 to 366. She renews it.
    pub person_days: u32,
    /// So long one of a host is good. Its agent renews it.
    pub host_days: u32,
}

impl Default for CertificateConfig {
    fn default() -> Self {
        Self { person_days: 30, host_days: 90 }
    }
}

impl CertificateConfig {
    /// The longest that can be said.
    pub const DAYS_MAX: u32 = 366;

    /// How long one of this caller's is good.
    pub fn life(&self, caller: &Caller) -> SignedDuration {
        let days = match caller {
            Caller::Person(_) => self.person_days,
            Caller::Host(_) => self.host_days,
        };
        crate::domain::days(days)
    }
}

/// Escrow of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EscrowConfig {
    /// age recipients, `age1…`, by the names that officers say.
    pub recipients: BTreeMap<Name, String>,
}

impl EscrowConfig {
    /// There is nobody.
    pub fn is_empty(&self) -> bool {
        self.recipients.is_empty()
    }
}

/// What differs from the platform's bill of materials.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BillConfig {
    /// How many GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// What they are, vvvv:dddd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_ids: Option<BTreeSet<String>>,
    /// How many NVSwitches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvswitches: Option<u32>,
    /// What they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvswitch_ids: Option<BTreeSet<String>>,
    /// Bytes of a GPU's memory as its host reports it, by what it is; added to the platform's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub memory_bytes: BTreeMap<String, u64>,
    /// The one VBIOS that a GPU may have, by what it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub firmware: BTreeMap<String, String>,
}

impl BillConfig {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The bill that holds.
    pub fn over(&self, bill: Bill) -> Bill {
        let mut bill = bill;
        bill.gpus = self.gpus.unwrap_or(bill.gpus);
        bill.gpu_ids = self.gpu_ids.clone().unwrap_or(bill.gpu_ids);
        bill.nvswitches = self.nvswitches.unwrap_or(bill.nvswitches);
        bill.nvswitch_ids = self.nvswitch_ids.clone().unwrap_or(bill.nvswitch_ids);
        bill.memory_bytes.extend(self.memory_bytes.clone());
        bill.firmware.extend(self.firmware.clone());
        bill
    }
}

/// How slices are placed, and in which order they get their turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// Whether a slice has cores and memory of its own. Of a host that does not state its cores it has not.
    pub cpus: Cpus,
    /// Cores of each NUMA node that stay the host's; only where slices have cores of their own.
    pub housekeeping_cores: usize,
    /// What slices can have of a host's memory is what it has in huge pages; only where it states its nodes.
    pub hugepages: bool,
    /// What a department has used counts half after this time.
    pub half_life_days: u32,
    /// From then on the oldest request is waited for: GPUs are held for it.
    pub patience_days: u32,
    /// From then on the one whose turn it is is waited for, too.
    pub turn_hours: u32,
    /// GPUs are held for a reservation so long before it begins; what is asked for later is no reservation.
    pub reserve_hours: u32,
    /// Among which the use of the hosts is shared: a project is of one of them or of none.
    pub departments: Vec<String>,
}

/// Who has a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cpus {
    /// One slice: whole cores, no sibling on another's.
    Dedicated,
    /// Whoever needs it.
    Shared,
}

impl Default for Placement {
    fn default() -> Self {
        Self {
            cpus: Cpus::Dedicated,
            housekeeping_cores: 1,
            hugepages: false,
            half_life_days: 14,
            // Of a year replayed with one day to six weeks each, these keep most of what holding is for (a large slice
            // gets its turn) and cost the others least: `tests/run bench devices` prints what.
            patience_days: 21,
            turn_hours: 336,
            reserve_hours: 24,
            departments: Vec::new(),
        }
    }
}

/// What a slice gets where the request does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Per GPU.
    pub vcpus_per_gpu: u32,
    /// Per GPU, MiB.
    pub memory_mib_per_gpu: u64,
    /// Root disk, GiB.
    pub disk_gib: u64,
    /// `/home` and `/project`, GiB; 0: on the root disk.
    pub home_gib: u64,
    /// `/raid`, gone at each stop, per GPU, GiB; 0: none.
    pub scratch_gib_per_gpu: u64,
    /// Of all disks that the slices of a project have together, GiB, where nobody set another quota; 0: no limit.
    pub project_disk_gib: u64,
}

impl Default for Defaults {
    /// The site's rule of thumb for a DGX-2: 6 CPUs and about 90 GB a GPU.
    fn default() -> Self {
        Self {
            vcpus_per_gpu: 6,
            memory_mib_per_gpu: 92_160,
            disk_gib: 50,
            home_gib: 100,
            scratch_gib_per_gpu: 100,
            project_disk_gib: 0,
        }
    }
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ConfigError {
    #[error("`{path}` cannot be read; run `holmd init` to make one, or say `--config FILE`")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{path}` is not a configuration of holmd: {message}")]
    Parse { path: PathBuf, message: String },
}

impl Config {
    /// Read and check.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        toml::from_str(&text)
            .map_err(|e| ConfigError::Parse { path: path.to_path_buf(), message: e.to_string() })
    }
}

fn dgx2() -> String {
    "dgx-2".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Config {
        Config {
            data: "/var/lib/holmd".into(),
            listen: "127.0.0.1:7443".parse().unwrap(),
            enrol_listen: "127.0.0.1:7444".parse().unwrap(),
            server: "localhost:7443".into(),
            pack: "aau-2018".into(),
            policy: PolicyConfig::default(),
            image: ImageConfig::default(),
            log_origin: "holm.example/log".into(),
            defaults: Defaults::default(),
            platform: dgx2(),
            bill: BillConfig { nvswitches: Some(6), ..BillConfig::default() },
            placement: Placement::default(),
            keys: ProviderConfig::default(),
            former_keys: None,
            backup: BackupConfig { keep: 2 },
            certificates: CertificateConfig { person_days: 7, ..CertificateConfig::default() },
            disk: DiskConfig::default(),
            guest: GuestConfig { silent_minutes: 6 },
            escrow: EscrowConfig {
                recipients: BTreeMap::from([("safe".parse().unwrap(), "age1x".to_owned())]),
            },
            notify: NotifyConfig { retry_seconds: 7, ..NotifyConfig::default() },
            login: Some(LoginConfig {
                issuer: "https://idp.example".to_owned(),
                client_id: "holm".to_owned(),
                client_secret: Some(crate::keys::Secret::File("/etc/holm/login".into())),
                ca_file: "idp.pem".into(),
                acr: vec!["gold".to_owned()],
                amr: vec!["mfa".to_owned()],
            }),
            watch: Some(vec![WatchConfig {
                name: "night".to_owned(),
                action: Some("slice.connect".to_owned()),
                outside: Some("06:00-22:00".to_owned()),
                quiet_minutes: Some(60),
                ..WatchConfig::default()
            }]),
            review: ReviewConfig { every_days: 7, entries: 5, due_days: 3 },
            witness: WitnessConfig { every_seconds: 5, ..WitnessConfig::default() },
            stream: StreamConfig {
                sinks: BTreeMap::from([(
                    "siem".parse().unwrap(),
                    crate::stream::SinkConfig::Syslog {
                        server: "siem.example:6514".to_owned(),
                        ca_file: "siem.pem".into(),
                        format: crate::stream::Format::Ocsf,
                        changes: true,
                    },
                )]),
                ..StreamConfig::default()
            },
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, toml::to_string(&example()).unwrap()).unwrap();
        assert_eq!(Config::load(file.path()).unwrap(), example());
    }

    #[test]
    fn a_guest_may_be_silent_for_longer_than_it_usually_is_and_not_for_days() {
        for (minutes, fits) in [(0, false), (5, false), (6, true), (15, true), (1440, true), (1441, false)] {
            assert_eq!(GuestConfig { silent_minutes: minutes }.check().is_ok(), fits, "{minutes}");
        }
    }

    #[test]
    fn an_unknown_field_names_file_and_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!("skip_sanitising = true\n{}", toml::to_string(&example()).unwrap());
        std::fs::write(&file, text).unwrap();
        let error = Config::load(file.path()).unwrap_err().to_string();
        assert!(error.contains("skip_sanitising") && error.contains("line 1"), "{error}");
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
    }
}
