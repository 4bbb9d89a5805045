//! Entries whose time is over go by themselves, and what is left is still the whole log, to all who read or verify it.

use crate::world::{SOON, World, pack};
use futures::StreamExt;
use holm_control::app::Paths;
use holm_control::audit::verify::{self, Checker};
use holm_control::audit::{Entry, Log, SEGMENT, SigningKey};
use holm_control::config::Config;
use holm_control::domain::records::{Change, Policy, Record};
use holm_control::ledger::{Call, Decided, Standing, compare};
use holm_control::store::SledStore;
use holm_proto::v1;
use jiff::{SignedDuration, Timestamp};
use std::fs;
use std::time::Duration;

fn ago(days: i64) -> Timestamp {
    Timestamp::now().checked_sub(SignedDuration::from_hours(24 * days)).unwrap()
}

/// As if holmd had been set up two years ago, and much had been noted since.
fn aged(config: &Config) {
    let paths = Paths::of(&config.data);
    let key = SigningKey::load(&paths.log_key).unwrap();
    let log = Log::open(&paths.log, &config.log_origin, key.clone()).unwrap();
    let began = log.read(0, log.size()).unwrap();
    drop(log);
    fs::remove_dir_all(&paths.log).unwrap();
    fs::remove_dir_all(&paths.store).unwrap();
    let _ = fs::remove_file(paths.log.with_extension("journal"));
    let began = began.iter().map(|body| Entry::from_bytes(body).unwrap());
    let mut all: Vec<Entry> = began.map(|entry| Entry { time: ago(730), ..entry }).collect();
    let noted = Entry { project: None, level: None, changes: Vec::new(), ..all[0].clone() };
    // What came last is of these days: no clock is doubted.
    let at = |index| if index < SEGMENT { ago(730) } else { ago(2) };
    all.extend((all.len() as u64..SEGMENT + 100).map(|index| Entry {
        index,
        time: at(index),
        ..noted.clone()
    }));
    let mut log = Log::create(&paths.log, &config.log_origin, key).unwrap();
    for some in all.chunks(8192) {
        log.append(&some.iter().map(|entry| entry.to_bytes().unwrap()).collect::<Vec<_>>()).unwrap();
    }
    log.flush().unwrap();
    drop(SledStore::open(&paths.store).unwrap());
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(4 * SOON, wait).await.expect("it does not come to be so");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_past_its_days_goes_and_the_rest_is_read_searched_and_verified() {
    let rules = tempfile::tempdir().unwrap();
    let rules = pack(rules.path(), &[("# log_days = 1827", "log_days = 180")]);
    let world = World::full_of(|config| {
        config.pack = rules;
        aged(config);
    })
    .await;
    let paths = Paths::of(&world.app.config.data);
    // Not by a pack that came today.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.app.ledger.first(), 0);
    let policy = Policy { since: ago(31), ..world.app.ledger.state().policy.clone().unwrap() };
    let changes = vec![Change::Put(Record::Policy(policy))];
    let call = Call::own("test", String::new());
    world.app.ledger.commit(&call, |_, _| Ok(Decided::new(changes, ()))).unwrap();
    assert!(paths.log.join("tile/entries/000").exists());

    let world = world.restart().await;
    until(|| !paths.log.join("tile/entries/255").exists()).await;
    assert_eq!(world.app.ledger.first(), SEGMENT);
    let (size, first) = (world.app.ledger.size(), world.app.ledger.first());
    let bodies = world.app.ledger.entries(first, size).unwrap();
    let entries: Vec<Entry> = bodies.iter().map(|body| Entry::from_bytes(body).unwrap()).collect();
    let expire = entries.iter().find(|entry| entry.action == "log.expire").unwrap();
    assert_eq!((expire.actor.as_str(), &expire.detail["first"]), ("holmd", &SEGMENT.into()));
    assert_eq!((&expire.detail["days_of_no_project"], &expire.detail["before"]), (&180.into(), &0.into()));
    assert!(entries.iter().any(|entry| entry.action == "log.carry"));

    let mut audit = world.audit("frida");
    let head = audit.get_checkpoint(v1::GetCheckpointRequest {}).await.unwrap().into_inner();
    let mut checker = Checker::new(&head.note, &head.verifier_key).unwrap();
    let end = head.note.lines().nth(1).unwrap().parse().unwrap();
    let asked = v1::ListEntriesRequest { start: 0, end };
    let mut listed = audit.list_entries(asked).await.unwrap().into_inner();
    while let Some(one) = listed.next().await {
        let one = one.unwrap();
        match one.gone.is_empty() {
            true => checker.push(&one.body).unwrap(),
            false => checker.skip(one.gone.as_chunks().0).unwrap(),
        }
    }
    let verified = checker.finish().unwrap();
    assert_eq!((verified.entries, verified.gone.unwrap().entries), (end, SEGMENT));

    let search = |since: Option<Timestamp>| {
        let since = since.map(|at| prost_types::Timestamp { seconds: at.as_second(), nanos: 0 });
        let filter = Some(v1::EntryFilter { since, ..Default::default() });
        v1::SearchEntriesRequest { filter, oldest_first: true, page_size: 1, ..Default::default() }
    };
    let found = audit.search_entries(search(None)).await.unwrap().into_inner();
    assert_eq!((found.entries[0].index, found.first), (SEGMENT, SEGMENT), "that older ones are gone is said");
    let found = audit.search_entries(search(Some(ago(1)))).await.unwrap().into_inner();
    assert_eq!((found.entries.len(), found.first), (1, 0), "and where it does not matter it is not");
    assert!(!paths.index.join("000000").exists());

    // All that there was is there, also without the store.
    let (config, key) = (world.app.config.clone(), head.verifier_key);
    let dir = world.end().await;
    let verified = verify::directory(&paths.log, &key).unwrap();
    assert_eq!(verified.gone.unwrap().entries, SEGMENT);
    let log = Log::open(&paths.log, &config.log_origin, SigningKey::load(&paths.log_key).unwrap()).unwrap();
    let store = SledStore::open(&paths.store).unwrap();
    assert_eq!(compare(&store, &log).unwrap(), Standing::Same);
    drop((store, log, dir));
}
