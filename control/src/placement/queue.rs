//! Whose turn it is. One page, so that anybody who waits can be told why.
//!
//! ```text
//!   1  reservations whose time has come or is near, by their start        ─┐
//!   2  the oldest request that has waited longer than the site's patience   │ what does not fit yet holds GPUs:
//!   3  all others, by turns: the department that is charged least, of it    │ nobody else gets them
//!      the oldest request; the first that does not fit, after a day or so  ─┘
//! ```
//!
//! # Fair shares
//! A department is charged the GPU-hours it has used, each counting half after the half-life, and for every GPU
//! that it has now those of one day to come. Both follow from the slices themselves, from placed to detached; no
//! counter is kept. Whoever is charged least comes next, and a placed request is charged at once, so that one
//! round does not give everything to one department. With demand that never ends, a department that got more
//! than the other is charged more and waits until it is not: their use converges. All departments weigh the same;
//! projects without one are one together.
//!
//! # Backfill
//! A request that does not fit is passed over, and a later one that fits is placed: nothing stands idle for
//! somebody's turn. That alone would starve the large ones, and with them the departments that need them, so some are
//! held for: by rule 3 whoever's turn it is, once it has waited a while (`turn`), and by rule 2 the oldest,
//! whoever's turn it is. What is held for one is one partition on one host, with memory, cores and disk, as far
//! as they are free. Nobody else gets it, whatever she says of her end: no slice has an end that Holm enforces.
//! When its lead means to close one is used for telling the others how long they may wait, and for nothing else.
//!
//! # Nobody starves
//! Of the partitions that can ever be free, the one is held whose newest slice is oldest (where others on the
//! host would have to go as well, for memory, cores or disk, they count). Nobody new comes onto it. Another may take
//! its place in a later round, but only one whose newest slice is no younger. So after the moment `t` in which a
//! request becomes the oldest over-patient one, everybody in its way was there at `t`: if every slice ends within
//! `L`, cleaning included, it is placed by `t + L`. With `k` such requests before it, by `patience + (k + 1) L`.
//! For that one place age counts and shares do not; all else goes by shares.
//!
//! # Started again
//! What was stopped has its disk on one host and waits for room there, from when it was started; all else is as for the
//! others. What is held for it is held there.
//!
//! # Reservations
//! What is asked for as long before it begins as GPUs are held for it is a reservation. What is asked for later is
//! a request like any other that is not placed before, and is as old as the time since: otherwise everybody would
//! ask from the next minute on, and neither shares nor patience would count. A reservation
//! is accepted where all accepted ones that overlap it fit together with it into the hosts, were nobody else there;
//! and again when it is approved, since only what is approved stands in another's way. It
//! is not placed before it begins, and GPUs are held for it from some hours before. It is no promise: slices have
//! no end that Holm enforces, and who is in the way then, is. A plain request is therefore in conflict with
//! a reservation only within those hours. A reservation whose end has passed is not placed any more.

use super::host::{Fit, Hold, Host, Request, Short, search};
use holm_proto::ids::{Name, SliceId};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, VecDeque};

/// Hours that are charged ahead for each GPU that a department has.
const AHEAD: f64 = 24.0;

/// One approved slice that waits for a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// Whose.
    pub id: SliceId,
    /// Empty: none.
    pub department: String,
    /// What it is to have.
    pub request: Request,
    /// When it was asked for.
    pub asked: Timestamp,
    /// Waiting since.
    pub since: Timestamp,
    /// Not before.
    pub from: Option<Timestamp>,
    /// When its lead means to close it.
    pub until: Option<Timestamp>,
    /// On this host and no other: its disk is there.
    pub home: Option<Name>,
}

impl Wish {
    fn may_be_on(&self, host: &Host) -> bool {
        self.home.as_ref().is_none_or(|home| home == &host.name)
    }

    /// The best place for it now, or the nearest miss.
    fn search(&self, hosts: &[Host]) -> Result<(usize, Fit), Option<Short>> {
        let Some(home) = &self.home else { return search(hosts, &self.request) };
        let found = hosts.iter().enumerate().find(|(_, host)| &host.name == home);
        let (at, host) = found.ok_or(None)?;
        search(std::slice::from_ref(host), &self.request).map(|(_, fit)| (at, fit))
    }

