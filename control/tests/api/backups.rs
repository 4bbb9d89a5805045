//! Backups: who may have them made, tried and restored; what a level demands; what remains of them; escrow.

use crate::world::{Agent, World, decide, hint, pack, ready_slice, reference, stopped};
use holm_control::config::Config;
use holm_control::domain::backup;
use holm_control::reconcile;
use holm_proto::v1;
use secrecy::ExposeSecret as _;
use std::collections::BTreeSet;
use tonic::{Code, Status};

const SHA256: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

async fn back_up(world: &World, who: &str) -> Result<v1::Slice, Status> {
    let request = v1::BackUpSliceRequest { slice: Some(reference("heart/main")), dry_run: false };
    world.backups(who).back_up_slice(request).await.map(tonic::Response::into_inner)
}

async fn drill(world: &World, who: &str) -> Result<v1::Slice, Status> {
    let request = v1::DrillSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    world.backups(who).drill_slice(request).await.map(tonic::Response::into_inner)
}

async fn restore(world: &World, who: &str, backup: &str) -> Result<v1::Slice, Status> {
    let (slice, backup_id) = (Some(reference("heart/main")), backup.to_owned());
    let request = v1::RestoreSliceRequest { slice, backup_id, dry_run: false };
    world.backups(who).restore_slice(request).await.map(tonic::Response::into_inner)
}

async fn start(world: &World) -> Result<v1::Slice, Status> {
    let request = v1::StartSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    world.slices("dina").start_slice(request).await.map(tonic::Response::into_inner)
}

async fn list(world: &World) -> Vec<v1::Backup> {
    let request = v1::ListBackupsRequest { slice: Some(reference("heart/main")) };
    world.backups("dina").list_backups(request).await.unwrap().into_inner().backups
}

/// A slice that was ready, and rests.
async fn resting(world: &World) -> (Agent, v1::IntendedSlice) {
    let (mut agent, _) = ready_slice(world, "heart/main", 2).await;
    let kept = stopped(world, &mut agent).await;
    (agent, kept)
}

/// It has another root disk, and rests again.
async fn rebuilt(world: &World, agent: &mut Agent, before: &str) {
    agent.clean(world, "dgx").await;
    let request =
        v1::StartSliceRequest { slice: Some(reference("heart/main")), rebuild: true, dry_run: false };
    world.slices("dina").start_slice(request).await.unwrap();
    let again = agent.slice(v1::Goal::Run).await;
    assert_ne!(again.volume_id, before);
    agent.key(&again).await.unwrap();
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&again, phase).await;
    }
    world.until("dina", "heart/main", v1::SliceState::Ready).await;
    stopped(world, agent).await;
}

/// The job that the agent is told of.
async fn job(agent: &mut Agent, kind: v1::JobKind) -> v1::IntendedJob {
    let is = |job: &v1::IntendedJob| job.kind() == kind;
    let intended = agent.intends(|i| i.jobs.iter().any(is)).await;
    intended.jobs.into_iter().find(is).unwrap()
}

/// What its agent says of a job.
async fn tell(agent: &Agent, told: v1::ObservedJob) {
    let slices = agent.last.lock().unwrap().clone();
    agent
        .say(v1::from_agent::Body::Observed(v1::Observed {
            slices,
            generation: agent.intended.generation,
            devices: agent.notes(),
            jobs: vec![told],
            ..Default::default()
        }))
        .await;
}

fn ended(job: &v1::IntendedJob, phase: v1::JobPhase) -> v1::ObservedJob {
    v1::ObservedJob {
        job_id: job.job_id.clone(),
        phase: phase.into(),
        done_bytes: 3 << 30,
        total_bytes: 3 << 30,
        stored_bytes: 1 << 30,
        manifest_sha256: if job.kind() == v1::JobKind::Backup { SHA256.to_owned() } else { String::new() },
        method: if job.kind() == v1::JobKind::Drill {
            "sha-256, header, key".to_owned()
        } else {
            String::new()
        },
        removed: job.remove.clone(),
        ..Default::default()
    }
}

/// A job that goes well.
async fn done(world: &World, agent: &mut Agent, kind: v1::JobKind) -> v1::IntendedJob {
    let job = job(agent, kind).await;
    tell(agent, ended(&job, v1::JobPhase::Done)).await;
    agent.intends(|i| i.jobs.iter().all(|one| one.job_id != job.job_id)).await;
    let id = job.job_id.clone();
    world.logged(|e| e.action == "observe.job" && e.detail["job"] == id.as_str()).await;
    job
}

