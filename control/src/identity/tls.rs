//! The only place that configures TLS: 1.3 and nothing older, one provider, no resumption (a resumed session
//! would outlive the certificate it began with), HTTP/2.

use super::authority::{Authority, IdentityError};
use super::caller::Caller;
use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme, version::TLS13,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// holmd's own certificate lives three times as long.
const RENEW: Duration = Duration::from_secs(30 * 24 * 3600);

/// For people and agents: a certificate of this authority is demanded, with exactly one identity.
pub fn mutual(authority: &Arc<Authority>, hosts: Vec<String>) -> Result<Arc<ServerConfig>, IdentityError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone())?;
    let inner =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(OneIdentity { inner }))
        .with_cert_resolver(Arc::new(Own::new(Arc::clone(authority), hosts, provider)?));
    Ok(finished(config))
}

/// For enrolment: who comes has no certificate yet.
pub fn enrolment(authority: &Arc<Authority>, hosts: Vec<String>) -> Result<Arc<ServerConfig>, IdentityError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Own::new(Arc::clone(authority), hosts, provider)?));
    Ok(finished(config))
}

/// The names in holmd's own certificate, from HOST:PORT as people dial it.
pub fn hosts(server: &str) -> Vec<String> {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut all = vec![host.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    all.sort();
    all.dedup();
    all
}

fn finished(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// The usual verifier, and then exactly one identity of Holm.
#[derive(Debug)]
struct OneIdentity {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for OneIdentity {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(certificate, intermediates, now)?;
        Caller::of(certificate)
            .map_err(|e| Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(e)))))?;
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
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// holmd's own certificate, made anew before it gets old.
struct Own {
    authority: Arc<Authority>,
    hosts: Vec<String>,
    provider: Arc<CryptoProvider>,
    current: Mutex<(Instant, Arc<CertifiedKey>)>,
}

impl Own {
    fn new(
        authority: Arc<Authority>,
        hosts: Vec<String>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, IdentityError> {
        let first = certified(&authority, &hosts, &provider)?;
        Ok(Self { authority, hosts, provider, current: Mutex::new((Instant::now(), first)) })
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.elapsed() > RENEW {
            match certified(&self.authority, &self.hosts, &self.provider) {
                Ok(fresh) => *current = (Instant::now(), fresh),
                Err(failure) => tracing::error!("holmd's own certificate is not renewed: {failure}"),
            }
        }
        Some(Arc::clone(&current.1))
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Own").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

fn certified(
    authority: &Authority,
    hosts: &[String],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, IdentityError> {
    let (chain, key) = authority.server(hosts, Timestamp::now())?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, provider)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_names_of_a_server() {
        assert_eq!(super::hosts("holm.example:7443"), ["127.0.0.1", "::1", "holm.example", "localhost"]);
        assert_eq!(super::hosts("[fd00::1]:7443"), ["127.0.0.1", "::1", "fd00::1", "localhost"]);
        assert_eq!(super::hosts("localhost:7443").len(), 3);
    }
}
