//! `pack.toml`: the pack's name, the levels there are and what each demands.

use crate::{
    enforced::{ALWAYS, Obligation},
    error::PackError,
};
use serde::Deserialize;
use std::{collections::BTreeSet, ops::Range, path::Path};
use toml::Spanned;

/// One level of sensitivity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// As the site names it in forms and commands, "3".
    pub id: String,
    /// As people call it, "sensitive".
    pub name: String,
    /// As it is painted.
    pub colour: Colour,
    /// Data of this level may be on this server.
    pub runs_here: bool,
    /// By how many different officers a slice is approved before it starts; 0 where it does not run here.
    pub approvals: u32,
    /// Days that key and disk of a closed slice stay before they are destroyed; 0: not at all.
    pub keep_closed_days: u32,
    /// Days that the last restore drill of a slice may be old when it is started again; 0: none is demanded.
    pub restore_drill_days: u32,
    /// Days that a request waits for its approvals before it is taken back; 0: for ever.
    pub request_days: u32,
    /// Days that a slice runs before officers must approve it anew; 0: as long as its project.
    pub lease_days: u32,
    /// Days after the end of its project at which its slices are closed by themselves; 0: not at all.
    pub closing_days: u32,
    /// Days that entries of the log about its projects are kept; 0: for ever.
    pub log_days: u32,
    /// Hours that a second factor is good for, which its data is opened and decided on with; 0: none is demanded.
    pub second_factor_hours: u32,
    /// Its keys may be given to recipients outside Holm.
    pub escrow: bool,
    /// What must be true of every slice of this level.
    pub obligations: BTreeSet<Obligation>,
    /// What a project of this level must have filed before anything of it starts or is entered.
    pub must_file: BTreeSet<Evidence>,
    /// Why it does not run here and where to go; empty where it does.
    pub refusal: String,
}

impl Level {
    /// Its settings in days, by name.
    pub fn days(&self) -> [(&'static str, u32); 6] {
        [
            ("keep_closed_days", self.keep_closed_days),
            ("restore_drill_days", self.restore_drill_days),
            ("request_days", self.request_days),
            ("lease_days", self.lease_days),
            ("closing_days", self.closing_days),
            ("log_days", self.log_days),
        ]
    }
}

/// Half a year: within less nobody would have looked. Whoever may put a pack in force can destroy no younger evidence.
pub const LOG_DAYS_MIN: u32 = 180;

/// Ten years: who means longer means an archive.
const DAYS_MAX: u32 = 3653;

/// A month: who is asked less often than that is not asked.
const HOURS_MAX: u32 = 744;

/// What a console or a banner paints a level in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each is a colour")]
pub enum Colour {
    Green,
    Blue,
    Yellow,
    Orange,
    Red,
    Purple,
    Grey,
}

/// One rule of the site: what is demanded of it from outside, and what here sees to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteRule {
    /// From 1, as the site counts them.
    pub number: u32,
    /// A sentence.
    pub text: String,
    /// The law, the standard, the guideline that it comes from.
    pub source: String,
    /// What sees to it: `policy/ID`, `obligation/NAME`, `must_file/NAME`, `setting/NAME` or `holm/NAME`, each of which
    /// there is.
    pub by: Vec<String>,
    /// What of it nothing here sees to; empty: nothing is missing.
    pub missing: String,
}

/// What a level can demand that a project has filed. Where one runs out, it must be filed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// On what ground personal data is processed (GDPR, articles 6 and 9), and whether there are special categories.
    LegalBasis,
    /// That it is for research or statistics (Danish Data Protection Act, §10(2)).
    Research,
    /// A data protection impact assessment (GDPR, article 35).
    Dpia,
    /// An approval by an ethics committee.
    Ethics,
    /// A data-management plan.
    DataManagementPlan,
    /// When the project ends.
    EndDate,
}

