//! What is not as it should be with a host, and what came of its last check.

use super::{time_json, when_full};
use crate::output::{Cell, Table, Tone};
use crate::text::Clock;
use holm_proto::v1::{Alert, Check, Commissioning, Host, Prevents, Verdict};
use serde_json::{Value, json};

/// A row an alert; no rows where all is well.
pub fn alerts(h: &Host) -> Table {
    let row = |alert: &Alert| {
        let tone = if alert.prevents.is_empty() { Tone::Plain } else { Tone::Bad };
        vec![
            Cell::new(&alert.code).tone(tone),
            alert.device.as_str().into(),
            prevents(alert).join(", ").into(),
            mended(&alert.text, &alert.mend),
        ]
    };
    Table {
        columns: vec!["alert", "device", "prevents", "what, and how to mend it"],
        rows: h.alerts.iter().map(row).collect(),
        empty: "no alerts",
    }
}

/// The list that the host was checked against, what did not pass first.
pub fn checks(h: &Host) -> Table {
    let mut all: Vec<&Check> = h.commissioning.iter().flat_map(|report| &report.checks).collect();
    all.sort_by_key(|check| (check.verdict() == Verdict::Pass, !check.must));
    let row = |check: &Check| {
        let what = if check.verdict() == Verdict::Pass {
            Cell::new(&check.title)
        } else {
            mended(&check.found, &check.mend)
        };
        vec![
            check.id.as_str().into(),
            verdict_cell(check),
            Cell::new(if check.must { "must" } else { "should" }),
            what,
        ]
    };
    Table {
        columns: vec!["check", "verdict", "weight", "what was found, and how to mend it"],
        rows: all.into_iter().map(row).collect(),
        empty: "there are no checks: the host is simulated, or was never checked (there: holm-agent commission)",
    }
}

/// Whether it was checked, in its sheet.
pub(super) fn summary(h: &Host, clock: &Clock) -> Cell {
    let failed = |report: &Commissioning| {
        report.checks.iter().filter(|check| check.must && check.verdict() != Verdict::Pass).count()
    };
    match h.commissioning.as_ref() {
        _ if h.simulated => Cell::new("no: it is simulated"),
        None => Cell::new("never").tone(Tone::Bad),
        Some(report) if failed(report) > 0 => {
            let text = format!("FAILED, {} of what must pass: holm host checks {}", failed(report), h.name);
            Cell::new(text).tone(Tone::Bad)
        }
        Some(report) => when_full(report.at.as_ref(), clock),
    }
}

fn mended(text: &str, mend: &str) -> Cell {
    Cell::new(if mend.is_empty() { text.to_owned() } else { format!("{text} → {mend}") })
}

fn prevents(alert: &Alert) -> Vec<&'static str> {
    let word = |prevents| match prevents {
        Prevents::Unspecified => "unknown",
        Prevents::Allocation => "allocation",
        Prevents::Change => "change",
        Prevents::Closing => "closing",
    };
    alert.prevents().map(word).collect()
}

fn verdict_word(check: &Check) -> &'static str {
    match check.verdict() {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Unknown | Verdict::Unspecified => "unknown",
    }
}

fn verdict_cell(check: &Check) -> Cell {
    let tone = match (check.verdict(), check.must) {
        (Verdict::Pass, _) => Tone::Good,
        (_, true) => Tone::Bad,
        (_, false) => Tone::Busy,
    };
    Cell::new(verdict_word(check)).tone(tone)
}

/// As `holm.v1.Alert` has it.
pub(super) fn alert_json(alert: &Alert) -> Value {
    json!({
        "code": alert.code,
        "device": alert.device,
        "text": alert.text,
        "mend": alert.mend,
        "prevents": prevents(alert),
    })
}

/// As `holm.v1.Commissioning` has it.
pub fn commissioning_json(report: &Commissioning) -> Value {
    json!({
        "simulated": report.simulated,
        "agent_version": report.agent_version,
        "at": time_json(report.at.as_ref()),
        "checks": report.checks.iter().map(|check| json!({
            "id": check.id,
            "title": check.title,
            "verdict": verdict_word(check),
            "must": check.must,
            "found": check.found,
            "mend": check.mend,
        })).collect::<Vec<_>>(),
    })
}
