//! Slices.

use super::How;
use super::{BackUp, Drain, Restore, Scheduler, Usage};
use crate::text::{parse_duration, parse_gib, parse_gib_or_none, parse_mib};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// `holm slice`.
#[derive(Debug, Subcommand)]
pub enum SliceVerb {
    /// Every slice you may see
    List {
        /// Of this project only
        #[arg(long)]
        project: Option<String>,
    },
    /// One slice
    Show(Target),
    /// Ask for a slice
    Request(Request),
    /// All that an officer looks at before she approves: what is asked for, what its level makes of it, what its project
    /// has filed and asked for before
    Review(Target),
    /// Approve it, or the time or size that it asks for, for a security officer
    Approve {
        #[command(flatten)]
        target: Target,
        /// What you looked at; it is in the log
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
        /// As `review` says it: refused where another was asked for since under the same name
        #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        id: Option<String>,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Refuse it, or the time or size that it asks for, for a security officer
    Reject {
        #[command(flatten)]
        target: Target,
        /// Why; the project is told, and it is in the log
        #[arg(long, value_name = "TEXT")]
        comment: String,
        /// As `review` says it: refused where another was asked for since under the same name
        #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        id: Option<String>,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Ask for it to run longer than it was approved for, for its lead
    #[command(
        after_help = "`holm slice show` says until when it may run. Officers approve more time as they approved it. It counts \
        from the day on which they do. What is not approved in time is stopped, and nobody gets in; its disks stay."
    )]
    Extend {
        #[command(flatten)]
        target: Target,
        /// What for; officers read it, and it is in the log
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the request back, or that for more time or another size
    Withdraw {
        #[command(flatten)]
        target: Target,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Close it: machine gone, key destroyed, disk erased, devices cleaned. Nothing comes back
    Close {
        #[command(flatten)]
        target: Target,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop it: machine gone, its devices cleaned for others. Disk and key stay, and it can be started again
    Stop {
        #[command(flatten)]
        target: Target,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Let no job begin in it any more, as before it is stopped
    Drain(Drain),
    /// The classes of jobs in it, Slurm's qualities of service: show them, or, for its lead, change them
    Scheduler(Scheduler),
    /// How it was used: GPU hours, processors, jobs that waited, drawn over time
    Usage(Usage),
    /// Start one that was stopped: it waits for GPUs on the host where its disk is
    #[command(
        after_help = "With --rebuild its root disk is made anew over the host's newest image, and the one that it has is \
        destroyed with its key: what was installed there is gone. /home and /project stay; a slice that has them on its \
        root disk is not rebuilt."
    )]
    Start {
        #[command(flatten)]
        target: Target,
        /// With a new root disk: the system as it is installed today
        #[arg(long)]
        rebuild: bool,
        /// Do not ask
        #[arg(long, requires = "rebuild")]
        yes: bool,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make its disks larger, for its lead, while it runs; they never become smaller
    #[command(
        after_help = "The file systems grow with their disks. One that is stopped has the new sizes when it is started, and \
        /raid from the next start on.\n\n  holm slice grow heart-study/main --home 500G"
    )]
    Grow {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        sizes: Sizes,
        #[command(flatten)]
        how: How,
    },
    /// Give it other GPUs, CPUs and memory from its next start on, for its lead
    #[command(
        after_help = "No more than it has of anything its lead says alone, and more officers approve, by as many as its level wants. What \
        was given up they approve again; to keep what it has, ask for that. A machine that runs has it when it is started next. \
        CPUs and memory that are not named go with the GPUs. Its disks stay as they are: `holm slice grow`.\n\n  \
        holm slice resize heart-study/main --gpus 4 --comment 'the larger model'\n  \
        holm slice drain heart-study/main --stop --wait && holm slice start heart-study/main"
    )]
    Resize {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        size: Size,
        /// What for; officers read it, and it is in the log
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        comment: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Put its disks under other keys, and destroy those that they have, for its lead or a security officer
    #[command(
        after_help = "Backups that were made before open no more: make another one afterwards. While it runs, where its host keeps disks on LVM; where they are files, when it is started next. What \
        was copied of the disks before still opens with the keys of before, which are destroyed, and with no other."
    )]
    Rekey {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        how: How,
    },
    /// Write its disks anew, encrypted under other data keys, for its lead or a security officer. It must be stopped
    #[command(
        after_help = "For when somebody may have copied a disk's header, and its key: `rekey` changes the key that opens a \
        disk, and comes first where that was seen; this changes the one that its data is encrypted under. One disk after the other is \
        copied beside itself, for which its host needs the room, and as much time as copying takes; cut off, each opens as \
        before. What was copied before, backups too, stays under the data keys of then: make another backup afterwards. With \
        --wait it ends with exit code 1 where it did not succeed."
    )]
    Reencrypt {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        how: How,
    },
    /// Copy its disks to its host's store of backups. It must be stopped
    Backup(BackUp),
    /// Make its disks what they were when a backup was made. It must be stopped, and what was written since is lost
    Restore(Restore),
    /// Put it on hold, for a security officer: its key and disk are not destroyed, also where it is closed
    Hold {
        #[command(flatten)]
        target: Target,
        /// Why; its project reads it, and it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Stop its machine, too, where it runs. Nothing starts it again
        #[arg(long)]
        freeze: bool,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Lift its hold, for a security officer. What is closed is then destroyed
    Release {
        #[command(flatten)]
        target: Target,
        /// Why; it is in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Say what would happen, change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Every step as it happens, until the slice is ready, failed, at rest or gone
    #[command(
        after_help = "Ends with exit code 0 where the slice is ready, stopped, kept or destroyed, 1 where it failed, \
        was rejected or withdrawn, 4 where the time was up."
    )]
    Watch {
        #[command(flatten)]
        target: Target,
        /// Give up after this time, with exit code 4
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Why it is where it is, what it waits for, what comes next
    Explain(Target),
    /// The deletion certificate of a slice that is destroyed
    Certificate {
        #[command(flatten)]
        target: Target,
        /// Write it here, as it was signed
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write it here, as a page to print and file, which `holm certificate verify` takes, too
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Log in, or run a command
    Ssh(Ssh),
    /// What terminals of the slice showed, where its level has that recorded: a list, or one of them played
    #[command(
        after_help = "For security officers outside the project; each look is in the log, with its reason. While it plays: space \
        stops it and goes on, < and > change its speed, Enter goes to the next output; at its end it waits for a key. A recording is \
        played as it was: what a \
        member showed can also be what your terminal obeys. With --text it cannot.\n\n  \
        holm slice recordings heart-study/main --reason 'complaint 17'\n  \
        holm slice recordings heart-study/main 20261128-180102-ida-x9ZkQ0 --reason 'complaint 17'"
    )]
    Recordings(Recordings),
    /// Standard input and output to the slice's SSH server, as a ProxyCommand
    Tunnel {
        #[command(flatten)]
        target: Target,
        /// To recordings
        #[arg(long, hide = true)]
        recordings: bool,
    },
    /// Print what ~/.ssh/config needs for ssh, scp, rsync and VS Code to reach the slice by themselves
    #[command(
        after_help = "It is included before what else is there: of each option ssh takes the first. Before each connection ssh has \
        `holm slice ssh-cert` run, which gets a certificate where the last one is about to end. Where the slice's level allows \
        no more than a terminal, VS Code does not work.\n\n  \
        holm slice ssh-config gait-lab/main >~/.ssh/gait-lab.conf\n  \
        sed -i '1i Include gait-lab.conf' ~/.ssh/config      once, at its top\n  ssh gait-lab.main.holm"
    )]
    SshConfig(Target),
    /// Get an SSH certificate for what `ssh-config` printed, where there is none or it is about to end
    SshCert(Target),
    /// Copy files to a slice or back, with scp
    Copy(Copy),
}

