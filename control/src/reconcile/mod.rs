//! Drives slices and devices from what is observed to what is intended. Level-triggered: a round looks
//! at everything and may be run at any time, twice, or after a kill; it remembers nothing.

mod certificate;
mod clock;
pub mod guest;
pub mod incident;
mod intended;
pub mod jobs;
pub mod keys;
mod lease;
pub mod place;
mod register;
#[cfg(test)]
mod tests;

pub use clock::Clock;
pub(crate) use clock::{DOUBT, steady};
pub use intended::{Trusted, intended, scheduler};

use crate::app::App;
use crate::domain::disks::{self, Keyed};
use crate::domain::records::{NewDisks, Slice, SliceState, VolumeKey};
use crate::domain::{Refusal, RefusalKind, claims, device, lock, scheduler as queue, slice};
use crate::keys::KeyError;
use crate::ledger::{Call, Decided};
use crate::live::HostLive;
use holm_proto::ids::{Name, RunId, SliceId, VolumeId};
use newtype_uuid::GenericUuid;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// In one round it is said of so many things how often they were read: each is a wait for the disk.
const READS: usize = 20;
/// A round is run at least this often, whatever happened or did not.
const PERIOD: Duration = Duration::from_secs(30);

/// What is said to people and hosts of a key provider that is away.
pub const PROVIDER_AWAY: &str = "the key provider cannot be reached; it goes on by itself when it can";

