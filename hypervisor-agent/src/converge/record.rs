//! What the agent must not forget, in one small directory.
//!
//! ```text
//!   lock            held while an agent runs: two agents on one record would be two wills
//!   seen            the highest Intended.generation ever seen
//!   slices/ID       a slice: the generation acted upon, how far it has come, what it holds
//!   runs/ID         evidence of a sanitising run, until holmd no longer lists the run
//!   jobs/ID         the end of a job, until holmd no longer lists it
//!   devices         how each device stands (`devices`); damaged, it is a host on which every device is dirty
//! ```
//!
//! A file is written beside its name, synced, renamed, and the directory synced: after a kill or a power
//! cut it is whole, the old one or the new one. Its first line is the SHA-256 of the rest, so that one that
//! is not whole all the same is never believed.

use super::devices::Notes;
use crate::edge::{Image, NumaShare, VolumeKind};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_proto::{
    ids::{JobId, PciAddress, RunId, SliceId, VolumeId},
    v1,
};
use prost::Message as _;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// No file of the record is larger. Evidence of 16 devices takes some kilobytes.
const MAX_BYTES: u64 = 1 << 20;
const SEEN: &str = "seen";
const SLICES: &str = "slices";
const RUNS: &str = "runs";
const JOBS: &str = "jobs";
const DEVICES: &str = "devices";

/// How far a slice has come: what is about to happen, stored before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// Nothing was begun.
    New,
    /// Its devices go to vfio-pci.
    Binding,
    /// Its fabric partition comes up.
    Activating,
    /// Its volume is made.
    MakingVolume,
    /// Its seed is written.
    WritingSeed,
    /// Its machine starts: from here on the volume may hold data.
    Starting,
    /// Its machine runs, its guest is not ready.
    Booting,
    /// Its guest is ready.
    Ready,
    /// Its machine is stopped. Nothing leads back from here, but from [`Self::Kept`] to the beginning.
    Stopping,
    /// Its fabric partition goes down.
    Deactivating,
    /// Its volume is erased.
    Erasing,
    /// Its seed is removed.
    RemovingSeed,
    /// It is looked whether anything is left.
    Releasing,
    /// Nothing is left but its volume.
    Kept,
    /// Nothing is left.
    Absent,
}

impl Point {
    /// It works on devices, or holds them.
    pub fn holds(self) -> bool {
        !matches!(self, Self::New | Self::Absent)
    }

    /// It is being taken apart, or was.
    pub fn is_tombstone(self) -> bool {
        self >= Self::Stopping
    }
}

/// One step as it was timed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptStep {
    /// What it is called.
    pub name: String,
    /// When it began, milliseconds since 1970.
    pub started_ms: u64,
    /// How long it took; `None` while it runs.
    pub took_ms: Option<u64>,
}

/// What a guest claimed of itself when it became ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptGuest {
    /// OpenSSH form.
    pub ssh_host_key: String,
    /// As its Slurm counts them.
    pub gpus: u32,
    /// Slurm's version.
    pub slurm: String,
}

/// What was done to a slice's volume, as [`v1::VolumeEvidence`] says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "as holm.v1.VolumeEvidence documents them")]
pub struct KeptErasure {
    pub erased: bool,
    pub method: String,
    pub bytes_overwritten: u64,
    pub bytes_discarded: u64,
    pub took_ms: u64,
    pub tool: String,
    pub detail: String,
}

impl From<v1::VolumeEvidence> for KeptErasure {
    fn from(told: v1::VolumeEvidence) -> Self {
        Self {
            erased: told.erased,
            method: told.method,
            bytes_overwritten: told.bytes_overwritten,
            bytes_discarded: told.bytes_discarded,
            took_ms: told.took_ms,
            tool: told.tool,
            detail: told.detail,
        }
    }
}

impl KeptErasure {
    /// As it is reported.
    pub fn told(&self, volume: VolumeId) -> v1::VolumeEvidence {
        let Self { erased, method, bytes_overwritten, bytes_discarded, took_ms, tool, detail } = self.clone();
        let volume_id = volume.to_string();
        v1::VolumeEvidence {
            volume_id,
            erased,
            method,
            bytes_overwritten,
            bytes_discarded,
            took_ms,
            tool,
            detail,
        }
    }
}

