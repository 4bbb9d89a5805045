//! Whether something is still as its caller saw it: an entity tag, as RFC 9110 (8.8.3) has it. `holm-if-match` says which tag is
//! expected, and a change of something that has another is refused: somebody, or what happens by itself, came before.

use crate::domain::{Refusal, RefusalKind, State};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_policies::Resource;
use serde::Serialize;
use tonic::Status;
use tonic::codegen::http;

/// The header with the tag that is expected.
pub const IF_MATCH: &str = "holm-if-match";

/// Its digits, hexadecimal: as many as nobody hits by chance.
const DIGITS: usize = 16;

/// What a caller saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(String);

impl Expected {
    /// What this request expects, if it does.
    ///
    /// # Errors
    /// It is no tag.
    pub fn of(headers: &http::HeaderMap) -> Result<Option<Self>, Status> {
        let Some(value) = headers.get(IF_MATCH) else { return Ok(None) };
        match value.to_str().ok().filter(|text| is_tag(text)) {
            Some(tag) => Ok(Some(Self(tag.to_owned()))),
            None => Err(Status::invalid_argument(format!("{IF_MATCH} is a tag: {DIGITS} of 0-9a-f"))),
        }
    }

    /// It still is what it was.
    ///
    /// # Errors
    /// It is not, or it has no tag.
    pub fn holds(&self, state: &State, resource: &Resource) -> Result<(), Refusal> {
        match of_resource(state, resource) {
            Some(tag) if tag == self.0 => Ok(()),
            Some(_) => Err(Refusal::new(
                RefusalKind::State,
                "it has changed since you saw it: its tag is another".to_owned(),
            )
            .hint(
                "look at it again, with --format json; what it has become may not be what you want to change",
            )),
            None => Err(Refusal::new(
                RefusalKind::Invalid,
                "projects and slices that are there have tags, and this is neither".to_owned(),
            )
            .hint("leave out --if-match")),
        }
    }
}

/// Whether it could be one.
pub fn is_tag(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The tag of a record as it is written.
pub fn of(record: &impl Serialize) -> String {
    // What is in the store can be written.
    let text = serde_json::to_vec(record).unwrap_or_default();
    let mut tag = HEXLOWER.encode(digest(&SHA256, &text).as_ref());
    tag.truncate(DIGITS);
    tag
}

fn of_resource(state: &State, resource: &Resource) -> Option<String> {
    match resource {
        Resource::Project { name, .. } => state.project(name).map(of),
        Resource::Slice { project, name, .. } => state.slice(state.project(project)?.id, name).map(of),
        Resource::System | Resource::Host { .. } | Resource::Person { .. } | Resource::Log => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_tag_and_what_is_none() {
        let of = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(IF_MATCH, value.parse().unwrap());
            Expected::of(&headers)
        };
        assert_eq!(Expected::of(&http::HeaderMap::new()).unwrap(), None);
        assert_eq!(of("0123456789abcdef").unwrap(), Some(Expected("0123456789abcdef".to_owned())));
        for none in
            ["", "*", "0123456789ABCDEF", "0123456789abcde", "0123456789abcdef0", "\"0123456789abcd\""]
        {
            assert_eq!(of(none).unwrap_err().code(), tonic::Code::InvalidArgument, "{none}");
        }
    }
}
