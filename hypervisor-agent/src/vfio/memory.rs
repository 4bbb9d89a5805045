//! A stretch of a device's memory, mapped.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{
    ffi::c_void,
    io,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{Ordering, fence},
};

/// How many words are read before they are looked at: wide enough that the loop is bound by the memory.
const WORDS_AT_ONCE: usize = 8;

/// Device memory that this process can read and write, until it is dropped.
///
/// Every access is volatile: the compiler may neither drop a write because nothing seems to read it nor
/// answer a read with what was written before.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<c_void>,
    words: usize,
}

impl Mapping {
    /// Maps `bytes` of a file from `offset` on, for reading and writing. Both are whole pages.
    pub fn new(file: impl AsFd, offset: u64, bytes: u64) -> io::Result<Self> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        if length == 0 || !length.is_multiple_of(WORDS_AT_ONCE * size_of::<u64>()) {
            return Err(io::Error::other(format!("{bytes} bytes are no whole number of pages")));
        }
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping where the kernel likes it; it aliases nothing of ours.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, file, offset) }?;
        let start = NonNull::new(start).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, words: length / size_of::<u64>() })
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        (self.words * size_of::<u64>()) as u64
    }

    /// Reads all of it and counts the bytes that are not zero.
    pub fn count_nonzero(&self) -> u64 {
        let words = self.start.cast::<u64>().as_ptr();
        let mut nonzero = 0;
        for at in (0..self.words).step_by(WORDS_AT_ONCE) {
            let mut chunk = [0u64; WORDS_AT_ONCE];
            for (ahead, word) in chunk.iter_mut().enumerate() {
                // SAFETY: `at + ahead` is below `words`, a multiple of the step; a mapping starts at a page.
                *word = unsafe { words.add(at + ahead).read_volatile() };
            }
            if chunk.iter().fold(0, |all, word| all | word) != 0 {
                nonzero +=
                    chunk.iter().flat_map(|word| word.to_ne_bytes()).filter(|byte| *byte != 0).count() as u64;
            }
        }
        nonzero
    }

    /// Overwrites all of it with zeros. When it returns, the writes have left the processor.
    pub fn zero(&mut self) {
        let words = self.start.cast::<u64>().as_ptr();
        for at in 0..self.words {
            // SAFETY: `at` is below `words`; a mapping starts at a page.
            unsafe { words.add(at).write_volatile(0) };
        }
        fence(Ordering::SeqCst);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and no pointer into it leaves this type.
        if let Err(error) = unsafe { munmap(self.start.as_ptr(), self.words * size_of::<u64>()) } {
            tracing::error!(%error, "device memory stays mapped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use std::{fs::File, os::unix::fs::FileExt as _};

    fn file(bytes: u64) -> File {
        let file = File::from(memfd_create("memory", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn every_byte_is_counted_and_overwritten() {
        let file = file(3 << 20);
        let mut memory = Mapping::new(&file, 1 << 20, 1 << 20).unwrap();
        assert_eq!((memory.bytes(), memory.count_nonzero()), (1 << 20, 0));
        // The first and last byte, one across a word's border, and neighbours that are not ours.
        for at in [(1 << 20) - 1, 1 << 20, (1 << 20) + 7, (1 << 20) + 8, (2 << 20) - 1, 2 << 20] {
            file.write_all_at(&[0x5a], at).unwrap();
        }
        assert_eq!(memory.count_nonzero(), 4);
        memory.zero();
        assert_eq!(memory.count_nonzero(), 0);
        let mut all = vec![0; 3 << 20];
        file.read_exact_at(&mut all, 0).unwrap();
        let left: Vec<usize> =
            all.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
        assert_eq!(left, [(1 << 20) - 1, 2 << 20]);
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        let file = file(4096);
        assert!(Mapping::new(&file, 0, 0).is_err());
        assert!(Mapping::new(&file, 0, 100).is_err());
        assert!(Mapping::new(&file, 1, 4096).is_err());
        assert!(Mapping::new(File::open("/dev/null").unwrap(), 0, 4096).is_err());
        assert!(Mapping::new(&file, 0, !4095).is_err());
    }
}
