//! The agents' side: one session a host, intention out, observation in.
//!
//! ```text
//!   Hello ──▶ who, what the host has ──▶ the log ──▶ Intended ──▶ again whenever it changes
//!   Observed ──▶ live, and what it means for each slice of this host
//!   KeyRequest ──▶ may it, now, for this generation, the first time? ──▶ the log ──▶ VolumeKey or KeyRefused
//!              └─▶ the key provider is away: KeyRefused for later, and VolumeKey when it is back
//!              └─▶ for a drill: the same, of a slice that rests, once a session and job (`jobs`)
//!   Inventory ──▶ the log, where it is news: a device that is gone is quarantined, and its slice says so
//!   GuestClaims ──▶ the log, what is new (`guest`) ──▶ GuestAck
//!   SanitiseReport ──▶ devices free or quarantined, evidence to their last slice
//! ```
//!
//! All that an agent says is bounded and cleaned of control characters before anything keeps it: the host
//! below it may be somebody else's by now.

use super::{
    About, Asked, RECHECK, Scene, claims, commissioning, guest, jobs, machine, plain, status, tunnel, usage,
};
use crate::allowance::Admitted;
use crate::app::App;
use crate::domain::backup::JobKind;
use crate::domain::device::{Note, Notes};
use crate::domain::disks::Changed;
use crate::domain::machine::Machine;
use crate::domain::records::{
    Change, Device, DeviceState, Evidence, Guest, Host, Record, Slice, VolumeEvidence,
};
use crate::domain::slice::{Phase, Sighting};
use crate::domain::{Refusal, RefusalKind, State, device, lock, slice};
use crate::identity::{Caller, Peer};
use crate::keys::{Key, KeyError, fingerprint};
use crate::ledger::{Call, Decided};
use crate::live::{BURST, TunnelEnd};
use crate::reconcile;
use holm_policies::{Action, Resource};
use holm_proto::ids::{Name, PciAddress, RequestId, RunId, SliceId, TunnelId, VolumeId};
use holm_proto::v1::agent_service_server::AgentService;
use holm_proto::{fullness, image, v1};
use jiff::Timestamp;
use newtype_uuid::{GenericUuid, TypedUuid, TypedUuidKind};
use secrecy::ExposeSecret;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// No host has more devices, slices or steps than this.
pub(super) const MANY: usize = 64;
/// Characters of a reason, a step's name, a tool's.
pub(super) const LONG: usize = 160;
pub(super) const SHORT: usize = 48;
/// Messages that wait for the agent.
const AHEAD: usize = 32;

#[derive(Clone)]
pub(super) struct Agents(pub Arc<App>);

#[tonic::async_trait]
impl AgentService for Agents {
    type SessionStream = ReceiverStream<Result<v1::ToAgent, Status>>;
    type TunnelStream = ReceiverStream<Result<v1::TunnelFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (_, extensions, mut frames) = request.into_parts();
        let first = tunnel::first(&mut frames).await?;
        let Some(v1::from_agent::Body::Hello(hello)) = first.body else {
            return Err(Status::invalid_argument("a session begins with a Hello"));
        };
        let asked = Asked::new(&self.0, &extensions, Action::AgentSession, About::system())?;
        let (asked, host) = itself(asked);
        greets(&asked, &host).await?;
        let name = host.clone();
        let moments = hello.inventory.as_ref().map(machine::moment).unwrap_or_default();
        let begun = asked
            .clone()
            .change(move |state| find(state, &name), move |scene, host| greet(scene, host, hello))
            .await?;
        let (out, receive) = mpsc::channel(AHEAD);
        let id = self.0.live.begin(&host, out.clone());
        self.0.live.moments(&host, id, moments);
        let certificate = extensions.get::<Peer>().map(|peer| Arc::clone(&peer.der)).unwrap_or_default();
        let session = Session {
            asked,
            host,
            id,
            out,
            sent: None,
            first: None,
            certificate,
            refused: false,
            later: BTreeMap::new(),
            locked: BTreeMap::new(),
        };
        tokio::spawn(session.run(frames));
        Ok(begun.map(|()| ReceiverStream::new(receive)))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<v1::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let (_, extensions, mut frames) = request.into_parts();
        let first = tunnel::first(&mut frames).await?;
        let asked = Asked::new(&self.0, &extensions, Action::AgentSession, About::system())?;
        let (asked, host) = itself(asked);
        let (name, certificate) = (host.clone(), asked.certificate.clone());
        // The connection that it is for is in the log; this is the other end of it, of which the first is as well.
        let allowed = asked.read(move |state| find(state, &name), |_, _| Ok(())).await?;
        let nobody = || Status::not_found("nobody waits for this tunnel");
        let id: TunnelId = typed(&first.tunnel_id).ok_or_else(nobody)?;
        let (to_agent, receive) = mpsc::channel(AHEAD);
        let end = TunnelEnd { first, from_agent: frames, to_agent, host: (host.clone(), certificate) };
        if !self.0.live.open_tunnel(id, &host, end) {
            return Err(nobody());
        }
        Ok(allowed.map(|()| ReceiverStream::new(receive)))
    }
}

/// A host speaks for itself: the call is about the one in its certificate.
fn itself(mut asked: Asked) -> (Asked, Name) {
    let (Caller::Host(name) | Caller::Person(name)) = asked.caller.clone();
    let about = About::host(name.as_str());
    (asked.call.resource, asked.missing) = (about.resource, about.missing);
    (asked, name)
}

