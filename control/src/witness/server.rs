//! A witness: C2SP tlog-witness, for the logs in its configuration. It has nothing of Holm's but the log's public key.
//!
//! ```text
//!   POST /add-checkpoint ──▶ a form? known? signed by the log? from where the witness is? grown out of it?
//!                              │ 400   404     403                409, its size          422
//!                              ▼
//!                            kept: the cosigned checkpoint, one file a log, synced, renamed, synced ──▶ 200, the cosignature
//!   GET /SHA256(origin)/checkpoint ──▶ what it cosigned last
//! ```
//!
//! For one log one request is judged at a time, by what is on the disk. A cosignature leaves only after its checkpoint is
//! durable: a kill before that leaves the older one, and nobody has the newer cosignature.

use super::cosignature::{self, WitnessKey};
use crate::app::Failure;
use crate::audit::note::{self, NoteError};
use crate::audit::{Checkpoint, Hash, SigningKey, tree};
use crate::kept;
use aws_lc_rs::digest;
use data_encoding::{BASE64, HEXLOWER};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Hashes in a proof.
const HASHES: usize = 63;
const KEY: &str = "witness.key";
const CONFIG: &str = "witness.toml";

/// `witness.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// The witness's name for good, as a URL without scheme.
    pub name: String,
    /// Its key, and what it cosigned last of each log.
    pub data: PathBuf,
    /// Where it listens. Without a certificate only on this machine, for a proxy.
    pub listen: SocketAddr,
    /// Public keys of the logs that it knows, `NAME+HASH+KEY`, as `holm audit key` prints them.
    pub logs: Vec<String>,
    /// The certificate chain that it shows, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The certificate's key, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_key: Option<PathBuf>,
}

impl WitnessConfig {
    /// Read and check.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
            Failure::because(format!("`{}` cannot be used", path.display()), "holmd witness init", e)
        };
        let text = fs::read_to_string(path).map_err(|e| failed(e.into()))?;
        toml::from_str(&text).map_err(|e| failed(e.into()))
    }
}

/// Make a witness in a new directory: its key, and a configuration to be completed. Its public key.
pub fn init(dir: &Path, name: &str) -> Result<(PathBuf, WitnessKey), Failure> {
    let next = "holmd witness init --dir DIRECTORY --name example.org/w1";
    if !note::is_name(name) {
        let what = format!("`{}` cannot be a witness's name: no spaces and no `+`", name.escape_debug());
        return Err(Failure::new(what, next));
    }
    let failed = |e: io::Error| Failure::because(format!("`{}` cannot be made", dir.display()), next, e);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let dir = dir.canonicalize().map_err(failed)?;
    // Refuses where there is one: with it the witness would lose its name.
    let key = SigningKey::create(&dir.join(KEY))
        .map_err(|e| Failure::because("the witness's key cannot be made", next, e))?;
    let config = WitnessConfig {
        name: name.to_owned(),
        data: dir.clone(),
        listen: SocketAddr::from(([127, 0, 0, 1], 7445)),
        logs: Vec::new(),
        certificate: None,
        certificate_key: None,
    };
    let text = toml::to_string(&config)
        .map_err(|e| Failure::because("the configuration cannot be written", next, e))?;
    let path = dir.join(CONFIG);
    let said = "# A witness's configuration. In `logs` goes what `holm audit key` prints, on each holmd that it is to \
                witness.\n# Without `certificate` and `certificate_key` it listens on this machine alone.\n";
    kept::write_bytes(&path, format!("{said}{text}").as_bytes()).map_err(failed)?;
    Ok((path, WitnessKey::of(&key, name)))
}

/// What it says to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The line with its cosignature. The checkpoint is kept.
    Cosigned(String),
    /// It is at another size: at this one.
    Conflict(u64),
    /// No form that it knows.
    Bad(&'static str),
    /// Not one of its logs.
    Unknown,
    /// Not signed by the log.
    Forbidden,
    /// It does not begin with what was cosigned before, or that was not shown.
    Inconsistent,
    /// The disk failed, or what is on it is not what this witness wrote.
    Failed(String),
}

/// A witness, and the only process that is.
#[derive(Debug)]
pub struct Witness {
    name: String,
    key: SigningKey,
    own: WitnessKey,
    logs: BTreeMap<String, Log>,
    _lock: File,
}

/// A log that it knows.
#[derive(Debug)]
struct Log {
    vkey: String,
    path: PathBuf,
    /// Held while a request is judged and its checkpoint kept.
    turn: Mutex<()>,
}

