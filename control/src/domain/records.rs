//! The records Holm keeps, as they stand in the store and in the log.

use super::backup::Copies;
use super::declassify::{DataSet, Declassification};
use super::image::Image;
use super::incident::Incident;
use super::lock::Subject as Locked;
use super::login::Login;
use super::machine::{Hardware, Health, Machine};
use super::oversight::Oversight;
use super::register::{Filed, Registration, Warned};
use super::retention::Retention;
use super::review::Review;
use holm_policies::Pack;
use holm_proto::ids::{Name, PciAddress, ProjectId, RequestId, RunId, SliceId, VolumeId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One record of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "most records are devices, and few are alive at a time")]
pub enum Record {
    /// A person.
    Person(Person),
    /// A one-time code that has not been used yet.
    Invitation(Invitation),
    /// A project.
    Project(Project),
    /// A slice.
    Slice(Box<Slice>),
    /// A host.
    Host(Host),
    /// A device of a host.
    Device(Device),
    /// A sanitising run that has not been reported yet.
    Run(Run),
    /// The pack in force: there is one at most.
    Policy(Policy),
    /// Something that an officer has locked.
    Lock(Lock),
    /// How far a slice's guest is with what it claims.
    Claims(Claims),
    /// A sample of the log that officers look at.
    Review(Review),
    /// A breach, or what may be one.
    Incident(Incident),
    /// How holmd is watched: there is one at most.
    Oversight(Oversight),
    /// A guest image.
    Image(Box<Image>),
    /// From where on the log is kept: there is one at most.
    Retention(Retention),
    /// A call that is made once, however often it is sent.
    Once(Once),
}

/// One change of one record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", content = "of", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "almost every change is a put, and few are alive at a time")]
pub enum Change {
    /// Write the whole record.
    Put(Record),
    /// Remove the record with this key.
    Delete(String),
}

impl Record {
    /// The record's key in the store: its kind, a slash, what is unique in that kind.
    pub fn key(&self) -> String {
        match self {
            Self::Person(r) => format!("person/{}", r.name),
            Self::Invitation(r) => format!("invitation/{}", r.hash),
            Self::Project(r) => format!("project/{}", r.id.into_untyped_uuid()),
            Self::Slice(r) => format!("slice/{}", r.id.into_untyped_uuid()),
            Self::Host(r) => format!("host/{}", r.name),
            Self::Device(r) => format!("device/{}/{}", r.host, r.address),
            Self::Run(r) => format!("run/{}", r.id.into_untyped_uuid()),
            Self::Policy(_) => "policy".to_owned(),
            Self::Lock(r) => format!("lock/{}", r.subject),
            Self::Claims(r) => format!("claims/{}", r.slice.into_untyped_uuid()),
            Self::Review(r) => format!("review/{}", r.number),
            Self::Incident(r) => format!("incident/{}", r.number),
            Self::Oversight(_) => "oversight".to_owned(),
            Self::Image(r) => format!("image/{}", r.id),
            Self::Retention(_) => "retention".to_owned(),
            Self::Once(r) => format!("once/{}", r.id),
        }
    }
}

use newtype_uuid::GenericUuid;

/// How far a slice's guest is with what it claims to have seen; `domain::claims` has the diagram. As long however much that
/// is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Whose guest.
    pub slice: SliceId,
    /// What it calls the run of itself that it numbers in.
    pub boot: String,
    /// The highest number that the log has, or has as missing.
    pub seq: u64,
    /// The log has it as silent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
}

/// A call that came with a key of its caller's, and changed something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Once {
    /// `person/NAME/` and SHA-256 over key, method, message and caller, hexadecimal.
    pub id: String,
    /// As the log has it.
    pub request: RequestId,
    /// When.
    pub at: Timestamp,
}

/// Which pack is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// NAME/VERSION.
    pub pack: String,
    /// SHA-256 of what is signed of it, hexadecimal.
    pub digest: String,
    /// The key that signed it; empty: holmd's configuration names it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signer: String,
    /// The officer; absent: nobody who can be named did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded_by: Option<Name>,
    /// Since when it is in force.
    pub since: Timestamp,
    /// The highest version of each name that ever was in force. None of these and none below comes back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub highest: BTreeMap<String, u32>,
}

