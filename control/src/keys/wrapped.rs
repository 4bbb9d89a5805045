//! A wrapped key as it lies on disk, version 2. Integers are big-endian, lengths in bytes.
//!
//! ```text
//!    0  1   version: 2
//!    1  1   kind: 1 a project's key, 2 a volume's
//!    2  1   wrapped by: 0 its project's key, 1 file, 2 vault, 3 pkcs11, 4 tpm2
//!    3  4   generation of this key, from 1
//!    7  4   generation of the key that wraps it: of the project's, or of the provider's key-encryption key
//!   11 16   id of the project
//!   27 16   id of the volume; of a project's key zeros
//!   43  …   as whoever wrapped it writes it. By holmd itself: nonce (12), ciphertext (32), tag (16)
//! ```
//!
//! Associated data is `holm/wrapped-key/v2`, a zero byte, and the 43 bytes before. The cipher of holmd itself is
//! AES-256-GCM-SIV with a random nonce.
//!
//! Version 1 is 1, nonce, ciphertext, tag, under associated data that names the record alone; it is of generation 1,
//! wrapped by generation 1, by the file provider. It is read, and gone with the next rotation.

use super::{Key, KeyError, as_key};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use holm_proto::ids::{ProjectId, VolumeId};
use newtype_uuid::GenericUuid;
use secrecy::ExposeSecret;
use uuid::Uuid;
use zeroize::Zeroizing;

const VERSION: u8 = 2;
const HEAD: usize = 43;
const LABEL: &[u8] = b"holm/wrapped-key/v2\0";

/// Which record a wrapped key is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    Project(ProjectId),
    Volume(ProjectId, VolumeId),
}

/// Who wrapped a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    ProjectKey,
    File,
    Vault,
    Pkcs11,
    Tpm2,
}

impl By {
    const ALL: [Self; 5] = [Self::ProjectKey, Self::File, Self::Vault, Self::Pkcs11, Self::Tpm2];

    fn byte(self) -> u8 {
        match self {
            Self::ProjectKey => 0,
            Self::File => 1,
            Self::Vault => 2,
            Self::Pkcs11 => 3,
            Self::Tpm2 => 4,
        }
    }

    /// As in the configuration.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ProjectKey => "project key",
            Self::File => "file",
            Self::Vault => "vault",
            Self::Pkcs11 => "pkcs11",
            Self::Tpm2 => "tpm2",
        }
    }
}

/// A wrapped key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrapped {
    version: u8,
    record: Record,
    pub(super) by: By,
    /// Its own.
    pub(super) generation: u32,
    /// Of the key that wraps it.
    pub(super) under: u32,
    pub(super) sealed: Vec<u8>,
}

impl Wrapped {
    /// One that is still to be sealed.
    pub(super) fn new(record: Record, by: By, generation: u32, under: u32) -> Self {
        Self { version: VERSION, record, by, generation, under, sealed: Vec::new() }
    }

    /// Read one that is to be of this record. `None`: it is none, or another's.
    pub(super) fn of(record: Record, bytes: &[u8]) -> Option<Self> {
        if let Some((1, sealed)) = bytes.split_first() {
            let by = match record {
                Record::Project(_) => By::File,
                Record::Volume(..) => By::ProjectKey,
            };
            return Some(Self { version: 1, record, by, generation: 1, under: 1, sealed: sealed.to_vec() });
        }
        let (head, sealed) = bytes.split_at_checked(HEAD)?;
        let by = Self::wrapped_by(bytes)?;
        let number = |at: usize| Some(u32::from_be_bytes(head.get(at..at.checked_add(4)?)?.try_into().ok()?));
        let read = Self {
            version: VERSION,
            record,
            by,
            generation: number(3)?,
            under: number(7)?,
            sealed: sealed.to_vec(),
        };
        // Version, kind and record are what they have to be.
        (read.head() == head).then_some(read)
    }

    /// Who wrapped it, as it says itself; `None` of version 1, which does not say it.
    pub(super) fn wrapped_by(bytes: &[u8]) -> Option<By> {
        let [VERSION, _, by, ..] = bytes else { return None };
        By::ALL.into_iter().find(|one| one.byte() == *by)
    }

    /// The project that a volume's wrapped key says it is of; `None` of version 1, which does not say it.
    pub(super) fn project(bytes: &[u8]) -> Option<ProjectId> {
        let (head, _) = bytes.split_at_checked(HEAD)?;
        let id = head.get(11..27).filter(|_| head.first() == Some(&VERSION))?;
        Some(ProjectId::from_untyped_uuid(Uuid::from_slice(id).ok()?))
    }

    /// Which record it is of.
    pub(super) fn record(&self) -> Record {
        self.record
    }

    /// As it is written.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.head().as_slice(), &self.sealed].concat()
    }

    /// Its associated data.
    pub(super) fn about(&self) -> Vec<u8> {
        match (self.version, self.record) {
            (1, Record::Project(p)) => {
                [b"holm/project-key/v1\0".as_slice(), p.into_untyped_uuid().as_bytes()].concat()
            }
            (1, Record::Volume(p, v)) => {
                let (p, v) = (p.into_untyped_uuid(), v.into_untyped_uuid());
                [b"holm/volume-key/v1\0".as_slice(), p.as_bytes(), v.as_bytes()].concat()
            }
            _ => [LABEL, &self.head()].concat(),
        }
    }

    fn head(&self) -> Vec<u8> {
        let (kind, project, volume) = match self.record {
            Record::Project(p) => (1, p.into_untyped_uuid(), Uuid::nil()),
            Record::Volume(p, v) => (2, p.into_untyped_uuid(), v.into_untyped_uuid()),
        };
        let numbers = [self.generation.to_be_bytes(), self.under.to_be_bytes()].concat();
        [&[VERSION, kind, self.by.byte()], numbers.as_slice(), project.as_bytes(), volume.as_bytes()].concat()
    }
}

