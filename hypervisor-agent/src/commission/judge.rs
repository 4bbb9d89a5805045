//! What is demanded of each point of the list. Pure: the same facts are always judged alike.

use super::facts::{Core, Facts};
use crate::config::Version;
use holm_proto::v1;
use std::collections::BTreeMap;

/// The least that a configuration may demand. `reset_method` is older, the last holes that let a guest out are not.
pub const LEAST_KERNEL: Version = Version { major: 6, minor: 1 };
/// Below it the XML that the agent writes is not understood.
pub const LEAST_QEMU: Version = Version { major: 10, minor: 0 };
/// Addresses that are named before the rest is only counted.
const NAMED: usize = 3;
/// Bridges one above the other: PCI Express knows no more buses.
const MAX_DEPTH: usize = 256;
/// Source validation, request redirect, completion redirect, upstream forwarding: what keeps peers apart.
const APART: u32 = 0x1d;
const SOURCE_VALIDATION: u32 = 0x01;
/// Drivers that hand a device on and do not use it.
const PASSIVE: [&str; 3] = ["", "vfio-pci", "pci-stub"];
/// Programs that a core dump may be piped to because they throw it away.
const NOWHERE: [&str; 4] = ["|/bin/false", "|/usr/bin/false", "|/bin/true", "|/usr/bin/true"];

/// What to do where libvirt does not answer. Distributions run it as one daemon, or as one for each driver.
const LIBVIRT_AWAY: &str = "start libvirt: `systemctl enable --now libvirtd`, or `virtqemud.socket` where it has a \
    daemon for each driver; then `virsh -c qemu:///system version` must answer";

/// What came of one point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// How it is.
    pub verdict: v1::Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where it passes.
    pub mend: &'static str,
    /// The host's configuration makes it a must, whatever the list says.
    pub demanded: bool,
}

/// Found so, or otherwise, or not to be found out.
type Outcome = Result<Finding, String>;

enum Finding {
    Pass(String),
    Fail(String),
}

use Finding::{Fail, Pass};

/// Judges one point of the list. One that nobody knows how to judge is unknown.
pub fn judge(id: &str, facts: &Facts) -> Judgement {
    let (outcome, mend) = match id {
        "iommu-on" => {
            (iommu(facts), "switch VT-d or AMD-Vi on in the firmware, boot with `intel_iommu=on iommu=nopt`")
        }
        "interrupt-remapping" => (
            remapping(facts),
            "switch interrupt remapping (and x2APIC) on in the firmware; no `nointremap`, `intremap=off` or \
             `noapic` on the kernel's command line",
        ),
        "unsafe-interrupts-off" => (
            unsafe_interrupts(facts),
            "load vfio_iommu_type1, and take `allow_unsafe_interrupts` out of /etc/modprobe.d and the kernel's \
             command line",
        ),
        "no-acs-override" => (
            acs_override(facts),
            "take it off the kernel's command line: it makes groups look separate that are not",
        ),
        "acs-effective" => (
            acs(facts),
            "switch ACS on in the firmware and the IOMMU in the kernel; a port that has none keeps no two tenants \
             apart: move the device, or do not hand it out",
        ),
        "gpu-isolated" => (
            isolated(facts),
            "switch ACS on in the firmware; move the other device to another slot, or do not hand the GPU out",
        ),
        "reset-method" => (
            reset(facts),
            "`echo bus >/sys/bus/pci/devices/ADDRESS/reset_method`; where the kernel refuses it, the GPU cannot be \
             cleaned and is not to be handed out",
        ),
        "gpu-driver" => (
            driver(facts),
            "stop what uses it (nvidia-persistenced, DCGM), `modprobe -r` its driver, and keep it away with \
             `options vfio-pci ids=…` and `softdep nvidia pre: vfio-pci` in /etc/modprobe.d",
        ),
        "kernel-version" => (kernel(facts), "install a newer kernel and boot it"),
        "qemu-version" => {
            let mend = if facts.qemu.is_err() { LIBVIRT_AWAY } else { "install a newer QEMU" };
            (qemu(facts), mend)
        }
        "ksm-off" => (ksm(facts), "`systemctl disable --now ksm ksmtuned`, `echo 2 >/sys/kernel/mm/ksm/run`"),
        "swap-off" => (
            swap(facts),
            "`swapoff -a` and take it out of /etc/fstab, or put it on dm-crypt with a key of each boot",
        ),
        "core-dumps-off" => (
            core_dumps(facts),
            "`kernel.core_pattern=|/bin/false` in /etc/sysctl.d, or a plain file name there and `max_core = 0` in \
             /etc/libvirt/qemu.conf",
        ),
        "hugepages" => (
            huge_pages(facts),
            "reserve them at boot: `hugepagesz=1G hugepages=NODE:COUNT,NODE:COUNT` on the kernel's command line",
        ),
        "clock-synchronised" => {
            (clock(facts), "run chrony or systemd-timesyncd against the site's time servers")
        }
        "fabric-table" => (
            fabric(facts),
            "run Fabric Manager in shared mode (`FABRIC_MODE=1`) and tell the agent of it; where its partitions are \
             others, the machine is no DGX-2",
        ),
        _ => (Err("this agent does not know how to judge it".to_owned()), "install a newer agent"),
    };
    let (verdict, found) = match outcome {
        Ok(Pass(found)) => (v1::Verdict::Pass, found),
        Ok(Fail(found)) => (v1::Verdict::Fail, found),
        Err(why) => (v1::Verdict::Unknown, why),
    };
    let demanded = match id {
        "hugepages" => facts.wants.hugepages_mib_per_node.is_some(),
        "fabric-table" => facts.fabric.is_some() || !driven_switches(facts).is_empty(),
        _ => false,
    };
    let mend = if verdict == v1::Verdict::Pass { "" } else { mend };
    Judgement { verdict, found, mend, demanded }
}

