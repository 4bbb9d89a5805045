//! A shell in a slice. No network leads there: the system's ssh speaks through `holm slice tunnel`, with a key
//! that is made for this one connection, a certificate that holmd gives for it, and the host key that the slice
//! told holmd over a channel of its own. Nobody is asked whether to trust a key.

use super::Session;
use crate::Failure;
use crate::args::Ssh;
use crate::text::plain;
use holm_control::identity::{DOOR, RECORDINGS_ACCOUNT};
use holm_proto::ids::Name;
use holm_proto::v1::{SignSshKeyRequest, SliceRef, SshCertificate};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, Certificate, LineEnding, PrivateKey, PublicKey};
use std::ffi::{OsStr, OsString};
use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// What ssh calls the slice.
pub(super) const ALIAS: &str = "slice";

pub(super) async fn run(session: &Session, args: Ssh) -> Result<u8, Failure> {
    let slice = session.slice(&args.target.slice, &args.target.project)?;
    let prepared = Prepared::new(session, &slice).await?;
    if prepared.terminal_only && !args.forward.is_empty() {
        let label = format!("{}/{}", slice.project, slice.name);
        return Err(Failure::new(format!(
            "the level of `{label}` allows a terminal alone: no port is forwarded"
        ))
        .hint(format!("holm ssh {label}")));
    }
    let mut command = Command::new("ssh");
    command.args(prepared.options());
    if args.forward.is_empty() {
        command.args(["-o", "ClearAllForwardings=yes"]);
    } else {
        command.args(["-o", "ExitOnForwardFailure=yes"]);
    }
    for forward in &args.forward {
        command.arg("-L").arg(forward);
    }
    if args.tty {
        // Twice: also where there is none here.
        command.arg("-tt");
    }
    command.arg("--").arg(ALIAS).args(&args.command);
    finish(command, "ssh").await
}

/// Key, certificate and known host, in a directory that goes with this.
pub(super) struct Prepared {
    dir: TempDir,
    user: String,
    proxy: OsString,
    /// holmd says so in the certificate, and the slice sees to it.
    pub(super) terminal_only: bool,
}

impl Prepared {
    pub(super) async fn new(session: &Session, slice: &SliceRef) -> Result<Self, Failure> {
        Self::with(session, slice, "").await
    }

    /// To what terminals showed there.
    pub(super) async fn to_recordings(
        session: &Session,
        slice: &SliceRef,
        reason: &str,
    ) -> Result<Self, Failure> {
        Self::with(session, slice, reason).await
    }

    async fn with(session: &Session, slice: &SliceRef, recordings_reason: &str) -> Result<Self, Failure> {
        let key = new_key()?;
        let recordings = !recordings_reason.is_empty();
        let signed = sign(session, slice, &key, recordings_reason).await?;
        let (user, certificate, known) = checked(&signed, recordings)?;
        let terminal_only = is_terminal_only(&certificate);

        let dir = directory()?;
        let secret = key.to_openssh(LineEnding::LF).map_err(unusable)?;
        for (file, text) in
            [("key", secret.as_str()), ("key-cert.pub", &certificate), ("known_hosts", &known)]
        {
            let path = dir.path().join(file);
            let written = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .and_then(|mut out| out.write_all(text.as_bytes()));
            written.map_err(|e| Failure::file("write", &path, &e))?;
        }
        let verb: &[&str] = if recordings { &["tunnel", "--recordings"] } else { &["tunnel"] };
        let proxy = this(&this_program()?, session.place.name.as_deref(), verb, slice)?;
        Ok(Self { dir, user, proxy, terminal_only })
    }

    /// Who she is there, by whatever door she comes.
    pub(super) fn user(&self) -> &str {
        self.user.trim_start_matches(DOOR)
    }

    /// Beside the key.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An option that names what lies beside the key.
    pub(super) fn file(&self, option: &str, name: &str) -> OsString {
        let mut text = OsString::from(format!("{option}=\""));
        // ssh splits at spaces outside of quotes, and replaces what follows a percent sign.
        text.push(percent(self.path(name).as_os_str()));
        text.push("\"");
        text
    }

    /// For ssh and scp alike. Nothing of the user's own configuration counts.
    pub(super) fn options(&self) -> Vec<OsString> {
        let file = |option: &str, name: &str| self.file(option, name);
        let mut proxy = OsString::from("ProxyCommand=");
        proxy.push(&self.proxy);
        let options = [
            proxy,
            file("UserKnownHostsFile", "known_hosts"),
            file("CertificateFile", "key-cert.pub"),
            file("IdentityFile", "key"),
            "GlobalKnownHostsFile=none".into(),
            format!("HostKeyAlias={ALIAS}").into(),
            "StrictHostKeyChecking=yes".into(),
            "UpdateHostKeys=no".into(),
            "IdentitiesOnly=yes".into(),
            "IdentityAgent=none".into(),
            "PreferredAuthentications=publickey".into(),
            format!("User={}", self.user).into(),
        ];
        let mut all: Vec<OsString> = vec!["-F".into(), "none".into()];
        for option in options {
            all.push("-o".into());
            all.push(option);
        }
        all
    }
}