/// Nonce, ciphertext, tag.
pub(super) fn seal(key: &Key, under: &Key, about: &[u8]) -> Result<Vec<u8>, KeyError> {
    let refused = || KeyError::new("a key could not be wrapped");
    let aead = RandomizedNonceKey::new(&AES_256_GCM_SIV, under.expose_secret()).map_err(|_| refused())?;
    // Its room is for the tag, too: a vector that grows leaves the plain key behind.
    let mut sealed = Zeroizing::new(Vec::with_capacity(64));
    sealed.extend_from_slice(key.expose_secret());
    let nonce = aead.seal_in_place_append_tag(Aad::from(about), &mut *sealed).map_err(|_| refused())?;
    Ok([nonce.as_ref(), sealed.as_slice()].concat())
}

/// `None`: not wrapped by this key, or for something else.
pub(super) fn open(sealed: &[u8], under: &Key, about: &[u8]) -> Option<Key> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let aead = RandomizedNonceKey::new(&AES_256_GCM_SIV, under.expose_secret()).ok()?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let plain = aead.open_in_place(nonce, Aad::from(about), &mut sealed).ok()?;
    as_key(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    fn project() -> ProjectId {
        ProjectId::from_untyped_uuid(Uuid::from_bytes([0xAA; 16]))
    }

    fn volume() -> VolumeId {
        VolumeId::from_untyped_uuid(Uuid::from_bytes([0xBB; 16]))
    }

    #[test]
    fn the_bytes_on_disk_are_these() {
        let one = Wrapped {
            sealed: vec![0xEE; 60],
            ..Wrapped::new(Record::Volume(project(), volume()), By::ProjectKey, 1, 258)
        };
        let sealed = "ee".repeat(60);
        let ids = ["aa".repeat(16), "bb".repeat(16)].concat();
        assert_eq!(HEXLOWER.encode(&one.bytes()), format!("0202000000000100000102{ids}{sealed}"));
        let about = HEXLOWER.encode(b"holm/wrapped-key/v2\0");
        assert_eq!(HEXLOWER.encode(&one.about()), format!("{about}0202000000000100000102{ids}"));
        assert_eq!(Wrapped::project(&one.bytes()), Some(project()));
        let vault = Wrapped {
            sealed: b"vault:v7:AAAA".to_vec(),
            ..Wrapped::new(Record::Project(project()), By::Vault, 3, 7)
        };
        let ids = ["aa".repeat(16), "00".repeat(16)].concat();
        let text = HEXLOWER.encode(b"vault:v7:AAAA");
        assert_eq!(HEXLOWER.encode(&vault.bytes()), format!("0201020000000300000007{ids}{text}"));
        let tpm =
            Wrapped { sealed: vec![0xEE; 60], ..Wrapped::new(Record::Project(project()), By::Tpm2, 1, 2) };
        assert_eq!(HEXLOWER.encode(&tpm.bytes()), format!("0201040000000100000002{ids}{sealed}"));
        assert_eq!(Wrapped::wrapped_by(&tpm.bytes()), Some(By::Tpm2));
        let project = Record::Project(project());
        for (record, one) in
            [(Record::Volume(self::project(), volume()), one), (project, vault), (project, tpm)]
        {
            assert_eq!(Wrapped::of(record, &one.bytes()), Some(one));
        }
    }

    /// Made by the last version that wrote them: key 07…, under 09….
    #[test]
    fn version_1_still_opens() {
        let under = Key::init_with_mut(|k: &mut [u8; 32]| k.fill(9));
        for record in [Record::Project(project()), Record::Volume(project(), volume())] {
            let about = Wrapped { version: 1, ..Wrapped::new(record, By::File, 1, 1) }.about();
            let key = Key::init_with_mut(|k: &mut [u8; 32]| k.fill(7));
            let bytes = [&[1], seal(&key, &under, &about).unwrap().as_slice()].concat();
            assert_eq!(bytes.len(), 61);
            let read = Wrapped::of(record, &bytes).unwrap();
            assert_eq!((read.generation, read.under), (1, 1));
            assert!(open(&read.sealed, &under, &read.about()).is_some());
        }
    }

    #[test]
    fn what_is_none_is_not_read() {
        let good =
            Wrapped { sealed: vec![1; 60], ..Wrapped::new(Record::Project(project()), By::File, 1, 1) };
        let good = good.bytes();
        let other = ProjectId::new_v4();
        assert_eq!(Wrapped::of(Record::Project(other), &good), None);
        assert_eq!(Wrapped::of(Record::Volume(project(), volume()), &good), None);
        for short in 0..HEAD {
            assert_eq!(Wrapped::of(Record::Project(project()), &good[..short]), None);
        }
        for (at, bad) in [(0, 0), (0, 3), (1, 0), (2, 9)] {
            let mut bytes = good.clone();
            bytes[at] = bad;
            assert_eq!(Wrapped::of(Record::Project(project()), &bytes), None, "{at}");
        }
    }
}
