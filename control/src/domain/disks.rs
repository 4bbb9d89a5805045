//! What changes a slice's disks while they stay: their size, their keys, and a new root disk for an old one.
//!
//! ```text
//!  grow     asked ───────────── agent: made ────────────▶ it has the new sizes
//!             └──────────────── agent: why not ─────────▶ as before, and says why
//!
//!  rekey    asked ── keys made ─▶ known to the agent ── agent: made ─▶ the new keys are its keys ── spent ones
//!                                   │        ▲                                             destroyed ─▶ (nothing)
//!                                   └────────┘ agent: why not, or what it waits for
//!
//!  rebuild  a slice that is stopped gets another root disk when it is started; the key of the old one is spent at once
//! ```
//!
//! One change at a time. A change of keys is never given up: cut off in the middle, a disk may open with the old key,
//! the new one or both, and both stay until the host says that only the new one is left. The agent makes either while
//! the machine runs, or, of a slice that is stopped, when it is started.

use super::backup::Backup;
use super::records::{
    Change, DiskChange, NewDisks, OtherVolume, Slice, SliceState, VolumeEvidence, VolumeKey, VolumeKind,
};
use super::slice::{DISK_GIB, demand, not_held, put};
use super::{Refusal, RefusalKind, State};
use holm_proto::ids::{Name, VolumeId};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Root disks of before are remembered that far back; the log has them all.
const RETIRED_MAX: usize = 16;
/// Its disks can be changed.
const CHANGEABLE: [SliceState; 3] = [SliceState::Booting, SliceState::Ready, SliceState::Stopped];

/// A disk that has a key at holmd, and that key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyed<'a> {
    /// The disk.
    pub volume: VolumeId,
    /// Under which id its key is kept.
    pub key: VolumeId,
    /// SHA-256 of the key, first 16 hex digits; empty before it is made.
    pub fingerprint: &'a str,
}

/// Sizes that are asked for, GiB; `None`: as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// The root disk.
    pub disk: Option<u64>,
    /// `/home` and `/project`.
    pub home: Option<u64>,
    /// `/raid`.
    pub scratch: Option<u64>,
}

/// What an agent says of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub number: u64,
    /// Nothing more is tried.
    pub done: bool,
    /// Why it was not made, or what it waits for.
    pub note: String,
}

impl Slice {
    /// Its disks that have a key at holmd.
    pub fn keyed_volumes(&self) -> impl Iterator<Item = Keyed<'_>> {
        let others = self.others.iter().filter(|other| other.kind == VolumeKind::Data);
        let others = others.map(|other| Keyed {
            volume: other.id,
            key: other.key.unwrap_or(other.id),
            fingerprint: &other.key_fingerprint,
        });
        let root = Keyed {
            volume: self.volume,
            key: self.key.unwrap_or(self.volume),
            fingerprint: &self.key_fingerprint,
        };
        std::iter::once(root).chain(others)
    }

    /// The keys that its disks are about to get, each made.
    pub fn next_keys(&self) -> &[VolumeKey] {
        match self.change.as_ref().map(|change| &change.what) {
            Some(NewDisks::Rekeyed { keys }) if keys.iter().all(|key| !key.fingerprint.is_empty()) => keys,
            _ => &[],
        }
    }

    /// Every key of it that holmd may have.
    pub fn all_keys(&self) -> Vec<VolumeId> {
        let next = self.change.iter().flat_map(|change| match &change.what {
            NewDisks::Rekeyed { keys } => keys.as_slice(),
            NewDisks::Larger { .. } => &[],
        });
        let more = next.chain(&self.spent).map(|key| key.key);
        self.keyed_volumes().map(|keyed| keyed.key).chain(more).collect()
    }

    /// A change of its disks that its host can make: of keys, once they are made.
    pub fn due_change(&self) -> Option<&DiskChange> {
        let made = |change: &&DiskChange| match &change.what {
            NewDisks::Larger { .. } => true,
            NewDisks::Rekeyed { .. } => !self.next_keys().is_empty(),
        };
        self.change.as_ref().filter(made)
    }

    /// Its host may ask for its keys now: it starts, or makes a change of its disks.
    pub fn may_have_keys(&self) -> bool {
        let runs = matches!(self.state, SliceState::Booting | SliceState::Ready);
        SliceState::STARTING.contains(&self.state) || (runs && self.due_change().is_some())
    }

    /// GiB of the root disk and of that for data, as they are to be.
    pub fn wanted_gib(&self) -> (u64, u64) {
        let home = self.others.iter().find(|other| other.kind == VolumeKind::Data);
        match self.change.as_ref().map(|change| &change.what) {
            Some(NewDisks::Larger { disk_gib, home_gib }) => (*disk_gib, *home_gib),
            _ => (self.disk_gib, home.map_or(0, |home| home.size_gib)),
        }
    }

    /// GiB of all its disks, as they are to be.
    pub fn disks_gib(&self) -> u64 {
        let (disk, home) = self.wanted_gib();
        let scratch = self.others.iter().filter(|other| other.kind == VolumeKind::Scratch);
        scratch.map(|other| other.size_gib).chain([home]).fold(disk, u64::saturating_add)
    }
}

