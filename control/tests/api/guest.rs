//! What guests claim for the log: each once, as the guest's, at its own rate, by the host that has it and no other.

use crate::world::{Agent, World, observed, ready_slice};
use holm_control::audit::Entry;
use holm_control::reconcile::guest::look;
use holm_proto::guest::AT_ONCE;
use holm_proto::v1;
use holm_proto::v1::guest_claim::What;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

const BOOT: &str = "0123456789abcdef0123456789abcdef";
const NEXT_BOOT: &str = "fedcba9876543210fedcba9876543210";

fn login(seq: u64, user: &str) -> v1::GuestClaim {
    let of = v1::GuestSession { user: user.to_owned(), service: "sshd".to_owned() };
    v1::GuestClaim { seq, time: 1_796_000_000, what: Some(What::Login(of)) }
}

fn claims(slice: &v1::IntendedSlice, boot: &str, claims: Vec<v1::GuestClaim>) -> v1::GuestClaims {
    v1::GuestClaims {
        slice_id: slice.slice_id.clone(),
        generation: slice.generation,
        boot: boot.to_owned(),
        claims,
        dropped: 0,
    }
}

/// Says it, and hears what is in the log.
async fn says(agent: &mut Agent, said: v1::GuestClaims) -> v1::GuestAck {
    let (slice, boot) = (said.slice_id.clone(), said.boot.clone());
    agent.say(v1::from_agent::Body::GuestClaims(said)).await;
    loop {
        if let v1::to_agent::Body::GuestAck(ack) = agent.hear().await.expect("the session ended") {
            assert_eq!((&ack.slice_id, &ack.boot), (&slice, &boot));
            return ack;
        }
    }
}

/// What the log has of guests: action and number, or what else there is to say.
fn guests(world: &World) -> Vec<Entry> {
    world.log().into_iter().filter(|entry| entry.action.starts_with("guest.")).collect()
}

