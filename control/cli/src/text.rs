//! Texts that people read: escaped, sized, timed. Pure but for the clock's making.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;

/// A text from elsewhere, safe on a terminal: control characters, and those that turn the direction of
/// writing or hide, are escaped. One line stays one line.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// [`plain`], line by line.
pub fn plain_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(plain).collect();
    lines.iter().flat_map(|line| [line.as_ref(), "\n"]).collect()
}

/// [`plain`], for XML and HTML: text stays text, inside attributes, too.
pub fn markup(text: &str) -> String {
    let mut out = String::new();
    for c in plain(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Controls (C0, DEL, C1), line separators, marks of direction, and what has no width.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// JSON in one line, in which nothing is left that a terminal would obey.
pub fn json_line(value: &Value) -> String {
    json_safe(&value.to_string())
}

/// JSON over several lines.
pub fn json_pretty(value: &Value) -> String {
    json_safe(&format!("{value:#}"))
}

/// `serde_json` escapes C0 alone. The others can only stand inside strings, where this is their escape.
fn json_safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut pair = [0; 2];
    for c in json.chars() {
        if c != '\n' && is_unsafe(c) {
            for unit in c.encode_utf16(&mut pair) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// One field of CSV (RFC 4180). A text that a spreadsheet would take for a formula gets an apostrophe.
pub fn csv_field(text: &str) -> String {
    let text = plain(text);
    let formula = text.starts_with(['=', '+', '-', '@']) && text.parse::<f64>().is_err();
    let text = if formula { Cow::Owned(format!("'{text}")) } else { text };
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into_owned() }
}

/// What time it is, and where.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Now.
    pub now: Timestamp,
    /// The reader's zone.
    pub zone: TimeZone,
}

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self { now: Timestamp::now(), zone: TimeZone::system() }
    }

    /// `2026-11-03 14:02:11`, local.
    pub fn local(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// `14:02:11`, local.
    pub fn time(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }

    /// `4 min ago`, `in 29 d 4 h`.
    pub fn relative(&self, at: Timestamp) -> String {
        let past = self.now.duration_since(at);
        if past.abs() < SignedDuration::from_secs(5) {
            "just now".to_owned()
        } else if past.is_positive() {
            format!("{} ago", roughly(past))
        } else {
            format!("in {}", roughly(past.abs()))
        }
    }

    /// Both: for where there is room.
    pub fn full(&self, at: Timestamp) -> String {
        format!("{} ({})", self.local(at), self.relative(at))
    }
}

/// A time of the wire; `None` where there is none, or none that can be.
pub fn instant(at: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    at.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok())
}

/// As the wire has it.
pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// How long, in its two largest units, to the nearest of the smaller one: `4 min`, `3 h 12 min`, `1 d 23 h`.
fn roughly(duration: SignedDuration) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = duration.as_secs();
    let nearest = |unit: i64| seconds.saturating_add(unit / 2) / unit * unit;
    // Minutes stand alone: seconds of what is so long past say nothing.
    let seconds = match seconds {
        0..60 => seconds,
        60..86_400 => nearest(60),
        _ => nearest(3600),
    };
    let mut left = seconds;
    let mut parts = Vec::new();
    for (unit, name) in UNITS {
        if left >= unit {
            parts.push(format!("{} {name}", left / unit));
            left %= unit;
        }
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// How long something took: `0.4 s`, `12.0 s`, `3 min 5 s`, `2 h 1 min`.
pub fn took(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..60 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Bytes in the largest binary unit that leaves no more than one digit behind the point.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = "B";
    let mut tenths = u128::from(bytes) * 10;
    for larger in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

/// MiB as people say it.
pub fn mib(mib: u64) -> String {
    bytes(mib.saturating_mul(1 << 20))
}

/// A size with its unit, `512M`, `8G`, `1.5T`, as MiB. Binary units, as memory is sold.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let bad = || format!("`{}` is no size: write a number and M, G or T, as in `8G`", plain(text));
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "M" | "MIB" => 1,
        "G" | "GIB" => 1024,
        "T" | "TIB" => 1024 * 1024,
        _ => return Err(bad()),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let number = |text: &str| -> Option<u64> {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    };
    let mut mib = number(whole).and_then(|n| n.checked_mul(factor)).ok_or_else(bad)?;
    if digits.contains('.') {
        let scale = u32::try_from(part.len()).ok().filter(|n| *n <= 6).and_then(|n| 10_u64.checked_pow(n));
        let (part, scale) = number(part).zip(scale).ok_or_else(bad)?;
        let fraction = part.saturating_mul(factor);
        if fraction % scale != 0 {
            return Err(format!("`{}` is not a whole number of MiB", plain(text)));
        }
        mib = mib.checked_add(fraction / scale).ok_or_else(bad)?;
    }
    Ok(mib)
}

/// The same as whole GiB.
pub fn parse_gib(text: &str) -> Result<u64, String> {
    let mib = parse_mib(text)?;
    if mib % 1024 == 0 {
        Ok(mib / 1024)
    } else {
        let next = mib.div_ceil(1024);
        Err(format!("`{}` is not a whole number of GiB: write `{next}G`, or more", plain(text)))
    }
}

/// The same, or `0` for none.
pub fn parse_gib_or_none(text: &str) -> Result<u64, String> {
    if text.trim() == "0" { Ok(0) } else { parse_gib(text) }
}

/// A time limit, `90s`, `10m`, `1h30m`.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let bad = || format!("`{}` is no duration: write `90s`, `10m` or `1h30m`", plain(text));
    let duration: SignedDuration = text.parse().map_err(|_| bad())?;
    std::time::Duration::try_from(duration).ok().filter(|d| !d.is_zero()).ok_or_else(bad)
}