impl Policy {
    /// Of this pack; which were in force before is added where it is put in force.
    pub fn of(
        pack: &Pack,
        digest: String,
        signer: String,
        loaded_by: Option<Name>,
        since: Timestamp,
    ) -> Self {
        let highest = BTreeMap::from([(pack.name().to_owned(), pack.version())]);
        Self { pack: pack.id().to_owned(), digest, signer, loaded_by, since, highest }
    }

    /// It was loaded, and lies where holmd keeps such; otherwise the configuration names it.
    pub fn is_loaded(&self) -> bool {
        !self.signer.is_empty()
    }
}

/// A person, known from the moment of the invitation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Also the account's name in slices.
    pub name: Name,
    /// As the policy pack names them.
    pub roles: Vec<String>,
    /// The account's number in slices.
    pub uid: u32,
    /// When invited first.
    pub created: Timestamp,
    /// Has a certificate.
    pub enrolled: bool,
    /// SHA-256 of the newest one. Those before it are good for nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// Of the one that she renewed it to and has not used yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub renewed: String,
    /// They are good for nothing until she enrols again; absent: they are good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// When she was locked or revoked last: what she had approved by then and was not decided counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<Timestamp>,
    /// Hers at the site's OpenID provider: SHA-256 of issuer and subject, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What she proved there last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
}

/// Certificates were taken away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoked {
    /// The officer, or of a host the operator.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// A one-time code, by its hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// SHA-256 of the code's secret, hexadecimal.
    pub hash: String,
    /// Whom the certificate will name.
    pub subject: Subject,
    /// Who invited.
    pub by: String,
    /// Not usable from then on.
    pub expires: Timestamp,
    /// Nor before somebody else has confirmed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
    /// Who has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<Confirmed>,
}

impl Invitation {
    /// Tells it from others for the same person, and nothing of the code.
    pub fn id(&self) -> &str {
        self.hash.get(..8).unwrap_or(&self.hash)
    }
}

/// A second one's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmed {
    /// Whose.
    pub by: Name,
    /// When.
    pub at: Timestamp,
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A person.
    Person(Name),
    /// A host.
    Host(Name),
}

/// A research project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Stays when the name changes.
    pub id: ProjectId,
    /// Unique.
    pub name: Name,
    /// As the pack names it.
    pub level: String,
    /// As people call it.
    pub level_name: String,
    /// What for.
    pub purpose: String,
    /// Who answers for it.
    pub lead: Name,
    /// Who may use its slices, the lead among them.
    pub members: Vec<Name>,
    /// Those of them who change nothing: neither its data nor whether its slices run.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub readers: BTreeSet<Name>,
    /// When registered.
    pub created: Timestamp,
    /// The pack it was judged by, NAME/VERSION.
    pub pack: String,
    /// Among departments the use of the hosts is shared; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub department: String,
    /// Nothing of its slices is destroyed; absent: it is not on hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// GiB of disks that its slices may have together, 0: no limit; absent: as the site says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<u64>,
    /// What it has filed.
    #[serde(default, skip_serializing_if = "Registration::is_empty")]
    pub registration: Registration,
    /// Of members from outside: the agreement under which they work.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub agreements: BTreeMap<Name, Filed>,
    /// Of what ends soon, or has ended: the warnings that are in the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warned: Vec<Warned>,
    /// What data it works with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_sets: Vec<DataSet>,
    /// Its end date, when it was seen to be past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// A level that is to be lowered, and is not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declassification: Option<Declassification>,
}

/// An end that was seen to be past; the diagram is in `domain::lease`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Which end.
    pub end: Timestamp,
    /// When that was seen.
    pub at: Timestamp,
}

/// More time, asked for and not approved yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// The lead.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// What for.
    pub comment: String,
    /// By whom so far.
    pub approvals: Vec<Approval>,
    /// It is another size that is asked for; absent: more time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// What a slice has of its host, but for disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Whole GPUs.
    pub gpus: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u64,
}

/// Where a slice stands; the diagram is in `domain::slice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the diagram in domain::slice says what each is")]
pub enum SliceState {
    Requested,
    Approved,
    Placed,
    Preparing,
    Booting,
    Ready,
    Failed,
    Stopping,
    Stopped,
    Rejected,
    Withdrawn,
    Keeping,
    Kept,
    Closing,
    Destroying,
    Destroyed,
}

