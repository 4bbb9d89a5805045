//! What libvirt is told: a slice's machine and the secret that opens its disk, as types that can say
//! nothing else.
//!
//! Absent on purpose: network interfaces, consoles, graphics, USB, a memory balloon. A slice is reached over
//! vsock and speaks over one virtio-serial port. No page of it is merged with a neighbour's, and none of its
//! process, which holds the disk's key, is ever swapped out.

use super::{
    elements::*,
    layout::{Layout, OWN_PORTS, Port, PortKind},
};
use crate::{
    config::{GuestConfig, ImageFormat},
    edge::{DomainSpec, VolumeKind},
    storage,
};
use holm_proto::ids::{PciAddress, SliceId, VolumeId};
use serde::Serialize;
use std::path::Path;
use zeroize::Zeroizing;

/// The port on which the guest speaks.
pub const CHANNEL: &str = "org.holm.guest.0";

/// What of the machine is not in the [`DomainSpec`].
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Command line and processor.
    pub guest: &'a GuestConfig,
    /// Container images that all slices read; `None`: there are none.
    pub library: Option<&'a Path>,
    /// What the kernel is told.
    pub cmdline: &'a str,
    /// The kernel, the slice's own copy.
    pub kernel: &'a Path,
    /// Its first root file system, the slice's own copy.
    pub initrd: &'a Path,
    /// The encrypted volumes, open, the root volume among them.
    pub volumes: &'a [Opened],
    /// What the guest discards is given back.
    pub discard: bool,
    /// The base image below it.
    pub base: &'a Path,
    /// How that is written.
    pub base_format: ImageFormat,
    /// The first-boot seed.
    pub seed: &'a Path,
    /// The socket of the guest's port.
    pub channel: &'a Path,
}

/// An encrypted volume that is open.
#[derive(Debug)]
pub struct Opened {
    /// Which.
    pub volume: VolumeId,
    /// What for.
    pub kind: VolumeKind,
    /// How the machine gets at it.
    pub disk: storage::Disk,
    /// With what, where the machine's process opens it.
    pub passphrase: Option<Zeroizing<String>>,
}

impl Opened {
    /// Where it is in the machine: its name, the bus, and the serial number by which the guest knows it.
    fn place(&self) -> (&'static str, Bus, Option<&'static str>) {
        let (bus, serial) = match self.kind {
            VolumeKind::Root => (Bus(1), None),
            VolumeKind::Data => (Bus(5), Some(DATA_SERIAL)),
            VolumeKind::Scratch => (Bus(6), Some(SCRATCH_SERIAL)),
        };
        (target(self.kind), bus, serial)
    }
}

/// What a machine's disk is called there, and in libvirt.
pub fn target(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Root => "vda",
        VolumeKind::Data => "vdc",
        VolumeKind::Scratch => "vdd",
    }
}

/// The serial number of a data volume in its machine.
pub const DATA_SERIAL: &str = "data";
/// The serial number of the disk with the site's container images.
const LIBRARY_SERIAL: &str = "library";
/// The serial number of a scratch volume in its machine.
pub const SCRATCH_SERIAL: &str = "scratch";

/// The name of a slice's domain.
pub fn domain_name(slice: SliceId) -> String {
    format!("holm-{slice}")
}

/// The slice whose domain has this name.
pub fn slice_of(name: &str) -> Option<SliceId> {
    name.strip_prefix("holm-")?.parse().ok().filter(|slice| domain_name(*slice) == name)
}

