//! The guest images of this host: each a directory that is called by the SHA-256 of its manifest, which says the SHA-256 of
//! all else in it. holmd says which one a root disk is made over; what is not what the manifest says is never used for one.
//!
//! ```text
//! /var/lib/holm/images/9f86d0…/{manifest, base.raw, vmlinuz, initrd.img, cmdline}
//! ```

use crate::{
    config::ImageFormat,
    edge::{EdgeError, Image, Result},
};
use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use holm_proto::image::{FILES, MANIFEST_MAX, Manifest, is_digest};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

const MANIFEST: &str = "manifest";
/// What is read at once, bytes.
const PIECE: usize = 256 * 1024;

/// All of them.
#[derive(Debug)]
pub struct Images {
    directory: PathBuf,
    /// Those that were read whole by this process, each as its files were then.
    whole: Mutex<BTreeMap<String, Vec<Stamp>>>,
}

/// A file that has these has not changed.
type Stamp = (u64, u64, SystemTime);

impl Images {
    /// Those in this directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, whole: Mutex::default() }
    }

    fn of(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    /// The one of that id, wherever it lies and whatever is in it: see [`Self::check`].
    pub fn image(&self, id: &str) -> Image {
        let file = |name: &str| self.of(id).join(name);
        Image {
            base: file("base.raw"),
            format: ImageFormat::Raw,
            kernel: file("vmlinuz"),
            initrd: file("initrd.img"),
        }
    }

    /// The id of an image of these.
    pub fn id(image: &Image) -> Option<&str> {
        image.base.parent()?.file_name()?.to_str().filter(|name| is_digest(name))
    }

    /// The ids of those that are here, as far as their manifests say so.
    pub fn list(&self) -> Result<Vec<String>> {
        let failed = |error| EdgeError::because(format!("cannot list `{}`", self.directory.display()), error);
        let mut ids = Vec::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ids),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some(id) = name.to_str().filter(|id| is_digest(id)) else { continue };
            let there = FILES.iter().all(|file| self.of(id).join(file).is_file());
            if there && manifest(&self.of(id)).is_ok_and(|(of, _)| of == id) {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// Refuses an image of these that is not here, or not what it is called; one of the configuration's own is taken as it is.
    pub fn check(&self, image: &Image) -> Result<()> {
        let Some(id) = Self::id(image).filter(|id| image.base.starts_with(self.of(id))) else {
            return Ok(());
        };
        let directory = self.of(id);
        if !directory.join(MANIFEST).exists() {
            return Err(EdgeError::new(format!(
                "the image {} is not on this host: holm-agent image add DIR",
                id.get(..12).unwrap_or(id)
            )));
        }
        let stamps = stamps(&directory)?;
        if self.whole.lock().unwrap_or_else(PoisonError::into_inner).get(id) == Some(&stamps) {
            return Ok(());
        }
        let (of, manifest) = manifest(&directory)?;
        if of != id {
            return Err(damaged(&directory.join(MANIFEST)));
        }
        for (file, wanted) in &manifest.files {
            if sha256(&directory.join(file))? != *wanted {
                return Err(damaged(&directory.join(file)));
            }
        }
        self.whole.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), stamps);
        Ok(())
    }

    /// The kernel's command line that an image of these has.
    pub fn cmdline(&self, image: &Image) -> Result<Option<String>> {
        let Some(id) = Self::id(image).filter(|id| image.base.starts_with(self.of(id))) else {
            return Ok(None);
        };
        let path = self.of(id).join("cmdline");
        let text = fs::read_to_string(&path)
            .map_err(|error| EdgeError::because(format!("cannot read `{}`", path.display()), error))?;
        Ok(Some(text.trim().to_owned()))
    }

    /// Takes in the image in this directory, as the recipe made it; its id. One that is here already is looked at again.
    pub fn add(&self, from: &Path) -> Result<String> {
        let (id, manifest) = manifest(from)?;
        let to = self.of(&id);
        if to.exists() {
            self.check(&self.image(&id))?;
            return Ok(id);
        }
        let making = self.directory.join(format!("{id}.new"));
        let mut wrong = None;
        let mut copy = || -> io::Result<()> {
            // Every machine's QEMU reads the base image.
            DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
            match fs::remove_dir_all(&making) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            DirBuilder::new().mode(0o755).create(&making)?;
            for name in manifest.files.keys().map(String::as_str).chain([MANIFEST]) {
                let is = copied(&from.join(name), &making.join(name))?;
                if manifest.files.get(name).is_some_and(|wanted| is != *wanted)
                    || name == MANIFEST && is != id
                {
                    wrong = Some(from.join(name));
                }
            }
            File::open(&making)?.sync_all()
        };
        copy().map_err(|error| EdgeError::because(format!("cannot copy `{}`", from.display()), error))?;
        if let Some(wrong) = wrong {
            let _ = fs::remove_dir_all(&making);
            return Err(damaged(&wrong));
        }
        let finish = || fs::rename(&making, &to).and_then(|()| File::open(&self.directory)?.sync_all());
        finish().map_err(|error| EdgeError::because(format!("cannot make `{}`", to.display()), error))?;
        Ok(id)
    }

    /// As people read what one is: its id, its version, its packages.
    pub fn describe(&self, id: &str) -> Result<Manifest> {
        manifest(&self.of(id)).map(|(_, manifest)| manifest)
    }
}

fn damaged(path: &Path) -> EdgeError {
    EdgeError::new(format!("`{}` is not what the image's manifest says: copy the image anew", path.display()))
}

