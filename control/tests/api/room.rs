//! holmd's own disk is nearly full: what is begun is refused, and that is in the log; what ends and takes away goes on.

use crate::world::{World, decide, hint};
use holm_proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn long_before_there_is_no_room_nothing_new_is_begun_and_what_takes_away_goes_on() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    world.request("dina", "heart/other", 1).await.unwrap();
    // No disk has so much.
    let world = world.restart_with(|config| config.disk.keep_free_mib = u32::MAX).await;
    let refused = world.request("dina", "heart/third", 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("holmd's disk is nearly full"), "{refused}");
    assert!(hint(&refused).contains("make room on holmd's disk"), "{refused}");
    let entry = world.logged(|e| e.action == "slice.request" && e.resource == "slice/heart/third").await;
    assert_eq!((entry.outcome.as_str(), entry.changes.len()), ("refused", 0));
    assert!(world.get("dina", "heart/third").await.is_err(), "nothing of it is there");
    // Who only tries hears the same.
    let tried = v1::RequestSliceRequest {
        project: "heart".to_owned(),
        name: "third".to_owned(),
        gpus: 1,
        dry_run: true,
        ..Default::default()
    };
    let refused = world.slices("dina").request_slice(tried).await.unwrap_err();
    assert!(refused.message().contains("holmd's disk is nearly full"), "{refused}");
    assert_eq!(world.approve("frida", "heart/main").await.unwrap_err().code(), Code::Unavailable);

    // Reading, withdrawing and locking.
    assert_eq!(world.get("dina", "heart/main").await.unwrap().state(), v1::SliceState::Requested);
    world.slices("dina").withdraw_slice(decide("heart/other", "")).await.unwrap();
    let lock = v1::SetLockRequest {
        subject: "slice/heart/main".to_owned(),
        reason: "a doubt".to_owned(),
        ..Default::default()
    };
    world.locks("frida").set_lock(lock).await.unwrap();

    let world = world.restart_with(|config| config.disk.keep_free_mib = 0).await;
    world.request("dina", "heart/third", 1).await.unwrap();
}
