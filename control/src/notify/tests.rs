//! The pure part: what is an event to whom, and what a message can and cannot say.

use super::audience::Audience;
use super::courier::Letter;
use super::event::{COMMON, Event, Kind, events, trial};
use super::mail::Smtp;
use super::template::{Templates, line};
use super::*;
use crate::audit::Entry;
use crate::domain::State;
use crate::domain::records::{Change, Record};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Stands wherever people, hosts and guests write.
const TYPED: &str = "TYPED-BY-SOMEBODY";
const NOW: &str = "2026-05-04T03:02:01.123456789Z";
const BEFORE: &str = "2026-05-03T00:00:00Z";

fn record(kind: &str, mut of: Value) -> Value {
    of["kind"] = kind.into();
    of
}

fn person(name: &str, role: &str) -> Value {
    record(
        "person",
        json!({ "name": name, "roles": [role], "uid": 20_001, "created": BEFORE, "enrolled": true }),
    )
}

const HEART: &str = "00000000-0000-4000-8000-000000000001";

fn project() -> Value {
    let of = json!({
        "id": HEART, "name": "heart", "level": "2", "level_name": TYPED, "purpose": TYPED, "lead": "dina",
        "members": ["dina", "rosa"], "created": BEFORE, "pack": "aau-2018/1",
        "data_sets": [{ "name": "scans", "owner": TYPED, "level": "2" }],
    });
    record("project", of)
}

fn slice(state: &str) -> Value {
    let of = json!({
        "id": "00000000-0000-4000-8000-000000000002", "project": HEART, "name": "main", "level": "2",
        "level_name": TYPED, "gpus": 4, "vcpus": 24, "memory_mib": 1024, "disk_gib": 50, "state": state,
        "reason": TYPED, "requested_by": "rosa", "requested": BEFORE, "approvals": [], "approvals_needed": 2,
        "placement": null, "volume": "00000000-0000-4000-8000-000000000003", "key_fingerprint": TYPED,
        "key_destroyed": null, "generation": 0, "changed": NOW, "guest": null, "evidence": [], "detached": null,
        "certificate": null, "closed_by": null,
    });
    record("slice", of)
}

fn approval(by: &str, at: &str) -> Value {
    json!({ "by": by, "at": at, "comment": TYPED })
}

fn with(mut record: Value, name: &str, value: Value) -> Value {
    record[name] = value;
    record
}

fn put(record: Value) -> Value {
    json!({ "op": "put", "of": record })
}

/// dina leads heart, where rosa is a member; frida, gustav and hugo are officers; olga operates.
fn state() -> State {
    let people = [
        ("dina", "lead"),
        ("rosa", "researcher"),
        ("frida", "officer"),
        ("gustav", "officer"),
        ("olga", "operator"),
    ];
    let mut records: Vec<Value> = people.iter().map(|(name, role)| person(name, role)).collect();
    records.push(with(person("hugo", "officer"), "enrolled", false.into()));
    records.push(project());
    let mut state = State::default();
    for record in records {
        let record: Record = serde_json::from_value(record).unwrap();
        state.apply(&[Change::Put(record)]);
    }
    state
}

fn entry(action: &str, actor: &str, detail: Value, changes: Vec<Value>) -> Entry {
    Entry {
        v: 1,
        index: 77,
        time: NOW.parse().unwrap(),
        request: String::new(),
        actor: actor.to_owned(),
        peer: TYPED.to_owned(),
        action: action.to_owned(),
        resource: TYPED.to_owned(),
        project: Some("heart".to_owned()),
        level: None,
        outcome: if action.starts_with("observe.") { "observed" } else { "allowed" }.to_owned(),
        reasons: vec![TYPED.to_owned()],
        pack: None,
        detail,
        changes,
    }
}

