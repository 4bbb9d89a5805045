//! Slices.

use super::lock::{lock_json, locked};
use super::{backup, fullness, plural, time_json, when, when_full};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::{Clock, instant, mib, took};
use holm_proto::v1::{Approval, DiskChangeWanted, Extension, Guest, Hold, Size, Slice, SliceState, Step};
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
        SliceState::Stopping => "stopping",
        SliceState::Stopped => "stopped",
        SliceState::Rejected => "rejected",
        SliceState::Withdrawn => "withdrawn",
        SliceState::Keeping => "keeping",
        SliceState::Kept => "kept",
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
        | SliceState::Stopping
        | SliceState::Keeping
        | SliceState::Kept
        | SliceState::Closing
        | SliceState::Destroying => Tone::Busy,
        SliceState::Failed | SliceState::Rejected => Tone::Bad,
        SliceState::Withdrawn | SliceState::Stopped | SliceState::Destroyed => Tone::Dim,
        SliceState::Unspecified => Tone::Plain,
    }
}

fn state_cell(s: &Slice) -> Cell {
    let word = word(state(s));
    let shown = match (s.lock.is_some(), s.hold.is_some(), s.extension.is_some()) {
        (true, ..) => format!("{word}, locked"),
        (_, true, _) => format!("{word}, on hold"),
        (.., true) => format!("{word}, asks for {}", asks_for(s)),
        _ if s.drain.is_some() => format!("{word}, drained"),
        _ => word.to_owned(),
    };
    match fullness::beside(s) {
        Some((beside, tone)) => Cell::both(format!("{shown}, {beside}"), word).tone(tone),
        None => Cell::both(shown, word).tone(state_tone(state(s))),
    }
}

/// `frida, 2026-11-03 14:02:11: a complaint`.
pub(super) fn hold(hold: &Hold, clock: &Clock) -> String {
    let at = instant(hold.at.as_ref()).map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
    let whole = if hold.of_project { " (the whole project)" } else { "" };
    format!("by {}{at}{whole}: {}", hold.by, hold.reason)
}

/// As `holm.v1.Hold` has it.
pub(super) fn hold_json(hold: &Hold) -> Value {
    json!({ "by": hold.by, "at": time_json(hold.at.as_ref()), "reason": hold.reason, "of_project": hold.of_project })
}

/// What keeps its key and disk.
fn keeps(sheet: &mut Sheet, s: &Slice, clock: &Clock) {
    sheet.line("locked", Cell::new(locked(s.lock.as_ref(), clock)).tone(Tone::Bad));
    sheet.line("on hold", s.hold.as_ref().map(|h| hold(h, clock)).unwrap_or_default());
    sheet.line("kept until", when_full(s.keep_until.as_ref(), clock));
}

/// For how long it was approved, and what is asked for.
fn lease(sheet: &mut Sheet, s: &Slice, clock: &Clock) {
    let until = when_full(s.lease.as_ref(), clock);
    sheet.line("approved until", if s.lease_over { until.tone(Tone::Bad) } else { until });
    let by: Vec<&str> = s.renewed.iter().map(|a| a.by.as_str()).collect();
    sheet.line("extended by", by.join(", "));
    let by: Vec<&str> = s.enlarged.iter().map(|a| a.by.as_str()).collect();
    sheet.line("enlarged by", by.join(", "));
    let Some(asked) = &s.extension else { return };
    let comment = if asked.comment.is_empty() { String::new() } else { format!(": {}", asked.comment) };
    let at = instant(asked.at.as_ref()).map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
    let have = format!("{} of {} approvals", asked.approvals.len(), s.approvals_needed);
    let what = asked.size.as_ref().map(|asked| format!("{}, ", size(asked))).unwrap_or_default();
    sheet.line(
        asks_for(s),
        Cell::new(format!("{what}asked for by {}{at}{comment}; {have}", asked.by)).tone(Tone::Busy),
    );
}

/// What it asks for, of what is asked for later.
pub fn asks_for(s: &Slice) -> &'static str {
    if s.extension.as_ref().is_some_and(|asked| asked.size.is_some()) { "another size" } else { "more time" }
}

/// `4 GPUs, 24 vCPUs, 360 GiB`.
pub fn size(Size { gpus, vcpus, memory_mib }: &Size) -> String {
    format!("{}, {}, {}", plural((*gpus).into(), "GPU"), plural((*vcpus).into(), "vCPU"), mib(*memory_mib))
}

