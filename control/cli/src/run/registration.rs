//! What a project files: from the command line, or from a form.

use super::asking::{self, Answers};
use super::{Session, policy};
use crate::Failure;
use crate::args::{Create, Filing};
use holm_proto::ids::Name;
use holm_proto::v1::{CreateProjectRequest, Filed, Registration};
use serde::Deserialize;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

pub(super) const FORM: &str = include_str!("form.toml");

/// A form that was filled in.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    project: FormProject,
    #[serde(default)]
    filed: Filing,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FormProject {
    name: String,
    level: String,
    purpose: String,
    department: String,
}

/// The form, to be filled in.
pub(super) fn form(level: &str) -> String {
    let level = toml::Value::String(level.to_owned()).to_string();
    FORM.replace("\"{level}\"", &level)
}

/// What is asked for: by a form, or step by step, and by what is typed before it. What was answered, where it was asked.
pub(super) async fn request(
    session: &Session,
    args: Create,
) -> Result<(CreateProjectRequest, Option<Answers>), Failure> {
    let (form, asked) = match args.file.as_deref() {
        Some(file) => (read(file)?, None),
        None if [&args.name, &args.level, &args.purpose].into_iter().any(Option::is_none) => {
            let answers = answers(session, &args).await?;
            (parse(&asking::filled(&answers)).map_err(Failure::new)?, Some(answers))
        }
        None => (Form::default(), None),
    };
    let both = |typed: Option<String>, written: String| typed.unwrap_or(written);
    let registration = registration(session, args.filing.or(form.filed))?;
    let request = CreateProjectRequest {
        name: both(args.name, form.project.name),
        level: both(args.level, form.project.level),
        purpose: both(args.purpose, form.project.purpose),
        department: both(args.department, form.project.department),
        dry_run: args.dry_run,
        registration: Some(registration),
    };
    Ok((request, asked))
}

/// Of who is at the terminal, but for what she has said on the command line.
async fn answers(session: &Session, args: &Create) -> Result<Answers, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(
            "a project has a NAME, a --level and a --purpose, and nobody is here to ask",
        )
        .hint("holm project form --level N >FORM, fill it in, and: holm project create --file FORM"));
    }
    let Create { name, level, purpose, department, filing, .. } = args;
    let mut known: Answers =
        [("name", name), ("level", level), ("purpose", purpose), ("department", department)]
            .into_iter()
            .filter_map(|(key, said)| Some((key.to_owned(), said.clone()?)))
            .collect();
    let filed = toml::Table::try_from(filing).map_err(|e| Failure::of(&e))?;
    known.extend(filed.into_iter().filter_map(|(key, said)| Some((key, said.as_str()?.to_owned()))));
    let (_, pack) = policy::in_force(session).await?;
    let clock = session.clock.clone();
    let levels = pack.levels().to_vec();
    let asked = tokio::task::spawn_blocking(move || {
        asking::ask(&mut io::stdin().lock(), &mut io::stderr().lock(), &levels, &clock, known)
    });
    let asked = asked.await.map_err(|e| Failure::of(&e))?;
    asked
        .map_err(|e| Failure::new(format!("cannot ask: {e}")))?
        .ok_or_else(|| Failure::new("nothing was created"))
}

/// What was typed is not lost with what came of it.
pub(super) fn keep(answers: &Answers) -> Option<String> {
    let name = answers.get("name").filter(|name| name.parse::<Name>().is_ok())?;
    let file = format!("{name}.toml");
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).ok()?;
    out.write_all(asking::filled(answers).as_bytes()).ok()?;
    Some(file)
}

fn read(file: &Path) -> Result<Form, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).map_err(|e| {
        Failure::usage(format!("cannot read `{shown}`: {e}")).hint("holm project form --level N")
    })?;
    parse(&text).map_err(|e| Failure::usage(format!("`{shown}` is no form of a project: {e}")))
}

fn parse(text: &str) -> Result<Form, String> {
    toml::from_str(text).map_err(|e| e.to_string().trim_end().replace('\n', " "))
}

/// As it goes to holmd. What is empty in a form is not filed.
pub(super) fn registration(session: &Session, filing: Filing) -> Result<Registration, Failure> {
    let at = |text: Option<String>| said(text).map(|text| session.when(&text)).transpose();
    let paper = |reference: Option<String>, expires: Option<String>| {
        let expires = at(expires)?;
        Ok::<_, Failure>(said(reference).map(|reference| Filed { reference, expires }))
    };
    Ok(Registration {
        legal_basis: said(filing.legal_basis),
        special_categories: yes_or_no(filing.special_categories)?,
        special_basis: said(filing.special_basis),
        research: yes_or_no(filing.research)?,
        dpia: paper(filing.dpia, filing.dpia_expires)?,
        ethics: paper(filing.ethics, filing.ethics_expires)?,
        data_management_plan: paper(filing.data_management_plan, filing.data_management_plan_expires)?,
        ends: at(filing.ends)?,
        controller: said(filing.controller),
        categories: said(filing.categories),
        recipients: said(filing.recipients),
        transfers: said(filing.transfers),
        erasure: said(filing.erasure),
        measures: said(filing.measures),
    })
}

fn said(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

fn yes_or_no(text: Option<String>) -> Result<Option<bool>, Failure> {
    said(text)
        .map(|text| match text.trim() {
            "yes" => Ok(true),
            "no" => Ok(false),
            other => Err(Failure::usage(format!("`{other}` is neither yes nor no"))),
        })
        .transpose()
}

impl Filing {
    /// What is said here, and what is said there where nothing is said here.
    fn or(self, form: Self) -> Self {
        // A paper's date belongs to its reference: both are of one source.
        let paper =
            |here: (Option<String>, Option<String>), there| if here.0.is_some() { here } else { there };
        let (dpia, dpia_expires) = paper((self.dpia, self.dpia_expires), (form.dpia, form.dpia_expires));
        let (ethics, ethics_expires) =
            paper((self.ethics, self.ethics_expires), (form.ethics, form.ethics_expires));
        let (data_management_plan, data_management_plan_expires) = paper(
            (self.data_management_plan, self.data_management_plan_expires),
            (form.data_management_plan, form.data_management_plan_expires),
        );
        Self {
            legal_basis: self.legal_basis.or(form.legal_basis),
            special_categories: self.special_categories.or(form.special_categories),
            special_basis: self.special_basis.or(form.special_basis),
            research: self.research.or(form.research),
            dpia,
            dpia_expires,
            ethics,
            ethics_expires,
            data_management_plan,
            data_management_plan_expires,
            ends: self.ends.or(form.ends),
            controller: self.controller.or(form.controller),
            categories: self.categories.or(form.categories),
            recipients: self.recipients.or(form.recipients),
            transfers: self.transfers.or(form.transfers),
            erasure: self.erasure.or(form.erasure),
            measures: self.measures.or(form.measures),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_can_be_read_as_it_is_and_says_nothing() {
        let form = parse(&form("a \"quoted\" level")).unwrap();
        assert_eq!(form.project.level, "a \"quoted\" level");
        assert_eq!((form.project.name.as_str(), said(form.filed.dpia)), ("", None));
        assert_eq!(yes_or_no(form.filed.research).unwrap(), None);
    }

    #[test]
    fn a_word_that_is_none_of_the_form_is_an_error_with_its_line() {
        let error = parse("[project]\nname = \"x\"\n[filed]\ndipa = \"1\"").unwrap_err();
        assert!(error.contains("unknown field `dipa`") && error.contains("line 4"), "{error}");
        assert!(yes_or_no(Some("maybe".to_owned())).is_err());
    }
}
