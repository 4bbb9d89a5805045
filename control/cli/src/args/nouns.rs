//! Every noun but slices.

use crate::text::parse_duration;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `holm enrol`.
#[derive(Debug, Args)]
#[command(after_help = "The code holds a hash of holmd's authority: no other server is given it.")]
pub struct Enrol {
    /// The one-time code, holm1-…; for `-` it is read from standard input
    pub code: String,
    /// holmd's enrolment listener; port 7444 where none is given
    #[arg(long, value_name = "HOST:PORT")]
    pub server: Option<String>,
    /// Put key and certificates here instead of in a profile, as for a host's agent
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Replace an enrolment that is still good
    #[arg(long)]
    pub replace: bool,
}

/// `holm profile`.
#[derive(Debug, Subcommand)]
pub enum ProfileVerb {
    /// Those on this machine: who, where, until when
    List,
}

/// `holm person`.
#[derive(Debug, Subcommand)]
pub enum PersonVerb {
    /// Everybody you may see
    List,
    /// One person
    Show {
        /// The person's name
        name: String,
    },
    /// Make a one-time code with which a person gets a certificate
    Invite {
        /// A new name, or that of somebody who needs a new certificate
        name: String,
        /// lead, researcher, officer, operator or auditor; can be repeated. Without it a known person keeps hers
        #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
        roles: Vec<String>,
    },
    /// Confirm a code that somebody else gave out, for a security officer, or an operator where it makes no officer
    #[command(
        after_help = "A code that makes an officer, or gives somebody who has a certificate another, is good for nothing \
        before: whoever uses it is that person. Ask her, or who gave it out, whether it was meant. `holm person list` says \
        which wait."
    )]
    Confirm {
        /// For whom it is
        name: String,
        /// Which code, as who gave it out was told; `person list` says whose it is
        #[arg(long, value_name = "ID")]
        id: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a person's certificates away at once, for a security officer
    #[command(
        after_help = "What she has open ends, and codes that she has not used yet are good for nothing. She is known as \
        before: by a new code, `holm person invite NAME`, she gets in again. To keep her out, lock her: `holm lock set`."
    )]
    Revoke {
        /// The person's name
        name: String,
        /// Why; it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `holm host`.
#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Every host
    List,
    /// One host with its devices: the only one, where no name is given
    Show {
        /// The host's name
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Draw what hangs where in a host: nodes, switches, GPUs, disks, and how far the GPUs are from each other
    #[command(
        after_help = "The ways between GPUs are in the words of `nvidia-smi topo`: over one switch (pix), over several \
        (pxb), over the processor's root (phb), within a NUMA node (node), between nodes (sys)."
    )]
    Topology {
        /// The host's name; the only one, where none is given
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
        /// Write a drawing that a browser shows; `-` is standard output
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// The list a host was checked against, and what came of it: of the only host, where no name is given
    Checks {
        /// The host's name
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Make a one-time code with which a host's agent gets its certificate
    Invite {
        /// The host's name
        name: String,
    },
    /// Take a host's certificates away at once, for an operator
    #[command(
        after_help = "Its agent's session ends, and connections through it; what runs there runs on. It comes back with a new \
        code: `holm host invite NAME`."
    )]
    Revoke {
        /// The host's name
        name: String,
        /// Why; it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a host, or one device of it, out of service: nothing new is placed there
    #[command(after_help = "What runs there runs on, and is closed as ever.")]
    Drain {
        /// The host's name
        host: String,
        /// One device of it, by its PCI address; otherwise the whole host
        #[arg(long, value_name = "ADDRESS")]
        device: Option<String>,
        /// Why; operators read it
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Put a host, or one device of it, back into service
    Resume {
        /// The host's name
        host: String,
        /// One device of it, by its PCI address; otherwise the whole host
        #[arg(long, value_name = "ADDRESS")]
        device: Option<String>,
    },
    /// Let a quarantined device be cleaned again, by your word
    ReleaseDevice {
        /// The host's name
        host: String,
        /// The device's PCI address, as in 0000:34:00.0 or 34:00.0
        address: String,
        /// What was done about it
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// `holm lock`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "What can be locked: person/NAME, project/NAME, slice/PROJECT/NAME, device/HOST/ADDRESS, keys/PROJECT."
)]
pub enum LockVerb {
    /// What is locked, by whom and why, for officers and auditors
    List,
    /// Lock it, at once and until an officer lifts it
    #[command(
        after_help = "A person can do nothing, and what she has open ends. In a project or a slice nothing starts and \
        nobody connects; what runs runs on, and officers, auditors and operators read it. A device is given to nobody \
        new. Keys of a project are given to no host and to nobody outside. Nobody locks herself.\n\n  \
        holm lock set person/ada --reason \"her laptop was stolen\""
    )]
    Set {
        /// person/NAME, project/NAME, slice/PROJECT/NAME, device/HOST/ADDRESS or keys/PROJECT
        subject: String,
        /// Why; officers and auditors read it, and it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Lift a lock; where a level takes two approvals, another officer than who set it
    Lift {
        /// As `holm lock list` names it
        subject: String,
        /// Why; it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `holm wait`.
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    override_usage = "holm wait <SLICE> <STATE> [--timeout 10m]\n       holm wait --host <HOST> <STATE> [--timeout 10m]"
)]
pub struct Wait {
    /// PROJECT/NAME, or NAME in the current project
    #[arg(required_unless_present = "host", conflicts_with = "host")]
    pub slice: Option<String>,
    /// Of a slice: requested, approved, placed, preparing, booting, ready, failed, stopping, stopped, rejected, withdrawn,
    /// keeping, kept, closing, destroying, destroyed. Of a host: online, clean (no GPU waits to be cleaned), free (every GPU clean, and
    /// nobody's), quarantined (a GPU is)
    pub state: String,
    /// Wait for a host
    #[arg(long)]
    pub host: Option<String>,
    /// Give up after this time, with exit code 4
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub project: super::InProject,
}

