//! What a project has filed, and what it has yet to file.

use super::time_json;
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::{Clock, instant};
use holm_proto::v1::{Agreement, DataSet, Declassification, Filed, ProcessingRecord, Project, Registration};
use serde_json::{Value, json};

/// Lines of a project's sheet.
pub(super) fn lines(sheet: &mut Sheet, p: &Project, clock: &Clock) {
    let Some(r) = &p.registration else { return };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let paper = |filed: &Option<Filed>| filed.as_ref().map(|f| paper(f, clock)).unwrap_or_default();
    let article = |letter: &Option<String>, article: &str| match letter {
        Some(letter) => format!("article {article}({letter})"),
        None => String::new(),
    };
    let special = match r.special_categories {
        Some(true) if r.special_basis.is_some() => format!("yes, {}", article(&r.special_basis, "9(2)")),
        Some(true) => "yes".to_owned(),
        Some(false) => "none".to_owned(),
        None => String::new(),
    };
    sheet
        .line("legal basis", article(&r.legal_basis, "6(1)"))
        .line("special data", special)
        .line("research", r.research.map(super::yes_no).unwrap_or_default())
        .line("DPIA", paper(&r.dpia))
        .line("ethics", paper(&r.ethics))
        .line("data plan", paper(&r.data_management_plan))
        .line("ends", r.ends.as_ref().map(|at| date(at, clock)).unwrap_or_default())
        .line("controller", text(&r.controller))
        .line("categories", text(&r.categories))
        .line("recipients", text(&r.recipients))
        .line("transfers", text(&r.transfers))
        .line("erasure", text(&r.erasure))
        .line("measures", text(&r.measures));
    let set = |s: &DataSet| format!("{}: level {}, of {}", s.name, s.level, s.owner);
    several(sheet, "data", p.data_sets.iter().map(|s| set(s).into()));
    sheet.line("to be lowered", p.declassification.as_ref().map(|d| lowering(p, d)).unwrap_or_default());
    let agreement = |a: &Agreement| {
        let filed = a.filed.as_ref().map(|f| self::paper(f, clock)).unwrap_or_default();
        format!("{}: {filed}", a.person)
    };
    several(sheet, "from outside", p.agreements.iter().map(|a| agreement(a).into()));
    several(sheet, "soon", p.warnings.iter().map(|text| Cell::new(text).tone(Tone::Busy)));
    several(sheet, "missing", p.missing.iter().map(|text| Cell::new(text).tone(Tone::Bad)));
}

/// A level that is to be lowered.
fn lowering(p: &Project, d: &Declassification) -> Cell {
    let what = if d.data_set.is_empty() { "the project" } else { &d.data_set };
    let by: Vec<&str> = d.approvals.iter().map(|a| a.by.as_str()).collect();
    let approved = match by.is_empty() {
        true => format!("0 of {} approvals", d.approvals_needed),
        false => format!("{} of {} approvals: {}", by.len(), d.approvals_needed, by.join(", ")),
    };
    let with_it = match d.project_level.as_str() {
        "" => String::new(),
        level if level == p.level => ", and the project stays as it is".to_owned(),
        level => format!(", AND THE PROJECT FROM {} TO {level}", p.level),
    };
    let with_it = if d.data_set.is_empty() { String::new() } else { with_it };
    Cell::new(format!("{what} to level {}{with_it}, asks {}: {}; {approved}", d.level, d.by, d.reason))
        .tone(Tone::Busy)
}

/// One label for all of them.
pub(super) fn several(sheet: &mut Sheet, label: &'static str, all: impl Iterator<Item = Cell>) {
    for (n, cell) in all.enumerate() {
        sheet.line(if n == 0 { label } else { "" }, cell);
    }
}

fn paper(filed: &Filed, clock: &Clock) -> String {
    match &filed.expires {
        Some(at) => format!("{}, until {}", filed.reference, date(at, clock)),
        None => filed.reference.clone(),
    }
}

fn date(at: &prost_types::Timestamp, clock: &Clock) -> String {
    instant(Some(at)).map(|at| clock.full(at)).unwrap_or_default()
}

/// A record of processing, with the letters of article 30(1).
pub fn record(r: &ProcessingRecord, clock: &Clock) -> Sheet {
    let mut sheet = Sheet::new(format!("record of processing activities: {}", r.project));
    let special = if r.special_categories { "special categories among them (article 9)" } else { "" };
    sheet
        .line("(a) controller", r.controller.as_str())
        .line("    contact", r.lead.as_str())
        .line("    department", r.department.as_str())
        .line("(b) purpose", r.purpose.as_str())
        .line("    legal basis", r.legal_bases.join(", "))
        .line("(c) categories", r.categories.as_str())
        .line("", special)
        .line("(d) recipients", r.recipients.as_str())
        .line("(e) transfers", r.transfers.as_str())
        .line("(f) erased after", r.erased_after.as_ref().map(day).unwrap_or_default())
        .line("", r.erasure.as_str());
    several(&mut sheet, "(g) measures", r.measures.iter().map(|text| text.as_str().into()));
    let papers = r.registration.clone().unwrap_or_default();
    let paper = |filed: &Option<Filed>| filed.as_ref().map(|f| paper(f, clock)).unwrap_or_default();
    sheet
        .line("level", r.level_name.as_str())
        .line("DPIA", paper(&papers.dpia))
        .line("ethics", paper(&papers.ethics))
        .line("data plan", paper(&papers.data_management_plan))
        .line("rules", r.pack.as_str())
        .line("written", super::when_full(r.written.as_ref(), clock));
    sheet
}

