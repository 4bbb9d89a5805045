//! What `holmd.toml` says of how holmd is watched, as the log has it: who may write that file could switch off an alarm, a
//! witness or a stream, and is to be seen doing so.

use super::State;
use super::records::{Change, Record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What was configured when holmd started last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oversight {
    /// By what it is, as `watch/out-of-hours` or `witness/w1`: SHA-256 of what is said of it.
    pub parts: BTreeMap<String, String>,
}

/// In what two differ, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// There was none.
    pub new: Vec<String>,
    /// There is none any more.
    pub gone: Vec<String>,
    /// It says something else.
    pub changed: Vec<String>,
    /// Nothing was known of before.
    pub first: bool,
}

/// What is to be written down, where it differs from what the log has.
pub fn differs(state: &State, now: &BTreeMap<String, String>) -> Option<(Difference, Vec<Change>)> {
    let none = BTreeMap::new();
    let before = state.oversight.as_ref().map_or(&none, |before| &before.parts);
    let first = state.oversight.is_none();
    if !first && before == now {
        return None;
    }
    let without = |of: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
        of.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let other = |(name, of): &(&String, &String)| before.get(*name).is_some_and(|was| was != *of);
    let changed = now.iter().filter(other).map(|(name, _)| name.clone()).collect();
    let difference = Difference { new: without(now, before), gone: without(before, now), changed, first };
    Some((difference, vec![Change::Put(Record::Oversight(Oversight { parts: now.clone() }))]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What differs is told by its name, once, and nothing else is.
        #[test]
        fn each_that_differs_is_told_once(
            before in prop::collection::btree_map("[a-c]", "[xy]", 0..4),
            now in prop::collection::btree_map("[a-c]", "[xy]", 0..4),
        ) {
            let mut state = State::default();
            let (difference, changes) = differs(&state, &before).unwrap();
            prop_assert!(difference.first && difference.gone.is_empty() && difference.changed.is_empty());
            state.apply(&changes);
            prop_assert_eq!(differs(&state, &before), None);
            let Some((difference, changes)) = differs(&state, &now) else {
                prop_assert_eq!(before, now);
                return Ok(());
            };
            for name in before.keys().chain(now.keys()) {
                let told = |all: &[String]| all.iter().filter(|one| *one == name).count();
                let expected = match (before.get(name), now.get(name)) {
                    (None, _) => (1, 0, 0),
                    (_, None) => (0, 1, 0),
                    (was, is) => (0, 0, usize::from(was != is)),
                };
                prop_assert_eq!((told(&difference.new), told(&difference.gone), told(&difference.changed)), expected);
            }
            state.apply(&changes);
            prop_assert_eq!(differs(&state, &now), None);
        }
    }
}
