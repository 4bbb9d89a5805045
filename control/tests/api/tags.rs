//! A change of something that is not any more as its caller saw it.

use crate::world::{World, decide, hint, reference};
use holm_control::tag::IF_MATCH;
use holm_proto::v1;
use tonic::{Code, Request};

fn expecting<T>(tag: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(IF_MATCH, tag.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_changed_since_it_was_seen_is_not_changed() {
    let world = World::full().await;
    let asked = world.request("dina", "heart/main", 1).await.unwrap();
    assert_eq!(world.get("rosa", "heart/main").await.unwrap().etag, asked.etag);
    let other = world.request("dina", "heart/other", 1).await.unwrap();
    assert_ne!(other.etag, asked.etag);

    let approve = |tag: &str| expecting(tag, decide("heart/main", "fits"));
    for tag in [&other.etag, "0123456789abcdef"] {
        let refused = world.slices("frida").approve_slice(approve(tag)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(hint(&refused).contains("look at it again"), "{refused}");
    }
    let entry = world.logged(|e| e.action == "slice.approve").await;
    assert_eq!((entry.outcome.as_str(), entry.actor.as_str()), ("refused", "person/frida"));
    assert!(entry.reasons[0].contains("it has changed"), "{:?}", entry.reasons);
    let approved = world.slices("frida").approve_slice(approve(&asked.etag)).await.unwrap().into_inner();
    assert_ne!(approved.etag, asked.etag);
    let withdraw = expecting(&asked.etag, decide("heart/main", "not any more"));
    let refused = world.slices("dina").withdraw_slice(withdraw).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    // A read tells what it is, whatever was expected.
    world.slices("dina").get_slice(expecting(&asked.etag, reference("heart/main"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_see_it_learns_nothing_by_its_tag() {
    let world = World::full().await;
    let asked = world.request("dina", "heart/main", 1).await.unwrap();
    for tag in [asked.etag.as_str(), "0123456789abcdef"] {
        let refused =
            world.slices("rune").stop_slice(expecting(tag, decide("heart/main", ""))).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_and_slices_have_tags_and_nothing_else_has() {
    let world = World::full().await;
    let shown = world.member("dina", "heart", "rosa").await.unwrap();
    let file = |tag: &str| {
        let (project, registration) = ("heart".to_owned(), Some(crate::world::filed()));
        expecting(tag, v1::FileProjectRequest { project, registration, dry_run: true })
    };
    world.projects("dina").file_project(file(&shown.etag)).await.unwrap();
    let stale = world.projects("dina").file_project(file("0123456789abcdef")).await.unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition);
    let nonsense = world.projects("dina").file_project(file("*")).await.unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
    let new = v1::CreateProjectRequest {
        name: "new".to_owned(),
        level: "2".to_owned(),
        purpose: "a tag".to_owned(),
        ..Default::default()
    };
    let refused = world.projects("dina").create_project(expecting(&shown.etag, new)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(hint(&refused).contains("--if-match"), "{refused}");
}
