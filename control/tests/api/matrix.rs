//! Actor × call, as one golden table: what each gets for an answer.

use crate::world::{Agent, World, decide, hello, ready_slice, reference};
use holm_control::domain::image::Image;
use holm_control::domain::incident::Incident;
use holm_control::domain::records::{Change, Record};
use holm_control::domain::review::{Item, Review, Sample};
use holm_control::identity::Caller;
use holm_control::ledger::{Call, Decided};
use holm_proto::v1;
use holm_proto::v1::policy_service_client::PolicyServiceClient;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::fmt::Write;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

pub const ACTORS: [(&str, &str); 12] = [
    ("dina", "lead of the project"),
    ("rosa", "member of the project"),
    ("lars", "another lead"),
    ("rune", "another researcher"),
    ("frida", "officer"),
    ("gustav", "officer who approved"),
    ("olga", "operator"),
    ("anna", "auditor"),
    ("dgx", "host of the slice"),
    ("other", "another host"),
    ("nobody", "person with a certificate, not known"),
    ("nohost", "host with a certificate, not known"),
];

/// Every call, on things that are there, with a request that is in order.
pub const CALLS: [&str; 94] = [
    "PersonService/WhoAmI",
    "PersonService/ListPeople",
    "PersonService/Invite person",
    "PersonService/Invite officer",
    "PersonService/Invite again",
    "PersonService/Invite officer again",
    "PersonService/Invite host",
    "PersonService/ConfirmInvitation",
    "PersonService/Renew",
    "PersonService/BeginLogin",
    "PersonService/FinishLogin",
    "PersonService/Revoke person",
    "PersonService/Revoke host",
    "ProjectService/CreateProject",
    "ProjectService/CreateProject level 0",
    "ProjectService/GetProject",
    "ProjectService/ListProjects",
    "ProjectService/AddMember",
    "ProjectService/RemoveMember",
    "ProjectService/FileProject",
    "ProjectService/GetProcessingRecord",
    "ProjectService/AddDataSet",
    "ProjectService/Declassify",
    "ProjectService/WithdrawDeclassification",
    "ProjectService/DecideDeclassification",
    "ProjectService/HoldProject",
    "ProjectService/ReleaseProject",
    "ProjectService/SetQuota",
    "SliceService/RequestSlice",
    "SliceService/GetSlice",
    "SliceService/ListSlices",
    "SliceService/ExplainSlice",
    "SliceService/ListQueue",
    "SliceService/ApproveSlice",
    "SliceService/RejectSlice",
    "SliceService/WithdrawSlice",
    "SliceService/ExtendSlice",
    "SliceService/CloseSlice",
    "SliceService/StopSlice",
    "SliceService/StartSlice",
    "SliceService/StartSlice rebuild",
    "SliceService/GrowSlice",
    "SliceService/ResizeSlice",
    "SliceService/RekeySlice",
    "SliceService/ReencryptSlice",
    "SliceService/SetScheduler",
    "SliceService/DrainSlice",
    "SliceService/GetUsage",
    "SliceService/ListUsage",
    "SliceService/HoldSlice",
    "SliceService/ReleaseSlice",
    "SliceService/WatchSlice",
    "SliceService/GetCertificate",
    "SliceService/SignSshKey",
    "SliceService/SignSshKey recordings",
    "SliceService/Connect",
    "SliceService/Connect recordings",
    "HostService/ListHosts",
    "HostService/GetHost",
    "HostService/ReleaseDevice",
    "HostService/SetMaintenance",
    "AuditService/GetCheckpoint",
    "AuditService/ListEntries",
    "AuditService/SearchEntries",
    "AuditService/FollowEntries",
    "AuditService/ListWitnesses",
    "KeyService/ShowKeys",
    "KeyService/RotateKeys project",
    "KeyService/RotateKeys kek",
    "KeyService/EscrowKeys",
    "PolicyService/GetPolicy",
    "PolicyService/LoadPolicy",
    "PolicyService/ExplainPolicy",
    "LockService/SetLock",
    "LockService/LiftLock",
    "LockService/ListLocks",
    "IncidentService/OpenIncident",
    "IncidentService/NoteNotification",
    "IncidentService/CloseIncident",
    "IncidentService/ListIncidents",
    "IncidentService/ExportIncident",
    "ImageService/ListImages",
    "ImageService/GetImage",
    "ImageService/AddImage",
    "ImageService/PromoteImage",
    "ReviewService/ListReviews",
    "ReviewService/GetReview",
    "ReviewService/DecideEntry",
    "BackupService/BackUpSlice",
    "BackupService/RestoreSlice",
    "BackupService/DrillSlice",
    "BackupService/ListBackups",
    "AgentService/Session",
    "AgentService/Tunnel",
];

