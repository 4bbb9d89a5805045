//! The back end for real: device mapper, dm-crypt, LVM, on a loop device over a sparse file in `$TMPDIR`. That takes
//! root and a kernel that has them, and changes the machine: only where `HOLM_STORAGE_REAL=1` says so, one at a time,
//! and then nothing may be missing. `tests/run storage` runs them on the virtual DGX-2.

use super::*;
use crate::{
    config::{ImageFormat, LvmName, Overcommit, StorageBackend},
    storage::{
        Volumes,
        conformance::{self, Ground, has_mark, id, key, machine, write},
    },
};
use std::{
    fs,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
    process::Output,
    sync::MutexGuard,
};

conformance::suite!(ground);

/// On volumes from a thin pool, what differs.
mod thin {
    use super::*;

    conformance::suite! { super::thin_ground:
        only_its_key_opens_a_volume
        evidence_is_the_same_until_it_is_stored_elsewhere
    }

    #[test]
    fn the_pool_is_the_room_there_is_and_gets_it_back() {
        let Some(ground) = super::thin_ground() else { return };
        let backend = ground.backend();
        assert_eq!(backend.capacity_gib().unwrap(), 8);
        // The last GiB has no room for a header.
        for kind in [Kind::Root, Kind::Data] {
            let error = backend.create(id(), kind, 8, &key(7)).unwrap_err().chain();
            assert!(error.contains("has 8 GiB, 0 of them promised") && error.contains("lvextend"), "{error}");
            assert_eq!(backend.state(id()).unwrap(), VolumeState::Absent);
        }
        backend.create(id(), Kind::Data, 6, &key(7)).unwrap();
        let error = backend.grow(id(), 8, &key(7)).unwrap_err().chain();
        assert!(error.contains("no room for 2 more"), "{error}");
        write(&*backend, 7);
        assert_eq!(backend.grow(id(), 7, &key(7)).unwrap(), Grown::Done);
        assert_eq!(has_mark(&*backend, 7), Some(true));
        let other = "6f9619ff-8b86-4d01-b42d-00cf4fc964fe".parse().unwrap();
        assert!(backend.create(other, Kind::Data, 1, &key(8)).is_err(), "what is promised is counted");
        assert_eq!(backend.state(other).unwrap(), VolumeState::Absent);
        assert_eq!(backend.state(id()).unwrap(), VolumeState::Complete);
        let evidence = backend.erase(id()).unwrap();
        assert!(evidence.bytes_discarded > GIB && evidence.method.contains("discard"), "{evidence:?}");
    }

    #[test]
    fn a_full_pool_says_so_at_once_and_takes_more_when_it_is_larger() {
        let Some(mut ground) = super::thin_ground() else { return };
        assert!(ground.real().lacks().is_empty(), "{:?}", ground.real().lacks());
        // Small, so that it is full soon; promised more than it has.
        said(
            "lvcreate",
            &["--quiet", "--yes", "--type", "thin-pool", "--size", "256m", "--name", "small", &ground.group],
        );
        ground.config.thin_pool = Some(LvmName::try_from("small".to_owned()).unwrap());
        assert!(ground.real().lacks().concat().contains("--errorwhenfull y"), "a pool that waits is not fit");
        let small = format!("{}/small", ground.group);
        said("lvchange", &["--quiet", "--errorwhenfull", "y", &small]);
        ground.config.overcommit = Overcommit::try_from(10.0).unwrap();
        let backend = ground.backend();
        let empty = backend.room().unwrap().unwrap();
        assert_eq!(empty.bytes, 256 << 20);
        assert!(empty.used_percent() < 20, "{empty:?}");
        assert!(backend.create(id(), Kind::Data, 3, &key(7)).unwrap_err().chain().contains("may promise"));
        backend.create(id(), Kind::Data, 2, &key(7)).unwrap();
        let Disk::Block(device) = backend.open(id(), &key(7)).unwrap() else { panic!("no device") };
        let write = |at: u32| {
            let (of, seek) = (format!("of={}", device.display()), format!("seek={at}"));
            ran("dd", &["if=/dev/urandom", &of, "bs=1M", "count=300", "oflag=direct", "conv=notrunc", &seek])
        };
        let full = write(0);
        let told = String::from_utf8_lossy(&full.stderr).into_owned();
        // What QEMU pauses a machine for, and not an error of any other kind.
        assert!(!full.status.success() && told.contains("No space left on device"), "{told}");
        assert_eq!(backend.room().unwrap().unwrap().used_percent(), 100);
        said("lvextend", &["--quiet", "--size", "1g", &small]);
        assert!(backend.room().unwrap().unwrap().used_percent() < 60);
        assert!(write(0).status.success(), "it takes again what it could not take");
        backend.close(id()).unwrap();
        backend.erase(id()).unwrap();
    }
}

