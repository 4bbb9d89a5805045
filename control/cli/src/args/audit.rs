//! `holm audit`, where officers do something about what they read.

use clap::Subcommand;

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
