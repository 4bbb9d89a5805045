//! Platforms as data: what a machine of this kind consists of, and the partitions that its fabric can form.
//! holmd places by it, the agent checks a host and its Fabric Manager against it.

use std::collections::{BTreeMap, BTreeSet};

/// One partition of the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    id: u32,
    gpus: &'static [u32],
    links: u32,
}

/// All partitions that the fabric of a platform can form. No others exist: the switches reset their ports in
/// pairs, so GPUs cannot be put together freely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionTable {
    platform: &'static str,
    partitions: &'static [Partition],
}

impl PartitionTable {
    /// The table of a platform, "dgx-2" or "hgx-a100".
    pub fn of(platform: &str) -> Option<Self> {
        Self::all().into_iter().find(|table| table.platform == platform)
    }

    /// Every platform that there is a table of.
    pub const fn all() -> [Self; 2] {
        [Self::dgx2(), Self::hgx_a100()]
    }

    /// The table of a DGX-2, and of any HGX-2, in shared NVSwitch mode.
    pub const fn dgx2() -> Self {
        Self { platform: "dgx-2", partitions: DGX_2 }
    }

    /// The default table of an HGX A100 with two baseboards, in shared NVSwitch mode. With one baseboard Fabric
    /// Manager offers what is left of it, under the same ids.
    pub const fn hgx_a100() -> Self {
        Self { platform: "hgx-a100", partitions: HGX_A100 }
    }

    /// The platform's name.
    pub fn platform(&self) -> &'static str {
        self.platform
    }

    /// Every partition, by rising id.
    pub fn partitions(&self) -> impl Iterator<Item = &'static Partition> {
        self.partitions.iter()
    }

    /// The partition with this id.
    pub fn get(&self, id: u32) -> Option<&'static Partition> {
        self.partitions().find(|p| p.id == id)
    }

    /// The physical ids of a partition's GPUs; none where there is no such partition.
    pub fn members(&self, partition: u32) -> &'static [u32] {
        self.get(partition).map_or(&[], |p| p.gpus)
    }

    /// The physical ids of all GPUs, rising.
    pub fn physical_ids(&self) -> impl Iterator<Item = u32> + use<> {
        self.partitions().flat_map(|p| p.gpus).copied().collect::<BTreeSet<u32>>().into_iter()
    }

    /// How many GPUs a partition can have, rising.
    pub fn sizes(&self) -> Vec<u32> {
        self.partitions().map(Partition::size).collect::<BTreeSet<u32>>().into_iter().collect()
    }
}

impl Partition {
    /// As the fabric manager numbers it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The physical ids of its GPUs, rising.
    pub fn gpus(&self) -> &'static [u32] {
        self.gpus
    }

    /// How many GPUs it has.
    pub fn size(&self) -> u32 {
        u32::try_from(self.gpus.len()).unwrap_or(u32::MAX)
    }

    /// NVLinks that each of its GPUs has in it.
    pub fn links(&self) -> u32 {
        self.links
    }

    /// Its GPUs as bits, by physical id.
    pub fn mask(&self) -> u64 {
        self.gpus.iter().fold(0, |mask, id| mask | bit(*id))
    }
}

/// What a machine of a platform is delivered with. What differs from it was changed, broken or swapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// How many GPUs.
    pub gpus: u32,
    /// What they are, vvvv:dddd.
    pub gpu_ids: BTreeSet<String>,
    /// How many NVSwitches.
    pub nvswitches: u32,
    /// What they are.
    pub nvswitch_ids: BTreeSet<String>,
    /// Bytes of a GPU's memory, by what it is. One that is not here may have any.
    pub memory_bytes: BTreeMap<String, u64>,
    /// The VBIOS of a GPU, by what it is. Those that are not here must only be alike.
    pub firmware: BTreeMap<String, String>,
}

impl Bill {
    /// The bill of a platform.
    pub fn of(platform: &str) -> Option<Self> {
        (platform == PartitionTable::dgx2().platform()).then(Self::dgx2)
    }

    /// A DGX-2: 16 V100-SXM3-32GB and 12 NVSwitches, which show themselves in two ways.
    pub fn dgx2() -> Self {
        Self {
            gpus: 16,
            gpu_ids: ["10de:1db8".to_owned()].into(),
            nvswitches: 12,
            nvswitch_ids: ["10de:1ac1", "10de:1ac2"].map(str::to_owned).into(),
            memory_bytes: [("10de:1db8".to_owned(), 32 << 30)].into(),
            firmware: BTreeMap::new(),
        }
    }
}

/// The bit of a physical id; none for one that no table has.
pub fn bit(physical_id: u32) -> u64 {
    1_u64.checked_shl(physical_id).unwrap_or(0)
}

const fn partition(id: u32, gpus: &'static [u32], links: u32) -> Partition {
    Partition { id, gpus, links }
}

