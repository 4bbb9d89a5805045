//! How full a disk is, and from when on that is said: what guests, hosts and people go by alike.

use crate::v1::DiskUse;

/// From so many per cent on a disk is nearly full: people are told.
pub const NEARLY_FULL: u64 = 80;
/// From so many per cent on they are told again.
pub const FULL: u64 = 90;
/// The disks of a slice, as its guest names them.
pub const DISKS: [&str; 3] = ["root", "data", "scratch"];
/// Larger than this is no disk.
const MOST: u64 = 1 << 60;

/// How much of it is used, in per cent, rounded down; of nothing 0.
pub fn percent(all: u64, free: u64) -> u64 {
    let used = u128::from(all.saturating_sub(free)) * 100;
    used.checked_div(all.into()).and_then(|percent| u64::try_from(percent).ok()).unwrap_or(0)
}

impl DiskUse {
    /// The larger of the two: one that has no room for another file is as full as one that has none for its bytes.
    pub fn used_percent(&self) -> u64 {
        percent(self.bytes, self.free).max(percent(self.files, self.files_free))
    }

    /// It is files that it lacks, rather than bytes.
    pub fn lacks_files(&self) -> bool {
        percent(self.files, self.files_free) > percent(self.bytes, self.free)
    }
}

/// What a guest claims of its disks, if it can be meant: each at most once, none with more free than it has.
pub fn plausible(disks: Vec<DiskUse>) -> Option<Vec<DiskUse>> {
    let known = |disk: &DiskUse| DISKS.contains(&disk.name.as_str());
    let sane = |all: u64, free: u64| all <= MOST && free <= all;
    let once = |(at, disk): (usize, &DiskUse)| disks.iter().position(|d| d.name == disk.name) == Some(at);
    let fits = |d: &DiskUse| known(d) && d.bytes > 0 && sane(d.bytes, d.free) && sane(d.files, d.files_free);
    (!disks.is_empty() && disks.iter().all(fits) && disks.iter().enumerate().all(once)).then_some(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_rounded_down() {
        for (all, free, used) in
            [(0, 0, 0), (100, 100, 0), (1000, 1, 99), (100, 0, 100), (u64::MAX, 0, 100), (10, 11, 0)]
        {
            assert_eq!(percent(all, free), used, "{all} {free}");
        }
    }

    #[test]
    fn a_disk_without_files_left_is_full() {
        let disk = DiskUse { name: "root".to_owned(), bytes: 100, free: 90, files: 10, files_free: 0 };
        assert_eq!((disk.used_percent(), disk.lacks_files()), (100, true));
        // Some file systems count no files.
        let none = DiskUse { files: 0, files_free: 0, ..disk };
        assert_eq!((none.used_percent(), none.lacks_files()), (10, false));
    }
}
