//! Slices.

use super::backup::BackupKeeping;
use super::page::Place;
use super::{
    About, Asked, RECHECK, Scene, Seen, answer, page, parsed, project, queue, shown, status, tunnel, usage,
    view,
};
use crate::app::App;
use crate::domain::backup::Wish;
use crate::domain::disks::{self, Sizes};
use crate::domain::records::{
    Change, Hold, OtherVolume, Project, Record, Size, Slice, SliceState, VolumeKind,
};
use crate::domain::{
    Refusal, RefusalKind, State, backup, days, lease, quota, resize, scheduler, slice, unapprove,
};
use crate::identity::SshReach;
use crate::ledger::Decided;
use crate::{placement, reconcile};
use holm_policies::{Action, Obligation, Pack, Resource};
use holm_proto::ids::{Name, SliceId, TunnelId, VolumeId};
use holm_proto::v1;
use holm_proto::v1::slice_service_server::SliceService;
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status, Streaming};

/// Characters of a comment.
const COMMENT_MAX: usize = 500;
/// Characters of an id that tell it from others.
const ID_MIN: usize = 8;
/// Frames of a stream that wait for the caller.
const AHEAD: usize = 16;

#[derive(Clone)]
pub(super) struct Slices(pub Arc<App>);

/// What an officer or a lead does to a slice: the rule of `domain::slice`.
type Decide = fn(&Scene<'_>, &Slice, &str) -> Result<Vec<Change>, Refusal>;

impl Slices {
    async fn decide(
        &self,
        request: Request<v1::DecideSliceRequest>,
        action: Action,
        decide: Decide,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let wanted = message.slice.unwrap_or_default();
        let asked = Asked::new(&self.0, request.extensions(), action, about(&wanted))?;
        let again = asked.clone();
        asked
            .dry_run(message.dry_run)
            .change(
                move |state| {
                    let comment = match action {
                        Action::HoldSet | Action::HoldLift => reason(&message.comment)?,
                        Action::SliceReject if message.comment.trim().is_empty() => {
                            let text = "say why: its lead reads it, and it is in the log";
                            return Err(Refusal::new(RefusalKind::Invalid, text).hint("--comment TEXT"));
                        }
                        _ => comment(&message.comment)?,
                    };
                    let found = find(state, &wanted)?;
                    Ok(found.map(|(resource, slice)| (resource, (slice, comment))))
                },
                move |scene, (slice, comment)| {
                    looked_at(scene, &slice, action, &message.id)?;
                    let changes = decide(scene, &slice, &comment).map_err(|r| with_hint(scene, &slice, r))?;
                    let mut decided = decided(scene, &again, changes)?;
                    if matches!(action, Action::HoldSet | Action::HoldLift) {
                        decided.detail = json!({ "reason": comment });
                    }
                    Ok(decided)
                },
            )
            .await
    }
}

#[tonic::async_trait]
impl SliceService for Slices {
    type WatchSliceStream = ReceiverStream<Result<v1::Slice, Status>>;
    type ConnectStream = ReceiverStream<Result<v1::ConnectFrame, Status>>;

    async fn request_slice(
        &self,
        request: Request<v1::RequestSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let (project, name) = (shown(&message.project), shown(&message.name));
        let about = About { resource: format!("slice/{project}/{name}"), ..About::project(&message.project) };
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceRequest, about)?;
        let again = asked.clone();
        asked
            .dry_run(message.dry_run)
            .change(
                move |state| {
                    let name: Name = parsed(&message.name)?;
                    let found = project::find(state, &message.project)?;
                    Ok(found.map(|(resource, project)| (resource, (project, name, message))))
                },
                move |scene, (project, name, message)| {
                    let slice = wanted(scene, &project, name, &message)?;
                    keeps_recordings(scene, &slice)?;
                    let site_gib = scene.app.config.defaults.project_disk_gib;
                    quota::demand(scene.state, &project, site_gib, slice.disks_gib())?;
                    if !reconcile::place::reservable(scene.app, scene.state, &slice) {
                        // Whether others have that time is not hers to know.
                        return Err(Refusal::new(RefusalKind::State, "it cannot be promised for that time")
                            .hint("ask for fewer GPUs, for another time, or without --from"));
                    }
                    if reconcile::place::too_many(scene.state, &slice) {
                        let most = reconcile::place::OPEN_MAX;
                        let text = format!(
                            "the project has {most} requests for a time to come already, and may have no more"
                        );
                        return Err(Refusal::new(RefusalKind::State, text).hint(format!(
                            "holm slice list --project {0}, and: holm slice withdraw {0}/NAME",
                            project.name
                        )));
                    }
                    decided(scene, &again, slice::request(scene.state, slice)?)
                },
            )
            .await
    }

    async fn get_slice(&self, request: Request<v1::SliceRef>) -> Result<Response<v1::Slice>, Status> {
        let wanted = request.get_ref().clone();
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceRead, about(&wanted))?;
        let again = asked.clone();
        asked
            .read(
                move |state| find(state, &wanted),
                move |scene, slice| Ok(asked_for(&again, scene.state, &slice)),
            )
            .await
    }

    async fn explain_slice(
        &self,
        request: Request<v1::SliceRef>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let wanted = request.get_ref().clone();
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceRead, about(&wanted))?;
        let again = asked.clone();
        asked
            .read(
                move |state| find(state, &wanted),
                move |scene, slice| Ok(queue::explain(scene, &again, &slice)),
            )
            .await
    }

    async fn list_queue(
        &self,
        request: Request<v1::ListQueueRequest>,
    ) -> Result<Response<v1::ListQueueResponse>, Status> {
        Asked::new(&self.0, request.extensions(), Action::SliceRead, About::system())?.list(queue::list).await
    }

    async fn list_slices(
        &self,
        request: Request<v1::ListSlicesRequest>,
    ) -> Result<Response<v1::ListSlicesResponse>, Status> {
        let v1::ListSlicesRequest { project, page_size, page_token } = request.get_ref().clone();
        let about = if project.is_empty() { About::system() } else { About::project(&project) };
        Asked::new(&self.0, request.extensions(), Action::SliceRead, about)?
            .list(move |scene, may| {
                let only: Option<Name> = if project.is_empty() { None } else { Some(parsed(&project)?) };
                let (state, now) = (scene.state, scene.seen());
                let after = page::after::<Place>(&page_token)?;
                let place = |s: &Slice| Place(s.requested, s.id);
                let of_project = |s: &&Slice| {
                    let name = state.projects.get(&s.project).map(|p| &p.name);
                    only.as_ref().is_none_or(|only| Some(only) == name)
                };
                let seen =
                    |s: &&Slice| view::slice_resource(&now, s).is_some_and(|r| may(Action::SliceRead, r));
                let mut left: Vec<&Slice> = state.slices.values().filter(of_project).collect();
                left.retain(|s| after.is_none_or(|after| place(s) > after));
                left.sort_by_key(|s| place(s));
                let seen = left.into_iter().filter(seen);
                let (slices, last) = page::fill(page_size, seen, |s| view::slice(scene.app, state, s));
                if let Some(only) = only.as_ref().filter(|_| slices.is_empty() && after.is_none()) {
                    let named = state.projects.values().find(|p| p.name == *only);
                    let sees = |p: &Project| may(Action::ProjectRead, view::project_resource(&now, p));
                    if !named.is_some_and(sees) {
                        return Err(About::project(&project).missing);
                    }
                }
                let next_page_token = last.map(|s| place(s).to_string()).unwrap_or_default();
                Ok(v1::ListSlicesResponse { slices, next_page_token })
            })
            .await
    }

    async fn approve_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide = |scene, s, comment| {
            let level = scene.pack.level(&s.level);
            let outside = level.is_some_and(|level| level.obligations.contains(&Obligation::OutsideApprover));
            let demands = slice::Demands {
                approvals: level.map_or(u32::MAX, |level| level.approvals),
                outside: scene.state.projects.get(&s.project).filter(|_| outside),
                lease_days: level.map_or(0, |level| level.lease_days),
            };
            let s = &unapprove::slice(scene.state, s);
            if s.extension.is_some() {
                return lease::approve(s, demands, scene.person()?, comment, scene.now);
            }
            let changes = slice::approve(s, demands, scene.person()?, comment, scene.now)?;
            // Others may have been approved since it was asked for.
            if !reconcile::place::reservable(scene.app, scene.state, s) {
                let label = scene.state.slice_label(s);
                let text = "it cannot be promised any more: what was approved since has that time";
                return Err(Refusal::new(RefusalKind::State, text).hint(format!(
                    "holm slice reject {label} --comment TEXT, and its lead asks for another time"
                )));
            }
            Ok(changes)
        };
        self.decide(request, Action::SliceApprove, decide).await
    }

    async fn reject_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide = |scene, s, comment| match s.extension {
            Some(_) => lease::drop_extension(s, &format!("rejected by {}: {comment}", scene.person()?)),
            None => slice::reject(s, scene.person()?, comment, scene.now),
        };
        self.decide(request, Action::SliceReject, decide).await
    }

    async fn withdraw_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide = |scene, s, _| match s.extension {
            Some(_) => lease::drop_extension(s, ""),
            None => slice::withdraw(s, scene.now),
        };
        self.decide(request, Action::SliceWithdraw, decide).await
    }

    async fn extend_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide = |scene, s, comment| {
            lease::extend(s, scene.person()?, comment, scene.now)
                .map_err(|refusal| asked_already(scene, s, refusal))
        };
        self.decide(request, Action::SliceExtend, decide).await
    }

    async fn close_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide = |scene, s, _| {
            let stops = format!("holm slice hold {} --freeze --reason TEXT", scene.state.slice_label(s));
            let keep = keep_closed(&scene.pack, &s.level)
                .map_err(|refusal| refusal.hint(format!("{stops}, by an officer: nothing is destroyed")))?;
            slice::close(scene.state, s, Some(scene.person()?), keep, scene.now)
        };
        self.decide(request, Action::SliceClose, decide).await
    }

    async fn stop_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide = |scene, s, _| slice::stop(s, scene.person()?, scene.now);
        self.decide(request, Action::SliceStop, decide).await
    }

    async fn start_slice(
        &self,
        request: Request<v1::StartSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        fn begin(scene: &Scene<'_>, s: &Slice, rebuild: Option<VolumeId>) -> Result<Vec<Change>, Refusal> {
            if rebuild.is_some() {
                keeps_recordings(scene, s)?;
            }
            let days = scene.pack.level(&s.level).map_or(0, |level| level.restore_drill_days);
            let changes = slice::start(scene.state, s, rebuild, scene.now)?;
            let Some(why) = backup::drill_due(s, days, scene.now) else { return Ok(changes) };
            let label = scene.state.slice_label(s);
            let next = match s.copies.newest() {
                Some(_) => format!("holm volume restore-drill {label}"),
                None => format!("holm slice backup {label}, then: holm volume restore-drill {label}"),
            };
            Err(Refusal::new(RefusalKind::State, format!("it is not started: {why}")).hint(next))
        }
        let decide: Decide = match request.get_ref().rebuild {
            true => |scene, s, _| begin(scene, s, Some(VolumeId::new_v4())),
            false => |scene, s, _| begin(scene, s, None),
        };
        let action = if request.get_ref().rebuild { Action::SliceRebuild } else { Action::SliceStart };
        let request = request.map(|m| v1::DecideSliceRequest {
            slice: m.slice,
            dry_run: m.dry_run,
            ..Default::default()
        });
        self.decide(request, action, decide).await
    }

    async fn grow_slice(
        &self,
        request: Request<v1::GrowSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let wanted = message.slice.unwrap_or_default();
        let sizes = Sizes { disk: message.disk_gib, home: message.home_gib, scratch: message.scratch_gib };
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceGrow, about(&wanted))?;
        change(asked.dry_run(message.dry_run), wanted, move |scene, asked, slice| {
            let changes = disks::grow(&slice, &sizes, scene.person()?, scene.now)
                .and_then(|changes| has_room(scene, &slice, changes))
                .map_err(|refusal| with_hint(scene, &slice, refusal))?;
            let mut decided = decided(scene, asked, changes)?;
            decided.detail = json!({ "disk_gib": sizes.disk, "home_gib": sizes.home,
                "scratch_gib": sizes.scratch });
            Ok(decided)
        })
        .await
    }

    async fn resize_slice(
        &self,
        request: Request<v1::ResizeSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let wanted = message.slice.clone().unwrap_or_default();
        let mut asked = Asked::new(&self.0, request.extensions(), Action::SliceExtend, about(&wanted))?;
        // For who may, asking for another size is as asking for more time.
        asked.call.action = "slice.resize";
        change(asked.dry_run(message.dry_run), wanted, move |scene, asked, slice| {
            let size = size(scene, &slice, &message)?;
            let comment = comment(&message.comment)?;
            let changes = resize::ask(&slice, size, scene.person()?, &comment, scene.now)
                .map_err(|refusal| asked_already(scene, &slice, refusal))
                .map_err(|refusal| with_hint(scene, &slice, refusal))?;
            let mut decided = decided(scene, asked, changes)?;
            decided.detail = json!({ "gpus": size.gpus, "vcpus": size.vcpus,
                "memory_mib": size.memory_mib, "comment": comment });
            Ok(decided)
        })
        .await
    }

    async fn rekey_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide =
            |scene, s, _| disks::rekey(scene.state, s, VolumeId::new_v4, scene.person()?, scene.now);
        self.decide(request, Action::SliceRekey, decide).await
    }

    async fn reencrypt_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let target = (message.slice, message.dry_run);
        let begin = |scene: &Scene<'_>, s: &Slice, wish: &Wish| backup::reencrypt(scene.state, s, wish);
        BackupKeeping(Arc::clone(&self.0)).begin(&request, Action::SliceRekey, target, begin).await
    }

    async fn set_scheduler(
        &self,
        request: Request<v1::SetSchedulerRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        let wanted = message.slice.unwrap_or_default();
        let edit = scheduler::Edit {
            reset: message.reset,
            remove: message.remove,
            put: message.put,
            first: message.first,
        };
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceSchedule, about(&wanted))?;
        change(asked.dry_run(message.dry_run), wanted, move |scene, asked, slice| {
            let changes = scheduler::edit(&slice, &edit).map_err(|refusal| match refusal.kind {
                RefusalKind::Invalid => {
                    refusal.hint(format!("holm slice scheduler {}", scene.state.slice_label(&slice)))
                }
                _ => with_hint(scene, &slice, refusal),
            })?;
            let mut decided = decided(scene, asked, changes)?;
            let classes = decided.value.classes.iter().map(|class| {
                json!({ "name": class.name, "priority": class.priority, "gpus": class.gpus,
                    "wall_minutes": class.wall_minutes })
            });
            decided.detail = json!({ "classes": classes.collect::<Vec<_>>() });
            Ok(decided)
        })
        .await
    }

    async fn drain_slice(
        &self,
        request: Request<v1::DrainSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let message = request.get_ref().clone();
        // Who has it stopped when none runs must be one who may stop it.
        let action = if message.stop && !message.end { Action::SliceStop } else { Action::SliceDrain };
        let wanted = message.slice.unwrap_or_default();
        let asked = Asked::new(&self.0, request.extensions(), action, about(&wanted))?;
        change(asked.dry_run(message.dry_run), wanted, move |scene, asked, slice| {
            let changes = match message.end {
                true => scheduler::end_drain(&slice),
                false => scheduler::drain(&slice, scene.person()?, message.stop, scene.now),
            };
            let changes = changes.map_err(|refusal| with_hint(scene, &slice, refusal))?;
            let mut decided = decided(scene, asked, changes)?;
            decided.detail = json!({ "drain": { "end": message.end, "stop": message.stop } });
            Ok(decided)
        })
        .await
    }

    async fn get_usage(&self, request: Request<v1::GetUsageRequest>) -> Result<Response<v1::Usage>, Status> {
        let message = request.get_ref().clone();
        let wanted = message.slice.clone().unwrap_or_default();
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceRead, about(&wanted))?;
        let again = asked.clone();
        asked
            .read(
                move |state| find(state, &wanted),
                move |scene, slice| {
                    let shown = asked_for(&again, scene.state, &slice);
                    Ok(usage::of(scene, &slice, shown, usage::span(&message, scene.now)?))
                },
            )
            .await
    }

    async fn list_usage(
        &self,
        request: Request<v1::ListUsageRequest>,
    ) -> Result<Response<v1::ListUsageResponse>, Status> {
        let message = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::SliceRead, About::system())?
            .list(move |scene, may| {
                let months = usage::months(&message, scene.now)?;
                let (state, seen) = (scene.state, scene.seen());
                let reads =
                    |s: &&Slice| view::slice_resource(&seen, s).is_some_and(|r| may(Action::SliceRead, r));
                let rows = state.slices.values().filter(reads);
                let rows = rows.flat_map(|s| usage::rows(scene.app, state, s, &months, scene.now));
                Ok(v1::ListUsageResponse { rows: rows.collect() })
            })
            .await
    }

    async fn hold_slice(
        &self,
        request: Request<v1::HoldSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        fn set(scene: &Scene<'_>, s: &Slice, reason: &str, freeze: bool) -> Result<Vec<Change>, Refusal> {
            let by = scene.person()?.clone();
            slice::hold(s, Hold { by, at: scene.now, reason: reason.to_owned() }, freeze)
        }
        let decide: Decide = match request.get_ref().freeze {
            true => |scene, s, reason| set(scene, s, reason, true),
            false => |scene, s, reason| set(scene, s, reason, false),
        };
        let request = request.map(|m| v1::DecideSliceRequest {
            slice: m.slice,
            comment: m.reason,
            dry_run: m.dry_run,
            ..Default::default()
        });
        self.decide(request, Action::HoldSet, decide).await
    }

    async fn release_slice(
        &self,
        request: Request<v1::DecideSliceRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let decide: Decide = |scene, s, _| {
            slice::lift(s).map_err(|refusal| match slice::held(scene.state, s) {
                Some((_, true)) => refusal.hint(format!(
                    "its whole project is: holm project release {} --reason TEXT",
                    scene.state.projects.get(&s.project).map(|p| p.name.to_string()).unwrap_or_default()
                )),
                _ => refusal,
            })
        };
        self.decide(request, Action::HoldLift, decide).await
    }

    async fn watch_slice(
        &self,
        request: Request<v1::SliceRef>,
    ) -> Result<Response<Self::WatchSliceStream>, Status> {
        let wanted = request.get_ref().clone();
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceWatch, about(&wanted))?;
        let first = asked.clone().read(move |state| find(state, &wanted), |_, slice| Ok(slice.id)).await?;
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::spawn(watch(asked, *first.get_ref(), send));
        Ok(first.map(|_| ReceiverStream::new(receive)))
    }

    async fn get_certificate(
        &self,
        request: Request<v1::SliceRef>,
    ) -> Result<Response<v1::DeletionCertificate>, Status> {
        let wanted = request.get_ref().clone();
        let asked = Asked::new(&self.0, request.extensions(), Action::SliceCertificate, about(&wanted))?;
        let again = asked.clone();
        asked
            .read(
                move |state| {
                    // A new slice of the same name does not hide the certificate of the old one.
                    let Some((_, current)) = find(state, &wanted)? else { return Ok(None) };
                    let namesake = |s: &&Slice| s.project == current.project && s.name == current.name;
                    let ended = state.slices.values().filter(namesake).filter(|s| s.certificate.is_some());
                    let slice = ended.max_by_key(|s| s.changed).unwrap_or(&current);
                    Ok(view::slice_resource(state, slice).map(|r| (r, slice.clone())))
                },
                move |scene, slice| match &slice.certificate {
                    Some(c) => Ok(v1::DeletionCertificate { body: c.body.clone(), note: c.note.clone() }),
                    None => {
                        let label = scene.state.slice_label(&slice);
                        let text = format!("`{label}` is {}: it is not destroyed", slice.state.text());
                        let closes = if may(&again, Action::SliceClose, scene.state, &slice) {
                            format!("holm slice close {label}")
                        } else {
                            "its lead closes it".to_owned()
                        };
                        let next =
                            format!("{closes}, and when it is destroyed: holm slice certificate {label}");
                        Err(Refusal::new(RefusalKind::State, text).hint(next))
                    }
                },
            )
            .await
    }

    async fn sign_ssh_key(
        &self,
        request: Request<v1::SignSshKeyRequest>,
    ) -> Result<Response<v1::SshCertificate>, Status> {
        let message = request.get_ref().clone();
        let wanted = message.slice.unwrap_or_default();
        let why = message.recordings_reason;
        let action = if why.is_empty() { Action::SliceConnect } else { Action::SliceRecordings };
        Asked::new(&self.0, request.extensions(), action, about(&wanted))?
            .change(
                move |state| find(state, &wanted),
                move |scene, slice| {
                    let plays = action == Action::SliceRecordings;
                    let why = match plays {
                        true => are_recorded(scene, &slice).and_then(|()| reason(&why))?,
                        false => String::new(),
                    };
                    let guest = ready(scene, &slice)?;
                    if let Some(host) = simulated(scene.state, &slice) {
                        let label = scene.state.slice_label(&slice);
                        let text = format!(
                            "`{label}` is on a simulated host, `{host}`: there is no machine to log in to"
                        );
                        return Err(Refusal::new(RefusalKind::State, text));
                    }
                    let person = scene.person()?;
                    // By the pack in force, whatever it was when the machine started.
                    let demands = |obligation| scene.pack.demands(&slice.level, obligation);
                    let reach = if plays {
                        SshReach::Recordings
                    } else if demands(Obligation::RecordedTerminals) {
                        SshReach::Recorded
                    } else if demands(Obligation::TerminalOnly) {
                        SshReach::Terminal
                    } else {
                        SshReach::Whole
                    };
                    let signed = scene
                        .app
                        .authority
                        .ssh_certificate(&message.public_key, person, scene.request, scene.now, reach)
                        .map_err(|e| Refusal::new(RefusalKind::Invalid, e.to_string()))?;
                    let mut detail = json!({
                        "ssh_certificate": signed.serial.to_string(),
                        "expires": signed.expires,
                        "terminal_only": reach != SshReach::Whole,
                    });
                    if let Some(fields) = detail.as_object_mut() {
                        if matches!(reach, SshReach::Recorded | SshReach::Recordings) {
                            fields.insert("recorded".to_owned(), true.into());
                        }
                        if plays {
                            fields.insert("reason".to_owned(), why.into());
                        }
                    }
                    let value = v1::SshCertificate {
                        certificate: signed.text,
                        user: signed.account,
                        host_key: guest,
                        expires: Some(view::time(signed.expires)),
                    };
                    Ok(Decided { detail, ..Decided::new(Vec::new(), value) })
                },
            )
            .await
    }

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectFrame>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (_, extensions, mut frames) = request.into_parts();
        let first = tunnel::first(&mut frames).await?;
        let wanted = first.slice.clone().unwrap_or_default();
        let tunnel = TunnelId::new_v4();
        let action = if first.recordings { Action::SliceRecordings } else { Action::SliceConnect };
        let (asked, id, host) = self.may_connect(&extensions, action, wanted, tunnel).await?;
        let end = match tunnel::open(&self.0, &host, id, tunnel).await {
            Ok(end) => end,
            Err(refusal) => {
                tunnel::closed(&asked, tunnel::Carried::default(), &refusal.to_string()).await;
                return Err(status(&refusal, asked.call.request));
            }
        };
        let (send, receive) = mpsc::channel(AHEAD);
        let request = asked.call.request;
        tokio::spawn(tunnel::carry(asked, id, first.data, frames, end, send));
        answer(Ok(ReceiverStream::new(receive)), request)
    }
}

