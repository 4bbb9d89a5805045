//! Faults on demand: a file `faults` in the simulated machine's directory, looked at with each call, one fault
//! a line. Tests write it; a demo may, too.
//!
//! ```text
//!   fail:METHOD[:TIMES]         the call fails before it did anything; once where no number is said
//!   fail-after:METHOD[:TIMES]   the call does its work and then says that it failed
//!   hang:METHOD                 the call does not return while the line is there
//!   slow:METHOD:MS              the call takes this much longer
//!   stuck:ADDRESS               a byte of the device's memory cannot be overwritten
//!   held:ADDRESS                something that is not Holm has the device open
//!   used:ADDRESS                the same, and it writes to the device's memory
//!   absent:ADDRESS              the device is not on the bus: it was pulled out
//!   gone:SLICE-ID               the slice's machine has ended by itself; done once
//!   room:PERCENT                so much of the room for volumes is used; at 100 every machine is paused
//!   disk:SLICE-ID:NAME:PERCENT  a slice's guest says that so much of its disk `root`, `data` or `scratch` is used
//!   fabric:restarted            the fabric's manager is restarted; done once
//!   flood:SLICE-ID              a slice's guest claims a thousand times as much, each time it is heard
//!   guest:silent                guests say nothing
//!   guest:fails                 guests give up
//! ```
//!
//! METHOD is a method of `Host`, such as `start_domain`. A line that says nothing of the kind is ignored.

use holm_proto::ids::{PciAddress, SliceId};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The file.
#[derive(Debug)]
pub struct Faults {
    path: PathBuf,
}

/// How guests behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guests {
    /// They boot and become ready.
    Well,
    /// They say nothing.
    Silent,
    /// They give up.
    Fail,
}

