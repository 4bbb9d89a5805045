//! Some entries of the log in a file: JSON lines with proofs, CSV, or Parquet. Each was compared with the log's signed head
//! before it was written.

use super::find::Search;
use super::{alarm, rows};
use crate::args::Filter;
use crate::output::{Cell, Sheet, Tone};
use crate::run::Session;
use crate::run::pin::Known;
use crate::{Exit, Failure};
use holm_control::audit::proven::{self, ProvenError};
use holm_control::audit::{Checkpoint, Entry, Hash, verify};
use holm_proto::v1::LogEntry;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use tempfile::NamedTempFile;

/// Entries that Parquet writes together.
const GROUP: usize = 16_384;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Proven,
    Csv,
    Parquet,
}

impl Kind {
    /// By a file's name; `None`: it is a directory, for the whole log.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" => Some(Self::Proven),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

pub(super) async fn export(session: &Session, to: &Path, kind: Kind, filter: &Filter) -> Result<(), Failure> {
    let exists = || {
        let text = format!("`{}` is there already: name another file", to.display());
        Failure { exit: Exit::Usage, ..Failure::new(text) }
    };
    if to.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let wanted = super::find::filter(filter, &session.clock)?;
    let now = super::checkpoint(session, &mut session.log().await?).await?;
    let known = Known::of(session, None, &now)?;
    let dir = to.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(dir).map_err(|e| Failure::file("write", to, &e))?;
    let failed =
        |e: &dyn std::error::Error| Failure::new(format!("`{}`: {}", to.display(), holm_proto::chain(e)));

    let out = BufWriter::new(file.as_file().try_clone().map_err(|e| Failure::file("write", to, &e))?);
    let mut writer = match kind {
        Kind::Proven => {
            Writer::Proven(proven::Writer::new(out, &now.note, &known.key).map_err(|e| failed(&e))?)
        }
        Kind::Csv => Writer::Csv(out),
        Kind::Parquet => Writer::Parquet(Box::new(Columns::new(out).map_err(|e| failed(&e))?)),
    };
    if let Writer::Csv(out) = &mut writer {
        writeln!(out, "{}", rows::COLUMNS).map_err(|e| Failure::file("write", to, &e))?;
    }
    let mut search = Search::proven(session, wanted, known.head.size).await?;
    let mut count = 0_u64;
    while let Some((entry, one)) = search.next().await? {
        writer.push(&known.head, &entry, &one).map_err(|e| match e {
            WriteError::Proof(ProvenError::Io(e)) => Failure::file("write", to, &e),
            WriteError::Proof(e) => alarm(holm_proto::chain(&e)),
            WriteError::Parquet(e) => failed(&e),
            WriteError::Io(e) => Failure::file("write", to, &e),
        })?;
        count += 1;
    }
    writer.finish().map_err(|e| failed(&e))?;
    file.as_file().sync_all().map_err(|e| Failure::file("write", to, &e))?;
    file.persist_noclobber(to).map_err(|_| exists())?;

    let json = json!({ "file": to, "entries": count, "of": known.head.size, "key": known.key });
    let sentence = format!(
        "{count} of the log's {} entries, each compared with its signed head, in `{}`",
        known.head.size,
        to.display()
    );
    session.output.done(&sentence, &json)?;
    match kind {
        Kind::Proven => session
            .output
            .next(&format!("holm audit verify {} --key KEY   (anywhere, offline)", to.display())),
        Kind::Csv | Kind::Parquet => Ok(()),
    }
}

/// A file of proven entries, offline.
pub(super) fn check(session: &Session, path: &Path, key: &str) -> Result<(), Failure> {
    let file = File::open(path).map_err(|e| Failure::file("read", path, &e))?;
    let (mut first, mut last) = (None, None);
    let proven = proven::verify(BufReader::new(file), key, |entry| {
        first = first.or(Some(entry.time));
        last = Some(entry.time);
    })
    .map_err(|e| {
        let text = format!("`{}` is NOT what was signed: {}", path.display(), holm_proto::chain(&e));
        Failure::new(text)
    })?;
    let time = |at: Option<jiff::Timestamp>| at.map(|at| session.clock.full(at)).unwrap_or_default();
    let mut sheet = Sheet::new(&proven.head.origin).state(Cell::new("proven").tone(Tone::Good));
    sheet
        .line("entries", format!("{} of {}, each proven to be in the log", proven.entries, proven.head.size))
        .line("first", time(first))
        .line("last", time(last))
        .line("key", key);
    let json = json!({ "origin": proven.head.origin, "entries": proven.entries, "of": proven.head.size,
        "first": first, "last": last, "key": key });
    session.output.sheet(&sheet, &json)?;
    session.output.remark("that others like them were left out it cannot show: the whole log can");
    Ok(())
}

enum Writer {
    Proven(proven::Writer<BufWriter<File>>),
    Csv(BufWriter<File>),
    Parquet(Box<Columns<BufWriter<File>>>),
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Proof(#[from] ProvenError),
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Writer {
    fn push(&mut self, head: &Checkpoint, entry: &Entry, one: &LogEntry) -> Result<(), WriteError> {
        let proof: Option<Vec<Hash>> =
            one.proof.iter().map(|hash| Hash::try_from(hash.as_slice()).ok()).collect();
        let proof = proof.ok_or(ProvenError::Entry(one.index))?;
        match self {
            Self::Proven(writer) => return Ok(writer.push(one.index, &one.body, &proof)?),
            Self::Csv(_) | Self::Parquet(_) => {}
        }
        verify::inclusion(head, one.index, &one.body, &proof).map_err(|_| ProvenError::Entry(one.index))?;
        match self {
            Self::Csv(out) => Ok(out.write_all(rows::csv(entry).as_bytes())?),
            Self::Parquet(columns) => Ok(columns.push(entry)?),
            Self::Proven(_) => Ok(()),
        }
    }

    fn finish(self) -> Result<(), WriteError> {
        match self {
            Self::Proven(writer) => writer.finish().map(drop).map_err(WriteError::from),
            Self::Csv(mut out) => Ok(out.flush()?),
            Self::Parquet(columns) => Ok(columns.finish()?),
        }
    }
}

const SCHEMA: &str = "message entry {
    REQUIRED INT64 index (INTEGER(64, false));
    REQUIRED INT64 time (TIMESTAMP(MICROS, true));
    REQUIRED BINARY actor (STRING);
    REQUIRED BINARY peer (STRING);
    REQUIRED BINARY action (STRING);
    REQUIRED BINARY resource (STRING);
    REQUIRED BINARY project (STRING);
    REQUIRED BINARY level (STRING);
    REQUIRED BINARY outcome (STRING);
    REQUIRED BINARY reasons (STRING);
    REQUIRED BINARY pack (STRING);
    REQUIRED BINARY request (STRING);
    REQUIRED BINARY detail (JSON);
}";
/// How many of its columns, after the first two, are texts.
const TEXTS: usize = 11;

/// Entries by column, written some thousands at a time.
struct Columns<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    numbers: [Vec<i64>; 2],
    texts: [Vec<ByteArray>; TEXTS],
}

impl<W: Write + Send> Columns<W> {
    fn new(out: W) -> Result<Self, ParquetError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let writer = SerializedFileWriter::new(out, schema, Arc::default())?;
        Ok(Self { writer, numbers: Default::default(), texts: Default::default() })
    }

