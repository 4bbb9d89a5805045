//! One slice in memory: what holmd wants of it, how far it has come, what it waits for.

use super::{
    claims::Claims,
    engine::{Limits, Now, Turn},
    intention::{Spec, Want},
    next::{Disks, Effect, Machine, Why},
    record::{Kept, KeptChange, KeptGuest, KeptStep, KeptVolume, Point},
    told::Told,
    voice::Voice,
};
use crate::edge::{DomainSpec, GuestEvent, Image, Key, Keys, OtherVolume, Seed, VolumeKind};
use crate::guest::digest_of;
use crate::images::Images;
use holm_proto::{
    ids::{PciAddress, SliceId, VolumeId},
    v1,
};
use secrecy::ExposeSecret as _;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// The step between a machine's start and the first word of its guest.
pub(super) const STEP_BOOT: &str = "guest boots";
/// The step from then until the guest can be used.
const STEP_SLURM: &str = "slurm ready";
/// How often a guest is heard that was told something.
const HEAR_TOLD: Duration = Duration::from_secs(1);
/// No text that goes to holmd is longer.
const MAX_REASON_CHARS: usize = 512;

/// One slice in memory.
#[derive(Default)]
pub(super) struct Slice {
    pub(super) want: Option<Want>,
    pub(super) kept: Option<Kept>,
    /// What is in the record now.
    pub(super) stored: Option<Kept>,
    /// Its record is damaged: nothing is done for it, one way or the other.
    pub(super) frozen: Option<String>,
    pub(super) done: Option<Effect>,
    pub(super) disks: Option<Disks>,
    pub(super) key: HeldKey,
    pub(super) trouble: Option<Trouble>,
    pub(super) waits: Option<(Why, Instant)>,
    /// Since when this process has waited for its guest.
    pub(super) boots: Option<Instant>,
    /// How full its guest says its disks are.
    pub(super) claims: Claims,
    /// What its guest says for the log.
    pub(super) voice: Voice,
    /// Who has an account in it, as its guest says.
    pub(super) people: Told,
    /// Which classes of jobs it has, and whether jobs begin, as its guest says.
    pub(super) scheduler: Told,
    /// What its guest says of its jobs, since it has those classes.
    pub(super) jobs: Option<v1::JobsUse>,
}

#[derive(Default)]
pub(super) enum HeldKey {
    #[default]
    None,
    Held(Arc<Held>),
    Refused(String),
    /// holmd sends it when it can open it.
    Later,
}

/// Keys in memory.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Of its volumes.
    pub(super) now: Keys,
    /// Those that they are to get.
    pub(super) next: Keys,
}

impl Held {
    /// After the change that `next` was for.
    pub(super) fn changed(&self) -> Arc<Self> {
        let copy = |(volume, key): (&VolumeId, &Key)| (*volume, Key::new(Box::new(*key.expose_secret())));
        let mut now: Keys = self.now.iter().map(copy).collect();
        now.extend(self.next.iter().map(copy));
        Arc::new(Self { now, next: Keys::new() })
    }
}

/// A step that did not work.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) tries: u32,
    pub(super) until: Instant,
    pub(super) text: String,
}

impl Trouble {
    /// One try more has failed.
    pub(super) fn after(before: Option<&Self>, limits: &Limits, now: Now, text: String) -> Self {
        let tries = before.map_or(0, |trouble| trouble.tries) + 1;
        let pause = limits.pause.saturating_mul(3u32.saturating_pow(tries - 1)).min(limits.longest_pause);
        Self { tries, until: now.instant + pause, text }
    }
}

/// What a step brought.
pub(super) enum Brought {
    Nothing,
    Disks(Disks),
    Events(Vec<GuestEvent>),
    Erased(Vec<v1::VolumeEvidence>),
    Attached(BTreeSet<PciAddress>),
    /// What became of a change of its disks: through or not, and a note where there is something to say.
    Changed(bool, String),
}

