//! Backups of a slice's disks, and what is done with them.
//!
//! ```text
//!                    ┌── back up ──▶ made, or failed and begun again under its name
//!   at rest ── job ──┼── drill   ──▶ passed or not, with its date       one job at a time, and only of a slice
//!   (Stopped)        ├── restore ──▶ its disks are what they were       that is stopped; started again when it is over
//!                    └── encrypt anew ──▶ its disks, under other data keys
//!
//!   a backup was made ────── job: remove ──▶ older ones are gone from the store, or wait for the next
//!   Closing, Destroying ──── job: remove ──▶ all are, or not: the certificate says which
//! ```
//!
//! A job is holmd's wish; its host does it, and says how it ended under the job's own id. Closing and holding end what
//! was wished: what is half made lies in the store under the backup's id and goes with the slice. On hold nothing is
//! restored, and nothing removed whose key is left; of a project that is on hold such a job waits, or gives way to a
//! backup. What a restore that was given up has put back nobody knows: the record says so. A backup opens with the keys
//! that the disks had then: where they have others now, it is noise. Of one that was made before a slice was rebuilt,
//! /home and /project are left.

use super::records::{Change, NewDisks, Slice, SliceState};
use super::slice::{held, not_held, put};
use super::{Refusal, RefusalKind, State, disks, lock};
use holm_proto::ids::{BackupId, JobId, Name, VolumeId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// As many whole backups a slice may have: its record holds them.
pub const KEEP_MAX: usize = 8;
/// So many more where older ones cannot be removed.
const SPARE: usize = 8;

/// What there is of a slice besides its disks and its keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// What is being done; at most one thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
    /// The newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<Backup>,
    /// What came of removing them when the slice was destroyed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
    /// Who else has its keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escrow: Vec<Escrowed>,
    /// How it ended that its disks were encrypted anew, last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reencrypted: Option<Tried>,
}

/// What its host is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Once only.
    pub id: JobId,
    /// What.
    pub kind: JobKind,
    /// Which backup is made, tried or restored; of a removal the newest; nil where disks are encrypted anew.
    pub backup: BackupId,
    /// Who asked; holmd itself where it is nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Name>,
    /// When.
    pub at: Timestamp,
    /// Backups that go; where one is made they go when it is known to be whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<BackupId>,
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the diagram says what each is")]
pub enum JobKind {
    Backup,
    Restore,
    Drill,
    Remove,
    Reencrypt,
}

impl JobKind {
    /// Its host is given the keys for it.
    pub fn takes_keys(self) -> bool {
        matches!(self, Self::Drill | Self::Reencrypt)
    }

    /// As people read it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Backup => "a backup of it is being made",
            Self::Restore => "it is being restored",
            Self::Drill => "a restore drill of it is under way",
            Self::Remove => "backups of it are being removed",
            Self::Reencrypt => "its disks are being encrypted anew",
        }
    }
}

/// A copy of a slice's disks, as they lay on its host: encrypted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Its name in the store.
    pub id: BackupId,
    /// Which host made it, and can restore it.
    pub host: Name,
    /// Who asked.
    pub by: Name,
    /// When.
    pub begun: Timestamp,
    /// Absent: it is being made, or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
    /// Why it failed last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed: String,
    /// It was begun to remove it from the store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub going: bool,
    /// The last drill with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Tried>,
    /// The last restore from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Tried>,
    /// Of which disks, with the keys that open them.
    pub volumes: Vec<Copied>,
}

/// A disk that a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Which.
    pub id: VolumeId,
    /// Of the key it had then.
    pub key_fingerprint: String,
    /// As large it was, GiB.
    pub size_gib: u64,
}

/// A backup that is whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// When its host said so.
    pub at: Timestamp,
    /// Of its manifest, hexadecimal: it knows the backup's every byte.
    pub sha256: String,
    /// Of the disks.
    pub bytes: u64,
    /// What lies in the store.
    pub stored_bytes: u64,
}

