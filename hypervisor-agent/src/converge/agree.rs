//! Do libvirt, vfio, the fabric, this agent's record and holmd's intention agree? A pure function of what each
//! of them says. Every disagreement is named, and resolved to the safe side: a device nobody is sure of is
//! dirty, a machine that runs keeps what it has, and nothing is destroyed on ignorance.
//!
//! ```text
//!   libvirt: machines and their devices ─┐
//!   vfio: what is held ──────────────────┤
//!   the bus: which device is where ──────┼──▶ agree ──▶ marks (stored) + findings (told to holmd, logged once)
//!   the fabric: partitions that are up ──┤
//!   the record: marks and slices ────────┤
//!   holmd: what is intended ─────────────┘
//! ```

use super::devices::{Mark, Notes};
use crate::edge::DomainStatus;
use holm_proto::ids::{PciAddress, SliceId};
use std::collections::{BTreeMap, BTreeSet};

/// What each of them says.
#[derive(Debug)]
pub struct View<'a> {
    /// libvirt.
    pub domains: &'a [DomainStatus],
    /// vfio; without what this process itself holds to clean it.
    pub attached: &'a BTreeSet<PciAddress>,
    /// The bus: every GPU and its id.
    pub bus: &'a BTreeMap<PciAddress, String>,
    /// The fabric.
    pub partitions: &'a BTreeSet<u32>,
    /// The record of devices.
    pub notes: &'a Notes,
    /// The record of slices, and what holmd wants of each.
    pub slices: &'a BTreeMap<SliceId, Believed>,
    /// holmd has said what it wants.
    pub current: bool,
}

/// A slice by the record and the intention.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Believed {
    /// The devices that it works on or has.
    pub holds: BTreeSet<PciAddress>,
    /// The partition that it works on or has.
    pub partition: Option<u32>,
    /// Its machine is believed to run.
    pub runs: bool,
    /// Its record is damaged: what it holds is not known.
    pub frozen: bool,
    /// holmd mentions it.
    pub wanted: bool,
}

/// One disagreement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// PCI address, slice id or partition.
    pub subject: String,
    /// What each of two says.
    pub found: String,
    /// What is done about it.
    pub done: String,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agreed {
    /// How devices stand from now on, where that is otherwise than noted.
    pub marks: BTreeMap<PciAddress, Mark>,
    /// What did not agree.
    pub findings: BTreeSet<Finding>,
}

impl Agreed {
    fn find(&mut self, subject: impl ToString, found: String, done: &str) {
        self.findings.insert(Finding { subject: subject.to_string(), found, done: done.to_owned() });
    }
}

/// See the module.
pub fn agree(view: &View<'_>) -> Agreed {
    let mut agreed = Agreed::default();
    let mut holders: BTreeMap<PciAddress, SliceId> = BTreeMap::new();
    for domain in view.domains.iter().filter(|domain| domain.running) {
        holders.extend(domain.devices.iter().map(|device| (*device, domain.slice)));
    }
    let noted: BTreeSet<PciAddress> = view.notes.iter().map(|(device, _)| device).collect();
    for device in noted.iter().chain(view.bus.keys()).chain(holders.keys()).collect::<BTreeSet<_>>() {
        look_at_device(view, *device, holders.get(device).copied(), &mut agreed);
    }
    look_at_slices(view, &mut agreed);
    look_at_fabric(view, &mut agreed);
    agreed
}

fn look_at_device(view: &View<'_>, device: PciAddress, holder: Option<SliceId>, agreed: &mut Agreed) {
    let note = view.notes.get(device);
    let says =
        note.map_or_else(|| "does not know it".to_owned(), |note| format!("says {}", note.mark.text()));
    let mark = note.map(|note| &note.mark);
    if let Some(slice) = holder {
        if mark != Some(&Mark::Assigned { slice }) {
            let found = format!("the machine of slice {slice} has it, the record {says}");
            agreed.find(device, found, "assigned to the slice whose machine has it");
            agreed.marks.insert(device, Mark::Assigned { slice });
        }
        return;
    }
    let Some(note) = note else { return };
    let here = view.bus.get(&device);
    match &note.mark {
        Mark::Dirty { .. } => {}
        Mark::Clean { .. } => {
            let why = match here {
                None => "it was no longer on the bus".to_owned(),
                Some(id) if !note.id.is_empty() && *id != note.id => {
                    format!("it was {} and is {id}", note.id)
                }
                Some(_) if view.attached.contains(&device) => "something that is not Holm used it".to_owned(),
                Some(_) => return,
            };
            agreed.find(device, format!("the record {says}; {why}"), "dirty");
            agreed.marks.insert(device, Mark::dirty(why));
        }
        Mark::Assigned { slice } => match view.slices.get(slice) {
            Some(known) if known.frozen || known.holds.contains(&device) => match here {
                None => {
                    let found = format!("the record {says}, and it is not on the bus");
                    agreed.find(device, found, "stays with the slice until that is closed");
                }
                Some(id) if !note.id.is_empty() && *id != note.id => {
                    let why = format!("it was {} and is {id}", note.id);
                    agreed.find(device, format!("the record {says}; {why}"), "dirty");
                    agreed.marks.insert(device, Mark::dirty(why));
                }
                Some(_) => {}
            },
            _ => {
                let found = format!("the record {says}, and no such slice has it");
                agreed.find(device, found, "dirty");
                agreed.marks.insert(device, Mark::dirty(format!("slice {slice} may have used it")));
            }
        },
    }
}

