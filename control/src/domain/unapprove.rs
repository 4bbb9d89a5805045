//! What an officer has approved and is not decided yet counts no more when she is locked or her certificate is revoked:
//! somebody else may have said it in her name. Where it was hers she says it again.

use super::State;
use super::records::{Approval, Project, Slice, SliceState};
use std::borrow::Cow;

/// The slice, without approvals that count no more. What is decided stays as it was decided.
pub fn slice<'a>(state: &State, s: &'a Slice) -> Cow<'a, Slice> {
    let pending = match &s.extension {
        Some(asked) => &asked.approvals,
        None if s.state == SliceState::Requested => &s.approvals,
        None => return Cow::Borrowed(s),
    };
    let Some(left) = counting(state, pending) else { return Cow::Borrowed(s) };
    let mut next = s.clone();
    if let Some(asked) = &mut next.extension {
        asked.approvals = left;
    } else {
        let (have, needed) = (left.len(), s.approvals_needed);
        next.reason = format!("{have} of {needed} approvals: one was of who was locked or revoked since");
        next.approvals = left;
    }
    Cow::Owned(next)
}

/// The same of a project that asks for a lower level.
pub fn project<'a>(state: &State, p: &'a Project) -> Cow<'a, Project> {
    let left = p.declassification.as_ref().and_then(|pending| counting(state, &pending.approvals));
    let Some(left) = left else { return Cow::Borrowed(p) };
    let mut next = p.clone();
    if let Some(pending) = &mut next.declassification {
        pending.approvals = left;
    }
    Cow::Owned(next)
}

/// Those that count, where some do not.
fn counting(state: &State, approvals: &[Approval]) -> Option<Vec<Approval>> {
    let void = |a: &&Approval| state.people.get(&a.by).and_then(|p| p.void).is_some_and(|void| a.at <= void);
    let left = || approvals.iter().filter(|a| !void(a)).cloned().collect();
    approvals.iter().any(|a| void(&a)).then(left)
}