/// Each greeting is an entry: a host that does nothing but greet is sent away.
async fn greets(asked: &Asked, host: &Name) -> Result<(), Status> {
    let (app, host, id) = (Arc::clone(&asked.app), host.clone(), asked.call.request);
    // Whoever is somebody else, or has an old certificate, takes nothing from the host that is meant.
    if !matches!(asked.caller, Caller::Host(_)) || asked.known(&app.ledger.state()).is_err() {
        return Ok(());
    }
    let admitted = super::blocking(move || admitted(&app, &host)).await?;
    match admitted.map_err(|refusal| status(&refusal, id))? {
        true => Ok(()),
        false => Err(Status::resource_exhausted("this host has said too much: try again in some seconds")),
    }
}

/// Whether a host's own word may be an entry now. Evidence, and what becomes of slices, never asks.
pub(super) fn admitted(app: &App, host: &Name) -> Result<bool, Refusal> {
    let Admitted::No { say } = app.live.admit(host, app.ledger.now()) else { return Ok(true) };
    if let Some(dropped) = say {
        tracing::warn!(%host, "it says too much: some of it is dropped");
        app.ledger.commit(&Call::own("host.flood", format!("host/{host}")), |_, _| {
            let detail = json!({ "dropped": dropped, "at_once": BURST });
            Ok(Decided { detail, ..Decided::new(Vec::new(), ()) })
        })?;
    }
    Ok(false)
}

/// A person is refused by the pack, whether or not there is a host of her name.
fn find(state: &State, name: &Name) -> Result<Option<(Resource, Option<Host>)>, Refusal> {
    Ok(Some((Resource::Host { name: name.clone() }, state.hosts.get(name).cloned())))
}

pub(super) fn typed<K: TypedUuidKind>(text: &str) -> Option<TypedUuid<K>> {
    uuid::Uuid::parse_str(text).ok().map(TypedUuid::from_untyped_uuid)
}

/// How many entries the log has: the number of an intention computed now.
fn generation(app: &App) -> u64 {
    *app.ledger.subscribe().borrow()
}

/// The first message of a session.
fn greet(scene: &Scene<'_>, host: Option<Host>, hello: v1::Hello) -> Result<Decided<()>, Refusal> {
    let host = host.ok_or_else(|| Refusal::new(RefusalKind::NotFound, "this host is not known"))?;
    let ours = generation(scene.app);
    if hello.seen_generation > ours {
        return Err(Refusal::new(
            RefusalKind::State,
            format!(
                "this host has seen generation {} and the log ends at {ours}: holmd runs on an older copy",
                hello.seen_generation
            ),
        )
        .hint("restore holmd's newest log, then run: holmd rebuild"));
    }
    // One that was real, and now says that nothing is, would be spared every check.
    if !host.agent_version.is_empty() && host.simulated != hello.simulated {
        let text = "this host was real and says that it is simulated, or the other way round";
        return Err(Refusal::new(RefusalKind::State, text).hint("holm host invite, under another name"));
    }
    let inventory = hello
        .inventory
        .ok_or_else(|| Refusal::new(RefusalKind::Invalid, "a Hello says what the host has"))?;
    let seen = devices(&host.name, &inventory.devices)?;
    let next = Host {
        simulated: hello.simulated,
        platform: plain(&hello.platform, SHORT),
        agent_version: plain(&hello.agent_version, SHORT),
        watch: plain(&hello.watch, SHORT),
        ..made_of(&host, &inventory, machine::machine(&inventory)?, &seen)
    };
    let detail = json!({ "devices": seen.len(), "seen_generation": hello.seen_generation });
    let watched = !next.watch.is_empty() && next.watch == host.watch;
    let mut changes = device::inventory(scene.state, &host.name, &seen, watched);
    changes.extend(device::bereft(scene.state, &changes));
    if next != host {
        changes.push(Change::Put(Record::Host(next)));
    }
    Ok(Decided { detail, ..Decided::new(changes, ()) })
}

/// A host with what it was found to consist of now.
fn made_of(host: &Host, inventory: &v1::Inventory, machine: Machine, seen: &[Device]) -> Host {
    Host {
        cpus: inventory.cpus,
        numa_nodes: inventory.numa_nodes,
        memory_mib: inventory.memory_mib,
        iommu: inventory.iommu,
        kernel: plain(&inventory.kernel, SHORT),
        machine: Some(machine).filter(|known| *known != Machine::default()),
        present: seen.iter().map(|d| d.address).collect(),
        volumes_gib: inventory.volumes_gib,
        backups: plain(&inventory.backups, SHORT),
        ..host.clone()
    }
}

/// The devices in a host's inventory, each place and each fabric number once.
fn devices(host: &Name, seen: &[v1::PciDevice]) -> Result<Vec<Device>, Refusal> {
    let invalid = |text: String| Refusal::new(RefusalKind::Invalid, text);
    if seen.len() > MANY {
        return Err(invalid(format!("an inventory has at most {MANY} devices")));
    }
    let mut places = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut all = Vec::new();
    for d in seen {
        let address: PciAddress = super::parsed(&d.address)?;
        if !places.insert(address) {
            return Err(invalid(format!("the inventory has {address} twice")));
        }
        if let Some(number) = d.physical_id.filter(|n| !numbers.insert(*n)) {
            return Err(invalid(format!("the inventory has two devices with fabric number {number}")));
        }
        let gpu = match d.kind() {
            v1::DeviceKind::Gpu => true,
            v1::DeviceKind::Nvswitch => false,
            v1::DeviceKind::Unspecified => return Err(invalid(format!("{address} is of no kind"))),
        };
        all.push(Device {
            host: host.clone(),
            address,
            gpu,
            id: plain(&d.id, SHORT),
            numa_node: d.numa_node,
            iommu_group: d.iommu_group,
            physical_id: d.physical_id,
            driver: plain(&d.driver, SHORT),
            reset_methods: d.reset_methods.iter().take(8).map(|m| plain(m, SHORT)).collect(),
            memory_bytes: d.memory_bytes,
            problem: plain(&d.problem, LONG),
            hardware: machine::hardware(d)?,
            health: d.health.as_ref().map(machine::health),
            state: DeviceState::Dirty,
            reason: String::new(),
            slice: None,
            evidence: None,
            maintenance: None,
        });
    }
    Ok(all)
}

