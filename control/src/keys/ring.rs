//! The wrapped keys of one holmd: made, opened, destroyed.

use super::guard::{Guard, Health};
use super::local::Local;
use super::pkcs11::Hsm;
use super::tpm2::Tpm2;
use super::vault::Vault;
use super::wrapped::{By, Record, Wrapped, open, seal};
use super::{Key, KeyError, ProviderConfig, again, files, fingerprint, random};
use holm_proto::ids::{ProjectId, VolumeId};
use newtype_uuid::GenericUuid;
use secrecy::ExposeSecret;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// The wrapped keys of one holmd, and who holds the key-encryption key.
pub struct Keyring {
    pub(super) dir: PathBuf,
    pub(super) current: Guard,
    /// Who held it before: opens what it wrapped until that is wrapped anew.
    pub(super) former: Option<Guard>,
    /// For reading or changing files that belong together; never while a provider is asked.
    files: RwLock<()>,
    /// Who makes volume keys: one at a time. Held while the provider is asked, for one key.
    making: Mutex<()>,
    /// Who rotates: one at a time. Held for the whole of a rotation, and by nobody who makes or opens a key: their
    /// questions to the provider have their turn between a rotation's, and what they write, they write only where
    /// no rotation has changed meanwhile what they go by.
    rotating: Mutex<()>,
    /// Whether something may be wrapped by what is not the newest: from the start, and since a rotation was begun.
    pub(super) behind: AtomicBool,
    /// No key is written any more that a generation of the key-encryption key below this one wraps.
    pub(super) least: AtomicU32,
    /// Generations of the key-encryption key below this one were retired.
    pub(super) retired: AtomicU32,
}

/// What there is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who holds the key-encryption key, as in the configuration.
    pub provider: &'static str,
    /// Where.
    pub place: String,
    /// Its newest generation; `None`: it cannot be asked.
    pub kek_generation: Option<u32>,
    /// Who held it before, and opens what it wrapped.
    pub former: Option<&'static str>,
    /// The projects that have a key.
    pub projects: Vec<ProjectStanding>,
}

/// A project's key, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectStanding {
    /// Whose.
    pub project: ProjectId,
    /// Of its key.
    pub generation: u32,
    /// Who wrapped it.
    pub provider: &'static str,
    /// By which generation of the key-encryption key.
    pub kek_generation: u32,
    /// How many volumes have a key that it wraps.
    pub volumes: u32,
    /// A rotation of it was begun, and is not through.
    pub rotating: bool,
}

/// A file of a wrapped key, as it was read.
#[derive(PartialEq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) wrapped: Wrapped,
}

impl Keyring {
    /// Make the file provider's first key-encryption key and the directory around it. Refuses one that exists.
    pub fn create(dir: &Path) -> Result<(), KeyError> {
        let fail = |e| KeyError::because(format!("the key directory `{}` cannot be made", dir.display()), e);
        for sub in [dir.to_path_buf(), dir.join("project"), dir.join("volume")] {
            fs::create_dir_all(&sub).map_err(fail)?;
            fs::set_permissions(&sub, fs::Permissions::from_mode(0o700)).map_err(fail)?;
        }
        Local::create(dir)
    }

    /// Open the directory. A provider that is elsewhere is not asked yet: it may be down.
    pub fn load(
        dir: &Path,
        config: &ProviderConfig,
        former: Option<&ProviderConfig>,
    ) -> Result<Self, KeyError> {
        let current = guard(dir, config)?;
        // Its files are destroyed when nothing needs them any more, perhaps before anybody changed the configuration.
        let gone = match former {
            Some(ProviderConfig::File { .. }) => Local::is_gone(dir)?,
            Some(ProviderConfig::Tpm2 { .. }) => Tpm2::is_gone(dir)?,
            _ => false,
        };
        let former = former.filter(|_| !gone).map(|config| guard(dir, config)).transpose()?;
        if former.as_ref().is_some_and(|former| former.by == current.by) {
            let text = "[keys] and [former_keys] are of one kind: a wrapped key would not say by which";
            return Err(KeyError::new(text));
        }
        Ok(Self::with(dir, current, former))
    }

    pub(super) fn with(dir: &Path, current: Guard, former: Option<Guard>) -> Self {
        Self {
            dir: dir.to_path_buf(),
            current,
            former,
            files: RwLock::new(()),
            making: Mutex::new(()),
            rotating: Mutex::new(()),
            behind: AtomicBool::new(true),
            least: AtomicU32::new(0),
            retired: AtomicU32::new(0),
        }
    }

