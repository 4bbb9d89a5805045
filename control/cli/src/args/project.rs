//! Projects, and what they file.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `holm project`.
#[derive(Debug, Subcommand)]
pub enum ProjectVerb {
    /// Every project you may see
    List,
    /// One project
    Show {
        /// The project's name
        name: String,
    },
    /// Register a project; you become its lead
    #[command(
        after_help = "Where its name, level or purpose is not said, and no form, all of it is asked, step by step. What its level demands can be \
        filed with it, or afterwards: holm project file. `holm project form` prints a form for all of it; --dry-run says what \
        would be missing still."
    )]
    Create(Box<Create>),
    /// Print a form to fill in, for `holm project create --file`
    Form {
        /// How sensitive the project's data is, as the site's rules number it
        #[arg(long)]
        level: String,
    },
    /// File what the project's level demands before a slice of it is asked for, started or entered
    #[command(
        after_help = "What is not named stays as it is; what has run out is filed again. `holm project show` says what is \
        missing. Dates are as in 2027-06-30, RFC 3339, or 400d (from now); a date alone is its first moment."
    )]
    File {
        /// The project's name
        name: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        filing: Box<Filing>,
    },
    /// Say what data it works with: of a level no higher than the project's
    AddData {
        /// The project's name
        project: String,
        /// The data set's name: 1 to 32 lower-case letters, digits and hyphens
        name: String,
        /// Who classifies it
        #[arg(long, value_name = "TEXT")]
        owner: String,
        /// How sensitive it is, as the site's rules number it
        #[arg(long)]
        level: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Have a level lowered: its lead asks, and two security officers outside the project approve
    #[command(
        group = clap::ArgGroup::new("what").required(true),
        after_help = "  holm project declassify heart-study --data-set scans --to 2 --reason \"names were removed\"\n  \
        holm project declassify heart-study --approve    # an officer, then another\n\nA project's level follows the \
        highest of its data sets. Slices that there are keep the level that they were asked for at."
    )]
    Declassify {
        /// The project's name
        project: String,
        /// Ask for this level
        #[arg(long, value_name = "LEVEL", group = "what", requires = "reason")]
        to: Option<String>,
        /// Of this data set; otherwise of the project, down to no less than its data sets
        #[arg(long, value_name = "NAME", requires = "to")]
        data_set: Option<String>,
        /// Why; officers read it, and it is in the log
        #[arg(long, value_name = "TEXT", requires = "to")]
        reason: Option<String>,
        /// Take it back, as its lead
        #[arg(long, group = "what")]
        withdraw: bool,
        /// Approve what is asked for, as an officer
        #[arg(long, group = "what")]
        approve: bool,
        /// Reject it, as an officer
        #[arg(long, group = "what")]
        reject: bool,
        /// What you have to say of it
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
        /// Say what would happen, change nothing
        #[arg(long, conflicts_with = "withdraw")]
        dry_run: bool,
    },
    /// The record of its processing of personal data, as article 30 of the GDPR wants it
    Record {
        /// The project's name
        name: String,
    },
    /// Projects as a public register has them, present and past: of those that you may see
    Register,
    /// Let a person use the project's slices; of who is a member, say how
    AddMember {
        /// The project's name
        project: String,
        /// The person's name
        person: String,
        /// Of a person from outside: the agreement under which she works, as it is filed elsewhere
        #[arg(long, value_name = "REFERENCE", requires = "agreement_expires")]
        external_agreement: Option<String>,
        /// When it ends; from then on she does not get in
        #[arg(long, value_name = "DATE", requires = "external_agreement")]
        agreement_expires: Option<String>,
        /// She logs in and sees /project, changes nothing but her own home, and runs no jobs
        #[arg(long, conflicts_with = "read_write")]
        read_only: bool,
        /// She changes things again
        #[arg(long)]
        read_write: bool,
    },
    /// Take a person out of the project: her logins and jobs end within seconds, her files stay
    RemoveMember {
        /// The project's name
        project: String,
        /// The person's name
        person: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Put all of its slices on hold, for a security officer: their keys and disks are not destroyed, also where they are
    /// closed
    Hold {
        /// The project's name
        name: String,
        /// Why; the project reads it, and it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Lift its hold, for a security officer. What is closed is then destroyed
    Release {
        /// The project's name
        name: String,
        /// Why; it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Say how much disk its slices may have together, for an operator
    #[command(
        group = clap::ArgGroup::new("much").required(true),
        after_help = "Every disk counts of every slice that is asked for or not yet taken apart, also while it is stopped. \
        A quota below what is used takes nothing away; nothing more can be asked for then."
    )]
    Quota {
        /// The project's name
        project: String,
        /// GiB of all disks together; 0 is no limit
        #[arg(long, value_name = "N", group = "much")]
        disk_gib: Option<u64>,
        /// What holds for every project of which nothing else was said
        #[arg(long, group = "much")]
        default: bool,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a project the current one: then NAME alone names its slices
    Switch {
        /// The project's name
        name: String,
    },
}

/// `holm project create`.
#[derive(Debug, Args)]
pub struct Create {
    /// 1 to 32 lower-case letters, digits and hyphens
    pub name: Option<String>,
    /// How sensitive its data is, as the site's rules number it
    #[arg(long)]
    pub level: Option<String>,
    /// What it is for, in one sentence
    #[arg(long, value_name = "TEXT")]
    pub purpose: Option<String>,
    /// Whose it is, of those that the site lists: the use of the hosts is shared among departments
    #[arg(long, value_name = "NAME")]
    pub department: Option<String>,
    /// A form that was filled in; what is said here as well goes before it
    #[arg(long, value_name = "FORM")]
    pub file: Option<PathBuf>,
    /// Say what would happen, change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub filing: Filing,
}

/// What a project files, as it is typed or stands in a form.
#[derive(Debug, Clone, Default, Args, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "What is filed")]
pub struct Filing {
    /// On what ground personal data is processed: a letter of article 6(1) of the GDPR
    #[arg(long, value_name = "LETTER")]
    pub legal_basis: Option<String>,
    /// Whether there is data on health, genes, beliefs and the like (article 9): yes or no
    #[arg(long, value_name = "YES|NO")]
    pub special_categories: Option<String>,
    /// On what ground, where there is: a letter of article 9(2)
    #[arg(long, value_name = "LETTER")]
    pub special_basis: Option<String>,
    /// Whether it is for research or statistics alone: yes or no
    #[arg(long, value_name = "YES|NO", num_args = 0..=1, default_missing_value = "yes")]
    pub research: Option<String>,
    /// The data protection impact assessment, as it is filed elsewhere
    #[arg(long, value_name = "REFERENCE")]
    pub dpia: Option<String>,
    /// When it must be made anew
    #[arg(long, value_name = "DATE", requires = "dpia")]
    pub dpia_expires: Option<String>,
    /// The approval by an ethics committee
    #[arg(long, value_name = "REFERENCE")]
    pub ethics: Option<String>,
    /// When it ends
    #[arg(long, value_name = "DATE", requires = "ethics")]
    pub ethics_expires: Option<String>,
    /// The data-management plan
    #[arg(long, value_name = "REFERENCE")]
    pub data_management_plan: Option<String>,
    /// When it must be made anew
    #[arg(long, value_name = "DATE", requires = "data_management_plan")]
    pub data_management_plan_expires: Option<String>,
    /// When the project ends: from then on nothing of it starts or is entered
    #[arg(long, value_name = "DATE")]
    pub ends: Option<String>,
    /// For the record of processing (article 30): who answers for it
    #[arg(long, value_name = "TEXT")]
    pub controller: Option<String>,
    /// For the record: whose data it is, and of what kinds
    #[arg(long, value_name = "TEXT")]
    pub categories: Option<String>,
    /// For the record: who is given it, or "none"
    #[arg(long, value_name = "TEXT")]
    pub recipients: Option<String>,
    /// For the record: to which countries outside the EEA it goes, or "none"
    #[arg(long, value_name = "TEXT")]
    pub transfers: Option<String>,
    /// For the record: how it is erased
    #[arg(long, value_name = "TEXT")]
    pub erasure: Option<String>,
    /// For the record: what protects it, beside what its level demands
    #[arg(long, value_name = "TEXT")]
    pub measures: Option<String>,
}
