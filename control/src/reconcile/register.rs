//! What projects have filed runs out: it is said in time, and then nothing of them starts.

use crate::app::App;
use crate::domain::records::{Project, Slice};
use crate::domain::{Refusal, State, lease, register};
use crate::ledger::{Call, Decided};
use jiff::Timestamp;

/// An entry for whatever ends soon, or has ended, once for each of the days before it.
pub(super) fn warn(
    app: &App,
    passed: &mut dyn FnMut(Result<(), Refusal>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (state, now) = (app.ledger.state(), app.ledger.now());
    let pack = app.rules.of(&state);
    for p in state.projects.values() {
        let terms = |state: &State, p: &Project| {
            let mut all = register::terms(p, &register::demanded(&pack, &p.level));
            all.extend(lease::terms(state, p, pack.level(&p.level), now));
            all
        };
        if register::warn(p, &terms(&state, p), now).is_none() {
            continue;
        }
        let mut call = Call::own("observe.expiry", format!("project/{}", p.name));
        call.project = Some(p.name.to_string());
        let done = app.ledger.commit_if(&call, |state, now| {
            let p = state.projects.get(&p.id)?;
            let (change, warned) = register::warn(p, &terms(state, p), now)?;
            let detail = serde_json::json!({ "ends": warned });
            Some(Decided { detail, ..Decided::new(vec![change], ()) })
        });
        passed(done.map(drop))?;
    }
    Ok(())
}

/// Why a slice does not get a place, whoever has approved it: its project has yet to file something.
pub(super) fn frozen(app: &App, state: &State, s: &Slice, now: Timestamp) -> Option<String> {
    let project = state.projects.get(&s.project)?;
    let missing = register::missing(project, &register::demanded(&app.rules.of(state), &s.level), now);
    (!missing.is_empty()).then(|| format!("its project must first file {}", missing.join(", ")))
}