/// Its size, now or when it is started next.
pub fn sizes(s: &Slice) -> String {
    match (&s.resized, state(s)) {
        (Some(next), _) => format!("it has {} from its next start on", size(next)),
        (None, SliceState::Stopped) => format!("it has {} when it is started", size(&has(s))),
        (None, _) => format!("it has {}", size(&has(s))),
    }
}

/// What it has now.
pub fn has(s: &Slice) -> Size {
    Size { gpus: s.gpus, vcpus: s.vcpus, memory_mib: s.memory_mib }
}

fn size_json(of: &Size) -> Value {
    json!({ "gpus": of.gpus, "vcpus": of.vcpus, "memory_mib": of.memory_mib })
}

fn asked_size_json(s: &Slice) -> Option<Value> {
    let (mut asked, size) =
        s.extension.as_ref().and_then(|asked| Some((extension_json(asked), asked.size?)))?;
    asked.as_object_mut()?.insert("size".to_owned(), size_json(&size));
    Some(asked)
}

fn lease_json(s: &Slice) -> Value {
    json!({
        "until": time_json(s.lease.as_ref()),
        "over": s.lease_over,
        "renewed": approvals_json(&s.renewed),
        "asked": s.extension.as_ref().filter(|asked| asked.size.is_none()).map(extension_json),
    })
}

fn extension_json(asked: &Extension) -> Value {
    json!({
        "id": asked.id,
        "by": asked.by,
        "at": time_json(asked.at.as_ref()),
        "comment": asked.comment,
        "approvals": approvals_json(&asked.approvals),
    })
}

fn approvals_json(all: &[Approval]) -> Value {
    let one = |a: &Approval| json!({ "by": a.by, "at": time_json(a.at.as_ref()), "comment": a.comment });
    all.iter().map(one).collect()
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
        empty: "no slices that you may see: the lead of a project asks for one",
    }
}

/// One slice, with all there is.
pub fn slice(s: &Slice, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(label(s)).state(state_cell(s));
    sheet.line("reason", s.reason.as_str());
    fullness::warn(&mut sheet, s);
    sheet
        .line("level", Cell::both(level(s), &s.level))
        .line("gpus", s.gpus.to_string())
        .line("vcpus", s.vcpus.to_string())
        .line("memory", Cell::both(mib(s.memory_mib), format!("{} MiB", s.memory_mib)))
        .line("next start", s.resized.as_ref().map(size).unwrap_or_default())
        .line("disk", format!("{} GiB, encrypted under a key of its own", s.disk_gib))
        .line("home", disk(s.home_gib, "stays through stops"))
        .line("scratch", disk(s.scratch_gib, "/raid, gone at each stop"))
        .line("disks", s.disk_change.as_ref().map(|change| disk_change(change, clock)).unwrap_or_default())
        .line("requested by", s.requested_by.as_str())
        .line("department", s.department.as_str())
        .line("requested", when_full(s.requested.as_ref(), clock))
        .line(begins(s), from(s, clock))
        .line("to end", when_full(s.until.as_ref(), clock))
        .line("changed", when_full(s.changed.as_ref(), clock))
        .line("closed", when_full(s.closed.as_ref(), clock));
    lease(&mut sheet, s, clock);
    keeps(&mut sheet, s, clock);
    sheet.line("under way", s.job.as_ref().map(backup::job).unwrap_or_default());
    sheet.line("encrypted anew", s.reencrypted.as_ref().map(|t| backup::tried(t, clock)).unwrap_or_default());
    sheet.line("approvals", format!("{} of {}", s.approvals.len(), s.approvals_needed));
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
    if !s.image.is_empty() {
        sheet
            .line("image", Cell::both(format!("{} ({})", s.image_version, super::short(&s.image)), &s.image));
    }
    if !s.newer_image.is_empty() {
        let text = format!(
            "{}: it gets that, and keeps its data, by: holm slice stop, then start --rebuild",
            s.newer_image
        );
        sheet.line("promoted image", Cell::new(text).tone(Tone::Busy));
    }
    jobs(&mut sheet, s, clock);
    fullness::disks(&mut sheet, s);
    steps(&mut sheet, s);
    sheet.line("id", s.id.as_str());
    sheet
}

