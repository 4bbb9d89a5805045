//! What backups of each back end's volumes must do, in a directory as the store.

use super::{
    super::{
        Backend, Kind,
        conformance::{Ground, each_kill, flip, has_mark, id, key, killed_after, write},
    },
    Backups,
    store::MARK,
};
use crate::{
    config::BackupConfig,
    edge::{Backup, Key, Keys, Result, Watch},
};
use holm_proto::ids::{BackupId, SliceId, VolumeId};
use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Counts, and gives up after so many.
pub(in crate::storage) struct Counting(pub AtomicU64, pub u64);

/// Put on hold when one disk is put back.
pub(in crate::storage) struct HeldAfterOne(pub AtomicU64);

impl Watch for HeldAfterOne {
    fn is_wanted(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) == 0
    }

    fn through(&self, _: u64, _: u64) -> bool {
        true
    }
}

impl Watch for Counting {
    fn is_wanted(&self) -> bool {
        true
    }

    fn through(&self, done: u64, total: u64) -> bool {
        assert!(done <= total);
        self.0.fetch_add(1, Ordering::Relaxed) + 1 < self.1
    }
}

pub(in crate::storage) fn always() -> Counting {
    Counting(AtomicU64::new(0), u64::MAX)
}

/// A store in a directory, as an agent that has just started has it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(MARK), "").unwrap();
        Self { directory }
    }

    fn backups(&self, ground: &dyn Ground) -> Backups {
        let config = BackupConfig { directory: Some(self.directory.path().to_owned()), s3: None };
        Backups::new(config, ground.config()).unwrap()
    }

    fn files(&self, backup: BackupId) -> Vec<PathBuf> {
        let folder = self.directory.path().join(backup.to_string());
        let mut all: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all
    }
}

pub(in crate::storage) fn wanted(number: u8, volumes: &[(VolumeId, bool)]) -> Backup {
    Backup {
        id: BackupId::from_untyped_uuid_bytes(number),
        slice: "0190163d-8694-739b-aea5-966c26f8ad91".parse::<SliceId>().unwrap(),
        manifest_sha256: String::new(),
        volumes: volumes.to_vec(),
        base: None,
    }
}

trait Numbered {
    fn from_untyped_uuid_bytes(number: u8) -> Self;
}

impl Numbered for BackupId {
    fn from_untyped_uuid_bytes(number: u8) -> Self {
        use newtype_uuid::GenericUuid as _;
        Self::from_untyped_uuid(uuid::Uuid::from_bytes([number; 16]))
    }
}

pub(in crate::storage) fn other() -> VolumeId {
    "6f9619ff-8b86-4d01-b42d-00cf4fc964fe".parse().unwrap()
}

pub(in crate::storage) fn keys(byte: u8) -> Keys {
    [id(), other()].map(|volume| (volume, key(byte))).into()
}

fn make(place: &Place, ground: &dyn Ground, wanted: &Backup) -> Backup {
    let made = place.backups(ground).make(&*ground.backend(), wanted, &always()).unwrap();
    Backup { manifest_sha256: made.manifest_sha256, ..wanted.clone() }
}

fn restore(place: &Place, ground: &dyn Ground, backup: &Backup) -> Result<u64> {
    place.backups(ground).restore(&*ground.backend(), backup, &always())
}

/// The bytes of a volume as they lie: those pieces in which there are any. A whole volume would not fit into memory.
fn bytes(backend: &dyn Backend, volume: VolumeId) -> Vec<(usize, Vec<u8>)> {
    let mut file = backend.raw(volume).unwrap();
    let length = file.seek(SeekFrom::End(0)).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let zeros = vec![0; 1 << 20];
    let pieces = usize::try_from(length.div_ceil(1 << 20)).unwrap();
    let read = |at| {
        let mut piece = Vec::new();
        (&mut file).take(1 << 20).read_to_end(&mut piece).unwrap();
        (at, piece)
    };
    let all = (0..=pieces).map(read);
    // How long it is counts, too.
    all.filter(|(at, piece)| zeros[..piece.len()] != *piece || *at == pieces).collect()
}