impl Slices {
    /// Authorised, and in the log, before anything is opened.
    async fn may_connect(
        &self,
        extensions: &Extensions,
        action: Action,
        wanted: v1::SliceRef,
        tunnel: TunnelId,
    ) -> Result<(Asked, SliceId, Name), Status> {
        let asked = Asked::new(&self.0, extensions, action, about(&wanted))?;
        let opened = asked
            .clone()
            .change_each(
                move |state| find(state, &wanted),
                move |scene, slice| {
                    if action == Action::SliceRecordings {
                        are_recorded(scene, &slice)?;
                    }
                    ready(scene, &slice)?;
                    let host = slice.placement.map(|p| p.host);
                    let host = host.ok_or_else(|| Refusal::new(RefusalKind::State, "it is on no host"))?;
                    let detail = json!({ "tunnel": tunnel.into_untyped_uuid() });
                    Ok(Decided { detail, ..Decided::new(Vec::new(), (slice.id, host)) })
                },
            )
            .await?;
        let (id, host) = opened.into_inner();
        Ok((asked, id, host))
    }
}

/// Whether there is anything for an officer to look at.
fn are_recorded(scene: &Scene<'_>, slice: &Slice) -> Result<(), Refusal> {
    let recorded = Obligation::RecordedTerminals;
    if scene.pack.demands(&slice.level, recorded) {
        return Ok(());
    }
    let (label, level) = (scene.state.slice_label(slice), &slice.level);
    let text =
        format!("nothing is recorded in `{label}`: level {level} does not demand `{}`", recorded.text());
    Err(Refusal::new(RefusalKind::State, text).hint("holm audit search tells who was there, and when"))
}

