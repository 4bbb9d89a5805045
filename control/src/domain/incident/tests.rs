use super::*;
use holm_proto::ids::ProjectId;
use newtype_uuid::GenericUuid;
use proptest::prelude::*;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + hours * 3600).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn heart() -> State {
    let value = serde_json::json!({ "kind": "project", "id": ProjectId::nil().into_untyped_uuid(), "name": "heart",
        "level": "3", "level_name": "sensitive", "purpose": "x", "lead": "dina", "members": ["dina"],
        "created": at(0), "pack": "p/1" });
    let mut state = State::default();
    state.apply(&[Change::Put(serde_json::from_value(value).unwrap())]);
    state
}

/// Opened at 10, of what somebody became aware of at 0.
fn opened() -> State {
    let mut state = heart();
    let (_, changes) =
        open(&state, &name("heart"), &name("frida"), "a stick was lost", at(0), at(10)).unwrap();
    state.apply(&changes);
    state
}

fn told(hours: i64, reason: &str) -> Notified {
    Notified { by: name("gustav"), at: at(hours), reference: "2026-7".to_owned(), reason: reason.to_owned() }
}

fn over(hours: i64) -> Closed {
    Closed { by: name("gustav"), at: at(hours), reason: "it was found".to_owned() }
}

#[test]
fn with_it_its_project_is_locked_and_on_hold_and_what_was_so_before_stays() {
    let state = opened();
    let lock = &state.locks[&Subject::Project(name("heart"))];
    let hold = state.project(&name("heart")).unwrap().hold.clone().unwrap();
    assert_eq!((lock.reason.as_str(), hold.reason.as_str()), ("incident 1", "incident 1"));
    let mut held = heart();
    let before = Lock {
        subject: Subject::Project(name("heart")),
        by: name("gustav"),
        at: at(1),
        reason: "x".to_owned(),
    };
    held.apply(&lock::set(&held, before.clone()).unwrap());
    let (incident, changes) = open(&held, &name("heart"), &name("frida"), "y", at(0), at(10)).unwrap();
    held.apply(&changes);
    assert_eq!(held.locks[&before.subject], before);
    assert_eq!((incident.number, incident.deadline()), (1, at(72)));
    // Closed, it lifts neither.
    held.apply(&close(&held, 1, over(11)).unwrap().1);
    assert!(held.locks.contains_key(&before.subject) && held.project(&name("heart")).unwrap().hold.is_some());
    assert_eq!(open(&held, &name("heart"), &name("frida"), "z", at(11), at(12)).unwrap().0.number, 2);
}

#[test]
fn what_is_wrong_is_refused() {
    let state = opened();
    let refused = |result: Result<(Incident, Vec<Change>), Refusal>, kind, words: &str| {
        let no = result.unwrap_err();
        assert_eq!(no.kind, kind, "{no}");
        assert!(no.to_string().contains(words), "{no}");
    };
    let again = open(&state, &name("heart"), &name("frida"), "x", at(9), at(10));
    refused(again, RefusalKind::State, "incident 1 of `heart` is open");
    for aware in [at(11), at(-31 * 24 + 9)] {
        let when = open(&heart(), &name("heart"), &name("frida"), "x", aware, at(10));
        refused(when, RefusalKind::Invalid, "became aware");
    }
    refused(
        open(&state, &name("brain"), &name("frida"), "x", at(9), at(10)),
        RefusalKind::NotFound,
        "no project",
    );
    refused(notified(&state, 2, told(20, "")), RefusalKind::NotFound, "no incident 2");
    refused(close(&state, 2, over(20)), RefusalKind::NotFound, "no incident 2");
    refused(notified(&state, 1, told(72, "")), RefusalKind::Invalid, "later than 72 hours");
    assert!(notified(&state, 1, told(72, "nobody was there")).is_ok());
    let mut state = state;
    state.apply(&notified(&state, 1, told(71, "")).unwrap().1);
    refused(notified(&state, 1, told(71, "x")), RefusalKind::State, "under `2026-7`");
    state.apply(&close(&state, 1, over(80)).unwrap().1);
    refused(close(&state, 1, over(81)), RefusalKind::State, "was closed by gustav");
    refused(notified(&state, 1, told(81, "x")), RefusalKind::State, "was closed by gustav");
}

#[test]
fn what_is_left_is_said_each_time_once() {
    let mut state = opened();
    let mut said = Vec::new();
    for half in 20..200 {
        let now = at(0).checked_add(SignedDuration::from_mins(30 * half)).unwrap();
        if let Some((hours, changes)) = warn(&state, 1, now) {
            state.apply(&changes);
            said.push((half, hours));
        }
    }
    assert_eq!(said, [(48, 48), (96, 24), (132, 6), (144, 0)]);
    // Whoever was away hears the last of what went by.
    assert_eq!(warn(&opened(), 1, at(70)).unwrap().0, 6);
    for changes in [notified(&opened(), 1, told(20, "")).unwrap().1, close(&opened(), 1, over(20)).unwrap().1]
    {
        let mut state = opened();
        state.apply(&changes);
        assert_eq!(warn(&state, 1, at(100)), None);
    }
}

proptest! {
    /// The clock ends with the authority being told or the incident being closed, and with nothing else.
    #[test]
    fn nothing_else_stops_the_clock(steps in prop::collection::vec((0..4_u8, 11..200_i64), 0..20)) {
        let mut state = opened();
        let mut stopped = false;
        for (step, hours) in steps {
            let changes = match step {
                0 => notified(&state, 1, told(hours, "late")).map(|done| done.1),
                1 => close(&state, 1, over(hours)).map(|done| done.1),
                2 => Ok(warn(&state, 1, at(hours)).map(|done| done.1).unwrap_or_default()),
                _ => lock::lift(&state, &Subject::Project(name("heart")), &name("frida"), 1, at(hours)),
            };
            stopped |= step < 2 && changes.is_ok();
            state.apply(&changes.unwrap_or_default());
            prop_assert_eq!(state.incidents[&1].is_pending(), !stopped);
            prop_assert_eq!(state.incidents[&1].is_overdue(at(72)), !stopped);
        }
    }
}