/// `holm audit`.
#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// What was asked, by whom, and what came of it
    Log(Box<Log>),
    /// One entry, whole
    Show {
        /// Its number
        index: u64,
    },
    /// What became of a project, day by day: what was decided and done, without what was only read
    Timeline {
        /// Its name
        project: String,
        /// From then on: 2h (ago), 2026-11-03, 2026-11-03T14:00, or RFC 3339
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Before then
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// Whose a GPU was at some time, and what its memory had gone through before
    WhoHad {
        /// HOST/ADDRESS, as dgx2-1/0000:34:00.0
        device: String,
        /// When; without it: now
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
    /// What a person did to each project, what she was refused, and what made her somebody
    Access {
        /// Her name
        person: String,
        /// From then on: 2h (ago), 2026-11-03, 2026-11-03T14:00, or RFC 3339
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Before then
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// Recompute the log, here: the one on holmd, or a copy of it
    #[command(
        after_help = "Online, the log's key is remembered when it is seen first, and so is the log's head each \
        time it is verified. A log whose key changed, that shrank, or that does not begin as it did is an alarm, and \
        ends with exit code 1. Offline nothing is asked of holmd."
    )]
    Verify {
        /// A copy of the log's directory, or an export, also NAME.jsonl: offline
        dir: Option<PathBuf>,
        /// The log's public key, or a file with it. Without it: the one remembered
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// A checkpoint that somebody saved before, with `holm audit checkpoint`; the log must begin with what it was
        /// then. Can be repeated
        #[arg(long, value_name = "FILE")]
        earlier: Vec<PathBuf>,
        /// A witness's public key, from its operator, or a file with it: says how far that one covers the log. Can be
        /// repeated; online it is remembered
        #[arg(long = "witness", value_name = "KEY")]
        witnesses: Vec<String>,
        /// A file with a head that a witness cosigned, as it shows it to everybody. Can be repeated
        #[arg(long = "head", value_name = "FILE")]
        heads: Vec<PathBuf>,
    },
    /// Write the log, or some of it, to where it can be verified or worked with
    #[command(
        after_help = "DIR gets all of the log, as C2SP tlog-tiles: what proves that nothing is missing. FILE.jsonl gets \
        the entries that fit, one to the line, each with the proof that it is in the log; FILE.csv and FILE.parquet get \
        them as tables, without proofs. Each is compared with the log's signed head while it is written."
    )]
    Export {
        /// A new directory, or a new file: NAME.jsonl, NAME.csv or NAME.parquet
        #[arg(value_name = "DIR|FILE")]
        to: PathBuf,
        #[command(flatten)]
        filter: Box<Filter>,
    },
    /// What a data subject is told of who came to her data: dates and purposes, without names of staff
    Extract(super::Whom),
    /// Samples of the log, that officers look at
    #[command(subcommand)]
    Review(super::ReviewVerb),
    /// Breaches, and what may be some: a project is frozen, and a clock runs
    #[command(subcommand)]
    Incident(super::IncidentVerb),
    /// The log's public key
    Key,
    /// The log's signed head
    Checkpoint,
    /// Who holds the log's head outside, and what they cosigned, as holmd says
    Witnesses,
}