/// How a drill, a restore, or the encrypting anew ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// When it ended.
    pub at: Timestamp,
    /// Who asked.
    pub by: Option<Name>,
    /// Well.
    pub passed: bool,
    /// What was looked at or put back, or why it was not.
    pub detail: String,
}

/// What came of removing all backups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// When.
    pub at: Timestamp,
    /// Why some may still be there; empty: none is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed: String,
}

/// A key that somebody else has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Escrowed {
    /// The recipient, as the configuration names it.
    pub to: String,
    /// When last.
    pub at: Timestamp,
    /// The officer.
    pub by: Name,
    /// Of the keys.
    pub key_fingerprints: Vec<String>,
}

impl Copies {
    /// There is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is being done with its disks.
    pub fn on_disks(&self) -> Option<&Job> {
        self.job.as_ref().filter(|job| job.kind != JobKind::Remove)
    }

    /// The newest that is whole.
    pub fn newest(&self) -> Option<&Backup> {
        self.backups.iter().rev().find(|backup| backup.made.is_some() && !backup.going)
    }
}

impl Backup {
    /// Those of its disks that the slice still has, with the keys that they had when it was made.
    pub fn opening<'a>(&'a self, slice: &'a Slice) -> impl Iterator<Item = &'a Copied> {
        let has = |v: &&Copied| {
            slice
                .keyed_volumes()
                .any(|now| (now.volume, now.fingerprint) == (v.id, v.key_fingerprint.as_str()))
        };
        self.volumes.iter().filter(has)
    }

    /// Why nothing of it can be restored; `None`: something can.
    pub fn lacks(&self, slice: &Slice) -> Option<String> {
        if self.made.is_none() {
            let why = if self.failed.is_empty() { "it was not finished" } else { &self.failed };
            return Some(format!("not whole: {why}"));
        }
        if self.going {
            return Some(
                "newer ones have taken its place: it is being removed, or goes with the next".to_owned(),
            );
        }
        let moved = slice.placement.as_ref().is_none_or(|p| p.host != self.host);
        if moved {
            return Some(format!("it is of host `{}`, and the slice is not there", self.host));
        }
        self.opening(slice)
            .next()
            .is_none()
            .then(|| "the keys of its disks were changed since: it opens no more".to_owned())
    }

    /// What of it cannot be restored any more, of one that can; `None`: all of it can.
    pub fn lost(&self, slice: &Slice) -> Option<&'static str> {
        (self.opening(slice).count() < self.volumes.len())
            .then_some("/home and /project alone: its root disk was made anew since")
    }
}

/// What an agent says of the end of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub job: JobId,
    /// Why it failed; `None`: it was done.
    pub failed: Option<String>,
    /// Of a backup's manifest.
    pub sha256: String,
    /// Of the disks.
    pub bytes: u64,
    /// In the store.
    pub stored_bytes: u64,
    /// Of a drill: what was looked at.
    pub method: String,
    /// Backups that are gone.
    pub removed: Vec<BackupId>,
}

/// Who wants a job, and what it is called.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The job's id.
    pub job: JobId,
    /// Who.
    pub by: Name,
    /// When.
    pub now: Timestamp,
}

