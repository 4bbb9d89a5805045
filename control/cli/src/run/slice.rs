//! Slices: what is asked and answered at once.

use super::pin::alarm;
use super::project::afterwards;
use super::{Session, backup, copy, disks, queue as jobs, recordings, ssh, ssh_config, tunnel, watch};
use crate::args::{Request, Size, SliceVerb, Target};
use crate::dial::Calls;
use crate::output::{Format, put};
use crate::{Failure, view};
use holm_control::audit::note;
use holm_proto::v1::slice_service_client::SliceServiceClient;
use holm_proto::v1::{
    DecideSliceRequest, GetProjectRequest, HoldSliceRequest, ListQueueRequest, RequestSliceRequest,
    ResizeSliceRequest, Slice, SliceState, StartSliceRequest,
};
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

pub(super) async fn run(session: &Session, verb: SliceVerb) -> Result<u8, Failure> {
    match verb {
        SliceVerb::List { project } => list(session, project.unwrap_or_default()).await?,
        SliceVerb::Show(target) => {
            let slice = get(session, &target).await?;
            session.output.sheet(&view::slice(&slice, &session.clock), &view::slice_json(&slice))?;
        }
        SliceVerb::Request(request) => ask_for(session, request).await?,
        SliceVerb::Approve { target, comment, id, dry_run } => {
            let id = id.unwrap_or_default();
            let asked = DecideSliceRequest { comment, id, dry_run, ..Default::default() };
            decide(session, Verb::Approve, &target, asked).await?;
        }
        SliceVerb::Reject { target, comment, id, dry_run } => {
            let id = id.unwrap_or_default();
            let asked = DecideSliceRequest { comment, id, dry_run, ..Default::default() };
            decide(session, Verb::Reject, &target, asked).await?;
        }
        SliceVerb::Review(target) => review(session, &target).await?,
        SliceVerb::Extend { target, comment, dry_run } => {
            decide(session, Verb::Extend, &target, plain(comment, dry_run)).await?;
        }
        SliceVerb::Withdraw { target, dry_run } => {
            decide(session, Verb::Withdraw, &target, plain(String::new(), dry_run)).await?;
        }
        SliceVerb::Close { target, yes, dry_run } => {
            if !yes && !dry_run {
                let wanted = session.slice(&target.slice, &target.project)?;
                let label = format!("{}/{}", wanted.project, wanted.name);
                let lost = format!("Everything in {label} will be gone for good.");
                confirm(&label, &lost, "close", &format!("holm slice close {label} --yes"))?;
            }
            decide(session, Verb::Close, &target, plain(String::new(), dry_run)).await?;
        }
        SliceVerb::Stop { target, dry_run } => {
            decide(session, Verb::Stop, &target, plain(String::new(), dry_run)).await?;
        }
        SliceVerb::Drain(args) => return jobs::drain(session, &args).await,
        SliceVerb::Scheduler(args) => jobs::scheduler(session, args).await?,
        SliceVerb::Usage(args) => jobs::usage(session, &args).await?,
        SliceVerb::Start { target, rebuild, yes, dry_run } => {
            let wanted = session.slice(&target.slice, &target.project)?;
            if rebuild && !yes && !dry_run {
                let label = format!("{}/{}", wanted.project, wanted.name);
                let gone = format!(
                    "What is on the root disk of {label} will be gone for good, /home and /project stay"
                );
                confirm(&label, &gone, "rebuild", &format!("holm slice start {label} --rebuild --yes"))?;
            }
            let mut client = session.slices().await?;
            let request = StartSliceRequest { slice: Some(wanted), rebuild, dry_run };
            let slice = session.ask(client.start_slice(request)).await?;
            let (label, host) = (view::label(&slice), &slice.host);
            let with = if rebuild { ", and gets a new root disk there" } else { "" };
            let gpus = view::plural(slice.gpus.into(), "GPU");
            let sentence = format!("{label} waits for {gpus} on {host}, where its disk is{with}");
            told(session, &slice, sentence, dry_run)?;
        }
        SliceVerb::SshConfig(target) => return ssh_config::print(session, &target).map(|()| 0),
        SliceVerb::SshCert(target) => return ssh_config::renew(session, &target).await.map(|()| 0),
        SliceVerb::Resize { target, size, comment, dry_run } => {
            resize(session, &target, &size, comment, dry_run).await?;
            return Ok(0);
        }
        SliceVerb::Grow { target, sizes, how } => return disks::grow(session, &target, &sizes, &how).await,
        SliceVerb::Reencrypt { target, how } => return disks::reencrypt(session, &target, &how).await,
        SliceVerb::Rekey { target, how } => return disks::rekey(session, &target, &how).await,
        SliceVerb::Backup(args) => return backup::back_up(session, args).await,
        SliceVerb::Restore(args) => return backup::restore(session, args).await,
        SliceVerb::Hold { target, reason, freeze, dry_run } => {
            let wanted = session.slice(&target.slice, &target.project)?;
            let mut client = session.slices().await?;
            let request = HoldSliceRequest { slice: Some(wanted), reason, freeze, dry_run };
            let slice = session.ask(client.hold_slice(request)).await?;
            let label = view::label(&slice);
            let what = if freeze {
                "its machine is stopped, and its key and disk stay"
            } else {
                "its key and disk stay"
            };
            let sentence = afterwards(dry_run, format!("{label} is on hold: {what}"));
            session.output.done(&sentence, &view::slice_json(&slice))?;
        }
        SliceVerb::Release { target, reason, dry_run } => {
            decide(session, Verb::Release, &target, plain(reason, dry_run)).await?;
        }
        SliceVerb::Watch { target, timeout } => return watch::run(session, &target, timeout).await,
        SliceVerb::Explain(target) => {
            let wanted = session.slice(&target.slice, &target.project)?;
            let mut client = session.slices().await?;
            let said = session.ask(client.explain_slice(wanted)).await?;
            session.output.sheet(&view::explained(&said, &session.clock), &view::explained_json(&said))?;
            next(session, &said.slice.unwrap_or_default())?;
        }
        SliceVerb::Certificate { target, out, html } => {
            certificate(session, &target, out.as_deref(), html.as_deref()).await?;
        }
        SliceVerb::Ssh(args) => return ssh::run(session, args).await,
        SliceVerb::Recordings(args) => return recordings::run(session, args).await,
        SliceVerb::Tunnel { target, recordings } => tunnel::run(session, &target, recordings).await?,
        SliceVerb::Copy(args) => return copy::run(session, args).await,
    }
    Ok(0)
}

