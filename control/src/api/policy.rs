//! The rules: which are in force, putting others in their place, and what they would answer.

use super::{About, Asked, Scene, parsed, person, person_of, project, slice, view};
use crate::app::App;
use crate::app::enforceable;
use crate::domain::records::Policy;
use crate::domain::{Refusal, RefusalKind, policy as domain};
use crate::ledger::{Decided, chain};
use crate::policy;
use holm_policies::{Action, FILES, Identity, Pack, PackError, Principal, Resource};
use holm_proto::ids::Name;
use holm_proto::v1;
use holm_proto::v1::explain_policy_request::Resource as Wanted;
use holm_proto::v1::policy_service_server::PolicyService;
use serde_json::json;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// So many projects are named in an entry of the log.
const NAMED_MAX: usize = 100;

#[derive(Clone)]
pub(super) struct Policies(pub Arc<App>);

#[tonic::async_trait]
impl PolicyService for Policies {
    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        Asked::new(&self.0, request.extensions(), Action::PolicyRead, about())?
            .read(
                |_| Ok(Some((Resource::System, ()))),
                |scene, ()| Ok(shown(&scene.pack, scene.state.policy.as_ref())),
            )
            .await
    }

    async fn load_policy(
        &self,
        request: Request<v1::LoadPolicyRequest>,
    ) -> Result<Response<v1::LoadPolicyResponse>, Status> {
        let asked = Asked::new(&self.0, request.extensions(), Action::PolicyLoad, about())?;
        let message = request.into_inner();
        asked
            .dry_run(message.dry_run)
            .change(|_| Ok(Some((Resource::System, message))), |scene, message| load(scene, &message))
            .await
    }

    async fn explain_policy(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::PolicyExplanation>, Status> {
        let message = request.get_ref().clone();
        let question = format!("policy/{}", super::shown(&message.action));
        let about = About { resource: question, ..About::system() };
        Asked::new(&self.0, request.extensions(), Action::PolicyRead, about)?
            .read(|_| Ok(Some((Resource::System, message))), |scene, message| explain(scene, &message))
            .await
    }
}

fn about() -> About {
    About { resource: "policy".to_owned(), ..About::system() }
}

fn load(
    scene: &Scene<'_>,
    message: &v1::LoadPolicyRequest,
) -> Result<Decided<v1::LoadPolicyResponse>, Refusal> {
    let (app, old) = (scene.app, &scene.pack);
    let texts = texts(&message.files)?;
    let [manifest, ..] = texts;
    let id = Pack::id_in(manifest).map_err(|e| not_accepted(&e))?;
    let statement = policy::statement_of(&id, texts);
    let digest = policy::digest_of(&statement);
    // Before Cedar reads anything: it takes as long, and as much memory, as whoever wrote the files likes.
    let signer =
        policy::signer(&statement, &message.signature, &app.config.policy.signers).map_err(|why| {
            let text = format!("this pack ({id}, SHA-256 {digest}) is not accepted: {why}");
            Refusal::new(RefusalKind::Denied, text)
                .hint("holm policy sign DIR --key FILE, with a key that [policy] signers in holmd.toml names")
        })?;
    let new = Pack::from_texts(texts).map_err(|e| not_accepted(&e))?;
    enforceable(&new, scene.app.login.is_some())
        .map_err(|why| Refusal::new(RefusalKind::State, why).hint("an operator names one, and then again"))?;
    let caller = scene.person()?.clone();
    let again = holm_policies::Request {
        principal: person_of(scene.state, &caller),
        action: Action::PolicyLoad,
        resource: Resource::System,
    };
    if !new.decide(&again).allow {
        let text = "by this pack you could put no other in its place, and what is wrong with it would stay";
        return Err(Refusal::new(RefusalKind::State, text).hint("let officers do policy.load"));
    }
    let record = Policy::of(&new, digest, signer, Some(caller), scene.now);
    let effect = domain::effect(scene.state, old, &new);
    let changes = domain::load(scene.state, &new, record.clone())?;
    if !message.dry_run {
        policy::keep(&app.config.data, &new, &message.signature).map_err(|e| {
            Refusal::new(RefusalKind::Unavailable, format!("the pack cannot be stored: {e}"))
                .hint("tell an operator: free space on holmd's disk")
        })?;
    }
    let named: Vec<&Name> = effect.projects.iter().take(NAMED_MAX).collect();
    let detail = json!({
        "pack": record.pack,
        "digest": record.digest,
        "signer": record.signer,
        "instead_of": old.id(),
        "projects": named,
        "projects_in_all": effect.projects.len(),
    });
    let response = v1::LoadPolicyResponse {
        policy: Some(shown(&new, Some(&record))),
        changes: effect.difference.lines(),
        projects: effect.projects.iter().map(ToString::to_string).collect(),
    };
    if !message.dry_run {
        // With the entry, whenever that is in the log, it is in force.
        app.rules.stage(new);
    }
    Ok(Decided { detail, ..Decided::new(changes, response) })
}

fn invalid(text: String) -> Refusal {
    Refusal::new(RefusalKind::Invalid, text).hint("holm policy check DIR, which says the same without holmd")
}

fn not_accepted(error: &PackError) -> Refusal {
    invalid(format!("this pack is not accepted: {}", chain(error)))
}

