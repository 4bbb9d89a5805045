//! Incidents: opened, told of, closed, and written out.

use super::{Known, alarm, checkpoint, key_for};
use crate::args::IncidentVerb;
use crate::output::{Cell, Sheet, Tone};
use crate::run::Session;
use crate::run::project::afterwards;
use crate::text::{instant, parse_since, timestamp};
use crate::{Exit, Failure, view};
use holm_control::bundle::{self, Verified};
use holm_proto::v1::{
    CloseIncidentRequest, ExportIncidentRequest, ListIncidentsRequest, NoteNotificationRequest,
    OpenIncidentRequest,
};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, Seek, Write};
use std::path::Path;
use tempfile::NamedTempFile;

pub(super) async fn run(session: &Session, verb: IncidentVerb) -> Result<(), Failure> {
    if let IncidentVerb::Verify { file, key } = &verb {
        return check(session, file, key.as_deref());
    }
    let output = &session.output;
    let mut client = session.incidents().await?;
    match verb {
        IncidentVerb::List => {
            let all = session.ask(client.list_incidents(ListIncidentsRequest {})).await?.incidents;
            let json: Vec<_> = all.iter().map(view::incident_json).collect();
            output.list(&view::incidents(&all, &session.clock), &json!(json))
        }
        IncidentVerb::Open { project, reason, aware, dry_run } => {
            aware.as_deref().map(|text| session.same_again(text)).transpose()?;
            let aware =
                aware.map(|text| parse_since(&text, &session.clock)).transpose().map_err(Failure::usage)?;
            let request = OpenIncidentRequest { project, reason, aware: aware.map(timestamp), dry_run };
            let one = session.ask(client.open_incident(request)).await?;
            let by = instant(one.deadline.as_ref()).map(|at| session.clock.full(at)).unwrap_or_default();
            let (number, project) = (one.number, &one.project);
            let sentence = format!(
                "incident {number} is open, {project} is frozen, and the authority is to be told by {by}"
            );
            output.done(&afterwards(dry_run, sentence), &view::incident_json(&one))?;
            if dry_run {
                Ok(())
            } else {
                output.next(&format!("holm slice list --project {project}   (what runs, runs on)"))
            }
        }
        IncidentVerb::Notified { number, reference, reason, dry_run } => {
            let request = NoteNotificationRequest { number, reference, reason, dry_run };
            let one = session.ask(client.note_notification(request)).await?;
            let sentence = format!("the authority was told of incident {number}: {}", one.reference);
            output.done(&afterwards(dry_run, sentence), &view::incident_json(&one))
        }
        IncidentVerb::Export { number, to, at } => export(session, number, at, &to).await,
        // Done above, without holmd.
        IncidentVerb::Verify { .. } => Ok(()),
        IncidentVerb::Close { number, reason, dry_run } => {
            let request = CloseIncidentRequest { number, reason, dry_run };
            let one = session.ask(client.close_incident(request)).await?;
            let sentence = format!("incident {number} is closed; {} stays frozen", one.project);
            output.done(&afterwards(dry_run, sentence), &view::incident_json(&one))?;
            output.next(&format!(
                "holm lock lift project/{0} --reason TEXT; holm project release {0} --reason TEXT",
                one.project
            ))
        }
    }
}

/// Writes it, once it is verified.
async fn export(session: &Session, number: u32, size: u64, to: &Path) -> Result<(), Failure> {
    let exists = || {
        let text = format!("`{}` is there already: name another file", to.display());
        Failure { exit: Exit::Usage, ..Failure::new(text) }
    };
    if to.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let now = checkpoint(session, &mut session.log().await?).await?;
    let known = Known::of(session, None, &now)?;
    let mut stream = session
        .ask(session.incidents().await?.export_incident(ExportIncidentRequest { number, size }))
        .await?;
    let failed = |e: std::io::Error| Failure::file("write", to, &e);
    let dir = to.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(dir).map_err(failed)?;
    while let Some(chunk) = stream.message().await? {
        file.write_all(&chunk.data).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.rewind().map_err(failed)?;
    let verified = bundle::verify(BufReader::new(file.as_file()), &known.key)
        .map_err(|e| alarm(format!("what holmd sent is no bundle of this log: {}", holm_proto::chain(&e))))?;
    file.persist_noclobber(to).map_err(|_| exists())?;
    let sentence = format!(
        "{} entries of {}, each proven to be among the log's {}, in `{}`",
        verified.entries,
        verified.of.project,
        verified.of.size,
        to.display()
    );
    session.output.done(&sentence, &bundle_json(&verified))?;
    session
        .output
        .next(&format!("holm audit incident verify {} --key KEY   (anywhere, offline)", to.display()))
}

/// Verifies one, offline.
fn check(session: &Session, path: &Path, key: Option<&str>) -> Result<(), Failure> {
    let key = key_for(session, key, &format!("holm audit incident verify {} --key KEY", path.display()))?;
    let file = File::open(path).map_err(|e| Failure::file("read", path, &e))?;
    let verified = bundle::verify(BufReader::new(file), &key).map_err(|e| {
        Failure::new(format!("`{}` is NOT what was signed: {}", path.display(), holm_proto::chain(&e)))
    })?;
    let of = &verified.of;
    let mut sheet = Sheet::new(format!("incident {} of {}", of.incident, of.project))
        .state(Cell::new("verified").tone(Tone::Good));
    sheet
        .line("level", &of.level)
        .line("log", format!("{}, {} entries", of.log, of.size))
        .line("entries", format!("{}, each proven to be in the log", verified.entries))
        .line("files", format!("{}, each as it was signed", verified.files))
        .line("rules", &of.pack)
        .line("key", &key);
    session.output.sheet(&sheet, &bundle_json(&verified))?;
    session.output.remark("that no entry of the project was left out it cannot show: the whole log can");
    Ok(())
}

fn bundle_json(verified: &Verified) -> Value {
    let of = &verified.of;
    json!({ "log": of.log, "size": of.size, "incident": of.incident, "project": of.project, "level": of.level,
        "pack": of.pack, "entries": verified.entries, "files": verified.files })
}
