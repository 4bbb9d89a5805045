//! A kill at each step of appends and of laying them down, and a disk that fails there.

use super::*;
use crate::audit::disk::faults::When;
use crate::audit::{LogError, Unflushed, verify};
use proptest::prelude::*;
use std::sync::Mutex;

/// From every kind of edge: none, partial tiles, tiles about to fill, tiles just filled; and what no journal takes.
const CASES: [(u64, u64); 7] = [(0, 1), (5, 6), (5, 300), (255, 256), (255, 257), (256, 257), (5, 600)];

/// A log just opened; made once for each size.
fn opened(size: u64) -> Scratch {
    static MADE: Mutex<BTreeMap<u64, BTreeMap<String, Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let dir = tempdir();
    let mut made = MADE.lock().unwrap();
    lay_out(&dir.path().join("log"), made.entry(size).or_insert_with(|| files(&Scratch::new(size).path())));
    let log = Log::open(&dir.path().join("log"), ORIGIN, key()).unwrap();
    Scratch { dir, log }
}

/// How an append ended, and how the flush after it.
type Ended = (Result<(), LogError>, Result<(), LogError>);

fn grown(scratch: &mut Scratch, to: u64) -> Ended {
    (scratch.log.append(&bodies(scratch.log.size(), to)), scratch.log.flush())
}

/// Operations that nothing disturbs.
fn operations(from: u64, to: u64) -> Vec<String> {
    let mut scratch = opened(from);
    scratch.log.faults().plan(None);
    scratch.grow(to);
    scratch.log.faults().done()
}

/// An append from one size to another, and a flush, that fail at a step.
fn disturbed(from: u64, to: u64, step: usize, when: When) -> (Scratch, Ended) {
    let mut scratch = opened(from);
    scratch.log.faults().plan(Some((step, when)));
    let ended = grown(&mut scratch, to);
    (scratch, ended)
}

fn each_step(mut test: impl FnMut(u64, u64, usize, When)) {
    for (from, to) in CASES {
        for step in 0..operations(from, to).len() {
            test(from, to, step, When::Before);
            test(from, to, step, When::After);
        }
    }
}

/// The log is what was appended, and nothing else is there.
fn assert_whole(scratch: &Scratch, size: u64) {
    assert_eq!(scratch.log.size(), size);
    assert_eq!(scratch.log.unflushed(), Unflushed::Nothing);
    assert_eq!(scratch.log.read(0, size).unwrap(), bodies(0, size));
    assert_eq!(verify::directory(&scratch.path(), &vkey()).unwrap().entries, size);
}

#[test]
fn the_order_of_an_append() {
    insta::assert_snapshot!(operations(255, 257).join("\n"));
}

#[test]
fn in_a_running_log_an_append_is_one_sync_and_a_flush_writes_what_has_changed() {
    let mut scratch = Scratch::new(300);
    scratch.grow(301);
    scratch.log.faults().plan(None);
    for size in 302..310 {
        scratch.log.append(&bodies(scratch.log.size(), size)).unwrap();
    }
    assert_eq!(scratch.log.faults().done(), ["write log.journal", "sync log.journal"].repeat(8));
    scratch.log.faults().plan(None);
    scratch.log.flush().unwrap();
    insta::assert_snapshot!(scratch.log.faults().done().join("\n"));
    scratch.log.flush().unwrap();
    assert_whole(&scratch, 309);
}

#[test]
fn what_is_in_the_journal_alone_is_read_and_proven_as_all_else() {
    let mut scratch = Scratch::new(200);
    let laid = files(&scratch.path());
    for size in [201, 256, 257, 300] {
        scratch.log.append(&bodies(scratch.log.size(), size)).unwrap();
    }
    assert_eq!(files(&scratch.path()), laid);
    let log = &scratch.log;
    assert_eq!(log.read(0, 300).unwrap(), bodies(0, 300));
    let head = crate::audit::Checkpoint::verify(log.checkpoint(), &vkey()).unwrap();
    assert_eq!((head.size, head.root), (300, log.root()));
    for index in [0, 199, 200, 255, 256, 299] {
        verify::inclusion(&head, index, &body(index), &log.inclusion(index).unwrap()).unwrap();
    }
    for size in [0, 1, 200, 255, 256, 257, 300] {
        let root = log.root_at(size).unwrap();
        assert_eq!(root, Scratch::new(size).log.root(), "{size}");
        let old = crate::audit::Checkpoint { size, root, ..head.clone() };
        verify::consistency(&old, &head, &log.consistency(size).unwrap()).unwrap();
    }
    assert!(log.root_at(301).is_err());
    assert_whole(&scratch.reopen(), 300);
}

#[test]
fn a_panic_while_it_is_laid_down_leaves_no_hole() {
    let mut scratch = Scratch::new(200);
    scratch.log.append(&bodies(200, 260)).unwrap();
    for _ in 0..2 {
        scratch.log.faults().panic();
        let flushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| scratch.log.flush()));
        assert!(flushed.is_err());
    }
    scratch.log.append(&bodies(260, 261)).unwrap();
    scratch.log.flush().unwrap();
    assert_whole(&scratch.reopen(), 261);
}