/// `good` where nothing is wrong, else what is wrong, with where.
fn all_well(wrong: &[String], what: &str, good: String) -> Finding {
    if wrong.is_empty() { Pass(good) } else { Fail(format!("{what}: {}", listed(wrong))) }
}

fn listed(all: &[String]) -> String {
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn inventory(facts: &Facts) -> Result<&v1::Inventory, String> {
    facts.inventory.as_ref().map_err(Clone::clone)
}

/// A host without GPUs has nothing that could be judged.
fn gpus(facts: &Facts) -> Result<Vec<&v1::PciDevice>, String> {
    let all = &inventory(facts)?.devices;
    let gpus: Vec<_> = all.iter().filter(|device| device.kind() == v1::DeviceKind::Gpu).collect();
    if gpus.is_empty() { Err("there is no GPU: see `gpus` in `[host.devices]`".to_owned()) } else { Ok(gpus) }
}

fn iommu(facts: &Facts) -> Outcome {
    let iommus = facts.iommus.as_ref().map_err(Clone::clone)?;
    let inventory = inventory(facts)?;
    if iommus.is_empty() {
        return Ok(Fail("the kernel uses no IOMMU".to_owned()));
    }
    let devices = &inventory.devices;
    let outside: Vec<String> =
        devices.iter().filter(|d| d.iommu_group.is_none()).map(|d| d.address.clone()).collect();
    let good = format!("{}, {} devices in groups", listed(iommus), devices.len());
    Ok(all_well(&outside, "in no IOMMU group", good))
}

/// The kernel writes `IR-` before the name of a controller whose interrupts are remapped.
fn remapping(facts: &Facts) -> Outcome {
    let text = facts.interrupts.as_ref().map_err(Clone::clone)?;
    let controllers = text.lines().flat_map(str::split_whitespace);
    let (mut remapped, mut plain) = (0_usize, Vec::new());
    for word in controllers {
        if word.starts_with("IR-") {
            remapped += 1;
        } else if word.starts_with("PCI-MSI") || word.starts_with("IO-APIC") {
            plain.push(word.to_owned());
        }
    }
    plain.dedup();
    match remapped {
        0 => Ok(Fail("no interrupt is remapped".to_owned())),
        _ => Ok(all_well(&plain, "not remapped", format!("{remapped} interrupts are remapped"))),
    }
}

fn unsafe_interrupts(facts: &Facts) -> Outcome {
    let modules = facts.unsafe_interrupts.as_ref().map_err(Clone::clone)?;
    if modules.is_empty() {
        return Err("neither vfio_iommu_type1 nor iommufd is loaded".to_owned());
    }
    let on: Vec<String> = modules
        .iter()
        .filter(|(_, value)| value != "N")
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let names: Vec<String> = modules.iter().map(|(name, _)| (*name).to_owned()).collect();
    Ok(all_well(&on, "allow_unsafe_interrupts", format!("off in {}", listed(&names))))
}

fn acs_override(facts: &Facts) -> Outcome {
    let line = facts.cmdline.as_ref().map_err(Clone::clone)?;
    let weakens = |word: &&str| word.contains("acs_override") || word.contains("disable_acs_redir");
    let found: Vec<String> = line.split_whitespace().filter(weakens).map(str::to_owned).collect();
    Ok(all_well(&found, "on the kernel's command line", "none on the kernel's command line".to_owned()))
}

fn acs(facts: &Facts) -> Outcome {
    let inventory = inventory(facts)?;
    if inventory.devices.is_empty() {
        return Err("there is no GPU and no NVSwitch".to_owned());
    }
    let bridges: BTreeMap<&str, &v1::PciBridge> =
        inventory.bridges.iter().map(|bridge| (bridge.address.as_str(), bridge)).collect();
    let mut ports: BTreeMap<&str, bool> = BTreeMap::new();
    for device in &inventory.devices {
        let mut above = device.parent.as_str();
        let mut last = v1::BridgeKind::Unspecified;
        for _ in 0..MAX_DEPTH {
            if above.is_empty() {
                break;
            }
            let bridge = bridges
                .get(above)
                .ok_or_else(|| format!("{above}, above {}, is not in the inventory", device.address))?;
            last = bridge.kind();
            match last {
                v1::BridgeKind::RootPort | v1::BridgeKind::Downstream => {
                    ports.insert(above, keeps_apart(bridge));
                }
                // It has one port below; what it sends up is the downstream ports' matter.
                v1::BridgeKind::Upstream => {}
                v1::BridgeKind::Conventional => drop(ports.insert(above, false)),
                v1::BridgeKind::Unspecified => {
                    return Err(format!("nobody says what kind of bridge {above} is"));
                }
            }
            above = bridge.parent.as_str();
        }
        if last != v1::BridgeKind::RootPort && ports.get(device.parent.as_str()) != Some(&false) {
            return Err(format!("the way from {} to its root port is not known", device.address));
        }
    }
    let open: Vec<String> =
        ports.iter().filter(|(_, apart)| !**apart).map(|(port, _)| (*port).to_owned()).collect();
    Ok(all_well(&open, "not effective in", format!("effective in {} ports", ports.len())))
}

/// A root port need not have what it has no use for; a switch's port has all four or is no barrier.
fn keeps_apart(port: &v1::PciBridge) -> bool {
    let Some(acs) = &port.acs else { return false };
    let needed = match port.kind() {
        v1::BridgeKind::RootPort => (acs.capability & APART) | SOURCE_VALIDATION,
        _ => APART,
    };
    acs.control & needed == needed
}

fn isolated(facts: &Facts) -> Outcome {
    let groups = facts.groups.as_ref().map_err(Clone::clone)?;
    let inventory = inventory(facts)?;
    let gpus = gpus(facts)?;
    if inventory.bridges.is_empty() {
        return Err("the inventory does not say what is a bridge".to_owned());
    }
    let mut shared = Vec::new();
    for gpu in &gpus {
        // That it has none is another point.
        let Some(group) = gpu.iommu_group else { continue };
        let members = groups.get(&group).ok_or_else(|| format!("sysfs has no IOMMU group {group}"))?;
        let stranger = members.iter().find(|member| {
            **member != gpu.address && !inventory.bridges.iter().any(|bridge| bridge.address == **member)
        });
        if let Some(stranger) = stranger {
            shared.push(format!("{} with {stranger}", gpu.address));
        }
    }
    Ok(all_well(&shared, "together in a group", format!("{} GPUs", gpus.len())))
}

fn reset(facts: &Facts) -> Outcome {
    let gpus = gpus(facts)?;
    let without: Vec<String> =
        gpus.iter().filter(|gpu| gpu.reset_methods.is_empty()).map(|gpu| gpu.address.clone()).collect();
    let mut methods: Vec<String> = gpus.iter().map(|gpu| gpu.reset_methods.join(" ")).collect();
    methods.sort();
    methods.dedup();
    Ok(all_well(&without, "no reset_method", listed(&methods)))
}

fn driver(facts: &Facts) -> Outcome {
    let gpus = gpus(facts)?;
    let held = driven(gpus.iter().copied());
    let ours = gpus.iter().filter(|gpu| gpu.driver == "vfio-pci").count();
    Ok(all_well(&held, "held", format!("{ours} of {} GPUs on vfio-pci, the others on no driver", gpus.len())))
}

fn kernel(facts: &Facts) -> Outcome {
    let release = &inventory(facts)?.kernel;
    let version = Version::at_the_head_of(release)
        .ok_or_else(|| format!("`{}` is no version of a kernel", release.escape_debug()))?;
    let least = facts.wants.minimum_kernel.max(LEAST_KERNEL);
    let text = format!("{release}, {least} is the least");
    Ok(if version >= least { Pass(text) } else { Fail(text) })
}

fn qemu(facts: &Facts) -> Outcome {
    let number = *facts.qemu.as_ref().map_err(Clone::clone)?;
    let version = Version { major: number / 1_000_000, minor: number / 1000 % 1000 };
    let least = facts.wants.minimum_qemu.max(LEAST_QEMU);
    let text = format!("{version}.{}, {least} is the least", number % 1000);
    Ok(if version >= least { Pass(text) } else { Fail(text) })
}

/// To stop it leaves what it has merged; only to undo it takes that apart.
fn ksm(facts: &Facts) -> Outcome {
    Ok(match facts.ksm.as_ref().map_err(Clone::clone)? {
        None => Pass("the kernel has no KSM".to_owned()),
        Some((1, _)) => Fail("KSM runs".to_owned()),
        Some((_, 0)) => Pass("KSM is off".to_owned()),
        Some((_, shared)) => Fail(format!("KSM is off and {shared} pages are still shared")),
    })
}

fn swap(facts: &Facts) -> Outcome {
    let swaps = facts.swaps.as_ref().map_err(Clone::clone)?;
    let plain: Vec<String> =
        swaps.iter().filter(|swap| !swap.encrypted).map(|swap| swap.path.clone()).collect();
    let good = if swaps.is_empty() { "no swap".to_owned() } else { format!("{} encrypted", swaps.len()) };
    Ok(all_well(&plain, "not encrypted, or not known to be", good))
}

fn core_dumps(facts: &Facts) -> Outcome {
    let core = facts.core.as_ref().map_err(Clone::clone)?;
    if NOWHERE.contains(&core.pattern.as_str()) {
        return Ok(Pass(format!("core_pattern is {}", core.pattern)));
    }
    if core.pattern.is_empty() && !core.uses_pid {
        return Ok(Pass("core_pattern is empty".to_owned()));
    }
    if core.pattern.starts_with('|') {
        // No limit of a process's holds back what is piped.
        return Ok(Fail(format!("core dumps go to `{}`", core.pattern.trim_start_matches('|'))));
    }
    limited(core)
}

/// A core that goes to a file is as long as the process's limit lets it be. Where `qemu.conf` does not say
/// otherwise libvirt starts each machine without one, whatever its own is: what runs today proves nothing.
fn limited(core: &Core) -> Outcome {
    let open: Vec<String> = core
        .limits
        .iter()
        .filter(|(_, limit)| limit != "0")
        .map(|(name, limit)| format!("{name} {limit}"))
        .collect();
    if !open.is_empty() {
        return Ok(Fail(format!("may leave a core: {}", open.join(", "))));
    }
    Ok(match core.max_core.as_deref() {
        Some("0") => Pass("libvirt and QEMU may leave none".to_owned()),
        Some(most) => Fail(format!("qemu.conf sets `max_core = {most}`")),
        None => Fail(
            "qemu.conf does not set `max_core`, and libvirt then lets each machine leave a core".to_owned(),
        ),
    })
}

fn huge_pages(facts: &Facts) -> Outcome {
    let nodes = facts.huge_pages.as_ref().map_err(Clone::clone)?;
    let demand = facts.wants.hugepages_mib_per_node;
    if nodes.is_empty() {
        return Err("sysfs lists no NUMA nodes".to_owned());
    }
    let least = demand.unwrap_or(1);
    let short: Vec<String> = nodes
        .iter()
        .filter(|(_, mib)| **mib < least)
        .map(|(node, mib)| format!("node {node} has {mib} MiB"))
        .collect();
    let all: Vec<String> = nodes.iter().map(|(node, mib)| format!("node {node} has {mib} MiB")).collect();
    let what = demand.map_or_else(
        || "none reserved, machines start more slowly".to_owned(),
        |demand| format!("less than {demand} MiB"),
    );
    Ok(all_well(&short, &what, listed(&all)))
}

fn clock(facts: &Facts) -> Outcome {
    let (keeper, right) = facts.clock.as_ref().map_err(Clone::clone)?;
    Ok(if *right {
        Pass(format!("by {keeper}"))
    } else {
        Fail(format!("{keeper} runs and is not synchronised"))
    })
}

fn fabric(facts: &Facts) -> Outcome {
    match &facts.fabric {
        None => Ok(Fail(match driven_switches(facts).as_slice() {
            [] => "no fabric is configured: NVLink partitions are not driven".to_owned(),
            // Whoever drives it may have joined all GPUs into one.
            held => format!("no fabric is configured, and something drives NVSwitches: {}", listed(held)),
        })),
        Some(Err(why)) => Err(why.clone()),
        Some(Ok(differences)) => {
            Ok(all_well(differences, "it differs", "Fabric Manager has the platform's partitions".to_owned()))
        }
    }
}

/// NVSwitches that a driver of the host's has.
fn driven_switches(facts: &Facts) -> Vec<String> {
    let devices = inventory(facts).map(|inventory| inventory.devices.as_slice()).unwrap_or_default();
    driven(devices.iter().filter(|device| device.kind() == v1::DeviceKind::Nvswitch))
}

/// Those that a driver other than vfio-pci has, and which.
fn driven<'a>(devices: impl Iterator<Item = &'a v1::PciDevice>) -> Vec<String> {
    devices
        .filter(|device| !PASSIVE.contains(&device.driver.as_str()))
        .map(|device| format!("{} by {}", device.address, device.driver))
        .collect()
}
