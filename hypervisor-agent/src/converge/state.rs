//! All that the engine holds in memory, and what follows from it.

use super::{
    engine::{Limits, Now, Turn},
    next::{Effect, Facts, Holder, KeyFact, Machine},
    record::{Kept, Point},
    runs::Run,
    slice::{Brought, HeldKey, STEP_BOOT, Slice},
};
use crate::edge::VolumeState;
use holm_proto::ids::{PciAddress, RunId, SliceId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct State {
    pub(super) version: u64,
    pub(super) stopping: bool,
    /// There is a session, and what is wanted was said in it.
    pub(super) current: bool,
    pub(super) seen: u64,
    pub(super) slices: BTreeMap<SliceId, Slice>,
    pub(super) runs: BTreeMap<RunId, Run>,
    /// Slices whose machines run; `None` until it was looked.
    pub(super) machines: Option<BTreeSet<SliceId>>,
    /// Devices that something held when it was looked last.
    pub(super) attached: Option<BTreeSet<PciAddress>>,
    /// Changes with each event that makes a look that is under way worthless.
    pub(super) epoch: u64,
    /// Machines that nobody intends and that the operator was told of.
    pub(super) orphans: BTreeSet<SliceId>,
    pub(super) complaint: Option<String>,
}

impl State {
    pub(super) fn machine(&self, id: SliceId) -> Machine {
        match &self.machines {
            None => Machine::Unknown,
            Some(machines) if machines.contains(&id) => Machine::Running,
            Some(_) => Machine::Still,
        }
    }

    pub(super) fn facts(&self, id: SliceId, slice: &Slice, kept: &Kept) -> Facts {
        Facts {
            current: self.current,
            machine: self.machine(id),
            done: slice.done,
            volume: slice.volume,
            key: match &slice.key {
                HeldKey::None => KeyFact::None,
                HeldKey::Held(_) => KeyFact::Held,
                HeldKey::Refused(why) => KeyFact::Refused(why.clone()),
            },
            busy: kept.devices.iter().find_map(|device| Some((*device, self.holder(*device, Some(id))?))),
            crowded: self.crowded(id, kept),
        }
    }

    pub(super) fn slice_and_facts(&mut self, id: SliceId) -> Option<(&mut Slice, Facts)> {
        let slice = self.slices.get(&id)?;
        let facts = match &slice.kept {
            Some(kept) => self.facts(id, slice, kept),
            None => Facts {
                current: false,
                machine: Machine::Unknown,
                done: None,
                volume: None,
                key: KeyFact::None,
                busy: None,
                crowded: None,
            },
        };
        Some((self.slices.get_mut(&id)?, facts))
    }

    /// Who has this device, but for one slice.
    pub(super) fn holder(&self, device: PciAddress, but: Option<SliceId>) -> Option<Holder> {
        if Run::cleaning(&self.runs).contains(&device) {
            return Some(Holder::Cleaning);
        }
        let other = self.slices.iter().find(|(id, slice)| {
            Some(**id) != but
                && slice
                    .kept
                    .as_ref()
                    .is_some_and(|kept| kept.point.holds() && kept.devices.contains(&device))
        });
        other.map(|(id, _)| Holder::Slice(*id))
    }

    /// A processor that another slice has.
    fn crowded(&self, id: SliceId, kept: &Kept) -> Option<(u32, SliceId)> {
        let cpus =
            |kept: &Kept| kept.nodes.iter().flat_map(|share| share.cpus.clone()).collect::<BTreeSet<_>>();
        let ours = cpus(kept);
        let others = self.slices.iter().filter(|(other, _)| **other != id && !ours.is_empty());
        let mut held = others.filter_map(|(other, slice)| {
            let theirs = slice.kept.as_ref().filter(|kept| kept.point.holds())?;
            Some((*ours.intersection(&cpus(theirs)).next()?, *other))
        });
        held.next()
    }

    pub(super) fn name_orphans(&mut self) {
        let wanted = |id: &SliceId| self.slices.get(id).is_some_and(|slice| slice.want.is_some());
        let orphans: BTreeSet<SliceId> =
            self.machines.iter().flatten().copied().filter(|id| !wanted(id)).collect();
        if self.current {
            for id in orphans.difference(&self.orphans) {
                tracing::warn!(slice = %id, "a machine runs that holmd does not intend: it is kept; see `virsh list`");
            }
            self.orphans = orphans;
        }
    }

    /// Takes in what a step brought.
    pub(super) fn finish(
        &mut self,
        id: SliceId,
        effect: Effect,
        brought: Brought,
        now: Now,
        limits: &Limits,
    ) -> Turn {
        // What else runs may not be known yet.
        if let Some(machines) = &mut self.machines {
            match effect {
                Effect::Start => _ = machines.insert(id),
                Effect::Stop => _ = machines.remove(&id),
                _ => {}
            }
        }
        let Some(slice) = self.slices.get_mut(&id) else { return Turn::Gone };
        let Some(kept) = slice.kept.as_mut() else { return Turn::Until(None) };
        slice.trouble = None;
        slice.waits = None;
        if let Some(step) = effect.step() {
            kept.end_step(step, now);
        }
        if effect != Effect::Hear {
            slice.done = Some(effect);
        }
        match (effect, brought) {
            (Effect::MakeVolume, _) => slice.volume = Some(VolumeState::Complete),
            (Effect::LookAtVolume, Brought::Volume(state)) => slice.volume = Some(state),
            (Effect::Start | Effect::Adopt, _) => {
                kept.used = true;
                kept.point = Point::Booting;
                if let Some(step) = Effect::Start.step() {
                    kept.end_step(step, now);
                }
                kept.begin_step(STEP_BOOT, now);
                slice.key = HeldKey::None;
                slice.boots = Some(now.instant);
            }
            (Effect::Hear, Brought::Events(events)) => return slice.hear(events, now, limits),
            // One that is gone was erased by an earlier try, which is the one that knows.
            (Effect::Erase, Brought::Erased(evidence)) if evidence.erased || kept.erasure.is_none() => {
                kept.erasure = Some(evidence.into());
            }
            (Effect::Release, Brought::Attached(attached)) => {
                kept.point = Point::Absent;
                kept.guest = None;
                // What was taken since it was looked last is seen at the next look.
                if let Some(held) = self.attached.as_mut() {
                    held.retain(|device| attached.contains(device));
                }
            }
            _ => {}
        }
        Turn::Again
    }
}
