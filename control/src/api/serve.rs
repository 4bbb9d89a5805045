//! Two listeners: one for people and agents, one for enrolment.

use super::REQUEST;
use super::agent::Agents;
use super::audit::Auditing;
use super::backup::BackupKeeping;
use super::enrolment::Enrolment;
use super::host::Hosts;
use super::image::Images;
use super::incident::Incidents;
use super::keys::KeyKeeping;
use super::lock::Locks;
use super::person::People;
use super::policy::Policies;
use super::project::Projects;
use super::review::Reviews;
use super::slice::Slices;
use crate::allowance::Admitted;
use crate::app::{App, Failure};
use crate::domain::people;
use crate::identity::{Caller, Demand, Peer, Strangers, accept, tls};
use crate::ledger::{Call, Decided};
use crate::notify;
use crate::once;
use crate::reconcile;
use crate::retention;
use crate::review;
use crate::tag::Expected;
use crate::{search, stream, watch, witness};
use holm_proto::ids::RequestId;
use holm_proto::v1::agent_service_server::AgentServiceServer;
use holm_proto::v1::audit_service_server::AuditServiceServer;
use holm_proto::v1::backup_service_server::BackupServiceServer;
use holm_proto::v1::enrolment_service_server::EnrolmentServiceServer;
use holm_proto::v1::host_service_server::HostServiceServer;
use holm_proto::v1::image_service_server::ImageServiceServer;
use holm_proto::v1::incident_service_server::IncidentServiceServer;
use holm_proto::v1::key_service_server::KeyServiceServer;
use holm_proto::v1::lock_service_server::LockServiceServer;
use holm_proto::v1::person_service_server::PersonServiceServer;
use holm_proto::v1::policy_service_server::PolicyServiceServer;
use holm_proto::v1::project_service_server::ProjectServiceServer;
use holm_proto::v1::review_service_server::ReviewServiceServer;
use holm_proto::v1::slice_service_server::SliceServiceServer;
use holm_proto::{MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;

/// Streams of one connection: a person's commands, an agent's session and its tunnels.
const STREAMS: u32 = 128;
/// Bytes of the headers of one call.
const HEADERS: u32 = 16 * 1024;
/// How long a call may take before its answer begins; a tunnel is opened in 20 s at most.
const ANSWER: Duration = Duration::from_secs(45);
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long calls under way may take when holmd stops.
const GRACE: Duration = Duration::from_secs(5);
const SUMMARY: Duration = Duration::from_secs(60);

/// A holmd that accepts.
pub struct Running {
    /// For people and agents.
    pub address: SocketAddr,
    /// For enrolment.
    pub enrolment: SocketAddr,
    app: Arc<App>,
    servers: JoinSet<Result<(), tonic::transport::Error>>,
    background: JoinSet<()>,
}

/// Bind, and serve until [`Running::stop`].
pub async fn start(app: Arc<App>) -> Result<Running, Failure> {
    let hosts = tls::hosts(&app.config.server);
    let secured = |e| Failure::because("TLS cannot be set up", "holmd check", e);
    let mutual = tls::mutual(&app.authority, hosts.clone()).map_err(secured)?;
    let open = tls::enrolment(&app.authority, hosts).map_err(secured)?;
    let (main, address) = bind(app.config.listen).await?;
    let (enrol, enrolment) = bind(app.config.enrol_listen).await?;
    let strangers = Arc::new(Strangers::new(Arc::clone(&app)));
    let told = notify::open(&app);
    let witnesses = witness::open(&app)?;
    let streams = stream::open(&app)?;

    let mut servers = JoinSet::new();
    let connections = accept(main, mutual, Demand::Certificate, Arc::clone(&strangers));
    let stop = stopped(Arc::clone(&app));
    // Only who is known sends large frames.
    let known = server().max_frame_size(MAX_FRAME_BYTES);
    servers.spawn(known.serve_with_incoming_shutdown(Services::new(&app), connections, stop));
    let connections = accept(enrol, open, Demand::Nothing, Arc::clone(&strangers));
    let service = EnrolmentServiceServer::new(Enrolment::new(Arc::clone(&app), Arc::clone(&strangers)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let stop = stopped(Arc::clone(&app));
    servers.spawn(server().serve_with_incoming_shutdown(service, connections, stop));

    let mut background = JoinSet::new();
    background.spawn(reconcile::run(Arc::clone(&app)));
    background.spawn(reconcile::keys::run(Arc::clone(&app)));
    background.spawn(notify::run(Arc::clone(&app), told));
    background.spawn(search::run(Arc::clone(&app)));
    background.spawn(watch::run(Arc::clone(&app)));
    background.spawn(review::run(Arc::clone(&app)));
    background.spawn(retention::run(Arc::clone(&app)));
    background.spawn(witness::run(witnesses));
    background.spawn(stream::run(streams));
    background.spawn(async move {
        let mut minutes = tokio::time::interval(SUMMARY);
        loop {
            minutes.tick().await;
            strangers.summarise();
        }
    });
    Ok(Running { address, enrolment, app, servers, background })
}

impl Running {
    /// Returns when serving ended by itself, which it should not.
    pub async fn ended(&mut self) -> Failure {
        let why = match self.servers.join_next().await {
            Some(Ok(Err(failure))) => crate::ledger::chain(&failure),
            Some(Err(failure)) => failure.to_string(),
            _ => "a listener ended".to_owned(),
        };
        Failure::new(format!("holmd does not serve any more: {why}"), "holmd check, then start it again")
    }

    /// End: no new calls, streams end, the others have some seconds.
    pub async fn stop(mut self) {
        self.app.stop();
        let all = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::warn!("some calls did not end in time");
        }
        self.background.shutdown().await;
        let app = Arc::clone(&self.app);
        let _ = super::blocking(move || {
            app.usage.keep();
            if let Err(why) = app.reads_over(app.reads.rest(), usize::MAX) {
                tracing::error!("how often some things were read is in no log: {why}");
            }
        })
        .await;
    }
}

async fn stopped(app: Arc<App>) {
    app.stopped().await;
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    bound.await.map_err(|e| {
        let what = format!("`{address}` cannot be listened on");
        Failure::because(what, "see who has it: ss -ltnp; or change holmd.toml", e)
    })
}

fn server() -> Server {
    Server::builder()
        .timeout(ANSWER)
        .max_concurrent_streams(STREAMS)
        .concurrency_limit_per_connection(STREAMS as usize)
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

/// The services of the main listener, by the first part of the path.
#[derive(Clone)]
struct Services {
    app: Arc<App>,
    people: PersonServiceServer<People>,
    projects: ProjectServiceServer<Projects>,
    slices: SliceServiceServer<Slices>,
    hosts: HostServiceServer<Hosts>,
    audit: AuditServiceServer<Auditing>,
    agents: AgentServiceServer<Agents>,
    keys: KeyServiceServer<KeyKeeping>,
    backups: BackupServiceServer<BackupKeeping>,
    policies: PolicyServiceServer<Policies>,
    locks: LockServiceServer<Locks>,
    reviews: ReviewServiceServer<Reviews>,
    incidents: IncidentServiceServer<Incidents>,
    images: ImageServiceServer<Images>,
}

impl Services {
    fn new(app: &Arc<App>) -> Self {
        let app = || Arc::clone(app);
        let most = MAX_MESSAGE_BYTES;
        Self {
            app: app(),
            people: PersonServiceServer::new(People(app())).max_decoding_message_size(most),
            projects: ProjectServiceServer::new(Projects(app())).max_decoding_message_size(most),
            slices: SliceServiceServer::new(Slices(app())).max_decoding_message_size(most),
            hosts: HostServiceServer::new(Hosts(app())).max_decoding_message_size(most),
            audit: AuditServiceServer::new(Auditing(app())).max_decoding_message_size(most),
            agents: AgentServiceServer::new(Agents(app())).max_decoding_message_size(most),
            keys: KeyServiceServer::new(KeyKeeping(app())).max_decoding_message_size(most),
            backups: BackupServiceServer::new(BackupKeeping(app())).max_decoding_message_size(most),
            policies: PolicyServiceServer::new(Policies(app())).max_decoding_message_size(most),
            locks: LockServiceServer::new(Locks(app())).max_decoding_message_size(most),
            reviews: ReviewServiceServer::new(Reviews(app())).max_decoding_message_size(most),
            images: ImageServiceServer::new(Images(app())).max_decoding_message_size(most),
            incidents: IncidentServiceServer::new(Incidents(app())).max_decoding_message_size(most),
        }
    }
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Each of them is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        fn name<S: NamedService>(_: &S) -> &'static str {
            S::NAME
        }
        let path = request.uri().path();
        let (app, peer, path) =
            (Arc::clone(&self.app), request.extensions().get::<Peer>().cloned(), path.to_owned());
        let service = path.strip_prefix('/').and_then(|p| p.split('/').next()).unwrap_or_default();
        if let Some(say) = peer.as_ref().and_then(|peer| exhausted(&self.app, peer)) {
            return Box::pin(async move {
                if let Some(n) = say {
                    note(
                        app,
                        peer,
                        path,
                        format!("{n} of its calls were turned away unheard, after many that were refused"),
                    )
                    .await;
                }
                Ok(tonic::Status::resource_exhausted(EXHAUSTED).into_http())
            });
        }
        let expected = Expected::of(request.headers());
        let heard = once::heard(request).and_then(|mut request| {
            if let Some(expected) = expected? {
                request.extensions_mut().insert(expected);
            }
            Ok(request)
        });
        let request = match heard {
            Ok(request) => request,
            Err(status) => {
                return Box::pin(async move {
                    note(app, peer, path, status.message().to_owned()).await;
                    Ok(status.into_http())
                });
            }
        };
        let answer = match service {
            s if s == name(&self.people) => self.people.call(request),
            s if s == name(&self.projects) => self.projects.call(request),
            s if s == name(&self.slices) => self.slices.call(request),
            s if s == name(&self.hosts) => self.hosts.call(request),
            s if s == name(&self.audit) => self.audit.call(request),
            s if s == name(&self.agents) => self.agents.call(request),
            s if s == name(&self.keys) => self.keys.call(request),
            s if s == name(&self.backups) => self.backups.call(request),
            s if s == name(&self.policies) => self.policies.call(request),
            s if s == name(&self.locks) => self.locks.call(request),
            s if s == name(&self.images) => self.images.call(request),
            s if s == name(&self.reviews) => self.reviews.call(request),
            s if s == name(&self.incidents) => self.incidents.call(request),
            _ => Box::pin(async { Ok(tonic::Status::unimplemented("there is no such service").into_http()) }),
        };
        Box::pin(async move {
            if let Some(peer) = &peer {
                taken_up(&app, peer).await;
            }
            let answer = answer.await?;
            let refused = tonic::Status::from_header_map(answer.headers())
                .filter(|status| status.code() != tonic::Code::Ok);
            match (refused, &peer) {
                // What a handler refuses carries the id of its entry; other calls no handler has heard: a message that is
                // too large, or is none.
                (Some(status), _) if !answer.headers().contains_key(REQUEST) => {
                    let reason = status.message().chars().take(200).flat_map(char::escape_debug).collect();
                    note(app, peer, path, reason).await;
                }
                (None, Some(peer)) => app.callers.answered(&peer.certificate),
                _ => {}
            }
            Ok(answer)
        })
    }
}

/// Whoever comes with the certificate that she renewed hers to has that one from now on.
async fn taken_up(app: &Arc<App>, peer: &Peer) {
    let Some(caller) = peer.caller.clone() else { return };
    let (app, subject, print) = (Arc::clone(app), caller.subject(), peer.certificate.clone());
    if people::taken_up(&app.ledger.state(), &subject, &print).is_none() {
        return;
    }
    let call = Call {
        request: RequestId::new_v4(),
        actor: caller.actor(),
        peer: peer.address.to_string(),
        action: "certificate.use",
        resource: caller.actor(),
        project: None,
        source_time: None,
    };
    let done = tokio::task::spawn_blocking(move || {
        app.ledger
            .commit_if(&call, |state, _| Some(Decided::new(people::taken_up(state, &subject, &print)?, ())))
    });
    // Until it can be noted both are good.
    if let Ok(Err(failure)) = done.await {
        tracing::error!("a renewed certificate is not noted: {failure}");
    }
}

/// What somebody is told whose calls are not heard for a while.
const EXHAUSTED: &str = "too many of your calls were refused: wait, one is heard every 2 s";

/// Whether so many calls with this certificate were refused, or are under way, that no other is heard: each refusal is an
/// entry, for which others wait. Some: how many were turned away, where it is to be said.
#[allow(clippy::option_option, reason = "turned away, and whether that is to be said, are two questions")]
fn exhausted(app: &App, peer: &Peer) -> Option<Option<u64>> {
    peer.caller.as_ref()?;
    match app.callers.begin(&peer.certificate, app.ledger.now()) {
        Admitted::Yes => None,
        Admitted::No { say } => Some(say),
    }
}

async fn note(app: Arc<App>, peer: Option<Peer>, path: String, reason: String) {
    let caller = peer.as_ref().and_then(|p| p.caller.as_ref());
    let call = Call {
        request: RequestId::new_v4(),
        actor: caller.map_or_else(|| "unknown".to_owned(), Caller::actor),
        peer: peer.as_ref().map(|p| p.address.to_string()).unwrap_or_default(),
        action: "call",
        resource: path,
        project: None,
        source_time: None,
    };
    // It fails where the pool of blocking threads is closed: holmd is ending.
    let _ = tokio::task::spawn_blocking(move || app.ledger.refused(&call, &reason)).await;
}