/// One session.
struct Session {
    asked: Asked,
    host: Name,
    /// As `live` numbers it.
    id: u64,
    out: mpsc::Sender<Result<v1::ToAgent, Status>>,
    /// What the agent was told last.
    sent: Option<v1::Intended>,
    /// The generation it was told first in this session.
    first: Option<u64>,
    /// The certificate that the session began with.
    certificate: Arc<[u8]>,
    /// A report of its commissioning was refused: one such entry a session is enough.
    refused: bool,
    /// Asked for while the key provider was away, by slice.
    later: BTreeMap<String, v1::KeyRequest>,
    /// Asked for while they were locked.
    locked: BTreeMap<String, v1::KeyRequest>,
}

/// By the host's clock, where that says a time at all.
fn known_time(time: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// The agent is gone; nothing is left to tell it.
struct Gone;

impl Session {
    async fn run(mut self, mut frames: Streaming<v1::FromAgent>) {
        let app = Arc::clone(&self.asked.app);
        tracing::info!(host = %self.host, "the agent is connected");
        let end = self.serve(&app, &mut frames).await;
        app.live.end(&self.host, self.id);
        if let Err(last) = end {
            // One that does not listen any more is not waited for.
            let _ = self.out.try_send(Err(last));
        }
        tracing::info!(host = %self.host, "the agent is disconnected");
    }

    async fn serve(&mut self, app: &Arc<App>, frames: &mut Streaming<v1::FromAgent>) -> Result<(), Status> {
        let (mut ledger, mut live) = (app.ledger.subscribe(), app.live.subscribe());
        let mut provider = app.keys.health();
        ledger.mark_changed();
        let mut recheck = tokio::time::interval(RECHECK);
        // A newer session may have begun before this one listened.
        self.superseded(app)?;
        loop {
            tokio::select! {
                message = frames.message() => match message {
                    Ok(Some(message)) => {
                        self.asked.call.source_time = message.time.and_then(known_time);
                        self.hear(app, message.body).await?;
                        self.asked.call.source_time = None;
                    }
                    Ok(None) | Err(_) => return Ok(()),
                },
                _ = ledger.changed() => {
                    let generation = *ledger.borrow_and_update();
                    self.known(app)?;
                    if self.intend(app, generation).await.is_err() {
                        return Ok(());
                    }
                    for request in self.unlocked(&app.ledger.state()) {
                        self.key(app, request).await?;
                    }
                }
                _ = recheck.tick() => self.known(app)?,
                _ = live.changed() => self.superseded(app)?,
                _ = provider.changed() => {
                    if provider.borrow_and_update().down.is_none() {
                        for request in std::mem::take(&mut self.later).into_values() {
                            self.key(app, request).await?;
                        }
                    }
                }
                () = self.out.closed() => return Ok(()),
                () = app.stopped() => return Err(Status::unavailable("holmd is stopping")),
            }
        }
    }

    fn known(&self, app: &App) -> Result<(), Status> {
        let known = self.asked.known(&app.ledger.state());
        known.map(drop).map_err(|refusal| status(&refusal, self.asked.call.request))
    }

    /// What was asked for while it was locked, and is not any more.
    fn unlocked(&mut self, state: &State) -> Vec<v1::KeyRequest> {
        let free = |wanted: &v1::KeyRequest| locks(state, wanted).is_ok();
        let (free, locked) = std::mem::take(&mut self.locked).into_iter().partition(|(_, r)| free(r));
        self.locked = locked;
        BTreeMap::into_values(free).collect()
    }

    fn superseded(&self, app: &App) -> Result<(), Status> {
        match app.live.host(&self.host) {
            Some(current) if current.session == self.id => Ok(()),
            _ => Err(Status::aborted("a newer session of this host has taken over")),
        }
    }

    /// Say what is intended, where it is not what was said last.
    async fn intend(&mut self, app: &App, generation: u64) -> Result<(), Gone> {
        let trusted = reconcile::Trusted {
            whole: app.authority.ssh_ca(),
            terminal: app.authority.ssh_terminal_ca(),
            recorded: app.authority.ssh_recorded_ca(),
        };
        let wanted = reconcile::intended(&app.ledger.state(), &app.pack(), &self.host, trusted);
        if self.sent.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let jobs = wanted.jobs.iter().filter_map(|job| typed(&job.job_id)).collect();
        app.live.forget_drills(&self.host, self.id, &jobs);
        self.sent = Some(wanted.clone());
        self.first.get_or_insert(generation);
        self.say(v1::to_agent::Body::Intended(v1::Intended { generation, ..wanted })).await
    }

    async fn say(&self, body: v1::to_agent::Body) -> Result<(), Gone> {
        self.out.send(Ok(v1::ToAgent { body: Some(body) })).await.map_err(|_| Gone)
    }

    async fn hear(&mut self, app: &Arc<App>, body: Option<v1::from_agent::Body>) -> Result<(), Status> {
        use v1::from_agent::Body;
        match body {
            Some(Body::Observed(observed)) => self.observed(app, observed).await,
            Some(Body::KeyRequest(request)) => self.key(app, request).await,
            Some(Body::SanitiseReport(report)) => self.sanitised(app, report).await,
            Some(Body::Hello(_)) => Err(Status::invalid_argument("a session has one Hello")),
            Some(Body::Inventory(inventory)) => self.inventory(app, inventory).await,
            Some(Body::Commissioning(signed)) => self.commissioned(app, signed).await,
            Some(Body::GuestClaims(claims)) => self.guest(app, claims).await,
            None => Ok(()),
        }
    }

    /// A call of this agent's, as the log has it.
    fn call(&self, action: &'static str, resource: String) -> Call {
        Call { request: RequestId::new_v4(), action, resource, ..self.asked.call.clone() }
    }

    /// The machine has become another under the session.
    async fn inventory(&self, app: &Arc<App>, inventory: v1::Inventory) -> Result<(), Status> {
        let refused = |refusal: Refusal| status(&refusal, self.asked.call.request);
        let seen = devices(&self.host, &inventory.devices).map_err(refused)?;
        let (worker, host) = (Arc::clone(app), self.host.clone());
        let call = self.call("observe.inventory", format!("host/{host}"));
        let machine = machine::machine(&inventory).map_err(refused)?;
        let done = super::blocking(move || {
            let found = |state: &State| {
                let mut changes = device::inventory(state, &host, &seen, true);
                changes.extend(device::bereft(state, &changes));
                let known = state.hosts.get(&host);
                let news = known
                    .map(|known| made_of(known, &inventory, machine.clone(), &seen))
                    .filter(|next| Some(next) != known);
                changes.extend(news.map(|next| Change::Put(Record::Host(next))));
                changes
            };
            // A look first: what is no news costs nothing.
            if found(&worker.ledger.state()).is_empty() || !admitted(&worker, &host)? {
                return Ok(());
            }
            let done = worker.ledger.commit_if(&call, |state, _| {
                let changes = found(state);
                let detail = json!({ "devices": seen.len() });
                (!changes.is_empty()).then(|| Decided { detail, ..Decided::new(changes, ()) })
            });
            done.map(|_| ())
        });
        done.await?.map_err(refused)
    }

    async fn observed(&self, app: &Arc<App>, observed: v1::Observed) -> Result<(), Status> {
        let jobs = jobs::read(&observed.jobs)?;
        let report = Report::new(observed)?;
        let now = app.ledger.now();
        app.live.note(&self.host, self.id, report.notes.clone());
        app.live.volumes(&self.host, self.id, report.volumes);
        app.live.images(&self.host, self.id, report.images.clone());
        app.live.jobs(&self.host, self.id, jobs.clone());
        if !app.live.report(&self.host, self.id, now, report.attached.clone(), report.slices.clone()) {
            return self.superseded(app);
        }
        // An agent that has not heard of anything yet in this session says nothing by leaving things out.
        let complete = self.first.is_some_and(|first| report.generation >= first);
        let (worker, host) = (Arc::clone(app), self.host.clone());
        let call = self.call("observe.slice", String::new());
        let found = self.call("observe.disagreement", format!("host/{host}"));
        let ended = self.call("observe.job", String::new());
        let done = super::blocking(move || {
            jobs::observe(&worker, &host, &ended, &jobs)?;
            disagreements(&worker, &host, &found, &report)?;
            claims::note(&worker, &host, &found, &report.slices)?;
            usage::note(&worker, &host, &report.slices);
            observe(&worker, &host, &call, &report, complete)
        });
        done.await?.map_err(|refusal| status(&refusal, self.asked.call.request))
    }

    async fn guest(&self, app: &Arc<App>, claims: v1::GuestClaims) -> Result<(), Status> {
        self.superseded(app)?;
        let said = guest::Said::read(claims)?;
        let (worker, host) = (Arc::clone(app), self.host.clone());
        let call = self.call("guest.claim", String::new());
        let done = super::blocking(move || guest::take(&worker, &host, &call, &said)).await?;
        if let Some(ack) = done.map_err(|refusal| status(&refusal, self.asked.call.request))? {
            // Nobody there any more: the loop sees it.
            let _ = self.say(v1::to_agent::Body::GuestAck(ack)).await;
        }
        Ok(())
    }

    async fn key(&mut self, app: &Arc<App>, request: v1::KeyRequest) -> Result<(), Status> {
        let state = app.ledger.state();
        // One that it has in this session already costs as much as one that is not to be had.
        let handed =
            |id| app.live.host(&self.host).is_some_and(|h| h.keyed.contains(&(id, request.generation)));
        let again = request.job_id.is_empty() && typed(&request.slice_id).is_some_and(handed);
        if again || due(&state, &self.host, &request).is_err() {
            let (worker, host) = (Arc::clone(app), self.host.clone());
            let admitted = super::blocking(move || admitted(&worker, &host)).await?;
            if !admitted.map_err(|refusal| status(&refusal, self.asked.call.request))? {
                let later = locks(&state, &request).is_err();
                let v1::KeyRequest { slice_id, generation, job_id, .. } = request.clone();
                if later && self.locked.len() < MANY {
                    self.locked.insert(format!("{slice_id} {job_id}"), request);
                }
                let reason = "too many keys were asked for that are not to be had".to_owned();
                let no = v1::KeyRefused { slice_id, generation, reason, later, job_id };
                let _ = self.say(v1::to_agent::Body::KeyRefused(no)).await;
                return Ok(());
            }
        }
        let id = typed(&request.slice_id);
        let slice = id.and_then(|id| state.slices.get(&id));
        let resource = slice.map(|s| format!("slice/{}", state.slice_label(s)));
        let mut asked = self.asked.clone();
        asked.action = Action::AgentKey;
        asked.call = self.call(Action::AgentKey.text(), resource.unwrap_or_else(|| "slice/?".to_owned()));
        asked.call.project = slice.and_then(|s| state.projects.get(&s.project)).map(|p| p.name.to_string());
        let (host, name, session) = (self.host.clone(), self.host.clone(), self.id);
        let v1::KeyRequest { slice_id, volume_id, generation, job_id } = request.clone();
        // Opened before it is decided: the provider may take its time, and the ledger waits for nobody. Who may not
        // have it causes no question to the provider.
        let (worker, at, wanted) = (Arc::clone(app), host.clone(), request.clone());
        let opened = super::in_turn(&app.turns.agents, move || {
            let may = due(&state, &at, &wanted).ok()?;
            let open = |key| Ok(worker.keys.open_volume_key(may.project, key)?.map(|opened| (key, opened)));
            let next = may.next_keys().iter().map(|next| next.key);
            let all = may.keyed_volumes().map(|keyed| keyed.key).chain(next);
            Some(all.map(open).collect::<Result<Option<Opened>, KeyError>>())
        });
        let opened = opened.await?;
        let later = matches!(&opened, Some(Err(failure)) if failure.unreachable);
        let wanted = request.clone();
        let handed = asked
            .change_each(
                move |state| find(state, &name),
                move |scene, _| hand_out(scene, &host, session, &wanted, opened),
            )
            .await;
        let body = match handed {
            Ok(keys) => {
                let mut message = v1::VolumeKey { slice_id, generation, job_id, ..Default::default() };
                for (volume, (key, next)) in keys.into_inner() {
                    let (id, key) = (volume.into_untyped_uuid().to_string(), key.expose_secret().to_vec());
                    let next = next.map(|next| next.expose_secret().to_vec()).unwrap_or_default();
                    match id == volume_id {
                        true => (message.volume_id, message.key, message.next) = (id, key, next),
                        false => message.others.push(v1::OtherKey { volume_id: id, key, next }),
                    }
                }
                v1::to_agent::Body::VolumeKey(message)
            }
            // The log cannot be written: the agent asks again in a new session.
            Err(status) if status.code() == tonic::Code::Unavailable => return Err(status),
            Err(status) => {
                let locked = locks(&app.ledger.state(), &request).is_err();
                let waits = if locked { &mut self.locked } else { &mut self.later };
                if (later || locked) && waits.len() < MANY {
                    waits.insert(format!("{slice_id} {job_id}"), request);
                }
                let (later, reason) = (later || locked, status.message().to_owned());
                v1::to_agent::Body::KeyRefused(v1::KeyRefused { slice_id, generation, reason, later, job_id })
            }
        };
        // Nobody there any more: the loop sees it.
        let _ = self.say(body).await;
        Ok(())
    }

    /// What the host says of its own fitness. One that cannot be believed is noted, and changes nothing: to end
    /// the session would leave its slices without holmd.
    async fn commissioned(&mut self, app: &Arc<App>, signed: v1::SignedCommissioning) -> Result<(), Status> {
        let call = self.call("host.commission", format!("host/{}", self.host));
        let (worker, host, certificate) = (Arc::clone(app), self.host.clone(), Arc::clone(&self.certificate));
        let noted = self.refused;
        let done =
            super::blocking(move || commissioning::take(&worker, &host, &call, &signed, &certificate, noted));
        match done.await? {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.kind == RefusalKind::Unavailable => {
                Err(status(&refusal, self.asked.call.request))
            }
            Err(refusal) => {
                tracing::warn!(host = %self.host, "its commissioning is refused: {refusal}");
                self.refused = true;
                Ok(())
            }
        }
    }

    async fn sanitised(&self, app: &Arc<App>, report: v1::SanitiseReport) -> Result<(), Status> {
        let Some(run) = typed::<holm_proto::ids::RunKind>(&report.run_id) else {
            return Err(Status::invalid_argument("a report names its run"));
        };
        if report.evidence.len() > MANY {
            return Err(Status::invalid_argument(format!("a report has at most {MANY} devices")));
        }
        let (worker, host) = (Arc::clone(app), self.host.clone());
        let call = self.call("observe.sanitise", format!("host/{host}"));
        let notes = app.live.host(&host).filter(|live| live.session == self.id).and_then(|live| live.notes);
        let done = super::blocking(move || {
            worker
                .ledger
                .commit_if(&call, |state, now| evidence(state, &host, run, &report, notes.as_ref(), now))
        });
        match done.await? {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::info!(host = %self.host, "a report of a run that is over was passed over");
                Ok(())
            }
            // To end the session would leave all its slices without holmd, and it would say the same again in the next.
            Err(refusal) if refusal.kind != RefusalKind::Unavailable => {
                tracing::error!(host = %self.host, "a report of a run cannot be noted: {refusal}");
                Ok(())
            }
            Err(refusal) => Err(status(&refusal, self.asked.call.request)),
        }
    }
}

