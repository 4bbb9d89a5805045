//! What an entry of the log is to whom. Pure: the entry, and the state that says who is an officer and who leads what.
//!
//! A record in an entry's changes is news of it where it bears the entry's own time: who changes it, stamps it so.
//! Nothing that people wrote, and nothing that a host or a guest said, is in what comes out of here.

use super::audience::Audience;
use crate::audit::{CARRY, Entry, sample};
use crate::domain::State;
use crate::domain::declassify::Declassification;
use crate::domain::incident::Incident;
use crate::domain::lock::Subject;
use crate::domain::oversight::Difference;
use crate::domain::people;
use crate::domain::records::{
    Approval, Change, Extension, Invitation, Lock, Project, Record, Slice, SliceState, Subject as Invited,
};
use crate::domain::register::Warned;
use crate::{oversight, review, watch};
use holm_proto::ids::Name;
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a message is of. Its text is also the name of its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A slice waits for an officer.
    ApprovalWanted,
    /// More time for a slice waits for an officer.
    MoreTimeWanted,
    /// A slice asks for another size.
    SizeWanted,
    /// A code waits for a second one's word.
    CodeWaits,
    /// A slice was approved.
    SliceApproved,
    /// A slice was rejected.
    SliceRejected,
    /// A slice can be used.
    SliceReady,
    /// A slice failed.
    SliceFailed,
    /// A slice was stopped.
    SliceStopped,
    /// A slice was frozen.
    SliceFrozen,
    /// Something that a project has filed ends, or has ended.
    Expiry,
    /// A level is to be lowered.
    LevelWanted,
    /// It was, or will not be.
    LevelDecided,
    /// Something was locked.
    LockSet,
    /// A lock was lifted.
    LockLifted,
    /// What was locked, or is not any more, is one's own; a device is the operators'.
    LockYours,
    /// Somebody's certificates were taken away.
    Revoked,
    /// One's own were, or those of a host that one operates.
    RevokedYours,
    /// Something is not as it should be.
    Alert,
    /// It is again.
    AlertOver,
    /// A rule has taken an entry of the log.
    Alarm,
    /// A sample of the log waits for officers, or something in it is wrong.
    Review,
    /// An incident was opened, runs out of time, or is over.
    Incident,
    /// What watches holmd was configured otherwise.
    Oversight,
    /// An operator tries whether messages arrive.
    Test,
}

/// In every message: its entry's number and time, and the command to run next.
pub const COMMON: [&str; 3] = ["entry", "time", "command"];

impl Kind {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::ApprovalWanted,
        Self::MoreTimeWanted,
        Self::SizeWanted,
        Self::CodeWaits,
        Self::SliceApproved,
        Self::SliceRejected,
        Self::SliceReady,
        Self::SliceFailed,
        Self::SliceStopped,
        Self::SliceFrozen,
        Self::Expiry,
        Self::LevelWanted,
        Self::LevelDecided,
        Self::LockSet,
        Self::LockLifted,
        Self::LockYours,
        Self::Revoked,
        Self::RevokedYours,
        Self::Alert,
        Self::AlertOver,
        Self::Alarm,
        Self::Review,
        Self::Incident,
        Self::Oversight,
        Self::Test,
    ];

    /// For programs and file names.
    pub fn text(self) -> &'static str {
        match self {
            Self::ApprovalWanted => "approval-wanted",
            Self::MoreTimeWanted => "more-time-wanted",
            Self::SizeWanted => "size-wanted",
            Self::CodeWaits => "code-waits",
            Self::SliceApproved => "slice-approved",
            Self::SliceRejected => "slice-rejected",
            Self::SliceReady => "slice-ready",
            Self::SliceFailed => "slice-failed",
            Self::SliceStopped => "slice-stopped",
            Self::SliceFrozen => "slice-frozen",
            Self::Expiry => "expiry",
            Self::LevelWanted => "level-wanted",
            Self::LevelDecided => "level-decided",
            Self::LockSet => "lock-set",
            Self::LockLifted => "lock-lifted",
            Self::LockYours => "lock-yours",
            Self::Revoked => "revoked",
            Self::RevokedYours => "revoked-yours",
            Self::Alert => "alert",
            Self::AlertOver => "alert-over",
            Self::Alarm => "alarm",
            Self::Review => "review",
            Self::Incident => "incident",
            Self::Oversight => "oversight",
            Self::Test => "test",
        }
    }

    /// What a message of it says, beside [`COMMON`].
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::ApprovalWanted => &["project", "slice", "level", "by", "gpus", "approvals"],
            Self::SizeWanted => {
                &["project", "slice", "level", "by", "gpus", "vcpus", "memory_mib", "approvals"]
            }
            Self::MoreTimeWanted => &["project", "slice", "level", "by", "approvals"],
            Self::CodeWaits => &["person", "by"],
            Self::SliceApproved
            | Self::SliceRejected
            | Self::SliceReady
            | Self::SliceFailed
            | Self::SliceStopped
            | Self::SliceFrozen => &["project", "slice", "level"],
            Self::Expiry => &["project", "level", "what", "when"],
            Self::LevelWanted => &["project", "level", "what", "to", "by"],
            Self::LevelDecided => &["project", "level", "what"],
            Self::LockSet | Self::LockLifted | Self::Revoked | Self::RevokedYours => &["subject", "by"],
            Self::LockYours => &["subject", "by", "what"],
            Self::Alert | Self::AlertOver => &["subject", "what"],
            Self::Alarm => &["what", "by", "about"],
            Self::Review => &["review", "what"],
            Self::Incident => &["incident", "project", "level", "what", "deadline"],
            Self::Oversight => &["what"],
            Self::Test => &[],
        }
    }
}

