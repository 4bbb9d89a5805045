//! Kinds of GPU whose memory only their driver reaches, as data: how much there is, and how much of it the
//! driver may keep before the rest is not called clean.

/// One kind of GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuKind {
    /// `vvvv:dddd`
    pub id: &'static str,
    /// As its maker calls it.
    pub name: &'static str,
    /// All of its memory, bytes.
    pub memory_bytes: u64,
    /// The most that may stay unreached, thousandths of it.
    pub unreached_permille: u64,
}

/// Every kind that is known. A driver shows 32480 of a V100's 32768 MiB, and keeps a few hundred for the
/// program that uses it.
const KINDS: &[GpuKind] = &[GpuKind {
    id: "10de:1db8",
    name: "Tesla V100-SXM3-32GB",
    memory_bytes: 32 << 30,
    unreached_permille: 20,
}];

impl GpuKind {
    /// The kind with this PCI id.
    pub fn of(id: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.id == id)
    }

    /// The most that may stay unreached, bytes.
    pub fn most_unreached(&self) -> u64 {
        self.memory_bytes / 1000 * self.unreached_permille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v100() {
        let v100 = GpuKind::of("10de:1db8").unwrap();
        // What its driver shows is within the bound, twice as much missing is not.
        let hidden = (32_768 - 32_480) << 20;
        assert!((hidden..2 * hidden + (100 << 20)).contains(&v100.most_unreached()));
        assert_eq!(GpuKind::of("1af4:1110"), None);
    }
}
