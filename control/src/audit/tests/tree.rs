//! Roots and proofs, against the recursion of RFC 6962 and against `ct-merkle`.

use super::*;
use crate::audit::tip::Tip;
use crate::audit::{Checkpoint, Hash, tree, verify};
use aws_lc_rs::digest::{Context, SHA256, digest};
use ct_merkle::digest::{FixedOutput, HashMarker, Output, OutputSizeUser, Update, consts::U32};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ct_merkle::{ConsistencyProof, InclusionProof, RootHash};
use proptest::prelude::*;
use std::convert::Infallible;

/// SHA-256 as `ct-merkle` wants it.
#[derive(Clone)]
struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}
impl HashMarker for Sha256 {}
impl OutputSizeUser for Sha256 {
    type OutputSize = U32;
}
impl Update for Sha256 {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}
impl FixedOutput for Sha256 {
    fn finalize_into(self, out: &mut Output<Self>) {
        out.copy_from_slice(self.0.finish().as_ref());
    }
}

type Oracle = MemoryBackedTree<Sha256, Vec<u8>>;

fn oracle(bodies: &[Vec<u8>]) -> Oracle {
    let mut tree = Oracle::new();
    bodies.iter().for_each(|body| tree.push(body.clone()));
    tree
}

fn root_of_oracle(oracle: &Oracle) -> Hash {
    oracle.root().as_bytes()[..].try_into().unwrap()
}

/// Of RFC 6962, section 2.1, word by word.
fn naive(bodies: &[Vec<u8>]) -> Hash {
    let input = match bodies {
        [] => vec![],
        [one] => [&[0], one.as_slice()].concat(),
        _ => {
            let mut k = 1;
            while k * 2 < bodies.len() {
                k *= 2;
            }
            [[1].as_slice(), &naive(&bodies[..k]), &naive(&bodies[k..])].concat()
        }
    };
    digest(&SHA256, &input).as_ref().try_into().unwrap()
}

fn head(log: &Log) -> Checkpoint {
    Checkpoint::verify(log.checkpoint(), &vkey()).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let small = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4);
    let large = (200_usize..600, any::<u8>()).prop_map(|(n, byte)| vec![vec![byte; 3]; n]);
    prop_oneof![
        4 => small.prop_map(Step::Append),
        1 => large.prop_map(Step::Append),
        2 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn however_it_grew_the_root_is_that_of_its_entries(steps in prop::collection::vec(step(), 1..10)) {
        let mut scratch = Scratch::new(0);
        let mut all: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Append(more) => {
                    scratch.log.append(&more).unwrap();
                    all.extend(more);
                }
                Step::Reopen => scratch = scratch.reopen(),
            }
            prop_assert_eq!(head(&scratch.log).size, all.len() as u64);
        }
        let oracle = oracle(&all);
        prop_assert_eq!(head(&scratch.log).root, naive(&all));
        prop_assert_eq!(head(&scratch.log).root, root_of_oracle(&oracle));
        let log = &scratch.reopen().log;
        prop_assert_eq!(log.read(0, log.size()).unwrap(), all.clone());

        // Every proof is the oracle's, and the verifier takes it.
        let now = head(log);
        for index in (0..all.len()).step_by(all.len() / 20 + 1) {
            let proof = log.inclusion(index as u64).unwrap();
            let theirs = oracle.prove_inclusion(index);
            prop_assert_eq!(proof.concat(), theirs.as_bytes());
            prop_assert!(verify::inclusion(&now, index as u64, &all[index], &proof).is_ok());
            prop_assert!(verify::inclusion(&now, index as u64, b"another", &proof).is_err());
            let old = Checkpoint { size: index as u64, root: naive(&all[..index]), ..now.clone() };
            let proof = log.consistency(old.size).unwrap();
            prop_assert!(verify::consistency(&old, &now, &proof).is_ok());
            if index > 0 {
                let theirs = oracle.prove_consistency(all.len() - index);
                prop_assert_eq!(proof.concat(), theirs.as_bytes());
            }
        }
    }

    #[test]
    fn any_part_of_a_log_is_read_as_it_was_written(start in 0_u64..700, length in 0_u64..700) {
        thread_local!(static LOG: Scratch = Scratch::new(700));
        LOG.with(|scratch| {
            let end = start + length;
            match scratch.log.read(start, end) {
                Ok(read) => assert_eq!(read, bodies(start, end)),
                Err(e) => assert!(end > 700, "{e}"),
            }
        });
    }
}

/// The hash over leaves `low` to `high`, for the provers.
fn subtree(leaves: &[Hash]) -> impl Fn(u64, u64) -> Result<Hash, Infallible> {
    |low, high| Ok(tree::root_of(&leaves[usize::try_from(low).unwrap()..usize::try_from(high).unwrap()]))
}

/// A hash with its first bit flipped.
fn other(hash: &Hash) -> Hash {
    let mut other = *hash;
    other[0] ^= 0x80;
    other
}

/// Proofs that are like this one and not it.
fn forgeries(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = vec![[proof, &[[7; 32]]].concat(), [&[[7; 32]], proof].concat()];
    for at in 0..proof.len() {
        let mut flipped = proof.to_vec();
        flipped[at] = other(&flipped[at]);
        let mut short = proof.to_vec();
        short.remove(at);
        let mut swapped = proof.to_vec();
        swapped.swap(at, 0);
        all.extend([flipped, short, swapped]);
    }
    all.retain(|forged| forged != proof);
    all
}