/// Something that somebody is to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The entry's number.
    pub entry: u64,
    /// Which of the entry's events.
    pub number: usize,
    /// The entry's time.
    pub time: Timestamp,
    /// What it is.
    pub kind: Kind,
    /// Who hears of it by mail.
    pub to: BTreeSet<Name>,
    /// What is said, by [`Kind::fields`] and [`COMMON`].
    pub fields: BTreeMap<&'static str, String>,
}

/// Everything that this entry is to anybody.
pub fn events(entry: &Entry, state: &State) -> Vec<Event> {
    // Who was refused changed nothing, and what holmd says of its own messages must not cause any.
    if entry.outcome == "refused" || entry.action.starts_with("notify.") || entry.action == "observe.notify" {
        return Vec::new();
    }
    // What is written down anew is nothing new.
    if entry.action == CARRY {
        return Vec::new();
    }
    let mut told = Told { entry, of: Audience(state), all: Vec::new() };
    for change in entry.changes.iter().filter_map(change) {
        match &change {
            Change::Put(Record::Slice(slice)) => told.slice(slice),
            Change::Put(Record::Project(project)) => told.project(project),
            Change::Put(Record::Invitation(code)) if code.waits => told.code(code),
            Change::Put(Record::Incident(incident)) => told.incident(incident),
            Change::Put(Record::Lock(lock)) if lock.at == entry.time => told.lock(lock),
            Change::Delete(key) => {
                let subject = key.strip_prefix("lock/").and_then(|subject| subject.parse().ok());
                told.unlocked(subject);
            }
            Change::Put(Record::Person(person)) if stamped(person.revoked.as_ref().map(|r| r.at), entry) => {
                told.revoked("person", &person.name);
            }
            Change::Put(Record::Host(host)) if stamped(host.revoked.as_ref().map(|r| r.at), entry) => {
                told.revoked("host", &host.name);
            }
            Change::Put(_) => {}
        }
    }
    match entry.action.as_str() {
        "observe.expiry" => told.expiry(),
        "observe.keys" => told.provider(),
        "observe.alert" => told.alerts(),
        watch::ALARM => told.alarm(),
        oversight::START => told.oversight(),
        sample::DRAW | review::OVERDUE | "audit.review" => told.review(),
        "observe.witness" => told.witness(),
        "observe.stream" => told.stream(),
        _ => {}
    }
    told.all
}

