//! Whether the clock can be gone by. Much ends by it, and some of that is destroyed for good: a clock that is found far
//! from where it was a moment ago stops nothing and destroys nothing for a day, whichever of the two was wrong. What people
//! may do is asked of the clock all the same.

use crate::app::App;
use crate::audit::Entry;
use crate::domain::Refusal;
use crate::ledger::{Call, Decided};
use jiff::{SignedDuration, Timestamp};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// It may go so wrong between two looks: clocks are set right by less.
const OFF: SignedDuration = SignedDuration::from_hours(1);
/// At the start: the log's last entry may be so old.
const AWAY: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Then it must go right for so long.
const STEADY: Duration = Duration::from_secs(24 * 3600);

/// What is known of it.
#[derive(Debug, Default)]
pub struct Clock(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    last: Option<(Instant, Timestamp)>,
    doubted: Option<Instant>,
}

impl Seen {
    /// By how much it was found wrong, where that is news.
    fn look(&mut self, at: Instant, now: Timestamp, logged: Option<Timestamp>) -> Option<SignedDuration> {
        let gained = match self.last {
            Some((then, was)) => {
                let passed = SignedDuration::try_from(at.duration_since(then)).unwrap_or(SignedDuration::MAX);
                Some(now.duration_since(was).saturating_sub(passed)).filter(|gained| gained.abs() > OFF)
            }
            None => logged.map(|logged| now.duration_since(logged)).filter(|gap| *gap > AWAY || *gap < -OFF),
        };
        self.last = Some((at, now));
        if gained.is_some() {
            self.doubted = Some(at);
        }
        gained
    }

    fn is_steady(&self, at: Instant) -> bool {
        self.doubted.is_none_or(|doubted| at.duration_since(doubted) >= STEADY)
    }
}

/// Whether what is over may be ended by it. That it is doubted is an entry.
pub(super) fn steady(app: &App) -> Result<bool, Refusal> {
    let (at, now) = (Instant::now(), app.ledger.now());
    let gained = {
        let mut seen = app.clock.0.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = if seen.last.is_none() { last_entry(app) } else { None };
        match seen.look(at, now, logged) {
            None => return Ok(seen.is_steady(at)),
            Some(gained) => gained,
        }
    };
    app.ledger.commit_if(&Call::own("observe.clock", "holm".to_owned()), |_, _| {
        let detail = serde_json::json!({ "seconds": gained.as_secs(), "nothing_ends_by_it_for_hours": 24 });
        Some(Decided { detail, ..Decided::new(Vec::new(), ()) })
    })?;
    Ok(false)
}

fn last_entry(app: &App) -> Option<Timestamp> {
    let size = app.ledger.size();
    let entries = app.ledger.entries(size.checked_sub(1)?, size).ok()?;
    Entry::from_bytes(entries.first()?).ok().map(|entry| entry.time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_doubted_for_a_day_and_one_that_goes_right_is_not() {
        let (start, began) = (Instant::now(), Timestamp::from_second(1_790_000_000).unwrap());
        let (after, later) =
            (|secs| start + Duration::from_secs(secs), |secs| began + SignedDuration::from_secs(secs));
        let mut seen = Seen::default();
        assert_eq!(seen.look(start, began, Some(began)), None);
        assert_eq!(seen.look(after(30), later(30), None), None);
        // Set right by some minutes.
        assert_eq!(seen.look(after(60), later(900), None), None);
        assert!(seen.is_steady(after(60)));
        // A year ahead, and back.
        let year = 31_536_000;
        let gained = seen.look(after(90), later(year), None).unwrap();
        assert_eq!(gained.as_secs(), year - 930);
        assert!(!seen.is_steady(after(90)));
        assert!(seen.look(after(120), later(960), None).is_some(), "nobody knows which was right");
        assert!(!seen.is_steady(after(120 + 86_399)));
        assert!(seen.is_steady(after(120 + 86_400)));
    }

    #[test]
    fn after_a_long_time_away_nothing_ends_at_the_first_look() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let ago = |hours: i64| Some(now - SignedDuration::from_hours(hours));
        for (logged, doubted) in
            [(ago(1), false), (ago(167), false), (ago(169), true), (ago(-2), true), (None, false)]
        {
            let mut seen = Seen::default();
            assert_eq!(seen.look(Instant::now(), now, logged).is_some(), doubted, "{logged:?}");
        }
    }
}
