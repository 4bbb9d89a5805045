//! The log is held outside: who cosigns its head, on machines of others, and who only holds it.
//!
//! ```text
//!   log ──▶ checkpoint ──▶ courier, one for each ──▶ a witness: POST add-checkpoint, with the proof that the log has only grown
//!                                                     │    covered ──▶ its cosignature is kept beside the log
//!                                                     │    behind ───▶ it was not reached: again after a while
//!                                                     └──▶ alarm ────▶ it has seen another history of this log
//! ```
//!
//! A witness keeps for each log the last size and root that it signed, and signs nothing that does not begin with them. So
//! who rolls the log back, or shows two people two histories, does not get both signed.

mod book;
mod client;
mod config;
pub mod cosignature;
mod courier;
pub mod coverage;
mod serve;
pub mod server;
mod state;

pub use book::{Covered, Standing, State};
pub use config::{CosignerConfig, WitnessConfig};
pub use courier::{open, run};
pub use serve::Serving;
pub use state::Witnesses;
