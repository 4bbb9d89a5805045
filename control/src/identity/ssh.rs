//! SSH certificates: a slice trusts this authority's key, and each certificate is good for one person's own
//! account, for a working day.

use super::authority::{BACKDATE, IdentityError, random, read_secret, sign_error, write_new};
use aws_lc_rs::hmac;
use holm_proto::ids::{Name, RequestId};
use jiff::{SignedDuration, Timestamp};
use ssh_key::certificate::{Builder, CertType};
use ssh_key::private::Ed25519Keypair;
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey};
use std::path::Path;
use zeroize::Zeroizing;

const LIFE: SignedDuration = SignedDuration::from_hours(8);
/// An ed25519 key with its comment is some hundred bytes.
const KEY_MAX: usize = 1024;

/// What runs in a slice in the place of whatever is asked for, where its level allows a terminal alone. That no file of hers is
/// read before is the slice's own sshd's to see to; one that does not know of it trusts none of these certificates.
const TERMINAL: &str = "/usr/lib/holm/terminal";

/// The same where what the terminal shows is recorded.
const RECORDED: &str = "/usr/lib/holm/recorded";
/// What an officer gets instead: a list of recordings, and one of them played.
const RECORDINGS: &str = "/usr/lib/holm/recordings";
/// Whose account officers come to, which is no person's: people's names have no `_`.
pub const RECORDINGS_ACCOUNT: &str = "holm_recordings";
/// By what a member comes there whose terminal is recorded: a user of hers that runs nothing but what records (`guest/src/accounts`).
pub const DOOR: char = '_';
/// From the moment that an officer asks for recordings until she has connected.
const RECORDINGS_LIFE: SignedDuration = SignedDuration::from_mins(5);

/// What a certificate is good for. Each level's way in has an authority of its own, and a slice trusts one of them, so that what was
/// signed for a slice where more is allowed is worth nothing in one where less is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshReach {
    /// Terminals, commands, files both ways, and ports of the slice that are forwarded to who connects.
    Whole,
    /// A terminal, and files in.
    Terminal,
    /// The same, and what the terminal shows is recorded.
    Recorded,
    /// What terminals have shown there.
    Recordings,
}

/// A signed key.
#[derive(Debug, Clone)]
pub struct SshCertificate {
    /// OpenSSH form.
    pub text: String,
    /// For whose account there it is.
    pub account: String,
    /// Its serial number, for the log.
    pub serial: u64,
    /// Not good for new connections from then on.
    pub expires: Timestamp,
}

pub(super) struct SshAuthority {
    key: PrivateKey,
    public: String,
}

impl SshAuthority {
    pub(super) fn create(path: &Path) -> Result<(), IdentityError> {
        let mut key =
            PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(|_| IdentityError::Random)?;
        key.set_comment("holm SSH certificates");
        write_new(path, key.to_openssh(LineEnding::LF).map_err(sign_error)?.as_bytes(), 0o600)
    }

    pub(super) fn load(path: &Path) -> Result<Self, IdentityError> {
        let damaged =
            |e: ssh_key::Error| IdentityError::Damaged { path: path.to_path_buf(), problem: e.to_string() };
        let key = PrivateKey::from_openssh(read_secret(path)?.as_bytes()).map_err(damaged)?;
        let public = key.public_key().to_openssh().map_err(damaged)?;
        Ok(Self { key, public })
    }

    /// The one for slices whose level allows a terminal alone.
    pub(super) fn for_terminals(&self, path: &Path) -> Result<Self, IdentityError> {
        self.derived(path, b"holm SSH certificates for terminals")
    }

    /// The one for those where what it shows is recorded.
    pub(super) fn for_recorded(&self, path: &Path) -> Result<Self, IdentityError> {
        self.derived(path, b"holm SSH certificates for recorded terminals")
    }

    /// Another that follows from this one, so that there is no file more to make, to lose or to restore; nobody who has its key
    /// learns this one's.
    fn derived(&self, path: &Path, words: &[u8]) -> Result<Self, IdentityError> {
        let damaged =
            |e: ssh_key::Error| IdentityError::Damaged { path: path.to_path_buf(), problem: e.to_string() };
        let own = self.key.key_data().ed25519().ok_or(ssh_key::Error::AlgorithmUnknown).map_err(damaged)?;
        let secret = hmac::Key::new(hmac::HMAC_SHA256, own.private.as_ref());
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(hmac::sign(&secret, words).as_ref());
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let public = key.public_key().to_openssh().map_err(damaged)?;
        Ok(Self { key, public })
    }

    pub(super) fn public(&self) -> &str {
        &self.public
    }

