//! A host's tree as text and as a drawing.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use holm_cli::output::{Format, Output};
use holm_cli::view::{self, Topology};
use holm_proto::v1::{
    Acs, BridgeKind, Core, Device, DeviceKind, DeviceState, Drive, Health, HealthState, Host, HugePages,
    Inventory, Link, Maintenance, NumaNode, PciBridge, PciDevice,
};

fn at(bus: u8, device: u8) -> String {
    format!("0000:{bus:02x}:{device:02x}.0")
}

fn link(width: u32) -> Option<Link> {
    let speed = || "8.0".to_owned();
    Some(Link { speed: speed(), width, max_speed: speed(), max_width: width })
}

fn bridge(address: &str, parent: &str, kind: BridgeKind, root: &str, node: i32) -> PciBridge {
    let on = Acs {
        source_validation: true,
        request_redirect: true,
        completion_redirect: true,
        upstream_forwarding: true,
        capability: 0x5f,
        control: 0x1d,
    };
    PciBridge {
        address: address.to_owned(),
        id: "10b5:9797".to_owned(),
        kind: kind.into(),
        parent: parent.to_owned(),
        root: root.to_owned(),
        numa_node: node,
        iommu_group: None,
        link: link(16),
        acs: (kind != BridgeKind::Upstream).then_some(on),
    }
}

fn device(address: &str, parent: &str, kind: DeviceKind, number: Option<u32>, node: i32) -> Device {
    let pci = PciDevice {
        address: address.to_owned(),
        kind: kind.into(),
        id: "10de:1db8".to_owned(),
        numa_node: node,
        iommu_group: Some(20),
        physical_id: number,
        driver: "vfio-pci".to_owned(),
        parent: parent.to_owned(),
        link: link(16),
        health: Some(Health { state: HealthState::Unknown.into(), ..Health::default() }),
        ..PciDevice::default()
    };
    let mut device = Device { pci: Some(pci), ..Device::default() };
    device.set_state(DeviceState::Free);
    device
}

/// A DGX-2.
fn dgx2() -> Host {
    let mut inventory = Inventory { product: "NVIDIA DGX-2".to_owned(), cpus: 96, ..Inventory::default() };
    let mut devices = Vec::new();
    let mut number = 0;
    for (first, node, nvswitches) in [(0x2bu8, 0, false), (0x4e, 0, true), (0xae, 1, true), (0xd7, 1, false)]
    {
        let root = format!("pci0000:{first:02x}");
        let mut add = |address: String, parent: &str, kind| {
            inventory.bridges.push(bridge(&address, parent, kind, &root, node));
            address
        };
        let port = add(at(first, 0), "", BridgeKind::RootPort);
        let outer = add(at(first + 1, 0), &port, BridgeKind::Upstream);
        for (device, bus) in [(0x10, first + 3), (0x11, first + 4)] {
            let port = add(at(first + 2, device), &outer, BridgeKind::Downstream);
            inventory.drives.push(Drive {
                name: format!("nvme{}n1", inventory.drives.len()),
                address: at(bus, 0),
                parent: port,
                model: "Micron_9200".to_owned(),
                bytes: 3_840_755_982_336,
                numa_node: node,
                ..Drive::default()
            });
        }
        let mut add = |address: String, parent: &str, kind| {
            inventory.bridges.push(bridge(&address, parent, kind, &root, node));
            address
        };
        let port = add(at(first + 2, 0), &outer, BridgeKind::Downstream);
        let inner = add(at(first + 5, 0), &port, BridgeKind::Upstream);
        for (place, up) in [(0, first + 7), (4, first + 12)] {
            let port = add(at(first + 6, place), &inner, BridgeKind::Downstream);
            let pair = add(at(up, 0), &port, BridgeKind::Upstream);
            for place in [0, 4, 8] {
                let port = add(at(up + 1, place), &pair, BridgeKind::Downstream);
                if place != 4 {
                    number += 1;
                    devices.push(device(
                        &at(up + 2 + place / 4, 0),
                        &port,
                        DeviceKind::Gpu,
                        Some(number),
                        node,
                    ));
                }
            }
        }
        if nvswitches {
            let port = add(at(first + 6, 8), &inner, BridgeKind::Downstream);
            let board = add(at(first + 17, 0), &port, BridgeKind::Upstream);
            for place in [0, 1, 2, 4, 5, 6] {
                let port = add(at(first + 18, place), &board, BridgeKind::Downstream);
                devices.push(device(&at(first + 19 + place, 0), &port, DeviceKind::Nvswitch, None, node));
            }
        }
    }
    for id in 0..2 {
        inventory.nodes.push(NumaNode {
            id,
            cores: (id * 24..id * 24 + 24).map(|core| Core { cpus: vec![core, core + 48] }).collect(),
            memory_mib: 786_432,
            huge_pages: vec![HugePages { size_kib: 1_048_576, total: 640, free: 512 }],
            distances: vec![10, 21],
        });
    }
    inventory.bridges.sort_by(|a, b| a.address.cmp(&b.address));
    Host {
        name: "dgx2-1".to_owned(),
        online: true,
        platform: "dgx-2".to_owned(),
        inventory: Some(inventory),
        devices,
        ..Host::default()
    }
}

