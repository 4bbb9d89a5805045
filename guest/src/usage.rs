//! Looks once a minute what jobs use, and tells the host. While no job is to start it looks more often how many run, because
//! somebody waits for the last one.

use crate::{
    command::{run, within},
    event,
    failed::{Failed, Outcome},
    gpus,
    idle::{self, Idle, Seen},
    jobs::{self, Job},
    meter::{Busy, Look, Meter, utilisation},
    port::Port,
    series::{self, About, Point, Written},
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
/// How often what nobody needs any more is removed.
const CLEAN: Duration = Duration::from_secs(3600);
/// So many seconds Slurm's program and NVIDIA's have.
const PATIENCE: &str = "20";
/// How much older than Slurm's answer what the prolog wrote must be, in seconds, to be wrong if Slurm does not know of it.
const SETTLED: f64 = 120.0;

/// What Slurm says of its queue.
#[derive(Debug, Default, PartialEq, Eq)]
struct Queue {
    pending: u64,
    /// Those that run, or have not been cleared away.
    there: BTreeMap<u64, String>,
}

/// Looks for ever; `drains` hears when jobs are to start no more, or again.
pub fn for_ever(port: Option<&Port>, run: &Path, idle: Duration, drains: &Receiver<bool>) {
    let mut watch = match Watch::new(run, idle) {
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
        watch.look(due);
        let news = |port: &&Port| draining && (watch.is_news() || port.usage_is_due() && watch.has_looked());
        if let Some(port) = port.filter(|port| due || news(port))
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
    run: PathBuf,
    followed: BTreeMap<u64, Followed>,
    idle: Idle,
    clean: Option<Instant>,
}

/// A job that was seen before.
#[derive(Debug)]
struct Followed {
    start: f64,
    /// Seconds of processors until then, and when that was.
    cpu: f64,
    at: f64,
    written: Option<Written>,
}

impl Watch {
    fn new(run: &Path, idle: Duration) -> Outcome<Self> {
        let place = jobs::prepare(run)?;
        let meter = Meter::new(jobs::now(), all_cpu_seconds());
        let busy = gpus::tell().then(BTreeMap::new);
        Ok(Self {
            place,
            meter,
            queue: Queue::default(),
            busy,
            running: 0,
            said: None,
            run: run.to_owned(),
            followed: BTreeMap::new(),
            idle: Idle::new(idle.as_secs_f64()),
            clean: None,
        })
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
        if gpus::tell() {
            self.busy = busy().map_err(|Failed(why)| eprintln!("usage: {why}")).ok();
        }
    }

    /// What each job does is followed once a minute.
    fn look(&mut self, follow: bool) {
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
        if follow {
            let seen: Vec<Seen> = running.iter().filter_map(|job| self.follow(job)).collect();
            idle::tell(&self.idle.look(&seen));
            if let Err(Failed(why)) = self.idle.notice(&self.run) {
                eprintln!("idle jobs: {why}");
            }
        }
        for job in over {
            self.close(job);
            job.forget();
        }
        self.followed.retain(|id, _| running.iter().any(|job| job.id == *id));
        if self.clean.is_none_or(|at| at.elapsed() >= CLEAN) {
            self.clean = Some(Instant::now());
            series::clean(Path::new(series::PLACE), jobs::now());
        }
    }

    /// What it has done since it was looked last, which its owner can read; and, where it has GPUs, for who looks whether it uses
    /// them. `None`: its processes have not begun yet, or have ended.
    fn follow(&mut self, job: &Job) -> Option<Seen> {
        let (now, group) = (jobs::now(), group(job));
        let (cpu, memory) = (jobs::cpu_seconds(&group)?, jobs::memory(&group)?);
        self.followed.retain(|id, followed| *id != job.id || (followed.start - job.start).abs() < 0.5);
        let new = Followed { start: job.start, cpu: 0.0, at: job.start, written: None };
        let followed = self.followed.entry(job.id).or_insert(new);
        let seconds = now - followed.at;
        if seconds < 1.0 {
            return None;
        }
        let share = (cpu - followed.cpu).max(0.0) / seconds / f64::from(job.cpus.max(1));
        (followed.cpu, followed.at) = (cpu, now);
        let shares = self
            .busy
            .as_ref()
            .map(|busy| job.gpus.iter().map(|gpu| busy.get(gpu).copied().unwrap_or_default()));
        let count = job.gpus.len() as u32;
        let mean = shares.clone().filter(|_| count > 0).map(|shares| shares.sum::<f64>() / f64::from(count));
        let most = shares.map(|shares| shares.fold(0.0, f64::max));
        let point = Point {
            at: (now - job.start) as u64,
            cpu: share,
            memory_mib: memory.div_ceil(1 << 20),
            gpu: mean,
        };
        let about = || About {
            job: job.id,
            array: self.queue.there.get(&job.id).filter(|name| name.contains('_')).cloned(),
            start: job.start as u64,
            cpus: job.cpus,
            memory_mib: jobs::memory_limit(&group).map(|bytes| bytes >> 20),
            gpus: count,
        };
        if let Err(Failed(why)) = write(&mut followed.written, job.uid, about, point) {
            eprintln!("what job {} uses is not written: {why}", job.id);
        }
        // Of one that was not looked at for long it is not known when it did what.
        let seconds = seconds.min(2.0 * MINUTE.as_secs_f64());
        (count > 0).then_some(Seen { job: job.id, uid: job.uid, gpus: count, seconds, cpu: share, gpu: most })
    }

    /// It is over.
    fn close(&mut self, job: &Job) {
        let written = self.followed.remove(&job.id).and_then(|followed| followed.written);
        if let Some((written, end)) = written.zip(job.end)
            && let Err(Failed(why)) = written.end(end as u64)
        {
            eprintln!("that job {} is over is not written: {why}", job.id);
        }
    }

    /// Another number of jobs runs than was said.
    fn is_news(&self) -> bool {
        self.said != Some(self.running) && self.has_looked()
    }

    /// There is a span to speak of.
    fn has_looked(&self) -> bool {
        self.meter.seconds() > 0
    }

    fn say(&mut self, port: &Port) -> std::io::Result<()> {
        self.said = Some(self.running);
        let usage = self.meter.take(self.running, self.queue.pending);
        port.say_usage(event::usage(&usage))
    }
}

fn write(written: &mut Option<Written>, uid: u32, about: impl FnOnce() -> About, point: Point) -> Outcome {
    let written = match written {
        Some(written) => written,
        None => written.insert(Written::open(Path::new(series::PLACE), uid, about())?),
    };
    written.add(point)
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
    let said = run(&within(PATIENCE, &[gpus::NVIDIA_SMI, query, "--format=csv,noheader,nounits"]))?;
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
