//! Officers find what happened, and nobody else does.

use crate::world::{World, address, ready_slice};
use holm_control::audit::Entry;
use holm_proto::v1;
use tonic::Code;

async fn found(
    world: &World,
    who: &str,
    wanted: &v1::SearchEntriesRequest,
) -> Result<(Vec<Entry>, String), tonic::Status> {
    let page = world.audit(who).search_entries(wanted.clone()).await?.into_inner();
    let read = |one: &v1::LogEntry| Entry::from_bytes(&one.body).unwrap();
    Ok((page.entries.iter().map(read).collect(), page.next_page_token))
}

fn wanted(filter: v1::EntryFilter) -> v1::SearchEntriesRequest {
    v1::SearchEntriesRequest { filter: Some(filter), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_reading_all_finds() {
    let world = World::full().await;
    let (_agent, _slice) = ready_slice(&world, "heart/main", 2).await;
    let refused = world.approve("dina", "heart/main").await;
    assert!(refused.is_err());
    let all = world.log();
    let reading = |is: &dyn Fn(&Entry) -> bool| -> Vec<u64> {
        all.iter().rev().filter(|entry| is(entry)).map(|entry| entry.index).collect()
    };
    let device = format!("dgx/{}", address(1));
    let put = |entry: &Entry, at: &str| {
        entry.changes.iter().any(|change| change["of"]["kind"] == "device" && change["of"]["address"] == at)
    };
    let filter = v1::EntryFilter::default;
    let questions: [(v1::EntryFilter, Vec<u64>); 7] = [
        (
            v1::EntryFilter { actor: "person/dina".to_owned(), ..filter() },
            reading(&|e| e.actor == "person/dina"),
        ),
        (
            v1::EntryFilter { project: "heart".to_owned(), outcome: "refused".to_owned(), ..filter() },
            reading(&|e| e.project.as_deref() == Some("heart") && e.outcome == "refused"),
        ),
        (
            v1::EntryFilter { action: "slice".to_owned(), ..filter() },
            reading(&|e| e.action.starts_with("slice.")),
        ),
        (
            v1::EntryFilter { level: "2".to_owned(), ..filter() },
            reading(&|e| e.level.as_deref() == Some("2")),
        ),
        (v1::EntryFilter { device, ..filter() }, reading(&|e| put(e, &address(1)))),
        (
            v1::EntryFilter { resource: "slice/heart/main".to_owned(), ..filter() },
            reading(&|e| e.resource == "slice/heart/main"),
        ),
        (
            v1::EntryFilter { request: all[3].request.clone(), ..filter() },
            reading(&|e| e.request == all[3].request),
        ),
    ];
    for (filter, expected) in questions {
        assert!(!expected.is_empty(), "{filter:?}");
        let mut request = v1::SearchEntriesRequest { page_size: 3, ..wanted(filter.clone()) };
        let mut indices = Vec::new();
        loop {
            // What is asked meanwhile moves no page.
            let (page, next) = found(&world, "frida", &request).await.unwrap();
            assert!(page.len() <= 3);
            indices.extend(page.iter().map(|entry| entry.index));
            if next.is_empty() {
                break;
            }
            request.page_token = next;
        }
        let since: Vec<u64> = indices.iter().copied().filter(|index| *index < all.len() as u64).collect();
        assert_eq!(since, expected, "{filter:?}");
    }
    // Reading is an entry, and says what was looked for.
    let asked = wanted(v1::EntryFilter { text: "Heart MAIN".to_owned(), ..filter() });
    let (page, _) = found(&world, "frida", &asked).await.unwrap();
    assert!(page.iter().any(|entry| entry.resource == "slice/heart/main"));
    let entry = world.log().pop().unwrap();
    assert_eq!((entry.actor.as_str(), entry.action.as_str()), ("person/frida", "audit.read"));
    assert_eq!(entry.detail["filter"]["text"], "Heart MAIN");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_searched_by_officers_and_auditors_alone() {
    let world = World::full().await;
    for who in ["dina", "rosa", "olga"] {
        let no = found(&world, who, &v1::SearchEntriesRequest::default()).await.unwrap_err();
        assert_eq!(no.code(), Code::PermissionDenied, "{who}");
        let no = world.audit(who).follow_entries(v1::EntryFilter::default()).await.unwrap_err();
        assert_eq!(no.code(), Code::PermissionDenied, "{who}");
        let entry = world.log().pop().unwrap();
        assert_eq!((entry.actor, entry.outcome.as_str()), (format!("person/{who}"), "refused"));
    }
    assert!(found(&world, "anna", &v1::SearchEntriesRequest::default()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_in_its_words() {
    let world = World::full().await;
    let filter = v1::EntryFilter::default;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let bad = [
        (wanted(v1::EntryFilter { outcome: "maybe".to_owned(), ..filter() }), "is no outcome"),
        (wanted(v1::EntryFilter { text: "…".to_owned(), ..filter() }), "no word"),
        (wanted(v1::EntryFilter { project: "x".repeat(5000), ..filter() }), "too long"),
        (wanted(v1::EntryFilter { since: at(i64::MAX), ..filter() }), "no time"),
        (wanted(v1::EntryFilter { since: at(5), until: at(4), ..filter() }), "nothing is from"),
        (v1::SearchEntriesRequest { page_token: "🦀-1".to_owned(), ..Default::default() }, "page token"),
        (v1::SearchEntriesRequest { page_token: "7".to_owned(), ..Default::default() }, "page token"),
    ];
    for (request, words) in bad {
        let no = found(&world, "frida", &request).await.unwrap_err();
        assert_eq!(no.code(), Code::InvalidArgument);
        assert!(no.message().contains(words), "{}", no.message());
    }
    // Numbers that no page had, and a page larger than any is.
    let token = format!("{}-{}", u64::MAX, u64::MAX);
    let large = v1::SearchEntriesRequest { page_token: token, page_size: u32::MAX, ..Default::default() };
    let (page, _) = found(&world, "frida", &large).await.unwrap();
    assert!(!page.is_empty() && page.len() <= 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_gets_what_comes_and_nothing_more_once_she_may_not() {
    let world = World::full().await;
    let refused = v1::EntryFilter { outcome: "refused".to_owned(), ..Default::default() };
    let mut stream = world.audit("frida").follow_entries(refused).await.unwrap().into_inner();
    let size = world.app.ledger.size();
    world.get("frida", "heart/main").await.unwrap_err();
    world.project("dina", "other", "3").await.unwrap();
    world.approve("dina", "heart/none").await.unwrap_err();
    for action in ["slice.read", "slice.approve"] {
        let one = stream.message().await.unwrap().unwrap();
        assert!(one.index >= size);
        assert_eq!(Entry::from_bytes(&one.body).unwrap().action, action);
    }
    let lock =
        v1::SetLockRequest { subject: "person/frida".to_owned(), reason: "x".to_owned(), dry_run: false };
    world.locks("gustav").set_lock(lock).await.unwrap();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(no) => break no,
        }
    };
    assert_eq!(ended.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_deleted_is_made_anew_with_the_same_answers() {
    let world = World::full().await;
    let request = wanted(v1::EntryFilter { project: "heart".to_owned(), ..Default::default() });
    let (before, _) = found(&world, "frida", &request).await.unwrap();
    assert!(!before.is_empty());
    let index = world.app.config.data.join("index");
    let world = world.restart_with(|_| std::fs::remove_dir_all(&index).unwrap()).await;
    let (after, _) = found(&world, "frida", &request).await.unwrap();
    assert_eq!(before, after);
}

/// Alarms are entries, of whom they are about; who tries door after door is one.
#[tokio::test(flavor = "multi_thread")]
async fn officers_hear_of_who_tries_door_after_door() {
    let world = World::full_of(|config| config.watch = None).await;
    for _ in 0..10 {
        world.get("rune", "heart/main").await.unwrap_err();
    }
    let alarm =
        world.logged(|e| e.action == "observe.alarm" && e.resource == "alarm/repeated-refusals").await;
    assert_eq!((&alarm.detail["actor"], &alarm.detail["count"]), (&"person/rune".into(), &10.into()));
    let cause = alarm.detail["entry"].as_u64().unwrap();
    assert_eq!(world.log()[cause as usize].outcome, "refused");
    // A restart says nothing twice, and forgets nothing that it counted.
    for _ in 0..9 {
        world.get("lars", "heart/main").await.unwrap_err();
    }
    let world = world.restart().await;
    world.get("lars", "heart/main").await.unwrap_err();
    let again = world.logged(|e| e.action == "observe.alarm" && e.detail["actor"] == "person/lars").await;
    assert_eq!(again.detail["count"], 10);
    let of = |who: &str| {
        let alarms = world.log().into_iter().filter(|e| e.resource == "alarm/repeated-refusals");
        alarms.filter(|e| e.detail["actor"] == who).count()
    };
    assert_eq!((of("person/rune"), of("person/lars")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_officer_who_looks_herself_up_is_an_alarm() {
    let world = World::full_of(|config| config.watch = None).await;
    let own = v1::EntryFilter { actor: "person/frida".to_owned(), ..Default::default() };
    found(&world, "frida", &wanted(own)).await.unwrap();
    let alarm = world.logged(|e| e.resource == "alarm/reads-about-herself").await;
    assert_eq!(alarm.detail["actor"], "person/frida");
}
