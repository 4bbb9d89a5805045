//! Where backups lie: a directory, or a bucket of an S3-compatible store. Nothing that it gives back is believed
//! before its SHA-256 is.

use super::manifest;
use crate::{
    config::{BackupConfig, S3Config},
    edge::{EdgeError, Result},
};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use futures::{StreamExt as _, TryStreamExt as _};
use holm_proto::ids::BackupId;
use object_store::{
    Certificate, ClientOptions, ObjectStore, ObjectStoreExt as _, RetryConfig, aws::AmazonS3Builder,
    local::LocalFileSystem, path::Path as Key,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::runtime::{self, Runtime};
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// In a directory that is a place for backups. Where it is missing, a share is not mounted.
pub(super) const MARK: &str = "holm-backups";
/// For one object, tries and all.
const LIMIT: Duration = Duration::from_secs(300);
/// For one try of it.
const TRY_LIMIT: Duration = Duration::from_secs(120);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a store that says it is busy, or does not answer, is asked again.
const RETRY_LIMIT: Duration = Duration::from_secs(60);

/// A store, for one job.
#[derive(Debug)]
pub(super) struct Store {
    inner: Arc<dyn ObjectStore>,
    /// In front of every name.
    prefix: Key,
    /// Of a store in a directory.
    directory: Option<PathBuf>,
    patience: Patience,
}

/// Runs what may take too long, on the thread that asks.
#[derive(Debug)]
struct Patience(Option<Runtime>);

impl Patience {
    fn new() -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| EdgeError::because("cannot ask the store of backups", error))?;
        Ok(Self(Some(runtime)))
    }

    /// What came of it; `None` where it took longer.
    fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.0.as_ref()?.block_on(async { tokio::time::timeout(limit, work).await.ok() })
    }
}

impl Drop for Patience {
    /// A share that hangs is not waited for.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The file of an S3 store's credentials.
#[derive(Deserialize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
}

impl Store {
    /// As the configuration says. Credentials are read now, so that new ones need no restart.
    pub fn open(config: &BackupConfig) -> Result<Self> {
        let patience = Patience::new()?;
        let (inner, prefix): (Arc<dyn ObjectStore>, Key) = match (&config.directory, &config.s3) {
            (Some(directory), _) => {
                is_place(&patience, directory)?;
                (Arc::new(local(directory)?), Key::default())
            }
            (None, Some(s3)) => (Arc::new(bucket(s3)?), Key::from(s3.prefix.as_str())),
            (None, None) => return Err(EdgeError::new("`[host.backup]` names no place")),
        };
        Ok(Self { inner, prefix, directory: config.directory.clone(), patience })
    }

    /// Writes an object, whole or not at all.
    pub fn put(&self, backup: BackupId, name: &str, bytes: Vec<u8>) -> Result<()> {
        self.ask("write", backup, self.inner.put(&self.key(backup, name), bytes.into())).map(drop)
    }

    /// What there is of a backup: names and bytes.
    pub fn list(&self, backup: BackupId) -> Result<BTreeMap<String, u64>> {
        let folder = self.folder(backup);
        let listed = self.inner.list(Some(&folder)).try_collect::<Vec<_>>();
        let all = self.ask("list", backup, listed)?;
        let name = |key: &Key| key.filename().map(str::to_owned);
        Ok(all.into_iter().filter_map(|found| Some((name(&found.location)?, found.size))).collect())
    }

    /// A chunk, checked.
    pub fn chunk(&self, backup: BackupId, name: &str, length: usize) -> Result<Vec<u8>> {
        let bytes = self.get(backup, name, length as u64)?;
        if bytes.len() != length || HEXLOWER.encode(digest(&SHA256, &bytes).as_ref()) != name {
            return Err(EdgeError::new(format!(
                "a chunk of backup `{backup}` is not what was written: the store has damaged it"
            )));
        }
        Ok(bytes)
    }

    /// A manifest, unchecked.
    pub fn manifest(&self, backup: BackupId) -> Result<Vec<u8>> {
        self.get(backup, manifest::NAME, manifest::MAX_BYTES)
    }

    /// Removes all that there is of a backup, the manifest first: what has none is no backup.
    pub fn remove(&self, backup: BackupId) -> Result<()> {
        let all = self.list(backup)?;
        let (manifest, chunks): (Vec<_>, Vec<_>) = all.into_keys().partition(|name| name == manifest::NAME);
        for names in [manifest, chunks] {
            self.delete(backup, names.into_iter())?;
        }
        // And what a kill left of a writing, which is no object.
        let Some(directory) = &self.directory else { return Ok(()) };
        let folder = directory.join(backup.to_string());
        let stays = |why: &str| EdgeError::new(format!("cannot remove all of backup `{backup}`: {why}"));
        match self.patience.within(LIMIT, tokio::fs::remove_dir_all(folder)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(stays(&error.to_string())),
            Some(_) => Ok(()),
            None => Err(stays("the store does not answer")),
        }
    }

