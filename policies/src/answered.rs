//! What a pack has answered: asked the same again it says the same, for a question is all that an answer depends on.
//!
//! A list asks about each of thousands of projects, and the next one the same again. An answer costs Cedar a tenth of a
//! millisecond, and remembering it less than a microsecond.

use crate::{
    decide::Decision,
    request::{Request, Resource},
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// So many are remembered; then all are forgotten. Some 30 MiB.
pub(crate) const MOST: usize = 32_768;
/// Questions that name more people and papers than this are answered anew each time.
const LONG: usize = 64;

/// Questions, whole, and their answers.
#[derive(Debug, Default)]
pub(crate) struct Answered(Mutex<HashMap<Request, Decision>>);

impl Answered {
    /// What was answered, or is now.
    pub(crate) fn or(&self, request: &Request, answer: impl FnOnce() -> Decision) -> Decision {
        let all = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all().get(request) {
            return known.clone();
        }
        let decision = answer();
        if length(&request.resource) <= LONG {
            let mut all = all();
            if all.len() >= MOST {
                all.clear();
            }
            all.insert(request.clone(), decision.clone());
        }
        decision
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

fn length(resource: &Resource) -> usize {
    match resource {
        Resource::Project { members, held_by, missing, lapsed, .. } => {
            members.len() + held_by.len() + missing.len() + lapsed.len()
        }
        Resource::Slice { members, approved_by, held_by, missing, lapsed, .. } => {
            members.len() + approved_by.len() + held_by.len() + missing.len() + lapsed.len()
        }
        Resource::Person { roles, .. } => roles.len(),
        Resource::System | Resource::Host { .. } | Resource::Log => 0,
    }
}
