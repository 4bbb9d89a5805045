//! One holmd, one agent, and the people who use them.

use crate::ground::Ground;
use crate::{Outcome, demand, show};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The host's name in every site.
pub const HOST: &str = "dgx2-1";
/// The first operator.
pub const OPERATOR: &str = "olga";
/// Security officers.
pub const OFFICERS: [&str; 2] = ["frida", "gustav"];

/// All that level 2 demands of a project to be filed; level 3 wants a DPIA as well.
pub const FILED: &str = "--legal-basis e --special-categories yes --special-basis j --research yes \
    --ethics N-20260017 --data-management-plan DMP-42 --ends 400d";

/// How a site is made.
#[derive(Debug)]
pub struct Plan {
    /// Where the daemons run.
    pub ground: Ground,
    /// Where the binaries are, here and there.
    pub binaries: PathBuf,
    /// Where the daemons' files go, there.
    pub root: PathBuf,
    /// Where people's profiles go, here.
    pub home: PathBuf,
    /// For people and agents, and for enrolment; the same number here and there.
    pub ports: [u16; 2],
    /// The agent's configuration, or none for a simulated host.
    pub agent_config: Option<PathBuf>,
}

/// A running site. Its daemons end with it.
#[derive(Debug)]
pub struct Site {
    plan: Plan,
    starts: AtomicU32,
}

/// A daemon of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// The control service.
    Holmd,
    /// The host's agent.
    Agent,
}

impl Daemon {
    /// Of its binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Holmd => "holmd",
            Self::Agent => "holm-agent",
        }
    }

    /// The line it prints when it can be used.
    fn ready(self) -> &'static str {
        match self {
            Self::Holmd => "holmd ready",
            Self::Agent => "holm-agent ready",
        }
    }
}

impl Site {
    /// Sets up holmd and starts it, enrols the first people and the host, starts the agent.
    pub fn open(plan: Plan) -> Outcome<Self> {
        let site = Self { plan, starts: AtomicU32::new(0) };
        let codes = site.init()?;
        if site.plan.ground.machine().is_some() {
            // What stands in for GPUs and NVSwitches is what this site has bought.
            site.configure(
                "printf '\\n[bill]\\ngpu_ids = [\"1af4:1110\"]\\nnvswitch_ids = [\"1b36:0005\"]\\n' >>holmd.toml",
            )?;
            // It has one processor, which all of its slices share.
            site.configure("sed -i 's/^cpus = .*/cpus = \"shared\"/' holmd.toml && grep -q '^cpus = \"shared\"' holmd.toml")?;
        }
        site.start(Daemon::Holmd)?;
        for (name, code) in &codes {
            site.enrol(name, code)?;
        }
        let code = site.json(OPERATOR, &["host", "invite", HOST])?;
        let code = text(&code, "code")?;
        let (binaries, identity, root) =
            (site.plan.binaries.display(), site.identity(), site.plan.root.display());
        match (&site.plan.agent_config, site.plan.ground.machine()) {
            (Some(config), Some(machine)) => {
                site.host(&format!("{} >{}", machine.tool("agent-config").display(), config.display()))?
            }
            _ => site.host(&format!(
                "printf '[agent]\\nidentity = \"%s\"\\nrecord = \"%s\"\\n' {} {root}/agent >{root}/agent.toml",
                identity.display()
            ))?,
        };
        let enrol = site.plan.ports[1];
        site.host(&format!(
            "{binaries}/holm enrol {code} --server localhost:{enrol} --dir {} >/dev/null",
            identity.display()
        ))?;
        site.start(Daemon::Agent)?;
        Ok(site)
    }

    /// holmd's files, made anew; the codes of the first people.
    fn init(&self) -> Outcome<Vec<(String, String)>> {
        let (root, binaries) = (self.plan.root.display(), self.plan.binaries.display());
        let [main, enrol] = self.plan.ports;
        let officers: String = OFFICERS.iter().map(|name| format!(" --officer {name}")).collect();
        let said = self.host(&format!(
            "mkdir -p {root}
             {binaries}/holmd init --dir {root}/holmd --server localhost:{main} --listen 0.0.0.0:{main} \
               --enrol-listen 0.0.0.0:{enrol} --operator {OPERATOR}{officers}"
        ))?;
        let code_of = |name: &str| -> Outcome<(String, String)> {
            let line = said.lines().find(|line| line.contains(name) && line.contains("holm1-"));
            let code = line.and_then(|line| line.split_whitespace().find(|word| word.starts_with("holm1-")));
            Ok((name.to_owned(), code.ok_or_else(|| format!("no code for {name} in:\n{said}"))?.to_owned()))
        };
        std::iter::once(OPERATOR).chain(OFFICERS).map(code_of).collect()
    }

