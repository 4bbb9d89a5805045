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
    let public = PublicKey::new(name, TYPE_ED25519, key.public());
    format!("{text}\n{}", line(&public, &key.sign(text.as_bytes())))
}

/// The text of a note, if the key in `vkey` signed it. Signatures of other keys are ignored.
pub fn verify(note: &str, vkey: &str) -> Result<String, NoteError> {
    let key = PublicKey::parse(vkey, TYPE_ED25519)?;
    let mut signed = false;
    let text = signatures(note, &key, |text, signature| {
        signed = true;
        key.verify(text.as_bytes(), signature)
    })?;
    if signed { Ok(text) } else { Err(NoteError::Unsigned(key.name)) }
}

/// The text of a note; `each` is told it with each signature that says it is of this key.
pub(crate) fn signatures(
    note: &str,
    key: &PublicKey,
    mut each: impl FnMut(&str, &[u8]) -> Result<(), NoteError>,
) -> Result<String, NoteError> {
    if note.len() > MAX_NOTE {
        return Err(NoteError::Form("it is larger than 1 MiB"));
    }
    if note.bytes().any(|b| b < b' ' && b != b'\n') {
        return Err(NoteError::Form("it holds control characters"));
    }
    let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::Form("it has no signature"))?;
    let text = format!("{text}\n");
    let signatures = signatures.strip_suffix('\n').ok_or(NoteError::Form("its last line is cut short"))?;
    for line in signatures.split('\n') {
        let (name, blob) = signature_line(line).ok_or(NoteError::Form("a signature line is damaged"))?;
        let Some((id, signature)) = blob.split_first_chunk::<4>() else {
            return Err(NoteError::Form("a signature is too short"));
        };
        if name == key.name && *id == key.id {
            each(&text, signature)?;
        }
    }
    Ok(text)
}

/// The line with the signature of the key in `vkey`, if that key signed the note.
pub(crate) fn verified_line(note: &str, vkey: &str) -> Result<String, NoteError> {
    let key = PublicKey::parse(vkey, TYPE_ED25519)?;
    let mut found = None;
    signatures(note, &key, |text, signature| {
        key.verify(text.as_bytes(), signature)?;
        found = Some(line(&key, signature));
        Ok(())
    })?;
    found.ok_or(NoteError::Unsigned(key.name))
}

/// A signature, of one key's, as a line of a note.
pub(crate) fn line(key: &PublicKey, signature: &[u8]) -> String {
    format!("{DASH}{} {}\n", key.name, BASE64.encode(&[&key.id, signature].concat()))
}

/// Whether a signer, and a log, may have this name: not empty, without spaces, `+` and control
/// characters.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c == '+' || c.is_whitespace() || c.is_control())
}

/// Whether a public key is one.
pub fn check_key(vkey: &str) -> Result<(), NoteError> {
    PublicKey::parse(vkey, TYPE_ED25519).map(drop)
}

/// The name in a public key.
pub(crate) fn name_of(vkey: &str) -> Result<String, NoteError> {
    PublicKey::parse(vkey, TYPE_ED25519).map(|key| key.name)
}

/// `NAME+HASH+KEY`.
pub(super) fn vkey(name: &str, public: &[u8; 32]) -> String {
    PublicKey::new(name, TYPE_ED25519, *public).vkey()
}

/// An Ed25519 key under a name, and what its signatures are over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    name: String,
    id: [u8; 4],
    kind: u8,
    bytes: [u8; 32],
}

impl PublicKey {
    pub(crate) fn new(name: &str, kind: u8, bytes: [u8; 32]) -> Self {
        let input = [name.as_bytes(), &[b'\n', kind], &bytes].concat();
        let id = digest(&SHA256, &input).as_ref().first_chunk().copied().unwrap_or_default();
        Self { name: name.to_owned(), id, kind, bytes }
    }

    /// One of this kind and no other: what it signs is told apart by it.
    pub(crate) fn parse(vkey: &str, kind: u8) -> Result<Self, NoteError> {
        let bad = || NoteError::Key(vkey.chars().take(200).collect());
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        let key = BASE64.decode(key.as_bytes()).map_err(|_| bad())?;
        let Some((of, Ok(bytes))) = key.split_first().map(|(of, key)| (*of, key.try_into())) else {
            return Err(bad());
        };
        let key = Self::new(name, kind, bytes);
        // Written again it must be the same: that checks the hash, too.
        if of != kind || !is_name(name) || key.vkey() != vkey {
            return Err(bad());
        }
        Ok(key)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `NAME+HASH+KEY`.
    pub(crate) fn vkey(&self) -> String {
        let key: Vec<u8> = [self.kind].iter().chain(&self.bytes).copied().collect();
        format!("{}+{}+{}", self.name, HEXLOWER.encode(&self.id), BASE64.encode(&key))
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), NoteError> {
        UnparsedPublicKey::new(&ED25519, &self.bytes)
            .verify(message, signature)
            .map_err(|_| NoteError::Signature(self.name.clone()))
    }
}

fn signature_line(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
    is_name(name).then_some(())?;
    Some((name, BASE64.decode(signature.as_bytes()).ok()?))
}
