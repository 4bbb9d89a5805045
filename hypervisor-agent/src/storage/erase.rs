//! Removing a volume's file so that what opened it is gone first.

use super::qcow2::{self, Area};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    os::unix::fs::FileExt as _,
    path::Path,
};

/// The LUKS header and its key slots lie within the first 4 MiB of a file that `qemu-img` made, wherever
/// the qcow2 header says: this much goes even where that header is gone already.
const HEAD_BYTES: u64 = 4 << 20;

/// So much at once, where all is looked at.
const PIECE_BYTES: usize = 1 << 20;

/// What was done to an area that held a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wiped {
    /// Header and key slots, bytes.
    pub overwritten: u64,
    /// Given back to what lies below, bytes. It reads as zeros from then on.
    pub discarded: u64,
}

/// Overwrites header and key slots with random bytes, gives the whole of it back to the file system, has
/// `before_gone` remember what was done, and removes the file. `None` where there is none.
pub fn erase(path: &Path, before_gone: impl FnOnce(Wiped) -> io::Result<()>) -> io::Result<Option<Wiped>> {
    // A link is not ours: following it would overwrite something else.
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_file() => {}
        Ok(_) => return Err(io::Error::other("it is no file")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let luks = qcow2::read(path).ok().and_then(|header| header.luks);
    let mut file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    let overwritten = overwrite_keys(&mut file, luks, length)?;
    let wiped = Wiped { overwritten, discarded: discard(&file, length)? };
    before_gone(wiped)?;
    fs::remove_file(path)?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(Some(wiped))
}

/// Overwrites with zeros whatever a file or a block device holds, and says how many bytes that was: on the disk when it
/// returns. What was never written stays so.
pub fn overwrite_all(path: &Path) -> io::Result<u64> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    let (mut piece, zeros) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    let (mut at, mut overwritten) = (0, 0);
    while at < length {
        let bytes = usize::try_from(length - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let (piece, zeros) =
            (piece.get_mut(..bytes).unwrap_or_default(), zeros.get(..bytes).unwrap_or_default());
        file.read_exact_at(piece, at)?;
        if *piece != *zeros {
            file.write_all_at(zeros, at)?;
            overwritten += bytes as u64;
        }
        at += bytes as u64;
    }
    file.sync_all()?;
    Ok(overwritten)
}

/// Overwrites the first `head_bytes` of a block device with random bytes, and gives all of it back.
pub fn wipe_device(path: &Path, head_bytes: u64) -> io::Result<Wiped> {
    let mut file = File::options().write(true).open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    let overwritten = overwrite(&mut file, Area { offset: 0, bytes: head_bytes }, length)?;
    file.sync_all()?;
    Ok(Wiped { overwritten, discarded: discard(&file, length)? })
}

/// The key slots first: while the qcow2 header is whole, a second run finds them again. On the disk when it
/// returns, how many bytes.
fn overwrite_keys(file: &mut File, luks: Option<Area>, length: u64) -> io::Result<u64> {
    let head = Area { offset: 0, bytes: HEAD_BYTES };
    // What is within the head is not counted twice.
    let beyond = luks.filter(|area| area.offset.saturating_add(area.bytes) > HEAD_BYTES);
    let mut overwritten = 0;
    for area in beyond.into_iter().chain([head]) {
        overwritten += overwrite(file, area, length)?;
        file.sync_all()?;
    }
    Ok(overwritten)
}

/// Gives the first `length` bytes back to the file system or, of a block device, to the drive, and says how many
/// it took: none where it cannot, and then what is left is noise without the key.
///
/// The kernel answers for both in one call: of a file the blocks are freed, of a device they are zeroed by the
/// drive itself, which unmaps them where it has that. What a drive calls a secure erase is not asked for:
/// nothing offers it without `unsafe`, and NVMe drives do not have it for a part of themselves.
fn discard(file: &File, length: u64) -> io::Result<u64> {
    if length == 0 {
        return Ok(0);
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, length) {
        Ok(()) => {
            file.sync_all()?;
            Ok(length)
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Writes random bytes over the part of an area that the file has; nothing grows.
fn overwrite(file: &mut File, area: Area, length: u64) -> io::Result<u64> {
    let wanted = area.bytes.min(length.saturating_sub(area.offset));
    if wanted == 0 {
        return Ok(0);
    }
    file.seek(SeekFrom::Start(area.offset))?;
    let written = io::copy(&mut File::open("/dev/urandom")?.take(wanted), file)?;
    if written == wanted { Ok(written) } else { Err(io::Error::other("not all of it could be overwritten")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erased(path: &Path) -> io::Result<Option<Wiped>> {
        erase(path, |_| Ok(()))
    }

    #[test]
    fn nothing_else_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        assert_eq!(erased(&target).unwrap(), None);
        fs::write(&target, "not ours").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(erased(&link).is_err());
        assert!(erased(directory.path()).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "not ours");
    }

    #[test]
    fn the_head_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("volume");
        fs::write(&path, vec![0xaa; 6 << 20]).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        let inside = Area { offset: 1 << 20, bytes: 1 << 20 };
        assert_eq!(overwrite_keys(&mut file, Some(inside), 6 << 20).unwrap(), 4 << 20);
        let bytes = fs::read(&path).unwrap();
        let same = |range: std::ops::Range<usize>| bytes[range].iter().filter(|byte| **byte == 0xaa).count();
        assert!(same(0..4 << 20) < 4 << 13);
        assert_eq!(same(4 << 20..6 << 20), 2 << 20);
        let beyond = Area { offset: 5 << 20, bytes: 9 << 20 };
        assert_eq!(overwrite_keys(&mut file, Some(beyond), 6 << 20).unwrap(), 5 << 20);
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[5 << 20..].iter().filter(|byte| **byte == 0xaa).count() < 1 << 13);
    }

    #[test]
    fn all_is_given_back_and_remembered_before_the_file_goes() {
        let directory = tempfile::tempdir().unwrap();
        let (path, kept) = (directory.path().join("volume"), directory.path().join("kept"));
        fs::write(&path, vec![0xaa; 6 << 20]).unwrap();
        fs::hard_link(&path, &kept).unwrap();
        // What cannot be remembered is not finished, and taken up again.
        assert!(erase(&path, |_| Err(io::Error::other("a full disk"))).is_err());
        assert!(path.exists());
        let wiped = Wiped { overwritten: 4 << 20, discarded: 6 << 20 };
        let mut remembered = None;
        let done = erase(&path, |wiped| {
            assert!(path.exists());
            remembered = Some(wiped);
            Ok(())
        });
        assert_eq!((done.unwrap(), remembered), (Some(wiped), Some(wiped)));
        assert!(!path.exists());
        let bytes = fs::read(&kept).unwrap();
        assert_eq!(bytes.len(), 6 << 20, "a file does not grow under its erasure");
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    /// As the back end on LVM does.
    #[test]
    fn a_block_device_is_given_back_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0xaa; 8 << 20]).unwrap();
        let made = std::process::Command::new("losetup").args(["--find", "--show"]).arg(&path).output();
        let device = match made {
            Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
            Ok(output) => {
                println!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                return;
            }
            Err(error) => {
                println!("skipped: no losetup: {error}");
                return;
            }
        };
        let wiped = wipe_device(Path::new(device.trim()), 4 << 20);
        let left = fs::read(device.trim()).map(|bytes| bytes.iter().filter(|byte| **byte != 0).count());
        std::process::Command::new("losetup").args(["--detach", device.trim()]).status().unwrap();
        let wiped = wiped.unwrap();
        assert_eq!(wiped.overwritten, 4 << 20);
        match wiped.discarded {
            0 => println!("skipped: this loop device takes nothing back"),
            bytes => assert_eq!((bytes, left.unwrap()), (8 << 20, 0)),
        }
    }

    #[test]
    fn all_of_it_is_overwritten_and_what_was_never_written_takes_no_room() {
        use std::os::unix::fs::MetadataExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("volume");
        let file = File::create(&path).unwrap();
        file.set_len((64 << 20) + 100).unwrap();
        for (at, bytes) in [(0, 10), (5 << 20, 3 << 20), (64 << 20, 100)] {
            file.write_all_at(&vec![0xaa; bytes], at).unwrap();
        }
        let before = fs::metadata(&path).unwrap().blocks();
        assert_eq!(overwrite_all(&path).unwrap(), (4 << 20) + 100);
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.len(), (64 << 20) + 100);
        assert!(
            after.blocks() * 512 < before * 512 + (3 << 20),
            "{} blocks, {before} before",
            after.blocks()
        );
        assert_eq!(overwrite_all(&path).unwrap(), 0);
    }

    #[test]
    fn a_pointer_beyond_the_end_overwrites_nothing_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("short");
        fs::write(&path, vec![0xaa; 100]).unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        overwrite(&mut file, Area { offset: u64::MAX / 2, bytes: u64::MAX }, 100).unwrap();
        overwrite(&mut file, Area { offset: 90, bytes: 4096 }, 100).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 100);
    }
}
