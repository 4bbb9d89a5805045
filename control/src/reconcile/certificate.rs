//! The deletion certificate: what was destroyed, the evidence for it, and what it does not cover.

use crate::app::App;
use crate::audit::note;
use crate::domain::State;
use crate::domain::backup::Backup;
use crate::domain::records::{Certificate, OtherVolume, Slice};
use crate::domain::slice::volume_erased;
use newtype_uuid::GenericUuid;
use serde_json::json;

/// The key of scratch only its host ever had, while the machine ran; holmd's are destroyed with the root disk's.
fn other(volume: &OtherVolume) -> serde_json::Value {
    json!({
        "id": volume.id.into_untyped_uuid(),
        "kind": volume.kind,
        "key_fingerprint": volume.key_fingerprint,
        "header_and_key_slots_overwritten": volume.erased(),
        "evidence": volume.evidence,
    })
}

/// A backup: noise since its key is gone, if nobody else has that.
fn backup(backup: &Backup, removed: bool) -> serde_json::Value {
    json!({
        "id": backup.id.into_untyped_uuid(),
        "made": backup.made.as_ref().map(|made| made.at),
        "manifest_sha256": backup.made.as_ref().map(|made| &made.sha256),
        "removed": removed,
    })
}

/// What the destruction of this slice's keys and disks does not reach.
fn not_covered(slice: &Slice) -> Vec<String> {
    let mut all: Vec<String> = [
        "backups and copies made outside Holm",
        "copies of holmd's key directory made elsewhere before the key was destroyed",
        "what people took with them",
    ]
    .map(str::to_owned)
    .into();
    if let Some(why) = slice.copies.removal.as_ref().map(|r| &r.failed).filter(|why| !why.is_empty()) {
        all.push(format!("its backups, whose ciphertext may still be in the store: {why}"));
    }
    for escrowed in &slice.copies.escrow {
        let (to, at) = (&escrowed.to, escrowed.at);
        all.push(format!("its key, which is also held by {to} since {at:.0}: not destroyed by this"));
    }
    all
}

/// Make and sign it, from what the state says and the log's checkpoint of this moment.
pub fn make(app: &App, state: &State, slice: &Slice) -> Certificate {
    let project = state.projects.get(&slice.project);
    let lost: Vec<_> = crate::domain::slice::without_evidence(state, slice)
        .map(|d| json!({ "address": d.address, "quarantined": d.reason }))
        .collect();
    let host = slice.placement.as_ref().and_then(|p| state.hosts.get(&p.host));
    let kinds: serde_json::Map<String, serde_json::Value> = slice
        .placement
        .iter()
        .flat_map(|p| p.devices.iter().map(|a| (p.host.clone(), *a)))
        .filter_map(|key| state.devices.get(&key))
        .map(|d| (d.address.to_string(), d.id.clone().into()))
        .collect();
    let removed = slice.copies.removal.as_ref().is_some_and(|removal| removal.failed.is_empty());
    let body = json!({
        "certificate": "holm deletion certificate, version 1",
        "issued": app.ledger.now(),
        "slice": { "id": slice.id.into_untyped_uuid(), "name": state.slice_label(slice) },
        "project": project.map(|p| json!({ "id": p.id.into_untyped_uuid(), "name": p.name, "lead": p.lead,
            "purpose": p.purpose, "pack": p.pack })),
        "level": { "id": slice.level, "name": slice.level_name },
        "requested": { "by": slice.requested_by, "at": slice.requested },
        "approved": slice.approvals,
        "approvals_needed": slice.approvals_needed,
        "closed_by": slice.closed_by,
        "closed_at": slice.closed_at,
        "placement": slice.placement,
        "host": host.map(|h| json!({ "name": h.name, "product": h.machine.as_ref().map(|m| &m.product),
            "simulated": h.simulated })),
        "device_kinds": kinds,
        "volume": {
            "id": slice.volume.into_untyped_uuid(),
            "key_fingerprint": slice.key_fingerprint,
            "key_destroyed": slice.key_destroyed,
            "header_and_key_slots_overwritten": volume_erased(slice),
            "evidence": slice.volume_evidence,
        },
        "other_volumes": slice.others.iter().chain(&slice.retired).map(other).collect::<Vec<_>>(),
        "detached": slice.detached,
        "devices": slice.evidence,
        "devices_without_evidence": lost,
        "log_checkpoint": app.ledger.checkpoint(),
        "backups": slice.copies.backups.iter().map(|b| backup(b, removed)).collect::<Vec<_>>(),
        "escrow": slice.copies.escrow,
        "not_covered": not_covered(slice),
    });
    let body = format!("{body:#}");
    let text = format!("{body}\n");
    let note = note::sign(&app.log_key, &app.config.log_origin, &text);
    Certificate { body, note }
}
