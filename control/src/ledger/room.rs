//! Room on holmd's own disk. Long before there is none, people begin nothing new: what takes rights away, and what happens on
//! hosts and in slices, can still be written down.

use super::Call;
use crate::domain::{Refusal, RefusalKind};
use holm_policies::Action;
use std::path::PathBuf;

/// What people change for as long as there is any room at all: it stops, ends, takes away, lets them in to do so, or makes
/// room.
const GOES_ON: [Action; 15] = [
    Action::CertificateRenew,
    Action::HoldSet,
    Action::HostMaintain,
    Action::HostRevoke,
    Action::IncidentNotify,
    Action::IncidentOpen,
    Action::LockSet,
    Action::PersonRenew,
    Action::PersonRevoke,
    Action::ProjectRemoveMember,
    Action::SliceClose,
    Action::SliceDrain,
    Action::SliceReject,
    Action::SliceStop,
    Action::SliceWithdraw,
];
/// And what no pack is asked about: connecting, and a second factor.
const UNASKED: [&str; 3] = ["certificate.use", "login", "login.begin"];

/// Where there must be room, and how much.
#[derive(Debug)]
pub(super) struct Room {
    dir: PathBuf,
    least: u64,
}

impl Room {
    /// So many bytes are kept free where this directory lies.
    pub(super) fn new(dir: PathBuf, least: u64) -> Self {
        Self { dir, least }
    }

    /// What is left, where that is too little. A disk that cannot be asked fails where it is written.
    pub(super) fn short(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.dir).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize)).filter(|free| *free < self.least)
    }

    /// Whether this may be begun.
    pub(super) fn admits(&self, call: &Call) -> Result<(), Refusal> {
        let goes_on = GOES_ON.iter().map(|action| action.text()).chain(UNASKED).any(|on| on == call.action);
        if !call.actor.starts_with("person/") || goes_on {
            return Ok(());
        }
        self.short().map_or(Ok(()), |free| {
            let (free, least) = (free >> 20, self.least >> 20);
            let text = format!(
                "holmd's disk is nearly full: {free} MiB are free, and below {least} nothing new is begun"
            );
            let hint = "tell an operator: make room on holmd's disk. Stopping, closing, locking and withdrawing go on";
            Err(Refusal::new(RefusalKind::Unavailable, text).hint(hint))
        })
    }
}
