//! The log, for officers and auditors. That it was read is itself an entry.

use super::{About, Asked, search, view};
use crate::app::App;
use crate::audit::LogError;
use crate::domain::{Refusal, RefusalKind};
use crate::ledger::Decided;
use crate::witness::{Standing, State};
use holm_policies::{Action, Resource};
use holm_proto::ids::Name;
use holm_proto::v1;
use holm_proto::v1::audit_service_server::AuditService;
use serde_json::json;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Entries read at once: as many as lie in one file.
pub(super) const BATCH: u64 = 256;

#[derive(Clone)]
pub(super) struct Auditing(pub Arc<App>);

#[tonic::async_trait]
impl AuditService for Auditing {
    type ListEntriesStream = ReceiverStream<Result<v1::LogEntry, Status>>;

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::Checkpoint>, Status> {
        let response = Asked::new(&self.0, request.extensions(), Action::AuditRead, log())?
            .change(
                |_| Ok(Some((Resource::Log, ()))),
                |_, ()| {
                    let detail = json!({ "read": "checkpoint" });
                    Ok(Decided { detail, ..Decided::new(Vec::new(), ()) })
                },
            )
            .await?;
        // Afterwards, so that it covers the entry of its own reading.
        let app = Arc::clone(&self.0);
        let checkpoint = super::blocking(move || v1::Checkpoint {
            note: app.ledger.checkpoint(),
            verifier_key: app.log_key.vkey(&app.config.log_origin),
        });
        let checkpoint = checkpoint.await?;
        Ok(response.map(|()| checkpoint))
    }

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<Self::ListEntriesStream>, Status> {
        let v1::ListEntriesRequest { start, end } = *request.get_ref();
        let asked = Asked::new(&self.0, request.extensions(), Action::AuditRead, log())?;
        let again = asked.clone();
        let response = asked
            .change(
                |_| Ok(Some((Resource::Log, ()))),
                move |scene, ()| {
                    let size = *scene.app.ledger.subscribe().borrow();
                    let end = if end == 0 { size } else { end };
                    if start > end || end > size {
                        let text = format!("there are no entries {start} to {end}: the log has {size}");
                        return Err(Refusal::new(RefusalKind::Invalid, text).hint("holm audit log"));
                    }
                    let detail = json!({ "read": "entries", "start": start, "end": end });
                    Ok(Decided { detail, ..Decided::new(Vec::new(), end) })
                },
            )
            .await?;
        let (send, receive) = mpsc::channel(BATCH as usize);
        tokio::spawn(stream(again, start, *response.get_ref(), send));
        Ok(response.map(|_| ReceiverStream::new(receive)))
    }

    async fn search_entries(
        &self,
        request: Request<v1::SearchEntriesRequest>,
    ) -> Result<Response<v1::SearchEntriesResponse>, Status> {
        search::search(&self.0, request).await
    }

    type FollowEntriesStream = ReceiverStream<Result<v1::LogEntry, Status>>;

    async fn follow_entries(
        &self,
        request: Request<v1::EntryFilter>,
    ) -> Result<Response<Self::FollowEntriesStream>, Status> {
        search::follow(&self.0, request).await
    }

    async fn list_witnesses(
        &self,
        request: Request<v1::ListWitnessesRequest>,
    ) -> Result<Response<v1::ListWitnessesResponse>, Status> {
        let asked = Asked::new(&self.0, request.extensions(), Action::AuditRead, log())?;
        let response = asked.change(
            |_| Ok(Some((Resource::Log, ()))),
            |scene, ()| {
                let all = scene.app.witnesses.all();
                let witnesses = all.into_iter().map(|(name, standing)| witness(&name, standing)).collect();
                let detail = json!({ "read": "witnesses" });
                Ok(Decided { detail, ..Decided::new(Vec::new(), v1::ListWitnessesResponse { witnesses }) })
            },
        );
        response.await
    }
}

fn witness(name: &Name, standing: Standing) -> v1::Witness {
    let state = match standing.state {
        State::New => v1::WitnessState::New,
        State::Covered => v1::WitnessState::Covered,
        State::Behind => v1::WitnessState::Behind,
        State::Alarm => v1::WitnessState::Alarm,
    };
    let newest = standing.newest.as_ref();
    v1::Witness {
        name: name.to_string(),
        verifier_key: standing.key,
        state: state.into(),
        since: Some(view::time(standing.since)),
        why: standing.why.unwrap_or_default(),
        size: newest.map_or(0, |newest| newest.size),
        cosigned: newest.map(|newest| view::time(newest.at)),
        note: newest.map(|newest| newest.note.clone()).unwrap_or_default(),
        days: standing.days.into_iter().map(|day| day.note).collect(),
        evidence: standing.evidence.unwrap_or_default(),
    }
}

pub(super) fn log() -> About {
    About { resource: "log".to_owned(), ..About::system() }
}

/// Entries to who reads them.
pub(super) type Sender = mpsc::Sender<Result<v1::LogEntry, Status>>;

async fn stream(asked: Asked, start: u64, end: u64, send: Sender) {
    pass_on(&asked, start..end, |_| true, &send).await;
}

/// Sends those of a range that `fits`, as long as the caller may have them and is there: whether that is so still.
pub(super) async fn pass_on(
    asked: &Asked,
    range: Range<u64>,
    fits: impl Fn(&[u8]) -> bool,
    send: &Sender,
) -> bool {
    let (app, mut at) = (&asked.app, range.start);
    while at < range.end {
        if !may_go_on(asked, send).await {
            return false;
        }
        let until = (at / BATCH + 1).saturating_mul(BATCH).min(range.end);
        let worker = Arc::clone(app);
        let bodies = match super::blocking(move || worker.ledger.entries(at, until)).await {
            Ok(Ok(bodies)) => bodies,
            // Who verifies needs the hashes of those that are gone.
            Ok(Err(LogError::Expired { .. })) => {
                let worker = Arc::clone(app);
                let leaves = super::blocking(move || worker.ledger.leaves(at, until)).await;
                let gone = leaves.and_then(|leaves| leaves.map_err(|failure| unreadable(&failure)));
                let gone = gone.map(|leaves| v1::LogEntry {
                    index: at,
                    gone: leaves.concat(),
                    ..Default::default()
                });
                let failed = gone.is_err();
                if send.send(gone).await.is_err() || failed {
                    return false;
                }
                at = until;
                continue;
            }
            Ok(Err(failure)) => {
                let _ = send.send(Err(unreadable(&failure))).await;
                return false;
            }
            Err(failure) => {
                let _ = send.send(Err(failure)).await;
                return false;
            }
        };
        for (index, body) in (at..).zip(bodies).filter(|(_, body)| fits(body)) {
            if send.send(Ok(v1::LogEntry { index, body, ..Default::default() })).await.is_err() {
                return false;
            }
        }
        at = until;
    }
    true
}

fn unreadable(failure: &LogError) -> Status {
    let text = format!("the log cannot be read: {}", crate::ledger::chain(failure));
    tracing::error!("{text}");
    Status::data_loss(text)
}

/// The caller may read the log still; otherwise she is told why not, and that is an entry.
pub(super) async fn may_go_on(asked: &Asked, send: &Sender) -> bool {
    match asked.still(&asked.app.ledger.state(), Some(Resource::Log)) {
        Ok(()) => true,
        Err(no) => {
            let _ = send.send(Err(asked.ended(no).await)).await;
            false
        }
    }
}
