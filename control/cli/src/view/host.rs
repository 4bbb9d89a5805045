//! Hosts and their devices.

use super::lock::{lock_json, locked};
use super::topology::health_word;
use super::{time_json, when, when_full, yes_no};
use crate::output::{Cell, Sheet, Table, Tone};
use crate::text::{Clock, bytes, instant, mib};
use holm_proto::fullness;
use holm_proto::ids::{PciAddress, TypedPciAddress};
use holm_proto::v1::{
    BridgeKind, Device, DeviceKind, DeviceState, Drive, Evidence, Health, Host, Inventory, Link, Maintenance,
    NumaNode, PciBridge, PciDevice,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A list.
pub fn hosts(all: &[Host], clock: &Clock) -> Table {
    let row = |h: &Host| {
        let gpus = || h.devices.iter().filter(|d| is_gpu(d));
        let count = |state: DeviceState| gpus().filter(|d| device_state(d) == state).count();
        let (free, bad) = (count(DeviceState::Free), count(DeviceState::Quarantined));
        vec![
            h.name.as_str().into(),
            online(h),
            yes_no(h.simulated),
            h.platform.as_str().into(),
            gpus().count().to_string().into(),
            free.to_string().into(),
            Cell::new(bad.to_string()).tone(if bad > 0 { Tone::Bad } else { Tone::Plain }),
            out_of_service(h),
            h.agent_version.as_str().into(),
            when(h.last_report.as_ref(), clock),
        ]
    };
    Table {
        columns: vec![
            "host",
            "agent",
            "simulated",
            "platform",
            "gpus",
            "free",
            "quarantined",
            "out of service",
            "version",
            "last report",
        ],
        rows: all.iter().map(row).collect(),
        empty: "no hosts that you may see: operators invite them",
    }
}

/// What of it is: all of it, or so many GPUs.
fn out_of_service(h: &Host) -> Cell {
    let gpus = h.devices.iter().filter(|d| is_gpu(d) && d.maintenance.is_some()).count();
    match (h.maintenance.is_some(), gpus) {
        (true, _) => Cell::both("the host", "host").tone(Tone::Bad),
        (false, 0) => Cell::both("", "0"),
        (false, gpus) => {
            let text = super::plural(u64::try_from(gpus).unwrap_or(u64::MAX), "GPU");
            Cell::both(text, gpus.to_string()).tone(Tone::Bad)
        }
    }
}

fn online(h: &Host) -> Cell {
    if h.online { Cell::new("online").tone(Tone::Good) } else { Cell::new("offline").tone(Tone::Bad) }
}

/// One host, and its devices below.
pub fn host(h: &Host, clock: &Clock) -> (Sheet, Table) {
    let mut sheet = Sheet::new(&h.name).state(online(h));
    if h.simulated {
        sheet.line(
            "note",
            Cell::new("SIMULATED: there are no devices and no machines, all of it is made up")
                .tone(Tone::Bad),
        );
    }
    if !h.online {
        let last = instant(h.last_report.as_ref()).map(|at| clock.relative(at));
        let last = last.map(|l| format!(" since its last report {l}")).unwrap_or_default();
        let text = format!("OFFLINE: its agent is not connected{last}; below is what was known then");
        sheet.line("note", Cell::new(text).tone(Tone::Bad));
    }
    if let Some(m) = &h.maintenance {
        sheet.line("note", Cell::new(closed(m, clock)).tone(Tone::Bad));
    }
    sheet.line("platform", h.platform.as_str());
    sheet.line("agent", h.agent_version.as_str());
    sheet.line("last report", when_full(h.last_report.as_ref(), clock));
    // Before the first report there is nothing but noughts.
    if let Some(i) = h.inventory.as_ref().filter(|i| i.cpus > 0) {
        sheet.line("machine", i.product.as_str());
        sheet.line("firmware", i.firmware.as_str());
        sheet.line("cpus", i.cpus.to_string());
        sheet.line("numa nodes", i.numa_nodes.to_string());
        sheet.line("memory", Cell::both(mib(i.memory_mib), format!("{} MiB", i.memory_mib)));
        sheet.line("iommu", if i.iommu { Cell::new("on") } else { Cell::new("OFF").tone(Tone::Bad) });
        sheet.line("kernel", i.kernel.as_str());
        if !i.drives.is_empty() {
            let total = i.drives.iter().map(|d| d.bytes).fold(0, u64::saturating_add);
            sheet.line("disks", format!("{}, {} together", i.drives.len(), bytes(total)));
        }
        if i.volumes_gib > 0 {
            let text = format!("{} GiB to be promised", i.volumes_gib);
            sheet.line("for volumes", Cell::both(text, i.volumes_gib.to_string()));
        }
    }
    if let Some(v) = &h.volumes {
        let used = fullness::percent(v.bytes, v.free);
        let text = format!("{used} % of {} used, {} left", bytes(v.bytes), bytes(v.free));
        sheet.line("", Cell::both(text, used.to_string()));
    }
    sheet.line("checked", super::alert::summary(h, clock));
    let mut devices: Vec<&Device> = h.devices.iter().collect();
    devices.sort_by_key(|d| (!is_gpu(d), address(d).to_owned()));
    let table = Table {
        columns: vec![
            "address",
            "kind",
            "numa",
            "iommu group",
            "fabric id",
            "state",
            "driver",
            "slice",
            "problem or reason",
        ],
        rows: devices.into_iter().map(|d| device(d, clock)).collect(),
        empty: "no devices are known: its agent has not reported yet",
    };
    (sheet, table)
}

/// Of a whole host, that it is out of service.
pub fn closed(m: &Maintenance, clock: &Clock) -> String {
    format!("OUT OF SERVICE: nothing new is placed here. {}", maintenance(m, clock))
}

/// Who took it out of service, when and why.
fn maintenance(m: &Maintenance, clock: &Clock) -> String {
    let since = instant(m.since.as_ref()).map(|at| format!(" {}", clock.relative(at))).unwrap_or_default();
    format!("By {}{since}: {}", m.by, m.reason)
}

fn device(d: &Device, clock: &Clock) -> Vec<Cell> {
    let pci = d.pci.clone().unwrap_or_default();
    let number = |n: Option<u32>| n.map(|n| n.to_string()).unwrap_or_default();
    // The state is of what is handed out; a switch never is.
    let state = if is_gpu(d) { state_cell(d) } else { Cell::default() };
    let unreached = d.evidence.as_ref().filter(|e| e.cleaned).map_or(0, |e| e.bytes_unreached);
    let problem = match (pci.problem.as_str(), is_gpu(d)) {
        ("", true) if d.reason.is_empty() && unreached > 0 => {
            Cell::new(format!("clean but for {} that its driver keeps", bytes(unreached)))
        }
        ("", _) if d.lock.is_some() => {
            Cell::new(format!("locked {}", locked(d.lock.as_ref(), clock))).tone(Tone::Bad)
        }
        ("", _) if d.maintenance.is_some() => {
            let said = d.maintenance.as_ref().map(|m| maintenance(m, clock)).unwrap_or_default();
            Cell::new(format!("out of service. {said}")).tone(Tone::Bad)
        }
        ("", true) => Cell::new(&d.reason),
        ("", false) => Cell::default(),
        (problem, _) => Cell::new(problem).tone(Tone::Bad),
    };
    vec![
        pci.address.as_str().into(),
        kind_word(&pci).into(),
        pci.numa_node.to_string().into(),
        number(pci.iommu_group).into(),
        number(pci.physical_id).into(),
        state,
        pci.driver.as_str().into(),
        d.slice.as_str().into(),
        problem,
    ]
}

pub(super) fn is_gpu(d: &Device) -> bool {
    d.pci.as_ref().is_some_and(|p| p.kind() == DeviceKind::Gpu)
}

pub(super) fn address(d: &Device) -> &str {
    d.pci.as_ref().map_or("", |p| p.address.as_str())
}

fn kind_word(pci: &PciDevice) -> &'static str {
    match pci.kind() {
        DeviceKind::Gpu => "gpu",
        DeviceKind::Nvswitch => "nvswitch",
        DeviceKind::Unspecified => "unknown",
    }
}

