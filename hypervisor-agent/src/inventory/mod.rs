//! What the machine has: its PCI tree with switches, NUMA nodes, IOMMU groups, drivers and links, its disks and
//! processors, how its GPUs are, and what keeps one of them from being handed out.
//!
//! A look changes nothing and remembers nothing, and two looks at the same machine give the same message. What
//! moves by itself, a temperature and the time of the look, is therefore not in [`read`] but in [`read_now`].
//!
//! A text of the kernel's that makes no sense is an error that names the device, never a guess. What a device
//! says of itself (its configuration space, the name of a disk, the firmware's name of the machine) may hold
//! anything: it is shortened and cleaned, or absent.

mod acs;
mod drives;
#[cfg(test)]
pub mod fixture;
pub mod ground;
pub mod health;
mod numa;
pub mod sysfs;
pub mod tree;

use self::sysfs::{PciFunction, Sysfs};
use crate::{config::DevicesConfig, edge::Result};
use holm_proto::{ids::PciAddress, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

/// Looks at the machine: of the devices only those that the configuration names are listed, by address.
pub fn read(sysfs: &Sysfs, devices: &DevicesConfig) -> Result<v1::Inventory> {
    read_with(sysfs, devices, &BTreeSet::new())
}

/// Looks at a machine, some of whose devices are kept from being reset on purpose: that is no problem of theirs.
pub fn read_with(
    sysfs: &Sysfs,
    devices: &DevicesConfig,
    quiet: &BTreeSet<PciAddress>,
) -> Result<v1::Inventory> {
    let mut inventory = look(sysfs, devices, quiet, &health::Library::open)?;
    for health in inventory.devices.iter_mut().filter_map(|device| device.health.as_mut()) {
        health.temperature_c = None;
    }
    Ok(inventory)
}

/// The same with what is true of this moment only: how warm each GPU is, and when that was.
pub fn read_now(
    sysfs: &Sysfs,
    devices: &DevicesConfig,
    quiet: &BTreeSet<PciAddress>,
) -> Result<v1::Inventory> {
    let mut inventory = look(sysfs, devices, quiet, &health::Library::open)?;
    let now = prost_types::Timestamp::from(SystemTime::now());
    for health in inventory.devices.iter_mut().filter_map(|device| device.health.as_mut()) {
        health.at = Some(now);
    }
    Ok(inventory)
}

fn look(
    sysfs: &Sysfs,
    devices: &DevicesConfig,
    quiet: &BTreeSet<PciAddress>,
    open: &health::Open<'_>,
) -> Result<v1::Inventory> {
    let functions = sysfs.functions()?;
    let known: BTreeMap<PciAddress, &PciFunction> =
        functions.iter().map(|function| (function.address, function)).collect();
    let listed: Vec<(&PciFunction, v1::DeviceKind)> =
        functions.iter().filter_map(|function| Some((function, kind(function, devices)?))).collect();
    let asked: Vec<(PciAddress, v1::DeviceKind, &str)> = listed
        .iter()
        .map(|(function, kind)| (function.address, *kind, function.driver.as_deref().unwrap_or_default()))
        .collect();
    let mut described = Vec::new();
    for ((function, kind), found) in listed.into_iter().zip(health::look(&asked, open)) {
        let addresses = function.group.map(|group| sysfs.group_addresses(group)).transpose()?;
        let group: Vec<&PciFunction> =
            addresses.iter().flatten().filter_map(|address| known.get(address).copied()).collect();
        described.push(v1::PciDevice {
            address: function.address.to_string(),
            kind: kind.into(),
            id: function.id.clone(),
            numa_node: function.numa_node,
            iommu_group: function.group,
            physical_id: devices.physical_ids.get(&function.address).copied(),
            driver: function.driver.clone().unwrap_or_default(),
            reset_methods: function.reset_methods.clone(),
            memory_bytes: function.memory_bytes(),
            problem: problem(function, kind, &group, devices, quiet, &found.health).unwrap_or_default(),
            parent: tree::place(sysfs, function.address)?.parent(),
            link: tree::link(sysfs, function.address)?,
            health: Some(found.health),
            firmware: found.firmware,
        });
    }
    let nodes = numa::nodes(sysfs)?;
    Ok(v1::Inventory {
        cpus: count(sysfs.list(&sysfs.path("devices/system/cpu/online"))?.unwrap_or_default().len()),
        numa_nodes: count(nodes.len().max(1)),
        memory_mib: memory_mib(&nodes),
        iommu: functions.iter().any(|function| function.group.is_some()),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        devices: described,
        bridges: tree::bridges(sysfs, &functions)?,
        drives: drives::drives(sysfs, &functions)?,
        nodes,
        product: sysfs.label(&sysfs.path("class/dmi/id/product_name"))?,
        firmware: sysfs.label(&sysfs.path("class/dmi/id/bios_version"))?,
        // Where volumes and their backups lie is not sysfs's to know.
        volumes_gib: 0,
        backups: String::new(),
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
    group: &[&PciFunction],
    devices: &DevicesConfig,
    quiet: &BTreeSet<PciAddress>,
    health: &v1::Health,
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
    if function.reset_methods.is_empty() && !quiet.contains(&function.address) {
        return Some("no way to reset it: sysfs `reset_method` is empty".to_owned());
    }
    if kind == v1::DeviceKind::Gpu && function.memory_bytes() == 0 {
        return Some("no memory BAR is set up: the firmware gave it no address space".to_owned());
    }
    if health.state() == v1::HealthState::Failed {
        return Some(format!("{} says that it has failed: {}", health.source, health.reason));
    }
    None
}

/// Memory of all nodes; of the machine, where sysfs knows no nodes.
fn memory_mib(nodes: &[v1::NumaNode]) -> u64 {
    if nodes.is_empty() {
        let info = rustix::system::sysinfo();
        return info.totalram.saturating_mul(u64::from(info.mem_unit)) / (1 << 20);
    }
    nodes.iter().map(|node| node.memory_mib).fold(0, u64::saturating_add)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
