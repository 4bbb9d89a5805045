//! Who holds the log's head outside: what they cosigned, and how far that covers the log that was verified here.

use super::{Client, Session};
use crate::Failure;
use crate::output::{Cell, Sheet, Table, Tone};
use crate::run::pin::alarm;
use crate::view::{time_json, when};
use holm_control::audit::{Checkpoint, Outline, verify};
use holm_control::witness::cosignature::WitnessKey;
use holm_control::witness::coverage::{Coverage, Head, NotCovered};
use holm_proto::ids::Name;
use holm_proto::v1::{ListWitnessesRequest, Witness, WitnessState};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// In an export, what witnesses cosigned of it.
const DIR: &str = "witness";
/// No note is larger, bytes.
const NOTE_MAX: u64 = 1 << 20;

/// `holm audit witnesses`.
pub(super) async fn list(session: &Session) -> Result<(), Failure> {
    let all = ask(session, &mut session.log().await?).await?;
    let row = |w: &Witness| {
        let (state, tone) = match w.state() {
            WitnessState::Covered => ("covered", Tone::Good),
            WitnessState::New => ("new", Tone::Busy),
            WitnessState::Behind => ("behind", Tone::Bad),
            WitnessState::Alarm | WitnessState::Unspecified => ("ALARM", Tone::Bad),
        };
        let entries = if w.size == 0 { String::new() } else { format!("0 to {}", w.size - 1) };
        vec![
            w.name.as_str().into(),
            Cell::new(state).tone(tone),
            entries.into(),
            when(w.cosigned.as_ref(), &session.clock),
            w.why.as_str().into(),
        ]
    };
    let columns = vec!["witness", "state", "cosigned entries", "on", "why"];
    let rows = all.iter().map(row).collect();
    let table =
        Table { columns, rows, empty: "nobody holds the log's head outside: see [witness] in holmd.toml" };
    session.output.list(&table, &Value::Array(all.iter().map(json_of).collect()))?;
    if !all.is_empty() {
        session
            .output
            .remark("that is what holmd says. with a witness's own key: holm audit verify --witness KEY");
    }
    Ok(())
}

fn json_of(w: &Witness) -> Value {
    json!({
        "name": w.name,
        "key": w.verifier_key,
        "state": w.state().as_str_name().trim_start_matches("WITNESS_STATE_").to_lowercase(),
        "since": time_json(w.since.as_ref()),
        "why": w.why,
        "size": w.size,
        "cosigned": time_json(w.cosigned.as_ref()),
        "note": w.note,
        "evidence": w.evidence,
    })
}

pub(super) async fn ask(session: &Session, client: &mut Client) -> Result<Vec<Witness>, Failure> {
    Ok(session.ask(client.list_witnesses(ListWitnessesRequest {})).await?.witnesses)
}

/// Whose word counts, and what they are known to have cosigned.
pub(super) struct Outside {
    keys: Vec<WitnessKey>,
    notes: Vec<(String, String)>,
}