/// Make its disks larger. `/raid` is made at each start, and has the new size from the next one on.
pub fn grow(slice: &Slice, sizes: &Sizes, by: &Name, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    free_to_change(slice)?;
    let size = |kind| slice.others.iter().find(|other| other.kind == kind).map_or(0, |other| other.size_gib);
    let (home, scratch) = (size(VolumeKind::Data), size(VolumeKind::Scratch));
    let mut larger = false;
    for (what, has, wanted) in [
        ("disk", slice.disk_gib, sizes.disk),
        ("home", home, sizes.home),
        ("scratch", scratch, sizes.scratch),
    ] {
        let Some(wanted) = wanted else { continue };
        let invalid = |text: String| Err(Refusal::new(RefusalKind::Invalid, text));
        if has == 0 {
            let text = format!("it has no disk for {what}, and none can be added");
            return Err(Refusal::new(RefusalKind::Invalid, text)
                .hint("ask for another slice, with --home or --scratch, and copy the files"));
        }
        if wanted < has {
            return invalid(format!(
                "{what} has {has} GiB and would have {wanted}: a disk never becomes smaller"
            ));
        }
        if wanted > *DISK_GIB.end() {
            return invalid(format!("{what} in GiB can be up to {}: `{wanted}` is not", DISK_GIB.end()));
        }
        larger |= wanted > has;
    }
    if !larger {
        return Err(Refusal::new(RefusalKind::Invalid, "none of its disks would be larger than it is"));
    }
    let mut next = slice.clone();
    for other in next.others.iter_mut().filter(|other| other.kind == VolumeKind::Scratch) {
        other.size_gib = sizes.scratch.unwrap_or(other.size_gib);
    }
    let (disk_gib, home_gib) = (sizes.disk.unwrap_or(slice.disk_gib), sizes.home.unwrap_or(home));
    if (disk_gib, home_gib) != (slice.disk_gib, home) {
        begin(&mut next, NewDisks::Larger { disk_gib, home_gib }, by, now);
    }
    Ok(put(next))
}

/// Give its disks other keys.
pub fn rekey(
    state: &State,
    slice: &Slice,
    mut fresh: impl FnMut() -> VolumeId,
    by: &Name,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    free_to_change(slice)?;
    not_held(state, slice, "its keys are not destroyed")?;
    if slice.keyed_volumes().any(|keyed| keyed.fingerprint.is_empty()) {
        let text = "its root disk was not made yet, and gets a key of its own when the slice is started";
        return Err(Refusal::new(RefusalKind::State, text));
    }
    let mut key =
        |keyed: Keyed<'_>| VolumeKey { volume: keyed.volume, key: fresh(), fingerprint: String::new() };
    let keys = slice.keyed_volumes().map(&mut key).collect();
    let mut next = slice.clone();
    begin(&mut next, NewDisks::Rekeyed { keys }, by, now);
    Ok(put(next))
}

/// The keys that its disks are to get were made: `of` says the fingerprint of each.
pub fn made(slice: &Slice, of: &BTreeMap<VolumeId, String>) -> Option<Vec<Change>> {
    let mut next = slice.clone();
    let NewDisks::Rekeyed { keys } = &mut next.change.as_mut()?.what else { return None };
    for key in keys.iter_mut() {
        key.fingerprint = of.get(&key.key)?.clone();
    }
    // The agent hears of it from now on.
    next.generation += 1;
    if let Some(change) = next.change.as_mut() {
        change.number = next.generation;
    }
    (next != *slice).then(|| put(next))
}