/// Who decides decides on what she has read.
fn looked_at(scene: &Scene<'_>, slice: &Slice, action: Action, id: &str) -> Result<(), Refusal> {
    let label = scene.state.slice_label(slice);
    let this = match &slice.extension {
        Some(asked) => id == view::extension_id(asked),
        None => id.len() >= ID_MIN && slice.id.into_untyped_uuid().to_string().starts_with(id),
    };
    // Another size may be asked for in the place of more time, while she reads.
    let larger = slice.extension.as_ref().is_some_and(|asked| asked.size.is_some());
    if this || id.is_empty() && !(larger && action == Action::SliceApprove) {
        return Ok(());
    }
    if id.is_empty() {
        let text = format!("`{label}` asks for another size: say that it is what you looked at");
        return Err(Refusal::new(RefusalKind::State, text).hint(format!("holm slice review {label}")));
    }
    let text = format!("`{}` is not what is asked of `{label}` now: something else was since", shown(id));
    Err(Refusal::new(RefusalKind::State, text).hint(format!("holm slice review {label}")))
}

/// For how long what is closed at the slice's level is kept. What is not known is not taken for no time at all.
fn keep_closed(pack: &Pack, level: &str) -> Result<SignedDuration, Refusal> {
    let level = pack.level(level).ok_or_else(|| {
        let text =
            format!("level `{level}` is not in {}: how long the disk is to be kept is not known", pack.id());
        Refusal::new(RefusalKind::State, text)
    })?;
    Ok(days(level.keep_closed_days))
}

