//! A host's tree: nodes, roots, switches, and what is behind them. Shown as text here, drawn in `svg`.
//!
//! What an agent told is not trusted to be a tree: what hangs below nothing, or in a circle, is shown aside.

use super::host::{address, is_gpu, state_cell};
use crate::output::{Cell, Output, Table, Tone};
use crate::text::{bytes, mib, plain};
use holm_proto::v1::{
    BridgeKind, Device, Drive, Health, HealthState, Host, Inventory, Link, NumaNode, PciBridge,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// No tree of PCI Express is as deep: there are 256 buses.
const DEEPEST: usize = 64;

/// The whole of it.
#[derive(Debug, Clone)]
pub struct Topology {
    /// By number; what is near none comes last.
    pub nodes: Vec<Branch>,
}

/// What a branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A NUMA node.
    Node,
    /// A port of the processor.
    Root,
    /// A switch: its upstream port stands for it.
    Switch,
    /// A GPU or an NVSwitch.
    Device,
    /// A disk.
    Drive,
}

/// One thing, and what is behind it.
#[derive(Debug, Clone)]
pub struct Branch {
    /// What it is.
    pub kind: Kind,
    /// What it is called.
    pub title: String,
    /// What there is to say of it.
    pub said: Vec<Cell>,
    /// Where it is behind.
    pub below: Vec<Branch>,
}

impl Topology {
    /// As the host's agent told it; `None` where it told nothing.
    pub fn new(host: &Host) -> Option<Self> {
        let inventory = host.inventory.as_ref()?;
        if inventory.bridges.is_empty() && inventory.nodes.is_empty() {
            return None;
        }
        let mut build = Build::new(host, inventory);
        let mut roots: BTreeMap<i32, Vec<Branch>> = BTreeMap::new();
        for bridge in inventory.bridges.iter().filter(|b| b.parent.is_empty()) {
            if let Some(branch) = build.bridge(bridge, None, 0) {
                roots.entry(bridge.numa_node).or_default().push(branch);
            }
        }
        // Below no bridge, or below one that is not known.
        for (node, branch) in build.rest() {
            roots.entry(node).or_default().push(branch);
        }
        let mut nodes = Vec::new();
        for node in &inventory.nodes {
            let below = i32::try_from(node.id).ok().and_then(|id| roots.remove(&id)).unwrap_or_default();
            nodes.push(Branch {
                kind: Kind::Node,
                title: format!("node {}", node.id),
                said: of_node(node),
                below,
            });
        }
        for (node, below) in roots {
            let title = if node < 0 { "no node".to_owned() } else { format!("node {node}") };
            nodes.push(Branch { kind: Kind::Node, title, said: Vec::new(), below });
        }
        Some(Self { nodes })
    }

    /// A line each, with what is behind a thing below it.
    pub fn text(&self, output: &Output) -> String {
        let mut out = String::new();
        for node in &self.nodes {
            out.push_str(&line(node, output));
            twigs(&node.below, "", output, &mut out);
        }
        out
    }
}

fn twigs(branches: &[Branch], before: &str, output: &Output, out: &mut String) {
    for (at, branch) in branches.iter().enumerate() {
        let last = at + 1 == branches.len();
        let (fork, bar) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        out.push_str(&output.toned(Tone::Dim, &format!("{before}{fork}")));
        out.push_str(&line(branch, output));
        twigs(&branch.below, &format!("{before}{bar}"), output, out);
    }
}

fn line(branch: &Branch, output: &Output) -> String {
    let mut line = plain(&branch.title).into_owned();
    for cell in branch.said.iter().filter(|cell| !cell.shown().is_empty()) {
        line.push_str("  ");
        line.push_str(&output.toned(cell.tone_of(), cell.shown()));
    }
    line + "\n"
}

/// What is still to be placed.
struct Build<'a> {
    bridges: BTreeMap<&'a str, &'a PciBridge>,
    below: BTreeMap<&'a str, Vec<&'a PciBridge>>,
    devices: BTreeMap<&'a str, Vec<&'a Device>>,
    drives: BTreeMap<&'a str, Vec<&'a Drive>>,
    seen: BTreeSet<&'a str>,
}

