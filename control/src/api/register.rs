//! What projects have filed, as it crosses the wire, and what they have yet to file.

use super::view::time;
use crate::app::App;
use crate::domain::records::Project;
use crate::domain::register::{self, Filed, Registration};
use crate::domain::{Refusal, RefusalKind, State};
use holm_policies::Pack;
use holm_proto::v1;
use jiff::Timestamp;
use std::ops::Deref;
use std::sync::Arc;

/// The state at the moment at which something is asked: whether a paper still holds depends on both.
pub(super) struct Seen<'a> {
    pub app: &'a App,
    /// One pack from question to answer.
    pub pack: Arc<Pack>,
    pub state: &'a State,
    pub now: Timestamp,
}

impl Deref for Seen<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state
    }
}

impl Seen<'_> {
    /// What a project has yet to file, for what is of this level.
    pub(super) fn missing(&self, p: &Project, level: &str) -> Vec<String> {
        register::missing(p, &register::demanded(&self.pack, level), self.now)
    }
}

/// What a project has filed, what it has yet to file, and what runs out.
pub(super) fn shown(seen: &Seen<'_>, p: &Project, whole: v1::Project) -> v1::Project {
    let agreement = |(person, f): (_, &Filed)| v1::Agreement {
        person: ToString::to_string(person),
        filed: Some(filed(f)),
    };
    let slices = seen.slices.values().filter(|s| s.project == p.id);
    let terms = register::all_terms(p, &seen.pack, slices, seen.now);
    v1::Project {
        registration: Some(registration(&p.registration)),
        missing: seen.missing(p, &p.level),
        warnings: register::ending(terms, seen.now),
        agreements: register::agreements(p).map(agreement).collect(),
        ..whole
    }
}

/// The record of processing, if it is whole.
pub(super) fn record(seen: &Seen<'_>, p: &Project) -> Result<v1::ProcessingRecord, Refusal> {
    let lacks = register::unrecorded(p);
    if !lacks.is_empty() {
        let text =
            format!("the record of processing of `{}` is not whole: it lacks {}", p.name, lacks.join(", "));
        let hint = format!("its lead files that: holm project file {} …", p.name);
        return Err(Refusal::new(RefusalKind::State, text).hint(hint));
    }
    let pack = &seen.pack;
    let level = pack.level(&p.level).ok_or_else(|| {
        let text = format!("`{}` is no level of {}: what protects it is not known", p.level, pack.id());
        Refusal::new(RefusalKind::State, text)
    })?;
    let of = &p.registration;
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(v1::ProcessingRecord {
        project: p.name.to_string(),
        controller: said(&of.controller),
        lead: p.lead.to_string(),
        department: p.department.clone(),
        purpose: p.purpose.clone(),
        legal_bases: register::legal_bases(of),
        categories: said(&of.categories),
        special_categories: of.special_categories == Some(true),
        recipients: said(&of.recipients),
        transfers: said(&of.transfers),
        erased_after: of.ends.map(time),
        erasure: said(&of.erasure),
        measures: register::measures(p, level),
        level_name: p.level_name.clone(),
        registration: Some(registration(of)),
        written: Some(time(seen.now)),
        pack: pack.id().to_owned(),
    })
}

fn registration(of: &Registration) -> v1::Registration {
    let of = of.clone();
    v1::Registration {
        legal_basis: of.legal_basis,
        special_categories: of.special_categories,
        special_basis: of.special_basis,
        research: of.research,
        dpia: of.dpia.as_ref().map(filed),
        ethics: of.ethics.as_ref().map(filed),
        data_management_plan: of.data_management_plan.as_ref().map(filed),
        ends: of.ends.map(time),
        controller: of.controller,
        categories: of.categories,
        recipients: of.recipients,
        transfers: of.transfers,
        erasure: of.erasure,
        measures: of.measures,
    }
}

fn filed(of: &Filed) -> v1::Filed {
    v1::Filed { reference: of.reference.clone(), expires: of.expires.map(time) }
}

/// What somebody wants to file.
pub(super) fn wanted(message: v1::Registration) -> Result<Registration, Refusal> {
    Ok(Registration {
        legal_basis: message.legal_basis,
        special_categories: message.special_categories,
        special_basis: message.special_basis,
        research: message.research,
        dpia: message.dpia.map(paper).transpose()?,
        ethics: message.ethics.map(paper).transpose()?,
        data_management_plan: message.data_management_plan.map(paper).transpose()?,
        ends: message.ends.as_ref().map(instant).transpose()?,
        controller: message.controller,
        categories: message.categories,
        recipients: message.recipients,
        transfers: message.transfers,
        erasure: message.erasure,
        measures: message.measures,
    })
}

pub(super) fn paper(message: v1::Filed) -> Result<Filed, Refusal> {
    let expires = message.expires.as_ref().map(instant).transpose()?;
    Ok(Filed { reference: message.reference.trim().to_owned(), expires })
}

/// Whole seconds, so that it reads as it was typed.
pub(super) fn instant(at: &prost_types::Timestamp) -> Result<Timestamp, Refusal> {
    Timestamp::from_second(at.seconds)
        .map_err(|_| Refusal::new(RefusalKind::Invalid, "there is no such time"))
}
