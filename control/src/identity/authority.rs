//! The certificate authority: one ECDSA P-256 key that signs holmd's own certificate and those of people and
//! hosts, and one Ed25519 key that signs people's SSH keys.
//!
//! ```text
//!   DIR/ca.pem      the authority's certificate, for everyone
//!   DIR/ca.key      its key, 0600
//!   DIR/ssh_ca      the key for SSH certificates, 0600; those for slices whose level allows a terminal alone, or has it recorded,
//!                   follow from it
//! ```
//!
//! holmd's own certificate is made anew at each start and now and then while it runs, with a key that stays
//! in memory: clients trust the authority, not one certificate.

use super::caller::Caller;
use super::code::ca_hash;
use super::ssh::SshAuthority;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::fill;
use data_encoding::HEXLOWER;
use holm_proto::ids::{Name, RequestId};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// Clocks differ a little.
pub(super) const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
const CA_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
const SERVER_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// A signing request is some hundred bytes.
const CSR_MAX: usize = 16 * 1024;

/// Why something is not signed, or there is nothing to sign with.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum IdentityError {
    #[error("cannot {what} `{path}`")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("`{path}` has mode {mode:03o}, others may have read it; run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("`{path}` is damaged: {problem}; restore it from a copy")]
    Damaged { path: PathBuf, problem: String },
    #[error("the system gives no random numbers")]
    Random,
    #[error("the signing request cannot be used: {0}")]
    Request(String),
    #[error("`{0}` is no OpenSSH public key of type ssh-ed25519; make one with: ssh-keygen -t ed25519")]
    SshKey(String),
    #[error("it cannot be signed: {0}")]
    Sign(String),
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    #[error("TLS cannot verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// holmd itself.
    Server,
    /// A person or a host.
    Client,
}

/// A certificate as it is wanted, nothing filled in.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Subject alternative names that are URIs.
    pub uris: Vec<String>,
    /// Those that are DNS names or IP addresses.
    pub hosts: Vec<String>,
    /// What it is for.
    pub usage: Usage,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Wanted {
    /// The certificate of a person or host that is issued now, good for so long.
    pub fn of(caller: &Caller, life: SignedDuration, now: Timestamp) -> Self {
        Self {
            uris: vec![caller.uri()],
            hosts: Vec::new(),
            usage: Usage::Client,
            from: now.checked_sub(BACKDATE).unwrap_or(now),
            until: now.checked_add(life).unwrap_or(Timestamp::MAX),
        }
    }
}

/// A signed certificate.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Alone, without the authority's.
    pub pem: String,
    /// The same.
    pub der: CertificateDer<'static>,
    /// Until when.
    pub until: Timestamp,
}

impl Issued {
    /// SHA-256 of the certificate, for the log.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }
}

/// SHA-256 of a certificate, hexadecimal.
pub(super) fn fingerprint(der: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, der).as_ref())
}

/// Signs certificates.
pub struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    ssh: SshAuthority,
    ssh_terminal: SshAuthority,
    ssh_recorded: SshAuthority,
}

