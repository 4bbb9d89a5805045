//! The life of a slice.
//!
//! ```text
//!              approve ×n            place              agent          agent         guest
//!  Requested ────────────▶ Approved ───────▶ Placed ───────▶ Preparing ──────▶ Booting ─────▶ Ready
//!   │    │                   │  ▲ (waits here while the host is full)│           │           │
//!   │    │                   │  └── not begun, a device not clean ───┤           │           │
//!   │    └─ withdraw, time ──┴──▶ Withdrawn             │            └───────────┴──── ▶ Failed
//!   └─ reject ──▶ Rejected                              │                                  │
//!                                                       │                                  │
//!         Placed … Ready, Failed ── stop ──▶ Stopping ──┤                                  │
//!                                               │ agent │                                  │
//!         Approved ◀── start ─────────────── Stopped ───┤                                  │
//!             └── stop, still waiting ──────────▲       │                                  │
//!                                                       └────── close, or freeze ──────────┤
//!                                                                                          │
//!                              something keeps it                                          │ nothing does
//!                 ┌────────────────────────────────────────────────────────────────────────┤
//!                 ▼          agent                                                         ▼
//!              Keeping ──────────────▶ Kept ──────── nothing keeps it any more ───────▶ Closing
//!                 │   machine gone, devices                                                ▲  │
//!                 │   released; disk and key stay                                          │  │ agent began
//!                 └────────────────── nothing keeps it any more ───────────────────────────┘  ▼
//!            Destroyed ◀───────────────────────────────────────────────────────────────── Destroying
//!               key destroyed, host detached, evidence
//!               for every device, certificate
//! ```
//!
//! What keeps key and disk of a slice that no longer runs, each by itself ([`kept_by`]):
//! * a hold on it, or on its project, that an officer has set and none has lifted;
//! * a lock on it, on its project or on its keys;
//! * the days that its level keeps what is closed;
//! * that it was frozen and nobody has closed it.
//!
//! A hold does not stop what runs; freezing does, and what is on hold is not started. Nothing leads back from Keeping:
//! its devices go to others, and its key is given to nobody. Once Closing, the key may be gone in the next moment, and
//! no hold helps.
//!
//! What is stopped has given its devices, cores and memory back and keeps its key and its disk, which lies on its host.
//! So it is started there and nowhere else: an approved slice with a placement waits for room on that host. It may get
//! other devices than before, and those it had are cleaned like anybody's.
//!
//! What it has of its host can be another from its next start on: the diagram is in [`resize`].
//!
//! Where a device turns out not to be clean by its host's own record before anything was begun with it, the
//! slice is placed again. One that has lost a device stays as it is, and says so: its lead closes it.
//! Closing bumps the generation, so nothing the agent says of the running machine counts any more.
//! The clock stops what has run its time, withdraws what waits too long, and closes what is of a project that has ended:
//! the diagram is in [`super::lease`].
//! Failed keeps its devices and disk until it is closed: nothing is released on a guess.

use super::records::{
    Approval, Change, Device, DeviceState, Evidence, Guest, Hold, Placement, Project, Record, Slice,
    SliceState, Span, VolumeEvidence, VolumeKind,
};
use super::{Refusal, RefusalKind, State, backup, device, disks, lease, lock, resize};
use holm_proto::ids::{Name, PciAddress, VolumeId};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Limits of what can be asked for; what the host has is placement's business.
pub const VCPUS_MAX: u32 = 96;
/// MiB.
pub const MEMORY_MIB: std::ops::RangeInclusive<u64> = 256..=1_572_864;
/// So many spans that it had devices in are told apart.
const PAST_MAX: usize = 64;
/// Slices of a project that are not at their end, requests among them.
const LIVING_MAX: usize = 64;
/// Requests of a project that came to nothing, and are remembered.
const ENDED_MAX: usize = 50;
/// GiB.
pub const DISK_GIB: std::ops::RangeInclusive<u64> = 2..=30_720;