impl<'a> Build<'a> {
    fn new(host: &'a Host, inventory: &'a Inventory) -> Self {
        let mut build = Self {
            bridges: inventory.bridges.iter().map(|b| (b.address.as_str(), b)).collect(),
            below: BTreeMap::new(),
            devices: BTreeMap::new(),
            drives: BTreeMap::new(),
            seen: BTreeSet::new(),
        };
        for bridge in &inventory.bridges {
            build.below.entry(&bridge.parent).or_default().push(bridge);
        }
        for device in &host.devices {
            let parent = device.pci.as_ref().map_or("", |pci| pci.parent.as_str());
            build.devices.entry(parent).or_default().push(device);
        }
        for drive in &inventory.drives {
            build.drives.entry(&drive.parent).or_default().push(drive);
        }
        build
    }

    /// A port or a switch with what is behind it; `None` where nothing of a host's own is.
    fn bridge(&mut self, bridge: &'a PciBridge, port: Option<&'a PciBridge>, depth: usize) -> Option<Branch> {
        if depth > DEEPEST || !self.seen.insert(&bridge.address) {
            return None;
        }
        let below = self.behind(bridge, depth);
        let (kind, word) = match bridge.kind() {
            BridgeKind::RootPort => (Kind::Root, "root port"),
            BridgeKind::Upstream => (Kind::Switch, "switch"),
            BridgeKind::Downstream => (Kind::Switch, "port"),
            BridgeKind::Conventional | BridgeKind::Unspecified => (Kind::Switch, "bridge"),
        };
        let mut said = vec![link(bridge.link.as_ref())];
        said.extend(port.map(acs));
        let branch = Branch { kind, title: format!("{word} {}", bridge.address), said, below };
        (!branch.below.is_empty()).then_some(branch)
    }

    /// A downstream port is told by what is behind it; its access control is said there.
    fn behind(&mut self, port: &'a PciBridge, depth: usize) -> Vec<Branch> {
        let mut all: Vec<(&'a str, Branch)> = Vec::new();
        let above = matches!(port.kind(), BridgeKind::RootPort | BridgeKind::Downstream).then_some(port);
        for device in self.devices.remove(port.address.as_str()).unwrap_or_default() {
            all.push((address(device), of_device(device, above)));
        }
        for drive in self.drives.remove(port.address.as_str()).unwrap_or_default() {
            all.push((&drive.address, of_drive(drive)));
        }
        for bridge in self.below.remove(port.address.as_str()).unwrap_or_default() {
            if bridge.kind() == BridgeKind::Downstream {
                if depth < DEEPEST && self.seen.insert(&bridge.address) {
                    let place = bridge.address.as_str();
                    all.extend(self.behind(bridge, depth + 1).into_iter().map(|branch| (place, branch)));
                }
            } else if let Some(branch) = self.bridge(bridge, above, depth + 1) {
                all.push((&bridge.address, branch));
            }
        }
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, branch)| branch).collect()
    }

    /// What is below no port that was reached.
    fn rest(&mut self) -> Vec<(i32, Branch)> {
        let mut rest = Vec::new();
        for device in std::mem::take(&mut self.devices).into_values().flatten() {
            let pci = device.pci.as_ref();
            let port = pci.and_then(|pci| self.bridges.get(pci.parent.as_str()).copied());
            rest.push((pci.map_or(-1, |pci| pci.numa_node), of_device(device, port)));
        }
        for drive in std::mem::take(&mut self.drives).into_values().flatten() {
            rest.push((drive.numa_node, of_drive(drive)));
        }
        rest
    }
}

fn of_node(node: &NumaNode) -> Vec<Cell> {
    let threads: usize = node.cores.iter().map(|core| core.cpus.len()).sum();
    let mut said = vec![
        Cell::new(format!("{} cores, {threads} threads", node.cores.len())),
        Cell::new(mib(node.memory_mib)),
    ];
    for pages in node.huge_pages.iter().filter(|pages| pages.total > 0) {
        let size = bytes(pages.size_kib.saturating_mul(1024));
        said.push(Cell::new(format!("{} of {} huge pages of {size} free", pages.free, pages.total)));
    }
    said
}