/// What its host says became of a change. `None` where it is no news.
pub fn changed(slice: &Slice, told: &Changed) -> Option<Vec<Change>> {
    let change = slice.due_change().filter(|change| change.number == told.number)?;
    let mut next = slice.clone();
    match (&change.what, told.done) {
        (NewDisks::Larger { disk_gib, home_gib }, true) => {
            if told.note.is_empty() {
                next.disk_gib = *disk_gib;
                for other in next.others.iter_mut().filter(|other| other.kind == VolumeKind::Data) {
                    other.size_gib = *home_gib;
                }
            } else {
                next.reason = format!("its disks did not become larger: {}", told.note);
            }
            next.change = None;
        }
        (NewDisks::Rekeyed { keys }, true) => {
            let spent = slice.keyed_volumes().map(|keyed| VolumeKey {
                volume: keyed.volume,
                key: keyed.key,
                fingerprint: keyed.fingerprint.to_owned(),
            });
            next.spent.extend(spent);
            for key in keys {
                if key.volume == next.volume {
                    (next.key, next.key_fingerprint) = (Some(key.key), key.fingerprint.clone());
                }
                for other in next.others.iter_mut().filter(|other| other.id == key.volume) {
                    (other.key, other.key_fingerprint) = (Some(key.key), key.fingerprint.clone());
                }
            }
            next.change = None;
        }
        // The first word of it: a host that says another one each time would fill the log.
        (_, false) => {
            if let Some(change) = next.change.as_mut().filter(|change| change.note.is_empty()) {
                change.note.clone_from(&told.note);
            }
        }
    }
    (next != *slice).then(|| put(next))
}

/// Those of its disks that a backup opens are what they were when it was made: as small as then, and they are to be as
/// large as they were made since.
pub(super) fn restored(next: &mut Slice, backup: &Backup, by: &Name, now: Timestamp) {
    let before = next.wanted_gib();
    let of: Vec<_> = backup.opening(next).cloned().collect();
    for copied in of {
        if copied.id == next.volume {
            next.disk_gib = copied.size_gib;
        }
        for other in next.others.iter_mut().filter(|other| other.id == copied.id) {
            other.size_gib = copied.size_gib;
        }
    }
    if next.wanted_gib() != before {
        begin(next, NewDisks::Larger { disk_gib: before.0, home_gib: before.1 }, by, now);
    }
}

/// Its spent keys were destroyed.
pub fn spent(slice: &Slice, keys: &[VolumeKey]) -> Vec<Change> {
    let mut next = slice.clone();
    next.spent.retain(|key| !keys.contains(key));
    put(next)
}

/// Another root disk for a slice that is started again: the one it has is destroyed. Not where people's files are on it.
pub(super) fn rebuild(next: &mut Slice, volume: VolumeId) -> Result<(), Refusal> {
    if !next.others.iter().any(|other| other.kind == VolumeKind::Data) {
        let text = "its /home and /project are on its root disk, which a rebuild would destroy";
        return Err(Refusal::new(RefusalKind::State, text)
            .hint("ask for another slice, with --home, and take the files there"));
    }
    if next.change.is_some() {
        return Err(busy(next).hint("start it without --rebuild first"));
    }
    if next.used || !next.key_fingerprint.is_empty() {
        // Those of whose end the log has the evidence are forgotten first, and no other.
        if next.retired.len() >= RETIRED_MAX {
            let Some(at) = next.retired.iter().position(OtherVolume::erased) else {
                let text = "root disks that it had before are not erased yet: it is rebuilt when they are";
                return Err(Refusal::new(RefusalKind::State, text).hint("start it without --rebuild first"));
            };
            next.retired.remove(at);
        }
        next.spent.push(VolumeKey {
            volume: next.volume,
            key: next.key.unwrap_or(next.volume),
            fingerprint: next.key_fingerprint.clone(),
        });
        next.retired.push(OtherVolume {
            id: next.volume,
            kind: VolumeKind::Root,
            size_gib: next.disk_gib,
            key_fingerprint: std::mem::take(&mut next.key_fingerprint),
            evidence: None,
            key: next.key.take(),
        });
        next.volume = volume;
        next.used = false;
    }
    Ok(())
}

/// What its host says was done to root disks that it had.
pub(super) fn told_of_retired(next: &mut Slice, all: &[VolumeEvidence]) {
    next.retired.iter_mut().for_each(|old| old.told(all));
}

fn begin(next: &mut Slice, what: NewDisks, by: &Name, now: Timestamp) {
    next.generation += 1;
    next.change =
        Some(DiskChange { number: next.generation, what, by: by.clone(), at: now, note: String::new() });
}

fn free_to_change(slice: &Slice) -> Result<(), Refusal> {
    demand(slice, &CHANGEABLE, "changed")?;
    if let Some(job) = slice.copies.on_disks() {
        return Err(Refusal::new(RefusalKind::State, format!("{}: one thing at a time", job.kind.text())));
    }
    if slice.change.is_some() { Err(busy(slice)) } else { Ok(()) }
}

fn busy(slice: &Slice) -> Refusal {
    let change = slice.change.as_ref();
    let what = match change.map(|change| &change.what) {
        Some(NewDisks::Larger { .. }) => "made larger",
        Some(NewDisks::Rekeyed { .. }) | None => "put under other keys",
    };
    let by = change.map(|change| format!(" by the wish of {}", change.by)).unwrap_or_default();
    Refusal::new(RefusalKind::State, format!("its disks are being {what} already{by}"))
}