impl SliceState {
    /// Nothing comes after these.
    pub const FINAL: [Self; 3] = [Self::Rejected, Self::Withdrawn, Self::Destroyed];
    /// The agent is to have it running.
    pub const WANTED: [Self; 4] = [Self::Placed, Self::Preparing, Self::Booting, Self::Ready];
    /// The agent is to remove it.
    pub const UNWANTED: [Self; 2] = [Self::Closing, Self::Destroying];
    /// Its machine is to be gone, or is, and its disk to stay.
    pub const KEPT: [Self; 2] = [Self::Keeping, Self::Kept];
    /// It has been on a host, and is not taken apart.
    pub const OPEN: [Self; 7] = [
        Self::Placed,
        Self::Preparing,
        Self::Booting,
        Self::Ready,
        Self::Failed,
        Self::Stopping,
        Self::Stopped,
    ];
    /// It can be stopped.
    pub const STOPPABLE: [Self; 5] =
        [Self::Placed, Self::Preparing, Self::Booting, Self::Ready, Self::Failed];
    /// A volume key may be handed out.
    pub const STARTING: [Self; 2] = [Self::Placed, Self::Preparing];

    /// Nothing comes after it.
    pub fn is_final(self) -> bool {
        Self::FINAL.contains(&self)
    }

    /// As people read it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Placed => "placed",
            Self::Preparing => "preparing",
            Self::Booting => "booting",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
            Self::Keeping => "stopping, to be kept",
            Self::Kept => "kept",
            Self::Closing => "closing",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        }
    }
}

impl Slice {
    /// Devices, cores and memory of its placement are its own still.
    pub fn holds_devices(&self) -> bool {
        self.detached.is_none() && self.released.is_none()
    }

    /// When it had devices, and how many GPUs: from placed until they were released, the last span perhaps still open.
    pub fn spans(&self) -> impl Iterator<Item = (Timestamp, Option<Timestamp>, u32)> {
        let last = (self.placed.unwrap_or(self.requested), self.released.or(self.detached), self.gpus);
        let past = self.past.iter().map(|span| (span.from, Some(span.until), span.gpus.unwrap_or(self.gpus)));
        past.chain([last]).filter(|_| self.placement.is_some())
    }

    /// It has given its devices back, and will be counted anew.
    pub(super) fn end_span(&mut self) {
        if let (Some(from), Some(until)) = (self.placed, self.released)
            && from < until
        {
            self.past.push(Span { from, until, gpus: Some(self.gpus) });
            self.placed = self.released;
        }
        while let [a, b, ..] = self.past.as_slice()
            && self.past.len() > PAST_MAX
        {
            // The two oldest as one that used as much, with as many GPUs as either had, up to where the later ends: who stops
            // and starts often forgets nothing of what was used, and moves none of it into the past.
            let gpus = |span: &Span| span.gpus.unwrap_or(self.gpus).max(1);
            let most = gpus(a).max(gpus(b));
            let used =
                |span: &Span| span.until.duration_since(span.from).as_secs_f64() * f64::from(gpus(span));
            let took = SignedDuration::from_secs_f64((used(a) + used(b)) / f64::from(most));
            let both = Span { from: b.until - took, until: b.until, gpus: Some(most) };
            self.past.splice(..2, [both]);
        }
    }

    /// It was stopped and is to be started again, where its disk is.
    pub fn home(&self) -> Option<&Name> {
        self.placement.as_ref().filter(|_| self.state == SliceState::Approved).map(|p| &p.host)
    }
}

/// Ask for a slice.
pub fn request(state: &State, slice: Slice) -> Result<Vec<Change>, Refusal> {
    if let Some(living) = state.slice(slice.project, &slice.name).filter(|s| !s.state.is_final()) {
        let label = state.slice_label(living);
        return Err(Refusal::new(
            RefusalKind::Exists,
            format!("`{label}` exists already and is {}", living.state.text()),
        )
        .hint(format!("holm slice show {label}")));
    }
    let of_project = || state.slices.values().filter(|s| s.project == slice.project);
    let living = of_project().filter(|s| !s.state.is_final()).count();
    if living >= LIVING_MAX {
        let text = format!("the project has {living} slices and requests, and may have no more");
        return Err(
            Refusal::new(RefusalKind::State, text).hint("holm slice list, and: holm slice withdraw NAME")
        );
    }
    bounded(slice.vcpus.into(), slice.memory_mib)?;
    let others = slice.others.iter().map(|other| {
        let what = match other.kind {
            VolumeKind::Root => "disk in GiB",
            VolumeKind::Data => "home in GiB",
            VolumeKind::Scratch => "scratch in GiB",
        };
        (what, other.size_gib, 1, *DISK_GIB.end())
    });
    within([("disk in GiB", slice.disk_gib, *DISK_GIB.start(), *DISK_GIB.end())].into_iter().chain(others))?;
    // Of those that never got a place the log has all; here the last are kept, for who decides on the next.
    let mut ended: Vec<&Slice> = of_project().filter(|s| never_placed(s)).collect();
    ended.sort_by_key(|s| std::cmp::Reverse(s.requested));
    let forgotten =
        ended.into_iter().skip(ENDED_MAX).map(|s| Change::Delete(Record::Slice(Box::new(s.clone())).key()));
    let mut changes: Vec<Change> = forgotten.take(ENDED_MAX).collect();
    changes.extend(put(slice));
    Ok(changes)
}