    /// Take away what a kill left. For the one process that changes the directory.
    pub fn tidy(&self) -> Result<(), KeyError> {
        let _files = self.changing();
        files::sweep_all(&self.dir)?;
        files::sweep_all(&self.dir.join("project"))?;
        files::sweep_all(&self.dir.join("volume"))
    }

    /// How the provider is, now and at each change.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.current.health()
    }

    /// How the one before is, where there is one. It is asked only for what it still wraps.
    pub fn former_health(&self) -> Option<Health> {
        self.former.as_ref().map(|former| former.health().borrow().clone())
    }

    /// Ask the provider whether it does what it is for.
    pub fn check(&self) -> Result<(), KeyError> {
        // The one before, where it was away: what it still wraps waits for it.
        if self.former.as_ref().is_some_and(|former| former.is_down() && former.check().is_ok()) {
            self.current.wake();
        }
        self.current.check()
    }

    /// The volume's key, made where there is none yet, and its fingerprint.
    pub fn volume_key(&self, project: ProjectId, volume: VolumeId) -> Result<(Key, String), KeyError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let key = match self.open_volume_key(project, volume)? {
            Some(key) => key,
            None => self.make_volume_key(project, volume)?,
        };
        let print = fingerprint(&key);
        Ok((key, print))
    }

    /// The volume's key, where there is one.
    pub fn open_volume_key(&self, project: ProjectId, volume: VolumeId) -> Result<Option<Key>, KeyError> {
        let read = || {
            let _files = self.reading();
            Ok((self.volume(project, volume)?, self.project_keys(project)?))
        };
        settled(read, |(found, projects)| {
            let Some(found) = found.as_ref().filter(|_| !projects.is_empty()) else { return Ok(None) };
            let under =
                projects.iter().find(|p| p.wrapped.generation == found.wrapped.under).ok_or_else(|| {
                    let (path, under) = (found.path.display(), found.wrapped.under);
                    KeyError::new(format!(
                        "the wrapped key `{path}` needs generation {under} of its project's key, which is gone"
                    ))
                })?;
            let under = self.open_project_key(under)?;
            open_volume(found, &under).map(Some)
        })
    }

    /// Destroy the volume's key; with `last`, the project's too. Nothing happens where it is gone. No provider is
    /// asked.
    pub fn destroy(&self, project: ProjectId, volume: VolumeId, last: bool) -> Result<(), KeyError> {
        let _files = self.changing();
        files::shred(&self.volume_path(volume))?;
        if last {
            files::shred(&self.next_path(project))?;
            files::shred(&self.project_path(project))?;
        }
        Ok(())
    }

    /// Every key there is and holmd can open, of the key-encryption keys that it holds itself down to the volumes': name
    /// and key. For the drill in which a destroyed slice's disk must open with none of them.
    pub fn all(&self) -> Result<Vec<(String, Key)>, KeyError> {
        let mut all = self.current.own()?;
        if let Some(former) = &self.former {
            all.extend(former.own()?);
        }
        let volumes = files::ids(&self.dir.join("volume"))?;
        for id in files::ids(&self.dir.join("project"))? {
            let project = ProjectId::from_untyped_uuid(id);
            let found = {
                let _files = self.reading();
                self.project_keys(project)?
            };
            for found in found {
                let key = self.open_project_key(&found)?;
                for id in &volumes {
                    // Each opens with the key of one project only.
                    let volume =
                        files::read(&self.dir.join("volume").join(id.to_string()))?.unwrap_or_default();
                    let record = Record::Volume(project, VolumeId::from_untyped_uuid(*id));
                    let opened = Wrapped::of(record, &volume).and_then(|w| open(&w.sealed, &key, &w.about()));
                    all.extend(opened.map(|key| (format!("volume/{id}"), key)));
                }
                let name = found.path.file_name().unwrap_or_default().to_string_lossy();
                all.push((format!("project/{name}"), key));
            }
        }
        Ok(all)
    }

    /// What there is. `of` says of a volume whose wrapped key does not name its project whose it is.
    pub fn standing(&self, of: &dyn Fn(VolumeId) -> Option<ProjectId>) -> Result<Standing, KeyError> {
        let kek_generation = self.current.generation().ok();
        let _files = self.reading();
        let mut volumes = Vec::new();
        for id in files::ids(&self.dir.join("volume"))? {
            let bytes = files::read(&self.dir.join("volume").join(id.to_string()))?.unwrap_or_default();
            volumes.extend(Wrapped::project(&bytes).or_else(|| of(VolumeId::from_untyped_uuid(id))));
        }
        let mut projects = Vec::new();
        for id in files::ids(&self.dir.join("project"))? {
            let project = ProjectId::from_untyped_uuid(id);
            let found = self.project_keys(project)?;
            let Some(one) = found.first() else { continue };
            projects.push(ProjectStanding {
                project,
                generation: one.wrapped.generation,
                provider: one.wrapped.by.name(),
                kek_generation: one.wrapped.under,
                volumes: u32::try_from(volumes.iter().filter(|v| **v == project).count()).unwrap_or(u32::MAX),
                rotating: found.len() > 1,
            });
        }
        Ok(Standing {
            provider: self.current.by.name(),
            place: self.current.place.clone(),
            kek_generation,
            former: self.former.as_ref().map(|former| former.by.name()),
            projects,
        })
    }

    fn make_volume_key(&self, project: ProjectId, volume: VolumeId) -> Result<Key, KeyError> {
        let path = self.volume_path(volume);
        let read = || {
            let _files = self.reading();
            // One whose rotation was begun makes new keys under its next generation.
            Ok(self.project_keys(project)?.pop())
        };
        let key = random()?;
        settled(read, |found| {
            let made = match found {
                Some(_) => None,
                None if path.exists() => {
                    let path = path.display();
                    let text =
                        format!("the wrapped key `{path}` cannot be opened: its project's key is gone");
                    return Err(KeyError::new(text));
                }
                None => Some(self.make_project_key(project, 1, &self.project_path(project))?),
            };
            let (under, found) = match (&made, found) {
                (Some((key, found)), _) => (again(key), found),
                (None, Some(found)) => (self.open_project_key(found)?, found),
                (None, None) => return Err(changed()),
            };
            let generation = found.wrapped.generation;
            let mut wrapped = Wrapped::new(Record::Volume(project, volume), By::ProjectKey, 1, generation);
            wrapped.sealed = seal(&key, &under, &wrapped.about())?;
            let _files = self.changing();
            if !self.project_keys(project)?.contains(found) {
                return Err(changed());
            }
            files::write_new(&path, &wrapped.bytes()).map_err(|e| unwritten(&path, e))
        })?;
        Ok(key)
    }

    /// A new key of the project, in this file.
    pub(super) fn make_project_key(
        &self,
        project: ProjectId,
        generation: u32,
        path: &Path,
    ) -> Result<(Key, Found), KeyError> {
        let key = random()?;
        let found = settled(
            || self.current.generation(),
            |kek| {
                let wrapped = self.wrap_project_key(&key, project, generation, *kek)?;
                let bytes = Zeroizing::new(wrapped.bytes());
                let _files = self.changing();
                if *kek < self.least.load(Ordering::SeqCst) {
                    return Err(changed());
                }
                files::write_new(path, &bytes).map_err(|e| unwritten(path, e))?;
                Ok(Found { path: path.to_path_buf(), bytes, wrapped })
            },
        )?;
        Ok((key, found))
    }

    /// Wrapped by the provider, and seen to open: what it replaces is destroyed.
    pub(super) fn wrap_project_key(
        &self,
        key: &Key,
        project: ProjectId,
        generation: u32,
        kek: u32,
    ) -> Result<Wrapped, KeyError> {
        let mut wrapped = Wrapped::new(Record::Project(project), self.current.by, generation, kek);
        wrapped.sealed = self.current.wrap(key, kek, wrapped.about())?;
        let back = self.current.unwrap(wrapped.sealed.clone(), kek, wrapped.about())?;
        if back.expose_secret() == key.expose_secret() {
            return Ok(wrapped);
        }
        Err(KeyError::new("the key provider gives back another key than it was given"))
    }

    pub(super) fn open_project_key(&self, found: &Found) -> Result<Key, KeyError> {
        let (path, w) = (found.path.display(), &found.wrapped);
        let guard = [Some(&self.current), self.former.as_ref()].into_iter().flatten().find(|g| g.by == w.by);
        let guard = guard.ok_or_else(|| {
            let name = w.by.name();
            KeyError::new(format!(
                "the wrapped key `{path}` is wrapped by the provider `{name}`: name it in [former_keys]"
            ))
        })?;
        guard.unwrap(w.sealed.clone(), w.under, w.about()).map_err(|e| KeyError {
            what: format!("the wrapped key `{path}` cannot be opened: {}", e.what),
            ..e
        })
    }

    /// The project's key, and the next one where a rotation was begun.
    pub(super) fn project_keys(&self, project: ProjectId) -> Result<Vec<Found>, KeyError> {
        let mut all = Vec::new();
        for path in [self.project_path(project), self.next_path(project)] {
            all.extend(found(path, Record::Project(project))?);
        }
        Ok(all)
    }

    pub(super) fn volume(&self, project: ProjectId, volume: VolumeId) -> Result<Option<Found>, KeyError> {
        found(self.volume_path(volume), Record::Volume(project, volume))
    }

    /// Put another wrapping in the place of this one, where it is still there: it may have been destroyed meanwhile.
    pub(super) fn swap(&self, found: &Found, wrapped: &Wrapped) -> Result<bool, KeyError> {
        let _files = self.changing();
        if files::read(&found.path)?.is_none_or(|now| *now != *found.bytes) {
            return Ok(false);
        }
        files::replace(&found.path, &wrapped.bytes()).map_err(|e| unwritten(&found.path, e))?;
        Ok(true)
    }

    pub(super) fn project_path(&self, project: ProjectId) -> PathBuf {
        self.dir.join("project").join(project.into_untyped_uuid().to_string())
    }

    pub(super) fn next_path(&self, project: ProjectId) -> PathBuf {
        files::beside(&self.project_path(project), "next")
    }

    pub(super) fn volume_path(&self, volume: VolumeId) -> PathBuf {
        self.dir.join("volume").join(volume.into_untyped_uuid().to_string())
    }

    pub(super) fn rotating(&self) -> MutexGuard<'_, ()> {
        self.rotating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reading(&self) -> RwLockReadGuard<'_, ()> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn changing(&self) -> RwLockWriteGuard<'_, ()> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Do work on what was read, without keeping others from changing it: the provider may be asked, who takes his time.
