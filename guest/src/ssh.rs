//! The door, which is opened only once it knows whom to let in.

use crate::{
    command::run,
    disks,
    failed::{Of as _, Outcome},
    files::{self, ROOT},
    seed::Told,
};
use std::path::Path;

const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

/// What sshd's own file reads first: ports here, forwarded to who connects.
const WHOLE: &str = "DisableForwarding no\nAllowTcpForwarding local\n";
/// A terminal, jobs and copying in. A shell reads its user's files from her home before it runs a command, unless that is
/// elsewhere.
const TERMINAL: &str = "ForceCommand /usr/lib/holm/terminal\nSetEnv HOME=/usr/lib/holm\n";

/// The same, and what a terminal shows is kept.
const RECORDED: &str = "ForceCommand /usr/lib/holm/recorded\nSetEnv HOME=/usr/lib/holm\n";

/// What was not told is not restricted; what is not understood is, as far as can be.
fn level(ssh: Option<&str>) -> &'static str {
    match ssh {
        None => WHOLE,
        Some("recorded") => RECORDED,
        Some(_) => TERMINAL,
    }
}

/// Who signs the certificates of those who may come in. Where one is not told, `ssh_ca` is nobody's.
fn trusted(told: &Told) -> &str {
    let own = if told.recorded() { &told.ssh_recorded_ca } else { &told.ssh_terminal_ca };
    own.as_deref().filter(|_| told.ssh.is_some()).unwrap_or(&told.ssh_ca)
}

/// Opens it; its key.
pub fn open(told: &Told) -> Outcome<String> {
    let write = |path: &str, text: &str, mode| files::write(path, text, mode, ROOT).of(path);
    write("/etc/ssh/holm_ca.pub", &format!("{}\n", trusted(told)), 0o644)?;
    write("/etc/ssh/holm_level.conf", level(told.ssh.as_deref()), 0o644)?;
    let mut notice = format!("Project {}. Level {}: {}.\n", told.project, told.level, told.level_name);
    if told.recorded() {
        notice += "What your terminal shows here is recorded, and security officers may look at it.\n";
    }
    write(
        "/etc/issue.net",
        &format!("{notice}What you do here is governed by that level's rules.\n"),
        0o644,
    )?;
    let scratch =
        if disks::has_scratch() { "Room to work in, gone when the slice stops: /raid.\n" } else { "" };
    let jobs = "Jobs: sbatch, srun, squeue. Shared with your project: /project.\n";
    write("/etc/motd", &format!("{notice}{jobs}{scratch}"), 0o644)?;
    let public = format!("{HOST_KEY}.pub");
    if !Path::new(HOST_KEY).exists() {
        // Made in memory: on the disk it is either all there, also after a cut, or it is not.
        let making = "/run/holm/host_key";
        let made = format!("{making}.pub");
        for left in [making, &made] {
            files::remove(left).of(left)?;
        }
        run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", making])?;
        write(&public, &files::read(&made)?, 0o644)?;
        write(HOST_KEY, &files::read(making)?, 0o600)?;
        files::remove(making).of(making)?;
    }
    run(&["systemctl", "start", "--no-block", "holm-ssh.socket"])?;
    let key = files::read(public)?;
    Ok(key.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_restricted_is_open() {
        assert_eq!(level(None), WHOLE);
        assert_eq!(level(Some("recorded")), RECORDED);
        for told in ["terminal", "", "something that comes later"] {
            assert_eq!(level(Some(told)), TERMINAL, "{told}");
        }
    }
}
