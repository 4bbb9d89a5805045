//! The only place that configures TLS: 1.3 and nothing older, one provider, no resumption, HTTP/2. Trusted
//! is one authority: that of the profile; at enrolment the one whose hash is in the code.

use crate::Failure;
use crate::profile::Identity;
use holm_control::identity::ca_hash;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError,
    RootCertStore, SignatureScheme,
};
use std::sync::{Arc, OnceLock};

/// With this profile's certificate, to the holmd of its authority.
pub fn mutual(identity: &Identity) -> Result<Arc<ClientConfig>, Failure> {
    let failed = |e: &dyn std::error::Error| {
        Failure::new(format!("the profile's certificate cannot be used: {e}")).hint("holm doctor")
    };
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca.clone()).map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::try_from(identity.key.to_vec())
        .map_err(|e| Failure::new(format!("the profile's key cannot be used: {e}")).hint("holm doctor"))?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| failed(&e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![identity.certificate.clone()], key)
        .map_err(|e| failed(&e))?;
    Ok(finished(config))
}

/// Without a certificate, to the holmd whose authority has this hash. That authority's certificate is in the
/// cell when the handshake is done.
pub fn enrolment(hash: &str) -> Result<(Arc<ClientConfig>, Found), Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let found = Found::default();
    let verifier =
        Pinned { hash: hash.to_owned(), provider: Arc::clone(&provider), found: Arc::clone(&found) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| Failure::of(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((finished(config), found))
}

/// The authority's certificate that a handshake found.
pub type Found = Arc<OnceLock<CertificateDer<'static>>>;

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Finds the authority by its hash among the certificates sent, and then verifies chain, name and dates
/// against it as webpki does.
#[derive(Debug)]
struct Pinned {
    hash: String,
    provider: Arc<CryptoProvider>,
    found: Found,
}

/// The server is another holmd, or none.
#[derive(Debug)]
struct NotTheOne;

impl std::fmt::Display for NotTheOne {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server is not the holmd that made this code")
    }
}

impl std::error::Error for NotTheOne {}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let other = || Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotTheOne))));
        let ca =
            intermediates.iter().find(|c| ca_hash(c).eq_ignore_ascii_case(&self.hash)).ok_or_else(other)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        let verified = inner.verify_server_cert(end_entity, intermediates, name, ocsp, now)?;
        let _ = self.found.set(ca.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("there is no TLS 1.2 here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A handshake that failed, in words, with what to do.
pub fn failure(error: &Error, server: &str) -> Failure {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    match error {
        Error::InvalidCertificate(bad) => match bad {
            Bad::Other(other) if other.0.is::<NotTheOne>() => {
                Failure::new(format!("`{server}`: {NotTheOne}"))
                    .hint("check the code and --server; somebody may be in between")
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                Failure::new(format!("the certificate of holmd is not for the name `{server}`"))
                    .hint("use the name that holmd was set up with, or localhost on its own machine")
            }
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                Failure::new(format!(
                    "by this machine's clock the certificate of `{server}` is not valid now"
                ))
                .hint("holm doctor   (compares the clocks)")
            }
            _ => Failure::new(format!(
                "`{server}` is not the holmd of this profile, or somebody is in between"
            ))
            .hint("holm profile list"),
        },
        Error::AlertReceived(Alert::CertificateExpired) => {
            Failure::new("holmd says that your certificate has expired").hint("holm doctor")
        }
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => Failure::new(format!("holmd at `{server}` does not accept your certificate"))
            .hint("holm doctor; for a new one: holm enrol CODE --replace"),
        Error::AlertReceived(Alert::NoApplicationProtocol) | Error::NoApplicationProtocol => {
            Failure::unreachable(format!("`{server}` does not speak Holm's protocol")).hint("check the port")
        }
        other => Failure::unreachable(format!("no TLS with `{server}`: {other}"))
            .hint("check that the port is holmd's: 7443, for enrolment 7444"),
    }
}
