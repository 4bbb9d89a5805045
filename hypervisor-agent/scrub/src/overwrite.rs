//! The work itself, whatever reaches the memory: look, pattern, read back, zero, read back.
//!
//! All stretches are written before the first is read, so that two that are one and the same memory, or a
//! cache that answers for it, show: each word's pattern depends on its place.

use crate::Failure;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Different from place to place.
    Pattern,
    /// Zeros.
    Zero,
}

/// A stretch of a device's memory.
pub trait Stretch {
    /// How long it is.
    fn bytes(&self) -> u64;
    /// Overwrites all of it.
    fn fill(&mut self, fill: Fill) -> Result<(), Failure>;
    /// Reads all of it, and counts the bytes that are not as [`Self::fill`] writes them.
    fn mismatches(&mut self, fill: Fill) -> Result<u64, Failure>;
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Not zero before.
    pub dirty_before: u64,
    /// Overwritten twice.
    pub written: u64,
    /// Read back right twice.
    pub verified: u64,
}

/// Overwrites and reads back all of it. `step` hears what begins.
pub fn overwrite(stretches: &mut [impl Stretch], step: &mut dyn FnMut(&str)) -> Result<Counts, Failure> {
    let mut counts = Counts::default();
    step("look");
    for stretch in &mut *stretches {
        counts.dirty_before += stretch.mismatches(Fill::Zero)?;
    }
    let mut wrong = 0_u64;
    for fill in [Fill::Pattern, Fill::Zero] {
        step(if fill == Fill::Pattern { "pattern" } else { "zero" });
        for stretch in &mut *stretches {
            stretch.fill(fill)?;
        }
        step("read");
        for stretch in &mut *stretches {
            wrong = wrong.saturating_add(stretch.mismatches(fill)?);
        }
    }
    counts.written = stretches.iter().map(Stretch::bytes).fold(0, u64::saturating_add);
    counts.verified = counts.written.saturating_sub(wrong);
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, rc::Rc};

    /// Bytes, some of which are stuck; two stretches may share them.
    struct Bytes {
        held: Rc<RefCell<Vec<u8>>>,
        stuck: Option<usize>,
        seed: u8,
    }

    impl Bytes {
        fn new(seed: u8, held: Vec<u8>) -> Self {
            Self { held: Rc::new(RefCell::new(held)), stuck: None, seed }
        }

        fn wanted(&self, fill: Fill, at: usize) -> u8 {
            if fill == Fill::Zero { 0 } else { (at as u8) ^ self.seed }
        }
    }

    impl Stretch for Bytes {
        fn bytes(&self) -> u64 {
            self.held.borrow().len() as u64
        }

        fn fill(&mut self, fill: Fill) -> Result<(), Failure> {
            let length = self.held.borrow().len();
            for at in 0..length {
                if self.stuck != Some(at) {
                    self.held.borrow_mut()[at] = self.wanted(fill, at);
                }
            }
            Ok(())
        }

        fn mismatches(&mut self, fill: Fill) -> Result<u64, Failure> {
            let held = self.held.borrow();
            Ok((0..held.len()).filter(|at| held[*at] != self.wanted(fill, *at)).count() as u64)
        }
    }

    #[test]
    fn all_is_overwritten_twice_and_read_twice() {
        let mut memory = [Bytes::new(0xa5, vec![1; 100]), Bytes::new(0x5a, vec![0; 50])];
        let mut steps = Vec::new();
        let counts = overwrite(&mut memory, &mut |step| steps.push(step.to_owned())).unwrap();
        assert_eq!(counts, Counts { dirty_before: 100, written: 150, verified: 150 });
        assert_eq!(steps, ["look", "pattern", "read", "zero", "read"]);
        assert!(memory.iter().all(|stretch| stretch.held.borrow().iter().all(|byte| *byte == 0)));
    }

    #[test]
    fn a_stuck_byte_shows_whatever_it_is_stuck_at() {
        // At zero it is right in the second pass and wrong in the first.
        for value in [0, 1, 0xff] {
            let mut memory = [Bytes::new(0xa5, vec![value; 64])];
            memory[0].stuck = Some(9);
            let counts = overwrite(&mut memory, &mut |_| {}).unwrap();
            assert!(counts.verified < counts.written, "{value}");
        }
    }

    #[test]
    fn memory_that_is_there_twice_shows() {
        let first = Bytes::new(0xa5, vec![0; 64]);
        let second = Bytes { held: Rc::clone(&first.held), stuck: None, seed: 0x5a };
        let counts = overwrite(&mut [first, second], &mut |_| {}).unwrap();
        assert_eq!((counts.written, counts.verified), (128, 64));
    }
}