impl Evidence {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::LegalBasis, Self::Research, Self::Dpia, Self::Ethics, Self::DataManagementPlan, Self::EndDate];

    /// As a pack writes it.
    pub fn text(self) -> &'static str {
        match self {
            Self::LegalBasis => "legal_basis",
            Self::Research => "research",
            Self::Dpia => "dpia",
            Self::Ethics => "ethics",
            Self::DataManagementPlan => "data_management_plan",
            Self::EndDate => "end_date",
        }
    }
}

/// What is read of `pack.toml`.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// Lower-case letters, digits and hyphens.
    pub name: String,
    /// From 1.
    pub version: u32,
    /// NAME/VERSION
    pub id: String,
    /// Never empty, ids unique.
    pub levels: Vec<Level>,
    /// For texts of rules.
    pub shared_cluster: String,
    /// Days that entries of the log of no project are kept; 0: for ever.
    pub log_days: u32,
    /// By number; numbers unique.
    pub site_rules: Vec<SiteRule>,
    /// Where in the text each begins.
    offsets: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    version: Spanned<u32>,
    shared_cluster: Spanned<String>,
    log_days: Option<Spanned<u32>>,
    level: Vec<FileLevel>,
    #[serde(default)]
    rule: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    number: Spanned<u32>,
    text: Spanned<String>,
    source: Spanned<String>,
    #[serde(default)]
    by: Vec<String>,
    missing: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLevel {
    id: Spanned<String>,
    name: Spanned<String>,
    colour: Option<Colour>,
    runs_here: bool,
    approvals: Option<Spanned<u32>>,
    keep_closed_days: Option<Spanned<u32>>,
    restore_drill_days: Option<Spanned<u32>>,
    request_days: Option<Spanned<u32>>,
    lease_days: Option<Spanned<u32>>,
    closing_days: Option<Spanned<u32>>,
    log_days: Option<Spanned<u32>>,
    second_factor_hours: Option<Spanned<u32>>,
    escrow: Option<Spanned<bool>>,
    #[serde(default)]
    obligations: Vec<Spanned<String>>,
    #[serde(default)]
    must_file: Vec<Spanned<Evidence>>,
    refusal: Option<Spanned<String>>,
}

impl FileLevel {
    fn days(&self) -> [(&'static str, Option<&Spanned<u32>>); 6] {
        [
            ("keep_closed_days", self.keep_closed_days.as_ref()),
            ("restore_drill_days", self.restore_drill_days.as_ref()),
            ("request_days", self.request_days.as_ref()),
            ("lease_days", self.lease_days.as_ref()),
            ("closing_days", self.closing_days.as_ref()),
            ("log_days", self.log_days.as_ref()),
        ]
    }
}

/// 0, or enough.
fn check_log_days(days: Option<&Spanned<u32>>) -> Result<(), (Range<usize>, String)> {
    match days.filter(|days| !matches!(*days.as_ref(), 0 | LOG_DAYS_MIN..=DAYS_MAX)) {
        Some(days) => {
            let text =
                format!("`log_days` is {LOG_DAYS_MIN} at least and {DAYS_MAX} at most, or 0: for ever");
            Err((days.span(), text))
        }
        None => Ok(()),
    }
}

/// What is left out is 0.
fn days_of(days: &Option<Spanned<u32>>) -> u32 {
    days.as_ref().map_or(0, |days| *days.as_ref())
}

impl Manifest {
    /// Read and check; `file` is for errors.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, PackError> {
        let at = |span: Range<usize>, problem: String| PackError::at(file, text, span.start, problem);
        let read: File = toml::from_str(text)
            .map_err(|e| at(e.span().unwrap_or(0..0), e.message().trim_end().replace('\n', ": ")))?;