struct Fixture {
    directory: tempfile::TempDir,
    device: String,
    group: String,
    config: StorageConfig,
    /// Mappings have one name in the whole machine.
    _alone: MutexGuard<'static, ()>,
}

fn ground() -> Option<Fixture> {
    static ALONE: Mutex<()> = Mutex::new(());
    if std::env::var_os("HOLM_STORAGE_REAL").is_none_or(|real| real != "1") {
        println!("skipped: it makes loop devices and volume groups: set HOLM_STORAGE_REAL=1");
        return None;
    }
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    let drive = directory.path().join("drive");
    File::create(&drive).unwrap().set_len(1 << 40).unwrap();
    let device = said("losetup", &["--find", "--show", drive.to_str().unwrap()]).trim().to_owned();
    let group = format!("holmtest{}", std::process::id());
    said("vgcreate", &["--quiet", "--yes", &group, &device]);
    let base = directory.path().join("base.raw");
    conformance::make_base(&base);
    let config = StorageConfig {
        backend: StorageBackend::LvmLuks2,
        volumes: directory.path().join("volumes"),
        volume_group: Some(LvmName::try_from(group.clone()).unwrap()),
        thin_pool: None,
        discard: false,
        overcommit: Overcommit::default(),
        base_image: base,
        base_format: ImageFormat::Raw,
        qemu_img: "/usr/bin/qemu-img".into(),
    };
    Some(Fixture { directory, device, group, config, _alone: alone })
}

fn thin_ground() -> Option<Fixture> {
    let mut ground = ground()?;
    said(
        "lvcreate",
        &["--quiet", "--yes", "--type", "thin-pool", "--size", "8g", "--name", "pool", &ground.group],
    );
    said("lvchange", &["--quiet", "--errorwhenfull", "y", &format!("{}/pool", ground.group)]);
    ground.config.thin_pool = Some(LvmName::try_from("pool".to_owned()).unwrap());
    Some(ground)
}

fn ran(program: &str, words: &[&str]) -> Output {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    Command::new("/usr/bin/env").arg(format!("PATH={path}")).arg(program).args(words).output().unwrap()
}

fn said(program: &str, words: &[&str]) -> String {
    let output = ran(program, words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "HOLM_STORAGE_REAL=1, and `{program} {}` failed: {stderr}",
        words.join(" ")
    );
    String::from_utf8(output.stdout).unwrap()
}

impl Drop for Fixture {
    fn drop(&mut self) {
        for mapping in crypt::mappings().unwrap_or_default() {
            ran("dmsetup", &["remove", "--force", "--retry", &crypt::name(mapping.volume)]);
        }
        ran("vgremove", &["--quiet", "--force", "--yes", &self.group]);
        ran("losetup", &["--detach", &self.device]);
    }
}

impl Fixture {
    fn real(&self) -> LvmLuks2 {
        LvmLuks2::new(self.config.clone()).unwrap()
    }

    fn volume(&self) -> PathBuf {
        Path::new("/dev").join(&self.group).join(format!("holm-{}", id()))
    }

    fn tags(&self) -> String {
        said("lvs", &["--noheadings", "--options", "lv_tags", &self.group]).trim().to_owned()
    }

    /// Whether this is on the drive, where the first volume's header is: a regular expression of bytes.
    fn occurs(&self, what: &str) -> bool {
        let drive = self.directory.path().join("drive");
        let look = "head -c 24M \"$1\" | LC_ALL=C grep -aqP \"$2\"";
        let status =
            Command::new("sh").args(["-c", look, "sh", drive.to_str().unwrap(), what]).status().unwrap();
        assert!(status.code().is_some_and(|code| code < 2));
        status.success()
    }
}

impl Ground for Fixture {
    fn config(&self) -> StorageConfig {
        self.config.clone()
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(self.real())
    }

