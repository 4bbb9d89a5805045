//! The stream to holmd: what is wanted comes in, what is observed goes out.
//!
//! ```text
//!           dial, TLS 1.3 both ways            Hello                Intended
//!   Apart ───────────────────────────▶ Dialled ───────▶ Greeted ─────────────▶ Together
//!     ▲                                   │                │                      │
//!     └────────── pause, longer each time, at random ◀─────┴──────────────────────┘
//! ```
//!
//! * Nothing is reported before holmd has said what it wants: a report is of an intention.
//! * Observed goes out at each change and at least every few seconds, whole.
//! * The inventory goes out again when the machine has become another: a device came, went, or is not well.
//! * A volume's key is asked for once a session; evidence is reported once a session until holmd no longer
//!   lists its run.
//! * What guests claim goes out in bounded pieces, each again until holmd says that it is in the log.
//! * The certificate is renewed when a third of its life is left (`renew`).
//! * When the stream ends, what runs keeps running and nothing new starts (`converge`).

mod commissioned;
mod identity;
mod renew;
#[cfg(test)]
mod tests;
mod tunnel;

pub use self::identity::{Identity, IdentityError};

use self::{commissioned::Commissioned, tunnel::Tunnels};
use crate::{
    converge::{Driver, KeyWanted, Refused},
    edge::EdgeError,
};
use holm_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        self, FromAgent, Hello, KeyRequest, ToAgent, agent_service_client::AgentServiceClient, from_agent,
        to_agent,
    },
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// holmd hears from this host at least this often.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// To reach holmd and agree on TLS.
const DIAL_LIMIT: Duration = Duration::from_secs(15);
/// For holmd to take the stream.
const GREET_LIMIT: Duration = Duration::from_secs(30);
/// For a message to leave, when holmd does not read.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// A peer that does not answer this long is gone.
const PEER_LIMIT: Duration = Duration::from_secs(10);
/// The host is checked this often, in case it has changed.
const LOOK: Duration = Duration::from_secs(5 * 60);
/// What has not changed is reported again.
const ANEW: Duration = Duration::from_secs(24 * 60 * 60);
/// Messages that wait to be sent.
const QUEUE: usize = 32;
/// The pause after the first failure, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// A session that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// Why a session did not come to be, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// This host cannot say who it is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// holmd is not there, or not holmd.
    #[error("`{0}` cannot be reached")]
    Dial(String, #[source] tonic::transport::Error),
    /// holmd said no.
    #[error("holmd ended the session: {}", .0.message().escape_debug())]
    Status(Status),
    /// holmd said nothing: it ended, or the network did.
    #[error("the connection to holmd broke")]
    Broken,
    /// holmd closed the stream.
    #[error("holmd ended the session")]
    Ended,
    /// Something took too long.
    #[error("{0}")]
    Late(&'static str),
    /// The machine could not be described.
    #[error("the machine cannot be described: {0}")]
    Machine(EdgeError),
    /// What holmd wants is not taken: this is no holmd to work for.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A thread of this process broke off.
    #[error("the agent is at fault")]
    Internal(#[from] JoinError),
}

impl From<Status> for SessionError {
    fn from(status: Status) -> Self {
        // What holmd says comes without a cause; what the transport says comes with one.
        if std::error::Error::source(&status).is_some() { Self::Broken } else { Self::Status(status) }
    }
}

/// This host's side.
#[derive(Debug, Clone)]
pub struct Session {
    driver: Arc<Driver>,
    identity: PathBuf,
    /// Tells this run of the agent from others: between two of them nobody watches the devices.
    watch: String,
}

/// What was said in one session.
#[derive(Default)]
struct Said {
    observed: Option<v1::Observed>,
    keys: BTreeSet<KeyWanted>,
    runs: BTreeSet<String>,
    /// The machine, as far as it matters.
    inventory: Option<v1::Inventory>,
}

/// While it lives there is a session.
struct Present<'a>(&'a Driver);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.engine().disconnected();
    }
}

impl Session {
    /// A host whose identity lies in this directory.
    pub fn new(driver: Arc<Driver>, identity: &Path) -> Self {
        Self { driver, identity: identity.to_owned(), watch: uuid::Uuid::new_v4().to_string() }
    }

