//! What every back end must do. Each runs all of it on its own ground; `suite!` makes the tests.

use super::{Backend, Disk, GIB, Grown, Kind, passphrase};
use crate::{
    config::StorageConfig,
    edge::{Key, Rekeyed, VolumeState},
};
use holm_proto::{ids::VolumeId, v1};
use std::{
    cell::Cell,
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Makes a test of each point, on a ground that `$ground` makes; `None` where this machine has none.
macro_rules! suite {
    ($ground:path: $($point:ident)*) => {
        $(
            #[test]
            fn $point() {
                if let Some(ground) = $ground() {
                    $crate::storage::conformance::$point(&ground);
                }
            }
        )*
    };
    ($ground:path) => {
        $crate::storage::conformance::suite! { $ground:
            only_its_key_opens_a_volume
            an_empty_volume_is_empty_and_keeps_what_is_written
            a_volume_is_never_made_over_another
            sizes_that_make_no_sense_are_refused
            making_one_writes_the_same_whatever_its_size
            a_damaged_header_is_an_error_and_nothing_is_made_anew
            a_volume_grows_and_never_shrinks
            after_a_change_the_new_key_opens_it_and_the_old_does_not
            evidence_is_the_same_until_it_is_stored_elsewhere
            a_kill_while_it_is_made_and_while_it_is_erased
            a_kill_while_it_grows
            a_kill_while_its_key_is_changed
            a_volume_is_encrypted_under_another_data_key
            what_keeps_a_volume_from_being_encrypted_anew_changes_nothing
            a_kill_while_it_is_encrypted_anew
            a_volume_becomes_what_it_was
            one_of_two_volumes_becomes_what_it_was
            nothing_in_a_store_tells_what_it_is
            what_a_store_changes_is_found
            a_drill_opens_it_and_leaves_nothing
            a_damaged_volume_is_not_backed_up
            what_nobody_wants_any_more_ends
            a_restore_that_is_not_wanted_after_one_disk_leaves_the_other
            a_chunk_that_was_damaged_meanwhile_is_written_again
            a_kill_while_it_is_backed_up
            a_kill_while_it_is_restored_and_while_it_is_tried
        }
    };
}
pub(super) use super::anew::tests::{
    a_kill_while_it_is_encrypted_anew, a_volume_is_encrypted_under_another_data_key,
    what_keeps_a_volume_from_being_encrypted_anew_changes_nothing,
};
pub(super) use super::backup::tests::{
    a_chunk_that_was_damaged_meanwhile_is_written_again, a_damaged_volume_is_not_backed_up,
    a_drill_opens_it_and_leaves_nothing, a_kill_while_it_is_backed_up,
    a_kill_while_it_is_restored_and_while_it_is_tried,
    a_restore_that_is_not_wanted_after_one_disk_leaves_the_other, a_volume_becomes_what_it_was,
    nothing_in_a_store_tells_what_it_is, one_of_two_volumes_becomes_what_it_was,
    what_a_store_changes_is_found, what_nobody_wants_any_more_ends,
};
pub(super) use suite;

/// What a back end stands on in tests.
pub(super) trait Ground {
    /// What it was made of.
    fn config(&self) -> StorageConfig;
    /// The back end, as an agent that has just started has it.
    fn backend(&self) -> Box<dyn Backend>;
    /// Where the copies of a volume's header begin: a byte flipped in any of them is damage.
    fn headers(&self, volume: VolumeId) -> Vec<(PathBuf, u64)>;
    /// Bytes that everything takes on the drive.
    fn used(&self) -> u64;
}

/// The base image: 1 MiB that begins with this.
pub(super) const BASE: &[u8] = b"the base image";

pub(super) fn make_base(path: &Path) {
    let mut bytes = BASE.to_vec();
    bytes.resize(1 << 20, 0);
    std::fs::write(path, bytes).unwrap();
}

pub(super) fn id() -> VolumeId {
    "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap()
}

pub(super) fn key(byte: u8) -> Key {
    Key::new(Box::new([byte; 32]))
}

/// Runs commands of `qemu-io` on a volume as a machine would see it; what it said, or `None` where the key is wrong.
pub(super) fn machine(backend: &dyn Backend, byte: u8, commands: &[&str]) -> Option<String> {
    let disk = match backend.open(id(), &key(byte)) {
        Ok(disk) => disk,
        Err(error) => {
            assert!(error.chain().contains("the key does not open"), "{}", error.chain());
            return None;
        }
    };
    let options = match &disk {
        Disk::File(path) => format!("driver=qcow2,encrypt.key-secret=k,file.filename={}", path.display()),
        Disk::Block(path) => {
            format!("driver=qcow2,file.driver=host_device,file.filename={}", path.display())
        }
    };
    let mut child = Command::new("/usr/bin/qemu-io")
        .args(["--object", "secret,id=k,file=/proc/self/fd/0"])
        .args(commands.iter().flat_map(|command| ["-c", command]))
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(passphrase(&key(byte)).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    backend.close(id()).unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if said.contains("Invalid password") {
        return None;
    }
    // That a pattern is another one is an answer.
    assert!(output.status.success() || said.contains("Pattern verification failed"), "{said}");
    Some(said)
}

/// A mark at 256 KiB: what a volume must keep.
pub(super) fn write(backend: &dyn Backend, byte: u8) {
    // And something where every file system has something.
    let said = machine(backend, byte, &["write -P 0x5a 1k 1k", "write -P 0x5a 256k 64k"]).unwrap();
    assert!(said.contains("wrote 65536/65536"), "{said}");
}

/// What a machine sees of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    gib: u64,
    /// It begins as the base image does.
    base: bool,
    mark: bool,
}

/// `None` where the key is wrong.
fn look(backend: &dyn Backend, byte: u8) -> Option<Look> {
    let said = machine(backend, byte, &["length", "read -v 0 512", "read -P 0x5a 256k 64k"])?;
    // `1 GiB`, and the bytes in hexadecimal with a blank between them.
    let mut words = said.split_whitespace();
    let (number, unit) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(unit, "GiB", "{said}");
    let base: Vec<String> = BASE.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Look {
        gib: number.parse().unwrap(),
        base: said.contains(&base.join(" ")),
        mark: !said.contains("Pattern verification failed"),
    })
}

