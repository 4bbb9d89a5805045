//! The life of a device.
//!
//! ```text
//!          place            agent              observed detached       run ordered
//!   Free ────────▶ Claimed ───────▶ Assigned ────────────────▶ Dirty ─────────────▶ Sanitising
//!    ▲                │                                        ▲   ▲                 │      │
//!    │                ├──────── observed detached ─────────────┘   │   evidence:     │      │
//!    │                └── not clean by its agent, nothing begun ───┤   anything but  │      │
//!    │                                first seen, seen in use by ──┤   "cleaned"     ▼      │
//!    │                                something else, Free and not │           Quarantined  │
//!    │                                clean by its agent, cleaned  │            │  ▲        │
//!    │                                and unwatched since          └─ operator ─┘  │        │
//!    │                                                                             │        │
//!    │        anything: no longer on the bus; Claimed or Assigned and its agent ───┘        │
//!    │        says that another slice has it                                                │
//!    └───────────── evidence: cleaned, by this run's id; and clean by its agent ────────────┘
//! ```
//!
//! Nothing else makes a device Free, and there is no switch that does.
//!
//! An agent keeps a record of its own, and what it says of a device counts against what is believed here, never
//! for it: a device is free where both say so. Two slices for one device means that one of two records is
//! wrong, and which one is for an operator to find out; a device that was only claimed, by a slice for which
//! nothing was begun, is cleaned and the slice placed again.

use super::records::{Change, Device, DeviceState, Evidence, Record, Run};
use super::{Refusal, RefusalKind, State};
use holm_proto::gpu::GpuKind;
use holm_proto::ids::{Name, PciAddress, RunId, SliceId};
use jiff::Timestamp;
use newtype_uuid::GenericUuid;
use std::collections::{BTreeMap, BTreeSet};

/// Devices of one run at most: what is said of them all must fit into one entry of the log.
const RUN_MAX: usize = 16;

/// What a report says of one device of one run.
pub type Report = BTreeMap<PciAddress, Evidence>;

/// Why a device that is not there is quarantined.
pub const GONE: &str = "no longer on the bus";
/// Why it stays so when it is there again.
const BACK: &str = "it was gone from the bus, and is there again";

/// What a host's agent has in its own record of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Not to be given to anybody.
    Dirty(String),
    /// This run of this very agent cleaned it, and nothing has held it since.
    Clean(RunId),
    /// A slice has it, or is about to.
    Assigned(SliceId),
}

/// What a host's agent says of every device it has.
pub type Notes = BTreeMap<PciAddress, Note>;

impl Note {
    /// A slice may begin with it.
    pub fn is_for(&self, slice: SliceId) -> bool {
        match self {
            Self::Dirty(_) => false,
            Self::Clean(_) => true,
            Self::Assigned(owner) => *owner == slice,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Dirty(why) => format!("its host has it as dirty: {why}"),
            Self::Clean(run) => format!("its host has it as clean by run {}", run.into_untyped_uuid()),
            // Leads read this, too: whose, is not theirs to know.
            Self::Assigned(_) => "its host has it as another slice's".to_owned(),
        }
    }
}

impl DeviceState {
    /// A slice has it, or will.
    pub const TAKEN: [Self; 2] = [Self::Claimed, Self::Assigned];
}

/// Free → Claimed.
pub fn claim(device: &Device, slice: SliceId) -> Change {
    let mut next = device.clone();
    next.state = DeviceState::Claimed;
    next.reason.clear();
    next.slice = Some(slice);
    put(next)
}

/// Claimed → Assigned; nothing where it is so already.
pub fn assign(device: &Device) -> Option<Change> {
    (device.state == DeviceState::Claimed).then(|| {
        let mut next = device.clone();
        next.state = DeviceState::Assigned;
        put(next)
    })
}

/// Anything → Dirty.
pub fn dirty(device: &Device, why: &str) -> Change {
    let mut next = device.clone();
    next.state = DeviceState::Dirty;
    why.clone_into(&mut next.reason);
    put(next)
}

