//! A second factor, proven at the site's OpenID provider by who has a certificate already.
//!
//! ```text
//!   person ─ BeginLogin ─▶ holmd ─ device authorization request ─▶ provider: a code for her
//!     │ opens the provider's page, in any browser, enters the code, proves who she is there
//!   person ─ FinishLogin ─▶ holmd ─ token request ─▶ provider: not yet … ─▶ ID token
//!                             └─ signature, issuer, audience, times, `acr` or `amr` ─▶ her record, the log
//! ```
//!
//! The device authorization grant of RFC 8628, and OpenID Connect Core 1.0 for the token. holmd asks, not the command line:
//! the client's secret, the provider's authority and the token stay where they can be kept. The certificate says who calls;
//! the provider says that she was there. The account at the provider is hers from the first time on, and nobody else's: of
//! its name holmd keeps a hash.

mod token;

use crate::https::{Https, Question, roots};
use crate::keys::{Secret, read_secret};
use data_encoding::BASE64;
use holm_proto::ids::Name;
use hyper::{Method, StatusCode, Uri};
use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zeroize::Zeroizing;

pub use token::Proven;

/// For one question.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two questions where the provider does not say, seconds (RFC 8628, 3.2).
const INTERVAL: u32 = 5;
/// Added when it is asked too often (RFC 8628, 3.5).
const SLOWER: u32 = 5;
/// The longest that a login is waited for, whatever the provider says.
const LONGEST: SignedDuration = SignedDuration::from_mins(10);
/// So soon nobody begins again: the provider is asked twice each time.
const SOON: SignedDuration = SignedDuration::from_secs(10);
/// People who log in at the same time.
const AT_ONCE: usize = 1000;
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// `[login]`: the site's OpenID provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginConfig {
    /// Exactly as its tokens name it, `https://HOST[:PORT][/PATH]`.
    pub issuer: String,
    /// As the provider knows holmd. It must be allowed the device authorization grant.
    pub client_id: String,
    /// Of a confidential client: what it shows the provider; absent: a public client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// Authorities of the provider's certificate, PEM.
    pub ca_file: PathBuf,
    /// Contexts, in `acr`, that take a second factor; they are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acr: Vec<String>,
    /// Methods, in `amr` (RFC 8176), each of which says that there was a second factor.
    #[serde(default = "multiple")]
    pub amr: Vec<String>,
}

fn multiple() -> Vec<String> {
    vec!["mfa".to_owned()]
}

/// The provider, and who is logging in there.
pub struct Login {
    config: LoginConfig,
    /// Who may sign the provider's certificate.
    roots: RootCertStore,
    /// By who calls, and with which certificate.
    pending: Mutex<BTreeMap<(Name, String), Pending>>,
}

/// One who has a code.
#[derive(Clone)]
struct Pending {
    device_code: Zeroizing<String>,
    begun: Timestamp,
    expires: Timestamp,
    interval: u32,
    /// Not before.
    next: Timestamp,
}

/// What she is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// To be opened.
    pub page: String,
    /// With the code in it; may be empty.
    pub page_with_code: String,
    /// To be entered there.
    pub code: String,
    /// Good until then.
    pub expires: Timestamp,
    /// Ask again after so many seconds.
    pub interval: u32,
}

/// How far she is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask again after so many seconds.
    NotYet(u32),
    /// She was there.
    Done(Proven),
}

/// Why there is no login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// What she can do: begin again.
    #[error("{0}")]
    Over(String),
    /// What an operator can do.
    #[error("{0}")]
    Provider(String),
    /// It cannot be reached, or does not answer.
    #[error("{0}")]
    Away(String),
}

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    device_authorization_endpoint: Option<String>,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Device {
    device_code: String,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    expires_in: u32,
    interval: Option<u32>,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: Option<String>,
}

