//! The register: what a project has filed, what it has yet to file, and what runs out when.
//!
//! ```text
//!   filed ── 30, 14 and 3 days before its end, and at it: an entry each ──▶ ended: it is missing again, and by the
//!     ▲                                                                     pack's rules nothing of the project starts
//!     └───────────────────────────── filed anew ◀───────────────────────────┘ or is entered; what runs runs on
//! ```
//!
//! What is missing is not kept: it follows from what was filed and from the time at which somebody asks.

use super::records::{Change, Project, Record, Slice};
use super::{Refusal, RefusalKind, lease};
use holm_policies::{Evidence, Level, Obligation, Pack};
use holm_proto::ids::Name;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The longest reference, in characters.
const REFERENCE_MAX: usize = 100;
/// The longest text for the record of processing, in characters.
const TEXT_MAX: usize = 500;
/// The largest record of a project, in bytes: an entry of the log holds it, and more.
const RECORD_MAX: usize = 40_000;
/// Days before something ends on which there is an entry; 0: it has ended.
const WARNINGS: [u32; 4] = [30, 14, 3, 0];

/// What a project has filed. What is absent is not filed; in what somebody files, it stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registration {
    /// Letter of article 6(1) of the GDPR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legal_basis: Option<String>,
    /// Whether there is data of special categories, article 9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub special_categories: Option<bool>,
    /// Letter of article 9(2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub special_basis: Option<String>,
    /// Its purpose is research or statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub research: Option<bool>,
    /// The data protection impact assessment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpia: Option<Filed>,
    /// The approval by an ethics committee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethics: Option<Filed>,
    /// The data-management plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_management_plan: Option<Filed>,
    /// When the project ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends: Option<Timestamp>,
    /// Who answers for the processing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Whose data it is, and of what kinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub categories: Option<String>,
    /// Who is given it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipients: Option<String>,
    /// To which third countries it goes, on what ground.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfers: Option<String>,
    /// How and when it is erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erasure: Option<String>,
    /// What protects it, beside what its level demands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measures: Option<String>,
}

/// A paper that lies elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filed {
    /// Under which it is found there.
    pub reference: String,
    /// From then on it is good for nothing; absent: it does not run out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// A warning that is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warned {
    /// What ends, in a word.
    pub what: String,
    /// When. Of what was filed anew since, it says nothing.
    pub ends: Timestamp,
    /// The fewest days before, of those on which there is one.
    pub days: u32,
}

impl Registration {
    /// Nothing is filed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is filed, by name.
    pub fn named(&self) -> Vec<String> {
        let fields = serde_json::to_value(self).unwrap_or_default();
        fields.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    }

    /// The texts for the record of processing.
    fn texts(&self) -> [&Option<String>; 6] {
        [&self.controller, &self.categories, &self.recipients, &self.transfers, &self.erasure, &self.measures]
    }
}

/// What a level demands to be filed. One that the pack does not know demands all there is.
pub fn demanded(pack: &Pack, level: &str) -> BTreeSet<Evidence> {
    pack.level(level).map_or_else(|| Evidence::ALL.into(), |level| level.must_file.clone())
}

/// File what is new.
pub fn file(project: &Project, new: Registration, now: Timestamp) -> Result<Project, Refusal> {
    check(&new, now)?;
    let old = project.registration.clone();
    let registration = Registration {
        legal_basis: new.legal_basis.map(|letter| letter.trim().to_lowercase()).or(old.legal_basis),
        special_categories: new.special_categories.or(old.special_categories),
        special_basis: new.special_basis.map(|letter| letter.trim().to_lowercase()).or(old.special_basis),
        research: new.research.or(old.research),
        dpia: new.dpia.or(old.dpia),
        ethics: new.ethics.or(old.ethics),
        data_management_plan: new.data_management_plan.or(old.data_management_plan),
        ends: new.ends.or(old.ends),
        controller: new.controller.or(old.controller),
        categories: new.categories.or(old.categories),
        recipients: new.recipients.or(old.recipients),
        transfers: new.transfers.or(old.transfers),
        erasure: new.erasure.or(old.erasure),
        measures: new.measures.or(old.measures),
    };
    fits(Project { registration, ..project.clone() })
}