/// Have its disks copied. `keep`: as many whole backups it has afterwards. `id` is used where none was left half made.
pub fn back_up(
    state: &State,
    slice: &Slice,
    id: BackupId,
    keep: usize,
    wish: &Wish,
) -> Result<Vec<Change>, Refusal> {
    let mut next = slice.clone();
    if is_kept_back(state, slice) {
        // Until the hold is lifted it would keep copies from being made, which change nothing.
        end_job(&mut next, wish.now);
    }
    rests(state, &next, "backed up")?;
    has_place(state, &next)?;
    if !slice.used {
        let label = state.slice_label(slice);
        let text = "its new root disk is made when it is started: until then there is no whole copy of it";
        return Err(no(text).hint(format!("holm slice start {label}, and stop it when it has run")));
    }
    let host = slice.placement.as_ref().map(|p| p.host.clone());
    let host = host.ok_or_else(|| no("it is on no host"))?;
    let half = next.copies.backups.iter().position(|backup| backup.made.is_none());
    let half = half.map(|at| next.copies.backups.remove(at));
    // What was stored of it already is used.
    let id = half.map_or(id, |half| half.id);
    if next.copies.backups.len() >= KEEP_MAX + SPARE {
        let text = "it has as many backups as it may: older ones were not removed, or it is on hold";
        return Err(no(text).hint("ask an operator whether the store of backups lets go of what is removed"));
    }
    let held = held(state, slice).is_some();
    let many = next.copies.backups.len().saturating_sub(keep.clamp(1, KEEP_MAX) - 1);
    // On hold nothing of it is destroyed.
    let many = if held { 0 } else { many };
    let remove = next.copies.backups.iter().take(many).map(|backup| backup.id).collect();
    let size = |volume| {
        let other = next.others.iter().find(|other| other.id == volume);
        other.map_or(next.disk_gib, |other| other.size_gib)
    };
    let copied = next.keyed_volumes().map(|keyed| Copied {
        id: keyed.volume,
        key_fingerprint: keyed.fingerprint.to_owned(),
        size_gib: size(keyed.volume),
    });
    let volumes = copied.collect();
    next.copies.backups.push(Backup {
        id,
        host,
        by: wish.by.clone(),
        begun: wish.now,
        made: None,
        failed: String::new(),
        going: false,
        drill: None,
        restore: None,
        volumes,
    });
    Ok(begin(next, JobKind::Backup, id, wish, remove))
}

/// Have its disks become what they were.
pub fn restore(state: &State, slice: &Slice, id: BackupId, wish: &Wish) -> Result<Vec<Change>, Refusal> {
    rests(state, slice, "restored")?;
    has_place(state, slice)?;
    not_held(state, slice, "what it holds stays as it is")?;
    not_rekeyed(state, slice)?;
    find(state, slice, Some(id), false)?;
    Ok(begin(slice.clone(), JobKind::Restore, id, wish, Vec::new()))
}

/// Have its disks encrypted anew, under other data keys: who has copied a header, and its key, reads nothing that is on
/// them then.
pub fn reencrypt(state: &State, slice: &Slice, wish: &Wish) -> Result<Vec<Change>, Refusal> {
    rests(state, slice, "encrypted anew")?;
    not_held(state, slice, "its key is given to nobody")?;
    not_rekeyed(state, slice)?;
    if !slice.used {
        let label = state.slice_label(slice);
        let text = "its new root disk is made when it is started: that comes first";
        return Err(no(text).hint(format!("holm slice start {label}, and stop it when it has run")));
    }
    let none = BackupId::nil();
    Ok(begin(slice.clone(), JobKind::Reencrypt, none, wish, Vec::new()))
}

/// Have it tried whether they could; `None`: with the newest backup.
pub fn drill(
    state: &State,
    slice: &Slice,
    id: Option<BackupId>,
    wish: &Wish,
) -> Result<Vec<Change>, Refusal> {
    rests(state, slice, "drilled")?;
    has_place(state, slice)?;
    not_held(state, slice, "its key is given to nobody")?;
    let id = find(state, slice, id, true)?.id;
    Ok(begin(slice.clone(), JobKind::Drill, id, wish, Vec::new()))
}

/// Have all its backups removed, where there are some and it was not tried: its key is gone. `None`: nothing to do.
pub fn remove(slice: &Slice, job: JobId, now: Timestamp) -> Option<Vec<Change>> {
    let copies = &slice.copies;
    let due = SliceState::UNWANTED.contains(&slice.state) && slice.key_destroyed.is_some();
    if !due || copies.removal.is_some() || copies.job.is_some() {
        return None;
    }
    let newest = copies.backups.last()?.id;
    let all = copies.backups.iter().map(|backup| backup.id).collect();
    let mut next = slice.clone();
    next.copies.job =
        Some(Job { id: job, kind: JobKind::Remove, backup: newest, by: None, at: now, remove: all });
    Some(put(next))
}

