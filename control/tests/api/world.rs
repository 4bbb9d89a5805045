//! A Holm with people, a host and a made-up agent.

use futures::StreamExt;
use holm_control::api::{self, Running};
use holm_control::app::App;
use holm_control::audit::Entry;
use holm_control::config::Config;
use holm_control::domain::State;
use holm_control::domain::people;
use holm_control::domain::records::{Change, Host, Record, Subject};
use holm_control::identity::{Authority, Caller, Usage, Wanted};
use holm_control::keys::ProviderConfig;
use holm_control::ledger::{Call, Decided};
use holm_control::setup::{self, Options};
use holm_proto::ids::Name;
use holm_proto::v1;
use holm_proto::v1::agent_service_client::AgentServiceClient;
use holm_proto::v1::audit_service_client::AuditServiceClient;
use holm_proto::v1::backup_service_client::BackupServiceClient;
use holm_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use holm_proto::v1::host_service_client::HostServiceClient;
use holm_proto::v1::image_service_client::ImageServiceClient;
use holm_proto::v1::incident_service_client::IncidentServiceClient;
use holm_proto::v1::key_service_client::KeyServiceClient;
use holm_proto::v1::lock_service_client::LockServiceClient;
use holm_proto::v1::person_service_client::PersonServiceClient;
use holm_proto::v1::project_service_client::ProjectServiceClient;
use holm_proto::v1::review_service_client::ReviewServiceClient;
use holm_proto::v1::slice_service_client::SliceServiceClient;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version::TLS13};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// Nothing here takes as long as this.
pub const SOON: Duration = Duration::from_secs(30);

pub struct World {
    pub app: Arc<App>,
    pub running: Running,
    pub dir: tempfile::TempDir,
    people: BTreeMap<String, Channel>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Holder {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Arc<KeyPair>,
}

/// The pack in this directory, with this said otherwise, where it is said first: of level 2.
pub fn pack(dir: &std::path::Path, level: &[(&str, &str)]) -> String {
    let from = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../policies/packs/aau-2018");
    for file in ["pack.toml", "schema.cedarschema", "policies.cedar"] {
        std::fs::copy(from.join(file), dir.join(file)).unwrap();
    }
    let mut text = std::fs::read_to_string(dir.join("pack.toml")).unwrap();
    for (was, is) in level {
        assert!(text.contains(was));
        text = text.replacen(was, is, 1);
    }
    std::fs::write(dir.join("pack.toml"), text).unwrap();
    dir.display().to_string()
}

pub fn options(dir: &std::path::Path) -> Options {
    Options {
        dir: dir.join("holmd"),
        server: "localhost:7443".to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        enrol_listen: "127.0.0.1:0".parse().unwrap(),
        pack: "aau-2018".to_owned(),
        log_origin: "holm.test/log".to_owned(),
        platform: "dgx-2".to_owned(),
        operator: "olga".parse().unwrap(),
        officers: vec!["frida".parse().unwrap(), "gustav".parse().unwrap()],
    }
}

impl World {
    /// olga operates, frida and gustav are officers; everybody else is invited by them.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With what a test has to say of the configuration.
    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = setup::init(&options(dir.path())).unwrap();
        let mut config = Config::load(&made.config).unwrap();
        // Alarms are entries that come by themselves: only tests of them have any.
        config.watch = Some(Vec::new());
        change(&mut config);
        let app = Arc::new(App::open(config.clone()).unwrap());
        let running = api::start(Arc::clone(&app)).await.unwrap();
        let mut world = Self { app, running, dir, people: BTreeMap::new() };
        for (name, _, code) in made.invited {
            world.enrol(name.as_str(), &code).await.unwrap();
        }
        world
    }

    /// The usual: two leads, each with a researcher, an auditor, a lead who is an officer too; a host.
    pub async fn full() -> Self {
        Self::full_of(|_| {}).await
    }

    pub async fn full_with(keys: ProviderConfig) -> Self {
        Self::full_of(|config| config.keys = keys).await
    }

