//! What messages say: a text for each kind, built in, or from a file of the site's own.
//!
//! ```text
//!   Subject: {project}/{slice} waits for your approval
//!
//!   {by} asks for … {{ and }} are braces.
//! ```
//!
//! A template is checked when it is read: one that names what its kind does not have is refused, with file and line.

use super::event::{COMMON, Event, Kind};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The largest template, bytes.
const MOST: usize = 16 * 1024;
/// The longest value, in characters: codes of a whole host fit, and nobody's essay.
const VALUE_MAX: usize = 400;
/// The longest subject, in characters.
const SUBJECT_MAX: usize = 150;

/// Why a site's templates cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TemplateError {
    #[error("`{path}` cannot be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{path}`, line {line}: {what}")]
    Wrong { path: PathBuf, line: usize, what: String },
    #[error("`{path}` is of no kind of message: there are {kinds}")]
    Kind { path: PathBuf, kinds: String },
}

/// A text of every kind.
#[derive(Debug)]
pub struct Templates(BTreeMap<Kind, Template>);

/// One text.
#[derive(Debug)]
struct Template {
    subject: Vec<Piece>,
    body: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Field(&'static str),
}

/// What somebody reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// One line.
    pub subject: String,
    /// Lines.
    pub body: String,
}

impl Templates {
    /// The built-in ones, and those in the directory instead of them.
    pub fn load(directory: Option<&Path>) -> Result<Self, TemplateError> {
        let mut all = BTreeMap::new();
        for kind in Kind::ALL {
            let path = PathBuf::from(format!("{}.txt", kind.text()));
            all.insert(kind, parse(kind, built_in(kind), &path)?);
        }
        let Some(directory) = directory else { return Ok(Self(all)) };
        let unread = |source| TemplateError::Read { path: directory.to_path_buf(), source };
        for entry in std::fs::read_dir(directory).map_err(unread)? {
            let path = entry.map_err(unread)?.path();
            if path.extension().is_none_or(|ending| ending != "txt") {
                continue;
            }
            let named = |kind: &Kind| path.file_stem().is_some_and(|stem| stem == kind.text());
            let kind = Kind::ALL.into_iter().find(named).ok_or_else(|| TemplateError::Kind {
                path: path.clone(),
                kinds: Kind::ALL.map(Kind::text).join(", "),
            })?;
            let text = std::fs::read_to_string(&path)
                .map_err(|source| TemplateError::Read { path: path.clone(), source })?;
            all.insert(kind, parse(kind, &text, &path)?);
        }
        Ok(Self(all))
    }

    /// What is said of this event.
    pub fn text(&self, event: &Event) -> Text {
        let Some(template) = self.0.get(&event.kind) else {
            // There is one of every kind.
            return Text { subject: event.kind.text().to_owned(), body: String::new() };
        };
        Text {
            subject: line(&filled(&template.subject, event), SUBJECT_MAX),
            body: filled(&template.body, event),
        }
    }
}

/// One line that does not pretend to be another: no control characters, none that turn text around or hide in it.
pub fn line(text: &str, most: usize) -> String {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
    };
    text.chars().take(most).map(|c| if hidden(c) { ' ' } else { c }).collect()
}

fn filled(pieces: &[Piece], event: &Event) -> String {
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Field(name) => {
                let value = event.fields.get(name).map_or("", String::as_str);
                out.push_str(&line(value, VALUE_MAX));
            }
        }
    }
    out
}

