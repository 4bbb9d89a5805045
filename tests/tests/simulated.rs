//! The shipped binaries on a simulated DGX-2: everything but the hardware, in seconds.

use holm_tests::simulated::Simulated;
use holm_tests::site::{Daemon, HOST, OFFICERS, OPERATOR, list, text};
use holm_tests::{Outcome, claims, demand, faults, full};
use serde_json::Value;

#[test]
fn the_story() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    site.invite(OPERATOR, "ada", Some("lead"))?;
    site.invite(OPERATOR, "rosa", Some("researcher"))?;
    site.invite(OPERATOR, "bo", Some("lead"))?;
    site.project("ada", "heart-study", "3", "strokes")?;
    site.ok("ada", &["project", "add-member", "heart-study", "rosa"])?;
    let dry = site.ok("ada", &["slice", "request", "heart-study/main", "--gpus", "2", "--dry-run"])?;
    demand(dry.contains("2"), "a dry run shows what would be asked for")?;
    demand(
        site.json("ada", &["slice", "list"])?.as_array().is_some_and(Vec::is_empty),
        "a dry run left something",
    )?;
    site.ok("ada", &["slice", "request", "heart-study/main", "--gpus", "2"])?;
    let said = site.refused("ada", &["slice", "approve", "heart-study/main"])?;
    demand(said.contains("officer"), said)?;
    let said = site.refused("bo", &["project", "create", "open", "--level", "0", "--purpose", "a course"])?;
    demand(said.contains("shared cluster"), said)?;
    site.ok(OFFICERS[0], &["slice", "approve", "heart-study/main"])?;
    site.refused(OFFICERS[0], &["slice", "approve", "heart-study/main"])?;
    site.ok(OFFICERS[1], &["slice", "approve", "heart-study/main"])?;
    site.ok("ada", &["wait", "heart-study/main", "ready", "--timeout", "1m"])?;
    let slice = site.json("ada", &["slice", "show", "heart-study/main"])?;
    demand(list(&slice, "devices")?.len() == 2, "two GPUs were given")?;

    // A simulated guest claims that somebody logs in and runs a job.
    let wanted = ["guest.login", "guest.job-start", "guest.job-end", "guest.logout"];
    let claimed = claims::claimed(&site, "heart-study", "ada", &wanted)?;
    let job = claimed.iter().find(|entry| entry["action"] == "guest.job-start").ok_or("no job")?;
    demand(job["detail"]["gpus"] == 2 && job["resource"] == "slice/heart-study/main", job.to_string())?;

    // What one may not see is not found; what one may see and not do is refused.
    let without_request = |said: String| -> Vec<String> {
        said.lines().filter(|line| !line.contains("request ")).map(str::to_owned).collect()
    };
    let said = without_request(site.refused("bo", &["slice", "show", "heart-study/main"])?).join("\n");
    let none = without_request(site.refused("bo", &["slice", "show", "no-such/main"])?).join("\n");
    demand(
        said.replace("heart-study", "X") == none.replace("no-such", "X"),
        format!("a tenant can tell that another exists: {said} / {none}"),
    )?;
    site.refused(OPERATOR, &["slice", "ssh", "heart-study/main", "--", "true"])?;
    site.refused(OPERATOR, &["audit", "log"])?;

    site.ok("ada", &["slice", "close", "heart-study/main", "--yes"])?;
    site.ok("ada", &["wait", "heart-study/main", "destroyed", "--timeout", "1m"])?;
    let file = site.home().join("certificate");
    let path = file.to_str().ok_or("a path in UTF-8")?;
    site.ok("ada", &["slice", "certificate", "heart-study/main", "--out", path])?;
    let key = site.ok(OFFICERS[0], &["audit", "key"])?;
    site.ok("ada", &["certificate", "verify", path, "--key", &key])?;
    let mut bytes = std::fs::read(&file)?;
    bytes[40] ^= 1;
    std::fs::write(&file, bytes)?;
    site.refused("ada", &["certificate", "verify", path, "--key", &key])?;
    site.ok(OFFICERS[0], &["audit", "verify"])?;
    // As a page, by the key that the officer's `audit verify` has come to know, and looked up in the log.
    let (page, export) = (site.home().join("certificate.html"), site.home().join("export"));
    let (path, log) = (page.to_str().ok_or("a path")?, export.to_str().ok_or("a path")?);
    site.ok(OFFICERS[0], &["slice", "certificate", "heart-study/main", "--html", path])?;
    site.ok(OFFICERS[0], &["audit", "export", log])?;
    let said = site.ok(OFFICERS[0], &["certificate", "verify", path, "--log", log])?;
    demand(said.contains("SIMULATED") && said.contains("as entry"), said)?;
    let text = std::fs::read_to_string(&page)?;
    std::fs::write(&page, text.replacen("SIMULATED", "real", 1))?;
    let said = site.refused(OFFICERS[0], &["certificate", "verify", path])?;
    demand(said.contains("what it shows"), said)?;

    let host = site.json(OPERATOR, &["host", "show", HOST])?;
    demand(host["simulated"] == Value::Bool(true), "a simulated host does not say that it is one")?;
    let free = list(&host, "devices")?.iter().filter(|d| d["state"] == "free").count();
    demand(free == 16, format!("{free} of 16 GPUs are free in the end"))
}

