//! What a guest says, byte by byte hostile: a line is bounded, an event has exactly its own fields, a text
//! is printable ASCII of bounded length, a key is a key.

use super::key;
use crate::edge::GuestEvent;
use holm_proto::{fullness, guest, jobs, v1};
use serde::Deserialize;

/// The longest line that is looked at. A longer one is dropped whole.
pub const MAX_LINE_BYTES: usize = 4096;
const MAX_SLURM_CHARS: usize = 64;
const MAX_REASON_CHARS: usize = 512;
const MAX_GPUS: u32 = 64;

/// Cuts a stream of bytes into lines, holding one line at most.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Takes bytes in and gives every line they end to `take`; `None` stands for one that was too long.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Option<&[u8]>)) {
        let mut pieces = bytes.split_inclusive(|byte| *byte == b'\n');
        for piece in &mut pieces {
            let (piece, ends) = match piece.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (piece, false),
            };
            self.too_long |= self.held.len() + piece.len() > MAX_LINE_BYTES;
            if self.too_long {
                self.held.clear();
            } else {
                self.held.extend_from_slice(piece);
            }
            if ends {
                take((!self.too_long).then_some(self.held.as_slice()));
                self.held.clear();
                self.too_long = false;
            }
        }
    }
}

/// Every event, each with exactly its own fields.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase", deny_unknown_fields)]
enum Message {
    Boot {},
    Ready { ssh_host_key: String, gpus: u32, slurm: String },
    Failed { reason: String },
    Disks { disks: Vec<Disk> },
    Alive {},
    People { of: String },
    Scheduler { of: String },
    Usage { usage: Usage },
    Claim { boot: String, seq: u64, time: u64, what: What },
}

/// A disk of [`GuestEvent::Disks`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    name: String,
    bytes: u64,
    free: u64,
    files: u64,
    files_free: u64,
}

/// What a guest claims of its jobs, as [`v1::JobsUse`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Usage {
    time: u64,
    seconds: u32,
    gpu_seconds: u64,
    gpu_busy_seconds: Option<u64>,
    cpu_seconds: u64,
    memory_mib: u64,
    running: u32,
    pending: u32,
}

/// What a guest claims to have seen, as [`v1::guest_claim::What`].
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum What {
    Login { user: String, service: String },
    Logout { user: String, service: String },
    Sudo { user: String, target: String, service: String },
    JobStart { job: u32, user: String, partition: String, cpus: u32, gpus: u32 },
    JobEnd { job: u32, user: String, exit_code: Option<u32>, signal: Option<u32> },
    Mount { disk: String },
    Transfer { user: String, files_out: u64, bytes_out: u64, files_in: u64, bytes_in: u64 },
    Refused { user: String, what: String },
    Recorded { user: String, recording: String, bytes: u64, sha256: String },
}

impl From<What> for v1::guest_claim::What {
    fn from(what: What) -> Self {
        match what {
            What::Login { user, service } => Self::Login(v1::GuestSession { user, service }),
            What::Logout { user, service } => Self::Logout(v1::GuestSession { user, service }),
            What::Sudo { user, target, service } => Self::Sudo(v1::GuestSudo { user, target, service }),
            What::JobStart { job, user, partition, cpus, gpus } => {
                Self::JobStart(v1::GuestJobStart { job, user, partition, cpus, gpus })
            }
            What::JobEnd { job, user, exit_code, signal } => {
                Self::JobEnd(v1::GuestJobEnd { job, user, exit_code, signal })
            }
            What::Mount { disk } => Self::Mount(v1::GuestMount { disk }),
            What::Transfer { user, files_out, bytes_out, files_in, bytes_in } => {
                Self::Transfer(v1::GuestTransfer { user, files_out, bytes_out, files_in, bytes_in })
            }
            What::Recorded { user, recording, bytes, sha256 } => {
                Self::Recorded(v1::GuestRecorded { user, recording, bytes, sha256 })
            }
            What::Refused { user, what } => Self::Refused(v1::GuestRefused { user, what }),
        }
    }
}