/// Everything a step needs, taken out of the state so that it is not locked meanwhile.
pub(super) struct Job {
    pub(super) effect: Effect,
    pub(super) kept: Kept,
    /// As it was before.
    pub(super) before: Kept,
    pub(super) save: bool,
    pub(super) spec: Option<Spec>,
    pub(super) keys: Option<Arc<Held>>,
    /// Its guest is to be told who has an account in it.
    pub(super) tell_people: bool,
    /// The same of its classes of jobs.
    pub(super) tell_scheduler: bool,
}

pub(super) enum Waiting {
    Begun,
    Until(Option<Instant>),
    TooLong,
}

impl Slice {
    /// holmd wants this. An older generation than one acted upon is refused.
    pub(super) fn offer(&mut self, id: SliceId, want: Want) {
        let newest = self.kept.as_ref().map(|kept| kept.generation);
        let newest = newest.max(self.want.as_ref().map(|want| want.generation));
        if newest.is_some_and(|newest| want.generation < newest) {
            tracing::error!(slice = %id, offered = want.generation, newest, "an older intention is refused");
        } else {
            self.want = Some(want);
        }
    }

    /// Nothing was begun, or nothing is left.
    pub(super) fn is_nothing(&self) -> bool {
        self.frozen.is_none() && self.kept.as_ref().is_none_or(|kept| !kept.point.holds())
    }

    /// Makes what is wanted what is acted upon. True where that is news.
    pub(super) fn take_up(&mut self, id: SliceId, machine: Machine) -> bool {
        let Some(want) = &self.want else { return false };
        let Some(kept) = self.kept.as_mut() else {
            let Ok(spec) = &want.spec else { return false };
            self.kept = Some(Kept {
                slice: id,
                generation: want.generation,
                destroyed: want.destroyed,
                closed: want.closed,
                point: Point::New,
                used: spec.used,
                again: spec.used,
                volume: spec.volume,
                others: spec.others.iter().map(kept_volume).collect(),
                partition: spec.partition,
                devices: spec.devices.clone(),
                failed: None,
                steps: Vec::new(),
                guest: None,
                nodes: spec.nodes.clone(),
                erasure: None,
                image: None,
                retired: Vec::new(),
                change: None,
            });
            if let Some(kept) = self.kept.as_mut() {
                kept.follow(spec);
            }
            return true;
        };
        if want.generation <= kept.generation {
            if (want.destroyed && !kept.destroyed) || (want.closed && !kept.is_undoing()) {
                // Two wishes under one generation: it cannot be told which is the later one.
                tracing::error!(slice = %id, "holmd wants two things under one generation: nothing is taken apart");
                self.want = None;
                return true;
            }
            // A kill may have hidden that its devices were released, and some may be another's by now.
            let forgot = want.is_released() && kept.is_undoing() && !kept.devices.is_empty();
            if forgot {
                kept.let_go();
            }
            return forgot;
        }
        let again = kept.closed && !kept.destroyed && !want.is_undoing();
        if again && (kept.point != Point::Kept || machine != Machine::Still) {
            // First it is through with being stopped.
            return false;
        }
        kept.generation = want.generation;
        self.trouble = None;
        self.waits = None;
        self.done = None;
        self.disks = None;
        self.key = HeldKey::None;
        kept.failed = None;
        if want.is_released() {
            kept.let_go();
        }
        if let Ok(spec) = &want.spec
            && want.is_undoing()
        {
            kept.follow(spec);
        }
        if want.destroyed {
            kept.destroyed = true;
            return true;
        }
        if want.closed && !kept.destroyed {
            kept.closed = true;
            return true;
        }
        let started = machine == Machine::Running || matches!(kept.point, Point::Booting | Point::Ready);
        let refused = match &want.spec {
            Err(why) => Some(format!("what holmd wants cannot be read: {why}")),
            Ok(_) if kept.destroyed => Some("it was destroyed here: nothing brings it back".to_owned()),
            Ok(spec) if !same_volumes(kept, spec) => {
                Some("holmd names other volumes for it than it has".to_owned())
            }
            Ok(spec) if spec.volume != kept.volume && !(again && spec.retired.contains(&kept.volume)) => {
                Some(format!("it has the volume `{}`, and holmd names `{}`", kept.volume, spec.volume))
            }
            Ok(spec) if started && spec.devices != kept.devices => {
                Some("its machine runs with other devices than holmd names".to_owned())
            }
            Ok(spec) => {
                if again {
                    kept.begin_again();
                }
                kept.follow(spec);
                // It may know better than a record that was lost.
                kept.used |= spec.used;
                for (other, named) in kept.others.iter_mut().zip(&spec.others) {
                    other.used |= named.used && named.kind != VolumeKind::Scratch;
                }
                kept.devices.clone_from(&spec.devices);
                kept.partition = spec.partition;
                // A machine that runs lies where it was started.
                if !started {
                    kept.nodes.clone_from(&spec.nodes);
                }
                None
            }
        };
        if let Some(reason) = refused {
            self.fail(&reason);
        }
        true
    }