fn of_device(device: &Device, port: Option<&PciBridge>) -> Branch {
    let pci = device.pci.clone().unwrap_or_default();
    let title = match (is_gpu(device), pci.physical_id) {
        (true, Some(number)) => format!("GPU {number}  {}", pci.address),
        (true, None) => format!("GPU  {}", pci.address),
        (false, _) => format!("NVSwitch  {}", pci.address),
    };
    let mut said = vec![link(pci.link.as_ref())];
    said.extend(port.map(acs));
    said.push(match pci.iommu_group {
        Some(group) => Cell::new(format!("group {group}")),
        None => Cell::new("NO IOMMU GROUP").tone(Tone::Bad),
    });
    if is_gpu(device) {
        said.push(state_cell(device));
        said.extend(
            device
                .maintenance
                .as_ref()
                .map(|m| Cell::new(format!("OUT OF SERVICE: {}", m.reason)).tone(Tone::Bad)),
        );
        said.push(Cell::new(&device.slice));
    }
    said.push(health(pci.health.as_ref()));
    if !pci.problem.is_empty() {
        said.push(Cell::new(&pci.problem).tone(Tone::Bad));
    }
    Branch { kind: Kind::Device, title, said, below: Vec::new() }
}

fn of_drive(drive: &Drive) -> Branch {
    let title = format!("{}  {}", drive.name, drive.address);
    let said = vec![Cell::new(bytes(drive.bytes)), Cell::new(&drive.model).tone(Tone::Dim)];
    Branch { kind: Kind::Drive, title, said, below: Vec::new() }
}

/// How a link runs; how it could, where it does not run so.
fn link(link: Option<&Link>) -> Cell {
    let Some(l) = link else { return Cell::default() };
    if l.speed.is_empty() || l.width == 0 {
        return Cell::new("link down").tone(Tone::Dim);
    }
    let runs = format!("{} GT/s x{}", l.speed, l.width);
    if l.max_width == 0 || (l.speed == l.max_speed && l.width == l.max_width) {
        return Cell::new(runs);
    }
    Cell::new(format!("{runs} of {} GT/s x{}", l.max_speed, l.max_width)).tone(Tone::Busy)
}

/// Whether a port keeps what is behind it from its neighbours.
pub fn acs(port: &PciBridge) -> Cell {
    let Some(acs) = port.acs else { return Cell::new("NO ACS").tone(Tone::Bad) };
    let parts = [
        (acs.source_validation, "SV"),
        (acs.request_redirect, "RR"),
        (acs.completion_redirect, "CR"),
        (acs.upstream_forwarding, "UF"),
    ];
    let off: Vec<&str> = parts.into_iter().filter(|(on, _)| !on).map(|(_, name)| name).collect();
    match off.len() {
        0 => Cell::new("acs on").tone(Tone::Good),
        4 => Cell::new("ACS OFF").tone(Tone::Bad),
        _ => Cell::new(format!("ACS WITHOUT {}", off.join(", "))).tone(Tone::Bad),
    }
}

/// Unknown is never healthy.
pub fn health(health: Option<&Health>) -> Cell {
    let warm = |h: &Health| h.temperature_c.map(|t| format!(", {t} °C")).unwrap_or_default();
    match health.map(|h| (h.state(), h)) {
        Some((HealthState::Healthy, h)) => Cell::new(format!("healthy{}", warm(h))).tone(Tone::Good),
        Some((HealthState::Degraded, h)) => {
            Cell::new(format!("DEGRADED: {}{}", h.reason, warm(h))).tone(Tone::Busy)
        }
        Some((HealthState::Failed, h)) => {
            Cell::new(format!("FAILED: {}{}", h.reason, warm(h))).tone(Tone::Bad)
        }
        Some((HealthState::Unknown | HealthState::Unspecified, _)) | None => {
            Cell::new("health unknown").tone(Tone::Dim)
        }
    }
}

