//! One bundle of entries after the other, each judged by itself and so by any thread, and handed on in the order of the log.
//! Only few wait at a time: however long the log is, this takes the same memory.

use super::files::Files;
use super::{VerifyError, understand};
use crate::audit::entry::Entry;
use crate::audit::expire::{self, Told};
use crate::audit::layout::{self, Tile};
use crate::audit::sample::{self, Step};
use crate::audit::tree::{self, Hash};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use std::sync::mpsc;
use std::{iter, thread};

/// Bundles that a thread may be ahead.
const AHEAD: usize = 2;

/// A bundle whose entries are where they say, and whose hashes are those in the tile over it; or that tile alone.
pub(super) struct Bundle<T> {
    pub(super) leaves: Vec<Hash>,
    /// The hash over all of them; where the bundle is full.
    pub(super) over: Option<Hash>,
    /// Of the first and the last entry.
    pub(super) times: [Option<Timestamp>; 2],
    /// Its entries are gone.
    pub(super) gone: bool,
    /// That entries may be.
    pub(super) told: Option<Told>,
    /// What its entries are to samples.
    pub(super) steps: Vec<(u64, Step)>,
    /// What was wanted of its entries.
    pub(super) picked: Vec<T>,
}

/// Judge the bundles of a log of `size` entries, of which the first `gone` are hashes alone, and `take` them.
pub(super) fn in_order<T: Send, C: DeserializeOwned>(
    files: &Files<'_>,
    size: u64,
    gone: u64,
    pick: &(impl Fn(&Entry<C>) -> Option<T> + Sync),
    mut take: impl FnMut(Bundle<T>) -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let bundles = |first| (first..).step_by(threads).map_while(|index| Tile::entries(index as u64, size));
    thread::scope(|scope| {
        let ahead: Vec<_> = (0..threads)
            .filter(|first| bundles(*first).next().is_some())
            .map(|first| {
                let (send, receive) = mpsc::sync_channel(AHEAD);
                // One that is waited for no longer ends when it hands on the next.
                scope.spawn(move || {
                    bundles(first)
                        .try_for_each(|tile| send.send(judge(files, gone, tile, pick)).map_err(drop))
                });
                receive
            })
            .collect();
        // In turn they come in order; the first turn with nothing to hand on is the end.
        let judged = ahead.iter().cycle().map_while(|thread| thread.recv().ok());
        for bundle in judged {
            take(bundle?)?;
        }
        Ok(())
    })
}

fn judge<T, C: DeserializeOwned>(
    files: &Files<'_>,
    gone: u64,
    tile: Tile,
    pick: &impl Fn(&Entry<C>) -> Option<T>,
) -> Result<Bundle<T>, VerifyError> {
    if tile.entry(0) < gone {
        return judge_hashes(files, tile.over_entries());
    }
    let bytes = files.take(&tile.path(), tile.limit())?;
    let (bodies, whole) = layout::entries_of(&bytes);
    let (first, expected) = (tile.entry(0), tile.width());
    if !whole || bodies.len() as u64 != expected {
        return Err(VerifyError::Bundle { file: tile.path(), first, expected });
    }
    let leaves: Vec<Hash> = bodies.iter().map(|body| tree::leaf(body)).collect();
    files.compare(tile.over_entries(), &leaves.concat())?;
    let mut times = [None; 2];
    let (mut told, mut steps, mut picked) = (None, Vec::new(), Vec::new());
    for (index, body) in iter::zip(first.., &bodies) {
        let entry = understand(index, body)?;
        times = [times[0].or(Some(entry.time)), Some(entry.time)];
        told = told.max(expire::told(&entry));
        steps.extend(sample::step(&entry).map(|step| (index, step)));
        picked.extend(pick(&entry));
    }
    let over = (!tile.is_partial()).then(|| tree::root_of(&leaves));
    Ok(Bundle { leaves, over, times, gone: false, told, steps, picked })
}

/// A full tile in the place of its entries. What the hashes are the tiles above it say, up to the root.
fn judge_hashes<T>(files: &Files<'_>, tile: Tile) -> Result<Bundle<T>, VerifyError> {
    let bytes = files.take(&tile.path(), tile.limit())?;
    if bytes.len() as u64 != tile.limit() {
        return Err(VerifyError::Length { file: tile.path(), expected: tile.limit() });
    }
    let leaves = layout::hashes_of(&bytes);
    let over = Some(tree::root_of(&leaves));
    let (steps, picked) = (Vec::new(), Vec::new());
    Ok(Bundle { leaves, over, times: [None; 2], gone: true, told: None, steps, picked })
}
