//! GPUs that a job holds and does not use: its owner is told once an hour, and when she logs in.

use crate::{
    failed::{Of as _, Outcome},
    files, notices,
};
use std::{collections::BTreeMap, path::Path};

/// Under so much use of every one of its GPUs a job uses none; of its processors, where no driver says how busy GPUs are.
const GPU: f64 = 0.05;
const CPU: f64 = 0.02;
/// Seconds from one telling to the next.
const AGAIN: f64 = 3600.0;

/// What a job that has GPUs did in so many seconds.
#[derive(Debug, Clone)]
pub struct Seen {
    pub job: u64,
    pub uid: u32,
    pub gpus: u32,
    pub seconds: f64,
    /// Of its processors.
    pub cpu: f64,
    /// Of the GPU that did most.
    pub gpu: Option<f64>,
}

/// Since when each has done nothing.
#[derive(Debug)]
pub struct Idle {
    limit: f64,
    jobs: BTreeMap<u64, Rest>,
}

#[derive(Debug, Clone)]
struct Rest {
    seen: Seen,
    seconds: f64,
    /// How long it had been when she was told last.
    told: Option<f64>,
}

impl Idle {
    /// A job is idle that has done nothing for so many seconds.
    pub fn new(limit: f64) -> Self {
        Self { limit, jobs: BTreeMap::new() }
    }

    /// Takes what all that run did; whom to tell now, and what.
    pub fn look(&mut self, all: &[Seen]) -> Vec<(u32, String)> {
        self.jobs.retain(|job, _| all.iter().any(|seen| seen.job == *job));
        let mut tell = Vec::new();
        for seen in all {
            let busy = seen.gpu.map_or(seen.cpu >= CPU, |gpu| gpu >= GPU);
            if busy {
                self.jobs.remove(&seen.job);
                continue;
            }
            let rest =
                self.jobs.entry(seen.job).or_insert(Rest { seen: seen.clone(), seconds: 0.0, told: None });
            rest.seen = seen.clone();
            rest.seconds += seen.seconds;
            if rest.seconds >= self.limit && rest.told.is_none_or(|told| rest.seconds - told >= AGAIN) {
                rest.told = Some(rest.seconds);
                tell.push((seen.uid, rest.text()));
            }
        }
        tell
    }

    /// What each person is shown who logs in now.
    fn standing(&self) -> BTreeMap<u32, String> {
        let mut all: BTreeMap<u32, String> = BTreeMap::new();
        for rest in self.jobs.values().filter(|rest| rest.seconds >= self.limit) {
            all.entry(rest.seen.uid).or_default().push_str(&rest.text());
        }
        all
    }

    /// Has /etc/profile.d/holm-notices.sh show it to whom it is about, and to nobody else.
    pub fn notice(&self, run: &Path) -> Outcome {
        let place = run.join("idle");
        files::directory(&place, 0o711, files::ROOT).of(place.display())?;
        let standing = self.standing();
        for name in files::names(&place).of(place.display())? {
            if !name.parse().is_ok_and(|uid| standing.contains_key(&uid)) {
                files::remove(place.join(&name)).of(&name)?;
            }
        }
        for (uid, text) in standing {
            let path = place.join(uid.to_string());
            files::write(&path, text, 0o640, (0, uid)).of(path.display())?;
        }
        Ok(())
    }
}

/// On their terminals.
pub fn tell(whom: &[(u32, String)]) {
    whom.iter().for_each(|(uid, text)| notices::tell_one(*uid, text));
}

impl Rest {
    fn text(&self) -> String {
        let Seen { job, gpus, gpu, .. } = &self.seen;
        let its = if *gpus == 1 { "a GPU".to_owned() } else { format!("{gpus} GPUs") };
        let what = if gpu.is_some() { "has not used it" } else { "has hardly computed" };
        let what = if *gpus == 1 { what.to_owned() } else { what.replace("used it", "used them") };
        let long = duration(self.seconds as u64);
        format!("Job {job} holds {its} and {what} for {long}. If nobody needs it any more: scancel {job}\n")
    }
}

/// `2 h 10 min`
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(job: u64, gpus: u32, cpu: f64, gpu: Option<f64>) -> Seen {
        Seen { job, uid: 10_001, gpus, seconds: 60.0, cpu, gpu }
    }

    #[test]
    fn who_holds_gpus_and_uses_none_is_told_once_an_hour() {
        let mut idle = Idle::new(1800.0);
        let mut told = Vec::new();
        for minute in 1..=100 {
            let tell = idle.look(&[
                seen(7, 2, 1.0, Some(0.04)),
                seen(8, 1, 0.0, Some(0.05)),
                seen(9, 1, 0.02, None),
            ]);
            told.extend(tell.into_iter().map(|(uid, text)| (minute, uid, text)));
        }
        let text = |long: &str| {
            format!(
                "Job 7 holds 2 GPUs and has not used them for {long}. If nobody needs it any more: scancel 7\n"
            )
        };
        assert_eq!(told, [(30, 10_001, text("30 min")), (90, 10_001, text("1 h 30 min"))]);
        assert_eq!(idle.standing(), BTreeMap::from([(10_001, text("1 h 40 min"))]));
        // It does something: it begins anew.
        idle.look(&[seen(7, 2, 0.0, Some(0.5))]);
        assert_eq!(idle.standing(), BTreeMap::new());
    }

    #[test]
    fn where_no_driver_says_it_processors_do() {
        let mut idle = Idle::new(60.0);
        let told = idle.look(&[seen(7, 1, 0.019, None), seen(8, 1, 0.02, None)]);
        let text =
            "Job 7 holds a GPU and has hardly computed for 1 min. If nobody needs it any more: scancel 7\n";
        assert_eq!(told, [(10_001, text.to_owned())]);
        // It has ended.
        assert_eq!(idle.look(&[]), []);
        assert!(idle.jobs.is_empty());
    }

    #[test]
    fn times_are_said_in_words() {
        for (seconds, said) in [(59, "59 s"), (1800, "30 min"), (7805, "2 h 10 min"), (183_600, "2 d 3 h")] {
            assert_eq!(duration(seconds), said);
        }
    }
}