/// `holm audit log`.
#[derive(Debug, Args)]
pub struct Log {
    #[command(flatten)]
    pub filter: Filter,
    /// As many, the newest that fit
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    pub last: u64,
    /// All that fit
    #[arg(long)]
    pub all: bool,
    /// Then go on, with each that comes
    #[arg(long, short, conflicts_with = "until")]
    pub follow: bool,
}

/// Which entries. All that is said must be so.
#[derive(Debug, Default, PartialEq, Args)]
pub struct Filter {
    /// Of this person
    #[arg(long, value_name = "NAME")]
    pub person: Option<String>,
    /// Of this host
    #[arg(long, value_name = "NAME", conflicts_with = "person")]
    pub host: Option<String>,
    /// About this, as the log names it: slice/heart-study/main, person/ada
    #[arg(long, value_name = "THING")]
    pub about: Option<String>,
    /// About this project
    #[arg(long, value_name = "NAME")]
    pub project: Option<String>,
    /// About a project that had this level then
    #[arg(long)]
    pub level: Option<String>,
    /// Where the state of this device, or whose it is, changed: dgx2-1/0000:34:00.0
    #[arg(long, value_name = "HOST/ADDRESS")]
    pub device: Option<String>,
    /// This action, as in slice.approve; `slice` stands for all of slices
    #[arg(long)]
    pub action: Option<String>,
    /// What came of it
    #[arg(long, value_parser = holm_control::audit::OUTCOMES)]
    pub outcome: Option<String>,
    /// Of one call, by the id that its answer had
    #[arg(long, value_name = "ID")]
    pub request: Option<String>,
    /// With all these words in it, wherever
    #[arg(long, value_name = "WORDS")]
    pub text: Option<String>,
    /// From then on: 2h (ago), 2026-11-03, 2026-11-03T14:00, or RFC 3339
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

impl Filter {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `holm keys`.
#[derive(Debug, Subcommand)]
pub enum KeysVerb {
    /// Who holds the key-encryption key, and the generations of it and of each project's key. No key is shown
    Show,
    /// Make a new key, and have it wrap what the one before wrapped
    #[command(
        group = clap::ArgGroup::new("what").required(true),
        after_help = "What runs runs on, and no disk changes: the volumes' own keys stay, wrapped anew. The key before \
        is destroyed when nothing needs it any more, and then an earlier copy of wrapped keys opens with nothing that \
        holmd has. What is interrupted goes on by itself."
    )]
    Rotate {
        /// The project's key, which wraps its volumes' keys
        #[arg(long, value_name = "NAME", group = "what")]
        project: Option<String>,
        /// The key-encryption key, which wraps the projects' keys
        #[arg(long, group = "what")]
        kek: bool,
    },
    /// Have the keys of a project's disks written so that only the named recipients can read them, for a security officer
    #[command(
        after_help = "What is written is an age file. Whoever has a recipient's identity opens every disk of the project \
        with it, and Holm cannot take that back: certificates of its slices say so from then on. Only where the level \
        allows it.\n\n  holm keys escrow heart-study --to safe-a --to safe-b > heart-study.age"
    )]
    Escrow {
        /// The project's name
        project: String,
        /// A recipient, as holmd's configuration names it; can be repeated
        #[arg(long, value_name = "NAME", required = true)]
        to: Vec<String>,
        /// Write it here; otherwise to standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// `holm certificate`.
#[derive(Debug, Subcommand)]
pub enum CertificateVerb {
    /// Whether holmd signed it, and what it covers: offline
    #[command(
        after_help = "Ends with exit code 0 where the log's key signed this certificate, whatever it says: read it. Of a \
        page, all that it shows must follow from what was signed."
    )]
    Verify {
        /// What `holm slice certificate` wrote with --out or --html
        file: PathBuf,
        /// The log's public key, or a file with it; otherwise the one that `holm audit verify` has come to know
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// Look it up in this export of the log, too, all of which is verified
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
    },
}
