//! `holmd init`: a whole new Holm in one directory, or nothing.

use crate::app::{self, Failure, Paths};
use crate::audit::{Log, SigningKey};
use crate::config::{BillConfig, Config, Defaults, Placement};
use crate::domain::people;
use crate::identity::{Authority, Code};
use crate::keys::{Keyring, ProviderConfig};
use crate::ledger::{Call, Decided, Ledger};
use crate::policy;
use holm_proto::ids::Name;
use jiff::Timestamp;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The configuration's file in the directory.
pub const CONFIG_FILE: &str = "holmd.toml";

/// What a new Holm is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where; must be new, or empty.
    pub dir: PathBuf,
    /// What people and agents dial, HOST:PORT.
    pub server: String,
    /// For people and agents.
    pub listen: SocketAddr,
    /// For enrolment.
    pub enrol_listen: SocketAddr,
    /// Policy pack.
    pub pack: String,
    /// The log's name.
    pub log_origin: String,
    /// Partition table.
    pub platform: String,
    /// The first operator, who invites all others.
    pub operator: Name,
    /// The first officers: only an officer can invite officers.
    pub officers: Vec<Name>,
}

/// A new Holm.
#[derive(Debug)]
pub struct Made {
    /// Its configuration.
    pub config: PathBuf,
    /// The log's public key.
    pub verifier_key: String,
    /// Name, role and one-time code of the first people.
    pub invited: Vec<(Name, &'static str, String)>,
}

/// Make it. What was made is removed when something fails.
pub fn init(options: &Options) -> Result<Made, Failure> {
    let dir = std::path::absolute(&options.dir)
        .map_err(|e| Failure::because("the directory has no absolute path", "say --dir DIRECTORY", e))?;
    let existed = match fs::read_dir(&dir) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(Failure::new(
                    format!("`{}` is there already and not empty", dir.display()),
                    "name a new directory: holmd init --dir DIRECTORY",
                ));
            }
            true
        }
        Err(_) => false,
    };
    if options.officers.contains(&options.operator) {
        return Err(Failure::new(
            format!("`{}` cannot be operator and officer at once", options.operator),
            "name two people: --operator NAME --officer NAME",
        ));
    }
    make(&dir, options).inspect_err(|_| {
        // Only what was made here: the directory was not there, or empty.
        let undone = if existed { empty(&dir) } else { fs::remove_dir_all(&dir) };
        if let Err(failure) = undone {
            tracing::warn!("`{}` is left behind: {failure}", dir.display());
        }
    })
}

fn make(dir: &Path, options: &Options) -> Result<Made, Failure> {
    let next = "mend that, then run `holmd init` again: nothing was left behind";
    let now = Timestamp::now();
    let config = Config {
        data: dir.to_path_buf(),
        listen: options.listen,
        enrol_listen: options.enrol_listen,
        server: options.server.clone(),
        pack: options.pack.clone(),
        image: Default::default(),
        policy: Default::default(),
        log_origin: options.log_origin.clone(),
        defaults: Defaults::default(),
        platform: options.platform.clone(),
        bill: BillConfig::default(),
        placement: Placement::default(),
        keys: ProviderConfig::default(),
        former_keys: None,
        backup: Default::default(),
        certificates: Default::default(),
        disk: Default::default(),
        guest: Default::default(),
        escrow: Default::default(),
        notify: Default::default(),
        login: None,
        watch: None,
        review: Default::default(),
        witness: Default::default(),
        stream: Default::default(),
    };
    policy::configured(&config.policy, &config.pack)?;
    app::partitions(&config.platform)?;
    let paths = Paths::of(dir);
    // What lies above it is not holmd's alone: only the directory itself is closed to others.
    let above = dir.parent().map_or(Ok(()), fs::create_dir_all);
    above
        .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(dir))
        .map_err(|e| Failure::because(format!("`{}` cannot be made", dir.display()), next, e))?;
    let authority = Authority::create(&paths.ca, now)
        .map_err(|e| Failure::because("the certificate authority cannot be made", next, e))?;
    Keyring::create(&paths.keys).map_err(|e| Failure::because("the keys cannot be made", next, e))?;
    let key = SigningKey::create(&paths.log_key)
        .map_err(|e| Failure::because("the key of the log cannot be made", next, e))?;
    let verifier_key = key.vkey(&config.log_origin);
    let log = Log::create(&paths.log, &config.log_origin, key)
        .map_err(|e| Failure::because("the log cannot be made", next, e))?;
    let ledger = Ledger::open(Box::new(app::store(&paths.store)?), log, Timestamp::now)
        .map_err(|e| Failure::because("the store cannot be made", next, e))?;
    let mut invited = Vec::new();
    let people = std::iter::once((&options.operator, "operator"))
        .chain(options.officers.iter().map(|name| (name, "officer")));
    for (name, role) in people {
        let code =
            Code::new(&authority.hash()).map_err(|e| Failure::because("no code can be made", next, e))?;
        let roles = [role.to_owned()];
        ledger
            .commit(&Call::own("person.invite", format!("person/{name}")), |state, now| {
                people::invite_person(state, name, &roles, code.hash(), "holmd init", now)
                    .map(|changes| Decided::new(changes, ()))
            })
            .map_err(|refusal| Failure::new(format!("`{name}` cannot be invited: {refusal}"), next))?;
        invited.push((name.clone(), role, code.text()));
    }
    let file = dir.join(CONFIG_FILE);
    write_config(&file, &config)
        .map_err(|e| Failure::because(format!("`{}` cannot be written", file.display()), next, e))?;
    Ok(Made { config: file, verifier_key, invited })
}

