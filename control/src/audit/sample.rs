//! A random sample of the log, for officers to look at, that anybody who has the log draws again. Pure.
//!
//! ```text
//!   … accesses of the period … │ review.close │ … │ review.draw: the entries of the sample
//!                                    │
//!                                    └─ seed = SHA-256("holm sample N\n" + root over all up to and with this entry)
//!
//!   the sample: of the period's accesses those with the lowest SHA-256(seed + index, 8 bytes, big-endian)
//! ```
//!
//! How many it is to be stands in `review.close`, and so does the id of holmd's own call, which is random: the seed is known to
//! nobody before that entry is in the log, and to all from then on. Each entry belongs to the one period that ends with the next
//! `review.close`, and of each period one sample counts: so nobody draws again until she likes it, and nobody does what she would
//! not have looked at in a time of which no sample is drawn. Who holds holmd's machine could write `review.close` until she likes
//! what comes, and would have to hold the log back from its witnesses meanwhile.

use super::entry::Entry;
use super::tree::Hash;
use aws_lc_rs::digest::{SHA256, digest};
use holm_proto::ids::Name;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The action of the entry that ends a period.
pub const CLOSE: &str = "review.close";
/// The action of the entry that has the sample.
pub const DRAW: &str = "review.draw";

/// What brings a person to a project's data, or data to her: what samples are drawn of, whatever came of it.
pub const ACCESSES: [&str; 11] = [
    "guest.login",
    "guest.sudo",
    "guest.transfer",
    "keys.escrow",
    "project.add-member",
    "slice.backup",
    "slice.connect",
    "slice.drill",
    "slice.recordings",
    "slice.restore",
    "slice.start",
];

/// Whether samples are drawn of it: what was only tried out gave nobody anything.
pub fn is_access<C>(entry: &Entry<C>) -> bool {
    ACCESSES.contains(&entry.action.as_str()) && entry.detail.get("dry_run").is_none()
}

/// The people that an entry is about: who did it, whom it was done to, and who a guest says that it was.
pub fn people(entry: &Entry) -> BTreeSet<Name> {
    let named = [&entry.actor, &entry.resource].into_iter().filter_map(|text| text.strip_prefix("person/"));
    let said =
        ["person", "user"].into_iter().filter_map(|field| entry.detail.get(field).and_then(Value::as_str));
    named.chain(said).filter_map(|name| name.parse().ok()).collect()
}

/// What decides of which entries the sample of this number is. `root`: over all up to and with the entry that ended its period.
pub fn seed(number: u32, root: &Hash) -> Hash {
    sha256(&[format!("holm sample {number}\n").as_bytes(), root].concat())
}

/// The sample, in the order of the log: of `from` as many as `count`, or all.
pub fn draw(seed: &Hash, from: impl IntoIterator<Item = u64>, count: usize) -> Vec<u64> {
    let mut lowest = BTreeSet::new();
    for index in from {
        lowest.insert((sha256(&[seed.as_slice(), &index.to_be_bytes()].concat()), index));
        if lowest.len() > count {
            lowest.pop_last();
        }
    }
    let mut sample: Vec<u64> = lowest.into_iter().map(|(_, index)| index).collect();
    sample.sort_unstable();
    sample
}

fn sha256(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// What an entry is to samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It may be in one.
    Access(u64),
    /// It ends a period, and says how many its sample has. `None`: it cannot be read.
    Close(Option<Close>),
    /// It has a sample.
    Draw(Option<Drawn>),
}

/// The end of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// Of the sample, from 1.
    pub review: u32,
    /// At most so many entries.
    pub entries: usize,
}

/// A sample, as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drawn {
    /// Its number.
    pub review: u32,
    /// The entry that ended its period.
    pub close: u64,
    /// Its entries.
    pub sample: Vec<u64>,
}

/// What this entry is to samples; `None`: nothing.
pub fn step<C>(entry: &Entry<C>) -> Option<Step> {
    // What somebody asks for under these names is refused, and ends nothing.
    let own = entry.actor == "holmd" && entry.outcome != "refused";
    match entry.action.as_str() {
        CLOSE if own => Some(Step::Close(serde_json::from_value(entry.detail.clone()).ok())),
        DRAW if own => Some(Step::Draw(serde_json::from_value(entry.detail.clone()).ok())),
        _ => is_access(entry).then_some(Step::Access(entry.index)),
    }
}

/// A sample that was drawn again from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrawn {
    /// Its number.
    pub review: u32,
    /// How many entries it has.
    pub entries: usize,
    /// They are those that follow from the log, and it was drawn once.
    pub good: bool,
}

/// Draws all samples of a log again, from its entries in their order. Where it lacks the beginning, those whose period is not
/// wholly there cannot be drawn, and nothing is said of them.
#[derive(Debug, Default)]
pub struct Redraw {
    /// Of the period that goes on.
    accesses: Vec<u64>,
    closed: u32,
    /// Of periods that ended, and whose samples have not come yet: the entry that ended them, and what comes out.
    expected: BTreeMap<u32, (u64, Vec<u64>)>,
    drawn: Vec<Redrawn>,
    lacking: Lacking,
}

/// What of the beginning is not there.
#[derive(Debug, Default)]
enum Lacking {
    /// Nothing.
    #[default]
    Nothing,
    /// Where the period began that goes on.
    Began,
    /// Periods up to and with this one, whose samples may come once each but for these.
    Periods(u32, BTreeSet<u32>),
}

impl Redraw {
    /// Before the first entry: there were others, which are gone.
    pub fn lacks_the_beginning(&mut self) {
        self.lacking = Lacking::Began;
    }

    /// A step about a period that began with what is gone.
    fn is_of_the_beginning(&mut self, step: &Step) -> bool {
        match step {
            Step::Close(Some(close)) if matches!(self.lacking, Lacking::Began) => {
                self.accesses.clear();
                self.closed = close.review;
                self.lacking = Lacking::Periods(close.review, BTreeSet::new());
                true
            }
            Step::Draw(Some(of)) => match &mut self.lacking {
                Lacking::Nothing => false,
                // Of a period that ended before.
                Lacking::Began => true,
                Lacking::Periods(last, drawn) => of.review <= *last && drawn.insert(of.review),
            },
            _ => false,
        }
    }

    /// The next entry, by its index. `root`: over all up to and with it.
    pub fn take(&mut self, index: u64, step: Step, root: impl FnOnce() -> Hash) {
        if self.is_of_the_beginning(&step) {
            return;
        }
        match step {
            Step::Access(index) => self.accesses.push(index),
            Step::Close(Some(close)) if close.review == self.closed + 1 => {
                let accesses = std::mem::take(&mut self.accesses);
                let sample = draw(&seed(close.review, &root()), accesses, close.entries);
                self.expected.insert(close.review, (index, sample));
                self.closed = close.review;
            }
            Step::Draw(Some(of)) => {
                let good = self.expected.remove(&of.review) == Some((of.close, of.sample.clone()));
                self.drawn.push(Redrawn { review: of.review, entries: of.sample.len(), good });
            }
            Step::Close(of) => self.drawn.push(Self::bad(of.map_or(0, |of| of.review))),
            Step::Draw(None) => self.drawn.push(Self::bad(0)),
        }
    }

    /// Something says that it ends a period or is a sample, and is none.
    fn bad(review: u32) -> Redrawn {
        Redrawn { review, entries: 0, good: false }
    }

    /// Every sample that the log has.
    pub fn finish(self) -> Vec<Redrawn> {
        self.drawn
    }
}