/// Run rounds until holmd ends: at each change of the state or of a host's report, and now and then.
pub async fn run(app: Arc<App>) {
    let mut ledger = app.ledger.subscribe();
    let mut live = app.live.subscribe();
    loop {
        ledger.mark_unchanged();
        live.mark_unchanged();
        let worker = Arc::clone(&app);
        match tokio::task::spawn_blocking(move || round(&worker)).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => tracing::error!("reconciling stopped: {refusal}"),
            Err(failure) => tracing::error!("reconciling failed: {failure}"),
        }
        tokio::select! {
            _ = ledger.changed() => {}
            _ = live.changed() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// One look at everything. What fails for one host or slice holds up no other, unless nothing can be logged.
pub fn round(app: &App) -> Result<(), Refusal> {
    let mut failed = None;
    let mut passed = |done: Result<(), Refusal>| match done {
        Err(refusal) if refusal.kind != RefusalKind::Unavailable => {
            tracing::error!("something is passed over in this round: {refusal}");
            failed.get_or_insert(refusal);
            Ok(())
        }
        done => done,
    };
    for (host, live) in app.live.reporting() {
        passed(devices(app, &host, &live))?;
    }
    let steady = clock::steady(app)?;
    if steady {
        lease::due(app, &mut passed)?;
    }
    if steady {
        passed(guest::look(app, app.ledger.now()))?;
    }
    passed(app.reads_over(app.reads.over(app.ledger.now()), READS))?;
    register::warn(app, &mut passed)?;
    incident::warn(app, &mut passed)?;
    place::all(app, &mut passed)?;
    let state = app.ledger.state();
    for s in state.slices.values() {
        passed(match s.state {
            SliceState::Ready if s.drain.as_ref().is_some_and(|drain| drain.stop) => drained(app, s.id),
            SliceState::Keeping | SliceState::Kept => keep(app, s, steady),
            SliceState::Closing | SliceState::Destroying => destroy(app, s.id),
            // It was placed once, and its request taken back while it waited to be placed again.
            SliceState::Withdrawn if !s.key_fingerprint.is_empty() && s.key_destroyed.is_none() => {
                destroy_key(app, s).map(|_| ())
            }
            _ => Ok(()),
        })?;
        passed(spend(app, s))?;
    }
    // One a round, which brings the next: a provider that is slow holds up what else there is to do by one key.
    let keyless = |s: &&Slice| s.state == SliceState::Placed && s.key_fingerprint.is_empty();
    let free = |s: &&Slice| lock::of_keys(&state, s).is_none();
    for s in state.slices.values().filter(keyless).filter(free) {
        let made = make_key(app, s);
        if matches!(made, Ok(true)) {
            break;
        }
        passed(made.map(drop))?;
    }
    for s in state.slices.values().filter(|s| s.change.is_some() && s.due_change().is_none()).filter(free) {
        passed(make_next(app, s))?;
    }
    failed.map_or(Ok(()), Err)
}

fn devices(app: &App, host: &Name, live: &HostLive) -> Result<(), Refusal> {
    let resource = format!("host/{host}");
    app.ledger.commit_if(&Call::own("observe.device", resource.clone()), |state, _| {
        let changes = device::in_use_by_others(state, host, &live.attached);
        (!changes.is_empty()).then(|| Decided::new(changes, ()))
    })?;
    let mut busy = live.attached.clone();
    if let Some(notes) = &live.notes {
        app.ledger.commit_if(&Call::own("observe.device", resource.clone()), |state, _| {
            let changes = device::noted(state, host, notes);
            (!changes.is_empty()).then(|| Decided::new(changes, ()))
        })?;
        busy.extend(device::unnoted(&app.ledger.state(), host, notes));
    }
    while app.ledger.commit_if(&Call::own("device.sanitise", resource.clone()), |state, now| {
        let (run, changes) = device::order_run(state, host, &busy, RunId::new_v4(), now)?;
        let mut decided = Decided::new(changes, ());
        decided.detail = serde_json::json!({ "run": run.id.into_untyped_uuid(), "devices": run.devices });
        Some(decided)
    })? {}
    Ok(())
}

/// Makes the keys of a slice's volumes. False where it could not be done.
fn make_key(app: &App, s: &Slice) -> Result<bool, Refusal> {
    let make = |keyed: Keyed<'_>| Ok((keyed.volume, app.keys.volume_key(s.project, keyed.key)?.1));
    let made: Result<BTreeMap<VolumeId, String>, KeyError> = s.keyed_volumes().map(make).collect();
    let id = s.id;
    let resource = format!("volume/{}", s.volume.into_untyped_uuid());
    app.ledger.commit_if(&Call::own("key.make", resource), |state, _| {
        let s = state.slices.get(&id)?;
        match &made {
            Ok(prints) => Some(Decided::new(slice::keyed(s, prints), ())),
            Err(e) => {
                // Who leads the project reads this: where the provider is, is not hers to know.
                let why = if e.unreachable { PROVIDER_AWAY.to_owned() } else { crate::ledger::chain(e) };
                let text = format!("no key can be made: {why}");
                Some(Decided::new(slice::waits(s, &text)?, ()))
            }
        }
    })?;
    Ok(made.is_ok())
}

/// Makes the keys that a slice's disks are to get.
fn make_next(app: &App, s: &Slice) -> Result<(), Refusal> {
    let id = s.id;
    let Some(NewDisks::Rekeyed { keys }) = s.change.as_ref().map(|change| &change.what) else {
        return Ok(());
    };
    let make = |next: &VolumeKey| Ok((next.key, app.keys.volume_key(s.project, next.key)?.1));
    let made: Result<BTreeMap<VolumeId, String>, KeyError> = keys.iter().map(make).collect();
    let made = made.map_err(|failure| {
        Refusal::new(RefusalKind::State, format!("no key can be made: {}", crate::ledger::chain(&failure)))
    })?;
    let resource = format!("volume/{}", s.volume.into_untyped_uuid());
    app.ledger.commit_if(&Call::own("key.make", resource), |state, _| {
        let mut decided = Decided::new(disks::made(state.slices.get(&id)?, &made)?, ());
        decided.detail = serde_json::json!({ "fingerprints": made.values().collect::<Vec<_>>() });
        Some(decided)
    })?;
    Ok(())
}

/// Destroys the keys that open nothing of a slice any more.
fn spend(app: &App, s: &Slice) -> Result<(), Refusal> {
    // On hold or locked no key is destroyed: these go when that is lifted, or with the slice.
    let state = app.ledger.state();
    if s.spent.is_empty() || slice::held(&state, s).is_some() || lock::of_keys(&state, s).is_some() {
        return Ok(());
    }
    let (id, spent) = (s.id, s.spent.clone());
    for key in &spent {
        app.keys.destroy(s.project, key.key, false).map_err(|failure| {
            let text = format!("a spent key cannot be destroyed: {}", crate::ledger::chain(&failure));
            Refusal::new(RefusalKind::State, text)
        })?;
    }
    let resource = format!("volume/{}", s.volume.into_untyped_uuid());
    app.ledger.commit_if(&Call::own("key.destroy", resource), |state, _| {
        let s = state.slices.get(&id).filter(|s| spent.iter().all(|key| s.spent.contains(key)))?;
        let mut decided = Decided::new(disks::spent(s, &spent), ());
        let prints: Vec<&str> = spent.iter().map(|key| key.fingerprint.as_str()).collect();
        decided.detail = serde_json::json!({ "spent": prints });
        Some(decided)
    })?;
    Ok(())
}

/// Destroys the key of a slice. False where it could not be done.
fn destroy_key(app: &App, s: &Slice) -> Result<bool, Refusal> {
    let id = s.id;
    let last = !app.ledger.state().slices.values().any(|o| {
        // One that is placed may have a key already, and be waiting for the next.
        let keyed = o.placement.is_some() || !o.key_fingerprint.is_empty();
        o.project == s.project && o.id != id && o.key_destroyed.is_none() && keyed
    });
    let resource = format!("volume/{}", s.volume.into_untyped_uuid());
    // The project's, where it is the last, with the last of them.
    let mut keys = s.all_keys();
    let root = keys.remove(0);
    let mut all = keys.into_iter().map(|key| (key, false)).chain([(root, last)]);
    if let Err(failure) = all.try_for_each(|(volume, last)| app.keys.destroy(s.project, volume, last)) {
        let text = format!("its key cannot be destroyed: {}", crate::ledger::chain(&failure));
        app.ledger.commit_if(&Call::own("key.destroy", resource), |state, _| {
            Some(Decided::new(slice::waits(state.slices.get(&id)?, &text)?, ()))
        })?;
        return Ok(false);
    }
    app.ledger.commit_if(&Call::own("key.destroy", resource), |state, now| {
        let s = state.slices.get(&id).filter(|s| s.key_destroyed.is_none())?;
        let mut decided = Decided::new(slice::key_destroyed(s, now), ());
        let spent = s.next_keys().iter().chain(&s.spent).map(|key| key.fingerprint.as_str());
        let prints: Vec<&str> = s.keyed_volumes().map(|keyed| keyed.fingerprint).chain(spent).collect();
        decided.detail =
            serde_json::json!({ "fingerprint": s.key_fingerprint, "all": prints, "project_key": last });
        Some(decided)
    })?;
    Ok(true)
}

/// Stops what was to be stopped when no job runs. Its guest says that none does; what it claims costs nobody but itself.
fn drained(app: &App, id: SliceId) -> Result<(), Refusal> {
    let state = app.ledger.state();
    let Some(s) = state.slices.get(&id) else { return Ok(()) };
    let placement = s.placement.as_ref();
    let host = placement.and_then(|p| app.live.host(&p.host)).and_then(|host| host.slices.get(&id).cloned());
    let Some(seen) = host.filter(|seen| seen.generation == s.generation) else { return Ok(()) };
    let told = scheduler(s).of;
    if seen.scheduler != told || seen.jobs.is_none_or(|jobs| jobs.running > 0) {
        return Ok(());
    }
    let mut call = Call::own("slice.stop", format!("slice/{}", state.slice_label(s)));
    call.project = state.projects.get(&s.project).map(|p| p.name.to_string());
    app.ledger.commit_if(&call, |state, now| {
        // What is locked runs on as it is.
        let s = state
            .slices
            .get(&id)
            .filter(|s| scheduler(s).of == told && lock::of_slice(state, s).is_none())?;
        let by = s.drain.as_ref().map(|drain| drain.by.to_string());
        Some(Decided {
            detail: serde_json::json!({ "drained_for": by }),
            ..Decided::new(queue::drained(s, now)?, ())
        })
    })?;
    Ok(())
}

/// Key and disk stay as long as something keeps them, and go by themselves when nothing does.
fn keep(app: &App, s: &Slice, steady: bool) -> Result<(), Refusal> {
    let id = s.id;
    let state = app.ledger.state();
    let mut call = Call::own("slice.keep", format!("slice/{}", state.slice_label(s)));
    call.project = state.projects.get(&s.project).map(|p| p.name.to_string());
    app.ledger.commit_if(&call, |state, now| {
        let s = state.slices.get(&id).filter(|s| SliceState::KEPT.contains(&s.state))?;
        let changes = match slice::kept_by(state, s, now) {
            Some(why) => slice::waits(s, &why)?,
            // What its level wanted kept for a time, by a clock that nobody doubts.
            None if !steady && s.keep_until.is_some() => return None,
            None => slice::end_keeping(s, now),
        };
        Some(Decided::new(changes, ()))
    })?;
    Ok(())
}

/// The key goes as soon as closing is in the log; the certificate comes when nothing remains.
fn destroy(app: &App, id: SliceId) -> Result<(), Refusal> {
    let state = app.ledger.state();
    let Some(s) = state.slices.get(&id) else { return Ok(()) };
    if s.key_destroyed.is_none() && !destroy_key(app, s)? {
        return Ok(());
    }
    let state = app.ledger.state();
    let Some(s) = state.slices.get(&id) else { return Ok(()) };
    jobs::remove(app, s)?;
    let state = app.ledger.state();
    let Some(s) = state.slices.get(&id) else { return Ok(()) };
    let remains = slice::remains(&state, s);
    let mut call = Call::own("slice.destroy", format!("slice/{}", state.slice_label(s)));
    call.project = state.projects.get(&s.project).map(|p| p.name.to_string());
    if remains.is_empty() {
        let made = certificate::make(app, &state, s);
        app.ledger.commit_if(&call, |state, now| {
            let s = state.slices.get(&id).filter(|s| s.state == SliceState::Destroying)?;
            let mut changes = slice::destroyed(s, made.clone(), now);
            changes.extend(claims::forget(state, s));
            Some(Decided::new(changes, ()))
        })?;
    } else {
        let reason = format!("waits for {}", remains.join("; "));
        app.ledger.commit_if(&call, |state, _| {
            Some(Decided::new(slice::waits(state.slices.get(&id)?, &reason)?, ()))
        })?;
    }
    Ok(())
}
