//! The table against what the vendor's guide says of it, the choice against a brute force that shares no code
//! with it.

use super::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};

const TABLE: PartitionTable = PartitionTable::dgx2();

fn set(ids: &[u32]) -> BTreeSet<u32> {
    ids.iter().copied().collect()
}

/// Bit n is GPU n + 1; every subset of 16 GPUs is a number below 65,536.
fn occupied(state: u32) -> BTreeSet<u32> {
    (1..=16).filter(|id| state >> (id - 1) & 1 == 1).collect()
}

fn bits(gpus: &[u32]) -> u32 {
    gpus.iter().map(|id| 1 << (id - 1)).sum()
}

/// (id, size, bits)
fn plain() -> Vec<(u32, usize, u32)> {
    TABLE.partitions().map(|p| (p.id(), p.gpus().len(), bits(p.gpus()))).collect()
}

#[test]
fn the_table_is_whole() {
    assert_eq!(TABLE.platform(), "dgx-2");
    assert_eq!(PartitionTable::of("dgx-2"), Some(TABLE));
    assert_eq!(PartitionTable::of("dgx-3"), None);
    assert_eq!(TABLE.physical_ids().collect::<Vec<_>>(), (1..=16).collect::<Vec<_>>());
    assert_eq!(TABLE.sizes(), [1, 2, 4, 8, 16]);
    let ids: Vec<u32> = TABLE.partitions().map(Partition::id).collect();
    assert_eq!(ids, (0..=32).collect::<Vec<_>>());
    for p in TABLE.partitions() {
        assert!(p.gpus().is_sorted() && set(p.gpus()).len() == p.gpus().len(), "{p:?}");
        assert_eq!(p.size(), p.mask().count_ones(), "{p:?}");
        assert_eq!(TABLE.members(p.id()), p.gpus());
    }
    assert!(TABLE.members(33).is_empty() && TABLE.get(u32::MAX).is_none());
}

#[test]
fn sizes_cover_every_gpu() {
    let mut by_size: BTreeMap<u32, Vec<&Partition>> = BTreeMap::new();
    TABLE.partitions().for_each(|p| by_size.entry(p.size()).or_default().push(p));
    let ids = |size: u32| by_size[&size].iter().map(|p| p.id()).collect::<Vec<_>>();
    assert_eq!(ids(16), [0]);
    assert_eq!(ids(8), [1, 2, 3, 4]);
    assert_eq!(ids(4), [5, 6, 7, 8]);
    assert_eq!(ids(2), (9..=16).collect::<Vec<_>>());
    assert_eq!(ids(1), (17..=32).collect::<Vec<_>>());
    // Once for each size; eights come twice, by board and across.
    for (size, partitions) in by_size {
        for gpu in 1..=16 {
            let times = partitions.iter().filter(|p| p.gpus().contains(&gpu)).count();
            assert_eq!(times, if size == 8 { 2 } else { 1 }, "GPU {gpu} in size {size}");
        }
    }
}

#[test]
fn smaller_partitions_lie_inside_larger_ones() {
    for p in TABLE.partitions() {
        let links = match p.id() {
            0..=2 => 6,
            3..=16 => 5,
            _ => 0,
        };
        assert_eq!(p.links(), links);
        for q in TABLE.partitions().filter(|q| q.size() < p.size()) {
            let shared = p.mask() & q.mask();
            assert!(shared == 0 || shared == q.mask(), "{q:?} is torn by {p:?}");
        }
    }
    for id in 1..=16 {
        assert_eq!(TABLE.members(id + 16), [id]);
    }
    for (whole, halves) in [(0, [1, 2]), (0, [3, 4]), (1, [5, 6]), (2, [7, 8]), (3, [5, 7]), (4, [6, 8])] {
        let both: BTreeSet<u32> = halves.iter().flat_map(|id| TABLE.members(*id)).copied().collect();
        assert_eq!(both, set(TABLE.members(whole)));
    }
}

/// Every state in which partitions that share no GPU are active, found by activating them one by one.
fn reachable() -> HashSet<u32> {
    let (mut seen, mut next) = (HashSet::from([0]), vec![0]);
    while let Some(state) = next.pop() {
        for (_, _, mask) in plain() {
            if state & mask == 0 && seen.insert(state | mask) {
                next.push(state | mask);
            }
        }
    }
    seen
}

