//! The state of convergence and the one step at a time that moves it. No thread and no clock of its own.

use super::{
    agree::{Agreed, Finding, View, agree},
    devices::{Mark, Notes, message},
    intention::{Intention, Spec},
    jobs::Job as VolumeJob,
    next::{Disks, Effect, Machine, Next, next, wants_key},
    record::{Kept, Loaded, Point, Record, RecordError},
    runs::Run,
    slice::{Brought, Held, HeldKey, Job, Slice, Trouble, Waiting, brief, domain, orphan, seed},
    state::State,
};
use crate::edge::{DomainStatus, EdgeError, Host, Key, Keys, Rekeyed, Room, VolumeKind, VolumeState};
use holm_proto::{
    ids::{JobId, PciAddress, SliceId, VolumeId},
    v1,
};
use secrecy::ExposeSecretMut as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;
use zeroize::Zeroize as _;

/// How long, how often.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From a machine's start until its guest is ready.
    pub boot: Duration,
    /// For a key or a device in other hands, while holmd is there.
    pub wait: Duration,
    /// How often a step of bringing up is tried.
    pub tries: u32,
    /// Before the second try; each later one waits three times as long.
    pub pause: Duration,
    /// The longest pause between two tries.
    pub longest_pause: Duration,
    /// How often a guest that boots is heard.
    pub hear_booting: Duration,
    /// How often a guest that is ready is heard.
    pub hear_ready: Duration,
    /// From asking a guest to stop until its machine is cut off.
    pub stop: Duration,
}

impl Limits {
    /// What holds on a real host.
    pub fn new(boot: Duration, stop: Duration) -> Self {
        Self {
            boot,
            wait: Duration::from_secs(600),
            tries: 4,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(30),
            hear_booting: Duration::from_millis(500),
            hear_ready: Duration::from_secs(5),
            stop,
        }
    }
}

/// What time it is.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For limits.
    pub instant: Instant,
    /// For people, milliseconds since 1970.
    pub wall_ms: u64,
}

impl Now {
    /// By this machine's clocks.
    pub fn read() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// When to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// At once.
    Again,
    /// At a change, or then at the latest.
    Until(Option<Instant>),
    /// Never: nothing is left of it.
    Gone,
}

impl Turn {
    /// At once where there is no other time.
    fn or_again(self) -> Self {
        if self == Self::Until(None) { Self::Again } else { self }
    }
}

/// Why an intention is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is older than one that was seen: holmd was restored from a backup, or is another.
    #[error("the intention has generation {offered}, and {seen} was seen: an older one is refused")]
    Old {
        /// What came.
        offered: u64,
        /// What had come before.
        seen: u64,
    },
    /// It could not be stored that it was seen.
    #[error("the intention cannot be taken: its generation cannot be stored")]
    Record(#[from] RecordError),
}

/// A key that holmd is to be asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyWanted {
    /// For this slice.
    pub slice: SliceId,
    /// Of this volume.
    pub volume: VolumeId,
    /// Under this generation.
    pub generation: u64,
    /// For this drill, and not for the slice.
    pub job: Option<JobId>,
}

/// What a whole look finds, besides machines.
struct Whole {
    attached: BTreeSet<PciAddress>,
    inventory: v1::Inventory,
    partitions: BTreeSet<u32>,
    images: Vec<String>,
}

/// What one look at the machine finds.
struct Look {
    domains: Vec<DomainStatus>,
    whole: Option<Whole>,
    /// `None`: it was not asked.
    room: Option<Option<Room>>,
}

