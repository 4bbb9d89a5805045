//! What a guest is told at its first boot: a small FAT disk that cloud-init's NoCloud source reads.
//!
//! The cloud-config is JSON, which is YAML as well, and the file it writes is base64 inside it: nothing that
//! a project or a level is called can become an instruction to cloud-init.

use super::{key, people, scheduler};
use crate::{
    config::PciId,
    edge::{EdgeError, Result, Seed, VolumeKind},
    hypervisor::{DATA_SERIAL, SCRATCH_SERIAL},
};
use data_encoding::BASE64;
use holm_proto::ids::{Name, SliceId};
use serde_json::json;
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Cursor, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Where the guest finds what it was told.
const FILE_IN_GUEST: &str = "/etc/holm/slice.json";
/// The label by which cloud-init knows the disk.
const LABEL: [u8; 11] = *b"CIDATA     ";
const MIB: usize = 1 << 20;
const MAX_LEVEL_CHARS: usize = 64;

/// The seeds of this host's slices.
#[derive(Debug, Clone)]
pub struct Seeds {
    directory: PathBuf,
    gpus: Vec<PciId>,
}

impl Seeds {
    /// Seeds that lie in a directory a slice below `directory`, and name `gpus` as what a GPU is.
    pub fn new(directory: PathBuf, gpus: Vec<PciId>) -> Self {
        Self { directory, gpus }
    }

    /// Where a slice's seed lies.
    pub fn path(&self, slice: SliceId) -> PathBuf {
        self.directory.join(slice.to_string()).join("seed.img")
    }

    /// Writes a seed, replacing one that is there.
    pub fn write(&self, seed: &Seed) -> Result<()> {
        let slice = seed.slice;
        let failed = |error| EdgeError::because(format!("cannot write the seed of slice `{slice}`"), error);
        let image = image(slice, &self.user_data(seed)?).map_err(failed)?;
        let path = self.path(slice);
        let write = || -> io::Result<()> {
            let directory = self.directory.join(slice.to_string());
            DirBuilder::new().recursive(true).mode(0o711).create(&directory)?;
            let making = directory.join("seed.tmp");
            remove(&making)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&making)?;
            file.write_all(&image)?;
            file.sync_all()?;
            fs::rename(&making, &path)?;
            File::open(&directory)?.sync_all()
        };
        write().map_err(failed)
    }

    /// A copy of a shared file for one slice alone. libvirt makes what a machine boots the property of QEMU's
    /// user: a guest that broke out of its machine could otherwise rewrite what all the others boot.
    pub fn own_copy(&self, slice: SliceId, shared: &Path, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(slice.to_string());
        let (making, path) = (directory.join(format!("{name}.tmp")), directory.join(name));
        let copy = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o711).create(&directory)?;
            remove(&making)?;
            fs::copy(shared, &making)?;
            fs::set_permissions(&making, Permissions::from_mode(0o600))?;
            fs::rename(&making, &path)
        };
        match copy() {
            Ok(()) => Ok(path),
            Err(error) => Err(EdgeError::because(
                format!("cannot copy `{}` for slice `{slice}`", shared.display()),
                error,
            )),
        }
    }

    /// Removes a seed and the slice's directory. Nothing happens where there is none.
    pub fn remove(&self, slice: SliceId) -> Result<()> {
        match fs::remove_dir_all(self.directory.join(slice.to_string())) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(EdgeError::because(format!("cannot remove the seed of slice `{slice}`"), error))
            }
            _ => Ok(()),
        }
    }

    fn user_data(&self, seed: &Seed) -> Result<String> {
        let slice = seed.slice;
        let refused = |error| EdgeError::because(format!("the seed of slice `{slice}` is refused"), error);
        let disks: Vec<_> = seed
            .others
            .iter()
            .filter_map(|other| match other.kind {
                VolumeKind::Root => None,
                VolumeKind::Data => Some(json!({ "serial": DATA_SERIAL, "fresh": !other.used })),
                VolumeKind::Scratch => Some(json!({ "serial": SCRATCH_SERIAL, "fresh": true })),
            })
            .collect();
        let project: Name = seed.project.parse().map_err(refused)?;
        let ssh_ca = key::plain(&seed.ssh_ca).ok_or_else(|| {
            EdgeError::new(format!(
                "the seed of slice `{slice}` is refused: its SSH authority is no ed25519 key"
            ))
        })?;
        let [writers, readers] = people::accounts(slice, &seed.users)?;
        let mut told = json!({
            "slice": slice.to_string(),
            "project": project,
            "level": one_line(&seed.level),
            "level_name": one_line(&seed.level_name),
            "gpus": seed.gpus,
            "gpu_pci_ids": self.gpus.iter().map(PciId::as_str).collect::<Vec<_>>(),
            "ssh_ca": ssh_ca,
            "users": writers,
            "readers": readers,
            "people": people::digest_of(&seed.users),
            "disks": disks,
        });
        if let (Some(scheduler), Some(told)) = (&seed.scheduler, told.as_object_mut()) {
            told.insert("scheduler".to_owned(), scheduler::told(scheduler));
        }
        if let Some(told) = told.as_object_mut().filter(|_| seed.terminal_only) {
            told.insert("ssh".to_owned(), "terminal".into());
            // Without a key nobody gets in; with another one nobody who should not.
            if let Some(ca) = key::plain(&seed.ssh_terminal_ca) {
                told.insert("ssh_terminal_ca".to_owned(), ca.into());
            }
            if !seed.ssh_recorded_ca.is_empty() {
                told.insert("ssh".to_owned(), "recorded".into());
                if let Some(ca) = key::plain(&seed.ssh_recorded_ca) {
                    told.insert("ssh_recorded_ca".to_owned(), ca.into());
                }
            }
        }
        let config = json!({
            "write_files": [{
                "path": FILE_IN_GUEST,
                "owner": "root:root",
                "permissions": "0600",
                "encoding": "b64",
                "content": BASE64.encode(told.to_string().as_bytes()),
            }],
        });
        Ok(format!("#cloud-config\n{config}\n"))
    }
}

