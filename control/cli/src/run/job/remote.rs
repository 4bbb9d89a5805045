//! Commands in a slice without a terminal: one line for the shell there, what goes in, and what comes out, of which only so
//! much is kept. Whoever asks more than once asks over one connection, which is one entry in the log.

use super::super::{Session, ssh};
use crate::Failure;
use crate::progress::patiently;
use crate::text::plain;
use holm_proto::v1::SliceRef;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long one command may take. Slurm's own limit for an answer is a minute.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a connection may take that others go over.
const CONNECTED: Duration = Duration::from_secs(60);
/// Of what a command says beside its answer.
const ERRORS: usize = 64 * 1024;
/// A socket's name has 108 bytes, and ssh adds some of its own while it makes it.
const SOCKET: usize = 85;
/// ssh's own, for what it did not get to.
const NO_CONNECTION: u8 = 255;

/// What a command said.
#[derive(Debug)]
pub(in crate::run) struct Said {
    pub code: u8,
    pub out: Vec<u8>,
    pub err: String,
}

/// Words as one line that the shell over there takes apart into these and no others: ssh joins what it is given with spaces,
/// and knows no words.
pub(in crate::run) fn line<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> String {
    let words =
        words.into_iter().map(|word| ssh::quoted(OsStr::new(word.as_ref())).to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}

/// The way into a slice.
pub(in crate::run) struct Remote<'a> {
    session: &'a Session,
    prepared: ssh::Prepared,
    /// `PROJECT/NAME`.
    pub label: String,
    /// A connection that others go over. It ends with this.
    master: Option<Child>,
}

impl<'a> Remote<'a> {
    pub(in crate::run) async fn new(session: &'a Session, slice: &SliceRef) -> Result<Self, Failure> {
        let prepared = ssh::Prepared::new(session, slice).await?;
        Ok(Self::by(session, prepared, &format!("{}/{}", slice.project, slice.name)))
    }

    /// With what was prepared for it.
    pub(in crate::run) fn by(session: &'a Session, prepared: ssh::Prepared, label: &str) -> Self {
        Self { session, prepared, label: label.to_owned(), master: None }
    }

    /// Its level allows no more than a terminal.
    pub(in crate::run) fn is_terminal_only(&self) -> bool {
        self.prepared.terminal_only
    }

    /// Whose account it is there.
    pub(in crate::run) fn user(&self) -> &str {
        self.prepared.user()
    }

    /// One connection for all that is asked from now on.
    pub(in crate::run) async fn kept(mut self) -> Result<Self, Failure> {
        let Some(socket) = self.socket() else { return Ok(self) };
        let mut command = self.ssh();
        command.args(["-o", "ControlMaster=yes", "-o", "ServerAliveInterval=30", "-N", "--", ssh::ALIAS]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut master = command.kill_on_drop(true).spawn().map_err(|e| ssh::cannot_run("ssh", &e))?;
        let up = async {
            let begun = Instant::now();
            while !socket.exists() && begun.elapsed() < CONNECTED {
                tokio::select! {
                    ended = master.wait() => return ended.map(Some),
                    () = sleep(Duration::from_millis(20)) => {}
                }
            }
            Ok(None)
        };
        let ended = patiently(&self.session.output, "connecting to the slice", up).await;
        if ended.map_err(|e| Failure::of(&e))?.is_some() {
            let (err, _) = bounded(master.stderr.take(), ERRORS).await.map_err(|e| Failure::of(&e))?;
            return Err(no_connection(&text(err)));
        }
        self.master = Some(master);
        Ok(self)
    }

    /// Whether what is asked costs no connection.
    pub(in crate::run) fn is_kept(&self) -> bool {
        self.master.is_some()
    }

    /// Runs it there. More than `most` bytes of an answer are none.
    pub(in crate::run) async fn ask(
        &self,
        line: &str,
        input: Option<&[u8]>,
        most: usize,
    ) -> Result<Said, Failure> {
        let failed = |e: std::io::Error| Failure::of(&e);
        let mut command = self.ssh();
        if self.master.is_some() {
            command.args(["-o", "ControlMaster=no"]);
        }
        command.arg("-T").arg("--").arg(ssh::ALIAS).arg(line);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|e| ssh::cannot_run("ssh", &e))?;
        let (into, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let say = async {
            if let (Some(mut into), Some(input)) = (into, input) {
                // Who has heard enough says why in another way.
                let _ = into.write_all(input).await;
            }
        };
        let hear = async {
            let ((), out, err) = tokio::join!(say, bounded(out, most), bounded(err, ERRORS));
            Ok::<_, std::io::Error>((out?, err?, child.wait().await?))
        };
        let heard = timeout(LIMIT, patiently(&self.session.output, "waiting for the slice", hear)).await;
        let (out, err, status): (_, _, ExitStatus) = heard
            .map_err(|_| Failure::new(format!("{} did not answer in {} s", self.label, LIMIT.as_secs())))?
            .map_err(failed)?;
        if out.1 || err.1 {
            return Err(Failure::new(format!(
                "{} answers with more than can be: nothing of it is shown",
                self.label
            )));
        }
        let said = Said { code: ssh::code(status), out: out.0, err: text(err.0) };
        if said.code == NO_CONNECTION { Err(no_connection(&said.err)) } else { Ok(said) }
    }

    fn ssh(&self) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.prepared.options()).args([
            "-o",
            "BatchMode=yes",
            "-o",
            "LogLevel=ERROR",
            "-o",
            "ClearAllForwardings=yes",
        ]);
        if self.socket().is_some() {
            command.arg("-o").arg(self.prepared.file("ControlPath", "mux"));
        }
        command
    }

    fn socket(&self) -> Option<PathBuf> {
        let socket = self.prepared.path("mux");
        (socket.as_os_str().len() <= SOCKET).then_some(socket)
    }
}

