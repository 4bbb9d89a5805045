//! Where holmd and the agent run, as a place that takes shell scripts.

use crate::{Failure, Outcome, demand};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A machine under test.
#[derive(Debug)]
pub enum Ground {
    /// This machine.
    Here,
    /// The virtual DGX-2.
    Virtual(Machine),
}

/// The virtual DGX-2, booted once; it ends with this value.
#[derive(Debug)]
pub struct Machine {
    script: PathBuf,
    dir: PathBuf,
    keep: bool,
}

impl Machine {
    /// Boots it; its files lie in `dir`. What happens is printed as it happens. Unless it is to be kept it ends
    /// with this process, however that one ends.
    pub fn boot(repository: &Path, dir: &Path, keep: bool, spare: bool) -> Outcome<Self> {
        let script = repository.join("tests/virtual-dgx2/machine");
        let machine = Self { script, dir: dir.to_owned(), keep };
        let mut up = machine.command("up");
        if !keep {
            up.args(["--with", &std::process::id().to_string()]);
        }
        if spare {
            up.env("HOLM_SPARE_GIB", "256");
        }
        let status = up.status()?;
        demand(status.success(), "the virtual DGX-2 did not come up; see its console above")?;
        Ok(machine)
    }

    /// A script that lies beside the machine's own; it lies at the same place there.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.script.with_file_name(name)
    }

    /// Runs a script of `deploy/` here, where the machine is, and returns the last line that it prints.
    pub fn deploy(&self, script: &str, binaries: &Path) -> Outcome<String> {
        let output = Command::new(self.repository()?.join("deploy").join(script))
            .env("HOLM_SCRUB", binaries.join("holm-scrub"))
            .stderr(Stdio::inherit())
            .output()?;
        demand(output.status.success(), format!("deploy/{script} failed"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }

    /// The checkout that it is of.
    pub fn repository(&self) -> Outcome<&Path> {
        Ok(self.script.ancestors().nth(3).ok_or("the machine's script lies nowhere")?)
    }

    /// How a person gets into it, and ends it.
    pub fn ways_in(&self) -> [String; 2] {
        let (script, dir) = (self.script.display(), self.dir.display());
        [format!("{script} ssh {dir}"), format!("{script} down {dir}")]
    }

    /// Presses the button of a device's slot: the device goes.
    pub fn unplug(&self, device: &str) -> Outcome {
        let status = self.command("unplug").arg(device).status()?;
        demand(status.success(), format!("`{device}` cannot be unplugged"))
    }

    /// What it has at an address, of its memory or of a device's.
    pub fn memory(&self, address: u64, bytes: u64) -> Outcome<Vec<u8>> {
        let file = self.dir.join("memory");
        let status =
            self.command("memory").args([address.to_string(), bytes.to_string()]).arg(&file).status()?;
        demand(status.success(), format!("{bytes} bytes at {address:#x} cannot be read"))?;
        let read = fs::read(&file)?;
        fs::remove_file(file)?;
        Ok(read)
    }

    /// Its disk, as a sparse file of this machine.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// The two ports that lead into it under the same number.
    pub fn ports(&self) -> Outcome<[u16; 2]> {
        let text = fs::read_to_string(self.dir.join("ports"))?;
        let port = |name: &str| -> Outcome<u16> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            Ok(line.ok_or_else(|| format!("the machine's `ports` lacks `{name}`"))?.trim().parse()?)
        };
        Ok([port("holmd")?, port("enrol")?])
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.script);
        command.arg(verb).arg(&self.dir);
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing is left to tell it to.
            let _ = self.command("down").status();
        }
    }
}

impl Ground {
    /// A shell there, not started yet, that reads its script from standard input.
    fn shell(&self) -> Command {
        match self {
            Self::Here => {
                let mut command = Command::new("bash");
                command.args(["-euo", "pipefail", "-s"]);
                command
            }
            Self::Virtual(machine) => {
                let mut command = machine.command("ssh");
                command.arg("bash -euo pipefail -s");
                command
            }
        }
    }

    /// Runs a script and returns what came of it, whatever it was.
    pub fn attempt(&self, script: &str) -> Outcome<Output> {
        let mut child =
            self.shell().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        stdin.write_all(script.as_bytes())?;
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    /// Runs a script that must succeed and returns what it printed.
    pub fn run(&self, script: &str) -> Outcome<String> {
        let output = self.attempt(script)?;
        if !output.status.success() {
            return Err(failed(script, &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Is it the virtual DGX-2?
    pub fn machine(&self) -> Option<&Machine> {
        match self {
            Self::Here => None,
            Self::Virtual(machine) => Some(machine),
        }
    }
}

fn failed(script: &str, output: &Output) -> Failure {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    format!("this failed on the host:\n{script}\n{}\n{}", said(&output.stdout), said(&output.stderr)).into()
}
