//! The log, searched and followed.

use super::Asked;
use super::audit::{BATCH, Sender, may_go_on, pass_on};
use crate::app::App;
use crate::audit::Entry;
use crate::domain::{Refusal, RefusalKind};
use crate::ledger::{Decided, chain};
use crate::search::{Found, Query, QueryError, SearchError};
use holm_policies::{Action, Resource};
use holm_proto::v1;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Entries of a page, where the caller does not say, and at the most.
const PAGE: usize = 100;
const PAGE_MOST: usize = 500;

/// What is asked for, as it stands in the log and as it is looked up.
fn query(filter: &v1::EntryFilter) -> Result<(Query, Value), Refusal> {
    let fields = [
        ("actor", &filter.actor, Query::actor as fn(Query, &str) -> Result<Query, QueryError>),
        ("resource", &filter.resource, Query::resource),
        ("project", &filter.project, Query::project),
        ("level", &filter.level, Query::level),
        ("device", &filter.device, Query::device),
        ("action", &filter.action, Query::action),
        ("outcome", &filter.outcome, Query::outcome),
        ("request", &filter.request, Query::request),
        ("text", &filter.text, Query::text),
    ];
    let (mut query, mut said) = (Query::default(), serde_json::Map::new());
    for (name, value, with) in fields {
        if !value.is_empty() {
            query = with(query, value).map_err(invalid)?;
            said.insert(name.to_owned(), json!(value));
        }
    }
    let [since, until] = [&filter.since, &filter.until].map(|at| at.as_ref().map(instant).transpose());
    let (since, until) = (since?, until?);
    said.extend(since.map(|at| ("since".to_owned(), json!(at))));
    said.extend(until.map(|at| ("until".to_owned(), json!(at))));
    Ok((query.between(since, until).map_err(invalid)?, Value::Object(said)))
}

fn invalid(no: QueryError) -> Refusal {
    Refusal::new(RefusalKind::Invalid, no.to_string()).hint("holm audit log --help")
}

pub(super) fn instant(at: &prost_types::Timestamp) -> Result<Timestamp, Refusal> {
    Timestamp::new(at.seconds, at.nanos).map_err(|_| {
        Refusal::new(RefusalKind::Invalid, format!("{} s and {} ns are no time", at.seconds, at.nanos))
    })
}

/// Where a page begins, and of how many entries: `BEGIN-SIZE`.
fn place(token: &str) -> Result<(u64, u64), Refusal> {
    let parts = token.split_once('-').and_then(|(from, size)| Some((from.parse().ok()?, size.parse().ok()?)));
    parts.ok_or_else(|| {
        Refusal::new(RefusalKind::Invalid, "the page token is not one that a page before had".to_owned())
            .hint("ask for the first page, without a token")
    })
}

