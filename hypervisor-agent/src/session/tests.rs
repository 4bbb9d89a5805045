//! The session against a stand-in for holmd, over real TLS: what is said when, and what is believed.

use super::*;
use crate::{
    config::SimulateConfig,
    converge::{Engine, Limits, Record},
    edge::Host as _,
    simulate::SimulatedHost,
};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use holm_proto::Bytes;
use holm_proto::v1::{
    TunnelFrame,
    agent_service_server::{AgentService, AgentServiceServer},
    person_service_server::{PersonService, PersonServiceServer},
};
use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    pin::Pin,
    task::{Context, Poll},
    time::SystemTime,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::oneshot,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{
    Request, Response,
    body::Body,
    codegen::{BoxFuture, Service, http},
    transport::server::Connected,
};

/// Everything here happens within milliseconds, or within some syncs of a disk that a hundred other tests write to, which
/// took more than half a minute where it was slow. Only a failure takes this long.
const LIMIT: Duration = Duration::from_secs(180);
const SLICE: &str = "0190163d-8694-739b-aea5-966c26f8ad91";
const VOLUME: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
const RUN: &str = "7d444840-9dc0-11d1-b245-5ffdce74fad2";

/// An authority and what it signs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key of somebody of this name.
    fn sign(&self, name: &str) -> [String; 2] {
        self.sign_with(CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    fn sign_with(&self, params: CertificateParams) -> [String; 2] {
        let key = KeyPair::generate().unwrap();
        [params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem()]
    }
}

/// One session as holmd has it.
struct Theirs {
    said: Streaming<FromAgent>,
    say: mpsc::Sender<Result<ToAgent, Status>>,
    /// What the agent showed of itself.
    certificate: CertificateDer<'static>,
}

type Tunnel = (Streaming<TunnelFrame>, mpsc::Sender<Result<TunnelFrame, Status>>);

/// Signs what a host renews its certificate with, and is asked nothing else.
struct Signs(Arc<Authority>);

#[tonic::async_trait]
impl PersonService for Signs {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let request = CertificateSigningRequestParams::from_pem(&request.into_inner().csr_pem).unwrap();
        let certificate_pem = request.signed_by(&self.0.issuer).unwrap().pem();
        Ok(Response::new(v1::EnrolResponse { certificate_pem, ..Default::default() }))
    }

    async fn who_am_i(&self, _: Request<v1::WhoAmIRequest>) -> Result<Response<v1::Person>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_people(
        &self,
        _: Request<v1::ListPeopleRequest>,
    ) -> Result<Response<v1::ListPeopleResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn invite(&self, _: Request<v1::InviteRequest>) -> Result<Response<v1::Invitation>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn confirm_invitation(
        &self,
        _: Request<v1::ConfirmInvitationRequest>,
    ) -> Result<Response<v1::Person>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn begin_login(
        &self,
        _: Request<v1::BeginLoginRequest>,
    ) -> Result<Response<v1::LoginBegun>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn finish_login(
        &self,
        _: Request<v1::FinishLoginRequest>,
    ) -> Result<Response<v1::LoginStep>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke(&self, _: Request<v1::RevokeRequest>) -> Result<Response<v1::RevokeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Both services, by the path.
#[derive(Clone)]
struct Both(AgentServiceServer<StandIn>, PersonServiceServer<Signs>);

impl Service<http::Request<Body>> for Both {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path().starts_with("/holm.v1.PersonService/") {
            true => self.1.call(request),
            false => self.0.call(request),
        }
    }
}

/// Hands each stream to the test.
struct StandIn {
    sessions: mpsc::Sender<Theirs>,
    tunnels: mpsc::Sender<Tunnel>,
}

