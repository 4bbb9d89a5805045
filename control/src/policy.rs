//! The pack in force: which one it is, where it lies, and who signed it.
//!
//! ```text
//!   holmd.toml `pack`      nobody has loaded another ──┐
//!                                                      ├─▶ Rules ──▶ each decision
//!   DATA/policies/DIGEST/  an officer has: the record ─┘
//!                          `policy` says which
//! ```
//!
//! A pack that is loaded is on disk before the record says so, and decides after that. A kill in between leaves a
//! directory that nothing refers to.

use crate::app::Failure;
use crate::audit::{SigningKey, note};
use crate::config::{Config, PolicyConfig};
use crate::domain::State;
use crate::domain::policy as domain;
use crate::domain::records::Policy;
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

/// The packs that are at hand. Which of them decides, the state says: what is in the log is in force, and nothing else.
#[derive(Debug)]
pub struct Rules {
    /// The one of the start, which decides where a state names none of the others.
    first: Arc<Pack>,
    /// By digest.
    packs: RwLock<Vec<(String, Arc<Pack>)>>,
}

impl Rules {
    /// This one, to begin with.
    pub fn new(pack: Pack) -> Self {
        Self { first: Arc::new(pack), packs: RwLock::default() }
    }

    /// The one that decides in this state.
    pub fn of(&self, state: &State) -> Arc<Pack> {
        let packs = self.packs.read().unwrap_or_else(PoisonError::into_inner);
        let named = state.policy.as_ref().map(|policy| policy.digest.as_str());
        let found = packs.iter().find(|(digest, _)| Some(digest.as_str()) == named);
        Arc::clone(found.map_or(&self.first, |(_, pack)| pack))
    }

    /// Have one at hand, for a state that is about to name it.
    pub fn stage(&self, pack: Pack) {
        let digest = digest(&pack);
        let mut packs = self.packs.write().unwrap_or_else(PoisonError::into_inner);
        packs.retain(|(of, _)| *of != digest);
        packs.push((digest, Arc::new(pack)));
    }
}

/// What is signed: the pack's name and version, and each file's SHA-256, a line each.
pub fn statement(pack: &Pack) -> String {
    statement_of(pack.id(), pack.texts())
}

/// The same of files that nobody has read yet.
pub fn statement_of(id: &str, texts: [&str; 3]) -> String {
    let mut text = format!("holm policy pack\n{id}\n");
    for (name, file) in FILES.iter().zip(texts) {
        text.push_str(&format!("{} {name}\n", HEXLOWER.encode(hash(&SHA256, file.as_bytes()).as_ref())));
    }
    text
}

/// SHA-256 of what is signed, hexadecimal.
pub fn digest(pack: &Pack) -> String {
    digest_of(&statement(pack))
}

/// The same of what is signed.
pub fn digest_of(statement: &str) -> String {
    HEXLOWER.encode(hash(&SHA256, statement.as_bytes()).as_ref())
}

/// Sign a pack; what is returned is [`SIGNATURE`].
pub fn sign(pack: &Pack, key: &SigningKey, name: &str) -> String {
    note::sign(key, name, &statement(pack))
}

/// Who signed the pack with this [`statement`]; an error says why nobody who is trusted did.
pub fn signer(statement: &str, signature: &str, trusted: &[String]) -> Result<String, String> {
    if trusted.is_empty() {
        return Err("this holmd trusts no key for it".to_owned());
    }
    let mut why = String::new();
    for vkey in trusted {
        match note::verify(signature, vkey) {
            Ok(text) if text == statement => {
                return Ok(vkey.split('+').next().unwrap_or_default().to_owned());
            }
            Ok(_) => return Err("the signature is of other files than these".to_owned()),
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
        signer(&statement(&pack), &signature, &config.signers).map_err(|why| {
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
    let signer = signer(&statement(&pack), &signature, &config.policy.signers).map_err(refused)?;
    crate::app::enforceable(&pack, config.login.is_some()).map_err(refused)?;
    keep(&config.data, &pack, &signature)
        .map_err(|e| Failure::because("the pack cannot be stored", "", e))?;
    let call = Call::own("policy.load", "policy".to_owned());
    let digest = digest(&pack);
    let detail =
        serde_json::json!({ "pack": pack.id(), "digest": digest, "signer": signer, "offline": true });
    let written = ledger.commit(&call, |state, since| {
        let record = Policy::of(&pack, digest, signer, None, since);
        Ok(Decided { detail, ..Decided::new(domain::load(state, &pack, record.clone())?, record) })
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
    if Pack::load(&whole).is_ok_and(|there| digest(&there) == digest(pack)) {
        return Ok(());
    }
    // Half a one that a kill left, or one that was damaged since.
    for left in [&whole, &beside] {
        match fs::remove_dir_all(left) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
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
