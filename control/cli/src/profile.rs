//! Profiles: who one is, to which holmd. One directory each, for its owner's eyes only.
//!
//! ```text
//!   $HOLM_CONFIG, or $XDG_CONFIG_HOME/holm, or ~/.config/holm
//!     profiles/NAME/key.pem        the private key, mode 600
//!                  /cert.pem       the certificate that names its owner
//!                  /ca.pem         the only authority that is trusted
//!                  /profile.toml   server and identity
//!                  /memory.toml    what this command line remembers: current project, enrolment address
//!                  /log.toml       the log's key, and its head when it was last verified
//! ```
//!
//! A host's agent has the first four in a directory of its own (`holm enrol --dir`).

use crate::Failure;
use holm_proto::ids::Name;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.pem";
const CA: &str = "ca.pem";
const PROFILE: &str = "profile.toml";
const MEMORY: &str = "memory.toml";
const LOG: &str = "log.toml";

/// `profile.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// holmd's main listener, HOST:PORT.
    pub server: String,
    /// As the certificate says: `spiffe://holm/person/NAME` or `spiffe://holm/host/NAME`.
    pub identity: String,
}

/// `memory.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// `holm project switch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Where this profile was enrolled, HOST:PORT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<String>,
}

/// `log.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The log's public key, as it was seen first or given.
    pub key: String,
    /// The signed checkpoint up to which it was verified last.
    pub checkpoint: String,
    /// When.
    pub verified: Timestamp,
    /// Public keys of witnesses that have to have cosigned it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub witnesses: Vec<String>,
}

/// What TLS needs of a profile.
#[derive(Clone)]
pub struct Identity {
    /// PKCS#8 or SEC 1.
    pub key: PrivateKey,
    /// One's own.
    pub certificate: CertificateDer<'static>,
    /// The only one trusted.
    pub ca: CertificateDer<'static>,
}

/// A private key, gone from memory with its last owner.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// A copy for the one who uses it.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

/// Where profiles are.
#[derive(Debug, Clone)]
pub struct Profiles {
    root: PathBuf,
}

impl Profiles {
    /// Where the environment says.
    pub fn find() -> Result<Self, Failure> {
        let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = of("HOLM_CONFIG")
            .or_else(|| of("XDG_CONFIG_HOME").map(|d| d.join("holm")))
            .or_else(|| of("HOME").map(|d| d.join(".config/holm")));
        let root = root.ok_or_else(|| {
            Failure::usage("there is no place for profiles: neither HOLM_CONFIG nor HOME is set")
        })?;
        Ok(Self { root })
    }

    /// In this directory.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// The place of a profile, whether it is there or not.
    pub fn place(&self, name: &str) -> Result<Place, Failure> {
        let name: Name = name.parse().map_err(|e| Failure::usage(format!("--profile: {e}")))?;
        Ok(Place { dir: self.root.join("profiles").join(name.as_str()), name: Some(name.to_string()) })
    }

    /// Those that are there, by name.
    pub fn all(&self) -> Result<Vec<Place>, Failure> {
        let dir = self.root.join("profiles");
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Failure::file("read", &dir, &e))?,
        };
        let names = entries.filter_map(Result::ok).filter_map(|e| e.file_name().into_string().ok());
        let mut all: Vec<Place> = names.filter_map(|n| self.place(&n).ok()).filter(Place::exists).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
}

/// The directory of one profile.
#[derive(Debug, Clone)]
pub struct Place {
    /// `None` for a directory that was given as such.
    pub name: Option<String>,
    /// Where it lies.
    pub dir: PathBuf,
}

impl Place {
    /// A directory that is no profile of a person's.
    pub fn directory(dir: &Path) -> Self {
        Self { name: None, dir: dir.to_path_buf() }
    }

    /// Somebody enrolled here.
    pub fn exists(&self) -> bool {
        self.dir.join(PROFILE).exists()
    }

    /// As people call it.
    pub fn label(&self) -> String {
        match &self.name {
            Some(name) => format!("profile `{name}`"),
            None => format!("`{}`", self.dir.display()),
        }
    }

    /// Server and identity.
    pub fn profile(&self) -> Result<Profile, Failure> {
        read_toml(&self.dir.join(PROFILE))?.ok_or_else(|| {
            let next = "holm enrol CODE --server HOST:PORT";
            let next = match self.name.as_deref() {
                None | Some("default") => next.to_owned(),
                Some(name) => format!("holm profile list, or {next} --profile {name}"),
            };
            Failure::new(format!("there is no {}", self.label())).hint(next)
        })
    }

