//! Full disks: a slice's own, its host's, and a project's part of them. On the simulated host both fill up because a
//! file says so. On the virtual DGX-2 a real guest fills what its volumes lie in: it stands still, loses nothing, and
//! goes on when there is room.

use crate::faults::{ask, close};
use crate::site::{Daemon, HOST, OFFICERS, OPERATOR, Site, list, text};
use crate::{Outcome, demand, show};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a machine may take to come up.
const LIMIT: &str = "30m";
/// How long it may take until something is seen: agents look every few seconds, guests every minute.
const SEEN: Duration = Duration::from_secs(20 * 60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// What the guest writes, and what of it there is room for, MiB.
const WRITES_MIB: u32 = 160;
const ROOM_MIB: u32 = 80;
/// Where volumes lie on the virtual DGX-2.
const VOLUMES: &str = "/var/lib/holm/volumes";

/// All of it, by a lead with a project.
pub fn run(site: &Site, lead: &str, project: &str) -> Outcome {
    quota(site, lead, project)?;
    match site.ground().machine() {
        None => simulated(site, lead, project),
        Some(_) => real(site, lead, project),
    }
}

/// A project has so much disk and no more.
pub fn quota(site: &Site, lead: &str, project: &str) -> Outcome {
    site.refused(lead, &["project", "quota", project, "--disk-gib", "9"])?;
    site.ok(OPERATOR, &["project", "quota", project, "--disk-gib", "9"])?;
    let slice = format!("{project}/large");
    let request = ["slice", "request", &slice, "--gpus", "1", "--home", "0", "--scratch", "0", "--disk"];
    let said = site.refused(lead, &[&request[..], &["10G"]].concat())?;
    demand(
        said.contains("may have 9 GiB") && said.contains("holm project quota"),
        format!("above its quota, holm said: {said}"),
    )?;
    let shown = site.ok(lead, &["project", "show", project])?;
    demand(shown.contains("of 9 GiB"), format!("the project shows: {shown}"))?;
    site.ok(OPERATOR, &["project", "quota", project, "--default"])?;
    show::seen("a project's slices have so much disk together, which an operator sets, and no more");
    Ok(())
}

fn simulated(site: &Site, lead: &str, project: &str) -> Outcome {
    let slice = format!("{project}/full");
    ask(site, lead, &slice, 1)?;
    site.ok(lead, &["wait", &slice, "ready", "--timeout", LIMIT])?;
    let id = site.json(lead, &["slice", "show", &slice])?;
    let id = text(&id, "id")?;
    let faults = |text: &str| {
        let file = format!("{}/agent/simulated/faults", site.root().display());
        site.host(&format!("echo '{text}' >{file}.new && mv {file}.new {file}"))
    };
    faults(&format!("disk:{id}:root:93"))?;
    let seen = until(site, (lead, &slice), SEEN, |s| !list(s, "warnings").is_ok_and(Vec::is_empty))?;
    demand(seen["disks"][0]["used_percent"] == 93, format!("its disks are {}", seen["disks"]))?;
    let said = site.ok(lead, &["slice", "list"])?;
    demand(said.contains("93 % full"), format!("the list says {said}"))?;
    logged(site, project, "observe.disk")?;
    show::seen("a slice shows how full its disks are, warns from 80 % on, and the log has it");
    faults("room:100")?;
    paused(site, lead, &slice, true)?;
    faults("room:50")?;
    paused(site, lead, &slice, false)?;
    logged(site, project, "observe.paused")?;
    close(site, lead, &slice)?;
    show::seen(
        "on a host without room machines are paused, which people are told, and go on when there is some",
    );
    Ok(())
}

/// The guest writes more than there is room for, below its own disk.
fn real(site: &Site, lead: &str, project: &str) -> Outcome {
    let slice = format!("{project}/full");
    // Room that can be made smaller and larger, for volumes alone: the rest of the host is to have its own.
    site.kill(Daemon::Agent)?;
    site.host(&format!(
        "mkdir -p {VOLUMES} && mount -t tmpfs -o size=1G,mode=711 volumes {VOLUMES}
         cp /var/lib/holm/agent.toml /var/lib/holm/agent.toml.before
         sed -i 's/^base_image/overcommit = 8.0\\nbase_image/' /var/lib/holm/agent.toml"
    ))?;
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)?;
    ask(site, lead, &slice, 1)?;
    site.ok(lead, &["wait", &slice, "ready", "--timeout", LIMIT])?;
    let seen = until(site, (lead, &slice), SEEN, |s| !list(s, "disks").is_ok_and(Vec::is_empty))?;
    let id = text(&seen, "id")?.to_owned();
    demand(seen["disks"][0]["name"] == "root", format!("its guest says {}", seen["disks"]))?;
    let size = |more: u32| {
        site.host(&format!(
            "used=$(df --output=used -B1M {VOLUMES} | tail -1); mount -o remount,size=$((used + {more}))M {VOLUMES}"
        ))
    };
    size(ROOM_MIB)?;
    // The same bytes at each time, so that what is read back can be told from what was meant.
    let make = format!("(seq 100000000 2>/dev/null || true) | head -c {WRITES_MIB}M");
    let meant = site.host(&format!("{make} | sha256sum"))?;
    let write = format!("{make} | dd of=large bs=1M iflag=fullblock conv=fsync 2>&1");
    let mut writing = site.command(lead, &["ssh", &slice, "--", &write]).stdout(Stdio::null()).spawn()?;
    paused(site, lead, &slice, true)?;
    let why = site.host(&format!("virsh -c qemu:///system domstate --reason holm-{id}"))?;
    demand(why.contains("paused") && why.contains("I/O"), format!("libvirt says that it is {why}"))?;
    demand(writing.try_wait()?.is_none(), "what could not be written was said to be written")?;
    show::seen(
        "a machine that writes where there is no room stands still, and its people and operators are told",
    );
    size(2 * WRITES_MIB)?;
    paused(site, lead, &slice, false)?;
    demand(writing.wait()?.success(), "the guest was told of an error")?;
    // Past the guest's own memory, from the disk.
    let read = "dd if=large bs=1M iflag=direct 2>/dev/null | sha256sum; grep ' / ' /proc/mounts; rm large";
    let said = site.ok(lead, &["ssh", &slice, "--", read])?;
    demand(said.contains(meant.trim()), format!("what was written is not what is read: {said}"))?;
    demand(said.contains(" rw,"), format!("its file system heard of an error: {said}"))?;
    logged(site, project, "observe.paused")?;
    show::seen(
        "with room again it goes on by itself; what it wrote is all there, and its file system heard of nothing",
    );
    close(site, lead, &slice)?;
    site.kill(Daemon::Agent)?;
    site.host(&format!("umount {VOLUMES} && mv /var/lib/holm/agent.toml.before /var/lib/holm/agent.toml"))?;
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)
}

