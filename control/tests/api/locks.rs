//! Locks: who sets and lifts them, what each bites on, and that it does so at once and for good.

use crate::slices::{connect, echo, first};
use crate::world::{Agent, World, decide, ready_slice, reference};
use holm_control::domain::State;
use holm_proto::v1;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// Within so long a lock bites on what is open.
const BITES: Duration = Duration::from_secs(5);

async fn set(world: &World, who: &str, subject: &str) -> Result<v1::Lock, Status> {
    let (subject, reason) = (subject.to_owned(), "a suspicion".to_owned());
    let request = v1::SetLockRequest { subject, reason, dry_run: false };
    Ok(world.locks(who).set_lock(request).await?.into_inner())
}

async fn lift(world: &World, who: &str, subject: &str) -> Result<v1::Lock, Status> {
    let (subject, reason) = (subject.to_owned(), "settled".to_owned());
    let request = v1::LiftLockRequest { subject, reason, dry_run: false };
    Ok(world.locks(who).lift_lock(request).await?.into_inner())
}

fn denied<T: std::fmt::Debug>(answer: Result<T, Status>, text: &str) {
    let refused = answer.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains(text), "{refused}");
    assert!(!refused.message().contains("a suspicion"), "why is for officers: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_officers_set_and_lift_them_and_that_is_in_the_log() {
    let world = World::full().await;
    let _agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 1).await.unwrap();
    for (subject, resource) in [
        ("person/rosa", "person/rosa"),
        ("project/heart", "project/heart"),
        ("slice/heart/main", "slice/heart/main"),
        ("device/dgx/01:00.0", "host/dgx/01:00.0"),
        ("keys/heart", "keys/project/heart"),
    ] {
        for who in ["dina", "rosa", "olga", "anna", "lars", "dgx"] {
            for action in ["lock.set", "lock.lift"] {
                let refused = match action {
                    "lock.set" => set(&world, who, subject).await.unwrap_err(),
                    _ => lift(&world, who, subject).await.unwrap_err(),
                };
                let no = [Code::PermissionDenied, Code::NotFound];
                assert!(no.contains(&refused.code()), "{who} {subject}: {refused}");
                let entry = world.log().pop().unwrap();
                assert_eq!(entry.outcome, "refused");
                assert_eq!((entry.action.as_str(), entry.resource.as_str()), (action, resource));
            }
        }
        let empty = v1::SetLockRequest { subject: subject.to_owned(), ..Default::default() };
        assert_eq!(world.locks("frida").set_lock(empty).await.unwrap_err().code(), Code::InvalidArgument);
        let locked = set(&world, "frida", subject).await.unwrap();
        let entry = world.logged(|e| e.action == "lock.set" && e.outcome == "allowed").await;
        assert_eq!(entry.detail["reason"], "a suspicion");
        // Of a person also what she had approved and is not decided.
        assert_eq!(entry.changes.len(), if subject.starts_with("person/") { 2 } else { 1 });
        let twice = set(&world, "gustav", subject).await.unwrap_err();
        assert_eq!(twice.code(), Code::FailedPrecondition, "{twice}");
        for who in ["frida", "gustav", "anna"] {
            let all = world.locks(who).list_locks(v1::ListLocksRequest {}).await.unwrap().into_inner().locks;
            assert_eq!(all, std::slice::from_ref(&locked), "{who}");
        }
        for who in ["dina", "olga"] {
            denied(world.locks(who).list_locks(v1::ListLocksRequest {}).await, "only officers and auditors");
        }
        let lifted = lift(&world, "frida", &locked.subject).await.unwrap();
        assert_eq!(lifted, locked);
        let none = lift(&world, "frida", subject).await.unwrap_err();
        assert_eq!(none.code(), Code::FailedPrecondition, "{none}");
    }
    for (nothing, code) in [
        ("person/nobody", Code::NotFound),
        ("project/none", Code::NotFound),
        ("slice/heart/none", Code::NotFound),
        ("device/dgx/99:00.0", Code::NotFound),
        ("device/none/01:00.0", Code::NotFound),
        ("robot/x", Code::InvalidArgument),
        ("person/a/b", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        assert_eq!(set(&world, "frida", nothing).await.unwrap_err().code(), code, "{nothing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_ends_and_after_a_restart_it_is_still_locked() {
    for subject in ["person/rosa", "project/heart", "slice/heart/main"] {
        let world = World::full().await;
        let (agent, _) = ready_slice(&world, "heart/main", 1).await;
        let agent = echo(&world, agent).await;
        let (_send, mut tunnel) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
        assert_eq!(tunnel.message().await.unwrap().unwrap().data, "HELLO");
        let watched = world.slices("rosa").watch_slice(reference("heart/main")).await.unwrap();
        let mut watched = watched.into_inner();
        watched.message().await.unwrap().unwrap();

        let began = Instant::now();
        set(&world, "frida", subject).await.unwrap();
        denied(tokio::time::timeout(BITES, tunnel.message()).await.unwrap(), "is locked");
        denied(tokio::time::timeout(BITES, watched.message()).await.unwrap(), "is locked");
        assert!(began.elapsed() < BITES);
        let ended = world.logged(|e| e.action == "slice.disconnect").await;
        let why = ended.detail["why"].as_str().unwrap();
        assert!(why.contains(&format!("`{subject}` is locked")), "{why}");
        // The lead's own watch, left open since the slice became ready, ends as well where all of it is locked.
        let ended =
            world.logged(|e| e.action == "slice.watch" && e.actor == "person/rosa" && e.outcome == "refused");
        assert_eq!(ended.await.resource, "slice/heart/main");
        // What runs runs on.
        assert_eq!(world.get("frida", "heart/main").await.unwrap().state(), v1::SliceState::Ready);

        drop(agent);
        let world = world.restart().await;
        denied(world.get("rosa", "heart/main").await, "is locked");
        assert!(connect(&world, "rosa", first("heart/main", b"")).await.is_err());
        let entry = world.logged(|e| e.actor == "person/rosa" && e.action == "slice.connect").await;
        assert_eq!(entry.outcome, "refused");
        assert!(entry.reasons[0].contains("is locked"), "{:?}", entry.reasons);
        lift(&world, "frida", subject).await.unwrap();
        world.get("rosa", "heart/main").await.unwrap();
        // And the log says it all again.
        let mut state = State::default();
        for entry in world.log() {
            for change in entry.changes {
                state.apply(&[serde_json::from_value(change).unwrap()]);
            }
        }
        assert_eq!(state, *world.app.ledger.state());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_locks_herself_and_a_locked_officer_does_nothing() {
    let mut world = World::full().await;
    denied(set(&world, "frida", "person/frida").await, "nobody locks herself");
    set(&world, "frida", "person/gustav").await.unwrap();
    // She who is locked locks nobody, so the other can always lift it.
    denied(set(&world, "gustav", "person/frida").await, "`person/gustav` is locked");
    denied(lift(&world, "gustav", "person/gustav").await, "`person/gustav` is locked");
    lift(&world, "frida", "person/gustav").await.unwrap();
    set(&world, "gustav", "person/frida").await.unwrap();
    lift(&world, "gustav", "person/frida").await.unwrap();

    // Codes that she gave out wait with her.
    let subject = Some(v1::invite_request::Subject::Person("nina".to_owned()));
    let invite = v1::InviteRequest { subject, roles: vec!["researcher".to_owned()] };
    let code = world.person("olga").invite(invite).await.unwrap().into_inner().code;
    set(&world, "frida", "person/olga").await.unwrap();
    assert_eq!(world.enrol("nina", &code).await.unwrap_err().code(), Code::PermissionDenied);
    lift(&world, "gustav", "person/olga").await.unwrap();
    world.enrol("nina", &code).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_two_approve_another_officer_lifts_it() {
    let mut world = World::full().await;
    world.request("lars", "brain/main", 1).await.unwrap();
    for subject in ["project/brain", "slice/brain/main", "keys/brain"] {
        set(&world, "frida", subject).await.unwrap();
        denied(lift(&world, "frida", subject).await, "another one than `frida`");
        let entry = world.log().pop().unwrap();
        assert_eq!((entry.action.as_str(), entry.outcome.as_str()), ("lock.lift", "refused"));
        lift(&world, "gustav", subject).await.unwrap();
        assert_eq!(world.log().pop().unwrap().detail["reason"], "settled");
    }
    // One's own project is another's to lift.
    world.invite("frida", "mona", &["officer", "lead"]).await;
    world.project("mona", "mine", "2").await.unwrap();
    set(&world, "frida", "project/mine").await.unwrap();
    denied(lift(&world, "mona", "project/mine").await, "nobody lifts a lock on their own project");
    lift(&world, "frida", "project/mine").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_starts_in_a_locked_project_and_it_goes_on_when_that_is_lifted() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 1).await.unwrap();
    for subject in ["project/heart", "slice/heart/main", "keys/heart"] {
        set(&world, "frida", subject).await.unwrap();
    }
    denied(world.approve("gustav", "heart/main").await, "is locked");
    for subject in ["project/heart", "slice/heart/main"] {
        lift(&world, "frida", subject).await.unwrap();
    }
    // Its keys alone keep it from being placed.
    world.approve("gustav", "heart/main").await.unwrap();
    let waits = world.until_it("dina", "heart/main", |s| s.reason.contains("locked")).await;
    assert_eq!(waits.state(), v1::SliceState::Approved);
    lift(&world, "frida", "keys/heart").await.unwrap();
    let wanted = agent.slice(v1::Goal::Run).await;
    for subject in ["project/heart", "slice/heart/main", "keys/heart"] {
        set(&world, "frida", subject).await.unwrap();
        let refused = agent.ask_key(&wanted).await.unwrap_err();
        assert!(refused.later && refused.reason.contains("locked"), "{refused:?}");
        let entry = world.logged(|e| e.action == "agent.key").await;
        assert_eq!((entry.outcome.as_str(), entry.project.as_deref()), ("refused", Some("heart")));
        if subject != "keys/heart" {
            lift(&world, "frida", subject).await.unwrap();
            // It is given by itself; and in the next session again.
            assert_eq!(agent.given().await.slice_id, wanted.slice_id);
            agent = Agent::dial(&world, "dgx", crate::world::hello(agent.intended.generation)).await.unwrap();
            agent.slice(v1::Goal::Run).await;
        }
    }
    lift(&world, "frida", "keys/heart").await.unwrap();
    agent.given().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_keys_are_not_escrowed_nor_rotated_and_what_is_closed_is_kept() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    set(&world, "frida", "keys/heart").await.unwrap();
    denied(world.rotate("gustav", Some("heart")).await, "`keys/heart` is locked");
    world.rotate("gustav", Some("brain")).await.unwrap_err();
    world.rotate("gustav", None).await.unwrap();
    for (what, answer) in [
        ("rekey", world.slices("dina").rekey_slice(decide("heart/main", "")).await),
        ("rekey", world.slices("frida").rekey_slice(decide("heart/main", "")).await),
        ("reencrypt", world.slices("dina").reencrypt_slice(decide("heart/main", "")).await),
    ] {
        let refused = answer.unwrap_err();
        assert!(refused.message().contains("`keys/heart` is locked"), "{what}: {refused}");
    }
    world.close("dina", "heart/main").await.unwrap();
    let kept = agent.slice(v1::Goal::Kept).await;
    agent.reaches(&kept, v1::Phase::Kept).await;
    let slice = world.until("dina", "heart/main", v1::SliceState::Kept).await;
    assert_eq!(slice.reason, "locked by frida");
    lift(&world, "gustav", "keys/heart").await.unwrap();
    world.until("dina", "heart/main", v1::SliceState::Closing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_locked_project_officers_act_and_what_runs_runs_on() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    set(&world, "frida", "project/heart").await.unwrap();
    for who in ["dina", "rosa"] {
        denied(world.get(who, "heart/main").await, "ask `frida`");
        let all = world.slices(who).list_slices(v1::ListSlicesRequest::default()).await.unwrap();
        assert!(all.into_inner().slices.is_empty(), "{who}");
    }
    denied(world.close("dina", "heart/main").await, "is locked");
    denied(world.slices("dina").stop_slice(decide("heart/main", "")).await, "is locked");
    denied(world.slices("olga").stop_slice(decide("heart/main", "")).await, "is locked");
    denied(world.member("dina", "heart", "lars").await, "is locked");
    for who in ["frida", "gustav", "olga"] {
        let shown = world.get(who, "heart/main").await.unwrap();
        assert_eq!(shown.state(), v1::SliceState::Ready);
        let lock = shown.lock.unwrap();
        assert_eq!((lock.by.as_str(), lock.reason.as_str()), ("frida", ""));
    }
    // Who is not in the project learns nothing by it.
    assert_eq!(world.get("lars", "heart/main").await.unwrap_err().code(), Code::NotFound);
    // An officer stops it: nothing is destroyed.
    let freeze = v1::HoldSliceRequest {
        slice: Some(reference("heart/main")),
        reason: "a case".to_owned(),
        freeze: true,
        dry_run: false,
    };
    world.slices("gustav").hold_slice(freeze).await.unwrap();
    let kept = agent.slice(v1::Goal::Kept).await;
    agent.reaches(&kept, v1::Phase::Kept).await;
    world.until("frida", "heart/main", v1::SliceState::Kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_device_is_given_to_nobody_new_and_who_has_it_keeps_it() {
    let world = World::full().await;
    let (mut agent, wanted) = ready_slice(&world, "heart/main", 8).await;
    let free = (1..=16).map(crate::world::address).find(|a| !wanted.devices.contains(a)).unwrap();
    for device in [&wanted.devices[0], &free] {
        set(&world, "frida", &format!("device/dgx/{device}")).await.unwrap();
    }
    let host = world.hosts("olga").get_host(v1::GetHostRequest::default()).await.unwrap().into_inner();
    let locked: Vec<&v1::Device> = host.devices.iter().filter(|d| d.lock.is_some()).collect();
    assert_eq!(locked.len(), 2);
    assert!(locked.iter().all(|d| d.lock.as_ref().unwrap().reason.is_empty()));
    assert_eq!(world.get("dina", "heart/main").await.unwrap().state(), v1::SliceState::Ready);
    world.request("dina", "heart/next", 8).await.unwrap();
    world.approve("frida", "heart/next").await.unwrap();
    let waits = world.until_it("dina", "heart/next", |s| s.reason.starts_with("queued")).await;
    assert!(!waits.reason.contains("frida"), "who locked it is not hers to know: {}", waits.reason);
    lift(&world, "gustav", &format!("device/dgx/{free}")).await.unwrap();
    let runs = |i: &v1::Intended| i.slices.iter().filter(|s| s.goal() == v1::Goal::Run).count() == 2;
    agent.intends(runs).await;
}
