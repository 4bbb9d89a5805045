//! `pack.toml`: the pack's name, the levels there are and what each demands.

use crate::error::PackError;
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
    /// Data of this level may be on this server.
    pub runs_here: bool,
    /// By how many different officers a slice is approved before it starts; 0 where it does not run here.
    pub approvals: u32,
    /// Days that key and disk of a closed slice stay before they are destroyed; 0: not at all.
    pub keep_closed_days: u32,
    /// Days that the last restore drill of a slice may be old when it is started again; 0: none is demanded.
    pub restore_drill_days: u32,
    /// Its keys may be given to recipients outside Holm.
    pub escrow: bool,
    /// What must be true of every slice of this level.
    pub obligations: BTreeSet<Obligation>,
    /// Why it does not run here and where to go; empty where it does.
    pub refusal: String,
}

/// Ten years: who means longer means an archive.
const KEEP_MAX: u32 = 3653;

/// What a level can demand of a slice. One that nothing here could fulfil is no obligation but an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obligation {
    /// Its disk is encrypted with a key of its own.
    EncryptedVolume,
    /// It reaches no network.
    NoNetwork,
    /// It has a virtual TPM.
    Vtpm,
}

/// What is read of `pack.toml`.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// NAME/VERSION
    pub id: String,
    /// Never empty, ids unique.
    pub levels: Vec<Level>,
    /// For texts of rules.
    pub shared_cluster: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    version: Spanned<u32>,
    shared_cluster: Spanned<String>,
    level: Vec<FileLevel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLevel {
    id: Spanned<String>,
    name: Spanned<String>,
    runs_here: bool,
    approvals: Option<Spanned<u32>>,
    keep_closed_days: Option<Spanned<u32>>,
    restore_drill_days: Option<Spanned<u32>>,
    escrow: Option<Spanned<bool>>,
    #[serde(default)]
    obligations: Vec<Spanned<Obligation>>,
    refusal: Option<Spanned<String>>,
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
        Ok(Self {
            id: format!("{}/{}", read.name.as_ref(), read.version.as_ref()),
            levels,
            shared_cluster: read.shared_cluster.into_inner(),
        })
    }
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
        if !obligations.insert(*obligation.as_ref()) {
            return fail(obligation.span(), format!("level `{id}` has this obligation twice"));
        }
    }
    let (mut approvals, mut refusal) = (0, String::new());
    let keep_closed_days = level.keep_closed_days.as_ref().map_or(0, |days| *days.as_ref());
    if let Some(days) = level.keep_closed_days.as_ref().filter(|_| keep_closed_days > KEEP_MAX) {
        return fail(days.span(), format!("level `{id}` keeps what is closed for {KEEP_MAX} days at most"));
    }
    let restore_drill_days = level.restore_drill_days.as_ref().map_or(0, |days| *days.as_ref());
    if let Some(days) = level.restore_drill_days.as_ref().filter(|_| restore_drill_days > KEEP_MAX) {
        return fail(days.span(), format!("level `{id}` demands a drill in {KEEP_MAX} days at most"));
    }
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
        if let Some(n) = &level.keep_closed_days {
            return fail(n.span(), format!("level `{id}` does not run here: it has no `keep_closed_days`"));
        }
        if let Some(n) = &level.restore_drill_days {
            return fail(n.span(), format!("level `{id}` does not run here: it has no `restore_drill_days`"));
        }
        if let Some(flag) = &level.escrow {
            return fail(flag.span(), format!("level `{id}` does not run here: it has no `escrow`"));
        }
        if let Some(first) = level.obligations.first() {
            return fail(first.span(), format!("level `{id}` does not run here: it has no `obligations`"));
        }
    }
    Ok(Level {
        id: id.clone(),
        name: level.name.as_ref().clone(),
        runs_here: level.runs_here,
        approvals,
        keep_closed_days,
        restore_drill_days,
        escrow: level.escrow.as_ref().is_some_and(|flag| *flag.as_ref()),
        obligations,
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
