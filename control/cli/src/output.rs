//! Answers on standard output, in the form that was asked for: tables for people, JSON and CSV for the rest.

use crate::Failure;
use crate::text::{csv_field, json_line, json_pretty, plain};
use comfy_table::{Cell as TableCell, Color, ColumnConstraint, ContentArrangement, presets};
use owo_colors::{OwoColorize, Style};
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// In which form answers come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One document; of a watch, one a line.
    Json,
    /// Lists for a spreadsheet.
    Csv,
}

/// Of the terminal, for the last column of a table.
const ROOM: u16 = 16;

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// On its way.
    Busy,
    /// Somebody should look.
    Bad,
    /// Over, or of no weight.
    Dim,
}

/// One value: as people read it, as scripts do, and its tone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    shown: String,
    raw: String,
    tone: Tone,
}

impl Cell {
    /// The same for people and for scripts.
    pub fn new(text: impl Into<String>) -> Self {
        let shown = text.into();
        Self { raw: shown.clone(), shown, tone: Tone::Plain }
    }

    /// A word for people, another for scripts.
    pub fn both(shown: impl Into<String>, raw: impl Into<String>) -> Self {
        Self { shown: shown.into(), raw: raw.into(), tone: Tone::Plain }
    }

    /// The same in a tone.
    #[must_use]
    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// As people read it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// What its colour means.
    pub fn tone_of(&self) -> Tone {
        self.tone
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// A list: a row an item.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Names of the columns, lower case.
    pub columns: Vec<&'static str>,
    /// As wide as the columns.
    pub rows: Vec<Vec<Cell>>,
    /// What stands there where there is no row.
    pub empty: &'static str,
}

impl Table {
    /// With a width the columns share it, without one each is as wide as it must be.
    pub fn text(&self, colour: bool, width: Option<u16>) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING).set_header(self.columns.iter().map(|c| c.to_uppercase()));
        if colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| {
                let text = if cell.shown.is_empty() { "-".into() } else { plain(&cell.shown) };
                let styled = TableCell::new(text);
                match paint(cell.tone) {
                    Some(c) if colour => styled.fg(c),
                    _ => styled,
                }
            }));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // The last column has the long texts: where there is room for them, only they are broken.
        let widths = table.column_max_content_widths();
        let others = widths.split_last().map_or(&[] as &[u16], |(_, others)| others);
        let taken: u16 = others.iter().map(|w| w.saturating_add(2)).fold(0, u16::saturating_add);
        if width.is_some_and(|width| taken.saturating_add(ROOM) <= width) {
            for column in table.column_iter_mut().take(others.len()) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.lines().flat_map(|line| [line.trim_end().to_owned(), "\n".to_owned()]).collect()
    }

    /// With a header, and the values as scripts read them.
    pub fn csv(&self) -> String {
        let line = |fields: Vec<String>| format!("{}\n", fields.join(","));
        let header = line(self.columns.iter().map(|c| csv_field(&c.replace(' ', "_"))).collect());
        let rows = self.rows.iter().map(|row| line(row.iter().map(|cell| csv_field(&cell.raw)).collect()));
        std::iter::once(header).chain(rows).collect()
    }
}

/// One thing: a title and what there is to say of it.
#[derive(Debug, Clone, Default)]
pub struct Sheet {
    title: String,
    state: Option<Cell>,
    fields: Vec<(&'static str, Cell)>,
}

impl Sheet {
    /// Of this thing.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// The word that stands behind the title.
    #[must_use]
    pub fn state(mut self, state: Cell) -> Self {
        self.state = Some(state);
        self
    }

    /// One more line, if there is something to say. A label that is empty continues the last.
    pub fn line(&mut self, label: &'static str, value: impl Into<Cell>) -> &mut Self {
        let value = value.into();
        if !value.shown.is_empty() {
            self.fields.push((label, value));
        }
        self
    }