/// What came back, and of lists how much is in them.
pub async fn call(world: &World, who: &str, call: &str) -> Result<Option<usize>, Status> {
    let invite = |subject, roles: &[&str]| v1::InviteRequest {
        subject: Some(subject),
        roles: roles.iter().map(ToString::to_string).collect(),
    };
    let person = |name: &str| v1::invite_request::Subject::Person(name.to_owned());
    let revoke =
        |subject| v1::RevokeRequest { subject: Some(subject), reason: "a case".to_owned(), dry_run: true };
    let dry = |slice| v1::DecideSliceRequest { dry_run: true, ..decide(slice, "") };
    let create = |level: &str| v1::CreateProjectRequest {
        name: "new".to_owned(),
        level: level.to_owned(),
        purpose: "x".to_owned(),
        dry_run: true,
        ..Default::default()
    };
    let main = || reference("heart/main");
    let hold_project =
        || v1::HoldProjectRequest { project: "heart".to_owned(), reason: "a case".to_owned(), dry_run: true };
    let (mut people, mut projects, mut slices) = (world.person(who), world.projects(who), world.slices(who));
    let (mut hosts, mut audit, mut agents) = (world.hosts(who), world.audit(who), world.agents(who));
    let mut policies = PolicyServiceClient::new(world.of(who));
    match call {
        "PersonService/WhoAmI" => drop(people.who_am_i(v1::WhoAmIRequest {}).await?),
        "PersonService/ListPeople" => {
            let all = people.list_people(v1::ListPeopleRequest::default()).await?.into_inner();
            return Ok(Some(all.people.len()));
        }
        "PersonService/Invite person" => {
            drop(people.invite(invite(person("nina"), &["researcher"])).await?);
        }
        "PersonService/Invite officer" => drop(people.invite(invite(person("ole"), &["officer"])).await?),
        "PersonService/Invite again" => drop(people.invite(invite(person("rosa"), &[])).await?),
        "PersonService/Invite officer again" => drop(people.invite(invite(person("frida"), &[])).await?),
        "PersonService/Invite host" => {
            let subject = v1::invite_request::Subject::Host("dgx".to_owned());
            drop(people.invite(invite(subject, &[])).await?);
        }
        // Nobody waits for it: whether one may is decided first.
        "PersonService/ConfirmInvitation" => {
            let request =
                v1::ConfirmInvitationRequest { person: "rosa".to_owned(), dry_run: true, id: String::new() };
            match people.confirm_invitation(request).await {
                Err(status) if status.code() == Code::FailedPrecondition => {}
                answer => drop(answer?),
            }
        }
        // For no key: whether one may is decided first.
        "PersonService/Renew" => match people.renew(v1::RenewRequest::default()).await {
            Err(status) if status.code() == Code::InvalidArgument => {}
            answer => drop(answer?),
        },
        // There is no provider: whether one may is decided first.
        "PersonService/BeginLogin" => match people.begin_login(v1::BeginLoginRequest {}).await {
            Err(status) if status.code() == Code::FailedPrecondition => {}
            answer => drop(answer?),
        },
        "PersonService/FinishLogin" => match people.finish_login(v1::FinishLoginRequest {}).await {
            Err(status) if status.code() == Code::FailedPrecondition => {}
            answer => drop(answer?),
        },
        "PersonService/Revoke person" => {
            let subject = v1::revoke_request::Subject::Person("rune".to_owned());
            drop(people.revoke(revoke(subject)).await?);
        }
        "PersonService/Revoke host" => {
            let subject = v1::revoke_request::Subject::Host("other".to_owned());
            drop(people.revoke(revoke(subject)).await?);
        }
        "ProjectService/CreateProject" => drop(projects.create_project(create("2")).await?),
        "ProjectService/CreateProject level 0" => drop(projects.create_project(create("0")).await?),
        "ProjectService/GetProject" => {
            drop(projects.get_project(v1::GetProjectRequest { name: "heart".to_owned() }).await?);
        }
        "ProjectService/ListProjects" => {
            let all = projects.list_projects(v1::ListProjectsRequest::default()).await?.into_inner();
            return Ok(Some(all.projects.len()));
        }
        "PolicyService/GetPolicy" => drop(policies.get_policy(v1::GetPolicyRequest {}).await?),
        "PolicyService/LoadPolicy" => {
            // Who may gets as far as being told that it is no pack.
            let loaded = policies.load_policy(v1::LoadPolicyRequest::default()).await;
            drop(loaded.map_err(|status| match status.code() {
                Code::InvalidArgument => Status::failed_precondition(status.message()),
                _ => status,
            })?);
        }
        "PolicyService/ExplainPolicy" => {
            let request = v1::ExplainPolicyRequest { action: "keys.read".to_owned(), ..Default::default() };
            drop(policies.explain_policy(request).await?);
        }
        "ProjectService/AddMember" => {
            let request = v1::AddMemberRequest {
                project: "heart".to_owned(),
                person: "rosa".to_owned(),
                external_agreement: None,
                read_only: None,
            };
            drop(projects.add_member(request).await?);
        }
        "ProjectService/RemoveMember" => {
            let request = v1::RemoveMemberRequest {
                project: "heart".to_owned(),
                person: "rosa".to_owned(),
                dry_run: true,
            };
            drop(projects.remove_member(request).await?);
        }
        "ProjectService/FileProject" => {
            let request = v1::FileProjectRequest {
                project: "heart".to_owned(),
                registration: Some(crate::world::filed()),
                dry_run: true,
            };
            drop(projects.file_project(request).await?);
        }
        "ProjectService/GetProcessingRecord" => {
            drop(projects.get_processing_record(v1::GetProjectRequest { name: "heart".to_owned() }).await?);
        }
        "ProjectService/AddDataSet" => {
            let data_set = v1::DataSet {
                name: "scans".to_owned(),
                owner: "the clinic".to_owned(),
                level: "2".to_owned(),
            };
            let request = v1::AddDataSetRequest {
                project: "heart".to_owned(),
                data_set: Some(data_set),
                dry_run: true,
            };
            drop(projects.add_data_set(request).await?);
        }
        "ProjectService/Declassify" => {
            let request = v1::DeclassifyRequest {
                project: "brain".to_owned(),
                level: "2".to_owned(),
                reason: "x".to_owned(),
                dry_run: true,
                ..Default::default()
            };
            drop(projects.declassify(request).await?);
        }
        // Nobody has asked for it: whether one may is decided first.
        "ProjectService/WithdrawDeclassification" => {
            let request = v1::WithdrawDeclassificationRequest { project: "brain".to_owned() };
            drop(projects.withdraw_declassification(request).await?);
        }
        "ProjectService/DecideDeclassification" => {
            let request = v1::DecideDeclassificationRequest {
                project: "brain".to_owned(),
                approve: true,
                dry_run: true,
                ..Default::default()
            };
            drop(projects.decide_declassification(request).await?);
        }
        "ProjectService/HoldProject" => drop(projects.hold_project(hold_project()).await?),
        "ProjectService/ReleaseProject" => drop(projects.release_project(hold_project()).await?),
        "ProjectService/SetQuota" => {
            let request =
                v1::SetQuotaRequest { project: "heart".to_owned(), disk_gib: Some(5), dry_run: true };
            drop(projects.set_quota(request).await?);
        }
        "SliceService/RequestSlice" => {
            let request = v1::RequestSliceRequest {
                project: "heart".to_owned(),
                name: "new".to_owned(),
                gpus: 1,
                dry_run: true,
                ..Default::default()
            };
            drop(slices.request_slice(request).await?);
        }
        "SliceService/GetSlice" => drop(slices.get_slice(main()).await?),
        "SliceService/ListSlices" => {
            let all = slices.list_slices(v1::ListSlicesRequest::default()).await?.into_inner();
            return Ok(Some(all.slices.len()));
        }
        "SliceService/ExplainSlice" => drop(slices.explain_slice(main()).await?),
        "SliceService/ListQueue" => {
            let all = slices.list_queue(v1::ListQueueRequest {}).await?.into_inner();
            return Ok(Some(all.entries.len()));
        }
        "SliceService/ApproveSlice" => drop(slices.approve_slice(dry("brain/asked")).await?),
        "SliceService/RejectSlice" => {
            let request = v1::DecideSliceRequest { comment: "no".to_owned(), ..dry("brain/asked") };
            drop(slices.reject_slice(request).await?);
        }
        "SliceService/ExtendSlice" => drop(slices.extend_slice(dry("heart/main")).await?),
        "SliceService/WithdrawSlice" => drop(slices.withdraw_slice(dry("brain/asked")).await?),
        "SliceService/StopSlice" => drop(slices.stop_slice(dry("heart/main")).await?),
        "SliceService/StartSlice" => {
            let request = v1::StartSliceRequest { slice: Some(main()), dry_run: true, ..Default::default() };
            drop(slices.start_slice(request).await?);
        }
        "SliceService/StartSlice rebuild" => {
            let request = v1::StartSliceRequest { slice: Some(main()), dry_run: true, rebuild: true };
            drop(slices.start_slice(request).await?);
        }
        "SliceService/GrowSlice" => {
            let slice = Some(main());
            let request =
                v1::GrowSliceRequest { slice, home_gib: Some(500), dry_run: true, ..Default::default() };
            drop(slices.grow_slice(request).await?);
        }
        "SliceService/ResizeSlice" => {
            let slice = Some(main());
            let request =
                v1::ResizeSliceRequest { slice, vcpus: Some(1), dry_run: true, ..Default::default() };
            drop(slices.resize_slice(request).await?);
        }
        "SliceService/SetScheduler" => {
            let request = v1::SetSchedulerRequest {
                slice: Some(main()),
                dry_run: true,
                reset: true,
                ..Default::default()
            };
            drop(slices.set_scheduler(request).await?);
        }
        "SliceService/DrainSlice" => {
            let request = v1::DrainSliceRequest { slice: Some(main()), dry_run: true, ..Default::default() };
            drop(slices.drain_slice(request).await?);
        }
        "SliceService/GetUsage" => {
            let request = v1::GetUsageRequest { slice: Some(main()), ..Default::default() };
            drop(slices.get_usage(request).await?);
        }
        "SliceService/ListUsage" => drop(slices.list_usage(v1::ListUsageRequest::default()).await?),
        "SliceService/ReencryptSlice" => drop(slices.reencrypt_slice(dry("heart/main")).await?),
        "SliceService/RekeySlice" => drop(slices.rekey_slice(dry("heart/main")).await?),
        "SliceService/CloseSlice" => drop(slices.close_slice(dry("heart/main")).await?),
        "SliceService/HoldSlice" => {
            let request = v1::HoldSliceRequest {
                slice: Some(main()),
                reason: "a case".to_owned(),
                freeze: true,
                dry_run: true,
            };
            drop(slices.hold_slice(request).await?);
        }
        "SliceService/ReleaseSlice" => {
            let dry = v1::DecideSliceRequest { dry_run: true, ..decide("heart/main", "closed") };
            drop(slices.release_slice(dry).await?);
        }
        "SliceService/WatchSlice" => drop(slices.watch_slice(main()).await?),
        "SliceService/GetCertificate" => drop(slices.get_certificate(main()).await?),
        "SliceService/SignSshKey" => {
            // Of a slice on a simulated host: whether one may is decided first.
            let public_key =
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ".to_owned();
            drop(
                slices
                    .sign_ssh_key(v1::SignSshKeyRequest {
                        slice: Some(main()),
                        public_key,
                        ..Default::default()
                    })
                    .await?,
            );
        }
        "SliceService/SignSshKey recordings" => {
            // Of a slice whose level has nothing recorded: whether one may is decided first.
            let recordings_reason = "a complaint".to_owned();
            let asks = v1::SignSshKeyRequest { slice: Some(main()), recordings_reason, ..Default::default() };
            drop(slices.sign_ssh_key(asks).await?);
        }
        "SliceService/Connect recordings" => {
            let frame = v1::ConnectFrame { slice: Some(main()), recordings: true, ..Default::default() };
            drop(slices.connect(one(frame)).await?);
        }
        "SliceService/Connect" => {
            // Of a slice that is not ready: whether one may is decided first.
            let frame = v1::ConnectFrame { slice: Some(reference("brain/asked")), ..Default::default() };
            drop(slices.connect(one(frame)).await?);
        }
        "HostService/ListHosts" => {
            let all = hosts.list_hosts(v1::ListHostsRequest {}).await?.into_inner();
            return Ok(Some(all.hosts.len()));
        }
        "HostService/GetHost" => drop(hosts.get_host(v1::GetHostRequest { name: "dgx".to_owned() }).await?),
        "HostService/ReleaseDevice" => {
            let request = v1::ReleaseDeviceRequest {
                host: "dgx".to_owned(),
                address: crate::world::address(1),
                reason: "x".to_owned(),
            };
            drop(hosts.release_device(request).await?);
        }
        "HostService/SetMaintenance" => {
            let request = v1::SetMaintenanceRequest {
                host: "dgx".to_owned(),
                device: crate::world::address(1),
                out: true,
                reason: "x".to_owned(),
            };
            drop(hosts.set_maintenance(request).await?);
        }
        "AuditService/GetCheckpoint" => drop(audit.get_checkpoint(v1::GetCheckpointRequest {}).await?),
        "AuditService/ListEntries" => drop(audit.list_entries(v1::ListEntriesRequest::default()).await?),
        "AuditService/SearchEntries" => {
            drop(audit.search_entries(v1::SearchEntriesRequest::default()).await?);
        }
        "AuditService/FollowEntries" => drop(audit.follow_entries(v1::EntryFilter::default()).await?),
        "AuditService/ListWitnesses" => drop(audit.list_witnesses(v1::ListWitnessesRequest {}).await?),
        "KeyService/ShowKeys" => drop(world.keys(who).show_keys(v1::ShowKeysRequest {}).await?),
        "KeyService/RotateKeys project" => drop(world.rotate(who, Some("heart")).await?),
        "KeyService/RotateKeys kek" => drop(world.rotate(who, None).await?),
        "KeyService/EscrowKeys" => {
            let request = v1::EscrowKeysRequest { project: "heart".to_owned(), to: vec!["safe".to_owned()] };
            drop(world.keys(who).escrow_keys(request).await?);
        }
        // Of somebody whom nobody has locked: whether one may is decided first.
        "LockService/SetLock" | "LockService/LiftLock" => {
            let (subject, reason) = ("person/rune".to_owned(), "a case".to_owned());
            if call == "LockService/SetLock" {
                let request = v1::SetLockRequest { subject, reason, dry_run: true };
                drop(world.locks(who).set_lock(request).await?);
            } else {
                let request = v1::LiftLockRequest { subject, reason, dry_run: true };
                drop(world.locks(who).lift_lock(request).await?);
            }
        }
        "IncidentService/OpenIncident" => {
            let request = v1::OpenIncidentRequest {
                project: "heart".to_owned(),
                reason: "a case".to_owned(),
                aware: None,
                dry_run: true,
            };
            drop(world.incidents(who).open_incident(request).await?);
        }
        "IncidentService/NoteNotification" => {
            let (reference, reason) = ("2026-7".to_owned(), String::new());
            let request = v1::NoteNotificationRequest { number: 1, reference, reason, dry_run: true };
            drop(world.incidents(who).note_notification(request).await?);
        }
        "IncidentService/CloseIncident" => {
            let request = v1::CloseIncidentRequest { number: 1, reason: "over".to_owned(), dry_run: true };
            drop(world.incidents(who).close_incident(request).await?);
        }
        "IncidentService/ListIncidents" => {
            let all = world.incidents(who).list_incidents(v1::ListIncidentsRequest {}).await?.into_inner();
            return Ok(Some(all.incidents.len()));
        }
        "IncidentService/ExportIncident" => {
            let request = v1::ExportIncidentRequest { number: 1, size: 0 };
            drop(world.incidents(who).export_incident(request).await?);
        }
        "ImageService/ListImages" => drop(world.images(who).list_images(v1::ListImagesRequest {}).await?),
        "ImageService/GetImage" => {
            drop(world.images(who).get_image(v1::GetImageRequest { id: "a".repeat(64) }).await?);
        }
        // Of what is none: whether one may is decided first.
        "ImageService/AddImage" => match world.images(who).add_image(v1::AddImageRequest::default()).await {
            Err(status) if status.code() == Code::InvalidArgument => {}
            added => drop(added?),
        },
        "ImageService/PromoteImage" => {
            let request = v1::PromoteImageRequest { id: "a".repeat(64), dry_run: true, ..Default::default() };
            drop(world.images(who).promote_image(request).await?);
        }
        "ReviewService/ListReviews" => {
            let all = world.reviews(who).list_reviews(v1::ListReviewsRequest {}).await?.into_inner();
            return Ok(Some(all.reviews.len()));
        }
        "ReviewService/GetReview" => {
            drop(world.reviews(who).get_review(v1::GetReviewRequest { number: 1 }).await?);
        }
        "ReviewService/DecideEntry" => {
            let request = v1::DecideEntryRequest { number: 1, dry_run: true, ..Default::default() };
            drop(world.reviews(who).decide_entry(request).await?);
        }
        "LockService/ListLocks" => {
            let all = world.locks(who).list_locks(v1::ListLocksRequest {}).await?.into_inner();
            return Ok(Some(all.locks.len()));
        }
        // Of a slice that runs: whether one may is decided first.
        "BackupService/BackUpSlice" => {
            let request = v1::BackUpSliceRequest { slice: Some(main()), dry_run: true };
            drop(world.backups(who).back_up_slice(request).await?);
        }
        "BackupService/RestoreSlice" => {
            let backup_id = "5f0c7c8e-0000-4000-8000-000000000002".to_owned();
            let request = v1::RestoreSliceRequest { slice: Some(main()), backup_id, dry_run: true };
            drop(world.backups(who).restore_slice(request).await?);
        }
        "BackupService/DrillSlice" => {
            let request = v1::DrillSliceRequest { slice: Some(main()), dry_run: true, ..Default::default() };
            drop(world.backups(who).drill_slice(request).await?);
        }
        "BackupService/ListBackups" => {
            let all = world.backups(who).list_backups(v1::ListBackupsRequest::default()).await?.into_inner();
            return Ok(Some(all.backups.len()));
        }
        "AgentService/Session" => drop(Agent::dial(world, who, hello(0)).await?),
        "AgentService/Tunnel" => drop(agents.tunnel(one(v1::TunnelFrame::default())).await?),
        _ => panic!("what is {call}?"),
    }
    Ok(None)
}

