//! A second factor: what a level demands it for, and what a provider that is away or unknown changes.

use crate::world::{World, decide, hint, pack, ready_slice, reference, stopped};
use holm_control::app::App;
use holm_control::config::Config;
use holm_control::domain::login::Login;
use holm_control::domain::records::{Change, Person, Record};
use holm_control::ledger::{Call, Decided};
use holm_control::login::LoginConfig;
use holm_proto::v1;
use jiff::SignedDuration;
use std::path::Path;
use tonic::{Code, Status};

/// A second factor is demanded, at level 2.
const DEMANDED: [(&str, &str); 1] = [("second_factor_hours = 0", "second_factor_hours = 12")];

/// A provider that is not there.
fn away(dir: &Path) -> LoginConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    std::fs::write(dir.join("idp.pem"), ca.pem()).unwrap();
    LoginConfig {
        issuer: "https://127.0.0.1:9".to_owned(),
        client_id: "holm".to_owned(),
        client_secret: None,
        ca_file: dir.join("idp.pem"),
        acr: Vec::new(),
        amr: vec!["mfa".to_owned()],
    }
}

async fn demanding(dir: &Path) -> World {
    let (pack, login) = (pack(dir, &DEMANDED), away(dir));
    let world = World::full().await;
    world.restart_with(|config: &mut Config| (config.pack, config.login) = (pack, Some(login))).await
}

/// As if she had been at the provider so long ago, with the certificate that she has now.
fn logged_in(app: &App, who: &str, ago: SignedDuration, second: bool) {
    let call = Call::own("login", format!("person/{who}"));
    let at = app.ledger.now().checked_sub(ago).unwrap();
    app.ledger
        .commit(&call, |state, _| {
            let person = state.people[&who.parse().unwrap()].clone();
            let how = if second { "amr mfa" } else { "amr pwd" }.to_owned();
            let (certificate, account) = (person.certificate.clone(), Some(format!("{who:0>64}")));
            let login = Login { certificate, at, second, how };
            let changed = Record::Person(Person { account, login: Some(login), ..person });
            Ok(Decided::new(vec![Change::Put(changed)], ()))
        })
        .unwrap();
}

async fn approve(world: &World) -> Result<v1::Slice, Status> {
    let request = decide("heart/first", "");
    world.slices("frida").approve_slice(request).await.map(tonic::Response::into_inner)
}

