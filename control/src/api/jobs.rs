//! What an agent says of its jobs, and the keys that are given for one.

use super::agent::{LONG, MANY, SHORT, typed};
use super::plain;
use crate::app::App;
use crate::domain::backup::{self, Told};
use crate::domain::records::Slice;
use crate::domain::{Refusal, RefusalKind, State, slice};
use crate::ledger::{Call, Decided};
use holm_proto::ids::{JobId, Name, RequestId};
use holm_proto::v1;
use newtype_uuid::GenericUuid;
use serde_json::json;
use std::collections::BTreeMap;
use tonic::Status;

/// Checks what an agent says of its jobs.
pub(super) fn read(jobs: &[v1::ObservedJob]) -> Result<BTreeMap<JobId, v1::ObservedJob>, Status> {
    let bad = |text: &str| Status::invalid_argument(text.to_owned());
    if jobs.len() > MANY {
        return Err(bad("a report has too many jobs"));
    }
    let one = |job: &v1::ObservedJob| {
        if job.removed.len() > MANY {
            return Err(bad("a report names too many backups"));
        }
        let id = typed(&job.job_id).ok_or_else(|| bad("a report has a job id that is none"))?;
        let cleaned = v1::ObservedJob {
            reason: plain(&job.reason, LONG),
            method: plain(&job.method, SHORT),
            manifest_sha256: plain(&job.manifest_sha256, 64),
            ..job.clone()
        };
        Ok((id, cleaned))
    };
    jobs.iter().map(one).collect()
}

/// What ended, into the record and the log, each once.
pub(super) fn observe(
    app: &App,
    host: &Name,
    call: &Call,
    jobs: &BTreeMap<JobId, v1::ObservedJob>,
) -> Result<(), Refusal> {
    for (id, job) in jobs {
        let Some(told) = told(*id, job) else { continue };
        let state = app.ledger.state();
        // A look first, without the ledger's lock: it is told until it is listed no more.
        let Some(s) = state.slices.values().find(|s| is_of(s, host, *id)) else { continue };
        let slice = s.id;
        let call = Call {
            request: RequestId::new_v4(),
            resource: format!("slice/{}", state.slice_label(s)),
            project: state.projects.get(&s.project).map(|p| p.name.to_string()),
            ..call.clone()
        };
        let done = app.ledger.commit_if(&call, |state, now| {
            let s = state.slices.get(&slice).filter(|s| is_of(s, host, *id))?;
            let job = s.copies.job.as_ref()?;
            let changes = backup::told(s, &told, JobId::new_v4(), now)?;
            let detail = json!({
                "host": host,
                "job": id.into_untyped_uuid(),
                "kind": job.kind,
                "backup": job.backup.into_untyped_uuid(),
                "failed": told.failed,
                "manifest_sha256": told.sha256,
                "bytes": told.bytes,
                "stored_bytes": told.stored_bytes,
                "looked_at": told.method,
            });
            Some(Decided { detail, ..Decided::new(changes, ()) })
        });
        match done {
            // What cannot be noted of one job keeps nothing else that its host says from being heard.
            Err(refusal) if refusal.kind != RefusalKind::Unavailable => {
                tracing::error!(%host, job = %id.into_untyped_uuid(), "its end cannot be noted: {refusal}");
            }
            done => drop(done?),
        }
    }
    Ok(())
}

fn is_of(s: &Slice, host: &Name, job: JobId) -> bool {
    s.placement.as_ref().is_some_and(|p| &p.host == host)
        && s.copies.job.as_ref().is_some_and(|known| known.id == job)
}

/// `None`: it goes on.
fn told(id: JobId, job: &v1::ObservedJob) -> Option<Told> {
    let failed = match job.phase() {
        v1::JobPhase::Unspecified | v1::JobPhase::Running => return None,
        v1::JobPhase::Done => None,
        v1::JobPhase::Failed if job.reason.is_empty() => Some("its host does not say why".to_owned()),
        v1::JobPhase::Failed => Some(job.reason.clone()),
    };
    Some(Told {
        job: id,
        failed,
        sha256: job.manifest_sha256.clone(),
        bytes: job.total_bytes,
        stored_bytes: job.stored_bytes,
        method: job.method.clone(),
        removed: job.removed.iter().filter_map(|id| typed(id)).collect(),
    })
}

/// The slice of a job whose keys this host may ask for now.
pub(super) fn due(state: &State, host: &Name, wanted: &v1::KeyRequest) -> Result<Slice, Refusal> {
    let none = || Refusal::new(RefusalKind::NotFound, "this host has no such job");
    let job: JobId = typed(&wanted.job_id).ok_or_else(none)?;
    let s = state.slices.values().find(|s| is_of(s, host, job)).ok_or_else(none)?;
    if slice::held(state, s).is_some() {
        return Err(Refusal::new(RefusalKind::State, "it is on hold: its key is given to nobody"));
    }
    let takes = s.copies.job.as_ref().is_some_and(|job| job.kind.takes_keys());
    if !takes || typed(&wanted.slice_id) != Some(s.id) || typed(&wanted.volume_id) != Some(s.volume) {
        return Err(none());
    }
    Ok(s.clone())
}
