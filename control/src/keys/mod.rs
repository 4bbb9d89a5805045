//! Keys: one per volume, wrapped by its project's, wrapped by the provider's key-encryption key.
//!
//! ```text
//!   kek (provider: a file)  ──wraps──▶  project/ID  ──wraps──▶  volume/ID  ──opens──▶  a slice's disk
//! ```
//!
//! AES-256-GCM-SIV with a random nonce; what it is for is bound in as associated data, so that a wrapped
//! key moved to another record does not open. Wrapped keys are small files of their own and never in the
//! store or the log, both of which keep old values: destroying a key is overwriting and unlinking one
//! file. The project's key goes with the last of its volumes, so that an earlier copy of a wrapped volume
//! key is of no use either. What this cannot reach is a copy of this whole directory made elsewhere
//! before: back it up apart from the disks, or not at all.

mod attempt;

pub use attempt::{Attempt, opens_with};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, RandomizedNonceKey};
use aws_lc_rs::digest;
use aws_lc_rs::rand::fill;
use data_encoding::HEXLOWER;
use holm_proto::ids::{ProjectId, VolumeId};
use newtype_uuid::GenericUuid;
use secrecy::{ExposeSecret, SecretBox};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A key of 32 bytes: wiped when dropped, not shown by `Debug`.
pub type Key = SecretBox<[u8; 32]>;

const KEY_BYTES: usize = 32;

/// Why a key could not be had. Never says anything of the key itself.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct KeyError {
    /// What was being done.
    pub what: String,
    /// What the system said.
    #[source]
    pub cause: Option<io::Error>,
}

/// The wrapped keys of one holmd, and the file provider's key-encryption key.
pub struct Keyring {
    dir: PathBuf,
    kek: Key,
}

impl Keyring {
    /// Make a key-encryption key and the directory around it. Refuses one that exists.
    pub fn create(dir: &Path) -> Result<(), KeyError> {
        let fail = |e| err(format!("the key directory `{}` cannot be made", dir.display()), e);
        for sub in [dir.to_path_buf(), dir.join("project"), dir.join("volume")] {
            fs::create_dir_all(&sub).map_err(fail)?;
            fs::set_permissions(&sub, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        }
        let kek = random()?;
        write_new(&dir.join("kek"), kek.expose_secret()).map_err(fail)
    }

    /// Load the key-encryption key.
    pub fn load(dir: &Path) -> Result<Self, KeyError> {
        let path = dir.join("kek");
        let what = || format!("the key-encryption key `{}` cannot be read", path.display());
        let meta = fs::metadata(&path).map_err(|e| err(what(), e))?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(KeyError {
                what: format!("`{0}` can be read by others; run: chmod 600 {0}", path.display()),
                cause: None,
            });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        let file = File::open(&path).map_err(|e| err(what(), e))?;
        file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|e| err(what(), e))?;
        let kek = as_key(&bytes)
            .ok_or_else(|| KeyError { what: format!("{} is not 32 bytes", path.display()), cause: None })?;
        Ok(Self { dir: dir.to_path_buf(), kek })
    }

    /// The volume's key, made where there is none yet, and its fingerprint.
    pub fn volume_key(&self, project: ProjectId, volume: VolumeId) -> Result<(Key, String), KeyError> {
        let project_key = self.wrapped(&self.project_path(project), &self.kek, &about_project(project))?;
        let key = self.wrapped(&self.volume_path(volume), &project_key, &about_volume(project, volume))?;
        let print = fingerprint(&key);
        Ok((key, print))
    }

    /// The volume's key, where there is one.
    pub fn open_volume_key(&self, project: ProjectId, volume: VolumeId) -> Result<Option<Key>, KeyError> {
        if !self.volume_path(volume).exists() || !self.project_path(project).exists() {
            return Ok(None);
        }
        Ok(Some(self.volume_key(project, volume)?.0))
    }

    /// Destroy the volume's key; with `last`, the project's too. Nothing happens where it is gone.
    pub fn destroy(&self, project: ProjectId, volume: VolumeId, last: bool) -> Result<(), KeyError> {
        shred(&self.volume_path(volume))?;
        if last { shred(&self.project_path(project)) } else { Ok(()) }
    }

