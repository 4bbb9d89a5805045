//! Ends what runs here of who is nobody here: processes, and jobs of Slurm.

use crate::{
    accounts::person,
    command::run,
    failed::{Of as _, Outcome},
    files,
    readers::TREE,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Who may have something that runs here.
#[derive(Debug)]
pub struct Here {
    pub people: BTreeSet<u32>,
    /// Those of them who only read: nothing of theirs runs but in their tree.
    pub readers: BTreeSet<u32>,
    /// Those whose processes are from before they became what they are, wherever they run.
    pub changed: BTreeSet<u32>,
}

impl Here {
    /// The id of somebody who is none of these.
    fn is_gone(&self, uid: u32) -> bool {
        person(uid).is_some_and(|who| !self.people.contains(&who))
    }

    /// Of one who only reads.
    fn reads(&self, uid: u32) -> bool {
        person(uid).is_some_and(|who| self.readers.contains(&who))
    }

    /// Of one who has become something else.
    fn has_changed(&self, uid: u32) -> bool {
        person(uid).is_some_and(|who| self.changed.contains(&who))
    }
}

/// Programs that are under way, and are not waited for.
#[derive(Debug, Default)]
pub struct Evictions {
    helpers: Vec<Child>,
}

impl Evictions {
    /// Ends what there is of people who are none of these, or where they may do more than they should; true where nothing was
    /// found. `slurm`: there is one to be asked.
    pub fn pass(&mut self, here: &Here, slurm: bool) -> Outcome<bool> {
        self.helpers.retain_mut(|helper| matches!(helper.try_wait(), Ok(None)));
        let found = processes(Path::new("/proc"), here)?;
        let who: BTreeSet<u32> = found.iter().map(|(_, uid)| *uid).collect();
        for uid in who {
            self.end_at_once(uid);
        }
        for (pid, _) in &found {
            // What has ended meanwhile is gone.
            let _ = kill_process(*pid, Signal::KILL);
        }
        // After their processes: where there was none, none has handed in a job since it was looked.
        let jobs = if slurm {
            jobs(&run(&["squeue", "--noheader", "--format=%A %U %T"])?, here)
        } else {
            Vec::new()
        };
        if !jobs.is_empty() {
            let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
            run(&[&["scancel"], jobs.as_slice()].concat())?;
        }
        Ok(jobs.is_empty() && found.is_empty())
    }

    /// Ends what there is under these ids, found or not: what forks without end may be nowhere when it is looked for.
    pub fn end_all(&mut self, uids: &BTreeSet<u32>) {
        uids.iter().for_each(|uid| self.end_at_once(*uid));
    }

    /// Ends all processes of somebody in one step of the kernel's, which what forks without end does not outrun. Whoever does
    /// that is one of them, and may be stopped by another: it is not waited for, and ends with the rest.
    fn end_at_once(&mut self, uid: u32) {
        let mut kill = Command::new("kill");
        kill.args(["-KILL", "--", "-1"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match kill.uid(uid).gid(uid).current_dir("/").spawn() {
            Ok(helper) => self.helpers.push(helper),
            Err(error) => eprintln!("no program ends the processes of {uid}: {error}"),
        }
    }
}

/// Processes of strangers, and of readers that run elsewhere than in their tree, that have not ended; and whose each is.
fn processes(proc: &Path, here: &Here) -> Outcome<Vec<(Pid, u32)>> {
    let mut found = Vec::new();
    for name in files::names(proc).of(proc.display())? {
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { continue };
        let path = proc.join(&name).join("status");
        match fs::read_to_string(&path) {
            Ok(status) => {
                let in_tree = || in_tree(&proc.join(&name));
                found.extend(stranger(&status, here, in_tree).map(|uid| (pid, uid)));
            }
            // It has ended meanwhile, and says so in one of two ways.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) => {}
            Err(error) => return Err(error).of(path.display()),
        }
    }
    Ok(found)
}

/// Whether a process is in the readers' tree: there, and not in a user namespace in which anything may be made to look so. What has
/// ended is not.
fn in_tree(process: &Path) -> bool {
    let link = |name: &str| fs::read_link(process.join(name));
    let own = || fs::read_link("/proc/self/ns/user");
    link("root").is_ok_and(|root| root == Path::new(TREE))
        && link("ns/user").is_ok_and(|namespace| own().is_ok_and(|own| own == namespace))
}

const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// Whose a process is that may not be, of what the kernel says of it: by any of its user ids; of a reader by its own.
fn stranger(status: &str, here: &Here, in_tree: impl Fn() -> bool) -> Option<u32> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // One that has ended, and that nobody has asked after yet, does nothing more; but others of its threads may.
    let alone = field("Threads:").is_none_or(|threads| matches!(threads.trim(), "0" | "1"));
    if alone && field("State:")?.trim_start().starts_with(['Z', 'X']) {
        return None;
    }
    let ids: Vec<u32> = field("Uid:")?.split_whitespace().filter_map(|uid| uid.parse().ok()).collect();
    let gone = ids.iter().copied().find(|uid| here.is_gone(*uid));
    // What is root's and is her for a moment, as sshd is while she comes in, is not hers.
    let own = ids.first().copied();
    gone.or_else(|| own.filter(|uid| here.has_changed(*uid) || here.reads(*uid) && !in_tree()))
}

/// Jobs of strangers, and of readers, in Slurm's queue, but for those that have only to be cleared away.
fn jobs(queue: &str, here: &Here) -> Vec<String> {
    let theirs = |line: &str| {
        let mut words = line.split_whitespace();
        let (job, uid, state) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let ends = (here.is_gone(uid) || here.reads(uid)) && state != "COMPLETING";
        ends.then(|| job.to_owned())
    };
    queue.lines().filter_map(theirs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn strangers_are_found_by_any_of_their_ids_and_nobody_else_is() {
        let place = tempfile::tempdir().unwrap();
        let here = Here {
            people: BTreeSet::from([10_001, 10_003, 10_004]),
            readers: BTreeSet::from([10_003]),
            changed: BTreeSet::from([10_004]),
        };
        for (pid, state, uids, root) in [
            ("1", "S (sleeping)", "0\t0\t0\t0", "/"),
            ("20", "S (sleeping)", "10001\t10001\t10001\t10001", "/"),
            ("21", "T (stopped)", "10002\t10002\t10002\t10002", "/"),
            ("22", "R (running)", "10002\t0\t0\t0", "/"),
            ("23", "R (running)", "10001\t10001\t10002\t10001", "/"),
            ("24", "Z (zombie)", "10002\t10002\t10002\t10002", "/"),
            ("25", "S (sleeping)", "64030\t64030\t64030\t64030", "/"),
            ("26", "S (sleeping)", "999\t999\t999\t999", "/"),
            // Of the ids that are 10002's to be, and of 10001's.
            ("28", "S (sleeping)", "590955073\t590955073\t590955073\t590955073", "/"),
            ("29", "S (sleeping)", "590889537\t590889537\t590889537\t590889537", "/"),
            // 10003 only reads.
            ("30", "S (sleeping)", "10003\t10003\t10003\t10003", "/"),
            ("31", "S (sleeping)", "10003\t0\t0\t0", "/"),
            ("32", "S (sleeping)", "0\t10003\t0\t10003", "/"),
            ("33", "S (sleeping)", "10003\t10003\t10003\t10003", TREE),
            ("34", "Z (zombie)", "10003\t10003\t10003\t10003", "/"),
            ("35", "S (sleeping)", "10002\t10002\t10002\t10002", TREE),
            // 10004 has become what she is.
            ("36", "S (sleeping)", "10004\t10004\t10004\t10004", TREE),
            // One of whose threads the first has ended; and one who made it look as if it were in the tree.
            ("37", "Z (zombie)\nThreads:\t2", "10002\t10002\t10002\t10002", "/"),
            ("38", "S (in a namespace)", "10003\t10003\t10003\t10003", TREE),
            // 10002's door, and 10001's.
            ("39", "S (sleeping)", "110002\t110002\t110002\t110002", "/"),
            ("40", "S (sleeping)", "110001\t110001\t110001\t110001", "/"),
            ("self", "R (running)", "10002\t10002\t10002\t10002", "/"),
        ] {
            fs::create_dir(place.path().join(pid)).unwrap();
            let status = format!(
                "Name:\tx\nUmask:\t0022\nState:\t{state}\nPid:\t{pid}\nUid:\t{uids}\nGid:\t0\t0\t0\t0\n"
            );
            fs::write(place.path().join(pid).join("status"), status).unwrap();
            symlink(root, place.path().join(pid).join("root")).unwrap();
            fs::create_dir(place.path().join(pid).join("ns")).unwrap();
            let namespace = match state.contains("namespace") {
                true => Path::new("user:[1]").to_owned(),
                false => fs::read_link("/proc/self/ns/user").unwrap(),
            };
            symlink(namespace, place.path().join(pid).join("ns/user")).unwrap();
        }
        // One that has just ended.
        fs::create_dir(place.path().join("27")).unwrap();
        let found = processes(place.path(), &here).unwrap();
        let found: Vec<(i32, u32)> = found.iter().map(|(pid, uid)| (pid.as_raw_pid(), *uid)).collect();
        assert_eq!(
            found,
            [
                (21, 10_002),
                (22, 10_002),
                (23, 10_002),
                (28, 590_955_073),
                (30, 10_003),
                (31, 10_003),
                (35, 10_002),
                (36, 10_004),
                (37, 10_002),
                (38, 10_003),
                (39, 110_002),
            ]
        );
        assert!(processes(Path::new("/nonexistent"), &here).unwrap().is_empty());
    }

    #[test]
    fn jobs_of_strangers_are_found() {
        let here = Here {
            people: BTreeSet::from([10_001, 10_003]),
            readers: BTreeSet::from([10_003]),
            changed: BTreeSet::new(),
        };
        let queue = "7 10001 RUNNING\n8 10002 PENDING\n9 10002 COMPLETING\n10 10002 RUNNING\n11 0 RUNNING\n12 10003 PENDING\nnonsense\n";
        assert_eq!(jobs(queue, &here), ["8", "10", "12"]);
        assert!(jobs("", &here).is_empty());
    }
}
