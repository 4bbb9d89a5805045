//! A slice as researchers have it, on the virtual DGX-2: what they learn in their first hour, done in it; then it is stopped and
//! started, a neighbour floods, holmd is killed beside it, it is rebuilt onto a newer image with more GPUs, and its people, jobs
//! and accounting are all still there.

use crate::site::{Daemon, HOST, OFFICERS, OPERATOR, Site, list, text};
use crate::stages::Stages;
use crate::{Outcome, by_hand, demand, hostile, show};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::Instant;

/// As the workshop calls them.
const LEAD: &str = "ida";
const MEMBER: &str = "rosa";
const SLICE: &str = "heart/main";
const LIMIT: &str = "30m";
/// Of the benchmark, open at the same time; so many of them log in at once.
const SESSIONS: usize = 50;
const AT_ONCE: usize = 5;
/// Who signs images, as its key is called.
const BUILDER: &str = "builder.test";
/// What of its accounting must still be there.
const JOBS: &str = "sacct --allusers -X -n -P --format=jobid,state | wc -l; cat note";

/// All of it.
pub fn run(site: &Site, stages: &mut Stages) -> Outcome {
    begin(site)?;
    stages.time("the workshop, by a researcher", || workshop(site))?;
    stages.time("its lead's queue, jobs from outside", || queue(site))?;
    stages.time("a member comes, reads, and goes", || member(site))?;
    let before = on(site, JOBS)?;
    stages.time("stopped, started, its first job", || again(site, &before).map(drop))?;
    stages.time("a neighbour floods", || hostile::floods(site, || neighbour(site)))?;
    stages.time("holmd is killed", || killed(site))?;
    stages.time("rebuilt onto a newer image", || rebuilt(site, &before))?;
    stages.time("the neighbour falls silent", || hostile::falls_silent(site, || neighbour(site)))
}

/// What the way through holmd costs, and how long it takes from a start asked for to a job's output.
pub fn bench(site: &Site) -> Outcome {
    begin(site)?;
    let before = format!("{}\nkept", on(site, "echo kept >note; sacct -X -n -P | wc -l")?.trim());
    let (ready, job) = again(site, &before)?;
    let shown = site.json(LEAD, &["slice", "show", SLICE])?;
    let machine = site.ground().machine().ok_or("a simulated guest has no shell")?;
    let said = site.host(&format!(
        "cid=$(virsh -c qemu:///system dumpxml holm-{} | sed -n \"s/.*<cid .*address='\\([0-9]*\\)'.*/\\1/p\")
         export HOLM_CONFIG={} HOLM_PROFILE={LEAD}
         {} {}/holm {SLICE} $cid",
        text(&shown, "id")?,
        site.home().display(),
        machine.tool("ssh-bench").display(),
        site.binaries().display()
    ))?;
    said.lines().for_each(show::printed);
    many(site)?;
    start_by_hand(site, &shown, ready, job)
}

/// Sessions that are open at the same time: a few log in at once, and then each answers while all are open.
fn many(site: &Site) -> Outcome {
    let begin = |_| -> Outcome<Child> {
        let mut command = site.command(LEAD, &["--quiet", "ssh", SLICE, "--", "cat"]);
        Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
    };
    let started = Instant::now();
    let mut all = Vec::new();
    while all.len() < SESSIONS {
        let mut some = (0..AT_ONCE).map(begin).collect::<Outcome<Vec<_>>>()?;
        some.iter_mut().try_for_each(|session| said(session, "in"))?;
        all.append(&mut some);
    }
    let logged_in = started.elapsed();
    let started = Instant::now();
    for (number, session) in all.iter_mut().enumerate() {
        said(session, &number.to_string())?;
    }
    let answered = started.elapsed();
    for mut session in all {
        drop(session.stdin.take());
        demand(session.wait()?.success(), "a session did not end well")?;
    }
    show::printed(&format!(
        "{SESSIONS} sessions at once: {AT_ONCE} at a time log in, in {:.1} s; all answer, one after the other, in {:.1} s",
        logged_in.as_secs_f64(),
        answered.as_secs_f64()
    ));
    Ok(())
}

