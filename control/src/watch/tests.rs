use super::*;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::Value;

fn entry(actor: &str, action: &str, outcome: &str, time: &str) -> Entry {
    Entry {
        v: 1,
        index: 0,
        time: time.parse().unwrap(),
        request: String::new(),
        actor: actor.to_owned(),
        peer: String::new(),
        action: action.to_owned(),
        resource: "slice/heart/main".to_owned(),
        project: Some("heart".to_owned()),
        level: Some("3".to_owned()),
        outcome: outcome.to_owned(),
        reasons: Vec::new(),
        pack: None,
        detail: Value::Null,
        changes: Vec::new(),
    }
}

fn rules(text: &str) -> Result<Watch, String> {
    #[derive(serde::Deserialize)]
    struct File {
        watch: Vec<WatchConfig>,
    }
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    Watch::new(Some(&file.watch))
}

fn fired(watch: &mut Watch, entry: &Entry) -> Vec<String> {
    watch.see(entry).into_iter().map(|alarm| alarm.rule).collect()
}

#[test]
fn what_is_built_in_is_out_of_hours_refusals_new_certificates_and_herself() {
    let mut watch = Watch::new(None).unwrap();
    let connects = |time| entry("person/ada", "slice.connect", "allowed", time);
    // 19:59 and 20:00 in Copenhagen, in winter and in summer; a Saturday; the hour that comes twice.
    assert!(fired(&mut watch, &connects("2026-11-26T18:59:00Z")).is_empty());
    assert_eq!(fired(&mut watch, &connects("2026-11-26T19:00:00Z")), ["out-of-hours"]);
    assert!(fired(&mut watch, &connects("2026-07-01T17:59:59Z")).is_empty());
    assert_eq!(fired(&mut watch, &connects("2026-07-01T18:00:00Z")), ["out-of-hours"]);
    // Once an hour: who works at night is one alarm, not a hundred.
    assert!(fired(&mut watch, &connects("2026-07-01T18:59:00Z")).is_empty());
    assert_eq!(fired(&mut watch, &connects("2026-07-01T19:01:00Z")), ["out-of-hours"]);
    assert_eq!(fired(&mut watch, &connects("2026-11-28T12:00:00Z")), ["out-of-hours"]);
    assert_eq!(fired(&mut watch, &connects("2026-10-25T01:30:00Z")), ["out-of-hours"]);
    let lower = Entry { level: Some("2".to_owned()), ..connects("2026-11-28T12:00:00Z") };
    assert!(fired(&mut watch, &lower).is_empty());

    assert_eq!(
        fired(&mut watch, &entry("person/ada", "certificate.use", "observed", "2026-11-26T12:00:00Z")),
        ["new-certificate"]
    );
    let reads = |detail| Entry {
        resource: "log".to_owned(),
        detail,
        ..entry("person/frida", "audit.read", "allowed", "2026-11-26T12:00:00Z")
    };
    for own in
        [json!({ "filter": { "actor": "person/frida" } }), json!({ "filter": { "text": "what did frida" } })]
    {
        assert_eq!(fired(&mut watch, &reads(own)), ["reads-about-herself"]);
    }
    // As the search reads it.
    for text in ["FRIDA", "frida.x", "person/Frida"] {
        assert_eq!(fired(&mut watch, &reads(json!({ "filter": { "text": text } }))), ["reads-about-herself"]);
    }
    let two = Entry { actor: "person/ida-b".to_owned(), ..reads(json!({ "filter": { "text": "b IDA" } })) };
    assert_eq!(fired(&mut watch, &two), ["reads-about-herself"]);
    for other in [json!({ "filter": { "actor": "person/ada" } }), json!({ "read": "entries" }), Value::Null] {
        assert!(fired(&mut watch, &reads(other)).is_empty());
    }
}

