//! The hierarchy over the providers whose keys lie in its directory: what opens, what does not, and what a kill leaves.

use super::files::kill;
use super::tpm2::tests::Swtpm;
use super::wrapped::By;
use super::*;
use holm_proto::ids::{ProjectId, VolumeId};
use newtype_uuid::GenericUuid;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Who holds the key-encryption key in a test.
enum Holder {
    File,
    Tpm2(Swtpm),
}

impl Holder {
    fn keyring(&self) -> (tempfile::TempDir, Keyring) {
        let dir = tempfile::tempdir().unwrap();
        Keyring::create(dir.path()).unwrap();
        if let Self::Tpm2(_) = self {
            fs::remove_file(dir.path().join("kek")).unwrap();
        }
        let keyring = self.load(dir.path());
        keyring.check().unwrap();
        (dir, keyring)
    }

    fn load(&self, dir: &Path) -> Keyring {
        let config = match self {
            Self::File => ProviderConfig::default(),
            Self::Tpm2(tpm) => tpm.config(),
        };
        Keyring::load(dir, &config, None).unwrap()
    }

    /// The file of a generation.
    fn kek(&self, generation: u32) -> String {
        match self {
            Self::File if generation == 1 => "kek".to_owned(),
            Self::File => format!("kek.{generation}"),
            Self::Tpm2(_) => format!("tpm2.{generation}"),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Tpm2(_) => "tpm2",
        }
    }

    /// At each how manieth step something is killed: the steps are the same, and with a TPM each takes a second.
    fn stride(&self) -> usize {
        match self {
            Self::File => 1,
            Self::Tpm2(_) => 3,
        }
    }

    /// How many key-encryption keys holmd itself holds of each that there is.
    fn own(&self) -> usize {
        usize::from(matches!(self, Self::File))
    }
}

macro_rules! over_each_provider {
    ($($test:ident)*) => {
        mod over_files {
            $(#[test] fn $test() { super::$test(&super::Holder::File) })*
        }
        mod over_a_tpm {
            $(#[test] fn $test() { super::$test(&super::Holder::Tpm2(super::Swtpm::new())) })*
        }
    };
}

over_each_provider! {
    a_key_comes_back_and_is_its_volumes_own
    a_wrapped_key_moved_to_another_record_project_or_generation_does_not_open
    an_earlier_copy_put_back_after_a_rotation_does_not_open
    every_flipped_bit_is_refused
    what_is_destroyed_stays_so_with_every_key_that_is_left
    every_key_that_is_left_is_listed
    a_rotation_says_what_it_did_and_is_done_once
    a_damaged_key_stops_its_rotation_and_nothing_is_destroyed
    one_projects_damaged_key_holds_up_no_other_and_keeps_the_old_kek
    a_key_destroyed_while_it_is_rotated_does_not_come_back
    a_rotation_of_the_kek_survives_a_kill_at_every_step
    a_rotation_of_a_projects_key_survives_a_kill_at_every_step
    making_and_destroying_keys_survives_a_kill_at_every_step
}

/// Finish, and what was done.
fn finish(keyring: &Keyring) -> Result<Vec<Done>, KeyError> {
    let mut done = Vec::new();
    keyring.finish(&|_| Vec::new(), &mut |one| done.push(one)).map(|()| done)
}

/// Every file below a directory.
fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(files(&entry.path())),
            false => all.push(entry.file_name().into_string().unwrap()),
        }
    }
    all.sort();
    all
}