/// A volume beside the root volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptVolume {
    /// Which.
    pub volume: VolumeId,
    /// Data or scratch.
    pub kind: VolumeKind,
    /// A guest was ready with it: it is never made again. Never so of scratch.
    pub used: bool,
    /// What was done to it when it was erased last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erasure: Option<KeptErasure>,
}

/// One slice, as it must survive the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Which.
    pub slice: SliceId,
    /// The generation that is acted upon; an older one is refused.
    pub generation: u64,
    /// It is to be destroyed.
    pub destroyed: bool,
    /// Its machine is to be gone, its devices free, and its volume to stay; unless it is to be destroyed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// How far it has come.
    pub point: Point,
    /// A machine was started on the volume, or may have been: it is never made again.
    pub used: bool,
    /// It was stopped, is to run again, and no machine of it was started since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// Its volume.
    pub volume: VolumeId,
    /// Its other volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<KeptVolume>,
    /// Its fabric partition, as long as it has devices.
    pub partition: u32,
    /// Its devices; none once they were released, and may be another's.
    pub devices: Vec<PciAddress>,
    /// Why nothing more is tried under this generation.
    pub failed: Option<String>,
    /// What was done so far.
    pub steps: Vec<KeptStep>,
    /// What its guest said.
    pub guest: Option<KeptGuest>,
    /// Where its memory and processors lie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NumaShare>,
    /// What was done to its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erasure: Option<KeptErasure>,
    /// What its root volume was made over; `None`: what the host has for new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// The root volumes that it had before it was rebuilt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<KeptVolume>,
    /// The change of its disks that holmd wants, or wanted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<KeptChange>,
}

/// A change of a slice's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptChange {
    /// As holmd counts them.
    pub number: u64,
    /// To another key; otherwise to another size.
    pub rekey: bool,
    /// Nothing more is tried.
    pub done: bool,
    /// Why it was not made, or what it waits for.
    pub note: String,
}

impl Kept {
    /// It is to be taken apart, to its volume or to nothing.
    pub fn is_undoing(&self) -> bool {
        self.destroyed || self.closed
    }

    /// Its volumes that stay with it: which, of what kind, and whether it holds data.
    pub fn lasting(&self) -> impl Iterator<Item = (VolumeId, VolumeKind, bool)> {
        let others = self.others.iter().filter(|other| other.kind != VolumeKind::Scratch);
        let others = others.map(|other| (other.volume, other.kind, other.used));
        std::iter::once((self.volume, VolumeKind::Root, self.used)).chain(others)
    }

    /// Its root volumes of before, of which it is not known that they are gone.
    pub fn to_retire(&self) -> impl Iterator<Item = VolumeId> {
        self.retired.iter().filter(|old| old.erasure.is_none()).map(|old| old.volume)
    }

    /// Its root volume is another from now on, where it was rebuilt.
    pub fn rebuild(&mut self, volume: VolumeId, retired: &[VolumeId]) {
        let mut old = retired.to_vec();
        if self.volume != volume && retired.contains(&self.volume) {
            self.volume = volume;
            self.used = false;
            self.image = None;
        }
        old.retain(|old| *old != self.volume && self.retired.iter().all(|known| known.volume != *old));
        let kind = VolumeKind::Root;
        self.retired.extend(old.into_iter().map(|volume| KeptVolume {
            volume,
            kind,
            used: true,
            erasure: None,
        }));
        // Of what holmd names no more it has the evidence.
        self.retired.retain(|known| retired.contains(&known.volume));
    }

    /// Its volume that does not.
    pub fn scratch(&self) -> Option<VolumeId> {
        self.others.iter().find(|other| other.kind == VolumeKind::Scratch).map(|other| other.volume)
    }

