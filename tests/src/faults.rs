//! What goes wrong, and must end as if it had not: kills, a host cut off, a full host, a race, requests
//! that make no sense. Each part works on the simulated host and on the virtual DGX-2 alike.

use crate::search::Known;
use crate::site::{Daemon, HOST, OFFICERS, OPERATOR, Site, list, text};
use crate::{Outcome, demand, show};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

/// How long a machine may take to come up, or to go.
const LIMIT: &str = "30m";
/// How often holmd is asked for what it is about to hear.
const LOOKS: usize = 100;
/// A machine small enough for an emulated host, whatever GPUs it has.
const SMALL: [&str; 10] =
    ["--vcpus", "1", "--memory", "512M", "--disk", "4G", "--home", "0", "--scratch", "0"];

/// All of it, on a machine where the story has been told: B and C run there, and B is over. `short`: nothing is stopped,
/// started and rebuilt, which takes two boots more.
pub fn on_the_machine(site: &Site, known: &mut Known, short: bool) -> Outcome {
    // An idle machine takes a good part of an emulated processor from those that come up.
    close(site, "cleo", "sleep-study/main")?;
    lead(site, "dina", "stroke-ward")?;
    nonsense(site, "dina", "stroke-ward")?;
    race(site, "dina", "stroke-ward")?;
    // What is killed is around the guest: a lean one will do, from where the agent starts again.
    site.boot_by("lean")?;
    cut_off(site, "bo", "gait-lab/main")?;
    if short {
        close(site, "bo", "gait-lab/main")?;
    }
    killed_all_along(site, "dina", "stroke-ward/killed")?;
    if !short {
        site.kill(Daemon::Agent)?;
        site.boot_by_itself()?;
        site.start(Daemon::Agent)?;
        rests(site, "bo", "gait-lab/main")?;
        known.written(note());
    }
    known.learn(site)?;
    known.are_nowhere(site)
}

/// A lead with a project.
pub fn lead(site: &Site, name: &str, project: &str) -> Outcome {
    site.invite(OPERATOR, name, Some("lead"))?;
    site.project(name, project, "2", "what goes wrong")
}

/// Asks for a slice and has it approved.
pub fn ask(site: &Site, lead: &str, slice: &str, gpus: u32) -> Outcome {
    let gpus = gpus.to_string();
    let arguments: Vec<&str> =
        ["slice", "request", slice, "--gpus", &gpus].into_iter().chain(SMALL).collect();
    site.ok(lead, &arguments)?;
    site.ok(OFFICERS[0], &["slice", "approve", slice]).map(drop)
}

/// Asks for what there cannot be. Nothing is kept of it, and the log names who was refused.
pub fn nonsense(site: &Site, lead: &str, project: &str) -> Outcome {
    let before = slices(site, lead)?.len();
    for (gpus, word) in [("3", "ask for 4"), ("17", "has 16 GPUs"), ("0", "at least 1 GPU")] {
        let said = site.refused(lead, &["slice", "request", &format!("{project}/odd"), "--gpus", gpus])?;
        demand(said.contains(word), format!("asked for {gpus} GPUs, holm said: {said}"))?;
    }
    for (name, word) in [("../x", "is not a name"), ("", "name"), ("æ", "is not a name")] {
        let said = site.refused(lead, &["project", "create", name, "--level", "2", "--purpose", "x"])?;
        demand(said.contains(word), format!("for the name `{name}`, holm said: {said}"))?;
    }
    let said = site.refused(lead, &["project", "create", project, "--level", "2", "--purpose", "again"])?;
    demand(said.contains("registered already"), format!("for a duplicate, holm said: {said}"))?;
    demand(slices(site, lead)?.len() == before, "a refused request left something")?;
    let log = site.json(OFFICERS[0], &["audit", "log", "--person", lead, "--outcome", "refused"])?;
    let refusals = log.as_array().map_or(0, Vec::len);
    demand(refusals >= 5, format!("the log has {refusals} refusals of {lead}"))?;
    show::seen(
        "3, 17 and 0 GPUs, bad names and a duplicate are refused in words, logged, and change nothing",
    );
    Ok(())
}

