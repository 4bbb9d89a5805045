//! A year of arrivals, replayed: what an order of turns and a choice of partitions come to. Pure and seeded: the
//! same seed is the same year, for every policy.
//!
//! # Assumptions
//! There is no record of a year yet, so this is made up, and its figures are for comparing policies, not for
//! promising anybody anything. Requests arrive independently (Poisson), from four departments of unequal size; 1,
//! 2, 4, 8 or 16 GPUs are wanted with the weights below, for a log-normal time with a median of ten days; a request
//! that got nothing within thirty days is given up. How much is wanted is a factor of what the hosts could give.
//! What a slice leaves is cleaned for half an hour. Nobody says when they end.

use super::PartitionTable;
use super::host::{Capacity, Gpu, GpuState, Host, Request, Shapes, Tenant};
use super::queue::{self, Rules, Shares, Use, Verdict, Wish};
use holm_proto::ids::{Name, SliceId};
use holm_proto::platform::bit;
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid;
use std::sync::Arc;

/// Departments and their parts of the requests.
const DEPARTMENTS: [(&str, f64); 4] =
    [("health", 0.5), ("engineering", 0.25), ("science", 0.15), ("arts", 0.1)];
/// GPUs and their parts of the requests.
const SIZES: [(u32, f64); 5] = [(1, 0.40), (2, 0.25), (4, 0.20), (8, 0.12), (16, 0.03)];
/// Of how long a slice lives: median in hours, standard deviation of the logarithm, and the most.
const LIFE: (f64, f64, f64) = (240.0, 1.0, 90.0 * 24.0);
/// Hours after which a request is given up.
const GIVEN_UP: f64 = 30.0 * 24.0;
const CLEANING: f64 = 0.5;
const YEAR: f64 = 365.0 * 24.0;

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// As Holm does: fair shares, holding for the oldest, least spoiled.
    Holm,
    /// The oldest first, later ones pass it where they fit; the partition that spoils least.
    LeastSpoiled,
    /// The same; the first free partition by its id.
    FirstFit,
    /// The same; the first free GPUs in a row, whether or not they are a partition. Where they are none the
    /// fabric refuses, and the request has failed.
    InARow,
    /// The same; as if any free GPUs of a host could be put together. No machine can do this.
    Fluid,
}

impl Policy {
    /// In the order of the table.
    pub const ALL: [Self; 5] = [Self::Holm, Self::LeastSpoiled, Self::FirstFit, Self::InARow, Self::Fluid];

    /// As the table calls it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Holm => "Holm: fair shares, least spoiled",
            Self::LeastSpoiled => "oldest first, least spoiled",
            Self::FirstFit => "oldest first, first fit by id",
            Self::InARow => "oldest first, GPUs in a row",
            Self::Fluid => "oldest first, no partitions (*)",
        }
    }
}

/// One request of the year.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrival {
    /// Hours since the year began.
    pub at: f64,
    /// Of `DEPARTMENTS`.
    pub department: &'static str,
    /// GPUs.
    pub gpus: u32,
    /// Hours that it will have them.
    pub life: f64,
}

/// What a year came to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Outcome {
    /// Requests.
    pub asked: f64,
    /// Those that were placed.
    pub placed: f64,
    /// Part of the GPU-hours asked for that was given to the placed ones.
    pub work: f64,
    /// Hours that the placed ones had waited: on average.
    pub mean_wait: f64,
    /// 95 of 100 had waited less.
    pub wait_95: f64,
    /// Part of the GPU-hours of the year that somebody had.
    pub used: f64,
    /// Part of the year in which somebody waited for no more GPUs than one host had free.
    pub fragmented: f64,
    /// Of the department of which the smallest part was placed: that part.
    pub worst: f64,
}

impl Outcome {
    /// Part of the requests that was placed.
    pub fn accepted(&self) -> f64 {
        if self.asked > 0.0 { self.placed / self.asked } else { 1.0 }
    }

