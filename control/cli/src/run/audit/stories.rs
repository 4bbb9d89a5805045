//! What many entries say together: of a project, a device, a person.

use super::became::{self, Became};
use super::find::{Search, filter};
use crate::Failure;
use crate::args::Filter;
use crate::output::{Cell, Sheet, Table, Tone};
use crate::run::Session;
use crate::text::{Clock, parse_since, timestamp};
use holm_control::audit::Entry as Logged;
use holm_proto::v1::EntryFilter;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Entries of a page: as many as a message holds.
const PAGE: u64 = 500;
/// Changes of a device that are shown.
const STEPS: usize = 12;

/// The last words of actions that only look.
const LOOKS: [&str; 2] = ["read", "watch"];

pub(super) async fn timeline(
    session: &Session,
    project: String,
    since: Option<String>,
    until: Option<String>,
) -> Result<(), Failure> {
    let wanted = Filter { project: Some(project.clone()), since, until, ..Filter::default() };
    let mut search = Search::new(session, filter(&wanted, &session.clock)?, true, PAGE).await?;
    let (mut rows, mut json, mut told) = (Vec::new(), Vec::new(), Told::default());
    while let Some((entry, _)) = search.next().await? {
        let Some(row) = told.step(&entry, &session.clock) else { continue };
        rows.push(row);
        json.push(json!({
            "index": entry.index,
            "time": entry.time,
            "actor": entry.actor,
            "action": entry.action,
            "resource": entry.resource,
            "outcome": entry.outcome,
            "what": said(&entry),
        }));
    }
    let table = Table {
        columns: vec!["day", "time", "who", "action", "about", "what"],
        rows,
        empty: "nothing was decided or done in a project of that name; `holm project list` has those there are",
    };
    session.output.list(&table, &Value::Array(json))
}

/// What a timeline has said so far.
#[derive(Debug, Default)]
struct Told {
    day: Option<String>,
    /// Of each thing that was observed, what was said last.
    last: BTreeMap<String, String>,
}

impl Told {
    /// A line; `None`: somebody only looked, or nothing moved.
    fn step(&mut self, entry: &Logged, clock: &Clock) -> Option<Vec<Cell>> {
        let looked = entry.action.rsplit('.').next().is_some_and(|last| LOOKS.contains(&last));
        if looked && entry.outcome != "refused" {
            return None;
        }
        let what = said(entry);
        let before = self.last.insert(entry.resource.clone(), what.clone());
        if entry.outcome == "observed" && (what.is_empty() || before.as_ref() == Some(&what)) {
            return None;
        }
        let local = clock.local(entry.time);
        let (date, time) = local.split_once(' ').unwrap_or((&local, ""));
        let shown = if self.day.as_deref() == Some(date) { " " } else { date };
        let day = Cell::both(shown, date);
        self.day = Some(date.to_owned());
        let tone = if entry.outcome == "refused" { Tone::Bad } else { Tone::Plain };
        let (who, action) = (Cell::new(&entry.actor), Cell::new(&entry.action));
        Some(vec![day, Cell::new(time), who, action, Cell::new(&entry.resource), Cell::new(what).tone(tone)])
    }
}

/// What came of it, or why it was refused.
fn said(entry: &Logged) -> String {
    match entry.outcome.as_str() {
        "refused" => format!("refused: {}", entry.reasons.join("; ")),
        _ => {
            let mut became = became::of(entry);
            // A slice stands in each of its entries; where nothing else is said, that is what there is to say.
            became.dedup();
            became::words(&became)
        }
    }
}

/// A device as it stood from some entry on.
#[derive(Debug, PartialEq)]
struct Stood {
    index: u64,
    since: Timestamp,
    state: String,
    slice: Option<String>,
    reason: String,
}