    /// From then it waits for others, not for its own time.
    fn waits_since(&self) -> Timestamp {
        self.from.map_or(self.since, |from| from.max(self.since))
    }

    fn is_reservation(&self, rules: &Rules) -> bool {
        self.from.is_some_and(|from| rules.reserves(self.asked, from))
    }
}

/// What a slice has used, or uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    /// Of this department.
    pub department: String,
    /// GPUs.
    pub gpus: u32,
    /// When it was placed.
    pub from: Timestamp,
    /// When its GPUs were released; `None`: it has them.
    pub until: Option<Timestamp>,
}

/// The site's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// After it what was used counts half.
    pub half_life: SignedDuration,
    /// After it the oldest request is held for.
    pub patience: SignedDuration,
    /// After it the one whose turn it is is held for.
    pub turn: SignedDuration,
    /// So long before it begins a reservation is held for, and must have been asked for.
    pub reserve: SignedDuration,
}

impl Rules {
    /// Whether what was asked for then, from then on, is a reservation: otherwise it only begins no earlier.
    pub fn reserves(&self, asked: Timestamp, from: Timestamp) -> bool {
        from.duration_since(asked) >= self.reserve
    }
}

/// What each department is charged, in GPU-hours.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shares(BTreeMap<String, f64>);

impl Shares {
    /// By what was used until now.
    pub fn of(uses: impl IntoIterator<Item = Use>, now: Timestamp, rules: &Rules) -> Self {
        let mut shares = Self::default();
        let half_life = hours(rules.half_life).max(1.0);
        for used in uses {
            let age = |at: Timestamp| hours(now.duration_since(at)).max(0.0) / half_life;
            let (young, old) = (used.until.map_or(0.0, age), age(used.from));
            // The integral of what fades.
            let faded = half_life / std::f64::consts::LN_2 * ((-young).exp2() - (-old).exp2());
            let ahead = if used.until.is_none() { AHEAD } else { 0.0 };
            *shares.0.entry(used.department).or_default() += f64::from(used.gpus) * (faded.max(0.0) + ahead);
        }
        shares
    }

    /// Charge a department for what it has just been given.
    fn given(&mut self, department: &str, gpus: u32) {
        *self.0.entry(department.to_owned()).or_default() += f64::from(gpus) * AHEAD;
    }

    fn charged(&self, department: &str) -> f64 {
        self.0.get(department).copied().unwrap_or_default()
    }

    /// A department's part of all that is charged, in thousandths.
    pub fn permille(&self, department: &str) -> u32 {
        let all: f64 = self.0.values().sum();
        let part = if all > 0.0 { self.charged(department) / all * 1000.0 } else { 0.0 };
        // Between 0 and 1000 by then.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 0 to 1000")]
        let part = part.round() as u32;
        part.min(1000)
    }
}

/// What becomes of a wish.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is placed on the host at this place of the list.
    Placed {
        /// Of the list.
        host: usize,
        /// Where there.
        fit: Fit,
    },
    /// It waits.
    Waits {
        /// The nearest miss; `None` where there is no host.
        short: Option<Short>,
        /// Something is held for it.
        holds: bool,
    },
    /// Its time has not begun; where it is a reservation, something may be held for it.
    Early {
        /// Something is.
        holds: bool,
    },
    /// The end of its reservation has passed.
    Late,
}

/// One round, thought through.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In the order of their turns: which wish of the list, and what becomes of it.
    pub turns: Vec<(usize, Verdict)>,
    /// The hosts afterwards, with what is held.
    pub hosts: Vec<Host>,
    /// The charges afterwards.
    pub shares: Shares,
}

impl Plan {
    /// The place of a wish among those that wait, from 1.
    pub fn position(&self, wish: usize) -> Option<usize> {
        let waiting = self.turns.iter().filter(|(_, v)| matches!(v, Verdict::Waits { .. }));
        waiting.map(|(at, _)| *at).position(|at| at == wish).map(|n| n + 1)
    }
}

