//! How a machine lies on the host, worked out before any XML is written. Pure.
//!
//! A share of a NUMA node becomes a cell of the guest. Where a machine has as many virtual processors as it was given
//! of the host's, they are pinned one to one and in the order of cores, so that siblings are siblings in the guest as
//! well; where it has more or fewer, those of a cell move freely over the cell's, and over no others. Devices keep
//! their neighbourhood:
//!
//! ```text
//!   host                                              guest
//!   pci0000:2b ─ port ─ switch ─┬─ switch ─┬─ GPU     expander, of the GPUs' cell ─ port ─ switch ─┬─ port ─ switch ─ …
//!                               │          └─ GPU                                                  └─ port ─ switch ─ …
//!                               └─ switch ─── GPU
//! ```
//!
//! A host bridge becomes an expander where there is more than one, or more than one cell; the switches from
//! the lowest one that all have in common downwards stay. So what the driver calls PIX, PXB, NODE and SYS on the
//! host it calls so in the guest, and a single GPU sits behind a root port and nothing else.
//!
//! A machine without shares may run anywhere: it has no cells, and its devices sit side by side.

use crate::{
    config::MachinesConfig,
    edge::{DomainSpec, EdgeError, NumaShare, Result},
    inventory::ground::{Ground, Place},
};
use holm_proto::ids::PciAddress;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// Root ports of the machine's own: two disks, serial, random numbers, vsock.
pub const OWN_PORTS: u32 = 8;
/// The bus of the first expander: those before it belong to the machine's own root.
const FIRST_EXPANDER_BUS: u32 = 32;
const LAST_BUS: u32 = 255;
/// QEMU's own least window for 64-bit BARs.
const LEAST_WINDOW_GIB: u64 = 32;
/// What QEMU's firmware can address at all, with 46 bits.
const MOST_WINDOW_GIB: u64 = 32 << 10;
const GIB: u64 = 1 << 30;
/// Memory is filled by no more threads than this at a time.
const MOST_FILLERS: u32 = 16;

/// How a machine lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The guest's NUMA cells; none where it may run anywhere.
    pub cells: Vec<Cell>,
    /// The host's processors of each virtual one; empty where they may run anywhere.
    pub pins: Vec<BTreeSet<u32>>,
    /// Where QEMU's own threads run; empty: anywhere.
    pub emulator: BTreeSet<u32>,
    /// Sockets, cores of each, threads of each; `None` where it is QEMU's affair.
    pub topology: Option<[u32; 3]>,
    /// Size of a page, MiB; `None` for ordinary ones.
    pub page_mib: Option<u64>,
    /// Threads that fill the memory when the machine starts.
    pub fillers: u32,
    /// What devices are plugged into, beyond the machine's own ports.
    pub ports: Vec<Port>,
    /// The port of each device, in the order of the spec.
    pub devices: Vec<Plugged>,
    /// Room for 64-bit BARs, GiB.
    pub window_gib: u64,
    /// The disk has a thread of its own.
    pub io_thread: bool,
}

/// A device and the number of its port.
pub type Plugged = (u32, PciAddress);

/// A NUMA cell of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The host's node.
    pub node: u32,
    /// Its virtual processors.
    pub cpus: Range<u32>,
    /// Its memory, MiB.
    pub memory_mib: u64,
    /// To each cell.
    pub distances: Vec<u32>,
}

/// A PCI controller: the bus behind it has its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub index: u32,
    /// What it is.
    pub kind: PortKind,
    /// The controller and the slot that it is plugged into; `None`: wherever there is room at the root.
    pub at: Option<(u32, u32)>,
}

/// What a PCI controller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A root of its own, in a cell where it belongs to one.
    Expander {
        /// The number of its bus.
        bus: u32,
        /// Its cell.
        cell: Option<u32>,
    },
    /// A root port.
    Root,
    /// The near side of a switch.
    Upstream,
    /// A far side of a switch.
    Downstream,
}