/// As `holm.v1.ProcessingRecord` has it.
pub fn record_json(r: &ProcessingRecord) -> Value {
    json!({
        "project": r.project,
        "controller": r.controller,
        "lead": r.lead,
        "department": r.department,
        "purpose": r.purpose,
        "legal_bases": r.legal_bases,
        "categories": r.categories,
        "special_categories": r.special_categories,
        "recipients": r.recipients,
        "transfers": r.transfers,
        "erased_after": time_json(r.erased_after.as_ref()),
        "erasure": r.erasure,
        "measures": r.measures,
        "level_name": r.level_name,
        "registration": r.registration.as_ref().map(json),
        "written": time_json(r.written.as_ref()),
        "pack": r.pack,
    })
}

/// Projects as a public register has them.
pub fn register(all: &[Project], clock: &Clock) -> Table {
    let row = |p: &Project| {
        let past = if is_past(p, clock) { Cell::new("past").tone(Tone::Dim) } else { "current".into() };
        vec![
            p.name.as_str().into(),
            p.department.as_str().into(),
            p.level_name.as_str().into(),
            p.lead.as_str().into(),
            p.created.as_ref().map(day).unwrap_or_default().into(),
            ends(p).map(day).unwrap_or_default().into(),
            past,
            p.purpose.as_str().into(),
        ]
    };
    Table {
        columns: vec!["project", "department", "level", "lead", "start", "end", "state", "purpose"],
        rows: all.iter().map(row).collect(),
        empty: "no projects that you may see",
    }
}

/// The same for programs.
pub fn entry_json(p: &Project, clock: &Clock) -> Value {
    json!({
        "project": p.name,
        "department": p.department,
        "purpose": p.purpose,
        "level_name": p.level_name,
        "lead": p.lead,
        "start": p.created.as_ref().map(day),
        "end": ends(p).map(day),
        "current": !is_past(p, clock),
    })
}

fn ends(p: &Project) -> Option<&prost_types::Timestamp> {
    p.registration.as_ref()?.ends.as_ref()
}

fn is_past(p: &Project, clock: &Clock) -> bool {
    instant(ends(p)).is_some_and(|ends| ends <= clock.now)
}

/// A date, in UTC as everybody reads it.
fn day(at: &prost_types::Timestamp) -> String {
    instant(Some(at)).map(|at| at.strftime("%Y-%m-%d").to_string()).unwrap_or_default()
}

/// As `holm.v1.Registration` has it.
pub(super) fn json(r: &Registration) -> Value {
    json!({
        "legal_basis": r.legal_basis,
        "special_categories": r.special_categories,
        "special_basis": r.special_basis,
        "research": r.research,
        "dpia": r.dpia.as_ref().map(filed_json),
        "ethics": r.ethics.as_ref().map(filed_json),
        "data_management_plan": r.data_management_plan.as_ref().map(filed_json),
        "ends": time_json(r.ends.as_ref()),
        "controller": r.controller,
        "categories": r.categories,
        "recipients": r.recipients,
        "transfers": r.transfers,
        "erasure": r.erasure,
        "measures": r.measures,
    })
}

/// As `holm.v1.DataSet` has it.
pub(super) fn data_set_json(s: &DataSet) -> Value {
    json!({ "name": s.name, "owner": s.owner, "level": s.level })
}

/// As `holm.v1.Declassification` has it.
pub(super) fn lowering_json(d: &Declassification) -> Value {
    json!({
        "data_set": d.data_set,
        "level": d.level,
        "reason": d.reason,
        "by": d.by,
        "at": time_json(d.at.as_ref()),
        "approvals": d
            .approvals
            .iter()
            .map(|a| json!({ "by": a.by, "at": time_json(a.at.as_ref()), "comment": a.comment }))
            .collect::<Vec<_>>(),
        "approvals_needed": d.approvals_needed,
    })
}

/// As `holm.v1.Agreement` has it.
pub(super) fn agreement_json(a: &Agreement) -> Value {
    json!({ "person": a.person, "filed": a.filed.as_ref().map(filed_json) })
}

fn filed_json(f: &Filed) -> Value {
    json!({ "reference": f.reference, "expires": time_json(f.expires.as_ref()) })
}
