//! Slices.

use super::{plural, time_json, when, when_full};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::{Clock, instant, mib, took};
use holm_proto::v1::{Slice, SliceState, Step};
use serde_json::{Value, json};

/// PROJECT/NAME.
pub fn label(s: &Slice) -> String {
    format!("{}/{}", s.project, s.name)
}

/// Where it stands. What a newer holmd calls by a number not known here is unspecified.
pub fn state(s: &Slice) -> SliceState {
    SliceState::try_from(s.state).unwrap_or(SliceState::Unspecified)
}

/// As people and scripts read it.
pub fn word(state: SliceState) -> &'static str {
    match state {
        SliceState::Unspecified => "unknown",
        SliceState::Requested => "requested",
        SliceState::Approved => "approved",
        SliceState::Placed => "placed",
        SliceState::Preparing => "preparing",
        SliceState::Booting => "booting",
        SliceState::Ready => "ready",
        SliceState::Failed => "failed",
        SliceState::Rejected => "rejected",
        SliceState::Withdrawn => "withdrawn",
        SliceState::Closing => "closing",
        SliceState::Destroying => "destroying",
        SliceState::Destroyed => "destroyed",
    }
}

/// Its colour.
pub fn state_tone(state: SliceState) -> Tone {
    match state {
        SliceState::Ready => Tone::Good,
        SliceState::Requested
        | SliceState::Approved
        | SliceState::Placed
        | SliceState::Preparing
        | SliceState::Booting
        | SliceState::Closing
        | SliceState::Destroying => Tone::Busy,
        SliceState::Failed | SliceState::Rejected => Tone::Bad,
        SliceState::Withdrawn | SliceState::Destroyed => Tone::Dim,
        SliceState::Unspecified => Tone::Plain,
    }
}

fn state_cell(s: &Slice) -> Cell {
    Cell::new(word(state(s))).tone(state_tone(state(s)))
}

/// A list.
pub fn slices(all: &[Slice], clock: &Clock) -> Table {
    let row = |s: &Slice| {
        vec![
            label(s).into(),
            Cell::both(level(s), &s.level),
            state_cell(s),
            s.gpus.to_string().into(),
            s.host.as_str().into(),
            s.requested_by.as_str().into(),
            when(s.changed.as_ref(), clock),
            s.reason.as_str().into(),
        ]
    };
    Table {
        columns: vec!["slice", "level", "state", "gpus", "host", "requested by", "changed", "reason"],
        rows: all.iter().map(row).collect(),
        empty: "no slices: ask for one with `holm slice request PROJECT/NAME --gpus N`",
    }
}

/// One slice, with all there is.
pub fn slice(s: &Slice, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(label(s)).state(state_cell(s));
    sheet
        .line("reason", s.reason.as_str())
        .line("level", Cell::both(level(s), &s.level))
        .line("gpus", s.gpus.to_string())
        .line("vcpus", s.vcpus.to_string())
        .line("memory", Cell::both(mib(s.memory_mib), format!("{} MiB", s.memory_mib)))
        .line("disk", format!("{} GiB, encrypted under a key of its own", s.disk_gib))
        .line("requested by", s.requested_by.as_str())
        .line("department", s.department.as_str())
        .line("requested", when_full(s.requested.as_ref(), clock))
        .line("reserved from", when_full(s.from.as_ref(), clock))
        .line("to end", when_full(s.until.as_ref(), clock))
        .line("changed", when_full(s.changed.as_ref(), clock))
        .line("approvals", format!("{} of {}", s.approvals.len(), s.approvals_needed));
    for a in &s.approvals {
        let comment = if a.comment.is_empty() { String::new() } else { format!(": {}", a.comment) };
        let at = instant(a.at.as_ref()).map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
        sheet.line("", format!("{}{at}{comment}", a.by));
    }
    sheet.line("host", s.host.as_str());
    sheet.line("partition", s.partition.map(|p| p.to_string()).unwrap_or_default());
    for (at, device) in s.devices.iter().enumerate() {
        sheet.line(if at == 0 { "devices" } else { "" }, device.as_str());
    }
    sheet.line("key", prefixed("fingerprint ", &s.key_fingerprint));
    if let Some(guest) = &s.guest {
        sheet.line("guest", format!("says: {}, Slurm {}", plural(guest.gpus.into(), "GPU"), guest.slurm));
        sheet.line("ssh host key", guest.ssh_host_key.as_str());
    }
    steps(&mut sheet, s);
    sheet.line("id", s.id.as_str());
    sheet
}

/// Why it is where it is.
pub fn explain(s: &Slice, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(label(s)).state(state_cell(s));
    sheet.line("since", when_full(s.changed.as_ref(), clock)).line("because", s.reason.as_str());
    sheet.line("waits for", waits_for(s));
    if s.approvals_needed > 0 {
        sheet.line("approvals", approvals(s));
    }
    steps(&mut sheet, s);
    sheet
}