/// What a host says, checked.
struct Report {
    generation: u64,
    attached: BTreeSet<PciAddress>,
    notes: Notes,
    disagreements: Vec<v1::Disagreement>,
    slices: BTreeMap<SliceId, v1::ObservedSlice>,
    volumes: Option<v1::VolumesUse>,
    images: BTreeSet<String>,
}

impl Report {
    fn new(observed: v1::Observed) -> Result<Self, Status> {
        let bad = |text: &str| Status::invalid_argument(text.to_owned());
        let most = observed.slices.len().max(observed.attached.len()).max(observed.devices.len());
        if most > MANY || observed.disagreements.len() > MANY {
            return Err(bad("a report has too many slices or devices"));
        }
        let attached = observed.attached.iter().map(|a| a.parse());
        let attached =
            attached.collect::<Result<_, _>>().map_err(|_| bad("a report has an address that is none"))?;
        let mut slices = BTreeMap::new();
        for mut s in observed.slices {
            let id = typed(&s.slice_id).ok_or_else(|| bad("a report has a slice id that is none"))?;
            s.reason = plain(&s.reason, LONG);
            s.steps.truncate(MANY);
            for step in &mut s.steps {
                step.name = plain(&step.name, SHORT);
            }
            s.guest = s.guest.take().and_then(guest_of);
            s.jobs = s.jobs.filter(holm_proto::jobs::is_plausible);
            if !image::is_digest(&s.image) {
                s.image.clear();
            }
            if !holm_proto::guest::is_told(&s.scheduler) {
                s.scheduler.clear();
            }
            s.disks = fullness::plausible(std::mem::take(&mut s.disks)).unwrap_or_default();
            slices.insert(id, s);
        }
        let notes = observed.devices.iter().map(|d| Some((d.address.parse().ok()?, note(d)?)));
        let notes =
            notes.collect::<Option<_>>().ok_or_else(|| bad("a report says of a device what is nothing"))?;
        let disagreements = observed.disagreements.iter().map(|d| v1::Disagreement {
            id: plain(&d.id, SHORT),
            subject: plain(&d.subject, SHORT),
            found: plain(&d.found, LONG),
            done: plain(&d.done, LONG),
        });
        let disagreements = disagreements.filter(|d| !d.id.is_empty()).collect();
        let volumes = observed.volumes.filter(|v| v.bytes > 0 && v.free <= v.bytes);
        let images = observed.images.into_iter().filter(|id| image::is_digest(id)).take(MANY).collect();
        Ok(Self { generation: observed.generation, attached, notes, disagreements, slices, volumes, images })
    }
}

