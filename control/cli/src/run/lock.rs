//! Locks.

use super::Session;
use super::project::afterwards;
use crate::args::LockVerb;
use crate::{Failure, view};
use holm_proto::v1::{LiftLockRequest, ListLocksRequest, SetLockRequest};
use serde_json::json;

pub(super) async fn run(session: &Session, verb: LockVerb) -> Result<(), Failure> {
    let mut client = session.locks().await?;
    let output = &session.output;
    match verb {
        LockVerb::List => {
            let all = session.ask(client.list_locks(ListLocksRequest {})).await?.locks;
            let json = all.iter().map(view::lock_json).collect::<Vec<_>>();
            output.list(&view::locks(&all, &session.clock), &json!(json))
        }
        LockVerb::Set { subject, reason, dry_run } => {
            let request = SetLockRequest { subject, reason, dry_run };
            let lock = session.ask(client.set_lock(request)).await?;
            let sentence = format!("{} is locked until an officer lifts it", lock.subject);
            output.done(&afterwards(dry_run, sentence), &view::lock_json(&lock))?;
            if dry_run { Ok(()) } else { output.next("holm lock list") }
        }
        LockVerb::Lift { subject, reason, dry_run } => {
            let request = LiftLockRequest { subject, reason, dry_run };
            let lock = session.ask(client.lift_lock(request)).await?;
            let sentence = format!("{} is locked no more", lock.subject);
            output.done(&afterwards(dry_run, sentence), &view::lock_json(&lock))
        }
    }
}
