//! Who is let in at all.

use crate::world::{SOON, World, signed, wanted};
use holm_control::identity::{Authority, Caller, Wanted};
use holm_proto::v1;
use holm_proto::v1::person_service_client::PersonServiceClient;
use jiff::Timestamp;
use tonic::Code;
use tonic::transport::Channel;

async fn who_am_i(channel: Channel) -> Result<v1::Person, tonic::Status> {
    let answer = PersonServiceClient::new(channel).who_am_i(v1::WhoAmIRequest {}).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_certificate_is_refused_and_logged() {
    let world = World::new().await;
    let olga = "spiffe://holm/person/olga";
    let other = Authority::create(&world.dir.path().join("other"), Timestamp::now()).unwrap();
    let good = Caller::Person("olga".parse().unwrap());
    let day = jiff::SignedDuration::from_hours(24);
    let server = Wanted { usage: holm_control::identity::Usage::Server, ..wanted(&[olga], -1, 1) };
    for (what, holder) in [
        ("no certificate", None),
        ("another authority", Some(signed(&other, &Wanted::of(&good, day, Timestamp::now())))),
        ("has expired", Some(world.signed(&wanted(&[olga], -48, -24)))),
        ("not valid yet", Some(world.signed(&wanted(&[olga], 24, 48)))),
        ("has 2 names", Some(world.signed(&wanted(&[olga, "spiffe://holm/person/frida"], -1, 1)))),
        ("has 0 names", Some(world.signed(&wanted(&[], -1, 1)))),
        ("no person and no host", Some(world.signed(&wanted(&["spiffe://holm/person/../olga"], -1, 1)))),
        ("cannot be used", Some(world.signed(&server))),
    ] {
        let failure = who_am_i(world.channel(holder.as_ref())).await.unwrap_err();
        // No answer of holmd's: the connection ends in the handshake.
        assert!(failure.metadata().get(holm_control::api::REQUEST).is_none(), "{what}: {failure:?}");
        let entry = world.logged(|e| e.action == "connect" && e.reasons.join(" ").contains(what)).await;
        assert_eq!((entry.actor.as_str(), entry.outcome.as_str()), ("unknown", "refused"));
        assert!(entry.peer.starts_with("127.0.0.1:"), "{}", entry.peer);
    }
    // And the same person with a good one.
    let holder = world.holder(&good);
    world.note(&holder);
    assert_eq!(who_am_i(world.channel(Some(&holder))).await.unwrap().name, "olga");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_enrolled_is_refused_by_the_pack() {
    let world = World::new().await;
    for caller in [Caller::Person("nobody".parse().unwrap()), Caller::Host("nobody".parse().unwrap())] {
        let failure = who_am_i(world.channel(Some(&world.holder(&caller)))).await.unwrap_err();
        assert_eq!(failure.code(), Code::PermissionDenied);
        assert!(failure.message().contains("`nobody` is not enrolled"), "{}", failure.message());
        world.logged(|e| e.actor == caller.actor() && e.outcome == "refused").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_does_not_fill_the_log() {
    let world = World::new().await;
    let before = world.app.ledger.size();
    for _ in 0..30 {
        who_am_i(world.channel(None)).await.unwrap_err();
    }
    world.logged(|e| e.action == "connect").await;
    // The last of the ten may still be on its way.
    let settled = async {
        while world.app.ledger.size() < before + 10 {
            world.app.ledger.subscribe().changed().await.unwrap();
        }
    };
    let _ = tokio::time::timeout(SOON / 10, settled).await;
    assert_eq!(world.app.ledger.size(), before + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_certificate() {
    let world = World::new().await;
    let now = Timestamp::now();
    let soon = now.checked_add(jiff::SignedDuration::from_secs(2)).unwrap();
    let short = Wanted { until: soon, ..wanted(&["spiffe://holm/person/olga"], -1, 1) };
    let holder = world.signed(&short);
    world.note(&holder);
    let channel = world.channel(Some(&holder));
    who_am_i(channel.clone()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(3200)).await;
    assert!(who_am_i(channel).await.is_err());
    world.logged(|e| e.reasons.join(" ").contains("has expired")).await;
}
