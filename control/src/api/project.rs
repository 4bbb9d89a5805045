//! Projects.

use super::{About, Asked, Scene, Seen, declassify, page, parsed, register, slice, view};
use crate::app::App;
use crate::domain::project::Membership;
use crate::domain::records::{Change, Hold, Project, Record};
use crate::domain::register::Registration;
use crate::domain::{self, Refusal, RefusalKind, project, quota};
use crate::identity::Caller;
use crate::ledger::Decided;
use holm_policies::{Action, Resource};
use holm_proto::ids::{Name, ProjectId};
use holm_proto::v1;
use holm_proto::v1::project_service_server::ProjectService;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct Projects(pub Arc<App>);

#[tonic::async_trait]
impl ProjectService for Projects {
    async fn create_project(
        &self,
        request: Request<v1::CreateProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let message = request.get_ref().clone();
        let asked =
            Asked::new(&self.0, request.extensions(), Action::ProjectCreate, About::project(&message.name))?
                .dry_run(message.dry_run);
        let caller = asked.caller.clone();
        asked
            .change(
                move |_| {
                    let name: Name = parsed(&message.name)?;
                    // Whoever registers it leads it; of a host the pack says what it says.
                    let (Caller::Person(lead) | Caller::Host(lead)) = caller;
                    let resource = new(&name, &lead, &message.level);
                    Ok(Some((resource, (name, message))))
                },
                |scene, (name, message)| {
                    let lead = scene.person()?.clone();
                    let level = scene.pack.level(&message.level).ok_or_else(|| {
                        Refusal::new(
                            RefusalKind::Invalid,
                            format!("`{}` is no level", super::shown(&message.level)),
                        )
                    })?;
                    let department =
                        department(&scene.app.config.placement.departments, &message.department)?;
                    let made = Project {
                        id: ProjectId::new_v4(),
                        name,
                        level: level.id.clone(),
                        level_name: level.name.clone(),
                        purpose: message.purpose,
                        lead: lead.clone(),
                        members: vec![lead],
                        readers: BTreeSet::new(),
                        created: scene.now,
                        pack: scene.pack.id().to_owned(),
                        department,
                        hold: None,
                        disk_gib: None,
                        registration: Registration::default(),
                        agreements: BTreeMap::new(),
                        warned: Vec::new(),
                        data_sets: Vec::new(),
                        ended: None,
                        declassification: None,
                    };
                    let filed = register::wanted(message.registration.unwrap_or_default())?;
                    let made = domain::register::file(&made, filed, scene.now)?;
                    decided(scene, project::create(scene.state, made)?)
                },
            )
            .await
    }

    async fn get_project(
        &self,
        request: Request<v1::GetProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let name = request.get_ref().name.clone();
        Asked::new(&self.0, request.extensions(), Action::ProjectRead, About::project(&name))?
            .read(
                move |state| find(state, &name),
                |scene, project| Ok(view::project(&scene.seen(), &project)),
            )
            .await
    }