/// Kind, and to whom, of each.
fn told(state: &State, entry: &Entry) -> Vec<(Kind, Vec<String>, String)> {
    let all = events(entry, state);
    for event in &all {
        let has: BTreeSet<&str> = event.fields.keys().copied().collect();
        let wants: BTreeSet<&str> = event.kind.fields().iter().chain(&COMMON).copied().collect();
        assert_eq!(has, wants, "{:?}", event.kind);
        let text = Templates::load(None).unwrap().text(event);
        for said in event.fields.values().chain([&text.subject, &text.body]) {
            assert!(!said.contains(TYPED), "{:?} says what somebody typed: {said}", event.kind);
        }
        assert!(text.body.contains(&event.fields["command"]), "{:?}", event.kind);
    }
    let to = |event: &Event| event.to.iter().map(ToString::to_string).collect();
    all.iter().map(|event| (event.kind, to(event), event.fields["command"].clone())).collect()
}

fn one(action: &str, actor: &str, changes: Vec<Value>, kind: Kind, to: &[&str], command: &str) {
    let detail = json!({ "reason": TYPED, "comment": TYPED });
    let to: Vec<String> = to.iter().map(ToString::to_string).collect();
    let told = told(&state(), &entry(action, actor, detail, changes));
    assert_eq!(told, [(kind, to, command.to_owned())], "{action}");
}

#[test]
fn officers_hear_of_what_waits_for_them_and_never_of_their_own() {
    let asked = |slice| with(slice, "requested", NOW.into());
    let wanted = |changes, to: &[&str]| {
        one(
            "slice.request",
            "person/rosa",
            changes,
            Kind::ApprovalWanted,
            to,
            "holm slice review heart/main",
        );
    };
    // hugo has not come in yet.
    wanted(vec![put(asked(slice("requested")))], &["frida", "gustav"]);
    wanted(vec![put(with(asked(slice("requested")), "requested_by", "frida".into()))], &["gustav"]);
    wanted(vec![put(with(slice("requested"), "approvals", json!([approval("frida", NOW)])))], &["gustav"]);
    let hers = with(project(), "members", json!(["dina", "rosa", "frida"]));
    let mut state = state();
    state.apply(&[Change::Put(serde_json::from_value(hers).unwrap())]);
    let entry = entry("slice.request", "person/rosa", json!({}), vec![put(asked(slice("requested")))]);
    assert_eq!(told(&state, &entry)[0].1, ["gustav"], "the state says whose project it is");
}

#[test]
fn more_time_waits_for_officers_as_a_request_does() {
    let asked = |at: &str, approvals: Value| json!({ "by": "dina", "at": at, "comment": TYPED, "approvals": approvals });
    let review = "holm slice review heart/main";
    let of = |extension| vec![put(with(slice("ready"), "extension", extension))];
    let both = &["frida", "gustav"];
    one("slice.extend", "person/dina", of(asked(NOW, json!([]))), Kind::MoreTimeWanted, both, review);
    let once = asked(BEFORE, json!([approval("frida", NOW)]));
    one("slice.approve", "person/frida", of(once), Kind::MoreTimeWanted, &["gustav"], review);
    let size = json!({ "gpus": 4, "vcpus": 24, "memory_mib": 65536 });
    let larger = with(asked(NOW, json!([])), "size", size);
    one("slice.resize", "person/dina", of(larger), Kind::SizeWanted, both, review);
}

#[test]
fn who_may_confirm_a_code_hears_of_it_and_whom_it_is_for() {
    let code = |waits: bool| {
        put(json!({ "kind": "invitation", "hash": "x", "subject": { "person": "rosa" }, "by": "frida",
            "expires": NOW, "waits": waits }))
    };
    let to = &["gustav", "olga", "rosa"];
    let command = "holm person confirm rosa --id x";
    one("person.renew", "person/frida", vec![code(true)], Kind::CodeWaits, to, command);
    assert_eq!(told(&state(), &entry("person.confirm", "person/gustav", json!({}), vec![code(false)])), []);
}