/// A person from outside works under an agreement, which ends.
pub fn agreement(project: &mut Project, person: &Name, filed: Filed, now: Timestamp) -> Result<(), Refusal> {
    check_filed(&filed, now)?;
    if filed.expires.is_none() {
        let text = "the agreement of a member from outside ends some day";
        return Err(invalid(text).hint("--agreement-expires DATE"));
    }
    project.agreements.insert(person.clone(), filed);
    Ok(())
}

/// A project whose record still fits into an entry of the log, whatever comes with it: one that does not could not be
/// put on hold.
pub fn fits(project: Project) -> Result<Project, Refusal> {
    match serde_json::to_vec(&project) {
        Ok(bytes) if bytes.len() <= RECORD_MAX => Ok(project),
        _ => Err(invalid("all that this project says of itself is more than its record holds")
            .hint("say it in fewer words, and refer to papers that lie elsewhere")),
    }
}

/// What the level demands and is not there at this time, in words for the project's lead, each with the option that
/// files it. Empty: nothing stands in the way.
pub fn missing(project: &Project, must: &BTreeSet<Evidence>, now: Timestamp) -> Vec<String> {
    let of = &project.registration;
    let lacks = |evidence: &Evidence| match evidence {
        Evidence::LegalBasis => lacks_basis(of),
        Evidence::Research if of.research == Some(true) => Vec::new(),
        Evidence::Research => vec!["that it is research or statistics (--research)".to_owned()],
        Evidence::Dpia => lacks_filed(of.dpia.as_ref(), "a DPIA (--dpia)", now),
        Evidence::Ethics => lacks_filed(of.ethics.as_ref(), "an ethics approval (--ethics)", now),
        Evidence::DataManagementPlan => {
            let plan = of.data_management_plan.as_ref();
            lacks_filed(plan, "a data-management plan (--data-management-plan)", now)
        }
        Evidence::EndDate => match of.ends {
            Some(_) if !project.is_over(now) => Vec::new(),
            Some(ends) => vec![format!("an end date (--ends): it ended on {}", date(ends))],
            None => vec!["an end date (--ends)".to_owned()],
        },
    };
    must.iter().flat_map(lacks).collect()
}

/// Members from outside whose agreement has ended.
pub fn lapsed(project: &Project, now: Timestamp) -> Vec<Name> {
    let ended = |filed: &Filed| filed.expires.is_some_and(|expires| now >= expires);
    agreements(project).filter(|(_, filed)| ended(filed)).map(|(name, _)| name.clone()).collect()
}

/// Of members from outside. Those of who has left are there still, for when she comes back.
pub fn agreements(project: &Project) -> impl Iterator<Item = (&Name, &Filed)> {
    project.agreements.iter().filter(|(name, _)| project.members.contains(name))
}

/// What the record of processing lacks (GDPR, article 30), in words for the project's lead. Empty: it is whole.
pub fn unrecorded(project: &Project) -> Vec<String> {
    let of = &project.registration;
    let mut lacks = lacks_basis(of);
    let texts = [
        (&of.controller, "who answers for it (--controller)"),
        (&of.categories, "whose data it is, and of what kinds (--categories)"),
        (&of.recipients, "who is given it (--recipients)"),
        (&of.transfers, "to which countries it goes (--transfers)"),
        (&of.erasure, "how it is erased (--erasure)"),
    ];
    lacks.extend(texts.iter().filter(|(text, _)| text.is_none()).map(|(_, what)| (*what).to_owned()));
    lacks.extend(of.ends.is_none().then(|| "when it is erased (--ends)".to_owned()));
    lacks
}

