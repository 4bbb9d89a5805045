//! Keys given to recipients outside Holm: an age file, made in memory, that only they can read.
//!
//! ```text
//!   may she? ─▶ keys opened, encrypted ─▶ the log: who, to whom, which keys ─▶ each slice's record, in the log ─▶ file
//! ```
//!
//! A record says that somebody else has the key before anybody has it; one that says so and whose file was never
//! handed out errs on the safe side.

use super::{About, Asked, keys::KeyKeeping, parsed, project, shown};
use crate::app::App;
use crate::domain::records::{Project, Slice};
use crate::domain::{Refusal, RefusalKind, State, backup};
use crate::keys::{Key, fingerprint};
use crate::ledger::{Call, Decided, chain};
use holm_policies::Action;
use holm_proto::ids::{Name, RequestId, SliceId, VolumeId};
use holm_proto::v1;
use newtype_uuid::GenericUuid;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

/// More recipients at once than anybody has.
const RECIPIENTS: usize = 16;

/// What is in the file.
#[derive(Serialize)]
struct File<'a> {
    escrow: &'static str,
    project: &'a Name,
    at: jiff::Timestamp,
    to: Vec<&'a Name>,
    volumes: Vec<Volume<'a>>,
}

#[derive(Serialize)]
struct Volume<'a> {
    slice: &'a Name,
    host: Option<&'a Name>,
    volume: String,
    root: bool,
    key_fingerprint: String,
    /// 64 hexadecimal digits: the passphrase of its LUKS header.
    passphrase: &'a str,
}

/// A key of a slice's volume, opened.
struct Opened {
    slice: SliceId,
    volume: VolumeId,
    /// Under which the key is kept.
    id: VolumeId,
    key: Key,
}

/// Of each slice, the fingerprints of the keys that are in the file: those of a change under way among them.
type Given = BTreeMap<SliceId, Vec<String>>;

impl KeyKeeping {
    pub(super) async fn escrow(
        &self,
        request: Request<v1::EscrowKeysRequest>,
    ) -> Result<Response<v1::EscrowKeysResponse>, Status> {
        let v1::EscrowKeysRequest { project: name, to } = request.get_ref().clone();
        let about = About { resource: format!("keys/project/{}", shown(&name)), ..About::project(&name) };
        let asked = Asked::new(&self.0, request.extensions(), Action::KeysEscrow, about)?;
        // Who may not have them causes no question to the provider.
        let state = self.0.ledger.state();
        let found = project::find(&asked.seen(&state), &name).ok().flatten();
        let found = found.filter(|(resource, _)| asked.allowed(&state, resource.clone()));
        let opened = match found {
            None => None,
            Some((_, project)) => {
                let app = Arc::clone(&self.0);
                Some(super::in_turn(&self.0.turns.people, move || open(&app, &project)).await?)
            }
        };
        let (app, id) = (Arc::clone(&self.0), asked.call.request);
        let keyless = asked.keyless();
        let granted = asked
            .change_each(
                move |state| project::find(state, &name),
                move |scene, project| {
                    keyless?;
                    let by = scene.person()?.clone();
                    let recipients = recipients(scene.app, &to)?;
                    let opened = opened.unwrap_or_else(|| Err(again()))?;
                    let whole = slices(scene.state, &project);
                    let kept = whole.iter().flat_map(|s| keys_of(s));
                    let kept: BTreeMap<VolumeId, &str> = kept.map(|(_, key, print)| (key, print)).collect();
                    let same = |one: &Opened| kept.get(&one.id) == Some(&fingerprint(&one.key).as_str());
                    if opened.len() != kept.len() || !opened.iter().all(same) {
                        return Err(again());
                    }
                    if opened.is_empty() {
                        let hint = format!(
                            "keys are made when a slice is placed: holm slice list --project {}",
                            project.name
                        );
                        return Err(Refusal::new(RefusalKind::State, "the project has no keys").hint(hint));
                    }
                    let file = encrypted(scene.state, &project, &recipients, &opened, scene.now)?;
                    let detail = json!({
                        "to": recipients.keys().collect::<Vec<_>>(),
                        "recipients": recipients.values().collect::<Vec<_>>(),
                        "key_fingerprints": kept.values().collect::<Vec<_>>(),
                    });
                    let to: Vec<String> = recipients.keys().map(ToString::to_string).collect();
                    let mut given = Given::new();
                    for one in &opened {
                        given.entry(one.slice).or_default().push(fingerprint(&one.key));
                    }
                    let volumes = u32::try_from(opened.len()).unwrap_or(u32::MAX);
                    Ok(Decided { detail, ..Decided::new(Vec::new(), (file, volumes, given, to, by)) })
                },
            )
            .await?;
        let (metadata, (age_file, volumes, given, to, by), extensions) = granted.into_parts();
        super::blocking(move || note(&app, &given, &to, &by))
            .await?
            .map_err(|refusal| super::status(&refusal, id))?;
        let answer = v1::EscrowKeysResponse { age_file, volumes };
        Ok(Response::from_parts(metadata, answer, extensions))
    }
}

/// Slices of a project whose keys there are.
fn slices<'a>(state: &'a State, project: &Project) -> Vec<&'a Slice> {
    let keyed = |s: &&Slice| s.project == project.id && keys_of(s).next().is_some();
    state.slices.values().filter(keyed).filter(|s| s.key_destroyed.is_none()).collect()
}

