//! `qemu-img`: what it is asked of a qcow2 image, with LUKS inside or on a device that is encrypted already.

use super::tool::{self, Ended, Lent};
use crate::{
    config::{ImageFormat, StorageConfig},
    edge::{EdgeError, Key, Result},
};
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Where a key comes in that is handed over standard input.
const KEY: &str = "secret,id=key,file=/proc/self/fd/0";
/// Stretching makes a guess of a weak passphrase dear. This one is 256 random bits, which nobody guesses, so
/// the least of it will do.
const LEAST_STRETCHING: &str = "encrypt.iter-time=10";

/// An image with nothing below it, on a device that it has for itself: each cluster's place is known from the start, so
/// that what follows are tables of 4 MiB for 1 TiB, read once, and requests that go where they would without an image.
/// What was never written reads as whatever the device holds, which a new key makes noise of.
const IN_ORDER: &str = "cluster_size=2M,preallocation=metadata";

/// How often it is asked whether what takes long may go on.
const TICK: Duration = Duration::from_millis(500);

/// What an image is made over.
pub type Base<'a> = Option<(&'a Path, ImageFormat)>;

/// Makes a qcow2 image of `bytes`: with a key, LUKS is in it; without, what it is written to encrypts.
pub fn create(
    config: &StorageConfig,
    path: &Path,
    bytes: u64,
    base: Base<'_>,
    key: Option<&Key>,
) -> Result<()> {
    let mut command = Command::new(&config.qemu_img);
    command.args(["create", "-q", "-f", "qcow2"]);
    if key.is_some() {
        command.args(["--object", KEY, "-o"]);
        command.arg(format!("encrypt.format=luks,encrypt.key-secret=key,{LEAST_STRETCHING}"));
    }
    if base.is_none() && key.is_none() {
        command.args(["-o", IN_ORDER]);
    }
    if let Some((base, format)) = base {
        command.arg("-b").arg(base).args(["-F", format.as_str()]);
    }
    command.arg(path).arg(bytes.to_string());
    tool::run(&mut command, key)
        .and_then(Ended::done)
        .map_err(|cause| EdgeError::because(format!("cannot make the volume `{}`", path.display()), cause))
}

/// What became of a wish to change an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is so.
    Done,
    /// A machine has it open, and only that machine can.
    InUse,
}

impl Changed {
    fn from(ended: Ended) -> io::Result<Self> {
        // It has no exit status of its own for this.
        if ended.code() == Some(1) && ended.complaint().contains("Is another process using the image") {
            return Ok(Self::InUse);
        }
        ended.done().map(|()| Self::Done)
    }
}

/// Makes an image larger. It never becomes smaller: `qemu-img` refuses that.
pub fn resize(config: &StorageConfig, path: &Path, bytes: u64, key: Option<&Key>) -> io::Result<Changed> {
    let mut command = Command::new(&config.qemu_img);
    command.args(["resize", "-q"]);
    match key {
        Some(_) => command.args(["--object", KEY, "--image-opts"]).arg(image(path)),
        None => command.args(["-f", "qcow2"]).arg(path),
    };
    Changed::from(tool::run(command.arg(bytes.to_string()), key)?)
}

/// Whether a key opens an image with LUKS inside.
pub fn opens(config: &StorageConfig, path: &Path, key: &Key) -> io::Result<bool> {
    let mut command = Command::new(&config.qemu_img);
    // `info` does not look at the key. As text it would not name encrypted clusters, and fail where there are some.
    command.args(["map", "--output=json", "--object", KEY, "-U", "-s", "0", "-l", "512", "--image-opts"]);
    let ended = tool::run(command.arg(image(path)), Some(key))?;
    if ended.code() == Some(1) && ended.complaint().contains("Invalid password") {
        return Ok(false);
    }
    ended.done().map(|()| true)
}

