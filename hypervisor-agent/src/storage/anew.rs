//! Volumes encrypted under other data keys, while nothing uses them.
//!
//! ```text
//!   each volume: what it holds ─▶ a copy beside it, under a data key that was never used ─▶ header, key checked
//!                                     ─▶ the copy takes its place ─▶ what was there is overwritten, all of it, and erased
//! ```
//!
//! The key that opens a volume opens only its data key, which lies in its header: who copied both has the data key, and
//! no change of the first takes it away. Who has it reads what was written before wherever that is left, so it does not
//! do to destroy the header, as where a volume is erased. Cut off anywhere, each volume is what it was or what it becomes
//! and opens with its key; begun again, all are done again.

use super::{Backend, step};
use crate::edge::{Anew, Backup, EdgeError, Keys, Result, Watch};
use holm_proto::ids::VolumeId;
use std::path::Path;

/// Encrypts these volumes anew, one after the other. What a failure leaves beside one is the caller's to [`clear`].
pub fn encrypt(
    backend: &dyn Backend,
    base_image: &Path,
    wanted: &Backup,
    keys: &Keys,
    watch: &dyn Watch,
) -> Result<Anew> {
    let base = wanted.base.as_deref().unwrap_or(base_image);
    let mut overwritten = 0_u64;
    // What is through, and how many there are in all, as far as is known.
    let (mut before, mut all) = (0_u64, 0_u64);
    for (number, (volume, root)) in wanted.volumes.iter().enumerate() {
        let none = || EdgeError::new(format!("the key of volume `{volume}` is not here"));
        let key = keys.get(volume).ok_or_else(none)?;
        let mut through = |done: u64, total: u64| {
            all = all.max(before.saturating_add(total));
            if watch.through(before.saturating_add(done), all) {
                return Ok(());
            }
            Err(EdgeError::new("it was given up: nobody wants it any more"))
        };
        // Of one that was cut off: also of that nothing is to be left.
        overwritten = overwritten.saturating_add(clear(backend, *volume)?);
        let bytes = backend.stage_anew(*volume, root.then_some(base), key, &mut through)?;
        backend.check_staged(*volume, *root, Some(key))?;
        // It took its time: the slice may be on hold by now, or holmd away, which would have said so.
        if !watch.is_wanted() {
            return Err(EdgeError::new(format!(
                "it is not known whether holmd wants it still: of {} disks {number} are encrypted anew",
                wanted.volumes.len()
            )));
        }
        backend.swap_staged(*volume, *root)?;
        step();
        overwritten = overwritten.saturating_add(clear(backend, *volume)?);
        step();
        before = before.saturating_add(bytes);
    }
    Ok(Anew { bytes: before, overwritten })
}

