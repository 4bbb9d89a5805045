//! What is allowed in Holm.
//!
//! A *pack* is a directory of data: `pack.toml` says which levels of sensitivity there are and what each
//! demands, `schema.cedarschema` and `policies.cedar` say who may do what. [`Pack::decide`] answers one
//! question with a [`Decision`]. Nothing here does I/O but [`Pack::load`].
//!
//! ```text
//!  pack.toml ───────────┐
//!  schema.cedarschema ──┼─▶ Pack::load ──▶ Pack ──▶ decide(Request) ──▶ Decision
//!  policies.cedar ──────┘       │
//!                               └─▶ PackError: file, line, what is wrong there
//! ```
//!
//! What no pack can lift is in the code: who is not enrolled is refused; a level, role or action that the
//! pack does not know is refused; a rule that cannot be evaluated refuses; a forbid outweighs every permit.

mod answered;
mod decide;
mod diff;
mod enforced;
mod error;
mod manifest;
mod nesting;
mod pack;
mod request;
mod rules;

pub use decide::Decision;
pub use diff::{Difference, diff};
pub use enforced::{ALWAYS, Obligation};
pub use error::PackError;
pub use manifest::{Colour, Evidence, LOG_DAYS_MIN, Level, SiteRule};
pub use pack::{FILES, Pack, built_in};
pub use request::{Action, Identity, Principal, Request, Resource};

#[cfg(test)]
mod tests;
