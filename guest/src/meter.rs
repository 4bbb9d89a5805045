//! What jobs have used, in spans of about a minute. Of a span it is told what was allocated, to the moment, and how busy GPUs
//! were when it was looked: of a job that began and ended between two looks that is nothing.

use crate::jobs::Job;
use serde::Serialize;
use std::collections::BTreeMap;

/// How busy each GPU is, from 0 to 1; `None` where no driver says it.
pub type Busy = Option<BTreeMap<u32, f64>>;

/// Of a span that ended at `time`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub time: u64,
    pub seconds: u64,
    pub gpu_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_busy_seconds: Option<u64>,
    pub cpu_seconds: u64,
    pub memory_mib: u64,
    pub running: u64,
    pub pending: u64,
}

/// What is seen at a look.
#[derive(Debug)]
pub struct Look<'a> {
    /// Seconds since 1970.
    pub now: f64,
    pub jobs: &'a [Job],
    pub busy: &'a Busy,
    /// Seconds of processors that all jobs have had, ever.
    pub cpu: f64,
    /// Bytes that they hold.
    pub memory: u64,
}

/// Adds it up.
#[derive(Debug)]
pub struct Meter {
    since: f64,
    last: f64,
    cpu_before: f64,
    gpu: f64,
    busy: Option<f64>,
    /// At the look before.
    busy_before: Busy,
    cpu: f64,
    memory: u64,
}

impl Meter {
    /// From now on.
    pub fn new(now: f64, cpu: f64) -> Self {
        let (gpu, busy, busy_before, used, memory) = (0.0, Some(0.0), Busy::None, 0.0, 0);
        Self { since: now, last: now, cpu_before: cpu, gpu, busy, busy_before, cpu: used, memory }
    }

    /// Takes what is seen.
    pub fn look(&mut self, look: &Look<'_>) {
        // Of a clock that was set back it is not known how long it took.
        self.last = self.last.min(look.now);
        self.since = self.since.min(look.now);
        for job in look.jobs {
            let seconds = (job.end.unwrap_or(look.now).min(look.now) - job.start.max(self.last)).max(0.0);
            self.gpu += seconds * job.gpus.len() as f64;
            let share = look.busy.as_ref().map(|now| {
                // What it had may be another's by now.
                let before = self.busy_before.as_ref().filter(|_| job.start < self.last);
                let busy = if job.end.is_some() { before } else { Some(now) };
                let of = |gpu| busy.and_then(|busy| busy.get(gpu)).copied().unwrap_or_default();
                job.gpus.iter().map(of).sum::<f64>()
            });
            self.busy = self.busy.zip(share).map(|(sum, share)| sum + seconds * share);
        }
        if look.busy.is_none() {
            self.busy = None;
        }
        // Less than before: Slurm has begun anew.
        self.cpu += if look.cpu >= self.cpu_before { look.cpu - self.cpu_before } else { look.cpu };
        self.busy_before.clone_from(look.busy);
        (self.cpu_before, self.last, self.memory) = (look.cpu, look.now, self.memory.max(look.memory));
    }

    /// Whole seconds since it was told last.
    pub fn seconds(&self) -> u64 {
        whole(self.last) - whole(self.since)
    }

    /// What it has come to, of as many jobs; and begins again.
    pub fn take(&mut self, running: u64, pending: u64) -> Usage {
        let usage = Usage {
            time: whole(self.last),
            seconds: self.seconds(),
            gpu_seconds: whole(self.gpu),
            gpu_busy_seconds: self.busy.map(whole),
            cpu_seconds: whole(self.cpu),
            memory_mib: self.memory.div_ceil(1 << 20),
            running,
            pending,
        };
        let busy_before = self.busy_before.take();
        *self = Self { busy_before, ..Self::new(self.last, self.cpu_before) };
        usage
    }
}

fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// `0, 35, 1024` a line: what `nvidia-smi` says of how busy its GPUs are.
pub fn utilisation(said: &str) -> BTreeMap<u32, f64> {
    let line = |line: &str| {
        let mut fields = line.split(',').map(str::trim);
        let (gpu, busy): (u32, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((gpu, (busy / 100.0).clamp(0.0, 1.0)))
    };
    said.lines().filter_map(line).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn job(id: u64, gpus: &[u32], start: f64, end: Option<f64>) -> Job {
        crate::jobs::tests::job(id, gpus, start, end)
    }

    fn look(meter: &mut Meter, now: f64, jobs: &[Job], busy: &Busy, cpu: f64, memory: u64) {
        meter.look(&Look { now, jobs, busy, cpu, memory });
    }

    #[test]
    fn a_span_has_what_was_allocated_in_it_and_how_busy_that_was() {
        let mut meter = Meter::new(1000.0, 50.0);
        let jobs =
            [job(1, &[0, 1], 900.0, None), job(2, &[2], 1010.0, Some(1020.0)), job(3, &[], 1000.0, None)];
        let busy = Some(BTreeMap::from([(0, 1.0), (1, 0.5), (2, 0.25)]));
        look(&mut meter, 1060.0, &jobs, &busy, 80.0, 3 << 20);
        let wanted = Usage {
            time: 1060,
            seconds: 60,
            gpu_seconds: 130,
            gpu_busy_seconds: Some(90),
            cpu_seconds: 30,
            memory_mib: 3,
            running: 2,
            pending: 5,
        };
        assert_eq!(meter.take(2, 5), wanted);
        // Most is held in between; Slurm's counter begins anew.
        look(&mut meter, 1062.0, &jobs[..1], &busy, 81.0, 9 << 20);
        look(&mut meter, 1064.0, &[job(1, &[0, 1], 900.0, Some(1063.0))], &Some(BTreeMap::new()), 2.0, 1);
        let usage = meter.take(0, 0);
        assert_eq!(
            (usage.seconds, usage.gpu_seconds, usage.gpu_busy_seconds, usage.cpu_seconds, usage.memory_mib),
            (4, 6, Some(5), 3, 9)
        );
    }

    #[test]
    fn what_no_driver_says_is_not_said() {
        let mut meter = Meter::new(0.0, 0.0);
        look(&mut meter, 60.0, &[job(1, &[0], 0.0, None)], &None, 0.0, 0);
        let said = serde_json::to_string(&meter.take(1, 0)).unwrap();
        let wanted = r#"{"time":60,"seconds":60,"gpu_seconds":60,"cpu_seconds":0,"memory_mib":0,"running":1,"pending":0}"#;
        assert_eq!(said, wanted);
    }

    #[test]
    fn what_the_driver_says_is_read() {
        assert_eq!(
            utilisation("0, 35, 1024\n1, 100, 3\n2, [N/A], 0\nnonsense\n"),
            BTreeMap::from([(0, 0.35), (1, 1.0)])
        );
    }

    proptest! {
        #[test]
        fn however_often_it_is_looked_the_sum_is_the_same(cuts in proptest::collection::btree_set(1u32..1000, 0..9)) {
            let mut meter = Meter::new(0.0, 0.0);
            let (mut seconds, mut allocated) = (0, 0);
            for cut in cuts.into_iter().chain([1000]) {
                let over = (cut >= 700).then_some(700.0);
                // One that has ended is seen once.
                let jobs = if seconds < 700 { vec![job(1, &[0, 1, 2], 100.0, over)] } else { Vec::new() };
                look(&mut meter, f64::from(cut), &jobs, &None, 0.0, 0);
                let usage = meter.take(1, 0);
                seconds += usage.seconds;
                allocated += usage.gpu_seconds;
            }
            prop_assert_eq!((seconds, allocated), (1000, 1800));
        }
    }
}
