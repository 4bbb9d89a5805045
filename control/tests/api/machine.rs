//! What a host is made of: kept small, cleaned, counted, served.

use crate::world::{Agent, World, hello};
use holm_control::audit::MAX_ENTRY;
use holm_proto::v1;
use tonic::Code;

const ROOTS: [u8; 4] = [0x2b, 0x4e, 0xae, 0xd7];

/// A DGX-2 as an agent tells of it: 28 devices, 112 bridges, more than there are, 8 disks.
fn dgx2(word: &str) -> v1::Inventory {
    let mut inventory = hello(0).inventory.unwrap();
    inventory.product = format!("NVIDIA DGX-2 {word}");
    inventory.firmware = format!("1.22 {word}");
    inventory.kernel = format!("6.12.48+deb13-amd64 {word}");
    let link = |width| {
        let speed = || "8.0".to_owned();
        Some(v1::Link { speed: speed(), width, max_speed: speed(), max_width: width })
    };
    for n in 0..12u32 {
        inventory.devices.push(v1::PciDevice {
            address: format!("0000:{:02x}:00.0", 0x61 + n),
            kind: v1::DeviceKind::Nvswitch.into(),
            id: "10de:1ac2".to_owned(),
            iommu_group: Some(60 + n),
            reset_methods: vec!["bus".to_owned()],
            ..Default::default()
        });
    }
    for d in &mut inventory.devices {
        d.parent = "0000:33:00.0".to_owned();
        d.link = link(16);
        d.firmware = format!("88.00.42.00.01 {word}");
        d.problem = word.to_owned();
        d.health = Some(v1::Health {
            state: v1::HealthState::Degraded.into(),
            source: format!("nvml 535.183.01 {word}"),
            reason: format!("15 retired pages {word}"),
            ecc_corrected: Some(u64::MAX),
            ecc_uncorrected: Some(u64::MAX),
            retired_pages: Some(15),
            xids: vec![63, 74],
            links_up: Some(5),
            links: Some(6),
            temperature_c: Some(41),
            at: Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: 0 }),
        });
    }
    for root in ROOTS {
        for n in 0..28u8 {
            inventory.bridges.push(v1::PciBridge {
                address: format!("0000:{:02x}:{:02x}.0", root, n),
                id: "10b5:9797".to_owned(),
                kind: v1::BridgeKind::Downstream.into(),
                parent: format!("0000:{root:02x}:00.0"),
                root: format!("pci0000:{root:02x}"),
                numa_node: 1,
                iommu_group: Some(2000 + u32::from(n)),
                link: link(16),
                acs: Some(v1::Acs { capability: 0x5f, control: 0x1d, ..Default::default() }),
            });
        }
    }
    for node in 0..2u32 {
        let cores = (node * 24..(node + 1) * 24).map(|core| v1::Core { cpus: vec![core, core + 48] });
        inventory.nodes.push(v1::NumaNode {
            id: node,
            cores: cores.collect(),
            memory_mib: 786_432,
            huge_pages: vec![
                v1::HugePages { size_kib: 2048, total: 0, free: 0 },
                v1::HugePages { size_kib: 1_048_576, total: 640, free: 512 },
            ],
            distances: vec![10, 21],
        });
    }
    for n in 0..8 {
        inventory.drives.push(v1::Drive {
            name: format!("nvme{n}n1"),
            address: format!("0000:2e:{n:02x}.0"),
            model: format!("Micron_9200_MTFDHAL3T8TCT {word}"),
            bytes: 3_840_755_982_336,
            numa_node: 0,
            rotational: false,
            discard_max_bytes: 2_199_023_255_040,
            parent: "0000:2b:00.0".to_owned(),
        });
    }
    inventory
}

fn greeting(inventory: v1::Inventory) -> v1::Hello {
    v1::Hello { inventory: Some(inventory), ..hello(0) }
}

