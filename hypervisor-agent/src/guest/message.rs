//! What a guest says, byte by byte hostile: a line is bounded, an event has exactly its own fields, a text
//! is printable ASCII of bounded length, a key is a key.

use super::key;
use crate::edge::GuestEvent;
use holm_proto::{fullness, v1};
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

/// Every field of every event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    event: String,
    ssh_host_key: Option<String>,
    gpus: Option<u32>,
    slurm: Option<String>,
    reason: Option<String>,
    disks: Option<Vec<Disk>>,
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

/// Reads one line; `None` for all that is no event.
pub fn parse(line: &[u8]) -> Option<GuestEvent> {
    let Message { event, ssh_host_key, gpus, slurm, reason, disks } = serde_json::from_slice(line).ok()?;
    match (event.as_str(), ssh_host_key, gpus, slurm, reason, disks) {
        ("boot", None, None, None, None, None) => Some(GuestEvent::Boot),
        ("ready", Some(host_key), Some(gpus), Some(slurm), None, None) => {
            Some(GuestEvent::Ready(v1::Guest {
                ssh_host_key: key::plain(&host_key)?,
                gpus: (gpus <= MAX_GPUS).then_some(gpus)?,
                slurm: printable(&slurm, MAX_SLURM_CHARS),
            }))
        }
        ("failed", None, None, None, Some(reason), None) => {
            Some(GuestEvent::Failed(printable(&reason, MAX_REASON_CHARS)))
        }
        ("disks", None, None, None, None, Some(disks)) => {
            let disks = disks.into_iter().map(|Disk { name, bytes, free, files, files_free }| v1::DiskUse {
                name,
                bytes,
                free,
                files,
                files_free,
            });
            fullness::plausible(disks.collect()).map(GuestEvent::Disks)
        }
        _ => None,
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
    fn the_three_events() {
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
    fn what_the_guest_program_says_of_disks_is_understood() {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/guest-image/files/usr/lib/holm/guest");
        let run = "import sys; text = open(sys.argv[1]).read(); exec(text[:text.rindex('main()')]); \
            print(json.dumps({'event': 'disks', 'disks': [fullness('root', '/'), fullness('data', '/')]}))";
        let ran = std::process::Command::new("python3").args(["-IS", "-c", run, program]).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let Some(GuestEvent::Disks(disks)) = parse(ran.stdout.trim_ascii_end()) else { panic!("{ran:?}") };
        let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        assert!(names == ["root", "data"] && disks[0].bytes > 0, "{disks:?}");
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
        fn any_reason_comes_out_printable(reason in any::<String>()) {
            let line = serde_json::json!({ "event": "failed", "reason": reason }).to_string();
            let Some(GuestEvent::Failed(text)) = parse(line.as_bytes()) else { panic!("no event") };
            prop_assert!(text.len() <= MAX_REASON_CHARS && text.bytes().all(|b| (b' '..=b'~').contains(&b)));
        }
    }
}
