//! Certificates: how long they are good, how they are renewed, and how they are taken away.

use crate::register::{decide_lower, lower};
use crate::slices::{connect, echo, first};
use crate::world::{Agent, Holder, SOON, World, hello, ready_slice, reference, wanted};
use holm_control::app::App;
use holm_control::config::Config;
use holm_control::identity::{Caller, Wanted};
use holm_control::setup;
use holm_proto::v1;
use holm_proto::v1::person_service_client::PersonServiceClient;
use holm_proto::v1::revoke_request::Subject;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Within so long it bites on what is open.
const BITES: Duration = Duration::from_secs(5);

fn person(name: &str) -> Subject {
    Subject::Person(name.to_owned())
}

fn host(name: &str) -> Subject {
    Subject::Host(name.to_owned())
}

async fn revoke(world: &World, who: &str, subject: Subject) -> Result<v1::RevokeResponse, Status> {
    let (subject, reason) = (Some(subject), "it was stolen".to_owned());
    Ok(world.person(who).revoke(v1::RevokeRequest { subject, reason, dry_run: false }).await?.into_inner())
}

async fn who_am_i(channel: Channel) -> Result<v1::Person, Status> {
    let answer = PersonServiceClient::new(channel).who_am_i(v1::WhoAmIRequest {}).await;
    answer.map(tonic::Response::into_inner)
}

fn denied<T: std::fmt::Debug>(answer: Result<T, Status>, text: &str) {
    let refused = answer.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains(text), "{refused}");
    assert!(!refused.message().contains("it was stolen"), "{refused}");
}

/// A new certificate over the connection of whoever has one.
async fn renewed(world: &World, channel: Channel) -> Result<Holder, Status> {
    let key = KeyPair::generate().unwrap();
    let csr_pem = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let answer = PersonServiceClient::new(channel).renew(v1::RenewRequest { csr_pem }).await?.into_inner();
    assert_eq!(answer.ca_pem, world.app.authority.pem());
    let chain = vec![CertificateDer::from_pem_slice(answer.certificate_pem.as_bytes()).unwrap()];
    Ok(Holder { chain, key: Arc::new(key) })
}

