//! Some entries of a log, each with the proof that it is one: for who needs these and may not have the others.
//!
//! ```text
//!   {"v":1,"checkpoint":"holm.example/log\n217\n…","key":"holm.example/log+1a2b3c4d+AY…"}
//!   {"index":17,"proof":["mK2…","9hQ…"],"entry":{"v":1,"index":17,…}}
//!   {"index":63,"proof":[…],"entry":{…}}
//! ```
//!
//! JSON lines. A proof is the audit path of RFC 6962, section 2.1.1, from the entry up, in base64; the leaf is the text
//! behind `"entry":`, byte for byte, up to the line's last brace. What is there was logged so, and nothing is said of what is
//! not there.

use super::checkpoint::Checkpoint;
use super::entry::Entry;
use super::note::NoteError;
use super::tree::Hash;
use super::verify;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::io::{self, BufRead, Write};

/// Bytes of a line: an entry of 64 KiB, and a proof in a tree of 2^64.
const LINE: u64 = 128 * 1024;

/// Why it is no proof.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ProvenError {
    #[error("it cannot be read or written")]
    Io(#[from] io::Error),
    #[error("line {0} has more bytes than any entry with its proof")]
    Long(u64),
    #[error("line {line} cannot be read")]
    Form { line: u64, source: serde_json::Error },
    #[error("it is of another form than version 1")]
    Version,
    #[error("its checkpoint is not to be believed")]
    Checkpoint(#[from] NoteError),
    #[error("it names another key than the one to verify with")]
    Key,
    #[error("entry {0} is not proven: it, its number or its proof was changed")]
    Entry(u64),
    #[error("entry {0} stands after one that comes later in the log, or stands there twice")]
    Order(u64),
    #[error("entry {0} has white space that none that was logged has")]
    Space(u64),
}

/// What was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The log that they are of.
    pub head: Checkpoint,
    /// How many entries.
    pub entries: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head<'a> {
    v: u32,
    checkpoint: std::borrow::Cow<'a, str>,
    key: std::borrow::Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    index: u64,
    proof: Vec<String>,
    #[serde(borrow)]
    entry: &'a RawValue,
}

/// Writes entries, in the order of the log, each checked before it is written.
pub struct Writer<W> {
    out: W,
    head: Checkpoint,
    next: u64,
    count: u64,
}

impl<W: Write> Writer<W> {
    /// Begin, under a checkpoint that the key in `vkey` signed.
    pub fn new(mut out: W, note: &str, vkey: &str) -> Result<Self, ProvenError> {
        let head = Checkpoint::verify(note, vkey)?;
        let first = Head { v: 1, checkpoint: note.into(), key: vkey.into() };
        serde_json::to_writer(&mut out, &first).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        Ok(Self { out, head, next: 0, count: 0 })
    }

    /// The next entry.
    pub fn push(&mut self, index: u64, body: &[u8], proof: &[Hash]) -> Result<(), ProvenError> {
        if index < self.next {
            return Err(ProvenError::Order(index));
        }
        verify::inclusion(&self.head, index, body, proof).map_err(|_| ProvenError::Entry(index))?;
        let failed = |source| ProvenError::Form { line: self.count + 2, source };
        let entry: &RawValue = serde_json::from_slice(body).map_err(failed)?;
        if body.contains(&b'\n') || entry.get().len() != body.len() {
            return Err(ProvenError::Space(index));
        }
        let proof = proof.iter().map(|hash| BASE64.encode(hash)).collect();
        serde_json::to_writer(&mut self.out, &Line { index, proof, entry }).map_err(io::Error::from)?;
        self.out.write_all(b"\n")?;
        (self.next, self.count) = (index + 1, self.count + 1);
        Ok(())
    }

    /// What was written.
    pub fn finish(mut self) -> Result<Proven, ProvenError> {
        self.out.flush()?;
        Ok(Proven { head: self.head, entries: self.count })
    }
}

/// Verify, and tell each entry, which counts for nothing until all is verified.
pub fn verify(
    mut from: impl BufRead,
    vkey: &str,
    mut seen: impl FnMut(&Entry),
) -> Result<Proven, ProvenError> {
    let (mut line, mut number) = (Vec::new(), 0);
    let mut proven: Option<Proven> = None;
    let mut next = 0;
    loop {
        line.clear();
        number += 1;
        let read = io::Read::take(&mut from, LINE).read_until(b'\n', &mut line)?;
        match line.pop() {
            None => break,
            Some(b'\n') => {}
            Some(_) if read as u64 == LINE => return Err(ProvenError::Long(number)),
            Some(last) => line.push(last),
        }
        let form = |source| ProvenError::Form { line: number, source };
        let Some(proven) = &mut proven else {
            let head: Head<'_> = serde_json::from_slice(&line).map_err(form)?;
            if head.v != 1 {
                return Err(ProvenError::Version);
            }
            if head.key != vkey {
                return Err(ProvenError::Key);
            }
            proven = Some(Proven { head: Checkpoint::verify(&head.checkpoint, vkey)?, entries: 0 });
            continue;
        };
        let one: Line<'_> = serde_json::from_slice(&line).map_err(form)?;
        let index = one.index;
        let hash = |text: &String| BASE64.decode(text.as_bytes()).ok()?.try_into().ok();
        let proof: Option<Vec<Hash>> = one.proof.iter().map(hash).collect();
        let body = one.entry.get().as_bytes();
        proof
            .and_then(|proof| verify::inclusion(&proven.head, index, body, &proof).ok())
            .ok_or(ProvenError::Entry(index))?;
        if index < next {
            return Err(ProvenError::Order(index));
        }
        let entry = Entry::from_bytes(body).map_err(form)?;
        if entry.index != index {
            return Err(ProvenError::Entry(index));
        }
        seen(&entry);
        next = index + 1;
        proven.entries += 1;
    }
    proven.ok_or(ProvenError::Version)
}
