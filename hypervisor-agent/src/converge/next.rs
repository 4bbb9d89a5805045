//! What is done next for one slice: a pure function of what is wanted, what is remembered and what is seen.
//!
//! ```text
//!  to run:        Bind ─▶ Activate ─▶ (LookAtVolume) ─▶ MakeVolume ─▶ WriteSeed ─▶ Start ─▶ Hear ⟲
//!                  ▲        each may be done again: after a restart it begins at Bind       ▲
//!                  │                                                                        │
//!                 New                                  its machine runs already ────────▶ Adopt
//!                                                      it is paused, and there is room ─▶ Resume
//!
//!  its disks to be larger, or under another key: Change, before WriteSeed, or between two Hears
//!
//!  to be gone:    Stop ─▶ Deactivate ─▶ Erase ─▶ RemoveSeed ─▶ Release ─▶ Absent
//!                  ▲        after a restart it begins at Stop; what is gone already is no work
//!                  │
//!              anything
//!                  │
//!                  ▼
//!  to be kept:    Stop ─▶ Deactivate ─▶ RemoveSeed ─▶ Release ─▶ Kept
//!                                                                  │ to be gone │ to run again
//!                                                                  │            └──────────▶ New
//!                                        Stop ─▶ Erase ─▶ RemoveSeed ─▶ Release ─▶ Absent
//! ```
//!
//! * A machine starts only while holmd is there, its intention is current, and the key is in hand.
//! * Nothing is begun with a device that this agent does not know as clean, or as the slice's already. Before
//!   anything is begun, that is a wait, and holmd places the slice again; later it is a failure.
//! * A volume is made only where no machine was ever started on it. One that was started and is not there,
//!   or not whole, is a failure and not a reason to make another.
//! * A machine that was started and no longer runs is a failure: holmd decides what becomes of it.
//! * What failed is not tried again under the same generation.
//! * A volume is erased only where holmd wants the slice destroyed, never because it is taken apart; but for scratch,
//!   which goes with its machine: a part of Stop.
//! * What it was rebuilt without, an earlier root volume, is erased where its volumes are made.
//! * What was released is let go: from then on its partition and devices may be another slice's, and are not
//!   touched again for this one.

use super::record::{Kept, Point};
use crate::edge::{VolumeKind, VolumeState};
use holm_proto::ids::{PciAddress, SliceId, VolumeId};

/// Something that changes the machine, or asks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Its devices to vfio-pci, their groups checked.
    Bind,
    /// Its fabric partition up.
    Activate,
    /// How far is its volume?
    LookAtVolume,
    /// Its volume made.
    MakeVolume,
    /// Its seed written.
    WriteSeed,
    /// Its machine started.
    Start,
    /// Its machine runs already: taken over as it is.
    Adopt,
    /// What does its guest say?
    Hear,
    /// Its machine goes on, which was paused because there was no room for its disks.
    Resume,
    /// Its volumes made larger, or put under other keys.
    Change,
    /// Its machine stopped, its process gone.
    Stop,
    /// Its fabric partition down.
    Deactivate,
    /// Its volume erased.
    Erase,
    /// Its seed removed.
    RemoveSeed,
    /// Is anything left?
    Release,
}

impl Effect {
    /// The recovery point that is stored before it; `None` for what changes nothing.
    pub fn point(self) -> Option<Point> {
        match self {
            Self::Bind => Some(Point::Binding),
            Self::Activate => Some(Point::Activating),
            Self::MakeVolume => Some(Point::MakingVolume),
            Self::WriteSeed => Some(Point::WritingSeed),
            Self::Start => Some(Point::Starting),
            Self::Stop => Some(Point::Stopping),
            Self::Deactivate => Some(Point::Deactivating),
            Self::Erase => Some(Point::Erasing),
            Self::RemoveSeed => Some(Point::RemovingSeed),
            Self::Release => Some(Point::Releasing),
            Self::LookAtVolume | Self::Adopt | Self::Hear | Self::Resume | Self::Change => None,
        }
    }