/// What a machine can have.
pub(super) fn bounded(vcpus: u64, memory_mib: u64) -> Result<(), Refusal> {
    let (low, high) = (*MEMORY_MIB.start(), *MEMORY_MIB.end());
    within([("vcpus", vcpus, 1, VCPUS_MAX.into()), ("memory in MiB", memory_mib, low, high)])
}

fn within(all: impl IntoIterator<Item = (&'static str, u64, u64, u64)>) -> Result<(), Refusal> {
    all.into_iter().try_for_each(|(what, value, low, high)| match (low..=high).contains(&value) {
        true => Ok(()),
        false => {
            let text = format!("{what} can be {low} to {high}: `{value}` is not");
            Err(Refusal::new(RefusalKind::Invalid, text))
        }
    })
}

fn never_placed(s: &Slice) -> bool {
    let ended = matches!(s.state, SliceState::Rejected | SliceState::Withdrawn);
    ended && s.placed.is_none() && s.placement.is_none() && s.key_fingerprint.is_empty()
}

/// What the pack in force demands of approvals. It may have come to demand more since a slice was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Demands<'a> {
    /// By so many different officers.
    pub approvals: u32,
    /// One of them is not in this project.
    pub outside: Option<&'a Project>,
    /// For so many days; 0: as long as its project.
    pub lease_days: u32,
}

impl Demands<'_> {
    /// One approval more of what `asked_by` asked for. What is still wanted then; `None`: it is approved.
    pub(super) fn one_more(
        &self,
        asked_by: &Name,
        approvals: &mut Vec<Approval>,
        new: Approval,
    ) -> Result<Option<String>, Refusal> {
        let by = &new.by;
        // The pack says so too; that nobody approves her own is not for a pack to lift (invariant 11).
        if asked_by == by {
            return Err(Refusal::new(RefusalKind::Denied, "nobody approves what they asked for themselves"));
        }
        if approvals.iter().any(|a| &a.by == by) {
            return Err(Refusal::new(
                RefusalKind::Denied,
                format!("`{by}` has approved it already: the next approval is another officer's"),
            ));
        }
        approvals.push(new);
        let have = u32::try_from(approvals.len()).unwrap_or(u32::MAX);
        let inside = |p: &Project| approvals.iter().all(|a| a.by == p.lead || p.members.contains(&a.by));
        Ok(if have < self.approvals {
            Some(format!("{have} of {} approvals", self.approvals))
        } else if self.outside.is_some_and(inside) {
            Some("one more approval, by an officer outside the project".to_owned())
        } else {
            None
        })
    }
}

/// One approval more. With the last one needed it is approved.
pub fn approve(
    slice: &Slice,
    demands: Demands<'_>,
    by: &Name,
    comment: &str,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    demand(slice, &[SliceState::Requested], "approved")?;
    let mut next = slice.clone();
    // What was demanded when it was asked for stays demanded.
    next.approvals_needed = next.approvals_needed.max(demands.approvals);
    let demands = Demands { approvals: next.approvals_needed, ..demands };
    let approval = Approval { by: by.clone(), at: now, comment: comment.to_owned() };
    match demands.one_more(&slice.requested_by, &mut next.approvals, approval)? {
        Some(wanted) => next.reason = wanted,
        None => {
            next.lease = lease::until(demands.lease_days, next.from, now);
            step(&mut next, SliceState::Approved, String::new(), now);
        }
    }
    Ok(put(next))
}

/// An officer says no.
pub fn reject(slice: &Slice, by: &Name, comment: &str, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    demand(slice, &[SliceState::Requested], "rejected")?;
    let mut next = slice.clone();
    step(&mut next, SliceState::Rejected, format!("rejected by {by}: {comment}"), now);
    Ok(put(next))
}

