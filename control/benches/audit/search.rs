//! Finding in a log of 10 million entries (`HOLM_BENCH_ENTRIES`: fewer): how long its index takes to be made, and to be taken
//! in again, and the first page of what officers ask for: often, seldom and never in it.

use crate::verify::{self, ENTRIES, ORIGIN};
use holm_control::audit::{Log, SigningKey};
use holm_control::search::{Index, Query};
use jiff::Timestamp;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// As many as `holm audit log` shows at first.
const PAGE: usize = 100;
const TIMES: usize = 9;
const WANTED: Duration = Duration::from_millis(100);

pub fn run() {
    let entries = std::env::var("HOLM_BENCH_ENTRIES").map_or(ENTRIES, |n| n.parse().unwrap());
    // Gigabytes: not where there may be only memory.
    let place = Path::new(&std::env::var("HOME").unwrap()).join(".cache/holm/bench-audit");
    fs::create_dir_all(&place).unwrap();
    let scratch = tempfile::tempdir_in(&place).unwrap();
    let (dir, beside) = (scratch.path().join("log"), scratch.path().join("index"));
    let key = SigningKey::create(&scratch.path().join("key")).unwrap();
    println!("writing a log of {entries} entries");
    let bytes = verify::write(&dir, entries, &key);
    let log = Log::open(&dir, ORIGIN, key).unwrap();
    let followed = |what: &str| {
        fs::write("/proc/self/clear_refs", "5").unwrap();
        let started = Instant::now();
        let index = Index::open(&beside).unwrap();
        while !index.follow(&*log).unwrap() {}
        let took = started.elapsed().as_secs_f64();
        println!(
            "the index {what}: {took:.1} s, {:.0} entries/s, peak {:.0} MiB",
            entries as f64 / took,
            peak()
        );
        index
    };
    drop(followed("made from the log"));
    let index = followed("taken in again");
    let on_disk: u64 =
        fs::read_dir(&beside).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    println!("of {:.2} GB of entries it is {:.2} GB\n", bytes as f64 / 1e9, on_disk as f64 / 1e9);

    println!("{:<58} {:>5} {:>9} {:>9} {:>9}", "first page, of 100", "found", "first ms", "p50 ms", "max ms");
    fs::write("/proc/self/clear_refs", "5").unwrap();
    for (what, query) in asked(entries) {
        let mut took = Vec::new();
        let mut found = 0;
        for _ in 0..TIMES {
            let started = Instant::now();
            found = index.search(&*log, &query, entries, PAGE).unwrap().found.len();
            took.push(started.elapsed());
        }
        let first = took.first().copied().unwrap();
        took.sort();
        let (p50, max) = (took[TIMES / 2], took[TIMES - 1]);
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        let over = if max > WANTED { "  OVER" } else { "" };
        println!("{what:<58} {found:>5} {:>9.1} {:>9.1} {:>9.1}{over}", ms(first), ms(p50), ms(max));
    }
    println!("wanted: {} ms; peak {:.0} MiB; the log was written just before", WANTED.as_millis(), peak());
}

fn peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

fn asked(entries: u64) -> Vec<(&'static str, Query)> {
    let ask = Query::default;
    let time = |at: u64| Some(Timestamp::from_second(1_790_000_000 + i64::try_from(at).unwrap()).unwrap());
    // In the middle, a minute of it: of entries that are a second apart.
    let (from, until) = (time(entries / 2), time(entries / 2 + 60));
    let mut oldest = ask().actor("person/frida").unwrap();
    oldest.oldest_first = true;
    vec![
        ("nothing: the newest", ask()),
        ("a person, in every third", ask().actor("person/frida").unwrap()),
        ("the same, the oldest first", oldest),
        ("a person, in one of 15,009", ask().actor("person/p17").unwrap()),
        ("a person, never", ask().actor("person/nobody").unwrap()),
        ("a project", ask().project("study-17").unwrap()),
        ("a project, never", ask().project("none").unwrap()),
        ("a level", ask().level("3").unwrap()),
        ("a level, never", ask().level("4").unwrap()),
        ("a device", ask().device("dgx2-3/0000:34:00.0").unwrap()),
        ("a device, never", ask().device("dgx2-3/0001:34:00.0").unwrap()),
        ("an action", ask().action("slice.approve").unwrap()),
        ("actions of a kind", ask().action("slice").unwrap()),
        ("an action, never", ask().action("slice.destroy").unwrap()),
        ("an outcome", ask().outcome("refused").unwrap()),
        ("a minute", ask().between(from, until).unwrap()),
        ("before all", ask().between(None, time(0)).unwrap()),
        (
            "from the middle on, what is never",
            ask().action("host.revoke").unwrap().between(from, None).unwrap(),
        ),
        ("words, often", ask().text("read what was filed").unwrap()),
        ("a word, once", ask().text(&format!("0324{:012}", entries / 6 * 3 + 2)).unwrap()),
        ("a word, never", ask().text("zebra").unwrap()),
        ("a call, once", ask().request(&request(entries / 3)).unwrap()),
        (
            "a person, a level and an outcome",
            ask().actor("person/p17").unwrap().level("2").unwrap().outcome("refused").unwrap(),
        ),
        (
            "two that are often, and never together",
            ask().actor("person/frida").unwrap().outcome("refused").unwrap(),
        ),
        ("words that are often, and never together", ask().text("DPIA agreement").unwrap()),
    ]
}

fn request(index: u64) -> String {
    let entry: serde_json::Value = serde_json::from_str(&verify::entry(index)).unwrap();
    entry["request"].as_str().unwrap().to_owned()
}