#[test]
fn who_asked_and_who_leads_hear_what_came_of_it() {
    let both = &["dina", "rosa"];
    let approvals = json!([approval("frida", BEFORE), approval("gustav", NOW)]);
    let approved = with(slice("approved"), "approvals", approvals);
    one(
        "slice.approve",
        "person/gustav",
        vec![put(approved)],
        Kind::SliceApproved,
        both,
        "holm slice explain heart/main",
    );
    for (state, kind, command) in [
        ("rejected", Kind::SliceRejected, "holm slice show heart/main"),
        ("ready", Kind::SliceReady, "holm ssh heart/main"),
        ("failed", Kind::SliceFailed, "holm slice explain heart/main"),
        ("stopped", Kind::SliceStopped, "holm slice show heart/main"),
        ("keeping", Kind::SliceFrozen, "holm slice show heart/main"),
    ] {
        one("observe.slice", "host/dgx", vec![put(slice(state))], kind, both, command);
        // Something else of it has changed.
        let same = with(slice(state), "changed", BEFORE.into());
        assert_eq!(told(&self::state(), &entry("observe.slice", "host/dgx", json!({}), vec![put(same)])), []);
        // Who is not in the project any more hears nothing of it.
        let gone = with(slice(state), "requested_by", "gustav".into());
        one("observe.slice", "host/dgx", vec![put(gone)], kind, &["dina"], command);
    }
    // It was approved when it was asked for, and is started again; it was closed, and is kept.
    let again = with(slice("approved"), "approvals", json!([approval("frida", BEFORE)]));
    let closed = with(slice("keeping"), "closed_at", NOW.into());
    for nothing in [again, closed, slice("closing"), slice("destroyed"), slice("withdrawn"), slice("placed")]
    {
        assert_eq!(told(&state(), &entry("slice.start", "person/dina", json!({}), vec![put(nothing)])), []);
    }
}

#[test]
fn leads_hear_of_what_ends() {
    let ends = json!({ "ends": [
        { "what": "its DPIA", "ends": "2026-05-18T00:00:00Z", "days": 14 },
        { "what": "the agreement of rosa", "ends": "2026-05-01T00:00:00Z", "days": 0 },
    ]});
    let entry = entry("observe.expiry", "holmd", ends, vec![]);
    let lead = || (Kind::Expiry, vec!["dina".to_owned()], "holm project show heart".to_owned());
    assert_eq!(told(&state(), &entry), [lead(), lead()]);
    let all = events(&entry, &state());
    let text = |n: usize| Templates::load(None).unwrap().text(&all[n]).subject;
    assert_eq!(text(0), "heart: its DPIA ends on 2026-05-18");
    assert_eq!(text(1), "heart: the agreement of rosa ended on 2026-05-01");
}

#[test]
fn officers_outside_the_project_hear_that_a_level_is_to_be_lowered() {
    let asked = |approvals: Value, at: &str| {
        let of = json!({ "data_set": "scans", "to": "1", "reason": TYPED, "by": "dina", "at": at, "approvals": approvals });
        with(project(), "declassification", of)
    };
    let wanted = |project, to: &[&str]| {
        let command = "holm project declassify heart --approve";
        one("project.declassify", "person/dina", vec![put(project)], Kind::LevelWanted, to, command);
    };
    wanted(asked(json!([]), NOW), &["frida", "gustav"]);
    wanted(with(asked(json!([]), NOW), "members", json!(["dina", "frida"])), &["gustav"]);
    wanted(asked(json!([approval("frida", NOW)]), BEFORE), &["gustav"]);
    // The project changes otherwise meanwhile.
    let other = asked(json!([approval("frida", BEFORE)]), BEFORE);
    assert_eq!(told(&state(), &entry("project.file", "person/dina", json!({}), vec![put(other)])), []);
    for (approve, what) in [(true, "heart: the level is lowered"), (false, "heart: the level is not lowered")]
    {
        let detail = json!({ "approve": approve, "comment": TYPED });
        let entry = entry("project.declassify-decide", "person/gustav", detail, vec![put(project())]);
        let show = "holm project show heart".to_owned();
        assert_eq!(told(&state(), &entry), [(Kind::LevelDecided, vec!["dina".to_owned()], show)]);
        assert_eq!(Templates::load(None).unwrap().text(&events(&entry, &state())[0]).subject, what);
    }
}