/// See the module.
pub struct Engine {
    pub(super) host: Arc<dyn Host>,
    pub(super) record: Record,
    pub(super) limits: Limits,
    pub(super) state: Mutex<State>,
    /// Who changes how devices stand: one at a time, stored before it is believed.
    marking: Mutex<()>,
    /// Of this run of the agent.
    run: String,
    turned: Condvar,
    changed: watch::Sender<u64>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// Takes up what an earlier agent left. Nothing of the machine is touched.
    pub fn new(host: Arc<dyn Host>, record: Record, loaded: Loaded, limits: Limits) -> Self {
        let slices = loaded.slices.into_iter().map(|(id, kept)| {
            let slice = match kept {
                Ok(kept) => Slice { stored: Some(kept.clone()), kept: Some(kept), ..Slice::default() },
                Err(error) => {
                    tracing::error!(slice = %id, %error, "a slice is left as it is");
                    Slice { frozen: Some(error.to_string()), ..Slice::default() }
                }
            };
            (id, slice)
        });
        let runs = loaded.runs.into_iter().map(|(id, evidence)| (id, Run::done(evidence)));
        let jobs = loaded.jobs.into_iter().map(|(id, told)| (id, VolumeJob::done(told)));
        let mut state = State {
            seen: loaded.seen,
            slices: slices.collect(),
            runs: runs.collect(),
            jobs: jobs.collect(),
            ..State::default()
        };
        let run: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
        match loaded.devices {
            Ok(notes) => {
                state.stored = notes.clone();
                state.notes = notes.begin();
            }
            Err(error) => {
                tracing::error!(%error, "how devices stand is not known: every one of them is dirty");
                let finding = Finding {
                    subject: "record".to_owned(),
                    found: brief(&error.to_string()),
                    done: "every device is dirty".to_owned(),
                };
                state.disagree(&run, BTreeSet::from([finding]));
            }
        }
        Self {
            host,
            record,
            limits,
            marking: Mutex::default(),
            run,
            state: Mutex::new(state),
            turned: Condvar::new(),
            changed: watch::channel(0).0,
        }
    }

    /// The machine.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// Says that something changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The highest Intended.generation ever seen.
    pub fn seen(&self) -> u64 {
        self.lock().seen
    }

    /// Every slice there is something to do for, now or later.
    pub fn slices(&self) -> Vec<SliceId> {
        self.lock().slices.keys().copied().collect()
    }

    /// Takes what holmd wants, as a whole.
    pub fn intend(&self, message: v1::Intended) -> Result<(), Refused> {
        let (intention, unread) = Intention::read(message);
        for what in unread {
            tracing::error!("holmd wants what cannot be read: {what}");
        }
        let seen = self.lock().seen;
        if intention.generation < seen {
            return Err(Refused::Old { offered: intention.generation, seen });
        }
        if intention.generation > seen {
            self.record.save_seen(intention.generation)?;
        }
        let mut state = self.lock();
        state.seen = intention.generation;
        state.current = true;
        state.heard(intention.generation);
        for (id, slice) in &mut state.slices {
            if !intention.slices.contains_key(id) {
                slice.want = None;
            }
        }
        for (id, want) in intention.slices {
            state.slices.entry(id).or_default().offer(id, want);
        }
        let forgotten = Run::list(&mut state.runs, intention.runs);
        let ended = VolumeJob::list(&mut state.jobs, intention.jobs);
        self.bump(&mut state);
        drop(state);
        for run in forgotten {
            if let Err(error) = self.record.forget_run(run) {
                tracing::warn!(%run, %error, "evidence that holmd has judged stays for now");
            }
        }
        for job in ended {
            if let Err(error) = self.record.forget_job(job) {
                tracing::warn!(%job, %error, "the end of a job that holmd has heard stays for now");
            }
        }
        Ok(())
    }

    /// The session is over: nothing new starts, and keys are asked for again in the next.
    pub fn disconnected(&self) {
        let mut state = self.lock();
        state.current = false;
        // What was said in it may not have been heard.
        state.told.iter_mut().for_each(|(_, since)| *since = None);
        for slice in state.slices.values_mut() {
            slice.key = HeldKey::None;
            slice.voice.begin_again();
        }
        state.jobs.values_mut().for_each(VolumeJob::forget_key);
        self.bump(&mut state);
    }

    /// Keys that are needed and not here.
    pub fn keys_wanted(&self) -> Vec<KeyWanted> {
        let state = self.lock();
        let wanted = state.slices.iter().filter_map(|(id, slice)| {
            let kept = slice.kept.as_ref().filter(|_| slice.want.is_some() && slice.frozen.is_none())?;
            // What holmd wants now is another generation's business.
            let taken_up = slice.want.as_ref().is_some_and(|want| want.generation == kept.generation);
            // holmd, which has given it, does not place the slice again: an agent that comes after a kill must find
            // in the record that the devices are the slice's, or it would hold them for dirty.
            let begun = slice.stored.as_ref().is_some_and(|stored| stored.point > Point::New);
            (taken_up && begun && wants_key(kept, &state.facts(*id, slice, kept))).then_some(KeyWanted {
                slice: *id,
                volume: kept.volume,
                generation: kept.generation,
                job: None,
            })
        });
        wanted.chain(state.job_keys_wanted()).collect()
    }

