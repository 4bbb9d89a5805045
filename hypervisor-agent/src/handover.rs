//! Handing a partition's GPUs over to a machine, and taking them back: the order of it, in this one place.
//!
//! ```text
//!  free (scrubbed)                                                            dirty (scrubbed next)
//!    │                                                                          ▲
//!    ▼   with a shared fabric                                                   │
//!  viable ──▶ reset ──▶ quiet ──▶ partition up ──▶ machine starts … is gone ──▶ partition down ──▶ resets allowed
//!    │ each bound,  │ its bus,   │ the kernel may       ▲ refused where the partition is not up
//!    │ its group    │ nobody     │ not reset it         │ or a device is not quiet
//!    │ whole        │ else's     │
//!    │
//!    │   without one
//!    └────────────▶ machine starts (the kernel resets each device as it is opened) … is gone ──▶ dirty
//! ```
//!
//! * A GPU that is reset after its partition came up has lost its NVLinks, and vfio-pci resets what it opens. So
//!   resets come before, and the kernel's ways to reset are taken away until the partition is down.
//! * QEMU has another way: where the device cannot be reset alone it resets its bus through VFIO, before the guest's
//!   first instruction and at each restart of the guest. Nothing here holds that back. Whether NVLinks survive it
//!   has to be seen on a machine with a fabric.
//! * A partition that is up already is left alone: its devices are only kept quiet. That is so after a kill
//!   between here and the start.
//! * What fails on the way up is undone as far as it went. What is found half done by a later agent is made good
//!   by [`Handover::begin`].

use crate::{
    config::FabricModel,
    edge::{EdgeError, Result},
    fabric::Fabric,
};
use holm_proto::{
    ids::PciAddress,
    platform::{Partition, PartitionTable},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What is done to a device on the way. The real ones are VFIO's.
pub trait Hands: Send + Sync + std::fmt::Debug {
    /// On vfio-pci, kept awake, in a group that can be handed out; an error where it is not or something holds it.
    fn viable(&self, device: PciAddress) -> Result<()>;
    /// Reset, with nothing beside it.
    fn reset(&self, device: PciAddress) -> Result<()>;
    /// The kernel has no way to reset it.
    fn is_quiet(&self, device: PciAddress) -> Result<bool>;
    /// Takes the kernel's ways to reset it away. Nothing happens where there are none.
    fn quieten(&self, device: PciAddress) -> Result<()>;
    /// Brings them back. Nothing happens where there are some.
    fn allow_resets(&self, device: PciAddress) -> Result<()>;
    /// A machine, or something else, has it open.
    fn is_held(&self, device: PciAddress) -> Result<bool>;
}

/// The one who hands over.
#[derive(Debug)]
pub struct Handover<H> {
    fabric: Arc<dyn Fabric>,
    table: PartitionTable,
    numbers: BTreeMap<PciAddress, u32>,
    hands: H,
}

impl<H: Hands> Handover<H> {
    /// Over a fabric whose GPUs have these numbers.
    pub fn new(
        fabric: Arc<dyn Fabric>,
        table: PartitionTable,
        numbers: BTreeMap<PciAddress, u32>,
        hands: H,
    ) -> Self {
        Self { fabric, table, numbers, hands }
    }

    /// The GPUs that a partition is made of and that are worked on when it goes up or down: none without a
    /// shared fabric.
    pub fn devices(&self, partition: u32) -> Result<Vec<PciAddress>> {
        if !self.is_shared() {
            return Ok(Vec::new());
        }
        let members = self.table.members(partition);
        if members.is_empty() {
            return Err(EdgeError::new(format!(
                "there is no fabric partition `{partition}` on a `{}`",
                self.table.platform()
            )));
        }
        let find = |number: &u32| {
            let found = self.numbers.iter().find(|(_, of)| *of == number).map(|(address, _)| *address);
            found.ok_or_else(|| {
                EdgeError::new(format!(
                    "no device has the number {number}, which partition `{partition}` takes: see `holm-agent \
                     fabric show`"
                ))
            })
        };
        members.iter().map(find).collect()
    }

    /// Makes good what an earlier agent left: devices stay quiet only while a partition of theirs may be up.
    /// Returns what could not be made good.
    pub fn begin(&self) -> Vec<EdgeError> {
        let quiet = self.quiet();
        let left = self.numbers.keys().filter(|device| !quiet.contains(device));
        left.filter_map(|device| match self.hands.is_quiet(*device) {
            Ok(false) => None,
            Ok(true) => self.hands.allow_resets(*device).err(),
            Err(error) => Some(error),
        })
        .collect()
    }

    /// Devices that are quiet because they are handed over, as it is remembered: asks nobody.
    pub fn quiet(&self) -> BTreeSet<PciAddress> {
        let up = self.fabric.maybe_active();
        let numbers: BTreeSet<u32> = up.iter().flat_map(|id| self.table.members(*id)).copied().collect();
        let handed = self.numbers.iter().filter(|(_, number)| self.is_shared() && numbers.contains(number));
        handed.map(|(address, _)| *address).collect()
    }

    /// Brings a partition up, with its devices ready for a machine. May be done again at any time before that
    /// machine starts, and while it runs.
    pub fn activate(&self, partition: u32) -> Result<()> {
        if !self.is_shared() {
            return self.fabric.activate(partition);
        }
        let devices = self.devices(partition)?;
        let up = self.fabric.active()?;
        if up.contains(&partition) {
            // A reset now would take its NVLinks.
            return devices.iter().try_for_each(|device| self.hands.quieten(*device));
        }
        let mask = |id: u32| self.table.get(id).map_or(0, Partition::mask);
        if let Some(other) = up.iter().find(|other| mask(**other) & mask(partition) != 0) {
            // Nor is a device of another one touched.
            return Err(EdgeError::new(format!(
                "partition `{partition}` has GPUs in common with partition `{other}`, which is up: that one must \
                 go down first"
            )));
        }
        Viable::check(self, &devices)?.reset()?.quieten()?.activate(partition)
    }

    /// Whether a machine may open these devices now: an error where that would reset them behind the fabric's
    /// back, or where their partition is not up.
    pub fn check_start(&self, devices: &[PciAddress]) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let number = |device: &PciAddress| {
            let number = self.numbers.get(device).copied();
            number.ok_or_else(|| EdgeError::new(format!("`{device}` has no number in the fabric")))
        };
        let numbers: BTreeSet<u32> = devices.iter().map(number).collect::<Result<_>>()?;
        let partition = self.table.partitions().find(|partition| {
            partition.gpus().len() == numbers.len()
                && partition.gpus().iter().all(|gpu| numbers.contains(gpu))
        });
        let partition = partition.ok_or_else(|| {
            EdgeError::new(format!("the GPUs {numbers:?} are no partition of a `{}`", self.table.platform()))
        })?;
        if !self.fabric.active()?.contains(&partition.id()) {
            return Err(EdgeError::new(format!(
                "partition `{}` is not up: no machine starts in it",
                partition.id()
            )));
        }
        for device in devices {
            if !self.hands.is_quiet(*device)? {
                return Err(EdgeError::new(format!(
                    "the kernel would reset `{device}` as it is opened, and with it take its NVLinks"
                )));
            }
        }
        Ok(())
    }

    /// Takes a partition down, after its machine is gone, and lets its devices be reset again. They are dirty.
    pub fn deactivate(&self, partition: u32) -> Result<()> {
        let devices = self.devices(partition)?;
        for device in &devices {
            if self.hands.is_held(*device)? {
                return Err(EdgeError::new(format!(
                    "something still holds `{device}`: partition `{partition}` stays up until that is gone"
                )));
            }
        }
        self.fabric.deactivate(partition)?;
        devices.iter().try_for_each(|device| self.hands.allow_resets(*device))
    }

    fn is_shared(&self) -> bool {
        self.fabric.model() == FabricModel::SharedNvswitch
    }
}

