//! A sysfs tree of a DGX-2 in a temporary directory, for tests.

use super::sysfs::Sysfs;
use crate::config::DevicesConfig;
use holm_proto::ids::PciAddress;
use std::{fs, os::unix::fs::symlink, path::Path};

/// The GPUs' buses in the order of the fabric's numbers.
const GPUS: [u8; 16] =
    [0x34, 0x36, 0x39, 0x3b, 0x57, 0x59, 0x5c, 0x5e, 0xb7, 0xb9, 0xbc, 0xbe, 0xe0, 0xe2, 0xe5, 0xe7];
const NVSWITCHES: [u8; 12] = [0x61, 0x62, 0x63, 0x65, 0x66, 0x67, 0xc1, 0xc2, 0xc3, 0xc5, 0xc6, 0xc7];
/// As the emulated stand-in for a GPU shows itself: registers in BAR0, 16 MiB of memory in BAR2.
const RESOURCE: &str = "0x00000000fe000000 0x00000000fe0000ff 0x0000000000040200\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                        0x0000380000000000 0x0000380000ffffff 0x000000000014220c\n\
                        0x0000000000000000 0x0000000000000000 0x0000000000000000\n";

/// A machine that exists only in files.
pub struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    /// 16 GPUs and 12 NVSwitches, each in an IOMMU group of its own, and a network card that is not ours.
    pub fn dgx2() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        let bus = |bus| PciAddress { domain: 0, bus, device: 0, function: 0 };
        for (group, number) in (20..).zip(GPUS) {
            machine.add(bus(number), "1af4:1110", 0x05_0000, Some(group));
        }
        for (group, number) in (60..).zip(NVSWITCHES) {
            machine.add(bus(number), "1b36:0005", 0x0f_f000, Some(group));
        }
        machine.add(bus(0x01), "8086:10d3", 0x02_0000, Some(1));
        for (path, text) in [
            ("devices/system/cpu/online", "0-47,48-95"),
            ("devices/system/node/online", "0-1"),
            (
                "devices/system/node/node0/meminfo",
                "Node 0 MemTotal:       1048576 kB\nNode 0 MemFree: 1 kB\n",
            ),
            ("devices/system/node/node1/meminfo", "Node 1 MemTotal:       1048576 kB\n"),
        ] {
            write(&machine.directory.path().join(path), text);
        }
        machine
    }

    /// Where it is mounted.
    pub fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.directory.path())
    }

    /// The configuration that fits it.
    pub fn devices(&self) -> DevicesConfig {
        let quoted: Vec<String> =
            (1..).zip(GPUS).map(|(id, bus)| format!("\"0000:{bus:02x}:00.0\" = {id}")).collect();
        toml::from_str(&format!(
            "gpus = [\"1af4:1110\"]\nnvswitches = [\"1b36:0005\"]\nmemory_in_bar = [\"1af4:1110\"]\n\
             physical_ids = {{ {} }}",
            quoted.join(", ")
        ))
        .unwrap()
    }

    /// Plugs a function in.
    pub fn add(&self, address: PciAddress, id: &str, class: u32, group: Option<u32>) {
        let root = self.directory.path();
        let device = root.join("bus/pci/devices").join(address.to_string());
        let (vendor, product) = id.split_once(':').unwrap();
        for (name, text) in [
            ("vendor", format!("0x{vendor}\n")),
            ("device", format!("0x{product}\n")),
            ("class", format!("{class:#08x}\n")),
            ("numa_node", format!("{}\n", u8::from(address.bus >= 0x80))),
            ("reset_method", "bus\n".to_owned()),
            ("resource", RESOURCE.to_owned()),
        ] {
            write(&device.join(name), &text);
        }
        if let Some(group) = group {
            symlink(format!("../../../kernel/iommu_groups/{group}"), device.join("iommu_group")).unwrap();
            let members = root.join(format!("kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&members).unwrap();
            symlink(&device, members.join(address.to_string())).unwrap();
        }
    }

    /// Writes, or with `None` removes, one attribute of one function.
    pub fn set(&self, address: &str, name: &str, text: Option<&str>) {
        let path = self.directory.path().join("bus/pci/devices").join(address).join(name);
        match text {
            Some(text) => write(&path, text),
            None => fs::remove_file(path).unwrap(),
        }
    }

    /// Binds a driver, by the link alone.
    pub fn bind(&self, address: &str, driver: &str) {
        let path = self.directory.path().join("bus/pci/devices").join(address).join("driver");
        let _ = fs::remove_file(&path);
        symlink(format!("../../../bus/pci/drivers/{driver}"), path).unwrap();
    }

    /// The same machine booted without its IOMMU.
    pub fn remove_iommu(&self) {
        fs::remove_dir_all(self.directory.path().join("kernel")).unwrap();
        for entry in fs::read_dir(self.directory.path().join("bus/pci/devices")).unwrap() {
            fs::remove_file(entry.unwrap().path().join("iommu_group")).unwrap();
        }
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
