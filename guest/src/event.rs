//! What the host is told, but for claims: each a line.

use crate::{fullness::Fullness, meter::Usage, slurm::Serves};
use serde_json::{Value, json};

/// This program runs.
pub fn boot() -> Value {
    json!({ "event": "boot" })
}

/// The slice is there.
pub fn ready(ssh_host_key: &str, Serves { gpus, version }: &Serves) -> Value {
    json!({ "event": "ready", "ssh_host_key": ssh_host_key, "gpus": gpus, "slurm": version })
}

/// Why it is not.
pub fn failed(reason: &str) -> Value {
    json!({ "event": "failed", "reason": reason })
}

/// How full they are.
pub fn disks(disks: &[Fullness]) -> Value {
    json!({ "event": "disks", "disks": disks })
}

/// Those whom the host calls so are the people here, and nothing runs of anybody else.
pub fn people(of: &str) -> Value {
    json!({ "event": "people", "of": of })
}

/// What the host calls so is what Slurm does.
pub fn scheduler(of: &str) -> Value {
    json!({ "event": "scheduler", "of": of })
}

/// What jobs have used.
pub fn usage(usage: &Usage) -> Value {
    json!({ "event": "usage", "usage": usage })
}

/// It lives.
pub fn alive() -> Value {
    json!({ "event": "alive" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the agent's tests read as what a guest says.
    const GOLDEN: &str = include_str!("../../hypervisor-agent/src/guest/golden/events.jsonl");

    #[test]
    fn each_is_said_in_the_words_that_the_agent_reads() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJQzSd2F4DPi1bWeTkVGt8mHnWJl1sCcqcPl1jeIHoq";
        let disk = |name: &str, free| Fullness {
            name: name.to_owned(),
            bytes: 4096,
            free,
            files: 10,
            files_free: 9,
        };
        let said = [
            boot(),
            ready(key, &Serves { gpus: 2, version: "24.11.5".to_owned() }),
            failed("found 1 of 2 GPUs"),
            disks(&[disk("root", 1024), disk("data", 0)]),
            alive(),
            people("0123456789abcdef"),
            scheduler("0123456789abcdef"),
            usage(&of_a_minute()),
        ];
        let said: String = said.iter().map(|event| format!("{event}\n")).collect();
        assert!(said.starts_with(GOLDEN), "{said}");
    }

    fn of_a_minute() -> Usage {
        Usage {
            time: 1_796_000_000,
            seconds: 60,
            gpu_seconds: 120,
            gpu_busy_seconds: Some(90),
            cpu_seconds: 300,
            memory_mib: 9000,
            running: 2,
            pending: 5,
        }
    }

    #[test]
    fn what_slurm_does_is_said() {
        assert_eq!(
            scheduler("0123456789abcdef").to_string(),
            r#"{"event":"scheduler","of":"0123456789abcdef"}"#
        );
        let wanted = concat!(
            r#"{"event":"usage","usage":{"time":1796000000,"seconds":60,"gpu_seconds":120,"gpu_busy_seconds":90,"#,
            r#""cpu_seconds":300,"memory_mib":9000,"running":2,"pending":5}}"#
        );
        assert_eq!(usage(&of_a_minute()).to_string(), wanted);
    }
}