pub(in crate::storage) fn a_volume_becomes_what_it_was(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    assert_eq!(place.backups(ground).lacks(), Vec::<String>::new());
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 1);
    for kind in [Kind::Root, Kind::Data] {
        backend.create(id(), kind, 1, &key(7)).unwrap();
        let volumes = [(id(), kind == Kind::Root)];
        let empty = make(&place, ground, &wanted(1, &volumes));
        write(&*backend, 7);
        let marked = make(&place, ground, &wanted(2, &volumes));
        let before = bytes(&*backend, id());
        for (backup, mark) in [(&empty, false), (&marked, true), (&empty, false)] {
            assert!(restore(&place, ground, backup).unwrap() > 0);
            assert_eq!(has_mark(&*backend, 7), Some(mark));
            assert_eq!(has_mark(&*backend, 8), None);
        }
        // Also one that was lost.
        backend.erase(id()).unwrap();
        backend.forget(id()).unwrap();
        restore(&place, ground, &marked).unwrap();
        assert!(bytes(&*backend, id()) == before);
        assert_eq!(has_mark(&*backend, 7), Some(true));
        let backups = place.backups(ground);
        backups.remove(empty.id).unwrap();
        backups.remove(marked.id).unwrap();
        // What is gone is removed.
        backups.remove(empty.id).unwrap();
        assert!(place.files(empty.id).is_empty() && place.files(marked.id).is_empty());
        assert!(restore(&place, ground, &marked).unwrap_err().chain().contains("not in the store"));
        assert_eq!(has_mark(&*backend, 7), Some(true));
        backend.erase(id()).unwrap();
        backend.forget(id()).unwrap();
    }
}

/// Its root disk may be another by now, over another image.
pub(in crate::storage) fn one_of_two_volumes_becomes_what_it_was(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    backend.create(other(), Kind::Root, 1, &key(7)).unwrap();
    let made = make(&place, ground, &wanted(1, &[(id(), false), (other(), true)]));
    write(&*backend, 7);
    backend.erase(other()).unwrap();
    backend.forget(other()).unwrap();
    flip(&ground.config().base_image, 9);
    let data = Backup { volumes: vec![(id(), false)], ..made };
    assert!(restore(&place, ground, &data).unwrap() > 0);
    assert_eq!(has_mark(&*backend, 7), Some(false));
    assert_eq!(backend.state(other()).unwrap(), crate::edge::VolumeState::Absent);
}

pub(in crate::storage) fn nothing_in_a_store_tells_what_it_is(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    let made = make(&place, ground, &wanted(1, &[(id(), true)]));
    for file in place.files(made.id) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name == "manifest" || name.len() == 64, "{name}");
        let content = fs::read(&file).unwrap();
        // The passphrase, and the key itself.
        for secret in [&b"0707070707070707"[..], &[7; 16]] {
            assert!(!content.windows(secret.len()).any(|window| window == secret), "{name}");
        }
    }
}

