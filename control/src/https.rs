//! One HTTP request at a time, by TLS to a server whose authority is pinned.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::IpAddr;
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

/// Where a server is, as a configuration says it.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) authority: Authority,
    /// From the root, with what is asked.
    pub(crate) path: String,
    /// Absent only towards this machine.
    pub(crate) tls: bool,
}

impl Address {
    /// `https://HOST[:PORT][/PATH]`, or `http://` on this machine alone.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        let uri: Uri = url.parse().map_err(|_| "no URL")?;
        let authority = uri.authority().filter(|a| !a.as_str().contains('@'));
        let authority = authority.ok_or("no URL of a server: say https://HOST/PATH")?.clone();
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if loopback(authority.host()) => false,
            Some("http") => return Err("for this machine alone: say https://"),
            _ => return Err("no URL of a server: say https://HOST/PATH"),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { authority, path, tls })
    }

    /// Its server. Of the authorities only those in the file are believed.
    pub(crate) fn server(&self, ca: &Path, limit: Duration) -> Result<Https, String> {
        let (port, roots) = if self.tls { (443, Some(roots(ca)?)) } else { (80, None) };
        Https::new(&self.authority, port, roots, limit)
    }
}

fn loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

    /// Less patient.
    #[cfg(test)]
    pub(crate) fn limited(self, limit: Duration) -> Self {
        Self { limit, ..self }
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

pub(crate) fn connector(roots: RootCertStore) -> Result<TlsConnector, String> {
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