/// The word for scripts.
pub fn health_word(health: Option<&Health>) -> &'static str {
    match health.map(Health::state) {
        Some(HealthState::Healthy) => "healthy",
        Some(HealthState::Degraded) => "degraded",
        Some(HealthState::Failed) => "failed",
        Some(HealthState::Unknown | HealthState::Unspecified) | None => "unknown",
    }
}

/// The way between two GPUs, in the words of `nvidia-smi topo`: over one switch (PIX), over several (PXB), over
/// the processor's root (PHB), within a node (NODE), between nodes (SYS).
fn path(a: &Device, b: &Device, bridges: &BTreeMap<&str, &PciBridge>) -> &'static str {
    let above = |device: &Device| -> Vec<String> {
        let mut all = Vec::new();
        let mut next = device.pci.as_ref().map(|pci| pci.parent.clone()).unwrap_or_default();
        while let Some(bridge) = bridges.get(next.as_str()).filter(|_| all.len() < DEEPEST) {
            all.push(next);
            next = bridge.parent.clone();
        }
        all
    };
    let (mine, theirs) = (above(a), above(b));
    if mine.is_empty() || theirs.is_empty() {
        return "?";
    }
    let root = |all: &[String]| all.last().and_then(|top| bridges.get(top.as_str())).map(|b| b.root.as_str());
    let node = |device: &Device| device.pci.as_ref().map_or(-1, |pci| pci.numa_node);
    let common = |all: &[String], other: &[String]| all.iter().position(|one| other.contains(one));
    match (common(&mine, &theirs), common(&theirs, &mine)) {
        (Some(0 | 1), Some(0 | 1)) => "PIX",
        (Some(_), Some(_)) => "PXB",
        _ if root(&mine) == root(&theirs) => "PHB",
        _ if node(a) == node(b) => "NODE",
        _ => "SYS",
    }
}

/// The GPUs of a host, the fabric's first number first.
fn gpus(host: &Host) -> Vec<&Device> {
    let mut gpus: Vec<&Device> = host.devices.iter().filter(|device| is_gpu(device)).collect();
    gpus.sort_by_key(|device| {
        let number = device.pci.as_ref().and_then(|pci| pci.physical_id);
        (number.is_none(), number, address(device))
    });
    gpus
}

fn short(device: &Device) -> String {
    match device.pci.as_ref().and_then(|pci| pci.physical_id) {
        Some(number) => number.to_string(),
        None => address(device).to_owned(),
    }
}

/// How far each GPU is from each other.
pub fn paths(host: &Host) -> Table {
    let bridges = by_address(host);
    let row = |one: &&Device| {
        let near: BTreeMap<&str, Vec<String>> = gpus(host)
            .iter()
            .filter(|other| address(other) != address(one))
            .fold(BTreeMap::new(), |mut all, other| {
                all.entry(path(one, other, &bridges)).or_insert_with(Vec::new).push(short(other));
                all
            });
        let of = |word: &str| Cell::new(near.get(word).map(|all| all.join(" ")).unwrap_or_default());
        let mut cells = vec![Cell::new(short(one)), Cell::new(address(one))];
        cells.extend(["PIX", "PXB", "PHB", "NODE", "SYS", "?"].map(of));
        cells
    };
    Table {
        columns: vec!["gpu", "address", "pix", "pxb", "phb", "node", "sys", "unknown"],
        rows: gpus(host).iter().map(row).collect(),
        empty: "no GPUs are known",
    }
}

/// The same for scripts: each pair once.
pub fn paths_json(host: &Host) -> Value {
    let bridges = by_address(host);
    let gpus = gpus(host);
    let mut all = Vec::new();
    for (at, one) in gpus.iter().enumerate() {
        for other in gpus.iter().skip(at + 1) {
            all.push(
                json!({ "from": address(one), "to": address(other), "path": path(one, other, &bridges) }),
            );
        }
    }
    json!(all)
}

fn by_address(host: &Host) -> BTreeMap<&str, &PciBridge> {
    let bridges = host.inventory.as_ref().map(|i| i.bridges.as_slice()).unwrap_or_default();
    bridges.iter().map(|b| (b.address.as_str(), b)).collect()
}
