//! Stopping and starting again: who may, what goes and what stays.

use crate::world::{Agent, World, decide, ready_slice};
use holm_proto::v1;
use tonic::Code;

async fn stop(world: &World, who: &str, slice: &str) -> Result<v1::Slice, tonic::Status> {
    world.slices(who).stop_slice(decide(slice, "")).await.map(tonic::Response::into_inner)
}

async fn start(world: &World, who: &str, slice: &str) -> Result<v1::Slice, tonic::Status> {
    let slice = Some(crate::world::reference(slice));
    let request = v1::StartSliceRequest { slice, ..Default::default() };
    world.slices(who).start_slice(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_rests_gives_its_devices_back_and_keeps_key_and_disk() {
    let mut world = World::full().await;
    world.invite_host("other").await;
    let (mut agent, first) = ready_slice(&world, "heart/main", 2).await;
    let key = agent.key(&first).await.unwrap_err();
    assert!(key.contains("given") || key.contains("ready"), "{key}");
    assert!(!first.volume_used, "nothing was on it");

    // Whoever is neither of the project nor runs its host is refused, and that is in the log.
    for (who, code) in [("frida", Code::PermissionDenied), ("anna", Code::NotFound), ("lars", Code::NotFound)]
    {
        let refused = stop(&world, who, "heart/main").await.unwrap_err();
        assert_eq!(refused.code(), code, "{who}: {refused}");
        let entry = world.logged(|e| e.action == "slice.stop" && e.actor == format!("person/{who}")).await;
        assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "slice/heart/main"));
    }
    let early = start(&world, "dina", "heart/main").await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition, "{early}");

    // A member stops it.
    assert_eq!(stop(&world, "rosa", "heart/main").await.unwrap().state(), v1::SliceState::Stopping);
    let kept = agent.slice(v1::Goal::Kept).await;
    assert!(kept.generation > first.generation && kept.devices.len() == 2);
    assert!(agent.key(&kept).await.is_err(), "what stops gets no key");
    agent.reaches(&kept, v1::Phase::Kept).await;
    let rests = world.until("dina", "heart/main", v1::SliceState::Stopped).await;
    assert!(rests.reason.contains("stopped by rosa") && rests.may.is_empty(), "{}", rests.reason);
    agent.intends(|i| i.slices.iter().any(|s| s.devices.is_empty())).await;
    assert!(agent.key(&kept).await.is_err(), "nor does what rests");
    agent.clean(&world, "dgx").await;

    // Its devices are others' meanwhile, and another host with room does not get it.
    world.request("dina", "heart/next", 16).await.unwrap();
    world.approve("frida", "heart/next").await.unwrap();
    world.until("dina", "heart/next", v1::SliceState::Placed).await;
    let _other = Agent::ready(&world, "other").await;
    let operators = start(&world, "olga", "heart/main").await.unwrap_err();
    assert_eq!(operators.code(), Code::PermissionDenied, "who runs the host starts nothing of others");
    let waits = start(&world, "dina", "heart/main").await.unwrap();
    assert_eq!((waits.state(), waits.host.as_str()), (v1::SliceState::Approved, "dgx"));
    let back = world.slices("dina").withdraw_slice(decide("heart/main", "")).await.unwrap_err();
    assert!(back.message().contains("has a disk already"), "{back}");
    let explained = world.slices("dina").explain_slice(crate::world::reference("heart/main")).await;
    let explained = explained.unwrap().into_inner();
    assert_eq!(explained.position, 1, "it waits for its own host: {explained:?}");
    // Taken back, and asked for again.
    assert_eq!(stop(&world, "dina", "heart/main").await.unwrap().state(), v1::SliceState::Stopped);
    start(&world, "rosa", "heart/main").await.unwrap();

    world.close("dina", "heart/next").await.unwrap();
    let next = agent.slice(v1::Goal::Destroyed).await;
    agent.reaches(&next, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    let again = agent.slice(v1::Goal::Run).await;
    assert_eq!((again.slice_id.as_str(), again.volume_id.as_str()), (&*first.slice_id, &*first.volume_id));
    assert!(again.volume_used && again.generation > kept.generation && again.devices.len() == 2);
    agent.key(&again).await.unwrap();
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&again, phase).await;
    }
    let ready = world.until("dina", "heart/main", v1::SliceState::Ready).await;
    assert_eq!(ready.host, "dgx");

    // For the sake of the host its operator stops it; closed from there, it is destroyed.
    stop(&world, "olga", "heart/main").await.unwrap();
    let kept = agent.slice(v1::Goal::Kept).await;
    agent.reaches(&kept, v1::Phase::Kept).await;
    world.until("dina", "heart/main", v1::SliceState::Stopped).await;
    agent.clean(&world, "dgx").await;
    world.close("dina", "heart/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    assert!(gone.devices.is_empty(), "they may be another's by now");
    agent.reaches(&gone, v1::Phase::Absent).await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    let state = world.app.ledger.state();
    let slice = state.slices.values().find(|s| s.name.as_str() == "main").unwrap();
    // Of each device the last word.
    assert_eq!((slice.evidence.len(), slice.past.len(), slice.key_destroyed.is_some()), (2, 1, true));
    assert!(slice.evidence.iter().all(|e| Some(e.at) > slice.placed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_hold_is_not_started() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    stop(&world, "dina", "heart/main").await.unwrap();
    let kept = agent.slice(v1::Goal::Kept).await;
    agent.reaches(&kept, v1::Phase::Kept).await;
    world.until("dina", "heart/main", v1::SliceState::Stopped).await;
    let project = |reason: &str| v1::HoldProjectRequest {
        project: "heart".to_owned(),
        reason: reason.to_owned(),
        dry_run: false,
    };
    world.projects("frida").hold_project(project("a complaint")).await.unwrap();
    let refused = start(&world, "dina", "heart/main").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("its project is on hold, by frida"), "{refused}");
    let entry = world.logged(|e| e.action == "slice.start" && e.outcome == "refused").await;
    assert_eq!(entry.actor, "person/dina");
    world.projects("frida").release_project(project("settled")).await.unwrap();
    start(&world, "dina", "heart/main").await.unwrap();
}