    /// A key came. One that nobody waits for is dropped.
    pub fn take_key(&self, mut message: v1::VolumeKey) {
        let mut keys = Held::default();
        keys.now.extend(take(&message.volume_id, &mut message.key));
        keys.next.extend(take(&message.volume_id, &mut message.next));
        for other in &mut message.others {
            keys.now.extend(take(&other.volume_id, &mut other.key));
            keys.next.extend(take(&other.volume_id, &mut other.next));
        }
        let mut state = self.lock();
        if !message.job_id.is_empty() {
            let taken = message.job_id.parse().is_ok_and(|job| state.take_job_key(job, keys.now));
            if taken {
                self.bump(&mut state);
            } else {
                tracing::warn!(job = %brief(&message.job_id), "keys that no drill waits for are dropped");
            }
            return;
        }
        let slice = message.slice_id.parse().ok().and_then(|id: SliceId| state.slices.get_mut(&id));
        let slice = slice.filter(|slice| {
            slice.kept.as_ref().is_some_and(|kept| {
                kept.generation == message.generation
                    && kept.volume.to_string() == message.volume_id
                    && !kept.is_undoing()
                    && (kept.point <= Point::Starting || kept.change.as_ref().is_some_and(|c| !c.done))
            })
        });
        match slice {
            Some(slice)
                if slice.kept.iter().flat_map(Kept::lasting).all(|(id, ..)| keys.now.contains_key(&id)) =>
            {
                slice.key = HeldKey::Held(Arc::new(keys));
                self.bump(&mut state);
            }
            _ => tracing::warn!(slice = %brief(&message.slice_id), "a key that nobody waits for is dropped"),
        }
    }

    /// A key does not come in this session, or comes later in it.
    pub fn refuse_key(&self, message: &v1::KeyRefused) {
        let mut state = self.lock();
        if let Ok(job) = message.job_id.parse() {
            state.refuse_job_key(job, &message.reason, message.later);
            self.bump(&mut state);
            return;
        }
        let slice = message.slice_id.parse().ok().and_then(|id: SliceId| state.slices.get_mut(&id));
        let waiting = slice.filter(|slice| {
            matches!(slice.key, HeldKey::None | HeldKey::Later)
                && slice.kept.as_ref().is_some_and(|kept| kept.generation == message.generation)
        });
        if let Some(slice) = waiting {
            slice.key = if message.later { HeldKey::Later } else { HeldKey::Refused(brief(&message.reason)) };
            self.bump(&mut state);
        }
    }

    /// Why no connection can be made to a slice's guest; `Ok` where it can be tried.
    pub fn may_connect(&self, slice: SliceId) -> Result<(), String> {
        let state = self.lock();
        let runs = state.machines.as_ref().is_some_and(|machines| machines.contains(&slice));
        let wanted = state.slices.get(&slice).is_some_and(|slice| {
            slice.want.as_ref().is_some_and(|want| !want.is_undoing())
                && slice.kept.as_ref().is_some_and(|kept| !kept.is_undoing())
        });
        if runs && wanted { Ok(()) } else { Err(format!("slice `{slice}` does not run here")) }
    }

    /// What is here, as a whole; `None` as long as it is not known: a report that overlooks something would
    /// give away what is in use.
    pub fn observed(&self) -> Option<v1::Observed> {
        let state = self.lock();
        let (machines, seen) = (state.machines.as_ref()?, state.attached.as_ref()?);
        let mut slices = Vec::new();
        let mut attached = seen.clone();
        for (id, slice) in &state.slices {
            let runs = machines.contains(id);
            // A start or a stop that was not seen to end may have done its work.
            let may_run = |point| runs || matches!(point, Point::Starting | Point::Stopping);
            if let Some(kept) = slice.kept.as_ref().filter(|kept| may_run(kept.point)) {
                attached.extend(&kept.devices);
            }
            slices.extend(slice.observed(*id, runs, state.stands(*id)));
        }
        let unknown = machines.iter().filter(|id| !state.slices.contains_key(id));
        slices.extend(unknown.map(|id| orphan(*id, 0)));
        slices.sort_by(|a, b| a.slice_id.cmp(&b.slice_id));
        Some(v1::Observed {
            slices,
            attached: attached.iter().map(ToString::to_string).collect(),
            generation: state.seen,
            devices: state.bus().into_keys().map(|device| message(device, state.notes.get(device))).collect(),
            disagreements: state.told.iter().map(|(disagreement, _)| disagreement.clone()).collect(),
            volumes: state.room.map(|room| v1::VolumesUse { bytes: room.bytes, free: room.free }),
            jobs: state.observed_jobs(),
            images: state.images.clone(),
        })
    }

    /// The machine as it was seen last; `None` before that.
    pub fn inventory(&self) -> Option<v1::Inventory> {
        self.lock().inventory.clone()
    }

