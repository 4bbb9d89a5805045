//! What this host's agent knows of each device, by itself: its word against a holmd that was restored from an
//! old copy, or is mistaken.
//!
//! ```text
//!                   a run of this very process       about to be bound for a slice,
//!                   ended: cleaned                   stored before it is
//!   (unknown =) Dirty ───────────────────▶ Clean ───────────────────────────────▶ Assigned
//!               ▲ ▲ ▲                        │                                       │
//!               │ │ └── an agent begins ◀────┤                                       │
//!               │ └──── something else holds ┘                                       │
//!               │       it, another device is in its place, it is cleaned again      │
//!               └───────── nothing of its slice is left; no slice of it is known ◀───┘
//! ```
//!
//! * Nothing else makes a device Clean, and only a device that is Clean, or the slice's already, is bound for a
//!   slice. A machine that runs with a device has it, whatever was believed before.
//! * All marks lie in one file, so that those of a slice change together. A file that is damaged or missing is
//!   a host on which every device is dirty.
//! * To Dirty a mark goes in memory also where it cannot be stored: on the disk the device is then Clean, and
//!   Dirty when the next agent begins, or Assigned to a slice that is not there.

use holm_proto::{
    ids::{PciAddress, RunId, SliceId},
    v1,
};
use newtype_uuid::GenericUuid as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of a device that nothing is known of.
pub(super) const UNKNOWN: &str = "this agent has not cleaned it";
/// Of one that was clean when the agent before this one ended.
const UNWATCHED: &str = "nobody watched it while no agent ran";
/// While a run works on it.
pub(super) const BEING_CLEANED: &str = "it is being cleaned";

/// How a device stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mark", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Mark {
    /// Nobody gets it.
    Dirty {
        /// In words for a person.
        why: String,
    },
    /// Cleaned, and nothing has held it since.
    Clean {
        /// By this run.
        run: RunId,
    },
    /// A slice has it, or is about to.
    Assigned {
        /// Which.
        slice: SliceId,
    },
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// vvvv:dddd: another device in the same place is one that nobody has cleaned.
    pub id: String,
    /// Of its own, where it says one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// How it stands.
    pub mark: Mark,
}

/// Every device that was ever noted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Notes(BTreeMap<PciAddress, Note>);

impl Mark {
    /// Dirty, and why.
    pub fn dirty(why: impl Into<String>) -> Self {
        Self::Dirty { why: why.into() }
    }

    /// As in "the record says …".
    pub fn text(&self) -> String {
        match self {
            Self::Dirty { why } => format!("dirty: {why}"),
            Self::Clean { run } => format!("clean by run {run}"),
            Self::Assigned { slice } => format!("assigned to slice {slice}"),
        }
    }
}

impl Notes {
    /// What an agent that begins makes of those of the one before it.
    pub(super) fn begin(mut self) -> Self {
        for note in self.0.values_mut() {
            if matches!(note.mark, Mark::Clean { .. }) {
                note.mark = Mark::dirty(UNWATCHED);
            }
        }
        self
    }

    /// What is noted of a device; one that is not noted is dirty.
    pub fn get(&self, device: PciAddress) -> Option<&Note> {
        self.0.get(&device)
    }

    /// Every note.
    pub fn iter(&self) -> impl Iterator<Item = (PciAddress, &Note)> {
        self.0.iter().map(|(device, note)| (*device, note))
    }

    /// Notes how a device stands.
    pub(super) fn set(&mut self, device: PciAddress, mark: Mark) {
        match self.0.get_mut(&device) {
            Some(note) => note.mark = mark,
            None => drop(self.0.insert(device, Note { id: String::new(), uuid: String::new(), mark })),
        }
    }

    /// Notes which device it is.
    pub(super) fn identify(&mut self, device: PciAddress, id: &str) {
        let unknown = || Note { id: String::new(), uuid: String::new(), mark: Mark::dirty(UNKNOWN) };
        id.clone_into(&mut self.0.entry(device).or_insert_with(unknown).id);
    }

    /// The slice that a device is assigned to.
    pub fn assigned(&self, device: PciAddress) -> Option<SliceId> {
        match self.0.get(&device)?.mark {
            Mark::Assigned { slice } => Some(slice),
            Mark::Dirty { .. } | Mark::Clean { .. } => None,
        }
    }

    /// The first of these devices that this slice cannot have, and how it stands.
    pub(super) fn unclean(&self, devices: &[PciAddress], slice: SliceId) -> Option<(PciAddress, String)> {
        devices.iter().find_map(|device| match self.0.get(device).map(|note| &note.mark) {
            Some(Mark::Clean { .. }) => None,
            Some(Mark::Assigned { slice: owner }) if *owner == slice => None,
            // A tenant reads this: who else had it, is not hers to know.
            Some(Mark::Assigned { .. }) => Some((*device, "another slice's".to_owned())),
            Some(Mark::Dirty { .. }) => Some((*device, "dirty".to_owned())),
            None => Some((*device, format!("dirty: {UNKNOWN}"))),
        })
    }