    fn push(&mut self, entry: &Entry) -> Result<(), ParquetError> {
        let index = i64::try_from(entry.index).map_err(|e| ParquetError::General(e.to_string()))?;
        for (column, value) in self.numbers.iter_mut().zip([index, entry.time.as_microsecond()]) {
            column.push(value);
        }
        let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
        let texts: [String; TEXTS] = [
            entry.actor.clone(),
            entry.peer.clone(),
            entry.action.clone(),
            entry.resource.clone(),
            or_none(&entry.project),
            or_none(&entry.level),
            entry.outcome.clone(),
            entry.reasons.join("; "),
            or_none(&entry.pack),
            entry.request.clone(),
            entry.detail.to_string(),
        ];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.push(ByteArray::from(text.into_bytes()));
        }
        if self.numbers.iter().any(|column| column.len() == GROUP) { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), ParquetError> {
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.numbers {
            if let Some(mut out) = group.next_column()? {
                out.typed::<Int64Type>().write_batch(&std::mem::take(column), None, None)?;
                out.close()?;
            }
        }
        for column in &mut self.texts {
            if let Some(mut out) = group.next_column()? {
                out.typed::<ByteArrayType>().write_batch(&std::mem::take(column), None, None)?;
                out.close()?;
            }
        }
        group.close().map(drop)
    }

    fn finish(mut self) -> Result<(), ParquetError> {
        if self.numbers.iter().any(|column| !column.is_empty()) {
            self.write()?;
        }
        self.writer.close().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader as _, SerializedFileReader};

    #[test]
    fn parquet_is_read_as_it_was_written() {
        let entry = |index: u64| Entry {
            v: 1,
            index,
            time: jiff::Timestamp::from_microsecond(1_790_000_000_000_000 + i64::try_from(index).unwrap())
                .unwrap(),
            request: format!("r{index}"),
            actor: "person/ada".to_owned(),
            peer: String::new(),
            action: "slice.read".to_owned(),
            resource: "slice/heart/Ærø".to_owned(),
            project: Some("heart".to_owned()),
            level: None,
            outcome: "allowed".to_owned(),
            reasons: vec!["a".to_owned(), "b".to_owned()],
            pack: None,
            detail: json!({ "n": index }),
            changes: Vec::new(),
        };
        let count = GROUP as u64 + 3;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut columns = Columns::new(file.reopen().unwrap()).unwrap();
        for index in 0..count {
            columns.push(&entry(index)).unwrap();
        }
        columns.finish().unwrap();
        let reader = SerializedFileReader::new(file.reopen().unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let rows = reader.get_row_iter(None).unwrap();
        let mut at = 0;
        for row in rows {
            let row = row.unwrap();
            let field = |name: &str| {
                row.get_column_iter().find(|(of, _)| *of == name).map(|(_, value)| value.to_string()).unwrap()
            };
            assert_eq!(field("index"), at.to_string());
            assert_eq!(field("resource"), "\"slice/heart/Ærø\"");
            assert_eq!(field("reasons"), "\"a; b\"");
            assert_eq!(field("detail"), format!("\"{}\"", json!({ "n": at })));
            at += 1;
        }
        assert_eq!(at, count);
    }

    #[test]
    fn what_is_written_goes_by_the_files_name() {
        let of = |name| Kind::of(Path::new(name));
        assert_eq!(of("a.jsonl"), Some(Kind::Proven));
        assert_eq!(of("x/a.CSV"), Some(Kind::Csv));
        assert_eq!(of("a.parquet"), Some(Kind::Parquet));
        assert_eq!((of("evidence/"), of("a.txt"), of(".csv")), (None, None, None));
    }
}
