//! Records as they cross the wire.

use super::register::Seen;
use super::{claims, declassify, machine, register};
use crate::app::App;
use crate::domain::State;
use crate::domain::backup::{Job, JobKind};
use crate::domain::fullness;
use crate::domain::lock::{self, Subject};
use crate::domain::quota::{self, Quota};
use crate::domain::records::Subject as Invited;
use crate::domain::records::{
    Approval, Device, DeviceState, DiskChange, Evidence, Extension, Hold, Host, Lock, Maintenance, NewDisks,
    Person, Project, Size, Slice, SliceState, VolumeKind,
};
use crate::domain::register::lapsed;
use crate::domain::unapprove;
use crate::live::{Live, Moment};
use crate::reconcile::{jobs, place};
use crate::tag;
use holm_policies::Resource;
use holm_proto::ids::Name;
use holm_proto::v1;
use jiff::Timestamp;
use newtype_uuid::GenericUuid;

pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// What is locked, without why.
pub(super) fn lock(l: &Lock) -> v1::Lock {
    v1::Lock {
        subject: l.subject.to_string(),
        by: l.by.to_string(),
        at: Some(time(l.at)),
        ..Default::default()
    }
}

fn locked(state: &State, subject: &Subject) -> Option<v1::Lock> {
    state.locks.get(subject).map(lock)
}

pub(super) fn person(state: &State, p: &Person) -> v1::Person {
    v1::Person {
        name: p.name.to_string(),
        roles: p.roles.clone(),
        created: Some(time(p.created)),
        enrolled: p.enrolled,
        lock: locked(state, &Subject::Person(p.name.clone())),
        revoked: p.revoked.is_some(),
        waits: waiting(state, &p.name),
        login: p.login.as_ref().map(|login| v1::Login {
            at: Some(time(login.at)),
            second_factor: login.second,
            how: login.how.clone(),
        }),
    }
}

fn waiting(state: &State, name: &Name) -> Option<v1::Waiting> {
    let code = state.invitations.values().find(|i| i.waits && i.subject == Invited::Person(name.clone()))?;
    Some(v1::Waiting { id: code.id().to_owned(), by: code.by.clone() })
}

pub(super) fn project(seen: &Seen<'_>, p: &Project) -> v1::Project {
    let project = v1::Project {
        id: p.id.into_untyped_uuid().to_string(),
        name: p.name.to_string(),
        level: p.level.clone(),
        level_name: p.level_name.clone(),
        purpose: p.purpose.clone(),
        lead: p.lead.to_string(),
        members: p.members.iter().map(ToString::to_string).collect(),
        readers: p.readers.iter().map(ToString::to_string).collect(),
        etag: tag::of(p),
        created: Some(time(p.created)),
        pack: p.pack.clone(),
        department: p.department.clone(),
        hold: p.hold.as_ref().map(|h| hold(h, false)),
        quota: Some(quota(seen.app, seen.state, p)),
        lock: locked(seen.state, &Subject::Project(p.name.clone())),
        keys_lock: locked(seen.state, &Subject::Keys(p.name.clone())),
        ..Default::default()
    };
    declassify::shown(seen, &unapprove::project(seen.state, p), register::shown(seen, p, project))
}

pub(super) fn quota(app: &App, state: &State, p: &Project) -> v1::Quota {
    let Quota { disk_gib, used_gib, of_site } = quota::quota(state, p, app.config.defaults.project_disk_gib);
    v1::Quota { project: p.name.to_string(), disk_gib, used_gib, of_site }
}

fn hold(h: &Hold, of_project: bool) -> v1::Hold {
    v1::Hold { by: h.by.to_string(), at: Some(time(h.at)), reason: h.reason.clone(), of_project }
}

