//! The machines that clean devices, one a run and never defined: when its process is gone, it is gone.
//!
//! Absent on purpose: disks, network, vsock, TPM, and whatever else a slice has beside its devices. It speaks
//! over one virtio-serial port.

use super::{Ask, EXIT_LIMIT, Libvirt, elements::*, failed, process, xml};
use crate::edge::{EdgeError, Result};
use holm_proto::ids::{PciAddress, RunId};
use holm_scrub::protocol::{PORT, port_of};
use serde::Serialize;
use std::{path::PathBuf, time::Duration};
use virt::{connect::Connect, error::ErrorNumber, sys};

/// To start one, and to end one.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// What a scrubbing machine is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubSpec {
    /// Whose it is.
    pub run: RunId,
    /// The kernel, the run's own copy.
    pub kernel: PathBuf,
    /// Its root file system, the run's own copy.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
    /// `host-passthrough`, or the name of a processor of QEMU's.
    pub cpu: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The socket of its port.
    pub channel: PathBuf,
    /// The host's devices, by place.
    pub devices: Vec<PciAddress>,
}

/// The name of a run's domain. No slice's domain can have it: what follows `holm-` is no id.
pub fn name(run: RunId) -> String {
    format!("holm-scrub-{run}")
}

/// The run whose domain has this name.
pub fn run_of(name: &str) -> Option<RunId> {
    name.strip_prefix("holm-scrub-")?.parse().ok().filter(|run| self::name(*run) == name)
}

impl Libvirt {
    /// Starts a scrubbing machine. `hold` is dropped when the call has really come to its end.
    pub fn start_scrub(&self, spec: &ScrubSpec, hold: impl Send + 'static) -> Result<()> {
        let run = spec.run;
        let text = domain(spec).map_err(|error| {
            EdgeError::because(format!("cannot describe the scrubbing machine of run `{run}`"), error)
        })?;
        let what = format!("start the scrubbing machine of run `{run}`");
        self.call(&what, START_LIMIT, None, move |libvirt| {
            let _hold = hold;
            // One that an earlier agent left would answer for it.
            end(libvirt, run)?;
            libvirt
                .create_domain_xml(&text, sys::VIR_DOMAIN_START_VALIDATE)
                .map(drop)
                .map_err(failed("start a scrubbing machine"))
        })
    }

    /// Ends a scrubbing machine, and returns when its process is gone. Nothing happens where there is none.
    pub fn end_scrub(&self, run: RunId) -> Result<()> {
        let what = format!("end the scrubbing machine of run `{run}`");
        self.call(&what, STOP_LIMIT, None, move |libvirt| end(libvirt, run))
    }
}

/// The runs that have a machine.
pub(super) fn runs(libvirt: &Connect) -> Result<Vec<RunId>> {
    let mut runs = Vec::new();
    for domain in libvirt.list_all_domains(0).map_err(failed("list the scrubbing machines"))? {
        match domain.name().map_err(Ask::from) {
            Ok(name) => runs.extend(run_of(&name)),
            Err(Ask::Gone) => {}
            Err(Ask::Failed(error)) => return Err(error),
        }
    }
    Ok(runs)
}

fn end(libvirt: &Connect, run: RunId) -> Result<()> {
    let processes = process::of_machine(&name(run))
        .map_err(|error| EdgeError::because("cannot look through the processes", error))?;
    let domain = match libvirt.lookup_domain_by_name(&name(run)) {
        Ok(domain) => Some(domain),
        Err(error) if error.code().is(ErrorNumber::NoDomain) => None,
        Err(error) => return Err(failed("look for the scrubbing machine")(error)),
    };
    if let Some(domain) = &domain
        && let Err(error) = domain.destroy()
        // It may have ended by itself meanwhile, and then it is no more.
        && domain.is_active().unwrap_or(false)
    {
        return Err(failed("end the scrubbing machine")(error));
    }
    for process in processes {
        let gone = process
            .wait(if domain.is_some() { EXIT_LIMIT } else { Duration::ZERO })
            .map_err(|error| EdgeError::because(format!("cannot wait for process {}", process.id), error))?;
        if !gone {
            return Err(EdgeError::new(format!(
                "process {} of the scrubbing machine of run `{run}` has not ended: the devices are in its hands",
                process.id
            )));
        }
    }
    Ok(())
}