#[test]
fn a_journal_that_is_full_is_laid_down_and_begun_again() {
    let mut scratch = Scratch::new(0);
    scratch.log.faults().plan(None);
    let mut much = 0;
    // Each takes a block of 4 KiB, of 32.
    for size in 1..=70 {
        scratch.log.append(&bodies(size - 1, size)).unwrap();
        much += usize::from(scratch.log.unflushed() == Unflushed::Much);
    }
    let laid = scratch.log.faults().done().iter().filter(|op| *op == "rename checkpoint.new").count();
    assert_eq!((laid, much), (2, 32), "of 32 in a journal more than 16 are much");
    assert_whole(&scratch.reopen(), 70);
}

#[test]
fn what_is_appended_while_the_rest_is_laid_down_stays_in_the_journal_wherever_it_lies() {
    let mut scratch = Scratch::new(0);
    // A block each, or three, of 32: round and round, and never over what is not laid down.
    for round in 0..60 {
        let size = scratch.log.size();
        scratch.log.append(&bodies(size, size + 1)).unwrap();
        let flush = scratch.log.to_flush().unwrap();
        let then = size + 2 + round % 2 * 25;
        scratch.log.append(&bodies(size + 1, then)).unwrap();
        flush.run().unwrap();
        assert_eq!(verify::directory(&scratch.path(), &vkey()).unwrap().entries, size + 1);
        assert_eq!(scratch.log.unflushed(), Unflushed::Some);
        assert_eq!(scratch.log.read(0, then).unwrap(), bodies(0, then));
        if round % 7 == 6 {
            scratch = scratch.reopen();
            assert_whole(&scratch, then);
        }
    }
    // One that was made before another, and comes after it.
    let size = scratch.log.size();
    let early = scratch.log.to_flush().unwrap();
    scratch.grow(size + 1);
    early.run().unwrap();
    assert_whole(&scratch, size + 1);
    // Read as it was.
    let view = scratch.log.view();
    scratch.grow(size + 300);
    assert_eq!((view.size(), view.read(0, size + 1).unwrap()), (size + 1, bodies(0, size + 1)));
    assert_whole(&scratch.reopen(), size + 300);
}

#[test]
fn what_failed_can_be_done_again() {
    each_step(|from, to, step, when| {
        let (mut scratch, (appended, flushed)) = disturbed(from, to, step, when);
        if appended.is_err() {
            // As it was, and readable, while the disk is broken.
            assert_eq!(scratch.log.size(), from);
            assert_eq!(scratch.log.read(0, from).unwrap(), bodies(0, from));
            assert!(scratch.log.append(&bodies(from, to)).is_err(), "the disk is still broken");
            scratch.log.faults().plan(None);
            scratch.log.append(&bodies(from, to)).unwrap();
        } else if flushed.is_err() {
            assert_eq!(scratch.log.read(0, to).unwrap(), bodies(0, to));
            assert!(scratch.log.flush().is_err(), "the disk is still broken");
        }
        scratch.log.faults().plan(None);
        assert_eq!(scratch.log.read(0, to).unwrap(), bodies(0, to));
        scratch.log.flush().unwrap();
        assert_whole(&scratch, to);
        assert_whole(&scratch.reopen(), to);
    });
}

#[test]
fn after_a_kill_nothing_acknowledged_is_missing_and_nothing_is_there_in_part() {
    each_step(|from, to, step, when| {
        let (scratch, (appended, _)) = disturbed(from, to, step, when);
        let mut scratch = scratch.reopen();
        let size = scratch.log.size();
        assert!(size == to || (size == from && appended.is_err()), "{size} at step {step} of {from} to {to}");
        assert_eq!(scratch.log.read(0, size).unwrap(), bodies(0, size));
        // It goes on, and nothing of the kill is left.
        scratch.grow(to + 1);
        assert_whole(&scratch, to + 1);
    });
}

#[test]
fn appends_go_on_while_what_they_wrote_cannot_be_laid_down() {
    for step in 0..operations(250, 260).len() - 2 {
        let mut scratch = opened(250);
        scratch.log.append(&bodies(250, 260)).unwrap();
        scratch.log.faults().plan(Some((step, When::After)));
        let flushed = scratch.log.flush().is_ok();
        scratch.log.faults().plan(None);
        scratch.log.append(&bodies(260, 270)).unwrap();
        assert_eq!(scratch.log.read(0, 270).unwrap(), bodies(0, 270), "flushed: {flushed}");
        // Killed now: the checkpoint may be in place, and the journal goes on behind it.
        let mut scratch = scratch.reopen();
        assert_whole(&scratch, 270);
        scratch.grow(520);
        assert_whole(&scratch, 520);
    }
}

