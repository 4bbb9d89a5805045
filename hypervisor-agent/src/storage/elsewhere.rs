//! Volumes that the other back end keeps. Where the configuration was changed while there were some, nothing of theirs
//! is absent, and nothing may be made or certified as if it were.

use crate::{
    config::{StorageBackend, StorageConfig},
    edge::{EdgeError, Result},
};
use holm_proto::ids::VolumeId;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the device mapper shows what is active.
const MAPPER: &str = "/dev/mapper";

/// Where the other back end's volumes would be.
#[derive(Debug)]
pub struct Elsewhere {
    backend: StorageBackend,
    volumes: PathBuf,
    mapper: PathBuf,
}

impl Elsewhere {
    /// By the configuration that holds.
    pub fn new(config: &StorageConfig) -> Self {
        Self { backend: config.backend, volumes: config.volumes.clone(), mapper: MAPPER.into() }
    }

    /// An error where the other back end has this volume.
    pub fn refuse(&self, volume: VolumeId) -> Result<()> {
        let (found, other) = match self.backend {
            StorageBackend::LvmLuks2 => {
                let names = ["", ".tmp", ".erasing"].map(|end| self.volumes.join(format!("{volume}{end}")));
                (names.into_iter().find(|path| path.symlink_metadata().is_ok()), "qcow2-luks")
            }
            StorageBackend::Qcow2Luks => (self.logical(volume), "lvm-luks2"),
        };
        let Some(found) = found else { return Ok(()) };
        Err(EdgeError::new(format!(
            "volume `{volume}` is kept as `{}`, by `backend = \"{other}\"`: set `[host.storage]` of the agent's \
             configuration back until the host has no such volume",
            found.display()
        )))
    }

    /// `GROUP-holm--ID`, as LVM names its devices: a dash in a name is doubled.
    fn logical(&self, volume: VolumeId) -> Option<PathBuf> {
        let end = format!("-holm-{volume}").replace('-', "--");
        let end = end.strip_prefix('-')?;
        let is = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(end));
        let entries = fs::read_dir(&self.mapper).ok()?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| is(path))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::conformance::id, *};

    #[test]
    fn what_the_other_back_end_keeps_is_not_absent() {
        let directory = tempfile::tempdir().unwrap();
        let of = |backend| Elsewhere {
            backend,
            volumes: directory.path().to_owned(),
            mapper: directory.path().join("mapper"),
        };
        let (lvm, qcow2) = (of(StorageBackend::LvmLuks2), of(StorageBackend::Qcow2Luks));
        fs::create_dir(&qcow2.mapper).unwrap();
        // What is open is not LVM's, what was erased is no volume, and others are others.
        let other = id().to_string().replace("ff", "00");
        for name in [format!("holm-{}", id()), format!("holm-holm--{}", other.replace('-', "--"))] {
            fs::write(qcow2.mapper.join(name), "").unwrap();
        }
        fs::write(directory.path().join(format!("{}.erased", id())), "").unwrap();
        lvm.refuse(id()).unwrap();
        qcow2.refuse(id()).unwrap();

        fs::write(directory.path().join(format!("{}.erasing", id())), "").unwrap();
        let said = lvm.refuse(id()).unwrap_err().chain();
        assert!(said.contains("backend = \"qcow2-luks\"") && said.contains(".erasing"), "{said}");
        qcow2.refuse(id()).unwrap();

        fs::write(qcow2.mapper.join(format!("v--g-holm--{}", id().to_string().replace('-', "--"))), "")
            .unwrap();
        let said = qcow2.refuse(id()).unwrap_err().chain();
        assert!(said.contains("backend = \"lvm-luks2\""), "{said}");
    }
}
