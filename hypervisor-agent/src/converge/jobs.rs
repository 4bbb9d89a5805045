//! Jobs: a backup of a slice's volumes made, tried, restored or removed, or the volumes encrypted anew, once, while the
//! slice rests.
//!
//! ```text
//!   Waiting ──▶ Active ──▶ Done (stored; reported until holmd no longer lists the job) ──▶ forgotten
//!      ▲          │
//!      └──────────┘ it failed: a few tries, then it has failed
//! ```
//!
//! * What uses the volumes begins only where the slice's machine is gone by the record, and by what was seen last; and
//!   as long as it goes on no machine of the slice is started.
//! * What opens volumes waits for the keys, which are asked for in each session anew, and lets go of them at its end.
//! * One that was cut off is begun again from the start, under its own id, which changes nothing of its end.
//! * One that holmd no longer lists ends at the next piece, volume or backup.

use super::{
    engine::{Engine, KeyWanted, Now, Turn},
    next::Machine,
    record::Point,
    slice::{Held, HeldKey, Trouble, brief},
    state::State,
};
use crate::edge::{self, Backup, EdgeError, Keys, Watch};
use holm_proto::{
    ids::{BackupId, JobId, SliceId, VolumeId},
    v1,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often a job is tried.
const TRIES: u32 = 3;
/// How often it is told how far one is.
const TOLD: Duration = Duration::from_secs(1);
/// More volumes no slice has.
const MAX_VOLUMES: usize = 8;
/// More backups no slice has.
const MAX_BACKUPS: usize = 64;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// A backup made.
    Make,
    /// Volumes made what they were.
    Restore,
    /// Tried whether they could be.
    Drill,
    /// Backups removed.
    Remove,
    /// Volumes encrypted under other data keys. Its backup is none: it says which volumes.
    Anew,
}

impl JobKind {
    /// It opens the volumes.
    fn needs_keys(self) -> bool {
        matches!(self, Self::Drill | Self::Anew)
    }
}

/// A job that holmd wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedJob {
    /// Whose volumes.
    pub slice: SliceId,
    /// What.
    pub kind: JobKind,
    /// Which backup.
    pub backup: Backup,
    /// Backups that go.
    pub remove: Vec<BackupId>,
}

impl WantedJob {
    /// Checks what came.
    pub(super) fn read(job: v1::IntendedJob) -> Result<Self, String> {
        let kind = match job.kind() {
            v1::JobKind::Backup => JobKind::Make,
            v1::JobKind::Restore => JobKind::Restore,
            v1::JobKind::Drill => JobKind::Drill,
            v1::JobKind::Remove => JobKind::Remove,
            v1::JobKind::Reencrypt => JobKind::Anew,
            v1::JobKind::Unspecified => return Err("it is of no kind".to_owned()),
        };
        let slice = job.slice_id.parse().map_err(|_| "it is of no slice".to_owned())?;
        let id = job.backup_id.parse().map_err(|_| "it names no backup".to_owned())?;
        if job.volumes.len() > MAX_VOLUMES || job.remove.len() > MAX_BACKUPS {
            return Err("it names too much".to_owned());
        }
        let volumes: Option<Vec<(VolumeId, bool)>> =
            job.volumes.iter().map(|one| Some((one.volume_id.parse().ok()?, one.root))).collect();
        let volumes = volumes.ok_or("a volume of it has no id")?;
        let once: BTreeSet<VolumeId> = volumes.iter().map(|(volume, _)| *volume).collect();
        if kind != JobKind::Remove && (volumes.is_empty() || once.len() != volumes.len()) {
            return Err("it names no volume, or one twice".to_owned());
        }
        let remove: Option<Vec<BackupId>> = job.remove.iter().map(|id| id.parse().ok()).collect();
        let remove = remove.ok_or("a backup that is to go has no id")?;
        if (kind == JobKind::Remove) == remove.is_empty() {
            return Err("it removes nothing, or removes and does something else".to_owned());
        }
        Ok(Self {
            slice,
            kind,
            backup: Backup { id, slice, manifest_sha256: job.manifest_sha256, volumes, base: None },
            remove,
        })
    }
}

/// A job in memory.
pub(super) struct Job {
    /// Not known of one that an earlier agent finished.
    want: Option<WantedJob>,
    /// holmd wants it, or wants to hear of it.
    listed: bool,
    key: HeldKey,
    state: Stage,
}

