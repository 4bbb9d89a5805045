//! Samples of the log.

use super::{time_json, when};
use crate::output::{Cell, Table, Tone};
use crate::text::Clock;
use holm_control::audit::Entry;
use holm_proto::v1::{Review, ReviewItem};
use serde_json::{Value, json};

/// How far one is.
fn state(review: &Review) -> Cell {
    match (review.drawn.is_some(), review.done.is_some(), review.overdue) {
        (false, ..) => Cell::new("closed"),
        (_, true, _) => Cell::new("done").tone(Tone::Good),
        (.., true) => Cell::new("overdue").tone(Tone::Bad),
        _ => Cell::new("open"),
    }
}

/// A list.
pub fn samples(all: &[Review], clock: &Clock) -> Table {
    let row = |review: &Review| {
        let flagged = Cell::new(review.flagged.to_string());
        vec![
            Cell::new(review.number.to_string()),
            state(review),
            when(review.closed.as_ref(), clock),
            when(review.due.as_ref(), clock),
            Cell::new(format!("{} of {}", review.decided, review.entries)),
            if review.flagged > 0 { flagged.tone(Tone::Bad) } else { flagged },
        ]
    };
    Table {
        columns: vec!["review", "state", "period ended", "due", "looked at", "flagged"],
        rows: all.iter().map(row).collect(),
        empty: "no period has ended yet",
    }
}

/// The entries of one.
pub fn sample(review: &Review, clock: &Clock) -> Table {
    let row = |item: &ReviewItem| {
        let entry = Entry::from_bytes(&item.body).ok();
        let of = |text: fn(&Entry) -> String| Cell::new(entry.as_ref().map(text).unwrap_or_default());
        let said = match (item.by.as_str(), item.flagged) {
            ("", _) => Cell::new("open"),
            (by, true) => Cell::new(format!("flagged by {by}")).tone(Tone::Bad),
            (by, false) => Cell::new(format!("signed off by {by}")).tone(Tone::Good),
        };
        vec![
            Cell::new(item.entry.to_string()),
            Cell::new(entry.as_ref().map(|entry| clock.local(entry.time)).unwrap_or_default()),
            of(|entry| entry.actor.clone()),
            of(|entry| entry.outcome.clone()),
            of(|entry| entry.action.clone()),
            of(|entry| entry.resource.clone()),
            said,
            Cell::new(&item.comment),
        ]
    };
    Table {
        columns: vec!["entry", "time", "who", "outcome", "action", "about", "review", "comment"],
        rows: review.items.iter().map(row).collect(),
        empty: "there was nothing to draw from",
    }
}

/// As `holm.v1.Review` has it; entries as they were logged.
pub fn sample_json(review: &Review) -> Value {
    let item = |item: &ReviewItem| {
        json!({ "entry": item.entry, "about": item.about, "by": item.by, "at": time_json(item.at.as_ref()),
            "flagged": item.flagged, "comment": item.comment,
            "body": serde_json::from_slice::<Value>(&item.body).unwrap_or_default() })
    };
    json!({
        "number": review.number, "closed": time_json(review.closed.as_ref()),
        "drawn": time_json(review.drawn.as_ref()), "due": time_json(review.due.as_ref()),
        "done": time_json(review.done.as_ref()), "overdue": review.overdue, "close": review.close,
        "entries": review.entries, "decided": review.decided, "flagged": review.flagged,
        "items": review.items.iter().map(item).collect::<Vec<_>>(),
    })
}
