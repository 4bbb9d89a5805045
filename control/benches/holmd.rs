//! What a call to holmd costs, part by part: placement, a decision of the pack, a durable commit, verifying
//! the log. Numbers are for comparing two versions on one machine; nothing passes or fails by them.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark that cannot be set up has nothing to say")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use holm_control::audit::{Log, SigningKey, verify};
use holm_control::ledger::{Call, Decided, Ledger};
use holm_control::placement::{PartitionTable, choose};
use holm_control::store::SledStore;
use holm_policies::{Action, Identity, Pack, Principal, Request, Resource};
use holm_proto::ids::Name;
use std::collections::BTreeSet;
use std::hint::black_box;

const ORIGIN: &str = "holm.example/log";

fn placement(c: &mut Criterion) {
    let table = PartitionTable::dgx2();
    let busy: BTreeSet<u32> = [1, 4, 9].into();
    c.bench_function("placement: one decision on a host in use", |b| {
        b.iter(|| choose(&table, black_box(&busy), black_box(4)));
    });
}

fn decision(c: &mut Criterion) {
    let pack = Pack::builtin("aau-2018").unwrap();
    let name = |text: &str| text.parse::<Name>().unwrap();
    let request = Request {
        principal: Principal {
            identity: Identity::Person { name: name("frida"), roles: vec!["officer".to_owned()] },
            known: true,
        },
        action: Action::SliceApprove,
        resource: Resource::Slice {
            project: name("heart-study"),
            name: name("main"),
            level: "3".to_owned(),
            lead: name("ada"),
            members: (0..50).map(|n| name(&format!("researcher-{n}"))).collect(),
            readers: Vec::new(),
            requested_by: name("ada"),
            approved_by: vec![name("gustav")],
            held_by: Vec::new(),
            missing: Vec::new(),
            lapsed: Vec::new(),
            lease_over: false,
        },
    };
    c.bench_function("policy: may this officer approve this slice", |b| {
        b.iter(|| pack.decide(black_box(&request)));
    });
}

fn commit(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::create(&dir.path().join("key")).unwrap();
    let log = Log::create(&dir.path().join("log"), ORIGIN, key).unwrap();
    let store = SledStore::open(&dir.path().join("store")).unwrap();
    let ledger = Ledger::open(Box::new(store), log, jiff::Timestamp::now).unwrap();
    let call = Call::own("bench", "nothing".to_owned());
    c.bench_function("ledger: one entry durable in store and log", |b| {
        b.iter(|| ledger.commit(&call, |_, _| Ok(Decided::new(Vec::new(), ()))).unwrap());
    });
}

fn verifying(c: &mut Criterion) {
    const ENTRIES: u64 = 10_000;
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::create(&dir.path().join("key")).unwrap();
    let mut log = Log::create(&dir.path().join("log"), ORIGIN, key).unwrap();
    let bodies: Vec<Vec<u8>> = (0..ENTRIES)
        .map(|index| {
            format!(
                r#"{{"v":1,"index":{index},"time":"2026-11-24T12:00:00Z","request":"r","actor":"person/ada","peer":"","action":"slice.read","resource":"slice/heart-study/main","project":null,"outcome":"allowed","reasons":[],"pack":null,"detail":null,"changes":[]}}"#
            )
            .into_bytes()
        })
        .collect();
    log.append(&bodies).unwrap();
    let (note, vkey) = (log.checkpoint().to_owned(), log.vkey());
    let mut group = c.benchmark_group("log");
    group.throughput(Throughput::Elements(ENTRIES)).sample_size(10);
    group.bench_function("verify 10,000 entries against a checkpoint", |b| {
        b.iter_batched(
            || bodies.clone(),
            |bodies| verify::entries(&note, &vkey, bodies).unwrap(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, placement, decision, commit, verifying);
criterion_main!(benches);
