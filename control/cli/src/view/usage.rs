//! How slices were used: for people as plots, for programs as numbers, for a report as a page.

use super::slice::{label, slice_json};
use super::time_json;
use crate::output::{Cell, Table};
use crate::text::{Clock, instant, markup};
use holm_proto::v1::{JobClass, Usage, UsageHour, UsageRow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Characters of a plot, and lines.
const WIDE: usize = 72;
const HIGH: usize = 6;
/// Of a character's height, from nothing to all.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `48 h`, `90 min`.
fn wall(minutes: u32) -> String {
    if minutes.is_multiple_of(24 * 60) && minutes > 24 * 60 {
        format!("{} d", minutes / (24 * 60))
    } else if minutes.is_multiple_of(60) {
        format!("{} h", minutes / 60)
    } else {
        format!("{minutes} min")
    }
}

/// Classes of jobs.
pub fn classes(all: &[JobClass]) -> Table {
    let row = |(at, class): (usize, &JobClass)| {
        let name = if at == 0 { format!("{} *", class.name) } else { class.name.clone() };
        vec![
            Cell::both(name, &class.name),
            class.priority.to_string().into(),
            class.gpus.map_or_else(|| Cell::both("all", ""), |gpus| gpus.to_string().into()),
            Cell::both(wall(class.wall_minutes), class.wall_minutes.to_string()),
        ]
    };
    Table {
        columns: vec!["class", "priority", "gpus of one person", "longest job"],
        rows: all.iter().enumerate().map(row).collect(),
        empty: "it has no classes of jobs",
    }
}

/// As `holm.v1.JobClass` has it.
pub fn class_json(class: &JobClass) -> Value {
    json!({ "name": class.name, "priority": class.priority, "gpus": class.gpus, "wall_minutes": class.wall_minutes })
}

/// A line of a plot: a name, a scale, and what there is at each point; `None` where nothing is known.
struct Plot {
    name: String,
    most: f64,
    unit: &'static str,
    points: Vec<Option<f64>>,
}

impl Plot {
    fn text(&self) -> String {
        let Self { name, most, unit, points } = self;
        let mut text = format!("  {name}\n");
        let labels = [format!("{most:.0}{unit}"), format!("0{unit}")];
        let margin = labels.iter().map(String::len).max().unwrap_or(0);
        for line in (0..HIGH).rev() {
            let label = if line == HIGH - 1 {
                &labels[0]
            } else if line == 0 {
                &labels[1]
            } else {
                ""
            };
            let _ = write!(text, "  {label:>margin$} ┤");
            for point in points {
                let Some(value) = point else {
                    text.push(if line == 0 { '·' } else { ' ' });
                    continue;
                };
                let eighths = (value / most.max(f64::MIN_POSITIVE) * (HIGH * 8) as f64)
                    .round()
                    .clamp(0.0, (HIGH * 8) as f64);
                let here = (eighths as usize).saturating_sub(line * 8).min(8);
                text.push(BLOCKS.get(here).copied().unwrap_or(' '));
            }
            text = text.trim_end().to_owned();
            text.push('\n');
        }
        text
    }
}

/// Hours in as many groups as there is room for.
struct Groups<'a> {
    /// Of each, those of which something is known.
    hours: Vec<Vec<&'a UsageHour>>,
    /// Hours of each.
    each: usize,
    /// The first and the last of all, since 1970.
    span: (i64, i64),
}

impl<'a> Groups<'a> {
    /// `None`: nothing is known.
    fn of(usage: &'a Usage) -> Option<Self> {
        let start = |hour: &UsageHour| hour.start.as_ref().map_or(0, |at| at.seconds / 3600);
        let (first, last) = (usage.hours.first().map(start)?, usage.hours.last().map(start)?);
        let span = usize::try_from(last - first + 1).ok()?;
        let each = span.div_ceil(WIDE).max(1);
        let mut hours = vec![Vec::new(); span.div_ceil(each)];
        for hour in &usage.hours {
            let at = usize::try_from(start(hour) - first).ok()? / each;
            if let Some(group) = hours.get_mut(at) {
                group.push(hour);
            }
        }
        Some(Self { hours, each, span: (first, last) })
    }
}

