//! One host, what is taken of it, and where a request fits.
//!
//! A request fits a host where a partition of its size is free and memory, disk and cores are left for it. Of
//! the partitions that do, [`super::choose`]'s order decides; of those that are equal in it, one whose NUMA nodes
//! have the memory and the cores themselves; then the lowest id. Whether there is any does not depend on the
//! order, so whatever another order would find, this one finds a place, too; and what is freed only adds places.
//!
//! # Cores
//! Where a host states its cores, a slice has whole ones: a core's siblings never serve two slices, and
//! the first cores of each node stay the host's. Each GPU has its part of its node's cores:
//!
//! ```text
//!   node 0   core 0 │ 1 2 3 │ 4 5 6 │ 7 8 9 │ …         a request within the part of its GPUs gets that part, less
//!            host's │ GPU 1 │ GPU 2 │ GPU 3 │ …         what the host keeps: its vCPUs then share what they have;
//!                                                       one for more gets all it asks for, or waits
//! ```
//!
//! So requests by the rule of so many vCPUs a GPU never strand a GPU for want of cores, and the host's own core
//! costs everybody a little instead of the last one everything. Memory and cores come from the nodes of the
//! GPUs, by the number of GPUs on each; what is not left there comes from the other nodes, farther away.
//!
//! # Alone
//! A request may want its NUMA nodes for itself: no GPU, core or memory of a node that one of its GPUs is on is then
//! anybody else's, nor has it any of another node. So it fits where nobody is on those nodes, and whoever is to come onto
//! them waits until it is gone. On a DGX-2, whose boards have a node each, it is alone on its boards. A host that does not
//! state its nodes, or shares its cores, has no place for it.

use super::{PartitionTable, Refusal};
use crate::domain::records::NumaShare;
use holm_proto::ids::{Name, SliceId};
use holm_proto::platform::bit;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sizes of partitions that a table has at most.
const SIZES: usize = 8;

/// How many free partitions of each size are spoiled, the largest size first.
pub type Spoiled = [u8; SIZES];

/// A partition table, worked out once for many questions.
#[derive(Debug, Clone, PartialEq)]
pub struct Shapes {
    shapes: Vec<Shape>,
    /// Rising.
    sizes: Vec<u32>,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// As the fabric numbers it.
    pub id: u32,
    /// Its GPUs as bits, by physical id.
    pub mask: u64,
    /// How many those are.
    pub size: u32,
    /// Of its size among all, the largest first.
    rank: usize,
}

impl Shapes {
    /// Of this table.
    pub fn of(table: PartitionTable) -> Self {
        let sizes = table.sizes();
        let rank = |size: u32| sizes.iter().rev().position(|s| *s == size).unwrap_or(0).min(SIZES - 1);
        let shape =
            |p: &super::Partition| Shape { id: p.id(), mask: p.mask(), size: p.size(), rank: rank(p.size()) };
        let shapes = table.partitions().map(shape).collect();
        Self { shapes, sizes }
    }

    /// How many GPUs a partition can have, rising.
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// # Errors
    /// There is no partition of this size, ever.
    pub fn offers(&self, gpus: u32) -> Result<(), Refusal> {
        if self.sizes.contains(&gpus) {
            return Ok(());
        }
        let next_larger = self.sizes.iter().copied().find(|size| *size > gpus);
        Err(Refusal::NoSuchSize { asked: gpus, offered: self.sizes.clone(), next_larger })
    }

    /// Every partition of this size, by rising id.
    pub fn sized(&self, gpus: u32) -> impl Iterator<Item = &Shape> {
        self.shapes.iter().filter(move |shape| shape.size == gpus)
    }

    /// The largest size of which one is free.
    pub fn largest(&self, free: u64) -> Option<u32> {
        self.shapes.iter().filter(|s| s.mask & !free == 0).map(|s| s.size).max()
    }

