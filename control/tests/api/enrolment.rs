//! Codes.

use crate::world::{World, hint};
use holm_control::identity::Code as HolmCode;
use holm_proto::v1;
use tonic::Code;

async fn invited(world: &World, name: &str) -> String {
    let request = v1::InviteRequest {
        subject: Some(v1::invite_request::Subject::Person(name.to_owned())),
        roles: vec!["lead".to_owned()],
    };
    world.person("olga").invite(request).await.unwrap().into_inner().code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_good_once_and_names_the_holder() {
    let mut world = World::new().await;
    let code = invited(&world, "dina").await;
    let answer = world.enrol("dina", &code.to_uppercase().replace("HOLM1", "holm1")).await;
    // The test's own client compares the hash as it is typed; the server reads either case.
    assert!(answer.is_err());
    let answer = world.enrol("dina", &code).await.unwrap();
    assert_eq!(answer.identity, "spiffe://holm/person/dina");
    assert_eq!(answer.server, "localhost:7443");
    let me = world.person("dina").who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((me.name.as_str(), me.roles, me.enrolled), ("dina", vec!["lead".to_owned()], true));
    let again = world.enrol("dina", &code).await.unwrap_err();
    assert_eq!(again.code(), Code::PermissionDenied);
    // Who reads it may be anybody: she is told whom to ask, not what they run.
    assert!(hint(&again).contains("ask the person who invited you") && !hint(&again).contains("holm person"));
    let entry = world.logged(|e| e.action == "enrol" && e.outcome == "refused").await;
    assert_eq!(entry.actor, "unknown");
    let bodies = world.app.ledger.entries(0, world.app.ledger.size()).unwrap();
    let secret = code.split('-').nth(1).unwrap();
    assert!(bodies.iter().all(|b| !String::from_utf8_lossy(b).contains(secret)), "a code is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_does_not_use_up_the_code() {
    let mut world = World::new().await;
    let code = invited(&world, "dina").await;
    let request = v1::EnrolRequest { code: code.clone(), csr_pem: "no request".to_owned() };
    let failure = world.enrolment(&world.app.authority.hash()).enrol(request).await.unwrap_err();
    assert_eq!(failure.code(), Code::InvalidArgument, "{failure:?}");
    world.enrol("dina", &code).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down() {
    let world = World::new().await;
    let ca = world.app.authority.hash();
    let mut client = world.enrolment(&ca);
    let mut codes = Vec::new();
    for n in 0..12 {
        let other = "a".repeat(26);
        // Wrong secrets, codes of another Holm, nonsense.
        let code = match n % 3 {
            0 => HolmCode::new(&ca).unwrap().text(),
            1 => HolmCode::new(&other).unwrap().text(),
            _ => "open sesame".to_owned(),
        };
        let request = v1::EnrolRequest { code, csr_pem: String::new() };
        codes.push(client.enrol(request).await.unwrap_err().code());
    }
    assert_eq!(codes[..10], [Code::PermissionDenied; 10]);
    assert_eq!(codes[10..], [Code::ResourceExhausted; 2]);
    // Nor is a good one tried any more, and the log says so.
    let good = invited(&world, "dina").await;
    let request = v1::EnrolRequest { code: good, csr_pem: String::new() };
    assert_eq!(client.enrol(request).await.unwrap_err().code(), Code::ResourceExhausted);
    let entry = world.logged(|e| e.reasons == ["too many codes are tried"]).await;
    assert_eq!((entry.action.as_str(), entry.outcome.as_str()), ("enrol", "refused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_invites_whom() {
    let mut world = World::new().await;
    world.invite("olga", "dina", &["lead"]).await;
    world.invite("frida", "gerda", &["officer"]).await;
    let invite = |name: &str, roles: &[&str]| v1::InviteRequest {
        subject: Some(v1::invite_request::Subject::Person(name.to_owned())),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    for (who, name, roles, code) in [
        ("olga", "eve", &["officer"][..], Code::PermissionDenied),
        ("olga", "frida", &[], Code::PermissionDenied),
        ("frida", "eve", &["lead"], Code::PermissionDenied),
        ("dina", "eve", &["researcher"], Code::PermissionDenied),
        ("frida", "eve", &["officer", "operator"], Code::PermissionDenied),
        ("olga", "eve", &["wizard"], Code::InvalidArgument),
        ("olga", "eve", &[], Code::InvalidArgument),
        ("olga", "../eve", &["lead"], Code::InvalidArgument),
        // Whoever has the code is dina: an operator would have a way into her projects.
        ("olga", "dina", &[], Code::PermissionDenied),
        ("olga", "dina", &["lead"], Code::PermissionDenied),
        ("gerda", "dina", &["researcher"], Code::AlreadyExists),
    ] {
        let failure = world.person(who).invite(invite(name, roles)).await.unwrap_err();
        assert_eq!(failure.code(), code, "{who} invites {name}: {failure:?}");
    }
    let entry = world.logged(|e| e.actor == "person/olga" && e.action == "person.renew").await;
    assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "person/dina"));
    // A new certificate for the same person, by an officer's word and by her own.
    world.invite("gerda", "dina", &[]).await;
    world.invite("dina", "dina", &[]).await;
    world.person("dina").who_am_i(v1::WhoAmIRequest {}).await.unwrap();
}