/// What a host reports of its devices. First seen: dirty. Gone: quarantined. Facts are taken over. Not
/// `watched`, because the agent was away: a free one may have been used by anybody since, and is dirty.
pub fn inventory(state: &State, host: &Name, seen: &[Device], watched: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    for reported in seen {
        let known = state.devices.get(&(host.clone(), reported.address));
        let mut next = reported.clone();
        match known {
            None => {
                next.state = DeviceState::Dirty;
                next.reason = "never seen before".to_owned();
                next.slice = None;
                next.evidence = None;
            }
            Some(known) => {
                next.state = known.state;
                next.reason.clone_from(&known.reason);
                if let (DeviceState::Quarantined, Some(before)) =
                    (known.state, known.reason.strip_prefix(GONE))
                {
                    next.reason = format!("{BACK}{before}");
                }
                next.slice = known.slice;
                next.evidence.clone_from(&known.evidence);
                next.maintenance.clone_from(&known.maintenance);
                // Another device in the same place is one nobody has cleaned.
                let same = known.id == reported.id && known.memory_bytes == reported.memory_bytes;
                if known.gpu && known.state == DeviceState::Free && !(same && watched) {
                    next.state = DeviceState::Dirty;
                    next.reason = match same {
                        true => "nobody watched it while the agent was away".to_owned(),
                        false => format!("it was {} and is {}", known.id, reported.id),
                    };
                }
                // What goes wrong with it while a slice has it is looked at before anybody else does.
                if DeviceState::TAKEN.contains(&known.state) && known.gpu && !reported.problem.is_empty() {
                    next.state = DeviceState::Quarantined;
                    next.reason.clone_from(&reported.problem);
                }
            }
        }
        if known != Some(&next) {
            changes.push(put(next));
        }
    }
    let here: BTreeSet<PciAddress> = seen.iter().map(|d| d.address).collect();
    for gone in state.host_devices(host).filter(|d| !here.contains(&d.address)) {
        if gone.state != DeviceState::Quarantined {
            changes.push(quarantine(gone, GONE));
        } else if let Some(before) = gone.reason.strip_prefix(BACK) {
            changes.push(quarantine(gone, &format!("{GONE}{before}")));
        } else if !gone.reason.starts_with(GONE) {
            changes.push(quarantine(gone, &format!("{GONE}; before that: {}", gone.reason)));
        }
    }
    changes
}

/// Slices that have lost a device for good: what runs of them runs on, and each says what it lacks.
pub fn bereft(state: &State, changes: &[Change]) -> Vec<Change> {
    let lost = changes.iter().filter_map(|change| match change {
        Change::Put(Record::Device(d)) if d.state == DeviceState::Quarantined => Some(d),
        _ => None,
    });
    let mut slices: BTreeMap<SliceId, Vec<String>> = BTreeMap::new();
    for device in lost {
        let before = state.devices.get(&(device.host.clone(), device.address));
        let taken = before.filter(|d| DeviceState::TAKEN.contains(&d.state));
        if let Some(slice) = taken.and_then(|d| d.slice) {
            let text = format!("GPU {}: {}", device.address, device.reason);
            slices.entry(slice).or_default().push(text);
        }
    }
    let told = slices.into_iter().filter_map(|(id, texts)| {
        let slice = state.slices.get(&id).filter(|s| s.holds_devices() && !s.state.is_final())?;
        super::slice::waits(slice, &format!("{}; close it, or have an operator look", texts.join(", ")))
    });
    told.flatten().collect()
}

/// What follows from an agent's own record, each time anew.
pub fn noted(state: &State, host: &Name, notes: &Notes) -> Vec<Change> {
    let mut changes = Vec::new();
    for device in state.host_devices(host).filter(|d| d.gpu) {
        let note = notes.get(&device.address);
        match (device.state, note) {
            (DeviceState::Free, Some(Note::Clean(_))) => {}
            (DeviceState::Free, note) => {
                let mut next = device.clone();
                next.slice = None;
                let why = note.map_or_else(|| "its host has no record of it".to_owned(), Note::text);
                changes.push(dirty(&next, &why));
            }
            (DeviceState::Claimed | DeviceState::Assigned, Some(note @ Note::Assigned(owner)))
                if device.slice != Some(*owner) =>
            {
                changes.push(quarantine(device, &note.text()));
            }
            _ => {}
        }
    }
    changes.extend(bereft(state, &changes));
    changes
}

/// Devices that are not sent to be cleaned by an agent that has no record of them.
pub fn unnoted(state: &State, host: &Name, notes: &Notes) -> BTreeSet<PciAddress> {
    state.host_devices(host).map(|d| d.address).filter(|address| !notes.contains_key(address)).collect()
}

/// Of what a run's report would make Free, only what the agent has as clean by this run is: another may have
/// been cleaned by an agent that has ended since, and nobody watched it.
pub fn doubt(changes: &mut [Change], run: RunId, notes: Option<&Notes>) {
    for change in changes {
        if let Change::Put(Record::Device(device)) = change
            && device.state == DeviceState::Free
            && notes.and_then(|notes| notes.get(&device.address)) != Some(&Note::Clean(run))
        {
            device.state = DeviceState::Dirty;
            device.reason = "it was cleaned, and nobody has watched it since".to_owned();
        }
    }
}

