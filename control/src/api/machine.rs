//! What an agent says its machine is made of, checked and kept small, and the same on its way to people.

use super::{parsed, plain};
use crate::domain::machine::{
    Bridge, BridgeKind, Drive, Hardware, Health, HealthState, HugePages, Link, Machine, Node,
};
use crate::domain::{Refusal, RefusalKind};
use crate::live::Moment;
use holm_proto::ids::PciAddress;
use holm_proto::v1;
use std::collections::{BTreeMap, BTreeSet};

/// A DGX-2 has some ninety bridges.
const BRIDGES: usize = 160;
const NODES: usize = 16;
/// Logical processors of all nodes.
const CPUS: usize = 1024;
const DRIVES: usize = 64;
/// Sizes of huge pages of one node, XIDs of one device.
const FEW: usize = 8;
/// Of what a machine consists of, as it is kept.
const MACHINE_BYTES: usize = 40 << 10;
/// Bytes of a sentence, of a name, of a word.
const LONG: usize = 160;
const SHORT: usize = 48;
const WORD: usize = 16;

/// The machine in an inventory, all of it named once.
pub(super) fn machine(seen: &v1::Inventory) -> Result<Machine, Refusal> {
    most("bridges", seen.bridges.len(), BRIDGES)?;
    most("NUMA nodes", seen.nodes.len(), NODES)?;
    most("disks", seen.drives.len(), DRIVES)?;
    let mut places = BTreeSet::new();
    let mut bridges = Vec::new();
    for b in &seen.bridges {
        let bridge = bridge(b)?;
        if !places.insert(bridge.address) {
            return Err(twice(&bridge.address.to_string()));
        }
        bridges.push(bridge);
    }
    let (mut numbers, mut cpus) = (BTreeSet::new(), BTreeSet::new());
    let mut nodes = Vec::new();
    for n in &seen.nodes {
        if !numbers.insert(n.id) {
            return Err(twice(&format!("node {}", n.id)));
        }
        nodes.push(node(n, &mut cpus)?);
    }
    let mut names = BTreeSet::new();
    let mut drives = Vec::new();
    for d in &seen.drives {
        let drive = drive(d)?;
        if !names.insert(drive.name.clone()) {
            return Err(twice(&format!("disk {}", drive.name)));
        }
        drives.push(drive);
    }
    let (product, firmware) = (plain(&seen.product, SHORT), plain(&seen.firmware, SHORT));
    let machine = Machine { product, firmware, bridges, nodes, drives };
    // It is written again with whatever else changes of its host: taking that out of service, too, must fit an entry.
    let bytes = serde_json::to_vec(&machine).map_or(usize::MAX, |text| text.len());
    if bytes > MACHINE_BYTES {
        let text =
            format!("an inventory takes at most {MACHINE_BYTES} bytes to keep, this one takes {bytes}");
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    Ok(machine)
}

/// Where a device hangs and how its link runs.
pub(super) fn hardware(d: &v1::PciDevice) -> Result<Hardware, Refusal> {
    Ok(Hardware {
        parent: address(&d.parent)?,
        link: d.link.as_ref().map(link),
        firmware: plain(&d.firmware, SHORT),
    })
}

/// How a device is. A state that is not known here is none that anybody may rely on.
pub(super) fn health(h: &v1::Health) -> Health {
    let state = match h.state() {
        v1::HealthState::Healthy => HealthState::Healthy,
        v1::HealthState::Degraded => HealthState::Degraded,
        v1::HealthState::Failed => HealthState::Failed,
        v1::HealthState::Unknown | v1::HealthState::Unspecified => HealthState::Unknown,
    };
    Health {
        state,
        source: plain(&h.source, SHORT),
        reason: plain(&h.reason, LONG),
        ecc_corrected: h.ecc_corrected,
        ecc_uncorrected: h.ecc_uncorrected,
        retired_pages: h.retired_pages,
        xids: h.xids.iter().take(FEW).copied().collect(),
        links_up: h.links_up,
        links: h.links,
    }
}

/// What an inventory says of the moment it was taken in: how warm each device was, and when.
pub(super) fn moment(seen: &v1::Inventory) -> BTreeMap<PciAddress, Moment> {
    let moment = |d: &v1::PciDevice| {
        let health = d.health.as_ref()?;
        let at = health.at.filter(|at| jiff::Timestamp::new(at.seconds, at.nanos).is_ok());
        let moment = Moment { temperature_c: health.temperature_c, at };
        Some((d.address.parse().ok()?, moment))
    };
    seen.devices.iter().filter_map(moment).collect()
}

fn bridge(b: &v1::PciBridge) -> Result<Bridge, Refusal> {
    let kind = match b.kind() {
        v1::BridgeKind::RootPort => BridgeKind::RootPort,
        v1::BridgeKind::Upstream => BridgeKind::Upstream,
        v1::BridgeKind::Downstream => BridgeKind::Downstream,
        v1::BridgeKind::Conventional => BridgeKind::Conventional,
        v1::BridgeKind::Unspecified => BridgeKind::Unknown,
    };
    let bits =
        |bits: u32| u16::try_from(bits).map_err(|_| invalid(format!("{} has ACS bits beyond 16", b.address)));
    Ok(Bridge {
        address: parsed(&b.address)?,
        id: plain(&b.id, WORD),
        kind,
        parent: address(&b.parent)?,
        root: plain(&b.root, WORD),
        numa_node: b.numa_node,
        iommu_group: b.iommu_group,
        link: b.link.as_ref().map(link),
        acs: b.acs.as_ref().map(|a| Ok((bits(a.capability)?, bits(a.control)?))).transpose()?,
    })
}

fn link(l: &v1::Link) -> Link {
    let (speed, max_speed) = (plain(&l.speed, WORD), plain(&l.max_speed, WORD));
    Link { speed, width: l.width, max_speed, max_width: l.max_width }
}

fn node(n: &v1::NumaNode, cpus: &mut BTreeSet<u32>) -> Result<Node, Refusal> {
    for cpu in n.cores.iter().flat_map(|core| &core.cpus) {
        if !cpus.insert(*cpu) {
            return Err(twice(&format!("processor {cpu}")));
        }
    }
    most("processors", cpus.len().max(n.cores.len()), CPUS)?;
    let pages = |p: &v1::HugePages| HugePages { size_kib: p.size_kib, total: p.total, free: p.free };
    Ok(Node {
        id: n.id,
        cores: n.cores.iter().map(|core| core.cpus.clone()).collect(),
        memory_mib: n.memory_mib,
        huge_pages: n.huge_pages.iter().take(FEW).map(pages).collect(),
        distances: n.distances.iter().take(NODES).copied().collect(),
    })
}

fn drive(d: &v1::Drive) -> Result<Drive, Refusal> {
    Ok(Drive {
        name: plain(&d.name, SHORT),
        address: address(&d.address)?,
        parent: address(&d.parent)?,
        model: plain(&d.model, SHORT),
        bytes: d.bytes,
        numa_node: d.numa_node,
        rotational: d.rotational,
        discard_max_bytes: d.discard_max_bytes,
    })
}

fn address(text: &str) -> Result<Option<PciAddress>, Refusal> {
    if text.is_empty() { Ok(None) } else { parsed(text).map(Some) }
}

fn most(what: &str, count: usize, most: usize) -> Result<(), Refusal> {
    if count <= most { Ok(()) } else { Err(invalid(format!("an inventory has at most {most} {what}"))) }
}

fn twice(what: &str) -> Refusal {
    invalid(format!("the inventory has {what} twice"))
}

fn invalid(text: String) -> Refusal {
    Refusal::new(RefusalKind::Invalid, text)
}

/// Adds the machine to what is shown of a host.
pub(super) fn show(m: &Machine, inventory: &mut v1::Inventory) {
    inventory.product.clone_from(&m.product);
    inventory.firmware.clone_from(&m.firmware);
    inventory.bridges = m.bridges.iter().map(shown_bridge).collect();
    inventory.nodes = m.nodes.iter().map(shown_node).collect();
    inventory.drives = m.drives.iter().map(shown_drive).collect();
}

/// Adds what is known of a device beyond what it is.
pub(super) fn show_device(
    h: &Hardware,
    health: Option<&Health>,
    moment: Option<&Moment>,
    device: &mut v1::PciDevice,
) {
    device.parent = h.parent.map(|parent| parent.to_string()).unwrap_or_default();
    device.link = h.link.as_ref().map(shown_link);
    device.firmware.clone_from(&h.firmware);
    device.health = health.map(shown_health);
    if let (Some(health), Some(moment)) = (&mut device.health, moment) {
        (health.temperature_c, health.at) = (moment.temperature_c, moment.at);
    }
}

fn shown_bridge(b: &Bridge) -> v1::PciBridge {
    let kind = match b.kind {
        BridgeKind::Unknown => v1::BridgeKind::Unspecified,
        BridgeKind::RootPort => v1::BridgeKind::RootPort,
        BridgeKind::Upstream => v1::BridgeKind::Upstream,
        BridgeKind::Downstream => v1::BridgeKind::Downstream,
        BridgeKind::Conventional => v1::BridgeKind::Conventional,
    };
    v1::PciBridge {
        address: b.address.to_string(),
        id: b.id.clone(),
        kind: kind.into(),
        parent: b.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        root: b.root.clone(),
        numa_node: b.numa_node,
        iommu_group: b.iommu_group,
        link: b.link.as_ref().map(shown_link),
        acs: b.acs.map(|(capability, control)| v1::Acs {
            // What is on is what the register says, whatever the agent made of it.
            source_validation: control & 1 != 0,
            request_redirect: control & 1 << 2 != 0,
            completion_redirect: control & 1 << 3 != 0,
            upstream_forwarding: control & 1 << 4 != 0,
            capability: capability.into(),
            control: control.into(),
        }),
    }
}

fn shown_link(l: &Link) -> v1::Link {
    let (speed, max_speed) = (l.speed.clone(), l.max_speed.clone());
    v1::Link { speed, width: l.width, max_speed, max_width: l.max_width }
}

fn shown_node(n: &Node) -> v1::NumaNode {
    let pages = |p: &HugePages| v1::HugePages { size_kib: p.size_kib, total: p.total, free: p.free };
    v1::NumaNode {
        id: n.id,
        cores: n.cores.iter().map(|cpus| v1::Core { cpus: cpus.clone() }).collect(),
        memory_mib: n.memory_mib,
        huge_pages: n.huge_pages.iter().map(pages).collect(),
        distances: n.distances.clone(),
    }
}

fn shown_drive(d: &Drive) -> v1::Drive {
    v1::Drive {
        name: d.name.clone(),
        address: d.address.map(|address| address.to_string()).unwrap_or_default(),
        model: d.model.clone(),
        bytes: d.bytes,
        numa_node: d.numa_node,
        rotational: d.rotational,
        discard_max_bytes: d.discard_max_bytes,
        parent: d.parent.map(|parent| parent.to_string()).unwrap_or_default(),
    }
}

fn shown_health(h: &Health) -> v1::Health {
    let state = match h.state {
        HealthState::Unknown => v1::HealthState::Unknown,
        HealthState::Healthy => v1::HealthState::Healthy,
        HealthState::Degraded => v1::HealthState::Degraded,
        HealthState::Failed => v1::HealthState::Failed,
    };
    v1::Health {
        state: state.into(),
        source: h.source.clone(),
        reason: h.reason.clone(),
        ecc_corrected: h.ecc_corrected,
        ecc_uncorrected: h.ecc_uncorrected,
        retired_pages: h.retired_pages,
        xids: h.xids.clone(),
        links_up: h.links_up,
        links: h.links,
        temperature_c: None,
        at: None,
    }
}
