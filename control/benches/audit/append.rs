//! Durable appends: 64 callers who each wait until theirs is durable, as calls of people do (tasks) and as holmd's own duties do
//! (threads), and `fio` on the same disk, which writes as many bytes at once and waits for each write.
//!
//! Only a quiet machine says anything: `fio` sleeps after each write, and on a busy one waits for the processor each time it
//! wakes, while of 64 callers one is always running. With four builds beside it `fio` made 299 writes a second where the
//! disk takes 4400 (`chrt -f 10 fio`), and the ledger looked three times as fast as the disk that it writes to.

use holm_control::audit::{Log, SigningKey};
use holm_control::domain::records::{Change, Person, Record};
use holm_control::ledger::{Call, Decided, Ledger, Pending};
use holm_control::store::SledStore;
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ORIGIN: &str = "holm.example/log";
const CALLERS: u32 = 64;
const READERS: usize = 2;
const WAYS: [(&str, Wait); 2] =
    [("the ledger, 64 tasks that wait", Wait::Task), ("the ledger, 64 threads that wait", Wait::Thread)];
const FIO: [(&str, bool); 2] = [("over a file that is there", true), ("to the end of one that grows", false)];
/// Each in turn in every round, so that what else the machine does meets all of them.
const ROUNDS: usize = 5;
const LASTS: Duration = Duration::from_secs(4);

/// What waits for the disk, of a caller.
#[derive(Clone, Copy)]
enum Wait {
    Task,
    Thread,
}

/// The ledger, and writes and bytes in a second of each kind of `fio` beside it.
type Round = (Found, [Option<(f64, f64)>; 2]);

/// What was found in a round.
struct Found {
    entries: u64,
    bytes: u64,
    batches: u64,
    seconds: f64,
}

pub fn run() {
    // Of the disk that builds go to, not of one in memory. What is made stays until the end: for 5 s after files were removed
    // ext4 looks at each of them whenever one is made, and whoever makes some thousand waits for that.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // By way: the ledger, and beside it each kind of `fio` with as many bytes at once as it had.
    let mut found: [Vec<Round>; 2] = Default::default();
    let mut others = 0;
    for round in 0..ROUNDS {
        for (way, (of, (_, wait))) in found.iter_mut().zip(WAYS).enumerate() {
            let dir = scratch.path().join(format!("{round}-{way}"));
            std::fs::create_dir(&dir).unwrap();
            others = others.max(running().saturating_sub(1));
            let ledger = commits(&dir, wait, 0);
            let at_once = ledger.bytes / ledger.batches;
            of.push((ledger, FIO.map(|(_, overwrite)| fio(&dir, at_once, overwrite))));
        }
    }
    println!("medians of {ROUNDS} rounds of {} s, {CALLERS} callers\n", LASTS.as_secs());
    println!(
        "{:<50} {:>9} {:>9} {:>9} {:>7} {:>6}  wanted",
        "durable writes", "writes/s", "at once", "entries/s", "MB/s", "ratio"
    );
    for ((name, _), found) in WAYS.iter().zip(&found) {
        let of = |each: fn(&Found) -> f64| median(found.iter().map(|(ledger, _)| each(ledger)).collect());
        println!(
            "{name:<50} {:>9.0} {:>9.1} {:>9.0} {:>7.1}",
            of(|found| found.batches as f64 / found.seconds),
            of(|found| found.entries as f64 / found.batches as f64),
            of(|found| found.entries as f64 / found.seconds),
            of(|found| found.rate() / 1e6),
        );
        for (at, (way, _)) in FIO.iter().enumerate() {
            let beside: Vec<_> = found.iter().filter_map(|(one, fio)| Some((one.rate(), fio[at]?))).collect();
            if beside.len() < ROUNDS {
                println!("  there is no fio (deploy/packages bench)");
                continue;
            }
            println!(
                "{:<50} {:>9.0} {:>9} {:>9} {:>7.1} {:>6.2}  0.5 at least",
                format!("  fio, as many bytes at once, {way}"),
                median(beside.iter().map(|(_, (writes, _))| *writes).collect()),
                "",
                "",
                median(beside.iter().map(|(_, (_, bytes))| bytes / 1e6).collect()),
                median(beside.iter().map(|(rate, (_, bytes))| rate / bytes).collect()),
            );
        }
    }
    let dir = scratch.path().join("read");
    std::fs::create_dir(&dir).unwrap();
    let beside = commits(&dir, Wait::Task, READERS);
    println!(
        "\nbeside {READERS} who read all of the log, again and again: {:.0} entries/s",
        beside.entries as f64 / beside.seconds
    );
    if others > 0 {
        println!("\nTHE RATIOS SAY NOTHING: {others} other programs were running; run it on a quiet machine");
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

impl Found {
    /// Bytes of entries in a second.
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// Programs that run or wait for a processor, this one among them.
fn running() -> u64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let running = load.split(' ').nth(3).and_then(|field| field.split('/').next());
    running.unwrap().parse().unwrap()
}

/// Each caller changes a person of her own, again and again; so many read the log meanwhile, from its beginning to its end.
fn commits(dir: &Path, wait: Wait, readers: usize) -> Found {
    let key = SigningKey::create(&dir.join("key")).unwrap();
    let log = Log::create(&dir.join("log"), ORIGIN, key).unwrap();
    let store = SledStore::open(&dir.join("store")).unwrap();
    let ledger = Arc::new(Ledger::open(Box::new(store), log, Timestamp::now).unwrap());
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
        match wait {
            Wait::Thread => {
                for n in 0..CALLERS {
                    let ledger = &ledger;
                    scope.spawn(move || {
                        while started.elapsed() < LASTS {
                            change(ledger, n).wait().unwrap();
                        }
                    });
                }
            }
            Wait::Task => {
                let tasks = tokio::runtime::Builder::new_multi_thread().build().unwrap();
                let all: Vec<_> = (0..CALLERS)
                    .map(|n| {
                        let ledger = Arc::clone(&ledger);
                        tasks.spawn(async move {
                            while started.elapsed() < LASTS {
                                change(&ledger, n).durable().await.unwrap();
                            }
                        })
                    })
                    .collect();
                tasks.block_on(async {
                    for one in all {
                        one.await.unwrap();
                    }
                });
            }
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let entries = ledger.size();
    // The first ones are like all the others.
    let sample = ledger.entries(0, entries.min(10_000)).unwrap();
    let mean = sample.iter().map(|body| body.len() as u64).sum::<u64>() / sample.len() as u64;
    Found { entries, bytes: entries * mean, batches: ledger.batches(), seconds }
}

fn change(ledger: &Ledger, n: u32) -> Pending<()> {
    let person = person(n);
    let mut call = Call::own("person.invite", format!("person/{}", person.name));
    call.actor = "person/ada".to_owned();
    call.peer = "192.0.2.7:50412".to_owned();
    let decide = |_: &_, _| {
        let changes = vec![Change::Put(Record::Person(person))];
        let reasons = vec!["leads-and-operators-invite".to_owned()];
        Ok(Decided { reasons, pack: Some("aau-2018/7".to_owned()), ..Decided::new(changes, ()) })
    };
    ledger.decide(&call, decide).unwrap()
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