    /// The free partitions of this size: the one that spoils least first, of equals the one with the lowest id. `reach` says
    /// of its GPUs which nobody else can have then.
    pub fn ranked(&self, free: u64, gpus: u32, reach: impl Fn(u64) -> u64) -> Vec<(Spoiled, &Shape)> {
        if free.count_ones() < gpus {
            return Vec::new();
        }
        let open: Vec<&Shape> = self.shapes.iter().filter(|s| s.mask & !free == 0).collect();
        let sized = open.iter().filter(|s| s.size == gpus);
        let mut all: Vec<_> = sized.map(|shape| (spoiled(shape, reach(shape.mask), &open), *shape)).collect();
        all.sort_by_key(|(spoiled, shape)| (*spoiled, shape.id));
        all
    }

    /// The first of them.
    pub fn best(&self, free: u64, gpus: u32) -> Option<&Shape> {
        self.ranked(free, gpus, |mask| mask).first().map(|(_, shape)| *shape)
    }
}

/// How many of the free partitions have one of the GPUs that this one takes, by size, the largest first.
fn spoiled(taken: &Shape, reach: u64, open: &[&Shape]) -> Spoiled {
    let mut counts = Spoiled::default();
    for shape in open.iter().filter(|s| s.id != taken.id && s.mask & reach != 0) {
        if let Some(count) = counts.get_mut(shape.rank) {
            *count = count.saturating_add(1);
        }
    }
    counts
}

/// What a slice is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// As many, in one partition.
    pub gpus: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// MiB.
    pub memory_mib: u64,
    /// GiB.
    pub disk_gib: u64,
    /// Nobody else is on the NUMA nodes that it is on.
    pub alone: bool,
}

/// What a host has for slices. What is not known is not judged by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Capacity {
    /// Its NUMA nodes with cores and memory; none: not known, or shared.
    pub nodes: Vec<Node>,
    /// Of all nodes, MiB.
    pub memory_mib: Option<u64>,
    /// For volumes, GiB.
    pub disk_gib: Option<u64>,
    /// Cores of each node that stay the host's.
    pub housekeeping: usize,
}

/// A NUMA node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// As the kernel numbers it.
    pub id: u32,
    /// Logical processors by core.
    pub cores: Vec<Vec<u32>>,
    /// MiB.
    pub memory_mib: u64,
}

/// A GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// The fabric's number.
    pub physical_id: u32,
    /// Its NUMA node.
    pub node: u32,
    /// Who can have it.
    pub state: GpuState,
}

/// Who can have a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuState {
    /// Anybody, now.
    Free,
    /// Somebody has it, or it is being cleaned: it comes back by itself.
    Taken,
    /// Nobody, until an operator has done something.
    Out,
}

/// Who is on a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// GPUs, as bits by physical id.
    pub gpus: u64,
    /// Since when.
    pub since: Timestamp,
    /// When its lead means to close it.
    pub until: Option<Timestamp>,
    /// MiB.
    pub memory_mib: u64,
    /// GiB.
    pub disk_gib: u64,
    /// Its own cores and memory; none: shared with others.
    pub shares: Vec<NumaShare>,
    /// Nobody else comes onto the NUMA nodes that it is on.
    pub alone: bool,
}

/// Kept free for one who waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    /// For whom.
    pub whose: SliceId,
    /// GPUs, as bits; those of them that are free are nobody else's.
    pub gpus: u64,
    /// So much of the rest, of what is free.
    pub request: Request,
}

/// A host as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// Its name.
    pub name: Name,
    /// Why nothing may be placed there, for operators to read.
    pub closed: Option<String>,
    /// Its GPUs cannot be joined: single ones only.
    pub apart: bool,
    shapes: Arc<Shapes>,
    free: u64,
    out: u64,
    gpus: Vec<Gpu>,
    nodes: Vec<FreeNode>,
    memory_mib: Option<u64>,
    disk_gib: Option<u64>,
    capacity: (Option<u64>, Option<u64>),
    tenants: Vec<Tenant>,
    holds: Vec<Hold>,
}