#[test]
fn of_locks_officers_hear_and_whose_it_is() {
    for (subject, yours) in [
        ("person/rosa", "rosa"),
        ("project/heart", "dina"),
        ("slice/heart/main", "dina"),
        ("keys/heart", "dina"),
        ("device/dgx/0000:01:00.0", "olga"),
    ] {
        let lock = json!({ "subject": subject, "by": "frida", "at": NOW, "reason": TYPED });
        let set = put(record("lock", lock));
        let lifted = json!({ "op": "delete", "of": format!("lock/{subject}") });
        for (action, change, kind) in
            [("lock.set", set, Kind::LockSet), ("lock.lift", lifted, Kind::LockLifted)]
        {
            let detail = json!({ "reason": TYPED });
            let told = told(&state(), &entry(action, "person/frida", detail, vec![change]));
            let officers = vec!["frida".to_owned(), "gustav".to_owned()];
            assert_eq!(told[0], (kind, officers, "holm lock list".to_owned()), "{subject}");
            let hers: Vec<_> = told[1..].iter().map(|(kind, to, _)| (*kind, to.join(" "))).collect();
            assert_eq!(hers, [(Kind::LockYours, yours.to_owned())], "{subject}");
        }
    }
}

#[test]
fn who_is_revoked_or_locked_hears_that_and_nothing_else() {
    let revoked = json!({ "by": "frida", "at": NOW, "reason": TYPED });
    let taken = with(person("dina", "lead"), "revoked", revoked);
    let entry_of_it =
        entry("person.revoke", "person/frida", json!({ "reason": TYPED }), vec![put(taken.clone())]);
    let told_of_it = told(&state(), &entry_of_it);
    assert_eq!(told_of_it[0].0, Kind::Revoked);
    assert_eq!(told_of_it[1], (Kind::RevokedYours, vec!["dina".to_owned()], "holm doctor".to_owned()));
    let mut state = state();
    let lock = json!({ "subject": "person/gustav", "by": "frida", "at": BEFORE, "reason": TYPED });
    for now in [taken, record("lock", lock)] {
        state.apply(&[Change::Put(serde_json::from_value(now).unwrap())]);
    }
    let ready = entry("observe.slice", "host/dgx", json!({}), vec![put(slice("ready"))]);
    assert_eq!(told(&state, &ready)[0].1, ["rosa"]);
    assert_eq!(Audience(&state).officers().map(ToString::to_string).collect::<Vec<_>>(), ["frida"]);
}

#[test]
fn an_alarm_goes_to_officers_but_for_whom_it_is_about() {
    let told_of = |actor: &str| {
        let detail = json!({ "entry": 17, "actor": actor, "count": 1, "first": "2026-11-03T13:02:11Z" });
        let alarm = entry("observe.alarm", "holmd", detail, vec![]);
        told(&state(), &Entry { resource: "alarm/out-of-hours".to_owned(), ..alarm })
    };
    let to = |officers: &[&str]| {
        let officers = officers.iter().map(ToString::to_string).collect();
        vec![(Kind::Alarm, officers, "holm audit show 17".to_owned())]
    };
    assert_eq!(told_of("person/rosa"), to(&["frida", "gustav"]));
    assert_eq!(told_of("person/frida"), to(&["gustav"]));
    assert_eq!(told_of("unknown"), to(&["frida", "gustav"]));
}