/// What can stand in `[keys]`, for whoever reads the file; stands below that table.
const KEYS_HELP: &str = r#"
# [keys] says who holds the key-encryption key (KEK), which wraps every project's key. See the operators' guide.
#
# In files beside the wrapped keys, sealed with a secret. Without `seal` they are plain. After a change here:
# holm keys rotate --kek
#   provider = "file"
#   seal = { credential = "holm-kek" }            # systemd: LoadCredentialEncrypted=holm-kek:FILE
#   seal = { file = "/run/secrets/holm-kek" }     # or a passphrase in a file, mode 0600
#   seal = "prompt"                               # or one that is asked for at each start
#   former_seal = { file = "/etc/holm/old" }      # what opens it until the next rotation
#
# In the transit engine of Vault or OpenBao:
#   provider = "vault"
#   address = "https://vault.example.org:8200"
#   ca_file = "/etc/holm/vault-ca.pem"
#   mount = "transit"
#   key = "holm"                                  # of type aes256-gcm96
#   token = { credential = "vault-token" }        # or { file = "…" }; read anew at each request
#
# In a token by PKCS #11:
#   provider = "pkcs11"
#   module = "/usr/lib/softhsm/libsofthsm2.so"
#   token = "holm"
#   key = "holm-kek"
#   pin = { credential = "hsm-pin" }              # or { file = "…" }
#
# Sealed by the TPM 2.0 of this machine:
#   provider = "tpm2"
#   device = "/dev/tpmrm0"
#
# To move from one to another, name the one before too; it is gone from use when holmd says so in its log:
# [former_keys]
#   provider = "file"
"#;

fn write_config(file: &Path, config: &Config) -> std::io::Result<()> {
    let text = toml::to_string(config).map_err(std::io::Error::other)?;
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o640).open(file)?;
    out.write_all(documented(&text).as_bytes())?;
    out.sync_all()
}

