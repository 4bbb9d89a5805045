//! Projects: registered by their lead under a level of the pack.

use super::records::{Change, Hold, Project, Record};
use super::register::{self, Filed};
use super::{Refusal, RefusalKind, State};
use holm_proto::ids::Name;
use jiff::Timestamp;

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

/// Add a person to a project; one from outside under an agreement. One who is in it stays in it, under the agreement
/// that she has or a new one.
pub fn add_member(
    state: &State,
    project: &Project,
    person: &Name,
    agreement: Option<Filed>,
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
    if let Some(filed) = agreement {
        register::agreement(&mut project, person, filed, now)?;
    }
    Ok(vec![Change::Put(Record::Project(register::fits(project)?))])
}