/// Works out how a machine lies on this host, or why it cannot.
pub fn plan(spec: &DomainSpec, ground: &Ground, config: &MachinesConfig) -> Result<Layout> {
    let page_mib = config.huge_pages.mib();
    let (mut cells, given) = cells(spec, ground, config)?;
    let (topology, pins) = match count(given.len()) == spec.vcpus {
        true => (topology(&cells, &given, ground), given.iter().map(|cpu| BTreeSet::from([*cpu])).collect()),
        false => (None, spread(&mut cells, &given, spec.vcpus)),
    };
    check_pages(spec, ground, page_mib)?;
    let (ports, devices) = Tree::of(ground, &cells).ports(spec)?;
    Ok(Layout {
        topology,
        emulator: match config.host_cpus.is_empty() {
            false => config.host_cpus.clone(),
            true => given.iter().copied().collect(),
        },
        fillers: spec.vcpus.clamp(1, MOST_FILLERS),
        window_gib: window_gib(&ground.places)?,
        io_thread: config.io_thread,
        cells,
        pins,
        page_mib,
        ports,
        devices,
    })
}

/// Memory is never rounded: what was approved is what is given, so it must be a multiple of the page, on each
/// node. That there are enough pages is looked at first, because QEMU would only say that it has no memory.
fn check_pages(spec: &DomainSpec, ground: &Ground, page_mib: Option<u64>) -> Result<()> {
    let Some(page) = page_mib else { return Ok(()) };
    let free =
        |node: &crate::inventory::ground::Node| node.free_pages.get(&(page * 1024)).copied().unwrap_or(0);
    let wanted: Vec<(String, u64, u64)> = if spec.nodes.is_empty() {
        vec![("the host".to_owned(), spec.memory_mib, ground.nodes.values().map(free).sum())]
    } else {
        let of = |node| (format!("node `{node}`"), ground.nodes.get(&node).map_or(0, free));
        let nodes = spec.nodes.iter().map(|share| (of(share.node), share.memory_mib));
        nodes.map(|((name, free), mib)| (name, mib, free)).collect()
    };
    for (name, mib, free) in wanted {
        if mib % page != 0 {
            return Err(EdgeError::new(format!(
                "`{mib}` MiB of memory on {name} are no whole number of pages of {page} MiB: ask for {} MiB",
                mib.next_multiple_of(page)
            )));
        }
        if mib / page > free {
            return Err(EdgeError::new(format!(
                "{name} has {free} free pages of {page} MiB and {} are needed: reserve more (`hugepages=` on the kernel's command line), or say `huge_pages = \"none\"`",
                mib / page
            )));
        }
    }
    Ok(())
}

