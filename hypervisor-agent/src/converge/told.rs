//! What a guest was told and says that it is so: who has an account in it, which classes of jobs it has. It is told until it
//! says so. Of one that has never said anything of it, an older image's, nothing is expected: it hears of it when it boots.

use std::time::{Duration, Instant};

/// It is told again after this time.
const AGAIN: Duration = Duration::from_secs(5);
/// After so many times somebody is to know.
const TIMES: u32 = 12;

/// Of one guest.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What it calls what it has.
    pub(super) says: Option<String>,
    told: Option<Instant>,
    times: u32,
}

impl Told {
    /// It says this.
    pub(super) fn hear(&mut self, of: String) {
        self.says = Some(of);
    }

    /// It is to have something else than it has.
    pub(super) fn is_other_than(&self, wanted: &str) -> bool {
        self.says.as_ref().is_some_and(|says| says != wanted)
    }

    /// True where it is to be told now.
    pub(super) fn tell(&mut self, wanted: &str, now: Instant) -> bool {
        if !self.is_other_than(wanted) {
            (self.told, self.times) = (None, 0);
            return false;
        }
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < AGAIN) {
            return false;
        }
        self.told = Some(now);
        self.times = self.times.saturating_add(1);
        if self.times == TIMES {
            tracing::warn!("a guest does not say that it does as it was told");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_until_it_says_so() {
        let (mut people, begin) = (Told::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(!people.tell("a", at(0)), "it never spoke of it");
        people.hear("a".to_owned());
        assert!(!people.tell("a", at(0)));
        assert!(people.tell("b", at(0)));
        let told = (1..=20).filter(|second| people.tell("b", at(*second)));
        assert_eq!(told.count(), 4);
        people.hear("b".to_owned());
        assert!(!people.tell("b", at(20)) && !people.is_other_than("b"));
        assert!(people.tell("a", at(21)), "the next time at once");
    }
}
