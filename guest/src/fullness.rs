//! How full the disks are: for the host, and for who logs in.

use crate::{
    disks::Mounted,
    failed::{Of as _, Outcome},
    files,
};
use serde::Serialize;
use std::path::Path;

/// From when on who logs in is told.
const NEARLY_FULL: u64 = 80;

/// How full a file system is, as `df` counts: what is kept for root is nobody's to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fullness {
    pub name: String,
    pub bytes: u64,
    pub free: u64,
    pub files: u64,
    pub files_free: u64,
}

impl Fullness {
    /// As it is now.
    pub fn of(mounted: &Mounted) -> Outcome<Self> {
        let stat = rustix::fs::statvfs(mounted.at.as_str()).of(&mounted.at)?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Self {
            name: mounted.name.clone(),
            bytes: (used + stat.f_bavail) * stat.f_frsize,
            free: stat.f_bavail * stat.f_frsize,
            files: stat.f_files,
            files_free: stat.f_favail,
        })
    }

    /// Of its bytes or of its files, whichever are scarcer.
    pub fn percent(&self) -> u64 {
        let of = |all: u64, free: u64| match all {
            0 => 0,
            _ => u64::try_from(u128::from(all.saturating_sub(free)) * 100 / u128::from(all)).unwrap_or(100),
        };
        of(self.bytes, self.free).max(of(self.files, self.files_free))
    }
}

/// Has /etc/profile.d/holm-notices.sh show to who logs in what is nearly full.
pub fn notice(run: &Path, disks: &[Fullness]) -> Outcome {
    let full = run.join("full");
    files::write(&full, text(disks), 0o644, files::ROOT).of(full.display())
}

fn text(disks: &[Fullness]) -> String {
    let data = disks.iter().any(|disk| disk.name == "data");
    let name = |disk: &Fullness| match disk.name.as_str() {
        "data" => "/home and /project",
        "scratch" => "/raid",
        _ if data => "The root disk",
        _ => "The root disk with /home and /project",
    };
    let nearly = disks.iter().filter(|disk| disk.percent() >= NEARLY_FULL);
    let advice = "full. Delete what is not needed, or ask for more.";
    nearly.map(|disk| format!("{}: {} % {advice}\n", name(disk), disk.percent())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(name: &str, bytes: u64, free: u64, files: u64, files_free: u64) -> Fullness {
        Fullness { name: name.to_owned(), bytes, free, files, files_free }
    }

    #[test]
    fn who_logs_in_hears_of_what_is_nearly_full() {
        let (root, data) = (disk("root", 100, 20, 0, 0), disk("data", 100, 21, 10, 0));
        assert_eq!(text(&[disk("root", 100, 21, 10, 9), disk("scratch", 0, 0, 0, 0)]), "");
        let advice = "Delete what is not needed, or ask for more.";
        assert_eq!(
            text(std::slice::from_ref(&root)),
            format!("The root disk with /home and /project: 80 % full. {advice}\n")
        );
        let both = format!("The root disk: 80 % full. {advice}\n/home and /project: 100 % full. {advice}\n");
        assert_eq!(text(&[root, data]), both);
    }

    #[test]
    fn a_file_system_is_looked_at() {
        let here = Fullness::of(&crate::disks::root()).unwrap();
        assert!(here.bytes >= here.free && here.bytes > 0 && here.files >= here.files_free);
        assert!(Fullness::of(&Mounted { name: "data".into(), at: "/nonexistent".into() }).is_err());
    }

    proptest! {
        #[test]
        fn no_more_than_all_of_it(bytes in any::<u64>(), free in any::<u64>(), files in any::<u64>(), files_free in any::<u64>()) {
            prop_assert!(disk("root", bytes, free, files, files_free).percent() <= 100);
        }
    }
}
