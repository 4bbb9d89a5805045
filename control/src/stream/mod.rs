//! The log as it grows, to a site's own collector: syslog over TLS, or JSON lines in a file.
//!
//! ```text
//!   sealed log ──▶ courier, one a sink ──▶ record: pure ──▶ syslog: RFC 5424, over TLS as RFC 5425 frames it
//!                    │   place, on disk      holm, ocsf      file: one JSON object a line
//!                    └── observe.stream: a sink is away, or there again
//! ```
//!
//! Every entry comes at least once and says by its number whether it came before. No call waits for a sink, and none is
//! kept from others by one that is slow. After the newest entry its signed head follows: who has that holds the log, too.

mod config;
mod courier;
mod file;
pub mod ocsf;
mod place;
mod record;
mod syslog;
#[cfg(test)]
mod tests;

pub use config::{Format, SinkConfig, StreamConfig};
pub use courier::{Couriers, open, run};
pub use place::Streams;