fn actions(world: &World) -> Vec<String> {
    guests(world).into_iter().map(|entry| entry.action).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_claims_is_an_entry_each_once_and_marked_as_the_guests() {
    let world = World::full().await;
    let (mut agent, slice) = ready_slice(&world, "heart/main", 1).await;
    let all = [
        What::Mount(v1::GuestMount { disk: "data".to_owned() }),
        login(0, "rosa").what.unwrap(),
        What::JobStart(v1::GuestJobStart {
            job: 7,
            user: "rosa".to_owned(),
            partition: "batch".to_owned(),
            cpus: 4,
            gpus: 1,
        }),
        What::JobEnd(v1::GuestJobEnd { job: 7, user: "rosa".to_owned(), exit_code: Some(0), signal: None }),
        What::Transfer(v1::GuestTransfer {
            user: "rosa".to_owned(),
            bytes_out: 4096,
            files_out: 1,
            ..Default::default()
        }),
        What::Refused(v1::GuestRefused { user: "rosa".to_owned(), what: "copy-out".to_owned() }),
        What::Recorded(v1::GuestRecorded {
            user: "rosa".to_owned(),
            recording: "20261128-180102-rosa-x9ZkQ0".to_owned(),
            bytes: 4096,
            sha256: "0".repeat(64),
        }),
        What::Sudo(v1::GuestSudo {
            user: "rosa".to_owned(),
            target: "root".to_owned(),
            service: "sudo".to_owned(),
        }),
        What::Logout(v1::GuestSession { user: "rosa".to_owned(), service: "sshd".to_owned() }),
    ];
    let all: Vec<_> = (1..)
        .zip(all)
        .map(|(seq, what)| v1::GuestClaim { seq, time: 1_796_000_000, what: Some(what) })
        .collect();
    assert_eq!(says(&mut agent, claims(&slice, BOOT, all.clone())).await.seq, 9);
    let logged = guests(&world);
    let actions: Vec<&str> = logged.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "guest.boot",
            "guest.mount",
            "guest.login",
            "guest.job-start",
            "guest.job-end",
            "guest.transfer",
            "guest.refused",
            "guest.recorded",
            "guest.sudo",
            "guest.logout"
        ]
    );
    for entry in &logged {
        let told = (entry.actor.as_str(), entry.resource.as_str(), entry.project.as_deref());
        assert_eq!(told, ("host/dgx", "slice/heart/main", Some("heart")));
        assert!(entry.outcome == "observed" && entry.detail["claimed_by_guest"] == true, "{entry:?}");
        // A record that it moves on, not a slice's.
        let bytes = entry.changes[0].to_string().len();
        assert!(entry.changes.len() == 1 && bytes < 200, "{bytes} bytes");
    }
    let start = json!({
        "claimed_by_guest": true, "boot": BOOT, "seq": 3, "guest_time": "2026-11-30T00:53:20Z",
        "source_time": "2027-01-15T08:00:00Z", "job": 7, "user": "rosa", "partition": "batch", "cpus": 4, "gpus": 1,
    });
    assert_eq!(logged[3].detail, start);
    let unknown = json!(null);
    assert_eq!((&logged[4].detail["exit_code"], &logged[4].detail["signal"]), (&json!(0), &unknown));

    // Said again, also to a holmd that has begun anew, and by an agent that has: nothing.
    assert_eq!(says(&mut agent, claims(&slice, BOOT, all.clone())).await.seq, 9);
    drop(agent);
    let world = world.restart().await;
    let mut agent = Agent::dial(&world, "dgx", crate::world::hello(0)).await.unwrap();
    agent.slice(v1::Goal::Run).await;
    agent.observe(vec![observed(&slice, v1::Phase::Ready)]).await;
    assert_eq!(says(&mut agent, claims(&slice, BOOT, all)).await.seq, 9);
    // A number that was had does not become another claim's.
    assert_eq!(says(&mut agent, claims(&slice, BOOT, vec![login(3, "frida")])).await.seq, 9);
    assert_eq!(guests(&world).len(), 10);

    // What is missing shows, and so does a guest that was started anew.
    assert_eq!(says(&mut agent, claims(&slice, BOOT, vec![login(11, "rosa")])).await.seq, 11);
    assert_eq!(says(&mut agent, claims(&slice, NEXT_BOOT, vec![login(1, "rosa")])).await.seq, 1);
    let logged = guests(&world);
    let actions: Vec<&str> = logged[10..].iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["guest.gap", "guest.login", "guest.boot", "guest.login"]);
    let gap = json!({
        "claimed_by_guest": true, "boot": BOOT, "from": 10, "to": 10, "missing": 1, "source_time": "2027-01-15T08:00:00Z",
    });
    assert_eq!(logged[10].detail, gap);
    assert_eq!(logged[12].detail["before"], json!({ "boot": BOOT, "seq": 11 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_speaks_for_no_guest_but_its_own_and_a_guest_for_nobody() {
    let mut world = World::full().await;
    world.invite_host("other").await;
    let (mut agent, slice) = ready_slice(&world, "heart/main", 1).await;
    let mut stranger = Agent::ready(&world, "other").await;
    // Another host's, one that is not there, and one under another generation: no entry, and no answer.
    let none =
        v1::IntendedSlice { slice_id: "0190163d-8694-739b-aea5-966c26f8ad91".to_owned(), ..slice.clone() };
    let stale = v1::IntendedSlice { generation: slice.generation + 1, ..slice.clone() };
    for said in [&slice, &none] {
        let said = claims(said, BOOT, vec![login(1, "rosa")]);
        stranger.say(v1::from_agent::Body::GuestClaims(said)).await;
    }
    for said in [&none, &stale] {
        let said = claims(said, BOOT, vec![login(1, "rosa")]);
        agent.say(v1::from_agent::Body::GuestClaims(said)).await;
    }
    stranger.key(&slice).await.unwrap_err();
    assert_eq!(says(&mut agent, claims(&slice, BOOT, Vec::new())).await.seq, 0);
    assert_eq!(actions(&world), [""; 0]);
    // What no agent passes on ends the session of the one that does.
    for bad in [
        claims(&slice, BOOT, vec![login(0, "rosa")]),
        claims(&slice, BOOT, vec![login(1, "person/frida")]),
        claims(&slice, BOOT, vec![login(1, "\u{1b}[2J")]),
        claims(&slice, BOOT, vec![login(1, &"r".repeat(100_000))]),
        claims(&slice, BOOT, vec![v1::GuestClaim { time: u64::MAX, ..login(1, "rosa") }]),
        claims(&slice, BOOT, vec![v1::GuestClaim { what: None, ..login(1, "rosa") }]),
        claims(&slice, BOOT, (1..=1 + AT_ONCE as u64).map(|seq| login(seq, "rosa")).collect()),
        claims(&slice, "", vec![login(1, "rosa")]),
        claims(&slice, "../x", vec![login(1, "rosa")]),
        v1::GuestClaims { slice_id: "heart/main".to_owned(), ..claims(&slice, BOOT, Vec::new()) },
    ] {
        let mut agent = Agent::dial(&world, "dgx", crate::world::hello(0)).await.unwrap();
        agent.say(v1::from_agent::Body::GuestClaims(bad)).await;
        while agent.hear().await.is_some() {}
    }
    assert_eq!(actions(&world), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_floods_is_cut_short_and_others_are_heard_at_once() {
    let world = World::full().await;
    let (mut agent, slice) = ready_slice(&world, "heart/main", 1).await;
    world.request("dina", "heart/second", 1).await.unwrap();
    world.approve("frida", "heart/second").await.unwrap();
    let intended = agent.intends(|i| i.slices.len() == 2).await;
    let other = intended.slices.into_iter().find(|s| s.slice_id != slice.slice_id).unwrap();
    let mut logged = 0;
    for number in 0..20 {
        let said = (0..AT_ONCE as u64).map(|n| login(logged + 1 + n, "rosa")).collect();
        let said = v1::GuestClaims { dropped: 5000, ..claims(&slice, BOOT, said) };
        logged = says(&mut agent, said).await.seq;
        if number == 10 {
            // In the middle of it the neighbour says ten things, and all of them are entries.
            let said = (1..=10).map(|seq| login(seq, "dina")).collect();
            assert_eq!(says(&mut agent, claims(&other, BOOT, said)).await.seq, 10);
        }
    }
    // As many as it may, those that came while it flooded, and not 1280.
    let (of, now) = (|action: &str| guests(&world).iter().filter(|e| e.action == action).count(), logged);
    assert!((199..300).contains(&now), "{now}");
    assert_eq!(of("guest.login") as u64, now + 10);
    let flood: Vec<Entry> = guests(&world).into_iter().filter(|e| e.action == "guest.flood").collect();
    assert_eq!(flood.len(), 1, "{flood:?}");
    // Whoever looked first, the host's message or holmd by itself, has said it.
    let detail = (&flood[0].detail["claimed_by_guest"], &flood[0].detail["dropped"]);
    assert_eq!(detail, (&json!(true), &json!(5000)));
    assert_eq!(flood[0].resource, "slice/heart/main");
    // Its people see it, and those of others see nothing of it.
    let shown = world.get("dina", "heart/main").await.unwrap();
    assert!(
        shown.degraded && shown.warnings.iter().any(|w| w.contains("more than it may")),
        "{:?}",
        shown.warnings
    );
    // An hour later the rest of it is said, without another word from the guest.
    look(&world.app, Timestamp::now() + SignedDuration::from_mins(61)).unwrap();
    let flood = guests(&world).into_iter().rfind(|e| e.action == "guest.flood").unwrap();
    assert_eq!(flood.detail["dropped"], 19 * 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_falls_silent_is_an_entry_once_and_another_when_it_is_heard() {
    let world = World::full().await;
    let (mut agent, slice) = ready_slice(&world, "heart/main", 1).await;
    says(&mut agent, claims(&slice, "", Vec::new())).await;
    let begin = Timestamp::now();
    let at = |minutes| look(&world.app, begin + SignedDuration::from_mins(minutes)).unwrap();
    at(14);
    assert_eq!(actions(&world), [""; 0]);
    at(16);
    assert!(world.get("dina", "heart/main").await.unwrap().degraded);
    at(17);
    assert_eq!(actions(&world), ["guest.silent"]);
    let entry = &guests(&world)[0];
    assert_eq!((entry.actor.as_str(), entry.resource.as_str()), ("holmd", "slice/heart/main"));
    drop(agent);
    // Also over a restart it is said once.
    let world = world.restart().await;
    let at = |minutes| look(&world.app, begin + SignedDuration::from_mins(minutes)).unwrap();
    at(20);
    let mut agent = Agent::dial(&world, "dgx", crate::world::hello(0)).await.unwrap();
    agent.slice(v1::Goal::Run).await;
    agent.observe(vec![observed(&slice, v1::Phase::Ready)]).await;
    says(&mut agent, claims(&slice, "", Vec::new())).await;
    assert_eq!(actions(&world), ["guest.silent", "guest.heard"]);
    // One whose machine stands still, for want of room, cannot speak; nor one whose host is away.
    agent.observe(vec![v1::ObservedSlice { paused: true, ..observed(&slice, v1::Phase::Ready) }]).await;
    world.logged(|e| e.action == "observe.paused").await;
    at(60);
    agent.observe(vec![observed(&slice, v1::Phase::Ready)]).await;
    world.logged(|e| e.action == "observe.paused" && e.detail["paused"] == false).await;
    drop(agent);
    while !world.app.live.reporting().is_empty() {
        tokio::task::yield_now().await;
    }
    at(60);
    assert_eq!(actions(&world), ["guest.silent", "guest.heard"]);
    let mut agent = Agent::dial(&world, "dgx", crate::world::hello(0)).await.unwrap();
    agent.slice(v1::Goal::Run).await;
    agent.observe(vec![observed(&slice, v1::Phase::Ready)]).await;
    // Answered, what came before it was taken in.
    says(&mut agent, claims(&slice, "", Vec::new())).await;
    at(60);
    assert_eq!(actions(&world), ["guest.silent", "guest.heard", "guest.silent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_slice_goes_what_is_remembered_of_its_guest() {
    let world = World::full().await;
    let (mut agent, slice) = ready_slice(&world, "heart/main", 1).await;
    says(&mut agent, claims(&slice, BOOT, vec![login(1, "rosa")])).await;
    assert_eq!(world.app.ledger.state().claims.len(), 1);
    world.close("dina", "heart/main").await.unwrap();
    let end = agent.slice(v1::Goal::Destroyed).await;
    agent.reaches(&end, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    world.until("dina", "heart/main", v1::SliceState::Destroyed).await;
    assert!(world.app.ledger.state().claims.is_empty());
    agent.say(v1::from_agent::Body::GuestClaims(claims(&end, BOOT, vec![login(2, "rosa")]))).await;
    agent.key(&end).await.unwrap_err();
    assert_eq!(guests(&world).len(), 2);
    // What the log has of it is what the store has: it begins again from the log.
    drop(agent);
    world.restart().await;
}
