use super::{fixture::Machine, *};

fn gpu(inventory: &v1::Inventory, index: usize) -> &v1::PciDevice {
    inventory.devices.iter().filter(|device| device.kind() == v1::DeviceKind::Gpu).nth(index).unwrap()
}

#[test]
fn a_dgx2() {
    let machine = Machine::dgx2();
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    let kinds = |kind| inventory.devices.iter().filter(|device| device.kind() == kind).count();
    assert_eq!((kinds(v1::DeviceKind::Gpu), kinds(v1::DeviceKind::Nvswitch)), (16, 12));
    assert_eq!((inventory.cpus, inventory.numa_nodes, inventory.memory_mib), (96, 2, 2 * 768 * 1024));
    assert!(inventory.iommu);
    assert!(inventory.devices.iter().all(|device| device.problem.is_empty()), "{inventory:#?}");
    let first = gpu(&inventory, 0);
    assert_eq!(first.address, "0000:34:00.0");
    assert_eq!((first.numa_node, first.physical_id), (0, Some(1)));
    assert_eq!(first.reset_methods, ["bus"]);
    // 16 MiB of prefetchable BAR2; the 256 bytes of registers do not count.
    assert_eq!(first.memory_bytes, 16 << 20);
    assert_eq!(gpu(&inventory, 15).numa_node, 1);
    assert!(inventory.devices.is_sorted_by(|a, b| a.address < b.address));
}

#[test]
fn no_iommu_is_a_problem_of_every_device() {
    let machine = Machine::dgx2();
    machine.remove_iommu();
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    assert!(!inventory.iommu);
    assert_eq!(inventory.devices.len(), 28);
    assert!(inventory.devices.iter().all(|device| device.problem.starts_with("no IOMMU group")));
}

#[test]
fn a_stranger_in_the_group_is_a_problem_and_a_bridge_is_not() {
    let machine = Machine::dgx2();
    let (address, other) = ("0000:34:00.0".parse().unwrap(), "0000:34:00.1".parse().unwrap());
    let group = machine.sysfs().function(address).unwrap().unwrap().group.unwrap();
    machine.share_group("0000:34:00.0", "0000:33:00.0");
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    assert_eq!(gpu(&inventory, 0).problem, "");
    machine.add(other, "10de:10f2", 0x04_0300, Some(group));
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    assert!(gpu(&inventory, 0).problem.contains("`0000:34:00.1` (10de:10f2)"));
    assert_eq!(gpu(&inventory, 1).problem, "");
}

#[test]
fn what_cannot_be_reset_is_a_problem() {
    for text in [Some("\n"), None] {
        let machine = Machine::dgx2();
        machine.set("0000:36:00.0", "reset_method", text);
        let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
        assert!(gpu(&inventory, 1).problem.starts_with("no way to reset it"));
        // Unless it is so on purpose.
        let quiet = BTreeSet::from(["0000:36:00.0".parse().unwrap()]);
        let inventory = read_with(&machine.sysfs(), &machine.devices(), &quiet).unwrap();
        assert_eq!(gpu(&inventory, 1).problem, "");
    }
}

#[test]
fn what_has_no_memory_is_a_problem() {
    let machine = Machine::dgx2();
    machine.set("0000:36:00.0", "resource", Some("0x0 0x0 0x0\n"));
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    assert_eq!(gpu(&inventory, 1).memory_bytes, 0);
    assert!(gpu(&inventory, 1).problem.starts_with("no memory BAR"));
}

