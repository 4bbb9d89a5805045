//! SSH public keys as Holm takes them: ed25519, without options and in one spelling.

use data_encoding::BASE64;

const KIND: &str = "ssh-ed25519";
const KEY_BYTES: usize = 32;

/// The key and nothing else: kind and base64, a comment dropped. `None` for all that is no such key.
pub fn plain(text: &str) -> Option<String> {
    let mut parts = text.split(' ');
    let (kind, encoded) = (parts.next()?, parts.next()?);
    let one_line = !text.chars().any(char::is_control);
    let wanted: Vec<u8> =
        [&(KIND.len() as u32).to_be_bytes()[..], KIND.as_bytes(), &(KEY_BYTES as u32).to_be_bytes()[..]]
            .concat();
    let blob = BASE64.decode(encoded.as_bytes()).ok()?;
    let whole = blob.strip_prefix(wanted.as_slice()).is_some_and(|key| key.len() == KEY_BYTES);
    (kind == KIND && one_line && whole).then(|| format!("{kind} {encoded}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJQzSd2F4DPi1bWeTkVGt8mHnWJl1sCcqcPl1jeIHoq";

    #[test]
    fn only_a_plain_key_is_one() {
        assert_eq!(plain(KEY).as_deref(), Some(KEY));
        assert_eq!(plain(&format!("{KEY} root@slice")).as_deref(), Some(KEY));
        let longer = format!("{}AAAA", &KEY[..KEY.len()]);
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJJQzSd2F4DPi1bWeTkVGt8mHnWJl1sCcqcPl1jeIHoq",
            &format!(" {KEY}"),
            &format!("command=\"x\" {KEY}"),
            &format!("{KEY}\n{KEY}"),
            &format!("{KEY} a\u{1b}[2J"),
            &KEY.replace(' ', "  "),
            &KEY[..KEY.len() - 4],
            &longer,
        ] {
            assert_eq!(plain(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_comes_out_goes_in_again(text in "(ssh-ed25519 )?[A-Za-z0-9+/= ]{0,90}") {
            if let Some(key) = plain(&text) {
                prop_assert_eq!(plain(&key), Some(key.clone()));
                prop_assert!(text.starts_with(&key));
            }
        }
    }
}
