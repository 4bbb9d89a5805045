//! What the clock makes due: requests that nobody approved, slices and projects whose time is over.

use crate::app::App;
use crate::domain::{Refusal, lease};
use crate::ledger::{Call, Decided};

/// An entry for each, with what it changes.
pub(super) fn due(
    app: &App,
    passed: &mut dyn FnMut(Result<(), Refusal>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let (state, now) = (app.ledger.state(), app.ledger.now());
    for p in state.projects.values().filter(|p| lease::project_ended(p, now).is_some()) {
        let mut call = Call::own("project.end", format!("project/{}", p.name));
        call.project = Some(p.name.to_string());
        let done = app.ledger.commit_if(&call, |state, now| {
            Some(Decided::new(lease::project_ended(state.projects.get(&p.id)?, now)?, ()))
        });
        passed(done.map(drop))?;
    }
    let state = app.ledger.state();
    let pack = app.rules.of(&state);
    for s in state.slices.values() {
        let level = pack.level(&s.level);
        let Some((action, _)) = lease::due(&state, s, level, now) else { continue };
        let mut call = Call::own(action, format!("slice/{}", state.slice_label(s)));
        call.project = state.projects.get(&s.project).map(|p| p.name.to_string());
        let done = app.ledger.commit_if(&call, |state, now| {
            let due = lease::due(state, state.slices.get(&s.id)?, level, now);
            let (_, changes) = due.filter(|(still, _)| *still == action)?;
            Some(Decided::new(changes, ()))
        });
        passed(done.map(drop))?;
    }
    Ok(())
}
