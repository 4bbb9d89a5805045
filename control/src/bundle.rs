//! Everything of one project in one signed archive, for who looks into an incident: made by holmd, verified by anybody, offline.
//!
//! ```text
//!   checkpoint                    the log's head, signed
//!   entries/000000.jsonl …        its entries, each proven to be in the log (audit::proven)
//!   records.json                  what these entries say in the end of the project, its slices, locks and incidents
//!   people.json                   who appears in them, by id, from which entry to which
//!   certificates/SLICE.note       deletion certificates, signed
//!   policy/pack.toml …            the rules in force when it was made
//!   MANIFEST                      a signed note: of what it is, and SHA-256 of each file before it
//! ```
//!
//! A tar file of the same entries under the same head, made under the same rules, is the same bytes. Nothing in it has to be
//! believed but the log's key: records, people and certificates are made anew from the entries and compared. That no entry was
//! left out it cannot show; the whole log can. Pure.

mod tar;

use crate::audit::proven::{self, ProvenError};
use crate::audit::{CARRY, Checkpoint, Entry, Hash, SigningKey, note};
use crate::domain::lock::Subject;
use crate::domain::records::{Change, Record};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use holm_proto::ids::{Name, ProjectId, SliceId};
use newtype_uuid::GenericUuid;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

const MANIFEST: &str = "MANIFEST";
const CHECKPOINT: &str = "checkpoint";
const ENTRIES: &str = "entries/";
/// First in the manifest: the log's key signs nothing else that begins so.
const FORM: &str = "holm incident bundle 1";

/// Of what a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of {
    /// The log's name.
    pub log: String,
    /// Entries that the log had.
    pub size: u64,
    /// The incident's number.
    pub incident: u32,
    /// Its project.
    pub project: Name,
    /// That project's level, and what it is called.
    pub level: String,
    /// NAME/VERSION of the policy pack, and its SHA-256.
    pub pack: String,
}

