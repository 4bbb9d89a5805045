//! The clock of an incident: what is left of it is said in time, and that it ran out.

use crate::app::App;
use crate::domain::{Refusal, incident};
use crate::ledger::{Call, Decided};
use serde_json::json;

/// The action of the entry that says so.
pub const CLOCK: &str = "observe.incident";

/// An entry for what is left, once for each of the hours at which it is said.
pub(super) fn warn(
    app: &App,
    passed: &mut dyn FnMut(Result<(), Refusal>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (state, now) = (app.ledger.state(), app.ledger.now());
    for one in state.incidents.values().filter(|one| incident::warn(&state, one.number, now).is_some()) {
        let mut call = Call::own(CLOCK, format!("incident/{}", one.number));
        call.project = Some(one.project.to_string());
        let done = app.ledger.commit_if(&call, |state, now| {
            let (left, changes) = incident::warn(state, one.number, now)?;
            let detail = json!({ "incident": one.number, "hours_left": left });
            Some(Decided { detail, ..Decided::new(changes, ()) })
        });
        passed(done.map(drop))?;
    }
    Ok(())
}