/// Its keys that are made, those that its disks are about to get among them: of which volume, under which id, and the
/// fingerprint.
fn keys_of(s: &Slice) -> impl Iterator<Item = (VolumeId, VolumeId, &str)> {
    let now = s.keyed_volumes().map(|keyed| (keyed.volume, keyed.key, keyed.fingerprint));
    let next = s.next_keys().iter().map(|next| (next.volume, next.key, next.fingerprint.as_str()));
    now.chain(next).filter(|(.., print)| !print.is_empty())
}

fn open(app: &App, project: &Project) -> Result<Vec<Opened>, Refusal> {
    let state = app.ledger.state();
    let mut all = Vec::new();
    for s in slices(&state, project) {
        for (volume, id, _) in keys_of(s) {
            let key = app.keys.open_volume_key(project.id, id).map_err(|failure| {
                let text = format!("a key cannot be opened: {}", chain(&failure));
                Refusal::new(RefusalKind::State, text).hint("holm keys show")
            })?;
            all.push(Opened { slice: s.id, volume, id, key: key.ok_or_else(again)? });
        }
    }
    Ok(all)
}

/// Those that are named, each of which the configuration knows.
fn recipients(app: &App, to: &[String]) -> Result<BTreeMap<Name, String>, Refusal> {
    let known = &app.config.escrow.recipients;
    if to.is_empty() || to.len() > RECIPIENTS {
        let text = format!("name 1 to {RECIPIENTS} recipients");
        return Err(Refusal::new(RefusalKind::Invalid, text).hint("holm keys escrow PROJECT --to NAME"));
    }
    let one = |text: &String| {
        let name: Name = parsed(text)?;
        let Some(recipient) = known.get(&name) else {
            let all: Vec<&str> = known.keys().map(Name::as_str).collect();
            let all = if all.is_empty() { "it names nobody".to_owned() } else { all.join(", ") };
            let text = format!("`{name}` is no recipient in holmd's configuration: {all}");
            return Err(Refusal::new(RefusalKind::NotFound, text)
                .hint("an operator adds one under [escrow.recipients] in holmd.toml"));
        };
        Ok((name, recipient.clone()))
    };
    to.iter().map(one).collect()
}

fn encrypted(
    state: &State,
    project: &Project,
    to: &BTreeMap<Name, String>,
    opened: &[Opened],
    at: jiff::Timestamp,
) -> Result<Vec<u8>, Refusal> {
    let failed = |what: String| Refusal::new(RefusalKind::State, format!("no age file can be made: {what}"));
    let passphrases: Vec<Zeroizing<String>> = opened.iter().map(|one| hexadecimal(&one.key)).collect();
    let volumes = opened.iter().zip(&passphrases).filter_map(|(one, passphrase)| {
        let s = state.slices.get(&one.slice)?;
        Some(Volume {
            slice: &s.name,
            host: s.placement.as_ref().map(|p| &p.host),
            volume: one.volume.into_untyped_uuid().to_string(),
            root: s.volume == one.volume,
            key_fingerprint: fingerprint(&one.key),
            passphrase: passphrase.as_str(),
        })
    });
    let file = File {
        escrow: "holm, keys of a project's disks, version 1",
        project: &project.name,
        at,
        to: to.keys().collect(),
        volumes: volumes.collect(),
    };
    // As large as it gets: nothing is moved about, which would leave keys behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(4096 + opened.len() * 1024));
    serde_json::to_writer_pretty(&mut *plain, &file).map_err(|e| failed(e.to_string()))?;
    let keys = to.values().map(|text| text.parse::<age::x25519::Recipient>());
    let keys: Vec<_> = keys.collect::<Result<_, _>>().map_err(|e| failed(e.to_owned()))?;
    let encryptor = age::Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient))
        .map_err(|e| failed(e.to_string()))?;
    let mut sealed = Vec::new();
    let write = |sealed: &mut Vec<u8>| -> std::io::Result<()> {
        let mut writer = encryptor.wrap_output(sealed)?;
        writer.write_all(&plain)?;
        writer.finish().map(drop)
    };
    write(&mut sealed).map_err(|e| failed(e.to_string()))?;
    Ok(sealed)
}

/// Each slice's record says who else has its keys.
fn note(app: &App, given: &Given, to: &[String], by: &Name) -> Result<(), Refusal> {
    for (id, keys) in given {
        let state = app.ledger.state();
        let Some(s) = state.slices.get(id) else { continue };
        let mut call = Call::own("key.escrow", format!("slice/{}", state.slice_label(s)));
        call.request = RequestId::new_v4();
        call.project = state.projects.get(&s.project).map(|p| p.name.to_string());
        app.ledger.commit_if(&call, |state, now| {
            let changes = backup::escrowed(state.slices.get(id)?, keys, to, by, now);
            Some(Decided { detail: json!({ "to": to, "by": by }), ..Decided::new(changes, ()) })
        })?;
    }
    Ok(())
}

/// Refuses what is no recipient, before holmd serves.
pub fn check(recipients: &BTreeMap<Name, String>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (name, text) in recipients {
        if text.parse::<age::x25519::Recipient>().is_err() {
            return Err(format!(
                "`{name}` in [escrow.recipients] is no age recipient: `age-keygen -y` prints one"
            ));
        }
        if !seen.insert(text) {
            return Err(format!("`{name}` in [escrow.recipients] is somebody else, too"));
        }
    }
    Ok(())
}

fn hexadecimal(key: &Key) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in key.expose_secret() {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
    }
    text
}

fn again() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, "ask again: the project's keys changed meanwhile")
}