    async fn list_projects(
        &self,
        request: Request<v1::ListProjectsRequest>,
    ) -> Result<Response<v1::ListProjectsResponse>, Status> {
        let message = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::ProjectRead, About::system())?
            .list(move |scene, may| {
                let (now, after) = (scene.seen(), page::after::<Name>(&message.page_token)?);
                let mut left: Vec<&Project> = scene.state.projects.values().collect();
                left.retain(|p| after.as_ref().is_none_or(|after| p.name > *after));
                left.sort_by(|a, b| a.name.cmp(&b.name));
                let seen =
                    left.into_iter().filter(|p| may(Action::ProjectRead, view::project_resource(&now, p)));
                let (projects, last) = page::fill(message.page_size, seen, |p| view::project(&now, p));
                let next_page_token = last.map(|p| p.name.to_string()).unwrap_or_default();
                Ok(v1::ListProjectsResponse { projects, next_page_token })
            })
            .await
    }

    async fn add_member(
        &self,
        request: Request<v1::AddMemberRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let message = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::ProjectAddMember, About::project(&message.project))?
            .change(
                move |state| {
                    let person: Name = parsed(&message.person)?;
                    let found = find(state, &message.project)?;
                    let agreement = message.external_agreement.map(register::paper).transpose()?;
                    let how = Membership { read_only: message.read_only, agreement };
                    Ok(found.map(|(resource, project)| (resource, (project, person, how))))
                },
                |scene, (project, person, how)| {
                    let Membership { read_only, agreement } = &how;
                    let detail =
                        serde_json::json!({ "person": person, "agreement": agreement, "read_only": read_only });
                    let changes = project::add_member(scene.state, &project, &person, how, scene.now)?;
                    Ok(Decided { detail, ..decided(scene, changes)? })
                },
            )
            .await
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let message = request.get_ref().clone();
        let about = About::project(&message.project);
        Asked::new(&self.0, request.extensions(), Action::ProjectRemoveMember, about)?
            .dry_run(message.dry_run)
            .change(
                move |state| {
                    let person: Name = parsed(&message.person)?;
                    let found = find(state, &message.project)?;
                    Ok(found.map(|(resource, project)| (resource, (project, person))))
                },
                |scene, (project, person)| {
                    let detail = serde_json::json!({ "person": person });
                    let changes = project::remove_member(scene.state, &project, &person)?;
                    Ok(Decided { detail, ..decided(scene, changes)? })
                },
            )
            .await
    }

    async fn file_project(
        &self,
        request: Request<v1::FileProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        let v1::FileProjectRequest { project: name, registration, dry_run } = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::ProjectFile, About::project(&name))?
            .dry_run(dry_run)
            .change(
                move |state| {
                    let wanted = register::wanted(registration.unwrap_or_default())?;
                    Ok(find(state, &name)?.map(|(resource, project)| (resource, (project, wanted))))
                },
                |scene, (project, wanted)| {
                    if wanted.is_empty() {
                        let help =
                            format!("holm project show {}, and: holm project file --help", project.name);
                        return Err(Refusal::new(RefusalKind::Invalid, "nothing is named to file").hint(help));
                    }
                    let detail = serde_json::json!({ "filed": wanted.named() });
                    let filed = domain::register::file(&project, wanted, scene.now)?;
                    let changes = vec![Change::Put(Record::Project(filed))];
                    Ok(Decided { detail, ..decided(scene, changes)? })
                },
            )
            .await
    }

    async fn add_data_set(
        &self,
        request: Request<v1::AddDataSetRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        declassify::add(&self.0, request).await
    }

    async fn declassify(
        &self,
        request: Request<v1::DeclassifyRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        declassify::ask(&self.0, request).await
    }

    async fn withdraw_declassification(
        &self,
        request: Request<v1::WithdrawDeclassificationRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        declassify::withdraw(&self.0, request).await
    }

    async fn decide_declassification(
        &self,
        request: Request<v1::DecideDeclassificationRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        declassify::decide(&self.0, request).await
    }

    async fn get_processing_record(
        &self,
        request: Request<v1::GetProjectRequest>,
    ) -> Result<Response<v1::ProcessingRecord>, Status> {
        let name = request.get_ref().name.clone();
        Asked::new(&self.0, request.extensions(), Action::ProjectRecord, About::project(&name))?
            .read(move |state| find(state, &name), |scene, project| register::record(&scene.seen(), &project))
            .await
    }

    async fn hold_project(
        &self,
        request: Request<v1::HoldProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        self.decide(request, Action::HoldSet, |scene, project, reason| {
            let by = scene.person()?.clone();
            project::hold(project, Hold { by, at: scene.now, reason: reason.to_owned() })
        })
        .await
    }

    async fn release_project(
        &self,
        request: Request<v1::HoldProjectRequest>,
    ) -> Result<Response<v1::Project>, Status> {
        self.decide(request, Action::HoldLift, |_, project, _| project::lift(project)).await
    }

    async fn set_quota(&self, request: Request<v1::SetQuotaRequest>) -> Result<Response<v1::Quota>, Status> {
        let v1::SetQuotaRequest { project: name, disk_gib, dry_run } = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::ProjectQuota, About::project(&name))?
            .dry_run(dry_run)
            .change(
                move |state| find(state, &name),
                move |scene, project| {
                    let changes = quota::set(&project, disk_gib)?;
                    let next = Project { disk_gib, ..project };
                    let value = view::quota(scene.app, scene.state, &next);
                    let detail = serde_json::json!({ "disk_gib": disk_gib });
                    Ok(Decided { detail, ..Decided::new(changes, value) })
                },
            )
            .await
    }
}

