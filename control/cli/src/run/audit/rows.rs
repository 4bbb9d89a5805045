//! Entries of the log as they come, none kept: a log is long.

use crate::Failure;
use crate::output::{Format, Output, Tone, put};
use crate::text::{Clock, csv_field, json_line, plain};
use holm_control::audit::Entry;
use serde_json::Value;

pub(super) const COLUMNS: &str =
    "index,time,actor,peer,action,resource,project,level,outcome,reasons,request";

/// Writes them in the form that was asked for.
pub(super) struct Rows<'a> {
    output: &'a Output,
    clock: &'a Clock,
    /// JSON: one document to the line, for what has no end; otherwise one array.
    lines: bool,
    count: u64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(output: &'a Output, clock: &'a Clock, lines: bool) -> Self {
        Self { output, clock, lines, count: 0 }
    }

    pub(super) fn begin(&self) -> Result<(), Failure> {
        match self.output.format {
            Format::Table => put(&line(&["ENTRY", "TIME", "WHO", "OUTCOME", "ACTION", "ABOUT", ""])),
            Format::Json if self.lines => Ok(()),
            Format::Json => put("["),
            Format::Csv => put(&format!("{COLUMNS}\n")),
        }
    }

    pub(super) fn add(&mut self, entry: &Entry, body: &[u8]) -> Result<(), Failure> {
        let text = match self.output.format {
            Format::Table => row(entry, self.clock, self.output),
            Format::Json => {
                let value: Value = serde_json::from_slice(body)
                    .map_err(|e| Failure::new(format!("entry {} cannot be read: {e}", entry.index)))?;
                match (self.lines, self.count) {
                    (true, _) => format!("{}\n", json_line(&value)),
                    (false, 0) => format!("\n{}", json_line(&value)),
                    (false, _) => format!(",\n{}", json_line(&value)),
                }
            }
            Format::Csv => csv(entry),
        };
        self.count += 1;
        put(&text)
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        if self.output.format == Format::Json && !self.lines { put("\n]\n") } else { Ok(()) }
    }
}

fn row(entry: &Entry, clock: &Clock, output: &Output) -> String {
    let tone = match entry.outcome.as_str() {
        "refused" => Tone::Bad,
        "allowed" => Tone::Good,
        _ => Tone::Plain,
    };
    // Which rules allowed it is for `audit show`; why it was refused is news.
    let reasons = match entry.outcome.as_str() {
        "refused" => entry.reasons.join("; "),
        _ if entry.detail.get("dry_run") == Some(&Value::Bool(true)) => {
            "a dry run: nothing was changed".to_owned()
        }
        _ => String::new(),
    };
    let fields = [
        &entry.index.to_string(),
        &clock.local(entry.time),
        &entry.actor,
        &output.toned(tone, &format!("{:<8}", plain(&entry.outcome))),
        &entry.action,
        &entry.resource,
        &reasons,
    ];
    // The outcome is escaped above, and coloured; the others are escaped here.
    let fields: Vec<String> = fields
        .iter()
        .enumerate()
        .map(|(at, text)| if at == 3 { text.to_string() } else { plain(text).into_owned() })
        .collect();
    line(&fields.iter().map(String::as_str).collect::<Vec<_>>())
}

fn line(fields: &[&str]) -> String {
    const WIDTHS: [usize; 7] = [6, 19, 18, 8, 20, 0, 0];
    let cells = fields.iter().zip(WIDTHS).map(|(text, width)| format!("{text:<width$}"));
    format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
}

pub(super) fn csv(entry: &Entry) -> String {
    let fields = [
        entry.index.to_string(),
        entry.time.to_string(),
        entry.actor.clone(),
        entry.peer.clone(),
        entry.action.clone(),
        entry.resource.clone(),
        entry.project.clone().unwrap_or_default(),
        entry.level.clone().unwrap_or_default(),
        entry.outcome.clone(),
        entry.reasons.join("; "),
        entry.request.clone(),
    ];
    format!("{}\n", fields.iter().map(|f| csv_field(f)).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            v: 1,
            index: 7,
            time: "2026-11-03T13:02:11Z".parse().unwrap(),
            request: "r".to_owned(),
            actor: "person/ada".to_owned(),
            peer: "127.0.0.1:5000".to_owned(),
            action: "slice.approve".to_owned(),
            resource: "slice/heart/main".to_owned(),
            project: Some("heart".to_owned()),
            level: Some("3".to_owned()),
            outcome: "refused".to_owned(),
            reasons: vec!["only an officer approves".to_owned(), "and not \u{1b}[1mher own".to_owned()],
            pack: None,
            detail: Value::Null,
            changes: Vec::new(),
        }
    }

    fn clock() -> Clock {
        Clock { now: "2026-11-03T14:00:00Z".parse().unwrap(), zone: jiff::tz::TimeZone::UTC }
    }

    #[test]
    fn lines() {
        let output =
            Output { format: Format::Table, quiet: false, colour: false, colour_errors: false, width: None };
        insta::assert_snapshot!(row(&entry(), &clock(), &output));
        insta::assert_snapshot!(csv(&entry()));
    }
}