#[tokio::test(flavor = "multi_thread")]
async fn officers_revoke_people_operators_hosts_and_nobody_else() {
    let world = World::full().await;
    for (who, subject, code) in [
        ("dina", person("rosa"), Code::NotFound),
        ("rosa", person("rosa"), Code::PermissionDenied),
        ("olga", person("rosa"), Code::PermissionDenied),
        ("anna", person("rosa"), Code::NotFound),
        ("dgx", person("rosa"), Code::NotFound),
        ("frida", host("dgx"), Code::NotFound),
        ("dina", host("dgx"), Code::NotFound),
        ("dgx", host("dgx"), Code::NotFound),
        ("frida", person("nobody"), Code::NotFound),
        ("olga", host("nohost"), Code::NotFound),
    ] {
        let refused = revoke(&world, who, subject).await.unwrap_err();
        assert_eq!(refused.code(), code, "{who}: {refused}");
        let entry = world.log().pop().unwrap();
        assert!(["person.revoke", "host.revoke"].contains(&entry.action.as_str()), "{entry:?}");
        assert_eq!(entry.outcome, "refused");
    }
    // There is always an officer who can act.
    denied(revoke(&world, "frida", person("frida")).await, "nobody revokes her own");
    let empty = v1::RevokeRequest { subject: Some(person("rosa")), ..Default::default() };
    assert_eq!(world.person("frida").revoke(empty).await.unwrap_err().code(), Code::InvalidArgument);
    let dry = v1::RevokeRequest { subject: Some(person("rosa")), reason: "x".to_owned(), dry_run: true };
    world.person("frida").revoke(dry).await.unwrap();
    world.person("rosa").who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_good_for_nothing_at_once_and_after_a_restart() {
    let mut world = World::full().await;
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    let agent = echo(&world, agent).await;
    let (_send, mut tunnel) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
    assert_eq!(tunnel.message().await.unwrap().unwrap().data, "HELLO");
    let mut watched = world.slices("rosa").watch_slice(reference("heart/main")).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    // A code that she did not use yet.
    let again = v1::InviteRequest {
        subject: Some(v1::invite_request::Subject::Person("rosa".to_owned())),
        roles: Vec::new(),
    };
    let code = world.person("rosa").invite(again.clone()).await.unwrap().into_inner().code;

    let began = Instant::now();
    revoke(&world, "frida", person("rosa")).await.unwrap();
    let text = "was revoked by `frida`";
    denied(tokio::time::timeout(BITES, tunnel.message()).await.unwrap(), text);
    denied(tokio::time::timeout(BITES, watched.message()).await.unwrap(), text);
    assert!(began.elapsed() < BITES);
    let ended = world.logged(|e| e.action == "slice.disconnect").await;
    assert!(ended.detail["why"].as_str().unwrap().contains(text));
    world.logged(|e| e.action == "slice.watch" && e.outcome == "refused").await;
    let entry = world.logged(|e| e.action == "person.revoke" && e.outcome == "allowed").await;
    assert_eq!((&entry.detail["reason"], entry.resource.as_str()), (&"it was stolen".into(), "person/rosa"));
    denied(who_am_i(world.of("rosa")).await, text);
    denied(renewed(&world, world.of("rosa")).await.map(drop), text);
    assert_eq!(world.enrol("rosa", &code).await.unwrap_err().code(), Code::PermissionDenied);
    let twice = revoke(&world, "gustav", person("rosa")).await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);

    drop(agent);
    let mut world = world.restart().await;
    let old = world.of("rosa");
    denied(who_am_i(old.clone()).await, text);
    // She gets in again by an officer's word alone: an operator would have a way into her data.
    denied(world.person("olga").invite(again).await, "who has a certificate gets another");
    world.invite("frida", "rosa", &[]).await;
    who_am_i(world.of("rosa")).await.unwrap();
    denied(who_am_i(old).await, "replaced by a newer one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_host_has_no_session_and_carries_no_connection() {
    let mut world = World::full().await;
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    let _agent = echo(&world, agent).await;
    let (_send, mut tunnel) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
    assert_eq!(tunnel.message().await.unwrap().unwrap().data, "HELLO");
    revoke(&world, "olga", host("dgx")).await.unwrap();
    let ended = tokio::time::timeout(BITES, tunnel.message()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition, "{ended}");
    let name = "dgx".parse().unwrap();
    let mut live = world.app.live.subscribe();
    while world.app.live.host(&name).is_some() {
        tokio::time::timeout(BITES, live.changed()).await.unwrap().unwrap();
    }
    denied(Agent::dial(&world, "dgx", hello(0)).await.map(drop), "was revoked by `olga`");
    let entry = world.logged(|e| e.action == "agent.session" && e.outcome == "refused").await;
    assert_eq!(entry.actor, "host/dgx");
    // What runs runs on.
    assert_eq!(world.get("dina", "heart/main").await.unwrap().state(), v1::SliceState::Ready);
    world.invite_host("dgx").await;
    Agent::dial(&world, "dgx", hello(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_renews_has_two_until_the_new_one_is_used() {
    let mut world = World::full().await;
    for who in ["rosa", "dgx"] {
        let old = world.of(who);
        // An answer that is lost costs nobody anything.
        let lost = renewed(&world, old.clone()).await.unwrap();
        let new = renewed(&world, old.clone()).await.unwrap();
        let entry = world.logged(|e| e.action == "certificate.renew").await;
        assert_eq!((entry.outcome.as_str(), entry.actor.ends_with(who)), ("allowed", true));
        assert!(entry.detail["until"].is_string() && entry.detail["certificate"].is_string());
        let any = |answer: Result<v1::Person, Status>| match answer {
            // A host is nobody's entry.
            Err(status) if who == "dgx" && status.code() == Code::NotFound => Ok(()),
            answer => answer.map(drop),
        };
        any(who_am_i(old.clone()).await).unwrap();
        let replaced = "replaced by a newer one";
        denied(any(who_am_i(world.channel(Some(&lost))).await), replaced);
        let new = world.channel(Some(&new));
        any(who_am_i(new.clone()).await).unwrap();
        let entry = world.logged(|e| e.action == "certificate.use").await;
        assert!(entry.actor.ends_with(who) && entry.changes.len() == 1);
        denied(any(who_am_i(old.clone()).await), replaced);
        denied(renewed(&world, old).await.map(drop), replaced);
        world.know(who, new);
    }
    // Whoever is locked renews nothing.
    let (subject, reason) = ("person/rosa".to_owned(), "a case".to_owned());
    let lock = v1::SetLockRequest { subject, reason, dry_run: false };
    world.locks("frida").set_lock(lock).await.unwrap();
    denied(renewed(&world, world.of("rosa")).await.map(drop), "is locked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_ends_with_its_certificate() {
    let mut world = World::full().await;
    let now = Timestamp::now();
    let until = now.checked_add(SignedDuration::from_secs(4)).unwrap();
    let short = Wanted { until, ..wanted(&["spiffe://holm/person/rosa"], -1, 1) };
    let holder = world.signed(&short);
    world.note(&holder);
    let channel = world.channel(Some(&holder));
    world.know("rosa", channel);
    let (agent, _) = ready_slice(&world, "heart/main", 1).await;
    let _agent = echo(&world, agent).await;
    let (_send, mut tunnel) = connect(&world, "rosa", first("heart/main", b"hello")).await.unwrap();
    assert_eq!(tunnel.message().await.unwrap().unwrap().data, "HELLO");
    tokio::time::timeout(SOON, tunnel.message()).await.unwrap().unwrap_err();
    assert!(Timestamp::now().duration_since(until) < SignedDuration::from_secs(5));
    world.logged(|e| e.action == "slice.disconnect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_good_as_long_as_the_configuration_says() {
    let mut world = World::full_of(|config| {
        config.certificates.person_days = 2;
        config.certificates.host_days = 3;
    })
    .await;
    let until = |holder: &Holder| Caller::of(&holder.chain[0]).unwrap().1;
    for (who, days) in [("rosa", 2), ("dgx", 3)] {
        let holder = renewed(&world, world.of(who)).await.unwrap();
        let left = until(&holder).duration_since(Timestamp::now()).as_hours();
        assert!((days * 24 - 1..=days * 24).contains(&left), "{who}: {left} h");
        let channel = world.channel(Some(&holder));
        world.know(who, channel);
    }
    let dir = tempfile::tempdir().unwrap();
    let made = setup::init(&crate::world::options(dir.path())).unwrap();
    for days in [0, 367] {
        let mut config = Config::load(&made.config).unwrap();
        config.certificates.host_days = days;
        let refused = App::open(config).err().unwrap().to_string();
        assert_eq!(refused, format!("`host_days` in [certificates] can be 1 to 366: `{days}` is not"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thief_prepared_with_her_certificate_is_good_for_nothing() {
    let mut world = World::full().await;
    // The thief has olga's laptop, and invites herself a lead and a host.
    let code = |made: v1::Invitation| made.code;
    let invite = |subject, roles: &[&str]| v1::InviteRequest {
        subject: Some(subject),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    let lead = v1::invite_request::Subject::Person("eve".to_owned());
    let lead = code(world.person("olga").invite(invite(lead, &["lead"])).await.unwrap().into_inner());
    let host = v1::invite_request::Subject::Host("evil".to_owned());
    let host = code(world.person("olga").invite(invite(host, &[])).await.unwrap().into_inner());
    revoke(&world, "frida", person("olga")).await.unwrap();
    for (name, code) in [("eve", &lead), ("evil", &host)] {
        denied(
            world.enrol(name, code).await,
            "not known, was used already, has expired, or waits to be confirmed",
        );
    }
    // Nor when olga is back.
    let back = v1::invite_request::Subject::Person("olga".to_owned());
    let back = code(world.person("frida").invite(invite(back, &[])).await.unwrap().into_inner());
    world.confirm("gustav", "olga").await.unwrap();
    world.enrol("olga", &back).await.unwrap();
    for (name, code) in [("eve", &lead), ("evil", &host)] {
        denied(
            world.enrol(name, code).await,
            "not known, was used already, has expired, or waits to be confirmed",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_approved_with_it_and_is_not_decided_counts_no_more() {
    for locks in [false, true] {
        let mut world = World::full().await;
        world.invite("frida", "gerda", &["officer"]).await;
        world.request("lars", "brain/main", 1).await.unwrap();
        lower(&world, "", "names were removed").await.unwrap();
        world.approve("frida", "brain/main").await.unwrap();
        decide_lower(&world, "frida", true).await.unwrap();
        if locks {
            let (subject, reason) = ("person/frida".to_owned(), "a suspicion".to_owned());
            let request = v1::SetLockRequest { subject, reason, dry_run: false };
            world.locks("gustav").set_lock(request).await.unwrap();
        } else {
            revoke(&world, "gustav", person("frida")).await.unwrap();
        }
        let waits = world.get("gustav", "brain/main").await.unwrap();
        assert!(waits.approvals.is_empty() && waits.reason.starts_with("0 of 2 approvals"), "{waits:?}");
        let once = world.approve("gustav", "brain/main").await.unwrap();
        assert_eq!((once.state(), once.approvals.len()), (v1::SliceState::Requested, 1));
        let once = decide_lower(&world, "gustav", true).await.unwrap();
        assert_eq!((once.level.as_str(), once.declassification.unwrap().approvals.len()), ("3", 1));
        let twice = world.approve("gerda", "brain/main").await.unwrap();
        assert_eq!(twice.state(), v1::SliceState::Approved);
        assert_eq!(decide_lower(&world, "gerda", true).await.unwrap().level, "2");
    }
}
