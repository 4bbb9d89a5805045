//! The log as it grows, to a collector: over TLS, and in a file.

use crate::notify::post::certificates;
use crate::world::{SOON, options};
use holm_control::api::{self, Running};
use holm_control::app::App;
use holm_control::audit::{Checkpoint, Entry};
use holm_control::config::Config;
use holm_control::ledger::{Call, Decided};
use holm_control::setup;
use holm_control::stream::{Format, SinkConfig};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A collector that does what a test says.
struct Collector {
    listener: TcpListener,
    tls: TlsAcceptor,
    port: u16,
}

impl Collector {
    async fn new(dir: &Path, port: u16) -> Self {
        let chain = vec![CertificateDer::from_pem_file(dir.join("localhost.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(dir.join("localhost.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)), port }
    }

    async fn accept(&self) -> TlsStream<TcpStream> {
        let accepted = async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            self.tls.accept(tcp).await.unwrap()
        };
        tokio::time::timeout(SOON, accepted).await.expect("nobody comes")
    }

    /// What comes on one connection, to its end, which is answered as it has to be.
    async fn take(&self) -> Vec<(String, Value)> {
        let mut stream = self.accept().await;
        let mut bytes = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("it does not end").unwrap();
        stream.shutdown().await.unwrap();
        messages(&bytes)
    }

    /// Connections, until what comes has all these entries.
    async fn until(&self, size: u64) -> BTreeMap<u64, Value> {
        let mut all = BTreeMap::new();
        while (0..size).any(|index| !all.contains_key(&index)) {
            for (_, json) in self.take().await {
                if let Some(index) = json["index"].as_u64() {
                    all.insert(index, json);
                }
            }
        }
        all
    }
}

/// Whole messages: what was cut off at the end is none.
fn messages(mut bytes: &[u8]) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    while let Some(at) = bytes.iter().position(|b| *b == b' ') {
        let length: usize = std::str::from_utf8(&bytes[..at]).unwrap().parse().unwrap();
        let Some(message) = bytes[at + 1..].get(..length) else { break };
        let message = std::str::from_utf8(message).unwrap();
        let (head, json) = message.split_once("] {").unwrap();
        all.push((head.to_owned(), serde_json::from_str(&format!("{{{json}")).unwrap()));
        bytes = &bytes[at + 1 + length..];
    }
    all
}

struct Scene {
    config: Config,
    collector: Collector,
    dir: tempfile::TempDir,
}

async fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), &["localhost", "elsewhere.example"]);
    let made = setup::init(&options(dir.path())).unwrap();
    let mut config = Config::load(&made.config).unwrap();
    let collector = Collector::new(dir.path(), 0).await;
    config.stream.retry_seconds = 1;
    let sink = SinkConfig::Syslog {
        server: format!("localhost:{}", collector.port),
        ca_file: dir.path().join("ca.pem"),
        format: Format::Holm,
        changes: false,
    };
    config.stream.sinks.insert("siem".parse().unwrap(), sink);
    Scene { config, collector, dir }
}

async fn start(config: &Config) -> (Arc<App>, Running) {
    let app = Arc::new(App::open(config.clone()).unwrap());
    (Arc::clone(&app), api::start(app).await.unwrap())
}

async fn end(app: Arc<App>, running: Running) {
    running.stop().await;
    let released = async {
        while Arc::strong_count(&app) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, released).await.expect("something holds on to holmd");
}

fn grow(app: &App, what: &str) {
    let call = Call::own("test", "log".to_owned());
    let detail = json!({ "what": what });
    app.ledger.commit(&call, |_, _| Ok(Decided { detail, ..Decided::new(Vec::new(), ()) })).unwrap();
}

fn entry(app: &App, index: u64) -> Entry {
    Entry::from_bytes(&app.ledger.entries(index, index + 1).unwrap()[0]).unwrap()
}

