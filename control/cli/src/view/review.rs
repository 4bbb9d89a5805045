//! What an officer looks at before she decides on a slice: what is asked for, beside what the project was given last;
//! what the level makes of it; what the project has filed; what it asked for before.

use super::registration::{lines, several};
use super::slice::{asks_for, has, label, size, slice_json, state, state_tone, word};
use super::{plural, when_full};
use crate::output::{Cell, Sheet, Tone};
use crate::text::{Clock, instant, mib};
use holm_control::domain::{lease, register};
use holm_policies::{Level, Pack};
use holm_proto::v1::{Approval, Project, Slice, SliceState};
use serde_json::{Value, json};

/// Earlier requests that are shown.
const EARLIER_MAX: usize = 10;

/// All of it. `all` are the project's slices, this one among them.
pub fn review(s: &Slice, p: &Project, all: &[Slice], pack: &Pack, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(label(s));
    let before = before(s, all);
    match &s.extension {
        Some(asked) => {
            let comment =
                if asked.comment.is_empty() { String::new() } else { format!(": {}", asked.comment) };
            sheet.line("asks for", Cell::new(format!("{}{comment}", asks_for(s))).tone(Tone::Busy));
            sheet.line("asked by", asked.by.as_str()).line("asked", when_full(asked.at.as_ref(), clock));
            sheet.line("runs until", when_full(s.lease.as_ref(), clock));
            sheet.line("next start", s.resized.as_ref().map(size).unwrap_or_default());
            let days = pack.level(&s.level).map_or(0, |level| level.lease_days);
            let would = lease::extended(instant(s.lease.as_ref()), days, clock.now);
            if asked.size.is_none() {
                sheet
                    .line("and then", would.map_or("as long as its project".to_owned(), |at| clock.full(at)));
            }
        }
        None => {
            sheet.line("state", Cell::new(word(state(s))).tone(state_tone(state(s))));
            sheet.line("asked by", s.requested_by.as_str());
            sheet.line("asked", when_full(s.requested.as_ref(), clock));
            sheet.line("not before", when_full(s.from.as_ref(), clock));
            sheet.line("to end", when_full(s.until.as_ref(), clock));
        }
    }
    // Another size is beside what it has; a slice that is new, beside what the project was given last.
    let asked = s.extension.as_ref().and_then(|asked| asked.size);
    let given = before.filter(|_| asked.is_none());
    let (is, was) =
        (asked.unwrap_or_else(|| has(s)), if asked.is_some() { Some(has(s)) } else { before.map(has) });
    let sizes = [
        ("gpus", is.gpus.to_string(), was.map(|b| b.gpus.to_string())),
        ("vcpus", is.vcpus.to_string(), was.map(|b| b.vcpus.to_string())),
        ("memory", mib(is.memory_mib), was.map(|b| mib(b.memory_mib))),
        ("disk", gib(s.disk_gib), given.map(|b| gib(b.disk_gib))),
        ("home", gib(s.home_gib), given.map(|b| gib(b.home_gib))),
        ("scratch", gib(s.scratch_gib), given.map(|b| gib(b.scratch_gib))),
    ];
    for (what, now, before) in sizes {
        sheet.line(
            what,
            match before.filter(|before| *before != now) {
                Some(before) => Cell::new(format!("{now}, before: {before}")).tone(Tone::Busy),
                None => now.into(),
            },
        );
    }
    demands(&mut sheet, &s.level, pack);
    let so_far = s.extension.as_ref().map_or(&s.approvals, |asked| &asked.approvals);
    let none = so_far.is_empty().then(|| "nobody so far".into());
    several(&mut sheet, "approved by", so_far.iter().map(|a| approval(a, clock).into()).chain(none));
    sheet.line("purpose", p.purpose.as_str()).line("lead", p.lead.as_str());
    sheet.line("members", super::members(p)).line("department", p.department.as_str());
    lines(&mut sheet, p, clock);
    let earlier: Vec<&Slice> = earlier(s, all);
    let more = earlier.len().saturating_sub(EARLIER_MAX);
    let none = earlier.is_empty().then(|| "nothing: this is the project's first".into());
    let shown = earlier.iter().take(EARLIER_MAX).map(|e| history(e, clock).into()).chain(none);
    let rest = (more > 0).then(|| format!("and {more} before").into());
    several(&mut sheet, "earlier", shown.chain(rest));
    sheet
}