/// `1 of 2: frida`.
pub fn approvals(s: &Slice) -> String {
    let by: Vec<&str> = s.approvals.iter().map(|a| a.by.as_str()).collect();
    let by = if by.is_empty() { String::new() } else { format!(": {}", by.join(", ")) };
    format!("{} of {}{by}", s.approvals.len(), s.approvals_needed)
}

fn steps(sheet: &mut Sheet, s: &Slice) {
    for (at, step) in s.steps.iter().enumerate() {
        let tone = if step.done { Tone::Good } else { Tone::Busy };
        sheet.line(if at == 0 { "steps" } else { "" }, Cell::new(step_text(step)).tone(tone));
    }
}

/// `create disk  1.2 s`, or that it runs.
pub fn step_text(step: &Step) -> String {
    if step.done { format!("{}  {}", step.name, took(step.took_ms)) } else { format!("{} …", step.name) }
}

fn waits_for(s: &Slice) -> String {
    match state(s) {
        SliceState::Requested => {
            let have = u32::try_from(s.approvals.len()).unwrap_or(u32::MAX);
            let more = s.approvals_needed.saturating_sub(have).max(1);
            format!("{}, by officers who have not approved it yet", plural(more.into(), "approval"))
        }
        SliceState::Approved => "free and clean GPUs that belong together".to_owned(),
        SliceState::Placed => "the host's agent to begin".to_owned(),
        SliceState::Preparing => match s.steps.iter().find(|step| !step.done) {
            Some(step) => format!("the host: {}", step.name),
            None => "the host".to_owned(),
        },
        SliceState::Booting => "the machine to say that it is ready".to_owned(),
        SliceState::Closing => "the host's agent to stop the machine".to_owned(),
        SliceState::Destroying => "the disk to be erased and the devices to be cleaned".to_owned(),
        SliceState::Failed => "somebody to close it: until then it keeps its devices and its disk".to_owned(),
        SliceState::Ready
        | SliceState::Rejected
        | SliceState::Withdrawn
        | SliceState::Destroyed
        | SliceState::Unspecified => String::new(),
    }
}

/// What comes next, by somebody's hand.
pub fn next_command(s: &Slice) -> Option<String> {
    let label = label(s);
    Some(match state(s) {
        SliceState::Requested => format!("an officer: holm slice approve {label}"),
        SliceState::Approved
        | SliceState::Placed
        | SliceState::Preparing
        | SliceState::Booting
        | SliceState::Closing
        | SliceState::Destroying => format!("holm slice watch {label}"),
        SliceState::Ready => format!("holm ssh {label}"),
        SliceState::Failed => format!("holm slice close {label}"),
        SliceState::Destroyed => format!("holm slice certificate {label} --out FILE"),
        SliceState::Rejected | SliceState::Withdrawn | SliceState::Unspecified => return None,
    })
}

fn level(s: &Slice) -> String {
    if s.level_name.is_empty() { s.level.clone() } else { format!("{} ({})", s.level, s.level_name) }
}

fn prefixed(prefix: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{prefix}{text}") }
}

/// As `holm.v1.Slice` has it.
pub fn slice_json(s: &Slice) -> Value {
    json!({
        "id": s.id,
        "project": s.project,
        "name": s.name,
        "level": s.level,
        "level_name": s.level_name,
        "gpus": s.gpus,
        "vcpus": s.vcpus,
        "memory_mib": s.memory_mib,
        "disk_gib": s.disk_gib,
        "state": word(state(s)),
        "reason": s.reason,
        "requested_by": s.requested_by,
        "approvals": s.approvals.iter().map(|a| json!({
            "by": a.by,
            "at": time_json(a.at.as_ref()),
            "comment": a.comment,
        })).collect::<Vec<_>>(),
        "approvals_needed": s.approvals_needed,
        "host": s.host,
        "partition": s.partition,
        "devices": s.devices,
        "generation": s.generation,
        "requested": time_json(s.requested.as_ref()),
        "changed": time_json(s.changed.as_ref()),
        "steps": s.steps.iter().map(|step| json!({
            "name": step.name,
            "took_ms": step.took_ms,
            "done": step.done,
            "started": time_json(step.started.as_ref()),
        })).collect::<Vec<_>>(),
        "guest": s.guest.as_ref().map(|g| json!({
            "ssh_host_key": g.ssh_host_key,
            "gpus": g.gpus,
            "slurm": g.slurm,
        })),
        "key_fingerprint": s.key_fingerprint,
        "from": time_json(s.from.as_ref()),
        "until": time_json(s.until.as_ref()),
        "department": s.department,
    })
}
