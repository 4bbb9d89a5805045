//! The log's head, cosigned on another machine: over TLS, by a witness that is the real one.

use crate::notify::post::certificates;
use crate::world::{SOON, World, options};
use holm_control::api::{self, Running};
use holm_control::app::App;
use holm_control::audit::{Checkpoint, Entry, SigningKey, verify};
use holm_control::config::Config;
use holm_control::ledger::{Call, Decided};
use holm_control::setup;
use holm_control::witness::cosignature::{self, WitnessKey};
use holm_control::witness::server::{self, Witness};
use holm_control::witness::{CosignerConfig, Serving};
use holm_proto::v1;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A witness, with certificates of the test's own.
struct Outside {
    dir: tempfile::TempDir,
    config: server::WitnessConfig,
    key: WitnessKey,
    serving: Option<JoinHandle<()>>,
}

impl Outside {
    /// It knows no log yet.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), &["localhost"]);
        let (path, key) = server::init(&dir.path().join("witness"), "w.test/1").unwrap();
        let mut config = server::WitnessConfig::load(&path).unwrap();
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.certificate = Some(dir.path().join("localhost.pem"));
        config.certificate_key = Some(dir.path().join("localhost.key"));
        Self { dir, config, key, serving: None }
    }

    /// From now on at the same address.
    async fn start(&mut self) {
        let witness = Arc::new(Witness::open(&self.config).unwrap());
        let serving = Serving::bind(&self.config, witness).await.unwrap();
        self.config.listen = serving.address;
        self.serving = Some(tokio::spawn(serving.run()));
    }

    /// Returns when nothing of it is open any more.
    async fn stop(&mut self) {
        let serving = self.serving.take().unwrap();
        serving.abort();
        let _ = serving.await;
        let free = async {
            while Witness::open(&self.config).is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, free).await.expect("something holds on to the witness");
    }

    fn of(&self, config: &mut Config) {
        let cosigner = CosignerConfig {
            url: format!("https://localhost:{}/", self.config.listen.port()),
            key: self.key.vkey(),
            ca_file: self.dir.path().join("ca.pem"),
        };
        config.witness.every_seconds = 1;
        config.witness.cosigners.insert("w1".parse().unwrap(), cosigner);
    }
}

/// A Holm that is only its log.
struct Holm {
    app: Arc<App>,
    running: Running,
}

impl Holm {
    async fn start(config: &Config) -> Self {
        let app = Arc::new(App::open(config.clone()).unwrap());
        Self { running: api::start(Arc::clone(&app)).await.unwrap(), app }
    }

    /// An entry of its own.
    fn grow(&self, what: &str) -> u64 {
        let call = Call::own("test", "log".to_owned());
        let detail = json!({ "what": what });
        let grown = |_: &_, _| Ok(Decided { detail, ..Decided::new(Vec::new(), ()) });
        self.app.ledger.commit(&call, grown).unwrap();
        self.app.ledger.size()
    }