    /// Evidence of runs that holmd still lists.
    pub fn reports(&self) -> Vec<v1::SanitiseReport> {
        Run::reports(&self.lock().runs)
    }

    /// Looks at the machine, whole. `holders`: also asks who holds which device, which takes longer. False
    /// where something happened meanwhile and it must be looked again.
    pub fn look(&self, holders: bool) -> bool {
        self.look_at(holders, Now::read())
    }

    /// The same at that time.
    pub(super) fn look_at(&self, holders: bool, now: Now) -> bool {
        let (epoch, cleaning, paused) = {
            let state = self.lock();
            (state.epoch, Run::cleaning(&state.runs), !state.paused.is_empty())
        };
        let looked = self.host.domains().and_then(|domains| {
            let whole = || {
                Ok(Whole {
                    attached: self.host.attached()?,
                    inventory: self.host.inventory()?,
                    partitions: self.host.active_partitions()?,
                    images: self.host.images().unwrap_or_else(|error| {
                        tracing::warn!("which images there are is not known: {}", error.chain());
                        Vec::new()
                    }),
                })
            };
            let whole = holders.then(whole).transpose()?;
            let room = if holders || paused || domains.iter().any(|domain| domain.paused) {
                // What is not known keeps nobody from looking at the rest.
                Some(self.host.room().unwrap_or_else(|error| {
                    tracing::warn!("how much room there is for volumes is not known: {}", error.chain());
                    None
                }))
            } else {
                None
            };
            Ok(Look { domains, whole, room })
        });
        let marking = holders.then(|| self.marking.lock().unwrap_or_else(PoisonError::into_inner));
        let mut state = self.lock();
        if state.epoch != epoch {
            return false;
        }
        match looked {
            Err(error) => {
                let text = error.chain();
                if state.complaint.as_ref() != Some(&text) {
                    tracing::error!("cannot look at the machine, and go by what was seen last: {text}");
                    state.complaint = Some(text);
                }
            }
            Ok(Look { domains, whole, room }) => {
                state.complaint = None;
                let machines = domains.iter().filter(|domain| domain.running);
                let machines = Some(machines.map(|domain| domain.slice).collect());
                // What this process itself holds to clean it is nobody's.
                let attached = whole
                    .as_ref()
                    .map(|whole| whole.attached.difference(&cleaning).copied().collect())
                    .or(state.attached.clone());
                if state.machines != machines || state.attached != attached {
                    state.machines = machines;
                    state.attached = attached;
                    self.bump(&mut state);
                }
                if state.look_at_room(&domains, room, now) {
                    self.bump(&mut state);
                }
                state.name_orphans();
                if let Some(mut whole) = whole {
                    if state.images != whole.images {
                        state.images = std::mem::take(&mut whole.images);
                        self.bump(&mut state);
                    }
                    if state.inventory.as_ref() != Some(&whole.inventory) {
                        state.inventory = Some(whole.inventory);
                        self.bump(&mut state);
                    }
                    // Before anybody acts on what was seen.
                    let notes = self.compare(&mut state, &domains, &whole.partitions);
                    drop(state);
                    if let Err(error) = self.put(notes) {
                        tracing::error!("how devices stand is not stored: {}", error.chain());
                    }
                    drop(marking);
                }
            }
        }
        true
    }

    /// Has those who know this host agree on it, see `agree`: says how devices stand from now on. What is dirty
    /// now is believed at once. Only by whoever holds `marking`.
    fn compare(&self, state: &mut State, domains: &[DomainStatus], partitions: &BTreeSet<u32>) -> Notes {
        let attached = state.attached.clone().unwrap_or_default();
        let bus = state.bus();
        let Agreed { marks, findings } = agree(&View {
            domains,
            attached: &attached,
            bus: &bus,
            partitions,
            notes: &state.notes,
            slices: &state.believed(),
            current: state.current,
        });
        let mut notes = state.notes.clone();
        bus.iter().for_each(|(device, id)| notes.identify(*device, id));
        marks.into_iter().for_each(|(device, mark)| notes.set(device, mark));
        state.notes = state.notes.worst_of(&notes);
        if state.disagreed != findings {
            state.disagree(&self.run, findings);
            self.bump(state);
        }
        notes
    }

    /// Changes how devices stand: stored first, then believed. Where it cannot be stored, only what is dirty
    /// now is believed.
    pub(super) fn mark<T>(
        &self,
        change: impl FnOnce(&mut Notes) -> crate::edge::Result<T>,
    ) -> crate::edge::Result<T> {
        let _marking = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes = self.lock().notes.clone();
        let value = change(&mut notes)?;
        self.put(notes).map(|()| value)
    }