async fn list(session: &Session, project: String) -> Result<(), Failure> {
    let all = session.all_slices(&mut session.slices().await?, &project).await?;
    let json = all.iter().map(view::slice_json).collect::<Vec<_>>();
    session.output.list(&view::slices(&all, &session.clock), &json!(json))
}

pub(super) async fn queue(session: &Session) -> Result<(), Failure> {
    let mut client = session.slices().await?;
    let all = session.ask(client.list_queue(ListQueueRequest {})).await?.entries;
    let json = all.iter().map(view::queue_json).collect::<Vec<_>>();
    session.output.list(&view::queue(&all, &session.clock), &json!(json))
}

async fn get(session: &Session, target: &Target) -> Result<Slice, Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let mut client = session.slices().await?;
    session.ask(client.get_slice(wanted)).await
}

async fn ask_for(session: &Session, request: Request) -> Result<(), Failure> {
    let wanted = session.slice(&request.target.slice, &request.target.project)?;
    let mut client = session.slices().await?;
    // Nought lets the site's rule decide.
    let message = RequestSliceRequest {
        project: wanted.project,
        name: wanted.name,
        gpus: request.gpus,
        vcpus: request.vcpus.unwrap_or(0),
        memory_mib: request.memory.or(request.memory_mib).unwrap_or(0),
        disk_gib: request.disk.unwrap_or(0),
        home_gib: request.home,
        scratch_gib: request.scratch,
        dry_run: request.dry_run,
        from: request.from.as_deref().map(|text| session.when(text)).transpose()?,
        until: request.until.as_deref().map(|text| session.when(text)).transpose()?,
    };
    let slice = session.ask(client.request_slice(message)).await?;
    if request.dry_run {
        session.output.remark("nothing was changed; this is what would be asked for:");
    }
    session.output.sheet(&view::slice(&slice, &session.clock), &view::slice_json(&slice))?;
    if request.dry_run { Ok(()) } else { next(session, &slice) }
}