    pub async fn full_of(change: impl FnOnce(&mut Config)) -> Self {
        let mut world = Self::with(change).await;
        for (name, role) in [
            ("dina", "lead"),
            ("rosa", "researcher"),
            ("lars", "lead"),
            ("rune", "researcher"),
            ("anna", "auditor"),
        ] {
            world.invite("olga", name, &[role]).await;
        }
        world.invite_host("dgx").await;
        world.project("dina", "heart", "2").await.unwrap();
        world.member("dina", "heart", "rosa").await.unwrap();
        world.project("lars", "brain", "3").await.unwrap();
        world
    }

    /// holmd ends; what it leaves on disk. Returns when nothing of it is open any more.
    pub async fn end(self) -> tempfile::TempDir {
        let Self { app, running, dir, people } = self;
        running.stop().await;
        drop(people);
        let released = async {
            while Arc::strong_count(&app) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, released).await.expect("something holds on to holmd");
        dir
    }

    /// holmd ends, and begins again at the same addresses.
    pub async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    /// The same, configured otherwise.
    pub async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Self {
        let (listen, enrol_listen) = (self.running.address, self.running.enrolment);
        let mut config = Config { listen, enrol_listen, ..self.app.config.clone() };
        change(&mut config);
        let people = self.people.clone();
        let dir = self.end().await;
        let app = Arc::new(App::open(config.clone()).unwrap());
        let running = api::start(Arc::clone(&app)).await.unwrap();
        Self { app, running, dir, people }
    }

    pub async fn invite(&mut self, by: &str, name: &str, roles: &[&str]) {
        let request = v1::InviteRequest {
            subject: Some(v1::invite_request::Subject::Person(name.to_owned())),
            roles: roles.iter().map(ToString::to_string).collect(),
        };
        let made = self.person(by).invite(request).await.unwrap().into_inner();
        if !made.waits.is_empty() {
            let second = if by == "frida" { "gustav" } else { "frida" };
            self.confirm(second, name).await.unwrap();
        }
        self.enrol(name, &made.code).await.unwrap();
    }

    pub async fn confirm(&self, by: &str, name: &str) -> Result<v1::Person, Status> {
        let all =
            self.person("frida").list_people(v1::ListPeopleRequest::default()).await?.into_inner().people;
        let waits = all.into_iter().find(|p| p.name == name).and_then(|p| p.waits);
        let id = waits.map(|code| code.id).unwrap_or_default();
        let request = v1::ConfirmInvitationRequest { person: name.to_owned(), dry_run: false, id };
        self.person(by).confirm_invitation(request).await.map(tonic::Response::into_inner)
    }

    pub async fn invite_host(&mut self, name: &str) {
        let subject = Some(v1::invite_request::Subject::Host(name.to_owned()));
        let request = v1::InviteRequest { subject, roles: Vec::new() };
        let code = self.person("olga").invite(request).await.unwrap().into_inner().code;
        self.enrol(name, &code).await.unwrap();
    }

    /// With the code alone, as `holm enrol` does it.
    pub async fn enrol(&mut self, name: &str, code: &str) -> Result<v1::EnrolResponse, Status> {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let request = v1::EnrolRequest { code: code.to_owned(), csr_pem: csr };
        let ca = code.rsplit('-').next().unwrap_or_default();
        let answer = self.enrolment(ca).enrol(request).await?.into_inner();
        let chain = vec![CertificateDer::from_pem_slice(answer.certificate_pem.as_bytes()).unwrap()];
        let channel = self.channel(Some(&Holder { chain, key: Arc::new(key) }));
        self.people.insert(name.to_owned(), channel);
        Ok(answer)
    }

    pub fn enrolment(&self, ca: &str) -> EnrolmentServiceClient<Channel> {
        EnrolmentServiceClient::new(self.stranger(ca))
    }

    /// Somebody without a certificate, at the listener for enrolment.
    pub fn stranger(&self, ca: &str) -> Channel {
        channel(self.running.enrolment, Arc::new(config_for_enrolment(ca)))
    }

    /// Whatever the authority is made to sign.
    pub fn signed(&self, wanted: &Wanted) -> Holder {
        signed(&self.app.authority, wanted)
    }

    /// A good certificate for somebody, whether or not she is known.
    pub fn holder(&self, caller: &Caller) -> Holder {
        self.signed(&Wanted::of(caller, SignedDuration::from_hours(24), Timestamp::now()))
    }