#[test]
fn officers_hear_of_samples_that_wait_are_overdue_or_have_what_is_wrong() {
    let of =
        |action: &str, detail: serde_json::Value| {
            let about = Entry { resource: "review/3".to_owned(), ..entry(action, "holmd", detail, vec![]) };
            let all = told(&state(), &about);
            let show = "holm audit review show 3".to_owned();
            assert!(all.iter().all(
                |one| *one == (Kind::Review, vec!["frida".to_owned(), "gustav".to_owned()], show.clone())
            ));
            all.len()
        };
    assert_eq!(of("review.draw", json!({ "review": 3, "close": 9, "sample": [4, 7] })), 1);
    assert_eq!(of("review.draw", json!({ "review": 3, "close": 9, "sample": [] })), 0);
    assert_eq!(of("observe.review", json!({ "review": 3, "overdue": true, "decided": 1 })), 1);
    assert_eq!(of("audit.review", json!({ "entry": 4, "flag": true, "comment": TYPED })), 1);
    assert_eq!(of("audit.review", json!({ "entry": 4, "flag": false, "comment": "" })), 0);
    assert_eq!(of("audit.review", json!({ "dry_run": true })), 0);
}

#[test]
fn officers_hear_of_each_step_of_an_incident_and_of_no_word_of_it() {
    let of = |action: &str, said: Option<i64>| {
        let incident = json!({ "kind": "incident", "number": 2, "project": "heart", "by": "frida", "reason": TYPED,
            "at": "2026-11-03T13:02:11Z", "aware": "2026-11-03T13:02:11Z", "said": said });
        events(&entry(action, "person/frida", json!({ "reason": TYPED }), vec![put(incident)]), &state())
    };
    for (action, said, what) in [
        ("incident.open", None, "opened"),
        ("incident.notify", Some(24), "the authority was told"),
        ("incident.close", Some(0), "closed"),
        ("observe.incident", Some(24), "24 hours are left"),
        ("observe.incident", Some(0), "overdue"),
    ] {
        let all = of(action, said);
        let (kind, to): (Kind, Vec<String>) =
            (all[0].kind, all[0].to.iter().map(ToString::to_string).collect());
        assert_eq!((all.len(), kind, to), (1, Kind::Incident, vec!["frida".to_owned(), "gustav".to_owned()]));
        assert_eq!(
            (all[0].fields["what"].as_str(), all[0].fields["deadline"].as_str()),
            (what, "2026-11-06T13:02:11Z")
        );
        assert!(all[0].fields.values().all(|value| !value.contains(TYPED)));
    }
}

#[test]
fn officers_hear_of_rules_and_witnesses_that_are_gone() {
    let of = |gone: &[&str], first: bool| {
        let detail = json!({ "new": ["stream/siem"], "gone": gone, "changed": [], "first": first });
        events(&entry("oversight.start", "holmd", detail, vec![]), &state())
    };
    let all = of(&["watch/out-of-hours", "witness/w1"], false);
    assert_eq!(all[0].fields["what"], "gone: watch/out-of-hours, witness/w1; new: stream/siem");
    let to: Vec<String> = all[0].to.iter().map(ToString::to_string).collect();
    assert_eq!(
        (all.len(), all[0].kind, to),
        (1, Kind::Oversight, vec!["frida".to_owned(), "gustav".to_owned()])
    );
    let many = of(&["a", "b", "c", "d", "e", "f"], false);
    assert_eq!(many[0].fields["what"], "gone: a and 5 more; new: stream/siem");
    assert_eq!(of(&[], true), [], "that holmd begins is no news");
}

