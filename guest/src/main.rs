//! Make this machine the slice that it was told to be, and tell the host how that went.
//!
//! ```text
//! /dev/vdb (the seed) ─→ /etc/holm/slice.json ─→ disks, accounts, SSH, Slurm ─→ "ready"
//! ```
//!
//! Everything is made anew at each boot from what the seed says and from what hardware is really there, so a boot with another
//! seed, or a boot after one that was cut off, ends the same. The host hears of it over a virtio-serial port, in JSON, a line
//! an event:
//!
//! ```text
//! {"event":"boot"}
//! {"event":"ready","ssh_host_key":"ssh-ed25519 AAAA…","gpus":2,"slurm":"24.11.5"}
//! {"event":"failed","reason":"found 1 of 2 GPUs"}
//! {"event":"disks","disks":[{"name":"root","bytes":…,"free":…,"files":…,"files_free":…},…]}
//! {"event":"claim","boot":"9f86…","seq":7,"time":1796000000,"what":{"login":{"user":"ida","service":"sshd"}}}
//! {"event":"alive"}
//! {"event":"people","of":"9f86d081884c7d65"}
//! {"event":"scheduler","of":"0123456789abcdef"}
//! {"event":"usage","usage":{"time":1796000000,"seconds":60,"gpu_seconds":120,"gpu_busy_seconds":90,"cpu_seconds":300,
//!   "memory_mib":9000,"running":2,"pending":5}}
//! ```
//!
//! Disks are said when it is ready, and then when one of them has become fuller or emptier by a per cent. The host may come
//! late or come back: whenever it says "status", the last event of each kind is said again. What people do here is claimed
//! for the log: numbered, and said again until the host answers "ack BOOT SEQ". When it says "grow", disks are larger, and
//! their file systems become so. When it says "people {…}", those are the people here from now on, and when nothing runs of
//! anybody else any more, that is said. When it says "scheduler {…}", Slurm has these classes of jobs from now on, and starts
//! jobs or does not; when Slurm has taken it, that is said. What jobs use is said once a minute, and of that nothing again but
//! the last. When it says "stop", running jobs are told to end, and the machine
//! writes down what it holds and switches itself off. The host may cut it off at any time all the same, and the next boot has to cope with what is left.

mod accounts;
mod claims;
mod command;
mod disks;
mod ending;
mod event;
mod evict;
mod ext4;
mod failed;
mod files;
mod fullness;
mod gpus;
mod here;
mod idle;
mod jobs;
mod jobstat;
mod members;
mod meter;
mod notices;
mod port;
mod readers;
mod recordings;
mod scheduler;
mod seed;
mod series;
mod slurm;
mod ssh;
mod usage;
mod watch;
mod words;

use disks::Mounted;
use failed::{Failed, Of as _, Outcome};
use members::People;
use port::Port;
use scheduler::Settings;
use serde_json::Value;
use std::{
    env, fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};
use words::Order;

const IDLE_MINUTES: u64 = 30;
/// Where what is of this run of the machine lies.
const RUN: &str = "/run/holm";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if env::args().next().is_some_and(|name| jobstat::NAMES.iter().any(|own| called(&name, own))) {
        return ended("jobstat", jobstat::main(&words));
    }
    let ran = match words.as_slice() {
        [] => live(),
        // For tests: the line to the host alone, on standard input, with `/run/holm` elsewhere and one member, who runs this.
        ["--line", run, member] => line(PathBuf::from(run), member),
        _ => Err(Failed::because("it takes no arguments")),
    };
    ended("holm-guest", ran)
}

fn called(path: &str, name: &str) -> bool {
    Path::new(path).file_name().is_some_and(|own| own == name)
}

fn ended(name: &str, ran: Outcome) -> ExitCode {
    let Err(Failed(why)) = ran else { return ExitCode::SUCCESS };
    eprintln!("{name}: {why}");
    ExitCode::FAILURE
}