/// The manifest in a directory, and the id that it gives it.
fn manifest(directory: &Path) -> Result<(String, Manifest)> {
    let path = directory.join(MANIFEST);
    let failed = |error| EdgeError::because(format!("cannot read `{}`", path.display()), error);
    let mut text = String::new();
    let limit = MANIFEST_MAX as u64 + 1;
    File::open(&path).map_err(failed)?.take(limit).read_to_string(&mut text).map_err(failed)?;
    let read = Manifest::read(&text).map_err(|why| EdgeError::new(format!("`{}`: {why}", path.display())))?;
    let mut hash = Context::new(&SHA256);
    hash.update(text.as_bytes());
    Ok((HEXLOWER.encode(hash.finish().as_ref()), read))
}

fn stamps(directory: &Path) -> Result<Vec<Stamp>> {
    let stamp = |name: &&str| -> io::Result<Stamp> {
        let file = fs::metadata(directory.join(name))?;
        Ok((file.ino(), file.len(), file.modified()?))
    };
    let all: io::Result<Vec<Stamp>> = FILES.iter().chain([&MANIFEST]).map(stamp).collect();
    all.map_err(|error| {
        EdgeError::because(format!("the image in `{}` is not whole", directory.display()), error)
    })
}

/// Copies a file, and leaves out what is nothing but zeros: most of a root file system is. Its SHA-256.
fn copied(from: &Path, to: &Path) -> io::Result<String> {
    let (mut from, to) = (File::open(from)?, File::create_new(to)?);
    let (mut hash, mut piece, mut at) = (Context::new(&SHA256), vec![0; PIECE], 0);
    loop {
        let read = from.read(&mut piece)?;
        let bytes = piece.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hash.update(bytes);
        if bytes.iter().any(|byte| *byte != 0) {
            to.write_all_at(bytes, at)?;
        }
        at += read as u64;
    }
    to.set_len(at)?;
    to.set_permissions(Permissions::from_mode(0o644))?;
    to.sync_all()?;
    Ok(HEXLOWER.encode(hash.finish().as_ref()))
}

fn sha256(path: &Path) -> Result<String> {
    let failed = |error| EdgeError::because(format!("cannot read `{}`", path.display()), error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut piece) = (Context::new(&SHA256), vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece).map_err(failed)?;
        if read == 0 {
            return Ok(HEXLOWER.encode(hash.finish().as_ref()));
        }
        hash.update(piece.get(..read).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image as the recipe makes one.
    fn made(directory: &Path) {
        fs::create_dir(directory).unwrap();
        let mut text = "recipe 1f0c2d3e4a5b6c7d\nversion 1\nslurmd 24.11.5-4\n".to_owned();
        for file in FILES {
            fs::write(directory.join(file), format!("this is {file}\n")).unwrap();
            if file == "base.raw" {
                File::options().write(true).open(directory.join(file)).unwrap().set_len(10 << 20).unwrap();
            }
            text += &format!("{}  {file}\n", sha256(&directory.join(file)).unwrap());
        }
        fs::write(directory.join(MANIFEST), text).unwrap();
    }

    #[test]
    fn an_image_is_taken_in_whole_and_used_as_long_as_it_is_what_it_is_called() {
        let place = tempfile::tempdir().unwrap();
        let (from, images) = (place.path().join("made"), Images::new(place.path().join("images")));
        assert_eq!(images.list().unwrap(), [""; 0]);
        made(&from);
        let id = images.add(&from).unwrap();
        assert_eq!((images.add(&from).unwrap(), images.list().unwrap()), (id.clone(), vec![id.clone()]));
        let image = images.image(&id);
        images.check(&image).unwrap();
        let base = fs::metadata(&image.base).unwrap();
        assert!(base.len() == 10 << 20 && base.blocks() * 512 < 1 << 20, "holes stay holes");
        assert_eq!(Images::id(&image), Some(id.as_str()));
        assert_eq!(images.cmdline(&image).unwrap().as_deref(), Some("this is cmdline"));
        assert_eq!(images.describe(&id).unwrap().version, "1");
        // Whoever changes it is noticed, also after it was found whole.
        fs::write(&image.kernel, "another kernel, of the same version").unwrap();
        assert!(images.check(&image).unwrap_err().chain().contains("is not what the image's manifest says"));
        assert!(Images::new(place.path().join("images")).check(&image).is_err());
        let missing = images.image(&"a".repeat(64));
        assert!(images.check(&missing).unwrap_err().chain().contains("is not on this host"));
    }

    #[test]
    fn what_was_changed_on_the_way_or_is_half_there_is_not_taken_in() {
        let place = tempfile::tempdir().unwrap();
        let (from, images) = (place.path().join("made"), Images::new(place.path().join("images")));
        made(&from);
        fs::write(from.join("vmlinuz"), "x").unwrap();
        assert!(images.add(&from).is_err());
        fs::remove_file(from.join("vmlinuz")).unwrap();
        assert!(images.add(&from).is_err());
        assert!(images.add(place.path()).is_err());
        assert_eq!(images.list().unwrap(), [""; 0]);
        // What a kill left in the way is no hindrance.
        fs::write(from.join("vmlinuz"), "this is vmlinuz\n").unwrap();
        let id = images.add(&from).unwrap();
        fs::rename(images.of(&id), images.of(&format!("{id}.new"))).unwrap();
        assert_eq!(images.add(&from).unwrap(), id);
    }

    #[test]
    fn an_image_of_the_configuration_is_taken_as_it_is() {
        let images = Images::new("/var/lib/holm/images".into());
        let image = Image {
            base: "/usr/lib/holm/base.raw".into(),
            format: ImageFormat::Raw,
            kernel: "/k".into(),
            initrd: "/i".into(),
        };
        images.check(&image).unwrap();
        assert_eq!((Images::id(&image), images.cmdline(&image).unwrap()), (None, None));
    }
}
