//! Why a slice waits, and who waits before it.
//!
//! A caller reads of the queue what she may read of slices. That others wait is in the number of her own place,
//! and in nothing else: neither who they are nor what they want. The names of hosts, and why one is out of
//! service, are for those who may read hosts. So are the departments' shares, and for officers: one's own share
//! tells what the others use.

use super::{Asked, Scene, slice, view};
use crate::domain::records::Slice;
use crate::domain::{Refusal, State};
use crate::identity::Caller;
use crate::placement::queue::{self, Verdict};
use crate::placement::{Host, Short};
use crate::reconcile::place::{Queue, blocked};
use holm_policies::{Action, Resource};
use holm_proto::ids::Name;
use holm_proto::v1;

/// The explanation of one slice. `asked` is who wants to know.
pub(super) fn explain(scene: &Scene<'_>, asked: &Asked, of: &Slice) -> v1::Explanation {
    let state = scene.state;
    let mut said = v1::Explanation {
        slice: Some(slice::asked_for(asked, state, of)),
        department: state.projects.get(&of.project).map(|p| p.department.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let queue = Queue::recent(scene.app, state, scene.now);
    let Some((at, wish)) = queue.find(of.id) else { return said };
    let verdict = queue.plan.turns.iter().find(|(turn, _)| *turn == at).map(|(_, verdict)| verdict);
    if matches!(verdict, Some(Verdict::Placed { .. })) {
        "the next round finds everything as it is now".clone_into(&mut said.assumption);
        said.earliest = Some(view::time(scene.now));
        return said;
    }
    let explained = queue::explain(&queue.plan, wish, &queue.rules, queue.now);
    let position = queue.plan.position(at).unwrap_or_default();
    said.position = u32::try_from(position).unwrap_or(u32::MAX);
    // What waits for its own time does not wait for room.
    if matches!(verdict, Some(Verdict::Waits { .. })) {
        let reading = Asked { action: Action::HostRead, ..asked.clone() };
        let reads = |name: &Name| reading.allowed(state, Resource::Host { name: name.clone() });
        for (name, short) in &explained.hosts {
            let reason = match Some(name).filter(|name| reads(name)) {
                Some(name) => {
                    v1::HostReason { host: name.to_string(), reason: no_room(scene, &queue, name, short) }
                }
                None => v1::HostReason { host: String::new(), reason: short.to_string() },
            };
            if !said.hosts.contains(&reason) {
                said.hosts.push(reason);
            }
        }
        said.hosts.extend(away(state, &queue, &reads));
        said.helps.extend(explained.smaller.map(|gpus| {
            let s = if gpus == 1 { "" } else { "s" };
            let resized = of
                .home()
                .map(|_| format!(": holm slice resize {} --gpus {gpus}, by its lead", state.slice_label(of)));
            format!("a slice of {gpus} GPU{s} would be placed now{}", resized.unwrap_or_default())
        }));
    }
    said.earliest = explained.earliest.map(view::time);
    said.assumption = explained.assumption;
    if matches!(verdict, Some(Verdict::Waits { holds: true, .. } | Verdict::Early { holds: true })) {
        said.helps.push("GPUs that become free are kept for it already".to_owned());
    }
    said
}

/// Devices of a host that are named with why they are not given to anybody; there may be sixteen.
const NAMED: usize = 2;

/// Why a host has no room, for who may read it.
fn no_room(scene: &Scene<'_>, queue: &Queue, name: &Name, short: &Short) -> String {
    match kept(scene, queue, name) {
        Some(kept) if *short == Short::Closed => kept,
        Some(kept) => format!("{short}; {kept}"),
        None => short.to_string(),
    }
}

/// What keeps a host, or some of its GPUs, from slices, beside those that are there.
fn kept(scene: &Scene<'_>, queue: &Queue, name: &Name) -> Option<String> {
    let host = queue.plan.hosts.iter().find(|h| &h.name == name)?;
    if let Some(closed) = &host.closed {
        return Some(closed.clone());
    }
    let blocked = blocked(scene.app, scene.state, name, Some(queue.now));
    let more = blocked.devices.len().saturating_sub(NAMED);
    let named = blocked.devices.iter().take(NAMED).map(|(address, why)| {
        // Some of the reasons name it themselves.
        let named = why.contains(&address.to_string());
        if named { why.clone() } else { format!("{address} {why}") }
    });
    let mut all: Vec<String> = blocked.together.into_iter().chain(named).collect();
    all.extend((more > 0).then(|| format!("{more} more")));
    (!all.is_empty()).then(|| all.join("; "))
}

/// Hosts that are not there to be asked, of those that the caller may read.
fn away(state: &State, queue: &Queue, reads: &dyn Fn(&Name) -> bool) -> Vec<v1::HostReason> {
    let here = |name: &Name| queue.plan.hosts.iter().any(|h| &h.name == name);
    let away = state.hosts.keys().filter(|name| !here(name) && reads(name));
    let reason = |name: &Name| v1::HostReason {
        host: name.to_string(),
        reason: "its agent is not connected".to_owned(),
    };
    away.map(reason).collect()
}

/// The queue, as far as the caller may read it.
pub(super) fn list(
    scene: &Scene<'_>,
    may: &dyn Fn(Action, Resource) -> bool,
) -> Result<v1::ListQueueResponse, Refusal> {
    let state = scene.state;
    let queue = Queue::recent(scene.app, state, scene.now);
    let reads = |name: &Name| may(Action::HostRead, Resource::Host { name: name.clone() });
    let officer = match scene.caller {
        Caller::Person(name) => {
            state.people.get(name).is_some_and(|p| p.roles.iter().any(|role| role == "officer"))
        }
        Caller::Host(_) => false,
    };
    let shares = officer || state.hosts.keys().any(reads);
    let kept = |h: &Host| {
        let reason = kept(scene, &queue, &h.name)?;
        Some(v1::HostReason { host: h.name.to_string(), reason })
    };
    let mut hosts: Vec<v1::HostReason> =
        queue.plan.hosts.iter().filter(|h| reads(&h.name)).filter_map(kept).collect();
    hosts.extend(away(state, &queue, &reads));
    let entry = |(at, verdict): &(usize, Verdict)| {
        let holds = match verdict {
            Verdict::Waits { holds, .. } | Verdict::Early { holds } => *holds,
            Verdict::Late => false,
            Verdict::Placed { .. } => return None,
        };
        let wish = queue.wishes.get(*at)?;
        let slice = state.slices.get(&wish.id)?;
        view::slice_resource(&scene.seen(), slice).filter(|r| may(Action::SliceRead, r.clone()))?;
        Some(v1::QueueEntry {
            position: u32::try_from(queue.plan.position(*at).unwrap_or_default()).unwrap_or(u32::MAX),
            slice: Some(view::slice(scene.app, state, slice)),
            department: wish.department.clone(),
            share_permille: shares.then(|| queue.plan.shares.permille(&wish.department)),
            holds,
            hosts: if matches!(verdict, Verdict::Waits { .. }) { hosts.clone() } else { Vec::new() },
        })
    };
    Ok(v1::ListQueueResponse { entries: queue.plan.turns.iter().filter_map(entry).collect() })
}
