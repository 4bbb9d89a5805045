//! Devices as their host's own record has them, and devices that go away.

use crate::world::{Agent, SOON, World, hello, observed, ready_slice};
use holm_control::domain::records::{Device, DeviceState};
use holm_proto::v1;

async fn device(world: &World, address: &str, wanted: impl Fn(&Device) -> bool) -> Device {
    let key = ("dgx".parse().unwrap(), address.parse().unwrap());
    let mut changed = world.app.ledger.subscribe();
    let found = async {
        loop {
            if let Some(device) = world.app.ledger.state().devices.get(&key).filter(|d| wanted(d)) {
                return device.clone();
            }
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, found)
        .await
        .unwrap_or_else(|_| panic!("{:#?}", world.app.ledger.state().devices))
}

/// The inventory of a hello without some of its devices.
fn without(gone: &[String]) -> v1::Inventory {
    let mut inventory = hello(0).inventory.unwrap();
    inventory.devices.retain(|device| !gone.contains(&device.address));
    inventory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_pulled_out_is_set_aside_and_its_slice_can_be_closed() {
    let world = World::full().await;
    let (mut agent, wanted) = ready_slice(&world, "heart/main", 2).await;
    let gone = wanted.devices[0].clone();
    let before = world.app.ledger.state();
    for _ in 0..2 {
        agent.say(v1::from_agent::Body::Inventory(without(std::slice::from_ref(&gone)))).await;
    }
    let set_aside = device(&world, &gone, |d| d.state == DeviceState::Quarantined).await;
    assert_eq!(set_aside.reason, "no longer on the bus");
    let slice = world.until("dina", "heart/main", v1::SliceState::Ready).await;
    assert_eq!(slice.reason, format!("GPU {gone}: no longer on the bus; close it, or have an operator look"));
    let after = world.app.ledger.state();
    for (key, old) in before.devices.iter().filter(|(key, _)| key.1.to_string() != gone) {
        assert_eq!(after.devices[key], *old, "another device");
    }
    // Nobody releases what is not there.
    let release = v1::ReleaseDeviceRequest {
        host: "dgx".to_owned(),
        address: gone.clone(),
        reason: "reseated".to_owned(),
    };
    let refused = world.hosts("olga").release_device(release.clone()).await.unwrap_err();
    assert!(refused.message().contains("no longer on the bus"), "{refused}");

    world.close("dina", "heart/main").await.unwrap();
    let ended = agent.slice(v1::Goal::Destroyed).await;
    agent.clean.retain(|address, _| !wanted.devices.contains(address));
    agent.reaches(&ended, v1::Phase::Absent).await;
    let runs = agent.intends(|i| !i.runs.is_empty()).await.runs;
    assert_eq!(runs[0].devices, wanted.devices[1..]);
    agent.cleaned(&runs[0]).await;
    let evidence = vec![crate::world::evidence(&runs[0].run_id, &runs[0].devices[0])];
    let report = v1::SanitiseReport { run_id: runs[0].run_id.clone(), evidence };
    agent.say(v1::from_agent::Body::SanitiseReport(report)).await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    let certificate = world
        .slices("dina")
        .get_certificate(crate::world::reference("heart/main"))
        .await
        .unwrap()
        .into_inner();
    let body: serde_json::Value = serde_json::from_str(&certificate.body).unwrap();
    assert_eq!(body["devices_without_evidence"][0]["address"], gone);
    assert_eq!(body["devices_without_evidence"][0]["quarantined"], "no longer on the bus");
    assert_eq!(body["devices"].as_array().unwrap().len(), 1);

    // It comes back: an operator's word, and then it is cleaned like any other.
    agent.say(v1::from_agent::Body::Inventory(without(&[]))).await;
    device(&world, &gone, |d| d.reason == "it was gone from the bus, and is there again").await;
    world.hosts("olga").release_device(release).await.unwrap();
    agent.clean(&world, "dgx").await;
    let entries = world.log().into_iter().filter(|e| e.action == "observe.inventory");
    assert_eq!(entries.count(), 2, "what is no news is no entry");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_free_where_its_host_says_so_too() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    let address = crate::world::address(7);
    // The agent began anew, or somebody else had it.
    let run = agent.clean.remove(&address).unwrap();
    agent.observe(Vec::new()).await;
    let dirty = device(&world, &address, |d| d.state == DeviceState::Sanitising).await;
    assert!(dirty.reason.starts_with("its host has it as dirty"), "{}", dirty.reason);
    // Evidence alone, of an agent that does not vouch for it, makes nothing free.
    let ordered = agent.intends(|i| !i.runs.is_empty()).await.runs.remove(0);
    let evidence = vec![crate::world::evidence(&ordered.run_id, &address)];
    let report = v1::SanitiseReport { run_id: ordered.run_id.clone(), evidence };
    agent.say(v1::from_agent::Body::SanitiseReport(report)).await;
    agent.intends(|i| i.runs.iter().all(|r| r.run_id != ordered.run_id)).await;
    let doubted = device(&world, &address, |d| d.state != DeviceState::Free && d.evidence.is_none()).await;
    assert_eq!(doubted.reason, "it was cleaned, and nobody has watched it since");
    assert_ne!(run, ordered.run_id);
    agent.clean(&world, "dgx").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_is_placed_again_where_nothing_was_begun_with_what_is_not_clean() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 2).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let first = agent.slice(v1::Goal::Run).await;
    agent.clean.remove(&first.devices[0]);
    let waiting = v1::ObservedSlice { steps: Vec::new(), ..observed(&first, v1::Phase::Preparing) };
    agent.observe(vec![waiting]).await;
    let again = agent.intends(|i| i.slices.iter().any(|s| s.generation > first.generation)).await;
    let again = again.slices.into_iter().next().unwrap();
    assert!(!again.devices.contains(&first.devices[0]), "{:?}", again.devices);
    assert_eq!(again.volume_id, first.volume_id);
    agent.key(&again).await.unwrap();
    agent.reaches(&again, v1::Phase::Ready).await;
    world.until("dina", "heart/main", v1::SliceState::Ready).await;
    // Two slices for one device: one of the two records is wrong, and an operator finds out which.
    let stranger = "0190163d-8694-739b-aea5-966c26f8ad91";
    let mut notes = agent.notes();
    let note = notes.iter_mut().find(|note| note.address == again.devices[0]).unwrap();
    (note.mark, note.of) = (v1::DeviceMark::Assigned.into(), stranger.to_owned());
    let generation = agent.intended.generation;
    let slices = vec![observed(&again, v1::Phase::Ready)];
    let report = v1::Observed { slices, generation, devices: notes, ..Default::default() };
    agent.say(v1::from_agent::Body::Observed(report)).await;
    let set_aside = device(&world, &again.devices[0], |d| d.state == DeviceState::Quarantined).await;
    assert!(set_aside.reason.contains("another slice's"), "{}", set_aside.reason);
    let slice = world.get("dina", "heart/main").await.unwrap();
    assert!(slice.state() == v1::SliceState::Ready && slice.reason.contains(&again.devices[0]));
    // Whose it is, its lead does not hear.
    assert!(!slice.reason.contains(stranger), "{}", slice.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disagreement_is_logged_once_and_clean() {
    let world = World::full().await;
    let agent = Agent::ready(&world, "dgx").await;
    let disagreement = |id: &str| v1::Disagreement {
        id: id.to_owned(),
        subject: "0000:01:00.0".to_owned(),
        found: format!("vfio says free\u{1b}[2J{}", "x".repeat(10_000)),
        done: "dirty".to_owned(),
    };
    let say = async |agent: &Agent, ids: &[&str]| {
        let report = v1::Observed {
            disagreements: ids.iter().map(|id| disagreement(id)).collect(),
            devices: agent.notes(),
            generation: agent.intended.generation,
            ..Default::default()
        };
        agent.say(v1::from_agent::Body::Observed(report)).await;
    };
    say(&agent, &["a-1", "", "a-1"]).await;
    say(&agent, &["a-1"]).await;
    drop(agent);
    // Told again in another session: the same.
    let mut agent = Agent::dial(&world, "dgx", hello(0)).await.unwrap();
    agent.hear().await;
    say(&agent, &["a-1", "a-2"]).await;
    world.logged(|e| e.action == "observe.disagreement" && e.index > 0 && e.detail["found"] != "").await;
    let found = || {
        let log = world.log().into_iter().filter(|e| e.action == "observe.disagreement");
        log.collect::<Vec<_>>()
    };
    let end = tokio::time::Instant::now() + SOON;
    while found().len() < 2 && tokio::time::Instant::now() < end {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let entries = found();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        assert_eq!((entry.actor.as_str(), entry.resource.as_str()), ("host/dgx", "host/dgx"));
        let text = entry.detail["found"].as_str().unwrap();
        assert!(text.len() <= 160 && !text.contains('\u{1b}'), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_whose_key_a_host_was_given_goes_to_no_other() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 2).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let first = agent.slice(v1::Goal::Run).await;
    agent.key(&first).await.unwrap();
    // The host takes the key, and then says that it cannot use a device: another would get a disk that it can open.
    agent.clean.remove(&first.devices[0]);
    let waiting = v1::ObservedSlice { steps: Vec::new(), ..observed(&first, v1::Phase::Preparing) };
    agent.observe(vec![waiting]).await;
    world.until("dina", "heart/main", v1::SliceState::Preparing).await;
    holm_control::reconcile::round(&world.app).unwrap();
    let state = world.app.ledger.state();
    let slice = state.slices.values().next().unwrap();
    assert!(slice.placement.is_some() && slice.key_given.is_some() && slice.generation == first.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_one_kind_does_not_become_the_other() {
    let world = World::full().await;
    let _agent = Agent::dial(&world, "dgx", hello(0)).await.unwrap();
    let real = v1::Hello { simulated: false, ..hello(0) };
    let refused = Agent::dial(&world, "dgx", real).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    world.logged(|e| e.action == "agent.session" && e.outcome.to_string().contains("refused")).await;
}