/// The lead takes the request back.
pub fn withdraw(slice: &Slice, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    demand(slice, &[SliceState::Requested, SliceState::Approved], "withdrawn")?;
    if slice.home().is_some() {
        let text = "it has a disk already, and waits to be started again: it can be stopped, and then closed";
        return Err(Refusal::new(RefusalKind::State, text));
    }
    Ok(end_request(slice, String::new(), now))
}

/// It never gets a place.
pub(super) fn end_request(slice: &Slice, why: String, now: Timestamp) -> Vec<Change> {
    let mut next = slice.clone();
    step(&mut next, SliceState::Withdrawn, why, now);
    put(next)
}

/// Say why it waits, where that is news.
pub fn waits(slice: &Slice, reason: &str) -> Option<Vec<Change>> {
    if slice.reason == reason {
        return None;
    }
    let mut next = slice.clone();
    reason.clone_into(&mut next.reason);
    Some(put(next))
}

/// Put an approved slice on a host. Its devices are claimed in the same change, before anything starts.
pub fn place(
    state: &State,
    slice: &Slice,
    placement: Placement,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    demand(slice, &[SliceState::Approved], "placed")?;
    if slice.home().is_some_and(|home| home != &placement.host) {
        return Err(Refusal::new(RefusalKind::State, "its disk is on another host"));
    }
    let mut changes = Vec::new();
    for address in &placement.devices {
        let key = (placement.host.clone(), *address);
        let free = state.devices.get(&key).filter(|d| d.state == DeviceState::Free);
        let device =
            free.ok_or_else(|| Refusal::new(RefusalKind::State, format!("device {address} is not free")))?;
        changes.push(device::claim(device, slice.id));
    }
    let mut next = slice.clone();
    next.end_span();
    for scratch in next.others.iter_mut().filter(|other| other.kind == VolumeKind::Scratch) {
        // It is another from now on.
        scratch.evidence = None;
    }
    next.placement = Some(placement);
    next.placed = Some(now);
    next.released = None;
    next.generation += 1;
    step(&mut next, SliceState::Placed, String::new(), now);
    changes.extend(put(next));
    Ok(changes)
}

/// Its volumes' keys were made, before the agent may ask: `of` says the fingerprint of each.
pub fn keyed(slice: &Slice, of: &BTreeMap<VolumeId, String>) -> Vec<Change> {
    let mut next = slice.clone();
    let print = |id: &VolumeId| of.get(id).cloned().unwrap_or_default();
    next.key_fingerprint = print(&slice.volume);
    for other in next.others.iter_mut().filter(|other| other.kind == VolumeKind::Data) {
        other.key_fingerprint = print(&other.id);
    }
    put(next)
}

/// What an agent says of a slice, as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// The generation it acts on.
    pub generation: u64,
    /// How far it is.
    pub phase: Phase,
    /// Why it failed or waits.
    pub reason: String,
    /// What the guest says.
    pub guest: Option<Guest>,
    /// Its disk's header is overwritten and its file gone.
    pub volume_erased: bool,
    /// What was done to it.
    pub volume: Option<VolumeEvidence>,
    /// What was done to its other disks, and to root disks that it had.
    pub others: Vec<VolumeEvidence>,
    /// What became of a change of its disks.
    pub change: Option<disks::Changed>,
}

/// As `holm.v1.Phase`, without the unspecified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as holm.v1.Phase documents them")]
pub enum Phase {
    Absent,
    Preparing,
    Booting,
    Ready,
    Failed,
    Destroying,
    Kept,
}

