//! A slice's own queue: its classes of jobs, that none begins any more, and what was used.

use crate::world::{Agent, World, decide, observed, ready_slice, reference};
use holm_proto::v1;
use tonic::Code;

fn night() -> v1::JobClassEdit {
    v1::JobClassEdit {
        name: "night".to_owned(),
        priority: Some(20),
        gpus: Some(2),
        all_gpus: false,
        wall_minutes: Some(720),
    }
}

async fn set(world: &World, who: &str, request: v1::SetSchedulerRequest) -> Result<v1::Slice, tonic::Status> {
    let request = v1::SetSchedulerRequest { slice: Some(reference("heart/main")), ..request };
    world.slices(who).set_scheduler(request).await.map(tonic::Response::into_inner)
}

async fn drain(world: &World, who: &str, end: bool, stop: bool) -> Result<v1::Slice, tonic::Status> {
    let request = v1::DrainSliceRequest { slice: Some(reference("heart/main")), end, stop, dry_run: false };
    world.slices(who).drain_slice(request).await.map(tonic::Response::into_inner)
}

/// The intention in which its guest is told this.
async fn told(agent: &mut Agent, is: impl Fn(&v1::GuestScheduler) -> bool) -> v1::IntendedSlice {
    let fits = |s: &v1::IntendedSlice| s.scheduler.as_ref().is_some_and(&is);
    let intended = agent.intends(|i| i.slices.iter().any(fits)).await;
    intended.slices.into_iter().find(fits).unwrap()
}

fn jobs(time: u64, running: u32) -> v1::JobsUse {
    v1::JobsUse {
        time,
        seconds: 60,
        gpu_seconds: 60,
        gpu_busy_seconds: Some(15),
        cpu_seconds: 30,
        memory_mib: 100,
        running,
        pending: 3,
    }
}