/// Whatever the store does, it is said as that, and the volume stays as it is.
pub(in crate::storage) fn what_a_store_changes_is_found(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    backend.create(other(), Kind::Data, 1, &key(7)).unwrap();
    let volumes = [(id(), true), (other(), false)];
    let old = make(&place, ground, &wanted(1, &volumes));
    write(&*backend, 7);
    let made = make(&place, ground, &wanted(2, &volumes));
    let (root, data) = (bytes(&*backend, id()), bytes(&*backend, other()));
    let refused = |what: &str, words: &[&str]| {
        let backups = place.backups(ground);
        let restored = backups.restore(&*backend, &made, &always()).unwrap_err().chain();
        let drilled = backups.drill(&*backend, &made, &keys(7), &always()).unwrap_err().chain();
        for said in [restored, drilled] {
            assert!(words.iter().any(|word| said.contains(word)), "{what}: {said}");
            assert!(!said.contains("the key"), "{what}: {said}");
        }
        assert!(bytes(&*backend, id()) == root && bytes(&*backend, other()) == data, "{what}");
    };
    for file in place.files(made.id) {
        let before = fs::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for at in [0, before.len() / 2, before.len() - 1] {
            flip(&file, at as u64);
            refused(&name, &["is not what was written", "is not the one that was made"]);
            flip(&file, at as u64);
        }
        fs::write(&file, &before[..before.len() - 1]).unwrap();
        refused(&name, &["is not what was written", "is not the one that was made"]);
        fs::write(&file, [&before[..], b"x"].concat()).unwrap();
        refused(&name, &["the store fails", "is not the one that was made"]);
        fs::write(&file, "").unwrap();
        refused(&name, &["is not what was written", "is not the one that was made"]);
        fs::remove_file(&file).unwrap();
        refused(&name, &["is not in the store"]);
        fs::write(&file, &before).unwrap();
    }
    // An older one in its place.
    let manifest = |backup: &Backup| place.directory.path().join(backup.id.to_string()).join("manifest");
    let before = fs::read(manifest(&made)).unwrap();
    fs::copy(manifest(&old), manifest(&made)).unwrap();
    refused("rolled back", &["or has an older one"]);
    fs::write(manifest(&made), before).unwrap();
    // Of other volumes.
    let third = "6f9619ff-8b86-4d01-b42d-00cf4fc964fd".parse().unwrap();
    for volumes in [vec![(id(), true), (third, false)], vec![(id(), false)]] {
        let others = Backup { volumes, ..made.clone() };
        assert!(restore(&place, ground, &others).unwrap_err().chain().contains("not of these volumes"));
    }
    // A share that is not mounted.
    fs::rename(place.directory.path().join(MARK), place.directory.path().join("away")).unwrap();
    refused("not mounted", &["a share that is not mounted"]);
    fs::rename(place.directory.path().join("away"), place.directory.path().join(MARK)).unwrap();
    // Over another base image.
    let base = ground.config().base_image;
    flip(&base, 9);
    refused("base", &["over another base image"]);
    flip(&base, 9);
    assert!(restore(&place, ground, &made).is_ok());
}

pub(in crate::storage) fn a_drill_opens_it_and_leaves_nothing(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    backend.create(other(), Kind::Data, 1, &key(7)).unwrap();
    let made = make(&place, ground, &wanted(1, &[(id(), true), (other(), false)]));
    let (backups, before) = (place.backups(ground), ground.used());
    let root = bytes(&*backend, id());
    let (looked, size) = backups.drill(&*backend, &made, &keys(7), &always()).unwrap();
    assert!(looked.contains("sha-256, header, key") && size > 0, "{looked}");
    let wrong = backups.drill(&*backend, &made, &keys(8), &always()).unwrap_err().chain();
    assert!(wrong.contains("the key does not open"), "{wrong}");
    let none = backups.drill(&*backend, &made, &Keys::new(), &always()).unwrap_err().chain();
    assert!(none.contains("is not here"), "{none}");
    assert!(bytes(&*backend, id()) == root);
    assert!(ground.used() <= before, "something of a drill is left");
}

pub(in crate::storage) fn a_damaged_volume_is_not_backed_up(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    let (path, at) = ground.headers(id()).remove(0);
    flip(&path, at);
    let backups = place.backups(ground);
    let backup = wanted(1, &[(id(), false)]);
    let error = backups.make(&*backend, &backup, &always()).unwrap_err().chain();
    assert!(error.contains("damaged") || error.contains("no encrypted volume"), "{error}");
    assert!(place.files(backup.id).is_empty());
    // What was good before makes it good again.
    flip(&path, at);
    let made = make(&place, ground, &backup);
    flip(&path, at);
    restore(&place, ground, &made).unwrap();
    assert_eq!(has_mark(&*backend, 7), Some(false));
}

pub(in crate::storage) fn what_nobody_wants_any_more_ends(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    write(&*backend, 7);
    let (backups, backup) = (place.backups(ground), wanted(1, &[(id(), false)]));
    let given_up = |outcome: Result<()>| assert!(outcome.unwrap_err().chain().contains("given up"));
    let once = || Counting(AtomicU64::new(0), 1);
    given_up(backups.make(&*backend, &backup, &once()).map(drop));
    assert!(place.files(backup.id).iter().all(|file| !file.ends_with("manifest")));
    let made = make(&place, ground, &backup);
    given_up(backups.restore(&*backend, &made, &once()).map(drop));
    given_up(backups.drill(&*backend, &made, &keys(7), &once()).map(drop));
    assert_eq!(has_mark(&*backend, 7), Some(true));
}