    /// Let this certificate be the newest of whom it names.
    pub fn note(&self, holder: &Holder) {
        let subject = match Caller::of(&holder.chain[0]).unwrap().0 {
            Caller::Person(name) => Subject::Person(name),
            Caller::Host(name) => Subject::Host(name),
        };
        let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &holder.chain[0]);
        let print = data_encoding::HEXLOWER.encode(digest.as_ref());
        let call = Call::own("test", String::new());
        let noted = self
            .app
            .ledger
            .commit(&call, |state, _| Ok(Decided::new(people::certified(state, &subject, &print, true), ())));
        noted.unwrap();
    }

    pub fn channel(&self, holder: Option<&Holder>) -> Channel {
        self.channel_to(self.running.address, holder)
    }

    pub fn channel_to(&self, address: SocketAddr, holder: Option<&Holder>) -> Channel {
        let mut roots = RootCertStore::empty();
        roots.add(self.app.authority.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let config = match holder {
            None => config.with_no_client_auth(),
            Some(h) => {
                let key = PrivateKeyDer::try_from(h.key.serialize_der()).unwrap();
                config.with_client_auth_cert(h.chain.clone(), key).unwrap()
            }
        };
        channel(address, Arc::new(config))
    }

    pub fn of(&self, who: &str) -> Channel {
        self.people.get(who).unwrap_or_else(|| panic!("{who} is not enrolled")).clone()
    }

    /// Let this name use that connection.
    pub fn know(&mut self, name: &str, channel: Channel) {
        self.people.insert(name.to_owned(), channel);
    }

    pub fn person(&self, who: &str) -> PersonServiceClient<Channel> {
        PersonServiceClient::new(self.of(who)).max_encoding_message_size(usize::MAX)
    }

    pub fn projects(&self, who: &str) -> ProjectServiceClient<Channel> {
        ProjectServiceClient::new(self.of(who)).max_encoding_message_size(usize::MAX)
    }

    pub fn slices(&self, who: &str) -> SliceServiceClient<Channel> {
        SliceServiceClient::new(self.of(who))
    }

    pub fn hosts(&self, who: &str) -> HostServiceClient<Channel> {
        HostServiceClient::new(self.of(who))
    }

    pub fn backups(&self, who: &str) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.of(who))
    }

    pub fn keys(&self, who: &str) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.of(who))
    }

    pub fn locks(&self, who: &str) -> LockServiceClient<Channel> {
        LockServiceClient::new(self.of(who))
    }

    pub fn incidents(&self, who: &str) -> IncidentServiceClient<Channel> {
        IncidentServiceClient::new(self.of(who))
    }

    pub fn images(&self, who: &str) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.of(who))
    }

    pub fn reviews(&self, who: &str) -> ReviewServiceClient<Channel> {
        ReviewServiceClient::new(self.of(who))
    }

    /// Rotate a project's key; without a project the key-encryption key.
    pub async fn rotate(&self, who: &str, project: Option<&str>) -> Result<v1::Keys, Status> {
        use v1::rotate_keys_request::What;
        let what = project.map_or(What::Kek(true), |name| What::Project(name.to_owned()));
        Ok(self.keys(who).rotate_keys(v1::RotateKeysRequest { what: Some(what) }).await?.into_inner())
    }

    pub fn audit(&self, who: &str) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.of(who))
    }

    pub fn agents(&self, who: &str) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.of(who))
    }

    pub async fn project(&self, who: &str, name: &str, level: &str) -> Result<v1::Project, Status> {
        let request = v1::CreateProjectRequest {
            name: name.to_owned(),
            level: level.to_owned(),
            purpose: "a study".to_owned(),
            registration: Some(filed()),
            ..Default::default()
        };
        self.projects(who).create_project(request).await.map(tonic::Response::into_inner)
    }

    /// File something of a project.
    pub async fn file(
        &self,
        who: &str,
        project: &str,
        what: v1::Registration,
    ) -> Result<v1::Project, Status> {
        let request =
            v1::FileProjectRequest { project: project.to_owned(), registration: Some(what), dry_run: false };
        self.projects(who).file_project(request).await.map(tonic::Response::into_inner)
    }

    pub async fn member(&self, who: &str, project: &str, person: &str) -> Result<v1::Project, Status> {
        let request = v1::AddMemberRequest {
            project: project.to_owned(),
            person: person.to_owned(),
            external_agreement: None,
            read_only: None,
        };
        self.projects(who).add_member(request).await.map(tonic::Response::into_inner)
    }

    pub async fn request(&self, who: &str, slice: &str, gpus: u32) -> Result<v1::Slice, Status> {
        let r = reference(slice);
        let request =
            v1::RequestSliceRequest { project: r.project, name: r.name, gpus, ..Default::default() };
        self.slices(who).request_slice(request).await.map(tonic::Response::into_inner)
    }

    pub async fn approve(&self, who: &str, slice: &str) -> Result<v1::Slice, Status> {
        self.slices(who).approve_slice(decide(slice, "seen")).await.map(tonic::Response::into_inner)
    }

    pub async fn close(&self, who: &str, slice: &str) -> Result<v1::Slice, Status> {
        self.slices(who).close_slice(decide(slice, "")).await.map(tonic::Response::into_inner)
    }

    pub async fn get(&self, who: &str, slice: &str) -> Result<v1::Slice, Status> {
        self.slices(who).get_slice(reference(slice)).await.map(tonic::Response::into_inner)
    }

    /// Watch it until it is in this state.
    pub async fn until(&self, who: &str, slice: &str, state: v1::SliceState) -> v1::Slice {
        self.until_it(who, slice, |now| now.state() == state).await
    }

    pub async fn until_it(&self, who: &str, slice: &str, is: impl Fn(&v1::Slice) -> bool) -> v1::Slice {
        let mut watched = self.slices(who).watch_slice(reference(slice)).await.unwrap().into_inner();
        let mut last = None;
        let wait = async {
            while let Some(Ok(now)) = watched.next().await {
                if is(&now) {
                    return now;
                }
                last = Some(now);
            }
            panic!("the stream ended");
        };
        tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{slice} is {last:?}"))
    }

    /// The whole log.
    /// What its agent said of itself is taken back: nothing on the host is real, but it counts as if it were.
    pub fn pretend_real(&self, host: &str) {
        let host: Name = host.parse().unwrap();
        let call = Call::own("test", format!("host/{host}"));
        let real = |state: &State, _| {
            let host = Host { simulated: false, ..state.hosts[&host].clone() };
            Ok(Decided::new(vec![Change::Put(Record::Host(host))], ()))
        };
        self.app.ledger.commit(&call, real).unwrap();
    }

    pub fn log(&self) -> Vec<Entry> {
        let bodies = self.app.ledger.entries(0, self.app.ledger.size()).unwrap();
        bodies.iter().map(|body| Entry::from_bytes(body).unwrap()).collect()
    }

    /// Wait for an entry.
    pub async fn logged(&self, what: impl Fn(&Entry) -> bool) -> Entry {
        let mut sizes = self.app.ledger.subscribe();
        let wait = async {
            loop {
                sizes.mark_unchanged();
                if let Some(entry) = self.log().into_iter().rev().find(&what) {
                    return entry;
                }
                sizes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(SOON, wait)
            .await
            .unwrap_or_else(|_| panic!("no such entry in {:#?}", self.log()))
    }
}

/// All that any level demands, and that does not run out soon.
pub fn filed() -> v1::Registration {
    let year = ahead(SignedDuration::from_hours(365 * 24));
    let paper = || Some(v1::Filed { reference: "2026-17".to_owned(), expires: Some(year) });
    v1::Registration {
        legal_basis: Some("e".to_owned()),
        special_categories: Some(true),
        special_basis: Some("j".to_owned()),
        research: Some(true),
        dpia: paper(),
        ethics: paper(),
        data_management_plan: paper(),
        ends: Some(year),
        ..Default::default()
    }
}

/// A time to come.
pub fn ahead(time: SignedDuration) -> prost_types::Timestamp {
    let at = Timestamp::now().checked_add(time).unwrap();
    prost_types::Timestamp { seconds: at.as_second(), nanos: 0 }
}

pub fn reference(slice: &str) -> v1::SliceRef {
    let (project, name) = slice.split_once('/').unwrap();
    v1::SliceRef { project: project.to_owned(), name: name.to_owned() }
}

pub fn decide(slice: &str, comment: &str) -> v1::DecideSliceRequest {
    v1::DecideSliceRequest {
        slice: Some(reference(slice)),
        comment: comment.to_owned(),
        ..Default::default()
    }
}

/// The next command that came with a refusal.
pub fn hint(status: &Status) -> String {
    let bytes = status.metadata().get_bin(api::HINT).map(|v| v.to_bytes().unwrap());
    bytes.map(|b| String::from_utf8(b.to_vec()).unwrap()).unwrap_or_default()
}

pub fn signed(authority: &Authority, wanted: &Wanted) -> Holder {
    let key = KeyPair::generate().unwrap();
    let issued = authority.sign(&key, wanted).unwrap();
    Holder { chain: vec![issued.der], key: Arc::new(key) }
}

pub fn wanted(uris: &[&str], from_hours: i64, until_hours: i64) -> Wanted {
    let at = |hours: i64| Timestamp::now().checked_add(SignedDuration::from_hours(hours)).unwrap();
    Wanted {
        uris: uris.iter().map(ToString::to_string).collect(),
        hosts: Vec::new(),
        usage: Usage::Client,
        from: at(from_hours),
        until: at(until_hours),
    }
}

fn channel(address: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").unwrap();
            tls.connect(name, tcp).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").timeout(SOON).connect_with_connector_lazy(connect)
}

/// Trusts the authority with this hash, which must be in the server's chain.
#[derive(Debug)]
struct ByHash(String);

fn config_for_enrolment(ca: &str) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ByHash(ca.to_owned())))
        .with_no_client_auth()
}

