//! The log, read and recomputed here.

mod became;
mod extract;
mod find;
mod incident;
mod part;
mod review;
mod rows;
mod stories;
mod witnesses;

use super::Session;
use super::pin::{Known, alarm};
use crate::args::AuditVerb;
use crate::dial::Calls;
use crate::output::{Format, put};
use crate::progress::Spinner;
use crate::text::{json_pretty, plain_lines};
use crate::{Exit, Failure};
use holm_control::audit::export::Item;
use holm_control::audit::sample::Redrawn;
use holm_control::audit::verify::{self, Checker, Verified, VerifyError};
use holm_control::audit::{Checkpoint, Entry, Hash, Outline, export, note};
use holm_proto::v1::audit_service_client::AuditServiceClient;
use holm_proto::v1::{self, GetCheckpointRequest, ListEntriesRequest, LogEntry};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tonic::Streaming;
use witnesses::{Covers, Outside};

/// Entries on their way to the disk.
const AHEAD: usize = 256;
/// The spinner counts in steps of this.
const COUNT: u64 = 1024;

type Client = AuditServiceClient<Calls>;

pub(super) async fn run(session: &Session, verb: AuditVerb) -> Result<(), Failure> {
    match verb {
        AuditVerb::Log(wanted) => find::log(session, &wanted).await,
        AuditVerb::Timeline { project, since, until } => {
            stories::timeline(session, project, since, until).await
        }
        AuditVerb::WhoHad { device, at } => stories::who_had(session, device, at).await,
        AuditVerb::Access { person, since, until } => stories::access(session, person, since, until).await,
        AuditVerb::Show { index } => show(session, index).await,
        AuditVerb::Verify { dir, key, earlier, witnesses, heads } => {
            let outside = Outside::new(session, &witnesses, &heads)?;
            match dir {
                Some(dir) => offline(session, &dir, key.as_deref(), &earlier, outside),
                None => online(session, key.as_deref(), &earlier, outside).await,
            }
        }
        AuditVerb::Export { to, filter } => match part::Kind::of(&to) {
            Some(kind) => part::export(session, &to, kind, &filter).await,
            None if !filter.is_empty() => {
                let text = "a directory gets the whole log, which can be verified only so";
                Err(Failure::usage(text)
                    .hint("for some entries name a file: .jsonl (with proofs), .csv or .parquet"))
            }
            None => export(session, &to).await,
        },
        AuditVerb::Witnesses => witnesses::list(session).await,
        AuditVerb::Extract(whom) => extract::extract(session, whom).await,
        AuditVerb::Review(verb) => review::run(session, verb).await,
        AuditVerb::Incident(verb) => incident::run(session, verb).await,
        AuditVerb::Key => {
            let now = checkpoint(session, &mut session.log().await?).await?;
            if let Some(pin) = session.place.pin()?.filter(|pin| pin.key != now.verifier_key) {
                return Err(alarm(format!("the log's key is `{}`, and was `{}`", now.verifier_key, pin.key)));
            }
            session.output.answer(&now.verifier_key, &json!({ "key": now.verifier_key }))
        }
        AuditVerb::Checkpoint => {
            let now = checkpoint(session, &mut session.log().await?).await?;
            match session.output.format {
                Format::Json => {
                    session.output.document(&json!({ "note": now.note, "key": now.verifier_key }))
                }
                Format::Table | Format::Csv => put(&plain_lines(&now.note)),
            }
        }
    }
}

async fn checkpoint(session: &Session, client: &mut Client) -> Result<v1::Checkpoint, Failure> {
    session.ask(client.get_checkpoint(GetCheckpointRequest {})).await
}

async fn entries(
    session: &Session,
    client: &mut Client,
    start: u64,
    end: u64,
) -> Result<Streaming<LogEntry>, Failure> {
    session.ask(client.list_entries(ListEntriesRequest { start, end })).await
}

async fn show(session: &Session, index: u64) -> Result<(), Failure> {
    let mut client = session.log().await?;
    let end = index.checked_add(1).ok_or_else(|| Failure::usage("there is no entry of that number"))?;
    let mut stream = entries(session, &mut client, index, end).await?;
    let missing = || Failure::new(format!("there is no entry {index}")).hint("holm audit log");
    let entry = stream.message().await?.ok_or_else(missing)?;
    if !entry.gone.is_empty() {
        let text = format!("entry {index} is gone: its time was over");
        return Err(Failure::new(text).hint("holm audit log --action log.expire"));
    }
    let value: Value = serde_json::from_slice(&entry.body)
        .map_err(|e| Failure::new(format!("entry {index} cannot be read: {e}")))?;
    put(&format!("{}\n", json_pretty(&value)))
}