/// How its queue stands, as its guest says.
fn jobs(sheet: &mut Sheet, s: &Slice, clock: &Clock) {
    if let Some(jobs) = &s.jobs {
        sheet.line("jobs", format!("{} run, {} wait", jobs.running, jobs.pending));
    }
    let Some(drain) = &s.drain else { return };
    let at = instant(drain.at.as_ref()).map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
    let begins = if drain.begun { "none begins" } else { "none is to begin; its guest was told" };
    let then = if drain.stop { ", and it is stopped when none runs" } else { "" };
    sheet.line("drained", Cell::new(format!("{begins}{then}, by {}{at}", drain.by)).tone(Tone::Busy));
}

/// As `holm.v1.Drain` and `holm.v1.JobsUse` have it.
fn jobs_json(s: &Slice) -> (Value, Value) {
    let drain = s.drain.as_ref().map(|drain| {
        json!({ "by": drain.by, "at": time_json(drain.at.as_ref()), "stop": drain.stop, "begun": drain.begun })
    });
    let jobs = s.jobs.as_ref().map(|jobs| json!({ "running": jobs.running, "pending": jobs.pending }));
    (drain.into(), jobs.into())
}

/// `to become 100 GiB, home 500 GiB, by dina, 2026-11-03 14:02:11`.
fn disk_change(change: &DiskChangeWanted, clock: &Clock) -> String {
    let what = match (change.disk_gib, change.home_gib) {
        (0, 0) => "to get other keys".to_owned(),
        (disk, 0) => format!("to become {disk} GiB"),
        (disk, home) => format!("to become {disk} GiB, home {home} GiB"),
    };
    let at = instant(change.at.as_ref()).map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
    let note = if change.note.is_empty() { String::new() } else { format!(": {}", change.note) };
    format!("{what}, by {}{at}{note}", change.by)
}

/// `100 GiB, stays through stops`; nothing where there is none.
fn disk(gib: u64, what: &str) -> String {
    if gib == 0 { String::new() } else { format!("{gib} GiB, {what}") }
}

fn waits(s: &Slice) -> bool {
    matches!(state(s), SliceState::Requested | SliceState::Approved)
}

/// What its `from` is.
fn begins(s: &Slice) -> &'static str {
    if s.reserved { "reserved from" } else { "not before" }
}

fn from(s: &Slice, clock: &Clock) -> Cell {
    let at = when_full(s.from.as_ref(), clock);
    if s.reserved || s.from.is_none() || !waits(s) {
        return at;
    }
    let note = "no reservation, it was asked for too late to be one";
    let raw = instant(s.from.as_ref()).map(|at| at.to_string()).unwrap_or_default();
    Cell::both(format!("{}; {note}", at.shown()), raw)
}

/// GPUs on a line.
const ON_A_LINE: usize = 4;

/// Why it is where it is: what it waits for or has, since when, until when, and what can be done about it.
pub fn explain(s: &Slice, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(label(s)).state(state_cell(s));
    sheet.line("since", when_full(s.changed.as_ref(), clock)).line("because", s.reason.as_str());
    fullness::warn(&mut sheet, s);
    lease(&mut sheet, s, clock);
    keeps(&mut sheet, s, clock);
    sheet.line("under way", s.job.as_ref().map(backup::job).unwrap_or_default());
    jobs(&mut sheet, s, clock);
    sheet.line("waits for", waits_for(s, clock));
    if s.approvals_needed > 0 {
        sheet.line("approvals", approvals(s));
    }
    if waits(s) {
        sheet.line(begins(s), from(s, clock));
    }
    sheet.line("host", s.host.as_str()).line("gpus", s.gpus.to_string());
    for some in s.devices.chunks(ON_A_LINE) {
        sheet.line("", some.join(", "));
    }
    let had = if s.detached.is_some() { "had them from" } else { "has them since" };
    sheet.line(had, when_full(s.placed.as_ref(), clock));
    if s.detached.is_some() {
        sheet.line("until", when_full(s.detached.as_ref(), clock));
    } else if let Some(until) = instant(s.until.as_ref()).filter(|_| !is_final(s)) {
        let text = format!("{}, as its lead means to", clock.full(until));
        sheet.line("until", Cell::both(text, until.to_string()));
    }
    sheet.line("next start", s.resized.as_ref().map(size).unwrap_or_default());
    sheet.line("to do", to_do(s));
    steps(&mut sheet, s);
    sheet
}

fn is_final(s: &Slice) -> bool {
    matches!(state(s), SliceState::Rejected | SliceState::Withdrawn | SliceState::Destroyed)
}

