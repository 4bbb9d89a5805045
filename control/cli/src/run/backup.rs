//! Backups: begun here, done by the slice's host.

use super::{Session, disks, slice, watch};
use crate::args::{BackUp, BackupVerb, How, Restore, Target, VolumeVerb};
use crate::dial::Calls;
use crate::progress::Spinner;
use crate::{Exit, Failure, view};
use holm_proto::MAX_MESSAGE_BYTES;
use holm_proto::v1::backup_service_client::BackupServiceClient;
use holm_proto::v1::{
    BackUpSliceRequest, Backup, DrillSliceRequest, ListBackupsRequest, RestoreSliceRequest, Slice, SliceRef,
    SliceState,
};
use serde_json::json;

type Client = BackupServiceClient<Calls>;

async fn client(session: &Session) -> Result<Client, Failure> {
    Ok(BackupServiceClient::new(session.connect().await?).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

pub(super) async fn run(session: &Session, verb: BackupVerb) -> Result<(), Failure> {
    let BackupVerb::List { slice, project } = verb;
    let wanted = slice.map(|name| session.slice(&name, &project)).transpose()?;
    let all = list(session, &mut client(session).await?, wanted).await?;
    let json: Vec<_> = all.iter().map(view::backup_json).collect();
    session.output.list(&view::backups(&all, &session.clock), &json!(json))
}

pub(super) async fn volume(session: &Session, verb: VolumeVerb) -> Result<u8, Failure> {
    let VolumeVerb::RestoreDrill { target, backup, how } = verb;
    let wanted = session.slice(&target.slice, &target.project)?;
    let mut client = client(session).await?;
    let request = DrillSliceRequest { slice: Some(wanted.clone()), backup_id: backup, dry_run: how.dry_run };
    let slice = session.ask(client.drill_slice(request)).await?;
    let what = format!("{}: its host tries whether it can be restored", view::label(&slice));
    begun(session, &mut client, wanted, slice, &how, &what).await
}

pub(super) async fn back_up(session: &Session, args: BackUp) -> Result<u8, Failure> {
    let wanted = wanted(session, &args.target)?;
    let mut client = client(session).await?;
    let request = BackUpSliceRequest { slice: Some(wanted.clone()), dry_run: args.how.dry_run };
    let slice = session.ask(client.back_up_slice(request)).await?;
    let what = format!("{}: its host copies its disks", view::label(&slice));
    begun(session, &mut client, wanted, slice, &args.how, &what).await
}

pub(super) async fn restore(session: &Session, args: Restore) -> Result<u8, Failure> {
    let wanted = wanted(session, &args.target)?;
    let label = format!("{}/{}", wanted.project, wanted.name);
    if !args.yes && !args.how.dry_run {
        let again = format!("holm slice restore {label} --backup {} --yes", args.backup);
        let lost = format!("What was written in {label} since that backup will be gone for good.");
        slice::confirm(&label, &lost, "restore", &again)?;
    }
    let mut client = client(session).await?;
    let request = RestoreSliceRequest {
        slice: Some(wanted.clone()),
        backup_id: args.backup,
        dry_run: args.how.dry_run,
    };
    let slice = session.ask(client.restore_slice(request)).await?;
    let what = format!("{label}: its host fetches the backup, and then its disks become what they were");
    begun(session, &mut client, wanted, slice, &args.how, &what).await
}

fn wanted(session: &Session, target: &Target) -> Result<SliceRef, Failure> {
    session.slice(&target.slice, &target.project)
}

async fn list(
    session: &Session,
    client: &mut Client,
    slice: Option<SliceRef>,
) -> Result<Vec<Backup>, Failure> {
    Ok(session.ask(client.list_backups(ListBackupsRequest { slice })).await?.backups)
}

/// Says that it was begun, or how it ended.
async fn begun(
    session: &Session,
    client: &mut Client,
    wanted: SliceRef,
    slice: Slice,
    how: &How,
    what: &str,
) -> Result<u8, Failure> {
    let (label, id) = (view::label(&slice), slice.job.as_ref().map(|job| job.backup_id.clone()));
    if !how.wait {
        let next = format!("holm backup list {label}");
        return disks::not_waited_for(session, &slice, how, what.to_owned(), &next);
    }
    let spinner = Spinner::new(&session.output);
    // Older backups go first: a drill that is asked for next would be refused meanwhile.
    let last = watch::follow(session, &wanted, None, &spinner, |now| Ok(now.job.is_none())).await?;
    drop(spinner);
    if view::state(&last) != SliceState::Stopped {
        let word = view::word(view::state(&last));
        return Err(Failure::new(format!("it was given up: {label} is {word}"))
            .hint(format!("holm slice explain {label}")));
    }
    let all = list(session, client, Some(wanted)).await?;
    let backup = all.into_iter().find(|backup| Some(&backup.id) == id.as_ref()).unwrap_or_default();
    let (well, sentence) = view::outcome(slice.job.as_ref(), &backup);
    session.output.done(&format!("{label}: {sentence}"), &view::backup_json(&backup))?;
    Ok(if well { 0 } else { Exit::Refused.code() })
}