impl ServerCertVerifier for ByHash {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = rest.last().ok_or(rustls::Error::General("no authority in the chain".to_owned()))?;
        let digest = aws_lc_rs_digest(ca);
        if !digest.starts_with(&self.0) {
            return Err(rustls::Error::General("another authority".to_owned()));
        }
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        inner.verify_server_cert(leaf, &[], name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        unreachable!("TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

fn aws_lc_rs_digest(bytes: &[u8]) -> String {
    let digest = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes);
    data_encoding::BASE32_NOPAD.encode(digest.as_ref()).to_lowercase()
}

/// An agent that does what the test says.
pub struct Agent {
    pub out: mpsc::Sender<v1::FromAgent>,
    pub inbound: Streaming<v1::ToAgent>,
    pub intended: v1::Intended,
    pub gone: bool,
    /// The run that cleaned each device, as its own record would have it.
    pub clean: BTreeMap<String, String>,
    /// The slices that it reported last.
    pub last: Mutex<Vec<v1::ObservedSlice>>,
}

/// Bytes of each GPU's memory.
const MEMORY: u64 = 1 << 20;

pub fn address(number: u32) -> String {
    format!("0000:{number:02x}:00.0")
}

pub fn hello(seen_generation: u64) -> v1::Hello {
    let devices = (1..=16)
        .map(|n| v1::PciDevice {
            address: address(n),
            kind: v1::DeviceKind::Gpu.into(),
            id: "10de:1db8".to_owned(),
            numa_node: 0,
            iommu_group: Some(n),
            physical_id: Some(n),
            driver: "vfio-pci".to_owned(),
            reset_methods: vec!["flr".to_owned()],
            memory_bytes: MEMORY,
            problem: String::new(),
            ..Default::default()
        })
        .collect();
    v1::Hello {
        watch: "one run of the agent".to_owned(),
        agent_version: "0.1.0".to_owned(),
        simulated: true,
        platform: "dgx-2".to_owned(),
        inventory: Some(v1::Inventory {
            cpus: 96,
            numa_nodes: 2,
            memory_mib: 1_500_000,
            iommu: true,
            kernel: "6.12".to_owned(),
            backups: "directory".to_owned(),
            devices,
            ..Default::default()
        }),
        seen_generation,
    }
}

pub fn frame(body: v1::from_agent::Body) -> v1::FromAgent {
    // By the host's clock, which is not ours.
    let time = Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 });
    v1::FromAgent { body: Some(body), time }
}

