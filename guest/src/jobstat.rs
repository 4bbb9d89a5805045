//! `jobstat 15`: what one of one's own jobs has used, as a table and over time. Run by people; it reads what this program wrote
//! as root (`series`), and nobody's but one's own.

use crate::{
    command::{run, within},
    failed::{Failed, Of as _, Outcome},
    files,
    idle::duration,
    jobs,
    series::{PLACE, Point, Series},
};
use serde_json::{Value, json};
use std::{
    env, fs,
    io::{self, ErrorKind, Write as _},
    path::Path,
};

/// What people call it: the second is on the shared clusters that they come from.
pub const NAMES: [&str; 2] = ["jobstat", "getUtilByJobId.sh"];
const HELP: &str = "What one of your jobs uses, or used: processors, memory and GPUs, with plots over time.

  jobstat JOB                 JOB as squeue shows it: 15, or 12_3 of an array
  jobstat JOB --format json   the same as numbers
";
/// Lines of a plot.
const HEIGHT: usize = 5;
/// What stands to the left of one.
const LEFT: usize = 10;

/// Does it with these arguments.
pub fn main(arguments: &[&str]) -> Outcome {
    let (job, json) = match arguments {
        ["--help" | "-h" | "help"] => return say(HELP),
        [job] | ["--format", "text", job] | [job, "--format", "text"] => (job, false),
        ["--format", "json", job] | [job, "--format", "json"] => (job, true),
        ["--format=json", job] | [job, "--format=json"] => (job, true),
        [] => return Err(Failed::because("which job? jobstat JOB, and `squeue --me` shows your own")),
        _ => return Err(Failed::because("one job, and at most `--format json`: see jobstat --help")),
    };
    if job.is_empty() || job.len() > 40 || !job.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_') {
        return Err(Failed::because("a job is called 15, or 12_3 in an array: `squeue --me` shows your own"));
    }
    let hers = Path::new(PLACE).join(rustix::process::getuid().to_string());
    let series = match found(&hers, job)? {
        Some(series) => series,
        None => return Err(Failed(missing(job, rustix::process::getuid().as_raw()))),
    };
    let text = if json {
        as_json(&series).to_string() + "\n"
    } else {
        as_text(&series, jobs::now() as u64, width())
    };
    say(&text)
}

/// Whoever reads only its beginning is nobody to complain to.
fn say(text: &str) -> Outcome {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).of("standard output"),
        _ => Ok(()),
    }
}

/// Hers of that name.
fn found(hers: &Path, job: &str) -> Outcome<Option<Series>> {
    let read = |name: &str| match fs::read_to_string(hers.join(name)) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
        text => text.of(name).map(|text| Series::parse(&text)),
    };
    if !job.contains('_') {
        return read(job);
    }
    for name in files::names(hers).unwrap_or_default() {
        let series = read(&name)?;
        if series.as_ref().is_some_and(|series| series.about.array.as_deref() == Some(job)) {
            return Ok(series);
        }
    }
    Ok(None)
}

/// Why there is nothing of it. What is somebody else's is as what is not there.
fn missing(job: &str, uid: u32) -> String {
    let format = "UserID:12 ,State:20 ";
    let ask = ["squeue", "--noheader", "--array", "--states=all", "--jobs", job, "--Format", format];
    let said = run(&within("20", &ask)).unwrap_or_default();
    let mut words = said.split_whitespace();
    let hers = words.next() == Some(uid.to_string().as_str());
    match words.next() {
        Some("PENDING") if hers => format!("job {job} has not started: squeue says why"),
        Some("RUNNING") if hers => format!("nothing is known of job {job} yet: it is looked once a minute"),
        Some(_) if hers => format!("nothing is known of job {job}: it was over before it was looked"),
        _ => format!("no job {job} of yours"),
    }
}

fn width() -> usize {
    let terminal = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let told = || env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    terminal.filter(|columns| *columns > 0).or_else(told).unwrap_or(80).clamp(40, 200)
}

fn as_json(Series { about, points, end }: &Series) -> Value {
    json!({
        "job": about.job,
        "array": about.array,
        "start": about.start,
        "end": end,
        "cpus": about.cpus,
        "memory_mib": about.memory_mib,
        "gpus": about.gpus,
        "points": points,
    })
}