#[test]
fn nonsense_and_races() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    faults::lead(&site, "dina", "stroke-ward")?;
    faults::nonsense(&site, "dina", "stroke-ward")?;
    // Half of the machine is taken, so that the last eight are the last.
    faults::ask(&site, "dina", "stroke-ward/half", 8)?;
    site.ok("dina", &["wait", "stroke-ward/half", "ready", "--timeout", "1m"])?;
    faults::race(&site, "dina", "stroke-ward")
}

#[test]
fn kills_and_cuts() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    faults::lead(&site, "dina", "stroke-ward")?;
    faults::ask(&site, "dina", "stroke-ward/main", 1)?;
    site.ok("dina", &["wait", "stroke-ward/main", "ready", "--timeout", "1m"])?;
    faults::cut_off(&site, "dina", "stroke-ward/main")?;
    faults::killed_all_along(&site, "dina", "stroke-ward/killed")?;
    faults::rests(&site, "dina", "stroke-ward/main")
}

#[test]
fn disks_fill_up() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    faults::lead(&site, "dina", "stroke-ward")?;
    full::run(&site, "dina", "stroke-ward")
}

#[test]
fn what_a_killed_holmd_stored_can_be_rebuilt_from_the_log() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    faults::lead(&site, "dina", "stroke-ward")?;
    faults::ask(&site, "dina", "stroke-ward/main", 2)?;
    site.ok("dina", &["wait", "stroke-ward/main", "ready", "--timeout", "1m"])?;
    // Once nothing is being written.
    claims::claimed(&site, "stroke-ward", "dina", &["guest.logout"])?;
    site.kill(Daemon::Holmd)?;
    let holmd = format!("{}/holmd", site.binaries().display());
    let config = format!("{}/holmd/holmd.toml", site.root().display());
    site.host(&format!("{holmd} rebuild --config {config} --check"))?;
    site.host(&format!("{holmd} rebuild --config {config}"))?;
    site.start(Daemon::Holmd)?;
    let slice = site.json("dina", &["slice", "show", "stroke-ward/main"])?;
    demand(text(&slice, "state")? == "ready", "the slice is not what it was")
}

#[test]
fn an_unknown_field_keeps_a_daemon_from_starting() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    site.kill(Daemon::Holmd)?;
    site.configure("echo 'skip_sanitising = true' | cat - holmd.toml >new && mv new holmd.toml")?;
    let said = site.start(Daemon::Holmd).err().ok_or("holmd started")?.to_string();
    demand(said.contains("skip_sanitising") && said.contains("holmd.toml"), said)
}

