//! Holds: who may set and lift them, and what they keep.

use crate::world::{World, decide, hint, ready_slice, reference};
use holm_proto::v1;
use tonic::Code;

fn hold(slice: &str, freeze: bool) -> v1::HoldSliceRequest {
    let (slice, reason) = (Some(reference(slice)), "a complaint".to_owned());
    v1::HoldSliceRequest { slice, reason, freeze, dry_run: false }
}

fn of_project(project: &str, reason: &str) -> v1::HoldProjectRequest {
    v1::HoldProjectRequest { project: project.to_owned(), reason: reason.to_owned(), dry_run: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn key_and_disk_outlive_closing_until_an_officer_lifts_the_hold() {
    let world = World::full().await;
    let (mut agent, wanted) = ready_slice(&world, "heart/main", 2).await;
    // Whoever is no officer is refused, and that is in the log.
    for (who, code) in [
        ("dina", Code::PermissionDenied),
        ("rosa", Code::PermissionDenied),
        ("olga", Code::PermissionDenied),
        ("anna", Code::NotFound),
        ("lars", Code::NotFound),
    ] {
        let refused = world.slices(who).hold_slice(hold("heart/main", true)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{who}: {refused}");
        let entry = world.logged(|e| e.action == "hold.set" && e.actor == format!("person/{who}")).await;
        assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "slice/heart/main"));
    }
    let empty = v1::HoldSliceRequest { reason: " \n".to_owned(), ..hold("heart/main", false) };
    let refused = world.slices("frida").hold_slice(empty).await.unwrap_err();
    assert_eq!((refused.code(), hint(&refused).as_str()), (Code::InvalidArgument, "--reason TEXT"));

    let held = world.slices("frida").hold_slice(hold("heart/main", false)).await.unwrap().into_inner();
    assert_eq!(held.state(), v1::SliceState::Ready, "a hold is no lock");
    let shown = world.get("dina", "heart/main").await.unwrap().hold.unwrap();
    assert_eq!((shown.by.as_str(), shown.reason.as_str(), shown.of_project), ("frida", "a complaint", false));
    let again = world.slices("gustav").hold_slice(hold("heart/main", false)).await.unwrap_err();
    assert!(again.message().contains("on hold already, by frida"), "{again}");

    world.close("dina", "heart/main").await.unwrap();
    let kept = agent.slice(v1::Goal::Kept).await;
    assert!(kept.generation > wanted.generation && kept.devices.len() == 2);
    assert!(agent.key(&kept).await.is_err(), "its key is given to nobody");
    let again = world.close("dina", "heart/main").await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    agent.reaches(&kept, v1::Phase::Kept).await;
    let slice = world.until("dina", "heart/main", v1::SliceState::Kept).await;
    assert_eq!(slice.reason, "on hold by frida: a complaint");
    let released = agent.intends(|i| i.slices.iter().any(|s| s.devices.is_empty())).await;
    assert_eq!(released.slices[0].goal(), v1::Goal::Kept);
    assert!(agent.key(&released.slices[0]).await.is_err());
    agent.clean(&world, "dgx").await;
    // On the same devices there is room for another.
    world.request("dina", "heart/next", 16).await.unwrap();
    world.approve("frida", "heart/next").await.unwrap();
    world.until("dina", "heart/next", v1::SliceState::Placed).await;

    for who in ["dina", "rosa", "olga", "anna"] {
        world.slices(who).release_slice(decide("heart/main", "please")).await.unwrap_err();
        let entry = world.logged(|e| e.action == "hold.lift" && e.actor == format!("person/{who}")).await;
        assert_eq!(entry.outcome, "refused");
    }
    let id = world.app.ledger.state().slices.values().find(|s| s.hold.is_some()).unwrap().id;
    let key = || {
        let slice = world.app.ledger.state().slices[&id].clone();
        (
            slice.key_destroyed.is_some(),
            world.app.keys.open_volume_key(slice.project, slice.volume).unwrap().is_some(),
        )
    };
    assert_eq!(key(), (false, true));
    // At this level one officer is enough, and by itself it goes on.
    world.slices("frida").release_slice(decide("heart/main", "settled")).await.unwrap();
    let entry = world.logged(|e| e.action == "hold.lift" && e.outcome == "allowed").await;
    assert_eq!((entry.actor.as_str(), &entry.detail["reason"]), ("person/frida", &"settled".into()));
    let gone = agent.slice(v1::Goal::Destroyed).await;
    assert!(gone.generation > kept.generation && gone.devices.is_empty());
    world.until("dina", "heart/main", v1::SliceState::Closing).await;
    agent.reaches(&gone, v1::Phase::Absent).await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    assert_eq!(key(), (true, false));
    let late = world.slices("frida").hold_slice(hold("heart/main", false)).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    // And the log says it all again.
    let log = world.app.ledger.entries(0, world.app.ledger.size()).unwrap();
    let mut state = holm_control::domain::State::default();
    for body in log {
        for change in holm_control::audit::Entry::from_bytes(&body).unwrap().changes {
            state.apply(&[serde_json::from_value(change).unwrap()]);
        }
    }
    assert_eq!(state, *world.app.ledger.state());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_two_approve_another_officer_lifts_it() {
    let world = World::full().await;
    world.projects("frida").hold_project(of_project("brain", "a complaint")).await.unwrap();
    let own = world.projects("frida").release_project(of_project("brain", "settled")).await.unwrap_err();
    assert!(own.message().contains("another one than `frida`"), "{own}");
    for (who, code) in [
        ("lars", Code::PermissionDenied),
        ("olga", Code::NotFound),
        ("anna", Code::NotFound),
        ("dina", Code::NotFound),
    ] {
        let refused = world.projects(who).release_project(of_project("brain", "settled")).await.unwrap_err();
        assert_eq!(refused.code(), code, "{who}: {refused}");
        let entry = world.logged(|e| e.action == "hold.lift" && e.actor == format!("person/{who}")).await;
        assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "project/brain"));
    }
    let twice = world.projects("gustav").hold_project(of_project("brain", "another")).await.unwrap_err();
    assert!(twice.message().contains("on hold already, by frida"), "{twice}");
    world.projects("gustav").release_project(of_project("brain", "")).await.unwrap_err();
    world.projects("gustav").release_project(of_project("brain", "settled")).await.unwrap();
    let entry = world.logged(|e| e.action == "hold.lift" && e.outcome == "allowed").await;
    assert_eq!((entry.actor.as_str(), &entry.detail["reason"]), ("person/gustav", &"settled".into()));
    // At level 2 whoever set it may.
    world.projects("frida").hold_project(of_project("heart", "a complaint")).await.unwrap();
    world.projects("frida").release_project(of_project("heart", "settled")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_of_a_project_on_hold_says_so_and_one_that_is_frozen_stops() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    world.projects("frida").hold_project(of_project("heart", "a complaint")).await.unwrap();
    let shown = world.get("rosa", "heart/main").await.unwrap();
    assert!(shown.hold.unwrap().of_project && shown.state == i32::from(v1::SliceState::Ready));
    let none = world.slices("gustav").release_slice(decide("heart/main", "x")).await.unwrap_err();
    assert!(hint(&none).starts_with("its whole project is: holm project release heart"), "{}", hint(&none));
    world.slices("frida").hold_slice(hold("heart/main", true)).await.unwrap();
    let kept = agent.slice(v1::Goal::Kept).await;
    agent.reaches(&kept, v1::Phase::Kept).await;
    world.until("dina", "heart/main", v1::SliceState::Kept).await;
    // Both lifted it stays: its lead has not closed it.
    world.slices("frida").release_slice(decide("heart/main", "settled")).await.unwrap();
    world.projects("frida").release_project(of_project("heart", "settled")).await.unwrap();
    let entry = world.logged(|e| e.action == "slice.keep" && e.detail.is_null()).await;
    assert_eq!(entry.resource, "slice/heart/main");
    let frozen = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(frozen.state(), v1::SliceState::Kept);
    assert!(frozen.hold.is_none());
    world.close("dina", "heart/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
}