    /// Key and certificates. A key that others could have read is refused.
    pub fn identity(&self) -> Result<Identity, Failure> {
        self.profile()?;
        let key = read_key(&self.dir.join(KEY))?;
        let certificate = |file: &str| {
            let path = self.dir.join(file);
            CertificateDer::from_pem_file(&path).map_err(|e| {
                Failure::new(format!("`{}` holds no certificate: {e}", path.display()))
                    .hint("holm enrol CODE --replace")
            })
        };
        Ok(Identity { key, certificate: certificate(CERTIFICATE)?, ca: certificate(CA)? })
    }

    /// When the certificate begins and ends.
    pub fn validity(&self) -> Result<(Timestamp, Timestamp), Failure> {
        let path = self.dir.join(CERTIFICATE);
        let bad = || Failure::new(format!("`{}` holds no certificate", path.display()));
        let der = CertificateDer::from_pem_file(&path).map_err(|_| bad())?;
        let (_, read) = x509_parser::parse_x509_certificate(&der).map_err(|_| bad())?;
        let at = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).map_err(|_| bad());
        Ok((at(read.validity().not_before)?, at(read.validity().not_after)?))
    }

    /// What is remembered.
    pub fn memory(&self) -> Result<Memory, Failure> {
        Ok(read_toml(&self.dir.join(MEMORY))?.unwrap_or_default())
    }

    /// Remember.
    pub fn remember(&self, memory: &Memory) -> Result<(), Failure> {
        self.write_toml(MEMORY, memory)
    }

    /// The log as it was verified last.
    pub fn pin(&self) -> Result<Option<Pin>, Failure> {
        read_toml(&self.dir.join(LOG))
    }

    /// Where that is kept.
    pub fn pin_file(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// Remember the log as it is verified now.
    pub fn set_pin(&self, pin: &Pin) -> Result<(), Failure> {
        self.write_toml(LOG, pin)
    }

    fn write_toml<T: Serialize>(&self, file: &str, value: &T) -> Result<(), Failure> {
        let text = toml::to_string(value).map_err(|e| Failure::of(&e))?;
        self.stage(file, text.as_bytes(), 0o600)?.done()
    }

    /// Make the directory, and put a new key in it that becomes the key with [`Staged::done`]: that the place
    /// can be written shows before a code is spent.
    pub fn stage_key(&self, pem: &str) -> Result<Staged, Failure> {
        let failed = |e| Failure::file("make", &self.dir, &e);
        let is_new = !self.dir.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed)?;
        let mut staged = self.stage(KEY, pem.as_bytes(), 0o600)?;
        staged.made = is_new.then(|| self.dir.clone());
        Ok(staged)
    }

    /// The rest of an enrolment. `profile.toml` comes last: with it the profile is there.
    pub fn enrolled(
        &self,
        key: Staged,
        certificate: &str,
        ca: &str,
        profile: &Profile,
    ) -> Result<(), Failure> {
        let profile = toml::to_string(profile).map_err(|e| Failure::of(&e))?;
        let rest = [
            self.stage(CERTIFICATE, certificate.as_bytes(), 0o644)?,
            self.stage(CA, ca.as_bytes(), 0o644)?,
            self.stage(PROFILE, profile.as_bytes(), 0o644)?,
        ];
        key.done()?;
        rest.into_iter().try_for_each(Staged::done)
    }

    fn stage(&self, file: &str, bytes: &[u8], mode: u32) -> Result<Staged, Failure> {
        let path = self.dir.join(file);
        let beside = self.dir.join(format!("{file}.new"));
        let write = || {
            // What an interrupted try left could have another mode.
            match fs::remove_file(&beside) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
            out.write_all(bytes)?;
            out.sync_all()
        };
        write().map_err(|e| Failure::file("write", &beside, &e))?;
        Ok(Staged { beside: Some(beside), path, made: None })
    }
}

/// A file beside its place. Dropped before it is done, it goes, and so does the directory made for it.
#[derive(Debug)]
pub struct Staged {
    beside: Option<PathBuf>,
    path: PathBuf,
    made: Option<PathBuf>,
}

