//! One connection to a slice's SSH server, carried through holmd: from the caller's stream into one that the
//! agent opens when it is told to. Nothing is kept here; the log has who, when and how much.
//!
//! ```text
//!   caller ──Connect──▶ holmd ──OpenTunnel──▶ agent (its session)
//!                         ◀─────Tunnel─────── agent ──▶ the slice's SSH server, over its channel
//! ```

use super::{Asked, No, RECHECK, view};
use crate::app::App;
use crate::domain::records::{SliceState, Subject};
use crate::domain::{Refusal, RefusalKind, people};
use crate::live::TunnelEnd;
use holm_proto::ids::{Name, SliceId, TunnelId};
use holm_proto::{Bytes, v1};
use newtype_uuid::GenericUuid;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// How long a stream's first message may take.
const FIRST: Duration = Duration::from_secs(10);
/// How long the agent may take to open its end.
const OPEN: Duration = Duration::from_secs(20);

/// What went through.
#[derive(Debug, Default)]
pub(super) struct Carried {
    up: AtomicU64,
    down: AtomicU64,
    seconds: u64,
}

/// The first message of a stream, which says what it is about.
pub(super) async fn first<T>(frames: &mut Streaming<T>) -> Result<T, Status> {
    let first = tokio::time::timeout(FIRST, frames.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??;
    first.ok_or_else(|| Status::invalid_argument("the stream ended before its first message"))
}

/// Have the agent open its end.
pub(super) async fn open(app: &App, host: &Name, slice: SliceId, id: TunnelId) -> Result<TunnelEnd, Refusal> {
    let unavailable = |text: String| {
        Refusal::new(RefusalKind::Unavailable, text)
            .hint("try again in a minute; if that does not help, tell an operator")
    };
    let away = || unavailable("the slice's host is not connected to holmd".to_owned());
    let session = app.live.host(host).ok_or_else(away)?;
    let waiter = app.live.expect_tunnel(id, host);
    let _forget = Forget { app, id };
    let body = v1::to_agent::Body::OpenTunnel(v1::OpenTunnel {
        tunnel_id: id.into_untyped_uuid().to_string(),
        slice_id: slice.into_untyped_uuid().to_string(),
    });
    let opened = tokio::time::timeout(OPEN, async {
        session.outbound.send(Ok(v1::ToAgent { body: Some(body) })).await.ok()?;
        waiter.await.ok()
    });
    let end = match opened.await {
        Ok(end) => end.ok_or_else(away)?,
        Err(_) => {
            let seconds = OPEN.as_secs();
            return Err(unavailable(format!("the slice's host did not open the connection in {seconds} s")));
        }
    };
    if end.first.error.is_empty() {
        return Ok(end);
    }
    Err(unavailable(format!("the host cannot reach the slice: {}", super::plain(&end.first.error, 200))))
}

/// A tunnel that nobody waits for any more.
struct Forget<'a> {
    app: &'a App,
    id: TunnelId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.app.live.forget_tunnel(self.id);
    }
}

/// Carry bytes both ways until one side ends or the slice is ready no more. Each side waits for the other:
/// a few frames are in between, never more.
pub(super) async fn carry(
    asked: Asked,
    slice: SliceId,
    first: Bytes,
    frames: Streaming<v1::ConnectFrame>,
    end: TunnelEnd,
    out: mpsc::Sender<Result<v1::ConnectFrame, Status>>,
) {
    let began = Instant::now();
    let mut carried = Carried::default();
    let TunnelEnd { first: from_slice, from_agent, to_agent, host } = end;
    let why = tokio::select! {
        why = down(&carried.down, from_slice.data, from_agent, &out) => why,
        why = up(&carried.up, first, frames, to_agent) => why,
        no = unready(&asked, slice, &host) => {
            let _ = out.send(Err(super::status(&no.told, asked.call.request))).await;
            no.logged.to_string()
        }
        () = out.closed() => "the caller left".to_owned(),
        () = asked.app.stopped() => "holmd is stopping".to_owned(),
    };
    drop(out);
    carried.seconds = began.elapsed().as_secs();
    closed(&asked, carried, &why).await;
}

/// Write down that it is over.
pub(super) async fn closed(asked: &Asked, carried: Carried, why: &str) {
    let app = Arc::clone(&asked.app);
    let mut call = asked.call.clone();
    call.action = "slice.disconnect";
    let detail = json!({
        "bytes_in": carried.up.into_inner(),
        "bytes_out": carried.down.into_inner(),
        "seconds": carried.seconds,
        "why": why,
    });
    let written = super::blocking(move || app.ledger.note(&call, detail));
    if let Ok(Err(failure)) = written.await {
        tracing::error!("the end of a connection is not in the log: {failure}");
    }
}

async fn down(
    count: &AtomicU64,
    mut data: Bytes,
    mut from: Streaming<v1::TunnelFrame>,
    out: &mpsc::Sender<Result<v1::ConnectFrame, Status>>,
) -> String {
    loop {
        if !data.is_empty() {
            count.fetch_add(data.len() as u64, Ordering::Relaxed);
            if out.send(Ok(v1::ConnectFrame { data, ..Default::default() })).await.is_err() {
                return "the caller left".to_owned();
            }
        }
        match from.message().await {
            Ok(Some(frame)) if frame.error.is_empty() => data = frame.data,
            Ok(Some(frame)) => {
                let why = super::plain(&frame.error, 200);
                let _ = out.send(Err(Status::unavailable(why.clone()))).await;
                return why;
            }
            Ok(None) => return "the slice ended it".to_owned(),
            Err(_) => {
                let why = "the host left".to_owned();
                let _ = out.send(Err(Status::unavailable(why.clone()))).await;
                return why;
            }
        }
    }
}

/// Ends only when something is wrong: a caller who has said all may still have much to hear.
async fn up(
    count: &AtomicU64,
    mut data: Bytes,
    mut from: Streaming<v1::ConnectFrame>,
    to: mpsc::Sender<Result<v1::TunnelFrame, Status>>,
) -> String {
    loop {
        if !data.is_empty() {
            count.fetch_add(data.len() as u64, Ordering::Relaxed);
            let frame = v1::TunnelFrame { data, ..Default::default() };
            if to.send(Ok(frame)).await.is_err() {
                return "the host left".to_owned();
            }
        }
        match from.message().await {
            Ok(Some(frame)) => data = frame.data,
            Ok(None) => break,
            Err(_) => return "the caller left".to_owned(),
        }
    }
    drop(to);
    std::future::pending().await
}

/// Returns when the slice is ready no more, or the caller may not have it any more.
async fn unready(asked: &Asked, id: SliceId, host: &(Name, String)) -> No {
    let mut changes = asked.app.ledger.subscribe();
    loop {
        changes.mark_unchanged();
        let state = asked.app.ledger.state();
        let gone = |text: String| No::from(Refusal::new(RefusalKind::State, text));
        let Some(slice) = state.slices.get(&id) else { return gone("the slice is gone".to_owned()) };
        if slice.state != SliceState::Ready {
            return gone(format!("the slice is {}", slice.state.text()));
        }
        if let Err(no) = asked.still(&state, view::slice_resource(&asked.seen(&state), slice)) {
            let logged =
                Refusal::new(no.logged.kind, format!("the caller may connect no more: {}", no.logged));
            return No { logged, ..no };
        }
        let (name, certificate) = host;
        if people::holds(&state, &Subject::Host(name.clone()), certificate).is_err() {
            return gone("its host's certificate was revoked or replaced".to_owned());
        }
        // The sender lives as long as the ledger.
        let _ = tokio::time::timeout(RECHECK, changes.changed()).await;
    }
}
