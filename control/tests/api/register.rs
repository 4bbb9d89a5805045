//! What a project must have filed, and what comes of what it has not, or of what has run out.

use crate::world::{Agent, World, ahead, decide, filed, hint, ready_slice, reference};
use holm_proto::v1;
use jiff::SignedDuration;
use std::time::Duration;
use tonic::{Code, Status};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

/// Register a project with this much.
async fn create(
    world: &World,
    name: &str,
    level: &str,
    registration: Option<v1::Registration>,
) -> Result<v1::Project, Status> {
    let request = v1::CreateProjectRequest {
        name: name.to_owned(),
        level: level.to_owned(),
        purpose: "a study".to_owned(),
        registration,
        ..Default::default()
    };
    world.projects("dina").create_project(request).await.map(tonic::Response::into_inner)
}

async fn show(world: &World, who: &str, name: &str) -> v1::Project {
    let request = v1::GetProjectRequest { name: name.to_owned() };
    world.projects(who).get_project(request).await.unwrap().into_inner()
}

pub async fn log_in(world: &World, who: &str, slice: &str) -> Result<(), Status> {
    let request = v1::SignSshKeyRequest {
        slice: Some(reference(slice)),
        public_key: KEY.to_owned(),
        ..Default::default()
    };
    world.slices(who).sign_ssh_key(request).await.map(drop)
}

/// Refused by this rule, and in the log as that.
pub async fn refused_by(world: &World, refused: &Status, who: &str, action: &str, rule: &str) {
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains(&format!("(rule {rule})")), "{refused}");
    let actor = format!("person/{who}");
    let entry = world.logged(|e| e.action == action && e.actor == actor).await;
    assert_eq!(
        (entry.outcome.as_str(), &entry.reasons[..]),
        ("refused", &[refused.message().to_owned()][..])
    );
}

/// A plan that holds for a moment.
fn for_a_moment() -> v1::Registration {
    let expires = Some(ahead(SignedDuration::from_secs(2)));
    let plan = v1::Filed { reference: "DMP-4".to_owned(), expires };
    v1::Registration { data_management_plan: Some(plan), ..Default::default() }
}

