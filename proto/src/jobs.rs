//! Jobs of a slice: the classes that they are of, and what a guest claims of them. What holmd, agents and people go by alike.

use crate::guest::is_told;
use crate::v1::{GuestScheduler, JobClass, JobsUse};

/// Slurm's own bound is larger; nobody needs it.
pub const PRIORITY_MAX: u32 = 100_000;
/// A year, minutes.
pub const WALL_MINUTES_MAX: u32 = 525_600;
/// Classes of one slice.
pub const CLASSES_MAX: usize = 16;
/// Characters of a name.
const NAME_MAX: usize = 31;
/// Of one slice.
const GPUS_MAX: u32 = 64;
/// No machine has so many processors.
const CPUS_MAX: u64 = 8192;
/// MiB.
const MEMORY_MAX: u64 = 1 << 30;
const JOBS_MAX: u32 = 1_000_000;
/// A span that a guest speaks of, seconds.
const SPAN_MAX: u32 = 3600;
/// The end of the year 9999.
const TIME_MAX: u64 = 253_402_300_799;

/// As a class may be called.
pub fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    first && rest && name.len() <= NAME_MAX
}

/// What is wrong with a class.
pub fn fault(class: &JobClass) -> Option<String> {
    let JobClass { name, priority, gpus, wall_minutes } = class;
    if !is_name(name) {
        return Some(format!(
            "a class is called by lower-case letters, digits and dashes, {NAME_MAX} at most: `{}` is not",
            name.escape_debug().take(60).collect::<String>()
        ));
    }
    let bounds = [
        ("priority", u64::from(*priority), 0, PRIORITY_MAX),
        ("minutes", u64::from(*wall_minutes), 1, WALL_MINUTES_MAX),
        ("GPUs", gpus.unwrap_or(1).into(), 0, GPUS_MAX),
    ];
    let (what, value, least, most) =
        bounds.into_iter().find(|(_, value, least, most)| !(*least..=u64::from(*most)).contains(value))?;
    Some(format!("class `{name}`: {what} can be {least} to {most}, and {value} is not"))
}

/// What is wrong with all of them together.
pub fn faults(classes: &[JobClass]) -> Option<String> {
    if classes.is_empty() || classes.len() > CLASSES_MAX {
        return Some(format!("there are 1 to {CLASSES_MAX} classes of jobs, and not {}", classes.len()));
    }
    let twice =
        |(at, class): (usize, &JobClass)| classes.iter().position(|c| c.name == class.name) != Some(at);
    let double = classes.iter().enumerate().find(|all| twice(*all));
    classes
        .iter()
        .find_map(fault)
        .or_else(|| double.map(|(_, class)| format!("there are two classes `{}`", class.name)))
}

/// A guest can be told this.
pub fn is_scheduler(told: &GuestScheduler) -> bool {
    faults(&told.classes).is_none() && is_told(&told.of) && !told.of.is_empty()
}

/// What a guest claims of its jobs can be meant.
pub fn is_plausible(jobs: &JobsUse) -> bool {
    let seconds = u64::from(jobs.seconds);
    (1..=SPAN_MAX).contains(&jobs.seconds)
        && jobs.time <= TIME_MAX
        && jobs.gpu_seconds <= seconds * u64::from(GPUS_MAX)
        && jobs.gpu_busy_seconds.unwrap_or(0) <= jobs.gpu_seconds
        && jobs.cpu_seconds <= seconds * CPUS_MAX
        && jobs.memory_mib <= MEMORY_MAX
        && jobs.running <= JOBS_MAX
        && jobs.pending <= JOBS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str) -> JobClass {
        JobClass { name: name.to_owned(), priority: 1, gpus: None, wall_minutes: 60 }
    }

    #[test]
    fn a_class_is_within_its_bounds() {
        assert_eq!(faults(&[class("normal"), class("1gpulong")]), None);
        for bad in ["", "Normal", "a b", "-a", "a,b", "a=b", "a\nb", "ø", &"a".repeat(32)] {
            assert!(faults(&[class(bad)]).is_some(), "{bad:?}");
        }
        for bad in [
            JobClass { priority: PRIORITY_MAX + 1, ..class("a") },
            JobClass { wall_minutes: 0, ..class("a") },
            JobClass { wall_minutes: WALL_MINUTES_MAX + 1, ..class("a") },
            JobClass { gpus: Some(65), ..class("a") },
        ] {
            assert!(fault(&bad).unwrap().starts_with("class `a`: "), "{bad:?}");
        }
        assert!(faults(&[]).is_some());
        assert_eq!(faults(&[class("a"), class("b"), class("a")]).unwrap(), "there are two classes `a`");
        let many: Vec<JobClass> = (0..17).map(|n| class(&format!("c{n}"))).collect();
        assert!(faults(&many).is_some() && faults(&many[1..]).is_none());
    }

    #[test]
    fn a_guest_uses_no_more_than_there_can_be() {
        let good = JobsUse {
            time: 1,
            seconds: 60,
            gpu_seconds: 120,
            gpu_busy_seconds: Some(120),
            ..Default::default()
        };
        assert!(is_plausible(&good));
        for bad in [
            JobsUse { seconds: 0, ..good },
            JobsUse { seconds: 3601, ..good },
            JobsUse { gpu_busy_seconds: Some(121), ..good },
            JobsUse { gpu_seconds: 60 * 64 + 1, ..good },
            JobsUse { cpu_seconds: u64::MAX, ..good },
            JobsUse { memory_mib: u64::MAX, ..good },
            JobsUse { running: u32::MAX, ..good },
            JobsUse { time: u64::MAX, ..good },
        ] {
            assert!(!is_plausible(&bad), "{bad:?}");
        }
    }
}
