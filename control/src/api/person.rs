//! People: who one is, who there is, and one-time codes.

use super::{About, Asked, No, enrolment, page, parsed, slice, view};
use crate::app::App;
use crate::domain::login::{self, Login};
use crate::domain::records::{Change, Person, Record, Revoked, Subject};
use crate::domain::{Refusal, RefusalKind, State, people};
use crate::identity::{Caller, Code};
use crate::ledger::Decided;
use crate::login::{Begun, LoginError, Proven, Step};
use holm_policies::{Action, Resource};
use holm_proto::ids::Name;
use holm_proto::v1::person_service_server::PersonService;
use holm_proto::v1::{self, invite_request::Subject as Invited};
use serde_json::json;
use std::ops::Bound;
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
        let message = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::PersonRead, About::system())?
            .list(move |scene, may| {
                let after = page::after::<Name>(&message.page_token)?;
                let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
                let all = may(Action::PersonRead, Resource::System);
                let left = scene.state.people.range((begin, Bound::Unbounded)).map(|(_, person)| person);
                let seen = left.filter(|p| all || may(Action::PersonRead, account(&p.name, p.roles.clone())));
                let (people, last) = page::fill(message.page_size, seen, |p| view::person(scene.state, p));
                let next_page_token = last.map(|p| p.name.to_string()).unwrap_or_default();
                Ok(v1::ListPeopleResponse { people, next_page_token })
            })
            .await
    }

    async fn invite(&self, request: Request<v1::InviteRequest>) -> Result<Response<v1::Invitation>, Status> {
        let message = request.get_ref().clone();
        match message.subject {
            Some(Invited::Host(name)) => {
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
            Some(Invited::Person(name)) => {
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

    async fn confirm_invitation(
        &self,
        request: Request<v1::ConfirmInvitationRequest>,
    ) -> Result<Response<v1::Person>, Status> {
        let v1::ConfirmInvitationRequest { person: name, dry_run, id } = request.get_ref().clone();
        Asked::new(&self.0, request.extensions(), Action::PersonConfirm, About::person(&name))?
            .dry_run(dry_run)
            .change(
                move |state| {
                    let name: Name = parsed(&name)?;
                    let known = state.people.get(&name);
                    Ok(known.map(|p| (account(&name, p.roles.clone()), p.clone())))
                },
                move |scene, person| {
                    let by = Some(scene.person()?);
                    let changes = people::confirm(scene.state, &person.name, &id, by, scene.now)?;
                    let value = v1::Person { waits: None, ..view::person(scene.state, &person) };
                    Ok(Decided::new(changes, value))
                },
            )
            .await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrolResponse>, Status> {
        let csr_pem = request.get_ref().csr_pem.clone();
        let mut asked = Asked::new(&self.0, request.extensions(), Action::CertificateRenew, About::system())?;
        let subject = asked.caller.subject();
        let about = match &subject {
            Subject::Person(name) => About::person(name.as_str()),
            Subject::Host(name) => About::host(name.as_str()),
        };
        (asked.call.resource, asked.missing) = (about.resource, about.missing);
        asked
            .change(
                move |state| Ok(certified(state, &subject).map(|resource| (resource, (subject, csr_pem)))),
                |scene, (subject, csr_pem)| {
                    let issued = enrolment::issue(scene.app, scene.caller, &csr_pem, scene.now)
                        .map_err(|refusal| refusal.hint("holm renew"))?;
                    let detail = json!({ "certificate": issued.fingerprint(), "until": issued.until });
                    let changes = people::renewed(scene.state, &subject, &issued.fingerprint());
                    let value = enrolment::response(scene.app, scene.caller, issued);
                    Ok(Decided { detail, ..Decided::new(changes, value) })
                },
            )
            .await
    }

    async fn begin_login(
        &self,
        request: Request<v1::BeginLoginRequest>,
    ) -> Result<Response<v1::LoginBegun>, Status> {
        let (name, asked) = self.logging_in(request.extensions(), "login.begin")?;
        let (id, again) = (asked.call.request, asked.clone());
        asked.read(found(name.clone()), |_, _| Ok(())).await?;
        let begun = match provider(&self.0) {
            Ok(login) => {
                let begun = login.begin(&name, &again.certificate, self.0.ledger.now()).await;
                begun.map_err(|why| not_logged_in(&why))
            }
            Err(no) => Err(no),
        };
        let said = |begun: Begun| v1::LoginBegun {
            page: begun.page,
            code: begun.code,
            page_with_code: begun.page_with_code,
            expires: Some(view::time(begun.expires)),
            interval_s: begun.interval,
        };
        match begun {
            Ok(begun) => super::answer(Ok(said(begun)), id),
            Err(no) => Err(again.ended(No::from(no)).await),
        }
    }

    async fn finish_login(
        &self,
        request: Request<v1::FinishLoginRequest>,
    ) -> Result<Response<v1::LoginStep>, Status> {
        let (name, asked) = self.logging_in(request.extensions(), "login")?;
        let id = asked.call.request;
        // That it is asked again and again is not news.
        let state = self.0.ledger.state();
        let mine = state.people.get(&name).map(|p| account(&p.name, p.roles.clone()));
        if let Err(no) = asked.still(&state, mine) {
            return Err(asked.ended(no).await);
        }
        drop(state);
        let step = match provider(&self.0) {
            Ok(login) => {
                let now = || self.0.ledger.now();
                login.finish(&name, &asked.certificate, now).await.map_err(|why| not_logged_in(&why))
            }
            Err(no) => Err(no),
        };
        match step {
            Ok(Step::NotYet(interval_s)) => super::answer(Ok(v1::LoginStep { person: None, interval_s }), id),
            Ok(Step::Done(Proven { account, at, second, how })) => {
                let certificate = asked.certificate.clone();
                asked
                    .change(found(name), move |scene, person| {
                        let first = person.account.is_none();
                        let detail =
                            json!({ "account": account, "first": first, "second_factor": second, "how": how, "at": at });
                        let proven = Login { certificate, at, second, how };
                        let changes = login::proven(scene.state, &person, account, proven.clone())?;
                        let person = Person { login: Some(proven), ..person };
                        let person = Some(view::person(scene.state, &person));
                        let value = v1::LoginStep { person, interval_s: 0 };
                        Ok(Decided { detail, ..Decided::new(changes, value) })
                    })
                    .await
            }
            Err(no) => Err(asked.ended(No::from(no)).await),
        }
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeRequest>,
    ) -> Result<Response<v1::RevokeResponse>, Status> {
        use v1::revoke_request::Subject as Named;
        let v1::RevokeRequest { subject, reason, dry_run } = request.get_ref().clone();
        let (action, about) = match &subject {
            Some(Named::Host(name)) => (Action::HostRevoke, About::host(name)),
            Some(Named::Person(name)) => (Action::PersonRevoke, About::person(name)),
            None => (Action::PersonRevoke, About::system()),
        };
        Asked::new(&self.0, request.extensions(), action, about)?
            .dry_run(dry_run)
            .change(
                move |state| {
                    let reason = slice::reason(&reason)?;
                    let subject = match subject {
                        Some(Named::Host(name)) => Subject::Host(parsed(&name)?),
                        Some(Named::Person(name)) => Subject::Person(parsed(&name)?),
                        None => {
                            let text = "say whose certificates: a person's or a host's";
                            return Err(Refusal::new(RefusalKind::Invalid, text));
                        }
                    };
                    Ok(certified(state, &subject).map(|resource| (resource, (subject, reason))))
                },
                |scene, (subject, reason)| {
                    let (detail, by) = (json!({ "reason": reason }), scene.person()?.clone());
                    let revoked = Revoked { by, at: scene.now, reason };
                    let changes = people::revoke(scene.state, &subject, revoked)?;
                    let identity = enrolment::caller(&subject).uri();
                    let value = v1::RevokeResponse { identity, at: Some(view::time(scene.now)) };
                    Ok(Decided { detail, ..Decided::new(changes, value) })
                },
            )
            .await
    }
}

impl People {
    /// Who logs in: what renewing her certificate takes, it takes.
    fn logging_in(
        &self,
        extensions: &tonic::Extensions,
        action: &'static str,
    ) -> Result<(Name, Asked), Status> {
        let mut asked = Asked::new(&self.0, extensions, Action::CertificateRenew, About::system())?;
        asked.call.action = action;
        // Every login is a new one, and has no message of its own.
        asked.once = None;
        let Caller::Person(name) = asked.caller.clone() else {
            return Err(Status::permission_denied("a host has no account at the OpenID provider"));
        };
        let about = About::person(name.as_str());
        (asked.call.resource, asked.missing) = (about.resource, about.missing);
        Ok((name, asked))
    }
}

/// Her own entry.
fn found(
    name: Name,
) -> impl FnOnce(&super::register::Seen<'_>) -> Result<Option<(Resource, Person)>, Refusal> + Send + 'static {
    move |seen| {
        let person = seen.state.people.get(&name).cloned();
        Ok(person.map(|p| (account(&p.name, p.roles.clone()), p)))
    }
}

fn provider(app: &App) -> Result<&crate::login::Login, Refusal> {
    let none = || {
        let text = "this holmd knows no OpenID provider, and no level of its rules demands one";
        Refusal::new(RefusalKind::State, text).hint("an operator names one in [login] of holmd.toml")
    };
    app.login.as_ref().ok_or_else(none)
}

fn not_logged_in(why: &LoginError) -> Refusal {
    match why {
        LoginError::Over(text) => Refusal::new(RefusalKind::Denied, text).hint("holm login"),
        LoginError::Provider(text) | LoginError::Away(text) => {
            Refusal::new(RefusalKind::Unavailable, text).hint("holm login, in a while; else tell an operator")
        }
    }
}

/// Who has certificates, for the pack.
fn certified(state: &State, subject: &Subject) -> Option<Resource> {
    match subject {
        Subject::Person(name) => state.people.get(name).map(|p| account(name, p.roles.clone())),
        Subject::Host(name) => state.hosts.get(name).map(|_| Resource::Host { name: name.clone() }),
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
        Change::Put(Record::Invitation(i)) => {
            Some((i.expires, i.subject.clone(), i.waits.then(|| i.id().to_owned())))
        }
        _ => None,
    });
    let (expires, subject, waits) =
        made.ok_or_else(|| Refusal::new(RefusalKind::Unavailable, "no invitation was made"))?;
    let caller = enrolment::caller(&subject);
    let expires = Some(view::time(expires));
    let value = v1::Invitation {
        code: code.text(),
        expires,
        identity: caller.uri(),
        waits: waits.unwrap_or_default(),
    };
    Ok(Decided::new(changes, value))
}
