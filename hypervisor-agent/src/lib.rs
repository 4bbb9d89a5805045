//! `holm-agent`, one a host: it dials out to holmd, listens on nothing, and brings the machine to the
//! state that holmd intends. See `edge` for where the decisions end and the machine begins.

pub mod commission;
pub mod config;
pub mod converge;
pub mod edge;
pub mod fabric;
pub mod guest;
pub mod handover;
pub mod hypervisor;
pub mod images;
pub mod inventory;
pub mod real;
pub mod sanitise;
pub mod session;
pub mod simulate;
pub mod storage;
pub mod vfio;
