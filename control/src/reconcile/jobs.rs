//! Jobs with the disks and backups of a host's slices, as its agent is told of them.

use crate::app::App;
use crate::domain::backup::{self, JobKind};
use crate::domain::disks::Keyed;
use crate::domain::records::Slice;
use crate::domain::{Refusal, State};
use crate::ledger::{Call, Decided};
use holm_proto::ids::{JobId, Name};
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
    if job.kind == JobKind::Reencrypt {
        let volume = |keyed: Keyed<'_>| v1::JobVolume {
            volume_id: keyed.volume.into_untyped_uuid().to_string(),
            root: keyed.volume == s.volume,
        };
        return Some(v1::IntendedJob {
            job_id: job.id.into_untyped_uuid().to_string(),
            slice_id: s.id.into_untyped_uuid().to_string(),
            kind: kind(job.kind).into(),
            backup_id: job.backup.into_untyped_uuid().to_string(),
            volumes: s.keyed_volumes().map(volume).collect(),
            ..Default::default()
        });
    }
    let of = s.copies.backups.iter().find(|backup| backup.id == job.backup)?;
    let volume = |volume: &backup::Copied| v1::JobVolume {
        volume_id: volume.id.into_untyped_uuid().to_string(),
        root: volume.id == s.volume,
    };
    let opens = |volume: &&backup::Copied| {
        job.kind != JobKind::Restore || of.opening(s).any(|opens| opens.id == volume.id)
    };
    let remove = job.remove.iter().filter(|_| job.kind == JobKind::Remove);
    Some(v1::IntendedJob {
        job_id: job.id.into_untyped_uuid().to_string(),
        slice_id: s.id.into_untyped_uuid().to_string(),
        kind: kind(job.kind).into(),
        backup_id: of.id.into_untyped_uuid().to_string(),
        manifest_sha256: of.made.as_ref().map(|made| made.sha256.clone()).unwrap_or_default(),
        volumes: of.volumes.iter().filter(opens).map(volume).collect(),
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