impl Witness {
    /// As it is configured; what is kept of each log is read, and must be its own.
    pub fn open(config: &WitnessConfig) -> Result<Self, Failure> {
        let next = "mend witness.toml, then: holmd witness serve";
        let wrong = |what: String| Failure::new(what, next);
        let key = SigningKey::load(&config.data.join(KEY))
            .map_err(|e| Failure::because("the witness's key cannot be loaded", "holmd witness init", e))?;
        if !note::is_name(&config.name) {
            return Err(wrong(format!("`{}` cannot be a witness's name", config.name.escape_debug())));
        }
        let failed = |e| {
            let what = format!("`{}` cannot be taken", config.data.display());
            Failure::because(what, "stop the witness that runs there", e)
        };
        let lock = File::open(&config.data).map_err(failed)?;
        lock.try_lock().map_err(|e| failed(io::Error::from(e)))?;
        let mut logs = BTreeMap::new();
        for vkey in &config.logs {
            let origin = note::name_of(vkey).map_err(|e| wrong(format!("`logs`: {e}")))?;
            let path = config.data.join("logs").join(format!("{}.note", hash(&origin)));
            let log = Log { vkey: vkey.clone(), path, turn: Mutex::default() };
            if logs.insert(origin.clone(), log).is_some() {
                return Err(wrong(format!("`logs` names `{origin}` twice")));
            }
        }
        let own = WitnessKey::of(&key, &config.name);
        let witness = Self { name: config.name.clone(), key, own, logs, _lock: lock };
        for log in witness.logs.values() {
            let next =
                "this witness can sign no more for that log: make another one, and tell who trusts this one";
            witness.kept(log).map_err(|why| Failure::new(why, next))?;
        }
        Ok(witness)
    }

    /// Its public key.
    pub fn key(&self) -> &WitnessKey {
        &self.own
    }

    /// Judge the body of a request; cosign what has grown out of what was cosigned before. Blocks on the disk.
    pub fn add(&self, body: &[u8], now: Timestamp) -> Verdict {
        let Some((old, proof, note)) = std::str::from_utf8(body).ok().and_then(parse) else {
            return Verdict::Bad("say: old SIZE, at most 63 hashes, an empty line, a checkpoint");
        };
        let Some(log) = note.lines().next().and_then(|origin| self.logs.get(origin)) else {
            return Verdict::Unknown;
        };
        let head = match Checkpoint::verify(note, &log.vkey) {
            Ok(head) => head,
            Err(NoteError::Unsigned(_) | NoteError::Signature(_)) => return Verdict::Forbidden,
            Err(_) => return Verdict::Bad("that is no checkpoint that this witness can read"),
        };
        if old > head.size {
            return Verdict::Bad("the old size is larger than the new one");
        }
        let _turn = log.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (size, root) = match self.kept(log) {
            Ok(Some((head, _))) => (head.size, head.root),
            Ok(None) => (0, tree::empty()),
            Err(why) => return Verdict::Failed(why),
        };
        if old != size {
            return Verdict::Conflict(size);
        }
        if !tree::extends(size, &root, head.size, &head.root, &proof) {
            tracing::error!(
                origin = head.origin,
                size = head.size,
                "a signed checkpoint does not begin with the {size} entries that were cosigned before"
            );
            return Verdict::Inconsistent;
        }
        let line = cosignature::sign(&self.key, &self.name, &head.text(), now);
        // Of the signatures that came along only the log's is known to be one.
        let Ok(own) = note::verified_line(note, &log.vkey) else { return Verdict::Forbidden };
        let kept = format!("{}\n{own}{line}", head.text());
        match kept::write_bytes(&log.path, kept.as_bytes()) {
            Ok(()) => Verdict::Cosigned(line),
            Err(e) => Verdict::Failed(format!("`{}` cannot be written: {e}", log.path.display())),
        }
    }

    /// What was cosigned last of the log with this hash of its name.
    pub fn latest(&self, of: &str) -> Option<String> {
        let (_, log) = self.logs.iter().find(|(origin, _)| hash(origin) == of)?;
        self.kept(log).ok().flatten().map(|(_, note)| note)
    }

    /// What was cosigned last; anything but a checkpoint that both signed is an error, and not the start of a new history.
    fn kept(&self, log: &Log) -> Result<Option<(Checkpoint, String)>, String> {
        let at = log.path.display();
        let bytes = match fs::read(&log.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("`{at}` cannot be read: {e}")),
            Ok(bytes) => bytes,
        };
        let note = String::from_utf8(bytes).map_err(|_| format!("`{at}` is damaged"))?;
        let (head, _) = cosignature::cosigned(&note, &log.vkey, &self.own)
            .map_err(|e| format!("`{at}` is not what this witness wrote: {e}"))?;
        Ok(Some((head, note)))
    }
}

/// The old size, the proof, and the note.
fn parse(body: &str) -> Option<(u64, Vec<Hash>, &str)> {
    let (head, note) = body.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let old = lines.next()?.strip_prefix("old ")?;
    let size: u64 = old.parse().ok()?;
    let proof: Option<Vec<Hash>> =
        lines.map(|line| BASE64.decode(line.as_bytes()).ok()?.try_into().ok()).collect();
    // Neither a sign nor a zero in front.
    let sound = size.to_string() == old;
    proof.filter(|proof| sound && proof.len() <= HASHES).map(|proof| (size, proof, note))
}

/// By which a log is asked for.
pub(super) fn hash(origin: &str) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, origin.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests;
