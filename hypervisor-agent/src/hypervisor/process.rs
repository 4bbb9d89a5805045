//! The processes of machines, as the kernel knows them: what libvirt says of a machine's end is believed
//! only when its process is gone as well.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    fs, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// A running process, which stays the same one whatever becomes of its number.
#[derive(Debug)]
pub struct Process {
    /// Its number, to be named to a person.
    pub id: i32,
    handle: OwnedFd,
}

/// Every process that runs the machine of this name.
pub fn of_machine(name: &str) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Some(pid) = Pid::from_raw(id) else { continue };
        // The handle first: what is then read of this number is read of the handle's process, or of nothing.
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            // Gone meanwhile, or a thread.
            Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        // Kernel threads and what has ended have no arguments.
        let arguments = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if runs(&arguments, name) {
            found.push(Process { id, handle });
        }
    }
    Ok(found)
}

impl Process {
    /// Waits until the process has ended; false where it has not within `limit`.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether these arguments are QEMU's for this machine: libvirt writes `-name guest=NAME,…`.
fn runs(arguments: &[u8], name: &str) -> bool {
    let mut arguments = arguments.split(|byte| *byte == 0);
    while let Some(argument) = arguments.next() {
        if argument == b"-name"
            && let Some(value) = arguments.next()
            && value.split(|byte| *byte == b',').next() == Some(format!("guest={name}").as_bytes())
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read as _, process::Command};

    #[test]
    fn arguments_of_a_machine() {
        assert!(runs(b"qemu\0-name\0guest=holm-a,debug-threads=on\0-S\0", "holm-a"));
        assert!(runs(b"qemu\0-name\0guest=holm-a\0", "holm-a"));
        for other in [
            &b""[..],
            b"-name",
            b"grep\0guest=holm-a\0",
            b"qemu\0-name\0guest=holm-ab\0",
            b"qemu\0-name\0holm-a\0",
        ] {
            assert!(!runs(other, "holm-a"), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_process_is_found_and_its_end_seen() {
        let name = format!("test-{}", std::process::id());
        assert!(of_machine(&name).unwrap().is_empty());
        let mut child = Command::new("/bin/sh")
            .args(["-c", "echo; read line", "-name", &format!("guest={name},x")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // `spawn` returns before the kernel has put the new program's arguments in their place.
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let found = of_machine(&name).unwrap();
        assert_eq!(
            found.iter().map(|process| process.id).collect::<Vec<_>>(),
            [i32::try_from(child.id()).unwrap()]
        );
        assert!(!found[0].wait(Duration::from_millis(20)).unwrap());
        drop(child.stdin.take());
        assert!(found[0].wait(Duration::from_secs(20)).unwrap());
        child.wait().unwrap();
        assert!(of_machine(&name).unwrap().is_empty());
    }
}