/// Two requests for the last eight: one gets them, the other waits, is not lost, and gets them next.
pub fn race(site: &Site, lead: &str, project: &str) -> Outcome {
    // After its agent was away, every free GPU of a host is cleaned again: there must be eight to race for.
    site.all_clean(OPERATOR)?;
    let both = [format!("{project}/first"), format!("{project}/second")];
    for slice in &both {
        let arguments: Vec<&str> =
            ["slice", "request", slice, "--gpus", "8"].into_iter().chain(SMALL).collect();
        site.ok(lead, &arguments)?;
    }
    // At the same moment, by two officers.
    let mut approving = Vec::new();
    for (officer, slice) in OFFICERS.iter().zip(&both) {
        let mut command = site.command(officer, &["slice", "approve", slice]);
        approving.push(command.stdout(Stdio::null()).spawn()?);
    }
    for mut child in approving {
        demand(child.wait()?.success(), "an approval failed")?;
    }
    let placed = |s: &Value| s["host"].as_str().is_some_and(|host| !host.is_empty());
    for slice in &both {
        until(site, lead, slice, |s| text(s, "state").is_ok_and(|state| state != "approved") || queued(s))?;
    }
    let now =
        both.iter().map(|slice| site.json(lead, &["slice", "show", slice])).collect::<Outcome<Vec<_>>>()?;
    let (first, second) = (placed(&now[0]), placed(&now[1]));
    if first == second {
        let host = site.ok(OPERATOR, &["host", "show", HOST])?;
        let queue = site.ok(OPERATOR, &["queue"])?;
        return Err(
            format!("of two that race, placed are {first} and {second}: {now:#?}\n{host}\n{queue}").into()
        );
    }
    let [winner, loser] = if first { [&both[0], &both[1]] } else { [&both[1], &both[0]] };
    let waiting = site.ok(lead, &["slice", "explain", loser])?;
    demand(waiting.contains("queued: no"), format!("the loser says: {waiting}"))?;
    show::seen(
        "of two requests that race for the last eight GPUs one gets them, the other is queued and says why",
    );
    close(site, lead, winner)?;
    until(site, lead, loser, placed)?;
    show::seen("when they are free and clean again, the queued one gets them");
    close(site, lead, loser)
}

/// Without its agent a host is offline, what runs there runs on, and nothing is forgotten.
pub fn cut_off(site: &Site, lead: &str, slice: &str) -> Outcome {
    site.kill(Daemon::Agent)?;
    // holmd hears of it when the connection ends, which may be a moment after the process has.
    let offline =
        || -> Outcome<bool> { Ok(site.json(OPERATOR, &["host", "show", HOST])?["online"] == false) };
    let mut heard = offline()?;
    for _ in 0..LOOKS {
        heard = heard || offline()?;
    }
    demand(heard, "a host without an agent is shown online")?;
    let still = site.json(lead, &["slice", "show", slice])?;
    demand(text(&still, "state")? == "ready", "a running slice changed because its agent was cut off")?;
    if site.ground().machine().is_some() {
        let running = site.host("virsh -c qemu:///system list --name --state-running")?;
        demand(running.contains(text(&still, "id")?), "the machine stopped with the agent")?;
    }
    site.start(Daemon::Agent)?;
    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    demand(host["online"] == Value::Bool(true), "the host did not come back")?;
    let still = site.json(lead, &["slice", "show", slice])?;
    demand(text(&still, "state")? == "ready", "a running slice changed because its agent came back")?;
    show::seen("cut off, the host is shown offline and its machines run on; back again, nothing has changed");
    Ok(())
}

/// Kills holmd and the agent on the way up and on the way down: the same end, the same evidence.
pub fn killed_all_along(site: &Site, lead: &str, slice: &str) -> Outcome {
    let shot = |state: &[&str], daemon: Daemon| -> Outcome {
        until(site, lead, slice, |s| text(s, "state").is_ok_and(|now| state.contains(&now)))?;
        site.kill(daemon)?;
        site.start(daemon)
    };
    ask(site, lead, slice, 1)?;
    let up = ["placed", "preparing", "booting", "ready"];
    shot(&up, Daemon::Agent)?;
    shot(&up, Daemon::Holmd)?;
    shot(&["booting", "ready"], Daemon::Agent)?;
    shot(&["booting", "ready"], Daemon::Holmd)?;
    site.ok(lead, &["wait", slice, "ready", "--timeout", LIMIT])?;
    let devices = list(&site.json(lead, &["slice", "show", slice])?, "devices")?.clone();
    if site.ground().machine().is_some() {
        let id = site.json(lead, &["slice", "show", slice])?;
        let names = site.host("virsh -c qemu:///system list --all --name")?;
        demand(
            names.matches(text(&id, "id")?).count() == 1,
            "there is not exactly one machine of the slice",
        )?;
    }
    site.ok(lead, &["slice", "close", slice, "--yes"])?;
    let down = ["closing", "destroying", "destroyed"];
    shot(&down, Daemon::Agent)?;
    shot(&down, Daemon::Holmd)?;
    site.ok(lead, &["wait", slice, "destroyed", "--timeout", LIMIT])?;
    let end = site.json(lead, &["slice", "certificate", slice])?;
    let body: Value = match end["body"].as_str() {
        Some(text) => serde_json::from_str(text)?,
        None => end,
    };
    let evidence = list(&body, "devices")?;
    demand(evidence.len() == devices.len(), "the certificate does not have evidence for every device")?;
    demand(evidence.iter().all(|e| e["cleaned"] == Value::Bool(true)), "a device was not cleaned")?;
    site.ok(OFFICERS[0], &["audit", "verify"])?;
    show::seen(
        "killed with -9 at six points, holmd and the agent come to the same end, with the same evidence",
    );
    Ok(())
}