/// A slice, with what its host reports of it now.
pub(super) fn slice(app: &App, state: &State, s: &Slice) -> v1::Slice {
    let etag = tag::of(s);
    let s = &unapprove::slice(state, s);
    let report = s
        .placement
        .as_ref()
        .filter(|_| !s.state.is_final())
        .and_then(|p| app.live.host(&p.host)?.slices.get(&s.id).cloned())
        .filter(|r| r.generation == s.generation);
    let told = crate::reconcile::scheduler(s);
    let image = report.as_ref().map(|r| r.image.clone()).filter(|image| !image.is_empty());
    let has = report.as_ref().is_some_and(|r| !r.steps.is_empty()) && s.used;
    let newer = crate::domain::image::current(state).filter(|newer| has && image.as_ref() != Some(&newer.id));
    let begun = report.as_ref().is_some_and(|r| r.scheduler == told.of);
    let jobs = report.as_ref().and_then(|r| r.jobs);
    let disks = report.as_ref().map(|r| claims::claimed(s, r)).unwrap_or_default();
    let paused = report.as_ref().is_some_and(|r| r.paused);
    let mut warnings = fullness::warnings(&disks, paused, size(s, VolumeKind::Data) > 0);
    let ill = ill(app, state, s);
    let degraded = !ill.is_empty();
    warnings.extend(ill.into_iter().map(str::to_owned));
    // What it had are others' by now, and it gets other ones.
    let rests = matches!(s.state, SliceState::Stopped | SliceState::Approved | SliceState::Kept);
    let (steps, guest) = report.map(|r| (r.steps, r.guest)).unwrap_or_default();
    let known = s.guest.as_ref().map(|g| v1::Guest {
        ssh_host_key: g.ssh_host_key.clone(),
        gpus: g.gpus,
        slurm: g.slurm.clone(),
    });
    v1::Slice {
        id: s.id.into_untyped_uuid().to_string(),
        etag,
        project: state.projects.get(&s.project).map(|p| p.name.to_string()).unwrap_or_default(),
        name: s.name.to_string(),
        level: s.level.clone(),
        level_name: s.level_name.clone(),
        gpus: s.gpus,
        vcpus: s.vcpus,
        memory_mib: s.memory_mib,
        disk_gib: s.disk_gib,
        home_gib: size(s, VolumeKind::Data),
        scratch_gib: size(s, VolumeKind::Scratch),
        state: slice_state(s.state).into(),
        reason: s.reason.clone(),
        requested_by: s.requested_by.to_string(),
        approvals: s.approvals.iter().map(approval).collect(),
        approvals_needed: s.approvals_needed,
        host: s.placement.as_ref().map(|p| p.host.to_string()).unwrap_or_default(),
        partition: s.placement.as_ref().filter(|_| !rests).map(|p| p.partition),
        devices: s
            .placement
            .iter()
            .filter(|_| !rests)
            .flat_map(|p| &p.devices)
            .map(ToString::to_string)
            .collect(),
        generation: s.generation,
        requested: Some(time(s.requested)),
        changed: Some(time(s.changed)),
        steps,
        guest: known.or(guest),
        key_fingerprint: s.key_fingerprint.clone(),
        from: s.from.map(time),
        until: s.until.map(time),
        department: state.projects.get(&s.project).map(|p| p.department.clone()).unwrap_or_default(),
        reserved: place::is_reserved(app, s),
        // One that is placed again has no place meanwhile.
        placed: s.placed.filter(|_| s.placement.is_some() && !rests).map(time),
        detached: s.detached.map(time),
        may: Vec::new(),
        hold: crate::domain::slice::held(state, s)
            .filter(|_| !s.state.is_final())
            .map(|(h, of_project)| hold(h, of_project)),
        closed: s.closed_at.map(time),
        keep_until: s.keep_until.map(time),
        job: s.copies.job.as_ref().map(|j| job(app, s, j)),
        disks,
        warnings,
        paused,
        disk_change: s.change.as_ref().map(disk_change),
        lock: lock::of_slice(state, s).map(self::lock),
        lease: s.lease.map(time),
        lease_over: s.lease_over(app.ledger.now()),
        drain: s.drain.as_ref().map(|drain| v1::Drain {
            by: drain.by.to_string(),
            at: Some(time(drain.at)),
            stop: drain.stop,
            begun,
        }),
        image_version: image
            .as_ref()
            .and_then(|id| state.images.get(id))
            .map(|i| i.version.clone())
            .unwrap_or_default(),
        newer_image: newer.map(|newer| newer.version.clone()).unwrap_or_default(),
        image: image.unwrap_or_default(),
        degraded,
        classes: told.classes,
        jobs,
        reencrypted: s.copies.reencrypted.as_ref().map(super::backup::tried),
        renewed: s.renewed.iter().map(approval).collect(),
        extension: s.extension.as_ref().map(|asked| v1::Extension {
            id: extension_id(asked),
            by: asked.by.to_string(),
            at: Some(time(asked.at)),
            comment: asked.comment.clone(),
            approvals: asked.approvals.iter().map(approval).collect(),
            size: asked.size.map(sized),
        }),
        resized: s.resized.map(sized),
        enlarged: s.enlarged.iter().map(approval).collect(),
    }
}

fn sized(of: Size) -> v1::Size {
    v1::Size { gpus: of.gpus, vcpus: of.vcpus, memory_mib: of.memory_mib }
}