    /// Of several years.
    pub fn mean(all: &[Self]) -> Self {
        let n = count(all.len()).max(1.0);
        let of = |field: fn(&Self) -> f64| all.iter().map(field).sum::<f64>() / n;
        Self {
            asked: of(|o| o.asked),
            placed: of(|o| o.placed),
            work: of(|o| o.work),
            mean_wait: of(|o| o.mean_wait),
            wait_95: of(|o| o.wait_95),
            used: of(|o| o.used),
            fragmented: of(|o| o.fragmented),
            worst: of(|o| o.worst),
        }
    }
}

/// The requests of a year for so many hosts, `load` times what they could give.
pub fn year(seed: u64, hosts: u32, load: f64) -> Vec<Arrival> {
    let mut random = Random(seed);
    let (median, sigma, most) = LIFE;
    let mean_life = median * (sigma * sigma / 2.0).exp();
    let mean_size: f64 = SIZES.iter().map(|(n, part)| f64::from(*n) * part).sum();
    let each_hour = load * f64::from(hosts) * 16.0 / (mean_size * mean_life);
    let mut all = Vec::new();
    let mut at = 0.0;
    loop {
        at += -random.part().ln() / each_hour;
        if at >= YEAR {
            return all;
        }
        let department = pick(&DEPARTMENTS, random.part()).unwrap_or("health");
        let gpus = pick(&SIZES, random.part()).unwrap_or(1);
        let normal = (-2.0 * random.part().ln()).sqrt() * (std::f64::consts::TAU * random.part()).cos();
        let life = (median * (sigma * normal).exp()).clamp(1.0, most);
        all.push(Arrival { at, department, gpus, life });
    }
}

/// No policy, not even one that knows the year beforehand, places more of these: each takes its GPU-hours, only
/// so many are there until the last is given up, and the smallest are taken first. Partitions, the order of
/// arrival and that a slice needs its GPUs at one time are left out, so no policy may come near.
pub fn bound(arrivals: &[Arrival], hosts: u32) -> f64 {
    // Whoever is placed begins before it is given up; what of its life must lie in the time looked at is counted.
    let mut needs: Vec<f64> = arrivals.iter().map(|a| f64::from(a.gpus) * a.life.min(YEAR - a.at)).collect();
    needs.sort_by(f64::total_cmp);
    let mut left = f64::from(hosts) * 16.0 * (YEAR + GIVEN_UP);
    let fits = |need: &&f64| {
        left -= **need;
        left >= 0.0
    };
    count(needs.iter().take_while(fits).count())
}

/// Somebody on a host.
struct Running {
    host: usize,
    gpus: u64,
    since: f64,
    /// And cleaned.
    gone: f64,
    department: &'static str,
    count: u32,
}