    /// Why the next try is not made.
    pub(super) fn too_often_or_long(&self, limits: &Limits, now: Now) -> Option<String> {
        let kept = self.kept.as_ref()?;
        let booting = self.boots.filter(|_| kept.point == Point::Booting);
        if booting.is_some_and(|since| now.instant.saturating_duration_since(since) > limits.boot) {
            return Some(format!("its guest was not ready within {} s", limits.boot.as_secs()));
        }
        let heard = matches!(kept.point, Point::Booting | Point::Ready);
        let trouble = self.trouble.as_ref().filter(|trouble| !heard && trouble.tries >= limits.tries)?;
        Some(trouble.text.clone())
    }

    /// Notes what it waits for.
    pub(super) fn wait(&mut self, why: Why, limits: &Limits, now: Now) -> Waiting {
        match &self.waits {
            Some((before, since)) if *before == why => {
                let end = *since + limits.wait;
                match why.is_limited() {
                    true if now.instant >= end => Waiting::TooLong,
                    true => Waiting::Until(Some(end)),
                    false => Waiting::Until(None),
                }
            }
            _ => {
                self.waits = Some((why, now.instant));
                Waiting::Begun
            }
        }
    }

    /// Notes what is about to happen, and takes out what it needs.
    pub(super) fn begin(&mut self, effect: Effect, image: &Image, now: Now) -> Option<Job> {
        let kept = self.kept.as_mut()?;
        let before = kept.clone();
        if let Some(point) = effect.point() {
            kept.point = point;
        }
        if let Some(step) = effect.step() {
            kept.begin_step(step, now);
        }
        if effect == Effect::Start {
            kept.used = true;
            kept.again = false;
        }
        if effect == Effect::MakeVolume && self.disks == Some(Disks::ToMake { root: true }) {
            kept.image = Some(image.clone());
        }
        if effect == Effect::Hear && self.boots.is_none() {
            self.boots = Some(now.instant);
        }
        if effect.is_undoing() {
            self.key = HeldKey::None;
        }
        let save = effect.point().is_some() && kept.is_news_to(self.stored.as_ref());
        if save {
            // Until it is known to be there.
            self.stored = None;
        }
        let spec = self.want.as_ref().and_then(|want| want.spec.clone().ok());
        let called = spec.as_ref().map(|spec| digest_of(&spec.users));
        let tell_people =
            effect == Effect::Hear && called.is_some_and(|called| self.people.tell(&called, now.instant));
        let scheduler = spec.as_ref().and_then(|spec| spec.scheduler.as_ref());
        let tell_scheduler = effect == Effect::Hear
            && scheduler.is_some_and(|wanted| self.scheduler.tell(&wanted.of, now.instant));
        Some(Job {
            effect,
            kept: kept.clone(),
            before,
            save,
            spec,
            tell_people,
            tell_scheduler,
            keys: match &self.key {
                HeldKey::Held(keys) => Some(Arc::clone(keys)),
                HeldKey::None | HeldKey::Refused(_) | HeldKey::Later => None,
            },
        })
    }

