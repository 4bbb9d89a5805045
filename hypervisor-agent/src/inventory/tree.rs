//! Which bridge a function is behind, how its link runs, and every bridge there is.

use super::{
    acs,
    sysfs::{PciFunction, Sysfs, shown},
};
use crate::edge::{EdgeError, Result};
use holm_proto::{ids::PciAddress, v1};
use std::path::Path;

/// Where a function hangs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// `pci0000:2b`; empty where sysfs does not say.
    pub root: String,
    /// The bridges above, the nearest one last.
    pub above: Vec<PciAddress>,
}

impl Place {
    /// The bridge above; empty below a host bridge.
    pub fn parent(&self) -> String {
        self.above.last().map(ToString::to_string).unwrap_or_default()
    }
}

/// Reads it out of the function's place in the tree of devices: each bridge is a directory that holds what
/// is behind it.
pub fn place(sysfs: &Sysfs, address: PciAddress) -> Result<Place> {
    let path = sysfs.link(&sysfs.device(address))?;
    let root = path.iter().rposition(|part| part.starts_with("pci") && part.contains(':'));
    let Some((root, below)) = root.and_then(|at| Some((path.get(at)?, path.get(at + 1..)?))) else {
        return Ok(Place::default());
    };
    let bridges = below.split_last().map_or(&[] as &[String], |(_, bridges)| bridges);
    Ok(Place { root: root.clone(), above: bridges.iter().filter_map(|part| part.parse().ok()).collect() })
}

/// How the function's link runs; absent where it has none.
pub fn link(sysfs: &Sysfs, address: PciAddress) -> Result<Option<v1::Link>> {
    let directory = sysfs.device(address);
    let (current, most) = (speed(sysfs, &directory, "current"), speed(sysfs, &directory, "max"));
    let read = || -> Result<Option<v1::Link>> {
        let Some((speed, width)) = current? else { return Ok(None) };
        let (max_speed, max_width) = most?.unwrap_or_default();
        Ok(Some(v1::Link { speed, width, max_speed, max_width }))
    };
    read().map_err(|cause| {
        EdgeError::because(format!("sysfs does not describe the link of `{address}`"), cause)
    })
}

fn speed(sysfs: &Sysfs, directory: &Path, which: &str) -> Result<Option<(String, u32)>> {
    let (speed, width) =
        (directory.join(format!("{which}_link_speed")), directory.join(format!("{which}_link_width")));
    let Some(text) = sysfs.attribute(&speed)? else { return Ok(None) };
    let bad = |what: &str| EdgeError::new(format!("`{}` is neither speed nor width of a link", shown(what)));
    // "8.0 GT/s PCIe"; "Unknown" where the link is down.
    let speed = match text.split_once(' ') {
        Some((number, "GT/s" | "GT/s PCIe")) if number.len() <= 5 && number.parse::<f32>().is_ok() => {
            number.to_owned()
        }
        _ if text.starts_with("Unknown") => String::new(),
        _ => return Err(bad(&text)),
    };
    let width = sysfs.attribute(&width)?.unwrap_or_else(|| "0".to_owned());
    // 255 is the kernel's word for a width that it cannot read.
    let lanes = match width.parse::<u32>() {
        Ok(255) => 0,
        Ok(lanes @ 0..=64) => lanes,
        _ => return Err(bad(&width)),
    };
    Ok(Some((speed, lanes)))
}

/// Every bridge, by address.
pub fn bridges(sysfs: &Sysfs, functions: &[PciFunction]) -> Result<Vec<v1::PciBridge>> {
    let ports = functions.iter().filter(|function| matches!(function.class >> 8, 0x0604 | 0x0609));
    ports.map(|function| bridge(sysfs, function)).collect()
}

fn bridge(sysfs: &Sysfs, function: &PciFunction) -> Result<v1::PciBridge> {
    let place = place(sysfs, function.address)?;
    let config = sysfs.bytes(&sysfs.device(function.address).join("config"))?.unwrap_or_default();
    Ok(v1::PciBridge {
        address: function.address.to_string(),
        id: function.id.clone(),
        kind: acs::kind(&config).into(),
        parent: place.parent(),
        root: place.root,
        numa_node: function.numa_node,
        iommu_group: function.group,
        link: link(sysfs, function.address)?,
        acs: acs::acs(&config),
    })
}
