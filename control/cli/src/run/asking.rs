//! The form of a project, asked step by step: its questions are those of the form, in their order, with their words.

use super::registration::FORM;
use crate::text::{Clock, parse_when, plain};
use holm_policies::{Evidence, Level};
use holm_proto::ids::Name;
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

/// What was answered, by the form's words.
pub(super) type Answers = BTreeMap<String, String>;

/// What is demanded before a project is anything at all.
const NEEDED: [&str; 3] = ["name", "level", "purpose"];

/// Asks what is not answered yet. `None`: whoever was asked ended it.
pub(super) fn ask(
    input: &mut impl BufRead,
    out: &mut impl Write,
    levels: &[Level],
    clock: &Clock,
    mut answers: Answers,
) -> io::Result<Option<Answers>> {
    writeln!(
        out,
        "A new project. Enter alone leaves something out, to be filed later; Ctrl-D ends it, and nothing is created."
    )?;
    let mut about = Vec::new();
    // What stands at the head of the form is for who has it on paper.
    for line in FORM.lines().skip_while(|line| !line.starts_with('[')) {
        if let Some(comment) = line.strip_prefix("# ") {
            about.push(comment);
            continue;
        }
        let Some((key, _)) = line.split_once(" = ") else {
            about.clear();
            continue;
        };
        if is_asked(key, &answers) {
            for comment in about.drain(..) {
                writeln!(out, "\n{comment}")?;
            }
            if key == "level" {
                for level in levels.iter().filter(|level| level.runs_here) {
                    writeln!(out, "  {}  {}", plain(&level.id), plain(&level.name))?;
                }
            }
            let level = levels.iter().find(|level| answers.get("level") == Some(&level.id));
            let marked = level.is_some_and(|level| is_demanded(key, level));
            match one(input, out, key, marked, |answer| check(key, answer, levels, clock))? {
                None => return Ok(None),
                Some(answer) if answer.is_empty() => {}
                Some(answer) => drop(answers.insert(key.to_owned(), answer)),
            }
        }
        about.clear();
    }
    Ok(Some(answers))
}

/// One question, until its answer can be one.
fn one(
    input: &mut impl BufRead,
    out: &mut impl Write,
    key: &str,
    marked: bool,
    check: impl Fn(&str) -> Result<(), String>,
) -> io::Result<Option<String>> {
    loop {
        let mark = if marked { " (its level demands it)" } else { "" };
        write!(out, "{}{mark}: ", key.replace('_', " "))?;
        out.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            writeln!(out)?;
            return Ok(None);
        }
        let answer = line.trim();
        let checked = match answer {
            "" if NEEDED.contains(&key) => Err("no project is without".to_owned()),
            "" => Ok(()),
            answer => check(answer),
        };
        match checked {
            Ok(()) => return Ok(Some(answer.to_owned())),
            Err(why) => writeln!(out, "  {}", plain(&why))?,
        }
    }
}

/// Whether it is a question: not where it was answered, and of what hangs on another only with that.
fn is_asked(key: &str, answers: &Answers) -> bool {
    let said = |key: &str| answers.contains_key(key);
    let hangs = match key.strip_suffix("_expires") {
        Some(paper) => said(paper),
        None if key == "special_basis" => answers.get("special_categories").is_some_and(|it| it == "yes"),
        None => true,
    };
    hangs && !said(key)
}

fn is_demanded(key: &str, level: &Level) -> bool {
    let evidence = if key == "ends" { Evidence::EndDate.text() } else { key };
    level.must_file.iter().any(|demanded| demanded.text() == evidence)
}

/// What holmd would refuse as well, said while there is something to mend.
fn check(key: &str, answer: &str, levels: &[Level], clock: &Clock) -> Result<(), String> {
    match key {
        "name" => answer.parse::<Name>().map(drop).map_err(|e| e.to_string()),
        "level" => match levels.iter().find(|level| level.id == answer) {
            Some(level) if level.runs_here => Ok(()),
            Some(level) => Err(level.refusal.clone()),
            None => Err(format!("`{answer}` is none of these")),
        },
        "special_categories" | "research" if !["yes", "no"].contains(&answer) => Err("yes or no".to_owned()),
        "ends" => parse_when(answer, clock).map(drop),
        key if key.ends_with("_expires") => parse_when(answer, clock).map(drop),
        _ => Ok(()),
    }
}

/// The form with these in it.
pub(super) fn filled(answers: &Answers) -> String {
    let line = |line: &str| match line.split_once(" = ") {
        Some((key, _)) if !line.starts_with('#') => {
            let answer = answers.get(key).cloned().unwrap_or_default();
            format!("{key} = {}\n", toml::Value::String(answer))
        }
        _ => format!("{line}\n"),
    };
    FORM.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_policies::Pack;
    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    fn clock() -> Clock {
        Clock { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC }
    }

    fn asked(typed: &str, answers: &[(&str, &str)]) -> (Option<Answers>, String) {
        let pack = Pack::builtin("aau-2018").unwrap();
        let answers = answers.iter().map(|(key, answer)| ((*key).to_owned(), (*answer).to_owned())).collect();
        let mut out = Vec::new();
        let answers = ask(&mut typed.as_bytes(), &mut out, pack.levels(), &clock(), answers).unwrap();
        (answers, String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_cannot_be_is_asked_again_and_all_is_in_the_form() {
        let typed = "Heart\n\nheart-study\n0\n7\n3\nstrokes \"early\"\n\ne\nperhaps\nyes\nj\nyes\nDPIA 17\n2027-02-30\n2027-06-30\n";
        let (answers, out) = asked(&(typed.to_owned() + &"\n".repeat(20)), &[]);
        let answers = answers.unwrap();
        for wanted in [
            "no project is without",
            "`7` is none of these",
            "yes or no",
            "shared cluster",
            "level demands it",
        ] {
            assert!(out.contains(wanted), "{wanted}: {out}");
        }
        assert!(out.contains("2  ") && !out.contains("ethics expires"), "{out}");
        let form: toml::Table = filled(&answers).parse().unwrap();
        assert_eq!(form["project"]["purpose"].as_str(), Some("strokes \"early\""));
        assert_eq!(form["filed"]["special_basis"].as_str(), Some("j"));
        assert_eq!(form["filed"]["dpia_expires"].as_str(), Some("2027-06-30"));
        assert_eq!(form["filed"]["ethics"].as_str(), Some(""));
    }

    #[test]
    fn what_was_said_before_is_not_asked_and_who_leaves_says_nothing() {
        let (answers, out) = asked("", &[("name", "heart"), ("level", "2"), ("purpose", "x")]);
        assert!(answers.is_none() && !out.contains("name: ") && !out.contains("purpose: "), "{out}");
        assert!(asked("heart\n", &[]).0.is_none());
    }
}