fn cells(spec: &DomainSpec, ground: &Ground, config: &MachinesConfig) -> Result<(Vec<Cell>, Vec<u32>)> {
    let (mut cells, mut pins) = (Vec::new(), Vec::new());
    let mut taken = BTreeSet::new();
    // A guest's node has memory. Processors of a node that gives none stand last, and go to the last that does.
    let (with, without): (Vec<&NumaShare>, Vec<&NumaShare>) =
        spec.nodes.iter().partition(|share| share.memory_mib > 0);
    for share in with.into_iter().chain(without) {
        let node = ground
            .nodes
            .get(&share.node)
            .ok_or_else(|| EdgeError::new(format!("the host has no node `{}`", share.node)))?;
        let cpus: BTreeSet<u32> = share.cpus.iter().copied().collect();
        let first = count(pins.len());
        for cpu in &cpus {
            if !node.cpus.contains(cpu) {
                return Err(EdgeError::new(format!("processor `{cpu}` is not of node `{}`", share.node)));
            }
            if config.host_cpus.contains(cpu) {
                return Err(EdgeError::new(format!("processor `{cpu}` is the host's own: see `host_cpus`")));
            }
            // The order of cores: each with its first processor, siblings together.
            let siblings = ground.siblings.get(cpu).cloned().unwrap_or_default();
            if let Some(missing) = siblings.difference(&cpus).next() {
                return Err(EdgeError::new(format!(
                    "processor `{cpu}` is half a core, whose other half `{missing}` could be another slice's"
                )));
            }
            if siblings.first() == Some(cpu) {
                pins.extend(siblings.iter().filter(|cpu| taken.insert(**cpu)));
            }
        }
        if share.memory_mib == 0 {
            let last: &mut Cell =
                cells.last_mut().ok_or_else(|| EdgeError::new("its shares have no memory"))?;
            last.cpus.end = count(pins.len());
            continue;
        }
        cells.push(Cell {
            node: share.node,
            cpus: first..count(pins.len()),
            memory_mib: share.memory_mib,
            distances: Vec::new(),
        });
    }
    let nodes: Vec<u32> = cells.iter().map(|cell| cell.node).collect();
    for cell in &mut cells {
        let far = ground.nodes.get(&cell.node).map(|node| &node.distances);
        let distances: Option<Vec<u32>> =
            nodes.iter().map(|node| far?.get(node).copied().filter(|far| (10..255).contains(far))).collect();
        cell.distances = distances.unwrap_or_default();
    }
    if !cells.is_empty() && pins.is_empty() {
        return Err(EdgeError::new("its shares have no processors"));
    }
    let memory: u64 = cells.iter().map(|cell| cell.memory_mib).fold(0, u64::saturating_add);
    if !cells.is_empty() && memory != spec.memory_mib {
        return Err(EdgeError::new(format!(
            "its shares have {} processors and {memory} MiB, and it is to have {} MiB",
            pins.len(),
            spec.memory_mib
        )));
    }
    Ok((cells, pins))
}

/// Virtual processors over the cells, by how many of the host's each has; a cell may be left with memory alone.
/// Returns the host's processors of each.
fn spread(cells: &mut [Cell], given: &[u32], vcpus: u32) -> Vec<BTreeSet<u32>> {
    let part = |upto: u32| {
        let share = u64::from(vcpus) * u64::from(upto) / u64::from(count(given.len()).max(1));
        u32::try_from(share).unwrap_or(vcpus)
    };
    let mut pins = Vec::new();
    for cell in cells {
        let own: BTreeSet<u32> =
            cell.cpus.clone().filter_map(|at| given.get(usize::try_from(at).ok()?).copied()).collect();
        cell.cpus = part(cell.cpus.start)..part(cell.cpus.end);
        pins.extend(cell.cpus.clone().map(|_| own.clone()));
    }
    pins
}

/// A socket a cell where they are alike, and threads where every core has as many.
fn topology(cells: &[Cell], pins: &[u32], ground: &Ground) -> Option<[u32; 3]> {
    let sizes: BTreeSet<u32> = cells.iter().map(|cell| cell.cpus.end - cell.cpus.start).collect();
    let threads: BTreeSet<u32> =
        pins.iter().filter_map(|cpu| ground.siblings.get(cpu)).map(|core| count(core.len())).collect();
    let threads = if threads.len() == 1 { threads.first().copied().unwrap_or(1) } else { 1 };
    let sockets = if sizes.len() == 1 { count(cells.len()) } else { 1 };
    (!cells.is_empty()).then(|| [sockets, count(pins.len()) / (sockets * threads), threads])
}

/// The window for 64-bit BARs: the next power of two that holds them wherever the firmware puts them. It rounds
/// what is behind a bridge up to its largest BAR, and begins at a multiple of the largest of all.
fn window_gib(places: &[Place]) -> Result<u64> {
    let largest = |place: &Place| place.bars.iter().copied().max().unwrap_or(0);
    let mut bytes = places.iter().map(largest).max().unwrap_or(0);
    for place in places {
        let all = place.bars.iter().fold(0, |all: u64, bar| all.saturating_add(*bar));
        let rounded = all.checked_next_multiple_of(largest(place).max(1)).unwrap_or(u64::MAX);
        bytes = bytes.saturating_add(rounded);
    }
    let gib = bytes.div_ceil(GIB).max(LEAST_WINDOW_GIB).next_power_of_two();
    if gib <= MOST_WINDOW_GIB {
        Ok(gib)
    } else {
        Err(EdgeError::new(format!(
            "the BARs of its devices take `{gib}` GiB, more than a machine can address"
        )))
    }
}

