//! What a machine's layout follows: where its devices sit in the host's PCI tree, which logical processors
//! share a core, how far the nodes are from each other. Read just before a machine starts, never remembered.

use super::{numa, sysfs::Sysfs, tree};
use crate::edge::{EdgeError, Result};
use holm_proto::ids::PciAddress;
use std::collections::{BTreeMap, BTreeSet};

/// The host, as far as a machine's layout follows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    /// The devices that were asked for, in that order.
    pub places: Vec<Place>,
    /// Every node that is online.
    pub nodes: BTreeMap<u32, Node>,
    /// The logical processors of one core, by each of them.
    pub siblings: BTreeMap<u32, BTreeSet<u32>>,
}

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its address.
    pub address: PciAddress,
    /// Its node; `None` where the firmware does not say.
    pub node: Option<u32>,
    /// The host bridge at the top, "pci0000:2b".
    pub root: String,
    /// The switches above it, the outermost first, each by its upstream port.
    pub switches: Vec<PciAddress>,
    /// Sizes of its memory BARs, bytes.
    pub bars: Vec<u64>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its logical processors.
    pub cpus: BTreeSet<u32>,
    /// From it to each node, by the node's number.
    pub distances: BTreeMap<u32, u32>,
    /// Its huge pages that nobody uses, by their size in KiB.
    pub free_pages: BTreeMap<u64, u64>,
}

/// Reads what the layout of a machine with these devices follows.
pub fn read(sysfs: &Sysfs, devices: &[PciAddress]) -> Result<Ground> {
    let numbers = online(sysfs, "devices/system/node/online")?;
    let mut ground = Ground::default();
    for device in devices {
        ground.places.push(place(sysfs, *device)?);
    }
    for number in &numbers {
        let node = node(sysfs, *number, &numbers)?;
        for cpu in &node.cpus {
            let path = format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            let siblings: BTreeSet<u32> = online(sysfs, &path)?.into_iter().collect();
            if !siblings.contains(cpu) {
                return Err(EdgeError::new(format!("`{path}` does not name processor `{cpu}`")));
            }
            ground.siblings.insert(*cpu, siblings);
        }
        ground.nodes.insert(*number, node);
    }
    Ok(ground)
}

/// The members of a list such as `0-3,8`; none where there is no list.
fn online(sysfs: &Sysfs, path: &str) -> Result<Vec<u32>> {
    Ok(sysfs.list(&sysfs.path(path))?.unwrap_or_default())
}

fn place(sysfs: &Sysfs, address: PciAddress) -> Result<Place> {
    let function = sysfs
        .function(address)?
        .ok_or_else(|| EdgeError::new(format!("there is no device at `{address}`")))?;
    let tree::Place { root, above } = tree::place(sysfs, address)?;
    Ok(Place {
        address,
        node: u32::try_from(function.numa_node).ok(),
        root,
        switches: switches(&above),
        bars: function.memory_bars().map(|bar| bar.bytes).collect(),
    })
}

/// A root port, then an upstream and a downstream port for each switch: that is how PCI Express is built. What
/// is built otherwise has no switches that a guest could be shown.
fn switches(bridges: &[PciAddress]) -> Vec<PciAddress> {
    match bridges.split_first() {
        Some((_, ports)) if ports.len().is_multiple_of(2) => ports.iter().step_by(2).copied().collect(),
        _ => Vec::new(),
    }
}

fn node(sysfs: &Sysfs, number: u32, numbers: &[u32]) -> Result<Node> {
    let directory = sysfs.path(&format!("devices/system/node/node{number}"));
    let distances = numbers.iter().copied().zip(numa::distances(sysfs, &directory)?);
    let pages = numa::huge_pages(sysfs, &directory)?;
    Ok(Node {
        cpus: sysfs.list(&directory.join("cpulist"))?.unwrap_or_default().into_iter().collect(),
        distances: distances.collect(),
        free_pages: pages.into_iter().map(|pages| (pages.size_kib, pages.free)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::Path};

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Two nodes of two cores with two threads each, and a GPU behind two switches.
    fn machine() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let device = "devices/pci0000:2b/0000:2b:00.0/0000:2c:00.0/0000:2d:04.0/0000:31:00.0/0000:32:00.0/0000:34:00.0";
        for (name, text) in [
            ("vendor", "0x10de"),
            ("device", "0x1db8"),
            ("class", "0x030200"),
            ("numa_node", "0"),
            (
                "resource",
                "0x9c000000 0x9cffffff 0x40200\n0x2800000000 0x2fffffffff 0x14220c\n0x0 0x0 0x0\n0x3000000000 0x3001ffffff 0x14220c\n",
            ),
        ] {
            write(root, &format!("{device}/{name}"), text);
        }
        fs::create_dir_all(root.join("bus/pci/devices")).unwrap();
        symlink(root.join(device), root.join("bus/pci/devices/0000:34:00.0")).unwrap();
        write(root, "devices/system/node/online", "0-1\n");
        for (node, cpus, distance) in [(0, "0-1,4-5\n", "10 21\n"), (1, "2-3,6-7\n", "21 10\n")] {
            let below = format!("devices/system/node/node{node}");
            write(root, &format!("{below}/cpulist"), cpus);
            write(root, &format!("{below}/distance"), distance);
            write(root, &format!("{below}/hugepages/hugepages-1048576kB/free_hugepages"), "90\n");
        }
        for cpu in 0..8 {
            let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
            write(root, &format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), &siblings);
        }
        directory
    }

    #[test]
    fn a_device_behind_two_switches() {
        let directory = machine();
        let device: PciAddress = "0000:34:00.0".parse().unwrap();
        let ground = read(&Sysfs::new(directory.path()), &[device]).unwrap();
        let [place] = &ground.places[..] else { panic!("{ground:?}") };
        assert_eq!((place.root.as_str(), place.node), ("pci0000:2b", Some(0)));
        let switches: Vec<String> = place.switches.iter().map(ToString::to_string).collect();
        assert_eq!(switches, ["0000:2c:00.0", "0000:31:00.0"]);
        // The 16 MiB of registers are no memory.
        assert_eq!(place.bars, [32 << 30, 32 << 20]);
        assert_eq!(ground.siblings[&6], BTreeSet::from([2, 6]));
        let node = &ground.nodes[&1];
        assert_eq!(node.cpus, BTreeSet::from([2, 3, 6, 7]));
        assert_eq!(node.distances, BTreeMap::from([(0, 21), (1, 10)]));
        assert_eq!(node.free_pages, BTreeMap::from([(1 << 20, 90)]));
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        let directory = machine();
        let sysfs = Sysfs::new(directory.path());
        assert!(read(&sysfs, &["0000:36:00.0".parse().unwrap()]).is_err());
        write(directory.path(), "devices/system/cpu/cpu6/topology/thread_siblings_list", "2\n");
        assert!(read(&sysfs, &[]).unwrap_err().chain().contains("`6`"));
    }

    #[test]
    fn this_very_machine_can_be_read() {
        read(&Sysfs::new("/sys"), &[]).unwrap();
    }

    #[test]
    fn only_pairs_of_ports_are_switches() {
        let bridge = |bus| PciAddress { domain: 0, bus, device: 0, function: 0 };
        assert_eq!(switches(&[]), []);
        assert_eq!(switches(&[bridge(1)]), []);
        assert_eq!(switches(&[bridge(1), bridge(2)]), []);
        assert_eq!(switches(&[1, 2, 3, 4, 5].map(bridge)), [2, 4].map(bridge));
    }
}
