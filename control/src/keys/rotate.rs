//! Rotation: what is behind the newest generation is wrapped anew.
//!
//! ```text
//!   rotate_kek        the provider makes generation k + 1
//!   begin_project     project/ID.next: a new key, generation n + 1
//!   finish            for each project: its key to k + 1 ─▶ its volumes' keys to n + 1 ─▶ ID.next takes ID's place
//!                     then, if all went well: generations below k + 1 are retired
//! ```
//!
//! Each file is changed whole ([`super::files`]) and says by which generation it is wrapped, so a kill between any two
//! steps leaves every key readable, and `finish` goes on from there. A rotation never changes a volume's key: what runs
//! runs on, and its disk stays as it is.

use super::ring::{Found, Keyring, open_volume};
use super::wrapped::{By, Wrapped, open, seal};
use super::{Key, KeyError, files, fingerprint};
use holm_proto::ids::{ProjectId, VolumeId};
use newtype_uuid::GenericUuid;
use secrecy::ExposeSecret;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// A step that is done, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field says what it is by its name")]
pub enum Done {
    /// A project's key is wrapped by a newer key-encryption key.
    Rewrapped { project: ProjectId, generation: u32, kek_generation: u32, fingerprint: String },
    /// A project has a new key, and the one before is destroyed.
    Rotated { project: ProjectId, from: u32, to: u32, before: String, after: String, volumes: usize },
    /// Nothing is wrapped by older key-encryption keys any more; the provider was told so.
    Retired { below: u32 },
}

/// The volumes of a project, as holmd's records have them. Wrapped keys of version 1 do not say it.
pub(crate) type VolumesOf<'a> = &'a dyn Fn(ProjectId) -> Vec<VolumeId>;

impl Keyring {
    /// Have the provider make a new generation of the key-encryption key: the one before, and the new one.
    /// [`Self::finish`] does the rest.
    pub fn rotate_kek(&self) -> Result<(u32, u32), KeyError> {
        let _rotating = self.rotating();
        let before = self.current.generation()?;
        self.behind.store(true, Ordering::SeqCst);
        Ok((before, self.current.rotate()?))
    }

    /// Make the project's next key. [`Self::finish`] does the rest. Nothing happens where it was begun before.
    pub fn begin_project(&self, project: ProjectId) -> Result<(), KeyError> {
        let _rotating = self.rotating();
        self.behind.store(true, Ordering::SeqCst);
        let found = {
            let _files = self.reading();
            self.project_keys(project)?
        };
        let (now, next) = (found.first(), found.get(1));
        if next.is_some() {
            return Ok(());
        }
        let now =
            now.ok_or_else(|| KeyError::new("the project has no key yet: its first slice gets it one"))?;
        let generation = now.wrapped.generation.checked_add(1);
        let generation = generation.ok_or_else(|| KeyError::new("no generation is left"))?;
        self.make_project_key(project, generation, &self.next_path(project))?;
        // It may have been destroyed meanwhile, with its last volume.
        let _files = self.changing();
        if !self.project_path(project).exists() {
            files::shred(&self.next_path(project))?;
        }
        Ok(())
    }

    /// Wrap anew what is behind. `done` is told of each step; what failed is tried again at the next call.
    pub fn finish(&self, volumes: VolumesOf<'_>, done: &mut dyn FnMut(Done)) -> Result<(), KeyError> {
        let _rotating = self.rotating();
        self.behind.store(true, Ordering::SeqCst);
        let newest = self.current.generation()?;
        // Once more where a key was made by an older one meanwhile.
        loop {
            let projects = self.projects()?;
            // One project's damaged file does not keep the others' keys under an old one.
            let mut damaged = None;
            for project in projects {
                put_by(self.rewrap(project, newest, done), &mut damaged)?;
                put_by(self.finish_project(project, volumes, done), &mut damaged)?;
            }
            if let Some(failure) = damaged {
                return Err(failure);
            }
            if self.is_through(newest)? {
                break;
            }
        }
        if self.retired.load(Ordering::Relaxed) < newest {
            self.current.retire(newest)?;
            // What lies in files here is destroyed; what another provider held is its operator's.
            if let Some(former) =
                self.former.as_ref().filter(|former| matches!(former.by, By::File | By::Tpm2))
            {
                former.retire(u32::MAX)?;
            }
            self.retired.store(newest, Ordering::Relaxed);
            done(Done::Retired { below: newest });
        }
        self.behind.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Whether there may be something for [`Self::finish`] to do. What somebody else rotated at the provider it does
    /// not know of.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::SeqCst)
    }

    fn projects(&self) -> Result<Vec<ProjectId>, KeyError> {
        let ids = files::ids(&self.dir.join("project"))?;
        Ok(ids.into_iter().map(ProjectId::from_untyped_uuid).collect())
    }

    /// Whether all is wrapped by this generation, which from then on it stays.
    fn is_through(&self, newest: u32) -> Result<bool, KeyError> {
        let _files = self.changing();
        for project in self.projects()? {
            let keys = self.project_keys(project)?;
            if keys.iter().any(|found| self.is_old(found, newest)) {
                return Ok(false);
            }
        }
        self.least.store(newest, Ordering::SeqCst);
        Ok(true)
    }

    fn is_old(&self, found: &Found, newest: u32) -> bool {
        found.wrapped.by != self.current.by || found.wrapped.under < newest
    }

