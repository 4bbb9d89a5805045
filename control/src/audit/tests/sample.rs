//! Samples: drawn again from the log alone, by ours and by `deploy/docs/draw-sample.py`.

use super::*;
use crate::audit::sample::{self, ACCESSES, Redrawn};
use crate::audit::verify;
use proptest::prelude::*;
use serde_json::json;

const DRAWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/docs/draw-sample.py");

/// What happens in a log: somebody comes to data or only looks, or a period ends and its sample is drawn.
#[derive(Debug, Clone, Copy)]
enum What {
    Access(u8),
    Tried(u8),
    Look,
    Period(usize),
}

fn what() -> impl Strategy<Value = What> {
    let n = ACCESSES.len() as u8;
    prop_oneof![
        6 => (0..n).prop_map(What::Access),
        1 => (0..n).prop_map(What::Tried),
        3 => Just(What::Look),
        1 => (1..5_usize).prop_map(What::Period),
    ]
}

struct Drawn {
    scratch: Scratch,
    from: u64,
    number: u32,
}

impl Drawn {
    fn log(all: &[What]) -> Self {
        let mut drawn = Self { scratch: Scratch::new(0), from: 0, number: 0 };
        all.iter().for_each(|what| drawn.happens(*what));
        drawn
    }

    fn add(&mut self, actor: &str, action: &str, detail: serde_json::Value) -> u64 {
        let index = self.scratch.log.size();
        let entry = Entry { actor: actor.to_owned(), action: action.to_owned(), detail, ..entry(index) };
        self.scratch.log.append(&[entry.to_bytes().unwrap()]).unwrap();
        index
    }

    fn happens(&mut self, what: What) {
        let (action, detail) = match what {
            What::Access(n) => (ACCESSES[usize::from(n)], json!({ "n": n })),
            What::Tried(n) => (ACCESSES[usize::from(n)], json!({ "dry_run": true })),
            What::Look => ("slice.read", json!(null)),
            What::Period(count) => {
                let close = self.close(count);
                let sample = self.sample(close, count);
                return self.draw(close, &sample);
            }
        };
        self.add("person/rosa", action, detail);
    }

    fn close(&mut self, count: usize) -> u64 {
        self.number += 1;
        self.add("holmd", sample::CLOSE, json!({ "review": self.number, "entries": count }))
    }

    /// As holmd draws it.
    fn sample(&self, close: u64, count: usize) -> Vec<u64> {
        let seed = sample::seed(self.number, &self.scratch.log.root_at(close + 1).unwrap());
        let bodies = self.scratch.log.read(self.from, close).unwrap();
        let all = bodies.iter().map(|body| Entry::from_bytes(body).unwrap());
        sample::draw(&seed, all.filter(sample::is_access).map(|entry| entry.index), count)
    }

    fn draw(&mut self, close: u64, sample: &[u64]) {
        self.add("holmd", sample::DRAW, json!({ "review": self.number, "close": close, "sample": sample }));
        self.from = close + 1;
    }

