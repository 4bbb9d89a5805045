//! What holds whatever the names, roles, levels and projects are.

use super::{ask, pack};
use crate::{Action, Identity, Pack, Principal, Resource};
use holm_proto::ids::Name;
use proptest::{collection::vec, prelude::*, sample::select};
use std::sync::LazyLock;

static PACK: LazyLock<Pack> = LazyLock::new(pack);

const ROLES: [&str; 5] = ["lead", "researcher", "officer", "operator", "auditor"];

/// Few names, so that they meet.
fn any_name() -> impl Strategy<Value = Name> {
    select(vec!["anna", "bo", "carl", "dgx"]).prop_map(|n| n.parse().unwrap())
}

fn any_names() -> impl Strategy<Value = Vec<Name>> {
    vec(any_name(), 0..4)
}

fn any_roles() -> impl Strategy<Value = Vec<String>> {
    vec(select(ROLES.to_vec()).prop_map(str::to_owned), 0..6)
}

fn any_level() -> impl Strategy<Value = String> {
    prop_oneof![select(vec!["0", "1", "2", "3"]).prop_map(str::to_owned), ".{0,8}"]
}

fn any_missing() -> impl Strategy<Value = Vec<String>> {
    vec(select(vec!["a DPIA (--dpia)", "an end date (--ends)"]).prop_map(str::to_owned), 0..2)
}

fn any_slice() -> impl Strategy<Value = Resource> {
    let people = (any_name(), any_names(), any_names(), any_name(), any_names(), any_names(), any_names());
    (any_name(), any_level(), people, any_missing(), any::<bool>()).prop_map(
        |(
            project,
            level,
            (lead, members, readers, requested_by, approved_by, held_by, lapsed),
            missing,
            lease_over,
        )| {
            Resource::Slice {
                name: project.clone(),
                project,
                level,
                lead,
                members,
                readers,
                requested_by,
                approved_by,
                held_by,
                missing,
                lapsed,
                lease_over,
            }
        },
    )
}

fn any_resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        Just(Resource::System),
        Just(Resource::Log),
        any_name().prop_map(|name| Resource::Host { name }),
        (any_name(), any_roles()).prop_map(|(name, roles)| Resource::Person { name, roles }),
        (
            any_name(),
            any_level(),
            any_name(),
            [any_names(), any_names(), any_names(), any_names()],
            any_missing()
        )
            .prop_map(|(name, level, lead, [members, readers, held_by, lapsed], missing)| {
                Resource::Project { name, level, lead, members, readers, held_by, missing, lapsed }
            }),
        any_slice(),
    ]
}

fn any_person() -> impl Strategy<Value = Principal> {
    (any_name(), any_roles())
        .prop_map(|(name, roles)| Principal { identity: Identity::Person { name, roles }, known: true })
}