impl Authority {
    /// Make keys and certificate in a new directory.
    pub fn create(dir: &Path, now: Timestamp) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { what: "make", path: dir.to_path_buf(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let key = KeyPair::generate().map_err(sign_error)?;
        let mut params = params(format!("Holm CA {}", HEXLOWER.encode(&random::<4>()?)))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        between(
            &mut params,
            now.checked_sub(BACKDATE).unwrap_or(now),
            now.checked_add(CA_LIFE).unwrap_or(now),
        );
        let certificate = params.self_signed(&key).map_err(sign_error)?;
        write_new(&dir.join("ca.key"), Zeroizing::new(key.serialize_pem()).as_bytes(), 0o600)?;
        write_new(&dir.join("ca.pem"), certificate.pem().as_bytes(), 0o644)?;
        SshAuthority::create(&dir.join("ssh_ca"))?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(io)?;
        Self::load(dir)
    }

    /// Load them.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (key_path, pem_path) = (dir.join("ca.key"), dir.join("ca.pem"));
        let damaged =
            |path: &Path, problem: String| IdentityError::Damaged { path: path.to_path_buf(), problem };
        let key = KeyPair::from_pem(&read_secret(&key_path)?)
            .map_err(|_| damaged(&key_path, "it holds no key".to_owned()))?;
        let pem = fs::read_to_string(&pem_path).map_err(|source| IdentityError::Io {
            what: "read",
            path: pem_path.clone(),
            source,
        })?;
        let der = pem_der(&pem).ok_or_else(|| damaged(&pem_path, "it holds no certificate".to_owned()))?;
        let (_, read) = X509Certificate::from_der(&der).map_err(|e| damaged(&pem_path, e.to_string()))?;
        if read.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(damaged(&pem_path, "it is not the certificate of `ca.key`".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| damaged(&pem_path, e.to_string()))?;
        let path = dir.join("ssh_ca");
        let ssh = SshAuthority::load(&path)?;
        let ssh_terminal = ssh.for_terminals(&path)?;
        let ssh_recorded = ssh.for_recorded(&path)?;
        Ok(Self { pem, der, issuer, ssh, ssh_terminal, ssh_recorded })
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The same as DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// As it stands in codes.
    pub fn hash(&self) -> String {
        ca_hash(&self.der)
    }

    /// The key that slices trust for people's SSH certificates, OpenSSH form.
    pub fn ssh_ca(&self) -> &str {
        self.ssh.public()
    }

    /// The key that slices trust instead whose level allows a terminal alone: what was signed for one where more is allowed gets nobody in.
    pub fn ssh_terminal_ca(&self) -> &str {
        self.ssh_terminal.public()
    }

    /// The same where what a terminal shows is recorded.
    pub fn ssh_recorded_ca(&self) -> &str {
        self.ssh_recorded.public()
    }

    /// A certificate of this caller for the public key in a signing request. Nothing else in the request
    /// counts; that it is signed with the key shows that the sender has it.
    pub fn enrol(
        &self,
        caller: &Caller,
        csr_pem: &str,
        life: SignedDuration,
        now: Timestamp,
    ) -> Result<Issued, IdentityError> {
        if csr_pem.len() > CSR_MAX {
            return Err(IdentityError::Request(format!("it is longer than {CSR_MAX} bytes")));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem)
            .map_err(|e| IdentityError::Request(e.to_string()))?;
        let algorithm = request.public_key.algorithm();
        if ![&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519].contains(&algorithm) {
            return Err(IdentityError::Request("its key is not ECDSA P-256 or Ed25519".to_owned()));
        }
        self.sign(&request.public_key, &Wanted::of(caller, life, now))
    }

    /// Sign whatever is wanted.
    pub fn sign(&self, key: &impl PublicKeyData, wanted: &Wanted) -> Result<Issued, IdentityError> {
        let name = wanted.uris.first().or(wanted.hosts.first()).map_or("holm", String::as_str);
        let mut params = params(name.to_owned())?;
        for uri in &wanted.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().map_err(sign_error)?));
        }
        for host in &wanted.hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(sign_error)?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match wanted.usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        between(&mut params, wanted.from, wanted.until);
        let certificate = params.signed_by(key, &self.issuer).map_err(sign_error)?;
        Ok(Issued { pem: certificate.pem(), der: certificate.der().clone(), until: wanted.until })
    }

    /// A certificate for holmd itself, with its chain and a new key.
    pub(super) fn server(
        &self,
        hosts: &[String],
        now: Timestamp,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
        let key = KeyPair::generate().map_err(sign_error)?;
        let wanted = Wanted {
            uris: Vec::new(),
            hosts: hosts.to_vec(),
            usage: Usage::Server,
            from: now.checked_sub(BACKDATE).unwrap_or(now),
            until: now.checked_add(SERVER_LIFE).unwrap_or(Timestamp::MAX),
        };
        let issued = self.sign(&key, &wanted)?;
        // With the authority's certificate: a client that enrols has nothing but its hash.
        let chain = vec![issued.der, self.der.clone()];
        Ok((chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))))
    }

    /// An SSH certificate for a person's own account, or for what she reaches.
    pub fn ssh_certificate(
        &self,
        public_key: &str,
        person: &Name,
        request: RequestId,
        now: Timestamp,
        reach: super::SshReach,
    ) -> Result<super::SshCertificate, IdentityError> {
        let authority = match reach {
            super::SshReach::Whole => &self.ssh,
            super::SshReach::Terminal => &self.ssh_terminal,
            super::SshReach::Recorded | super::SshReach::Recordings => &self.ssh_recorded,
        };
        authority.sign(public_key, person, request, now, reach)
    }
}

fn params(name: String) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "Holm");
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let mut serial = random::<16>()?;
    // DER integers are signed, and this one shall be positive.
    if let Some(first) = serial.first_mut() {
        *first &= 0x7f;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn between(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    params.not_before = SystemTime::from(from).into();
    params.not_after = SystemTime::from(until).into();
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    fill(&mut bytes).map_err(|_| IdentityError::Random)?;
    Ok(bytes)
}

pub(super) fn sign_error(cause: impl std::fmt::Display) -> IdentityError {
    IdentityError::Sign(cause.to_string())
}

/// A new file, durable when its directory is synced; one that is there already is left alone.
pub(super) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), IdentityError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| IdentityError::Io { what: "write", path: path.to_path_buf(), source })
}

