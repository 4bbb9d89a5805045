//! Projects.

use super::{Session, registration};
use crate::args::ProjectVerb;
use crate::{Failure, view};
use holm_proto::v1::{
    AddDataSetRequest, AddMemberRequest, DataSet, DecideDeclassificationRequest, DeclassifyRequest,
    FileProjectRequest, Filed, GetProjectRequest, HoldProjectRequest, Project, RemoveMemberRequest,
    SetQuotaRequest, WithdrawDeclassificationRequest,
};
use serde_json::json;

pub(super) async fn run(session: &Session, verb: ProjectVerb) -> Result<(), Failure> {
    if let ProjectVerb::Form { level } = &verb {
        return crate::output::put(&registration::form(level));
    }
    let mut client = session.projects().await?;
    let output = &session.output;
    match verb {
        ProjectVerb::List => {
            let all = session.all_projects(&mut client).await?;
            let current = session.place.memory()?.project;
            let json = all.iter().map(view::project_json).collect::<Vec<_>>();
            output.list(&view::projects(&all, current.as_deref(), &session.clock), &json!(json))
        }
        ProjectVerb::Show { name } => {
            let project = session.ask(client.get_project(GetProjectRequest { name })).await?;
            output.sheet(&view::project(&project, &session.clock), &view::project_json(&project))
        }
        ProjectVerb::Create(args) => {
            let (request, answers) = registration::request(session, *args).await?;
            let dry_run = request.dry_run;
            let created = session.ask(client.create_project(request)).await;
            let project = created.map_err(|failure| match answers.as_ref().and_then(registration::keep) {
                Some(file) => failure.hint(format!(
                    "what you answered is in {file}: mend it, and: holm project create --file {file}"
                )),
                None => failure,
            })?;
            shown(session, &project, dry_run)
        }
        // Done above, without a connection.
        ProjectVerb::Form { .. } => Ok(()),
        ProjectVerb::File { name, filing, dry_run } => {
            let registration = Some(registration::registration(session, *filing)?);
            let request = FileProjectRequest { project: name, registration, dry_run };
            let project = session.ask(client.file_project(request)).await?;
            shown(session, &project, dry_run)
        }
        ProjectVerb::AddData { project, name, owner, level, dry_run } => {
            let data_set = Some(DataSet { name, owner, level });
            let project =
                session.ask(client.add_data_set(AddDataSetRequest { project, data_set, dry_run })).await?;
            shown(session, &project, dry_run)
        }
        ProjectVerb::Declassify {
            project,
            to,
            data_set,
            reason,
            withdraw,
            approve,
            comment,
            dry_run,
            ..
        } => {
            let project = match to {
                Some(level) => {
                    let (data_set, reason) = (data_set.unwrap_or_default(), reason.unwrap_or_default());
                    let request = DeclassifyRequest { project, data_set, level, reason, dry_run };
                    session.ask(client.declassify(request)).await?
                }
                None if withdraw => {
                    let request = WithdrawDeclassificationRequest { project };
                    session.ask(client.withdraw_declassification(request)).await?
                }
                None => {
                    let request = DecideDeclassificationRequest { project, approve, comment, dry_run };
                    session.ask(client.decide_declassification(request)).await?
                }
            };
            if dry_run {
                output.remark("nothing was changed; this is what would be:");
            }
            output.sheet(&view::project(&project, &session.clock), &view::project_json(&project))
        }
        ProjectVerb::Record { name } => {
            let record = session.ask(client.get_processing_record(GetProjectRequest { name })).await?;
            output.sheet(&view::record(&record, &session.clock), &view::record_json(&record))
        }
        ProjectVerb::Register => {
            let all = session.all_projects(&mut client).await?;
            let json = all.iter().map(|p| view::entry_json(p, &session.clock)).collect::<Vec<_>>();
            output.list(&view::register(&all, &session.clock), &json!(json))
        }
        ProjectVerb::AddMember {
            project,
            person,
            external_agreement,
            agreement_expires,
            read_only,
            read_write,
        } => {
            let expires = agreement_expires.as_deref().map(|text| session.when(text)).transpose()?;
            let external_agreement = external_agreement.map(|reference| Filed { reference, expires });
            let read_only = (read_only || read_write).then_some(read_only);
            let request = AddMemberRequest { project, person: person.clone(), external_agreement, read_only };
            let project = session.ask(client.add_member(request)).await?;
            let sentence = format!("{person} is a member of {}: {}", project.name, view::members(&project));
            output.done(&sentence, &view::project_json(&project))
        }
        ProjectVerb::RemoveMember { project, person, dry_run } => {
            let request = RemoveMemberRequest { project, person: person.clone(), dry_run };
            let project = session.ask(client.remove_member(request)).await?;
            let sentence =
                format!("{person} is no member of {} any more: {}", project.name, view::members(&project));
            output.done(&afterwards(dry_run, sentence), &view::project_json(&project))
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

/// A project after it was registered, or has filed something; and what is to be done next.
fn shown(session: &Session, project: &Project, dry_run: bool) -> Result<(), Failure> {
    let output = &session.output;
    if dry_run {
        output.remark("nothing was changed; this is what would be registered:");
    }
    output.sheet(&view::project(project, &session.clock), &view::project_json(project))?;
    match &project.missing[..] {
        _ if dry_run => Ok(()),
        [] => output.next(&format!("holm slice request {}/main --gpus N", project.name)),
        _ => output.next(&format!("holm project file {} …   (--help says how)", project.name)),
    }
}

/// What was done, or would be.
pub(super) fn afterwards(dry_run: bool, sentence: String) -> String {
    if dry_run { format!("nothing was changed; afterwards: {sentence}") } else { sentence }
}
