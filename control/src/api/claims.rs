//! What hosts say of full disks, into the log: a slice's disk that has become nearly full or full, as its guest claims,
//! and a machine that is paused because there is no room for what it writes, or goes on. How full each is now is not
//! kept anywhere: `live` has the last report.

use super::agent;
use crate::app::App;
use crate::domain::records::Slice;
use crate::domain::{Refusal, fullness};
use crate::ledger::Call;
use holm_proto::ids::{Name, RequestId, SliceId};
use holm_proto::v1;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a guest may claim of this slice's disks.
pub(super) fn claimed(slice: &Slice, seen: &v1::ObservedSlice) -> Vec<v1::DiskUse> {
    let own = |disk: &&v1::DiskUse| fullness::has(&disk.name, slice.others.iter().map(|other| other.kind));
    seen.disks.iter().filter(own).cloned().collect()
}

/// What is news in a report of this host.
pub(super) fn note(
    app: &App,
    host: &Name,
    call: &Call,
    reported: &BTreeMap<SliceId, v1::ObservedSlice>,
) -> Result<(), Refusal> {
    let state = app.ledger.state();
    for (id, seen) in reported {
        let here = |s: &&Slice| s.placement.as_ref().is_some_and(|p| &p.host == host) && !s.state.is_final();
        let Some(slice) = state.slices.get(id).filter(here).filter(|s| s.generation == seen.generation)
        else {
            continue;
        };
        let call = |action| Call {
            request: RequestId::new_v4(),
            action,
            resource: format!("slice/{}", state.slice_label(slice)),
            project: state.projects.get(&slice.project).map(|p| p.name.to_string()),
            ..call.clone()
        };
        let disks = claimed(slice, seen);
        for crossing in app.live.told(*id, |told| told.crossings(&disks, app.ledger.now())) {
            let detail = json!({ "disk": crossing.disk, "used_percent": crossing.used, "at_least": crossing.threshold });
            entry(app, &call("observe.disk"), detail)
                .inspect_err(|_| app.live.told(*id, fullness::Told::forget))?;
        }
        let paused = seen.paused;
        if app.live.told(*id, |told| told.is_paused()) != paused && agent::admitted(app, host)? {
            app.live.told(*id, |told| told.paused(paused));
            entry(app, &call("observe.paused"), json!({ "host": host, "paused": paused }))
                .inspect_err(|_| app.live.told(*id, fullness::Told::forget))?;
        }
    }
    app.live.keep_told(|id| state.slices.get(&id).is_some_and(|s| !s.state.is_final()));
    Ok(())
}

fn entry(app: &App, call: &Call, detail: Value) -> Result<(), Refusal> {
    app.ledger.note(call, detail)
}