#[test]
fn inclusion_proofs_show_what_is_in_and_nothing_else() {
    let leaves: Vec<Hash> = (0..66_u8).map(|n| tree::leaf(&[n])).collect();
    for size in 1..=leaves.len() as u64 {
        let leaves = &leaves[..usize::try_from(size).unwrap()];
        let root = tree::root_of(leaves);
        for (index, leaf) in (0..).zip(leaves) {
            let Ok(proof) = tree::inclusion(index, size, subtree(leaves));
            assert!(tree::includes(index, size, *leaf, &proof, &root), "{index} of {size}");
            assert!(!tree::includes(index, size, other(leaf), &proof, &root));
            assert!(!tree::includes(index, size, *leaf, &proof, &other(&root)));
            for forged in forgeries(&proof) {
                assert!(!tree::includes(index, size, *leaf, &forged, &root), "{index} of {size}");
            }
            for wrong in (0..size + 2).filter(|wrong| *wrong != index) {
                assert!(!tree::includes(wrong, size, *leaf, &proof, &root), "{wrong} for {index} of {size}");
            }
        }
    }
    assert!(!tree::includes(0, 0, tree::leaf(b""), &[], &tree::empty()));
    assert!(!tree::includes(u64::MAX - 1, u64::MAX, tree::leaf(b""), &[], &tree::empty()));
}

#[test]
fn consistency_proofs_show_what_was_kept_and_nothing_else() {
    let leaves: Vec<Hash> = (0..40_u8).map(|n| tree::leaf(&[n])).collect();
    let root_at = |size: u64| tree::root_of(&leaves[..usize::try_from(size).unwrap()]);
    for size in 0..=leaves.len() as u64 {
        for old in 0..=size {
            let (was, is) = (root_at(old), root_at(size));
            let Ok(proof) = tree::consistency(old, size, subtree(&leaves));
            assert!(tree::extends(old, &was, size, &is, &proof), "{old} in {size}");
            assert!(!tree::extends(old, &other(&was), size, &is, &proof), "{old} in {size}");
            if old > 0 {
                // Of nothing everything is the continuation.
                assert!(!tree::extends(old, &was, size, &other(&is), &proof), "{old} in {size}");
            }
            for forged in forgeries(&proof) {
                assert!(!tree::extends(old, &was, size, &is, &forged), "{old} in {size}");
            }
            for wrong in (0..size + 2).filter(|wrong| *wrong != old) {
                assert!(!tree::extends(wrong, &was, size, &is, &proof), "{wrong} for {old} in {size}");
            }
            if old < size {
                assert!(!tree::extends(size, &is, old, &was, &proof));
            }
        }
    }
}

proptest! {
    /// Both sides accept what the other proves, and neither what it does not.
    #[test]
    fn our_verifier_and_the_oracle_agree(size in 1_usize..300, index: prop::sample::Index, junk: [u8; 32]) {
        let bodies: Vec<Vec<u8>> = (0..size).map(|n| n.to_be_bytes().to_vec()).collect();
        let leaves: Vec<Hash> = bodies.iter().map(|body| tree::leaf(body)).collect();
        let oracle = oracle(&bodies);
        let (root, at) = (root_of_oracle(&oracle), index.index(size));
        let Ok(proof) = tree::inclusion(at as u64, size as u64, subtree(&leaves));
        let theirs = InclusionProof::<Sha256>::try_from_bytes(proof.concat()).unwrap();
        prop_assert!(oracle.root().verify_inclusion(&bodies[at], at as u64, &theirs).is_ok());

        let mut forged = proof.clone();
        if let Some(hash) = forged.first_mut() {
            *hash = junk;
            let theirs = InclusionProof::<Sha256>::try_from_bytes(forged.concat()).unwrap();
            prop_assert!(oracle.root().verify_inclusion(&bodies[at], at as u64, &theirs).is_err());
            prop_assert!(!tree::includes(at as u64, size as u64, leaves[at], &forged, &root));
        }

        let old = at + 1;
        let Ok(proof) = tree::consistency(old as u64, size as u64, subtree(&leaves));
        let theirs = ConsistencyProof::<Sha256>::try_from_bytes(proof.concat()).unwrap();
        let old_root = naive(&bodies[..old]);
        let old_theirs = RootHash::<Sha256>::new(old_root.into(), old as u64);
        prop_assert!(oracle.root().verify_consistency(&old_theirs, &theirs).is_ok());
        prop_assert!(tree::extends(old as u64, &old_root, size as u64, &root, &proof));
    }
}

#[test]
fn three_levels_of_tiles_are_one_tree() {
    let mut tip = Tip::default();
    let mut oracle = Oracle::new();
    let mut full = Vec::new();
    for n in 0..65_536_u32 + 300 {
        tip.push(&n.to_be_bytes(), &mut full).unwrap();
        oracle.push(n.to_be_bytes().to_vec());
        if [255, 256, 65_535, 65_536].contains(&n) {
            assert_eq!(tip.root(), root_of_oracle(&oracle), "{n}");
        }
    }
    assert_eq!(tip.root(), root_of_oracle(&oracle));
    let paths: Vec<String> = tip.partial().iter().map(|(tile, _)| tile.path()).collect();
    assert_eq!(paths, ["tile/entries/257.p/44", "tile/0/257.p/44", "tile/1/001.p/1", "tile/2/000.p/1"]);
    assert_eq!(full.len(), 257 + 257 + 1);
}
