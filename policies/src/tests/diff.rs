//! What becomes different with another pack.

use super::broken::with_each;
use super::pack;
use crate::{Pack, diff};

#[test]
fn a_pack_is_not_different_from_itself() {
    assert!(diff(&pack(), &pack()).is_empty());
    // Its name and version are no difference.
    let renamed = with_each(|_, text| text.replace("version = 2\n", "version = 3\n")).unwrap();
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
            ("1", &lines("name: open instead of internal")[..]),
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
    assert_eq!(
        (&found.added[..], &found.removed[..], &found.changed[..]),
        (&["host.see".to_owned()][..], &["host.read".to_owned()][..], &["audit.read".to_owned()][..])
    );
}