/// Replay the arrivals under a policy.
pub fn replay(arrivals: &[Arrival], hosts: u32, policy: Policy, rules: &Rules) -> Outcome {
    let mut year = Year {
        names: names(hosts),
        shapes: Arc::new(Shapes::of(PartitionTable::dgx2())),
        policy,
        rules,
        running: Vec::new(),
        uses: Vec::new(),
    };
    let mut waiting: Vec<(usize, &Arrival)> = Vec::new();
    let mut coming = arrivals.iter().enumerate().peekable();
    let (mut placed, mut waits): (Vec<usize>, Vec<f64>) = (Vec::new(), Vec::new());
    let (mut now, mut fragmented, mut used) = (0.0_f64, 0.0, 0.0);
    loop {
        year.running.retain(|r| r.gone > now);
        waiting.retain(|(_, a)| now < a.at + GIVEN_UP);
        while let Some(next) = coming.next_if(|(_, a)| a.at <= now) {
            waiting.push(next);
        }
        let got = year.turns(&waiting, now);
        for (id, ok) in &got {
            if let Some((_, a)) = waiting.iter().find(|(w, _)| w == id).filter(|_| *ok) {
                placed.push(*id);
                waits.push(now - a.at);
            }
        }
        waiting.retain(|(id, _)| !got.iter().any(|(g, _)| g == id));
        // The next that happens; what is overdue becomes so within the day.
        let ends = year.running.iter().map(|r| r.gone);
        let gives_up = waiting.iter().map(|(_, a)| a.at + GIVEN_UP);
        let long = [rules.patience, rules.turn].map(|rule| rule.as_secs_f64() / 3600.0);
        let overdue = waiting.iter().flat_map(|(_, a)| long.map(|rule| a.at + rule)).filter(|t| *t > now);
        let arrives = coming.peek().map(|(_, a)| a.at);
        let next = ends.chain(gives_up).chain(overdue).chain(arrives).min_by(f64::total_cmp);
        let Some(next) = next else { break };
        // A hair later, so that whole seconds agree about what is over.
        let next = next.max(now) + 1.0 / 3600.0;
        let (from, until) = (now.min(YEAR), next.min(YEAR));
        let free = year.free();
        if waiting.iter().any(|(_, a)| free.iter().any(|f| f.count_ones() >= a.gpus)) {
            fragmented += until - from;
        }
        let busy: u32 = year.running.iter().map(|r| r.count).sum();
        used += f64::from(busy) * (until - from);
        now = next;
    }
    waits.sort_by(f64::total_cmp);
    let hours = |a: &Arrival| f64::from(a.gpus) * a.life;
    let part = |department: &str| {
        let of = |id: usize| arrivals.get(id).is_some_and(|a| a.department == department);
        let asked = arrivals.iter().filter(|a| a.department == department).count();
        let got = placed.iter().filter(|id| of(**id)).count();
        if asked == 0 { 1.0 } else { count(got) / count(asked) }
    };
    Outcome {
        asked: count(arrivals.len()),
        placed: count(placed.len()),
        work: placed.iter().filter_map(|id| arrivals.get(*id)).map(hours).sum::<f64>()
            / arrivals.iter().map(hours).sum::<f64>().max(1.0),
        mean_wait: waits.iter().sum::<f64>() / count(waits.len()).max(1.0),
        wait_95: waits.get(waits.len() * 95 / 100).copied().unwrap_or_default(),
        used: used / (f64::from(hosts) * 16.0 * YEAR),
        fragmented: fragmented / YEAR,
        worst: DEPARTMENTS.iter().map(|(d, _)| part(d)).fold(1.0, f64::min),
    }
}

struct Year<'a> {
    names: Vec<Name>,
    shapes: Arc<Shapes>,
    policy: Policy,
    rules: &'a Rules,
    running: Vec<Running>,
    uses: Vec<(Use, f64)>,
}

