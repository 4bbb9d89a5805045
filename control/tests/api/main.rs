//! holmd in one process, on 127.0.0.1, with its real store, log and TLS; people and agents as tonic clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

mod agents;
mod attacks;
mod backups;
mod certificates;
mod commissioning;
mod devices;
mod disks;
mod enrolment;
mod fullness;
mod guest;
mod holds;
mod images;
mod incidents;
mod jobs;
mod keys;
mod leases;
mod locks;
mod login;
mod machine;
mod matrix;
mod members;
mod notify;
mod once;
mod oversight;
mod pages;
mod people;
mod policy;
mod quota;
mod reads;
mod recordings;
mod register;
mod rest;
mod retention;
mod review;
mod revocation;
mod room;
mod search;
mod slices;
mod stream;
mod tags;
mod vault;
mod voices;
mod witness;
mod world;
