use super::*;
use crate::domain::project;
use crate::domain::records::{Hold, Policy};
use crate::domain::tests::{heart, person};
use proptest::prelude::*;
use std::sync::Arc;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
}

fn terms(two: u32, three: u32, others: u32, held: &[&str]) -> Terms {
    let levels = [("2", two), ("3", three)].map(|(level, days)| (level.to_owned(), days));
    let held = held.iter().map(|name| (*name).to_owned()).collect();
    Terms { pack: "site/1".to_owned(), levels: levels.into(), others, held }
}

/// Of a log, its entries' days, levels and projects: where it would begin.
fn begins(terms: &Terms, log: &[(i64, Option<&str>, Option<&str>)], now: Timestamp, segment: u64) -> u64 {
    let past = log.iter().take_while(|(day, level, project)| {
        terms.is_past(Kept { time: at(*day), level: *level, project: *project }, now)
    });
    whole(past.count() as u64, segment)
}

fn entries() -> impl Strategy<Value = Vec<(i64, Option<&'static str>, Option<&'static str>)>> {
    let level = prop::sample::select(vec![None, Some("2"), Some("3"), Some("0")]);
    let project = prop::sample::select(vec![None, Some("heart"), Some("lung")]);
    prop::collection::vec((0..2000_i64, level, project), 0..120).prop_map(|mut all| {
        all.iter_mut().for_each(|(_, level, project)| {
            *level = project.and(*level);
        });
        all
    })
}

fn limits() -> impl Strategy<Value = u32> {
    prop_oneof![1 => Just(0_u32), 6 => 180..2000_u32]
}

proptest! {
    /// Whatever goes is at the front, past its own days, not held, and ends with a segment; and nothing more could go.
    #[test]
    fn what_goes_is_past_its_days(
        log in entries(),
        (two, three, others) in (limits(), limits(), limits()),
        held in any::<bool>(),
        now in 0..4000_i64,
        segment in 1..40_u64,
    ) {
        let terms = terms(two, three, others, if held { &["lung"] } else { &[] });
        let first = begins(&terms, &log, at(now), segment);
        prop_assert_eq!(first % segment, 0);
        prop_assert!(first <= log.len() as u64);
        let longest = if [two, three, others].contains(&0) { 0 } else { two.max(three).max(others) };
        let goes = |(day, level, project): &(i64, Option<&str>, Option<&str>)| {
            let kept = match (*level, *project) {
                (Some("2"), _) => two,
                (Some("3"), _) => three,
                (None, None) => others,
                _ => longest,
            };
            let held = held && project.is_none_or(|project| project == "lung");
            kept > 0 && !held && now - day >= i64::from(kept)
        };
        let (gone, rest) = log.split_at(first as usize);
        prop_assert!(gone.iter().all(goes));
        let next = rest.iter().take(segment as usize);
        prop_assert!(next.len() < segment as usize || !rest.iter().take(segment as usize).all(goes));
    }

    /// More time, a later look or a hold that is lifted never brings something back; longer terms and a hold keep more.
    #[test]
    fn it_only_moves_on(log in entries(), days in 180..2000_u32, more in 0..500_u32, now in 0..4000_i64, later in 0..500_i64) {
        let of = |days, held: &[&str]| terms(days, days, days, held);
        let first = begins(&of(days, &[]), &log, at(now), 8);
        prop_assert!(begins(&of(days, &[]), &log, at(now + later), 8) >= first);
        prop_assert!(begins(&of(days + more, &[]), &log, at(now), 8) <= first);
        prop_assert!(begins(&of(days, &["heart"]), &log, at(now), 8) <= first);
        prop_assert_eq!(begins(&of(0, &[]), &log, at(now), 8), 0);
    }
}

#[test]
fn a_time_that_no_days_can_be_added_to_is_never_past() {
    let entry = Kept { time: Timestamp::MAX, level: None, project: None };
    assert!(!terms(180, 180, 180, &[]).is_past(entry, Timestamp::MAX));
}

#[test]
fn a_pack_destroys_nothing_in_its_first_month_nor_without_days() {
    let mut state = State::default();
    assert!(!may_begin(&state, at(400)));
    let pack = Pack::builtin("aau-2018").unwrap();
    state.apply(&[Change::Put(Record::Policy(Policy::of(&pack, String::new(), String::new(), None, at(0))))]);
    let month: Vec<bool> = [-400, 0, 29, 30, 400].map(|day| may_begin(&state, at(day))).to_vec();
    assert_eq!(month, [false, false, false, true, true]);
    // As it ships it says nothing of days.
    assert!(Terms::of(&pack, &state).keep_all());
}

#[test]
fn what_an_officer_holds_keeps_all_after_its_first_entry() {
    let mut state = State::default();
    let project = heart("3");
    state.apply(&[Change::Put(Record::Project(project.clone()))]);
    assert!(held(&state).is_empty());
    let hold = Hold { by: "oscar".parse().unwrap(), at: at(0), reason: "a breach".to_owned() };
    state.apply(&project::hold(&project, hold).unwrap());
    assert_eq!(held(&state).into_iter().collect::<Vec<_>>(), ["heart"]);
    state.apply(&project::lift(&state.projects[&project.id].clone()).unwrap());
    assert!(held(&state).is_empty());
    let name = "heart".parse().unwrap();
    let by = "oscar".parse().unwrap();
    let (incident, changes) = super::super::incident::open(&state, &name, &by, "lost", at(1), at(1)).unwrap();
    state.apply(&changes);
    // Its hold is lifted before the incident is over.
    state.apply(&project::lift(&state.projects[&project.id].clone()).unwrap());
    assert_eq!(held(&state).len(), 1);
    let closed =
        super::super::incident::Closed { by: "oscar".parse().unwrap(), at: at(2), reason: "over".to_owned() };
    let (_, changes) = super::super::incident::close(&state, incident.number, closed).unwrap();
    state.apply(&changes);
    assert!(held(&state).is_empty());
}

#[test]
fn what_changed_meanwhile_is_not_written_down_as_it_was() {
    let put = |name, roles: &[&str]| Change::Put(Record::Person(person(name, roles)));
    let mut state = State::default();
    state.apply(&[put("ada", &["lead"]), put("bo", &["lead"]), put("cy", &["lead"])]);
    let before = state.records();
    state.apply(&[put("bo", &["officer"]), put("dina", &["lead"])]);
    let run_over = Arc::make_mut(&mut state.people).remove(&"cy".parse().unwrap());
    assert!(run_over.is_some());
    assert_eq!(unchanged(&state, &before), [put("ada", &["lead"])]);
}

#[test]
fn it_begins_later_and_never_earlier() {
    let mut state = State::default();
    assert_eq!(begin_at(&state, 0, at(0)), None);
    let changes = begin_at(&state, 512, at(1)).unwrap();
    state.apply(&changes);
    assert_eq!(
        (first(&state), begin_at(&state, 512, at(2)), begin_at(&state, 256, at(2))),
        (512, None, None)
    );
    assert_eq!(state.records().len(), 1);
    assert_eq!(state.current(&state.records()[0]), Some(state.records()[0].clone()));
}
