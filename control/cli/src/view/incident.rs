//! Incidents.

use super::{time_json, when};
use crate::output::{Cell, Table, Tone};
use crate::text::Clock;
use holm_proto::v1::Incident;
use serde_json::{Value, json};

/// How far one is.
fn state(one: &Incident) -> Cell {
    match (one.closed.is_some(), one.notified.is_some(), one.overdue) {
        (true, ..) => Cell::new("closed").tone(Tone::Dim),
        (_, true, _) => Cell::new("notified").tone(Tone::Good),
        (.., true) => Cell::new("overdue").tone(Tone::Bad),
        _ => Cell::new("open").tone(Tone::Bad),
    }
}

/// A list.
pub fn incidents(all: &[Incident], clock: &Clock) -> Table {
    let row = |one: &Incident| {
        vec![
            Cell::new(one.number.to_string()),
            Cell::new(&one.project),
            state(one),
            when(one.aware.as_ref(), clock),
            // What is left counts as long as it does.
            if one.closed.is_none() && one.notified.is_none() {
                when(one.deadline.as_ref(), clock)
            } else {
                Cell::new(&one.reference)
            },
            Cell::new(&one.by),
            Cell::new(&one.reason),
        ]
    };
    Table {
        columns: vec!["incident", "project", "state", "aware", "authority", "by", "why"],
        rows: all.iter().map(row).collect(),
        empty: "there is no incident",
    }
}

/// As `holm.v1.Incident` has it.
pub fn incident_json(one: &Incident) -> Value {
    json!({
        "number": one.number, "project": one.project, "by": one.by, "at": time_json(one.at.as_ref()),
        "reason": one.reason, "aware": time_json(one.aware.as_ref()), "deadline": time_json(one.deadline.as_ref()),
        "overdue": one.overdue, "notified": time_json(one.notified.as_ref()), "notified_by": one.notified_by,
        "reference": one.reference, "delay": one.delay, "closed": time_json(one.closed.as_ref()),
        "closed_by": one.closed_by, "closed_because": one.closed_because,
    })
}
