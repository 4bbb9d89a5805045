//! What `tests/power-loss` loses the power of: a ledger as holmd opens it, written by many at once, and looked at afterwards.
//!
//! ```text
//!   holm-power-loss write DATA KEY ENTRIES --first N --count N [--wrap N]
//!       says `ack N` for each change that was acknowledged, and does nothing more in that thread until it is answered. Then
//!       it fills the log's journal nearly to its end, and makes so many changes more. What was decided goes to ENTRIES
//!   holm-power-loss check KEY ENTRIES ACKS
//!       for each line `DATA COUNT`: opens what is in DATA, which must have the first COUNT of ACKS; says `ok` or `bad`
//! ```

use clap::Parser;
use holm_control::app::{Paths, store};
use holm_control::audit::{Entry, Log, SigningKey, verify};
use holm_control::domain::records::{Change, Person, Record};
use holm_control::domain::{Refusal, RefusalKind};
use holm_control::ledger::{Call, Decided, Ledger, chain, replay};
use holm_proto::ids::RequestId;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, stdin};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

const ORIGIN: &str = "holm.example/log";
const THREADS: u32 = 4;
/// From here on they are long: to look through few long entries is quicker than through many.
const LARGE: u32 = 1 << 20;
/// Of the log's journal, from its end: where this is written, it is soon written from its beginning again.
const NEARLY: u64 = 8 * 4096;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
enum Does {
    Write {
        data: PathBuf,
        key: PathBuf,
        entries: PathBuf,
        /// The number of the first change. No two that are written to one log have the same.
        #[arg(long)]
        first: u32,
        #[arg(long)]
        count: u32,
        #[arg(long, default_value_t = 0)]
        wrap: u32,
    },
    Check {
        key: PathBuf,
        entries: PathBuf,
        acks: PathBuf,
    },
}

fn main() -> Result<(), Failure> {
    match Does::parse() {
        Does::Write { data, key, entries, first, count, wrap } => {
            write(&data, &key, &entries, first, count, wrap)
        }
        Does::Check { key, entries, acks } => {
            let check = Check::new(&key, &entries, &acks)?;
            for line in stdin().lines() {
                let line = line?;
                let (data, count) = line.split_once(' ').ok_or("DATA COUNT")?;
                match check.one(Path::new(data), count.parse()?) {
                    Ok(size) => println!("ok {size}"),
                    Err(why) => println!("bad {}", chain(&*why).replace('\n', " ")),
                }
            }
            Ok(())
        }
    }
}

fn write(data: &Path, key: &Path, entries: &Path, first: u32, count: u32, wrap: u32) -> Result<(), Failure> {
    let paths = Paths::of(data);
    let key = if key.exists() { SigningKey::load(key)? } else { SigningKey::create(key)? };
    let log = match paths.log.join("checkpoint").exists() {
        true => Log::open(&paths.log, ORIGIN, key)?,
        false => Log::create(&paths.log, ORIGIN, key)?,
    };
    let ledger = Ledger::open(Box::new(store(&paths.store)?), log, Timestamp::now)?;
    let says = Says(Mutex::default());
    says.and_waits("opened");
    let (end, all) = (first + count, first + count + wrap);
    changes(&ledger, &says, first..end);
    if wrap > 0 {
        let journal = File::open(data.join("log.journal"))?;
        let nearly = journal.metadata()?.len() - NEARLY;
        let (mut block, mut number) = ([0; 8], LARGE);
        while block == [0; 8] {
            change(&ledger, number).map_err(|why| why.to_string())?;
            says.and_waits(&format!("ack {number}"));
            journal.read_exact_at(&mut block, nearly)?;
            number += 1;
        }
        says.and_waits("filled");
        changes(&ledger, &says, end..all);
    }
    says.and_waits("nearly ended");
    match change(&ledger, all) {
        Ok(()) => says.and_waits(&format!("ack {all}")),
        Err(why) => says.and_waits(&format!("still {why}")),
    }
    let mut bytes = Vec::new();
    for body in ledger.entries(0, ledger.size())? {
        bytes.extend(u32::try_from(body.len())?.to_be_bytes());
        bytes.extend(body);
    }
    std::fs::write(entries, bytes)?;
    says.and_waits("ended");
    Ok(())
}

/// By several at once. Who is refused makes no more.
fn changes(ledger: &Ledger, says: &Says, numbers: std::ops::Range<u32>) {
    let next = AtomicU32::new(numbers.start);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    if let Err(why) = change(ledger, number) {
                        return says.and_waits(&format!("refused {why}"));
                    }
                    says.and_waits(&format!("ack {number}"));
                }
            });
        }
    });
}

/// To whoever began this, one thread at a time, who waits for the answer.
struct Says(Mutex<()>);

impl Says {
    fn and_waits(&self, what: &str) {
        let _one = self.0.lock();
        println!("{}", what.replace('\n', " "));
        let _ = stdin().lock().read_line(&mut String::new());
    }
}

