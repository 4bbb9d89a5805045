//! How slices were used: one, hour by hour, and all that a caller may read, month by month.
//!
//! What it rests on: when a slice had its GPUs, the log knows; what was done with them its guest claims.

use super::slice::instant;
use super::{Scene, view};
use crate::app::App;
use crate::domain::records::{Slice, SliceState};
use crate::domain::{Refusal, RefusalKind, State};
use crate::usage::{self, Hour};
use holm_proto::ids::{Name, SliceId};
use holm_proto::v1;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use std::collections::BTreeMap;

/// Hours that one question is about.
const HOURS_MAX: i64 = 24 * 400;
/// Months of a report.
const MONTHS_MAX: usize = 25;
const HOUR: f64 = 3600.0;

/// What guests of this host claim of their jobs.
pub(super) fn note(app: &App, host: &Name, reported: &BTreeMap<SliceId, v1::ObservedSlice>) {
    let (state, now) = (app.ledger.state(), app.ledger.now());
    for (id, seen) in reported {
        let here = |s: &&Slice| {
            s.placement.as_ref().is_some_and(|p| &p.host == host) && s.state == SliceState::Ready
        };
        let slice = state.slices.get(id).filter(here).filter(|s| s.generation == seen.generation);
        if let (Some(slice), Some(jobs)) = (slice, &seen.jobs) {
            app.usage.hear(slice, jobs, now);
        }
    }
}

/// The times that are asked about.
pub(super) fn span(message: &v1::GetUsageRequest, now: Timestamp) -> Result<(Timestamp, Timestamp), Refusal> {
    let until = instant(message.until.as_ref())?.unwrap_or(now);
    let week = SignedDuration::from_hours(24 * 7);
    let since = instant(message.since.as_ref())?;
    let since = since.unwrap_or_else(|| until.checked_sub(week).unwrap_or(Timestamp::MIN));
    let invalid = |text: &str| Refusal::new(RefusalKind::Invalid, text);
    if since > until {
        return Err(invalid("it would end before it begins").hint("--since TIME before --until TIME"));
    }
    if until.duration_since(since) > SignedDuration::from_hours(HOURS_MAX) {
        return Err(invalid("no more than 400 days are looked at at once").hint("holm report usage"));
    }
    Ok((since, until))
}

/// One slice in this time.
pub(super) fn of(
    scene: &Scene<'_>,
    slice: &Slice,
    shown: v1::Slice,
    (since, until): (Timestamp, Timestamp),
) -> v1::Usage {
    let hours = scene.app.usage.hours(slice.id, since, until);
    let sum = Sums::of(hours.iter().map(|(_, hour)| hour));
    v1::Usage {
        slice: Some(shown),
        hours: hours.into_iter().map(|(start, hour)| self::hour(start, &hour)).collect(),
        gpu_hours_held: usage::held(slice, since, until, scene.now),
        gpu_hours_jobs: sum.jobs,
        gpu_hours_busy: sum.busy,
        gpu_hours_known: sum.known,
        cpu_hours: sum.cpu,
    }
}

/// Hours.
struct Sums {
    jobs: f64,
    busy: f64,
    known: f64,
    cpu: f64,
}

impl Sums {
    fn of<'a>(hours: impl Iterator<Item = &'a Hour>) -> Self {
        let none = Self { jobs: 0.0, busy: 0.0, known: 0.0, cpu: 0.0 };
        hours.fold(none, |sum, hour| Self {
            jobs: sum.jobs + hour.gpu_seconds as f64 / HOUR,
            busy: sum.busy + hour.gpu_busy_seconds as f64 / HOUR,
            known: sum.known + hour.gpu_known_seconds as f64 / HOUR,
            cpu: sum.cpu + hour.cpu_seconds as f64 / HOUR,
        })
    }
}

fn hour(start: Timestamp, hour: &Hour) -> v1::UsageHour {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    v1::UsageHour {
        start: Some(view::time(start)),
        seconds: small(hour.seconds),
        gpu_seconds: hour.gpu_seconds,
        gpu_busy_seconds: hour.gpu_busy_seconds,
        gpu_known_seconds: hour.gpu_known_seconds,
        cpu_seconds: hour.cpu_seconds,
        memory_mib: hour.memory_mib,
        running: small(hour.running),
        pending: small(hour.pending),
    }
}

/// A month, in universal time: its name, begin and end.
type Month = (String, Timestamp, Timestamp);

/// The months of a report.
pub(super) fn months(message: &v1::ListUsageRequest, now: Timestamp) -> Result<Vec<Month>, Refusal> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let read = |text: &str, or: Date| {
        if text.is_empty() {
            return Ok(or.first_of_month());
        }
        let date = format!("{text}-01").parse::<Date>().ok().filter(|_| text.len() == 7);
        date.ok_or_else(|| {
            let text = text.escape_debug().take(40).collect::<String>();
            Refusal::new(RefusalKind::Invalid, format!("`{text}` is no month: write it as in 2026-11"))
        })
    };
    let since = read(&message.since, today)?;
    let until = read(&message.until, if message.since.is_empty() { today } else { since })?;
    let begin = |date: Date| date.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).ok();
    let mut months = Vec::new();
    let mut month = since;
    while month <= until {
        let next = month
            .checked_add(1.month())
            .map_err(|_| Refusal::new(RefusalKind::Invalid, "that is no time"))?;
        if let (Some(from), Some(to)) = (begin(month), begin(next)) {
            months.push((format!("{:04}-{:02}", month.year(), month.month()), from, to));
        }
        month = next;
        if months.len() > MONTHS_MAX {
            let text = format!("a report is of {MONTHS_MAX} months at most");
            return Err(Refusal::new(RefusalKind::Invalid, text).hint("--since and --until closer together"));
        }
    }
    if months.is_empty() {
        return Err(Refusal::new(RefusalKind::Invalid, "it would end before it begins")
            .hint("--since MONTH --until MONTH"));
    }
    Ok(months)
}

/// A row for each month in which it had GPUs.
pub(super) fn rows(
    app: &App,
    state: &State,
    slice: &Slice,
    months: &[Month],
    now: Timestamp,
) -> Vec<v1::UsageRow> {
    let project = state.projects.get(&slice.project);
    let row = |(month, from, to): &Month| {
        let held = usage::held(slice, *from, *to, now);
        let end = to.checked_sub(SignedDuration::from_secs(1)).unwrap_or(*to);
        let hours = app.usage.hours(slice.id, *from, end);
        let sum = Sums::of(hours.iter().map(|(_, hour)| hour));
        (held > 0.0).then(|| v1::UsageRow {
            month: month.clone(),
            department: project.map(|p| p.department.clone()).unwrap_or_default(),
            project: project.map(|p| p.name.to_string()).unwrap_or_default(),
            slice: slice.name.to_string(),
            level: slice.level.clone(),
            gpu_hours_held: held,
            gpu_hours_jobs: sum.jobs,
            gpu_hours_busy: sum.busy,
            gpu_hours_known: sum.known,
            cpu_hours: sum.cpu,
        })
    };
    months.iter().filter_map(row).collect()
}