/// Take note of what the agent says. `None` where it changes nothing, or is of another generation.
pub fn observe(
    state: &State,
    slice: &Slice,
    seen: &Sighting,
    attached: &BTreeSet<PciAddress>,
    now: Timestamp,
) -> Option<Vec<Change>> {
    if seen.generation != slice.generation {
        return None;
    }
    if let Some(changes) = seen.change.as_ref().and_then(|told| disks::changed(slice, told)) {
        // What else it says it says again.
        return Some(changes);
    }
    let mut next = slice.clone();
    match (slice.state, seen.phase) {
        (SliceState::Placed, Phase::Preparing) => {
            step(&mut next, SliceState::Preparing, String::new(), now);
        }
        (SliceState::Placed | SliceState::Preparing, Phase::Booting) => {
            step(&mut next, SliceState::Booting, String::new(), now);
        }
        (SliceState::Placed | SliceState::Preparing | SliceState::Booting, Phase::Ready) => {
            // A guest is ready when it has what it was given, not when it says so.
            let guest = seen.guest.as_ref()?;
            if guest.gpus == slice.gpus {
                next.guest = seen.guest.clone();
                next.worked = true;
                step(&mut next, SliceState::Ready, String::new(), now);
            } else {
                let reason = format!("its Slurm counts {} GPUs, {} were given", guest.gpus, slice.gpus);
                step(&mut next, SliceState::Failed, reason, now);
            }
        }
        (
            SliceState::Placed | SliceState::Preparing | SliceState::Booting | SliceState::Ready,
            Phase::Failed,
        ) => step(&mut next, SliceState::Failed, seen.reason.clone(), now),
        (SliceState::Booting | SliceState::Ready, Phase::Absent) => {
            step(&mut next, SliceState::Failed, "the host no longer has it".to_owned(), now);
        }
        (SliceState::Keeping | SliceState::Stopping, Phase::Kept) => {
            return release(state, slice, seen, attached, now);
        }
        (SliceState::Closing, Phase::Destroying) => {
            step(&mut next, SliceState::Destroying, String::new(), now);
        }
        (SliceState::Closing | SliceState::Destroying, Phase::Absent) if slice.detached.is_none() => {
            return detach(state, slice, seen, attached, now);
        }
        _ => return None,
    }
    let mut changes = Vec::new();
    if matches!(next.state, SliceState::Booting | SliceState::Ready) {
        next.used = true;
        disks::told_of_retired(&mut next, &seen.others);
        changes.extend(devices(state, slice).filter_map(device::assign));
    }
    changes.extend(put(next));
    Some(changes)
}

/// Placed or preparing → Approved: nothing was begun on the host, which does not have each of its devices as
/// clean, or as this slice's. Those that were only claimed are dirty. `None`: it goes on. So it does where the host
/// has its disk's key: another host would get a disk that this one could open.
pub fn take_back(
    state: &State,
    slice: &Slice,
    seen: &Sighting,
    begun: bool,
    notes: &device::Notes,
    now: Timestamp,
) -> Option<Vec<Change>> {
    let early = matches!(slice.state, SliceState::Placed | SliceState::Preparing);
    if !early
        || begun
        || slice.key_given.is_some()
        // Its disk may be there, and is on this host alone.
        || !slice.past.is_empty()
        || seen.generation != slice.generation
        || seen.phase != Phase::Preparing
    {
        return None;
    }
    let unfit = |a: &&PciAddress| !notes.get(*a).is_some_and(|note| note.is_for(slice.id));
    let first = slice.placement.iter().flat_map(|p| &p.devices).find(unfit)?;
    let why = format!("placed again: {first} is not clean by its host's record");
    let claimed = devices(state, slice).filter(|d| d.state == DeviceState::Claimed);
    let mut changes: Vec<Change> = claimed
        .map(|d| {
            // It never had them.
            let unowned = Device { slice: None, ..d.clone() };
            device::dirty(&unowned, &why)
        })
        .collect();
    let mut next = slice.clone();
    next.placement = None;
    step(&mut next, SliceState::Approved, why, now);
    changes.extend(put(next));
    Some(changes)
}

/// Stop it: its machine goes, its devices are others', its disk and key stay.
pub fn stop(slice: &Slice, by: &Name, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    halt(slice, format!("stopped by {by}"), now)
}

/// The same, whoever or whatever stops it.
pub(super) fn halt(slice: &Slice, why: String, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    let mut next = slice.clone();
    next.drain = None;
    if slice.home().is_some() {
        // Nothing was begun.
        step(&mut next, SliceState::Stopped, why, now);
        return Ok(put(next));
    }
    demand(slice, &SliceState::STOPPABLE, "stopped")?;
    next.generation += 1;
    step(&mut next, SliceState::Stopping, why, now);
    Ok(put(next))
}

/// Start it again: it waits for devices on the host where its disk is. With `rebuild` its root disk is made anew then,
/// under this id, and the one that it has is destroyed.
pub fn start(
    state: &State,
    slice: &Slice,
    rebuild: Option<VolumeId>,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    demand(slice, &[SliceState::Stopped], "started")?;
    not_held(state, slice, "what it holds stays as it is")?;
    if let Some(job) = slice.copies.on_disks() {
        let text = format!("{}: it is started when that is over", job.kind.text());
        let label = state.slice_label(slice);
        return Err(Refusal::new(RefusalKind::State, text).hint(format!("holm backup list {label}")));
    }
    let mut next = slice.clone();
    if let Some(volume) = rebuild {
        disks::rebuild(&mut next, volume)?;
    }
    next.drain = None;
    resize::take(&mut next);
    step(&mut next, SliceState::Approved, String::new(), now);
    Ok(put(next))
}

