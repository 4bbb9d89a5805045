//! Looks once a minute what jobs use, and tells the host. While no job is to start it looks more often how many run, because
//! somebody waits for the last one.

use crate::{
    command::{run, within},
    event,
    failed::{Failed, Outcome},
    jobs::{self, Job},
    meter::{Busy, Look, Meter, utilisation},
    port::Port,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

const MINUTE: Duration = Duration::from_secs(60);
/// How often it is looked how many jobs run, while none is to start.
const WHILE_DRAINING: Duration = Duration::from_secs(2);
/// So many seconds Slurm's program and NVIDIA's have.
const PATIENCE: &str = "20";
/// How much older than Slurm's answer what the prolog wrote must be, in seconds, to be wrong if Slurm does not know of it.
const SETTLED: f64 = 120.0;
const NVIDIA: &str = "/usr/bin/nvidia-smi";

/// What Slurm says of its queue.
#[derive(Debug, Default, PartialEq, Eq)]
struct Queue {
    pending: u64,
    /// Those that run, or have not been cleared away.
    there: BTreeMap<u64, String>,
}

/// Looks for ever; `drains` hears when jobs are to start no more, or again.
pub fn for_ever(port: Option<&Port>, run: &Path, drains: &Receiver<bool>) {
    let mut watch = match Watch::new(run) {
        Ok(watch) => watch,
        Err(Failed(why)) => return eprintln!("usage: {why}"),
    };
    let (mut draining, mut minute) = (false, Instant::now() + MINUTE);
    loop {
        let left = minute.saturating_duration_since(Instant::now());
        match drains.recv_timeout(if draining { left.min(WHILE_DRAINING) } else { left }) {
            Ok(drain) => draining = drain,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let due = Instant::now() >= minute;
        if due {
            minute = Instant::now() + MINUTE;
            watch.ask();
        }
        watch.look();
        if let Some(port) = port.filter(|_| due || draining && watch.is_news())
            && let Err(error) = watch.say(port)
        {
            eprintln!("usage: the port: {error}");
        }
    }
}

/// What is known.
#[derive(Debug)]
struct Watch {
    place: PathBuf,
    meter: Meter,
    queue: Queue,
    busy: Busy,
    running: u64,
    said: Option<u64>,
}

impl Watch {
    fn new(run: &Path) -> Outcome<Self> {
        let place = jobs::prepare(run)?;
        let meter = Meter::new(jobs::now(), all_cpu_seconds());
        let busy = Path::new(NVIDIA).exists().then(BTreeMap::new);
        Ok(Self { place, meter, queue: Queue::default(), busy, running: 0, said: None })
    }

    /// What takes a program: Slurm's queue, and how busy GPUs are.
    fn ask(&mut self) {
        match queue() {
            Ok(queue) => {
                for job in jobs::read(&self.place) {
                    // An epilog that did not run.
                    if job.end.is_none()
                        && job.start + SETTLED < jobs::now()
                        && !queue.there.contains_key(&job.id)
                    {
                        job.forget();
                    }
                }
                self.queue = queue;
            }
            // Slurm may be slow; what it said before is nearer than nothing.
            Err(Failed(why)) => eprintln!("usage: {why}"),
        }
        if Path::new(NVIDIA).exists() {
            self.busy = busy().map_err(|Failed(why)| eprintln!("usage: {why}")).ok();
        }
    }

    fn look(&mut self) {
        let jobs = jobs::read(&self.place);
        let memory = jobs.iter().filter_map(|job| jobs::memory(&group(job))).sum();
        self.meter.look(&Look {
            now: jobs::now(),
            jobs: &jobs,
            busy: &self.busy,
            cpu: all_cpu_seconds(),
            memory,
        });
        let (over, running): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| job.end.is_some());
        self.running = running.len() as u64;
        over.into_iter().for_each(Job::forget);
    }

    /// Another number of jobs runs than was said.
    fn is_news(&self) -> bool {
        self.said != Some(self.running) && self.meter.seconds() > 0
    }

    fn say(&mut self, port: &Port) -> std::io::Result<()> {
        self.said = Some(self.running);
        let usage = self.meter.take(self.running, self.queue.pending);
        port.say_usage(event::usage(&usage))
    }
}

fn group(job: &Job) -> PathBuf {
    jobs::group(Path::new(jobs::GROUPS), job.id)
}

fn all_cpu_seconds() -> f64 {
    jobs::cpu_seconds(Path::new(jobs::GROUPS)).unwrap_or_default()
}

fn queue() -> Outcome<Queue> {
    // A task of an array is a job.
    let format = "JobID:20 ,JobArrayID:60 ,State:20 ";
    Ok(Queue::parse(&run(&within(PATIENCE, &["squeue", "--noheader", "--array", "--Format", format]))?))
}

impl Queue {
    fn parse(said: &str) -> Self {
        let mut queue = Self::default();
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [id, name, state] = words.as_slice() else { continue };
            if *state == "PENDING" {
                queue.pending += 1;
            } else if let Ok(id) = id.parse() {
                queue.there.insert(id, (*name).to_owned());
            }
        }
        queue
    }
}

fn busy() -> Outcome<BTreeMap<u32, f64>> {
    let query = "--query-gpu=index,utilization.gpu,memory.used";
    let said = run(&within(PATIENCE, &[NVIDIA, query, "--format=csv,noheader,nounits"]))?;
    Ok(utilisation(&said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_counted() {
        let said = "2   2_3     PENDING \n1   1  RUNNING    \n3   2_1  RUNNING   \n4   2_2  COMPLETING \n5  5  PENDING\nnonsense\n";
        let there = [(1, "1"), (3, "2_1"), (4, "2_2")].map(|(id, name)| (id, name.to_owned()));
        assert_eq!(Queue::parse(said), Queue { pending: 2, there: there.into() });
    }
}
