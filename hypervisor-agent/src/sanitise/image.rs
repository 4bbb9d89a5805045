//! What a scrubbing machine boots, measured: it is trusted with the devices of every project, so it is the one
//! that the configuration names by its hash, or it is not started.
//!
//! What is hashed and what is booted are the same bytes: they are read once.

use crate::{
    config::ScrubVmConfig,
    edge::{EdgeError, Result},
};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// A kernel and an initrd are far smaller; NVIDIA's driver is in it.
const FILE_MAX: u64 = 2 << 30;
const MANIFEST: &str = "manifest";

/// An image whose every byte is the one that was configured.
#[derive(Debug)]
pub struct Image {
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    /// The kernel's command line.
    pub cmdline: String,
    /// Of its manifest.
    pub sha256: String,
}

impl Image {
    /// Reads and measures it.
    pub fn load(config: &ScrubVmConfig) -> Result<Self> {
        let manifest = read(&config.image.join(MANIFEST))?;
        let found = sha256(&manifest);
        if found != config.sha256 {
            return Err(EdgeError::new(format!(
                "the scrubbing machine's image `{}` has the hash {found}, not the configured {}: not started",
                config.image.display(),
                config.sha256
            )));
        }
        let manifest = String::from_utf8(manifest)
            .map_err(|error| EdgeError::because("the image's manifest is not understood", error))?;
        let part = |name: &str| {
            let wanted =
                manifest.lines().find_map(|line| line.split_once("  ").filter(|(_, of)| *of == name));
            let Some((wanted, _)) = wanted else {
                return Err(EdgeError::new(format!("the image's manifest does not speak of `{name}`")));
            };
            let bytes = read(&config.image.join(name))?;
            match sha256(&bytes) == wanted {
                true => Ok(bytes),
                false => Err(EdgeError::new(format!(
                    "`{name}` of the scrubbing machine's image is not the one in its manifest: not started"
                ))),
            }
        };
        let cmdline = String::from_utf8(part("cmdline")?)
            .map_err(|error| EdgeError::because("the image's command line is not understood", error))?;
        Ok(Self {
            kernel: part("vmlinuz")?,
            initrd: part("initrd.img")?,
            cmdline: cmdline.trim_end().to_owned(),
            sha256: found,
        })
    }

    /// Writes kernel and initrd to a new directory, replacing one that is there, and says where they lie.
    /// libvirt makes them the property of QEMU's user.
    pub fn write(&self, directory: &Path) -> Result<(PathBuf, PathBuf)> {
        let (kernel, initrd) = (directory.join("vmlinuz"), directory.join("initrd.img"));
        let write = || -> io::Result<()> {
            remove(directory)?;
            DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
            for (path, bytes) in [(&kernel, &self.kernel), (&initrd, &self.initrd)] {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)?;
            }
            Ok(())
        };
        write()
            .map_err(|error| EdgeError::because(format!("cannot write `{}`", directory.display()), error))?;
        Ok((kernel, initrd))
    }
}

/// Removes a directory. Nothing happens where there is none.
pub fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error: io::Error| EdgeError::because(format!("cannot read `{}`", path.display()), error);
    if fs::metadata(path).map_err(failed)?.len() > FILE_MAX {
        return Err(EdgeError::new(format!("`{}` is too long", path.display())));
    }
    fs::read(path).map_err(failed)
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An image that is none, and the configuration that fits it.
    pub fn made(directory: &Path) -> ScrubVmConfig {
        fs::create_dir_all(directory).unwrap();
        let mut manifest = String::new();
        for (name, text) in [("cmdline", "quiet\n"), ("initrd.img", "an initrd"), ("vmlinuz", "a kernel")] {
            fs::write(directory.join(name), text).unwrap();
            manifest += &format!("{}  {name}\n", sha256(text.as_bytes()));
        }
        fs::write(directory.join(MANIFEST), &manifest).unwrap();
        ScrubVmConfig {
            image: directory.to_owned(),
            sha256: sha256(manifest.as_bytes()),
            memory_mib: 256,
            vcpus: 1,
            start_limit_s: 20,
            limit_per_gib_s: 1,
        }
    }

    #[test]
    fn the_image_that_is_configured() {
        let directory = tempfile::tempdir().unwrap();
        let config = made(&directory.path().join("image"));
        let image = Image::load(&config).unwrap();
        assert_eq!((image.cmdline.as_str(), &image.sha256), ("quiet", &config.sha256));
        for _ in 0..2 {
            let (kernel, initrd) = image.write(&directory.path().join("copy")).unwrap();
            assert_eq!(fs::read_to_string(kernel).unwrap(), "a kernel");
            assert_eq!(fs::read_to_string(initrd).unwrap(), "an initrd");
        }
    }

    #[test]
    fn no_other_is_started() {
        for change in ["cmdline", "initrd.img", "vmlinuz", MANIFEST] {
            let directory = tempfile::tempdir().unwrap();
            let config = made(directory.path());
            fs::write(directory.path().join(change), "another").unwrap();
            let error = Image::load(&config).unwrap_err().chain();
            assert!(error.contains("not started"), "{change}: {error}");
            fs::remove_file(directory.path().join(change)).unwrap();
            assert!(Image::load(&config).is_err(), "{change}");
        }
        let directory = tempfile::tempdir().unwrap();
        let config = ScrubVmConfig { sha256: String::new(), ..made(directory.path()) };
        assert!(Image::load(&config).unwrap_err().chain().contains("not the configured"));
    }
}
