//! What people may do, and what they are told when they may not.

use crate::world::{Agent, World, decide, hint, reference};
use holm_control::api::REQUEST;
use holm_proto::v1;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_in_words() {
    let world = World::full().await;
    let huge = v1::CreateProjectRequest {
        name: "huge".to_owned(),
        level: "2".to_owned(),
        purpose: "x".repeat(20 << 20),
        ..Default::default()
    };
    let failure = world.projects("dina").create_project(huge).await.unwrap_err();
    assert_eq!(failure.code(), Code::OutOfRange);
    assert!(failure.message().contains("too large"), "{}", failure.message());
    let entry = world.logged(|e| e.actor == "person/dina" && e.action == "call").await;
    assert_eq!(entry.outcome, "refused");
    assert!(entry.reasons.iter().any(|r| r.contains("too large")), "{:?}", entry.reasons);
    assert_eq!(entry.resource, "/holm.v1.ProjectService/CreateProject");

    let failure = world.project("dina", "../x", "2").await.unwrap_err();
    assert_eq!(failure.code(), Code::InvalidArgument);
    assert!(failure.message().contains("`../x` is not a name"), "{}", failure.message());
    let id = failure.metadata().get(REQUEST).unwrap().to_str().unwrap().to_owned();
    let entry = world.logged(|e| e.request == id).await;
    assert_eq!((entry.outcome.as_str(), entry.resource.as_str()), ("refused", "project/../x"));

    let failure = world.project("dina", "heart", "2").await.unwrap_err();
    assert_eq!(failure.code(), Code::AlreadyExists);
    assert_eq!(hint(&failure), "holm project list");

    for level in ["0", "1"] {
        let failure = world.project("dina", "open-data", level).await.unwrap_err();
        assert_eq!(failure.code(), Code::PermissionDenied);
        assert!(failure.message().contains("shared cluster"), "{}", failure.message());
    }
    for level in ["4", "", "Level 2"] {
        let failure = world.project("dina", "open-data", level).await.unwrap_err();
        assert_eq!(failure.code(), Code::PermissionDenied, "{failure:?}");
        assert!(failure.message().contains("is no level"), "{}", failure.message());
    }
    for (gpus, words) in [(0, "at least 1"), (3, "ask for 4"), (17, "the host has 16 GPUs")] {
        let failure = world.request("dina", "heart/main", gpus).await.unwrap_err();
        assert_eq!(failure.code(), Code::InvalidArgument);
        assert!(failure.message().contains(words), "{}", failure.message());
        assert!(hint(&failure).contains("--gpus"));
    }
    let failure = world.slices("dina").approve_slice(v1::DecideSliceRequest::default()).await.unwrap_err();
    assert_eq!(failure.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_may_not_see_is_not_found() {
    let world = World::full().await;
    world.request("dina", "heart/main", 2).await.unwrap();
    for who in ["lars", "rune"] {
        let hidden = world.get(who, "heart/main").await.unwrap_err();
        let absent = world.get(who, "heart/none").await.unwrap_err();
        assert_eq!((hidden.code(), absent.code()), (Code::NotFound, Code::NotFound));
        assert_eq!(hidden.message().replace("main", "none"), absent.message());
        assert_eq!(hint(&hidden), hint(&absent));
        let close = world.close(who, "heart/main").await.unwrap_err();
        assert_eq!(close.code(), Code::NotFound);
        let project = v1::GetProjectRequest { name: "heart".to_owned() };
        assert_eq!(world.projects(who).get_project(project).await.unwrap_err().code(), Code::NotFound);
        let all = world.slices(who).list_slices(v1::ListSlicesRequest::default()).await.unwrap().into_inner();
        assert_eq!(all.slices, []);
    }
    // The log has the true reason.
    let entry = world.logged(|e| e.actor == "person/lars" && e.action == "slice.close").await;
    assert!(entry.reasons.join(" ").contains("only the project's lead"), "{:?}", entry.reasons);
    let mine = world.slices("rosa").list_slices(v1::ListSlicesRequest::default()).await.unwrap().into_inner();
    assert_eq!(mine.slices.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn approvals() {
    let world = World::full().await;
    world.request("lars", "brain/main", 2).await.unwrap();
    let own = world.approve("lars", "brain/main").await.unwrap_err();
    assert_eq!(own.code(), Code::PermissionDenied);
    assert!(own.message().contains("nobody decides on what they asked for"), "{}", own.message());
    let first = world.approve("frida", "brain/main").await.unwrap();
    assert_eq!(
        (first.state(), first.approvals.len(), first.approvals_needed),
        (v1::SliceState::Requested, 1, 2)
    );
    let twice = world.approve("frida", "brain/main").await.unwrap_err();
    assert_eq!(twice.code(), Code::PermissionDenied);
    assert!(twice.message().contains("another officer's"), "{}", twice.message());
    let dry = v1::DecideSliceRequest { dry_run: true, ..decide("brain/main", "") };
    let would = world.slices("gustav").approve_slice(dry).await.unwrap().into_inner();
    assert_eq!(would.state(), v1::SliceState::Approved);
    assert_eq!(world.get("gustav", "brain/main").await.unwrap().state(), v1::SliceState::Requested);
    assert_eq!(world.approve("gustav", "brain/main").await.unwrap().state(), v1::SliceState::Approved);
    let late = world.slices("frida").reject_slice(decide("brain/main", "no")).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition);
    world.slices("lars").withdraw_slice(decide("brain/main", "")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_who_leads_does_not_approve_her_own() {
    let mut world = World::new().await;
    world.invite("frida", "ida", &["officer", "lead"]).await;
    world.project("ida", "mine", "2").await.unwrap();
    world.request("ida", "mine/main", 1).await.unwrap();
    let own = world.approve("ida", "mine/main").await.unwrap_err();
    assert_eq!(own.code(), Code::PermissionDenied);
    world.approve("gustav", "mine/main").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_level_3_a_certificate_is_good_for_a_terminal_alone_and_the_host_is_told() {
    let world = World::full().await;
    let mut agent = crate::world::Agent::ready(&world, "dgx").await;
    world.request("lars", "brain/main", 2).await.unwrap();
    for who in ["frida", "gustav"] {
        world.approve(who, "brain/main").await.unwrap();
    }
    let wanted = agent.slice(v1::Goal::Run).await;
    assert!(wanted.terminal_only);
    agent.key(&wanted).await.unwrap();
    for phase in [v1::Phase::Preparing, v1::Phase::Booting, v1::Phase::Ready] {
        agent.reaches(&wanted, phase).await;
    }
    world.until("lars", "brain/main", v1::SliceState::Ready).await;
    world.pretend_real("dgx");
    let public_key =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ".to_owned();
    let sign =
        v1::SignSshKeyRequest { slice: Some(reference("brain/main")), public_key, ..Default::default() };
    let signed = world.slices("lars").sign_ssh_key(sign).await.unwrap().into_inner();
    let certificate = ssh_key::Certificate::from_openssh(&signed.certificate).unwrap();
    assert!(certificate.critical_options().contains_key("force-command"));
    assert!(!certificate.extensions().contains_key("permit-port-forwarding"));
    let entry = world.logged(|e| e.action == "slice.connect" && e.actor == "person/lars").await;
    assert_eq!(entry.detail["terminal_only"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_have_no_way_to_data_or_log_and_officers_reads_are_entries() {
    let world = World::full().await;
    let (_agent, _) = crate::world::ready_slice(&world, "heart/main", 2).await;
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ".to_owned();
    let sign = || v1::SignSshKeyRequest {
        slice: Some(reference("heart/main")),
        public_key: key.clone(),
        ..Default::default()
    };
    for who in ["olga", "frida"] {
        let failure = world.slices(who).sign_ssh_key(sign()).await.unwrap_err();
        assert_eq!(failure.code(), Code::PermissionDenied, "{who}");
    }
    let failure = world.audit("olga").get_checkpoint(v1::GetCheckpointRequest {}).await.unwrap_err();
    assert_eq!(failure.code(), Code::PermissionDenied);
    assert!(failure.message().contains("officers and auditors"));
    assert!(world.audit("olga").list_entries(v1::ListEntriesRequest::default()).await.is_err());
    let failure = world.hosts("frida").get_host(v1::GetHostRequest::default()).await.unwrap_err();
    assert_eq!(failure.code(), Code::NotFound);

    // An SSH client would wait for ever for a machine that is not there.
    let failure = world.slices("rosa").sign_ssh_key(sign()).await.unwrap_err();
    assert_eq!(failure.code(), Code::FailedPrecondition);
    assert!(failure.message().contains("no machine to log in to"), "{}", failure.message());
    world.pretend_real("dgx");
    let signed = world.slices("rosa").sign_ssh_key(sign()).await.unwrap().into_inner();
    assert_eq!(signed.user, "rosa");
    assert!(signed.host_key.starts_with("ssh-ed25519 "));
    let entry = world.logged(|e| e.action == "slice.connect" && e.actor == "person/rosa").await;
    assert_eq!(entry.project.as_deref(), Some("heart"));
    assert_eq!(entry.detail["terminal_only"], false);
    let certificate = ssh_key::Certificate::from_openssh(&signed.certificate).unwrap();
    assert!(certificate.extensions().contains_key("permit-port-forwarding"));
    assert!(certificate.critical_options().is_empty());

    world.get("rosa", "heart/main").await.unwrap();
    let size = world.app.ledger.size();
    world.get("rosa", "heart/main").await.unwrap();
    assert_eq!(world.app.ledger.size(), size, "the same again is counted");
    world.get("frida", "heart/main").await.unwrap();
    let entry = world.log().pop().unwrap();
    assert_eq!((entry.actor.as_str(), entry.action.as_str()), ("person/frida", "slice.read"));

    let checkpoint =
        world.audit("anna").get_checkpoint(v1::GetCheckpointRequest {}).await.unwrap().into_inner();
    let head = holm_control::audit::Checkpoint::verify(&checkpoint.note, &checkpoint.verifier_key).unwrap();
    assert_eq!(head.size, world.app.ledger.size());
    let list = v1::ListEntriesRequest { start: 0, end: head.size };
    let mut entries = world.audit("anna").list_entries(list).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(entry) = entries.message().await.unwrap() {
        assert_eq!(entry.index, count);
        count += 1;
    }
    assert_eq!(count, head.size);
    let beyond = v1::ListEntriesRequest { start: 0, end: head.size + 1000 };
    assert_eq!(world.audit("anna").list_entries(beyond).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_changes_nothing_but_is_logged() {
    let world = World::full().await;
    let records = world.app.ledger.state();
    let dry = v1::RequestSliceRequest {
        project: "heart".to_owned(),
        name: "main".to_owned(),
        gpus: 4,
        dry_run: true,
        ..Default::default()
    };
    let would = world.slices("dina").request_slice(dry).await.unwrap().into_inner();
    assert_eq!((would.gpus, would.vcpus, would.memory_mib, would.disk_gib), (4, 24, 368_640, 50));
    assert_eq!(*world.app.ledger.state(), *records);
    assert_eq!(world.log().pop().unwrap().detail["dry_run"], true);
    let dry = v1::CreateProjectRequest {
        name: "other".to_owned(),
        level: "3".to_owned(),
        purpose: "x".to_owned(),
        dry_run: true,
        ..Default::default()
    };
    assert_eq!(
        world.projects("dina").create_project(dry).await.unwrap().into_inner().level_name,
        "sensitive"
    );
    assert_eq!(*world.app.ledger.state(), *records);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_device_is_released_with_a_reason_by_an_operator() {
    let world = World::full().await;
    let mut agent = Agent::dial(&world, "dgx", crate::world::hello(0)).await.unwrap();
    agent.hear().await;
    agent.observe(Vec::new()).await;
    let run = agent.intends(|i| !i.runs.is_empty()).await.runs.remove(0);
    // One device is not in the report, one was not verified in full.
    let mut evidence: Vec<v1::Evidence> =
        run.devices.iter().skip(1).map(|a| crate::world::evidence(&run.run_id, a)).collect();
    evidence[0].bytes_verified -= 1;
    evidence[1].run_id = "00000000-0000-0000-0000-000000000000".to_owned();
    let report = v1::SanitiseReport { run_id: run.run_id.clone(), evidence };
    agent.cleaned(&run).await;
    agent.say(v1::from_agent::Body::SanitiseReport(report)).await;
    agent.intends(|i| i.runs.is_empty()).await;
    let host = world.hosts("olga").get_host(v1::GetHostRequest::default()).await.unwrap().into_inner();
    assert!(host.online && host.simulated);
    let quarantined: Vec<&v1::Device> =
        host.devices.iter().filter(|d| d.state() == v1::DeviceState::Quarantined).collect();
    assert_eq!(quarantined.len(), 3);
    // The log says which and why: that is what an officer reads.
    let entries = world.log();
    let told = entries.iter().rfind(|e| e.action == "observe.sanitise").unwrap();
    let told = told.detail["quarantined"].as_object().unwrap();
    assert_eq!(told.len(), 3);
    assert_eq!(told[&run.devices[0]], "not sanitised: its report is missing");
    let release = |address: &str, reason: &str| v1::ReleaseDeviceRequest {
        host: "dgx".to_owned(),
        address: address.to_owned(),
        reason: reason.to_owned(),
    };
    let failure = world.hosts("olga").release_device(release(&run.devices[0], " ")).await.unwrap_err();
    assert_eq!(failure.code(), Code::InvalidArgument);
    let failure = world.hosts("olga").release_device(release(&run.devices[9], "why not")).await.unwrap_err();
    assert_eq!(failure.code(), Code::FailedPrecondition);
    assert!(world.hosts("dina").release_device(release(&run.devices[0], "mine")).await.is_err());
    let host =
        world.hosts("olga").release_device(release(&run.devices[0], "reseated")).await.unwrap().into_inner();
    assert_eq!(host.devices[0].state(), v1::DeviceState::Dirty);
    let run = agent.intends(|i| !i.runs.is_empty()).await.runs.remove(0);
    assert_eq!(run.devices, [crate::world::address(1)]);
}
