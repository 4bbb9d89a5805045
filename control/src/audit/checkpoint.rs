//! C2SP tlog-checkpoint: the head of the log as the text of a signed note. Pure.

use super::note::{self, NoteError};
use super::tree::Hash;
use data_encoding::BASE64;

/// The head of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, and the name of its key.
    pub origin: String,
    /// Entries in the log.
    pub size: u64,
    /// Of the Merkle tree over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The checkpoint in a note, if the key in `vkey` signed it and the log has the key's name.
    pub fn verify(note: &str, vkey: &str) -> Result<Self, NoteError> {
        let name = note::name_of(vkey)?;
        let text = note::verify(note, vkey)?;
        let checkpoint = Self::parse(&text)?;
        if checkpoint.origin != name {
            return Err(NoteError::Form("it is the checkpoint of another log"));
        }
        Ok(checkpoint)
    }

    /// The text that is signed.
    pub(crate) fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, NoteError> {
        let bad = NoteError::Form("its text is not that of a checkpoint");
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(bad);
        };
        let root = BASE64.decode(root.as_bytes()).ok().and_then(|root| root.try_into().ok());
        let (Ok(size), Some(root)) = (size.parse(), root) else { return Err(bad) };
        let checkpoint = Self { origin: origin.to_owned(), size, root };
        // Written again it must be the same: no leading zeroes, no extension lines, which nobody
        // could check.
        if !note::is_name(origin) || checkpoint.text() != text {
            return Err(bad);
        }
        Ok(checkpoint)
    }
}
