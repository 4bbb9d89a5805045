//! A new certificate in time, and without an operator.
//!
//! ```text
//!   a third of its life is left ─▶ a new key on disk, beside the old one ─▶ holmd signs it, over this session's connection
//!                               ─▶ key and certificate take the old one's place, together, in one file
//! ```
//!
//! The session goes on with the certificate that it began with, which ends when the next one uses the new one. Killed
//! anywhere between, the agent has the old one still, and begins again.

use super::{
    GREET_LIMIT,
    identity::{CERTIFICATE, Identity, IdentityError, KEY},
};
use holm_proto::v1::{RenewRequest, person_service_client::PersonServiceClient};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};
use tokio::{task::JoinError, time::timeout};
use tonic::{Status, transport::Channel};
use zeroize::Zeroizing;

/// Why there is no new certificate. The old one is as good as before.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("no key can be made")]
    Key(#[from] rcgen::Error),
    #[error("it cannot be written beside `{}`", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("holmd does not sign it: {}", .0.message().escape_debug())]
    Refused(Status),
    #[error("holmd does not answer")]
    Late,
    #[error("holmd signed another key")]
    Other,
    #[error("the agent is at fault")]
    Internal(#[from] JoinError),
}

/// Renews the certificate in this directory where it is time; says so.
pub(super) async fn in_time(directory: PathBuf, holmd: Channel) {
    match renew(&directory, holmd).await {
        Ok(false) => {}
        Ok(true) => tracing::info!("the certificate is renewed: the next session uses it"),
        Err(error) => tracing::error!("the certificate is not renewed: {}", holm_proto::chain(&error)),
    }
}

async fn renew(directory: &Path, holmd: Channel) -> Result<bool, RenewError> {
    let place = directory.to_owned();
    let known = tokio::task::spawn_blocking(move || Identity::load(&place)).await??;
    if !is_due(known.validity, SystemTime::now()) {
        return Ok(false);
    }
    let key = KeyPair::generate()?;
    let pem = Zeroizing::new(key.serialize_pem());
    // A directory that cannot be written shows before anything is signed.
    stage(directory, KEY, &pem)?;
    let csr_pem = CertificateParams::default().serialize_request(&key)?.pem()?;
    let mut client = PersonServiceClient::new(holmd);
    let signed = timeout(GREET_LIMIT, client.renew(RenewRequest { csr_pem })).await;
    let signed = signed.map_err(|_| RenewError::Late)?.map_err(RenewError::Refused)?.into_inner();
    if !is_of(&signed.certificate_pem, &key) {
        return Err(RenewError::Other);
    }
    let both = Zeroizing::new(format!("{}{}", pem.as_str(), signed.certificate_pem));
    // Not on a thread of its own: it would go on where the session ends, and be in the way of the next one's.
    put(directory, KEY, &both)?;
    // For people who look; the one beside the key counts.
    put(directory, CERTIFICATE, &signed.certificate_pem)?;
    Ok(true)
}

/// A third of its life, or less, is left.
fn is_due((from, until): (SystemTime, SystemTime), now: SystemTime) -> bool {
    let life = until.duration_since(from).unwrap_or_default();
    until.duration_since(now).unwrap_or_default() <= life / 3
}

fn is_of(certificate: &str, key: &KeyPair) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(certificate.as_bytes()) else { return false };
    x509_parser::parse_x509_certificate(&der)
        .is_ok_and(|(_, read)| read.public_key().subject_public_key.data.as_ref() == key.der_bytes())
}

fn put(directory: &Path, file: &str, text: &str) -> Result<(), RenewError> {
    let failed = |error| RenewError::Write(directory.join(file), error);
    let beside = stage(directory, file, text)?;
    fs::rename(beside, directory.join(file)).map_err(failed)?;
    File::open(directory).and_then(|open| open.sync_all()).map_err(failed)
}

fn stage(directory: &Path, file: &str, text: &str) -> Result<PathBuf, RenewError> {
    let beside = directory.join(format!("{file}.new"));
    let write = || {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()
    };
    write().map_err(|error| RenewError::Write(directory.join(file), error))?;
    Ok(beside)
}

#[cfg(test)]
mod tests {
    use super::is_due;
    use std::time::{Duration, SystemTime};

    #[test]
    fn it_is_time_when_a_third_is_left() {
        let day = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n * 86_400);
        for (now, due) in [(0, false), (59, false), (60, true), (89, true), (90, true), (200, true)] {
            assert_eq!(is_due((day(0), day(90)), day(now)), due, "{now}");
        }
    }
}