async fn place(data: &Path, name: &str, at_least: u64) {
    let path = data.join("stream").join(format!("{name}.json"));
    let there = async {
        loop {
            let place: Option<Value> =
                std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if place.is_some_and(|place| place["next"].as_u64().unwrap() >= at_least) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, there).await.expect("it gets no further");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_comes_and_then_the_head_over_it() {
    let scene = scene().await;
    let (app, running) = start(&scene.config).await;
    let size = app.ledger.size();
    let all = scene.collector.take().await;
    let indices: Vec<u64> = all.iter().filter_map(|(_, json)| json["index"].as_u64()).collect();
    assert_eq!(indices, (0..size).collect::<Vec<_>>());
    for (head, json) in &all[..all.len() - 1] {
        let entry = entry(&app, json["index"].as_u64().unwrap());
        assert_eq!((&json["action"], &json["detail"]), (&entry.action.as_str().into(), &entry.detail));
        assert!(head.contains(&format!(" holmd - {} [meta sequenceId=", entry.action)), "{head}");
        assert!(json.get("changes").is_none(), "{json}");
    }
    let (head, json) = all.last().unwrap();
    assert!(head.contains(" holmd - checkpoint "), "{head}");
    let note = json["checkpoint"].as_str().unwrap();
    let log = app.log_key.vkey(&app.config.log_origin);
    assert!(Checkpoint::verify(note, &log).unwrap().size >= size);
    place(&scene.config.data, "siem", size).await;
    // Nothing of it comes again, and what is new does.
    end(app, running).await;
    let (app, running) = start(&scene.config).await;
    grow(&app, "new");
    let all = scene.collector.take().await;
    assert_eq!(all[0].1["index"], size);
    assert_eq!(all[0].1["detail"]["what"], "new");
    end(app, running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_dies_with_what_it_has_not_read_gets_it_again() {
    let scene = scene().await;
    let (app, running) = start(&scene.config).await;
    // It takes some bytes, the end in the middle of a message, and is gone without a word.
    let mut stream = scene.collector.accept().await;
    let mut some = [0; 700];
    tokio::time::timeout(SOON, stream.read_exact(&mut some)).await.unwrap().unwrap();
    drop(stream);
    // One that ends the connection, and not as TLS does: so could anybody on the way.
    let mut stream = scene.collector.accept().await;
    let mut all = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.unwrap().unwrap();
    stream.into_inner().0.shutdown().await.unwrap();
    for n in 0..50 {
        grow(&app, &format!("meanwhile {n}"));
    }
    let size = app.ledger.size();
    let all = scene.collector.until(size).await;
    assert_eq!(all.len() as u64, *all.keys().last().unwrap() + 1, "from the first on");
    place(&scene.config.data, "siem", size).await;
    end(app, running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_away_holds_nothing_up_and_is_said_once() {
    let Scene { mut config, collector, dir } = scene().await;
    let port = collector.port;
    drop(collector);
    let file = dir.path().join("log.jsonl");
    let sink = SinkConfig::File { path: file.clone(), format: Format::Ocsf, changes: true };
    config.stream.sinks.insert("file".parse().unwrap(), sink);
    let (app, running) = start(&config).await;
    for n in 0..20 {
        grow(&app, &format!("meanwhile {n}"));
    }
    let down = |app: &App| {
        let all = (0..app.ledger.size()).map(|index| entry(app, index));
        all.filter(|e| e.action == "observe.stream").collect::<Vec<_>>()
    };
    let said = async {
        while down(&app).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, said).await.expect("it is not said");
    assert_eq!(down(&app)[0].resource, "stream/siem");
    assert_eq!(app.streams.alerts()[0].code, "stream-down");
    // The other one has it all, each line whole.
    let size = app.ledger.size();
    place(&config.data, "file", size).await;
    let lines = std::fs::read_to_string(&file).unwrap();
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> =
        events.iter().filter_map(|event| event["metadata"]["sequence"].as_u64()).collect();
    assert_eq!(numbers[..size as usize], (0..size).collect::<Vec<_>>());

    // Back at the same address, with the certificate of another: it gets nothing.
    let wrong = dir.path().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    for kind in ["pem", "key"] {
        let name = format!("elsewhere.example.{kind}");
        std::fs::copy(dir.path().join(name), wrong.join(format!("localhost.{kind}"))).unwrap();
    }
    let stranger = Collector::new(&wrong, port).await;
    let (tcp, _) = tokio::time::timeout(SOON, stranger.listener.accept()).await.unwrap().unwrap();
    assert!(stranger.tls.accept(tcp).await.is_err());
    drop(stranger);
    let collector = Collector::new(dir.path(), port).await;
    collector.until(size).await;
    let up = async {
        while down(&app).len() < 2 || !app.streams.alerts().is_empty() {
            tokio::select! {
                // What it says is sent, too.
                _ = collector.take() => {}
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    };
    tokio::time::timeout(SOON, up).await.expect("it is not over");
    assert!(down(&app)[1].detail["down"].is_null());
    end(app, running).await;
}

/// Debian's, of the packages `rsyslog` and `rsyslog-openssl`. The port is free where it is 0.
async fn rsyslog(dir: &Path, port: u16) -> (tokio::process::Child, u16) {
    let at = |name: &str| dir.join(name).display().to_string();
    let _ = std::fs::remove_file(at("port"));
    let text = format!(
        r#"global(workDirectory="{}" maxMessageSize="128k" defaultNetstreamDriver="ossl"
                  defaultNetstreamDriverCAFile="{}" defaultNetstreamDriverCertFile="{}"
                  defaultNetstreamDriverKeyFile="{}")
           module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
           template(name="json" type="string" string="%msgid% %app-name%%msg%\n")
           ruleset(name="all") {{ action(type="omfile" file="{}" template="json") }}
           input(type="imtcp" port="{port}" address="127.0.0.1" listenPortFileName="{}" ruleset="all")"#,
        dir.display(),
        at("ca.pem"),
        at("localhost.pem"),
        at("localhost.key"),
        at("out"),
        at("port"),
    );
    std::fs::write(at("rsyslog.conf"), text).unwrap();
    let child = tokio::process::Command::new("/usr/sbin/rsyslogd")
        .args(["-n", "-f", &at("rsyslog.conf"), "-i", &at("rsyslog.pid")])
        .kill_on_drop(true)
        .spawn()
        .expect("there is no rsyslogd: deploy/packages");
    if port != 0 {
        // It says only what it chose itself.
        return (child, port);
    }
    let ready = async {
        loop {
            let port = std::fs::read_to_string(at("port")).ok().and_then(|port| port.trim().parse().ok());
            if let Some(port) = port {
                return port;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    (child, tokio::time::timeout(SOON, ready).await.expect("rsyslogd does not listen"))
}

/// By number, what rsyslog has written.
fn written(dir: &Path) -> BTreeMap<u64, Value> {
    let text = std::fs::read_to_string(dir.join("out")).unwrap_or_default();
    let json = |line: &str| {
        serde_json::from_str::<Value>(line.split_once('{').map(|(_, json)| format!("{{{json}"))?.as_str())
            .ok()
    };
    text.lines().filter_map(json).filter_map(|json| Some((json["index"].as_u64()?, json))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rsyslog_has_all_of_it_also_when_it_is_killed() {
    let Scene { mut config, collector, dir } = scene().await;
    drop(collector);
    let (mut child, port) = rsyslog(dir.path(), 0).await;
    let Some(SinkConfig::Syslog { server, .. }) = config.stream.sinks.values_mut().next() else { panic!() };
    *server = format!("localhost:{port}");
    let (app, running) = start(&config).await;
    let has = |size: u64| {
        let dir = dir.path();
        async move {
            let has = async {
                while (0..size).any(|index| !written(dir).contains_key(&index)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(SOON, has)
                .await
                .unwrap_or_else(|_| panic!("it has {:?}", written(dir).keys()));
        }
    };
    for n in 0..100 {
        grow(&app, &format!("before {n}"));
    }
    child.start_kill().unwrap();
    child.wait().await.unwrap();
    for n in 0..100 {
        grow(&app, &format!("meanwhile {n}"));
    }
    let (_child, _) = rsyslog(dir.path(), port).await;
    let size = app.ledger.size();
    has(size).await;
    // It ended the connection as TLS ends one, so that none of it comes again.
    place(&config.data, "siem", size).await;
    let head = std::fs::read_to_string(dir.path().join("out")).unwrap();
    assert!(
        head.lines()
            .any(|line| line.starts_with("checkpoint holmd{") || line.starts_with("checkpoint holmd {")),
        "{head}"
    );
    end(app, running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_refused_before_anything_starts() {
    let Scene { config, dir, .. } = scene().await;
    let with = |sink: SinkConfig| {
        let mut config = config.clone();
        config.stream.sinks.insert("siem".parse().unwrap(), sink);
        App::open(config).err().unwrap().to_string()
    };
    let syslog = |server: &str, ca: &str| SinkConfig::Syslog {
        server: server.to_owned(),
        ca_file: dir.path().join(ca),
        format: Format::Holm,
        changes: false,
    };
    assert!(with(syslog("localhost:1", "none.pem")).contains("[stream.sinks.siem] cannot be used"));
    for bad in ["", "a b", "user@localhost:1", "https://localhost"] {
        assert!(with(syslog(bad, "ca.pem")).contains("no HOST:PORT"), "{bad}");
    }
    let file = SinkConfig::File { path: "log.jsonl".into(), format: Format::Holm, changes: false };
    assert!(with(file).contains("not absolute"));
}
