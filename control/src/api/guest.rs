//! What guests claim to have seen, into the log: each claim once, in its order, at each guest's own bounded rate.
//!
//! A host speaks for the guests of the slices that are its own, and of those only: which guest said it is which port it
//! came from, and no guest can name another.

use crate::app::App;
use crate::domain::claims;
use crate::domain::records::Slice;
use crate::domain::{Refusal, State};
use crate::ledger::Call;
use crate::reconcile::guest::{flood, write};
use holm_proto::ids::{Name, SliceId};
use holm_proto::{guest, v1};
use tonic::Status;

/// What a host says of one guest, checked.
pub(super) struct Said {
    slice: SliceId,
    message: v1::GuestClaims,
}

impl Said {
    pub(super) fn read(message: v1::GuestClaims) -> Result<Self, Status> {
        let bad = |text: &str| Status::invalid_argument(text.to_owned());
        let slice = super::agent::typed(&message.slice_id);
        let slice = slice.ok_or_else(|| bad("a guest's claims name a slice that is none"))?;
        let fits = guest::is_boot(&message.boot) || (message.boot.is_empty() && message.claims.is_empty());
        if !fits || message.claims.len() > guest::AT_ONCE || !message.claims.iter().all(guest::is_plausible) {
            return Err(bad("a guest's claims are not such as an agent passes on"));
        }
        Ok(Self { slice, message })
    }
}

/// Writes down what is new. What the log then has of this run of the guest; `None`: it is no guest of this host's now.
pub(super) fn take(
    app: &App,
    host: &Name,
    call: &Call,
    said: &Said,
) -> Result<Option<v1::GuestAck>, Refusal> {
    let Said { slice: id, message } = said;
    let state = app.ledger.state();
    if !state.slices.get(id).is_some_and(|slice| speaks(slice, host, message.generation)) {
        return Ok(None);
    }
    let now = app.ledger.now();
    app.live.guest(*id, now, |guest| guest.hear(message.dropped, now));
    write(app, call, *id, |state| {
        here(state, *id, host).then(|| claims::known(state, *id).silence(false)).flatten()
    })?;
    'claims: for claim in &message.claims {
        while claims::known(&app.ledger.state(), *id).step(&message.boot, claim).is_some() {
            if !app.live.guest(*id, now, |guest| guest.may(now)) {
                break 'claims;
            }
            write(app, call, *id, |state| {
                here(state, *id, host).then(|| claims::known(state, *id).step(&message.boot, claim)).flatten()
            })?;
            if !here(&app.ledger.state(), *id, host) {
                return Ok(None);
            }
        }
    }
    flood(app, call, *id, now)?;
    let known = claims::known(&app.ledger.state(), *id);
    let seq = if known.boot == message.boot { known.seq } else { 0 };
    Ok(Some(v1::GuestAck { slice_id: message.slice_id.clone(), boot: message.boot.clone(), seq }))
}

/// It is this host's to speak for, under this generation.
fn speaks(slice: &Slice, host: &Name, generation: u64) -> bool {
    let placed = slice.placement.as_ref().is_some_and(|placed| &placed.host == host);
    placed && !slice.state.is_final() && slice.generation == generation
}

fn here(state: &State, id: SliceId, host: &Name) -> bool {
    state.slices.get(&id).is_some_and(|slice| speaks(slice, host, slice.generation))
}
