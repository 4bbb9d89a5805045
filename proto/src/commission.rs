//! The list that a host is checked against before it gets slices. The agent judges each point, holmd goes by the
//! list: a point that a report leaves out has not passed.

/// One point of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Stable, for programs.
    pub id: &'static str,
    /// What is demanded.
    pub title: &'static str,
    /// A host that does not pass it gets no slices. Of the others some become so by the host's configuration.
    pub must: bool,
}

const fn must(id: &'static str, title: &'static str) -> Check {
    Check { id, title, must: true }
}

const fn should(id: &'static str, title: &'static str) -> Check {
    Check { id, title, must: false }
}

/// Every point, in the order in which a host is best mended.
pub const CHECKS: &[Check] = &[
    must("iommu-on", "the IOMMU is on"),
    must("interrupt-remapping", "interrupts are remapped"),
    must("unsafe-interrupts-off", "VFIO refuses devices whose interrupts are not remapped"),
    must("no-acs-override", "the kernel is not told to ignore or weaken ACS"),
    must("acs-effective", "ACS is on in every port above a GPU or NVSwitch"),
    must("gpu-isolated", "each GPU is alone in its IOMMU group but for bridges"),
    must("reset-method", "each GPU can be reset"),
    must("gpu-driver", "no driver of the host's holds a GPU"),
    must("kernel-version", "the kernel is new enough"),
    must("qemu-version", "QEMU is new enough"),
    must("ksm-off", "machines share no memory pages"),
    must("swap-off", "swap is off or encrypted"),
    must("core-dumps-off", "a machine that crashes leaves no core dump"),
    should("hugepages", "each NUMA node has its huge pages"),
    should("clock-synchronised", "the clock is synchronised"),
    should("fabric-table", "Fabric Manager has the partitions of the platform"),
];

/// The point with this id.
pub fn check(id: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_is_there_once() {
        let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(ids.len(), CHECKS.len());
        assert!(check("iommu-on").unwrap().must && !check("hugepages").unwrap().must);
        assert!(check("no-such").is_none());
    }
}