/// What the level makes of it.
fn demands(sheet: &mut Sheet, id: &str, pack: &Pack) {
    let Some(level) = pack.level(id) else {
        sheet.line("level", Cell::new(format!("{id}, which is not in {}", pack.id())).tone(Tone::Bad));
        return;
    };
    sheet.line("level", format!("{} ({}), by {}", level.id, level.name, pack.id()));
    several(sheet, "it will have", level.obligations.iter().map(|o| register::said(*o).into()));
    sheet.line("it takes", plural(level.approvals.into(), "officer"));
    several(sheet, "afterwards", afterwards(level).into_iter().map(Cell::new));
}

fn afterwards(level: &Level) -> Vec<String> {
    let days = |days: u32| plural(days.into(), "day");
    let said = [
        (level.lease_days, format!("stopped after {}, unless it is approved anew", days(level.lease_days))),
        (level.closing_days, format!("destroyed {} after its project's end", days(level.closing_days))),
        (
            level.keep_closed_days,
            format!("disks kept for {} after it is closed", days(level.keep_closed_days)),
        ),
    ];
    said.into_iter().filter(|(days, _)| *days > 0).map(|(_, text)| text).collect()
}

/// `frida, 2026-11-03 14:02:11: DPIA seen`.
fn approval(a: &Approval, clock: &Clock) -> String {
    let comment = if a.comment.is_empty() { String::new() } else { format!(": {}", a.comment) };
    let at = instant(a.at.as_ref()).map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
    format!("{}{at}{comment}", a.by)
}

fn gib(gib: u64) -> String {
    if gib == 0 { "none".to_owned() } else { format!("{gib} GiB") }
}

/// The newest first.
fn earlier<'a>(s: &Slice, all: &'a [Slice]) -> Vec<&'a Slice> {
    let mut earlier: Vec<&Slice> = all.iter().filter(|other| other.id != s.id).collect();
    earlier.sort_by_key(|other| std::cmp::Reverse(other.requested.as_ref().map(|at| (at.seconds, at.nanos))));
    earlier
}

/// What the project was given last.
fn before<'a>(s: &Slice, all: &'a [Slice]) -> Option<&'a Slice> {
    let given = |e: &&Slice| {
        !matches!(state(e), SliceState::Requested | SliceState::Rejected | SliceState::Withdrawn)
    };
    earlier(s, all).into_iter().find(given)
}

/// `2026-11-03: main, 4 GPUs, by dina, destroyed, approved by frida`.
fn history(s: &Slice, clock: &Clock) -> String {
    let asked = instant(s.requested.as_ref()).map(|at| clock.local(at)).unwrap_or_default();
    let by: Vec<&str> = s.approvals.iter().map(|a| a.by.as_str()).collect();
    let approved = if by.is_empty() { String::new() } else { format!(", approved by {}", by.join(", ")) };
    let why = match state(s) {
        SliceState::Rejected | SliceState::Withdrawn if !s.reason.is_empty() => format!(": {}", s.reason),
        _ => String::new(),
    };
    let gpus = plural(s.gpus.into(), "GPU");
    format!("{asked}: {}, {gpus}, by {}, {}{approved}{why}", s.name, s.requested_by, word(state(s)))
}

/// The same for programs.
pub fn review_json(s: &Slice, project: Value, all: &[Slice], pack: &Pack) -> Value {
    let level = pack.level(&s.level).map(|level| {
        json!({
            "id": level.id,
            "name": level.name,
            "approvals": level.approvals,
            "obligations": level.obligations,
            "days": level.days().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        })
    });
    json!({
        "slice": slice_json(s),
        "project": project,
        "pack": pack.id(),
        "level": level,
        "before": before(s, all).map(slice_json),
        "earlier": earlier(s, all).into_iter().map(slice_json).collect::<Vec<_>>(),
    })
}