/// A slice's machine.
///
/// Every virtio device sits behind a root port of its own, the same in each machine; the GPUs sit where the
/// layout says.
pub fn domain(spec: &DomainSpec, layout: &Layout, parts: &Parts<'_>) -> Result<String, quick_xml::SeError> {
    let (seed, serial, rng, vsock, library) = (Bus(2), Bus(3), Bus(4), Bus(7), Bus(OWN_PORTS));
    let mut disks: Vec<Disk> = parts.volumes.iter().map(|opened| volume(opened, layout, parts)).collect();
    disks.push(Disk {
        kind: "file",
        device: "disk",
        driver: Driver { name: "qemu", format: "raw", ..Driver::default() },
        source: file(parts.seed),
        backing: None,
        target: Target { dev: "vdb", bus: "virtio" },
        readonly: Some(Empty {}),
        serial: None,
        address: seed.address(),
    });
    disks.extend(parts.library.map(|path| Disk {
        kind: "file",
        device: "disk",
        driver: Driver { name: "qemu", format: "raw", ..Driver::default() },
        // Of all slices, and only read.
        source: Source { seclabel: Some(Seclabel { model: "dac", relabel: "no" }), ..file(path) },
        backing: None,
        target: Target { dev: "vde", bus: "virtio" },
        readonly: Some(Empty {}),
        serial: Some(LIBRARY_SERIAL),
        address: library.address(),
    }));
    disks.sort_by_key(|disk| disk.target.dev);
    let domain = Domain {
        kind: "kvm",
        name: domain_name(spec.slice),
        uuid: spec.slice.to_string(),
        title: printable(&spec.level_name),
        // What a tenant has in memory never reaches a disk of the host's, not even with a QEMU that crashes.
        memory: Memory { unit: "MiB", dump_core: "off", amount: spec.memory_mib },
        backing: backing(layout),
        vcpu: Vcpu { placement: "static", count: spec.vcpus },
        iothreads: layout.io_thread.then_some(1),
        cputune: cputune(layout),
        numatune: numatune(layout),
        os: Os {
            kind: OsType { arch: "x86_64", machine: "q35", kind: "hvm" },
            kernel: text(parts.kernel),
            initrd: text(parts.initrd),
            cmdline: parts.cmdline.to_owned(),
        },
        features: Features { acpi: Empty {}, apic: Empty {} },
        cpu: cpu(&parts.guest.cpu, Some(layout)),
        clock: Clock { offset: "utc" },
        on_poweroff: "destroy",
        on_reboot: "restart",
        on_crash: "destroy",
        devices: Devices {
            disk: disks,
            controller: controllers(serial, layout),
            channel: Channel {
                kind: "unix",
                source: ChannelSource { mode: "bind", path: text(parts.channel) },
                target: ChannelTarget { kind: "virtio", name: CHANNEL },
            },
            tpm: Tpm { model: "tpm-crb", backend: TpmBackend { kind: "emulator", version: "2.0" } },
            hostdev: layout.devices.iter().map(|(port, gpu)| hostdev(Bus(*port), *gpu)).collect(),
            memballoon: Model { model: "none" },
            rng: Rng {
                model: "virtio",
                backend: RngBackend { model: "random", source: "/dev/urandom" },
                address: rng.address(),
            },
            vsock: Vsock { model: "virtio", cid: Cid { auto: "yes" }, address: vsock.address() },
        },
    };
    write(&domain)
}

/// A volume; the root volume is a slice's own layer over the base image.
fn volume(opened: &Opened, layout: &Layout, parts: &Parts<'_>) -> Disk {
    let (dev, bus, serial) = opened.place();
    let is_block = matches!(opened.disk, storage::Disk::Block(_));
    let (kind, source) = match &opened.disk {
        storage::Disk::File(path) => {
            let secret = SecretRef { kind: "passphrase", uuid: secret_uuid(opened.volume) };
            ("file", Source { encryption: Some(Encryption { format: "luks", secret }), ..file(path) })
        }
        // The kernel encrypts what is written there: no secret.
        storage::Disk::Block(path) => {
            ("block", Source { file: None, dev: Some(text(path)), seclabel: None, encryption: None })
        }
    };
    Disk {
        kind,
        device: "disk",
        driver: Driver {
            name: "qemu",
            format: "qcow2",
            // Above dm-crypt the host's page cache would hold what tenants write, and keep it after they are gone.
            cache: is_block.then_some("none"),
            io: is_block.then_some("native"),
            iothread: layout.io_thread.then_some(1),
            discard: parts.discard.then_some("unmap"),
            // Without room the machine stands still, and writes again what it could not write when it is let go on:
            // its file systems hear of nothing. An error that no room mends is the guest's own affair, as it would be
            // on a machine of its own.
            error_policy: Some("enospace"),
            rerror_policy: Some("report"),
        },
        source,
        // Nothing that a disk says of itself is believed: what lies below it is said here.
        backing: Some(match opened.kind {
            VolumeKind::Data | VolumeKind::Scratch => Backing::default(),
            VolumeKind::Root => Backing {
                kind: Some("file"),
                format: Some(Format { kind: parts.base_format.as_str() }),
                // Shared by all and read only: libvirt must not make it one machine's own.
                source: Some(Source {
                    seclabel: Some(Seclabel { model: "dac", relabel: "no" }),
                    ..file(parts.base)
                }),
                end: Some(Empty {}),
            },
        }),
        target: Target { dev, bus: "virtio" },
        readonly: None,
        serial,
        address: bus.address(),
    }
}

