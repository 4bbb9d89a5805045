//! A call that is sent again under its key is made once.

use crate::world::{World, hint, reference};
use holm_control::once::KEY;
use holm_proto::v1;
use tonic::{Code, Request, Status};

const ONE: &str = "7f3c0b1e-0000-4000-8000-000000000001";
const TWO: &str = "7f3c0b1e-0000-4000-8000-000000000002";

/// A call under a key.
fn under<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(KEY, key.parse().unwrap());
    request
}

fn wanted(slice: &str, dry_run: bool) -> v1::RequestSliceRequest {
    let r = reference(slice);
    v1::RequestSliceRequest { project: r.project, name: r.name, gpus: 1, dry_run, ..Default::default() }
}

async fn ask(world: &World, who: &str, key: &str, slice: &str) -> Result<v1::Slice, Status> {
    let answer = world.slices(who).request_slice(under(key, wanted(slice, false))).await;
    answer.map(tonic::Response::into_inner)
}

fn changes(world: &World, action: &str, outcome: &str) -> usize {
    world.log().iter().filter(|e| e.action == action && e.outcome == outcome).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_is_made_once() {
    let world = World::full().await;
    let first = ask(&world, "dina", ONE, "heart/main").await.unwrap();
    let again = ask(&world, "dina", &ONE.to_uppercase(), "heart/main").await.unwrap();
    assert_eq!(again, first);
    // Both are in the log; the second names the first.
    let entries: Vec<_> = world.log().into_iter().filter(|e| e.action == "slice.request").collect();
    let [made, told] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(told.detail["again"].as_str(), Some(made.request.as_str()));
    assert_eq!((told.outcome.as_str(), told.changes.len()), ("allowed", 0));
    assert!(!told.reasons.is_empty() && told.pack == made.pack);

    // Under no key, under another, or of another name it is another call.
    let refused = world.request("dina", "heart/main", 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(ask(&world, "dina", TWO, "heart/main").await.unwrap_err().code(), Code::AlreadyExists);
    assert_ne!(ask(&world, "dina", ONE, "heart/other").await.unwrap().id, first.id);
    // The same of somebody else tells her nothing.
    assert_eq!(ask(&world, "lars", ONE, "heart/main").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(ask(&world, "rosa", ONE, "heart/main").await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_nothing_is_not_remembered() {
    let world = World::full().await;
    let dry = world.slices("dina").request_slice(under(ONE, wanted("heart/main", true))).await;
    dry.unwrap();
    ask(&world, "dina", ONE, "heart/main").await.unwrap();
    // Refused, and then allowed.
    let file = v1::FileProjectRequest {
        project: "new".to_owned(),
        registration: Some(crate::world::filed()),
        dry_run: false,
    };
    let sent = || under(TWO, file.clone());
    assert_eq!(world.projects("dina").file_project(sent()).await.unwrap_err().code(), Code::NotFound);
    world.project("dina", "new", "2").await.unwrap();
    world.projects("dina").file_project(sent()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_any_more_is_told_nothing_but_that_it_was_done() {
    let world = World::full().await;
    let first = ask(&world, "dina", ONE, "heart/main").await.unwrap();
    let lock = v1::SetLockRequest {
        subject: "project/heart".to_owned(),
        reason: "a doubt".to_owned(),
        ..Default::default()
    };
    world.locks("frida").set_lock(lock).await.unwrap();
    let refused = ask(&world, "dina", ONE, "heart/main").await.unwrap_err();
    assert!(refused.message().contains("is not done again") && !refused.message().contains(&first.id));
    let entry = world.logged(|e| e.action == "slice.request" && e.outcome == "refused").await;
    assert!(entry.reasons.iter().any(|reason| reason.contains("locked")), "{entry:?}");
    // Of herself she hears what is wrong.
    let lock = v1::SetLockRequest {
        subject: "person/dina".to_owned(),
        reason: "a doubt".to_owned(),
        dry_run: false,
    };
    world.locks("frida").set_lock(lock).await.unwrap();
    let refused = ask(&world, "dina", ONE, "heart/main").await.unwrap_err();
    assert!(refused.message().contains("locked") && !refused.message().contains("done again"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_elsewhere_takes_no_key() {
    let world = World::full().await;
    let rotate =
        v1::RotateKeysRequest { what: Some(v1::rotate_keys_request::What::Project("heart".to_owned())) };
    let refused = world.keys("frida").rotate_keys(under(ONE, rotate)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("takes no key"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_made_once() {
    let world = World::full().await;
    let all = (0..20).map(|_| ask(&world, "dina", ONE, "heart/main"));
    let all = futures::future::join_all(all).await;
    let ids: std::collections::BTreeSet<_> = all.into_iter().map(|slice| slice.unwrap().id).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(changes(&world, "slice.request", "allowed"), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_it_is_known_to_be_made_and_a_code_is_nobodys() {
    let world = World::full().await;
    let invite = v1::InviteRequest {
        subject: Some(v1::invite_request::Subject::Person("emil".to_owned())),
        roles: vec!["lead".to_owned()],
    };
    let ask = async |world: &World, who: &str| {
        let answer = world.person(who).invite(under(ONE, invite.clone())).await;
        answer.map(tonic::Response::into_inner)
    };
    let made = ask(&world, "olga").await.unwrap();
    assert_eq!(ask(&world, "olga").await.unwrap(), made);
    assert!(!made.code.is_empty());
    let world = world.restart().await;
    let refused = ask(&world, "olga").await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("is not done again"), "{refused:?}");
    assert!(hint(&refused).contains("under another key"), "{refused:?}");
    assert_eq!(changes(&world, "person.invite", "refused"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_none_is_refused_and_logged() {
    let world = World::full().await;
    let refused = ask(&world, "dina", "first", "heart/main").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "holm-idempotency-key is a UUID")
    );
    assert_eq!(world.get("dina", "heart/main").await.unwrap_err().code(), Code::NotFound);
    let entry = world.logged(|e| e.reasons.iter().any(|r| r.contains("is a UUID"))).await;
    assert_eq!((entry.actor.as_str(), entry.outcome.as_str()), ("person/dina", "refused"));
}