enum Stage {
    Waiting(Option<Trouble>),
    /// So many bytes of so many.
    Active(u64, u64),
    Done(v1::ObservedJob),
}

impl Job {
    /// One that an earlier agent finished.
    pub(super) fn done(told: v1::ObservedJob) -> Self {
        Self { want: None, listed: false, key: HeldKey::None, state: Stage::Done(told) }
    }

    /// Takes up what holmd lists, and names the jobs that it has heard the end of.
    pub(super) fn list(jobs: &mut BTreeMap<JobId, Self>, listed: BTreeMap<JobId, WantedJob>) -> Vec<JobId> {
        for (id, job) in jobs.iter_mut() {
            job.listed = listed.contains_key(id);
        }
        for (id, want) in listed {
            let new = || Self {
                want: Some(want.clone()),
                listed: true,
                key: HeldKey::None,
                state: Stage::Waiting(None),
            };
            jobs.entry(id).or_insert_with(new);
        }
        let unlisted = jobs.iter().filter(|(_, job)| !job.listed && !matches!(job.state, Stage::Active(..)));
        let unlisted: Vec<JobId> = unlisted.map(|(id, _)| *id).collect();
        for id in &unlisted {
            jobs.remove(id);
        }
        unlisted
    }

    /// The session is over: keys are asked for again in the next.
    pub(super) fn forget_key(&mut self) {
        self.key = HeldKey::None;
    }

    fn needs_key(&self) -> bool {
        self.listed
            && matches!(self.state, Stage::Waiting(_))
            && self.want.as_ref().is_some_and(|want| want.kind.needs_keys())
    }
}

impl State {
    /// A job uses the volumes of this slice.
    pub(super) fn is_at_work(&self, slice: SliceId) -> bool {
        let uses = |job: &Job| {
            matches!(job.state, Stage::Active(..))
                && job.want.as_ref().is_some_and(|want| want.slice == slice && want.kind != JobKind::Remove)
        };
        self.jobs.values().any(uses)
    }

    /// Keys that jobs need and do not have.
    pub(super) fn job_keys_wanted(&self) -> impl Iterator<Item = KeyWanted> {
        self.jobs.iter().filter_map(|(id, job)| {
            let want = job
                .want
                .as_ref()
                .filter(|_| self.current && job.needs_key() && matches!(job.key, HeldKey::None))?;
            self.rests(want.slice).then_some(())?;
            let volume = want.backup.volumes.first()?.0;
            Some(KeyWanted { slice: want.slice, volume, generation: 0, job: Some(*id) })
        })
    }

