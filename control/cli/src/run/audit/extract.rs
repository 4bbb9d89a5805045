//! What a data subject may be told of who came to her data: dates and purposes, without the names of staff (CJEU C-579/21).

use super::find::{Search, filter};
use crate::Failure;
use crate::args::{Filter, Whom};
use crate::output::{Cell, Table};
use crate::run::Session;
use crate::text::{Clock, parse_since};
use holm_control::audit::Entry;
use holm_control::audit::sample::is_access;
use holm_proto::v1::EntryFilter;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Entries of a page.
const PAGE: u64 = 500;

/// Of one day, all that was done in one way and for one purpose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Done {
    date: String,
    project: String,
    purpose: String,
    what: &'static str,
}

/// Whose data it is.
#[derive(Debug)]
enum Subject {
    /// Those whose data a project works with.
    Of(String),
    /// Somebody who is herself in the log.
    Person(String),
}

/// What was found so far.
#[derive(Debug)]
struct Extract {
    subject: Subject,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Of each project, as it was filed last.
    purposes: BTreeMap<String, String>,
    /// How often, and who.
    done: BTreeMap<Done, (u64, BTreeSet<String>)>,
}

impl Extract {
    /// The next entry, in the log's order.
    fn add(&mut self, entry: &Entry, clock: &Clock) {
        for record in entry.changes.iter().filter_map(|change| change.get("of")) {
            let text = |field: &str| record.get(field).and_then(Value::as_str).map(str::to_owned);
            if let (Some("project"), Some(name), Some(purpose)) =
                (record.get("kind").and_then(Value::as_str), text("name"), text("purpose"))
            {
                self.purposes.insert(name, purpose);
            }
        }
        let in_time = self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until);
        let tried = entry.outcome == "refused" || entry.detail.get("dry_run").is_some();
        let Some((what, purpose)) = self.what(entry).filter(|_| in_time && !tried) else { return };
        let project = entry.project.clone().unwrap_or_default();
        let purpose = match purpose {
            Some(own) => own.to_owned(),
            None => self.purposes.get(&project).cloned().unwrap_or_default(),
        };
        let local = clock.local(entry.time);
        let date = local.split_once(' ').map_or(local.as_str(), |(date, _)| date).to_owned();
        let (count, staff) = self.done.entry(Done { date, project, purpose, what }).or_default();
        *count += 1;
        // Of what a guest claims the host is who says so: who it was, the guest says.
        let user = entry.detail.get("user").and_then(Value::as_str).map(|name| format!("person/{name}"));
        staff.insert(user.unwrap_or_else(|| entry.actor.clone()));
    }

    /// In words, and what for where that is not what the project is for; `None`: it is not of the subject's.
    fn what(&self, entry: &Entry) -> Option<(&'static str, Option<&'static str>)> {
        match &self.subject {
            Subject::Of(_) if is_access(entry) => Some((access(&entry.action), None)),
            Subject::Of(_) => None,
            Subject::Person(name) => {
                let her = format!("person/{name}");
                let filter = |field: &str| entry.detail.get("filter").and_then(|of| of.get(field)?.as_str());
                let text = |field: &str| entry.detail.get(field).and_then(Value::as_str);
                if entry.actor == her {
                    return None;
                }
                match entry.action.as_str() {
                    "audit.read" if [filter("actor"), filter("resource")].contains(&Some(her.as_str())) => {
                        Some(("the log was searched for her", Some("supervision of access to data")))
                    }
                    "project.add-member" if text("person") == Some(name) => {
                        Some(("she was made a member", None))
                    }
                    "project.remove-member" if text("person") == Some(name) => {
                        Some(("she was taken out", None))
                    }
                    "person.read" if entry.resource == her => {
                        Some(("her record was read", Some("administration of accounts")))
                    }
                    _ if entry.resource == her => {
                        Some(("her account was changed", Some("administration of accounts")))
                    }
                    _ => None,
                }
            }
        }
    }

    fn table(&self, with_staff: bool) -> Table {
        let row = |(done, (count, staff)): (&Done, &(u64, BTreeSet<String>))| {
            let mut row = vec![
                Cell::new(&done.date),
                Cell::new(&done.project),
                Cell::new(&done.purpose),
                Cell::new(done.what),
                Cell::new(count.to_string()),
            ];
            row.extend(with_staff.then(|| Cell::new(staff.iter().cloned().collect::<Vec<_>>().join(", "))));
            row
        };
        let mut columns = vec!["date", "project", "purpose", "what", "times"];
        columns.extend(with_staff.then_some("staff"));
        Table { columns, rows: self.done.iter().map(row).collect(), empty: "the log has no such access" }
    }

    fn json(&self, with_staff: bool) -> Value {
        let one = |(done, (count, staff)): (&Done, &(u64, BTreeSet<String>))| {
            let Done { date, project, purpose, what } = done;
            let mut one =
                json!({ "date": date, "project": project, "purpose": purpose, "what": what, "times": count });
            if let (true, Value::Object(fields)) = (with_staff, &mut one) {
                fields.insert("staff".to_owned(), json!(staff));
            }
            one
        };
        self.done.iter().map(one).collect()
    }
}