/// One slice's, with plots.
pub fn usage(usage: &Usage, clock: &Clock) -> String {
    let slice = usage.slice.clone().unwrap_or_default();
    let mut text = format!("{}\n", label(&slice));
    let known = usage.gpu_hours_known > 0.0;
    let part =
        |of: f64, all: f64| if all > 0.0 { format!(", {:.0} %", of / all * 100.0) } else { String::new() };
    let lines = [
        ("GPU hours", format!("{:.1} held", usage.gpu_hours_held)),
        (
            "in jobs",
            format!(
                "{:.1}{} of them",
                usage.gpu_hours_jobs,
                part(usage.gpu_hours_jobs, usage.gpu_hours_held)
            ),
        ),
        (
            "busy",
            if known {
                format!(
                    "{:.1}{} of those in jobs of which its driver says it",
                    usage.gpu_hours_busy,
                    part(usage.gpu_hours_busy, usage.gpu_hours_known)
                )
            } else {
                "not known: no driver in it says how busy GPUs are".to_owned()
            },
        ),
        ("CPU hours", format!("{:.1}", usage.cpu_hours)),
        (
            "jobs now",
            slice.jobs.map_or("not known".to_owned(), |jobs| {
                format!("{} run, {} wait", jobs.running, jobs.pending)
            }),
        ),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "  {name:<9}  {value}");
    }
    for disk in &slice.disks {
        let name = match disk.name.as_str() {
            "data" => "/home",
            "scratch" => "/raid",
            _ => "root disk",
        };
        let _ = writeln!(text, "  {name:<9}  {} % full", disk.used_percent());
    }
    let Some(Groups { hours: groups, each, span: (first, last) }) = Groups::of(usage) else {
        text.push_str(
            "\n  nothing is known of that time: its guest speaks of it once a minute, while it runs\n",
        );
        return text;
    };
    let mean = |group: &Vec<&UsageHour>, of: &dyn Fn(&UsageHour) -> f64, per: &dyn Fn(&UsageHour) -> f64| {
        let per: f64 = group.iter().map(|hour| per(hour)).sum();
        (per > 0.0).then(|| group.iter().map(|hour| of(hour)).sum::<f64>() / per)
    };
    let plot =
        |name: &str, most: f64, unit, of: &dyn Fn(&UsageHour) -> f64, per: &dyn Fn(&UsageHour) -> f64| Plot {
            name: name.to_owned(),
            most,
            unit,
            points: groups.iter().map(|group| mean(group, of, per)).collect(),
        };
    let seconds = |hour: &UsageHour| f64::from(hour.seconds);
    let mut plots = vec![plot("GPUs in jobs", slice.gpus.into(), "", &|h| h.gpu_seconds as f64, &seconds)];
    if known {
        plots.push(plot("of those busy", 100.0, " %", &|h| h.gpu_busy_seconds as f64 * 100.0, &|h| {
            h.gpu_known_seconds as f64
        }));
    }
    plots.push(plot("processors in jobs", slice.vcpus.into(), "", &|h| h.cpu_seconds as f64, &seconds));
    let waiting = usage.hours.iter().map(|hour| hour.pending).max().unwrap_or(0);
    if waiting > 0 {
        let most =
            |group: &Vec<&UsageHour>| group.iter().map(|hour| f64::from(hour.pending)).reduce(f64::max);
        let points = groups.iter().map(most).collect();
        plots.push(Plot {
            name: "jobs that waited, most".to_owned(),
            most: waiting.into(),
            unit: "",
            points,
        });
    }
    for plot in plots {
        text.push('\n');
        text.push_str(&plot.text());
    }
    let at = |hour: i64| {
        jiff::Timestamp::from_second(hour * 3600)
            .map(|at| clock.local(at).chars().take(16).collect())
            .unwrap_or_else(|_| String::new())
    };
    let _ = writeln!(
        text,
        "\n  from {} to {}, {} a character; · nothing is known",
        at(first),
        at(last + 1),
        if each == 1 { "an hour".to_owned() } else { format!("{each} hours") }
    );
    text
}

/// The hours, for a spreadsheet.
pub fn usage_hours(usage: &Usage) -> Table {
    let row = |h: &UsageHour| {
        let start = instant(h.start.as_ref()).map(|at| at.to_string()).unwrap_or_default();
        let numbers = [
            h.seconds.into(),
            h.gpu_seconds,
            h.gpu_busy_seconds,
            h.gpu_known_seconds,
            h.cpu_seconds,
            h.memory_mib,
        ];
        let numbers = numbers.into_iter().chain([h.running.into(), h.pending.into()]);
        std::iter::once(Cell::new(start)).chain(numbers.map(|n| n.to_string().into())).collect()
    };
    Table {
        columns: vec![
            "hour",
            "seconds known",
            "gpu seconds",
            "gpu busy seconds",
            "gpu known seconds",
            "cpu seconds",
            "memory mib",
            "running",
            "pending",
        ],
        rows: usage.hours.iter().map(row).collect(),
        empty: "nothing is known of that time",
    }
}