fn a_key_comes_back_and_is_its_volumes_own(holder: &Holder) {
    let (dir, keyring) = holder.keyring();
    let (p, v, w) = (ProjectId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
    let (first, print) = keyring.volume_key(p, v).unwrap();
    assert_eq!(holder.load(dir.path()).volume_key(p, v).unwrap().0.expose_secret(), first.expose_secret());
    assert_eq!(print.len(), 16);
    assert_ne!(keyring.volume_key(p, w).unwrap().1, print);
    assert!(!format!("{first:?}").contains(&format!("{:?}", first.expose_secret())));
}

fn a_wrapped_key_moved_to_another_record_project_or_generation_does_not_open(holder: &Holder) {
    let (_dir, keyring) = holder.keyring();
    let (p, q) = (ProjectId::new_v4(), ProjectId::new_v4());
    let (v, w) = (VolumeId::new_v4(), VolumeId::new_v4());
    keyring.volume_key(p, v).unwrap();
    keyring.volume_key(q, w).unwrap();
    let moved = |from: &Path, to: &Path, ids: &[([u8; 16], usize)]| {
        let (mut bytes, good) = (fs::read(from).unwrap(), fs::read(to).unwrap());
        let opens = |bytes: &[u8]| {
            fs::write(to, bytes).unwrap();
            let opens = keyring.open_volume_key(q, w).is_ok();
            fs::write(to, &good).unwrap();
            opens
        };
        assert!(!opens(&bytes), "as it is");
        // Also where its head is made to say that it belongs there.
        for (id, at) in ids {
            bytes[*at..at + 16].copy_from_slice(id);
        }
        assert!(!opens(&bytes), "with its head changed");
        assert!(opens(&good));
    };
    let (pid, vid) = (q.into_untyped_uuid().into_bytes(), w.into_untyped_uuid().into_bytes());
    moved(&keyring.volume_path(v), &keyring.volume_path(w), &[(pid, 11), (vid, 27)]);
    moved(&keyring.project_path(p), &keyring.project_path(q), &[(pid, 11)]);
    // Another generation of itself.
    for path in [keyring.volume_path(w), keyring.project_path(q)] {
        let good = fs::read(&path).unwrap();
        for at in [6, 10] {
            let mut bad = good.clone();
            bad[at] = 2;
            fs::write(&path, &bad).unwrap();
            assert!(keyring.open_volume_key(q, w).is_err(), "byte {at}");
        }
        fs::write(&path, good).unwrap();
    }
    assert!(keyring.open_volume_key(q, w).unwrap().is_some());
}

fn an_earlier_copy_put_back_after_a_rotation_does_not_open(holder: &Holder) {
    let (_dir, keyring) = holder.keyring();
    let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
    let key = keyring.volume_key(p, v).unwrap().1;
    let paths = [keyring.project_path(p), keyring.volume_path(v)];
    let old: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    keyring.begin_project(p).unwrap();
    finish(&keyring).unwrap();
    keyring.rotate_kek().unwrap();
    finish(&keyring).unwrap();
    assert_eq!(keyring.volume_key(p, v).unwrap().1, key);
    let new: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    for which in [&[0][..], &[1], &[0, 1]] {
        for at in which {
            fs::write(&paths[*at], &old[*at]).unwrap();
        }
        let failure = keyring.open_volume_key(p, v).unwrap_err();
        assert!(failure.what.contains("gone") || failure.what.contains("not there"), "{}", failure.what);
        for (path, bytes) in paths.iter().zip(&new) {
            fs::write(path, bytes).unwrap();
        }
    }
    assert_eq!(keyring.volume_key(p, v).unwrap().1, key);
}

fn every_flipped_bit_is_refused(holder: &Holder) {
    let (_dir, keyring) = holder.keyring();
    let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
    keyring.volume_key(p, v).unwrap();
    for path in [keyring.volume_path(v), keyring.project_path(p)] {
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            assert!(keyring.volume_key(p, v).is_err(), "byte {at}");
        }
        for bad in [&[][..], &[1], &[2; 43], &[0xFF; 5000]] {
            fs::write(&path, bad).unwrap();
            assert!(keyring.volume_key(p, v).is_err());
        }
        fs::write(&path, good).unwrap();
    }
    keyring.volume_key(p, v).unwrap();
}

