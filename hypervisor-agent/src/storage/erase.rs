//! Removing a volume's file so that what opened it is gone first.

use super::qcow2::{self, Area};
use rustix::fs::{FallocateFlags, fallocate};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// The LUKS header and its key slots lie within the first 4 MiB of a file that `qemu-img` made, wherever
/// the qcow2 header says: this much goes even where that header is gone already.
const HEAD_BYTES: u64 = 4 << 20;

/// Overwrites header and key slots with random bytes, gives the rest back to the file system, and removes
/// the file. Nothing happens where there is none.
pub fn erase(path: &Path) -> io::Result<()> {
    // A link is not ours: following it would overwrite something else.
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_file() => {}
        Ok(_) => return Err(io::Error::other("it is no file")),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let luks = qcow2::read(path).ok().and_then(|header| header.luks);
    let mut file = File::options().write(true).open(path)?;
    let length = file.metadata()?.len();
    // The key slots first: while the qcow2 header is whole, a second run finds them again.
    for area in luks.into_iter().chain([Area { offset: 0, bytes: HEAD_BYTES }]) {
        overwrite(&mut file, area, length)?;
        file.sync_all()?;
    }
    if length > HEAD_BYTES {
        // The rest is noise without the key. A file system that cannot punch frees it with the file.
        let _ = fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            HEAD_BYTES,
            length - HEAD_BYTES,
        );
    }
    fs::remove_file(path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Writes random bytes over the part of an area that the file has; nothing grows.
fn overwrite(file: &mut File, area: Area, length: u64) -> io::Result<()> {
    let wanted = area.bytes.min(length.saturating_sub(area.offset));
    if wanted == 0 {
        return Ok(());
    }
    file.seek(SeekFrom::Start(area.offset))?;
    let written = io::copy(&mut File::open("/dev/urandom")?.take(wanted), file)?;
    if written == wanted { Ok(()) } else { Err(io::Error::other("not all of it could be overwritten")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        erase(&target).unwrap();
        fs::write(&target, "not ours").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(erase(&link).is_err());
        assert!(erase(directory.path()).is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "not ours");
    }

    #[test]
    fn the_head_is_overwritten_and_the_rest_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let (path, kept) = (directory.path().join("volume"), directory.path().join("kept"));
        fs::write(&path, vec![0xaa; 6 << 20]).unwrap();
        fs::hard_link(&path, &kept).unwrap();
        erase(&path).unwrap();
        assert!(!path.exists());
        let bytes = fs::read(&kept).unwrap();
        assert_eq!(bytes.len(), 6 << 20, "a file does not grow under its erasure");
        let same = bytes[..4 << 20].iter().filter(|byte| **byte == 0xaa).count();
        assert!(same < 4 << 13, "{same}");
        assert!(bytes[4 << 20..].iter().all(|byte| *byte == 0));
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
