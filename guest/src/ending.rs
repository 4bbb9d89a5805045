//! The end of a run of the machine. Jobs are told, and have a while to write down what they have: the host waits twice as long.
//! Without jobs nobody waits, and of Slurm, which may hang, nothing is waited for for long.

use crate::{
    command::{run, within},
    failed::Failed,
    jobs, notices, slurm,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// For jobs to end, from the order on.
const GRACE: Duration = Duration::from_secs(15);
/// So many seconds each of Slurm's programs has.
const PATIENCE: &str = "3";
/// How often it is looked whether jobs have ended.
const LOOK: Duration = Duration::from_millis(50);

/// Ends it.
pub fn stop() {
    let end = Instant::now() + GRACE;
    rustix::fs::sync();
    let groups = Path::new(jobs::GROUPS);
    if jobs::any(groups) {
        notices::tell_all("This machine is being switched off. Jobs that run have 15 seconds to end.\n");
        end_jobs(groups, end);
        rustix::fs::sync();
    } else {
        notices::tell_all("This machine is being switched off.\n");
    }
    if let Err(Failed(why)) = run(&["systemctl", "poweroff"]) {
        eprintln!("it does not stop: {why}");
    }
}

fn end_jobs(groups: &Path, end: Instant) {
    // In the place of those that end no others begin.
    if let Err(Failed(why)) = slurm::partition("DOWN", PATIENCE) {
        eprintln!("stopping: {why}");
    }
    // Batch scripts and what they have begun.
    let told = run(&within(PATIENCE, &["scancel", "--state=RUNNING", "--full", "--signal=TERM"]));
    let hangs = told.is_err();
    if let Err(Failed(why)) = told {
        eprintln!("stopping: {why}");
        for pid in jobs::processes(groups).into_iter().filter_map(Pid::from_raw) {
            // What has ended meanwhile is gone.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    // Where Slurm hangs nothing of a job is cleared away: that it has ended is that it has no process.
    let left = || if hangs { !jobs::processes(groups).is_empty() } else { jobs::any(groups) };
    while left() && Instant::now() < end {
        let _ = rustix::event::poll(&mut [], rustix::event::Timespec::try_from(LOOK).ok().as_ref());
    }
}