    /// As people read it; `None` for what is no step of its own.
    pub fn step(self) -> Option<&'static str> {
        match self {
            Self::Bind => Some("bind devices to vfio-pci"),
            Self::Activate => Some("activate partition"),
            Self::MakeVolume => Some("create encrypted volume"),
            Self::WriteSeed => Some("write seed"),
            Self::Start => Some("start machine"),
            Self::Stop => Some("stop machine"),
            Self::Deactivate => Some("deactivate partition"),
            Self::Erase => Some("erase volume"),
            Self::RemoveSeed => Some("remove seed"),
            Self::Release => Some("release devices"),
            Self::LookAtVolume | Self::Adopt | Self::Hear | Self::Resume | Self::Change => None,
        }
    }

    /// It takes a slice apart.
    pub fn is_undoing(self) -> bool {
        self >= Self::Stop
    }
}

/// A slice's machine, as it was seen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// It was not looked yet.
    Unknown,
    /// There is none, or it does not run.
    Still,
    /// It runs.
    Running,
}

/// The volume's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFact {
    /// Not here.
    None,
    /// In memory.
    Held,
    /// holmd does not give it, and says why.
    Refused(String),
    /// holmd cannot open it now, and sends it when it can.
    Later,
}

/// Who else has a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Another slice.
    Slice(SliceId),
    /// It is being cleaned.
    Cleaning,
}

/// How its volumes stand that stay with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// Each is there.
    Whole,
    /// Some are still to be made, and never held anything; the root volume among them, or not.
    ToMake {
        /// The root volume is.
        root: bool,
    },
    /// This one held data, and is not there or not whole.
    Lost(VolumeId),
}

impl Disks {
    /// From how far each has come, and whether it holds data.
    pub fn of(volumes: impl IntoIterator<Item = (VolumeId, VolumeKind, VolumeState, bool)>) -> Self {
        let mut all = Self::Whole;
        for (volume, kind, state, used) in volumes {
            match state {
                VolumeState::Complete => {}
                VolumeState::Absent | VolumeState::Partial if used => return Self::Lost(volume),
                VolumeState::Absent | VolumeState::Partial => {
                    all =
                        Self::ToMake { root: kind == VolumeKind::Root || all == Self::ToMake { root: true } };
                }
            }
        }
        all
    }
}

/// What is seen, and what this process has done since it began.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// holmd is there, and what it wants is what it wants now.
    pub current: bool,
    /// Its machine.
    pub machine: Machine,
    /// The last thing that this process did for it.
    pub done: Option<Effect>,
    /// Its volumes, where they were looked at.
    pub disks: Option<Disks>,
    /// Its key.
    pub key: KeyFact,
    /// Its disks are to be changed, and it was not tried in vain since its machine started.
    pub change: bool,
    /// A device of it that is in other hands.
    pub busy: Option<(PciAddress, Holder)>,
    /// A processor of it that another slice has.
    pub crowded: Option<(u32, SliceId)>,
    /// A job uses its volumes.
    pub at_work: bool,
    /// A device of it that this agent does not know as clean or as its own, and how it stands.
    pub unclean: Option<(PciAddress, String)>,
    /// Its machine is paused, because there was no room for its disks: whether it is to go on now.
    pub paused: Option<bool>,
}

impl Facts {
    /// Nothing was seen, and nothing done.
    pub(super) const UNKNOWN: Self = Self {
        current: false,
        machine: Machine::Unknown,
        done: None,
        disks: None,
        key: KeyFact::None,
        change: false,
        busy: None,
        crowded: None,
        at_work: false,
        unclean: None,
        paused: None,
    };
}

