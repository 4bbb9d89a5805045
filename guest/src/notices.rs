//! What people are told who are logged in: on their terminals, where they let others write to them (`mesg`). There is no list
//! of logins here; whose a terminal is the kernel says.

use crate::{accounts::PEOPLE, files};
use rustix::fs::{Mode, OFlags};
use std::{fs::File, io::Write as _, os::unix::fs::MetadataExt as _, path::Path};

const TERMINALS: &str = "/dev/pts";
/// Whether the group that writes to terminals may.
const WRITABLE: u32 = 0o020;

/// Tells all of them.
pub fn tell_all(text: &str) {
    tell(Path::new(TERMINALS), text, |uid| PEOPLE.contains(&uid));
}

/// Tells one.
pub fn tell_one(uid: u32, text: &str) {
    tell(Path::new(TERMINALS), text, |whose| whose == uid);
}

/// Whose terminal is gone or takes nothing now hears nothing: nobody waits for that.
fn tell(terminals: &Path, text: &str, of: impl Fn(u32) -> bool) {
    let text = format!("\r\n{}\r\n", text.trim_end().replace('\n', "\r\n"));
    for name in files::names(terminals).unwrap_or_default() {
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            write(&terminals.join(name), &text, &of);
        }
    }
}

fn write(terminal: &Path, text: &str, of: impl Fn(u32) -> bool) {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(mut terminal) = rustix::fs::open(terminal, flags, Mode::empty()).map(File::from) else { return };
    if terminal.metadata().is_ok_and(|about| of(about.uid()) && about.mode() & WRITABLE != 0) {
        let _ = terminal.write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn who_lets_others_write_is_told_and_nobody_else() {
        let place = tempfile::tempdir().unwrap();
        let me = rustix::process::getuid().as_raw();
        for (name, mode) in [("0", 0o620), ("1", 0o600), ("ptmx", 0o666)] {
            let path = place.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
        tell(place.path(), "a\nb\n", |uid| uid == me + 1);
        assert_eq!(read("0"), "");
        tell(place.path(), "a\nb\n", |uid| uid == me);
        assert_eq!(
            (read("0").as_str(), read("1").as_str(), read("ptmx").as_str()),
            ("\r\na\r\nb\r\n", "", "")
        );
    }
}
