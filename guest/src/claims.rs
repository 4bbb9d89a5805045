//! What happens here, for the log: numbered, and said until the host says that it is in the log. In memory, and in a file
//! for the next run of this program: with the machine it is gone, and so is the run of it that was counted in.

use crate::files;
use serde_json::{Map, Value, json};
use std::{
    collections::VecDeque,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Claims that wait to be acknowledged; of more the oldest goes, and its number is missing.
const KEPT: usize = 1000;
/// So many are said at a time.
pub const AT_ONCE: usize = 32;

/// What happened: a kind and its fields.
#[derive(Debug, Clone, PartialEq)]
pub struct What {
    pub kind: String,
    pub fields: Map<String, Value>,
}

impl What {
    /// Of a kind, with these fields.
    pub fn new(kind: &str, fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        Self { kind: kind.to_owned(), fields: fields.collect() }
    }

    /// Of `login user=ida service=sshd`.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let kind = words.next()?.to_owned();
        let mut fields = Map::new();
        for word in words {
            let (name, value) = word.split_once('=')?;
            fields.insert(name.to_owned(), value_of(value));
        }
        Some(Self { kind, fields })
    }
}

/// A number, a name, or nothing that the host would take.
fn value_of(text: &str) -> Value {
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    number.map_or_else(|| Value::from(if is_name(text) { text } else { "unknown" }), Value::from)
}

/// As people, services and disks are called.
pub fn is_name(text: &str) -> bool {
    let inner = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    let ends = text.starts_with(|first: char| first.is_ascii_lowercase()) && !text.ends_with('-');
    inner && ends && text.len() <= 32
}

/// Those of this run of the machine.
#[derive(Debug)]
pub struct Claims {
    file: PathBuf,
    boot: String,
    kept: VecDeque<(u64, Vec<u8>)>,
    /// The last number that was given.
    seq: u64,
    /// The last number that was said.
    sent: u64,
    /// When the host last took any, or there were none.
    moved: Instant,
    /// Lines of the file.
    filed: usize,
    fresh: bool,
}

impl Claims {
    /// Of the run of the machine that is called `boot`, kept in `file`.
    pub fn new(file: PathBuf, boot: String) -> Self {
        let before = fs::read_to_string(&file);
        let fresh = before.is_err();
        let (mut kept, mut seq) = (VecDeque::new(), 0);
        for line in before.unwrap_or_default().lines() {
            // None in half a line, of a run that was cut off.
            let number =
                serde_json::from_str::<Value>(line).ok().and_then(|claim| claim.get("seq")?.as_u64());
            if let Some(number) = number {
                seq = number;
                kept.push_back((number, [line.as_bytes(), b"\n"].concat()));
            }
        }
        // What was said while nobody listened is lost: a number that is missing shows that something may be.
        seq += u64::from(!fresh);
        let filed = kept.len();
        let mut claims = Self { file, boot, kept, seq, sent: 0, moved: Instant::now(), filed, fresh };
        claims.bound();
        claims
    }

