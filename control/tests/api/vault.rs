//! A small server of the transit engine's documented API, for the `vault` provider. Not Vault itself.
//! <https://developer.hashicorp.com/vault/api-docs/secret/transit>

use ::aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use data_encoding::BASE64;
use holm_control::keys::{ProviderConfig, Secret};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub const TOKEN: &str = "hvs.right";

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Takes connections and drops them.
    Away,
    /// Takes requests and never answers.
    Silent,
    Sealed,
    /// Answers what no API documents.
    Mad,
}

struct Inner {
    mood: Mood,
    /// Version n is at n - 1.
    keys: Vec<[u8; 32]>,
    asked: Vec<String>,
}

pub struct Vault {
    inner: Arc<Mutex<Inner>>,
    pub dir: tempfile::TempDir,
    port: u16,
}

impl Vault {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&ca_key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], private)
                .unwrap();
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Mutex::new(Inner { mood: Mood::Well, keys: vec![[1; 32]], asked: Vec::new() }));
        let vault = Self { inner: Arc::clone(&inner), dir, port };
        vault.token(TOKEN);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (tls, inner) = (tls.clone(), Arc::clone(&inner));
                if inner.lock().unwrap().mood == Mood::Away {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(tcp).await else { return };
                    let service =
                        hyper::service::service_fn(move |request| answer(Arc::clone(&inner), request));
                    let io = TokioIo::new(stream);
                    // It ends when the other side ends.
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        vault
    }

    pub fn token(&self, token: &str) {
        let path = self.path("token");
        std::fs::write(&path, format!("{token}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn mood(&self, mood: Mood) {
        self.inner.lock().unwrap().mood = mood;
    }

    pub fn version(&self) -> usize {
        self.inner.lock().unwrap().keys.len()
    }

    pub fn asked(&self) -> usize {
        self.inner.lock().unwrap().asked.len()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> ProviderConfig {
        ProviderConfig::Vault {
            address: format!("https://localhost:{}", self.port),
            ca_file: self.path("ca.pem"),
            mount: "transit".to_owned(),
            key: "holm".to_owned(),
            token: Secret::File(self.path("token")),
            namespace: String::new(),
        }
    }
}

async fn answer(
    inner: Arc<Mutex<Inner>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let token =
        head.headers.get("x-vault-token").and_then(|t| t.to_str().ok()).unwrap_or_default().to_owned();
    let mood = inner.lock().unwrap().mood;
    let (status, text) = match mood {
        Mood::Silent => std::future::pending().await,
        Mood::Mad => (StatusCode::OK, "{\"data\": 7".to_owned()),
        Mood::Sealed => {
            (StatusCode::SERVICE_UNAVAILABLE, json!({ "errors": ["Vault is sealed"] }).to_string())
        }
        _ if token != TOKEN => {
            (StatusCode::FORBIDDEN, json!({ "errors": ["permission denied"] }).to_string())
        }
        _ => {
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            match inner.lock().unwrap().answer(&head.method, head.uri.path(), &body) {
                Ok(data) => (StatusCode::OK, json!({ "data": data }).to_string()),
                Err(why) => (StatusCode::BAD_REQUEST, json!({ "errors": [why] }).to_string()),
            }
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    Ok(response)
}

impl Inner {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> Result<Value, String> {
        self.asked.push(path.to_owned());
        let bytes = |name: &str| BASE64.decode(body[name].as_str().unwrap_or_default().as_bytes()).unwrap();
        let aead = |version: usize| {
            let key = self.keys.get(version.checked_sub(1)?)?;
            RandomizedNonceKey::new(&AES_256_GCM, key).ok()
        };
        let unknown = || "invalid key version".to_owned();
        match (method.as_str(), path) {
            ("GET", "/v1/transit/keys/holm") => {
                Ok(json!({ "type": "aes256-gcm96", "latest_version": self.keys.len(), "name": "holm" }))
            }
            ("POST", "/v1/transit/keys/holm/rotate") => {
                self.keys.push([self.keys.len() as u8 + 1; 32]);
                Ok(Value::Null)
            }
            ("POST", "/v1/transit/encrypt/holm") => {
                let version = body["key_version"].as_u64().unwrap() as usize;
                let mut sealed = bytes("plaintext");
                let about = bytes("associated_data");
                let nonce = aead(version)
                    .ok_or_else(unknown)?
                    .seal_in_place_append_tag(Aad::from(&about), &mut sealed)
                    .unwrap();
                let text = BASE64.encode(&[nonce.as_ref().as_slice(), &sealed].concat());
                Ok(json!({ "ciphertext": format!("vault:v{version}:{text}"), "key_version": version }))
            }
            ("POST", "/v1/transit/decrypt/holm") => {
                let text = body["ciphertext"].as_str().unwrap();
                let (version, text) = text.strip_prefix("vault:v").and_then(|t| t.split_once(':')).unwrap();
                let sealed = BASE64.decode(text.as_bytes()).map_err(|_| "invalid ciphertext".to_owned())?;
                let (nonce, sealed) = sealed.split_at(12);
                let nonce = Nonce::try_assume_unique_for_key(nonce).unwrap();
                let mut sealed = sealed.to_vec();
                let plain = aead(version.parse().unwrap())
                    .ok_or_else(unknown)?
                    .open_in_place(nonce, Aad::from(&bytes("associated_data")), &mut sealed)
                    .map_err(|_| "cipher: message authentication failed".to_owned())?;
                Ok(json!({ "plaintext": BASE64.encode(plain) }))
            }
            _ => Err("no handler for route".to_owned()),
        }
    }
}