/// Where a device stands.
pub fn device_state(d: &Device) -> DeviceState {
    DeviceState::try_from(d.state).unwrap_or(DeviceState::Unspecified)
}

fn device_word(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Unspecified => "unknown",
        DeviceState::Free => "free",
        DeviceState::Claimed => "claimed",
        DeviceState::Assigned => "assigned",
        DeviceState::Dirty => "dirty",
        DeviceState::Sanitising => "sanitising",
        DeviceState::Quarantined => "quarantined",
    }
}

pub(super) fn state_cell(d: &Device) -> Cell {
    let state = device_state(d);
    let tone = match state {
        DeviceState::Free => Tone::Good,
        DeviceState::Claimed | DeviceState::Dirty | DeviceState::Sanitising => Tone::Busy,
        DeviceState::Quarantined => Tone::Bad,
        DeviceState::Assigned | DeviceState::Unspecified => Tone::Plain,
    };
    Cell::new(device_word(state)).tone(tone)
}

/// As `holm.v1.Host` has it.
pub fn host_json(h: &Host) -> Value {
    json!({
        "name": h.name,
        "online": h.online,
        "simulated": h.simulated,
        "platform": h.platform,
        "agent_version": h.agent_version,
        "inventory": h.inventory.as_ref().map(inventory_json),
        "devices": h.devices.iter().map(device_json).collect::<Vec<_>>(),
        "last_report": time_json(h.last_report.as_ref()),
        "alerts": h.alerts.iter().map(super::alert::alert_json).collect::<Vec<_>>(),
        "commissioning": h.commissioning.as_ref().map(super::commissioning_json),
        "maintenance": h.maintenance.as_ref().map(maintenance_json),
    })
}

