//! Projects.

use super::Session;
use crate::args::ProjectVerb;
use crate::{Failure, view};
use holm_proto::v1::{
    AddMemberRequest, CreateProjectRequest, GetProjectRequest, HoldProjectRequest, ListProjectsRequest,
    SetQuotaRequest,
};
use serde_json::json;

pub(super) async fn run(session: &Session, verb: ProjectVerb) -> Result<(), Failure> {
    let mut client = session.projects().await?;
    let output = &session.output;
    match verb {
        ProjectVerb::List => {
            let all = session.ask(client.list_projects(ListProjectsRequest {})).await?.projects;
            let current = session.place.memory()?.project;
            let json = all.iter().map(view::project_json).collect::<Vec<_>>();
            output.list(&view::projects(&all, current.as_deref(), &session.clock), &json!(json))
        }
        ProjectVerb::Show { name } => {
            let project = session.ask(client.get_project(GetProjectRequest { name })).await?;
            output.sheet(&view::project(&project, &session.clock), &view::project_json(&project))
        }
        ProjectVerb::Create { name, level, purpose, department, dry_run } => {
            let request = CreateProjectRequest { name, level, purpose, dry_run, department };
            let project = session.ask(client.create_project(request)).await?;
            if dry_run {
                output.remark("nothing was changed; this is what would be registered:");
            }
            output.sheet(&view::project(&project, &session.clock), &view::project_json(&project))?;
            if dry_run {
                Ok(())
            } else {
                output.next(&format!("holm slice request {}/main --gpus N", project.name))
            }
        }
        ProjectVerb::AddMember { project, person } => {
            let request = AddMemberRequest { project, person: person.clone() };
            let project = session.ask(client.add_member(request)).await?;
            let sentence =
                format!("{person} is a member of {}: {}", project.name, project.members.join(", "));
            output.done(&sentence, &view::project_json(&project))
        }
        ProjectVerb::Hold { name, reason, dry_run } => {
            let request = HoldProjectRequest { project: name, reason, dry_run };
            let project = session.ask(client.hold_project(request)).await?;
            let sentence =
                format!("{} is on hold: no key and no disk of its slices is destroyed", project.name);
            output.done(&afterwards(dry_run, sentence), &view::project_json(&project))
        }
        ProjectVerb::Release { name, reason, dry_run } => {
            let request = HoldProjectRequest { project: name, reason, dry_run };
            let project = session.ask(client.release_project(request)).await?;
            let sentence = format!("{} is on hold no more: what is closed is destroyed", project.name);
            output.done(&afterwards(dry_run, sentence), &view::project_json(&project))
        }
        ProjectVerb::Quota { project, disk_gib, default: _, dry_run } => {
            let quota = session.ask(client.set_quota(SetQuotaRequest { project, disk_gib, dry_run })).await?;
            let sentence = format!("disks of {}: {}", quota.project, view::quota(&quota));
            output.done(&afterwards(dry_run, sentence), &view::quota_json(&quota))
        }
        ProjectVerb::Switch { name } => {
            // One that is not there, or not to be seen, is not remembered.
            let project = session.ask(client.get_project(GetProjectRequest { name })).await?;
            let mut memory = session.place.memory()?;
            memory.project = Some(project.name.clone());
            session.place.remember(&memory)?;
            output.done(&format!("the current project is {}", project.name), &view::project_json(&project))
        }
    }
}

/// What was done, or would be.
pub(super) fn afterwards(dry_run: bool, sentence: String) -> String {
    if dry_run { format!("nothing was changed; afterwards: {sentence}") } else { sentence }
}