/// What is left of a node.
#[derive(Debug, Clone, PartialEq)]
struct FreeNode {
    id: u32,
    cores: Vec<Vec<u32>>,
    memory_mib: u64,
    /// By physical id: its part of the cores, with and without the host's own.
    parts: BTreeMap<u32, (usize, usize)>,
    whole: Node,
}

/// Where a request fits.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The partition.
    pub partition: u32,
    /// Its GPUs as bits.
    pub gpus: u64,
    /// Cores and memory; none: shared.
    pub shares: Vec<NumaShare>,
    spoiled: Spoiled,
}

/// Why a request does not fit, the nearest miss last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Short {
    // What is wrong with a host is not a tenant's to know.
    #[error("the host is not ready")]
    Closed,
    #[error("{}", super::full(*.asked, *.largest_free))]
    Gpus { largest_free: Option<u32>, asked: u32 },
    // Its lead reads this: how much others have is not hers to know.
    #[error("{0} GiB of disk are not free")]
    Disk(u64),
    #[error("{0} MiB of memory are not free")]
    Memory(u64),
    #[error("cores for {0} vCPUs are not free")]
    Cores(u32),
    #[error("no {0} GPUs are free together on NUMA nodes that nobody else is on, which their level demands")]
    Alone(u32),
    #[error("the level demands NUMA nodes of its own, and the host gives no slice such")]
    Nodes,
}

impl Host {
    /// A host on which nobody is yet.
    pub fn new(name: Name, shapes: Arc<Shapes>, gpus: Vec<Gpu>, capacity: &Capacity) -> Self {
        let bits = |state: GpuState| {
            gpus.iter().filter(|g| g.state == state).fold(0, |mask, g| mask | bit(g.physical_id))
        };
        let known = gpus.iter().fold(0, |mask, g| mask | bit(g.physical_id));
        let nodes: Vec<FreeNode> = capacity.nodes.iter().map(|n| FreeNode::new(n, &gpus, capacity)).collect();
        let stated =
            (!nodes.is_empty()).then(|| nodes.iter().map(|n| n.memory_mib).fold(0, u64::saturating_add));
        let memory_mib = stated.or(capacity.memory_mib);
        Self {
            name,
            closed: None,
            apart: false,
            free: bits(GpuState::Free),
            // What the table has and the host has not is out as well.
            out: bits(GpuState::Out) | !known,
            shapes,
            gpus,
            nodes,
            memory_mib,
            disk_gib: capacity.disk_gib,
            capacity: (memory_mib, capacity.disk_gib),
            tenants: Vec::new(),
            holds: Vec::new(),
        }
    }

    /// Somebody is on it.
    pub fn occupy(&mut self, mut tenant: Tenant) {
        if tenant.alone {
            tenant.gpus = self.reach(tenant.gpus);
        }
        self.free &= !tenant.gpus;
        self.memory_mib = self.memory_mib.map(|left| left.saturating_sub(tenant.memory_mib));
        self.disk_gib = self.disk_gib.map(|left| left.saturating_sub(tenant.disk_gib));
        if tenant.shares.is_empty() {
            // From before the host stated its nodes: by the nodes of its GPUs.
            for (at, memory) in self.split(tenant.gpus, tenant.memory_mib).into_iter().enumerate() {
                if let Some(node) = self.nodes.get_mut(at) {
                    node.memory_mib = node.memory_mib.saturating_sub(memory);
                }
            }
        }
        for share in &tenant.shares {
            if let Some(node) = self.nodes.iter_mut().find(|n| n.id == share.node) {
                node.memory_mib = node.memory_mib.saturating_sub(share.memory_mib);
                node.cores.retain(|core| !core.iter().any(|cpu| share.cpus.contains(cpu)));
            }
        }
        if tenant.alone {
            self.close_nodes(tenant.gpus);
        }
        self.tenants.push(tenant);
    }