/// New sizes of a slice's disks.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub struct Sizes {
    /// Root disk, as in 100G
    #[arg(long, value_name = "SIZE", value_parser = parse_gib)]
    pub disk: Option<u64>,
    /// Disk of /home and /project
    #[arg(long, value_name = "SIZE", value_parser = parse_gib)]
    pub home: Option<u64>,
    /// Disk of /raid
    #[arg(long, value_name = "SIZE", value_parser = parse_gib)]
    pub scratch: Option<u64>,
}

/// What it has of its host but for disks.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub struct Size {
    /// 1, 2, 4, 8 or 16
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,
    /// Virtual CPUs; otherwise as many for each GPU as it has
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// Memory, as in 64G; otherwise as much for each GPU as it has
    #[arg(long, value_name = "SIZE", value_parser = parse_mib)]
    pub memory: Option<u64>,
}

/// Which slice.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// PROJECT/NAME, or NAME in the current project
    pub slice: String,
    #[command(flatten)]
    pub project: InProject,
}

/// The current project.
#[derive(Debug, Clone, Default, Args)]
pub struct InProject {
    /// Where NAME alone is; otherwise the project switched to
    #[arg(long, value_name = "NAME", env = "HOLM_PROJECT", hide_env_values = true)]
    pub project: Option<String>,
}