/// Waits until a slice is shown as paused, or no longer, to its lead and to the operator.
fn paused(site: &Site, lead: &str, slice: &str, is: bool) -> Outcome {
    let seen = until(site, (lead, slice), SEEN, |s| s["paused"] == is)?;
    demand(text(&seen, "state")? == "ready", "a paused slice is no longer ready")?;
    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    let told = list(&host, "alerts")?.iter().any(|alert| alert["code"] == "slices-paused");
    demand(told == is, format!("the operator is told {}", host["alerts"]))
}

/// The officer finds it in the log.
fn logged(site: &Site, project: &str, action: &str) -> Outcome {
    let log = site.json(OFFICERS[0], &["audit", "log", "--project", project, "--action", action])?;
    demand(log.as_array().is_some_and(|all| !all.is_empty()), format!("the log has no `{action}`"))
}

/// Looks at a slice until it is as it should be.
#[allow(clippy::disallowed_methods, reason = "of what a host reports there is no event to wait for")]
pub fn until(
    site: &Site,
    (who, slice): (&str, &str),
    limit: Duration,
    holds: impl Fn(&Value) -> bool,
) -> Outcome<Value> {
    let end = Instant::now() + limit;
    loop {
        let now = site.json(who, &["slice", "show", slice])?;
        if holds(&now) {
            return Ok(now);
        }
        demand(Instant::now() < end, format!("{slice} never came to what was waited for: {now:#}"))?;
        std::thread::sleep(LOOK);
    }
}
