//! Holm as a whole, under test: the binaries as they are shipped, driven by the real command line.
//!
//! ```text
//!   Ground ── where holmd and the agent run: this machine, or the virtual DGX-2 over SSH
//!     └─ Site ── one holmd, one agent, their files; started, killed and started again
//!          └─ Person ── somebody with a profile, who types `holm …`
//!   story  ── the main job from request to destroyed, as a demo and as assertions
//!   devices ─ what becomes of devices between their owners
//!   faults ── what goes wrong on the same machine: kills, cuts, races
//!   full   ── disks that fill up, a slice's and its host's
//!   workshop ─ a slice as researchers have it
//!   claims ── what guests claim, in the log
//!   search ── is a key left anywhere on the host?
//! ```
//!
//! Nothing here waits for seconds: every wait is for an event, with a limit; where there is none, as for how full a disk
//! is and for what comes into the log, `full` and `claims` look again and again.

#![allow(clippy::indexing_slicing, reason = "this crate is tests; in JSON, what is not there reads as null")]

pub mod by_hand;
pub mod claims;
pub mod devices;
pub mod faults;
pub mod full;
pub mod ground;
pub mod hostile;
pub mod oidc;
pub mod search;
pub mod show;
pub mod simulated;
pub mod site;
pub mod stages;
pub mod story;
pub mod workshop;

/// What went wrong, in words. Tests and the demo end with the first one.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The outcome of a step of a test.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Fail with these words unless it holds.
pub fn demand(holds: bool, otherwise: impl Into<String>) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.into().into()) }
}
