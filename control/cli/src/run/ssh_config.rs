//! What ~/.ssh/config needs, so that ssh, scp, rsync and VS Code reach a slice by themselves.
//!
//! ```text
//!   ssh heart-study.main.holm ─▶ Match exec: holm slice ssh-cert ─▶ a certificate, where the last is about to end
//!                             └▶ ProxyCommand: holm slice tunnel
//! ```
//!
//! Key and certificate lie in the profile, beside the key that gets them. The key stays, so that whoever connects while
//! another certificate comes has one that fits.

use super::Session;
use super::ssh::{self, ALIAS};
use crate::Failure;
use crate::args::Target;
use crate::output::put;
use crate::text::plain;
use holm_proto::ids::Name;
use holm_proto::v1::SliceRef;
use ssh_key::{Certificate, LineEnding, PrivateKey};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Seconds that a certificate must be good for still: a connection that is begun then gets in.
const LEFT: u64 = 600;

pub(super) fn print(session: &Session, target: &Target) -> Result<(), Failure> {
    let slice = session.slice(&target.slice, &target.project)?;
    // person/ada
    let identity = session.place.profile()?.identity;
    let user = identity.rsplit('/').next().unwrap_or_default();
    let user: Name = user.parse().map_err(|_| Failure::new(format!("`{identity}` is no person")))?;
    put(&stanza(session, &slice, &user)?)
}

fn stanza(session: &Session, slice: &SliceRef, user: &Name) -> Result<String, Failure> {
    let (exe, profile) = (ssh::this_program()?, session.place.name.as_deref());
    let dir = directory(session, slice)?;
    let config = std::env::var_os("HOLM_CONFIG").filter(|dir| !dir.is_empty());
    let line = |verb| -> Result<String, Failure> {
        let mut line = OsString::new();
        // Whoever has ssh run it may not have been told.
        if let Some(config) = &config {
            let config =
                std::path::absolute(config).map_err(|e| Failure::file("find", Path::new(config), &e))?;
            let mut word = OsString::from("HOLM_CONFIG=");
            word.push(config);
            line.push("env ");
            line.push(ssh::percent(&ssh::quoted(&word)));
            line.push(" ");
        }
        line.push(ssh::this(&exe, profile, &[verb], slice)?);
        one_line(line)
    };
    let file = |name: &str| one_line(ssh::percent(dir.join(name).as_os_str()));
    let (SliceRef { project, name }, host) = (slice, format!("{}.{}.holm", slice.project, slice.name));
    Ok(format!(
        "# The slice {project}/{name}: included first of all in ~/.ssh/config
Host {host}
Match originalhost {host} exec \"{renew}\"
    ProxyCommand {tunnel}
    Include \"{account}\"
    User {user}
    IdentityFile \"{key}\"
    CertificateFile \"{certificate}\"
    UserKnownHostsFile \"{known}\"
    GlobalKnownHostsFile none
    HostKeyAlias {ALIAS}
    StrictHostKeyChecking yes
    UpdateHostKeys no
    IdentitiesOnly yes
    IdentityAgent none
    PreferredAuthentications publickey
    ForwardAgent no
    ForwardX11 no
# Where that did not succeed there is nowhere to go: its name is nobody's to look up.
Host {host}
    ProxyCommand false
",
        renew = line("ssh-cert")?,
        tunnel = line("tunnel")?,
        // Where terminals are recorded she comes by another name.
        account = file("account")?,
        key = file("key")?,
        certificate = file("key-cert.pub")?,
        known = file("known_hosts")?,
    ))
}

/// What ssh's versions read alike between quotation marks.
fn one_line(text: OsString) -> Result<String, Failure> {
    let good = |text: &String| !text.contains(['"', '\\', '$']) && plain(text) == *text;
    let bad = || Failure::new("ssh cannot be told where this lies: there are quotation marks in the name");
    text.into_string().ok().filter(good).ok_or_else(bad)
}

/// Of this slice, in the profile.
fn directory(session: &Session, slice: &SliceRef) -> Result<PathBuf, Failure> {
    let name = |text: &str| text.parse::<Name>().map_err(|e| Failure::usage(e.to_string()));
    let (project, name) = (name(&slice.project)?, name(&slice.name)?);
    let dir = session.place.dir.join("ssh").join(format!("{project}.{name}"));
    std::path::absolute(&dir).map_err(|e| Failure::file("find", &dir, &e))
}

/// A certificate that is good for a while, where there is none.
pub(super) async fn renew(session: &Session, target: &Target) -> Result<(), Failure> {
    let slice = session.slice(&target.slice, &target.project)?;
    let dir = directory(session, &slice)?;
    session.place.profile()?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|e| Failure::file("make", &dir, &e))?;
    // One at a time; it is open, and so held, until this ends.
    let path = dir.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let lock =
        lock.and_then(|lock| lock.lock().map(|()| lock)).map_err(|e| Failure::file("lock", &path, &e))?;
    let key = match std::fs::read_to_string(dir.join("key")) {
        Ok(text) => PrivateKey::from_openssh(text).ok(),
        Err(_) => None,
    };
    let now = u64::try_from(session.clock.now.as_second()).unwrap_or_default();
    if key.as_ref().is_some_and(|key| is_good(&dir, key, now)) {
        return Ok(());
    }
    let key = match key {
        Some(key) => key,
        None => {
            let key = ssh::new_key()?;
            write(&dir, "key", &key.to_openssh(LineEnding::LF).map_err(ssh::unusable)?)?;
            key
        }
    };
    let signed = ssh::sign(session, &slice, &key, "").await?;
    let (account, certificate, known) = ssh::checked(&signed, false)?;
    write(&dir, "account", &format!("User {account}\n"))?;
    write(&dir, "known_hosts", &known)?;
    write(&dir, "key-cert.pub", &certificate)?;
    drop(lock);
    Ok(())
}

/// The certificate is this key's, and good for a while.
fn is_good(dir: &Path, key: &PrivateKey, now: u64) -> bool {
    let text = std::fs::read_to_string(dir.join("key-cert.pub")).unwrap_or_default();
    Certificate::from_openssh(text.trim()).is_ok_and(|read| {
        read.public_key() == key.public_key().key_data()
            && read.valid_after() <= now
            && now.saturating_add(LEFT) < read.valid_before()
            && ["known_hosts", "account"].iter().all(|file| dir.join(file).exists())
    })
}

/// As a whole or not at all.
fn write(dir: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let (beside, path) = (dir.join(format!("{name}.new")), dir.join(name));
    let written = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&beside);
        let mut out: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        out.write_all(text.as_bytes())?;
        std::fs::rename(&beside, &path)
    };
    written().map_err(|e| Failure::file("write", &path, &e))
}