/// What it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// What runs on this host is not known yet.
    Machines,
    /// There is no session with holmd.
    Holmd,
    /// A device is in other hands.
    Busy(PciAddress, Holder),
    /// A processor is another slice's.
    Crowded(u32, SliceId),
    /// A backup of its volumes is made, tried or restored.
    AtWork,
    /// This agent does not know a device as clean: holmd may be mistaken, or restored from an old copy.
    NotClean(PciAddress, String),
    /// The key was asked for.
    Key,
    /// The key was refused; it is asked for again in the next session.
    KeyRefused(String),
    /// holmd cannot reach its key provider, and sends the key when it can.
    KeyLater,
}

impl Why {
    /// In words for a person.
    pub fn text(&self) -> String {
        match self {
            Self::Machines => "waits until libvirt says what runs on this host".to_owned(),
            Self::Holmd => "waits for holmd: nothing new starts without it".to_owned(),
            // A tenant reads this: whose it is, is not hers to know.
            Self::Busy(device, Holder::Slice(_)) => format!("waits for `{device}`, which another slice has"),
            Self::Busy(device, Holder::Cleaning) => format!("waits for `{device}`, which is being cleaned"),
            Self::Crowded(cpu, _) => {
                format!("waits for processor `{cpu}`, which another slice has: no two slices share one")
            }
            Self::AtWork => "waits until the work on its disks, for a backup, is through".to_owned(),
            Self::NotClean(device, why) => {
                format!("waits for `{device}` to be cleaned: this host has it as {why}")
            }
            Self::Key => "waits for its volume's key".to_owned(),
            Self::KeyRefused(why) => format!("waits for its volume's key, which holmd refused: {why}"),
            Self::KeyLater => {
                "waits for its volume's key: the key provider cannot be reached; it goes on by itself when it can"
                    .to_owned()
            }
        }
    }

    /// Whether it is the outside that it waits for, so that there is a limit. Without holmd there is nobody
    /// who would resolve a failure; and a key provider that is away is away for all, and no fault of the slice's.
    pub fn is_limited(&self) -> bool {
        match self {
            Self::Busy(..) | Self::NotClean(..) | Self::Crowded(..) | Self::Key | Self::KeyRefused(_) => true,
            Self::Machines | Self::Holmd | Self::KeyLater | Self::AtWork => false,
        }
    }
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Do this, then ask again.
    Do(Effect),
    /// Nothing, until something changes.
    Wait(Why),
    /// It failed, and is not tried again.
    Fail(String),
    /// It is as it should be.
    Rest,
}

/// What is done next.
pub fn next(kept: &Kept, facts: &Facts) -> Next {
    if kept.is_undoing() || kept.point.is_tombstone() { undo(kept, facts) } else { run(kept, facts) }
}

/// Whether the volume's key is needed, so that it is asked for while the rest is prepared.
pub fn wants_key(kept: &Kept, facts: &Facts) -> bool {
    let starts = facts.machine == Machine::Still && kept.point <= Point::Starting
        // holmd may take it back until it has given the key.
        && facts.unclean.is_none();
    // One that is paused is changed when it goes on.
    let changes =
        facts.machine == Machine::Running && is_started(kept) && facts.change && facts.paused.is_none();
    facts.current
        && facts.key == KeyFact::None
        && kept.failed.is_none()
        && !kept.is_undoing()
        && (starts || changes)
}

/// Its machine was started, and what its guest said since was heard, or is about to be.
fn is_started(kept: &Kept) -> bool {
    matches!(kept.point, Point::Booting | Point::Ready)
}

fn run(kept: &Kept, facts: &Facts) -> Next {
    if kept.failed.is_some() {
        return Next::Rest;
    }
    let started = is_started(kept);
    match facts.machine {
        Machine::Unknown => Next::Wait(Why::Machines),
        Machine::Running if started => match facts.paused {
            None if facts.current && facts.change && facts.key == KeyFact::Held => Next::Do(Effect::Change),
            None => Next::Do(Effect::Hear),
            // It says nothing, and takes no longer to boot by that.
            Some(false) => Next::Rest,
            Some(true) => Next::Do(Effect::Resume),
        },
        Machine::Running => Next::Do(Effect::Adopt),
        Machine::Still if started => {
            Next::Fail("its machine has ended: its disk is kept until the slice is closed".to_owned())
        }
        Machine::Still => prepare(kept, facts),
    }
}

