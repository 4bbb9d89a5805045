//! What projects have filed runs out: it is said in time, and then nothing of them starts.

use crate::app::App;
use crate::domain::records::Slice;
use crate::domain::{Refusal, State, register};
use crate::ledger::{Call, Decided};
use holm_proto::ids::ProjectId;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// An entry for whatever ends soon, or has ended, once for each of the days before it.
pub(super) fn warn(
    app: &App,
    passed: &mut dyn FnMut(Result<(), Refusal>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (state, now) = (app.ledger.state(), app.ledger.now());
    let pack = app.rules.of(&state);
    // Once for all projects, not once for each: there are many of both.
    let mut of: BTreeMap<ProjectId, Vec<&Slice>> = BTreeMap::new();
    for s in state.slices.values() {
        of.entry(s.project).or_default().push(s);
    }
    for p in state.projects.values() {
        let slices = of.get(&p.id).into_iter().flatten().copied();
        if register::warn(p, &register::all_terms(p, &pack, slices, now), now).is_none() {
            continue;
        }
        let mut call = Call::own("observe.expiry", format!("project/{}", p.name));
        call.project = Some(p.name.to_string());
        let done = app.ledger.commit_if(&call, |state, now| {
            let p = state.projects.get(&p.id)?;
            let slices = state.slices.values().filter(|s| s.project == p.id);
            let (change, warned) = register::warn(p, &register::all_terms(p, &pack, slices, now), now)?;
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
