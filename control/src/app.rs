//! What every part of a running holmd shares, and where it lies on disk.
//!
//! ```text
//!   DATA/ca/        the certificate authority
//!   DATA/index/     finds entries of the log: made from it at any time
//!   DATA/keys/      wrapped keys, and the key that wraps them
//!   DATA/log.key    signs the log and deletion certificates
//!   DATA/log/       the log: the truth, but for the last second
//!   DATA/log.journal  what was logged since
//!   DATA/notify/    how far people were told of what is in the log
//!   DATA/stream/    how far collectors have the log
//!   DATA/witness/   what witnesses cosigned of the log
//!   DATA/usage/     how slices were used, hour by hour
//!   DATA/store/     what can be looked up fast: rebuilt from the log at any time
//! ```

use crate::allowance::Callers;
use crate::audit::{Log, SigningKey};
use crate::config::{CertificateConfig, Config};
use crate::domain::Refusal;
use crate::domain::policy as domain;
use crate::domain::records::Policy;
use crate::identity::Authority;
use crate::keys::Keyring;
use crate::ledger::{Call, Decided, Ledger};
use crate::live::Live;
use crate::login::Login;
use crate::notify::Notify;
use crate::once::Answers;
use crate::oversight;
use crate::placement::PartitionTable;
use crate::policy::{self, Rules};
use crate::reads::{self, Over, Reads};
use crate::reconcile::Clock;
use crate::reconcile::place::Recent;
use crate::search::Index;
use crate::store::SledStore;
use crate::stream::Streams;
use crate::usage::Usage;
use crate::watch::Watch;
use crate::witness::Witnesses;
use holm_policies::Pack;
use holm_proto::platform::Bill;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// A running holmd. Shared by reference; each part guards itself.
pub struct App {
    /// As read from its file.
    pub config: Config,
    /// The state and the only way to change it.
    pub ledger: Ledger,
    /// Sessions of hosts, forgotten with the process.
    pub live: Live,
    /// How often each was refused of late.
    pub callers: Callers,
    /// What was read of late.
    pub reads: Reads,
    /// To calls that are made once.
    pub answers: Answers,
    /// Whether the clock can be gone by.
    pub clock: Clock,
    /// Wrapped keys.
    pub keys: Keyring,
    /// Finds entries of the log.
    pub index: Index,
    /// Signs checkpoints and deletion certificates.
    pub log_key: SigningKey,
    /// Of the hosts' fabric.
    pub partitions: PartitionTable,
    /// What the hosts are delivered with.
    pub bill: Bill,
    /// The rules.
    pub rules: Rules,
    /// Signs people's and hosts' certificates and people's SSH keys.
    pub authority: Arc<Authority>,
    /// Who asks the key provider.
    pub turns: Turns,
    /// Who waits, as it was a moment ago.
    pub queue: Recent,
    /// What people are told by.
    pub notify: Notify,
    /// Where people prove a second factor; `None`: nowhere.
    pub login: Option<Login>,
    /// Who holds the log's head outside, and how it stands with them.
    pub witnesses: Witnesses,
    /// Collectors that are away.
    pub streams: Streams,
    /// How slices were used.
    pub usage: Usage,
    stopping: watch::Sender<bool>,
}

/// How many may ask the key provider at the same time, which takes a thread each as long as it does not answer. Who
/// waits for a turn takes none.
#[derive(Debug)]
pub struct Turns {
    /// Hosts, for the keys of slices that start.
    pub agents: Arc<Semaphore>,
    /// People, to see how it stands.
    pub people: Arc<Semaphore>,
    /// People, to rotate.
    pub rotations: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let of = |many| Arc::new(Semaphore::new(many));
        Self { agents: of(4), people: of(2), rotations: of(1) }
    }
}

/// Why holmd does not start, or a command of it did not do what it was to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// A sentence.
    pub what: String,
    /// The next command; may be empty.
    pub next: String,
    /// What lies beneath.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// Nothing lies beneath.
    pub fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into(), cause: None }
    }

    /// Something does.
    pub fn because(
        what: impl Into<String>,
        next: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { what: what.into(), next: next.into(), cause: Some(cause.into()) }
    }
}

/// Where things lie.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the drawing says what each is")]
pub struct Paths {
    pub ca: PathBuf,
    pub keys: PathBuf,
    pub log_key: PathBuf,
    pub log: PathBuf,
    pub store: PathBuf,
    pub index: PathBuf,
    pub usage: PathBuf,
}

