//! Incidents, for officers. What one does, and its clock, is in `domain::incident`.

use super::search::instant;
use super::{About, Asked, Scene, Seen, bundle, project, slice, view};
use crate::app::App;
use crate::domain::incident::{self, Closed, Incident, Notified};
use crate::domain::{Change, Refusal, RefusalKind};
use crate::ledger::Decided;
use holm_policies::{Action, Resource};
use holm_proto::v1;
use holm_proto::v1::incident_service_server::IncidentService;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub(super) struct Incidents(pub Arc<App>);

#[tonic::async_trait]
impl IncidentService for Incidents {
    async fn open_incident(
        &self,
        request: Request<v1::OpenIncidentRequest>,
    ) -> Result<Response<v1::Incident>, Status> {
        let v1::OpenIncidentRequest { project: of, reason, aware, dry_run } = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::IncidentOpen, About::project(&of))?
            .dry_run(dry_run)
            .change(
                move |seen| project::find(seen, &of),
                move |scene, project| {
                    let reason = slice::reason(&reason)?;
                    let aware = aware.as_ref().map(instant).transpose()?.unwrap_or(scene.now);
                    let detail = json!({ "reason": reason, "aware": aware });
                    let by = scene.person()?;
                    let done = incident::open(scene.state, &project.name, by, &reason, aware, scene.now)?;
                    Ok(decided(scene, detail, done))
                },
            )
            .await
    }

    async fn note_notification(
        &self,
        request: Request<v1::NoteNotificationRequest>,
    ) -> Result<Response<v1::Incident>, Status> {
        let v1::NoteNotificationRequest { number, reference, reason, dry_run } = request.get_ref().clone();
        self.of(&request, Action::IncidentNotify, number)?
            .dry_run(dry_run)
            .change(
                move |seen| find(seen, number),
                move |scene, ()| {
                    let reference = slice::reason(&reference)
                        .map_err(|no| no.hint("--reference: under which the authority has it"))?;
                    let reason = slice::comment(&reason)?.trim().to_owned();
                    let detail = json!({ "reference": reference, "reason": reason });
                    let told = Notified { by: scene.person()?.clone(), at: scene.now, reference, reason };
                    Ok(decided(scene, detail, incident::notified(scene.state, number, told)?))
                },
            )
            .await
    }

    async fn close_incident(
        &self,
        request: Request<v1::CloseIncidentRequest>,
    ) -> Result<Response<v1::Incident>, Status> {
        let v1::CloseIncidentRequest { number, reason, dry_run } = request.get_ref().clone();
        self.of(&request, Action::IncidentClose, number)?
            .dry_run(dry_run)
            .change(
                move |seen| find(seen, number),
                move |scene, ()| {
                    let reason = slice::reason(&reason)?;
                    let detail = json!({ "reason": reason });
                    let closed = Closed { by: scene.person()?.clone(), at: scene.now, reason };
                    Ok(decided(scene, detail, incident::close(scene.state, number, closed)?))
                },
            )
            .await
    }

    async fn list_incidents(
        &self,
        request: Request<v1::ListIncidentsRequest>,
    ) -> Result<Response<v1::ListIncidentsResponse>, Status> {
        let about = About { resource: "incidents".to_owned(), ..About::system() };
        Asked::new(&self.0, request.extensions(), Action::AuditRead, about)?
            .read(
                |_| Ok(Some((Resource::Log, ()))),
                |scene, ()| {
                    let all = scene.state.incidents.values().map(|one| shown(one, scene.now)).collect();
                    Ok(v1::ListIncidentsResponse { incidents: all })
                },
            )
            .await
    }

    type ExportIncidentStream = ReceiverStream<Result<v1::BundleChunk, Status>>;

    async fn export_incident(
        &self,
        request: Request<v1::ExportIncidentRequest>,
    ) -> Result<Response<Self::ExportIncidentStream>, Status> {
        let v1::ExportIncidentRequest { number, size } = *request.get_ref();
        let asked = self.of(&request, Action::AuditRead, number)?;
        let again = asked.clone();
        let response = asked
            .change_each(
                |_| Ok(Some((Resource::Log, ()))),
                move |scene, ()| {
                    let of =
                        scene.state.incidents.get(&number).and_then(|one| scene.state.project(&one.project));
                    let project = of.cloned().ok_or_else(|| about(scene.app, number).missing)?;
                    // Without the entry of this reading.
                    let now = *scene.app.ledger.subscribe().borrow();
                    if size > now {
                        let text = format!("the log has {now} entries, and not {size}");
                        return Err(Refusal::new(RefusalKind::Invalid, text).hint("holm audit checkpoint"));
                    }
                    let size = if size == 0 { now } else { size };
                    let detail = json!({ "read": "incident", "size": size });
                    Ok(Decided { detail, ..Decided::new(Vec::new(), (project, size)) })
                },
            )
            .await?;
        let (send, receive) = mpsc::channel(4);
        let (project, size) = response.get_ref().clone();
        tokio::spawn(bundle::send(again, number, project, size, send));
        Ok(response.map(|_| ReceiverStream::new(receive)))
    }
}

impl Incidents {
    /// About one that there is, or not.
    fn of<T>(&self, request: &Request<T>, action: Action, number: u32) -> Result<Asked, Status> {
        Asked::new(&self.0, request.extensions(), action, about(&self.0, number))
    }
}

fn about(app: &App, number: u32) -> About {
    let state = app.ledger.state();
    let project = state.incidents.get(&number).map(|one| one.project.as_str());
    let missing = format!("there is no incident {number}");
    About::new(format!("incident/{number}"), project, missing, "holm audit incident list")
}

/// Its project, for the pack.
fn find(seen: &Seen<'_>, number: u32) -> Result<Option<(Resource, ())>, Refusal> {
    let Some(one) = seen.state.incidents.get(&number) else { return Ok(None) };
    Ok(project::find(seen, one.project.as_str())?.map(|(resource, _)| (resource, ())))
}

fn decided(scene: &Scene<'_>, detail: Value, done: (Incident, Vec<Change>)) -> Decided<v1::Incident> {
    let (incident, changes) = done;
    Decided { detail, ..Decided::new(changes, shown(&incident, scene.now)) }
}

fn shown(one: &Incident, now: Timestamp) -> v1::Incident {
    let (notified, closed) = (one.notified.as_ref(), one.closed.as_ref());
    v1::Incident {
        number: one.number,
        project: one.project.to_string(),
        by: one.by.to_string(),
        at: Some(view::time(one.at)),
        reason: one.reason.clone(),
        aware: Some(view::time(one.aware)),
        deadline: Some(view::time(one.deadline())),
        overdue: one.is_overdue(now),
        notified: notified.map(|told| view::time(told.at)),
        notified_by: notified.map(|told| told.by.to_string()).unwrap_or_default(),
        reference: notified.map(|told| told.reference.clone()).unwrap_or_default(),
        delay: notified.map(|told| told.reason.clone()).unwrap_or_default(),
        closed: closed.map(|over| view::time(over.at)),
        closed_by: closed.map(|over| over.by.to_string()).unwrap_or_default(),
        closed_because: closed.map(|over| over.reason.clone()).unwrap_or_default(),
    }
}
