//! What was appended and does not lie in the log's directory yet: one file beside it, which has its whole length from the
//! start and is written over in place, so that one sync of its data makes an append durable.
//!
//! ```text
//!   LOG.journal   records, each at a multiple of 4096 bytes, so that none is written over the end of another
//!
//!   0   8  magic, the first byte of which is in no entry: JSON is UTF-8
//!   8   4  CRC-32 of all that follows, with the zeroes that fill the last 4096 bytes
//!   12  4  length of what follows the head                                   integers are big-endian
//!   16  8  index of the first entry
//!   24  4  how many entries
//!   28  4  length of the checkpoint
//!   32  …  entries, each with its length in 16 bits; the checkpoint that is signed over all up to them
//! ```
//!
//! It is written round and round: what lies in the log's directory is written over. Until then it stays, and is told by its
//! index: a log only grows.

use super::checkpoint::Checkpoint;
use super::disk::{Disk, DiskError};
use super::layout;
use super::tip::{Part, Tip};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Of the file. A benchmark with 64 callers fills half of it in a quarter of a second.
pub(super) const SIZE: u64 = if cfg!(test) { 128 << 10 } else { 8 << 20 };

const MAGIC: [u8; 8] = *b"\xffholmj1\n";
const HEAD: usize = 32;
/// What a disk writes at once at most: what is torn is torn here.
const BLOCK: usize = 4096;

/// Entries that were appended together.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    first: u64,
    count: u64,
    /// As in a bundle.
    entries: &'a [u8],
    note: &'a [u8],
    /// Bytes in the file.
    length: usize,
}

impl<'a> Record<'a> {
    /// One past its last entry.
    const fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }

    /// The one that begins here; `None` where none does, or it is torn.
    fn at(bytes: &'a [u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let body = number(12)? as usize;
        let length = HEAD.checked_add(body)?.checked_next_multiple_of(BLOCK)?;
        if crc32fast::hash(bytes.get(12..length)?) != number(8)? {
            return None;
        }
        let first = u64::from_be_bytes(*bytes.get(16..)?.first_chunk()?);
        let content = bytes.get(HEAD..HEAD + body)?;
        let (entries, note) = content.split_at_checked(body.checked_sub(number(28)? as usize)?)?;
        Some(Self { first, count: number(24)?.into(), entries, note, length })
    }
}

/// Push on the tip what the journal has behind it, and give what becomes full. Only a last record may be torn: nobody was
/// told that it is durable. Why it does not fit, if it does not.
pub(super) fn replay(
    bytes: &[u8],
    vkey: &str,
    tip: &mut Tip,
    note: &mut String,
) -> Result<Vec<Part>, String> {
    let mut full = Vec::new();
    for record in records(bytes) {
        // It lies in the directory, or is there twice.
        if record.end() <= tip.size() {
            continue;
        }
        let what = format!("its record of entries {} to {}", record.first, record.end());
        if record.first != tip.size() {
            let there = tip.size();
            return Err(format!(
                "{what} is whole and does not follow what is there, which is {there} entries: what was before it is \
                 damaged or missing"
            ));
        }
        let damaged = || format!("{what} was changed");
        let (bodies, whole) = layout::entries_of(record.entries);
        if !whole || bodies.len() as u64 != record.count {
            return Err(damaged());
        }
        for body in bodies {
            tip.push(body, &mut full).map_err(|_| damaged())?;
        }
        let signed = std::str::from_utf8(record.note).map_err(|_| damaged())?;
        let head = Checkpoint::verify(signed, vkey).map_err(|why| format!("of {what}, {why}"))?;
        if (head.size, head.root) != (tip.size(), tip.root()) {
            return Err(format!("{what} holds other entries than were signed"));
        }
        signed.clone_into(note);
    }
    Ok(full)
}

/// The bytes of a record; `None` where so much cannot be counted.
pub(super) fn record(first: u64, bodies: &[Vec<u8>], note: &str) -> Option<Vec<u8>> {
    let length = HEAD + bodies.iter().map(|body| 2 + body.len()).sum::<usize>() + note.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(BLOCK));
    bytes.extend(MAGIC);
    bytes.extend([0; 4]);
    bytes.extend(u32::try_from(length - HEAD).ok()?.to_be_bytes());
    bytes.extend(first.to_be_bytes());
    bytes.extend(u32::try_from(bodies.len()).ok()?.to_be_bytes());
    bytes.extend(u32::try_from(note.len()).ok()?.to_be_bytes());
    if !bodies.iter().all(|body| layout::add_entry(&mut bytes, body)) {
        return None;
    }
    bytes.extend(note.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    let checksum = crc32fast::hash(bytes.get(12..)?);
    bytes.get_mut(8..12)?.copy_from_slice(&checksum.to_be_bytes());
    Some(bytes)
}

/// All that are whole, wherever they lie, in the order in which they were written.
fn records(bytes: &[u8]) -> Vec<Record<'_>> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let record = bytes.get(at..).and_then(Record::at);
        at += record.map_or(BLOCK, |record| record.length);
        all.extend(record);
    }
    all.sort_by_key(|record| (record.first, record.end()));
    all
}

/// The file, for its one writer. Places in it are counted on when it is written from its beginning again.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// From here on it is of use.
    begin: u64,
    end: u64,
}

impl Journal {
    /// To be written from its beginning: all that it holds lies in the log's directory. Where there is none of the right
    /// length, it is made, and filled: a block that was only set aside would be marked as written with its first write, and
    /// that would be one more thing to sync.
    pub(super) fn open(disk: &Disk) -> Result<Self, DiskError> {
        let file = disk.beside(SUFFIX, SIZE)?;
        Ok(Self { file, begin: 0, end: 0 })
    }

    /// Whether a record of so many bytes has room.
    pub(super) const fn fits(&self, length: usize) -> bool {
        self.place(length).saturating_add(length as u64) <= self.begin + SIZE
    }

    /// More than half of it is in use, when what it holds up to here is not.
    pub(super) fn is_half_full(&self, upto: u64) -> bool {
        self.end - self.begin.max(upto) > SIZE / 2
    }

    /// Where what is written next begins, or what was before.
    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    /// Durable when it returns. Where it fails it may be durable all the same, and the same must be written again.
    pub(super) fn write(&mut self, disk: &Disk, record: &[u8]) -> Result<(), DiskError> {
        let (path, at) = (disk.path_beside(SUFFIX), self.place(record.len()));
        disk.act("write", &path, || self.file.write_all_at(record, at % SIZE))?;
        disk.act("sync", &path, || self.file.sync_data())?;
        self.end = at + record.len() as u64;
        Ok(())
    }

    /// What it holds up to here is of no more use.
    pub(super) fn release(&mut self, upto: u64) {
        self.begin = self.begin.max(upto);
        if self.begin == self.end {
            (self.begin, self.end) = (self.end.next_multiple_of(SIZE), self.end.next_multiple_of(SIZE));
        }
    }

    /// No record is cut in two by the file's end.
    const fn place(&self, length: usize) -> u64 {
        match length as u64 > SIZE - self.end % SIZE {
            true => self.end.next_multiple_of(SIZE),
            false => self.end,
        }
    }
}

/// After the name of the log's directory.
pub(super) const SUFFIX: &str = ".journal";