fn read(entry: &LogEntry) -> Result<Entry, Failure> {
    Entry::from_bytes(&entry.body).map_err(|e| {
        Failure::new(format!("entry {} cannot be read: {e}", entry.index)).hint("holm audit verify")
    })
}

async fn online(
    session: &Session,
    key: Option<&str>,
    earlier: &[PathBuf],
    mut outside: Outside,
) -> Result<(), Failure> {
    let key = key.map(key_of).transpose()?;
    let mut client = session.log().await?;
    outside.ask(session, &mut client).await?;
    let now = checkpoint(session, &mut client).await?;
    let mut known = Known::of(session, key.as_deref(), &now)?;
    let earlier = saved(earlier, &known.key)?;
    let failed = |e: VerifyError| alarm(holm_proto::chain(&e));
    let mut checker = Checker::new(&now.note, &known.key).map_err(failed)?;
    for head in known.head_before().into_iter().chain(&earlier) {
        checker.begin_with(head.clone()).map_err(failed)?;
    }
    known.witnesses = outside.keys();
    let mut coverage = outside.coverage(&known.key)?;
    let mut stream = entries(session, &mut client, 0, known.head.size).await?;
    let spinner = Spinner::new(&session.output);
    let mut count = 0;
    while let Some(entry) = stream.message().await? {
        let leaves = leaves_of(&entry);
        if leaves.is_empty() {
            checker.push(&entry.body).map_err(failed)?;
            coverage.see(&entry.body).map_err(|e| alarm(holm_proto::chain(&e)))?;
        } else {
            checker.skip(leaves).map_err(failed)?;
            let covered = leaves.iter().try_for_each(|leaf| coverage.see_leaf(*leaf));
            covered.map_err(|e| alarm(holm_proto::chain(&e)))?;
        }
        count += leaves.len().max(1) as u64;
        if count % COUNT == 0 {
            spinner.says(&format!("{count} of {} entries", known.head.size));
        }
    }
    drop(spinner);
    let verified = checker.finish().map_err(failed)?;
    let covers = outside.finish(coverage)?;
    let (first, key) = (known.first, known.key.clone());
    let before = known.remember(&session.place, session.clock.now)?;
    report(session, &verified, &key, before, &earlier, &covers)?;
    if first {
        session.output.remark("its key was not known here before, and is from now on. compare it with the copy from when holmd was set up:");
        session.output.remark(&format!("  {key}"));
    }
    Ok(())
}

fn offline(
    session: &Session,
    dir: &Path,
    key: Option<&str>,
    earlier: &[PathBuf],
    outside: Outside,
) -> Result<(), Failure> {
    let key = key_for(session, key, &format!("holm audit verify {} --key KEY", dir.display()))?;
    if dir.is_file() {
        return part::check(session, dir, &key);
    }
    let earlier = saved(earlier, &key)?;
    let (verified, _) =
        verify::directory_from(dir, &key, &earlier, |_: &Outline| None::<()>).map_err(|e| {
            Failure::new(format!(
                "`{}` is NOT the log that was signed: {}",
                dir.display(),
                holm_proto::chain(&e)
            ))
        })?;
    let covers = outside.offline(dir, &key)?;
    report(session, &verified, &key, None, &earlier, &covers)
}

/// Of entries that are gone, the hashes that came instead.
fn leaves_of(entry: &LogEntry) -> &[Hash] {
    entry.gone.as_chunks().0
}

/// Checkpoints that somebody saved.
fn saved(files: &[PathBuf], key: &str) -> Result<Vec<Checkpoint>, Failure> {
    let read = |path: &PathBuf| {
        let note = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?;
        Checkpoint::verify(&note, key)
            .map_err(|e| Failure::new(format!("`{}` is no checkpoint of this log: {e}", path.display())))
    };
    files.iter().map(read).collect()
}