#[test]
fn those_who_watch_hosts_hear_of_alerts_by_their_codes() {
    let news = json!({ "host": "dgx", "raised": ["gpu-missing", "report-stale"], "gone": ["volumes-full"] });
    let watch = || vec!["frida".to_owned(), "gustav".to_owned(), "olga".to_owned()];
    let show = "holm host show dgx".to_owned();
    let both = [(Kind::Alert, watch(), show.clone()), (Kind::AlertOver, watch(), show)];
    assert_eq!(told(&state(), &entry("observe.alert", "holmd", news, vec![])), both);
    let keys = "holm keys show".to_owned();
    let down = entry("observe.keys", "holmd", json!({ "down": TYPED }), vec![]);
    assert_eq!(told(&state(), &down), [(Kind::Alert, watch(), keys.clone())]);
    let up = entry("observe.keys", "holmd", json!({ "down": null }), vec![]);
    assert_eq!(told(&state(), &up), [(Kind::AlertOver, watch(), keys)]);
    let check = "holmd check".to_owned();
    let down = entry("observe.stream", "holmd", json!({ "down": TYPED }), vec![]);
    assert_eq!(told(&state(), &down), [(Kind::Alert, watch(), check.clone())]);
    let up = entry("observe.stream", "holmd", json!({ "down": null }), vec![]);
    assert_eq!(told(&state(), &up), [(Kind::AlertOver, watch(), check)]);
    let witness = |state: &str, before: &str| {
        let detail = json!({ "state": state, "before": before, "why": TYPED });
        told(&self::state(), &entry("observe.witness", "holmd", detail, vec![]))
    };
    let list = "holm audit witnesses".to_owned();
    assert_eq!(witness("alarm", "covered"), [(Kind::Alert, watch(), list.clone())]);
    assert_eq!(witness("behind", "new"), [(Kind::Alert, watch(), list.clone())]);
    assert_eq!(witness("covered", "alarm"), [(Kind::AlertOver, watch(), list)]);
    assert_eq!(witness("covered", "new"), [], "that it begins is no news");
}

#[test]
fn what_is_refused_tried_or_about_messages_is_no_event() {
    let ready = || vec![put(slice("ready"))];
    let refused =
        Entry { outcome: "refused".to_owned(), ..entry("slice.approve", "person/rosa", json!({}), ready()) };
    assert_eq!(events(&refused, &state()), []);
    assert_eq!(
        events(&entry("slice.approve", "person/frida", json!({ "dry_run": true }), vec![]), &state()),
        []
    );
    for own in ["notify.fail", "observe.notify"] {
        // Whatever was in them: a message that fails must never cause one.
        assert_eq!(events(&entry(own, "holmd", json!({ "down": "x" }), ready()), &state()), [], "{own}");
    }
}

fn smtp(dir: &std::path::Path) -> Smtp {
    let config = SmtpConfig {
        server: "localhost".to_owned(),
        port: None,
        tls: Tls::None,
        ca_file: dir.join("none"),
        from: "Holm <holm@example.org>".to_owned(),
        address: "{name}@example.org".to_owned(),
        heads_to: Vec::new(),
        username: None,
        password: None,
    };
    Smtp::new(&config).unwrap()
}

/// Anything, and what is most likely to get somewhere.
fn anything() -> impl Strategy<Value = String> {
    let bad = prop::sample::select(vec![
        "x\r\nBcc: mallory@example.org".to_owned(),
        "\n\n.\n.\r\nMAIL FROM:<x>".to_owned(),
        "\u{2028}Bcc: x\u{85}y\u{202e}z\0".to_owned(),
        "=?utf-8?q?x=0d=0aBcc:_y?=".to_owned(),
        "{command} {{ }} ☃ é".to_owned(),
        "Ω".repeat(10_000),
    ]);
    prop_oneof![any::<String>(), bad]
}