fn look_at_slices(view: &View<'_>, agreed: &mut Agreed) {
    let running =
        |slice: &SliceId| view.domains.iter().any(|domain| domain.running && domain.slice == *slice);
    for domain in view.domains.iter().filter(|domain| domain.running) {
        match view.slices.get(&domain.slice) {
            None if view.current => agreed.find(
                domain.slice,
                "libvirt runs its machine, the record and holmd do not know it".to_owned(),
                "kept, with its devices, until an operator has looked",
            ),
            Some(known) if view.current && !known.wanted => agreed.find(
                domain.slice,
                "libvirt runs its machine, holmd does not intend it".to_owned(),
                "kept, with its devices, until an operator has looked",
            ),
            Some(known) if !known.frozen && !known.holds.is_empty() => {
                let has: BTreeSet<PciAddress> = domain.devices.iter().copied().collect();
                if has != known.holds {
                    let found = "its machine runs with other devices than the record says".to_owned();
                    agreed.find(domain.slice, found, "each is assigned to the slice whose machine has it");
                }
            }
            _ => {}
        }
    }
    for (slice, known) in view.slices.iter().filter(|(slice, _)| !running(slice)) {
        if known.runs {
            let found = "the record says that its machine runs, libvirt has none".to_owned();
            agreed.find(slice, found, "not started again: its disk and devices are kept until it is closed");
        }
        if view.current && !known.wanted && !known.holds.is_empty() {
            let found = "the record says that it has devices, holmd does not intend it".to_owned();
            agreed.find(slice, found, "its disk is kept; its devices may be cleaned when holmd orders it");
        }
    }
}

