//! Sanitising runs: every device that holmd names, cleaned or not cleaned, with evidence, once a run.
//!
//! ```text
//!   Waiting ──▶ Active ──▶ Done (stored; reported until holmd no longer lists the run) ──▶ forgotten
//!      ▲          │
//!      └──────────┘ a device was still held, or it could not be looked: a few tries, then not cleaned
//! ```
//!
//! A run that was cut off is done again from the start, under its own id. Evidence names the run and every
//! device of it; a device in anybody's hands is not touched and not called clean. How its devices stand is
//! stored before: dirty before the first is touched, clean before the evidence is told.

use super::{
    devices::{BEING_CLEANED, Mark},
    engine::{Engine, Now, Turn},
    next::Holder,
    slice::{Trouble, brief},
};
use crate::edge::{self, EdgeError, Host};
use holm_proto::{
    ids::{PciAddress, RunId},
    v1,
};
use std::collections::{BTreeMap, BTreeSet};

/// How often a run is tried while a device of it is still held.
const TRIES: u32 = 4;

/// A run in memory.
#[derive(Debug)]
pub(super) struct Run {
    devices: Vec<PciAddress>,
    /// holmd wants it, or wants to hear of it.
    listed: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting(Option<Trouble>),
    Active,
    Done(Vec<v1::Evidence>),
}

impl Run {
    /// One that an earlier agent finished.
    pub(super) fn done(evidence: Vec<v1::Evidence>) -> Self {
        Self { devices: Vec::new(), listed: false, state: State::Done(evidence) }
    }

    /// Takes up what holmd lists, and names the runs that it has judged.
    pub(super) fn list(
        runs: &mut BTreeMap<RunId, Self>,
        listed: BTreeMap<RunId, Vec<PciAddress>>,
    ) -> Vec<RunId> {
        for (id, run) in runs.iter_mut() {
            run.listed = listed.contains_key(id);
        }
        for (id, devices) in listed {
            runs.entry(id).or_insert(Self { devices, listed: true, state: State::Waiting(None) });
        }
        let unlisted = runs.iter().filter(|(_, run)| !run.listed && !matches!(run.state, State::Active));
        let unlisted: Vec<RunId> = unlisted.map(|(id, _)| *id).collect();
        for id in &unlisted {
            runs.remove(id);
        }
        unlisted
    }

    /// Devices that are being cleaned now.
    pub(super) fn cleaning(runs: &BTreeMap<RunId, Self>) -> BTreeSet<PciAddress> {
        let active = runs.values().filter(|run| matches!(run.state, State::Active));
        active.flat_map(|run| run.devices.iter().copied()).collect()
    }

    /// What there is to tell.
    pub(super) fn reports(runs: &BTreeMap<RunId, Self>) -> Vec<v1::SanitiseReport> {
        let done = runs.iter().filter(|(_, run)| run.listed);
        done.filter_map(|(id, run)| match &run.state {
            State::Done(evidence) => {
                Some(v1::SanitiseReport { run_id: id.to_string(), evidence: evidence.clone() })
            }
            State::Waiting(_) | State::Active => None,
        })
        .collect()
    }
}

impl Engine {
    /// Cleans the devices of one run, or of none. One caller at a time.
    pub fn clean(&self, now: Now) -> Turn {
        let mut state = self.lock();
        let mut soonest = None;
        let due = state.runs.iter().find_map(|(id, run)| match &run.state {
            State::Waiting(Some(trouble)) if trouble.until > now.instant => {
                soonest = [soonest, Some(trouble.until)].into_iter().flatten().min();
                None
            }
            State::Waiting(trouble) => Some((*id, run.devices.clone(), trouble.clone())),
            State::Active | State::Done(_) => None,
        });
        let Some((id, devices, trouble)) = due else { return Turn::Until(soonest) };
        let mut refused: BTreeMap<PciAddress, String> = BTreeMap::new();
        for device in &devices {
            match state.holder(*device, None) {
                Some(Holder::Slice(_)) => drop(refused.insert(*device, "a slice has it".to_owned())),
                Some(Holder::Cleaning) => drop(refused.insert(*device, "another run cleans it".to_owned())),
                None => {}
            }
        }
        if let Some(run) = state.runs.get_mut(&id) {
            run.state = State::Active;
        }
        state.epoch += 1;
        drop(state);

        let held = self.host.attached();
        let still = match &held {
            Ok(held) => devices
                .iter()
                .find(|device| held.contains(device))
                .map(|device| format!("something holds `{device}`")),
            Err(error) => Some(error.chain()),
        };
        if let Some(text) = still
            && trouble.as_ref().map_or(1, |trouble| trouble.tries + 1) < TRIES
        {
            tracing::warn!(run = %id, "devices cannot be cleaned yet: {text}");
            return self.settle(
                id,
                State::Waiting(Some(Trouble::after(trouble.as_ref(), &self.limits, now, brief(&text)))),
            );
        }
        for device in &devices {
            match &held {
                Err(error) => drop(refused.entry(*device).or_insert(brief(&error.chain()))),
                Ok(held) if held.contains(device) => {
                    refused.entry(*device).or_insert_with(|| "something holds it".to_owned());
                }
                Ok(_) => {}
            }
        }
        let touched: Vec<PciAddress> =
            devices.iter().copied().filter(|device| !refused.contains_key(device)).collect();
        // A cleaning that is cut off leaves nothing clean.
        let begun = self.mark(|notes| {
            touched.iter().for_each(|device| notes.set(*device, Mark::dirty(BEING_CLEANED)));
            Ok(())
        });
        if let Err(error) = begun {
            let again = Trouble::after(trouble.as_ref(), &self.limits, now, brief(&error.chain()));
            return self.settle(id, State::Waiting(Some(again)));
        }
        let evidence = clean_all(&*self.host, id, &devices, &refused);
        let saved = self.note_cleaned(id, &touched, &evidence);
        if let Err(error) = saved.and_then(|()| self.save_run(id, &evidence)) {
            // What is not stored was not done: a later report must not differ from an earlier one.
            tracing::error!(run = %id, %error, "the evidence cannot be stored");
            let again = Trouble::after(trouble.as_ref(), &self.limits, now, brief(&error.chain()));
            return self.settle(id, State::Waiting(Some(again)));
        }
        let cleaned = evidence.iter().filter(|evidence| evidence.cleaned).count();
        tracing::info!(run = %id, cleaned, of = devices.len(), "devices were sanitised");
        self.settle(id, State::Done(evidence))
    }

