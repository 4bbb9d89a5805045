//! The fabric of a simulated machine. It refuses what Fabric Manager refuses: an id that the table does not have,
//! and GPUs that another partition has. One that was restarted (the fault `fabric:restarted`) refuses everything
//! until it is told what is up.

use super::{Faults, Machine, SimulatedHost, machine};
use crate::{
    config::FabricModel,
    edge::{EdgeError, Result},
    fabric::{Fabric, Seen, SeenGpu},
};
use holm_proto::platform::{Partition, PartitionTable};
use std::collections::BTreeSet;

const TABLE: PartitionTable = PartitionTable::dgx2();

impl Fabric for SimulatedHost {
    fn model(&self) -> FabricModel {
        FabricModel::SharedNvswitch
    }

    fn activate(&self, partition: u32) -> Result<()> {
        self.call("activate_partition", 0, |machine| {
            ready(machine, &self.faults)?;
            let wanted = find(partition)?;
            if let Some(other) = overlapping(&machine.partitions, wanted) {
                return Err(EdgeError::new(format!(
                    "partition `{partition}` has GPUs in common with partition `{other}`, which is up: that one \
                     must go down first"
                )));
            }
            machine.partitions.insert(partition);
            Ok(())
        })
    }

    fn deactivate(&self, partition: u32) -> Result<()> {
        self.call("deactivate_partition", 0, |machine| {
            ready(machine, &self.faults)?;
            find(partition)?;
            machine.partitions.remove(&partition);
            Ok(())
        })
    }

    fn active(&self) -> Result<BTreeSet<u32>> {
        self.call("active_partitions", 0, |machine| {
            ready(machine, &self.faults)?;
            Ok(machine.partitions.clone())
        })
    }

    fn maybe_active(&self) -> BTreeSet<u32> {
        self.machine().partitions
    }

    fn restore(&self, active: &BTreeSet<u32>) -> Result<()> {
        self.call("restore_partitions", 0, |machine| {
            if ready(machine, &self.faults).is_ok() {
                return Ok(());
            }
            let mut restored = BTreeSet::new();
            for partition in active {
                if let Some(other) = overlapping(&restored, find(*partition)?) {
                    return Err(EdgeError::new(format!(
                        "partitions `{other}` and `{partition}` cannot both be up: they have GPUs in common"
                    )));
                }
                restored.insert(*partition);
            }
            machine.partitions = restored;
            machine.fabric_waits = false;
            Ok(())
        })
    }

    fn partitions(&self) -> Result<Vec<Seen>> {
        let active = self.active()?;
        let gpus: Vec<_> = machine::gpus().collect();
        let place = |id: u32| usize::try_from(id).ok().and_then(|id| gpus.get(id.checked_sub(1)?));
        let seen = TABLE.partitions().map(|partition| Seen {
            id: partition.id(),
            active: active.contains(&partition.id()),
            gpus: partition
                .gpus()
                .iter()
                .map(|id| SeenGpu {
                    physical_id: *id,
                    uuid: String::new(),
                    pci_bus_id: place(*id).map(ToString::to_string).unwrap_or_default(),
                    links: partition.links(),
                })
                .collect(),
        });
        Ok(seen.collect())
    }
}

/// An error where it was restarted and not told yet.
fn ready(machine: &mut Machine, faults: &Faults) -> Result<()> {
    if faults.take("fabric", "restarted") {
        machine.fabric_waits = true;
        machine.partitions.clear();
    }
    if machine.fabric_waits {
        return Err(EdgeError::new("the simulated fabric was restarted and waits to be told what is up"));
    }
    Ok(())
}

fn find(partition: u32) -> Result<&'static Partition> {
    TABLE
        .get(partition)
        .ok_or_else(|| EdgeError::new(format!("there is no fabric partition `{partition}` on a `dgx-2`")))
}

/// A partition that is up, is another one and has a GPU of this one.
fn overlapping(up: &BTreeSet<u32>, wanted: &Partition) -> Option<u32> {
    up.iter().copied().find(|other| {
        *other != wanted.id() && TABLE.get(*other).is_some_and(|other| other.mask() & wanted.mask() != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::SimulateConfig,
        edge::Host as _,
        fabric::{compare, learn},
    };
    use std::{fs, path::Path};

    fn host(directory: &Path) -> SimulatedHost {
        SimulatedHost::new(directory, SimulateConfig { call_ms: 0, ..SimulateConfig::default() }).unwrap()
    }

    #[test]
    fn it_refuses_what_overlaps_and_remembers() {
        let directory = tempfile::tempdir().unwrap();
        let fabric = host(directory.path());
        fabric.activate_partition(5).unwrap();
        fabric.activate_partition(5).unwrap();
        for other in [0, 1, 3, 9, 12, 17] {
            let error = fabric.activate_partition(other).unwrap_err().chain();
            assert!(error.contains("partition `5`, which is up"), "{error}");
        }
        assert!(fabric.activate_partition(33).is_err() && fabric.deactivate_partition(33).is_err());
        fabric.activate_partition(6).unwrap();
        let fabric = host(directory.path());
        assert_eq!(fabric.active_partitions().unwrap(), BTreeSet::from([5, 6]));
        fabric.deactivate_partition(5).unwrap();
        fabric.deactivate_partition(5).unwrap();
        fabric.activate_partition(9).unwrap();
    }

    #[test]
    fn after_a_restart_it_waits_to_be_told() {
        let directory = tempfile::tempdir().unwrap();
        let fabric = host(directory.path());
        fabric.activate_partition(5).unwrap();
        fabric.restore_partitions(&BTreeSet::from([9])).unwrap();
        assert_eq!(fabric.active_partitions().unwrap(), BTreeSet::from([5]), "nobody waited for that");
        fs::write(directory.path().join("faults"), "fabric:restarted\n").unwrap();
        assert!(fabric.activate_partition(6).is_err());
        let fabric = host(directory.path());
        assert!(fabric.active_partitions().unwrap_err().chain().contains("waits to be told"));
        assert!(fabric.restore_partitions(&BTreeSet::from([5, 9])).is_err());
        fabric.restore_partitions(&BTreeSet::from([5])).unwrap();
        fabric.activate_partition(6).unwrap();
        assert_eq!(fabric.active_partitions().unwrap(), BTreeSet::from([5, 6]));
    }

    #[test]
    fn it_shows_itself_as_its_table_says() {
        let directory = tempfile::tempdir().unwrap();
        let fabric = host(directory.path());
        let seen = fabric.partitions().unwrap();
        let learnt = learn(&seen).unwrap();
        assert_eq!(compare(TABLE, &seen, &learnt), Vec::<String>::new());
        assert!(machine::gpus().eq(learnt.keys().copied()));
    }
}
