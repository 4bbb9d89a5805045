//! A second factor: what a level demands of who opens its data or decides on it.
//!
//! ```text
//!   no login ── proven at the provider ──▶ logged in ── `second_factor_hours` of the level are over ──▶ no login
//!                                              │  for that level; what she has open stays open
//!                                              └── enrols anew, is revoked ──▶ no login, no account
//! ```

use super::records::{Change, Person, Record};
use super::{Refusal, RefusalKind, State};
use holm_policies::{Action, Identity, Pack, Request};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// What opens data of a level, or decides on it.
const DEMANDING: [Action; 14] = [
    Action::SliceConnect,
    Action::SliceStart,
    Action::SliceRebuild,
    Action::SliceRestore,
    Action::SliceDrill,
    Action::SliceRekey,
    Action::SliceApprove,
    Action::SliceExtend,
    Action::ProjectDeclassify,
    Action::ProjectDeclassifyDecide,
    Action::ProjectAddMember,
    Action::KeysEscrow,
    Action::HoldLift,
    Action::LockLift,
];

/// Proven at the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// SHA-256 of issuer and subject, hexadecimal.
    pub account: String,
    /// When.
    pub at: Timestamp,
    /// With a second factor.
    pub second: bool,
    /// As the provider says it.
    pub how: String,
}

/// Refuses what her level demands a second factor for, where she has not proven one lately.
pub fn demand(state: &State, pack: &Pack, request: &Request, now: Timestamp) -> Result<(), Refusal> {
    let Identity::Person { name, .. } = &request.principal.identity else { return Ok(()) };
    let level = request.resource.level().and_then(|id| pack.level(id));
    let Some(level) = level.filter(|level| level.second_factor_hours > 0) else { return Ok(()) };
    if !DEMANDING.contains(&request.action) {
        return Ok(());
    }
    let hours = level.second_factor_hours;
    let demands = format!("level {} demands a second factor in the last {hours} hours", level.id);
    let no = |why: String| Err(Refusal::new(RefusalKind::Denied, why).hint("holm login"));
    let Some(login) = state.people.get(name).and_then(|person| person.login.as_ref()) else {
        return no(format!("{demands}: you have not logged in"));
    };
    if !login.second {
        return no(format!("{demands}: your login was without one ({})", login.how));
    }
    // One of a time to come is by a clock that was set back since.
    let age = now.duration_since(login.at);
    if age >= SignedDuration::from_hours(hours.into()) || age < SignedDuration::ZERO {
        return no(format!("{demands}: your login was at {:.0}", login.at));
    }
    Ok(())
}

/// She was there. The account is hers alone, and stays the same until she enrols anew.
pub fn proven(state: &State, person: &Person, login: Login) -> Result<Vec<Change>, Refusal> {
    let no = |text: &str, next: &str| Err(Refusal::new(RefusalKind::Denied, text).hint(next));
    let has = |p: &&Person| p.login.as_ref().is_some_and(|has| has.account == login.account);
    if state.people.values().any(|p| p.name != person.name && has(&p)) {
        return no(
            "this account at the provider is somebody else's here: one person has one account",
            "log in at the provider with your own account, and: holm login",
        );
    }
    if person.login.as_ref().is_some_and(|before| before.account != login.account) {
        return no(
            "this is another account at the provider than the one you logged in with first",
            "log in there with that one; where your account was changed, ask for a new invitation: holm enrol CODE",
        );
    }
    Ok(vec![Change::Put(Record::Person(Person { login: Some(login), ..person.clone() }))])
}
