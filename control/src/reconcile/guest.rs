//! Entries about guests: what they claim, that more of it was dropped, and that one says nothing any more.

use crate::app::App;
use crate::domain::claims::{self, Step};
use crate::domain::records::{Slice, SliceState};
use crate::domain::{Refusal, State};
use crate::ledger::{Call, Decided};
use holm_proto::ids::{RequestId, SliceId};
use holm_proto::v1;
use jiff::Timestamp;
use serde_json::json;

/// One entry, where there is one.
pub fn write(
    app: &App,
    call: &Call,
    id: SliceId,
    next: impl Fn(&State) -> Option<Step>,
) -> Result<(), Refusal> {
    // A look first, without the ledger's lock.
    let state = app.ledger.state();
    let (Some(slice), Some(step)) = (state.slices.get(&id), next(&state)) else { return Ok(()) };
    let done = app.ledger.commit_if(&named(&state, call, slice, step.action), |state, _| {
        // Nobody else moves it on, so that it is the same step: where it is not, nothing is said of it now.
        let step = next(state).filter(|now| now.action == step.action)?;
        Some(Decided { detail: step.detail, ..Decided::new(vec![claims::change(step.next)], ()) })
    });
    done.map(drop)
}

fn named(state: &State, call: &Call, slice: &Slice, action: &'static str) -> Call {
    Call {
        request: RequestId::new_v4(),
        action,
        resource: format!("slice/{}", state.slice_label(slice)),
        project: state.projects.get(&slice.project).map(|p| p.name.to_string()),
        ..call.clone()
    }
}

/// That what a guest said was dropped on its host, where that is to be said now.
pub fn flood(app: &App, call: &Call, id: SliceId, now: Timestamp) -> Result<(), Refusal> {
    let state = app.ledger.state();
    let Some(slice) = state.slices.get(&id) else { return Ok(()) };
    let Some(dropped) = app.live.guest(id, now, |guest| guest.flood(now)) else { return Ok(()) };
    tracing::warn!(slice = %id, dropped, "its guest says more than it may");
    let call = named(&state, call, slice, "guest.flood");
    app.ledger.note(&call, json!({ "claimed_by_guest": true, "dropped": dropped }))
}

/// Looks which guests say nothing any more, although their machines run and their hosts are heard.
pub fn look(app: &App, now: Timestamp) -> Result<(), Refusal> {
    let state = app.ledger.state();
    let reporting = app.live.reporting();
    for slice in state.slices.values().filter(|slice| slice.state == SliceState::Ready) {
        let host = slice.placement.as_ref().map(|placed| &placed.host);
        let live = reporting.iter().find(|(name, _)| Some(name) == host).map(|(_, live)| live);
        let seen = live.and_then(|live| live.slices.get(&slice.id));
        let heard = seen.is_some_and(|seen| seen.phase() == v1::Phase::Ready && !seen.paused);
        let silent = app.live.guest(slice.id, now, |guest| {
            if !heard {
                guest.cannot_be_heard(now);
            }
            guest.is_silent(now, app.config.guest.silence())
        });
        let call = Call::own("guest.silent", String::new());
        if silent {
            let id = slice.id;
            write(app, &call, id, |state| {
                let ready = state.slices.get(&id).is_some_and(|slice| slice.state == SliceState::Ready);
                ready.then(|| claims::known(state, id).silence(true)).flatten()
            })?;
        }
        flood(app, &call, slice.id, now)?;
    }
    app.live.keep_guests(|id| state.slices.get(&id).is_some_and(|slice| !slice.state.is_final()));
    Ok(())
}