    fn headers(&self, _: VolumeId) -> Vec<(PathBuf, u64)> {
        [0, 450, (16 << 10) + 4200].map(|at| (self.volume(), at)).into()
    }

    fn used(&self) -> u64 {
        fs::metadata(self.directory.path().join("drive")).unwrap().blocks() * 512
    }
}

#[test]
fn what_the_kernel_and_lvm_know_names_nobody_and_shows_no_key() {
    let Some(mut ground) = ground() else { return };
    for discard in [false, true] {
        ground.config.discard = discard;
        let backend = ground.real();
        backend.create(id(), Kind::Root, 1, &key(0xa7)).unwrap();
        assert_eq!(ground.tags(), "holm.root");
        assert_eq!(backend.open(id(), &key(0xa7)).unwrap(), Disk::Block(crypt::path(id())));
        let table = said("dmsetup", &["table", "--showkeys", &crypt::name(id())]);
        assert!(table.contains("aes-xts-plain64 :64:logon:cryptsetup:"), "{table}");
        for option in ["no_read_workqueue", "no_write_workqueue", "sector_size:4096"] {
            assert!(table.contains(option), "{table}");
        }
        assert_eq!(table.contains("allow_discards"), discard, "{table}");
        let dump = said("cryptsetup", &["luksDump", ground.volume().to_str().unwrap()]);
        assert!(
            dump.contains(&format!("holm-{}", id())) && dump.contains("pbkdf2") && !dump.contains("argon2"),
            "{dump}"
        );
        backend.erase(id()).unwrap();
    }
    assert!(!ground.occurs(r"(a7){32}|\xa7{32}"));
    assert!(ground.real().lacks().is_empty(), "{:?}", ground.real().lacks());
}

#[test]
fn what_is_in_an_area_is_seen() {
    let area = tempfile::NamedTempFile::new().unwrap();
    area.as_file().set_len(64 << 20).unwrap();
    assert_eq!(found_in(area.path()).unwrap(), None);
    let path = area.path().to_str().unwrap();
    let makers: [(&str, &[&str], &str); 4] = [
        ("mkswap", &[path], "swap"),
        ("mkfs.ext4", &["-q", "-F", path], "ext4"),
        ("mkfs.vfat", &[path], "vfat"),
        ("qemu-img", &["create", "-q", "-f", "qcow2", path, "1M"], "qcow2"),
    ];
    for (program, words, found) in makers {
        area.as_file().set_len(0).unwrap();
        area.as_file().set_len(64 << 20).unwrap();
        let output = ran(program, words);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(found_in(area.path()).unwrap().as_deref(), Some(found));
    }
}

#[test]
fn nothing_is_formatted_over_what_is_found() {
    let Some(ground) = ground() else { return };
    let backend = ground.real();
    let other = format!("/dev/{}/other", ground.group);
    let makers: [(&str, &[&str], &str); 3] = [
        ("mkfs.ext4", &["-q", "-F"], "ext4"),
        (
            "cryptsetup",
            &[
                "luksFormat",
                "-q",
                "--pbkdf",
                "pbkdf2",
                "--pbkdf-force-iterations",
                "1000",
                "--key-file",
                "/proc/version",
            ],
            "LUKS",
        ),
        ("qemu-img", &["create", "-q", "-f", "qcow2"], "qcow2"),
    ];
    for (program, words, found) in makers {
        // Somebody had this area before, and gave it back as it was.
        said("lvcreate", &["--quiet", "--yes", "--name", "other", "--size", "1g", &ground.group]);
        let mut words = [words, &[other.as_str()]].concat();
        if found == "qcow2" {
            words.push("512M");
        }
        said(program, &words);
        let before = read_head(Path::new(&other), 4 << 20).unwrap();
        said("lvremove", &["--quiet", "--yes", &other]);
        for _ in 0..2 {
            let error = backend.create(id(), Kind::Root, 1, &key(7)).unwrap_err().chain();
            assert!(error.contains(&format!("something ({found})")) && error.contains("wipefs"), "{error}");
            assert_eq!(backend.state(id()).unwrap(), VolumeState::Partial);
            assert!(read_head(&ground.volume(), 4 << 20).unwrap() == before, "it was written to");
        }
        // It is not ours: erasing ours leaves it.
        let evidence = backend.erase(id()).unwrap();
        assert!(!evidence.erased, "{evidence:?}");
        backend.create(id(), Kind::Root, 1, &key(7)).unwrap_err();
        assert!(read_head(&ground.volume(), 4 << 20).unwrap() == before);
        match found {
            "qcow2" => {
                File::options().write(true).open(ground.volume()).unwrap().write_all_at(&[0; 512], 0).unwrap()
            }
            _ => drop(said("wipefs", &["--quiet", "--all", ground.volume().to_str().unwrap()])),
        }
        backend.create(id(), Kind::Root, 1, &key(7)).unwrap();
        assert!(backend.erase(id()).unwrap().erased);
        backend.forget(id()).unwrap();
    }
}