    /// As people read it.
    pub fn text(&self, colour: bool) -> String {
        let widest = self.fields.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let mut text = style(Style::new().bold(), &plain(&self.title), colour);
        if let Some(state) = &self.state {
            text.push_str(&format!("  {}", toned(state.tone, &plain(&state.shown), colour)));
        }
        text.push('\n');
        for (label, value) in &self.fields {
            let label = style(Style::new().dimmed(), &format!("{label:<widest$}"), colour);
            text.push_str(&format!("  {label}  {}\n", toned(value.tone, &plain(&value.shown), colour)));
        }
        text
    }

    /// One row, with the labels as columns.
    pub fn csv(&self) -> String {
        let mut columns = vec!["name".to_owned()];
        let mut values = vec![self.title.clone()];
        if let Some(state) = &self.state {
            columns.push("state".to_owned());
            values.push(state.raw.clone());
        }
        for (label, value) in &self.fields {
            match values.last_mut().filter(|_| label.is_empty()) {
                Some(last) => last.push_str(&format!("; {}", value.raw)),
                None => {
                    columns.push(label.replace(' ', "_"));
                    values.push(value.raw.clone());
                }
            }
        }
        let line = |fields: Vec<String>| {
            format!("{}\n", fields.iter().map(|f| csv_field(f)).collect::<Vec<_>>().join(","))
        };
        line(columns) + &line(values)
    }
}

/// Where answers go, and in which form.
#[derive(Debug, Clone)]
pub struct Output {
    /// The form.
    pub format: Format,
    /// Answers only: no remarks, no next commands, no progress.
    pub quiet: bool,
    /// On standard output.
    pub colour: bool,
    /// On standard error.
    pub colour_errors: bool,
    /// Of the terminal, where there is one.
    pub width: Option<u16>,
}

impl Output {
    /// As the terminal and the environment (`NO_COLOR`, `TERM`) want it.
    pub fn new(format: Format, quiet: bool) -> Self {
        let named = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let willing = !named("NO_COLOR") && std::env::var_os("TERM").is_some_and(|t| t != "dumb");
        let tty = io::stdout().is_terminal();
        Self {
            format,
            quiet,
            colour: willing && tty,
            colour_errors: willing && io::stderr().is_terminal(),
            width: if tty { comfy_table::Table::new().width() } else { None },
        }
    }

    /// A list.
    pub fn list(&self, table: &Table, json: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Table => put(&table.text(self.colour, self.width)),
            Format::Json => put(&format!("{}\n", json_pretty(json))),
            Format::Csv => put(&table.csv()),
        }
    }

    /// One thing.
    pub fn sheet(&self, sheet: &Sheet, json: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Table => put(&sheet.text(self.colour)),
            Format::Json => put(&format!("{}\n", json_pretty(json))),
            Format::Csv => put(&sheet.csv()),
        }
    }

    /// What was done, in one sentence; for scripts the thing it was done to.
    pub fn done(&self, sentence: &str, json: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Table if self.quiet => Ok(()),
            Format::Table => put(&format!("{}\n", plain(sentence))),
            Format::Json | Format::Csv => put(&format!("{}\n", json_pretty(json))),
        }
    }

    /// An answer of one line.
    pub fn answer(&self, line: &str, json: &Value) -> Result<(), Failure> {
        match self.format {
            Format::Json => put(&format!("{}\n", json_pretty(json))),
            Format::Table | Format::Csv => put(&format!("{}\n", plain(line))),
        }
    }

    /// One of many JSON documents, on a line of its own.
    pub fn document(&self, json: &Value) -> Result<(), Failure> {
        put(&format!("{}\n", json_line(json)))
    }

    /// The next command, for people who want to know.
    pub fn next(&self, command: &str) -> Result<(), Failure> {
        if self.format != Format::Table || self.quiet {
            return Ok(());
        }
        put(&format!("  {} {}\n", style(Style::new().dimmed(), "next:", self.colour), plain(command)))
    }

    /// What must be seen for the command to come to its end, beside the answer.
    pub fn must_see(&self, text: &str) {
        tell(&format!("{}\n", plain(text)));
    }

    /// A remark, for people, beside the answer.
    pub fn remark(&self, text: &str) {
        if !self.quiet {
            tell(&format!("{}\n", plain(text)));
        }
    }

    /// A text in a tone, escaped.
    pub fn toned(&self, tone: Tone, text: &str) -> String {
        toned(tone, &plain(text), self.colour)
    }

    /// What went wrong.
    pub fn failure(&self, failure: &Failure) {
        let text = match self.format {
            Format::Json => failure.json(),
            Format::Table | Format::Csv => failure.text(self.colour_errors),
        };
        tell(&text);
    }
}

