//! Commissioning: whether the fabric is the one that the platform's table describes, and which of its numbers
//! is which GPU.

use super::Seen;
use crate::edge::{EdgeError, Result};
use holm_proto::{ids::PciAddress, platform::PartitionTable};
use std::collections::{BTreeMap, BTreeSet};

/// Every difference between what the platform's table says, what the fabric says, and what the configuration
/// says of the GPUs' numbers; nothing where they agree.
pub fn compare(table: PartitionTable, seen: &[Seen], configured: &BTreeMap<PciAddress, u32>) -> Vec<String> {
    let mut differences = Vec::new();
    for partition in table.partitions() {
        let id = partition.id();
        let Some(found) = seen.iter().find(|seen| seen.id == id) else {
            differences.push(format!(
                "partition `{id}` of a `{}` is not offered: a GPU, a switch or a link of it failed",
                table.platform()
            ));
            continue;
        };
        let expected: BTreeSet<u32> = partition.gpus().iter().copied().collect();
        if found.physical_ids() != expected {
            differences.push(format!(
                "partition `{id}` has the GPUs {} and should have {}",
                list(found.physical_ids()),
                list(expected)
            ));
        }
        for gpu in found.gpus.iter().filter(|gpu| gpu.links != partition.links()) {
            differences.push(format!(
                "GPU {} has {} NVLinks in partition `{id}` and should have {}",
                gpu.physical_id,
                gpu.links,
                partition.links()
            ));
        }
    }
    let unknown = seen.iter().filter(|seen| table.get(seen.id).is_none());
    differences.extend(unknown.map(|seen| {
        format!("partition `{}` is offered and not in the table of a `{}`", seen.id, table.platform())
    }));
    match learn(seen) {
        Err(error) => differences.push(error.chain()),
        Ok(learnt) => {
            for (address, id) in &learnt {
                match configured.get(address) {
                    Some(configured) if configured == id => {}
                    Some(configured) => differences
                        .push(format!("`{address}` is GPU {id} and the configuration says {configured}")),
                    None => differences
                        .push(format!("`{address}` is GPU {id} and the configuration does not name it")),
                }
            }
            let missing = configured.iter().filter(|(address, _)| !learnt.contains_key(address));
            differences.extend(missing.map(|(address, id)| {
                format!(
                    "the configuration says that `{address}` is GPU {id}, and the fabric shows none there"
                )
            }));
        }
    }
    differences
}

/// Which number is which GPU, as the fabric says.
pub fn learn(seen: &[Seen]) -> Result<BTreeMap<PciAddress, u32>> {
    let mut learnt: BTreeMap<PciAddress, u32> = BTreeMap::new();
    for gpu in seen.iter().flat_map(|seen| &seen.gpus) {
        if gpu.pci_bus_id.is_empty() {
            return Err(EdgeError::new(format!(
                "the fabric does not say where GPU {} is: find its module id with `nvidia-smi -q`",
                gpu.physical_id
            )));
        }
        let address = address(&gpu.pci_bus_id)?;
        if let Some(other) = learnt.insert(address, gpu.physical_id).filter(|other| *other != gpu.physical_id)
        {
            return Err(EdgeError::new(format!(
                "the fabric says of `{address}` that it is GPU {other} and GPU {}",
                gpu.physical_id
            )));
        }
    }
    let numbers: BTreeSet<u32> = learnt.values().copied().collect();
    if numbers.len() != learnt.len() {
        return Err(EdgeError::new("the fabric gives two GPUs the same number"));
    }
    Ok(learnt)
}

/// An address as the driver writes it, with eight digits of domain or four, in capitals or not.
fn address(text: &str) -> Result<PciAddress> {
    let lower = text.to_ascii_lowercase();
    let short = match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => {
            domain.strip_prefix("0000").map(|domain| format!("{domain}:{rest}"))
        }
        _ => Some(lower),
    };
    short.and_then(|short| short.parse().ok()).ok_or_else(|| {
        let shown: String = text.chars().flat_map(char::escape_debug).collect();
        EdgeError::new(format!("the fabric says of a GPU that it is at `{shown}`, which is no address"))
    })
}

