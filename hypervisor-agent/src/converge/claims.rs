//! How full a guest claims that its disks are. Whatever it says and however often, others hear of it at a bounded rate.

use holm_proto::v1::DiskUse;
use std::time::{Duration, Instant};

/// Between two changes that are told.
const PAUSE: Duration = Duration::from_secs(30);

/// What one guest claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    shown: Vec<DiskUse>,
    /// When it was taken over.
    at: Option<Instant>,
    /// What it said since.
    next: Option<Vec<DiskUse>>,
    news: bool,
}

impl Claims {
    /// It says this.
    pub(super) fn hear(&mut self, disks: Vec<DiskUse>) {
        self.next = Some(disks);
    }

    /// Takes over what it said last, where it is time.
    pub(super) fn turn(&mut self, now: Instant) {
        if self.at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return;
        }
        if let Some(next) = self.next.take().filter(|next| *next != self.shown) {
            self.shown = next;
            self.at = Some(now);
            self.news = true;
        }
    }

    /// What is told.
    pub(super) fn shown(&self) -> &[DiskUse] {
        &self.shown
    }

    /// True once after each change.
    pub(super) fn are_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_talks_all_the_time_is_heard_now_and_then_and_its_last_word_is_not_lost() {
        let disks = |free| vec![DiskUse { name: "root".to_owned(), bytes: 1000, free, ..Default::default() }];
        let (mut claims, begin, mut news) = (Claims::default(), Instant::now(), 0);
        for second in 0..300 {
            claims.hear(disks(second));
            claims.turn(begin + Duration::from_secs(second));
            news += usize::from(claims.are_news());
        }
        assert_eq!(news, 10);
        assert_eq!(claims.shown(), disks(270));
        claims.turn(begin + Duration::from_secs(300));
        assert_eq!(claims.shown(), disks(299));
        assert!(claims.are_news());
        claims.hear(disks(299));
        claims.turn(begin + Duration::from_secs(400));
        assert!(!claims.are_news(), "the same again is no news");
    }
}
