//! The control service of Holm: who may do what, what is intended of every host, and the log of it all.
//! `holmd` is a thin binary over this; `holm` uses the log's verifier.

pub mod allowance;
pub mod api;
pub mod app;
pub mod audit;
pub mod bundle;
pub mod config;
pub mod domain;
mod https;
pub mod identity;
mod kept;
pub mod keys;
pub mod ledger;
pub mod live;
pub mod login;
pub mod notify;
pub mod once;
pub mod oversight;
pub mod placement;
pub mod policy;
pub mod reads;
pub mod reconcile;
pub mod retention;
pub mod review;
pub mod search;
pub mod setup;
pub mod store;
pub mod stream;
pub mod tag;
pub mod usage;
pub mod watch;
pub mod witness;