impl Year<'_> {
    /// Who of those that wait gets a place now, and who fails for good.
    fn turns(&mut self, waiting: &[(usize, &Arrival)], now: f64) -> Vec<(usize, bool)> {
        if waiting.is_empty() {
            return Vec::new();
        }
        if self.policy == Policy::Holm {
            return self.planned(waiting, now);
        }
        let mut done = Vec::new();
        for (id, a) in waiting {
            let free = self.free();
            let find = |(host, free): (usize, &u64)| Some((host, self.find(*free, a.gpus)?));
            match free.iter().enumerate().find_map(find) {
                Some((host, Some(gpus))) => {
                    self.run(a, host, gpus, now);
                    done.push((*id, true));
                }
                Some((_, None)) => done.push((*id, false)),
                None => {}
            }
        }
        done
    }

    /// GPUs among these; `Some(None)`: some that the fabric refuses.
    fn find(&self, free: u64, gpus: u32) -> Option<Option<u64>> {
        match self.policy {
            Policy::Holm | Policy::LeastSpoiled => self.shapes.best(free, gpus).map(|shape| Some(shape.mask)),
            Policy::FirstFit => self.shapes.sized(gpus).find(|s| s.mask & !free == 0).map(|s| Some(s.mask)),
            Policy::InARow => {
                let row = |first: u32| (first..first + gpus).fold(0, |mask, id| mask | bit(id));
                let row = (1..=17 - gpus.min(16)).map(row).find(|row| row & !free == 0)?;
                Some(self.shapes.sized(gpus).any(|s| s.mask == row).then_some(row))
            }
            Policy::Fluid => {
                let first = (1..=16).map(bit).filter(|b| free & b != 0).take(gpus as usize);
                (free.count_ones() >= gpus).then(|| Some(first.fold(0, |mask, b| mask | b)))
            }
        }
    }

    fn planned(&mut self, waiting: &[(usize, &Arrival)], now: f64) -> Vec<(usize, bool)> {
        let wishes: Vec<Wish> = waiting
            .iter()
            .map(|(id, a)| Wish {
                id: SliceId::from_untyped_uuid(uuid::Uuid::from_u128(*id as u128)),
                department: a.department.to_owned(),
                request: of(a.gpus),
                asked: time(a.at),
                since: time(a.at),
                from: None,
                until: None,
                home: None,
            })
            .collect();
        let uses = self
            .uses
            .iter()
            .map(|(used, gone)| Use { until: (*gone <= now).then(|| time(*gone)), ..used.clone() });
        let shares = Shares::of(uses, time(now), self.rules);
        let plan = queue::plan(self.hosts(), &wishes, shares, self.rules, time(now));
        let mut done = Vec::new();
        for (at, verdict) in &plan.turns {
            if let (Verdict::Placed { host, fit }, Some((id, a))) = (verdict, waiting.get(*at)) {
                self.run(a, *host, fit.gpus, now);
                done.push((*id, true));
            }
        }
        done
    }

    fn run(&mut self, a: &Arrival, host: usize, gpus: u64, now: f64) {
        let gone = now + a.life + CLEANING;
        let (department, count) = (a.department, a.gpus);
        self.running.push(Running { host, gpus, since: now, gone, department, count });
        let used = Use { department: department.to_owned(), gpus: count, from: time(now), until: None };
        self.uses.push((used, gone));
    }

    fn free(&self) -> Vec<u64> {
        let all = (1..=16).fold(0, |mask, id| mask | bit(id));
        let taken =
            |host| self.running.iter().filter(move |r| r.host == host).fold(0, |mask, r| mask | r.gpus);
        (0..self.names.len()).map(|host| all & !taken(host)).collect()
    }

    fn hosts(&self) -> Vec<Host> {
        let host = |(at, name): (usize, &Name)| {
            let mut host = empty(name.clone(), Arc::clone(&self.shapes));
            for r in self.running.iter().filter(|r| r.host == at) {
                debug_assert!(!r.department.is_empty(), "every slice is somebody's");
                host.occupy(Tenant {
                    gpus: r.gpus,
                    since: time(r.since),
                    until: None,
                    memory_mib: of(r.count).memory_mib,
                    disk_gib: of(r.count).disk_gib,
                    shares: Vec::new(),
                    alone: false,
                });
            }
            host
        };
        self.names.iter().enumerate().map(host).collect()
    }
}

/// A DGX-2 on which nobody is.
pub fn empty(name: Name, shapes: Arc<Shapes>) -> Host {
    let gpu = |physical_id| Gpu { physical_id, node: u32::from(physical_id > 8), state: GpuState::Free };
    let capacity = Capacity { memory_mib: Some(1_572_864), disk_gib: Some(27_000), ..Capacity::default() };
    Host::new(name, shapes, (1..=16).map(gpu).collect(), &capacity)
}

/// By the site's rule of thumb.
pub fn of(gpus: u32) -> Request {
    Request { gpus, vcpus: gpus * 6, memory_mib: u64::from(gpus) * 92_160, disk_gib: 100, alone: false }
}

fn names(hosts: u32) -> Vec<Name> {
    (0..hosts).filter_map(|n| format!("dgx-{n}").parse().ok()).collect()
}

/// Hours since the year began, as a time.
fn time(hours: f64) -> Timestamp {
    let since = SignedDuration::from_secs_f64(hours * 3600.0);
    Timestamp::UNIX_EPOCH.checked_add(since).unwrap_or(Timestamp::MAX)
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

fn pick<T: Copy>(weights: &[(T, f64)], part: f64) -> Option<T> {
    let mut below = 0.0;
    let found = weights.iter().find(|(_, weight)| {
        below += weight;
        part <= below
    });
    found.or(weights.last()).map(|(what, _)| *what)
}

/// SplitMix64: small, good enough, the same everywhere.
struct Random(u64);

impl Random {
    /// Above 0, at most 1.
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let high = u32::try_from(z >> 32).unwrap_or(u32::MAX);
        (f64::from(high) + 1.0) / 4_294_967_296.0
    }
}
