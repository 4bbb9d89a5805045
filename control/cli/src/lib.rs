//! `holm`, the command line: what it asks of holmd, and how people read the answers.
//!
//! ```text
//!   args ──▶ run/NOUN ──▶ dial (TLS 1.3, this profile's certificate) ──▶ holmd
//!               │                                                         │
//!               └── output ◀── view (tables, JSON) ◀──────────────────────┘
//! ```
//!
//! Whatever comes from the server is shown with its control characters escaped, and errors end in the
//! command to run next. Nothing is decided here: rules are holmd's.

pub mod args;
pub mod dial;
pub mod failure;
pub mod output;
pub mod profile;
pub mod progress;
pub mod run;
pub mod text;
pub mod tls;
pub mod view;

pub use failure::{Exit, Failure};
