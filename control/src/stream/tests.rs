//! The pure part: what a record is, whatever is in it; and a file that was cut off.

use super::config::Format;
use super::record::Record;
use super::{file, ocsf, syslog};
use crate::audit::Entry;
use jiff::Timestamp;
use serde_json::{Value, json};

const LOG: &str = "holm.test/log";

fn entry(action: &str, outcome: &str) -> Entry {
    let text = json!({
        "v": 1, "index": 4711, "time": "2026-11-26T12:00:00.123456789Z", "request": "r-1", "actor": "person/dina",
        "peer": "192.0.2.7:4711", "action": action, "resource": "slice/heart/main", "project": "heart",
        "outcome": outcome, "reasons": ["lead may"], "pack": "aau-2018/1", "detail": { "gpus": 4 },
        "changes": [{ "put": "a purpose" }],
    });
    Entry::from_bytes(text.to_string().as_bytes()).unwrap()
}

fn record(entry: &Entry, format: Format, changes: bool) -> Record {
    Record::entry(entry.index, &entry.to_bytes().unwrap(), LOG, format, changes, Timestamp::UNIX_EPOCH)
}

#[test]
fn whole_records_stay_at_home_unless_they_are_asked_for() {
    let entry = entry("slice.request", "allowed");
    for format in [Format::Holm, Format::Ocsf] {
        assert!(!record(&entry, format, false).json.contains("a purpose"));
        assert!(record(&entry, format, true).json.contains("a purpose"));
    }
    let whole: Value = serde_json::from_str(&record(&entry, Format::Holm, true).json).unwrap();
    let mut own = serde_json::to_value(&entry).unwrap();
    own["log"] = LOG.into();
    assert_eq!(whole, own);
}

#[test]
fn what_cannot_be_read_is_passed_on() {
    let record = Record::entry(7, b"{\"v\":2}", LOG, Format::Holm, false, Timestamp::UNIX_EPOCH);
    assert_eq!((record.number, record.action.as_str()), (7, "unreadable"));
    let json: Value = serde_json::from_str(&record.json).unwrap();
    assert_eq!((&json["index"], &json["unreadable"]), (&7.into(), &"{\"v\":2}".into()));
}

#[test]
fn a_message_as_rfc_5424_has_it() {
    let frame = syslog::frame(&record(&entry("slice.request", "allowed"), Format::Holm, false), "holm1");
    let (length, message) = frame.split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), message.len());
    let (head, json) = message.split_once("] {").unwrap();
    assert_eq!(
        head,
        format!(
            "<110>1 2026-11-26T12:00:00.123456Z holm1 holmd - slice.request [meta sequenceId=\"4712\"][origin \
             software=\"holmd\" swVersion=\"{}\"][holm@32473 entry=\"4711\" actor=\"person/dina\" outcome=\"allowed\"",
            env!("CARGO_PKG_VERSION")
        )
    );
    let json: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
    assert_eq!((&json["index"], &json["detail"]["gpus"]), (&4711.into(), &4.into()));
    // Who was refused stands out.
    let refused = syslog::frame(&record(&entry("slice.request", "refused"), Format::Holm, false), "holm1");
    assert!(refused.contains(" <108>1 "), "{refused}");
}