    /// The keys for a job. False where nobody waits for them.
    pub(super) fn take_job_key(&mut self, id: JobId, keys: Keys) -> bool {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.needs_key()) else { return false };
        let all_of =
            |want: &WantedJob| want.backup.volumes.iter().all(|(volume, _)| keys.contains_key(volume));
        let all = job.want.as_ref().is_some_and(all_of);
        if all {
            job.key = HeldKey::Held(Arc::new(Held { now: keys, ..Held::default() }));
        }
        all
    }

    /// They do not come in this session, or come later in it.
    pub(super) fn refuse_job_key(&mut self, id: JobId, why: &str, later: bool) {
        if let Some(job) = self.jobs.get_mut(&id).filter(|job| job.needs_key()) {
            job.key = if later { HeldKey::Later } else { HeldKey::Refused(brief(why)) };
        }
    }

    /// Every job that holmd lists.
    pub(super) fn observed_jobs(&self) -> Vec<v1::ObservedJob> {
        let told = |(id, job): (&JobId, &Job)| {
            let running = |reason: String, done_bytes, total_bytes| v1::ObservedJob {
                job_id: id.to_string(),
                phase: v1::JobPhase::Running.into(),
                reason,
                done_bytes,
                total_bytes,
                ..Default::default()
            };
            match &job.state {
                Stage::Done(told) => told.clone(),
                Stage::Active(done, total) => running(String::new(), *done, *total),
                Stage::Waiting(Some(trouble)) => running(trouble.text.clone(), 0, 0),
                Stage::Waiting(None) => running(self.why_it_waits(job), 0, 0),
            }
        };
        self.jobs.iter().filter(|(_, job)| job.listed).map(told).collect()
    }

    fn why_it_waits(&self, job: &Job) -> String {
        let rests = job.want.as_ref().is_none_or(|want| self.rests(want.slice));
        let why = match &job.key {
            _ if !rests => "waits until the slice rests on its host",
            HeldKey::None if job.needs_key() => "waits for the keys of its volumes",
            HeldKey::Later => "waits for the keys of its volumes: the key provider cannot be reached",
            HeldKey::None | HeldKey::Held(_) | HeldKey::Refused(_) => "waits for its turn",
        };
        why.to_owned()
    }

    /// Its machine is gone, by the record and by what was seen, and its volumes are there.
    fn rests(&self, slice: SliceId) -> bool {
        self.machine(slice) == Machine::Still
            && self.slices.get(&slice).is_some_and(|slice| {
                slice.frozen.is_none()
                    && slice.want.as_ref().is_some_and(|want| want.closed)
                    && slice.kept.as_ref().is_some_and(|kept| kept.point == Point::Kept && !kept.destroyed)
            })
    }

    /// The next job that can be done, and when the next one that failed is tried again.
    fn due(&self, now: Now) -> (Option<JobId>, Option<Instant>) {
        let mut soonest = None;
        let due = self.jobs.iter().find_map(|(id, job)| {
            // Without holmd nothing new is begun.
            let want = job.want.as_ref().filter(|_| job.listed && self.current)?;
            let Stage::Waiting(trouble) = &job.state else { return None };
            if let Some(trouble) = trouble.as_ref().filter(|trouble| trouble.until > now.instant) {
                soonest = [soonest, Some(trouble.until)].into_iter().flatten().min();
                return None;
            }
            let keyed = match &job.key {
                HeldKey::Held(_) | HeldKey::Refused(_) => true,
                HeldKey::None | HeldKey::Later => !want.kind.needs_keys(),
            };
            (want.kind == JobKind::Remove || (keyed && self.rests(want.slice))).then_some(*id)
        });
        (due, soonest)
    }
}

fn needed(keys: Option<&Keys>) -> edge::Result<&Keys> {
    keys.ok_or_else(|| EdgeError::new("the keys of its volumes are not here"))
}

/// How far a job is, told to whoever looks.
struct Progress<'a> {
    engine: &'a Engine,
    job: JobId,
    told: Mutex<Option<Instant>>,
}

impl Watch for Progress<'_> {
    fn through(&self, done: u64, total: u64) -> bool {
        let mut state = self.engine.lock();
        if state.stopping {
            return false;
        }
        let Some(job) = state.jobs.get_mut(&self.job).filter(|job| job.listed) else { return false };
        job.state = Stage::Active(done, total);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TOLD) {
            *told = Some(Instant::now());
            self.engine.bump(&mut state);
        }
        true
    }

    fn is_wanted(&self) -> bool {
        let state = self.engine.lock();
        state.current && !state.stopping && state.jobs.get(&self.job).is_some_and(|job| job.listed)
    }
}