/// Says a line, and hears it again.
fn said(session: &mut Child, line: &str) -> Outcome {
    let line = format!("{line}\n");
    session.stdin.as_mut().ok_or("no input")?.write_all(line.as_bytes())?;
    let mut heard = vec![0; line.len()];
    session.stdout.as_mut().ok_or("no output")?.read_exact(&mut heard)?;
    demand(heard == line.as_bytes(), "a session hears another line than was said")
}

/// The same machine started by hand, the agent stopped: what Holm is compared with.
fn start_by_hand(site: &Site, shown: &Value, ready: f64, job: f64) -> Outcome {
    site.ok(LEAD, &["slice", "ssh-cert", SLICE])?;
    let key = site.ok(LEAD, &["slice", "ssh-config", SLICE])?;
    let key = key.lines().find_map(|line| line.trim().strip_prefix("IdentityFile "));
    let key = key.ok_or("there is no key in ssh's configuration")?.trim_matches('"').to_owned();
    site.by_hand(&format!("prepare {}", text(shown, "id")?))?;
    site.ok(LEAD, &["slice", "stop", SLICE])?;
    site.ok(LEAD, &["wait", SLICE, "stopped", "--timeout", LIMIT])?;
    site.all_clean(OPERATOR)?;
    site.kill(Daemon::Agent)?;
    let gpus = by_hand::free(site, list(shown, "devices")?.len())?.join(" ");
    // ssh wants a key that nobody else can read, which a shared directory does not show.
    site.host(&format!(
        "install -m 600 '{key}' /run/by-hand && install -m 600 '{key}-cert.pub' /run/by-hand-cert.pub"
    ))?;
    let said = site.by_hand(&format!("job /run/by-hand {LEAD} {gpus}"))?;
    site.start(Daemon::Agent)?;
    let seconds = |name: &str| -> Outcome<f64> {
        let found = said.lines().find_map(|line| line.strip_prefix(name));
        Ok(found.ok_or_else(|| format!("by hand, it says `{said}`"))?.trim().parse()?)
    };
    show::printed(&format!("{:<34}{:>10}{:>10}{:>8}", "from the start, seconds", "by hand", "holm", "ratio"));
    for (name, hand, holm) in
        [("ready", seconds("ready ")?, ready), ("the first job's output", seconds("job ")?, job)]
    {
        show::printed(&format!("{name:<34}{hand:>10.1}{holm:>10.1}{:>8.2}", holm / hand));
    }
    Ok(())
}

/// A lead, her project and a slice of four GPUs that is ready, on a host with a library of container images.
pub fn begin(site: &Site) -> Outcome {
    let machine = site.ground().machine().ok_or("a simulated guest has no shell")?;
    site.kill(Daemon::Agent)?;
    site.host(&format!(
        "mkdir -p /var/lib/holm/images.sif && printf '#!/usr/bin/env run-singularity\\n\\0SIF_MAGIC\\0tiny' >/var/lib/holm/images.sif/tiny.sif
         {}/deploy/library /var/lib/holm/images.sif /var/lib/holm/library.img
         sed -i 's|^\\[host.guest\\]|&\\nlibrary = \"/var/lib/holm/library.img\"|' /var/lib/holm/agent.toml",
        machine.repository()?.display()
    ))?;
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)?;
    site.invite(OPERATOR, LEAD, Some("lead"))?;
    site.project(LEAD, "heart", "2", "a workshop")?;
    let request =
        ["slice", "request", SLICE, "--gpus", "4", "--vcpus", "2", "--memory", "1536M", "--disk", "4G"];
    site.ok(LEAD, &[&request[..], &["--home", "3G", "--scratch", "1G"]].concat())?;
    site.ok(OFFICERS[0], &["slice", "approve", SLICE])?;
    site.ok(LEAD, &["wait", SLICE, "ready", "--timeout", LIMIT]).map(drop)
}

fn on(site: &Site, command: &str) -> Outcome<String> {
    site.ok(LEAD, &["ssh", SLICE, "--", command])
}