/// What is said of a line of the configuration that begins so, above it.
const SAID: [(&str, &str); 34] = [
    ("data =", "Everything that holmd keeps: authority, keys, store, log."),
    ("listen =", "For people and agents."),
    ("enrol_listen =", "For enrolment by one-time code."),
    ("server =", "What people and agents dial."),
    ("pack =", "The rules: a pack that comes with holmd, or a directory with one."),
    ("log_origin =", "The log's name for good."),
    ("platform =", "The partition table of the hosts."),
    ("[defaults]", "What a slice gets where the request does not say."),
    ("vcpus_per_gpu =", "Virtual processors."),
    ("memory_mib_per_gpu =", "MiB of memory."),
    ("disk_gib =", "GiB of root disk, whatever its GPUs."),
    ("home_gib =", "GiB of /home and /project, which stay through stops; 0: on the root disk."),
    ("scratch_gib_per_gpu =", "GiB of /raid, gone at each stop; 0: none."),
    (
        "project_disk_gib =",
        "GiB of disks that all slices of a project may have together, unless an operator says otherwise; 0: no limit.",
    ),
    ("[placement]", "How slices are placed, and in which order they get their turn."),
    (
        "cpus =",
        "\"dedicated\": whole cores of a slice's own, and memory of the same node; \"shared\": whoever needs them.",
    ),
    ("housekeeping_cores =", "Cores of each NUMA node that stay the host's; only with \"dedicated\"."),
    ("hugepages =", "true: slices can have of a host's memory only what it has in huge pages."),
    ("half_life_days =", "What a department has used counts half after it."),
    ("patience_days =", "From then on GPUs are held for the oldest request."),
    ("turn_hours =", "From then on GPUs are held for the one whose turn it is."),
    (
        "reserve_hours =",
        "So long before it begins GPUs are held for a reservation; what is asked for later is none.",
    ),
    (
        "departments =",
        "Among which the use is shared, as in [\"health\", \"arts\"]; a project is of one or of none.",
    ),
    ("[backup]", "Copies of slices' disks, which their hosts make."),
    ("keep =", "As many of a slice stay, 1 to 8; the oldest goes when a new one is whole."),
    ("[certificates]", "How long they are good, in days, 1 to 366."),
    ("person_days =", "Of people, who renew theirs: holm renew."),
    ("host_days =", "Of hosts, whose agents renew them by themselves when a third is left."),
    ("[disk]", "holmd's own, on which `data` lies."),
    (
        "keep_free_mib =",
        "Below so many MiB that are free people begin nothing new; what stops, ends or takes away goes on.",
    ),
    ("[guest]", "The machines of slices."),
    (
        "silent_minutes =",
        "After so many without a word one is shown as degraded: 6 to 1440. It says every five that it lives.",
    ),
    ("[keys]", "Who holds the key that wraps all others."),
    ("provider =", "\"file\", \"vault\", \"pkcs11\" or \"tpm2\"."),
];

/// Stands at the end, where a section of the same name can be written below it.
const BILL: &str = "
# What the hosts are delivered with, where it is not what their platform is. A GPU more, less or other than these
# is an alert. Only what differs has to be said:
#   [bill]
#   gpus = 15
#   gpu_ids = [\"10de:1db8\"]
#   nvswitches = 12
#   nvswitch_ids = [\"10de:1ac1\", \"10de:1ac2\"]
#   memory_bytes = { \"10de:1db8\" = 34359738368 }     # of a GPU, by what it is
#   firmware = { \"10de:1db8\" = \"88.00.51.00.04\" }   # the one VBIOS that it may have
";

/// Below the bill.
const ESCROW: &str = "
# age recipients that an officer may have keys written for, where a level's pack says `escrow = true`:
#   [escrow.recipients]
#   safe = \"age1…\"
";

/// Below that.
const NOTIFY: &str = r#"
# People can be told by mail, a program by HTTP: see the operators' guide. To try it: holmd notify test
#   [notify.smtp]
#   server = "mail.example.org"
#   tls = "starttls"                              # or "implicit"; "none" without a password
#   from = "holm@example.org"
#   address = "{name}@example.org"                # where a person's mail goes
#   username = "holm"
#   password = { credential = "holm-smtp" }       # or { file = "…" }, mode 0600
#
#   [notify.webhook]
#   url = "https://tickets.example.org/holm"
#   secret = { credential = "holm-webhook" }      # or { file = "…" }; what is said is signed with it
"#;

/// And below that.
const WITNESS: &str = r#"
# Others can hold the log's head, so that whoever has this machine cannot roll the log back unseen: see the operators' guide.
#   [witness.cosigners.w1]
#   url = "https://w1.example.org/"
#   key = "example.org/w1+1a2b3c4d+BA…"           # as its operator says it: holmd witness init
#
# And a collector the log as it grows:
#   [stream.sinks.siem]
#   to = "syslog"
#   server = "siem.example.org:6514"
"#;