fn file(path: &Path) -> Source {
    Source { file: Some(text(path)), dev: None, seclabel: None, encryption: None }
}

/// The secret that opens a volume: kept in libvirt's memory only, and never given out again.
pub fn secret(volume: VolumeId, path: &Path) -> Result<String, quick_xml::SeError> {
    write(&Secret {
        ephemeral: "yes",
        private: "yes",
        uuid: secret_uuid(volume),
        description: "holm",
        usage: Usage { kind: "volume", volume: text(path) },
    })
}

/// The id of a volume's secret. It is the volume's own: each has at most one.
pub fn secret_uuid(volume: VolumeId) -> String {
    volume.to_string()
}

fn backing(layout: &Layout) -> MemoryBacking {
    let hugepages = layout.page_mib.map(|size| {
        let cells = u32::try_from(layout.cells.len()).unwrap_or(u32::MAX);
        let nodeset = (cells > 0).then(|| set(0..cells));
        Hugepages { page: Page { size, unit: "MiB", nodeset } }
    });
    MemoryBacking {
        // Of memory that has no name in a file system: nothing to mount, and nothing that outlives the process.
        source: hugepages.is_some().then_some(MemorySource { kind: "memfd" }),
        hugepages,
        nosharepages: Empty {},
        locked: Empty {},
        // Filled by many at once before it runs; VFIO would fill it one page after the other to pin it.
        allocation: Allocation { mode: "immediate", threads: layout.fillers },
    }
}

fn cputune(layout: &Layout) -> Option<CpuTune> {
    let vcpupin: Vec<VcpuPin> = (0..)
        .zip(&layout.pins)
        .map(|(vcpu, cpu)| VcpuPin { vcpu, cpuset: set(cpu.iter().copied()) })
        .collect();
    let others = (!layout.emulator.is_empty()).then(|| set(layout.emulator.iter().copied()))?;
    Some(CpuTune {
        vcpupin,
        iothreadpin: layout.io_thread.then(|| IothreadPin { iothread: 1, cpuset: others.clone() }),
        emulatorpin: Some(EmulatorPin { cpuset: others }),
    })
}

fn numatune(layout: &Layout) -> Option<NumaTune> {
    let mut nodes: Vec<u32> = layout.cells.iter().map(|cell| cell.node).collect();
    nodes.sort_unstable();
    let memnode = |(cell, of): (u32, &super::layout::Cell)| MemNode {
        cell,
        mode: "strict",
        nodeset: of.node.to_string(),
    };
    (!nodes.is_empty()).then(|| NumaTune {
        memory: TuneMemory { mode: "strict", nodeset: set(nodes) },
        memnode: (0..).zip(&layout.cells).map(memnode).collect(),
    })
}

fn controllers(serial: Bus, layout: &Layout) -> Vec<Controller> {
    let plain =
        |kind, index, model| Controller { kind, index, model, target: None, window: None, address: None };
    let mut all = vec![
        plain("usb", 0, Some("none")),
        Controller { address: Some(serial.address()), ..plain("virtio-serial", 0, None) },
        Controller {
            window: Some(Window { unit: "GiB", size: layout.window_gib }),
            ..plain("pci", 0, Some("pcie-root"))
        },
    ];
    let own = (1..=OWN_PORTS).map(|index| Port { index, kind: PortKind::Root, at: None });
    all.extend(own.chain(layout.ports.iter().cloned()).map(|port| {
        // Nothing is plugged in later, so the firmware need not keep room for it.
        let fixed = Some(PortTarget { hotplug: Some("off"), ..PortTarget::default() });
        let (model, target) = match port.kind {
            PortKind::Expander { bus, cell } => (
                "pcie-expander-bus",
                Some(PortTarget { bus: Some(bus), node: cell, ..PortTarget::default() }),
            ),
            PortKind::Root => ("pcie-root-port", fixed),
            PortKind::Upstream => ("pcie-switch-upstream-port", None),
            PortKind::Downstream => ("pcie-switch-downstream-port", fixed),
        };
        let address = port.at.map(|(above, slot)| Bus(above).slot(slot));
        Controller { target, address, ..plain("pci", port.index, Some(model)) }
    }));
    all
}