/// Writes to standard output; a reader who left ends the command without a word.
pub fn put(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::nobody_reads(),
        _ => Failure::new(format!("cannot write to standard output: {e}")),
    })
}

/// Writes to standard error; where nobody reads that either, there is nobody to tell.
fn tell(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn toned(tone: Tone, text: &str, colour: bool) -> String {
    let style_of = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => Style::new().green(),
        Tone::Busy => Style::new().yellow(),
        Tone::Bad => Style::new().red(),
        Tone::Dim => Style::new().dimmed(),
    };
    style(style_of, text, colour)
}

fn style(style: Style, text: &str, colour: bool) -> String {
    if colour { text.style(style).to_string() } else { text.to_owned() }
}

/// As [`toned`], for tables, which measure their cells themselves.
fn paint(tone: Tone) -> Option<Color> {
    match tone {
        Tone::Plain => None,
        Tone::Good => Some(Color::Green),
        Tone::Busy => Some(Color::Yellow),
        Tone::Bad => Some(Color::Red),
        Tone::Dim => Some(Color::DarkGrey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            columns: vec!["name", "iommu group", "state"],
            rows: vec![
                vec!["a".into(), "1".into(), Cell::both("ready", "READY").tone(Tone::Good)],
                vec!["long\u{1b}[2Jname".into(), String::new().into(), "failed, because".into()],
            ],
            empty: "nothing",
        }
    }

    #[test]
    fn a_table_for_people_and_one_for_scripts() {
        insta::assert_snapshot!(table().text(false, None), @r"
        NAME               IOMMU GROUP  STATE
        a                  1            ready
        long\u{1b}[2Jname  -            failed, because
        ");
        insta::assert_snapshot!(table().csv(), @r#"
        name,iommu_group,state
        a,1,READY
        long\u{1b}[2Jname,,"failed, because"
        "#);
        assert_eq!(Table { empty: "nothing", ..Table::default() }.text(true, None), "nothing\n");
    }

    #[test]
    fn colours_do_not_change_the_letters() {
        let coloured = table().text(true, Some(60));
        assert!(coloured.contains("\u{1b}["));
        assert!(!table().text(false, Some(60)).contains('\u{1b}'));
    }

    #[test]
    fn only_the_last_column_is_broken() {
        let mut table = table();
        table.rows[0][2] = "one two three four five six".into();
        insta::assert_snapshot!(table.text(false, Some(52)), @r"
        NAME               IOMMU GROUP  STATE
        a                  1            one two three four
                                        five six
        long\u{1b}[2Jname  -            failed, because
        ");
    }

    #[test]
    fn a_sheet() {
        let mut sheet = Sheet::new("heart/main").state(Cell::new("ready").tone(Tone::Good));
        sheet.line("level", "3").line("approvals", "2 of 2").line("", "frida").line("reason", "");
        insta::assert_snapshot!(sheet.text(false), @r"
        heart/main  ready
          level      3
          approvals  2 of 2
                     frida
        ");
        insta::assert_snapshot!(sheet.csv(), @r"
        name,state,level,approvals
        heart/main,ready,3,2 of 2; frida
        ");
    }
}
