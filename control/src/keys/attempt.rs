//! Does a disk open with any of these keys? For the drill after a slice was destroyed: a copy of its
//! disk, and every key that is left.

use super::{Key, KeyError};
use data_encoding::HEXLOWER;
use secrecy::ExposeSecret;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use zeroize::Zeroizing;

/// What came of one key on one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It reads.
    Opened,
    /// It was refused, in the words of who tried it.
    Refused(String),
}

/// QEMU's qcow2.rst: magic, and at byte 32 how it is encrypted, big-endian; 0 is not at all.
const QCOW2: &[u8] = b"QFI\xfb";
const PLAIN: [u8; 4] = [0; 4];
/// QEMU's words for a key that opens no slot.
const WRONG_KEY: &str = "Invalid password";
/// Of LUKS, both copies of its header in version 2.
const LUKS: [&[u8]; 2] = [b"LUKS\xba\xbe", b"SKUL\xba\xbe"];
/// `cryptsetup`'s exit status for a key that opens no slot.
const NO_SLOT: i32 = 2;

/// Try to open a volume with a key: a qcow2 file as QEMU would, a copy of a logical volume as `cryptsetup` would. The
/// key goes through a pipe: it is in no command line, environment or file.
pub fn opens_with(disk: &Path, key: &Key) -> Result<Attempt, KeyError> {
    let head = head(disk)?;
    if LUKS.iter().any(|magic| head.starts_with(magic)) {
        return luks_opens_with(disk, key);
    }
    // QEMU opens it with any key, and asks none.
    if is_plain(&head) {
        let what = format!("`{}` is not encrypted: anybody reads it without a key", disk.display());
        return Err(KeyError::new(what));
    }
    let failed = |e| KeyError::because(format!("`qemu-io` cannot be run on `{}`", disk.display()), e);
    let mut image =
        std::ffi::OsString::from("driver=qcow2,encrypt.key-secret=k,read-only=on,backing=,file.filename=");
    image.push(disk);
    let mut child = Command::new("qemu-io")
        .args(["-r", "--object", "secret,id=k,file=/dev/stdin", "--image-opts"])
        .arg(image)
        .args(["-c", "read 0 512"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = hand_over(&mut child, key).and_then(|()| child.wait_with_output()).map_err(failed)?;
    if output.status.success() {
        return Ok(Attempt::Opened);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.lines().last().unwrap_or("no word why").to_owned();
    // Only what LUKS says of a wrong key counts: a disk that cannot be read at all proves nothing.
    if words.contains(WRONG_KEY) {
        return Ok(Attempt::Refused(words));
    }
    Err(KeyError::new(format!("no key can be tried on `{}`: {words}", disk.display())))
}

fn luks_opens_with(disk: &Path, key: &Key) -> Result<Attempt, KeyError> {
    let failed = |e| {
        let what = format!("`cryptsetup` cannot be run on `{}`: install cryptsetup-bin", disk.display());
        KeyError::because(what, e)
    };
    let mut child = Command::new("cryptsetup")
        .args(["open", "--test-passphrase", "--batch-mode", "--disable-locks", "--key-file", "-"])
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = hand_over(&mut child, key).and_then(|()| child.wait_with_output()).map_err(failed)?;
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.lines().last().unwrap_or("no word why").to_owned();
    match output.status.code() {
        Some(0) => Ok(Attempt::Opened),
        Some(NO_SLOT) => Ok(Attempt::Refused(words)),
        _ => Err(KeyError::new(format!("no key can be tried on `{}`: {words}", disk.display()))),
    }
}

/// The passphrase of a volume is its key in hexadecimal.
fn hand_over(child: &mut Child, key: &Key) -> io::Result<()> {
    let Some(mut stdin) = child.stdin.take() else { return Ok(()) };
    let passphrase = Zeroizing::new(HEXLOWER.encode(key.expose_secret()));
    match stdin.write_all(passphrase.as_bytes()) {
        // It says by itself why it wanted none.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// How a disk begins.
fn head(disk: &Path) -> Result<Vec<u8>, KeyError> {
    let failed = |e| KeyError::because(format!("`{}` cannot be read", disk.display()), e);
    let mut head = Vec::new();
    std::fs::File::open(disk).map_err(failed)?.take(36).read_to_end(&mut head).map_err(failed)?;
    Ok(head)
}

/// Whether it is a qcow2 volume that is not encrypted.
fn is_plain(head: &[u8]) -> bool {
    head.starts_with(QCOW2) && head.ends_with(&PLAIN) && head.len() == 36
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_opens_with_its_key_and_no_other_and_what_is_no_disk_proves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, secret) = (dir.path().join("disk.qcow2"), dir.path().join("secret"));
        let key = Key::init_with_mut(|k: &mut [u8; 32]| k.fill(7));
        let other = Key::init_with_mut(|k: &mut [u8; 32]| k.fill(8));
        std::fs::write(&secret, HEXLOWER.encode(key.expose_secret())).unwrap();
        let made = Command::new("qemu-img")
            .args(["create", "-q", "--object", &format!("secret,id=k,file={}", secret.display())])
            .args(["-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10"])
            .arg(&disk)
            .arg("1M")
            .status();
        // Machines without QEMU have no disks either.
        let Ok(status) = made else { return };
        assert!(status.success());
        assert_eq!(opens_with(&disk, &key).unwrap(), Attempt::Opened);
        assert!(matches!(opens_with(&disk, &other).unwrap(), Attempt::Refused(_)));
        // And a copy of a logical volume, with LUKS2 on it.
        let device = dir.path().join("device");
        std::fs::File::create(&device).unwrap().set_len(32 << 20).unwrap();
        let made = Command::new("cryptsetup")
            .args(["luksFormat", "--type", "luks2", "--batch-mode", "--disable-locks", "--pbkdf", "pbkdf2"])
            .args(["--pbkdf-force-iterations", "1000", "--key-file"])
            .args([&secret, &device])
            .status();
        if let Ok(status) = made {
            assert!(status.success());
            assert_eq!(opens_with(&device, &key).unwrap(), Attempt::Opened);
            assert!(matches!(opens_with(&device, &other).unwrap(), Attempt::Refused(_)));
            std::fs::write(&device, b"LUKS\xba\xbe\0\x02 and nothing behind it").unwrap();
            let failure = opens_with(&device, &key).unwrap_err();
            assert!(failure.what.contains("no key can be tried"), "{}", failure.what);
        }
        let plain = dir.path().join("plain.qcow2");
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&plain).arg("1M").status();
        assert!(made.unwrap().success());
        let failure = opens_with(&plain, &key).unwrap_err();
        assert!(failure.what.contains("is not encrypted"), "{}", failure.what);
        std::fs::write(&disk, "no disk").unwrap();
        let failure = opens_with(&disk, &key).unwrap_err();
        assert!(failure.what.contains("no key can be tried"), "{}", failure.what);
    }
}
