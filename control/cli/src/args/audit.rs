//! `holm audit`, where officers do something about what they read.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `holm audit review`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Of every period, 30 days as shipped, holmd draws some of the entries by which people came to projects' data. \
    Which ones follows from the log, by a number that nobody knows before the period is over: `holm audit verify` draws them \
    again. Officers look at each, and none at one that is about herself."
)]
pub enum ReviewVerb {
    /// Every sample, and how far it is looked at
    List,
    /// One sample: its entries, and what was said of them
    Show {
        /// Its number
        number: u32,
    },
    /// Say of entries that they are in order, for a security officer
    SignOff {
        /// The sample's number
        number: u32,
        /// Numbers of entries
        #[arg(required = true, value_name = "ENTRY")]
        entries: Vec<u64>,
        /// What you looked at
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Say of an entry that it is not in order, for a security officer
    #[command(
        after_help = "The other officers hear of it by mail. What is to be done about it, is done with \
        `holm lock set` or `holm audit log`."
    )]
    Flag {
        /// The sample's number
        number: u32,
        /// The entry's
        entry: u64,
        /// What is wrong with it; officers and auditors read it, and it is in the log
        #[arg(long, value_name = "TEXT")]
        comment: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `holm audit incident`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "An incident freezes its project: nothing of it starts, nobody connects, and no key and no disk is destroyed. \
    What runs runs on: `holm slice hold --freeze` stops it with its disks as they are. From when somebody became aware of it the controller \
    has 72 hours to tell the authority (GDPR, article 33); officers hear of it by mail when 48, 24 and 6 are left, and when \
    they are over."
)]
pub enum IncidentVerb {
    /// Every incident, and how much time is left
    List,
    /// Open one: its project is frozen, and the clock runs; for a security officer
    Open {
        /// The project's name
        project: String,
        /// What happened, or may have; officers and auditors read it, and it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// When somebody who answers for the data became aware of it: 2h (ago), 2026-11-03T14:00; without it: now
        #[arg(long, value_name = "TIME")]
        aware: Option<String>,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Note that the authority was told, for a security officer
    Notified {
        /// The incident's number
        number: u32,
        /// Under which the authority has it
        #[arg(long, value_name = "TEXT")]
        reference: String,
        /// Where it comes later than 72 hours, why: as the authority is told
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Write everything of its project into one signed archive
    #[command(
        after_help = "A tar file: the entries of the log, each with the proof that it is in it, what they say of the project, its \
        deletion certificates, the rules in force, and a manifest that the log's key signed. It is verified as it is written, \
        and anywhere later, offline: `holm audit incident verify FILE --key KEY`. With --at the same file is written again."
    )]
    Export {
        /// The incident's number
        number: u32,
        /// A new file
        #[arg(value_name = "FILE.tar")]
        to: PathBuf,
        /// Of the log's first so many entries; without it: all
        #[arg(long, value_name = "SIZE", default_value_t = 0, hide_default_value = true)]
        at: u64,
    },
    /// Whether an archive is what was signed: offline
    Verify {
        /// As `holm audit incident export` wrote it
        file: PathBuf,
        /// The log's public key, or a file with it. Without it: the one remembered
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Close one, for a security officer
    #[command(
        after_help = "Lock and hold stay until they are lifted: `holm lock lift`, `holm project release`. Of one of which the \
        authority was not told, the reason says why it need not be (GDPR, article 33(1) and (5))."
    )]
    Close {
        /// The incident's number
        number: u32,
        /// What came out
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// `holm audit extract`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whom").required(true))]
pub struct Whom {
    /// For those whose data this project works with: when and what for people came to it
    #[arg(long, value_name = "NAME", group = "whom")]
    pub project: Option<String>,
    /// For one who is herself in the log: what others did with what is about her
    #[arg(long, value_name = "NAME", group = "whom")]
    pub person: Option<String>,
    /// From then on: 2h (ago), 2026-11-03, 2026-11-03T14:00, or RFC 3339
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// With the names of staff: where a court or the authority wants them, and not for the data subject as a rule
    #[arg(long)]
    pub with_staff: bool,
}