/// No key and no disk is destroyed until it is lifted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The officer.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// What it is of may do little or nothing until it is lifted; `domain::lock` says what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// What is locked.
    pub subject: Locked,
    /// The officer.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}

/// One approval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The officer.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// What she said.
    pub comment: String,
}

/// Where a slice was put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// On which host.
    pub host: Name,
    /// The fabric partition.
    pub partition: u32,
    /// Its devices.
    pub devices: Vec<PciAddress>,
    /// Cores and memory that are its alone; none: anywhere, shared with others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NumaShare>,
}

/// A part of one NUMA node that is a slice's alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaShare {
    /// Which node.
    pub node: u32,
    /// Logical processors, all siblings of each core.
    pub cpus: Vec<u32>,
    /// MiB.
    pub memory_mib: u64,
}

/// Out of service: nothing new is placed there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// The operator.
    pub by: Name,
    /// Why.
    pub reason: String,
    /// From when on.
    pub since: Timestamp,
}

/// What the guest claims of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// OpenSSH form.
    pub ssh_host_key: String,
    /// As its Slurm counts them.
    pub gpus: u32,
    /// Slurm's version.
    pub slurm: String,
}

/// What sanitising did to one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as holm.v1.Evidence documents them")]
pub struct Evidence {
    pub run: RunId,
    pub address: PciAddress,
    pub cleaned: bool,
    pub method: String,
    // An entry of before these were told has none.
    #[serde(default)]
    pub pattern: String,
    pub bytes_total: u64,
    pub bytes_written: u64,
    pub bytes_verified: u64,
    #[serde(default)]
    pub bytes_unreached: u64,
    pub bytes_dirty_before: u64,
    pub took_ms: u64,
    pub tool: String,
    pub detail: String,
    pub at: Timestamp,
}

/// What was done to a slice's disk when it changed owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as holm.v1.VolumeEvidence documents them")]
pub struct VolumeEvidence {
    pub volume: VolumeId,
    pub erased: bool,
    pub method: String,
    pub bytes_overwritten: u64,
    pub bytes_discarded: u64,
    pub took_ms: u64,
    pub tool: String,
    pub detail: String,
    pub at: Timestamp,
}

/// One virtual machine of one project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Also the domain's UUID on the host.
    pub id: SliceId,
    /// Whose it is.
    pub project: ProjectId,
    /// Unique in the project.
    pub name: Name,
    /// The project's level when it was asked for.
    pub level: String,
    /// As people call it.
    pub level_name: String,
    /// GPUs: 1, 2, 4, 8 or 16.
    pub gpus: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Root disk, GiB.
    pub disk_gib: u64,
    /// Its other disks, at most one of each kind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<OtherVolume>,
    /// Where it stands.
    pub state: SliceState,
    /// What it waits for, or why it failed.
    pub reason: String,
    /// Who asked.
    pub requested_by: Name,
    /// When.
    pub requested: Timestamp,
    /// By whom so far.
    pub approvals: Vec<Approval>,
    /// How many the level demands.
    pub approvals_needed: u32,
    /// Where it was put, kept after it is gone.
    pub placement: Option<Placement>,
    /// Its disk.
    pub volume: VolumeId,
    /// SHA-256 of the volume key, first 16 hex digits.
    pub key_fingerprint: String,
    /// When the key was first given to a host; it then goes to no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_given: Option<Timestamp>,
    /// When the key was destroyed.
    pub key_destroyed: Option<Timestamp>,
    /// Of holmd's intention; an agent acts on none older than it has seen.
    pub generation: u64,
    /// The last change of state.
    pub changed: Timestamp,
    /// What the guest says.
    pub guest: Option<Guest>,
    /// What sanitising did to its devices after it.
    pub evidence: Vec<Evidence>,
    /// When the host reported the machine, its disk and every device released.
    pub detached: Option<Timestamp>,
    /// The deletion certificate.
    pub certificate: Option<Certificate>,
    /// Who closed it.
    pub closed_by: Option<Name>,
    /// When. One that was closed before this was kept has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// Its key and disk are not destroyed; absent: it is not on hold, unless its project is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Its level wants key and disk to stay until then, after it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<Timestamp>,
    /// When the host reported machine and devices released, and the disk kept; absent: it has them, or had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Timestamp>,
    /// What was done to its disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_evidence: Option<VolumeEvidence>,
    /// Not placed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// When its lead means to close it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When it was placed last; what its department has used counts from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<Timestamp>,
    /// A machine of it was seen to run: its disk is never made anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub used: bool,
    /// Its guest was ready once: its data disk holds data, and is neither made nor formatted anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub worked: bool,
    /// When it had devices before it was started again, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Span>,
    /// Under which id its disk's key is kept; absent: the disk's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<VolumeId>,
    /// Root disks that it had before it was rebuilt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<OtherVolume>,
    /// A change of its disks that is not through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<DiskChange>,
    /// Keys that open nothing of it any more, and are to be destroyed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spent: Vec<VolumeKey>,
    /// Until when it may run, by its level; absent: as long as its project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Timestamp>,
    /// Who approved that it runs so long, where it was extended; the log has who did before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renewed: Vec<Approval>,
    /// That end, when it was seen to be past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// More time, or another size, that its lead asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<Extension>,
    /// Its backups, and what is done with them.
    #[serde(default, skip_serializing_if = "Copies::is_empty")]
    pub copies: Copies,
    /// Its classes of jobs, that of a job that names none first; none: as the site has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler: Vec<JobClass>,
    /// No job begins in it; absent: jobs begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Who approved last that it has more than it had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enlarged: Vec<Approval>,
    /// Its size from its next start on; absent: the one that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resized: Option<Size>,
}