pub(in crate::storage) fn a_restore_that_is_not_wanted_after_one_disk_leaves_the_other(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    backend.create(other(), Kind::Data, 1, &key(7)).unwrap();
    let made = make(&place, ground, &wanted(1, &[(other(), false), (id(), false)]));
    write(&*backend, 7);
    let watch = HeldAfterOne(AtomicU64::new(0));
    let error = place.backups(ground).restore(&*backend, &made, &watch).unwrap_err().chain();
    assert!(error.contains("of 2 disks 1 were put back"), "{error}");
    assert_eq!(has_mark(&*backend, 7), Some(true));
}

/// What an earlier try left is not believed for its name.
pub(in crate::storage) fn a_chunk_that_was_damaged_meanwhile_is_written_again(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    write(&*backend, 7);
    let backup = wanted(1, &[(id(), false)]);
    make(&place, ground, &backup);
    for file in place.files(backup.id) {
        flip(&file, 0);
    }
    let made = make(&place, ground, &backup);
    restore(&place, ground, &made).unwrap();
    assert_eq!(has_mark(&*backend, 7), Some(true));
}

pub(in crate::storage) fn a_kill_while_it_is_backed_up(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    write(&*backend, 7);
    let mut number = 0;
    each_kill(2, |steps| {
        number += 1;
        let backup = wanted(number, &[(id(), true)]);
        let killed = killed_after(steps, || {
            place.backups(ground).make(&*ground.backend(), &backup, &always()).unwrap();
        });
        assert_eq!(has_mark(&*ground.backend(), 7), Some(true));
        // Begun again it is the same, and what is there is not written again.
        let there: Vec<_> = place.files(backup.id).iter().map(|f| (f.clone(), modified(f))).collect();
        let made = make(&place, ground, &backup);
        for (file, before) in there.iter().filter(|(file, _)| !file.ends_with("manifest")) {
            assert_eq!(modified(file), *before);
        }
        restore(&place, ground, &made).unwrap();
        assert_eq!(has_mark(&*ground.backend(), 7), Some(true));
        place.backups(ground).remove(backup.id).unwrap();
        killed
    });
}

fn modified(file: &Path) -> std::time::SystemTime {
    fs::metadata(file).unwrap().modified().unwrap()
}

pub(in crate::storage) fn a_kill_while_it_is_restored_and_while_it_is_tried(ground: &dyn Ground) {
    let (place, backend) = (Place::new(), ground.backend());
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    let volumes = [(id(), true)];
    let empty = make(&place, ground, &wanted(1, &volumes));
    write(&*backend, 7);
    let marked = make(&place, ground, &wanted(2, &volumes));
    let opens = |key: &Key| drop(ground.backend().open(id(), key).unwrap());
    each_kill(4, |steps| {
        restore(&place, ground, &marked).unwrap();
        let killed = killed_after(steps, || {
            restore(&place, ground, &empty).unwrap();
        });
        // One or the other, wherever there is a volume; where there is none, the next try has one.
        if let Ok(crate::edge::VolumeState::Complete) = ground.backend().state(id()) {
            opens(&key(7));
            ground.backend().close(id()).unwrap();
            assert!(has_mark(&*ground.backend(), 7).is_some());
        }
        restore(&place, ground, &empty).unwrap();
        assert_eq!(has_mark(&*ground.backend(), 7), Some(false));
        killed
    });
    each_kill(2, |steps| {
        let killed = killed_after(steps, || {
            place.backups(ground).drill(&*ground.backend(), &marked, &keys(7), &always()).unwrap();
        });
        assert_eq!(has_mark(&*ground.backend(), 7), Some(false));
        place.backups(ground).drill(&*ground.backend(), &marked, &keys(7), &always()).unwrap();
        // What a killed one left goes with the volume, too.
        killed
    });
    // What a kill left staged is gone with the volume.
    killed_after(2, || drop(restore(&place, ground, &marked)));
    ground.backend().drop_staged(id()).unwrap();
    ground.backend().erase(id()).unwrap();
    ground.backend().forget(id()).unwrap();
    assert!(ground.used() < 1 << 20, "{} bytes are left", ground.used());
}