#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl Login {
    /// As it is configured; nobody is asked.
    pub fn new(config: LoginConfig) -> Result<Self, String> {
        let issuer: Uri = config.issuer.parse().map_err(|_| "`issuer` in [login] is no URL".to_owned())?;
        if issuer.scheme_str() != Some("https") || issuer.host().is_none() || issuer.query().is_some() {
            return Err(format!("`issuer` in [login] is `{}`: say https://HOST/PATH", config.issuer));
        }
        if config.acr.is_empty() && config.amr.is_empty() {
            return Err("[login] names neither `acr` nor `amr`: nothing would be a second factor".to_owned());
        }
        let roots = roots(&config.ca_file)?;
        if let Some(secret) = &config.client_secret {
            if *secret == Secret::Prompt {
                return Err("`client_secret` in [login] is read from a file or a credential".to_owned());
            }
            read_secret(secret).map_err(|e| crate::ledger::chain(&e))?;
        }
        Ok(Self { config, roots, pending: Mutex::default() })
    }

    /// A code for her. One that she got before, with this certificate, is forgotten.
    pub async fn begin(&self, who: &Name, certificate: &str, now: Timestamp) -> Result<Begun, LoginError> {
        let who = (who.clone(), certificate.to_owned());
        let before = self.all().get(&who).map(|pending| pending.begun);
        if before.is_some_and(|begun| now.duration_since(begun).abs() < SOON) {
            let text = "you began to log in a moment ago: enter that code, or wait ten seconds for another";
            return Err(LoginError::Over(text.to_owned()));
        }
        let found = self.discover().await?;
        let endpoint = found
            .device_authorization_endpoint
            .ok_or_else(|| provider("it offers no device authorization grant (RFC 8628)"))?;
        let acr = self.config.acr.join(" ");
        // Who is logged in there already proves it again.
        let mut form =
            vec![("client_id", self.config.client_id.as_str()), ("scope", "openid"), ("prompt", "login")];
        if !acr.is_empty() {
            form.push(("acr_values", &acr));
        }
        let (status, body) = self.post(&endpoint, &form).await?;
        if !status.is_success() {
            let why = refused(&body).unwrap_or_default();
            return Err(provider(&format!("it gives holmd no code: {} {why}", status.as_u16())));
        }
        let device: Device =
            serde_json::from_slice(&body).map_err(|_| provider("its code is not as RFC 8628 has it"))?;
        let plain = |text: &str| text.len() <= 512 && text.chars().all(|c| c.is_ascii_graphic());
        let page = |text: &str| plain(text) && text.starts_with("https://");
        let complete = device.verification_uri_complete.unwrap_or_default();
        let code_fits = (1..=64).contains(&device.user_code.len()) && plain(&device.user_code);
        if !page(&device.verification_uri) || !code_fits || !(complete.is_empty() || page(&complete)) {
            return Err(provider("its code, or its page, is none that a person can be shown"));
        }
        let life = SignedDuration::from_secs(device.expires_in.into()).min(LONGEST);
        let expires = now.checked_add(life).unwrap_or(now);
        let interval = device.interval.unwrap_or(INTERVAL).clamp(1, 60);
        let mut all = self.all();
        all.retain(|_, pending| pending.expires > now);
        if all.len() >= AT_ONCE && !all.contains_key(&who) {
            return Err(LoginError::Over("too many people are logging in: wait a minute".to_owned()));
        }
        let device_code = Zeroizing::new(device.device_code);
        all.insert(who, Pending { device_code, begun: now, expires, interval, next: now });
        Ok(Begun {
            page: device.verification_uri,
            page_with_code: complete,
            code: device.user_code,
            expires,
            interval,
        })
    }

    /// Whether she was there meanwhile. The provider is not asked more often than it wants to be.
    pub async fn finish(
        &self,
        who: &Name,
        certificate: &str,
        clock: impl Fn() -> Timestamp + Send + Sync,
    ) -> Result<Step, LoginError> {
        let (who, now) = (&(who.clone(), certificate.to_owned()), clock());
        let over = |text: &str| LoginError::Over(text.to_owned());
        let pending = {
            let mut all = self.all();
            let pending = all.get_mut(who).ok_or_else(|| over("nobody began to log in here"))?;
            if now >= pending.expires {
                all.remove(who);
                return Err(over("the code has expired: nobody entered it in time"));
            }
            if now < pending.next {
                return Ok(Step::NotYet(pending.interval));
            }
            pending.next = later(now, pending.interval);
            pending.clone()
        };
        // Who is at its page meanwhile is not to begin anew because of a moment in which it cannot be reached.
        let not_yet = |why| match why {
            LoginError::Away(_) => Ok(Step::NotYet(pending.interval.saturating_add(SLOWER))),
            why => Err(why),
        };
        let found = match self.discover().await {
            Ok(found) => found,
            Err(why) => return not_yet(why),
        };
        let form = [
            ("grant_type", DEVICE),
            ("device_code", pending.device_code.as_str()),
            ("client_id", self.config.client_id.as_str()),
        ];
        let (status, body) = match self.post(&found.token_endpoint, &form).await {
            Ok(answer) => answer,
            Err(why) => return not_yet(why),
        };
        if !status.is_success() {
            return match refused(&body).as_deref() {
                Some("authorization_pending") => Ok(Step::NotYet(pending.interval)),
                Some("slow_down") => {
                    let interval = pending.interval.saturating_add(SLOWER);
                    if let Some(pending) = self.all().get_mut(who) {
                        (pending.interval, pending.next) = (interval, later(now, interval));
                    }
                    Ok(Step::NotYet(interval))
                }
                Some("access_denied") => {
                    self.forget(who, &pending.device_code);
                    Err(over("it was refused at the provider"))
                }
                Some("expired_token") => {
                    self.forget(who, &pending.device_code);
                    Err(over("the code has expired: nobody entered it in time"))
                }
                why => Err(provider(&format!(
                    "it gives no token: {} {}",
                    status.as_u16(),
                    why.unwrap_or_default()
                ))),
            };
        }
        // A code is good for one token, whatever becomes of that.
        self.forget(who, &pending.device_code);
        let tokens: Tokens =
            serde_json::from_slice(&body).map_err(|_| provider("its answer has no tokens"))?;
        let token = tokens.id_token.map(Zeroizing::new).ok_or_else(|| provider("it gives no ID token"))?;
        let (status, keys) = self.get(&found.jwks_uri).await?;
        if !status.is_success() {
            return Err(provider(&format!("it does not show its keys: {}", status.as_u16())));
        }
        token::verify(&token, &keys, &self.config, clock()).map(Step::Done).map_err(|why| provider(&why))
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<(Name, String), Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This code, and none that she got since.
    fn forget(&self, who: &(Name, String), code: &Zeroizing<String>) {
        let mut all = self.all();
        if all.get(who).is_some_and(|pending| pending.device_code == *code) {
            all.remove(who);
        }
    }

    async fn discover(&self) -> Result<Discovered, LoginError> {
        let issuer = self.config.issuer.trim_end_matches('/');
        let (status, body) = self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        if !status.is_success() {
            return Err(provider(&format!("it does not describe itself: {}", status.as_u16())));
        }
        let found: Discovered = serde_json::from_slice(&body)
            .map_err(|_| provider("it does not describe itself as OpenID Connect Discovery has it"))?;
        if found.issuer != self.config.issuer {
            let text = format!("it calls itself `{}`: say that in [login]", shown(&found.issuer));
            return Err(provider(&text));
        }
        Ok(found)
    }

    async fn get(&self, url: &str) -> Result<(StatusCode, Zeroizing<Vec<u8>>), LoginError> {
        self.ask(Method::GET, url, &[("accept", "application/json")], Zeroizing::default()).await
    }

    async fn post(
        &self,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), LoginError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut headers =
            vec![("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")];
        // RFC 6749, 2.3.1.
        let basic = match &self.config.client_secret {
            Some(secret) => {
                let secret = read_secret(secret).map_err(|e| provider(&crate::ledger::chain(&e)))?;
                let secret = std::str::from_utf8(secret.expose_secret())
                    .map_err(|_| provider("the client's secret is no text"))?;
                let quoted =
                    |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
                let both = Zeroizing::new(format!(
                    "{}:{}",
                    quoted(&self.config.client_id),
                    quoted(secret.trim_end())
                ));
                Some(Zeroizing::new(format!("Basic {}", BASE64.encode(both.as_bytes()))))
            }
            None => None,
        };
        if let Some(basic) = &basic {
            headers.push(("authorization", basic.as_str()));
        }
        self.ask(Method::POST, url, &headers, Zeroizing::new(body.into_bytes())).await
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, &str)],
        body: Zeroizing<Vec<u8>>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), LoginError> {
        let bad = || provider("it names an address that is none by https");
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(bad)?;
        if uri.scheme_str() != Some("https") {
            return Err(bad());
        }
        let server = Https::new(authority, 443, Some(self.roots.clone()), LIMIT);
        let server = server.map_err(|why| provider(&why))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let answer = server.ask(Question { method, path, headers, body }).await;
        answer.map_err(|why| LoginError::Away(format!("the OpenID provider: {}", shown(&why))))
    }
}

fn later(now: Timestamp, seconds: u32) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(seconds.into())).unwrap_or(now)
}

/// The error's name, if it is one.
fn refused(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Refused>(body).ok().map(|refused| shown(&refused.error))
}

fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

fn provider(why: &str) -> LoginError {
    LoginError::Provider(format!("the OpenID provider: {why}"))
}