/// The same with something wrong with many parts of it.
fn faulty() -> Host {
    let mut host = dgx2();
    let bridges = &mut host.inventory.as_mut().unwrap().bridges;
    let mut port = |address: &str, spoil: fn(&mut PciBridge)| {
        spoil(bridges.iter_mut().find(|b| b.address == address).unwrap());
    };
    port("0000:33:00.0", |b| b.acs = None);
    port("0000:33:08.0", |b| b.acs = Some(Acs { capability: 0x5f, ..Acs::default() }));
    port("0000:38:00.0", |b| b.acs.as_mut().unwrap().upstream_forwarding = false);
    let mut gpu =
        |number: usize, spoil: fn(&mut PciDevice)| spoil(host.devices[number].pci.as_mut().unwrap());
    gpu(0, |d| d.link.as_mut().unwrap().width = 8);
    gpu(1, |d| d.problem = "IOMMU group 20 also holds `0000:35:00.0`".to_owned());
    let health = |state: HealthState, reason: &str| {
        Some(Health {
            state: state.into(),
            source: "nvml 535.183.01".to_owned(),
            reason: reason.to_owned(),
            temperature_c: Some(41),
            ..Health::default()
        })
    };
    host.devices[2].pci.as_mut().unwrap().health = health(HealthState::Healthy, "");
    host.devices[3].pci.as_mut().unwrap().health = health(HealthState::Degraded, "5 of 6 NVLinks are up");
    host.devices[4].pci.as_mut().unwrap().health = health(HealthState::Failed, "XID 79: fallen off the bus");
    host.devices[5].pci.as_mut().unwrap().iommu_group = None;
    host.devices[6].pci.as_mut().unwrap().link.as_mut().unwrap().speed.clear();
    host.devices[7].set_state(DeviceState::Assigned);
    host.devices[7].slice = "heart-study/main".to_owned();
    // Behind nothing that is known.
    host.devices[8].pci.as_mut().unwrap().parent = "0000:ff:00.0".to_owned();
    host
}

fn output() -> Output {
    Output { format: Format::Table, quiet: false, colour: false, colour_errors: false, width: None }
}

fn text(host: &Host) -> String {
    Topology::new(host).unwrap().text(&output())
}

fn drawing(host: &Host) -> String {
    view::svg(&host.name, "NVIDIA DGX-2", &Topology::new(host).unwrap())
}

/// Well-formed, and how many elements of each name.
fn elements(xml: &str) -> std::collections::BTreeMap<String, usize> {
    use quick_xml::events::{BytesStart, Event};
    let mut reader = quick_xml::Reader::from_str(xml);
    reader.config_mut().check_end_names = true;
    let (mut open, mut names) = (0i32, std::collections::BTreeMap::new());
    let mut count = |tag: &BytesStart<'_>| {
        *names.entry(tag.name().as_ref().to_owned()).or_insert(0) += 1;
        for attribute in tag.attributes() {
            attribute.unwrap().normalized_value(quick_xml::XmlVersion::Explicit1_0).unwrap();
        }
    };
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) => {
                open += 1;
                count(&tag);
            }
            Event::Empty(tag) => count(&tag),
            Event::End(_) => open -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(open, 0);
    names
}

#[test]
fn a_dgx2() {
    let host = dgx2();
    insta::assert_snapshot!(
        "topology_dgx2",
        format!("{}\n{}", text(&host), view::paths(&host).text(false, None))
    );
    let svg = drawing(&host);
    insta::assert_snapshot!("topology_dgx2_svg", svg);
    let names = elements(&svg);
    // A box for each node, root port, switch, device and disk, with its own title.
    assert_eq!(names["g"], 2 + 4 + (4 * 4 + 2) + 28 + 8);
    assert_eq!(names["title"], names["g"] + 1);
    assert!(!names.contains_key("script") && !svg.contains("href") && !svg.contains("url("));
}

#[test]
fn what_is_wrong_shows() {
    let host = faulty();
    insta::assert_snapshot!("topology_faulty", text(&host));
    let svg = drawing(&host);
    elements(&svg);
    assert!(svg.contains("NO ACS") && svg.contains("FAILED") && svg.contains("class=\"bad\""));
}

#[test]
fn a_gpu_out_of_service_is_marked() {
    let mut host = dgx2();
    host.devices[0].maintenance =
        Some(Maintenance { by: "olga".to_owned(), reason: "a fan".to_owned(), since: None });
    let line = text(&host).lines().find(|l| l.contains("GPU 1 ")).unwrap().to_owned();
    assert!(line.contains("free  OUT OF SERVICE: a fan"), "{line}");
    let svg = drawing(&host);
    assert!(svg.contains(">OUT OF SERVICE: a fan · group…</text>"), "what is wrong is not cut off");
    assert_eq!(svg.matches("class=\"bad\"").count(), 1);
    let json = view::topology_json(&host);
    assert_eq!(json["devices"][0]["maintenance"]["reason"], "a fan");
    assert!(json["devices"][0].get("evidence").is_none() && json["paths"].as_array().unwrap().len() == 120);
}

