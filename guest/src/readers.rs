//! Where those are who only read: a tree of this machine's directories of their own, in which what is the project's is mounted
//! read only. sshd puts them there (`ChrootDirectory`), and nothing of theirs may run elsewhere (`evict`). Whose a file is, which
//! groups a process has, what is open to everybody: none of it opens a way to write there. In such a tree the kernel makes no
//! user namespaces, so that nobody mounts anything over it.

use crate::{
    disks::{DATA, SCRATCH},
    failed::{Of as _, Outcome},
    files,
};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount_bind, mount_bind_recursive, mount_change, mount_remount,
};
use std::{fs, path::Path};

/// The group of those who are put there.
pub const READERS_GROUP: u32 = 60_001;
/// Its root.
pub const TREE: &str = "/run/holm/readers";

/// Makes it, of all that is mounted by now; or goes on where it was left.
pub fn tree() -> Outcome {
    fs::create_dir_all(TREE).of(TREE)?;
    if !files::is_mounted(TREE) {
        if !files::is_mounted("/project") {
            // A mount of its own: nothing is linked from there into a home, where it could be written.
            mount_bind("/project", "/project").of("/project")?;
        }
        mount_bind_recursive("/", TREE).of(TREE)?;
    }
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(TREE, alone).of(TREE)?;
    // The disk with `/project` is in two places.
    for path in ["/project", SCRATCH, DATA] {
        let there = format!("{TREE}{path}");
        if !Path::new(&there).is_dir() {
            continue;
        }
        if !files::is_mounted(&there) {
            mount_bind(there.as_str(), there.as_str()).of(&there)?;
        }
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(there.as_str(), flags, "").of(&there)?;
    }
    Ok(())
}