/// As `holm.v1.Device` has it; the state of an NVSwitch, which is given to nobody, is none.
fn device_json(d: &Device) -> Value {
    json!({
        "pci": d.pci.as_ref().map(pci_json),
        "state": is_gpu(d).then(|| device_word(device_state(d))),
        "slice": d.slice,
        "reason": d.reason,
        "evidence": d.evidence.as_ref().map(evidence_json),
        "maintenance": d.maintenance.as_ref().map(maintenance_json),
        "lock": d.lock.as_ref().map(lock_json),
    })
}

/// The device of a host that somebody named.
pub fn named<'a>(h: &'a Host, typed: &str) -> Option<&'a Device> {
    let known = || h.devices.iter().filter_map(|d| Some((address(d).parse::<PciAddress>().ok()?, d)));
    let wanted = typed.parse::<TypedPciAddress>().ok()?.among(known().map(|(at, _)| at)).ok()?;
    known().find(|(at, _)| *at == wanted).map(|(_, d)| d)
}

/// What was done to a host, or to one device of it: that, and nothing else of the host.
pub fn service_json(h: &Host, device: Option<&Device>) -> Value {
    match device {
        None => json!({ "host": h.name, "maintenance": h.maintenance.as_ref().map(maintenance_json) }),
        Some(device) => json!({ "host": h.name, "device": device_json(device) }),
    }
}

/// How many of a host's GPUs are in which state.
pub fn gpus_json(h: &Host, reached: &str) -> Value {
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for gpu in h.devices.iter().filter(|d| is_gpu(d)) {
        *states.entry(device_word(device_state(gpu))).or_default() += 1;
    }
    json!({ "host": h.name, "reached": reached, "online": h.online, "gpus": states })
}

/// What hangs where, the same as is drawn.
pub fn topology_json(h: &Host) -> Value {
    let inventory = h.inventory.clone().unwrap_or_default();
    let device = |d: &Device| {
        let mut json = device_json(d);
        if let Value::Object(fields) = &mut json {
            fields.retain(|name, _| name != "evidence");
        }
        json
    };
    json!({
        "host": h.name,
        "product": inventory.product,
        "online": h.online,
        "simulated": h.simulated,
        "maintenance": h.maintenance.as_ref().map(maintenance_json),
        "nodes": inventory.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "bridges": inventory.bridges.iter().map(bridge_json).collect::<Vec<_>>(),
        "drives": inventory.drives.iter().map(drive_json).collect::<Vec<_>>(),
        "devices": h.devices.iter().map(device).collect::<Vec<_>>(),
        "paths": super::topology::paths_json(h),
    })
}

fn maintenance_json(m: &Maintenance) -> Value {
    json!({ "by": m.by, "reason": m.reason, "since": time_json(m.since.as_ref()) })
}

