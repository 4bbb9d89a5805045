//! Other GPUs, CPUs and memory for a slice that is there, from its next start on. Its disks are [`super::disks`]' business.
//!
//! ```text
//!   asked for ── no more than it has of anything ──▶ its next size ── stands still: at once ──▶ its size
//!       │                                              ▲         └─── runs: when it is started again
//!       └─ more ──▶ waits ── approved ×n ──────────────┘
//!                     └──── rejected, withdrawn, too late: as it was
//! ```
//!
//! What waits for approval is an [`Extension`] with a size: approved, rejected and forgotten as more time is ([`lease`]).

use super::records::{Change, Extension, Size, Slice, SliceState};
use super::slice::{self, put};
use super::{Refusal, RefusalKind, lease};
use holm_proto::ids::Name;
use jiff::Timestamp;

impl Slice {
    /// What it was approved with.
    pub fn size(&self) -> Size {
        Size { gpus: self.gpus, vcpus: self.vcpus, memory_mib: self.memory_mib }
    }
}

impl Size {
    /// Of something more than the other has.
    fn exceeds(self, other: Self) -> bool {
        self.gpus > other.gpus || self.vcpus > other.vcpus || self.memory_mib > other.memory_mib
    }
}

/// Its lead wants another size.
pub fn ask(s: &Slice, size: Size, by: &Name, comment: &str, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    if s.home().is_none() {
        slice::demand(s, &SliceState::OPEN, "resized")?;
    }
    let more = size.exceeds(s.size());
    // More time that waits is not in the way of less.
    if more || s.extension.as_ref().is_some_and(|asked| asked.size.is_some()) {
        lease::nothing_asked(s)?;
    }
    slice::bounded(u64::from(size.vcpus), size.memory_mib)?;
    if s.resized.unwrap_or_else(|| s.size()) == size {
        let when =
            if s.resized.is_some() { "it gets that size at its next start" } else { "it has that size" };
        return Err(Refusal::new(RefusalKind::State, format!("{when} already")));
    }
    if more {
        let (by, comment) = (by.clone(), comment.to_owned());
        let asked = Extension { by, at: now, comment, approvals: Vec::new(), size: Some(size) };
        return Ok(put(Slice { extension: Some(asked), reason: lease::unanswered(s), ..s.clone() }));
    }
    let mut next = Slice { reason: lease::unanswered(s), ..s.clone() };
    give(&mut next, size, now);
    Ok(put(next))
}

/// It has that size from its next start on.
pub(super) fn give(next: &mut Slice, size: Size, now: Timestamp) {
    if next.home().is_some() && size.exceeds(next.size()) {
        // What is larger has not waited so long for its turn.
        next.changed = now;
    }
    next.resized = Some(size).filter(|size| *size != next.size());
    if next.state == SliceState::Stopped || next.home().is_some() {
        take(next);
    }
}