#[test]
fn nothing_that_is_in_an_entry_ends_a_message_or_a_parameter() {
    let mut bad = entry("slice.request and \u{1f980} a very long one that goes on and on", "allowed");
    bad.actor = "person/\"] [x\\\n<13>1 \u{7}\u{e6}".to_owned();
    bad.resource = "\n\u{0}\u{2028}".to_owned();
    let frame = syslog::frame(&record(&bad, Format::Holm, false), "h");
    let (length, message) = frame.split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), message.len(), "bytes, not characters");
    assert!(!message.contains('\n') && !message.contains('\u{7}'), "{message:?}");
    assert!(message.contains(r#"actor="person/\"\] [x\\ <13>1  æ" outcome"#), "{message}");
    assert!(message.contains(" holmd - slice.requestandaverylongonethat [meta "), "{message}");
    let head = Record::head("holm.test/log\n12\nAAAA\n\n\u{2014} x y\n", LOG, Timestamp::UNIX_EPOCH);
    assert_eq!((head.number, head.action.as_str()), (12, "checkpoint"));
    assert!(!syslog::frame(&head, "h").contains('\n'));
    // The number is never 0 and never too large.
    let far = Record { number: u64::MAX, ..head };
    let frame = syslog::frame(&far, "h");
    let sequence: u64 =
        frame.split("sequenceId=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
    assert!((1..=2_147_483_647).contains(&sequence));
}

#[test]
fn an_entry_as_ocsf_has_it() {
    let event = ocsf::event(&entry("slice.request", "allowed"), LOG);
    let expected = json!({
        "category_uid": 6, "class_uid": 6003, "activity_id": 1, "type_uid": 600_301, "severity_id": 1, "status_id": 1,
        "status_detail": "lead may", "time": 1_795_694_400_123_u64,
        "message": "person/dina slice.request slice/heart/main: allowed",
        "metadata": {
            "version": "1.3.0",
            "product": { "name": "holmd", "vendor_name": "Holm", "version": env!("CARGO_PKG_VERSION") },
            "log_name": LOG, "sequence": 4711, "uid": "r-1", "original_time": "2026-11-26T12:00:00.123456789Z",
        },
        "actor": { "user": { "name": "dina", "type_id": 1 } },
        "src_endpoint": { "ip": "192.0.2.7", "port": 4711 },
        "unmapped": {
            "project": "heart", "outcome": "allowed", "pack": "aau-2018/1", "detail": { "gpus": 4 },
            "changes": [{ "put": "a purpose" }],
        },
        "api": { "operation": "slice.request", "request": { "uid": "r-1" }, "service": { "name": "holmd" } },
        "resources": [{ "name": "slice/heart/main" }],
    });
    assert_eq!(event, expected);
    let mut own = entry("enrol", "refused");
    (own.actor, own.peer) = ("holmd".to_owned(), String::new());
    let event = ocsf::event(&own, LOG);
    assert_eq!((&event["class_uid"], &event["type_uid"]), (&3002.into(), &300_201.into()));
    assert_eq!((&event["status_id"], &event["severity_id"]), (&2.into(), &3.into()));
    assert_eq!(event["user"], json!({ "name": "holmd", "type_id": 3 }));
    assert_eq!((&event["src_endpoint"], &event["api"]), (&json!({ "name": "holmd" }), &Value::Null));
}

#[test]
fn what_an_action_is_to_ocsf() {
    for (action, class, activity) in [
        ("login.begin", 3002, 1),
        ("slice.connect", 3002, 1),
        ("certificate.renew", 3002, 1),
        ("observe.alert", 6003, 2),
        ("audit.read", 6003, 2),
        ("slice.certificate", 6003, 2),
        ("person.invite-officer", 6003, 1),
        ("project.create", 6003, 1),
        ("slice.destroy", 6003, 4),
        ("person.revoke", 6003, 4),
        ("lock.lift", 6003, 4),
        ("slice.approve", 6003, 3),
        ("call", 6003, 3),
        ("", 6003, 3),
    ] {
        let event = ocsf::event(&entry(action, "allowed"), LOG);
        assert_eq!(
            (&event["class_uid"], &event["activity_id"]),
            (&class.into(), &activity.into()),
            "{action}"
        );
    }
}

#[test]
fn a_line_that_a_kill_cut_off_goes_and_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    let one = record(&entry("slice.request", "allowed"), Format::Holm, false);
    let lines = || std::fs::read_to_string(&path).unwrap();
    file::append(&path, std::slice::from_ref(&one)).unwrap();
    let line = format!("{}\n", one.json);
    assert_eq!(lines(), line);
    for cut in [1, line.len() / 2, line.len() - 1] {
        std::fs::write(&path, format!("{line}{}", &line[..cut])).unwrap();
        file::append(&path, std::slice::from_ref(&one)).unwrap();
        assert_eq!(lines(), line.repeat(2), "{cut}");
    }
    // A first line that was cut off; one that is longer than what is looked at in one go; a file that was moved away.
    std::fs::write(&path, "{\"half\":").unwrap();
    file::append(&path, std::slice::from_ref(&one)).unwrap();
    assert_eq!(lines(), line);
    std::fs::write(&path, format!("{line}{}", "x".repeat(200_000))).unwrap();
    file::append(&path, std::slice::from_ref(&one)).unwrap();
    assert_eq!(lines(), line.repeat(2));
    std::fs::rename(&path, dir.path().join("log.jsonl.1")).unwrap();
    file::append(&path, std::slice::from_ref(&one)).unwrap();
    assert_eq!(lines(), line);
    assert!(file::append(dir.path(), &[one]).is_err(), "a directory is none");
}