fn what_is_destroyed_stays_so_with_every_key_that_is_left(holder: &Holder) {
    let (dir, keyring) = holder.keyring();
    let (p, v, w) = (ProjectId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
    let (key, _) = keyring.volume_key(p, v).unwrap();
    keyring.volume_key(p, w).unwrap();
    let stolen = fs::read(keyring.volume_path(v)).unwrap();
    // Also in the middle of a rotation: nothing of it is left.
    keyring.begin_project(p).unwrap();
    keyring.destroy(p, v, false).unwrap();
    keyring.destroy(p, v, false).unwrap();
    assert!(keyring.open_volume_key(p, v).unwrap().is_none());
    keyring.destroy(p, w, true).unwrap();
    assert_eq!(files(dir.path()), [holder.kek(1)]);
    // With the project's key gone, an earlier copy of the wrapped key opens no more.
    fs::write(keyring.volume_path(v), stolen).unwrap();
    assert!(keyring.volume_key(p, v).is_err());
    for file in [dir.path().join(holder.kek(1)), keyring.volume_path(v)] {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(KEY_BYTES).any(|w| w == key.expose_secret()));
    }
}

fn every_key_that_is_left_is_listed(holder: &Holder) {
    let (_dir, keyring) = holder.keyring();
    let (p, q) = (ProjectId::new_v4(), ProjectId::new_v4());
    let (v, w, x) = (VolumeId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
    let prints: Vec<String> =
        [(p, v), (p, w), (q, x)].map(|(p, v)| keyring.volume_key(p, v).unwrap().1).to_vec();
    let left = || -> Vec<String> { keyring.all().unwrap().iter().map(|(_, k)| fingerprint(k)).collect() };
    assert_eq!(left().len(), holder.own() + 2 + 3);
    assert!(prints.iter().all(|print| left().contains(print)));
    // A key that is being rotated is two.
    keyring.begin_project(p).unwrap();
    assert_eq!(left().len(), holder.own() + 3 + 3);
    finish(&keyring).unwrap();
    keyring.destroy(p, v, false).unwrap();
    keyring.destroy(q, x, true).unwrap();
    assert_eq!(left().len(), holder.own() + 1 + 1);
    assert!(left().contains(&prints[1]) && !left().contains(&prints[0]) && !left().contains(&prints[2]));
}

/// As the version before wrote them.
fn version_1(keyring: &Keyring, p: ProjectId, volumes: &[VolumeId]) -> Vec<Key> {
    let (kek, project) = (keyring.current.own().unwrap().remove(0).1, random().unwrap());
    let about = [b"holm/project-key/v1\0".as_slice(), p.into_untyped_uuid().as_bytes()].concat();
    let write = |path: &Path, key: &Key, under: &Key, about: &[u8]| {
        let bytes = [&[1], wrapped::seal(key, under, about).unwrap().as_slice()].concat();
        files::write_new(path, &bytes).unwrap();
    };
    write(&keyring.project_path(p), &project, &kek, &about);
    let one = |v: &VolumeId| {
        let key = random().unwrap();
        let ids = [p.into_untyped_uuid().into_bytes(), v.into_untyped_uuid().into_bytes()].concat();
        let about = [b"holm/volume-key/v1\0".as_slice(), &ids].concat();
        write(&keyring.volume_path(*v), &key, &project, &about);
        key
    };
    volumes.iter().map(one).collect()
}

#[test]
fn keys_of_version_1_open_and_are_gone_after_a_rotation() {
    let (dir, keyring) = Holder::File.keyring();
    let (p, v, w) = (ProjectId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
    let keys = version_1(&keyring, p, &[v]);
    let opens = |v, key: &Key| {
        let found = Holder::File.load(dir.path()).open_volume_key(p, v).unwrap().unwrap();
        assert_eq!(found.expose_secret(), key.expose_secret());
    };
    opens(v, &keys[0]);
    let new = keyring.volume_key(p, w).unwrap().0;
    assert_eq!(keyring.standing(&|_| Some(p)).unwrap().projects[0].volumes, 2);
    keyring.rotate_kek().unwrap();
    finish(&keyring).unwrap();
    opens(v, &keys[0]);
    assert_eq!(fs::read(keyring.project_path(p)).unwrap()[0], 2);
    keyring.begin_project(p).unwrap();
    keyring.finish(&|of| if of == p { vec![v] } else { Vec::new() }, &mut |_| {}).unwrap();
    assert_eq!(fs::read(keyring.volume_path(v)).unwrap()[0], 2);
    opens(v, &keys[0]);
    opens(w, &new);
}

fn a_rotation_says_what_it_did_and_is_done_once(holder: &Holder) {
    let (dir, keyring) = holder.keyring();
    let (p, q) = (ProjectId::new_v4(), ProjectId::new_v4());
    let volumes = [VolumeId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4()];
    assert!(keyring.begin_project(p).unwrap_err().what.contains("no key yet"));
    let print = keyring.volume_key(p, volumes[0]).unwrap().1;
    keyring.volume_key(p, volumes[1]).unwrap();
    keyring.volume_key(q, volumes[2]).unwrap();
    assert_eq!(finish(&keyring).unwrap(), [Done::Retired { below: 1 }]);
    keyring.begin_project(p).unwrap();
    keyring.begin_project(p).unwrap();
    // What is made meanwhile is under the next key already, and not behind.
    let late = VolumeId::new_v4();
    keyring.volume_key(p, late).unwrap();
    let done = finish(&keyring).unwrap();
    let [Done::Rotated { project, from: 1, to: 2, before, after, volumes: 3 }] = done.as_slice() else {
        panic!("{done:?}")
    };
    assert!(*project == p && before != after);
    assert!(finish(&keyring).unwrap().is_empty());
    assert_eq!(keyring.rotate_kek().unwrap(), (1, 2));
    let mut done = finish(&keyring).unwrap();
    assert_eq!(done.pop(), Some(Done::Retired { below: 2 }));
    assert_eq!(done.len(), 2);
    assert!(done.iter().any(|one| *one
        == Done::Rewrapped { project: p, generation: 2, kek_generation: 2, fingerprint: after.clone() }));
    let standing = keyring.standing(&|_| None).unwrap();
    let one = standing.projects.iter().find(|one| one.project == p).unwrap();
    assert_eq!((one.generation, one.kek_generation, one.volumes, one.rotating), (2, 2, 3, false));
    assert_eq!((standing.provider, standing.kek_generation), (holder.name(), Some(2)));
    assert_eq!(keyring.volume_key(p, volumes[0]).unwrap().1, print);
    assert!(!dir.path().join(holder.kek(1)).exists() && dir.path().join(holder.kek(2)).exists());
}

fn a_damaged_key_stops_its_rotation_and_nothing_is_destroyed(holder: &Holder) {
    let (_dir, keyring) = holder.keyring();
    let (p, v, w) = (ProjectId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
    let print = keyring.volume_key(p, v).unwrap().1;
    keyring.volume_key(p, w).unwrap();
    let good = fs::read(keyring.volume_path(w)).unwrap();
    let mut bad = good.clone();
    bad[60] ^= 1;
    fs::write(keyring.volume_path(w), bad).unwrap();
    keyring.begin_project(p).unwrap();
    let failure = finish(&keyring).unwrap_err();
    assert!(failure.what.contains(&w.into_untyped_uuid().to_string()), "{}", failure.what);
    assert_eq!(keyring.volume_key(p, v).unwrap().1, print);
    assert!(keyring.standing(&|_| None).unwrap().projects[0].rotating);
    // Restored, it goes on.
    fs::write(keyring.volume_path(w), good).unwrap();
    assert!(matches!(finish(&keyring).unwrap().as_slice(), [Done::Rotated { .. }, Done::Retired { .. }]));
    assert_eq!(keyring.volume_key(p, v).unwrap().1, print);
    // So does one of the key-encryption key: what it cannot open keeps the old one alive.
    let good = fs::read(keyring.project_path(p)).unwrap();
    let mut bad = good.clone();
    bad[60] ^= 1;
    fs::write(keyring.project_path(p), bad).unwrap();
    keyring.rotate_kek().unwrap();
    assert!(finish(&keyring).is_err());
    fs::write(keyring.project_path(p), good).unwrap();
    finish(&keyring).unwrap();
    assert_eq!(keyring.volume_key(p, v).unwrap().1, print);
}

fn one_projects_damaged_key_holds_up_no_other_and_keeps_the_old_kek(holder: &Holder) {
    let (dir, keyring) = holder.keyring();
    let projects: Vec<ProjectId> = (0..3).map(|_| ProjectId::new_v4()).collect();
    projects.iter().for_each(|p| drop(keyring.volume_key(*p, VolumeId::new_v4()).unwrap()));
    // Whichever of them is come to first, it is one of these.
    for damaged in &projects {
        let path = keyring.project_path(*damaged);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[60] ^= 1;
        fs::write(&path, bad).unwrap();
        let (before, newest) = keyring.rotate_kek().unwrap();
        let mut done = Vec::new();
        let failure = keyring.finish(&|_| Vec::new(), &mut |one| done.push(one)).unwrap_err();
        assert!(failure.what.contains(&path.display().to_string()), "{}", failure.what);
        let rewrapped = done.iter().filter(|one| matches!(one, Done::Rewrapped { .. })).count();
        assert_eq!((rewrapped, done.len()), (2, 2), "{done:?}");
        let kek = |n| dir.path().join(holder.kek(n));
        assert!(kek(before).exists() && kek(newest).exists());
        fs::write(&path, good).unwrap();
        finish(&keyring).unwrap();
        assert!(!kek(before).exists());
    }
}

/// Is away as long as a test says so.
struct Away(std::sync::Arc<std::sync::atomic::AtomicBool>, Key);

impl Away {
    fn there(&self) -> Result<(), KeyError> {
        match self.0.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(KeyError::unreachable("away")),
            false => Ok(()),
        }
    }
}

impl Provider for Away {
    fn generation(&mut self) -> Result<u32, KeyError> {
        self.there().map(|()| 1)
    }
    fn wrap(&mut self, key: &Key, _: u32, about: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.there()?;
        wrapped::seal(key, &self.1, about)
    }
    fn unwrap(&mut self, sealed: &[u8], _: u32, about: &[u8]) -> Result<Key, KeyError> {
        self.there()?;
        wrapped::open(sealed, &self.1, about).ok_or_else(|| KeyError::new("no"))
    }
    fn rotate(&mut self) -> Result<u32, KeyError> {
        Err(KeyError::new("no"))
    }
    fn retire(&mut self, _: u32) -> Result<(), KeyError> {
        Ok(())
    }
}

#[test]
fn a_former_provider_that_was_away_is_found_again_and_who_waits_is_woken() {
    let (dir, _) = Holder::File.keyring();
    let away = std::sync::Arc::default();
    let guard = |by, provider: Away| guard::Guard::new(by, String::new(), Box::new(provider)).unwrap();
    let never = || Away(std::sync::Arc::default(), random().unwrap());
    let once = Away(std::sync::Arc::clone(&away), random().unwrap());
    let same = Away(std::sync::Arc::clone(&away), again(&once.1));
    let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
    let print = Keyring::with(dir.path(), guard(By::Vault, once), None).volume_key(p, v).unwrap().1;
    let keyring = Keyring::with(dir.path(), guard(By::Pkcs11, never()), Some(guard(By::Vault, same)));
    away.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(keyring.open_volume_key(p, v).unwrap_err().unreachable);
    keyring.check().unwrap();
    away.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(keyring.open_volume_key(p, v).unwrap_err().unreachable, "until a check nobody asks it");
    assert_eq!(keyring.former_health().unwrap().down.unwrap().1, "away");
    assert_eq!(keyring.health().borrow().down, None, "the one that is used is there");
    let mut health = keyring.health();
    health.mark_unchanged();
    keyring.check().unwrap();
    assert!(health.has_changed().unwrap());
    assert_eq!(keyring.former_health().unwrap().down, None);
    assert_eq!(fingerprint(&keyring.open_volume_key(p, v).unwrap().unwrap()), print);
}

/// Takes some time for each answer; what it retired, it does not open.
struct Slow(BTreeMap<u32, Key>, Silence);

/// On which nobody says anything.
type Silence = (std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>);

impl Slow {
    fn key(&self, generation: u32) -> Result<&Key, KeyError> {
        let _ = self.1.1.recv_timeout(std::time::Duration::from_millis(3));
        self.0.get(&generation).ok_or_else(|| KeyError::new(format!("generation {generation} is retired")))
    }
}

impl Provider for Slow {
    fn generation(&mut self) -> Result<u32, KeyError> {
        Ok(*self.0.keys().max().unwrap())
    }
    fn wrap(&mut self, key: &Key, generation: u32, about: &[u8]) -> Result<Vec<u8>, KeyError> {
        wrapped::seal(key, self.key(generation)?, about)
    }
    fn unwrap(&mut self, sealed: &[u8], generation: u32, about: &[u8]) -> Result<Key, KeyError> {
        wrapped::open(sealed, self.key(generation)?, about).ok_or_else(|| KeyError::new("no"))
    }
    fn rotate(&mut self) -> Result<u32, KeyError> {
        let next = self.generation()? + 1;
        self.0.insert(next, random()?);
        Ok(next)
    }
    fn retire(&mut self, below: u32) -> Result<(), KeyError> {
        self.0.retain(|generation, _| *generation >= below);
        Ok(())
    }
}

#[test]
fn keys_are_made_opened_and_destroyed_while_a_slow_provider_rotates_and_none_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    Keyring::create(dir.path()).unwrap();
    let slow = Slow(BTreeMap::from([(1, random().unwrap())]), std::sync::mpsc::channel());
    let guard = guard::Guard::new(By::Vault, String::new(), Box::new(slow)).unwrap();
    let keyring = Keyring::with(dir.path(), guard, None);
    let projects: Vec<ProjectId> = (0..20).map(|_| ProjectId::new_v4()).collect();
    let mut prints = BTreeMap::new();
    for p in &projects {
        let v = VolumeId::new_v4();
        prints.insert((*p, v), keyring.volume_key(*p, v).unwrap().1);
    }
    let first = *prints.keys().next().unwrap();
    let rotated = std::sync::atomic::AtomicBool::new(false);
    let mut during = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                projects.iter().for_each(|p| keyring.begin_project(*p).unwrap());
                keyring.rotate_kek().unwrap();
                finish(&keyring).unwrap();
            }
            rotated.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        // Of projects that have a key, and of new ones.
        let new = (0..).map(|i| if i % 3 == 0 { ProjectId::new_v4() } else { projects[i % projects.len()] });
        for p in new {
            if rotated.load(std::sync::atomic::Ordering::SeqCst) {
                break;
            }
            let v = VolumeId::new_v4();
            let print = keyring.volume_key(p, v).unwrap().1;
            assert_eq!(fingerprint(&keyring.open_volume_key(p, v).unwrap().unwrap()), print);
            let old = keyring.open_volume_key(first.0, first.1).unwrap().unwrap();
            assert_eq!(fingerprint(&old), prints[&first]);
            if during % 4 == 0 {
                keyring.destroy(p, v, false).unwrap();
                assert!(keyring.open_volume_key(p, v).unwrap().is_none());
            } else {
                prints.insert((p, v), print);
            }
            during += 1;
        }
    });
    // Were they held up, it would be one for each time the rotations change hands.
    assert!(during > 15, "{during}");
    // What was begun to be made before the last rotation, and written after it, is under no key that is gone.
    for ((p, v), print) in &prints {
        assert_eq!(&fingerprint(&keyring.open_volume_key(*p, *v).unwrap().unwrap()), print);
    }
    let standing = keyring.standing(&|_| None).unwrap();
    assert!(standing.projects.iter().all(|one| one.kek_generation == 4 && !one.rotating));
}