fn list(ids: BTreeSet<u32>) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<String>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::{super::SeenGpu, *};
    use proptest::prelude::*;

    /// As a machine shows itself that is as its table says.
    fn whole(table: PartitionTable) -> (Vec<Seen>, BTreeMap<PciAddress, u32>) {
        let at =
            |id: u32| PciAddress { domain: 0, bus: 0x30 + u8::try_from(id).unwrap(), device: 0, function: 0 };
        let seen = table.partitions().map(|partition| Seen {
            id: partition.id(),
            active: false,
            gpus: partition
                .gpus()
                .iter()
                .map(|id| SeenGpu {
                    physical_id: *id,
                    uuid: format!("GPU-{id}"),
                    pci_bus_id: format!("0000{}", at(*id).to_string().to_uppercase()),
                    links: partition.links(),
                })
                .collect(),
        });
        (seen.collect(), table.physical_ids().map(|id| (at(id), id)).collect())
    }

    #[test]
    fn what_agrees_has_no_differences() {
        for table in PartitionTable::all() {
            let (seen, configured) = whole(table);
            assert_eq!(learn(&seen).unwrap(), configured);
            assert_eq!(compare(table, &seen, &configured), Vec::<String>::new());
        }
    }

    #[test]
    fn each_difference_is_said() {
        let table = PartitionTable::dgx2();
        let (mut seen, mut configured) = whole(table);
        seen.retain(|seen| seen.id != 0);
        seen[4].gpus.remove(3);
        seen[9].gpus[0].links = 4;
        seen.push(Seen { id: 40, active: false, gpus: Vec::new() });
        let first = *configured.keys().next().unwrap();
        configured.insert(first, 2);
        configured.remove(&"0000:40:00.0".parse().unwrap());
        configured.insert("0000:99:00.0".parse().unwrap(), 16);
        insta::assert_snapshot!(compare(table, &seen, &configured).join("\n"), @r"
        partition `0` of a `dgx-2` is not offered: a GPU, a switch or a link of it failed
        partition `5` has the GPUs 1,4,6 and should have 1,4,6,7
        GPU 2 has 4 NVLinks in partition `10` and should have 5
        partition `40` is offered and not in the table of a `dgx-2`
        `0000:31:00.0` is GPU 1 and the configuration says 2
        `0000:40:00.0` is GPU 16 and the configuration does not name it
        the configuration says that `0000:99:00.0` is GPU 16, and the fabric shows none there
        ");
    }

    #[test]
    fn contradictions_are_not_learnt() {
        let (seen, _) = whole(PartitionTable::dgx2());
        let with = |change: fn(&mut Vec<Seen>)| {
            let mut seen = seen.clone();
            change(&mut seen);
            learn(&seen).unwrap_err().chain()
        };
        assert!(with(|seen| seen[32].gpus[0].pci_bus_id.clear()).contains("does not say where GPU 16 is"));
        assert!(with(|seen| seen[32].gpus[0].pci_bus_id = "34".to_owned()).contains("`34`"));
        assert!(with(|seen| seen[32].gpus[0].physical_id = 3).contains("GPU 16 and GPU 3"));
        let twice = with(|seen| {
            seen.retain(|seen| seen.id >= 17);
            seen[0].gpus[0].physical_id = 2;
        });
        assert!(twice.contains("the same number"), "{twice}");
    }

    proptest! {
        #[test]
        fn no_text_of_the_fabric_is_taken_on_trust(text in "[0-9a-fA-F:.\\PC]{0,20}") {
            if let Ok(address) = address(&text) {
                prop_assert!(text.to_ascii_lowercase().ends_with(&address.to_string()));
            }
        }
    }
}
