//! Locks, for officers. What each bites on is in `domain::lock`.

use super::{About, Asked, Seen, host, parsed, project, shown, slice, view};
use crate::app::App;
use crate::domain::lock::{self, Subject};
use crate::domain::records::Lock;
use crate::domain::{Refusal, State};
use crate::ledger::Decided;
use holm_policies::{Action, Pack, Resource};
use holm_proto::ids::TypedPciAddress;
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
                    Ok(find(state, &subject)?.map(|resource| (resource, (subject, reason))))
                },
                |scene, (subject, reason)| {
                    let subject = named(scene.state, &subject)?;
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
                    Ok(find(state, &subject)?.map(|resource| {
                        let levels = levels(state, &resource);
                        (resource, (subject, levels, reason))
                    }))
                },
                |scene, (subject, levels, reason)| {
                    let subject = named(scene.state, &subject)?;
                    let approvals = approvals(&scene.pack, &levels);
                    let changes = lock::lift(scene.state, &subject, scene.person()?, approvals, scene.now)?;
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

/// What somebody named, for the pack.
fn find(seen: &Seen<'_>, subject: &str) -> Result<Option<Resource>, Refusal> {
    let state = seen.state;
    if let ["device", host, address] = *subject.split('/').collect::<Vec<_>>() {
        parsed::<TypedPciAddress>(address)?;
        return Ok(host::find(state, host)?.map(|(resource, _)| resource));
    }
    Ok(match parsed(subject)? {
        Subject::Person(name) => {
            state.people.get(&name).map(|p| Resource::Person { name: p.name.clone(), roles: p.roles.clone() })
        }
        Subject::Project(name) | Subject::Keys(name) => {
            project::find(seen, name.as_str())?.map(|(resource, _)| resource)
        }
        Subject::Slice(project, name) => {
            let wanted = v1::SliceRef { project: project.to_string(), name: name.to_string() };
            slice::find(seen, &wanted)?.map(|(resource, _)| resource)
        }
        Subject::Device(host, _) => host::find(state, host.as_str())?.map(|(resource, _)| resource),
    })
}

/// The same for who may do it. A device as it is typed, by the part that tells it from others: which there are is not for
/// everybody to know.
fn named(state: &State, subject: &str) -> Result<Subject, Refusal> {
    if let ["device", host, address] = *subject.split('/').collect::<Vec<_>>() {
        let Some((_, host)) = host::find(state, host)? else { return parsed(subject) };
        let device = host::find_device(state, &host.name, parsed(address)?)?;
        return Ok(Subject::Device(host.name, device.address));
    }
    parsed(subject)
}

/// Those it has, and of a project those that its slices kept when it was lowered.
fn levels(state: &State, resource: &Resource) -> Vec<String> {
    match resource {
        Resource::Project { name, level, .. } => {
            let id = state.project(name).map(|p| p.id);
            let living = state.slices.values().filter(|s| Some(s.project) == id && !s.state.is_final());
            living.map(|s| s.level.clone()).chain([level.clone()]).collect()
        }
        Resource::Slice { level, .. } => vec![level.clone()],
        Resource::System | Resource::Log | Resource::Host { .. } | Resource::Person { .. } => Vec::new(),
    }
}

/// How many officers it takes: what has no level, one; at a level that is not known, one is not enough.
fn approvals(pack: &Pack, levels: &[String]) -> u32 {
    levels.iter().map(|level| pack.level(level).map_or(u32::MAX, |level| level.approvals)).max().unwrap_or(1)
}
