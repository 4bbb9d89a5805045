//! The threads that drive the engine: one a slice, so that slices do not wait for each other and what is done
//! for one is done in order; one for sanitising; one for jobs; one that looks at the machine now and then.

use super::engine::{Engine, Now, Refused, Turn};
use holm_proto::{ids::SliceId, v1};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often it is looked which machines run: one call to libvirt.
const LOOK: Duration = Duration::from_secs(10);
/// Of so many looks one also asks who holds which device, which opens every VFIO group.
const LOOKS_A_ROUND: u32 = 3;
/// Where a look fails, or something happened meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Small: nothing here recurses.
const STACK_BYTES: usize = 512 * 1024;
/// A store that is asked over TLS wants more.
const JOBS_STACK_BYTES: usize = 4 << 20;

/// A running engine.
#[derive(Debug)]
pub struct Driver {
    engine: Arc<Engine>,
    workers: Mutex<BTreeMap<SliceId, JoinHandle<()>>>,
    others: Mutex<Vec<JoinHandle<()>>>,
}

impl Driver {
    /// Starts the threads.
    pub fn start(engine: Arc<Engine>) -> io::Result<Self> {
        let others = vec![
            spawn("look", &engine, look)?,
            spawn("runs", &engine, |engine| drive(engine, |now| engine.clean(now)))?,
            spawn_with("jobs", JOBS_STACK_BYTES, &engine, |engine| drive(engine, |now| engine.work(now)))?,
        ];
        let driver = Self { engine, workers: Mutex::default(), others: Mutex::new(others) };
        driver.employ();
        Ok(driver)
    }

    /// What is driven.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Takes what holmd wants, and has somebody work on each slice.
    pub fn intend(&self, message: v1::Intended) -> Result<(), Refused> {
        self.engine.intend(message)?;
        self.employ();
        Ok(())
    }

    /// Ends the threads; machines run on. False where one of them is still in a call to the outside after
    /// `limit`: to end with it is a kill like any other, and harmless.
    pub fn stop(&self, limit: Duration) -> bool {
        self.engine.stop();
        let end = Instant::now() + limit;
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, wait) = std::sync::mpsc::channel();
        let all: Vec<JoinHandle<()>> =
            std::mem::take(&mut *workers).into_values().chain(others.drain(..)).collect();
        let joiner = thread::Builder::new().name("stop".to_owned()).spawn(move || {
            for thread in all {
                // A thread that panicked has ended as well.
                let _ = thread.join();
            }
            let _ = done.send(());
        });
        joiner.is_ok() && wait.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok()
    }

    fn employ(&self) {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|_, worker| !worker.is_finished());
        for slice in self.engine.slices() {
            if workers.contains_key(&slice) || self.engine.is_stopping() {
                continue;
            }
            let worker = spawn("slice", &self.engine, move |engine| {
                drive(engine, |now| engine.advance(slice, now));
            });
            match worker {
                Ok(worker) => drop(workers.insert(slice, worker)),
                Err(error) => tracing::error!(%slice, %error, "no thread can be started for a slice"),
            }
        }
    }
}

fn spawn(
    name: &str,
    engine: &Arc<Engine>,
    work: impl FnOnce(&Engine) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    spawn_with(name, STACK_BYTES, engine, work)
}

fn spawn_with(
    name: &str,
    stack: usize,
    engine: &Arc<Engine>,
    work: impl FnOnce(&Engine) + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let engine = Arc::clone(engine);
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(move || work(&engine))
}

fn drive(engine: &Engine, mut turn: impl FnMut(Now) -> Turn) {
    loop {
        let version = engine.version();
        if engine.is_stopping() {
            return;
        }
        match turn(Now::read()) {
            Turn::Again => {}
            Turn::Until(until) => engine.wait(version, until),
            Turn::Gone => return,
        }
    }
}

fn look(engine: &Engine) {
    let mut looks = 0;
    while !engine.is_stopping() {
        let pause = if engine.look(looks % LOOKS_A_ROUND == 0) && engine.observed().is_some() {
            looks = looks.wrapping_add(1);
            LOOK
        } else {
            LOOK_AGAIN
        };
        let until = Instant::now() + pause;
        while !engine.is_stopping() && Instant::now() < until {
            engine.wait(engine.version(), Some(until));
        }
    }
}
