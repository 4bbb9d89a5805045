//! The review of the log by sample: holmd draws, officers look, and none at what is about herself.

use crate::world::World;
use holm_control::audit::verify;
use holm_control::domain::records::{Change, Record};
use holm_control::domain::review::Review;
use holm_control::ledger::{Call, Decided};
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tonic::{Code, Status};

async fn decide(world: &World, who: &str, number: u32, entry: u64, flag: bool) -> Result<v1::Review, Status> {
    let comment = if flag { "not her project" } else { "" }.to_owned();
    let request = v1::DecideEntryRequest { number, entry, flag, comment, dry_run: false };
    Ok(world.reviews(who).decide_entry(request).await?.into_inner())
}

async fn get(world: &World, number: u32) -> v1::Review {
    world.reviews("frida").get_review(v1::GetReviewRequest { number }).await.unwrap().into_inner()
}

/// As holmd ends a period, days ago.
fn close(world: &World, number: u32, days: i64) {
    let ago = SignedDuration::from_hours(24 * days);
    let closed = Timestamp::now().checked_sub(ago).unwrap();
    let call = Call::own("review.close", format!("review/{number}"));
    let review = Review { number, closed, entries: 20, sample: None };
    let detail = json!({ "review": number, "entries": 20 });
    let changes = vec![Change::Put(Record::Review(review))];
    world.app.ledger.commit(&call, |_, _| Ok(Decided { detail, ..Decided::new(changes, ()) })).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_is_drawn_by_itself_and_each_entry_looked_at_by_another() {
    let mut world = World::full().await;
    // frida tries what she may not, which is an access.
    world.member("frida", "heart", "rune").await.unwrap_err();
    close(&world, 1, 31);
    let drawn = world.logged(|e| e.action == "review.draw" && e.resource == "review/1").await;
    // And the next period ends as this one did: 31 days are over.
    world.logged(|e| e.action == "review.draw" && e.resource == "review/2").await;
    let sample: Vec<u64> = serde_json::from_value(drawn.detail["sample"].clone()).unwrap();
    let log = world.log();
    let accesses: Vec<u64> =
        log.iter().filter(|e| e.action == "project.add-member").map(|e| e.index).collect();
    assert_eq!(sample, accesses, "there are fewer than are wanted");

    let review = get(&world, 1).await;
    assert_eq!(review.items.iter().map(|item| item.entry).collect::<Vec<_>>(), sample);
    let read = log.len() as u64;
    assert_eq!(world.log()[read as usize].action, "audit.read", "that she read it is an entry");
    let about = |who: &str| {
        let item = review.items.iter().find(|item| item.about.contains(&who.to_owned())).unwrap();
        (item.entry, serde_json::from_slice::<serde_json::Value>(&item.body).unwrap())
    };
    let ((rosas, _), (fridas, body)) = (about("rosa"), about("frida"));
    assert_eq!((&body["actor"], &body["outcome"]), (&"person/frida".into(), &"refused".into()));

    for who in ["dina", "rosa", "olga", "anna", "dgx"] {
        let refused = decide(&world, who, 1, rosas, false).await.unwrap_err();
        let no = [Code::PermissionDenied, Code::NotFound];
        assert!(no.contains(&refused.code()), "{who}: {refused}");
        let entry = world.log().pop().unwrap();
        assert_eq!((entry.action.as_str(), entry.outcome.as_str()), ("audit.review", "refused"));
    }
    let own = decide(&world, "frida", 1, fridas, false).await.unwrap_err();
    assert_eq!(own.code(), Code::PermissionDenied);
    assert!(own.message().contains("is about `frida`"), "{own}");
    let entry = world.log().pop().unwrap();
    assert_eq!((entry.actor.as_str(), entry.outcome.as_str()), ("person/frida", "refused"));
    assert_eq!(decide(&world, "frida", 1, 0, false).await.unwrap_err().code(), Code::NotFound);

    decide(&world, "frida", 1, rosas, false).await.unwrap();
    let twice = decide(&world, "gustav", 1, rosas, true).await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition, "{twice}");
    world = world.restart().await;
    assert_eq!(get(&world, 1).await.done, None);
    let done = decide(&world, "gustav", 1, fridas, true).await.unwrap();
    assert!(done.done.is_some());
    assert_eq!((done.decided, done.flagged), (2, 1));
    let entry = world.log().pop().unwrap();
    assert_eq!((&entry.detail["entry"], &entry.detail["flag"]), (&fridas.into(), &true.into()));
    // Nothing is drawn twice, also over a restart, and anybody who has the log draws it again.
    let bodies = world.app.ledger.entries(0, world.app.ledger.size()).unwrap();
    let key = world.app.log_key.vkey(&world.app.config.log_origin);
    let verified = verify::entries(&world.app.ledger.checkpoint(), &key, bodies).unwrap();
    let redrawn: Vec<(u32, bool)> = verified.samples.iter().map(|s| (s.review, s.good)).collect();
    assert_eq!(redrawn, [(1, true), (2, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_looks_at_is_overdue_and_officers_hear_of_it() {
    let world = World::full().await;
    close(&world, 1, 20);
    world.logged(|e| e.action == "review.draw").await;
    assert!(!get(&world, 1).await.overdue);
    // Its time is over, as if 14 days had gone by.
    let mut review = world.app.ledger.state().reviews[&1].clone();
    review.sample.as_mut().unwrap().due = Timestamp::now();
    let changes = vec![Change::Put(Record::Review(review))];
    let call = Call::own("test", String::new());
    world.app.ledger.commit(&call, |_, _| Ok(Decided::new(changes, ()))).unwrap();
    let overdue = world.logged(|e| e.action == "observe.review").await;
    assert_eq!((&overdue.detail["overdue"], &overdue.detail["decided"]), (&true.into(), &0.into()));
    assert!(get(&world, 1).await.overdue);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_is_not_over_has_no_sample() {
    let world = World::full().await;
    close(&world, 1, 29);
    world.logged(|e| e.action == "review.draw").await;
    let world = world.restart().await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(world.log().iter().filter(|e| e.action == "review.close").count(), 1);
}
