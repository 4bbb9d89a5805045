//! What the log has of what a slice's guest claims, and what of the next claim is an entry. Pure.
//!
//! ```text
//!   another run of the guest ──▶ guest.boot: numbers begin at 1
//!   a number that was had    ──▶ nothing: it is said again until it is acknowledged, or somebody plays it back
//!   the next number          ──▶ guest.login, guest.job-start, …
//!   a later one              ──▶ guest.gap, then itself
//! ```
//!
//! Each step is one entry that moves the record on, so that a kill between any two neither loses nor doubles one. Whoever
//! is root in the guest can claim anything, nothing, or go back to a run that was: all of it is marked as the guest's.

use super::State;
use super::records::{Change, Claims, Record, Slice};
use crate::allowance::{Admitted, Allowance, Rate};
use holm_proto::ids::SliceId;
use holm_proto::v1::guest_claim::What;
use holm_proto::v1::{GuestClaim, GuestSession};
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid;
use serde_json::{Value, json};

/// Entries that one guest may cause. What it claims beyond waits on its host, and then in the guest, whose numbers show
/// what was lost there.
pub const OF_GUEST: Rate =
    Rate { burst: 200, refill: SignedDuration::from_secs(2), said: SignedDuration::from_hours(1) };
/// So long it is shown that what it said was dropped.
const LATELY: SignedDuration = SignedDuration::from_mins(10);
/// That what it says is dropped on its host is an entry this often.
const FLOOD: SignedDuration = SignedDuration::from_hours(1);

/// One entry that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// As `guest.login`.
    pub action: &'static str,
    /// What the log says of it.
    pub detail: Value,
    /// What the log then has.
    pub next: Claims,
}

impl Claims {
    /// Nothing yet.
    fn new(slice: SliceId) -> Self {
        Self { slice, boot: String::new(), seq: 0, silent: false }
    }

    /// The next entry of what is claimed; `None`: the log has it.
    pub fn step(&self, boot: &str, claim: &GuestClaim) -> Option<Step> {
        let next = |seq| Self { boot: boot.to_owned(), seq, ..self.clone() };
        if self.boot != boot {
            let before = (!self.boot.is_empty()).then(|| json!({ "boot": self.boot, "seq": self.seq }));
            let mut detail = json!({ "claimed_by_guest": true, "boot": boot });
            if let Some((fields, before)) = detail.as_object_mut().zip(before) {
                fields.insert("before".to_owned(), before);
            }
            return Some(Step { action: "guest.boot", detail, next: next(0) });
        }
        let after = self.seq.saturating_add(1);
        if claim.seq <= self.seq {
            return None;
        }
        if claim.seq > after {
            let to = claim.seq - 1;
            let missing = claim.seq - after;
            let detail = json!({ "claimed_by_guest": true, "boot": boot, "from": after, "to": to, "missing": missing });
            return Some(Step { action: "guest.gap", detail, next: next(to) });
        }
        let (action, what) = told(claim.what.as_ref()?);
        let mut detail = json!({
            "claimed_by_guest": true,
            "boot": boot,
            "seq": claim.seq,
            "guest_time": i64::try_from(claim.time).ok().and_then(|s| Timestamp::from_second(s).ok()),
        });
        if let (Some(fields), Value::Object(what)) = (detail.as_object_mut(), what) {
            fields.extend(what);
        }
        Some(Step { action, detail, next: next(claim.seq) })
    }

    /// It is silent, or heard again, where that is news.
    pub fn silence(&self, silent: bool) -> Option<Step> {
        let action = if silent { "guest.silent" } else { "guest.heard" };
        let detail = json!({ "boot": self.boot, "seq": self.seq });
        (self.silent != silent).then(|| Step { action, detail, next: Self { silent, ..self.clone() } })
    }
}