/// In lines of so many characters.
fn as_text(series: &Series, now: u64, width: usize) -> String {
    let Series { about, points, end } = series;
    let elapsed =
        end.unwrap_or(now).saturating_sub(about.start).max(points.last().map_or(0, |point| point.at));
    let array = about.array.as_ref().map(|array| format!(" ({array})")).unwrap_or_default();
    let state = if end.is_some() { "ran" } else { "has run" };
    let mut text = format!("Job {}{array} {state} for {}.\n\n", about.job, duration(elapsed));
    if points.is_empty() {
        return text + "Nothing is known of it yet: it is looked once a minute.\n";
    }
    let gpu_known = points.iter().any(|point| point.gpu.is_some());
    text.push_str(&table(series, gpu_known));
    let cells = width.saturating_sub(LEFT);
    let mut draw = |name: &str, top: String, most: f64, of: &dyn Fn(&Point) -> Option<f64>| {
        let values = values(series, of);
        text.push_str(&format!("\n{name}\n"));
        for (number, line) in plot(&values, elapsed as f64, most, cells).iter().enumerate() {
            let label = if number == 0 {
                top.as_str()
            } else if number + 1 == HEIGHT {
                "0"
            } else {
                ""
            };
            text.push_str(&format!("{label:>width$} ┤{line}\n", width = LEFT - 2));
        }
        let (from, to) = ("0", duration(elapsed));
        let room = cells.saturating_sub(from.len());
        text.push_str(&format!("{:LEFT$}{from}{to:>room$}\n", ""));
    };
    let cpu = points.iter().map(|point| point.cpu).fold(1.0, f64::max);
    draw("CPUs", percent(cpu), cpu, &|point| Some(point.cpu));
    let held = points.iter().map(|point| point.memory_mib).max().unwrap_or_default();
    let memory = about.memory_mib.unwrap_or(held).max(held).max(1);
    draw("Memory", mebibytes(memory), memory as f64, &|point| Some(point.memory_mib as f64));
    if gpu_known {
        draw("GPUs", percent(1.0), 1.0, &|point| point.gpu);
    } else if about.gpus > 0 {
        text.push_str("\nHow busy its GPUs are no driver in this machine says.\n");
    }
    text
}