impl Faults {
    /// The faults of the machine in this directory.
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join("faults") }
    }

    /// Takes one occurrence of `KIND:METHOD` away; false where there is none.
    pub fn take(&self, kind: &str, method: &str) -> bool {
        let mut taken = false;
        let text = self.text();
        let left = text.lines().filter_map(|line| {
            let mut parts = line.trim().splitn(3, ':');
            let (found, named, times) = (parts.next(), parts.next(), parts.next());
            if taken || found != Some(kind) || named != Some(method) {
                return Some(line.to_owned());
            }
            taken = true;
            let left = times.and_then(|times| times.parse::<u32>().ok()).unwrap_or(1).saturating_sub(1);
            (left > 0).then(|| format!("{kind}:{method}:{left}"))
        });
        let left: Vec<String> = left.collect();
        taken && self.write(&left).is_ok()
    }

    /// Whether `KIND:WHAT` is there.
    pub fn has(&self, kind: &str, what: &str) -> bool {
        self.text().lines().any(|line| line.trim().split_once(':') == Some((kind, what)))
    }

    /// How much longer a call takes, milliseconds.
    pub fn slow_ms(&self, method: &str) -> u64 {
        let text = self.text();
        let slow = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("slow:")?.strip_prefix(method)?.strip_prefix(':'));
        slow.filter_map(|ms| ms.parse::<u64>().ok()).sum()
    }

    /// The device's memory keeps a byte.
    pub fn is_stuck(&self, device: PciAddress) -> bool {
        self.has("stuck", &device.to_string())
    }

    /// Somebody else has the device open.
    pub fn is_held(&self, device: PciAddress) -> bool {
        self.has("held", &device.to_string()) || self.is_used(device)
    }

    /// Somebody else has the device open, and writes to it.
    pub fn is_used(&self, device: PciAddress) -> bool {
        self.has("used", &device.to_string())
    }

    /// Every device for which `KIND:ADDRESS` is there.
    pub fn devices(&self, kind: &str) -> BTreeSet<PciAddress> {
        let text = self.text();
        let of_kind = text.lines().filter_map(|line| line.trim().strip_prefix(kind)?.strip_prefix(':'));
        of_kind.filter_map(|address| address.parse().ok()).collect()
    }

    /// The device was pulled out.
    pub fn is_absent(&self, device: PciAddress) -> bool {
        self.has("absent", &device.to_string())
    }

    /// The machine of this slice ends now.
    pub fn ends(&self, slice: SliceId) -> bool {
        self.take("gone", &slice.to_string())
    }

    /// How much of the room for volumes is used, in per cent.
    pub fn room_percent(&self) -> u64 {
        self.percent("room").unwrap_or(5)
    }

    /// How much of a slice's disk its guest says is used, in per cent.
    pub fn disk_percent(&self, slice: SliceId, disk: &str) -> Option<u64> {
        self.percent(&format!("disk:{slice}:{disk}"))
    }

    fn percent(&self, of: &str) -> Option<u64> {
        let text = self.text();
        let mut all =
            text.lines().filter_map(|line| line.trim().strip_prefix(of)?.strip_prefix(':')?.parse().ok());
        all.next().filter(|percent| *percent <= 100)
    }

    /// How guests behave.
    pub fn guests(&self) -> Guests {
        if self.has("guest", "silent") {
            Guests::Silent
        } else if self.has("guest", "fails") {
            Guests::Fail
        } else {
            Guests::Well
        }
    }

    fn text(&self) -> String {
        // No file, no faults.
        fs::read_to_string(&self.path).unwrap_or_default()
    }

    fn write(&self, lines: &[String]) -> io::Result<()> {
        let making = self.path.with_extension("tmp");
        fs::write(&making, lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
        fs::rename(&making, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> (tempfile::TempDir, Faults) {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::new(directory.path());
        fs::write(&faults.path, text).unwrap();
        (directory, faults)
    }

    #[test]
    fn a_fault_happens_as_often_as_it_says() {
        let (_directory, faults) = faults("fail:start_domain:2\nnonsense\nfail:bind\nfail-after:bind\n");
        assert!(faults.take("fail", "start_domain") && faults.take("fail", "start_domain"));
        assert!(!faults.take("fail", "start_domain"));
        assert!(faults.take("fail", "bind") && !faults.take("fail", "bind"));
        assert_eq!(faults.text(), "nonsense\nfail-after:bind\n");
    }

    #[test]
    fn what_stays_stays() {
        let slice = "0190163d-8694-739b-aea5-966c26f8ad91";
        let (_directory, faults) = faults(&format!(
            "hang:domains\nslow:bind:5\nslow:bind:7\nstuck:0000:34:00.0\nguest:silent\ngone:{slice}\n"
        ));
        let device = |text: &str| text.parse::<PciAddress>().unwrap();
        for _ in 0..2 {
            assert!(faults.has("hang", "domains") && !faults.has("hang", "domain"));
            assert_eq!((faults.slow_ms("bind"), faults.slow_ms("bin")), (12, 0));
            assert!(faults.is_stuck(device("0000:34:00.0")) && !faults.is_stuck(device("0000:36:00.0")));
            assert!(!faults.is_held(device("0000:34:00.0")));
            assert_eq!(faults.devices("stuck"), [device("0000:34:00.0")].into());
            assert_eq!(faults.guests(), Guests::Silent);
        }
        assert!(faults.ends(slice.parse().unwrap()) && !faults.ends(slice.parse().unwrap()));
    }

    #[test]
    fn disks_fill_up() {
        let (one, other) = ("0190163d-8694-739b-aea5-966c26f8ad91", "0190163d-8694-739b-aea5-966c26f8ad92");
        let (_directory, faults) =
            faults(&format!("room:100\ndisk:{one}:data:91\ndisk:{one}:root:101\ndisk:{other}:data:x\n"));
        assert_eq!(faults.room_percent(), 100);
        let told = |slice: &str, disk| faults.disk_percent(slice.parse().unwrap(), disk);
        assert_eq!((told(one, "data"), told(one, "root"), told(other, "data")), (Some(91), None, None));
    }

    #[test]
    fn without_a_file_nothing_fails() {
        let directory = tempfile::tempdir().unwrap();
        let faults = Faults::new(directory.path());
        assert!(!faults.take("fail", "bind") && faults.guests() == Guests::Well);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