    /// Believes of a guest what it may say now.
    pub(super) fn hear(&mut self, events: Vec<GuestEvent>, now: Now, limits: &Limits) -> Turn {
        let Some(kept) = self.kept.as_mut() else { return Turn::Until(None) };
        let mut news = false;
        let mut gave_up = None;
        for event in events {
            match (kept.point, event) {
                (Point::Booting, GuestEvent::Boot) => {
                    if kept.end_step(STEP_BOOT, now) {
                        kept.begin_step(STEP_SLURM, now);
                        news = true;
                    }
                }
                (Point::Booting, GuestEvent::Ready(guest)) => {
                    // One that was ready before this agent came does not say again that it boots.
                    if kept.end_step(STEP_BOOT, now) {
                        kept.begin_step(STEP_SLURM, now);
                    }
                    kept.end_step(STEP_SLURM, now);
                    kept.guest = Some(KeptGuest {
                        ssh_host_key: guest.ssh_host_key,
                        gpus: guest.gpus,
                        slurm: guest.slurm,
                    });
                    kept.point = Point::Ready;
                    let lasting = kept.others.iter_mut().filter(|other| other.kind != VolumeKind::Scratch);
                    lasting.for_each(|other| other.used = true);
                    news = true;
                }
                (Point::Booting | Point::Ready, GuestEvent::Failed(reason)) => {
                    gave_up = Some(format!("its guest gave up: {reason}"));
                }
                (Point::Booting | Point::Ready, GuestEvent::Disks(disks)) => self.claims.hear(disks),
                (Point::Booting | Point::Ready, GuestEvent::Alive) => self.voice.live(now.instant),
                (Point::Booting | Point::Ready, GuestEvent::People(of)) => self.people.hear(of),
                (Point::Booting | Point::Ready, GuestEvent::Scheduler(of)) => {
                    // What was said of jobs before may not hold under it.
                    if self.scheduler.says.as_ref() != Some(&of) {
                        self.jobs = None;
                    }
                    self.scheduler.hear(of);
                }
                (Point::Booting | Point::Ready, GuestEvent::Jobs(jobs)) => self.jobs = Some(jobs),
                (Point::Booting | Point::Ready, GuestEvent::Lost(lines)) => self.voice.lose(lines),
                (Point::Booting | Point::Ready, GuestEvent::Claim { boot, claim }) => {
                    self.voice.hear(boot, claim);
                }
                // A guest that says what does not fit is not believed; it may well be hostile.
                (_, _) => {}
            }
        }
        self.claims.turn(now.instant);
        let wanted = self.want.as_ref().and_then(|want| want.spec.as_ref().ok());
        let waits = wanted.is_some_and(|spec| {
            let scheduler = spec.scheduler.as_ref();
            self.people.is_other_than(&digest_of(&spec.users))
                || scheduler.is_some_and(|wanted| self.scheduler.is_other_than(&wanted.of))
        });
        let often = match kept.point {
            Point::Ready if waits => limits.hear_ready.min(HEAR_TOLD),
            Point::Ready => limits.hear_ready,
            _ => limits.hear_booting,
        };
        if let Some(reason) = gave_up {
            self.fail(&reason);
            news = true;
        }
        if news { Turn::Again } else { Turn::Until(Some(now.instant + often)) }
    }

    pub(super) fn fail(&mut self, reason: &str) {
        self.key = HeldKey::None;
        self.trouble = None;
        self.waits = None;
        if let Some(kept) = self.kept.as_mut() {
            kept.failed = Some(brief(reason));
        }
    }