/// What an agent has in its record of a device.
fn note(said: &v1::DeviceNote) -> Option<Note> {
    match said.mark() {
        v1::DeviceMark::Unspecified => None,
        v1::DeviceMark::Dirty => Some(Note::Dirty(plain(&said.reason, LONG))),
        v1::DeviceMark::Clean => typed(&said.of).map(Note::Clean),
        v1::DeviceMark::Assigned => typed(&said.of).map(Note::Assigned),
    }
}

/// Where those who know a host did not agree, into the log, each once: also over holmd's restart.
fn disagreements(app: &App, host: &Name, call: &Call, report: &Report) -> Result<(), Refusal> {
    let known =
        |state: &State, id: &String| state.hosts.get(host).is_none_or(|h| h.disagreements.contains(id));
    for d in &report.disagreements {
        // A look first, without the ledger's lock: it is told again until the agent knows that it was heard.
        if known(&app.ledger.state(), &d.id) {
            continue;
        }
        // Its agent tells it again.
        if !admitted(app, host)? {
            return Ok(());
        }
        let call = Call { request: RequestId::new_v4(), ..call.clone() };
        app.ledger.commit_if(&call, |state, _| {
            let mut next = state.hosts.get(host).filter(|_| !known(state, &d.id))?.clone();
            next.disagreements.push(d.id.clone());
            let more = next.disagreements.len().saturating_sub(2 * MANY);
            next.disagreements.drain(..more);
            let detail = json!({ "subject": d.subject, "found": d.found, "done": d.done });
            Some(Decided { detail, ..Decided::new(vec![Change::Put(Record::Host(next))], ()) })
        })?;
    }
    Ok(())
}

