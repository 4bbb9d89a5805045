//! A slice whose machine its tenant has made her own: what it says to its host is garbage, and more than anybody wants to hear,
//! and then nothing any more. It is shown as ill, the log says so in few entries, and its neighbour and its host go on as before.

use crate::full::until;
use crate::site::{Daemon, OFFICERS, OPERATOR, Site, list};
use crate::{Outcome, demand, show};
use std::time::Duration;

const LEAD: &str = "eve";
const SLICE: &str = "evil/main";
const LIMIT: &str = "30m";
/// Its host reports it every few seconds.
const SEEN: Duration = Duration::from_secs(300);
/// holmd calls it silent after six minutes, which begin anew when it starts.
const SILENT: Duration = Duration::from_secs(900);
/// What one guest may have written into the log, whatever it does: its allowance, and what is said of the rest.
const ENTRIES: usize = 260;
const MEBIBYTES: f64 = 64.0;

/// holmd is to call a guest silent as soon as it may. Then the machine boots and floods; `works` does something in the
/// neighbour's slice.
pub fn floods(site: &Site, works: impl Fn() -> Outcome) -> Outcome {
    site.configure("sed -i 's/^silent_minutes = .*/silent_minutes = 6/' holmd.toml && grep -q '^silent_minutes = 6$' holmd.toml")?;
    site.kill(Daemon::Agent)?;
    site.boot_by("hostile")?;
    site.start(Daemon::Agent)?;
    site.all_clean(OPERATOR)?;
    site.invite(OPERATOR, LEAD, Some("lead"))?;
    site.project(LEAD, "evil", "2", "a workshop")?;
    let request = "slice request evil/main --gpus 1 --vcpus 1 --memory 512M --disk 4G --home 0 --scratch 0";
    site.ok(LEAD, &request.split(' ').collect::<Vec<_>>())?;
    site.ok(OFFICERS[0], &["slice", "approve", SLICE])?;
    site.ok(LEAD, &["wait", SLICE, "ready", "--timeout", LIMIT])?;
    // Machines that boot from now on are sound.
    site.kill(Daemon::Agent)?;
    site.boot_by_itself()?;
    site.start(Daemon::Agent)?;

    let shown = until(site, (LEAD, SLICE), SEEN, |s| s["degraded"] == true)?;
    for warning in list(&shown, "warnings")? {
        show::printed(&format!("evil/main: {}", warning.as_str().unwrap_or_default()));
    }
    works()?;
    let resident = site.resident_mib(Daemon::Agent)?;
    demand(resident < MEBIBYTES, format!("holm-agent has {resident:.1} MiB"))?;
    let log = site.json(OFFICERS[0], &["audit", "log", "--project", "evil", "--action", "guest", "--all"])?;
    let entries = log.as_array().ok_or("no list of entries")?;
    demand(entries.iter().any(|e| e["action"] == "guest.flood"), format!("the log has no flood: {log:#}"))?;
    demand(entries.len() < ENTRIES, format!("it has {} entries", entries.len()))?;
    let marked = |e: &&serde_json::Value| e["outcome"] == "observed" && e["resource"] == "slice/evil/main";
    demand(entries.iter().all(|e| marked(&e)), "what it says is taken for something else")?;
    show::seen(&format!(
        "a guest that floods its host is shown as ill, has {} entries in the log, and its neighbour works as before; \
         holm-agent has {resident:.0} MiB",
        entries.len()
    ));
    Ok(())
}

/// It has stopped to speak. That is seen, and no other guest is taken for silent.
pub fn falls_silent(site: &Site, works: impl Fn() -> Outcome) -> Outcome {
    let silent = |s: &serde_json::Value| s["warnings"].to_string().contains("says nothing");
    let shown = until(site, (LEAD, SLICE), SILENT, silent)?;
    demand(shown["degraded"] == true, "a silent slice is not shown as degraded")?;
    works()?;
    let log = site.json(OFFICERS[0], &["audit", "log", "--action", "guest.silent", "--all"])?;
    let entries = log.as_array().ok_or("no list of entries")?;
    let resources: Vec<_> = entries.iter().map(|e| e["resource"].as_str()).collect();
    demand(resources == [Some("slice/evil/main")], format!("silent are {resources:?}"))?;
    show::seen("a guest that falls silent is shown as ill, once in the log, and nobody else is");
    site.ok(LEAD, &["slice", "close", SLICE, "--yes"])?;
    site.ok(LEAD, &["wait", SLICE, "destroyed", "--timeout", LIMIT])?;
    site.all_clean(OPERATOR)
}
