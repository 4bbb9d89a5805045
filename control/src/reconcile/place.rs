//! Where slices go: the state as placement sees it, and what comes of its plan.

use crate::app::App;
use crate::config;
use crate::domain::alert::{self, Blocked};
use crate::domain::lock::Subject;
use crate::domain::machine;
use crate::domain::records::{self, DeviceState, NumaShare, Placement, Slice, SliceState};
use crate::domain::{Refusal, State, days, lock, slice};
use crate::ledger::{Call, Decided};
use crate::placement::queue::{self, Plan, Reserved, Rules, Shares, Use, Verdict, Wish};
use crate::placement::{Capacity, Fit, Gpu, GpuState, Host, Node, PartitionTable, Request, Shapes, Tenant};
use crate::reconcile::register;
use holm_policies::{Obligation, Pack};
use holm_proto::ids::{Name, PciAddress, SliceId};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// A plan is as good as new for so long, where nothing was written or reported meanwhile.
const RECENT: SignedDuration = SignedDuration::from_secs(1);

/// What keeps a host, or some of its devices, from being given to anybody, for operators to read: what they have
/// taken out of service, what officers have locked, and what its alerts prevent.
pub fn blocked(app: &App, state: &State, name: &Name, alerted: Option<Timestamp>) -> Blocked {
    let said = |m: &records::Maintenance| format!("in maintenance: {}", m.reason);
    let Some(host) = state.hosts.get(name) else { return Blocked::default() };
    let mut blocked = alerted.map_or_else(Blocked::default, |now| {
        alert::blocked(&alert::alerts(state, host, &app.bill, &app.live.heard(name), now))
    });
    blocked.host = host.maintenance.as_ref().map(said).or(blocked.host);
    let out = state.host_devices(name).filter_map(|d| Some((d.address, said(d.maintenance.as_ref()?))));
    blocked.devices.extend(out);
    let locked = state.host_devices(name).filter_map(|d| {
        let lock = state.locks.get(&Subject::Device(name.clone(), d.address))?;
        Some((d.address, format!("locked by {}", lock.by)))
    });
    blocked.devices.extend(locked);
    blocked
}

