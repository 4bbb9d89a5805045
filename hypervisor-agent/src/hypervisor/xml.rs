//! What libvirt is told: a slice's machine and the secret that opens its disk, as types that can say
//! nothing else.
//!
//! Absent on purpose: network interfaces, consoles, graphics, USB, a memory balloon. A slice is reached over
//! vsock and speaks over one virtio-serial port.

use super::elements::*;
use crate::{
    config::{GuestConfig, ImageFormat},
    edge::DomainSpec,
};
use holm_proto::ids::{PciAddress, SliceId, VolumeId};
use serde::Serialize;
use std::path::Path;

/// The port on which the guest speaks.
pub const CHANNEL: &str = "org.holm.guest.0";

/// What of the machine is not in the [`DomainSpec`].
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Command line and processor.
    pub guest: &'a GuestConfig,
    /// The kernel, the slice's own copy.
    pub kernel: &'a Path,
    /// Its first root file system, the slice's own copy.
    pub initrd: &'a Path,
    /// The encrypted volume's file.
    pub volume: &'a Path,
    /// The base image below it.
    pub base: &'a Path,
    /// How that is written.
    pub base_format: ImageFormat,
    /// The first-boot seed.
    pub seed: &'a Path,
    /// The socket of the guest's port.
    pub channel: &'a Path,
}

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
/// Every device sits behind a root port of its own, at a place that depends on nothing but its number:
/// virtio first, then the GPUs in the order of the spec.
pub fn domain(spec: &DomainSpec, parts: &Parts<'_>) -> Result<String, quick_xml::SeError> {
    let (disk, seed, serial, rng, vsock) = (Bus(1), Bus(2), Bus(3), Bus(4), Bus(5));
    let gpus: Vec<(Bus, PciAddress)> = (6..).map(Bus).zip(spec.devices.iter().copied()).collect();
    let last = gpus.last().map_or(vsock, |(bus, _)| *bus);
    let domain = Domain {
        kind: "kvm",
        name: domain_name(spec.slice),
        uuid: spec.slice.to_string(),
        title: printable(&spec.level_name),
        // What a tenant has in memory never reaches a disk of the host's, not even with a QEMU that crashes.
        memory: Memory { unit: "MiB", dump_core: "off", amount: spec.memory_mib },
        vcpu: Vcpu { placement: "static", count: spec.vcpus },
        os: Os {
            kind: OsType { arch: "x86_64", machine: "q35", kind: "hvm" },
            kernel: text(parts.kernel),
            initrd: text(parts.initrd),
            cmdline: parts.guest.cmdline.clone(),
        },
        features: Features { acpi: Empty {}, apic: Empty {} },
        cpu: cpu(&parts.guest.cpu),
        clock: Clock { offset: "utc" },
        on_poweroff: "destroy",
        on_reboot: "restart",
        on_crash: "destroy",
        devices: Devices {
            disk: vec![
                Disk {
                    kind: "file",
                    device: "disk",
                    driver: Driver { name: "qemu", format: "qcow2" },
                    source: Source {
                        file: text(parts.volume),
                        seclabel: None,
                        encryption: Some(Encryption {
                            format: "luks",
                            secret: SecretRef { kind: "passphrase", uuid: secret_uuid(spec.volume) },
                        }),
                    },
                    backing: Some(Backing {
                        kind: "file",
                        format: Format { kind: parts.base_format.as_str() },
                        // Shared by all and read only: libvirt must not make it one machine's own.
                        source: Source {
                            file: text(parts.base),
                            seclabel: Some(Seclabel { model: "dac", relabel: "no" }),
                            encryption: None,
                        },
                        end: Empty {},
                    }),
                    target: Target { dev: "vda", bus: "virtio" },
                    readonly: None,
                    address: disk.address(),
                },
                Disk {
                    kind: "file",
                    device: "disk",
                    driver: Driver { name: "qemu", format: "raw" },
                    source: Source { file: text(parts.seed), seclabel: None, encryption: None },
                    backing: None,
                    target: Target { dev: "vdb", bus: "virtio" },
                    readonly: Some(Empty {}),
                    address: seed.address(),
                },
            ],
            controller: controllers(serial, last),
            channel: Channel {
                kind: "unix",
                source: ChannelSource { mode: "bind", path: text(parts.channel) },
                target: ChannelTarget { kind: "virtio", name: CHANNEL },
            },
            tpm: Tpm { model: "tpm-crb", backend: TpmBackend { kind: "emulator", version: "2.0" } },
            hostdev: gpus.into_iter().map(|(bus, gpu)| hostdev(bus, gpu)).collect(),
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

fn controllers(serial: Bus, last: Bus) -> Vec<Controller> {
    let plain = |kind, index, model| Controller { kind, index, model, target: None, address: None };
    let mut all = vec![
        plain("usb", 0, Some("none")),
        Controller { address: Some(serial.address()), ..plain("virtio-serial", 0, None) },
        plain("pci", 0, Some("pcie-root")),
    ];
    // Nothing is plugged in later, so the firmware need not keep room for it.
    let target = || Some(PortTarget { hotplug: "off" });
    all.extend(
        (1..=last.0)
            .map(|index| Controller { target: target(), ..plain("pci", index, Some("pcie-root-port")) }),
    );
    all
}

fn hostdev(bus: Bus, gpu: PciAddress) -> Hostdev {
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

fn cpu(name: &str) -> Cpu {
    if name == "host-passthrough" {
        Cpu { mode: "host-passthrough", matching: None, check: "none", migratable: Some("off"), model: None }
    } else {
        let model = CpuModel { fallback: "forbid", name: name.to_owned() };
        Cpu { mode: "custom", matching: Some("exact"), check: "none", migratable: None, model: Some(model) }
    }
}

fn write(document: &impl Serialize) -> Result<String, quick_xml::SeError> {
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

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The number of a root port, and of the bus behind it.
#[derive(Debug, Clone, Copy)]
struct Bus(u32);

impl Bus {
    fn address(self) -> GuestAddress {
        GuestAddress {
            kind: "pci",
            domain: "0x0000",
            bus: format!("{:#04x}", self.0),
            slot: "0x00",
            function: "0x0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn guest(cpu: &str) -> GuestConfig {
        GuestConfig {
            kernel: "/usr/lib/holm/guest/vmlinuz".into(),
            initrd: "/usr/lib/holm/guest/initrd.img".into(),
            cmdline: "root=/dev/vda ro quiet".to_owned(),
            cpu: cpu.to_owned(),
        }
    }

    fn spec(gpus: u8) -> DomainSpec {
        DomainSpec {
            slice: "0190163d-8694-739b-aea5-966c26f8ad91".parse().unwrap(),
            level_name: "Confidential".to_owned(),
            vcpus: 6 * u32::from(gpus),
            memory_mib: 92_160 * u64::from(gpus),
            volume: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".parse().unwrap(),
            devices: (0..gpus)
                .map(|gpu| PciAddress { domain: 0, bus: 0x34 + 2 * gpu, device: 0, function: 0 })
                .collect(),
        }
    }

    fn written(spec: &DomainSpec, cpu: &str) -> String {
        let parts = Parts {
            guest: &guest(cpu),
            kernel: Path::new("/var/lib/holm/slices/0190163d-8694-739b-aea5-966c26f8ad91/vmlinuz"),
            initrd: Path::new("/var/lib/holm/slices/0190163d-8694-739b-aea5-966c26f8ad91/initrd.img"),
            volume: Path::new("/var/lib/holm/volumes/6f9619ff-8b86-4d01-b42d-00cf4fc964ff"),
            base: Path::new("/usr/lib/holm/guest/base.raw"),
            base_format: ImageFormat::Raw,
            seed: Path::new("/var/lib/holm/slices/0190163d-8694-739b-aea5-966c26f8ad91/seed.img"),
            channel: Path::new("/run/holm/guest/0190163d-8694-739b-aea5-966c26f8ad91.sock"),
        };
        domain(spec, &parts).unwrap()
    }

    fn golden(name: &str, text: &str) {
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }

    #[test]
    fn golden_files() {
        golden("1-gpu", &written(&spec(1), "qemu64"));
        golden("2-gpus", &written(&spec(2), "host-passthrough"));
        golden("16-gpus", &written(&spec(16), "host-passthrough"));
        let volume: VolumeId = spec(1).volume;
        golden("secret", &secret(volume, Path::new("/var/lib/holm/volumes/6f9619ff")).unwrap());
    }

    #[test]
    fn names_of_domains() {
        let slice = spec(1).slice;
        assert_eq!(slice_of(&domain_name(slice)), Some(slice));
        for name in
            ["", "holm-", "holm-x", "web", "holm-0190163D-8694-739B-AEA5-966C26F8AD91", &slice.to_string()]
        {
            assert_eq!(slice_of(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_level_name_stays_a_title(name in any::<String>()) {
            let spec = DomainSpec { level_name: name, ..spec(1) };
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