/// NVIDIA Fabric Manager User Guide, "Default Partitions", DGX-2 and HGX-2.
const DGX_2: &[Partition] = &[
    partition(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], 6),
    partition(1, &[1, 2, 3, 4, 5, 6, 7, 8], 6),
    partition(2, &[9, 10, 11, 12, 13, 14, 15, 16], 6),
    partition(3, &[1, 4, 6, 7, 9, 12, 14, 15], 5),
    partition(4, &[2, 3, 5, 8, 10, 11, 13, 16], 5),
    partition(5, &[1, 4, 6, 7], 5),
    partition(6, &[2, 3, 5, 8], 5),
    partition(7, &[9, 12, 14, 15], 5),
    partition(8, &[10, 11, 13, 16], 5),
    partition(9, &[1, 4], 5),
    partition(10, &[2, 3], 5),
    partition(11, &[5, 8], 5),
    partition(12, &[6, 7], 5),
    partition(13, &[9, 12], 5),
    partition(14, &[10, 11], 5),
    partition(15, &[13, 16], 5),
    partition(16, &[14, 15], 5),
    partition(17, &[1], 0),
    partition(18, &[2], 0),
    partition(19, &[3], 0),
    partition(20, &[4], 0),
    partition(21, &[5], 0),
    partition(22, &[6], 0),
    partition(23, &[7], 0),
    partition(24, &[8], 0),
    partition(25, &[9], 0),
    partition(26, &[10], 0),
    partition(27, &[11], 0),
    partition(28, &[12], 0),
    partition(29, &[13], 0),
    partition(30, &[14], 0),
    partition(31, &[15], 0),
    partition(32, &[16], 0),
];

/// NVIDIA Fabric Manager User Guide, "Default GPU Partitions", DGX A100 and HGX A100.
const HGX_A100: &[Partition] = &[
    partition(0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], 12),
    partition(1, &[1, 2, 3, 4, 5, 6, 7, 8], 12),
    partition(2, &[9, 10, 11, 12, 13, 14, 15, 16], 12),
    partition(3, &[1, 2, 3, 4, 9, 10, 11, 12], 12),
    partition(4, &[5, 6, 7, 8, 13, 14, 15, 16], 12),
    partition(5, &[1, 2, 3, 4, 13, 14, 15, 16], 12),
    partition(6, &[5, 6, 7, 8, 9, 10, 11, 12], 12),
    partition(7, &[1, 2, 3, 4], 12),
    partition(8, &[5, 6, 7, 8], 12),
    partition(9, &[9, 10, 11, 12], 12),
    partition(10, &[13, 14, 15, 16], 12),
    partition(11, &[1, 2], 12),
    partition(12, &[3, 4], 12),
    partition(13, &[5, 6], 12),
    partition(14, &[7, 8], 12),
    partition(15, &[9, 10], 12),
    partition(16, &[11, 12], 12),
    partition(17, &[13, 14], 12),
    partition(18, &[15, 16], 12),
    partition(19, &[1], 0),
    partition(20, &[2], 0),
    partition(21, &[3], 0),
    partition(22, &[4], 0),
    partition(23, &[5], 0),
    partition(24, &[6], 0),
    partition(25, &[7], 0),
    partition(26, &[8], 0),
    partition(27, &[9], 0),
    partition(28, &[10], 0),
    partition(29, &[11], 0),
    partition(30, &[12], 0),
    partition(31, &[13], 0),
    partition(32, &[14], 0),
    partition(33, &[15], 0),
    partition(34, &[16], 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_whole() {
        for (table, partitions, sizes) in
            [(PartitionTable::dgx2(), 33, [16, 4, 8, 4]), (PartitionTable::hgx_a100(), 35, [16, 4, 8, 6])]
        {
            assert_eq!(PartitionTable::of(table.platform()), Some(table));
            assert!(table.physical_ids().eq(1..=16) && table.sizes() == [1, 2, 4, 8, 16]);
            assert!(table.partitions().map(Partition::id).eq(0..partitions));
            let of_size = |size| table.partitions().filter(|partition| partition.size() == size).count();
            assert_eq!([of_size(1), of_size(4), of_size(2), of_size(8)], sizes, "{}", table.platform());
            for partition in table.partitions() {
                assert!(partition.gpus().is_sorted_by(|a, b| a < b), "{partition:?}");
                assert_eq!(partition.links() == 0, partition.size() == 1, "{partition:?}");
            }
            // Every GPU is in exactly one partition of two and one of four.
            for size in [1, 2, 4] {
                let all = table.partitions().filter(|partition| partition.size() == size);
                assert_eq!(all.fold(0, |sum, partition| sum + partition.mask()), 0x1fffe);
            }
        }
        assert_eq!(PartitionTable::of("dgx-3"), None);
    }
}
