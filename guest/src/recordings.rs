//! What terminals show, where the slice's level has that recorded. People come by doors (`accounts`), and sudo, which only doors may
//! use, records as root what is between a door and all that she runs; here it is seen to that it can, and that the log has a hash
//! of each recording.
//!
//! ```text
//!   sudo opens it ──▶ grows ── sudo ends: nobody writes `timing` any more ──▶ done ── its hash is in the log: nobody writes its
//!                       └──────── the machine was cut off ───────────────────▶  │     directory any more ──▶ known
//! ```

use crate::{
    accounts::DOORS_GROUP,
    claims::What,
    command::run,
    disks::DATA,
    failed::{Failed, Of as _, Outcome},
    files::{self, Owner},
    port::Port,
};
use rustix::{
    event::Timespec,
    fs::{Gid, Mode, Uid, chmod, chown},
    mount::mount_bind,
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Where they are, each a directory as `sudoreplay` reads it.
pub const AT: &str = "/var/log/recordings";
/// Who reads them, by the same number in every image (`deploy/guest-image/build`): the data disk outlives the image.
const READER: Owner = (0, 491);
const SUDO: &str = "/usr/bin/sudo";
/// It is there where this machine records, and was prepared for it since it came up.
const PREPARED: &str = "/run/holm/recordings";
/// What only owners write.
const WRITE: u32 = 0o200;
const LOOK: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// So many are claimed at a time, and none while more than that wait to be in the log: there is room for other claims.
const AT_ONCE: usize = 30;
const WAIT_MOST: usize = 300;
/// `20261128-180102-`, and a hyphen with six characters, around whose it is.
const BEFORE: usize = 16;
const AFTER: usize = 7;

/// Whether people come by doors.
pub fn are_made() -> bool {
    Path::new(PREPARED).exists()
}

/// Before there are accounts.
pub fn prepare(recorded: bool) -> Outcome {
    // Nobody else has a use for it.
    let (group, mode) = if recorded { (DOORS_GROUP, 0o4750) } else { (0, 0o755) };
    chown(SUDO, Some(Uid::ROOT), Some(Gid::from_raw(group))).of(SUDO)?;
    // Giving it away has taken the bit.
    chmod(SUDO, Mode::from_raw_mode(mode)).of(SUDO)?;
    if !recorded {
        return Ok(());
    }
    fs::create_dir_all(AT).of(AT)?;
    if files::is_mounted(DATA) && !files::is_mounted(AT) {
        let from = format!("{DATA}/recordings");
        fs::create_dir_all(&from).of(&from)?;
        mount_bind(from.as_str(), AT).of(AT)?;
    }
    files::directory(AT, 0o750, READER).of(AT)?;
    // Those that no run of this machine ended. Where this program begins anew, somebody may be in one.
    if !are_made() {
        for recording in all(Path::new(AT)).of(AT)? {
            let timing = recording.join("timing");
            if is_written(&timing) {
                close(&timing).of(timing.display())?;
            }
        }
        fs::write(PREPARED, "").of(PREPARED)?;
    }
    Ok(())
}

/// Has the log know each of them that is done, and the disk what is not.
pub fn for_ever(port: &Port) {
    let mut claimed = BTreeSet::new();
    loop {
        if let Err(Failed(why)) = look(Path::new(AT), port, &mut claimed) {
            eprintln!("recordings: {why}");
        }
        // sudo says to nobody that it has ended.
        let _ = rustix::event::poll(&mut [], Some(&LOOK));
    }
}

fn look(at: &Path, port: &Port, claimed: &mut BTreeSet<PathBuf>) -> Outcome {
    for recording in all(at).of(at.display())? {
        // What a machine that is cut off has shown shall be there. Of the disk nothing else is waited for: jobs write to it.
        if is_written(&recording.join("timing"))
            && let Err(error) = sync(&recording)
        {
            eprintln!("recordings: {}: {error}", recording.display());
        }
    }
    let waiting = port.claims_that_wait();
    if waiting == 0 {
        for recording in std::mem::take(claimed) {
            if let Err(error) = close(&recording) {
                eprintln!("recordings: {}: {error}", recording.display());
            }
        }
    }
    let room = if waiting < WAIT_MOST { AT_ONCE } else { 0 };
    let new = done(at)?.into_iter().filter(|recording| !claimed.contains(recording));
    for recording in new.take(room).collect::<Vec<_>>() {
        // One that cannot be read keeps no other from the log.
        match claim(&recording) {
            Ok(what) => {
                port.claim(what);
                claimed.insert(recording);
            }
            Err(Failed(why)) => eprintln!("recordings: {why}"),
        }
    }
    Ok(())
}

fn sync(recording: &Path) -> std::io::Result<()> {
    for file in files::names(recording)? {
        File::open(recording.join(file))?.sync_all()?;
    }
    File::open(recording)?.sync_all()
}

fn all(at: &Path) -> std::io::Result<Vec<PathBuf>> {
    Ok(files::names(at)?.iter().filter(|name| whose(name).is_some()).map(|name| at.join(name)).collect())
}

/// Those of which the log does not know yet.
fn done(at: &Path) -> Outcome<Vec<PathBuf>> {
    let all = all(at).of(at.display())?;
    let done = |recording: &PathBuf| {
        let timing = recording.join("timing");
        is_written(recording) && timing.exists() && !is_written(&timing)
    };
    Ok(all.into_iter().filter(done).collect())
}

fn is_written(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & WRITE != 0)
}

