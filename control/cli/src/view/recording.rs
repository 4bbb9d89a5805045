//! Recordings of terminals, as a slice tells of them: nothing that it says is trusted.

use crate::output::{Cell, Table};
use crate::text::{Clock, bytes, took};
use holm_proto::guest::is_recording;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// What it is called.
    pub id: String,
    /// Whose terminal it was.
    pub user: String,
    /// When she came.
    pub began: Timestamp,
    /// When it last showed anything.
    pub last: Timestamp,
    /// Of what it showed.
    pub bytes: u64,
    /// Somebody is at it.
    pub open: bool,
}

impl Recording {
    /// Of `20261128-180102-ida-x9ZkQ0<TAB>SECONDS<TAB>BYTES<TAB>open|done`.
    fn parse(line: &str) -> Option<Self> {
        let [id, last, bytes, state] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        let began = DateTime::strptime("%Y%m%d-%H%M%S", id.get(..15)?).ok()?.to_zoned(TimeZone::UTC).ok()?;
        let user = id.get(16..id.len().checked_sub(7)?).filter(|user| !user.is_empty())?;
        Some(Self {
            id: is_recording(id).then(|| id.to_owned())?,
            user: user.to_owned(),
            began: began.timestamp(),
            last: Timestamp::from_second(last.parse().ok()?).ok()?,
            bytes: bytes.parse().ok()?,
            open: match state {
                "open" => true,
                "done" => false,
                _ => return None,
            },
        })
    }
}

/// What is a recording of what a slice said, oldest first.
pub fn parse_recordings(said: &[u8]) -> Vec<Recording> {
    let mut all: Vec<_> = String::from_utf8_lossy(said).lines().filter_map(Recording::parse).collect();
    all.sort_by(|one, other| (one.began, &one.id).cmp(&(other.began, &other.id)));
    all
}

/// A list.
pub fn recordings(all: &[Recording], clock: &Clock) -> Table {
    let row = |one: &Recording| {
        let lasted = u64::try_from(one.last.duration_since(one.began).as_millis()).unwrap_or_default();
        vec![
            one.user.as_str().into(),
            Cell::both(clock.relative(one.began), one.began.to_string()),
            if one.open { "still open".into() } else { took(lasted).into() },
            Cell::both(bytes(one.bytes), one.bytes.to_string()),
            one.id.as_str().into(),
        ]
    };
    Table {
        columns: vec!["who", "began", "lasted", "showed", "recording"],
        rows: all.iter().map(row).collect(),
        empty: "nobody has been at a terminal there",
    }
}

/// The same.
pub fn recording_json(one: &Recording) -> Value {
    json!({
        "id": one.id,
        "user": one.user,
        "began": one.began.to_string(),
        "last": one.last.to_string(),
        "bytes": one.bytes,
        "open": one.open,
    })
}

/// Without what a terminal obeys (ECMA-48). Nothing that can be read is left out, also not of what a terminal would keep to itself,
/// a title or the end of a sequence that is none: what was there may be what somebody wanted hidden.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                while chars.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)).is_some() {}
                chars.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
            }
            '\u{1b}' => {
                while chars.next_if(|c| ('\u{20}'..='\u{2f}').contains(c)).is_some() {}
                chars.next_if(|c| ('\u{30}'..='\u{7e}').contains(c));
            }
            // The end of a line, or of its first half.
            '\r' if chars.peek() != Some(&'\n') => out.push('\n'),
            '\r' | '\u{7}' => {}
            '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_slice_says_is_a_recording_or_nothing() {
        let said = "20261128-180302-ida-maria-x9ZkQ0\t1795888984\t17\topen\n20261128-180102-bo-AAAAAA\t1795888984\t1\tdone\n";
        let all = parse_recordings(said.as_bytes());
        let told: Vec<_> = all.iter().map(|one| (one.user.as_str(), one.bytes, one.open)).collect();
        assert_eq!(told, [("bo", 1, false), ("ida-maria", 17, true)]);
        assert_eq!(all[0].began.to_string(), "2026-11-28T18:01:02Z");
        for bad in [
            "",
            "lost+found\t1\t1\tdone",
            "20261128-180102-bo-AAAAAA\t1\t1\tdone\tmore",
            "20261128-180102-bo-AAAAAA\tx\t1\tdone",
            "20261128-180102-bo-AAAAAA\t1\t1\tperhaps",
            "20261328-180102-bo-AAAAAA\t1\t1\tdone",
            "20261128-180102--AAAAAA\t1\t1\tdone",
            "20261128-180102-\u{1b}[2J-AAAAAA\t1\t1\tdone",
        ] {
            assert_eq!(parse_recordings(bad.as_bytes()), [], "{bad}");
        }
    }

    #[test]
    fn what_was_shown_is_read_without_what_a_terminal_obeys() {
        let shown = |text| super::shown(text);
        assert_eq!(shown("\u{1b}[1;31mred\u{1b}[0m\r\nnext"), "red\nnext");
        assert_eq!(shown("\u{1b}]0;title\u{7}a\u{1b}(Bb\u{1b}[?25hc"), "0;titleabc");
        assert_eq!(
            shown("\u{1b}]0;x\u{1b}[0mall of it\u{1b}[\u{18}more\u{1b}[12é"),
            "0;xall of it\u{18}moreé"
        );
        assert_eq!(shown("hidden\rshown\r\n"), "hidden\nshown\n");
        assert_eq!(shown("\u{1b}"), "");
    }

    proptest! {
        #[test]
        fn nothing_of_it_is_a_sequence(text in any::<String>()) {
            let escapes = super::shown(&text).contains('\u{1b}');
            prop_assert!(!escapes);
            parse_recordings(text.as_bytes());
        }
    }
}