/// The action, and what it is about.
fn told(what: &What) -> (&'static str, Value) {
    let session = |of: &GuestSession| json!({ "user": of.user, "service": of.service });
    match what {
        What::Login(of) => ("guest.login", session(of)),
        What::Logout(of) => ("guest.logout", session(of)),
        What::Sudo(of) => {
            ("guest.sudo", json!({ "user": of.user, "target": of.target, "service": of.service }))
        }
        What::JobStart(of) => (
            "guest.job-start",
            json!({ "job": of.job, "user": of.user, "partition": of.partition, "cpus": of.cpus, "gpus": of.gpus }),
        ),
        What::JobEnd(of) => (
            "guest.job-end",
            json!({ "job": of.job, "user": of.user, "exit_code": of.exit_code, "signal": of.signal }),
        ),
        What::Mount(of) => ("guest.mount", json!({ "disk": of.disk })),
        What::Transfer(of) => (
            "guest.transfer",
            json!({
                "user": of.user,
                "files_out": of.files_out,
                "bytes_out": of.bytes_out,
                "files_in": of.files_in,
                "bytes_in": of.bytes_in,
            }),
        ),
        What::Recorded(of) => (
            "guest.recorded",
            json!({ "user": of.user, "recording": of.recording, "bytes": of.bytes, "sha256": of.sha256 }),
        ),
        What::Refused(of) => ("guest.refused", json!({ "user": of.user, "what": of.what })),
    }
}

/// What the log has of the guest of a slice.
pub fn known(state: &State, slice: SliceId) -> Claims {
    state.claims.get(&slice).cloned().unwrap_or_else(|| Claims::new(slice))
}

/// With the slice goes what is known of its guest.
pub fn forget(state: &State, slice: &Slice) -> Option<Change> {
    let key = format!("claims/{}", slice.id.into_untyped_uuid());
    state.claims.contains_key(&slice.id).then_some(Change::Delete(key))
}

/// One guest as it is heard now, forgotten with the process.
#[derive(Debug)]
pub struct Guest {
    allowance: Allowance,
    /// What its host dropped, and no entry says yet.
    dropped: u64,
    said: Option<Timestamp>,
    heard: Timestamp,
}

impl Guest {
    /// From now on.
    pub fn new(now: Timestamp) -> Self {
        Self { allowance: Allowance::new(OF_GUEST, now), dropped: 0, said: None, heard: now }
    }

    /// Whether it may cause one more entry.
    pub fn may(&mut self, now: Timestamp) -> bool {
        self.allowance.take(now) == Admitted::Yes
    }

    /// It said something, and its host dropped so much of it.
    pub fn hear(&mut self, dropped: u64, now: Timestamp) {
        self.heard = now;
        self.dropped = self.dropped.saturating_add(dropped);
    }

    /// It cannot be heard now, whatever it says.
    pub fn cannot_be_heard(&mut self, now: Timestamp) {
        self.heard = now;
    }