fn workshop(site: &Site) -> Outcome {
    let machine = site.ground().machine().ok_or("a simulated guest has no shell")?;
    let script = machine.repository()?.join("tests/slice/workshop");
    let script = script.to_str().ok_or("a path that is no text")?;
    site.ok(LEAD, &["slice", "copy", script, &format!("{SLICE}:workshop")])?;
    let mut command = site.command(LEAD, &["ssh", SLICE, "--", "bash workshop </dev/null"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let said = show::both(&mut child)?;
    demand(child.wait()?.success(), format!("the workshop failed:\n{said}"))?;
    show::seen("what researchers know works in their slice, and what is not theirs is refused");
    Ok(())
}

/// What its lead sets of its queue holds in it, jobs come from outside, and what was used is known.
fn queue(site: &Site) -> Outcome {
    site.ok(LEAD, &["slice", "scheduler", SLICE, "--set", "night:wall=12h,priority=20,gpus=2"])?;
    let has = "for i in $(seq 3000); do sacctmgr -n -P show assoc format=qos | grep -qw night && exec echo it has; sleep 0.2; done";
    demand(on(site, has)?.contains("it has"), "the new class of jobs never came")?;
    let script = site.write("night.sh", "#!/bin/bash\n#SBATCH --output=night.out\necho by night $1\n")?;
    let script = script.to_str().ok_or("a path that is no text")?;
    let submit = ["job", "submit", SLICE, script, "--gpus", "1", "--qos", "night", "--wait", "--", "it is's"];
    site.ok(LEAD, &submit)?;
    demand(
        on(site, "cat night.out")?.contains("by night it is's"),
        "what the job was given is not what it got",
    )?;
    let refused = site.refused(LEAD, &["job", "submit", SLICE, script, "--gpus", "3", "--qos", "night"])?;
    demand(refused.contains("QOS"), format!("above its class's limit, holm said: {refused}"))?;
    let used = site.json(LEAD, &["slice", "usage", SLICE])?;
    let hours = |name: &str| used[name].as_f64().unwrap_or_default();
    demand(hours("gpu_hours_jobs") > 0.0, format!("its use is {used}"))?;
    demand(hours("gpu_hours_jobs") <= hours("gpu_hours_held"), format!("its use is {used}"))?;
    show::seen(
        "its lead's classes of jobs hold in it, jobs come from outside, and how its GPUs were used is known",
    );
    Ok(())
}

/// Somebody joins who only reads, and is taken out while she sits there.
fn member(site: &Site) -> Outcome {
    site.invite(OPERATOR, MEMBER, Some("researcher"))?;
    on(site, "echo ours >/project/table")?;
    site.ok(LEAD, &["project", "add-member", "heart", MEMBER, "--read-only"])?;
    let seen = |what: &str| -> Outcome {
        let command =
            format!("for i in $(seq 3000); do if {what}; then exec echo it is; fi; sleep 0.2; done");
        demand(on(site, &command)?.contains("it is"), format!("in the slice, never: {what}"))
    };
    seen(&format!("getent group readers | grep -qw {MEMBER}"))?;
    let says = "cat /project/table; (: >/project/mine) 2>/dev/null || echo cannot; nohup sleep 36000 >/dev/null 2>&1 &";
    let said = site.ok(MEMBER, &["ssh", SLICE, "--", says])?;
    demand(said.trim_end() == "ours\ncannot", format!("who only reads in the project sees `{said}`"))?;
    let refused = site.refused(MEMBER, &["slice", "stop", SLICE])?;
    demand(refused.contains("only reads in"), format!("she would stop it, and holm said: {refused}"))?;
    let mut open = site
        .command(MEMBER, &["--quiet", "ssh", SLICE, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    self::said(&mut open, "in")?;
    site.ok(LEAD, &["project", "remove-member", "heart", MEMBER])?;
    demand(!open.wait()?.success(), "who is taken out sits there still")?;
    seen(&format!("! pgrep -f 'sleep 3600[0]' >/dev/null && ! getent passwd {MEMBER} >/dev/null"))?;
    site.refused(MEMBER, &["ssh", SLICE, "--", "true"])?;
    let log = ["audit", "log", "--action", "project.remove-member"];
    let log = site.json(OFFICERS[0], &log)?;
    demand(log[0]["detail"]["person"] == MEMBER, format!("the log says {log}"))?;
    show::seen(
        "a member who only reads reads, and who is taken out is out: her session, what she ran, her account",
    );
    Ok(())
}

/// Stopped and started: how long it takes until somebody has the output of a job, by phase; in seconds, until it is ready and
/// until then.
fn again(site: &Site, before: &str) -> Outcome<(f64, f64)> {
    // Its last job ends, the one that waits does not begin, and only then it is stopped.
    on(
        site,
        &format!(
            "scancel -u {LEAD}; sbatch -o /dev/null --exclusive --wrap 'sleep 20'; sbatch -o late.out --wrap 'echo late'"
        ),
    )?;
    let said = site.ok(LEAD, &["slice", "drain", SLICE, "--stop", "--wait"])?;
    demand(said.contains("when its last job had ended"), format!("drained, it says `{said}`"))?;
    site.all_clean(OPERATOR)?;
    let start = Instant::now();
    site.ok(LEAD, &["slice", "start", SLICE])?;
    site.ok(LEAD, &["wait", SLICE, "ready", "--timeout", LIMIT])?;
    let ready = start.elapsed();
    demand(on(site, "srun hostname")?.contains("slice"), "its first job")?;
    let whole = start.elapsed();
    let shown = site.json(LEAD, &["slice", "show", SLICE])?;
    for step in list(&shown, "steps")? {
        let seconds = step["took_ms"].as_f64().unwrap_or_default() / 1000.0;
        show::printed(&format!("{:<34}{seconds:7.1} s", step["name"].as_str().unwrap_or_default()));
    }
    show::printed(&format!("{:<34}{:7.1} s", "start asked for to ready", ready.as_secs_f64()));
    show::printed(&format!("{:<34}{:7.1} s", "to the first job's output", whole.as_secs_f64()));
    let after = on(site, JOBS)?;
    demand(grew(before, &after)?, format!("of its accounting there was `{before}`, and is `{after}`"))?;
    show::seen("stopped and started, it has its accounting, its people's files and its queue");
    Ok((ready.as_secs_f64(), whole.as_secs_f64()))
}

/// While another slice does its worst.
fn neighbour(site: &Site) -> Outcome {
    demand(on(site, "srun hostname")?.contains("slice"), "its jobs run no more")
}

/// As many jobs as before, or more, and her note.
fn grew(before: &str, after: &str) -> Outcome<bool> {
    let jobs = |said: &str| -> Outcome<usize> { Ok(said.lines().next().unwrap_or_default().trim().parse()?) };
    Ok(jobs(after)? >= jobs(before)? && after.trim_end().ends_with("kept"))
}

/// A killed holmd ends no job and no `tmux`; whoever comes back finds both.
fn killed(site: &Site) -> Outcome {
    let job =
        on(site, "tmux new -d -s mine 'sleep 3600'; sbatch --parsable -o /dev/null --wrap 'sleep 3600'")?;
    let (public, key) = (site.home().join("builder.pub"), site.home().join("builder.key"));
    let key = key.to_str().ok_or("a path that is no text")?;
    let said = site.ok(OPERATOR, &["image", "keygen", key, "--name", BUILDER, "--quiet"])?;
    fs::write(&public, &said)?;
    let vkey = said.lines().next().unwrap_or_default();
    site.configure(&format!("printf '\\n[image]\\nsigners = [\"{vkey}\"]\\n' >>holmd.toml"))?;
    let mut open = site
        .command(LEAD, &["ssh", SLICE, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    site.kill(Daemon::Holmd)?;
    demand(!open.wait()?.success(), "a connection outlives the holmd that carried it")?;
    site.start(Daemon::Holmd)?;
    // Its host has to come back before anybody gets in.
    site.all_clean(OPERATOR)?;
    let look = format!(
        "tmux has-session -t mine && squeue -h -j {} -o %T; scancel {0}; tmux kill-server",
        job.trim()
    );
    let said = on(site, &look)?;
    demand(said.contains("RUNNING"), format!("after holmd was killed its job is `{said}`"))?;
    show::seen("a killed holmd ends connections, and no job and no tmux session");
    Ok(())
}

/// A newer image: signed, brought by the operator, promoted by an officer, and the slice's by a rebuild.
fn rebuilt(site: &Site, before: &str) -> Outcome {
    let made = site.home().join("image");
    fs::create_dir_all(&made)?;
    let manifest = site.host("cat /var/lib/holm/guest/manifest")?;
    // The kernel of an emulated machine is told more than the recipe says.
    let told = site.host("sha256sum /var/lib/holm/guest/cmdline")?;
    let told = told.split_whitespace().next().unwrap_or_default();
    let changed = |line: &str| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["version", _] => "version newer\n".to_owned(),
        [_, "cmdline"] => format!("{told}  cmdline\n"),
        _ => format!("{line}\n"),
    };
    let newer: String = manifest.lines().map(changed).collect();
    fs::write(made.join("manifest"), &newer)?;
    let directory = made.to_str().ok_or("a path that is no text")?;
    let key = site.home().join("builder.key");
    let key = key.to_str().ok_or("a path that is no text")?;
    site.refused(OPERATOR, &["image", "add", directory])?;
    site.ok(OPERATOR, &["image", "sign", directory, "--key", key, "--name", BUILDER])?;
    let added = site.json(OPERATOR, &["image", "add", directory])?;
    let id = text(&added, "id")?;
    site.refused(OPERATOR, &["image", "promote", id])?;
    site.ok(OFFICERS[0], &["image", "promote", id, "--comment", "looked at"])?;
    // More GPUs, while it runs: an officer's to say, and there when it is started next.
    let resize = ["slice", "resize", SLICE, "--gpus", "8", "--vcpus", "2", "--memory", "1536M"];
    let asks = site.ok(LEAD, &resize)?;
    demand(asks.contains("officers must approve"), format!("asked for more GPUs, it says `{asks}`"))?;
    site.refused(LEAD, &["slice", "approve", SLICE])?;
    site.refused(OFFICERS[0], &["slice", "approve", SLICE])?;
    let shown = site.json(OFFICERS[0], &["slice", "show", SLICE])?;
    let this = text(&shown["resize"]["asked"], "id")?;
    let said =
        site.ok(OFFICERS[0], &["slice", "approve", SLICE, "--id", this, "--comment", "the larger model"])?;
    demand(said.contains("8 GPUs, 2 vCPUs"), format!("approved, it says `{said}`"))?;
    site.ok(LEAD, &["slice", "stop", SLICE])?;
    site.ok(LEAD, &["wait", SLICE, "stopped", "--timeout", LIMIT])?;
    site.all_clean(OPERATOR)?;
    let said = site.host(&format!(
        "mkdir /var/lib/holm/newer; ln /var/lib/holm/guest/{{base.raw,vmlinuz,initrd.img}} /var/lib/holm/newer
         cp /var/lib/holm/guest/cmdline /var/lib/holm/newer
         cat >/var/lib/holm/newer/manifest <<'END'\n{newer}END\n
         {}/holm-agent image add /var/lib/holm/newer --config /var/lib/holm/agent.toml",
        site.binaries().display()
    ))?;
    demand(said.contains(id), format!("the host took in `{said}`"))?;
    site.ok(LEAD, &["slice", "start", SLICE, "--rebuild", "--yes"])?;
    site.ok(LEAD, &["wait", SLICE, "ready", "--timeout", LIMIT])?;
    let shown: Value = site.json(LEAD, &["slice", "show", SLICE])?;
    demand(shown["image"]["version"] == "newer", format!("it runs over {}", shown["image"]))?;
    let after = on(site, JOBS)?;
    demand(grew(before, &after)?, format!("of its accounting there was `{before}`, and is `{after}`"))?;
    demand(on(site, "srun --gres=gpu:8 hostname")?.contains("slice"), "its first job after a rebuild")?;
    let host = site.json(OPERATOR, &["image", "show", id])?;
    demand(list(&host, "hosts")?.iter().any(|name| name == HOST), format!("the image is {host}"))?;
    show::seen(
        "an operator brings an image, an officer promotes it, and a rebuilt slice has it, the GPUs that it was given besides, \
         and all that was its people's",
    );
    Ok(())
}
