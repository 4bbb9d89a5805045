//! The rules, for people.

use super::{time_json, when_full, yes_no};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::Clock;
use holm_control::policy;
use holm_policies::{Difference, Level, Pack, SiteRule};
use holm_proto::v1::{Policy, PolicyExplanation};
use serde_json::{Value, json};

/// What each level demands.
pub fn levels(pack: &Pack) -> Table {
    let days = |level: &Level| {
        let set = level.days().into_iter().filter(|(_, days)| *days > 0);
        let one = |(name, days): (&str, u32)| {
            format!("{} {days}", name.trim_end_matches("_days").replace('_', " "))
        };
        let hours = Some(level.second_factor_hours).filter(|hours| *hours > 0);
        let hours = hours.map(|hours| format!("second factor {hours} h"));
        set.map(one).chain(hours).collect::<Vec<_>>().join(", ")
    };
    let row = |level: &Level| {
        let obligations: Vec<&str> = level.obligations.iter().map(|o| o.text()).collect();
        let must_file: Vec<&str> = level.must_file.iter().map(|evidence| evidence.text()).collect();
        vec![
            Cell::from(level.id.as_str()),
            level.name.as_str().into(),
            yes_no(level.runs_here),
            level.approvals.to_string().into(),
            days(level).into(),
            yes_no(level.escrow),
            obligations.join(", ").into(),
            must_file.join(", ").into(),
        ]
    };
    Table {
        columns: vec!["level", "name", "runs here", "approvals", "days", "escrow", "demands", "must file"],
        rows: pack.levels().iter().map(row).collect(),
        empty: "no levels",
    }
}

/// What is demanded of the site, and what sees to it.
pub fn site_rules(pack: &Pack) -> Table {
    let row = |rule: &SiteRule| {
        let tone = if rule.missing.is_empty() { Tone::Plain } else { Tone::Busy };
        vec![
            Cell::from(rule.number.to_string()),
            rule.text.as_str().into(),
            rule.source.as_str().into(),
            rule.by.join(", ").into(),
            Cell::new(&rule.missing).tone(tone),
        ]
    };
    Table {
        columns: vec!["rule", "what is demanded", "source", "what sees to it", "what is missing"],
        rows: pack.site_rules().iter().map(row).collect(),
        empty: "this pack answers to no rules of a site",
    }
}

/// The whole of a pack.
pub fn pack_json(pack: &Pack) -> Value {
    let level = |level: &Level| {
        json!({
            "id": level.id,
            "name": level.name,
            "colour": format!("{:?}", level.colour).to_lowercase(),
            "runs_here": level.runs_here,
            "approvals": level.approvals,
            "keep_closed_days": level.keep_closed_days,
            "restore_drill_days": level.restore_drill_days,
            "request_days": level.request_days,
            "lease_days": level.lease_days,
            "closing_days": level.closing_days,
            "log_days": level.log_days,
            "second_factor_hours": level.second_factor_hours,
            "escrow": level.escrow,
            "obligations": level.obligations,
            "must_file": level.must_file.iter().map(|evidence| evidence.text()).collect::<Vec<_>>(),
            "refusal": level.refusal,
        })
    };
    let rule = |rule: &SiteRule| {
        json!({
            "number": rule.number,
            "text": rule.text,
            "source": rule.source,
            "by": rule.by,
            "missing": rule.missing,
        })
    };
    json!({
        "pack": pack.id(),
        "digest": policy::digest(pack),
        "levels": pack.levels().iter().map(level).collect::<Vec<_>>(),
        "rules": pack.site_rules().iter().map(rule).collect::<Vec<_>>(),
    })
}

/// The pack in force.
pub fn policy_json(policy: &Policy, pack: &Pack) -> Value {
    let mut json = pack_json(pack);
    if let Some(object) = json.as_object_mut() {
        object.insert("since".to_owned(), time_json(policy.since.as_ref()));
        object.insert("loaded_by".to_owned(), json!(policy.loaded_by));
        object.insert("signer".to_owned(), json!(policy.signer));
    }
    json
}

/// Which it is, and how it came to be in force.
pub fn policy_remark(policy: &Policy, clock: &Clock) -> String {
    let since = when_full(policy.since.as_ref(), clock);
    let how = match (policy.loaded_by.as_str(), policy.signer.as_str()) {
        ("", "") => "holmd's configuration names it".to_owned(),
        ("", signer) => format!("loaded while holmd did not run, signed by {signer}"),
        (by, signer) => format!("loaded by {by}, signed by {signer}"),
    };
    format!("{} is in force since {}: {how}", policy.id, since.shown())
}

/// What becomes different, a line each as [`Difference::lines`] has them; `nothing` stands there where there is none.
pub fn changes(lines: &[String], nothing: &'static str) -> Table {
    let row = |line: &String| {
        let (what, how) = line.split_once(": ").unwrap_or((line, ""));
        vec![Cell::from(what), how.into()]
    };
    Table {
        columns: vec!["what", "becomes different"],
        rows: lines.iter().map(row).collect(),
        empty: nothing,
    }
}

/// The same, of what was compared here.
pub fn difference(found: &Difference) -> Table {
    changes(&found.lines(), "nothing becomes different")
}

/// The same.
pub fn difference_json(found: &Difference) -> Value {
    json!({
        "levels": found.levels,
        "others": found.others,
        "policies": { "added": found.added, "removed": found.removed, "changed": found.changed },
    })
}

/// What the pack would answer.
pub fn explanation(action: &str, answer: &PolicyExplanation) -> Sheet {
    let state = if answer.allowed {
        Cell::new("allowed").tone(Tone::Good)
    } else {
        Cell::new("refused").tone(Tone::Bad)
    };
    let mut sheet = Sheet::new(action).state(state);
    let label = if answer.allowed { "by" } else { "why" };
    for reason in &answer.reasons {
        sheet.line(label, reason.as_str());
    }
    let who = match answer.roles.as_slice() {
        [] => "nobody outside, whatever her role".to_owned(),
        roles => format!("another {}", roles.join(", another ")),
    };
    sheet.line("who else could", who).line("pack", answer.pack.as_str());
    sheet
}

/// The same.
pub fn explanation_json(action: &str, answer: &PolicyExplanation) -> Value {
    json!({
        "action": action,
        "allowed": answer.allowed,
        "reasons": answer.reasons,
        "roles": answer.roles,
        "pack": answer.pack,
    })
}