impl Engine {
    /// Does one job, or none. One caller at a time.
    pub fn work(&self, now: Now) -> Turn {
        self.host.clear_staged();
        let mut state = self.lock();
        let (due, soonest) = state.due(now);
        let Some((id, job)) = due.and_then(|id| Some((id, state.jobs.get_mut(&id)?))) else {
            return Turn::Until(soonest);
        };
        let Some(mut want) = job.want.clone() else { return Turn::Until(soonest) };
        let trouble = match std::mem::replace(&mut job.state, Stage::Active(0, 0)) {
            Stage::Waiting(trouble) => trouble,
            Stage::Active(..) | Stage::Done(_) => None,
        };
        let keys = match &job.key {
            HeldKey::Held(keys) => Ok(Some(Arc::clone(keys))),
            HeldKey::Refused(why) => Err(why.clone()),
            HeldKey::None | HeldKey::Later => Ok(None),
        };
        let kept = state.slices.get(&want.slice).and_then(|slice| slice.kept.as_ref());
        want.backup.base = kept.and_then(|kept| Some(kept.image.as_ref()?.base.clone()));
        self.bump(&mut state);
        drop(state);

        let tries = trouble.as_ref().map_or(0, |trouble| trouble.tries);
        let started = Instant::now();
        let told = v1::ObservedJob { job_id: id.to_string(), ..Default::default() };
        let failed = |why: &str| v1::ObservedJob {
            phase: v1::JobPhase::Failed.into(),
            reason: brief(why),
            ..told.clone()
        };
        let outcome = match keys {
            Err(why) => failed(&format!("holmd does not give the keys: {why}")),
            Ok(keys) => match self.carry_out_job(id, &want, keys.as_deref().map(|held| &held.now)) {
                Ok(done) => {
                    v1::ObservedJob { job_id: id.to_string(), phase: v1::JobPhase::Done.into(), ..done }
                }
                Err(error) => {
                    let text = brief(&error.chain());
                    tracing::warn!(job = %id, slice = %want.slice, "{text}");
                    if self.is_stopping() || tries + 1 < TRIES {
                        let again = Trouble::after(trouble.as_ref(), &self.limits, Now::read_like(now), text);
                        return self.settle_job(id, Stage::Waiting(Some(again)));
                    }
                    failed(&text)
                }
            },
        };
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = v1::ObservedJob { took_ms, ..outcome };
        if let Err(error) = self.record.save_job(id, &outcome) {
            // What is not stored was not done: a later report must not differ from an earlier one.
            tracing::error!(job = %id, %error, "the end of a job cannot be stored");
            let text = brief(&holm_proto::chain(&error));
            let again = Trouble::after(None, &self.limits, Now::read_like(now), text);
            return self.settle_job(id, Stage::Waiting(Some(again)));
        }
        self.settle_job(id, Stage::Done(outcome))
    }

    fn carry_out_job(
        &self,
        id: JobId,
        want: &WantedJob,
        keys: Option<&Keys>,
    ) -> edge::Result<v1::ObservedJob> {
        let watch = Progress { engine: self, job: id, told: Mutex::default() };
        let through = |bytes| v1::ObservedJob { done_bytes: bytes, total_bytes: bytes, ..Default::default() };
        match want.kind {
            JobKind::Make => {
                let made = self.host.back_up(&want.backup, &watch)?;
                Ok(v1::ObservedJob {
                    manifest_sha256: made.manifest_sha256,
                    stored_bytes: made.stored_bytes,
                    ..through(made.bytes)
                })
            }
            JobKind::Restore => self.host.restore_backup(&want.backup, &watch).map(through),
            JobKind::Drill => {
                let (method, bytes) = self.host.drill_backup(&want.backup, needed(keys)?, &watch)?;
                Ok(v1::ObservedJob { method: method.to_owned(), ..through(bytes) })
            }
            JobKind::Anew => {
                let anew = self.host.encrypt_anew(&want.backup, needed(keys)?, &watch)?;
                let method = format!("{} bytes of before overwritten", anew.overwritten);
                Ok(v1::ObservedJob { method, ..through(anew.bytes) })
            }
            JobKind::Remove => {
                self.remove_backups(&want.remove, &watch)?;
                let removed = want.remove.iter().map(ToString::to_string).collect();
                Ok(v1::ObservedJob { removed, ..Default::default() })
            }
        }
    }

    /// One that cannot be removed keeps no other. Where holmd wants it no more, those that are left stay.
    fn remove_backups(&self, backups: &[BackupId], watch: &dyn Watch) -> edge::Result<()> {
        let mut outcome = Ok(());
        for backup in backups {
            if !watch.is_wanted() {
                return Err(EdgeError::new("it is not known whether holmd wants it still: the rest stays"));
            }
            outcome = outcome.and(self.host.remove_backup(*backup));
        }
        outcome
    }

    fn settle_job(&self, id: JobId, outcome: Stage) -> Turn {
        let mut state = self.lock();
        match state.jobs.get_mut(&id) {
            Some(job) if job.listed => {
                if matches!(outcome, Stage::Done(_)) {
                    job.key = HeldKey::None;
                }
                job.state = outcome;
            }
            // holmd wants to hear of it no more.
            _ => {
                state.jobs.remove(&id);
                if let Err(error) = self.record.forget_job(id) {
                    tracing::warn!(job = %id, %error, "the end of a job that nobody asks for stays for now");
                }
            }
        }
        self.bump(&mut state);
        Turn::Again
    }
}
