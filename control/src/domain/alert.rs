//! What is not as it should be with a host, and what each of it prevents.
//!
//! ```text
//!   Host, its devices, the bill of materials, the last report ──▶ alerts ──▶ people
//!                                                                   │
//!                                                                   └──▶ blocked ──▶ placement passes over it
//! ```
//!
//! Nothing is remembered: an alert is there as long as its cause is. A difference blocks what it touches and no
//! more: a GPU, every slice of more than one GPU (the NVSwitches are all of theirs), or the whole host.

#[cfg(test)]
mod tests;

use super::State;
use super::machine::HealthState;
use super::records::{Commissioning, Device, DeviceState, FailedCheck, Host};
use holm_proto::commission::{self, CHECKS};
use holm_proto::fullness;
use holm_proto::ids::PciAddress;
use holm_proto::platform::Bill;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A host that has said nothing for so long may be anything by now. It reports every few seconds.
pub const STALE_REPORT: SignedDuration = SignedDuration::from_mins(2);
/// A host is checked every day; one that was not for so long has to be again.
pub const STALE_COMMISSIONING: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What an alert keeps from happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prevents {
    /// A slice being placed on what the alert is about.
    Allocation,
    /// A running slice there being changed.
    Change,
    /// A slice there being closed to its end.
    Closing,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole host.
    Host,
    /// Every slice of more than one GPU: the fabric between them.
    Fabric,
    /// One device.
    Device(PciAddress),
    /// What is not there, so that nothing more has to be kept from it.
    Absent,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Stable, for programs.
    pub code: &'static str,
    /// What it is about.
    pub scope: Scope,
    /// What is not as it should be.
    pub text: String,
    /// What to do about it.
    pub mend: String,
    /// What it keeps from happening.
    pub prevents: Vec<Prevents>,
}

/// What may not be given to a slice, each with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocked {
    /// Nothing of the host.
    pub host: Option<String>,
    /// No two GPUs together.
    pub together: Option<String>,
    /// Not these.
    pub devices: BTreeMap<PciAddress, String>,
}

/// What a host says now, in the session that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// When its last report came; `None` where it has no session.
    pub reported: Option<Timestamp>,
    /// Bytes of what its volumes share, and those that are free.
    pub volumes: Option<(u64, u64)>,
    /// Machines that are paused because there is no room for their disks.
    pub paused: usize,
}

/// Everything that is not as it should be with this host.
pub fn alerts(state: &State, host: &Host, bill: &Bill, heard: &Heard, now: Timestamp) -> Vec<Alert> {
    let mut all = Vec::new();
    all.extend(stale(host, heard.reported, now));
    crowded(host, heard, &mut all);
    // Nothing is real there: there is nothing to check and nothing was bought. Of one that was never heard of,
    // nothing is missing but its agent.
    if !host.simulated && !host.agent_version.is_empty() {
        commissioned(host, now, &mut all);
        billed(state, host, bill, &mut all);
    }
    for device in state.host_devices(&host.name) {
        conditioned(host, device, &mut all);
    }
    all
}

/// What the alerts keep from slices.
pub fn blocked(alerts: &[Alert]) -> Blocked {
    let mut blocked = Blocked::default();
    for alert in alerts.iter().filter(|a| a.prevents.contains(&Prevents::Allocation)) {
        let text = || format!("{}: {}", alert.code, alert.text);
        match alert.scope {
            Scope::Host => drop(blocked.host.get_or_insert_with(text)),
            Scope::Fabric => drop(blocked.together.get_or_insert_with(text)),
            Scope::Device(address) => drop(blocked.devices.entry(address).or_insert_with(text)),
            Scope::Absent => {}
        }
    }
    blocked
}

/// One that keeps slices from what it is about.
fn allocation(code: &'static str, scope: Scope, text: String, mend: String) -> Alert {
    Alert { code, scope, text, mend, prevents: vec![Prevents::Allocation] }
}

fn stale(host: &Host, reported: Option<Timestamp>, now: Timestamp) -> Option<Alert> {
    let known = !host.agent_version.is_empty();
    let text = match reported {
        None if !known => "its agent was never connected".to_owned(),
        None => "its agent is not connected, or has not reported yet".to_owned(),
        Some(at) if now.duration_since(at) > STALE_REPORT => {
            format!("its last report is {} s old", now.duration_since(at).as_secs())
        }
        Some(_) => return None,
    };
    Some(Alert {
        code: "report-stale",
        scope: Scope::Host,
        text,
        mend: match known {
            true => format!("on {}: systemctl status holm-agent", host.name),
            false => format!("holm host invite {}; on it: holm enrol CODE, and start holm-agent", host.name),
        },
        prevents: vec![Prevents::Allocation, Prevents::Change, Prevents::Closing],
    })
}