/// Take note of the end of its job; where another follows it is `following`. `None`: it is of another.
pub fn told(slice: &Slice, told: &Told, following: JobId, now: Timestamp) -> Option<Vec<Change>> {
    let job = slice.copies.job.as_ref().filter(|job| job.id == told.job)?;
    let mut next = slice.clone();
    next.copies.job = None;
    let place = next.copies.backups.iter_mut().find(|backup| backup.id == job.backup);
    match (job.kind, &told.failed) {
        (JobKind::Backup, failed) => {
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            let known = told.sha256.len() == 64 && told.sha256.bytes().all(hex);
            let backup = place?;
            match failed {
                None if known => {
                    let (bytes, stored_bytes) = (told.bytes, told.stored_bytes);
                    backup.made = Some(Made { at: now, sha256: told.sha256.clone(), bytes, stored_bytes });
                    for backup in next.copies.backups.iter_mut().filter(|b| job.remove.contains(&b.id)) {
                        backup.going = true;
                    }
                    // Only now: what the older ones are to be replaced by is in the record, and whole.
                    next.copies.job = (!job.remove.is_empty()).then(|| Job {
                        id: following,
                        kind: JobKind::Remove,
                        at: now,
                        ..job.clone()
                    });
                }
                None => backup.failed = "its host did not say what it made".to_owned(),
                Some(why) => backup.failed.clone_from(why),
            }
        }
        (JobKind::Restore, None) => {
            let backup = place?.clone();
            let of = backup.made.as_ref().map(|made| made.at).unwrap_or_default();
            let by = job.by.clone().unwrap_or_else(|| backup.by.clone());
            let what = backup.lost(slice).map(|what| format!(", {what}")).unwrap_or_default();
            disks::restored(&mut next, &backup, &by, now);
            let detail = format!("restored from the backup of {of:.0}{what}");
            next.reason = format!("stopped, and {detail}");
            tried(&mut next, job, Ok(detail), now);
            brought_back(&mut next, &backup);
        }
        (JobKind::Restore, Some(why)) => {
            let detail = format!(
                "not restored to the end, and where it says that a disk was put back already, restore it again: {why}"
            );
            half_restored(&mut next, job, detail, now);
        }
        (JobKind::Reencrypt, failed) => {
            let detail = match failed {
                None => format!(
                    "its disks are under other data keys ({}); backups of before are not: make another one",
                    told.method
                ),
                Some(why) => why.clone(),
            };
            reencrypted(&mut next, job, failed.is_none(), detail, now);
        }
        (JobKind::Drill, None) => tried(&mut next, job, Ok(told.method.clone()), now),
        (JobKind::Drill, Some(why)) => tried(&mut next, job, Err(why.clone()), now),
        // Those that stay are older than what is kept, and go with the next.
        (JobKind::Remove, _) if slice.key_destroyed.is_none() => {
            let gone = |id: BackupId| job.remove.contains(&id) && told.removed.contains(&id);
            next.copies.backups.retain(|backup| !gone(backup.id));
        }
        (JobKind::Remove, failed) => {
            let left = job.remove.iter().any(|id| !told.removed.contains(id));
            let why = failed.clone().or_else(|| left.then(|| "its host did not name all of them".to_owned()));
            next.copies.removal = Some(Removal { at: now, failed: why.unwrap_or_default() });
        }
    }
    Some(put(next))
}

/// A restore that was not seen to its end: each disk is what it was or what it became. They are taken for as small as
/// they were then, and are made as large as they are to be when the slice is started.
fn half_restored(next: &mut Slice, job: &Job, detail: String, now: Timestamp) {
    if let Some(backup) = next.copies.backups.iter().find(|backup| backup.id == job.backup).cloned() {
        disks::restored(next, &backup, job.by.as_ref().unwrap_or(&backup.by), now);
        brought_back(next, &backup);
    }
    next.reason = format!("stopped; {detail}");
    tried(next, job, Err(detail), now);
}

/// A disk that is restored from a backup of before it was encrypted anew is under the data key of then.
fn brought_back(next: &mut Slice, backup: &Backup) {
    let since = next.copies.reencrypted.as_mut().filter(|done| done.passed && backup.begun < done.at);
    if let Some(done) = since {
        done.passed = false;
        "a backup of before was restored, or may be in part: what it holds is under the data keys of then"
            .clone_into(&mut done.detail);
    }
}

