//! Who this host is, and who holmd is: the directory that `holm enrol --dir` wrote. It is read again for each
//! session, so that a renewed certificate is used without a restart.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs as provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// The key; once it was renewed, with its certificate below it.
pub(super) const KEY: &str = "key.pem";
pub(super) const CERTIFICATE: &str = "cert.pem";
const AUTHORITY: &str = "ca.pem";
const PROFILE: &str = "profile.toml";
/// What TLS is to carry.
const HTTP2: &[u8] = b"h2";

/// What it takes to dial holmd.
#[derive(Debug, Clone)]
pub struct Identity {
    /// HOST:PORT.
    pub server: String,
    /// The name of this host.
    pub host: String,
    pub(super) name: ServerName<'static>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) signer: Arc<EcdsaKeyPair>,
    /// From when until when the certificate is good.
    pub(super) validity: (SystemTime, SystemTime),
}

/// Why holmd cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no such file.
    #[error("`{}` cannot be read: enrol this host with `holm enrol CODE --dir {}`", path.display(), directory.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where it should be.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Everybody on this host could speak for it.
    #[error("`{}` can be read by others: run `chmod 600 {}`", .0.display(), .0.display())]
    Open(PathBuf),
    /// It is not what it should be.
    #[error("`{}` cannot be used: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// In what way.
        why: String,
    },
}

/// What `holm enrol` notes beside the certificate. It may come to note more.
#[derive(Deserialize)]
struct Profile {
    server: String,
    identity: String,
}

impl Identity {
    /// Reads the directory.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let path = |name: &str| directory.join(name);
        let bad = |name: &str, why: String| IdentityError::Bad { path: path(name), why };
        let read = |name: &str| {
            fs::read(path(name)).map_err(|source| IdentityError::Read {
                path: path(name),
                directory: directory.to_owned(),
                source,
            })
        };
        let key = read(KEY)?;
        let mode = fs::metadata(path(KEY)).map_err(|error| bad(KEY, error.to_string()))?.mode();
        if mode & 0o077 != 0 {
            return Err(IdentityError::Open(path(KEY)));
        }
        // Renewed, they are in one file, so that neither is ever without the other.
        let beside = certificates(&key).ok();
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| bad(KEY, error.to_string()))?;
        let chain = match beside {
            Some(chain) => chain,
            None => certificates(&read(CERTIFICATE)?).map_err(|why| bad(CERTIFICATE, why))?,
        };
        let validity = validity(&chain)
            .ok_or_else(|| bad(CERTIFICATE, "it does not say how long it is good".to_owned()))?;
        // The one kind of key that holmd signs: what a host signs with it can be checked in years.
        let signer = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der())
            .map_err(|_| bad(KEY, "it is no ECDSA key on P-256".to_owned()))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&read(AUTHORITY)?).map_err(|why| bad(AUTHORITY, why))? {
            roots.add(root).map_err(|error| bad(AUTHORITY, error.to_string()))?;
        }
        let profile = String::from_utf8(read(PROFILE)?).map_err(|error| bad(PROFILE, error.to_string()))?;
        let profile: Profile = toml::from_str(&profile).map_err(|error| bad(PROFILE, error.to_string()))?;
        let name = match profile.server.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                ServerName::try_from(host).map_err(|error| bad(PROFILE, error.to_string()))?
            }
            _ => return Err(bad(PROFILE, format!("`{}` is not HOST:PORT", profile.server.escape_debug()))),
        };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| bad(CERTIFICATE, error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad(CERTIFICATE, error.to_string()))?;
        tls.alpn_protocols = vec![HTTP2.to_vec()];
        let (server, host) = (profile.server, profile.identity);
        Ok(Self { server, host, name, tls: Arc::new(tls), signer: Arc::new(signer), validity })
    }

    /// This host's signature over these bytes, ASN.1 DER; `None` where the system gives no random numbers.
    pub fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.signer.sign(&SystemRandom::new(), bytes).ok().map(|signature| signature.as_ref().to_vec())
    }
}

fn validity(chain: &[CertificateDer<'_>]) -> Option<(SystemTime, SystemTime)> {
    let (_, read) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    let at = |seconds: i64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?));
    Some((at(read.validity().not_before.timestamp())?, at(read.validity().not_after.timestamp())?))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(error.to_string()),
    }
}