/// No room, or soon none, for what its slices write.
fn crowded(host: &Host, heard: &Heard, all: &mut Vec<Alert>) {
    let mend = || {
        format!(
            "on {}: make room where its volumes lie (`lvextend` of a thin pool, other files of a file system), or stop or \
             close slices; a slice's own user frees room only where the host has `discard`",
            host.name
        )
    };
    if heard.paused > 0 {
        let machines = if heard.paused == 1 { "machine is" } else { "machines are" };
        let text = format!("{} {machines} paused: there is no room for what they write", heard.paused);
        // They go on by themselves when there is. Whoever came now would be the next.
        all.push(allocation("slices-paused", Scope::Host, text, mend()));
    }
    let Some((bytes, free)) = heard.volumes else { return };
    let used = fullness::percent(bytes, free);
    let code = match used {
        fullness::FULL.. => "volumes-full",
        fullness::NEARLY_FULL.. => "volumes-nearly-full",
        _ => return,
    };
    let text = format!("{used} % of the room for volumes is used, {} GiB are left", free >> 30);
    // What was promised is kept within what there is, or what its operator has said: it blocks nothing by itself.
    all.push(Alert { code, scope: Scope::Host, text, mend: mend(), prevents: Vec::new() });
}

fn commissioned(host: &Host, now: Timestamp, all: &mut Vec<Alert>) {
    let look = || format!("on {}: holm-agent commission", host.name);
    let Some(report) = &host.commissioning else {
        let text = "it was never checked".to_owned();
        all.push(allocation("not-commissioned", Scope::Host, text, look()));
        return;
    };
    let age = now.duration_since(report.received);
    if age > STALE_COMMISSIONING {
        let text = format!("it was checked {} days ago", age.as_hours() / 24);
        all.push(allocation("commissioning-stale", Scope::Host, text, look()));
    }
    for check in failed(report) {
        let text = format!("{}: {}", check.id, check.found);
        all.push(allocation("commissioning-failed", Scope::Host, text, check.mend));
    }
}

/// What must pass and did not, or was left out: the list is holmd's, not the host's.
fn failed(report: &Commissioning) -> Vec<FailedCheck> {
    let said = |id: &str| report.failed.iter().find(|check| check.id == id);
    let mut failed: Vec<FailedCheck> = report
        .failed
        .iter()
        .filter(|check| check.must || commission::check(&check.id).is_some_and(|listed| listed.must))
        .cloned()
        .collect();
    for listed in CHECKS.iter().filter(|listed| listed.must) {
        if said(listed.id).is_none() && !report.passed.iter().any(|id| id == listed.id) {
            failed.push(FailedCheck {
                id: listed.id.to_owned(),
                title: listed.title.to_owned(),
                unknown: true,
                must: true,
                found: "its report leaves it out".to_owned(),
                mend: "install the agent of this release".to_owned(),
            });
        }
    }
    failed
}

fn billed(state: &State, host: &Host, bill: &Bill, all: &mut Vec<Alert>) {
    let present: Vec<&Device> =
        state.host_devices(&host.name).filter(|d| host.present.contains(&d.address)).collect();
    let (gpus, nvswitches): (Vec<&Device>, Vec<&Device>) = present.iter().partition(|d| d.gpu);
    let ours = "mend it, or state in `[bill]` of holmd.toml what the machine has";
    counted("gpu-missing", "gpu-unexpected", "GPUs", &gpus, bill.gpus, Scope::Absent, Scope::Host, all);
    counted(
        "nvswitch-missing",
        "nvswitch-unexpected",
        "NVSwitches",
        &nvswitches,
        bill.nvswitches,
        Scope::Fabric,
        Scope::Fabric,
        all,
    );
    for gpu in gpus.iter().filter(|d| !bill.gpu_ids.contains(&d.id)) {
        let text = format!("{} is {}, which the bill does not have", gpu.address, gpu.id);
        all.push(allocation("gpu-unexpected", Scope::Device(gpu.address), text, ours.to_owned()));
    }
    for switch in nvswitches.iter().filter(|d| !bill.nvswitch_ids.contains(&d.id)) {
        let text = format!("{} is {}, which the bill does not have", switch.address, switch.id);
        all.push(allocation("nvswitch-unexpected", Scope::Fabric, text, ours.to_owned()));
    }
    for gpu in &gpus {
        match bill.memory_bytes.get(&gpu.id) {
            // Small BARs beside that of the memory (a V100 has one of 32 MiB) count as memory, too.
            Some(pinned) if !(*pinned..=pinned.saturating_add(*pinned / 64)).contains(&gpu.memory_bytes) => {
                let text =
                    format!("{} has {} bytes of memory, the bill {pinned}", gpu.address, gpu.memory_bytes);
                all.push(allocation("memory-differs", Scope::Device(gpu.address), text, ours.to_owned()));
            }
            _ => {}
        }
    }
    firmware(&gpus, bill, all);
}

