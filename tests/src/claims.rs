//! What guests claim is in the log: as theirs, and each with its number.

use crate::site::{OFFICERS, Site};
use crate::{Outcome, demand};
use serde_json::Value;
use std::time::{Duration, Instant};

/// An agent hears a guest every 5 s, and the guest's answer goes the same way.
const SEEN: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(500);

/// Waits until the guests of this project have claimed each of these for this person, and have left out no number.
#[allow(clippy::disallowed_methods, reason = "of what comes into the log there is no event to wait for")]
pub fn claimed(site: &Site, project: &str, user: &str, actions: &[&str]) -> Outcome<Vec<Value>> {
    let end = Instant::now() + SEEN;
    loop {
        let log =
            site.json(OFFICERS[0], &["audit", "log", "--project", project, "--action", "guest", "--all"])?;
        let all = log.as_array().ok_or("no list of entries")?;
        let has = |action: &str| all.iter().any(|e| e["action"] == action && e["detail"]["user"] == user);
        if actions.iter().all(|action| has(action)) {
            for entry in all {
                let marked = entry["detail"]["claimed_by_guest"] == true && entry["outcome"] == "observed";
                demand(marked, format!("it is not marked as the guest's claim: {entry}"))?;
                demand(entry["action"] != "guest.gap", format!("a number is missing: {entry}"))?;
                demand(entry["action"] != "guest.flood", format!("something was dropped: {entry}"))?;
            }
            return Ok(all.clone());
        }
        demand(Instant::now() < end, format!("not all of {actions:?} of {user} were claimed: {log:#}"))?;
        std::thread::sleep(LOOK);
    }
}