/// Reads one line; `None` for all that is no event.
pub fn parse(line: &[u8]) -> Option<GuestEvent> {
    // What is read into fields would be read from a list as well.
    match line.starts_with(b"{").then(|| serde_json::from_slice(line).ok())?? {
        Message::Boot {} => Some(GuestEvent::Boot),
        Message::Ready { ssh_host_key, gpus, slurm } => Some(GuestEvent::Ready(v1::Guest {
            ssh_host_key: key::plain(&ssh_host_key)?,
            gpus: (gpus <= MAX_GPUS).then_some(gpus)?,
            slurm: printable(&slurm, MAX_SLURM_CHARS),
        })),
        Message::Failed { reason } => Some(GuestEvent::Failed(printable(&reason, MAX_REASON_CHARS))),
        Message::Disks { disks } => {
            let disks = disks.into_iter().map(|Disk { name, bytes, free, files, files_free }| v1::DiskUse {
                name,
                bytes,
                free,
                files,
                files_free,
            });
            fullness::plausible(disks.collect()).map(GuestEvent::Disks)
        }
        Message::Alive {} => Some(GuestEvent::Alive),
        Message::People { of } => guest::is_told(&of).then_some(GuestEvent::People(of)),
        Message::Scheduler { of } => guest::is_told(&of).then_some(GuestEvent::Scheduler(of)),
        Message::Usage { usage } => {
            let Usage {
                time,
                seconds,
                gpu_seconds,
                gpu_busy_seconds,
                cpu_seconds,
                memory_mib,
                running,
                pending,
            } = usage;
            let jobs = v1::JobsUse {
                time,
                seconds,
                gpu_seconds,
                gpu_busy_seconds,
                cpu_seconds,
                memory_mib,
                running,
                pending,
            };
            jobs::is_plausible(&jobs).then_some(GuestEvent::Jobs(jobs))
        }
        Message::Claim { boot, seq, time, what } => {
            let claim = v1::GuestClaim { seq, time, what: Some(what.into()) };
            let fits = guest::is_boot(&boot) && guest::is_plausible(&claim);
            fits.then_some(GuestEvent::Claim { boot, claim })
        }
    }
}

