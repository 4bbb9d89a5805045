//! Who hears of what: whoever has the role now, has come in, and is neither locked nor without a certificate.

use crate::domain::State;
use crate::domain::lock::Subject;
use crate::domain::records::{Person, Project};
use holm_proto::ids::Name;
use std::collections::BTreeSet;

/// The people of this state.
pub struct Audience<'a>(pub &'a State);

impl<'a> Audience<'a> {
    /// Security officers.
    pub fn officers(&self) -> impl Iterator<Item = &'a Name> + use<'a> {
        with_role(self.0, "officer")
    }

    /// Operators.
    pub fn operators(&self) -> impl Iterator<Item = &'a Name> + use<'a> {
        with_role(self.0, "operator")
    }

    /// Those who watch hosts.
    pub fn watch(&self) -> BTreeSet<Name> {
        self.officers().chain(self.operators()).cloned().collect()
    }

    /// Who answers for the project.
    pub fn lead(&self, project: &Project) -> BTreeSet<Name> {
        self.of([&project.lead])
    }

    /// The lead, and who asked, if she is in the project still.
    pub fn asked_for(&self, project: &Project, who: &Name) -> BTreeSet<Name> {
        let still = Some(who).filter(|who| project.members.contains(who));
        self.of(still.into_iter().chain([&project.lead]))
    }

    /// Of what was done to herself she hears whatever was done.
    pub fn herself(&self, name: &Name) -> BTreeSet<Name> {
        self.0.people.get(name).map(|p| p.name.clone()).into_iter().collect()
    }

    /// Those of them who are to hear of anything.
    pub fn of<'b>(&self, names: impl IntoIterator<Item = &'b Name>) -> BTreeSet<Name> {
        let known = names.into_iter().filter_map(|name| self.0.people.get(name));
        known.filter(|p| in_good_standing(self.0, p)).map(|p| p.name.clone()).collect()
    }
}

fn with_role<'a>(state: &'a State, role: &'static str) -> impl Iterator<Item = &'a Name> + use<'a> {
    let has = move |p: &&Person| p.roles.iter().any(|has| has == role);
    state.people.values().filter(has).filter(|p| in_good_standing(state, p)).map(|p| &p.name)
}

fn in_good_standing(state: &State, p: &Person) -> bool {
    p.enrolled && p.revoked.is_none() && !state.locks.contains_key(&Subject::Person(p.name.clone()))
}