#[test]
fn so_many_within_so_long_and_then_as_many_again() {
    let mut watch =
        rules("[[watch]]\nname = \"x\"\noutcome = \"refused\"\ncount = 10\nminutes = 10").unwrap();
    let refused = |actor: &str, second: i64| Entry {
        time: Timestamp::from_second(1_790_000_000 + second).unwrap(),
        ..entry(actor, "slice.read", "refused", "2026-11-26T12:00:00Z")
    };
    let count = |watch: &mut Watch, seconds: std::ops::Range<i64>, step: usize| {
        seconds.step_by(step).map(|at| watch.see(&refused("person/eve", at)).len()).sum::<usize>()
    };
    assert_eq!(count(&mut watch, 0..9, 1), 0);
    assert!(watch.see(&refused("person/ada", 9)).is_empty(), "of another");
    let alarm = watch.see(&refused("person/eve", 10));
    assert_eq!(alarm.len(), 1);
    assert_eq!((alarm[0].count, alarm[0].first.as_second()), (10, 1_790_000_000));
    assert_eq!(count(&mut watch, 11..20, 1), 0);
    assert_eq!(count(&mut watch, 20..21, 1), 1);
    // Slowly enough it is nothing.
    assert_eq!(count(&mut watch, 10_000..20_000, 70), 0);
}

#[test]
fn rules_that_make_no_sense_are_said() {
    let bad = [
        ("[[watch]]\nname = \"x\"", "every entry"),
        ("[[watch]]\nname = \"X Y\"\naction = \"slice\"", "small letters"),
        ("[[watch]]\nname = \"x\"\noutcome = \"maybe\"", "is not"),
        ("[[watch]]\nname = \"x\"\naction = \"slice\"\ncount = 5", "stands with `minutes`"),
        ("[[watch]]\nname = \"x\"\naction = \"slice\"\ncount = 0\nminutes = 5", "1 to 1000"),
        ("[[watch]]\nname = \"x\"\naction = \"slice\"\nquiet_minutes = 0", "1 to 1440"),
        ("[[watch]]\nname = \"x\"\noutside = \"19:00-07:00\"", "07:00-19:00"),
        ("[[watch]]\nname = \"x\"\noutside = \"7-19\"", "07:00-19:00"),
        ("[[watch]]\nname = \"x\"\noutside = \"07:00-19:00\"\ndays = [\"monday\"]", "is no day"),
        ("[[watch]]\nname = \"x\"\noutside = \"07:00-19:00\"\nzone = \"Aalborg\"", "no time zone"),
        ("[[watch]]\nname = \"x\"\naction = \"slice\"\nzone = \"UTC\"", "stand with `outside`"),
        ("[[watch]]\nname = \"x\"\naction = \"a\"\n[[watch]]\nname = \"x\"\naction = \"b\"", "two rules"),
        ("[[watch]]\nname = \"x\"\nactoin = \"slice\"", "unknown field"),
    ];
    for (text, words) in bad {
        let why = rules(text).unwrap_err();
        assert!(why.contains(words), "{text}: {why}");
    }
    assert_eq!(Watch::new(Some(&[])).unwrap().names().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However entries come, in whatever order their times are: an alarm never has fewer than were asked for, each is counted
    /// once, and what is remembered stays small.
    #[test]
    fn each_counts_once(times in proptest::collection::vec((0_i64..2000, 0_u8..3), 1..200)) {
        let mut watch =
            rules("[[watch]]\nname = \"x\"\noutcome = \"refused\"\ncount = 4\nminutes = 5").unwrap();
        let mut counted = 0;
        for (second, actor) in &times {
            let entry = Entry {
                time: Timestamp::from_second(1_790_000_000 + second).unwrap(),
                ..entry(&format!("person/p{actor}"), "slice.read", "refused", "2026-11-26T12:00:00Z")
            };
            for alarm in watch.see(&entry) {
                prop_assert!(alarm.count >= 4);
                counted += alarm.count;
            }
        }
        prop_assert!(counted <= times.len());
    }
}
