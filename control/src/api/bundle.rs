//! The archive of an incident, made of the log as it goes out: never whole in memory. Its form is in `bundle`.

use super::{Asked, blocking};
use crate::app::App;
use crate::audit::Entry;
use crate::bundle::{Of, Writer, may_have};
use crate::domain::records::Project;
use crate::ledger::chain;
use crate::policy;
use crate::search::Query;
use holm_policies::{FILES, Resource};
use holm_proto::v1;
use newtype_uuid::GenericUuid;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::Status;

/// Entries of a part, and bytes of one at most, but for the last entry.
const PART: usize = 512;
const PART_BYTES: usize = 4 << 20;
/// Bytes of a message.
const CHUNK: usize = 1 << 20;
/// Entries of a page of the index.
const PAGE: usize = 4096;

type Sender = mpsc::Sender<Result<v1::BundleChunk, Status>>;

/// Sends the archive of this incident, of the log's first `size` entries, as long as the caller may have it.
pub(super) async fn send(asked: Asked, incident: u32, project: Project, size: u64, send: Sender) {
    let (made, mut parts) = mpsc::channel::<Vec<u8>>(2);
    let app = Arc::clone(&asked.app);
    let making = tokio::spawn(blocking(move || make(&app, incident, &project, size, &made)));
    while let Some(part) = parts.recv().await {
        if let Err(no) = asked.still(&asked.app.ledger.state(), Some(Resource::Log)) {
            let _ = send.send(Err(asked.ended(no).await)).await;
            return;
        }
        for data in part.chunks(CHUNK) {
            if send.send(Ok(v1::BundleChunk { data: data.to_vec() })).await.is_err() {
                return;
            }
        }
    }
    let why = match making.await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(why))) => why,
        Ok(Err(status)) => status.message().to_owned(),
        Err(failure) => failure.to_string(),
    };
    tracing::error!("an incident's bundle: {why}");
    let _ = send.send(Err(Status::data_loss(format!("the bundle cannot be made: {why}")))).await;
}

fn make(
    app: &App,
    incident: u32,
    project: &Project,
    size: u64,
    to: &mpsc::Sender<Vec<u8>>,
) -> Result<(), String> {
    let root = app.ledger.root_at(size).map_err(|e| chain(&e))?;
    let pack = app.pack();
    let of = Of {
        log: app.config.log_origin.clone(),
        size,
        incident,
        project: project.name.clone(),
        level: format!("{} {}", project.level, project.level_name),
        pack: format!("{} {}", pack.id(), policy::digest(&pack)),
    };
    let indices = about(app, project, size)?;
    let (mut writer, begun) = Writer::new(of, root, app.log_key.clone());
    // Who asked has gone where it cannot be sent.
    let gone = |part| to.blocking_send(part).is_err();
    if gone(begun) {
        return Ok(());
    }
    let (mut part, mut bytes) = (Vec::new(), 0);
    for index in indices {
        let body = body(app, index)?;
        let proof = app.ledger.inclusion(index, size).map_err(|e| chain(&e))?;
        bytes += body.len();
        part.push((index, body, proof));
        if part.len() == PART || bytes >= PART_BYTES {
            if gone(writer.entries(&part).map_err(|e| chain(&e))?) {
                return Ok(());
            }
            (part, bytes) = (Vec::new(), 0);
        }
    }
    if !part.is_empty() && gone(writer.entries(&part).map_err(|e| chain(&e))?) {
        return Ok(());
    }
    let files = FILES.iter().copied().zip(pack.texts());
    let files: Vec<(String, String)> = files.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
    gone(writer.finish(&files));
    Ok(())
}

fn body(app: &App, index: u64) -> Result<Vec<u8>, String> {
    let bodies = app.ledger.entries(index, index + 1).map_err(|e| chain(&e))?;
    bodies.into_iter().next().ok_or_else(|| format!("entry {index} is not there"))
}

/// The entries that concern the project, or none and name it or a slice of it by id, in their order.
fn about(app: &App, project: &Project, size: u64) -> Result<Vec<u64>, String> {
    let state = app.ledger.state();
    let slices = state.slices.values().filter(|slice| slice.project == project.id);
    let ids = slices.map(|slice| slice.id.into_untyped_uuid()).chain([project.id.into_untyped_uuid()]);
    let mut queries = vec![Query::default().project(project.name.as_str())];
    queries.extend(ids.map(|id| Query::default().text(&id.to_string())));
    let mut all = Vec::new();
    for query in queries {
        let mut query = query.map_err(|e| e.to_string())?;
        query.oldest_first = true;
        loop {
            let page = app.index.search(&app.ledger, &query, size, PAGE).map_err(|e| chain(&e))?;
            for one in page.found {
                let entry = Entry::from_bytes(&one.body).map_err(|e| chain(&e))?;
                if may_have(&project.name, &entry) {
                    all.push(one.index);
                }
            }
            match page.next {
                Some(next) => query.from = Some(next),
                None => break,
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