impl Paths {
    /// Below this directory.
    pub fn of(data: &Path) -> Self {
        Self {
            ca: data.join("ca"),
            keys: data.join("keys"),
            log_key: data.join("log.key"),
            log: data.join("log"),
            store: data.join("store"),
            index: data.join("index"),
            usage: data.join("usage"),
        }
    }
}

impl App {
    /// Open everything that the configuration names. Nothing is made that is not there.
    pub fn open(config: Config) -> Result<Self, Failure> {
        let paths = Paths::of(&config.data);
        let restore = "restore it from a copy, or run `holmd init` for a new Holm in a new directory";
        let partitions = partitions(&config.platform)?;
        let bill = bill(&config)?;
        let authority = Authority::load(&paths.ca)
            .map_err(|e| Failure::because("the certificate authority cannot be loaded", restore, e))?;
        crate::api::check_recipients(&config.escrow.recipients)
            .map_err(|why| Failure::new(why, "mend holmd.toml, then: holmd check"))?;
        if !(1..=crate::domain::backup::KEEP_MAX).contains(&config.backup.keep) {
            let most = crate::domain::backup::KEEP_MAX;
            let text = format!("`keep` in [backup] can be 1 to {most}: `{}` is not", config.backup.keep);
            return Err(Failure::new(text, "mend holmd.toml, then: holmd check"));
        }
        for (name, days) in
            [("person_days", config.certificates.person_days), ("host_days", config.certificates.host_days)]
        {
            if !(1..=CertificateConfig::DAYS_MAX).contains(&days) {
                let most = CertificateConfig::DAYS_MAX;
                let text = format!("`{name}` in [certificates] can be 1 to {most}: `{days}` is not");
                return Err(Failure::new(text, "mend holmd.toml, then: holmd check"));
            }
        }
        for (section, keys) in [("image", &config.image.signers), ("policy", &config.policy.signers)] {
            if let Some(why) = keys.iter().find_map(|key| crate::audit::note::check_key(key).err()) {
                let text = format!("`signers` in [{section}] has what is no key: {why}");
                return Err(Failure::new(text, "mend holmd.toml, then: holmd check"));
            }
        }
        let notify = Notify::load(&config)?;
        Watch::new(config.watch.as_deref())
            .map_err(|why| Failure::new(format!("[[watch]]: {why}"), "mend holmd.toml, then: holmd check"))?;
        config.guest.check().map_err(|why| Failure::new(why, "mend holmd.toml, then: holmd check"))?;
        config.review.check().map_err(|why| Failure::new(why, "mend holmd.toml, then: holmd check"))?;
        let login = config.login.clone().map(Login::new).transpose();
        let login = login.map_err(|why| Failure::new(why, "mend holmd.toml, then: holmd check"))?;
        let keys = keys(&config)?;
        let (log_key, log) = log(&config)?;
        Streams::check(&config.stream)?;
        Witnesses::check(&config.witness, &log_key.vkey(&config.log_origin))?;
        let ledger = Ledger::open(Box::new(found_store(&paths.store)?), log, Timestamp::now)
            .map_err(|e| Failure::because("store and log do not agree", "holmd check", e))?;
        let index = Index::open(&paths.index).map_err(|e| {
            Failure::because(
                "the index of the log cannot be opened",
                "see who may write there, then: holmd check",
                e,
            )
        })?;
        let usage = Usage::open(&paths.usage, ledger.now()).map_err(|e| {
            let next = "see who may write there, then: holmd check";
            Failure::because("what is known of how slices were used cannot be opened", next, e)
        })?;
        // The store is this process's alone by now, and so are the keys.
        keys.tidy().map_err(|e| Failure::because("the keys cannot be tidied", "holmd check", e))?;
        ledger.keep_free(&config.data, u64::from(config.disk.keep_free_mib) << 20);
        let pack = rules(&config, &ledger)?;
        oversight::start(&config, &ledger)?;
        Ok(Self {
            config,
            ledger,
            live: Live::default(),
            callers: Callers::default(),
            reads: Reads::default(),
            answers: Answers::default(),
            clock: Clock::default(),
            keys,
            index,
            log_key,
            partitions,
            bill,
            rules: Rules::new(pack),
            authority: Arc::new(authority),
            turns: Turns::default(),
            queue: Recent::default(),
            notify,
            login,
            witnesses: Witnesses::default(),
            streams: Streams::default(),
            usage,
            stopping: watch::Sender::new(false),
        })
    }

    /// The rules in force now.
    pub fn pack(&self) -> Arc<Pack> {
        self.rules.of(&self.ledger.state())
    }