/// What was recomputed, and of what.
fn report(
    session: &Session,
    verified: &Verified,
    key: &str,
    before: Option<u64>,
    earlier: &[Checkpoint],
    covers: &[Covers],
) -> Result<(), Failure> {
    let hex: String = verified.root.iter().map(|byte| format!("{byte:02x}")).collect();
    let json = json!({
        "origin": verified.origin,
        "entries": verified.entries,
        "root": hex,
        "gone": verified.gone.map(|gone| json!({
            "entries": gone.entries,
            "may": gone.may,
            "at": gone.at.to_string(),
        })),
        "first": verified.first.map(|t| t.to_string()),
        "last": verified.last.map(|t| t.to_string()),
        "key": key,
        "verified_before": before,
        "earlier": earlier.iter().map(|head| head.size).collect::<Vec<_>>(),
        "samples": verified.samples.iter().map(sample_json).collect::<Vec<_>>(),
        "witnesses": covers.iter().map(Covers::json).collect::<Vec<_>>(),
    });
    let time = |at: Option<jiff::Timestamp>| at.map(|at| session.clock.full(at)).unwrap_or_default();
    let mut sheet = crate::output::Sheet::new(&verified.origin)
        .state(crate::output::Cell::new("verified").tone(crate::output::Tone::Good));
    sheet.line("entries", format!("{}, every one recomputed here", verified.entries));
    if let Some(gone) = verified.gone {
        let at = session.clock.full(gone.at);
        sheet.line(
            "gone",
            format!("the first {}, by `log.expire` of {at}: their hashes are there", gone.entries),
        );
    }
    sheet
        .line("first", time(verified.first))
        .line("last", time(verified.last))
        .line("root", hex)
        .line("key", key);
    if let Some(before) = before {
        sheet.line("before", format!("begins with the {before} entries that were verified here before"));
    }
    for head in earlier {
        sheet
            .line("earlier", format!("begins with the {} entries of a checkpoint that was saved", head.size));
    }
    covers.iter().for_each(|covers| covers.line(session, &mut sheet));
    let bad: Vec<u32> =
        verified.samples.iter().filter(|sample| !sample.good).map(|sample| sample.review).collect();
    if !verified.samples.is_empty() {
        let good = verified.samples.len() - bad.len();
        sheet.line("samples", format!("{good} of {} are what the log has drawn", verified.samples.len()));
    }
    session.output.sheet(&sheet, &json)?;
    match bad.first() {
        None => Ok(()),
        Some(number) => Err(alarm(format!(
            "the sample of review {number} is not the one that follows from the log: whoever held holmd's machine chose it"
        ))),
    }
}

fn sample_json(sample: &Redrawn) -> Value {
    json!({ "review": sample.review, "entries": sample.entries, "good": sample.good })
}

async fn export(session: &Session, dir: &Path) -> Result<(), Failure> {
    let mut client = session.log().await?;
    // Before the head: what is cosigned meanwhile would be beyond it.
    let outside = witnesses::ask(session, &mut client).await?;
    let now = checkpoint(session, &mut client).await?;
    let known = Known::of(session, None, &now)?;
    let before: Vec<Checkpoint> = known.head_before().cloned().into_iter().collect();
    let mut stream = entries(session, &mut client, 0, known.head.size).await?;
    let (send, mut receive) = mpsc::channel::<Item>(AHEAD);
    let (to, note, key) = (dir.to_path_buf(), now.note, known.key.clone());
    let writer = tokio::task::spawn_blocking(move || {
        export::write(&to, &note, &key, &before, std::iter::from_fn(move || receive.blocking_recv()))
    });
    let spinner = Spinner::new(&session.output);
    let mut count = 0;
    while let Some(entry) = stream.message().await? {
        let leaves = leaves_of(&entry).to_vec();
        count += leaves.len().max(1) as u64;
        let item = if leaves.is_empty() { Item::Entry(entry.body) } else { Item::Gone(leaves) };
        if send.send(item).await.is_err() {
            // The writer stopped, and says why below.
            break;
        }
        if count % COUNT == 0 {
            spinner.says(&format!("{count} of {} entries", known.head.size));
        }
    }
    drop((send, spinner));
    let written = writer.await.map_err(|e| Failure::new(format!("the export was not written: {e}")))?;
    let verified = written.map_err(|e| match e {
        export::ExportError::NotEmpty(_) => Failure { exit: Exit::Usage, ..Failure::of(&e) },
        export::ExportError::Disk(_) => Failure::of(&e),
        export::ExportError::Verify(_) => alarm(holm_proto::chain(&e)),
    })?;
    let key = known.key.clone();
    witnesses::export(dir, outside, &key)?;
    let before = known.remember(&session.place, session.clock.now)?;
    report(session, &verified, &key, before, &[], &[])?;
    session.output.next(&format!("holm audit verify {} --key KEY   (anywhere, offline)", dir.display()))
}

/// The key that is named, or the one that is remembered: never one beside what is to be verified, for whoever forged that
/// forged it too.
fn key_for(session: &Session, named: Option<&str>, command: &str) -> Result<String, Failure> {
    match named {
        Some(key) => key_of(key),
        None => session.place.pin()?.map(|pin| pin.key).ok_or_else(|| {
            let text = "with which key? none is known here";
            Failure::usage(text).hint(format!("{command}   (KEY: holm audit key)"))
        }),
    }
}

/// A key as such, or a file with it.
pub(super) fn key_of(text: &str) -> Result<String, Failure> {
    let path = Path::new(text);
    let key = match path.is_file() {
        true => std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e))?,
        false => text.to_owned(),
    };
    let key = key.trim().to_owned();
    // A slip of the pen is no forged log.
    note::check_key(&key).map_err(|e| Failure::usage(e.to_string()))?;
    Ok(key)
}