/// A message that says nothing but that it came.
pub fn trial(now: Timestamp, to: BTreeSet<Name>) -> Event {
    let fields = BTreeMap::from([
        ("entry", "0".to_owned()),
        ("time", format!("{now:.0}")),
        ("command", "holmd notify test".to_owned()),
    ]);
    Event { entry: 0, number: 0, time: now, kind: Kind::Test, to, fields }
}

/// Of records that somebody may hear of; the others are not even read.
fn change(value: &serde_json::Value) -> Option<Change> {
    const KINDS: [&str; 7] = ["slice", "project", "lock", "person", "host", "invitation", "incident"];
    let kind = value.pointer("/of/kind").and_then(serde_json::Value::as_str);
    if kind.is_some_and(|kind| !KINDS.contains(&kind)) {
        return None;
    }
    serde_json::from_value(value.clone()).ok()
}

fn stamped(at: Option<Timestamp>, entry: &Entry) -> bool {
    at == Some(entry.time)
}

/// What was found to say so far.
struct Told<'a> {
    entry: &'a Entry,
    of: Audience<'a>,
    all: Vec<Event>,
}

impl Told<'_> {
    fn say(&mut self, kind: Kind, to: BTreeSet<Name>, command: String, said: &[(&'static str, &str)]) {
        let entry = self.entry;
        let mut fields: BTreeMap<&'static str, String> =
            said.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        fields.insert("entry", entry.index.to_string());
        fields.insert("time", format!("{:.0}", entry.time));
        fields.insert("command", command);
        let number = self.all.len();
        self.all.push(Event { entry: entry.index, number, time: entry.time, kind, to, fields });
    }

    /// Whose call it is.
    fn by(&self) -> String {
        let (_, name) = self.entry.actor.split_once('/').unwrap_or(("", &self.entry.actor));
        name.to_owned()
    }

    fn slice(&mut self, slice: &Slice) {
        let Some(project) = self.of.0.projects.get(&slice.project) else { return };
        let label = format!("{}/{}", project.name, slice.name);
        if let Some(asked) = &slice.extension {
            let last = asked.approvals.last().map_or(asked.at, |a| a.at);
            if last == self.entry.time {
                return self.asked_later(project, slice, asked, &label);
            }
        }
        let approved_now = stamped(slice.approvals.last().map(|a| a.at), self.entry);
        let (kind, verb) = match slice.state {
            SliceState::Requested if slice.requested == self.entry.time || approved_now => {
                return self.wanted(project, slice, &label);
            }
            _ if slice.changed != self.entry.time => return,
            // One that is started again is approved too, and was before.
            SliceState::Approved if approved_now => (Kind::SliceApproved, "slice explain"),
            SliceState::Rejected => (Kind::SliceRejected, "slice show"),
            SliceState::Ready => (Kind::SliceReady, "ssh"),
            SliceState::Failed => (Kind::SliceFailed, "slice explain"),
            SliceState::Stopped => (Kind::SliceStopped, "slice show"),
            SliceState::Keeping if slice.closed_at.is_none() => (Kind::SliceFrozen, "slice show"),
            _ => return,
        };
        let to = self.of.asked_for(project, &slice.requested_by);
        let (project, name) = (project.name.to_string(), slice.name.to_string());
        let said = [("project", project.as_str()), ("slice", &name), ("level", &slice.level)];
        self.say(kind, to, format!("holm {verb} {label}"), &said);
    }

    /// Officers who can still decide on what somebody asks for.
    fn deciders(&self, project: &Project, by: &Name, approvals: &[Approval]) -> BTreeSet<Name> {
        let before = approvals.iter().map(|a| &a.by);
        let not: BTreeSet<&Name> = before.chain(&project.members).chain([&project.lead, by]).collect();
        self.of.officers().filter(|name| !not.contains(name)).cloned().collect()
    }

    /// More time, or another size.
    fn asked_later(&mut self, project: &Project, slice: &Slice, asked: &Extension, label: &str) {
        let to = self.deciders(project, &asked.by, &asked.approvals);
        let (name, by) = (slice.name.to_string(), asked.by.to_string());
        let approvals = format!("{} of {}", asked.approvals.len(), slice.approvals_needed);
        let said = [
            ("project", project.name.as_str()),
            ("slice", &name),
            ("level", &slice.level),
            ("by", &by),
            ("approvals", &approvals),
        ];
        let command = format!("holm slice review {label}");
        match asked.size {
            None => self.say(Kind::MoreTimeWanted, to, command, &said),
            Some(size) => {
                let all = [size.gpus.into(), size.vcpus.into(), size.memory_mib].map(|n: u64| n.to_string());
                let [gpus, vcpus, memory] = all.each_ref().map(String::as_str);
                let size = [("gpus", gpus), ("vcpus", vcpus), ("memory_mib", memory)];
                self.say(Kind::SizeWanted, to, command, &[&said[..], &size].concat());
            }
        }
    }

    /// Whoever may confirm it hears of it, and whom it is for: she would know that she asked for none.
    fn code(&mut self, code: &Invitation) {
        let Invited::Person(name) = &code.subject else { return };
        let known = self.of.0.people.get(name).filter(|p| p.enrolled).map(|p| &p.name);
        let all: Vec<&Name> = people::confirmers(self.of.0, name, &code.by).chain(known).collect();
        let to = self.of.of(all);
        let (person, by) = (name.to_string(), code.by.clone());
        let said = [("person", person.as_str()), ("by", by.as_str())];
        self.say(Kind::CodeWaits, to, format!("holm person confirm {name} --id {}", code.id()), &said);
    }

    fn wanted(&mut self, project: &Project, slice: &Slice, label: &str) {
        let to = self.deciders(project, &slice.requested_by, &slice.approvals);
        let (name, by, gpus) =
            (slice.name.to_string(), slice.requested_by.to_string(), slice.gpus.to_string());
        let approvals = format!("{} of {}", slice.approvals.len(), slice.approvals_needed);
        let said = [
            ("project", project.name.as_str()),
            ("slice", &name),
            ("level", &slice.level),
            ("by", &by),
            ("gpus", &gpus),
            ("approvals", &approvals),
        ];
        self.say(Kind::ApprovalWanted, to, format!("holm slice review {label}"), &said);
    }

    fn project(&mut self, project: &Project) {
        let name = project.name.as_str();
        if let Some(pending) = &project.declassification {
            let last = pending.approvals.last().map_or(pending.at, |a| a.at);
            if last == self.entry.time {
                self.level(project, pending);
            }
        } else if self.entry.action == "project.declassify-decide" {
            let approve = self.entry.detail.get("approve").and_then(serde_json::Value::as_bool);
            let what = if approve == Some(true) { "lowered" } else { "not lowered" };
            let said = [("project", name), ("level", &project.level), ("what", what)];
            let to = self.of.lead(project);
            self.say(Kind::LevelDecided, to, format!("holm project show {name}"), &said);
        }
    }

    fn level(&mut self, project: &Project, pending: &Declassification) {
        let inside =
            |name: &Name| *name == project.lead || *name == pending.by || project.members.contains(name);
        let before = |name: &Name| pending.approvals.iter().any(|a| a.by == *name);
        let to = self.of.officers().filter(|name| !inside(name) && !before(name)).cloned().collect();
        let what =
            pending.data_set.as_ref().map_or("the project".to_owned(), |set| format!("data set {set}"));
        let by = pending.by.to_string();
        let said = [
            ("project", project.name.as_str()),
            ("level", &project.level),
            ("what", &what),
            ("to", &pending.to),
            ("by", &by),
        ];
        let command = format!("holm project declassify {} --approve", project.name);
        self.say(Kind::LevelWanted, to, command, &said);
    }

    fn lock(&mut self, lock: &Lock) {
        self.locked(Kind::LockSet, &lock.subject, "locked");
    }

    fn unlocked(&mut self, subject: Option<Subject>) {
        if let Some(subject) = subject {
            self.locked(Kind::LockLifted, &subject, "free again");
        }
    }

    fn locked(&mut self, kind: Kind, subject: &Subject, what: &str) {
        let (by, text) = (self.by(), subject.to_string());
        let to = self.of.officers().cloned().collect();
        self.say(kind, to, "holm lock list".to_owned(), &[("subject", &text), ("by", &by)]);
        let (to, command) = match subject {
            Subject::Person(name) => (self.of.herself(name), "holm doctor".to_owned()),
            Subject::Project(name) | Subject::Slice(name, _) | Subject::Keys(name) => {
                let Some(project) = self.of.0.project(name) else { return };
                (self.of.lead(project), format!("holm project show {name}"))
            }
            Subject::Device(host, _) => {
                (self.of.operators().cloned().collect(), format!("holm host show {host}"))
            }
        };
        let said = [("subject", text.as_str()), ("by", &by), ("what", what)];
        self.say(Kind::LockYours, to, command, &said);
    }

    fn revoked(&mut self, what: &str, name: &Name) {
        let by = self.by();
        let subject = format!("{what}/{name}");
        let to = self.of.officers().cloned().collect();
        let said = [("subject", subject.as_str()), ("by", &by)];
        self.say(Kind::Revoked, to, format!("holm audit show {}", self.entry.index), &said);
        let (to, command) = match what {
            "person" => (self.of.herself(name), "holm doctor".to_owned()),
            _ => (self.of.operators().cloned().collect(), format!("holm host show {name}")),
        };
        self.say(Kind::RevokedYours, to, command, &said);
    }

    /// One for each thing that ends.
    fn expiry(&mut self) {
        let ends = self.entry.detail.get("ends").cloned().unwrap_or_default();
        let ends: Vec<Warned> = serde_json::from_value(ends).unwrap_or_default();
        let name = self.entry.project.as_ref().and_then(|name| name.parse().ok());
        let Some(project) = name.and_then(|name: Name| self.of.0.project(&name)) else { return };
        for warned in ends {
            let date = warned.ends.strftime("%Y-%m-%d");
            let when = if warned.days == 0 { format!("ended on {date}") } else { format!("ends on {date}") };
            let name = project.name.as_str();
            let said =
                [("project", name), ("level", &project.level), ("what", &warned.what), ("when", &when)];
            self.say(Kind::Expiry, self.of.lead(project), format!("holm project show {name}"), &said);
        }
    }

    /// The key provider went, or came back.
    fn provider(&mut self) {
        let down = self.entry.detail.get("down").is_some_and(|down| !down.is_null());
        let kind = if down { Kind::Alert } else { Kind::AlertOver };
        let said = [("subject", "the key provider"), ("what", "key-provider-down")];
        self.say(kind, self.of.watch(), "holm keys show".to_owned(), &said);
    }

    /// A rule took an entry. Whose it is hears of it from the others, if at all.
    fn alarm(&mut self) {
        let text = |field: &str| self.entry.detail.get(field).and_then(|of| of.as_str()).map(str::to_owned);
        let index = self.entry.detail.get("entry").and_then(serde_json::Value::as_u64);
        let (Some(by), Some(index)) = (text("actor"), index) else { return };
        let rule = self.entry.resource.strip_prefix("alarm/").unwrap_or_default().to_owned();
        let of = self.of.officers().filter(|name| by.strip_prefix("person/") != Some(name.as_str()));
        let to = of.cloned().collect();
        let about = index.to_string();
        let said = [("what", rule.as_str()), ("by", &by), ("about", &about)];
        self.say(Kind::Alarm, to, format!("holm audit show {index}"), &said);
    }

    /// A sample was drawn, is overdue, or has an entry that is not in order.
    fn review(&mut self) {
        let Some((_, number)) = self.entry.resource.split_once('/') else { return };
        let of = |field: &str| self.entry.detail.get(field).filter(|of| !of.is_null());
        let what = match (of("sample").and_then(|sample| sample.as_array()), of("overdue"), of("flag")) {
            (Some(sample), ..) if sample.is_empty() => return,
            (Some(sample), ..) => format!("{} entries wait for a look", sample.len()),
            (_, Some(_), _) => "overdue".to_owned(),
            (.., Some(flag)) if flag.as_bool() == Some(true) => match of("entry") {
                Some(entry) => format!("entry {entry} was flagged"),
                None => return,
            },
            _ => return,
        };
        let (number, to) = (number.to_owned(), self.of.officers().cloned().collect());
        let said = [("review", number.as_str()), ("what", &what)];
        self.say(Kind::Review, to, format!("holm audit review show {number}"), &said);
    }

    /// Officers hear of each step of an incident, and of what is left of its time.
    fn incident(&mut self, incident: &Incident) {
        let what = match (self.entry.action.as_str(), incident.said) {
            ("incident.open", _) => "opened".to_owned(),
            ("incident.notify", _) => "the authority was told".to_owned(),
            ("incident.close", _) => "closed".to_owned(),
            ("observe.incident", Some(0)) => "overdue".to_owned(),
            ("observe.incident", Some(hours)) => format!("{hours} hours are left"),
            _ => return,
        };
        let level = self.of.0.project(&incident.project).map(|p| p.level.clone()).unwrap_or_default();
        let (number, deadline) = (incident.number.to_string(), format!("{:.0}", incident.deadline()));
        let said = [
            ("incident", number.as_str()),
            ("project", incident.project.as_str()),
            ("level", &level),
            ("what", &what),
            ("deadline", &deadline),
        ];
        let to = self.of.officers().cloned().collect();
        self.say(Kind::Incident, to, "holm audit incident list".to_owned(), &said);
    }

    /// Who may write holmd's configuration has changed what watches it. Names of parts are names as Holm has them.
    fn oversight(&mut self) {
        let Ok(difference) = serde_json::from_value::<Difference>(self.entry.detail.clone()) else { return };
        if difference.first {
            return;
        }
        let all = [("gone", &difference.gone), ("changed", &difference.changed), ("new", &difference.new)];
        let some = all.iter().filter(|(_, names)| !names.is_empty());
        let listed = |names: &[String]| match names {
            [first, rest @ ..] if rest.len() > 4 => format!("{first} and {} more", rest.len()),
            few => few.join(", "),
        };
        let what =
            some.map(|(how, names)| format!("{how}: {}", listed(names))).collect::<Vec<_>>().join("; ");
        let to = self.of.officers().cloned().collect();
        self.say(Kind::Oversight, to, format!("holm audit show {}", self.entry.index), &[("what", &what)]);
    }

    /// A witness has seen another history, or cosigns no more, or does again.
    fn witness(&mut self) {
        let of = |name: &str| self.entry.detail.get(name).and_then(serde_json::Value::as_str);
        let (kind, what) = match (of("state"), of("before")) {
            (Some("alarm"), _) => (Kind::Alert, "witness-alarm"),
            (Some("behind"), _) => (Kind::Alert, "witness-behind"),
            (Some("covered"), Some("alarm")) => (Kind::AlertOver, "witness-alarm"),
            (Some("covered"), Some("behind")) => (Kind::AlertOver, "witness-behind"),
            _ => return,
        };
        let (_, name) = self.entry.resource.split_once('/').unwrap_or_default();
        let subject = format!("the witness {name}");
        let said = [("subject", subject.as_str()), ("what", what)];
        self.say(kind, self.of.watch(), "holm audit witnesses".to_owned(), &said);
    }

    /// A collector went, or came back.
    fn stream(&mut self) {
        let down = self.entry.detail.get("down").is_some_and(|down| !down.is_null());
        let kind = if down { Kind::Alert } else { Kind::AlertOver };
        let (_, name) = self.entry.resource.split_once('/').unwrap_or_default();
        let subject = format!("the log's stream to {name}");
        let said = [("subject", subject.as_str()), ("what", "stream-down")];
        self.say(kind, self.of.watch(), "holmd check".to_owned(), &said);
    }

    /// What began or ended on a host, by [`super::alerts`].
    fn alerts(&mut self) {
        #[derive(Deserialize)]
        struct News {
            host: Name,
            raised: Vec<String>,
            gone: Vec<String>,
        }
        let Ok(news) = serde_json::from_value::<News>(self.entry.detail.clone()) else { return };
        for (kind, codes) in [(Kind::Alert, &news.raised), (Kind::AlertOver, &news.gone)] {
            if codes.is_empty() {
                continue;
            }
            let (subject, what) = (format!("host {}", news.host), codes.join(", "));
            let said = [("subject", subject.as_str()), ("what", &what)];
            self.say(kind, self.of.watch(), format!("holm host show {}", news.host), &said);
        }
    }
}