    /// Removes these of a backup. What is not there is removed.
    pub fn delete(&self, backup: BackupId, names: impl Iterator<Item = String>) -> Result<()> {
        let keys: Vec<_> = names.map(|name| Ok(self.key(backup, &name))).collect();
        let removed = self.inner.delete_stream(futures::stream::iter(keys).boxed());
        let outcome: Vec<_> = self.ask("remove", backup, async { Ok(removed.collect::<Vec<_>>().await) })?;
        for one in outcome {
            match one {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(lost("remove", backup, error)),
            }
        }
        Ok(())
    }

    fn get(&self, backup: BackupId, name: &str, most: u64) -> Result<Vec<u8>> {
        let key = self.key(backup, name);
        self.ask("read", backup, async {
            let found = self.inner.get(&key).await?;
            if found.meta.size > most {
                let source = io::Error::other("it is larger than what was written").into();
                return Err(object_store::Error::Generic { store: "backups", source });
            }
            found.bytes().await.map(Vec::from)
        })
    }

    fn ask<T>(
        &self,
        doing: &str,
        backup: BackupId,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        let silent =
            || EdgeError::new(format!("cannot {doing} backup `{backup}`: the store does not answer"));
        self.patience.within(LIMIT, work).ok_or_else(silent)?.map_err(|error| lost(doing, backup, error))
    }

    fn folder(&self, backup: BackupId) -> Key {
        self.prefix.clone().join(backup.to_string())
    }

    fn key(&self, backup: BackupId, name: &str) -> Key {
        self.folder(backup).join(name)
    }
}

/// Refuses a directory where no share is mounted, or one that hangs.
fn is_place(patience: &Patience, directory: &Path) -> Result<()> {
    let found = patience.within(CONNECT_LIMIT, tokio::fs::metadata(directory.join(MARK)));
    let directory = directory.display();
    match found {
        Some(Ok(found)) if found.is_file() => Ok(()),
        Some(_) => Err(EdgeError::new(format!(
            "`{directory}` has no file `{MARK}`: a share that is not mounted, or no place for backups yet (`touch \
             {directory}/{MARK}`)"
        ))),
        None => Err(EdgeError::new(format!("`{directory}` does not answer: a share that is gone"))),
    }
}

fn local(directory: &Path) -> Result<LocalFileSystem> {
    LocalFileSystem::new_with_prefix(directory)
        .map(|store| store.with_fsync(true).with_automatic_cleanup(true))
        .map_err(|error| EdgeError::because(format!("cannot use `{}`", directory.display()), error))
}

fn bucket(config: &S3Config) -> Result<object_store::aws::AmazonS3> {
    let unread = |path: &Path, error: io::Error| {
        EdgeError::because(format!("cannot read `{}`", path.display()), error)
    };
    let path = &config.credentials;
    let mode = fs::metadata(path).map_err(|error| unread(path, error))?.mode();
    if mode & 0o077 != 0 {
        return Err(EdgeError::new(format!(
            "others can read `{0}`, which holds a secret: `chmod 600 {0}`",
            path.display()
        )));
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| unread(path, error))?);
    // What is wrong with it is not said: the words would hold a part of it.
    let credentials: Credentials = toml::from_str(&text).map_err(|_| {
        EdgeError::new(format!("`{}` does not say `access_key_id` and `secret_access_key`", path.display()))
    })?;
    let mut client = ClientOptions::new().with_timeout(TRY_LIMIT).with_connect_timeout(CONNECT_LIMIT);
    if let Some(path) = &config.ca {
        let pem = fs::read(path).map_err(|error| unread(path, error))?;
        let all = Certificate::from_pem_bundle(&pem).map_err(|error| {
            EdgeError::because(format!("`{}` has no certificate of an authority", path.display()), error)
        })?;
        client = all.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    AmazonS3Builder::new()
        .with_endpoint(&config.endpoint)
        .with_region(&config.region)
        .with_bucket_name(&config.bucket)
        .with_access_key_id(&credentials.access_key_id)
        .with_secret_access_key(&credentials.secret_access_key)
        .with_client_options(client)
        // Some that call themselves compatible have no call for many at once.
        .with_disable_bulk_delete(true)
        .with_retry(RetryConfig { retry_timeout: RETRY_LIMIT, ..RetryConfig::default() })
        .build()
        .map_err(|error| EdgeError::because("`[host.backup.s3]` cannot be used", error))
}

