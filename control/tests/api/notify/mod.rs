//! Messages: by a real mail server, and to a program that checks who says what. The servers are the test's own.

mod hook;
pub mod post;

use crate::world::{Agent, SOON, World, decide, ready_slice, stopped};
use holm_control::api;
use holm_control::app::App;
use holm_control::audit::{Checkpoint, verify};
use holm_control::config::Config;
use holm_control::keys::Secret;
use holm_control::notify::{NotifyConfig, SmtpConfig, Tls, WebhookConfig};
use holm_proto::v1;
use hook::Hook;
use post::{Post, Setup, certificates};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

fn secret(dir: &Path, text: &str) -> Secret {
    let path = dir.join("secret");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Secret::File(path)
}

fn by_mail(dir: &Path, port: u16) -> NotifyConfig {
    let smtp = SmtpConfig {
        server: "localhost".to_owned(),
        port: Some(port),
        tls: Tls::Starttls,
        ca_file: dir.join("ca.pem"),
        from: "Holm <holm@example.org>".to_owned(),
        address: "{name}@example.org".to_owned(),
        heads_to: Vec::new(),
        username: Some("holm".to_owned()),
        password: Some(secret(dir, "sesame-of-the-test")),
    };
    NotifyConfig { retry_seconds: 1, smtp: Some(smtp), ..NotifyConfig::default() }
}

/// A world whose people get mail, and the server that has it.
async fn world() -> (World, Post, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), &["localhost", "elsewhere.example"]);
    let post = Post::start(dir.path(), Setup::default()).await;
    let notify = by_mail(dir.path(), post.port);
    (World::full_of(move |config| config.notify = notify).await, post, dir)
}

/// What is wrong by the sheet of a host, of messages.
async fn alerts(world: &World) -> Vec<v1::Alert> {
    let request = v1::GetHostRequest { name: "dgx".to_owned() };
    let host = world.hosts("olga").get_host(request).await.unwrap().into_inner();
    host.alerts.into_iter().filter(|alert| alert.code.starts_with("notify-")).collect()
}

async fn down(world: &World, name: &str) -> String {
    let of = format!("notify/{name}");
    let is = |e: &holm_control::audit::Entry| e.action == "observe.notify" && e.resource == of;
    let entry = world.logged(|e| is(e) && !e.detail["down"].is_null()).await;
    entry.detail["down"].as_str().unwrap().to_owned()
}

async fn up(world: &World, name: &str) {
    let of = format!("notify/{name}");
    world.logged(|e| e.action == "observe.notify" && e.resource == of && e.detail["down"].is_null()).await;
    assert!(alerts(world).await.is_empty());
}