pub(super) async fn search(
    app: &Arc<App>,
    request: Request<v1::SearchEntriesRequest>,
) -> Result<Response<v1::SearchEntriesResponse>, Status> {
    let asked = Asked::new(app, request.extensions(), Action::AuditRead, super::audit::log())?;
    let wanted = request.into_inner();
    let prove_in = wanted.prove_in;
    let app = Arc::clone(app);
    let most = match wanted.page_size as usize {
        0 => PAGE,
        // A proof may have as many bytes as an entry.
        some if prove_in > 0 => some.min(PAGE_MOST / 2),
        some => some.min(PAGE_MOST),
    };
    let noted = asked.change_each(
        |_| Ok(Some((Resource::Log, ()))),
        move |scene, ()| {
            let (mut query, said) = query(&wanted.filter.unwrap_or_default())?;
            query.oldest_first = wanted.oldest_first;
            // Without the entry of this reading, which is not what is looked for.
            let now = *scene.app.ledger.subscribe().borrow();
            if wanted.prove_in > now {
                let text = format!("the log has {now} entries, and nothing is proven in {}", wanted.prove_in);
                return Err(Refusal::new(RefusalKind::Invalid, text).hint("holm audit checkpoint"));
            }
            let size = match wanted.page_token.as_str() {
                "" if wanted.prove_in > 0 => wanted.prove_in,
                "" => now,
                token => {
                    let (from, size) = place(token)?;
                    query.from = Some(from);
                    size.min(if wanted.prove_in > 0 { wanted.prove_in } else { now })
                }
            };
            let detail = json!({ "read": "search", "filter": said, "page": wanted.page_token });
            Ok(Decided { detail, ..Decided::new(Vec::new(), (query, size)) })
        },
    );
    let response = noted.await?;
    let (query, size) = response.get_ref().clone();
    let found = super::blocking(move || {
        let page = app.index.search(&app.ledger, &query, size, most)?;
        let prove = |index| match prove_in {
            0 => Ok::<_, SearchError>(Vec::new()),
            size => Ok(app.ledger.inclusion(index, size)?.iter().map(|hash| hash.to_vec()).collect()),
        };
        let entry = |one: Found| {
            let proof = prove(one.index)?;
            Ok(v1::LogEntry { index: one.index, proof, body: one.body, ..Default::default() })
        };
        let entries: Vec<v1::LogEntry> =
            page.found.into_iter().map(entry).collect::<Result<_, SearchError>>()?;
        let first = first_there(&app, &query)?;
        Ok((entries, page.next, first))
    });
    let (entries, next, first) = found.await?.map_err(|failure: SearchError| match failure {
        SearchError::Behind { .. } => Status::unavailable(format!("{failure}; try again in a moment")),
        SearchError::Log(_) | SearchError::Entry { .. } | SearchError::Index { .. } => {
            let text = chain(&failure);
            tracing::error!("{text}");
            Status::data_loss(text)
        }
    })?;
    let next_page_token = next.map(|next| format!("{next}-{size}")).unwrap_or_default();
    Ok(response.map(|_| v1::SearchEntriesResponse { entries, next_page_token, size, first }))
}

/// The first entry that is kept, where older ones might have been asked for; otherwise 0.
fn first_there(app: &App, query: &Query) -> Result<u64, SearchError> {
    let index = app.ledger.first();
    if index == 0 {
        return Ok(0);
    }
    let bodies = app.ledger.entries(index, index + 1)?;
    let unread = |source| SearchError::Entry { index, source };
    let oldest = bodies.first().map(|body| Entry::from_bytes(body)).transpose().map_err(unread)?;
    Ok(if oldest.is_some_and(|oldest| query.is_after(oldest.time)) { 0 } else { index })
}

pub(super) async fn follow(
    app: &Arc<App>,
    request: Request<v1::EntryFilter>,
) -> Result<Response<ReceiverStream<Result<v1::LogEntry, Status>>>, Status> {
    let asked = Asked::new(app, request.extensions(), Action::AuditRead, super::audit::log())?;
    let again = asked.clone();
    let filter = request.into_inner();
    let response = asked
        .change_each(
            |_| Ok(Some((Resource::Log, ()))),
            move |scene, ()| {
                let (query, said) = query(&filter)?;
                let from = *scene.app.ledger.subscribe().borrow();
                let detail = json!({ "read": "follow", "filter": said });
                Ok(Decided { detail, ..Decided::new(Vec::new(), (query, from)) })
            },
        )
        .await?;
    let (send, receive) = mpsc::channel(BATCH as usize);
    let (query, from) = response.get_ref().clone();
    tokio::spawn(stream(again, query, from, send));
    Ok(response.map(|_| ReceiverStream::new(receive)))
}

/// Sends what fits as it comes. That it was asked for is an entry already.
async fn stream(asked: Asked, query: Query, from: u64, send: Sender) {
    let app = Arc::clone(&asked.app);
    let (mut size, mut at) = (app.ledger.subscribe(), from);
    let fits = |body: &[u8]| Entry::from_bytes(body).is_ok_and(|entry| query.takes(&entry));
    loop {
        // Also while nothing comes: some things end by the clock.
        let moved = tokio::select! {
            moved = size.changed() => moved.is_ok(),
            () = tokio::time::sleep(super::RECHECK) => true,
            () = send.closed() => false,
            () = app.stopped() => false,
        };
        if !moved || !may_go_on(&asked, &send).await {
            return;
        }
        let end = *size.borrow_and_update();
        if !pass_on(&asked, at..end, fits, &send).await {
            return;
        }
        at = end;
    }
}