/// A free device that something holds is not clean any more, whoever holds it.
pub fn in_use_by_others(state: &State, host: &Name, attached: &BTreeSet<PciAddress>) -> Vec<Change> {
    state
        .host_devices(host)
        .filter(|d| d.state == DeviceState::Free && attached.contains(&d.address))
        .map(|d| {
            let mut next = d.clone();
            next.slice = None;
            dirty(&next, "something that is not Holm uses it")
        })
        .collect()
}

/// Order a run for a host's dirty devices: those of one former owner together. `None`: nothing to do.
pub fn order_run(
    state: &State,
    host: &Name,
    attached: &BTreeSet<PciAddress>,
    id: RunId,
    now: Timestamp,
) -> Option<(Run, Vec<Change>)> {
    let busy = busy(state, host);
    let ready = |d: &&Device| {
        let idle = !attached.contains(&d.address) && !busy.contains(&d.address);
        d.gpu && d.state == DeviceState::Dirty && d.problem.is_empty() && idle
    };
    let owner = state.host_devices(host).find(ready)?.slice;
    let devices: Vec<&Device> =
        state.host_devices(host).filter(ready).filter(|d| d.slice == owner).take(RUN_MAX).collect();
    let run = Run {
        id,
        host: host.clone(),
        devices: devices.iter().map(|d| d.address).collect(),
        slice: owner,
        started: now,
    };
    let mut changes: Vec<Change> = devices
        .into_iter()
        .map(|d| {
            let mut next = d.clone();
            next.state = DeviceState::Sanitising;
            next.evidence = None;
            put(next)
        })
        .collect();
    changes.push(Change::Put(Record::Run(run.clone())));
    Some((run, changes))
}

/// A run's report. Every expected device is judged: cleaned in full is Free, all else Quarantined,
/// missing too. A device that is not Sanitising any more is left as it is.
pub fn reported(state: &State, run: &Run, report: &Report) -> (Vec<Evidence>, Vec<Change>) {
    let simulated = state.hosts.get(&run.host).is_some_and(|host| host.simulated);
    let mut all = Vec::new();
    let mut changes = vec![Change::Delete(Record::Run(run.clone()).key())];
    for address in &run.devices {
        let evidence = report.get(address).filter(|e| e.run == run.id).cloned();
        let Some(device) =
            state.devices.get(&(run.host.clone(), *address)).filter(|d| d.state == DeviceState::Sanitising)
        else {
            continue;
        };
        let mut next = device.clone();
        let problem = evidence
            .as_ref()
            .map_or_else(|| Some("its report is missing".to_owned()), |e| incomplete(device, e, simulated));
        let mut evidence = evidence.unwrap_or_else(|| missing(run, *address));
        // What a host claims and holmd does not believe is no evidence, in no certificate either.
        if let Some(problem) = problem.as_ref().filter(|_| evidence.cleaned) {
            evidence.cleaned = false;
            evidence.detail = format!("not believed: {problem}");
        }
        match problem {
            None => {
                next.state = DeviceState::Free;
                next.reason.clear();
                next.slice = None;
            }
            Some(problem) => {
                next.state = DeviceState::Quarantined;
                next.reason = format!("not sanitised: {problem}");
            }
        }
        next.evidence = Some(evidence.clone());
        all.push(evidence);
        changes.push(put(next));
    }
    (all, changes)
}

/// Quarantined → Dirty, by an operator's word: it is sanitised again before anyone gets it.
pub fn release(device: &Device, by: &Name, why: &str) -> Result<Change, Refusal> {
    if device.state != DeviceState::Quarantined {
        return Err(Refusal::new(
            RefusalKind::State,
            format!("device {} is not quarantined", device.address),
        ));
    }
    if device.reason.starts_with(GONE) {
        return Err(Refusal::new(
            RefusalKind::State,
            format!("device {} is no longer on the bus: there is nothing to release", device.address),
        )
        .hint(format!("put it back, then run: holm host show {}", device.host)));
    }
    if why.trim().is_empty() {
        return Err(Refusal::new(RefusalKind::Invalid, "a release from quarantine has a reason")
            .hint(format!("holm host release-device {} {} --reason \"…\"", device.host, device.address)));
    }
    Ok(dirty(device, &format!("released by {by}: {why}")))
}