    /// What a slice had is dirty now; what another has stays with it.
    pub(super) fn release(&mut self, slice: SliceId, devices: &[PciAddress]) {
        let had: Vec<PciAddress> =
            self.0.keys().copied().filter(|d| self.assigned(*d) == Some(slice)).collect();
        let others = |device: &&PciAddress| self.assigned(**device).is_none();
        let claimed: Vec<PciAddress> = devices.iter().filter(others).copied().collect();
        for device in had.into_iter().chain(claimed) {
            self.set(device, Mark::dirty(format!("slice {slice} had it")));
        }
    }

    /// What could not be stored and is believed all the same: that more is dirty.
    pub(super) fn worst_of(&self, wanted: &Self) -> Self {
        let mut worst = self.clone();
        for (device, note) in &wanted.0 {
            if matches!(note.mark, Mark::Dirty { .. }) {
                worst.0.insert(*device, note.clone());
            }
        }
        worst
    }
}

/// One device as holmd is told.
pub(super) fn message(device: PciAddress, note: Option<&Note>) -> v1::DeviceNote {
    let unknown = Mark::dirty(UNKNOWN);
    let (mark, of, reason) = match note.map_or(&unknown, |note| &note.mark) {
        Mark::Dirty { why } => (v1::DeviceMark::Dirty, String::new(), why.clone()),
        Mark::Clean { run } => (v1::DeviceMark::Clean, run.into_untyped_uuid().to_string(), String::new()),
        Mark::Assigned { slice } => {
            (v1::DeviceMark::Assigned, slice.into_untyped_uuid().to_string(), String::new())
        }
    };
    v1::DeviceNote { address: device.to_string(), mark: mark.into(), of, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn device(bus: u8) -> PciAddress {
        PciAddress { domain: 0, bus, device: 0, function: 0 }
    }

    fn slice(number: u8) -> SliceId {
        SliceId::from_untyped_uuid(uuid::Uuid::from_bytes([number; 16]))
    }

    fn mark() -> impl Strategy<Value = Mark> {
        let run = |n: u8| RunId::from_untyped_uuid(uuid::Uuid::from_bytes([n; 16]));
        prop_oneof![
            ".{0,8}".prop_map(Mark::dirty),
            any::<u8>().prop_map(move |n| Mark::Clean { run: run(n) }),
            (1u8..4).prop_map(|n| Mark::Assigned { slice: slice(n) }),
        ]
    }

    fn notes() -> impl Strategy<Value = Notes> {
        prop::collection::btree_map((0u8..6).prop_map(device), mark(), 0..6).prop_map(|marks| {
            let mut notes = Notes::default();
            marks.into_iter().for_each(|(device, mark)| notes.set(device, mark));
            notes
        })
    }

    proptest! {
        #[test]
        fn they_are_stored_as_they_are(notes in notes()) {
            let text = serde_json::to_vec(&notes).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Notes>(&text).unwrap(), notes);
        }

        #[test]
        fn an_agent_that_begins_finds_nothing_clean_and_takes_nothing_away(notes in notes()) {
            let begun = notes.clone().begin();
            for (device, note) in begun.iter() {
                let clean = matches!(note.mark, Mark::Clean { .. });
                prop_assert!(!clean);
                prop_assert_eq!(begun.assigned(device), notes.assigned(device));
            }
        }

        #[test]
        fn what_is_released_is_dirty_and_others_keep_theirs(notes in notes(), had in 0u8..6) {
            let mut after = notes.clone();
            after.release(slice(1), &[device(had)]);
            prop_assert!(after.iter().all(|(d, _)| after.assigned(d) != Some(slice(1))));
            prop_assert!(after.unclean(&[device(had)], slice(1)).is_some());
            for (device, _) in notes.iter().filter(|(d, _)| notes.assigned(*d).is_some_and(|s| s != slice(1))) {
                prop_assert_eq!(after.assigned(device), notes.assigned(device));
            }
        }

        #[test]
        fn what_could_not_be_stored_makes_nothing_clean_or_anybodys(before in notes(), wanted in notes()) {
            let worst = before.worst_of(&wanted);
            for (device, note) in worst.iter() {
                let fine = before.get(device) == Some(note) || matches!(note.mark, Mark::Dirty { .. });
                prop_assert!(fine);
            }
        }

        #[test]
        fn a_device_is_one_slices(notes in notes(), bus in 0u8..6) {
            let may = |n: u8| notes.unclean(&[device(bus)], slice(n)).is_none();
            let clean = matches!(notes.get(device(bus)).map(|n| &n.mark), Some(Mark::Clean { .. }));
            prop_assert!(clean || (1..4).filter(|n| may(*n)).count() <= 1);
        }
    }
}