    /// What is left of the nodes of these GPUs is nobody's.
    fn close_nodes(&mut self, gpus: u64) {
        let of: Vec<u32> = self.nodes_of(gpus).collect();
        for node in self.nodes.iter_mut().filter(|n| of.contains(&n.id)) {
            self.memory_mib = self.memory_mib.map(|left| left.saturating_sub(node.memory_mib));
            node.memory_mib = 0;
            node.cores.clear();
        }
    }

    fn nodes_of(&self, gpus: u64) -> impl Iterator<Item = u32> {
        self.gpus.iter().filter(move |g| bit(g.physical_id) & gpus != 0).map(|g| g.node)
    }

    /// All GPUs of the nodes of these.
    fn reach(&self, gpus: u64) -> u64 {
        let of: Vec<u32> = self.nodes_of(gpus).collect();
        let there = self.gpus.iter().filter(|g| of.contains(&g.node));
        there.fold(gpus, |mask, g| mask | bit(g.physical_id))
    }

    /// Which nobody else can have when a request has these.
    pub fn taken(&self, gpus: u64, want: &Request) -> u64 {
        if want.alone { self.reach(gpus) } else { gpus }
    }

    /// Whether nobody is on the nodes of these GPUs, nor anything held for another.
    fn empty_around(&self, gpus: u64) -> bool {
        let of: Vec<u32> = self.nodes_of(gpus).collect();
        let mut there = self.nodes.iter().filter(|n| of.contains(&n.id));
        self.reach(gpus) & !(self.free | self.out) == 0
            && there.all(|n| n.cores.len() == n.whole.cores.len() && n.memory_mib == n.whole.memory_mib)
    }

    /// The same with the request on it.
    pub fn place(&mut self, fit: &Fit, want: &Request, since: Timestamp, until: Option<Timestamp>) {
        self.occupy(Tenant {
            gpus: fit.gpus,
            since,
            until,
            memory_mib: want.memory_mib,
            disk_gib: want.disk_gib,
            shares: fit.shares.clone(),
            alone: want.alone,
        });
    }

    /// Keep something free for one who waits.
    pub fn hold(&mut self, hold: Hold) {
        self.holds.push(hold);
    }

    /// As the one sees it for whom something is held: what is held for others is kept from her.
    #[must_use]
    pub fn seen_by(&self, id: SliceId) -> Self {
        let holds = self.holds.iter().filter(|hold| hold.whose != id).cloned().collect();
        Self { holds, ..self.clone() }
    }

    /// Whole and empty, whatever is wrong with it now: as a time far off is judged.
    #[must_use]
    pub fn whole(&self) -> Self {
        let gpus: Vec<Gpu> = self.gpus.iter().map(|g| Gpu { state: GpuState::Free, ..*g }).collect();
        let nodes = self.nodes.iter().map(FreeNode::emptied).collect();
        let free = gpus.iter().fold(0, |mask, g| mask | bit(g.physical_id));
        let (memory_mib, disk_gib) = self.capacity;
        let empty = Self {
            closed: None,
            apart: false,
            gpus,
            nodes,
            free,
            out: !free,
            memory_mib,
            disk_gib,
            ..self.clone()
        };
        Self { tenants: Vec::new(), holds: Vec::new(), ..empty }
    }

    /// The partitions that it has.
    pub fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// GPUs that nobody has, as bits.
    pub fn free(&self) -> u64 {
        self.free
    }

    /// GPUs that nobody can have, whoever leaves, as bits.
    pub fn out(&self) -> u64 {
        self.out
    }

    /// Who is on it.
    pub fn tenants(&self) -> &[Tenant] {
        &self.tenants
    }

    /// Partitions for this request that are free some day: none of their GPUs is out, and nothing that it takes is held for
    /// another.
    pub fn some_day(&self, want: &Request) -> impl Iterator<Item = &Shape> {
        let held = self.holds.iter().fold(0, |mask, hold| mask | hold.gpus);
        self.shapes
            .sized(want.gpus)
            .filter(move |s| s.mask & self.out == 0 && self.taken(s.mask, want) & held == 0)
    }

    fn shut(&self, want: &Request) -> bool {
        self.closed.is_some() || (self.apart && want.gpus > 1)
    }