/// Takes in an older entry: a device that stood the same before had it since then.
fn before(stood: &mut Vec<Stood>, entry: &Logged, device: &str) {
    let mut of = became::of(entry).into_iter().filter_map(|became| match became {
        Became::Device { name, state, slice, reason, .. } if name == device => Some((state, slice, reason)),
        _ => None,
    });
    // Of several changes in one entry the last is what was so.
    let Some((state, slice, reason)) = of.next_back() else { return };
    match stood.last_mut().filter(|last| last.state == state && last.slice == slice) {
        Some(last) => (last.index, last.since) = (entry.index, entry.time),
        None => stood.push(Stood { index: entry.index, since: entry.time, state, slice, reason }),
    }
}

pub(super) async fn who_had(session: &Session, device: String, at: Option<String>) -> Result<(), Failure> {
    if !device.contains('/') {
        let text = format!("`{device}` is no device: write HOST/ADDRESS, as dgx2-1/0000:34:00.0");
        return Err(Failure::usage(text).hint("holm host show HOST   (has the addresses)"));
    }
    let at = at.map(|text| parse_since(&text, &session.clock)).transpose().map_err(Failure::usage)?;
    let at = at.unwrap_or(session.clock.now);
    let after = at.checked_add(SignedDuration::from_nanos(1)).unwrap_or(at);
    let wanted =
        EntryFilter { device: device.clone(), until: Some(timestamp(after)), ..EntryFilter::default() };
    let mut search = Search::new(session, wanted, false, PAGE).await?;
    let mut stood = Vec::new();
    // One more than is shown: since when the last of them was so is known only then.
    while stood.len() <= STEPS {
        let Some((entry, _)) = search.next().await? else { break };
        before(&mut stood, &entry, &device);
    }
    stood.truncate(STEPS);
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for id in stood.iter().filter_map(|one| one.slice.clone()) {
        if let Entry::Vacant(free) = names.entry(id) {
            let name = label(session, free.key()).await?;
            free.insert(name);
        }
    }
    let name = |one: &Stood| one.slice.as_ref().and_then(|id| names.get(id)).cloned().unwrap_or_default();
    let Some(now) = stood.first() else {
        let text = format!("the log has nothing of a device `{device}` up to {}", session.clock.local(at));
        return Err(Failure::new(text).hint("holm host show HOST   (has the addresses)"));
    };
    let whose = match (now.state.as_str(), name(now)) {
        (_, none) if none.is_empty() => format!("nobody's: {}", now.state),
        ("claimed" | "assigned", slice) => format!("{slice}, {}", now.state),
        (state, slice) => format!("nobody's: {state}, after {slice}"),
    };
    let steps: Vec<Value> = stood
        .iter()
        .map(|one| {
            json!({ "index": one.index, "since": one.since, "state": one.state, "slice": one.slice,
                "slice_name": name(one), "reason": one.reason })
        })
        .collect();
    let json = json!({ "device": device, "at": at, "had": steps.first(), "before": steps.get(1..) });
    let mut sheet = Sheet::new(&device);
    sheet
        .line("at", session.clock.local(at))
        .line("whose", whose)
        .line("since", format!("{}, entry {}", session.clock.local(now.since), now.index));
    let mut label = "before";
    for one in stood.iter().skip(1) {
        let slice = name(one);
        let of = if slice.is_empty() { String::new() } else { format!("  {slice}") };
        let why = if one.reason.is_empty() { String::new() } else { format!("  ({})", one.reason) };
        let when = session.clock.local(one.since);
        sheet.line(label, format!("{when}  entry {:<6}  {:<11}{of}{why}", one.index, one.state));
        label = "";
    }
    session.output.sheet(&sheet, &json)
}

/// PROJECT/NAME of a slice, from the log.
async fn label(session: &Session, id: &str) -> Result<String, Failure> {
    let wanted = EntryFilter { text: id.to_owned(), action: "slice".to_owned(), ..EntryFilter::default() };
    let mut search = Search::new(session, wanted, true, 20).await?;
    for _ in 0..20 {
        let Some((entry, _)) = search.next().await? else { break };
        let named = became::of(&entry).into_iter().find_map(|became| match became {
            Became::Slice { id: of, name, .. } if of == id => Some(name),
            _ => None,
        });
        if let (Some(name), Some(project)) = (named, &entry.project) {
            return Ok(format!("{project}/{name}"));
        }
    }
    Ok(id.to_owned())
}