    /// `paused`: its machine stands still, for want of room.
    pub(super) fn observed(&self, id: SliceId, runs: bool, paused: bool) -> Option<v1::ObservedSlice> {
        let Some(want) = &self.want else {
            let generation = self.kept.as_ref().map_or(0, |kept| kept.generation);
            return runs.then(|| orphan(id, generation));
        };
        let Some(kept) = &self.kept else {
            let reason = self.frozen.clone().or_else(|| want.spec.as_ref().err().cloned());
            let phase = match (runs, want.is_undoing()) {
                // The worker has not come to it yet.
                _ if reason.is_none() && !want.is_undoing() => v1::Phase::Preparing,
                (_, true) => v1::Phase::Destroying,
                (true, false) => v1::Phase::Booting,
                (false, false) => v1::Phase::Failed,
            };
            return Some(v1::ObservedSlice {
                slice_id: id.to_string(),
                generation: want.generation,
                phase: phase.into(),
                reason: brief(&reason.unwrap_or_default()),
                ..Default::default()
            });
        };
        let phase = phase(kept);
        let reason = kept
            .failed
            .clone()
            .or_else(|| self.trouble.as_ref().map(|trouble| trouble.text.clone()))
            .or_else(|| self.waits.as_ref().map(|(why, _)| brief(&why.text())));
        Some(v1::ObservedSlice {
            slice_id: id.to_string(),
            generation: kept.generation,
            phase: phase.into(),
            reason: reason.unwrap_or_default(),
            steps: kept.steps.iter().map(step).collect(),
            guest: kept.guest.as_ref().filter(|_| phase == v1::Phase::Ready).map(|guest| v1::Guest {
                ssh_host_key: guest.ssh_host_key.clone(),
                gpus: guest.gpus,
                slurm: guest.slurm.clone(),
            }),
            volume_erased: phase == v1::Phase::Absent,
            volume: kept.erasure.as_ref().map(|erasure| erasure.told(kept.volume)),
            volumes: {
                let beside = kept.others.iter().chain(&kept.retired);
                beside.filter_map(|other| Some(other.erasure.as_ref()?.told(other.volume))).collect()
            },
            change: kept.change.as_ref().map(|change| v1::DiskChanged {
                number: change.number,
                done: change.done,
                note: change.note.clone(),
            }),
            disks: if phase == v1::Phase::Ready { self.claims.shown().to_vec() } else { Vec::new() },
            paused,
            image: kept.image.as_ref().and_then(Images::id).unwrap_or_default().to_owned(),
            jobs: self.jobs.filter(|_| phase == v1::Phase::Ready),
            scheduler: self.scheduler.says.clone().filter(|_| phase == v1::Phase::Ready).unwrap_or_default(),
        })
    }
}

impl Kept {
    /// Takes up what holmd wants of its disks.
    fn follow(&mut self, spec: &Spec) {
        self.rebuild(spec.volume, &spec.retired);
        let known = self.change.as_ref().map(|change| change.number);
        match spec.change {
            Some((number, rekey)) if known < Some(number) => {
                self.change = Some(KeptChange { number, rekey, done: false, note: String::new() });
            }
            Some(_) => {}
            // It has heard what became of the last one.
            None => self.change = None,
        }
    }

    /// It must be stored. A slice for which nothing was done is learnt from holmd again, and the times of its
    /// steps are stored with the next thing that matters.
    pub(super) fn is_news_to(&self, stored: Option<&Self>) -> bool {
        match stored {
            None => self.point != Point::New || self.failed.is_some(),
            Some(stored) => {
                let steps = stored.steps.clone();
                Self { steps, ..self.clone() } != *stored
            }
        }
    }

    /// A step that was done once keeps its time: doing it again is no new step.
    pub(super) fn begin_step(&mut self, name: &str, now: Now) {
        // What came before it is over, also where a kill hid its end. Taking apart ends nothing that way: a
        // machine that did not start was not started.
        if !self.is_undoing() {
            let before = self.steps.iter_mut().filter(|step| step.name != name && step.took_ms.is_none());
            before.for_each(|step| step.took_ms = Some(now.wall_ms.saturating_sub(step.started_ms)));
        }
        match self.steps.iter_mut().find(|step| step.name == name) {
            Some(step) if step.took_ms.is_none() => step.started_ms = now.wall_ms,
            Some(_) => {}
            None => {
                self.steps.push(KeptStep { name: name.to_owned(), started_ms: now.wall_ms, took_ms: None })
            }
        }
    }