impl Projects {
    /// What an officer does to a project, with her reason in the log.
    async fn decide(
        &self,
        request: Request<v1::HoldProjectRequest>,
        action: Action,
        decide: fn(&Scene<'_>, &Project, &str) -> Result<Vec<Change>, Refusal>,
    ) -> Result<Response<v1::Project>, Status> {
        let message = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), action, About::project(&message.project))?
            .dry_run(message.dry_run)
            .change(
                move |state| {
                    let reason = slice::reason(&message.reason)?;
                    let found = find(state, &message.project)?;
                    Ok(found.map(|(resource, project)| (resource, (project, reason))))
                },
                move |scene, (project, reason)| {
                    let mut decided = decided(scene, decide(scene, &project, &reason)?)?;
                    decided.detail = serde_json::json!({ "reason": reason });
                    Ok(decided)
                },
            )
            .await
    }
}

/// A project that is to be registered, as the pack sees it.
fn new(name: &Name, lead: &Name, level: &str) -> Resource {
    Resource::Project {
        name: name.clone(),
        level: level.to_owned(),
        lead: lead.clone(),
        members: vec![lead.clone()],
        readers: Vec::new(),
        held_by: Vec::new(),
        missing: Vec::new(),
        lapsed: Vec::new(),
    }
}

/// One that this lead would register at a level, to ask what the pack would say.
pub(super) fn registered(lead: &Name, level: &str) -> Result<Resource, Refusal> {
    Ok(new(&parsed("new-project")?, lead, level))
}

/// The project of that name, for the pack and for the handler.
pub(super) fn find(state: &Seen<'_>, name: &str) -> Result<Option<(Resource, Project)>, Refusal> {
    let name: Name = parsed(name)?;
    Ok(state.project(&name).map(|p| (view::project_resource(state, p), p.clone())))
}

/// The department as it is listed. A new one for each project would be charged for nothing.
fn department(listed: &[String], named: &str) -> Result<String, Refusal> {
    let named = named.trim();
    if named.is_empty() || listed.iter().any(|d| d == named) {
        return Ok(named.to_owned());
    }
    let (text, next) = match listed {
        [] => ("no departments are listed here".to_owned(), "leave --department out"),
        listed => (
            format!("`{}` is no department: there is {}", super::shown(named), listed.join(", ")),
            "name one of them, or leave --department out",
        ),
    };
    let ask = "an operator lists departments in holmd.toml: [placement] departments";
    Err(Refusal::new(RefusalKind::Invalid, text).hint(format!("{next}; {ask}")))
}

pub(super) fn decided(scene: &Scene<'_>, changes: Vec<Change>) -> Result<Decided<v1::Project>, Refusal> {
    let value = changes.iter().find_map(|change| match change {
        Change::Put(Record::Project(p)) => Some(view::project(&scene.seen(), p)),
        _ => None,
    });
    let value = value.ok_or_else(|| Refusal::new(RefusalKind::Unavailable, "no project was written"))?;
    Ok(Decided::new(changes, value))
}

#[cfg(test)]
mod tests {
    use super::department;

    #[test]
    fn a_department_is_one_of_the_list_or_none() {
        let listed = ["health".to_owned(), "arts and letters".to_owned()];
        assert_eq!(department(&listed, " health ").unwrap(), "health");
        assert_eq!(department(&listed, "").unwrap(), "");
        let refusal = department(&listed, "heal\u{1b}th").unwrap_err();
        let text = "`heal\\u{1b}th` is no department: there is health, arts and letters";
        assert_eq!(refusal.to_string(), text);
        assert!(refusal.hint.contains("holmd.toml"));
    }
}