fn reencrypted(next: &mut Slice, job: &Job, passed: bool, detail: String, at: Timestamp) {
    let not = if passed { "" } else { "not all of its disks are encrypted anew: " };
    next.reason = format!("stopped; {not}{detail}");
    next.copies.reencrypted = Some(Tried { at, by: job.by.clone(), passed, detail });
}

/// How it ended is noted with the backup that it was of.
fn tried(next: &mut Slice, job: &Job, outcome: Result<String, String>, at: Timestamp) {
    let passed = outcome.is_ok();
    let (Ok(detail) | Err(detail)) = outcome;
    let of = next.copies.backups.iter_mut().find(|backup| backup.id == job.backup);
    let Some(of) = of else { return };
    let place = if job.kind == JobKind::Drill { &mut of.drill } else { &mut of.restore };
    *place = Some(Tried { at, by: job.by.clone(), passed, detail });
}

/// Why it is not started before a drill has passed; `None`: it may be. `days`: as old may the last one be at its level;
/// 0: none is demanded.
pub fn drill_due(slice: &Slice, days: u32, now: Timestamp) -> Option<String> {
    // What never ran, or was made anew and not started since, has nothing that a backup could have: demanded of it, it
    // would never run.
    if days == 0 || !slice.used {
        return None;
    }
    let demands = format!("its level demands a restore drill in {days} days");
    if slice.copies.newest().is_none() {
        return Some(format!("{demands}, and it has no backup"));
    }
    // Of what can still be restored.
    let whole = slice.copies.backups.iter().filter(|backup| can(backup, slice, true).is_ok());
    let drills = whole.filter_map(|backup| backup.drill.as_ref());
    let Some(last) = drills.max_by_key(|drill| drill.at) else {
        return Some(format!("{demands}, and there was none"));
    };
    if !last.passed {
        return Some(format!("{demands}, and the last one did not pass: {}", last.detail));
    }
    let old = now.duration_since(last.at) > super::days(days);
    old.then(|| format!("{demands}, and the last one was at {:.0}", last.at))
}

/// A hold or a lock keeps its job from its host: nothing is restored, no key is given out to encrypt anew, and nothing
/// removed but what no key opens any more.
pub fn is_kept_back(state: &State, slice: &Slice) -> bool {
    let destroys = slice.copies.job.as_ref().is_some_and(|job| match job.kind {
        JobKind::Restore | JobKind::Reencrypt => true,
        JobKind::Remove => slice.key_destroyed.is_none(),
        JobKind::Backup | JobKind::Drill => false,
    });
    destroys && (held(state, slice).is_some() || lock::of_keys(state, slice).is_some())
}

/// What ends with being closed or put on hold: the host hears nothing more of its job.
pub fn end_job(slice: &mut Slice, now: Timestamp) {
    let Some(job) = slice.copies.job.take() else { return };
    let given_up = "given up: the slice was closed, or put on hold";
    match job.kind {
        JobKind::Restore => {
            let detail =
                format!("its restore was {given_up}; a disk may be restored already: restore it again");
            half_restored(slice, &job, detail, now);
        }
        JobKind::Backup => {
            let half = slice.copies.backups.iter_mut().find(|backup| backup.id == job.backup);
            half.into_iter().for_each(|half| given_up.clone_into(&mut half.failed));
        }
        // Each disk is under one data key or the other, and opens with the same key.
        JobKind::Reencrypt => reencrypted(slice, &job, false, given_up.to_owned(), now),
        // Those that were to go may be gone, and are marked.
        JobKind::Drill | JobKind::Remove => {}
    }
}

/// These keys of it were given to these.
pub fn escrowed(
    slice: &Slice,
    key_fingerprints: &[String],
    to: &[String],
    by: &Name,
    now: Timestamp,
) -> Vec<Change> {
    let mut next = slice.clone();
    for name in to {
        next.copies
            .escrow
            .retain(|before| before.to != *name || before.key_fingerprints != *key_fingerprints);
        next.copies.escrow.push(Escrowed {
            to: name.clone(),
            at: now,
            by: by.clone(),
            key_fingerprints: key_fingerprints.to_vec(),
        });
    }
    put(next)
}