impl Staged {
    /// Into its place, durable.
    pub fn done(mut self) -> Result<(), Failure> {
        let Some(beside) = self.beside.as_ref() else { return Ok(()) };
        let sync = |dir: &Path| File::open(dir)?.sync_all();
        fs::rename(beside, &self.path)
            .and_then(|()| self.path.parent().map_or(Ok(()), sync))
            .map_err(|e| Failure::file("write", &self.path, &e))?;
        self.beside = None;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let Some(beside) = &self.beside else { return };
        // Nothing refers to either; a directory that is not empty stays.
        let _ = fs::remove_file(beside);
        if let Some(dir) = &self.made {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn read_key(path: &Path) -> Result<PrivateKey, Failure> {
    let failed = |e: &io::Error| Failure::file("read", path, e).hint("holm enrol CODE --replace");
    let meta = fs::metadata(path).map_err(|e| failed(&e))?;
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(Failure::new(format!(
            "`{}` has mode {mode:03o}: others may have read this key",
            path.display()
        ))
        .hint(format!(
            "holm enrol CODE --replace; if you are sure that nobody did: chmod 600 {}",
            path.display()
        )));
    }
    if let Some(dir) = path.parent() {
        let mode = fs::metadata(dir).map_err(|e| failed(&e))?.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(Failure::new(format!(
                "`{}` has mode {mode:03o}: others may exchange this key",
                dir.display()
            ))
            .hint(format!("chmod go-w {}", dir.display())));
        }
    }
    let pem = Zeroizing::new(fs::read(path).map_err(|e| failed(&e))?);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| {
        Failure::new(format!("`{}` holds no private key: {e}", path.display()))
            .hint("holm enrol CODE --replace")
    })?;
    Ok(PrivateKey(Zeroizing::new(key.secret_der().to_vec())))
}

/// `None` where there is no such file.
fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| Failure::file("read", path, &e))?,
    };
    toml::from_str(&text).map(Some).map_err(|e: toml::de::Error| {
        Failure::new(format!("`{}` is damaged: {}", path.display(), e.message()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn enrolled(root: &Path) -> Place {
        let place = Profiles::at(root).place("ada").unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let staged = place.stage_key(&key.serialize_pem()).unwrap();
        assert!(!place.exists());
        let certificate =
            rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap();
        let profile =
            Profile { server: "localhost:7443".to_owned(), identity: "spiffe://holm/person/ada".to_owned() };
        place.enrolled(staged, &certificate.pem(), &certificate.pem(), &profile).unwrap();
        place
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let place = enrolled(root.path());
        assert!(place.identity().is_ok());
        let (key, chmod) = (place.dir.join(KEY), |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        });
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&place.dir).unwrap().mode() & 0o777, 0o700);
        for mode in [0o640, 0o604, 0o660] {
            chmod(&key, mode);
            let refused = place.identity().err().unwrap();
            assert!(refused.what.contains("others may have read"), "{refused:?}");
            assert!(refused.hint.unwrap().contains("chmod 600"));
        }
        chmod(&key, 0o600);
        chmod(&place.dir, 0o770);
        assert!(place.identity().err().unwrap().what.contains("exchange"));
    }

    #[test]
    fn what_is_staged_and_not_done_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let place = enrolled(root.path());
        let before = fs::read(place.dir.join(KEY)).unwrap();
        drop(place.stage_key("another").unwrap());
        assert_eq!(fs::read(place.dir.join(KEY)).unwrap(), before);
        assert_eq!(fs::read_dir(&place.dir).unwrap().count(), 4);
        let other = Profiles::at(root.path()).place("bo").unwrap();
        drop(other.stage_key("another").unwrap());
        assert!(!other.dir.exists());
    }

    #[test]
    fn profiles_are_listed_and_names_stay_names() {
        let root = tempfile::tempdir().unwrap();
        let profiles = Profiles::at(root.path());
        assert!(profiles.all().unwrap().is_empty());
        enrolled(root.path());
        let all = profiles.all().unwrap();
        assert_eq!(all.iter().filter_map(|p| p.name.as_deref()).collect::<Vec<_>>(), ["ada"]);
        for bad in ["", "..", "../x", "a/b", "A"] {
            assert!(profiles.place(bad).is_err(), "{bad}");
        }
        let missing = profiles.place("bo").unwrap().profile().err().unwrap();
        assert!(missing.hint.unwrap().contains("holm enrol CODE"));
    }

    #[test]
    fn memory_and_pin_come_back() {
        let root = tempfile::tempdir().unwrap();
        let place = enrolled(root.path());
        assert_eq!(place.memory().unwrap(), Memory::default());
        let memory = Memory { project: Some("heart".to_owned()), enrolment: None };
        place.remember(&memory).unwrap();
        assert_eq!(place.memory().unwrap(), memory);
        let pin = Pin {
            key: "a+b+c".to_owned(),
            checkpoint: "x\n1\n\n".to_owned(),
            verified: Timestamp::UNIX_EPOCH,
            witnesses: vec!["w.test/1+00000000+AA==".to_owned()],
        };
        place.set_pin(&pin).unwrap();
        assert_eq!(place.pin().unwrap(), Some(pin));
        fs::write(place.dir.join(MEMORY), "projekt = 'x'").unwrap();
        assert!(place.memory().err().unwrap().what.contains("damaged"));
    }
}
