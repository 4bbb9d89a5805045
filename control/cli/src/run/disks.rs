//! Disks that change while they stay: begun here, done by the slice's host.

use super::project::afterwards;
use super::{Session, watch};
use crate::args::{How, Sizes, Target};
use crate::progress::Spinner;
use crate::{Exit, Failure, view};
use holm_proto::v1::{DecideSliceRequest, GrowSliceRequest, Slice, SliceRef, SliceState};

pub(super) async fn grow(
    session: &Session,
    target: &Target,
    sizes: &Sizes,
    how: &How,
) -> Result<u8, Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let mut client = session.slices().await?;
    let request = GrowSliceRequest {
        slice: Some(wanted.clone()),
        disk_gib: sizes.disk,
        home_gib: sizes.home,
        scratch_gib: sizes.scratch,
        dry_run: how.dry_run,
    };
    let slice = session.ask(client.grow_slice(request)).await?;
    let label = view::label(&slice);
    let sentence = match (view::state(&slice), &slice.disk_change) {
        (SliceState::Stopped, _) => format!("the disks of {label} are larger when it is started"),
        (_, Some(_)) => format!("the disks of {label} become larger while it runs"),
        (_, None) => format!("/raid of {label} is larger from its next start on"),
    };
    begun(session, wanted, &slice, how, sentence, "larger").await
}

pub(super) async fn rekey(session: &Session, target: &Target, how: &How) -> Result<u8, Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let mut client = session.slices().await?;
    let request =
        DecideSliceRequest { slice: Some(wanted.clone()), dry_run: how.dry_run, ..Default::default() };
    let slice = session.ask(client.rekey_slice(request)).await?;
    let label = view::label(&slice);
    let sentence = format!(
        "the disks of {label} get other keys, and those that they have are destroyed: backups of before open no more"
    );
    begun(session, wanted, &slice, how, sentence, "under other keys").await
}

pub(super) async fn reencrypt(session: &Session, target: &Target, how: &How) -> Result<u8, Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let mut client = session.slices().await?;
    let request =
        DecideSliceRequest { slice: Some(wanted.clone()), dry_run: how.dry_run, ..Default::default() };
    let slice = session.ask(client.reencrypt_slice(request)).await?;
    let label = view::label(&slice);
    if !how.wait || how.dry_run {
        let sentence = format!("{label}: its host writes its disks anew, under other data keys");
        return not_waited_for(session, &slice, how, sentence, &format!("holm slice show {label}"));
    }
    let spinner = Spinner::new(&session.output);
    let last = watch::follow(session, &wanted, None, &spinner, |now| Ok(now.job.is_none())).await?;
    drop(spinner);
    let (well, sentence) = match &last.reencrypted {
        Some(tried) if tried.passed => (true, format!("{label}: {}", tried.detail)),
        Some(tried) => (false, format!("{label}: not all of its disks are encrypted anew: {}", tried.detail)),
        None => (false, format!("{label}: it was given up")),
    };
    session.output.done(&sentence, &view::slice_json(&last))?;
    Ok(if well { 0 } else { Exit::Refused.code() })
}

/// Says that it was begun, or would be, and where to look for its end.
pub(super) fn not_waited_for(
    session: &Session,
    slice: &Slice,
    how: &How,
    sentence: String,
    next: &str,
) -> Result<u8, Failure> {
    session.output.done(&afterwards(how.dry_run, sentence), &view::slice_json(slice))?;
    if !how.dry_run {
        session.output.next(next)?;
    }
    Ok(0)
}

/// Says that it was begun, or how it ended. What waits for the next start is not waited for.
async fn begun(
    session: &Session,
    wanted: SliceRef,
    slice: &Slice,
    how: &How,
    sentence: String,
    now_they_are: &str,
) -> Result<u8, Failure> {
    let label = view::label(slice);
    let runs = view::state(slice) != SliceState::Stopped;
    if !how.wait || how.dry_run || slice.disk_change.is_none() || !runs {
        return not_waited_for(session, slice, how, sentence, &format!("holm slice show {label}"));
    }
    let spinner = Spinner::new(&session.output);
    let over = |now: &Slice| now.disk_change.as_ref().is_none_or(|change| !change.note.is_empty());
    let last = watch::follow(session, &wanted, None, &spinner, |now| Ok(over(now))).await?;
    drop(spinner);
    let json = view::slice_json(&last);
    let (well, sentence) = match &last.disk_change {
        Some(change) => (false, format!("the disks of {label} are not {now_they_are} yet: {}", change.note)),
        None if last.reason.is_empty() => (true, format!("the disks of {label} are {now_they_are}")),
        None => (false, format!("{label}: {}", last.reason)),
    };
    session.output.done(&sentence, &json)?;
    Ok(if well { 0 } else { Exit::Refused.code() })
}