    /// Every key there is, of the key-encryption key's own down to the volumes': name and key. For the drill
    /// in which a destroyed slice's disk must open with none of them.
    pub fn all(&self) -> Result<Vec<(String, Key)>, KeyError> {
        let again =
            |key: &Key| Key::init_with_mut(|k: &mut [u8; KEY_BYTES]| k.copy_from_slice(key.expose_secret()));
        let mut all = vec![("kek".to_owned(), again(&self.kek))];
        let volumes = ids(&self.dir.join("volume"))?;
        for id in ids(&self.dir.join("project"))? {
            let project = ProjectId::from_untyped_uuid(id);
            let key = self.wrapped(&self.project_path(project), &self.kek, &about_project(project))?;
            for id in &volumes {
                let volume = VolumeId::from_untyped_uuid(*id);
                // Each opens with the key of one project only.
                let path = self.volume_path(volume);
                if let Ok(found) = self.wrapped(&path, &key, &about_volume(project, volume)) {
                    all.push((format!("volume/{id}"), found));
                }
            }
            all.push((format!("project/{id}"), key));
        }
        Ok(all)
    }

    fn project_path(&self, project: ProjectId) -> PathBuf {
        self.dir.join("project").join(project.into_untyped_uuid().to_string())
    }

    fn volume_path(&self, volume: VolumeId) -> PathBuf {
        self.dir.join("volume").join(volume.into_untyped_uuid().to_string())
    }

    /// The key in this file, made where there is no file.
    fn wrapped(&self, path: &Path, under: &Key, about: &[u8]) -> Result<Key, KeyError> {
        let what = || format!("the wrapped key `{}` cannot be read", path.display());
        match fs::read(path) {
            Ok(bytes) => unwrap(&bytes, under, about)
                .ok_or_else(|| KeyError { what: format!("{} does not open", what()), cause: None }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key = random()?;
                let bytes = wrap(&key, under, about)?;
                write_new(path, &bytes)
                    .map_err(|e| err(format!("the wrapped key `{}` cannot be written", path.display()), e))?;
                Ok(key)
            }
            Err(e) => Err(err(what(), e)),
        }
    }
}

/// SHA-256 of a key under a name of its own, first 16 hexadecimal digits.
pub fn fingerprint(key: &Key) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"holm/key-fingerprint/v1\0");
    context.update(key.expose_secret());
    HEXLOWER.encode(context.finish().as_ref()).chars().take(16).collect()
}

/// The ids that name the files in a directory.
fn ids(dir: &Path) -> Result<Vec<uuid::Uuid>, KeyError> {
    let fail = |e| err(format!("the key directory `{}` cannot be read", dir.display()), e);
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        ids.extend(name.to_str().and_then(|n| n.parse::<uuid::Uuid>().ok()));
    }
    ids.sort();
    Ok(ids)
}

fn about_project(project: ProjectId) -> Vec<u8> {
    [b"holm/project-key/v1\0".as_slice(), project.into_untyped_uuid().as_bytes()].concat()
}

fn about_volume(project: ProjectId, volume: VolumeId) -> Vec<u8> {
    let (p, v) = (project.into_untyped_uuid(), volume.into_untyped_uuid());
    [b"holm/volume-key/v1\0".as_slice(), p.as_bytes(), v.as_bytes()].concat()
}

/// Version 1, nonce, ciphertext, tag.
fn wrap(key: &Key, under: &Key, about: &[u8]) -> Result<Vec<u8>, KeyError> {
    let refused = || KeyError { what: "a key could not be wrapped".to_owned(), cause: None };
    let aead = RandomizedNonceKey::new(&AES_256_GCM_SIV, under.expose_secret()).map_err(|_| refused())?;
    let mut sealed = key.expose_secret().to_vec();
    let nonce = aead.seal_in_place_append_tag(Aad::from(about), &mut sealed).map_err(|_| refused())?;
    Ok([[1].as_slice(), nonce.as_ref(), &sealed].concat())
}

fn unwrap(bytes: &[u8], under: &Key, about: &[u8]) -> Option<Key> {
    let (version, rest) = bytes.split_first()?;
    let (nonce, sealed) = rest.split_at_checked(aws_lc_rs::aead::NONCE_LEN)?;
    if *version != 1 {
        return None;
    }
    let aead = RandomizedNonceKey::new(&AES_256_GCM_SIV, under.expose_secret()).ok()?;
    let nonce = aws_lc_rs::aead::Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let plain = aead.open_in_place(nonce, Aad::from(about), &mut sealed).ok()?;
    as_key(plain)
}

fn as_key(bytes: &[u8]) -> Option<Key> {
    let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
    Some(Key::init_with_mut(|key: &mut [u8; KEY_BYTES]| key.copy_from_slice(bytes)))
}

fn random() -> Result<Key, KeyError> {
    let mut good = true;
    let key = Key::init_with_mut(|key: &mut [u8; KEY_BYTES]| good = fill(key).is_ok());
    if good { Ok(key) } else { Err(KeyError { what: "no random numbers to be had".to_owned(), cause: None }) }
}

/// A whole new file or none, durable when it returns.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // hard_link refuses where rename would replace: a key is never overwritten by another.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked?;
    sync_parent(path)
}