fn one<T>(frame: T) -> ReceiverStream<T> {
    let (send, frames) = tokio::sync::mpsc::channel(1);
    assert!(send.try_send(frame).is_ok());
    ReceiverStream::new(frames)
}

/// Everybody above, a slice that is ready, and one that was asked for. The agent stays connected as long as it lives.
pub async fn world() -> (World, Agent) {
    let mut world = World::full().await;
    world.invite_host("other").await;
    for (name, caller) in [
        ("nobody", Caller::Person("nobody".parse().unwrap())),
        ("nohost", Caller::Host("nohost".parse().unwrap())),
    ] {
        let channel = world.channel(Some(&world.holder(&caller)));
        world.know(name, channel);
    }
    sample(&world);
    let (agent, _) = ready_slice(&world, "heart/main", 2).await;
    world.request("lars", "brain/asked", 1).await.unwrap();
    world.approve("gustav", "brain/asked").await.unwrap();
    (world, agent)
}

/// A sample of one entry that is about nobody, and an incident of brain, which is frozen by none.
fn sample(world: &World) {
    let now = Timestamp::now();
    let items = vec![Item { entry: 0, about: BTreeSet::new(), decided: None }];
    let sample = Some(Sample { close: 1, drawn: now, due: now, items, told: Some(now), done: None });
    let review = Review { number: 1, closed: now, entries: 1, sample };
    let incident = Incident {
        number: 1,
        project: "brain".parse().unwrap(),
        by: "frida".parse().unwrap(),
        at: now,
        reason: "a case".to_owned(),
        aware: now,
        notified: None,
        closed: None,
        said: None,
    };
    let image = Image {
        id: "a".repeat(64),
        version: "1".to_owned(),
        recipe: "ab".to_owned(),
        manifest: String::new(),
        signer: "builder".to_owned(),
        added_by: "otto".parse().unwrap(),
        added: now,
        promoted: None,
    };
    let records = [Record::Review(review), Record::Incident(incident), Record::Image(Box::new(image))];
    let changes = records.map(Change::Put).to_vec();
    let call = Call::own("test", String::new());
    world.app.ledger.commit(&call, |_, _| Ok(Decided::new(changes, ()))).unwrap();
}

