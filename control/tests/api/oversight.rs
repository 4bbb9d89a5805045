//! Who may write holmd's configuration cannot switch off what watches it unseen.

use crate::world::World;
use holm_control::watch::WatchConfig;

fn starts(world: &World) -> Vec<serde_json::Value> {
    world.log().into_iter().filter(|e| e.action == "oversight.start").map(|e| e.detail).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_gone_is_an_entry_at_the_next_start_and_what_stays_is_none() {
    let night = || WatchConfig {
        name: "night".to_owned(),
        action: Some("slice.connect".to_owned()),
        ..WatchConfig::default()
    };
    let world = World::full_of(|config| config.watch = Some(vec![night()])).await;
    let first = starts(&world);
    assert_eq!((first.len(), &first[0]["first"]), (1, &true.into()));
    assert!(first[0]["new"].as_array().unwrap().contains(&"watch/night".into()));
    let world = world.restart().await;
    assert_eq!(starts(&world).len(), 1, "nothing was changed");
    // Another rule under the same name, and a smaller sample.
    let world = world
        .restart_with(|config| {
            config.watch = Some(vec![WatchConfig { level: Some("9".to_owned()), ..night() }]);
            config.review.entries = 1;
        })
        .await;
    assert_eq!(starts(&world)[1]["changed"], serde_json::json!(["review", "watch/night"]));
    let world = world.restart_with(|config| config.watch = Some(Vec::new())).await;
    let all = starts(&world);
    assert_eq!((all.len(), &all[2]["gone"]), (3, &serde_json::json!(["watch/night"])));
    let entry = world.log().into_iter().rfind(|e| e.action == "oversight.start").unwrap();
    assert_eq!((entry.actor.as_str(), entry.changes.len()), ("holmd", 1));
}
