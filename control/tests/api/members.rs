//! Who is in a project and who is no more, and who only reads there.

use crate::register::{log_in, refused_by};
use crate::slices::{connect, echo, first};
use crate::world::{World, hint, ready_slice, reference};
use holm_proto::v1;
use std::time::Duration;
use tonic::{Code, Status};

/// Within so long it bites on what is open that somebody is taken out.
const BITES: Duration = Duration::from_secs(5);

async fn remove(world: &World, who: &str, person: &str) -> Result<v1::Project, Status> {
    let (project, person) = ("heart".to_owned(), person.to_owned());
    let request = v1::RemoveMemberRequest { project, person, dry_run: false };
    world.projects(who).remove_member(request).await.map(tonic::Response::into_inner)
}

async fn reads(world: &World, person: &str, read_only: Option<bool>) -> Result<v1::Project, Status> {
    let (project, person) = ("heart".to_owned(), person.to_owned());
    let request = v1::AddMemberRequest { project, person, external_agreement: None, read_only };
    world.projects("dina").add_member(request).await.map(tonic::Response::into_inner)
}

fn names(intended: &v1::Intended) -> Vec<&str> {
    intended.slices.iter().flat_map(|s| &s.users).map(|user| user.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_who_is_taken_out_what_is_open_ends_and_nothing_is_hers_any_more() {
    let world = World::full().await;
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    let _agent = echo(&world, agent).await;
    let (_send, mut tunnel) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
    assert_eq!(tunnel.message().await.unwrap().unwrap().data, "HELLO");
    let mut watched = world.slices("rosa").watch_slice(reference("heart/main")).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();

    let project = remove(&world, "dina", "rosa").await.unwrap();
    assert_eq!(project.members, ["dina"]);
    let ended = tokio::time::timeout(BITES, tunnel.message()).await.unwrap().unwrap_err();
    // As one to whom it never was there.
    assert_eq!(ended.code(), Code::NotFound, "{ended}");
    let ended = tokio::time::timeout(BITES, watched.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::NotFound, "{ended}");
    let entry = world.logged(|e| e.action == "project.remove-member").await;
    assert_eq!((entry.outcome.as_str(), entry.actor.as_str()), ("allowed", "person/dina"));
    assert_eq!((entry.resource.as_str(), &entry.detail["person"]), ("project/heart", &"rosa".into()));
    assert_eq!(world.logged(|e| e.action == "slice.disconnect").await.actor, "person/rosa");

    let refused = log_in(&world, "rosa", "heart/main").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let entry = world.logged(|e| e.action == "slice.connect" && e.outcome == "refused").await;
    assert_eq!(entry.actor, "person/rosa");
    assert_eq!(world.get("rosa", "heart/main").await.unwrap_err().code(), Code::NotFound);

    let again = remove(&world, "dina", "rosa").await.unwrap_err();
    assert_eq!((again.code(), hint(&again).as_str()), (Code::NotFound, "who is: holm project show heart"));
    let lead = remove(&world, "dina", "dina").await.unwrap_err();
    assert_eq!(lead.code(), Code::InvalidArgument, "{lead}");
    for nonsense in ["", "../x", "nobody\n"] {
        assert_eq!(remove(&world, "dina", nonsense).await.unwrap_err().code(), Code::InvalidArgument);
    }
    // Who comes back is one who was never away.
    world.member("dina", "heart", "rosa").await.unwrap();
    world.get("rosa", "heart/main").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_lead_takes_anybody_out() {
    let world = World::full().await;
    for (who, seen) in [("rosa", true), ("rune", false), ("lars", false), ("frida", true)] {
        let refused = remove(&world, who, "rosa").await.unwrap_err();
        let code = if seen { Code::PermissionDenied } else { Code::NotFound };
        assert_eq!(refused.code(), code, "{who}: {refused}");
        let by = format!("person/{who}");
        let entry = world.logged(|e| e.action == "project.remove-member" && e.actor == by).await;
        assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "project/heart"));
    }
    assert_eq!(world.app.ledger.state().project(&"heart".parse().unwrap()).unwrap().members.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_reads_logs_in_and_runs_nothing() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    let project = reads(&world, "rosa", Some(true)).await.unwrap();
    assert_eq!((project.members, project.readers), (strings(&["dina", "rosa"]), strings(&["rosa"])));
    let entry = world.logged(|e| e.action == "project.add-member" && e.detail["read_only"] == true).await;
    assert_eq!((entry.outcome.as_str(), &entry.detail["person"]), ("allowed", &"rosa".into()));
    // Her host hears of it, and with it the guest.
    let told = agent.intends(|i| i.slices.iter().any(|s| !s.readers.is_empty())).await;
    assert_eq!(names(&told), ["dina"]);
    let readers = &told.slices[0].readers;
    assert_eq!((readers.len(), readers[0].name.as_str(), readers[0].read_only), (1, "rosa", true));

    let stop = crate::world::decide("heart/main", "");
    let refused = world.slices("rosa").stop_slice(stop).await.unwrap_err();
    refused_by(&world, &refused, "rosa", "slice.stop", "slice.read-only").await;
    assert!(refused.message().contains("holm project add-member heart rosa --read-write"), "{refused}");
    let request = v1::BackUpSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    let refused = world.backups("rosa").back_up_slice(request).await.unwrap_err();
    refused_by(&world, &refused, "rosa", "slice.backup", "slice.read-only").await;
    world.get("rosa", "heart/main").await.unwrap();
    let _agent = echo(&world, agent).await;
    let (_send, mut tunnel) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
    assert_eq!(tunnel.message().await.unwrap().unwrap().data, "HELLO");

    // What is not said stays.
    assert_eq!(reads(&world, "rosa", None).await.unwrap().readers, ["rosa"]);
    let refused = reads(&world, "dina", Some(true)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(reads(&world, "rosa", Some(false)).await.unwrap().readers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_hears_of_who_comes_and_goes() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    remove(&world, "dina", "rosa").await.unwrap();
    agent.intends(|i| names(i) == ["dina"]).await;
    world.member("dina", "heart", "rosa").await.unwrap();
    agent.intends(|i| names(i) == ["dina", "rosa"]).await;
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}
