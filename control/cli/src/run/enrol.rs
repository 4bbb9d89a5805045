//! A certificate for a one-time code. The code is sent to nobody but the holmd that made it.

use super::{ENROL_PORT, Session};
use crate::args::Enrol;
use crate::profile::{Memory, Place, Profile, Staged};
use crate::{Failure, dial, tls, view};
use holm_control::identity::Code;
use holm_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holm_proto::v1::{EnrolRequest, EnrolResponse, RenewRequest, WhoAmIRequest};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use std::io::BufRead;
use zeroize::Zeroizing;

pub(super) async fn run(session: &Session, args: Enrol) -> Result<(), Failure> {
    let code = parse(&args.code)?;
    let place = args.dir.as_deref().map_or_else(|| session.place.clone(), Place::directory);
    may_replace(session, &place, args.replace)?;
    let remembered = if place.name.is_some() { place.memory()?.enrolment } else { None };
    let server = args.server.or(remembered).ok_or_else(|| {
        Failure::usage("which server? the code does not say").hint("holm enrol CODE --server HOST:PORT")
    })?;

    let (config, found) = tls::enrolment(code.ca())?;
    let channel = dial::connect(&server, ENROL_PORT, config).await?;
    // On disk before the code is spent.
    let (key, staged, csr_pem) = fresh(&place)?;
    let request = EnrolRequest { code: code.text(), csr_pem };
    let response = session.ask(EnrolmentServiceClient::new(channel).enrol(request)).await;
    let response = response.map_err(|failure| match failure.is_lost() {
        true => failure
            .hint(format!("is `{server}` the listener for enrolment? the other one, 7443, takes no code")),
        false => failure,
    })?;
    let fits = found.get().is_some_and(|ca| is_answer(&response, ca, &key));
    if !fits {
        return Err(Failure::new("holmd answered with a certificate of another key or authority")
            .hint("tell an operator; the code is spent"));
    }
    let profile = Profile { server: response.server.clone(), identity: response.identity.clone() };
    place.enrolled(staged, &response.certificate_pem, &response.ca_pem, &profile)?;
    let (_, until) = place.validity()?;
    if place.name.is_some() {
        let memory = place.memory().unwrap_or_default();
        place.remember(&Memory { enrolment: Some(server), ..memory })?;
    }
    let who = view::short_identity(&profile.identity);
    let (label, until_text) = (place.label(), session.clock.full(until));
    session.output.done(
        &format!("{label} is {who} to holmd at {}, until {until_text}", profile.server),
        &json!({
            "identity": profile.identity,
            "server": profile.server,
            "until": until.to_string(),
            "directory": place.dir,
        }),
    )?;
    if place.name.is_some() { session.output.next("holm whoami") } else { Ok(()) }
}

/// A new key, beside its place, and the request to sign it.
fn fresh(place: &Place) -> Result<(KeyPair, Staged, String), Failure> {
    let key = KeyPair::generate().map_err(|e| Failure::of(&e))?;
    let staged = place.stage_key(&Zeroizing::new(key.serialize_pem()))?;
    let csr = CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem());
    Ok((key, staged, csr.map_err(|e| Failure::of(&e))?))
}

/// A new certificate for the one that is still good. That one ends when the new one is used, which is done at once.
pub(super) async fn renew(session: &Session) -> Result<(), Failure> {
    let place = &session.place;
    let (profile, ca) = (place.profile()?, place.identity()?.ca);
    let mut client = session.people().await?;
    let (key, staged, csr_pem) = fresh(place)?;
    let response = session.ask(client.renew(RenewRequest { csr_pem })).await?;
    if !is_answer(&response, &ca, &key) {
        return Err(Failure::new("holmd answered with a certificate of another key or authority")
            .hint("tell an operator; the one that you have is still good"));
    }
    place.enrolled(staged, &response.certificate_pem, &response.ca_pem, &profile)?;
    let (_, until) = place.validity()?;
    session.ask(session.people().await?.who_am_i(WhoAmIRequest {})).await?;
    let (who, label) = (view::short_identity(&profile.identity), place.label());
    session.output.done(
        &format!("{label} is {who} until {}", session.clock.full(until)),
        &json!({ "identity": profile.identity, "until": until.to_string() }),
    )
}

/// The code, as typed or, for `-`, as a line of standard input.
fn parse(text: &str) -> Result<Code, Failure> {
    let mut line = Zeroizing::new(String::new());
    let text = if text == "-" {
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|e| Failure::new(format!("cannot read standard input: {e}")))?;
        line.as_str()
    } else {
        text
    };
    // It is a secret: it is not said again.
    Code::parse(text).ok_or_else(|| {
        Failure::usage(
            "this is no code: it is `holm1-`, 26 letters and digits, `-`, 26 more; of digits there are 2 to 7 alone",
        )
        .hint("copy it whole; for a new one: holm person invite NAME")
    })
}

/// An enrolment that is still good is not lost by a slip.
fn may_replace(session: &Session, place: &Place, replace: bool) -> Result<(), Failure> {
    if replace || !place.exists() {
        return Ok(());
    }
    let (Ok(profile), Ok((_, until))) = (place.profile(), place.validity()) else { return Ok(()) };
    if until <= session.clock.now {
        return Ok(());
    }
    let who = view::short_identity(&profile.identity);
    let other = if place.name.is_some() { ", or beside it: --profile NAME" } else { "" };
    Err(Failure::new(format!("{} is {who} already, until {}", place.label(), session.clock.full(until)))
        .hint(format!("holm enrol CODE --replace{other}")))
}

/// The certificate is for this key, and the authority is the one in the code.
fn is_answer(response: &EnrolResponse, ca: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).ok();
    let (Some(certificate), Some(answered)) = (der(&response.certificate_pem), der(&response.ca_pem)) else {
        return false;
    };
    let of_key = x509_parser::parse_x509_certificate(&certificate)
        .is_ok_and(|(_, c)| c.public_key().subject_public_key.data.as_ref() == key.der_bytes());
    of_key && answered.as_ref() == ca.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bad_code_is_not_repeated() {
        let secret = "holm1-0aaaaaaaaaaaaaaaaaaaaaaaaa-aaaaaaaaaaaaaaaaaaaaaaaaaa";
        let failure = parse(secret).err().unwrap();
        assert_eq!(failure.exit, crate::Exit::Usage);
        assert!(!failure.text(false).contains("0aaaa"));
    }

    proptest! {
        #[test]
        fn codes_survive_typing(secret in "[a-z2-7]{26}", ca in "[a-z2-7]{26}", upper: bool, before in "[ \t]{0,3}") {
            let text = format!("holm1-{secret}-{ca}");
            let typed = format!("{before}{}\n", if upper { text.to_uppercase() } else { text.clone() });
            let code = parse(&typed).unwrap();
            prop_assert_eq!(code.ca(), ca);
            prop_assert_eq!(code.text(), text);
        }

        #[test]
        fn nothing_else_is_a_code(text in "\\PC{0,80}") {
            let shaped = text.trim().split('-').map(str::len).collect::<Vec<_>>() == [5, 26, 26];
            prop_assert!(shaped || text == "-" || parse(&text).is_err());
        }
    }
}