fn prepare(kept: &Kept, facts: &Facts) -> Next {
    if !facts.current {
        return Next::Wait(Why::Holmd);
    }
    if facts.at_work {
        return Next::Wait(Why::AtWork);
    }
    if let Some((device, holder)) = &facts.busy {
        return Next::Wait(Why::Busy(*device, holder.clone()));
    }
    if let Some((cpu, slice)) = facts.crowded {
        return Next::Wait(Why::Crowded(cpu, slice));
    }
    if let Some((device, why)) = &facts.unclean {
        return match kept.point {
            // Nothing was done with it: holmd gives the slice others.
            Point::New => Next::Wait(Why::NotClean(*device, why.clone())),
            _ => Next::Fail(format!(
                "`{device}` was in other hands after it was made ready for this slice: this host has it as {why}"
            )),
        };
    }
    match facts.done {
        Some(Effect::Bind) => Next::Do(Effect::Activate),
        Some(Effect::Activate | Effect::LookAtVolume) => volumes(facts),
        Some(Effect::MakeVolume) => changed(facts),
        Some(Effect::Change) => Next::Do(Effect::WriteSeed),
        Some(Effect::WriteSeed) => with_key(facts, Effect::Start),
        // Also after a machine that ended under this process, or one that was undone.
        None | Some(_) => Next::Do(Effect::Bind),
    }
}

fn volumes(facts: &Facts) -> Next {
    match facts.disks {
        None => Next::Do(Effect::LookAtVolume),
        Some(Disks::Whole) => changed(facts),
        Some(Disks::Lost(volume)) => Next::Fail(format!(
            "its volume `{volume}` was in use and is not there: none is made in its place"
        )),
        Some(Disks::ToMake { .. }) => with_key(facts, Effect::MakeVolume),
    }
}

fn changed(facts: &Facts) -> Next {
    if facts.change { with_key(facts, Effect::Change) } else { Next::Do(Effect::WriteSeed) }
}

fn with_key(facts: &Facts, effect: Effect) -> Next {
    match &facts.key {
        KeyFact::Held => Next::Do(effect),
        KeyFact::None => Next::Wait(Why::Key),
        KeyFact::Refused(why) => Next::Wait(Why::KeyRefused(why.clone())),
        KeyFact::Later => Next::Wait(Why::KeyLater),
    }
}