/// The files of the pack in a message, as [`FILES`] has them.
fn texts(files: &[v1::PolicyFile]) -> Result<[&str; 3], Refusal> {
    let mut texts = Vec::new();
    for name in FILES {
        let mut of = files.iter().filter(|file| file.name == name);
        match (of.next(), of.next()) {
            (Some(file), None) => texts.push(file.text.as_str()),
            (Some(_), Some(_)) => return Err(invalid(format!("`{name}` is there twice"))),
            (None, _) => return Err(invalid(format!("`{name}` is missing"))),
        }
    }
    if let Some(other) = files.iter().find(|file| !FILES.contains(&file.name.as_str())) {
        return Err(invalid(format!("`{}` is no file of a pack", super::shown(&other.name))));
    }
    texts.try_into().map_err(|_| invalid("a pack has three files".to_owned()))
}

fn shown(pack: &Pack, record: Option<&Policy>) -> v1::Policy {
    let files = FILES.iter().zip(pack.texts());
    v1::Policy {
        id: pack.id().to_owned(),
        digest: policy::digest(pack),
        files: files
            .map(|(name, text)| v1::PolicyFile { name: (*name).to_owned(), text: text.to_owned() })
            .collect(),
        loaded_by: record.and_then(|r| r.loaded_by.as_ref()).map(ToString::to_string).unwrap_or_default(),
        since: record.map(|r| view::time(r.since)),
        signer: record.map(|r| r.signer.clone()).unwrap_or_default(),
    }
}

fn explain(scene: &Scene<'_>, message: &v1::ExplainPolicyRequest) -> Result<v1::PolicyExplanation, Refusal> {
    let action =
        Action::ALL.iter().copied().find(|action| action.text() == message.action).ok_or_else(|| {
            let text = format!("`{}` is no action", super::shown(&message.action));
            let all: Vec<&str> = Action::ALL.iter().map(|action| action.text()).collect();
            Refusal::new(RefusalKind::Invalid, text).hint(format!("one of {}", all.join(", ")))
        })?;
    let own = scene.person()?.clone();
    let caller = person_of(scene.state, &own);
    let ask = |principal: &Principal, action, resource: &Resource| {
        let (principal, resource) = (principal.clone(), resource.clone());
        scene.pack.decide(&holm_policies::Request { principal, action, resource })
    };
    let whom = if message.as_person.is_empty() {
        caller.clone()
    } else {
        let name: Name = parsed(&message.as_person)?;
        if name != own && !ask(&caller, Action::PersonRead, &Resource::System).allow {
            let text = "only officers and operators ask what others may do";
            return Err(Refusal::new(RefusalKind::Denied, text).hint("leave --as out"));
        }
        if !scene.state.people.contains_key(&name) {
            return Err(About::person(name.as_str()).missing);
        }
        person_of(scene.state, &name)
    };
    let (resource, missing) = resource(scene, message, &own)?;
    let resource = resource.ok_or_else(|| missing.clone())?;
    // What the caller may not see is not found, whomever she asks for. What there is not yet is no secret.
    let is_there = !matches!(message.resource, Some(Wanted::Level(_)));
    let read = resource.read_by().filter(|_| is_there);
    if read.is_some_and(|read| !ask(&caller, read, &resource).allow && !ask(&caller, action, &resource).allow)
    {
        return Err(missing);
    }
    let decision = ask(&whom, action, &resource);
    let outside: Name = parsed("somebody-else")?;
    let could = |role: &&str| {
        let identity = Identity::Person { name: outside.clone(), roles: vec![(*role).to_owned()] };
        ask(&Principal { identity, known: true }, action, &resource).allow
    };
    Ok(v1::PolicyExplanation {
        allowed: decision.allow,
        reasons: decision.reasons,
        pack: decision.pack,
        roles: scene.pack.roles().filter(could).map(str::to_owned).collect(),
    })
}

/// What it would be done to, and what is said where there is none.
fn resource(
    scene: &Scene<'_>,
    message: &v1::ExplainPolicyRequest,
    own: &Name,
) -> Result<(Option<Resource>, Refusal), Refusal> {
    let (state, seen) = (scene.state, scene.seen());
    Ok(match &message.resource {
        None => (Some(Resource::System), About::system().missing),
        Some(Wanted::Log(_)) => (Some(Resource::Log), About::system().missing),
        Some(Wanted::Project(name)) => {
            (project::find(&seen, name)?.map(|(resource, _)| resource), About::project(name).missing)
        }
        Some(Wanted::Slice(label)) => {
            let (project, name) = label.split_once('/').unwrap_or((label, ""));
            let wanted = v1::SliceRef { project: project.to_owned(), name: name.to_owned() };
            (slice::find(&seen, &wanted)?.map(|(resource, _)| resource), slice::about(&wanted).missing)
        }
        Some(Wanted::Host(name)) => {
            let name: Name = parsed(name)?;
            let host = state.hosts.get(&name).map(|h| Resource::Host { name: h.name.clone() });
            (host, About::host(name.as_str()).missing)
        }
        Some(Wanted::Person(name)) => {
            let name: Name = parsed(name)?;
            let known = state.people.get(&name).map(|p| person::account(&p.name, p.roles.clone()));
            (known, About::person(name.as_str()).missing)
        }
        Some(Wanted::Level(level)) => (Some(project::registered(own, level)?), About::system().missing),
    })
}