/// As `holm.v1.Usage` has it.
pub fn usage_json(usage: &Usage) -> Value {
    let hour = |h: &UsageHour| {
        json!({
            "start": time_json(h.start.as_ref()), "seconds": h.seconds, "gpu_seconds": h.gpu_seconds,
            "gpu_busy_seconds": h.gpu_busy_seconds, "gpu_known_seconds": h.gpu_known_seconds,
            "cpu_seconds": h.cpu_seconds, "memory_mib": h.memory_mib, "running": h.running, "pending": h.pending,
        })
    };
    json!({
        "slice": usage.slice.as_ref().map(slice_json),
        "gpu_hours_held": usage.gpu_hours_held,
        "gpu_hours_jobs": usage.gpu_hours_jobs,
        "gpu_hours_busy": usage.gpu_hours_busy,
        "gpu_hours_known": usage.gpu_hours_known,
        "cpu_hours": usage.cpu_hours,
        "hours": usage.hours.iter().map(hour).collect::<Vec<_>>(),
    })
}

/// One line for each of these, in each month: rows that have the same key, together.
pub fn summed(rows: &[UsageRow], key: impl Fn(&UsageRow) -> [String; 3]) -> Vec<UsageRow> {
    let mut all: BTreeMap<(String, [String; 3]), UsageRow> = BTreeMap::new();
    for row in rows {
        let [department, project, slice] = key(row);
        let sum = all
            .entry((row.month.clone(), [department.clone(), project.clone(), slice.clone()]))
            .or_insert_with(|| UsageRow {
                month: row.month.clone(),
                department,
                project,
                slice,
                ..Default::default()
            });
        sum.gpu_hours_held += row.gpu_hours_held;
        sum.gpu_hours_jobs += row.gpu_hours_jobs;
        sum.gpu_hours_busy += row.gpu_hours_busy;
        sum.gpu_hours_known += row.gpu_hours_known;
        sum.cpu_hours += row.cpu_hours;
    }
    all.into_values().collect()
}

fn busy(row: &UsageRow) -> Option<f64> {
    (row.gpu_hours_known > 0.0).then(|| row.gpu_hours_busy / row.gpu_hours_known * 100.0)
}

/// The rows of a report.
pub fn report(rows: &[UsageRow]) -> Table {
    let hours = |n: f64| Cell::both(format!("{n:.1}"), format!("{n:.3}"));
    let row = |r: &UsageRow| {
        vec![
            r.month.as_str().into(),
            r.department.as_str().into(),
            r.project.as_str().into(),
            r.slice.as_str().into(),
            hours(r.gpu_hours_held),
            hours(r.gpu_hours_jobs),
            busy(r)
                .map_or_else(Cell::default, |part| Cell::both(format!("{part:.0} %"), format!("{part:.1}"))),
            hours(r.cpu_hours),
        ]
    };
    Table {
        columns: vec![
            "month",
            "department",
            "project",
            "slice",
            "gpu hours held",
            "gpu hours in jobs",
            "busy percent",
            "cpu hours in jobs",
        ],
        rows: rows.iter().map(row).collect(),
        empty: "no slice that you may see had GPUs then",
    }
}

/// As `holm.v1.UsageRow` has it.
pub fn report_json(rows: &[UsageRow]) -> Value {
    let row = |r: &UsageRow| {
        json!({
            "month": r.month, "department": r.department, "project": r.project, "slice": r.slice,
            "gpu_hours_held": r.gpu_hours_held, "gpu_hours_jobs": r.gpu_hours_jobs,
            "gpu_hours_busy": r.gpu_hours_busy, "gpu_hours_known": r.gpu_hours_known, "cpu_hours": r.cpu_hours,
        })
    };
    rows.iter().map(row).collect()
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--ground:#fff;--faint:#5b6570;--held:#c7ced6;--jobs:#4c78a8;--busy:#1a7f37}\
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--ground:#0f1318;--faint:#9aa4ae;--held:#39424c;--jobs:#6f9fd8;\
--busy:#3fb950}}@page{size:A4;margin:16mm}body{font:11pt/1.4 system-ui,sans-serif;color:var(--ink);\
background:var(--ground);max-width:190mm;margin:0 auto;padding:1em}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.2em .8em .2em 0;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
thead th{border-bottom:1px solid var(--faint)}tr{break-inside:avoid}p{color:var(--faint)}svg{width:100%;height:1.1em;display:block}\
.held{fill:var(--held)}.jobs{fill:var(--jobs)}.busy{fill:var(--busy)}";

