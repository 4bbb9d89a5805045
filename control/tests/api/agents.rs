//! Sessions of hosts: keys, generations, reports.

use crate::world::{Agent, SOON, World, hello, observed, ready_slice};
use holm_control::domain::records::SliceState;
use holm_proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_given_once_a_session_and_only_while_the_slice_starts() {
    let mut world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 2).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let wanted = agent.slice(v1::Goal::Run).await;
    assert_eq!((wanted.devices.len(), wanted.users.len()), (2, 2));
    assert!(wanted.ssh_ca.starts_with("ssh-ed25519 "));

    let stale = v1::IntendedSlice { generation: wanted.generation - 1, ..wanted.clone() };
    assert!(agent.key(&stale).await.unwrap_err().contains("not the current one"));
    let other = v1::IntendedSlice { volume_id: wanted.slice_id.clone(), ..wanted.clone() };
    assert!(agent.key(&other).await.unwrap_err().contains("no such slice"));
    let nonsense = v1::IntendedSlice { slice_id: "../x".to_owned(), ..wanted.clone() };
    assert!(agent.key(&nonsense).await.unwrap_err().contains("no such slice"));

    let key = agent.key(&wanted).await.unwrap();
    assert_eq!(key.len(), 32);
    let delivered = |e: &holm_control::audit::Entry| e.action == "agent.key" && e.outcome == "allowed";
    let entry = world.log().into_iter().find(delivered).unwrap();
    let slice = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(entry.detail["fingerprint"], slice.key_fingerprint);
    assert_eq!((entry.actor.as_str(), entry.resource.as_str()), ("host/dgx", "slice/heart/main"));
    assert!(agent.key(&wanted).await.unwrap_err().contains("already"));

    // Another host gets nothing of it.
    world.invite_host("other").await;
    let empty = v1::Hello { inventory: Some(v1::Inventory::default()), ..Default::default() };
    let mut other = Agent::dial(&world, "other", empty).await.unwrap();
    assert!(other.key(&wanted).await.unwrap_err().contains("no such slice"));

    // After a restart of the agent, with the slice still starting, it is given again, and logged again.
    agent.reaches(&wanted, v1::Phase::Preparing).await;
    world.until("dina", "heart/main", v1::SliceState::Preparing).await;
    let mut again = Agent::dial(&world, "dgx", hello(agent.intended.generation)).await.unwrap();
    let wanted = again.slice(v1::Goal::Run).await;
    assert_eq!(again.key(&wanted).await.unwrap(), key);
    assert_eq!(world.log().into_iter().filter(delivered).count(), 2);

    for phase in [v1::Phase::Booting, v1::Phase::Ready] {
        again.reaches(&wanted, phase).await;
        world
            .until(
                "dina",
                "heart/main",
                if phase == v1::Phase::Ready { v1::SliceState::Ready } else { v1::SliceState::Booting },
            )
            .await;
        let mut third = Agent::dial(&world, "dgx", hello(0)).await.unwrap();
        let refused = third.key(&wanted).await.unwrap_err();
        assert!(refused.contains("only one that starts"), "{refused}");
        again = third;
        again.intends(|i| i.generation > 0).await;
    }
    let refused =
        world.log().into_iter().filter(|e| e.action == "agent.key" && e.outcome == "refused").count();
    assert_eq!(refused, 7);
    let bodies = world.app.ledger.entries(0, world.app.ledger.size()).unwrap();
    let hex = data_encoding::HEXLOWER.encode(&key);
    assert!(bodies.iter().all(|b| !String::from_utf8_lossy(b).contains(&hex)), "a key is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_ends_the_older_and_an_older_holmd_is_refused() {
    let world = World::full().await;
    let mut first = Agent::ready(&world, "dgx").await;
    let mut second = Agent::dial(&world, "dgx", hello(first.intended.generation)).await.unwrap();
    second.hear().await;
    while first.hear().await.is_some() {}
    assert!(first.gone);
    let ahead = world.app.ledger.size() + 1000;
    let failure = Agent::dial(&world, "dgx", hello(ahead)).await.err().unwrap();
    assert_eq!(failure.code(), Code::FailedPrecondition);
    assert!(failure.message().contains("older copy"), "{}", failure.message());

    // A person has no session, not even one with a host's name.
    let failure = Agent::dial(&world, "olga", hello(0)).await.err().unwrap();
    assert_eq!(failure.code(), Code::PermissionDenied);

    let name = "dgx".parse().unwrap();
    let mut live = world.app.live.subscribe();
    drop(second);
    let offline = async {
        while world.app.live.host(&name).is_some() {
            live.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, offline).await.unwrap();
    let host = world.hosts("olga").get_host(v1::GetHostRequest::default()).await.unwrap().into_inner();
    assert!(!host.online);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inventory_that_cannot_be_is_refused() {
    let world = World::full().await;
    type Spoil = fn(&mut Vec<v1::PciDevice>);
    let spoils: [Spoil; 5] = [
        |all| all[1].address = "../../etc".to_owned(),
        |all| all[1].address = all[0].address.clone(),
        |all| all[1].physical_id = all[0].physical_id,
        |all| all[1].kind = 0,
        |all| *all = (0..100).map(|_| all[0].clone()).collect(),
    ];
    for spoil in spoils {
        let mut hello = hello(0);
        spoil(&mut hello.inventory.as_mut().unwrap().devices);
        let failure = Agent::dial(&world, "dgx", hello).await.err().unwrap();
        assert_eq!(failure.code(), Code::InvalidArgument, "{failure:?}");
    }
    let nothing = v1::Hello { inventory: None, ..hello(0) };
    assert_eq!(Agent::dial(&world, "dgx", nothing).await.err().unwrap().code(), Code::InvalidArgument);
    assert!(world.app.ledger.state().devices.is_empty());
    let mut hello = hello(0);
    hello.platform = "dgx\u{1b}[2J\n".to_owned();
    hello.inventory.as_mut().unwrap().kernel = "k".repeat(10_000);
    let _agent = Agent::dial(&world, "dgx", hello).await.unwrap();
    let host = world.hosts("olga").get_host(v1::GetHostRequest::default()).await.unwrap().into_inner();
    assert_eq!(host.platform, "dgx [2J ");
    assert!(host.inventory.unwrap().kernel.len() < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_report_leaves_out_is_gone_but_not_before_the_agent_has_looked() {
    let world = World::full().await;
    let (agent, wanted) = ready_slice(&world, "heart/main", 1).await;
    let seen = agent.intended.generation;
    drop(agent);
    let mut agent = Agent::dial(&world, "dgx", hello(seen)).await.unwrap();
    // Before it has heard anything it may report nothing.
    agent.observe(Vec::new()).await;
    agent.intends(|i| !i.slices.is_empty()).await;
    agent.observe(vec![observed(&wanted, v1::Phase::Ready)]).await;
    world.until("dina", "heart/main", v1::SliceState::Ready).await;
    agent.observe(Vec::new()).await;
    let failed = world.until("dina", "heart/main", v1::SliceState::Failed).await;
    assert!(failed.reason.contains("no longer has it"), "{}", failed.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_slice_ends_in_a_certificate() {
    let world = World::full().await;
    let (mut agent, wanted) = ready_slice(&world, "heart/main", 2).await;
    let early =
        world.slices("dina").get_certificate(crate::world::reference("heart/main")).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    world.close("dina", "heart/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    assert!(gone.generation > wanted.generation);
    assert!(agent.key(&gone).await.is_err());
    let held = v1::Observed {
        slices: vec![observed(&gone, v1::Phase::Absent)],
        attached: gone.devices.clone(),
        generation: agent.intended.generation,
        ..Default::default()
    };
    agent.say(v1::from_agent::Body::Observed(held)).await;
    agent.reaches(&gone, v1::Phase::Destroying).await;
    world.until("dina", "heart/main", v1::SliceState::Destroying).await;
    let id = world.app.ledger.state().slices.values().next().unwrap().id;
    assert!(world.app.ledger.state().slices[&id].detached.is_none());
    // That it is gone is not enough: what became of the disk must be said, and of this one.
    let absent = observed(&gone, v1::Phase::Absent);
    let other = v1::VolumeEvidence { volume_id: gone.slice_id.clone(), ..absent.volume.clone().unwrap() };
    for volume in [None, Some(other), Some(v1::VolumeEvidence::default())] {
        agent.observe(vec![v1::ObservedSlice { volume, ..absent.clone() }]).await;
        agent.reaches(&gone, v1::Phase::Destroying).await;
        assert!(world.app.ledger.state().slices[&id].detached.is_none());
    }
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    let certificate = world
        .slices("dina")
        .get_certificate(crate::world::reference("heart/main"))
        .await
        .unwrap()
        .into_inner();
    let vkey = world.app.log_key.vkey(&world.app.config.log_origin);
    holm_control::audit::note::verify(&certificate.note, &vkey).unwrap();
    let body: serde_json::Value = serde_json::from_str(&certificate.body).unwrap();
    assert_eq!(body["devices"].as_array().unwrap().len(), 2);
    assert_eq!(body["volume"]["header_and_key_slots_overwritten"], true);
    assert_eq!(body["volume"]["evidence"]["volume"], gone.volume_id.as_str());
    let slice = &world.app.ledger.state().slices[&id];
    assert_eq!(slice.state, SliceState::Destroyed);
    assert!(world.app.keys.open_volume_key(slice.project, slice.volume).unwrap().is_none());
    // A new slice of the same name does not hide it.
    world.request("dina", "heart/main", 1).await.unwrap();
    world.slices("dina").get_certificate(crate::world::reference("heart/main")).await.unwrap();
    // And the log says it all again.
    let replayed = {
        let log = world.app.ledger.entries(0, world.app.ledger.size()).unwrap();
        let mut state = holm_control::domain::State::default();
        for body in log {
            for change in holm_control::audit::Entry::from_bytes(&body).unwrap().changes {
                state.apply(&[serde_json::from_value(change).unwrap()]);
            }
        }
        state
    };
    assert_eq!(replayed, *world.app.ledger.state());
}
