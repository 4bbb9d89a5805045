//! What of an entry can be looked up: terms, each a letter for its kind and a text. Pure.

use crate::audit::Entry;
use serde_json::Value;

/// Longer words are cut: no text is told apart by what comes later.
const WORD: usize = 64;

/// By whom: `person/ada`.
pub(super) fn actor(name: &str) -> String {
    format!("a{name}")
}

/// About what: `slice/heart/main`.
pub(super) fn resource(name: &str) -> String {
    format!("s{name}")
}

/// A project by its name.
pub(super) fn project(name: &str) -> String {
    format!("p{name}")
}

/// A level, as the pack names it.
pub(super) fn level(name: &str) -> String {
    format!("l{name}")
}

/// A device as HOST/ADDRESS.
pub(super) fn device(name: &str) -> String {
    format!("d{name}")
}

/// An action, or what it begins with up to a dot.
pub(super) fn action(name: &str) -> String {
    format!("x{name}")
}

/// `allowed`, `refused` or `observed`.
pub(super) fn outcome(name: &str) -> String {
    format!("o{name}")
}

/// The id of a call.
pub(super) fn request(id: &str) -> String {
    format!("r{id}")
}

/// The terms of all the words of a text.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| {
        let mut term = String::with_capacity(word.len() + 1);
        term.push('w');
        term.extend(word.chars().flat_map(char::to_lowercase).take(WORD));
        term
    })
}

/// All terms of an entry; some come more than once.
pub(super) fn of(entry: &Entry, take: &mut impl FnMut(String)) {
    take(actor(&entry.actor));
    take(resource(&entry.resource));
    take(outcome(&entry.outcome));
    take(request(&entry.request));
    entry.project.iter().for_each(|name| take(project(name)));
    entry.level.iter().for_each(|name| take(level(name)));
    let dots = entry.action.match_indices('.').map(|(at, _)| at);
    dots.chain([entry.action.len()])
        .filter_map(|end| entry.action.get(..end))
        .for_each(|name| take(action(name)));
    for text in [&entry.actor, &entry.resource, &entry.action].into_iter().chain(&entry.reasons) {
        words(text).for_each(&mut *take);
    }
    words_of(&entry.detail, take);
    for change in &entry.changes {
        words_of(change, take);
        let of = change.get("of");
        let text = |field| of.and_then(|of: &Value| of.get(field)?.as_str());
        if let (Some("device"), Some(host), Some(address)) = (text("kind"), text("host"), text("address")) {
            take(device(&format!("{host}/{address}")));
        }
    }
}

/// The words of every text in a value. What fields are called is not what an entry says.
fn words_of(value: &Value, take: &mut impl FnMut(String)) {
    match value {
        Value::String(text) => words(text).for_each(take),
        Value::Array(items) => items.iter().for_each(|item| words_of(item, take)),
        Value::Object(fields) => fields.values().for_each(|item| words_of(item, take)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_entry_says_can_be_looked_up() {
        let entry = Entry {
            v: 1,
            index: 0,
            time: "2026-11-03T13:02:11Z".parse().unwrap(),
            request: "5f3c".to_owned(),
            actor: "person/ada".to_owned(),
            peer: "192.0.2.1:5000".to_owned(),
            action: "project.declassify.decide".to_owned(),
            resource: "project/heart".to_owned(),
            project: Some("heart".to_owned()),
            level: Some("3".to_owned()),
            outcome: "refused".to_owned(),
            reasons: vec!["Nobody decides on her OWN".to_owned()],
            pack: Some("aau-2018/1".to_owned()),
            detail: json!({ "comment": ["as Ærø said"], "n": 7 }),
            changes: vec![json!({ "op": "put", "of": {
                "kind": "device", "host": "dgx", "address": "0000:34:00.0" } })],
        };
        let mut terms = Vec::new();
        of(&entry, &mut |term| terms.push(term));
        for one in ["aperson/ada", "sproject/heart", "pheart", "l3", "orefused", "r5f3c", "ddgx/0000:34:00.0"]
        {
            assert!(terms.iter().any(|term| term == one), "{one}");
        }
        for action in ["xproject", "xproject.declassify", "xproject.declassify.decide"] {
            assert!(terms.iter().any(|term| term == action), "{action}");
        }
        for word in ["wown", "wærø", "wada", "wheart", "wdecide"] {
            assert!(terms.iter().any(|term| term == word), "{word}");
        }
        assert!(!terms.iter().any(|term| term == "wcomment" || term == "w192" || term == "w7"));
    }

    #[test]
    fn a_word_is_cut_like_the_word_it_is_looked_up_by() {
        let long = "É".repeat(100);
        let term: Vec<String> = words(&long).collect();
        assert_eq!(term, vec![format!("w{}", "é".repeat(64))]);
        assert_eq!(words(" --- ").count(), 0);
    }
}