impl Agent {
    pub async fn dial(world: &World, host: &str, hello: v1::Hello) -> Result<Self, Status> {
        let (out, frames) = mpsc::channel(32);
        out.send(frame(v1::from_agent::Body::Hello(hello))).await.unwrap();
        // A session outlives any call: it has no deadline.
        let mut request = Request::new(ReceiverStream::new(frames));
        request.set_timeout(Duration::from_secs(3600));
        let inbound = world.agents(host).session(request).await?.into_inner();
        Ok(Self {
            out,
            inbound,
            intended: v1::Intended::default(),
            gone: false,
            clean: BTreeMap::new(),
            last: Mutex::default(),
        })
    }

    /// Connected, all GPUs cleaned.
    pub async fn ready(world: &World, host: &str) -> Self {
        let mut agent = Self::dial(world, host, hello(0)).await.unwrap();
        agent.hear().await;
        agent.observe(Vec::new()).await;
        agent.clean(world, host).await;
        agent
    }

    pub async fn say(&self, body: v1::from_agent::Body) {
        self.out.send(frame(body)).await.unwrap();
    }

    /// The next message; a new intention is remembered.
    pub async fn hear(&mut self) -> Option<v1::to_agent::Body> {
        let message = tokio::time::timeout(SOON, self.inbound.message()).await.expect("holmd says nothing");
        let body = message.ok().flatten().and_then(|m| m.body);
        self.gone |= body.is_none();
        if let Some(v1::to_agent::Body::Intended(intended)) = &body {
            assert!(intended.generation >= self.intended.generation);
            self.intended = intended.clone();
        }
        body
    }

