//! A TPM 2.0 of holmd's machine: the key-encryption keys lie sealed by it, and no other opens them.
//!
//! ```text
//!   DIR/tpm2.N      generation N, integers big-endian:
//!    0  8   holm-tpm
//!    8  4   version: 1
//!   12  4   N
//!   16 34   name of the storage root key
//!   50  …   length (2), TPMT_PUBLIC of the sealed object
//!    …  …   length (2), its TPM2B_PRIVATE
//!    … 32   SHA-256 of all before: tells a damaged file from another TPM
//! ```
//!
//! A key-encryption key is 32 random bytes. It is had from the TPM for each use and wiped after it, but for what
//! tpm2-tss leaves in memory that it gave back; between the two it travels encrypted ([`session`]). With it holmd wraps
//! as the file provider does: few TPMs do AES for others.
//! Under the root key an object is as strong as AES-128 and P-256 are, which is what every TPM has.
//!
//! The device is opened at each call: a TPM that was away, or was reset, is found again. Nothing is kept in the TPM.

mod session;

use super::wrapped::{By, Wrapped, open, seal};
use super::{Key, KeyError, Provider, files, random};
use aws_lc_rs::digest::{SHA256, digest};
use secrecy::ExposeSecret;
use session::{Failure, NAME, Object, Place, Root, Tpm};
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"holm-tpm";
const VERSION: u32 = 1;
const STEM: &str = "tpm2";
const CHECKSUM: usize = 32;

pub(super) struct Tpm2 {
    dir: PathBuf,
    place: Place,
}

impl Tpm2 {
    pub(super) fn new(dir: &Path, device: &str) -> Result<Self, KeyError> {
        let place = Place::of(device).ok_or_else(|| {
            KeyError::new(format!("`{device}`: name the TPM by its whole path, as in /dev/tpmrm0"))
        })?;
        Ok(Self { dir: dir.to_path_buf(), place })
    }

    /// Whether it has no key-encryption key in the directory.
    pub(super) fn is_gone(dir: &Path) -> Result<bool, KeyError> {
        Ok(files::numbered(dir, STEM)?.is_empty())
    }

    fn path(&self, generation: u32) -> PathBuf {
        files::beside(&self.dir.join(STEM), &generation.to_string())
    }

    fn blob(&self, generation: u32) -> Result<Blob, KeyError> {
        let path = self.path(generation);
        let bytes = files::read(&path)?.ok_or_else(|| {
            KeyError::new(format!("it needs the key-encryption key `{}`, which is not there", path.display()))
        })?;
        Blob::of(&bytes, generation).ok_or_else(|| damaged(&path))
    }

    /// Loaded, and seen to be the one by which the object was sealed.
    fn root(&self, tpm: &mut Tpm, name: Option<&[u8; NAME]>) -> Result<Root, KeyError> {
        let root = tpm.root().map_err(|e| self.failed(&e))?;
        if name.is_some_and(|name| *name != root.name) {
            return Err(KeyError::new(format!(
                "the TPM `{}` is another than the one that sealed the key-encryption key, or was cleared since: what \
                 that one sealed, no other opens",
                self.place
            )));
        }
        Ok(root)
    }

    fn kek(&self, generation: u32) -> Result<Key, KeyError> {
        let blob = self.blob(generation)?;
        self.unsealed(&blob).map_err(|failure| match failure {
            Ok(failure) => failure,
            // Whole, and of this TPM, and yet not what it made.
            Err(failure) if failure.is_of_what_was_loaded() => damaged(&self.path(generation)),
            Err(failure) => self.failed(&failure),
        })
    }

    fn unsealed(&self, blob: &Blob) -> Result<Key, Result<KeyError, Failure>> {
        let mut tpm = Tpm::open(&self.place).map_err(Err)?;
        let root = self.root(&mut tpm, Some(&blob.root)).map_err(Ok)?;
        tpm.begin(&root).map_err(Err)?;
        tpm.unseal(&root, &blob.object).map_err(Err)
    }

    /// Make a generation, see it open, and write it.
    fn make(&self, generation: u32, root: Option<&[u8; NAME]>) -> Result<(), KeyError> {
        let key = random()?;
        let sealed = || {
            let mut tpm = Tpm::open(&self.place).map_err(|e| self.failed(&e))?;
            let root = self.root(&mut tpm, root)?;
            tpm.begin(&root).map_err(|e| self.failed(&e))?;
            let object = tpm.seal(&root, &key).map_err(|e| self.failed(&e))?;
            let back = tpm.unseal(&root, &object).map_err(|e| self.failed(&e))?;
            if back.expose_secret() != key.expose_secret() {
                return Err(KeyError::new("the TPM gives back another key than it was given"));
            }
            Ok(Blob { root: root.name, object })
        };
        let path = self.path(generation);
        files::write_new(&path, &sealed()?.bytes(generation))
            .map_err(|e| KeyError::because(format!("`{}` cannot be written", path.display()), e))
    }

