//! The levels of a project's data: the highest of its data sets wins, and lowering takes two officers.
//!
//! ```text
//!              the lead asks, with a reason          an officer outside        another officer outside
//!   (nothing) ──────────────────────────────▶ Asked ────────────────────▶ Asked, ───────────────────▶ lowered,
//!       ▲                                       │      the project        approved      the project   (nothing)
//!       │                                       │                           once                       is asked
//!       └────── an officer rejects it, or the lead withdraws it ─────────────┘
//! ```
//!
//! Nothing is ever raised: what is there already was made, placed and let in by the rules of the level it has. Data of a
//! higher level goes into a project of its own.

use super::records::{Approval, Project};
use super::register::{fits, line};
use super::{Refusal, RefusalKind};
use holm_policies::Level;
use holm_proto::ids::Name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Officers that it takes, at whatever level.
pub const OFFICERS: usize = 2;
/// Data sets of a project.
const SETS_MAX: usize = 32;
/// The longest name of an owner, in characters.
const OWNER_MAX: usize = 100;

/// Data that a project works with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// Unique in the project.
    pub name: Name,
    /// Who classifies it.
    pub owner: String,
    /// As the pack names it.
    pub level: String,
}

/// A level that is to be lowered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declassification {
    /// Of this data set; absent: of the project, down to no less than its data sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_set: Option<Name>,
    /// To this level.
    pub to: String,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub by: Name,
    /// When.
    pub at: Timestamp,
    /// By whom so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
}

/// Add a data set, whose level is no higher than the project's.
pub fn add(project: &Project, set: DataSet, levels: &[Level]) -> Result<Project, Refusal> {
    line(&set.owner, OWNER_MAX)?;
    if project.data_sets.iter().any(|other| other.name == set.name) {
        let text = format!("`{}` has a data set `{}` already", project.name, set.name);
        return Err(Refusal::new(RefusalKind::Exists, text).hint(show(project)));
    }
    if project.data_sets.len() >= SETS_MAX {
        return Err(state(format!("a project has {SETS_MAX} data sets at most")));
    }
    if rank(levels, &set.level)? > rank(levels, &project.level)? {
        let text = format!(
            "`{}` is of level {}, and `{}` of level {}: what is there was let in by the rules of that",
            set.name, set.level, project.name, project.level
        );
        let hint =
            format!("register a project of its own for it: holm project create NAME --level {}", set.level);
        return Err(state(text).hint(hint));
    }
    let mut next = project.clone();
    next.data_sets.push(set);
    fits(next)
}

/// Ask for a level to be lowered.
pub fn ask(project: &Project, wanted: Declassification, levels: &[Level]) -> Result<Project, Refusal> {
    if let Some(pending) = &project.declassification {
        let text = format!("`{}` has asked for that already, and it is not decided", pending.by);
        return Err(state(text).hint(format!("holm project declassify {} --withdraw", project.name)));
    }
    // Found wrong now, it costs no officer's time.
    lowered(project, &wanted, levels)?;
    fits(Project { declassification: Some(wanted), ..project.clone() })
}

/// An officer approves. The second one's word lowers it.
pub fn approve(project: &Project, approval: Approval, levels: &[Level]) -> Result<Project, Refusal> {
    let mut pending = pending(project)?.clone();
    let by = &approval.by;
    if pending.by == *by || project.lead == *by || project.members.contains(by) {
        let text = "nobody lowers the level of their own project: an officer outside it must do it";
        return Err(Refusal::new(RefusalKind::Denied, text));
    }
    if pending.approvals.iter().any(|before| before.by == *by) {
        let text = format!("`{by}` has approved it already: the next approval is another officer's");
        return Err(Refusal::new(RefusalKind::Denied, text));
    }
    pending.approvals.push(approval);
    if pending.approvals.len() < OFFICERS {
        return fits(Project { declassification: Some(pending), ..project.clone() });
    }
    let next = lowered(project, &pending, levels)?;
    Ok(Project { declassification: None, ..next })
}

/// The level that the project has when this is approved, as its data sets are now. `None`: it cannot be.
pub fn leads_to(project: &Project, wanted: &Declassification, levels: &[Level]) -> Option<String> {
    lowered(project, wanted, levels).ok().map(|next| next.level)
}

/// An officer rejects it, or the lead withdraws it.
pub fn dismiss(project: &Project) -> Result<Project, Refusal> {
    pending(project)?;
    Ok(Project { declassification: None, ..project.clone() })
}

fn pending(project: &Project) -> Result<&Declassification, Refusal> {
    project.declassification.as_ref().ok_or_else(|| {
        state(format!("nobody has asked for the level of anything in `{}` to be lowered", project.name))
            .hint(show(project))
    })
}

/// The project afterwards, as its data sets are now: some may have come since it was asked for.
fn lowered(project: &Project, wanted: &Declassification, levels: &[Level]) -> Result<Project, Refusal> {
    let to = rank(levels, &wanted.to)?;
    let mut next = project.clone();
    let now = match &wanted.data_set {
        None => &mut next.level,
        Some(name) => match next.data_sets.iter_mut().find(|set| &set.name == name) {
            Some(set) => &mut set.level,
            None => {
                let text = format!("`{}` has no data set `{name}`", project.name);
                return Err(Refusal::new(RefusalKind::NotFound, text).hint(show(project)));
            }
        },
    };
    if to >= rank(levels, now)? {
        return Err(state(format!("it is of level {now}: {} is no lower one", wanted.to)));
    }
    now.clone_from(&wanted.to);
    let highest = highest(&next, levels)?;
    if let Some(highest) = highest.filter(|_| wanted.data_set.is_some()) {
        next.level.clone_from(&highest.id);
    } else if let Some(highest) = highest.filter(|highest| rank(levels, &highest.id).is_ok_and(|of| of > to))
    {
        let text = format!("it has data of level {}: lower that first, with --data-set", highest.id);
        return Err(state(text).hint(show(project)));
    }
    let level = levels.iter().find(|level| level.id == next.level);
    match level.filter(|level| level.runs_here) {
        Some(level) => Ok(Project { level_name: level.name.clone(), ..next }),
        None => {
            let refusal = level.map_or("it is no level", |level| &level.refusal);
            Err(state(format!("the project would be of level {}: {refusal}", next.level)))
        }
    }
}

/// The level of the most sensitive of its data sets.
fn highest<'a>(project: &Project, levels: &'a [Level]) -> Result<Option<&'a Level>, Refusal> {
    let ranks = project.data_sets.iter().map(|set| rank(levels, &set.level));
    let highest = ranks.collect::<Result<Vec<_>, _>>()?.into_iter().max();
    Ok(highest.and_then(|rank| levels.get(rank)))
}

/// Levels stand in the pack from the least sensitive to the most.
fn rank(levels: &[Level], id: &str) -> Result<usize, Refusal> {
    levels.iter().position(|level| level.id == id).ok_or_else(|| {
        let there_are: Vec<&str> = levels.iter().map(|level| level.id.as_str()).collect();
        let shown: String = id.chars().take(40).flat_map(char::escape_debug).collect();
        let text = format!("`{shown}` is no level: there are {}", there_are.join(", "));
        Refusal::new(RefusalKind::Invalid, text)
    })
}

fn show(project: &Project) -> String {
    format!("holm project show {}", project.name)
}

fn state(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::State, text)
}

#[cfg(test)]
mod tests;