#[tonic::async_trait]
impl AgentService for StandIn {
    type SessionStream = ReceiverStream<Result<ToAgent, Status>>;
    type TunnelStream = ReceiverStream<Result<TunnelFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (say, receive) = mpsc::channel(8);
        let certificate = request.extensions().get::<CertificateDer<'static>>().unwrap().clone();
        let theirs = Theirs { said: request.into_inner(), say, certificate };
        self.sessions.send(theirs).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let (say, receive) = mpsc::channel(8);
        let tunnel = (request.into_inner(), say);
        self.tunnels.send(tunnel).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}

/// A connection, of which the certificate at its other end is known.
struct Plain(TlsStream<TcpStream>);

impl Connected for Plain {
    type ConnectInfo = CertificateDer<'static>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

struct World {
    directory: tempfile::TempDir,
    authority: Arc<Authority>,
    host: Arc<SimulatedHost>,
    driver: Arc<Driver>,
    sessions: mpsc::Receiver<Theirs>,
    tunnels: mpsc::Receiver<Tunnel>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<u32>,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("localhost:{}", listener.local_addr().unwrap().port());
        let identity = directory.path().join("identity");
        enrolled(&identity, &authority, &server);
        let (sessions, theirs) = mpsc::channel(1);
        let (tunnels, their_tunnels) = mpsc::channel(1);
        serve(listener, &authority, StandIn { sessions, tunnels });

        let quick = SimulateConfig {
            boot_ms: 1,
            slurm_ms: 1,
            volume_ms: 1,
            start_ms: 1,
            ..SimulateConfig::default()
        };
        let host = Arc::new(SimulatedHost::new(&directory.path().join("host"), quick).unwrap());
        let (record, loaded) = Record::open(&directory.path().join("record")).unwrap();
        let engine = Engine::new(host.clone(), record, loaded, Limits::new(LIMIT, LIMIT));
        let driver = Arc::new(Driver::start(Arc::new(engine)).unwrap());
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        let session = Session::new(Arc::clone(&driver), &identity);
        tokio::spawn(async move {
            let mut ups = 0;
            session.keep(stopped, |_| ups += 1).await;
            let _ = end.send(ups);
        });
        Self { directory, authority, host, driver, sessions: theirs, tunnels: their_tunnels, stop, ended }
    }

    async fn session(&mut self) -> Theirs {
        timeout(LIMIT, self.sessions.recv()).await.expect("no session").unwrap()
    }

    async fn end(self) -> u32 {
        self.stop.send(true).unwrap();
        let ups = timeout(LIMIT, self.ended).await.unwrap().unwrap();
        let driver = self.driver;
        assert!(tokio::task::spawn_blocking(move || driver.stop(LIMIT)).await.unwrap());
        ups
    }
}

/// What `holm enrol --dir` writes.
fn enrolled(directory: &Path, authority: &Authority, server: &str) {
    let [certificate, key] = authority.sign("dgx2-1");
    fs::create_dir_all(directory).unwrap();
    let profile = format!("server = \"{server}\"\nidentity = \"dgx2-1\"\n");
    for (name, text) in [
        ("cert.pem", certificate),
        ("key.pem", key),
        ("ca.pem", authority.pem.clone()),
        ("profile.toml", profile),
    ] {
        fs::write(directory.join(name), text).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

fn serve(listener: TcpListener, authority: &Arc<Authority>, stand_in: StandIn) {
    let [certificate, key] = authority.sign("localhost");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let clients =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (send, receive) = mpsc::channel::<Result<Plain, io::Error>>(1);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A stranger is turned away and the next one heard.
            if let Ok(stream) = acceptor.accept(stream).await
                && send.send(Ok(Plain(stream))).await.is_err()
            {
                return;
            }
        }
    });
    let server = tonic::transport::Server::builder();
    let agents = AgentServiceServer::new(stand_in);
    let service = Both(agents, PersonServiceServer::new(Signs(Arc::clone(authority))));
    tokio::spawn(async move { server.serve_with_incoming(service, ReceiverStream::new(receive)).await });
}

impl Theirs {
    async fn hear(&mut self) -> from_agent::Body {
        let message = timeout(LIMIT, self.said.message()).await.expect("silence");
        message.unwrap().expect("the agent left").body.unwrap()
    }

