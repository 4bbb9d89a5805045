//! How full disks are, and what a project may have of them.

use crate::output::{Cell, Sheet, Tone};
use crate::text::bytes;
use holm_proto::fullness::{FULL, NEARLY_FULL};
use holm_proto::v1::{DiskUse, Quota, Slice};
use serde_json::{Value, json};

/// Characters of a bar.
const BAR: usize = 10;

/// The fullest of a slice's disks, per cent; `None` where none is nearly full.
pub(super) fn worst(s: &Slice) -> Option<u64> {
    s.disks.iter().map(DiskUse::used_percent).max().filter(|used| *used >= NEARLY_FULL)
}

/// What is to be done about it.
pub(super) fn warn(sheet: &mut Sheet, s: &Slice) {
    for (at, warning) in s.warnings.iter().enumerate() {
        sheet.line(if at == 0 { "warning" } else { "" }, Cell::new(warning.as_str()).tone(Tone::Bad));
    }
}

/// Each disk with a bar, as its guest claims.
pub(super) fn disks(sheet: &mut Sheet, s: &Slice) {
    let places: Vec<&str> = s.disks.iter().map(|disk| place(disk, s)).collect();
    let widest = places.iter().map(|place| place.chars().count()).max().unwrap_or(0);
    for (at, (disk, place)) in s.disks.iter().zip(&places).enumerate() {
        let used = disk.used_percent();
        let filled = usize::try_from(used).unwrap_or(0).min(100) * BAR / 100;
        let bar = "#".repeat(filled) + &".".repeat(BAR - filled);
        let left = match disk.lacks_files() {
            true => format!("{} of {} files left", disk.files_free, disk.files),
            false => format!("{} of {} left", bytes(disk.free), bytes(disk.bytes)),
        };
        let text = format!("{place:<widest$}  {bar} {used:>3} %, {left}");
        sheet.line(if at == 0 { "it says of disks" } else { "" }, Cell::new(text).tone(tone(used)));
    }
}

/// Where a disk is in the slice.
fn place<'a>(disk: &'a DiskUse, s: &Slice) -> &'a str {
    match disk.name.as_str() {
        "root" if s.home_gib == 0 => "/, /home, /project",
        "root" => "/",
        "data" => "/home, /project",
        "scratch" => "/raid",
        other => other,
    }
}

fn tone(used: u64) -> Tone {
    match used {
        FULL.. => Tone::Bad,
        NEARLY_FULL.. => Tone::Busy,
        _ => Tone::Plain,
    }
}

/// As `holm.v1.DiskUse` has it, and how much of it is used.
pub(super) fn disk_json(disk: &DiskUse) -> Value {
    json!({
        "name": disk.name,
        "bytes": disk.bytes,
        "free": disk.free,
        "files": disk.files,
        "files_free": disk.files_free,
        "used_percent": disk.used_percent(),
    })
}

/// `300 of 500 GiB`.
pub fn quota(q: &Quota) -> String {
    let whose = if q.of_site { ", as for every project here" } else { "" };
    match q.disk_gib {
        0 => format!("{} GiB, no limit{whose}", q.used_gib),
        most => format!("{} of {most} GiB{whose}", q.used_gib),
    }
}

/// As `holm.v1.Quota` has it.
pub fn quota_json(q: &Quota) -> Value {
    json!({ "project": q.project, "disk_gib": q.disk_gib, "used_gib": q.used_gib, "of_site": q.of_site })
}

/// What stands behind a slice's state in a list.
pub(super) fn beside(s: &Slice) -> Option<(String, Tone)> {
    if s.paused {
        return Some(("paused: no room".to_owned(), Tone::Bad));
    }
    if s.degraded {
        return Some(("degraded".to_owned(), Tone::Bad));
    }
    worst(s).map(|used| (format!("{used} % full"), tone(used)))
}

#[cfg(test)]
mod tests {
    use super::super::slice::label;
    use super::*;

    #[test]
    fn a_disk_that_is_no_disk_is_shown_as_it_is() {
        let disk = DiskUse { name: "\u{1b}[2J".to_owned(), bytes: 0, free: u64::MAX, ..Default::default() };
        let s = Slice { disks: vec![disk], ..Slice::default() };
        let mut sheet = Sheet::new(label(&s));
        disks(&mut sheet, &s);
        assert!(!sheet.text(false).contains('\u{1b}'));
        assert_eq!(worst(&s), None);
    }
}
