//! Backups.

use super::{InProject, Target};
use clap::{Args, Subcommand};

/// `holm backup`.
#[derive(Debug, Subcommand)]
pub enum BackupVerb {
    /// Those of a slice, or of every slice you may see: when they were made, and when it was tried whether they restore
    List {
        /// PROJECT/NAME, or NAME in the current project; all, where none is given
        slice: Option<String>,
        #[command(flatten)]
        project: InProject,
    },
}

/// `holm volume`.
#[derive(Debug, Subcommand)]
pub enum VolumeVerb {
    /// Try whether a stopped slice could be restored: fetched beside its disks, checked, opened, and erased again
    #[command(
        after_help = "The slice's disks are not touched, and its keys are given to its host once, which is in the log. \
        With --wait it ends with exit code 1 where the drill did not pass."
    )]
    RestoreDrill {
        #[command(flatten)]
        target: Target,
        /// With this backup; otherwise with the newest
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        backup: String,
        #[command(flatten)]
        how: How,
    },
}

/// `holm slice backup`.
#[derive(Debug, Args)]
#[command(
    after_help = "The disks are copied as they lie, encrypted: who has the store has nothing without the keys, which are \
    not in it. /raid is not copied. The slice is stopped before and can be started when it is over."
)]
pub struct BackUp {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub how: How,
}

/// `holm slice restore`.
#[derive(Debug, Args)]
#[command(
    after_help = "The backup is fetched and checked whole before anything is replaced; where it is not what was made, the \
    disks stay as they are. Only the host that made it restores it: it helps against a damaged disk or a mistake, not \
    against the loss of the host."
)]
pub struct Restore {
    #[command(flatten)]
    pub target: Target,
    /// Which backup, as `holm backup list` names it
    #[arg(long, value_name = "ID")]
    pub backup: String,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub how: How,
}

/// What these have in common.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// Wait until it is over, and show how far it is
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Say what would happen, change nothing
    #[arg(long)]
    pub dry_run: bool,
}
