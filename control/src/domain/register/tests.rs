use super::*;
use holm_proto::ids::ProjectId;
use jiff::SignedDuration;
use proptest::prelude::*;

const DAY: i64 = 86_400;

fn at(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * DAY).unwrap()
}

fn project() -> Project {
    let lead: Name = "ada".parse().unwrap();
    Project {
        id: ProjectId::new_v4(),
        name: "heart".parse().unwrap(),
        level: "3".to_owned(),
        level_name: "sensitive".to_owned(),
        purpose: "beats".to_owned(),
        lead: lead.clone(),
        members: vec![lead],
        readers: BTreeSet::new(),
        created: at(0),
        pack: "aau-2018/7".to_owned(),
        department: String::new(),
        hold: None,
        disk_gib: None,
        registration: Registration::default(),
        agreements: Default::default(),
        warned: Vec::new(),
        data_sets: Vec::new(),
        ended: None,
        declassification: None,
    }
}

fn paper(expires: Option<i64>) -> Filed {
    Filed { reference: "2026-17".to_owned(), expires: expires.map(at) }
}

/// All that there is, good until day 100.
fn whole() -> Registration {
    Registration {
        legal_basis: Some("e".to_owned()),
        special_categories: Some(true),
        special_basis: Some("j".to_owned()),
        research: Some(true),
        dpia: Some(paper(Some(100))),
        ethics: Some(paper(None)),
        data_management_plan: Some(paper(Some(100))),
        ends: Some(at(100)),
        ..Registration::default()
    }
}

fn all() -> BTreeSet<Evidence> {
    Evidence::ALL.into()
}

fn missing_of(registration: Registration, day: i64) -> Vec<String> {
    missing(&Project { registration, ..project() }, &all(), at(day))
}

#[test]
fn what_is_missing_is_named_with_what_files_it() {
    assert_eq!(
        missing_of(Registration::default(), 0),
        [
            "a legal basis (--legal-basis)",
            "whether there are special categories (--special-categories)",
            "that it is research or statistics (--research)",
            "a DPIA (--dpia)",
            "an ethics approval (--ethics)",
            "a data-management plan (--data-management-plan)",
            "an end date (--ends)",
        ]
    );
    assert_eq!(missing_of(whole(), 0), [""; 0]);
    // Each by itself.
    let without = |change: fn(&mut Registration)| {
        let mut registration = whole();
        change(&mut registration);
        missing_of(registration, 0)
    };
    assert_eq!(without(|r| r.legal_basis = None), ["a legal basis (--legal-basis)"]);
    assert_eq!(without(|r| r.special_basis = None), ["a basis for special categories (--special-basis)"]);
    assert_eq!(without(|r| (r.special_categories, r.special_basis) = (Some(false), None)), [""; 0]);
    assert_eq!(without(|r| r.research = Some(false)), ["that it is research or statistics (--research)"]);
    assert_eq!(without(|r| r.dpia = None), ["a DPIA (--dpia)"]);
    assert_eq!(without(|r| r.ends = None), ["an end date (--ends)"]);
    // What no level asks for is not missing.
    assert_eq!(missing(&project(), &BTreeSet::new(), at(0)), [""; 0]);
}

#[test]
fn what_has_run_out_is_missing_from_that_moment_on() {
    let just_before = at(100).checked_sub(SignedDuration::from_nanos(1)).unwrap();
    let whole = Project { registration: whole(), ..project() };
    assert_eq!(missing(&whole, &all(), just_before), [""; 0]);
    assert_eq!(
        missing(&whole, &all(), at(100)),
        [
            "a DPIA (--dpia): the last ended on 2027-04-25",
            "a data-management plan (--data-management-plan): the last ended on 2027-04-25",
            "an end date (--ends): it ended on 2027-04-25",
        ]
    );
    assert_eq!(missing(&whole, &[Evidence::Ethics].into(), at(100_000)), [""; 0], "it has no end");
}

#[test]
fn what_is_filed_makes_sense_and_leaves_the_rest() {
    let first = file(&project(), whole(), at(0)).unwrap();
    let new = Registration { dpia: Some(paper(Some(500))), ..Registration::default() };
    let second = file(&first, new.clone(), at(99)).unwrap();
    assert_eq!(second.registration, Registration { dpia: new.dpia, ..whole() });
    let upper = Registration { legal_basis: Some(" E ".to_owned()), ..Registration::default() };
    assert_eq!(file(&first, upper, at(0)).unwrap().registration, whole());
    let said = |text: &str| Some(text.to_owned());
    let none = Registration::default;
    for (bad, why) in [
        (Registration { legal_basis: said("g"), ..none() }, "article 6(1)"),
        (Registration { legal_basis: said(""), ..none() }, "article 6(1)"),
        (Registration { legal_basis: said("ab"), ..none() }, "article 6(1)"),
        (Registration { special_basis: said("k"), ..none() }, "article 9(2)"),
        (Registration { dpia: Some(paper(Some(5))), ..none() }, "has ended already"),
        (Registration { ends: Some(at(5)), ..none() }, "ended on"),
        (
            Registration { ethics: Some(Filed { reference: " ".to_owned(), expires: None }), ..none() },
            "empty",
        ),
        (Registration { controller: said("a\nb"), ..none() }, "not one line"),
        (Registration { controller: Some("x".repeat(TEXT_MAX + 1)), ..none() }, "not one line"),
    ] {
        let refused = file(&first, bad, at(5)).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Invalid);
        assert!(refused.to_string().contains(why), "{refused}");
    }
    // A record that would not fit into an entry could never be put on hold.
    let mut full = first;
    full.purpose = "x".repeat(RECORD_MAX);
    assert!(file(&full, none(), at(0)).unwrap_err().to_string().contains("more than its record holds"));
}