/// What a tenant writes on disks of hers: of this run alone, for what is looked for everywhere would be found in a
/// program or a file that names it.
fn note() -> String {
    format!("patient {:08x} came back on Thursday", std::process::id().wrapping_mul(2_654_435_761))
}

/// A slice's disks grow while it runs; what they hold stays, and their keys change.
pub fn grows(site: &Site, lead: &str, slice: &str) -> Outcome {
    let before = site.json(lead, &["slice", "show", slice])?;
    let gib = |of: &Value, what: &str| of[what].as_u64().ok_or(format!("{slice} has no {what}"));
    let has_home = gib(&before, "home_gib")? > 0;
    let (disk, home) =
        (gib(&before, "disk_gib")? + 1, gib(&before, "home_gib")? + if has_home { 2 } else { 0 });
    let smaller = site.refused(lead, &["slice", "grow", slice, "--disk", "2G"])?;
    demand(smaller.contains("never becomes smaller"), format!("it says `{smaller}`"))?;
    let sizes = ["--disk", &format!("{disk}G"), "--home", &format!("{home}G")];
    let sizes = if has_home { &sizes[..] } else { &sizes[..2] };
    site.ok(lead, &[&["slice", "grow", slice, "--wait"], sizes].concat())?;
    let after = site.json(lead, &["slice", "show", slice])?;
    demand(after["disk_change"].is_null(), format!("it waits still: {}", after["disk_change"]))?;
    demand(
        gib(&after, "disk_gib")? == disk && gib(&after, "home_gib")? == home,
        "its disks have other sizes",
    )?;
    demand(text(&after, "reason")?.is_empty(), format!("it says `{}`", after["reason"]))?;
    if site.ground().machine().is_some() {
        // The disk is larger in the machine at once; the guest makes its file system so.
        let least = if has_home { home - 1 } else { disk - 1 } << 20;
        let grown = format!(
            "for i in $(seq 600); do [ $(df --output=size /home | tail -1) -gt {least} ] && exec echo grown; \
             sleep 0.2; done; df /home"
        );
        let said = site.ok(lead, &["ssh", slice, "--", &grown])?;
        demand(said.contains("grown"), format!("/home is not larger: `{said}`"))?;
    }
    show::seen("its disks are larger while it runs, and so are its file systems");
    Ok(())
}