fn for_long() -> v1::Registration {
    v1::Registration { data_management_plan: filed().data_management_plan, ..Default::default() }
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(2100)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_slice_is_asked_for_until_all_is_filed_that_the_level_demands() {
    let world = World::full().await;
    let made = create(&world, "lung", "3", None).await.unwrap();
    assert_eq!(made.missing.len(), 7);
    let refused = world.request("dina", "lung/main", 1).await.unwrap_err();
    refused_by(&world, &refused, "dina", "slice.request", "project.filed").await;
    assert!(refused.message().contains("`holm project file lung`"), "{refused}");
    for what in &made.missing {
        assert!(refused.message().contains(what), "`{what}` is not named in: {refused}");
    }
    // Filed bit by bit.
    let after =
        world.file("dina", "lung", v1::Registration { dpia: filed().dpia, ..Default::default() }).await;
    assert_eq!(after.unwrap().missing.len(), 6);
    let entry = world.logged(|e| e.action == "project.file").await;
    assert_eq!(
        (entry.outcome.as_str(), &entry.detail),
        ("allowed", &serde_json::json!({ "filed": ["dpia"] }))
    );
    assert!(world.request("dina", "lung/main", 1).await.is_err());
    assert_eq!(world.file("dina", "lung", filed()).await.unwrap().missing, Vec::<String>::new());
    world.request("dina", "lung/main", 1).await.unwrap();
    // What was filed stays, and another reads it.
    let shown = show(&world, "frida", "lung").await;
    assert_eq!(shown.registration.unwrap().dpia.unwrap().reference, "2026-17");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_it_is_demanded_by_itself() {
    let world = World::full().await;
    type Change = fn(&mut v1::Registration);
    let without: [(&str, Change, &str); 8] = [
        ("l0", |r| r.legal_basis = None, "--legal-basis"),
        ("l1", |r| r.special_categories = None, "--special-categories"),
        ("l2", |r| r.special_basis = None, "--special-basis"),
        ("l3", |r| r.research = Some(false), "--research"),
        ("l4", |r| r.dpia = None, "--dpia"),
        ("l5", |r| r.ethics = None, "--ethics"),
        ("l6", |r| r.data_management_plan = None, "--data-management-plan"),
        ("l7", |r| r.ends = None, "--ends"),
    ];
    for (name, change, option) in without {
        let mut registration = filed();
        change(&mut registration);
        let made = create(&world, name, "3", Some(registration)).await.unwrap();
        let refused = world.request("dina", &format!("{name}/main"), 1).await.unwrap_err();
        refused_by(&world, &refused, "dina", "slice.request", "project.filed").await;
        assert!(made.missing.len() == 1 && refused.message().contains(option), "{option}: {refused}");
    }
    // What level 2 does not demand does not stand in its way.
    let registration = v1::Registration { dpia: None, ethics: None, ..filed() };
    create(&world, "less", "2", Some(registration)).await.unwrap();
    world.request("dina", "less/main", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_not_filed_and_only_the_lead_files() {
    let world = World::full().await;
    let ended =
        v1::Filed { reference: "old".to_owned(), expires: Some(ahead(SignedDuration::from_hours(-1))) };
    let none = v1::Registration::default;
    for (what, why) in [
        (none(), "nothing is named"),
        (v1::Registration { dpia: Some(ended), ..none() }, "has ended already"),
        (v1::Registration { legal_basis: Some("z".to_owned()), ..none() }, "article 6(1)"),
        (v1::Registration { ends: Some(ahead(SignedDuration::from_secs(-5))), ..none() }, "already"),
        (v1::Registration { controller: Some("a\u{1b}b".to_owned()), ..none() }, "one line"),
    ] {
        let refused = world.file("dina", "heart", what).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(why), "{refused}");
    }
    for (who, code) in [
        ("rosa", Code::PermissionDenied),
        ("frida", Code::PermissionDenied),
        ("lars", Code::NotFound),
        ("olga", Code::NotFound),
    ] {
        let refused = world.file(who, "heart", filed()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{who}");
        let entry = world.logged(|e| e.action == "project.file" && e.actor == format!("person/{who}")).await;
        assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "project/heart"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_counts_for_nothing_when_a_paper_has_run_out() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    world.file("dina", "heart", for_a_moment()).await.unwrap();
    a_moment().await;
    let refused = world.approve("frida", "heart/main").await.unwrap_err();
    refused_by(&world, &refused, "frida", "slice.approve", "project.filed").await;
    assert!(refused.message().contains("a data-management plan (--data-management-plan): the last ended"));
    world.file("dina", "heart", for_long()).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_paper_runs_out_nobody_gets_in_and_what_runs_runs_on() {
    let world = World::full().await;
    let (mut agent, _) = ready_slice(&world, "heart/main", 1).await;
    // On a simulated host there is nothing to log in to: so far, and no further, may who is let in.
    let let_in = log_in(&world, "rosa", "heart/main").await.unwrap_err();
    assert_eq!(let_in.code(), Code::FailedPrecondition, "{let_in}");
    world.file("dina", "heart", for_a_moment()).await.unwrap();
    a_moment().await;
    for who in ["dina", "rosa"] {
        let refused = log_in(&world, who, "heart/main").await.unwrap_err();
        refused_by(&world, &refused, who, "slice.connect", "project.filed").await;
    }
    let runs = world.get("dina", "heart/main").await.unwrap();
    assert_eq!(runs.state(), v1::SliceState::Ready);
    assert!(!runs.may.contains(&"slice.connect".to_owned()), "{:?}", runs.may);
    // It can be stopped, and then not started.
    crate::world::stopped(&world, &mut agent).await;
    let start =
        |rebuild| v1::StartSliceRequest { slice: Some(reference("heart/main")), rebuild, dry_run: true };
    let refused = world.slices("dina").start_slice(start(false)).await.unwrap_err();
    refused_by(&world, &refused, "dina", "slice.start", "project.filed").await;
    let refused = world.slices("dina").start_slice(start(true)).await.unwrap_err();
    refused_by(&world, &refused, "dina", "slice.rebuild", "project.filed").await;
    world.file("dina", "heart", for_long()).await.unwrap();
    world.slices("dina").start_slice(start(false)).await.unwrap();
    world.close("dina", "heart/main").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_approved_in_time_gets_no_place_too_late() {
    let world = World::full().await;
    world.request("dina", "heart/main", 1).await.unwrap();
    world.file("dina", "heart", for_a_moment()).await.unwrap();
    world.approve("frida", "heart/main").await.unwrap();
    a_moment().await;
    let mut agent = Agent::ready(&world, "dgx").await;
    let waits = |s: &v1::Slice| s.reason.starts_with("its project must first file a data-management plan");
    let slice = world.until_it("dina", "heart/main", waits).await;
    assert_eq!(slice.state(), v1::SliceState::Approved);
    let entry = world.logged(|e| e.action == "slice.place" && e.resource == "slice/heart/main").await;
    assert_eq!(entry.project.as_deref(), Some("heart"));
    // It holds up nobody.
    world.request("lars", "brain/main", 16).await.unwrap();
    world.approve("frida", "brain/main").await.unwrap();
    world.approve("gustav", "brain/main").await.unwrap();
    world.until("lars", "brain/main", v1::SliceState::Placed).await;
    world.close("lars", "brain/main").await.unwrap();
    let gone = agent.slice(v1::Goal::Destroyed).await;
    agent.reaches(&gone, v1::Phase::Absent).await;
    agent.clean(&world, "dgx").await;
    world.file("dina", "heart", for_long()).await.unwrap();
    world.until("dina", "heart/main", v1::SliceState::Placed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_project_has_ended_nobody_gets_in() {
    let world = World::full().await;
    let _agent = ready_slice(&world, "heart/main", 1).await;
    let ends = Some(ahead(SignedDuration::from_secs(2)));
    world.file("dina", "heart", v1::Registration { ends, ..Default::default() }).await.unwrap();
    a_moment().await;
    let refused = log_in(&world, "rosa", "heart/main").await.unwrap_err();
    refused_by(&world, &refused, "rosa", "slice.connect", "project.filed").await;
    assert!(refused.message().contains("an end date (--ends): it ended on"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_named_in_the_project_is_refused_and_so_is_one_whose_agreement_has_ended() {
    let world = World::full().await;
    let _agent = ready_slice(&world, "heart/main", 1).await;
    let stranger = log_in(&world, "rune", "heart/main").await.unwrap_err();
    assert_eq!(stranger.code(), Code::NotFound);
    let entry = world.logged(|e| e.action == "slice.connect" && e.actor == "person/rune").await;
    assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "slice/heart/main"));
    let under = |expires| v1::AddMemberRequest {
        project: "heart".to_owned(),
        person: "rosa".to_owned(),
        external_agreement: Some(v1::Filed { reference: "AAU-7".to_owned(), expires }),
        read_only: None,
    };
    let endless = world.projects("dina").add_member(under(None)).await.unwrap_err();
    assert_eq!(
        (endless.code(), hint(&endless).as_str()),
        (Code::InvalidArgument, "--agreement-expires DATE")
    );
    world.projects("dina").add_member(under(Some(ahead(SignedDuration::from_secs(2))))).await.unwrap();
    let entry = world.logged(|e| e.action == "project.add-member" && e.outcome == "allowed").await;
    assert_eq!(entry.detail["agreement"]["reference"], "AAU-7");
    assert_eq!(log_in(&world, "rosa", "heart/main").await.unwrap_err().code(), Code::FailedPrecondition);
    a_moment().await;
    let refused = log_in(&world, "rosa", "heart/main").await.unwrap_err();
    refused_by(&world, &refused, "rosa", "slice.connect", "project.agreement").await;
    // Hers alone; and to be added again without a word of it does not help.
    assert_eq!(log_in(&world, "dina", "heart/main").await.unwrap_err().code(), Code::FailedPrecondition);
    world.member("dina", "heart", "rosa").await.unwrap();
    let refused = log_in(&world, "rosa", "heart/main").await.unwrap_err();
    refused_by(&world, &refused, "rosa", "slice.connect", "project.agreement").await;
    world.projects("dina").add_member(under(Some(ahead(SignedDuration::from_hours(900))))).await.unwrap();
    assert_eq!(log_in(&world, "rosa", "heart/main").await.unwrap_err().code(), Code::FailedPrecondition);
    let shown = show(&world, "frida", "heart").await;
    assert_eq!((shown.agreements[0].person.as_str(), shown.agreements.len()), ("rosa", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_out_soon_is_in_the_log_once_and_shown() {
    let world = World::full().await;
    assert_eq!(show(&world, "dina", "heart").await.warnings, Vec::<String>::new());
    let expires = Some(ahead(SignedDuration::from_hours(49)));
    let plan = Some(v1::Filed { reference: "DMP-4".to_owned(), expires });
    let soon = v1::Registration { data_management_plan: plan, ..Default::default() };
    world.file("dina", "heart", soon).await.unwrap();
    let entry = world.logged(|e| e.action == "observe.expiry").await;
    assert_eq!((entry.outcome.as_str(), entry.project.as_deref()), ("observed", Some("heart")));
    let ends = &entry.detail["ends"][0];
    assert_eq!((&ends["what"], &ends["days"]), (&"its data-management plan".into(), &3.into()));
    let shown = show(&world, "rosa", "heart").await;
    assert!(
        shown.warnings[0].starts_with("its data-management plan ends in 2 days, on "),
        "{:?}",
        shown.warnings
    );
    assert_eq!(shown.missing, Vec::<String>::new());
    // Rounds that follow say nothing more of it.
    world.member("dina", "heart", "rosa").await.unwrap();
    world.slices("dina").withdraw_slice(decide("heart/none", "")).await.unwrap_err();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.log().iter().filter(|e| e.action == "observe.expiry").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_processing_is_whole_or_refused() {
    let world = World::full().await;
    let record = async |who: &str| {
        let request = v1::GetProjectRequest { name: "heart".to_owned() };
        world.projects(who).get_processing_record(request).await.map(tonic::Response::into_inner)
    };
    let refused = record("frida").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for option in ["--controller", "--categories", "--recipients", "--transfers", "--erasure"] {
        assert!(refused.message().contains(option), "{option}: {refused}");
    }
    let entry = world.logged(|e| e.action == "project.record" && e.actor == "person/frida").await;
    assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "project/heart"));
    let said = |text: &str| Some(text.to_owned());
    let texts = v1::Registration {
        controller: said("Aalborg University"),
        categories: said("patients after a stroke: ECGs"),
        recipients: said("none"),
        transfers: said("none"),
        erasure: said("keys are destroyed"),
        measures: said("names are replaced"),
        ..Default::default()
    };
    world.file("dina", "heart", texts).await.unwrap();
    let whole = record("dina").await.unwrap();
    assert_eq!((whole.controller.as_str(), whole.purpose.as_str()), ("Aalborg University", "a study"));
    assert_eq!(whole.legal_bases, ["article 6(1)(e)", "article 9(2)(j)"]);
    assert!(whole.measures.contains(&"machines reach no network".to_owned()), "{:?}", whole.measures);
    assert_eq!(whole.measures.last().map(String::as_str), Some("names are replaced"));
    assert!(whole.erased_after.is_some() && whole.special_categories && whole.pack == "aau-2018/7");
    record("frida").await.unwrap();
    let entry = world.logged(|e| e.action == "project.record" && e.outcome == "allowed").await;
    assert_eq!(entry.actor, "person/frida", "what an officer reads is in the log");
    for (who, code) in [("rosa", Code::PermissionDenied), ("lars", Code::NotFound), ("olga", Code::NotFound)]
    {
        assert_eq!(record(who).await.unwrap_err().code(), code, "{who}");
    }
}

async fn add_data(world: &World, name: &str, level: &str) -> Result<v1::Project, Status> {
    let data_set =
        v1::DataSet { name: name.to_owned(), owner: "the clinic".to_owned(), level: level.to_owned() };
    let request =
        v1::AddDataSetRequest { project: "brain".to_owned(), data_set: Some(data_set), dry_run: false };
    world.projects("lars").add_data_set(request).await.map(tonic::Response::into_inner)
}

pub async fn lower(world: &World, data_set: &str, reason: &str) -> Result<v1::Project, Status> {
    let request = v1::DeclassifyRequest {
        project: "brain".to_owned(),
        data_set: data_set.to_owned(),
        level: "2".to_owned(),
        reason: reason.to_owned(),
        dry_run: false,
    };
    world.projects("lars").declassify(request).await.map(tonic::Response::into_inner)
}

pub async fn decide_lower(world: &World, who: &str, approve: bool) -> Result<v1::Project, Status> {
    let request = v1::DecideDeclassificationRequest {
        project: "brain".to_owned(),
        approve,
        comment: "seen".to_owned(),
        dry_run: false,
    };
    world.projects(who).decide_declassification(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_level_wins_and_is_lowered_by_two_officers_for_a_reason() {
    let world = World::full().await;
    add_data(&world, "scans", "3").await.unwrap();
    let low = add_data(&world, "notes", "1").await.unwrap();
    assert_eq!((low.level.as_str(), low.data_sets.len()), ("3", 2));
    // Data of a higher level than the project's.
    let request = v1::AddDataSetRequest {
        project: "heart".to_owned(),
        data_set: Some(v1::DataSet {
            name: "scans".to_owned(),
            owner: "the clinic".to_owned(),
            level: "3".to_owned(),
        }),
        dry_run: false,
    };
    let high = world.projects("dina").add_data_set(request).await.unwrap_err();
    assert_eq!(high.code(), Code::FailedPrecondition);
    assert!(hint(&high).contains("holm project create NAME --level 3"), "{}", hint(&high));
    let entry = world.logged(|e| e.action == "project.add-data" && e.actor == "person/dina").await;
    assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "project/heart"));

    // Not without a reason, not by its lead or one officer alone.
    let silent = lower(&world, "scans", " ").await.unwrap_err();
    assert_eq!((silent.code(), hint(&silent).as_str()), (Code::InvalidArgument, "--reason TEXT"));
    assert_eq!(decide_lower(&world, "frida", true).await.unwrap_err().code(), Code::FailedPrecondition);
    let asked = lower(&world, "scans", "names were removed").await.unwrap();
    assert_eq!(asked.level, "3");
    let own = decide_lower(&world, "lars", true).await.unwrap_err();
    assert_eq!(own.code(), Code::PermissionDenied);
    let once = decide_lower(&world, "frida", true).await.unwrap();
    assert_eq!((once.level.as_str(), once.declassification.unwrap().approvals.len()), ("3", 1));
    let again = decide_lower(&world, "frida", true).await.unwrap_err();
    assert!(again.code() == Code::PermissionDenied && again.message().contains("another officer"), "{again}");
    let log = world.log();
    let refusals = log.iter().filter(|e| e.action == "project.declassify-decide" && e.outcome == "refused");
    assert_eq!(
        refusals.map(|e| e.actor.as_str()).collect::<Vec<_>>(),
        ["person/frida", "person/lars", "person/frida"]
    );
    // A slice takes the level that the project has when it is asked for, and keeps it.
    assert_eq!(world.request("lars", "brain/before", 1).await.unwrap().level, "3");
    let lowered = decide_lower(&world, "gustav", true).await.unwrap();
    assert_eq!((lowered.level.as_str(), lowered.level_name.as_str()), ("2", "confidential"));
    assert!(lowered.declassification.is_none());
    let entry = world.logged(|e| e.action == "project.declassify-decide" && e.outcome == "allowed").await;
    assert_eq!(
        (entry.actor.as_str(), &entry.detail["of"]["reason"]),
        ("person/gustav", &"names were removed".into())
    );
    assert_eq!(world.get("lars", "brain/before").await.unwrap().level, "3");
    let after = world.request("lars", "brain/after", 1).await.unwrap();
    assert_eq!((after.level.as_str(), after.approvals_needed), ("2", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_or_withdrawn_is_not_lowered() {
    let world = World::full().await;
    for reject in [true, false] {
        lower(&world, "", "names were removed").await.unwrap();
        decide_lower(&world, "frida", true).await.unwrap();
        let after = match reject {
            true => decide_lower(&world, "gustav", false).await.unwrap(),
            false => {
                let request = v1::WithdrawDeclassificationRequest { project: "brain".to_owned() };
                world.projects("lars").withdraw_declassification(request).await.unwrap().into_inner()
            }
        };
        assert!(after.declassification.is_none() && after.level == "3");
    }
    // What has run out stands in its way as in that of a slice.
    let ends = Some(ahead(SignedDuration::from_secs(2)));
    world.file("lars", "brain", v1::Registration { ends, ..Default::default() }).await.unwrap();
    a_moment().await;
    let refused = lower(&world, "", "names were removed").await.unwrap_err();
    refused_by(&world, &refused, "lars", "project.declassify", "project.filed").await;
}