async fn says(agent: &Agent, slice: &v1::IntendedSlice, of: &str, jobs: v1::JobsUse) {
    let said =
        v1::ObservedSlice { scheduler: of.to_owned(), jobs: Some(jobs), ..observed(slice, v1::Phase::Ready) };
    agent.observe(vec![said]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_lead_changes_the_classes_of_jobs_and_its_guest_is_told() {
    let world = World::full().await;
    let (mut agent, first) = ready_slice(&world, "heart/main", 1).await;
    let names = |s: &v1::Slice| s.classes.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    let before = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(names(&before), ["normal", "short", "1gpulong", "allgpus"]);
    assert_eq!(first.scheduler.as_ref().unwrap().classes, before.classes);
    let put = v1::SetSchedulerRequest { put: vec![night()], first: "night".to_owned(), ..Default::default() };
    for (who, code) in
        [("rosa", Code::PermissionDenied), ("olga", Code::PermissionDenied), ("anna", Code::NotFound)]
    {
        assert_eq!(set(&world, who, put.clone()).await.unwrap_err().code(), code, "{who}");
        let entry =
            world.logged(|e| e.action == "slice.schedule" && e.actor == format!("person/{who}")).await;
        assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "slice/heart/main"));
    }
    for bad in [
        v1::SetSchedulerRequest {
            put: vec![v1::JobClassEdit { wall_minutes: Some(0), ..night() }],
            ..Default::default()
        },
        v1::SetSchedulerRequest {
            put: vec![v1::JobClassEdit { name: "a b\n".to_owned(), ..night() }],
            ..Default::default()
        },
        v1::SetSchedulerRequest {
            put: vec![night(); 1000],
            remove: vec!["x".to_owned()],
            ..Default::default()
        },
        v1::SetSchedulerRequest { first: "nothing".to_owned(), ..Default::default() },
    ] {
        assert_eq!(set(&world, "dina", bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let dry = set(&world, "dina", v1::SetSchedulerRequest { dry_run: true, ..put.clone() }).await.unwrap();
    assert_eq!(names(&dry)[0], "night");
    let after = set(&world, "dina", put).await.unwrap();
    assert_eq!(names(&after), ["night", "normal", "short", "1gpulong", "allgpus"]);
    let told = told(&mut agent, |told| told.classes.len() == 5).await;
    assert_eq!(told.generation, first.generation, "it goes on as it runs");
    assert_ne!(told.scheduler.as_ref().unwrap().of, first.scheduler.as_ref().unwrap().of);
    let entry = world.logged(|e| e.action == "slice.schedule" && e.outcome == "allowed").await;
    assert_eq!(entry.detail["classes"][0]["name"], "night");
    let world = world.restart().await;
    assert_eq!(names(&world.get("dina", "heart/main").await.unwrap())[0], "night");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_drained_is_stopped_when_its_last_job_has_ended_and_not_before() {
    let world = World::full().await;
    let (mut agent, first) = ready_slice(&world, "heart/main", 1).await;
    assert_eq!(drain(&world, "anna", false, true).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(drain(&world, "frida", false, true).await.unwrap_err().code(), Code::PermissionDenied);
    // No job runs now, but one may begin: its guest has not said that none does.
    let old = first.scheduler.as_ref().unwrap().of.clone();
    says(&agent, &first, &old, jobs(1, 0)).await;
    let asked = drain(&world, "rosa", false, true).await.unwrap();
    assert!(asked.drain.as_ref().is_some_and(|d| d.by == "rosa" && d.stop && !d.begun));
    assert_eq!(
        drain(&world, "dina", false, true).await.unwrap().drain,
        asked.drain,
        "asked again it is the same"
    );
    let slice = told(&mut agent, |told| told.drain).await;
    let of = slice.scheduler.as_ref().unwrap().of.clone();
    says(&agent, &slice, &old, jobs(2, 0)).await;
    says(&agent, &slice, &of, jobs(3, 2)).await;
    let runs = world.until_it("dina", "heart/main", |s| s.drain.as_ref().is_some_and(|d| d.begun)).await;
    assert_eq!((runs.state(), runs.jobs.unwrap().running), (v1::SliceState::Ready, 2));
    // Somebody changes her mind, and again.
    drain(&world, "dina", true, false).await.unwrap();
    told(&mut agent, |told| !told.drain).await;
    drain(&world, "dina", false, true).await.unwrap();
    let slice = told(&mut agent, |told| told.drain).await;
    says(&agent, &slice, &of, jobs(4, 0)).await;
    let stopping = world.until("dina", "heart/main", v1::SliceState::Stopping).await;
    assert!(stopping.reason.contains("stopped for dina") && stopping.drain.is_none(), "{}", stopping.reason);
    let entry = world.logged(|e| e.action == "slice.stop" && e.actor == "holmd").await;
    assert_eq!((entry.actor.as_str(), entry.detail["drained_for"].as_str()), ("holmd", Some("dina")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_drained_and_not_to_be_stopped_runs_on() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    // A host is to be mended.
    drain(&world, "olga", false, false).await.unwrap();
    let slice = told(&mut agent, |told| told.drain).await;
    let of = slice.scheduler.as_ref().unwrap().of.clone();
    says(&agent, &slice, &of, jobs(1, 0)).await;
    let seen = world.until_it("dina", "heart/main", |s| s.jobs.is_some_and(|jobs| jobs.running == 0)).await;
    assert_eq!(seen.state(), v1::SliceState::Ready);
    world.slices("dina").stop_slice(decide("heart/main", "")).await.unwrap();
    let again = world.get("dina", "heart/main").await.unwrap();
    assert!(again.drain.is_none(), "it starts without");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_is_known_to_its_lead_and_to_operators_and_to_nobody_else() {
    let world = World::full().await;
    let (agent, slice) = ready_slice(&world, "heart/main", 1).await;
    let of = slice.scheduler.as_ref().unwrap().of.clone();
    says(&agent, &slice, &of, jobs(1, 1)).await;
    // Said again it counts once; of a slice that it does not have it has no GPUs.
    says(&agent, &slice, &of, jobs(1, 1)).await;
    says(&agent, &slice, &of, v1::JobsUse { gpu_seconds: u64::MAX, ..jobs(2, 1) }).await;
    world.until_it("dina", "heart/main", |s| s.jobs.is_none()).await;
    let ask = v1::GetUsageRequest { slice: Some(reference("heart/main")), ..Default::default() };
    for who in ["dina", "olga"] {
        let usage = world.slices(who).get_usage(ask.clone()).await.unwrap().into_inner();
        // Its host said it twice, and it has had its GPU for no minute yet.
        let [hour] = usage.hours.as_slice() else { panic!("{usage:?}") };
        assert!(
            (1..=60).contains(&hour.gpu_seconds) && hour.gpu_busy_seconds <= hour.gpu_seconds,
            "{hour:?}"
        );
        assert_eq!(hour.running, 1);
        assert!(usage.gpu_hours_held > 0.0 && usage.gpu_hours_held < 1.0);
        let rows =
            world.slices(who).list_usage(v1::ListUsageRequest::default()).await.unwrap().into_inner().rows;
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].project.as_str(), rows[0].slice.as_str()), ("heart", "main"));
        assert!(rows[0].gpu_hours_jobs > 0.0 && rows[0].gpu_hours_jobs <= 60.0 / 3600.0);
    }
    assert_eq!(world.slices("anna").get_usage(ask.clone()).await.unwrap_err().code(), Code::NotFound);
    let rows =
        world.slices("anna").list_usage(v1::ListUsageRequest::default()).await.unwrap().into_inner().rows;
    assert_eq!(rows, []);
    let second = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for bad in
        [(second(100), second(1)), (second(i64::MAX), None), (second(0), None), (None, second(i64::MIN))]
    {
        let bad = v1::GetUsageRequest { since: bad.0, until: bad.1, ..ask.clone() };
        assert_eq!(
            world.slices("dina").get_usage(bad.clone()).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{bad:?}"
        );
    }
    for (since, until) in
        [("2026", ""), ("2026-13", ""), ("2026-01", "2025-12"), ("1900-01", "2026-01"), ("2026-11-01", "")]
    {
        let bad = v1::ListUsageRequest { since: since.to_owned(), until: until.to_owned() };
        let refused = world.slices("dina").list_usage(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{since} {until}");
    }
    // It outlives holmd.
    let world = world.restart().await;
    let usage = world.slices("dina").get_usage(ask).await.unwrap().into_inner();
    assert_eq!(usage.hours.len(), 1);
}