#[test]
fn nonsense_in_sysfs_is_an_error_and_never_a_guess() {
    let huge = "9".repeat(1 << 20);
    for (file, text) in [
        ("resource", "0x0 0x1"),
        ("resource", "x y z"),
        ("vendor", "0xæ"),
        ("vendor", &huge),
        ("class", "0x1ffffffff"),
        ("numa_node", "-"),
        ("numa_node", "0\u{202e}"),
        ("current_link_speed", "fast"),
        ("current_link_speed", "8.0 GT/s\u{1b}[2J"),
        ("current_link_speed", "8888888888888.0 GT/s"),
        ("current_link_width", "x16"),
        ("current_link_width", "4096"),
        ("max_link_speed", "8.0"),
        ("max_link_width", "-1"),
    ] {
        let machine = Machine::dgx2();
        machine.set("0000:36:00.0", file, Some(text));
        let error = read(&machine.sysfs(), &machine.devices()).unwrap_err().chain();
        assert!(error.contains("`0000:36:00.0`"), "{file}: {error}");
        assert!(error.len() < 400, "{file}: {error}");
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error_where_the_kernel_speaks() {
    let machine = Machine::dgx2();
    std::fs::write(machine.sysfs().device("0000:36:00.0".parse().unwrap()).join("vendor"), [0xff, 0xfe])
        .unwrap();
    let error = read(&machine.sysfs(), &machine.devices()).unwrap_err().chain();
    assert!(error.contains("`0000:36:00.0`"), "{error}");
}

#[test]
fn nonsense_beside_the_devices_names_its_file() {
    for (file, text) in [
        ("devices/system/node/online", "0-"),
        ("devices/system/node/online", "0-99999999"),
        ("devices/system/cpu/online", "1-0"),
        ("devices/system/node/node0/cpulist", "zero"),
        ("devices/system/node/node0/distance", "10 far"),
        ("devices/system/node/node0/meminfo", "Node 0 MemTotal: lots"),
        ("devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages", "-1"),
        ("devices/system/cpu/cpu0/topology/thread_siblings_list", "0,x"),
        ("block/nvme3n1/size", "large"),
        ("block/nvme3n1/queue/discard_max_bytes", "1e9"),
    ] {
        let machine = Machine::dgx2();
        machine.file(file, text);
        let error = read(&machine.sysfs(), &machine.devices()).unwrap_err().chain();
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn what_does_not_exist_is_absent() {
    let machine = Machine::dgx2();
    for file in ["current_link_speed", "numa_node", "resource"] {
        machine.set("0000:36:00.0", file, None);
    }
    machine.set("0000:39:00.0", "current_link_speed", Some("Unknown"));
    machine.set("0000:39:00.0", "current_link_width", Some("0"));
    machine.set("0000:33:00.0", "config", None);
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    let odd = gpu(&inventory, 1);
    assert_eq!((odd.link.clone(), odd.numa_node, odd.memory_bytes), (None, -1, 0));
    let down = gpu(&inventory, 2).link.clone().unwrap();
    assert_eq!((down.speed.as_str(), down.width, down.max_speed.as_str()), ("", 0, "8.0"));
    let port = inventory.bridges.iter().find(|bridge| bridge.address == "0000:33:00.0").unwrap();
    assert_eq!((port.kind(), port.acs), (v1::BridgeKind::Unspecified, None));
}

#[test]
fn what_a_part_says_of_itself_is_shortened_and_cleaned() {
    let machine = Machine::dgx2();
    machine.firmware(&"\u{1b}[2JDGX\n".repeat(1000), "1\0");
    machine.set("0000:2e:00.0/nvme/nvme0", "model", Some("disk\tof\u{7}doom"));
    let latin = machine.sysfs().device("0000:2f:00.0".parse().unwrap()).join("nvme/nvme1/model");
    std::fs::write(latin, b"caf\xe9   ").unwrap();
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    assert!(
        inventory.product.chars().count() <= 64 && inventory.product.starts_with("[2JDGX"),
        "{inventory:?}"
    );
    assert!(!inventory.product.contains(char::is_control) && inventory.firmware == "1");
    let model = |name: &str| inventory.drives.iter().find(|drive| drive.name == name).unwrap().model.clone();
    assert_eq!((model("nvme0n1").as_str(), model("nvme1n1").as_str()), ("disk of doom", "caf\u{fffd}"));
}

#[test]
fn access_control_that_is_off_or_missing_shows() {
    let machine = Machine::dgx2();
    machine.acs_off("0000:33:00.0");
    machine.acs_missing("0000:33:08.0");
    let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
    let acs = |address: &str| inventory.bridges.iter().find(|bridge| bridge.address == address).unwrap().acs;
    let off = acs("0000:33:00.0").unwrap();
    assert!(!off.source_validation && !off.request_redirect && off.capability == 0x5f && off.control == 0);
    assert_eq!(acs("0000:33:08.0"), None);
    assert!(acs("0000:33:04.0").unwrap().upstream_forwarding);
}

#[test]
fn two_looks_at_the_same_machine_are_equal_and_what_moves_by_itself_is_left_out() {
    let machine = Machine::dgx2_v100();
    let look = || read(&machine.sysfs(), &machine.devices()).unwrap();
    let first = look();
    assert_eq!(first, look());
    let now = read_now(&machine.sysfs(), &machine.devices(), &BTreeSet::new()).unwrap();
    assert!(now.devices.iter().all(|device| device.health.as_ref().unwrap().at.is_some()));
    assert_eq!(crate::session::what_matters(&now), crate::session::what_matters(&first));
    machine.file("devices/system/node/node0/hugepages/hugepages-1048576kB/free_hugepages", "3");
    assert_ne!(look(), first);
    assert_eq!(crate::session::what_matters(&look()), crate::session::what_matters(&first));
    machine.unplug("0000:34:00.0");
    assert_ne!(crate::session::what_matters(&look()), crate::session::what_matters(&first));
}

#[test]
fn without_the_driver_nothing_is_healthy() {
    for machine in [Machine::dgx2(), Machine::dgx2_v100(), Machine::dgx_a100(), Machine::workstation()] {
        for device in read(&machine.sysfs(), &machine.devices()).unwrap().devices {
            let health = device.health.unwrap();
            // A real driver on the machine that runs this knows no GPU at these addresses.
            assert_eq!(health.state(), v1::HealthState::Unknown, "{}", device.address);
            assert!(!health.source.is_empty());
        }
    }
}

#[test]
fn health_and_firmware_come_from_whoever_knows() {
    struct Well;
    impl health::Source for Well {
        fn name(&self) -> &str {
            "nvml 535.183.01"
        }
        fn read(&self, _: PciAddress) -> Result<health::Reading> {
            Ok(health::Reading {
                ecc: Some(true),
                uncorrected_now: Some(0),
                firmware: "88.00.42.00.01".to_owned(),
                temperature_c: Some(41),
                ..Default::default()
            })
        }
    }
    let machine = Machine::dgx2_v100();
    machine.bind("0000:34:00.0", "nvidia");
    let inventory =
        look(&machine.sysfs(), &machine.devices(), &BTreeSet::new(), &|| Ok(Box::new(Well))).unwrap();
    let (first, second) = (gpu(&inventory, 0), gpu(&inventory, 1));
    assert_eq!(first.firmware, "88.00.42.00.01");
    let health = first.health.clone().unwrap();
    assert_eq!((health.state(), health.temperature_c), (v1::HealthState::Healthy, Some(41)));
    assert_eq!(first.problem, "");
    assert_eq!(second.health.clone().unwrap().source, "on `vfio-pci`: NVML does not see it");
}

#[test]
fn what_has_failed_is_not_handed_out() {
    struct Failed;
    impl health::Source for Failed {
        fn name(&self) -> &str {
            "nvml 535.183.01"
        }
        fn read(&self, _: PciAddress) -> Result<health::Reading> {
            Ok(health::Reading { uncorrected_now: Some(2), ..Default::default() })
        }
    }
    let machine = Machine::dgx2_v100();
    machine.bind("0000:34:00.0", "nvidia");
    let inventory =
        look(&machine.sysfs(), &machine.devices(), &BTreeSet::new(), &|| Ok(Box::new(Failed))).unwrap();
    let problem = &gpu(&inventory, 0).problem;
    assert!(problem.starts_with("nvml 535.183.01 says that it has failed: 2 uncorrectable"), "{problem}");
    assert_eq!(gpu(&inventory, 1).problem, "");
}

#[test]
fn each_machine() {
    for (name, machine) in [
        ("dgx2", Machine::dgx2_v100()),
        ("dgx-a100", Machine::dgx_a100()),
        ("workstation", Machine::workstation()),
        ("without-iommu", Machine::without_iommu()),
    ] {
        let inventory = read(&machine.sysfs(), &machine.devices()).unwrap();
        insta::with_settings!({ snapshot_path => "golden", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, compact(&inventory));
        });
    }
}

/// The tree, a line a function, and what stands beside it.
fn compact(inventory: &v1::Inventory) -> String {
    let mut out = String::new();
    let mut say = |line: String| out.push_str(&(line + "\n"));
    let group = |group: Option<u32>| group.map(|g| format!("group {g}")).unwrap_or("no group".to_owned());
    let link = |link: &Option<v1::Link>| match link {
        Some(l) => format!("{}x{} of {}x{}", l.speed, l.width, l.max_speed, l.max_width),
        None => "no link".to_owned(),
    };
    say(format!("{} / {}", inventory.product, inventory.firmware));
    let v1::Inventory { cpus, numa_nodes, memory_mib, iommu, .. } = inventory;
    say(format!("{cpus} cpus, {numa_nodes} nodes, {memory_mib} MiB, iommu {iommu}"));
    for node in &inventory.nodes {
        let cores: Vec<String> =
            node.cores.iter().map(|c| format!("{:?}", c.cpus).replace(' ', "")).collect();
        say(format!("node {} {} MiB, distances {:?}", node.id, node.memory_mib, node.distances));
        say(format!("  {} cores: {}", cores.len(), cores.join(" ")));
        for pages in &node.huge_pages {
            say(format!("  {} of {} huge pages of {} KiB free", pages.free, pages.total, pages.size_kib));
        }
    }
    let mut lines = Vec::new();
    for b in &inventory.bridges {
        let acs = b
            .acs
            .map(|a| format!("acs {:04x}/{:04x}", a.capability, a.control))
            .unwrap_or("no acs".to_owned());
        let kind = format!("{:?}", b.kind()).to_lowercase();
        lines.push((
            &b.parent,
            &b.address,
            format!(
                "{} {kind} {} {} node {} {acs} in {}",
                b.id,
                group(b.iommu_group),
                link(&b.link),
                b.numa_node,
                b.root
            ),
        ));
    }
    for d in &inventory.devices {
        let kind = format!("{:?}", d.kind()).to_lowercase();
        let id = d.physical_id.map(|n| format!(" number {n}")).unwrap_or_default();
        let health = d.health.clone().unwrap();
        let health = format!("{:?} ({})", health.state(), health.source).to_lowercase();
        let problem = if d.problem.is_empty() { String::new() } else { format!(" PROBLEM {}", d.problem) };
        lines.push((
            &d.parent,
            &d.address,
            format!(
                "{} {kind}{id} {} {} node {} {} reset {} {} MiB {health}{problem}",
                d.id,
                group(d.iommu_group),
                link(&d.link),
                d.numa_node,
                d.driver,
                d.reset_methods.join(","),
                d.memory_bytes >> 20
            ),
        ));
    }
    lines.sort_by_key(|(_, address, _)| address.to_string());
    fn below(parent: &str, depth: usize, lines: &[(&String, &String, String)], out: &mut String) {
        for (_, address, text) in lines.iter().filter(|(above, _, _)| *above == parent) {
            out.push_str(&format!("{}{address} {text}\n", "  ".repeat(depth)));
            below(address, depth + 1, lines, out);
        }
    }
    below("", 0, &lines, &mut out);
    for d in &inventory.drives {
        out.push_str(&format!(
            "{} at {} below {} `{}` {} bytes node {} rotational {} discard {}\n",
            d.name, d.address, d.parent, d.model, d.bytes, d.numa_node, d.rotational, d.discard_max_bytes
        ));
    }
    out
}

#[test]
fn a_look_is_quick() {
    let machine = Machine::dgx2_v100();
    let begun = std::time::Instant::now();
    let looks = 20;
    for _ in 0..looks {
        read(&machine.sysfs(), &machine.devices()).unwrap();
    }
    let each = begun.elapsed() / looks;
    println!("a look at a DGX-2 in files: {:.1} ms", each.as_secs_f64() * 1000.0);
    // It is looked at every few seconds; on a machine that is busy with other tests this is generous.
    assert!(each < std::time::Duration::from_millis(500), "{each:?}");
}

#[test]
fn this_very_machine_can_be_read() {
    let inventory = read(&Sysfs::new("/sys"), &Machine::dgx2().devices()).unwrap();
    assert!(inventory.memory_mib > 0 && !inventory.kernel.is_empty());
}
