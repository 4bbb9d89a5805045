//! What the machine has: its PCI devices with their NUMA nodes, IOMMU groups and drivers, and what keeps
//! one of them from being handed out.

#[cfg(test)]
pub mod fixture;
pub mod sysfs;

use self::sysfs::{PciFunction, Sysfs};
use crate::{
    config::DevicesConfig,
    edge::{EdgeError, Result},
};
use holm_proto::v1;

/// Looks at the machine: only the devices that the configuration names are listed, by address.
pub fn read(sysfs: &Sysfs, devices: &DevicesConfig) -> Result<v1::Inventory> {
    let functions = sysfs.functions()?;
    let mut listed = Vec::new();
    for function in &functions {
        let Some(kind) = kind(function, devices) else { continue };
        let group = match function.group {
            Some(group) => sysfs.group_members(group)?,
            None => Vec::new(),
        };
        listed.push(v1::PciDevice {
            address: function.address.to_string(),
            kind: kind.into(),
            id: function.id.clone(),
            numa_node: function.numa_node,
            iommu_group: function.group,
            physical_id: devices.physical_ids.get(&function.address).copied(),
            driver: function.driver.clone().unwrap_or_default(),
            reset_methods: function.reset_methods.clone(),
            memory_bytes: function.memory_bytes(),
            problem: problem(function, kind, &group, devices).unwrap_or_default(),
            ..Default::default()
        });
    }
    let nodes = online(sysfs, "devices/system/node/online")?;
    Ok(v1::Inventory {
        cpus: count(online(sysfs, "devices/system/cpu/online")?.len()),
        numa_nodes: count(nodes.len().max(1)),
        memory_mib: memory_mib(sysfs, &nodes)?,
        iommu: functions.iter().any(|function| function.group.is_some()),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        devices: listed,
        ..Default::default()
    })
}

/// What the configuration takes this function for.
pub fn kind(function: &PciFunction, devices: &DevicesConfig) -> Option<v1::DeviceKind> {
    let is = |ids: &[crate::config::PciId]| ids.iter().any(|id| id.as_str() == function.id);
    if is(&devices.gpus) {
        Some(v1::DeviceKind::Gpu)
    } else if is(&devices.nvswitches) {
        Some(v1::DeviceKind::Nvswitch)
    } else {
        None
    }
}

/// Why the function cannot be given to a slice. What is said first is what must be mended first.
fn problem(
    function: &PciFunction,
    kind: v1::DeviceKind,
    group: &[PciFunction],
    devices: &DevicesConfig,
) -> Option<String> {
    let Some(number) = function.group else {
        return Some(
            "no IOMMU group: switch the IOMMU on in the firmware and boot with `intel_iommu=on`".to_owned(),
        );
    };
    let stranger = group.iter().find(|member| !member.is_bridge() && self::kind(member, devices).is_none());
    if let Some(stranger) = stranger {
        return Some(format!(
            "IOMMU group {number} also holds `{}` ({}), which is not handed out: it would have to move along",
            stranger.address, stranger.id
        ));
    }
    if !group.iter().any(|member| member.address == function.address) {
        return Some(format!("IOMMU group {number} does not list it: sysfs contradicts itself"));
    }
    if function.reset_methods.is_empty() {
        return Some("no way to reset it: sysfs `reset_method` is empty".to_owned());
    }
    if kind == v1::DeviceKind::Gpu && function.memory_bytes() == 0 {
        return Some("no memory BAR is set up: the firmware gave it no address space".to_owned());
    }
    None
}

/// The members of a list such as `0-3,8`.
fn online(sysfs: &Sysfs, path: &str) -> Result<Vec<u32>> {
    const MOST: u32 = 1 << 16;
    let Some(text) = sysfs.attribute(&sysfs.path(path))? else { return Ok(Vec::new()) };
    let bad = || EdgeError::new(format!("`{}` in `{path}` is not a list of numbers", text.escape_debug()));
    let mut members = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first > last || last >= MOST {
            return Err(bad());
        }
        members.extend(first..=last);
    }
    Ok(members)
}

