//! The file provider: key-encryption keys in files of holmd's own, plain or sealed with a secret.
//!
//! ```text
//!   DIR/kek      generation 1        DIR/kek.N    generation N
//!
//!   plain: the 32 bytes.             sealed, integers big-endian:
//!    0  8   holm-kek                  20  4   lanes
//!    8  4   version: 1                24 16   salt
//!   12  4   memory, KiB               40 12   nonce
//!   16  4   passes                    52 48   ciphertext (32), tag (16)
//! ```
//!
//! The secret goes through Argon2id (RFC 9106) with the numbers that stand in the file; the key is sealed with
//! AES-256-GCM-SIV, and the 40 bytes before the nonce and the generation are its associated data. In memory the keys
//! are plain as long as holmd runs.

use super::wrapped::{open, seal};
use super::{Key, KeyError, Provider, Secret, again, as_key, files, random, secret};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand::fill;
use secrecy::{ExposeSecret, SecretSlice};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const MAGIC: &[u8] = b"holm-kek";
const HEAD: usize = 40;
/// The second recommendation of RFC 9106: 64 MiB, three passes, four lanes.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// A file that asks for more was not written by holmd.
const MOST_KIB: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 16;

pub(super) struct Local {
    dir: PathBuf,
    secret: Option<SecretSlice<u8>>,
    keks: BTreeMap<u32, Kek>,
}

struct Kek {
    key: Key,
    plain: bool,
}

impl Local {
    /// Make the first generation, plain. Refuses one that exists.
    pub(super) fn create(dir: &Path) -> Result<(), KeyError> {
        let path = path(dir, 1);
        let kek = random()?;
        files::write_new(&path, kek.expose_secret())
            .map_err(|e| KeyError::because(format!("`{}` cannot be made", path.display()), e))
    }

    /// Whether there is none.
    pub(super) fn is_gone(dir: &Path) -> Result<bool, KeyError> {
        Ok(generations(dir)?.is_empty())
    }

    /// Load every generation that is there.
    pub(super) fn load(dir: &Path, seal: Option<&Secret>, former: Option<&Secret>) -> Result<Self, KeyError> {
        let secret = seal.map(secret::read).transpose()?;
        let former = former.map(secret::read).transpose()?;
        let mut keks = BTreeMap::new();
        for generation in generations(dir)? {
            let path = path(dir, generation);
            secret::private(&path)?;
            let bytes = files::read(&path)?.unwrap_or_default();
            let secrets = [secret.as_ref(), former.as_ref()].into_iter().flatten();
            keks.insert(generation, Kek::read(&path, &bytes, generation, secrets)?);
        }
        if keks.is_empty() {
            return Err(KeyError::new(format!(
                "there is no key-encryption key `{}`",
                path(dir, 1).display()
            )));
        }
        Ok(Self { dir: dir.to_path_buf(), secret, keks })
    }

    fn kek(&self, generation: u32) -> Result<&Key, KeyError> {
        self.keks.get(&generation).map(|kek| &kek.key).ok_or_else(|| {
            let path = path(&self.dir, generation);
            KeyError::new(format!("it needs the key-encryption key `{}`, which is not there", path.display()))
        })
    }
}

impl Kek {
    fn read<'a>(
        path: &Path,
        bytes: &[u8],
        generation: u32,
        secrets: impl Iterator<Item = &'a SecretSlice<u8>>,
    ) -> Result<Self, KeyError> {
        if let Some(key) = as_key(bytes) {
            return Ok(Self { key, plain: true });
        }
        let sealed = Sealed::of(bytes).ok_or_else(|| {
            KeyError::new(format!("`{}` is no key-encryption key: restore it from a copy", path.display()))
        })?;
        let mut tried = false;
        for secret in secrets {
            tried = true;
            if let Some(key) = sealed.open(secret, generation)? {
                return Ok(Self { key, plain: false });
            }
        }
        let why = if tried {
            "does not open with the secret that `seal` in [keys] names: it is another one, or the file was changed"
        } else {
            "is sealed: say in [keys] what opens it, as in seal = { credential = \"holm-kek\" }"
        };
        Err(KeyError::new(format!("`{}` {why}", path.display())))
    }
}