/// What is signed.
fn manifest(of: &Of, files: &[(String, String)]) -> String {
    let Of { log, size, incident, project, level, pack } = of;
    let mut text = format!(
        "{FORM}\nlog {log}\nsize {size}\nincident {incident}\nproject {project}\nlevel {level}\npack {pack}\n"
    );
    for (name, sha256) in files {
        text.push_str(&format!("{sha256}  {name}\n"));
    }
    text
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// Why it is no bundle.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BundleError {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("its manifest is not to be believed")]
    Manifest(#[from] note::NoteError),
    #[error("its manifest is not of the form `{FORM}`")]
    Form,
    #[error("`{0}` is not as the manifest has it, or one of the two was left out")]
    File(String),
    #[error("`{0}` is not what follows from the entries")]
    Derived(String),
    #[error("`{file}` does not prove its entries")]
    Entries { file: String, source: ProvenError },
    #[error("entry {0} stands after one that comes later in the log, or is of another project")]
    Entry(u64),
}

/// What entries say in the end of a project.
#[derive(Debug, Default)]
struct Story {
    records: BTreeMap<String, Record>,
    /// By id, the first and the last entry.
    people: BTreeMap<String, (u64, u64)>,
}

impl Story {
    fn take(&mut self, entry: &Entry) {
        if entry.actor.starts_with("person/") {
            self.people.entry(entry.actor.clone()).or_insert((entry.index, entry.index)).1 = entry.index;
        }
        for change in &entry.changes {
            match serde_json::from_value(change.clone()) {
                Ok(Change::Put(record)) => drop(self.records.insert(record.key(), record)),
                Ok(Change::Delete(key)) => drop(self.records.remove(&key)),
                // One of an older form, which the entry itself still shows.
                Err(_) => {}
            }
        }
    }

    /// The files that follow from it.
    fn files(&self, of: &Name) -> Vec<(String, Vec<u8>)> {
        let projects: BTreeSet<ProjectId> = self
            .records
            .values()
            .filter_map(|record| match record {
                Record::Project(project) if project.name == *of => Some(project.id),
                _ => None,
            })
            .collect();
        let slices: BTreeSet<SliceId> = self
            .records
            .values()
            .filter_map(|record| match record {
                Record::Slice(slice) if projects.contains(&slice.project) => Some(slice.id),
                _ => None,
            })
            .collect();
        let is = |record: &&Record| match record {
            Record::Project(project) => project.name == *of,
            Record::Slice(slice) => slices.contains(&slice.id),
            Record::Claims(claims) => slices.contains(&claims.slice),
            Record::Incident(incident) => incident.project == *of,
            Record::Lock(lock) => match &lock.subject {
                Subject::Project(name) | Subject::Slice(name, _) | Subject::Keys(name) => name == of,
                Subject::Person(_) | Subject::Device(..) => false,
            },
            _ => false,
        };
        let records: Vec<&Record> = self.records.values().filter(is).collect();
        let people: BTreeMap<&String, _> = self
            .people
            .iter()
            .map(|(id, (first, last))| (id, json!({ "first_entry": first, "last_entry": last })))
            .collect();
        let mut files = vec![
            ("records.json".to_owned(), format!("{:#}\n", json!(records)).into_bytes()),
            ("people.json".to_owned(), format!("{:#}\n", json!(people)).into_bytes()),
        ];
        for record in records {
            if let Record::Slice(slice) = record
                && let Some(certificate) = &slice.certificate
            {
                let name = format!("certificates/{}.note", slice.id.into_untyped_uuid());
                files.push((name, certificate.note.clone().into_bytes()));
            }
        }
        files
    }
}

/// Whether an entry can be in the bundle of a project: it concerns it, or none. What was written down anew when old entries
/// went is of everybody.
pub fn may_have(project: &Name, entry: &Entry) -> bool {
    entry.action != CARRY && entry.project.as_deref().is_none_or(|of| of == project.as_str())
}

/// Makes a bundle: what each call returns are the archive's next bytes.
pub struct Writer {
    of: Of,
    note: String,
    key: SigningKey,
    files: Vec<(String, String)>,
    parts: usize,
    story: Story,
}

impl Writer {
    /// Begin, of the log's first `of.size` entries, over which the root is this.
    pub fn new(of: Of, root: Hash, key: SigningKey) -> (Self, Vec<u8>) {
        let head = Checkpoint { origin: of.log.clone(), size: of.size, root };
        let note = note::sign(&key, &of.log, &head.text());
        let (files, story) = (Vec::new(), Story::default());
        let mut writer = Self { of, note: note.clone(), key, files, parts: 0, story };
        let begun = writer.file(CHECKPOINT, note.as_bytes());
        (writer, begun)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Vec<u8> {
        self.files.push((name.to_owned(), sha256(bytes)));
        tar::member(name, bytes)
    }

    /// The next entries, each with its index and its proof.
    pub fn entries(&mut self, entries: &[(u64, Vec<u8>, Vec<Hash>)]) -> Result<Vec<u8>, ProvenError> {
        let mut part = Vec::new();
        let mut writer = proven::Writer::new(&mut part, &self.note, &self.key.vkey(&self.of.log))?;
        for (index, body, proof) in entries {
            writer.push(*index, body, proof)?;
            let failed = |source| ProvenError::Form { line: 0, source };
            self.story.take(&Entry::from_bytes(body).map_err(failed)?);
        }
        writer.finish()?;
        let name = format!("{ENTRIES}{:06}.jsonl", self.parts);
        self.parts += 1;
        Ok(self.file(&name, &part))
    }

    /// The rest of it, with the rules in these files.
    pub fn finish(mut self, policy: &[(String, String)]) -> Vec<u8> {
        let mut all = Vec::new();
        for (name, bytes) in self.story.files(&self.of.project) {
            all.extend(self.file(&name, &bytes));
        }
        for (name, text) in policy {
            all.extend(self.file(&format!("policy/{name}"), text.as_bytes()));
        }
        let signed = note::sign(&self.key, &self.of.log, &manifest(&self.of, &self.files));
        all.extend(tar::member(MANIFEST, signed.as_bytes()));
        all.extend(tar::end());
        all
    }
}

/// What a bundle was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Of what.
    pub of: Of,
    /// How many entries it has.
    pub entries: u64,
    /// How many files, the manifest not counted.
    pub files: usize,
}

/// Verify one: every byte of it was signed with the key in `vkey`, its entries are in that log, and the rest follows from them.
pub fn verify(mut from: impl Read, vkey: &str) -> Result<Verified, BundleError> {
    let (mut files, mut derived) = (Vec::<(String, String)>::new(), BTreeMap::new());
    let mut story = Story::default();
    let (mut head, mut signed): (Option<Checkpoint>, Option<String>) = (None, None);
    let (mut count, mut next, mut foreign) = (0, 0, BTreeMap::new());
    while let Some((name, bytes)) = tar::next(&mut from)? {
        // Of two with one name, who unpacks it sees the second.
        if signed.is_some() || files.iter().any(|(before, _)| *before == name) {
            return Err(BundleError::File(name));
        }
        if name == MANIFEST {
            signed = Some(String::from_utf8(bytes).map_err(|_| BundleError::Form)?);
            continue;
        }
        files.push((name.clone(), sha256(&bytes)));
        if name == CHECKPOINT {
            let text = String::from_utf8(bytes).map_err(|_| BundleError::Form)?;
            head = Some(Checkpoint::verify(&text, vkey)?);
        } else if name.starts_with(ENTRIES) {
            let mut late = None;
            let proven = proven::verify(bytes.as_slice(), vkey, |entry| {
                if entry.index < next {
                    late.get_or_insert(entry.index);
                }
                next = entry.index + 1;
                if let Some(of) = &entry.project {
                    foreign.entry(of.clone()).or_insert(entry.index);
                }
                story.take(entry);
            });
            let proven = proven.map_err(|source| BundleError::Entries { file: name.clone(), source })?;
            if Some(&proven.head) != head.as_ref() {
                return Err(BundleError::File(name));
            }
            if let Some(index) = late {
                return Err(BundleError::Entry(index));
            }
            count += proven.entries;
        } else if !name.starts_with("policy/") {
            derived.insert(name, bytes);
        }
    }
    let text = note::verify(&signed.ok_or(BundleError::Form)?, vkey)?;
    let of = read(&text).ok_or(BundleError::Form)?;
    if manifest(&of, &files) != text {
        let has = |name: &str, sha256: &str| text.lines().any(|line| line == format!("{sha256}  {name}"));
        let bad = files.iter().find(|(name, sha256)| !has(name, sha256)).map(|(name, _)| name.as_str());
        return Err(BundleError::File(bad.unwrap_or(MANIFEST).to_owned()));
    }
    if head.is_none_or(|head| head.size != of.size || head.origin != of.log) {
        return Err(BundleError::File(CHECKPOINT.to_owned()));
    }
    foreign.remove(of.project.as_str());
    if let Some(index) = foreign.values().next() {
        return Err(BundleError::Entry(*index));
    }
    for (name, bytes) in story.files(&of.project) {
        if derived.remove(&name).as_ref() != Some(&bytes) {
            return Err(BundleError::Derived(name));
        }
    }
    match derived.into_keys().next() {
        Some(name) => Err(BundleError::Derived(name)),
        None => Ok(Verified { of, entries: count, files: files.len() }),
    }
}

/// Of what a manifest says that it is.
fn read(text: &str) -> Option<Of> {
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name);
    field(FORM).filter(|rest| rest.is_empty())?;
    Some(Of {
        log: field("log ")?.to_owned(),
        size: field("size ")?.parse().ok()?,
        incident: field("incident ")?.parse().ok()?,
        project: field("project ")?.parse().ok()?,
        level: field("level ")?.to_owned(),
        pack: field("pack ")?.to_owned(),
    })
}

#[cfg(test)]
mod tests;
