//! A slice as researchers have it, on the virtual DGX-2: what they learn in their first hour, done in it; then it is stopped,
//! started, and rebuilt onto a newer image, holmd is killed beside it, and its people, jobs and accounting are all still there.

use crate::site::{Daemon, HOST, OFFICERS, OPERATOR, Site, list, text};
use crate::stages::Stages;
use crate::{Outcome, demand, show};
use serde_json::Value;
use std::fs;
use std::process::Stdio;
use std::time::Instant;

/// As the workshop calls them.
const LEAD: &str = "ida";
const SLICE: &str = "heart/main";
const LIMIT: &str = "30m";
/// Who signs images, as its key is called.
const BUILDER: &str = "builder.test";
/// What of its accounting must still be there.
const JOBS: &str = "sacct --allusers -X -n -P --format=jobid,state | wc -l; cat note";

/// All of it.
pub fn run(site: &Site, stages: &mut Stages) -> Outcome {
    begin(site)?;
    stages.time("the workshop, by a researcher", || workshop(site))?;
    stages.time("its lead's queue, jobs from outside", || queue(site))?;
    let before = on(site, JOBS)?;
    stages.time("stopped, started, its first job", || again(site, &before))?;
    stages.time("holmd is killed", || killed(site))?;
    stages.time("rebuilt onto a newer image", || rebuilt(site, &before))
}

/// What the way through holmd costs, and how long it takes from a start asked for to a job's output.
pub fn bench(site: &Site) -> Outcome {
    begin(site)?;
    let before = format!("{}\nkept", on(site, "echo kept >note; sacct -X -n -P | wc -l")?.trim());
    again(site, &before)?;
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

/// Stopped and started: how long it takes until somebody has the output of a job, by phase.
fn again(site: &Site, before: &str) -> Outcome {
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
    Ok(())
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
    demand(on(site, "srun hostname")?.contains("slice"), "its first job after a rebuild")?;
    let host = site.json(OPERATOR, &["image", "show", id])?;
    demand(list(&host, "hosts")?.iter().any(|name| name == HOST), format!("the image is {host}"))?;
    show::seen(
        "an operator brings an image, an officer promotes it, and a rebuilt slice has it and all that was its people's",
    );
    Ok(())
}
