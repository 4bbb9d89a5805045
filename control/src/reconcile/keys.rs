//! Watches the key provider, and goes on with rotations that were begun.

use crate::app::App;
use crate::domain::Refusal;
use crate::domain::records::Slice;
use crate::keys::{Done, KeyError};
use crate::ledger::{Call, Decided, chain};
use holm_proto::ids::ProjectId;
use newtype_uuid::GenericUuid;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the provider is asked whether it is there.
const PERIOD: Duration = Duration::from_secs(5);
/// How often every wrapped key is read, where nothing is known to be behind: somebody else may have rotated the
/// key-encryption key at the provider.
const ALL: Duration = Duration::from_secs(600);

/// Look until holmd ends.
pub async fn run(app: Arc<App>) {
    let mut said = Said::default();
    loop {
        let worker = Arc::clone(&app);
        let looked = tokio::task::spawn_blocking(move || {
            look(&worker, &mut said);
            said
        });
        match looked.await {
            Ok(still) => said = still,
            Err(failure) => {
                tracing::error!("the key provider cannot be watched: {failure}");
                said = Said::default();
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What was said before: nothing is said twice.
#[derive(Default)]
struct Said {
    down: bool,
    unfinished: String,
    /// When every wrapped key was read last, and all was well.
    read: Option<Instant>,
}

fn look(app: &App, said: &mut Said) {
    let checked = app.keys.check();
    if checked.is_err() != said.down {
        let down = checked.as_ref().err().map(|failure| chain(failure));
        match &down {
            Some(why) => tracing::error!("the key provider is down: {why}"),
            None => tracing::info!("the key provider is back"),
        }
        let logged = app.ledger.commit_if(&Call::own("observe.keys", "keys".to_owned()), |_, _| {
            Some(Decided { detail: json!({ "down": down }), ..Decided::new(Vec::new(), ()) })
        });
        // Where the log cannot be written it is said again.
        if logged.is_ok() {
            said.down = checked.is_err();
        }
    }
    if checked.is_err() {
        return;
    }
    if !app.keys.is_behind() && said.read.is_some_and(|read| read.elapsed() < ALL) {
        return;
    }
    let unfinished = finish(app).err().unwrap_or_default();
    said.read = unfinished.is_empty().then(Instant::now);
    if !unfinished.is_empty() && unfinished != said.unfinished {
        tracing::error!("a rotation of keys is not through: {unfinished}");
    }
    said.unfinished = unfinished;
}

/// Wrap anew what is behind, each step an entry. Why it is not through, where it is not.
pub fn finish(app: &App) -> Result<(), String> {
    let state = app.ledger.state();
    let volumes = |project: ProjectId| {
        // Of the state now: a slice has its volume's id before the volume has a key.
        let of = |s: &Slice| s.all_keys();
        app.ledger.state().slices.values().filter(|s| s.project == project).flat_map(of).collect()
    };
    let mut unlogged: Option<Refusal> = None;
    let done = app.keys.finish(&volumes, &mut |one| {
        let named = |project: &ProjectId| state.projects.get(project).map(|p| p.name.to_string());
        let (action, resource, project, detail) = match &one {
            Done::Rewrapped { project, generation, kek_generation, fingerprint } => {
                let detail = json!({ "fingerprint": fingerprint, "generation": generation, "kek_generation": kek_generation });
                ("key.rewrap", project.into_untyped_uuid().to_string(), named(project), detail)
            }
            Done::Rotated { project, from, to, before, after, volumes } => {
                let detail = json!({
                    "from": from, "to": to, "volumes": volumes,
                    "fingerprint_before": before, "fingerprint_after": after,
                });
                ("key.rotate", project.into_untyped_uuid().to_string(), named(project), detail)
            }
            // At every start, and nothing happens.
            Done::Retired { below: 1 } => return,
            Done::Retired { below } => ("key.retire", "kek".to_owned(), None, json!({ "below": below })),
        };
        let mut call = Call::own(action, format!("key/{resource}"));
        call.project = project;
        let logged = app.ledger.note(&call, detail);
        unlogged = unlogged.take().or(logged.err());
    });
    let failed = |failure: KeyError| chain(&failure);
    done.map_err(failed)?;
    unlogged.map_or(Ok(()), |refusal| Err(refusal.to_string()))
}