/// Whether the mark is there; `None` where the key is wrong.
pub(super) fn has_mark(backend: &dyn Backend, byte: u8) -> Option<bool> {
    look(backend, byte).map(|look| look.mark)
}

pub(super) fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
    file.sync_all().unwrap();
}

thread_local! {
    static STEPS_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Killed;

/// A step of an operation is done: ends it here if a test wants it so. As with a kill, nothing that follows is run,
/// whether it would have gone on or cleaned up.
pub(super) fn step() {
    match STEPS_LEFT.get() {
        Some(0) => {
            STEPS_LEFT.set(None);
            resume_unwind(Box::new(Killed));
        }
        left => STEPS_LEFT.set(left.map(|left| left - 1)),
    }
}

/// Runs an operation and ends it after so many steps; true where it was.
pub(super) fn killed_after(steps: usize, operation: impl FnOnce()) -> bool {
    STEPS_LEFT.set(Some(steps));
    let outcome = catch_unwind(AssertUnwindSafe(operation));
    STEPS_LEFT.set(None);
    match outcome {
        Ok(()) => false,
        Err(why) if why.is::<Killed>() => true,
        Err(why) => resume_unwind(why),
    }
}

/// Does an operation again and again, killed after one step more each time, until one comes to its end: at least
/// `least` were killed.
pub(super) fn each_kill(least: usize, mut once: impl FnMut(usize) -> bool) {
    let kills = (0..100).take_while(|steps| once(*steps)).count();
    assert!((least..100).contains(&kills), "{kills} kills");
}

pub(super) fn only_its_key_opens_a_volume(ground: &dyn Ground) {
    let backend = ground.backend();
    assert_eq!(backend.state(id()).unwrap(), VolumeState::Absent);
    assert!(backend.open(id(), &key(7)).is_err() && backend.grow(id(), 2, &key(7)).is_err());
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    assert_eq!(backend.state(id()).unwrap(), VolumeState::Complete);
    assert_eq!(look(&*backend, 7), Some(Look { gib: 1, base: true, mark: false }));
    assert_eq!(look(&*backend, 8), None);
    write(&*backend, 7);
    assert_eq!(look(&*ground.backend(), 7), Some(Look { gib: 1, base: true, mark: true }));
    // Open twice is open, and closed twice is closed.
    assert_eq!(backend.open(id(), &key(7)).unwrap(), backend.open(id(), &key(7)).unwrap());
    (0..2).for_each(|_| backend.close(id()).unwrap());
}

pub(super) fn an_empty_volume_is_empty_and_keeps_what_is_written(ground: &dyn Ground) {
    let backend = ground.backend();
    for kind in [Kind::Data, Kind::Scratch] {
        backend.create(id(), kind, 1, &key(7)).unwrap();
        assert_eq!(look(&*backend, 7), Some(Look { gib: 1, base: false, mark: false }));
        write(&*backend, 7);
        assert_eq!(look(&*backend, 7), Some(Look { gib: 1, base: false, mark: true }));
        assert_eq!(look(&*backend, 8), None);
        assert!(backend.erase(id()).unwrap().erased);
        backend.forget(id()).unwrap();
    }
}

pub(super) fn a_volume_is_never_made_over_another(ground: &dyn Ground) {
    let backend = ground.backend();
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    write(&*backend, 7);
    for (kind, byte) in [(Kind::Root, 7), (Kind::Root, 8), (Kind::Data, 8)] {
        let error = backend.create(id(), kind, 1, &key(byte)).unwrap_err();
        assert!(error.chain().contains("never made anew"), "{}", error.chain());
    }
    assert_eq!(has_mark(&*backend, 7), Some(true));
}

pub(super) fn sizes_that_make_no_sense_are_refused(ground: &dyn Ground) {
    let backend = ground.backend();
    for size in [0, u64::MAX, u64::MAX / GIB, 1 << 33] {
        for kind in [Kind::Root, Kind::Data] {
            assert!(backend.create(id(), kind, size, &key(7)).is_err(), "{size}");
            assert_eq!(backend.state(id()).unwrap(), VolumeState::Absent);
        }
    }
}

pub(super) fn making_one_writes_the_same_whatever_its_size(ground: &dyn Ground) {
    let backend = ground.backend();
    let before = ground.used();
    backend.create(id(), Kind::Root, 512, &key(7)).unwrap();
    let used = ground.used() - before;
    assert!(used < 64 << 20, "{used} bytes written for an empty disk of 512 GiB");
    assert_eq!(look(&*backend, 7), Some(Look { gib: 512, base: true, mark: false }));
}

pub(super) fn a_damaged_header_is_an_error_and_nothing_is_made_anew(ground: &dyn Ground) {
    let backend = ground.backend();
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    for (path, at) in ground.headers(id()) {
        flip(&path, at);
        let errors = [
            backend.state(id()).map(drop),
            backend.open(id(), &key(7)).map(drop),
            backend.grow(id(), 2, &key(7)).map(drop),
            backend.change_passphrase(id(), &key(7), &key(8)).map(drop),
        ];
        for error in errors {
            let said = error.unwrap_err().chain();
            assert!(
                said.contains("header") && said.contains("damaged") || said.contains("no encrypted volume"),
                "{said}"
            );
            assert!(!said.contains("the key"), "{said}");
        }
        assert!(
            backend.create(id(), Kind::Data, 1, &key(7)).unwrap_err().chain().contains("never made anew")
        );
        flip(&path, at);
        assert_eq!(has_mark(&*backend, 7), Some(false));
    }
    let (path, at) = ground.headers(id()).remove(0);
    flip(&path, at);
    assert!(backend.erase(id()).unwrap().erased, "what is damaged can be erased");
    assert_eq!(backend.state(id()).unwrap(), VolumeState::Absent);
}

pub(super) fn a_volume_grows_and_never_shrinks(ground: &dyn Ground) {
    let backend = ground.backend();
    for kind in [Kind::Root, Kind::Data] {
        backend.create(id(), kind, 1, &key(7)).unwrap();
        write(&*backend, 7);
        assert!(backend.grow(id(), 3, &key(8)).unwrap_err().chain().contains("the key does not open"));
        (0..2).for_each(|_| assert_eq!(backend.grow(id(), 3, &key(7)).unwrap(), Grown::Done));
        for less in [0, 1, 2] {
            let error = backend.grow(id(), less, &key(7)).unwrap_err().chain();
            assert!(less == 0 || error.contains("never becomes smaller"), "{error}");
        }
        assert!(backend.grow(id(), u64::MAX, &key(7)).is_err());
        assert_eq!(look(&*backend, 7), Some(Look { gib: 3, base: kind == Kind::Root, mark: true }));
        backend.erase(id()).unwrap();
        backend.forget(id()).unwrap();
    }
}

pub(super) fn after_a_change_the_new_key_opens_it_and_the_old_does_not(ground: &dyn Ground) {
    let backend = ground.backend();
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    write(&*backend, 7);
    assert!(
        backend
            .change_passphrase(id(), &key(9), &key(8))
            .unwrap_err()
            .chain()
            .contains("the key does not open")
    );
    backend.change_passphrase(id(), &key(7), &key(7)).unwrap();
    assert_eq!(has_mark(&*backend, 7), Some(true));
    // Said again it is done already.
    for _ in 0..2 {
        assert_eq!(backend.change_passphrase(id(), &key(7), &key(8)).unwrap(), Rekeyed::Done);
    }
    assert_eq!(backend.state(id()).unwrap(), VolumeState::Complete);
    assert_eq!(has_mark(&*backend, 8), Some(true));
    assert_eq!(has_mark(&*backend, 7), None);
}

pub(super) fn evidence_is_the_same_until_it_is_stored_elsewhere(ground: &dyn Ground) {
    let backend = ground.backend();
    let nothing = backend.erase(id()).unwrap();
    assert!(!nothing.erased && nothing.bytes_overwritten == 0 && nothing.detail.contains("no disk"));
    backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
    let evidence = backend.erase(id()).unwrap();
    assert!(evidence.erased && evidence.bytes_overwritten > 0, "{evidence:?}");
    assert!(
        evidence.method.contains("luks-header") && evidence.volume_id == id().to_string(),
        "{evidence:?}"
    );
    // Another agent, after a kill.
    let again = ground.backend();
    for _ in 0..2 {
        let told = again.erase(id()).unwrap();
        assert_eq!(v1::VolumeEvidence { took_ms: evidence.took_ms, ..told }, evidence);
    }
    assert_eq!(again.state(id()).unwrap(), VolumeState::Absent);
    for _ in 0..2 {
        again.forget(id()).unwrap();
        assert_eq!(again.erase(id()).unwrap(), nothing);
    }
}

pub(super) fn a_kill_while_it_is_made_and_while_it_is_erased(ground: &dyn Ground) {
    let (mut erasures, mut last) = (0, true);
    each_kill(3, |steps| {
        let killed = killed_after(steps, || ground.backend().create(id(), Kind::Root, 1, &key(7)).unwrap());
        let backend = ground.backend();
        let state = backend.state(id()).unwrap();
        if state != VolumeState::Complete {
            assert!(killed && backend.open(id(), &key(7)).is_err());
            // Erased, where the kill was after an odd number of steps, or made at once.
            if state == VolumeState::Partial && steps % 2 == 1 {
                backend.erase(id()).unwrap();
                assert_eq!(backend.state(id()).unwrap(), VolumeState::Absent);
            }
            backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
        }
        let whole = Some(Look { gib: 1, base: true, mark: false });
        assert_eq!(look(&*backend, 7), whole, "after {steps} steps, {state:?}");

        last = killed_after(steps, || drop(ground.backend().erase(id()).unwrap()));
        erasures += usize::from(last);
        let backend = ground.backend();
        match backend.state(id()) {
            Ok(VolumeState::Complete) => panic!("what was begun to be erased is no volume any more"),
            Ok(VolumeState::Partial) => assert!(backend.open(id(), &key(7)).is_err()),
            Ok(VolumeState::Absent) => {}
            Err(error) => panic!("{}", error.chain()),
        }
        let evidence = backend.erase(id()).unwrap();
        assert!(evidence.erased && evidence.bytes_overwritten > 0, "after {steps} steps: {evidence:?}");
        assert_eq!(backend.state(id()).unwrap(), VolumeState::Absent);
        backend.forget(id()).unwrap();
        killed
    });
    assert!(erasures >= 3 && !last, "{erasures} erasures were killed, the last one: {last}");
}

pub(super) fn a_kill_while_it_grows(ground: &dyn Ground) {
    ground.backend().create(id(), Kind::Root, 1, &key(7)).unwrap();
    write(&*ground.backend(), 7);
    let mut size = 1;
    each_kill(1, |steps| {
        size += 1;
        let grow = || ground.backend().grow(id(), size, &key(7)).unwrap();
        let killed = killed_after(steps, || assert_eq!(grow(), Grown::Done));
        let backend = ground.backend();
        assert_eq!(backend.state(id()).unwrap(), VolumeState::Complete);
        // What it held is there before it is asked again, and after.
        if steps % 2 == 0 {
            assert_eq!(has_mark(&*backend, 7), Some(true), "after {steps} steps");
        }
        assert_eq!(grow(), Grown::Done);
        backend.close_idle(&BTreeSet::new()).unwrap();
        assert_eq!(look(&*backend, 7), Some(Look { gib: size, base: true, mark: true }));
        killed
    });
}

pub(super) fn a_kill_while_its_key_is_changed(ground: &dyn Ground) {
    ground.backend().create(id(), Kind::Data, 1, &key(1)).unwrap();
    write(&*ground.backend(), 1);
    let mut old = 1;
    each_kill(3, |steps| {
        let new = old + 1;
        let killed = killed_after(steps, || {
            let changed = ground.backend().change_passphrase(id(), &key(old), &key(new));
            assert_eq!(changed.unwrap(), Rekeyed::Done);
        });
        let backend = ground.backend();
        assert_eq!(backend.state(id()).unwrap(), VolumeState::Complete);
        let opened = has_mark(&*backend, old).or_else(|| has_mark(&*backend, new));
        assert_eq!(opened, Some(true), "after {steps} steps");
        backend.change_passphrase(id(), &key(old), &key(new)).unwrap();
        assert_eq!(has_mark(&*backend, old), None);
        assert_eq!(has_mark(&*backend, new), Some(true));
        old = new;
        killed
    });
}
