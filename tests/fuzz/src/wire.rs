//! Calls as they are on the wire: sent whatever they are, and recorded as somebody else sends them.

use http_body_util::BodyExt;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Status, codegen::Bytes};

/// Before a message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Messages as they are.
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(to, Bytes::from(item));
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        let length = bytes::Buf::remaining(from);
        bytes::Buf::advance(from, length);
        Ok(Some(()))
    }
}

/// Answers nothing, and keeps what it was asked: the path and the first message of each call.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<(String, Vec<u8>)>>>);

impl Recorder {
    /// Where to call it.
    pub async fn serve(&self) -> Channel {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let serving = Server::builder().serve_with_incoming(self.clone(), TcpIncoming::from(listener));
        tokio::spawn(serving);
        Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy()
    }

    /// All that was kept.
    pub fn take(&self) -> Vec<(String, Vec<u8>)> {
        std::mem::take(&mut self.0.lock().expect("a lock"))
    }
}

impl Service<http::Request<Body>> for Recorder {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let all = Arc::clone(&self.0);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let message = first(request.into_body()).await;
            all.lock().expect("a lock").push((path, message));
            Ok(Status::unimplemented("it was recorded").into_http())
        })
    }
}

async fn first(mut body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        if let Some((head, message)) = bytes.split_first_chunk::<HEAD>() {
            let [_, length @ ..] = *head;
            let length = usize::try_from(u32::from_be_bytes(length)).expect("a length");
            if let Some(whole) = message.get(..length) {
                return whole.to_vec();
            }
        }
        let frame = body.frame().await.expect("a whole message").expect("a frame");
        bytes.extend_from_slice(&frame.into_data().expect("data"));
    }
}