/// A file that nobody else can read.
pub(super) fn read_secret(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let io = |source| IdentityError::Io { what: "read", path: path.to_path_buf(), source };
    let mode = fs::metadata(path).map_err(io)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_path_buf(), mode });
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(io)
}

fn pem_der(pem: &str) -> Option<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NoIdentity;
    use std::os::unix::fs::PermissionsExt;

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), Timestamp::now()).unwrap();
        (dir, authority)
    }

    fn csr(key: &KeyPair) -> String {
        // What the request asks for beyond its key is ignored.
        let mut params = CertificateParams::new(vec!["holm.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_certificate_names_whom_the_code_named_whatever_the_request_says() {
        let (_dir, authority) = authority();
        let now = Timestamp::now();
        for (caller, days) in
            [(Caller::Person("ada".parse().unwrap()), 30), (Caller::Host("dgx".parse().unwrap()), 365)]
        {
            let life = SignedDuration::from_hours(days * 24);
            let issued = authority.enrol(&caller, &csr(&KeyPair::generate().unwrap()), life, now).unwrap();
            let (named, ends) = Caller::of(&issued.der).unwrap();
            assert_eq!(named, caller);
            assert_eq!(ends.as_second() - now.as_second(), days * 86_400);
            let (_, read) = X509Certificate::from_der(&issued.der).unwrap();
            assert_eq!(now.as_second() - read.validity().not_before.timestamp(), 300);
            assert!(!read.is_ca());
        }
    }

    #[test]
    fn bad_requests_are_refused() {
        let (_dir, authority) = authority();
        let caller = Caller::Person("ada".parse().unwrap());
        let life = SignedDuration::from_hours(24);
        let good = csr(&KeyPair::generate().unwrap());
        let p384 = csr(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
        let mut der = x509_parser::pem::parse_x509_pem(good.as_bytes()).unwrap().1.contents;
        *der.last_mut().unwrap() ^= 1;
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            data_encoding::BASE64.encode(&der)
        );
        for bad in [String::new(), "x".repeat(100_000), p384, forged, good.replace('M', "!")] {
            assert!(authority.enrol(&caller, &bad, life, Timestamp::now()).is_err(), "{bad:.80}");
        }
        assert!(authority.enrol(&caller, &good, life, Timestamp::now()).is_ok());
    }

    #[test]
    fn a_certificate_with_not_exactly_one_name_is_nobodys() {
        let (_dir, authority) = authority();
        let key = KeyPair::generate().unwrap();
        let good = Wanted::of(
            &Caller::Person("ada".parse().unwrap()),
            SignedDuration::from_hours(1),
            Timestamp::now(),
        );
        let of = |uris: &[&str], hosts: &[&str]| {
            let wanted = Wanted {
                uris: uris.iter().map(ToString::to_string).collect(),
                hosts: hosts.iter().map(ToString::to_string).collect(),
                ..good.clone()
            };
            Caller::of(&authority.sign(&key, &wanted).unwrap().der)
        };
        let ada = "spiffe://holm/person/ada";
        assert!(of(&[ada], &[]).is_ok());
        assert_eq!(of(&[], &[]), Err(NoIdentity::NotOne(0)));
        assert_eq!(of(&[ada, "spiffe://holm/person/bo"], &[]), Err(NoIdentity::NotOne(2)));
        assert_eq!(of(&[ada], &["localhost"]), Err(NoIdentity::NotOne(2)));
        assert_eq!(of(&[], &["localhost"]), Err(NoIdentity::NotOne(0)));
        assert!(matches!(of(&["https://holm/person/ada"], &[]), Err(NoIdentity::NotHolm(_))));
    }

    #[test]
    fn it_is_loaded_as_it_was_made_and_never_made_twice() {
        let (dir, authority) = authority();
        let path = dir.path().join("ca");
        let again = Authority::load(&path).unwrap();
        assert_eq!((again.hash(), again.ssh_ca()), (authority.hash(), authority.ssh_ca()));
        assert_eq!(again.ssh_terminal_ca(), authority.ssh_terminal_ca());
        assert_eq!(again.ssh_recorded_ca(), authority.ssh_recorded_ca());
        let all = [again.ssh_ca(), again.ssh_terminal_ca(), again.ssh_recorded_ca()];
        assert_eq!(std::collections::BTreeSet::from(all).len(), 3);
        assert!(Authority::create(&path, Timestamp::now()).is_err());
        for secret in ["ca.key", "ssh_ca"] {
            let file = path.join(secret);
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
            assert!(Authority::load(&path).err().unwrap().to_string().contains("chmod 600"));
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let other = Authority::create(&dir.path().join("other"), Timestamp::now()).unwrap();
        fs::write(path.join("ca.pem"), other.pem()).unwrap();
        assert!(Authority::load(&path).err().unwrap().to_string().contains("not the certificate"));
    }
}
