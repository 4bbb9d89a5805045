//! NVSwitch partitions: what may talk to what over NVLink.
//!
//! [`Fabric`] has three implementations. [`NoFabric`] drives nothing: single GPUs, or an emulated machine whose
//! switches carry no traffic. [`Nvfm`] asks Fabric Manager, which owns the switches in shared NVSwitch mode, to
//! bring partitions up and down. The simulated host is the third.
//!
//! ```text
//!             activate (before its machine starts)
//!     down ──────────────────────────────────────────▶ up
//!      ▲   overlapping one that is up: refused          │
//!      └────────────────────────────────────────────────┘
//!             deactivate (after its machine is gone)
//! ```
//!
//! Each call may be made again: what is up for exactly this partition, and what is down, is success.

#![allow(
    unsafe_code,
    reason = "Fabric Manager is reached through a library of C; each use says why it is sound"
)]

mod commission;
mod none;
pub mod nvfm;

pub use self::{
    commission::{compare, learn},
    none::NoFabric,
    nvfm::Nvfm,
};

use crate::{
    config::{FabricModel, HostConfig},
    edge::{EdgeError, Result},
};
use holm_proto::platform::PartitionTable;
use std::{collections::BTreeSet, fmt, sync::Arc};

/// The fabric of a host.
pub trait Fabric: Send + Sync + fmt::Debug {
    /// What it is.
    fn model(&self) -> FabricModel;
    /// Brings a partition up. Success where it is up; an error that names the other where one overlaps it.
    fn activate(&self, partition: u32) -> Result<()>;
    /// Takes a partition down. Success where it is down.
    fn deactivate(&self, partition: u32) -> Result<()>;
    /// Which are up, as the fabric itself says.
    fn active(&self) -> Result<BTreeSet<u32>>;
    /// Which may be up, as it is remembered: asks nobody and does not wait.
    fn maybe_active(&self) -> BTreeSet<u32>;
    /// These are up: for a manager that was restarted and waits to be told. What is up stays as it is.
    fn restore(&self, active: &BTreeSet<u32>) -> Result<()>;
    /// Every partition that the fabric offers now, by rising id.
    fn partitions(&self) -> Result<Vec<Seen>>;
    /// Begins to look after it, where that must not wait for the first call. Returns at once.
    fn watch(&self) {}
}

/// A partition as the fabric shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub id: u32,
    /// It is up.
    pub active: bool,
    /// Its GPUs, by rising number.
    pub gpus: Vec<SeenGpu>,
}

impl Seen {
    /// The numbers of its GPUs.
    pub fn physical_ids(&self) -> BTreeSet<u32> {
        self.gpus.iter().map(|gpu| gpu.physical_id).collect()
    }
}

/// A GPU as the fabric shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenGpu {
    /// The fabric's number.
    pub physical_id: u32,
    /// The driver's name for it, where it is known.
    pub uuid: String,
    /// Where it is, as text; empty where it is not known.
    pub pci_bus_id: String,
    /// NVLinks that it has in this partition now.
    pub links: u32,
}

/// The fabric that the configuration describes. Nothing of it is touched yet.
pub fn of(config: &HostConfig) -> Result<Arc<dyn Fabric>> {
    let table = table(&config.platform)?;
    Ok(match config.fabric.model {
        FabricModel::None => Arc::new(NoFabric::new(table)),
        FabricModel::SharedNvswitch => Arc::new(Nvfm::new(config.fabric.clone())?),
    })
}

/// The partitions of a platform.
pub fn table(platform: &str) -> Result<PartitionTable> {
    PartitionTable::of(platform).ok_or_else(|| {
        let known = PartitionTable::all().map(|table| format!("`{}`", table.platform()));
        EdgeError::new(format!("no partition table of `{platform}` is known: there are {}", known.join(", ")))
    })
}