impl Outside {
    /// By keys that the caller gives or that are remembered, and notes that she has from witnesses.
    pub(super) fn new(session: &Session, given: &[String], files: &[PathBuf]) -> Result<Self, Failure> {
        let mut keys = Vec::new();
        for key in session.place.pin()?.map(|pin| pin.witnesses).unwrap_or_default().iter().chain(given) {
            let key = WitnessKey::parse(text_of(key)?.trim()).map_err(|e| Failure::usage(e.to_string()))?;
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let notes: Result<Vec<_>, Failure> =
            files.iter().map(|path| Ok((path.display().to_string(), note_in(path)?))).collect();
        let outside = Self { keys, notes: notes? };
        if outside.keys.is_empty() && !files.is_empty() {
            return Err(Failure::usage("by whom is it cosigned? name the witness's key: --witness KEY"));
        }
        Ok(outside)
    }

    /// As they are remembered.
    pub(super) fn keys(&self) -> Vec<String> {
        self.keys.iter().map(WitnessKey::vkey).collect()
    }

    /// And what holmd has from them. Asked for before the log's head is: what they cosign meanwhile is no loss of it.
    pub(super) async fn ask(&mut self, session: &Session, client: &mut Client) -> Result<(), Failure> {
        if self.keys.is_empty() {
            return Ok(());
        }
        for witness in ask(session, client).await? {
            let notes = witness.days.into_iter().chain([witness.note, witness.evidence]);
            let from = format!("holmd, of {}", witness.name);
            self.notes.extend(notes.filter(|note| !note.is_empty()).map(|note| (from.clone(), note)));
        }
        Ok(())
    }

    /// To hold the log's entries against.
    pub(super) fn coverage(&self, log: &str) -> Result<Coverage, Failure> {
        Coverage::new(self.heads(log)?).map_err(|no| alarmed(&no))
    }

    fn heads(&self, log: &str) -> Result<Vec<Head>, Failure> {
        let mut heads = Vec::new();
        for (from, note) in &self.notes {
            let of = Head::of(note, log, &self.keys);
            heads.extend(
                of.map_err(|e| alarm(format!("what is cosigned ({from}) is not to be believed: {e}")))?,
            );
        }
        Ok(heads)
    }

    /// A copy of the log, which was verified, and what lies in it of witnesses.
    pub(super) fn offline(mut self, dir: &Path, log: &str) -> Result<Vec<Covers>, Failure> {
        let at = dir.join(DIR);
        if at.is_dir() {
            for entry in fs::read_dir(&at).map_err(|e| Failure::file("read", &at, &e))? {
                let path = entry.map_err(|e| Failure::file("read", &at, &e))?.path();
                self.notes.push((path.display().to_string(), note_in(&path)?));
            }
        }
        let mut newest: Vec<Head> = Vec::new();
        let mut heads = self.heads(log)?;
        heads.sort_by_key(|head| std::cmp::Reverse((head.size, head.at)));
        for head in heads {
            let head_of = std::slice::from_ref(head.checkpoint());
            verify::directory_from(dir, log, head_of, |_: &Outline| None::<()>).map_err(|e| {
                let why = holm_proto::chain(&e);
                alarm(format!("{} cosigned another history of it on {}: {why}", head.witness, head.at))
            })?;
            if newest.iter().all(|other| other.witness != head.witness) {
                newest.push(head);
            }
        }
        Ok(self.covers(&newest))
    }

    /// For each whose word counts, how far.
    pub(super) fn finish(&self, coverage: Coverage) -> Result<Vec<Covers>, Failure> {
        coverage.finish().map_err(|no| alarmed(&no)).map(|newest| self.covers(&newest))
    }

    fn covers(&self, newest: &[Head]) -> Vec<Covers> {
        let of = |key: &WitnessKey| Covers {
            key: key.vkey(),
            name: key.name().to_owned(),
            head: newest.iter().find(|head| head.witness == key.name()).cloned(),
        };
        self.keys.iter().map(of).collect()
    }
}

/// How far a witness covers the log.
pub(super) struct Covers {
    key: String,
    name: String,
    head: Option<Head>,
}

impl Covers {
    pub(super) fn line(&self, session: &Session, sheet: &mut Sheet) {
        let text = match &self.head {
            Some(head) if head.size > 0 => Cell::new(format!(
                "entries 0 to {}: cosigned by {} on {}, verified here by its key",
                head.size - 1,
                self.name,
                session.clock.full(head.at)
            )),
            _ => Cell::new(format!("nothing is cosigned by {}", self.name)).tone(Tone::Bad),
        };
        sheet.line("witness", text);
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "witness": self.name,
            "key": self.key,
            "entries": self.head.as_ref().map(|head| head.size),
            "cosigned": self.head.as_ref().map(|head| head.at.to_string()),
        })
    }
}

/// Puts beside a copy of the log what witnesses cosigned of it.
pub(super) fn export(dir: &Path, all: Vec<Witness>, log: &str) -> Result<(), Failure> {
    let dir = dir.join(DIR);
    for witness in all {
        // What holmd calls a witness by is a file's name, and nothing else.
        let name: Name =
            witness.name.parse().map_err(|e| Failure::new(format!("holmd names a witness wrongly: {e}")))?;
        let notes = [witness.note].into_iter().chain(witness.days.into_iter().rev());
        // Whose key it is, is for whoever verifies to say; that it is of this log can be said here.
        let notes = notes.filter(|note| Checkpoint::verify(note, log).is_ok());
        for (number, note) in notes.enumerate() {
            fs::create_dir_all(&dir).map_err(|e| Failure::file("make", &dir, &e))?;
            let path = dir.join(if number == 0 { name.to_string() } else { format!("{name}-{number}") });
            fs::write(&path, note).map_err(|e| Failure::file("write", &path, &e))?;
        }
    }
    Ok(())
}

fn alarmed(no: &NotCovered) -> Failure {
    alarm(no.to_string())
}

/// A key as such, or a file with it.
fn text_of(text: &str) -> Result<String, Failure> {
    let path = Path::new(text);
    match path.is_file() {
        true => fs::read_to_string(path).map_err(|e| Failure::file("read", path, &e)),
        false => Ok(text.to_owned()),
    }
}

fn note_in(path: &Path) -> Result<String, Failure> {
    let failed = |e: &std::io::Error| Failure::file("read", path, e);
    if fs::metadata(path).map_err(|e| failed(&e))?.len() > NOTE_MAX {
        return Err(Failure::new(format!("`{}` is no note of a witness", path.display())));
    }
    fs::read_to_string(path).map_err(|e| failed(&e))
}