/// A scrubbing machine. Each device sits behind a root port of its own, at the place that its number says.
fn domain(spec: &ScrubSpec) -> std::result::Result<String, quick_xml::SeError> {
    let places: Vec<(u8, PciAddress)> = (0..).zip(spec.devices.iter().copied()).collect();
    xml::write(&Scrub {
        kind: "kvm",
        name: name(spec.run),
        uuid: spec.run.to_string(),
        title: "cleans devices",
        memory: Memory { unit: "MiB", dump_core: "off", amount: spec.memory_mib },
        vcpu: Vcpu { placement: "static", count: spec.vcpus },
        os: Os {
            kind: OsType { arch: "x86_64", machine: "q35", kind: "hvm" },
            kernel: xml::text(&spec.kernel),
            initrd: xml::text(&spec.initrd),
            cmdline: spec.cmdline.clone(),
        },
        features: Features { acpi: Empty {}, apic: Empty {} },
        cpu: xml::cpu(&spec.cpu, None),
        clock: Clock { offset: "utc" },
        on_poweroff: "destroy",
        // One that starts anew would have lost its order.
        on_reboot: "destroy",
        on_crash: "destroy",
        devices: Devices {
            usb: Plain { kind: "usb", index: 0, model: "none" },
            serial: Serial { kind: "virtio-serial", index: 0, address: place(1, 0, None) },
            root: Plain { kind: "pci", index: 0, model: "pcie-root" },
            ports: places
                .iter()
                .map(|(slot, _)| {
                    let (device, function) = port_of(*slot);
                    Port {
                        kind: "pci",
                        index: u32::from(*slot) + 1,
                        model: "pcie-root-port",
                        target: PortTarget { hotplug: Some("off"), ..PortTarget::default() },
                        address: place(device, function, (function == 0).then_some("on")),
                    }
                })
                .collect(),
            channel: Channel {
                kind: "unix",
                source: ChannelSource { mode: "bind", path: xml::text(&spec.channel) },
                target: ChannelTarget { kind: "virtio", name: PORT },
            },
            hostdev: places
                .iter()
                .map(|(slot, device)| xml::hostdev(xml::Bus(u32::from(*slot) + 1), *device))
                .collect(),
            memballoon: Model { model: "none" },
        },
    })
}

fn place(device: u8, function: u8, multifunction: Option<&'static str>) -> Place {
    Place {
        kind: "pci",
        domain: "0x0000",
        bus: "0x00",
        slot: format!("{device:#04x}"),
        function: format!("{function:#x}"),
        multifunction,
    }
}

#[derive(Serialize)]
#[serde(rename = "domain")]
struct Scrub {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: String,
    uuid: String,
    title: &'static str,
    memory: Memory,
    vcpu: Vcpu,
    os: Os,
    features: Features,
    cpu: Cpu,
    clock: Clock,
    on_poweroff: &'static str,
    on_reboot: &'static str,
    on_crash: &'static str,
    devices: Devices,
}

#[derive(Serialize)]
struct Devices {
    #[serde(rename = "controller")]
    usb: Plain,
    #[serde(rename = "controller")]
    serial: Serial,
    #[serde(rename = "controller")]
    root: Plain,
    #[serde(rename = "controller")]
    ports: Vec<Port>,
    channel: Channel,
    hostdev: Vec<Hostdev>,
    memballoon: Model,
}

#[derive(Serialize)]
struct Plain {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@index")]
    index: u32,
    #[serde(rename = "@model")]
    model: &'static str,
}

#[derive(Serialize)]
struct Serial {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@index")]
    index: u32,
    address: Place,
}

#[derive(Serialize)]
struct Port {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@index")]
    index: u32,
    #[serde(rename = "@model")]
    model: &'static str,
    target: PortTarget,
    address: Place,
}

#[derive(Serialize)]
struct Place {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@domain")]
    domain: &'static str,
    #[serde(rename = "@bus")]
    bus: &'static str,
    #[serde(rename = "@slot")]
    slot: String,
    #[serde(rename = "@function")]
    function: String,
    #[serde(rename = "@multifunction", skip_serializing_if = "Option::is_none")]
    multifunction: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::super::seen;
    use super::*;

    fn spec(gpus: u8) -> ScrubSpec {
        ScrubSpec {
            run: run(),
            kernel: "/var/lib/holm/slices/scrub/vmlinuz".into(),
            initrd: "/var/lib/holm/slices/scrub/initrd.img".into(),
            cmdline: "rdinit=/init quiet".to_owned(),
            cpu: "qemu64".to_owned(),
            vcpus: 1,
            memory_mib: 256,
            channel: "/run/holm/guest/scrub.sock".into(),
            devices: (0..gpus)
                .map(|gpu| PciAddress { domain: 0, bus: 0x34 + 2 * gpu, device: 0, function: 0 })
                .collect(),
        }
    }

    fn run() -> RunId {
        "b4c0a5a0-0000-4000-8000-000000000001".parse().unwrap()
    }

    #[test]
    fn golden_files() {
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!("scrub-2-gpus", domain(&spec(2)).unwrap());
        });
    }

    #[test]
    fn names_of_domains_are_not_taken_for_each_other() {
        assert_eq!(run_of(&name(run())), Some(run()));
        assert_eq!(xml::slice_of(&name(run())), None);
        for name in ["holm-scrub-", "holm-scrub-x", &format!("holm-{}", run()), &format!("{}x", name(run()))]
        {
            assert_eq!(run_of(name), None, "{name}");
        }
    }

    #[test]
    fn libvirt_itself_finds_the_descriptions_valid() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "<node/>").unwrap();
        let connection = Connect::open(Some(&format!("test://{}", file.path().display()))).unwrap();
        for gpus in [1, 2, 16] {
            // The stand-in runs machines of its own kind only.
            let text = domain(&spec(gpus)).unwrap().replace("type=\"kvm\"", "type=\"test\"");
            let started = connection.create_domain_xml(&text, sys::VIR_DOMAIN_START_VALIDATE).unwrap();
            let seen = seen::read(&started.xml_desc(0).unwrap()).unwrap();
            assert_eq!(seen.devices.len(), usize::from(gpus));
            assert_eq!(
                (runs(&connection).unwrap(), super::super::machines(&connection).unwrap()),
                (vec![run()], vec![])
            );
            for _ in 0..2 {
                end(&connection, run()).unwrap();
                assert_eq!(runs(&connection).unwrap(), []);
            }
        }
    }
}