fn undo(kept: &Kept, facts: &Facts) -> Next {
    let rests = match kept.point {
        Point::Absent => true,
        Point::Kept => !kept.destroyed,
        _ => false,
    };
    if rests && facts.machine != Machine::Running {
        return Next::Rest;
    }
    match facts.done {
        Some(Effect::Stop) if kept.partition().is_some() => Next::Do(Effect::Deactivate),
        Some(Effect::Stop | Effect::Deactivate) if kept.destroyed => Next::Do(Effect::Erase),
        Some(Effect::Stop | Effect::Deactivate) => Next::Do(Effect::RemoveSeed),
        Some(Effect::Erase) => Next::Do(Effect::RemoveSeed),
        Some(Effect::RemoveSeed) => Next::Do(Effect::Release),
        None | Some(_) => Next::Do(Effect::Stop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use newtype_uuid::GenericUuid as _;

    const POINTS: [Point; 15] = [
        Point::New,
        Point::Binding,
        Point::Activating,
        Point::MakingVolume,
        Point::WritingSeed,
        Point::Starting,
        Point::Booting,
        Point::Ready,
        Point::Stopping,
        Point::Deactivating,
        Point::Erasing,
        Point::RemovingSeed,
        Point::Releasing,
        Point::Kept,
        Point::Absent,
    ];
    const EFFECTS: [Effect; 15] = [
        Effect::Bind,
        Effect::Activate,
        Effect::LookAtVolume,
        Effect::MakeVolume,
        Effect::WriteSeed,
        Effect::Start,
        Effect::Adopt,
        Effect::Hear,
        Effect::Resume,
        Effect::Change,
        Effect::Stop,
        Effect::Deactivate,
        Effect::Erase,
        Effect::RemoveSeed,
        Effect::Release,
    ];

    /// Every combination there is.
    fn all(mut look: impl FnMut(&Kept, &Facts, &Next)) {
        let device: PciAddress = "0000:34:00.0".parse().unwrap();
        let dones = || std::iter::once(None).chain(EFFECTS.map(Some));
        let lost = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap();
        let to_make = Disks::ToMake { root: true };
        let volumes = [None, Some(to_make), Some(Disks::Lost(lost)), Some(Disks::Whole)];
        let keys = [KeyFact::None, KeyFact::Held, KeyFact::Refused("no".to_owned()), KeyFact::Later];
        for point in POINTS {
            for bits in 0u16..512 {
                let bit = |n: u8| bits & (1 << n) != 0;
                let kept = Kept {
                    slice: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
                    generation: 1,
                    destroyed: bit(0),
                    closed: bit(7),
                    point,
                    used: bit(1),
                    again: false,
                    volume: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap(),
                    others: Vec::new(),
                    partition: 17,
                    devices: if bit(8) { Vec::new() } else { vec![device] },
                    failed: bit(2).then(|| "x".to_owned()),
                    steps: Vec::new(),
                    guest: None,
                    nodes: Vec::new(),
                    erasure: None,
                    image: None,
                    retired: Vec::new(),
                    change: None,
                };
                for machine in [Machine::Unknown, Machine::Still, Machine::Running] {
                    for done in dones() {
                        for disks in volumes {
                            for key in &keys {
                                let facts = Facts {
                                    current: bit(3),
                                    machine,
                                    done,
                                    disks,
                                    key: key.clone(),
                                    // Whether its volume was used is no business of this.
                                    change: bit(1),
                                    busy: bit(4).then_some((device, Holder::Cleaning)),
                                    crowded: bit(5).then_some((3, kept.slice)),
                                    at_work: false,
                                    unclean: bit(6).then(|| (device, "dirty".to_owned())),
                                    paused: None,
                                };
                                look(&kept, &facts, &next(&kept, &facts));
                                // Only one that runs is paused, which needs neither key nor disks.
                                let runs = machine == Machine::Running;
                                let plain = runs && disks.is_none() && *key == KeyFact::None;
                                let pauses = [false, true].into_iter().filter(|_| plain);
                                for paused in pauses {
                                    let facts = Facts { paused: Some(paused), ..facts.clone() };
                                    look(&kept, &facts, &next(&kept, &facts));
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_starts_without_all_that_it_takes() {
        all(|kept, facts, next| {
            if let Next::Do(effect) = next
                && !effect.is_undoing()
                && !matches!(effect, Effect::Hear | Effect::Resume | Effect::Adopt)
                && !(*effect == Effect::Change && facts.machine == Machine::Running)
            {
                assert!(
                    facts.current && facts.busy.is_none() && facts.crowded.is_none(),
                    "{kept:?} {facts:?} {next:?}"
                );
                assert!(facts.machine == Machine::Still && kept.failed.is_none() && !kept.is_undoing());
                assert!(!kept.point.is_tombstone());
            }
            if *next == Next::Do(Effect::Start) {
                assert!(facts.key == KeyFact::Held && facts.done == Some(Effect::WriteSeed));
            }
        });
    }

    #[test]
    fn with_an_unclean_device_nothing_goes_on() {
        all(|kept, facts, next| {
            if facts.unclean.is_some() && facts.machine == Machine::Still && !kept.is_undoing() {
                let goes_on = matches!(next, Next::Do(effect) if !effect.is_undoing());
                assert!(!goes_on, "{kept:?} {facts:?} {next:?}");
                let waits = matches!(next, Next::Wait(Why::NotClean(..)));
                assert!(!waits || kept.point == Point::New, "{kept:?} {facts:?} {next:?}");
            }
        });
    }

    #[test]
    fn a_volume_that_was_used_is_never_made() {
        all(|_, facts, next| {
            if *next == Next::Do(Effect::MakeVolume) {
                assert!(facts.key == KeyFact::Held && facts.disks == Some(Disks::ToMake { root: true }));
            }
        });
        let id = |n: u128| VolumeId::from_untyped_uuid(uuid::Uuid::from_u128(n));
        let states = [VolumeState::Absent, VolumeState::Partial, VolumeState::Complete];
        for (root, data) in states.into_iter().flat_map(|a| states.map(|b| (a, b))) {
            let whole = |state| state == VolumeState::Complete;
            for (root_used, data_used) in [(false, false), (true, false), (false, true), (true, true)] {
                let expected = match () {
                    () if root_used && !whole(root) => Disks::Lost(id(1)),
                    () if data_used && !whole(data) => Disks::Lost(id(2)),
                    () if whole(root) && whole(data) => Disks::Whole,
                    () => Disks::ToMake { root: !whole(root) },
                };
                let (kind, beside) = (VolumeKind::Root, VolumeKind::Data);
                let both = [(id(1), kind, root, root_used), (id(2), beside, data, data_used)];
                assert_eq!(Disks::of(both), expected);
                // Of two that are lost either is named.
                let lost = matches!(expected, Disks::Lost(_));
                assert!(lost || Disks::of([both[1], both[0]]) == expected);
            }
        }
    }

    #[test]
    fn disks_are_changed_with_the_key_alone_and_by_a_machine_that_runs_or_before_it_starts() {
        let mut seen = [0; 2];
        all(|kept, facts, next| {
            if *next == Next::Do(Effect::Change) {
                assert!(facts.current && facts.change && facts.key == KeyFact::Held);
                assert!(kept.failed.is_none() && !kept.is_undoing());
                let runs = facts.machine == Machine::Running;
                let whole = facts.disks == Some(Disks::Whole) || facts.done == Some(Effect::MakeVolume);
                assert!(if runs { is_started(kept) } else { whole });
                seen[usize::from(runs)] += 1;
            }
            // And no machine starts past one that is due.
            let starts = *next == Next::Do(Effect::WriteSeed) && facts.change;
            assert!(!starts || facts.done == Some(Effect::Change), "{kept:?} {facts:?}");
        });
        assert!(seen.iter().all(|times| *times > 0));
    }

    #[test]
    fn only_what_is_to_be_gone_is_taken_apart() {
        all(|kept, _, next| {
            let undoes = matches!(next, Next::Do(effect) if effect.is_undoing());
            if undoes {
                assert!(kept.is_undoing() || kept.point.is_tombstone());
                return;
            }
            let ends =
                if kept.destroyed { [Point::Absent, Point::Absent] } else { [Point::Kept, Point::Absent] };
            assert!(!kept.is_undoing() || ends.contains(&kept.point), "{kept:?} stays: {next:?}");
        });
    }

    #[test]
    fn a_volume_is_erased_only_where_it_is_to_be_destroyed() {
        all(|kept, _, next| {
            if *next == Next::Do(Effect::Erase) {
                assert!(kept.destroyed);
            }
        });
    }

    #[test]
    fn what_may_be_anothers_is_not_touched() {
        all(|kept, facts, next| {
            if kept.devices.is_empty() && (kept.is_undoing() || kept.point.is_tombstone()) {
                assert_ne!(*next, Next::Do(Effect::Deactivate), "{kept:?} {facts:?}");
            }
        });
    }

    /// What is done from here, where each thing works.
    fn chain(kept: &mut Kept) -> Vec<Effect> {
        let mut facts = Facts { current: true, machine: Machine::Still, ..Facts::UNKNOWN };
        let mut done = Vec::new();
        while let Next::Do(effect) = next(kept, &facts) {
            done.push(effect);
            facts.done = Some(effect);
            kept.point = effect.point().unwrap();
            if effect == Effect::Release {
                kept.point = if kept.destroyed { Point::Absent } else { Point::Kept };
                kept.let_go();
            }
            assert!(done.len() < 20, "{done:?}");
        }
        done
    }

    #[test]
    fn what_is_kept_is_destroyed_later_and_rests_in_between() {
        use Effect::{Deactivate, Erase, Release, RemoveSeed, Stop};
        let mut seen = 0;
        all(|kept, facts, _| {
            // One of each point.
            let plain = facts.current && facts.done.is_none() && facts.disks.is_none() && !kept.destroyed;
            if !plain || kept.closed || kept.used || facts.machine != Machine::Still || kept.failed.is_some()
            {
                return;
            }
            let rest = facts.busy.is_some() || facts.crowded.is_some() || facts.unclean.is_some();
            if rest || facts.key != KeyFact::None || kept.devices.is_empty() || kept.point >= Point::Kept {
                return;
            }
            seen += 1;
            let mut at_once = Kept { destroyed: true, ..kept.clone() };
            assert_eq!(chain(&mut at_once), [Stop, Deactivate, Erase, RemoveSeed, Release]);
            let mut kept = Kept { closed: true, ..kept.clone() };
            assert_eq!(chain(&mut kept), [Stop, Deactivate, RemoveSeed, Release]);
            assert_eq!((kept.point, chain(&mut kept)), (Point::Kept, Vec::new()));
            kept.destroyed = true;
            assert_eq!(chain(&mut kept), [Stop, Erase, RemoveSeed, Release]);
            assert_eq!((kept.point, chain(&mut kept)), (Point::Absent, Vec::new()));
        });
        assert_eq!(seen, 13, "each point before it is kept");
    }

    #[test]
    fn a_machine_that_runs_is_never_started_again() {
        all(|kept, facts, next| {
            if facts.machine == Machine::Running && !kept.is_undoing() && !kept.point.is_tombstone() {
                let fits = |effect: &Effect| {
                    matches!(effect, Effect::Hear | Effect::Resume | Effect::Adopt | Effect::Change)
                };
                assert!(*next == Next::Rest || matches!(next, Next::Do(effect) if fits(effect)), "{next:?}");
            }
        });
    }

    #[test]
    fn what_is_paused_goes_on_when_it_may_and_is_stopped_like_any_other() {
        all(|kept, facts, next| {
            let Some(may) = facts.paused else {
                assert_ne!(*next, Next::Do(Effect::Resume));
                return;
            };
            match next {
                Next::Do(Effect::Resume) => assert!(may && kept.failed.is_none() && !kept.is_undoing()),
                Next::Do(Effect::Hear) => panic!("it says nothing: {kept:?} {facts:?}"),
                _ => assert_eq!(*next, super::next(kept, &Facts { paused: None, ..facts.clone() }).or_rest()),
            }
        });
    }

    impl Next {
        fn or_rest(self) -> Self {
            if self == Self::Do(Effect::Hear) { Self::Rest } else { self }
        }
    }

    #[test]
    fn a_key_is_asked_for_only_where_it_opens_something() {
        all(|kept, facts, next| {
            if wants_key(kept, facts) {
                let hears = is_started(kept) && facts.change;
                let idle = matches!(next, Next::Do(Effect::Hear | Effect::Adopt | Effect::Stop));
                assert!(!idle || hears && *next == Next::Do(Effect::Hear), "{next:?}");
                assert_ne!(*next, Next::Rest);
            }
            if *next == Next::Wait(Why::Key) {
                assert!(wants_key(kept, facts));
            }
        });
    }

    #[test]
    fn points_and_effects_are_in_the_order_of_the_diagram() {
        assert!(POINTS.is_sorted() && EFFECTS.is_sorted());
        let points: Vec<Point> = EFFECTS.iter().filter_map(|effect| effect.point()).collect();
        assert!(points.is_sorted());
        assert!(EFFECTS.iter().all(|effect| effect.point().is_some() == effect.step().is_some()));
    }
}