/// Overwrite, sync, unlink, sync. Nothing happens where there is no file.
fn shred(path: &Path) -> Result<(), KeyError> {
    let done = || -> io::Result<()> {
        let mut file = match OpenOptions::new().write(true).open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(4096).clamp(64, 4096);
        let mut noise = vec![0; length];
        fill(&mut noise).map_err(|_| io::Error::other("no random numbers to be had"))?;
        file.write_all(&noise)?;
        file.sync_all()?;
        fs::remove_file(path)?;
        sync_parent(path)
    };
    done().map_err(|e| err(format!("the wrapped key `{}` cannot be destroyed", path.display()), e))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

fn err(what: String, cause: io::Error) -> KeyError {
    KeyError { what, cause: Some(cause) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring() -> (tempfile::TempDir, Keyring) {
        let dir = tempfile::tempdir().unwrap();
        Keyring::create(dir.path()).unwrap();
        let keyring = Keyring::load(dir.path()).unwrap();
        (dir, keyring)
    }

    #[test]
    fn a_key_comes_back_and_is_its_volumes_own() {
        let (dir, keyring) = keyring();
        let (p, v, w) = (ProjectId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
        let (first, print) = keyring.volume_key(p, v).unwrap();
        let again = Keyring::load(dir.path()).unwrap();
        assert_eq!(again.volume_key(p, v).unwrap().0.expose_secret(), first.expose_secret());
        assert_eq!(print.len(), 16);
        assert_ne!(keyring.volume_key(p, w).unwrap().1, print);
        assert!(!format!("{first:?}").contains(&format!("{:?}", first.expose_secret())));
    }

    #[test]
    fn a_wrapped_key_moved_to_another_record_does_not_open() {
        let (_dir, keyring) = keyring();
        let (p, q) = (ProjectId::new_v4(), ProjectId::new_v4());
        let (v, w) = (VolumeId::new_v4(), VolumeId::new_v4());
        keyring.volume_key(p, v).unwrap();
        fs::copy(keyring.volume_path(v), keyring.volume_path(w)).unwrap();
        assert!(keyring.volume_key(p, w).is_err());
        fs::copy(keyring.project_path(p), keyring.project_path(q)).unwrap();
        assert!(keyring.volume_key(q, v).is_err());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (_dir, keyring) = keyring();
        let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
        keyring.volume_key(p, v).unwrap();
        let good = fs::read(keyring.volume_path(v)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(keyring.volume_path(v), &bad).unwrap();
            assert!(keyring.volume_key(p, v).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_destroyed_stays_so_with_every_key_that_is_left() {
        let (dir, keyring) = keyring();
        let (p, v, w) = (ProjectId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
        let (key, _) = keyring.volume_key(p, v).unwrap();
        keyring.volume_key(p, w).unwrap();
        let stolen = fs::read(keyring.volume_path(v)).unwrap();
        keyring.destroy(p, v, false).unwrap();
        keyring.destroy(p, v, false).unwrap();
        assert!(keyring.open_volume_key(p, v).unwrap().is_none());
        keyring.destroy(p, w, true).unwrap();
        // With the project's key gone, an earlier copy of the wrapped key opens no more.
        fs::write(keyring.volume_path(v), stolen).unwrap();
        assert!(keyring.volume_key(p, v).is_err());
        for file in [dir.path().join("kek"), keyring.volume_path(v)] {
            let bytes = fs::read(file).unwrap();
            assert!(!bytes.windows(KEY_BYTES).any(|w| w == key.expose_secret()));
        }
    }

    #[test]
    fn every_key_that_is_left_is_listed() {
        let (_dir, keyring) = keyring();
        let (p, q) = (ProjectId::new_v4(), ProjectId::new_v4());
        let (v, w, x) = (VolumeId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
        let prints: Vec<String> =
            [(p, v), (p, w), (q, x)].map(|(p, v)| keyring.volume_key(p, v).unwrap().1).to_vec();
        let left = || -> Vec<String> { keyring.all().unwrap().iter().map(|(_, k)| fingerprint(k)).collect() };
        assert_eq!(left().len(), 1 + 2 + 3);
        assert!(prints.iter().all(|print| left().contains(print)));
        keyring.destroy(p, v, false).unwrap();
        keyring.destroy(q, x, true).unwrap();
        assert_eq!(left().len(), 1 + 1 + 1);
        assert!(left().contains(&prints[1]) && !left().contains(&prints[0]) && !left().contains(&prints[2]));
    }

    #[test]
    fn a_kek_others_can_read_is_refused() {
        let (dir, _) = keyring();
        let kek = dir.path().join("kek");
        fs::set_permissions(&kek, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Keyring::load(dir.path()).err().unwrap().what.contains("chmod 600"));
        assert!(Keyring::create(dir.path()).is_err(), "an existing key was replaced");
    }
}