    /// What both ways to verify and the program in Python say of its samples, which is the same.
    fn redrawn(mut self) -> Vec<Redrawn> {
        self.scratch.log.flush().unwrap();
        let path = self.scratch.path();
        let copy = verify::directory(&path, &vkey()).unwrap();
        if copy.gone.is_none() {
            let bodies = self.scratch.log.read(0, self.scratch.log.size()).unwrap();
            let came = verify::entries(self.scratch.log.checkpoint(), &vkey(), bodies).unwrap();
            assert_eq!(copy, came);
        }
        let said = agree::python([DRAWS, path.to_str().unwrap()]).output().unwrap();
        let all_good = copy.samples.iter().all(|sample| sample.good);
        assert_eq!(
            said.status.code(),
            Some(i32::from(!all_good)),
            "{}",
            String::from_utf8_lossy(&said.stderr)
        );
        let line = |s: &Redrawn| {
            let word = if s.good { "follows" } else { "DOES NOT FOLLOW" };
            format!("sample {}: {} entries, {word} from the log\n", s.review, s.entries)
        };
        let expected: String = copy.samples.iter().map(line).collect();
        assert_eq!(String::from_utf8(said.stdout).unwrap(), expected);
        copy.samples
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_was_drawn_is_drawn_again(all in prop::collection::vec(what(), 0..600)) {
        let periods = all.iter().filter(|what| matches!(what, What::Period(_))).count();
        let redrawn = Drawn::log(&all).redrawn();
        prop_assert_eq!(redrawn.len(), periods);
        prop_assert!(redrawn.iter().all(|sample| sample.good));
    }

    /// It is of the accesses, as many as are wanted, each once, and no choice of who asks for fewer.
    #[test]
    fn a_smaller_sample_is_a_part_of_a_larger_one(seed: [u8; 32], of in prop::collection::btree_set(any::<u64>(), 0..200), count in 0..60_usize) {
        let sample = sample::draw(&seed, of.iter().copied(), count);
        prop_assert_eq!(sample.len(), count.min(of.len()));
        prop_assert!(sample.iter().all(|index| of.contains(index)) && sample.is_sorted());
        let larger = sample::draw(&seed, of.iter().copied(), count + 1);
        prop_assert!(sample.iter().all(|index| larger.contains(index)));
    }
}

#[test]
fn of_what_is_gone_nothing_is_said_and_all_else_is_drawn_again() {
    // Each period has 301 entries and two of its own: of the third the beginning is gone, of the fourth nothing is.
    let periods: Vec<What> =
        (0..4).flat_map(|_| month().into_iter().chain([What::Look, What::Period(5)])).collect();
    let expired = |change: &dyn Fn(&mut Drawn)| {
        let mut drawn = Drawn::log(&periods);
        change(&mut drawn);
        drawn.add("holmd", crate::audit::EXPIRE, json!({ "first": 768 }));
        drawn.scratch.log.flush().unwrap();
        drawn.scratch.log.to_expire(768, drawn.scratch.log.size()).unwrap().run().unwrap();
        drawn.redrawn().into_iter().map(|sample| (sample.review, sample.good)).collect::<Vec<_>>()
    };
    assert_eq!(expired(&|_| {}), [(4, true)]);
    let draw = |number: u32, close: u64| {
        move |drawn: &mut Drawn| {
            drawn.add(
                "holmd",
                sample::DRAW,
                json!({ "review": number, "close": close, "sample": [close - 1] }),
            );
        }
    };
    // Once more of one whose own is gone or cannot be drawn; and another of one that can.
    assert_eq!(expired(&draw(3, 907)), [(4, true), (3, false)]);
    assert_eq!(expired(&draw(4, 1210)), [(4, true), (4, false)]);
    assert_eq!(expired(&draw(5, 1210)), [(4, true), (5, false)]);
}

fn month() -> Vec<What> {
    (0..300).map(|n| if n % 3 == 0 { What::Look } else { What::Access(n as u8 % 10) }).collect()
}

#[test]
fn a_sample_that_somebody_chose_does_not_follow_from_the_log() {
    // Of an entry that was drawn another.
    let mut chosen = Drawn::log(&month());
    let close = chosen.close(5);
    let mut sample = chosen.sample(close, 5);
    sample[2] = (0..close).find(|n| n % 3 != 0 && !sample.contains(n)).unwrap();
    sample.sort_unstable();
    chosen.draw(close, &sample);
    assert_eq!(chosen.redrawn(), [Redrawn { review: 1, entries: 5, good: false }]);

    // Drawn again, until it is liked: of one period one sample counts.
    let mut again = Drawn::log(&month());
    let close = again.close(5);
    let sample = again.sample(close, 5);
    again.draw(close, &sample);
    again.draw(close, &sample);
    let good: Vec<bool> = again.redrawn().iter().map(|sample| sample.good).collect();
    assert_eq!(good, [true, false]);

    // Ended again: with the number of the one before, or one left out.
    for number in [0, 1, 3] {
        let mut twice = Drawn::log(&month());
        let close = twice.close(5);
        let sample = twice.sample(close, 5);
        twice.draw(close, &sample);
        twice.add("holmd", sample::CLOSE, json!({ "review": number, "entries": 5 }));
        assert!(twice.redrawn().iter().any(|sample| !sample.good), "{number}");
    }

    // One that nobody can read, and one by somebody else, who ends nothing.
    let mut other = Drawn::log(&month());
    other.add("person/frida", sample::CLOSE, json!({ "review": 1, "entries": 5 }));
    other.happens(What::Period(5));
    assert_eq!(other.redrawn(), [Redrawn { review: 1, entries: 5, good: true }]);
    let mut torn = Drawn::log(&month());
    torn.add("holmd", sample::CLOSE, json!({ "review": "1" }));
    assert_eq!(torn.redrawn(), [Redrawn { review: 0, entries: 0, good: false }]);
}
