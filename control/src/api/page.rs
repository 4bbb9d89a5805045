//! Long lists, page by page: each call answers with as many as were asked for, and with no more bytes than a message may have.
//!
//! A page's token says after what the next one begins. What is added or gone in between moves nothing else: whatever was there
//! all the while is on one page, and on no other.

use crate::domain::{Refusal, RefusalKind};
use holm_proto::ids::SliceId;
use jiff::Timestamp;
use prost::Message;
use std::fmt;
use std::str::FromStr;

/// On a page where the caller does not say, and at the most.
const USUAL: usize = 500;
const MOST: usize = 1000;
/// Who receives takes 4 MiB (gRPC's own limit), of which other fields of the answer may be.
const BYTES: usize = 3 << 20;

/// After what a page begins; `None`: it is the first.
pub(super) fn after<T: FromStr>(token: &str) -> Result<Option<T>, Refusal> {
    let begins = || {
        let text = "the page token is not one that a page before had";
        Refusal::new(RefusalKind::Invalid, text).hint("ask for the first page, without a token")
    };
    if token.is_empty() { Ok(None) } else { token.parse().map(Some).map_err(|_| begins()) }
}

/// The first of what is left, and the last of them where there are more.
pub(super) fn fill<T: Copy, M: Message>(
    wanted: u32,
    left: impl Iterator<Item = T>,
    shown: impl Fn(T) -> M,
) -> (Vec<M>, Option<T>) {
    let most = match wanted as usize {
        0 => USUAL,
        some => some.min(MOST),
    };
    let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
    for one in left {
        if page.len() == most {
            return (page, last);
        }
        let message = shown(one);
        bytes += message.encoded_len();
        if bytes > BYTES && !page.is_empty() {
            return (page, last);
        }
        page.push(message);
        last = Some(one);
    }
    (page, None)
}

/// Where a slice stands in their list: the first that was asked for is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub Timestamp, pub SliceId);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.as_nanosecond(), self.1)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (at, id) = text.split_once('/').ok_or(())?;
        let at = at.parse().ok().and_then(|at| Timestamp::from_nanosecond(at).ok());
        Ok(Self(at.ok_or(())?, id.parse().map_err(drop)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use newtype_uuid::GenericUuid;
    use proptest::prelude::*;

    /// Every page, as a caller asks for them.
    fn pages(of: &[u32], size: u32) -> Vec<Vec<String>> {
        let (mut pages, mut token) = (Vec::new(), String::new());
        loop {
            let begins = after::<u32>(&token).unwrap();
            let left = of.iter().copied().filter(|n| begins.is_none_or(|after| *n > after));
            let (page, last) = fill(size, left, |n| n.to_string());
            pages.push(page);
            match last {
                Some(last) => token = last.to_string(),
                None => return pages,
            }
        }
    }

    proptest! {
        #[test]
        fn each_is_on_one_page_and_in_order(all in prop::collection::btree_set(0..5000_u32, 0..3000), size in 0..1200_u32) {
            let all: Vec<u32> = all.into_iter().collect();
            let pages = pages(&all, size);
            let most = if size == 0 { USUAL } else { (size as usize).min(MOST) };
            prop_assert!(pages.iter().all(|page| page.len() <= most));
            prop_assert!(pages.iter().rev().skip(1).all(|page| page.len() == most));
            let texts: Vec<String> = all.iter().map(u32::to_string).collect();
            prop_assert_eq!(pages.concat(), texts);
        }

        #[test]
        fn a_place_is_read_as_it_was_written(nanos in any::<i64>(), id in any::<u128>()) {
            let at = Timestamp::from_nanosecond(nanos.into()).unwrap();
            let place = Place(at, SliceId::from_untyped_uuid(uuid::Uuid::from_u128(id)));
            prop_assert_eq!(after::<Place>(&place.to_string()).unwrap(), Some(place));
        }

        #[test]
        fn whatever_is_sent_is_a_place_or_refused(token in ".{0,80}") {
            let _ = after::<Place>(&token);
        }
    }

    #[test]
    fn a_page_fits_into_a_message_and_is_never_empty() {
        let long = |_| "x".repeat((1 << 20) - 16);
        let (page, last) = fill(0, 0..10_u32, long);
        assert_eq!((page.len(), last), (3, Some(2)));
        let huge = |_| "x".repeat(BYTES + 1);
        let (page, last) = fill(0, 0..2_u32, huge);
        assert_eq!((page.len(), last), (1, Some(0)));
    }
}