/// Close it: nothing brings it back. Its level keeps what is closed for `keep`. Nobody does it where its project ended.
pub fn close(
    state: &State,
    slice: &Slice,
    by: Option<&Name>,
    keep: SignedDuration,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    let frozen = SliceState::KEPT.contains(&slice.state) && slice.closed_at.is_none();
    if !frozen {
        demand(slice, &SliceState::OPEN, "closed")?;
    }
    let mut next = slice.clone();
    backup::end_job(&mut next, now);
    next.closed_by = by.cloned();
    next.closed_at = Some(now);
    next.keep_until = keep.is_positive().then(|| now.checked_add(keep).unwrap_or(Timestamp::MAX));
    if !frozen {
        next.generation += 1;
        let why = kept_by(state, &next, now);
        let to = if why.is_some() { SliceState::Keeping } else { SliceState::Closing };
        step(&mut next, to, why.unwrap_or_default(), now);
    }
    Ok(put(next))
}

/// What keeps key and disk of a slice that no longer runs. `None`: they can be destroyed.
pub fn kept_by(state: &State, slice: &Slice, now: Timestamp) -> Option<String> {
    let mut all = Vec::new();
    if let Some((hold, of_project)) = held(state, slice) {
        let whose = if of_project { "its project is on hold" } else { "on hold" };
        all.push(format!("{whose} by {}: {}", hold.by, hold.reason));
    }
    if let Some(lock) = lock::of_keys(state, slice) {
        all.push(format!("locked by {}", lock.by));
    }
    if slice.closed_at.is_none() {
        all.push("frozen: until somebody closes it".to_owned());
    }
    if let Some(until) = slice.keep_until.filter(|until| *until > now) {
        all.push(format!("its level keeps what is closed: until {until:.0}"));
    }
    (!all.is_empty()).then(|| all.join("; "))
}

/// Its own hold, or that of its project, and then true.
pub fn held<'a>(state: &'a State, slice: &'a Slice) -> Option<(&'a Hold, bool)> {
    let of_project = || state.projects.get(&slice.project)?.hold.as_ref();
    slice.hold.as_ref().map(|hold| (hold, false)).or_else(|| Some((of_project()?, true)))
}

/// Refuses what must not be done on hold; `why` it must not.
pub(super) fn not_held(state: &State, slice: &Slice, why: &str) -> Result<(), Refusal> {
    let Some((hold, of_project)) = held(state, slice) else { return Ok(()) };
    let label = state.slice_label(slice);
    let (whose, lifts) = if of_project {
        let project = label.split_once('/').map_or(label.as_str(), |(project, _)| project);
        ("its project is", format!("holm project release {project}"))
    } else {
        ("it is", format!("holm slice release {label}"))
    };
    let text = format!("{whose} on hold, by {}: {}: {why}", hold.by, hold.reason);
    Err(Refusal::new(RefusalKind::State, text).hint(format!("{lifts} --reason TEXT, by an officer")))
}

/// Put it on hold; `freeze`: and stop it. One that is on hold already can still be frozen.
pub fn hold(slice: &Slice, hold: Hold, freeze: bool) -> Result<Vec<Change>, Refusal> {
    if matches!(slice.state, SliceState::Closing | SliceState::Destroying) {
        let text =
            format!("it is {}: its key is destroyed, or about to be, and no hold helps", slice.state.text());
        return Err(Refusal::new(RefusalKind::State, text));
    }
    let mut waiting = slice.clone();
    if slice.home().is_some() {
        // What is on hold is not started.
        step(&mut waiting, SliceState::Stopped, "it was to be started, and is on hold".to_owned(), hold.at);
    }
    let slice = &waiting;
    demand(slice, &[SliceState::OPEN.as_slice(), &SliceState::KEPT].concat(), "put on hold")?;
    let stops = freeze && SliceState::OPEN.contains(&slice.state);
    if let Some(before) = slice.hold.as_ref().filter(|_| !stops) {
        let text = format!("it is on hold already, by {}: {}", before.by, before.reason);
        return Err(Refusal::new(RefusalKind::State, text));
    }
    let now = hold.at;
    let why = format!("frozen by {}: {}", hold.by, hold.reason);
    let mut next = slice.clone();
    backup::end_job(&mut next, now);
    next.hold.get_or_insert(hold);
    if stops {
        next.generation += 1;
        step(&mut next, SliceState::Keeping, why, now);
    }
    Ok(put(next))
}