async fn table(world: &World) -> String {
    let mut table = String::from(
        "+ done   ! may, but not in this state   - refused   . not found   number: how many are in the list\n\n",
    );
    for (i, (_, what)) in ACTORS.iter().enumerate() {
        writeln!(table, "{:width$}┌ {what}", "", width = 40 + 2 * i).unwrap();
    }
    for name in CALLS {
        let mut row = Vec::new();
        for (who, _) in ACTORS {
            row.push(match call(world, who, name).await {
                Ok(None) => "+".to_owned(),
                Ok(Some(n)) => n.to_string(),
                Err(status) => match status.code() {
                    Code::PermissionDenied => "-".to_owned(),
                    Code::NotFound => ".".to_owned(),
                    Code::FailedPrecondition => "!".to_owned(),
                    code => panic!("{who} {name}: {code:?} {status}"),
                },
            });
        }
        writeln!(table, "{name:<40}{}", row.join(" ")).unwrap();
    }
    table
}

async fn lock(world: &World, subject: &str) {
    let (subject, reason) = (subject.to_owned(), "a case".to_owned());
    world.locks("frida").set_lock(v1::SetLockRequest { subject, reason, dry_run: false }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_what() {
    let (world, _agent) = world().await;
    insta::assert_snapshot!("matrix", table(&world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gets_what_while_both_projects_are_locked() {
    let (world, _agent) = world().await;
    lock(&world, "project/heart").await;
    lock(&world, "project/brain").await;
    insta::assert_snapshot!("matrix_locked", table(&world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_locked_gets_nothing_and_each_try_is_an_entry() {
    let (world, _agent) = world().await;
    for (who, what) in ACTORS.iter().filter(|(who, _)| !who.starts_with("no") && *who != "dgx") {
        // It takes an officer to lock, and hosts are no persons.
        if ["frida", "other"].contains(who) {
            continue;
        }
        lock(&world, &format!("person/{who}")).await;
        for name in CALLS {
            let refused = call(&world, who, name).await.expect_err(what);
            assert_eq!(refused.code(), Code::PermissionDenied, "{who} {name}: {refused}");
            assert!(refused.message().contains(&format!("`person/{who}` is locked")), "{name}: {refused}");
            assert!(refused.message().contains("ask `frida`") && !refused.message().contains("a case"));
            let id = refused.metadata().get(holm_control::api::REQUEST).unwrap().to_str().unwrap();
            let entry = world.log().into_iter().rev().find(|e| e.request == id).unwrap();
            assert_eq!((entry.actor, entry.outcome), (format!("person/{who}"), "refused".to_owned()));
        }
    }
}

#[test]
fn every_call_is_in_the_matrix() {
    let files = [
        include_str!("../../../proto/proto/holm/v1/person.proto"),
        include_str!("../../../proto/proto/holm/v1/project.proto"),
        include_str!("../../../proto/proto/holm/v1/slice.proto"),
        include_str!("../../../proto/proto/holm/v1/host.proto"),
        include_str!("../../../proto/proto/holm/v1/audit.proto"),
        include_str!("../../../proto/proto/holm/v1/agent.proto"),
        include_str!("../../../proto/proto/holm/v1/keys.proto"),
        include_str!("../../../proto/proto/holm/v1/backup.proto"),
        include_str!("../../../proto/proto/holm/v1/policy.proto"),
        include_str!("../../../proto/proto/holm/v1/lock.proto"),
        include_str!("../../../proto/proto/holm/v1/review.proto"),
        include_str!("../../../proto/proto/holm/v1/incident.proto"),
        include_str!("../../../proto/proto/holm/v1/image.proto"),
    ];
    // Names of calls are unique.
    let rpc = |line: &'static str| line.trim().strip_prefix("rpc ")?.split('(').next();
    let calls: BTreeSet<&str> = files.iter().flat_map(|f| f.lines()).filter_map(rpc).collect();
    assert!(calls.len() > 20);
    let covered: BTreeSet<&str> =
        CALLS.iter().filter_map(|c| c.split('/').nth(1)?.split(' ').next()).collect();
    // It asks for no certificate; `enrolment` has its tests.
    let uncovered: Vec<&&str> = calls.difference(&covered).filter(|c| **c != "Enrol").collect();
    assert_eq!(uncovered, Vec::<&&str>::new());
    assert_eq!(covered.difference(&calls).count(), 0);
}