    /// Until so much is cosigned.
    async fn covered(&self, size: u64) {
        let covered = async {
            loop {
                let all = self.app.witnesses.all();
                let newest = all.values().next().and_then(|standing| standing.newest.as_ref());
                if newest.is_some_and(|newest| newest.size >= size) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, covered).await.expect("it is not cosigned");
    }

    async fn says(&self, state: &str) -> Entry {
        let mut sizes = self.app.ledger.subscribe();
        let said = async {
            loop {
                sizes.mark_unchanged();
                let bodies = self.app.ledger.entries(0, self.app.ledger.size()).unwrap();
                let mut entries = bodies.iter().rev().map(|body| Entry::from_bytes(body).unwrap());
                if let Some(entry) =
                    entries.find(|e| e.action == "observe.witness" && e.detail["state"] == state)
                {
                    return entry;
                }
                sizes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(SOON, said).await.expect("no such entry")
    }

    /// How often a witness was in the log.
    fn said(&self) -> usize {
        let bodies = self.app.ledger.entries(0, self.app.ledger.size()).unwrap();
        let entries = bodies.iter().map(|body| Entry::from_bytes(body).unwrap());
        entries.filter(|e| e.action == "observe.witness").count()
    }

    async fn end(self) {
        self.running.stop().await;
        let released = async {
            while Arc::strong_count(&self.app) > 1 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, released).await.expect("something holds on to holmd");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// A new Holm, its witness, and where its data lies.
async fn scene() -> (Outside, Config, PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let made = setup::init(&options(dir.path())).unwrap();
    let mut outside = Outside::new();
    outside.config.logs.push(made.verifier_key.clone());
    outside.start().await;
    let mut config = Config::load(&made.config).unwrap();
    outside.of(&mut config);
    let data = config.data.clone();
    (outside, config, data, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_is_cosigned_and_only_news_are_entries() {
    let mut outside = Outside::new();
    let world = {
        // The log's name is the test's, its key is known when it is there.
        outside.start().await;
        World::full_of(|config| {
            outside.of(config);
            let key = SigningKey::load(&config.data.join("log.key")).unwrap();
            outside.config.logs.push(key.vkey(&config.log_origin));
        })
        .await
    };
    // It does not know the log: that is said when it was asked often enough.
    let behind = world.logged(|e| e.action == "observe.witness" && e.detail["state"] == "behind").await;
    assert!(behind.detail["why"].as_str().unwrap().contains("does not know this log"), "{behind:?}");
    let list = || async {
        world.audit("anna").list_witnesses(v1::ListWitnessesRequest {}).await.unwrap().into_inner()
    };
    let witness = list().await.witnesses.remove(0);
    assert_eq!((witness.state(), witness.size), (v1::WitnessState::Behind, 0));
    let host = v1::GetHostRequest { name: "dgx".to_owned() };
    let host = world.hosts("olga").get_host(host).await.unwrap().into_inner();
    assert!(host.alerts.iter().any(|alert| alert.code == "witness-behind"), "{host:?}");

    outside.stop().await;
    outside.start().await;
    let covered = world.logged(|e| e.action == "observe.witness" && e.detail["state"] == "covered").await;
    let holm = |size| {
        let app = Arc::clone(&world.app);
        async move {
            let until = async {
                while app.witnesses.all().values().all(|s| s.newest.as_ref().is_none_or(|n| n.size < size)) {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(SOON, until).await.expect("it is not cosigned");
        }
    };
    // The entry that says so is cosigned, and what comes after it, and none of it is an entry more.
    holm(covered.index + 1).await;
    world.project("dina", "lung", "2").await.unwrap();
    holm(world.app.ledger.size()).await;
    let said = world.log().iter().filter(|e| e.action == "observe.witness").count();
    assert_eq!(said, 2);

    let witness = list().await.witnesses.remove(0);
    assert_eq!((witness.name.as_str(), witness.state()), ("w1", v1::WitnessState::Covered));
    let log = world.app.log_key.vkey(&world.app.config.log_origin);
    let (head, _) = cosignature::cosigned(&witness.note, &log, &outside.key).unwrap();
    assert_eq!(head.size, witness.size);
    let host = v1::GetHostRequest { name: "dgx".to_owned() };
    let host = world.hosts("olga").get_host(host).await.unwrap().into_inner();
    assert!(!host.alerts.iter().any(|alert| alert.code.starts_with("witness")), "{host:?}");
    // What holmd knows of it is there after a restart, too.
    let world = world.restart().await;
    let kept = world.app.witnesses.all().into_values().next().unwrap();
    assert!(kept.newest.is_some_and(|newest| newest.size >= witness.size));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_rolled_back_is_found() {
    let (outside, config, data, dir) = scene().await;
    let holm = Holm::start(&config).await;
    holm.says("covered").await;
    holm.end().await;
    let yesterday = dir.path().join("yesterday");
    copy(&data, &yesterday);
    let holm = Holm::start(&config).await;
    for n in 0..20 {
        holm.grow(&format!("today {n}"));
    }
    let size = holm.app.ledger.size();
    holm.covered(size).await;
    holm.end().await;

    // All of it is as it was, what holmd knows of its witness, too.
    std::fs::remove_dir_all(&data).unwrap();
    copy(&yesterday, &data);
    let holm = Holm::start(&config).await;
    let alarm = holm.says("alarm").await;
    let why = alarm.detail["why"].as_str().unwrap();
    assert!(why.contains("has cosigned") && why.contains("rolled back"), "{why}");
    // A head that both signed, and that this log has not: nobody has to believe the witness.
    let log = holm.app.log_key.vkey(&config.log_origin);
    let evidence = alarm.detail["evidence"].as_str().unwrap();
    let (head, _) = cosignature::cosigned(evidence, &log, &outside.key).unwrap();
    assert!(head.size >= size && head.size > alarm.index);
    assert_eq!(holm.app.witnesses.alerts()[0].code, "witness-alarm");

    // It goes on saying so: after a restart at once, and while it grows beyond what was cosigned.
    let kept = async {
        while !std::fs::read_to_string(data.join("witness/w1.json"))
            .is_ok_and(|kept| kept.contains("\"alarm\""))
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, kept).await.expect("it is not kept");
    holm.end().await;
    let holm = Holm::start(&config).await;
    assert_eq!(holm.app.witnesses.alerts()[0].code, "witness-alarm");
    while holm.grow("written over it") <= head.size {}
    let forked = async {
        while !holm.app.witnesses.alerts()[0].text.contains("forked or changed") {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, forked).await.expect("it is not found");
    assert_eq!(holm.said(), 2, "covered, alarm");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_holmds_from_one_copy_one_is_found() {
    let (outside, config, data, dir) = scene().await;
    let holm = Holm::start(&config).await;
    holm.says("covered").await;
    holm.end().await;
    let other = dir.path().join("other");
    copy(&data, &other);

    let one = Holm::start(&config).await;
    one.grow("shown to frida");
    one.covered(one.app.ledger.size()).await;
    // It asks no witness until it is the longer one: a shorter one would be found to be rolled back, which is another alarm.
    let mut alone = Config { data: other, ..config.clone() };
    let cosigners = std::mem::take(&mut alone.witness.cosigners);
    let two = Holm::start(&alone).await;
    for _ in 0..9 {
        two.grow("shown to gustav");
    }
    two.end().await;
    alone.witness.cosigners = cosigners;
    let two = Holm::start(&alone).await;
    let alarm = two.says("alarm").await;
    assert!(alarm.detail["why"].as_str().unwrap().contains("forked or changed"), "{alarm:?}");
    let log = two.app.log_key.vkey(&config.log_origin);
    // A head that the log's own key signed, and the witness, and that this log has not: nobody has to believe either.
    let (head, _) =
        cosignature::cosigned(alarm.detail["evidence"].as_str().unwrap(), &log, &outside.key).unwrap();
    let (_, proof) = two.app.ledger.extension(head.size).unwrap();
    let own = Checkpoint::verify(&two.app.ledger.checkpoint(), &log).unwrap();
    assert!(head.size < own.size && verify::consistency(&head, &own, &proof).is_err());
    // The first one is covered as before.
    one.grow("and on");
    one.covered(one.app.ledger.size()).await;
    assert!(one.app.witnesses.alerts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_away_holds_nothing_up_and_goes_on_where_it_was() {
    let (mut outside, config, _, _dir) = scene().await;
    let holm = Holm::start(&config).await;
    holm.says("covered").await;
    outside.stop().await;
    let began = std::time::Instant::now();
    for n in 0..50 {
        holm.grow(&format!("meanwhile {n}"));
    }
    assert!(began.elapsed() < SOON);
    let behind = holm.says("behind").await;
    assert!(behind.detail["why"].as_str().unwrap().contains("cannot be reached"), "{behind:?}");
    assert!(behind.detail["size"].as_u64().unwrap() > 0, "what was cosigned is still: {behind:?}");
    outside.start().await;
    holm.covered(holm.app.ledger.size()).await;
    assert!(holm.app.witnesses.alerts().is_empty());
    // Whoever the certificate is not for is not asked.
    holm.end().await;
    let mut config = config;
    config.witness.cosigners.values_mut().next().unwrap().url =
        format!("https://127.0.0.1:{}/", outside.config.listen.port());
    let holm = Holm::start(&config).await;
    let before = holm.app.witnesses.all().into_values().next().unwrap().newest;
    holm.says("behind").await;
    assert_eq!(holm.app.witnesses.all().into_values().next().unwrap().newest, before);
}
