//! What each job has used over time, for its owner alone: a small file of each on the project's disk, which never grows beyond
//! so many points: of a long job they are further apart.
//!
//! ```text
//! {"job":15,"array":"12_3","start":1796000000,"cpus":4,"memory_mib":766,"gpus":2}
//! 60 0.981 120 0.45          seconds since its start, use of its processors, MiB held, use of its GPUs
//! 120 0.973 300 -            no driver says how busy GPUs are
//! end 1796000130
//! ```

use crate::{
    failed::{Of as _, Outcome},
    files,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Where they lie: on the project's disk where it has one.
pub const PLACE: &str = "/var/lib/slurm/jobstat";
/// With more points than that two become one.
const MOST_POINTS: usize = 1500;
/// Seconds, after which they are removed, and how many one person has at most.
const KEPT_SECONDS: f64 = 90.0 * 86_400.0;
const KEPT: usize = 10_000;

/// What a job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub job: u64,
    /// As Slurm calls it where it is a task of an array: `12_3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// Seconds since 1970.
    pub start: u64,
    pub cpus: u32,
    /// What it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    pub gpus: u32,
}

/// What it has used since the point before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// Seconds since its start.
    pub at: u64,
    /// Of its processors, from 0 to 1.
    pub cpu: f64,
    /// Held, when it was looked.
    pub memory_mib: u64,
    /// Of its GPUs, from 0 to 1; `None`: no driver says it.
    pub gpu: Option<f64>,
}

impl Point {
    fn line(&self) -> String {
        let Self { at, cpu, memory_mib, gpu } = self;
        let gpu = gpu.map_or("-".to_owned(), |gpu| format!("{gpu:.3}"));
        format!("{at} {cpu:.3} {memory_mib} {gpu}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (at, cpu, memory_mib) =
            (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let gpu = match words.next()? {
            "-" => None,
            share => Some(share.parse().ok()?),
        };
        Some(Self { at, cpu, memory_mib, gpu })
    }

    /// The two as one, each of so many seconds: the mean of what was used, and the most that was held.
    fn and(self, mine: f64, later: Self, its: f64) -> Self {
        let mean = |a: f64, b: f64| if mine + its > 0.0 { (a * mine + b * its) / (mine + its) } else { b };
        Self {
            at: later.at,
            cpu: mean(self.cpu, later.cpu),
            memory_mib: self.memory_mib.max(later.memory_mib),
            gpu: self.gpu.zip(later.gpu).map(|(a, b)| mean(a, b)).or(self.gpu).or(later.gpu),
        }
    }
}

/// All that is known of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub about: About,
    pub points: Vec<Point>,
    /// Seconds since 1970.
    pub end: Option<u64>,
}

impl Series {
    pub fn parse(text: &str) -> Option<Self> {
        let (about, rest) = text.split_once('\n')?;
        let points = rest.lines().filter_map(Point::parse).collect();
        let end = rest.lines().find_map(|line| line.strip_prefix("end ")?.parse().ok());
        Some(Self { about: serde_json::from_str(about).ok()?, points, end })
    }

    fn text(&self) -> String {
        let mut text = serde_json::to_string(&self.about).unwrap_or_default() + "\n";
        self.points.iter().for_each(|point| text.push_str(&point.line()));
        if let Some(end) = self.end {
            let _ = writeln!(text, "end {end}");
        }
        text
    }

    /// When the point before this one was, in seconds since its start.
    fn before(&self, number: usize) -> u64 {
        number.checked_sub(1).and_then(|before| self.points.get(before)).map_or(0, |point| point.at)
    }

    /// Each point, and of how many seconds it is.
    pub fn spans(&self) -> impl Iterator<Item = (&Point, f64)> {
        let span = |(number, point): (usize, &Point)| point.at.saturating_sub(self.before(number)) as f64;
        self.points.iter().enumerate().map(move |entry| (entry.1, span(entry)))
    }

    /// Half as many points.
    fn coarser(&mut self) {
        let spans: Vec<(Point, f64)> = self.spans().map(|(point, span)| (*point, span)).collect();
        let join = |pair: &[(Point, f64)]| match pair {
            [(one, mine), (two, its)] => Some(one.and(*mine, *two, *its)),
            [(one, _)] => Some(*one),
            _ => None,
        };
        self.points = spans.chunks(2).filter_map(join).collect();
    }
}

/// One that is written.
#[derive(Debug)]
pub struct Written {
    series: Series,
    path: PathBuf,
    uid: u32,
    /// Seconds that a point stands for.
    step: f64,
    /// Points that do not fill a step yet, as one, and of how many seconds it is.
    waiting: Option<(Point, f64)>,
}

impl Written {
    /// Of this person's job. What is there of it already goes on.
    pub fn open(place: &Path, uid: u32, about: About) -> Outcome<Self> {
        let hers = place.join(uid.to_string());
        let of_root = own(uid);
        fs::create_dir_all(place).of(place.display())?;
        files::directory(&hers, 0o750, of_root).of(hers.display())?;
        let path = hers.join(about.job.to_string());
        let before = fs::read_to_string(&path).ok().and_then(|text| Series::parse(&text));
        let goes_on =
            before.filter(|series| series.about.start.abs_diff(about.start) <= 1 && series.end.is_none());
        let series = goes_on.unwrap_or(Series { about, points: Vec::new(), end: None });
        let longest = series.spans().map(|(_, span)| span).fold(0.0, f64::max);
        let written = Self { series, path, uid, step: longest / 2.0, waiting: None };
        written.write_all()?;
        Ok(written)
    }