/// What is wrong with how its guest speaks. It concerns nobody else's slice.
fn ill(app: &App, state: &State, s: &Slice) -> Vec<&'static str> {
    let mut all = Vec::new();
    if s.state != SliceState::Ready {
        return all;
    }
    if crate::domain::claims::known(state, s.id).silent {
        all.push(
            "its guest says nothing any more: what is shown of its jobs and disks may be old. Log in and look; where nobody \
             can, stop it and start it again",
        );
    }
    let now = app.ledger.now();
    if app.live.guest(s.id, now, |guest| guest.floods(now)) {
        all.push(
            "its guest says more than it may, or what nobody understands, and that is dropped: some program in it has gone \
             wrong, or somebody who is root there; stop it and start it with --rebuild, if nobody knows why",
        );
    }
    all
}

/// What tells it from the one asked for before or after it.
pub(super) fn extension_id(asked: &Extension) -> String {
    let Some(Size { gpus, vcpus, memory_mib }) = asked.size else {
        return format!("{:08x}", asked.at.as_millisecond());
    };
    // What is approved is this size, and no other.
    format!("{:08x}-{gpus}-{vcpus}-{memory_mib}", asked.at.as_millisecond())
}

pub(super) fn approval(a: &Approval) -> v1::Approval {
    v1::Approval { by: a.by.to_string(), at: Some(time(a.at)), comment: a.comment.clone() }
}

fn disk_change(change: &DiskChange) -> v1::DiskChangeWanted {
    let (disk_gib, home_gib) = match change.what {
        NewDisks::Larger { disk_gib, home_gib } => (disk_gib, home_gib),
        NewDisks::Rekeyed { .. } => (0, 0),
    };
    v1::DiskChangeWanted {
        disk_gib,
        home_gib,
        by: change.by.to_string(),
        at: Some(time(change.at)),
        note: change.note.clone(),
    }
}

/// With what its host says of it now.
fn job(app: &App, s: &Slice, j: &Job) -> v1::Job {
    let host = s.placement.as_ref().and_then(|p| app.live.host(&p.host));
    let told = host.and_then(|host| host.jobs.get(&j.id).cloned()).unwrap_or_default();
    v1::Job {
        kind: jobs::kind(j.kind).into(),
        backup_id: match j.kind {
            JobKind::Reencrypt => String::new(),
            _ => j.backup.into_untyped_uuid().to_string(),
        },
        by: j.by.as_ref().map(ToString::to_string).unwrap_or_default(),
        since: Some(time(j.at)),
        done_bytes: told.done_bytes,
        total_bytes: told.total_bytes,
        reason: told.reason,
    }
}

fn size(s: &Slice, kind: VolumeKind) -> u64 {
    s.others.iter().find(|other| other.kind == kind).map_or(0, |other| other.size_gib)
}

fn slice_state(state: SliceState) -> v1::SliceState {
    match state {
        SliceState::Requested => v1::SliceState::Requested,
        SliceState::Approved => v1::SliceState::Approved,
        SliceState::Placed => v1::SliceState::Placed,
        SliceState::Preparing => v1::SliceState::Preparing,
        SliceState::Booting => v1::SliceState::Booting,
        SliceState::Ready => v1::SliceState::Ready,
        SliceState::Failed => v1::SliceState::Failed,
        SliceState::Stopping => v1::SliceState::Stopping,
        SliceState::Stopped => v1::SliceState::Stopped,
        SliceState::Rejected => v1::SliceState::Rejected,
        SliceState::Withdrawn => v1::SliceState::Withdrawn,
        SliceState::Keeping => v1::SliceState::Keeping,
        SliceState::Kept => v1::SliceState::Kept,
        SliceState::Closing => v1::SliceState::Closing,
        SliceState::Destroying => v1::SliceState::Destroying,
        SliceState::Destroyed => v1::SliceState::Destroyed,
    }
}

/// A host with its devices; `sees` says which slices the caller may know of.
pub(super) fn host(state: &State, live: &Live, h: &Host, sees: &dyn Fn(&Slice) -> bool) -> v1::Host {
    let session = live.host(&h.name);
    let devices: Vec<v1::Device> = state
        .host_devices(&h.name)
        .map(|d| {
            let of = d.slice.and_then(|id| state.slices.get(&id)).filter(|s| sees(s));
            let moment = session.as_ref().and_then(|s| s.moments.get(&d.address));
            let lock = locked(state, &Subject::Device(h.name.clone(), d.address));
            v1::Device { lock, ..device(d, of.map(|s| state.slice_label(s)).unwrap_or_default(), moment) }
        })
        .collect();
    let mut inventory = v1::Inventory {
        cpus: h.cpus,
        numa_nodes: h.numa_nodes,
        memory_mib: h.memory_mib,
        iommu: h.iommu,
        kernel: h.kernel.clone(),
        volumes_gib: h.volumes_gib,
        backups: h.backups.clone(),
        devices: devices.iter().filter_map(|d| d.pci.clone()).collect(),
        ..Default::default()
    };
    if let Some(known) = &h.machine {
        machine::show(known, &mut inventory);
    }
    let volumes = session.as_ref().and_then(|s| s.volumes);
    v1::Host {
        name: h.name.to_string(),
        online: session.is_some(),
        simulated: h.simulated,
        platform: h.platform.clone(),
        agent_version: h.agent_version.clone(),
        inventory: Some(inventory),
        devices,
        last_report: session.and_then(|s| s.reported).map(time),
        maintenance: h.maintenance.as_ref().map(maintenance),
        volumes,
        ..Default::default()
    }
}