    fn rewrap(&self, project: ProjectId, newest: u32, done: &mut dyn FnMut(Done)) -> Result<(), KeyError> {
        let found = {
            let _files = self.reading();
            self.project_keys(project)?
        };
        found.iter().try_for_each(|found| self.rewrap_project(project, found, newest, done))
    }

    fn rewrap_project(
        &self,
        project: ProjectId,
        found: &Found,
        newest: u32,
        done: &mut dyn FnMut(Done),
    ) -> Result<(), KeyError> {
        if !self.is_old(found, newest) {
            return Ok(());
        }
        let key = self.open_project_key(found)?;
        let generation = found.wrapped.generation;
        let wrapped = self.wrap_project_key(&key, project, generation, newest)?;
        if self.swap(found, &wrapped)? {
            let fingerprint = fingerprint(&key);
            done(Done::Rewrapped { project, generation, kek_generation: newest, fingerprint });
        }
        Ok(())
    }

    fn finish_project(
        &self,
        project: ProjectId,
        volumes: VolumesOf<'_>,
        done: &mut dyn FnMut(Done),
    ) -> Result<(), KeyError> {
        while !self.is_rotated(project, volumes, done)? {}
        Ok(())
    }

    /// Wrap anew what the project's key wraps, and have its next one take its place; false where another volume's key
    /// was made meanwhile.
    fn is_rotated(
        &self,
        project: ProjectId,
        volumes: VolumesOf<'_>,
        done: &mut dyn FnMut(Done),
    ) -> Result<bool, KeyError> {
        let (keys, behind) = {
            let _files = self.reading();
            let keys = self.project_keys(project)?;
            let [_, next] = keys.as_slice() else { return Ok(true) };
            let behind = self.under_older(project, next, volumes)?;
            (keys, behind)
        };
        let [now, next] = keys.as_slice() else { return Ok(true) };
        let (old, new) = (self.open_project_key(now)?, self.open_project_key(next)?);
        for found in behind {
            if found.wrapped.under != now.wrapped.generation {
                let (path, under) = (found.path.display(), found.wrapped.under);
                let text = format!(
                    "the wrapped key `{path}` needs generation {under} of its project's key, which is gone"
                );
                return Err(KeyError::new(text));
            }
            self.swap(&found, &rewrapped(&found, &old, &new, next)?)?;
        }
        let _files = self.changing();
        // What was destroyed meanwhile stays so.
        if self.project_keys(project)? != keys {
            return Ok(true);
        }
        if !self.under_older(project, next, volumes)?.is_empty() {
            return Ok(false);
        }
        let path = self.project_path(project);
        files::take_place(&next.path, &path).map_err(|e| {
            KeyError::because(format!("the wrapped key `{}` cannot be written", path.display()), e)
        })?;
        let under = self.of_project(project, volumes)?.len();
        done(Done::Rotated {
            project,
            from: now.wrapped.generation,
            to: next.wrapped.generation,
            before: fingerprint(&old),
            after: fingerprint(&new),
            volumes: under,
        });
        Ok(true)
    }

    /// The volumes of a project that its next key does not wrap yet.
    fn under_older(
        &self,
        project: ProjectId,
        next: &Found,
        volumes: VolumesOf<'_>,
    ) -> Result<Vec<Found>, KeyError> {
        let mut all = self.of_project(project, volumes)?;
        all.retain(|found| found.wrapped.under != next.wrapped.generation);
        Ok(all)
    }

    /// The wrapped volume keys of a project: those that say so, and those of its records.
    fn of_project(&self, project: ProjectId, volumes: VolumesOf<'_>) -> Result<Vec<Found>, KeyError> {
        let listed: BTreeSet<VolumeId> = volumes(project).into_iter().collect();
        let mut all = Vec::new();
        for id in files::ids(&self.dir.join("volume"))? {
            let volume = VolumeId::from_untyped_uuid(id);
            let bytes = files::read(&self.volume_path(volume))?.unwrap_or_default();
            let ours = match Wrapped::project(&bytes) {
                Some(of) => of == project,
                None => listed.contains(&volume),
            };
            if ours {
                all.extend(self.volume(project, volume)?);
            }
        }
        Ok(all)
    }
}

/// What failed is put by, the first of it; only where the provider is away is there no point in going on.
fn put_by(outcome: Result<(), KeyError>, first: &mut Option<KeyError>) -> Result<(), KeyError> {
    match outcome {
        Err(failure) if !failure.unreachable => drop(first.get_or_insert(failure)),
        other => other?,
    }
    Ok(())
}

/// A volume's key under its project's next key, seen to open: what it replaces is destroyed.
fn rewrapped(found: &Found, old: &Key, new: &Key, next: &Found) -> Result<Wrapped, KeyError> {
    let key = open_volume(found, old)?;
    let (record, generation) = (found.wrapped.record(), found.wrapped.generation);
    let mut wrapped = Wrapped::new(record, By::ProjectKey, generation, next.wrapped.generation);
    wrapped.sealed = seal(&key, new, &wrapped.about())?;
    let back = open(&wrapped.sealed, new, &wrapped.about());
    if back.is_some_and(|back| back.expose_secret() == key.expose_secret()) {
        return Ok(wrapped);
    }
    Err(KeyError::new("a key could not be wrapped"))
}
