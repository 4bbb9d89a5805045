//! Projects: registered by their lead under a level of the pack.

use super::records::{Change, Hold, Project, Record};
use super::register::{self, Filed};
use super::{Refusal, RefusalKind, State};
use holm_proto::ids::Name;
use jiff::Timestamp;
use serde::Serialize;

/// Projects of one lead: each is kept for good, and looked at in every round.
const LED_MAX: usize = 100;
/// The longest purpose, in characters.
const PURPOSE_MAX: usize = 2000;
/// The longest name of a department, in characters.
const DEPARTMENT_MAX: usize = 64;

/// Register a project. The level has been judged by the pack already.
pub fn create(state: &State, project: Project) -> Result<Vec<Change>, Refusal> {
    if state.project(&project.name).is_some() {
        return Err(Refusal::new(
            RefusalKind::Exists,
            format!("a project named `{}` is registered already", project.name),
        )
        .hint("holm project list"));
    }
    let led = state.projects.values().filter(|other| other.lead == project.lead).count();
    if led >= LED_MAX {
        let text = format!("`{}` leads {led} projects, and nobody leads more", project.lead);
        return Err(Refusal::new(RefusalKind::State, text).hint("another lead registers it"));
    }
    if project.purpose.trim().is_empty() {
        return Err(Refusal::new(RefusalKind::Invalid, "a project says what it is for").hint(format!(
            "holm project create {} --level {} --purpose \"…\"",
            project.name, project.level
        )));
    }
    if project.purpose.chars().count() > PURPOSE_MAX {
        return Err(Refusal::new(
            RefusalKind::Invalid,
            format!("the purpose is longer than {PURPOSE_MAX} characters"),
        ));
    }
    let department = &project.department;
    if department.chars().count() > DEPARTMENT_MAX || department.chars().any(char::is_control) {
        let text = format!("a department's name has at most {DEPARTMENT_MAX} characters, on one line");
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    Ok(vec![Change::Put(Record::Project(project))])
}

/// Put it on hold: no key and no disk of its slices is destroyed. What runs runs on.
pub fn hold(project: &Project, hold: Hold) -> Result<Vec<Change>, Refusal> {
    if let Some(before) = &project.hold {
        let text = format!("it is on hold already, by {}: {}", before.by, before.reason);
        return Err(Refusal::new(RefusalKind::State, text));
    }
    Ok(vec![Change::Put(Record::Project(Project { hold: Some(hold), ..project.clone() }))])
}

/// Lift its hold. Slices with one of their own keep that.
pub fn lift(project: &Project) -> Result<Vec<Change>, Refusal> {
    if project.hold.is_none() {
        return Err(Refusal::new(RefusalKind::State, "it is not on hold")
            .hint(format!("holm slice list --project {}", project.name)));
    }
    Ok(vec![Change::Put(Record::Project(Project { hold: None, ..project.clone() }))])
}

/// How somebody is to be in a project.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Membership {
    /// She changes nothing there; `None`: as it was, and who joins changes things.
    pub read_only: Option<bool>,
    /// Of a person from outside, under which she works; `None`: as it was.
    pub agreement: Option<Filed>,
}

/// Add a person to a project; one from outside under an agreement. One who is in it stays in it, as she was in all that is
/// not said.
pub fn add_member(
    state: &State,
    project: &Project,
    person: &Name,
    how: Membership,
    now: Timestamp,
) -> Result<Vec<Change>, Refusal> {
    let is = |roles: &[&str]| {
        state.people.get(person).is_some_and(|p| p.roles.iter().any(|role| roles.contains(&role.as_str())))
    };
    // Officers and operators have no data access, not even by invitation. Who is known, and as what, is not the lead's to
    // find out.
    if !is(&["researcher", "lead"]) || is(&["officer", "operator"]) {
        let text = format!("no `{person}` is known who could join a project: leads and researchers do");
        return Err(Refusal::new(RefusalKind::NotFound, text)
            .hint(format!("ask an operator to invite `{person}` as a researcher")));
    }
    let mut project = project.clone();
    if !project.members.contains(person) {
        project.members.push(person.clone());
    }
    match how.read_only {
        Some(true) if *person == project.lead => {
            let text = format!("`{person}` leads `{}`, and who leads changes things there", project.name);
            return Err(Refusal::new(RefusalKind::Invalid, text).hint("leave out --read-only"));
        }
        Some(true) => {
            project.readers.insert(person.clone());
        }
        Some(false) => {
            project.readers.remove(person);
        }
        None => {}
    }
    if let Some(filed) = how.agreement {
        register::agreement(&mut project, person, filed, now)?;
    }
    Ok(vec![Change::Put(Record::Project(register::fits(project)?))])
}

/// Take a person out of a project: nothing of hers runs there any more, and what she has left there stays. So does the
/// agreement of one from outside: whoever adds her again does not thereby forget that it ends.
pub fn remove_member(state: &State, project: &Project, person: &Name) -> Result<Vec<Change>, Refusal> {
    let of = &project.name;
    if *person == project.lead {
        let text = format!("`{person}` leads `{of}`, and a project has a lead");
        return Err(Refusal::new(RefusalKind::Invalid, text)
            .hint("what she has open is closed by an officer, with `holm lock set`"));
    }
    if !project.members.contains(person) {
        let text = format!("no `{person}` is a member of `{of}`");
        return Err(Refusal::new(RefusalKind::NotFound, text).hint(format!("who is: holm project show {of}")));
    }
    // Whoever decides on projects decides nothing on one that she was of.
    let decides = ["officer", "operator", "auditor"];
    if state.people.get(person).is_some_and(|p| p.roles.iter().any(|role| decides.contains(&role.as_str()))) {
        let text = format!(
            "`{person}` has become one who decides on projects or runs hosts: that she was of `{of}` stays known"
        );
        return Err(Refusal::new(RefusalKind::State, text)
            .hint("she enters none of its slices; an officer can lock her, with `holm lock set`"));
    }
    let mut project = project.clone();
    project.members.retain(|member| member != person);
    project.readers.remove(person);
    Ok(vec![Change::Put(Record::Project(project))])
}
