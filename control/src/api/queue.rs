//! Why a slice waits, and who waits before it.
//!
//! A caller reads of the queue what she may read of slices. That others wait is in the number of her own place,
//! and in nothing else: neither who they are nor what they want. The names of hosts, and why one is out of
//! service, are for those who may read hosts. So are the departments' shares, and for officers: one's own share
//! tells what the others use.

use super::{Asked, Scene, view};
use crate::domain::Refusal;
use crate::domain::records::Slice;
use crate::identity::Caller;
use crate::placement::queue::{self, Verdict};
use crate::reconcile::place::Queue;
use holm_policies::{Action, Resource};
use holm_proto::ids::Name;
use holm_proto::v1;

/// The explanation of one slice. `asked` is who wants to know.
pub(super) fn explain(scene: &Scene<'_>, asked: &Asked, slice: &Slice) -> v1::Explanation {
    let state = scene.state;
    let mut said = v1::Explanation {
        slice: Some(view::slice(state, &scene.app.live, slice)),
        department: state.projects.get(&slice.project).map(|p| p.department.clone()).unwrap_or_default(),
        ..Default::default()
    };
    let queue = Queue::recent(scene.app, state, scene.now);
    let Some((at, wish)) = queue.find(slice.id) else { return said };
    let verdict = queue.plan.turns.iter().find(|(turn, _)| *turn == at).map(|(_, verdict)| verdict);
    if matches!(verdict, Some(Verdict::Placed { .. })) {
        "it fits: it is placed in the next round".clone_into(&mut said.assumption);
        said.earliest = Some(view::time(scene.now));
        return said;
    }
    let explained = queue::explain(&queue.plan, wish, &queue.rules, queue.now);
    let position = queue.plan.position(at).unwrap_or_default();
    said.position = u32::try_from(position).unwrap_or(u32::MAX);
    let reading = Asked { action: Action::HostRead, ..asked.clone() };
    for (name, short) in &explained.hosts {
        let may = reading.allowed(state, Resource::Host { name: name.clone() });
        let closed = queue.plan.hosts.iter().find(|h| &h.name == name).and_then(|h| h.closed.clone());
        let reason = match (may, closed) {
            (true, Some(closed)) => v1::HostReason { host: name.to_string(), reason: closed },
            (true, None) => v1::HostReason { host: name.to_string(), reason: short.to_string() },
            (false, _) => v1::HostReason { host: String::new(), reason: short.to_string() },
        };
        if !said.hosts.contains(&reason) {
            said.hosts.push(reason);
        }
    }
    said.earliest = explained.earliest.map(view::time);
    said.assumption = explained.assumption;
    said.helps.extend(explained.smaller.map(|gpus| match gpus {
        1 => "a slice of 1 GPU would be placed now".to_owned(),
        gpus => format!("a slice of {gpus} GPUs would be placed now"),
    }));
    if matches!(verdict, Some(Verdict::Waits { holds: true, .. } | Verdict::Early { holds: true })) {
        said.helps.push("GPUs that become free are kept for it already".to_owned());
    }
    said
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
    let entry = |(at, verdict): &(usize, Verdict)| {
        let holds = match verdict {
            Verdict::Waits { holds, .. } | Verdict::Early { holds } => *holds,
            Verdict::Late => false,
            Verdict::Placed { .. } => return None,
        };
        let wish = queue.wishes.get(*at)?;
        let slice = state.slices.get(&wish.id)?;
        view::slice_resource(state, slice).filter(|r| may(Action::SliceRead, r.clone()))?;
        Some(v1::QueueEntry {
            position: u32::try_from(queue.plan.position(*at).unwrap_or_default()).unwrap_or(u32::MAX),
            slice: Some(view::slice(state, &scene.app.live, slice)),
            department: wish.department.clone(),
            share_permille: shares.then(|| queue.plan.shares.permille(&wish.department)),
            holds,
        })
    };
    Ok(v1::ListQueueResponse { entries: queue.plan.turns.iter().filter_map(entry).collect() })
}
