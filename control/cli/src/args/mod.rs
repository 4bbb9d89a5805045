//! The grammar: `holm NOUN VERB [NAME] [--flags]`, with the same verbs for every noun. It stays as it is.

mod audit;
mod backup;
mod image;
mod job;
mod nouns;
mod policy;
mod project;
mod queue;
mod slice;

pub use audit::{IncidentVerb, ReviewVerb, Whom};
pub use backup::{BackUp, BackupVerb, How, Restore, VolumeVerb};
pub use image::ImageVerb;
pub use job::{JobVerb, Logs, Submit};
pub use nouns::{
    AuditVerb, CertificateVerb, Enrol, Filter, HostVerb, KeysVerb, LockVerb, Log, PersonVerb, ProfileVerb,
    Wait,
};
pub use policy::{Explain, PolicyVerb};
pub use project::{Create, Filing, ProjectVerb};
pub use queue::{By, Drain, Report, ReportVerb, Scheduler, Usage};
pub use slice::{Copy, InProject, Recordings, Request, Size, Sizes, SliceVerb, Ssh, Target};

use crate::output::Format;
use clap::{Args, Parser, Subcommand};

const MORE: &str = "\
Exit codes:
  0  done
  1  refused, or failed
  2  the command line makes no sense
  3  holmd cannot be reached
  4  what was waited for did not come in time
  `ssh` and `copy` end with the exit code of ssh and scp, `job submit --wait` with that of the job

Files:
  profiles lie in $HOLM_CONFIG, or in $XDG_CONFIG_HOME/holm, or in ~/.config/holm

Start with:
  holm enrol CODE --server HOST:PORT    with the one-time code you were given
  holm doctor                           says what is wrong, and how to mend it";

/// Confidential slices of a GPU server: ask for them, approve them, use them, prove they are gone.
#[derive(Debug, Parser)]
#[command(
    name = "holm",
    version,
    after_help = MORE,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Who you are, to which holmd
    #[arg(
        long,
        global = true,
        env = "HOLM_PROFILE",
        hide_env_values = true,
        default_value = "default",
        value_name = "NAME"
    )]
    pub profile: String,
    /// Form of the answer. JSON is one document; of a watch, one a line
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM",
        hide_possible_values = true,
        help = "Form of the answer: table, json or csv. JSON is one document; of a watch, one a line"
    )]
    pub format: Format,
    /// For scripts: sent again with the same UUID within 24 h, the same change is made only once
    #[arg(long, global = true, env = "HOLM_IDEMPOTENCY_KEY", hide_env_values = true, value_name = "UUID")]
    pub idempotency_key: Option<uuid::Uuid>,
    /// Change a project or a slice only where its `etag` (of --format json) is this one still
    #[arg(long, global = true, value_name = "ETAG", value_parser = etag)]
    pub if_match: Option<String>,
    /// Answers only: no remarks, no next commands, no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Get a certificate for a one-time code
    Enrol(Enrol),
    /// Get a new certificate, for a new key, before yours ends; the one before is then good for nothing
    Renew,
    /// Prove a second factor at your site's OpenID provider, for levels that demand one
    #[command(
        after_help = "It gives a code that you enter on the provider's page, in any browser, on any device; your certificate \
        stays what says who you are. For how long it is good the level says: `holm policy show`."
    )]
    Login,
    /// Who you are to holmd, and until when
    Whoami,
    /// Profiles on this machine
    #[command(subcommand)]
    Profile(ProfileVerb),
    /// People
    #[command(subcommand)]
    Person(PersonVerb),
    /// Hosts and their devices
    #[command(subcommand)]
    Host(HostVerb),
    /// Projects
    #[command(subcommand)]
    Project(ProjectVerb),
    /// Slices: the virtual machines of projects
    #[command(subcommand)]
    Slice(SliceVerb),
    /// Copies of slices' disks, as their hosts have stored them: encrypted
    #[command(subcommand)]
    Backup(BackupVerb),
    /// Slices' disks
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Slices that wait for a place, in the order of their turn
    Queue,
    /// Guest images: what slices' root disks are made over
    #[command(subcommand)]
    Image(ImageVerb),
    /// How slices were used, for reports
    #[command(subcommand)]
    Report(ReportVerb),
    /// Log in to a slice, or run a command there: `holm slice ssh`
    Ssh(Ssh),
    /// Jobs of a slice's Slurm, without logging in
    #[command(subcommand)]
    Job(JobVerb),
    /// Wait until a slice, or a host, is in a state
    Wait(Wait),
    /// The tamper-evident log, for officers and auditors
    #[command(subcommand)]
    Audit(AuditVerb),
    /// The keys of projects, and who holds the key that wraps them, for officers and operators
    #[command(subcommand)]
    Keys(KeysVerb),
    /// The rules: what each level demands, and who may do what
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// What a security officer has locked
    #[command(subcommand)]
    Lock(LockVerb),
    /// Deletion certificates
    #[command(subcommand)]
    Certificate(CertificateVerb),
    /// What is wrong here, and how to mend it
    Doctor,
    /// Print completions for a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// The version of this command line
    Version,
}

fn etag(text: &str) -> Result<String, String> {
    let no = || "that is no etag: 16 of 0-9a-f, as `holm slice show --format json` says it".to_owned();
    holm_control::tag::is_tag(text).then(|| text.to_owned()).ok_or_else(no)
}
