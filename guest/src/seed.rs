//! The seed: a disk as cloud-init's NoCloud source reads it, and an image with cloud-init understands it. This program
//! takes from it the one file that it is for, which is quicker by as long as all the rest of the boot, and leaves nothing
//! else for a seed to say.

use crate::{
    failed::{Failed, Of as _, Outcome},
    files,
};
use data_encoding::BASE64;
use fatfs::{FileSystem, FsOptions};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{Cursor, Read as _},
};

const DISK: &str = "/dev/vdb";
/// Where what was told lies.
const TOLD: &str = "/etc/holm/slice.json";

/// What the host tells this slice, at this boot.
#[derive(Debug, Deserialize)]
pub struct Told {
    pub project: String,
    pub level: String,
    pub level_name: String,
    pub gpus: usize,
    /// What a GPU is, as `vendor:device`.
    pub gpu_pci_ids: Vec<String>,
    /// The key that signs people's certificates.
    pub ssh_ca: String,
    /// Trusted in its place where only a terminal is allowed.
    #[serde(default)]
    pub ssh_terminal_ca: Option<String>,
    /// Trusted in its place where what a terminal shows is recorded.
    #[serde(default)]
    pub ssh_recorded_ca: Option<String>,
    /// What its level allows over SSH, where that is not all: `terminal`; `recorded`, what that shows is kept as well.
    #[serde(default)]
    pub ssh: Option<String>,
    pub users: Vec<User>,
    /// Those who only read. Where nothing knows of them they are nobody.
    #[serde(default)]
    pub readers: Vec<User>,
    /// What the host calls these people.
    #[serde(default)]
    pub people: String,
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// What Slurm is to do; the usual where it is not said.
    pub scheduler: Option<serde_json::Value>,
    /// After so many a job that has GPUs and uses none is idle.
    pub idle_minutes: Option<u64>,
}

impl Told {
    /// What its terminals show is kept.
    pub fn recorded(&self) -> bool {
        self.ssh.as_deref() == Some("recorded")
    }
}

/// Somebody who has an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// She changes nothing of the project's.
    #[serde(default)]
    pub read_only: bool,
}

/// A disk beside the root disk, by the serial number that the host gave it.
#[derive(Debug, Deserialize)]
pub struct Disk {
    pub serial: String,
    /// Nobody has used it: it may be formatted.
    pub fresh: bool,
}

#[derive(Deserialize)]
struct CloudConfig {
    write_files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    encoding: String,
    content: String,
}

/// Reads the seed, and keeps what it says.
pub fn read() -> Outcome<Told> {
    let told = told(fs::read(DISK).of(DISK)?)?;
    files::directory("/etc/holm", 0o755, files::ROOT).of("/etc/holm")?;
    files::write(TOLD, &told, 0o600, files::ROOT).of(TOLD)?;
    serde_json::from_slice(&told).of(TOLD)
}

fn told(disk: Vec<u8>) -> Outcome<Vec<u8>> {
    let text = user_data(disk).of("the seed")?;
    let json = text.strip_prefix("#cloud-config\n").unwrap_or_default();
    let files = if json.is_empty() {
        Vec::new()
    } else {
        serde_json::from_str::<CloudConfig>(json).of("the seed")?.write_files
    };
    let file = files.into_iter().find(|file| file.path == TOLD && file.encoding == "b64");
    let file = file.ok_or_else(|| Failed(format!("the seed does not say {TOLD}")))?;
    BASE64.decode(file.content.as_bytes()).map_err(|error| Failed(format!("the seed's {TOLD}: {error}")))
}

/// It is small, and read whole: the kernel needs no driver for its file system then.
fn user_data(disk: Vec<u8>) -> std::io::Result<String> {
    let volume = FileSystem::new(Cursor::new(disk), FsOptions::new())?;
    let mut text = String::new();
    volume.root_dir().open_file("user-data")?.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    /// As the host makes it.
    fn disk(user_data: &str) -> Vec<u8> {
        let mut disk = Cursor::new(vec![0; (1 << 20) + user_data.len().next_multiple_of(1 << 20)]);
        fatfs::format_volume(&mut disk, fatfs::FormatVolumeOptions::new()).unwrap();
        let volume = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
        for (name, text) in [("meta-data", "{}"), ("user-data", user_data)] {
            volume.root_dir().create_file(name).unwrap().write_all(text.as_bytes()).unwrap();
        }
        volume.unmount().unwrap();
        disk.into_inner()
    }

    fn config(path: &str, encoding: &str, content: &str) -> String {
        let file = serde_json::json!({ "path": path, "encoding": encoding, "content": content });
        format!("#cloud-config\n{}\n", serde_json::json!({ "write_files": [file] }))
    }

    #[test]
    fn what_the_agent_writes_is_read() {
        let seed = include_str!("../../hypervisor-agent/src/guest/golden/seed.snap");
        let user_data = seed.split("---\n").nth(3).unwrap();
        let told: Told = serde_json::from_slice(&told(disk(user_data)).unwrap()).unwrap();
        assert_eq!((told.project.as_str(), told.gpus), ("heart-study", 2));
        assert_eq!(told.users, [User { name: "ida".to_owned(), uid: 10_001, read_only: false }]);
        assert_eq!((told.gpu_pci_ids, told.disks.len()), (vec!["1af4:1110".to_owned()], 0));
    }

    #[test]
    fn what_says_nothing_of_a_slice_is_refused() {
        let failed = |text: &str| told(disk(text)).unwrap_err().0;
        for text in [
            "",
            "#!/bin/sh\nreboot",
            "#cloud-config\n{\"write_files\":[]}",
            &config("/etc/passwd", "b64", "AAAA"),
        ] {
            assert_eq!(failed(text), "the seed does not say /etc/holm/slice.json", "{text}");
        }
        assert!(failed("#cloud-config\n{").starts_with("the seed: "));
        assert!(failed(&config(TOLD, "b64", "%")).starts_with("the seed's "));
        assert!(told(vec![0; 1 << 20]).unwrap_err().0.starts_with("the seed: "));
    }

    proptest! {
        #[test]
        fn what_is_told_arrives(text in proptest::collection::vec(any::<u8>(), 1..5000)) {
            prop_assert_eq!(told(disk(&config(TOLD, "b64", &BASE64.encode(&text)))).unwrap(), text);
        }
    }
}
