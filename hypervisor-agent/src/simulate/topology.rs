//! What a simulated DGX-2 has around its GPUs: switches, nodes and disks, where the real one has them.

use holm_proto::v1;
use std::sync::LazyLock;

const SWITCH: &str = "10b5:9797";
/// Where each of the four roots begins, and its node; the middle two have a baseboard's NVSwitches.
const ROOTS: [(u8, i32, bool); 4] = [(0x2b, 0, false), (0x4e, 0, true), (0xae, 1, true), (0xd7, 1, false)];
/// All that a port can do, and what Linux switches on where there is an IOMMU.
const ACS_CAPABILITY: u32 = 0x5f;
const ACS_CONTROL: u32 = 0x1d;
const CORES_A_NODE: u32 = 24;
const NODE_MEMORY_MIB: u64 = 786_432;
/// 3.84 TB.
const DRIVE_BYTES: u64 = 3_840_755_982_336;

/// A link of the third generation that runs as it can.
pub fn link(width: u32) -> v1::Link {
    let speed = "8.0".to_owned();
    v1::Link { speed: speed.clone(), width, max_speed: speed, max_width: width }
}

/// Nobody can say how a device is that is made up.
pub fn health() -> v1::Health {
    v1::Health {
        state: v1::HealthState::Unknown.into(),
        source: "simulated".to_owned(),
        ..Default::default()
    }
}

/// The port that a device's bus is behind.
pub fn parent(bus: u8) -> String {
    PORTS.iter().find(|port| port.below == Some(bus)).map(|port| port.at.clone()).unwrap_or_default()
}

/// Every bridge, by address.
pub fn bridges() -> Vec<v1::PciBridge> {
    let bridge = |(number, port): (u32, &Port)| v1::PciBridge {
        address: port.at.clone(),
        id: if port.kind == v1::BridgeKind::RootPort { "8086:2030" } else { SWITCH }.to_owned(),
        kind: port.kind.into(),
        parent: port.above.clone(),
        root: format!("pci0000:{:02x}", port.root),
        numa_node: port.node,
        iommu_group: Some(100 + number),
        link: Some(link(16)),
        acs: (port.kind != v1::BridgeKind::Upstream).then_some(v1::Acs {
            source_validation: true,
            request_redirect: true,
            completion_redirect: true,
            upstream_forwarding: true,
            capability: ACS_CAPABILITY,
            control: ACS_CONTROL,
        }),
    };
    (0..).zip(PORTS.iter()).map(bridge).collect()
}

/// Two nodes of 24 cores with two threads each. No huge pages are set aside: there is no memory.
pub fn nodes() -> Vec<v1::NumaNode> {
    let node = |id: u32| v1::NumaNode {
        id,
        cores: (id * CORES_A_NODE..(id + 1) * CORES_A_NODE)
            .map(|core| v1::Core { cpus: vec![core, core + 2 * CORES_A_NODE] })
            .collect(),
        memory_mib: NODE_MEMORY_MIB,
        huge_pages: Vec::new(),
        distances: if id == 0 { vec![10, 21] } else { vec![21, 10] },
    };
    vec![node(0), node(1)]
}

/// Two disks below each root.
pub fn drives() -> Vec<v1::Drive> {
    let places = ROOTS.into_iter().flat_map(|(first, node, _)| [(first + 3, node), (first + 4, node)]);
    let drive = |(number, (bus, node)): (u32, (u8, i32))| v1::Drive {
        name: format!("nvme{number}n1"),
        address: at(bus, 0),
        model: "simulated".to_owned(),
        bytes: DRIVE_BYTES,
        numa_node: node,
        rotational: false,
        discard_max_bytes: 2_199_023_255_040,
        parent: parent(bus),
    };
    (0..).zip(places).map(drive).collect()
}