    /// Replaces a line of holmd's configuration, or adds one. Takes effect with its next start.
    pub fn configure(&self, script: &str) -> Outcome {
        self.host(&format!("cd {}/holmd\n{script}", self.plan.root.display())).map(drop)
    }

    /// Invites and enrols a person; one who was invited before needs no role.
    pub fn invite(&self, by: &str, name: &str, role: Option<&str>) -> Outcome {
        let role = role.map_or_else(Vec::new, |role| vec!["--role", role]);
        let arguments: Vec<&str> = ["person", "invite", name].into_iter().chain(role).collect();
        let said = self.json(by, &arguments)?;
        self.enrol(name, text(&said, "code")?)
    }

    /// Registers a project that has filed all that any level demands.
    pub fn project(&self, lead: &str, name: &str, level: &str, purpose: &str) -> Outcome {
        let mut command = vec!["project", "create", name, "--level", level, "--purpose", purpose];
        command.extend(FILED.split(' ').chain(["--dpia", "DPIA-2026-17"]));
        self.ok(lead, &command).map(drop)
    }

    /// Waits until no GPU of the host is dirty any more.
    pub fn all_clean(&self, operator: &str) -> Outcome {
        self.ok(operator, &["wait", "--host", HOST, "clean", "--timeout", "10m"]).map(drop)
    }

    fn enrol(&self, name: &str, code: &str) -> Outcome {
        let server = format!("localhost:{}", self.plan.ports[1]);
        self.ok(name, &["enrol", code, "--server", &server]).map(drop)
    }

    /// Starts a daemon and waits until it can be used.
    pub fn start(&self, daemon: Daemon) -> Outcome {
        let start = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        let (name, ready, root) = (daemon.name(), daemon.ready(), self.plan.root.display());
        let log = format!("{root}/{name}.{start}.log");
        let arguments = match (daemon, &self.plan.agent_config) {
            (Daemon::Holmd, _) => format!("serve --config {root}/holmd/holmd.toml"),
            (Daemon::Agent, Some(config)) => format!("serve --config {}", config.display()),
            (Daemon::Agent, None) => format!("serve --config {root}/agent.toml --simulate dgx2"),
        };
        self.host(&format!(
            "setsid nohup {}/{name} {arguments} >{log} 2>&1 </dev/null &
             pid=$!; echo $pid >{root}/{name}.pid
             set +o pipefail
             timeout 180 tail --pid=$pid -n +1 -F {log} 2>/dev/null | grep -q -m1 '{ready}' || {{ cat {log}; exit 1; }}",
            self.plan.binaries.display()
        ))
        .map(drop)
    }

    /// Ends a daemon at once, as a crash would, and waits until it is gone.
    pub fn kill(&self, daemon: Daemon) -> Outcome {
        let pid = format!("{}/{}.pid", self.plan.root.display(), daemon.name());
        self.host(&format!("pid=$(cat {pid}); kill -9 $pid; timeout 60 tail --pid=$pid -f /dev/null"))
            .map(drop)
    }

    /// From its next start on the agent boots machines by what a tool makes of the image's initrd: `hostile` or `lean`.
    pub fn boot_by(&self, tool: &str) -> Outcome {
        let machine = self.plan.ground.machine().ok_or("a simulated machine boots nothing")?;
        self.host(&format!(
            "config=/var/lib/holm/agent.toml
             cp $config $config.sound
             {} \"$(sed -n 's/^initrd = \"\\(.*\\)\"/\\1/p' $config)\" /var/lib/holm/{tool}.img
             sed -i 's|^initrd = .*|initrd = \"/var/lib/holm/{tool}.img\"|' $config",
            machine.tool(tool).display()
        ))
        .map(drop)
    }

    /// After [`Self::boot_by`], from its next start on: by the image's own again.
    pub fn boot_by_itself(&self) -> Outcome {
        self.host("config=/var/lib/holm/agent.toml; mv $config.sound $config").map(drop)
    }

    /// Its memory in use now, MiB.
    pub fn resident_mib(&self, daemon: Daemon) -> Outcome<f64> {
        let pid = format!("{}/{}.pid", self.plan.root.display(), daemon.name());
        let kib = self.host(&format!(
            "sed -n 's/^VmRSS:[[:space:]]*\\([0-9]*\\) kB/\\1/p' /proc/$(cat {pid})/status"
        ))?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    }

    /// A script on the host, by its administrator.
    pub fn host(&self, script: &str) -> Outcome<String> {
        self.plan.ground.run(script)
    }