/// What a guest claims, as far as it can be meant: its key is a key.
fn guest_of(claimed: v1::Guest) -> Option<v1::Guest> {
    let key = (claimed.ssh_host_key.len() < 1024)
        .then(|| ssh_key::PublicKey::from_openssh(claimed.ssh_host_key.trim()).ok())??;
    let mut bare = key;
    bare.set_comment("");
    let ssh_host_key = bare.to_openssh().ok()?;
    Some(v1::Guest { ssh_host_key, gpus: claimed.gpus, slurm: plain(&claimed.slurm, SHORT) })
}

/// What a report means for each slice of the host.
fn observe(app: &App, host: &Name, call: &Call, report: &Report, complete: bool) -> Result<(), Refusal> {
    let state = app.ledger.state();
    let here = |s: &&Slice| s.placement.as_ref().is_some_and(|p| &p.host == host) && !s.state.is_final();
    for s in state.slices.values().filter(here) {
        let Some(sighting) = sighting(s, report, complete, app.ledger.now()) else { continue };
        let id = s.id;
        let begun = report.slices.get(&id).is_none_or(|seen| !seen.steps.is_empty());
        let means = |state: &State, s: &Slice, now| {
            slice::take_back(state, s, &sighting, begun, &report.notes, now)
                .or_else(|| slice::observe(state, s, &sighting, &report.attached, now))
        };
        // A look first, without the ledger's lock: most reports change nothing.
        if means(&state, s, app.ledger.now()).is_none() {
            continue;
        }
        let call = Call {
            request: RequestId::new_v4(),
            resource: format!("slice/{}", state.slice_label(s)),
            project: state.projects.get(&s.project).map(|p| p.name.to_string()),
            ..call.clone()
        };
        app.ledger.commit_if(&call, |state, now| {
            let s = state.slices.get(&id)?;
            let changes = means(state, s, now)?;
            let detail = json!({ "host": host, "phase": format!("{:?}", sighting.phase).to_lowercase() });
            Some(Decided { detail, ..Decided::new(changes, ()) })
        })?;
    }
    Ok(())
}

