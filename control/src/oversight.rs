//! At its start holmd writes down what its configuration says of how it is watched, where that differs from what the log has.

use crate::app::Failure;
use crate::config::Config;
use crate::domain::oversight::differs;
use crate::ledger::{Call, Decided, Ledger};
use crate::watch::Watch;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// The action of the entry.
pub const START: &str = "oversight.start";

/// What is configured: rules, those that are built in too, witnesses, streams, the review, and who is told of all that.
fn parts(config: &Config) -> Result<BTreeMap<String, String>, String> {
    fn of<T: Serialize>(what: &T) -> Result<String, String> {
        let text = serde_json::to_vec(what).map_err(|e| e.to_string())?;
        Ok(HEXLOWER.encode(digest(&SHA256, &text).as_ref()))
    }
    let mut parts = BTreeMap::new();
    for rule in Watch::new(config.watch.as_deref())?.configs() {
        parts.insert(format!("watch/{}", rule.name), of(rule)?);
    }
    for (name, witness) in &config.witness.cosigners {
        parts.insert(format!("witness/{name}"), of(witness)?);
    }
    for (name, sink) in &config.stream.sinks {
        parts.insert(format!("stream/{name}"), of(sink)?);
    }
    parts.insert("review".to_owned(), of(&config.review)?);
    parts.insert("notify".to_owned(), of(&config.notify)?);
    Ok(parts)
}

/// An entry, where it is another than before.
pub fn start(config: &Config, ledger: &Ledger) -> Result<(), Failure> {
    let failed =
        |why: String| Failure::new(format!("what watches holmd cannot be logged: {why}"), "holmd check");
    let parts = parts(config).map_err(failed)?;
    let written = ledger.commit_if(&Call::own(START, "oversight".to_owned()), |state, _| {
        let (difference, changes) = differs(state, &parts)?;
        Some(Decided { detail: json!(difference), ..Decided::new(changes, ()) })
    });
    written.map(drop).map_err(|refusal| failed(refusal.to_string()))
}
