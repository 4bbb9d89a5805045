//! Attacks, each of which must end in a refusal.

use crate::world::{Agent, World, decide, frame, hello, observed};
use holm_control::identity::Caller;
use holm_proto::v1;
use std::time::Duration;
use tonic::Code;

async fn code(world: &World, by: &str, name: &str, roles: &[&str]) -> String {
    let request = v1::InviteRequest {
        subject: Some(v1::invite_request::Subject::Person(name.to_owned())),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    world.person(by).invite(request).await.unwrap().into_inner().code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_replaced_is_good_for_nothing() {
    let mut world = World::full().await;
    let (stolen, host) = (world.of("rosa"), world.of("dgx"));
    world.invite("frida", "rosa", &[]).await;
    world.person("rosa").who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    world.know("thief", stolen);
    let failure = world.get("thief", "heart/main").await.unwrap_err();
    assert_eq!(failure.code(), Code::PermissionDenied);
    assert!(failure.message().contains("replaced by a newer one"), "{}", failure.message());
    world.logged(|e| e.outcome == "refused" && e.reasons.join(" ").contains("replaced by a newer one")).await;

    // A host's: the session that runs with it ends, and there is no other.
    let mut agent = Agent::ready(&world, "dgx").await;
    world.invite_host("dgx").await;
    while agent.hear().await.is_some() {}
    world.know("thief", host);
    let failure = Agent::dial(&world, "thief", hello(0)).await.err().unwrap();
    assert_eq!(failure.code(), Code::PermissionDenied);
    Agent::dial(&world, "dgx", hello(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_went_astray_ends_with_the_next_one() {
    let mut world = World::new().await;
    let astray = code(&world, "olga", "dina", &["lead"]).await;
    let second = code(&world, "olga", "dina", &[]).await;
    assert_eq!(world.enrol("dina", &astray).await.unwrap_err().code(), Code::PermissionDenied);
    world.enrol("dina", &second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_somebody_is_enrolled_is_not_told_to_who_may_not_see_her() {
    let world = World::full().await;
    let mut answers = Vec::new();
    for name in ["rune", "nils"] {
        let request = v1::InviteRequest {
            subject: Some(v1::invite_request::Subject::Person(name.to_owned())),
            roles: vec!["researcher".to_owned()],
        };
        let failure = world.person("rosa").invite(request).await.unwrap_err();
        answers.push((failure.code(), failure.message().replace(name, "NAME")));
    }
    assert_eq!(answers[0], answers[1]);
}

/// Whatever a host says of all its devices, and officers of its slice, each entry fits into the log.
#[tokio::test(flavor = "multi_thread")]
async fn who_says_as_much_as_can_be_said_stops_nobody() {
    let world = World::full().await;
    let much = || "\"\\\u{1F600}\u{7}".repeat(100);
    let mut greeting = hello(0);
    for device in &mut greeting.inventory.as_mut().unwrap().devices {
        (device.id, device.driver) = (much(), much());
        device.reset_methods = vec![much(); 20];
    }
    let mut agent = Agent::dial(&world, "dgx", greeting).await.unwrap();
    agent.hear().await;
    agent.observe(Vec::new()).await;
    let clean = |run: v1::SanitiseRun, cleaned: bool| {
        let evidence = run.devices.iter().map(|address| v1::Evidence {
            cleaned,
            // What is no method of cleaning is believed of no device.
            method: if cleaned { "simulated".to_owned() } else { much() },
            tool: much(),
            pattern: much(),
            detail: much(),
            bytes_dirty_before: u64::MAX,
            took_ms: u64::MAX,
            ..crate::world::evidence(&run.run_id, address)
        });
        let report = v1::SanitiseReport { run_id: run.run_id.clone(), evidence: evidence.collect() };
        v1::from_agent::Body::SanitiseReport(report)
    };
    let run = agent.intends(|i| !i.runs.is_empty()).await.runs.remove(0);
    assert_eq!(run.devices.len(), 16);
    agent.cleaned(&run).await;
    agent.say(clean(run, true)).await;
    world.request("lars", "brain/main", 16).await.unwrap();
    for officer in ["frida", "gustav"] {
        let comment = "\u{1}".repeat(500);
        world.slices(officer).approve_slice(decide("brain/main", &comment)).await.unwrap();
    }
    let wanted = agent.slice(v1::Goal::Run).await;
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&wanted, phase).await;
    }
    world.until("lars", "brain/main", v1::SliceState::Ready).await;
    world.close("lars", "brain/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    agent.observe(vec![observed(&gone, v1::Phase::Absent)]).await;
    let run = agent.intends(|i| !i.runs.is_empty()).await.runs.remove(0);
    agent.say(clean(run, false)).await;
    world.until("lars", "brain/main", v1::SliceState::Destroyed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cannot_speak_of_anothers_devices_or_slices() {
    let mut world = World::full().await;
    world.invite_host("other").await;
    let mut agent = Agent::dial(&world, "dgx", hello(0)).await.unwrap();
    agent.hear().await;
    agent.observe(Vec::new()).await;
    let run = agent.intends(|i| !i.runs.is_empty()).await.runs.remove(0);
    let empty = v1::Hello { inventory: Some(v1::Inventory::default()), ..Default::default() };
    let mut other = Agent::dial(&world, "other", empty).await.unwrap();
    other.hear().await;
    let evidence = run.devices.iter().map(|a| crate::world::evidence(&run.run_id, a)).collect();
    let forged = v1::SanitiseReport { run_id: run.run_id.clone(), evidence };
    other.out.send(frame(v1::from_agent::Body::SanitiseReport(forged))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let state = world.app.ledger.state();
    assert_eq!(state.runs.len(), 1);
    assert!(state.devices.values().all(|d| d.state != holm_control::domain::records::DeviceState::Free));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_takes_every_seat_keeps_nobody_out() {
    let mut world = World::new().await;
    let holder = world.holder(&Caller::Person("olga".parse().unwrap()));
    world.note(&holder);
    let mut kept = Vec::new();
    let refused = loop {
        world.know("greedy", world.channel(Some(&holder)));
        let mut client = world.person("greedy");
        match client.who_am_i(v1::WhoAmIRequest {}).await {
            Ok(_) => kept.push(client),
            Err(failure) => break failure,
        }
    };
    assert!((100..200).contains(&kept.len()), "{} {refused}", kept.len());
    world.logged(|e| e.reasons.join(" ").contains("too many connections: of person/olga")).await;
    let frida = world.holder(&Caller::Person("frida".parse().unwrap()));
    world.note(&frida);
    world.know("frida", world.channel(Some(&frida)));
    world.person("frida").who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    // And who lets go of one gets another.
    kept.pop();
    let again = async { while world.person("greedy").who_am_i(v1::WhoAmIRequest {}).await.is_err() {} };
    tokio::time::timeout(crate::world::SOON, again).await.unwrap();
}

/// A host that says ever new things fills the log with so many, and with one entry that says so; what its devices
/// and slices come to is heard all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_floods_the_log_is_cut_short_and_its_evidence_is_not() {
    let world = World::full().await;
    let mut agent = Agent::dial(&world, "dgx", hello(0)).await.unwrap();
    agent.hear().await;
    agent.observe(Vec::new()).await;
    agent.intends(|i| !i.runs.is_empty()).await;
    for report in 0..5 {
        let disagreements = (0..64).map(|n| v1::Disagreement {
            id: format!("{report}-{n}"),
            subject: "0000:01:00.0".to_owned(),
            found: "nonsense".to_owned(),
            done: "nothing".to_owned(),
        });
        let (disagreements, generation) = (disagreements.collect(), agent.intended.generation);
        let devices = agent.notes();
        let report = v1::Observed { disagreements, generation, devices, ..Default::default() };
        agent.say(v1::from_agent::Body::Observed(report)).await;
    }
    world.logged(|e| e.action == "host.flood").await;
    // Other inventories are dropped too, and end nothing.
    for n in 0..20 {
        let mut inventory = hello(0).inventory.unwrap();
        inventory.volumes_gib = 1000 + n;
        agent.say(v1::from_agent::Body::Inventory(inventory)).await;
    }
    // Its evidence is heard, and its slice.
    agent.clean(&world, "dgx").await;
    world.request("dina", "heart/main", 1).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let wanted = agent.slice(v1::Goal::Run).await;
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&wanted, phase).await;
    }
    world.until("dina", "heart/main", v1::SliceState::Ready).await;
    let greeted = loop {
        // What it gets back in ten seconds it may have used for a greeting.
        match Agent::dial(&world, "dgx", hello(0)).await {
            Ok(_) => continue,
            Err(status) => break status,
        }
    };
    assert_eq!(greeted.code(), tonic::Code::ResourceExhausted, "{greeted}");
    let count = |action: &str| world.log().iter().filter(|e| e.action == action).count();
    let said = count("observe.disagreement") + count("observe.inventory") + count("agent.session");
    assert!((200..220).contains(&said), "{said}");
    assert_eq!(count("host.flood"), 1);
    assert!(count("observe.sanitise") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_again_and_again_is_not_heard_for_a_while_and_keeps_nobody_waiting() {
    const CALLS: usize = 600;
    let world = World::full().await;
    let before = world.log().len();
    let mut slices = Vec::new();
    for _ in 0..6 {
        let client = world.slices("rosa");
        slices.push(tokio::spawn(async move {
            let mut client = client;
            let mut codes = Vec::new();
            for _ in 0..CALLS / 6 {
                let wanted = crate::world::reference("brain/none");
                codes.push(client.get_slice(wanted).await.unwrap_err().code());
            }
            codes
        }));
    }
    // Meanwhile an officer locks her, and others work.
    let lock = v1::SetLockRequest {
        subject: "person/rosa".to_owned(),
        reason: "a flood".to_owned(),
        dry_run: false,
    };
    tokio::time::timeout(Duration::from_secs(5), world.locks("frida").set_lock(lock)).await.unwrap().unwrap();
    world.request("dina", "heart/main", 1).await.unwrap();
    let mut unheard = 0;
    for task in slices {
        unheard += task.await.unwrap().into_iter().filter(|code| *code == Code::ResourceExhausted).count();
    }
    assert!(unheard > CALLS / 2, "{unheard}");
    // And by a path that nobody serves.
    let entries = world.log();
    let hers = entries.iter().skip(before).filter(|e| e.actor == "person/rosa");
    let (said, of_each): (Vec<_>, Vec<_>) =
        hers.partition(|e| e.reasons.iter().any(|r| r.contains("were turned away unheard")));
    assert!(of_each.len() < 300, "{}", of_each.len());
    assert_eq!(said.len(), 1, "that there were more is said once a minute");
    assert_eq!(said[0].outcome, "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_asks_for_keys_that_are_not_to_be_had_fills_no_log() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    let before = world.log().len();
    for _ in 0..500 {
        let no = agent.key(&v1::IntendedSlice::default()).await.unwrap_err();
        assert!(!no.is_empty());
    }
    let keys = world.log().into_iter().skip(before).filter(|e| e.action == "agent.key").count();
    assert!(keys < 250, "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_that_asks_again_for_a_key_that_it_has() {
    let world = World::full().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    world.request("dina", "heart/main", 1).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let wanted = agent.slice(v1::Goal::Run).await;
    agent.key(&wanted).await.unwrap();
    let before = world.log().len();
    for _ in 0..400 {
        assert!(agent.key(&wanted).await.is_err());
    }
    let keys = world.log().into_iter().skip(before).filter(|e| e.action == "agent.key").count();
    assert!(keys < 250, "{keys}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_who_asks_and_takes_back_for_ever_fills_no_memory() {
    let world = World::full().await;
    for n in 0..60 {
        world.request("dina", &format!("heart/s{n}"), 1).await.unwrap();
        world.slices("dina").withdraw_slice(decide(&format!("heart/s{n}"), "")).await.unwrap();
    }
    assert!(world.app.ledger.state().slices.len() <= 51);
    for n in 0..64 {
        world.request("dina", &format!("heart/t{n}"), 1).await.unwrap();
    }
    let full = world.request("dina", "heart/more", 1).await.unwrap_err();
    assert_eq!(full.code(), Code::FailedPrecondition, "{full}");
    let state = world.app.ledger.state();
    let config = world.app.config.clone();
    let _kept = world.end().await;
    let app = holm_control::app::App::open(config);
    assert!(*app.unwrap().ledger.state() == *state, "the store has forgotten the same");
}
