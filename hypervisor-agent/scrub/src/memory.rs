//! A stretch of a device's memory, mapped from its resource file, or by the agent through VFIO.
//!
//! Memory that vanishes under the reader ends the process by SIGBUS: no report, so nothing of that machine is
//! called clean.

#![allow(unsafe_code, reason = "device memory is mapped and read by address; each use says why it is sound")]

use crate::{
    Failure,
    overwrite::{Fill, Stretch},
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{
    ffi::c_void,
    io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

/// What a word holds in the pattern's pass, but for its place.
const PATTERN: u64 = 0x5ca1_ab1e_a5a5_5a5a;
/// In words for people.
pub const PATTERN_TEXT: &str = "0x5ca1ab1ea5a55a5a xor place of word, then zero";
/// How many words are read before they are looked at: wide enough that the loop is bound by the memory.
const WORDS_AT_ONCE: usize = 8;

/// Device memory that this process can read and write, until it is dropped. Every access is volatile.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    words: usize,
    /// Where its first word lies among all words of the device.
    place: u64,
}

impl Mapping {
    /// Maps `bytes` of a file from `offset` on. `before`: bytes of the device's memory in stretches before this one.
    pub fn new(file: impl AsFd, offset: u64, bytes: u64, before: u64) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        if length == 0 || !length.is_multiple_of(WORDS_AT_ONCE * size_of::<u64>()) {
            return Err(io::Error::other(format!("{bytes} bytes are no whole number of pages")));
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping where the kernel likes it; it aliases nothing of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, file, offset) }?;
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, words: length / size_of::<u64>(), place: before / size_of::<u64>() as u64 })
    }

    fn wanted(&self, fill: Fill, at: usize) -> u64 {
        match fill {
            Fill::Pattern => PATTERN ^ self.place.wrapping_add(at as u64),
            Fill::Zero => 0,
        }
    }
}

impl Stretch for Mapping {
    fn bytes(&self) -> u64 {
        (self.words * size_of::<u64>()) as u64
    }

    fn fill(&mut self, fill: Fill) -> Result<(), Failure> {
        let words = self.start.cast::<u64>().as_ptr();
        for at in 0..self.words {
            let word = self.wanted(fill, at);
            // SAFETY: `at` is below `words`; a mapping starts at a page.
            unsafe { words.add(at).write_volatile(word) };
        }
        // When this returns, the writes have left the processor.
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn mismatches(&mut self, fill: Fill) -> Result<u64, Failure> {
        let words = self.start.cast::<u64>().as_ptr();
        let mut wrong = 0;
        for at in (0..self.words).step_by(WORDS_AT_ONCE) {
            let mut chunk = [0u64; WORDS_AT_ONCE];
            for (ahead, word) in chunk.iter_mut().enumerate() {
                // SAFETY: `at + ahead` is below `words`, a multiple of the step; a mapping starts at a page.
                *word = unsafe { words.add(at + ahead).read_volatile() } ^ self.wanted(fill, at + ahead);
            }
            if chunk.iter().fold(0, |all, word| all | word) != 0 {
                wrong +=
                    chunk.iter().flat_map(|word| word.to_ne_bytes()).filter(|byte| *byte != 0).count() as u64;
            }
        }
        Ok(wrong)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and no pointer into it leaves this type.
        let _ = unsafe { munmap(self.start.as_ptr(), self.words * size_of::<u64>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn every_byte_counts() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        let mut memory = Mapping::new(&file, 0, 64 << 10, 0).unwrap();
        for at in [0, 7, 8, (64 << 10) - 1] {
            file.write_all_at(&[0x5a], at).unwrap();
        }
        assert_eq!(memory.mismatches(Fill::Zero), Ok(4));
        memory.fill(Fill::Pattern).unwrap();
        assert_eq!(memory.mismatches(Fill::Pattern), Ok(0));
        let mut words = [0; 16];
        file.read_exact_at(&mut words, 0).unwrap();
        assert_ne!(words[..8], words[8..], "no two words are alike");
        file.write_all_at(&[0, 0], 4095).unwrap();
        assert_eq!(memory.mismatches(Fill::Pattern), Ok(2));
        memory.fill(Fill::Zero).unwrap();
        assert_eq!(memory.mismatches(Fill::Zero), Ok(0));
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        for bytes in [0, 100, !4095] {
            assert!(Mapping::new(&file, 0, bytes, 0).is_err());
        }
    }
}