/// A disk with the two files that cloud-init wants. No project's name is in what names the machine.
fn image(slice: SliceId, user_data: &str) -> io::Result<Vec<u8>> {
    let meta_data = format!("{}\n", json!({ "instance-id": slice.to_string(), "local-hostname": "slice" }));
    let bytes = MIB + (user_data.len() + meta_data.len()).next_multiple_of(MIB);
    let mut disk = Cursor::new(vec![0; bytes]);
    fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new().volume_label(LABEL))?;
    let volume = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
    for (name, text) in [("meta-data", meta_data.as_str()), ("user-data", user_data)] {
        volume.root_dir().create_file(name)?.write_all(text.as_bytes())?;
    }
    volume.unmount()?;
    Ok(disk.into_inner())
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_LEVEL_CHARS).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_proto::v1::{self, GuestUser};
    use proptest::prelude::*;
    use std::io::Read as _;

    const CA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJQzSd2F4DPi1bWeTkVGt8mHnWJl1sCcqcPl1jeIHoq";

    fn seeds(directory: &Path) -> Seeds {
        Seeds::new(directory.to_owned(), vec!["1af4:1110".to_owned().try_into().unwrap()])
    }

    fn seed() -> Seed {
        Seed {
            slice: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
            project: "heart-study".to_owned(),
            level: "3".to_owned(),
            level_name: "Følsomme".to_owned(),
            gpus: 2,
            users: vec![GuestUser { name: "ida".to_owned(), uid: 10_001, read_only: false }],
            ssh_ca: format!("{CA} holm"),
            terminal_only: false,
            ssh_terminal_ca: String::new(),
            ssh_recorded_ca: String::new(),
            others: Vec::new(),
            scheduler: Some(v1::GuestScheduler {
                classes: vec![
                    v1::JobClass { name: "normal".to_owned(), priority: 100, gpus: None, wall_minutes: 2880 },
                    v1::JobClass {
                        name: "1gpulong".to_owned(),
                        priority: 50,
                        gpus: Some(1),
                        wall_minutes: 20_160,
                    },
                ],
                drain: false,
                of: "0123456789abcdef".to_owned(),
            }),
        }
    }

    /// The two files, read as cloud-init reads them.
    fn read(seeds: &Seeds, slice: SliceId) -> [String; 2] {
        let disk = fs::read(seeds.path(slice)).unwrap();
        let volume = fatfs::FileSystem::new(Cursor::new(disk), fatfs::FsOptions::new()).unwrap();
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        assert_eq!(volume.volume_label(), "CIDATA");
        ["meta-data", "user-data"].map(|name| {
            let mut text = String::new();
            volume.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
            text
        })
    }

    fn told(user_data: &str) -> serde_json::Value {
        let config: serde_json::Value =
            serde_json::from_str(user_data.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        let content = config["write_files"][0]["content"].as_str().unwrap();
        serde_json::from_slice(&BASE64.decode(content.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn golden_file() {
        let directory = tempfile::tempdir().unwrap();
        let seeds = seeds(directory.path());
        seeds.write(&seed()).unwrap();
        let [meta_data, user_data] = read(&seeds, seed().slice);
        let text = format!("{meta_data}---\n{user_data}---\n{:#}\n", told(&user_data));
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("seed", text);
        });
    }

    #[test]
    fn a_guest_is_told_where_its_level_allows_a_terminal_alone() {
        let seeds = seeds(Path::new("/nonexistent"));
        let ssh = |terminal_only| {
            told(&seeds.user_data(&Seed { terminal_only, ..seed() }).unwrap()).get("ssh").cloned()
        };
        assert_eq!((ssh(true), ssh(false)), (Some("terminal".into()), None));
        let recorded = |terminal_only| {
            let ssh_recorded_ca = CA.to_owned();
            told(&seeds.user_data(&Seed { terminal_only, ssh_recorded_ca, ..seed() }).unwrap())
        };
        assert_eq!(
            (recorded(true).get("ssh"), recorded(true)["ssh_recorded_ca"].as_str()),
            (Some(&"recorded".into()), Some(CA))
        );
    }

    #[test]
    fn it_is_replaced_and_removed_and_only_root_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let seeds = seeds(directory.path());
        let slice = seed().slice;
        seeds.remove(slice).unwrap();
        seeds.write(&seed()).unwrap();
        let first = fs::read(seeds.path(slice)).unwrap();
        assert_eq!(fs::metadata(seeds.path(slice)).unwrap().permissions().mode() & 0o777, 0o600);
        // What a kill left in the middle of an earlier writing.
        fs::write(directory.path().join(format!("{slice}/seed.tmp")), "half").unwrap();
        seeds.write(&seed()).unwrap();
        assert!(fs::read(seeds.path(slice)).unwrap() == first, "the same seed is the same bytes");
        seeds.write(&Seed { gpus: 3, ..seed() }).unwrap();
        assert_eq!(told(&read(&seeds, slice)[1])["gpus"], 3);
        seeds.remove(slice).unwrap();
        seeds.remove(slice).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_slice_boots_a_copy_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let (seeds, slice) = (seeds(&directory.path().join("slices")), seed().slice);
        let shared = directory.path().join("vmlinuz-1");
        fs::write(&shared, "kernel").unwrap();
        for _ in 0..2 {
            let path = seeds.own_copy(slice, &shared, "vmlinuz").unwrap();
            fs::write(&path, "rewritten").unwrap();
            assert_eq!(fs::read_to_string(&shared).unwrap(), "kernel");
        }
        let path = seeds.own_copy(slice, &shared, "vmlinuz").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "kernel");
        assert!(seeds.own_copy(slice, &directory.path().join("none"), "vmlinuz").is_err());
        seeds.remove(slice).unwrap();
        assert!(shared.exists());
    }

    #[test]
    fn nonsense_is_refused_and_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let seeds = seeds(directory.path());
        let user = |name: &str, uid| vec![GuestUser { name: name.to_owned(), uid, read_only: false }];
        for bad in [
            Seed { users: user("root;", 1000), ..seed() },
            Seed { users: user("../x", 1000), ..seed() },
            Seed { users: user("ida", 0), ..seed() },
            Seed { users: user("ida", 65_534), ..seed() },
            Seed { project: "a\nb".to_owned(), ..seed() },
            Seed { ssh_ca: "ssh-rsa AAAA".to_owned(), ..seed() },
            Seed { ssh_ca: format!("{CA}\n{CA}"), ..seed() },
        ] {
            assert!(seeds.write(&bad).is_err(), "{bad:?}");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn many_accounts_fit() {
        let directory = tempfile::tempdir().unwrap();
        let seeds = seeds(directory.path());
        let users = (0..20_000)
            .map(|n| GuestUser { name: format!("user-{n}"), uid: 1000 + n, read_only: false })
            .collect();
        seeds.write(&Seed { users, ..seed() }).unwrap();
        assert_eq!(told(&read(&seeds, seed().slice)[1])["users"].as_array().unwrap().len(), 20_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_name_of_a_level_becomes_an_instruction(level in any::<String>(), level_name in any::<String>()) {
            let seeds = seeds(Path::new("/nonexistent"));
            let text = seeds.user_data(&Seed { level: level.clone(), level_name, ..seed() }).unwrap();
            prop_assert!(text.is_ascii() && text.lines().count() == 2);
            let told = told(&text);
            prop_assert_eq!(told["level"].as_str().unwrap(), one_line(&level));
        }
    }
}