    /// What was done to a volume. One that is gone was erased by an earlier try, which is the one that knows.
    pub fn erased(&mut self, told: v1::VolumeEvidence) {
        let mut beside = self.others.iter_mut().chain(&mut self.retired);
        let other = beside.find(|other| other.volume.to_string() == told.volume_id);
        let place = match other {
            Some(other) => &mut other.erasure,
            None if self.volume.to_string() == told.volume_id => &mut self.erasure,
            None => return,
        };
        if told.erased || place.is_none() {
            *place = Some(told.into());
        }
    }

    /// The partition that it works on or has.
    pub fn partition(&self) -> Option<u32> {
        (!self.devices.is_empty()).then_some(self.partition)
    }

    /// It was kept, and is to run: everything but its volume is new.
    pub fn begin_again(&mut self) {
        self.closed = false;
        self.again = true;
        self.point = Point::New;
        self.steps.clear();
        self.guest = None;
        self.others.iter_mut().for_each(|other| other.erasure = None);
        if let Some(change) = self.change.as_mut().filter(|change| !change.done) {
            // What kept it from being made may have ended with the machine.
            change.note.clear();
        }
    }

    /// Its devices, processors and partition are its own no more.
    pub fn let_go(&mut self) {
        self.devices.clear();
        self.nodes.clear();
    }
}

/// Why the record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The system said no.
    #[error("`{}` of the agent's record cannot be used", .0.display())]
    Io(PathBuf, #[source] io::Error),
    /// What is in it is not what the agent wrote.
    #[error(
        "`{}` of the agent's record is damaged ({why}): see what runs with `virsh list`, then move the file away",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what way.
        why: &'static str,
    },
    /// There is another agent.
    #[error("another holm-agent works with `{}`", .0.display())]
    InUse(PathBuf),
}

/// The directory, and the right to write in it.
#[derive(Debug)]
pub struct Record {
    directory: PathBuf,
    _lock: File,
    #[cfg(test)]
    pub(super) fuse: Option<std::sync::Arc<super::tests::Fuse>>,
}

/// What an earlier agent left.
#[derive(Debug)]
pub struct Loaded {
    /// The highest generation seen.
    pub seen: u64,
    /// Every slice; one whose file is damaged is known by its id alone.
    pub slices: BTreeMap<SliceId, Result<Kept, RecordError>>,
    /// Evidence of every run that came to its end.
    pub runs: BTreeMap<RunId, Vec<v1::Evidence>>,
    /// Every job that came to its end.
    pub jobs: BTreeMap<JobId, v1::ObservedJob>,
    /// How devices stand; where it cannot be read, every one is dirty.
    pub devices: Result<Notes, RecordError>,
}

