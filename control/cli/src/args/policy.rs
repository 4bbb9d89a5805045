//! `holm policy`.

use clap::{ArgGroup, Args, Subcommand};
use std::path::PathBuf;

/// What is done with the rules.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// The rules in force: levels, and with --rules what is demanded of the site and what sees to it
    Show {
        /// The rules of the site instead of the levels
        #[arg(long)]
        rules: bool,
        /// Write the pack's files into this new directory: a start for a pack of one's own
        #[arg(long, value_name = "DIR", conflicts_with = "rules")]
        out: Option<PathBuf>,
    },
    /// Whether a pack would be accepted, and what of the site's rules it leaves open: offline
    #[command(
        after_help = "Exit code 1 where it would not be accepted. What nothing sees to is shown, and accepted."
    )]
    Check {
        /// A directory with a pack, or the name of one that comes with Holm
        pack: String,
    },
    /// What becomes different with another pack, and which of your projects it concerns
    #[command(after_help = "One pack: compared with the one in force. Two: offline.")]
    Diff {
        /// A directory with a pack, or the name of one that comes with Holm
        #[arg(value_name = "PACK", required = true, num_args = 1..=2)]
        packs: Vec<String>,
    },
    /// Whether something would be allowed, why or why not, and who could do it. Nothing is done
    #[command(after_help = "  holm policy explain slice.approve --slice heart-study/main\n  \
        holm policy explain project.create --level 3\n  \
        holm policy explain slice.connect --slice heart-study/main --as rosa")]
    Explain(Explain),
    /// Make a key to sign packs with, in a new file; its public half goes into holmd.toml
    Keygen {
        /// The new file, for your eyes only
        file: PathBuf,
        /// Whose key it is, as in security.example.org
        #[arg(long)]
        name: String,
    },
    /// Sign a pack: writes pack.sig beside its files
    Sign {
        /// A directory with a pack
        directory: PathBuf,
        /// The key's file, as `holm policy keygen` made it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Whose key it is, as it was given to `holm policy keygen`
        #[arg(long)]
        name: String,
    },
    /// Put a signed pack in force, at once, for a security officer
    #[command(
        after_help = "holmd takes it when a key that its configuration trusts has signed it, its version is higher \
        than that of the pack of this name in force, and no living slice is at a level that it has no room for. \
        Each decision from then on is in the log with its name and version."
    )]
    Load {
        /// A directory with a pack and its pack.sig
        directory: PathBuf,
        /// Say what would become different, change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// A question to the rules.
#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("resource").args(["project", "slice", "host", "person", "level", "log"])))]
pub struct Explain {
    /// As the log names it, slice.approve
    pub action: String,
    /// Done to this project
    #[arg(long, value_name = "NAME")]
    pub project: Option<String>,
    /// Done to this slice
    #[arg(long, value_name = "PROJECT/NAME")]
    pub slice: Option<String>,
    /// Done to this host
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Done to this person's entry
    #[arg(long, value_name = "NAME")]
    pub person: Option<String>,
    /// Done to a project of yours that is to be registered at this level
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<String>,
    /// Done to the log
    #[arg(long)]
    pub log: bool,
    /// By this person instead of you, for officers and operators
    #[arg(long = "as", value_name = "PERSON")]
    pub as_person: Option<String>,
}
