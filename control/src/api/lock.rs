//! Locks, for officers. What each bites on is in `domain::lock`.

use super::{About, Asked, Seen, host, parsed, project, shown, slice, view};
use crate::app::App;
use crate::domain::Refusal;
use crate::domain::lock::{self, Subject};
use crate::domain::records::Lock;
use crate::ledger::Decided;
use holm_policies::{Action, Pack, Resource};
use holm_proto::v1;
use holm_proto::v1::lock_service_server::LockService;
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct Locks(pub Arc<App>);

#[tonic::async_trait]
impl LockService for Locks {
    async fn set_lock(&self, request: Request<v1::SetLockRequest>) -> Result<Response<v1::Lock>, Status> {
        let v1::SetLockRequest { subject, reason, dry_run } = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::LockSet, about(&subject))?
            .dry_run(dry_run)
            .change(
                move |state| {
                    let reason = slice::reason(&reason)?;
                    Ok(find(state, &subject)?.map(|(resource, subject)| (resource, (subject, reason))))
                },
                |scene, (subject, reason)| {
                    let lock = Lock { subject, by: scene.person()?.clone(), at: scene.now, reason };
                    let (detail, value) = (json!({ "reason": lock.reason }), whole(&lock));
                    Ok(Decided { detail, ..Decided::new(lock::set(scene.state, lock)?, value) })
                },
            )
            .await
    }

    async fn lift_lock(&self, request: Request<v1::LiftLockRequest>) -> Result<Response<v1::Lock>, Status> {
        let v1::LiftLockRequest { subject, reason, dry_run } = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::LockLift, about(&subject))?
            .dry_run(dry_run)
            .change(
                move |state| {
                    let reason = slice::reason(&reason)?;
                    Ok(find(state, &subject)?.map(|(resource, subject)| {
                        let level = level(&resource);
                        (resource, (subject, level, reason))
                    }))
                },
                |scene, (subject, level, reason)| {
                    let approvals = approvals(&scene.pack, level.as_deref());
                    let changes = lock::lift(scene.state, &subject, scene.person()?, approvals)?;
                    let value = scene.state.locks.get(&subject).map(whole).unwrap_or_default();
                    Ok(Decided { detail: json!({ "reason": reason }), ..Decided::new(changes, value) })
                },
            )
            .await
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Result<Response<v1::ListLocksResponse>, Status> {
        let about = About { resource: "locks".to_owned(), ..About::system() };
        Asked::new(&self.0, request.extensions(), Action::LockRead, about)?
            .read(
                |_| Ok(Some((Resource::System, ()))),
                |scene, ()| {
                    Ok(v1::ListLocksResponse { locks: scene.state.locks.values().map(whole).collect() })
                },
            )
            .await
    }
}

/// With the reason, for who sets it, lifts it or may list it.
fn whole(lock: &Lock) -> v1::Lock {
    v1::Lock { reason: lock.reason.clone(), ..view::lock(lock) }
}

/// What somebody named, before it is looked up.
fn about(subject: &str) -> About {
    match *subject.split('/').collect::<Vec<_>>() {
        ["person", name] => About::person(name),
        ["project", name] => About::project(name),
        ["keys", project] => {
            About { resource: format!("keys/project/{}", shown(project)), ..About::project(project) }
        }
        ["slice", project, name] => {
            slice::about(&v1::SliceRef { project: project.to_owned(), name: name.to_owned() })
        }
        ["device", host, address] => host::about(host, address),
        _ => About { resource: shown(subject), ..About::system() },
    }
}

/// What somebody named, for the pack and for the handler. A device as it is typed: by the part that tells it from
/// others.
fn find(seen: &Seen<'_>, subject: &str) -> Result<Option<(Resource, Subject)>, Refusal> {
    let state = seen.state;
    if let ["device", host, address] = *subject.split('/').collect::<Vec<_>>() {
        let address = parsed(address)?;
        let Some((resource, host)) = host::find(state, host)? else { return Ok(None) };
        let device = host::find_device(state, &host.name, address)?;
        return Ok(Some((resource, Subject::Device(host.name, device.address))));
    }
    let subject: Subject = parsed(subject)?;
    let resource = match &subject {
        Subject::Person(name) => {
            state.people.get(name).map(|p| Resource::Person { name: p.name.clone(), roles: p.roles.clone() })
        }
        Subject::Project(name) | Subject::Keys(name) => {
            project::find(seen, name.as_str())?.map(|(resource, _)| resource)
        }
        Subject::Slice(project, name) => {
            let wanted = v1::SliceRef { project: project.to_string(), name: name.to_string() };
            slice::find(seen, &wanted)?.map(|(resource, _)| resource)
        }
        Subject::Device(host, _) => host::find(state, host.as_str())?.map(|(resource, _)| resource),
    };
    Ok(resource.map(|resource| (resource, subject)))
}

fn level(resource: &Resource) -> Option<String> {
    match resource {
        Resource::Project { level, .. } | Resource::Slice { level, .. } => Some(level.clone()),
        Resource::System | Resource::Log | Resource::Host { .. } | Resource::Person { .. } => None,
    }
}

/// How many officers it takes: what has no level, one; at a level that is not known, one is not enough.
fn approvals(pack: &Pack, level: Option<&str>) -> u32 {
    level.map_or(1, |level| pack.level(level).map_or(u32::MAX, |level| level.approvals))
}