pub(super) fn new_key() -> Result<PrivateKey, Failure> {
    PrivateKey::random(&mut OsRng, Algorithm::Ed25519)
        .map_err(|e| Failure::new(format!("no key can be made: {e}")))
}

pub(super) fn unusable(error: ssh_key::Error) -> Failure {
    Failure::new(format!("holmd's SSH certificate cannot be used: {error}"))
}

/// holmd's certificate for this key.
pub(super) async fn sign(
    session: &Session,
    slice: &SliceRef,
    key: &PrivateKey,
    recordings_reason: &str,
) -> Result<SshCertificate, Failure> {
    let public_key = key.public_key().to_openssh().map_err(unusable)?;
    let mut client = session.slices().await?;
    let recordings_reason = recordings_reason.to_owned();
    let request = SignSshKeyRequest { slice: Some(slice.clone()), public_key, recordings_reason };
    session.ask(client.sign_ssh_key(request)).await
}

pub(super) fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| Failure::new(format!("cannot tell where this program lies: {e}")))
}

/// What is asked for runs in the place that the certificate says.
fn is_terminal_only(certificate: &str) -> bool {
    Certificate::from_openssh(certificate.trim())
        .is_ok_and(|read| read.critical_options().contains_key("force-command"))
}

/// What holmd sent, read and written anew: nothing of it is a line that ssh would read as another.
pub(super) fn checked(
    signed: &SshCertificate,
    recordings: bool,
) -> Result<(String, String, String), Failure> {
    let bad = |what: &str| Failure::new(format!("holmd sent {what} that cannot be used")).hint("holm doctor");
    let user = match recordings {
        true if signed.user == RECORDINGS_ACCOUNT => signed.user.clone(),
        true => return Err(bad("an account")),
        false => {
            let name = signed.user.strip_prefix(DOOR).unwrap_or(&signed.user);
            name.parse::<Name>().map_err(|_| bad("an account"))?;
            signed.user.clone()
        }
    };
    // What follows a key is a comment, and may be anything.
    let words = |text: String| text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let certificate = Certificate::from_openssh(signed.certificate.trim()).and_then(|c| c.to_openssh());
    let host_key = PublicKey::from_openssh(signed.host_key.trim()).and_then(|key| key.to_openssh());
    let certificate = certificate.map_err(|_| bad("an SSH certificate"))?;
    let host_key = host_key.map_err(|_| bad("a host key"))?;
    Ok((user, format!("{}\n", words(certificate)), format!("{ALIAS} {}\n", words(host_key))))
}

/// In memory where the system has a place for that.
fn directory() -> Result<TempDir, Failure> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("holm-").permissions(Permissions::from_mode(0o700));
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_dir());
    let made = runtime.and_then(|dir| builder.tempdir_in(dir).ok()).map_or_else(|| builder.tempdir(), Ok);
    made.map_err(|e| Failure::new(format!("no directory can be made for the key: {e}")))
}

/// `holm --profile … slice tunnel …`, for the shell that ssh gives it to; or another verb.
pub(super) fn this(
    exe: &Path,
    profile: Option<&str>,
    verb: &[&str],
    slice: &SliceRef,
) -> Result<OsString, Failure> {
    let target = format!("{}/{}", slice.project, slice.name);
    // ssh puts an `exec` before it.
    let mut line = quoted(exe.as_os_str());
    let before = ["--quiet", "--profile", profile.unwrap_or("default"), "slice"];
    for word in before.iter().chain(verb).chain(&["--", target.as_str()]) {
        line.push(" ");
        line.push(quoted(OsStr::new(word)));
    }
    let line = percent(&line);
    if line.as_encoded_bytes().contains(&b'\n') {
        return Err(Failure::usage(format!("`{}` is no name of a slice", plain(&target))));
    }
    Ok(line)
}

/// One word for a shell.
pub(super) fn quoted(word: &OsStr) -> OsString {
    let mut out = OsString::from("'");
    replaced(&mut out, word, b'\'', "'\\''");
    out.push("'");
    out
}

/// ssh replaces `%x`; `%%` stands for itself.
pub(super) fn percent(text: &OsStr) -> OsString {
    let mut out = OsString::new();
    replaced(&mut out, text, b'%', "%%");
    out
}

