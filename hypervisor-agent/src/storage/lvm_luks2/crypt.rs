//! `cryptsetup` and `dmsetup`: the only programs that see the key of a volume on LVM.

use super::header::{CIPHER, DATA_OFFSET, KEY_BITS, SECTOR_BYTES};
use crate::{
    edge::Key,
    storage::tool::{self, Copy, Ended, Lent},
};
use holm_proto::ids::VolumeId;
use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// The program.
pub const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
/// The device mapper's own.
pub const DMSETUP: &str = "/usr/sbin/dmsetup";
/// A key is 64 digits on standard input.
const KEY: [&str; 4] = ["--key-file", "-", "--keyfile-size", "64"];
/// Stretching makes a guess of a weak passphrase dear. This one is 256 random bits, which nobody guesses, so the
/// least of it will do.
const LEAST_STRETCHING: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
/// No key has this slot's passphrase, or the passphrase is wrong.
const NO_PERMISSION: i32 = 2;
/// Something has the device open.
const BUSY: i32 = 5;

/// What a volume's mapping and its LUKS label are called.
pub fn name(volume: VolumeId) -> String {
    format!("holm-{volume}")
}

/// Where an opened volume is.
pub fn path(volume: VolumeId) -> PathBuf {
    Path::new("/dev/mapper").join(name(volume))
}

/// Makes a header that only this key opens. What was there is lost: the caller has looked.
pub fn format(device: &Path, volume: VolumeId, key: &Key) -> io::Result<()> {
    let mut command = cryptsetup("luksFormat");
    command.args(["--type", "luks2", "--use-urandom", "--cipher", CIPHER, "--hash", "sha256"]);
    command.args(["--key-size", &KEY_BITS.to_string(), "--sector-size", &SECTOR_BYTES.to_string()]);
    command.args(["--offset", &(DATA_OFFSET / 512).to_string()]);
    command.args(["--uuid", &volume.to_string(), "--label", &name(volume)]);
    tool::run(command.args(LEAST_STRETCHING).args(KEY).arg(device), Some(key))?.done()
}

/// Says of a header that it is this volume's.
pub fn belongs(device: &Path, volume: VolumeId) -> io::Result<()> {
    let mut label = cryptsetup("config");
    tool::run(label.args(["--label", &name(volume)]).arg(device), None)?.done()?;
    let mut uuid = cryptsetup("luksUUID");
    tool::run(uuid.args(["--uuid", &volume.to_string()]).arg(device), None)?.done()
}

/// Whether a key opens a device.
pub fn opens(device: &Path, key: &Key) -> io::Result<bool> {
    let mut command = cryptsetup("open");
    permitted(tool::run(
        command.args(["--test-passphrase", "--type", "luks2"]).args(KEY).arg(device),
        Some(key),
    )?)
}

/// Opens a device by this copy of its header; false where the key is wrong. The key stays in the kernel's keyring,
/// where no table of the device mapper shows it.
pub fn open(header: &Copy, device: &Path, volume: VolumeId, key: &Key, discard: bool) -> io::Result<bool> {
    let mut command = cryptsetup("open");
    // Without the work queues, each request is encrypted where it comes in: less waiting on fast drives.
    command.args(["--type", "luks2", "--perf-no_read_workqueue", "--perf-no_write_workqueue"]);
    if discard {
        command.arg("--allow-discards");
    }
    command.arg("--header").arg(header.path()).args(KEY).arg(device).arg(name(volume));
    permitted(tool::run(&mut command, Some(key))?)
}

/// Closes it; false where something uses it for more than the seconds that this waits.
pub fn close(volume: VolumeId) -> io::Result<bool> {
    let ended = tool::run(cryptsetup("close").arg(name(volume)), None)?;
    if ended.code() == Some(BUSY) {
        return Ok(false);
    }
    ended.done().map(|()| true)
}

/// Makes an open one as large as what is below it.
pub fn resize(volume: VolumeId, key: &Key) -> io::Result<()> {
    tool::run(cryptsetup("resize").args(KEY).arg(name(volume)), Some(key))?.done()
}

