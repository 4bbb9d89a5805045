//! What JSON an entry may be: RFC 8259, narrowed to what all readers read alike, whoever signed it. One object; no name
//! twice in any object; numbers are integers of 64 bits, signed or not, and not `-0`; no escape that is half a character;
//! nested 127 deep at most; times in one form. `deploy/docs/verify-log.py` goes by the same.

use jiff::Timestamp;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt;

/// The seconds of 1970 to 9998: in these years all that reads times agrees.
const YEARS: std::ops::Range<i64> = 0..253_370_764_800;

/// These bytes as the text of such an object.
pub(super) fn strict(bytes: &[u8]) -> Result<&str, serde_json::Error> {
    // Looked at once, and not once for each of its strings.
    let text = std::str::from_utf8(bytes).map_err(Error::custom)?;
    serde_json::from_str(text).map(|Object| text)
}

/// A time as it would be written.
pub(super) fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(from)?;
    let time: Timestamp = text.parse().map_err(D::Error::custom)?;
    match time.to_string() == text && YEARS.contains(&time.as_second()) {
        true => Ok(time),
        false => Err(D::Error::custom("it is no time in the form 2026-11-26T12:00:00Z")),
    }
}

struct Object;

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Value).map(|()| Self)
    }
}

/// Any value; its floating-point numbers are none, for want of a method that takes them.
#[derive(Clone, Copy)]
struct Value;

struct Any;

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Value).map(|()| Self)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Value {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON whose numbers are integers of 64 bits")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<Any>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = Vec::new();
        while let Some((Name(name), Any)) = map.next_entry()? {
            names.push(name);
        }
        names.sort_unstable();
        match names.windows(2).find_map(|pair| pair.first().filter(|one| pair.last() == Some(one))) {
            Some(twice) => Err(A::Error::custom(format!("`{twice}` is there twice"))),
            None => Ok(()),
        }
    }
}
