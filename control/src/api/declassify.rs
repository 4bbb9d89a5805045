//! What data a project works with, and the lowering of its level.

use super::project::{decided, find};
use super::{About, Asked, Scene, parsed, slice, view};
use crate::app::App;
use crate::domain::declassify::{self, DataSet, Declassification};
use crate::domain::records::{Approval, Change, Project, Record};
use crate::domain::{Refusal, RefusalKind, unapprove};
use crate::ledger::Decided;
use holm_policies::Action;
use holm_proto::ids::Name;
use holm_proto::v1;
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) async fn add(
    app: &Arc<App>,
    request: Request<v1::AddDataSetRequest>,
) -> Result<Response<v1::Project>, Status> {
    let v1::AddDataSetRequest { project, data_set, dry_run } = request.get_ref().clone();
    let set = data_set.unwrap_or_default();
    asked(app, &request, Action::ProjectAddData, &project)?
        .dry_run(dry_run)
        .change(
            move |state| {
                let set = DataSet { name: parsed(&set.name)?, owner: set.owner, level: set.level };
                Ok(find(state, &project)?.map(|(resource, project)| (resource, (project, set))))
            },
            |scene, (project, set)| {
                let detail = json!({ "data_set": set });
                written(scene, declassify::add(&project, set, scene.pack.levels())?, detail)
            },
        )
        .await
}

pub(super) async fn ask(
    app: &Arc<App>,
    request: Request<v1::DeclassifyRequest>,
) -> Result<Response<v1::Project>, Status> {
    let message = request.get_ref().clone();
    asked(app, &request, Action::ProjectDeclassify, &message.project)?
        .dry_run(message.dry_run)
        .change(
            move |state| {
                let data_set = match message.data_set.as_str() {
                    "" => None,
                    name => Some(parsed::<Name>(name)?),
                };
                let reason = reason(&message.reason)?;
                let found = find(state, &message.project)?;
                Ok(found.map(|(resource, project)| (resource, (project, data_set, message.level, reason))))
            },
            |scene, (project, data_set, to, reason)| {
                let by = scene.person()?.clone();
                let mut detail = json!({ "data_set": data_set, "to": to, "reason": reason });
                let wanted =
                    Declassification { data_set, to, reason, by, at: scene.now, approvals: Vec::new() };
                let levels = scene.pack.levels();
                if let (Some(detail), Some(level)) =
                    (detail.as_object_mut(), declassify::leads_to(&project, &wanted, levels))
                {
                    detail.insert("project_from".to_owned(), project.level.clone().into());
                    detail.insert("project_to".to_owned(), level.into());
                }
                written(scene, declassify::ask(&project, wanted, scene.pack.levels())?, detail)
            },
        )
        .await
}

pub(super) async fn withdraw(
    app: &Arc<App>,
    request: Request<v1::WithdrawDeclassificationRequest>,
) -> Result<Response<v1::Project>, Status> {
    let project = request.get_ref().project.clone();
    asked(app, &request, Action::ProjectDeclassify, &project)?
        .change(
            move |state| find(state, &project),
            |scene, project| written(scene, declassify::dismiss(&project)?, json!({ "withdrawn": true })),
        )
        .await
}

pub(super) async fn decide(
    app: &Arc<App>,
    request: Request<v1::DecideDeclassificationRequest>,
) -> Result<Response<v1::Project>, Status> {
    let message = request.get_ref().clone();
    asked(app, &request, Action::ProjectDeclassifyDecide, &message.project)?
        .dry_run(message.dry_run)
        .change(
            move |state| {
                let comment = slice::comment(&message.comment)?;
                let found = find(state, &message.project)?;
                Ok(found.map(|(resource, project)| (resource, (project, message.approve, comment))))
            },
            |scene, (project, approve, comment)| {
                let detail =
                    json!({ "approve": approve, "comment": comment, "of": project.declassification });
                let next = match approve {
                    true => {
                        let approval = Approval { by: scene.person()?.clone(), at: scene.now, comment };
                        let project = unapprove::project(scene.state, &project);
                        declassify::approve(&project, approval, scene.pack.levels())?
                    }
                    false => declassify::dismiss(&project)?,
                };
                written(scene, next, detail)
            },
        )
        .await
}

/// As it crosses the wire.
pub(super) fn shown(seen: &super::Seen<'_>, p: &Project, whole: v1::Project) -> v1::Project {
    let set = |set: &DataSet| v1::DataSet {
        name: set.name.to_string(),
        owner: set.owner.clone(),
        level: set.level.clone(),
    };
    let pending = |d: &Declassification| v1::Declassification {
        data_set: d.data_set.as_ref().map(ToString::to_string).unwrap_or_default(),
        level: d.to.clone(),
        reason: d.reason.clone(),
        by: d.by.to_string(),
        at: Some(view::time(d.at)),
        approvals: d.approvals.iter().map(view::approval).collect(),
        approvals_needed: u32::try_from(declassify::OFFICERS).unwrap_or(u32::MAX),
        project_level: declassify::leads_to(p, d, seen.pack.levels()).unwrap_or_default(),
    };
    v1::Project {
        data_sets: p.data_sets.iter().map(set).collect(),
        declassification: p.declassification.as_ref().map(pending),
        ..whole
    }
}

fn asked<T>(app: &Arc<App>, request: &Request<T>, action: Action, project: &str) -> Result<Asked, Status> {
    Asked::new(app, request.extensions(), action, About::project(project))
}

fn reason(text: &str) -> Result<String, Refusal> {
    let reason = slice::comment(text)?.trim().to_owned();
    match reason.is_empty() {
        true => {
            Err(Refusal::new(RefusalKind::Invalid, "a level is lowered for a reason").hint("--reason TEXT"))
        }
        false => Ok(reason),
    }
}

fn written(
    scene: &Scene<'_>,
    project: Project,
    detail: serde_json::Value,
) -> Result<Decided<v1::Project>, Refusal> {
    let changes = vec![Change::Put(Record::Project(project))];
    Ok(Decided { detail, ..decided(scene, changes)? })
}