fn any_principal() -> impl Strategy<Value = Principal> {
    prop_oneof![
        4 => any_person(),
        1 => any_name().prop_map(|name| Principal { identity: Identity::Host { name }, known: true }),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    select(Action::ALL.to_vec())
}

fn has(principal: &Principal, role: &str) -> bool {
    matches!(&principal.identity, Identity::Person { roles, .. } if roles.iter().any(|r| r == role))
}

proptest! {
    #[test]
    fn nobody_decides_on_their_own(who in any_person(), resource in any_slice(), approve: bool) {
        let action = if approve { Action::SliceApprove } else { Action::SliceReject };
        let Resource::Slice { level, lead, members, requested_by, approved_by, missing, .. } = &resource else {
            unreachable!()
        };
        let name = who.identity.name();
        let own = requested_by == name || lead == name || members.contains(name);
        let again = approve && approved_by.contains(name);
        let here = !approve || missing.is_empty() && PACK.level(level).is_some_and(|l| l.runs_here);
        let may = has(&who, "officer") && !has(&who, "operator") && !own && !again && here;
        prop_assert_eq!(ask(&PACK, &who, action, &resource).allow, may);
    }

    #[test]
    fn a_hold_is_for_officers_and_where_two_approve_two_lift_it(who in any_person(), resource in any_slice()) {
        let Resource::Slice { level, lead, members, held_by, .. } = &resource else { unreachable!() };
        let name = who.identity.name();
        let officer = has(&who, "officer") && !has(&who, "operator");
        prop_assert_eq!(ask(&PACK, &who, Action::HoldSet, &resource).allow, officer);
        let two = PACK.level(level).is_none_or(|l| l.approvals > 1);
        let own = lead == name || members.contains(name);
        let may = officer && !own && !(two && held_by.contains(name));
        prop_assert_eq!(ask(&PACK, &who, Action::HoldLift, &resource).allow, may);
    }

    #[test]
    fn who_is_not_enrolled_gets_nothing(who in any_principal(), action in any_action(), what in any_resource()) {
        let who = Principal { known: false, ..who };
        let decision = ask(&PACK, &who, action, &what);
        prop_assert!(!decision.allow && !decision.visible);
    }

    #[test]
    fn a_role_that_is_none_gets_nothing(
        name in any_name(),
        roles in any_roles(),
        odd in "\\PC{0,20}|[A-Z][a-z]{3,8}|lead |Lead|Role::\"lead\"",
        action in any_action(),
        what in any_resource(),
    ) {
        prop_assume!(!ROLES.contains(&odd.as_str()));
        let roles = roles.into_iter().chain([odd]).collect();
        let who = Principal { identity: Identity::Person { name, roles }, known: true };
        let decision = ask(&PACK, &who, action, &what);
        prop_assert!(!decision.allow && !decision.visible);
    }

    #[test]
    fn nothing_starts_at_a_level_that_does_not_run_here(
        who in any_principal(),
        action in select(vec![Action::ProjectCreate, Action::ProjectAddMember, Action::SliceRequest,
                              Action::SliceApprove, Action::SliceConnect]),
        what in any_resource(),
    ) {
        let decision = ask(&PACK, &who, action, &what);
        if decision.allow {
            let level = what.level().and_then(|id| PACK.level(id));
            prop_assert!(level.is_some_and(|l| l.runs_here), "{:?}", what);
        }
    }

    #[test]
    fn data_is_for_the_project_alone(who in any_principal(), what in any_slice()) {
        let decision = ask(&PACK, &who, Action::SliceConnect, &what);
        let Resource::Slice { lead, members, missing, lapsed, lease_over, .. } = &what else { unreachable!() };
        if decision.allow {
            let name = who.identity.name();
            prop_assert!(lead == name || members.contains(name));
            prop_assert!(missing.is_empty() && !lapsed.contains(name) && !lease_over);
            prop_assert!(!has(&who, "operator") && !has(&who, "officer"));
            prop_assert!(has(&who, "lead") || has(&who, "researcher"));
        }
    }

    #[test]
    fn who_only_reads_runs_nothing(
        who in any_principal(),
        action in select(vec![Action::SliceStop, Action::SliceDrain, Action::SliceStart, Action::SliceBackup,
                              Action::SliceDrill]),
        what in any_slice(),
    ) {
        let decision = ask(&PACK, &who, action, &what);
        let Resource::Slice { readers, .. } = &what else { unreachable!() };
        prop_assert!(!(decision.allow && readers.contains(who.identity.name())));
    }

    #[test]
    fn a_tenant_cannot_tell_that_another_exists(name in any_name(), researcher: bool, lead: bool,
                                                action in any_action(), what in any_resource()) {
        let mut roles = Vec::new();
        roles.extend(researcher.then(|| "researcher".to_owned()));
        roles.extend(lead.then(|| "lead".to_owned()));
        let who = Principal { identity: Identity::Person { name: name.clone(), roles }, known: true };
        let mine = match &what {
            Resource::System | Resource::Log => true,
            Resource::Project { lead, members, .. } | Resource::Slice { lead, members, .. } =>
                *lead == name || members.contains(&name),
            Resource::Person { name: other, .. } => *other == name,
            Resource::Host { .. } => false,
        };
        let decision = ask(&PACK, &who, action, &what);
        // What she describes herself and does not get looks the same whether or not there is one.
        let about_to_be = matches!(action, Action::ProjectCreate | Action::PersonInvite
            | Action::PersonInviteOfficer | Action::PersonInviteHost);
        if !mine && !about_to_be {
            prop_assert!(!decision.visible, "{:?}", decision);
        }
        if !mine {
            prop_assert!(!decision.allow, "{:?}", decision);
        }
    }

    #[test]
    fn officers_are_made_by_officers(who in any_principal(), name in any_name(), roles in any_roles(),
                                     officer_action: bool) {
        let action = if officer_action { Action::PersonInviteOfficer } else { Action::PersonInvite };
        let to_be = |role: &str| roles.iter().any(|r| r == role);
        let (an_officer, an_operator) = (to_be("officer"), to_be("operator"));
        let what = Resource::Person { name, roles };
        if ask(&PACK, &who, action, &what).allow {
            prop_assert!(!an_officer || has(&who, "officer"));
            prop_assert!(!(an_officer && an_operator));
            prop_assert!(!(has(&who, "officer") && has(&who, "operator")));
        }
    }

    #[test]
    fn nobody_looks_at_recordings_of_her_own_project(who in any_person(), what in any_resource()) {
        if ask(&PACK, &who, Action::SliceRecordings, &what).allow {
            let Resource::Slice { lead, members, .. } = &what else { panic!("{what:?}") };
            let name = who.identity.name();
            prop_assert!(has(&who, "officer") && !has(&who, "operator") && lead != name && !members.contains(name));
        }
    }

    #[test]
    fn a_host_speaks_for_itself_alone(name in any_name(), what in any_resource()) {
        let who = Principal { identity: Identity::Host { name: name.clone() }, known: true };
        let its_own = Resource::Host { name };
        // Every action on its own host, each time: a permission too many is not left to chance.
        for &action in Action::ALL {
            let its = matches!(action, Action::AgentSession | Action::AgentKey | Action::CertificateRenew);
            for what in [&its_own, &what] {
                let decision = ask(&PACK, &who, action, what);
                let may = its && *what == its_own;
                prop_assert_eq!((decision.allow, decision.visible), (may, may), "{:?}", action);
            }
        }
    }

    #[test]
    fn the_log_is_for_officers_and_auditors(who in any_person()) {
        let may = (has(&who, "officer") && !has(&who, "operator"))
            || (has(&who, "auditor") && !(has(&who, "officer") && has(&who, "operator")));
        prop_assert_eq!(ask(&PACK, &who, Action::AuditRead, &Resource::Log).allow, may);
    }

    #[test]
    fn a_reason_is_one_bounded_printable_line(who in any_principal(), action in any_action(),
                                              level in "(?s).{0,2000}", mut what in any_resource()) {
        if let Resource::Project { level: l, .. } | Resource::Slice { level: l, .. } = &mut what {
            *l = level;
        }
        for reason in ask(&PACK, &who, action, &what).reasons {
            prop_assert!(reason.len() < 1000 && !reason.chars().any(char::is_control), "{}", reason);
        }
    }
}
