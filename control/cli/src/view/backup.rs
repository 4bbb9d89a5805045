//! Backups, and what is being done with one.

use super::{time_json, when};
use crate::output::{Cell, Table, Tone};
use crate::text::{Clock, bytes, instant};
use holm_proto::v1::{Backup, Job, JobKind, Tried};
use serde_json::{Value, json};

/// What a job is, and how far: "backup: 3 GiB of 12 GiB".
pub fn job(job: &Job) -> String {
    let word = job_word(job);
    match (job.done_bytes, job.total_bytes) {
        (_, 0) if job.reason.is_empty() => format!("{word}: begins"),
        (_, 0) => format!("{word}: {}", job.reason),
        (done, total) => format!("{word}: {} of {}", bytes(done), bytes(total)),
    }
}

fn job_word(job: &Job) -> &'static str {
    match job.kind() {
        JobKind::Unspecified => "something",
        JobKind::Backup => "backup",
        JobKind::Restore => "restore",
        JobKind::Drill => "restore drill",
        JobKind::Remove => "removal of backups",
        JobKind::Reencrypt => "encrypting anew",
    }
}

/// As `holm.v1.Job` has it; null where there is none.
pub fn job_json(job: Option<&Job>) -> Value {
    let Some(job) = job else { return Value::Null };
    json!({
        "kind": job_word(job),
        "backup_id": job.backup_id,
        "by": job.by,
        "since": time_json(job.since.as_ref()),
        "done_bytes": job.done_bytes,
        "total_bytes": job.total_bytes,
        "reason": job.reason,
    })
}

/// A list.
pub fn backups(all: &[Backup], clock: &Clock) -> Table {
    let row = |b: &Backup| {
        let made = match &b.made {
            Some(_) => when(b.made.as_ref(), clock),
            None => Cell::new("not made").tone(Tone::Bad),
        };
        vec![
            b.id.as_str().into(),
            format!("{}/{}", b.project, b.slice).into(),
            b.host.as_str().into(),
            made,
            Cell::both(bytes(b.bytes), b.bytes.to_string()),
            Cell::both(bytes(b.stored_bytes), b.stored_bytes.to_string()),
            drill(b, clock),
            b.reason.as_str().into(),
        ]
    };
    Table {
        columns: vec!["backup", "slice", "host", "made", "disks", "stored", "drill", "reason"],
        rows: all.iter().map(row).collect(),
        empty: "no backups: stop a slice, then `holm slice backup PROJECT/NAME`",
    }
}

fn drill(b: &Backup, clock: &Clock) -> Cell {
    let Some(drill) = &b.drill else { return Cell::both("never", "") };
    let raw = instant(drill.at.as_ref()).map(|at| at.to_string()).unwrap_or_default();
    let at = instant(drill.at.as_ref()).map(|at| clock.relative(at)).unwrap_or_default();
    match drill.passed {
        true => Cell::both(format!("passed {at}"), raw).tone(Tone::Good),
        false => Cell::both(format!("FAILED {at}: {}", drill.detail), raw).tone(Tone::Bad),
    }
}

/// When it succeeded, or that it did not.
pub fn tried(tried: &Tried, clock: &Clock) -> Cell {
    let raw = instant(tried.at.as_ref()).map(|at| at.to_string()).unwrap_or_default();
    let at = instant(tried.at.as_ref()).map(|at| clock.relative(at)).unwrap_or_default();
    match tried.passed {
        true => Cell::both(at, raw),
        false => Cell::both(format!("NOT, {at}: {}", tried.detail), raw).tone(Tone::Bad),
    }
}

pub fn tried_json(tried: &Tried) -> Value {
    json!({
        "at": time_json(tried.at.as_ref()),
        "passed": tried.passed,
        "detail": tried.detail,
        "by": tried.by,
    })
}

/// How a job ended: whether well, and in words.
pub fn outcome(job: Option<&Job>, backup: &Backup) -> (bool, String) {
    // What an earlier one came to says nothing of this one.
    let since = |tried: &&Tried| {
        let began = job.and_then(|job| instant(job.since.as_ref()));
        instant(tried.at.as_ref()) >= began
    };
    match job.map(Job::kind) {
        Some(JobKind::Backup) => match &backup.made {
            Some(_) => {
                let (all, stored) = (bytes(backup.bytes), bytes(backup.stored_bytes));
                (true, format!("backup {} is made: {all} of disks, {stored} in the store", backup.id))
            }
            None => (false, format!("no backup was made: {}", backup.reason)),
        },
        Some(JobKind::Drill) => match backup.drill.as_ref().filter(since) {
            Some(drill) if drill.passed => (true, format!("it can be restored; looked at: {}", drill.detail)),
            Some(drill) => (false, format!("it can NOT be restored: {}", drill.detail)),
            None => (false, "the drill was given up".to_owned()),
        },
        Some(JobKind::Restore) => match backup.restore.as_ref().filter(since) {
            Some(restore) => (restore.passed, restore.detail.clone()),
            None => (false, "the restore was given up".to_owned()),
        },
        Some(JobKind::Remove | JobKind::Reencrypt | JobKind::Unspecified) | None => {
            (true, "it is over".to_owned())
        }
    }
}

/// As `holm.v1.Backup` has it.
pub fn backup_json(b: &Backup) -> Value {
    json!({
        "id": b.id,
        "project": b.project,
        "slice": b.slice,
        "host": b.host,
        "by": b.by,
        "begun": time_json(b.begun.as_ref()),
        "made": time_json(b.made.as_ref()),
        "bytes": b.bytes,
        "stored_bytes": b.stored_bytes,
        "sha256": b.sha256,
        "reason": b.reason,
        "drill": b.drill.as_ref().map(tried_json),
        "restore": b.restore.as_ref().map(tried_json),
    })
}
