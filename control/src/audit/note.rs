//! C2SP signed notes with Ed25519: a text that people can read, and a line with its signature.
//! Checkpoints of the log and deletion certificates are notes.

use super::key::SigningKey;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use data_encoding::{BASE64, HEXLOWER};

/// Bytes that a note may have.
pub const MAX_NOTE: usize = 1 << 20;

/// The signature type of Ed25519.
const TYPE_ED25519: u8 = 1;
const DASH: &str = "\u{2014} ";

/// Why a note is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The public key is no key.
    #[error("`{0}` is no public key: it must look like NAME+HASH+KEY, as `holm audit key` prints it")]
    Key(String),
    /// Not in the form of a note.
    #[error("it is no signed note: {0}")]
    Form(&'static str),
    /// Nobody who is trusted signed it.
    #[error("it is not signed by `{0}`")]
    Unsigned(String),
    /// Text or signature were changed.
    #[error("the signature of `{0}` does not fit: the text or the signature was changed")]
    Signature(String),
}

/// Sign `text` under `name`. The text must end with a line feed and hold no other control
/// character, the name be as [`is_name`] wants it; or else the note will not verify.
pub fn sign(key: &SigningKey, name: &str, text: &str) -> String {
    let mut blob = key_id(name, &key.public()).to_vec();
    blob.extend(key.sign(text.as_bytes()));
    format!("{text}\n{DASH}{name} {}\n", BASE64.encode(&blob))
}

/// The text of a note, if the key in `vkey` signed it. Signatures of other keys are ignored.
pub fn verify(note: &str, vkey: &str) -> Result<String, NoteError> {
    let key = PublicKey::parse(vkey)?;
    if note.len() > MAX_NOTE {
        return Err(NoteError::Form("it is larger than 1 MiB"));
    }
    if note.bytes().any(|b| b < b' ' && b != b'\n') {
        return Err(NoteError::Form("it holds control characters"));
    }
    let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Form("it has no signature"))?;
    let text = format!("{text}\n");
    let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Form("its last line is cut short"))?;
    let mut signed = false;
    for line in signatures.split('\n') {
        let (name, blob) = signature_line(line).ok_or(NoteError::Form("a signature line is damaged"))?;
        let Some((id, signature)) = blob.split_first_chunk::<4>() else {
            return Err(NoteError::Form("a signature is too short"));
        };
        if name != key.name || *id != key.id {
            continue;
        }
        UnparsedPublicKey::new(&ED25519, &key.bytes)
            .verify(text.as_bytes(), signature)
            .map_err(|_| NoteError::Signature(key.name.clone()))?;
        signed = true;
    }
    if signed { Ok(text) } else { Err(NoteError::Unsigned(key.name)) }
}

/// Whether a signer, and a log, may have this name: not empty, without spaces, `+` and control
/// characters.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c == '+' || c.is_whitespace() || c.is_control())
}

/// Whether a public key is one.
pub fn check_key(vkey: &str) -> Result<(), NoteError> {
    PublicKey::parse(vkey).map(drop)
}

/// The name in a public key.
pub(super) fn name_of(vkey: &str) -> Result<String, NoteError> {
    PublicKey::parse(vkey).map(|key| key.name)
}

/// `NAME+HASH+KEY`.
pub(super) fn vkey(name: &str, public: &[u8; 32]) -> String {
    let id = HEXLOWER.encode(&key_id(name, public));
    let key: Vec<u8> = [TYPE_ED25519].iter().chain(public).copied().collect();
    format!("{name}+{id}+{}", BASE64.encode(&key))
}

struct PublicKey {
    name: String,
    id: [u8; 4],
    bytes: [u8; 32],
}

impl PublicKey {
    fn parse(vkey_text: &str) -> Result<Self, NoteError> {
        let bad = || NoteError::Key(vkey_text.chars().take(200).collect());
        let mut parts = vkey_text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        let key = BASE64.decode(key.as_bytes()).map_err(|_| bad())?;
        let Some((&TYPE_ED25519, Ok(bytes))) = key.split_first().map(|(kind, key)| (kind, key.try_into()))
        else {
            return Err(bad());
        };
        // Written again it must be the same: that checks the hash, too.
        if !is_name(name) || vkey(name, &bytes) != vkey_text {
            return Err(bad());
        }
        Ok(Self { name: name.to_owned(), id: key_id(name, &bytes), bytes })
    }
}

fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let input = [name.as_bytes(), &[b'\n', TYPE_ED25519], public].concat();
    digest(&SHA256, &input).as_ref().first_chunk().copied().unwrap_or_default()
}

fn signature_line(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
    is_name(name).then_some(())?;
    Some((name, BASE64.decode(signature.as_bytes()).ok()?))
}
