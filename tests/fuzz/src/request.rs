//! Every call of holmd, over TLS, with any bytes for its message, by any of several callers.
//!
//! ```text
//!   input    who calls (1 byte) │ what (1 byte) │ the message
//!
//!   world ── calls ── calls ── … ── it ends ── what it left is read again ── the next world
//! ```
//!
//! What is called is read from the `.proto` files, and what is sent first is what the golden matrix of the tests sends:
//! a call that has no message there keeps this from starting, so one that is added is fuzzed. Numbers of calls are
//! those of the sorted names: one that is added moves others, and the seeds that are written at each start move along.

#![no_main]

#[allow(dead_code, unused_imports, missing_docs)]
#[path = "../../../control/tests/api/matrix.rs"]
mod matrix;
mod wire;
#[allow(dead_code, unused_imports, missing_docs)]
#[path = "../../../control/tests/api/world.rs"]
mod world;

use futures::StreamExt;
use holm_control::app::{self, App, Paths};
use holm_control::domain::Record;
use holm_control::ledger::replay;
use holm_control::store::Store;
use holm_proto::v1;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use wire::{Raw, Recorder};
use world::{Agent, World};

const PROTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/proto/holm/v1");
/// It has a listener of its own, for who has no certificate.
const ENROL: &str = "/holm.v1.EnrolmentService/Enrol";
/// What one world is asked. Each is somewhat worse off than the one before it: people get locked, projects held.
const CALLS_OF_ONE: usize = 2000;
/// holmd begins to answer sooner, or it hangs.
const HANG: Duration = Duration::from_secs(9);
/// A stream is listened to until it says nothing for so long, or has said so much.
const LISTEN: Duration = Duration::from_millis(10);
const ENOUGH: usize = 64;

struct Place {
    runtime: Runtime,
    calls: Vec<PathAndQuery>,
    served: Mutex<Option<Served>>,
}

/// A holmd, and those who call it.
struct Served {
    world: World,
    agent: Agent,
    callers: Vec<Channel>,
    stranger: Channel,
    calls: usize,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (runtime, calls) = (runtime.expect("threads"), calls());
    let served = runtime.block_on(async {
        let mut served = Served::begin().await;
        let seeds = seeds(&mut served.world).await;
        all_answered(&served, &calls, &seeds).await;
        if let Ok(dir) = std::env::var("HOLM_FUZZ_SEEDS") {
            write(Path::new(&dir), &calls, &seeds);
        }
        served
    });
    Place { runtime, calls, served: Mutex::new(Some(served)) }
});

fuzz_target!(init: LazyLock::force(&PLACE), |bytes: &[u8]| {
    let [who, what, message @ ..] = bytes else { return };
    let Place { runtime, calls, served } = &*PLACE;
    let mut served = served.lock().expect("a lock");
    if served.as_ref().is_none_or(|served| served.calls >= CALLS_OF_ONE) {
        runtime.block_on(async {
            if let Some(served) = served.take() {
                served.end().await;
            }
            *served = Some(Served::begin().await);
        });
    }
    let served = served.as_mut().expect("a world");
    served.calls += 1;
    let path = &calls[usize::from(*what) % calls.len()];
    let caller = if path.as_str() == ENROL { &served.stranger } else { &served.callers[usize::from(*who) % served.callers.len()] };
    runtime.block_on(asked(caller, path, message));
});

impl Served {
    async fn begin() -> Self {
        let (world, agent) = matrix::world().await;
        let callers = matrix::ACTORS.map(|(who, _)| world.of(who)).into();
        let stranger = world.stranger(&world.app.authority.hash());
        Self { world, agent, callers, stranger, calls: 0 }
    }

