//! What the host says: a line an order.

use crate::{accounts, claims::is_name, members::People, scheduler::Settings};
use std::collections::BTreeSet;

/// The rest of a line that is longer than any order is nothing.
const LONGEST: usize = 64 * 1024;

/// What it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// To hear again how it stands.
    Status,
    /// It has claims in the log, up to this one.
    Acknowledge(u64),
    /// Disks are larger, and file systems are to become so.
    Grow,
    /// These are to be the people here.
    People(People),
    /// Slurm is to do this.
    Scheduler(Settings),
    /// The machine is to write down what it holds and to switch itself off.
    Stop,
}

impl Order {
    /// `None` for what is none, or of another run of the machine than `boot`.
    pub fn parse(line: &[u8], boot: &str) -> Option<Self> {
        match line {
            b"status" => Some(Self::Status),
            b"grow" => Some(Self::Grow),
            b"stop" => Some(Self::Stop),
            _ if line.starts_with(b"people ") => people(line).map(Self::People),
            _ if line.starts_with(b"scheduler ") => {
                Settings::parse(line.strip_prefix(b"scheduler ")?).map(Self::Scheduler)
            }
            _ => {
                let rest = std::str::from_utf8(line).ok()?.strip_prefix("ack ")?;
                let seq = rest.strip_prefix(boot)?.strip_prefix(' ')?;
                let number = !seq.is_empty() && seq.bytes().all(|byte| byte.is_ascii_digit());
                number.then(|| seq.parse().ok())?.map(Self::Acknowledge)
            }
        }
    }
}

/// `people {"of":"0123456789abcdef","readers":[],"users":[{"name":"ida","uid":10001}]}`; `None` also where two would be one.
fn people(line: &[u8]) -> Option<People> {
    let people: People = serde_json::from_slice(line.strip_prefix(b"people ")?).ok()?;
    let names: BTreeSet<&str> = people.users.iter().map(|user| user.name.as_str()).collect();
    let fits = people.users.iter().all(|user| is_name(&user.name) && accounts::PEOPLE.contains(&user.uid));
    let count = people.users.len();
    (fits && names.len() == count && people.ids().len() == count).then_some(people)
}

/// Cuts what is heard into lines.
#[derive(Debug, Default)]
pub struct Words {
    held: Vec<u8>,
}

impl Words {
    /// The lines that these bytes end.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.held.extend_from_slice(bytes);
        let mut lines: Vec<Vec<u8>> = self.held.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let held = lines.pop().unwrap_or_default();
        self.held = held.get(held.len().saturating_sub(LONGEST)..).unwrap_or_default().to_vec();
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOOT: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_is_an_order_and_what_is_none() {
        let order = |line: &str| Order::parse(line.as_bytes(), BOOT);
        assert_eq!(order("status"), Some(Order::Status));
        assert_eq!(order("grow"), Some(Order::Grow));
        assert_eq!(order("stop"), Some(Order::Stop));
        assert_eq!(order(&format!("ack {BOOT} 18446744073709551615")), Some(Order::Acknowledge(u64::MAX)));
        let other = "f".repeat(32);
        for line in
            ["", "Status", "ack", &format!("ack {other} 1"), &format!("ack {BOOT}"), &format!("ack {BOOT} ")]
        {
            assert_eq!(order(line), None, "{line}");
        }
        for number in ["-1", "+1", "x", "1 2", "18446744073709551616"] {
            assert_eq!(order(&format!("ack {BOOT} {number}")), None, "{number}");
        }
    }

    #[test]
    fn people_are_told_whole_or_not_at_all() {
        let told =
            |users: &str| Order::parse(format!(r#"people {{"of":"0f","users":[{users}]}}"#).as_bytes(), BOOT);
        let Some(Order::People(people)) = told(r#"{"name":"ida","uid":10001},{"name":"frida","uid":10002}"#)
        else {
            panic!("no order")
        };
        assert_eq!((people.of.as_str(), people.ids()), ("0f", BTreeSet::from([10_001, 10_002])));
        let reads = br#"people {"of":"0f","readers":[{"name":"rosa","uid":10003}],"users":[{"name":"ida","uid":10001}]}"#;
        let Some(Order::People(people)) = Order::parse(reads, BOOT) else { panic!("no order") };
        let who: Vec<_> = people.users.iter().map(|user| (user.uid, user.read_only)).collect();
        assert_eq!(who, [(10_001, false), (10_003, true)]);
        // As it is kept for whoever begins anew.
        assert_eq!(serde_json::from_slice::<People>(&serde_json::to_vec(&people).unwrap()).unwrap(), people);
        assert_eq!(told(""), Some(Order::People(People { of: "0f".to_owned(), users: Vec::new() })));
        for users in [
            r#"{"name":"root","uid":0}"#,
            r#"{"name":"ida","uid":60000}"#,
            r#"{"name":"ida:x:0:0","uid":10001}"#,
            r#"{"name":"","uid":10001}"#,
            r#"{"name":"ida","uid":-1}"#,
            r#"{"name":"ida"}"#,
            r#"{"name":"ida","uid":10001},{"name":"ida","uid":10002}"#,
            r#"{"name":"ida","uid":10001},{"name":"frida","uid":10001}"#,
            r#"{"name":"ida","uid":10001}"#.get(..10).unwrap(),
        ] {
            assert_eq!(told(users), None, "{users}");
        }
    }

    #[test]
    fn settings_of_the_scheduler_are_an_order() {
        let text = r#"{"of":"0f","drain":true,"classes":[{"name":"a","priority":1,"wall_minutes":1}]}"#;
        let order = Order::parse(format!("scheduler {text}").as_bytes(), BOOT);
        assert!(matches!(order, Some(Order::Scheduler(Settings { drain: true, .. }))));
        for line in ["scheduler", "scheduler ", "scheduler {}", r#"scheduler {"of":"0f","classes":[]}"#] {
            assert_eq!(Order::parse(line.as_bytes(), BOOT), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(text in "[a-c\n]{0,60}", cut in 0usize..60) {
            let (first, second) = text.split_at(cut.min(text.len()));
            let mut words = Words::default();
            let seen = [words.push(first.as_bytes()), words.push(second.as_bytes())].concat();
            let mut wanted: Vec<Vec<u8>> = text.split('\n').map(|line| line.as_bytes().to_vec()).collect();
            wanted.pop();
            prop_assert_eq!(seen, wanted);
        }

        #[test]
        fn what_has_no_end_is_not_kept(pieces in proptest::collection::vec("[a-z]{0,50000}", 0..9)) {
            let mut words = Words::default();
            for piece in pieces {
                prop_assert!(words.push(piece.as_bytes()).is_empty() && words.held.len() <= LONGEST);
            }
        }
    }
}