        if !is_word(read.name.as_ref(), 32) {
            return Err(at(
                read.name.span(),
                format!(
                    "`{}` is no name for a pack: use 1 to 32 lower-case letters, digits and hyphens",
                    shown(read.name.as_ref())
                ),
            ));
        }
        if *read.version.as_ref() == 0 {
            return Err(at(read.version.span(), "versions count from 1".to_owned()));
        }
        plain_text(read.shared_cluster.as_ref())
            .map_err(|problem| at(read.shared_cluster.span(), problem))?;
        check_log_days(read.log_days.as_ref()).map_err(|(span, problem)| at(span, problem))?;

        let mut levels: Vec<Level> = Vec::new();
        for level in &read.level {
            let level = check_level(level, read.shared_cluster.as_ref())
                .map_err(|(span, problem)| at(span, problem))
                .and_then(|checked| match levels.iter().any(|l| l.id == checked.id) {
                    true => Err(at(level.id.span(), format!("there are two levels `{}`", checked.id))),
                    false => Ok(checked),
                })?;
            levels.push(level);
        }
        if levels.is_empty() {
            return Err(PackError::whole(file, "there is no level: add `[[level]]`"));
        }
        let mut site_rules: Vec<SiteRule> = Vec::new();
        let mut offsets = Vec::new();
        for rule in &read.rule {
            let checked = check_rule(rule).map_err(|(span, problem)| at(span, problem))?;
            if site_rules.iter().any(|other| other.number == checked.number) {
                return Err(at(rule.number.span(), format!("there are two rules {}", checked.number)));
            }
            site_rules.push(checked);
            offsets.push(rule.number.span().start);
        }
        Ok(Self {
            name: read.name.as_ref().clone(),
            version: *read.version.as_ref(),
            id: format!("{}/{}", read.name.as_ref(), read.version.as_ref()),
            levels,
            shared_cluster: read.shared_cluster.into_inner(),
            log_days: days_of(&read.log_days),
            site_rules,
            offsets,
        })
    }

    /// Every rule of the site points at what there is: `policies` are the ids of the pack's.
    pub(crate) fn check_references(
        &self,
        (file, text): (&Path, &str),
        policies: impl Fn(&str) -> bool,
    ) -> Result<(), PackError> {
        for (rule, offset) in self.site_rules.iter().zip(&self.offsets) {
            for reference in &rule.by {
                self.check_reference(reference, &policies).map_err(|problem| {
                    PackError::at(file, text, *offset, format!("rule {}: {problem}", rule.number))
                })?;
            }
        }
        Ok(())
    }

    fn check_reference(&self, reference: &str, policies: impl Fn(&str) -> bool) -> Result<(), String> {
        let here = || self.levels.iter().filter(|level| level.runs_here);
        let said = shown(reference);
        let (kind, name) = reference.split_once('/').unwrap_or((reference, ""));
        match kind {
            "policy" if policies(name) => Ok(()),
            "policy" => Err(format!("`{said}`: no rule in policies.cedar has this id")),
            "obligation" => {
                let known =
                    Obligation::ALL.iter().find(|o| o.text() == name).ok_or_else(|| no_obligation(name))?;
                match here().any(|level| level.obligations.contains(known)) {
                    true => Ok(()),
                    false => Err(format!("`{said}`: no level that runs here demands it")),
                }
            }
            "must_file" => {
                let known = Evidence::ALL.iter().find(|evidence| evidence.text() == name);
                match known.map(|known| here().any(|level| level.must_file.contains(known))) {
                    Some(true) => Ok(()),
                    Some(false) => Err(format!("`{said}`: no level that runs here demands it")),
                    None => {
                        let there = Evidence::ALL.map(Evidence::text).join(", ");
                        Err(format!("`{said}`: there is {there}"))
                    }
                }
            }
            "setting" => {
                let set = |level: &Level| match name {
                    "approvals" => Some(level.approvals > 0),
                    "second_factor_hours" => Some(level.second_factor_hours > 0),
                    _ => level.days().iter().find(|(setting, _)| *setting == name).map(|(_, days)| *days > 0),
                };
                let values: Option<Vec<bool>> = here().map(set).collect();
                match values {
                    None => {
                        let days = here().next().map(|level| level.days().map(|(name, _)| name).join(", "));
                        Err(format!(
                            "`{said}`: there is approvals, second_factor_hours, {}",
                            days.unwrap_or_default()
                        ))
                    }
                    Some(values) if values.contains(&true) => Ok(()),
                    Some(_) => Err(format!("`{said}`: no level that runs here sets it")),
                }
            }
            "holm" if ALWAYS.iter().any(|(there, ..)| *there == name) => Ok(()),
            "holm" => {
                let names: Vec<&str> = ALWAYS.iter().map(|(name, ..)| *name).collect();
                Err(format!("`{said}`: there is {}", names.join(", ")))
            }
            _ => Err(format!(
                "`{said}` points at nothing: write policy/ID, obligation/NAME, must_file/NAME, setting/NAME or holm/NAME"
            )),
        }
    }
}