/// Gives a device that `old` opens a slot for `new` as well.
pub fn add_key(device: &Path, old: &Key, new: &Key) -> io::Result<()> {
    let lent = Lent::new(new)?;
    let mut command = cryptsetup("luksAddKey");
    command.args(KEY).args(["--new-keyfile-size", "64"]).args(LEAST_STRETCHING).arg(device).arg(lent.path());
    tool::run(&mut command, Some(old))?.done()
}

/// Takes the slot that `key` opens away, be it the last.
pub fn remove_key(device: &Path, key: &Key) -> io::Result<()> {
    tool::run(cryptsetup("luksRemoveKey").args(KEY).arg(device), Some(key))?.done()
}

/// Makes both copies of a torn header one again, by the newer whole one.
pub fn repair(device: &Path) -> io::Result<()> {
    tool::run(cryptsetup("repair").args(["--type", "luks2"]).arg(device), None)?.done()
}

/// A volume that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Which.
    pub volume: VolumeId,
    /// Something has its device open, or stands on it.
    pub used: bool,
    /// It is what `cryptsetup` makes for this volume's header.
    pub ours: bool,
}

/// Every volume that is open.
pub fn mappings() -> io::Result<Vec<Mapping>> {
    let mut command = Command::new(DMSETUP);
    command.args(["info", "--columns", "--noheadings", "--separator", " ", "--options", "name,open,uuid"]);
    let answer = tool::run(&mut command, None)?.answer()?;
    Ok(parse(&String::from_utf8_lossy(&answer)))
}

fn parse(answer: &str) -> Vec<Mapping> {
    let of_line = |line: &str| {
        let mut words = line.split(' ');
        let (name, open, uuid) = (words.next()?, words.next()?, words.next().unwrap_or_default());
        let volume: VolumeId = name.strip_prefix("holm-")?.parse().ok()?;
        let digits = volume.to_string().replace('-', "");
        let ours = uuid == format!("CRYPT-LUKS2-{digits}-{name}");
        Some(Mapping { volume, used: open != "0", ours })
    };
    answer.lines().filter_map(of_line).collect()
}

fn cryptsetup(what: &str) -> Command {
    let mut command = Command::new(CRYPTSETUP);
    command.args(["--batch-mode", what]);
    command
}

fn permitted(ended: Ended) -> io::Result<bool> {
    if ended.code() == Some(NO_PERMISSION) {
        return Ok(false);
    }
    ended.done().map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_and_those_of_others_passed_over() {
        let id: VolumeId = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap();
        let mapping = |used, ours| vec![Mapping { volume: id, used, ours }];
        let uuid = "CRYPT-LUKS2-6f9619ff8b864d01b42d00cf4fc964ff";
        assert_eq!(parse(&format!("holm-{id} 0 {uuid}-holm-{id}\nvg-root 1 LVM-x\n")), mapping(false, true));
        assert_eq!(parse(&format!("holm-{id} 2 {uuid}-holm-{id}\n")), mapping(true, true));
        assert_eq!(parse(&format!("holm-{id} 1 \n")), mapping(true, false));
        for other in ["No devices found\n", "", "holm-x 0 CRYPT\n", "holm- 0\n", "\n"] {
            assert_eq!(parse(other), []);
        }
    }

    #[test]
    fn a_wrong_key_is_told_from_a_damaged_header() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(20 << 20).unwrap();
        let id: VolumeId = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap();
        let key = |byte| Key::new(Box::new([byte; 32]));
        format(file.path(), id, &key(7)).unwrap();
        assert!(opens(file.path(), &key(7)).unwrap() && !opens(file.path(), &key(8)).unwrap());
        add_key(file.path(), &key(7), &key(8)).unwrap();
        assert!(opens(file.path(), &key(8)).unwrap());
        remove_key(file.path(), &key(7)).unwrap();
        assert!(!opens(file.path(), &key(7)).unwrap() && opens(file.path(), &key(8)).unwrap());
        assert!(opens(Path::new("/no/such"), &key(8)).is_err());
        let bytes = std::fs::read(file.path()).unwrap();
        std::fs::write(file.path(), &bytes[1..]).unwrap();
        assert!(opens(file.path(), &key(8)).is_err());
    }
}