/// What a person did to one project.
#[derive(Debug, Default)]
struct Did {
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    allowed: u64,
    refused: u64,
    actions: BTreeMap<String, u64>,
    levels: Vec<String>,
}

impl Did {
    fn add(&mut self, entry: &Logged) {
        self.first = self.first.or(Some(entry.time));
        self.last = Some(entry.time);
        // Of a read those as well that are no entries; and what says no more than how many those were is none itself.
        let again = entry.detail.get("again").and_then(Value::as_u64).unwrap_or_default();
        let is_one = entry.detail.get("over").and_then(Value::as_bool) != Some(true);
        let times = again + u64::from(is_one);
        *(if entry.outcome == "refused" { &mut self.refused } else { &mut self.allowed }) += times;
        *self.actions.entry(entry.action.clone()).or_default() += times;
        self.levels.extend(entry.level.clone().filter(|level| !self.levels.contains(level)));
    }
}

/// What names a person in its detail alone.
const MEMBERSHIP: [&str; 2] = ["project.add-member", "project.remove-member"];

pub(super) async fn access(
    session: &Session,
    person: String,
    since: Option<String>,
    until: Option<String>,
) -> Result<(), Failure> {
    let wanted = Filter { person: Some(person.clone()), since, until, ..Filter::default() };
    let wanted = filter(&wanted, &session.clock)?;
    let mut did: BTreeMap<String, Did> = BTreeMap::new();
    let mut search = Search::new(session, wanted.clone(), true, PAGE).await?;
    while let Some((entry, _)) = search.next().await? {
        did.entry(entry.project.clone().unwrap_or_default()).or_default().add(&entry);
    }
    // What others did that made her somebody, or nobody.
    let about = EntryFilter { actor: String::new(), resource: format!("person/{person}"), ..wanted.clone() };
    let [joined, left] = MEMBERSHIP.map(|action| EntryFilter {
        actor: String::new(),
        action: action.to_owned(),
        text: person.clone(),
        ..wanted.clone()
    });
    let mut made: Vec<Logged> = Vec::new();
    for wanted in [about, joined, left] {
        let mut search = Search::new(session, wanted, true, PAGE).await?;
        while let Some((entry, _)) = search.next().await? {
            let hers = !MEMBERSHIP.contains(&entry.action.as_str())
                || entry.detail.get("person").and_then(Value::as_str) == Some(&person);
            if hers && !entry.changes.is_empty() && entry.actor != format!("person/{person}") {
                made.push(entry);
            }
        }
    }
    made.sort_by_key(|entry| entry.index);
    show_access(session, &person, &did, &made)
}

