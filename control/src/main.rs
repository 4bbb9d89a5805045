//! holmd: a thin binary over the library.

use clap::{CommandFactory, Parser, Subcommand};
use holm_control::api;
use holm_control::app::{self, App, Failure, Paths};
use holm_control::audit::{Checkpoint, Log, SigningKey};
use holm_control::config::Config;
use holm_control::domain::lock::{self, Subject};
use holm_control::domain::{Change, Record, Refusal, State, people};
use holm_control::identity::Authority;
use holm_control::keys::{Attempt, fingerprint, opens_with};
use holm_control::ledger::{Call, Decided, Ledger, LedgerError, Standing, chain, compare, replay};
use holm_control::login::Login;
use holm_control::notify::Notify;
use holm_control::policy;
use holm_control::setup::{self, Options};
use holm_control::store::{Applied, SledStore, Store};
use holm_control::stream::Streams;
use holm_control::witness::server::{self, Witness};
use holm_control::witness::{Serving, Witnesses};
use holm_proto::ids::Name;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// The control service of Holm.
#[derive(Parser)]
#[command(name = "holmd", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new Holm: configuration, certificate authority, keys, log, store, and the first people.
    Init(Init),
    /// Serve people and agents until SIGTERM.
    Serve(At),
    /// Make the store anew from the log.
    Rebuild {
        #[command(flatten)]
        at: At,
        /// Compare only, change nothing.
        #[arg(long)]
        check: bool,
    },
    /// Say whether configuration, rules, keys, log and store are in order.
    Check(At),
    /// Keys that are left.
    #[command(subcommand)]
    Keys(Keys),
    /// The rules, while holmd does not run.
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// While holmd does not run: what takes an officer, where none is left who can.
    #[command(subcommand)]
    Recover(Recover),
    /// Messages to people and programs.
    #[command(subcommand)]
    Notify(NotifyVerb),
    /// Cosign the logs of others, on a machine of one's own; and a line of this one's log to print.
    #[command(subcommand)]
    Witness(WitnessVerb),
    /// Print completions for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(clap::Args)]
struct At {
    /// holmd's configuration.
    #[arg(long, value_name = "FILE", env = "HOLMD_CONFIG", default_value = "/etc/holm/holmd/holmd.toml")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Keys {
    /// Try every key that is left on a disk, or a copy of one.
    Try {
        #[command(flatten)]
        at: At,
        /// A slice's qcow2 file, or a copy of that or of its logical volume.
        disk: PathBuf,
    },
}

#[derive(Subcommand)]
enum PolicyVerb {
    /// Put a signed pack in force, where the one in force keeps holmd from starting.
    Load {
        #[command(flatten)]
        at: At,
        /// A directory with a pack and its `pack.sig`.
        directory: PathBuf,
    },
}

#[derive(Subcommand)]
enum Recover {
    /// Confirm a code that waits for another officer.
    Confirm {
        #[command(flatten)]
        at: At,
        /// For whom it is.
        name: Name,
        /// Which, as who gave it out was told.
        #[arg(long, value_name = "ID")]
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Lift a lock, as `holm lock list` names it: person/NAME, project/NAME, …
    Unlock {
        #[command(flatten)]
        at: At,
        /// What is locked.
        subject: Subject,
        #[command(flatten)]
        why: Why,
    },
}

#[derive(clap::Args)]
struct Why {
    /// Why; it is in the log, with that nobody who can be named did it.
    #[arg(long = "reason", value_name = "TEXT")]
    reason: String,
}

#[derive(Subcommand)]
enum NotifyVerb {
    /// Send a test message by every channel that [notify] has. holmd may be running.
    Test {
        #[command(flatten)]
        at: At,
        /// Mail goes to this person; otherwise to the address that mail comes from.
        #[arg(long, value_name = "NAME")]
        to: Option<Name>,
    },
}

#[derive(Subcommand)]
enum WitnessVerb {
    /// Make a witness: its key, and a configuration to be completed.
    Init {
        /// A directory for what it keeps.
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
        /// Its name for good, as a URL without scheme: example.org/w1.
        #[arg(long, value_name = "NAME")]
        name: String,
    },
    /// Cosign what has only grown, until SIGTERM.
    Serve {
        /// The witness's configuration.
        #[arg(long, value_name = "FILE", default_value = "/etc/holm/witness/witness.toml")]
        config: PathBuf,
    },
    /// Today's date and the head of holmd's log on one line, to be printed and kept. holmd may be running.
    Line(At),
}

#[derive(clap::Args)]
struct Init {
    /// A new directory for everything that holmd keeps.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What people and agents dial.
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:7443")]
    server: String,
    /// Where to listen for people and agents.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Where to listen for enrolment.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7444")]
    enrol_listen: SocketAddr,
    /// A policy pack that comes with holmd, or a directory with one.
    #[arg(long, default_value = "aau-2018")]
    pack: String,
    /// The log's name for good, as a URL without scheme; from --server where not given.
    #[arg(long, value_name = "NAME")]
    log_origin: Option<String>,
    /// The partition table of the hosts.
    #[arg(long, default_value = "dgx-2")]
    platform: String,
    /// The first operator, who invites everybody but officers.
    #[arg(long, value_name = "NAME")]
    operator: Name,
    /// A first security officer; only an officer invites officers. Can be repeated.
    #[arg(long = "officer", value_name = "NAME")]
    officers: Vec<Name>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = harden().and_then(|()| run(cli.command));
    match done {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("holmd: {}", chain(&failure));
            if !failure.next.is_empty() {
                eprintln!("  next: {}", failure.next);
            }
            ExitCode::FAILURE
        }
    }
}