/// What somebody can do about it, where it does not go on by itself.
fn to_do(s: &Slice) -> &'static str {
    match state(s) {
        SliceState::Ready => "its members use it, and its lead closes it when it is not needed any more",
        SliceState::Failed => {
            "it is stopped and started again, or its lead closes it; operators look at its host, if it fails again"
        }
        SliceState::Stopped if s.lease_over => "its lead asks for more time, and officers approve that",
        SliceState::Stopped => "its lead or a member starts it, or its lead closes it",
        SliceState::Rejected => "its lead asks anew, with what was missing",
        SliceState::Withdrawn => "its lead asks anew, if it is needed after all",
        SliceState::Destroyed => "nothing: it does not come back; its certificate says what was done",
        SliceState::Requested
        | SliceState::Approved
        | SliceState::Placed
        | SliceState::Preparing
        | SliceState::Booting
        | SliceState::Stopping
        | SliceState::Keeping
        | SliceState::Kept
        | SliceState::Closing
        | SliceState::Destroying
        | SliceState::Unspecified => "",
    }
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

fn waits_for(s: &Slice, clock: &Clock) -> String {
    match state(s) {
        SliceState::Requested => {
            let have = u32::try_from(s.approvals.len()).unwrap_or(u32::MAX);
            let more = s.approvals_needed.saturating_sub(have).max(1);
            format!("{}, by officers who have not approved it yet", plural(more.into(), "approval"))
        }
        SliceState::Approved if instant(s.from.as_ref()).is_some_and(|from| from > clock.now) => {
            "its time".to_owned()
        }
        SliceState::Approved if !s.host.is_empty() => {
            format!("free and clean GPUs that belong together, on {}, where its disk is", s.host)
        }
        SliceState::Approved => "free and clean GPUs that belong together".to_owned(),
        SliceState::Placed => "the host's agent to begin".to_owned(),
        SliceState::Preparing => match s.steps.iter().find(|step| !step.done) {
            Some(step) => format!("the host: {}", step.name),
            None => "the host".to_owned(),
        },
        SliceState::Booting => "the machine to say that it is ready".to_owned(),
        SliceState::Stopping | SliceState::Keeping => {
            "the host's agent to stop the machine and let go of its devices".to_owned()
        }
        SliceState::Kept if s.closed.is_none() => "its lead to close it".to_owned(),
        SliceState::Kept => "whatever keeps its key and disk to be over: then they go".to_owned(),
        SliceState::Closing => "the host's agent to stop the machine".to_owned(),
        SliceState::Destroying => "the disk to be erased and the devices to be cleaned".to_owned(),
        SliceState::Failed => {
            "somebody to stop or close it: until then it keeps its devices and its disk".to_owned()
        }
        SliceState::Ready
        | SliceState::Stopped
        | SliceState::Rejected
        | SliceState::Withdrawn
        | SliceState::Destroyed
        | SliceState::Unspecified => String::new(),
    }
}

/// What the reader does next: only what her roles let her do.
pub fn next_command(s: &Slice) -> Option<String> {
    let label = label(s);
    let may = |action: &str| s.may.iter().any(|one| one == action);
    if s.extension.is_some() && may("slice.approve") {
        return Some(format!("holm slice review {label}"));
    }
    if s.lease_over && s.extension.is_none() && may("slice.extend") && state(s) == SliceState::Stopped {
        return Some(format!("holm slice extend {label}"));
    }
    Some(match state(s) {
        SliceState::Requested if may("slice.approve") => format!("holm slice review {label}"),
        SliceState::Requested
        | SliceState::Approved
        | SliceState::Placed
        | SliceState::Preparing
        | SliceState::Booting
        | SliceState::Stopping
        | SliceState::Keeping
        | SliceState::Closing
        | SliceState::Destroying => format!("holm slice watch {label}"),
        SliceState::Stopped if s.job.as_ref().is_some_and(|job| job.backup_id.is_empty()) => {
            format!("holm slice watch {label}")
        }
        SliceState::Stopped if s.job.is_some() => format!("holm backup list {label}"),
        SliceState::Stopped if s.hold.is_none() && may("slice.start") => format!("holm slice start {label}"),
        SliceState::Kept if s.hold.is_some() && may("hold.lift") => {
            format!("holm slice release {label} --reason TEXT")
        }
        SliceState::Kept if s.hold.is_none() && s.closed.is_none() && may("slice.close") => {
            format!("holm slice close {label}")
        }
        SliceState::Ready if s.resized.is_some() && may("slice.stop") => {
            format!("holm slice drain {label} --stop --wait, and: holm slice start {label}")
        }
        SliceState::Ready if may("slice.connect") => format!("holm ssh {label}"),
        SliceState::Failed if may("slice.stop") => format!("holm slice stop {label}"),
        SliceState::Destroyed if may("slice.certificate") => {
            format!("holm slice certificate {label} --out FILE")
        }
        SliceState::Ready
        | SliceState::Failed
        | SliceState::Destroyed
        | SliceState::Stopped
        | SliceState::Kept
        | SliceState::Rejected
        | SliceState::Withdrawn
        | SliceState::Unspecified => return None,
    })
}

