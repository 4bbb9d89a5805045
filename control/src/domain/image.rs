//! Guest images: which there are, and over which of them root disks are made from now on.
//!
//! ```text
//!   (none) ── add, by an operator: signed by a key of the site's ──▶ added ── promote, by an officer ──▶ current
//!                                                                      ▲                                    │
//!                                                                      └──── another is promoted ───────────┘
//! ```
//!
//! Who brings an image decides on no slice's: what runs in all of them could otherwise be one operator's. A slice keeps the
//! image that its root disk was made over until it is rebuilt.

use super::records::{Change, Record};
use super::{Refusal, RefusalKind, State};
use holm_proto::ids::Name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Images that are remembered; the oldest that was never promoted goes for a new one.
const MANY: usize = 64;
/// Digits of an id that tell it from others.
const ID_MIN: usize = 8;

/// One image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// SHA-256 of its manifest, hexadecimal.
    pub id: String,
    /// As its maker calls it.
    pub version: String,
    /// What it was made from.
    pub recipe: String,
    /// What it is made of.
    pub manifest: String,
    /// The key that signed that.
    pub signer: String,
    /// The operator.
    pub added_by: Name,
    /// When.
    pub added: Timestamp,
    /// Absent: it never was current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Promotion>,
}

/// An officer lets slices have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promotion {
    /// The officer.
    pub by: Name,
    /// When, last.
    pub at: Timestamp,
    /// What she looked at.
    pub comment: String,
}

/// The one over which root disks are made now; `None`: the one that a host is configured with.
pub fn current(state: &State) -> Option<&Image> {
    let promoted = |image: &&Image| image.promoted.as_ref().map(|promotion| promotion.at);
    state.images.values().filter(|image| image.promoted.is_some()).max_by_key(promoted)
}

/// The one whose id begins so; empty: the current one.
pub fn find<'a>(state: &'a State, id: &str) -> Result<&'a Image, Refusal> {
    let hint = "holm image list";
    if id.is_empty() {
        let text = "no image was promoted: root disks are made over what each host is configured with";
        return current(state).ok_or_else(|| Refusal::new(RefusalKind::NotFound, text).hint(hint));
    }
    let shown: String = id.escape_debug().take(64).collect();
    if id.len() < ID_MIN {
        let text = format!("an image is called by {ID_MIN} digits of its id or more: `{shown}` is not");
        return Err(Refusal::new(RefusalKind::Invalid, text).hint(hint));
    }
    let mut found = state.images.values().filter(|image| image.id.starts_with(id));
    match (found.next(), found.next()) {
        (Some(image), None) => Ok(image),
        (None, _) => {
            Err(Refusal::new(RefusalKind::NotFound, format!("there is no image `{shown}`")).hint(hint))
        }
        _ => Err(Refusal::new(RefusalKind::Invalid, format!("more than one image begins with `{shown}`"))
            .hint(hint)),
    }
}

/// One more is known.
pub fn add(state: &State, image: Image) -> Result<Vec<Change>, Refusal> {
    if state.images.contains_key(&image.id) {
        let text = format!(
            "the image {} ({}) is known already",
            image.version,
            &image.id.get(..12).unwrap_or_default()
        );
        return Err(Refusal::new(RefusalKind::Exists, text).hint("holm image list"));
    }
    let mut changes = Vec::new();
    if state.images.len() >= MANY {
        let idle = state.images.values().filter(|image| image.promoted.is_none());
        let oldest = idle.min_by_key(|image| image.added).or_else(|| {
            let current = current(state).map(|image| &image.id);
            state.images.values().filter(|image| Some(&image.id) != current).min_by_key(|image| image.added)
        });
        changes.extend(oldest.map(|image| Change::Delete(Record::Image(Box::new(image.clone())).key())));
    }
    changes.push(Change::Put(Record::Image(Box::new(image))));
    Ok(changes)
}

/// Root disks are made over it from now on.
pub fn promote(image: &Image, state: &State, promotion: Promotion) -> Result<Vec<Change>, Refusal> {
    if image.added_by == promotion.by {
        let text = "nobody promotes an image that she added herself: another officer does";
        return Err(Refusal::new(RefusalKind::Denied, text));
    }
    if current(state).is_some_and(|current| current.id == image.id) {
        return Err(Refusal::new(RefusalKind::Exists, "root disks are made over it already"));
    }
    Ok(vec![Change::Put(Record::Image(Box::new(Image { promoted: Some(promotion), ..image.clone() })))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn image(n: u8) -> Image {
        Image {
            id: format!("{n:02x}").repeat(32),
            version: format!("v{n}"),
            recipe: "aa".to_owned(),
            manifest: String::new(),
            signer: "builder".to_owned(),
            added_by: "olga".parse().unwrap(),
            added: at(n.into()),
            promoted: None,
        }
    }

    fn promotion(by: &str, second: i64) -> Promotion {
        Promotion { by: by.parse().unwrap(), at: at(second), comment: String::new() }
    }

    #[test]
    fn one_brings_an_image_and_another_lets_slices_have_it() {
        let mut state = State::default();
        assert_eq!(find(&state, "").unwrap_err().kind, RefusalKind::NotFound);
        for n in 1..=3 {
            state.apply(&add(&state, image(n)).unwrap());
        }
        assert_eq!(add(&state, image(1)).unwrap_err().kind, RefusalKind::Exists);
        assert!(current(&state).is_none());
        let first = state.images[&image(1).id].clone();
        assert_eq!(promote(&first, &state, promotion("olga", 10)).unwrap_err().kind, RefusalKind::Denied);
        for (n, second) in [(1, 10), (2, 20), (1, 30)] {
            let chosen = state.images[&image(n).id].clone();
            state.apply(&promote(&chosen, &state, promotion("frida", second)).unwrap());
            assert_eq!(current(&state).unwrap().version, format!("v{n}"));
            assert_eq!(find(&state, "").unwrap().version, format!("v{n}"));
        }
        let again = state.images[&image(1).id].clone();
        assert_eq!(promote(&again, &state, promotion("frida", 40)).unwrap_err().kind, RefusalKind::Exists);
        assert_eq!(find(&state, "01010101").unwrap().version, "v1");
        assert_eq!(find(&state, "0101010").unwrap_err().kind, RefusalKind::Invalid);
        assert_eq!(find(&state, "ffffffff").unwrap_err().kind, RefusalKind::NotFound);
    }

    #[test]
    fn many_are_forgotten_but_not_the_current_one() {
        let mut state = State::default();
        state.apply(&add(&state, image(1)).unwrap());
        let first = state.images[&image(1).id].clone();
        state.apply(&promote(&first, &state, promotion("frida", 2)).unwrap());
        for n in 2..=200 {
            state.apply(&add(&state, image(n)).unwrap());
        }
        assert_eq!(state.images.len(), MANY);
        assert_eq!(current(&state).unwrap().version, "v1");
        assert!(state.images.contains_key(&image(200).id) && !state.images.contains_key(&image(2).id));
    }
}
