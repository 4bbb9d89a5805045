//! What becomes different when one pack takes the place of another.

use crate::{Level, Pack};
use std::collections::{BTreeMap, BTreeSet};

/// What becomes different. Empty where nothing does, whatever the packs are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// By id of the level: a line for each thing that becomes different there.
    pub levels: BTreeMap<String, Vec<String>>,
    /// A line for each other thing that becomes different.
    pub others: Vec<String>,
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

    /// All of it, for people: a line each, WHAT: HOW.
    pub fn lines(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (level, what) in &self.levels {
            all.extend(what.iter().map(|line| format!("level {level}: {line}")));
        }
        all.extend(self.others.iter().cloned());
        for (what, ids) in
            [("is new", &self.added), ("is gone", &self.removed), ("is another", &self.changed)]
        {
            all.extend(ids.iter().map(|id| format!("policy {id}: {what}")));
        }
        all
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
    let mut others = Vec::new();
    // What a policy means depends on it: what allows an action allows those that are in it.
    if schema(old) != schema(new) {
        others.push("schema.cedarschema: is another: read it line by line".to_owned());
    }
    if old.manifest.shared_cluster != new.manifest.shared_cluster {
        others.push(format!("shared_cluster: {}", new.manifest.shared_cluster));
    }
    others.extend(log_days("entries of the log of no project", old.log_days(), new.log_days()));
    others.extend(site_rules(old, new));
    Difference {
        levels,
        others,
        added: only(&after, &before),
        removed: only(&before, &after),
        changed: changed.map(|(id, _)| id.clone()).collect(),
    }
}

fn schema(pack: &Pack) -> &str {
    let [_, schema, _] = pack.texts();
    schema
}

fn site_rules(old: &Pack, new: &Pack) -> Vec<String> {
    let find =
        |pack: &'_ Pack, number: u32| pack.site_rules().iter().find(|rule| rule.number == number).cloned();
    let numbers: BTreeSet<u32> =
        old.site_rules().iter().chain(new.site_rules()).map(|rule| rule.number).collect();
    let line = |number: u32| match (find(old, number), find(new, number)) {
        (Some(before), Some(after)) if before == after => None,
        (Some(_), Some(_)) => Some(format!("rule {number}: is another")),
        (Some(_), None) => Some(format!("rule {number}: is gone")),
        (None, _) => Some(format!("rule {number}: is new")),
    };
    numbers.into_iter().filter_map(line).collect()
}

/// How long entries are kept. That they are kept for less cannot be taken back once they are gone, so it is said.
fn log_days(what: &str, old: u32, new: u32) -> Option<String> {
    let text = |days| if days == 0 { "for ever".to_owned() } else { format!("{days} days") };
    // For ever is the longest.
    let shorter = new.wrapping_sub(1) < old.wrapping_sub(1);
    let warning = if shorter { ": SHORTER, what is older is destroyed" } else { "" };
    (old != new).then(|| format!("{what}: kept {} instead of {}{warning}", text(new), text(old)))
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
            ("days that a request waits for approvals", l.request_days.to_string()),
            ("days that a slice runs before it is approved anew", l.lease_days.to_string()),
            ("days after its project's end at which a slice is closed", l.closing_days.to_string()),
            ("hours that a second factor is good for", l.second_factor_hours.to_string()),
            ("colour", format!("{:?}", l.colour).to_lowercase()),
            // Before the colon is its name, which has a line of its own.
            (
                "what is said where it does not run",
                l.refusal.split_once(": ").map_or("", |(_, text)| text).to_owned(),
            ),
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
    lines.extend(log_days("entries of the log", old.log_days, new.log_days));
    let more = new.obligations.difference(&old.obligations).map(|o| format!("demands {}", o.text()));
    let less = old
        .obligations
        .difference(&new.obligations)
        .map(|o| format!("does not demand {} any more", o.text()));
    lines.extend(more.chain(less));
    let more =
        new.must_file.difference(&old.must_file).map(|e| format!("demands that {} is filed", e.text()));
    let less = old
        .must_file
        .difference(&new.must_file)
        .map(|e| format!("does not demand that {} is filed any more", e.text()));
    lines.extend(more.chain(less));
    lines
}
