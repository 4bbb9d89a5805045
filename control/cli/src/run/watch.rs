//! A slice as it changes. holmd may go and come back meanwhile; what was seen is not said again.

use super::Session;
use crate::args::Target;
use crate::output::{Format, Tone, put};
use crate::progress::Spinner;
use crate::text::{Clock, instant};
use crate::{Exit, Failure, view};
use holm_proto::v1::{Slice, SliceRef, SliceState};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long holmd may be gone.
const GONE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &Session, target: &Target, limit: Option<Duration>) -> Result<u8, Failure> {
    let wanted = session.slice(&target.slice, &target.project)?;
    let spinner = Spinner::new(&session.output);
    let mut teller = Teller::default();
    let last = follow(session, &wanted, limit, &spinner, |slice| {
        match session.output.format {
            Format::Json => spinner.aside(|| session.output.document(&view::slice_json(slice)))?,
            Format::Table | Format::Csv => {
                let lines = teller.news(slice, &session.clock);
                spinner.aside(|| lines.iter().try_for_each(|line| print(session, line)))?;
            }
        }
        Ok(ending(view::state(slice)).is_some())
    })
    .await?;
    drop(spinner);
    match ending(view::state(&last)) {
        Some(true) | None => Ok(0),
        Some(false) => Ok(Exit::Refused.code()),
    }
}

/// Calls `see` with the slice now and at each change, until it says that this is the end.
pub(super) async fn follow(
    session: &Session,
    wanted: &SliceRef,
    limit: Option<Duration>,
    spinner: &Spinner,
    mut see: impl FnMut(&Slice) -> Result<bool, Failure>,
) -> Result<Slice, Failure> {
    let mut last: Option<Slice> = None;
    let all = async {
        let mut lost: Option<Instant> = None;
        loop {
            let end = once(session, wanted, |slice| {
                spinner.says(&going_on(&slice));
                lost = None;
                let end = see(&slice);
                last = Some(slice);
                end
            });
            let failure = match end.await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            let gone = lost.get_or_insert_with(Instant::now).elapsed();
            // One that was never there is not waited for.
            if !failure.is_lost() || last.is_none() || gone > GONE {
                return Err(failure);
            }
            spinner.says("holmd is gone; trying again");
            tokio::time::sleep(AGAIN).await;
        }
    };
    let done = match limit {
        Some(limit) => tokio::time::timeout(limit, all)
            .await
            .unwrap_or_else(|_| Err(Failure { exit: Exit::TimedOut, ..Failure::new("the time is up") })),
        None => all.await,
    };
    match (done, last) {
        (Ok(()), Some(last)) => Ok(last),
        (Ok(()), None) => Err(Failure::unreachable("holmd showed nothing")),
        (Err(failure), Some(last)) if failure.exit == Exit::TimedOut => {
            let (label, word) = (view::label(&last), view::word(view::state(&last)));
            let reason = if last.reason.is_empty() { String::new() } else { format!(" ({})", last.reason) };
            Err(Failure { what: format!("the time is up, and {label} is {word}{reason}"), ..failure }
                .hint(format!("holm slice explain {label}")))
        }
        (Err(failure), _) => Err(failure),
    }
}

/// One connection's worth.
async fn once(
    session: &Session,
    wanted: &SliceRef,
    mut see: impl FnMut(Slice) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut client = session.silent().slices().await?;
    let mut stream = client.watch_slice(wanted.clone()).await?.into_inner();
    while let Some(slice) = stream.message().await? {
        if see(slice)? {
            return Ok(());
        }
    }
    Err(Failure::unreachable("holmd ended the watch").hint("holm doctor"))
}

/// Whether this is the end of a watch, and a good one.
fn ending(state: SliceState) -> Option<bool> {
    match state {
        SliceState::Ready | SliceState::Stopped | SliceState::Kept | SliceState::Destroyed => Some(true),
        SliceState::Failed | SliceState::Rejected | SliceState::Withdrawn => Some(false),
        SliceState::Unspecified
        | SliceState::Requested
        | SliceState::Approved
        | SliceState::Placed
        | SliceState::Preparing
        | SliceState::Booting
        | SliceState::Stopping
        | SliceState::Keeping
        | SliceState::Closing
        | SliceState::Destroying => None,
    }
}

/// For the line that moves.
pub(super) fn going_on(slice: &Slice) -> String {
    let word = view::word(view::state(slice));
    if let Some(job) = &slice.job {
        return view::job(job);
    }
    match slice.steps.iter().find(|step| !step.done) {
        Some(step) => format!("{word}: {}", step.name),
        None if slice.reason.is_empty() => word.to_owned(),
        None => format!("{word}: {}", slice.reason),
    }
}

