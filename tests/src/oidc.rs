//! A real OpenID provider, and whoever sits at its page.

use crate::{Outcome, demand};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What holmd shows the provider.
pub const SECRET: &str = "a secret for tests";

/// oidc-provider, with nobody to type a password.
pub struct Provider {
    child: Child,
    tell: ChildStdin,
    says: BufReader<ChildStdout>,
    files: tempfile::TempDir,
    /// `https://localhost:PORT`.
    pub issuer: String,
}

impl Provider {
    /// Installs it where it is not, and starts it.
    pub fn start() -> Outcome<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc");
        let installed = Command::new(here.join("install")).stderr(Stdio::inherit()).output()?;
        demand(installed.status.success(), "the OpenID provider of the tests cannot be installed")?;
        let program = PathBuf::from(String::from_utf8(installed.stdout)?.trim()).join("provider.mjs");
        let files = tempfile::tempdir()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of the provider's own name it would be taken for signed by itself.
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        let ca_key = KeyPair::generate()?;
        std::fs::write(files.path().join("ca.pem"), params.self_signed(&ca_key)?.pem())?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec!["localhost".to_owned()])?
            .signed_by(&key, &Issuer::new(params, ca_key))?;
        let [key_file, leaf_file] = ["key.pem", "leaf.pem"].map(|name| files.path().join(name));
        std::fs::write(&key_file, key.serialize_pem())?;
        std::fs::write(&leaf_file, leaf.pem())?;
        let mut child = Command::new("node")
            .arg(program)
            .args([&key_file, &leaf_file])
            .arg(SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let tell = child.stdin.take().ok_or("it hears nothing")?;
        let mut says = BufReader::new(child.stdout.take().ok_or("it says nothing")?);
        let mut issuer = String::new();
        says.read_line(&mut issuer)?;
        demand(issuer.starts_with("https://"), format!("the OpenID provider says `{issuer}`"))?;
        Ok(Self { child, tell, says, files, issuer: issuer.trim().to_owned() })
    }

    /// The authority of its certificate.
    pub fn ca(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// Who logs in next, and by which methods.
    pub fn is(&mut self, subject: &str, methods: &str) -> Outcome {
        writeln!(self.tell, "{subject} {methods}")?;
        self.tell.flush()?;
        let mut said = String::new();
        self.says.read_line(&mut said)?;
        demand(said.trim() == format!("as {subject}"), format!("the OpenID provider says `{said}`"))
    }

    /// Opens the page, enters the code, says yes or no.
    pub fn enter(&self, page: &str, code: &str, yes: bool) -> Outcome {
        let browser = Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc/browser.py");
        let (ca, answer) = (self.ca(), if yes { "yes" } else { "no" });
        let output = Command::new("python3").arg(browser).arg(ca).args([page, code, answer]).output()?;
        demand(output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
