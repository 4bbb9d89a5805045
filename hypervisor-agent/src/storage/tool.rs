//! Programs that the agent runs: each learns its key and nobody else does, and none outlives its limit.

use crate::edge::Key;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
};
use secrecy::ExposeSecret as _;
use std::{
    fs::File,
    io::{self, ErrorKind, PipeReader, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// Making a volume takes 2 s on a plain machine and 12 s in an emulated one.
const LIMIT: Duration = Duration::from_secs(120);
/// The most that is kept of what it says went wrong.
const MAX_COMPLAINT_BYTES: u64 = 2048;
/// The most that is read of what it answers.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// A key as QEMU and cryptsetup take it: lower-case hexadecimal, because QEMU's passphrases must be UTF-8.
pub fn passphrase(key: &Key) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in key.expose_secret() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
    }
    text
}

/// What a program that ended by itself left.
#[derive(Debug)]
pub struct Ended {
    status: ExitStatus,
    answer: File,
    complaint: String,
}

impl Ended {
    /// Its exit status; `None` where a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it said went wrong, in one printable line.
    pub fn complaint(&self) -> &str {
        &self.complaint
    }

    /// What it answered, or an error with what it complained of.
    pub fn answer(mut self) -> io::Result<Vec<u8>> {
        if !self.status.success() {
            return Err(io::Error::other(self.complaint));
        }
        let mut bytes = Vec::new();
        self.answer.rewind()?;
        self.answer.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Nothing, or an error with what it complained of.
    pub fn done(self) -> io::Result<()> {
        self.answer().map(drop)
    }
}

/// Runs a program with nothing of the agent's environment and waits for its end. `key` is what it reads on its
/// standard input: an argument or a variable would show it to every process, a file would put it on a disk.
pub fn run(command: &mut Command, key: Option<&Key>) -> io::Result<Ended> {
    let late = || Err(io::Error::other(format!("it took more than {} s", LIMIT.as_secs())));
    run_watched(command, key, LIMIT, late)
}

/// As [`run`], for what takes as long as it takes: every `tick` it is asked whether it may go on, and ended where that is
/// an error.
pub fn run_watched(
    command: &mut Command,
    key: Option<&Key>,
    tick: Duration,
    may_go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<Ended> {
    // In memory, so that a program with much to say never waits for somebody to read it.
    let kept = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
    let (answer, mut complaints) = (kept("answer")?, kept("complaints")?);
    command
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(if key.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(answer.try_clone()?)
        .stderr(complaints.try_clone()?);
    let spawned = command.spawn().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot run `{}`: {error}", command.get_program().display()))
    })?;
    let mut running = Running(spawned);
    if let (Some(mut stdin), Some(key)) = (running.0.stdin.take(), key) {
        // One that fails before it reads has more to say than "broken pipe".
        match stdin.write_all(passphrase(key).as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let status = running.wait(tick, may_go_on)?;
    let mut said = Vec::new();
    complaints.rewind()?;
    complaints.take(MAX_COMPLAINT_BYTES).read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    // What it tried again and again it says once.
    let mut lines: Vec<&str> = said.lines().collect();
    lines.dedup();
    let line = lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    let complaint = if line.is_empty() { status.to_string() } else { line.escape_debug().to_string() };
    Ok(Ended { status, answer, complaint })
}

/// A second key for a program that takes two: a pipe of this process that it reads by name, once.
#[derive(Debug)]
pub struct Lent(PipeReader);

impl Lent {
    /// Waits to be read.
    pub fn new(key: &Key) -> io::Result<Self> {
        let (read, mut write) = io::pipe()?;
        write.write_all(passphrase(key).as_bytes())?;
        Ok(Self(read))
    }

    /// Where the program finds it.
    pub fn path(&self) -> PathBuf {
        own(&self.0)
    }
}

/// Bytes that a program reads by name as if they were a file; on no disk.
#[derive(Debug)]
pub struct Copy(File);

impl Copy {
    /// Holds these bytes.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        let mut file = File::from(memfd_create("copy", MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        Ok(Self(file))
    }

    /// Where the program finds it.
    pub fn path(&self) -> PathBuf {
        own(&self.0)
    }
}

fn own(file: &impl std::os::fd::AsRawFd) -> PathBuf {
    Path::new("/proc").join(std::process::id().to_string()).join("fd").join(file.as_raw_fd().to_string())
}

/// A process that does not outlive its handle.
struct Running(Child);

impl Running {
    /// Waits for the end of the process, asking every `tick` whether to wait longer.
    fn wait(
        &mut self,
        tick: Duration,
        mut may_go_on: impl FnMut() -> io::Result<()>,
    ) -> io::Result<ExitStatus> {
        let mut end = Instant::now() + tick;
        let process = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    may_go_on()?;
                    end = Instant::now() + tick;
                }
                Ok(_) => return self.0.wait(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where the process has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(Box::new([byte; 32]))
    }

    #[test]
    fn a_passphrase_is_lower_case_hexadecimal() {
        let mut bytes = [0; 32];
        bytes[0] = 0x0f;
        bytes[31] = 0xa0;
        assert_eq!(*passphrase(&Key::new(Box::new(bytes))), format!("0f{}a0", "00".repeat(30)));
    }

    #[test]
    fn what_hangs_is_ended() {
        let mut running = Running(Command::new("/bin/sleep").arg("1000").spawn().unwrap());
        let id = running.0.id();
        let mut asked = 0;
        let twice = || {
            asked += 1;
            if asked < 3 { Ok(()) } else { Err(io::Error::other("enough")) }
        };
        let error = running.wait(Duration::from_millis(20), twice).unwrap_err();
        assert!(error.to_string().contains("enough"));
        drop(running);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn two_keys_reach_a_program_and_its_arguments_and_environment_show_neither() {
        let lent = Lent::new(&key(0xb8)).unwrap();
        let script = "cat; cat \"$1\"; tr '\\0' '\\n' </proc/$$/cmdline; tr '\\0' '\\n' </proc/$$/environ";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(lent.path());
        let said = String::from_utf8(run(&mut command, Some(&key(0xa7))).unwrap().answer().unwrap()).unwrap();
        let keys = format!("{}{}", "a7".repeat(32), "b8".repeat(32));
        let rest = said.strip_prefix(&keys).unwrap();
        assert!(!rest.contains("a7a7") && !rest.contains("b8b8"), "{rest}");
        assert!(!rest.contains("CARGO"), "the agent's environment is not handed on: {rest}");
        // It is read once.
        assert_eq!(run(&mut command, None).unwrap().answer().unwrap().get(..1), Some(&b"/"[..]));
    }

    #[test]
    fn much_is_said_and_complaints_are_one_line() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "head -c 1000000 /dev/zero; printf 'a\\n b\\033' >&2"]);
        assert_eq!(run(&mut command, None).unwrap().answer().unwrap().len(), 1_000_000);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "printf 'no\\nno\\n  room\\033' >&2; exit 5"]);
        let ended = run(&mut command, None).unwrap();
        assert_eq!((ended.code(), ended.complaint()), (Some(5), "no room\\u{1b}"));
        assert!(ended.done().is_err());
        assert!(run(&mut Command::new("/no/such"), None).unwrap_err().to_string().contains("`/no/such`"));
    }
}
