//! The growing end of a log: the edge of its tree and its last, partial bundle of entries. Pure: says
//! what files there must be, and leaves reading and writing them to others.

use super::entry::MAX_ENTRY;
use super::layout::{self, Tile};
use super::tree::{self, Edge, Hash, WIDTH};
use std::convert::Infallible;
use std::sync::Arc;

/// A tile, or bundle, and its bytes.
pub(super) type Part = (Tile, Vec<u8>);

/// Everything that appending, or checking, needs to know of what is already there.
#[derive(Debug, Clone, Default)]
pub(super) struct Tip {
    edge: Edge,
    /// Entries of the last bundle. Each view of the log has them, and a view is made with each append.
    bundle: Vec<Arc<[u8]>>,
}

/// The bytes of an entry that is longer than [`MAX_ENTRY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong(pub usize);

impl Tip {
    /// Of these the entries must be those that the edge's leaves stand for.
    pub(super) fn of(edge: Edge, entries: &[&[u8]]) -> Self {
        Self { edge, bundle: entries.iter().map(|body| Arc::from(*body)).collect() }
    }

    /// Entries so far.
    pub(super) const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The root over all of them.
    pub(super) fn root(&self) -> Hash {
        self.edge.root()
    }

    /// The hashes of the partial tile of `level`.
    pub(super) fn row(&self, level: u8) -> &[Hash] {
        self.edge.partial().find(|(at, _)| *at == level).map_or(&[], |(_, row)| row)
    }

    /// The entries of the partial bundle.
    pub(super) fn entries(&self) -> Vec<&[u8]> {
        self.bundle.iter().map(|body| &**body).collect()
    }

    /// Add an entry; `full` gets what it completes. Nothing is added where it is too long.
    pub(super) fn push(&mut self, body: &[u8], full: &mut Vec<Part>) -> Result<(), TooLong> {
        if body.len() > MAX_ENTRY {
            return Err(TooLong(body.len()));
        }
        self.bundle.push(body.into());
        let size = self.edge.size() + 1;
        if size.is_multiple_of(WIDTH) {
            let bundle = layout::bundle_of(&std::mem::take(&mut self.bundle));
            full.extend(Tile::entries(size / WIDTH - 1, size).map(|tile| (tile, bundle)));
        }
        let Ok(()) = self.edge.push::<Infallible>(tree::leaf(body), |level, index, row| {
            full.extend(Tile::hashes(level, index, size).map(|tile| (tile, row.concat())));
            Ok(())
        });
        Ok(())
    }

    /// What is not full yet: the bundle, then the tiles from the leaves up.
    pub(super) fn partial(&self) -> Vec<Part> {
        let size = self.size();
        let bundle = Tile::entries(size / WIDTH, size).map(|tile| (tile, layout::bundle_of(&self.bundle)));
        bundle.into_iter().chain(partial_tiles(&self.edge)).collect()
    }
}

/// The partial tiles of an edge, from the leaves up.
pub(super) fn partial_tiles(edge: &Edge) -> impl Iterator<Item = Part> {
    let size = edge.size();
    edge.partial().filter_map(move |(level, row)| {
        let index = size.checked_shr(8 * (u32::from(level) + 1)).unwrap_or(0);
        Tile::hashes(level, index, size).map(|tile| (tile, row.concat()))
    })
}
