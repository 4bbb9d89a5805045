//! The project's data and room to work in, each by the serial number that the host gave its disk. One that holds data is
//! never formatted: where its file system is not found, that is said and nothing is done to it.

use crate::{
    command::run,
    ext4,
    failed::{Failed, Of as _, Outcome},
    files,
    seed::Disk,
};
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};
use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::Path};

/// The group of all of the project's people.
pub const PROJECT_GROUP: u32 = 60_000;
const USED: &str = "/etc/holm/data-is-in-use";
/// Where the project's disk is, of which people see `/home` and `/project`.
pub const DATA: &str = "/run/holm/data";
const RESERVE: u64 = 64 << 20;
/// The group slurm, which the kernel is told by its number, as it is in every image (`deploy/guest-image/build` looks).
const SLURM: u32 = 64_030;
pub const SCRATCH: &str = "/raid";
/// Where people look for them on the shared clusters that they come from.
const LIBRARY: &str = "/user/share/singularity/images";

/// A file system, as the host calls its disk, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub name: String,
    pub at: String,
}

/// The root disk.
pub fn root() -> Mounted {
    Mounted { name: "root".to_owned(), at: "/".to_owned() }
}

/// Mounts them, and makes the file systems of those that are new.
pub fn prepare(disks: &[Disk]) -> Outcome<Vec<Mounted>> {
    let serials = serials()?;
    let mut mounted = Vec::new();
    for Disk { serial, fresh } in disks {
        let keeps = serial == "data";
        let disk =
            serials.get(serial).ok_or_else(|| Failed(format!("the disk for {serial} is not there")))?;
        // A boot that was cut off after it had formatted, or that follows another of this machine, finds what that made.
        if ext4::Superblock::read(disk).of(disk)?.is_none() {
            if !fresh || keeps && Path::new(USED).exists() {
                let why = "holds no file system, and was in use: nothing is done to it";
                return Err(Failed(format!("the disk for {serial} {why}")));
            }
            let (reserve, features) = if keeps {
                (reserve(bytes(disk)?), &[][..])
            } else {
                ("0".to_owned(), &["-O", "^has_journal"][..])
            };
            let extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
            let make = ["mkfs.ext4", "-q", "-F", "-m", &reserve, "-E", extended];
            run(&[&make, features, &[disk]].concat())?;
        }
        let at = if keeps { DATA.to_owned() } else { SCRATCH.to_owned() };
        fs::create_dir_all(&at).of(&at)?;
        if !files::is_mounted(&at) {
            // What the journal holds is made good by mounting.
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
            let slurm = format!("resgid={SLURM}");
            let slurm = std::ffi::CString::new(slurm).of(&at)?;
            mount(disk.as_str(), at.as_str(), "ext4", flags, keeps.then_some(slurm.as_c_str())).of(&at)?;
        }
        if keeps {
            // On the root disk, which stays as long: from now on people may write to it.
            files::write(USED, "", 0o644, files::ROOT).of(USED)?;
            for name in ["home", "project"] {
                let (from, to) = (format!("{at}/{name}"), format!("/{name}"));
                fs::create_dir_all(&from).of(&from)?;
                fs::create_dir_all(&to).of(&to)?;
                if !files::is_mounted(&to) {
                    mount_bind(from.as_str(), to.as_str()).of(&to)?;
                }
            }
            // Here both are one mount, and what is linked from one into the other is in both.
            files::directory(&at, 0o700, files::ROOT).of(&at)?;
        } else {
            files::directory(&at, 0o2770, (0, PROJECT_GROUP)).of(&at)?;
        }
        mounted.push(Mounted { name: serial.clone(), at });
    }
    Ok(mounted)
}

/// What people leave where everybody writes runs as who runs it, and never as its owner.
pub fn shared() -> Outcome {
    for path in ["/tmp", "/var/tmp"] {
        let without = || mount_remount(path, MountFlags::BIND | MountFlags::NOSUID, "");
        if without().is_err() {
            // It is no mount of its own yet.
            mount_bind(path, path).of(path)?;
            without().of(path)?;
        }
    }
    Ok(())
}

/// Mounts the host's images of containers, where it gives any. That it does not is no reason to serve nobody.
pub fn library() {
    if let Err(Failed(why)) = mount_library() {
        eprintln!("the library: {why}");
    }
}

fn mount_library() -> Outcome {
    if let Some(disk) = serials()?.get("library").filter(|_| !files::is_mounted(LIBRARY)) {
        fs::create_dir_all(LIBRARY).of(LIBRARY)?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount(disk.as_str(), LIBRARY, "squashfs", flags, None).of(LIBRARY)?;
    }
    Ok(())
}

/// What people cannot have of the project's disk, in per cent: what a home takes of somebody who joins when it is full, and
/// what Slurm, whose group may use it, goes on with.
fn reserve(bytes: u64) -> String {
    let thousandths = (RESERVE * 1000).div_ceil(bytes.max(1)).clamp(1, 50);
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

fn bytes(disk: &str) -> Outcome<u64> {
    let name = disk.trim_start_matches("/dev/");
    let sectors = files::read(format!("/sys/class/block/{name}/size"))?;
    Ok(sectors.trim().parse::<u64>().unwrap_or_default().saturating_mul(512))
}

/// Whether there is room to work in.
pub fn has_scratch() -> bool {
    files::is_mounted(SCRATCH)
}

/// Every disk that has a serial number.
fn serials() -> Outcome<BTreeMap<String, String>> {
    let mut serials = BTreeMap::new();
    for disk in files::names("/sys/block").of("/sys/block")? {
        if let Ok(serial) = fs::read_to_string(format!("/sys/block/{disk}/serial")) {
            serials.insert(serial.trim().to_owned(), format!("/dev/{disk}"));
        }
    }
    Ok(serials)
}

/// Makes a file system as large as its disk. Nobody waits for this: what does not work leaves it as it is.
pub fn grow(mounted: &Mounted) {
    if let Err(Failed(why)) = grown(&mounted.at) {
        eprintln!("{} is not made larger: {why}", mounted.at);
    }
}

fn grown(at: &str) -> Outcome {
    let of = fs::metadata(at).of(at)?.dev();
    let device = format!("/sys/dev/block/{}:{}", rustix::fs::major(of), rustix::fs::minor(of));
    let name = files::read(format!("{device}/uevent"))?;
    let name = name.lines().find_map(|line| line.strip_prefix("DEVNAME=")).unwrap_or_default();
    let sectors: u64 = files::read(format!("{device}/size"))?.trim().parse().unwrap_or_default();
    let disk = format!("/dev/{name}");
    // To find out that there is nothing to do its own program takes as long as to do it.
    if ext4::Superblock::read(&disk).of(&disk)?.is_some_and(|now| now.can_grow(sectors.saturating_mul(512))) {
        run(&["resize2fs", &disk])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slurm_keeps_room_and_people_nearly_all() {
        for (bytes, percent) in
            [(1 << 30, "5.0"), (2 << 30, "3.2"), (64 << 30, "0.1"), (4 << 40, "0.1"), (0, "5.0")]
        {
            assert_eq!(reserve(bytes), percent, "{bytes}");
        }
    }
}