/// `holm slice request`.
#[derive(Debug, Args)]
pub struct Request {
    #[command(flatten)]
    pub target: Target,
    /// 1, 2, 4, 8 or 16
    #[arg(long, value_name = "N")]
    pub gpus: u32,
    /// Virtual CPUs; otherwise as the site's rule per GPU says
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// Memory, as in 64G; otherwise as the site's rule per GPU says
    #[arg(long, value_name = "SIZE", value_parser = parse_mib, conflicts_with = "memory_mib")]
    pub memory: Option<u64>,
    /// The same as a number of MiB
    #[arg(long, value_name = "MIB")]
    pub memory_mib: Option<u64>,
    /// Root disk, as in 50G; otherwise as the site's rule says
    #[arg(long, value_name = "SIZE", value_parser = parse_gib)]
    pub disk: Option<u64>,
    /// Disk of /home and /project, as in 200G; otherwise as the site's rule says. 0 has them on the root disk for good: such
    /// a slice is never rebuilt
    #[arg(long, value_name = "SIZE", value_parser = parse_gib_or_none)]
    pub home: Option<u64>,
    /// Disk of /raid, erased whenever the slice stops, as in 1T, or 0 for none; otherwise as the site's rule per GPU says
    #[arg(long, value_name = "SIZE", value_parser = parse_gib_or_none)]
    pub scratch: Option<u64>,
    /// Not before then, reserved where asked for a day or so before; 2026-12-01, 2026-12-01T08:00, 36h (from now) or RFC 3339
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// When you mean to close it: others are told when they may fit
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Show the whole request and whether it would be accepted; change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `holm ssh`.
#[derive(Debug, Args)]
#[command(
    after_help = "Where the slice's level allows no more than a terminal (`holm policy show`: terminal_only), a command takes \
    --tty, and no port is forwarded.\n\n  \
    holm ssh gait-lab/main --forward 8888:8888    then, in a browser here: http://127.0.0.1:8888"
)]
pub struct Ssh {
    #[command(flatten)]
    pub target: Target,
    /// Give the command a terminal, also where there is none here
    #[arg(long, short)]
    pub tty: bool,
    /// Forward a port here, on 127.0.0.1, to one there; can be repeated
    #[arg(long, value_name = "LOCAL:REMOTE", value_parser = forward)]
    pub forward: Vec<String>,
    /// A command to run there instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `holm slice recordings`.
#[derive(Debug, Args)]
pub struct Recordings {
    #[command(flatten)]
    pub target: Target,
    /// Which of them to play
    #[arg(value_name = "RECORDING")]
    pub recording: Option<String>,
    /// Why you look, for the log
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// So many times as fast
    #[arg(long, value_name = "N", requires = "recording", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub speed: Option<u16>,
    /// Print what it showed, all at once and without what a terminal obeys
    #[arg(long, requires = "recording", conflicts_with = "speed")]
    pub text: bool,
}

/// `holm slice copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "One side is on a slice: PROJECT/NAME:PATH. Write ./ before a local name with a colon in it. \
    Out of a slice only where its level allows more than a terminal.\n\n  \
    holm slice copy data.tar heart-study/main:\n  holm slice copy heart-study/main:results ./ --recursive"
)]
pub struct Copy {
    /// What to copy
    #[arg(required = true, value_name = "FROM")]
    pub from: Vec<String>,
    /// Where to
    #[arg(value_name = "TO")]
    pub to: String,
    /// Whole directories
    #[arg(long, short)]
    pub recursive: bool,
    #[command(flatten)]
    pub project: InProject,
}

/// `8888:8888`, or `8888:HOST:8888`, as ssh's `-L` takes it.
fn forward(text: &str) -> Result<String, String> {
    let bad = || "a port here and one there, as in 8888:8888".to_owned();
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (local, remote) = text.split_once(':').ok_or_else(bad)?;
    let (host, remote) = remote.rsplit_once(':').unwrap_or(("localhost", remote));
    let named =
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
    match (port(local), port(remote)) {
        (Some(local), Some(remote)) if named => Ok(format!("127.0.0.1:{local}:{host}:{remote}")),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_ssh_takes_them() {
        assert_eq!(forward("8888:80").unwrap(), "127.0.0.1:8888:localhost:80");
        assert_eq!(forward("8888:127.0.0.1:80").unwrap(), "127.0.0.1:8888:127.0.0.1:80");
        for bad in
            ["", "8888", "0:80", "8888:", ":80", "8888:a b:80", "0.0.0.0:8888:x:80", "70000:80", "1::80"]
        {
            assert!(forward(bad).is_err(), "{bad}");
        }
    }
}
