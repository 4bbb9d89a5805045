//! The line to the host. Nothing on it may ever hold the boot up.

use crate::{
    claims::{Claims, What},
    event,
    failed::{Of as _, Outcome},
    files,
    here::Here,
    seed::User,
    words::{Order, Words},
};
use rustix::{
    event::{Timespec, epoll},
    fs::{Mode, OFlags},
    io::Errno,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const NAME: &str = "org.holm.guest.0";
/// After so long what was not acknowledged is said again.
const AGAIN: Duration = Duration::from_secs(60);

/// The port of this machine, opened; `None` where it has none.
pub fn of_this_machine() -> Outcome<Option<OwnedFd>> {
    let base = "/sys/class/virtio-ports";
    for port in files::names(base).of(base)? {
        if files::read(format!("{base}/{port}/name"))?.trim() == NAME {
            let path = format!("/dev/{port}");
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            return rustix::fs::open(&path, flags, Mode::empty()).of(&path).map(Some);
        }
    }
    eprintln!("no port {NAME}: nobody hears this");
    Ok(None)
}

/// One of its ends, and what is still to be said there.
#[derive(Debug)]
pub struct Port {
    line: OwnedFd,
    saying: Mutex<Saying>,
}

#[derive(Debug)]
struct Saying {
    /// The last event of each kind that is said again.
    state: Value,
    disks: Option<Value>,
    members: Option<Value>,
    scheduler: Option<Value>,
    usage: Option<Value>,
    usage_due: bool,
    /// Nobody listened: said as soon as somebody does.
    owed: bool,
    claims: Claims,
    people: BTreeMap<u32, String>,
    here: Here,
}

impl Port {
    /// With what programs of this machine say heard below `run`.
    pub fn new(line: OwnedFd, run: &Path) -> Outcome<Self> {
        let boot = files::read("/proc/sys/kernel/random/boot_id")?.trim().replace('-', "");
        let claims = Claims::new(run.join("claims"), boot);
        let saying = Saying {
            state: event::boot(),
            disks: None,
            members: None,
            scheduler: None,
            usage: None,
            usage_due: false,
            owed: false,
            claims,
            people: BTreeMap::new(),
            here: Here::new(run)?,
        };
        Ok(Self { line, saying: Mutex::new(saying) })
    }

    fn saying(&self) -> MutexGuard<'_, Saying> {
        self.saying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the boot goes.
    pub fn say_state(&self, event: Value) -> io::Result<()> {
        let mut saying = self.saying();
        saying.state = event.clone();
        self.say(&mut saying, &event)
    }

    /// How full the disks are.
    pub fn say_disks(&self, event: Value) -> io::Result<()> {
        let mut saying = self.saying();
        saying.disks = Some(event.clone());
        self.say(&mut saying, &event)
    }

    /// That those whom the host calls so are the people here.
    pub fn say_people(&self, of: &str) -> io::Result<()> {
        let mut saying = self.saying();
        let event = event::people(of);
        saying.members = Some(event.clone());
        self.say(&mut saying, &event)
    }

    /// That Slurm does what the host calls so.
    pub fn say_scheduler(&self, of: &str) -> io::Result<()> {
        let mut saying = self.saying();
        let event = event::scheduler(of);
        if saying.scheduler.as_ref() != Some(&event) {
            // What jobs did before says nothing of whether any runs since.
            (saying.usage, saying.usage_due) = (None, true);
        }
        saying.scheduler = Some(event.clone());
        self.say(&mut saying, &event)
    }

    /// What jobs have used. Of what nobody heard only the last is said, and only when it is asked for.
    pub fn say_usage(&self, event: Value) -> io::Result<()> {
        let mut saying = self.saying();
        let said = self.put(format!("{event}\n").as_bytes());
        (saying.usage, saying.usage_due) = (Some(event), false);
        said.map(drop)
    }

    /// It is to be said now, and not when the minute is over.
    pub fn usage_is_due(&self) -> bool {
        self.saying().usage_due
    }

    pub fn say_alive(&self) -> io::Result<()> {
        self.put(format!("{}\n", event::alive()).as_bytes()).map(drop)
    }

    /// Who the people are of whom members' programs speak.
    pub fn know(&self, people: &[User]) {
        self.saying().people = people.iter().map(|user| (user.uid, user.name.clone())).collect();
    }

    /// What was mounted, once in a run of the machine.
    pub fn claim_mounts<'a>(&self, disks: impl Iterator<Item = &'a str>) -> io::Result<()> {
        let mut saying = self.saying();
        if saying.claims.is_fresh() {
            disks.for_each(|disk| saying.claims.add(What::new("mount", &[("disk", disk)])));
        }
        self.say_claims(&mut saying)
    }

    /// What happened here.
    pub fn claim(&self, what: What) {
        let mut saying = self.saying();
        saying.claims.add(what);
        // What cannot be said now is said again.
        let _ = self.say_claims(&mut saying);
    }

    /// How much of what was claimed is not in the log, as far as is known here.
    pub fn claims_that_wait(&self) -> usize {
        self.saying().claims.len()
    }

    fn say(&self, saying: &mut Saying, event: &Value) -> io::Result<()> {
        if saying.owed {
            return self.say_all(saying);
        }
        saying.owed = !self.put(format!("{event}\n").as_bytes())?;
        Ok(())
    }

    fn say_all(&self, saying: &mut Saying) -> io::Result<()> {
        let Saying { state, disks, members, scheduler, .. } = &*saying;
        let events = [Some(state), disks.as_ref(), members.as_ref(), scheduler.as_ref()];
        let text: String = events.iter().flatten().map(|event| format!("{event}\n")).collect();
        saying.owed = !self.put(text.as_bytes())?;
        Ok(())
    }

    fn say_claims(&self, saying: &mut Saying) -> io::Result<()> {
        if let Some((text, last)) = saying.claims.due()
            && self.put(&text)?
        {
            saying.claims.said(last);
        }
        Ok(())
    }

    /// False: nobody listens, or takes more now.
    fn put(&self, text: &[u8]) -> io::Result<bool> {
        match rustix::io::write(&self.line, text) {
            Ok(written) => Ok(written == text.len()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers for ever, and has `obey` do what else the host wants. Edge-triggered, for a port whose other end is
    /// closed is always ready otherwise. What the host asks can come before the news that it is there, and no answer can be
    /// written in between.
    pub fn answer(&self, obey: impl Fn(Order)) -> io::Result<()> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let all = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        let nothing = epoll::EventData::new_u64(0);
        epoll::add(&poll, &self.line, nothing, all)?;
        {
            let saying = self.saying();
            for here in [&saying.here.root, &saying.here.members] {
                epoll::add(&poll, here, nothing, epoll::EventFlags::IN)?;
            }
        }
        let mut words = Words::default();
        let mut bytes = [0; 4096];
        loop {
            let heard = match rustix::io::read(&self.line, &mut bytes) {
                Err(Errno::AGAIN | Errno::INTR) => 0,
                length => length?,
            };
            let lines = words.push(bytes.get(..heard).unwrap_or_default());
            let mut others = Vec::new();
            let waits = {
                let mut saying = self.saying();
                let saying = &mut *saying;
                let lines: Vec<Order> =
                    lines.iter().filter_map(|line| Order::parse(line, saying.claims.boot())).collect();
                let asked = lines.contains(&Order::Status);
                if saying.owed || asked {
                    self.say_all(saying)?;
                }
                if let Some(usage) = saying.usage.as_ref().filter(|_| asked) {
                    self.put(format!("{usage}\n").as_bytes())?;
                }
                for order in lines {
                    match order {
                        Order::Status => {}
                        Order::Acknowledge(seq) => saying.claims.acknowledged(seq),
                        order => others.push(order),
                    }
                }
                saying.here.hear(&saying.people, &mut saying.claims)?;
                // Whoever listens since then has not heard it, or its answer was lost.
                if asked || saying.claims.are_late(AGAIN) {
                    saying.claims.again();
                }
                self.say_claims(saying)?;
                !saying.claims.is_empty()
            };
            others.into_iter().for_each(&obey);
            if heard == 0 {
                let limit = waits.then(|| Timespec { tv_sec: AGAIN.as_secs() as i64, tv_nsec: 0 });
                let mut ready = [epoll::Event { flags: epoll::EventFlags::empty(), data: nothing }; 4];
                match epoll::wait(&poll, &mut ready, limit.as_ref()) {
                    Err(Errno::INTR) => {}
                    ready => drop(ready?),
                }
            }
        }
    }
}