proptest! {
    #[test]
    fn nothing_that_is_said_becomes_a_header_or_a_recipient(
        kind in prop::sample::select(Kind::ALL.to_vec()), values in prop::collection::vec(anything(), 9)
    ) {
        let fields = kind.fields().iter().chain(&COMMON).copied().zip(values).collect();
        let event = Event { entry: 1, number: 0, time: NOW.parse().unwrap(), kind, to: BTreeSet::new(), fields };
        let texts = Templates::load(None).unwrap();
        let text = texts.text(&event);
        prop_assert!(text.subject.chars().count() <= 150 && !text.subject.contains(char::is_control));
        let dir = std::env::temp_dir();
        let server = smtp(&dir);
        let letter = Letter { key: String::new(), id: "holm-1".to_owned(), to: None, event };
        let to = server.address(&"frida".parse().unwrap()).unwrap();
        let bytes = server.message(&letter, &to, &texts).unwrap();
        let mail = String::from_utf8(bytes).unwrap();
        prop_assert!(mail.is_ascii(), "a server need not take anything else");
        prop_assert!(mail.lines().all(|line| line.len() <= 998));
        let (head, _) = mail.split_once("\r\n\r\n").unwrap();
        // A line that begins with a space goes on with the one before.
        let names: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with([' ', '\t']))
            .map(|line| line.split_once(':').unwrap().0)
            .collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let allowed = [
            "Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "MIME-Version",
            "Message-ID", "Subject", "To",
        ];
        prop_assert_eq!(sorted, allowed);
        prop_assert!(!mail.replace("\r\n", "").contains(['\r', '\n']), "a bare end of line");
    }

    #[test]
    fn a_line_is_one_whatever_it_was(text in anything()) {
        let line = line(&text, 400);
        prop_assert!(line.chars().count() <= 400);
        let breaks = |c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c);
        prop_assert!(!line.contains(breaks), "it breaks, or turns around");
    }

    #[test]
    fn no_entry_however_odd_stops_the_queue(
        action in prop::sample::select(vec!["observe.expiry", "observe.alert", "observe.keys", "lock.set", "x"]),
        typed in anything(), number in any::<i64>(),
    ) {
        let odd = json!({ "ends": typed, "host": number, "raised": [typed], "gone": { "a": typed }, "down": typed });
        let changes = vec![json!(typed), json!({ "op": typed }), json!({ "op": "delete", "of": format!("lock/{typed}") })];
        let said = events(&entry(action, &typed, odd, changes), &state());
        prop_assert!(said.len() <= 2);
    }
}

#[test]
fn a_template_is_checked_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let load = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let loaded = Templates::load(Some(dir.path())).map_err(|e| e.to_string());
        std::fs::remove_file(path).unwrap();
        loaded
    };
    let good = load("slice-ready.txt", "Subject: {slice} {{is}} up\n\nIt is.\n{command}\n").unwrap();
    let event = &events(&entry("x", "host/dgx", json!({}), vec![put(slice("ready"))]), &state())[0];
    let text = good.text(event);
    assert_eq!(
        (text.subject.as_str(), text.body.as_str()),
        ("main {is} up", "It is.\nholm ssh heart/main\n")
    );
    for (text, line, words) in [
        ("Hello", 1, "begins with `Subject"),
        ("Subject: x\nbody", 2, "an empty line"),
        ("Subject: {reason}\n\n", 1, "there is no `{reason}`"),
        ("Subject: x\n\nfine\n{comment}\n", 4, "there is no `{comment}`"),
        ("Subject: x\n\n{slice", 3, "is not closed"),
        ("Subject: x\n\nslice}", 3, "stands alone"),
        ("Subject: x\u{7}\n\n", 1, "control character"),
        (&format!("Subject: x\n\n{}", "y".repeat(17_000)), 1, "16384 is the most"),
    ] {
        let failure = load("slice-ready.txt", text).unwrap_err();
        assert!(failure.contains(&format!("slice-ready.txt`, line {line}: ")), "{failure}");
        assert!(failure.contains(words), "{failure}");
    }
    let failure = load("slice-raedy.txt", "Subject: x\n\n").unwrap_err();
    assert!(failure.contains("of no kind of message") && failure.contains("slice-ready"), "{failure}");
    assert!(load("README", "whatever").is_ok());
    assert!(Templates::load(Some(&dir.path().join("none"))).is_err());
}

