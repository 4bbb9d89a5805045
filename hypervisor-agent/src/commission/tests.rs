//! A DGX-2 as it should be, and each way in which it is not: every one is refused for exactly that.

use super::*;
use crate::config::CommissionConfig;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const GPU: &str = "0000:34:00.0";
const OTHER: &str = "0000:36:00.0";
const PORT: &str = "0000:33:00.0";

/// A machine that exists only in files and in one message.
struct Machine {
    directory: tempfile::TempDir,
    wants: CommissionConfig,
    inventory: Seen<v1::Inventory>,
    qemu: Seen<u32>,
    fabric: Fabric,
}

impl Machine {
    /// As it should be: root ports, switches, 16 GPUs and 12 NVSwitches, each with a port of its own.
    fn fit() -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
            wants: CommissionConfig { hugepages_mib_per_node: Some(2048), ..CommissionConfig::default() },
            inventory: Ok(inventory()),
            qemu: Ok(10_000_002),
            fabric: Some(Ok(Vec::new())),
        };
        for (path, text) in [
            ("proc/cmdline", "root=/dev/sda1 intel_iommu=on iommu=nopt quiet\n"),
            (
                "proc/interrupts",
                "           CPU0       CPU1\n  0:   142   0  IR-IO-APIC   2-edge      timer\n \
                 24:     0   0  DMAR-MSI   0-edge      dmar0\n \
                 25:     1   0  IR-PCI-MSIX-0000:d7:00.0   0-edge      pciehp\nNMI:  0  0  Non-maskable interrupts\n",
            ),
            ("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"),
            ("proc/sys/kernel/core_pattern", "core\n"),
            ("proc/sys/kernel/core_uses_pid", "0\n"),
            ("etc/libvirt/qemu.conf", "# max_core = 1\nmax_core = 0\n"),
            ("proc/10/comm", "libvirtd\n"),
            ("proc/10/limits", &limits("0")),
            ("proc/11/comm", "bash\n"),
            ("proc/11/limits", &limits("unlimited")),
            ("run/systemd/timesync/synchronized", ""),
            ("sys/class/iommu/dmar0/x", ""),
            ("sys/class/iommu/dmar1/x", ""),
            ("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n"),
            ("sys/module/iommufd/parameters/allow_unsafe_interrupts", "N\n"),
            ("sys/kernel/mm/ksm/run", "0\n"),
            ("sys/kernel/mm/ksm/pages_shared", "0\n"),
            ("sys/class/block/sda2/size", "1\n"),
        ] {
            machine.write(path, text);
        }
        for node in 0..2 {
            for (size, count) in [("1048576", "2"), ("2048", "0")] {
                let file =
                    format!("sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB/nr_hugepages");
                machine.write(&file, count);
            }
        }
        for device in &machine.inventory.as_ref().unwrap().devices {
            machine.member(device.iommu_group.unwrap(), &device.address);
            machine.member(device.iommu_group.unwrap(), &device.parent);
        }
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    fn member(&self, group: u32, address: &str) {
        self.write(&format!("sys/kernel/iommu_groups/{group}/devices/{address}"), "");
    }

    fn device(&mut self, address: &str) -> &mut v1::PciDevice {
        self.inventory.as_mut().unwrap().devices.iter_mut().find(|d| d.address == address).unwrap()
    }

    fn port(&mut self, address: &str) -> &mut v1::PciBridge {
        self.inventory.as_mut().unwrap().bridges.iter_mut().find(|b| b.address == address).unwrap()
    }

    fn report(&self) -> v1::Commissioning {
        let (root, sysfs) = (self.directory.path(), self.path("sys"));
        report(&Facts::read(
            root,
            &sysfs,
            self.wants.clone(),
            self.inventory.clone(),
            self.qemu.clone(),
            self.fabric.clone(),
        ))
    }
}

fn limits(core: &str) -> String {
    format!(
        "Limit                     Soft Limit           Hard Limit           Units     \n\
         Max cpu time              unlimited            unlimited            seconds   \n\
         Max core file size        {core}                    unlimited            bytes     \n"
    )
}