    /// Is there anything for this request, were nobody there?
    pub fn could(&self, want: &Request) -> bool {
        !self.shut(want) && self.some_day(want).next().is_some() && self.whole().fit(want).is_ok()
    }

    /// Whether memory, disk and cores are left, were the tenants of these GPUs gone, and of those around them where the request
    /// is alone.
    pub fn without(&self, gpus: u64, want: &Request) -> bool {
        let around = self.taken(gpus, want);
        let mut rest = Self { tenants: Vec::new(), ..self.whole() };
        for tenant in self.tenants.iter().filter(|t| t.gpus & around == 0) {
            rest.occupy(tenant.clone());
        }
        rest.room(want).is_ok() && rest.shares(gpus, want).is_some()
    }

    /// Where the request fits best.
    ///
    /// # Errors
    /// It does not fit.
    pub fn fit(&self, want: &Request) -> Result<Fit, Short> {
        let none = || Short::Gpus { largest_free: self.shapes.largest(self.free), asked: want.gpus };
        self.fit_if(want, &|_| true)?.ok_or_else(none)
    }

    /// The same, if what is spoiled is `good` enough; otherwise `None`.
    fn fit_if(&self, want: &Request, good: &dyn Fn(&Spoiled) -> bool) -> Result<Option<Fit>, Short> {
        if self.shut(want) {
            return Err(Short::Closed);
        }
        if self.holds.is_empty() {
            return self.fit_in(want, good);
        }
        // What is held is as good as taken; of what is not free by now, no more than is.
        let mut rest = Self { holds: Vec::new(), ..self.clone() };
        for hold in &self.holds {
            rest.free &= !hold.gpus;
            if hold.request.alone {
                rest.close_nodes(hold.gpus);
                rest.disk_gib = rest.disk_gib.map(|left| left.saturating_sub(hold.request.disk_gib));
                continue;
            }
            rest.memory_mib = rest.memory_mib.map(|left| left.saturating_sub(hold.request.memory_mib));
            rest.disk_gib = rest.disk_gib.map(|left| left.saturating_sub(hold.request.disk_gib));
            for share in rest.held(hold) {
                if let Some(node) = rest.nodes.iter_mut().find(|n| n.id == share.node) {
                    node.memory_mib = node.memory_mib.saturating_sub(share.memory_mib);
                    node.cores.retain(|core| !core.iter().any(|cpu| share.cpus.contains(cpu)));
                }
            }
        }
        rest.fit_in(want, good)
    }

    fn fit_in(&self, want: &Request, good: &dyn Fn(&Spoiled) -> bool) -> Result<Option<Fit>, Short> {
        let ranked = self.shapes.ranked(self.free, want.gpus, |mask| self.taken(mask, want));
        if ranked.is_empty() {
            let largest_free = self.shapes.largest(self.free);
            return Err(Short::Gpus { largest_free, asked: want.gpus });
        }
        self.room(want)?;
        // Of those that spoil the same one that is near, and else one from afar.
        for equals in ranked.chunk_by(|a, b| a.0 == b.0) {
            if equals.first().is_some_and(|(spoiled, _)| !good(spoiled)) {
                return Ok(None);
            }
            let mut best = None;
            for (spoiled, shape) in equals {
                let Some((far, shares)) = self.shares(shape.mask, want) else { continue };
                let fit = Fit { partition: shape.id, gpus: shape.mask, shares, spoiled: *spoiled };
                if !far {
                    return Ok(Some(fit));
                }
                best = best.or(Some(fit));
            }
            if best.is_some() {
                return Ok(best);
            }
        }
        Err(match want.alone {
            true if self.nodes.is_empty() => Short::Nodes,
            true => Short::Alone(want.gpus),
            false => Short::Cores(want.vcpus),
        })
    }

    /// Memory and disk of the whole host.
    fn room(&self, want: &Request) -> Result<(), Short> {
        if self.disk_gib.is_some_and(|left| left < want.disk_gib) {
            return Err(Short::Disk(want.disk_gib));
        }
        if self.memory_mib.is_some_and(|left| left < want.memory_mib) {
            return Err(Short::Memory(want.memory_mib));
        }
        Ok(())
    }