/// A class of jobs, a quality of service, as Slurm calls it; within the bounds of [`holm_proto::jobs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobClass {
    /// As a job names it.
    pub name: String,
    /// The larger the sooner.
    pub priority: u32,
    /// GPUs of one person at once; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// The longest that a job may run.
    pub wall_minutes: u32,
}

/// No job begins any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Who wanted that.
    pub by: Name,
    /// Since when.
    pub at: Timestamp,
    /// It is stopped when none runs.
    pub stop: bool,
}

/// A change of a slice's disks; the diagram is in `domain::disks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskChange {
    /// The agent names it by this.
    pub number: u64,
    /// What is to become of them.
    pub what: NewDisks,
    /// Who asked.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// What it waits for, as its host says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What is to become of a slice's disks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NewDisks {
    /// They get these sizes.
    Larger {
        /// The root disk, GiB.
        disk_gib: u64,
        /// The disk for data, GiB; 0: there is none.
        home_gib: u64,
    },
    /// They get these keys.
    Rekeyed {
        /// One for each.
        keys: Vec<VolumeKey>,
    },
}

/// A key of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeKey {
    /// The disk.
    pub volume: VolumeId,
    /// Under which id the key is kept.
    pub key: VolumeId,
    /// SHA-256 of the key, first 16 hex digits; empty before it is made.
    pub fingerprint: String,
}

/// What a disk beside the root disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// `/home` and `/project`: stays as long as the slice.
    Data,
    /// `/raid`: made at each start, erased at each stop. Its key only its host ever has.
    Scratch,
    /// The root disk that it had before it was rebuilt: to be erased.
    Root,
}

/// A disk beside the root disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherVolume {
    /// Which.
    pub id: VolumeId,
    /// What for.
    pub kind: VolumeKind,
    /// GiB.
    pub size_gib: u64,
    /// Of its key, as the root disk's; empty for scratch, whose key holmd never has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key_fingerprint: String,
    /// What was done to it when it was erased last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<VolumeEvidence>,
    /// Under which id its key is kept; absent: its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<VolumeId>,
}

impl OtherVolume {
    /// It was overwritten, and its host said so with evidence.
    pub fn erased(&self) -> bool {
        self.evidence.as_ref().is_some_and(|e| e.volume == self.id && e.erased && e.bytes_overwritten > 0)
    }

    /// Take in what its host says; one that is gone was erased before.
    pub fn told(&mut self, all: &[VolumeEvidence]) {
        let told = all.iter().find(|told| told.volume == self.id);
        if let Some(told) = told.filter(|told| told.erased || self.evidence.is_none()) {
            self.evidence = Some(told.clone());
        }
    }
}

