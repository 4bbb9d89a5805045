//! The Merkle tree of RFC 6962, section 2.1, over SHA-256: hashes, the right edge of a growing tree,
//! and proofs. Pure.

use aws_lc_rs::digest::{Context, SHA256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Hashes in a full tile, entries in a full bundle.
pub(super) const WIDTH: u64 = 256;

/// The right edge of a tree: all that appending needs to know of what is already there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edge {
    size: u64,
    /// By level, its partial tile: always of fewer hashes than [`WIDTH`].
    tiles: Vec<Row>,
}

/// A partial tile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    hashes: Vec<Hash>,
    /// The hashes over the largest full subtrees that these make up, from the left: one for each bit of their number. With
    /// them a root takes a hash for each, where it took one for each of [`Self::hashes`].
    peaks: Vec<Hash>,
}

impl Row {
    fn of(hashes: Vec<Hash>) -> Self {
        let mut row = Self::default();
        hashes.into_iter().for_each(|hash| row.push(hash));
        row
    }

    fn push(&mut self, hash: Hash) {
        self.hashes.push(hash);
        let mut over = hash;
        for _ in 0..self.hashes.len().trailing_zeros() {
            if let Some(left) = self.peaks.pop() {
                over = node(&left, &over);
            }
        }
        self.peaks.push(over);
    }
}

impl Edge {
    /// The edge of a tree of `size` leaves, from the hashes of its partial tiles, from the leaves up.
    pub(super) fn of(size: u64, tiles: Vec<Vec<Hash>>) -> Self {
        Self { size, tiles: tiles.into_iter().map(Row::of).collect() }
    }

    /// Leaves so far.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the partial tile of each level, from the leaves up. Some are empty.
    pub(super) fn partial(&self) -> impl Iterator<Item = (u8, &[Hash])> {
        (0u8..).zip(self.tiles.iter().map(|row| row.hashes.as_slice()))
    }

    /// Add a leaf; `full` gets each tile that it completes: level, index and hashes.
    pub(crate) fn push<E>(
        &mut self,
        leaf: Hash,
        full: impl FnMut(u8, u64, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.size += 1;
        self.push_at(0, leaf, full)
    }

    /// Add a full tile of leaves by the hash over them. So far all such tiles must be full.
    pub(super) fn push_tile<E>(
        &mut self,
        over: Hash,
        full: impl FnMut(u8, u64, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.size += WIDTH;
        self.push_at(1, over, full)
    }

    fn push_at<E>(
        &mut self,
        lowest: u8,
        mut hash: Hash,
        mut full: impl FnMut(u8, u64, &[Hash]) -> Result<(), E>,
    ) -> Result<(), E> {
        for level in lowest.. {
            let at = usize::from(level);
            if self.tiles.len() <= at {
                self.tiles.resize(at + 1, Row::default());
            }
            let Some(row) = self.tiles.get_mut(at) else { break };
            row.push(hash);
            if (row.hashes.len() as u64) < WIDTH {
                break;
            }
            full(level, (self.size >> (8 * (u32::from(level) + 1))) - 1, &row.hashes)?;
            row.hashes.clear();
            match row.peaks.pop() {
                Some(over) => hash = over,
                None => break,
            }
        }
        Ok(())
    }

    /// The root of the whole tree.
    pub(crate) fn root(&self) -> Hash {
        let peaks = self.tiles.iter().flat_map(|row| row.peaks.iter().rev());
        peaks.copied().reduce(|right, left| node(&left, &right)).unwrap_or_else(empty)
    }
}

/// The root of a tree without leaves.
pub(crate) fn empty() -> Hash {
    sha256(&[])
}

/// The hash of an entry.
pub(crate) fn leaf(body: &[u8]) -> Hash {
    sha256(&[&[0], body])
}

/// The hash over two subtrees.
pub(super) fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The root over subtrees of equal height, of which only the last may be incomplete.
pub(super) fn root_of(row: &[Hash]) -> Hash {
    match row {
        [] => empty(),
        [one] => *one,
        _ => {
            let (left, right) = row.split_at(split(row.len() as u64) as usize);
            node(&root_of(left), &root_of(right))
        }
    }
}

/// PATH of RFC 6962, section 2.1.1: proves leaf `index` in the tree of `size` leaves. `subtree`
/// gives the hash over the leaves from its first argument up to, without, its second.
pub(super) fn inclusion<E>(
    index: u64,
    size: u64,
    mut subtree: impl FnMut(u64, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    while high - low > 1 {
        let middle = low + split(high - low);
        if index < middle {
            proof.push(subtree(middle, high)?);
            high = middle;
        } else {
            proof.push(subtree(low, middle)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// PROOF of RFC 6962, section 2.1.2: proves that the tree of `size` leaves starts with the tree of
/// its first `old`. Empty where `old` is 0 or `size`.
pub(super) fn consistency<E>(
    old: u64,
    size: u64,
    mut subtree: impl FnMut(u64, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut low, mut high) = (0, size);
    let mut proof = Vec::new();
    if old == 0 {
        return Ok(proof);
    }
    while old < high {
        let middle = low + split(high - low);
        if old <= middle {
            proof.push(subtree(middle, high)?);
            high = middle;
        } else {
            proof.push(subtree(low, middle)?);
            low = middle;
        }
    }
    if low > 0 {
        proof.push(subtree(low, high)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that `leaf` is number `index` of the tree of `size` leaves with this root:
/// RFC 9162, section 2.1.3.2.
pub(super) fn includes(index: u64, size: u64, leaf: Hash, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            hash = node(sibling, &hash);
            // Up to where it is a right child again: there the last leaf's path has no sibling.
            while at % 2 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `size` leaves and this root starts with the tree of `old`
/// leaves and the old root: RFC 9162, section 2.1.4.2.
pub(crate) fn extends(old: u64, old_root: &Hash, size: u64, root: &Hash, proof: &[Hash]) -> bool {
    if old > size {
        return false;
    }
    if old == size || old == 0 {
        // Nothing to show: one tree, or the start of every tree.
        let start = if old == 0 { empty() } else { *root };
        return proof.is_empty() && *old_root == start && (size > 0 || *root == empty());
    }
    let mut rest = proof.iter();
    let (mut at, mut last) = (old - 1, size - 1);
    while at % 2 == 1 {
        at >>= 1;
        last >>= 1;
    }
    // A full subtree needs no proof of its own hash: it is the old root.
    let first = if old.is_power_of_two() { Some(old_root) } else { rest.next() };
    let Some(first) = first else { return false };
    let (mut old_hash, mut hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            old_hash = node(sibling, &old_hash);
            hash = node(sibling, &hash);
            while at % 2 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && hash == *root
}

/// The largest power of two below `size`, which is at least 2.
pub(super) const fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}