impl Record {
    /// Opens the record, making the directory where there is none, and reads what is in it.
    pub fn open(directory: &Path) -> Result<(Self, Loaded), RecordError> {
        for directory in
            [directory.to_owned(), directory.join(SLICES), directory.join(RUNS), directory.join(JOBS)]
        {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(|error| RecordError::Io(directory, error))?;
        }
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| RecordError::Io(path.clone(), error))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(RecordError::InUse(directory.to_owned())),
            Err(error) => return Err(RecordError::Io(path, error.into())),
        }
        let record = Self {
            directory: directory.to_owned(),
            _lock: lock,
            #[cfg(test)]
            fuse: None,
        };
        let loaded = record.load()?;
        Ok((record, loaded))
    }

    /// Stores the highest generation seen.
    pub fn save_seen(&self, generation: u64) -> Result<(), RecordError> {
        self.write(&self.directory.join(SEEN), generation.to_string().as_bytes())
    }

    /// Stores a slice.
    pub fn save_slice(&self, kept: &Kept) -> Result<(), RecordError> {
        let path = self.path(SLICES, kept.slice);
        let body = serde_json::to_vec(kept).map_err(|error| RecordError::Io(path.clone(), error.into()))?;
        self.write(&path, &body)
    }

    /// Forgets a slice of which nothing is left.
    pub fn forget_slice(&self, slice: SliceId) -> Result<(), RecordError> {
        self.remove(&self.path(SLICES, slice))
    }

    /// Stores the evidence of a run that came to its end.
    pub fn save_run(&self, run: RunId, evidence: &[v1::Evidence]) -> Result<(), RecordError> {
        let report = v1::SanitiseReport { run_id: run.to_string(), evidence: evidence.to_vec() };
        self.write(&self.path(RUNS, run), &report.encode_to_vec())
    }

    /// Forgets a run that holmd has judged.
    pub fn forget_run(&self, run: RunId) -> Result<(), RecordError> {
        self.remove(&self.path(RUNS, run))
    }

    /// Stores the end of a job.
    pub fn save_job(&self, job: JobId, told: &v1::ObservedJob) -> Result<(), RecordError> {
        self.write(&self.path(JOBS, job), &told.encode_to_vec())
    }

    /// Forgets a job whose end holmd has heard.
    pub fn forget_job(&self, job: JobId) -> Result<(), RecordError> {
        self.remove(&self.path(JOBS, job))
    }

    /// Stores how devices stand.
    pub fn save_devices(&self, notes: &Notes) -> Result<(), RecordError> {
        let path = self.directory.join(DEVICES);
        let body = serde_json::to_vec(notes).map_err(|error| RecordError::Io(path.clone(), error.into()))?;
        self.write(&path, &body)
    }

    fn devices(&self) -> Result<Notes, RecordError> {
        let path = self.directory.join(DEVICES);
        let Some(body) = read(&path)? else { return Ok(Notes::default()) };
        serde_json::from_slice(&body)
            .map_err(|_| RecordError::Damaged { path, why: "it does not say how devices stand" })
    }

    fn load(&self) -> Result<Loaded, RecordError> {
        let path = self.directory.join(SEEN);
        let seen = match read(&path)? {
            None => 0,
            Some(body) => std::str::from_utf8(&body)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or(RecordError::Damaged { path, why: "it holds no number" })?,
        };
        let mut slices = BTreeMap::new();
        for slice in self.ids::<SliceId>(SLICES)? {
            slices.insert(slice, self.slice(slice));
        }
        let mut runs = BTreeMap::new();
        for run in self.ids::<RunId>(RUNS)? {
            match self.run(run) {
                Ok(evidence) => drop(runs.insert(run, evidence)),
                // Without evidence the run is done again.
                Err(error) => tracing::warn!(%run, %error, "evidence of a run is not used"),
            }
        }
        let mut jobs = BTreeMap::new();
        for job in self.ids::<JobId>(JOBS)? {
            match self.job(job) {
                Ok(told) => drop(jobs.insert(job, told)),
                // It is done again, which changes nothing.
                Err(error) => tracing::warn!(%job, %error, "the end of a job is not used"),
            }
        }
        Ok(Loaded { seen, slices, runs, jobs, devices: self.devices() })
    }

    fn slice(&self, slice: SliceId) -> Result<Kept, RecordError> {
        let path = self.path(SLICES, slice);
        let damaged = |why| RecordError::Damaged { path: path.clone(), why };
        let body = read(&path)?.ok_or_else(|| damaged("it is gone"))?;
        let kept: Kept = serde_json::from_slice(&body).map_err(|_| damaged("it is no slice"))?;
        if kept.slice == slice { Ok(kept) } else { Err(damaged("it is another slice's")) }
    }

    fn run(&self, run: RunId) -> Result<Vec<v1::Evidence>, RecordError> {
        let path = self.path(RUNS, run);
        let damaged = |why| RecordError::Damaged { path: path.clone(), why };
        let body = read(&path)?.ok_or_else(|| damaged("it is gone"))?;
        let report = v1::SanitiseReport::decode(body.as_slice()).map_err(|_| damaged("it is no report"))?;
        let whole = report.run_id == run.to_string()
            && report.evidence.iter().all(|evidence| evidence.run_id == report.run_id);
        if whole { Ok(report.evidence) } else { Err(damaged("it is another run's")) }
    }

    fn job(&self, job: JobId) -> Result<v1::ObservedJob, RecordError> {
        let path = self.path(JOBS, job);
        let damaged = |why| RecordError::Damaged { path: path.clone(), why };
        let body = read(&path)?.ok_or_else(|| damaged("it is gone"))?;
        let told = v1::ObservedJob::decode(body.as_slice()).map_err(|_| damaged("it is no job"))?;
        if told.job_id == job.to_string() { Ok(told) } else { Err(damaged("it is another job's")) }
    }

    fn ids<Id: std::str::FromStr>(&self, below: &str) -> Result<Vec<Id>, RecordError> {
        let directory = self.directory.join(below);
        let failed = |error| RecordError::Io(directory.clone(), error);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            match name.to_str().map(|name| (name, name.parse())) {
                Some((_, Ok(id))) => ids.push(id),
                // What a kill left of a writing.
                Some((name, Err(_))) if name.ends_with(".tmp") => self.remove(&directory.join(name))?,
                _ => tracing::warn!(?name, "a file in the agent's record is not the agent's"),
            }
        }
        Ok(ids)
    }

    fn path(&self, below: &str, id: impl ToString) -> PathBuf {
        self.directory.join(below).join(id.to_string())
    }

    fn write(&self, path: &Path, body: &[u8]) -> Result<(), RecordError> {
        #[cfg(test)]
        super::tests::Fuse::burn(self.fuse.as_deref())
            .map_err(|error| RecordError::Io(path.to_owned(), io::Error::other(error.chain())))?;
        let write = || -> io::Result<()> {
            let mut making = path.as_os_str().to_owned();
            making.push(".tmp");
            let mut file =
                OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&making)?;
            file.write_all(HEXLOWER.encode(digest(&SHA256, body).as_ref()).as_bytes())?;
            file.write_all(b"\n")?;
            file.write_all(body)?;
            file.sync_all()?;
            fs::rename(&making, path)?;
            sync_directory(path)
        };
        write().map_err(|error| RecordError::Io(path.to_owned(), error))?;
        #[cfg(test)]
        super::tests::Fuse::burn(self.fuse.as_deref())
            .map_err(|error| RecordError::Io(path.to_owned(), io::Error::other(error.chain())))?;
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), RecordError> {
        #[cfg(test)]
        super::tests::Fuse::burn(self.fuse.as_deref())
            .map_err(|error| RecordError::Io(path.to_owned(), io::Error::other(error.chain())))?;
        let removed = match fs::remove_file(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_directory(path),
        };
        removed.map_err(|error| RecordError::Io(path.to_owned(), error))
    }
}

