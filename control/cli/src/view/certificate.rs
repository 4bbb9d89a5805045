//! Deletion certificates, as whoever gets one reads it: what was destroyed, on what evidence, and what the
//! certificate does not speak of.

mod page;

pub use page::{note_in, page};

use crate::output::{Cell, Sheet, Tone};
use crate::text::{Clock, bytes, took};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The only form there is.
const FORM: &str = "holm deletion certificate, version 1";

/// The method of a host on which nothing is real.
const SIMULATED: &str = "simulated";

/// A certificate whose signature fits. Fields that are not here may be added; these are there.
#[derive(Debug, Clone, Deserialize)]
pub struct Deletion {
    certificate: String,
    issued: Timestamp,
    slice: Slice,
    project: Option<Project>,
    level: Level,
    requested: Requested,
    approved: Vec<Approval>,
    closed_by: Option<String>,
    // From here on: not in those of old.
    #[serde(default)]
    approvals_needed: u32,
    closed_at: Option<Timestamp>,
    host: Option<Host>,
    /// By address, vvvv:dddd.
    #[serde(default)]
    device_kinds: BTreeMap<String, String>,
    // In each of them.
    placement: Option<Placement>,
    volume: Volume,
    // Not in those of old.
    #[serde(default)]
    other_volumes: Vec<OtherVolume>,
    detached: Option<Timestamp>,
    devices: Vec<Evidence>,
    /// Not in those of old.
    #[serde(default)]
    devices_without_evidence: Vec<Lost>,
    log_checkpoint: String,
    not_covered: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Slice {
    id: String,
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Project {
    name: String,
    lead: String,
    // Not in those of old, as the pack.
    #[serde(default)]
    purpose: String,
    #[serde(default)]
    pack: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Requested {
    by: String,
    at: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
struct Approval {
    by: String,
    at: Timestamp,
    comment: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Host {
    product: Option<String>,
    simulated: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Level {
    id: String,
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Placement {
    host: String,
    devices: Vec<String>,
}

/// A device that was quarantined before anybody cleaned it.
#[derive(Debug, Clone, Deserialize)]
struct Lost {
    address: String,
    quarantined: String,
}

/// A disk beside the root disk.
#[derive(Debug, Clone, Deserialize)]
struct OtherVolume {
    id: String,
    kind: String,
    key_fingerprint: String,
    header_and_key_slots_overwritten: bool,
    evidence: Option<Erasure>,
}

#[derive(Debug, Clone, Deserialize)]
struct Volume {
    id: String,
    key_fingerprint: String,
    key_destroyed: Option<Timestamp>,
    header_and_key_slots_overwritten: bool,
    // Not in those of old.
    evidence: Option<Erasure>,
}

#[derive(Debug, Clone, Deserialize)]
struct Erasure {
    method: String,
    bytes_overwritten: u64,
    bytes_discarded: u64,
    tool: String,
    detail: String,
    at: Timestamp,
}

#[derive(Debug, Clone, Deserialize)]
struct Evidence {
    run: String,
    address: String,
    cleaned: bool,
    method: String,
    tool: String,
    at: Timestamp,
    bytes_total: u64,
    bytes_verified: u64,
    /// Older ones do not have it.
    #[serde(default)]
    bytes_unreached: u64,
    took_ms: u64,
    detail: String,
}

/// Signed by the right key, and yet no deletion certificate: the same key signs the log.
#[derive(Debug)]
pub struct NotADeletion;

impl Deletion {
    /// Who closed the slice; where nobody did, why it was closed.
    fn closed_by(&self) -> &str {
        self.closed_by.as_deref().unwrap_or("nobody: its project had ended")
    }

    /// The log's head when it was issued, a note of its own.
    pub fn checkpoint(&self) -> &str {
        &self.log_checkpoint
    }

    /// Of a note's text.
    pub fn read(text: &str) -> Result<(Self, Value), NotADeletion> {
        let value: Value = serde_json::from_str(text).map_err(|_| NotADeletion)?;
        let deletion: Self = serde_json::from_value(value.clone()).map_err(|_| NotADeletion)?;
        if deletion.certificate == FORM { Ok((deletion, value)) } else { Err(NotADeletion) }
    }

    /// What it does not prove of what it should. Empty where all is destroyed and clean.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        if self.volume.key_destroyed.is_none() {
            gaps.push("the disk's key was not destroyed".to_owned());
        }
        // Without a placement there never was a machine, a disk or a device.
        let Some(placement) = &self.placement else { return gaps };
        if !self.volume.header_and_key_slots_overwritten {
            gaps.push(not_overwritten("disk", self.volume.evidence.as_ref()));
        }
        for volume in self.other_volumes.iter().filter(|v| !v.header_and_key_slots_overwritten) {
            gaps.push(not_overwritten(&format!("{} disk", volume.kind), volume.evidence.as_ref()));
        }
        let simulated = self.host.as_ref().is_some_and(|h| h.simulated);
        if simulated || self.devices.iter().any(|e| e.method == SIMULATED) {
            gaps.push("the host was SIMULATED: there was no machine, no disk and no device".to_owned());
        }
        if self.detached.is_none() {
            gaps.push("the host did not report the machine gone".to_owned());
        }
        // By what was given to it, not by what there is evidence of: what is missing was not cleaned.
        for device in &self.had(placement) {
            match self.evidence(device) {
                None => {
                    let lost = self.devices_without_evidence.iter().find(|lost| &lost.address == device);
                    let why = lost.map(|lost| format!(" ({})", lost.quarantined)).unwrap_or_default();
                    gaps.push(format!("{device}: there is no evidence that it was cleaned{why}"));
                }
                Some(e) if !e.cleaned => gaps.push(format!("{device} was not cleaned: {}", e.detail)),
                Some(e) if e.bytes_verified.saturating_add(e.bytes_unreached) < e.bytes_total => {
                    gaps.push(format!(
                        "{device}: only {} of {} bytes were read back",
                        e.bytes_verified, e.bytes_total
                    ));
                }
                Some(_) => {}
            }
        }
        gaps
    }

    /// The devices that it was given last, and those that it had before it was stopped and started again.
    fn had(&self, placement: &Placement) -> Vec<String> {
        let mut all = placement.devices.clone();
        let lost = self.devices_without_evidence.iter().map(|lost| &lost.address);
        let before = self.devices.iter().map(|e| &e.address).chain(lost);
        all.extend(before.filter(|a| !placement.devices.contains(a)).cloned().collect::<BTreeSet<_>>());
        all
    }

    /// What was done to a device after the slice had it last.
    fn evidence(&self, device: &str) -> Option<&Evidence> {
        if self.devices_without_evidence.iter().any(|lost| lost.address == device) {
            return None;
        }
        self.devices.iter().rfind(|e| e.address == device)
    }

    /// For people.
    pub fn sheet(&self, signer: &str, clock: &Clock) -> Sheet {
        let gaps = self.gaps();
        let state = if gaps.is_empty() {
            Cell::new("signature good, destroyed and clean").tone(Tone::Good)
        } else {
            Cell::new("signature good, BUT see below").tone(Tone::Bad)
        };
        let mut sheet = Sheet::new(&self.slice.name).state(state);
        sheet.line("signed by", signer);
        sheet.line("issued", Cell::both(clock.full(self.issued), self.issued.to_string()));
        sheet.line("slice id", self.slice.id.as_str());
        if let Some(project) = &self.project {
            sheet.line("project", format!("{}, lead {}", project.name, project.lead));
        }
        sheet.line("level", format!("{} ({})", self.level.id, self.level.name));
        let requested = (&self.requested.by, self.requested.at);
        sheet.line("requested", format!("{}, {}", requested.0, clock.local(requested.1)));
        for a in &self.approved {
            sheet.line("approved", format!("{}, {}", a.by, clock.local(a.at)));
        }
        let at = self.closed_at.map(|at| format!(", {}", clock.local(at))).unwrap_or_default();
        sheet.line("closed by", format!("{}{at}", self.closed_by()));
        sheet.line("host", self.placement.as_ref().map(|p| p.host.clone()).unwrap_or_default());
        for gap in &gaps {
            sheet.line("NOT PROVEN", Cell::new(gap).tone(Tone::Bad));
        }
        let time = |at: Option<Timestamp>| at.map(|at| clock.local(at)).unwrap_or_default();
        sheet.line("covers", format!("disk {}", self.volume.id));
        if self.volume.key_destroyed.is_some() {
            let key = &self.volume.key_fingerprint;
            let key = if key.is_empty() { String::new() } else { format!(" {key}") };
            sheet.line("", format!("its key{key}, destroyed {}", time(self.volume.key_destroyed)));
        }
        if self.volume.header_and_key_slots_overwritten {
            let what = "its header and key slots, overwritten, and its file, removed";
            sheet.line(
                "",
                match &self.volume.evidence {
                    None => what.to_owned(),
                    Some(e) => {
                        let (over, back) = (bytes(e.bytes_overwritten), bytes(e.bytes_discarded));
                        format!("{what} ({}: {over} overwritten, {back} discarded)", e.method)
                    }
                },
            );
        }
        for volume in &self.other_volumes {
            let key = match volume.key_fingerprint.as_str() {
                "" => "its key was in its host's memory alone".to_owned(),
                print => format!("its key {print}, destroyed with it"),
            };
            let over = if volume.header_and_key_slots_overwritten { ", overwritten and removed" } else { "" };
            sheet.line("", format!("{} disk {}{over}; {key}", volume.kind, volume.id));
        }
        if self.detached.is_some() {
            sheet.line("", format!("the machine, gone from the host {}", time(self.detached)));
        }
        for e in self.devices.iter().filter(|e| e.cleaned) {
            let (done, spent) = (bytes(e.bytes_verified), took(e.took_ms));
            sheet
                .line("", format!("{}: {done} overwritten and read back ({}, {spent})", e.address, e.method));
        }
        for e in self.devices.iter().filter(|e| e.cleaned && e.bytes_unreached > 0) {
            let (kept, total) = (bytes(e.bytes_unreached), bytes(e.bytes_total));
            let line =
                format!("{}: {kept} of {total} not reached, which its driver keeps for itself", e.address);
            sheet.line("NOT REACHED", Cell::new(line).tone(Tone::Busy));
        }
        for (at, what) in self.not_covered.iter().enumerate() {
            sheet.line(if at == 0 { "not covered" } else { "" }, what.as_str());
        }
        let log = self.log_checkpoint.lines().nth(1).unwrap_or_default();
        sheet.line("log", format!("held {log} entries when it was issued"));
        sheet
    }
}

fn not_overwritten(disk: &str, evidence: Option<&Erasure>) -> String {
    let why = match evidence.map(|e| e.detail.as_str()) {
        None => ": there is no evidence of it",
        Some("") => "",
        Some(detail) => &format!(": {detail}"),
    };
    format!("the {disk}'s header and key slots were not overwritten{why}")
}

/// A whole one, for tests.
#[cfg(test)]
pub(crate) fn sample() -> Value {
    use serde_json::json;
    let evidence = |address: &str| {
        json!({ "run": "b4c0a5a0-0000-4000-8000-000000000001", "address": address, "cleaned": true, "method": "bar",
            "bytes_total": 34_359_738_368_u64, "bytes_written": 34_359_738_368_u64,
            "bytes_verified": 34_359_738_368_u64, "bytes_dirty_before": 21, "took_ms": 61_300, "tool": "holm-agent 0.1.0",
            "detail": "", "at": "2026-11-03T13:02:00Z" })
    };
    json!({
        "certificate": FORM,
        "issued": "2026-11-03T13:02:11Z",
        "slice": { "id": "5f0c7c8e-0000-4000-8000-000000000002", "name": "heart-study/main" },
        "project": { "id": "5f0c7c8e-0000-4000-8000-000000000003", "name": "heart-study", "lead": "ada",
            "purpose": "a study", "pack": "aau-2018/1" },
        "level": { "id": "3", "name": "sensitive" },
        "requested": { "by": "ada", "at": "2026-11-01T09:00:00Z" },
        "approved": [{ "by": "frida", "at": "2026-11-01T10:00:00Z", "comment": "DPIA 17, seen" }],
        "approvals_needed": 1,
        "closed_by": "ada",
        "closed_at": "2026-11-03T12:59:00Z",
        "host": { "name": "dgx2-1", "product": "DGX-2", "simulated": false },
        "device_kinds": { "0000:34:00.0": "10de:1db8", "0000:36:00.0": "10de:1db8" },
        "placement": { "host": "dgx2-1", "partition": 7, "devices": ["0000:34:00.0", "0000:36:00.0"] },
        "volume": { "id": "5f0c7c8e-0000-4000-8000-000000000004", "key_fingerprint": "00112233445566aa",
            "key_destroyed": "2026-11-03T13:00:00Z", "header_and_key_slots_overwritten": true,
            "evidence": { "volume": "5f0c7c8e-0000-4000-8000-000000000004", "erased": true,
                "method": "luks-header, discard", "bytes_overwritten": 4_194_304, "bytes_discarded": 107_374_182_400_u64,
                "took_ms": 120, "tool": "holm-agent 0.1.0", "detail": "", "at": "2026-11-03T13:01:00Z" } },
        "detached": "2026-11-03T13:01:00Z",
        "devices": [evidence("0000:34:00.0"), evidence("0000:36:00.0")],
        "log_checkpoint": "holm.example/holm\n42\nAAAA\n\n\u{2014} holm.example/holm AAAA\n",
        "not_covered": ["backups and copies made outside Holm", "what people took with them"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock { now: "2026-11-03T14:02:11Z".parse().unwrap(), zone: jiff::tz::TimeZone::UTC }
    }

    #[test]
    fn a_whole_one() {
        let (deletion, _) = Deletion::read(&sample().to_string()).unwrap();
        assert!(deletion.gaps().is_empty());
        insta::assert_snapshot!(deletion.sheet("holm.example/holm", &clock()).text(false));
    }

    #[test]
    fn what_is_missing_is_said_in_the_first_line() {
        let mut value = sample();
        value["devices"][0]["cleaned"] = false.into();
        value["devices"][0]["detail"] = "there is no method for a device of this kind".into();
        value["devices"].as_array_mut().unwrap().truncate(1);
        value["volume"]["key_destroyed"] = Value::Null;
        value["volume"]["header_and_key_slots_overwritten"] = false.into();
        value["volume"]["evidence"]["detail"] = "there was no disk on the host".into();
        let (deletion, _) = Deletion::read(&value.to_string()).unwrap();
        assert_eq!(deletion.gaps().len(), 4);
        insta::assert_snapshot!(deletion.sheet("holm.example/holm", &clock()).text(false));
    }

    #[test]
    fn one_from_before_there_was_evidence_of_disks_is_still_read() {
        let mut value = sample();
        value["volume"].as_object_mut().unwrap().remove("evidence");
        let (deletion, _) = Deletion::read(&value.to_string()).unwrap();
        assert!(deletion.gaps().is_empty());
        let text = deletion.sheet("holm.example/holm", &clock()).text(false);
        assert!(text.contains("its file, removed\n"), "{text}");
    }

    #[test]
    fn what_was_not_reached_is_said() {
        let mut value = sample();
        value["devices"][0]["method"] = "scrub-vm/cuda".into();
        value["devices"][0]["bytes_verified"] = 33_742_127_104_u64.into();
        value["devices"][0]["bytes_unreached"] = 617_611_264_u64.into();
        let (deletion, _) = Deletion::read(&value.to_string()).unwrap();
        assert!(deletion.gaps().is_empty());
        insta::assert_snapshot!(deletion.sheet("holm.example/holm", &clock()).text(false));
        value["devices"][0]["bytes_unreached"] = 617_611_263_u64.into();
        let (deletion, _) = Deletion::read(&value.to_string()).unwrap();
        assert_eq!(deletion.gaps().len(), 1);
    }

    #[test]
    fn what_the_same_key_signed_and_is_no_certificate() {
        for other in ["holm.example/holm\n42\nAAAA\n", "{}", "[]"] {
            assert!(Deletion::read(other).is_err());
        }
        let mut value = sample();
        value["certificate"] = "holm deletion certificate, version 2".into();
        assert!(Deletion::read(&value.to_string()).is_err());
    }
}