#[test]
fn what_cannot_be_sent_to_or_kept_secret_is_refused_before_anything_starts() {
    use crate::keys::Secret;
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef").unwrap();
    let password = Some(Secret::File(secret.clone()));
    let ca = dir.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&ca, rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()).unwrap();
    let mail = |change: &dyn Fn(&mut SmtpConfig)| {
        let mut config = SmtpConfig {
            server: "localhost".to_owned(),
            port: None,
            tls: Tls::None,
            ca_file: dir.path().join("none"),
            from: "holm@example.org".to_owned(),
            address: "{name}@example.org".to_owned(),
            heads_to: Vec::new(),
            username: None,
            password: None,
        };
        change(&mut config);
        Smtp::new(&config).map(drop).map_err(|e| e.to_string())
    };
    mail(&|_| {}).unwrap();
    mail(&|c| c.heads_to = vec!["log@archive.example".to_owned()]).unwrap();
    let no = |words: &str, change: &dyn Fn(&mut SmtpConfig)| {
        let failure = mail(change).unwrap_err();
        assert!(failure.contains(words), "{failure}");
    };
    no("no mail address", &|c| c.from = "holm".to_owned());
    no("16 is the most", &|c| c.heads_to = (0..17).map(|n| format!("log@a{n}.example")).collect());
    no("no mail address", &|c| c.heads_to = vec!["x@example.org\r\nBcc: y@example.org".to_owned()]);
    no("no mail address", &|c| c.from = "h@example.org\r\nBcc: x@example.org".to_owned());
    for bad in ["x@example.org", "{name}{name}@example.org", "{name}", "{name}@example.org\r\nBcc: x"] {
        no("with `{name}` in it", &|c| c.address = bad.to_owned());
    }
    no("has no certificate of an authority", &|c| c.tls = Tls::Starttls);
    no("over TLS alone", &|c| (c.username, c.password) = (Some("holm".to_owned()), password.clone()));
    no("in a file or a systemd credential", &|c| {
        (c.tls, c.ca_file) = (Tls::Starttls, ca.clone());
        (c.username, c.password) = (Some("holm".to_owned()), Some(Secret::Prompt));
    });
    no("stand together", &|c| c.username = Some("holm".to_owned()));
    let hook = |url: &str| {
        let config = WebhookConfig {
            url: url.to_owned(),
            secret: Secret::File(secret.clone()),
            ca_file: dir.path().join("none"),
        };
        Webhook::new(&config).map(drop).map_err(|e| e.to_string())
    };
    assert!(hook("http://localhost/x").unwrap_err().contains("chmod 600"));
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    for good in ["http://localhost/x", "http://127.0.0.1:80", "http://[::1]:8080/y?z"] {
        hook(good).unwrap();
    }
    for bad in
        ["http://example.org/", "http://localhost.example.org/", "http://user@localhost/", "ftp://localhost/"]
    {
        assert!(hook(bad).unwrap_err().contains("`url` is"), "{bad}");
    }
    assert!(hook("https://example.org/").unwrap_err().contains("has no certificate of an authority"));
    std::fs::write(&secret, "0123456789abcde").unwrap();
    assert!(hook("http://localhost/x").unwrap_err().contains("fewer than 16 bytes"));
}

#[test]
fn a_book_is_kept_whole_and_begins_at_the_logs_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = book::path(dir.path(), "smtp");
    let mut kept = book::Book::open(&path, 1000).unwrap();
    assert_eq!(kept, book::Book::at(1000), "years of history are nobody's news");
    kept.through(1005);
    kept.done.insert("0-frida".to_owned());
    kept::write(&path, &kept).unwrap();
    // What a kill leaves of the next one.
    std::fs::write(path.with_extension("new"), b"{\"next\":").unwrap();
    assert_eq!(book::Book::open(&path, 2000).unwrap(), kept);
    assert_eq!(book::Book::open(&path, 1001).unwrap(), book::Book::at(1001), "the log is of another time");
    std::fs::write(&path, b"{").unwrap();
    assert!(book::Book::open(&path, 2000).is_err(), "begun anew it would lose what was not told");
}

#[test]
fn every_kind_has_a_text_and_a_file_name_of_its_own() {
    let names: BTreeSet<&str> = Kind::ALL.map(Kind::text).into();
    assert_eq!(names.len(), Kind::ALL.len());
    let event = trial(NOW.parse().unwrap(), BTreeSet::new());
    let text = Templates::load(None).unwrap().text(&event);
    assert!(text.subject.contains("test") && text.body.contains("2026-05-04T03:02:01Z"), "{text:?}");
}