async fn review(session: &Session, target: &Target) -> Result<(), Failure> {
    let slice = get(session, target).await?;
    let project = GetProjectRequest { name: slice.project.clone() };
    let project = session.ask(session.projects().await?.get_project(project)).await?;
    let all = session.all_slices(&mut session.slices().await?, &slice.project).await?;
    let (_, pack) = super::policy::in_force(session).await?;
    session.output.sheet(
        &view::review(&slice, &project, &all, &pack, &session.clock),
        &view::review_json(&slice, view::project_json(&project), &all, &pack),
    )?;
    let label = view::label(&slice);
    match slice.may.iter().any(|action| action == "slice.approve") {
        true => {
            let id = match &slice.extension {
                Some(asked) => asked.id.as_str(),
                None => slice.id.get(..8).unwrap_or(&slice.id),
            };
            session.output.next(&format!("holm slice approve {label} --id {id} --comment TEXT"))?;
            session.output.next(&format!("holm slice reject {label} --id {id} --comment TEXT"))
        }
        false => Ok(()),
    }
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Approve,
    Reject,
    Withdraw,
    Extend,
    Close,
    Stop,
    Release,
}

fn plain(comment: String, dry_run: bool) -> DecideSliceRequest {
    DecideSliceRequest { comment, dry_run, ..Default::default() }
}

async fn decide(
    session: &Session,
    verb: Verb,
    target: &Target,
    asked: DecideSliceRequest,
) -> Result<(), Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let mut client = session.slices().await?;
    let dry_run = asked.dry_run;
    let request = DecideSliceRequest { slice: Some(wanted), ..asked };
    let slice = session.ask(call(&mut client, verb, request)).await?;
    let word = view::word(view::state(&slice));
    let label = view::label(&slice);
    let sentence = match verb {
        Verb::Approve if slice.extension.is_some() => {
            format!("{label} asks for {}, and that needs one more approval", view::asks_for(&slice))
        }
        Verb::Approve if !matches!(view::state(&slice), SliceState::Requested | SliceState::Approved) => {
            format!("{label}: what it asked for is approved, and {}", view::sizes(&slice))
        }
        Verb::Approve => format!("{label} is {word}; approvals {}", view::approvals(&slice)),
        Verb::Extend => format!("{label} asks for more time, and officers must approve that"),
        Verb::Reject | Verb::Withdraw => format!("{label} is {word}"),
        Verb::Close if view::state(&slice) == SliceState::Closing => {
            format!("{label} is {word}: its machine, key and disk go, its devices are cleaned")
        }
        Verb::Close => {
            format!(
                "{label} is closed: its machine goes, its devices are cleaned, its key and disk stay: {}",
                slice.reason
            )
        }
        Verb::Stop => {
            format!("{label} is {word}: its machine goes, its devices are cleaned, its key and disk stay")
        }
        Verb::Release if slice.closed.is_some() => {
            format!("{label} is on hold no more: its key and disk go, unless something else keeps them")
        }
        Verb::Release => format!("{label} is on hold no more"),
    };
    told(session, &slice, sentence, dry_run)
}

