//! What agent and scrubbing machine say to each other: one JSON object a line, each way.
//!
//! A field that is not known is refused on both sides, and so is a line that is longer than [`LINE_MAX`].

use serde::{Deserialize, Serialize};

/// The name of the virtio-serial port between the two.
pub const PORT: &str = "org.holm.scrub.0";
/// The longest line, its end not counted.
pub const LINE_MAX: usize = 64 * 1024;
/// Devices of one order at most: one for each place.
pub const SLOTS: u8 = 16;

/// How the memory is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The device's prefetchable BARs are its memory, all of it.
    Bar,
    /// CUDA's driver hands out its memory.
    Cuda,
}

/// What is to be done. The first line that the machine hears, and the only one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The run's id.
    pub run: String,
    /// Random, of this start of the machine alone: a report of another start does not have it.
    pub nonce: String,
    /// How.
    pub method: Method,
    /// Every device that the machine has.
    pub devices: Vec<Expected>,
}

/// One device of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Its place in the machine, from 0.
    pub slot: u8,
    /// What it is, `vvvv:dddd`.
    pub id: String,
    /// How much memory it has, as the host knows it.
    pub bytes: u64,
}

/// What the machine says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// It is not stuck. Proves nothing.
    Progress(Progress),
    /// The last line.
    Report(Report),
}

/// How far one device has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Which.
    pub slot: u8,
    /// What has just begun with it.
    pub step: String,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The order's.
    pub run: String,
    /// The order's.
    pub nonce: String,
    /// Which build of which program.
    pub tool: String,
    /// One for every device of the order.
    pub devices: Vec<Outcome>,
}

/// What came of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// Its place.
    pub slot: u8,
    /// All that could be reached was overwritten and read back.
    pub cleaned: bool,
    /// Its memory.
    pub bytes_total: u64,
    /// Overwritten, with the pattern and then with zeros.
    pub bytes_written: u64,
    /// Read back as written, both times.
    pub bytes_verified: u64,
    /// Not reached: what the driver keeps for itself.
    pub bytes_unreached: u64,
    /// Not zero before.
    pub bytes_dirty_before: u64,
    /// What was written.
    pub pattern: String,
    /// Milliseconds.
    pub took_ms: u64,
    /// Why it is not clean.
    pub detail: String,
}

/// The root port behind which the device of a place sits: device and function on the machine's bus 0. Numbers
/// of buses are the firmware's to give; this is not.
pub fn port_of(slot: u8) -> (u8, u8) {
    (0x10 + slot / 8, slot % 8)
}

/// Puts lines together from pieces. One that is too long is passed over to its end.
#[derive(Debug, Default)]
pub struct Lines {
    held: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// Takes a piece and gives every line that it completes, without its end; `None` for one too long.
    pub fn push(&mut self, piece: &[u8], mut take: impl FnMut(Option<&[u8]>)) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (part, ended) = match part.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (part, false),
            };
            if self.held.len() + part.len() > LINE_MAX {
                self.too_long = true;
                self.held.clear();
            }
            if !self.too_long {
                self.held.extend_from_slice(part);
            }
            if ended {
                take((!self.too_long).then_some(self.held.as_slice()));
                self.held.clear();
                self.too_long = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn places_are_ports_of_their_own() {
        let all: std::collections::BTreeSet<(u8, u8)> = (0..SLOTS).map(port_of).collect();
        assert_eq!((all.len(), port_of(0), port_of(15)), (16, (0x10, 0), (0x11, 7)));
    }

    #[test]
    fn wire_form() {
        let order = Order {
            run: "r".into(),
            nonce: "n".into(),
            method: Method::Bar,
            devices: vec![Expected { slot: 0, id: "1af4:1110".into(), bytes: 16 << 20 }],
        };
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(
            text,
            r#"{"run":"r","nonce":"n","method":"bar","devices":[{"slot":0,"id":"1af4:1110","bytes":16777216}]}"#
        );
        let said = Said::Progress(Progress { slot: 3, step: "zero".into() });
        assert_eq!(serde_json::to_string(&said).unwrap(), r#"{"progress":{"slot":3,"step":"zero"}}"#);
        for more in [
            r#"{"progress":{"slot":3,"step":"zero","x":1}}"#,
            r#"{"progress":{"slot":300,"step":"zero"}}"#,
            r#"{"progress":{"slot":3}}"#,
            r#"{"progress":{"slot":3,"step":"zero"},"report":{}}"#,
            r#"{"other":{}}"#,
        ] {
            assert!(serde_json::from_str::<Said>(more).is_err(), "{more}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            lines in prop::collection::vec("[a-z]{0,20}", 0..20), cut in 1usize..9,
        ) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let (mut held, mut got) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(cut) {
                held.push(piece, |line| got.push(String::from_utf8(line.unwrap().to_vec()).unwrap()));
            }
            prop_assert_eq!(got, lines);
        }
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for _ in 0..100 {
            lines.push(&[b'x'; 4096], |_| panic!("it has not ended"));
            assert!(lines.held.len() <= LINE_MAX);
        }
        lines.push(b"\nnext\n", |line| got.push(line.map(<[u8]>::to_vec)));
        assert_eq!(got, [None, Some(b"next".to_vec())]);
    }
}
