//! The guest's side of a slice: what it is told at its first boot, what it says of itself over its
//! virtio-serial port, and the way to its SSH server.

mod channel;
mod key;
mod message;
mod people;
mod scheduler;
mod seed;
mod ssh;

#[cfg(fuzzing)]
pub use self::message::{Lines, MAX_LINE_BYTES, parse};
pub use self::{channel::Channels, people::digest_of, seed::Seeds, ssh::connect};