fn close(path: &Path) -> std::io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode() & !WRITE;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Who was at the terminal, by how sudo was told to call it (`/etc/sudoers`).
fn whose(name: &str) -> Option<&str> {
    name.get(BEFORE..name.len().checked_sub(AFTER)?).filter(|user| !user.is_empty())
}

/// Its name, its length and the hash of all of it: of its files, one after the other as the shell's `*` has them.
fn claim(recording: &Path) -> Outcome<What> {
    let name = recording.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut bytes = 0;
    let mut hashed = vec!["sh", "-c", "cat -- \"$@\" | sha256sum", "sh"];
    let paths: Vec<String> = files::names(recording)
        .of(recording.display())?
        .iter()
        .map(|file| recording.join(file).display().to_string())
        .collect();
    for path in &paths {
        bytes += fs::metadata(path).of(path)?.len();
        hashed.push(path);
    }
    let hash = run(&hashed)?;
    let mut what = What::new(
        "recorded",
        &[
            ("user", whose(name).unwrap_or_default()),
            ("recording", name),
            ("sha256", hash.split_whitespace().next().unwrap_or_default()),
        ],
    );
    what.fields.insert("bytes".to_owned(), bytes.into());
    Ok(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_done_is_claimed_once_with_all_of_it() {
        let place = tempfile::tempdir().unwrap();
        let (at, name) = (place.path(), "20261128-180102-ida-maria-x9ZkQ0");
        let recording = at.join(name);
        fs::create_dir(&recording).unwrap();
        fs::create_dir(at.join("lost+found")).unwrap();
        assert!(done(at).unwrap().is_empty(), "sudo has just begun");
        for (file, text) in [("log", "a"), ("timing", "c"), ("ttyout", "d"), ("log.json", "b")] {
            fs::write(recording.join(file), text).unwrap();
        }
        assert!(done(at).unwrap().is_empty(), "somebody is at it");
        close(&recording.join("timing")).unwrap();
        assert_eq!(done(at).unwrap(), std::slice::from_ref(&recording));
        let what = claim(&recording).unwrap();
        assert_eq!(what.kind, "recorded");
        let wanted = serde_json::json!({
            "user": "ida-maria",
            "recording": name,
            "bytes": 4,
            // printf abcd | sha256sum
            "sha256": "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589",
        });
        assert_eq!(serde_json::Value::Object(what.fields), wanted);
        close(&recording).unwrap();
        assert!(done(at).unwrap().is_empty(), "the log has it");
    }

    #[test]
    fn nothing_else_is_a_recording() {
        assert_eq!(whose("20261128-180102-ida-x9ZkQ0"), Some("ida"));
        for name in
            ["", "lost+found", "20261128-180102", "20261128-180102--x9ZkQ0", "20261128-180102-é-x9ZkQ"]
        {
            assert_eq!(whose(name).filter(|_| name.is_ascii()), None, "{name}");
        }
    }
}
