//! Who waits for a place, and why.

use super::slice::{explain, label, slice_json};
use super::{time_json, when, when_full};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::Clock;
use holm_proto::v1::{Explanation, HostReason, QueueEntry};
use serde_json::{Value, json};

/// Those that the reader may see. A place counts those that she may not, too.
pub fn queue(all: &[QueueEntry], clock: &Clock) -> Table {
    // Who may know of others' use nothing is told of no share.
    let shares = all.iter().any(|e| e.share_permille.is_some());
    let row = |e: &QueueEntry| {
        let slice = e.slice.clone().unwrap_or_default();
        let mut cells = vec![place(e.position), label(&slice).into(), e.department.as_str().into()];
        cells.extend(shares.then(|| share(e.share_permille)));
        cells.extend([
            slice.gpus.to_string().into(),
            when(slice.changed.as_ref(), clock),
            when(slice.from.as_ref(), clock),
            if e.holds { Cell::both("yes", "true").tone(Tone::Busy) } else { Cell::both("", "false") },
            reason(e, &slice.reason).into(),
        ]);
        cells
    };
    let mut columns = vec!["place", "slice", "department"];
    columns.extend(shares.then_some("its share"));
    columns.extend(["gpus", "waits since", "from", "held for", "reason"]);
    Table {
        columns,
        rows: all.iter().map(row).collect(),
        empty: "nothing that you may see waits for a place",
    }
}

/// What its lead is told, and what keeps hosts from it, for who may read that.
fn reason(e: &QueueEntry, told: &str) -> String {
    let hosts = e.hosts.iter().map(|h| format!("{}: {}", h.host, h.reason));
    let told = Some(told.to_owned()).filter(|told| !told.is_empty());
    told.into_iter().chain(hosts).collect::<Vec<_>>().join("; ")
}

fn share(permille: Option<u32>) -> Cell {
    permille.map_or_else(
        || "".into(),
        |part| Cell::both(format!("{} %", part.saturating_add(5) / 10), part.to_string()),
    )
}

fn place(position: u32) -> Cell {
    if position == 0 { Cell::both("", "0") } else { position.to_string().into() }
}

/// As `holm.v1.QueueEntry` has it.
pub fn queue_json(e: &QueueEntry) -> Value {
    json!({
        "position": e.position,
        "slice": e.slice.as_ref().map(slice_json),
        "department": e.department,
        "share_permille": e.share_permille,
        "holds": e.holds,
        "hosts": e.hosts.iter().map(host_reason_json).collect::<Vec<_>>(),
    })
}

fn host_reason_json(h: &HostReason) -> Value {
    json!({ "host": h.host, "reason": h.reason })
}

/// Why a slice is where it is, and when that may change.
pub fn explained(e: &Explanation, clock: &Clock) -> Sheet {
    let slice = e.slice.clone().unwrap_or_default();
    let mut sheet = explain(&slice, clock);
    if e.position > 0 {
        let text = format!("{} in the queue: holm queue", ordinal(e.position));
        sheet.line("place", Cell::both(text, e.position.to_string()));
    }
    sheet.line("department", e.department.as_str());
    for (at, host) in e.hosts.iter().enumerate() {
        let text = match host.host.as_str() {
            "" => host.reason.clone(),
            name => format!("{name}: {}", host.reason),
        };
        sheet.line(if at == 0 { "no room" } else { "" }, text);
    }
    // What waits for its own time waits for nothing else yet.
    let own_time = e.earliest.is_some() && e.earliest == slice.from;
    sheet.line(if own_time { "begins" } else { "may fit" }, when_full(e.earliest.as_ref(), clock));
    if e.earliest.is_none() && !e.assumption.is_empty() {
        sheet.line("forecast", format!("none: {}", e.assumption));
    } else {
        sheet.line(if own_time { "" } else { "if" }, e.assumption.as_str());
    }
    for (at, help) in e.helps.iter().enumerate() {
        sheet.line(if at == 0 { "also" } else { "" }, help.as_str());
    }
    sheet
}

fn ordinal(n: u32) -> String {
    let suffix = match (n % 100, n % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

/// As `holm.v1.Explanation` has it.
pub fn explained_json(e: &Explanation) -> Value {
    json!({
        "slice": e.slice.as_ref().map(slice_json),
        "position": e.position,
        "department": e.department,
        "hosts": e.hosts.iter().map(host_reason_json).collect::<Vec<_>>(),
        "earliest": time_json(e.earliest.as_ref()),
        "assumption": e.assumption,
        "helps": e.helps,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn ordinals() {
        let all: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 112].into_iter().map(super::ordinal).collect();
        assert_eq!(all.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 112th");
    }
}
