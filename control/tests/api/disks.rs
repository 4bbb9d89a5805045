//! A slice's disks while they stay: larger, under other keys, a new root disk for an old one.

use crate::world::{Agent, World, decide, observed, ready_slice, reference, stopped};
use holm_control::keys::fingerprint;
use holm_proto::v1;
use newtype_uuid::GenericUuid as _;
use tonic::Code;

async fn grow(world: &World, who: &str, disk: u64, home: u64) -> Result<v1::Slice, tonic::Status> {
    let request = v1::GrowSliceRequest {
        slice: Some(reference("heart/main")),
        disk_gib: (disk > 0).then_some(disk),
        home_gib: (home > 0).then_some(home),
        ..Default::default()
    };
    world.slices(who).grow_slice(request).await.map(tonic::Response::into_inner)
}

async fn rekey(world: &World, who: &str) -> Result<v1::Slice, tonic::Status> {
    world.slices(who).rekey_slice(decide("heart/main", "")).await.map(tonic::Response::into_inner)
}

async fn rebuild(world: &World, who: &str) -> Result<v1::Slice, tonic::Status> {
    let slice = Some(reference("heart/main"));
    let request = v1::StartSliceRequest { slice, rebuild: true, dry_run: false };
    world.slices(who).start_slice(request).await.map(tonic::Response::into_inner)
}

async fn keys(agent: &mut Agent, slice: &v1::IntendedSlice) -> v1::VolumeKey {
    agent
        .say(v1::from_agent::Body::KeyRequest(v1::KeyRequest {
            slice_id: slice.slice_id.clone(),
            volume_id: slice.volume_id.clone(),
            generation: slice.generation,
            job_id: String::new(),
        }))
        .await;
    agent.given().await
}

/// The intention in which its disks are to be changed.
async fn change(agent: &mut Agent) -> (v1::IntendedSlice, v1::DiskChange) {
    let intended = agent.intends(|i| i.slices.iter().any(|s| s.change.is_some())).await;
    let slice = intended.slices.into_iter().find(|s| s.change.is_some()).unwrap();
    (slice.clone(), slice.change.unwrap())
}

async fn says(agent: &Agent, slice: &v1::IntendedSlice, phase: v1::Phase, done: bool, note: &str) {
    let number = slice.change.unwrap().number;
    let change = Some(v1::DiskChanged { number, done, note: note.to_owned() });
    agent.observe(vec![v1::ObservedSlice { change, ..observed(slice, phase) }]).await;
}

async fn rests(world: &World, agent: &mut Agent) {
    stopped(world, agent).await;
    agent.clean(world, "dgx").await;
}