/// Devices that are not to be touched, whatever their own state says: those of a slice that is not
/// observed released, and those that an earlier run still has to report, lest its report be taken for
/// the later one's.
fn busy(state: &State, host: &Name) -> BTreeSet<PciAddress> {
    let slices = state.slices.values().filter(|s| s.holds_devices()).filter_map(|s| s.placement.as_ref());
    let held = slices.filter(|p| &p.host == host).flat_map(|p| &p.devices);
    let runs = state.runs.values().filter(|r| &r.host == host).flat_map(|r| &r.devices);
    held.chain(runs).copied().collect()
}

/// The method that works through the device's own driver, which keeps some memory for itself.
const BY_DRIVER: &str = "scrub-vm/cuda";
/// Methods for memory that lies open in the device's BARs.
const OPEN: [&str; 2] = ["bar", "scrub-vm/bar"];
/// What a host that is simulated says.
const SIMULATED: &str = "simulated";

/// Why this evidence does not show that the whole of the device's memory was cleaned.
///
/// All of it, to the last byte. Only where its driver alone reaches the memory may some of it stay unreached: how
/// much is known by the kind of device, and so is how much it has at all. The BARs of such a kind are windows, and
/// writing them shows nothing, whatever a host is configured to believe.
fn incomplete(device: &Device, evidence: &Evidence, simulated: bool) -> Option<String> {
    if !evidence.cleaned {
        return Some(evidence.detail.clone());
    }
    let method = evidence.method.as_str();
    let (has, unreached_at_most) = match GpuKind::of(&device.id) {
        _ if method == SIMULATED && simulated => (device.memory_bytes, 0),
        Some(kind) if method == BY_DRIVER => (kind.memory_bytes, kind.most_unreached()),
        None if OPEN.contains(&method) => (device.memory_bytes, 0),
        Some(_) if OPEN.contains(&method) => {
            return Some(format!("the BARs of a {} are not its memory", device.id));
        }
        None if method == BY_DRIVER => {
            return Some(format!("nobody knows how much memory a {} has", device.id));
        }
        _ => return Some(format!("`{method}` is no method of cleaning that is known")),
    };
    let (total, written, unreached) =
        (evidence.bytes_total, evidence.bytes_written, evidence.bytes_unreached);
    if total == 0 || total != has {
        return Some(format!("{total} bytes were covered, it has {has}"));
    }
    if written.checked_add(unreached) != Some(total) || evidence.bytes_verified != written {
        return Some(format!(
            "of {total} bytes {written} were written and {} verified, {unreached} not reached",
            evidence.bytes_verified
        ));
    }
    if unreached > unreached_at_most {
        return Some(format!("{unreached} bytes were not reached, {unreached_at_most} at most may be"));
    }
    None
}

fn quarantine(device: &Device, why: &str) -> Change {
    let mut next = device.clone();
    next.state = DeviceState::Quarantined;
    why.clone_into(&mut next.reason);
    put(next)
}

fn missing(run: &Run, address: PciAddress) -> Evidence {
    Evidence {
        run: run.id,
        address,
        cleaned: false,
        method: String::new(),
        pattern: String::new(),
        bytes_total: 0,
        bytes_written: 0,
        bytes_verified: 0,
        bytes_unreached: 0,
        bytes_dirty_before: 0,
        took_ms: 0,
        tool: String::new(),
        detail: "its report is missing".to_owned(),
        at: run.started,
    }
}

