//! A real holmd in this process, and people who run the real `holm`.

#![allow(dead_code, reason = "not every test needs every part")]

use holm_control::api::{self, Running};
use holm_control::app::App;
use holm_control::config::Config;
use holm_control::identity::{Demand, Strangers, accept, tls};
use holm_control::setup::{self, Options};
use holm_proto::v1::slice_service_server::{SliceService, SliceServiceServer};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// All that any level demands to be filed.
pub const FILED: [&str; 16] = [
    "--legal-basis",
    "e",
    "--special-categories",
    "yes",
    "--special-basis",
    "j",
    "--research",
    "yes",
    "--dpia",
    "DPIA-17",
    "--ethics",
    "N-4711",
    "--data-management-plan",
    "DMP-3",
    "--ends",
    "400d",
];

/// holmd, its people, and a runtime for it.
pub struct Holmd {
    pub runtime: tokio::runtime::Runtime,
    app: Option<Arc<App>>,
    running: Option<Running>,
    pub codes: Vec<(String, String)>,
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub enrolment: u16,
}

/// A port that was free a moment ago.
fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Holmd {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (main, enrolment) = (port(), port());
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let made = setup::init(&Options {
            dir: dir.path().join("holmd"),
            server: format!("localhost:{main}"),
            listen: at(main),
            enrol_listen: at(enrolment),
            pack: "aau-2018".to_owned(),
            log_origin: "localhost/holm".to_owned(),
            platform: "dgx-2".to_owned(),
            operator: "olga".parse().unwrap(),
            officers: vec!["frida".parse().unwrap(), "gustav".parse().unwrap()],
        })
        .unwrap();
        let config = Config::load(&made.config).unwrap();
        let app = Arc::new(App::open(config).unwrap());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let running = Some(runtime.block_on(api::start(Arc::clone(&app))).unwrap());
        let codes = made.invited.into_iter().map(|(name, _, code)| (name.to_string(), code)).collect();
        Self { runtime, app: Some(app), running, codes, dir, port: main, enrolment }
    }

    /// With the first people enrolled.
    pub fn with_people() -> Self {
        let holmd = Self::start();
        for (name, code) in holmd.codes.clone() {
            holmd.ok(&name, &["enrol", &code, "--server", &holmd.enrolment_at()]);
        }
        holmd
    }

    pub fn enrolment_at(&self) -> String {
        format!("localhost:{}", self.enrolment)
    }

    /// holmd ends, as with SIGTERM.
    pub fn stop(&mut self) {
        let running = self.running.take().unwrap();
        self.runtime.block_on(running.stop());
    }

    /// The same holmd again.
    pub fn start_again(&mut self) {
        self.start_again_with(|_| {});
    }

    /// The same, configured otherwise, or with other data.
    pub fn start_again_with(&mut self, change: impl FnOnce(&mut Config)) {
        let app = self.app.take().unwrap();
        let mut config = app.config.clone();
        // The store is open once: connections that end still hold the old one for a moment.
        self.runtime.block_on(async {
            while Arc::strong_count(&app) > 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        drop(app);
        change(&mut config);
        let app = Arc::new(App::open(config).unwrap());
        self.running = Some(self.runtime.block_on(api::start(Arc::clone(&app))).unwrap());
        self.app = Some(app);
    }

    pub fn app(&self) -> Arc<App> {
        Arc::clone(self.app.as_ref().unwrap())
    }

    pub fn invite(&self, name: &str, role: &str) {
        let code = self.ok("olga", &["person", "invite", name, "--role", role, "--quiet"]);
        self.ok(name, &["enrol", code.trim(), "--server", &self.enrolment_at()]);
    }

    /// A project that has filed all that any level demands.
    pub fn project(&self, lead: &str, name: &str, level: &str, purpose: &str) {
        let mut command = vec!["project", "create", name, "--level", level, "--purpose", purpose];
        command.extend(FILED);
        self.ok(lead, &command);
    }

    pub fn profiles(&self) -> PathBuf {
        self.dir.path().join("people")
    }

    pub fn profile(&self, name: &str) -> PathBuf {
        self.profiles().join("profiles").join(name)
    }

    pub fn command(&self, who: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holm"));
        command
            .args(arguments)
            .env("HOLM_CONFIG", self.profiles())
            .env("HOLM_PROFILE", who)
            .env_remove("HOLM_PROJECT")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, who: &str, arguments: &[&str]) -> Output {
        self.command(who, arguments).output().unwrap()
    }

    pub fn ok(&self, who: &str, arguments: &[&str]) -> String {
        let output = self.run(who, arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it ends with this code.
    pub fn fails(&self, who: &str, arguments: &[&str], code: i32) -> String {
        let output = self.run(who, arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn json(&self, who: &str, arguments: &[&str]) -> Value {
        let all: Vec<&str> = arguments.iter().copied().chain(["--format", "json"]).collect();
        serde_json::from_str(&self.ok(who, &all)).unwrap()
    }

    /// A holmd whose slices are made up, for those who are enrolled here; `who` talks to it from now on.
    pub fn pretend(&self, who: &str, slices: impl SliceService) {
        let app = self.app();
        let port = self.runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let tls = tls::mutual(&app.authority, vec!["localhost".to_owned()]).unwrap();
            let strangers = Arc::new(Strangers::new(Arc::clone(&app)));
            let connections = accept(listener, tls, Demand::Certificate, strangers);
            let service = SliceServiceServer::new(slices);
            tokio::spawn(tonic::transport::Server::builder().serve_with_incoming(service, connections));
            port
        });
        let file = self.profile(who).join("profile.toml");
        let profile = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, profile.replace(&format!(":{}", self.port), &format!(":{port}"))).unwrap();
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