/// The configuration with what each key means.
fn documented(toml: &str) -> String {
    let mut out = "# holmd's configuration. `holmd check` tells what is wrong with it.\n".to_owned();
    for line in toml.lines() {
        if let Some((_, said)) = SAID.iter().find(|(start, _)| line.starts_with(start)) {
            out.push_str(&format!("# {said}\n"));
        }
        out.push_str(&format!("{line}\n"));
    }
    // `[keys]` is the last table: what is written below it is in it.
    out + KEYS_HELP + BILL + ESCROW + NOTIFY + WITNESS
}

fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::app::App;
    use std::os::unix::fs::MetadataExt as _;

    /// Options for a Holm in this directory, on free ports.
    pub(crate) fn options(dir: &Path) -> Options {
        Options {
            dir: dir.to_path_buf(),
            server: "localhost:7443".to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            enrol_listen: "127.0.0.1:0".parse().unwrap(),
            pack: "aau-2018".to_owned(),
            log_origin: "holm.test/log".to_owned(),
            platform: "dgx-2".to_owned(),
            operator: "olga".parse().unwrap(),
            officers: vec!["frida".parse().unwrap(), "gustav".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_made_opens() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(&options(&dir.path().join("etc/holmd"))).unwrap();
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!(mode("etc/holmd"), 0o700);
        fs::create_dir(dir.path().join("plain")).unwrap();
        assert_eq!(mode("etc"), mode("plain"), "others must get to what is theirs");
        assert_eq!(
            made.invited.iter().map(|(_, role, _)| *role).collect::<Vec<_>>(),
            ["operator", "officer", "officer"]
        );
        let config = Config::load(&made.config).unwrap();
        let app = App::open(config).unwrap();
        let state = app.ledger.state();
        // An entry each, which rules are in force, and what watches it.
        assert_eq!((state.people.len(), state.invitations.len(), app.ledger.size()), (3, 3, 5));
        for (_, _, code) in &made.invited {
            let code = Code::parse(code).unwrap();
            assert!(state.invitations.contains_key(&code.hash()) && code.ca() == app.authority.hash());
        }
    }

    #[test]
    fn the_configuration_says_what_its_keys_are() {
        let dir = tempfile::tempdir().unwrap();
        let made = init(&options(&dir.path().join("holmd"))).unwrap();
        let text = fs::read_to_string(&made.config).unwrap();
        // Every key and section that is written has its words above it.
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, l)| !l.starts_with('#') && !l.is_empty()) {
            let (_, said) = SAID.iter().find(|(start, _)| line.starts_with(start)).expect(line);
            assert_eq!(lines[at - 1], format!("# {said}"));
        }
        // Its example is one: uncommented, it is a configuration.
        let (text, escrow) = text.split_once("\n# age recipients").unwrap();
        assert!(escrow.contains("[escrow.recipients]"));
        let (rest, example) = text.split_once("#   [bill]").unwrap();
        let example = format!("[bill]{}", example.replace("\n#   ", "\n"));
        fs::write(&made.config, format!("{rest}\n{example}")).unwrap();
        let config = Config::load(&made.config).unwrap();
        assert_eq!(config.bill.gpus, Some(15));
        assert!(config.bill.firmware.contains_key("10de:1db8") && config.bill.nvswitch_ids.is_some());
    }

    #[test]
    fn a_failure_leaves_nothing_and_what_is_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holmd");
        for bad in [
            Options { log_origin: "two words".to_owned(), ..options(&path) },
            Options { pack: "none".to_owned(), ..options(&path) },
            Options { officers: vec!["olga".parse().unwrap()], ..options(&path) },
        ] {
            assert!(init(&bad).is_err());
            assert!(!path.exists());
        }
        fs::create_dir(&path).unwrap();
        assert!(init(&Options { log_origin: "two words".to_owned(), ..options(&path) }).is_err());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        fs::write(path.join("mine"), "x").unwrap();
        let error = init(&options(&path)).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }
}
