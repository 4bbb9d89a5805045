//! The transit engine of HashiCorp Vault or OpenBao: the key-encryption key never leaves it.
//!
//! ```text
//!   GET  /v1/MOUNT/keys/KEY           latest_version: the generation
//!   POST /v1/MOUNT/encrypt/KEY        plaintext, associated_data (base64), key_version ─▶ ciphertext `vault:vN:…`
//!   POST /v1/MOUNT/decrypt/KEY        ciphertext, associated_data ─▶ plaintext
//!   POST /v1/MOUNT/keys/KEY/rotate
//! ```
//!
//! As <https://developer.hashicorp.com/vault/api-docs/secret/transit> documents it. Its `rewrap` is not used: what is
//! wrapped anew is seen to open before the old wrapping is destroyed, and for that it has to be opened.
//!
//! Older versions stay at the server until its operator raises `min_decryption_version` and trims the key.

use super::Secret;
use super::https::Https;
use super::{Key, KeyError, Provider, as_key, secret};
use crate::https::Question;
use data_encoding::BASE64;
use hyper::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use zeroize::Zeroizing;

const PORT: u16 = 8200;

pub(super) struct Vault {
    https: Https,
    mount: String,
    key: String,
    token: Secret,
    namespace: String,
}

impl Vault {
    pub(super) fn new(
        address: &str,
        ca: &Path,
        (mount, key): (&str, &str),
        token: &Secret,
        namespace: &str,
    ) -> Result<Self, KeyError> {
        for name in mount.split('/').chain([key]) {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
                let text = format!("`{}` is no name of a mount or key of Vault's", name.escape_debug());
                return Err(KeyError::new(text));
            }
        }
        if *token == Secret::Prompt {
            return Err(KeyError::new(
                "a token is read from a file or a credential: it changes while holmd runs",
            ));
        }
        Ok(Self {
            https: Https::new(address, PORT, ca)?,
            mount: mount.to_owned(),
            key: key.to_owned(),
            token: token.clone(),
            namespace: namespace.to_owned(),
        })
    }

    fn call<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, KeyError> {
        #[derive(Deserialize)]
        struct Answer<T> {
            data: T,
        }
        let body = self.ask(method, path, body)?;
        let answer: Result<Answer<T>, _> = serde_json::from_slice(&body);
        // What serde says may quote what it read.
        answer
            .map(|answer| answer.data)
            .map_err(|_| KeyError::new("Vault's answer is not as its API documents it"))
    }

    fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        // At each request: whoever renews it writes a new one there.
        let token = secret::read(&self.token)?;
        let token = std::str::from_utf8(token.expose_secret());
        let token = token.map_err(|_| KeyError::new("Vault's token is no text"))?;
        let path = format!("/v1/{}/{path}", self.mount);
        let mut headers = vec![("x-vault-token", token), ("x-vault-request", "true")];
        if !self.namespace.is_empty() {
            headers.push(("x-vault-namespace", &self.namespace));
        }
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let question = Question { method, path: &path, headers: &headers, body: Zeroizing::new(body) };
        let (status, body) = self.https.ask(question)?;
        if status.is_success() {
            return Ok(body);
        }
        let text = format!("Vault answers {}: {}", status.as_u16(), errors(&body));
        // Of these only the first two are about what was asked; the others end when somebody mends something there.
        match status {
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Err(KeyError::new(text)),
            _ => Err(KeyError::unreachable(text)),
        }
    }
}

/// What Vault says of a failure; it never quotes what it was sent.
fn errors(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let all = serde_json::from_slice::<Errors>(body).map(|e| e.errors.join("; ")).unwrap_or_default();
    let text: String = all.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.is_empty() { "it does not say why".to_owned() } else { text }
}

impl Provider for Vault {
    fn generation(&mut self) -> Result<u32, KeyError> {
        #[derive(Deserialize)]
        struct About {
            latest_version: u32,
            #[serde(rename = "type")]
            kind: String,
        }
        let about: About = self.call(Method::GET, &format!("keys/{}", self.key), &Value::Null)?;
        match about.kind.as_str() {
            // The others take no associated data.
            "aes128-gcm96" | "aes256-gcm96" | "chacha20-poly1305" | "xchacha20-poly1305" => {
                Ok(about.latest_version)
            }
            other => Err(KeyError::new(format!(
                "Vault's key `{}` is of type {}: it has to be aes256-gcm96",
                self.key,
                other.escape_debug()
            ))),
        }
    }

    fn wrap(&mut self, key: &Key, generation: u32, about: &[u8]) -> Result<Vec<u8>, KeyError> {
        #[derive(Deserialize)]
        struct Encrypted {
            ciphertext: String,
        }
        let plaintext = Zeroizing::new(BASE64.encode(key.expose_secret()));
        let body = json!({
            "plaintext": plaintext.as_str(),
            "associated_data": BASE64.encode(about),
            "key_version": generation,
        });
        let encrypted: Encrypted = self.call(Method::POST, &format!("encrypt/{}", self.key), &body)?;
        if !encrypted.ciphertext.starts_with(&format!("vault:v{generation}:"))
            || encrypted.ciphertext.len() > 1024
        {
            return Err(KeyError::new(
                "Vault's ciphertext is of another version of its key than was asked for",
            ));
        }
        Ok(encrypted.ciphertext.into_bytes())
    }

    fn unwrap(&mut self, sealed: &[u8], generation: u32, about: &[u8]) -> Result<Key, KeyError> {
        #[derive(Deserialize)]
        struct Decrypted {
            plaintext: String,
        }
        let ciphertext = std::str::from_utf8(sealed).ok();
        let ciphertext = ciphertext.filter(|text| text.starts_with(&format!("vault:v{generation}:")));
        let ciphertext = ciphertext.ok_or_else(|| KeyError::new("it does not open"))?;
        let body = json!({ "ciphertext": ciphertext, "associated_data": BASE64.encode(about) });
        let decrypted: Decrypted = self.call(Method::POST, &format!("decrypt/{}", self.key), &body)?;
        let plaintext = Zeroizing::new(decrypted.plaintext);
        let plain = BASE64.decode(plaintext.as_bytes()).map(Zeroizing::new);
        let key = plain.ok().and_then(|plain| as_key(&plain));
        key.ok_or_else(|| KeyError::new("it does not open"))
    }

    fn rotate(&mut self) -> Result<u32, KeyError> {
        self.ask(Method::POST, &format!("keys/{}/rotate", self.key), &json!({}))?;
        self.generation()
    }

    fn retire(&mut self, _: u32) -> Result<(), KeyError> {
        Ok(())
    }
}
