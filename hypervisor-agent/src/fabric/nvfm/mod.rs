//! Fabric Manager in shared NVSwitch mode, through its client library.
//!
//! ```text
//!                        ┌────────────── it was restarted ───────────────┐
//!                        ▼                                               │
//!  connect ─▶ ask for the partitions ── answered ─▶ they are the truth ──┴─ activate, deactivate, look now and then
//!                  │        ▲
//!          NOT_CONFIGURED   │ taken, or it only starts: ask again
//!                  ▼        │
//!          tell it what is up (the record, even where that is nothing)
//! ```
//!
//! A Fabric Manager that was started with `FABRIC_MODE_RESTART=1` refuses everything and ends after 60 s where
//! it is not told which partitions are up. Therefore it is looked at every few seconds, not only when a slice
//! comes or goes, and nothing is activated on a connection before it has answered.
//!
//! Calls of C cannot be broken off. One thread makes them all, one after the other; who asks waits for it for
//! so long and no longer. A call that does not end leaves the fabric *stuck*: each later question fails at once
//! and says so, until that call comes back. What had been asked meanwhile and was given up is not done late;
//! what the call itself did is found out by asking Fabric Manager anew.

mod ledger;
mod manager;
mod raw;
#[cfg(test)]
pub(crate) mod tests;

