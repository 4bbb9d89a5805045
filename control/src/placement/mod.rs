//! Where a slice is put: which fabric partition ([`choose`]), which cores, memory and disk of which host
//! ([`search`]), and whose turn it is ([`queue`]). Pure: what is occupied and what time it is are arguments.
//!
//! GPUs of one slice reach each other only inside a partition that the fabric knows, so a slice is given a
//! partition of its size, never just so many GPUs. Partitions overlap, and one that is taken spoils every
//! other it shares a GPU with:
//!
//! ```text
//!   GPU       1 4  6 7  2 3  5 8    9 12  14 15  10 11  13 16
//!   16       └──────────────────────── 0 ────────────────────┘
//!    8       └──────── 1 ────────┘  └────────── 2 ───────────┘
//!    8       └─── 3 ──┘             └──── 3 ────┘
//!    8                 └─── 4 ───┘                └──── 4 ────┘
//!    4       └─── 5 ──┘└─── 6 ───┘  └──── 7 ────┘└──── 8 ─────┘
//!    2       └9 ┘└12 ┘ └10 ┘└11 ┘   └13 ┘ └16 ┘   └14 ┘ └15 ┘
//! ```
//!
//! # The choice
//! Of the free partitions of the size asked for, [`choose`] takes the one that spoils fewest of the largest
//! partitions still free; of those, fewest of the next size; and so on down; of equals the lowest id.
//!
//! Of each size, what is free afterwards is what was free before less what was spoiled, less one of the size
//! asked for, whichever is chosen. So the choice that spoils least in this order leaves most in this order: no
//! other leaves more of the largest partitions, and of those that leave as many none leaves more of the next
//! size. The tests hold this against every set of occupied GPUs; each can come about, since every GPU is also
//! a partition of its own.

mod host;
#[cfg(test)]
mod laws;
pub mod queue;
pub mod simulate;
#[cfg(test)]
mod tests;

pub use holm_proto::platform::{Partition, PartitionTable};
pub use host::{Capacity, Fit, Gpu, GpuState, Hold, Host, Node, Request, Shapes, Short, Tenant, search};

use std::collections::BTreeSet;

/// Why there is no partition for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none of this size, ever.
    #[error("{}", no_such_size(*.asked, .offered, *.next_larger))]
    NoSuchSize {
        /// GPUs.
        asked: u32,
        /// Sizes there are, rising.
        offered: Vec<u32>,
        /// The smallest of them that is large enough.
        next_larger: Option<u32>,
    },
    /// There is none of this size free now.
    #[error("{}", full(*.asked, *.largest_free))]
    Full {
        /// GPUs.
        asked: u32,
        /// The largest size of which one is free.
        largest_free: Option<u32>,
    },
}

/// The partition for this many GPUs, by its id, while the GPUs with these physical ids are in use or cannot be
/// used. Ids the table does not have are passed over.
///
/// # Errors
/// There is no partition of this size, or none free.
pub fn choose(table: &PartitionTable, occupied: &BTreeSet<u32>, gpus: u32) -> Result<u32, Refusal> {
    let shapes = Shapes::of(*table);
    let busy = occupied.iter().fold(0, |mask, id| mask | holm_proto::platform::bit(*id));
    shapes.offers(gpus)?;
    let best = shapes.best(!busy, gpus).map(|shape| shape.id);
    best.ok_or_else(|| Refusal::Full { asked: gpus, largest_free: shapes.largest(!busy) })
}

fn no_such_size(asked: u32, offered: &[u32], next_larger: Option<u32>) -> String {
    let list = |sizes: &[u32]| sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let sizes = match offered.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", list(rest)),
        _ => list(offered),
    };
    match (next_larger, offered.last()) {
        (Some(_), _) if asked == 0 => format!("a slice has at least 1 GPU: ask for {sizes}"),
        (Some(next), _) => format!("a slice has {sizes} GPUs: {asked} is not offered, ask for {next}"),
        (None, Some(most)) => format!("the host has {most} GPUs: {asked} is not offered, ask for {sizes}"),
        (None, None) => "the host has no GPUs to offer".to_owned(),
    }
}

fn full(asked: u32, largest_free: Option<u32>) -> String {
    match largest_free {
        None => "no GPU is free".to_owned(),
        Some(1) => format!("no {asked} GPUs are free together: only single ones are"),
        Some(largest) => format!("no {asked} GPUs are free together: at most {largest} are"),
    }
}
