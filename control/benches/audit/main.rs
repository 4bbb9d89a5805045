//! What the log costs, part by part. `tests/run bench audit` runs it. It judges nothing: what was wanted stands beside what
//! was found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

mod append;

fn main() {
    append::run();
}
