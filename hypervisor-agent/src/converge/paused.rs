//! Machines that stand still because there was no room for what they wrote, and when each goes on.
//!
//! ```text
//!              seen paused                     room, and it is time
//!   (nothing) ─────────────▶ stands ─────────────────────────────────▶ due ── Resume ──▶ resumed
//!       ▲                      ▲                                                           │
//!       │                      └──────────── seen paused again: the pause is longer ───────┤
//!       └───────────────────────────── ran on for as long as the longest pause ────────────┘
//! ```
//!
//! A machine that is let go on writes again what it could not write: nothing of it was lost, and where there is still
//! no room it is paused at once. So it costs nothing but work to try, and is tried at a bounded rate, for ever.

use super::{engine::Now, state::State};
use crate::edge::{DomainStatus, Room};
use std::time::{Duration, Instant};

/// After the first try; each later one waits three times as long.
const PAUSE: Duration = Duration::from_secs(10);
/// The longest pause. What ran on for so long begins anew.
const LONGEST: Duration = Duration::from_secs(600);
/// There is room again where so much is free, or a twentieth of all.
const ENOUGH_BYTES: u64 = 1 << 30;

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paused {
    tries: u32,
    /// Not tried before.
    next: Instant,
    resumed: Option<Instant>,
    due: bool,
}

impl Paused {
    fn new(now: Instant) -> Self {
        Self { tries: 0, next: now, resumed: None, due: false }
    }

    /// It stands still.
    pub(super) fn stands(&self) -> bool {
        self.resumed.is_none()
    }

    /// It is to go on now.
    pub(super) fn is_due(&self) -> bool {
        self.due
    }

    /// It was let go on.
    pub(super) fn resumed(&mut self, now: Instant) {
        let pause = PAUSE.saturating_mul(3u32.saturating_pow(self.tries)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        self.next = now + pause;
        self.resumed = Some(now);
        self.due = false;
    }

    /// It was looked at: does it stand still? `None` where nothing is left to remember.
    fn seen(mut self, stands: bool, room: bool, now: Instant) -> Option<Self> {
        if stands {
            self.resumed = None;
            self.due = room && now >= self.next;
            return Some(self);
        }
        // Somebody else may have let it go on.
        let since = *self.resumed.get_or_insert(now);
        self.due = false;
        (now.saturating_duration_since(since) < LONGEST).then_some(self)
    }
}

/// Whether one that was paused has room to go on; where nobody can say, it is tried.
fn enough(room: Option<Room>) -> bool {
    room.is_none_or(|room| room.free >= ENOUGH_BYTES.min(room.bytes / 20))
}

impl State {
    /// Takes in which machines stand still, and how much room there is where it was asked. True where that is news.
    pub(super) fn look_at_room(
        &mut self,
        domains: &[DomainStatus],
        room: Option<Option<Room>>,
        now: Now,
    ) -> bool {
        let percent = |room: Option<Room>| room.map(Room::used_percent);
        let mut news = room.is_some_and(|room| percent(room) != percent(self.room));
        if let Some(room) = room {
            self.room = room;
        }
        let before = std::mem::take(&mut self.paused);
        let enough = enough(self.room);
        for domain in domains.iter().filter(|domain| domain.running) {
            let known = before.get(&domain.slice).cloned();
            let known = known.or_else(|| domain.paused.then(|| Paused::new(now.instant)));
            let seen = known.and_then(|known| known.seen(domain.paused, enough, now.instant));
            self.paused.extend(seen.map(|seen| (domain.slice, seen)));
        }
        let told = |all: &std::collections::BTreeMap<_, Paused>| {
            let each = all.iter().filter(|(_, paused)| paused.stands());
            each.map(|(slice, paused)| (*slice, paused.due)).collect::<Vec<_>>()
        };
        for (slice, _) in told(&self.paused) {
            if before.get(&slice).is_none_or(|paused| !paused.stands()) {
                tracing::error!(%slice, "its machine is paused: there is no room for its disks");
            }
        }
        news |= told(&before) != told(&self.paused);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn it_is_tried_at_once_then_ever_more_seldom_and_never_given_up() {
        let begin = Instant::now();
        let (mut paused, mut tries) = (Paused::new(begin), Vec::new());
        // There seems to be room, and each time there is none.
        for second in 0..7200 {
            let now = begin + Duration::from_secs(second);
            paused = paused.seen(true, true, now).unwrap();
            if paused.is_due() {
                tries.push(second);
                paused.resumed(now);
                assert!(!paused.stands() && !paused.is_due());
            }
        }
        assert_eq!(tries[..6], [0, 10, 40, 130, 400, 1000]);
        assert_eq!(tries.len(), 5 + (7200 - 400_usize).div_ceil(600) - 1);
    }

    #[test]
    fn without_room_it_is_not_tried() {
        let begin = Instant::now();
        let paused = Paused::new(begin).seen(true, false, begin + LONGEST).unwrap();
        assert!(paused.stands() && !paused.is_due());
        assert!(paused.seen(true, true, begin + LONGEST).unwrap().is_due());
    }

    #[test]
    fn what_runs_on_is_forgotten_later_and_begins_anew() {
        let begin = Instant::now();
        let mut paused = Paused::new(begin).seen(true, true, begin).unwrap();
        paused.resumed(begin);
        let soon = begin + LONGEST - Duration::from_secs(1);
        let paused = paused.seen(false, true, soon).unwrap();
        assert!(!paused.stands());
        // Paused again before that, it is the same trouble.
        assert_eq!(paused.clone().seen(true, true, soon).unwrap().tries, 1);
        assert_eq!(paused.seen(false, true, begin + LONGEST), None);
    }

    #[test]
    fn how_much_is_enough_depends_on_how_much_there_is() {
        for (bytes, free, is) in [
            (1000 * GIB, GIB - 1, false),
            (1000 * GIB, GIB, true),
            (10 * GIB, GIB / 2, true),
            (10 * GIB, GIB / 2 - 1, false),
            (10 * GIB, 0, false),
        ] {
            assert_eq!(enough(Some(Room { bytes, free })), is, "{bytes} {free}");
        }
        assert!(enough(None));
    }
}
