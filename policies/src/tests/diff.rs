//! What becomes different with another pack.

use super::broken::with_each;
use super::{ask, pack, person, slice};
use crate::{Action, Pack, Principal, Resource, diff};

#[test]
fn a_pack_is_not_different_from_itself() {
    assert!(diff(&pack(), &pack()).is_empty());
    // Its name and version are no difference.
    let renamed = with_each(|_, text| text.replace("version = 7\n", "version = 8\n")).unwrap();
    assert!(diff(&pack(), &renamed).is_empty());
}

#[test]
fn between_the_numberings_of_2018_and_2026_only_the_levels_differ() {
    let found = diff(&pack(), &Pack::builtin("aau-2026").unwrap());
    let levels: Vec<(&str, &[String])> =
        found.levels.iter().map(|(id, lines)| (id.as_str(), lines.as_slice())).collect();
    let lines = |text: &str| vec![text.to_owned()];
    assert_eq!(
        levels,
        [
            ("0", &lines("is no level any more")[..]),
            (
                "1",
                &["name: open instead of internal".to_owned(), "colour: green instead of blue".to_owned()][..]
            ),
            ("4", &lines("is new: highly sensitive")[..])
        ]
    );
    assert!(found.added.is_empty() && found.removed.is_empty() && found.changed.is_empty());
}

#[test]
fn each_thing_that_a_level_or_a_policy_says_is_compared() {
    let other = with_each(|_, text| {
        text.replace("approvals = 2", "approvals = 3")
            .replace(
                "escrow = false\nobligations = [\"encrypted_volume\", \"locked_memory\", \"no_network\"]",
                "escrow = true\nobligations = [\"no_network\", \"vtpm\"]",
            )
            .replace(
                "by = [\"obligation/encrypted_volume\", \"holm/key-of-project\"]",
                "by = [\"holm/key-of-project\"]",
            )
            .replace("only officers and auditors read the log", "officers and auditors alone read the log")
            .replace("@id(\"host.read\")", "@id(\"host.see\")")
    })
    .unwrap();
    let found = diff(&pack(), &other);
    assert_eq!(
        found.levels.get("2").unwrap(),
        &[
            "escrow: allowed instead of not allowed",
            "demands vtpm",
            "does not demand encrypted_volume any more",
            "does not demand locked_memory any more"
        ]
    );
    assert_eq!(found.levels.get("3").unwrap(), &["approvals: 3 instead of 2"]);
    assert_eq!(found.others, ["rule 4: is another"]);
    assert_eq!(
        (&found.added[..], &found.removed[..], &found.changed[..]),
        (&["host.see".to_owned()][..], &["host.read".to_owned()][..], &["audit.read".to_owned()][..])
    );
}

/// Whoever loads it is told before that it cannot be taken back.
#[test]
fn that_the_log_is_kept_for_less_is_said() {
    let kept = |of_none: u32, of_two: u32| {
        with_each(|_, text| {
            text.replace("# log_days = 1827", &format!("log_days = {of_none}")).replacen(
                "closing_days = 30",
                &format!("closing_days = 30\nlog_days = {of_two}"),
                1,
            )
        })
        .unwrap()
    };
    assert!(diff(&pack(), &kept(0, 0)).is_empty());
    let two = "level 2: entries of the log: kept";
    let none = "entries of the log of no project: kept";
    let shorter = "SHORTER, what is older is destroyed";
    assert_eq!(
        diff(&pack(), &kept(180, 365)).lines(),
        [
            format!("{two} 365 days instead of for ever: {shorter}"),
            format!("{none} 180 days instead of for ever: {shorter}")
        ]
    );
    assert_eq!(
        diff(&kept(180, 365), &kept(181, 364)).lines(),
        [
            format!("{two} 364 days instead of 365 days: {shorter}"),
            format!("{none} 181 days instead of 180 days")
        ]
    );
    assert_eq!(
        diff(&kept(180, 365), &pack()).lines(),
        [format!("{two} for ever instead of 365 days"), format!("{none} for ever instead of 180 days")]
    );
}

/// An action that is in another is allowed by whatever allows that one, and no policy changes.
#[test]
fn a_schema_that_is_another_is_never_the_same() {
    let sly = with_each(|_, text| {
        text.replacen("\"slice.read\", \"slice.approve\", ", "\"slice.read\", ", 1).replace(
            "action \"slice.watch\" in [\"slice.read\"]",
            "action \"slice.watch\", \"slice.approve\" in [\"slice.read\"]",
        )
    })
    .unwrap();
    let found = diff(&pack(), &sly);
    assert_eq!(found.others, ["schema.cedarschema: is another: read it line by line"]);
    // And what it was to allow is refused all the same.
    let decision = ask(&sly, &person("odin", &["operator"]), Action::SliceApprove, &slice("3"));
    assert_eq!(decision.reasons, ["only an officer decides on a slice (built in)"]);
    assert!(!decision.allow);
}

/// The separation of duties that no site lifts.
#[test]
fn what_no_pack_allows() {
    let open = with_each(|name, text| {
        if name != "policies.cedar" {
            // The rules of the site point at the policies that are taken away here.
            return text.split("\n# ---- What is demanded").next().unwrap().to_owned();
        }
        let without = ["role.officer-and-operator", "slice.own-request"];
        let mut kept = String::new();
        for policy in text.split_inclusive("\n@id(") {
            let id = policy.split('"').nth(1).unwrap_or_default();
            if kept.is_empty() || !without.contains(&id) {
                kept.push_str(policy);
            } else {
                kept.push_str("\n@id(");
            }
        }
        kept.replace("\n@id(\n@id(", "\n@id(")
    })
    .unwrap();
    let refused = |who: &Principal, action, resource: &Resource| {
        let decision = ask(&open, who, action, resource);
        assert!(!decision.allow, "{action}");
        decision.reasons
    };
    let both = person("otis", &["officer", "operator"]);
    assert_eq!(
        refused(&both, Action::SliceRead, &slice("3")),
        ["nobody is officer and operator at once (built in)"]
    );
    let own = person("lina", &["lead", "officer"]);
    assert!(!refused(&own, Action::SliceApprove, &slice("3")).is_empty());
    let member = person("opal", &["researcher", "operator"]);
    assert_eq!(
        refused(&member, Action::SliceConnect, &slice("3")),
        ["officers and operators have no way into a project's data (built in)"]
    );
}