/// What a store says of itself may be long, and is no tenant's to read: the agent's own messages have it.
fn lost(doing: &str, backup: BackupId, error: object_store::Error) -> EdgeError {
    tracing::warn!(%backup, "the store of backups: {}", holm_proto::chain(&error));
    let why = match &error {
        object_store::Error::NotFound { .. } => "something of it is not in the store",
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            "the store refuses this host"
        }
        _ => "the store fails, or cannot be reached",
    };
    EdgeError::new(format!("cannot {doing} backup `{backup}`: {why}; the host's messages say more"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn id() -> BackupId {
        "5f0c7c8e-0000-4000-8000-000000000002".parse().unwrap()
    }

    fn keeps_objects(store: &Store) {
        let name = HEXLOWER.encode(digest(&SHA256, b"chunk").as_ref());
        assert!(store.list(id()).unwrap().is_empty());
        assert!(store.manifest(id()).unwrap_err().chain().contains("not in the store"));
        for _ in 0..2 {
            store.put(id(), &name, b"chunk".to_vec()).unwrap();
        }
        store.put(id(), manifest::NAME, vec![7; 6 << 20]).unwrap();
        let all = store.list(id()).unwrap();
        assert_eq!((all.len(), all[&name], all["manifest"]), (2, 5, 6 << 20));
        assert_eq!(store.chunk(id(), &name, 5).unwrap(), b"chunk");
        assert!(store.chunk(id(), &name, 4).unwrap_err().chain().contains("the store fails"));
        assert!(store.chunk(id(), &name, 6).unwrap_err().chain().contains("not what was written"));
        store.put(id(), &name, b"other".to_vec()).unwrap();
        assert!(store.chunk(id(), &name, 5).unwrap_err().chain().contains("not what was written"));
        assert_eq!(store.manifest(id()).unwrap().len(), 6 << 20);
        for _ in 0..2 {
            store.remove(id()).unwrap();
            assert!(store.list(id()).unwrap().is_empty());
        }
    }

    #[test]
    fn a_directory_keeps_objects_and_one_that_is_not_mounted_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let config = BackupConfig { directory: Some(directory.path().to_owned()), s3: None };
        let error = Store::open(&config).unwrap_err().chain();
        assert!(error.contains("a share that is not mounted") && error.contains("touch"), "{error}");
        fs::write(directory.path().join(MARK), "").unwrap();
        keeps_objects(&Store::open(&config).unwrap());
        // Half a writing goes, too.
        let folder = directory.path().join(id().to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("chunk#1"), "half").unwrap();
        Store::open(&config).unwrap().remove(id()).unwrap();
        assert!(!folder.exists());
        // A full or a lost one fails, and is told from a chunk that is missing.
        fs::write(directory.path().join(id().to_string()), "in the way").unwrap();
        let error = Store::open(&config).unwrap().put(id(), "x", vec![1]).unwrap_err().chain();
        assert!(error.contains("the store fails, or cannot be reached"), "{error}");
    }

    fn s3(endpoint: &str, credentials: PathBuf, ca: Option<PathBuf>) -> BackupConfig {
        let s3 = S3Config {
            endpoint: endpoint.to_owned(),
            bucket: "holm".to_owned(),
            region: "us-east-1".to_owned(),
            prefix: "a/b".to_owned(),
            credentials,
            ca,
        };
        BackupConfig { directory: None, s3: Some(s3) }
    }

    #[test]
    fn credentials_are_roots_alone_and_are_never_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = |text: &str, mode| {
            fs::write(file.path(), text).unwrap();
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            Store::open(&s3("https://127.0.0.1:1", file.path().to_owned(), None)).map(|s| format!("{s:?}"))
        };
        let good = "access_key_id = \"AKIA\"\nsecret_access_key = \"SECRET\"";
        assert!(open(good, 0o644).unwrap_err().chain().contains("chmod 600"));
        for bad in
            ["secret_access_key = \"SECRET\"", "access_key_id = \"AKIA\"\nsecret = \"SECRET\"", "SECRET"]
        {
            let error = open(bad, 0o600).unwrap_err().chain();
            assert!(error.contains("does not say") && !error.contains("SECRET"), "{error}");
        }
        assert!(!open(good, 0o600).unwrap().contains("SECRET"));
        let none = s3("https://127.0.0.1:1", "/no/such".into(), None);
        assert!(Store::open(&none).unwrap_err().chain().contains("`/no/such`"));
    }

    /// Against a server that somebody has started: `HOLM_S3=https://HOST:PORT`, `HOLM_S3_CA`, a bucket `holm`, and any
    /// credentials.
    #[test]
    fn a_bucket_keeps_objects() {
        let (Some(endpoint), ca) = (std::env::var("HOLM_S3").ok(), std::env::var_os("HOLM_S3_CA")) else {
            println!("skipped: there is no S3 server: set HOLM_S3");
            return;
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "access_key_id = \"AKIA\"\nsecret_access_key = \"SECRET\"").unwrap();
        let config = s3(&endpoint, file.path().to_owned(), ca.map(Into::into));
        keeps_objects(&Store::open(&config).unwrap());
    }
}