    /// Listen until the intention is like this.
    pub async fn intends(&mut self, what: impl Fn(&v1::Intended) -> bool) -> v1::Intended {
        while !what(&self.intended) {
            assert!(self.hear().await.is_some(), "the session ended");
        }
        self.intended.clone()
    }

    /// The one slice with this goal.
    pub async fn slice(&mut self, goal: v1::Goal) -> v1::IntendedSlice {
        let has = |i: &v1::Intended| i.slices.iter().any(|s| s.goal() == goal);
        let intended = self.intends(has).await;
        intended.slices.into_iter().find(|s| s.goal() == goal).unwrap()
    }

    pub async fn observe(&self, slices: Vec<v1::ObservedSlice>) {
        let generation = self.intended.generation;
        self.last.lock().unwrap().clone_from(&slices);
        self.say(v1::from_agent::Body::Observed(v1::Observed {
            slices,
            attached: Vec::new(),
            generation,
            devices: self.notes(),
            ..Default::default()
        }))
        .await;
    }

    /// What its own record says of each device: clean by the last run, or dirty.
    pub fn notes(&self) -> Vec<v1::DeviceNote> {
        let note = |n| {
            let address = address(n);
            match self.clean.get(&address) {
                Some(run) => v1::DeviceNote {
                    address,
                    mark: v1::DeviceMark::Clean.into(),
                    of: run.clone(),
                    ..Default::default()
                },
                None => v1::DeviceNote { address, mark: v1::DeviceMark::Dirty.into(), ..Default::default() },
            }
        };
        (1..=16).map(note).collect()
    }

    /// It cleaned the devices of this run, and says so.
    pub async fn cleaned(&mut self, run: &v1::SanitiseRun) {
        self.clean.extend(run.devices.iter().map(|address| (address.clone(), run.run_id.clone())));
        let slices = self.last.lock().unwrap().clone();
        self.observe(slices).await;
    }

    /// Do the runs that are ordered until there is none.
    pub async fn clean(&mut self, world: &World, host: &str) {
        use holm_control::domain::records::DeviceState;
        let name = host.parse().unwrap();
        loop {
            let state = world.app.ledger.state();
            // What is clean may be claimed at once by who waits for it.
            let next = |slice: String| {
                self.intended.slices.iter().any(|s| s.slice_id == slice && s.goal() == v1::Goal::Run)
            };
            let through = |d: &holm_control::domain::records::Device| match d.state {
                DeviceState::Free => true,
                DeviceState::Claimed => d.slice.is_some_and(|s| next(s.into_untyped_uuid().to_string())),
                _ => false,
            };
            if state.host_devices(&name).all(through) {
                return;
            }
            let runs = self.intended.runs.clone();
            if runs.is_empty() {
                assert!(self.hear().await.is_some(), "the session ended");
                continue;
            }
            for run in &runs {
                self.cleaned(run).await;
                let evidence = run.devices.iter().map(|address| evidence(&run.run_id, address)).collect();
                let report = v1::SanitiseReport { run_id: run.run_id.clone(), evidence };
                self.say(v1::from_agent::Body::SanitiseReport(report)).await;
            }
            let done =
                |i: &v1::Intended| runs.iter().all(|run| i.runs.iter().all(|r| r.run_id != run.run_id));
            self.intends(done).await;
        }
    }