fn id(mail: &Value) -> &str {
    mail["headers"]["message-id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_to_act_gets_mail_and_nobody_else() {
    let (world, mut post, _dir) = world().await;
    world.request("rosa", "heart/main", 1).await.unwrap_err();
    world.request("dina", "heart/main", 1).await.unwrap();
    let (to, subject, mail) = post.mail().await;
    assert_eq!((to.as_str(), subject.as_str()), ("frida@example.org", "heart/main waits for your approval"));
    assert_eq!(mail["from"], "holm@example.org");
    assert_eq!((&mail["tls"], &mail["login"]), (&json!(true), &json!("holm")));
    assert_eq!(mail["headers"]["auto-submitted"], "auto-generated");
    assert_eq!(mail["headers"]["to"], "frida@example.org");
    let body = mail["body"].as_str().unwrap();
    assert!(body.contains("dina asks for the slice main of the project heart: level 2"), "{body}");
    assert!(body.lines().any(|line| line == "  holm slice review heart/main"), "{body}");
    assert!(!body.contains("a study"), "what it is for is not for mail: {body}");
    let asked = world.logged(|e| e.action == "slice.request" && e.outcome == "allowed").await;
    assert!(id(&mail).contains(&format!("-{}-0-frida@example.org", asked.index)), "{}", id(&mail));
    assert_eq!(post.mail().await.0, "gustav@example.org");

    world.slices("gustav").reject_slice(decide("heart/main", "a secret reason")).await.unwrap();
    let (to, subject, mail) = post.mail().await;
    assert_eq!((to.as_str(), subject.as_str()), ("dina@example.org", "heart/main is rejected"));
    assert!(!mail.to_string().contains("a secret reason"), "{mail}");

    let lock = v1::SetLockRequest {
        subject: "person/rosa".to_owned(),
        reason: "a secret reason".to_owned(),
        dry_run: false,
    };
    world.locks("frida").set_lock(lock).await.unwrap();
    for (to, subject) in [
        ("frida@example.org", "person/rosa is locked"),
        ("gustav@example.org", "person/rosa is locked"),
        ("rosa@example.org", "person/rosa is locked"),
    ] {
        let mail = post.mail().await;
        assert_eq!((mail.0.as_str(), mail.1.as_str()), (to, subject));
        assert!(!mail.2.to_string().contains("a secret reason"), "{}", mail.2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_is_told_of_from_request_to_stop() {
    let (world, mut post, _dir) = world().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    stopped(&world, &mut agent).await;
    let told =
        ["waits for your approval", "waits for your approval", "is approved", "is ready", "is stopped"];
    for subject in told {
        assert_eq!(post.mail().await.1, format!("heart/main {subject}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_anothers_certificate_gets_nothing_and_nothing_is_lost() {
    let (world, post, dir) = world().await;
    let port = post.port;
    post.end().await;
    let setup = Setup { name: "elsewhere.example", port, ..Setup::default() };
    let mut impostor = Post::start(dir.path(), setup).await;
    world.request("dina", "heart/main", 1).await.unwrap();
    let why = down(&world, "smtp").await;
    assert!(why.contains("ertificate") && why.contains("localhost"), "{why}");
    let alerts = alerts(&world).await;
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].code, "notify-smtp-down");
    assert!(alerts[0].mend.contains("holmd notify test"), "{alerts:?}");
    // Nothing came but connections.
    impostor.hold(false).await;
    impostor.end().await;
    // Then it is away altogether, and calls are answered as ever.
    world.request("lars", "brain/main", 1).await.unwrap();
    let mut post = Post::start(dir.path(), Setup { port, ..Setup::default() }).await;
    let mut got = Vec::new();
    for _ in 0..4 {
        let (to, subject, _) = post.mail().await;
        got.push(format!("{to} {subject}"));
    }
    let of = |name, slice| format!("{name}@example.org {slice}/main waits for your approval");
    let all = [of("frida", "heart"), of("gustav", "heart"), of("frida", "brain"), of("gustav", "brain")];
    assert_eq!(got, all, "in the order in which it happened, each once");
    up(&world, "smtp").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_holds_up_nobody() {
    let (world, mut post, _dir) = world().await;
    post.rule("frida@example.org", "rcpt", "450 4.2.0 greylisted", 1).await;
    world.request("dina", "heart/main", 1).await.unwrap();
    assert_eq!(post.next().await["refused"], "frida@example.org");
    assert_eq!(post.mail().await.0, "gustav@example.org");
    let (to, subject, _) = post.mail().await;
    assert_eq!((to.as_str(), subject.as_str()), ("frida@example.org", "heart/main waits for your approval"));

    for (at, code, reply) in [("rcpt", 550, "5.1.1 nobody of that name"), ("data", 554, "5.6.0 not this")] {
        post.rule("frida@example.org", at, &format!("{code} {reply}"), 1).await;
        let slice = format!("brain/{at}");
        world.request("lars", &slice, 1).await.unwrap();
        assert_eq!(post.next().await["refused"], "frida@example.org");
        let (to, subject, _) = post.mail().await;
        assert_eq!(
            (to, subject),
            ("gustav@example.org".to_owned(), format!("{slice} waits for your approval"))
        );
        let said = format!("permanent error ({code}): {reply}");
        let failed = world.logged(|e| e.action == "notify.fail" && e.detail["why"] == said.as_str()).await;
        assert_eq!(failed.detail["to"], "frida");
        assert_eq!(
            (failed.actor.as_str(), failed.detail["kind"].as_str()),
            ("holmd", Some("approval-wanted"))
        );
    }
    // That it failed was no event: the next message is of the next event.
    assert!(alerts(&world).await.is_empty(), "the server is there");
    world.slices("frida").reject_slice(decide("brain/rcpt", "no")).await.unwrap();
    assert_eq!(post.mail().await.1, "brain/rcpt is rejected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_not_taken_is_an_alert_and_no_loss() {
    let (world, post, dir) = world().await;
    let port = post.port;
    post.end().await;
    let changed = Setup { password: Some("another"), port, ..Setup::default() };
    let mut post = Post::start(dir.path(), changed).await;
    world.request("dina", "heart/main", 1).await.unwrap();
    assert_eq!(post.next().await["refused"], "login");
    let why = down(&world, "smtp").await;
    assert!(why.contains("535") && !why.contains("sesame"), "{why}");
    post.end().await;
    let mut post = Post::start(dir.path(), Setup { port, ..Setup::default() }).await;
    assert_eq!(post.mail().await.0, "frida@example.org");
    assert!(!world.log().iter().any(|e| e.action == "notify.fail"));
}

/// A holmd as a process, over what a world has left.
struct Process(Child, PathBuf);

impl Process {
    async fn start(dir: &Path, notify: &NotifyConfig) -> Self {
        let path = dir.join("holmd/holmd.toml");
        let config = Config { notify: notify.clone(), ..Config::load(&path).unwrap() };
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holmd"));
        let out = (std::process::Stdio::piped(), std::process::Stdio::null());
        command.args(["serve", "--config"]).arg(&path).stdout(out.0).stderr(out.1).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = tokio::time::timeout(SOON, lines.next_line()).await.unwrap().unwrap();
        assert!(ready.unwrap().starts_with("holmd ready"));
        Self(child, path)
    }

    /// SIGKILL.
    async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }

    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holmd"));
        let output = command.args(arguments).arg("--config").arg(&self.1).output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_a_kill_left_in_doubt_comes_again_under_the_same_id() {
    let (world, post, dir) = world().await;
    let (port, notify) = (post.port, world.app.config.notify.clone());
    post.end().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    down(&world, "smtp").await;
    let left = world.end().await;

    let mut post = Post::start(dir.path(), Setup { port, ..Setup::default() }).await;
    post.hold(true).await;
    let holmd = Process::start(left.path(), &notify).await;
    let (to, _, first) = post.mail().await;
    assert_eq!(to, "frida@example.org");
    // It has the message and has not said so.
    holmd.kill().await;
    post.hold(false).await;

    let holmd = Process::start(left.path(), &notify).await;
    let (to, _, again) = post.mail().await;
    assert_eq!(to, "frida@example.org");
    assert_eq!(again["headers"], first["headers"], "the same to the letter: a reader sees that it is");
    let (to, _, other) = post.mail().await;
    assert_eq!(to, "gustav@example.org");
    assert_ne!(id(&other), id(&again));
    // This holmd has the rules that are built in, and the one before had none.
    for officer in ["frida@example.org", "gustav@example.org"] {
        let (to, subject, _) = post.mail().await;
        assert_eq!((to.as_str(), subject.as_str()), (officer, "what watches holmd was changed"));
    }
    // While it runs an operator tries it.
    let (good, said) = holmd.run(&["notify", "test", "--to", "anna"]).await;
    assert!(good && said.contains("ok       smtp"), "{said}");
    let (to, subject, _) = post.mail().await;
    assert_eq!((to.as_str(), subject.as_str()), ("anna@example.org", "a test of Holm's notifications"));
    let (good, _) = holmd.run(&["notify", "test"]).await;
    assert!(good);
    assert_eq!(post.mail().await.0, "holm@example.org");
    post.rule("anna@example.org", "rcpt", "550 5.1.1 nobody", 1).await;
    let (good, said) = holmd.run(&["notify", "test", "--to", "anna"]).await;
    assert!(!good && said.contains("WRONG    smtp") && said.contains("550"), "{said}");
    let (_, said) = holmd.run(&["check"]).await;
    assert!(said.contains(&format!("ok       notifications  mail by localhost:{port}")), "{said}");
    holmd.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_template_or_secret_keeps_holmd_from_starting() {
    let (world, post, dir) = world().await;
    let mut config = world.app.config.clone();
    drop(post);
    let _left = world.end().await;
    let texts = dir.path().join("texts");
    std::fs::create_dir(&texts).unwrap();
    std::fs::write(texts.join("slice-ready.txt"), "Subject: {slice}\n\nfine\n{reason}\n").unwrap();
    config.notify.templates = Some(texts.clone());
    let file = dir.path().join("holmd.toml");
    let said = async |verb: &str, config: &Config| {
        std::fs::write(&file, toml::to_string(config).unwrap()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holmd"));
        let output = command.args([verb, "--config"]).arg(&file).output().await.unwrap();
        assert!(!output.status.success());
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    for verb in ["check", "serve"] {
        let said = said(verb, &config).await;
        assert!(said.contains("slice-ready.txt`, line 4: there is no `{reason}`"), "{verb}: {said}");
    }
    config.notify.templates = None;
    std::fs::set_permissions(dir.path().join("secret"), std::fs::Permissions::from_mode(0o640)).unwrap();
    for verb in ["check", "serve"] {
        assert!(said(verb, &config).await.contains("chmod 600"), "{verb}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_from_the_first_byte_and_none_at_all() {
    for (tls, name) in [(Tls::Implicit, "implicit"), (Tls::None, "none")] {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path(), &["localhost"]);
        let password = (tls == Tls::Implicit).then_some("sesame-of-the-test");
        let mut post = Post::start(dir.path(), Setup { tls: name, password, ..Setup::default() }).await;
        let mut notify = by_mail(dir.path(), post.port);
        if let Some(smtp) = &mut notify.smtp {
            smtp.tls = tls;
            if tls == Tls::None {
                (smtp.username, smtp.password) = (None, None);
            }
        }
        let world = World::full_of(move |config| config.notify = notify).await;
        world.request("dina", "heart/main", 1).await.unwrap();
        let (to, _, mail) = post.mail().await;
        assert_eq!((to.as_str(), mail["login"] == "holm"), ("frida@example.org", tls == Tls::Implicit));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_taken_away_forgets_where_it_was() {
    let (world, _post, _dir) = world().await;
    let book = world.dir.path().join("holmd/notify/smtp.json");
    assert!(book.exists());
    let config = Config { notify: NotifyConfig::default(), ..world.app.config.clone() };
    let _left = world.end().await;
    let running = api::start(Arc::new(App::open(config).unwrap())).await.unwrap();
    assert!(!book.exists(), "what happens meanwhile would be told when it comes back");
    running.stop().await;
}

async fn hooked() -> (World, Hook, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), &["localhost"]);
    let hook = Hook::start(dir.path()).await;
    let webhook = WebhookConfig {
        url: format!("https://localhost:{}/holm?x=1", hook.port),
        secret: secret(dir.path(), hook::SECRET),
        ca_file: dir.path().join("ca.pem"),
    };
    let notify = NotifyConfig { retry_seconds: 1, webhook: Some(webhook), ..NotifyConfig::default() };
    (World::full_of(move |config| config.notify = notify).await, hook, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logs_head_is_mailed_to_those_who_keep_it() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), &["localhost"]);
    let mut post = Post::start(dir.path(), Setup::default()).await;
    post.rule("full@elsewhere.example", "rcpt", "452 4.2.2 mailbox full", 1).await;
    post.rule("gone@elsewhere.example", "rcpt", "550 5.1.1 nobody of that name", 1).await;
    let mut notify = by_mail(dir.path(), post.port);
    if let Some(smtp) = &mut notify.smtp {
        smtp.heads_to = ["keeper", "full", "gone"].map(|to| format!("{to}@elsewhere.example")).into();
    }
    let world = World::full_of(move |config| config.notify = notify).await;
    assert_eq!(post.next().await["refused"], "full@elsewhere.example");
    assert_eq!(post.next().await["refused"], "gone@elsewhere.example");
    let (to, subject, mail) = post.mail().await;
    assert_eq!(to, "keeper@elsewhere.example");
    let note = mail["files"]["head.txt"].as_str().unwrap();
    let key = world.app.log_key.vkey(&world.app.config.log_origin);
    let kept = Checkpoint::verify(note, &key).unwrap();
    assert_eq!(subject, format!("holm.test/log: {} entries", kept.size));
    let body = mail["body"].as_str().unwrap();
    assert!(
        body.contains(note.lines().nth(2).unwrap()) && body.contains("holm audit verify --earlier"),
        "{body}"
    );
    // It is tried again where there was no room, with the same, and the others get it once.
    let (to, _, again) = post.mail().await;
    assert_eq!(to, "full@elsewhere.example");
    assert_eq!((&again["files"], id(&again)), (&mail["files"], id(&mail)));
    let said = async |state: &str| {
        world.logged(|e| e.action == "observe.mailbox" && e.detail["state"] == state).await.detail
    };
    let begun = said("sending").await;
    assert_eq!((&begun["size"], &begun["to"]), (&json!(kept.size), &json!(3)));
    assert_eq!(begun["root"], *note.lines().nth(2).unwrap());
    let ended = said("refused").await;
    assert_eq!((&ended["size"], &ended["took"]), (&json!(kept.size), &json!(2)));
    assert_eq!(ended["refused"], json!(["gone@elsewhere.example"]));
    // What it says is of this log, now and later.
    let (now, proof) = world.app.ledger.extension(kept.size).unwrap();
    let now = Checkpoint::verify(&now, &key).unwrap();
    assert!(now.size > kept.size);
    verify::consistency(&kept, &now, &proof).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_told_under_a_signature() {
    let (world, mut hook, _dir) = hooked().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    let told = hook.next().await;
    assert_eq!(told["kind"], "approval-wanted");
    assert_eq!(told["to"], json!(["frida", "gustav"]));
    assert_eq!(told["log"], "holm.test/log");
    assert_eq!(told["fields"]["command"], "holm slice review heart/main");
    assert_eq!(told["subject"], "heart/main waits for your approval");
    assert!(!told.to_string().contains("a study"), "{told}");
    let asked = world.logged(|e| e.action == "slice.request" && e.outcome == "allowed").await;
    assert_eq!((&told["entry"], &told["time"]), (&json!(asked.index), &json!(asked.time)));

    // It cannot make sense of one: that is given up, and the next comes.
    hook.answer(&[422]);
    world.slices("gustav").reject_slice(decide("heart/main", "no")).await.unwrap();
    let refused = hook.next().await;
    let failed = world.logged(|e| e.action == "notify.fail").await;
    assert_eq!((&failed.detail["id"], failed.resource.as_str()), (&refused["id"], "notify/webhook"));
    // It is not well: the same comes until it is.
    hook.answer(&[503, 401]);
    world.request("lars", "brain/main", 1).await.unwrap();
    let ids = [hook.next().await, hook.next().await, hook.next().await].map(|told| told["id"].clone());
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert!(down(&world, "webhook").await.contains("answers 50"), "the first failure is the entry");
    up(&world, "webhook").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_answer_holds_up_no_call() {
    let (world, mut hook, _dir) = hooked().await;
    hook.answer(&[0]);
    world.request("dina", "heart/main", 1).await.unwrap();
    let silent = hook.next().await;
    // A call is answered meanwhile.
    world.request("lars", "brain/main", 1).await.unwrap();
    assert!(down(&world, "webhook").await.contains("no answer within 5 s"));
    assert_eq!(hook.next().await["id"], silent["id"]);
    assert_eq!(hook.next().await["fields"]["project"], "brain");
    up(&world, "webhook").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_channel_waits_for_no_other() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path(), &["localhost"]);
    let mut hook = Hook::start(dir.path()).await;
    let post = Post::start(dir.path(), Setup::default()).await;
    let port = post.port;
    post.end().await;
    let mut notify = by_mail(dir.path(), port);
    let secret = dir.path().join("hook");
    std::fs::write(&secret, hook::SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    notify.webhook = Some(WebhookConfig {
        url: format!("https://localhost:{}/", hook.port),
        secret: Secret::File(secret),
        ca_file: dir.path().join("ca.pem"),
    });
    let world = World::full_of(move |config| config.notify = notify).await;
    let _agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 1).await.unwrap();
    assert_eq!(hook.next().await["kind"], "approval-wanted");
    down(&world, "smtp").await;
    world.request("lars", "brain/main", 1).await.unwrap();
    // That mail is down was no message, to the program neither.
    assert_eq!(hook.next().await["fields"]["project"], "brain");
}
