//! `qemu-img`, run so that it learns the key and nobody else does.

use crate::{
    config::StorageConfig,
    edge::{EdgeError, Key, Result},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use secrecy::ExposeSecret as _;
use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// Making a volume takes 2 s on a plain machine and 12 s in an emulated one.
const LIMIT: Duration = Duration::from_secs(120);
/// The most that is kept of what it says went wrong.
const MAX_COMPLAINT_BYTES: u64 = 2048;

/// Makes an encrypted qcow2 file of `bytes` on top of the base image.
pub fn create(config: &StorageConfig, path: &Path, bytes: u64, key: &Key) -> Result<()> {
    let failed = |cause| EdgeError::because(format!("cannot make the volume `{}`", path.display()), cause);
    let mut command = Command::new(&config.qemu_img);
    command
        .args(["create", "-q", "-f", "qcow2"])
        // The key comes over standard input: an argument or a variable would show it to every process, a
        // file would put it on a disk.
        .args(["--object", "secret,id=key,file=/proc/self/fd/0"])
        // Stretching makes a guess of a weak passphrase dear. This one is 256 random bits, which nobody
        // guesses, so the least of it will do.
        .args(["-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"])
        .arg("-b")
        .arg(&config.base_image)
        .args(["-F", config.base_format.as_str()])
        .arg(path)
        .arg(bytes.to_string())
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut running = Running(command.spawn().map_err(failed)?);
    if let Some(mut stdin) = running.0.stdin.take() {
        // One that fails before it reads has more to say than "broken pipe".
        match stdin.write_all(passphrase(key).as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let status = running.wait(LIMIT).map_err(failed)?;
    if status.success() { Ok(()) } else { Err(failed(io::Error::other(running.complaint(status)))) }
}

/// The key as QEMU takes it: lower-case hexadecimal, because a passphrase must be UTF-8.
pub fn passphrase(key: &Key) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in key.expose_secret() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
    }
    text
}

/// A process that does not outlive its handle.
struct Running(Child);

impl Running {
    /// Waits for the end of the process, as long as `limit`.
    fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        let end = Instant::now() + limit;
        let process = pidfd_open(Pid::from_child(&self.0), PidfdFlags::empty())?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(io::Error::other(format!("it took more than {} s", limit.as_secs()))),
                Ok(_) => return self.0.wait(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What it said on the way out, in one printable line.
    fn complaint(&mut self, status: ExitStatus) -> String {
        let mut said = Vec::new();
        if let Some(stderr) = self.0.stderr.take() {
            // What cannot be read was not said.
            let _ = stderr.take(MAX_COMPLAINT_BYTES).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() { status.to_string() } else { line.escape_debug().to_string() }
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
        let error = running.wait(Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("more than"));
        drop(running);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}