    /// How much of what it said was dropped, where that is to be an entry now.
    pub fn flood(&mut self, now: Timestamp) -> Option<u64> {
        let lately = self.said.is_some_and(|said| now.duration_since(said).abs() < FLOOD);
        if self.dropped == 0 || lately {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }

    /// It said more than it may, or what is no event, of late.
    pub fn floods(&self, now: Timestamp) -> bool {
        let lately = |at: Timestamp| now.duration_since(at).abs() < LATELY;
        self.dropped > 0 && lately(self.heard) || self.said.is_some_and(lately)
    }

    /// It has been silent for too long, which is `most`.
    pub fn is_silent(&mut self, now: Timestamp, most: SignedDuration) -> bool {
        // A clock that ran ahead and was set right.
        self.heard = self.heard.min(now);
        now.duration_since(self.heard) >= most
    }
}

/// The change that a step is.
pub fn change(next: Claims) -> Change {
    Change::Put(Record::Claims(next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLICE: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

    fn claim(seq: u64) -> GuestClaim {
        let user = GuestSession { user: "ida".to_owned(), service: "sshd".to_owned() };
        GuestClaim { seq, time: 1_796_000_000, what: Some(What::Login(user)) }
    }

    /// All steps of a claim.
    fn take(claims: &mut Claims, boot: &str, seq: u64) -> Vec<(&'static str, Value)> {
        let mut all = Vec::new();
        while let Some(step) = claims.step(boot, &claim(seq)) {
            *claims = step.next;
            all.push((step.action, step.detail));
        }
        all
    }

    fn actions(claims: &mut Claims, boot: &str, seq: u64) -> Vec<&'static str> {
        take(claims, boot, seq).into_iter().map(|(action, _)| action).collect()
    }

    #[test]
    fn gaps_repeats_steps_back_and_new_runs_are_told_apart() {
        let mut claims = Claims::new(SLICE.parse().unwrap());
        assert_eq!(actions(&mut claims, "a", 1), ["guest.boot", "guest.login"]);
        assert_eq!(actions(&mut claims, "a", 1), [""; 0], "played back");
        assert_eq!(actions(&mut claims, "a", 2), ["guest.login"]);
        let all = take(&mut claims, "a", 6);
        assert_eq!(all.iter().map(|(action, _)| *action).collect::<Vec<_>>(), ["guest.gap", "guest.login"]);
        let gap = json!({ "claimed_by_guest": true, "boot": "a", "from": 3, "to": 5, "missing": 3 });
        assert_eq!(all[0].1, gap);
        let login = json!({
            "claimed_by_guest": true, "boot": "a", "seq": 6, "guest_time": "2026-11-30T00:53:20Z",
            "user": "ida", "service": "sshd",
        });
        assert_eq!(all[1].1, login);
        assert_eq!(actions(&mut claims, "a", 4), [""; 0], "it goes back");
        let all = take(&mut claims, "b", 2);
        let began = json!({ "claimed_by_guest": true, "boot": "b", "before": { "boot": "a", "seq": 6 } });
        assert_eq!((all[0].0, &all[0].1), ("guest.boot", &began));
        assert_eq!(all.len(), 3, "and its first number is missing");
        // The ends of what there is.
        assert_eq!(actions(&mut claims, "b", u64::MAX), ["guest.gap", "guest.login"]);
        assert_eq!(actions(&mut claims, "b", u64::MAX), [""; 0]);
        assert_eq!(claims.seq, u64::MAX);
    }

    #[test]
    fn silence_is_said_once_and_so_is_its_end() {
        let claims = Claims::new(SLICE.parse().unwrap());
        assert_eq!(claims.silence(false), None);
        let step = claims.silence(true).unwrap();
        assert_eq!((step.action, step.next.silence(true)), ("guest.silent", None));
        assert_eq!(step.next.silence(false).unwrap().action, "guest.heard");
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let is_silent = |guest: &mut Guest, now| guest.is_silent(now, SignedDuration::from_mins(15));
        let mut guest = Guest::new(at(0));
        assert!(!is_silent(&mut guest, at(14)) && is_silent(&mut guest, at(15)));
        guest.hear(0, at(15));
        assert!(!is_silent(&mut guest, at(29)) && is_silent(&mut guest, at(30)));
        guest.cannot_be_heard(at(40));
        assert!(!is_silent(&mut guest, at(54)));
        // A clock that goes back makes nobody silent, and nobody heard for ever.
        assert!(!is_silent(&mut guest, at(1)) && is_silent(&mut guest, at(16)));
    }

    #[test]
    fn a_flood_is_one_entry_an_hour_with_all_of_it() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let (mut guest, mut said) = (Guest::new(at(0)), Vec::new());
        for minute in 0..120 {
            guest.hear(1000, at(minute));
            said.extend(guest.flood(at(minute)));
        }
        assert_eq!(said, [1000, 60_000]);
        // What came after is not lost.
        assert_eq!(guest.flood(at(120)), Some(59_000));
        assert_eq!(guest.flood(at(600)), None);
    }

    #[test]
    fn one_guest_that_floods_takes_nothing_from_another() {
        let now = Timestamp::UNIX_EPOCH;
        let (mut flood, mut other) = (Guest::new(now), Guest::new(now));
        let entries = (0..100_000).filter(|_| flood.may(now)).count();
        assert_eq!(entries, OF_GUEST.burst as usize);
        assert_eq!((0..10).filter(|_| other.may(now)).count(), 10);
        // An hour later it has what an hour gives, and no more.
        let later = now + SignedDuration::from_hours(1);
        assert_eq!((0..100_000).filter(|_| flood.may(later)).count(), OF_GUEST.burst as usize);
    }

    proptest! {
        #[test]
        fn every_number_is_an_entry_once_or_in_a_gap(seqs in proptest::collection::vec(1u64..40, 0..60)) {
            let (mut claims, mut logged, mut missing) = (Claims::new(SLICE.parse().unwrap()), Vec::new(), 0);
            for seq in seqs {
                for (action, detail) in take(&mut claims, "a", seq) {
                    match action {
                        "guest.login" => logged.push(detail["seq"].as_u64().unwrap()),
                        "guest.gap" => missing += detail["missing"].as_u64().unwrap(),
                        _ => prop_assert_eq!(action, "guest.boot"),
                    }
                }
            }
            prop_assert!(logged.is_sorted_by(|a, b| a < b), "{:?}", logged);
            prop_assert_eq!(logged.len() as u64 + missing, claims.seq);
        }
    }
}
