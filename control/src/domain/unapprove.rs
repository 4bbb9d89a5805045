//! What an officer has approved and is not decided yet counts no more when she is locked or her certificate is revoked:
//! somebody else may have said it in her name. Where it was hers she says it again.

use super::State;
use super::records::{Approval, Project, Slice, SliceState};

/// The slice, without approvals that count no more. What is decided stays as it was decided.
pub fn slice(state: &State, s: &Slice) -> Slice {
    let mut next = s.clone();
    match &mut next.extension {
        Some(asked) => retain(state, &mut asked.approvals),
        None if s.state == SliceState::Requested => {
            retain(state, &mut next.approvals);
            let have = next.approvals.len();
            if have < s.approvals.len() {
                let needed = s.approvals_needed;
                next.reason =
                    format!("{have} of {needed} approvals: one was of who was locked or revoked since");
            }
        }
        None => {}
    }
    next
}

/// The same of a project that asks for a lower level.
pub fn project(state: &State, p: &Project) -> Project {
    let mut next = p.clone();
    if let Some(pending) = &mut next.declassification {
        retain(state, &mut pending.approvals);
    }
    next
}

fn retain(state: &State, approvals: &mut Vec<Approval>) {
    let void = |a: &Approval| state.people.get(&a.by).and_then(|p| p.void).is_some_and(|void| a.at <= void);
    approvals.retain(|approval| !void(approval));
}