/// Give every approved slice its turn.
pub(super) fn all(
    app: &App,
    passed: &mut dyn FnMut(Result<(), Refusal>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let state = app.ledger.state();
    if !state.slices.values().any(|s| s.state == SliceState::Approved) {
        return Ok(());
    }
    for s in state.slices.values().filter(|s| s.state == SliceState::Approved) {
        passed(kept_out(app, &state, s))?;
    }
    let queue = Queue::now(app, &state, app.ledger.now());
    for (at, verdict) in &queue.plan.turns {
        if let Some(wish) = queue.wishes.get(*at) {
            passed(turn(app, &state, &queue, wish, verdict))?;
        }
    }
    Ok(())
}

/// What has no turn: nothing is kept free for it, and it holds up nobody.
fn barred(app: &App, state: &State, s: &Slice, now: Timestamp) -> Option<String> {
    match lock::of_keys(state, s) {
        Some(_) => Some("locked: an officer lifts it".to_owned()),
        None => register::frozen(app, state, s, now),
    }
}

fn kept_out(app: &App, state: &State, s: &Slice) -> Result<(), Refusal> {
    app.ledger.commit_if(&call(state, s), |state, now| {
        let s = state.slices.get(&s.id).filter(|s| s.state == SliceState::Approved)?;
        Some(Decided::new(slice::waits(s, &barred(app, state, s, now)?)?, ()))
    })?;
    Ok(())
}

fn call(state: &State, s: &Slice) -> Call {
    let mut call = Call::own("slice.place", format!("slice/{}", state.slice_label(s)));
    call.project = state.projects.get(&s.project).map(|p| p.name.to_string());
    call
}

fn turn(app: &App, state: &State, queue: &Queue, wish: &Wish, verdict: &Verdict) -> Result<(), Refusal> {
    let Some(s) = state.slices.get(&wish.id) else { return Ok(()) };
    app.ledger.commit_if(&call(state, s), |state, now| {
        let s = state.slices.get(&wish.id).filter(|s| s.state == SliceState::Approved)?;
        if let Some(why) = barred(app, state, s, now) {
            return Some(Decided::new(slice::waits(s, &why)?, ()));
        }
        if s.home().is_some() && slice::held(state, s).is_some() {
            return Some(Decided::new(slice::waits(s, "on hold: what it holds stays as it is")?, ()));
        }
        let Verdict::Placed { host, fit } = verdict else {
            return Some(Decided::new(slice::waits(s, &reason(verdict, wish, &queue.rules))?, ()));
        };
        let host = &queue.plan.hosts.get(*host)?.name;
        let placement = settle(app, state, host, fit, wish, now)?;
        let detail = serde_json::json!({ "host": host, "partition": placement.partition });
        let changes = slice::place(state, s, placement, now).ok()?;
        Some(Decided { detail, ..Decided::new(changes, ()) })
    })?;
    Ok(())
}

/// What the plan says, if the state is still such that it can be done; the next round sees to the rest.
fn settle(
    app: &App,
    state: &State,
    name: &Name,
    fit: &Fit,
    wish: &Wish,
    now: Timestamp,
) -> Option<Placement> {
    let view = Views::of(app, state, Some(now));
    let host = view.host(name);
    if !host.still(fit, &wish.request) {
        return None;
    }
    let members = app.partitions.members(fit.partition);
    let at =
        |id: &u32| state.host_devices(name).find(|d| d.gpu && d.physical_id == Some(*id)).map(|d| d.address);
    let devices: Vec<PciAddress> = members.iter().filter_map(at).collect();
    let nodes: Vec<NumaShare> = fit.shares.clone();
    (devices.len() == members.len()).then(|| Placement {
        host: name.clone(),
        partition: fit.partition,
        devices,
        nodes,
    })
}

/// Why it is not placed, for its lead. It changes only with what it says: each change is an entry.
fn reason(verdict: &Verdict, wish: &Wish, rules: &Rules) -> String {
    match verdict {
        Verdict::Placed { .. } => String::new(),
        Verdict::Waits { short: Some(short), .. } => format!("queued: {short}"),
        Verdict::Waits { short: None, .. } if wish.home.is_some() => {
            "queued: the host that has its disk is not connected".to_owned()
        }
        Verdict::Waits { short: None, .. } => "queued: no host is connected".to_owned(),
        Verdict::Early { .. } => match wish.from {
            Some(from) if rules.reserves(wish.asked, from) => format!("reserved from {from}"),
            Some(from) => format!("not before {from}"),
            None => String::new(),
        },
        Verdict::Late => "the time that it was asked for has passed: withdraw it".to_owned(),
    }
}

/// The last queue that was thought through, for those who only read it: many who ask at once cost one plan.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Option<Thought>>);

/// Entries of the log and changes of the reports that it was thought through with.
type Thought = ((u64, u64), Arc<Queue>);

/// Who waits, and what comes of it.
#[derive(Debug)]
pub struct Queue {
    /// Every approved slice, but those whose project has yet to file something.
    pub wishes: Vec<Wish>,
    /// What would be done now.
    pub plan: Plan,
    /// By what rules.
    pub rules: Rules,
    /// When.
    pub now: Timestamp,
}

impl Queue {
    /// As it is now.
    pub fn now(app: &App, state: &State, now: Timestamp) -> Self {
        let rules = rules(&app.config.placement);
        let view = Views::of(app, state, Some(now));
        let hosts: Vec<Host> = app.live.reporting().into_iter().map(|(name, _)| view.host(&name)).collect();
        let wishes = wishes(app, state, now);
        let shares = Shares::of(uses(state), now, &rules);
        let plan = queue::plan(hosts, &wishes, shares, &rules, now);
        Self { wishes, plan, rules, now }
    }

    /// As it is now, or was a moment ago with the same log and the same reports.
    pub fn recent(app: &App, state: &State, now: Timestamp) -> Arc<Self> {
        let key = (*app.ledger.subscribe().borrow(), *app.live.subscribe().borrow());
        // Held while it is thought through: who comes meanwhile waits for the same.
        let mut recent = app.queue.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |q: &Self| now.duration_since(q.now).abs() < RECENT;
        if let Some((_, queue)) = recent.as_ref().filter(|(of, queue)| *of == key && fresh(queue)) {
            return Arc::clone(queue);
        }
        let queue = Arc::new(Self::now(app, state, now));
        *recent = Some((key, Arc::clone(&queue)));
        queue
    }

    /// The place of a slice in the list of wishes.
    pub fn find(&self, id: SliceId) -> Option<(usize, &Wish)> {
        self.wishes.iter().enumerate().find(|(_, w)| w.id == id)
    }
}

/// Requests for a time to come that a project may have before they are placed.
pub const OPEN_MAX: usize = 4;

/// Whether the project of this one has as many for a time to come as it may.
pub fn too_many(state: &State, new: &Slice) -> bool {
    let open = |s: &&Slice| {
        let waits = matches!(s.state, SliceState::Requested | SliceState::Approved);
        waits && s.home().is_none() && s.project == new.project && s.id != new.id && s.from.is_some()
    };
    new.from.is_some() && state.slices.values().filter(open).count() >= OPEN_MAX
}

/// Whether what it was asked for from then on is a reservation: otherwise it only begins no earlier.
pub fn is_reserved(app: &App, s: &Slice) -> bool {
    s.from.is_some_and(|from| rules(&app.config.placement).reserves(s.requested, from))
}

/// Whether a reservation can be accepted, as it is asked for and again as it is approved. Only what officers have
/// approved stands in its way: anybody can ask for everything.
pub fn reservable(app: &App, state: &State, new: &Slice) -> bool {
    let reserved = |s: &Slice| s.from.filter(|_| is_reserved(app, s));
    let Some(from) = reserved(new) else { return true };
    // What is wrong with a host today is not what it will be then.
    let view = Views::of(app, state, None);
    let hosts: Vec<Host> = state.hosts.keys().map(|name| view.host(name)).collect();
    let pack = Arc::clone(&view.pack);
    let stands = |s: &Slice| match s.state {
        SliceState::Approved | SliceState::Failed => true,
        state => SliceState::WANTED.contains(&state),
    };
    let known: Vec<Reserved> = state
        .slices
        .values()
        .filter(|s| s.id != new.id && stands(s))
        .filter_map(|s| Some(Reserved { request: request(&pack, s), from: reserved(s)?, until: s.until }))
        .collect();
    queue::reservable(&hosts, &known, &Reserved { request: request(&pack, new), from, until: new.until })
}

/// GiB that are promised to nobody on the host where a slice's disks are. `None`: its host does not say how many it
/// has.
pub fn room_gib(state: &State, slice: &Slice) -> Option<u64> {
    let host = &slice.placement.as_ref()?.host;
    let all = state.hosts.get(host).map(|host| host.volumes_gib).filter(|gib| *gib > 0)?;
    let here = |s: &&Slice| s.detached.is_none() && s.placement.as_ref().is_some_and(|p| &p.host == host);
    let promised = state.slices.values().filter(here).map(Slice::disks_gib).fold(0, u64::saturating_add);
    Some(all.saturating_sub(promised))
}

fn rules(config: &config::Placement) -> Rules {
    Rules {
        half_life: days(config.half_life_days.max(1)),
        patience: days(config.patience_days),
        turn: SignedDuration::from_hours(config.turn_hours.into()),
        reserve: SignedDuration::from_hours(config.reserve_hours.into()),
    }
}

fn request(pack: &Pack, s: &Slice) -> Request {
    // One that is started again has its disk there, and it is counted.
    let disk_gib = if s.home().is_some() { 0 } else { s.disks_gib() };
    Request { gpus: s.gpus, vcpus: s.vcpus, memory_mib: s.memory_mib, disk_gib, alone: alone(pack, s) }
}

/// Its level wants its NUMA nodes for it alone.
fn alone(pack: &Pack, s: &Slice) -> bool {
    pack.demands(&s.level, Obligation::OwnNode)
}

fn department(state: &State, s: &Slice) -> String {
    state.projects.get(&s.project).map(|p| p.department.clone()).unwrap_or_default()
}

fn wishes(app: &App, state: &State, now: Timestamp) -> Vec<Wish> {
    let approved = state.slices.values().filter(|s| s.state == SliceState::Approved);
    let pack = app.rules.of(state);
    approved
        .filter(|s| barred(app, state, s, now).is_none())
        .map(|s| Wish {
            id: s.id,
            department: department(state, s),
            request: request(&pack, s),
            asked: s.requested,
            // Not when its state changed: one that is placed again has not lost its turn. One that is started again
            // asks anew, and has begun: what it was asked for to begin and end at is past.
            since: s.approvals.last().filter(|_| s.home().is_none()).map_or(s.changed, |last| last.at),
            from: s.from.filter(|_| s.home().is_none()),
            until: s.until.filter(|_| s.home().is_none()),
            home: s.home().cloned(),
        })
        .collect()
}

/// What every slice has used: from placed until its devices were released.
fn uses(state: &State) -> Vec<Use> {
    let slices = state.slices.values();
    slices
        .flat_map(|s| {
            let department = department(state, s);
            s.spans().map(move |(from, until, gpus)| Use {
                department: department.clone(),
                gpus,
                from,
                until,
            })
        })
        .collect()
}

/// The state, by host.
struct Views<'a> {
    app: &'a App,
    pack: Arc<Pack>,
    /// By the alerts that there are now; `None`: by none.
    alerted: Option<Timestamp>,
    state: &'a State,
    table: PartitionTable,
    shapes: Arc<Shapes>,
    config: &'a config::Placement,
    here: BTreeMap<&'a Name, Vec<&'a Slice>>,
}