fn level(s: &Slice) -> String {
    if s.level_name.is_empty() { s.level.clone() } else { format!("{} ({})", s.level, s.level_name) }
}

fn prefixed(prefix: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{prefix}{text}") }
}

fn disk_change_json(change: &DiskChangeWanted) -> Value {
    json!({
        "disk_gib": change.disk_gib,
        "home_gib": change.home_gib,
        "by": change.by,
        "at": time_json(change.at.as_ref()),
        "note": change.note,
    })
}

fn step_json(step: &Step) -> Value {
    json!({
        "name": step.name,
        "took_ms": step.took_ms,
        "done": step.done,
        "started": time_json(step.started.as_ref()),
    })
}

fn guest_json(g: &Guest) -> Value {
    json!({ "ssh_host_key": g.ssh_host_key, "gpus": g.gpus, "slurm": g.slurm })
}

/// As `holm.v1.Slice` has it.
pub fn slice_json(s: &Slice) -> Value {
    let mut all = json!({
        "id": s.id,
        "project": s.project,
        "name": s.name,
        "level": s.level,
        "level_name": s.level_name,
        "gpus": s.gpus,
        "vcpus": s.vcpus,
        "memory_mib": s.memory_mib,
        "disk_gib": s.disk_gib,
        "home_gib": s.home_gib,
        "scratch_gib": s.scratch_gib,
        "job": backup::job_json(s.job.as_ref()),
        "state": word(state(s)),
        "reason": s.reason,
        "requested_by": s.requested_by,
        "approvals": approvals_json(&s.approvals),
        "approvals_needed": s.approvals_needed,
        "host": s.host,
        "partition": s.partition,
        "devices": s.devices,
        "generation": s.generation,
        "requested": time_json(s.requested.as_ref()),
        "changed": time_json(s.changed.as_ref()),
        "steps": s.steps.iter().map(step_json).collect::<Vec<_>>(),
        "guest": s.guest.as_ref().map(guest_json),
        "key_fingerprint": s.key_fingerprint,
        "from": time_json(s.from.as_ref()),
        "until": time_json(s.until.as_ref()),
        "department": s.department,
        "reserved": s.reserved,
        "placed": time_json(s.placed.as_ref()),
        "detached": time_json(s.detached.as_ref()),
        "may": s.may,
        "hold": s.hold.as_ref().map(hold_json),
        "lock": s.lock.as_ref().map(lock_json),
        "closed": time_json(s.closed.as_ref()),
        "keep_until": time_json(s.keep_until.as_ref()),
        "disk_change": s.disk_change.as_ref().map(disk_change_json),
        "disks": s.disks.iter().map(fullness::disk_json).collect::<Vec<_>>(),
        "warnings": s.warnings,
        "paused": s.paused,
    });
    if let Some(all) = all.as_object_mut() {
        // The macro takes no more at once.
        all.insert("lease".to_owned(), lease_json(s));
        all.insert("etag".to_owned(), s.etag.clone().into());
        let next = s.resized.as_ref().map(size_json);
        all.insert(
            "resize".to_owned(),
            json!({ "next": next, "asked": asked_size_json(s), "approvals": approvals_json(&s.enlarged) }),
        );
        let (drain, jobs) = jobs_json(s);
        all.extend([("drain".to_owned(), drain), ("jobs".to_owned(), jobs)]);
        all.insert("degraded".to_owned(), s.degraded.into());
        all.insert(
            "image".to_owned(),
            json!({ "id": s.image, "version": s.image_version, "newer": s.newer_image }),
        );
        all.insert("classes".to_owned(), s.classes.iter().map(super::class_json).collect());
        all.insert("reencrypted".to_owned(), json!(s.reencrypted.as_ref().map(backup::tried_json)));
    }
    all
}