fn parse(kind: Kind, text: &str, path: &Path) -> Result<Template, TemplateError> {
    let wrong = |line: usize, what: String| TemplateError::Wrong { path: path.to_path_buf(), line, what };
    if text.len() > MOST {
        return Err(wrong(1, format!("it has {} bytes, and {MOST} is the most", text.len())));
    }
    let mut lines = text.lines();
    let subject = lines.next().and_then(|first| first.strip_prefix("Subject: "));
    let subject = subject.ok_or_else(|| wrong(1, "it begins with `Subject: …`".to_owned()))?;
    if lines.next().is_some_and(|second| !second.is_empty()) {
        return Err(wrong(2, "an empty line stands between the subject and the text".to_owned()));
    }
    let subject = pieces(kind, subject).map_err(|what| wrong(1, what))?;
    let mut body = Vec::new();
    for (number, text) in (3..).zip(lines) {
        body.extend(pieces(kind, text).map_err(|what| wrong(number, what))?);
        body.push(Piece::Text("\n".to_owned()));
    }
    Ok(Template { subject, body })
}

/// A line's text and fields.
fn pieces(kind: Kind, text: &str) -> Result<Vec<Piece>, String> {
    if text.contains(|c: char| c.is_control() && c != '\t') {
        return Err("it has a control character".to_owned());
    }
    let (mut all, mut plain, mut rest) = (Vec::new(), String::new(), text.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '{' | '}' if rest.next_if_eq(&c).is_some() => plain.push(c),
            '{' => {
                let name: String = std::iter::from_fn(|| rest.next_if(|c| *c != '}')).collect();
                rest.next().ok_or("a `{` is not closed: write `{{` for a brace")?;
                all.push(Piece::Text(std::mem::take(&mut plain)));
                all.push(Piece::Field(field(kind, &name)?));
            }
            '}' => return Err("a `}` stands alone: write `}}` for a brace".to_owned()),
            c => plain.push(c),
        }
    }
    all.push(Piece::Text(plain));
    Ok(all)
}

fn field(kind: Kind, name: &str) -> Result<&'static str, String> {
    let fields = || kind.fields().iter().chain(&COMMON).copied();
    fields().find(|field| *field == name).ok_or_else(|| {
        let all: Vec<String> = fields().map(|field| format!("{{{field}}}")).collect();
        format!(
            "there is no `{{{}}}` in a message of this kind: there are {}",
            line(name, 40),
            all.join(", ")
        )
    })
}

fn built_in(kind: Kind) -> &'static str {
    match kind {
        Kind::ApprovalWanted => include_str!("templates/approval-wanted.txt"),
        Kind::MoreTimeWanted => include_str!("templates/more-time-wanted.txt"),
        Kind::SizeWanted => include_str!("templates/size-wanted.txt"),
        Kind::CodeWaits => include_str!("templates/code-waits.txt"),
        Kind::SliceApproved => include_str!("templates/slice-approved.txt"),
        Kind::SliceRejected => include_str!("templates/slice-rejected.txt"),
        Kind::SliceReady => include_str!("templates/slice-ready.txt"),
        Kind::SliceFailed => include_str!("templates/slice-failed.txt"),
        Kind::SliceStopped => include_str!("templates/slice-stopped.txt"),
        Kind::SliceFrozen => include_str!("templates/slice-frozen.txt"),
        Kind::Expiry => include_str!("templates/expiry.txt"),
        Kind::LevelWanted => include_str!("templates/level-wanted.txt"),
        Kind::LevelDecided => include_str!("templates/level-decided.txt"),
        Kind::LockSet => include_str!("templates/lock-set.txt"),
        Kind::LockLifted => include_str!("templates/lock-lifted.txt"),
        Kind::LockYours => include_str!("templates/lock-yours.txt"),
        Kind::Revoked => include_str!("templates/revoked.txt"),
        Kind::RevokedYours => include_str!("templates/revoked-yours.txt"),
        Kind::Alert => include_str!("templates/alert.txt"),
        Kind::AlertOver => include_str!("templates/alert-over.txt"),
        Kind::Alarm => include_str!("templates/alarm.txt"),
        Kind::Review => include_str!("templates/review.txt"),
        Kind::Incident => include_str!("templates/incident.txt"),
        Kind::Oversight => include_str!("templates/oversight.txt"),
        Kind::Test => include_str!("templates/test.txt"),
    }
}