/// Lift its hold. What is closed and kept by nothing else is destroyed from then on.
pub fn lift(slice: &Slice) -> Result<Vec<Change>, Refusal> {
    if slice.hold.is_none() {
        return Err(Refusal::new(RefusalKind::State, "it is not on hold by itself"));
    }
    Ok(put(Slice { hold: None, ..slice.clone() }))
}

/// Keeping or kept → Closing: nothing keeps it any more.
pub fn end_keeping(slice: &Slice, now: Timestamp) -> Vec<Change> {
    let mut next = slice.clone();
    next.generation += 1;
    step(&mut next, SliceState::Closing, String::new(), now);
    put(next)
}

/// Its machine is gone and its devices are observed released; its disk stays.
fn release(
    state: &State,
    slice: &Slice,
    seen: &Sighting,
    attached: &BTreeSet<PciAddress>,
    now: Timestamp,
) -> Option<Vec<Change>> {
    if has(slice).any(|a| attached.contains(a)) {
        return None;
    }
    let mut next = slice.clone();
    next.guest = None;
    // The rest stays: what a host says of its end now is not believed later.
    let scratch = next.others.iter_mut().filter(|other| other.kind == VolumeKind::Scratch);
    scratch.for_each(|other| other.told(&seen.others));
    disks::told_of_retired(&mut next, &seen.others);
    let to = if slice.state == SliceState::Stopping { SliceState::Stopped } else { SliceState::Kept };
    step(&mut next, to, slice.reason.clone(), now);
    // What was released before may be another slice's by now.
    let mut changes = Vec::new();
    if slice.released.is_none() {
        next.released = Some(now);
        changes = loosen(state, slice);
    }
    changes.extend(put(next));
    Some(changes)
}

/// Its devices are dirty from now on. Quarantine ends by an operator's word, not with the slice.
fn loosen(state: &State, slice: &Slice) -> Vec<Change> {
    let why = format!("released by {}", state.slice_label(slice));
    let loose = devices(state, slice).filter(|d| d.state != DeviceState::Quarantined);
    loose.map(|d| device::dirty(d, &why)).collect()
}

/// Its key is gone from the key store.
pub fn key_destroyed(slice: &Slice, now: Timestamp) -> Vec<Change> {
    let mut next = slice.clone();
    next.key_destroyed = Some(now);
    // All of them.
    next.spent.clear();
    next.change = None;
    put(next)
}

/// One more device of it has been sanitised, or has not.
pub fn with_evidence(slice: &Slice, evidence: Vec<Evidence>) -> Vec<Change> {
    let mut next = slice.clone();
    // Of each device the last word: the log has those before, and a record that grew with each stop would one day fit
    // into no entry.
    next.evidence.retain(|before| evidence.iter().all(|now| now.address != before.address));
    next.evidence.extend(evidence);
    put(next)
}

/// What a closing slice still waits for; empty when its certificate can be made. A device that is quarantined
/// may never be cleaned: it is given to nobody, and the certificate names it.
pub fn remains(state: &State, slice: &Slice) -> Vec<String> {
    let mut waits = Vec::new();
    if slice.key_destroyed.is_none() {
        waits.push("the key to be destroyed".to_owned());
    }
    if slice.detached.is_none() {
        waits.push("the host to report machine, disk and devices gone".to_owned());
    }
    // One that cannot be removed holds up nothing: it is noise by now, and the certificate says that it may be there.
    if !slice.copies.backups.is_empty() && slice.copies.removal.is_none() {
        waits.push("its backups to be removed".to_owned());
    }
    let had = slice.placement.iter().flat_map(|p| &p.devices).filter(|a| !has_evidence(slice, **a)).copied();
    // And those that it had before it was started again, and that nobody has cleaned since.
    let before = own(state, slice).filter(|d| d.state != DeviceState::Quarantined).map(|d| d.address);
    let all: BTreeSet<PciAddress> = had.chain(before).collect();
    let lost: BTreeSet<PciAddress> = without_evidence(state, slice).map(|d| d.address).collect();
    let missing: Vec<String> = all.difference(&lost).map(ToString::to_string).collect();
    if !missing.is_empty() {
        waits.push(format!("evidence of sanitising for {}", missing.join(", ")));
    }
    waits
}