/// It stands still.
pub(super) fn take(next: &mut Slice) {
    if let Some(Size { gpus, vcpus, memory_mib }) = next.resized.take() {
        next.end_span();
        // Those of before slices changed their size do not say it.
        for span in &mut next.past {
            span.gpus.get_or_insert(next.gpus);
        }
        (next.gpus, next.vcpus, next.memory_mib) = (gpus, vcpus, memory_mib);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::State;
    use crate::domain::lease::{approve, drop_extension};
    use crate::domain::records::{Placement, Record};
    use crate::domain::slice::{Demands, start};
    use crate::domain::tests::requested;
    use proptest::prelude::*;

    const DEMANDS: Demands<'static> = Demands { approvals: 2, outside: None, lease_days: 0 };

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    /// On a host since second 0, with four GPUs.
    fn slice(state: SliceState) -> Slice {
        let placement = Placement { host: name("dgx"), partition: 0, devices: Vec::new(), nodes: Vec::new() };
        let (placement, placed) = (Some(placement), Some(at(0)));
        Slice { state, placement, placed, vcpus: 8, memory_mib: 4096, ..requested(1, 4, 2, 0) }
    }

    fn done(s: &mut Slice, changes: Result<Vec<Change>, Refusal>) -> bool {
        let Ok(changes) = changes else { return false };
        for change in changes {
            if let Change::Put(Record::Slice(next)) = change {
                *s = *next;
            }
        }
        true
    }

    fn size(gpus: u32) -> Size {
        Size { gpus, vcpus: gpus * 2, memory_mib: u64::from(gpus) * 1024 }
    }

    #[test]
    fn what_it_used_before_stays_what_it_used() {
        let mut s = Slice { released: Some(at(3600)), ..slice(SliceState::Stopped) };
        let changes = ask(&s, size(1), &name("dina"), "", at(4000));
        assert!(done(&mut s, changes));
        assert_eq!((s.size(), s.resized), (size(1), None));
        assert_eq!(crate::usage::held(&s, at(0), at(9000), at(9000)), 4.0);
        let changes = ask(&s, size(2), &name("dina"), "", at(4000));
        assert!(done(&mut s, changes));
        for officer in ["frida", "gustav"] {
            let changes = approve(&s, DEMANDS, &name(officer), "", at(5000));
            assert!(done(&mut s, changes));
        }
        assert_eq!(s.size(), size(2));
        assert_eq!(crate::usage::held(&s, at(0), at(9000), at(9000)), 4.0);
        assert_eq!(
            (s.approvals.len(), s.enlarged.len()),
            (0, 2),
            "those who approved what it is now are beside the others"
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let s = slice(SliceState::Ready);
        let ask = |size| ask(&s, size, &name("dina"), "", at(1)).unwrap_err().kind;
        assert_eq!(ask(s.size()), RefusalKind::State);
        assert_eq!(ask(Size { vcpus: 0, ..s.size() }), RefusalKind::Invalid);
        assert_eq!(ask(Size { vcpus: u32::MAX, ..s.size() }), RefusalKind::Invalid);
        assert_eq!(ask(Size { memory_mib: 1, ..s.size() }), RefusalKind::Invalid);
        for state in [SliceState::Requested, SliceState::Kept, SliceState::Closing, SliceState::Destroyed] {
            let s = Slice { placement: None, ..slice(state) };
            assert!(super::ask(&s, size(1), &name("dina"), "", at(1)).is_err(), "{state:?}");
        }
    }

    /// What it has from its next start on.
    fn next(s: &Slice) -> Size {
        s.resized.unwrap_or_else(|| s.size())
    }

    proptest! {
        /// Whatever is asked for and decided in whatever order: more than it has, only what two officers approved; and what
        /// runs keeps what it has.
        #[test]
        fn nobody_gets_more_than_was_approved(steps in proptest::collection::vec((0u8..7, 1u32..9), 1..40)) {
            let mut s = slice(SliceState::Ready);
            for (second, (step, gpus)) in (1..).zip(steps) {
                let (before, now) = (s.clone(), at(second));
                match step {
                    0 | 1 => drop(done(&mut s, ask(&before, size(gpus), &name("dina"), "", now))),
                    2 => drop(done(&mut s, approve(&before, DEMANDS, &name("frida"), "", now))),
                    3 => drop(done(&mut s, approve(&before, DEMANDS, &name("gustav"), "", now))),
                    4 => prop_assert!(!done(&mut s, approve(&before, DEMANDS, &name("dina"), "", now))),
                    5 => drop(done(&mut s, drop_extension(&before, "rejected"))),
                    _ if s.state == SliceState::Ready => {
                        (s.state, s.released) = (SliceState::Stopped, Some(now));
                    }
                    _ => {
                        prop_assert!(done(&mut s, start(&State::default(), &before, None, now)));
                        prop_assert_eq!((s.size(), s.resized), (next(&before), None));
                        (s.state, s.placed, s.released) = (SliceState::Ready, Some(now), None);
                    }
                }
                if next(&s) != next(&before) && next(&s).exceeds(before.size()) {
                    let asked = before.extension.as_ref().unwrap();
                    prop_assert_eq!((asked.size, asked.approvals.len()), (Some(next(&s)), 1));
                    prop_assert!(s.extension.is_none() && s.enlarged.len() == 2);
                    prop_assert_ne!(&s.enlarged[0].by, &s.enlarged[1].by);
                }
                if before.state == SliceState::Ready {
                    prop_assert_eq!((s.size(), s.changed), (before.size(), before.changed));
                }
            }
        }
    }
}