/// A page that stands by itself: a bar for each row, of what was held, was in jobs, was busy.
pub fn report_page(rows: &[UsageRow], made: &str) -> String {
    let most = rows.iter().map(|row| row.gpu_hours_held).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mut body = String::new();
    for row in rows {
        let width = |hours: f64| format!("{:.2}", hours / most * 100.0);
        let bar = |class: &str, hours: f64, y: u32, height: u32| {
            format!(
                "<rect class=\"{class}\" x=\"0\" y=\"{y}\" width=\"{}\" height=\"{height}\"/>",
                width(hours)
            )
        };
        let said = busy(row).map(|part| format!("{part:.0} %")).unwrap_or_default();
        let title = format!(
            "{:.1} GPU hours held, {:.1} in jobs, {:.1} of those busy",
            row.gpu_hours_held, row.gpu_hours_jobs, row.gpu_hours_busy
        );
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{:.1}</td><td class=\"n\">{:.1}</td><td class=\"n\">{said}</td>\
             <td class=\"n\">{:.1}</td><td><svg viewBox=\"0 0 100 12\" preserveAspectRatio=\"none\" role=\"img\"><title>{title}</title>{}{}{}</svg></td></tr>",
            markup(&row.month),
            markup(&row.department),
            markup(&row.project),
            markup(&row.slice),
            row.gpu_hours_held,
            row.gpu_hours_jobs,
            row.cpu_hours,
            bar("held", row.gpu_hours_held, 0, 12),
            bar("jobs", row.gpu_hours_jobs, 2, 8),
            bar("busy", row.gpu_hours_busy, 4, 4),
        );
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>Use of the slices</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>Use of the slices</h1>\n\
         <p>Made {}. GPU hours held: slices had the GPUs, whatever they did with them, as the log has it. In jobs, and busy: as the \
         slices' own guests say. Bars: held, in jobs, busy.</p>\n<table>\n<thead><tr><th>Month</th><th>Department</th><th>Project</th>\
         <th>Slice</th><th class=\"n\">GPU h held</th><th class=\"n\">in jobs</th><th class=\"n\">busy</th><th class=\"n\">CPU h</th>\
         <th style=\"width:25%\"></th></tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</body>\n</html>\n",
        markup(made)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    fn hour(n: i64, gpu_seconds: u64) -> UsageHour {
        UsageHour {
            start: Some(prost_types::Timestamp { seconds: 1_796_000_400 / 3600 * 3600 + n * 3600, nanos: 0 }),
            seconds: 3600,
            gpu_seconds,
            gpu_busy_seconds: gpu_seconds / 2,
            gpu_known_seconds: gpu_seconds,
            cpu_seconds: gpu_seconds,
            memory_mib: 100,
            running: 1,
            pending: u32::try_from(n).unwrap(),
        }
    }

    #[test]
    fn plots_fit_a_terminal_and_say_where_nothing_is_known() {
        let slice = holm_proto::v1::Slice {
            project: "heart".to_owned(),
            name: "main".to_owned(),
            gpus: 4,
            vcpus: 24,
            ..Default::default()
        };
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC };
        let hours =
            (0..300).filter(|n| !(100..150).contains(n)).map(|n| hour(n, n.unsigned_abs() * 48)).collect();
        let all = Usage {
            slice: Some(slice),
            hours,
            gpu_hours_held: 1200.0,
            gpu_hours_known: 598.0,
            ..Default::default()
        };
        let text = usage(&all, &clock);
        assert!(text.lines().all(|line| line.chars().count() <= 90), "{text}");
        assert!(text.contains('·') && text.contains('█') && text.contains("5 hours a character"), "{text}");
        let none = Usage { hours: Vec::new(), ..all };
        assert!(usage(&none, &clock).contains("nothing is known of that time"));
    }

    #[test]
    fn rows_are_added_up_by_what_was_asked_for_and_a_page_takes_no_markup() {
        let row = |project: &str, slice: &str| UsageRow {
            month: "2026-11".to_owned(),
            department: "<b>cs".to_owned(),
            project: project.to_owned(),
            slice: slice.to_owned(),
            gpu_hours_held: 10.0,
            gpu_hours_jobs: 5.0,
            gpu_hours_busy: 2.0,
            gpu_hours_known: 4.0,
            ..Default::default()
        };
        let rows = [row("a", "x"), row("a", "y"), row("b", "x")];
        let projects = summed(&rows, |r| [r.department.clone(), r.project.clone(), String::new()]);
        assert_eq!(projects.iter().map(|r| r.gpu_hours_held).collect::<Vec<_>>(), [20.0, 10.0]);
        assert_eq!(busy(&projects[0]), Some(50.0));
        let page = report_page(&projects, "today");
        assert!(page.contains("&lt;b&gt;cs") && !page.contains("<b>"), "{page}");
        assert!(page.contains("<td class=\"n\">20.0</td>"));
    }
}
