//! How full the disks of slices are: what people are told of it, and what of it is an entry of the log.
//!
//! ```text
//!             80                  90
//!   has room ────▶ nearly full ────▶ full        each upwards is an entry, at most once a day for each disk
//!            ◀────             ◀────
//!              75                85
//! ```
//!
//! All of it is what a guest claims. Whatever it claims, and however often, it causes a bounded number of entries.

use super::records::VolumeKind;
use holm_proto::fullness::{FULL, NEARLY_FULL};
use holm_proto::v1::DiskUse;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// So many points below a threshold it is over.
const HYSTERESIS: u64 = 5;
/// The same is told again after this time.
const AGAIN: SignedDuration = SignedDuration::from_hours(24);

/// How far up a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Level {
    #[default]
    Room,
    NearlyFull,
    Full,
}

impl Level {
    fn of(percent: u64) -> Self {
        match percent {
            FULL.. => Self::Full,
            NEARLY_FULL.. => Self::NearlyFull,
            _ => Self::Room,
        }
    }

    /// A disk of this level that is so full now.
    fn then(self, percent: u64) -> Self {
        self.clamp(Self::of(percent), Self::of(percent.saturating_add(HYSTERESIS)))
    }

    fn threshold(self) -> u64 {
        match self {
            Self::Room => 0,
            Self::NearlyFull => NEARLY_FULL,
            Self::Full => FULL,
        }
    }
}

/// A disk that has become fuller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crossing {
    /// As its guest names it.
    pub disk: String,
    /// How much of it is used, per cent.
    pub used: u64,
    /// What it crossed, per cent.
    pub threshold: u64,
}

/// What the log has of one slice.
#[derive(Debug, Default)]
pub struct Told {
    disks: BTreeMap<String, Disk>,
    paused: bool,
}

#[derive(Debug, Default)]
struct Disk {
    level: Level,
    said: BTreeMap<u64, Timestamp>,
}

impl Told {
    /// Takes in what its guest claims now. What comes of it is to be entries.
    pub fn crossings(&mut self, disks: &[DiskUse], now: Timestamp) -> Vec<Crossing> {
        let mut all = Vec::new();
        for claimed in disks {
            let disk = self.disks.entry(claimed.name.clone()).or_default();
            let used = claimed.used_percent();
            let before = disk.level;
            disk.level = before.then(used);
            let threshold = disk.level.threshold();
            let lately =
                disk.said.get(&threshold).is_some_and(|said| now.duration_since(*said).abs() < AGAIN);
            if disk.level > before && !lately {
                disk.said.insert(threshold, now);
                all.push(Crossing { disk: claimed.name.clone(), used, threshold });
            }
        }
        all
    }

    /// What was to be an entry is none: it is to be one later.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether the log has its machine as paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// From now on it has.
    pub fn paused(&mut self, paused: bool) {
        self.paused = paused;
    }
}

/// What the members of a slice are to know and do, in words. `data`: it has a disk for `/home` and `/project`.
pub fn warnings(disks: &[DiskUse], paused: bool, data: bool) -> Vec<String> {
    let mut all = Vec::new();
    if paused {
        all.push(
            "its machine is paused: its host has no room for what it writes. Nothing is lost, and it goes on by itself \
             when there is room: tell an operator"
                .to_owned(),
        );
    }
    for disk in disks.iter().filter(|disk| disk.used_percent() >= NEARLY_FULL) {
        let what = match (disk.name.as_str(), data) {
            ("data", _) => "/home and /project are",
            ("scratch", _) => "/raid is",
            (_, true) => "its root disk (/tmp, /var/tmp) is",
            (_, false) => "its root disk (/home, /project, /tmp) is",
        };
        let of = if disk.lacks_files() { " of files" } else { "" };
        let used = disk.used_percent();
        all.push(format!("{what} {used} % full{of}: delete what is not needed, or ask for a larger disk"));
    }
    all
}

/// Which of a slice's disks its guest may speak of.
pub fn has(disk: &str, others: impl IntoIterator<Item = VolumeKind>) -> bool {
    let kind = match disk {
        "data" => VolumeKind::Data,
        "scratch" => VolumeKind::Scratch,
        _ => return disk == "root",
    };
    others.into_iter().any(|other| other == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(percent: u64) -> Vec<DiskUse> {
        vec![DiskUse { name: "root".to_owned(), bytes: 100, free: 100 - percent, ..Default::default() }]
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn each_threshold_is_told_once_and_again_when_it_was_over() {
        let mut told = Told::default();
        let mut crossed = |percent, day: i64| {
            let all = told.crossings(&root(percent), at(day * 86_400));
            all.iter().map(|crossing| crossing.threshold).sum::<u64>()
        };
        assert_eq!(crossed(79, 0), 0);
        assert_eq!(crossed(80, 0), 80);
        assert_eq!(crossed(89, 0), 0);
        assert_eq!(crossed(90, 0), 90);
        assert_eq!(crossed(100, 0), 0);
        // Days later it still is what it was.
        assert_eq!(crossed(86, 3), 0);
        assert_eq!(crossed(90, 3), 0);
        assert_eq!(crossed(84, 3), 0);
        assert_eq!(crossed(90, 3), 90);
        assert_eq!(crossed(74, 4), 0);
        assert_eq!(crossed(95, 5), 90, "at once to the top: one entry says it");
    }

    #[test]
    fn a_guest_that_flaps_causes_few_entries() {
        let (mut told, mut entries) = (Told::default(), 0);
        for second in 0..3 * 86_400 {
            for percent in [0, 80, 100] {
                entries += told.crossings(&root(percent), at(second)).len();
            }
        }
        assert_eq!(entries, 2 * 3);
    }

    #[test]
    fn a_warning_says_what_to_do() {
        let disk = |name: &str, free, files_free| DiskUse {
            name: name.to_owned(),
            bytes: 100,
            free,
            files: 100,
            files_free,
        };
        assert_eq!(warnings(&[disk("root", 21, 21)], false, true), Vec::<String>::new());
        let all = [disk("root", 8, 50), disk("data", 20, 100), disk("scratch", 50, 1)];
        let heads = [
            "its machine is paused",
            "its root disk (/tmp, /var/tmp) is 92 % full: delete",
            "/home and /project are 80 % full: ",
            "/raid is 99 % full of files: ",
        ];
        let said = warnings(&all, true, true);
        assert!(
            said.len() == 4 && said.iter().zip(heads).all(|(said, head)| said.starts_with(head)),
            "{said:#?}"
        );
        assert!(warnings(&all, false, false)[0].contains("/home, /project, /tmp"));
    }

    #[test]
    fn a_guest_speaks_of_its_own_disks() {
        assert!(has("root", []) && !has("data", []) && !has("raid", [VolumeKind::Data]));
        assert!(
            has("scratch", [VolumeKind::Data, VolumeKind::Scratch]) && !has("scratch", [VolumeKind::Data])
        );
    }
}
