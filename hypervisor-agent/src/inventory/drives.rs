//! Disks: those with a device behind them. What is made of other disks, or of memory, is not one, nor is what
//! can be taken out.

use super::sysfs::{PciFunction, Sysfs};
use crate::edge::Result;
use holm_proto::{ids::PciAddress, v1};
use std::collections::BTreeMap;

/// The kernel counts a disk in sectors of these many bytes, whatever its own are.
const SECTOR_BYTES: u64 = 512;

/// Every disk, by name.
pub fn drives(sysfs: &Sysfs, functions: &[PciFunction]) -> Result<Vec<v1::Drive>> {
    let nodes: BTreeMap<PciAddress, i32> =
        functions.iter().map(|function| (function.address, function.numa_node)).collect();
    let mut drives = Vec::new();
    for name in sysfs.names(&sysfs.path("block"))? {
        let directory = sysfs.path("block").join(&name);
        let number = |file: &str| sysfs.number(&directory.join(file)).map(Option::unwrap_or_default);
        let real = directory.join("device").exists();
        // A path of a disk that has several is hidden; the disk is listed.
        if !real || number("removable")? != 0 || number("hidden")? != 0 {
            continue;
        }
        let bytes = number("size")?.saturating_mul(SECTOR_BYTES);
        if bytes == 0 {
            continue;
        }
        let path = sysfs.link(&directory)?;
        let mut above = path.iter().rev().filter_map(|part| part.parse::<PciAddress>().ok());
        let (controller, parent) = (above.next(), above.next());
        drives.push(v1::Drive {
            address: controller.map(|address| address.to_string()).unwrap_or_default(),
            model: sysfs.label(&directory.join("device/model"))?,
            bytes,
            numa_node: controller.and_then(|address| nodes.get(&address).copied()).unwrap_or(-1),
            rotational: number("queue/rotational")? != 0,
            discard_max_bytes: number("queue/discard_max_bytes")?,
            parent: parent.map(|address| address.to_string()).unwrap_or_default(),
            name,
        });
    }
    Ok(drives)
}