    /// True where it was under way.
    pub(super) fn end_step(&mut self, name: &str, now: Now) -> bool {
        let running = self.steps.iter_mut().find(|step| step.name == name && step.took_ms.is_none());
        let Some(step) = running else { return false };
        step.took_ms = Some(now.wall_ms.saturating_sub(step.started_ms));
        true
    }
}

fn phase(kept: &Kept) -> v1::Phase {
    if kept.failed.is_some() && (!kept.destroyed || kept.point == Point::Absent) {
        return v1::Phase::Failed;
    }
    match kept.point {
        Point::Absent => v1::Phase::Absent,
        _ if kept.destroyed => v1::Phase::Destroying,
        Point::Kept => v1::Phase::Kept,
        _ if kept.closed => v1::Phase::Destroying,
        Point::New
        | Point::Binding
        | Point::Activating
        | Point::MakingVolume
        | Point::WritingSeed
        | Point::Starting => v1::Phase::Preparing,
        Point::Booting => v1::Phase::Booting,
        Point::Ready => v1::Phase::Ready,
        Point::Stopping | Point::Deactivating | Point::Erasing | Point::RemovingSeed | Point::Releasing => {
            v1::Phase::Destroying
        }
    }
}

/// A machine that nobody intends: it is there, and it stays.
pub(super) fn orphan(id: SliceId, generation: u64) -> v1::ObservedSlice {
    v1::ObservedSlice {
        slice_id: id.to_string(),
        generation,
        phase: v1::Phase::Booting.into(),
        reason: "it runs and holmd does not intend it: kept".to_owned(),
        ..Default::default()
    }
}

fn step(step: &KeptStep) -> v1::Step {
    v1::Step {
        name: step.name.clone(),
        // 0 says that it still runs.
        took_ms: step.took_ms.map_or(0, |took| took.max(1)),
        done: step.took_ms.is_some(),
        started: Some(prost_types::Timestamp {
            seconds: i64::try_from(step.started_ms / 1000).unwrap_or(i64::MAX),
            nanos: i32::try_from(step.started_ms % 1000 * 1_000_000).unwrap_or_default(),
        }),
    }
}

pub(super) fn seed(kept: &Kept, spec: &Spec) -> Seed {
    Seed {
        slice: kept.slice,
        project: spec.project.clone(),
        level: spec.level.clone(),
        level_name: spec.level_name.clone(),
        gpus: u32::try_from(kept.devices.len()).unwrap_or(u32::MAX),
        users: spec.users.clone(),
        ssh_ca: spec.ssh_ca.clone(),
        scheduler: spec.scheduler.clone(),
        terminal_only: spec.terminal_only,
        ssh_terminal_ca: spec.ssh_terminal_ca.clone(),
        ssh_recorded_ca: spec.ssh_recorded_ca.clone(),
        others: others(kept, spec),
    }
}

/// Its other volumes; what is known here of their use counts as well.
fn others(kept: &Kept, spec: &Spec) -> Vec<OtherVolume> {
    let used =
        |named: &OtherVolume| kept.others.iter().any(|other| other.volume == named.volume && other.used);
    spec.others.iter().map(|named| OtherVolume { used: used(named), ..*named }).collect()
}

fn kept_volume(named: &OtherVolume) -> KeptVolume {
    let used = named.used && named.kind != VolumeKind::Scratch;
    KeptVolume { volume: named.volume, kind: named.kind, used, erasure: None }
}

fn same_volumes(kept: &Kept, spec: &Spec) -> bool {
    let named = spec.others.iter().map(|named| (named.volume, named.kind));
    named.eq(kept.others.iter().map(|other| (other.volume, other.kind)))
}

pub(super) fn domain(kept: &Kept, spec: &Spec) -> DomainSpec {
    DomainSpec {
        slice: kept.slice,
        level_name: spec.level_name.clone(),
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        volume: kept.volume,
        others: others(kept, spec),
        devices: kept.devices.clone(),
        nodes: kept.nodes.clone(),
        image: kept.image.clone(),
    }
}

/// One bounded line, whatever was said.
pub(super) fn brief(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON_CHARS).collect()
}
