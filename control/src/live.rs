//! What is known of hosts right now and forgotten with the process: sessions, last reports, progress.
//! Nothing here decides what is true; it decides whom to tell.

use crate::allowance::{Admitted, Allowance, Rate};
use crate::domain::alert::Heard;
use crate::domain::claims::Guest;
use crate::domain::device::Notes;
use crate::domain::fullness::Told;
use holm_proto::ids::{JobId, Name, PciAddress, SliceId, TunnelId};
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
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
    /// Whose agent it is, and which certificate it shows.
    pub host: (Name, String),
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
    /// How full that is which volumes share, by the last report.
    pub volumes: Option<v1::VolumesUse>,
    /// Images that it has, by the last report.
    pub images: BTreeSet<String>,
    /// Jobs by the last report.
    pub jobs: BTreeMap<JobId, v1::ObservedJob>,
    /// Drills for which keys were delivered in this session.
    pub drilled: BTreeSet<JobId>,
    /// Generations for which a key was delivered in this session.
    pub keyed: BTreeSet<(SliceId, u64)>,
    /// Devices as they were when the session began.
    pub moments: BTreeMap<PciAddress, Moment>,
    /// To the agent.
    pub outbound: mpsc::Sender<Result<v1::ToAgent, Status>>,
}

/// What a host may cause by its own words.
const OF_HOST: Rate =
    Rate { burst: BURST, refill: SignedDuration::from_secs(10), said: SignedDuration::from_hours(1) };
/// Entries that a host's own words may cause at once.
pub const BURST: u32 = 200;

/// All sessions.
pub struct Live {
    hosts: Mutex<BTreeMap<Name, HostLive>>,
    tunnels: Mutex<BTreeMap<TunnelId, (Name, oneshot::Sender<TunnelEnd>)>>,
    /// Of every host that spoke since holmd started; sessions come and go.
    allowances: Mutex<BTreeMap<Name, Allowance>>,
    /// What the log has of each slice's disks: also of one whose host comes and goes.
    told: Mutex<BTreeMap<SliceId, Told>>,
    /// Guests that are heard, each with what it may cause.
    guests: Mutex<BTreeMap<SliceId, Guest>>,
    changed: watch::Sender<u64>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            hosts: Mutex::default(),
            tunnels: Mutex::default(),
            allowances: Mutex::default(),
            told: Mutex::default(),
            guests: Mutex::default(),
            changed: watch::channel(0).0,
        }
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
            volumes: None,
            images: BTreeSet::new(),
            jobs: BTreeMap::new(),
            drilled: BTreeSet::new(),
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

    /// Note how full that is which volumes share, before the report that it comes with.
    pub fn volumes(&self, host: &Name, session: u64, volumes: Option<v1::VolumesUse>) {
        if let Some(live) = self.hosts().get_mut(host).filter(|h| h.session == session) {
            live.volumes = volumes;
        }
    }

    /// Note which images it has, before the report that it comes with.
    pub fn images(&self, host: &Name, session: u64, images: BTreeSet<String>) {
        if let Some(live) = self.hosts().get_mut(host).filter(|h| h.session == session) {
            live.images = images;
        }
    }

    /// What a host says now that alerts go by.
    pub fn heard(&self, host: &Name) -> Heard {
        let hosts = self.hosts();
        let Some(live) = hosts.get(host) else { return Heard::default() };
        Heard {
            reported: live.reported,
            volumes: live.volumes.map(|volumes| (volumes.bytes, volumes.free)),
            paused: live.slices.values().filter(|slice| slice.paused).count(),
        }
    }

    /// What the log has of a slice's disks.
    pub fn told<T>(&self, slice: SliceId, ask: impl FnOnce(&mut Told) -> T) -> T {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        ask(told.entry(slice).or_default())
    }

    /// Of other slices nothing need be remembered any more.
    pub fn keep_told(&self, lives: impl Fn(SliceId) -> bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|slice, _| lives(*slice));
    }

    /// A slice's guest.
    pub fn guest<T>(&self, slice: SliceId, now: Timestamp, ask: impl FnOnce(&mut Guest) -> T) -> T {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        ask(guests.entry(slice).or_insert_with(|| Guest::new(now)))
    }

    /// Of other guests nothing need be remembered any more.
    pub fn keep_guests(&self, lives: impl Fn(SliceId) -> bool) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.retain(|slice, _| lives(*slice));
    }

    /// True the first time the keys for a drill are asked for in this session.
    pub fn drill_once(&self, host: &Name, session: u64, job: JobId) -> bool {
        let mut hosts = self.hosts();
        hosts.get_mut(host).filter(|h| h.session == session).is_some_and(|h| h.drilled.insert(job))
    }

    /// A job that it hears of no more, because of a hold or a lock, asks for the keys again when it does.
    pub fn forget_drills(&self, host: &Name, session: u64, but: &BTreeSet<JobId>) {
        let mut hosts = self.hosts();
        if let Some(live) = hosts.get_mut(host).filter(|h| h.session == session) {
            live.drilled.retain(|job| but.contains(job));
        }
    }

    /// Note how far its jobs are.
    pub fn jobs(&self, host: &Name, session: u64, jobs: BTreeMap<JobId, v1::ObservedJob>) {
        let mut hosts = self.hosts();
        let Some(live) = hosts.get_mut(host).filter(|h| h.session == session) else { return };
        let news = live.jobs != jobs;
        live.jobs = jobs;
        drop(hosts);
        if news {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    /// True the first time a key is asked for in this session and generation.
    pub fn key_once(&self, host: &Name, session: u64, slice: SliceId, generation: u64) -> bool {
        let mut hosts = self.hosts();
        hosts
            .get_mut(host)
            .filter(|h| h.session == session)
            .is_some_and(|h| h.keyed.insert((slice, generation)))
    }

    /// Whether a known host may cause one more entry by its own word.
    pub fn admit(&self, host: &Name, now: Timestamp) -> Admitted {
        let mut all = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(host.clone()).or_insert_with(|| Allowance::new(OF_HOST, now)).take(now)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_host_may_say_so_much_and_no_more_and_that_it_did_is_said_once_an_hour() {
        let (live, host, other): (_, Name, Name) =
            (Live::default(), "dgx".parse().unwrap(), "other".parse().unwrap());
        for _ in 0..BURST {
            assert_eq!(live.admit(&host, at(0)), Admitted::Yes);
        }
        assert_eq!(live.admit(&host, at(0)), Admitted::No { say: Some(1) });
        assert_eq!(live.admit(&host, at(9)), Admitted::No { say: None });
        assert_eq!(live.admit(&other, at(9)), Admitted::Yes, "each host has its own");
        // One more every ten seconds, and the odd ones are not lost.
        assert_eq!(live.admit(&host, at(19)), Admitted::Yes);
        assert_eq!(live.admit(&host, at(19)), Admitted::No { say: None });
        assert_eq!(live.admit(&host, at(20)), Admitted::Yes);
        // A clock that goes back gives nothing.
        assert_eq!(live.admit(&host, at(0)), Admitted::No { say: None });
        for _ in 0..360 {
            assert_eq!(live.admit(&host, at(20 + 3600)), Admitted::Yes);
            if live.allowances.lock().unwrap()[&host].left == 0 {
                break;
            }
        }
        assert_eq!(live.admit(&host, at(20 + 3600)), Admitted::No { say: Some(4) });
    }
}