fn table(series: &Series, gpu_known: bool) -> String {
    let Series { about, points, end } = series;
    let last = points.last();
    let now = if end.is_some() { "at the end" } else { "now" };
    let most = |of: &dyn Fn(&Point) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let mut lines = vec![["", "has", "mean use", now, "most"].map(str::to_owned)];
    let cpu = mean(&values(series, &|point| Some(point.cpu)));
    let share = |share: Option<f64>| share.map_or_else(|| "unknown".to_owned(), percent);
    let cpus = about.cpus.to_string();
    let now = share(last.map(|point| point.cpu));
    lines.push(["CPUs".to_owned(), cpus, share(cpu), now, percent(most(&|point| point.cpu))]);
    let held = points.iter().map(|point| point.memory_mib).max().unwrap_or_default();
    let of_all = about
        .memory_mib
        .filter(|all| *all > 0)
        .map(|all| format!(" ({})", percent(held as f64 / all as f64)));
    lines.push([
        "Memory".to_owned(),
        about.memory_mib.map_or_else(|| "all".to_owned(), mebibytes),
        String::new(),
        last.map(|point| mebibytes(point.memory_mib)).unwrap_or_default(),
        mebibytes(held) + &of_all.unwrap_or_default(),
    ]);
    if about.gpus > 0 {
        let gpu = mean(&values(series, &|point| point.gpu));
        let most = gpu_known.then(|| most(&|point| point.gpu.unwrap_or_default()));
        let now = share(last.and_then(|point| point.gpu));
        lines.push(["GPUs".to_owned(), about.gpus.to_string(), share(gpu), now, share(most)]);
    }
    let line = |[what, has, mean, now, most]: &[String; 5]| {
        let line = format!("{what:<8}{has:>10}{mean:>10}{now:>12}   {most}");
        line.trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn mebibytes(mib: u64) -> String {
    const LEAST: u64 = 10_000;
    let (number, unit) = match (mib, mib >> 10) {
        (..LEAST, _) => (mib, "MiB"),
        (_, gib @ ..LEAST) => (gib, "GiB"),
        (_, gib) => (gib >> 10, "TiB"),
    };
    format!("{number} {unit}")
}

/// From when to when, and what.
type During = (f64, f64, f64);

fn values(series: &Series, of: &dyn Fn(&Point) -> Option<f64>) -> Vec<During> {
    let value = |(point, span): (&Point, f64)| {
        let to = point.at as f64;
        of(point).map(|value| (to - span, to, value))
    };
    series.spans().filter_map(value).collect()
}

fn mean(values: &[During]) -> Option<f64> {
    within_span(values, 0.0, f64::INFINITY)
}

/// The mean of what was between these two moments.
fn within_span(values: &[During], from: f64, to: f64) -> Option<f64> {
    let (mut sum, mut time) = (0.0, 0.0);
    for (begin, end, value) in values {
        let both = (end.min(to) - begin.max(from)).max(0.0);
        sum += value * both;
        time += both;
    }
    (time > 0.0).then(|| sum / time)
}

/// Lines of Braille, two columns and four rows of dots each: what is known is one dot high at least.
fn plot(values: &[During], all: f64, most: f64, cells: usize) -> Vec<String> {
    let rows = HEIGHT * 4;
    let step = all / (cells * 2) as f64;
    let height = |column: usize| {
        let value = within_span(values, column as f64 * step, (column + 1) as f64 * step)?;
        Some(((value / most * rows as f64).round() as usize).clamp(1, rows))
    };
    let heights: Vec<usize> = (0..cells * 2).map(|column| height(column).unwrap_or_default()).collect();
    (0..HEIGHT).map(|line| line_of(&heights, rows - line * 4)).collect()
}

/// The line whose uppermost dots are `top` dots above the ground.
fn line_of(heights: &[usize], top: usize) -> String {
    // From above, left and right.
    const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
    let column = |dots: &[u32; 4], height: usize| -> u32 {
        dots.iter().enumerate().filter(|(row, _)| height + row >= top).map(|(_, dot)| dot).sum()
    };
    let cell = |pair: &[usize]| {
        let both: u32 = DOTS.iter().zip(pair).map(|(dots, height)| column(dots, *height)).sum();
        char::from_u32(0x2800 + both).unwrap_or(' ')
    };
    heights.chunks(2).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::{
        About,
        tests::{about, point},
    };
    use proptest::prelude::*;

    fn golden(name: &str, series: &Series) {
        let text = as_text(series, series.about.start + 1260, 60);
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }

    #[test]
    fn a_job_is_shown() {
        let points = (1..=20).map(|minute| {
            let share = minute as f64 / 20.0;
            point(minute * 60, share, 100 + minute * 40, Some(1.0 - share))
        });
        let series = Series { about: about(15), points: points.collect(), end: None };
        golden("jobstat", &series);
        let about = About { array: Some("12_3".to_owned()), memory_mib: None, ..about(15) };
        let points = vec![point(60, 1.5, 20_000, None), point(120, 0.5, 10, None)];
        golden("jobstat-undriven", &Series { about, points, end: Some(1_796_000_130) });
    }

    #[test]
    fn what_is_wrong_is_said() {
        let failed = |arguments: &[&str]| main(arguments).unwrap_err().0;
        assert!(failed(&[]).contains("which job?"));
        assert!(failed(&["1", "2", "3"]).contains("--help"));
        for job in ["../1", "", "all", "-1"] {
            assert!(failed(&[job]).contains("squeue --me"), "{job}");
        }
        assert_eq!(failed(&["999999999"]), "no job 999999999 of yours");
    }

    #[test]
    fn as_numbers() {
        let series = Series { about: about(15), points: vec![point(60, 0.5, 10, None)], end: None };
        let wanted = concat!(
            r#"{"job":15,"array":null,"start":1796000000,"end":null,"cpus":4,"memory_mib":1024,"gpus":2,"#,
            r#""points":[{"at":60,"cpu":0.5,"memory_mib":10,"gpu":null}]}"#
        );
        assert_eq!(as_json(&series).to_string(), wanted);
    }

    proptest! {
        #[test]
        fn whatever_it_did_no_line_is_too_long(
            points in proptest::collection::vec((1u64..4000, 0.0f64..9.0, 0u64..1 << 16, proptest::option::of(0.0f64..1.0)), 0..60),
            width in 40usize..200,
        ) {
            let mut at = 0;
            let next = |(after, cpu, memory, gpu)| {
                at += after;
                point(at, cpu, memory, gpu)
            };
            let points = points.into_iter().map(next).collect();
            let text = as_text(&Series { about: about(1), points, end: None }, 1_796_000_000, width);
            let longest = text.lines().map(|line| line.chars().count()).max();
            prop_assert!(longest <= Some(width.max(60)), "{longest:?}");
        }
    }
}