/// A slice that rests, and the job that made a backup of it.
async fn backed_up(world: &World) -> (Agent, v1::IntendedSlice, v1::IntendedJob) {
    let (mut agent, kept) = resting(world).await;
    back_up(world, "dina").await.unwrap();
    let made = done(world, &mut agent, v1::JobKind::Backup).await;
    (agent, kept, made)
}

async fn ask_keys(
    agent: &mut Agent,
    job: &v1::IntendedJob,
    volume: &str,
) -> Result<v1::VolumeKey, v1::KeyRefused> {
    agent
        .say(v1::from_agent::Body::KeyRequest(v1::KeyRequest {
            slice_id: job.slice_id.clone(),
            volume_id: volume.to_owned(),
            generation: 0,
            job_id: job.job_id.clone(),
        }))
        .await;
    loop {
        match agent.hear().await.expect("the session ended") {
            v1::to_agent::Body::VolumeKey(key) => return Ok(key),
            v1::to_agent::Body::KeyRefused(no) => return Err(no),
            _ => {}
        }
    }
}

async fn reencrypt(world: &World, who: &str) -> Result<v1::Slice, Status> {
    world.slices(who).reencrypt_slice(decide("heart/main", "")).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_are_encrypted_anew_while_the_slice_rests_and_its_host_has_the_keys_once() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 2).await;
    // Only at rest, and by its lead or an officer.
    let running = reencrypt(&world, "dina").await.unwrap_err();
    assert!(running.message().contains("only one that is stopped"), "{running}");
    let kept = stopped(&world, &mut agent).await;
    for (who, code) in
        [("rosa", Code::PermissionDenied), ("olga", Code::PermissionDenied), ("anna", Code::NotFound)]
    {
        assert_eq!(reencrypt(&world, who).await.unwrap_err().code(), code, "{who}");
        world.logged(|e| e.action == "slice.rekey" && e.actor == format!("person/{who}")).await;
    }
    // Its host needs no place for backups; and while it goes on nothing else does.
    let begun = reencrypt(&world, "frida").await.unwrap().job.unwrap();
    assert_eq!((begun.kind(), begun.backup_id.as_str()), (v1::JobKind::Reencrypt, ""));
    for again in [reencrypt(&world, "dina").await, start(&world).await, back_up(&world, "dina").await] {
        let refused = again.unwrap_err();
        assert!(refused.message().contains("being encrypted anew"), "{refused}");
    }
    let wanted = job(&mut agent, v1::JobKind::Reencrypt).await;
    assert_eq!(wanted.volumes.len(), 2);
    let another =
        ask_keys(&mut agent, &v1::IntendedJob { job_id: "x".to_owned(), ..wanted.clone() }, &kept.volume_id)
            .await;
    assert!(another.unwrap_err().reason.contains("no such job"));
    let given = ask_keys(&mut agent, &wanted, &kept.volume_id).await.unwrap();
    assert_eq!((given.key.len(), given.others.len()), (32, 1));
    let asked = world.logged(|e| e.action == "slice.rekey" && e.outcome == "allowed").await;
    assert_eq!(asked.detail["reencrypt"], wanted.job_id.as_str(), "it is told from a rekeying");
    let entry = world.logged(|e| e.action == "agent.key" && e.detail.get("reencrypt").is_some()).await;
    assert!(entry.detail.get("backup").is_none(), "{}", entry.detail);
    let twice = ask_keys(&mut agent, &wanted, &kept.volume_id).await.unwrap_err();
    assert!(twice.reason.contains("given out in this session already"), "{}", twice.reason);
    done(&world, &mut agent, v1::JobKind::Reencrypt).await;
    let now = world.get("dina", "heart/main").await.unwrap();
    let tried = now.reencrypted.unwrap();
    assert!(tried.passed && tried.by == "frida" && now.reason.contains("make another one"), "{}", now.reason);

    // What fails is said, and nothing is lost by it.
    reencrypt(&world, "dina").await.unwrap();
    let wanted = job(&mut agent, v1::JobKind::Reencrypt).await;
    let failed = v1::ObservedJob { reason: "no room".to_owned(), ..ended(&wanted, v1::JobPhase::Failed) };
    tell(&agent, failed).await;
    agent.intends(|i| i.jobs.is_empty()).await;
    let tried = world.get("dina", "heart/main").await.unwrap().reencrypted.unwrap();
    assert!(!tried.passed && tried.detail == "no room", "{tried:?}");

    // On hold its keys are given to nobody.
    reencrypt(&world, "dina").await.unwrap();
    let wanted = job(&mut agent, v1::JobKind::Reencrypt).await;
    hold(&world).await;
    agent.intends(|i| i.jobs.is_empty()).await;
    assert!(ask_keys(&mut agent, &wanted, &kept.volume_id).await.is_err());
    let refused = reencrypt(&world, "dina").await.unwrap_err();
    assert!(refused.message().contains("given to nobody"), "{refused}");
    world.slices("frida").release_slice(decide("heart/main", "over")).await.unwrap();

    // A lock, and a hold of the project, keep it back: lifted, it is wanted again, and its keys are given again.
    reencrypt(&world, "dina").await.unwrap();
    let wanted = job(&mut agent, v1::JobKind::Reencrypt).await;
    ask_keys(&mut agent, &wanted, &kept.volume_id).await.unwrap();
    world.projects("frida").hold_project(whole("a case")).await.unwrap();
    agent.intends(|i| i.jobs.is_empty()).await;
    assert!(ask_keys(&mut agent, &wanted, &kept.volume_id).await.is_err());
    world.projects("frida").release_project(whole("over")).await.unwrap();
    assert_eq!(job(&mut agent, v1::JobKind::Reencrypt).await.job_id, wanted.job_id);
    ask_keys(&mut agent, &wanted, &kept.volume_id).await.unwrap();
    done(&world, &mut agent, v1::JobKind::Reencrypt).await;

    // Other keys that it waits for come first.
    world.slices("dina").rekey_slice(decide("heart/main", "")).await.unwrap();
    let refused = reencrypt(&world, "dina").await.unwrap_err();
    assert!(refused.message().contains("that comes first"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_of_a_backup_of_before_says_that_the_data_keys_of_then_are_back() {
    let world = World::full_of(|config| config.backup.keep = 2).await;
    let (mut agent, _, made) = backed_up(&world).await;
    reencrypt(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Reencrypt).await;
    back_up(&world, "dina").await.unwrap();
    let newer = done(&world, &mut agent, v1::JobKind::Backup).await;
    let now = async |backup: &str, agent: &mut Agent| {
        restore(&world, "dina", backup).await.unwrap();
        done(&world, agent, v1::JobKind::Restore).await;
        world.get("dina", "heart/main").await.unwrap().reencrypted.unwrap()
    };
    assert!(now(&newer.backup_id, &mut agent).await.passed);
    let back = now(&made.backup_id, &mut agent).await;
    assert!(!back.passed && back.detail.contains("data keys of then"), "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_tried_restored_and_goes_with_its_slice() {
    let world = World::full_of(|config| config.backup.keep = 2).await;
    let (mut agent, kept) = resting(&world).await;
    for (who, code) in [("frida", Code::PermissionDenied), ("lars", Code::NotFound), ("anna", Code::NotFound)]
    {
        assert_eq!(back_up(&world, who).await.unwrap_err().code(), code, "{who}");
        assert_eq!(drill(&world, who).await.unwrap_err().code(), code, "{who}");
    }
    let none = drill(&world, "dina").await.unwrap_err();
    assert_eq!(
        (none.code(), hint(&none).as_str()),
        (Code::FailedPrecondition, "holm slice backup heart/main")
    );

    // An operator has it made, and sees nothing of it.
    let begun = back_up(&world, "olga").await.unwrap().job.unwrap();
    assert_eq!((begun.kind(), begun.by.as_str()), (v1::JobKind::Backup, "olga"));
    let making = job(&mut agent, v1::JobKind::Backup).await;
    assert_eq!((making.volumes.len(), making.volumes.iter().filter(|v| v.root).count()), (2, 1));
    let root = making.volumes.iter().find(|v| v.root).unwrap().volume_id.clone();
    assert!(root == kept.volume_id && making.manifest_sha256.is_empty());
    // It is neither started nor anything else meanwhile, and no key is given for it.
    assert!(start(&world).await.unwrap_err().message().contains("a backup of it is being made"));
    assert!(drill(&world, "dina").await.unwrap_err().message().contains("one thing at a time"));
    assert!(ask_keys(&mut agent, &making, &root).await.is_err(), "a copy needs no key");
    let running = v1::ObservedJob { done_bytes: 1 << 30, ..ended(&making, v1::JobPhase::Running) };
    tell(&agent, running).await;
    let progress = async {
        loop {
            let now = world.get("dina", "heart/main").await.unwrap().job.unwrap();
            if now.total_bytes > 0 {
                return (now.done_bytes, now.total_bytes);
            }
        }
    };
    assert_eq!(progress.await, (1 << 30, 3 << 30));
    // Another job's end is not this one's.
    let other = v1::ObservedJob { job_id: kept.slice_id.clone(), ..ended(&making, v1::JobPhase::Done) };
    tell(&agent, other).await;
    assert!(list(&world).await[0].made.is_none());
    done(&world, &mut agent, v1::JobKind::Backup).await;
    let first = list(&world).await.remove(0);
    assert_eq!((first.sha256.as_str(), first.bytes, first.stored_bytes), (SHA256, 3 << 30, 1 << 30));
    assert!(first.drill.is_none() && first.reason.is_empty());

    // A drill: the keys, as any key, once, and in the log.
    drill(&world, "rosa").await.unwrap();
    let drilled = job(&mut agent, v1::JobKind::Drill).await;
    assert_eq!((drilled.backup_id.as_str(), drilled.manifest_sha256.as_str()), (first.id.as_str(), SHA256));
    let key = ask_keys(&mut agent, &drilled, &root).await.unwrap();
    assert_eq!((key.key.len(), key.others.len(), &key.job_id), (32, 1, &drilled.job_id));
    let again = ask_keys(&mut agent, &drilled, &root).await.unwrap_err();
    assert!(again.reason.contains("in this session already") && again.job_id == drilled.job_id);
    let given = world.logged(|e| e.action == "agent.key" && e.detail["drill"].is_string()).await;
    assert_eq!(given.detail["backup"], first.id.as_str());
    assert!(
        !serde_json::to_string(&given.detail).unwrap().contains(&data_encoding::HEXLOWER.encode(&key.key))
    );
    done(&world, &mut agent, v1::JobKind::Drill).await;
    let passed = list(&world).await.remove(0).drill.unwrap();
    assert!(passed.passed && passed.by == "rosa" && passed.detail.contains("key"), "{passed:?}");
    // It is over: no key any more.
    assert!(ask_keys(&mut agent, &drilled, &root).await.is_err());

    // A restore is the lead's alone, and never of what is on hold.
    for (who, code) in
        [("rosa", Code::PermissionDenied), ("olga", Code::PermissionDenied), ("lars", Code::NotFound)]
    {
        assert_eq!(restore(&world, who, &first.id).await.unwrap_err().code(), code, "{who}");
    }
    let no = restore(&world, "dina", &kept.slice_id).await.unwrap_err();
    assert_eq!((no.code(), hint(&no).as_str()), (Code::NotFound, "holm backup list heart/main"));
    assert_eq!(restore(&world, "dina", "../x").await.unwrap_err().code(), Code::InvalidArgument);
    restore(&world, "dina", &first.id).await.unwrap();
    let restoring = job(&mut agent, v1::JobKind::Restore).await;
    let failed =
        v1::ObservedJob { reason: "the store is gone".to_owned(), ..ended(&restoring, v1::JobPhase::Failed) };
    tell(&agent, failed).await;
    agent.intends(|i| i.jobs.is_empty()).await;
    let slice = world.get("dina", "heart/main").await.unwrap();
    assert!(
        slice.reason.contains("not restored to the end") && slice.reason.contains("the store is gone"),
        "{}",
        slice.reason
    );
    restore(&world, "dina", &first.id).await.unwrap();
    done(&world, &mut agent, v1::JobKind::Restore).await;
    assert!(world.get("dina", "heart/main").await.unwrap().reason.contains("restored from the backup of"));
    let restored = list(&world).await.remove(0).restore.unwrap();
    assert!(restored.passed && restored.by == "dina", "{restored:?}");

    // Two are kept: the oldest goes when the third is known to be whole, and not before.
    back_up(&world, "dina").await.unwrap();
    assert!(done(&world, &mut agent, v1::JobKind::Backup).await.remove.is_empty());
    agent.intends(|i| i.jobs.is_empty()).await;
    back_up(&world, "dina").await.unwrap();
    assert!(job(&mut agent, v1::JobKind::Backup).await.remove.is_empty());
    assert_eq!(list(&world).await.iter().filter(|b| b.made.is_some()).count(), 2);
    done(&world, &mut agent, v1::JobKind::Backup).await;
    assert_eq!(list(&world).await.iter().filter(|b| b.made.is_some()).count(), 3);
    let removing = job(&mut agent, v1::JobKind::Remove).await;
    assert_eq!(removing.remove, std::slice::from_ref(&first.id));
    // What the store does not let go of stays in the list, and goes with the next.
    let kept = v1::ObservedJob { removed: Vec::new(), ..ended(&removing, v1::JobPhase::Failed) };
    tell(&agent, v1::ObservedJob { reason: "no answer".to_owned(), ..kept }).await;
    agent.intends(|i| i.jobs.is_empty()).await;
    let stays = list(&world).await;
    assert!(stays.len() == 3 && stays[0].reason.contains("goes with the next"), "{:?}", stays[0].reason);
    assert!(restore(&world, "dina", &first.id).await.is_err());
    back_up(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Backup).await;
    assert_eq!(job(&mut agent, v1::JobKind::Remove).await.remove.len(), 2);
    done(&world, &mut agent, v1::JobKind::Remove).await;
    let left: BTreeSet<String> = list(&world).await.into_iter().map(|b| b.id).collect();
    assert!(left.len() == 2 && !left.contains(&first.id));
    // One that fails is begun again under its name.
    back_up(&world, "dina").await.unwrap();
    let failing = job(&mut agent, v1::JobKind::Backup).await;
    tell(&agent, v1::ObservedJob { reason: "full".to_owned(), ..ended(&failing, v1::JobPhase::Failed) })
        .await;
    agent.intends(|i| i.jobs.is_empty()).await;
    assert!(list(&world).await.pop().unwrap().reason.contains("not whole: full"));
    back_up(&world, "dina").await.unwrap();
    let again = job(&mut agent, v1::JobKind::Backup).await;
    assert!(again.backup_id == failing.backup_id && again.job_id != failing.job_id);

    // Closed in the middle of it: the host hears of it no more, and all of them go.
    world.close("dina", "heart/main").await.unwrap();
    let removing = job(&mut agent, v1::JobKind::Remove).await;
    assert!(agent.intended.jobs.len() == 1 && removing.remove.len() == 3);
    let gone = agent.slice(v1::Goal::Destroyed).await;
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    world.until_it("dina", "heart/main", |now| now.reason.contains("its backups to be removed")).await;
    done(&world, &mut agent, v1::JobKind::Remove).await;
    let certificate = certificate(&world).await;
    assert_eq!(certificate["backups"].as_array().unwrap().len(), 3);
    assert!(certificate["backups"].as_array().unwrap().iter().all(|b| b["removed"] == true));
    assert!(!certificate["not_covered"].to_string().contains("ciphertext"));
    assert!(list(&world).await.is_empty());
}

async fn certificate(world: &World) -> serde_json::Value {
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    let got = world.slices("dina").get_certificate(reference("heart/main")).await.unwrap().into_inner();
    serde_json::from_str(&got.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_backup_from_before_a_rebuild_the_data_is_left() {
    let world = World::full().await;
    let (mut agent, kept, _) = backed_up(&world).await;
    // Under other keys it opens no more at all.
    let mut slice = world.app.ledger.state().slices.values().next().unwrap().clone();
    let backup = slice.copies.backups[0].clone();
    assert_eq!((backup.lacks(&slice), backup.lost(&slice)), (None, None));
    slice.volume = "6f9619ff-8b86-4d01-b42d-00cf4fc964fe".parse().unwrap();
    assert_eq!(backup.lacks(&slice), None);
    assert!(backup.lost(&slice).unwrap().contains("/home and /project alone"));
    slice.others.iter_mut().for_each(|other| other.key_fingerprint = "another".to_owned());
    assert!(backup.lacks(&slice).unwrap().contains("opens no more"));

    rebuilt(&world, &mut agent, &kept.volume_id).await;
    let list = list(&world).await;
    assert!(list[0].reason.contains("its root disk was made anew since"), "{}", list[0].reason);
    let drilled = drill(&world, "dina").await.unwrap_err();
    assert!(drilled.message().contains("/home and /project alone"), "{drilled}");
    restore(&world, "dina", &list[0].id).await.unwrap();
    let restoring = done(&world, &mut agent, v1::JobKind::Restore).await;
    assert!(restoring.volumes.len() == 1 && !restoring.volumes[0].root, "{:?}", restoring.volumes);
    let slice = world.get("dina", "heart/main").await.unwrap();
    assert!(slice.reason.contains("/home and /project alone"), "{}", slice.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_holds_up_no_destruction_and_the_certificate_says_so() {
    let world = World::full().await;
    let (mut agent, ..) = backed_up(&world).await;
    world.close("dina", "heart/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    let removing = job(&mut agent, v1::JobKind::Remove).await;
    let slice = &world.app.ledger.state().slices.values().next().unwrap().clone();
    assert!(slice.key_destroyed.is_some(), "the key goes first");
    let failed = v1::ObservedJob { reason: "no answer".to_owned(), ..ended(&removing, v1::JobPhase::Failed) };
    tell(&agent, v1::ObservedJob { removed: Vec::new(), ..failed }).await;
    agent.intends(|i| i.jobs.is_empty()).await;
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    let certificate = certificate(&world).await;
    assert_eq!(certificate["backups"][0]["removed"], false);
    let not = certificate["not_covered"].to_string();
    assert!(not.contains("whose ciphertext may still be in the store: no answer"), "{not}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_hold_is_not_restored() {
    let world = World::full_of(|config| config.backup.keep = 2).await;
    let (mut agent, _, made) = backed_up(&world).await;
    // A restore that was wanted before the hold ends with it.
    restore(&world, "dina", &made.backup_id).await.unwrap();
    job(&mut agent, v1::JobKind::Restore).await;
    hold(&world).await;
    agent.intends(|i| i.jobs.is_empty()).await;
    // What it has put back by then nobody knows, and so it says.
    let ended = list(&world).await.remove(0).restore.unwrap();
    assert!(!ended.passed && ended.by == "dina" && ended.detail.contains("may be restored already"));
    assert!(world.get("dina", "heart/main").await.unwrap().reason.contains("may be restored already"));
    let refused = restore(&world, "dina", &made.backup_id).await.unwrap_err();
    assert!(refused.message().contains("what it holds stays as it is"), "{refused}");
    assert_eq!(hint(&refused), "holm slice release heart/main --reason TEXT, by an officer");
    // A copy changes nothing.
    back_up(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Backup).await;
    world.slices("frida").release_slice(decide("heart/main", "over")).await.unwrap();
    // Of a whole project: what is under way waits until it is lifted.
    restore(&world, "dina", &made.backup_id).await.unwrap();
    job(&mut agent, v1::JobKind::Restore).await;
    world.projects("frida").hold_project(whole("a case")).await.unwrap();
    agent.intends(|i| i.jobs.is_empty()).await;
    world.projects("frida").release_project(whole("over")).await.unwrap();
    done(&world, &mut agent, v1::JobKind::Restore).await;
    // Nor does an older one go for a newer.
    back_up(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Backup).await;
    job(&mut agent, v1::JobKind::Remove).await;
    world.projects("frida").hold_project(whole("a case")).await.unwrap();
    agent.intends(|i| i.jobs.is_empty()).await;
    world.projects("frida").release_project(whole("over")).await.unwrap();
    assert_eq!(done(&world, &mut agent, v1::JobKind::Remove).await.remove, [made.backup_id]);
}

async fn hold(world: &World) {
    let hold = v1::HoldSliceRequest {
        slice: Some(reference("heart/main")),
        reason: "a case".to_owned(),
        ..Default::default()
    };
    world.slices("frida").hold_slice(hold).await.unwrap();
}

fn whole(reason: &str) -> v1::HoldProjectRequest {
    v1::HoldProjectRequest { project: "heart".to_owned(), reason: reason.to_owned(), dry_run: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hold_of_the_project_keeps_back_gives_way_to_a_copy() {
    let world = World::full_of(|config| config.backup.keep = 1).await;
    let (mut agent, _, made) = backed_up(&world).await;
    restore(&world, "dina", &made.backup_id).await.unwrap();
    job(&mut agent, v1::JobKind::Restore).await;
    world.projects("frida").hold_project(whole("a case")).await.unwrap();
    agent.intends(|i| i.jobs.is_empty()).await;
    back_up(&world, "dina").await.unwrap();
    let restored = list(&world).await.remove(0).restore.unwrap();
    assert!(!restored.passed && restored.detail.contains("given up"), "{restored:?}");
    done(&world, &mut agent, v1::JobKind::Backup).await;
    world.projects("frida").release_project(whole("over")).await.unwrap();
    // The same of a removal; what was to go goes with the next.
    back_up(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Backup).await;
    job(&mut agent, v1::JobKind::Remove).await;
    world.projects("frida").hold_project(whole("a case")).await.unwrap();
    agent.intends(|i| i.jobs.is_empty()).await;
    back_up(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Backup).await;
    assert_eq!(list(&world).await.len(), 4);
    world.projects("frida").release_project(whole("over")).await.unwrap();
    back_up(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Backup).await;
    assert_eq!(done(&world, &mut agent, v1::JobKind::Remove).await.remove.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_keeps_no_backup_whose_key_is_gone() {
    let world = World::full().await;
    let (mut agent, ..) = backed_up(&world).await;
    world.close("dina", "heart/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    let removing = job(&mut agent, v1::JobKind::Remove).await;
    world.projects("frida").hold_project(whole("a case")).await.unwrap();
    let told = reconcile::jobs::intended(&world.app.ledger.state(), &"dgx".parse().unwrap());
    assert_eq!(told, [removing]);
    done(&world, &mut agent, v1::JobKind::Remove).await;
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    assert_eq!(certificate(&world).await["backups"][0]["removed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_restore_that_is_given_up_the_smaller_size_is_taken_for_true() {
    let world = World::full().await;
    let (.., made) = backed_up(&world).await;
    restore(&world, "dina", &made.backup_id).await.unwrap();
    // Its disks have grown since.
    let mut slice = world.app.ledger.state().slices.values().next().unwrap().clone();
    let before = (slice.disk_gib, slice.others[0].size_gib);
    slice.disk_gib += 10;
    slice.others[0].size_gib += 10;
    backup::end_job(&mut slice, world.app.ledger.now());
    assert_eq!((slice.disk_gib, slice.others[0].size_gib), before);
    assert_eq!(slice.wanted_gib(), (before.0 + 10, before.1 + 10));
    assert!(slice.change.is_some() && slice.copies.job.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_place_and_a_slice_that_runs_have_no_backups() {
    let world = World::full().await;
    let (agent, _) = ready_slice(&world, "heart/main", 2).await;
    let runs = back_up(&world, "dina").await.unwrap_err();
    assert_eq!((runs.code(), hint(&runs).as_str()), (Code::FailedPrecondition, "holm slice stop heart/main"));
    drop(agent);
    let mut hello = crate::world::hello(0);
    hello.inventory.as_mut().unwrap().backups.clear();
    let mut agent = Agent::dial(&world, "dgx", hello).await.unwrap();
    stopped(&world, &mut agent).await;
    let no = back_up(&world, "dina").await.unwrap_err();
    assert!(no.message().contains("has no place for backups") && hint(&no).contains("[host.backup]"), "{no}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_demands_drills_starts_nothing_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let days = ("restore_drill_days = 0", "restore_drill_days = 30");
    let name = pack(dir.path(), &[days]);
    let world = World::full_of(|config: &mut Config| config.pack = name).await;
    let (mut agent, _) = resting(&world).await;
    let none = start(&world).await.unwrap_err();
    assert!(none.message().contains("demands a restore drill in 30 days, and it has no backup"), "{none}");
    assert!(hint(&none).starts_with("holm slice backup heart/main"));
    back_up(&world, "dina").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Backup).await;
    let never = start(&world).await.unwrap_err();
    assert!(never.message().contains("and there was none"), "{never}");
    assert_eq!(hint(&never), "holm volume restore-drill heart/main");
    drill(&world, "rosa").await.unwrap();
    let failing = job(&mut agent, v1::JobKind::Drill).await;
    let why = "a chunk is not what was written";
    tell(&agent, v1::ObservedJob { reason: why.to_owned(), ..ended(&failing, v1::JobPhase::Failed) }).await;
    agent.intends(|i| i.jobs.is_empty()).await;
    let failed = start(&world).await.unwrap_err();
    assert!(failed.message().contains(&format!("did not pass: {why}")), "{failed}");
    drill(&world, "rosa").await.unwrap();
    done(&world, &mut agent, v1::JobKind::Drill).await;
    // Rebuilt, and stopped before it ran: what the drill was of is gone, and of what it has no copy can be made.
    let rebuild =
        v1::StartSliceRequest { slice: Some(reference("heart/main")), rebuild: true, dry_run: false };
    world.slices("dina").start_slice(rebuild).await.unwrap();
    agent.slice(v1::Goal::Run).await;
    stopped(&world, &mut agent).await;
    let first = list(&world).await.remove(0);
    assert!(first.reason.contains("/home and /project alone"), "{}", first.reason);
    let no = back_up(&world, "dina").await.unwrap_err();
    assert!(no.message().contains("no whole copy") && hint(&no).starts_with("holm slice start"), "{no}");
    restore(&world, "dina", &first.id).await.unwrap();
    assert_eq!(done(&world, &mut agent, v1::JobKind::Restore).await.volumes.len(), 1);
    start(&world).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_to_recipients_that_are_configured_where_the_level_allows_it_and_are_logged() {
    let (safe, other) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    let dir = tempfile::tempdir().unwrap();
    let name = pack(dir.path(), &[("escrow = false", "escrow = true")]);
    let recipient = safe.to_public().to_string();
    let world = World::full_of(|config: &mut Config| {
        config.pack = name;
        config.escrow.recipients.insert("safe".parse().unwrap(), recipient.clone());
    })
    .await;
    let (mut agent, wanted) = ready_slice(&world, "heart/main", 2).await;
    let escrow = async |who: &str, project: &str, to: &[&str]| {
        let to = to.iter().map(ToString::to_string).collect();
        let request = v1::EscrowKeysRequest { project: project.to_owned(), to };
        world.keys(who).escrow_keys(request).await.map(tonic::Response::into_inner)
    };
    for (who, code) in [
        ("dina", Code::PermissionDenied),
        ("rosa", Code::PermissionDenied),
        ("olga", Code::NotFound),
        ("anna", Code::NotFound),
        ("lars", Code::NotFound),
    ] {
        assert_eq!(escrow(who, "heart", &["safe"]).await.unwrap_err().code(), code, "{who}");
        world.logged(|e| e.action == "keys.escrow" && e.actor.ends_with(who) && e.outcome == "refused").await;
    }
    // A level that does not say so, a recipient that nobody configured, or none.
    let level = escrow("frida", "brain", &["safe"]).await.unwrap_err();
    assert!(level.code() == Code::PermissionDenied && level.message().contains("escrow = true"), "{level}");
    let nobody = escrow("frida", "heart", &["safe", "mallory"]).await.unwrap_err();
    assert!(nobody.code() == Code::NotFound && nobody.message().contains("`mallory`"), "{nobody}");
    assert!(hint(&nobody).contains("[escrow.recipients]"));
    assert_eq!(escrow("frida", "heart", &[]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(escrow("frida", "nosuch", &["safe"]).await.unwrap_err().code(), Code::NotFound);
    let escrowed = |world: &World| {
        world.app.ledger.state().slices.values().map(|s| s.copies.escrow.len()).sum::<usize>()
    };
    assert_eq!(escrowed(&world), 0);

    let file = escrow("frida", "heart", &["safe"]).await.unwrap();
    assert_eq!((file.volumes, escrowed(&world)), (2, 1));
    assert!(age::decrypt(&other, &file.age_file).is_err());
    let plain = age::decrypt(&safe, &file.age_file).unwrap();
    let plain: serde_json::Value = serde_json::from_slice(&plain).unwrap();
    let state = world.app.ledger.state();
    let slice = state.slices.values().next().unwrap();
    let volumes = plain["volumes"].as_array().unwrap();
    for (one, (volume, print)) in
        volumes.iter().zip(slice.keyed_volumes().map(|keyed| (keyed.volume, keyed.fingerprint)))
    {
        let key = world.app.keys.open_volume_key(slice.project, volume).unwrap().unwrap();
        let hex = data_encoding::HEXLOWER.encode(key.expose_secret());
        assert_eq!(
            (one["passphrase"].as_str(), one["key_fingerprint"].as_str()),
            (Some(hex.as_str()), Some(print))
        );
        // The log says who, to whom, and which keys: never the key.
        for body in world.app.ledger.entries(0, world.app.ledger.size()).unwrap() {
            assert!(!String::from_utf8_lossy(&body).contains(&hex[..20]));
        }
    }
    let entry = world.logged(|e| e.action == "keys.escrow" && e.outcome == "allowed").await;
    assert_eq!((entry.actor.as_str(), &entry.detail["to"][0]), ("person/frida", &"safe".into()));
    assert_eq!(entry.detail["recipients"][0], recipient.as_str());
    assert_eq!(entry.detail["key_fingerprints"].as_array().unwrap().len(), 2);
    // While its disks get other keys both are given, and its record says so of both: what the disks have afterwards is
    // held elsewhere, too.
    world.slices("frida").rekey_slice(decide("heart/main", "")).await.unwrap();
    agent.intends(|i| i.slices.iter().any(|s| s.change.is_some())).await;
    let file = escrow("frida", "heart", &["safe"]).await.unwrap();
    let plain = age::decrypt(&safe, &file.age_file).unwrap();
    let plain: serde_json::Value = serde_json::from_slice(&plain).unwrap();
    let volumes = plain["volumes"].as_array().unwrap();
    let given: Vec<&str> = volumes.iter().filter_map(|one| one["key_fingerprint"].as_str()).collect();
    let state = world.app.ledger.state();
    let slice = state.slices.values().next().unwrap();
    assert_eq!((given.len(), slice.next_keys().len()), (4, 2));
    assert_eq!(slice.copies.escrow.last().unwrap().key_fingerprints, given);
    // And its certificate says that the key lives on.
    world.close("dina", "heart/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    assert_eq!(gone.slice_id, wanted.slice_id);
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    let certificate = certificate(&world).await;
    let not = certificate["not_covered"].to_string();
    assert!(
        not.contains("its key, which is also held by safe since") && not.contains("not destroyed"),
        "{not}"
    );
    // One whose keys are gone has none to give.
    assert_eq!(escrow("frida", "heart", &["safe"]).await.unwrap_err().code(), Code::FailedPrecondition);
}