    pub(super) fn sign(
        &self,
        public_key: &str,
        person: &Name,
        request: RequestId,
        now: Timestamp,
        reach: SshReach,
    ) -> Result<SshCertificate, IdentityError> {
        let key = ed25519(public_key)?;
        let seconds = |at: Timestamp| u64::try_from(at.as_second()).map_err(sign_error);
        let from = seconds(now.checked_sub(BACKDATE).unwrap_or(now))?;
        let (life, account) = match reach {
            SshReach::Recordings => (RECORDINGS_LIFE, RECORDINGS_ACCOUNT.to_owned()),
            SshReach::Recorded => (LIFE, format!("{DOOR}{person}")),
            SshReach::Whole | SshReach::Terminal => (LIFE, person.to_string()),
        };
        let expires = now.checked_add(life).unwrap_or(now);
        let serial = u64::from_be_bytes(random()?);
        let mut builder = Builder::new(random::<16>()?, key, from, seconds(expires)?).map_err(sign_error)?;
        builder
            .serial(serial)
            .and_then(|b| b.cert_type(CertType::User))
            .and_then(|b| b.key_id(format!("person/{person} request/{request}")))
            .and_then(|b| b.valid_principal(account.clone()))
            // Neither agents nor X11 are forwarded, whatever the level.
            .and_then(|b| b.extension("permit-pty", ""))
            .and_then(|b| match reach {
                SshReach::Whole => b.extension("permit-port-forwarding", ""),
                SshReach::Terminal => b.critical_option("force-command", TERMINAL),
                SshReach::Recorded => b.critical_option("force-command", RECORDED),
                SshReach::Recordings => b.critical_option("force-command", RECORDINGS),
            })
            .map_err(sign_error)?;
        let certificate = builder.sign(&self.key).map_err(sign_error)?;
        let text = certificate.to_openssh().map_err(sign_error)?;
        Ok(SshCertificate { text, account, serial, expires })
    }
}

/// An Ed25519 public key in OpenSSH form.
fn ed25519(text: &str) -> Result<PublicKey, IdentityError> {
    let bad = || IdentityError::SshKey(text.chars().take(40).flat_map(char::escape_debug).collect());
    if text.len() > KEY_MAX {
        return Err(bad());
    }
    let key = PublicKey::from_openssh(text.trim()).map_err(|_| bad())?;
    if key.algorithm() == Algorithm::Ed25519 { Ok(key) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::Certificate;
    use ssh_key::certificate::CertType;

    #[test]
    fn a_certificate_is_for_one_account_and_what_its_level_allows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ssh_ca");
        SshAuthority::create(&path).unwrap();
        let authority = SshAuthority::load(&path).unwrap();
        let user = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap();
        let (now, request) = (Timestamp::now(), RequestId::new_v4());
        let public = user.public_key().to_openssh().unwrap();
        let sign = |reach| {
            let signed = authority.sign(&public, &"ada".parse().unwrap(), request, now, reach).unwrap();
            Certificate::from_openssh(&signed.text).unwrap()
        };
        let read = sign(SshReach::Terminal);
        let fingerprint = authority.key.fingerprint(ssh_key::HashAlg::Sha256);
        read.validate([&fingerprint]).unwrap();
        assert_eq!(read.cert_type(), CertType::User);
        assert_eq!(read.valid_principals(), ["ada"]);
        assert!(read.key_id().contains("person/ada") && read.key_id().contains(&request.to_string()));
        assert_eq!(read.valid_before() - u64::try_from(now.as_second()).unwrap(), 8 * 3600);
        assert_eq!(read.extensions().keys().collect::<Vec<_>>(), ["permit-pty"]);
        assert_eq!(read.critical_options().get("force-command").map(String::as_str), Some(TERMINAL));
        assert_eq!(read.critical_options().len(), 1);
        let recorded = sign(SshReach::Recorded);
        assert_eq!(recorded.critical_options().get("force-command").map(String::as_str), Some(RECORDED));
        assert_eq!(recorded.valid_principals(), ["_ada"]);
        let plays = sign(SshReach::Recordings);
        assert_eq!(plays.critical_options().get("force-command").map(String::as_str), Some(RECORDINGS));
        assert_eq!(plays.valid_principals(), [RECORDINGS_ACCOUNT]);
        assert!(RECORDINGS_ACCOUNT.parse::<Name>().is_err(), "no person is called so");
        assert!(plays.key_id().contains("person/ada"));
        assert_eq!(plays.valid_before() - u64::try_from(now.as_second()).unwrap(), 300);
        let whole = sign(SshReach::Whole);
        assert_eq!(whole.extensions().keys().collect::<Vec<_>>(), ["permit-port-forwarding", "permit-pty"]);
        assert!(whole.critical_options().is_empty());
        assert_eq!(read.public_key(), user.public_key().key_data());
    }

    #[test]
    fn other_keys_are_refused() {
        for bad in ["", "ssh-rsa AAAA", "ssh-ed25519", "ssh-ed25519 !!!!", &"a".repeat(5000)] {
            assert!(ed25519(bad).is_err(), "{bad:.40}");
        }
    }
}
