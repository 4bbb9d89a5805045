//! How much disk the slices of a project may have together.

use crate::world::{World, decide, hint};
use holm_proto::v1;
use tonic::{Code, Status};

async fn quota(world: &World, who: &str, gib: Option<u64>) -> Result<v1::Quota, Status> {
    let request = v1::SetQuotaRequest { project: "heart".to_owned(), disk_gib: gib, dry_run: false };
    world.projects(who).set_quota(request).await.map(tonic::Response::into_inner)
}

/// Ask for a slice with so much of each disk.
async fn ask(world: &World, name: &str, gib: [u64; 3]) -> Result<v1::Slice, Status> {
    let [disk_gib, home, scratch] = gib;
    let request = v1::RequestSliceRequest {
        project: "heart".to_owned(),
        name: name.to_owned(),
        gpus: 1,
        disk_gib,
        home_gib: Some(home),
        scratch_gib: Some(scratch),
        ..Default::default()
    };
    world.slices("dina").request_slice(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slices_of_a_project_have_so_much_disk_together_and_no_more() {
    let world = World::full().await;
    let project = async |who: &str| {
        let request = v1::GetProjectRequest { name: "heart".to_owned() };
        world.projects(who).get_project(request).await.unwrap().into_inner().quota.unwrap()
    };
    ask(&world, "one", [10, 20, 30]).await.unwrap();
    let all = project("rosa").await;
    assert_eq!((all.disk_gib, all.used_gib, all.of_site), (0, 60, true));
    // Only an operator sets it, and she hears no more than the figures.
    for (who, code) in [
        ("dina", Code::PermissionDenied),
        ("frida", Code::PermissionDenied),
        ("rune", Code::NotFound),
        ("anna", Code::NotFound),
        ("dgx", Code::NotFound),
    ] {
        assert_eq!(quota(&world, who, Some(1)).await.unwrap_err().code(), code, "{who}");
    }
    let set = quota(&world, "olga", Some(100)).await.unwrap();
    assert_eq!((set.project.as_str(), set.disk_gib, set.used_gib, set.of_site), ("heart", 100, 60, false));
    let entry = world.logged(|e| e.action == "project.quota" && e.outcome == "allowed").await;
    assert_eq!(
        (entry.actor.as_str(), &entry.detail),
        ("person/olga", &serde_json::json!({ "disk_gib": 100 }))
    );
    // To the GiB.
    let no = ask(&world, "two", [11, 20, 10]).await.unwrap_err();
    assert_eq!(no.code(), Code::FailedPrecondition);
    assert!(
        no.message().contains("may have 100 GiB") && no.message().contains("have 60, and 41 more"),
        "{no}"
    );
    assert!(hint(&no).contains("holm project quota heart --disk-gib 101"), "{}", hint(&no));
    let dry = v1::RequestSliceRequest {
        project: "heart".to_owned(),
        name: "two".to_owned(),
        gpus: 1,
        disk_gib: 1000,
        dry_run: true,
        ..Default::default()
    };
    assert!(world.slices("dina").request_slice(dry).await.is_err(), "a dry run says the same");
    ask(&world, "two", [10, 20, 10]).await.unwrap();
    assert!(ask(&world, "three", [2, 0, 0]).await.is_err());
    // Another project is another's; what is withdrawn is given back.
    world.request("lars", "brain/main", 1).await.unwrap();
    world.slices("dina").withdraw_slice(decide("heart/one", "")).await.unwrap();
    assert_eq!(project("dina").await.used_gib, 40);
    ask(&world, "three", [2, 0, 0]).await.unwrap();
    // Lowered, it takes nothing away; 0 is no limit; and the site's holds again where it is taken back.
    quota(&world, "olga", Some(1)).await.unwrap();
    assert_eq!(project("dina").await.used_gib, 42);
    world.approve("frida", "heart/two").await.unwrap();
    assert!(ask(&world, "four", [2, 0, 0]).await.is_err());
    quota(&world, "olga", Some(0)).await.unwrap();
    ask(&world, "four", [2, 0, 0]).await.unwrap();
    assert!(quota(&world, "olga", None).await.unwrap().of_site);
    let much = quota(&world, "olga", Some(u64::MAX)).await.unwrap_err();
    assert_eq!(much.code(), Code::InvalidArgument, "{much}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_ask_at_once_do_not_get_the_same_room() {
    let world = World::full().await;
    quota(&world, "olga", Some(50)).await.unwrap();
    let asked = (0..8).map(|n| {
        let name = format!("s{n}");
        let world = &world;
        async move { ask(world, &name, [10, 0, 0]).await.is_ok() }
    });
    let given = futures::future::join_all(asked).await;
    assert_eq!(given.into_iter().filter(|given| *given).count(), 5);
}
