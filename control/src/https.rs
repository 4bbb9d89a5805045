//! One HTTP request at a time, by TLS to a server whose authority is pinned.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// No answer is longer, bytes.
const MOST: usize = 64 * 1024;

/// A server.
pub(crate) struct Https {
    host: String,
    port: u16,
    /// Without it nothing is kept from others: to this machine alone.
    tls: Option<TlsConnector>,
    /// For one request, from the look-up of the name to the last byte.
    limit: Duration,
}

/// What is asked.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    /// From the root, as in `/v1/…`.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Https {
    /// Only these authorities are believed; none: without TLS.
    pub(crate) fn new(
        authority: &Authority,
        port: u16,
        roots: Option<RootCertStore>,
        limit: Duration,
    ) -> Result<Self, String> {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = roots.map(connector).transpose()?;
        Ok(Self { host, port: authority.port_u16().unwrap_or(port), tls, limit })
    }

    /// Status and body. An error: it was not reached, or did not answer in time.
    pub(crate) async fn ask(
        &self,
        question: Question<'_>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let answer = match tokio::time::timeout(self.limit, self.answer(question)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", self.limit.as_secs())),
        };
        answer.map_err(|why| format!("`{}:{}` cannot be reached: {why}", self.host, self.port))
    }

    async fn answer(&self, question: Question<'_>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| said(&e))?;
        let Some(tls) = &self.tls else { return self.exchange(tcp, question).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|e| said(&e))?;
        let tls = tls.connect(name, tcp).await.map_err(|e| said(&e))?;
        self.exchange(tls, question).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        question: Question<'_>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| said(&e))?;
        // It ends with this question, however that ends.
        let mut driven = JoinSet::new();
        driven.spawn(connection);
        let mut request = Request::builder().method(question.method).uri(question.path);
        request =
            request.header("host", format!("{}:{}", self.host, self.port)).header("connection", "close");
        for (name, value) in question.headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(&question.body));
        let request = request.body(body).map_err(|e| said(&e))?;
        let answer = send.send_request(request).await.map_err(|e| said(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(|e| e.to_string())?;
        Ok((status, Zeroizing::new(body.to_bytes().to_vec())))
    }
}

/// The authorities in a PEM file.
pub(crate) fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let unread =
        |e: &dyn std::error::Error| format!("`{}` has no certificate of an authority: {e}", ca.display());
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| unread(&e))? {
        roots.add(certificate.map_err(|e| unread(&e))?).map_err(|e| unread(&e))?;
    }
    if roots.is_empty() {
        return Err(format!("`{}` has no certificate of an authority", ca.display()));
    }
    Ok(roots)
}

fn connector(roots: RootCertStore) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn said(e: &dyn std::error::Error) -> String {
    crate::ledger::chain(e)
}
