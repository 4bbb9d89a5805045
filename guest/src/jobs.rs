//! Jobs as this machine has them. That one starts and ends its prolog and epilog write down (`deploy/guest-image`), at that
//! moment and with the GPUs that it has; what it takes the kernel counts. Slurm is not asked for any of it.

use crate::{
    failed::{Of as _, Outcome},
    files,
};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Where Slurm has a group of each job, named `job_7`: `CgroupPlugin=cgroup/v2` and `IgnoreSystemd=yes`.
pub const GROUPS: &str = "/sys/fs/cgroup/system.slice/slice_slurmstepd.scope";

/// One that runs or has ended since it was looked last.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: u64,
    pub uid: u32,
    pub cpus: u32,
    /// As `nvidia-smi` numbers them.
    pub gpus: Vec<u32>,
    /// Seconds since 1970.
    pub start: f64,
    pub end: Option<f64>,
    path: PathBuf,
}

/// Makes the directory where they are written down.
pub fn prepare(run: &Path) -> Outcome<PathBuf> {
    let path = run.join("jobs");
    files::directory(&path, 0o700, files::ROOT).of(path.display())?;
    Ok(path)
}

/// Those that are written down there.
pub fn read(place: &Path) -> Vec<Job> {
    let names = files::names(place).unwrap_or_default();
    names.iter().filter_map(|name| job(place.join(name), name)).collect()
}

/// `7`, or `7.over.4711` of one that has ended: it was changed when it started, and renamed when it ended.
fn job(path: PathBuf, name: &str) -> Option<Job> {
    let (id, over) = name.split_once('.').map_or((name, false), |(id, _)| (id, true));
    let (about, text) = (fs::metadata(&path).ok()?, fs::read_to_string(&path).ok()?);
    let mut words = text.split_whitespace();
    let (uid, cpus) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let gpus = words.next().map_or(Ok(Vec::new()), |gpus| gpus.split(',').map(str::parse).collect()).ok()?;
    let at = |seconds: i64, nanoseconds: i64| seconds as f64 + nanoseconds as f64 / 1e9;
    let end = over.then(|| at(about.ctime(), about.ctime_nsec()));
    let start = at(about.mtime(), about.mtime_nsec());
    Some(Job { id: id.parse().ok()?, uid, cpus, gpus, start, end, path })
}

impl Job {
    /// It is done with.
    pub fn forget(&self) {
        let _ = files::remove(&self.path);
    }
}

/// Now, in seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The group of a job.
pub fn group(groups: &Path, id: u64) -> PathBuf {
    groups.join(format!("job_{id}"))
}

/// Whether any runs.
pub fn any(groups: &Path) -> bool {
    files::names(groups).unwrap_or_default().iter().any(|name| name.starts_with("job_"))
}

/// The processes of all, but for Slurm's own: those of `job_7/step_batch/user` and below.
pub fn processes(groups: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for job in below(groups)
        .into_iter()
        .filter(|job| job.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"job_")))
    {
        for step in below(&job) {
            let user = step.join("user");
            for group in below(&user).iter().chain([&user]) {
                let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                found.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()));
            }
        }
    }
    found
}

fn below(group: &Path) -> Vec<PathBuf> {
    let names = files::names(group).unwrap_or_default();
    names.into_iter().map(|name| group.join(name)).filter(|path| path.is_dir()).collect()
}

/// Seconds of processors that a group has had, with what has ended in it.
pub fn cpu_seconds(group: &Path) -> Option<f64> {
    let stat = fs::read_to_string(group.join("cpu.stat")).ok()?;
    Some(field(&stat, "usage_usec")? as f64 / 1e6)
}

/// Bytes that a group holds, without copies of files that the kernel drops when it wants the room.
pub fn memory(group: &Path) -> Option<u64> {
    let all: u64 = fs::read_to_string(group.join("memory.current")).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(group.join("memory.stat")).ok()?;
    let files = field(&stat, "inactive_file")? + field(&stat, "active_file")?;
    Some(all.saturating_sub(files))
}

/// The most that it may hold; `None` where that is all there is.
pub fn memory_limit(group: &Path) -> Option<u64> {
    fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
}

fn field(stat: &str, name: &str) -> Option<u64> {
    let of = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    stat.lines().find_map(of)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn job(id: u64, gpus: &[u32], start: f64, end: Option<f64>) -> Job {
        Job { id, uid: 10_001, cpus: 4, gpus: gpus.to_vec(), start, end, path: PathBuf::new() }
    }

    #[test]
    fn what_starts_and_ends_is_read() {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("7", "10001 4 0,3\n"),
            ("8", "10002 1 \n"),
            ("9.over.12", "10001 2 1\n"),
            ("10", "10001\n"),
            ("x", "10001 4 0\n"),
            ("11", "10001 4 a\n"),
        ] {
            fs::write(place.path().join(name), text).unwrap();
        }
        let jobs = read(place.path());
        let short: Vec<_> =
            jobs.iter().map(|job| (job.id, job.uid, job.cpus, job.gpus.clone(), job.end.is_some())).collect();
        assert_eq!(
            short,
            [(7, 10_001, 4, vec![0, 3], false), (8, 10_002, 1, vec![], false), (9, 10_001, 2, vec![1], true)]
        );
        jobs.iter().for_each(Job::forget);
        assert_eq!(read(place.path()), []);
        assert!((jobs[0].start - now()).abs() < 60.0);
    }

    #[test]
    fn what_the_kernel_counts_is_read() {
        let place = tempfile::tempdir().unwrap();
        assert!(!any(place.path()));
        let at = group(place.path(), 7);
        for (under, processes) in [("slurm", "5"), ("user/task_0", "7\n8")] {
            fs::create_dir_all(at.join("step_batch").join(under)).unwrap();
            fs::write(at.join("step_batch").join(under).join("cgroup.procs"), processes).unwrap();
        }
        assert!(any(place.path()));
        assert_eq!(processes(place.path()), [7, 8]);
        for (name, text) in [
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "4096\n"),
            ("memory.stat", "anon 5\nfile 300\ninactive_file 200\nactive_file 100\n"),
        ] {
            fs::write(at.join(name), text).unwrap();
        }
        assert_eq!((cpu_seconds(&at), memory(&at), memory_limit(&at)), (Some(1.5), Some(700), Some(4096)));
        fs::write(at.join("memory.max"), "max\n").unwrap();
        assert_eq!(memory_limit(&at), None);
        assert_eq!(cpu_seconds(&group(place.path(), 8)), None);
    }
}