/// What this machine does as long as it runs.
fn live() -> Outcome {
    fs::create_dir_all(RUN).of(RUN)?;
    let run = Path::new(RUN);
    let port = port::of_this_machine()?.map(|line| Port::new(line, run)).transpose()?.map(Arc::new);
    let (orders, to_do) = mpsc::channel();
    if let Some(port) = port.clone() {
        port.say_state(event::boot()).of("the port")?;
        let stopping = AtomicBool::new(false);
        thread::spawn(move || {
            // Deaf it would still say that it is alive. It is started again.
            let _ends = Ends;
            if let Err(error) = port.answer(|order| obey(order, &orders, &stopping)) {
                eprintln!("holm-guest: the port: {error}");
            }
        });
    }
    let mut slice = Slice::default();
    let event = match prepare(port.as_deref(), run, &mut slice) {
        Ok(event) => event,
        Err(Failed(reason)) => event::failed(&reason),
    };
    println!("{event}");
    if let Some(port) = &port {
        port.say_state(event).of("the port")?;
    }
    if slice.serves {
        slice.mounted.insert(0, disks::root());
        slice.mounted.iter().for_each(disks::grow);
        rustix::fs::sync();
    }
    if let Some(port) = port.clone().filter(|_| slice.recorded) {
        thread::spawn(move || recordings::for_ever(&port));
    }
    let (drains, draining) = mpsc::channel();
    if slice.serves {
        let (port, idle) = (port.clone(), slice.idle);
        thread::spawn(move || usage::for_ever(port.as_deref(), Path::new(RUN), idle, &draining));
    }
    watch::for_ever(port.as_deref(), run, slice, &to_do, &drains)
}

/// Stopping waits for nothing else, also not for a boot that hangs; and nothing waits for it: what happens meanwhile is said.
fn obey(order: Order, orders: &Sender<Order>, stopping: &AtomicBool) {
    if order == Order::Stop {
        if !stopping.swap(true, Ordering::Relaxed) {
            thread::spawn(ending::stop);
        }
    } else {
        // Whoever takes them ends with this process.
        let _ = orders.send(order);
    }
}

/// Ends this process with itself.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        process::exit(1);
    }
}

/// What has become of this machine, as far as it has come.
#[derive(Debug, Default)]
struct Slice {
    mounted: Vec<Mounted>,
    project: String,
    /// Whose accounts were made.
    people: Option<People>,
    gpus: usize,
    /// After so long a job that has GPUs and uses none is idle.
    idle: Duration,
    /// What Slurm was told to do.
    settings: Option<Settings>,
    /// What terminals show is kept.
    recorded: bool,
    /// Slurm runs.
    serves: bool,
}

fn prepare(port: Option<&Port>, run: &Path, slice: &mut Slice) -> Outcome<Value> {
    let told = seed::read()?;
    let seeded = || People::new(told.people.clone(), told.users.clone(), told.readers.clone());
    let people = People::told_since(run)?.unwrap_or_else(seeded);
    if let Some(port) = port {
        port.know(&people.users);
    }
    slice.mounted = disks::prepare(&told.disks)?;
    disks::shared()?;
    disks::library();
    if let Some(port) = port {
        let names = slice.mounted.iter().map(|mounted| mounted.name.as_str());
        port.claim_mounts(["root"].into_iter().chain(names)).of("the port")?;
    }
    // Before the readers' tree, which has it as it is here: who only reads is recorded as well.
    recordings::prepare(told.recorded())?;
    accounts::make(&people.users, accounts::Gone::Removed)?;
    slice.project.clone_from(&told.project);
    let users = people.users.clone();
    slice.people = Some(people);
    // Containers are mounted by those who run them. There is no udev here that would say so.
    let fuse = "/dev/fuse";
    rustix::fs::chmod(fuse, rustix::fs::Mode::from_raw_mode(0o666)).of(fuse)?;
    readers::tree()?;
    let key = ssh::open(&told)?;
    slice.recorded = told.recorded();
    let settings = Settings::told_since(run, told.scheduler.as_ref());
    scheduler::notice(run, settings.drain, false)?;
    // Before any job starts.
    jobs::prepare(run)?;
    let serves = slurm::serve(&told, &users, &settings)?;
    slice.idle = Duration::from_secs(60 * told.idle_minutes.unwrap_or(IDLE_MINUTES));
    (slice.gpus, slice.settings) = (told.gpus, Some(settings));
    slice.serves = true;
    Ok(event::ready(&key, &serves))
}

fn line(run: PathBuf, member: &str) -> Outcome {
    let line = std::io::stdin().as_fd().try_clone_to_owned().of("standard input")?;
    let port = Port::new(line, &run)?;
    let uid = rustix::process::getuid().as_raw();
    port.know(&[seed::User { name: member.to_owned(), uid, read_only: false }]);
    port.say_state(event::boot()).of("the port")?;
    port.answer(drop).of("the port")
}
