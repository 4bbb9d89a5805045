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
mod search;
mod verify;

fn main() {
    // One by name, or all: `cargo bench --bench audit -- verify`.
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    if wanted("append") {
        append::run();
    }
    if wanted("verify") {
        verify::run();
    }
    if wanted("search") {
        search::run();
    }
}
