//! Full disks: what a slice shows, what the log has of it, and what keeps a host from getting more.

use crate::world::{Agent, World, observed, ready_slice, reference};
use holm_control::audit::Entry;
use holm_proto::v1;

fn disk(name: &str, used: u64) -> v1::DiskUse {
    v1::DiskUse {
        name: name.to_owned(),
        bytes: 100 << 30,
        free: (100 - used) << 30,
        files: 1000,
        files_free: 900,
    }
}

/// A report of the slice with these disks, in the middle of its life.
async fn says(agent: &Agent, slice: &v1::IntendedSlice, disks: Vec<v1::DiskUse>) {
    agent.observe(vec![v1::ObservedSlice { disks, ..observed(slice, v1::Phase::Ready) }]).await;
}

/// The slice as it is seen when it is like this.
async fn when(world: &World, who: &str, is: impl Fn(&v1::Slice) -> bool) -> v1::Slice {
    use futures::StreamExt as _;
    let mut watched = world.slices(who).watch_slice(reference("heart/main")).await.unwrap().into_inner();
    let wait = async {
        while let Some(now) = watched.next().await {
            let now = now.unwrap();
            if is(&now) {
                return now;
            }
        }
        panic!("the stream ended");
    };
    tokio::time::timeout(crate::world::SOON, wait).await.expect("it never is")
}

fn entries(world: &World, action: &str) -> Vec<Entry> {
    world.log().into_iter().filter(|entry| entry.action == action).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_shows_how_full_its_disks_are_and_the_log_has_each_threshold_once() {
    let world = World::full().await;
    let (agent, slice) = ready_slice(&world, "heart/main", 1).await;
    assert!(world.get("rosa", "heart/main").await.unwrap().disks.is_empty(), "it has not said");
    says(&agent, &slice, vec![disk("root", 10), disk("data", 79)]).await;
    let seen = when(&world, "rosa", |s| !s.disks.is_empty()).await;
    assert_eq!(seen.disks, [disk("root", 10), disk("data", 79)]);
    assert_eq!(seen.warnings, Vec::<String>::new());
    // Up and down, as often as it likes.
    for _ in 0..5 {
        for used in [81, 91, 60] {
            says(&agent, &slice, vec![disk("data", used)]).await;
            when(&world, "rosa", |s| s.disks[0].used_percent() == used).await;
        }
    }
    says(&agent, &slice, vec![disk("data", 92)]).await;
    let seen = when(&world, "dina", |s| !s.warnings.is_empty()).await;
    assert!(seen.warnings[0].contains("/home and /project are 92 % full: delete"), "{:?}", seen.warnings);
    let told = entries(&world, "observe.disk");
    let brief: Vec<_> = told.iter().map(|e| (e.actor.as_str(), e.resource.as_str(), &e.detail)).collect();
    let detail = |used: u64, at_least: u64| {
        let said = "2027-01-15T08:00:00Z";
        serde_json::json!({ "disk": "data", "used_percent": used, "at_least": at_least, "source_time": said })
    };
    let (first, second) = (detail(81, 80), detail(91, 90));
    assert_eq!(brief, [("host/dgx", "slice/heart/main", &first), ("host/dgx", "slice/heart/main", &second)]);
    // It is in nobody's record: what runs and is asked again is all there is.
    assert!(!format!("{:?}", world.app.ledger.state()).contains("DiskUse"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_cannot_mean_is_not_shown_and_not_logged() {
    let mut world = World::full().await;
    world.invite_host("other").await;
    let (agent, slice) = ready_slice(&world, "heart/main", 1).await;
    let more = v1::DiskUse { free: u64::MAX, ..disk("root", 95) };
    for bad in [
        vec![disk("raid", 95)],
        vec![disk("root", 95), disk("root", 95)],
        vec![more],
        vec![v1::DiskUse { bytes: 0, free: 0, ..disk("root", 95) }],
        (0..1000).map(|n| disk(&format!("d{n}"), 95)).collect(),
        vec![disk("\u{1b}[2J", 95)],
    ] {
        says(&agent, &slice, bad).await;
    }
    // A disk that it does not have is not its own to speak of.
    let other = v1::IntendedSlice { volumes: Vec::new(), ..slice.clone() };
    says(&agent, &other, vec![disk("root", 20)]).await;
    let seen = when(&world, "rosa", |s| !s.disks.is_empty()).await;
    assert_eq!((seen.disks, seen.warnings), (vec![disk("root", 20)], Vec::new()));
    assert_eq!(entries(&world, "observe.disk").len(), 0);
    // Nor does another host speak of it.
    let mut stranger = Agent::ready(&world, "other").await;
    says(&stranger, &slice, vec![disk("root", 99)]).await;
    stranger.key(&slice).await.unwrap_err();
    assert_eq!(world.get("rosa", "heart/main").await.unwrap().disks, [disk("root", 20)]);
    assert_eq!(entries(&world, "observe.disk").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_paused_is_shown_logged_and_nothing_more_is_placed_beside_it() {
    let world = World::full().await;
    let (agent, slice) = ready_slice(&world, "heart/main", 1).await;
    let room = |free: u64| Some(v1::VolumesUse { bytes: 100 << 30, free: free << 30 });
    let report = |paused: bool, volumes: Option<v1::VolumesUse>| {
        let seen = v1::ObservedSlice { paused, ..observed(&slice, v1::Phase::Ready) };
        v1::from_agent::Body::Observed(v1::Observed {
            slices: vec![seen],
            generation: agent.intended.generation,
            devices: agent.notes(),
            volumes,
            ..Default::default()
        })
    };
    let codes = || async {
        let host = world.hosts("olga").get_host(v1::GetHostRequest { name: "dgx".to_owned() }).await;
        let host = host.unwrap().into_inner();
        (host.alerts.into_iter().map(|alert| alert.code).collect::<Vec<_>>(), host.volumes)
    };
    agent.say(report(true, room(0))).await;
    let seen = when(&world, "rosa", |s| s.paused).await;
    assert!(seen.state() == v1::SliceState::Ready, "it runs again as it was");
    assert!(seen.warnings[0].contains("no room") && seen.warnings[0].contains("operator"));
    assert_eq!(codes().await, (vec!["slices-paused".to_owned(), "volumes-full".to_owned()], room(0)));
    let entry = world.logged(|e| e.action == "observe.paused").await;
    let said = "2027-01-15T08:00:00Z";
    assert_eq!(entry.detail, serde_json::json!({ "host": "dgx", "paused": true, "source_time": said }));
    // Whoever came now would be the next to stand still.
    world.request("dina", "heart/more", 1).await.unwrap();
    world.approve("frida", "heart/more").await.unwrap();
    let waits = world.slices("dina").explain_slice(reference("heart/more")).await.unwrap().into_inner();
    assert!(waits.hosts.iter().any(|host| host.reason.contains("not ready")), "{waits:?}");
    agent.say(report(false, room(15))).await;
    when(&world, "rosa", |s| !s.paused && s.warnings.is_empty()).await;
    assert_eq!(codes().await, (vec!["volumes-nearly-full".to_owned()], room(15)));
    world.until("dina", "heart/more", v1::SliceState::Placed).await;
    world.logged(|e| e.action == "observe.paused" && e.detail["paused"] == false).await;
    // Nonsense is nothing.
    agent.say(report(false, Some(v1::VolumesUse { bytes: 1, free: 2 }))).await;
    when(&world, "rosa", |_| true).await;
    // Said twice it is logged once.
    agent.say(report(false, None)).await;
    assert_eq!(entries(&world, "observe.paused").len(), 2);
}
