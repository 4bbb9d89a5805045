//! A witness by HTTP: so many connections, requests of this size and in this time, and so many of one address.

use super::server::{Verdict, Witness, WitnessConfig};
use crate::allowance::{Admitted, Allowance, Rate};
use crate::app::Failure;
use crate::ledger::chain;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// The largest request, bytes: 63 hashes and a checkpoint with many signatures.
const MOST: usize = 128 * 1024;
/// For a handshake, for headers, and for a whole request.
const LIMIT: Duration = Duration::from_secs(10);
/// A connection that says nothing more ends.
const LIFE: Duration = Duration::from_secs(120);
const CONNECTIONS: usize = 256;
/// Of one address.
const OF_ADDRESS: Rate =
    Rate { burst: 60, refill: SignedDuration::from_secs(1), said: SignedDuration::from_mins(1) };
/// Addresses that are remembered; of those beyond, the ones that have all of theirs are forgotten.
const REMEMBERED: usize = 4096;
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// A witness that serves, or would.
pub struct Serving {
    /// Where.
    pub address: SocketAddr,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    witness: Arc<Witness>,
}

impl Serving {
    /// Take the address. Without a certificate only this machine's own.
    pub async fn bind(config: &WitnessConfig, witness: Arc<Witness>) -> Result<Self, Failure> {
        let tls = match (&config.certificate, &config.certificate_key) {
            (Some(chain), Some(key)) => Some(acceptor(chain, key)?),
            (None, None) if config.listen.ip().is_loopback() => None,
            (None, None) => {
                let what = format!("`{}` is for others, and there is no certificate", config.listen);
                return Err(Failure::new(what, "name `certificate` and `certificate_key` in witness.toml"));
            }
            _ => {
                let what = "`certificate` and `certificate_key` stand together";
                return Err(Failure::new(what, "mend witness.toml"));
            }
        };
        let failed = |e| {
            let what = format!("`{}` cannot be listened on", config.listen);
            Failure::because(what, "see who has it: ss -ltnp; or change witness.toml", e)
        };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { address, listener, tls, witness })
    }

    /// Answers until it is dropped.
    pub async fn run(self) {
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        let allowed = Arc::new(Mutex::new(BTreeMap::<IpAddr, Allowance>::new()));
        loop {
            // Who comes while all are taken waits in the kernel's queue.
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
            let (tcp, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(failure) => {
                    tracing::warn!("a connection was not accepted: {failure}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (tls, witness, allowed) = (self.tls.clone(), Arc::clone(&self.witness), Arc::clone(&allowed));
            tokio::spawn(async move {
                let _seat = seat;
                let served = async {
                    match tls {
                        None => serve(tcp, peer.ip(), witness, allowed).await,
                        Some(tls) => {
                            if let Ok(Ok(stream)) = tokio::time::timeout(LIMIT, tls.accept(tcp)).await {
                                serve(stream, peer.ip(), witness, allowed).await;
                            }
                        }
                    }
                };
                let _ = tokio::time::timeout(LIFE, served).await;
            });
        }
    }
}

fn acceptor(shown: &Path, key: &Path) -> Result<TlsAcceptor, Failure> {
    let next = "mend `certificate` and `certificate_key` in witness.toml";
    let unread = |path: &Path, e: &dyn std::error::Error| {
        Failure::new(format!("`{}` cannot be used: {}", path.display(), chain(e)), next)
    };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(shown).map_err(|e| unread(shown, &e))?.collect();
    let certificates = certificates.map_err(|e| unread(shown, &e))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unread(key, &e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, secret))
        .map_err(|e| unread(shown, &e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

type Allowed = Arc<Mutex<BTreeMap<IpAddr, Allowance>>>;

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: IpAddr,
    witness: Arc<Witness>,
    allowed: Allowed,
) {
    let service = hyper::service::service_fn(move |request| {
        let (witness, allowed) = (Arc::clone(&witness), Arc::clone(&allowed));
        async move { Ok::<_, std::convert::Infallible>(answer(request, peer, witness, &allowed).await) }
    });
    // How it ends is the other side's affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    peer: IpAddr,
    witness: Arc<Witness>,
    allowed: &Mutex<BTreeMap<IpAddr, Allowance>>,
) -> Response<Full<Bytes>> {
    if !admitted(allowed, peer) {
        return said(StatusCode::TOO_MANY_REQUESTS, "too many requests: wait, one is heard every second\n");
    }
    let path = request.uri().path();
    let latest = path.strip_prefix('/').and_then(|path| path.strip_suffix("/checkpoint"));
    match (request.method(), latest) {
        (&Method::GET, Some(of)) => {
            let of = of.to_owned();
            match tokio::task::spawn_blocking(move || witness.latest(&of)).await {
                Ok(Some(note)) => said(StatusCode::OK, note),
                _ => said(StatusCode::NOT_FOUND, "nothing was cosigned of such a log\n"),
            }
        }
        (&Method::POST, None) if path == "/add-checkpoint" => {
            let body = Limited::new(request.into_body(), MOST).collect();
            let body = match tokio::time::timeout(LIMIT, body).await {
                Err(_) => return said(StatusCode::REQUEST_TIMEOUT, "the request did not come in time\n"),
                Ok(Err(_)) => return said(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large\n"),
                Ok(Ok(body)) => body.to_bytes(),
            };
            let judged = tokio::task::spawn_blocking(move || witness.add(&body, Timestamp::now())).await;
            told(judged.unwrap_or_else(|e| Verdict::Failed(e.to_string())))
        }
        _ => said(StatusCode::NOT_FOUND, "there is /add-checkpoint, and /HASH/checkpoint\n"),
    }
}

fn admitted(allowed: &Mutex<BTreeMap<IpAddr, Allowance>>, peer: IpAddr) -> bool {
    let now = Timestamp::now();
    let mut all = allowed.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() > REMEMBERED {
        all.retain(|_, allowance| !allowance.is_whole(now));
    }
    all.entry(peer).or_insert_with(|| Allowance::new(OF_ADDRESS, now)).take(now) == Admitted::Yes
}

fn told(verdict: Verdict) -> Response<Full<Bytes>> {
    match verdict {
        Verdict::Cosigned(line) => said(StatusCode::OK, line),
        Verdict::Conflict(size) => {
            let mut response = said(StatusCode::CONFLICT, format!("{size}\n"));
            let kind = hyper::header::HeaderValue::from_static("text/x.tlog.size");
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
            response
        }
        Verdict::Bad(why) => said(StatusCode::BAD_REQUEST, format!("{why}\n")),
        Verdict::Unknown => said(StatusCode::NOT_FOUND, "this witness does not know that log\n"),
        Verdict::Forbidden => said(StatusCode::FORBIDDEN, "the log did not sign that\n"),
        Verdict::Inconsistent => {
            said(StatusCode::UNPROCESSABLE_ENTITY, "that does not begin with what was cosigned before\n")
        }
        Verdict::Failed(why) => {
            tracing::error!("{why}");
            said(StatusCode::INTERNAL_SERVER_ERROR, "the witness cannot keep it\n")
        }
    }
}

fn said(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}