#[allow(clippy::too_many_arguments, reason = "two kinds of device are counted in the same words")]
fn counted(
    missing: &'static str,
    unexpected: &'static str,
    what: &str,
    present: &[&Device],
    wanted: u32,
    if_missing: Scope,
    if_more: Scope,
    all: &mut Vec<Alert>,
) {
    let there = u32::try_from(present.len()).unwrap_or(u32::MAX);
    let text = format!("{there} of {wanted} {what} are there");
    if there < wanted {
        let mend = "look for it with lspci and in the BMC's log; reseat or replace it".to_owned();
        all.push(allocation(missing, if_missing, text, mend));
    } else if there > wanted {
        let mend = "take it out, or state in `[bill]` of holmd.toml what the machine has".to_owned();
        all.push(allocation(unexpected, if_more, text, mend));
    }
}

/// A VBIOS that is not the pinned one; where none is pinned, not that of most. Of halves nobody can say which is
/// right, so neither is.
fn firmware(gpus: &[&Device], bill: &Bill, all: &mut Vec<Alert>) {
    let ids: BTreeSet<&str> = gpus.iter().map(|d| d.id.as_str()).collect();
    for id in ids {
        let said = || gpus.iter().filter(|d| d.id == id && !d.hardware.firmware.is_empty());
        let silent = gpus.iter().filter(|d| d.id == id && d.hardware.firmware.is_empty());
        // A pin that cannot be compared with anything holds nobody back: it must not look as if it did.
        for gpu in silent.filter(|_| bill.firmware.contains_key(id)) {
            let text = format!("{} does not say its VBIOS, and one is pinned", gpu.address);
            let mend =
                "only NVIDIA's driver tells it: look on a host that has the driver, or take the pin out of \
                        `firmware` in `[bill]` of holmd.toml"
                    .to_owned();
            all.push(allocation("firmware-unknown", Scope::Device(gpu.address), text, mend));
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for gpu in said() {
            *counts.entry(gpu.hardware.firmware.as_str()).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let mut common = counts.iter().filter(|(_, count)| **count == most).map(|(version, _)| *version);
        let right = match (bill.firmware.get(id), common.next(), common.next()) {
            (Some(pinned), _, _) => Some(pinned.as_str()),
            (None, only, None) => only,
            (None, _, Some(_)) => None,
        };
        for gpu in said().filter(|d| Some(d.hardware.firmware.as_str()) != right) {
            let has = &gpu.hardware.firmware;
            let text = match right {
                Some(right) => format!("{} has VBIOS {has}, and not {right}", gpu.address),
                None => format!("{} has VBIOS {has}, and others have another", gpu.address),
            };
            let mend =
                "find out who changed it before anybody gets it; flash the right one, or pin it under \
                        `firmware` in `[bill]` of holmd.toml"
                    .to_owned();
            all.push(allocation("firmware-differs", Scope::Device(gpu.address), text, mend));
        }
    }
}

/// What is wrong with one device by itself.
fn conditioned(host: &Host, device: &Device, all: &mut Vec<Alert>) {
    let (scope, address) = (scope(device), device.address);
    if device.state == DeviceState::Quarantined && device.gpu {
        let mend =
            format!("mend the cause, then: holm host release-device {} {address} --reason \"…\"", host.name);
        all.push(allocation("device-quarantined", scope, format!("{address}: {}", device.reason), mend));
    }
    if !device.problem.is_empty() {
        let mend = format!("on {}: holm-agent check", host.name);
        all.push(allocation("device-problem", scope, format!("{address}: {}", device.problem), mend));
    }
    let Some(health) = &device.health else { return };
    let text = format!("{address}: {} ({})", health.reason, health.source);
    let mend = "look at it with nvidia-smi -q and dcgmi diag; replace it where that does not help".to_owned();
    match health.state {
        HealthState::Failed => all.push(allocation("device-unhealthy", scope, text, mend)),
        HealthState::Degraded => {
            all.push(Alert { code: "device-degraded", scope, text, mend, prevents: Vec::new() });
        }
        // Nobody said that it is ill. That nobody said it is well is shown where it is shown.
        HealthState::Unknown | HealthState::Healthy => {}
    }
}

/// What is wrong with a switch is wrong with every slice whose GPUs talk through it.
fn scope(device: &Device) -> Scope {
    if device.gpu { Scope::Device(device.address) } else { Scope::Fabric }
}
