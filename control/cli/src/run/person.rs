//! People.

use super::Session;
use super::project::afterwards;
use crate::args::PersonVerb;
use crate::output::Format;
use crate::progress::Spinner;
use crate::text::instant;
use crate::{Failure, view};
use holm_proto::v1::invite_request::Subject;
use holm_proto::v1::revoke_request::Subject as Revocable;
use holm_proto::v1::{
    BeginLoginRequest, ConfirmInvitationRequest, FinishLoginRequest, Invitation, InviteRequest,
    RevokeRequest, WhoAmIRequest,
};
use serde_json::json;
use std::time::Duration;

pub(super) async fn run(session: &Session, verb: PersonVerb) -> Result<(), Failure> {
    let mut client = session.people().await?;
    match verb {
        PersonVerb::List => {
            let all = session.all_people(&mut client).await?;
            let json = all.iter().map(view::person_json).collect::<Vec<_>>();
            session.output.list(&view::people(&all, &session.clock), &json!(json))
        }
        PersonVerb::Show { name } => {
            let all = session.all_people(&mut client).await?;
            let person = all.iter().find(|p| p.name == name).ok_or_else(|| {
                Failure::new(format!("there is no person `{name}`")).hint("holm person list")
            })?;
            session.output.sheet(&view::person(person, &session.clock), &view::person_json(person))
        }
        PersonVerb::Invite { name, roles } => {
            let request = InviteRequest { subject: Some(Subject::Person(name)), roles };
            let invitation = session.ask(client.invite(request)).await?;
            invited(session, &invitation, "")
        }
        PersonVerb::Confirm { name, id, dry_run } => {
            let request = ConfirmInvitationRequest { person: name, dry_run, id };
            let person = session.ask(client.confirm_invitation(request)).await?;
            let sentence = format!("the code for {} is good now, once", person.name);
            session.output.done(&afterwards(dry_run, sentence), &view::person_json(&person))
        }
        PersonVerb::Revoke { name, reason, dry_run } => {
            let subject = Some(Revocable::Person(name.clone()));
            let next = format!("holm person invite {name}");
            revoke(session, RevokeRequest { subject, reason, dry_run }, &next).await
        }
    }
}

/// Takes somebody's certificates away. `next`: how she gets another.
pub(super) async fn revoke(session: &Session, request: RevokeRequest, next: &str) -> Result<(), Failure> {
    let mut client = session.people().await?;
    let dry_run = request.dry_run;
    let revoked = session.ask(client.revoke(request)).await?;
    let who = view::short_identity(&revoked.identity);
    let sentence = afterwards(dry_run, format!("the certificates of {who} are good for nothing"));
    let at = instant(revoked.at.as_ref()).map(|at| at.to_string());
    session.output.done(&sentence, &json!({ "identity": revoked.identity, "at": at }))?;
    if dry_run { Ok(()) } else { session.output.next(next) }
}

/// A code, and what to do with it.
pub(super) fn invited(session: &Session, invitation: &Invitation, options: &str) -> Result<(), Failure> {
    if session.output.format != Format::Table {
        return session.output.done("", &view::invitation_json(invitation));
    }
    crate::output::put(&format!("{}\n", crate::text::plain(&invitation.code)))?;
    let who = view::short_identity(&invitation.identity);
    let until = instant(invitation.expires.as_ref());
    let until = until.map(|at| format!(", good once, until {}", session.clock.local(at))).unwrap_or_default();
    session.output.remark(&format!("  for {who} alone{until}"));
    if !invitation.waits.is_empty() {
        let (name, id) = (who.trim_start_matches("person/"), &invitation.waits);
        let says =
            format!("  good for nothing until a second one says: holm person confirm {name} --id {id}");
        session.output.remark(&says);
        session.output.remark("  which another officer may, and where it makes no officer an operator, too");
    }
    let server = session.place.memory()?.enrolment.unwrap_or_else(|| "HOST:PORT".to_owned());
    session.output.remark(&format!("  there: holm enrol CODE --server {server}{options}"));
    Ok(())
}

/// A code, a page, and patience.
pub(super) async fn login(session: &Session) -> Result<(), Failure> {
    let mut client = session.people().await?;
    let begun = session.ask(client.begin_login(BeginLoginRequest {})).await?;
    session.output.must_see(&format!("open {} and enter {}", begun.page, begun.code));
    if !begun.page_with_code.is_empty() {
        session.output.remark(&format!("or open {}", begun.page_with_code));
    }
    let spinner = Spinner::new(&session.output);
    spinner.says("waits until you have");
    let mut interval = begun.interval_s;
    let person = loop {
        tokio::time::sleep(Duration::from_secs(interval.clamp(1, 60).into())).await;
        let step = session.ask(client.finish_login(FinishLoginRequest {})).await?;
        match step.person {
            Some(person) => break person,
            None => interval = step.interval_s,
        }
    };
    drop(spinner);
    let login = person.login.clone().unwrap_or_default();
    let at = instant(login.at.as_ref()).map(|at| session.clock.full(at)).unwrap_or_default();
    let (name, how) = (&person.name, login.how);
    let sentence = match login.second_factor {
        true => format!("{name} is logged in with a second factor ({how}), proven at {at}"),
        false => format!(
            "{name} is logged in, WITHOUT a second factor ({how}), at {at}: where one is demanded that does not do"
        ),
    };
    session.output.done(&sentence, &view::person_json(&person))
}

pub(super) async fn whoami(session: &Session) -> Result<(), Failure> {
    let mut client = session.people().await?;
    let person = session.ask(client.who_am_i(WhoAmIRequest {})).await?;
    let profile = session.place.profile()?;
    let (_, until) = session.place.validity()?;
    let mut json = view::person_json(&person);
    if let Some(object) = json.as_object_mut() {
        object.insert("identity".to_owned(), profile.identity.clone().into());
        object.insert("server".to_owned(), profile.server.clone().into());
        object.insert("certificate_until".to_owned(), until.to_string().into());
    }
    let mut sheet = view::person(&person, &session.clock);
    sheet
        .line("identity", profile.identity)
        .line("server", profile.server)
        .line("certificate until", session.clock.full(until));
    sheet.line("project", session.place.memory()?.project.unwrap_or_default());
    session.output.sheet(&sheet, &json)
}
