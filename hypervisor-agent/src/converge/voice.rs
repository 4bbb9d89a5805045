//! What a guest claims to have seen, on its way to the log.
//!
//! ```text
//!   guest ──▶ waits here, a bounded number ──▶ holmd ──▶ the log
//!                  ▲            │ said again until ──────┐ │
//!                  │            └────── acknowledged ◀───┴─┘
//!                  └── what is acknowledged is told to the guest, which then keeps it no longer
//! ```
//!
//! Nothing is judged here: which numbers are missing, which come twice, and how much of it may be an entry, is holmd's to
//! say, which remembers over restarts. A guest that says more than waits here has the rest dropped, and counted. Each slice
//! has its own: none waits for another's.

use super::{engine::Engine, record::Point, state::State};
use holm_proto::{
    guest::AT_ONCE,
    ids::SliceId,
    v1::{self, GuestClaim, GuestClaims},
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Claims of one guest that wait for holmd.
const WAITING: usize = 128;
/// What is not acknowledged is said again after this time.
const AGAIN: Duration = Duration::from_secs(30);
/// holmd took nothing: it is asked again after this time.
const PAUSE: Duration = Duration::from_secs(10);
/// That it lives is told this often at most.
const LIVES: Duration = Duration::from_secs(60);

/// One guest.
#[derive(Debug, Default)]
pub(super) struct Voice {
    /// Each with the run of the guest that it is numbered in.
    waiting: VecDeque<(String, GuestClaim)>,
    /// The run that it speaks in, and the highest number heard in it.
    heard: (String, u64),
    /// What of which run is in the log.
    logged: Option<(String, u64)>,
    /// The guest is to be told that.
    owed: bool,
    dropped: u64,
    lives: bool,
    lived: Option<Instant>,
    /// Dropped, as told in the message that is under way.
    under_way: Option<u64>,
    /// Nothing is said before.
    next: Option<Instant>,
    news: bool,
}

impl Voice {
    /// It claims this.
    pub(super) fn hear(&mut self, boot: String, claim: GuestClaim) {
        if self.heard.0 != boot {
            self.heard = (boot.clone(), 0);
        }
        if claim.seq <= self.heard.1 {
            // It does not know that it was heard.
            self.owed |= self.logged.as_ref().is_some_and(|(of, seq)| *of == boot && claim.seq <= *seq);
            return;
        }
        if self.waiting.len() >= WAITING {
            self.lose(1);
            return;
        }
        self.heard.1 = claim.seq;
        self.waiting.push_back((boot, claim));
        self.news = true;
    }

    /// It lives.
    pub(super) fn live(&mut self, now: Instant) {
        if self.lived.is_none_or(|lived| now.saturating_duration_since(lived) >= LIVES) {
            self.lived = Some(now);
            self.lives = true;
            self.news = true;
        }
    }

    /// So much of what it said is dropped.
    pub(super) fn lose(&mut self, lines: u64) {
        self.dropped = self.dropped.saturating_add(lines);
        self.news = true;
    }

    /// True once after each change.
    pub(super) fn is_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// What the guest is to be told now: this run, up to this number.
    pub(super) fn acknowledgement(&mut self) -> Option<(String, u64)> {
        std::mem::take(&mut self.owed).then(|| self.logged.clone()).flatten()
    }

    /// What holmd is to be told now.
    fn say(&mut self, now: Instant) -> Option<GuestClaims> {
        let nothing = self.waiting.is_empty() && self.dropped == 0 && !self.lives;
        if nothing || self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + AGAIN);
        self.under_way = Some(self.dropped);
        let boot = self.waiting.front().map(|(boot, _)| boot.clone()).unwrap_or_default();
        let claims = self.waiting.iter().take_while(|(of, _)| *of == boot).take(AT_ONCE);
        let claims = claims.map(|(_, claim)| claim.clone()).collect();
        Some(GuestClaims { boot, claims, dropped: self.dropped, ..Default::default() })
    }

    /// holmd has answered.
    fn answered(&mut self, ack: &v1::GuestAck, now: Instant) {
        let Some(dropped) = self.under_way.take() else { return };
        self.dropped = self.dropped.saturating_sub(dropped);
        self.lives = false;
        let before = self.waiting.len();
        self.waiting.retain(|(boot, claim)| *boot != ack.boot || claim.seq > ack.seq);
        if self.waiting.len() < before {
            self.logged = Some((ack.boot.clone(), ack.seq));
            self.owed = true;
        }
        let stuck = !self.waiting.is_empty() && self.waiting.len() == before;
        self.next = stuck.then(|| now + PAUSE);
    }

    /// What was said may not have been heard: it is said again at once.
    pub(super) fn begin_again(&mut self) {
        self.under_way = None;
        self.next = None;
    }
}

impl State {
    /// What holmd is to be told of what guests claim.
    fn guest_claims(&mut self, now: Instant) -> Vec<GuestClaims> {
        let runs = self.slices.iter_mut().filter_map(|(id, slice)| {
            let kept = slice.kept.as_ref()?;
            let heard = matches!(kept.point, Point::Booting | Point::Ready);
            let said = heard.then(|| slice.voice.say(now)).flatten()?;
            Some(GuestClaims { slice_id: id.to_string(), generation: kept.generation, ..said })
        });
        runs.collect()
    }
}

impl Engine {
    /// What guests claim, and holmd has not said that it is in the log.
    pub fn guest_claims(&self, now: Instant) -> Vec<GuestClaims> {
        self.lock().guest_claims(now)
    }