#[test]
fn idle_daemons_stay_small() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    let (holmd, agent) = (site.resident_mib(Daemon::Holmd)?, site.resident_mib(Daemon::Agent)?);
    println!("resident: holmd {holmd:.1} MiB, holm-agent {agent:.1} MiB");
    demand(holmd < 60.0 && agent < 40.0, format!("holmd has {holmd:.1} MiB, holm-agent {agent:.1} MiB"))
}

#[test]
fn a_slice_that_rests_is_backed_up_tried_restored_and_started_again() -> Outcome {
    let Simulated { _files, site } = Simulated::open()?;
    site.invite(OPERATOR, "ada", Some("lead"))?;
    site.invite(OPERATOR, "rosa", Some("researcher"))?;
    site.project("ada", "heart-study", "2", "strokes")?;
    site.ok("ada", &["project", "add-member", "heart-study", "rosa"])?;
    let main = "heart-study/main";
    site.ok("ada", &["slice", "request", main, "--gpus", "1"])?;
    site.ok(OFFICERS[0], &["slice", "approve", main])?;
    site.ok("ada", &["wait", main, "ready", "--timeout", "1m"])?;
    let said = site.refused("ada", &["slice", "backup", main])?;
    demand(said.contains("holm slice stop"), said)?;
    site.ok("ada", &["slice", "stop", main])?;
    site.ok("ada", &["wait", main, "stopped", "--timeout", "1m"])?;
    let said = site.refused("ada", &["volume", "restore-drill", main])?;
    demand(said.contains("it has no backup"), said)?;
    let said = site.ok("rosa", &["slice", "backup", main, "--wait"])?;
    demand(said.contains("is made"), said)?;
    // The host of an operator's is given the keys for it.
    site.refused(OPERATOR, &["volume", "restore-drill", main])?;
    let said = site.ok("rosa", &["volume", "restore-drill", main, "--wait"])?;
    demand(said.contains("it can be restored"), said)?;
    let all = site.json("ada", &["backup", "list", main])?;
    let backup = all.as_array().and_then(|all| all.first()).ok_or("there is no backup")?;
    let id = text(backup, "id")?;
    demand(backup["drill"]["passed"] == true && text(backup, "sha256")?.len() == 64, backup.to_string())?;
    let said = site.refused("rosa", &["slice", "restore", main, "--backup", id, "--yes"])?;
    demand(said.contains("only the project's lead"), said)?;
    // Nobody is there to be asked.
    let said = site.refused("ada", &["slice", "restore", main, "--backup", id])?;
    demand(said.contains("--yes"), said)?;
    let said = site.ok("ada", &["slice", "restore", main, "--backup", id, "--yes", "--wait"])?;
    demand(said.contains("restored from the backup of"), said)?;
    let said = site.refused("rosa", &["slice", "reencrypt", main])?;
    demand(said.contains("by its project's lead, or by an officer"), said)?;
    let said = site.ok("ada", &["slice", "reencrypt", main, "--wait"])?;
    demand(said.contains("under other data keys"), said)?;
    let shown = site.json("ada", &["slice", "show", main])?;
    demand(shown["reencrypted"]["passed"] == true, shown.to_string())?;
    site.ok("ada", &["slice", "start", main])?;
    site.ok("ada", &["wait", main, "ready", "--timeout", "1m"])?;
    let said = site.refused(OFFICERS[0], &["keys", "escrow", "heart-study", "--to", "safe"])?;
    demand(said.contains("escrow = true"), said)?;
    site.ok("ada", &["slice", "close", main, "--yes"])?;
    site.ok("ada", &["wait", main, "destroyed", "--timeout", "1m"])?;
    let certificate = site.ok("ada", &["slice", "certificate", main])?;
    demand(certificate.contains(id) && certificate.contains("\"removed\": true"), certificate)
}