#[test]
fn a_log_signs_no_second_history() {
    for (to, step, when) in [
        (6, 0, When::Before),
        (6, 0, When::After),
        (6, 1, When::Before),
        (6, 1, When::After),
        (600, 0, When::Before),
    ] {
        let (mut scratch, (appended, flushed)) = disturbed(5, to, step, when);
        assert!(appended.is_err());
        assert!(matches!(flushed, Err(LogError::Doubtful)), "what may be durable is not passed over");
        scratch.log.faults().plan(None);
        let refused = scratch.log.append(&[b"something else".to_vec()]).unwrap_err();
        assert!(matches!(refused, LogError::Doubtful), "{refused}");
        assert!(matches!(scratch.log.append(&bodies(5, to + 1)), Err(LogError::Doubtful)));
        scratch.log.append(&bodies(5, to)).unwrap();
        scratch.grow(to + 1);
        assert_whole(&scratch, to + 1);
    }
    // Where there was no room, and none could be made, nothing was signed that anybody could have seen.
    let mut scratch = opened(5);
    scratch.log.append(&bodies(5, 300)).unwrap();
    scratch.log.faults().plan(Some((0, When::Before)));
    assert!(matches!(scratch.log.append(&bodies(300, 500)), Err(LogError::Disk(_))));
    scratch.log.faults().plan(None);
    scratch.grow(301);
    assert_whole(&scratch, 301);
}

#[test]
fn what_a_kill_left_behind_is_verified_where_it_can_be_and_named_where_not() {
    let steps = operations(5, 6);
    let removed = steps.iter().position(|op| op.starts_with("remove")).unwrap();
    let (scratch, ended) = disturbed(5, 6, removed, When::Before);
    assert!(matches!(ended, (Ok(()), Ok(()))), "what is not tidied up is no failure");
    verify::directory(&scratch.path(), &vkey()).unwrap();
    let older = scratch.path().join("tile/entries/000.p/5");
    let mut bytes = fs::read(&older).unwrap();
    bytes[9] ^= 1;
    fs::write(&older, bytes).unwrap();
    let error = verify::directory(&scratch.path(), &vkey()).unwrap_err().to_string();
    assert_eq!(error, "`tile/entries/000.p/5` is older than the checkpoint and does not agree with it");

    let signed = steps.iter().position(|op| op == "write checkpoint.new").unwrap();
    let (scratch, (_, flushed)) = disturbed(5, 6, signed, When::Before);
    assert!(flushed.is_err());
    let error = verify::directory(&scratch.path(), &vkey()).unwrap_err().to_string();
    assert!(error.starts_with("`tile/0/000.p/6` is no part of the log up to its checkpoint"), "{error}");
}

/// What happens to a log.
#[derive(Debug, Clone)]
enum Event {
    Append(u64),
    Flush,
    /// Laid down while so many are appended.
    FlushBeside(u64),
    /// Closed and opened again.
    Kill,
    /// The same, in the middle of an append and a flush.
    KillIn(u64, usize, bool),
    /// A disk that is broken for a while.
    Fail(usize, bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => prop_oneof![5 => 1..4u64, 1 => 200..450u64].prop_map(Event::Append),
        2 => Just(Event::Flush),
        2 => prop_oneof![1..4u64, 200..450u64].prop_map(Event::FlushBeside),
        1 => Just(Event::Kill),
        2 => (1..4u64, 0..20usize, any::<bool>()).prop_map(|(n, step, after)| Event::KillIn(n, step, after)),
        1 => (0..20usize, any::<bool>()).prop_map(|(step, after)| Event::Fail(step, after)),
    ];
    proptest::collection::vec(event, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_is_what_was_appended(events in events()) {
        let mut scratch = Scratch::new(0);
        let mut size = 0;
        let when = |after| if after { When::After } else { When::Before };
        for event in events {
            match event {
                Event::Append(n) => {
                    scratch.log.append(&bodies(size, size + n)).unwrap();
                    size += n;
                }
                Event::Flush => scratch.log.flush().unwrap(),
                Event::FlushBeside(n) => {
                    let flush = scratch.log.to_flush().unwrap();
                    scratch.log.append(&bodies(size, size + n)).unwrap();
                    size += n;
                    flush.run().unwrap();
                }
                Event::Kill => scratch = scratch.reopen(),
                Event::KillIn(n, step, after) => {
                    scratch.log.faults().plan(Some((step, when(after))));
                    let (appended, _) = grown(&mut scratch, size + n);
                    scratch = scratch.reopen();
                    let now = scratch.log.size();
                    prop_assert!(now == size + n || (now == size && appended.is_err()), "{now} after {size} + {n}");
                    size = now;
                }
                Event::Fail(step, after) => {
                    scratch.log.faults().plan(Some((step, when(after))));
                    let _ = scratch.log.flush();
                    scratch.log.faults().plan(None);
                }
            }
            prop_assert_eq!(scratch.log.size(), size);
            let start = size.saturating_sub(300);
            prop_assert_eq!(scratch.log.read(start, size).unwrap(), bodies(start, size));
        }
        scratch.log.flush().unwrap();
        prop_assert_eq!(verify::directory(&scratch.path(), &vkey()).unwrap().entries, size);
    }
}