    /// Whatever it was asked, nothing holds on to it, store and log are of one history, and holmd starts from them.
    async fn end(self) {
        let Self { world, agent, callers, stranger, .. } = self;
        drop((agent, callers, stranger));
        let config = world.app.config.clone();
        let _dir = world.end().await;
        let (_, log) = app::log(&config).expect("the log opens");
        let mut said = replay(&log).expect("the log is read");
        drop(log);
        let store = app::store(&Paths::of(&config.data).store).unwrap();
        let mut kept = store.records().expect("the store is read");
        drop(store);
        said.sort_by_key(Record::key);
        kept.sort_by_key(Record::key);
        assert!(said == kept, "the store is not what the log says");
        drop(App::open(config.clone()).unwrap());
    }
}

/// `/holm.v1.SERVICE/CALL` of each there is.
fn calls() -> Vec<PathAndQuery> {
    let mut all = BTreeSet::new();
    for file in std::fs::read_dir(PROTOS).expect("the .proto files") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        let mut service = "";
        for line in text.lines() {
            let mut words = line.split([' ', '(', '{']).filter(|word| !word.is_empty());
            match (words.next(), words.next()) {
                (Some("service"), Some(name)) => service = name,
                (Some("rpc"), Some(name)) => drop(all.insert(format!("/holm.v1.{service}/{name}"))),
                _ => {}
            }
        }
    }
    all.iter().map(|path| path.parse().expect("a path")).collect()
}

/// What the matrix sends, and a request of who has a code.
async fn seeds(world: &mut World) -> Vec<(String, Vec<u8>)> {
    let recorder = Recorder::default();
    world.know("recorder", recorder.serve().await);
    for call in matrix::CALLS {
        // It answers to none.
        drop(matrix::call(world, "recorder", call).await);
    }
    let csr_pem = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n".to_owned();
    let code = format!("holm1-{}-{}", "a".repeat(26), world.app.authority.hash());
    let mut seeds = recorder.take();
    seeds.push((ENROL.to_owned(), v1::EnrolRequest { code, csr_pem }.encode_to_vec()));
    seeds
}

/// There is a message for each call there is, and holmd has each.
async fn all_answered(served: &Served, calls: &[PathAndQuery], seeds: &[(String, Vec<u8>)]) {
    for path in calls {
        let seed = seeds.iter().find(|(of, _)| path.as_str() == of);
        let (_, message) =
            seed.unwrap_or_else(|| panic!("{path} has no message in control/tests/api/matrix.rs"));
        let caller = if path.as_str() == ENROL { &served.stranger } else { &served.callers[0] };
        asked(caller, path, message).await;
    }
}

/// Each message, from each caller.
fn write(dir: &Path, calls: &[PathAndQuery], seeds: &[(String, Vec<u8>)]) {
    for (number, (path, message)) in seeds.iter().enumerate() {
        let what = calls.iter().position(|call| call.as_str() == path).expect("a call there is");
        for who in 0..matrix::ACTORS.len() {
            let head = [who, what].map(|byte| u8::try_from(byte).expect("a byte"));
            std::fs::write(dir.join(format!("{number}-{who}")), [&head[..], message].concat())
                .expect("written");
        }
    }
}

/// It is answered in time, and not by a failure of holmd's own. That a handler panics ends this process anyway.
async fn asked(caller: &Channel, path: &PathAndQuery, message: &[u8]) {
    let Err(status) = call(caller.clone(), path.clone(), message.to_vec()).await else { return };
    let undecoded = status.message().starts_with("failed to decode Protobuf message");
    match status.code() {
        Code::Unimplemented => panic!("holmd has no {path}: {status}"),
        Code::Internal if !undecoded => panic!("{path}: {status}"),
        _ => {}
    }
}

/// As a stream both ways, which every kind of call is on the wire.
async fn call(channel: Channel, path: PathAndQuery, message: Vec<u8>) -> Result<(), Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let request = Request::new(tokio_stream::once(message));
    let answered = tokio::time::timeout(HANG, client.streaming(request, path.clone(), Raw)).await;
    let mut answers = answered.unwrap_or_else(|_| panic!("{path} is not answered in {HANG:?}"))?.into_inner();
    for _ in 0..ENOUGH {
        match tokio::time::timeout(LISTEN, answers.next()).await {
            Ok(Some(next)) => next?,
            _ => return Ok(()),
        }
    }
    Ok(())
}