/// What is safe to show on a terminal, in a page and in a log.
fn printable(text: &str, most: usize) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~')).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJQzSd2F4DPi1bWeTkVGt8mHnWJl1sCcqcPl1jeIHoq";

    fn ready(key: &str, gpus: &str, slurm: &str) -> Option<GuestEvent> {
        parse(
            format!(r#"{{"event":"ready","ssh_host_key":"{key}","gpus":{gpus},"slurm":"{slurm}"}}"#)
                .as_bytes(),
        )
    }

    #[test]
    fn how_it_boots() {
        assert_eq!(parse(br#"{"event":"boot"}"#), Some(GuestEvent::Boot));
        assert_eq!(
            parse(br#"{"event":"failed","reason":"no slurmd"}"#),
            Some(GuestEvent::Failed("no slurmd".into()))
        );
        let guest = v1::Guest { ssh_host_key: KEY.to_owned(), gpus: 2, slurm: "22.05.8".to_owned() };
        assert_eq!(ready(KEY, "2", "22.05.8"), Some(GuestEvent::Ready(guest)));
    }

    #[test]
    fn how_full_its_disks_are() {
        let disk = |name: &str, bytes: &str, free: &str| {
            format!(r#"{{"name":"{name}","bytes":{bytes},"free":{free},"files":10,"files_free":9}}"#)
        };
        let say = |disks: &[String]| {
            parse(format!(r#"{{"event":"disks","disks":[{}]}}"#, disks.join(",")).as_bytes())
        };
        let all = [disk("root", "100", "20"), disk("data", "7", "7"), disk("scratch", "1", "0")];
        let Some(GuestEvent::Disks(heard)) = say(&all) else { panic!("no event") };
        let names: Vec<&str> = heard.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["root", "data", "scratch"]);
        assert_eq!((heard[0].bytes, heard[0].free, heard[0].files, heard[0].files_free), (100, 20, 10, 9));
        for bad in [
            vec![],
            vec![disk("raid", "1", "1")],
            vec![disk("root", "1", "2")],
            vec![disk("root", "0", "0")],
            vec![disk("root", "-1", "0")],
            vec![disk("root", "1.5", "0")],
            vec![disk("root", "18446744073709551616", "0")],
            vec![disk("root", "18446744073709551615", "0")],
            vec![disk("root", "2", "1"), disk("root", "2", "1")],
            vec![disk("root", "2", "1").replace("files_free\":9", "files_free\":11")],
            vec![disk("root", "2", "1").replace(",\"files\":10", "")],
            vec![disk("root", "2", "1").replace("}", ",\"at\":\"/\"}")],
        ] {
            assert_eq!(say(&bad), None, "{bad:?}");
        }
        assert_eq!(parse(br#"{"event":"disks"}"#), None);
        assert_eq!(parse(br#"{"event":"boot","disks":[]}"#), None);
    }

    #[test]
    fn what_the_guest_program_says_is_understood() {
        // Its own tests see to it that it says that (`guest/src/event.rs`).
        let events = include_str!("golden/events.jsonl").lines().map(|line| parse(line.as_bytes()));
        let disk =
            |name: &str, free| v1::DiskUse { name: name.into(), bytes: 4096, free, files: 10, files_free: 9 };
        let ready = v1::Guest { ssh_host_key: KEY.to_owned(), gpus: 2, slurm: "24.11.5".to_owned() };
        let understood = [
            GuestEvent::Boot,
            GuestEvent::Ready(ready),
            GuestEvent::Failed("found 1 of 2 GPUs".to_owned()),
            GuestEvent::Disks(vec![disk("root", 1024), disk("data", 0)]),
            GuestEvent::Alive,
            GuestEvent::People("0123456789abcdef".to_owned()),
            GuestEvent::Scheduler("0123456789abcdef".to_owned()),
            GuestEvent::Jobs(v1::JobsUse {
                time: 1_796_000_000,
                seconds: 60,
                gpu_seconds: 120,
                gpu_busy_seconds: Some(90),
                cpu_seconds: 300,
                memory_mib: 9000,
                running: 2,
                pending: 5,
            }),
        ];
        assert!(events.eq(understood.map(Some)));
    }

    const BOOT: &str = "0123456789abcdef0123456789abcdef";

    fn claimed(seq: &str, time: &str, what: &str) -> Option<GuestEvent> {
        let line = format!(r#"{{"event":"claim","boot":"{BOOT}","seq":{seq},"time":{time},"what":{what}}}"#);
        parse(line.as_bytes())
    }

    /// One of each, as the guest's program says them (`guest/src/claims.rs`).
    const CLAIMS: &str = include_str!("golden/claims.jsonl");

    #[test]
    fn each_claim_is_what_its_line_says() {
        let read = CLAIMS.lines().map(|line| match parse(line.as_bytes()) {
            Some(GuestEvent::Claim { boot, claim }) => format!("{boot} {claim:?}\n"),
            other => panic!("{line}: {other:?}"),
        });
        let read: String = read.collect();
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("claims", read);
        });
        assert_eq!(parse(br#"{"event":"alive"}"#), Some(GuestEvent::Alive));
    }

    #[test]
    fn a_claim_that_cannot_be_meant_is_none() {
        let login = |user: &str| format!(r#"{{"login":{{"user":"{user}","service":"sshd"}}}}"#);
        assert!(claimed("18446744073709551615", "253402300799", &login("ida")).is_some());
        for (seq, time) in [
            ("0", "1"),
            ("-1", "1"),
            ("1.0", "1"),
            ("18446744073709551616", "1"),
            ("\"1\"", "1"),
            ("1", "253402300800"),
            ("1", "-1"),
            ("1", "1e3"),
            ("1", "null"),
        ] {
            assert_eq!(claimed(seq, time, &login("ida")), None, "{seq} {time}");
        }
        // Only what Holm itself would call somebody is a name.
        for user in [
            "",
            "Ida",
            "ida smith",
            "person/ida",
            "../ida",
            "ida\\u0000",
            "ida\\u202e",
            "\u{1b}[2J",
            "æ",
            "1da",
            &"i".repeat(33),
            &"i".repeat(3900),
        ] {
            assert_eq!(claimed("1", "1", &login(user)), None, "{user:?}");
        }
        for what in [
            "{}",
            "null",
            r#""login""#,
            r#"{"login":{"user":"ida"}}"#,
            r#"{"login":{"user":"ida","service":"sshd","slice":"other"}}"#,
            r#"{"login":{"user":"ida","service":"sshd"},"logout":{"user":"ida","service":"sshd"}}"#,
            r#"{"reboot":{"user":"ida"}}"#,
            r#"{"mount":{"disk":"/dev/vda"}}"#,
            r#"{"job-start":{"job":0,"user":"ida","partition":"batch","cpus":1,"gpus":1}}"#,
            r#"{"job-start":{"job":1,"user":"ida","partition":"batch","cpus":1,"gpus":65}}"#,
            r#"{"job-start":{"job":1,"user":"ida","partition":"batch","cpus":9999,"gpus":1}}"#,
            r#"{"job-start":{"job":4294967296,"user":"ida","partition":"batch","cpus":1,"gpus":1}}"#,
            r#"{"job-end":{"job":1,"user":"ida","exit_code":256,"signal":0}}"#,
            r#"{"transfer":{"user":"ida","files_out":0,"bytes_out":1152921504606846977,"files_in":0,"bytes_in":0}}"#,
            r#"{"refused":{"user":"ida","what":"everything"}}"#,
            r#"{"refused":{"what":"command"}}"#,
        ] {
            assert_eq!(claimed("1", "1", what), None, "{what}");
        }
        let line = CLAIMS.lines().next().unwrap();
        for boot in ["", "0123456789ABCDEF0123456789ABCDEF", &BOOT[1..], &format!("{BOOT}0")] {
            assert_eq!(parse(line.replace(BOOT, boot).as_bytes()), None, "{boot}");
        }
        // It cannot say whose it is: that is the port's to say.
        assert_eq!(parse(line.replacen("{", r#"{"slice":"other","#, 1).as_bytes()), None);
    }

    #[test]
    fn all_else_is_no_event() {
        for line in [
            "",
            "status",
            "null",
            "[]",
            r#"{"event":"reboot"}"#,
            r#"{"event":"boot","gpus":1}"#,
            r#"{"event":"boot","extra":1}"#,
            r#"{"event":"boot"}{"event":"boot"}"#,
            r#"{"event":"boot","event":"boot"}"#,
            r#"{"event":"ready"}"#,
            r#"{"event":"failed"}"#,
            r#"{"event":"failed","reason":1}"#,
            r#"{"event":["boot"]}"#,
            r#"["boot"]"#,
            r#"["claim",{"event":"boot"}]"#,
            r#"{"event":"alive","seq":1}"#,
            r#"{"event":"people"}"#,
            r#"{"event":"people","of":"0123456789ABCDEF"}"#,
            r#"{"event":"people","of":"0123456789abcdef0"}"#,
            r#"{"event":"people","of":1}"#,
            r#"{"event":"people","of":"","users":[]}"#,
            r#"{"event":"scheduler"}"#,
            r#"{"event":"scheduler","of":"0123456789ABCDEF"}"#,
            r#"{"event":"usage"}"#,
            r#"{"event":"usage","usage":{}}"#,
            r#"{"event":"usage","usage":{"time":1,"seconds":60,"gpu_seconds":1,"cpu_seconds":1,"memory_mib":1,"running":1,"pending":-1}}"#,
            r#"{"event":"usage","usage":{"time":1,"seconds":0,"gpu_seconds":1,"cpu_seconds":1,"memory_mib":1,"running":1,"pending":1}}"#,
            r#"{"event":"usage","usage":{"time":1,"seconds":60,"gpu_seconds":1,"gpu_busy_seconds":2,"cpu_seconds":1,"memory_mib":1,"running":1,"pending":1}}"#,
            r#"{"event":"usage","usage":{"time":1,"seconds":60,"gpu_seconds":1,"cpu_seconds":1,"memory_mib":1,"running":1,"pending":1,"job":"x"}}"#,
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        for gpus in ["-1", "65", "1e1", "\"1\"", "4294967296"] {
            assert_eq!(ready(KEY, gpus, "x"), None, "{gpus}");
        }
        assert_eq!(ready("ssh-ed25519 AAAA", "1", "x"), None);
        assert_eq!(ready(&format!("{KEY}\\ncommand"), "1", "x"), None);
    }

    #[test]
    fn texts_are_printable_and_short() {
        let Some(GuestEvent::Failed(reason)) =
            parse("{\"event\":\"failed\",\"reason\":\"a\\u001b[2J\\u0000\\u202eæ\\nb\"}".as_bytes())
        else {
            panic!("no event")
        };
        assert_eq!(reason, "a[2Jb");
        let Some(GuestEvent::Ready(guest)) = ready(KEY, "1", &"x".repeat(3000)) else { panic!("no event") };
        assert_eq!(guest.slurm.len(), MAX_SLURM_CHARS);
    }

    #[test]
    fn a_line_too_long_is_dropped_whole_and_the_next_one_read() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for piece in [&[b'x'; MAX_LINE_BYTES][..], b"x", b"more\nnext", b" line\n\n"] {
            lines.push(piece, |line| seen.push(line.map(<[u8]>::to_vec)));
        }
        assert_eq!(seen, [None, Some(b"next line".to_vec()), Some(Vec::new())]);
        lines.push(&[&[b'y'; MAX_LINE_BYTES][..], b"\n"].concat(), |line| {
            assert_eq!(line.map(<[u8]>::len), Some(MAX_LINE_BYTES));
        });
    }

    proptest! {
        #[test]
        fn any_bytes_stay_within_bounds(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..6000), 0..6),
            newline in any::<u8>(),
        ) {
            let mut lines = Lines::default();
            for mut piece in pieces {
                piece.iter_mut().filter(|byte| **byte == newline).for_each(|byte| *byte = b'\n');
                lines.push(&piece, |line| {
                    let line = line.unwrap_or_default();
                    assert!(line.len() <= MAX_LINE_BYTES && !line.contains(&b'\n'));
                    assert!(parse(line).is_none());
                });
                prop_assert!(lines.held.len() <= MAX_LINE_BYTES && lines.held.capacity() <= 4 * MAX_LINE_BYTES);
            }
        }

        #[test]
        fn however_it_is_cut_the_lines_are_the_same(text in "[a-c\n]{0,60}", cut in 0usize..60) {
            let (first, second) = text.split_at(cut.min(text.len()));
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            lines.push(first.as_bytes(), |line| seen.push(line.unwrap().to_vec()));
            lines.push(second.as_bytes(), |line| seen.push(line.unwrap().to_vec()));
            let mut wanted: Vec<Vec<u8>> = text.split('\n').map(|line| line.as_bytes().to_vec()).collect();
            wanted.pop();
            prop_assert_eq!(seen, wanted);
        }

        #[test]
        fn a_claim_of_anything_is_plausible_or_none(
            seq in any::<u64>(),
            time in any::<u64>(),
            number in any::<u32>(),
            user in "[a-z]{0,3}|.{0,40}",
            cut in 0usize..200,
        ) {
            let what = serde_json::json!({ "job-start": {
                "job": number, "user": user, "partition": "batch", "cpus": number % 9000, "gpus": number % 70 } });
            let line = serde_json::json!({
                "event": "claim", "boot": BOOT, "seq": seq, "time": time, "what": what }).to_string();
            if let Some(GuestEvent::Claim { boot, claim }) = parse(line.as_bytes()) {
                prop_assert!(guest::is_boot(&boot) && guest::is_plausible(&claim));
                prop_assert!(claim.seq == seq && claim.time == time);
            }
            let cut = line.as_bytes().get(..cut.min(line.len() - 1)).unwrap();
            prop_assert_eq!(parse(cut), None);
        }

        #[test]
        fn any_reason_comes_out_printable(reason in any::<String>()) {
            let line = serde_json::json!({ "event": "failed", "reason": reason }).to_string();
            let Some(GuestEvent::Failed(text)) = parse(line.as_bytes()) else { panic!("no event") };
            prop_assert!(text.len() <= MAX_REASON_CHARS && text.bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}