#[test]
fn a_header_torn_by_a_change_is_mended_and_any_other_is_not() {
    let Some(ground) = ground() else { return };
    let backend = ground.real();
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    write(&backend, 7);
    let device = File::options().read(true).write(true).open(ground.volume()).unwrap();
    for (at, zeros) in [(448, 32), (4096, 4096), ((16 << 10) + 448, 32)] {
        let whole = read_head(&ground.volume(), header::DATA_OFFSET).unwrap();
        device.write_all_at(&vec![0; zeros], at).unwrap();
        device.sync_all().unwrap();
        assert!(backend.open(id(), &key(7)).unwrap_err().chain().contains("header damaged: one of"));
        // `cryptsetup` would have mended it without a word.
        assert!(read_head(&ground.volume(), header::DATA_OFFSET).unwrap() != whole);
        ground.real().group.tag(id(), &[CHANGING], &[]).unwrap();
        assert_eq!(backend.state(id()).unwrap(), VolumeState::Complete);
        assert_eq!(has_mark(&backend, 7), Some(true));
        backend.change_passphrase(id(), &key(7), &key(7)).unwrap();
        assert_eq!(ground.tags(), "holm.data");
    }
    // Another volume's header, whole, is not this one's.
    let whole = read_head(&ground.volume(), header::DATA_OFFSET).unwrap();
    said(
        "cryptsetup",
        &[
            "luksUUID",
            "--batch-mode",
            "--uuid",
            "00000000-0000-4000-8000-000000000001",
            ground.volume().to_str().unwrap(),
        ],
    );
    assert!(backend.open(id(), &key(7)).unwrap_err().chain().contains("another volume's"));
    device.write_all_at(&whole, 0).unwrap();
    device.sync_all().unwrap();
    assert_eq!(has_mark(&backend, 7), Some(true));
    // And where there is none, none is made.
    device.write_all_at(&[0; header::BYTES], 0).unwrap();
    device.sync_all().unwrap();
    assert!(backend.state(id()).unwrap_err().chain().contains("header damaged: there is none"));
    assert!(backend.create(id(), Kind::Data, 1, &key(7)).is_err());
}

#[test]
fn one_that_a_machine_has_open_grows_and_is_neither_closed_nor_erased() {
    let Some(ground) = ground() else { return };
    let volumes = Volumes::new(ground.config.clone()).unwrap();
    for kind in [Kind::Data, Kind::Root] {
        volumes.create(id(), kind, 1, &key(7)).unwrap();
        let (disk, hand) = volumes.open(id(), &key(7)).unwrap();
        // As long as a start has it in hand, nobody else works on it, and it is not idle.
        assert!(volumes.erase(id()).unwrap_err().chain().contains("being worked on"));
        volumes.close_idle().unwrap();
        let Disk::Block(path) = disk else { panic!("{disk:?}") };
        let mut machine = File::open(&path).unwrap();
        let before = std::io::Seek::seek(&mut machine, std::io::SeekFrom::End(0)).unwrap();
        drop(hand);
        volumes.close_idle().unwrap();
        assert_eq!(volumes.grow(id(), 2, &key(7)).unwrap(), Grown::TellMachine);
        let after = std::io::Seek::seek(&mut machine, std::io::SeekFrom::End(0)).unwrap();
        assert!(after >= before + GIB && after >= 2 * GIB, "{before} → {after}");
        let error = volumes.erase(id()).unwrap_err().chain();
        assert!(error.contains("in use"), "{error}");
        assert_eq!(volumes.state(id()).unwrap(), VolumeState::Complete);
        drop(machine);
        // What looks at new devices may have it open for a moment.
        let end = Instant::now() + Duration::from_secs(30);
        while path.exists() && Instant::now() < end {
            volumes.close_idle().unwrap();
        }
        assert!(!path.exists());
        assert!(volumes.erase(id()).unwrap().erased);
        volumes.forget(id()).unwrap();
    }
}