fn look_at_fabric(view: &View<'_>, agreed: &mut Agreed) {
    // What a slice has whose record is damaged cannot be said.
    if view.slices.values().any(|known| known.frozen) {
        return;
    }
    let claimed: BTreeSet<u32> = view.slices.values().filter_map(|known| known.partition).collect();
    for partition in view.partitions.difference(&claimed) {
        agreed.find(
            format!("partition {partition}"),
            "the fabric has it up, and no slice has it".to_owned(),
            "left up: one that overlaps it cannot be brought up until an operator has taken it down",
        );
    }
    // A host without a fabric has none up, whatever runs.
    let runs = view.slices.iter().filter(|(_, known)| known.runs && !view.partitions.is_empty());
    for (slice, known) in runs {
        if let Some(partition) = known.partition.filter(|p| !view.partitions.contains(p)) {
            let found = format!("its machine runs, and the fabric has partition {partition} down");
            agreed.find(slice, found, "left as it is: its GPUs do not reach each other");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_proto::ids::RunId;
    use newtype_uuid::GenericUuid as _;
    use proptest::prelude::*;

    fn device(bus: u8) -> PciAddress {
        PciAddress { domain: 0, bus, device: 0, function: 0 }
    }

    fn slice(number: u8) -> SliceId {
        SliceId::from_untyped_uuid(uuid::Uuid::from_bytes([number; 16]))
    }

    /// All that a view refers to.
    #[derive(Debug, Clone, Default)]
    struct World {
        domains: Vec<DomainStatus>,
        attached: BTreeSet<PciAddress>,
        bus: BTreeMap<PciAddress, String>,
        partitions: BTreeSet<u32>,
        notes: Notes,
        slices: BTreeMap<SliceId, Believed>,
        current: bool,
    }

    impl World {
        fn agree(&self) -> Agreed {
            agree(&View {
                domains: &self.domains,
                attached: &self.attached,
                bus: &self.bus,
                partitions: &self.partitions,
                notes: &self.notes,
                slices: &self.slices,
                current: self.current,
            })
        }
    }

    fn marks() -> impl Strategy<Value = Mark> {
        let run = RunId::from_untyped_uuid(uuid::Uuid::from_bytes([9; 16]));
        prop_oneof![
            Just(Mark::dirty("x")),
            Just(Mark::Clean { run }),
            (1u8..4).prop_map(|n| Mark::Assigned { slice: slice(n) }),
        ]
    }

    fn devices() -> impl Strategy<Value = BTreeSet<PciAddress>> {
        prop::collection::btree_set((0u8..4).prop_map(device), 0..3)
    }

    fn world() -> impl Strategy<Value = World> {
        let domains = prop::collection::vec((1u8..4, any::<bool>(), devices()), 0..3);
        let notes = prop::collection::btree_map((0u8..4).prop_map(device), (marks(), 0u8..2), 0..5);
        let bus = prop::collection::btree_map((0u8..4).prop_map(device), 0u8..2, 0..5);
        let believed = (devices(), prop::option::of(0u32..4), any::<[bool; 3]>());
        let slices = prop::collection::btree_map((1u8..4).prop_map(slice), believed, 0..3);
        let partitions = prop::collection::btree_set(0u32..4, 0..3);
        (domains, devices(), bus, partitions, notes, slices, any::<bool>()).prop_map(
            |(domains, attached, bus, partitions, marks, slices, current)| {
                let mut notes = Notes::default();
                for (device, (mark, id)) in marks {
                    notes.identify(device, &id.to_string());
                    notes.set(device, mark);
                }
                let mut ids = BTreeSet::new();
                World {
                    domains: domains
                        .into_iter()
                        .filter(|(n, ..)| ids.insert(*n))
                        .map(|(n, running, devices)| DomainStatus {
                            slice: slice(n),
                            paused: false,
                            running,
                            devices: devices.into_iter().collect(),
                        })
                        .collect(),
                    attached,
                    bus: bus.into_iter().map(|(device, id)| (device, id.to_string())).collect(),
                    partitions,
                    notes,
                    slices: slices
                        .into_iter()
                        .map(|(id, (holds, partition, [runs, frozen, wanted]))| {
                            (id, Believed { holds, partition, runs, frozen, wanted })
                        })
                        .collect(),
                    current,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_is_found_is_resolved_to_the_safe_side(world in world()) {
            let agreed = world.agree();
            for (device, mark) in &agreed.marks {
                // Nothing becomes clean; and what becomes a slice's, its machine has.
                match mark {
                    Mark::Clean { .. } => prop_assert!(false, "{device} became clean"),
                    Mark::Assigned { slice } => prop_assert!(world.domains.iter()
                        .any(|d| d.running && d.slice == *slice && d.devices.contains(device))),
                    Mark::Dirty { .. } => prop_assert!(!world.domains.iter()
                        .any(|d| d.running && d.devices.contains(device))),
                }
                let subject = device.to_string();
                prop_assert!(agreed.findings.iter().any(|f| f.subject == subject), "{device} was marked in silence");
            }
            let mut after = world.clone();
            for (device, mark) in agreed.marks {
                after.notes.set(device, mark);
            }
            for (device, note) in after.notes.iter() {
                let held = world.domains.iter().any(|d| d.running && d.devices.contains(&device));
                if let Mark::Clean { .. } = note.mark {
                    prop_assert!(!held && !world.attached.contains(&device));
                    prop_assert_eq!(world.bus.get(&device), Some(&note.id));
                }
            }
            // What was resolved stays so.
            let distinct: usize = world.domains.iter().filter(|d| d.running).map(|d| d.devices.len()).sum();
            let all: BTreeSet<_> = world.domains.iter().filter(|d| d.running).flat_map(|d| &d.devices).collect();
            if distinct == all.len() {
                prop_assert!(after.agree().marks.is_empty());
            }
        }
    }

    #[test]
    fn a_host_where_all_agree_says_nothing() {
        let mut world = World { current: true, ..World::default() };
        world.bus.insert(device(1), "10de:1db8".to_owned());
        world.notes.identify(device(1), "10de:1db8");
        world.notes.set(device(1), Mark::Assigned { slice: slice(1) });
        world.attached.insert(device(1));
        world.partitions.insert(17);
        world.domains.push(DomainStatus {
            slice: slice(1),
            running: true,
            paused: false,
            devices: vec![device(1)],
        });
        let known = Believed {
            holds: BTreeSet::from([device(1)]),
            partition: Some(17),
            runs: true,
            frozen: false,
            wanted: true,
        };
        world.slices.insert(slice(1), known.clone());
        assert_eq!(world.agree(), Agreed::default());
        // The machine ends, the partition with it.
        world.domains.clear();
        world.partitions = BTreeSet::from([3]);
        let found: Vec<String> = world.agree().findings.into_iter().map(|f| f.found).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(world.agree().marks.is_empty(), "its devices stay its own");
    }
}
