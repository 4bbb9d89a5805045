//! Slurm, the queue of this machine: its files, its services, and what it says that it has.

mod accounting;
mod configuration;

use self::configuration::{ADDRESS, Configuration, Facts};
use crate::{
    accounts,
    command::{PATIENCE, run, start, within},
    disks,
    failed::{Failed, Of as _, Outcome, one_line},
    files, gpus,
    scheduler::Settings,
    seed::{Told, User},
};
use rustix::mount::mount_bind;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_secs(300);
/// The same once it serves: what does not work is tried again later.
const LIMIT_LIVE: Duration = Duration::from_secs(5);
/// How soon what does not serve yet is looked at again.
const AGAIN: Duration = Duration::from_millis(100);

/// What Slurm says that it has.
#[derive(Debug, PartialEq, Eq)]
pub struct Serves {
    pub gpus: u32,
    pub version: String,
}

/// Starts it with what was told and is really there.
///
/// ```text
/// munge, mariadb ─→ slurmdbd ─→ cluster, account, people ─→ slurmctld, slurmd ─→ classes of jobs ─→ a node that serves
/// ```
///
/// Slurm takes jobs of those whom its accounting knows, and a limit on GPUs once it has told its accounting that it has any.
pub fn serve(told: &Told, users: &[User], settings: &Settings) -> Outcome<Serves> {
    let gpus = gpus::found(&told.gpu_pci_ids)?;
    if gpus.len() != told.gpus {
        return Err(Failed(format!("found {} of {} GPUs", gpus.len(), told.gpus)));
    }
    let files = gpus::device_files(&gpus)?;
    let cpus = rustix::thread::sched_getaffinity(None).of("processors")?.count() as usize;
    let facts =
        Facts { cpus, memory: memory(&files::read("/proc/meminfo")?), gpus: &files, drain: settings.drain };
    prepare(&configuration::of(&facts))?;
    run(&["ip", "address", "replace", &format!("{ADDRESS}/32"), "dev", "dummy0"])?;
    run(&["ip", "link", "set", "dummy0", "up"])?;
    start(&["munge", "mariadb", "slurmdbd"])?;
    let mut gone = None;
    if !settings.of.is_empty() {
        accounting::tell(&accounting::new(&settings.classes), LIMIT)?;
        gone = accounting::gone(&accounting::there()?, &settings.classes);
    }
    let account = account(&told.project, settings, gone.as_deref());
    accounting::tell(&(account + &accounting::people(&told.project, users)), LIMIT)?;
    start(&["slurmctld", "slurmd"])?;
    let serves = wait()?;
    accounting::tell(&accounting::limits(&settings.classes, told.gpus), LIMIT)?;
    if let Some(gone) = gone {
        accounting::tell(&accounting::removal(&gone), LIMIT_LIVE)?;
    }
    Ok(serves)
}

/// What the project's jobs may be of from now on, and no other.
fn account(project: &str, settings: &Settings, gone: Option<&str>) -> String {
    let freed = gone.map(|gone| accounting::undefault(project, gone)).unwrap_or_default();
    freed + &accounting::account(project, &settings.classes)
}

/// From now on these may run jobs. Of who has gone its accounting keeps what she used.
pub fn know(project: &str, users: &[User]) -> Outcome {
    accounting::tell(&accounting::people(project, users), LIMIT_LIVE)
}

/// From now on jobs are of these classes and start or do not. What a class may have is said before anybody may use it.
pub fn schedule(project: &str, settings: &Settings, gpus: usize) -> Outcome {
    let classes = &settings.classes;
    let conf = "/etc/slurm/slurm.conf";
    let state = configuration::state(settings.drain);
    files::write(conf, configuration::with_state(&files::read(conf)?, state), 0o644, files::ROOT).of(conf)?;
    // First of all, so that nothing starts meanwhile.
    partition(state, PATIENCE)?;
    let gone = accounting::gone(&accounting::there()?, classes);
    let words = accounting::new(classes)
        + &accounting::limits(classes, gpus)
        + &account(project, settings, gone.as_deref())
        + &gone.as_deref().map(accounting::removal).unwrap_or_default();
    accounting::tell(&words, LIMIT_LIVE)
}

/// Whether jobs start: `UP` or `DOWN`. Its own tool has so many seconds.
pub fn partition(state: &str, seconds: &str) -> Outcome {
    let state = format!("State={state}");
    run(&within(seconds, &["scontrol", "update", "PartitionName=batch", &state])).map(drop)
}

/// All of it, MiB.
fn memory(meminfo: &str) -> usize {
    meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).unwrap_or_default() / 1024
}