    /// holmd says what of it is in the log.
    pub fn take_guest_ack(&self, ack: &v1::GuestAck, now: Instant) {
        let mut state = self.lock();
        let slice = ack.slice_id.parse().ok().and_then(|id: SliceId| state.slices.get_mut(&id));
        if let Some(slice) = slice {
            slice.voice.answered(ack, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(seq: u64) -> GuestClaim {
        let user = v1::GuestSession { user: "ida".to_owned(), service: "sshd".to_owned() };
        GuestClaim { seq, time: 1, what: Some(v1::guest_claim::What::Login(user)) }
    }

    fn ack(boot: &str, seq: u64) -> v1::GuestAck {
        v1::GuestAck { slice_id: String::new(), boot: boot.to_owned(), seq }
    }

    fn numbers(said: &GuestClaims) -> Vec<u64> {
        said.claims.iter().map(|claim| claim.seq).collect()
    }

    #[test]
    fn it_is_said_until_it_is_acknowledged_and_then_the_guest_is_told() {
        let (mut voice, now) = (Voice::default(), Instant::now());
        assert_eq!(voice.say(now), None);
        (1..=3).for_each(|seq| voice.hear("a".into(), claim(seq)));
        assert!(voice.is_news() && !voice.is_news());
        assert_eq!(numbers(&voice.say(now).unwrap()), [1, 2, 3]);
        assert_eq!(voice.say(now + AGAIN - Duration::from_secs(1)), None, "it is under way");
        assert_eq!(numbers(&voice.say(now + AGAIN).unwrap()), [1, 2, 3]);
        voice.answered(&ack("a", 2), now);
        assert_eq!(voice.acknowledgement(), Some(("a".into(), 2)));
        assert_eq!(voice.acknowledgement(), None, "it is told once");
        assert_eq!(numbers(&voice.say(now).unwrap()), [3], "the rest at once");
        // holmd takes no more now.
        voice.answered(&ack("a", 2), now);
        assert_eq!((voice.say(now), voice.acknowledgement()), (None, None));
        assert_eq!(numbers(&voice.say(now + PAUSE).unwrap()), [3]);
        // A session that ends, and an answer that nobody waits for any more.
        voice.begin_again();
        voice.answered(&ack("a", 3), now);
        assert_eq!(numbers(&voice.say(now + PAUSE).unwrap()), [3]);
        voice.answered(&ack("a", 3), now);
        assert_eq!(voice.say(now + AGAIN), None);
        // Its guest did not hear of it.
        assert_eq!(voice.acknowledgement(), Some(("a".into(), 3)));
        voice.hear("a".into(), claim(2));
        assert_eq!(voice.acknowledgement(), Some(("a".into(), 3)));
        assert_eq!(voice.say(now + AGAIN), None);
    }

    #[test]
    fn a_guest_that_began_anew_counts_anew_and_what_it_said_before_comes_first() {
        let (mut voice, now) = (Voice::default(), Instant::now());
        voice.hear("a".into(), claim(7));
        voice.hear("a".into(), claim(7));
        voice.hear("a".into(), claim(u64::MAX));
        voice.hear("b".into(), claim(1));
        let said = voice.say(now).unwrap();
        assert_eq!((said.boot.as_str(), numbers(&said)), ("a", vec![7, u64::MAX]));
        // Somebody else's number is none of it.
        voice.answered(&ack("b", 0), now);
        let said = voice.say(now + PAUSE).unwrap();
        assert_eq!((said.boot.as_str(), numbers(&said)), ("a", vec![7, u64::MAX]));
        voice.answered(&ack("a", u64::MAX), now);
        let said = voice.say(now).unwrap();
        assert_eq!((said.boot.as_str(), numbers(&said)), ("b", vec![1]));
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_once() {
        let (mut voice, now) = (Voice::default(), Instant::now());
        (1..=100_000).for_each(|seq| voice.hear("a".into(), claim(seq)));
        voice.lose(5);
        let said = voice.say(now).unwrap();
        assert_eq!((said.claims.len(), said.dropped), (AT_ONCE, 100_000 - WAITING as u64 + 5));
        voice.lose(2);
        voice.answered(&ack("a", 0), now);
        assert_eq!(voice.say(now + PAUSE).unwrap().dropped, 2);
        assert!(voice.waiting.len() == WAITING && voice.waiting.capacity() < 4 * WAITING);
    }

    #[test]
    fn that_it_lives_is_told_once_a_minute_however_often_it_says_so() {
        let (mut voice, begin) = (Voice::default(), Instant::now());
        let told = (0..600).filter(|second| {
            let now = begin + Duration::from_secs(*second);
            voice.live(now);
            let said = voice.say(now);
            assert!(said.as_ref().is_none_or(|said| *said == GuestClaims::default()));
            voice.answered(&ack("", 0), now);
            said.is_some()
        });
        assert_eq!(told.count(), 10);
    }

    proptest! {
        #[test]
        fn whatever_is_said_and_answered_it_stays_bounded(
            steps in proptest::collection::vec((0u8..6, 0u8..3, any::<u64>()), 0..400),
        ) {
            let (mut voice, mut now) = (Voice::default(), Instant::now());
            for (step, boot, number) in steps {
                let boot = format!("{boot}");
                match step {
                    0 | 1 => voice.hear(boot, claim(number % 512)),
                    2 => voice.answered(&ack(&boot, number), now),
                    3 => voice.begin_again(),
                    4 => now += Duration::from_secs(number % 60),
                    _ => {
                        if let Some(said) = voice.say(now) {
                            prop_assert!(said.claims.len() <= AT_ONCE);
                            prop_assert!(said.claims.is_empty() == said.boot.is_empty());
                        }
                    }
                }
                prop_assert!(voice.waiting.len() <= WAITING);
            }
        }
    }
}