fn acs() -> Option<v1::Acs> {
    Some(v1::Acs {
        source_validation: true,
        request_redirect: true,
        completion_redirect: true,
        upstream_forwarding: true,
        capability: 0x5f,
        control: 0x1d,
    })
}

fn inventory() -> v1::Inventory {
    let mut bridges = Vec::new();
    let mut devices = Vec::new();
    let bridge = |address: String, kind: v1::BridgeKind, parent: &str| {
        let acs = if kind == v1::BridgeKind::Upstream { None } else { acs() };
        v1::PciBridge { address, kind: kind.into(), parent: parent.to_owned(), acs, ..Default::default() }
    };
    bridges.push(bridge("0000:2b:00.0".to_owned(), v1::BridgeKind::RootPort, ""));
    bridges.push(bridge("0000:2c:00.0".to_owned(), v1::BridgeKind::Upstream, "0000:2b:00.0"));
    for n in 0..28_u32 {
        let (bus, group) = (0x34 + 2 * n, 20 + n);
        let (kind, id) = match n {
            0..16 => (v1::DeviceKind::Gpu, "10de:1db8"),
            _ => (v1::DeviceKind::Nvswitch, "10de:1ac2"),
        };
        let port = format!("0000:{:02x}:00.0", bus - 1);
        bridges.push(bridge(port.clone(), v1::BridgeKind::Downstream, "0000:2c:00.0"));
        devices.push(v1::PciDevice {
            address: format!("0000:{bus:02x}:00.0"),
            kind: kind.into(),
            id: id.to_owned(),
            iommu_group: Some(group),
            driver: "vfio-pci".to_owned(),
            reset_methods: vec!["bus".to_owned()],
            parent: port,
            ..Default::default()
        });
    }
    v1::Inventory {
        kernel: "6.12.95+deb12-amd64".to_owned(),
        iommu: true,
        bridges,
        devices,
        ..Default::default()
    }
}

fn not_passed(report: &v1::Commissioning) -> Vec<String> {
    let bad = |check: &&v1::Check| check.verdict() != v1::Verdict::Pass;
    report.checks.iter().filter(bad).map(|check| check.id.clone()).collect()
}

#[test]
fn a_fit_host_passes() {
    let report = Machine::fit().report();
    assert_eq!(not_passed(&report), Vec::<String>::new(), "{}", text(&report));
    assert!(passed(&report) == Some(true) && report.checks.len() == CHECKS.len());
    assert!(report.checks.iter().all(|check| check.mend.is_empty() && !check.found.is_empty()));
    assert!(text(&report).ends_with("all 16 pass\n"));
    assert_eq!(json(&report)["passed"], true);
}

/// What fails, the words by which it is known, and the fault.
type Fault = (&'static str, &'static str, fn(&mut Machine));