#[test]
fn scripts_get_the_same() {
    let mut host = dgx2();
    let paths = view::paths_json(&host);
    let all = paths.as_array().unwrap();
    assert_eq!(all.len(), 16 * 15 / 2);
    let count = |word: &str| all.iter().filter(|p| p["path"] == word).count();
    // Eight pairs, two pairs a root, two roots a node, two nodes.
    assert_eq!([count("PIX"), count("PXB"), count("NODE"), count("SYS")], [8, 16, 32, 64]);
    host.devices.truncate(1);
    let json = view::host_json(&host);
    insta::assert_json_snapshot!("topology_json_device", json["devices"][0]["pci"]);
    insta::assert_json_snapshot!("topology_json_bridge", json["inventory"]["bridges"][0]);
    insta::assert_json_snapshot!("topology_json_drive", json["inventory"]["drives"][0]);
    assert_eq!(json["inventory"]["nodes"][1]["cores"][0], serde_json::json!([24, 72]));
}

#[test]
fn two_gpus_below_a_processor_are_phb_apart() {
    let mut host = Host { name: "desk".to_owned(), ..Host::default() };
    let bridges = [("0000:00:01.1", "0000:01:00.0"), ("0000:00:02.1", "0000:02:00.0")];
    let mut inventory = Inventory::default();
    for (port, gpu) in bridges {
        inventory
            .bridges
            .push(PciBridge { acs: None, ..bridge(port, "", BridgeKind::RootPort, "pci0000:00", -1) });
        host.devices.push(device(gpu, port, DeviceKind::Gpu, None, -1));
    }
    host.inventory = Some(inventory);
    assert_eq!(view::paths_json(&host)[0]["path"], "PHB");
    insta::assert_snapshot!(text(&host), @r"
    no node
    ├─ root port 0000:00:01.1  8.0 GT/s x16
    │  └─ GPU  0000:01:00.0  8.0 GT/s x16  NO ACS  group 20  free  health unknown
    └─ root port 0000:00:02.1  8.0 GT/s x16
       └─ GPU  0000:02:00.0  8.0 GT/s x16  NO ACS  group 20  free  health unknown
    ");
}

#[test]
fn what_is_no_tree_ends_and_loses_no_device() {
    let mut host = dgx2();
    let bridges = &mut host.inventory.as_mut().unwrap().bridges;
    // A circle of switches, and one that is its own parent.
    let circle = bridges.iter().position(|b| b.address == "0000:2c:00.0").unwrap();
    bridges[circle].parent = "0000:33:00.0".to_owned();
    let own = bridges.iter().position(|b| b.address == "0000:4e:00.0").unwrap();
    bridges[own].parent = "0000:4e:00.0".to_owned();
    let text = text(&host);
    for device in &host.devices {
        let address = &device.pci.as_ref().unwrap().address;
        assert_eq!(text.matches(address.as_str()).count(), 1, "{address}");
    }
    view::paths(&host);
    elements(&drawing(&host));
    // A chain deeper than any bus allows.
    let mut deep = Inventory::default();
    for n in 0..5000 {
        let parent = if n == 0 { String::new() } else { format!("b{}", n - 1) };
        deep.bridges.push(bridge(&format!("b{n}"), &parent, BridgeKind::Upstream, "pci0000:00", 0));
    }
    let last = device("0000:34:00.0", "b4999", DeviceKind::Gpu, None, 0);
    let host = Host { inventory: Some(deep), devices: vec![last], ..Host::default() };
    assert!(self::text(&host).contains("0000:34:00.0"));
    elements(&drawing(&host));
}

#[test]
fn hostile_names_are_only_names() {
    let evil = "</title><script>alert(1)</script>&'\"\u{1b}[2J\u{202e}\u{0}\u{fffe}]]>";
    let mut host = faulty();
    host.name = evil.to_owned();
    host.devices[0].slice = evil.to_owned();
    let pci = host.devices[1].pci.as_mut().unwrap();
    pci.problem = evil.to_owned();
    pci.health =
        Some(Health { state: HealthState::Failed.into(), reason: evil.to_owned(), ..Health::default() });
    let inventory = host.inventory.as_mut().unwrap();
    inventory.drives[0].name = evil.to_owned();
    inventory.drives[1].model = evil.to_owned();
    let svg = view::svg(&host.name, evil, &Topology::new(&host).unwrap());
    let names = elements(&svg);
    assert!(!names.contains_key("script"));
    assert!(!svg.contains(|c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{fffe}')));
    let text = text(&host);
    assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'));
}

#[test]
fn nothing_known_is_no_tree() {
    assert!(Topology::new(&Host::default()).is_none());
    let bare = Host { inventory: Some(Inventory { cpus: 96, ..Inventory::default() }), ..Host::default() };
    assert!(Topology::new(&bare).is_none());
}