/// Refuses an image whose tables are damaged; with a key, one with LUKS inside.
pub fn check(config: &StorageConfig, path: &Path, key: Option<&Key>) -> io::Result<()> {
    let mut command = Command::new(&config.qemu_img);
    command.args(["check", "-q", "-U"]);
    match key {
        Some(_) => command.args(["--object", KEY, "--image-opts"]).arg(image(path)),
        None => command.args(["-f", "qcow2"]).arg(path),
    };
    let ended = tool::run(&mut command, key)?;
    // 3: clusters that are used by nobody, which costs room and nothing else.
    if ended.code() == Some(3) { Ok(()) } else { ended.done() }
}

/// What an image lies over, as its header says it, which is not believed: who wrote it may have had the file open.
fn base_named(config: &StorageConfig, path: &Path) -> io::Result<Option<(PathBuf, String)>> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Info {
        full_backing_filename: Option<String>,
        backing_filename_format: Option<String>,
    }
    let mut command = Command::new(&config.qemu_img);
    let answer = tool::run(command.args(["info", "-U", "--output=json", "-f", "qcow2"]).arg(path), None)?;
    let info: Info = serde_json::from_slice(&answer.answer()?).map_err(io::Error::other)?;
    let (named, format) = (info.full_backing_filename.map(PathBuf::from), info.backing_filename_format);
    named
        .map(|path| Ok((path, format.ok_or_else(|| io::Error::other("its base image is of no format"))?)))
        .transpose()
}

/// Writes what an image with LUKS inside holds into another, which is made here: opened by the same key, encrypted under
/// another data key, over the same base image, which must be `base`. It is asked again and again whether it may go on.
pub fn encrypt_anew(
    config: &StorageConfig,
    (from, to): (&Path, &Path),
    base: Option<&Path>,
    key: &Key,
    may_go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut command = Command::new(&config.qemu_img);
    command.args(["convert", "-q", "-O", "qcow2", "--object", KEY, "-o"]);
    command.arg(format!("encrypt.format=luks,encrypt.key-secret=key,{LEAST_STRETCHING}"));
    let named = base_named(config, from)?;
    if named.as_ref().map(|(path, _)| path.as_path()) != base {
        return Err(io::Error::other(
            "its header names another base image than the one that it was made over",
        ));
    }
    if let Some((base, format)) = named {
        let known = [ImageFormat::Raw, ImageFormat::Qcow2].map(|format| format.as_str());
        if !known.contains(&format.as_str()) {
            return Err(io::Error::other("its header names a base image of a format that none has"));
        }
        command.arg("-B").arg(base).arg("-F").arg(format);
    }
    command.arg("--image-opts").arg(image(from)).arg(to);
    tool::run_watched(&mut command, Some(key), TICK, may_go_on)?.done()
}

/// Gives an image that `old` opens a slot for `new` as well.
pub fn add_key(config: &StorageConfig, path: &Path, old: &Key, new: &Key) -> io::Result<Changed> {
    let what = format!("encrypt.state=active,encrypt.new-secret=lent,{LEAST_STRETCHING}");
    amend(config, path, old, new, &what)
}

/// Takes the slot of `old` away from an image that `new` opens.
pub fn remove_key(config: &StorageConfig, path: &Path, old: &Key, new: &Key) -> io::Result<Changed> {
    amend(config, path, new, old, "encrypt.state=inactive,encrypt.old-secret=lent")
}

fn amend(config: &StorageConfig, path: &Path, key: &Key, lent: &Key, what: &str) -> io::Result<Changed> {
    let lent = Lent::new(lent)?;
    let mut second = OsString::from("secret,id=lent,file=");
    second.push(lent.path());
    let mut command = Command::new(&config.qemu_img);
    command.args(["amend", "-q", "--object", KEY, "--object"]).arg(second);
    command.args(["-o", what, "--image-opts"]).arg(image(path));
    Changed::from(tool::run(&mut command, Some(key))?)
}

/// An image as `--image-opts` names it: commas in a path are doubled.
fn image(path: &Path) -> String {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("driver=qcow2,encrypt.key-secret=key,file.filename={path}")
}