fn replaced(out: &mut OsString, text: &OsStr, what: u8, with: &str) {
    use std::os::unix::ffi::OsStrExt;
    for (at, part) in text.as_bytes().split(|b| *b == what).enumerate() {
        if at > 0 {
            out.push(with);
        }
        out.push(OsStr::from_bytes(part));
    }
}

/// Runs it where it has the terminal. Signals of the keyboard are its business; those that end this process end
/// it, so that the key goes with both.
pub(super) async fn finish(mut command: Command, program: &str) -> Result<u8, Failure> {
    let failed = |e: std::io::Error| cannot_run(program, &e);
    let mut keyboard =
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::quit()).map_err(failed)?);
    let mut ends =
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::hangup()).map_err(failed)?);
    let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status.map_err(failed)?)),
            _ = keyboard.0.recv() => {}
            _ = keyboard.1.recv() => {}
            _ = ends.0.recv() => child.start_kill().map_err(failed)?,
            _ = ends.1.recv() => child.start_kill().map_err(failed)?,
        }
    }
}

/// Most often it is not there.
pub(super) fn cannot_run(program: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot run {program}: {error}"))
        .hint("install OpenSSH's client: apt install openssh-client")
}

/// As a shell has it.
pub(super) fn code(status: ExitStatus) -> u8 {
    let signalled = status.signal().map(|signal| 128 + signal);
    status.code().or(signalled).and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssh_key::certificate::{Builder, CertType};

    fn signed() -> SshCertificate {
        let (ca, user) = (
            PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap(),
            PrivateKey::random(&mut OsRng, Algorithm::Ed25519).unwrap(),
        );
        let mut builder =
            Builder::new_with_random_nonce(&mut OsRng, user.public_key(), 1, 2_000_000_000).unwrap();
        builder.cert_type(CertType::User).unwrap().valid_principal("ada").unwrap();
        SshCertificate {
            certificate: builder.sign(&ca).unwrap().to_openssh().unwrap(),
            user: "ada".to_owned(),
            host_key: format!("{} root@slice", ca.public_key().to_openssh().unwrap()),
            expires: None,
        }
    }

    #[test]
    fn nothing_of_the_server_becomes_a_line_of_its_own() {
        let good = signed();
        let (user, certificate, known) = checked(&good, false).unwrap();
        assert_eq!(user, "ada");
        assert_eq!((certificate.lines().count(), known.lines().count()), (1, 1));
        assert!(known.starts_with("slice ssh-ed25519 ") && known.split(' ').count() == 3, "{known}");
        let spoil = |act: fn(&mut SshCertificate)| {
            let mut bad = good.clone();
            act(&mut bad);
            checked(&bad, false)
        };
        assert!(spoil(|c| c.user = "-oProxyCommand=x".to_owned()).is_err());
        assert!(spoil(|c| c.user = "root ".to_owned()).is_err());
        assert!(
            spoil(|c| c.user = "__ada".to_owned()).is_err() && spoil(|c| c.user = "_".to_owned()).is_err()
        );
        let recorded = SshCertificate { user: "_ada".to_owned(), ..good.clone() };
        assert_eq!(checked(&recorded, false).unwrap().0, "_ada");
        assert!(spoil(|c| c.user = RECORDINGS_ACCOUNT.to_owned()).is_err(), "who asked for herself");
        let plays = SshCertificate { user: RECORDINGS_ACCOUNT.to_owned(), ..good.clone() };
        assert!(checked(&plays, true).is_ok() && checked(&good, true).is_err());
        for comment in ["\n* ssh-ed25519 AAAA", "\n@cert-authority * ssh-ed25519 AAAA"] {
            let mut spoilt = good.clone();
            spoilt.host_key.push_str(comment);
            spoilt.certificate.push_str(comment);
            if let Ok((_, certificate, known)) = checked(&spoilt, false) {
                assert_eq!((certificate.lines().count(), known.lines().count()), (1, 1));
            }
        }
        assert!(spoil(|c| c.certificate.clear()).is_err());
    }

    #[test]
    fn the_shell_gets_the_words_that_were_meant() {
        let slice = SliceRef { project: "a'b".to_owned(), name: "$(id)%h".to_owned() };
        let line = this(Path::new("/opt/my holm/holm"), Some("ada"), &["tunnel"], &slice).unwrap();
        assert_eq!(
            line.to_str().unwrap(),
            r"'/opt/my holm/holm' '--quiet' '--profile' 'ada' 'slice' 'tunnel' '--' 'a'\''b/$(id)%%h'"
        );
        let slice = SliceRef { project: "a\nb".to_owned(), ..slice };
        assert!(this(Path::new("holm"), None, &["tunnel"], &slice).is_err());
    }
}