fn put(device: Device) -> Change {
    Change::Put(Record::Device(device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V100: &str = "10de:1db8";
    /// Its BARs are its memory.
    const STAND_IN: &str = "1af4:1110";
    const WHOLE: u64 = 32 << 30;
    /// Its BARs: a window of as much, and another.
    const BARS: u64 = WHOLE + (32 << 20);

    fn device(id: &str) -> Device {
        Device {
            host: "dgx2-1".parse().unwrap(),
            address: "0000:34:00.0".parse().unwrap(),
            gpu: true,
            id: id.to_owned(),
            numa_node: 0,
            iommu_group: Some(20),
            physical_id: Some(1),
            driver: "vfio-pci".to_owned(),
            reset_methods: vec!["bus".to_owned()],
            memory_bytes: BARS,
            hardware: super::super::machine::Hardware::default(),
            health: None,
            maintenance: None,
            problem: String::new(),
            state: DeviceState::Sanitising,
            slice: None,
            reason: String::new(),
            evidence: None,
        }
    }

    fn evidence(method: &str, total: u64, unreached: u64) -> Evidence {
        Evidence {
            run: "b4c0a5a0-0000-4000-8000-000000000001".parse().unwrap(),
            address: "0000:34:00.0".parse().unwrap(),
            cleaned: true,
            method: method.to_owned(),
            pattern: "zero".to_owned(),
            bytes_total: total,
            bytes_written: total - unreached,
            bytes_verified: total - unreached,
            bytes_unreached: unreached,
            bytes_dirty_before: 0,
            took_ms: 1,
            tool: "holm-scrub".to_owned(),
            detail: String::new(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_a_driver_keeps_is_bounded_by_kind() {
        let kept = (32_768 - 32_480 + 300) << 20;
        assert_eq!(incomplete(&device(V100), &evidence("scrub-vm/cuda", WHOLE, kept), false), None);
        assert_eq!(incomplete(&device(V100), &evidence("scrub-vm/cuda", WHOLE, 0), false), None);
        for (id, evidence, word) in [
            (V100, evidence("scrub-vm/cuda", WHOLE, 2 * kept), "at most may be"),
            // What it shows as BARs is not its memory.
            (V100, evidence("scrub-vm/cuda", BARS, kept), "bytes were covered"),
            (V100, evidence("scrub-vm/cuda", WHOLE - kept, 0), "bytes were covered"),
            (V100, Evidence { bytes_unreached: 0, ..evidence("scrub-vm/cuda", WHOLE, kept) }, "not reached"),
            (V100, Evidence { bytes_verified: 1, ..evidence("scrub-vm/cuda", WHOLE, kept) }, "1 verified"),
            (
                V100,
                Evidence { bytes_unreached: u64::MAX, ..evidence("scrub-vm/cuda", WHOLE, 1) },
                "not reached",
            ),
            ("10de:ffff", evidence("scrub-vm/cuda", WHOLE, kept), "nobody knows"),
            // Whoever writes to BARs reaches all of it or has cleaned nothing.
            (STAND_IN, evidence("bar", BARS, 4096), "at most may be"),
            (STAND_IN, evidence("scrub-vm/bar", BARS, 4096), "at most may be"),
            // Its BARs are windows: that they are full of zeros says nothing of what is behind them.
            (V100, evidence("bar", BARS, 0), "are not its memory"),
            (V100, evidence("scrub-vm/bar", BARS, 0), "are not its memory"),
            (V100, evidence("cuda", BARS, 0), "no method"),
            (STAND_IN, evidence("", BARS, 0), "no method"),
            (STAND_IN, evidence("simulated", BARS, 0), "no method"),
            (V100, evidence("simulated", BARS, 0), "no method"),
        ] {
            let why = incomplete(&device(id), &evidence, false).unwrap();
            assert!(why.contains(word), "{}: {why}", evidence.method);
        }
        assert_eq!(incomplete(&device(STAND_IN), &evidence("scrub-vm/bar", BARS, 0), false), None);
        assert_eq!(incomplete(&device(V100), &evidence("simulated", BARS, 0), true), None);
    }

    #[test]
    fn an_entry_of_before_can_be_read() {
        let mut old = serde_json::to_value(evidence("bar", BARS, 0)).unwrap();
        for field in ["pattern", "bytes_unreached"] {
            assert!(old.as_object_mut().unwrap().remove(field).is_some());
        }
        let read: Evidence = serde_json::from_value(old).unwrap();
        assert_eq!((read.pattern.as_str(), read.bytes_unreached), ("", 0));
    }

    proptest! {
        #[test]
        fn whatever_is_said_what_is_complete_is_covered(
            by_driver: bool, total in 0..3_u64, written: u64, verified: u64, unreached: u64, small: bool,
        ) {
            let total = [0, WHOLE, BARS][total as usize];
            let unreached = if small { unreached % (1 << 30) } else { unreached };
            let written = if small { total.saturating_sub(unreached) } else { written };
            let method = if by_driver { "scrub-vm/cuda" } else { "bar" };
            let said = Evidence {
                bytes_written: written,
                bytes_verified: if small { written } else { verified },
                bytes_unreached: unreached,
                ..evidence(method, total, 0)
            };
            let kind = if by_driver { V100 } else { STAND_IN };
            if incomplete(&device(kind), &said, false).is_none() {
                let (has, most) = if by_driver { (WHOLE, WHOLE / 50) } else { (BARS, 0) };
                prop_assert_eq!(said.bytes_verified + said.bytes_unreached, has);
                prop_assert!(said.bytes_unreached <= most);
            }
        }
    }
}