fn check_rule(rule: &FileRule) -> Result<SiteRule, (Range<usize>, String)> {
    let number = *rule.number.as_ref();
    if number == 0 {
        return Err((rule.number.span(), "rules count from 1".to_owned()));
    }
    for text in [Some(&rule.text), Some(&rule.source), rule.missing.as_ref()].into_iter().flatten() {
        plain_text(text.as_ref()).map_err(|problem| (text.span(), problem))?;
    }
    if rule.by.is_empty() && rule.missing.is_none() {
        let problem = format!("rule {number}: say in `by` what sees to it, or in `missing` what does not");
        return Err((rule.number.span(), problem));
    }
    Ok(SiteRule {
        number,
        text: rule.text.as_ref().clone(),
        source: rule.source.as_ref().clone(),
        by: rule.by.clone(),
        missing: rule.missing.as_ref().map(|text| text.as_ref().clone()).unwrap_or_default(),
    })
}

fn no_obligation(name: &str) -> String {
    let there: Vec<&str> = Obligation::ALL.iter().map(|o| o.text()).collect();
    format!("nothing in Holm enforces `{}`: there is {}", shown(name), there.join(", "))
}

/// One level by itself. What is left out is refused, never guessed.
fn check_level(level: &FileLevel, shared_cluster: &str) -> Result<Level, (Range<usize>, String)> {
    let id = level.id.as_ref();
    let fail = |span: Range<usize>, problem: String| Err((span, problem));
    if !is_word(id, 16) {
        let problem =
            format!("`{}` is no level: use 1 to 16 lower-case letters, digits and hyphens", shown(id));
        return fail(level.id.span(), problem);
    }
    plain_text(level.name.as_ref()).map_err(|problem| (level.name.span(), problem))?;
    let mut obligations = BTreeSet::new();
    for obligation in &level.obligations {
        let text = obligation.as_ref();
        let Some(known) = Obligation::ALL.iter().find(|known| known.text() == text) else {
            return fail(obligation.span(), no_obligation(text));
        };
        if !obligations.insert(*known) {
            return fail(obligation.span(), format!("level `{id}` has this obligation twice"));
        }
    }
    // A command without a terminal, a copy, a forwarded port would be a way in that nothing records.
    let recorded = Obligation::RecordedTerminals.text();
    if let Some(recorded) = level.obligations.iter().find(|there| there.as_ref() == recorded)
        && !obligations.contains(&Obligation::TerminalOnly)
    {
        let problem = format!(
            "level `{id}`: `{}` takes `{}`, or there are ways in that are not recorded",
            recorded.as_ref(),
            Obligation::TerminalOnly.text()
        );
        return fail(recorded.span(), problem);
    }
    let mut must_file = BTreeSet::new();
    for evidence in &level.must_file {
        if !must_file.insert(*evidence.as_ref()) {
            return fail(evidence.span(), format!("level `{id}` demands this evidence twice"));
        }
    }
    let (mut approvals, mut refusal) = (0, String::new());
    if let Some(hours) = level.second_factor_hours.as_ref().filter(|hours| *hours.as_ref() > HOURS_MAX) {
        return fail(hours.span(), format!("level `{id}`: `second_factor_hours` is {HOURS_MAX} at most"));
    }
    for (name, days) in level.days() {
        if let Some(days) = days.filter(|days| *days.as_ref() > DAYS_MAX) {
            return fail(days.span(), format!("level `{id}`: `{name}` is {DAYS_MAX} at most"));
        }
    }
    check_log_days(level.log_days.as_ref())
        .map_err(|(span, problem)| (span, format!("level `{id}`: {problem}")))?;
    if level.runs_here {
        match &level.approvals {
            Some(n) if *n.as_ref() > 0 => approvals = *n.as_ref(),
            Some(n) => return fail(n.span(), format!("level `{id}` runs here: it needs 1 approval or more")),
            None => {
                return fail(
                    level.id.span(),
                    format!("level `{id}` runs here: say how many `approvals` it needs"),
                );
            }
        }
        if let Some(text) = &level.refusal {
            return fail(text.span(), format!("level `{id}` runs here: it has no `refusal`"));
        }
    } else {
        match &level.refusal {
            Some(text) => {
                let text = text.as_ref().replace("{shared_cluster}", shared_cluster);
                plain_text(&text).map_err(|problem| (level.id.span(), problem))?;
                refusal = format!("level {id} ({}) may not run here: {text}", level.name.as_ref());
            }
            None => {
                let problem = format!("level `{id}` does not run here: say in `refusal` where to go instead");
                return fail(level.id.span(), problem);
            }
        }
        if let Some(n) = &level.approvals {
            return fail(n.span(), format!("level `{id}` does not run here: it has no `approvals`"));
        }
        for (name, days) in level.days() {
            if let Some(days) = days {
                return fail(days.span(), format!("level `{id}` does not run here: it has no `{name}`"));
            }
        }
        if let Some(hours) = &level.second_factor_hours {
            return fail(
                hours.span(),
                format!("level `{id}` does not run here: it has no `second_factor_hours`"),
            );
        }
        if let Some(flag) = &level.escrow {
            return fail(flag.span(), format!("level `{id}` does not run here: it has no `escrow`"));
        }
        if let Some(first) = level.obligations.first() {
            return fail(first.span(), format!("level `{id}` does not run here: it has no `obligations`"));
        }
        if let Some(first) = level.must_file.first() {
            return fail(first.span(), format!("level `{id}` does not run here: it has no `must_file`"));
        }
    }
    Ok(Level {
        id: id.clone(),
        name: level.name.as_ref().clone(),
        colour: level.colour.unwrap_or(Colour::Grey),
        runs_here: level.runs_here,
        approvals,
        keep_closed_days: days_of(&level.keep_closed_days),
        restore_drill_days: days_of(&level.restore_drill_days),
        request_days: days_of(&level.request_days),
        lease_days: days_of(&level.lease_days),
        closing_days: days_of(&level.closing_days),
        log_days: days_of(&level.log_days),
        second_factor_hours: days_of(&level.second_factor_hours),
        escrow: level.escrow.as_ref().is_some_and(|flag| *flag.as_ref()),
        obligations,
        must_file,
        refusal,
    })
}

/// Safe in a log line, a label, an id.
fn is_word(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// One line that a person reads, with nothing left to fill in.
fn plain_text(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("this text is empty".to_owned());
    }
    if text.contains(['{', '}']) || text.chars().any(char::is_control) {
        return Err(format!(
            "`{}` is not one line of plain text; only `{{shared_cluster}}` of a level's `refusal` is filled in",
            shown(text)
        ));
    }
    Ok(())
}

/// What somebody wrote, bounded and printable.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_debug).collect()
}