/// The change of this number, or every seventh time its refusal.
fn change(ledger: &Ledger, number: u32) -> Result<(), Refusal> {
    let call = Call {
        request: RequestId::new_v4(),
        actor: "person/oscar".to_owned(),
        peer: "192.0.2.7:50412".to_owned(),
        action: "person.invite",
        resource: format!("person/{number}"),
        project: None,
        source_time: None,
    };
    if refused(number) {
        let refusal = Refusal::new(RefusalKind::Denied, "not this one");
        let done = ledger.commit::<()>(&call, |_, _| Err(refusal));
        return done.or_else(|why| if why.kind == RefusalKind::Denied { Ok(()) } else { Err(why) });
    }
    ledger.commit(&call, |_, _| {
        Ok(Decided { detail: detail(number), ..Decided::new(vec![person(number)], ()) })
    })
}

const fn refused(number: u32) -> bool {
    number < LARGE && number % 7 == 3
}

/// Of any length, and of several blocks of the journal now and then.
fn detail(number: u32) -> serde_json::Value {
    let length = match number {
        LARGE.. => 31_000,
        number if number % 31 == 5 => 20_000,
        number => number * 37 % 900,
    };
    serde_json::json!({ "pad": "x".repeat(length as usize) })
}

/// One of two hundred, who was changed before.
fn person(number: u32) -> Change {
    Change::Put(Record::Person(Person {
        name: format!("p{}", number % 200).parse().unwrap_or_else(|_| unreachable!("a name")),
        roles: vec!["researcher".to_owned()],
        uid: 20_000 + number,
        created: Timestamp::UNIX_EPOCH,
        enrolled: false,
        certificate: String::new(),
        renewed: String::new(),
        revoked: None,
        void: None,
        account: None,
        login: None,
    }))
}

/// What was decided, and what of it was acknowledged.
struct Check {
    key: SigningKey,
    decided: Vec<Entry>,
    /// Numbers of changes, and which entry each is, in the order in which they were acknowledged.
    acknowledged: Vec<(u32, u64)>,
}

impl Check {
    fn new(key: &Path, entries: &Path, acks: &Path) -> Result<Self, Failure> {
        let (all, mut decided) = (std::fs::read(entries)?, Vec::new());
        let mut rest = all.as_slice();
        while let Some((length, after)) = rest.split_first_chunk() {
            let (body, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            decided.push(Entry::from_bytes(body)?);
            rest = after;
        }
        let mut entry_of = BTreeMap::new();
        for entry in &decided {
            if entry_of.insert(is_as_asked(entry)?, entry.index).is_some() {
                return Err(format!("entry {} was decided before", entry.index).into());
            }
        }
        let mut acknowledged = Vec::new();
        for line in std::fs::read_to_string(acks)?.lines() {
            let number = line.parse()?;
            acknowledged.push((number, *entry_of.get(&number).ok_or("acknowledged, and never decided")?));
        }
        Ok(Self { key: SigningKey::load(key)?, decided, acknowledged })
    }

    /// How many entries there are, where all is as it must be.
    fn one(&self, data: &Path, count: usize) -> Result<u64, Failure> {
        let paths = Paths::of(data);
        let log = Log::open(&paths.log, ORIGIN, self.key.clone())?;
        let says = replay(&log)?;
        let ledger = Ledger::open(Box::new(store(&paths.store)?), log, Timestamp::now)?;
        // What is in memory was read from the store.
        if ledger.state().records() != says {
            return Err("the store, which followed, is not what the log says".into());
        }
        let size = ledger.size();
        // It goes on.
        let looked = Call::own("log.looked", String::new());
        ledger.note(&looked, serde_json::Value::Null).map_err(|why| why.to_string())?;
        drop(ledger);

        let other = |entry: &Entry| (entry.index != size && !self.was_decided(entry)).then_some(entry.index);
        let (verified, others) = verify::directory_from(&paths.log, &self.key.vkey(ORIGIN), &[], other)?;
        match others.first() {
            Some(other) => Err(format!("entry {other} is not what was decided").into()),
            None if verified.entries != size + 1 => Err("what was appended afterwards is not there".into()),
            None => self.has_what_was_acknowledged(size, count).map(|()| size),
        }
    }

    /// Beyond all that was decided as far as the writer saw there may be what was asked and not answered.
    fn was_decided(&self, entry: &Entry) -> bool {
        match usize::try_from(entry.index).ok().and_then(|index| self.decided.get(index)) {
            Some(decided) => decided == entry,
            None => is_as_asked(entry).is_ok(),
        }
    }

    fn has_what_was_acknowledged(&self, size: u64, count: usize) -> Result<(), Failure> {
        let acknowledged = self.acknowledged.get(..count).ok_or("so many were never acknowledged")?;
        let missing: Vec<_> = acknowledged.iter().filter(|(_, entry)| *entry >= size).collect();
        let Some((first, _)) = missing.first() else { return Ok(()) };
        let missing = missing.len();
        Err(format!(
            "{missing} of {count} acknowledged changes are missing, number {first} first; there are {size} entries"
        )
        .into())
    }
}

/// The number of the change that an entry says, wholly.
fn is_as_asked(entry: &Entry) -> Result<u32, Failure> {
    let number: u32 = entry.resource.strip_prefix("person/").ok_or("another entry")?.parse()?;
    let (outcome, detail, changes) = match refused(number) {
        true => ("refused", serde_json::Value::Null, Vec::new()),
        false => ("allowed", detail(number), vec![serde_json::to_value(person(number))?]),
    };
    match (entry.outcome.as_str(), &entry.detail, &entry.changes) == (outcome, &detail, &changes) {
        true => Ok(number),
        false => Err(format!("entry {} is not what was asked for", entry.index).into()),
    }
}