    /// Only by whoever holds `marking`.
    fn put(&self, notes: Notes) -> crate::edge::Result<()> {
        if self.lock().stored == notes {
            return Ok(());
        }
        let saved = self.record.save_devices(&notes);
        let mut state = self.lock();
        if saved.is_ok() {
            state.stored.clone_from(&notes);
            state.notes = notes;
        } else {
            state.notes = state.notes.worst_of(&notes);
        }
        self.bump(&mut state);
        saved.map_err(|error| EdgeError::because("cannot store how devices stand", error))
    }

    /// The devices of a slice are its own from now on, where each is clean or its own already. As long as no
    /// machine of it was started with them, whoever holds one of them now is a stranger, who may leave something on it.
    fn assign(&self, kept: &Kept) -> crate::edge::Result<()> {
        if !kept.used || kept.again {
            let attached = self.host.attached()?;
            self.mark(|notes| {
                for device in kept.devices.iter().filter(|device| attached.contains(device)) {
                    notes.set(*device, Mark::dirty("something that is not Holm used it"));
                }
                Ok(())
            })?;
        }
        self.mark(|notes| {
            if let Some((device, why)) = notes.unclean(&kept.devices, kept.slice) {
                return Err(EdgeError::new(format!("`{device}` is not bound: this host has it as {why}")));
            }
            kept.devices.iter().for_each(|device| notes.set(*device, Mark::Assigned { slice: kept.slice }));
            Ok(())
        })
    }

    /// Does one thing for one slice, or nothing. One caller at a time for each slice.
    pub fn advance(&self, id: SliceId, now: Now) -> Turn {
        let mut state = self.lock();
        let machine = state.machine(id);
        // Before it was heard what holmd wants, nobody knows what it does not want, and it may not have heard yet
        // what became of the disk.
        let heard = state.current;
        let Some(slice) = state.slices.get_mut(&id) else { return Turn::Gone };
        if heard && slice.want.is_none() && machine != Machine::Running && slice.is_nothing() {
            drop(state);
            return self.forget(id, now);
        }
        if slice.want.is_none() || slice.frozen.is_some() {
            slice.waits = None;
            return Turn::Until(None);
        }
        if slice.take_up(id, machine) {
            self.bump(&mut state);
            drop(state);
            // What is about to be done stores it; where nothing needs doing it is stored here.
            return self.store(id, now).or_again();
        }
        let Some((slice, facts)) = state.slice_and_facts(id) else { return Turn::Gone };
        let Some(kept) = slice.kept.as_mut() else { return Turn::Until(None) };
        if let Some(trouble) = slice.trouble.as_ref().filter(|trouble| trouble.until > now.instant) {
            return Turn::Until(Some(trouble.until));
        }
        let decision = match next(kept, &facts) {
            Next::Do(effect) if !effect.is_undoing() && effect != Effect::Resume => {
                match slice.too_often_or_long(&self.limits, now) {
                    Some(reason) => Next::Fail(reason),
                    None => Next::Do(effect),
                }
            }
            Next::Wait(why) => match slice.wait(why.clone(), &self.limits, now) {
                Waiting::Begun => {
                    self.bump(&mut state);
                    return Turn::Again;
                }
                Waiting::Until(until) => return Turn::Until(until),
                Waiting::TooLong => {
                    let minutes = self.limits.wait.as_secs() / 60;
                    Next::Fail(format!("{}: given up after {minutes} minutes", why.text()))
                }
            },
            decision => decision,
        };
        match decision {
            Next::Do(effect) => {
                let named = slice
                    .want
                    .as_ref()
                    .and_then(|want| want.spec.as_ref().ok())
                    .map(|spec| spec.image.as_str());
                let image = self.host.image_of(named.unwrap_or_default());
                let job = slice.begin(effect, &image, now);
                if let Some(job) = job {
                    if effect != Effect::Hear {
                        self.bump(&mut state);
                    }
                    drop(state);
                    return self.carry_out(id, job, now);
                }
                Turn::Until(None)
            }
            Next::Fail(reason) => {
                slice.fail(&reason);
                tracing::error!(slice = %id, "the slice failed: {}", brief(&reason));
                self.bump(&mut state);
                drop(state);
                self.store(id, now)
            }
            Next::Rest | Next::Wait(_) => {
                slice.key = HeldKey::None;
                slice.waits = None;
                drop(state);
                // What could not be stored when it happened is stored now.
                self.store(id, now)
            }
        }
    }