impl Provider for Local {
    fn generation(&mut self) -> Result<u32, KeyError> {
        let newest = self.keks.keys().next_back().copied();
        newest.ok_or_else(|| KeyError::new("there is no key-encryption key"))
    }

    fn wrap(&mut self, key: &Key, generation: u32, about: &[u8]) -> Result<Vec<u8>, KeyError> {
        seal(key, self.kek(generation)?, about)
    }

    fn unwrap(&mut self, sealed: &[u8], generation: u32, about: &[u8]) -> Result<Key, KeyError> {
        open(sealed, self.kek(generation)?, about).ok_or_else(|| KeyError::new("it does not open"))
    }

    fn rotate(&mut self) -> Result<u32, KeyError> {
        let next = self.generation()?.checked_add(1).ok_or_else(|| KeyError::new("no generation is left"))?;
        let (key, path) = (random()?, path(&self.dir, next));
        let bytes = match &self.secret {
            None => key.expose_secret().to_vec().into(),
            Some(secret) => zeroize::Zeroizing::new(Sealed::make(&key, secret, next)?),
        };
        let failed = |e| KeyError::because(format!("`{}` cannot be written", path.display()), e);
        files::sweep(&path).and_then(|()| files::write_new(&path, &bytes)).map_err(failed)?;
        self.keks.insert(next, Kek { key, plain: self.secret.is_none() });
        Ok(next)
    }

    fn retire(&mut self, below: u32) -> Result<(), KeyError> {
        let old: Vec<u32> = self.keks.range(..below).map(|(generation, _)| *generation).collect();
        for generation in old {
            files::shred(&path(&self.dir, generation))?;
            self.keks.remove(&generation);
        }
        Ok(())
    }

    fn own(&self) -> Vec<(String, Key)> {
        let name = |generation: &u32| path(Path::new(""), *generation).display().to_string();
        self.keks.iter().map(|(generation, kek)| (name(generation), again(&kek.key))).collect()
    }

    fn remark(&self) -> String {
        match (self.keks.values().any(|kek| kek.plain), &self.secret) {
            (false, _) => String::new(),
            (true, None) => {
                "it lies in a plain file: whoever reads holmd's disk or a copy of it can open every key"
                    .to_owned()
            }
            (true, Some(_)) => "it still lies in a plain file: run holm keys rotate --kek".to_owned(),
        }
    }
}

/// A key-encryption key under a secret.
struct Sealed<'a> {
    head: &'a [u8],
    argon: Argon2<'static>,
    salt: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (head, sealed) = bytes.split_at_checked(HEAD)?;
        let number = |at: usize| Some(u32::from_be_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?));
        let (version, memory, passes, lanes) = (number(8)?, number(12)?, number(16)?, number(20)?);
        if !head.starts_with(MAGIC) || version != 1 || memory > MOST_KIB || passes > MOST_PASSES {
            return None;
        }
        let argon = argon(memory, passes, lanes)?;
        Some(Self { head, argon, salt: head.get(24..)?, sealed })
    }

    fn make(key: &Key, secret: &SecretSlice<u8>, generation: u32) -> Result<Vec<u8>, KeyError> {
        let mut salt = [0; 16];
        fill(&mut salt).map_err(|_| KeyError::new("no random numbers to be had"))?;
        let numbers = [1, MEMORY_KIB, PASSES, LANES].map(u32::to_be_bytes).concat();
        let head = [MAGIC, &numbers, &salt].concat();
        let argon =
            argon(MEMORY_KIB, PASSES, LANES).ok_or_else(|| KeyError::new("argon2 refuses its numbers"))?;
        let under = stretched(&argon, secret, &salt)?;
        Ok([head.as_slice(), &seal(key, &under, &about(&head, generation))?].concat())
    }

    fn open(&self, secret: &SecretSlice<u8>, generation: u32) -> Result<Option<Key>, KeyError> {
        let under = stretched(&self.argon, secret, self.salt)?;
        Ok(open(self.sealed, &under, &about(self.head, generation)))
    }
}

fn argon(memory: u32, passes: u32, lanes: u32) -> Option<Argon2<'static>> {
    let params = Params::new(memory, passes, lanes, Some(32)).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn stretched(argon: &Argon2<'_>, secret: &SecretSlice<u8>, salt: &[u8]) -> Result<Key, KeyError> {
    let mut done = Ok(());
    let key = Key::init_with_mut(|key: &mut [u8; 32]| {
        done = argon.hash_password_into(secret.expose_secret(), salt, key);
    });
    done.map(|()| key).map_err(|e| KeyError::new(format!("the secret cannot be stretched: {e}")))
}