fn print(key: &[u8]) -> String {
    fingerprint(&secrecy::SecretBox::new(Box::new(<[u8; 32]>::try_from(key).unwrap())))
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_grow_by_their_leads_wish_while_the_slice_runs() {
    let world = World::full().await;
    let (mut agent, first) = ready_slice(&world, "heart/main", 1).await;
    let before = world.get("dina", "heart/main").await.unwrap();
    let (disk, home) = (before.disk_gib, before.home_gib);
    for (who, code) in
        [("rosa", Code::PermissionDenied), ("olga", Code::PermissionDenied), ("anna", Code::NotFound)]
    {
        let refused = grow(&world, who, disk + 1, 0).await.unwrap_err();
        assert_eq!(refused.code(), code, "{who}: {refused}");
        let entry = world.logged(|e| e.action == "slice.grow" && e.actor == format!("person/{who}")).await;
        assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "slice/heart/main"));
    }
    for (disk, home, word) in [
        (disk, 0, "none of its disks would be larger"),
        (disk - 1, 0, "never becomes smaller"),
        (1 << 20, 0, "can be up to"),
        (u64::MAX, 0, "can be up to"),
    ] {
        let refused = grow(&world, "dina", disk, home).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(word), "{refused}");
    }
    let wanted = grow(&world, "dina", disk + 1, home + 2).await.unwrap();
    let asked = wanted.disk_change.clone().unwrap();
    assert_eq!((asked.disk_gib, asked.home_gib, asked.by.as_str()), (disk + 1, home + 2, "dina"));
    assert_eq!(
        (wanted.disk_gib, wanted.state()),
        (disk, v1::SliceState::Ready),
        "not before its host did it"
    );
    let busy = grow(&world, "dina", disk + 5, 0).await.unwrap_err();
    assert!(busy.message().contains("made larger already by the wish of dina"), "{busy}");
    assert!(rekey(&world, "dina").await.unwrap_err().message().contains("made larger already"));

    // The host is given the keys for it, once.
    let (slice, change) = change(&mut agent).await;
    assert!(!change.rekey && slice.generation > first.generation);
    assert_eq!((slice.disk_gib, slice.volumes[0].size_gib), (disk + 1, home + 2));
    let given = keys(&mut agent, &slice).await;
    assert!(given.next.is_empty() && given.others.len() == 1 && given.others[0].next.is_empty());
    let entry = world.logged(|e| e.action == "agent.key" && e.detail["generation"] == slice.generation).await;
    assert_eq!(entry.detail["fingerprint"], before.key_fingerprint);
    assert!(agent.key(&slice).await.unwrap_err().contains("given out in this session already"));
    // What another change became is no news of this one.
    let mut stale = slice.clone();
    stale.change = Some(v1::DiskChange { number: change.number - 1, rekey: false });
    says(&agent, &stale, v1::Phase::Ready, true, "").await;
    says(&agent, &slice, v1::Phase::Ready, true, "").await;
    agent.intends(|i| i.slices.iter().all(|s| s.change.is_none())).await;
    let after = world.get("dina", "heart/main").await.unwrap();
    assert_eq!((after.disk_gib, after.home_gib, &after.disk_change), (disk + 1, home + 2, &None));
    assert_eq!((after.state(), after.key_fingerprint), (v1::SliceState::Ready, before.key_fingerprint));
    assert!(agent.key(&slice).await.unwrap_err().contains("whose disks are changed"));

    // Nor beyond what its project may have.
    let quota = v1::SetQuotaRequest {
        project: "heart".to_owned(),
        disk_gib: Some(after.disk_gib + after.home_gib + after.scratch_gib + 9),
        ..Default::default()
    };
    world.projects("olga").set_quota(quota).await.unwrap();
    let beyond = grow(&world, "dina", disk + 11, 0).await.unwrap_err();
    assert_eq!(beyond.code(), Code::FailedPrecondition);
    assert!(beyond.message().contains("10 more were asked for"), "{beyond}");

    // Where it does not work, the slice runs on, and says why.
    grow(&world, "dina", disk + 9, 0).await.unwrap();
    let (slice, _) = self::change(&mut agent).await;
    says(&agent, &slice, v1::Phase::Ready, true, "no room").await;
    agent.intends(|i| i.slices.iter().all(|s| s.change.is_none())).await;
    let failed = world.get("dina", "heart/main").await.unwrap();
    assert_eq!((failed.disk_gib, failed.state()), (disk + 1, v1::SliceState::Ready));
    assert!(failed.reason.contains("did not become larger: no room"), "{}", failed.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_get_other_keys_and_those_before_are_destroyed_when_the_host_has_changed_them() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    let before = world.get("dina", "heart/main").await.unwrap();
    for (who, code) in
        [("rosa", Code::PermissionDenied), ("olga", Code::PermissionDenied), ("anna", Code::NotFound)]
    {
        assert_eq!(rekey(&world, who).await.unwrap_err().code(), code, "{who}");
    }
    // On hold its keys are not destroyed.
    let hold = |reason: &str| v1::HoldSliceRequest {
        slice: Some(reference("heart/main")),
        reason: reason.to_owned(),
        ..Default::default()
    };
    world.slices("frida").hold_slice(hold("a case")).await.unwrap();
    let refused = rekey(&world, "dina").await.unwrap_err();
    assert!(refused.message().contains("its keys are not destroyed"), "{refused}");
    let entry = world.logged(|e| e.action == "slice.rekey" && e.actor == "person/dina").await;
    assert_eq!(entry.outcome, "refused");
    world.slices("frida").release_slice(decide("heart/main", "settled")).await.unwrap();
    let wrapped = || {
        let files = std::fs::read_dir(world.app.config.data.join("keys/volume")).unwrap();
        files.count()
    };
    assert_eq!(wrapped(), 2);
    // An officer may, too: whoever suspects that a key was seen does not wait.
    rekey(&world, "frida").await.unwrap();
    let (slice, change) = change(&mut agent).await;
    assert!(change.rekey && wrapped() == 4);
    let given = keys(&mut agent, &slice).await;
    assert_eq!(print(&given.key), before.key_fingerprint);
    let next = print(&given.next);
    assert!(next != before.key_fingerprint && given.others[0].next.len() == 32);
    assert!(given.others[0].next != given.next && given.others[0].next != given.others[0].key);

    // It cannot be done while its machine has the disks open: both keys stay, and the slice says what it waits for.
    says(&agent, &slice, v1::Phase::Ready, false, "at its next start").await;
    let waits = world
        .until_it("dina", "heart/main", |s| s.disk_change.as_ref().is_some_and(|c| !c.note.is_empty()))
        .await;
    assert_eq!((waits.disk_change.unwrap().note.as_str(), wrapped()), ("at its next start", 4));
    // A project's key is rotated meanwhile, and wraps all four.
    world.rotate("frida", Some("heart")).await.unwrap();
    rests(&world, &mut agent).await;
    let start = v1::StartSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    world.slices("dina").start_slice(start).await.unwrap();
    let again = agent.slice(v1::Goal::Run).await;
    assert_eq!(again.change.unwrap().number, change.number);
    let given = keys(&mut agent, &again).await;
    assert_eq!((print(&given.key), print(&given.next)), (before.key_fingerprint.clone(), next.clone()));
    says(&agent, &again, v1::Phase::Preparing, true, "").await;
    agent.intends(|i| i.slices.iter().all(|s| s.change.is_none())).await;
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&again, phase).await;
    }
    let after = world.until("dina", "heart/main", v1::SliceState::Ready).await;
    assert_eq!((after.key_fingerprint, after.disk_change), (next, None));
    let entry = world.logged(|e| e.action == "key.destroy" && e.detail["spent"].is_array()).await;
    assert_eq!(entry.detail["spent"][0], before.key_fingerprint);
    assert_eq!(wrapped(), 2, "the old ones are gone");
    // And what it has now opens, after all that.
    rests(&world, &mut agent).await;
    let start = v1::StartSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    world.slices("dina").start_slice(start).await.unwrap();
    let again = agent.slice(v1::Goal::Run).await;
    let given = keys(&mut agent, &again).await;
    assert!(given.next.is_empty());
    assert_eq!(print(&given.key), world.get("dina", "heart/main").await.unwrap().key_fingerprint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuilt_slice_has_another_root_disk_and_the_one_before_is_destroyed() {
    let world = World::full().await;
    let (mut agent, first) = ready_slice(&world, "heart/main", 1).await;
    let before = world.get("dina", "heart/main").await.unwrap();
    let running = rebuild(&world, "dina").await.unwrap_err();
    assert_eq!(running.code(), Code::FailedPrecondition, "{running}");
    rests(&world, &mut agent).await;
    for (who, code) in
        [("rosa", Code::PermissionDenied), ("olga", Code::PermissionDenied), ("anna", Code::NotFound)]
    {
        assert_eq!(rebuild(&world, who).await.unwrap_err().code(), code, "{who}");
        let entry = world.logged(|e| e.action == "slice.rebuild" && e.actor == format!("person/{who}")).await;
        assert_eq!(entry.outcome, "refused");
    }
    rebuild(&world, "dina").await.unwrap();
    // The key of the old one goes at once.
    let entry = world.logged(|e| e.action == "key.destroy" && e.detail["spent"].is_array()).await;
    assert_eq!(entry.detail["spent"][0], before.key_fingerprint);
    let again = agent.slice(v1::Goal::Run).await;
    assert_ne!(again.volume_id, first.volume_id);
    assert_eq!((again.retired.as_slice(), again.volume_used), (&[first.volume_id.clone()][..], false));
    assert_eq!((&again.volumes[0].volume_id, again.volumes[0].used), (&first.volumes[0].volume_id, true));
    let given = keys(&mut agent, &again).await;
    assert_ne!(print(&given.key), before.key_fingerprint);
    let erased = v1::VolumeEvidence {
        volume_id: first.volume_id.clone(),
        erased: true,
        method: "luks-header".to_owned(),
        bytes_overwritten: 4096,
        ..Default::default()
    };
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        let mut seen = observed(&again, phase);
        seen.volumes.push(erased.clone());
        agent.observe(vec![seen]).await;
    }
    world.until("dina", "heart/main", v1::SliceState::Ready).await;
    let state = world.app.ledger.state();
    let slice = state.slices.values().find(|s| s.name.as_str() == "main").unwrap().clone();
    assert!(slice.retired.len() == 1 && slice.retired[0].erased() && slice.spent.is_empty());
    assert_eq!(slice.retired[0].id.into_untyped_uuid().to_string(), first.volume_id);

    // Closed, its certificate names both.
    world.close("dina", "heart/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    let mut seen = observed(&gone, v1::Phase::Absent);
    seen.volumes.push(erased);
    agent.observe(vec![seen]).await;
    agent.clean(&world, "dgx").await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    let certificate =
        world.slices("dina").get_certificate(reference("heart/main")).await.unwrap().into_inner();
    let body: serde_json::Value = serde_json::from_str(&certificate.body).unwrap();
    let others = body["other_volumes"].as_array().unwrap();
    let old = others.iter().find(|other| other["kind"] == "root").unwrap();
    assert_eq!(old["key_fingerprint"], before.key_fingerprint);
    assert_eq!(old["header_and_key_slots_overwritten"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_keep_on_a_root_disk_is_not_rebuilt_away() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    let request = v1::RequestSliceRequest {
        project: "heart".to_owned(),
        name: "main".to_owned(),
        gpus: 1,
        home_gib: Some(0),
        ..Default::default()
    };
    world.slices("dina").request_slice(request).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let wanted = agent.slice(v1::Goal::Run).await;
    agent.key(&wanted).await.unwrap();
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&wanted, phase).await;
    }
    world.until("dina", "heart/main", v1::SliceState::Ready).await;
    let none = grow(&world, "dina", 0, 500).await.unwrap_err();
    assert!(none.message().contains("it has no disk for home"), "{none}");
    rests(&world, &mut agent).await;
    let refused = rebuild(&world, "dina").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("which a rebuild would destroy"), "{refused}");
    assert!(world.log().iter().all(|e| e.action != "key.destroy"));
}