    /// Keeps a session with holmd until it is told to stop. `up` is called each time one has begun.
    pub async fn keep(&self, mut stop: watch::Receiver<bool>, mut up: impl FnMut(&Identity)) {
        let mut pause = PAUSES.0;
        loop {
            let began = Instant::now();
            let outcome = tokio::select! {
                outcome = self.once(&mut up) => outcome,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Err(error) = outcome;
            if began.elapsed() > GOOD {
                pause = PAUSES.0;
            }
            let this = jittered(pause);
            tracing::warn!(
                again_in_ms = this.as_millis(),
                "no session with holmd: {}",
                holm_proto::chain(&error)
            );
            pause = pause.saturating_mul(2).min(PAUSES.1);
            tokio::select! {
                () = tokio::time::sleep(this) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn once(&self, up: &mut impl FnMut(&Identity)) -> Result<Infallible, SessionError> {
        let directory = self.identity.clone();
        let identity = tokio::task::spawn_blocking(move || Identity::load(&directory)).await??;
        let channel = dial(&identity).await?;
        let client = AgentServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let _present = Present(&self.driver);
        let (send, receive) = mpsc::channel(QUEUE);
        let hello = self.hello().await?;
        let said = Said { inventory: hello.inventory.as_ref().map(what_matters), ..Said::default() };
        say(&send, from_agent::Body::Hello(hello)).await?;
        let mut greeted = client.clone();
        let stream = greeted.session(ReceiverStream::new(receive));
        let incoming = timeout(GREET_LIMIT, stream)
            .await
            .map_err(|_| SessionError::Late("holmd does not answer a greeting"))??
            .into_inner();
        tracing::info!(server = identity.server, "session with holmd");
        up(&identity);
        self.talk((client, channel), send, incoming, said, &identity).await
    }

    async fn hello(&self) -> Result<Hello, SessionError> {
        let engine = self.driver.engine();
        let host = Arc::clone(engine.host());
        let inventory = tokio::task::spawn_blocking(move || host.inventory_now()).await?;
        Ok(Hello {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            simulated: engine.host().simulated(),
            platform: engine.host().platform().to_owned(),
            inventory: Some(inventory.map_err(SessionError::Machine)?),
            seen_generation: engine.seen(),
            watch: self.watch.clone(),
        })
    }

    async fn talk(
        &self,
        (client, channel): (AgentServiceClient<Channel>, Channel),
        send: mpsc::Sender<FromAgent>,
        mut incoming: Streaming<ToAgent>,
        mut said: Said,
        identity: &Identity,
    ) -> Result<Infallible, SessionError> {
        let engine = self.driver.engine();
        let mut changed = engine.subscribe();
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // They end with the session.
        let mut connections = JoinSet::new();
        let tunnels = Tunnels::default();
        let mut together = false;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking = JoinSet::new();
        let mut renewing = JoinSet::new();
        let mut commissioned = Commissioned::default();
        loop {
            let mut due = false;
            tokio::select! {
                message = incoming.message() => {
                    match message?.ok_or(SessionError::Ended)?.body {
                        Some(to_agent::Body::Intended(intended)) => {
                            self.intend(intended).await?;
                            together = true;
                        }
                        Some(to_agent::Body::VolumeKey(key)) => engine.take_key(key),
                        Some(to_agent::Body::KeyRefused(refused)) => engine.refuse_key(&refused),
                        Some(to_agent::Body::GuestAck(ack)) => {
                            engine.take_guest_ack(&ack, Instant::now().into_std());
                        }
                        Some(to_agent::Body::OpenTunnel(open)) => {
                            let carried = tunnels.clone().carry(Arc::clone(engine), client.clone(), open);
                            connections.spawn(carried);
                        }
                        // A newer holmd says what this agent does not know yet.
                        None => tracing::warn!("holmd said what is not understood"),
                    }
                }
                // It lives as long as this does.
                _ = changed.changed() => {}
                _ = beat.tick() => due = true,
                Some(_) = connections.join_next() => {}
                _ = look.tick(), if together && looking.is_empty() => {
                    let host = Arc::clone(engine.host());
                    looking.spawn_blocking(move || host.commission());
                    if renewing.is_empty() {
                        renewing.spawn(renew::in_time(self.identity.clone(), channel.clone()));
                    }
                }
                Some(_) = renewing.join_next() => {}
                Some(report) = looking.join_next() => {
                    if let Some(signed) = commissioned.news(report?, identity) {
                        say(&send, from_agent::Body::Commissioning(signed)).await?;
                    }
                }
            }
            if together {
                self.report(&send, &mut said, due).await?;
            }
        }
    }

    async fn intend(&self, intended: v1::Intended) -> Result<(), SessionError> {
        let driver = Arc::clone(&self.driver);
        // It writes to a disk.
        Ok(tokio::task::spawn_blocking(move || driver.intend(intended)).await??)
    }

    /// Says what has not been said in this session. Keys first: a slice waits for them.
    async fn report(
        &self,
        send: &mpsc::Sender<FromAgent>,
        said: &mut Said,
        due: bool,
    ) -> Result<(), SessionError> {
        let engine = self.driver.engine();
        for wanted in engine.keys_wanted() {
            if said.keys.insert(wanted.clone()) {
                let request = KeyRequest {
                    slice_id: wanted.slice.to_string(),
                    volume_id: wanted.volume.to_string(),
                    generation: wanted.generation,
                    job_id: wanted.job.map(|job| job.to_string()).unwrap_or_default(),
                };
                say(send, from_agent::Body::KeyRequest(request)).await?;
            }
        }
        if let Some(inventory) = engine.inventory() {
            let matters = what_matters(&inventory);
            if said.inventory.as_ref() != Some(&matters) {
                said.inventory = Some(matters);
                say(send, from_agent::Body::Inventory(inventory)).await?;
            }
        }
        let reports = engine.reports();
        // How devices stand comes before the evidence that is judged by it.
        let Some(observed) = engine.observed() else { return Ok(()) };
        if due || said.observed.as_ref() != Some(&observed) {
            said.observed = Some(observed.clone());
            say(send, from_agent::Body::Observed(observed)).await?;
        }
        for claims in engine.guest_claims(Instant::now().into_std()) {
            say(send, from_agent::Body::GuestClaims(claims)).await?;
        }
        for report in reports {
            if said.runs.insert(report.run_id.clone()) {
                say(send, from_agent::Body::SanitiseReport(report)).await?;
            }
        }
        Ok(())
    }
}

/// Without what changes by itself, or with what this agent does: drivers, temperatures, how fast an idle link
/// runs, how much memory is free.
pub(crate) fn what_matters(inventory: &v1::Inventory) -> v1::Inventory {
    let mut inventory = inventory.clone();
    let now = |link: &mut Option<v1::Link>| {
        if let Some(link) = link {
            link.speed.clear();
            link.width = 0;
        }
    };
    for device in &mut inventory.devices {
        device.driver.clear();
        // Taken away while a partition is up; where they are missed, that is a problem of the device.
        device.reset_methods.clear();
        now(&mut device.link);
        if let Some(health) = &mut device.health {
            health.at = None;
            health.temperature_c = None;
            health.ecc_corrected = None;
        }
    }
    inventory.bridges.iter_mut().for_each(|bridge| now(&mut bridge.link));
    inventory.nodes.iter_mut().flat_map(|node| &mut node.huge_pages).for_each(|pages| pages.free = 0);
    inventory
}

async fn say(send: &mpsc::Sender<FromAgent>, body: from_agent::Body) -> Result<(), SessionError> {
    match timeout(SEND_LIMIT, send.send(FromAgent { body: Some(body), time: Some(SystemTime::now().into()) }))
        .await
    {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SessionError::Ended),
        Err(_) => Err(SessionError::Late("holmd does not read what it is sent")),
    }
}

/// TLS is made here and not by tonic, which knows neither of TLS 1.3 alone nor of renewed certificates.
async fn dial(identity: &Identity) -> Result<Channel, SessionError> {
    let failed = |error| SessionError::Dial(identity.server.clone(), error);
    let endpoint = Endpoint::from_shared(format!("http://{}", identity.server))
        .map_err(failed)?
        .connect_timeout(DIAL_LIMIT)
        .max_frame_size(holm_proto::MAX_FRAME_BYTES)
        .http2_keep_alive_interval(PEER_LIMIT)
        .keep_alive_timeout(PEER_LIMIT)
        .keep_alive_while_idle(true);
    let dialled = identity.clone();
    let connector = tower::service_fn(move |_| {
        let identity = dialled.clone();
        async move {
            let stream = TcpStream::connect(&identity.server).await?;
            stream.set_nodelay(true)?;
            let tls = TlsConnector::from(Arc::clone(&identity.tls)).connect(identity.name, stream).await?;
            Ok::<_, io::Error>(TokioIo::new(tls))
        }
    });
    timeout(DIAL_LIMIT, endpoint.connect_with_connector(connector))
        .await
        .map_err(|_| SessionError::Late("holmd does not answer a call"))?
        .map_err(failed)
}

/// Half of it at least, so that hosts that lost holmd together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without chance it is merely less well spread.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    let [byte] = byte;
    pause.mul_f64(0.5 + f64::from(byte) / 512.0)
}