const FAULTS: &[Fault] = &[
    ("iommu-on", "no IOMMU", |m| m.remove("sys/class/iommu")),
    ("iommu-on", "in no IOMMU group: 0000:34:00.0", |m| m.device(GPU).iommu_group = None),
    ("interrupt-remapping", "no interrupt is remapped", |m| {
        m.write(
            "proc/interrupts",
            "  0:  142  IO-APIC  2-edge  timer\n 25:  1  PCI-MSI-0000:d7:00.0  0-edge  x\n",
        );
    }),
    ("interrupt-remapping", "not remapped: PCI-MSI-0000:34:00.0", |m| {
        m.write(
            "proc/interrupts",
            "  0:  1  IR-IO-APIC  2-edge  timer\n 9:  1  PCI-MSI-0000:34:00.0  0-edge  x\n",
        );
    }),
    ("interrupt-remapping", "there is no", |m| m.remove("proc/interrupts")),
    ("unsafe-interrupts-off", "vfio_iommu_type1 Y", |m| {
        m.write("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
    }),
    ("unsafe-interrupts-off", "iommufd Y", |m| {
        m.write("sys/module/iommufd/parameters/allow_unsafe_interrupts", "Y\n");
    }),
    ("unsafe-interrupts-off", "neither", |m| m.remove("sys/module")),
    ("no-acs-override", "pcie_acs_override=downstream", |m| {
        m.write("proc/cmdline", "intel_iommu=on pcie_acs_override=downstream,multifunction\n");
    }),
    ("no-acs-override", "disable_acs_redir", |m| {
        m.write("proc/cmdline", "intel_iommu=on pci=disable_acs_redir=0000:33:00.0\n");
    }),
    ("acs-effective", "not effective in: 0000:33:00.0", |m| m.port(PORT).acs = None),
    ("acs-effective", "not effective in: 0000:33:00.0", |m| {
        m.port(PORT).acs = Some(v1::Acs { control: 0x0d, ..acs().unwrap() });
    }),
    ("acs-effective", "not effective in: 0000:33:00.0", |m| {
        // It has nothing to switch on, and nothing is on.
        m.port(PORT).acs = Some(v1::Acs { capability: 0, control: 0, ..acs().unwrap() });
    }),
    ("acs-effective", "not effective in: 0000:2b:00.0", |m| {
        m.port("0000:2b:00.0").acs = Some(v1::Acs { control: 0, ..acs().unwrap() });
    }),
    ("acs-effective", "not effective in: 0000:33:00.0", |m| {
        m.port(PORT).kind = v1::BridgeKind::Conventional.into();
    }),
    ("acs-effective", "is not known", |m| m.device(GPU).parent.clear()),
    ("acs-effective", "is not in the inventory", |m| {
        m.port("0000:2c:00.0").parent = "0000:01:00.0".to_owned()
    }),
    ("acs-effective", "what kind of bridge", |m| m.port(PORT).kind = 0),
    ("acs-effective", "is not known", |m| {
        // A ring of bridges has no end.
        m.port("0000:2b:00.0").parent = "0000:2c:00.0".to_owned();
        m.port("0000:2b:00.0").kind = v1::BridgeKind::Upstream.into();
    }),
    ("gpu-isolated", "0000:34:00.0 with 0000:34:00.1", |m| m.member(20, "0000:34:00.1")),
    ("gpu-isolated", "0000:34:00.0 with 0000:36:00.0", |m| m.member(20, OTHER)),
    ("gpu-isolated", "no IOMMU group 20", |m| m.remove("sys/kernel/iommu_groups/20")),
    ("reset-method", "no reset_method: 0000:34:00.0", |m| m.device(GPU).reset_methods.clear()),
    ("gpu-driver", "0000:34:00.0 by nvidia", |m| m.device(GPU).driver = "nvidia".to_owned()),
    ("gpu-driver", "0000:36:00.0 by nouveau", |m| m.device(OTHER).driver = "nouveau".to_owned()),
    ("kernel-version", "5.15.0-100-generic, 6.1 is the least", |m| {
        m.inventory.as_mut().unwrap().kernel = "5.15.0-100-generic".to_owned();
    }),
    ("kernel-version", "6.13 is the least", |m| {
        m.wants.minimum_kernel = "6.13".to_owned().try_into().unwrap()
    }),
    ("kernel-version", "no version", |m| m.inventory.as_mut().unwrap().kernel = "simulated".to_owned()),
    ("qemu-version", "7.2.9, 10.0 is the least", |m| m.qemu = Ok(7_002_009)),
    ("qemu-version", "libvirt is away", |m| m.qemu = Err("libvirt is away".to_owned())),
    ("ksm-off", "KSM runs", |m| m.write("sys/kernel/mm/ksm/run", "1\n")),
    ("ksm-off", "12 pages are still shared", |m| m.write("sys/kernel/mm/ksm/pages_shared", "12\n")),
    ("ksm-off", "is no number", |m| m.write("sys/kernel/mm/ksm/run", "on\n")),
    ("swap-off", "/dev/sda2", |m| swap(m, "/dev/sda2", "partition")),
    ("swap-off", "/swapfile", |m| swap(m, "/swapfile", "file")),
    ("swap-off", "/dev/dm-0", |m| {
        // A volume of LVM on a plain disk.
        m.write("sys/class/block/dm-0/dm/uuid", "LVM-abc\n");
        m.write("sys/class/block/dm-0/slaves/sda2/x", "");
        swap(m, "/dev/dm-0", "partition");
    }),
    ("swap-off", "/dev/zram0", |m| {
        m.write("sys/class/block/zram0/backing_dev", "/dev/sda2\n");
        swap(m, "/dev/zram0", "partition");
    }),
    ("core-dumps-off", "systemd-coredump", |m| {
        m.write("proc/sys/kernel/core_pattern", "|/usr/lib/systemd/systemd-coredump %P %u\n");
    }),
    ("core-dumps-off", "libvirtd unlimited", |m| m.write("proc/10/limits", &limits("unlimited"))),
    ("core-dumps-off", "qemu-system-x86 unlimited", |m| {
        m.write("proc/12/comm", "qemu-system-x86\n");
        m.write("proc/12/limits", &limits("unlimited"));
    }),
    ("core-dumps-off", "sets `max_core = unlimited`", |m| {
        m.write("etc/libvirt/qemu.conf", "max_core = \"unlimited\"\n")
    }),
    // Before the first machine runs, as after it.
    ("core-dumps-off", "does not set `max_core`", |m| m.remove("etc/libvirt/qemu.conf")),
    ("core-dumps-off", "does not set `max_core`", |m| m.write("etc/libvirt/qemu.conf", "#max_core = 0\n")),
    ("hugepages", "node 1 has 1024 MiB", |m| {
        m.write("sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages", "1\n");
    }),
    ("clock-synchronised", "is not synchronised", |m| m.remove("run/systemd/timesync/synchronized")),
    ("clock-synchronised", "neither", |m| m.remove("run/systemd")),
    ("fabric-table", "it differs: partition 3 has other GPUs", |m| {
        m.fabric = Some(Ok(vec!["partition 3 has other GPUs".to_owned()]));
    }),
    ("fabric-table", "Fabric Manager does not answer", |m| {
        m.fabric = Some(Err("Fabric Manager does not answer".to_owned()));
    }),
    ("fabric-table", "not driven", |m| m.fabric = None),
];

fn swap(machine: &Machine, path: &str, kind: &str) {
    machine.write(
        "proc/swaps",
        &format!("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n{path}   {kind}\t8388604\t\t0\t\t-2\n"),
    );
}

#[test]
fn each_fault_is_refused_for_exactly_that() {
    for (number, (id, words, spoil)) in FAULTS.iter().enumerate() {
        let mut machine = Machine::fit();
        spoil(&mut machine);
        let report = machine.report();
        assert_eq!(not_passed(&report), [*id], "fault {number}, {words}: {}", text(&report));
        let check = report.checks.iter().find(|check| check.id == *id).unwrap();
        assert!(check.found.contains(words), "fault {number}: {}", check.found);
        assert!(!check.mend.is_empty());
        assert_eq!(passed(&report), Some(!check.must), "fault {number}");
        assert!(text(&report).contains(words));
    }
    // Every point of the list has a fault, so that none passes whatever the host is.
    let tried: BTreeSet<&str> = FAULTS.iter().map(|(id, ..)| *id).collect();
    assert_eq!(tried, CHECKS.iter().map(|check| check.id).collect());
}

#[test]
fn what_is_good_in_another_way_passes() {
    let others: [fn(&mut Machine); 9] = [
        |m| m.write("proc/sys/kernel/core_pattern", "|/bin/false\n"),
        |m| {
            m.write("proc/sys/kernel/core_pattern", "\n");
            m.write("proc/10/limits", &limits("unlimited"));
        },
        |m| m.remove("proc/10"),
        |m| m.remove("sys/kernel/mm/ksm"),
        |m| {
            m.write("sys/class/block/dm-1/dm/uuid", "CRYPT-PLAIN-swap\n");
            m.write("sys/class/block/dm-1/dm/name", "swap\n");
            swap(m, "/dev/mapper/swap", "partition");
        },
        |m| {
            m.write("sys/class/block/dm-0/dm/uuid", "LVM-abc\n");
            m.write("sys/class/block/dm-0/slaves/dm-1/x", "");
            m.write("sys/class/block/dm-1/dm/uuid", "CRYPT-LUKS2-abc\n");
            swap(m, "/dev/dm-0", "partition");
        },
        // A root port without peers to redirect to has only the first of the four.
        |m| m.port("0000:2b:00.0").acs = Some(v1::Acs { capability: 1, control: 1, ..acs().unwrap() }),
        |m| m.device(GPU).driver.clear(),
        // A version below the list's own changes nothing.
        |m| m.wants.minimum_kernel = "3.0".to_owned().try_into().unwrap(),
    ];
    for (number, change) in others.into_iter().enumerate() {
        let mut machine = Machine::fit();
        change(&mut machine);
        let report = machine.report();
        assert_eq!(not_passed(&report), Vec::<String>::new(), "{number}: {}", text(&report));
    }
    let mut old = Machine::fit();
    old.wants.minimum_kernel = "3.0".to_owned().try_into().unwrap();
    old.inventory.as_mut().unwrap().kernel = "5.10.0".to_owned();
    assert_eq!(not_passed(&old.report()), ["kernel-version"]);
}

#[test]
fn what_is_not_demanded_is_only_advised() {
    let mut machine = Machine::fit();
    machine.wants.hugepages_mib_per_node = None;
    machine.fabric = None;
    machine.remove("sys/devices/system/node/node1/hugepages");
    let report = machine.report();
    assert_eq!(not_passed(&report), ["hugepages", "fabric-table"]);
    assert!(passed(&report) == Some(true), "{}", text(&report));
    assert!(text(&report).ends_with("the host can have slices; 2 of what should pass does not\n"));
}

#[test]
fn a_fabric_that_somebody_else_drives_makes_a_host_unfit() {
    let mut machine = Machine::fit();
    machine.fabric = None;
    assert!(passed(&machine.report()) == Some(true));
    let switches = &mut machine.inventory.as_mut().unwrap().devices;
    switches.iter_mut().find(|device| device.kind() == v1::DeviceKind::Nvswitch).unwrap().driver =
        "nvidia".to_owned();
    let report = machine.report();
    assert_eq!(not_passed(&report), ["fabric-table"]);
    assert!(
        passed(&report) == Some(false) && text(&report).contains("something drives NVSwitches"),
        "{}",
        text(&report)
    );
}

#[test]
fn what_cannot_be_seen_has_not_passed() {
    let mut machine = Machine::fit();
    machine.inventory = Err("sysfs contradicts itself".to_owned());
    machine.qemu = Err("libvirt is away".to_owned());
    for path in ["proc", "sys", "run"] {
        machine.remove(path);
    }
    let report = machine.report();
    assert!(passed(&report) == Some(false));
    let qemu = report.checks.iter().find(|check| check.id == "qemu-version").unwrap();
    assert!(qemu.mend.contains("systemctl enable --now libvirtd"), "{}", qemu.mend);
    // holmd takes 10 KiB.
    assert!(prost::Message::encoded_len(&report) < 8 << 10);
    let ids: Vec<&str> = CHECKS.iter().map(|check| check.id).filter(|id| *id != "fabric-table").collect();
    assert_eq!(not_passed(&report), ids, "{}", text(&report));
}

#[test]
fn a_simulated_host_has_nothing_to_check() {
    let report = simulated();
    assert!(report.simulated && report.checks.is_empty());
    // Nobody may take it for a host that was looked at.
    assert_eq!(passed(&report), None);
    assert!(text(&report).starts_with("NOTHING WAS CHECKED"), "{}", text(&report));
    assert_eq!(json(&report)["passed"], serde_json::Value::Null);
}

#[test]
fn this_very_machine_can_be_judged() {
    let facts = Facts::read(
        Path::new("/"),
        Path::new("/sys"),
        CommissionConfig::default(),
        Err("not asked".to_owned()),
        Err("not asked".to_owned()),
        None,
    );
    assert_eq!(report(&facts).checks.len(), CHECKS.len());
}