fn show_access(
    session: &Session,
    person: &str,
    did: &BTreeMap<String, Did>,
    made: &[Logged],
) -> Result<(), Failure> {
    let time = |at: Option<Timestamp>| at.map(|at| session.clock.local(at)).unwrap_or_default();
    let listed = |did: &Did| {
        let all = did.actions.iter().map(|(action, count)| format!("{action} {count}"));
        all.collect::<Vec<_>>().join(", ")
    };
    let row = |(project, did): (&String, &Did)| {
        vec![
            if project.is_empty() { Cell::both("(none)", "") } else { Cell::new(project) },
            Cell::new(did.levels.join(", ")),
            Cell::new(time(did.first)),
            Cell::new(time(did.last)),
            Cell::new(did.allowed.to_string()),
            match did.refused {
                0 => Cell::new("0"),
                some => Cell::new(some.to_string()).tone(Tone::Bad),
            },
            Cell::new(listed(did)),
        ]
    };
    let table = Table {
        columns: vec!["project", "level", "first", "last", "allowed", "refused", "what"],
        rows: did.iter().map(row).collect(),
        empty: "she did nothing that is in the log",
    };
    let projects: Vec<Value> = did
        .iter()
        .map(|(project, did)| {
            json!({ "project": project, "levels": did.levels, "first": did.first, "last": did.last,
                "allowed": did.allowed, "refused": did.refused, "actions": did.actions })
        })
        .collect();
    let by: Vec<Value> = made
        .iter()
        .map(|entry| {
            json!({ "index": entry.index, "time": entry.time, "actor": entry.actor, "action": entry.action,
                "resource": entry.resource, "detail": entry.detail })
        })
        .collect();
    session.output.list(&table, &json!({ "person": person, "did": projects, "made_by": by }))?;
    for entry in made {
        session.output.remark(&format!(
            "{}  entry {:<6}  {} by {}, of {}",
            session.clock.local(entry.time),
            entry.index,
            entry.action,
            entry.actor,
            entry.resource
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, changes: Vec<Value>) -> Logged {
        Logged {
            v: 1,
            index,
            time: Timestamp::from_second(1_790_000_000 + i64::try_from(index).unwrap()).unwrap(),
            request: "r".to_owned(),
            actor: "holmd".to_owned(),
            peer: String::new(),
            action: "observe.slice".to_owned(),
            resource: "slice/heart/main".to_owned(),
            project: Some("heart".to_owned()),
            level: Some("3".to_owned()),
            outcome: "observed".to_owned(),
            reasons: Vec::new(),
            pack: None,
            detail: Value::Null,
            changes,
        }
    }

    fn device(address: &str, state: &str, slice: Option<&str>) -> Value {
        json!({ "op": "put", "of": { "kind": "device", "host": "dgx", "address": address, "gpu": true,
            "state": state, "slice": slice, "reason": "" } })
    }

    #[test]
    fn a_device_had_what_it_has_since_it_became_so() {
        let mut stood = Vec::new();
        let log = [
            entry(1, vec![device("0000:34:00.0", "free", None)]),
            entry(
                2,
                vec![device("0000:34:00.0", "claimed", Some("s")), device("0000:35:00.0", "free", None)],
            ),
            entry(3, vec![device("0000:34:00.0", "assigned", Some("s"))]),
            // Reported anew, nothing moved.
            entry(4, vec![device("0000:34:00.0", "assigned", Some("s"))]),
            entry(5, vec![device("0000:35:00.0", "dirty", Some("t"))]),
        ];
        for entry in log.iter().rev() {
            before(&mut stood, entry, "dgx/0000:34:00.0");
        }
        let told: Vec<(u64, &str, Option<&str>)> =
            stood.iter().map(|one| (one.index, one.state.as_str(), one.slice.as_deref())).collect();
        assert_eq!(told, vec![(3, "assigned", Some("s")), (2, "claimed", Some("s")), (1, "free", None)]);
    }

    #[test]
    fn a_timeline_has_what_was_decided_and_what_moved() {
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: jiff::tz::TimeZone::UTC };
        let mut told = Told::default();
        let quiet = entry(1, Vec::new());
        assert_eq!(told.step(&quiet, &clock), None);
        let looked =
            Logged { action: "slice.read".to_owned(), outcome: "allowed".to_owned(), ..quiet.clone() };
        assert_eq!(told.step(&looked, &clock), None);
        // A look that was refused is no small thing.
        let refused =
            Logged { outcome: "refused".to_owned(), reasons: vec!["not hers".to_owned()], ..looked };
        let row = told.step(&refused, &clock).unwrap();
        assert_eq!((row[0].shown(), row[5].shown()), ("2026-09-21", "refused: not hers"));
        let slice =
            json!({ "op": "put", "of": { "kind": "slice", "id": "s", "name": "main", "state": "ready" } });
        let moved =
            entry(2, vec![slice, device("a", "assigned", Some("s")), device("b", "assigned", Some("s"))]);
        let row = told.step(&moved, &clock).unwrap();
        assert_eq!((row[0].shown(), row[5].shown()), (" ", "main is ready; 2 GPUs are assigned"));
        assert_eq!(told.step(&Logged { index: 3, ..moved }, &clock), None);
    }
}