#[test]
fn the_choice_is_the_brute_force_s_in_every_state() {
    let table = plain();
    let states = reachable();
    assert_eq!(states.len(), 1 << 16, "singles make every set of GPUs reachable");
    for state in states {
        let busy = occupied(state);
        for size in [1_usize, 2, 4, 8, 16] {
            // What is left of each size, the largest first, after each choice there is.
            let left = |mask: u32| -> [usize; 5] {
                [16, 8, 4, 2, 1]
                    .map(|s| table.iter().filter(|p| p.1 == s && p.2 & (state | mask) == 0).count())
            };
            let choices: Vec<_> =
                table.iter().filter(|p| p.1 == size && p.2 & state == 0).map(|p| (left(p.2), p.0)).collect();
            let best = choices.iter().map(|(left, _)| left).max();
            let lowest = choices.iter().find(|(left, _)| Some(left) == best).map(|(_, id)| *id);
            match choose(&TABLE, &busy, u32::try_from(size).unwrap()) {
                Ok(id) => assert_eq!(Some(id), lowest, "{size} with {busy:?}"),
                Err(Refusal::Full { largest_free, .. }) => {
                    assert_eq!(lowest, None, "{size} with {busy:?}");
                    let largest = table.iter().filter(|p| p.2 & state == 0).map(|p| p.1).max();
                    assert_eq!(largest_free.map(|n| n as usize), largest);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn small_slices_gather_where_they_spoil_least() {
    let mut busy = BTreeSet::new();
    let mut taken = Vec::new();
    for gpus in [1, 1, 2, 4, 8] {
        let id = choose(&TABLE, &busy, gpus).unwrap();
        busy.extend(TABLE.members(id));
        taken.push(id);
    }
    // GPU 1, its partner 4, the pair beside them, the four beside those, and the other board is still whole.
    assert_eq!(taken, [17, 20, 12, 6, 2]);
    assert_eq!(busy.len(), 16);
    assert_eq!(choose(&TABLE, &busy, 1).unwrap_err().to_string(), "no GPU is free");
}

#[test]
fn a_slice_across_the_boards_where_one_board_is_broken_into() {
    // GPU 2 and GPU 10 are in quarantine: no board is whole, the other half of both still is an eight.
    assert_eq!(choose(&TABLE, &set(&[2, 10]), 8), Ok(3));
    let refusal = choose(&TABLE, &set(&[2, 9]), 8).unwrap_err();
    assert_eq!(refusal, Refusal::Full { asked: 8, largest_free: Some(4) });
    assert_eq!(refusal.to_string(), "no 8 GPUs are free together: at most 4 are");
}

#[test]
fn what_is_not_offered_is_refused_in_words() {
    for (asked, next_larger, text) in [
        (0, Some(1), "a slice has at least 1 GPU: ask for 1, 2, 4, 8 or 16"),
        (3, Some(4), "a slice has 1, 2, 4, 8 or 16 GPUs: 3 is not offered, ask for 4"),
        (5, Some(8), "a slice has 1, 2, 4, 8 or 16 GPUs: 5 is not offered, ask for 8"),
        (15, Some(16), "a slice has 1, 2, 4, 8 or 16 GPUs: 15 is not offered, ask for 16"),
        (17, None, "the host has 16 GPUs: 17 is not offered, ask for 1, 2, 4, 8 or 16"),
        (u32::MAX, None, "the host has 16 GPUs: 4294967295 is not offered, ask for 1, 2, 4, 8 or 16"),
    ] {
        // Whether or not anything is free.
        for busy in [BTreeSet::new(), (1..=16).collect()] {
            let refusal = choose(&TABLE, &busy, asked).unwrap_err();
            assert_eq!(refusal, Refusal::NoSuchSize { asked, offered: vec![1, 2, 4, 8, 16], next_larger });
            assert_eq!(refusal.to_string(), text);
        }
    }
}

#[test]
fn ids_that_no_gpu_has_are_passed_over() {
    assert_eq!(choose(&TABLE, &set(&[0, 17, 63, 64, u32::MAX]), 16), Ok(0));
}
