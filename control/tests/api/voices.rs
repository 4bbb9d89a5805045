//! One person has one voice, and who watches or runs what is watched stays outside of it.

use crate::register::{decide_lower, lower, refused_by};
use crate::world::{Agent, World, decide, hint, ready_slice, reference};
use holm_proto::v1;
use holm_proto::v1::invite_request::Subject;
use tonic::{Code, Status};

const WAITS: &str = "waits to be confirmed";

async fn invite(world: &World, by: &str, name: &str, roles: &[&str]) -> Result<v1::Invitation, Status> {
    let request = v1::InviteRequest {
        subject: Some(Subject::Person(name.to_owned())),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    world.person(by).invite(request).await.map(tonic::Response::into_inner)
}

/// Refused, and in the log as that.
async fn no(world: &World, refused: Result<v1::Person, Status>, who: &str, text: &str) {
    let refused = refused.unwrap_err();
    assert!(refused.message().contains(text), "{refused}");
    let entry = world.logged(|e| e.action == "person.confirm" && e.actor == format!("person/{who}")).await;
    assert_eq!(entry.outcome, "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_alone_makes_no_officer() {
    let mut world = World::full().await;
    let made = invite(&world, "frida", "gerda", &["officer"]).await.unwrap();
    assert!(!made.waits.is_empty());
    let refused = world.enrol("gerda", &made.code).await.unwrap_err();
    assert!(refused.message().contains(WAITS), "{refused}");
    no(&world, world.confirm("frida", "gerda").await, "frida", "that she gave out herself").await;
    no(&world, world.confirm("olga", "gerda").await, "olga", "where it makes no officer").await;
    for who in ["dina", "anna"] {
        let refused = world.confirm(who, "gerda").await.unwrap_err();
        assert!([Code::PermissionDenied, Code::NotFound].contains(&refused.code()), "{who}: {refused}");
    }
    let none = world.confirm("gustav", "rosa").await;
    no(&world, none, "gustav", "no code for `rosa` waits").await;
    let people =
        world.person("gustav").list_people(v1::ListPeopleRequest::default()).await.unwrap().into_inner();
    let waiting: Vec<&str> =
        people.people.iter().filter(|p| p.waits.is_some()).map(|p| p.name.as_str()).collect();
    assert_eq!(waiting, ["gerda"]);
    assert!(world.confirm("gustav", "gerda").await.unwrap().waits.is_none());
    let entry = world.logged(|e| e.action == "person.confirm" && e.outcome == "allowed").await;
    assert_eq!((entry.actor.as_str(), entry.resource.as_str()), ("person/gustav", "person/gerda"));
    world.enrol("gerda", &made.code).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_alone_becomes_nobody_else() {
    let mut world = World::full().await;
    // Another officer, for the second signature; a lead, for her data.
    for (name, second) in [("gustav", "olga"), ("dina", "olga"), ("rosa", "gustav")] {
        let made = invite(&world, "frida", name, &[]).await.unwrap();
        assert!(!made.waits.is_empty(), "{name}");
        let refused = world.enrol(name, &made.code).await.unwrap_err();
        assert!(refused.message().contains(WAITS), "{refused}");
        // She has the certificate that she had.
        world.person(name).who_am_i(v1::WhoAmIRequest {}).await.unwrap();
        no(&world, world.confirm("frida", name).await, "frida", "that she gave out herself").await;
        if name == "gustav" {
            // The one whose it is does not say so himself. There is no third officer, so an operator does.
            no(&world, world.confirm("gustav", name).await, "gustav", "nobody her own").await;
        }
        world.confirm(second, name).await.unwrap();
        world.enrol(name, &made.code).await.unwrap();
    }
    // Who needs another for herself has it by her own word.
    assert!(invite(&world, "dina", "dina", &[]).await.unwrap().waits.is_empty());
    // And nobody is kept from inviting whom nobody knows.
    assert!(invite(&world, "olga", "nina", &["researcher"]).await.unwrap().waits.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_word_is_for_one_code_and_goes_with_who_gave_it() {
    let mut world = World::full().await;
    world.invite("frida", "helga", &["officer"]).await;
    let asked = invite(&world, "frida", "dina", &[]).await.unwrap();
    let hers = invite(&world, "helga", "dina", &[]).await.unwrap();
    let word = |id: &str| v1::ConfirmInvitationRequest {
        person: "dina".to_owned(),
        dry_run: false,
        id: id.to_owned(),
    };
    for id in [asked.waits.as_str(), "", "x"] {
        let refused = world.person("gustav").confirm_invitation(word(id)).await.unwrap_err();
        assert!(refused.message().contains("is another one, of `helga`"), "{refused}");
    }
    assert!(world.enrol("dina", &hers.code).await.is_err());
    // His certificate was stolen: what was said in his name counts no more, and is said anew.
    world.person("gustav").confirm_invitation(word(&hers.waits)).await.unwrap();
    let (subject, reason) = ("person/gustav".to_owned(), "stolen".to_owned());
    world.locks("frida").set_lock(v1::SetLockRequest { subject, reason, dry_run: false }).await.unwrap();
    let refused = world.enrol("dina", &hers.code).await.unwrap_err();
    assert!(refused.message().contains(WAITS), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_is_of_what_was_read() {
    let world = World::full().await;
    let read = world.request("dina", "heart/main", 1).await.unwrap();
    world.slices("dina").withdraw_slice(decide("heart/main", "")).await.unwrap();
    let other = world.request("dina", "heart/main", 16).await.unwrap();
    let of = |id: &str| v1::DecideSliceRequest { id: id.to_owned(), ..decide("heart/main", "seen") };
    for id in [read.id.as_str(), &read.id[..8], &other.id[..7], "%", "é"] {
        let refused = world.slices("frida").approve_slice(of(id)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{id}: {refused}");
        assert_eq!(hint(&refused), "holm slice review heart/main");
    }
    let entry = world.logged(|e| e.action == "slice.approve").await;
    assert_eq!(entry.outcome, "refused");
    let approved = world.slices("frida").approve_slice(of(&other.id[..8])).await.unwrap().into_inner();
    assert_eq!((approved.state(), approved.gpus), (v1::SliceState::Approved, 16));
}

#[tokio::test(flavor = "multi_thread")]
async fn officers_and_operators_join_no_project_and_who_is_known_is_not_told() {
    let mut world = World::full().await;
    world.invite("frida", "ida", &["officer", "researcher"]).await;
    world.invite("olga", "oda", &["operator", "researcher"]).await;
    let unknown = world.member("dina", "heart", "xena").await.unwrap_err();
    for who in ["ida", "oda", "frida", "olga", "anna"] {
        let refused = world.member("dina", "heart", who).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused}");
        assert_eq!(refused.message().replace(who, "xena"), unknown.message());
        let entry = world.logged(|e| e.action == "project.add-member").await;
        assert_eq!((entry.outcome.as_str(), entry.actor.as_str()), ("refused", "person/dina"));
    }
    // One who leads a project herself does not get in either.
    world.invite("frida", "lea", &["officer", "lead"]).await;
    world.project("lea", "mine", "2").await.unwrap();
    let _agent = Agent::ready(&world, "dgx").await;
    world.request("lea", "mine/main", 1).await.unwrap();
    world.approve("gustav", "mine/main").await.unwrap();
    let key = v1::SignSshKeyRequest {
        slice: Some(reference("mine/main")),
        public_key: String::new(),
        ..Default::default()
    };
    let refused = world.slices("lea").sign_ssh_key(key).await.unwrap_err();
    assert!(
        refused.message().contains("officers and operators have no way into a project's data"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn which_devices_there_are_is_not_for_everybody_to_find_out() {
    let world = World::full().await;
    let _agent = Agent::ready(&world, "dgx").await;
    let set = |subject: &str| v1::SetLockRequest {
        subject: subject.to_owned(),
        reason: "a case".to_owned(),
        dry_run: true,
    };
    let mut told = Vec::new();
    for subject in ["device/dgx/99:00.0", "device/dgx/01:00.0", "device/none/99:00.0"] {
        let refused = world.locks("rosa").set_lock(set(subject)).await.unwrap_err();
        told.push((refused.code(), refused.message().replace("none", "dgx")));
    }
    assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
    assert!(world.locks("frida").set_lock(set("device/dgx/01:00.0")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_slice_keeps_its_keys_also_where_a_project_s_are_taken_together() {
    let world = World::full().await;
    let (_agent, _) = ready_slice(&world, "heart/main", 1).await;
    let request = v1::SetLockRequest {
        subject: "slice/heart/main".to_owned(),
        reason: "a case".to_owned(),
        dry_run: false,
    };
    world.locks("frida").set_lock(request).await.unwrap();
    let refused = world.rotate("frida", Some("heart")).await.unwrap_err();
    assert!(refused.message().contains("`slice/heart/main` is locked"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_project_s_lock_takes_as_many_officers_as_its_most_sensitive_slice() {
    let world = World::full().await;
    world.request("lars", "brain/main", 1).await.unwrap();
    let asked = lower(&world, "", "names were removed").await.unwrap();
    assert_eq!(asked.declassification.unwrap().project_level, "2", "officers read what becomes of it");
    for who in ["frida", "gustav"] {
        decide_lower(&world, who, true).await.unwrap();
    }
    let (subject, reason) = ("project/brain".to_owned(), "a case".to_owned());
    let set = v1::SetLockRequest { subject: subject.clone(), reason: reason.clone(), dry_run: false };
    world.locks("frida").set_lock(set).await.unwrap();
    let lift = v1::LiftLockRequest { subject, reason, dry_run: false };
    let refused = world.locks("frida").lift_lock(lift.clone()).await.unwrap_err();
    assert!(refused.message().contains("another one than `frida`"), "{refused}");
    world.locks("gustav").lift_lock(lift).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_agreement_has_ended_has_no_copy_made() {
    let world = World::full().await;
    let (_agent, _) = ready_slice(&world, "heart/main", 1).await;
    let under = v1::AddMemberRequest {
        project: "heart".to_owned(),
        person: "rosa".to_owned(),
        external_agreement: Some(v1::Filed {
            reference: "AAU-7".to_owned(),
            expires: Some(crate::world::ahead(jiff::SignedDuration::from_secs(2))),
        }),
        read_only: None,
    };
    world.projects("dina").add_member(under).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let request = v1::BackUpSliceRequest { slice: Some(reference("heart/main")), ..Default::default() };
    let refused = world.backups("rosa").back_up_slice(request).await.unwrap_err();
    refused_by(&world, &refused, "rosa", "slice.backup", "project.agreement").await;
}