    /// No run of this program came before in this run of the machine.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub fn boot(&self) -> &str {
        &self.boot
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }

    fn bound(&mut self) {
        self.kept.drain(..self.kept.len().saturating_sub(KEPT));
    }

    pub fn add(&mut self, what: What) {
        self.seq += 1;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let What { kind, fields } = what;
        let claim = json!({ "event": "claim", "boot": self.boot, "seq": self.seq, "time": time, "what": { kind: fields } });
        let line = format!("{claim}\n").into_bytes();
        if self.kept.is_empty() {
            self.moved = Instant::now();
        }
        let appended = || {
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.file)?;
            file.write_all(&line)
        };
        self.filed += 1;
        if self.filed <= 2 * KEPT {
            // Where there is no room it is in memory all the same.
            let _ = appended();
        }
        self.kept.push_back((self.seq, line));
        self.bound();
        if self.filed > 2 * KEPT {
            self.file_anew();
        }
    }

    /// One was not taken: its number is missing.
    pub fn leave_out(&mut self) {
        self.seq += 1;
    }

    fn file_anew(&mut self) {
        let lines: Vec<u8> = self.kept.iter().flat_map(|(_, line)| line).copied().collect();
        self.write(&lines, self.kept.len());
    }

    fn write(&mut self, lines: &[u8], count: usize) {
        let me = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        if files::write(&self.file, lines, 0o600, me).is_ok() {
            self.filed = count;
        }
    }

    /// The next to say, and the number of the last of them.
    pub fn due(&self) -> Option<(Vec<u8>, u64)> {
        let end = self.kept.front()?.0 + AT_ONCE as u64;
        let due = || {
            let first = self.kept.iter().take(AT_ONCE);
            first.filter(|(seq, _)| self.sent < *seq && *seq < end)
        };
        let last = due().next_back()?.0;
        Some((due().flat_map(|(_, line)| line).copied().collect(), last))
    }

    /// They were said up to this one.
    pub fn said(&mut self, last: u64) {
        self.sent = last;
    }

    /// The last one stays in the file, so that whoever reads it counts on.
    pub fn acknowledged(&mut self, seq: u64) {
        let before = self.kept.len();
        let last = self.kept.back().cloned();
        self.kept.retain(|(of, _)| *of > seq);
        if self.kept.len() < before {
            self.moved = Instant::now();
            match last {
                Some((_, line)) if self.kept.is_empty() => self.write(&line, 1),
                _ => self.file_anew(),
            }
        }
    }

    /// Whether whoever listens has not heard it, or its answer was lost.
    pub fn are_late(&self, limit: Duration) -> bool {
        !self.kept.is_empty() && self.moved.elapsed() >= limit
    }

    /// All are to be said again.
    pub fn again(&mut self) {
        self.sent = 0;
        self.moved = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOOT: &str = "0123456789abcdef0123456789abcdef";

    /// What the agent's tests read as what a guest says.
    const GOLDEN: &str = include_str!("../../hypervisor-agent/src/guest/golden/claims.jsonl");

    fn claims(place: &tempfile::TempDir) -> Claims {
        Claims::new(place.path().join("claims"), BOOT.to_owned())
    }

    #[test]
    fn each_is_said_in_the_words_that_the_agent_reads() {
        let place = tempfile::tempdir().unwrap();
        let mut claims = claims(&place);
        for line in [
            "login user=ida service=sshd",
            "logout user=ida service=sshd",
            "sudo user=ida target=root service=sudo",
            "job-start job=7 user=ida partition=batch cpus=4 gpus=2",
            "job-end job=7 user=ida exit_code=1 signal=0",
            "mount disk=data",
            "transfer user=ida files_out=2 bytes_out=4096 files_in=1 bytes_in=17",
            "refused user=ida what=copy-out",
        ] {
            claims.add(What::parse(line).unwrap());
        }
        let mut recorded = What::new(
            "recorded",
            &[
                ("user", "ida"),
                ("recording", "20261128-180102-ida-x9ZkQ0"),
                ("sha256", "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"),
            ],
        );
        recorded.fields.insert("bytes".to_owned(), 4096.into());
        claims.add(recorded);
        let (said, last) = claims.due().unwrap();
        let timeless = |text: &str| -> Vec<Value> {
            let read = |line: &str| {
                let mut claim: Value = serde_json::from_str(line).unwrap();
                claim.as_object_mut().unwrap().insert("time".to_owned(), 0.into());
                claim
            };
            text.lines().map(read).collect()
        };
        assert_eq!(timeless(&String::from_utf8(said).unwrap()), timeless(GOLDEN));
        assert_eq!(last, 9);
    }

    #[test]
    fn what_is_no_claim_is_none() {
        for line in ["", "  ", "login user", "login user=ida service"] {
            assert_eq!(What::parse(line), None, "{line}");
        }
        let value = |text: &str| What::parse(&format!("x y={text}")).unwrap().fields["y"].clone();
        assert_eq!(value("18446744073709551615"), u64::MAX);
        assert_eq!(value("a-1"), "a-1");
        for text in ["", "-1", "1a", "a-", "Ida", "../x", "a=b", "18446744073709551616", &"a".repeat(33)] {
            assert_eq!(value(text), "unknown", "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn whatever_is_said_and_acknowledged_numbers_rise_and_nothing_grows(
            steps in proptest::collection::vec((0u8..5, 0u64..40), 0..60),
        ) {
            let place = tempfile::tempdir().unwrap();
            let mut claims = claims(&place);
            let (mut given, mut taken) = (0, 0);
            for (step, number) in steps {
                let before = claims.kept.back().map_or(given, |(last, _)| *last);
                match step {
                    0 => (0..number).for_each(|_| claims.add(What::new("mount", &[("disk", "root")]))),
                    1 => claims.leave_out(),
                    2 => {
                        taken += number;
                        claims.acknowledged(taken);
                    }
                    3 => claims.again(),
                    _ => claims = Claims::new(place.path().join("claims"), BOOT.to_owned()),
                }
                given = before.max(given);
                let numbers: Vec<u64> = claims.kept.iter().map(|(seq, _)| *seq).collect();
                prop_assert!(numbers.is_sorted_by(|a, b| a < b));
                if step == 0 && number > 0 {
                    prop_assert!(numbers.iter().rev().take(number as usize).all(|seq| *seq > given), "{numbers:?}");
                }
                if let Some((lines, last)) = claims.due() {
                    let count = lines.iter().filter(|byte| **byte == b'\n').count();
                    prop_assert!((1..=AT_ONCE).contains(&count) && last > claims.sent);
                    claims.said(last);
                }
            }
        }
    }
}