fn a_key_destroyed_while_it_is_rotated_does_not_come_back(holder: &Holder) {
    let (dir, keyring) = holder.keyring();
    let (p, v, w) = (ProjectId::new_v4(), VolumeId::new_v4(), VolumeId::new_v4());
    keyring.volume_key(p, v).unwrap();
    keyring.volume_key(p, w).unwrap();
    keyring.begin_project(p).unwrap();
    let found = keyring.volume(p, v).unwrap().unwrap();
    keyring.destroy(p, v, false).unwrap();
    assert!(!keyring.swap(&found, &found.wrapped).unwrap());
    assert!(!keyring.volume_path(v).exists());
    // The whole project, between two looks.
    let rotated =
        keyring.finish(&|_| keyring.volume_path(w).exists().then_some(w).into_iter().collect(), &mut |_| {});
    rotated.unwrap();
    keyring.begin_project(p).unwrap();
    keyring.destroy(p, w, true).unwrap();
    assert!(finish(&keyring).unwrap().is_empty());
    assert_eq!(files(dir.path()), [holder.kek(1)]);
}

/// What is killed, and how to tell that it is through.
type Work<'a> = &'a dyn Fn(&Keyring) -> Result<(), KeyError>;

/// Kill `work` at each of its steps in turn, start again as holmd does, and see that every key is what it was, and that
/// the rotation ends as one that was never killed.
fn killed_at_every_step(holder: &Holder, work: Work<'_>, ended: &[u32]) {
    let ended: Vec<String> = ended.iter().map(|generation| holder.kek(*generation)).collect();
    for at in (1..).step_by(holder.stride()) {
        assert!(at < 500, "it does not end");
        let (dir, keyring) = holder.keyring();
        let (p, q) = (ProjectId::new_v4(), ProjectId::new_v4());
        let volumes: Vec<(ProjectId, VolumeId)> =
            [p, p, q].into_iter().map(|project| (project, VolumeId::new_v4())).collect();
        let before: BTreeMap<VolumeId, String> =
            volumes.iter().map(|(p, v)| (*v, keyring.volume_key(*p, *v).unwrap().1)).collect();
        kill::after(dir.path(), at);
        let done = work(&keyring);
        let happened = kill::happened(dir.path());
        assert_eq!(done.is_err(), happened, "at step {at}: {done:?}");
        drop(keyring);
        let again = holder.load(dir.path());
        let opened = |when: &str| {
            for (p, v) in &volumes {
                let key = again.open_volume_key(*p, *v).unwrap().unwrap();
                assert_eq!(fingerprint(&key), before[v], "{when}, killed at step {at}");
            }
        };
        opened("before tidying");
        again.tidy().unwrap();
        opened("after tidying");
        work(&again).unwrap();
        opened("after the rotation");
        let left = files(dir.path());
        let ours: Vec<&str> =
            left.iter().map(String::as_str).filter(|name| name.parse::<uuid::Uuid>().is_err()).collect();
        // One that was killed before its new generation was written makes it now, one killed after makes another.
        assert!(ended.contains(&ours.join(" ")), "at step {at}: {ours:?}");
        assert_eq!(left.len(), ours.len() + 2 + 3);
        if !happened {
            assert!(at > 10, "it was never killed");
            return;
        }
    }
}

