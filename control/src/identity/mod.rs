//! Who is who. holmd is its own certificate authority: a certificate names exactly one person or one host,
//! in one URI, and nothing else about a connection says who calls.
//!
//! ```text
//!   code (one-time) ──▶ enrolment listener ──▶ certificate: spiffe://holm/person/NAME
//!                       no client certificate      spiffe://holm/host/NAME
//!                                                        │
//!                                                        ▼
//!   main listener: TLS 1.3, verified ──▶ Peer { caller, address } ──▶ api: may this one do this?
//!        │
//!        └─ refused ──▶ Strangers ──▶ the log, bounded
//! ```

mod authority;
mod caller;
mod code;
mod listener;
mod ssh;
mod strangers;
pub mod tls;

pub use authority::{Authority, IdentityError, Issued, Usage, Wanted};
pub use caller::{Caller, NoIdentity, Peer};
pub use code::{Code, ca_hash};
pub use listener::{Connection, Demand, accept};
pub use ssh::{DOOR, RECORDINGS_ACCOUNT, SshCertificate, SshReach};
pub use strangers::{Stranger, Strangers};