    /// `tests/virtual-dgx2/compare` on the host.
    pub fn by_hand(&self, arguments: &str) -> Outcome<String> {
        let machine =
            self.plan.ground.machine().ok_or("there is nothing to do by hand on a simulated host")?;
        self.host(&format!("{} {arguments}", machine.tool("compare").display()))
    }

    /// Where the host's certificate lies, there.
    pub fn identity(&self) -> PathBuf {
        self.plan.root.join("agent-identity")
    }

    /// Where the daemons' files lie, there.
    pub fn root(&self) -> &Path {
        &self.plan.root
    }

    /// Where the binaries lie.
    pub fn binaries(&self) -> &Path {
        &self.plan.binaries
    }

    /// Where people's profiles and files lie, here.
    pub fn home(&self) -> &Path {
        &self.plan.home
    }

    /// Where the daemons run.
    pub fn ground(&self) -> &Ground {
        &self.plan.ground
    }

    /// `holm` as this person runs it.
    pub fn command(&self, who: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.plan.binaries.join("holm"));
        command
            .args(arguments)
            .env("HOLM_CONFIG", &self.plan.home)
            .env("HOLM_PROFILE", who)
            .stdin(Stdio::null());
        command
    }

    /// Runs it and returns what came of it, whatever it was.
    pub fn attempt(&self, who: &str, arguments: &[&str]) -> Outcome<Output> {
        Ok(self.command(who, arguments).output()?)
    }

    /// Runs it; it must succeed. What it printed.
    pub fn ok(&self, who: &str, arguments: &[&str]) -> Outcome<String> {
        let output = self.attempt(who, arguments)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        demand(
            output.status.success(),
            format!("`holm {}` of {who} failed:\n{out}{err}", arguments.join(" ")),
        )?;
        Ok(out.trim_end().to_owned())
    }

    /// Runs it; it must be refused. What it said.
    pub fn refused(&self, who: &str, arguments: &[&str]) -> Outcome<String> {
        let output = self.attempt(who, arguments)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        demand(
            !output.status.success(),
            format!("`holm {}` of {who} was not refused:\n{said}", arguments.join(" ")),
        )?;
        Ok(said)
    }

    /// Runs it for its JSON.
    pub fn json(&self, who: &str, arguments: &[&str]) -> Outcome<Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--format", "json"]).collect();
        Ok(serde_json::from_str(&self.ok(who, &arguments)?)?)
    }

    /// As somebody would type it, shown with all that it prints; it must end as `succeeds` says. What it said.
    pub fn typed(&self, who: &str, line: &str, succeeds: bool) -> Outcome<String> {
        show::typed(who, line);
        let arguments = words(line).ok_or_else(|| format!("`{line}` does not begin with `holm`"))?;
        let mut command = self.command(who, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let said = show::both(&mut child)?;
        let status = child.wait()?;
        demand(
            status.success() == succeeds,
            format!("`{line}` of {who} was to {}", if succeeds { "succeed" } else { "be refused" }),
        )?;
        Ok(said)
    }

    /// As the administrator would type it on the host, in holmd's directory; shown with all that it prints.
    pub fn typed_on_host(&self, line: &str, succeeds: bool) -> Outcome<String> {
        show::typed(&format!("root@{HOST}"), line);
        let script = format!(
            "export PATH=$PATH:{}; cd {}/holmd; {line} 2>&1",
            self.plan.binaries.display(),
            self.plan.root.display()
        );
        let output = self.plan.ground.attempt(&script)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().for_each(show::printed);
        demand(
            output.status.success() == succeeds,
            format!("`{line}` was to {}", if succeeds { "succeed" } else { "fail" }),
        )?;
        Ok(said)
    }

    /// Writes a file of a person's, here.
    pub fn write(&self, name: &str, text: &str) -> Outcome<PathBuf> {
        let path = self.plan.home.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Those on the virtual DGX-2 end with it.
        if matches!(self.plan.ground, Ground::Here) {
            for daemon in [Daemon::Agent, Daemon::Holmd] {
                // One that was never started has no pid to kill.
                let _ = self.kill(daemon);
            }
        }
    }
}

/// A text field of JSON.
pub fn text<'a>(value: &'a Value, field: &str) -> Outcome<&'a str> {
    value
        .get(field)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("there is no text `{field}` in {value}").into())
}

/// The words of a command line after `holm`; double quotes hold words together.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    (words.first()? == "holm").then(|| words.split_off(1))
}

/// A list of JSON.
pub fn list<'a>(value: &'a Value, field: &str) -> Outcome<&'a Vec<Value>> {
    value
        .get(field)
        .and_then(Value::as_array)
        .ok_or_else(|| format!("there is no list `{field}` in {value}").into())
}