use self::{ledger::Ledger, manager::Manager};
use super::{Fabric, Seen};
use crate::{
    config::{FabricConfig, FabricModel},
    edge::{EdgeError, Result},
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// The Fabric Manager of this host.
#[derive(Debug)]
pub struct Nvfm {
    config: FabricConfig,
    ledger: Arc<Ledger>,
    calls: Arc<Calls>,
    /// To the thread that calls; there is none before something is asked.
    jobs: Mutex<Option<Sender<Job>>>,
}

/// What is asked of the thread that calls.
#[derive(Debug, Clone)]
enum Ask {
    Activate(u32),
    Deactivate(u32),
    List,
    Restore(BTreeSet<u32>),
}

/// A question, and where its answer goes.
struct Job {
    ask: Ask,
    ticket: Arc<Ticket>,
    answer: Sender<Result<Vec<Seen>>>,
}

/// Whether somebody still waits for a job. Once he has given up, no further call is made for it.
#[derive(Debug, Default)]
struct Ticket(AtomicU8);

impl Ticket {
    const WAITS: u8 = 0;
    const BEGUN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// False where nobody waits any longer.
    fn begin(&self) -> bool {
        self.0.compare_exchange(Self::WAITS, Self::BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn give_up(&self) {
        self.0.store(Self::GIVEN_UP, Ordering::Release);
    }

    fn is_given_up(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::GIVEN_UP
    }
}

/// The call that is being made.
#[derive(Debug, Default)]
struct Calls(Mutex<Option<(&'static str, Instant)>>);

impl Calls {
    /// Makes a call of C, and lets others see since when.
    fn make<T>(&self, name: &'static str, call: impl FnOnce() -> T) -> T {
        *self.lock() = Some((name, Instant::now()));
        let outcome = call();
        *self.lock() = None;
        outcome
    }

    /// How long the call has taken until now.
    fn running(&self) -> Option<(&'static str, Duration)> {
        self.lock().map(|(name, since)| (name, since.elapsed()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(&'static str, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nvfm {
    /// The one that the configuration names. Nothing is loaded or called yet.
    pub fn new(config: FabricConfig) -> Result<Self> {
        let ledger = Arc::new(Ledger::open(&config.record)?);
        Ok(Self { config, ledger, calls: Arc::default(), jobs: Mutex::default() })
    }

    /// Asks for the partitions once, from a process that is not the agent: nothing is remembered, and a Fabric
    /// Manager that waits to be told what is up is left to wait for the agent.
    pub fn look(config: &FabricConfig) -> Result<Vec<Seen>> {
        manager::look(config)
    }

    fn ask(&self, ask: Ask) -> Result<Vec<Seen>> {
        if let Some(stuck) = self.stuck() {
            return Err(stuck);
        }
        let (ticket, (answer, answered)) = (Arc::new(Ticket::default()), mpsc::channel());
        self.send(Job { ask, ticket: Arc::clone(&ticket), answer })?;
        let end = Instant::now() + self.config.start_limit() + self.config.call_limit();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let call = self.calls.running().map_or(Duration::ZERO, |(_, since)| since);
            let call_left = self.config.call_limit().saturating_sub(call).max(Duration::from_millis(5));
            match answered.recv_timeout(left.min(call_left)) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let stuck = self.stuck();
            if stuck.is_none() && Instant::now() < end {
                continue;
            }
            ticket.give_up();
            // It may have come in this very moment.
            return answered.try_recv().unwrap_or_else(|_| {
                Err(stuck.unwrap_or_else(|| {
                    let limit = (self.config.start_limit() + self.config.call_limit()).as_secs();
                    EdgeError::new(format!("Fabric Manager was not done within {limit} s: given up"))
                }))
            });
        }
    }

    /// The call that does not end, where there is one.
    fn stuck(&self) -> Option<EdgeError> {
        let (name, since) = self.calls.running().filter(|(_, since)| *since >= self.config.call_limit())?;
        Some(EdgeError::new(format!(
            "Fabric Manager has not answered `{name}` for {} s, and nothing else can be asked meanwhile: see \
             `systemctl status nvidia-fabricmanager`",
            since.as_secs()
        )))
    }

    /// Hands a job to the thread that calls, and starts it where there is none.
    fn send(&self, job: Job) -> Result<()> {
        self.jobs(|jobs| jobs.send(job).map_err(|_| ended()))
    }

    fn jobs(&self, hand: impl FnOnce(&Sender<Job>) -> Result<()>) -> Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = jobs.as_ref() {
            return hand(jobs);
        }
        let (send, receive) = mpsc::channel();
        // Before there is a thread: what it was started for comes first, and its own look after that.
        hand(&send)?;
        let (config, ledger, calls) =
            (self.config.clone(), Arc::clone(&self.ledger), Arc::clone(&self.calls));
        thread::Builder::new()
            .name("fabric".to_owned())
            .spawn(move || work(&receive, Manager::new(config, ledger, calls)))
            .map_err(|error| EdgeError::because("no thread can be started for Fabric Manager", error))?;
        *jobs = Some(send);
        Ok(())
    }
}

impl Fabric for Nvfm {
    fn model(&self) -> FabricModel {
        FabricModel::SharedNvswitch
    }

    fn activate(&self, partition: u32) -> Result<()> {
        self.ask(Ask::Activate(partition)).map(drop)
    }

    fn deactivate(&self, partition: u32) -> Result<()> {
        self.ask(Ask::Deactivate(partition)).map(drop)
    }

    fn active(&self) -> Result<BTreeSet<u32>> {
        Ok(self.ask(Ask::List)?.iter().filter(|seen| seen.active).map(|seen| seen.id).collect())
    }

    fn maybe_active(&self) -> BTreeSet<u32> {
        self.ledger.all()
    }

    fn restore(&self, active: &BTreeSet<u32>) -> Result<()> {
        self.ask(Ask::Restore(active.clone())).map(drop)
    }

    fn partitions(&self) -> Result<Vec<Seen>> {
        self.ask(Ask::List)
    }

    fn watch(&self) {
        if let Err(error) = self.jobs(|_| Ok(())) {
            tracing::error!("Fabric Manager is not looked at: {}", error.chain());
        }
    }
}

/// What the thread does: jobs as they come, and a look where none came for a while, the first at once.
fn work(jobs: &Receiver<Job>, mut manager: Manager) {
    let mut pause = Duration::ZERO;
    loop {
        match jobs.recv_timeout(pause) {
            Ok(job) if job.ticket.begin() => {
                let answer = manager.run(&job.ask, &job.ticket);
                // Who gave up does not listen.
                let _ = job.answer.send(answer);
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => manager.watch(),
            Err(RecvTimeoutError::Disconnected) => return manager.close(),
        }
        pause = manager.pause();
    }
}

fn ended() -> EdgeError {
    EdgeError::new("the thread that speaks with Fabric Manager has ended: restart the agent")
}
