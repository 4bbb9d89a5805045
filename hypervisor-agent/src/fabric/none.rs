//! No fabric: single GPUs, or an emulated machine. Only the id is checked, against the platform's table.

use super::{Fabric, Seen};
use crate::{
    config::FabricModel,
    edge::{EdgeError, Result},
};
use holm_proto::platform::PartitionTable;
use std::collections::BTreeSet;

/// A machine whose fabric nobody drives: nothing is ever up.
#[derive(Debug)]
pub struct NoFabric {
    table: PartitionTable,
}

impl NoFabric {
    /// On a platform.
    pub fn new(table: PartitionTable) -> Self {
        Self { table }
    }

    fn check(&self, partition: u32) -> Result<()> {
        match self.table.get(partition) {
            Some(_) => Ok(()),
            None => Err(EdgeError::new(format!(
                "there is no fabric partition `{partition}` on a `{}`",
                self.table.platform()
            ))),
        }
    }
}

impl Fabric for NoFabric {
    fn model(&self) -> FabricModel {
        FabricModel::None
    }

    fn activate(&self, partition: u32) -> Result<()> {
        self.check(partition)?;
        tracing::info!(partition, "no fabric is driven: partition taken as up");
        Ok(())
    }

    fn deactivate(&self, partition: u32) -> Result<()> {
        self.check(partition)?;
        tracing::info!(partition, "no fabric is driven: partition taken as down");
        Ok(())
    }

    fn active(&self) -> Result<BTreeSet<u32>> {
        Ok(BTreeSet::new())
    }

    fn maybe_active(&self) -> BTreeSet<u32> {
        BTreeSet::new()
    }

    fn restore(&self, active: &BTreeSet<u32>) -> Result<()> {
        active.iter().try_for_each(|partition| self.check(*partition))
    }

    fn partitions(&self) -> Result<Vec<Seen>> {
        Err(EdgeError::new(
            "no fabric is driven: `model` in `[host.fabric]` is `none`, and nothing can be learnt from it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_partitions_of_the_table_exist() {
        for (table, last) in [(PartitionTable::dgx2(), 32), (PartitionTable::hgx_a100(), 34)] {
            let fabric = NoFabric::new(table);
            for partition in 0..=last {
                fabric.activate(partition).unwrap();
                fabric.deactivate(partition).unwrap();
            }
            for partition in [last + 1, u32::MAX] {
                assert!(fabric.activate(partition).is_err() && fabric.deactivate(partition).is_err());
                assert!(fabric.restore(&BTreeSet::from([0, partition])).is_err());
            }
            assert!(fabric.active().unwrap().is_empty() && fabric.partitions().is_err());
        }
    }
}