    /// Adds what it has used since.
    pub fn add(&mut self, point: Point) -> Outcome {
        let last = self.waiting.map_or(self.series.before(self.series.points.len()), |(waits, _)| waits.at);
        let span = point.at.saturating_sub(last) as f64;
        let (point, span) = match self.waiting.take() {
            Some((waits, before)) => (waits.and(before, point, span), before + span),
            None => (point, span),
        };
        if span < self.step {
            self.waiting = Some((point, span));
            return Ok(());
        }
        self.series.points.push(point);
        if self.series.points.len() <= MOST_POINTS {
            return self.append(&point.line());
        }
        self.series.coarser();
        // A little less than two of what it was, so that no look that is early makes it three.
        let length = self.series.before(self.series.points.len()) as f64;
        self.step = length / self.series.points.len() as f64 * 0.9;
        self.write_all()
    }

    /// It has ended.
    pub fn end(mut self, at: u64) -> Outcome {
        if let Some((point, _)) = self.waiting.take() {
            self.append(&point.line())?;
        }
        self.append(&format!("end {at}\n"))
    }

    fn append(&self, text: &str) -> Outcome {
        let append = || {
            OpenOptions::new()
                .append(true)
                .custom_flags(NOFOLLOW)
                .open(&self.path)?
                .write_all(text.as_bytes())
        };
        append().of(self.path.display())
    }

    fn write_all(&self) -> Outcome {
        files::write(&self.path, self.series.text(), 0o640, own(self.uid)).of(self.path.display())
    }
}

const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// Root's, and what her group, which is hers alone, may read.
fn own(uid: u32) -> files::Owner {
    let me = rustix::process::getuid().as_raw();
    if me == 0 { (0, uid) } else { (me, rustix::process::getgid().as_raw()) }
}

/// Removes those that are old, or too many.
pub fn clean(place: &Path, now: f64) {
    for uid in files::names(place).unwrap_or_default() {
        let hers = place.join(uid);
        let mut found: Vec<(i64, PathBuf)> = Vec::new();
        for name in files::names(&hers).unwrap_or_default() {
            let path = hers.join(name);
            found.extend(fs::symlink_metadata(&path).ok().map(|about| (about.mtime(), path)));
        }
        found.sort();
        let too_many = found.len().saturating_sub(KEPT);
        for (number, (at, path)) in found.into_iter().enumerate() {
            if number < too_many || (at as f64) < now - KEPT_SECONDS {
                let _ = files::remove(path);
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn about(job: u64) -> About {
        About { job, array: None, start: 1_796_000_000, cpus: 4, memory_mib: Some(1024), gpus: 2 }
    }

    pub fn point(at: u64, cpu: f64, memory_mib: u64, gpu: Option<f64>) -> Point {
        Point { at, cpu, memory_mib, gpu }
    }

    fn read(place: &Path, job: u64) -> Series {
        let uid = 10_001;
        Series::parse(&fs::read_to_string(place.join(format!("{uid}/{job}"))).unwrap()).unwrap()
    }

    #[test]
    fn a_job_is_written_and_read_and_goes_on_after_a_restart() {
        let place = tempfile::tempdir().unwrap();
        let about = About { array: Some("12_3".to_owned()), ..about(15) };
        let mut written = Written::open(place.path(), 10_001, about.clone()).unwrap();
        written.add(point(60, 0.981, 120, Some(0.45))).unwrap();
        let mut written =
            Written::open(place.path(), 10_001, About { start: about.start + 1, ..about.clone() }).unwrap();
        written.add(point(120, 0.5, 300, None)).unwrap();
        written.end(1_796_000_130).unwrap();
        let points = vec![point(60, 0.981, 120, Some(0.45)), point(120, 0.5, 300, None)];
        assert_eq!(read(place.path(), 15), Series { about: about.clone(), points, end: Some(1_796_000_130) });
        // Another with its number.
        Written::open(place.path(), 10_001, about.clone()).unwrap();
        assert_eq!(read(place.path(), 15), Series { about, points: Vec::new(), end: None });
    }

    #[test]
    fn of_a_long_job_points_are_further_apart() {
        let place = tempfile::tempdir().unwrap();
        let mut written = Written::open(place.path(), 10_001, about(15)).unwrap();
        for minute in 1..=10_000 {
            written.add(point(minute * 60, f64::from(minute % 2 == 0), minute, Some(0.5))).unwrap();
            if minute == 5_000 {
                written = Written::open(place.path(), 10_001, about(15)).unwrap();
            }
        }
        written.end(1_796_600_001).unwrap();
        let series = read(place.path(), 15);
        assert!((700..=1501).contains(&series.points.len()), "{}", series.points.len());
        let cpu: f64 = series.spans().map(|(point, span)| point.cpu * span).sum::<f64>() / 600_000.0;
        assert!((cpu - 0.5).abs() < 0.01, "{cpu}");
        assert_eq!(series.points.iter().map(|point| point.memory_mib).max(), Some(10_000));
        assert!(fs::metadata(place.path().join("10001/15")).unwrap().len() < 64 * 1024);
    }

    #[test]
    fn old_ones_go() {
        let place = tempfile::tempdir().unwrap();
        Written::open(place.path(), 10_001, about(15)).unwrap();
        clean(place.path(), crate::jobs::now() + 89.0 * 86_400.0);
        assert!(place.path().join("10001/15").exists());
        clean(place.path(), crate::jobs::now() + 91.0 * 86_400.0);
        assert!(!place.path().join("10001/15").exists());
        clean(&place.path().join("none"), 0.0);
    }

    proptest! {
        #[test]
        fn what_is_no_series_is_none(text in ".{0,200}") {
            let parsed = Series::parse(&text);
            prop_assert!(parsed.is_none());
            let text = format!("{}\n{text}", serde_json::to_string(&about(1)).unwrap());
            prop_assert!(Series::parse(&text).is_some());
        }
    }
}