/// A job's time limit: `90m` or `12h`, or as Slurm writes it, `90` (minutes), `12:00:00`, `2-00`; in Slurm's writing.
pub fn parse_time_limit(text: &str) -> Result<String, String> {
    let bad = || format!("`{}` is no time limit: write `90m`, `12h`, or D-HH:MM:SS", plain(text));
    // Without a unit it is Slurm's.
    let with_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    if let Some(ahead) = days(text).or_else(|| text.parse().ok()).filter(|_| with_unit) {
        let seconds = u64::try_from(ahead.as_secs()).ok().filter(|seconds| *seconds > 0).ok_or_else(bad)?;
        let (days, left) = (seconds / 86_400, seconds % 86_400);
        return Ok(format!("{days}-{:02}:{:02}:{:02}", left / 3600, left / 60 % 60, left % 60));
    }
    let (days, time) = text.split_once('-').map_or((None, text), |(days, time)| (Some(days), time));
    let number = |part: &str| (1..=6).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = time.split(':').collect();
    let good = days.is_none_or(number) && parts.len() <= 3 && parts.iter().all(|part| number(part));
    if good { Ok(text.to_owned()) } else { Err(bad()) }
}

/// A moment in the past: `2h` (ago), `2026-11-03`, `2026-11-03 14:00` (local), or RFC 3339.
pub fn parse_since(text: &str, clock: &Clock) -> Result<Timestamp, String> {
    let bad = || {
        format!(
            "`{}` is no time: write `2h` or `30d` (ago), `2026-11-03`, `2026-11-03T14:00` or RFC 3339",
            plain(text)
        )
    };
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(civil) = text.parse::<jiff::civil::DateTime>() {
        return civil.to_zoned(clock.zone.clone()).map(|z| z.timestamp()).map_err(|_| bad());
    }
    clock.now.checked_sub(span(text).ok_or_else(bad)?.abs()).map_err(|_| bad())
}

/// A moment to come: `2026-12-01`, `2026-12-01T08:00` (local), RFC 3339, or `36h` or `90d` (from now).
pub fn parse_when(text: &str, clock: &Clock) -> Result<Timestamp, String> {
    let bad = || {
        format!(
            "`{}` is no time: write `2026-12-01`, `2026-12-01T08:00`, `36h` or `90d` (from now), or RFC 3339",
            plain(text)
        )
    };
    match span(text) {
        Some(ahead) => clock.now.checked_add(ahead.abs()).map_err(|_| bad()),
        None => parse_since(text, clock).map_err(|_| bad()),
    }
}

/// `36h` or `90d`: a time by the clock, another one each time.
pub fn span(text: &str) -> Option<SignedDuration> {
    days(text).or_else(|| text.parse().ok())
}