/// From placed to released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Placed.
    pub from: Timestamp,
    /// Released.
    pub until: Timestamp,
    /// So many GPUs; absent: as many as the slice has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
}

/// A deletion certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// JSON, as signed.
    pub body: String,
    /// A signed note over it.
    pub note: String,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// As its certificate says.
    pub name: Name,
    /// When invited first.
    pub created: Timestamp,
    /// Nothing is real there.
    pub simulated: bool,
    /// Which partition table it has.
    pub platform: String,
    /// As its agent says.
    pub agent_version: String,
    /// As last reported.
    pub cpus: u32,
    /// As last reported.
    pub numa_nodes: u32,
    /// As last reported, MiB.
    pub memory_mib: u64,
    /// As last reported.
    pub iommu: bool,
    /// As last reported.
    pub kernel: String,
    /// Of the agent's run that was here last.
    #[serde(default)]
    pub watch: String,
    /// What it is made of, as last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// Ids of disagreements that are in the log, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<String>,
    /// SHA-256 of its newest certificate. Those before it are good for nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// Of the one that it renewed it to and has not used yet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub renewed: String,
    /// They are good for nothing until it is enrolled again; absent: they are good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
    /// Devices that were there when last reported.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub present: BTreeSet<PciAddress>,
    /// What came of the last check of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commissioning: Option<Commissioning>,
    /// All of the file system that holds the volumes, as last reported; 0: not known.
    #[serde(default)]
    pub volumes_gib: u64,
    /// Nothing new is placed there; absent: in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// Where its slices' backups go, in a word, as last reported; empty: nowhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backups: String,
}

/// What came of a check of a host. The report as the host signed it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commissioning {
    /// By the host's clock.
    pub at: Timestamp,
    /// By holmd's.
    pub received: Timestamp,
    /// Of its agent.
    pub agent_version: String,
    /// Nothing was looked at: there is nothing real.
    pub simulated: bool,
    /// What did not pass.
    pub failed: Vec<FailedCheck>,
    /// Ids of what did.
    pub passed: Vec<String>,
    /// SHA-256 of the report, hexadecimal.
    pub sha256: String,
    /// By the host's certificate's key, over the report; base64.
    pub signature: String,
}

/// A check that did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedCheck {
    /// Stable, for programs.
    pub id: String,
    /// What is demanded.
    pub title: String,
    /// It could not be found out.
    pub unknown: bool,
    /// A host that does not pass it gets no slices.
    pub must: bool,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub mend: String,
}

/// Where a device stands; the diagram is in `domain::device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the diagram in domain::device says what each is")]
pub enum DeviceState {
    Free,
    Claimed,
    Assigned,
    Dirty,
    Sanitising,
    Quarantined,
}

/// A device of a host. NVSwitches are listed, never assigned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// On which host.
    pub host: Name,
    /// Where in it.
    pub address: PciAddress,
    /// A GPU; otherwise an NVSwitch.
    pub gpu: bool,
    /// vvvv:dddd
    pub id: String,
    /// NUMA node, -1 where there is none.
    pub numa_node: i32,
    /// IOMMU group.
    pub iommu_group: Option<u32>,
    /// The fabric's number.
    pub physical_id: Option<u32>,
    /// The driver bound when last reported.
    pub driver: String,
    /// As sysfs says.
    pub reset_methods: Vec<String>,
    /// Of its own memory.
    pub memory_bytes: u64,
    /// Why it cannot be given to a slice.
    pub problem: String,
    /// Where it hangs.
    #[serde(default, skip_serializing_if = "Hardware::is_unknown")]
    pub hardware: Hardware,
    /// How it is, as last reported; absent where nobody said, which is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Where it stands.
    pub state: DeviceState,
    /// Why it stands there.
    pub reason: String,
    /// Whose it is, or whose it was last while it is not free.
    pub slice: Option<SliceId>,
    /// The last run's.
    pub evidence: Option<Evidence>,
    /// Nothing new is placed on it; absent: in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
}

/// A sanitising run under way: its report must name this id and every one of these devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Evidence goes by it, never by time.
    pub id: RunId,
    /// On which host.
    pub host: Name,
    /// Every device expected.
    pub devices: Vec<PciAddress>,
    /// Whose they were.
    pub slice: Option<SliceId>,
    /// When ordered.
    pub started: Timestamp,
}