async fn start(world: &World) -> Result<v1::Slice, Status> {
    let request = v1::StartSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    world.slices("dina").start_slice(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_data_of_a_level_or_decides_on_it_has_proven_a_second_factor_lately() {
    let dir = tempfile::tempdir().unwrap();
    let world = demanding(dir.path()).await;
    world.request("dina", "heart/first", 1).await.unwrap();
    let refused = async |what: &str| {
        let status = approve(&world).await.unwrap_err();
        assert_eq!(
            (status.code(), hint(&status).as_str()),
            (Code::PermissionDenied, "holm login"),
            "{status}"
        );
        assert!(status.message().contains(what), "{status}");
        let entry = world.logged(|e| e.action == "slice.approve" && e.reasons.concat().contains(what)).await;
        assert_eq!(entry.outcome, "refused");
    };
    refused(
        "level 2 demands a second factor in the last 12 hours: you have not logged in with this certificate",
    )
    .await;
    logged_in(&world.app, "frida", SignedDuration::from_mins(1), false);
    refused("your login was without one (amr pwd)").await;
    logged_in(&world.app, "frida", SignedDuration::from_hours(12), true);
    refused("you proved yours at").await;
    logged_in(&world.app, "frida", SignedDuration::from_hours(-1), true);
    refused("you proved yours at").await;
    // Another's login is nobody else's.
    logged_in(&world.app, "gustav", SignedDuration::ZERO, true);
    refused("you proved yours at").await;
    logged_in(&world.app, "frida", SignedDuration::from_hours(11), true);
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;

    // What is open to see, and what takes something away, needs none.
    world.get("dina", "heart/main").await.unwrap();
    stopped(&world, &mut agent).await;
    let status = start(&world).await.unwrap_err();
    assert!(status.message().contains("you have not logged in"), "{status}");
    logged_in(&world.app, "dina", SignedDuration::ZERO, true);
    start(&world).await.unwrap();
    let me = world.person("dina").who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert!(me.login.unwrap().second_factor);

    // A level that demands none asks nobody.
    world.request("lars", "brain/main", 1).await.unwrap();
    world.slices("gustav").approve_slice(decide("brain/main", "")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_of_one_certificate_and_an_account_is_let_go_of_by_another_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = demanding(dir.path()).await;
    let now = |world: &World, who: &str| {
        let person = world.app.ledger.state().people[&who.parse().unwrap()].clone();
        (person.login.is_some(), person.account.is_some())
    };
    for who in ["dina", "rosa", "frida", "gustav", "olga"] {
        logged_in(&world.app, who, SignedDuration::ZERO, true);
    }
    // For another key she logs in again: a thief would have renewed it to hers.
    let csr = rcgen::CertificateParams::default()
        .serialize_request(&rcgen::KeyPair::generate().unwrap())
        .unwrap()
        .pem()
        .unwrap();
    world.person("dina").renew(v1::RenewRequest { csr_pem: csr }).await.unwrap();
    assert_eq!(now(&world, "dina"), (true, true));
    // With a code that she gave herself she has the account that she had.
    world.invite("dina", "dina", &[]).await;
    assert_eq!(now(&world, "dina"), (false, true));
    let subject = || v1::invite_request::Subject::Person("dina".to_owned());
    let again = v1::InviteRequest { subject: Some(subject()), roles: Vec::new() };
    let status = world.person("dina").invite(again).await.unwrap_err();
    assert!(
        status.message().contains("demands a second factor"),
        "whoever has a copy logs in first: {status}"
    );
    // With one that an officer gave, and another confirmed, she may have another.
    world.invite("frida", "dina", &[]).await;
    assert_eq!(now(&world, "dina"), (false, false));
    let subject = Some(v1::revoke_request::Subject::Person("rosa".to_owned()));
    let revoke = v1::RevokeRequest { subject, reason: "a case".to_owned(), dry_run: false };
    world.person("frida").revoke(revoke).await.unwrap();
    assert_eq!(now(&world, "rosa"), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_no_level_and_what_is_done_to_all_of_a_project_take_the_strictest() {
    let dir = tempfile::tempdir().unwrap();
    let world = demanding(dir.path()).await;
    // Confirming a code, making an officer, putting rules in force.
    let confirm =
        v1::ConfirmInvitationRequest { person: "dina".to_owned(), dry_run: true, id: String::new() };
    let subject = Some(v1::invite_request::Subject::Person("ole".to_owned()));
    let officer = v1::InviteRequest { subject, roles: vec!["officer".to_owned()] };
    for status in [
        world.person("frida").confirm_invitation(confirm).await.unwrap_err(),
        world.person("frida").invite(officer).await.unwrap_err(),
    ] {
        assert!(status.message().contains("aau-2018/7 demands a second factor"), "{status}");
    }
    // `brain` is of level 3, which demands none here; `heart` of 2, which does.
    world.member("lars", "brain", "rune").await.unwrap();
    let status = world.member("dina", "heart", "rune").await.unwrap_err();
    assert!(status.message().contains("level 2 demands a second factor"), "{status}");
    let status = world.close("dina", "heart/none").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "what is not there demands nothing: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_logs_nobody_in_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let world = demanding(dir.path()).await;
    let status = world.person("dina").begin_login(v1::BeginLoginRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("the OpenID provider: `127.0.0.1:9` cannot be reached"), "{status}");
    let status = world.person("dina").finish_login(v1::FinishLoginRequest {}).await.unwrap_err();
    assert_eq!((status.code(), hint(&status).as_str()), (Code::PermissionDenied, "holm login"));
    let entry = world.logged(|e| e.action == "login" && e.actor == "person/dina").await;
    assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "person/dina"));
    let entry = world.logged(|e| e.action == "login.begin" && e.actor == "person/dina").await;
    assert!(entry.outcome == "refused" && entry.reasons.concat().contains("cannot be reached"));
    // A host has no account there.
    let status = world.person("dgx").begin_login(v1::BeginLoginRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_demands_what_nobody_configured_is_not_put_in_force() {
    let world = World::full().await;
    let status = world.person("dina").begin_login(v1::BeginLoginRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let dir = world.end().await;
    let held = tempfile::tempdir().unwrap();
    let file = dir.path().join("holmd/holmd.toml");
    let mut config = Config::load(&file).unwrap();
    config.pack = pack(held.path(), &DEMANDED);
    let error = App::open(config.clone()).err().unwrap().to_string();
    assert!(error.contains("level 2 of aau-2018/7 demands a second factor"), "{error}");
    config.login = Some(LoginConfig { issuer: "http://idp".to_owned(), ..away(held.path()) });
    assert!(App::open(config.clone()).err().unwrap().to_string().contains("say https://HOST/PATH"));
    config.login = Some(LoginConfig { amr: Vec::new(), ..away(held.path()) });
    assert!(App::open(config.clone()).err().unwrap().to_string().contains("neither `acr` nor `amr`"));
    config.login = Some(away(held.path()));
    assert!(App::open(config).is_ok());
}