/// Devices that can be handed out.
struct Viable<'a, H> {
    handover: &'a Handover<H>,
    devices: &'a [PciAddress],
}

impl<'a, H: Hands> Viable<'a, H> {
    fn check(handover: &'a Handover<H>, devices: &'a [PciAddress]) -> Result<Self> {
        for device in devices {
            // One that was left quiet could not be reset.
            handover.hands.allow_resets(*device)?;
        }
        devices.iter().try_for_each(|device| handover.hands.viable(*device))?;
        Ok(Self { handover, devices })
    }

    fn reset(self) -> Result<WasReset<'a, H>> {
        self.devices.iter().try_for_each(|device| self.handover.hands.reset(*device))?;
        Ok(WasReset(self))
    }
}

/// Devices that nobody has used since they were reset.
struct WasReset<'a, H>(Viable<'a, H>);

impl<'a, H: Hands> WasReset<'a, H> {
    fn quieten(self) -> Result<Quiet<'a, H>> {
        let WasReset(Viable { handover, devices }) = self;
        // From here on a failure undoes what was done.
        let quiet = Quiet { handover, devices, up: false };
        devices.iter().try_for_each(|device| handover.hands.quieten(*device))?;
        Ok(quiet)
    }
}

/// Devices that the kernel does not reset, until this is dropped without their partition having come up.
struct Quiet<'a, H: Hands> {
    handover: &'a Handover<H>,
    devices: &'a [PciAddress],
    up: bool,
}

impl<H: Hands> Quiet<'_, H> {
    fn activate(mut self, partition: u32) -> Result<()> {
        let outcome = self.handover.fabric.activate(partition);
        // Where it is not known what came of it, they stay quiet, as if it were up.
        self.up = outcome.is_ok() || self.handover.fabric.maybe_active().contains(&partition);
        outcome
    }
}

impl<H: Hands> Drop for Quiet<'_, H> {
    fn drop(&mut self) {
        if self.up {
            return;
        }
        for device in self.devices {
            if let Err(error) = self.handover.hands.allow_resets(*device) {
                tracing::error!(%device, "a device stays without a way to reset it: {}", error.chain());
            }
        }
    }
}

#[cfg(test)]
mod tests;