    /// Ask for the key of a slice; an error is why not.
    pub async fn key(&mut self, slice: &v1::IntendedSlice) -> Result<Vec<u8>, String> {
        self.ask_key(slice).await.map_err(|no| no.reason)
    }

    /// Ask for the key of a slice.
    pub async fn ask_key(&mut self, slice: &v1::IntendedSlice) -> Result<Vec<u8>, v1::KeyRefused> {
        self.say(v1::from_agent::Body::KeyRequest(v1::KeyRequest {
            slice_id: slice.slice_id.clone(),
            volume_id: slice.volume_id.clone(),
            generation: slice.generation,
            ..Default::default()
        }))
        .await;
        loop {
            match self.hear().await.expect("the session ended") {
                v1::to_agent::Body::VolumeKey(key) => return Ok(key.key),
                v1::to_agent::Body::KeyRefused(no) => return Err(no),
                _ => {}
            }
        }
    }

    /// A key that comes without being asked for now.
    pub async fn given(&mut self) -> v1::VolumeKey {
        loop {
            if let v1::to_agent::Body::VolumeKey(key) = self.hear().await.expect("the session ended") {
                return key;
            }
        }
    }

    /// Bring the slice up as far as this.
    pub async fn reaches(&self, slice: &v1::IntendedSlice, phase: v1::Phase) {
        self.observe(vec![observed(slice, phase)]).await;
    }
}

pub fn evidence(run: &str, address: &str) -> v1::Evidence {
    v1::Evidence {
        run_id: run.to_owned(),
        address: address.to_owned(),
        cleaned: true,
        method: "simulated".to_owned(),
        bytes_total: MEMORY,
        bytes_written: MEMORY,
        bytes_verified: MEMORY,
        ..Default::default()
    }
}

pub fn observed(slice: &v1::IntendedSlice, phase: v1::Phase) -> v1::ObservedSlice {
    let erased = |volume_id: &String| v1::VolumeEvidence {
        volume_id: volume_id.clone(),
        erased: true,
        method: "luks-header".to_owned(),
        bytes_overwritten: 4096,
        ..Default::default()
    };
    let gone = |volume: &&v1::IntendedVolume| match volume.kind() {
        v1::VolumeKind::Scratch => matches!(phase, v1::Phase::Absent | v1::Phase::Kept),
        _ => phase == v1::Phase::Absent,
    };
    let guest = (phase == v1::Phase::Ready).then(|| v1::Guest {
        ssh_host_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
            .to_owned(),
        gpus: u32::try_from(slice.devices.len()).unwrap(),
        slurm: "24.11".to_owned(),
    });
    v1::ObservedSlice {
        slice_id: slice.slice_id.clone(),
        generation: slice.generation,
        phase: phase.into(),
        guest,
        volume_erased: phase == v1::Phase::Absent,
        volume: (phase == v1::Phase::Absent).then(|| erased(&slice.volume_id)),
        volumes: slice.volumes.iter().filter(gone).map(|volume| erased(&volume.volume_id)).collect(),
        steps: vec![v1::Step { name: "volume".to_owned(), took_ms: 12, done: true, started: None }],
        ..Default::default()
    }
}

/// What runs is stopped, and rests.
pub async fn stopped(world: &World, agent: &mut Agent) -> v1::IntendedSlice {
    world.slices("dina").stop_slice(decide("heart/main", "")).await.unwrap();
    let kept = agent.slice(v1::Goal::Kept).await;
    agent.reaches(&kept, v1::Phase::Kept).await;
    world.until("dina", "heart/main", v1::SliceState::Stopped).await;
    kept
}

/// A ready slice of dina's, on an agent that is returned.
pub async fn ready_slice(world: &World, slice: &str, gpus: u32) -> (Agent, v1::IntendedSlice) {
    let mut agent = Agent::ready(world, "dgx").await;
    world.request("dina", slice, gpus).await.unwrap();
    world.approve("frida", slice).await.unwrap();
    let wanted = agent.slice(v1::Goal::Run).await;
    agent.key(&wanted).await.unwrap();
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&wanted, phase).await;
    }
    world.until("dina", slice, v1::SliceState::Ready).await;
    (agent, wanted)
}
