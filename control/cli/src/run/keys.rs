//! The key hierarchy.

use super::Session;
use crate::args::KeysVerb;
use crate::output::Format;
use crate::{Failure, view};
use holm_proto::v1::rotate_keys_request::What;
use holm_proto::v1::{Keys, RotateKeysRequest, ShowKeysRequest};

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
