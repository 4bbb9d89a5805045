//! One connection to a slice's SSH server, carried over a stream of its own. What goes through is encrypted by
//! SSH from end to end; here it is bytes, in pieces of a bounded size, held back where the other side is slow.

use crate::converge::Engine;
use holm_proto::{
    Bytes,
    ids::SliceId,
    v1::{OpenTunnel, TunnelFrame, agent_service_client::AgentServiceClient},
};
use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixStream as StdStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

/// Connections to one slice at a time.
pub const MOST_A_SLICE: usize = 64;
/// The largest piece.
const PIECE_BYTES: usize = 64 * 1024;
/// Pieces that wait to be sent.
const PIECES: usize = 4;
/// For holmd to take the stream.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// For the other direction, once one has ended.
const LINGER: Duration = Duration::from_secs(30);

/// Who has how many connections.
#[derive(Debug, Clone, Default)]
pub struct Tunnels {
    open: Arc<Mutex<BTreeMap<SliceId, usize>>>,
}

/// The right to one connection, given back when dropped.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<BTreeMap<SliceId, usize>>>,
    slice: SliceId,
}

impl Tunnels {
    fn place(&self, slice: SliceId) -> Result<Place, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(slice).or_default();
        if *count >= MOST_A_SLICE {
            return Err(format!("slice `{slice}` has {MOST_A_SLICE} connections already: end one of them"));
        }
        *count += 1;
        drop(open);
        Ok(Place { open: Arc::clone(&self.open), slice })
    }

    /// Carries one connection to its end.
    pub async fn carry(self, engine: Arc<Engine>, client: AgentServiceClient<Channel>, open: OpenTunnel) {
        let outcome = match self.connect(&engine, &open).await {
            Ok((socket, _place)) => pump(client, &open.tunnel_id, socket).await,
            Err(why) => refuse(client, &open.tunnel_id, why).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(slice = open.slice_id, "a connection ended: {}", error.message());
        }
    }

    async fn connect(&self, engine: &Arc<Engine>, open: &OpenTunnel) -> Result<(UnixStream, Place), String> {
        let slice: SliceId = open.slice_id.parse().map_err(|_| "there is no such slice".to_owned())?;
        engine.may_connect(slice)?;
        let place = self.place(slice)?;
        let host = Arc::clone(engine.host());
        let socket = tokio::task::spawn_blocking(move || host.connect_ssh(slice)).await;
        let socket = socket.map_err(|error| error.to_string())?.map_err(|error| error.chain())?;
        // Of a socket only its being a stream is used here, so one of vsock does as well as one of Unix.
        let ready = || -> io::Result<UnixStream> {
            let socket = StdStream::from(socket);
            socket.set_nonblocking(true)?;
            UnixStream::from_std(socket)
        };
        Ok((ready().map_err(|error| error.to_string())?, place))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.slice) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.slice);
            }
        }
    }
}

async fn refuse(mut client: AgentServiceClient<Channel>, tunnel: &str, error: String) -> Result<(), Status> {
    let frame = TunnelFrame { tunnel_id: tunnel.to_owned(), error, ..Default::default() };
    let sent = client.tunnel(tokio_stream::once(frame));
    let mut answer = timeout(OPEN_LIMIT, sent).await.map_err(late)??.into_inner();
    // Until holmd has taken it.
    timeout(OPEN_LIMIT, answer.message()).await.map_err(late)??;
    Ok(())
}

async fn pump(
    mut client: AgentServiceClient<Channel>,
    tunnel: &str,
    socket: UnixStream,
) -> Result<(), Status> {
    let (send, receive) = mpsc::channel(PIECES);
    let first = TunnelFrame { tunnel_id: tunnel.to_owned(), ..Default::default() };
    send.send(first).await.map_err(|_| gone())?;
    let stream = client.tunnel(ReceiverStream::new(receive));
    let mut incoming = timeout(OPEN_LIMIT, stream).await.map_err(late)??.into_inner();
    let (mut read, mut write) = socket.into_split();
    let up = async move {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = read.read(&mut piece).await?;
            let data = Bytes::copy_from_slice(piece.get(..length).unwrap_or_default());
            if data.is_empty() {
                return Ok::<(), Status>(());
            }
            send.send(TunnelFrame { data, ..Default::default() }).await.map_err(|_| gone())?;
        }
    };
    let down = async move {
        while let Some(frame) = incoming.message().await? {
            if !frame.error.is_empty() {
                return Err(Status::aborted(frame.error));
            }
            write.write_all(&frame.data).await?;
        }
        write.shutdown().await?;
        Ok::<(), Status>(())
    };
    tokio::pin!(up, down);
    tokio::select! {
        outcome = &mut up => {
            outcome?;
            timeout(LINGER, down).await.map_err(late)?
        }
        outcome = &mut down => {
            outcome?;
            timeout(LINGER, up).await.map_err(late)?
        }
    }
}

fn late(_: tokio::time::error::Elapsed) -> Status {
    Status::deadline_exceeded("the other side did not end")
}

fn gone() -> Status {
    Status::cancelled("holmd has ended the stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_so_many_connections_and_no_more() {
        let tunnels = Tunnels::default();
        let slice = "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap();
        let mut places: Vec<Place> = (0..MOST_A_SLICE).map(|_| tunnels.place(slice).unwrap()).collect();
        assert!(tunnels.place(slice).unwrap_err().contains("64 connections"));
        places.pop();
        places.push(tunnels.place(slice).unwrap());
        let other = "0190163d-8694-739b-aea5-966c26f8ad92".parse().unwrap();
        drop(tunnels.place(other).unwrap());
        drop(places);
        assert!(tunnels.open.lock().unwrap().is_empty());
    }
}