#[test]
fn what_a_tenant_writes_is_no_file_system_or_volume_group_of_the_hosts() {
    let Some(ground) = ground() else { return };
    let backend = ground.real();
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    let other = format!("/dev/{}/other", ground.group);
    let within = "devices { scan_lvs = 1 filter = [ \"a|/other$|\", \"r|.*|\" ] }";
    let makers: [(&str, &[&str], &str); 2] = [
        ("mkfs.ext4", &["-q", "-F"], "ext4"),
        ("vgcreate", &["--config", within, "--yes", "holmtenant"], "LVM2_member"),
    ];
    for (program, words, found) in makers {
        said("lvcreate", &["--quiet", "--yes", "--name", "other", "--size", "64m", &ground.group]);
        said(program, &[words, &[other.as_str()]].concat());
        assert_eq!(found_in(Path::new(&other)).unwrap().as_deref(), Some(found));
        let head = ground.directory.path().join("head");
        fs::write(&head, read_head(Path::new(&other), 1 << 20).unwrap()).unwrap();
        said("wipefs", &["--quiet", "--all", &other]);
        said("lvremove", &["--quiet", "--yes", &other]);
        let from = format!("write -s {} 0 1M", head.display());
        let wrote = machine(&backend, 7, &[&from]).unwrap();
        assert!(wrote.contains("wrote 1048576/1048576"), "{wrote}");
        let Disk::Block(path) = backend.open(id(), &key(7)).unwrap() else { panic!() };
        assert_eq!(found_in(&path).unwrap().as_deref(), Some("qcow2"));
        backend.close(id()).unwrap();
    }
    let tenants = Group { name: "holmtenant".to_owned(), pool: None, overcommit: Overcommit::default() };
    assert!(tenants.capacity().unwrap_err().to_string().contains("not found"));
    assert_eq!(backend.grow(id(), 2, &key(7)).unwrap(), Grown::Done);
    assert_eq!(backend.capacity_gib().unwrap(), 1023);
    backend.erase(id()).unwrap();
}

#[test]
fn erasing_leaves_neither_header_nor_key_slots() {
    let Some(ground) = ground() else { return };
    let backend = ground.real();
    let before = backend.capacity_gib().unwrap();
    backend.create(id(), Kind::Data, 1, &key(7)).unwrap();
    assert!(ground.occurs(r"LUKS\xba\xbe") && ground.occurs(r"SKUL\xba\xbe"));
    assert_eq!(ground.real().capacity_gib().unwrap(), before);
    let evidence = backend.erase(id()).unwrap();
    assert_eq!(evidence.bytes_overwritten, header::DATA_OFFSET);
    assert!(evidence.bytes_discarded == 0 || evidence.bytes_discarded > GIB, "{evidence:?}");
    assert!(!ground.occurs(r"(LUKS|SKUL)\xba\xbe"));
}

#[test]
fn a_group_that_is_not_there_or_full_is_said() {
    let Some(mut ground) = ground() else { return };
    let backend = ground.real();
    let error = backend.create(id(), Kind::Data, 1 << 20, &key(7)).unwrap_err().chain();
    assert!(error.contains("insufficient free space"), "{error}");
    assert_eq!(backend.state(id()).unwrap(), VolumeState::Absent);
    ground.config.volume_group = Some(LvmName::try_from("nosuchgroup".to_owned()).unwrap());
    let backend = ground.real();
    for error in [
        backend.state(id()).map(drop),
        backend.create(id(), Kind::Data, 1, &key(7)),
        backend.erase(id()).map(drop),
        backend.capacity_gib().map(drop),
    ] {
        let said = error.unwrap_err().chain();
        assert!(said.contains("`nosuchgroup`") && said.contains("not found"), "{said}");
    }
    assert!(backend.lacks().concat().contains("nosuchgroup"));
    assert_eq!(Volumes::new(ground.config.clone()).unwrap().promises_gib(), 0);
}
