//! Durable appends: 64 callers who each wait until theirs is durable, and `fio` on the same disk, which writes as many bytes
//! at once and waits for each write.
//!
//! Only a quiet machine says anything: `fio` sleeps after each write, and on a busy one waits for the processor each time it
//! wakes, while of 64 callers one is always running. With four builds beside it `fio` made 299 writes a second where the
//! disk takes 4400 (`chrt -f 10 fio`), and the ledger looked three times as fast as the disk that it writes to.

use holm_control::audit::{Log, SigningKey};
use holm_control::domain::records::{Change, Person, Record};
use holm_control::ledger::{Call, Decided, Ledger};
use holm_control::store::SledStore;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ORIGIN: &str = "holm.example/log";
const CALLERS: u32 = 64;
const READERS: usize = 2;
/// Each in turn in every round, so that what else the machine does meets all of them.
const ROUNDS: usize = 5;
const LASTS: Duration = Duration::from_secs(4);

/// What was found in a round.
struct Found {
    entries: u64,
    bytes: u64,
    batches: u64,
    seconds: f64,
}

pub fn run() {
    // Of the disk that builds go to, not of one in memory.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ways = [("over a file that is there", true), ("to the end of one that grows", false)];
    let (mut ledger, mut fio_found) = (Vec::new(), [Vec::new(), Vec::new()]);
    let (mut per_batch, mut others) = (0, 0);
    for round in 0..ROUNDS {
        let dir = scratch.path().join(round.to_string());
        std::fs::create_dir(&dir).unwrap();
        others = others.max(running().saturating_sub(1));
        let found = commits(&dir, 0);
        per_batch = found.bytes / found.batches;
        for (of, (_, overwrite)) in fio_found.iter_mut().zip(ways) {
            of.extend(fio(&dir, per_batch, overwrite));
        }
        std::fs::remove_dir_all(&dir).unwrap();
        ledger.push(found);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let of = |each: fn(&Found) -> f64| median(ledger.iter().map(each).collect());
    println!(
        "{CALLERS} callers, {ROUNDS} rounds of {} s: {:.0} entries/s of {:.0} bytes, {:.1} in a batch\n",
        LASTS.as_secs(),
        of(|found| found.entries as f64 / found.seconds),
        of(|found| found.bytes as f64 / found.entries as f64),
        of(|found| found.entries as f64 / found.batches as f64),
    );
    println!("{:<52} {:>9} {:>9} {:>7}  wanted", "durable writes, medians", "writes/s", "MB/s", "ratio");
    let row = |what: &str, writes: f64, rate: f64, ratio: &str, wanted: &str| {
        let line = format!("{what:<52} {writes:>9.0} {:>9.1} {ratio:>7}  {wanted}", rate / 1e6);
        println!("{}", line.trim_end());
    };
    let rate = |found: &Found| found.bytes as f64 / found.seconds;
    row("the ledger, all the callers", of(|found| found.batches as f64 / found.seconds), of(rate), "", "");
    for (found, (way, _)) in fio_found.iter().zip(ways) {
        let what = format!("fio: {per_batch} bytes at once, {way}");
        if found.len() < ROUNDS {
            println!("{what}: there is no fio (deploy/packages bench)");
            continue;
        }
        let ratio = median(ledger.iter().zip(found).map(|(one, (_, bytes))| rate(one) / bytes).collect());
        let (writes, bytes) =
            (found.iter().map(|(writes, _)| *writes), found.iter().map(|(_, bytes)| *bytes));
        row(&what, median(writes.collect()), median(bytes.collect()), &format!("{ratio:.2}"), "0.5 at least");
    }
    let dir = scratch.path().join("read");
    std::fs::create_dir(&dir).unwrap();
    let beside = commits(&dir, READERS);
    println!(
        "\nbeside {READERS} who read all of the log, again and again: {:.0} entries/s",
        beside.entries as f64 / beside.seconds
    );
    if others > 0 {
        println!("\nTHE RATIOS SAY NOTHING: {others} other programs were running; run it on a quiet machine");
    }
}

/// Programs that run or wait for a processor, this one among them.
fn running() -> u64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let running = load.split(' ').nth(3).and_then(|field| field.split('/').next());
    running.unwrap().parse().unwrap()
}

/// Each caller changes a person of her own, again and again; so many read the log meanwhile, from its beginning to its end.
fn commits(dir: &Path, readers: usize) -> Found {
    let key = SigningKey::create(&dir.join("key")).unwrap();
    let log = Log::create(&dir.join("log"), ORIGIN, key).unwrap();
    let store = SledStore::open(&dir.join("store")).unwrap();
    let ledger = Ledger::open(Box::new(store), log, Timestamp::now).unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..readers {
            scope.spawn(|| {
                while started.elapsed() < LASTS {
                    let size = ledger.size();
                    for start in (0..size).step_by(4096).take_while(|_| started.elapsed() < LASTS) {
                        ledger.entries(start, size.min(start + 4096)).unwrap();
                    }
                }
            });
        }
        for n in 0..CALLERS {
            let ledger = &ledger;
            scope.spawn(move || {
                let person = person(n);
                let mut call = Call::own("person.invite", format!("person/{}", person.name));
                call.actor = "person/ada".to_owned();
                call.peer = "192.0.2.7:50412".to_owned();
                while started.elapsed() < LASTS {
                    let changes = vec![Change::Put(Record::Person(person.clone()))];
                    let decide = |_: &_, _| {
                        let reasons = vec!["leads-and-operators-invite".to_owned()];
                        Ok(Decided {
                            reasons,
                            pack: Some("aau-2018/5".to_owned()),
                            ..Decided::new(changes, ())
                        })
                    };
                    ledger.commit(&call, decide).unwrap();
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let entries = ledger.size();
    // The first ones are like all the others.
    let sample = ledger.entries(0, entries.min(10_000)).unwrap();
    let mean = sample.iter().map(|body| body.len() as u64).sum::<u64>() / sample.len() as u64;
    Found { entries, bytes: entries * mean, batches: ledger.batches(), seconds }
}

fn person(n: u32) -> Person {
    Person {
        name: format!("p{n}").parse().unwrap(),
        roles: vec!["researcher".to_owned()],
        uid: 20_001 + n,
        created: Timestamp::now(),
        enrolled: true,
        certificate: "0".repeat(64),
        renewed: String::new(),
        revoked: None,
        void: None,
        account: None,
        login: None,
    }
}

/// Writes and bytes in a second.
fn fio(dir: &Path, bytes: u64, overwrite: bool) -> Option<(f64, f64)> {
    let file: PathBuf = dir.join("fio");
    let mut fio = Command::new("fio");
    fio.args(["--name=append", "--rw=write", "--ioengine=psync", "--fdatasync=1", "--output-format=terse"]);
    fio.arg(format!("--bs={bytes}")).arg(format!("--filename={}", file.display()));
    // One that grows is written once, from its beginning to its end.
    match overwrite {
        true => fio.args(["--overwrite=1", "--size=64M", "--time_based", "--runtime=4"]),
        false => fio.args(["--fallocate=none", "--size=1G", "--runtime=4"]),
    };
    let said = fio.output().ok()?;
    let _ = std::fs::remove_file(&file);
    let said = String::from_utf8(said.stdout).unwrap();
    // Version 3 of the format: bandwidth of writes in KiB/s, then writes a second.
    let mut numbers = said.split(';').skip(47).map(|field| field.parse::<f64>().unwrap());
    let (kib, writes) = (numbers.next().unwrap(), numbers.next().unwrap());
    Some((writes, kib * 1024.0))
}