fn inventory_json(i: &Inventory) -> Value {
    json!({
        "cpus": i.cpus,
        "numa_nodes": i.numa_nodes,
        "memory_mib": i.memory_mib,
        "iommu": i.iommu,
        "kernel": i.kernel,
        "product": i.product,
        "firmware": i.firmware,
        "nodes": i.nodes.iter().map(node_json).collect::<Vec<_>>(),
        "bridges": i.bridges.iter().map(bridge_json).collect::<Vec<_>>(),
        "drives": i.drives.iter().map(drive_json).collect::<Vec<_>>(),
        "volumes_gib": i.volumes_gib,
    })
}

fn node_json(n: &NumaNode) -> Value {
    json!({
        "id": n.id,
        "cores": n.cores.iter().map(|core| json!(core.cpus)).collect::<Vec<_>>(),
        "memory_mib": n.memory_mib,
        "huge_pages": n.huge_pages.iter().map(|p| json!({
            "size_kib": p.size_kib,
            "total": p.total,
            "free": p.free,
        })).collect::<Vec<_>>(),
        "distances": n.distances,
    })
}

fn bridge_json(b: &PciBridge) -> Value {
    let kind = match b.kind() {
        BridgeKind::RootPort => "root_port",
        BridgeKind::Upstream => "upstream",
        BridgeKind::Downstream => "downstream",
        BridgeKind::Conventional => "conventional",
        BridgeKind::Unspecified => "unknown",
    };
    json!({
        "address": b.address,
        "id": b.id,
        "kind": kind,
        "parent": b.parent,
        "root": b.root,
        "numa_node": b.numa_node,
        "iommu_group": b.iommu_group,
        "link": b.link.as_ref().map(link_json),
        "acs": b.acs.map(|a| json!({
            "source_validation": a.source_validation,
            "request_redirect": a.request_redirect,
            "completion_redirect": a.completion_redirect,
            "upstream_forwarding": a.upstream_forwarding,
            "capability": a.capability,
            "control": a.control,
        })),
    })
}

fn drive_json(d: &Drive) -> Value {
    json!({
        "name": d.name,
        "address": d.address,
        "parent": d.parent,
        "model": d.model,
        "bytes": d.bytes,
        "numa_node": d.numa_node,
        "rotational": d.rotational,
        "discard_max_bytes": d.discard_max_bytes,
    })
}

fn link_json(l: &Link) -> Value {
    json!({ "speed": l.speed, "width": l.width, "max_speed": l.max_speed, "max_width": l.max_width })
}

fn health_json(h: &Health) -> Value {
    json!({
        "state": health_word(Some(h)),
        "source": h.source,
        "reason": h.reason,
        "ecc_corrected": h.ecc_corrected,
        "ecc_uncorrected": h.ecc_uncorrected,
        "retired_pages": h.retired_pages,
        "xids": h.xids,
        "links_up": h.links_up,
        "links": h.links,
        "temperature_c": h.temperature_c,
        "at": time_json(h.at.as_ref()),
    })
}

fn pci_json(p: &PciDevice) -> Value {
    json!({
        "address": p.address,
        "kind": kind_word(p),
        "id": p.id,
        "numa_node": p.numa_node,
        "iommu_group": p.iommu_group,
        "physical_id": p.physical_id,
        "driver": p.driver,
        "reset_methods": p.reset_methods,
        "memory_bytes": p.memory_bytes,
        "problem": p.problem,
        "parent": p.parent,
        "link": p.link.as_ref().map(link_json),
        "health": health_json(&p.health.clone().unwrap_or_default()),
        "firmware": p.firmware,
    })
}

fn evidence_json(e: &Evidence) -> Value {
    json!({
        "run_id": e.run_id,
        "address": e.address,
        "cleaned": e.cleaned,
        "method": e.method,
        "pattern": e.pattern,
        "bytes_total": e.bytes_total,
        "bytes_written": e.bytes_written,
        "bytes_verified": e.bytes_verified,
        "bytes_unreached": e.bytes_unreached,
        "bytes_dirty_before": e.bytes_dirty_before,
        "took_ms": e.took_ms,
        "tool": e.tool,
        "detail": e.detail,
    })
}
