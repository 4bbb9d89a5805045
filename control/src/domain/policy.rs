//! One pack takes the place of another: what has to be so, and whom it concerns.

use super::records::{Change, Policy, Record};
use super::{Refusal, RefusalKind, State};
use holm_policies::{Difference, Pack, diff};
use holm_proto::ids::Name;
use std::collections::BTreeSet;

/// What becomes different, and the projects whose level does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// What becomes different.
    pub difference: Difference,
    /// By name, sorted.
    pub projects: Vec<Name>,
}

/// What a new pack would change here.
pub fn effect(state: &State, old: &Pack, new: &Pack) -> Effect {
    let difference = diff(old, new);
    let mut projects: Vec<Name> = state
        .projects
        .values()
        .filter(|p| difference.levels.contains_key(&p.level))
        .map(|p| p.name.clone())
        .collect();
    projects.sort();
    Effect { difference, projects }
}

/// Put a pack in the place of the one in force. Who may, and who signed it, was judged already.
pub fn load(state: &State, new: &Pack, record: Policy) -> Result<Vec<Change>, Refusal> {
    if state.policy.as_ref().is_some_and(|policy| policy.digest == record.digest) {
        return Err(Refusal::new(RefusalKind::Exists, format!("{} is in force already", new.id())));
    }
    // One that was in force before would bring back what was mended, and of two with one number no entry could say which.
    let highest = state.policy.as_ref().and_then(|policy| policy.highest.get(new.name()));
    if let Some(highest) = highest.filter(|highest| **highest >= new.version()) {
        let text = format!("{}/{highest} was in force, and this is {}", new.name(), new.id());
        let next = format!("give it a higher version in pack.toml, and sign it: version = {}", highest + 1);
        return Err(Refusal::new(RefusalKind::State, text).hint(next));
    }
    // Whoever has a role that there is not is refused everything.
    let roles: BTreeSet<&str> = new.roles().collect();
    let mut held = state.people.values().flat_map(|p| p.roles.iter().map(move |role| (&p.name, role)));
    if let Some((name, role)) = held.find(|(_, role)| !roles.contains(role.as_str())) {
        let text = format!("`{name}` is {role}, which is no role in {}", new.id());
        return Err(Refusal::new(RefusalKind::State, text).hint("keep the roles that people have"));
    }
    let here = |level: &str| new.level(level).is_some_and(|level| level.runs_here);
    let living = state.slices.values().filter(|s| !s.state.is_final() && !here(&s.level));
    let mut stranded: Vec<String> =
        living.map(|s| format!("{} (level {})", state.slice_label(s), s.level)).collect();
    if !stranded.is_empty() {
        stranded.sort();
        let many = stranded.len();
        stranded.truncate(5);
        let text = format!(
            "{many} slices are at levels that do not run here in {}: {}",
            new.id(),
            stranded.join(", ")
        );
        return Err(
            Refusal::new(RefusalKind::State, text).hint("have them closed, or keep their level in the pack")
        );
    }
    Ok(put(record, state))
}

/// In force from now on, whatever was before.
pub fn put(mut record: Policy, state: &State) -> Vec<Change> {
    for (name, version) in state.policy.iter().flat_map(|before| &before.highest) {
        let highest = record.highest.entry(name.clone()).or_default();
        *highest = (*highest).max(*version);
    }
    vec![Change::Put(Record::Policy(record))]
}