/// Give everybody their turn once.
pub fn plan(hosts: Vec<Host>, wishes: &[Wish], shares: Shares, rules: &Rules, now: Timestamp) -> Plan {
    let mut round = Round { plan: Plan { turns: Vec::new(), hosts, shares }, now };
    let mut order: Vec<(usize, &Wish)> = wishes.iter().enumerate().collect();
    order.sort_by_key(|(_, w)| (w.waits_since(), w.id));
    let (late, rest): (Vec<_>, Vec<_>) =
        order.into_iter().partition(|(_, w)| w.until.is_some_and(|until| until <= now));
    let (mut reserved, rest): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, w)| w.is_reservation(rules));
    reserved.sort_by_key(|(_, w)| (w.from, w.since, w.id));
    for (at, wish) in reserved {
        round.reserved(at, wish, rules);
    }
    let (early, rest): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|(_, w)| w.from.is_some_and(|from| from > now));
    round.plan.turns.extend(early.into_iter().map(|(at, _)| (at, Verdict::Early { holds: false })));
    let mut rest: VecDeque<_> = rest.into();
    // Those for whom nothing can be held do not keep the next from it.
    let mut held = false;
    let mut others: BTreeMap<&str, VecDeque<(usize, &Wish)>> = BTreeMap::new();
    while let Some((at, wish)) = rest.pop_front() {
        let overdue = now.duration_since(wish.waits_since()) >= rules.patience;
        if overdue && !held && (round.place(at, wish) || round.hold(at, wish)) {
            held = matches!(round.plan.turns.last(), Some((_, Verdict::Waits { .. })));
        } else {
            others.entry(&wish.department).or_default().push_back((at, wish));
        }
    }
    // Of those by turns only the very first that does not fit.
    let mut first = true;
    loop {
        let charged = |department: &str| round.plan.shares.charged(department);
        let least = others.keys().copied().min_by(|a, b| charged(a).total_cmp(&charged(b)).then(a.cmp(b)));
        let Some(department) = least else { break };
        match others.get_mut(department).and_then(VecDeque::pop_front) {
            Some((at, wish)) if round.place(at, wish) => {}
            Some((at, wish)) => {
                let long = now.duration_since(wish.waits_since()) >= rules.turn;
                if !(std::mem::take(&mut first) && long && round.hold(at, wish)) {
                    round.waits(at, wish, false);
                }
            }
            None => drop(others.remove(department)),
        }
    }
    round.plan.turns.extend(late.into_iter().map(|(at, _)| (at, Verdict::Late)));
    round.plan
}

struct Round {
    plan: Plan,
    now: Timestamp,
}

impl Round {
    fn reserved(&mut self, at: usize, wish: &Wish, rules: &Rules) {
        let from = wish.from.unwrap_or(self.now);
        if from <= self.now {
            if !self.place(at, wish) && !self.hold(at, wish) {
                self.waits(at, wish, false);
            }
        } else {
            let near = from.duration_since(self.now) <= rules.reserve;
            let holds = near && self.keep(wish);
            self.plan.turns.push((at, Verdict::Early { holds }));
        }
    }

    fn place(&mut self, at: usize, wish: &Wish) -> bool {
        let Ok((host, fit)) = wish.search(&self.plan.hosts) else { return false };
        if let Some(host) = self.plan.hosts.get_mut(host) {
            host.place(&fit, &wish.request, self.now, wish.until);
        }
        self.plan.shares.given(&wish.department, wish.request.gpus);
        self.plan.turns.push((at, Verdict::Placed { host, fit }));
        true
    }

    fn hold(&mut self, at: usize, wish: &Wish) -> bool {
        // Why it does not fit without what is about to be held for it.
        let short = self.short(wish);
        let holds = self.keep(wish);
        if holds {
            self.plan.turns.push((at, Verdict::Waits { short, holds }));
        }
        holds
    }

    fn waits(&mut self, at: usize, wish: &Wish, holds: bool) {
        let short = self.short(wish);
        self.plan.turns.push((at, Verdict::Waits { short, holds }));
    }

    fn short(&self, wish: &Wish) -> Option<Short> {
        wish.search(&self.plan.hosts).err().flatten()
    }