/// What the report says of this slice. Left out of a complete report means that it is not there.
fn sighting(s: &Slice, report: &Report, complete: bool, now: Timestamp) -> Option<Sighting> {
    let Some(seen) = report.slices.get(&s.id) else {
        let absent = Sighting {
            generation: s.generation,
            phase: Phase::Absent,
            reason: String::new(),
            guest: None,
            volume_erased: false,
            volume: None,
            others: Vec::new(),
            change: None,
        };
        return complete.then_some(absent);
    };
    let evidence = |told: &v1::VolumeEvidence| {
        Some(VolumeEvidence {
            volume: typed(&told.volume_id)?,
            erased: told.erased,
            method: plain(&told.method, SHORT),
            bytes_overwritten: told.bytes_overwritten,
            bytes_discarded: told.bytes_discarded,
            took_ms: told.took_ms,
            tool: plain(&told.tool, SHORT),
            detail: plain(&told.detail, LONG),
            at: now,
        })
    };
    let phase = match seen.phase() {
        v1::Phase::Unspecified => return None,
        v1::Phase::Absent => Phase::Absent,
        v1::Phase::Preparing => Phase::Preparing,
        v1::Phase::Booting => Phase::Booting,
        v1::Phase::Ready => Phase::Ready,
        v1::Phase::Failed => Phase::Failed,
        v1::Phase::Destroying => Phase::Destroying,
        v1::Phase::Kept => Phase::Kept,
    };
    let guest = seen.guest.as_ref().map(|g| Guest {
        ssh_host_key: g.ssh_host_key.clone(),
        gpus: g.gpus,
        slurm: g.slurm.clone(),
    });
    Some(Sighting {
        generation: seen.generation,
        phase,
        reason: seen.reason.clone(),
        guest,
        volume_erased: seen.volume_erased,
        volume: seen.volume.as_ref().and_then(evidence),
        others: {
            let most = s.others.len() + s.retired.len();
            seen.volumes.iter().take(most).filter_map(evidence).collect()
        },
        change: seen.change.as_ref().map(|change| Changed {
            number: change.number,
            done: change.done,
            note: plain(&change.note, LONG),
        }),
    })
}

/// Keys of a slice, each by the id that it is kept under.
type Opened = BTreeMap<VolumeId, Key>;
/// The keys of a slice's volumes: of each the one that opens it, and the one that is to.
type Keys = Vec<(VolumeId, (Key, Option<Key>))>;

/// Refuses keys that are locked.
fn locks(state: &State, wanted: &v1::KeyRequest) -> Result<(), Refusal> {
    let slice = typed(&wanted.slice_id).and_then(|id| state.slices.get(&id));
    slice.map_or(Ok(()), |s| lock::keys(state, s))
}

/// The slice whose key this host may ask for now.
fn due(state: &State, host: &Name, wanted: &v1::KeyRequest) -> Result<Slice, Refusal> {
    let s = held_there(state, host, wanted)?;
    lock::keys(state, &s)?;
    Ok(s)
}

/// The slice whose key this host may ask for now, unless it is locked.
fn held_there(state: &State, host: &Name, wanted: &v1::KeyRequest) -> Result<Slice, Refusal> {
    let no = |text: String| Refusal::new(RefusalKind::State, text);
    let none = || Refusal::new(RefusalKind::NotFound, "this host has no such slice");
    if !wanted.job_id.is_empty() {
        return jobs::due(state, host, wanted);
    }
    let s: &Slice = typed(&wanted.slice_id)
        .and_then(|id| state.slices.get(&id))
        .filter(|s| s.placement.as_ref().is_some_and(|p| &p.host == host))
        .ok_or_else(none)?;
    if !s.may_have_keys() {
        return Err(no(format!(
            "a slice that is {} gets no key: only one that starts, or whose disks are changed",
            s.state.text()
        )));
    }
    if wanted.generation != s.generation {
        return Err(no(format!("generation {} is not the current one, {}", wanted.generation, s.generation)));
    }
    if typed(&wanted.volume_id) != Some(s.volume) {
        return Err(none());
    }
    Ok(s.clone())
}