async fn resize(
    session: &Session,
    target: &Target,
    size: &Size,
    comment: String,
    dry_run: bool,
) -> Result<(), Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let (gpus, vcpus, memory_mib) = (size.gpus, size.vcpus, size.memory);
    let request = ResizeSliceRequest { slice: Some(wanted), gpus, vcpus, memory_mib, comment, dry_run };
    let slice = session.ask(session.slices().await?.resize_slice(request)).await?;
    let label = view::label(&slice);
    let sentence = match slice.extension.as_ref().and_then(|asked| asked.size) {
        Some(size) => format!("{label} asks for {}, and officers must approve that", view::size(&size)),
        None => format!("{label}: {}", view::sizes(&slice)),
    };
    told(session, &slice, sentence, dry_run)
}

/// What was done, and what comes next.
fn told(session: &Session, slice: &Slice, sentence: String, dry_run: bool) -> Result<(), Failure> {
    session.output.done(&afterwards(dry_run, sentence), &view::slice_json(slice))?;
    if dry_run { Ok(()) } else { next(session, slice) }
}

async fn call(
    client: &mut SliceServiceClient<Calls>,
    verb: Verb,
    request: DecideSliceRequest,
) -> Result<tonic::Response<Slice>, tonic::Status> {
    match verb {
        Verb::Approve => client.approve_slice(request).await,
        Verb::Reject => client.reject_slice(request).await,
        Verb::Withdraw => client.withdraw_slice(request).await,
        Verb::Extend => client.extend_slice(request).await,
        Verb::Close => client.close_slice(request).await,
        Verb::Stop => client.stop_slice(request).await,
        Verb::Release => client.release_slice(request).await,
    }
}

fn next(session: &Session, slice: &Slice) -> Result<(), Failure> {
    view::next_command(slice).map_or(Ok(()), |next| session.output.next(&next))
}

/// What is lost does not come back, so the slice's name is typed, or `--yes` is.
pub(super) fn confirm(label: &str, lost: &str, verb: &str, again: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Failure::usage(format!("{}, and nobody is here to ask", lost.trim_end_matches('.'))).hint(again)
        );
    }
    let failed = |e: std::io::Error| Failure::new(format!("cannot ask: {e}"));
    let mut typed = String::new();
    let mut err = std::io::stderr().lock();
    write!(err, "{} Type its name to {verb} it: ", crate::text::plain(lost)).map_err(failed)?;
    err.flush().map_err(failed)?;
    std::io::stdin().lock().read_line(&mut typed).map_err(failed)?;
    if typed.trim() == label { Ok(()) } else { Err(Failure::new("nothing was done: that is another name")) }
}

async fn certificate(
    session: &Session,
    target: &Target,
    out: Option<&Path>,
    html: Option<&Path>,
) -> Result<(), Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let mut client = session.slices().await?;
    let certificate = session.ask(client.get_certificate(wanted)).await?;
    let note = &certificate.note;
    let known = session.place.pin()?.map(|pin| pin.key);
    if let Some(key) = &known {
        note::verify(note, key)
            .map_err(|e| alarm(format!("the deletion certificate is not to be believed: {e}")))?;
    }
    let json = json!({ "body": certificate.body, "note": note });
    let mut files: Vec<(&Path, String)> = Vec::new();
    if let Some(file) = out {
        files.push((file, note.clone()));
    }
    if let Some(file) = html {
        files.push((file, view::page(note).map_err(unknown)?));
    }
    let mut written = Vec::new();
    for (file, text) in files {
        std::fs::write(file, text).map_err(|e| Failure::file("write", file, &e))?;
        written.push(file.display().to_string());
    }
    if let Some(last) = written.last() {
        session.output.done(&format!("the deletion certificate is in {}", written.join(" and ")), &json)?;
        let key = if known.is_some() { "" } else { " --key KEY   (KEY: an officer has it)" };
        return session.output.next(&format!("holm certificate verify {last}{key}"));
    }
    match session.output.format {
        Format::Json => session.output.document(&json),
        // Byte by byte what was signed, but never what a terminal would obey.
        _ if std::io::stdout().is_terminal() => put(&crate::text::plain_lines(note)),
        _ => put(note),
    }
}

fn unknown(_: view::NotADeletion) -> Failure {
    Failure::new("holmd sent a certificate that this holm does not know")
        .hint("use the holm of holmd's version")
}
