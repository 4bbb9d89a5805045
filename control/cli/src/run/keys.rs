//! The key hierarchy.

use super::Session;
use crate::args::KeysVerb;
use crate::output::Format;
use crate::{Failure, view};
use holm_proto::v1::rotate_keys_request::What;
use holm_proto::v1::{EscrowKeysRequest, Keys, RotateKeysRequest, ShowKeysRequest};
use serde_json::json;
use std::io::{IsTerminal as _, Write as _};

pub(super) async fn run(session: &Session, verb: KeysVerb) -> Result<(), Failure> {
    let mut client = session.keys().await?;
    match verb {
        KeysVerb::Show => {
            let keys = session.ask(client.show_keys(ShowKeysRequest {})).await?;
            show(session, &keys)
        }
        KeysVerb::Rotate { project, kek } => {
            let what = project.clone().map_or(What::Kek(kek), What::Project);
            let keys = session.ask(client.rotate_keys(RotateKeysRequest { what: Some(what) })).await?;
            let sentence = match &project {
                Some(name) => {
                    let now = keys.projects.iter().find(|one| one.project == *name);
                    let generation = now.map_or(0, |one| one.generation);
                    format!(
                        "the key of {name} is of generation {generation} now, and the one before is destroyed"
                    )
                }
                None => format!("the key-encryption key is of generation {} now", keys.kek_generation),
            };
            session.output.done(&sentence, &view::keys_json(&keys))?;
            session.output.next("holm keys show")
        }
        KeysVerb::Escrow { project, to, out } => {
            if out.is_none() && std::io::stdout().is_terminal() {
                let text = "an age file is nothing for a terminal: say where it goes";
                return Err(
                    Failure::usage(text).hint(format!("holm keys escrow {project} --to NAME --out FILE"))
                );
            }
            let request = EscrowKeysRequest { project: project.clone(), to: to.clone() };
            let answer = session.ask(client.escrow_keys(request)).await?;
            let Some(file) = out else {
                let mut stdout = std::io::stdout().lock();
                return stdout
                    .write_all(&answer.age_file)
                    .and_then(|()| stdout.flush())
                    .map_err(|e| Failure::new(format!("cannot write to standard output: {e}")));
            };
            std::fs::write(&file, &answer.age_file).map_err(|e| Failure::file("write", &file, &e))?;
            let sentence = format!(
                "{} keys of {project} are in {}, for {}: keep it, and what opens it, apart from this server",
                answer.volumes,
                file.display(),
                to.join(" and ")
            );
            let json = json!({ "project": project, "to": to, "volumes": answer.volumes, "file": file });
            session.output.done(&sentence, &json)
        }
    }
}

fn show(session: &Session, keys: &Keys) -> Result<(), Failure> {
    let output = &session.output;
    let (sheet, table) = (view::keys(keys, &session.clock), view::project_keys(keys));
    match output.format {
        Format::Table => {
            let table = table.text(output.colour, output.width);
            crate::output::put(&format!("{}\n{table}", sheet.text(output.colour)))
        }
        Format::Json | Format::Csv => output.list(&table, &view::keys_json(keys)),
    }
}
