//! What was only read is in the log as well, and fills nothing.

use crate::world::{World, ready_slice};
use holm_proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_in_the_log_once_and_then_by_how_often() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    for _ in 0..3 {
        world.get("dina", "heart/main").await.unwrap();
    }
    let reads = |world: &World| {
        let hers = |e: &holm_control::audit::Entry| e.actor == "person/dina" && e.action == "slice.read";
        world.log().into_iter().filter(hers).map(|e| (e.resource, e.outcome, e.detail)).collect::<Vec<_>>()
    };
    let first = [("slice/heart/main".to_owned(), "allowed".to_owned(), serde_json::Value::Null)];
    assert_eq!(reads(&world), first);
    // Each of an officer's.
    for _ in 0..2 {
        world.get("frida", "heart/main").await.unwrap();
    }
    assert_eq!(
        world.log().iter().filter(|e| e.actor == "person/frida" && e.action == "slice.read").count(),
        2
    );
    // Each that is refused, in the words of what is not there.
    let entries = world.log().len();
    let refused = world.get("rune", "heart/main").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    for project in ["heart", "nothing"] {
        let request = v1::ListSlicesRequest { project: project.to_owned(), ..Default::default() };
        let refused = world.slices("rune").list_slices(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
    }
    assert_eq!(world.log()[entries..].iter().filter(|e| e.outcome == "refused").count(), 3);
    // What was only counted is said when holmd ends.
    let world = world.restart().await;
    let all = reads(&world);
    let (_, _, detail) = all.last().unwrap();
    assert_eq!((all.len(), &detail["again"], &detail["over"]), (2, &2.into(), &true.into()), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_says_has_the_time_by_its_own_clock() {
    let world = World::full().await;
    let (_agent, _) = ready_slice(&world, "heart/main", 1).await;
    let entry = world.logged(|e| e.action == "observe.slice" && e.actor.starts_with("host/")).await;
    assert_eq!(entry.detail["source_time"], "2027-01-15T08:00:00Z", "{}", entry.detail);
}