/// What a file holds below its digest; `None` where there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(RecordError::Io(path.to_owned(), error)),
    }
    let damaged = || RecordError::Damaged { path: path.to_owned(), why: "its digest does not fit" };
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(damaged)?;
    let body = bytes.split_off(end + 1);
    let fits = bytes
        .get(..end)
        .and_then(|line| HEXLOWER.decode(line).ok())
        .is_some_and(|wanted| wanted == digest(&SHA256, &body).as_ref());
    if fits { Ok(Some(body)) } else { Err(damaged()) }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn kept() -> Kept {
        Kept {
            slice: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
            generation: 3,
            destroyed: false,
            closed: false,
            point: Point::MakingVolume,
            used: false,
            again: false,
            volume: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap(),
            others: Vec::new(),
            partition: 9,
            devices: vec!["0000:34:00.0".parse().unwrap(), "0000:3b:00.0".parse().unwrap()],
            failed: None,
            steps: vec![KeptStep { name: "bind".to_owned(), started_ms: 1, took_ms: Some(2) }],
            guest: Some(KeptGuest { ssh_host_key: "k".to_owned(), gpus: 2, slurm: "24.11".to_owned() }),
            nodes: vec![NumaShare { node: 1, cpus: vec![24, 72], memory_mib: 92_160 }],
            erasure: None,
            image: None,
            retired: Vec::new(),
            change: None,
        }
    }

    /// A process that another test is about to start shares the lock of a record that is closed until it begins.
    fn open(directory: &Path) -> Result<(Record, Loaded), RecordError> {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            match Record::open(directory) {
                Err(RecordError::InUse(_)) if std::time::Instant::now() < end => std::thread::yield_now(),
                opened => return opened,
            }
        }
    }

    fn run() -> RunId {
        "7d444840-9dc0-11d1-b245-5ffdce74fad2".parse().unwrap()
    }

    #[test]
    fn what_is_stored_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let (record, loaded) = open(directory.path()).unwrap();
        assert_eq!((loaded.seen, loaded.slices.len(), loaded.runs.len()), (0, 0, 0));
        let evidence = vec![v1::Evidence {
            run_id: run().to_string(),
            address: "0000:34:00.0".to_owned(),
            cleaned: true,
            bytes_total: u64::MAX,
            ..Default::default()
        }];
        record.save_seen(7).unwrap();
        record.save_slice(&kept()).unwrap();
        record.save_run(run(), &evidence).unwrap();
        drop(record);
        let (record, loaded) = open(directory.path()).unwrap();
        assert_eq!(loaded.seen, 7);
        assert_eq!(loaded.slices[&kept().slice].as_ref().unwrap(), &kept());
        assert_eq!(loaded.runs[&run()], evidence);
        for _ in 0..2 {
            record.forget_slice(kept().slice).unwrap();
            record.forget_run(run()).unwrap();
        }
        drop(record);
        let (_record, loaded) = open(directory.path()).unwrap();
        assert_eq!((loaded.slices.len(), loaded.runs.len()), (0, 0));
    }

    #[test]
    fn two_agents_do_not_share_one() {
        let directory = tempfile::tempdir().unwrap();
        let _first = open(directory.path()).unwrap();
        assert!(matches!(Record::open(directory.path()), Err(RecordError::InUse(_))));
    }

    #[test]
    fn a_writing_that_was_cut_off_leaves_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let (record, _) = open(directory.path()).unwrap();
        record.save_slice(&kept()).unwrap();
        record.save_seen(7).unwrap();
        drop(record);
        let whole = fs::read(directory.path().join("slices").join(kept().slice.to_string())).unwrap();
        for cut in [0, 1, 64, 65, whole.len() - 1] {
            let torn = directory.path().join(format!("slices/{}.tmp", kept().slice));
            fs::write(&torn, &whole[..cut]).unwrap();
            fs::write(directory.path().join("seen.tmp"), &whole[..cut]).unwrap();
            let (_record, loaded) = open(directory.path()).unwrap();
            assert_eq!(loaded.slices[&kept().slice].as_ref().unwrap(), &kept());
            assert_eq!(loaded.seen, 7);
            assert!(!torn.exists());
        }
    }

    #[test]
    fn what_is_not_whole_is_never_believed() {
        let directory = tempfile::tempdir().unwrap();
        let (record, _) = open(directory.path()).unwrap();
        record.save_slice(&kept()).unwrap();
        record.save_run(run(), &[]).unwrap();
        drop(record);
        let path = directory.path().join(format!("slices/{}", kept().slice));
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (_record, loaded) = open(directory.path()).unwrap();
            assert!(loaded.slices[&kept().slice].is_err(), "cut at {cut}");
        }
        for at in (0..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let (_record, loaded) = open(directory.path()).unwrap();
            assert!(loaded.slices[&kept().slice].is_err(), "changed at {at}");
        }
        fs::write(directory.path().join(format!("runs/{}", run())), "x").unwrap();
        fs::write(directory.path().join("slices/notes.txt"), "x").unwrap();
        let (_record, loaded) = open(directory.path()).unwrap();
        assert_eq!((loaded.slices.len(), loaded.runs.len()), (1, 0));
        drop(_record);
        // Without it an old intention could pass for a new one.
        fs::write(directory.path().join("seen"), "7").unwrap();
        let error = open(directory.path()).unwrap_err();
        assert!(matches!(error, RecordError::Damaged { .. }), "{error}");
    }

    #[test]
    fn another_slices_file_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let (record, _) = open(directory.path()).unwrap();
        record.save_slice(&kept()).unwrap();
        drop(record);
        let other = "0190163d-8694-739b-aea5-966c26f8ad92";
        fs::rename(
            directory.path().join(format!("slices/{}", kept().slice)),
            directory.path().join(format!("slices/{other}")),
        )
        .unwrap();
        let (_record, loaded) = open(directory.path()).unwrap();
        assert!(loaded.slices[&other.parse().unwrap()].is_err());
    }
}
