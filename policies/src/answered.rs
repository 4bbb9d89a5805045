//! What a pack has answered: asked the same again it says the same, for a question is all that an answer depends on.
//!
//! A list asks about each of thousands of projects, and the next one the same again. An answer costs Cedar a tenth of a
//! millisecond, and remembering it less than a microsecond. Who asks is in the question, so nobody learns from how long it
//! takes what somebody else asked.

use crate::{
    decide::Decision,
    request::{Identity, Request, Resource},
};
use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

/// Bytes of questions and answers that are remembered, once; those of before are remembered as long again.
pub(crate) const MOST: usize = 16 << 20;
/// A longer question, with its answer, is not: somebody could fill the memory with a few.
const LONG: usize = 4 << 10;

/// Questions, whole, and their answers.
#[derive(Debug, Default)]
pub(crate) struct Answered(Mutex<Two>);

#[derive(Debug, Default)]
struct Two {
    young: HashMap<Request, Decision>,
    bytes: usize,
    old: HashMap<Request, Decision>,
}

impl Answered {
    /// What was answered, or is now.
    pub(crate) fn or(&self, request: &Request, answer: impl FnOnce() -> Decision) -> Decision {
        let asked = bytes_of(request);
        if asked > LONG {
            return answer();
        }
        let all = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let all = all();
            if let Some(known) = all.young.get(request).or_else(|| all.old.get(request)) {
                return known.clone();
            }
        }
        let decision = answer();
        let bytes = asked + decision.reasons.iter().map(text).sum::<usize>() + text(&decision.pack);
        if bytes <= LONG {
            let mut all = all();
            let mut gone = HashMap::new();
            if all.bytes + bytes > MOST {
                let young = mem::take(&mut all.young);
                gone = mem::replace(&mut all.old, young);
                all.bytes = 0;
            }
            all.bytes += bytes;
            all.young.insert(request.clone(), decision.clone());
            drop(all);
            // What takes long holds up nobody.
            drop(gone);
        }
        decision
    }

    /// How much is remembered: questions, and bytes of the younger ones.
    #[cfg(test)]
    pub(crate) fn holds(&self) -> (usize, usize) {
        let all = self.0.lock().unwrap();
        (all.young.len() + all.old.len(), all.bytes)
    }
}

/// With what lies around it.
fn text(of: impl AsRef<str>) -> usize {
    mem::size_of::<String>() + of.as_ref().len()
}

fn bytes_of(request: &Request) -> usize {
    let names = |all: &[holm_proto::ids::Name]| all.iter().map(|name| text(name.as_str())).sum::<usize>();
    let texts = |all: &[String]| all.iter().map(text).sum::<usize>();
    let who = match &request.principal.identity {
        Identity::Person { name, roles } => text(name.as_str()) + texts(roles),
        Identity::Host { name } => text(name.as_str()),
    };
    let what = match &request.resource {
        Resource::Project { name, level, lead, members, readers, held_by, missing, lapsed } => {
            text(name.as_str())
                + text(level)
                + text(lead.as_str())
                + names(members)
                + names(readers)
                + names(held_by)
                + texts(missing)
                + names(lapsed)
        }
        Resource::Slice {
            project,
            name,
            level,
            lead,
            members,
            readers,
            requested_by,
            approved_by,
            held_by,
            missing,
            lapsed,
            lease_over: _,
        } => {
            let one = [project, name, lead, requested_by];
            one.iter().map(|name| text(name.as_str())).sum::<usize>()
                + text(level)
                + names(members)
                + names(readers)
                + names(approved_by)
                + names(held_by)
                + texts(missing)
                + names(lapsed)
        }
        Resource::Person { name, roles } => text(name.as_str()) + texts(roles),
        Resource::Host { name } => text(name.as_str()),
        Resource::System | Resource::Log => 0,
    };
    mem::size_of::<(Request, Decision)>() + who + what
}