    /// Hold something for it, if anything can be.
    fn keep(&mut self, wish: &Wish) -> bool {
        let Some(target) = target(&self.plan.hosts, wish) else { return false };
        if let Some(host) = self.plan.hosts.get_mut(target.host) {
            let gpus = host.taken(target.gpus, &wish.request);
            host.hold(Hold { whose: wish.id, gpus, request: wish.request });
        }
        true
    }
}

/// What to hold.
struct Target {
    host: usize,
    gpus: u64,
}

/// The partition whose newest slice is oldest; the argument is at the head of the file.
fn target(hosts: &[Host], wish: &Wish) -> Option<Target> {
    let want = &wish.request;
    let newest =
        |host: &Host, gpus: u64| host.tenants().iter().filter(|t| t.gpus & gpus != 0).map(|t| t.since).max();
    let mut candidates: Vec<_> = hosts
        .iter()
        .enumerate()
        .filter(|(_, host)| host.closed.is_none() && wish.may_be_on(host))
        .flat_map(|(at, host)| {
            host.some_day(want).map(move |s| {
                let mask = host.taken(s.mask, want);
                ((newest(host, mask), &host.name, s.id), at, host, s.mask)
            })
        })
        .collect();
    candidates.sort_by_key(|(key, ..)| *key);
    // By the newest who must go, the host's name and the partition.
    type Key<'a> = (Option<Timestamp>, &'a Name, u32);
    let mut best: Option<(Key<'_>, usize, u64)> = None;
    for (key, at, host, mask) in candidates {
        // Looked at more closely it can only become younger.
        if best.as_ref().is_some_and(|b| b.0 <= key) {
            break;
        }
        if !host.could(want) {
            continue;
        }
        let key = match host.without(mask, want) {
            true => key,
            false => (newest(host, u64::MAX), key.1, key.2),
        };
        if best.as_ref().is_none_or(|b| key < b.0) {
            best = Some((key, at, mask));
        }
    }
    best.map(|(_, host, gpus)| Target { host, gpus })
}

/// When the last of those on these GPUs ends, if there are any and all have said so.
fn ends(host: &Host, gpus: u64, now: Timestamp) -> Option<Timestamp> {
    let there = host.tenants().iter().filter(|t| t.gpus & gpus != 0);
    let ends: Option<Vec<Timestamp>> = there.map(|t| t.until.filter(|until| *until > now)).collect();
    ends?.into_iter().max()
}

/// A time for which somebody wants something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reserved {
    /// What.
    pub request: Request,
    /// From then.
    pub from: Timestamp,
    /// Until then; `None`: for good.
    pub until: Option<Timestamp>,
}

/// Whether this one fits into the hosts together with all those that overlap it, were nobody else there. Of
/// GPUs this is exact, since partitions nest: what fits at all fits with the largest put first. Of memory, cores
/// and disk it errs to the no.
pub fn reservable(hosts: &[Host], known: &[Reserved], new: &Reserved) -> bool {
    let at = |r: &Reserved, t: Timestamp| r.from <= t && r.until.is_none_or(|until| t < until);
    // Nothing is fuller than at some start.
    let starts = known.iter().map(|r| r.from).filter(|t| at(new, *t)).chain([new.from]);
    let whole: Vec<Host> = hosts.iter().map(Host::whole).collect();
    starts.into_iter().all(|t| {
        let mut there: Vec<Request> = known.iter().filter(|r| at(r, t)).map(|r| r.request).collect();
        there.push(new.request);
        there.sort_by_key(|r| {
            (std::cmp::Reverse(r.gpus), std::cmp::Reverse(r.memory_mib), r.disk_gib, r.vcpus)
        });
        let mut hosts = whole.clone();
        there.iter().all(|request| {
            let Ok((host, fit)) = search(&hosts, request) else { return false };
            hosts.get_mut(host).is_some_and(|host| {
                host.place(&fit, request, t, None);
                true
            })
        })
    })
}

/// Why a wish waits, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// Why each host has no room.
    pub hosts: Vec<(Name, Short)>,
    /// When it may fit.
    pub earliest: Option<Timestamp>,
    /// On what that rests, or why there is no such time.
    pub assumption: String,
    /// The largest smaller size of which one would be placed now.
    pub smaller: Option<u32>,
}