#[test]
fn the_agreement_of_a_member_from_outside_ends() {
    let (mut project, rita) = (project(), "rita".parse::<Name>().unwrap());
    let refused = agreement(&mut project, &rita, paper(None), at(0)).unwrap_err();
    assert_eq!(refused.hint, "--agreement-expires DATE");
    agreement(&mut project, &rita, paper(Some(10)), at(0)).unwrap();
    // She is no member yet.
    assert_eq!(lapsed(&project, at(10)), []);
    project.members.push(rita.clone());
    assert_eq!((lapsed(&project, at(9)), lapsed(&project, at(10))), (vec![], vec![rita]));
    assert_eq!(
        ending(terms(&project, &all()), at(9)),
        ["the agreement of rita ends in 1 day, on 2027-01-25"]
    );
    assert_eq!(ending(terms(&project, &all()), at(11)), ["the agreement of rita has ended, on 2027-01-25"]);
}

#[test]
fn who_reads_of_a_project_reads_what_ends_soon() {
    let whole = Project { registration: whole(), ..project() };
    assert_eq!(ending(terms(&whole, &all()), at(69)), [""; 0]);
    let only = [Evidence::Dpia].into();
    assert_eq!(ending(terms(&whole, &only), at(70)), ["its DPIA ends in 30 days, on 2027-04-25"]);
    assert_eq!(ending(terms(&whole, &only), at(100)), ["its DPIA has ended, on 2027-04-25"]);
}

/// The clock as it may go, and a paper filed anew now and then.
#[derive(Debug, Clone)]
enum Step {
    Clock(i64),
    File(i64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => (0..200 * DAY).prop_map(Step::Clock), 1 => (1..200_i64).prop_map(Step::File)]
}

fn second(second: i64) -> Timestamp {
    at(0).checked_add(SignedDuration::from_secs(second)).unwrap()
}

proptest! {
    /// However the clock jumps: of each paper each warning once, never for more days than the last, none too early, and
    /// whoever looks finds that the one which is due was given.
    #[test]
    fn each_warning_is_given_once(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut project = project();
        let must: BTreeSet<Evidence> = [Evidence::Dpia, Evidence::EndDate].into();
        project.registration.ends = Some(at(120));
        let mut given: Vec<Warned> = Vec::new();
        for step in steps {
            let now = match step {
                Step::File(day) => {
                    project.registration.dpia = Some(paper(Some(day)));
                    continue;
                }
                Step::Clock(seconds) => second(seconds),
            };
            if let Some((Change::Put(Record::Project(next)), new)) = warn(&project, &terms(&project, &must), now) {
                for w in &new {
                    prop_assert!(WARNINGS.contains(&w.days));
                    let left = w.ends.duration_since(now).as_secs();
                    prop_assert!(left <= i64::from(w.days) * DAY, "{:?} too early", w);
                    // A paper that was replaced, and is filed again, is a new one.
                    let before = given.iter().rev().find(|g| g.what == w.what && g.ends == w.ends);
                    if project.warned.iter().any(|kept| kept.what == w.what && kept.ends == w.ends) {
                        prop_assert!(before.is_some_and(|before| before.days > w.days), "{:?} again", w);
                    }
                }
                given.extend(new);
                project = next;
            }
            prop_assert!(warn(&project, &terms(&project, &must), now).is_none(), "twice at one time");
            for (what, ends) in terms(&project, &must) {
                if let Some(days) = due(ends, now) {
                    let kept = project.warned.iter().find(|w| w.what == what && w.ends == ends);
                    prop_assert!(kept.is_some_and(|kept| kept.days <= days));
                }
            }
            prop_assert!(project.warned.len() <= 2);
        }
    }

    /// A clock that only goes forward, however far at a time, ends with "it has ended".
    #[test]
    fn from_the_first_day_to_the_last(hops in prop::collection::vec(1..20 * DAY, 30)) {
        let mut project = project();
        project.registration.ends = Some(at(100));
        let must: BTreeSet<Evidence> = [Evidence::EndDate].into();
        let (mut now, mut days) = (0, Vec::new());
        for hop in hops.into_iter().chain([200 * DAY]) {
            now += hop;
            if let Some((Change::Put(Record::Project(next)), new)) = warn(&project, &terms(&project, &must), second(now)) {
                days.extend(new.iter().map(|w| w.days));
                project = next;
            }
        }
        prop_assert!(days.windows(2).all(|pair| pair[0] > pair[1]), "{:?}", days);
        prop_assert_eq!(days.last(), Some(&0));
    }

    /// What is missing at one time is missing at every later one, until it is filed.
    #[test]
    fn what_has_run_out_does_not_come_back(a in 0..200 * DAY, b in 0..200 * DAY) {
        let project = Project { registration: whole(), ..project() };
        let (early, late) = (second(a.min(b)), second(a.max(b)));
        let before = missing(&project, &all(), early);
        let after = missing(&project, &all(), late);
        prop_assert!(before.iter().all(|what| after.contains(what)));
    }
}
