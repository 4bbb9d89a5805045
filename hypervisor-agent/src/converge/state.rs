//! All that the engine holds in memory, and what follows from it.

use super::{
    agree::{Believed, Finding},
    claims::Claims,
    devices::Notes,
    engine::{Limits, Now, Turn},
    jobs::Job,
    next::{Disks, Effect, Facts, Holder, KeyFact, Machine},
    paused::Paused,
    record::{Kept, Point},
    runs::Run,
    slice::{Brought, HeldKey, STEP_BOOT, Slice},
    told::Told,
    voice::Voice,
};
use crate::edge::Room;
use holm_proto::{
    ids::{JobId, PciAddress, RunId, SliceId},
    v1,
};
use std::collections::{BTreeMap, BTreeSet};

/// Disagreements that are told at a time.
const MAX_TOLD: usize = 32;

#[derive(Default)]
pub(super) struct State {
    pub(super) version: u64,
    pub(super) stopping: bool,
    /// There is a session, and what is wanted was said in it.
    pub(super) current: bool,
    pub(super) seen: u64,
    pub(super) slices: BTreeMap<SliceId, Slice>,
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    /// Slices whose machines run; `None` until it was looked.
    pub(super) machines: Option<BTreeSet<SliceId>>,
    /// Machines that stand still, or did lately, because there was no room for their disks.
    pub(super) paused: BTreeMap<SliceId, Paused>,
    /// How full that is which volumes share, when it was looked last.
    pub(super) room: Option<Room>,
    /// The images that this host has.
    pub(super) images: Vec<String>,
    /// Devices that something held when it was looked last.
    pub(super) attached: Option<BTreeSet<PciAddress>>,
    /// Changes with each event that makes a look that is under way worthless.
    pub(super) epoch: u64,
    /// Machines that nobody intends and that the operator was told of.
    pub(super) orphans: BTreeSet<SliceId>,
    pub(super) complaint: Option<String>,
    /// How devices stand; as stored, or dirtier.
    pub(super) notes: Notes,
    /// As the record has it.
    pub(super) stored: Notes,
    /// The machine as it was seen last.
    pub(super) inventory: Option<v1::Inventory>,
    /// How many disagreements were found.
    pub(super) disagreements: u64,
    /// What did not agree when it was looked last.
    pub(super) disagreed: BTreeSet<Finding>,
    /// What holmd is told of that: with each, the generation that holmd wanted when it could be told first.
    pub(super) told: Vec<(v1::Disagreement, Option<u64>)>,
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
            disks: slice.disks,
            key: match &slice.key {
                HeldKey::None => KeyFact::None,
                HeldKey::Held(_) => KeyFact::Held,
                HeldKey::Refused(why) => KeyFact::Refused(why.clone()),
                HeldKey::Later => KeyFact::Later,
            },
            // holmd may have heard what became of it from an agent that ended before it had stored that.
            change: kept.change.as_ref().is_some_and(|change| {
                let wanted = slice.want.as_ref().and_then(|want| want.spec.as_ref().ok()?.change);
                let wanted = wanted.is_some_and(|(number, _)| number == change.number);
                wanted && !change.done && change.note.is_empty()
            }),
            busy: kept.devices.iter().find_map(|device| Some((*device, self.holder(*device, Some(id))?))),
            crowded: self.crowded(id, kept),
            at_work: self.is_at_work(id),
            unclean: self.notes.unclean(&kept.devices, id),
            paused: self.paused.get(&id).filter(|paused| paused.stands()).map(Paused::is_due),
        }
    }

    /// Its machine stands still for want of room.
    pub(super) fn stands(&self, id: SliceId) -> bool {
        self.paused.get(&id).is_some_and(Paused::stands)
    }

    pub(super) fn slice_and_facts(&mut self, id: SliceId) -> Option<(&mut Slice, Facts)> {
        let slice = self.slices.get(&id)?;
        let facts = match &slice.kept {
            Some(kept) => self.facts(id, slice, kept),
            None => Facts::UNKNOWN,
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
                && !self.is_let_go(**id, slice)
                && slice
                    .kept
                    .as_ref()
                    .is_some_and(|kept| kept.point.holds() && kept.devices.contains(&device))
        });
        // Of a slice whose record is damaged only the record of devices says what it has.
        let frozen = || {
            self.notes.assigned(device).filter(|id| self.slices.get(id).is_some_and(|s| s.frozen.is_some()))
        };
        other.map(|(id, _)| *id).or_else(frozen).filter(|id| Some(*id) != but).map(Holder::Slice)
    }

    /// holmd does not mention it, and no machine of it runs: its disk stays, its devices wait for nobody.
    fn is_let_go(&self, id: SliceId, slice: &Slice) -> bool {
        self.current && slice.want.is_none() && self.machine(id) == Machine::Still
    }

    /// What the record and the intention say of each slice.
    pub(super) fn believed(&self) -> BTreeMap<SliceId, Believed> {
        let believed = self.slices.iter().map(|(id, slice)| {
            let kept = slice.kept.as_ref().filter(|kept| kept.point.holds());
            let believed = Believed {
                holds: kept.map(|kept| kept.devices.iter().copied().collect()).unwrap_or_default(),
                partition: kept.and_then(Kept::partition),
                runs: kept.is_some_and(|kept| {
                    matches!(kept.point, Point::Booting | Point::Ready)
                        && kept.failed.is_none()
                        && !kept.is_undoing()
                }),
                frozen: slice.frozen.is_some(),
                wanted: slice.want.is_some(),
            };
            (*id, believed)
        });
        believed.collect()
    }

    /// Every GPU on the bus, and which it is.
    pub(super) fn bus(&self) -> BTreeMap<PciAddress, String> {
        let all = self.inventory.iter().flat_map(|inventory| &inventory.devices);
        all.filter(|device| device.kind() == v1::DeviceKind::Gpu)
            .filter_map(|device| Some((device.address.parse().ok()?, device.id.clone())))
            .collect()
    }

    /// Notes what does not agree, where it is news.
    pub(super) fn disagree(&mut self, agent: &str, found: BTreeSet<Finding>) {
        for news in found.difference(&self.disagreed) {
            tracing::warn!(subject = news.subject, done = news.done, "does not agree: {}", news.found);
            self.disagreements += 1;
            let message = v1::Disagreement {
                id: format!("{agent}-{}", self.disagreements),
                subject: news.subject.clone(),
                found: news.found.clone(),
                done: news.done.clone(),
            };
            self.told.push((message, None));
        }
        let more = self.told.len().saturating_sub(MAX_TOLD);
        self.told.drain(..more);
        self.disagreed = found;
    }

    /// holmd wants this generation: what it was told of under an earlier one it has heard.
    pub(super) fn heard(&mut self, generation: u64) {
        self.told.retain(|(_, since)| since.is_none_or(|since| since >= generation));
        self.told.iter_mut().for_each(|(_, since)| _ = since.get_or_insert(generation));
    }

    /// A processor that another slice has.
    fn crowded(&self, id: SliceId, kept: &Kept) -> Option<(u32, SliceId)> {
        let cpus =
            |kept: &Kept| kept.nodes.iter().flat_map(|share| share.cpus.clone()).collect::<BTreeSet<_>>();
        let ours = cpus(kept);
        let others = self.slices.iter().filter(|(other, _)| **other != id && !ours.is_empty());
        let mut held = others.filter_map(|(other, slice)| {
            // An agent that was killed after it had let go, and before it noted it, has it noted as held.
            let theirs =
                slice.kept.as_ref().filter(|kept| kept.point.holds() && !self.is_let_go(*other, slice))?;
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
        match effect {
            Effect::Stop => drop(self.paused.remove(&id)),
            Effect::Resume => {
                if let Some(paused) = self.paused.get_mut(&id) {
                    paused.resumed(now.instant);
                }
            }
            _ => {}
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
            (Effect::MakeVolume, Brought::Erased(all)) => {
                all.into_iter().for_each(|evidence| kept.erased(evidence));
                slice.disks = Some(Disks::Whole);
            }
            (Effect::Change, Brought::Changed(done, note)) => {
                if let Some(change) = kept.change.as_mut() {
                    (change.done, change.note) = (done, note);
                }
                // Where a machine is about to start it is needed still, and the new one is what opens its disks.
                if matches!(kept.point, Point::Booting | Point::Ready) {
                    slice.key = HeldKey::None;
                } else if let HeldKey::Held(held) = &slice.key
                    && done
                {
                    slice.key = HeldKey::Held(held.changed());
                }
            }
            (Effect::LookAtVolume, Brought::Disks(disks)) => slice.disks = Some(disks),
            (Effect::Start | Effect::Adopt, _) => {
                kept.used = true;
                kept.point = Point::Booting;
                if let Some(step) = Effect::Start.step() {
                    kept.end_step(step, now);
                }
                kept.begin_step(STEP_BOOT, now);
                slice.key = HeldKey::None;
                slice.boots = Some(now.instant);
                slice.claims = Claims::default();
                slice.voice = Voice::default();
                slice.people = Told::default();
                slice.scheduler = Told::default();
                slice.jobs = None;
            }
            // What it stood still does not count.
            (Effect::Resume, _) => slice.boots = None,
            (Effect::Hear, Brought::Events(events)) => return slice.hear(events, now, limits),
            (Effect::Stop | Effect::Erase, Brought::Erased(all)) => {
                all.into_iter().for_each(|evidence| kept.erased(evidence));
            }
            (Effect::Release, Brought::Attached(attached)) => {
                kept.point = if kept.destroyed { Point::Absent } else { Point::Kept };
                kept.guest = None;
                kept.let_go();
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