    /// Writes down how often each was read that is not read any more, at most so many.
    pub fn reads_over(&self, over: Vec<Over>, most: usize) -> Result<(), Refusal> {
        over.into_iter().take(most).try_for_each(|over| {
            self.ledger.note(&over.call, reads::over(over.times, over.last))?;
            self.reads.said(over);
            Ok(())
        })
    }

    /// holmd is to end: every stream ends.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Returns when holmd is to end.
    pub async fn stopped(&self) {
        // The sender is in `self`, so it cannot be gone.
        let _ = self.stopping.subscribe().wait_for(|stop| *stop).await;
    }
}

/// Whether all that a pack demands is seen to: what depends on how holmd is configured.
pub fn enforceable(pack: &Pack, login: bool) -> Result<(), String> {
    let demands = pack.levels().iter().find(|level| level.second_factor_hours > 0);
    match demands.filter(|_| !login) {
        Some(level) => Err(format!(
            "level {} of {} demands a second factor, and holmd.toml names no OpenID provider in [login]",
            level.id,
            pack.id()
        )),
        None => Ok(()),
    }
}

/// The pack in force. That the configuration has come to name another is an entry like any change.
fn rules(config: &Config, ledger: &Ledger) -> Result<Pack, Failure> {
    let record = ledger.state().policy.clone();
    let pack = policy::in_force(&config.policy, &config.pack, &config.data, record.as_ref())?;
    // Before it is an entry that it is in force.
    enforceable(&pack, config.login.is_some())
        .map_err(|why| Failure::new(why, "name a provider in [login] of holmd.toml, or another pack"))?;
    let digest = policy::digest(&pack);
    if record.as_ref().is_none_or(|record| record.digest != digest) {
        let call = Call::own("policy.start", "policy".to_owned());
        let detail = serde_json::json!({ "pack": pack.id(), "digest": digest, "configured": config.pack });
        let written = ledger.commit(&call, |state, since| {
            let record = Policy::of(&pack, digest, String::new(), None, since);
            Ok(Decided { detail, ..Decided::new(domain::put(record, state), ()) })
        });
        written.map_err(|refusal| {
            Failure::new(format!("the policy pack cannot be put in force: {refusal}"), refusal.hint)
        })?;
    }
    Ok(pack)
}

/// The partition table of a platform.
pub fn partitions(platform: &str) -> Result<PartitionTable, Failure> {
    PartitionTable::of(platform).ok_or_else(|| {
        Failure::new(
            format!("no platform `{}` is known", platform.escape_debug()),
            "set `platform = \"dgx-2\"`",
        )
    })
}

/// The bill of materials: the platform's, with what the configuration says instead.
pub fn bill(config: &Config) -> Result<Bill, Failure> {
    let of = Bill::of(&config.platform).ok_or_else(|| {
        let what = format!("there is no bill of materials of `{}`", config.platform.escape_debug());
        Failure::new(what, "set `platform = \"dgx-2\"`")
    })?;
    Ok(config.bill.over(of))
}

/// The keys, and the provider that the configuration names.
pub fn keys(config: &Config) -> Result<Keyring, Failure> {
    Keyring::load(&Paths::of(&config.data).keys, &config.keys, config.former_keys.as_ref()).map_err(|e| {
        let next = "mend [keys] in holmd.toml, or restore the keys from a copy; then: holmd check";
        Failure::because("the keys cannot be loaded", next, e)
    })
}

/// The log and the key it is signed with.
pub fn log(config: &Config) -> Result<(SigningKey, Log), Failure> {
    let paths = Paths::of(&config.data);
    let key = SigningKey::load(&paths.log_key)
        .map_err(|e| Failure::because("the key of the log cannot be loaded", "restore it from a copy", e))?;
    let log = Log::open(&paths.log, &config.log_origin, key.clone()).map_err(|e| {
        let next = "stop holmd if it runs; if the log is damaged, restore the whole of it from a copy";
        Failure::because("the log cannot be opened", next, e)
    })?;
    Ok((key, log))
}

/// The store that is there: none is made.
pub fn found_store(path: &Path) -> Result<SledStore, Failure> {
    if !path.is_dir() {
        return Err(Failure::new(
            format!("there is no store in `{}`", path.display()),
            "holmd rebuild   (makes it anew from the log)",
        ));
    }
    store(path)
}

/// The store; made where there is none.
pub fn store(path: &Path) -> Result<SledStore, Failure> {
    SledStore::open(path).map_err(|e| {
        let next = format!(
            "stop holmd if it runs; if the store is damaged: mv {0} {0}.damaged && holmd rebuild",
            path.display()
        );
        Failure::because("the store cannot be opened", next, e)
    })
}
