//! What rules cost with 10,000 projects and 50,000 people: a decision, a change of the state, and a whole call beside a
//! bare tonic echo behind the same TLS. `tests/run bench policies` runs it. It judges nothing: what was wanted stands
//! beside what was found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    dead_code,
    reason = "a benchmark that cannot be set up has nothing to say, and it uses a part of the tests' world"
)]

#[path = "../tests/api/world.rs"]
mod world;

use holm_control::app::App;
use holm_control::domain::records::{Change, Person, Project, Record};
use holm_control::identity::{Caller, Demand, Strangers, accept, tls};
use holm_control::ledger::{Call, Decided};
use holm_policies::{Action, Identity, Principal, Request, Resource};
use holm_proto::ids::{Name, ProjectId};
use holm_proto::v1;
use holm_proto::v1::person_service_client::PersonServiceClient;
use holm_proto::v1::person_service_server::{PersonService, PersonServiceServer};
use jiff::Timestamp;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Server};
use tonic::{Response, Status};
use world::World;

const PROJECTS: u32 = 10_000;
const PEOPLE: u32 = 50_000;
/// So many records fit into one entry of the log.
const AT_ONCE: usize = 100;
const CALLS: usize = 1_500;
const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let world = World::full().await;
    println!("registering {PEOPLE} people and {PROJECTS} projects");
    let app = Arc::clone(&world.app);
    tokio::task::spawn_blocking(move || fill(&app)).await.unwrap();
    let app = Arc::clone(&world.app);
    let (decisions, again, commits) =
        tokio::task::spawn_blocking(move || (decisions(&app), decisions(&app), commits(&app))).await.unwrap();

    let echo = echo(&world).await;
    let bare =
        PersonServiceClient::new(world.channel_to(echo, Some(&world.holder(&Caller::Person(name("rosa"))))));
    let mut table = format!(
        "{:<44} {:>9} {:>9} {:>7}  {}\n",
        "with 10,000 projects and 50,000 people", "median us", "p99 us", "ratio", "wanted"
    );
    let mut row = |what: &str, (median, high): (f64, f64), ratio: Option<f64>, wanted: &str| {
        let ratio = ratio.map(|r| format!("{r:.2}")).unwrap_or_default();
        let line = format!("{what:<44} {median:>9.1} {high:>9.1} {ratio:>7}  {wanted}");
        table.push_str(line.trim_end());
        table.push('\n');
    };
    row("decision: find, ask the pack", decisions, None, "under 200");
    row("the same question again", again, None, "");
    row("change of a project, durable", commits, None, "");
    for at_once in [1, 16, 64] {
        // Each in turn in every round, so that what else the machine does meets all of them.
        let mut all: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            all[0].extend(calls(&bare, at_once).await);
            all[1].extend(calls(&world.person("rosa"), at_once).await);
            all[2].extend(calls(&world.person("frida"), at_once).await);
        }
        let found = all.map(spread);
        let ratio = |at: usize| Some(found[at].0 / found[0].0);
        row(&format!("call, {at_once} at once: bare echo behind mTLS"), found[0], None, "");
        row(&format!("call, {at_once} at once: authorised"), found[1], ratio(1), "1.5 at most");
        row(&format!("call, {at_once} at once: authorised, in the log"), found[2], ratio(2), "1.5 at most");
    }
    println!("\n{table}");
}

