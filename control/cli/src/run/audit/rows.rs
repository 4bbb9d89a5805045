//! Entries of the log as they come, none kept: a log is long.

use crate::Failure;
use crate::args::Log;
use crate::output::{Format, Output, Tone, put};
use crate::text::{Clock, csv_field, json_line, parse_since, plain};
use holm_control::audit::Entry;
use jiff::Timestamp;
use serde_json::Value;

/// What an entry says came of it.
const OUTCOMES: [&str; 3] = ["allowed", "refused", "observed"];

/// Which entries.
#[derive(Debug)]
pub(super) struct Filter {
    actor: Option<String>,
    project: Option<String>,
    action: Option<String>,
    outcome: Option<String>,
    since: Option<Timestamp>,
}

impl Filter {
    pub(super) fn new(wanted: &Log, clock: &Clock) -> Result<Self, String> {
        if let Some(other) = wanted.outcome.as_deref().filter(|outcome| !OUTCOMES.contains(outcome)) {
            return Err(format!("`{other}` is no outcome: there are {}", OUTCOMES.join(", ")));
        }
        let since = wanted.since.as_deref().map(|text| parse_since(text, clock)).transpose()?;
        Ok(Self {
            actor: wanted.person.as_ref().map(|name| format!("person/{name}")),
            project: wanted.project.clone(),
            action: wanted.action.clone(),
            outcome: wanted.outcome.clone(),
            since,
        })
    }

    pub(super) fn takes(&self, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let action = self.action.as_deref().is_none_or(|wanted| {
            let rest = entry.action.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        action
            && same(&self.actor, &entry.actor)
            && same(&self.outcome, &entry.outcome)
            && same(&self.project, entry.project.as_deref().unwrap_or_default())
            && self.since.is_none_or(|since| entry.time >= since)
    }
}

const COLUMNS: &str = "index,time,actor,peer,action,resource,project,outcome,reasons,request";

/// Writes them in the form that was asked for.
pub(super) struct Rows<'a> {
    output: &'a Output,
    clock: &'a Clock,
    count: u64,
}

impl<'a> Rows<'a> {
    pub(super) fn new(output: &'a Output, clock: &'a Clock) -> Self {
        Self { output, clock, count: 0 }
    }

    pub(super) fn begin(&self) -> Result<(), Failure> {
        match self.output.format {
            Format::Table => put(&line(&["ENTRY", "TIME", "WHO", "OUTCOME", "ACTION", "ABOUT", ""])),
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
                format!("{}{}", if self.count == 0 { "\n" } else { ",\n" }, json_line(&value))
            }
            Format::Csv => csv(entry),
        };
        self.count += 1;
        put(&text)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn end(self) -> Result<(), Failure> {
        if self.output.format == Format::Json { put("\n]\n") } else { Ok(()) }
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

fn csv(entry: &Entry) -> String {
    let fields = [
        entry.index.to_string(),
        entry.time.to_string(),
        entry.actor.clone(),
        entry.peer.clone(),
        entry.action.clone(),
        entry.resource.clone(),
        entry.project.clone().unwrap_or_default(),
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
            level: None,
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
    fn filters() {
        let none =
            || Log { person: None, project: None, action: None, outcome: None, since: None, last: None };
        let takes = |log: Log| Filter::new(&log, &clock()).unwrap().takes(&entry());
        let some = |text: &str| Some(text.to_owned());
        assert!(takes(none()));
        assert!(takes(Log {
            person: some("ada"),
            project: some("heart"),
            outcome: some("refused"),
            ..none()
        }));
        assert!(takes(Log { action: some("slice"), since: some("2h"), ..none() }));
        assert!(!takes(Log { person: some("ad"), ..none() }));
        assert!(!takes(Log { action: some("sli"), ..none() }));
        assert!(!takes(Log { action: some("slice.approve.x"), ..none() }));
        assert!(!takes(Log { since: some("10m"), ..none() }));
        assert!(!takes(Log { project: some(""), ..none() }));
    }

    #[test]
    fn lines() {
        let output =
            Output { format: Format::Table, quiet: false, colour: false, colour_errors: false, width: None };
        insta::assert_snapshot!(row(&entry(), &clock(), &output));
        insta::assert_snapshot!(csv(&entry()));
    }
}
