//! A second factor: what a level demands of who opens its data or decides on it.
//!
//! ```text
//!   nobody's ── proven with a second factor ──▶ hers, and logged in ── `second_factor_hours` are over, or another
//!      ▲                                          │       ▲              certificate ──▶ hers, logged out
//!      │                                          │       └───────── proven again ◀──────────┘
//!      └── enrols with a code that another one gave: a new account is hers
//! ```
//!
//! What she has open stays open. A code that she gave herself logs her out and lets go of no account: whoever had a copy of
//! her certificate could bind her own to it.

use super::records::{Change, Person, Record};
use super::{Refusal, RefusalKind, State};
use holm_policies::{Action, Identity, Pack, Request, Resource};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// What opens data of a level, decides on it, or destroys it.
const OF_A_LEVEL: [Action; 17] = [
    Action::SliceConnect,
    Action::SliceRecordings,
    Action::SliceStart,
    Action::SliceRebuild,
    Action::SliceRestore,
    Action::SliceDrill,
    Action::SliceRekey,
    Action::SliceClose,
    Action::SliceApprove,
    Action::SliceExtend,
    Action::ProjectDeclassify,
    Action::ProjectDeclassifyDecide,
    Action::ProjectAddMember,
    Action::ProjectFile,
    Action::KeysEscrow,
    Action::HoldLift,
    Action::LockLift,
];

/// What is of no level, and opens the way to all of them.
const OF_ALL: [Action; 5] = [
    Action::LockLift,
    Action::PersonRenew,
    Action::PersonInviteOfficer,
    Action::PersonConfirm,
    Action::PolicyLoad,
];

/// Proven at the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// SHA-256 of the certificate that she called with: of no other it says anything.
    pub certificate: String,
    /// When.
    pub at: Timestamp,
    /// With a second factor.
    pub second: bool,
    /// As the provider says it.
    pub how: String,
}

/// What is demanded: hours, and by what.
fn demanded(state: &State, pack: &Pack, request: &Request) -> Result<Option<(u32, String)>, Refusal> {
    let strictest = |hours: &mut dyn Iterator<Item = (u32, String)>| {
        hours.filter(|(hours, _)| *hours > 0).min_by_key(|(hours, _)| *hours)
    };
    let all = || pack.levels().iter().map(|level| (level.second_factor_hours, format!("level {}", level.id)));
    let Some(anywhere) = strictest(&mut all()) else { return Ok(None) };
    let Some(level) = request.resource.level() else {
        let hours = anywhere.0;
        return Ok(OF_ALL.contains(&request.action).then(|| (hours, pack.id().to_owned())));
    };
    if !OF_A_LEVEL.contains(&request.action) {
        return Ok(None);
    }
    // What is done to a project is done to all of its slices, which keep the level that they were made with.
    let mut levels = vec![level];
    if let Resource::Project { name, .. } = &request.resource {
        let id = state.project(name).map(|project| project.id);
        let of = state.slices.values().filter(|s| Some(s.project) == id && !s.state.is_final());
        levels.extend(of.map(|s| s.level.as_str()));
    }
    let hours = levels.iter().map(|id| {
        let level = pack.level(id).ok_or_else(|| {
            let text = format!("level `{id}` is none of {}, and what it demands is not known", pack.id());
            Refusal::new(RefusalKind::Denied, text)
        })?;
        Ok((level.second_factor_hours, format!("level {}", level.id)))
    });
    let hours = hours.collect::<Result<Vec<_>, Refusal>>()?;
    Ok(strictest(&mut hours.into_iter()))
}

/// Refuses what a second factor is demanded for, where who calls with this certificate has not proven one lately.
pub fn demand(
    state: &State,
    pack: &Pack,
    request: &Request,
    certificate: &str,
    now: Timestamp,
) -> Result<(), Refusal> {
    let Identity::Person { name, .. } = &request.principal.identity else { return Ok(()) };
    let Some((hours, by)) = demanded(state, pack, request)? else { return Ok(()) };
    let demands = format!("{by} demands a second factor in the last {hours} hours");
    let no = |why: String| Err(Refusal::new(RefusalKind::Denied, why).hint("holm login"));
    let login = state.people.get(name).and_then(|person| person.login.as_ref());
    let Some(login) = login.filter(|login| login.certificate == certificate) else {
        return no(format!("{demands}: you have not logged in with this certificate"));
    };
    if !login.second {
        return no(format!("{demands}: your login was without one ({})", login.how));
    }
    // One of a time to come is by a clock that was set back since.
    let age = now.duration_since(login.at);
    if age >= SignedDuration::from_hours(hours.into()) || age < SignedDuration::ZERO {
        return no(format!(
            "{demands}: you proved yours at {:.0}; where the provider asks you for nothing, log out there first",
            login.at
        ));
    }
    Ok(())
}

/// She was there. An account that proved a second factor is hers alone from then on.
pub fn proven(state: &State, person: &Person, account: String, login: Login) -> Result<Vec<Change>, Refusal> {
    // The log says whose it is; of whom it is not, a part of its hash tells it from others.
    let short: String = account.chars().take(8).collect();
    let no = |text: String, next: &str| Err(Refusal::new(RefusalKind::Denied, text).hint(next));
    if state.people.values().any(|p| p.name != person.name && p.account.as_ref() == Some(&account)) {
        return no(
            format!(
                "this account at the provider ({short}) is somebody else's here: one person has one account. If it is \
                 yours, somebody used it in your name, and an officer must know"
            ),
            "log in at the provider with your own account, and: holm login",
        );
    }
    if person.account.as_ref().is_some_and(|before| *before != account) {
        return no(
            format!(
                "this is another account at the provider ({short}) than the one you logged in with first: if that was \
                 not you, an officer must know"
            ),
            "log in there with that one; where your account was changed, an officer gives you a code: holm enrol CODE",
        );
    }
    // One that proves less than is demanded is not taken for hers: anybody may have it.
    let account = if login.second { Some(account) } else { person.account.clone() };
    Ok(vec![Change::Put(Record::Person(Person { account, login: Some(login), ..person.clone() }))])
}
