//! One HTTPS request at a time, to a server whose authority is pinned.

use super::KeyError;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// For one request, from the look-up of the name to the last byte; below what the guard allows for a key.
const LIMIT: Duration = Duration::from_secs(4);
/// No answer is longer, bytes.
const MOST: usize = 64 * 1024;

pub(super) struct Https {
    host: String,
    port: u16,
    tls: TlsConnector,
    runtime: tokio::runtime::Runtime,
}

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// From the root, as in `/v1/…`.
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'static str, &'a str)],
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Https {
    /// `address` is `https://HOST[:PORT]`; only the authorities in the PEM file are believed.
    pub(super) fn new(address: &str, port: u16, ca: &Path) -> Result<Self, KeyError> {
        let wrong =
            || KeyError::new(format!("`{}` is no address: say https://HOST:PORT", address.escape_debug()));
        let authority = address.strip_prefix("https://").ok_or_else(wrong)?.trim_end_matches('/');
        let authority: hyper::http::uri::Authority = authority.parse().map_err(|_| wrong())?;
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let mut roots = RootCertStore::empty();
        let unread = |e: &dyn std::error::Error| {
            KeyError::new(format!("`{}` has no certificate of an authority: {e}", ca.display()))
        };
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|e| unread(&e))? {
            roots.add(certificate.map_err(|e| unread(&e))?).map_err(|e| unread(&e))?;
        }
        if roots.is_empty() {
            return Err(KeyError::new(format!("`{}` has no certificate of an authority", ca.display())));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| KeyError::new(format!("TLS cannot be set up: {e}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // It is used, and dropped, on the thread of the provider alone.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| KeyError::because("the key provider cannot be given a thread", e))?;
        let port = authority.port_u16().unwrap_or(port);
        Ok(Self { host, port, tls: TlsConnector::from(Arc::new(config)), runtime })
    }

    /// Status and body. An error: it was not reached, or did not answer in time.
    pub(super) fn ask(&self, question: Question<'_>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), KeyError> {
        let answer = self.runtime.block_on(async {
            match tokio::time::timeout(LIMIT, self.answer(question)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
            }
        });
        answer.map_err(|why| {
            KeyError::unreachable(format!("`{}:{}` cannot be reached: {why}", self.host, self.port))
        })
    }

    async fn answer(&self, question: Question<'_>) -> Result<(StatusCode, Zeroizing<Vec<u8>>), String> {
        let said = |e: &dyn std::error::Error| crate::ledger::chain(e);
        let name = ServerName::try_from(self.host.clone()).map_err(|e| said(&e))?;
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| said(&e))?;
        let tls = self.tls.connect(name, tcp).await.map_err(|e| said(&e))?;
        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|e| said(&e))?;
        // It ends with the answer, or with this runtime's turn.
        let driven = tokio::spawn(connection);
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
        driven.abort();
        Ok((status, Zeroizing::new(body.to_bytes().to_vec())))
    }
}
