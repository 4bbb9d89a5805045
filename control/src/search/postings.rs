//! Which of a part's 65,536 entries have a term: as bits, and as they are written. Pure.

use super::PART;

/// Bytes of all bits.
const BITS: usize = PART as usize / 8;

/// A set of entries of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Set(Vec<u64>);

impl Set {
    /// The first `count` entries.
    pub(super) fn first(count: usize) -> Self {
        let word = |at: usize| match count.saturating_sub(at * 64) {
            0 => 0,
            some @ 1..64 => (1 << some) - 1,
            _ => u64::MAX,
        };
        Self((0..BITS / 8).map(word).collect())
    }

    /// As it was written; `None` where nothing is written so.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() == BITS {
            return Some(Self(bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()));
        }
        let (places, []) = bytes.as_chunks() else { return None };
        Some(Self::of(places.iter().map(|place| u16::from_le_bytes(*place))))
    }

    /// Of these places.
    pub(super) fn of(places: impl IntoIterator<Item = u16>) -> Self {
        let mut set = Self(vec![0; BITS / 8]);
        for place in places {
            if let Some(word) = set.0.get_mut(usize::from(place) / 64) {
                *word |= 1 << (place % 64);
            }
        }
        set
    }

    /// What is in both.
    pub(super) fn and(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, other)| *mine &= other);
    }

    /// It has this place.
    pub(super) fn has(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// It has none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// Places, in order, as they are written: two bytes each, little-endian, or all bits where that is shorter.
pub(super) fn write(places: &[u16], out: &mut Vec<u8>) {
    if places.len() * 2 < BITS {
        out.extend(places.iter().flat_map(|place| place.to_le_bytes()));
    } else {
        out.extend(Set::of(places.iter().copied()).0.iter().flat_map(|word| word.to_le_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn places() -> impl Strategy<Value = Vec<u16>> {
        let step = prop_oneof![Just(1_u16), Just(3), Just(16), Just(17), Just(900)];
        step.prop_flat_map(|step| {
            proptest::collection::btree_set(0..=u16::MAX / step, 0..6000)
                .prop_map(move |set| set.into_iter().map(|place| place * step).collect())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read(some in places(), other in places()) {
            let mut bytes = Vec::new();
            write(&some, &mut bytes);
            prop_assert!(bytes.len() <= BITS);
            let mut set = Set::read(&bytes).unwrap();
            prop_assert_eq!(&set, &Set::of(some.iter().copied()));
            set.and(&Set::of(other.iter().copied()));
            let other: BTreeSet<u16> = other.into_iter().collect();
            let both: BTreeSet<u16> = some.into_iter().filter(|place| other.contains(place)).collect();
            prop_assert_eq!(set.is_empty(), both.is_empty());
            for place in 0..PART as usize {
                prop_assert_eq!(set.has(place), both.contains(&(place as u16)));
            }
        }

        #[test]
        fn the_first_are_the_first(count in 0_usize..=PART as usize) {
            let set = Set::first(count);
            prop_assert!(count == 0 || set.has(count - 1));
            prop_assert!(!set.has(count));
            prop_assert_eq!(set.0.iter().map(|word| word.count_ones() as usize).sum::<usize>(), count);
        }
    }

    #[test]
    fn odd_bytes_are_no_postings() {
        assert_eq!(Set::read(&[1, 2, 3]), None);
        assert!(Set::read(&[]).unwrap().is_empty());
    }
}
