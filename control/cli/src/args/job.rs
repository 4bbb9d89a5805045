//! Jobs of a slice's Slurm, without logging in.

use super::Target;
use crate::text::{parse_time_limit, plain};
use clap::{Args, Subcommand};

/// `holm job`.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Each runs one of Slurm's own commands in the slice, as you, over SSH. In the slice there is all of \
Slurm: holm ssh SLICE"
)]
pub enum JobVerb {
    /// Submit a script; its number is printed
    Submit(Box<Submit>),
    /// Jobs that wait or run; with --since also those that have ended
    #[command(after_help = "  holm job list heart-study/main --since 2d --format csv")]
    List {
        #[command(flatten)]
        target: Target,
        /// Others', too, as far as Slurm shows them to you
        #[arg(long)]
        all_users: bool,
        /// Also what has ended since: `2h` or `30d` (ago), 2026-11-03, 2026-11-03T14:00 or RFC 3339
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
    /// One job
    Show {
        #[command(flatten)]
        target: Target,
        /// Its number; of an array's task NUMBER_TASK
        #[arg(value_name = "JOB", value_parser = number)]
        job: String,
    },
    /// What a job of yours has used of GPUs, CPUs and memory, over time
    #[command(
        after_help = "  holm job stat heart-study/main 17\n  holm job stat heart-study/main 17 --format csv"
    )]
    Stat {
        #[command(flatten)]
        target: Target,
        /// Its number; of an array's task NUMBER_TASK
        #[arg(value_name = "JOB", value_parser = number)]
        job: String,
    },
    /// What a job of yours has written to its standard output
    #[command(
        after_help = "Not where the slice's level allows no more than a terminal: there, `holm ssh SLICE`, and read it.\n\n  \
        holm job logs gait-lab/main 17 --follow"
    )]
    Logs(Logs),
    /// Cancel jobs: what runs is ended, what waits is taken back
    #[command(
        after_help = "  holm job cancel heart-study/main 17 18_2\n  holm job cancel heart-study/main --mine"
    )]
    Cancel {
        #[command(flatten)]
        target: Target,
        /// Their numbers; of an array's task NUMBER_TASK
        #[arg(value_name = "JOB", value_parser = number, required_unless_present = "mine", conflicts_with = "mine")]
        jobs: Vec<String>,
        /// All of yours
        #[arg(long)]
        mine: bool,
        /// Do not ask
        #[arg(long, requires = "mine")]
        yes: bool,
    },
}

/// `holm job submit`.
#[derive(Debug, Args)]
#[command(
    after_help = "It begins in your home directory there. With --wait it ends with the job's exit code, or with 1 where the \
    job was cancelled or was not let finish.\n\n  \
    holm job submit heart-study/main train.sh --gpus 2 --time 12h\n  \
    holm job submit heart-study/main train.sh --array 1-20%4 --output out/%A_%a.txt -- --epochs 30\n  \
    make-script | holm job submit heart-study/main - --name night --after 17 --wait"
)]
pub struct Submit {
    #[command(flatten)]
    pub target: Target,
    /// A script here, which begins with #!; for `-` it is read from standard input
    #[arg(value_name = "SCRIPT")]
    pub script: String,
    /// GPUs
    #[arg(long, value_name = "N")]
    pub gpus: Option<u32>,
    /// Time limit: 90m, 12h, or as Slurm writes it, D-HH:MM:SS; otherwise as its QoS says
    #[arg(long, value_name = "TIME", value_parser = parse_time_limit)]
    pub time: Option<String>,
    /// Quality of service; `sacctmgr show qos` in the slice says which there are
    #[arg(long, value_name = "QOS", value_parser = qos)]
    pub qos: Option<String>,
    /// Its name; otherwise the file's
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// An array of tasks: 1-10, 1-9:2, 1,4,7, and after a percent sign how many at once
    #[arg(long, value_name = "TASKS", value_parser = array)]
    pub array: Option<String>,
    /// Not before these have succeeded
    #[arg(long, value_name = "JOB", value_delimiter = ',', value_parser = number)]
    pub after: Vec<String>,
    /// Where in the slice what it prints is written: %j is its number, %A and %a an array's and its task's
    #[arg(long, value_name = "FILE", value_parser = name)]
    pub output: Option<String>,
    /// Wait until it has ended
    #[arg(long)]
    pub wait: bool,
    /// Ask Slurm whether it would take it, and when it could begin; submit nothing
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Arguments of the script
    #[arg(last = true, value_name = "ARGUMENT")]
    pub arguments: Vec<String>,
}

/// `holm job logs`.
#[derive(Debug, Args)]
pub struct Logs {
    #[command(flatten)]
    pub target: Target,
    /// Its number; of an array's task NUMBER_TASK
    #[arg(value_name = "JOB", value_parser = number)]
    pub job: String,
    /// What it goes on to write, too, until it has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    pub lines: Option<u32>,
}

/// `17`, or `17_3`.
fn number(text: &str) -> Result<String, String> {
    let digits = |part: &str| (1..=10).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let good = match text.split_once('_') {
        Some((job, task)) => digits(job) && digits(task),
        None => digits(text),
    };
    if good {
        Ok(text.to_owned())
    } else {
        Err("a job has a number, 17, and a task of an array, 17_3".to_owned())
    }
}

fn qos(text: &str) -> Result<String, String> {
    let good = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if good {
        Ok(text.to_owned())
    } else {
        Err("a QoS is called by letters, digits, hyphens and dots".to_owned())
    }
}

fn array(text: &str) -> Result<String, String> {
    let good = text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b',' | b':' | b'%'));
    if good { Ok(text.to_owned()) } else { Err("tasks are written 1-10, 1-9:2, 1,4,7 or 1-100%5".to_owned()) }
}

/// One line of a length that Slurm takes.
fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 1000 {
        return Err("it has from 1 to 1000 bytes".to_owned());
    }
    if plain(text) != text {
        return Err("it has control characters in it".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slurm_would_take_for_something_else_is_refused_here() {
        for good in ["1", "17", "17_3"] {
            assert!(number(good).is_ok(), "{good}");
        }
        for bad in ["", "-1", "17_", "_3", "17_[1-2]", "all", "17;id", "17 18", "99999999999"] {
            assert!(number(bad).is_err(), "{bad}");
        }
        assert!(array("1-9:2,12%4").is_ok() && array("%4").is_err() && array("1;id").is_err());
        assert!(qos("1gpulong").is_ok() && qos("a b").is_err() && qos("").is_err());
        assert!(name("a|b '; rm -rf ~").is_ok() && name("a\nb").is_err() && name("").is_err());
    }
}
