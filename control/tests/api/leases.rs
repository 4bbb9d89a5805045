//! How long a slice may run: what happens by itself, what nobody gets around, and how there is more time.

use crate::register::{log_in, refused_by};
use crate::slices::{connect, echo, first};
use crate::world::{Agent, World, decide, hint, ready_slice, reference};
use holm_control::domain::records::{Change, Ended, Project, Record, Slice};
use holm_control::ledger::{Call, Decided};
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use tonic::{Code, Status};

/// Within so long the end of a lease bites on what is open.
const BITES: Duration = Duration::from_secs(5);

async fn extend(world: &World, who: &str) -> Result<v1::Slice, Status> {
    world.slices(who).extend_slice(decide("heart/main", "another paper")).await.map(|r| r.into_inner())
}

async fn start(world: &World, who: &str) -> Result<v1::Slice, Status> {
    let request = v1::StartSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    world.slices(who).start_slice(request).await.map(|r| r.into_inner())
}

/// What a year would do to the slice, now.
fn aged(world: &World, of: impl Fn(&Slice) -> Slice) {
    let change = |state: &holm_control::domain::State, _| {
        let s = state.slices.values().next().unwrap();
        Ok(Decided::new(vec![Change::Put(Record::Slice(Box::new(of(s))))], ()))
    };
    world.app.ledger.commit(&Call::own("test", "slice/heart/main".to_owned()), change).unwrap();
}

fn ago(days: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24 * days)
}

fn lease_ends(world: &World) {
    aged(world, |s| Slice { lease: Some(ago(0)), ..s.clone() });
}

