//! The rules: shown, checked, compared, explained, signed, put in force.

use super::Session;
use crate::args::{Explain, PolicyVerb};
use crate::output::Output;
use crate::{Failure, view};
use holm_control::audit::{SigningKey, note};
use holm_control::policy::{self, SIGNATURE};
use holm_policies::{FILES, Pack, diff};
use holm_proto::v1::explain_policy_request::Resource;
use holm_proto::v1::{ExplainPolicyRequest, GetPolicyRequest, LoadPolicyRequest, Policy, PolicyFile};
use serde_json::json;
use std::fs;
use std::path::Path;

/// What needs no holmd; `None` where it does.
pub(super) fn offline(verb: &PolicyVerb, output: &Output) -> Option<Result<(), Failure>> {
    match verb {
        PolicyVerb::Check { pack } => Some(check(pack, output)),
        PolicyVerb::Diff { packs } => match packs.as_slice() {
            [old, new] => Some(read(old).and_then(|old| {
                let difference = diff(&old, &read(new)?);
                output.list(&view::difference(&difference), &view::difference_json(&difference))
            })),
            _ => None,
        },
        PolicyVerb::Keygen { file, name } => {
            Some(keygen(file, name, ("signs the site's rules", "policy"), output))
        }
        PolicyVerb::Sign { directory, key, name } => Some(sign(directory, key, name, output)),
        PolicyVerb::Show { .. } | PolicyVerb::Explain(_) | PolicyVerb::Load { .. } => None,
    }
}

pub(super) async fn run(session: &Session, verb: PolicyVerb) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Show { rules, out } => show(session, rules, out.as_deref()).await,
        PolicyVerb::Diff { packs } => compare(session, packs.first().map_or("", String::as_str)).await,
        PolicyVerb::Explain(question) => explain(session, question).await,
        PolicyVerb::Load { directory, dry_run } => load(session, &directory, dry_run).await,
        // Done before, without a profile: see `offline`.
        PolicyVerb::Check { .. } | PolicyVerb::Keygen { .. } | PolicyVerb::Sign { .. } => Ok(()),
    }
}

/// A directory, or one that comes with Holm. What looks like both is a directory.
fn read(name: &str) -> Result<Pack, Failure> {
    let path = Path::new(name);
    let pack = if name.contains('/') || path.is_dir() { Pack::load(path) } else { Pack::builtin(name) };
    pack.map_err(|e| Failure::of(&e))
}

fn check(name: &str, output: &Output) -> Result<(), Failure> {
    let pack = read(name)?;
    output.list(&view::site_rules(&pack), &view::pack_json(&pack))?;
    let open = pack.site_rules().iter().filter(|rule| !rule.missing.is_empty()).count();
    output.remark(&format!(
        "{} would be accepted: {} levels, {} rules of the site, of which {open} leave something open",
        pack.id(),
        pack.levels().len(),
        pack.site_rules().len()
    ));
    Ok(())
}

pub(super) async fn in_force(session: &Session) -> Result<(Policy, Pack), Failure> {
    let policy = session.ask(session.policies().await?.get_policy(GetPolicyRequest {})).await?;
    let text =
        |name: &str| policy.files.iter().find(|file| file.name == name).map_or("", |file| file.text.as_str());
    let pack = Pack::from_texts(FILES.map(text)).map_err(|e| {
        Failure::new(format!("this holm does not read the pack of that holmd: {e}"))
            .hint("use the holm of the same version: holm version")
    })?;
    Ok((policy, pack))
}

async fn show(session: &Session, rules: bool, out: Option<&Path>) -> Result<(), Failure> {
    let (policy, pack) = in_force(session).await?;
    let output = &session.output;
    if let Some(directory) = out {
        fs::create_dir(directory).map_err(|e| Failure::file("make", directory, &e))?;
        for (name, text) in FILES.iter().zip(pack.texts()) {
            let file = directory.join(name);
            fs::write(&file, text).map_err(|e| Failure::file("write", &file, &e))?;
        }
        let sentence = format!("{} is in {}", policy.id, directory.display());
        output.done(&sentence, &json!({ "pack": policy.id, "directory": directory }))?;
        return output
            .next(&format!("edit it, raise its version, then: holm policy check {}", directory.display()));
    }
    let table = if rules { view::site_rules(&pack) } else { view::levels(&pack) };
    output.list(&table, &view::policy_json(&policy, &pack))?;
    output.remark(&view::policy_remark(&policy, &session.clock));
    Ok(())
}

