//! Backups of slices: made, tried, restored, listed. What is asked for here is done by the slice's host.

use super::slice::{about, decided, find};
use super::view::time;
use super::{About, Asked, Scene, parsed, view};
use crate::app::App;
use crate::domain::backup::{self, Backup, Wish};
use crate::domain::records::{Change, Slice};
use crate::domain::{Refusal, RefusalKind, State};
use holm_policies::Action;
use holm_proto::ids::{BackupId, JobId};
use holm_proto::v1;
use holm_proto::v1::backup_service_server::BackupService;
use newtype_uuid::GenericUuid;
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct BackupKeeping(pub Arc<App>);

impl BackupKeeping {
    /// Begins something with the slice's disks or backups.
    pub(super) async fn begin<M>(
        &self,
        request: &Request<M>,
        action: Action,
        (wanted, dry_run): (Option<v1::SliceRef>, bool),
        act: impl FnOnce(&Scene<'_>, &Slice, &Wish) -> Result<Vec<Change>, Refusal> + Send + 'static,
    ) -> Result<Response<v1::Slice>, Status> {
        let wanted = wanted.unwrap_or_default();
        let asked = Asked::new(&self.0, request.extensions(), action, about(&wanted))?;
        let again = asked.clone();
        asked
            .dry_run(dry_run)
            .change(
                move |state| find(state, &wanted),
                move |scene, slice| {
                    let wish = Wish { job: JobId::new_v4(), by: scene.person()?.clone(), now: scene.now };
                    let changes = act(scene, &slice, &wish)?;
                    let mut decided = decided(scene, &again, changes)?;
                    let job = decided.value.job.as_ref();
                    let backup = job.map(|job| job.backup_id.as_str()).filter(|id| !id.is_empty());
                    // Of one that needs no backup it says what it is: its action is rekeying's.
                    let kind = if backup.is_none() { "reencrypt" } else { "job" };
                    decided.detail = json!({ kind: wish.job.into_untyped_uuid(), "backup": backup });
                    Ok(decided)
                },
            )
            .await
    }
}

#[tonic::async_trait]
impl BackupService for BackupKeeping {
    async fn back_up_slice(
        &self,
        request: Request<v1::BackUpSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        self.begin(&request, Action::SliceBackup, (message.slice, message.dry_run), |scene, slice, wish| {
            let keep = scene.app.config.backup.keep;
            backup::back_up(scene.state, slice, BackupId::new_v4(), keep, wish)
        })
        .await
    }

    async fn restore_slice(
        &self,
        request: Request<v1::RestoreSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let target = (message.slice, message.dry_run);
        self.begin(&request, Action::SliceRestore, target, move |scene, slice, wish| {
            backup::restore(scene.state, slice, id(&message.backup_id)?, wish)
        })
        .await
    }

    async fn drill_slice(
        &self,
        request: Request<v1::DrillSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let target = (message.slice, message.dry_run);
        self.begin(&request, Action::SliceDrill, target, move |scene, slice, wish| {
            let named = Some(message.backup_id.as_str()).filter(|text| !text.is_empty());
            backup::drill(scene.state, slice, named.map(id).transpose()?, wish)
        })
        .await
    }

    async fn list_backups(
        &self,
        request: Request<v1::ListBackupsRequest>,
    ) -> Result<Response<v1::ListBackupsResponse>, Status> {
        let Some(wanted) = request.get_ref().slice.clone() else {
            return Asked::new(&self.0, request.extensions(), Action::SliceRead, About::system())?
                .list(|scene, may| {
                    let (state, now) = (scene.state, scene.seen());
                    let seen =
                        |s: &&Slice| view::slice_resource(&now, s).is_some_and(|r| may(Action::SliceRead, r));
                    let all = state.slices.values().filter(seen).flat_map(|s| backups(state, s));
                    Ok(answer(all.collect()))
                })
                .await;
        };
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceRead, about(&wanted))?;
        asked
            .read(
                move |state| find(state, &wanted),
                |scene, slice| Ok(answer(backups(scene.state, &slice).collect())),
            )
            .await
    }
}

fn id(text: &str) -> Result<BackupId, Refusal> {
    parsed(text).map_err(|_: Refusal| {
        let text = format!("`{}` is no id of a backup", super::shown(text));
        Refusal::new(RefusalKind::Invalid, text).hint("holm backup list, which has them whole")
    })
}

fn answer(mut backups: Vec<v1::Backup>) -> v1::ListBackupsResponse {
    backups.sort_by_key(|b| b.begun.map(|t| (t.seconds, t.nanos)));
    v1::ListBackupsResponse { backups }
}

/// Those of a slice that is not gone: with it they are.
fn backups<'a>(state: &'a State, s: &'a Slice) -> impl Iterator<Item = v1::Backup> + use<'a> {
    s.copies.backups.iter().filter(|_| !s.state.is_final()).map(|b| shown(state, s, b))
}

fn shown(state: &State, s: &Slice, b: &Backup) -> v1::Backup {
    let under_way = s.copies.job.as_ref().filter(|job| job.backup == b.id);
    let made = b.made.as_ref();
    v1::Backup {
        id: b.id.into_untyped_uuid().to_string(),
        project: state.projects.get(&s.project).map(|p| p.name.to_string()).unwrap_or_default(),
        slice: s.name.to_string(),
        host: b.host.to_string(),
        by: b.by.to_string(),
        begun: Some(time(b.begun)),
        made: made.map(|made| time(made.at)),
        bytes: made.map_or(0, |made| made.bytes),
        stored_bytes: made.map_or(0, |made| made.stored_bytes),
        sha256: made.map(|made| made.sha256.clone()).unwrap_or_default(),
        reason: match under_way {
            Some(job) => job.kind.text().to_owned(),
            None => b.lacks(s).or_else(|| b.lost(s).map(str::to_owned)).unwrap_or_default(),
        },
        drill: b.drill.as_ref().map(tried),
        restore: b.restore.as_ref().map(tried),
    }
}

pub(super) fn tried(tried: &backup::Tried) -> v1::Tried {
    v1::Tried {
        at: Some(time(tried.at)),
        passed: tried.passed,
        detail: tried.detail.clone(),
        by: tried.by.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}