/// The articles of the GDPR that it rests on.
pub fn legal_bases(of: &Registration) -> Vec<String> {
    let special = of.special_basis.as_ref().filter(|_| of.special_categories == Some(true));
    let general = of.legal_basis.iter().map(|letter| format!("article 6(1)({letter})"));
    general.chain(special.map(|letter| format!("article 9(2)({letter})"))).collect()
}

/// What protects a project's data: what its level demands of every slice, and what it says itself.
pub fn measures(project: &Project, level: &Level) -> Vec<String> {
    let officers = match level.approvals {
        1 => "an officer approves each machine".to_owned(),
        n => format!("{n} officers approve each machine"),
    };
    let obligations = level.obligations.iter().map(|obligation| said(*obligation).to_owned());
    let logged = "who is let in, and every refusal, is in a log that cannot be changed unseen".to_owned();
    obligations.chain([officers, logged]).chain(project.registration.measures.clone()).collect()
}

/// An obligation, as it is said of a project's machines.
pub fn said(obligation: Obligation) -> &'static str {
    match obligation {
        Obligation::EncryptedVolume => "disks are encrypted, under keys of the project alone",
        Obligation::LockedMemory => "machines' memory is their own and never swapped",
        Obligation::NoNetwork => "machines reach no network",
        Obligation::OwnNode => "nobody else's GPU, core or memory is on a NUMA node that a machine is on",
        Obligation::OutsideApprover => "one of who approves is outside the project",
        Obligation::RecordedTerminals => "what terminals show is recorded",
        Obligation::TerminalOnly => "over SSH there is a terminal, and nothing is copied out by it",
        Obligation::Vtpm => "machines have a virtual TPM",
    }
}

/// What ends within the longest time of warning, or has ended, in words for everybody who reads of the project.
pub fn ending(terms: Vec<(String, Timestamp)>, now: Timestamp) -> Vec<String> {
    let soon = |(what, ends): (String, Timestamp)| {
        due(ends, now)?;
        let days = ends.duration_since(now).as_hours() / 24;
        let when = match days {
            _ if now >= ends => "has ended".to_owned(),
            0 => "ends within a day".to_owned(),
            1 => "ends in 1 day".to_owned(),
            days => format!("ends in {days} days"),
        };
        Some(format!("{what} {when}, on {}", date(ends)))
    };
    terms.into_iter().filter_map(soon).collect()
}

/// The warnings that are due and were not given, and the project that remembers them. Whatever the clock does, there is
/// one for each of the days at most, and none for more days than the last had.
pub fn warn(
    project: &Project,
    terms: &[(String, Timestamp)],
    now: Timestamp,
) -> Option<(Change, Vec<Warned>)> {
    let of_now = |w: &&Warned| terms.iter().any(|(what, ends)| *what == w.what && *ends == w.ends);
    let mut warned: Vec<Warned> = project.warned.iter().filter(of_now).cloned().collect();
    let mut new = Vec::new();
    for (what, ends) in terms {
        let Some(days) = due(*ends, now) else { continue };
        match warned.iter_mut().find(|w| w.what == *what) {
            Some(before) if before.days <= days => continue,
            Some(before) => before.days = days,
            None => warned.push(Warned { what: what.clone(), ends: *ends, days }),
        }
        new.push(Warned { what: what.clone(), ends: *ends, days });
    }
    let next = || Change::Put(Record::Project(Project { warned, ..project.clone() }));
    (!new.is_empty()).then(|| (next(), new))
}

/// All of a project that ends some day, its slices' leases among it.
pub fn all_terms<'a>(
    project: &Project,
    pack: &Pack,
    slices: impl Iterator<Item = &'a Slice>,
    now: Timestamp,
) -> Vec<(String, Timestamp)> {
    let mut all = terms(project, &demanded(pack, &project.level));
    all.extend(lease::terms(slices, project, pack.level(&project.level), now));
    all
}

