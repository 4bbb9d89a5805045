//! A program that is told by HTTP, as the operators' guide has it written.

use crate::world::SOON;
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

pub const SECRET: &str = "what only the two of them know";

pub struct Hook {
    pub port: u16,
    told: mpsc::UnboundedReceiver<Value>,
    answers: Arc<Mutex<VecDeque<u16>>>,
}

impl Hook {
    /// With the certificate that `post::certificates` has made.
    pub async fn start(dir: &Path) -> Self {
        let chain = vec![CertificateDer::from_pem_file(dir.join("localhost.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(dir.join("localhost.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(VecDeque::new()));
        let queue = Arc::clone(&answers);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (tls, tell, queue) = (tls.clone(), tell.clone(), Arc::clone(&queue));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(tcp).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        answer(request, tell.clone(), Arc::clone(&queue))
                    });
                    // It ends when the other side ends.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { port, told, answers }
    }

    /// The next answers; 0: none. Then 200.
    pub fn answer(&self, codes: &[u16]) {
        self.answers.lock().unwrap().extend(codes);
    }

    /// What it was told next, and by holmd.
    pub async fn next(&mut self) -> Value {
        tokio::time::timeout(SOON, self.told.recv()).await.expect("it is told nothing").unwrap()
    }
}

async fn answer(
    request: Request<Incoming>,
    tell: mpsc::UnboundedSender<Value>,
    answers: Arc<Mutex<VecDeque<u16>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let header = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    let (signature, key) = (header("holm-signature"), header("idempotency-key"));
    assert_eq!((request.method().as_str(), header("content-type").as_str()), ("POST", "application/json"));
    let body = request.into_body().collect().await?.to_bytes();
    assert!(verified(&signature, &body), "{signature}");
    assert!(!verified(&signature, &[&body[..], b" "].concat()), "a signature of anything");
    let told: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(told["id"], key);
    let code = answers.lock().unwrap().pop_front().unwrap_or(200);
    tell.send(told).unwrap();
    if code == 0 {
        std::future::pending::<()>().await;
    }
    Ok(Response::builder().status(code).body(Full::default()).unwrap())
}

/// As the guide says.
fn verified(signature: &str, body: &[u8]) -> bool {
    let Some((time, tag)) = signature.strip_prefix("t=").and_then(|rest| rest.split_once(",v1=")) else {
        return false;
    };
    let age = Timestamp::now().as_second() - time.parse::<i64>().unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signed = [time.as_bytes(), b".", body].concat();
    age.abs() < 300 && hmac::verify(&key, &signed, &HEXLOWER.decode(tag.as_bytes()).unwrap()).is_ok()
}