fn device(d: &Device, slice: String, moment: Option<&Moment>) -> v1::Device {
    let kind = if d.gpu { v1::DeviceKind::Gpu } else { v1::DeviceKind::Nvswitch };
    let mut pci = v1::PciDevice {
        address: d.address.to_string(),
        kind: kind.into(),
        id: d.id.clone(),
        numa_node: d.numa_node,
        iommu_group: d.iommu_group,
        physical_id: d.physical_id,
        driver: d.driver.clone(),
        reset_methods: d.reset_methods.clone(),
        memory_bytes: d.memory_bytes,
        problem: d.problem.clone(),
        ..Default::default()
    };
    machine::show_device(&d.hardware, d.health.as_ref(), moment, &mut pci);
    v1::Device {
        pci: Some(pci),
        state: device_state(d.state).into(),
        slice,
        reason: d.reason.clone(),
        evidence: d.evidence.as_ref().map(evidence),
        maintenance: d.maintenance.as_ref().map(maintenance),
        lock: None,
    }
}

fn maintenance(m: &Maintenance) -> v1::Maintenance {
    v1::Maintenance { by: m.by.to_string(), reason: m.reason.clone(), since: Some(time(m.since)) }
}

fn device_state(state: DeviceState) -> v1::DeviceState {
    match state {
        DeviceState::Free => v1::DeviceState::Free,
        DeviceState::Claimed => v1::DeviceState::Claimed,
        DeviceState::Assigned => v1::DeviceState::Assigned,
        DeviceState::Dirty => v1::DeviceState::Dirty,
        DeviceState::Sanitising => v1::DeviceState::Sanitising,
        DeviceState::Quarantined => v1::DeviceState::Quarantined,
    }
}

fn evidence(e: &Evidence) -> v1::Evidence {
    v1::Evidence {
        run_id: e.run.into_untyped_uuid().to_string(),
        address: e.address.to_string(),
        cleaned: e.cleaned,
        method: e.method.clone(),
        bytes_total: e.bytes_total,
        bytes_written: e.bytes_written,
        bytes_verified: e.bytes_verified,
        bytes_dirty_before: e.bytes_dirty_before,
        took_ms: e.took_ms,
        tool: e.tool.clone(),
        detail: e.detail.clone(),
        pattern: e.pattern.clone(),
        bytes_unreached: e.bytes_unreached,
    }
}

/// A project as the pack sees it.
pub(super) fn project_resource(seen: &Seen<'_>, p: &Project) -> Resource {
    Resource::Project {
        name: p.name.clone(),
        level: p.level.clone(),
        lead: p.lead.clone(),
        members: p.members.clone(),
        readers: p.readers.iter().cloned().collect(),
        held_by: p.hold.iter().map(|h| h.by.clone()).collect(),
        missing: seen.missing(p, &p.level),
        lapsed: lapsed(p, seen.now),
    }
}

/// A slice as the pack sees it; `None` where its project is gone, which cannot be.
pub(super) fn slice_resource(seen: &Seen<'_>, s: &Slice) -> Option<Resource> {
    let p = seen.projects.get(&s.project)?;
    let s = &unapprove::slice(seen.state, s);
    let approvals = s.extension.as_ref().map_or(&s.approvals, |asked| &asked.approvals);
    Some(Resource::Slice {
        project: p.name.clone(),
        name: s.name.clone(),
        level: s.level.clone(),
        lead: p.lead.clone(),
        members: p.members.clone(),
        readers: p.readers.iter().cloned().collect(),
        requested_by: s.extension.as_ref().map_or(&s.requested_by, |asked| &asked.by).clone(),
        approved_by: approvals.iter().map(|a| a.by.clone()).collect(),
        held_by: s.hold.iter().map(|h| h.by.clone()).collect(),
        missing: seen.missing(p, &s.level),
        lapsed: lapsed(p, seen.now),
        lease_over: s.lease_over(seen.now),
    })
}