fn a_rotation_of_the_kek_survives_a_kill_at_every_step(holder: &Holder) {
    let work = |keyring: &Keyring| {
        keyring.rotate_kek()?;
        finish(keyring).map(drop)
    };
    killed_at_every_step(holder, &work, &[2, 3]);
}

fn a_rotation_of_a_projects_key_survives_a_kill_at_every_step(holder: &Holder) {
    let work = |keyring: &Keyring| {
        for one in keyring.standing(&|_| None)?.projects {
            keyring.begin_project(one.project)?;
        }
        finish(keyring).map(drop)
    };
    killed_at_every_step(holder, &work, &[1]);
}

fn making_and_destroying_keys_survives_a_kill_at_every_step(holder: &Holder) {
    for at in (1..).step_by(holder.stride()) {
        let (dir, keyring) = holder.keyring();
        let (p, v) = (ProjectId::new_v4(), VolumeId::new_v4());
        kill::after(dir.path(), at);
        let made = keyring.volume_key(p, v).and_then(|_| keyring.destroy(p, v, true));
        let happened = kill::happened(dir.path());
        assert_eq!(made.is_err(), happened, "{made:?}");
        let again = holder.load(dir.path());
        again.tidy().unwrap();
        again.volume_key(p, v).unwrap();
        again.destroy(p, v, true).unwrap();
        assert_eq!(files(dir.path()), [holder.kek(1)], "killed at step {at}");
        if !happened {
            assert!(at > 10);
            return;
        }
    }
}
