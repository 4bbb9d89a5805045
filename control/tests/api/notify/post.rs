//! A mail server that the test has started: `smtpd.py`, with certificates of the test's own.

use crate::world::SOON;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Debian's, for which the package `python3-aiosmtpd` is.
const PYTHON: &str = "/usr/bin/python3";

/// An authority, and what it has signed: `ca.pem`, and for each name NAME.pem and NAME.key.
pub fn certificates(dir: &Path, names: &[&str]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in names {
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec![(*name).to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), leaf.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// How it is set up.
pub struct Setup {
    pub tls: &'static str,
    /// What its certificate says.
    pub name: &'static str,
    pub password: Option<&'static str>,
    pub port: u16,
}

impl Default for Setup {
    fn default() -> Self {
        Self { tls: "starttls", name: "localhost", password: Some("sesame-of-the-test"), port: 0 }
    }
}

pub struct Post {
    pub port: u16,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// What came while the answer to a command was waited for.
    early: Vec<Value>,
}

impl Post {
    pub async fn start(dir: &Path, setup: Setup) -> Self {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/api/notify/smtpd.py");
        let mut command = Command::new(PYTHON);
        command.arg(script).args(["--tls", setup.tls, "--port", &setup.port.to_string()]);
        command.arg("--certificate").arg(dir.join(format!("{}.pem", setup.name)));
        command.arg("--key").arg(dir.join(format!("{}.key", setup.name)));
        command.args(setup.password.iter().flat_map(|password| ["--password", password]));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut post = Self { port: 0, child, input, output, early: Vec::new() };
        let ready = post.line().await;
        post.port = u16::try_from(ready["port"].as_u64().expect("it says its port")).unwrap();
        post
    }

    /// It is gone, and its port is nobody's.
    pub async fn end(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Reply so to RCPT or DATA for this address, so many times.
    pub async fn rule(&mut self, address: &str, at: &str, reply: &str, times: i32) {
        self.tell(json!({ "rules": { address: [at, reply, times] } })).await;
    }

    /// Take messages, and do not say so.
    pub async fn hold(&mut self, hold: bool) {
        self.tell(json!({ "hold": hold })).await;
    }

    async fn tell(&mut self, command: Value) {
        self.input.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        loop {
            let line = self.line().await;
            if line["done"] == true {
                return;
            }
            self.early.push(line);
        }
    }

    /// What happens next there.
    pub async fn next(&mut self) -> Value {
        if self.early.is_empty() { self.line().await } else { self.early.remove(0) }
    }

    async fn line(&mut self) -> Value {
        let line = tokio::time::timeout(SOON, self.output.next_line()).await;
        let line = line.expect("nothing more comes").unwrap().expect("the mail server runs");
        serde_json::from_str(&line).unwrap()
    }

    /// The next message: to whom, and its subject.
    pub async fn mail(&mut self) -> (String, String, Value) {
        let mail = self.next().await;
        let to = mail["to"][0].as_str().unwrap_or_else(|| panic!("no mail: {mail}")).to_owned();
        (to, mail["headers"]["subject"].as_str().unwrap().to_owned(), mail)
    }
}
