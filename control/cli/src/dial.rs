//! Connections to holmd. Name, port, TLS and certificate are each tried before gRPC is, so that what fails
//! is said by its name.

use crate::Failure;
use holm_control::once::KEY;
use holm_control::tag::IF_MATCH;
use holm_proto::MAX_FRAME_BYTES;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use uuid::Uuid;

/// For finding the name and connecting.
const STEP: Duration = Duration::from_secs(10);
/// holmd ends a handshake that takes this long, and says why in its log.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// A peer that is gone is noticed, also by a tunnel in which nobody types.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// holmd answers within 45 s, or says why not.
pub const ANSWER: Duration = Duration::from_secs(60);

/// Who makes calls.
pub type Calls = InterceptedService<Channel, Keyed>;

/// Each call says the key and the tag that its command line names, if it names one.
#[derive(Debug, Clone, Default)]
pub struct Keyed {
    /// Under which it is made once.
    pub key: Option<Uuid>,
    /// Of what it is to change.
    pub if_match: Option<String>,
}

impl Interceptor for Keyed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = self.key.and_then(|key| key.to_string().parse().ok()) {
            request.metadata_mut().insert(KEY, value);
        }
        if let Some(value) = self.if_match.as_ref().and_then(|tag| tag.parse().ok()) {
            request.metadata_mut().insert(IF_MATCH, value);
        }
        Ok(request)
    }
}

/// HOST:PORT; an IPv6 address stands in brackets.
pub fn split(server: &str, default_port: u16) -> Result<(String, u16), Failure> {
    let bad = || {
        Failure::usage(format!(
            "`{server}` is no server: write HOST:PORT, as in `holm.example.org:{default_port}`"
        ))
    };
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| bad())?)
        }
        _ => (server, default_port),
    };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || port == 0 || ServerName::try_from(host.to_owned()).is_err() {
        return Err(bad());
    }
    Ok((host.to_owned(), port))
}

/// A TCP connection.
pub async fn tcp(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let failed = |why: String| {
        Failure::unreachable(format!("cannot reach holmd at `{host}:{port}`: {why}")).hint("holm doctor")
    };
    let stream = timeout(STEP, TcpStream::connect((host, port)))
        .await
        .map_err(|_| failed(format!("no answer in {} s", STEP.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    // Each keystroke of an SSH session is a packet of its own.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// TLS on it.
pub async fn tls(
    tcp: TcpStream,
    host: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Failure::usage(format!("`{host}` is no name of a server")))?;
    let shaken = timeout(HANDSHAKE, TlsConnector::from(config).connect(name, tcp)).await.map_err(|_| {
        Failure::unreachable(format!("`{host}` did not finish the TLS handshake")).hint("check the port")
    })?;
    shaken.map_err(|e| match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(error) => crate::tls::failure(error, host),
        None => Failure::unreachable(format!("`{host}` ended the TLS handshake: {e}")).hint("holm doctor"),
    })
}

/// gRPC on that.
pub async fn channel(stream: TlsStream<TcpStream>) -> Result<Channel, Failure> {
    let once = Arc::new(Mutex::new(Some(stream)));
    // One connection is one identity and one handshake; who loses it dials again.
    let connector = tower::service_fn(move |_| {
        let taken = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::future::ready(taken.map(TokioIo::new).ok_or_else(|| io::Error::other("the connection was lost")))
    });
    Endpoint::from_static("http://holmd")
        .max_frame_size(MAX_FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|e| Failure::unreachable(holm_proto::chain(&e)).hint("holm doctor"))
}

/// All of it.
pub async fn connect(server: &str, port: u16, config: Arc<ClientConfig>) -> Result<Channel, Failure> {
    let (host, port) = split(server, port)?;
    channel(tls(tcp(&host, port).await?, &host, config).await?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_as_people_write_them() {
        let split = |text: &str| split(text, 7443).ok();
        assert_eq!(split("holm.example:7000"), Some(("holm.example".to_owned(), 7000)));
        assert_eq!(split("holm.example"), Some(("holm.example".to_owned(), 7443)));
        assert_eq!(split("[fd00::1]:7000"), Some(("fd00::1".to_owned(), 7000)));
        assert_eq!(split("fd00::1"), Some(("fd00::1".to_owned(), 7443)));
        assert_eq!(split("127.0.0.1:1"), Some(("127.0.0.1".to_owned(), 1)));
        for bad in ["", ":7443", "a:b", "a:0", "a:70000", "a b:1", "http://holm"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