    /// Whether exactly this is still free.
    pub fn still(&self, fit: &Fit, want: &Request) -> bool {
        let free = |share: &NumaShare| {
            self.nodes.iter().any(|n| {
                let whole = n.cores.iter().flatten().filter(|cpu| share.cpus.contains(cpu)).count();
                n.id == share.node && n.memory_mib >= share.memory_mib && whole == share.cpus.len()
            })
        };
        let shape = self.shapes.sized(want.gpus).any(|s| s.id == fit.partition && s.mask == fit.gpus);
        let gpus = shape && fit.gpus & !self.free == 0;
        let room = self.room(want).is_ok() && (!want.alone || self.empty_around(fit.gpus));
        !self.shut(want) && gpus && room && fit.shares.iter().all(free)
    }

    /// An amount by the number of these GPUs on each node.
    fn split(&self, gpus: u64, amount: u64) -> Vec<u64> {
        let counts = self.counts(gpus);
        let all: u64 = counts.iter().copied().fold(0, u64::saturating_add).max(1);
        let mut before = 0;
        let mut given = 0;
        counts
            .iter()
            .map(|count| {
                before = count.saturating_add(before);
                let until_here = amount.saturating_mul(before) / all;
                let part = until_here.saturating_sub(given);
                given = until_here;
                part
            })
            .collect()
    }

    /// How many of these GPUs are on each node; one on none counts to the first.
    fn counts(&self, gpus: u64) -> Vec<u64> {
        let mut counts = vec![0; self.nodes.len()];
        for gpu in self.gpus.iter().filter(|g| bit(g.physical_id) & gpus != 0) {
            let at = self.nodes.iter().position(|n| n.id == gpu.node).unwrap_or(0);
            if let Some(count) = counts.get_mut(at) {
                *count += 1;
            }
        }
        counts
    }

    /// Cores and memory for a request on these GPUs, and whether some of it is far from them.
    fn shares(&self, gpus: u64, want: &Request) -> Option<(bool, Vec<NumaShare>)> {
        if want.alone && !self.empty_around(gpus) {
            return None;
        }
        if self.nodes.is_empty() {
            return (!want.alone).then(|| (false, Vec::new()));
        }
        let (far, shares, whole) = self.most(gpus, want);
        (whole && !(far && want.alone)).then_some((far, shares))
    }

    /// What of a hold is there already.
    fn held(&self, hold: &Hold) -> Vec<NumaShare> {
        self.most(hold.gpus, &hold.request).1
    }

