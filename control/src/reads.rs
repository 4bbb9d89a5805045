//! Reads, of which every one is in the log and not every one an entry: of the same by the same person from the same address the
//! first is one, and how often it was read again in the minutes after that is said by the next. So that who looks each second, or a
//! program that does, is seen and fills nothing.
//!
//! ```text
//!   first ──▶ an entry, durable ──▶ answered ──▶ again, within minutes: counted ──▶ answered
//!                                                      │
//!                     the next entry of the same ◀─────┴─────▶ read no more: an entry that says how often, and when last
//! ```

use crate::ledger::Call;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So long after an entry the same is only counted.
pub const COUNTED: SignedDuration = SignedDuration::from_mins(10);
/// So much of one person's is counted apart. What else she reads meanwhile is counted together.
const MOST: usize = 500;

/// Who.
type Actor = String;
/// From where, what, to what. Without what and to what: all that is not counted apart.
type What = (String, &'static str, String);

#[derive(Debug)]
struct Again {
    since: Timestamp,
    times: u64,
    last: Call,
    at: Timestamp,
}

/// What was read of late.
#[derive(Debug, Default)]
pub struct Reads(Mutex<BTreeMap<Actor, BTreeMap<What, Again>>>);

/// A read that is to be an entry.
#[derive(Debug)]
pub struct Entry {
    what: What,
    /// How often it was read since the one before.
    pub times: u64,
}

/// What was counted and is to be said.
#[derive(Debug)]
pub struct Over {
    what: What,
    /// The last of them.
    pub call: Call,
    /// How many there were.
    pub times: u64,
    /// When the last was.
    pub last: Timestamp,
}

impl Reads {
    /// It is read once more. `None`: it is counted; otherwise an entry is to be written, and then [`Self::written`].
    pub fn once_more(&self, call: &Call, now: Timestamp) -> Option<Entry> {
        let mut all = self.all();
        let nothing = &mut BTreeMap::new();
        let hers = all.get_mut(&call.actor).unwrap_or(nothing);
        let what = place(hers, call);
        match hers.get_mut(&what) {
            Some(again) if counts(again, now) => {
                again.times += 1;
                (again.last, again.at) = (call.clone(), now);
                None
            }
            known => {
                let times = known.map_or(0, |again| again.times);
                Some(Entry { what, times })
            }
        }
    }

    /// The entry of this read is durable.
    pub fn written(&self, call: &Call, entry: Entry, now: Timestamp) {
        let mut all = self.all();
        let hers = all.entry(call.actor.clone()).or_default();
        let left = hers.get(&entry.what).map_or(0, |again| again.times.saturating_sub(entry.times));
        hers.insert(entry.what, Again { since: now, times: left, last: call.clone(), at: now });
    }

    /// What was counted and is read no more. What was never read again is forgotten.
    pub fn over(&self, now: Timestamp) -> Vec<Over> {
        let mut all = self.all();
        for hers in all.values_mut() {
            hers.retain(|_, again| counts(again, now) || again.times > 0);
        }
        all.retain(|_, hers| !hers.is_empty());
        let over = all.values().flatten().filter(|(_, again)| !counts(again, now));
        over.map(Over::of).collect()
    }

    /// All that was counted and not yet said.
    pub fn rest(&self) -> Vec<Over> {
        self.all().values().flatten().filter(|(_, again)| again.times > 0).map(Over::of).collect()
    }

    /// That they were so many is durable.
    pub fn said(&self, over: Over) {
        let mut all = self.all();
        let Some(hers) = all.get_mut(&over.call.actor) else { return };
        if let Some(again) = hers.get_mut(&over.what) {
            again.times = again.times.saturating_sub(over.times);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Actor, BTreeMap<What, Again>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Over {
    fn of((what, again): (&What, &Again)) -> Self {
        Self { what: what.clone(), call: again.last.clone(), times: again.times, last: again.at }
    }
}

/// Of an entry of a read: how many were none of their own since the one before.
pub fn again(times: u64) -> Value {
    if times == 0 { Value::Null } else { json!({ "again": times }) }
}

/// The same of what is read no more: this entry is no read itself.
pub fn over(times: u64, last: Timestamp) -> Value {
    json!({ "again": times, "last": last, "over": true })
}

/// Also by a clock that was set back.
fn counts(again: &Again, now: Timestamp) -> bool {
    now.duration_since(again.since).abs() < COUNTED
}

/// Where it is counted.
fn place(hers: &BTreeMap<What, Again>, call: &Call) -> What {
    // The port is another each time.
    let from =
        call.peer.parse::<SocketAddr>().map_or_else(|_| call.peer.clone(), |peer| peer.ip().to_string());
    let what = (from, call.action, call.resource.clone());
    if hers.contains_key(&what) || hers.len() < MOST { what } else { (String::new(), "", String::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(actor: &str, resource: &str) -> Call {
        let peer = "192.0.2.1:5000".to_owned();
        Call { actor: actor.to_owned(), peer, ..Call::own("slice.read", resource.to_owned()) }
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
    }

    /// As a call does it where the log can be written.
    fn read(reads: &Reads, call: &Call, now: Timestamp) -> Option<u64> {
        let entry = reads.once_more(call, now)?;
        let times = entry.times;
        reads.written(call, entry, now);
        Some(times)
    }

    #[test]
    fn the_first_is_an_entry_and_the_next_says_how_many_were_between() {
        let reads = Reads::default();
        let (ida, bo) = (call("person/ida", "slice/heart/main"), call("person/bo", "slice/heart/main"));
        assert_eq!(read(&reads, &ida, at(0)), Some(0));
        assert_eq!(read(&reads, &bo, at(0)), Some(0), "another person");
        assert_eq!(read(&reads, &call("person/ida", "slice/heart/other"), at(0)), Some(0), "something else");
        let elsewhere = Call { peer: "198.51.100.7:5000".to_owned(), ..ida.clone() };
        assert_eq!(read(&reads, &elsewhere, at(0)), Some(0), "from elsewhere");
        for minute in [1, 5, 9] {
            let port = Call { peer: format!("192.0.2.1:{minute}"), ..ida.clone() };
            assert_eq!(read(&reads, &port, at(minute)), None);
        }
        assert_eq!(read(&reads, &ida, at(10)), Some(3));
        assert_eq!(read(&reads, &ida, at(11)), None);
        assert_eq!(read(&reads, &ida, at(-60)), Some(1), "by a clock that was set back");
    }

    #[test]
    fn what_is_read_no_more_is_said_once() {
        let reads = Reads::default();
        let (ida, bo) = (call("person/ida", "slice/heart/main"), call("person/bo", "slice/heart/main"));
        read(&reads, &bo, at(0));
        for minute in 0..4 {
            read(&reads, &ida, at(minute));
        }
        assert!(reads.over(at(9)).is_empty());
        let over = reads.over(at(10));
        assert_eq!(reads.over(at(10)).len(), 1, "until it is durable");
        let [over] = <[Over; 1]>::try_from(over).unwrap();
        assert_eq!((over.call.actor.as_str(), over.times, over.last), ("person/ida", 3, at(3)));
        reads.said(over);
        assert!(reads.over(at(10)).is_empty() && reads.all().is_empty());
        assert_eq!(read(&reads, &ida, at(11)), Some(0));
        read(&reads, &ida, at(11));
        let [rest] = <[Over; 1]>::try_from(reads.rest()).unwrap();
        reads.said(rest);
        assert!(reads.rest().is_empty());
    }

    #[test]
    fn before_its_entry_is_durable_nothing_is_counted_and_nothing_that_was_is_lost() {
        let reads = Reads::default();
        let ida = call("person/ida", "slice/heart/main");
        let first = reads.once_more(&ida, at(0)).unwrap();
        assert!(reads.once_more(&ida, at(0)).is_some(), "the first may not become durable");
        reads.written(&ida, first, at(0));
        assert_eq!(read(&reads, &ida, at(1)), None);
        assert_eq!(reads.once_more(&ida, at(20)).unwrap().times, 1);
        let second = reads.once_more(&ida, at(21)).unwrap();
        assert_eq!(second.times, 1, "that one was not written");
        reads.written(&ida, second, at(21));
        assert_eq!(read(&reads, &ida, at(22)), None);
        assert_eq!(read(&reads, &ida, at(40)), Some(1));
    }

    #[test]
    fn who_reads_very_much_fills_neither_memory_nor_log() {
        let reads = Reads::default();
        let each = |number| call("person/ida", &format!("slice/heart/{number}"));
        let entries = (0..3 * MOST).filter(|number| read(&reads, &each(*number), at(0)).is_some()).count();
        assert_eq!(entries, MOST + 1);
        assert_eq!(reads.all()["person/ida"].len(), MOST + 1);
        assert_eq!(read(&reads, &call("person/bo", "slice/heart/main"), at(0)), Some(0), "nobody else's");
        let over = reads.over(at(10));
        let times: u64 = over.iter().map(|over| over.times).sum();
        assert_eq!(times, 2 * MOST as u64 - 1, "and none is uncounted");
        // Also now that there is room again.
        over.into_iter().for_each(|over| reads.said(over));
        assert!(reads.over(at(10)).is_empty());
    }
}