    /// The first generation, where nothing was ever wrapped by another: files that were lost do not pass for new ones.
    fn first(&self) -> Result<u32, KeyError> {
        let projects = self.dir.join("project");
        for id in files::ids(&projects)? {
            let bytes = files::read(&projects.join(id.to_string()))?.unwrap_or_default();
            if Wrapped::wrapped_by(&bytes) == Some(By::Tpm2) {
                return Err(KeyError::new(format!(
                    "there is no key-encryption key `{}`, and project keys need one: restore it from a copy",
                    self.path(1).display()
                )));
            }
        }
        match self.make(1, None) {
            // By another holmd, as `holmd check` is one.
            Err(e) if e.cause.as_ref().is_some_and(|e| e.kind() == io::ErrorKind::AlreadyExists) => Ok(1),
            made => made.map(|()| 1),
        }
    }

    /// A TPM that fails may do better when it is asked again.
    fn failed(&self, failure: &Failure) -> KeyError {
        let why = match failure {
            Failure::Away(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                "it may not be used by holmd's user: see the operators' guide".to_owned()
            }
            _ if failure.is_of_the_owner() => "its owner hierarchy has a password, and holmd has none: run \
                                               tpm2_changeauth --object-context=owner --object-auth=PASSWORD"
                .to_owned(),
            _ => failure.to_string(),
        };
        KeyError::unreachable(format!("the TPM `{}`: {why}", self.place))
    }
}

fn damaged(path: &Path) -> KeyError {
    KeyError::new(format!(
        "`{}` is damaged, or no key-encryption key: restore it from a copy",
        path.display()
    ))
}

impl Provider for Tpm2 {
    fn generation(&mut self) -> Result<u32, KeyError> {
        match files::numbered(&self.dir, STEM)?.into_iter().max() {
            Some(newest) => Ok(newest),
            None => self.first(),
        }
    }

    fn wrap(&mut self, key: &Key, generation: u32, about: &[u8]) -> Result<Vec<u8>, KeyError> {
        seal(key, &self.kek(generation)?, about)
    }

    fn unwrap(&mut self, sealed: &[u8], generation: u32, about: &[u8]) -> Result<Key, KeyError> {
        open(sealed, &self.kek(generation)?, about).ok_or_else(|| KeyError::new("it does not open"))
    }

    fn rotate(&mut self) -> Result<u32, KeyError> {
        let newest = self.generation()?;
        let next = newest.checked_add(1).ok_or_else(|| KeyError::new("no generation is left"))?;
        self.make(next, Some(&self.blob(newest)?.root))?;
        Ok(next)
    }

    fn retire(&mut self, below: u32) -> Result<(), KeyError> {
        let old = files::numbered(&self.dir, STEM)?.into_iter().filter(|generation| *generation < below);
        old.into_iter().try_for_each(|generation| files::shred(&self.path(generation)))
    }

    /// Once through the TPM: what comes after is holmd's own.
    fn check(&mut self) -> Result<(), KeyError> {
        let newest = self.generation()?;
        self.kek(newest).map(drop)
    }
}

/// A sealed key-encryption key, as it lies in its file.
struct Blob {
    root: [u8; NAME],
    object: Object,
}

impl Blob {
    fn of(bytes: &[u8], generation: u32) -> Option<Self> {
        let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
        let mut reader = Reader(body.strip_prefix(MAGIC)?);
        let (version, number) = (reader.u32()?, reader.u32()?);
        let root = reader.take(NAME)?.try_into().ok()?;
        let (public, private) = (reader.sized()?.to_vec(), reader.sized()?.to_vec());
        let whole = reader.0.is_empty() && digest(&SHA256, body).as_ref() == checksum;
        let read = Self { root, object: Object { public, private } };
        (whole && version == VERSION && number == generation).then_some(read)
    }

    fn bytes(&self, generation: u32) -> Vec<u8> {
        let numbers = [VERSION, generation].map(u32::to_be_bytes).concat();
        let object = [sized(&self.object.public), sized(&self.object.private)].concat();
        let body = [MAGIC, &numbers, &self.root, &object].concat();
        [body.as_slice(), digest(&SHA256, &body).as_ref()].concat()
    }
}

/// Reads what a blob holds; `None` where it ends too soon.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// What stands after its size in two bytes.
    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(length.into())
    }
}

/// Bytes after their size in two bytes.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

#[cfg(test)]
pub(super) mod tests;
