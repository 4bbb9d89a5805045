//! Who has an account in a slice, told to a guest that runs.

use crate::edge::{EdgeError, Result};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_proto::{
    guest::TOLD_DIGITS,
    ids::{Name, SliceId},
    v1::GuestUser,
};
use serde_json::{Value, json};

/// A guest holds no longer line.
const MAX_LINE_BYTES: usize = 60 * 1024;
/// Accounts below belong to the system, those above to nobody.
const UIDS: std::ops::RangeInclusive<u32> = 1000..=59_999;

/// What these people are called together: the same in whatever order they are named.
pub fn digest_of(users: &[GuestUser]) -> String {
    let reads = |user: &GuestUser| if user.read_only { " reads" } else { "" };
    let line = |user: &GuestUser| format!("{} {}{}\n", user.uid, user.name, reads(user));
    let mut lines: Vec<String> = users.iter().map(line).collect();
    lines.sort();
    let mut text = HEXLOWER.encode(digest(&SHA256, lines.concat().as_bytes()).as_ref());
    text.truncate(TOLD_DIGITS);
    text
}

/// Their accounts, as a seed and a message have them: of those who change things, and of those who only read. A guest that
/// knows nothing of the latter has none for them.
pub fn accounts(slice: SliceId, users: &[GuestUser]) -> Result<[Value; 2]> {
    let refused = |error| EdgeError::because(format!("the accounts of slice `{slice}` are refused"), error);
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for user in users {
        let name: Name = user.name.parse().map_err(refused)?;
        if !UIDS.contains(&user.uid) {
            return Err(EdgeError::new(format!(
                "the accounts of slice `{slice}` are refused: `{name}` has the user id {}, and people have {} to {}",
                user.uid,
                UIDS.start(),
                UIDS.end()
            )));
        }
        let accounts = if user.read_only { &mut readers } else { &mut writers };
        accounts.push(json!({ "name": name, "uid": user.uid }));
    }
    Ok([writers.into(), readers.into()])
}

/// The line that tells a guest.
pub fn line(slice: SliceId, users: &[GuestUser]) -> Result<String> {
    let [writers, readers] = accounts(slice, users)?;
    let told = json!({ "of": digest_of(users), "readers": readers, "users": writers });
    let line = format!("people {told}\n");
    if line.len() > MAX_LINE_BYTES {
        let count = users.len();
        let text = format!("slice `{slice}` has {count} accounts: more than its guest is told while it runs");
        return Err(EdgeError::new(text));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holm_proto::guest::is_told;
    use proptest::prelude::*;

    fn user(name: &str, uid: u32) -> GuestUser {
        GuestUser { name: name.to_owned(), uid, read_only: false }
    }

    fn slice() -> SliceId {
        "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap()
    }

    #[test]
    fn they_are_told_in_one_line() {
        let reads = GuestUser { read_only: true, ..user("rosa", 10_003) };
        let users = [user("ida", 10_001), reads.clone(), user("frida", 10_002)];
        let of = digest_of(&users);
        let told = format!(
            "people {{\"of\":\"{of}\",\"readers\":[{{\"name\":\"rosa\",\"uid\":10003}}],\"users\":[{{\"name\":\"ida\",\"uid\":10001}},{{\"name\":\"frida\",\"uid\":10002}}]}}\n"
        );
        assert_eq!(line(slice(), &users).unwrap(), told);
        let writes = [user("ida", 10_001), user("rosa", 10_003), user("frida", 10_002)];
        assert_ne!(digest_of(&writes), of);
        let many: Vec<GuestUser> = (0..3000).map(|n| user(&format!("user-{n}"), 1000 + n)).collect();
        assert!(line(slice(), &many).unwrap_err().chain().contains("3000 accounts"));
        assert!(line(slice(), &many[..1000]).is_ok());
        for bad in [user("root;", 1000), user("ida", 0), user("ida\nstop", 1000)] {
            assert!(line(slice(), &[bad]).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_they_are_called_is_theirs_alone(
            some in proptest::collection::btree_map("[a-z]{1,9}", UIDS, 0..9),
            others in proptest::collection::btree_map("[a-z]{1,9}", UIDS, 0..9),
        ) {
            let users = |of: &std::collections::BTreeMap<String, u32>| -> Vec<GuestUser> {
                of.iter().map(|(name, uid)| user(name, *uid)).collect()
            };
            let mut turned = users(&some);
            turned.reverse();
            prop_assert_eq!(digest_of(&turned), digest_of(&users(&some)));
            prop_assert_eq!(digest_of(&users(&some)) == digest_of(&users(&others)), some == others);
            prop_assert!(is_told(&digest_of(&turned)) && is_told(""));
        }
    }
}