impl<'a> Views<'a> {
    fn of(app: &'a App, state: &'a State, alerted: Option<Timestamp>) -> Self {
        let mut here: BTreeMap<&Name, Vec<&Slice>> = BTreeMap::new();
        for s in state.slices.values().filter(|s| s.detached.is_none()) {
            if let Some(placement) = &s.placement {
                here.entry(&placement.host).or_default().push(s);
            }
        }
        let shapes = Arc::new(Shapes::of(app.partitions));
        let (pack, table, config) = (app.rules.of(state), app.partitions, &app.config.placement);
        Self { app, pack, alerted, state, table, shapes, config, here }
    }

    /// One host as it is now.
    fn host(&self, name: &Name) -> Host {
        let blocked = blocked(self.app, self.state, name, self.alerted);
        let known: BTreeSet<u32> = self.table.physical_ids().collect();
        let gpus = self
            .state
            .host_devices(name)
            .filter(|d| d.gpu)
            .filter_map(|d| Some((d, d.physical_id.filter(|id| known.contains(id))?)))
            .map(|(d, physical_id)| {
                let out = !d.problem.is_empty() || blocked.devices.contains_key(&d.address);
                let state = match d.state {
                    _ if out => GpuState::Out,
                    DeviceState::Free => GpuState::Free,
                    DeviceState::Quarantined => GpuState::Out,
                    DeviceState::Claimed
                    | DeviceState::Assigned
                    | DeviceState::Dirty
                    | DeviceState::Sanitising => GpuState::Taken,
                };
                Gpu { physical_id, node: u32::try_from(d.numa_node).unwrap_or(0), state }
            })
            .collect();
        let mut host = Host::new(name.clone(), Arc::clone(&self.shapes), gpus, &self.capacity(name));
        host.closed = blocked.host;
        host.apart = blocked.together.is_some();
        for s in self.here.get(name).into_iter().flatten() {
            let Some(placement) = &s.placement else { continue };
            // Of one that is kept the disk is left.
            let has = s.holds_devices();
            host.occupy(Tenant {
                gpus: self.table.get(placement.partition).filter(|_| has).map_or(0, |p| p.mask()),
                since: s.placed.unwrap_or(s.requested),
                until: s.until.filter(|_| has),
                memory_mib: if has { s.memory_mib } else { 0 },
                disk_gib: s.disks_gib(),
                shares: if has { placement.nodes.clone() } else { Vec::new() },
                alone: has && alone(&self.pack, s),
            });
        }
        host
    }