/// The keys of a slice's volumes, to the host that is starting it, once a session and generation. `opened` is what came
/// of opening them, where they were due.
fn hand_out(
    scene: &Scene<'_>,
    host: &Name,
    session: u64,
    wanted: &v1::KeyRequest,
    opened: Option<Result<Option<Opened>, KeyError>>,
) -> Result<Decided<Keys>, Refusal> {
    let no = |text: String| Refusal::new(RefusalKind::State, text);
    let s = due(scene.state, host, wanted)?;
    let unavailable = |text: String| Refusal::new(RefusalKind::Unavailable, text);
    let mut opened = match opened {
        Some(Ok(Some(keys))) => keys,
        Some(Ok(None)) => return Err(no("its key is gone".to_owned())),
        Some(Err(failure)) if failure.unreachable => return Err(no(reconcile::PROVIDER_AWAY.to_owned())),
        Some(Err(failure)) => return Err(no(format!("its key cannot be opened: {failure}"))),
        // It became due between the two looks.
        None => return Err(unavailable("ask again: this slice changed meanwhile".to_owned())),
    };
    let next = s.next_keys();
    let mut taken = |key: VolumeId, print: &str| {
        let key = opened.remove(&key).filter(|key| fingerprint(key) == print);
        key.ok_or_else(|| no("its key is not the one that was made for it".to_owned()))
    };
    let keys = s.keyed_volumes().map(|keyed| {
        let next = next.iter().find(|next| next.volume == keyed.volume);
        let next = next.map(|next| taken(next.key, &next.fingerprint)).transpose()?;
        Ok((keyed.volume, (taken(keyed.key, keyed.fingerprint)?, next)))
    });
    let keys = keys.collect::<Result<Keys, Refusal>>()?;
    if scene.app.live.host(host).is_none_or(|l| l.session != session) {
        return Err(unavailable("this session is over".to_owned()));
    }
    let job = s.copies.job.as_ref().filter(|_| !wanted.job_id.is_empty());
    let once = match job {
        Some(job) => scene.app.live.drill_once(host, session, job.id),
        None => scene.app.live.key_once(host, session, s.id, s.generation),
    };
    if !once {
        return Err(no("its key was given out in this session already".to_owned()));
    }
    let mut detail = json!({
        "fingerprint": s.key_fingerprint,
        "volume": s.volume.into_untyped_uuid(),
        "generation": s.generation,
        "host": host,
    });
    if let Some(fields) = detail.as_object_mut().filter(|_| !s.others.is_empty()) {
        fields.insert("others".to_owned(), others(&s));
    }
    if let Some(fields) = detail.as_object_mut().filter(|_| !next.is_empty()) {
        let prints: Vec<&str> = next.iter().map(|next| next.fingerprint.as_str()).collect();
        fields.insert("next".to_owned(), json!(prints));
    }
    if let Some((fields, job)) = detail.as_object_mut().zip(job) {
        let word = if job.kind == JobKind::Reencrypt { "reencrypt" } else { "drill" };
        fields.insert(word.to_owned(), job.id.into_untyped_uuid().to_string().into());
        if job.kind == JobKind::Drill {
            fields.insert("backup".to_owned(), job.backup.into_untyped_uuid().to_string().into());
        }
    }
    let first = s
        .key_given
        .is_none()
        .then(|| Change::Put(Record::Slice(Box::new(Slice { key_given: Some(scene.now), ..s.clone() }))));
    Ok(Decided { detail, ..Decided::new(first.into_iter().collect(), keys) })
}

/// Fingerprints of the keys of its other volumes, for the log.
fn others(s: &Slice) -> serde_json::Value {
    let others = s.keyed_volumes().skip(1);
    let others = others.map(|k| (k.volume.into_untyped_uuid().to_string(), k.fingerprint.into()));
    serde_json::Value::Object(others.collect())
}

/// What a sanitiser's report changes. `None`: the run is over, or another host's.
fn evidence(
    state: &State,
    host: &Name,
    run: RunId,
    report: &v1::SanitiseReport,
    notes: Option<&Notes>,
    now: Timestamp,
) -> Option<Decided<()>> {
    let run = state.runs.get(&run).filter(|r| &r.host == host)?;
    let seen: device::Report = report
        .evidence
        .iter()
        .filter_map(|e| {
            let address = e.address.parse().ok()?;
            let evidence = Evidence {
                run: typed(&e.run_id)?,
                address,
                cleaned: e.cleaned,
                method: plain(&e.method, SHORT),
                pattern: plain(&e.pattern, SHORT),
                bytes_total: e.bytes_total,
                bytes_written: e.bytes_written,
                bytes_verified: e.bytes_verified,
                bytes_unreached: e.bytes_unreached,
                bytes_dirty_before: e.bytes_dirty_before,
                took_ms: e.took_ms,
                tool: plain(&e.tool, SHORT),
                detail: plain(&e.detail, LONG),
                at: now,
            };
            Some((address, evidence))
        })
        .collect();
    let (evidence, mut changes) = device::reported(state, run, &seen);
    device::doubt(&mut changes, run.id, notes);
    let free = changes
        .iter()
        .filter(|c| matches!(c, Change::Put(Record::Device(d)) if d.state == DeviceState::Free));
    let cleaned = free.count();
    // Who reads the log sees at once which device stays behind, and why.
    let quarantined: BTreeMap<String, String> = changes
        .iter()
        .filter_map(|c| match c {
            Change::Put(Record::Device(d)) if d.state == DeviceState::Quarantined => {
                Some((d.address.to_string(), plain(&d.reason, SHORT)))
            }
            _ => None,
        })
        .collect();
    let mut detail =
        json!({ "run": run.id.into_untyped_uuid(), "cleaned": cleaned, "expected": run.devices.len() });
    if let Some(fields) = detail.as_object_mut().filter(|_| !quarantined.is_empty()) {
        fields.insert("quarantined".to_owned(), json!(quarantined));
    }
    // A certificate that was made is not added to.
    let last = run.slice.and_then(|id| state.slices.get(&id)).filter(|s| !s.state.is_final());
    if let Some(s) = last {
        changes.extend(slice::with_evidence(s, evidence));
    }
    Some(Decided { detail, ..Decided::new(changes, ()) })
}