fn begin(
    mut next: Slice,
    kind: JobKind,
    backup: BackupId,
    wish: &Wish,
    remove: Vec<BackupId>,
) -> Vec<Change> {
    next.copies.job =
        Some(Job { id: wish.job, kind, backup, by: Some(wish.by.clone()), at: wish.now, remove });
    put(next)
}

/// Other keys that it waits for come first.
fn not_rekeyed(state: &State, slice: &Slice) -> Result<(), Refusal> {
    if matches!(slice.change.as_ref().map(|change| &change.what), Some(NewDisks::Rekeyed { .. })) {
        let label = state.slice_label(slice);
        let text = "its disks get other keys when it is started: that comes first";
        return Err(no(text).hint(format!("holm slice start {label}")));
    }
    Ok(())
}

/// It is stopped, nothing is done with it, and it has disks.
fn rests(state: &State, slice: &Slice, what: &str) -> Result<(), Refusal> {
    let label = state.slice_label(slice);
    if slice.state != SliceState::Stopped {
        let text =
            format!("a slice that is {} cannot be {what}: only one that is stopped", slice.state.text());
        return Err(no(text).hint(match slice.state {
            SliceState::Stopping => format!("holm wait {label} stopped, and then again"),
            state if SliceState::STOPPABLE.contains(&state) => format!("holm slice stop {label}"),
            _ => format!("holm slice explain {label}"),
        }));
    }
    if let Some(job) = &slice.copies.job {
        let text = format!("{}: one thing at a time", job.kind.text());
        return Err(no(text).hint(format!("holm backup list {label}, and again when it is over")));
    }
    // One that was rebuilt and not started since has its data.
    if !slice.used && !slice.worked {
        let text = "it never ran: there is nothing on its disks";
        return Err(no(text).hint(format!("holm slice start {label}, and stop it when it has run")));
    }
    Ok(())
}

/// Its host has a place for backups.
fn has_place(state: &State, slice: &Slice) -> Result<(), Refusal> {
    let host = slice.placement.as_ref().and_then(|p| state.hosts.get(&p.host));
    match host {
        Some(host) if !host.backups.is_empty() => Ok(()),
        Some(host) => {
            let text = format!("its host, `{}`, has no place for backups", host.name);
            Err(no(text).hint("ask an operator, who names one in the agent's [host.backup]"))
        }
        None => Err(no("it is on no host")),
    }
}

/// A backup of it that can be restored, `whole` or what is left of it; `None`: the newest.
fn find<'a>(
    state: &State,
    slice: &'a Slice,
    id: Option<BackupId>,
    whole: bool,
) -> Result<&'a Backup, Refusal> {
    let label = state.slice_label(slice);
    let found = match id {
        Some(id) => slice.copies.backups.iter().find(|backup| backup.id == id),
        None => slice.copies.newest(),
    };
    let list = format!("holm backup list {label}");
    let Some(backup) = found else {
        return Err(match id {
            Some(id) => {
                let text = format!("`{label}` has no backup `{id}`");
                Refusal::new(RefusalKind::NotFound, text).hint(list)
            }
            None => no("it has no backup").hint(format!("holm slice backup {label}")),
        });
    };
    match can(backup, slice, whole) {
        Err(why) => Err(no(format!("that backup cannot be restored: {why}")).hint(list)),
        Ok(()) => Ok(backup),
    }
}

/// Can it be restored, `whole` or what is left of it?
fn can(backup: &Backup, slice: &Slice, whole: bool) -> Result<(), String> {
    match (backup.lacks(slice), backup.lost(slice)) {
        (Some(why), _) => Err(why),
        (None, Some(what)) if whole => Err(format!("what opens of it is {what}")),
        (None, _) => Ok(()),
    }
}

fn no(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::State, text)
}
