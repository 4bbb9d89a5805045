//! Connections to slices, and watching them.

use crate::world::{Agent, SOON, World, decide, hello, pack, ready_slice, reference};
use holm_proto::{Bytes, v1};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

pub fn first(slice: &str, data: &[u8]) -> v1::ConnectFrame {
    v1::ConnectFrame {
        slice: Some(reference(slice)),
        data: Bytes::copy_from_slice(data),
        ..Default::default()
    }
}

fn data(data: &[u8]) -> v1::ConnectFrame {
    v1::ConnectFrame { data: Bytes::copy_from_slice(data), ..Default::default() }
}

pub type Connection = (mpsc::Sender<v1::ConnectFrame>, Streaming<v1::ConnectFrame>);

pub async fn connect(world: &World, who: &str, frame: v1::ConnectFrame) -> Result<Connection, Status> {
    let (send, frames) = mpsc::channel(4);
    send.send(frame).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(frames));
    request.set_timeout(Duration::from_secs(60));
    let stream = world.slices(who).connect(request).await?.into_inner();
    Ok((send, stream))
}

/// Opens each tunnel that holmd asks for, and says everything back in capitals.
pub async fn echo(world: &World, mut agent: Agent) -> mpsc::Sender<v1::FromAgent> {
    let out = agent.out.clone();
    let client = world.agents("dgx");
    tokio::spawn(async move {
        while let Some(body) = agent.hear().await {
            let v1::to_agent::Body::OpenTunnel(open) = body else { continue };
            let mut client = client.clone();
            tokio::spawn(async move {
                let (send, frames) = mpsc::channel(4);
                let name = v1::TunnelFrame { tunnel_id: open.tunnel_id, ..Default::default() };
                send.send(name).await.unwrap();
                let mut request = Request::new(ReceiverStream::new(frames));
                request.set_timeout(Duration::from_secs(60));
                let mut inbound = client.tunnel(request).await.unwrap().into_inner();
                while let Ok(Some(frame)) = inbound.message().await {
                    let data = frame.data.to_ascii_uppercase().into();
                    if send.send(v1::TunnelFrame { data, ..Default::default() }).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_the_log_has_how_many() {
    let world = World::full().await;
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    let _agent = echo(&world, agent).await;
    let (send, mut stream) = connect(&world, "rosa", first("heart/main", b"hello ")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().data, "HELLO ");
    let block = vec![b'x'; 60_000];
    let mut back = 0;
    for _ in 0..50 {
        send.send(data(&block)).await.unwrap();
        back += stream.message().await.unwrap().unwrap().data.len();
    }
    assert_eq!(back, 50 * 60_000);
    // She has said all; the slice ends it when it has answered.
    drop(send);
    assert!(stream.message().await.unwrap().is_none());
    let entry = world.logged(|e| e.action == "slice.disconnect").await;
    assert_eq!(entry.actor, "person/rosa");
    assert_eq!(entry.detail["bytes_in"], 3_000_006);
    assert_eq!(entry.detail["bytes_out"], 3_000_006);
    let began = world.log().into_iter().find(|e| e.action == "slice.connect").unwrap();
    assert_eq!(began.request, entry.request);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_connect_or_cannot() {
    let world = World::full().await;
    world.request("dina", "heart/early", 1).await.unwrap();
    let failure = connect(&world, "rosa", first("heart/early", b"")).await.err().unwrap();
    assert_eq!(failure.code(), Code::FailedPrecondition);
    world.slices("dina").withdraw_slice(decide("heart/early", "")).await.unwrap();
    let (mut agent, wanted) = ready_slice(&world, "heart/main", 1).await;
    for (who, code) in [
        ("olga", Code::PermissionDenied),
        ("frida", Code::PermissionDenied),
        ("lars", Code::NotFound),
        ("dgx", Code::NotFound),
    ] {
        let failure = connect(&world, who, first("heart/main", b"")).await.err().unwrap();
        assert_eq!(failure.code(), code, "{who}");
    }
    let failure = connect(&world, "rosa", v1::ConnectFrame::default()).await.err().unwrap();
    assert_eq!(failure.code(), Code::InvalidArgument);
    // A tunnel nobody asked for, and one with another's number.
    let frames = ReceiverStream::new({
        let (send, frames) = mpsc::channel(1);
        let id = "11111111-2222-4333-8444-555555555555".to_owned();
        send.send(v1::TunnelFrame { tunnel_id: id, ..Default::default() }).await.unwrap();
        frames
    });
    assert_eq!(world.agents("dgx").tunnel(frames).await.unwrap_err().code(), Code::NotFound);
    // The agent cannot reach the guest.
    let waiting = connect(&world, "rosa", first("heart/main", b""));
    let answer = async {
        let id = loop {
            if let Some(v1::to_agent::Body::OpenTunnel(open)) = agent.hear().await {
                assert_eq!(open.slice_id, wanted.slice_id);
                break open.tunnel_id;
            }
        };
        let (send, frames) = mpsc::channel(1);
        let error = "no\u{7} answer".to_owned();
        send.send(v1::TunnelFrame { tunnel_id: id, data: Bytes::new(), error }).await.unwrap();
        world.agents("dgx").tunnel(ReceiverStream::new(frames)).await
    };
    let (failure, _) = tokio::join!(waiting, answer);
    let failure = failure.err().unwrap();
    assert_eq!(failure.code(), Code::Unavailable);
    assert!(failure.message().contains("no  answer"), "{}", failure.message());
    // The host is away.
    drop(agent);
    let name = "dgx".parse().unwrap();
    let mut live = world.app.live.subscribe();
    while world.app.live.host(&name).is_some() {
        tokio::time::timeout(SOON, live.changed()).await.unwrap().unwrap();
    }
    let failure = connect(&world, "rosa", first("heart/main", b"")).await.err().unwrap();
    assert!(failure.message().contains("not connected"), "{}", failure.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_when_its_slice_does() {
    let world = World::full().await;
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    let _agent = echo(&world, agent).await;
    let (_send, mut stream) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().data, "HELLO");
    world.close("dina", "heart/main").await.unwrap();
    let end = tokio::time::timeout(SOON, stream.message()).await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::FailedPrecondition);
    world.logged(|e| e.action == "slice.disconnect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_says_the_slice_now_and_at_each_change() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    let mut watched = world.slices("rosa").watch_slice(reference("heart/main")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().state(), v1::SliceState::Requested);
    world.approve("frida", "heart/main").await.unwrap();
    assert_eq!(watched.message().await.unwrap().unwrap().state(), v1::SliceState::Approved);
    let queued = watched.message().await.unwrap().unwrap();
    assert!(queued.reason.contains("no host is connected"), "{}", queued.reason);
    let mut agent = Agent::ready(&world, "dgx").await;
    let wanted = agent.slice(v1::Goal::Run).await;
    agent.reaches(&wanted, v1::Phase::Preparing).await;
    loop {
        let now = tokio::time::timeout(SOON, watched.message()).await.unwrap().unwrap().unwrap();
        if now.state() == v1::SliceState::Preparing && !now.steps.is_empty() {
            assert_eq!(now.steps[0].name, "volume");
            break;
        }
    }
    assert_eq!(
        world.slices("lars").watch_slice(reference("heart/main")).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn holmd_ends_its_streams_when_it_stops() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 1).await.unwrap();
    let mut watched = world.slices("rosa").watch_slice(reference("heart/main")).await.unwrap().into_inner();
    watched.message().await.unwrap();
    let began = std::time::Instant::now();
    world.running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(4));
    while agent.hear().await.is_some() {}
    assert_eq!(watched.message().await.unwrap_err().code(), Code::Unavailable);
}

/// A request for days to come, of all GPUs.
fn reservation(slice: &str, dry_run: bool) -> v1::RequestSliceRequest {
    let r = reference(slice);
    let at = |hours: i64| prost_types::Timestamp {
        seconds: jiff::Timestamp::now().as_second() + hours * 3600,
        nanos: 0,
    };
    let (from, until) = (Some(at(48)), Some(at(72)));
    v1::RequestSliceRequest {
        project: r.project,
        name: r.name,
        gpus: 16,
        vcpus: 16,
        memory_mib: 16_384,
        from,
        until,
        dry_run,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_judged_again_when_it_is_approved() {
    let world = World::full().await;
    let _agent = Agent::ready(&world, "dgx").await;
    let ask = async |who: &str, slice: &str, dry_run: bool| {
        world.slices(who).request_slice(reservation(slice, dry_run)).await.map(|r| r.into_inner())
    };
    // A slip of the pen in the year is no request for now.
    let mut past = reservation("heart/past", false);
    past.from.as_mut().unwrap().seconds -= 365 * 24 * 3600;
    let refused = world.slices("dina").request_slice(past).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("is in the past"), "{refused}");
    ask("dina", "heart/main", false).await.unwrap();
    // A lead who asks for everything keeps nobody from asking.
    ask("lars", "brain/main", false).await.unwrap();
    assert_eq!(world.approve("frida", "heart/main").await.unwrap().state(), v1::SliceState::Approved);
    let refused = world.approve("frida", "brain/main").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(refused.message().contains("cannot be promised any more"), "{refused}");
    assert!(crate::world::hint(&refused).contains("holm slice reject brain/main"), "{refused}");
    // Whether others have that time is not told.
    let refused = ask("lars", "brain/other", true).await.unwrap_err();
    assert_eq!(refused.message(), "it cannot be promised for that time");
    for n in 0..3 {
        let mut later = reservation(&format!("heart/later-{n}"), false);
        for at in [&mut later.from, &mut later.until] {
            at.as_mut().unwrap().seconds += 30 * 24 * 3600;
        }
        world.slices("dina").request_slice(later).await.unwrap();
    }
    let mut fifth = reservation("heart/fifth", false);
    for at in [&mut fifth.from, &mut fifth.until] {
        at.as_mut().unwrap().seconds += 60 * 24 * 3600;
    }
    let refused = world.slices("dina").request_slice(fifth).await.unwrap_err();
    assert!(refused.message().contains("has 4 requests for a time to come already"), "{refused}");
    // What part of the hosts' use is whose, officers and operators may know.
    let queue = async |who: &str| {
        let asked = world.slices(who).list_queue(v1::ListQueueRequest {}).await.unwrap();
        asked.into_inner().entries
    };
    assert!(queue("dina").await.iter().any(|e| e.share_permille.is_none()));
    assert!(queue("dina").await.iter().all(|e| e.share_permille.is_none()));
    assert!(queue("frida").await.iter().any(|e| e.share_permille.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_near_is_no_reservation() {
    let world = World::full().await;
    let ask = async |hours: i64| {
        let mut wanted = reservation("heart/main", true);
        wanted.from.as_mut().unwrap().seconds += (hours - 48) * 3600;
        world.slices("dina").request_slice(wanted).await.unwrap().into_inner()
    };
    let _agent = Agent::ready(&world, "dgx").await;
    // By the rule that holds where nothing is configured, 24 h.
    assert!(!ask(23).await.reserved && ask(23).await.from.is_some());
    assert!(ask(25).await.reserved);
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_are_for_who_reads_them() {
    let world = World::full().await;
    let asked = world.request("dina", "heart/main", 1).await.unwrap();
    assert_eq!(
        asked.may,
        [
            "slice.withdraw",
            "slice.extend",
            "slice.close",
            "slice.stop",
            "slice.start",
            "slice.connect",
            "slice.certificate"
        ]
    );
    let may = async |who: &str| world.get(who, "heart/main").await.unwrap().may;
    assert_eq!(may("frida").await, ["slice.approve", "slice.certificate", "hold.lift"]);
    assert_eq!(may("rosa").await, ["slice.stop", "slice.start", "slice.connect", "slice.certificate"]);
    assert_eq!(may("olga").await, ["slice.stop"]);
    let approved = world.approve("frida", "heart/main").await.unwrap();
    assert_eq!(approved.may, ["slice.certificate", "hold.lift"], "she approves once");
    // Who may not close it is not told to.
    for (who, closes) in [("dina", true), ("rosa", false), ("frida", false)] {
        let refused = world.slices(who).get_certificate(reference("heart/main")).await.unwrap_err();
        assert_eq!(crate::world::hint(&refused).contains("holm slice close"), closes, "{who}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_hosts_reads_why_a_slice_waits_for_one() {
    let world = World::full().await;
    let _agent = Agent::ready(&world, "dgx").await;
    let order = |device: &str, out: bool| v1::SetMaintenanceRequest {
        host: "dgx".to_owned(),
        device: device.to_owned(),
        out,
        reason: "a fan".to_owned(),
    };
    // As people type it: no domain, upper case.
    let drained = world.hosts("olga").set_maintenance(order("0A:00.0", true)).await.unwrap().into_inner();
    let out = drained.devices.iter().find(|d| d.maintenance.is_some()).unwrap();
    assert_eq!(out.pci.as_ref().unwrap().address, "0000:0a:00.0");
    world.logged(|e| e.resource == "host/dgx/0a:00.0" && e.detail["reason"] == "a fan").await;
    for (wrong, code) in [("7f:00.0", Code::NotFound), ("0a:00", Code::InvalidArgument)] {
        let refused = world.hosts("olga").set_maintenance(order(wrong, true)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    world.request("dina", "heart/main", 16).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let queue = async |who: &str| {
        let asked = world.slices(who).list_queue(v1::ListQueueRequest {}).await.unwrap();
        asked.into_inner().entries.remove(0).hosts
    };
    let said = queue("olga").await;
    assert_eq!(
        (said[0].host.as_str(), said[0].reason.as_str()),
        ("dgx", "0000:0a:00.0 in maintenance: a fan")
    );
    world.hosts("olga").set_maintenance(order("", true)).await.unwrap();
    let said = queue("olga").await;
    assert_eq!((said.len(), said[0].reason.as_str()), (1, "in maintenance: a fan"));
    let explained = world.slices("olga").explain_slice(reference("heart/main")).await.unwrap().into_inner();
    assert_eq!(
        (explained.hosts[0].host.as_str(), explained.hosts[0].reason.as_str()),
        ("dgx", "in maintenance: a fan")
    );
    for who in ["dina", "frida"] {
        assert!(queue(who).await.is_empty(), "{who}");
        let explained = world.slices(who).explain_slice(reference("heart/main")).await.unwrap().into_inner();
        assert!(explained.hosts.iter().all(|h| h.host.is_empty() && !h.reason.contains("fan")), "{who}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_department_is_one_that_the_site_lists() {
    let world = World::full().await;
    let ask = async |department: &str| {
        let request = v1::CreateProjectRequest {
            name: "lung".to_owned(),
            level: "2".to_owned(),
            purpose: "a study".to_owned(),
            department: department.to_owned(),
            dry_run: true,
            ..Default::default()
        };
        world.projects("dina").create_project(request).await
    };
    let refused = ask("health").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert_eq!(refused.message(), "no departments are listed here");
    assert!(crate::world::hint(&refused).contains("holmd.toml"), "{refused}");
    ask(" ").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_its_level_demands_it_a_slice_has_its_numa_nodes_for_itself() {
    let rules = tempfile::tempdir().unwrap();
    let name = pack(rules.path(), &[("\"no_network\"]", "\"no_network\", \"own_node\"]")]);
    let world = World::full_of(|config| config.pack = name).await;
    let mut hello = hello(0);
    let inventory = hello.inventory.as_mut().unwrap();
    for (at, device) in inventory.devices.iter_mut().enumerate() {
        device.numa_node = i32::from(at >= 8);
    }
    for node in 0..2u32 {
        let cores = (node * 24..(node + 1) * 24).map(|core| v1::Core { cpus: vec![core, core + 48] });
        let huge_pages = vec![v1::HugePages { size_kib: 1_048_576, total: 640, free: 640 }];
        let (cores, distances) = (cores.collect(), vec![10, 21]);
        inventory.nodes.push(v1::NumaNode { id: node, cores, memory_mib: 786_432, huge_pages, distances });
    }
    let mut agent = Agent::dial(&world, "dgx", hello).await.unwrap();
    agent.hear().await;
    agent.observe(Vec::new()).await;
    agent.clean(&world, "dgx").await;

    let ask = async |slice: &str| {
        world.request("dina", slice, 1).await.unwrap();
        world.approve("frida", slice).await.unwrap();
    };
    let nodes = || {
        let state = world.app.ledger.state();
        let placed = state.slices.values().filter_map(|s| s.placement.as_ref());
        let mut nodes: Vec<Vec<u32>> = placed.map(|p| p.nodes.iter().map(|n| n.node).collect()).collect();
        nodes.sort();
        nodes
    };
    let placed = |s: &v1::Slice| s.state != i32::from(v1::SliceState::Approved);
    for slice in ["heart/one", "heart/two"] {
        ask(slice).await;
        world.until_it("dina", slice, placed).await;
    }
    assert_eq!(nodes(), [vec![0], vec![1]]);
    // Fourteen GPUs are free, and none of them for anybody: not for a third of its level, nor for one of another.
    ask("heart/three").await;
    let waits = world.until_it("dina", "heart/three", |s| !s.reason.is_empty()).await;
    assert_eq!(waits.reason, "queued: no GPU is free");
    world.request("lars", "brain/main", 1).await.unwrap();
    for officer in ["frida", "gustav"] {
        world.approve(officer, "brain/main").await.unwrap();
    }
    let waits = world.until_it("lars", "brain/main", |s| !s.reason.is_empty()).await;
    assert_eq!(waits.reason, "queued: no GPU is free");
    assert_eq!(nodes().len(), 2);
}