/// What has to lie there before its services start.
fn prepare(Configuration { slurm, gres, cgroup, slurmdbd }: &Configuration) -> Outcome {
    let its_user = accounts::system("slurm")?;
    for (name, text, mode, owner) in [
        ("slurm", slurm, 0o644, files::ROOT),
        ("gres", gres, 0o644, files::ROOT),
        ("cgroup", cgroup, 0o644, files::ROOT),
        // It refuses one that others can read.
        ("slurmdbd", slurmdbd, 0o600, its_user),
    ] {
        let path = format!("/etc/slurm/{name}.conf");
        files::write(&path, text, mode, owner).of(&path)?;
    }
    on_the_projects_disk()?;
    let key = "/etc/munge/munge.key";
    if !Path::new(key).exists() {
        let mut random = [0; 128];
        File::open("/dev/urandom")
            .and_then(|mut source| source.read_exact(&mut random))
            .of("/dev/urandom")?;
        files::write(key, random, 0o400, accounts::system("munge")?).of(key)?;
    }
    for path in ["/var/lib/slurm/slurmctld", "/var/log/slurm"] {
        files::directory(path, 0o750, its_user).of(path)?;
    }
    fs::create_dir_all("/var/spool/slurmd").of("/var/spool/slurmd")?;
    let (empty, tables) = ("/usr/lib/holm/mysql", "/var/lib/slurm/mysql");
    if !Path::new(tables).exists() {
        let making = format!("{tables}.new");
        // What a cut left of it.
        run(&["rm", "-rf", &making])?;
        run(&["cp", "-a", empty, &making])?;
        rustix::fs::sync();
        fs::rename(&making, tables).of(tables)?;
    }
    // Slurm does not sync this one, and would not start with what a machine that was cut off leaves of it.
    let name = "/var/lib/slurm/slurmctld/clustername";
    if fs::metadata(name).is_ok_and(|file| file.len() == 0) {
        files::remove(name).of(name)?;
    }
    Ok(())
}

/// Jobs and their accounting are the project's: they lie on its disk where it has one, and outlive the root disk.
fn on_the_projects_disk() -> Outcome {
    let (of_project, here) = (format!("{}/slurm", disks::DATA), "/var/lib/slurm");
    if files::is_mounted(disks::DATA) && !files::is_mounted(here) {
        fs::create_dir_all(&of_project).of(&of_project)?;
        mount_bind(of_project.as_str(), here).of(here)?;
    }
    Ok(())
}

/// Until it serves. Its services have said that they are up by now, and the node is there soon after.
fn wait() -> Outcome<Serves> {
    let end = Instant::now() + LIMIT;
    loop {
        let said = run(&["scontrol", "show", "node", "slice", "--oneliner"]);
        let node = node(said.as_deref().unwrap_or_default());
        match node {
            Node::Serves(serves) => return Ok(serves),
            Node::Comes if Instant::now() < end => {}
            Node::Comes | Node::Broken => {
                let said = said.unwrap_or_else(|Failed(why)| why);
                let said = said.split_once("Reason=").map_or(said.as_str(), |(_, reason)| reason);
                let said: String = one_line(said).chars().take(400).collect();
                return Err(Failed(format!("Slurm does not run: {said}")));
            }
        }
        // Slurm has nobody told that the state of a node has changed.
        pause();
    }
}

fn pause() {
    let _ = rustix::event::poll(&mut [], rustix::event::Timespec::try_from(AGAIN).ok().as_ref());
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Serves(Serves),
    Comes,
    Broken,
}

/// What a line of `scontrol show node` says.
fn node(line: &str) -> Node {
    let fields: BTreeMap<&str, &str> =
        line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    match field("State") {
        "IDLE" | "MIXED" | "ALLOCATED" => {
            Node::Serves(Serves { gpus: counted(field("Gres")), version: field("Version").to_owned() })
        }
        state if ["DRAIN", "INVAL"].iter().any(|bad| state.contains(bad)) => Node::Broken,
        _ => Node::Comes,
    }
}

/// Of `gpu:2(S:0)` or `gpu:v100:2`, how many.
fn counted(gres: &str) -> u32 {
    let gpus = gres.split(',').find_map(|kind| kind.strip_prefix("gpu:"));
    let count = gpus.and_then(|gpus| gpus.split('(').next()?.rsplit(':').next()?.parse().ok());
    count.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "NodeName=slice Arch=x86_64 CoresPerSocket=1 CPUAlloc=0 CPUTot=2 AvailableFeatures=(null) Gres=gpu:2 \
        NodeAddr=192.0.2.1 Version=24.11.5 OS=Linux 6.12 #1 SMP RealMemory=1700 State=IDLE ThreadsPerCore=1";

    #[test]
    fn a_node_serves_comes_or_is_broken() {
        let serves = Node::Serves(Serves { gpus: 2, version: "24.11.5".to_owned() });
        assert_eq!(node(LINE), serves);
        assert_eq!(node(&LINE.replace("IDLE", "ALLOCATED")), serves);
        for state in ["UNKNOWN", "IDLE+DYNAMIC_NORM", "DOWN", "FUTURE"] {
            assert_eq!(node(&LINE.replace("IDLE", state)), Node::Comes, "{state}");
        }
        for state in ["IDLE+DRAIN", "INVAL", "DRAINED"] {
            assert_eq!(node(&LINE.replace("IDLE", state)), Node::Broken, "{state}");
        }
        assert_eq!(node(""), Node::Comes);
    }

    #[test]
    fn gpus_are_counted_in_every_spelling() {
        for (gres, gpus) in [
            ("gpu:2", 2),
            ("gpu:v100:16", 16),
            ("gpu:2(S:0-1)", 2),
            ("gpu:v100:2(S:0)", 2),
            ("(null)", 0),
            ("", 0),
            ("mps:4,gpu:1", 1),
        ] {
            assert_eq!(counted(gres), gpus, "{gres}");
        }
    }

    #[test]
    fn memory_is_counted_in_mib() {
        assert_eq!(memory("MemTotal:        2014108 kB\nMemFree: 1 kB\n"), 1966);
    }
}
