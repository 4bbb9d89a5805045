use super::*;
use crate::domain::tests::heart;
use holm_policies::Pack;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn levels() -> Vec<Level> {
    Pack::builtin("aau-2018").unwrap().levels().to_vec()
}

/// Of ada, with rita in it.
fn project(level: &str) -> Project {
    Project { members: vec![name("ada"), name("rita")], ..heart(level) }
}

fn set(text: &str, level: &str) -> DataSet {
    DataSet { name: name(text), owner: "the clinic".to_owned(), level: level.to_owned() }
}

fn wanted(of: Option<&str>, to: &str) -> Declassification {
    Declassification {
        data_set: of.map(name),
        to: to.to_owned(),
        reason: "names were removed".to_owned(),
        by: name("ada"),
        at: Timestamp::UNIX_EPOCH,
        approvals: Vec::new(),
    }
}

fn by(officer: &str) -> Approval {
    Approval { by: name(officer), at: Timestamp::UNIX_EPOCH, comment: String::new() }
}

#[test]
fn the_highest_of_its_data_sets_wins() {
    let levels = levels();
    let project = project("2");
    let low = add(&project, set("notes", "1"), &levels).unwrap();
    assert_eq!(low.level, "2", "less sensitive data lowers nothing");
    let high = add(&low, set("scans", "3"), &levels).unwrap_err();
    assert!(high.hint.contains("holm project create NAME --level 3"), "{}", high.hint);
    assert_eq!(add(&low, set("notes", "2"), &levels).unwrap_err().kind, RefusalKind::Exists);
    assert_eq!(add(&low, set("x", "9"), &levels).unwrap_err().kind, RefusalKind::Invalid);
}

#[test]
fn two_officers_outside_lower_it_and_the_project_follows_its_data() {
    let levels = levels();
    let project = add(&project("3"), set("scans", "3"), &levels).unwrap();
    let project = add(&project, set("tables", "3"), &levels).unwrap();
    let lower = |project: &Project, what: Option<&str>| {
        let asked = ask(project, wanted(what, "2"), &levels)?;
        let once = approve(&asked, by("frida"), &levels)?;
        assert_eq!(once.data_sets, asked.data_sets);
        assert!(approve(&once, by("frida"), &levels).unwrap_err().to_string().contains("another officer"));
        approve(&once, by("gustav"), &levels)
    };
    let one = lower(&project, Some("scans")).unwrap();
    assert_eq!((one.level.as_str(), one.data_sets[0].level.as_str()), ("3", "2"));
    assert!(lower(&one, None).unwrap_err().to_string().contains("it has data of level 3"));
    let both = lower(&one, Some("tables")).unwrap();
    assert_eq!((both.level.as_str(), both.level_name.as_str()), ("2", "confidential"));
    assert!(both.declassification.is_none());
    // Not below what runs here, not to what it has, not of what is not there.
    assert!(ask(&both, wanted(Some("scans"), "2"), &levels).is_err());
    assert!(ask(&both, wanted(Some("none"), "1"), &levels).is_err());
    let one_more = lower(&both, Some("scans"));
    assert!(one_more.is_err(), "to the level that it has");
    let asked = ask(&both, wanted(Some("scans"), "1"), &levels).unwrap();
    assert_eq!(approve(&approve(&asked, by("x"), &levels).unwrap(), by("y"), &levels).unwrap().level, "2");
    let alone = super::tests::project("2");
    let refused = ask(&alone, wanted(None, "1"), &levels).unwrap_err().to_string();
    assert!(refused.contains("shared cluster"), "{refused}");
}

#[test]
fn what_came_since_it_was_asked_for_counts() {
    let levels = levels();
    let asked = ask(&project("3"), wanted(None, "2"), &levels).unwrap();
    let more = add(&asked, set("scans", "3"), &levels).unwrap();
    let once = approve(&more, by("frida"), &levels).unwrap();
    assert!(approve(&once, by("gustav"), &levels).unwrap_err().to_string().contains("data of level 3"));
    assert!(ask(&asked, wanted(None, "2"), &levels).unwrap_err().hint.contains("--withdraw"));
    assert!(dismiss(&asked).unwrap().declassification.is_none());
    assert!(dismiss(&project("3")).is_err() && approve(&project("3"), by("frida"), &levels).is_err());
}

proptest! {
    /// Whoever says what in whatever order: a level is lower only after two others than those of the project said so,
    /// since it was asked for last.
    #[test]
    fn nobody_lowers_a_level_alone(steps in prop::collection::vec((0..4_u8, 0..5_usize), 1..40)) {
        let levels = levels();
        let people = ["ada", "rita", "frida", "gustav", "hanne"];
        let mut project = add(&project("3"), set("scans", "3"), &levels).unwrap();
        let mut said = std::collections::BTreeSet::new();
        for (what, who) in steps {
            let before = project.level.clone();
            let done = match what {
                0 => ask(&project, wanted(Some("scans"), "2"), &levels),
                1 => dismiss(&project),
                _ => approve(&project, by(people[who]), &levels),
            };
            let Ok(next) = done else { continue };
            if what < 2 {
                said.clear();
            } else {
                said.insert(people[who]);
            }
            if next.level != before {
                prop_assert!(said.len() >= 2 && !said.contains("ada") && !said.contains("rita"));
            }
            project = next;
        }
    }
}
