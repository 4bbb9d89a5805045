//! What a backup consists of. Its bytes are believed only where their SHA-256 is the one that was remembered.

use crate::edge::{Backup, EdgeError, Result};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_proto::ids::{BackupId, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Its name in the store.
pub(super) const NAME: &str = "manifest";
pub(super) const VERSION: u32 = 1;
/// Held in memory at a time, twice at most.
pub(super) const CHUNK_BYTES: u64 = 16 << 20;
/// 30 TiB in chunks of which none is empty take 150 MB.
pub(super) const MAX_BYTES: u64 = 256 << 20;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub version: u32,
    pub backup: BackupId,
    /// As the configuration names it.
    pub backend: String,
    pub chunk_bytes: u64,
    /// Of the base image that the root volume lies over; absent where there is no root volume.
    pub base_sha256: Option<String>,
    pub volumes: Vec<VolumeCopy>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VolumeCopy {
    pub volume: VolumeId,
    pub root: bool,
    /// As it lies, header and all.
    pub bytes: u64,
    /// Those that are not zeros alone: which, and its SHA-256, by which it is called.
    pub chunks: Vec<(u64, String)>,
}

impl VolumeCopy {
    /// Of each of its chunks, how long it is.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + use<> {
        let bytes = self.bytes;
        (0..bytes.div_ceil(CHUNK_BYTES)).map(move |index| {
            let length = CHUNK_BYTES.min(bytes - index * CHUNK_BYTES);
            // No longer than a chunk.
            usize::try_from(length).unwrap_or_default()
        })
    }

    fn is_sound(&self) -> bool {
        let many = self.bytes.div_ceil(CHUNK_BYTES);
        let rising = self.chunks.is_sorted_by(|(a, _), (b, _)| a < b);
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        let named =
            |(index, name): &(u64, String)| *index < many && name.len() == 64 && name.bytes().all(hex);
        // Sizes are added up.
        self.bytes > 0 && self.bytes < 1 << 56 && rising && self.chunks.iter().all(named)
    }
}

impl Manifest {
    pub fn write(&self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| EdgeError::because("cannot write the manifest of a backup", error))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(EdgeError::new("the volumes are too large for one backup"));
        }
        Ok(bytes)
    }

    /// Reads one that is `wanted`'s, by its digest and what is in it. Of its volumes, those that are wanted are left.
    pub fn read(bytes: &[u8], wanted: &Backup) -> Result<Self> {
        let bad = |what: &str| EdgeError::new(format!("the manifest of backup `{}` {what}", wanted.id));
        if HEXLOWER.encode(digest(&SHA256, bytes).as_ref()) != wanted.manifest_sha256 {
            return Err(bad("is not the one that was made: the store has changed it, or has an older one"));
        }
        let mut manifest: Self = serde_json::from_slice(bytes).map_err(|_| bad("cannot be read"))?;
        if manifest.version != VERSION || manifest.chunk_bytes != CHUNK_BYTES {
            return Err(bad("is of another version of Holm"));
        }
        let of = |copy: &VolumeCopy| (copy.volume, copy.root);
        let all: BTreeSet<(VolumeId, bool)> = manifest.volumes.iter().map(of).collect();
        let sound = all.len() == manifest.volumes.len() && manifest.volumes.iter().all(VolumeCopy::is_sound);
        if !sound || manifest.backup != wanted.id || !wanted.volumes.iter().all(|one| all.contains(one)) {
            return Err(bad("is not of these volumes"));
        }
        manifest.volumes.retain(|copy| wanted.volumes.contains(&of(copy)));
        Ok(manifest)
    }
}
