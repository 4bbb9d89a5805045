//! One pack takes the place of another: what has to be so, and whom it concerns.

use super::records::{Change, Policy, Record};
use super::{Refusal, RefusalKind, State};
use holm_policies::{Difference, Pack, diff};
use holm_proto::ids::Name;

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
pub fn load(state: &State, old: (&Pack, &str), new: (&Pack, Policy)) -> Result<Vec<Change>, Refusal> {
    let ((old, old_digest), (new, policy)) = (old, new);
    if policy.digest == old_digest {
        return Err(Refusal::new(RefusalKind::Exists, format!("{} is in force already", new.id())));
    }
    // An older one would bring back what was mended; the same number for other files would hide that they are others.
    if new.name() == old.name() && new.version() <= old.version() {
        let text = format!("{} is in force, and this is {}", old.id(), new.id());
        let next = format!("give it a higher version in pack.toml: version = {}", old.version() + 1);
        return Err(Refusal::new(RefusalKind::State, text).hint(next));
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
    Ok(vec![Change::Put(Record::Policy(policy))])
}
