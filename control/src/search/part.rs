//! A part of the index: the terms of 65,536 entries, in memory while they come, then as one file that never changes.
//!
//! ```text
//!   "holm index 1\n"
//!   the log's hash over these entries                                       32 bytes
//!   by bundle of 256 entries: their earliest and latest time                256 × 2 × 8 bytes, ms since 1970
//!   how many terms there are                                                4 bytes
//!   where each term begins, and where the last one ends, from here          (terms + 1) × 4 bytes
//!   each term, in order: bytes of its text (2 bytes), the text, postings
//!   CRC-32 of all that                                                      4 bytes
//! ```
//!
//! Numbers are little-endian. The log's hash is a node of its Merkle tree: a part of another log, or of other entries, is
//! found and made anew.

use super::postings::{self, Set};
use super::{BUNDLE, PART, terms};
use crate::audit::{Entry, Hash};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: &[u8] = b"holm index 1\n";
const BUNDLES: usize = (PART / BUNDLE) as usize;
const TIMES: usize = BUNDLES * 16;
const HEAD: usize = MAGIC.len() + size_of::<Hash>() + TIMES + 4;

/// The earliest and latest time of a bundle's entries, ms since 1970.
type Span = (i64, i64);

/// What a part knows.
pub(super) trait Part {
    /// How many entries.
    fn len(&self) -> usize;
    /// Of the bundle of 256 entries at this place.
    fn span(&self, bundle: usize) -> Span;
    /// Which entries have it; `None`: none.
    fn having(&self, term: &str) -> io::Result<Option<Set>>;
}

/// The newest part.
#[derive(Debug, Default)]
pub(super) struct Growing {
    len: usize,
    spans: Vec<Span>,
    terms: HashMap<String, Vec<u16>>,
}

impl Growing {
    /// The next entry.
    pub(super) fn add(&mut self, entry: &Entry) {
        let Ok(place) = u16::try_from(self.len) else { return };
        let time = entry.time.as_millisecond();
        match self.spans.get_mut(self.len / BUNDLE as usize) {
            Some(span) => *span = (span.0.min(time), span.1.max(time)),
            None => self.spans.push((time, time)),
        }
        terms::of(entry, &mut |term| {
            let places = self.terms.entry(term).or_default();
            if places.last() != Some(&place) {
                places.push(place);
            }
        });
        self.len += 1;
    }

    /// It takes no more.
    pub(super) const fn is_full(&self) -> bool {
        self.len as u64 == PART
    }

    /// Write it; `over` is the log's hash over its entries. What a kill leaves of that is no part.
    pub(super) fn write(&self, path: &Path, over: &Hash) -> io::Result<()> {
        let mut sorted: Vec<_> = self.terms.iter().collect();
        sorted.sort_unstable_by_key(|(term, _)| *term);
        let (mut starts, mut body) = (Vec::new(), Vec::new());
        for (term, places) in &sorted {
            starts.extend(narrow(body.len())?.to_le_bytes());
            let length = u16::try_from(term.len()).map_err(io::Error::other)?;
            body.extend(length.to_le_bytes());
            body.extend(term.as_bytes());
            postings::write(places, &mut body);
        }
        starts.extend(narrow(body.len())?.to_le_bytes());

        let mut bytes = MAGIC.to_vec();
        bytes.extend(over);
        let spans = (0..BUNDLES).map(|bundle| self.span(bundle));
        bytes.extend(spans.flat_map(|(first, last)| [first.to_le_bytes(), last.to_le_bytes()]).flatten());
        bytes.extend(narrow(sorted.len())?.to_le_bytes());
        bytes.extend(starts);
        bytes.extend(body);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        let beside = path.with_extension("new");
        fs::write(&beside, bytes)?;
        fs::rename(beside, path)
    }
}

impl Part for Growing {
    fn len(&self) -> usize {
        self.len
    }

    fn span(&self, bundle: usize) -> Span {
        self.spans.get(bundle).copied().unwrap_or((i64::MAX, i64::MIN))
    }

    fn having(&self, term: &str) -> io::Result<Option<Set>> {
        Ok(self.terms.get(term).map(|places| Set::of(places.iter().copied())))
    }
}

/// A full part, on disk.
#[derive(Debug)]
pub(super) struct Full {
    file: File,
    spans: Vec<Span>,
    terms: usize,
}

impl Full {
    /// The part in this file, if it is whole and of the entries that the log's hash is over.
    pub(super) fn open(path: &Path, over: &Hash) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it is no part of this log's index");
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(wrong)?;
        let rest = body.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(over)).ok_or_else(wrong)?;
        let (spans, rest) = rest.split_at_checked(TIMES).ok_or_else(wrong)?;
        let (terms, _) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(wrong());
        }
        let (pairs, _) = spans.as_chunks::<8>();
        let times: Vec<i64> = pairs.iter().map(|time| i64::from_le_bytes(*time)).collect();
        let spans = times.as_chunks::<2>().0.iter().map(|[first, last]| (*first, *last)).collect();
        Ok(Self { file: File::open(path)?, spans, terms: u32::from_le_bytes(*terms) as usize })
    }

    /// Where a term's text begins and its postings end.
    fn bounds(&self, term: usize) -> io::Result<(u64, u64)> {
        let mut two = [0; 8];
        self.file.read_exact_at(&mut two, (HEAD + term * 4) as u64)?;
        let base = (HEAD + (self.terms + 1) * 4) as u64;
        let at = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let (start, end) = two.split_at(4);
        Ok((base + at(start), base + at(end)))
    }

    /// A term's text, and its postings where they are wanted.
    fn term(&self, term: usize) -> io::Result<(Vec<u8>, std::ops::Range<u64>)> {
        let (start, end) = self.bounds(term)?;
        let mut length = [0; 2];
        self.file.read_exact_at(&mut length, start)?;
        let mut text = vec![0; usize::from(u16::from_le_bytes(length))];
        self.file.read_exact_at(&mut text, start + 2)?;
        let postings = start + 2 + text.len() as u64..end;
        Ok((text, postings))
    }
}

impl Part for Full {
    fn len(&self) -> usize {
        PART as usize
    }

    fn span(&self, bundle: usize) -> Span {
        self.spans.get(bundle).copied().unwrap_or((i64::MAX, i64::MIN))
    }

    fn having(&self, term: &str) -> io::Result<Option<Set>> {
        let (mut low, mut high) = (0, self.terms);
        while low < high {
            let middle = low.midpoint(high);
            let (text, postings) = self.term(middle)?;
            match text.as_slice().cmp(term.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let length = usize::try_from(postings.end - postings.start).map_err(io::Error::other)?;
                    let mut bytes = vec![0; length];
                    self.file.read_exact_at(&mut bytes, postings.start)?;
                    let set = Set::read(&bytes).ok_or(io::ErrorKind::InvalidData)?;
                    return Ok(Some(set));
                }
            }
        }
        Ok(None)
    }
}

fn narrow(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(io::Error::other)
}
