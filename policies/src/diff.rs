//! What becomes different when one pack takes the place of another.

use crate::{Level, Pack};
use std::collections::{BTreeMap, BTreeSet};

/// What becomes different. Empty where nothing does, whatever the packs are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// By id of the level: a line for each thing that becomes different there.
    pub levels: BTreeMap<String, Vec<String>>,
    /// Ids of policies that only the new one has.
    pub added: Vec<String>,
    /// Ids of policies that only the old one has.
    pub removed: Vec<String>,
    /// Ids of policies that are not the same in both, in their words or in what they do.
    pub changed: Vec<String>,
}

impl Difference {
    /// Nothing becomes different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes different when `new` takes the place of `old`.
pub fn diff(old: &Pack, new: &Pack) -> Difference {
    let ids = |pack: &Pack| pack.levels().iter().map(|level| level.id.clone()).collect::<BTreeSet<String>>();
    let mut levels = BTreeMap::new();
    for id in ids(old).union(&ids(new)) {
        let lines = level(old.level(id), new.level(id));
        if !lines.is_empty() {
            levels.insert(id.clone(), lines);
        }
    }
    let (before, after) = (old.rules.all(), new.rules.all());
    let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        a.keys().filter(|id| !b.contains_key(*id)).cloned().collect()
    };
    let changed = before.iter().filter(|(id, text)| after.get(*id).is_some_and(|other| other != *text));
    Difference {
        levels,
        added: only(&after, &before),
        removed: only(&before, &after),
        changed: changed.map(|(id, _)| id.clone()).collect(),
    }
}

fn level(old: Option<&Level>, new: Option<&Level>) -> Vec<String> {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => return vec![format!("is new: {}", new.name)],
        (Some(_), None) => return vec!["is no level any more".to_owned()],
        (None, None) => return Vec::new(),
    };
    let runs = |level: &Level| if level.runs_here { "runs here" } else { "does not run here" }.to_owned();
    let fields = |l: &Level| {
        [
            ("name", l.name.clone()),
            ("approvals", l.approvals.to_string()),
            ("days that what is closed is kept", l.keep_closed_days.to_string()),
            ("days that a restore drill may be old", l.restore_drill_days.to_string()),
            ("escrow", if l.escrow { "allowed" } else { "not allowed" }.to_owned()),
        ]
    };
    let mut lines = Vec::new();
    if old.runs_here != new.runs_here {
        lines.push(format!(
            "{}: it {} until now",
            runs(new),
            if old.runs_here { "does" } else { "does not" }
        ));
    }
    for ((what, before), (_, after)) in fields(old).into_iter().zip(fields(new)) {
        if before != after {
            lines.push(format!("{what}: {after} instead of {before}"));
        }
    }
    let more = new.obligations.difference(&old.obligations).map(|o| format!("demands {}", o.text()));
    let less = old
        .obligations
        .difference(&new.obligations)
        .map(|o| format!("does not demand {} any more", o.text()));
    lines.extend(more.chain(less));
    lines
}