/// One line of what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    at: Timestamp,
    tone: Tone,
    text: String,
}

fn print(session: &Session, line: &Line) -> Result<(), Failure> {
    let time = session.output.toned(Tone::Dim, &session.clock.time(line.at));
    put(&format!("{time}  {}\n", session.output.toned(line.tone, &line.text)))
}

/// Knows what it has told.
#[derive(Debug, Default)]
struct Teller {
    said: Option<(SliceState, String)>,
    /// By generation and name.
    steps: BTreeSet<(u64, String)>,
}

impl Teller {
    /// What is new, in the order in which it happened.
    fn news(&mut self, slice: &Slice, clock: &Clock) -> Vec<Line> {
        let now = (view::state(slice), slice.reason.clone());
        let mut lines = Vec::new();
        // Who begins to watch when it goes does not care how it came.
        let down = [SliceState::Stopping, SliceState::Keeping, SliceState::Closing, SliceState::Destroying];
        let goes = down.contains(&now.0) && self.said.is_none();
        let since = instant(slice.changed.as_ref()).filter(|_| goes);
        for step in slice.steps.iter().filter(|step| step.done) {
            if self.steps.insert((slice.generation, step.name.clone())) {
                let took = SignedDuration::from_millis(i64::try_from(step.took_ms).unwrap_or(0));
                let ended = instant(step.started.as_ref()).and_then(|at| at.checked_add(took).ok());
                if ended < since {
                    continue;
                }
                let text = format!("  {}", view::step_text(step));
                lines.push(Line { at: ended.unwrap_or(clock.now), tone: Tone::Plain, text });
            }
        }
        if self.said.as_ref() != Some(&now) {
            let (state, reason) = &now;
            let word = view::word(*state);
            let text = if reason.is_empty() { word.to_owned() } else { format!("{word}: {reason}") };
            // A reason that comes later has no time of its own.
            let same = self.said.as_ref().is_some_and(|(said, _)| said == state);
            let at = if same { None } else { instant(slice.changed.as_ref()) };
            let at = at.unwrap_or_else(Timestamp::now);
            // Back in the same state without a reason, there is nothing to say.
            if !(same && reason.is_empty()) {
                lines.push(Line { at, tone: view::state_tone(*state), text });
            }
            self.said = Some(now);
        }
        lines.sort_by_key(|line| line.at);
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_proto::v1::Step;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds: 1_793_710_000 + seconds, nanos: 0 })
    }

    fn step(name: &str, started: i64, took_ms: u64) -> Step {
        Step { name: name.to_owned(), took_ms, done: took_ms > 0, started: at(started) }
    }

    #[test]
    fn everything_is_told_once_and_in_order() {
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: jiff::tz::TimeZone::UTC };
        let mut slice = Slice { generation: 1, changed: at(0), ..Slice::default() };
        slice.set_state(SliceState::Preparing);
        slice.steps = vec![step("create disk", 0, 1200), step("bind devices", 2, 0)];
        let mut teller = Teller::default();
        let told = |lines: Vec<Line>| lines.into_iter().map(|l| l.text).collect::<Vec<_>>();
        assert_eq!(told(teller.news(&slice, &clock)), ["preparing", "  create disk  1.2 s"]);
        assert_eq!(going_on(&slice), "preparing: bind devices");
        assert!(teller.news(&slice, &clock).is_empty());
        slice.steps = vec![step("create disk", 0, 1200), step("bind devices", 2, 3000)];
        slice.set_state(SliceState::Booting);
        slice.changed = at(6);
        assert_eq!(told(teller.news(&slice, &clock)), ["  bind devices  3.0 s", "booting"]);
        // Another generation takes its steps anew.
        slice.generation = 2;
        assert_eq!(teller.news(&slice, &clock).len(), 2);
    }

    #[test]
    fn a_reason_is_news() {
        let clock = Clock::system();
        let mut slice = Slice { changed: at(0), ..Slice::default() };
        slice.set_state(SliceState::Approved);
        let mut teller = Teller::default();
        assert_eq!(teller.news(&slice, &clock).len(), 1);
        slice.reason = "queued: no 8 GPUs are free together".to_owned();
        assert_eq!(teller.news(&slice, &clock)[0].text, "approved: queued: no 8 GPUs are free together");
        slice.reason.clear();
        assert!(teller.news(&slice, &clock).is_empty());
    }
}