/// The devices of a machine as the guest is to see them.
#[derive(Debug, Default)]
struct Tree {
    roots: Vec<Root>,
}

#[derive(Debug)]
struct Root {
    /// A root of its own in the guest, in this cell; otherwise the machine's.
    expander: Option<Option<u32>>,
    below: Vec<Branch>,
}

#[derive(Debug)]
enum Branch {
    Device(PciAddress),
    Switch(Vec<Branch>),
}

impl Tree {
    fn of(ground: &Ground, cells: &[Cell]) -> Self {
        let mut roots: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
        for place in &ground.places {
            roots.entry(&place.root).or_default().push(place);
        }
        if cells.is_empty() {
            let below = ground.places.iter().map(|place| Branch::Device(place.address)).collect();
            return Self { roots: vec![Root { expander: None, below }] };
        }
        let expand = roots.len() > 1 || cells.len() > 1;
        let cell = |node: Option<u32>| cells.iter().position(|cell| Some(cell.node) == node).map(count);
        let root = |places: Vec<&Place>| {
            let node = places.first().and_then(|place| place.node);
            let chains: Vec<Chain<'_>> =
                places.iter().map(|place| (place.address, place.switches.as_slice())).collect();
            Root { expander: expand.then(|| cell(node)), below: branches(&chains, true) }
        };
        Self { roots: roots.into_values().map(root).collect() }
    }

    /// The controllers that this takes, and each device's.
    fn ports(&self, spec: &DomainSpec) -> Result<(Vec<Port>, Vec<Plugged>)> {
        let mut made = Made { ports: Vec::new(), devices: BTreeMap::new() };
        let mut bus = FIRST_EXPANDER_BUS;
        for root in &self.roots {
            let Some(cell) = root.expander else {
                root.below.iter().for_each(|branch| made.plug(branch, None, PortKind::Root));
                continue;
            };
            let index = made.port(PortKind::Expander { bus, cell }, None);
            for (slot, branch) in (0..).zip(&root.below) {
                made.plug(branch, Some((index, slot)), PortKind::Root);
            }
            // A bus for each controller, the expander among them.
            bus += made.next() - index;
        }
        let next = if self.roots.iter().any(|root| root.expander.is_some()) { bus } else { made.next() };
        if next > LAST_BUS + 1 {
            return Err(EdgeError::new("its devices take more buses than a machine has"));
        }
        let port = |device: &PciAddress| {
            let port = made.devices.get(device).copied();
            port.map(|port| (port, *device))
                .ok_or_else(|| EdgeError::new(format!("it is not known where `{device}` is")))
        };
        let devices = spec.devices.iter().map(port).collect::<Result<_>>()?;
        Ok((made.ports, devices))
    }
}

/// A device and the switches above it that are left to be shown.
type Chain<'a> = (PciAddress, &'a [PciAddress]);