/// Its disk's header and key slots were overwritten, and its host said so with evidence. That its file is gone
/// alone is not that.
pub fn volume_erased(slice: &Slice) -> bool {
    let evidence = slice.volume_evidence.as_ref().filter(|_| slice.detached.is_some());
    evidence.is_some_and(|e| e.volume == slice.volume && e.erased && e.bytes_overwritten > 0)
}

/// Its devices that are quarantined, and of which no run has said anything.
pub fn without_evidence<'a>(state: &'a State, slice: &'a Slice) -> impl Iterator<Item = &'a Device> {
    own(state, slice)
        .filter(|d| d.state == DeviceState::Quarantined)
        // It is still its own, so it was not cleaned since: what says that it was is of before the slice had it again.
        .filter(|d| slice.evidence.iter().all(|e| e.address != d.address || e.cleaned))
}

/// Some run has said something of this device since the slice was placed last.
fn has_evidence(slice: &Slice, device: PciAddress) -> bool {
    let since = |e: &Evidence| slice.placed.is_none_or(|placed| e.at >= placed);
    slice.evidence.iter().any(|e| e.address == device && since(e))
}

/// The end.
pub fn destroyed(slice: &Slice, certificate: super::records::Certificate, now: Timestamp) -> Vec<Change> {
    let mut next = slice.clone();
    next.certificate = Some(certificate);
    next.guest = None;
    step(&mut next, SliceState::Destroyed, String::new(), now);
    put(next)
}

/// Released means observed released: by the hypervisor, the disk and every device, not by the wish.
fn detach(
    state: &State,
    slice: &Slice,
    seen: &Sighting,
    attached: &BTreeSet<PciAddress>,
    now: Timestamp,
) -> Option<Vec<Change>> {
    let held = has(slice).any(|a| attached.contains(a));
    // Evidence of another disk is none. That it says nothing was erased is for the certificate to show.
    let volume = seen.volume.as_ref().filter(|evidence| evidence.volume == slice.volume)?;
    if held || !seen.volume_erased {
        return None;
    }
    let mut next = slice.clone();
    next.others.iter_mut().for_each(|other| other.told(&seen.others));
    disks::told_of_retired(&mut next, &seen.others);
    if next.others.iter().chain(&next.retired).any(|other| other.evidence.is_none()) {
        return None;
    }
    next.volume_evidence = Some(volume.clone());
    next.detached = Some(now);
    step(&mut next, SliceState::Destroying, String::new(), now);
    let mut changes = if slice.released.is_none() { loosen(state, slice) } else { Vec::new() };
    changes.extend(put(next));
    Some(changes)
}

/// Its devices; none once they were released, they may be another slice's since.
fn has(slice: &Slice) -> impl Iterator<Item = &PciAddress> {
    slice.placement.iter().filter(|_| slice.released.is_none()).flat_map(|p| &p.devices)
}

/// Devices that it had last of all.
fn own<'a>(state: &'a State, slice: &'a Slice) -> impl Iterator<Item = &'a Device> {
    state.devices.values().filter(|d| d.slice == Some(slice.id))
}

fn devices<'a>(state: &'a State, slice: &'a Slice) -> impl Iterator<Item = &'a Device> {
    slice
        .placement
        .iter()
        .flat_map(|p| p.devices.iter().map(|a| (p.host.clone(), *a)))
        .filter_map(|key| state.devices.get(&key))
        .filter(|d| d.slice == Some(slice.id))
}

pub(super) fn demand(slice: &Slice, states: &[SliceState], what: &str) -> Result<(), Refusal> {
    if states.contains(&slice.state) {
        return Ok(());
    }
    let from: Vec<&str> = states.iter().map(|s| s.text()).collect();
    Err(Refusal::new(
        RefusalKind::State,
        format!(
            "a slice that is {} cannot be {what}: only one that is {}",
            slice.state.text(),
            from.join(" or ")
        ),
    ))
}

fn step(slice: &mut Slice, state: SliceState, reason: String, now: Timestamp) {
    slice.state = state;
    slice.reason = reason;
    slice.changed = now;
}

pub(super) fn put(slice: Slice) -> Vec<Change> {
    vec![Change::Put(Record::Slice(Box::new(slice)))]
}