/// Stopped, a slice gives its GPUs back; started again, it has its disk and its people's files.
pub fn rests(site: &Site, lead: &str, slice: &str) -> Outcome {
    let real = site.ground().machine().is_some();
    let note = note();
    if real {
        let write =
            format!("echo '{note}' | tee note.txt /project/note.txt /raid/note.txt /var/tmp/note.txt; sync");
        site.ok(lead, &["ssh", slice, "--", &write])?;
    }
    grows(site, lead, slice)?;
    let before = site.json(lead, &["slice", "show", slice])?;
    site.ok(lead, &["slice", "rekey", slice])?;
    site.ok(lead, &["slice", "stop", slice])?;
    site.ok(lead, &["wait", slice, "stopped", "--timeout", LIMIT])?;
    if real {
        let names = site.host("virsh -c qemu:///system list --all --name")?;
        demand(!names.contains(text(&before, "id")?), "its machine is still defined")?;
    }
    site.refused(lead, &["ssh", slice, "--", "true"])?;
    site.all_clean(OPERATOR)?;
    show::seen("stopped, its machine is gone and its GPUs are clean and free for others");
    site.ok(lead, &["slice", "start", slice])?;
    site.ok(lead, &["wait", slice, "ready", "--timeout", LIMIT])?;
    let after = site.json(lead, &["slice", "show", slice])?;
    for same in ["id", "host"] {
        demand(before[same] == after[same], format!("its {same} is another"))?;
    }
    demand(after["disk_change"].is_null(), format!("its keys are not changed: {}", after["disk_change"]))?;
    demand(before["key_fingerprint"] != after["key_fingerprint"], "its key is the same")?;
    if real {
        let said =
            site.ok(lead, &["ssh", slice, "--", "cat note.txt /project/note.txt /var/tmp/note.txt"])?;
        demand(said.matches(&note).count() == 3, format!("its notes say `{said}`"))?;
        let said = site.ok(
            lead,
            &["ssh", slice, "--", "grep -oE ' (/home|/project|/raid) ' /proc/mounts; ls -A /raid"],
        )?;
        let mounted = ["/home", "/project", "/raid"].iter().all(|at| said.contains(at));
        demand(mounted && !said.contains("note"), format!("its scratch disk is not new: `{said}`"))?;
        // The same machine to whoever logs in: its SSH key is on its disk.
        demand(before["guest"]["ssh_host_key"] == after["guest"]["ssh_host_key"], "its SSH key is another")?;
    }
    show::seen(
        "started again, it has its disks, under other keys, and what was written before; /raid is new and empty",
    );
    rebuilt(site, lead, slice)
}

/// With another root disk it has what is in /home and /project, and nothing else.
fn rebuilt(site: &Site, lead: &str, slice: &str) -> Outcome {
    let before = site.json(lead, &["slice", "show", slice])?;
    site.ok(lead, &["slice", "stop", slice])?;
    site.ok(lead, &["wait", slice, "stopped", "--timeout", LIMIT])?;
    let said = site.ok(lead, &["slice", "reencrypt", slice, "--wait"])?;
    demand(said.contains("under other data keys"), format!("it says `{said}`"))?;
    if before["home_gib"] == 0 {
        let said = site.refused(lead, &["slice", "start", slice, "--rebuild", "--yes"])?;
        return demand(said.contains("which a rebuild would destroy"), format!("it says `{said}`"));
    }
    let asked = site.refused(lead, &["slice", "start", slice, "--rebuild"])?;
    demand(asked.contains("--yes"), format!("it says `{asked}`"))?;
    site.ok(lead, &["slice", "start", slice, "--rebuild", "--yes"])?;
    site.ok(lead, &["wait", slice, "ready", "--timeout", LIMIT])?;
    let after = site.json(lead, &["slice", "show", slice])?;
    demand(before["key_fingerprint"] != after["key_fingerprint"], "its root disk's key is the same")?;
    if site.ground().machine().is_some() {
        let said = site.ok(lead, &["ssh", slice, "--", "cat note.txt /project/note.txt; ls -A /var/tmp"])?;
        demand(
            said.matches(&note()).count() == 2 && !said.contains("note.txt"),
            format!("there is `{said}`"),
        )?;
    }
    show::seen(
        "encrypted anew and rebuilt, it has a new root disk and key, and /home and /project as they were, under another data key",
    );
    Ok(())
}

/// Closes a slice and waits until nothing of it is left.
pub fn close(site: &Site, lead: &str, slice: &str) -> Outcome {
    site.ok(lead, &["slice", "close", slice, "--yes"])?;
    site.ok(lead, &["wait", slice, "destroyed", "--timeout", LIMIT]).map(drop)
}

fn queued(slice: &Value) -> bool {
    slice["reason"].as_str().is_some_and(|reason| reason.starts_with("queued"))
}

fn slices(site: &Site, lead: &str) -> Outcome<Vec<Value>> {
    Ok(site.json(lead, &["slice", "list"])?.as_array().cloned().unwrap_or_default())
}

/// Watches a slice until it is as it should be.
pub fn until(site: &Site, who: &str, slice: &str, holds: impl Fn(&Value) -> bool) -> Outcome<Value> {
    let mut command = site.command(who, &["slice", "watch", slice, "--format", "json", "--timeout", LIMIT]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let mut found = None;
    for line in lines {
        let now: Value = serde_json::from_str(&line?)?;
        if holds(&now) {
            found = Some(now);
            break;
        }
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait()?;
    found.ok_or_else(|| format!("{slice} never came to what was waited for").into())
}