/// What hangs below a root, or below a switch. Below a root, switches that tell nobody from a neighbour are left out.
fn branches(chains: &[Chain<'_>], below_root: bool) -> Vec<Branch> {
    let mut all = Vec::new();
    let mut switches: BTreeMap<PciAddress, Vec<Chain<'_>>> = BTreeMap::new();
    for (device, chain) in chains {
        match chain.split_first() {
            Some((switch, below)) => switches.entry(*switch).or_default().push((*device, below)),
            None => all.push(Branch::Device(*device)),
        }
    }
    for mut below in switches.into_values() {
        if below_root {
            match &mut below[..] {
                [(device, _)] => {
                    all.push(Branch::Device(*device));
                    continue;
                }
                below => while strip(below) {},
            }
        }
        all.push(Branch::Switch(branches(&below, false)));
    }
    all
}

/// Takes away the outermost switch where all have the same one; false where they have not.
fn strip(chains: &mut [Chain<'_>]) -> bool {
    let mut firsts = chains.iter().map(|(_, chain)| chain.first());
    let Some(Some(first)) = firsts.next() else { return false };
    if !firsts.all(|other| other == Some(first)) {
        return false;
    }
    for (_, chain) in chains {
        *chain = chain.get(1..).unwrap_or_default();
    }
    true
}

/// Controllers, numbered as they are made.
#[derive(Debug)]
struct Made {
    ports: Vec<Port>,
    devices: BTreeMap<PciAddress, u32>,
}

impl Made {
    fn next(&self) -> u32 {
        OWN_PORTS + 1 + count(self.ports.len())
    }

    fn port(&mut self, kind: PortKind, at: Option<(u32, u32)>) -> u32 {
        let index = self.next();
        self.ports.push(Port { index, kind, at });
        index
    }

    fn plug(&mut self, branch: &Branch, at: Option<(u32, u32)>, kind: PortKind) {
        let port = self.port(kind, at);
        match branch {
            Branch::Device(device) => drop(self.devices.insert(*device, port)),
            Branch::Switch(below) => {
                let switch = self.port(PortKind::Upstream, Some((port, 0)));
                for (slot, branch) in (0..).zip(below) {
                    self.plug(branch, Some((switch, slot)), PortKind::Downstream);
                }
            }
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The DGX-2 that tests lay machines out on.
#[cfg(test)]
pub mod fixture {
    use super::*;
    use crate::{edge::NumaShare, inventory::ground::Node};

    /// The buses of the GPUs, in the order of the fabric's numbers.
    pub const GPUS: [u8; 16] =
        [0x34, 0x36, 0x39, 0x3b, 0x57, 0x59, 0x5c, 0x5e, 0xb7, 0xb9, 0xbc, 0xbe, 0xe0, 0xe2, 0xe5, 0xe7];

    /// The GPU with this number of the fabric's, 1 to 16.
    pub fn gpu(number: usize) -> PciAddress {
        at(GPUS[number - 1])
    }

    fn at(bus: u8) -> PciAddress {
        PciAddress { domain: 0, bus, device: 0, function: 0 }
    }

    /// 2 × 24 cores of two threads, four host bridges with a switch each and a switch for each pair of GPUs.
    pub fn dgx2(devices: &[PciAddress]) -> Ground {
        let place = |address: &PciAddress| {
            let number = GPUS.iter().position(|bus| *bus == address.bus).unwrap();
            let root = [0x2b, 0x4e, 0xae, 0xd7][number / 4];
            let pair = root + 5 + 3 * u8::try_from(number % 4 / 2).unwrap();
            Place {
                address: *address,
                node: Some(u32::from(number >= 8)),
                root: format!("pci0000:{root:02x}"),
                switches: vec![at(root + 1), at(pair)],
                bars: vec![32 << 30, 32 << 20],
            }
        };
        let nodes = [0, 1].map(|node| {
            let cpus = (0..24).flat_map(|core| [24 * node + core, 48 + 24 * node + core]).collect();
            let distances =
                BTreeMap::from([(0, if node == 0 { 10 } else { 21 }), (1, if node == 1 { 10 } else { 21 })]);
            (node, Node { cpus, distances, free_pages: BTreeMap::from([(1 << 20, 720), (2048, 1024)]) })
        });
        let siblings = (0..96).map(|cpu| (cpu, BTreeSet::from([cpu % 48, cpu % 48 + 48]))).collect();
        Ground { places: devices.iter().map(place).collect(), nodes: nodes.into(), siblings }
    }

    /// Whole cores of a node and memory from it.
    pub fn share(node: u32, cores: Range<u32>, memory_mib: u64) -> NumaShare {
        let cpus = cores.flat_map(|core| [24 * node + core, 24 * node + core + 48]).collect();
        NumaShare { node, cpus, memory_mib }
    }

    /// A slice with these GPUs, three cores and 90 GiB for each, on the GPUs' nodes.
    pub fn spec(gpus: &[usize]) -> DomainSpec {
        let share = |node: u32, gpus: usize| {
            let number = u32::try_from(gpus).unwrap();
            (gpus > 0).then(|| share(node, 0..(3 * number).min(23), 92_160 * u64::from(number)))
        };
        let near = gpus.iter().filter(|gpu| **gpu <= 8).count();
        let nodes: Vec<NumaShare> = share(0, near).into_iter().chain(share(1, gpus.len() - near)).collect();
        DomainSpec {
            slice: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
            level_name: "Confidential".to_owned(),
            vcpus: nodes.iter().map(|share| count(share.cpus.len())).sum(),
            memory_mib: nodes.iter().map(|share| share.memory_mib).sum(),
            volume: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap(),
            others: Vec::new(),
            devices: gpus.iter().map(|number| gpu(*number)).collect(),
            nodes,
            image: None,
        }
    }

    /// As on a DGX-2: the last core of each node is the host's.
    pub fn machines() -> MachinesConfig {
        MachinesConfig {
            huge_pages: crate::config::HugePages::OneGib,
            host_cpus: BTreeSet::from([23, 47, 71, 95]),
            io_thread: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fixture::*, *};
    use crate::config::HugePages;
    use proptest::prelude::*;

    fn planned(spec: &DomainSpec) -> Result<Layout> {
        plan(spec, &dgx2(&spec.devices), &machines())
    }

    /// How near two devices are in a guest: how many controllers lie between them and what they share.
    fn shared(layout: &Layout, a: PciAddress, b: PciAddress) -> Vec<u32> {
        let above = |device: PciAddress| {
            let port = |index: u32| layout.ports.iter().find(|port| port.index == index);
            let mut at = layout.devices.iter().find(|(_, address)| *address == device).map(|(port, _)| *port);
            let mut above = Vec::new();
            while let Some(index) = at {
                above.push(index);
                at = port(index).and_then(|port| port.at).map(|(index, _)| index);
            }
            above
        };
        let (a, b) = (above(a), above(b));
        a.into_iter().filter(|index| b.contains(index)).collect()
    }

    #[test]
    fn siblings_are_siblings_and_pins_are_in_the_order_of_cores() {
        let layout = planned(&spec(&[1, 4])).unwrap();
        let pins: Vec<u32> = layout.pins.iter().flatten().copied().collect();
        assert_eq!(pins, [0, 48, 1, 49, 2, 50, 3, 51, 4, 52, 5, 53]);
        assert_eq!(layout.topology, Some([1, 6, 2]));
        assert_eq!(layout.emulator, BTreeSet::from([23, 47, 71, 95]));
        assert_eq!((layout.cells.len(), layout.page_mib), (1, Some(1024)));
        let layout = planned(&spec(&(1..=7).chain([9]).collect::<Vec<_>>())).unwrap();
        // Cells of different size are no sockets.
        assert_eq!(layout.topology, Some([1, 24, 2]));
        assert_eq!(layout.cells[1].cpus, 42..48);
        assert_eq!(layout.cells[1].distances, [21, 10]);
    }

    #[test]
    fn neighbours_stay_neighbours() {
        let gpus: Vec<usize> = (1..=16).collect();
        let layout = planned(&spec(&gpus)).unwrap();
        let near = |a: usize, b: usize| shared(&layout, gpu(a), gpu(b)).len();
        // One switch, port and root in common; two switches with a port between; nothing.
        let (pix, pxb, node, sys) = (near(1, 2), near(1, 3), near(1, 5), near(1, 9));
        assert!(pix > pxb && pxb > node && node == 0 && sys == 0, "{pix} {pxb} {node} {sys}");
        for (a, b) in [(3, 4), (13, 14)] {
            assert_eq!(near(a, b), pix);
        }
        let roots: Vec<Option<u32>> = layout
            .ports
            .iter()
            .filter_map(|port| match port.kind {
                PortKind::Expander { cell, .. } => Some(cell),
                _ => None,
            })
            .collect();
        assert_eq!(roots, [Some(0), Some(0), Some(1), Some(1)]);
        // Two of different pairs: their pairs' switches stay, so that they are not taken for one pair.
        let layout = planned(&spec(&[1, 4])).unwrap();
        let kinds: Vec<PortKind> = layout.ports.iter().map(|port| port.kind).collect();
        let (root, up, down) = (PortKind::Root, PortKind::Upstream, PortKind::Downstream);
        assert_eq!(kinds, [root, up, down, up, down, down, up, down]);
        // Two of one pair: one switch. One alone: none.
        let layout = planned(&spec(&[1, 2])).unwrap();
        assert_eq!(layout.ports.iter().map(|port| port.kind).collect::<Vec<_>>(), [root, up, down, down]);
        assert_eq!(planned(&spec(&[1])).unwrap().ports.len(), 1);
    }

    #[test]
    fn the_window_holds_what_the_firmware_makes_of_the_bars() {
        for (gpus, gib) in [(1, 128), (2, 256), (4, 512), (8, 1024), (16, 2048)] {
            let spec = spec(&(1..=gpus).collect::<Vec<_>>());
            assert_eq!(planned(&spec).unwrap().window_gib, gib, "{gpus}");
        }
        let place = |bars: &[u64]| Place {
            address: gpu(1),
            node: None,
            root: String::new(),
            switches: Vec::new(),
            bars: bars.to_vec(),
        };
        assert_eq!(window_gib(&[]).unwrap(), 32);
        assert_eq!(window_gib(&[place(&[16 << 20])]).unwrap(), 32);
        assert!(window_gib(&[place(&[u64::MAX, u64::MAX])]).is_err());
    }

    #[test]
    fn what_would_share_or_does_not_fit_is_refused() {
        let ours = spec(&[1]);
        let refused = |change: &dyn Fn(&mut DomainSpec, &mut Ground, &mut MachinesConfig), word: &str| {
            let (mut spec, mut ground, mut config) = (ours.clone(), dgx2(&ours.devices), machines());
            change(&mut spec, &mut ground, &mut config);
            let error = plan(&spec, &ground, &config).unwrap_err().chain();
            assert!(error.contains(word), "{error}");
        };
        refused(
            &|spec, _, _| spec.nodes[0].cpus = vec![0, 48, 1],
            "`1` is half a core, whose other half `49`",
        );
        refused(&|spec, _, _| spec.nodes[0].cpus.clear(), "have no processors");
        refused(&|spec, _, _| spec.nodes[0].memory_mib = 0, "have no memory");
        refused(&|spec, _, _| spec.nodes[0].cpus[0] = 24, "`24` is not of node `0`");
        refused(&|spec, _, _| spec.nodes[0].node = 2, "no node `2`");
        refused(&|spec, _, _| spec.nodes[0].cpus = vec![23, 71], "`23` is the host's own");
        refused(&|spec, _, _| spec.nodes.push(spec.nodes[0].clone()), "its shares have");
        let odd = |spec: &mut DomainSpec| {
            spec.memory_mib = 92_161;
            spec.nodes[0].memory_mib = 92_161;
        };
        refused(&|spec, _, _| odd(spec), "`92161` MiB of memory on node `0` are no whole");
        refused(&|spec, _, _| odd(spec), "ask for 93184 MiB");
        refused(&|spec, _, _| spec.memory_mib = 1024, "its shares have 6 processors and 92160 MiB");
        refused(
            &|_, ground, _| ground.nodes.get_mut(&0).unwrap().free_pages = [(1 << 20, 89)].into(),
            "89 free",
        );
        refused(&|_, _, config| config.huge_pages = HugePages::TwoMib, "1024 free pages of 2 MiB");
        refused(&|_, ground, _| ground.places.clear(), "not known where");
    }

    #[test]
    fn a_node_gives_processors_or_memory_alone() {
        let mut ours = spec(&[1, 16]);
        ours.memory_mib = 92_160;
        ours.nodes[1].memory_mib = 0;
        let layout = planned(&ours).unwrap();
        assert_eq!((layout.cells.len(), layout.cells[0].cpus.clone()), (1, 0..ours.vcpus));
        let mut ours = spec(&[1, 16]);
        ours.nodes[1].cpus.clear();
        let layout = planned(&ours).unwrap();
        assert_eq!(layout.cells.len(), 2);
        assert!(layout.cells[1].cpus.is_empty());
    }

    #[test]
    fn without_shares_it_may_run_anywhere() {
        let ours = DomainSpec { nodes: Vec::new(), ..spec(&[1, 16]) };
        let layout = planned(&ours).unwrap();
        assert!(layout.cells.is_empty() && layout.pins.is_empty() && layout.topology.is_none());
        assert_eq!(layout.ports.iter().map(|port| port.kind).collect::<Vec<_>>(), [PortKind::Root; 2]);
        let odd = DomainSpec { memory_mib: 1_000_000 + 1, ..ours.clone() };
        assert!(planned(&odd).unwrap_err().chain().contains("on the host are no whole"));
        let none = MachinesConfig { huge_pages: HugePages::None, ..machines() };
        assert!(plan(&odd, &dgx2(&odd.devices), &none).is_ok());
    }

    proptest! {
        #[test]
        fn more_or_fewer_processors_than_were_given_move_within_their_own(
            gpus in proptest::sample::subsequence((1..=16).collect::<Vec<usize>>(), 1..=16),
            vcpus in 1..200_u32,
        ) {
            let spec = DomainSpec { vcpus, ..spec(&gpus) };
            let layout = planned(&spec).unwrap();
            prop_assert_eq!(layout.pins.len(), vcpus as usize);
            prop_assert_eq!(layout.cells.iter().map(|cell| cell.cpus.len()).sum::<usize>(), vcpus as usize);
            for (cell, share) in layout.cells.iter().zip(&spec.nodes) {
                let given: BTreeSet<u32> = share.cpus.iter().copied().collect();
                prop_assert!(cell.cpus.clone().all(|cpu| layout.pins[cpu as usize].is_subset(&given)));
            }
        }

        #[test]
        fn any_slice_of_whole_cores_lies_on_them_and_nowhere_else(
            gpus in proptest::sample::subsequence((1..=16).collect::<Vec<usize>>(), 1..=16),
        ) {
            let spec = spec(&gpus);
            let layout = planned(&spec).unwrap();
            let pins: BTreeSet<u32> = layout.pins.iter().flatten().copied().collect();
            let given: BTreeSet<u32> = spec.nodes.iter().flat_map(|share| share.cpus.clone()).collect();
            prop_assert_eq!(&pins, &given);
            prop_assert_eq!(layout.pins.len(), pins.len());
            let [sockets, cores, threads] = layout.topology.unwrap();
            prop_assert_eq!(sockets * cores * threads, spec.vcpus);
            for cell in &layout.cells {
                let node = &dgx2(&[]).nodes[&cell.node];
                prop_assert!(cell.cpus.clone().all(|cpu| layout.pins[cpu as usize].is_subset(&node.cpus)));
            }
            // Controllers are numbered in a row, and each slot is used once.
            let indices: Vec<u32> = layout.ports.iter().map(|port| port.index).collect();
            prop_assert!(indices.iter().copied().eq(OWN_PORTS + 1..OWN_PORTS + 1 + count(indices.len())));
            let slots: Vec<(u32, u32)> = layout.ports.iter().filter_map(|port| port.at).collect();
            prop_assert_eq!(slots.iter().collect::<BTreeSet<_>>().len(), slots.len());
            prop_assert!(layout.ports.iter().all(|port| port.at.is_none_or(|(above, slot)| above < port.index && slot < 32)));
            prop_assert_eq!(layout.devices.len(), gpus.len());
            // Nearer on the host is never farther in the guest.
            let places = dgx2(&spec.devices).places;
            let near = |a: &Place, b: &Place| match (a.switches == b.switches, a.root == b.root) {
                (true, _) => 2,
                (_, true) => 1,
                _ => 0,
            };
            for a in &places {
                for b in places.iter().filter(|b| b.address != a.address) {
                    let seen = shared(&layout, a.address, b.address).len();
                    prop_assert_eq!(near(a, b) == 0, seen == 0);
                }
            }
        }
    }
}