fn about(head: &[u8], generation: u32) -> Vec<u8> {
    [head, &generation.to_be_bytes()].concat()
}

fn path(dir: &Path, generation: u32) -> PathBuf {
    if generation == 1 { dir.join("kek") } else { dir.join(format!("kek.{generation}")) }
}

/// The generations that lie in the directory.
fn generations(dir: &Path) -> Result<Vec<u32>, KeyError> {
    let mut found = files::numbered(dir, "kek")?;
    found.retain(|generation| *generation > 1);
    found.extend(path(dir, 1).exists().then_some(1));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn secret(dir: &Path, text: &str) -> Secret {
        let path = dir.join(text.replace(' ', "-"));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Secret::File(path)
    }

    #[test]
    fn a_sealed_kek_opens_with_its_secret_alone_and_a_plain_one_is_sealed_by_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let (horse, other) = (secret(dir.path(), "correct horse"), secret(dir.path(), "wrong horse"));
        Local::create(dir.path()).unwrap();
        assert!(Local::create(dir.path()).is_err(), "an existing key was replaced");
        let load = |seal, former| Local::load(dir.path(), seal, former);
        let mut local = load(Some(&horse), None).unwrap();
        assert!(local.remark().contains("rotate --kek"));
        let probe = random().unwrap();
        let old = local.wrap(&probe, 1, b"x").unwrap();
        assert_eq!(local.rotate().unwrap(), 2);
        local.check().unwrap();
        // Until it is retired the older one opens what it wrapped.
        assert!(load(Some(&horse), None).unwrap().unwrap(&old, 1, b"x").is_ok());
        local.retire(2).unwrap();
        assert_eq!(local.remark(), "");
        assert!(local.unwrap(&old, 1, b"x").err().unwrap().what.contains("not there"));
        assert!(!dir.path().join("kek").exists());
        let bytes = fs::read(dir.path().join("kek.2")).unwrap();
        assert_eq!((bytes.len(), &bytes[..12]), (100, &b"holm-kek\0\0\0\x01"[..]));
        let key = local.own().remove(0).1;
        assert!(!bytes.windows(32).any(|w| w == key.expose_secret()));
        let mut again = load(Some(&horse), None).unwrap();
        let new = local.wrap(&probe, 2, b"x").unwrap();
        assert_eq!(again.unwrap(&new, 2, b"x").unwrap().expose_secret(), probe.expose_secret());
        assert!(again.unwrap(&new, 2, b"y").is_err() && again.unwrap(&new, 1, b"x").is_err());
        assert!(load(Some(&other), None).err().unwrap().what.contains("another one"));
        assert!(load(None, None).err().unwrap().what.contains("is sealed"));
        // A new secret takes over with the next rotation.
        let mut moving = load(Some(&other), Some(&horse)).unwrap();
        moving.rotate().unwrap();
        moving.retire(3).unwrap();
        assert!(load(Some(&other), None).is_ok() && load(Some(&horse), None).is_err());
    }

    #[test]
    fn every_changed_byte_of_a_sealed_kek_is_noticed() {
        let secret = SecretSlice::from(b"correct horse".to_vec());
        let good = Sealed::make(&random().unwrap(), &secret, 2).unwrap();
        let opens = |bytes: &[u8], generation| {
            Kek::read(Path::new("kek"), bytes, generation, std::iter::once(&secret)).is_ok()
        };
        assert!(opens(&good, 2) && !opens(&good, 3));
        for at in [0, 8, 11, 12, 15, 16, 19, 20, 23, 24, 39, 40, 51, 52, 99] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(!opens(&bad, 2), "byte {at}");
        }
        for short in [0, 31, 33, 39, 40, 52, 99] {
            assert!(!opens(&good[..short], 2), "{short} bytes");
        }
    }

    #[test]
    fn a_kek_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        Local::create(dir.path()).unwrap();
        fs::set_permissions(dir.path().join("kek"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Local::load(dir.path(), None, None).err().unwrap().what.contains("chmod 600"));
    }
}