/// Memory of all nodes, MiB; of the machine, where sysfs knows no nodes.
fn memory_mib(sysfs: &Sysfs, nodes: &[u32]) -> Result<u64> {
    let mut kib = 0u64;
    for node in nodes {
        let path = sysfs.path(&format!("devices/system/node/node{node}/meminfo"));
        let text = sysfs.attribute(&path)?.unwrap_or_default();
        let total = text
            .lines()
            .find_map(|line| line.split_once("MemTotal:"))
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok())
            .ok_or_else(|| EdgeError::new(format!("`{}` does not say MemTotal", path.display())))?;
        kib = kib.saturating_add(total);
    }
    if nodes.is_empty() {
        let info = rustix::system::sysinfo();
        kib = info.totalram.saturating_mul(u64::from(info.mem_unit)) / 1024;
    }
    Ok(kib / 1024)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{fixture::Machine, *};

    fn gpu(inventory: &v1::Inventory, index: usize) -> &v1::PciDevice {
        inventory.devices.iter().filter(|device| device.kind() == v1::DeviceKind::Gpu).nth(index).unwrap()
    }

    #[test]
    fn a_dgx2() {
        let machine = Machine::dgx2();
        let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
        let kinds = |kind| inventory.devices.iter().filter(|device| device.kind() == kind).count();
        assert_eq!((kinds(v1::DeviceKind::Gpu), kinds(v1::DeviceKind::Nvswitch)), (16, 12));
        assert_eq!((inventory.cpus, inventory.numa_nodes, inventory.memory_mib), (96, 2, 2 * 1024));
        assert!(inventory.iommu);
        assert!(inventory.devices.iter().all(|device| device.problem.is_empty()), "{inventory:#?}");
        let first = gpu(&inventory, 0);
        assert_eq!(first.address, "0000:34:00.0");
        assert_eq!((first.numa_node, first.physical_id), (0, Some(1)));
        assert_eq!(first.reset_methods, ["bus"]);
        // 16 MiB of prefetchable BAR2; the 256 bytes of registers do not count.
        assert_eq!(first.memory_bytes, 16 << 20);
        assert_eq!(gpu(&inventory, 15).numa_node, 1);
        assert!(inventory.devices.is_sorted_by(|a, b| a.address < b.address));
    }

    #[test]
    fn no_iommu_is_a_problem_of_every_device() {
        let machine = Machine::dgx2();
        machine.remove_iommu();
        let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
        assert!(!inventory.iommu);
        assert_eq!(inventory.devices.len(), 28);
        assert!(inventory.devices.iter().all(|device| device.problem.starts_with("no IOMMU group")));
    }

    #[test]
    fn a_stranger_in_the_group_is_a_problem_and_a_bridge_is_not() {
        let machine = Machine::dgx2();
        let (address, other) = ("0000:34:00.0".parse().unwrap(), "0000:34:00.1".parse().unwrap());
        let group = machine.sysfs().function(address).unwrap().unwrap().group.unwrap();
        machine.add("0000:33:00.0".parse().unwrap(), "10b5:9797", 0x06_0400, Some(group));
        let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
        assert_eq!(gpu(&inventory, 0).problem, "");
        machine.add(other, "10de:10f2", 0x04_0300, Some(group));
        let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
        assert!(gpu(&inventory, 0).problem.contains("`0000:34:00.1` (10de:10f2)"));
        assert_eq!(gpu(&inventory, 1).problem, "");
    }

    #[test]
    fn what_cannot_be_reset_is_a_problem() {
        for text in [Some("\n"), None] {
            let machine = Machine::dgx2();
            machine.set("0000:36:00.0", "reset_method", text);
            let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
            assert!(gpu(&inventory, 1).problem.starts_with("no way to reset it"));
        }
    }

    #[test]
    fn what_has_no_memory_is_a_problem() {
        let machine = Machine::dgx2();
        machine.set("0000:36:00.0", "resource", Some("0x0 0x0 0x0\n"));
        let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
        assert_eq!(gpu(&inventory, 1).memory_bytes, 0);
        assert!(gpu(&inventory, 1).problem.starts_with("no memory BAR"));
    }

    #[test]
    fn nonsense_in_sysfs_is_an_error_and_never_a_guess() {
        for (file, text) in
            [("resource", "0x0 0x1"), ("resource", "x y z"), ("vendor", "0xæ"), ("numa_node", "-")]
        {
            let machine = Machine::dgx2();
            machine.set("0000:36:00.0", file, Some(text));
            let error = read(&machine.sysfs(), &machine.devices()).unwrap_err().chain();
            assert!(error.contains("`0000:36:00.0`"), "{error}");
        }
    }

    #[test]
    fn this_very_machine_can_be_read() {
        let inventory = read(&Sysfs::new("/sys"), &Machine::dgx2().devices()).unwrap();
        assert!(inventory.memory_mib > 0 && !inventory.kernel.is_empty());
    }
}
