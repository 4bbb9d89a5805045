//! Incidents: who opens, notes and closes them, what that freezes, that the clock is told, and the archive.

use crate::world::{World, ready_slice};
use holm_control::bundle;
use holm_control::domain::records::{Change, Record};
use holm_control::ledger::{Call, Decided};
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
use tonic::{Code, Status};

async fn open(world: &World, who: &str, hours_ago: i64) -> Result<v1::Incident, Status> {
    let aware = Timestamp::now().checked_sub(SignedDuration::from_hours(hours_ago)).unwrap();
    let request = v1::OpenIncidentRequest {
        project: "heart".to_owned(),
        reason: "a stick was lost".to_owned(),
        aware: Some(prost_types::Timestamp { seconds: aware.as_second(), nanos: 0 }),
        dry_run: false,
    };
    Ok(world.incidents(who).open_incident(request).await?.into_inner())
}

async fn note(world: &World, who: &str, reason: &str) -> Result<v1::Incident, Status> {
    let (reference, reason) = ("2026-7".to_owned(), reason.to_owned());
    let request = v1::NoteNotificationRequest { number: 1, reference, reason, dry_run: false };
    Ok(world.incidents(who).note_notification(request).await?.into_inner())
}

async fn close(world: &World, who: &str, reason: &str) -> Result<v1::Incident, Status> {
    let request = v1::CloseIncidentRequest { number: 1, reason: reason.to_owned(), dry_run: false };
    Ok(world.incidents(who).close_incident(request).await?.into_inner())
}

fn refused(world: &World, who: &str, action: &str, no: &Status) {
    assert!([Code::PermissionDenied, Code::NotFound].contains(&no.code()), "{who}: {no}");
    let entry = world.log().pop().unwrap();
    assert_eq!((entry.action.as_str(), entry.outcome.as_str()), (action, "refused"), "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_opens_one_which_freezes_its_project_and_it_ends_for_a_reason() {
    let world = World::full().await;
    let others = ["dina", "rosa", "olga", "anna", "lars", "dgx"];
    for who in others {
        refused(&world, who, "incident.open", &open(&world, who, 1).await.unwrap_err());
    }
    let opened = open(&world, "frida", 1).await.unwrap();
    assert_eq!((opened.number, opened.project.as_str(), opened.overdue), (1, "heart", false));
    let entry = world.log().pop().unwrap();
    assert_eq!((entry.project.as_deref(), entry.changes.len()), (Some("heart"), 3), "{entry:?}");
    // Frozen: her project is locked, and on hold.
    let no = world.request("dina", "heart/main", 1).await.unwrap_err();
    assert!(no.message().contains("`project/heart` is locked"), "{no}");
    let state = world.app.ledger.state();
    assert!(state.project(&"heart".parse().unwrap()).unwrap().hold.is_some());

    for who in others {
        refused(&world, who, "incident.notify", &note(&world, who, "").await.unwrap_err());
        refused(&world, who, "incident.close", &close(&world, who, "x").await.unwrap_err());
    }
    assert_eq!(open(&world, "gustav", 1).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(close(&world, "gustav", " ").await.unwrap_err().code(), Code::InvalidArgument);
    let told = note(&world, "gustav", "").await.unwrap();
    assert_eq!((told.reference.as_str(), told.notified_by.as_str()), ("2026-7", "gustav"));
    let world = world.restart().await;
    let closed = close(&world, "frida", "it was found").await.unwrap();
    assert_eq!((closed.closed_because.as_str(), closed.reference.as_str()), ("it was found", "2026-7"));
    // Lock and hold are lifted as any are.
    assert!(world.request("dina", "heart/main", 1).await.is_err());
    for who in ["frida", "anna"] {
        let all =
            world.incidents(who).list_incidents(v1::ListIncidentsRequest {}).await.unwrap().into_inner();
        assert_eq!(all.incidents.len(), 1);
    }
    let no = world.incidents("olga").list_incidents(v1::ListIncidentsRequest {}).await.unwrap_err();
    refused(&world, "olga", "audit.read", &no);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_the_72_hours_is_an_entry_and_that_they_are_over() {
    let world = World::full().await;
    open(&world, "frida", 50).await.unwrap();
    let left = world.logged(|e| e.action == "observe.incident").await;
    assert_eq!((&left.detail["hours_left"], left.project.as_deref()), (&24.into(), Some("heart")));
    let mut late = world.app.ledger.state().incidents[&1].clone();
    late.aware = Timestamp::now().checked_sub(SignedDuration::from_hours(73)).unwrap();
    let call = Call::own("test", String::new());
    let changes = vec![Change::Put(Record::Incident(late))];
    world.app.ledger.commit(&call, |_, _| Ok(Decided::new(changes, ()))).unwrap();
    let over = world.logged(|e| e.action == "observe.incident" && e.detail["hours_left"] == 0).await;
    assert!(over.index > left.index);
    // What comes late needs a reason.
    let no = note(&world, "gustav", "").await.unwrap_err();
    assert_eq!(no.code(), Code::InvalidArgument);
    assert!(note(&world, "gustav", "nobody was there").await.is_ok());
    let said = world.log().iter().filter(|e| e.action == "observe.incident").count();
    assert_eq!(said, 2);
}

async fn export(world: &World, who: &str, size: u64) -> Result<Vec<u8>, Status> {
    let request = v1::ExportIncidentRequest { number: 1, size };
    let mut stream = world.incidents(who).export_incident(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(chunk) = stream.message().await? {
        all.extend(chunk.data);
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_has_every_entry_of_its_project_and_none_of_another() {
    let world = World::full().await;
    let (_agent, _) = ready_slice(&world, "heart/main", 2).await;
    open(&world, "frida", 1).await.unwrap();
    for who in ["dina", "rosa", "olga", "lars", "dgx"] {
        refused(&world, who, "audit.read", &export(&world, who, 0).await.unwrap_err());
    }
    let size = world.app.ledger.size();
    assert_eq!(export(&world, "anna", size + 99).await.unwrap_err().code(), Code::InvalidArgument);
    let first = export(&world, "anna", size).await.unwrap();
    let read = world.logged(|e| e.action == "audit.read" && e.detail["read"] == "incident").await;
    assert_eq!((read.actor.as_str(), &read.detail["size"]), ("person/anna", &size.into()));
    assert_eq!(first, export(&world, "frida", size).await.unwrap(), "the same log, the same archive");
    let key = world.app.log_key.vkey(&world.app.config.log_origin);
    let verified = bundle::verify(first.as_slice(), &key).unwrap();
    assert_eq!((verified.of.project.as_str(), verified.of.size), ("heart", size));
    let log = world.log();
    let own = log[..size as usize].iter().filter(|e| e.project.as_deref() == Some("heart")).count() as u64;
    // And those that are of no project, and give its slice a device or a key.
    assert!(verified.entries > own, "{} of {own}", verified.entries);
    let text = String::from_utf8_lossy(&first);
    assert!(text.contains("\"key.make\"") && text.contains("incident.open"));
    assert!(!text.contains("\"project\":\"brain\""));
}
