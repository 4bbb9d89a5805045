//! Commissioning: is this host fit to keep tenants apart?
//!
//! ```text
//!   sysfs, proc, libvirt ──▶ facts ──▶ judge, point by point ──▶ report ──▶ signed ──▶ holmd
//!                            (why not)  (pass, fail, unknown)     └──▶ `holm-agent commission`
//! ```
//!
//! The list itself is [`holm_proto::commission::CHECKS`], which holmd goes by as well. What cannot be found out
//! has not passed. Nothing switches a point off; a configuration can only demand more.

pub mod facts;
pub mod judge;
#[cfg(test)]
mod tests;

pub use self::facts::{Fabric, Facts, Seen};

use holm_proto::{commission::CHECKS, v1};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

/// Characters of what was found.
const FOUND: usize = 200;

/// Judges a machine.
pub fn report(facts: &Facts) -> v1::Commissioning {
    let checks = CHECKS.iter().map(|check| {
        let judged = judge::judge(check.id, facts);
        v1::Check {
            id: check.id.to_owned(),
            title: check.title.to_owned(),
            verdict: judged.verdict.into(),
            must: check.must || judged.demanded,
            found: judged.found.chars().take(FOUND).collect(),
            mend: judged.mend.to_owned(),
        }
    });
    v1::Commissioning { checks: checks.collect(), ..empty() }
}

/// Of a simulated machine there is nothing to judge.
pub fn simulated() -> v1::Commissioning {
    v1::Commissioning { simulated: true, ..empty() }
}

fn empty() -> v1::Commissioning {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    v1::Commissioning {
        checks: Vec::new(),
        at: Some(prost_types::Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        }),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        simulated: false,
    }
}

/// Does every point pass that must? `None`: nothing was checked.
pub fn passed(report: &v1::Commissioning) -> Option<bool> {
    let pass = |check: &v1::Check| !check.must || check.verdict() == v1::Verdict::Pass;
    (!report.checks.is_empty()).then(|| report.checks.iter().all(pass))
}

/// For a person.
pub fn text(report: &v1::Commissioning) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    if report.simulated {
        let _ =
            writeln!(out, "NOTHING WAS CHECKED: the host is simulated, and this says nothing of any machine");
        return out;
    }
    let wide = report.checks.iter().map(|check| check.id.len()).max().unwrap_or_default();
    for check in &report.checks {
        let weight = if check.must { "must" } else { "should" };
        let _ =
            writeln!(out, "{:<7}  {weight:<6}  {:<wide$}  {}", word(check.verdict()), check.id, check.found);
        if !check.mend.is_empty() {
            let _ = writeln!(out, "{:<7}  {:<6}  {:<wide$}  mend: {}", "", "", "", check.mend);
        }
    }
    let not = |must: bool| {
        let bad = |check: &&v1::Check| check.must == must && check.verdict() != v1::Verdict::Pass;
        report.checks.iter().filter(bad).count()
    };
    let _ = match (not(true), not(false)) {
        (0, 0) => writeln!(out, "all {} pass", report.checks.len()),
        (0, should) => writeln!(out, "the host can have slices; {should} of what should pass does not"),
        (must, _) => writeln!(out, "the host gets no slices: {must} of what must pass does not"),
    };
    out
}

/// For a program.
pub fn json(report: &v1::Commissioning) -> Value {
    let check = |check: &v1::Check| {
        json!({
            "id": check.id,
            "title": check.title,
            "verdict": word(check.verdict()).to_lowercase(),
            "must": check.must,
            "found": check.found,
            "mend": check.mend,
        })
    };
    json!({
        "passed": passed(report),
        "simulated": report.simulated,
        "agent_version": report.agent_version,
        "at": report.at.as_ref().map(|at| at.seconds),
        "checks": report.checks.iter().map(check).collect::<Vec<Value>>(),
    })
}

fn word(verdict: v1::Verdict) -> &'static str {
    match verdict {
        v1::Verdict::Pass => "pass",
        v1::Verdict::Fail => "FAIL",
        v1::Verdict::Unknown | v1::Verdict::Unspecified => "UNKNOWN",
    }
}
