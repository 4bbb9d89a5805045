use super::*;
use proptest::prelude::*;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + hours * 3600).unwrap()
}

const MONTH: SignedDuration = SignedDuration::from_hours(720);
const FORTNIGHT: SignedDuration = SignedDuration::from_hours(336);

/// Drawn, of these entries, each about this officer.
fn open(about: &[&str]) -> State {
    let mut state = State::default();
    let review = close(&state, at(0), MONTH, 20, at(720)).unwrap();
    state.apply(&[put(review)]);
    let item =
        |(entry, who): (u64, &&str)| Item { entry, about: [who.parse().unwrap()].into(), decided: None };
    let items = (10..).zip(about).map(item).collect();
    let changes = drawn(&state, 1, 50, items, FORTNIGHT, at(721)).unwrap();
    state.apply(&changes);
    state
}

fn said(by: &str, flagged: bool, comment: &str) -> Decided {
    Decided { by: by.parse().unwrap(), at: at(800), flagged, comment: comment.to_owned() }
}

#[test]
fn a_period_ends_when_its_time_is_over_and_the_sample_before_is_drawn() {
    let mut state = State::default();
    assert_eq!(close(&state, at(0), MONTH, 20, at(719)), None);
    let first = close(&state, at(0), MONTH, 20, at(730)).unwrap();
    assert_eq!((first.number, first.closed, first.entries), (1, at(730), 20));
    state.apply(&[put(first)]);
    assert_eq!(close(&state, at(0), MONTH, 20, at(3000)), None, "it is not drawn yet");
    state.apply(&drawn(&state, 1, 7, Vec::new(), FORTNIGHT, at(730)).unwrap());
    assert_eq!(drawn(&state, 1, 7, Vec::new(), FORTNIGHT, at(731)), None, "it is drawn once");
    assert_eq!(close(&state, at(0), MONTH, 20, at(1449)), None);
    assert_eq!(close(&state, at(0), MONTH, 20, at(1450)).unwrap().number, 2);
    // A sample of nothing waits for nobody.
    assert!(state.reviews[&1].sample.as_ref().unwrap().done.is_some());
    assert_eq!(overdue(&state, 1, at(9999)), None);
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let state = open(&["rosa", "frida"]);
    for (number, entry, by, flagged, comment, kind, words) in [
        (2, 10, "frida", false, "", RefusalKind::NotFound, "no review 2"),
        (1, 12, "frida", false, "", RefusalKind::NotFound, "entry 12 is not in the sample"),
        (1, 11, "frida", false, "", RefusalKind::Denied, "is about `frida`"),
        (1, 11, "frida", true, "x", RefusalKind::Denied, "is about `frida`"),
        (1, 10, "frida", true, " ", RefusalKind::Invalid, "say what is wrong"),
        (1, 10, "frida", false, "a\nb", RefusalKind::Invalid, "one line"),
    ] {
        let no = decide(&state, number, entry, said(by, flagged, comment)).unwrap_err();
        assert_eq!(no.kind, kind, "{no}");
        assert!(no.to_string().contains(words), "{no}");
    }
    let mut state = state;
    state.apply(&decide(&state, 1, 10, said("frida", false, "")).unwrap());
    let no = decide(&state, 1, 10, said("gustav", true, "not her shift")).unwrap_err();
    assert!(no.to_string().contains("signed off already, by frida"), "{no}");
    let mut new = State::default();
    new.apply(&[put(close(&new, at(0), MONTH, 20, at(720)).unwrap())]);
    assert_eq!(decide(&new, 1, 10, said("frida", false, "")).unwrap_err().kind, RefusalKind::State);
}

#[test]
fn one_that_is_overdue_is_told_each_week_until_it_is_done() {
    let mut state = open(&["rosa"]);
    let due = 721 + 336;
    assert_eq!(overdue(&state, 1, at(due - 1)), None);
    state.apply(&overdue(&state, 1, at(due)).unwrap());
    assert_eq!(overdue(&state, 1, at(due + 167)), None);
    state.apply(&overdue(&state, 1, at(due + 168)).unwrap());
    state.apply(&decide(&state, 1, 10, said("frida", true, "not her project")).unwrap());
    assert_eq!(overdue(&state, 1, at(due + 999)), None);
    assert_eq!(state.reviews[&1].counts(), (1, 1));
}

/// The largest record that there can be is an entry of the log all the same.
#[test]
fn the_largest_fits_into_an_entry() {
    let officer = "a".repeat(32);
    let people: BTreeSet<Name> = (0..4).map(|n| format!("a{n:031}").parse().unwrap()).collect();
    let item = |entry| Item {
        entry,
        about: people.clone(),
        decided: Some(Decided {
            by: officer.parse().unwrap(),
            at: "2026-11-27T12:00:00.123456789Z".parse().unwrap(),
            flagged: true,
            comment: "\u{10ffff}".repeat(COMMENT_MAX),
        }),
    };
    let items = (u64::MAX - ENTRIES_MAX as u64..u64::MAX).map(item).collect();
    let sample =
        Sample { close: u64::MAX, drawn: at(0), due: at(0), items, told: Some(at(0)), done: Some(at(0)) };
    let review = Review { number: u32::MAX, closed: at(0), entries: ENTRIES_MAX, sample: Some(sample) };
    let bytes = serde_json::to_vec(&put(review)).unwrap();
    assert!(bytes.len() < crate::audit::MAX_ENTRY - 8192, "{}", bytes.len());
}

proptest! {
    /// Whatever officers say, nobody's word is on an entry about herself, each entry has one word, and it is done exactly
    /// when each has.
    #[test]
    fn it_is_done_when_each_entry_has_one_word_of_another(
        about in prop::collection::vec(0..3_usize, 1..6),
        steps in prop::collection::vec((0..7_u64, 0..3_usize, any::<bool>()), 0..40),
    ) {
        let officers = ["frida", "gustav", "helga"];
        let about: Vec<&str> = about.into_iter().map(|n| officers[n]).collect();
        let mut state = open(&about);
        let mut words: std::collections::BTreeMap<u64, &str> = std::collections::BTreeMap::new();
        for (entry, by, flagged) in steps {
            let (entry, by) = (10 + entry, officers[by]);
            if let Ok(changes) = decide(&state, 1, entry, said(by, flagged, "seen")) {
                state.apply(&changes);
                prop_assert_eq!(words.insert(entry, by), None);
                prop_assert_ne!(about[(entry - 10) as usize], by);
            }
            let review = &state.reviews[&1];
            prop_assert_eq!(review.counts().0, words.len());
            prop_assert_eq!(review.sample.as_ref().unwrap().done.is_some(), words.len() == about.len());
        }
    }
}