/// A comment as it is kept: in the record, the certificate and the certificate's note. Six bytes a character there
/// would be too much for one entry.
pub(super) fn comment(text: &str) -> Result<String, Refusal> {
    if text.chars().count() > COMMENT_MAX {
        let text = format!("a comment has at most {COMMENT_MAX} characters");
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// A comment that must say something.
pub(super) fn reason(text: &str) -> Result<String, Refusal> {
    let reason = comment(text)?.trim().to_owned();
    if reason.is_empty() {
        return Err(Refusal::new(RefusalKind::Invalid, "say why: it is in the log").hint("--reason TEXT"));
    }
    Ok(reason)
}

pub(super) fn about(wanted: &v1::SliceRef) -> About {
    let label = format!("{}/{}", shown(&wanted.project), shown(&wanted.name));
    let missing = format!("there is no slice `{label}`");
    About::new(format!("slice/{label}"), Some(&wanted.project), missing, "holm slice list")
}

/// What a call makes of the slice that it is about.
async fn change(
    asked: Asked,
    wanted: v1::SliceRef,
    act: impl FnOnce(&Scene<'_>, &Asked, Slice) -> Result<Decided<v1::Slice>, Refusal> + Send + 'static,
) -> Result<Response<v1::Slice>, Status> {
    let again = asked.clone();
    asked.change(move |state| find(state, &wanted), move |scene, slice| act(scene, &again, slice)).await
}

/// The slice of that name, for the pack and for the handler.
pub(super) fn find(state: &Seen<'_>, wanted: &v1::SliceRef) -> Result<Option<(Resource, Slice)>, Refusal> {
    let (project, name): (Name, Name) = (parsed(&wanted.project)?, parsed(&wanted.name)?);
    let slice = state.project(&project).and_then(|p| state.slice(p.id, &name));
    Ok(slice.and_then(|s| Some((view::slice_resource(state, s)?, s.clone()))))
}

/// So many GPUs make a partition of the fabric.
fn partition(scene: &Scene<'_>, gpus: u32, again: &str) -> Result<(), Refusal> {
    placement::choose(&scene.app.partitions, &BTreeSet::new(), gpus).map(drop).map_err(|refusal| {
        let sizes: Vec<String> = scene.app.partitions.sizes().iter().map(u32::to_string).collect();
        Refusal::new(RefusalKind::Invalid, refusal.to_string())
            .hint(format!("{again} --gpus N   (N is {})", sizes.join(", ")))
    })
}

/// The size asked for; what is not said is as much for each GPU as it has.
fn size(scene: &Scene<'_>, slice: &Slice, message: &v1::ResizeSliceRequest) -> Result<Size, Refusal> {
    let label = scene.state.slice_label(slice);
    let has = slice.size();
    let gpus = message.gpus.unwrap_or(has.gpus);
    partition(scene, gpus, &format!("holm slice resize {label}"))?;
    let each = |all: u64| all.saturating_mul(gpus.into()) / u64::from(has.gpus.max(1));
    Ok(Size {
        gpus,
        vcpus: message.vcpus.unwrap_or(u32::try_from(each(has.vcpus.into()).max(1)).unwrap_or(u32::MAX)),
        memory_mib: message.memory_mib.unwrap_or(each(has.memory_mib)),
    })
}

/// What is asked for already is in the way.
fn asked_already(scene: &Scene<'_>, slice: &Slice, refusal: Refusal) -> Refusal {
    match refusal.kind {
        RefusalKind::Exists => {
            refusal.hint(format!("to take it back: holm slice withdraw {}", scene.state.slice_label(slice)))
        }
        _ => refusal,
    }
}

/// The slice asked for, with the site's rules where the request does not say.
fn wanted(
    scene: &Scene<'_>,
    project: &Project,
    name: Name,
    message: &v1::RequestSliceRequest,
) -> Result<Slice, Refusal> {
    let label = format!("{}/{name}", project.name);
    let requested_by = scene.person()?.clone();
    partition(scene, message.gpus, &format!("holm slice request {label}"))?;
    let level = scene.pack.level(&project.level).ok_or_else(|| {
        Refusal::new(RefusalKind::State, format!("`{}` is no level any more", shown(&project.level)))
    })?;
    let rule = &scene.app.config.defaults;
    let or = |asked: u64, rule: u64| if asked == 0 { rule } else { asked };
    let vcpus = or(message.vcpus.into(), u64::from(rule.vcpus_per_gpu) * u64::from(message.gpus));
    let (from, until) = (instant(message.from.as_ref())?, instant(message.until.as_ref())?);
    // A date alone is its first moment, and today is no slip of the pen.
    if let Some(past) = from.filter(|from| *from < scene.now - jiff::SignedDuration::from_hours(24)) {
        let text = format!("{past} is in the past");
        return Err(
            Refusal::new(RefusalKind::Invalid, text).hint("leave --from out to begin as soon as it fits")
        );
    }
    if let Some(until) = until.filter(|until| *until <= from.unwrap_or(scene.now).max(scene.now)) {
        let text = format!("it would end at {until}, before it begins");
        let hint = "--until must be later than --from and than now; a date alone is its first moment where you are, as in \
                    2026-12-01T08:00";
        return Err(Refusal::new(RefusalKind::Invalid, text).hint(hint));
    }
    Ok(Slice {
        id: SliceId::new_v4(),
        project: project.id,
        name,
        level: level.id.clone(),
        level_name: level.name.clone(),
        gpus: message.gpus,
        vcpus: u32::try_from(vcpus).unwrap_or(u32::MAX),
        memory_mib: or(message.memory_mib, rule.memory_mib_per_gpu.saturating_mul(message.gpus.into())),
        disk_gib: or(message.disk_gib, rule.disk_gib),
        others: others(message, rule),
        state: SliceState::Requested,
        reason: format!("0 of {} approvals", level.approvals.max(1)),
        requested_by,
        requested: scene.now,
        approvals: Vec::new(),
        approvals_needed: level.approvals.max(1),
        placement: None,
        volume: VolumeId::new_v4(),
        key_fingerprint: String::new(),
        key_given: None,
        key_destroyed: None,
        generation: 0,
        changed: scene.now,
        guest: None,
        evidence: Vec::new(),
        detached: None,
        certificate: None,
        closed_by: None,
        closed_at: None,
        hold: None,
        keep_until: None,
        released: None,
        volume_evidence: None,
        // What begins by now is no reservation.
        from: from.filter(|from| *from > scene.now),
        until,
        placed: None,
        used: false,
        worked: false,
        past: Vec::new(),
        key: None,
        retired: Vec::new(),
        change: None,
        spent: Vec::new(),
        lease: None,
        renewed: Vec::new(),
        ended: None,
        extension: None,
        copies: Default::default(),
        scheduler: Vec::new(),
        drain: None,
        enlarged: Vec::new(),
        resized: None,
    })
}

/// Refuses what its host has no room for, or is beyond what its project may have.
fn has_room(scene: &Scene<'_>, slice: &Slice, changes: Vec<Change>) -> Result<Vec<Change>, Refusal> {
    let grown = changes.iter().find_map(|change| match change {
        Change::Put(Record::Slice(s)) => Some(s.disks_gib()),
        _ => None,
    });
    let more = grown.unwrap_or_default().saturating_sub(slice.disks_gib());
    if let Some(project) = scene.state.projects.get(&slice.project) {
        quota::demand(scene.state, project, scene.app.config.defaults.project_disk_gib, more)?;
    }
    match reconcile::place::room_gib(scene.state, slice) {
        Some(room) if more > room => {
            let text = format!("its host has no room for {more} GiB more: {room} GiB are left");
            Err(Refusal::new(RefusalKind::State, text)
                .hint("ask for less, or ask the operators for more disks"))
        }
        _ => Ok(changes),
    }
}

/// Its disks beside the root disk; 0 is none.
fn others(message: &v1::RequestSliceRequest, rule: &crate::config::Defaults) -> Vec<OtherVolume> {
    let scratch = rule.scratch_gib_per_gpu.saturating_mul(message.gpus.into());
    let sizes = [
        (VolumeKind::Data, message.home_gib.unwrap_or(rule.home_gib)),
        (VolumeKind::Scratch, message.scratch_gib.unwrap_or(scratch)),
    ];
    let volume = |(kind, size_gib)| OtherVolume {
        id: VolumeId::new_v4(),
        kind,
        size_gib,
        key_fingerprint: String::new(),
        evidence: None,
        key: None,
    };
    sizes.into_iter().filter(|(_, size)| *size > 0).map(volume).collect()
}

/// What is recorded outlasts a root disk.
fn keeps_recordings(scene: &Scene<'_>, slice: &Slice) -> Result<(), Refusal> {
    let has = slice.others.iter().any(|other| other.kind == VolumeKind::Data);
    if has || !scene.pack.demands(&slice.level, Obligation::RecordedTerminals) {
        return Ok(());
    }
    let text =
        format!("level {} has terminals recorded, and recordings are kept on the disk of /home", slice.level);
    Err(Refusal::new(RefusalKind::Invalid, text).hint("ask for a slice with one: --home SIZE"))
}

/// A time as it was sent; whole seconds, so that it reads as it was typed.
pub(super) fn instant(at: Option<&prost_types::Timestamp>) -> Result<Option<Timestamp>, Refusal> {
    at.map(super::register::instant).transpose()
}

/// A slice that somebody asked for by its name, with what her roles let her do with it: which command comes next
/// depends on who reads it.
pub(super) fn asked_for(asked: &Asked, state: &State, s: &Slice) -> v1::Slice {
    const ALL: [Action; 9] = [
        Action::SliceApprove,
        Action::SliceWithdraw,
        Action::SliceExtend,
        Action::SliceClose,
        Action::SliceStop,
        Action::SliceStart,
        Action::SliceConnect,
        Action::SliceCertificate,
        Action::HoldLift,
    ];
    let may = |action: &Action| may(asked, *action, state, s);
    let may = ALL.iter().copied().filter(may).map(|action| action.text().to_owned()).collect();
    v1::Slice { may, ..view::slice(&asked.app, state, s) }
}

/// Whether the caller's roles let her do this with it.
fn may(asked: &Asked, action: Action, state: &State, s: &Slice) -> bool {
    let trying = Asked { action, ..asked.clone() };
    view::slice_resource(&asked.seen(state), s).is_some_and(|resource| trying.allowed(state, resource))
}

pub(super) fn decided(
    scene: &Scene<'_>,
    asked: &Asked,
    changes: Vec<Change>,
) -> Result<Decided<v1::Slice>, Refusal> {
    let value = changes.iter().find_map(|change| match change {
        Change::Put(Record::Slice(s)) => Some(asked_for(asked, scene.state, s)),
        _ => None,
    });
    let value = value.ok_or_else(|| Refusal::new(RefusalKind::Unavailable, "no slice was written"))?;
    Ok(Decided::new(changes, value))
}

/// The guest's SSH host key, of a slice one can log in to.
fn ready(scene: &Scene<'_>, slice: &Slice) -> Result<String, Refusal> {
    let guest = slice.guest.as_ref().filter(|_| slice.state == SliceState::Ready);
    guest.map(|g| g.ssh_host_key.clone()).ok_or_else(|| {
        let label = scene.state.slice_label(slice);
        Refusal::new(RefusalKind::State, format!("`{label}` is {}: it is not ready", slice.state.text()))
            .hint(match slice.state {
                SliceState::Stopped => format!("holm slice start {label}"),
                _ => format!("holm slice watch {label}"),
            })
    })
}

/// The host where it is, if nothing there is real. A tunnel leads to something that says back what it hears, which
/// tests are content with; an SSH client would wait for its first word.
fn simulated<'a>(state: &'a State, slice: &'a Slice) -> Option<&'a Name> {
    let host = &slice.placement.as_ref()?.host;
    state.hosts.get(host).filter(|h| h.simulated).map(|_| host)
}

/// What to do about a slice that is not in the right state.
fn with_hint(scene: &Scene<'_>, slice: &Slice, refusal: Refusal) -> Refusal {
    if refusal.kind != RefusalKind::State || !refusal.hint.is_empty() {
        return refusal;
    }
    let label = scene.state.slice_label(slice);
    let early = matches!(slice.state, SliceState::Requested | SliceState::Approved);
    let verb = if slice.home().is_some() {
        "stop"
    } else if early && scene.caller.actor() == format!("person/{}", slice.requested_by) {
        "withdraw"
    } else {
        "show"
    };
    refusal.hint(format!("holm slice {verb} {label}"))
}

/// The slice now and at each change, until the caller leaves or may see it no more.
async fn watch(asked: Asked, id: SliceId, send: mpsc::Sender<Result<v1::Slice, Status>>) {
    let app = Arc::clone(&asked.app);
    let (mut ledger, mut live) = (app.ledger.subscribe(), app.live.subscribe());
    let mut last = None;
    loop {
        ledger.mark_unchanged();
        live.mark_unchanged();
        let state = app.ledger.state();
        let Some(slice) = state.slices.get(&id) else { return };
        if let Err(no) = asked.still(&state, view::slice_resource(&asked.seen(&state), slice)) {
            let _ = send.send(Err(asked.ended(no).await)).await;
            return;
        }
        let now = view::slice(&app, &state, slice);
        if last.as_ref() != Some(&now) {
            if send.send(Ok(now.clone())).await.is_err() {
                return;
            }
            last = Some(now);
        }
        tokio::select! {
            _ = ledger.changed() => {}
            _ = live.changed() => {}
            () = tokio::time::sleep(RECHECK) => {}
            () = send.closed() => return,
            () = app.stopped() => {
                let _ = send.send(Err(Status::unavailable("holmd is stopping"))).await;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_a_level_that_is_not_known_nothing_is_closed_to_be_destroyed() {
        let pack = Pack::builtin("aau-2018").unwrap();
        let refused = keep_closed(&pack, "9").unwrap_err();
        assert!(refused.to_string().contains("level `9` is not in aau-2018"), "{refused}");
        for level in pack.levels() {
            let days = i64::from(level.keep_closed_days);
            assert_eq!(keep_closed(&pack, &level.id).unwrap(), SignedDuration::from_hours(days * 24));
        }
    }
}
