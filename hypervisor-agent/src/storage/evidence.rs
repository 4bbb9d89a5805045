//! What was done to volumes that are gone, kept until it is stored elsewhere: a file a volume, `ID.erased`.

use super::erase::Wiped;
use holm_proto::{ids::VolumeId, v1};
use prost::Message as _;
use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    time::Instant,
};

const TOOL: &str = concat!("holm-agent ", env!("CARGO_PKG_VERSION"));

/// The files.
#[derive(Debug, Clone)]
pub struct Remembered {
    directory: PathBuf,
}

impl Remembered {
    /// Those in a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// On the disk when it returns.
    pub fn remember(&self, evidence: &v1::VolumeEvidence) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o711).create(&self.directory)?;
        let path = self.directory.join(format!("{}.erased", evidence.volume_id));
        let new = path.with_extension("erased.new");
        let mut file = File::create(&new)?;
        file.write_all(&evidence.encode_to_vec())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.directory)?.sync_all()
    }

    /// What was remembered; where nothing was, that there was no disk.
    pub fn recall(&self, volume: VolumeId) -> io::Result<v1::VolumeEvidence> {
        let kept = match fs::read(self.path(volume)) {
            Ok(bytes) => Some(v1::VolumeEvidence::decode(bytes.as_slice())?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = kept.filter(|kept| kept.volume_id == volume.to_string());
        Ok(kept.unwrap_or_else(|| v1::VolumeEvidence {
            volume_id: volume.to_string(),
            tool: TOOL.to_owned(),
            detail: "there was no disk on the host".to_owned(),
            ..Default::default()
        }))
    }

    /// Lets go of it.
    pub fn forget(&self, volume: VolumeId) -> io::Result<()> {
        match fs::remove_file(self.path(volume)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, volume: VolumeId) -> PathBuf {
        self.directory.join(format!("{volume}.erased"))
    }
}

/// What was done to a volume.
pub fn evidence(volume: VolumeId, wiped: Wiped, started: Instant) -> v1::VolumeEvidence {
    let (method, detail) = match wiped.discarded {
        0 => ("luks-header", "what holds it takes nothing back: the rest is noise without the key"),
        _ => ("luks-header, discard", ""),
    };
    v1::VolumeEvidence {
        volume_id: volume.to_string(),
        // An empty file had nothing to overwrite.
        erased: true,
        method: method.to_owned(),
        bytes_overwritten: wiped.overwritten,
        bytes_discarded: wiped.discarded,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        tool: TOOL.to_owned(),
        detail: detail.to_owned(),
    }
}
