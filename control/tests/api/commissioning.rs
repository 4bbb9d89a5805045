//! What a host says of its own fitness: who is believed, and what comes of it.

use crate::world::{Agent, Holder, World, hello};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use data_encoding::{BASE64, HEXLOWER};
use holm_control::audit::Entry;
use holm_control::identity::Caller;
use holm_proto::commission::CHECKS;
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;

type Body = v1::from_agent::Body;

/// A host whose key the test has.
fn host_with_key(world: &mut World, name: &str) -> Holder {
    let holder = world.holder(&Caller::Host(name.parse().unwrap()));
    world.note(&holder);
    let channel = world.channel(Some(&holder));
    world.know(name, channel);
    holder
}

fn ago(seconds: i64) -> Timestamp {
    Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).unwrap()
}

/// A report in which everything passes but these.
fn report(failed: &[&str], at: Timestamp) -> v1::Commissioning {
    let check = |listed: &holm_proto::commission::Check| {
        let mut check = v1::Check {
            id: listed.id.to_owned(),
            title: listed.title.to_owned(),
            must: listed.must,
            found: "as it was found".to_owned(),
            mend: "as it is mended".to_owned(),
            ..Default::default()
        };
        check.set_verdict(if failed.contains(&listed.id) { v1::Verdict::Fail } else { v1::Verdict::Pass });
        check
    };
    v1::Commissioning {
        checks: CHECKS.iter().map(check).collect(),
        at: Some(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }),
        agent_version: "0.1.0".to_owned(),
        simulated: false,
    }
}

fn signed(holder: &Holder, report: &v1::Commissioning) -> v1::SignedCommissioning {
    let bytes = report.encode_to_vec();
    let key = holder.key.serialize_der();
    let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &key).unwrap();
    let signature = key.sign(&SystemRandom::new(), &bytes).unwrap().as_ref().to_vec();
    v1::SignedCommissioning { report: bytes, signature }
}

/// A real host: 16 GPUs and 12 NVSwitches as they are bought.
fn real() -> v1::Hello {
    let mut hello = hello(0);
    hello.simulated = false;
    let inventory = hello.inventory.as_mut().unwrap();
    inventory.devices.iter_mut().for_each(|gpu| gpu.memory_bytes = 32 << 30);
    inventory.devices.extend((0x60..0x6c).map(|n| v1::PciDevice {
        address: format!("0000:{n:02x}:00.0"),
        kind: v1::DeviceKind::Nvswitch.into(),
        id: "10de:1ac2".to_owned(),
        iommu_group: Some(n),
        reset_methods: vec!["bus".to_owned()],
        ..Default::default()
    }));
    hello
}

fn of_commissioning(outcome: &'static str) -> impl Fn(&Entry) -> bool {
    move |entry| entry.action == "host.commission" && entry.outcome == outcome
}

fn count(world: &World, outcome: &'static str) -> usize {
    world.log().into_iter().filter(of_commissioning(outcome)).count()
}

async fn shown(world: &World) -> v1::Host {
    world.hosts("olga").get_host(v1::GetHostRequest { name: "dgx".to_owned() }).await.unwrap().into_inner()
}