    /// Waits until something has changed since `version`, or until then.
    pub fn wait(&self, version: u64, until: Option<Instant>) {
        let mut state = self.lock();
        while state.version == version && !state.stopping {
            state = match until {
                None => self.turned.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.turned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Changes with each change.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Has everything that waits return.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.bump(&mut state);
    }

    /// It was told to stop.
    pub fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn bump(&self, state: &mut State) {
        state.version += 1;
        self.turned.notify_all();
        self.changed.send_replace(state.version);
    }

    fn carry_out(&self, id: SliceId, job: Job, now: Now) -> Turn {
        let effect = job.effect;
        let assigned = if effect == Effect::Bind { self.assign(&job.kept) } else { Ok(()) };
        let nothing_done = assigned.is_err();
        let saved = assigned.and_then(|()| if job.save { self.save(&job.kept) } else { Ok(()) });
        let is_stored = job.save && saved.is_ok();
        let outcome = saved.and_then(|()| self.call(&job));
        let after = Now::read_like(now);
        let mut state = self.lock();
        if let Some(slice) = state.slices.get_mut(&id).filter(|_| is_stored) {
            slice.stored = Some(job.kept);
        }
        drop(job.keys);
        if matches!(effect, Effect::Start | Effect::Stop | Effect::Resume) {
            state.epoch += 1;
        }
        let turn = match outcome {
            Ok(brought) => state.finish(id, effect, brought, after, &self.limits),
            Err(error) => {
                let text = brief(&error.chain());
                tracing::warn!(slice = %id, step = effect.step(), "{text}");
                if let Some(slice) = state.slices.get_mut(&id) {
                    slice.trouble = Some(Trouble::after(slice.trouble.as_ref(), &self.limits, after, text));
                    if nothing_done {
                        // Not begun, in the eyes of holmd either, which can then place it elsewhere.
                        slice.kept = Some(job.before);
                    }
                }
                self.bump(&mut state);
                return Turn::Again;
            }
        };
        let news = effect != Effect::Hear || turn == Turn::Again;
        let says = |slice: &mut Slice| slice.claims.are_news() | slice.voice.is_news();
        let claims = state.slices.get_mut(&id).is_some_and(says);
        if news || claims {
            self.bump(&mut state);
        }
        drop(state);
        if news { self.store(id, after).or_again() } else { turn }
    }

    /// The outside effect itself.
    fn call(&self, job: &Job) -> crate::edge::Result<Brought> {
        let (host, kept) = (&self.host, &job.kept);
        let spec = || job.spec.as_ref().ok_or_else(|| EdgeError::new("what it is made of is not known"));
        let keys = || job.keys.as_ref().ok_or_else(|| EdgeError::new("its volumes' keys are not here"));
        match job.effect {
            Effect::Bind => kept.devices.iter().try_for_each(|device| host.bind(*device))?,
            Effect::Activate => host.activate_partition(kept.partition)?,
            Effect::LookAtVolume => return self.disks(kept).map(Brought::Disks),
            Effect::MakeVolume => {
                let erased = self.erase(kept.to_retire())?;
                self.make_volumes(kept, spec()?, &keys()?.now)?;
                return Ok(erased);
            }
            Effect::Change => return self.change(kept, spec()?, keys()?),
            Effect::WriteSeed => host.write_seed(&seed(kept, spec()?))?,
            Effect::Start => host.start_domain(&domain(kept, spec()?), &keys()?.now)?,
            // An agent that ended while it started the machine left them.
            Effect::Adopt => {
                if let Err(error) = host.take_back_keys(kept.slice) {
                    tracing::error!(slice = %kept.slice, "libvirt may still have its keys: {}", error.chain());
                }
            }
            Effect::Hear => {
                let owed = self.lock().slices.get_mut(&kept.slice).and_then(|s| s.voice.acknowledgement());
                if let Some((boot, seq)) = owed {
                    host.acknowledge_guest(kept.slice, &boot, seq)?;
                }
                if job.tell_people {
                    host.tell_guest_people(kept.slice, &spec()?.users)?;
                }
                if job.tell_scheduler
                    && let Some(scheduler) = &spec()?.scheduler
                {
                    host.tell_guest_scheduler(kept.slice, scheduler)?;
                }
                return host.guest_events(kept.slice).map(Brought::Events);
            }
            Effect::Resume => {
                host.resume_domain(kept.slice)?;
                tracing::info!(slice = %kept.slice, "there is room for its disks: its machine goes on");
            }
            Effect::Stop => {
                // One that was never ready has nothing to write down, and one that stands still cannot.
                let stands = self.lock().stands(kept.slice);
                let grace = if kept.guest.is_some() && !stands { self.limits.stop } else { Duration::ZERO };
                host.destroy_domain(kept.slice, grace)?;
                return self.erase(kept.scratch());
            }
            Effect::Deactivate => host.deactivate_partition(kept.partition)?,
            Effect::Erase => {
                return self.erase(kept.lasting().map(|(volume, ..)| volume).chain(kept.to_retire()));
            }
            Effect::RemoveSeed => host.remove_seed(kept.slice)?,
            Effect::Release => return self.released(kept).map(Brought::Attached),
        }
        Ok(Brought::Nothing)
    }

    fn disks(&self, kept: &Kept) -> crate::edge::Result<Disks> {
        let look = |(volume, kind, used)| Ok((volume, kind, self.host.volume(volume)?, used));
        let disks = Disks::of(kept.lasting().map(look).collect::<crate::edge::Result<Vec<_>>>()?);
        // What it was rebuilt without is erased in the same step.
        let retires = disks == Disks::Whole && kept.to_retire().next().is_some();
        Ok(if retires { Disks::ToMake { root: false } } else { disks })
    }

    /// Makes its volumes larger, or puts them under other keys. What does not work on a machine that runs is told, and
    /// not tried again: the machine goes on as before. Before a start it has to work, for whoever was cut off while it
    /// changed a key does not know which one opens the disk; but for a size, which can wait.
    fn change(&self, kept: &Kept, spec: &Spec, keys: &Held) -> crate::edge::Result<Brought> {
        let Some(change) = &kept.change else { return Ok(Brought::Nothing) };
        let runs = matches!(kept.point, Point::Booting | Point::Ready);
        let outcome = if change.rekey { self.rekey(kept, keys) } else { self.grow(kept, spec, &keys.now) };
        match outcome {
            Ok(Rekeyed::Done) => Ok(Brought::Changed(true, String::new())),
            Ok(Rekeyed::AtRest) => {
                let note = "its disks are files that its machine has open: at its next start";
                Ok(Brought::Changed(false, note.to_owned()))
            }
            Err(error) if runs || !change.rekey => {
                tracing::error!(slice = %kept.slice, "its disks are not changed: {}", error.chain());
                Ok(Brought::Changed(!change.rekey, brief(&error.chain())))
            }
            Err(error) => Err(error),
        }
    }

    fn grow(&self, kept: &Kept, spec: &Spec, keys: &Keys) -> crate::edge::Result<Rekeyed> {
        let others = spec.others.iter().map(|other| (other.volume, other.size_gib));
        let sizes: BTreeMap<VolumeId, u64> = others.chain([(kept.volume, spec.disk_gib)]).collect();
        for (volume, kind, _) in kept.lasting() {
            let nothing = || EdgeError::new(format!("size or key of volume `{volume}` is not known"));
            let (size, key) = sizes.get(&volume).zip(keys.get(&volume)).ok_or_else(nothing)?;
            self.host.grow_volume(kept.slice, volume, kind, *size, key)?;
        }
        Ok(Rekeyed::Done)
    }

    fn rekey(&self, kept: &Kept, keys: &Held) -> crate::edge::Result<Rekeyed> {
        for (volume, ..) in kept.lasting() {
            let nothing = || EdgeError::new(format!("no other key of volume `{volume}` came"));
            let (old, new) = keys.now.get(&volume).zip(keys.next.get(&volume)).ok_or_else(nothing)?;
            if self.host.change_key(volume, old, new)? == Rekeyed::AtRest {
                return Ok(Rekeyed::AtRest);
            }
        }
        Ok(Rekeyed::Done)
    }

    fn make_volumes(&self, kept: &Kept, spec: &Spec, keys: &Keys) -> crate::edge::Result<()> {
        let others = spec.others.iter().map(|other| (other.volume, other.size_gib));
        let sizes: BTreeMap<VolumeId, u64> = others.chain([(kept.volume, spec.disk_gib)]).collect();
        for (volume, kind, used) in kept.lasting() {
            if self.host.volume(volume)? == VolumeState::Complete {
                continue;
            }
            // It was there when it was looked at, perhaps hours ago.
            if used {
                let text = format!("volume `{volume}` was in use and is gone: none is made in its place");
                return Err(EdgeError::new(text));
            }
            let nothing = || EdgeError::new(format!("size or key of volume `{volume}` is not known"));
            let (size, key) = sizes.get(&volume).zip(keys.get(&volume)).ok_or_else(nothing)?;
            match kept.image.as_ref().filter(|_| kind == VolumeKind::Root) {
                Some(over) => self.host.create_root(volume, *size, key, over)?,
                None => self.host.create_volume(volume, kind, *size, key)?,
            }
        }
        Ok(())
    }

    fn erase(&self, volumes: impl IntoIterator<Item = VolumeId>) -> crate::edge::Result<Brought> {
        let all = volumes.into_iter().map(|volume| self.host.erase_volume(volume));
        all.collect::<crate::edge::Result<_>>().map(Brought::Erased)
    }

    /// Looks whether anything is left of a slice, and says what is held on this host.
    fn released(&self, kept: &Kept) -> crate::edge::Result<BTreeSet<PciAddress>> {
        if self.host.domains()?.iter().any(|domain| domain.slice == kept.slice) {
            return Err(EdgeError::new("its machine is still there"));
        }
        let gone: Vec<VolumeId> = match kept.destroyed {
            true => kept.lasting().map(|(volume, ..)| volume).chain(kept.scratch()).collect(),
            false => kept.scratch().into_iter().collect(),
        };
        let retired = kept.retired.iter().filter(|old| old.erasure.is_some()).map(|old| old.volume);
        let gone: Vec<VolumeId> = gone.into_iter().chain(retired).collect();
        for volume in &gone {
            if self.host.volume(*volume)? != VolumeState::Absent {
                return Err(EdgeError::new(format!("its volume `{volume}` is still there")));
            }
        }
        let attached = self.host.attached()?;
        if let Some(device) = kept.devices.iter().find(|device| attached.contains(device)) {
            return Err(EdgeError::new(format!("`{device}` is still held")));
        }
        for volume in gone {
            // It is in the record since the step before this one.
            self.host.forget_volume(volume)?;
        }
        // Before it is said that nothing is left.
        self.mark(|notes| {
            notes.release(kept.slice, &kept.devices);
            Ok(attached)
        })
    }

    /// Stores a slice where it has come to another point than the record says.
    fn store(&self, id: SliceId, now: Now) -> Turn {
        let due = {
            let state = self.lock();
            let Some(slice) = state.slices.get(&id) else { return Turn::Gone };
            slice.kept.as_ref().filter(|kept| kept.is_news_to(slice.stored.as_ref())).cloned()
        };
        let Some(kept) = due else { return Turn::Until(None) };
        let saved = self.save(&kept);
        let mut state = self.lock();
        let Some(slice) = state.slices.get_mut(&id) else { return Turn::Gone };
        match saved {
            Ok(()) => slice.stored = Some(kept),
            Err(error) => {
                let trouble =
                    Trouble::after(slice.trouble.as_ref(), &self.limits, now, brief(&error.chain()));
                let until = trouble.until;
                tracing::error!(slice = %id, "{}", trouble.text);
                slice.trouble = Some(trouble);
                self.bump(&mut state);
                return Turn::Until(Some(until));
            }
        }
        Turn::Again
    }

    fn save(&self, kept: &Kept) -> crate::edge::Result<()> {
        self.record
            .save_slice(kept)
            .map_err(|error| EdgeError::because("cannot store how far the slice is", error))
    }

    /// Lets go of a slice that nobody wants and of which nothing is left.
    fn forget(&self, id: SliceId, now: Now) -> Turn {
        if let Err(error) = self.record.forget_slice(id) {
            tracing::warn!(slice = %id, %error, "the record of a slice that is gone stays for now");
            return Turn::Until(Some(now.instant + self.limits.longest_pause));
        }
        let mut state = self.lock();
        // It may be wanted again since.
        match state.slices.get_mut(&id) {
            Some(slice) if slice.want.is_some() => {
                slice.stored = None;
                Turn::Again
            }
            _ => {
                state.slices.remove(&id);
                self.bump(&mut state);
                Turn::Gone
            }
        }
    }
}

/// Takes a key out of a message and leaves none there; `None` where it is none.
fn take(volume: &str, bytes: &mut Vec<u8>) -> Option<(VolumeId, Key)> {
    let mut key = Key::new(Box::new([0; 32]));
    let fits = bytes.len() == 32;
    if fits {
        key.expose_secret_mut().copy_from_slice(bytes);
    }
    bytes.zeroize();
    fits.then_some((volume.parse().ok()?, key))
}

impl Now {
    /// The time now, on the clock that `earlier` was read from: where a test made it up, it stands still.
    pub(super) fn read_like(earlier: Self) -> Self {
        let now = Self::read();
        if earlier.instant > now.instant { earlier } else { now }
    }
}