/// A bridge, as far as they differ.
#[derive(Debug, Clone, PartialEq)]
struct Port {
    at: String,
    above: String,
    kind: v1::BridgeKind,
    root: u8,
    node: i32,
    /// The bus behind a downstream port that holds a device and no switch.
    below: Option<u8>,
}

/// By address, made once: they are asked for at each look at the machine.
static PORTS: LazyLock<Vec<Port>> = LazyLock::new(ports);

/// A root is a port with a switch of two disks, which holds a switch of two or three more: each with a pair of
/// GPUs and the card between them, the third with the NVSwitches. Every switch takes two buses.
fn ports() -> Vec<Port> {
    let mut all = Vec::new();
    for (first, node, nvswitches) in ROOTS {
        let mut add = |at: String, above: &str, kind, below| {
            all.push(Port { at: at.clone(), above: above.to_owned(), kind, root: first, node, below });
            at
        };
        let port = add(at(first, 0), "", v1::BridgeKind::RootPort, None);
        let outer = add(at(first + 1, 0), &port, v1::BridgeKind::Upstream, None);
        for (device, bus) in [(0x10, first + 3), (0x11, first + 4)] {
            add(at(first + 2, device), &outer, v1::BridgeKind::Downstream, Some(bus));
        }
        let port = add(at(first + 2, 0), &outer, v1::BridgeKind::Downstream, None);
        let inner = add(at(first + 5, 0), &port, v1::BridgeKind::Upstream, None);
        let pairs = [(0, first + 7, 3, 4), (4, first + 12, 3, 4)];
        for (device, bus, places, apart) in
            pairs.into_iter().chain(nvswitches.then_some((8, first + 17, 7, 1)))
        {
            let port = add(at(first + 6, device), &inner, v1::BridgeKind::Downstream, None);
            let leaf = add(at(bus, 0), &port, v1::BridgeKind::Upstream, None);
            for place in 0..places {
                add(at(bus + 1, place * apart), &leaf, v1::BridgeKind::Downstream, Some(bus + 2 + place));
            }
        }
    }
    all.sort_by(|a: &Port, b| a.at.cmp(&b.at));
    all
}

fn at(bus: u8, device: u8) -> String {
    format!("0000:{bus:02x}:{device:02x}.0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{self, fixture};
    use crate::simulate::machine::Machine;

    /// What is simulated stands where the real one does.
    #[test]
    fn it_is_the_tree_of_a_dgx2() {
        let real = fixture::Machine::dgx2_v100();
        let real = inventory::read(&real.sysfs(), &real.devices()).unwrap();
        let simulated = Machine::delivered().inventory();
        type Line = (String, String, String, i32, Option<v1::Acs>);
        let tree = |inventory: &v1::Inventory| -> Vec<Line> {
            let of =
                |b: &v1::PciBridge| (b.address.clone(), b.parent.clone(), b.root.clone(), b.numa_node, b.acs);
            inventory.bridges.iter().filter(|b| b.root != "pci0000:00").map(of).collect()
        };
        assert_eq!(tree(&simulated), tree(&real));
        let devices = |inventory: &v1::Inventory| -> Vec<_> {
            let of = |d: &v1::PciDevice| (d.address.clone(), d.parent.clone(), d.numa_node, d.physical_id);
            inventory.devices.iter().map(of).collect()
        };
        assert_eq!(devices(&simulated), devices(&real));
        let drives = |inventory: &v1::Inventory| -> Vec<_> {
            let of =
                |d: &v1::Drive| (d.name.clone(), d.address.clone(), d.parent.clone(), d.bytes, d.numa_node);
            inventory.drives.iter().map(of).collect()
        };
        assert_eq!(drives(&simulated), drives(&real));
        assert_eq!(simulated.memory_mib, real.memory_mib);
        for (simulated, real) in simulated.nodes.iter().zip(&real.nodes) {
            assert_eq!((&simulated.cores, &simulated.distances), (&real.cores, &real.distances));
        }
        assert!(simulated.devices.iter().all(|device| device.health == Some(health())));
    }
}