async fn shown(world: &World) -> v1::Host {
    world.hosts("olga").get_host(v1::GetHostRequest::default()).await.unwrap().into_inner()
}

fn longest(world: &World) -> usize {
    let bodies = world.app.ledger.entries(0, world.app.ledger.size()).unwrap();
    bodies.iter().map(Vec::len).max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dgx2_fits_into_an_entry_with_room() {
    let world = World::full().await;
    // Every GPU with the evidence of a run.
    drop(Agent::ready(&world, "dgx").await);
    // What a session begins with is in the log before it is answered.
    drop(Agent::dial(&world, "dgx", greeting(dgx2(""))).await.unwrap());
    let plain = longest(&world);
    assert!(plain < MAX_ENTRY * 3 / 4, "{plain} bytes");
    // Every text at its longest.
    let mut long = greeting(dgx2(&"w".repeat(1000)));
    long.watch = "another run".to_owned();
    drop(Agent::dial(&world, "dgx", long).await.unwrap());
    let long = longest(&world);
    println!("a DGX-2 takes {plain} bytes of an entry, {long} at the very most");
    assert!(long > plain && long < MAX_ENTRY * 15 / 16, "{long} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_tells_is_what_people_see_and_a_second_greeting_changes_nothing() {
    let world = World::full().await;
    let told = dgx2("");
    let agent = Agent::dial(&world, "dgx", greeting(told.clone())).await.unwrap();
    let host = shown(&world).await;
    let seen = host.inventory.clone().unwrap();
    let mut bridges = told.bridges.clone();
    for acs in bridges.iter_mut().filter_map(|b| b.acs.as_mut()) {
        acs.source_validation = true;
        acs.request_redirect = true;
        acs.completion_redirect = true;
        acs.upstream_forwarding = true;
    }
    assert_eq!(seen.bridges, bridges);
    assert_eq!((&seen.nodes, &seen.drives), (&told.nodes, &told.drives));
    assert_eq!((seen.product.as_str(), seen.firmware.as_str()), ("NVIDIA DGX-2 ", "1.22 "));
    let first = host.devices[0].pci.clone().unwrap();
    assert_eq!((first.parent.as_str(), first.link.unwrap().width), ("0000:33:00.0", 16));
    let health = first.health.unwrap();
    assert_eq!(health.state(), v1::HealthState::Degraded);
    assert_eq!((health.temperature_c, health.links_up), (Some(41), Some(5)));

    let records = |world: &World| {
        let state = world.app.ledger.state();
        (state.hosts.clone(), state.devices.clone())
    };
    let before = records(&world);
    drop(agent);
    // Warmer, an hour later: no reason to write anything.
    let mut warmer = told;
    for health in warmer.devices.iter_mut().filter_map(|d| d.health.as_mut()) {
        health.temperature_c = Some(70);
        health.at = Some(prost_types::Timestamp { seconds: 1_790_003_600, nanos: 0 });
    }
    let _agent = Agent::dial(&world, "dgx", greeting(warmer)).await.unwrap();
    assert_eq!(records(&world), before);
    let entry = world.log().into_iter().rev().find(|e| e.action == "agent.session").unwrap();
    assert!(entry.changes.is_empty(), "{} changes", entry.changes.len());
    let health = shown(&world).await.devices[0].pci.clone().unwrap().health.unwrap();
    assert_eq!(health.temperature_c, Some(70));
}

/// A node of as many cores as it may have, each of nothing.
fn crowded(id: u32) -> v1::NumaNode {
    v1::NumaNode { id, cores: vec![v1::Core::default(); 1024], ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_or_twice_is_refused_and_what_is_odd_is_cleaned() {
    let world = World::full().await;
    type Spoil = fn(&mut v1::Inventory);
    let spoils: [(Spoil, &str); 13] = [
        // So that there is room for what else changes of its host, such as that it is taken out of service.
        (|i| i.nodes.extend((2..16).map(crowded)), "bytes to keep"),
        (|i| i.bridges[1].address = i.bridges[0].address.clone(), "twice"),
        (|i| i.bridges[1].address = "../x".to_owned(), "PCI address"),
        (|i| i.bridges[1].parent = "x".to_owned(), "PCI address"),
        (|i| i.bridges[1].acs.as_mut().unwrap().control = 1 << 16, "beyond 16"),
        (|i| i.bridges = (0..1000).map(|_| i.bridges[0].clone()).collect(), "at most 160 bridges"),
        (|i| i.nodes[1].id = 0, "node 0 twice"),
        (|i| i.nodes[1].cores[0].cpus = vec![0], "processor 0 twice"),
        (|i| i.nodes[0].cores[0].cpus = (100..5000).collect(), "at most 1024 processors"),
        (|i| i.nodes = (0..100).map(|id| v1::NumaNode { id, ..Default::default() }).collect(), "at most 16"),
        (|i| i.drives[1].name = i.drives[0].name.clone(), "twice"),
        (|i| i.drives = (0..1000).map(|_| i.drives[0].clone()).collect(), "at most 64 disks"),
        (|i| i.devices[0].parent = "0000".to_owned(), "PCI address"),
    ];
    for (spoil, said) in spoils {
        let mut inventory = dgx2("");
        spoil(&mut inventory);
        let failure = Agent::dial(&world, "dgx", greeting(inventory)).await.err().unwrap();
        assert_eq!(failure.code(), Code::InvalidArgument, "{failure:?}");
        assert!(failure.message().contains(said), "{said}: {}", failure.message());
    }
    let mut odd = dgx2("");
    odd.product = "\u{1b}[2J\"DGX\"\n".repeat(1000);
    odd.bridges[0].root = "pci\u{7}".repeat(100);
    odd.bridges[0].kind = 99;
    odd.drives[0].model = "\u{9b}31m".to_owned();
    let health = odd.devices[0].health.as_mut().unwrap();
    (health.state, health.source, health.xids) = (77, "\0".repeat(500), vec![1; 1000]);
    let _agent = Agent::dial(&world, "dgx", greeting(odd)).await.unwrap();
    let host = shown(&world).await;
    let seen = host.inventory.unwrap();
    let texts = [&seen.product, &seen.bridges[0].root, &seen.drives[0].model];
    assert!(texts.iter().all(|text| text.len() <= 48 && !text.contains(char::is_control)), "{texts:?}");
    assert_eq!(seen.bridges[0].kind(), v1::BridgeKind::Unspecified);
    let health = host.devices[0].pci.clone().unwrap().health.unwrap();
    // A state that nobody here knows is never healthy.
    assert_eq!((health.state(), health.xids.len()), (v1::HealthState::Unknown, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_not_taken_out_of_service_because_that_would_hold_nothing_back() {
    let world = World::full().await;
    let _agent = Agent::dial(&world, "dgx", greeting(dgx2(""))).await.unwrap();
    let devices = shown(&world).await.devices;
    let first = |kind| {
        let of = |d: &&v1::Device| d.pci.as_ref().unwrap().kind() == kind;
        devices.iter().find(of).unwrap().pci.clone().unwrap().address
    };
    let drain = async |device: String| {
        let reason = "a fan".to_owned();
        let asked = v1::SetMaintenanceRequest { host: "dgx".to_owned(), device, out: true, reason };
        world.hosts("olga").set_maintenance(asked).await
    };
    let refused = drain(first(v1::DeviceKind::Nvswitch)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(crate::world::hint(&refused).contains("holm host drain dgx"), "{refused}");
    let gpu = first(v1::DeviceKind::Gpu);
    let host = drain(gpu.clone()).await.unwrap().into_inner();
    let drained = host.devices.iter().find(|d| d.maintenance.is_some()).unwrap();
    assert_eq!(drained.pci.as_ref().unwrap().address, gpu);
}