/// `90d`.
fn days(text: &str) -> Option<SignedDuration> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u16>().ok());
    days.map(|days| SignedDuration::from_hours(i64::from(days) * 24))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_by_the_clock_and_what_is_a_moment() {
        assert!(["36h", "-36h", "90d", "2h 30m", "PT2H"].iter().all(|text| span(text).is_some()));
        let moments = ["2026-12-01", "2026-12-01T08:00", "2026-12-01T08:00:00Z", "", "never"];
        assert!(moments.iter().all(|text| span(text).is_none()));
    }

    fn clock() -> Clock {
        Clock { now: "2026-11-03T13:02:11Z".parse().unwrap(), zone: TimeZone::fixed(jiff::tz::offset(1)) }
    }

    #[test]
    fn times_as_people_say_them() {
        let clock = clock();
        let at = |text: &str| clock.relative(text.parse().unwrap());
        assert_eq!(at("2026-11-03T13:02:09Z"), "just now");
        assert_eq!(at("2026-11-03T12:58:00Z"), "4 min ago");
        assert_eq!(at("2026-11-01T13:00:00Z"), "2 d ago");
        assert_eq!(at("2026-12-03T13:02:12Z"), "in 30 d");
        // Never less than it is by more than half of the last unit.
        assert_eq!(at("2026-11-01T14:02:11Z"), "1 d 23 h ago");
        assert_eq!(at("2026-11-04T12:02:11Z"), "in 23 h");
        assert_eq!(at("2026-11-03T09:50:00Z"), "3 h 12 min ago");
        assert_eq!(at("2026-11-03T13:01:12Z"), "59 s ago");
        assert_eq!(at("2026-11-03T13:00:40Z"), "2 min ago");
        assert_eq!(at("2026-11-02T13:02:31Z"), "1 d ago");
        assert_eq!(at("2026-11-03T12:02:31Z"), "1 h ago");
        assert_eq!(clock.local(clock.now), "2026-11-03 14:02:11");
        assert_eq!(
            [took(0), took(12_340), took(185_000), took(7_260_000)],
            ["0.0 s", "12.3 s", "3 min 5 s", "2 h 1 min"]
        );
    }

    #[test]
    fn since_takes_what_people_type() {
        let clock = clock();
        let at = |text: &str| parse_since(text, &clock).map(|t| t.to_string());
        assert_eq!(at("2h").unwrap(), "2026-11-03T11:02:11Z");
        assert_eq!(at("2026-11-03").unwrap(), "2026-11-02T23:00:00Z");
        assert_eq!(at("2026-11-03T09:30").unwrap(), "2026-11-03T08:30:00Z");
        assert_eq!(at("2026-11-03T09:30:00Z").unwrap(), "2026-11-03T09:30:00Z");
        assert!(at("yesterday").is_err());
    }

    #[test]
    fn when_takes_what_people_type() {
        let clock = clock();
        let at = |text: &str| parse_when(text, &clock).map(|t| t.to_string());
        assert_eq!(at("36h").unwrap(), "2026-11-05T01:02:11Z");
        assert_eq!(at("2026-12-01").unwrap(), "2026-11-30T23:00:00Z");
        assert_eq!(at("2026-12-01T08:00").unwrap(), "2026-12-01T07:00:00Z");
        assert_eq!(at("2d").unwrap(), "2026-11-05T13:02:11Z");
        assert!(at("tomorrow").is_err() && at("d").is_err());
    }

    #[test]
    fn time_limits_as_people_and_as_slurm_write_them() {
        let limit = |text: &str| parse_time_limit(text);
        assert_eq!(limit("90m").unwrap(), "0-01:30:00");
        assert_eq!(limit("1h30m").unwrap(), "0-01:30:00");
        assert_eq!(limit("2d").unwrap(), "2-00:00:00");
        for slurms in ["90", "90:00", "12:00:00", "2-00", "2-00:30", "14-00:00:00"] {
            assert_eq!(limit(slurms).unwrap(), slurms);
        }
        for bad in ["", "0s", "-5m", "1:2:3:4", "soon", "1-", "-1", "90;id", "1-2-3"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_mib("512M"), Ok(512));
        assert_eq!(parse_mib("8G"), Ok(8192));
        assert_eq!(parse_mib("1.5GiB"), Ok(1536));
        assert_eq!(parse_gib("1T"), Ok(1024));
        for bad in
            ["", "8", "G", "8 G", "-1G", "8.G", ".5G", "0.3G", "99999999999999999999T", "8X", "1.0000000G"]
        {
            assert!(parse_mib(bad).is_err(), "{bad}");
        }
        assert!(parse_gib("512M").is_err());
        assert_eq!(
            [bytes(0), bytes(1536), bytes(32 << 30), mib(1_572_864)],
            ["0 B", "1.5 KiB", "32 GiB", "1.5 TiB"]
        );
        assert!(
            parse_duration("10m").is_ok() && parse_duration("0s").is_err() && parse_duration("10").is_err()
        );
    }

    #[test]
    fn csv_is_quoted_and_no_formula() {
        assert_eq!(csv_field("a"), "a");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv_field("=1+1"), "'=1+1");
        assert_eq!(csv_field("-1"), "-1");
        assert_eq!(csv_field("a\nb"), "a\\nb");
    }

    proptest! {
        #[test]
        fn nothing_from_the_server_moves_the_cursor(text in "\\PC*[\u{0}-\u{1f}\u{7f}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}]*\\PC*") {
            prop_assert!(!plain(&text).contains(is_unsafe));
            let value = serde_json::json!({ "text": text });
            let line = json_line(&value);
            prop_assert!(!line.contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value.clone());
            prop_assert_eq!(serde_json::from_str::<Value>(&json_pretty(&value)).unwrap(), value);
        }
    }
}
