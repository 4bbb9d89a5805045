//! What Holm knows and how it may change: projects, slices, devices, people. Pure: no I/O, no async, no
//! clock (time is an argument), so that every rule here can be tested by itself.
//!
//! A change is a list of [`Change`]s computed from a [`State`]; `ledger` makes it durable.

pub mod alert;
pub mod backup;
pub mod claims;
pub mod declassify;
pub mod device;
pub mod disks;
pub mod fullness;
pub mod image;
pub mod incident;
pub mod lease;
pub mod lock;
pub mod login;
pub mod machine;
pub mod maintenance;
pub mod oversight;
pub mod people;
pub mod policy;
pub mod project;
pub mod quota;
pub mod records;
pub mod register;
pub mod resize;
pub mod retention;
pub mod review;
pub mod scheduler;
pub mod slice;
pub mod state;
pub mod unapprove;

#[cfg(test)]
mod approval_laws;
#[cfg(test)]
pub(crate) mod tests;

pub use records::{Change, Record};
pub use state::State;

/// So many days, as packs and settings count them: of 24 hours.
pub fn days(n: u32) -> jiff::SignedDuration {
    jiff::SignedDuration::from_hours(i64::from(n) * 24)
}

/// Why something was not done, in words for the person who asked. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What kind of no it is.
    pub kind: RefusalKind,
    /// One reason or several, each a sentence without a full stop.
    pub reasons: Vec<String>,
    /// The next command, or empty.
    pub hint: String,
    /// NAME/VERSION of the policy pack, where one was asked; for the log.
    pub pack: Option<String>,
}

/// The kinds of no, as gRPC distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// A rule says no.
    Denied,
    /// There is none, or the caller may not know that there is one.
    NotFound,
    /// The request makes no sense.
    Invalid,
    /// There is one already.
    Exists,
    /// Not in this state.
    State,
    /// It cannot be made durable, so it does not happen.
    Unavailable,
}

impl Refusal {
    /// A refusal with one reason.
    pub fn new(kind: RefusalKind, reason: impl Into<String>) -> Self {
        Self::of(kind, vec![reason.into()])
    }

    /// A refusal with several.
    pub fn of(kind: RefusalKind, reasons: Vec<String>) -> Self {
        Self { kind, reasons, hint: String::new(), pack: None }
    }

    /// The same with the command to run next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reasons.join("; "))
    }
}