    async fn say(&self, body: to_agent::Body) {
        self.say.send(Ok(ToAgent { body: Some(body) })).await.unwrap();
    }

    async fn hello(&mut self) -> Hello {
        match self.hear().await {
            from_agent::Body::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// Hears until something of this kind is said.
    async fn until<T>(&mut self, mut wanted: impl FnMut(from_agent::Body) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.hear().await) {
                return found;
            }
        }
    }

    async fn phase(&mut self, phase: v1::Phase) -> v1::Observed {
        self.until(|body| match body {
            from_agent::Body::Observed(observed) => {
                observed.slices.iter().any(|slice| slice.phase() == phase).then_some(observed)
            }
            _ => None,
        })
        .await
    }

    async fn report(&mut self) -> v1::SanitiseReport {
        self.until(|body| match body {
            from_agent::Body::SanitiseReport(report) => Some(report),
            _ => None,
        })
        .await
    }
}

fn intended(generation: u64, slice: Option<(u64, v1::Goal)>, run: bool) -> to_agent::Body {
    let slice = slice.map(|(generation, goal)| v1::IntendedSlice {
        slice_id: SLICE.to_owned(),
        generation,
        goal: goal.into(),
        project: "heart-study".to_owned(),
        disk_gib: 10,
        memory_mib: 1024,
        vcpus: 1,
        devices: vec!["0000:34:00.0".to_owned()],
        partition: 17,
        volume_id: VOLUME.to_owned(),
        ..Default::default()
    });
    let run =
        run.then(|| v1::SanitiseRun { run_id: RUN.to_owned(), devices: vec!["0000:34:00.0".to_owned()] });
    to_agent::Body::Intended(v1::Intended {
        generation,
        slices: slice.into_iter().collect(),
        runs: run.into_iter().collect(),
        ..Default::default()
    })
}

fn key() -> to_agent::Body {
    to_agent::Body::VolumeKey(v1::VolumeKey {
        slice_id: SLICE.to_owned(),
        volume_id: VOLUME.to_owned(),
        generation: 1,
        key: vec![7; 32],
        others: Vec::new(),
        ..Default::default()
    })
}

