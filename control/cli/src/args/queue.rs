//! A slice's own queue, and how slices were used.

use super::{How, Target};
use clap::{Args, Subcommand};
use holm_proto::jobs;
use holm_proto::v1::JobClass;
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
    /// A class as it is to be: NAME:wall=TIME,priority=N,gpus=N; gpus are of one person at once, all where it is not said
    #[arg(long = "set", value_name = "CLASS", value_parser = parse_class)]
    pub put: Vec<JobClass>,
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
#[command(after_help = "Jobs that run go on, those that wait stay where they are, and people can log in. \
    `holm slice show` says how many run.")]
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
fn parse_class(text: &str) -> Result<JobClass, String> {
    let form = "write it as in night:wall=12h,priority=20,gpus=2";
    let (name, rest) = text.split_once(':').ok_or_else(|| format!("it has no settings: {form}"))?;
    let (mut wall, mut class) =
        (false, JobClass { name: name.to_owned(), priority: 100, ..Default::default() });
    for setting in rest.split(',') {
        let (key, value) =
            setting.split_once('=').ok_or_else(|| format!("`{setting}` is no setting: {form}"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("`{value}` is no number: {form}"));
        match key {
            "priority" => class.priority = number()?,
            "gpus" if value == "all" => class.gpus = None,
            "gpus" => class.gpus = Some(number()?),
            "wall" => {
                let minutes = crate::text::parse_duration(value)?.as_secs().div_ceil(60);
                class.wall_minutes = u32::try_from(minutes).unwrap_or(u32::MAX);
                wall = true;
            }
            _ => return Err(format!("`{key}` is no setting: wall, priority and gpus are")),
        }
    }
    if !wall {
        return Err(format!("it does not say how long a job may run: {form}"));
    }
    jobs::fault(&class).map_or(Ok(class), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_read_as_it_is_written() {
        let class = parse_class("night:wall=12h,priority=20,gpus=2").unwrap();
        assert_eq!(
            (class.name.as_str(), class.wall_minutes, class.priority, class.gpus),
            ("night", 720, 20, Some(2))
        );
        assert_eq!(parse_class("a:wall=90s,gpus=all").unwrap().wall_minutes, 2);
        for bad in [
            "night",
            "night:",
            "night:priority=1",
            "night:wall=x",
            "night:wall=1h,gpus=-1",
            "night:wall=1h,x=1",
            "N:wall=1h",
            "a:wall=1h,gpus=65",
            "a:wall=9000000h",
            "a:wall=1h,priority=4294967296",
            ":wall=1h",
        ] {
            assert!(parse_class(bad).is_err(), "{bad}");
        }
    }
}