pub(super) fn hostdev(bus: Bus, gpu: PciAddress) -> Hostdev {
    Hostdev {
        mode: "subsystem",
        kind: "pci",
        // Binding to vfio-pci is the agent's own step; libvirt must neither bind nor give back.
        managed: "no",
        source: HostdevSource {
            address: HostAddress {
                domain: format!("{:#06x}", gpu.domain),
                bus: format!("{:#04x}", gpu.bus),
                slot: format!("{:#04x}", gpu.device),
                function: format!("{:#x}", gpu.function),
            },
        },
        // The guest's driver needs no option ROM, and what is not run cannot have been tampered with.
        rom: Rom { bar: "off" },
        address: bus.address(),
    }
}

/// Without a layout: a machine that may run anywhere.
pub(super) fn cpu(name: &str, layout: Option<&Layout>) -> Cpu {
    let topology = layout.and_then(|layout| layout.topology).map(|[sockets, cores, threads]| Topology {
        sockets,
        dies: 1,
        cores,
        threads,
    });
    let distances = |to: &[u32]| Distances {
        sibling: (0..).zip(to).map(|(id, value)| Sibling { id, value: *value }).collect(),
    };
    let cell = |(id, cell): (u32, &super::layout::Cell)| NumaCell {
        id,
        cpus: (!cell.cpus.is_empty()).then(|| set(cell.cpus.clone())),
        memory: cell.memory_mib,
        unit: "MiB",
        distances: (cell.distances.len() > 1).then(|| distances(&cell.distances)),
    };
    let cells: Vec<NumaCell> = (0..).zip(layout.map_or(&[][..], |layout| &layout.cells)).map(cell).collect();
    let numa = (!cells.is_empty()).then_some(Numa { cell: cells });
    if name == "host-passthrough" {
        Cpu {
            mode: "host-passthrough",
            matching: None,
            check: "none",
            migratable: Some("off"),
            model: None,
            // Which processors share a cache is true in the guest only where they are pinned.
            cache: topology.is_some().then_some(Cache { mode: "passthrough" }),
            topology,
            numa,
        }
    } else {
        Cpu {
            mode: "custom",
            matching: Some("exact"),
            check: "none",
            migratable: None,
            model: Some(CpuModel { fallback: "forbid", name: name.to_owned() }),
            cache: None,
            topology,
            numa,
        }
    }
}

/// Numbers as libvirt writes a set of them: `0-3,8`.
fn set(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): (u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}

pub(super) fn write(document: &impl Serialize) -> Result<String, quick_xml::SeError> {
    let mut text = String::new();
    let mut writer = quick_xml::se::Serializer::new(&mut text);
    writer.indent(' ', 2);
    document.serialize(writer)?;
    text.push('\n');
    Ok(text)
}

/// A title is one line, and XML has no control characters.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}')).take(64).collect()
}

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The number of a root port, and of the bus behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bus(pub(super) u32);

impl Bus {
    fn address(self) -> GuestAddress {
        self.slot(0)
    }