/// Keys are in this process: no core dump and no debugger gets at them.
fn harden() -> Result<(), Failure> {
    let failed = |e: rustix::io::Errno| {
        Failure::because("core dumps cannot be switched off", "run holmd where prctl is allowed", e)
    };
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    if getrlimit(Resource::Core).maximum != Some(0) {
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(failed)?;
    }
    Ok(())
}

/// Keep this process's memory out of swap, where that is permitted; otherwise say once why it is not.
fn lock_memory() {
    let limit = getrlimit(Resource::Memlock).current;
    let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    // Below a limit it would be given memory until it has that much, and no more: then it would fail in the middle.
    if limit.is_some() && !may {
        let bytes = limit.unwrap_or_default();
        tracing::warn!(
            "memory is not locked, so keys may reach swap: the limit is {bytes} bytes (LimitMEMLOCK=infinity in the unit)"
        );
        return;
    }
    // What is never touched is not made real for this.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(e) = mlockall(all) {
        tracing::warn!("memory is not locked, so keys may reach swap: {e}");
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(init) => initialise(init),
        Command::Serve(at) => serve(&load(&at.config)?),
        Command::Rebuild { at, check } => rebuild(&load(&at.config)?, check),
        Command::Check(at) => check(&at.config),
        Command::Keys(Keys::Try { at, disk }) => try_keys(&load(&at.config)?, &disk),
        Command::Policy(PolicyVerb::Load { at, directory }) => load_policy(&load(&at.config)?, &directory),
        Command::Recover(Recover::Confirm { at, name, id, why }) => {
            let call = Call::own("person.confirm", format!("person/{name}"));
            recover(&load(&at.config)?, &call, &why.reason, |state, now| {
                people::confirm(state, &name, &id, None, now)
            })?;
            println!("the code for {name} is good, once");
            Ok(ExitCode::SUCCESS)
        }
        Command::Recover(Recover::Unlock { at, subject, why }) => {
            let call = Call::own("lock.lift", subject.to_string());
            recover(&load(&at.config)?, &call, &why.reason, |state, now| {
                lock::lift_offline(state, &subject, now)
            })?;
            println!("{subject} is not locked any more");
            Ok(ExitCode::SUCCESS)
        }
        Command::Witness(WitnessVerb::Init { dir, name }) => {
            let (config, key) = server::init(&dir, &name)?;
            println!("Its public key, for [witness.cosigners] of holmd.toml and for who verifies the log:");
            println!("  {}", key.vkey());
            println!("next: put the log's key, which `holm audit key` prints, into {}", config.display());
            println!("      holmd witness serve --config {}", config.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Witness(WitnessVerb::Serve { config }) => witness(&config),
        Command::Witness(WitnessVerb::Line(at)) => {
            println!("{}", witness_line(&load(&at.config)?)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Notify(NotifyVerb::Test { at, to }) => try_notify(&load(&at.config)?, to.as_ref()),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "holmd", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path)
        .map_err(|e| Failure::because("the configuration cannot be used", "mend it, then: holmd check", e))
}

fn initialise(init: Init) -> Result<ExitCode, Failure> {
    let host = init.server.rsplit_once(':').map_or(init.server.as_str(), |(host, _)| host).to_owned();
    let options = Options {
        log_origin: init.log_origin.unwrap_or_else(|| format!("{host}/holm")),
        dir: init.dir,
        server: init.server,
        listen: init.listen,
        enrol_listen: init.enrol_listen,
        pack: init.pack,
        platform: init.platform,
        operator: init.operator,
        officers: init.officers,
    };
    let made = setup::init(&options)?;
    let config = made.config.display();
    println!("a new Holm is in {}", options.dir.display());
    println!();
    println!("Public key of its log. Keep a copy elsewhere: with it anybody can verify the log.");
    println!("  {}", made.verifier_key);
    println!();
    println!("One-time codes, good for 24 hours. Give each to its person alone.");
    for (name, role, code) in &made.invited {
        println!("  {role:<9} {:<16} {code}", name.as_str());
    }
    println!();
    println!("next: holmd serve --config {config}");
    let port = options.enrol_listen.port();
    println!("      holm enrol CODE --server {host}:{port}   (each person)");
    if options.officers.is_empty() {
        println!();
        println!(
            "There is no officer: nobody can approve a slice, and nobody can become one. Start again with --officer."
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn trace() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("HOLM_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
}

/// A witness, on a machine of its own: nothing of a Holm is there but public keys of logs.
fn witness(path: &Path) -> Result<ExitCode, Failure> {
    trace();
    let config = server::WitnessConfig::load(path)?;
    let witness = Arc::new(Witness::open(&config)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|e| Failure::because("the witness cannot start its threads", "see: ulimit -u", e))?;
    runtime.block_on(async {
        let signals = |e| Failure::because("signals cannot be caught", "", e);
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let serving = Serving::bind(&config, Arc::clone(&witness)).await?;
        println!(
            "witness ready: {} on {}, for {} logs",
            witness.key().name(),
            serving.address,
            config.logs.len()
        );
        let _ = std::io::stdout().flush();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = serving.run() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Date, name, entries and root: short enough to be compared by eye.
fn witness_line(config: &Config) -> Result<String, Failure> {
    let paths = Paths::of(&config.data);
    let key = SigningKey::load(&paths.log_key)
        .map_err(|e| Failure::because("the key of the log cannot be loaded", "restore it from a copy", e))?;
    let path = paths.log.join("checkpoint");
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Failure::because(format!("`{}` is no head of the log", path.display()), "holmd check", e)
    };
    let note = std::fs::read_to_string(&path).map_err(|e| failed(e.into()))?;
    let head = Checkpoint::verify(&note, &key.vkey(&config.log_origin)).map_err(|e| failed(e.into()))?;
    let (date, root) = (jiff::Timestamp::now().strftime("%Y-%m-%d"), note.lines().nth(2).unwrap_or_default());
    Ok(format!("{date} {} {} {root}", head.origin, head.size))
}

fn serve(config: &Config) -> Result<ExitCode, Failure> {
    trace();
    lock_memory();
    let app = Arc::new(App::open(config.clone())?);
    // What holmd does waits for the disk; few threads do, and each costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .map_err(|e| {
            Failure::because("holmd cannot start its threads", "see the limits of its user: ulimit -u", e)
        })?;
    runtime.block_on(async {
        let signals = |e| Failure::because("signals cannot be caught", "", e);
        let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
        let mut running = api::start(app).await?;
        println!("holmd ready: listening on {}, for enrolment on {}", running.address, running.enrolment);
        // A pipe would keep it for later.
        let _ = std::io::stdout().flush();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            failure = running.ended() => return Err(failure),
        }
        tracing::info!("holmd stops");
        running.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

fn load_policy(config: &Config, directory: &Path) -> Result<ExitCode, Failure> {
    let (_, log) = app::log(config)?;
    let ledger =
        Ledger::open(Box::new(app::store(&Paths::of(&config.data).store)?), log, jiff::Timestamp::now)
            .map_err(|e| Failure::because("store and log do not agree", "holmd check", e))?;
    let policy = policy::load_offline(config, &ledger, directory)?;
    println!("{} is in force from the next start on; it is signed by {}", policy.pack, policy.signer);
    Ok(ExitCode::SUCCESS)
}

/// What only an officer may, by who has holmd's machine: an entry says that it was done there, and why.
fn recover(
    config: &Config,
    call: &Call,
    reason: &str,
    change: impl FnOnce(&State, jiff::Timestamp) -> Result<Vec<Change>, Refusal>,
) -> Result<(), Failure> {
    if reason.trim().is_empty() || reason.chars().count() > 500 || reason.chars().any(char::is_control) {
        return Err(Failure::new("say why, on one line of 500 characters at most", "--reason TEXT"));
    }
    let (_, log) = app::log(config)?;
    let store = app::store(&Paths::of(&config.data).store)?;
    let ledger = Ledger::open(Box::new(store), log, jiff::Timestamp::now)
        .map_err(|e| Failure::because("store and log do not agree", "holmd check", e))?;
    let done = ledger.commit(call, |state, now| {
        let detail = serde_json::json!({ "offline": true, "reason": reason });
        Ok(Decided { detail, ..Decided::new(change(state, now)?, ()) })
    });
    done.map_err(|refusal| Failure::new(format!("nothing was done: {refusal}"), refusal.hint))
}

/// The store holds what the log says, nothing else; with `check` nothing is changed.
fn rebuild(config: &Config, check: bool) -> Result<ExitCode, Failure> {
    let paths = Paths::of(&config.data);
    let (_, log) = app::log(config)?;
    let store = if check { app::found_store(&paths.store)? } else { app::store(&paths.store)? };
    let failed = |e| Failure::because("the store cannot be used", "holmd rebuild", e);
    match compare(&store, &log) {
        Ok(standing) if check => {
            let what = standing_of(standing)?;
            println!("{what}: {}, {} records", entries(&log), count(&store).map_err(failed)?);
            return Ok(ExitCode::SUCCESS);
        }
        Err(failure @ (LedgerError::Ahead { .. } | LedgerError::Differs { .. })) => {
            let next = format!(
                "find out which of the two was restored from a copy, and restore the other to match. if the log is the \
                 one to go by: mv {0} {0}.other && holmd rebuild",
                paths.store.display()
            );
            return Err(Failure::because("store and log are not of one history", next, failure));
        }
        Err(failure) if check => {
            return Err(Failure::because("the store cannot be compared", "holmd rebuild", failure));
        }
        Err(failure) => eprintln!("holmd: the store is passed over: {}", chain(&failure)),
        Ok(_) => {}
    }
    let records = replay(&log).map_err(|e| {
        Failure::because("the log cannot be replayed", "restore the whole log from a copy", e)
    })?;
    store.replace(&records, Applied::of(&log)).map_err(failed)?;
    println!("the store was made anew from the log: {}, {} records", entries(&log), records.len());
    Ok(ExitCode::SUCCESS)
}

fn standing_of(standing: Standing) -> Result<String, Failure> {
    match standing {
        Standing::Same => Ok("the store is what the log says".to_owned()),
        Standing::Behind(entries) => {
            Ok(format!("the store is what the log said {entries} entries ago, which the next start reads"))
        }
        Standing::Other => Err(Failure::new(
            "the store is not what the log says",
            "holmd rebuild   (makes the store anew; the log is the truth)",
        )),
    }
}

/// How many, and how many of them are gone.
fn entries(log: &Log) -> String {
    let gone = log.first().unwrap_or_default();
    let gone = if gone > 0 { format!(", of which the first {gone} are gone") } else { String::new() };
    format!("{} entries{gone}", log.size())
}

fn count(store: &SledStore) -> Result<usize, holm_control::store::StoreError> {
    Ok(store.records()?.len())
}

/// Each part by itself, so that one look shows all that is wrong.
fn check(path: &Path) -> Result<ExitCode, Failure> {
    let config = load(path)?;
    let paths = Paths::of(&config.data);
    let mut good = true;
    let mut say = |what: &str, found: Result<String, Failure>| match found {
        Ok(text) => println!("ok       {what:<14} {text}"),
        Err(failure) => {
            good = false;
            println!("WRONG    {what:<14} {}", chain(&failure));
            println!("         {:<14} next: {}", "", failure.next);
        }
    };
    let recipients = holm_control::api::check_recipients(&config.escrow.recipients)
        .map_err(|why| Failure::new(why, "mend [escrow.recipients] in holmd.toml"));
    say("configuration", recipients.map(|()| path.display().to_string()));
    let past = past(&config);
    // Without the log, what the configuration names is all that can be judged.
    say("policy pack", rules(&config, past.as_ref().map_or(&[], |(_, records)| records)));
    say(
        "platform",
        app::partitions(&config.platform)
            .map(|t| format!("{}, {} partitions", t.platform(), t.partitions().count())),
    );
    let restore = "restore it from a copy";
    say(
        "authority",
        Authority::load(&paths.ca)
            .map(|a| format!("codes end in {}", a.hash()))
            .map_err(|e| Failure::because("the certificate authority cannot be loaded", restore, e)),
    );
    say(
        "keys",
        app::keys(&config).and_then(|keys| {
            let next = "see what is wrong with the key provider, or restore the keys from a copy";
            let all = keys.check().and_then(|()| keys.all());
            let all = all.map_err(|e| Failure::because("the keys cannot be opened", next, e))?;
            Ok(format!("{} keys", all.len()))
        }),
    );
    say("notifications", Notify::load(&config).map(|notify| notify.summary()));
    let login = match &config.login {
        Some(login) => Login::new(login.clone())
            .map(|_| login.issuer.clone())
            .map_err(|why| Failure::new(why, "mend [login] in holmd.toml")),
        None => Ok("no provider: no level can demand one".to_owned()),
    };
    say("second factor", login);
    // The key says which log it is; without it only the rest can be judged.
    let vkey = SigningKey::load(&paths.log_key).map(|key| key.vkey(&config.log_origin)).unwrap_or_default();
    say("streams", Streams::check(&config.stream));
    say("witnesses", Witnesses::check(&config.witness, &vkey));
    say("log and store", past.and_then(|(log, _)| history(&paths, &log)));
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The log, and the records that its entries make.
fn past(config: &Config) -> Result<(Log, Vec<Record>), Failure> {
    let (_, log) = app::log(config)?;
    let records = replay(&log).map_err(|e| {
        Failure::because("the log cannot be replayed", "restore the whole log from a copy", e)
    })?;
    Ok((log, records))
}

/// The pack that the next start would put in force, by what the log says.
fn rules(config: &Config, records: &[Record]) -> Result<String, Failure> {
    let record = records.iter().find_map(|record| match record {
        Record::Policy(policy) => Some(policy),
        _ => None,
    });
    let pack = policy::in_force(&config.policy, &config.pack, &config.data, record)?;
    app::enforceable(&pack, config.login.is_some())
        .map_err(|why| Failure::new(why, "name a provider in [login] of holmd.toml, or another pack"))?;
    let from = record.filter(|r| r.is_loaded()).map_or("holmd.toml", |_| "loaded");
    Ok(format!("{}, {} levels ({from})", pack.id(), pack.levels().len()))
}

/// The log was read from end to end; the store agrees with it. A holmd that runs has the store to itself.
fn history(paths: &Paths, log: &Log) -> Result<String, Failure> {
    let store = app::found_store(&paths.store)?;
    let failed = |e| Failure::because("store and log do not agree", "holmd rebuild", e);
    match compare(&store, log).map_err(failed)? {
        Standing::Same => {
            let records = store
                .records()
                .map_err(|e| Failure::because("the store cannot be read", "holmd rebuild", e))?;
            Ok(format!("{}, {} records", entries(log), records.len()))
        }
        standing => standing_of(standing),
    }
}

/// For the drill after a slice was destroyed: no key that is left may open a copy of its disk.
fn try_keys(config: &Config, disk: &Path) -> Result<ExitCode, Failure> {
    if !disk.is_file() {
        return Err(Failure::new(format!("there is no disk `{}`", disk.display()), "holmd keys try DISK"));
    }
    let failed = |e| Failure::because("the keys cannot be tried", "holmd check", e);
    let keys = app::keys(config)?.all().map_err(failed)?;
    let mut opened = 0;
    println!("{:<45} {:<17} RESULT", "KEY", "FINGERPRINT");
    for (name, key) in &keys {
        let result = match opens_with(disk, key).map_err(failed)? {
            Attempt::Opened => {
                opened += 1;
                "opened".to_owned()
            }
            Attempt::Refused(words) => format!("refused: {words}"),
        };
        println!("{name:<45} {:<17} {result}", fingerprint(key));
    }
    if opened == 0 {
        println!("\nno key that is left opens this disk: {} tried", keys.len());
        return Ok(ExitCode::FAILURE);
    }
    println!("\n{opened} of {} keys that are left opened this disk", keys.len());
    Ok(ExitCode::SUCCESS)
}

/// What became of a message by each channel.
fn try_notify(config: &Config, to: Option<&Name>) -> Result<ExitCode, Failure> {
    let notify = Notify::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::because("nothing can be sent", "see the limits of its user: ulimit -u", e))?;
    let all = runtime.block_on(notify.test(&config.log_origin, to, jiff::Timestamp::now()));
    if all.is_empty() {
        return Err(Failure::new(
            "nobody is told of anything",
            "say [notify.smtp] or [notify.webhook] in holmd.toml",
        ));
    }
    for (name, result) in &all {
        match result {
            Ok(text) => println!("ok       {name:<14} {text}"),
            Err(why) => println!("WRONG    {name:<14} {why}"),
        }
    }
    Ok(if all.iter().all(|(_, result)| result.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
