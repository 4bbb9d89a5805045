//! Nodes: which processors are siblings on one core, whose memory is near, how many huge pages there are.

use super::sysfs::Sysfs;
use crate::edge::{EdgeError, Result};
use holm_proto::v1;
use std::{collections::BTreeSet, path::Path};

/// Every node that is online, by its number. A kernel without NUMA shows none.
pub fn nodes(sysfs: &Sysfs) -> Result<Vec<v1::NumaNode>> {
    let all = sysfs.path("devices/system/node");
    let mut nodes = Vec::new();
    for id in sysfs.list(&all.join("online"))?.unwrap_or_default() {
        let directory = all.join(format!("node{id}"));
        let cpus = sysfs.list(&directory.join("cpulist"))?.unwrap_or_default();
        nodes.push(v1::NumaNode {
            id,
            cores: cores(sysfs, &cpus)?,
            memory_mib: memory_kib(sysfs, &directory)? / 1024,
            huge_pages: huge_pages(sysfs, &directory)?,
            distances: distances(sysfs, &directory)?,
        });
    }
    Ok(nodes)
}

/// A node's processors by core. One whose siblings the kernel does not tell is a core by itself.
fn cores(sysfs: &Sysfs, cpus: &[u32]) -> Result<Vec<v1::Core>> {
    let mut left: BTreeSet<u32> = cpus.iter().copied().collect();
    let mut cores = Vec::new();
    while let Some(cpu) = left.pop_first() {
        let path = sysfs.path(&format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        let mut siblings = vec![cpu];
        // Only those of this node: a core is in one node, whatever a broken table says.
        siblings
            .extend(sysfs.list(&path)?.unwrap_or_default().into_iter().filter(|other| left.remove(other)));
        siblings.sort_unstable();
        cores.push(v1::Core { cpus: siblings });
    }
    Ok(cores)
}

fn memory_kib(sysfs: &Sysfs, directory: &Path) -> Result<u64> {
    let path = directory.join("meminfo");
    let text = sysfs.attribute(&path)?.unwrap_or_default();
    text.lines()
        .find_map(|line| line.split_once("MemTotal:"))
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok())
        .ok_or_else(|| EdgeError::new(format!("`{}` does not say MemTotal", path.display())))
}

/// A node's huge pages, by their size.
pub(super) fn huge_pages(sysfs: &Sysfs, directory: &Path) -> Result<Vec<v1::HugePages>> {
    let directory = directory.join("hugepages");
    let mut sizes = Vec::new();
    for name in sysfs.names(&directory)? {
        let size = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")?.parse().ok());
        let Some(size_kib) = size else { continue };
        let count =
            |file: &str| sysfs.number(&directory.join(&name).join(file)).map(Option::unwrap_or_default);
        sizes.push(v1::HugePages { size_kib, total: count("nr_hugepages")?, free: count("free_hugepages")? });
    }
    sizes.sort_unstable_by_key(|pages| pages.size_kib);
    Ok(sizes)
}

/// From a node to each, in the order of their numbers.
pub(super) fn distances(sysfs: &Sysfs, directory: &Path) -> Result<Vec<u32>> {
    let path = directory.join("distance");
    let Some(text) = sysfs.attribute(&path)? else { return Ok(Vec::new()) };
    let numbers = text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>();
    numbers.map_err(|_| EdgeError::new(format!("`{}` is not a list of distances", path.display())))
}
