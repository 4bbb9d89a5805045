//! holmd's part of the review by sample: it ends periods, draws their samples, and says what is overdue. It looks at everything
//! each time and remembers nothing: a kill between the end of a period and its sample has the same sample drawn.

use crate::app::App;
use crate::audit::Entry;
use crate::audit::sample::{self, CLOSE, DRAW};
use crate::domain::days;
use crate::domain::records::{Change, Record};
use crate::domain::review::{self, Item, Review};
use crate::ledger::{Call, Decided, chain};
use jiff::Timestamp;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The action of the entry that says that one is overdue.
pub const OVERDUE: &str = "observe.review";
/// Entries read at once.
const BATCH: u64 = 256;
/// A look is taken at least this often: periods end by the clock.
const PERIOD: Duration = Duration::from_secs(30);
/// And no more often, however much is logged.
const PAUSE: Duration = Duration::from_secs(1);

/// Until holmd ends.
pub async fn run(app: Arc<App>) {
    let mut size = app.ledger.subscribe();
    loop {
        size.mark_unchanged();
        let worker = Arc::clone(&app);
        match tokio::task::spawn_blocking(move || look(&worker)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::error!("the log's sample is not seen to: {why}"),
            Err(failure) => tracing::error!("the log's sample is not seen to: {failure}"),
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            _ = size.changed() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// All that is to be done now.
fn look(app: &App) -> Result<(), String> {
    let state = app.ledger.state();
    let began = match state.reviews.is_empty() {
        true => began(app)?,
        false => Timestamp::MIN,
    };
    let config = &app.config.review;
    let next = |state: &_, now| review::close(state, began, days(config.every_days), config.entries, now);
    if let Some(review) = next(&state, app.ledger.now()) {
        let call = Call::own(CLOSE, resource(review.number));
        app.ledger
            .commit_if(&call, |state, now| {
                let review = next(state, now).filter(|now| now.number == review.number)?;
                let detail = json!({ "review": review.number, "entries": review.entries });
                Some(Decided { detail, ..Decided::new(vec![Change::Put(Record::Review(review))], ()) })
            })
            .map_err(|refusal| refusal.to_string())?;
    }
    let state = app.ledger.state();
    for review in state.reviews.values().filter(|review| review.sample.is_none()) {
        let before = review.number.checked_sub(1).and_then(|number| state.reviews.get(&number));
        let from = before.and_then(|review| review.sample.as_ref()).map_or(0, |sample| sample.close + 1);
        draw(app, review, from)?;
    }
    let now = app.ledger.now();
    for number in state.reviews.values().filter(|review| review.is_overdue(now)).map(|review| review.number) {
        let call = Call::own(OVERDUE, resource(number));
        app.ledger
            .commit_if(&call, |state, now| {
                let changes = review::overdue(state, number, now)?;
                let (decided, _) = state.reviews.get(&number)?.counts();
                let detail = json!({ "review": number, "overdue": true, "decided": decided });
                Some(Decided { detail, ..Decided::new(changes, ()) })
            })
            .map_err(|refusal| refusal.to_string())?;
    }
    Ok(())
}

fn resource(number: u32) -> String {
    format!("review/{number}")
}

/// When the log did.
fn began(app: &App) -> Result<Timestamp, String> {
    let oldest = app.ledger.first();
    let first = read(app, oldest, app.ledger.size().min(oldest + 1))?;
    Ok(first.first().map_or_else(|| app.ledger.now(), |entry| entry.time))
}

/// Draws the sample of a period that begins with the entry `from`, as anybody would.
fn draw(app: &App, review: &Review, from: u64) -> Result<(), String> {
    let number = review.number;
    // What is gone of the period is not drawn from.
    let from = from.max(app.ledger.first());
    let close = closed_by(app, number, from)?;
    let root = app.ledger.root_at(close + 1).map_err(|e| chain(&e))?;
    let mut accesses = Vec::new();
    let mut at = from;
    while at < close {
        let until = (at + BATCH).min(close);
        accesses.extend(read(app, at, until)?.iter().filter(|e| sample::is_access(e)).map(|e| e.index));
        at = until;
    }
    let drawn = sample::draw(&sample::seed(number, &root), accesses, review.entries);
    let mut items = Vec::new();
    for index in &drawn {
        let about = read(app, *index, index + 1)?.first().map(sample::people).unwrap_or_default();
        items.push(Item { entry: *index, about, decided: None });
    }
    let call = Call::own(DRAW, resource(number));
    let time = days(app.config.review.due_days);
    let done = app.ledger.commit_if(&call, |state, now| {
        let changes = review::drawn(state, number, close, items, time, now)?;
        let detail = json!({ "review": number, "close": close, "sample": drawn });
        Some(Decided { detail, ..Decided::new(changes, ()) })
    });
    done.map(drop).map_err(|refusal| refusal.to_string())
}

/// The entry that ended the period: it is among the last, as a rule.
fn closed_by(app: &App, number: u32, from: u64) -> Result<u64, String> {
    let mut until = app.ledger.size();
    while until > from {
        let start = until.saturating_sub(BATCH).max(from);
        let is = |e: &&Entry| e.action == CLOSE && e.actor == "holmd" && e.resource == resource(number);
        if let Some(entry) = read(app, start, until)?.iter().rev().find(is) {
            return Ok(entry.index);
        }
        until = start;
    }
    Err(format!("the log has no entry that ended the period of review {number}"))
}

fn read(app: &App, start: u64, end: u64) -> Result<Vec<Entry>, String> {
    let bodies = app.ledger.entries(start, end).map_err(|e| chain(&e))?;
    bodies.iter().map(|body| Entry::from_bytes(body).map_err(|e| chain(&e))).collect()
}
