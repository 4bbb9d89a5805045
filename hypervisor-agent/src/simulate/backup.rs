//! Backups of disks that are not there: what a disk would hold is how often a machine was started on it.

use super::{SimulatedHost, fingerprint, machine::Machine};
use crate::{
    edge::{Anew, Backup, EdgeError, Keys, Made, Result, Watch},
    simulate::Volume,
};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_proto::ids::VolumeId;
use std::collections::BTreeMap;

/// So many pieces it is told of.
const PIECES: u64 = 4;

impl SimulatedHost {
    pub(super) fn copy_to_store(&self, backup: &Backup, watch: &dyn Watch) -> Result<Made> {
        let mut total = 0;
        // A kill from here on leaves what would be chunks without a manifest: no backup.
        self.call("back_up", 0, |machine| {
            total = bytes(&volumes(machine, backup)?);
            Ok(())
        })?;
        tell(watch, total)?;
        self.call("finish_backup", 0, |machine| {
            let copy = volumes(machine, backup)?;
            let manifest_sha256 = digest_of(backup, &copy)?;
            machine.backups.insert(backup.id, copy);
            Ok(Made { manifest_sha256, bytes: total, stored_bytes: total })
        })
    }

    pub(super) fn copy_back(&self, backup: &Backup, watch: &dyn Watch) -> Result<u64> {
        let copy = self.fetched("restore", backup)?;
        tell(watch, bytes(&copy))?;
        self.call("finish_restore", 0, |machine| {
            rests(machine, backup)?;
            machine.volumes.extend(copy.clone());
            Ok(bytes(&copy))
        })
    }

    pub(super) fn try_copy(
        &self,
        backup: &Backup,
        keys: &Keys,
        watch: &dyn Watch,
    ) -> Result<(&'static str, u64)> {
        let copy = self.fetched("drill", backup)?;
        tell(watch, bytes(&copy))?;
        opened_by(&copy, keys)?;
        Ok(("simulated", bytes(&copy)))
    }

    /// Nothing of it is seen in a disk that is not there.
    pub(super) fn write_anew(&self, of: &Backup, keys: &Keys, watch: &dyn Watch) -> Result<Anew> {
        let mut all = BTreeMap::new();
        self.call("encrypt_anew", 0, |machine| {
            all = volumes(machine, of)?;
            opened_by(&all, keys)
        })?;
        tell(watch, bytes(&all))?;
        self.call("finish_anew", 0, |machine| {
            rests(machine, of).map(|()| Anew { bytes: bytes(&all), overwritten: bytes(&all) })
        })
    }

    fn fetched(&self, method: &str, backup: &Backup) -> Result<BTreeMap<VolumeId, Volume>> {
        self.call(method, 0, |machine| {
            let lost = || EdgeError::new(format!("backup `{}` is not in the store", backup.id));
            let copy = machine.backups.get(&backup.id).cloned().ok_or_else(lost)?;
            if digest_of(backup, &copy)? != backup.manifest_sha256 {
                let text = format!("the manifest of backup `{}` is not the one that was made", backup.id);
                return Err(EdgeError::new(text));
            }
            Ok(copy)
        })
    }
}

fn volumes(machine: &Machine, backup: &Backup) -> Result<BTreeMap<VolumeId, Volume>> {
    rests(machine, backup)?;
    let one = |(id, _): &(VolumeId, bool)| {
        let volume = machine.volumes.get(id).filter(|volume| volume.complete).cloned();
        let none = || EdgeError::new(format!("there is no complete volume `{id}`"));
        Ok((*id, volume.ok_or_else(none)?))
    };
    backup.volumes.iter().map(one).collect()
}

fn opened_by(volumes: &BTreeMap<VolumeId, Volume>, keys: &Keys) -> Result<()> {
    let other =
        volumes.iter().find(|(id, volume)| keys.get(id).map(fingerprint).as_ref() != Some(&volume.key));
    match other {
        Some((id, _)) => Err(EdgeError::new(format!("the key does not open volume `{id}`"))),
        None => Ok(()),
    }
}

fn rests(machine: &Machine, backup: &Backup) -> Result<()> {
    match machine.domains.get(&backup.slice) {
        Some(domain) if domain.running => Err(EdgeError::new("its machine runs")),
        _ => Ok(()),
    }
}

fn bytes(volumes: &BTreeMap<VolumeId, Volume>) -> u64 {
    volumes.values().map(|volume| volume.size_gib.saturating_mul(1 << 30)).fold(0, u64::saturating_add)
}

fn digest_of(backup: &Backup, copy: &BTreeMap<VolumeId, Volume>) -> Result<String> {
    let bytes = serde_json::to_vec(&(backup.id, copy))
        .map_err(|error| EdgeError::because("cannot write a simulated manifest", error))?;
    Ok(HEXLOWER.encode(digest(&SHA256, &bytes).as_ref()))
}

fn tell(watch: &dyn Watch, total: u64) -> Result<()> {
    for piece in 1..=PIECES {
        if !watch.through(total / PIECES * piece, total) {
            return Err(EdgeError::new("it was given up: nobody wants it any more"));
        }
    }
    Ok(())
}