/// Explain one that is not placed, after a round.
pub fn explain(plan: &Plan, wish: &Wish, rules: &Rules, now: Timestamp) -> Explained {
    let want = &wish.request;
    let seen: Vec<Host> =
        plan.hosts.iter().filter(|h| wish.may_be_on(h)).map(|h| h.seen_by(wish.id)).collect();
    let misses = seen.iter().filter_map(|h| Some((h.name.clone(), h.fit(want).err()?)));
    let smaller = seen.iter().flat_map(|h| h.shapes().sizes()).copied().filter(|n| *n < want.gpus);
    let scaled = |gpus: u32| Request {
        gpus,
        vcpus: (want.vcpus.saturating_mul(gpus) / want.gpus.max(1)).max(1),
        memory_mib: want.memory_mib.saturating_mul(gpus.into()) / u64::from(want.gpus.max(1)),
        ..*want
    };
    let smaller = smaller.filter(|n| search(&seen, &scaled(*n)).is_ok()).max();
    let (earliest, assumption) = outlook(plan, wish, rules, now);
    Explained { hosts: misses.collect(), earliest, assumption, smaller }
}

fn outlook(plan: &Plan, wish: &Wish, rules: &Rules, now: Timestamp) -> (Option<Timestamp>, String) {
    let want = &wish.request;
    let text = |t: &str| t.to_owned();
    if wish.until.is_some_and(|until| until <= now) {
        return (None, text("the time that it was asked for has passed"));
    }
    if let Some(from) = wish.from.filter(|from| *from > now) {
        let hours = rules.reserve.as_hours();
        if !wish.is_reservation(rules) {
            let text = format!(
                "it begins no earlier; it was asked for less than {hours} h before, so it is no reservation"
            );
            return (Some(from), text);
        }
        return (
            Some(from),
            format!("it is reserved from then on; GPUs are kept for it from {hours} h before"),
        );
    }
    let here = || plan.hosts.iter().filter(|h| wish.may_be_on(h));
    let open = || here().filter(|h| h.closed.is_none());
    if open().next().is_none() {
        return match &wish.home {
            None => (None, text("no host is in service")),
            Some(_) => (None, text("the host that has its disk is not in service")),
        };
    }
    let empty: Vec<_> = here().map(|h| h.whole().fit(want)).collect();
    if empty.iter().all(|fit| *fit == Err(Short::Nodes)) {
        return (None, text("its level demands NUMA nodes of its own, and no host gives a slice such"));
    }
    if empty.iter().all(Result::is_err) {
        return (None, text("no host is large enough, whoever leaves"));
    }
    // What is held for it is not in its own way.
    let own = |h: &Host| Host::whole(h).fit(want).is_ok();
    let known = open().filter(|h| own(h)).flat_map(|h| {
        let shapes = h.shapes().sized(want.gpus).filter(|s| s.mask & h.out() == 0);
        shapes.filter_map(move |s| {
            let gone = if h.without(s.mask, want) { h.taken(s.mask, want) } else { u64::MAX };
            ends(h, gone, now)
        })
    });
    if let Some(earliest) = known.min() {
        return (
            Some(day_after(earliest)),
            text("those in its way end when their leads said, and nobody else comes before"),
        );
    }
    let overdue = wish.waits_since().checked_add(rules.patience).ok().filter(|at| *at > now);
    match overdue {
        Some(at) => {
            let day = at.strftime("%Y-%m-%d");
            (
                None,
                format!(
                    "nobody in its way has said when they end; from {day} on, GPUs are held for the oldest"
                ),
            )
        }
        None => (None, text("nobody in its way has said when they end")),
    }
}

/// The first midnight by then, UTC: to the minute, it would be what another lead has said of her slice.
fn day_after(at: Timestamp) -> Timestamp {
    const DAY: i64 = 24 * 3600;
    let whole = at.as_second().saturating_add(i64::from(at.subsec_nanosecond() > 0));
    let into = whole.rem_euclid(DAY);
    let midnight = if into == 0 { whole } else { whole.saturating_add(DAY - into) };
    Timestamp::from_second(midnight).unwrap_or(at)
}

fn hours(duration: SignedDuration) -> f64 {
    duration.as_secs_f64() / 3600.0
}
