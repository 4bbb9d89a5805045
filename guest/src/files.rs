//! Files and directories, whole or not at all, whenever the machine is stopped.

use crate::failed::{Of as _, Outcome};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// User and group.
pub type Owner = (u32, u32);
/// Root's own.
pub const ROOT: Owner = (0, 0);

/// The whole text of a file.
pub fn read(path: impl AsRef<Path>) -> Outcome<String> {
    let path = path.as_ref();
    let bytes = fs::read(path).of(path.display())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// All of it or nothing.
pub fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>, mode: u32, owner: Owner) -> io::Result<()> {
    let (path, text) = (path.as_ref(), text.as_ref());
    let mut making = path.as_os_str().to_owned();
    making.push(".new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&making, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text)?;
    own(&file, owner)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    file.sync_all()?;
    fs::rename(&making, path)
}

/// Nothing happens to what is its owner's already: that takes no right to give it away.
fn own(file: &File, (user, group): Owner) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (user, group) {
        rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    Ok(())
}

/// A directory with this owner and this mode, whether or not it is there.
pub fn directory(path: impl AsRef<Path>, mode: u32, owner: Owner) -> io::Result<()> {
    fs::create_dir_all(&path)?;
    let directory = File::open(&path)?;
    own(&directory, owner)?;
    Ok(rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?)
}

/// Removes what is there.
pub fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The names in a directory, in order; none where there is no directory.
pub fn names(path: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Whether something is mounted there.
pub fn is_mounted(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    let (Ok(here), Ok(above)) = (fs::metadata(path), fs::metadata(PathBuf::from(path).join(".."))) else {
        return false;
    };
    here.dev() != above.dev() || here.ino() == above.ino()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_file_is_replaced_whole() {
        let place = tempfile::tempdir().unwrap();
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let path = place.path().join("file");
        // What a cut left in the middle of an earlier writing.
        fs::write(place.path().join("file.new"), "half of something longer").unwrap();
        for text in ["one", "two"] {
            write(&path, text, 0o640, owner).unwrap();
            assert_eq!(read(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        }
        assert_eq!(names(place.path()).unwrap(), ["file"]);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(read(&path).unwrap_err().0.contains("/file: "));
        assert_eq!(names(place.path().join("none")).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_mounted_is_told_from_what_lies_there() {
        let place = tempfile::tempdir().unwrap();
        assert!(is_mounted("/") && is_mounted("/proc"));
        assert!(!is_mounted(place.path()) && !is_mounted(place.path().join("none")));
    }
}