    /// As much of the request as is left; whether some of it is far from its GPUs; whether it is all of it.
    fn most(&self, gpus: u64, want: &Request) -> (bool, Vec<NumaShare>, bool) {
        // On each node whole pages, as far as the whole of it is: of 1 GiB, else of 2 MiB.
        let grain = [1024, 2].into_iter().find(|mib| want.memory_mib.is_multiple_of(*mib)).unwrap_or(1);
        let memory: Vec<u64> = self
            .split(gpus, want.memory_mib / grain)
            .into_iter()
            .map(|part| part.saturating_mul(grain))
            .collect();
        let vcpus = self.split(gpus, want.vcpus.into());
        let part = |with: bool| -> Vec<usize> {
            let of = |n: &FreeNode| {
                let own = n.parts.iter().filter(|(id, _)| bit(**id) & gpus != 0).map(|(_, part)| part);
                own.map(|(all, slices)| if with { *all } else { *slices }).fold(0, usize::saturating_add)
            };
            self.nodes.iter().map(of).collect()
        };
        let (full, own) = (part(true), part(false));
        let need: Vec<usize> = self.nodes.iter().zip(&vcpus).map(|(n, v)| n.needs(*v)).collect();
        let modest = need.iter().zip(&full).all(|(need, full)| need <= full);
        let cores: Vec<usize> = match modest {
            // A GPU's part may be no core at all where there are fewer cores than GPUs: one is the least.
            true => need.iter().zip(&own).map(|(need, own)| (*need).min((*own).max(1))).collect(),
            false => need,
        };
        let mut taken: Vec<(usize, u64)> = Vec::new();
        let mut missing = (0_usize, 0_u64);
        for ((node, cores), memory) in self.nodes.iter().zip(&cores).zip(&memory) {
            let (c, m) = ((*cores).min(node.cores.len()), (*memory).min(node.memory_mib));
            missing = (missing.0.saturating_add(cores - c), missing.1.saturating_add(memory - m));
            taken.push((c, m));
        }
        let far = missing != (0, 0);
        for (node, taken) in self.nodes.iter().zip(&mut taken) {
            let c = missing.0.min(node.cores.len() - taken.0);
            let m = missing.1.min(node.memory_mib - taken.1);
            *taken = (taken.0 + c, taken.1 + m);
            missing = (missing.0 - c, missing.1 - m);
        }
        let share = |(node, (cores, memory)): (&FreeNode, &(usize, u64))| NumaShare {
            node: node.id,
            cpus: node.cores.iter().take(*cores).flatten().copied().collect(),
            memory_mib: *memory,
        };
        let shares = self.nodes.iter().zip(&taken).map(share);
        let shares = shares.filter(|s| !s.cpus.is_empty() || s.memory_mib > 0).collect();
        (far, shares, missing == (0, 0))
    }
}

impl FreeNode {
    fn new(node: &Node, gpus: &[Gpu], capacity: &Capacity) -> Self {
        // A node with no more cores than the host keeps gives none away.
        let kept = capacity.housekeeping.min(node.cores.len());
        let cores: Vec<Vec<u32>> = node.cores.iter().skip(kept).cloned().collect();
        let here: Vec<u32> = gpus.iter().filter(|g| g.node == node.id).map(|g| g.physical_id).collect();
        let part = |all: usize, at: usize| all * (at + 1) / here.len() - all * at / here.len();
        let parts = here
            .iter()
            .enumerate()
            .map(|(at, id)| (*id, (part(node.cores.len(), at), part(cores.len(), at))))
            .collect();
        let whole = Node { id: node.id, cores: cores.clone(), memory_mib: node.memory_mib };
        Self { id: node.id, cores, memory_mib: node.memory_mib, parts, whole }
    }

    fn emptied(&self) -> Self {
        let Node { cores, memory_mib, .. } = self.whole.clone();
        Self { cores, memory_mib, ..self.clone() }
    }

    /// Whole cores for so many vCPUs.
    fn needs(&self, vcpus: u64) -> usize {
        let threads = self.whole.cores.iter().map(Vec::len).min().unwrap_or(1).max(1);
        usize::try_from(vcpus).unwrap_or(usize::MAX).div_ceil(threads)
    }
}

/// The host for this request, by its place in the list, and where on it: where least is spoiled, of equals the one
/// that is left fullest, then the first by name.
///
/// # Errors
/// It fits nowhere: the nearest miss. `None`: there is no host.
pub fn search(hosts: &[Host], want: &Request) -> Result<(usize, Fit), Option<Short>> {
    let mut best: Option<(Spoiled, u32, &Name, usize, Fit)> = None;
    let mut miss = None;
    for (at, host) in hosts.iter().enumerate() {
        let left = host.free.count_ones();
        // Most of many hosts are no better than one before, which is seen without working out cores and memory.
        let better =
            |spoiled: &Spoiled| best.as_ref().is_none_or(|b| (*spoiled, left, &host.name) < (b.0, b.1, b.2));
        match host.fit_if(want, &better) {
            Ok(Some(fit)) => best = Some((fit.spoiled, left, &host.name, at, fit)),
            Ok(None) => {}
            Err(short) => miss = miss.max(Some(short)),
        }
    }
    best.map(|(.., at, fit)| (at, fit)).ok_or(miss)
}
