//! People: who one is, who there is, and one-time codes.

use super::{About, Asked, parsed, view};
use crate::app::App;
use crate::domain::records::{Change, Record};
use crate::domain::{Refusal, RefusalKind, State, people};
use crate::identity::{Caller, Code};
use crate::ledger::Decided;
use holm_policies::{Action, Resource};
use holm_proto::ids::Name;
use holm_proto::v1::person_service_server::PersonService;
use holm_proto::v1::{self, invite_request::Subject};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// More roles than there are is nonsense.
const ROLES_MAX: usize = 8;

#[derive(Clone)]
pub(super) struct People(pub Arc<App>);

#[tonic::async_trait]
impl PersonService for People {
    async fn who_am_i(&self, request: Request<v1::WhoAmIRequest>) -> Result<Response<v1::Person>, Status> {
        let asked = Asked::new(&self.0, request.extensions(), Action::PersonRead, About::system())?;
        let Caller::Person(name) = asked.caller.clone() else {
            // A host is nobody's entry.
            return asked.read(|_| Ok(None::<(Resource, ())>), |_, ()| Ok(v1::Person::default())).await;
        };
        asked
            .read(
                move |state| {
                    let person = state.people.get(&name).cloned();
                    Ok(person.map(|p| (account(&p.name, p.roles.clone()), p)))
                },
                |scene, person| Ok(view::person(scene.state, &person)),
            )
            .await
    }

    async fn list_people(
        &self,
        request: Request<v1::ListPeopleRequest>,
    ) -> Result<Response<v1::ListPeopleResponse>, Status> {
        Asked::new(&self.0, request.extensions(), Action::PersonRead, About::system())?
            .list(|scene, may| {
                let all = may(Action::PersonRead, Resource::System);
                let seen = |p: &&crate::domain::records::Person| {
                    all || may(Action::PersonRead, account(&p.name, p.roles.clone()))
                };
                let shown = |p| view::person(scene.state, p);
                let people = scene.state.people.values().filter(seen).map(shown).collect();
                Ok(v1::ListPeopleResponse { people })
            })
            .await
    }

    async fn invite(&self, request: Request<v1::InviteRequest>) -> Result<Response<v1::Invitation>, Status> {
        let message = request.get_ref().clone();
        match message.subject {
            Some(Subject::Host(name)) => {
                Asked::new(&self.0, request.extensions(), Action::PersonInviteHost, About::host(&name))?
                    .change(
                        move |_| {
                            let name: Name = parsed(&name)?;
                            Ok(Some((Resource::Host { name: name.clone() }, name)))
                        },
                        |scene, name| {
                            let by = scene.person()?.to_string();
                            invitation(scene.app, |hash| {
                                Ok(people::invite_host(scene.state, &name, hash, &by, scene.now))
                            })
                        },
                    )
                    .await
            }
            Some(Subject::Person(name)) => {
                let roles = message.roles;
                let state = self.0.ledger.state();
                let action = invitation_action(&state, &name, &roles);
                let mut asked =
                    Asked::new(&self.0, request.extensions(), Action::PersonRead, About::person(&name))?;
                // Who may not see her is refused as if she were not known.
                let seen = name
                    .parse()
                    .is_ok_and(|name| asked.allowed(&state, account(&name, all_roles(&state, &name, &[]))));
                let told = if action == Action::PersonRenew && !seen { Action::PersonInvite } else { action };
                (asked.action, asked.call.action) = (told, told.text());
                asked
                    .change(
                        move |state| {
                            let name: Name = parsed(&name)?;
                            if roles.len() > ROLES_MAX {
                                return Err(Refusal::new(RefusalKind::Invalid, "these are too many roles"));
                            }
                            if let Some(role) = roles.iter().find(|r| !people::ROLES.contains(&r.as_str())) {
                                return Err(Refusal::new(
                                    RefusalKind::Invalid,
                                    format!(
                                        "`{}` is no role: there are {}",
                                        super::shown(role),
                                        people::ROLES.join(", ")
                                    ),
                                ));
                            }
                            // She enrolled, or became an officer, between the question and the decision.
                            if invitation_action(state, name.as_str(), &roles) != action {
                                return Err(Refusal::new(
                                    RefusalKind::State,
                                    "this changed meanwhile: ask again",
                                ));
                            }
                            let all = all_roles(state, &name, &roles);
                            Ok(Some((account(&name, all), (name, roles))))
                        },
                        |scene, (name, roles)| {
                            let by = scene.person()?.to_string();
                            invitation(scene.app, |hash| {
                                people::invite_person(scene.state, &name, &roles, hash, &by, scene.now)
                            })
                        },
                    )
                    .await
            }
            None => {
                Asked::new(&self.0, request.extensions(), Action::PersonInvite, About::system())?
                    .change(
                        |_| -> Result<Option<(Resource, ())>, Refusal> {
                            Err(Refusal::new(RefusalKind::Invalid, "an invitation is for a person or a host")
                                .hint("holm person invite NAME --role ROLE, or: holm host invite NAME"))
                        },
                        |_, ()| Ok(Decided::new(Vec::new(), v1::Invitation::default())),
                    )
                    .await
            }
        }
    }
}

pub(super) fn account(name: &Name, roles: Vec<String>) -> Resource {
    Resource::Person { name: name.clone(), roles }
}

/// Whoever has a certificate, and whoever is or becomes an officer, is invited by another rule.
fn invitation_action(state: &State, name: &str, roles: &[String]) -> Action {
    let Ok(name) = name.parse::<Name>() else { return Action::PersonInvite };
    if state.people.get(&name).is_some_and(|p| p.enrolled) {
        return Action::PersonRenew;
    }
    let all = all_roles(state, &name, roles);
    if all.iter().any(|r| r == "officer") { Action::PersonInviteOfficer } else { Action::PersonInvite }
}

/// Those she has and those she is to get.
fn all_roles(state: &State, name: &Name, roles: &[String]) -> Vec<String> {
    let mut all = state.people.get(name).map(|p| p.roles.clone()).unwrap_or_default();
    all.extend(roles.iter().filter(|r| !all.contains(r)).cloned().collect::<Vec<_>>());
    all
}

/// A code, and the changes that make it good.
fn invitation(
    app: &App,
    changes: impl FnOnce(String) -> Result<Vec<Change>, Refusal>,
) -> Result<Decided<v1::Invitation>, Refusal> {
    let code = Code::new(&app.authority.hash())
        .map_err(|e| Refusal::new(RefusalKind::Unavailable, e.to_string()))?;
    let changes = changes(code.hash())?;
    let made = changes.iter().find_map(|change| match change {
        Change::Put(Record::Invitation(i)) => Some((i.expires, i.subject.clone())),
        _ => None,
    });
    let (expires, subject) =
        made.ok_or_else(|| Refusal::new(RefusalKind::Unavailable, "no invitation was made"))?;
    let caller = super::enrolment::caller(&subject);
    let value =
        v1::Invitation { code: code.text(), expires: Some(view::time(expires)), identity: caller.uri() };
    Ok(Decided::new(changes, value))
}