/// Overwrites what lies beside a volume, and removes it; how many bytes.
pub fn clear(backend: &dyn Backend, volume: VolumeId) -> Result<u64> {
    let overwritten = backend.overwrite_staged(volume)?;
    step();
    backend.drop_staged(volume)?;
    Ok(overwritten)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{
        Kind, Volumes,
        backup::tests::{Counting, HeldAfterOne, always, keys, other, wanted},
        conformance::{Ground, each_kill, flip, has_mark, id, key, killed_after, write},
    };
    use super::*;
    use std::{
        io::{Read as _, Seek as _, SeekFrom},
        sync::atomic::AtomicU64,
    };

    const BLOCK: usize = 512;

    fn anew(ground: &dyn Ground, volumes: &[(VolumeId, bool)], watch: &dyn Watch) -> Result<Anew> {
        encrypt(&*ground.backend(), &ground.config().base_image, &wanted(1, volumes), &keys(7), watch)
    }

    /// Blocks of a volume as it lies that are as good as random, which only what is encrypted is, and where they are.
    fn noise(backend: &dyn Backend, volume: VolumeId) -> Vec<(u64, Vec<u8>)> {
        let mut file = backend.raw(volume).unwrap();
        let (mut at, mut all, mut piece) = (0, Vec::new(), vec![0; 1 << 20]);
        while let length @ 1.. = file.read(&mut piece).unwrap() {
            let blocks = piece[..length].chunks(BLOCK).zip(0_u64..);
            let random = |block: &[u8]| {
                let mut seen = [false; 256];
                block.iter().for_each(|byte| seen[usize::from(*byte)] = true);
                seen.iter().filter(|seen| **seen).count() > 190
            };
            let found = blocks.filter(|(block, _)| random(block));
            all.extend(found.map(|(block, number)| (at + number * BLOCK as u64, block.to_vec())));
            at += length as u64;
        }
        all
    }

    fn same(backend: &dyn Backend, volume: VolumeId, before: &[(u64, Vec<u8>)]) -> usize {
        let mut file = backend.raw(volume).unwrap();
        let mut block = [0; BLOCK];
        let is_there = |(at, was): &&(u64, Vec<u8>)| {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.read_exact(&mut block).is_ok() && block[..] == was[..]
        };
        before.iter().filter(is_there).count()
    }

    pub(in crate::storage) fn a_volume_is_encrypted_under_another_data_key(ground: &dyn Ground) {
        let backend = ground.backend();
        for kind in [Kind::Root, Kind::Data] {
            backend.create(id(), kind, 1, &key(7)).unwrap();
            write(&*backend, 7);
            let before = noise(&*backend, id());
            // The mark alone is 128 such blocks.
            assert!(before.len() >= 128, "{}", before.len());
            assert_eq!(same(&*backend, id(), &before), before.len());
            let volumes = [(id(), kind == Kind::Root)];
            let done = anew(ground, &volumes, &always()).unwrap();
            // At least where the mark and the header were.
            assert!(done.bytes > 0 && done.overwritten >= 1 << 20, "{done:?}");
            assert!(backend.left_staged().unwrap().is_empty());
            assert_eq!(same(&*backend, id(), &before), 0, "something is under the data key of before");
            assert_eq!(has_mark(&*backend, 7), Some(true));
            assert_eq!(has_mark(&*backend, 8), None);
            // It is a volume like any other.
            write(&*backend, 7);
            backend.change_passphrase(id(), &key(7), &key(8)).unwrap();
            assert_eq!(has_mark(&*backend, 8), Some(true));
            backend.grow(id(), 2, &key(8)).unwrap();
            assert_eq!(has_mark(&*backend, 8), Some(true));
            backend.close(id()).unwrap();
            assert!(backend.erase(id()).unwrap().erased);
            backend.forget(id()).unwrap();
        }
    }

    pub(in crate::storage) fn what_keeps_a_volume_from_being_encrypted_anew_changes_nothing(
        ground: &dyn Ground,
    ) {
        let backend = ground.backend();
        backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
        backend.create(other(), Kind::Root, 1, &key(7)).unwrap();
        write(&*backend, 7);
        let before = noise(&*backend, id());
        let volumes = [(id(), false), (other(), true)];
        let as_it_was = |what: &str| {
            assert_eq!(same(&*backend, id(), &before), before.len(), "{what}");
            assert_eq!(has_mark(&*backend, 7), Some(true), "{what}");
        };
        let base = ground.config().base_image;
        let with =
            |keys| encrypt(&*backend, &base, &wanted(1, &volumes), &keys, &always()).unwrap_err().chain();
        let wrong = with(keys(8));
        assert!(wrong.contains("the key does not open"), "{wrong}");
        as_it_was("a wrong key");
        assert!(with(Keys::new()).contains("is not here"));
        let enough = anew(ground, &volumes, &Counting(AtomicU64::new(0), 1)).unwrap_err().chain();
        assert!(enough.contains("given up"), "{enough}");
        as_it_was("given up");
        let (path, at) = ground.headers(id()).remove(0);
        flip(&path, at);
        let damaged = anew(ground, &volumes, &always()).unwrap_err().chain();
        assert!(damaged.contains("damaged") || damaged.contains("no encrypted volume"), "{damaged}");
        flip(&path, at);
        as_it_was("a damaged header");
        // On hold after the first.
        let held = anew(ground, &volumes, &HeldAfterOne(AtomicU64::new(0))).unwrap_err().chain();
        assert!(held.contains("of 2 disks 1 are encrypted anew"), "{held}");
        assert_eq!(same(&*backend, id(), &before), 0);
        assert_eq!(has_mark(&*backend, 7), Some(true));
        anew(ground, &volumes, &always()).unwrap();
        assert_eq!(has_mark(&*backend, 7), Some(true));
    }

    pub(in crate::storage) fn a_kill_while_it_is_encrypted_anew(ground: &dyn Ground) {
        let backend = ground.backend();
        backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
        write(&*backend, 7);
        let volumes = [(id(), true)];
        each_kill(6, |steps| {
            let killed = killed_after(steps, || {
                anew(ground, &volumes, &always()).unwrap();
            });
            // An agent that starts again looks for what is left open first.
            ground.backend().close_idle(&Default::default()).unwrap();
            // It is there whatever was cut off; what was left beside it is the next one's to begin from.
            assert_eq!(ground.backend().state(id()).unwrap(), crate::edge::VolumeState::Complete);
            assert_eq!(has_mark(&*ground.backend(), 7), Some(true), "after {steps} steps");
            killed
        });
        killed_after(6, || drop(anew(ground, &volumes, &always())));
        assert_eq!(ground.backend().left_staged().unwrap(), [id()].into());
        // As an agent does that starts: nobody need want it still.
        Volumes::new(ground.config()).unwrap().clear_staged();
        assert!(ground.backend().left_staged().unwrap().is_empty());
        ground.backend().erase(id()).unwrap();
        ground.backend().forget(id()).unwrap();
        assert!(ground.used() < 1 << 20, "{} bytes are left", ground.used());
    }
}