    /// How the devices of a run stand after it, before anybody is told.
    fn note_cleaned(
        &self,
        run: RunId,
        touched: &[PciAddress],
        evidence: &[v1::Evidence],
    ) -> edge::Result<()> {
        self.mark(|notes| {
            for device in touched {
                let found = evidence.iter().find(|evidence| evidence.address == device.to_string());
                let mark = match found {
                    Some(evidence) if evidence.cleaned => Mark::Clean { run },
                    Some(evidence) => Mark::dirty(format!("not cleaned: {}", brief(&evidence.detail))),
                    None => Mark::dirty("not cleaned: there is no evidence"),
                };
                notes.set(*device, mark);
            }
            Ok(())
        })
    }

    fn save_run(&self, id: RunId, evidence: &[v1::Evidence]) -> edge::Result<()> {
        self.record
            .save_run(id, evidence)
            .map_err(|error| EdgeError::because("cannot store the evidence of a run", error))
    }

    fn settle(&self, id: RunId, outcome: State) -> Turn {
        let mut state = self.lock();
        state.epoch += 1;
        match state.runs.get_mut(&id) {
            Some(run) if run.listed => run.state = outcome,
            // holmd judged it meanwhile, as missing: what was found is told to nobody.
            _ => {
                state.runs.remove(&id);
                if let Err(error) = self.record.forget_run(id) {
                    tracing::warn!(run = %id, %error, "evidence that nobody asks for stays for now");
                }
            }
        }
        self.bump(&mut state);
        Turn::Again
    }
}

/// Evidence for every device, in the order of the run.
fn clean_all(
    host: &dyn Host,
    run: RunId,
    devices: &[PciAddress],
    refused: &BTreeMap<PciAddress, String>,
) -> Vec<v1::Evidence> {
    let mut refused = refused.clone();
    let mut bound = Vec::new();
    for device in devices.iter().filter(|device| !refused.contains_key(device)).collect::<Vec<_>>() {
        // VFIO reaches only what is on vfio-pci; a device that has just joined may be on another driver.
        match host.bind(*device) {
            Ok(()) => bound.push(*device),
            Err(error) => drop(refused.insert(*device, brief(&error.chain()))),
        }
    }
    let mut found: BTreeMap<String, v1::Evidence> = BTreeMap::new();
    if !bound.is_empty() {
        match host.sanitise(run, &bound) {
            Ok(all) => found.extend(all.into_iter().map(|evidence| (evidence.address.clone(), evidence))),
            Err(error) => {
                refused.extend(bound.into_iter().map(|device| (device, brief(&error.chain()))));
            }
        }
    }
    let all = devices.iter().map(|device| {
        let mut evidence = match refused.remove(device) {
            Some(why) => not_cleaned(why),
            None => found
                .remove(&device.to_string())
                .unwrap_or_else(|| not_cleaned("nothing was said of it".to_owned())),
        };
        evidence.run_id = run.to_string();
        evidence.address = device.to_string();
        evidence
    });
    all.collect()
}

fn not_cleaned(detail: String) -> v1::Evidence {
    v1::Evidence { cleaned: false, detail, ..Default::default() }
}