/// Where it fails and something else is read by then, it is done once more.
fn settled<T: PartialEq, R>(
    read: impl Fn() -> Result<T, KeyError>,
    work: impl Fn(&T) -> Result<R, KeyError>,
) -> Result<R, KeyError> {
    let mut known = read()?;
    loop {
        match work(&known) {
            Err(failure) if !failure.unreachable => {
                let now = read()?;
                if now == known {
                    return Err(failure);
                }
                known = now;
            }
            done => return done,
        }
    }
}

fn changed() -> KeyError {
    KeyError::new("the project's key was changed meanwhile; it is tried again by itself")
}

/// A volume's key under its project's.
pub(super) fn open_volume(found: &Found, under: &Key) -> Result<Key, KeyError> {
    open(&found.wrapped.sealed, under, &found.wrapped.about())
        .ok_or_else(|| KeyError::new(format!("the wrapped key `{}` does not open", found.path.display())))
}

fn unwritten(path: &Path, cause: std::io::Error) -> KeyError {
    KeyError::because(format!("the wrapped key `{}` cannot be written", path.display()), cause)
}

fn found(path: PathBuf, record: Record) -> Result<Option<Found>, KeyError> {
    let Some(bytes) = files::read(&path)? else { return Ok(None) };
    let wrapped = Wrapped::of(record, &bytes)
        .ok_or_else(|| KeyError::new(format!("`{}` is no wrapped key of this record", path.display())))?;
    Ok(Some(Found { path, bytes, wrapped }))
}

/// The provider that the configuration names.
fn guard(dir: &Path, config: &ProviderConfig) -> Result<Guard, KeyError> {
    match config {
        ProviderConfig::File { seal, former_seal } => {
            let local = Local::load(dir, seal.as_ref(), former_seal.as_ref())?;
            Guard::new(By::File, dir.display().to_string(), Box::new(local))
        }
        ProviderConfig::Vault { address, ca_file, mount, key, token, namespace } => {
            let vault = Vault::new(address, ca_file, (mount, key), token, namespace)?;
            Guard::new(By::Vault, format!("{address}, {mount}/{key}"), Box::new(vault))
        }
        ProviderConfig::Pkcs11 { module, token, key, pin } => {
            let hsm = Hsm::new(module, token, key, pin)?;
            Guard::new(By::Pkcs11, format!("token {token}, {key}"), Box::new(hsm))
        }
        ProviderConfig::Tpm2 { device } => {
            Guard::new(By::Tpm2, device.clone(), Box::new(Tpm2::new(dir, device)?))
        }
    }
}