    fn slot(self, slot: u32) -> GuestAddress {
        GuestAddress {
            kind: "pci",
            domain: "0x0000",
            bus: format!("{:#04x}", self.0),
            slot: format!("{slot:#04x}"),
            function: "0x0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::layout::{self, fixture::*},
        *,
    };
    use crate::{config::MachinesConfig, edge::OtherVolume};
    use proptest::prelude::*;

    fn guest(cpu: &str) -> GuestConfig {
        GuestConfig {
            kernel: "/usr/lib/holm/guest/vmlinuz".into(),
            initrd: "/usr/lib/holm/guest/initrd.img".into(),
            cmdline: "root=/dev/vda ro quiet".to_owned(),
            cpu: cpu.to_owned(),
            images: "/var/lib/holm/images".into(),
            library: None,
        }
    }

    const ALL: [VolumeKind; 3] = [VolumeKind::Root, VolumeKind::Data, VolumeKind::Scratch];

    fn written(spec: &DomainSpec, cpu: &str) -> String {
        let file = |volume| storage::Disk::File(format!("/var/lib/holm/volumes/{volume}").into());
        written_on(spec, cpu, file, false)
    }

    fn written_on(
        spec: &DomainSpec,
        cpu: &str,
        disk: impl Fn(VolumeId) -> storage::Disk,
        discard: bool,
    ) -> String {
        let other = |kind| spec.others.iter().find(|other| other.kind == kind).map(|other| other.volume);
        let opened = ALL.into_iter().filter_map(|kind| {
            let volume = if kind == VolumeKind::Root { Some(spec.volume) } else { other(kind) }?;
            Some(Opened { volume, kind, disk: disk(volume), passphrase: None })
        });
        let volumes: Vec<Opened> = opened.collect();
        let config = if spec.nodes.is_empty() { MachinesConfig::default() } else { machines() };
        let layout = layout::plan(spec, &dgx2(&spec.devices), &config).unwrap();
        let parts = Parts {
            guest: &guest(cpu),
            cmdline: "root=/dev/vda ro quiet",
            library: discard.then_some(Path::new("/var/lib/holm/library.img")),
            kernel: Path::new("/var/lib/holm/slices/0190163d-8694-739b-aea5-966c26f8ad91/vmlinuz"),
            initrd: Path::new("/var/lib/holm/slices/0190163d-8694-739b-aea5-966c26f8ad91/initrd.img"),
            volumes: &volumes,
            discard,
            base: Path::new("/usr/lib/holm/guest/base.raw"),
            base_format: ImageFormat::Raw,
            seed: Path::new("/var/lib/holm/slices/0190163d-8694-739b-aea5-966c26f8ad91/seed.img"),
            channel: Path::new("/run/holm/guest/0190163d-8694-739b-aea5-966c26f8ad91.sock"),
        };
        domain(spec, &layout, &parts).unwrap()
    }

    fn others() -> Vec<OtherVolume> {
        let other =
            |id: &str, kind| OtherVolume { volume: id.parse().unwrap(), kind, size_gib: 1, used: false };
        vec![
            other("6f9619ff-8b86-4d01-b42d-00cf4fc964f2", VolumeKind::Scratch),
            other("6f9619ff-8b86-4d01-b42d-00cf4fc964f1", VolumeKind::Data),
        ]
    }

    fn golden(name: &str, text: &str) {
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }

    #[test]
    fn golden_files() {
        // Numbers of the fabric, of the partitions that a DGX-2 has.
        for (name, gpus) in [
            ("1-gpu", vec![1]),
            ("2-gpus", vec![1, 4]),
            ("4-gpus", vec![1, 4, 6, 7]),
            ("8-gpus", vec![1, 4, 6, 7, 9, 12, 14, 15]),
            ("16-gpus", (1..=16).collect()),
        ] {
            golden(name, &written(&spec(&gpus), "host-passthrough"));
        }
        golden("anywhere", &written(&DomainSpec { nodes: Vec::new(), ..spec(&[1]) }, "qemu64"));
        let device = |volume| storage::Disk::Block(format!("/dev/mapper/holm-{volume}").into());
        let all = DomainSpec { others: others(), ..spec(&[1]) };
        golden("block-devices", &written_on(&all, "host-passthrough", device, true));
        golden("files", &written(&all, "host-passthrough"));
        let volume: VolumeId = spec(&[1]).volume;
        golden("secret", &secret(volume, Path::new("/var/lib/holm/volumes/6f9619ff")).unwrap());
    }

    #[test]
    fn names_of_domains() {
        let slice = spec(&[1]).slice;
        assert_eq!(slice_of(&domain_name(slice)), Some(slice));
        for name in
            ["", "holm-", "holm-x", "web", "holm-0190163D-8694-739B-AEA5-966C26F8AD91", &slice.to_string()]
        {
            assert_eq!(slice_of(name), None, "{name}");
        }
    }

    #[test]
    fn sets_of_numbers() {
        for (numbers, text) in [
            (&[][..], ""),
            (&[3], "3"),
            (&[0, 1, 2, 3, 8], "0-3,8"),
            (&[1, 3, 5], "1,3,5"),
            (&[u32::MAX], "4294967295"),
        ] {
            assert_eq!(set(numbers.iter().copied()), text);
        }
    }

    proptest! {
        #[test]
        fn a_level_name_stays_a_title(name in any::<String>()) {
            let spec = DomainSpec { level_name: name, ..spec(&[1]) };
            let text = written(&spec, "qemu64");
            #[derive(serde::Deserialize)]
            struct Read { title: String, vcpu: String }
            let read: Read = quick_xml::de::from_str(&text).unwrap();
            let shown = printable(&spec.level_name);
            prop_assert_eq!(read.title.trim(), shown.trim());
            prop_assert_eq!(read.vcpu, "6");
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
