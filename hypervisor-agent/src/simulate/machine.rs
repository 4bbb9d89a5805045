//! What a simulated machine remembers: all that a real one would after its agent was killed.

use super::topology;
use crate::edge::{EdgeError, Result, VolumeKind};
use holm_proto::{
    ids::{BackupId, PciAddress, SliceId, VolumeId},
    v1,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::Path,
};

/// The buses of a DGX-2's GPUs, in the order of the fabric's numbers 1 to 16. Which number a real GPU has is
/// learnt when its host is commissioned.
pub const GPUS: [u8; 16] =
    [0x34, 0x36, 0x39, 0x3b, 0x57, 0x59, 0x5c, 0x5e, 0xb7, 0xb9, 0xbc, 0xbe, 0xe0, 0xe2, 0xe5, 0xe7];
/// The buses of its NVSwitches.
pub const NVSWITCHES: [u8; 12] = [0x61, 0x62, 0x63, 0x65, 0x66, 0x67, 0xc1, 0xc2, 0xc3, 0xc5, 0xc6, 0xc7];
/// What a V100 has.
pub const GPU_MEMORY_BYTES: u64 = 32 << 30;

/// The whole machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// GPUs on vfio-pci.
    pub bound: BTreeSet<PciAddress>,
    /// What the GPUs' memory holds; one that is not here is zero throughout.
    pub memory: BTreeMap<PciAddress, Written>,
    /// Partitions that are up.
    pub partitions: BTreeSet<u32>,
    /// The fabric's manager was restarted and waits to be told which are up.
    #[serde(default)]
    pub fabric_waits: bool,
    /// Disks.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// First-boot seeds.
    pub seeds: BTreeSet<SliceId>,
    /// Virtual machines.
    pub domains: BTreeMap<SliceId, Domain>,
    /// Disks that were erased and whose erasure is not yet stored by the agent.
    #[serde(default)]
    pub erased: BTreeMap<VolumeId, u64>,
    /// Slices whose machine had to be cut off: its guest did not stop.
    #[serde(default)]
    pub cut: BTreeSet<SliceId>,
    /// What lies in the store of backups.
    #[serde(default)]
    pub backups: BTreeMap<BackupId, BTreeMap<VolumeId, Volume>>,
    /// Secrets of one slice that another could have read: what must never happen.
    pub leaks: Vec<String>,
}

/// Who wrote to a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The slice; `None`: before Holm came.
    pub by: Option<SliceId>,
    /// Bytes that are not zero.
    pub bytes: u64,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// It was finished.
    pub complete: bool,
    /// GiB.
    pub size_gib: u64,
    /// SHA-256 of the key that opens it.
    pub key: String,
    /// The slice that has data on it.
    pub data_of: Option<SliceId>,
    /// How often a machine was started on it: what it holds.
    #[serde(default)]
    pub written: u64,
}

/// A virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Its process runs.
    pub running: bool,
    /// Its devices.
    pub devices: Vec<PciAddress>,
    /// Its disk.
    pub volume: VolumeId,
    /// Its other disks, GiB.
    #[serde(default)]
    pub others: Vec<(VolumeKind, u64)>,
    /// It stands still, because there was no room for what it wrote.
    #[serde(default)]
    pub paused: bool,
    /// The host's processors that it has for itself.
    #[serde(default)]
    pub cpus: BTreeSet<u32>,
    /// When it was started, milliseconds since 1970.
    pub started_ms: u64,
}

impl Machine {
    /// A machine that has just been delivered: nobody knows what its GPUs' memory holds.
    pub fn delivered() -> Self {
        let written = Written { by: None, bytes: GPU_MEMORY_BYTES / 1000 };
        Self { memory: gpus().map(|gpu| (gpu, written.clone())).collect(), ..Self::default() }
    }

    /// Reads it from its file, or has it delivered.
    pub fn load(path: &Path) -> Result<Self> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            EdgeError::because(format!("cannot read the simulated machine `{}`", path.display()), error)
        };
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::delivered()),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Writes it to its file. It outlives its agent, not its host's power.
    pub fn save(&self, path: &Path) -> Result<()> {
        let making = path.with_extension("tmp");
        serde_json::to_vec_pretty(self)
            .map_err(std::io::Error::from)
            .and_then(|bytes| fs::write(&making, bytes))
            .and_then(|()| fs::rename(&making, path))
            .map_err(|error| {
                EdgeError::because(format!("cannot write the simulated machine `{}`", path.display()), error)
            })
    }

    /// The slice whose running machine has a device.
    pub fn holder(&self, device: PciAddress) -> Option<SliceId> {
        let holds = |domain: &Domain| domain.running && domain.devices.contains(&device);
        self.domains.iter().find(|(_, domain)| holds(domain)).map(|(slice, _)| *slice)
    }

    /// As a real one would be described.
    pub fn inventory(&self) -> v1::Inventory {
        let gpu = |(index, address): (u32, PciAddress)| v1::PciDevice {
            address: address.to_string(),
            kind: v1::DeviceKind::Gpu.into(),
            id: "10de:1db8".to_owned(),
            numa_node: node(address),
            iommu_group: Some(20 + index),
            physical_id: Some(index + 1),
            driver: if self.bound.contains(&address) { "vfio-pci".to_owned() } else { String::new() },
            reset_methods: vec!["bus".to_owned()],
            memory_bytes: GPU_MEMORY_BYTES,
            parent: topology::parent(address.bus),
            link: Some(topology::link(16)),
            health: Some(topology::health()),
            ..Default::default()
        };
        let nvswitch = |(index, bus): (u32, u8)| v1::PciDevice {
            address: at(bus).to_string(),
            kind: v1::DeviceKind::Nvswitch.into(),
            id: "10de:1ac2".to_owned(),
            numa_node: node(at(bus)),
            iommu_group: Some(60 + index),
            reset_methods: vec!["bus".to_owned()],
            parent: topology::parent(bus),
            link: Some(topology::link(4)),
            health: Some(topology::health()),
            ..Default::default()
        };
        let mut devices: Vec<v1::PciDevice> =
            (0..).zip(gpus()).map(gpu).chain((0..).zip(NVSWITCHES).map(nvswitch)).collect();
        devices.sort_by(|a, b| a.address.cmp(&b.address));
        v1::Inventory {
            cpus: 96,
            numa_nodes: 2,
            memory_mib: 1_572_864,
            iommu: true,
            kernel: "simulated".to_owned(),
            volumes_gib: 27_000,
            backups: "simulated".to_owned(),
            devices,
            bridges: topology::bridges(),
            nodes: topology::nodes(),
            drives: topology::drives(),
            product: "simulated DGX-2".to_owned(),
            firmware: "simulated".to_owned(),
        }
    }
}

/// Every GPU.
pub fn gpus() -> impl Iterator<Item = PciAddress> {
    GPUS.into_iter().map(at)
}

fn at(bus: u8) -> PciAddress {
    PciAddress { domain: 0, bus, device: 0, function: 0 }
}

/// The first baseboard hangs off the first processor.
fn node(address: PciAddress) -> i32 {
    i32::from(address.bus >= 0x80)
}
