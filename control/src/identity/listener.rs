//! The accept loop: TLS before anything else, each handshake limited in time, all of them in number.
//!
//! A connection ends when the certificate it began with does, whatever is under way on it; one without a
//! certificate after a minute.

use super::authority::fingerprint;
use super::caller::{Caller, Peer};
use super::strangers::{Stranger, Strangers};
use jiff::Timestamp;
use rustls::{CertificateError, ServerConfig};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Long enough for a machine on which fifty people begin at once.
const HANDSHAKE_TIME: Duration = Duration::from_secs(20);
const HANDSHAKES: usize = 512;
/// Of those who come from one address, nobody knows yet who they are; on the listener for enrolment nobody ever does.
const UNKNOWN_OF_ONE: usize = 128;
const CONNECTIONS: usize = 1024;
/// Of one person or host: whoever may come in must not be able to keep everybody else out.
const CONNECTIONS_OF_ONE: usize = 128;
/// To enrol takes one call. Who has no certificate keeps no seat.
const ENROLMENT_TIME: Duration = Duration::from_secs(60);
/// After an accept that failed, as it does when there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// What a listener demands of who comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A certificate.
    Certificate,
    /// Nothing.
    Nothing,
}

/// A connection after its handshake.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When the certificate ends, or the patience with who has none.
    expires: Option<Pin<Box<Sleep>>>,
    _seat: OwnedSemaphorePermit,
    _place: Taken,
}

/// What a connection has of what nobody may have too much of.
enum Taken {
    /// One of those of a caller.
    Known { _place: Place<Caller> },
    /// One of those of an address.
    Unknown { _place: Place<IpAddr> },
}

/// Who has how many connections.
type Places<K> = Arc<Mutex<BTreeMap<K, usize>>>;

/// One of somebody's connections, given back when dropped.
struct Place<K: Ord> {
    places: Places<K>,
    of: K,
}

impl<K: Ord + Clone> Place<K> {
    /// `None` where there are too many.
    fn take(places: &Places<K>, of: &K, most: usize) -> Option<Self> {
        let mut all = places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(of.clone()).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        drop(all);
        Some(Self { places: Arc::clone(places), of: of.clone() })
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = all.get_mut(&self.of) {
            *taken -= 1;
            if *taken == 0 {
                all.remove(&self.of);
            }
        }
    }
}

/// Connections as they come, until the stream is dropped.
pub fn accept(
    tcp: TcpListener,
    tls: Arc<ServerConfig>,
    demand: Demand,
    strangers: Arc<Strangers>,
) -> ReceiverStream<io::Result<Connection>> {
    let (send, receive) = mpsc::channel(16);
    tokio::spawn(run(tcp, TlsAcceptor::from(tls), demand, strangers, send));
    ReceiverStream::new(receive)
}

async fn run(
    tcp: TcpListener,
    tls: TlsAcceptor,
    demand: Demand,
    strangers: Arc<Strangers>,
    out: mpsc::Sender<io::Result<Connection>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    let (callers, addresses) = (Places::default(), Places::default());
    loop {
        // Who comes while all are taken waits in the kernel's queue.
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = out.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(failure) => {
                tracing::warn!("a connection was not accepted: {failure}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            strangers.note(Stranger::Full, String::new(), address);
            continue;
        };
        let Some(unknown) = Place::take(&addresses, &network(address.ip()), UNKNOWN_OF_ONE) else {
            strangers.note(Stranger::Full, "from its address".to_owned(), address);
            continue;
        };
        let (tls, strangers, out) = (tls.clone(), Arc::clone(&strangers), out.clone());
        let callers = Arc::clone(&callers);
        tokio::spawn(async move {
            let shaken = handshake(stream, address, &tls, demand, (seat, unknown, &callers)).await;
            drop(permit);
            match shaken {
                Ok(connection) => drop(out.send(Ok(connection)).await),
                Err((kind, text)) => strangers.note(kind, text, address),
            }
        });
    }
}

/// Who has one address of IPv6 has as a rule all that begin like it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(whole) => Ipv6Addr::from_bits(whole.to_bits() >> 64 << 64).into(),
        whole @ IpAddr::V4(_) => whole,
    }
}

async fn handshake(
    stream: TcpStream,
    address: SocketAddr,
    tls: &TlsAcceptor,
    demand: Demand,
    (seat, unknown, callers): (OwnedSemaphorePermit, Place<IpAddr>, &Places<Caller>),
) -> Result<Connection, (Stranger, String)> {
    let _ = stream.set_nodelay(true);
    let stream = tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream))
        .await
        .map_err(|_| (Stranger::Slow, String::new()))?
        .map_err(|failure| kind_of(&failure))?;
    let (mut print, mut der, mut until) = (String::new(), Arc::default(), Timestamp::MAX);
    let (caller, expires) = match demand {
        Demand::Nothing => (None, Some(ENROLMENT_TIME)),
        Demand::Certificate => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let certificate = certificate.ok_or((Stranger::NoCertificate, String::new()))?;
            let (caller, ends) =
                Caller::of(certificate).map_err(|e| (Stranger::NoIdentity, e.to_string()))?;
            let left = ends.duration_since(Timestamp::now());
            print = fingerprint(certificate);
            until = ends;
            der = Arc::from(certificate.as_ref());
            (Some(caller), Some(Duration::try_from(left).unwrap_or(Duration::ZERO)))
        }
    };
    let place = match &caller {
        None => Taken::Unknown { _place: unknown },
        Some(caller) => Taken::Known {
            _place: Place::take(callers, caller, CONNECTIONS_OF_ONE)
                .ok_or_else(|| (Stranger::Full, format!("of {}", caller.actor())))?,
        },
    };
    let expires = expires.map(|left| Box::pin(tokio::time::sleep(left)));
    let peer = Peer { caller, certificate: print, der, until, address };
    Ok(Connection { stream, peer, expires, _seat: seat, _place: place })
}

/// Which kind of stranger it is that fails like this.
fn kind_of(failure: &io::Error) -> (Stranger, String) {
    use rustls::Error;
    let cause = failure.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let kind = match cause {
        Some(Error::NoCertificatesPresented) => Stranger::NoCertificate,
        Some(Error::InvalidCertificate(problem)) => match problem {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Stranger::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Stranger::NotYet,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Stranger::Foreign,
            CertificateError::Other(other) => return (Stranger::NoIdentity, other.0.to_string()),
            _ => return (Stranger::BadCertificate, problem.to_string()),
        },
        _ => return (Stranger::NoTls, failure.to_string()),
    };
    (kind, String::new())
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.expires.as_mut().is_some_and(|at| at.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "its time is over")));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    // Without these two, HTTP/2 hands over the head of a frame by itself: a TLS record and a system call more.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
