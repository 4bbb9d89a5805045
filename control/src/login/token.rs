//! An ID token (OpenID Connect Core 1.0, 3.1.3.7): is it the provider's, for holmd, of now, and what does it say?

use super::LoginConfig;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

/// Signatures by a key that only the provider has. One by a secret that both have proves nothing of who made it.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// As far may the provider's clock be off.
const OFF: SignedDuration = SignedDuration::from_mins(1);
/// It is asked for at once: an older one is another's.
const FRESH: SignedDuration = SignedDuration::from_mins(10);

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// SHA-256 of issuer and subject, hexadecimal: the account at the provider.
    pub account: String,
    /// When she proved it there.
    pub at: Timestamp,
    /// With a second factor.
    pub second: bool,
    /// What the provider says of how.
    pub how: String,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    azp: Option<String>,
    iat: i64,
    exp: i64,
    auth_time: Option<i64>,
    acr: Option<String>,
    #[serde(default)]
    amr: Methods,
}

/// An array (RFC 8176), which some write as one text.
#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Methods {
    #[default]
    None,
    Many(Vec<String>),
    One(String),
}

impl Methods {
    fn all(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::Many(all) => all,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

#[derive(Deserialize)]
struct Shown {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    Many(Vec<String>),
    /// Which the library has compared.
    One(serde::de::IgnoredAny),
}

/// Checks a token by the keys that the provider shows. The error never has a part of the token.
pub(super) fn verify(
    token: &str,
    keys: &[u8],
    config: &LoginConfig,
    now: Timestamp,
) -> Result<Proven, String> {
    let no = |what: &str| format!("its ID token is not to be believed: {what}");
    let head = decode_header(token).map_err(|_| no("it is none"))?;
    if !ALGORITHMS.contains(&head.alg) {
        return Err(no("it is not signed by a key of the provider's alone"));
    }
    let shown: Shown = serde_json::from_slice(keys).map_err(|_| no("the provider's keys cannot be read"))?;
    // Those of a kind that is not known are others' (RFC 7517, 5).
    let keys: Vec<Jwk> = shown.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
    let signs = |key: &&Jwk| {
        let common = &key.common;
        let its = |is: KeyAlgorithm| is.to_string() == format!("{:?}", head.alg);
        common.public_key_use.as_ref().is_none_or(|use_| *use_ == PublicKeyUse::Signature)
            && common.key_algorithm.is_none_or(its)
            && head.kid.as_ref().is_none_or(|kid| common.key_id.as_ref() == Some(kid))
    };
    let mut wanted = Validation::new(head.alg);
    wanted.set_audience(&[&config.client_id]);
    wanted.set_issuer(&[&config.issuer]);
    wanted.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // By holmd's clock, below.
    wanted.validate_exp = false;
    let mut outcome = Err(no("it is signed by a key that the provider does not show"));
    for key in keys.iter().filter(signs).filter_map(|key| DecodingKey::from_jwk(key).ok()) {
        match decode::<Claims>(token, &key, &wanted) {
            Ok(good) => {
                outcome = Ok(good.claims);
                break;
            }
            Err(error) => outcome = Err(no(why(error.kind()))),
        }
    }
    let claims = outcome?;

    let at = |seconds: i64| Timestamp::from_second(seconds).map_err(|_| no("its times are none"));
    let (made, ends) = (at(claims.iat)?, at(claims.exp)?);
    if now.duration_since(ends) >= OFF {
        return Err(no("it has expired"));
    }
    if made.duration_since(now) > OFF || now.duration_since(made) > FRESH {
        return Err(no("it was not made now: look at the clocks of holmd and the provider"));
    }
    if let Audience::Many(all) = &claims.aud
        && all.len() > 1
        && claims.azp.is_none()
    {
        return Err(no("it is for several, and does not say for whom it was made"));
    }
    if claims.azp.as_ref().is_some_and(|azp| *azp != config.client_id) {
        return Err(no("it was made for somebody else"));
    }
    if claims.sub.is_empty() || claims.sub.len() > 255 {
        return Err(no("it is of nobody"));
    }
    // Who has been logged in there for long proved it then.
    let proved = claims.auth_time.map(at).transpose()?.unwrap_or(made).min(now);
    let methods = claims.amr.all().iter().any(|method| config.amr.contains(method));
    let context = claims.acr.as_ref().is_some_and(|acr| config.acr.contains(acr));
    let account = digest(&SHA256, format!("{}\0{}", config.issuer, claims.sub).as_bytes());
    // Without it a session of weeks would prove it anew each time.
    let timed = claims.auth_time.is_some();
    let amr = claims.amr.all().join(" ");
    let said = [
        claims.acr.as_ref().map(|acr| format!("acr {acr}")),
        (!amr.is_empty()).then(|| format!("amr {amr}")),
        (!timed).then(|| "no auth_time".to_owned()),
    ];
    let how: Vec<String> = said.into_iter().flatten().collect();
    Ok(Proven {
        account: HEXLOWER.encode(account.as_ref()),
        at: proved,
        second: timed && (methods || context),
        how: super::shown(&how.join(", ")),
    })
}

/// Without a part of the token, which the library quotes.
fn why(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "its signature is not right",
        ErrorKind::InvalidIssuer => "it is another issuer's",
        ErrorKind::InvalidAudience => "it is for somebody else",
        ErrorKind::InvalidAlgorithm => "it is signed in another way than its key is for",
        _ => "it is not as OpenID Connect has it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64URL_NOPAD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use proptest::prelude::*;
    use rcgen::{KeyPair, PublicKeyData};
    use serde_json::{Value, json};

    const ISSUER: &str = "https://idp.example";

    fn config() -> LoginConfig {
        LoginConfig {
            issuer: ISSUER.to_owned(),
            client_id: "holm".to_owned(),
            client_secret: None,
            ca_file: "ca.pem".into(),
            acr: vec!["gold".to_owned()],
            amr: vec!["mfa".to_owned()],
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    struct Keys {
        private: EncodingKey,
        shown: Value,
    }

    fn keys(id: &str) -> Keys {
        let pair = KeyPair::generate().unwrap();
        let point = pair.der_bytes();
        let part = |range: std::ops::Range<usize>| BASE64URL_NOPAD.encode(&point[range]);
        let shown = json!({ "kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256",
            "x": part(1..33), "y": part(33..65) });
        Keys { private: EncodingKey::from_ec_der(&pair.serialize_der()), shown }
    }

    fn claims() -> Value {
        json!({ "iss": ISSUER, "sub": "ada@example", "aud": "holm", "iat": 1_790_000_000, "exp": 1_790_000_300,
            "auth_time": 1_790_000_000, "amr": ["pwd", "mfa"] })
    }

    fn signed(key: &Keys, id: &str, claims: &Value) -> String {
        let head = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&head, claims, &key.private).unwrap()
    }

    fn asked(token: &str, keys: &[&Keys]) -> Result<Proven, String> {
        let all: Vec<&Value> = keys.iter().map(|key| &key.shown).collect();
        verify(token, json!({ "keys": all }).to_string().as_bytes(), &config(), now())
    }

    #[test]
    fn a_token_proves_who_when_and_how() {
        let (key, other) = (keys("a"), keys("b"));
        let proven = asked(&signed(&key, "a", &claims()), &[&other, &key]).unwrap();
        assert!(proven.second && proven.at == now() && proven.how == "amr pwd mfa", "{proven:?}");
        assert_eq!(proven.account.len(), 64);
        assert!(!proven.account.contains("ada") && !proven.how.contains("ada"));
        let mut of = claims();
        of["amr"] = json!(["pwd"]);
        assert!(!asked(&signed(&key, "a", &of), &[&key]).unwrap().second);
        of["acr"] = json!("gold");
        of["auth_time"] = json!(1_789_990_000);
        let proven = asked(&signed(&key, "a", &of), &[&key]).unwrap();
        assert!(proven.second && proven.at.as_second() == 1_789_990_000, "she was logged in there since");
        of["auth_time"] = json!(1_790_000_030);
        assert_eq!(
            asked(&signed(&key, "a", &of), &[&key]).unwrap().at,
            now(),
            "nothing is proven in the future"
        );
        of["auth_time"] = Value::Null;
        let untimed = asked(&signed(&key, "a", &of), &[&key]).unwrap();
        assert!(!untimed.second && untimed.how.ends_with("no auth_time"), "{untimed:?}");
        of["amr"] = json!("mfa");
        of["auth_time"] = json!(1_790_000_000);
        assert!(asked(&signed(&key, "a", &of), &[&key]).unwrap().second);
        // Keys of kinds that nobody knows, and others by the same name, are no matter.
        let strange = Keys { shown: json!({ "kty": "AKP", "alg": "ML-DSA-65", "kid": "a" }), ..keys("a") };
        assert!(asked(&signed(&key, "a", &of), &[&strange, &keys("a"), &key]).is_ok());
        of["sub"] = json!("bo@example");
        assert_ne!(asked(&signed(&key, "a", &of), &[&key]).unwrap().account, proven.account);
    }

    #[test]
    fn what_is_not_the_providers_for_holmd_of_now_proves_nothing() {
        let (key, other) = (keys("a"), keys("a"));
        let with = |name: &str, value: Value| {
            let mut of = claims();
            of[name] = value;
            signed(&key, "a", &of)
        };
        for (what, token) in [
            ("another's key", signed(&other, "a", &claims())),
            ("an unknown key", signed(&key, "c", &claims())),
            ("another issuer", with("iss", json!("https://idp.example/"))),
            ("another audience", with("aud", json!("other"))),
            ("several, and for whom?", with("aud", json!(["holm", "other"]))),
            ("made for another", with("azp", json!("other"))),
            ("expired", with("exp", json!(1_789_999_900))),
            ("of the future", with("iat", json!(1_790_000_100))),
            ("old", with("iat", json!(1_789_999_000))),
            ("of nobody", with("sub", json!(""))),
            ("of no text", with("sub", json!(4711))),
            ("without an end", with("exp", Value::Null)),
            ("none", "x.y.z".to_owned()),
            ("empty", String::new()),
        ] {
            let why = asked(&token, &[&key]).err();
            assert!(why.as_ref().is_some_and(|why| why.contains("not to be believed")), "{what}: {why:?}");
            let why = why.unwrap();
            assert!(!why.contains("ada") && !why.contains("4711"), "{what}: {why}");
        }
        assert!(asked(&with("aud", json!(["holm"])), &[&key]).is_ok());
        // What the public key would sign as if it were a secret, and what is not signed at all.
        let secret = EncodingKey::from_secret(key.shown.to_string().as_bytes());
        let head = Header { kid: Some("a".to_owned()), ..Header::new(Algorithm::HS256) };
        assert!(asked(&encode(&head, &claims(), &secret).unwrap(), &[&key]).is_err());
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let bare = format!("{}.{}.", part(&json!({ "alg": "none", "kid": "a" })), part(&claims()));
        assert!(asked(&bare, &[&key]).is_err());
        // A key that is for something else.
        let mut encrypts = keys("a");
        encrypts.shown["use"] = json!("enc");
        assert!(asked(&signed(&encrypts, "a", &claims()), &[&encrypts]).is_err());
    }

    #[test]
    fn a_token_that_was_changed_anywhere_proves_nothing() {
        let key = keys("a");
        let token = signed(&key, "a", &claims());
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            // Of base64url the last letter of a part has bits that mean nothing.
            let ends = bytes.get(at + 1).is_none_or(|next| *next == b'.');
            bytes[at] = if bytes[at] == b'A' { b'Q' } else { b'A' };
            let other = String::from_utf8(bytes).unwrap();
            if !ends && other != token {
                assert!(asked(&other, &[&key]).is_err(), "letter {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered(token in "[A-Za-z0-9_.-]{0,200}", keys in "\\PC{0,200}") {
            let _ = verify(&token, keys.as_bytes(), &config(), now());
        }
    }
}