/// What ends some day, of what the level demands, and the agreements of members from outside.
fn terms(project: &Project, must: &BTreeSet<Evidence>) -> Vec<(String, Timestamp)> {
    let of = &project.registration;
    let expires = |filed: &Option<Filed>| filed.as_ref().and_then(|filed| filed.expires);
    let demanded = [
        (Evidence::Dpia, "its DPIA", expires(&of.dpia)),
        (Evidence::Ethics, "its ethics approval", expires(&of.ethics)),
        (Evidence::DataManagementPlan, "its data-management plan", expires(&of.data_management_plan)),
        (Evidence::EndDate, "the project", of.ends),
    ];
    let demanded = demanded.into_iter().filter(|(evidence, ..)| must.contains(evidence));
    let agreements = agreements(project).map(|(name, filed)| (format!("the agreement of {name}"), filed));
    demanded
        .filter_map(|(_, what, ends)| Some((what.to_owned(), ends?)))
        .chain(agreements.filter_map(|(what, filed)| Some((what, filed.expires?))))
        .collect()
}

/// The fewest days before its end that are reached.
fn due(ends: Timestamp, now: Timestamp) -> Option<u32> {
    let left = ends.duration_since(now);
    WARNINGS.into_iter().filter(|days| left <= super::days(*days)).min()
}

fn lacks_basis(of: &Registration) -> Vec<String> {
    let lacks = [
        (of.legal_basis.is_none(), "a legal basis (--legal-basis)"),
        (of.special_categories.is_none(), "whether there are special categories (--special-categories)"),
        (
            of.special_categories == Some(true) && of.special_basis.is_none(),
            "a basis for special categories (--special-basis)",
        ),
    ];
    lacks.into_iter().filter(|(lacks, _)| *lacks).map(|(_, what)| what.to_owned()).collect()
}

fn lacks_filed(filed: Option<&Filed>, what: &str, now: Timestamp) -> Vec<String> {
    match filed.map(|filed| filed.expires) {
        None => vec![what.to_owned()],
        Some(Some(expires)) if now >= expires => vec![format!("{what}: the last ended on {}", date(expires))],
        Some(_) => Vec::new(),
    }
}

/// In UTC.
fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

fn check(new: &Registration, now: Timestamp) -> Result<(), Refusal> {
    letter(new.legal_basis.as_deref(), 'a'..='f', "6(1)")?;
    letter(new.special_basis.as_deref(), 'a'..='j', "9(2)")?;
    for filed in [&new.dpia, &new.ethics, &new.data_management_plan].into_iter().flatten() {
        check_filed(filed, now)?;
    }
    if let Some(ends) = new.ends.filter(|ends| *ends <= now) {
        return Err(invalid(format!("the project would have ended on {} already", date(ends))));
    }
    new.texts().into_iter().flatten().try_for_each(|text| line(text, TEXT_MAX))
}

fn check_filed(filed: &Filed, now: Timestamp) -> Result<(), Refusal> {
    line(&filed.reference, REFERENCE_MAX)?;
    match filed.expires.filter(|expires| *expires <= now) {
        Some(expires) => {
            Err(invalid(format!("`{}` has ended already, on {}", shown(&filed.reference), date(expires)))
                .hint("file the one that holds now"))
        }
        None => Ok(()),
    }
}

fn letter(given: Option<&str>, of: std::ops::RangeInclusive<char>, article: &str) -> Result<(), Refusal> {
    let Some(given) = given else { return Ok(()) };
    let mut letters = given.trim().chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) if of.contains(&letter.to_ascii_lowercase()) => Ok(()),
        _ => Err(invalid(format!(
            "`{}` is no letter of article {article} of the GDPR: there are {} to {}",
            shown(given),
            of.start(),
            of.end()
        ))),
    }
}

/// One line that says something.
pub(super) fn line(text: &str, most: usize) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(invalid("what is filed says something: a text is empty"));
    }
    if text.chars().count() > most || text.chars().any(char::is_control) {
        return Err(invalid(format!("`{}…` is not one line of {most} characters at most", shown(text))));
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, text)
}

#[cfg(test)]
mod tests;
