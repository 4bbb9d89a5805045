//! The pack in force: which one it is, where it lies, and who signed it.
//!
//! ```text
//!   holmd.toml `pack`      nobody has loaded another ──┐
//!                                                      ├─▶ InForce ──▶ each decision
//!   DATA/policies/DIGEST/  an officer has: the record ─┘
//!                          `policy` says which
//! ```
//!
//! A pack that is loaded is on disk before the record says so, and decides after that. A kill in between leaves a
//! directory that nothing refers to.

use crate::app::Failure;
use crate::audit::{SigningKey, note};
use crate::config::{Config, PolicyConfig};
use crate::domain::records::{Change, Policy, Record};
use crate::ledger::{Call, Decided, Ledger, chain};
use aws_lc_rs::digest::{SHA256, digest as hash};
use data_encoding::HEXLOWER;
use holm_policies::{FILES, Pack};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Beside the files of a pack.
pub const SIGNATURE: &str = "pack.sig";

/// The pack that decides, now.
#[derive(Debug)]
pub struct InForce {
    pack: RwLock<Arc<Pack>>,
}

impl InForce {
    /// This one, to begin with.
    pub fn new(pack: Pack) -> Self {
        Self { pack: RwLock::new(Arc::new(pack)) }
    }

    /// The one that decides. Who asks twice may get two: one question is answered by one pack.
    pub fn pack(&self) -> Arc<Pack> {
        Arc::clone(&self.pack.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this one decides.
    pub fn replace(&self, pack: Pack) {
        *self.pack.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pack);
    }
}

/// What is signed: the pack's name and version, and each file's SHA-256, a line each.
pub fn statement(pack: &Pack) -> String {
    let mut text = format!("holm policy pack\n{}\n", pack.id());
    for (name, file) in FILES.iter().zip(pack.texts()) {
        text.push_str(&format!("{} {name}\n", HEXLOWER.encode(hash(&SHA256, file.as_bytes()).as_ref())));
    }
    text
}

/// SHA-256 of what is signed, hexadecimal.
pub fn digest(pack: &Pack) -> String {
    HEXLOWER.encode(hash(&SHA256, statement(pack).as_bytes()).as_ref())
}

/// Sign a pack; what is returned is [`SIGNATURE`].
pub fn sign(pack: &Pack, key: &SigningKey, name: &str) -> String {
    note::sign(key, name, &statement(pack))
}

/// Who signed this pack; an error says why nobody who is trusted did.
pub fn signer(pack: &Pack, signature: &str, trusted: &[String]) -> Result<String, String> {
    if trusted.is_empty() {
        return Err("this holmd trusts no key to sign packs".to_owned());
    }
    let mut why = String::new();
    for vkey in trusted {
        match note::verify(signature, vkey) {
            Ok(text) if text == statement(pack) => {
                return Ok(vkey.split('+').next().unwrap_or_default().to_owned());
            }
            Ok(_) => return Err(format!("the signature is of other files than these of {}", pack.id())),
            Err(e) => why = e.to_string(),
        }
    }
    Err(why)
}

/// The pack that this configuration and this record make the one in force.
pub fn in_force(
    config: &PolicyConfig,
    named: &str,
    data: &Path,
    record: Option<&Policy>,
) -> Result<Pack, Failure> {
    let Some(loaded) = record.filter(|policy| policy.is_loaded()) else {
        return configured(config, named);
    };
    let directory = place(data, &loaded.digest);
    let next = format!(
        "restore `{}` from a copy, or load another pack offline: holmd policy load DIR",
        directory.display()
    );
    let refused = |e| Failure::because(format!("the pack {} is not accepted", loaded.pack), next.clone(), e);
    let pack = Pack::load(&directory).map_err(refused)?;
    if digest(&pack) != loaded.digest {
        let what = format!("the files of the pack {} are not those that were loaded", loaded.pack);
        return Err(Failure::new(what, next));
    }
    Ok(pack)
}

/// The pack that the configuration names: one that comes with holmd, or a directory.
pub fn configured(config: &PolicyConfig, named: &str) -> Result<Pack, Failure> {
    let next = "mend it, then: holmd check";
    if !named.contains('/') {
        return Pack::builtin(named)
            .map_err(|e| Failure::because("the policy pack is not accepted", next, e));
    }
    let pack = Pack::load(Path::new(named))
        .map_err(|e| Failure::because("the policy pack is not accepted", next, e))?;
    if !config.signers.is_empty() {
        let file = Path::new(named).join(SIGNATURE);
        let signature = fs::read_to_string(&file).map_err(|e| {
            let what = format!("the policy pack is not signed: `{}` cannot be read", file.display());
            Failure::because(what, "holm policy sign DIR --key FILE", e)
        })?;
        signer(&pack, &signature, &config.signers).map_err(|why| {
            Failure::new(format!("the policy pack is not accepted: {why}"), "holm policy sign DIR --key FILE")
        })?;
    }
    Ok(pack)
}

/// Load a pack while holmd does not run: where the one in force is not accepted any more, as after an upgrade that has
/// more actions. It must be signed all the same.
pub fn load_offline(config: &Config, ledger: &Ledger, directory: &Path) -> Result<Policy, Failure> {
    let next = "holm policy check DIR; holm policy sign DIR --key FILE";
    let refused = |why: String| Failure::new(format!("this pack is not accepted: {why}"), next);
    let pack = Pack::load(directory).map_err(|e| refused(chain(&e)))?;
    let signature = fs::read_to_string(directory.join(SIGNATURE))
        .map_err(|e| refused(format!("its `{SIGNATURE}` cannot be read: {e}")))?;
    let signer = signer(&pack, &signature, &config.policy.signers).map_err(refused)?;
    keep(&config.data, &pack, &signature)
        .map_err(|e| Failure::because("the pack cannot be stored", "", e))?;
    let call = Call::own("policy.load", "policy".to_owned());
    let digest = digest(&pack);
    let detail =
        serde_json::json!({ "pack": pack.id(), "digest": digest, "signer": signer, "offline": true });
    let written = ledger.commit(&call, |_, since| {
        let record = Policy { pack: pack.id().to_owned(), digest, signer, loaded_by: None, since };
        let change = Change::Put(Record::Policy(record.clone()));
        Ok(Decided { detail, ..Decided::new(vec![change], record) })
    });
    written.map_err(|refusal| Failure::new(format!("nothing was loaded: {refusal}"), refusal.hint))
}

/// Where a pack that was loaded lies.
fn place(data: &Path, digest: &str) -> PathBuf {
    data.join("policies").join(digest)
}

/// Put a pack where the next start finds it; durable when it returns.
pub fn keep(data: &Path, pack: &Pack, signature: &str) -> io::Result<()> {
    let (whole, beside) = (place(data, &digest(pack)), place(data, "new"));
    if whole.is_dir() {
        return Ok(());
    }
    match fs::remove_dir_all(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&beside)?;
    let texts = pack.texts();
    let files = FILES.iter().copied().zip(texts).chain([(SIGNATURE, signature)]);
    for (name, text) in files {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside.join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    File::open(&beside)?.sync_all()?;
    fs::rename(&beside, &whole)?;
    File::open(data.join("policies"))?.sync_all()?;
    File::open(data)?.sync_all()
}