fn codes(host: &v1::Host) -> Vec<&str> {
    host.alerts.iter().map(|alert| alert.code.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_a_must_gets_no_slice_and_its_tenant_learns_nothing_of_it() {
    let mut world = World::full().await;
    let holder = host_with_key(&mut world, "dgx");
    let mut agent = Agent::dial(&world, "dgx", real()).await.unwrap();
    agent.hear().await;
    agent.observe(Vec::new()).await;
    // The GPUs' memory is larger than the usual agent of these tests cleans: all of it is covered.
    clean(&mut agent, &world).await;
    world.request("dina", "heart/main", 2).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    let waits = |world: &World| world.app.ledger.state().slices.values().next().unwrap().reason.clone();

    // Nobody has checked it yet.
    world.logged(|e| e.action == "slice.place").await;
    assert_eq!(waits(&world), "queued: the host is not ready");
    assert_eq!(codes(&shown(&world).await), ["not-commissioned"]);

    agent.say(Body::Commissioning(signed(&holder, &report(&["swap-off"], ago(60))))).await;
    let entry = world.logged(of_commissioning("allowed")).await;
    assert_eq!((entry.actor.as_str(), entry.resource.as_str()), ("host/dgx", "host/dgx"));
    assert_eq!(entry.detail["verdicts"]["swap-off"], "fail");
    let host = shown(&world).await;
    assert_eq!(codes(&host), ["commissioning-failed"]);
    assert!(host.alerts[0].text.contains("swap-off: as it was found"));
    assert_eq!(host.alerts[0].prevents, [i32::from(v1::Prevents::Allocation)]);
    let kept = host.commissioning.unwrap();
    assert_eq!(kept.checks.len(), CHECKS.len());
    assert_eq!(kept.checks.iter().filter(|c| c.verdict() == v1::Verdict::Pass).count(), CHECKS.len() - 1);
    holm_control::reconcile::round(&world.app).unwrap();
    let slice = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(slice.state(), v1::SliceState::Approved);
    assert_eq!(slice.reason, "queued: the host is not ready");

    // Mended, it gets it.
    agent.say(Body::Commissioning(signed(&holder, &report(&["hugepages"], ago(30))))).await;
    let wanted = agent.slice(v1::Goal::Run).await;
    assert_eq!(wanted.devices.len(), 2);
    assert!(shown(&world).await.alerts.is_empty());

    // Unfit again, what runs there runs on, and nothing new is placed.
    agent.say(Body::Commissioning(signed(&holder, &report(&["ksm-off"], ago(10))))).await;
    world.logged(|e| of_commissioning("allowed")(e) && e.detail["verdicts"]["ksm-off"] == "fail").await;
    world.request("dina", "heart/second", 1).await.unwrap();
    world.approve("frida", "heart/second").await.unwrap();
    holm_control::reconcile::round(&world.app).unwrap();
    let second = world.get("dina", "heart/second").await.unwrap();
    assert_eq!(
        (second.state(), second.reason.as_str()),
        (v1::SliceState::Approved, "queued: the host is not ready")
    );
    assert!(agent.intended.slices.iter().any(|s| s.slice_id == wanted.slice_id));
}

/// Report every GPU clean, all of its memory.
async fn clean(agent: &mut Agent, world: &World) {
    let name = "dgx".parse().unwrap();
    let dirty = || {
        world
            .app
            .ledger
            .state()
            .host_devices(&name)
            .any(|d| d.gpu && d.state != holm_control::domain::records::DeviceState::Free)
    };
    while dirty() {
        let runs = agent.intends(|i| !i.runs.is_empty()).await.runs;
        for run in &runs {
            agent.cleaned(run).await;
            let evidence = run.devices.iter().map(|address| v1::Evidence {
                method: "scrub-vm/cuda".to_owned(),
                bytes_total: 32 << 30,
                bytes_written: 32 << 30,
                bytes_verified: 32 << 30,
                ..crate::world::evidence(&run.run_id, address)
            });
            let report = v1::SanitiseReport { run_id: run.run_id.clone(), evidence: evidence.collect() };
            agent.say(Body::SanitiseReport(report)).await;
        }
        agent.intends(|i| i.runs.iter().all(|run| runs.iter().all(|done| done.run_id != run.run_id))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_this_hosts_word_of_now_is_refused_and_logged() {
    let mut world = World::full().await;
    let holder = host_with_key(&mut world, "dgx");
    world.invite_host("other").await;
    let stranger = host_with_key(&mut world, "other");
    let mut agent = Agent::dial(&world, "dgx", real()).await.unwrap();
    agent.hear().await;
    let good = signed(&holder, &report(&[], ago(60)));
    agent.say(Body::Commissioning(good.clone())).await;
    world.logged(of_commissioning("allowed")).await;
    let kept = world.app.ledger.state().hosts[&"dgx".parse().unwrap()].clone();

    let fresh = || report(&[], Timestamp::now());
    let mut changed = signed(&holder, &report(&["swap-off"], Timestamp::now()));
    changed.report = fresh().encode_to_vec();
    let mut bent = signed(&holder, &fresh());
    *bent.signature.last_mut().unwrap() ^= 1;
    let mut oversized = fresh();
    oversized.checks[0].found = "x".repeat(20_000);
    let mut many = fresh();
    many.checks = (0..60).map(|n| v1::Check { id: format!("c{n}"), ..Default::default() }).collect();
    let mut twice = fresh();
    twice.checks.push(twice.checks[0].clone());
    let nothing = v1::Commissioning { at: None, ..fresh() };
    let nonsense = {
        let bytes = b"no message".to_vec();
        let key =
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &holder.key.serialize_der());
        let signature = key.unwrap().sign(&SystemRandom::new(), &bytes).unwrap().as_ref().to_vec();
        v1::SignedCommissioning { report: bytes, signature }
    };
    let refused = [
        (changed, "not signed by the key"),
        (bent, "not signed by the key"),
        (signed(&stranger, &fresh()), "not signed by the key"),
        (v1::SignedCommissioning::default(), "not signed by the key"),
        (signed(&holder, &report(&["swap-off"], ago(120))), "older than the last"),
        (signed(&holder, &report(&[], ago(3600))), "of 3600 s ago"),
        (signed(&holder, &report(&[], ago(-3600))), "clock is wrong"),
        (signed(&holder, &oversized), "at most"),
        (signed(&holder, &many), "at most 32 checks"),
        (signed(&holder, &twice), "twice"),
        (signed(&holder, &nothing), "when it was made"),
        (nonsense, "cannot be read"),
    ];
    for (number, (bad, words)) in refused.into_iter().enumerate() {
        let mut agent = Agent::dial(&world, "dgx", real()).await.unwrap();
        agent.hear().await;
        agent.say(Body::Commissioning(bad.clone())).await;
        let logged =
            |e: &Entry| of_commissioning("refused")(e) && e.reasons.iter().any(|r| r.contains(words));
        world.logged(|e| logged(e) && count(&world, "refused") == number + 1).await;
        // The session goes on, and another such report is no other entry.
        agent.say(Body::Commissioning(bad)).await;
        agent.observe(Vec::new()).await;
        agent.say(Body::Commissioning(good.clone())).await;
        let host = &world.app.ledger.state().hosts[&"dgx".parse().unwrap()];
        assert_eq!(host.commissioning, kept.commissioning);
    }
    assert_eq!(count(&world, "allowed"), 1, "the same report again is no news");
    assert_eq!(count(&world, "refused"), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_can_check_who_said_it() {
    let mut world = World::full().await;
    let holder = host_with_key(&mut world, "dgx");
    let mut agent = Agent::dial(&world, "dgx", real()).await.unwrap();
    agent.hear().await;
    let mut long = report(&[], ago(5));
    for check in &mut long.checks {
        check.set_verdict(v1::Verdict::Unknown);
        check.found = "\"\\\u{1b}\n".repeat(40);
        check.mend = "m".repeat(160);
    }
    agent.say(Body::Commissioning(signed(&holder, &long))).await;
    let entry = world.logged(of_commissioning("allowed")).await;
    let bytes = |field: &str| BASE64.decode(entry.detail[field].as_str().unwrap().as_bytes()).unwrap();
    let (report, certificate) = (bytes("report"), bytes("certificate"));
    assert_eq!(entry.detail["sha256"], HEXLOWER.encode(digest(&SHA256, &report).as_ref()));
    assert_eq!(certificate, holder.chain[0].as_ref());
    let print = HEXLOWER.encode(digest(&SHA256, &certificate).as_ref());
    assert_eq!(world.app.ledger.state().hosts[&"dgx".parse().unwrap()].certificate, print);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, rcgen::PublicKeyData::der_bytes(&*holder.key));
    key.verify(&report, &bytes("signature")).unwrap();
    assert_eq!(v1::Commissioning::decode(report.as_slice()).unwrap(), long);
    // What people see of it has been cleaned.
    let host = shown(&world).await;
    assert!(host.commissioning.unwrap().checks.iter().all(|c| !c.found.contains(['\u{1b}', '\n', '"'])));

    // A day later the same is written down again; the same day it is not.
    let entries = count(&world, "allowed");
    agent
        .say(Body::Commissioning(signed(&holder, &v1::Commissioning { at: report_time(1), ..long.clone() })))
        .await;
    agent
        .say(Body::Commissioning(signed(
            &holder,
            &v1::Commissioning { agent_version: "0.2.0".into(), at: report_time(0), ..long },
        )))
        .await;
    world.logged(|e| of_commissioning("allowed")(e) && count(&world, "allowed") > entries).await;
    assert_eq!(count(&world, "allowed"), entries + 1);
}

fn report_time(seconds: i64) -> Option<prost_types::Timestamp> {
    let at = ago(seconds);
    Some(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_blocks_what_it_touches() {
    let mut world = World::full().await;
    let holder = host_with_key(&mut world, "dgx");
    let mut less = real();
    let devices = &mut less.inventory.as_mut().unwrap().devices;
    devices.pop();
    // GPU 1 has other firmware than the others.
    devices.iter_mut().enumerate().for_each(|(n, d)| d.firmware = if n == 0 { "1" } else { "2" }.to_owned());
    let mut agent = Agent::dial(&world, "dgx", less).await.unwrap();
    agent.hear().await;
    agent.observe(Vec::new()).await;
    agent.say(Body::Commissioning(signed(&holder, &report(&[], ago(5))))).await;
    clean(&mut agent, &world).await;
    world.logged(of_commissioning("allowed")).await;
    assert_eq!(codes(&shown(&world).await), ["nvswitch-missing", "firmware-differs"]);
    for (slice, gpus) in [("heart/pair", 2), ("heart/one", 1)] {
        world.request("dina", slice, gpus).await.unwrap();
        world.approve("frida", slice).await.unwrap();
    }
    let wanted = agent.slice(v1::Goal::Run).await;
    assert_eq!(wanted.name, "one");
    assert_ne!(wanted.devices, [crate::world::address(1)]);
    let pair = world.get("dina", "heart/pair").await.unwrap();
    assert_eq!(
        (pair.state(), pair.reason.as_str()),
        (v1::SliceState::Approved, "queued: the host is not ready")
    );
}
