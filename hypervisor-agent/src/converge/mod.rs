//! Brings the machine to what holmd wants: level-triggered, one step at a time, each of which may be done
//! again.
//!
//! ```text
//!            Intended                                       Observed, KeyRequest, SanitiseReport
//!               │                                                        ▲
//!               ▼                                                        │
//!   ┌─ Engine ──────────────────────────────────────────────────────────────────────┐
//!   │  what is wanted │ what is remembered (Record) │ what was seen of the machine   │
//!   └──────┬─────────────────────┬────────────────────────────────┬─────────────────┘
//!          │ advance(slice)      │ clean(), work()                │ look()
//!   a thread a slice       a thread for runs, one for jobs  one thread that looks
//!          │                     │                                │
//!          └─────────────────────┴─────────── Host ───────────────┘
//! ```
//!
//! `Engine` holds no thread and no clock: whoever drives it says what time it is, so that tests drive it
//! through any order of events. `next` decides, and is pure. `Driver` is the threads.
//!
//! * What is about to happen is in the record before it happens; a kill at any point is a pause.
//! * Without a session what runs keeps running, what is being taken apart is taken apart, and nothing starts.
//! * A machine that nobody intends is kept, reported and named to the operator: never ended on ignorance.
//! * A device is reported as held as long as the machine says so, not as long as it should be.
//! * Only a device that this very process cleaned, or that is the slice's already, is bound (`devices`).
//! * What libvirt, vfio, the fabric, the record and holmd say of the host is compared with each whole look, the
//!   first of which comes before anything is done (`agree`).

mod agree;
mod claims;
mod devices;
mod driver;
mod engine;
mod intention;
mod jobs;
mod next;
mod paused;
mod record;
mod runs;
mod slice;
mod state;
#[cfg(test)]
mod tests;
mod told;
mod voice;

pub use self::{
    agree::{Agreed, Believed, Finding, View, agree},
    devices::{Mark, Note, Notes},
    driver::Driver,
    engine::{Engine, KeyWanted, Limits, Now, Refused, Turn},
    intention::{Intention, Spec, Want},
    jobs::{JobKind, WantedJob},
    next::{Effect, Facts, Holder, KeyFact, Machine, Next, Why, next, wants_key},
    record::{Kept, KeptErasure, KeptGuest, KeptStep, Loaded, Point, Record, RecordError},
};