/// As the agent does it.
async fn comes_to_rest(world: &World, agent: &mut Agent) -> v1::Slice {
    let kept = agent.slice(v1::Goal::Kept).await;
    agent.reaches(&kept, v1::Phase::Kept).await;
    world.until("dina", "heart/main", v1::SliceState::Stopped).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_ends_when_its_time_is_over() {
    let world = World::full().await;
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    let _agent = echo(&world, agent).await;
    let (_send, mut tunnel) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
    assert_eq!(tunnel.message().await.unwrap().unwrap().data, "HELLO");
    lease_ends(&world);
    let ended = tokio::time::timeout(BITES, tunnel.message()).await.unwrap().unwrap_err();
    assert!(ended.message().contains("the time for which `heart/main` was approved is over"), "{ended}");
    let entry = world.logged(|e| e.action == "slice.end").await;
    assert_eq!((entry.actor.as_str(), entry.resource.as_str()), ("holmd", "slice/heart/main"));
    assert_eq!(entry.project.as_deref(), Some("heart"));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_time_is_over_it_is_stopped_and_nobody_gets_in_until_it_is_approved_anew() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    let given = world.get("dina", "heart/main").await.unwrap().lease.unwrap();
    let days = SignedDuration::from_secs(given.seconds - Timestamp::now().as_second()).as_hours() / 24;
    assert!((364..=365).contains(&days), "as the level says, from its approval: {days}");

    lease_ends(&world);
    let rests = comes_to_rest(&world, &mut agent).await;
    assert!(rests.lease_over && rests.reason.starts_with("the time for which it was approved ended on"));

    let refused = log_in(&world, "rosa", "heart/main").await.unwrap_err();
    refused_by(&world, &refused, "rosa", "slice.connect", "slice.lease").await;
    let refused = start(&world, "dina").await.unwrap_err();
    refused_by(&world, &refused, "dina", "slice.start", "slice.lease").await;
    assert!(refused.message().contains("`holm slice extend heart/main`"), "{refused}");

    // Only its lead asks, and no one who watches or runs it.
    for who in ["rosa", "frida", "olga"] {
        let refused = extend(&world, who).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{who}: {refused}");
        let entry = world.logged(|e| e.action == "slice.extend").await;
        assert_eq!((entry.outcome.as_str(), entry.actor), ("refused", format!("person/{who}")));
    }
    for who in ["lars", "anna"] {
        assert_eq!(extend(&world, who).await.unwrap_err().code(), Code::NotFound, "{who}");
    }
    let asks = extend(&world, "dina").await.unwrap();
    assert_eq!(asks.extension.unwrap().comment, "another paper");
    let twice = extend(&world, "dina").await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    assert_eq!(hint(&twice), "to take it back: holm slice withdraw heart/main");
    assert!(start(&world, "dina").await.is_err(), "who asks has it not");
    assert_eq!(world.approve("dina", "heart/main").await.unwrap_err().code(), Code::PermissionDenied);

    let back = world.slices("dina").withdraw_slice(decide("heart/main", "")).await.unwrap().into_inner();
    assert_eq!((back.state(), back.extension), (v1::SliceState::Stopped, None));
    let before = extend(&world, "dina").await.unwrap();
    let silent = world.slices("gustav").reject_slice(decide("heart/main", " ")).await.unwrap_err();
    assert_eq!(silent.code(), Code::InvalidArgument, "{silent}");
    let no = world.slices("gustav").reject_slice(decide("heart/main", "write it up")).await.unwrap();
    let no = no.into_inner();
    assert_eq!((no.reason.as_str(), no.extension), ("more time was rejected by gustav: write it up", None));

    let asked = extend(&world, "dina").await.unwrap();
    assert_eq!(asked.reason, "", "what was answered before is not said of this");
    // Not what is asked now: the slice itself, and what was asked for before.
    for id in [&asked.id[..8], &before.extension.unwrap().id] {
        let other = v1::DecideSliceRequest { id: id.to_owned(), ..decide("heart/main", "") };
        let refused = world.slices("frida").approve_slice(other).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
    // She approved the request; of this she has not approved anything yet.
    let this = v1::DecideSliceRequest { id: asked.extension.unwrap().id, ..decide("heart/main", "") };
    let more = world.slices("frida").approve_slice(this).await.unwrap().into_inner();
    assert!(
        !more.lease_over && more.extension.is_none() && (more.approvals.len(), more.renewed.len()) == (1, 1)
    );
    assert_eq!(start(&world, "dina").await.unwrap().state(), v1::SliceState::Approved);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_3_more_time_takes_two_officers_as_the_request_did() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    world.request("lars", "brain/main", 1).await.unwrap();
    for who in ["frida", "gustav"] {
        world.approve(who, "brain/main").await.unwrap();
    }
    let wanted = agent.slice(v1::Goal::Run).await;
    agent.key(&wanted).await.unwrap();
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&wanted, phase).await;
    }
    let before = world.until("lars", "brain/main", v1::SliceState::Ready).await;
    world.slices("lars").extend_slice(decide("brain/main", "")).await.unwrap();
    let once = world.approve("frida", "brain/main").await.unwrap();
    assert!(once.extension.is_some() && once.lease == before.lease, "one is not enough");
    let again = world.approve("frida", "brain/main").await.unwrap_err();
    refused_by(&world, &again, "frida", "slice.approve", "slice.approve-once").await;
    let twice = world.approve("gustav", "brain/main").await.unwrap();
    assert!(twice.extension.is_none() && twice.lease != before.lease);
    assert_eq!(twice.state(), v1::SliceState::Ready, "it runs on meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_approves_is_taken_back_by_itself() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    aged(&world, |s| Slice { requested: ago(29), ..s.clone() });
    aged(&world, |s| Slice { requested: ago(31), ..s.clone() });
    let entry = world.logged(|e| e.action == "slice.expire").await;
    assert_eq!(entry.actor, "holmd");
    assert_eq!(world.log().iter().filter(|e| e.action == "slice.expire").count(), 1);
    let late = world.approve("frida", "heart/main").await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    let gone = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(gone.reason, "it was not approved within 30 days");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_project_has_ended_a_slice_is_stopped_and_after_the_days_of_grace_destroyed() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    let of_project = |change: &dyn Fn(&Project) -> Project| {
        let decide = |state: &holm_control::domain::State, _| {
            let p = state.project(&"heart".parse().unwrap()).unwrap();
            Ok(Decided::new(vec![Change::Put(Record::Project(change(p)))], ()))
        };
        world.app.ledger.commit(&Call::own("test", "project/heart".to_owned()), decide).unwrap();
    };
    let ends = ago(1);
    of_project(&|p| {
        let mut p = p.clone();
        p.registration.ends = Some(ends);
        p
    });
    world.logged(|e| e.action == "project.end" && e.actor == "holmd").await;
    let rests = comes_to_rest(&world, &mut agent).await;
    assert!(rests.reason.starts_with("its project ended on"), "{}", rests.reason);
    let request = v1::GetProjectRequest { name: "heart".to_owned() };
    let shown = world.projects("dina").get_project(request).await.unwrap().into_inner();
    let warned =
        shown.warnings.iter().any(|w| w.starts_with("the time until its slices are destroyed ends in"));
    assert!(warned, "{:?}", shown.warnings);

    // A hold keeps it, whatever the clock says.
    let held = v1::HoldSliceRequest {
        slice: Some(reference("heart/main")),
        reason: "a complaint".to_owned(),
        ..Default::default()
    };
    world.slices("frida").hold_slice(held).await.unwrap();
    of_project(&|p| Project { ended: Some(Ended { end: ends, at: ago(31) }), ..p.clone() });
    world.slices("gustav").release_slice(decide("heart/main", "settled")).await.unwrap();
    let closed = world.logged(|e| e.action == "slice.close").await;
    assert_eq!((closed.actor.as_str(), closed.outcome.as_str()), ("holmd", "allowed"));
    let lifted = world.logged(|e| e.action == "hold.lift" && e.outcome == "allowed").await;
    assert!(closed.index > lifted.index, "not while it was on hold");

    let gone = agent.slice(v1::Goal::Destroyed).await;
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    let certificate = world.slices("frida").get_certificate(reference("heart/main")).await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&certificate.into_inner().body).unwrap();
    assert!(body["closed_by"].is_null(), "nobody did: its project had ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_ends_by_a_clock_that_is_doubted_also_after_a_restart() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    // As a round says it that has found the clock far from where it was.
    let doubt = |_: &holm_control::domain::State, _| Ok(Decided::new(Vec::new(), ()));
    world.app.ledger.commit(&Call::own("observe.clock", "holm".to_owned()), doubt).unwrap();
    let world = world.restart().await;
    aged(&world, |s| Slice { requested: ago(31), ..s.clone() });
    holm_control::reconcile::round(&world.app).unwrap();
    let waits = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(waits.state(), v1::SliceState::Requested);
    assert!(world.log().iter().all(|e| e.action != "slice.expire"));
}

async fn resize(world: &World, who: &str, gpus: u32) -> Result<v1::Slice, tonic::Status> {
    let request = v1::ResizeSliceRequest {
        slice: Some(reference("heart/main")),
        gpus: Some(gpus),
        comment: "the larger model".to_owned(),
        ..Default::default()
    };
    world.slices(who).resize_slice(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn less_is_the_leads_to_say_and_more_is_the_officers_and_a_machine_has_it_from_its_next_start_on() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 2).await;
    for who in ["rosa", "frida", "olga"] {
        let refused = resize(&world, who, 1).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{who}: {refused}");
        let entry = world.logged(|e| e.action == "slice.resize").await;
        assert_eq!((entry.outcome.as_str(), entry.actor), ("refused", format!("person/{who}")));
    }
    for who in ["lars", "anna"] {
        assert_eq!(resize(&world, who, 1).await.unwrap_err().code(), Code::NotFound, "{who}");
    }
    let before = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(resize(&world, "dina", 2).await.unwrap_err().code(), Code::FailedPrecondition);
    let refused = resize(&world, "dina", 3).await.unwrap_err();
    assert!(hint(&refused).starts_with("holm slice resize heart/main --gpus N"), "{refused}");

    let asks = resize(&world, "dina", 4).await.unwrap();
    let before_that = asks.extension.clone().unwrap().id;
    let wanted = v1::Size { gpus: 4, vcpus: before.vcpus * 2, memory_mib: before.memory_mib * 2 };
    assert_eq!((asks.gpus, asks.resized, asks.extension.unwrap().size), (2, None, Some(wanted)));
    assert_eq!(extend(&world, "dina").await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(world.approve("dina", "heart/main").await.unwrap_err().code(), Code::PermissionDenied);
    let no =
        world.slices("gustav").reject_slice(decide("heart/main", "too much")).await.unwrap().into_inner();
    assert_eq!((no.reason.as_str(), no.extension), ("another size was rejected by gustav: too much", None));

    let asks = resize(&world, "dina", 4).await.unwrap();
    // Not without looking at it, and not what was asked for before.
    let approve = async |id: String| {
        let this = v1::DecideSliceRequest { id, ..decide("heart/main", "") };
        world.slices("frida").approve_slice(this).await.map(tonic::Response::into_inner)
    };
    for id in [String::new(), before_that] {
        let refused = approve(id).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert_eq!(hint(&refused), "holm slice review heart/main");
    }
    let given = approve(asks.extension.unwrap().id).await.unwrap();
    assert_eq!(
        (given.approvals.len(), given.enlarged.len()),
        (1, 1),
        "beside those who approved it at first"
    );
    assert_eq!((given.gpus, given.resized, given.extension), (2, Some(wanted), None), "it runs as it did");
    let detail = world.logged(|e| e.action == "slice.resize").await.detail;
    assert_eq!((&detail["gpus"], &detail["comment"]), (&4.into(), &"the larger model".into()));

    world.slices("dina").stop_slice(decide("heart/main", "")).await.unwrap();
    let rests = comes_to_rest(&world, &mut agent).await;
    assert_eq!((rests.gpus, rests.resized), (2, Some(wanted)));
    let starts = start(&world, "dina").await.unwrap();
    assert_eq!((starts.gpus, starts.vcpus, starts.resized), (4, wanted.vcpus, None));
    agent.clean(&world, "dgx").await;
    let given = agent.slice(v1::Goal::Run).await;
    assert_eq!((given.devices.len(), given.vcpus), (4, wanted.vcpus));
}