/// Median and 99th percentile.
fn spread(mut of: Vec<f64>) -> (f64, f64) {
    of.sort_by(f64::total_cmp);
    (of[of.len() / 2], of[of.len() * 99 / 100])
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn fill(app: &App) {
    let created = Timestamp::now();
    let person = |n: u32| {
        Record::Person(Person {
            name: name(&format!("p{n}")),
            roles: vec!["researcher".to_owned()],
            uid: 30_000 + n,
            created,
            enrolled: true,
            certificate: String::new(),
            renewed: String::new(),
            revoked: None,
            void: None,
            account: None,
            login: None,
        })
    };
    let project = |n: u32| Record::Project(project(n, created));
    let records: Vec<Record> = (0..PEOPLE).map(person).chain((0..PROJECTS).map(project)).collect();
    let call = Call::own("bench", "all".to_owned());
    for part in records.chunks(AT_ONCE) {
        let changes = part.iter().cloned().map(Change::Put).collect();
        app.ledger.commit(&call, |_, _| Ok(Decided::new(changes, ()))).unwrap();
    }
}

/// Five people each.
fn project(n: u32, created: Timestamp) -> Project {
    let members: Vec<Name> = (0..5).map(|m| name(&format!("p{}", (n * 5 + m) % PEOPLE))).collect();
    Project {
        id: ProjectId::new_v4(),
        name: name(&format!("project-{n}")),
        level: "3".to_owned(),
        level_name: "sensitive".to_owned(),
        purpose: "what it is for, in as many words as people use for it".to_owned(),
        lead: members[0].clone(),
        members,
        readers: Default::default(),
        created,
        pack: "aau-2018/7".to_owned(),
        department: "health".to_owned(),
        hold: None,
        disk_gib: None,
        registration: Default::default(),
        agreements: Default::default(),
        warned: Default::default(),
        data_sets: Default::default(),
        ended: None,
        declassification: None,
    }
}

/// As a call does it: who is it, what is it about, may she? Of each project once.
fn decisions(app: &App) -> (f64, f64) {
    let (state, pack) = (app.ledger.state(), app.pack());
    let one = |n: u32| {
        let who = name(&format!("p{}", (n * 5 + 1) % PEOPLE));
        let started = Instant::now();
        let person = state.people.get(&who).unwrap();
        let p = state.project(&name(&format!("project-{n}"))).unwrap();
        let identity = Identity::Person { name: person.name.clone(), roles: person.roles.clone() };
        let resource = Resource::Project {
            name: p.name.clone(),
            level: p.level.clone(),
            lead: p.lead.clone(),
            members: p.members.clone(),
            readers: Vec::new(),
            held_by: Vec::new(),
            missing: Vec::new(),
            lapsed: Vec::new(),
        };
        let principal = Principal { identity, known: person.enrolled };
        let decision = pack.decide(&Request { principal, action: Action::ProjectRead, resource });
        let took = started.elapsed();
        assert!(black_box(decision).allow);
        micros(took)
    };
    spread((0..PROJECTS).map(|n| one(n * 7 % PROJECTS)).collect())
}

/// While somebody reads the state as it was.
fn commits(app: &App) -> (f64, f64) {
    let call = Call::own("bench", "project".to_owned());
    let one = |n: u32| {
        let before = app.ledger.state();
        let changed = before.project(&name(&format!("project-{n}"))).unwrap().clone();
        let started = Instant::now();
        let changes = vec![Change::Put(Record::Project(changed))];
        app.ledger.commit(&call, |_, _| Ok(Decided::new(changes, ()))).unwrap();
        micros(started.elapsed())
    };
    spread((0..200).map(one).collect())
}

fn micros(of: Duration) -> f64 {
    of.as_secs_f64() * 1e6
}

/// Calls from so many tasks on one connection, each waiting for its answer.
async fn calls(client: &PersonServiceClient<Channel>, at_once: usize) -> Vec<f64> {
    let one = |client: &PersonServiceClient<Channel>| {
        let mut client = client.clone();
        async move {
            let mut took = Vec::new();
            for _ in 0..CALLS / at_once {
                let started = Instant::now();
                client.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
                took.push(micros(started.elapsed()));
            }
            took
        }
    };
    let tasks: Vec<_> = (0..at_once).map(|_| tokio::spawn(one(client))).collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}

struct Echo;

#[tonic::async_trait]
impl PersonService for Echo {
    async fn who_am_i(&self, _: tonic::Request<v1::WhoAmIRequest>) -> Result<Response<v1::Person>, Status> {
        let roles = vec!["researcher".to_owned()];
        Ok(Response::new(v1::Person { name: "rosa".to_owned(), roles, enrolled: true, ..Default::default() }))
    }

    async fn list_people(
        &self,
        _: tonic::Request<v1::ListPeopleRequest>,
    ) -> Result<Response<v1::ListPeopleResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn invite(&self, _: tonic::Request<v1::InviteRequest>) -> Result<Response<v1::Invitation>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew(
        &self,
        _: tonic::Request<v1::RenewRequest>,
    ) -> Result<Response<v1::EnrolResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn confirm_invitation(
        &self,
        _: tonic::Request<v1::ConfirmInvitationRequest>,
    ) -> Result<Response<v1::Person>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn begin_login(
        &self,
        _: tonic::Request<v1::BeginLoginRequest>,
    ) -> Result<Response<v1::LoginBegun>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn finish_login(
        &self,
        _: tonic::Request<v1::FinishLoginRequest>,
    ) -> Result<Response<v1::LoginStep>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn revoke(
        &self,
        _: tonic::Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// The same TLS, and nothing behind it.
async fn echo(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Arc::clone(&world.app);
    let config = tls::mutual(&app.authority, tls::hosts(&app.config.server)).unwrap();
    let connections = accept(listener, config, Demand::Certificate, Arc::new(Strangers::new(app)));
    tokio::spawn(Server::builder().serve_with_incoming(PersonServiceServer::new(Echo), connections));
    address
}
