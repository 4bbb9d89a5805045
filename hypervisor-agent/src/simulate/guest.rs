//! What a simulated guest claims for the log: its first member, when it has started, and whoever connects to it log in, run a
//! job on all of its GPUs and leave.

use crate::{
    edge::{GuestEvent, Seed, VolumeKind},
    guest::digest_of,
};
use holm_proto::v1::{self, guest_claim::What};
use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// So many are kept until they are acknowledged; then the oldest goes, and its number is missing.
const KEPT: usize = 256;
/// Claims of one that floods.
const FLOOD: usize = 1000;
/// It speaks of its jobs so often.
const USES: Duration = Duration::from_secs(60);
/// It says so often that it lives.
const LIVES: Duration = Duration::from_secs(300);

/// Of one guest. An agent that begins finds one that has begun anew, too.
#[derive(Debug)]
pub(super) struct Claims {
    boot: String,
    seq: u64,
    kept: VecDeque<v1::GuestClaim>,
    /// The highest number that was said.
    said: u64,
    lived: Option<Instant>,
    /// The first of its accounts.
    user: String,
    disks: Vec<&'static str>,
    jobs: u32,
    /// What those who have accounts are called, and whether that was said.
    people: (String, bool),
    /// The same of its classes of jobs.
    scheduler: (String, bool),
    /// When it spoke of its jobs last.
    used: Option<Instant>,
}

impl Default for Claims {
    fn default() -> Self {
        let mut claims = Self {
            boot: boot(),
            seq: 0,
            kept: VecDeque::new(),
            said: 0,
            lived: None,
            user: "root".to_owned(),
            disks: vec!["root"],
            jobs: 0,
            people: (String::new(), false),
            scheduler: (String::new(), false),
            used: None,
        };
        claims.mount();
        claims
    }
}

impl Claims {
    /// Of the slice with this seed.
    pub(super) fn new(seed: &Seed) -> Self {
        let mut claims = Self::default();
        if let Some(user) = seed.users.first() {
            claims.user.clone_from(&user.name);
        }
        claims.people.0 = digest_of(&seed.users);
        claims.scheduler.0 = seed.scheduler.as_ref().map(|told| told.of.clone()).unwrap_or_default();
        claims.disks.extend(seed.others.iter().map(|other| match other.kind {
            VolumeKind::Root => "root",
            VolumeKind::Data => "data",
            VolumeKind::Scratch => "scratch",
        }));
        claims
    }

    /// Its machine starts.
    pub(super) fn boot(&mut self, gpus: usize) {
        (self.boot, self.seq, self.said) = (boot(), 0, 0);
        self.kept.clear();
        self.lived = None;
        (self.people.1, self.scheduler.1, self.used) = (false, false, None);
        self.mount();
        self.visited(gpus);
    }

    /// These have accounts from now on, and nobody else does anything here.
    pub(super) fn admit(&mut self, users: &[v1::GuestUser]) {
        self.people = (digest_of(users), false);
        if let Some(user) = users.first() {
            self.user.clone_from(&user.name);
        }
    }

    /// It has these classes of jobs from now on.
    pub(super) fn schedule(&mut self, of: &str) {
        (self.scheduler, self.used) = ((of.to_owned(), false), None);
    }

    /// Says, now and then, that its one job keeps half of its GPUs half busy; between two looks none runs.
    pub(super) fn use_gpus(&mut self, gpus: usize, events: &mut Vec<GuestEvent>) {
        if self.used.is_some_and(|used| used.elapsed() < USES) {
            return;
        }
        self.used = Some(Instant::now());
        let gpus = u64::try_from(gpus).unwrap_or_default();
        let seconds = u32::try_from(USES.as_secs()).unwrap_or(1);
        let gpu_seconds = gpus * u64::from(seconds) / 2;
        events.push(GuestEvent::Jobs(v1::JobsUse {
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            seconds,
            gpu_seconds,
            gpu_busy_seconds: Some(gpu_seconds / 2),
            cpu_seconds: u64::from(seconds),
            memory_mib: 100,
            running: 0,
            pending: 0,
        }));
    }

    fn mount(&mut self) {
        for disk in self.disks.clone() {
            self.claim(What::Mount(v1::GuestMount { disk: disk.to_owned() }));
        }
    }

    /// Somebody is there.
    pub(super) fn visited(&mut self, gpus: usize) {
        let user = || self.user.clone();
        let session = v1::GuestSession { user: user(), service: "sshd".to_owned() };
        let job = self.jobs.saturating_add(1);
        let start = v1::GuestJobStart {
            job,
            user: user(),
            partition: "batch".to_owned(),
            cpus: 1,
            gpus: u32::try_from(gpus).unwrap_or_default(),
        };
        let end = v1::GuestJobEnd { job, user: user(), exit_code: Some(0), signal: Some(0) };
        self.jobs = job;
        for what in
            [What::Login(session.clone()), What::JobStart(start), What::JobEnd(end), What::Logout(session)]
        {
            self.claim(what);
        }
    }

    fn claim(&mut self, what: What) {
        self.seq += 1;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(v1::GuestClaim { seq: self.seq, time, what: Some(what) });
    }

    /// Says what was not said before.
    pub(super) fn say(&mut self, events: &mut Vec<GuestEvent>, floods: bool) {
        for _ in 0..if floods { FLOOD } else { 0 } {
            self.claim(What::Sudo(v1::GuestSudo {
                user: self.user.clone(),
                target: "root".to_owned(),
                service: "sudo".to_owned(),
            }));
            events.extend(self.kept.back().cloned().map(|claim| self.event(claim)));
        }
        if floods {
            self.said = self.seq;
        }
        if self.lived.is_none_or(|lived| lived.elapsed() >= LIVES) {
            self.lived = Some(Instant::now());
            events.push(GuestEvent::Alive);
        }
        if !self.people.1 {
            self.people.1 = true;
            events.push(GuestEvent::People(self.people.0.clone()));
        }
        if !self.scheduler.1 {
            self.scheduler.1 = true;
            events.push(GuestEvent::Scheduler(self.scheduler.0.clone()));
        }
        let news = self.kept.iter().filter(|claim| claim.seq > self.said).cloned();
        events.extend(news.map(|claim| self.event(claim)));
        self.said = self.seq;
    }

    fn event(&self, claim: v1::GuestClaim) -> GuestEvent {
        GuestEvent::Claim { boot: self.boot.clone(), claim }
    }

    /// So much is in the log.
    pub(super) fn acknowledged(&mut self, boot: &str, seq: u64) {
        if boot == self.boot {
            self.kept.retain(|claim| claim.seq > seq);
        }
    }
}

fn boot() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
