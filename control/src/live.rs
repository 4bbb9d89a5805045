//! What is known of hosts right now and forgotten with the process: sessions, last reports, progress.
//! Nothing here decides what is true; it decides whom to tell.

use crate::domain::device::Notes;
use holm_proto::ids::{Name, PciAddress, SliceId, TunnelId};
use holm_proto::v1;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

/// One end of a tunnel: frames from the agent, frames to it.
pub struct TunnelEnd {
    /// The frame that named the tunnel; it may hold data, or why it could not be opened.
    pub first: v1::TunnelFrame,
    /// What the slice says.
    pub from_agent: tonic::Streaming<v1::TunnelFrame>,
    /// What it is told.
    pub to_agent: mpsc::Sender<Result<v1::TunnelFrame, Status>>,
}

/// What was true of a device when its host's session began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// By the host's clock.
    pub at: Option<prost_types::Timestamp>,
}

/// A host's session and its last report.
#[derive(Debug, Clone)]
pub struct HostLive {
    /// Tells this session from an earlier one.
    pub session: u64,
    /// When the last report came; `None` before the first.
    pub reported: Option<Timestamp>,
    /// Devices that something holds, by the last report.
    pub attached: BTreeSet<PciAddress>,
    /// Devices as its agent has them, by the last report; `None` before the first.
    pub notes: Option<Notes>,
    /// Slices by the last report.
    pub slices: BTreeMap<SliceId, v1::ObservedSlice>,
    /// Generations for which a key was delivered in this session.
    pub keyed: BTreeSet<(SliceId, u64)>,
    /// Devices as they were when the session began.
    pub moments: BTreeMap<PciAddress, Moment>,
    /// To the agent.
    pub outbound: mpsc::Sender<Result<v1::ToAgent, Status>>,
}

/// All sessions.
pub struct Live {
    hosts: Mutex<BTreeMap<Name, HostLive>>,
    tunnels: Mutex<BTreeMap<TunnelId, (Name, oneshot::Sender<TunnelEnd>)>>,
    changed: watch::Sender<u64>,
}

impl Default for Live {
    fn default() -> Self {
        Self { hosts: Mutex::default(), tunnels: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Live {
    /// Says that something changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A session begins; an earlier one of the same host ends with its sender.
    pub fn begin(&self, host: &Name, outbound: mpsc::Sender<Result<v1::ToAgent, Status>>) -> u64 {
        // A number nobody had; said aloud only when the session can be found, or the earlier one would look
        // before it has been replaced and never again.
        let mut session = 0;
        self.changed.send_if_modified(|n| {
            *n += 1;
            session = *n;
            false
        });
        let live = HostLive {
            session,
            reported: None,
            attached: BTreeSet::new(),
            notes: None,
            slices: BTreeMap::new(),
            keyed: BTreeSet::new(),
            moments: BTreeMap::new(),
            outbound,
        };
        self.hosts().insert(host.clone(), live);
        self.changed.send_modify(|n| *n += 1);
        session
    }

    /// It ends, unless a newer one has taken its place.
    pub fn end(&self, host: &Name, session: u64) {
        let mut hosts = self.hosts();
        if hosts.get(host).is_some_and(|h| h.session == session) {
            hosts.remove(host);
        }
        drop(hosts);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Note a report. False where the session is no longer the host's.
    pub fn report(
        &self,
        host: &Name,
        session: u64,
        now: Timestamp,
        attached: BTreeSet<PciAddress>,
        slices: BTreeMap<SliceId, v1::ObservedSlice>,
    ) -> bool {
        let mut hosts = self.hosts();
        let Some(live) = hosts.get_mut(host).filter(|h| h.session == session) else { return false };
        let news = live.slices != slices || live.reported.is_none() || live.attached != attached;
        live.reported = Some(now);
        live.attached = attached;
        live.slices = slices;
        drop(hosts);
        if news {
            self.changed.send_modify(|n| *n += 1);
        }
        true
    }

    /// Note how devices are at this moment.
    pub fn moments(&self, host: &Name, session: u64, moments: BTreeMap<PciAddress, Moment>) {
        if let Some(live) = self.hosts().get_mut(host).filter(|h| h.session == session) {
            live.moments = moments;
        }
    }

    /// Note what the agent's own record says of its devices, before the report that it comes with.
    pub fn note(&self, host: &Name, session: u64, notes: Notes) {
        let mut hosts = self.hosts();
        let Some(live) = hosts.get_mut(host).filter(|h| h.session == session) else { return };
        let notes = Some(notes);
        if live.notes == notes {
            return;
        }
        live.notes = notes;
        drop(hosts);
        self.changed.send_modify(|n| *n += 1);
    }

    /// True the first time a key is asked for in this session and generation.
    pub fn key_once(&self, host: &Name, session: u64, slice: SliceId, generation: u64) -> bool {
        let mut hosts = self.hosts();
        hosts
            .get_mut(host)
            .filter(|h| h.session == session)
            .is_some_and(|h| h.keyed.insert((slice, generation)))
    }

    /// A host that has a session.
    pub fn host(&self, host: &Name) -> Option<HostLive> {
        self.hosts().get(host).cloned()
    }

    /// Hosts that have a session and have reported in it.
    pub fn reporting(&self) -> Vec<(Name, HostLive)> {
        let hosts = self.hosts();
        hosts.iter().filter(|(_, h)| h.reported.is_some()).map(|(n, h)| (n.clone(), h.clone())).collect()
    }

    /// Wait for the agent of this host to open the tunnel.
    pub fn expect_tunnel(&self, id: TunnelId, host: &Name) -> oneshot::Receiver<TunnelEnd> {
        let (send, receive) = oneshot::channel();
        self.tunnels().insert(id, (host.clone(), send));
        receive
    }

    /// Nobody waits for it any more.
    pub fn forget_tunnel(&self, id: TunnelId) {
        self.tunnels().remove(&id);
    }

    /// The agent opened it. False where nobody waits, or it is another host's.
    pub fn open_tunnel(&self, id: TunnelId, host: &Name, end: TunnelEnd) -> bool {
        let mut tunnels = self.tunnels();
        if tunnels.get(&id).is_none_or(|(owner, _)| owner != host) {
            return false;
        }
        tunnels.remove(&id).is_some_and(|(_, waiter)| waiter.send(end).is_ok())
    }

    fn hosts(&self) -> MutexGuard<'_, BTreeMap<Name, HostLive>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tunnels(&self) -> MutexGuard<'_, BTreeMap<TunnelId, (Name, oneshot::Sender<TunnelEnd>)>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
