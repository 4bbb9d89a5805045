//! What a decision about a place costs, and what a year of them comes to. The times are of this machine; the
//! year is made up as `placement::simulate` says, and is the same on every machine.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark that cannot be set up has nothing to say"
)]

use criterion::{BatchSize, Criterion};
use holm_control::placement::queue::{Rules, Shares, Wish, plan};
use holm_control::placement::simulate::{self, Outcome, Policy, of};
use holm_control::placement::{Capacity, Gpu, GpuState, Host, Node, PartitionTable, Shapes, search};
use holm_proto::ids::SliceId;
use jiff::{SignedDuration, Timestamp};
use newtype_uuid::GenericUuid;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const YEARS: u64 = 50;

/// As they are where a site says nothing (`config::Placement`).
fn rules() -> Rules {
    Rules {
        half_life: SignedDuration::from_hours(14 * 24),
        patience: SignedDuration::from_hours(21 * 24),
        turn: SignedDuration::from_hours(14 * 24),
        reserve: SignedDuration::from_hours(24),
    }
}

/// A DGX-2 that states its cores, with these GPUs taken.
fn host(number: usize, taken: &[u32]) -> Host {
    let state = |id| if taken.contains(&id) { GpuState::Taken } else { GpuState::Free };
    let gpu = |id| Gpu { physical_id: id, node: u32::from(id > 8), state: state(id) };
    let node = |id: u32| Node {
        id,
        cores: (0..24).map(|core| vec![id * 24 + core, 48 + id * 24 + core]).collect(),
        memory_mib: 786_432,
    };
    let capacity = Capacity {
        nodes: vec![node(0), node(1)],
        memory_mib: Some(1_572_864),
        disk_gib: Some(27_000),
        housekeeping: 1,
    };
    let shapes = Arc::new(Shapes::of(PartitionTable::dgx2()));
    Host::new(format!("dgx-{number}").parse().unwrap(), shapes, (1..=16).map(gpu).collect(), &capacity)
}

fn wishes(n: u128) -> Vec<Wish> {
    let wish = |at: u128| Wish {
        id: SliceId::from_untyped_uuid(uuid::Uuid::from_u128(at)),
        department: format!("department {}", at % 5),
        request: of([1, 2, 4, 8, 16][at as usize % 5]),
        asked: Timestamp::from_second(at as i64).unwrap(),
        since: Timestamp::from_second(at as i64).unwrap(),
        from: None,
        until: None,
        home: None,
    };
    (0..n).map(wish).collect()
}

fn times(c: &mut Criterion) {
    // An empty host has most partitions to look at.
    let one = [host(0, &[])];
    c.bench_function("placement: one request, one host, the worst size", |b| {
        b.iter(|| search(black_box(&one), black_box(&of(1))).unwrap());
    });
    let many: Vec<Host> = (0..1000).map(|n| host(n, &[1, 4, 9][..n % 4])).collect();
    c.bench_function("placement: one request, 1,000 hosts, the worst size", |b| {
        b.iter(|| search(black_box(&many), black_box(&of(1))).unwrap());
    });
    let now = Timestamp::from_second(1_000).unwrap();
    let (round, rules) = (wishes(20), rules());
    c.bench_function("placement: a whole round of 20 requests, one host", |b| {
        let hosts = || one.to_vec();
        b.iter_batched(hosts, |h| plan(h, &round, Shares::default(), &rules, now), BatchSize::SmallInput);
    });
    // All of it is over-patient and nothing fits, so something is held.
    let full: Vec<Host> = (0..1000).map(|n| host(n, &(1..=16).collect::<Vec<_>>())).collect();
    let late = Timestamp::from_second(100 * 24 * 3600).unwrap();
    c.bench_function("placement: one request that waits and is held for, 1,000 full hosts", |b| {
        let (hosts, one) = (|| full.clone(), wishes(1));
        b.iter_batched(hosts, |h| plan(h, &one, Shares::default(), &rules, late), BatchSize::LargeInput);
    });
}

fn table(hosts: u32, load: f64) {
    println!(
        "\n{hosts} host{}, {:.0} % of what {} could give is wanted; mean of {YEARS} seeded years",
        if hosts == 1 { "" } else { "s" },
        load * 100.0,
        if hosts == 1 { "it" } else { "they" },
    );
    println!(
        "{:<34}{:>9}{:>9}{:>9}{:>11}{:>11}{:>9}{:>12}{:>11}",
        "", "accepted", "work", "worst", "mean wait", "95 % wait", "GPUs", "fragmented", "years with"
    );
    println!(
        "{:<34}{:>9}{:>9}{:>9}{:>11}{:>11}{:>9}{:>12}{:>11}",
        "", "", "accepted", "dept.", "h", "h", "used", "", "less work"
    );
    let years: Vec<_> = (0..YEARS).map(|seed| simulate::year(seed, hosts, load)).collect();
    let run = |policy| -> Vec<Outcome> {
        years.iter().map(|year| simulate::replay(year, hosts, policy, &rules())).collect()
    };
    let first_fit = run(Policy::FirstFit);
    for policy in Policy::ALL {
        let outcomes = run(policy);
        let worse = outcomes.iter().zip(&first_fit).filter(|(a, b)| a.work < b.work).count();
        let mean = Outcome::mean(&outcomes);
        println!(
            "{:<34}{:>7.1} %{:>7.1} %{:>7.1} %{:>11.0}{:>11.0}{:>7.1} %{:>10.1} %{:>11}",
            policy.text(),
            mean.accepted() * 100.0,
            mean.work * 100.0,
            mean.worst * 100.0,
            mean.mean_wait,
            mean.wait_95,
            mean.used * 100.0,
            mean.fragmented * 100.0,
            worse,
        );
    }
    let bound: f64 = years.iter().map(|year| simulate::bound(year, hosts) / year.len() as f64).sum();
    println!(
        "{:<34}{:>7.1} %   (clairvoyant: no policy can place more)",
        "bound by GPU-hours",
        bound / YEARS as f64 * 100.0
    );
}

fn main() {
    let brief = Criterion::default().sample_size(30).warm_up_time(Duration::from_secs(1));
    let mut criterion = brief.measurement_time(Duration::from_secs(2)).configure_from_args();
    times(&mut criterion);
    criterion.final_summary();
    for (hosts, load) in [(1, 0.7), (1, 1.0), (1, 1.3), (4, 1.0)] {
        table(hosts, load);
    }
    println!(
        "\nwork: GPU-hours of what was placed, of those asked for; less work: than first fit did, of {YEARS} years"
    );
    println!("(*) a relaxation that no machine can do, as a yardstick for what partitions cost");
}