/// What brings people to data, in words for who knows nothing of Holm.
fn access(action: &str) -> &'static str {
    match action {
        "slice.connect" | "guest.login" | "guest.sudo" => "staff worked with the data",
        "slice.recordings" => "recordings of terminals were looked at",
        "guest.transfer" => "data was copied in or out",
        "project.add-member" => "somebody was given access",
        "keys.escrow" => "keys of the data were given to a keeper",
        "slice.backup" => "a backup was made",
        "slice.restore" | "slice.drill" => "a backup was restored, or that was tried",
        _ => "a machine with the data was started",
    }
}

pub(super) async fn extract(session: &Session, whom: Whom) -> Result<(), Failure> {
    let Whom { project, person, since, until, with_staff } = whom;
    let time = |text: Option<String>| text.map(|text| parse_since(&text, &session.clock)).transpose();
    let (since, until) = (time(since).map_err(Failure::usage)?, time(until).map_err(Failure::usage)?);
    let of = |filter: Filter| self::filter(&filter, &session.clock);
    // All of it, also what is too old to be told: what a project is for was filed before.
    let (subject, searches) = match (project, person) {
        (Some(project), _) => {
            let wanted = of(Filter { project: Some(project.clone()), ..Filter::default() })?;
            (Subject::Of(project), vec![wanted])
        }
        (None, person) => {
            let person = person.unwrap_or_default();
            let about = of(Filter { about: Some(format!("person/{person}")), ..Filter::default() })?;
            let named = |action: &str| EntryFilter {
                action: action.to_owned(),
                text: person.clone(),
                ..EntryFilter::default()
            };
            let projects = EntryFilter { action: "project".to_owned(), ..EntryFilter::default() };
            let searches = ["audit.read", "project.add-member", "project.remove-member"].map(named);
            let searches = [projects, about].into_iter().chain(searches).collect();
            (Subject::Person(person), searches)
        }
    };
    let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
    for wanted in searches {
        let mut search = Search::new(session, wanted, true, PAGE).await?;
        while let Some((entry, _)) = search.next().await? {
            entries.insert(entry.index, entry);
        }
    }
    let mut found = Extract { subject, since, until, purposes: BTreeMap::new(), done: BTreeMap::new() };
    entries.values().for_each(|entry| found.add(entry, &session.clock));
    session.output.list(&found.table(with_staff), &found.json(with_staff))?;
    if let Subject::Of(project) = &found.subject {
        session.output.remark(&format!(
            "which of {project}'s data was looked at Holm does not know: who was in a slice could read all of it"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, action: &str, actor: &str, resource: &str, detail: Value) -> Entry {
        Entry {
            v: 1,
            index,
            time: Timestamp::from_second(1_790_000_000 + 3600 * i64::try_from(index).unwrap()).unwrap(),
            request: "r".to_owned(),
            actor: actor.to_owned(),
            peer: String::new(),
            action: action.to_owned(),
            resource: resource.to_owned(),
            project: Some("heart".to_owned()),
            level: None,
            outcome: "allowed".to_owned(),
            reasons: Vec::new(),
            pack: None,
            detail,
            changes: Vec::new(),
        }
    }

    fn of(subject: Subject, log: &[Entry], since: Option<Timestamp>) -> Extract {
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: jiff::tz::TimeZone::UTC };
        let mut found =
            Extract { subject, since, until: None, purposes: BTreeMap::new(), done: BTreeMap::new() };
        log.iter().for_each(|entry| found.add(entry, &clock));
        found
    }

    fn log() -> Vec<Entry> {
        let filed = |purpose: &str| json!({ "op": "put", "of": { "kind": "project", "name": "heart", "purpose": purpose } });
        let slice = "slice/heart/main";
        let mut log = vec![
            entry(0, "project.create", "person/dina", "project/heart", Value::Null),
            entry(1, "slice.connect", "person/rosa", slice, Value::Null),
            entry(2, "slice.connect", "person/dina", slice, Value::Null),
            entry(3, "guest.transfer", "host/dgx", slice, json!({ "user": "rosa" })),
            entry(4, "project.file", "person/dina", "project/heart", Value::Null),
            entry(5, "slice.connect", "person/rosa", slice, Value::Null),
            entry(6, "slice.connect", "person/lars", slice, Value::Null),
            entry(7, "slice.start", "person/dina", slice, json!({ "dry_run": true })),
            entry(8, "project.add-member", "person/dina", "project/heart", json!({ "person": "rosa" })),
            entry(9, "audit.read", "person/frida", "log", json!({ "filter": { "actor": "person/rosa" } })),
            entry(10, "audit.read", "person/frida", "log", json!({ "filter": { "actor": "person/dina" } })),
            entry(11, "person.renew", "person/frida", "person/rosa", Value::Null),
            entry(12, "person.read", "person/rosa", "person/rosa", Value::Null),
        ];
        log[0].changes.push(filed("a study of hearts"));
        log[4].changes.push(filed("another study"));
        log[6].outcome = "refused".to_owned();
        log
    }

    #[test]
    fn dates_and_purposes_of_the_time_and_nobody_of_the_staff() {
        let found = of(Subject::Of("heart".to_owned()), &log(), None);
        let json = found.json(false);
        let told: Vec<String> = json
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                format!("{} {}: {} x{}", one["date"], one["purpose"], one["what"], one["times"])
                    .replace('"', "")
            })
            .collect();
        let day = "2026-09-21";
        assert_eq!(
            told,
            [
                format!("{day} a study of hearts: data was copied in or out x1"),
                format!("{day} a study of hearts: staff worked with the data x2"),
                format!("{day} another study: somebody was given access x1"),
                format!("{day} another study: staff worked with the data x1"),
            ]
        );
        // Whatever the form: no name, no hour, no address.
        let shown = [json.to_string(), found.table(false).csv(), found.table(false).text(false, None)];
        for name in ["rosa", "dina", "frida", "lars", "dgx", "person/", ":13", "staff\":"] {
            assert!(shown.iter().all(|text| !text.contains(name)), "{name}");
        }
        assert!(found.table(true).csv().contains("person/dina, person/rosa"));
        // What came before is not told, and what it was for is known all the same.
        let later = of(Subject::Of("heart".to_owned()), &log(), Some(log()[5].time));
        assert_eq!(later.done.len(), 2);
        assert!(later.done.keys().all(|done| done.purpose == "another study"));
    }

    #[test]
    fn of_a_person_what_others_did_with_what_is_about_her() {
        let found = of(Subject::Person("rosa".to_owned()), &log(), None);
        let mut what: Vec<(&str, &str)> =
            found.done.keys().map(|done| (done.what, done.purpose.as_str())).collect();
        what.sort_unstable();
        assert_eq!(
            what,
            [
                ("her account was changed", "administration of accounts"),
                ("she was made a member", "another study"),
                ("the log was searched for her", "supervision of access to data"),
            ]
        );
        assert!(!found.json(false).to_string().contains("frida"));
    }
}
