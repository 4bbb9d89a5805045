//! One-time codes: `holm1-SECRET-CAHASH`. The secret gets one certificate; the hash lets a client, which has
//! only the code, tell the right holmd from any other.

use super::authority::IdentityError;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::fill;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use zeroize::{Zeroize, ZeroizeOnDrop};

const PREFIX: &str = "holm1";
/// Letters of base32, 5 bits each: of the secret's 128 bits, and as many of the authority's hash.
const LETTERS: usize = 26;

/// A code. `Debug` does not show it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Code {
    /// Lower case.
    secret: String,
    ca: String,
}

impl Code {
    /// A new one, of the authority with this hash.
    pub fn new(ca: &str) -> Result<Self, IdentityError> {
        let mut bytes = [0_u8; 16];
        fill(&mut bytes).map_err(|_| IdentityError::Random)?;
        let secret = BASE32_NOPAD.encode(&bytes).to_lowercase();
        bytes.zeroize();
        Ok(Self { secret, ca: ca.to_owned() })
    }

    /// What somebody typed, in either case; `None` where it cannot be a code.
    pub fn parse(text: &str) -> Option<Self> {
        let part = |part: &str| -> Option<String> {
            let part = part.to_lowercase();
            let plain = part.len() == LETTERS && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7'));
            plain.then_some(part)
        };
        let mut parts = text.trim().split('-');
        let (prefix, secret, ca) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = prefix.eq_ignore_ascii_case(PREFIX) && parts.next().is_none();
        if whole { Some(Self { secret: part(secret)?, ca: part(ca)? }) } else { None }
    }

    /// For the one who is invited.
    pub fn text(&self) -> String {
        format!("{PREFIX}-{}-{}", self.secret, self.ca)
    }

    /// What is kept of it: SHA-256 of the secret, hexadecimal.
    pub fn hash(&self) -> String {
        HEXLOWER.encode(digest(&SHA256, self.secret.as_bytes()).as_ref())
    }

    /// The authority it is of.
    pub fn ca(&self) -> &str {
        &self.ca
    }
}

/// The hash of an authority as it stands in its codes, from the DER of its certificate.
pub fn ca_hash(der: &[u8]) -> String {
    let text = BASE32_NOPAD.encode(digest(&SHA256, der).as_ref()).to_lowercase();
    text.chars().take(LETTERS).collect()
}

impl std::fmt::Debug for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Code([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_comes_back_in_either_case() {
        let ca = ca_hash(b"some certificate");
        let code = Code::new(&ca).unwrap();
        assert_eq!(code.text().len(), 5 + 1 + 26 + 1 + 26);
        for typed in [code.text(), code.text().to_uppercase(), format!("  {}\n", code.text())] {
            let again = Code::parse(&typed).unwrap();
            assert_eq!((again.hash(), again.ca()), (code.hash(), ca.as_str()));
        }
        assert_ne!(Code::new(&ca).unwrap().hash(), code.hash());
        assert!(!format!("{code:?}").contains(&code.secret));
    }

    #[test]
    fn what_is_no_code() {
        let good = Code::new(&ca_hash(b"x")).unwrap().text();
        for bad in
            ["", "holm1", "holm1--", &good[1..], &good[..57], &format!("{good}-a"), &good.replace('-', "_")]
        {
            assert!(Code::parse(bad).is_none(), "{bad}");
        }
        let digit = good.replacen("holm1-", "holm1-1", 1);
        assert!(Code::parse(&digit).is_none());
    }
}
