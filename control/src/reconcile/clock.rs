//! Whether the clock can be gone by. Much ends by it, and some of that is destroyed for good: a clock that is found far
//! from where it was a moment ago stops nothing and destroys nothing for a day, whichever of the two was wrong. A restart does not
//! end that: the log says that it is doubted. What people may do is asked of the clock all the same.

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
/// The action of the entry that says so.
pub(crate) const DOUBT: &str = "observe.clock";
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

/// What the log says of it, at the start.
#[derive(Debug, Default, Clone, Copy)]
struct Logged {
    /// The last entry.
    last: Option<Timestamp>,
    /// The last that doubts it, of a day.
    doubt: Option<Timestamp>,
}

impl Seen {
    /// By how much it was found wrong, where that is news.
    fn look(&mut self, at: Instant, now: Timestamp, logged: Logged) -> Option<SignedDuration> {
        let gained = match self.last {
            Some((then, was)) => {
                let passed = SignedDuration::try_from(at.duration_since(then)).unwrap_or(SignedDuration::MAX);
                Some(now.duration_since(was).saturating_sub(passed)).filter(|gained| gained.abs() > OFF)
            }
            None => logged.last.map(|last| now.duration_since(last)).filter(|gap| *gap > AWAY || *gap < -OFF),
        };
        self.last = Some((at, now));
        if gained.is_some() || logged.doubt.is_some() {
            self.doubted = Some(at);
        }
        gained
    }

    fn is_steady(&self, at: Instant) -> bool {
        self.doubted.is_none_or(|doubted| at.duration_since(doubted) >= STEADY)
    }
}

/// Whether what is over may be ended by it. That it is doubted is an entry.
pub(crate) fn steady(app: &App) -> Result<bool, Refusal> {
    let (at, now) = (Instant::now(), app.ledger.now());
    let gained = {
        let mut seen = app.clock.0.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = if seen.last.is_none() { logged(app, now) } else { Logged::default() };
        match seen.look(at, now, logged) {
            None => return Ok(seen.is_steady(at)),
            Some(gained) => gained,
        }
    };
    app.ledger.commit_if(&Call::own(DOUBT, "holm".to_owned()), |_, _| {
        let detail = serde_json::json!({ "seconds": gained.as_secs(), "nothing_ends_by_it_for_hours": 24 });
        Some(Decided { detail, ..Decided::new(Vec::new(), ()) })
    })?;
    Ok(false)
}

/// Looks back over a day of it.
fn logged(app: &App, now: Timestamp) -> Logged {
    let mut found = Logged::default();
    for index in (0..app.ledger.size()).rev() {
        let read = app.ledger.entries(index, index + 1).ok();
        let Some(entry) = read.and_then(|bodies| Entry::from_bytes(bodies.first()?).ok()) else { break };
        found.last = found.last.or(Some(entry.time));
        if now.duration_since(entry.time).as_secs() >= STEADY.as_secs().cast_signed() {
            break;
        }
        if entry.action == DOUBT {
            found.doubt = Some(entry.time);
            break;
        }
    }
    found
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
        let none = Logged::default();
        assert_eq!(seen.look(start, began, Logged { last: Some(began), doubt: None }), None);
        assert_eq!(seen.look(after(30), later(30), none), None);
        // Set right by some minutes.
        assert_eq!(seen.look(after(60), later(900), none), None);
        assert!(seen.is_steady(after(60)));
        // A year ahead, and back.
        let year = 31_536_000;
        let gained = seen.look(after(90), later(year), none).unwrap();
        assert_eq!(gained.as_secs(), year - 930);
        assert!(!seen.is_steady(after(90)));
        assert!(seen.look(after(120), later(960), none).is_some(), "nobody knows which was right");
        assert!(!seen.is_steady(after(120 + 86_399)));
        assert!(seen.is_steady(after(120 + 86_400)));
    }

    #[test]
    fn after_a_long_time_away_nothing_ends_at_the_first_look() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let ago = |hours: i64| Some(now - SignedDuration::from_hours(hours));
        for (last, doubted) in
            [(ago(1), false), (ago(167), false), (ago(169), true), (ago(-2), true), (None, false)]
        {
            let mut seen = Seen::default();
            assert_eq!(
                seen.look(Instant::now(), now, Logged { last, doubt: None }).is_some(),
                doubted,
                "{last:?}"
            );
        }
    }

    #[test]
    fn a_restart_does_not_end_the_doubt() {
        let (at, now) = (Instant::now(), Timestamp::from_second(1_790_000_000).unwrap());
        let last = Some(now - SignedDuration::from_secs(1));
        let mut seen = Seen::default();
        assert_eq!(seen.look(at, now, Logged { last, doubt: last }), None, "it is said already");
        assert!(!seen.is_steady(at));
        let mut seen = Seen::default();
        assert_eq!(seen.look(at, now, Logged { last, doubt: None }), None);
        assert!(seen.is_steady(at));
    }
}