/// Up to so many bytes, and whether there were more. Then the other side is not listened to, and ends.
async fn bounded(stream: Option<impl AsyncRead + Unpin>, most: usize) -> std::io::Result<(Vec<u8>, bool)> {
    let mut heard = Vec::new();
    if let Some(stream) = stream {
        stream.take(most as u64 + 1).read_to_end(&mut heard).await?;
    }
    let more = heard.len() > most;
    Ok((heard, more))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The tunnel says why in its own words; where it says nothing, ssh does.
fn no_connection(err: &str) -> Failure {
    let said =
        |prefix: &str| err.lines().find_map(|line| line.trim().strip_prefix(prefix).map(str::to_owned));
    let last = || err.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
    let why = said("error: ").or_else(last).unwrap_or_else(|| "ssh ended without a word".to_owned());
    let failure = Failure::new(format!("no connection to the slice: {}", plain(&why)));
    // What runs in the slice can say this as well: nobody is to copy a command of its own.
    let ours = |hint: &String| {
        hint.starts_with("holm ") && hint.chars().all(|c| c.is_ascii_alphanumeric() || " /-_.:".contains(c))
    };
    match said("try: ").filter(ours) {
        Some(hint) => failure.hint(hint),
        None => failure.hint("holm doctor"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_shell_takes_it_apart_into_what_was_meant(
            words in proptest::collection::vec("[^\0]{0,12}|['\"\\\\$`;&|<>(){}*?~!# \n\t-]{0,8}", 0..5),
        ) {
            for shell in ["sh", "bash"] {
                let line = format!("printf '%s\\0' begin {}", line(&words));
                let said = Command::new(shell).args(["-c", &line]).output().unwrap();
                let mut meant = b"begin\0".to_vec();
                words.iter().for_each(|word| meant.extend([word.as_bytes(), b"\0"].concat()));
                prop_assert_eq!(&said.stdout, &meant, "{}", line);
            }
        }
    }

    #[test]
    fn why_there_is_no_connection() {
        let said = "error: `heart/main` is stopped\n  try: holm slice start heart/main\nConnection closed by UNKNOWN port 65535\n";
        let failure = no_connection(said);
        assert_eq!(failure.what, "no connection to the slice: `heart/main` is stopped");
        assert_eq!(failure.hint.unwrap(), "holm slice start heart/main");
        assert!(no_connection("a\n\u{1b}[2Jb\n").what.ends_with(": \\u{1b}[2Jb"));
        assert!(no_connection("").what.contains("without a word"));
    }

    #[tokio::test]
    async fn who_never_ends_is_not_listened_to_for_ever() {
        let (heard, more) = bounded(Some(tokio::io::repeat(b'x')), 1000).await.unwrap();
        assert!(more && heard.len() == 1001);
        assert_eq!(bounded(Some(&b"abc"[..]), 3).await.unwrap(), (b"abc".to_vec(), false));
    }
}