async fn bring_up(theirs: &mut Theirs) {
    theirs.say(intended(2, Some((1, v1::Goal::Run)), false)).await;
    let asked = theirs
        .until(|body| match body {
            from_agent::Body::KeyRequest(request) => Some(request),
            _ => None,
        })
        .await;
    assert_eq!((asked.slice_id.as_str(), asked.volume_id.as_str(), asked.generation), (SLICE, VOLUME, 1));
    theirs.say(key()).await;
    let observed = theirs.phase(v1::Phase::Ready).await;
    assert_eq!((observed.generation, observed.attached.as_slice()), (2, &["0000:34:00.0".to_owned()][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_in_time_and_the_next_session_uses_it() {
    let mut world = World::new().await;
    let mut theirs = world.session().await;
    theirs.hello().await;
    let directory = world.directory.path().join("identity");
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap();
    // Nine of ten days are over.
    let days = |n: u64| Duration::from_secs(n * 86_400);
    let mut old = CertificateParams::new(vec!["dgx2-1".to_owned()]).unwrap();
    let until = SystemTime::now() + days(1);
    (old.not_before, old.not_after) = ((until - days(10)).into(), until.into());
    let [certificate, key] = world.authority.sign_with(old);
    fs::write(directory.join("cert.pem"), &certificate).unwrap();
    fs::write(directory.join("key.pem"), &key).unwrap();
    theirs.say(intended(1, None, false)).await;
    let renewed = async {
        while read("cert.pem") == certificate {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, renewed).await.expect("it is not renewed");
    // With its key in one file, which nobody else reads.
    assert!(read("key.pem").ends_with(&read("cert.pem")) && !read("key.pem").contains(&key));
    assert_eq!(fs::metadata(directory.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let now = Identity::load(&directory).unwrap();
    assert!(now.validity.1 > until);
    // Of the two alone neither is missed.
    let new = CertificateDer::from_pem_slice(read("cert.pem").as_bytes()).unwrap();
    fs::remove_file(directory.join("cert.pem")).unwrap();
    assert!(theirs.certificate != new);
    drop(theirs);
    let mut theirs = world.session().await;
    theirs.hello().await;
    assert!(theirs.certificate == new);
    // Enrolled anew, the certificate is the one beside it again.
    fs::write(directory.join("key.pem"), &key).unwrap();
    assert!(Identity::load(&directory).is_err());
    fs::write(directory.join("cert.pem"), &certificate).unwrap();
    assert!(Identity::load(&directory).unwrap().validity.1 <= until);
    drop(theirs);
    world.end().await;
}

#[tokio::test]
async fn a_slice_from_its_devices_cleaning_to_its_end() {
    let mut world = World::new().await;
    let mut theirs = world.session().await;
    let hello = theirs.hello().await;
    assert!(hello.simulated && hello.platform == "dgx-2" && hello.seen_generation == 0);
    assert_eq!(hello.inventory.unwrap().devices.len(), 28);
    // Nothing is reported before it is known of what.
    assert!(timeout(Duration::from_millis(100), theirs.said.message()).await.is_err());
    theirs.say(intended(1, None, true)).await;
    let report = theirs.report().await;
    assert!(report.run_id == RUN && report.evidence[0].cleaned && report.evidence[0].bytes_dirty_before > 0);
    bring_up(&mut theirs).await;

    // A connection to it, and one to what is not there.
    let open = |slice: &str| v1::OpenTunnel { tunnel_id: "t".to_owned(), slice_id: slice.to_owned() };
    theirs.say(to_agent::Body::OpenTunnel(open(SLICE))).await;
    let (mut frames, say) = timeout(LIMIT, world.tunnels.recv()).await.unwrap().unwrap();
    assert_eq!(frames.message().await.unwrap().unwrap().tunnel_id, "t");
    let text = b"SSH-2.0-x".repeat(20_000);
    let sent = text.clone();
    let sender = tokio::spawn(async move {
        for piece in sent.chunks(10_000) {
            say.send(Ok(TunnelFrame { data: Bytes::copy_from_slice(piece), ..Default::default() }))
                .await
                .unwrap();
        }
    });
    let mut echo = Vec::new();
    while let Some(frame) = timeout(LIMIT, frames.message()).await.unwrap().unwrap() {
        assert!(frame.data.len() <= 64 * 1024 && frame.error.is_empty());
        echo.extend(frame.data);
    }
    // The sender was dropped at its end, and so the guest saw the end and closed.
    sender.await.unwrap();
    assert!(echo == text);
    theirs.say(to_agent::Body::OpenTunnel(open(VOLUME))).await;
    let (mut frames, _say) = timeout(LIMIT, world.tunnels.recv()).await.unwrap().unwrap();
    assert!(frames.message().await.unwrap().unwrap().error.contains("does not run here"));

    theirs.say(intended(3, Some((2, v1::Goal::Destroyed)), false)).await;
    let observed = theirs.phase(v1::Phase::Absent).await;
    assert!(observed.slices[0].volume_erased && observed.attached.is_empty());
    assert_eq!(world.host.machine().leaks, Vec::<String>::new());
    drop(theirs);
    world.end().await;
}

#[tokio::test]
async fn a_lost_session_is_found_again_and_nothing_is_lost_with_it() {
    let mut world = World::new().await;
    let mut theirs = world.session().await;
    theirs.hello().await;
    theirs.say(intended(1, None, true)).await;
    let report = theirs.report().await;
    drop(theirs);
    // It did not get through: it is told again, in the same words.
    let mut theirs = world.session().await;
    assert_eq!(theirs.hello().await.seen_generation, 1);
    theirs.say(intended(1, None, true)).await;
    assert_eq!(theirs.report().await, report);
    bring_up(&mut theirs).await;
    theirs.say.send(Err(Status::unavailable("holmd is stopping"))).await.unwrap();
    let mut theirs = world.session().await;
    assert_eq!(theirs.hello().await.seen_generation, 2);
    assert!(world.host.domains().unwrap()[0].running);
    theirs.say(intended(2, Some((1, v1::Goal::Run)), false)).await;
    theirs.phase(v1::Phase::Ready).await;
    // An older holmd is not listened to.
    theirs.say(intended(1, Some((9, v1::Goal::Destroyed)), false)).await;
    let mut theirs = world.session().await;
    assert_eq!(theirs.hello().await.seen_generation, 2);
    assert!(world.host.domains().unwrap()[0].running);
    // It is heard from now and then, whether or not something happened.
    theirs.say(intended(2, Some((1, v1::Goal::Run)), false)).await;
    for _ in 0..3 {
        theirs.phase(v1::Phase::Ready).await;
    }
    assert_eq!(world.end().await, 4);
}

#[tokio::test]
async fn what_a_guest_claims_is_said_until_holmd_has_it_in_the_log() {
    let mut world = World::new().await;
    let mut theirs = world.session().await;
    theirs.hello().await;
    theirs.say(intended(1, None, true)).await;
    theirs.report().await;
    bring_up(&mut theirs).await;
    let claims = |body| match body {
        from_agent::Body::GuestClaims(claims) => Some(claims).filter(|claims| !claims.claims.is_empty()),
        _ => None,
    };
    let first = theirs.until(claims).await;
    assert_eq!((first.slice_id.as_str(), first.generation, first.claims[0].seq), (SLICE, 1, 1));
    theirs.say.send(Err(Status::unavailable("holmd is stopping"))).await.unwrap();
    let mut theirs = world.session().await;
    theirs.hello().await;
    theirs.say(intended(2, Some((1, v1::Goal::Run)), false)).await;
    assert_eq!(theirs.until(claims).await, first, "it was not acknowledged");
    let last = first.claims.last().unwrap().seq;
    let ack = v1::GuestAck { slice_id: SLICE.to_owned(), boot: first.boot.clone(), seq: last };
    theirs.say(to_agent::Body::GuestAck(ack)).await;
    drop(world.host.connect_ssh(SLICE.parse().unwrap()).unwrap());
    let next = theirs.until(claims).await;
    assert!(next.claims.iter().map(|claim| claim.seq).eq(last + 1..=last + 4), "{next:?}");
    drop(theirs);
    world.end().await;
}

#[tokio::test]
async fn the_host_says_how_fit_it_is_and_signs_it() {
    let mut world = World::new().await;
    let key = world.directory.path().join("identity/key.pem");
    let key = KeyPair::from_pem(&fs::read_to_string(key).unwrap()).unwrap();
    for _ in 0..2 {
        let mut theirs = world.session().await;
        theirs.hello().await;
        theirs.say(intended(1, None, false)).await;
        let signed = theirs
            .until(|body| match body {
                from_agent::Body::Commissioning(signed) => Some(signed),
                _ => None,
            })
            .await;
        let public = rcgen::PublicKeyData::der_bytes(&key);
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public);
        public.verify(&signed.report, &signed.signature).unwrap();
        let report = v1::Commissioning::decode(signed.report.as_slice()).unwrap();
        assert!(report.simulated && report.checks.is_empty() && report.at.is_some());
    }
    world.end().await;
}

#[test]
fn what_was_said_is_said_again_only_where_it_is_news() {
    let directory = tempfile::tempdir().unwrap();
    enrolled(directory.path(), &Authority::new(), "holmd.example:7443");
    let identity = Identity::load(directory.path()).unwrap();
    let mut said = Commissioned::default();
    let report = |found: &str| {
        let check = v1::Check { id: "swap-off".to_owned(), found: found.to_owned(), ..Default::default() };
        v1::Commissioning { checks: vec![check], ..crate::commission::simulated() }
    };
    assert!(said.news(report("no swap"), &identity).is_some());
    assert!(said.news(report("no swap"), &identity).is_none());
    assert!(said.news(report("/dev/sda2"), &identity).is_some());
}

#[tokio::test]
async fn a_stranger_is_not_holmd() {
    let mut world = World::new().await;
    world.session().await.hello().await;
    let mine = Authority::new();
    let identity = world.directory.path().join("identity");
    let profile = fs::read_to_string(identity.join("profile.toml")).unwrap();
    let server = profile.split('"').nth(1).unwrap().to_owned();
    // One that another authority vouches for, and one whom holmd does not know.
    for (name, text) in [("ca.pem", mine.pem.clone()), ("cert.pem", mine.sign("dgx2-1")[0].clone())] {
        let before = fs::read(identity.join(name)).unwrap();
        fs::write(identity.join(name), text).unwrap();
        let outcome = async {
            let identity = Identity::load(&identity).map_err(SessionError::from)?;
            let mut client = AgentServiceClient::new(dial(&identity).await?);
            client.session(tokio_stream::pending()).await.map_err(SessionError::from)
        };
        assert!(timeout(LIMIT, outcome).await.is_ok_and(|outcome| outcome.is_err()), "{name}");
        fs::write(identity.join(name), before).unwrap();
    }
    let name =
        Identity { server: server.replace("localhost", "127.0.0.1"), ..Identity::load(&identity).unwrap() };
    dial(&name).await.expect("the name that is checked is the one in the profile");
}

#[test]
fn an_identity_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let path = directory.path().join("agent");
    let error = Identity::load(&path).unwrap_err().to_string();
    assert!(error.contains("holm enrol CODE --dir"), "{error}");
    enrolled(&path, &authority, "holmd.example:7443");
    let identity = Identity::load(&path).unwrap();
    assert_eq!((identity.server.as_str(), identity.host.as_str()), ("holmd.example:7443", "dgx2-1"));
    for (name, text) in [
        ("profile.toml", "server = \"holmd\"\nidentity = \"x\"\n"),
        ("profile.toml", "identity = \"x\"\n"),
        ("cert.pem", ""),
        ("ca.pem", "nothing"),
        ("key.pem", "nothing"),
    ] {
        let before = fs::read(path.join(name)).unwrap();
        fs::write(path.join(name), text).unwrap();
        let error = Identity::load(&path).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        fs::write(path.join(name), before).unwrap();
    }
    for mode in [0o640, 0o604] {
        fs::set_permissions(path.join("key.pem"), fs::Permissions::from_mode(mode)).unwrap();
        let error = Identity::load(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn pauses_are_never_at_the_same_time() {
    let pauses: BTreeSet<Duration> = (0..64).map(|_| jittered(Duration::from_secs(8))).collect();
    assert!(pauses.len() > 8);
    assert!(pauses.iter().all(|pause| (4..=8).contains(&pause.as_secs())));
}

#[test]
fn an_inventory_is_news_where_a_device_came_went_or_is_not_well() {
    let directory = tempfile::tempdir().unwrap();
    let host = SimulatedHost::new(directory.path(), SimulateConfig::default()).unwrap();
    let before = host.inventory().unwrap();
    let news = |change: fn(&mut v1::Inventory)| {
        let mut after = before.clone();
        change(&mut after);
        what_matters(&after) != what_matters(&before)
    };
    assert!(!news(|all| all.devices[0].driver = "nvidia".to_owned()));
    assert!(news(|all| drop(all.devices.remove(0))));
    assert!(news(|all| all.devices[0].id = "10de:1db6".to_owned()));
    assert!(news(|all| all.devices[0].problem = "its group is not viable".to_owned()));
    assert!(news(|all| {
        all.devices[0].health =
            Some(v1::Health { state: v1::HealthState::Failed.into(), ..Default::default() });
    }));
}