async fn compare(session: &Session, name: &str) -> Result<(), Failure> {
    let new = read(name)?;
    let (_, old) = in_force(session).await?;
    let projects = session.all_projects(&mut session.projects().await?).await?;
    let difference = diff(&old, &new);
    let concerned: Vec<&str> = projects
        .iter()
        .filter(|p| difference.levels.contains_key(&p.level))
        .map(|p| p.name.as_str())
        .collect();
    let mut json = view::difference_json(&difference);
    if let Some(object) = json.as_object_mut() {
        object.insert("projects".to_owned(), json!(concerned));
    }
    session.output.list(&view::difference(&difference), &json)?;
    if difference.is_empty() {
        session.output.remark(&format!("{} and {} say the same", old.id(), new.id()));
    } else if concerned.is_empty() {
        session.output.remark("no project that you can see is at a level that becomes different");
    } else {
        session.output.remark(&format!("at a level that becomes different: {}", concerned.join(", ")));
    }
    Ok(())
}

async fn explain(session: &Session, question: Explain) -> Result<(), Failure> {
    let Explain { action, project, slice, host, person, level, log, as_person } = question;
    let resource = project
        .map(Resource::Project)
        .or(slice.map(Resource::Slice))
        .or(host.map(Resource::Host))
        .or(person.map(Resource::Person))
        .or(level.map(Resource::Level))
        .or(log.then_some(Resource::Log(true)));
    let request =
        ExplainPolicyRequest { action: action.clone(), resource, as_person: as_person.unwrap_or_default() };
    let answer = session.ask(session.policies().await?.explain_policy(request)).await?;
    session.output.sheet(&view::explanation(&action, &answer), &view::explanation_json(&action, &answer))
}

/// A key that signs, in words, and the section of holmd.toml where its public half is named.
pub(super) fn keygen(
    file: &Path,
    name: &str,
    (what, section): (&str, &str),
    output: &Output,
) -> Result<(), Failure> {
    named(name)?;
    let key = SigningKey::create(file).map_err(|e| Failure::of(&e))?;
    let public = key.vkey(name);
    output.answer(&public, &json!({ "public": public, "file": file }))?;
    output.remark(&format!("the private key is in {}: who has it {what}", file.display()));
    output.next(&format!("an operator puts this under [{section}] in holmd.toml: signers = [\"{public}\"]"))
}

fn sign(directory: &Path, key: &Path, name: &str, output: &Output) -> Result<(), Failure> {
    named(name)?;
    let pack = Pack::load(directory).map_err(|e| Failure::of(&e))?;
    let key = SigningKey::load(key).map_err(|e| Failure::of(&e))?;
    let file = directory.join(SIGNATURE);
    fs::write(&file, policy::sign(&pack, &key, name)).map_err(|e| Failure::file("write", &file, &e))?;
    let sentence = format!("{} is signed by {name}: {}", pack.id(), file.display());
    output.done(&sentence, &json!({ "pack": pack.id(), "digest": policy::digest(&pack), "file": file }))?;
    output.next(&format!("holm policy load {} --dry-run", directory.display()))
}

pub(super) fn named(name: &str) -> Result<(), Failure> {
    match note::is_name(name) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "`{}` is no name of a key: no spaces, no `+`, as in security.example.org",
            name.escape_debug()
        ))),
    }
}

async fn load(session: &Session, directory: &Path, dry_run: bool) -> Result<(), Failure> {
    let pack = Pack::load(directory).map_err(|e| Failure::of(&e))?;
    let file = directory.join(SIGNATURE);
    let signature = fs::read_to_string(&file).map_err(|e| {
        Failure::file("read", &file, &e)
            .hint(format!("holm policy sign {} --key FILE --name NAME", directory.display()))
    })?;
    let files = FILES.iter().zip(pack.texts());
    let files = files.map(|(name, text)| PolicyFile { name: (*name).to_owned(), text: text.to_owned() });
    let request = LoadPolicyRequest { files: files.collect(), signature, dry_run };
    let answer = session.ask(session.policies().await?.load_policy(request)).await?;
    let json = json!({
        "pack": pack.id(),
        "dry_run": dry_run,
        "changes": answer.changes,
        "projects": answer.projects,
    });
    session.output.list(&view::changes(&answer.changes, "nothing becomes different but its name"), &json)?;
    let would = if dry_run { "would be" } else { "is" };
    let mut remark = format!("{} {would} in force", pack.id());
    if !answer.projects.is_empty() {
        remark.push_str(&format!(
            "; projects at a level that becomes different: {}",
            answer.projects.join(", ")
        ));
    }
    session.output.remark(&remark);
    Ok(())
}
