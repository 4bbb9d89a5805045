//! Jobs with the disks and backups of a host's slices, as its agent is told of them.

use crate::app::App;
use crate::domain::backup::{self, JobKind};
use crate::domain::records::Slice;
use crate::domain::{Refusal, State};
use crate::ledger::{Call, Decided};
use holm_proto::ids::{JobId, Name, VolumeId};
use holm_proto::v1;
use newtype_uuid::GenericUuid;
use serde_json::json;

/// Every job of this host's slices, but for what a hold or a lock keeps back: the agent, which no longer hears of it,
/// ends it, and begins again when that is lifted.
pub fn intended(state: &State, host: &Name) -> Vec<v1::IntendedJob> {
    let here = |s: &&Slice| s.placement.as_ref().is_some_and(|p| &p.host == host);
    let free = |s: &&Slice| !backup::is_kept_back(state, s);
    state.slices.values().filter(here).filter(free).filter_map(job).collect()
}

fn job(s: &Slice) -> Option<v1::IntendedJob> {
    let job = s.copies.job.as_ref()?;
    let of = s.copies.backups.iter().find(|backup| backup.id == job.backup);
    let opens = |of: &backup::Backup, volume: VolumeId| {
        job.kind != JobKind::Restore || of.opening(s).any(|opens| opens.id == volume)
    };
    let volumes: Vec<VolumeId> = match (job.kind, of) {
        (JobKind::Reencrypt, _) => s.keyed_volumes().map(|keyed| keyed.volume).collect(),
        (_, Some(of)) => of.volumes.iter().map(|copied| copied.id).filter(|id| opens(of, *id)).collect(),
        (_, None) => return None,
    };
    let volume =
        |id: VolumeId| v1::JobVolume { volume_id: id.into_untyped_uuid().to_string(), root: id == s.volume };
    let made = of.and_then(|of| of.made.as_ref());
    let remove = job.remove.iter().filter(|_| job.kind == JobKind::Remove);
    Some(v1::IntendedJob {
        job_id: job.id.into_untyped_uuid().to_string(),
        slice_id: s.id.into_untyped_uuid().to_string(),
        kind: kind(job.kind).into(),
        backup_id: job.backup.into_untyped_uuid().to_string(),
        manifest_sha256: made.map(|made| made.sha256.clone()).unwrap_or_default(),
        volumes: volumes.into_iter().map(volume).collect(),
        remove: remove.map(|id| id.into_untyped_uuid().to_string()).collect(),
    })
}

/// As it crosses the wire.
pub fn kind(kind: JobKind) -> v1::JobKind {
    match kind {
        JobKind::Backup => v1::JobKind::Backup,
        JobKind::Restore => v1::JobKind::Restore,
        JobKind::Drill => v1::JobKind::Drill,
        JobKind::Remove => v1::JobKind::Remove,
        JobKind::Reencrypt => v1::JobKind::Reencrypt,
    }
}

/// The backups of a slice that is being destroyed go, too.
pub fn remove(app: &App, s: &Slice) -> Result<(), Refusal> {
    let (id, job) = (s.id, JobId::new_v4());
    let state = app.ledger.state();
    let mut call = Call::own("backup.remove", format!("slice/{}", state.slice_label(s)));
    call.project = state.projects.get(&s.project).map(|p| p.name.to_string());
    app.ledger.commit_if(&call, |state, now| {
        let s = state.slices.get(&id)?;
        let changes = backup::remove(s, job, now)?;
        let all: Vec<_> = s.copies.backups.iter().map(|backup| backup.id.into_untyped_uuid()).collect();
        Some(Decided { detail: json!({ "backups": all }), ..Decided::new(changes, ()) })
    })?;
    Ok(())
}
