//! A slice's own queue, and how slices were used.

use super::{How, Target};
use crate::text::parse_duration;
use clap::{Args, Subcommand};
use holm_proto::jobs;
use holm_proto::v1::JobClassEdit;
use std::path::PathBuf;

/// `holm slice scheduler`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "A class is a quality of service, as Slurm calls it: `sbatch --qos short`. Without options it shows them. What you \
    change holds in the slice within seconds while it runs, and stays through stops. A job that waits under a class that goes \
    waits for ever, and Slurm says so: cancel it.\n\n  \
    holm slice scheduler heart-study/main --set night:priority=20,wall=12h\n  \
    holm slice scheduler heart-study/main --set short:gpus=2,wall=1h,priority=500 --default short"
)]
pub struct Scheduler {
    #[command(flatten)]
    pub target: Target,
    /// A new class, or what becomes different of one: NAME:wall=TIME,priority=N,gpus=N (of one person at once, or all)
    #[arg(long = "set", value_name = "CLASS", value_parser = parse_class)]
    pub put: Vec<JobClassEdit>,
    /// A class that goes
    #[arg(long, value_name = "NAME")]
    pub remove: Vec<String>,
    /// The class of jobs that name none
    #[arg(long = "default", value_name = "NAME")]
    pub first: Option<String>,
    /// As the site has them, before all else
    #[arg(long)]
    pub reset: bool,
    /// Say what would happen, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl Scheduler {
    /// Nothing is to change.
    pub fn shows(&self) -> bool {
        self.put.is_empty() && self.remove.is_empty() && self.first.is_none() && !self.reset
    }
}

/// `holm slice drain`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "For its lead, members and operators. Jobs that run go on, those that wait stay where they are, and people can log in. \
    `holm slice show` says how many run. When it is started again jobs begin."
)]
pub struct Drain {
    #[command(flatten)]
    pub target: Target,
    /// Jobs begin again
    #[arg(long, conflicts_with = "stop")]
    pub end: bool,
    /// Stop it when its last job has ended
    #[arg(long)]
    pub stop: bool,
    #[command(flatten)]
    pub how: How,
}

/// `holm slice usage`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "When it had GPUs Holm knows; what was done with them its own guest says, which whoever is root in it could \
    forge. No names of people, jobs or files are in it. With --format csv: an hour a line."
)]
pub struct Usage {
    #[command(flatten)]
    pub target: Target,
    /// From then on; 2h, 30d (ago), 2026-11-03 or RFC 3339. Otherwise the last 7 days
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Until then
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// `holm report`.
#[derive(Debug, Subcommand)]
pub enum ReportVerb {
    /// What was used of all slices that you may see, month by month
    #[command(
        after_help = "Months are those of universal time. GPU hours held are those in which slices had GPUs, whatever they did with \
        them; those in jobs, and how busy GPUs were, their own guests say. No names of people, jobs or files are in it.\n\n  \
        holm report usage --since 2026-09 --until 2026-11 --by department --html usage.html --csv usage.csv"
    )]
    Usage(Report),
}

/// `holm report usage`.
#[derive(Debug, Clone, Args)]
pub struct Report {
    /// The first month, as in 2026-11; otherwise this one
    #[arg(long, value_name = "MONTH")]
    pub since: Option<String>,
    /// The last month; otherwise the first
    #[arg(long, value_name = "MONTH")]
    pub until: Option<String>,
    /// A line for each
    #[arg(long, value_enum, default_value = "project", value_name = "WHAT")]
    pub by: By,
    /// Write it here as a table for a spreadsheet
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write it here as a page to read and print
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What a line of a report is of, in each month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A slice.
    Slice,
    /// A project.
    Project,
    /// A department.
    Department,
    /// All together.
    Month,
}

/// `NAME:wall=TIME,priority=N,gpus=N`
fn parse_class(text: &str) -> Result<JobClassEdit, String> {
    let form = "write it as in night:wall=12h,priority=20,gpus=2";
    let (name, rest) = text.split_once(':').ok_or_else(|| format!("it has no settings: {form}"))?;
    let mut class = JobClassEdit { name: name.to_owned(), ..Default::default() };
    for setting in rest.split(',') {
        let (key, value) =
            setting.split_once('=').ok_or_else(|| format!("`{setting}` is no setting: {form}"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("`{value}` is no number: {form}"));
        match key {
            "priority" => class.priority = Some(number()?),
            "gpus" if value == "all" => class.all_gpus = true,
            "gpus" => class.gpus = Some(number()?),
            "wall" => class.wall_minutes = Some(parse_wall(value)?),
            _ => return Err(format!("`{key}` is no setting: wall, priority and gpus are")),
        }
    }
    // holmd says what is wrong with the rest of it.
    if jobs::is_name(name) {
        return Ok(class);
    }
    Err(format!("a class is called by lower-case letters, digits and dashes: `{name}` is not"))
}

/// `12h`, `90m`, `7d`, as minutes.
fn parse_wall(text: &str) -> Result<u32, String> {
    let bad = || format!("`{text}` is no time for jobs: write `90m`, `12h` or `7d`, of 1m to 365d");
    let minutes = match text.strip_suffix('d').map(str::parse::<u32>) {
        Some(Ok(days)) => days.checked_mul(24 * 60),
        _ => parse_duration(text).ok().and_then(|time| u32::try_from(time.as_secs().div_ceil(60)).ok()),
    };
    minutes.filter(|minutes| (1..=jobs::WALL_MINUTES_MAX).contains(minutes)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_read_as_it_is_written() {
        let class = parse_class("night:wall=12h,priority=20,gpus=2").unwrap();
        assert_eq!(
            (class.name.as_str(), class.wall_minutes, class.priority, class.gpus),
            ("night", Some(720), Some(20), Some(2))
        );
        let all = parse_class("a:wall=90s,gpus=all").unwrap();
        assert_eq!((all.wall_minutes, all.gpus, all.all_gpus, all.priority), (Some(2), None, true, None));
        assert_eq!(parse_class("long:wall=14d").unwrap().wall_minutes, Some(14 * 24 * 60));
        for bad in [
            "night",
            "night:",
            "night:wall=x",
            "night:wall=0h",
            "night:wall=1h,gpus=-1",
            "night:wall=1h,x=1",
            "N:wall=1h",
            "a:wall=366d",
            "a:wall=9000000h",
            "a:wall=1h,priority=4294967296",
            ":wall=1h",
        ] {
            assert!(parse_class(bad).is_err(), "{bad}");
        }
    }
}