    /// A machine with devices passed through has all of its memory pinned: one too many, and the host ends
    /// another tenant's to make room. What a host does not state, it is not judged by.
    fn capacity(&self, name: &Name) -> Capacity {
        let Some(host) = self.state.hosts.get(name) else { return Capacity::default() };
        let known = |n: u64| (n > 0).then_some(n);
        let nodes = host.machine.as_ref().map(|m| m.nodes.as_slice()).unwrap_or_default();
        let pages = self.config.hugepages && !nodes.is_empty();
        let in_pages = |n: &machine::Node| {
            let mib = |p: &machine::HugePages| p.size_kib.saturating_mul(p.total) / 1024;
            n.huge_pages.iter().map(mib).fold(0, u64::saturating_add)
        };
        let memory = |n: &machine::Node| if pages { in_pages(n) } else { n.memory_mib };
        let dedicated =
            self.config.cpus == config::Cpus::Dedicated && nodes.iter().any(|n| !n.cores.is_empty());
        let node = |n: &machine::Node| Node { id: n.id, cores: n.cores.clone(), memory_mib: memory(n) };
        let all = if pages { nodes.iter().map(memory).fold(0, u64::saturating_add) } else { host.memory_mib };
        Capacity {
            nodes: if dedicated { nodes.iter().map(node).collect() } else { Vec::new() },
            memory_mib: known(all),
            disk_gib: known(host.volumes_gib),
            housekeeping: self.config.housekeeping_cores,
        }
    }
}
