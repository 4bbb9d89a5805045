//! Actor × action × resource × level as one table, and every reason a person can read.

use super::{account, ask, but, host, name, names, pack, person, project, slice};
use crate::{Action, Pack, Principal, Resource};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// Column heading and who stands in it.
fn actors() -> Vec<(&'static str, Principal)> {
    let mut gone = person("lina", &["lead"]);
    gone.known = false;
    vec![
        ("its lead", person("lina", &["lead"])),
        ("its member", person("ravn", &["researcher"])),
        ("member, operator too", person("opal", &["researcher", "operator"])),
        ("member, officer too", person("mona", &["researcher", "officer"])),
        ("lead, officer too", person("lina", &["lead", "officer"])),
        ("another lead", person("lars", &["lead"])),
        ("another researcher", person("rune", &["researcher"])),
        ("officer", person("otto", &["officer"])),
        ("officer who approved and holds", person("olga", &["officer"])),
        ("operator", person("odin", &["operator"])),
        ("auditor", person("anna", &["auditor"])),
        ("officer and operator", person("otis", &["officer", "operator"])),
        ("its lead, now without role", person("lina", &[])),
        ("a role that is none", person("lina", &["lead", "wizard"])),
        ("its lead, not enrolled", gone),
        ("host dgx", host("dgx")),
        ("host other", host("other")),
    ]
}

fn resources() -> Vec<(String, Resource)> {
    let mut all: Vec<(String, Resource)> = Vec::new();
    for level in ["0", "1", "2", "3", "4", "Level 2", ""] {
        all.push((format!("project at `{level}`"), project(level)));
        all.push((format!("slice at `{level}`"), slice(level)));
    }
    let by_officer = Resource::Slice {
        project: name("heart"),
        name: name("train"),
        level: "3".to_owned(),
        lead: name("lars"),
        members: names(&["lars"]),
        readers: Vec::new(),
        requested_by: name("otto"),
        approved_by: names(&[]),
        held_by: names(&[]),
        missing: Vec::new(),
        lapsed: Vec::new(),
        lease_over: false,
    };
    let mut over = slice("3");
    if let Resource::Slice { lease_over, .. } = &mut over {
        *lease_over = true;
    }
    let mut reads = slice("3");
    if let Resource::Slice { readers, .. } = &mut reads {
        *readers = names(&["ravn"]);
    }
    all.push(("project at `3` without a DPIA".to_owned(), but(project("3"), &["a DPIA (--dpia)"], &[])));
    all.push(("slice at `3` without a DPIA".to_owned(), but(slice("3"), &["a DPIA (--dpia)"], &[])));
    all.push(("slice at `3`, its member's agreement ended".to_owned(), but(slice("3"), &[], &["ravn"])));
    all.push(("slice at `3`, its time over".to_owned(), over));
    all.push(("slice at `3` in which ravn only reads".to_owned(), reads));
    all.push(("slice at `3` of lars that otto asked for".to_owned(), by_officer));
    all.push(("system".to_owned(), Resource::System));
    all.push(("log".to_owned(), Resource::Log));
    all.push(("host dgx".to_owned(), Resource::Host { name: name("dgx") }));
    for (who, roles) in [
        ("ravn", &["researcher"][..]),
        ("odin", &["operator"]),
        ("olga", &["officer"]),
        ("nils", &[]),
        ("nils", &["lead", "auditor"]),
        ("nils", &["lead", "officer"]),
        ("nils", &["officer", "operator"]),
        ("nils", &["wizard"]),
    ] {
        all.push((format!("person {who} as {}", roles.join(", ")), account(who, roles)));
    }
    all
}

#[test]
fn who_may_do_what() {
    let pack = pack();
    let actors = actors();
    let mut table = String::from("+ allowed   - refused   . not found, as if it were not there\n\n");
    for (i, (heading, _)) in actors.iter().enumerate() {
        writeln!(table, "{:width$}┌ {heading}", "", width = 28 + 2 * i).unwrap();
    }
    for (label, resource) in resources() {
        writeln!(table, "\n{label}").unwrap();
        let mut never = Vec::new();
        for action in Action::ALL {
            let row: Vec<&str> = actors
                .iter()
                .map(|(_, actor)| {
                    let decision = ask(&pack, actor, *action, &resource);
                    assert!(!decision.reasons.is_empty());
                    assert!(decision.visible || !decision.allow, "what is allowed is seen");
                    match (decision.allow, decision.visible) {
                        (true, _) => "+",
                        (false, true) => "-",
                        (false, false) => ".",
                    }
                })
                .collect();
            if row.contains(&"+") {
                writeln!(table, "  {:<26}{}", action.text(), row.join(" ")).unwrap();
            } else {
                never.push(action.text());
            }
        }
        writeln!(table, "  nobody: {}", never.join(", ")).unwrap();
    }
    insta::assert_snapshot!("matrix", table);
}

#[test]
fn what_a_person_reads() {
    let pack = pack();
    let mut seen: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (_, actor) in actors() {
        for (_, resource) in resources() {
            for action in Action::ALL {
                let decision = ask(&pack, &actor, *action, &resource);
                if decision.allow {
                    continue;
                }
                for reason in decision.reasons {
                    // One that fits no such resource has one text, with the action in it.
                    let reason = reason.replace(&format!("`{action}` is nothing"), "`ACTION` is nothing");
                    seen.entry(reason).or_default().insert(action.text());
                }
            }
        }
    }
    let mut text = String::new();
    for (reason, actions) in seen.iter().filter(|(reason, _)| !reason.contains("`ACTION`")) {
        let actions = if actions.len() == Action::ALL.len() {
            "every action".to_owned()
        } else {
            actions.iter().copied().collect::<Vec<_>>().join(", ")
        };
        writeln!(text, "{reason}\n    {actions}").unwrap();
    }
    insta::assert_snapshot!("reasons", text);
}

#[test]
fn what_fits_nothing_is_refused_in_words() {
    let decision = ask(&pack(), &person("lina", &["lead"]), Action::AgentKey, &slice("2"));
    assert_eq!(decision.reasons, ["`agent.key` is nothing that `lina` can do to this"]);
}

#[test]
fn a_lead_is_told_who_must_approve() {
    let decision = ask(&pack(), &person("lina", &["lead"]), Action::SliceApprove, &slice("3"));
    assert!(!decision.allow && decision.visible);
    assert_eq!(
        decision.reasons,
        [
            "nobody decides on what they asked for: an officer other than `lina` must do it (rule slice.own-request)"
        ]
    );
    assert_eq!(decision.pack, "aau-2018/7");
}

#[test]
fn public_and_internal_data_are_pointed_to_the_shared_cluster() {
    for level in ["0", "1"] {
        let decision = ask(&pack(), &person("lina", &["lead"]), Action::ProjectCreate, &project(level));
        assert!(!decision.allow && decision.visible);
        let text = decision.reasons.join("; ");
        assert!(text.contains("shared cluster") && text.contains(&format!("level {level}")), "{text}");
    }
}

#[test]
fn levels_are_what_the_pack_says() {
    let pack = pack();
    assert_eq!(pack.id(), "aau-2018/7");
    let of = |id: &str| pack.level(id).map(|l| (l.name.as_str(), l.runs_here, l.approvals));
    assert_eq!(of("0"), Some(("public", false, 0)));
    assert_eq!(of("1"), Some(("internal", false, 0)));
    assert_eq!(of("2"), Some(("confidential", true, 1)));
    assert_eq!(of("3"), Some(("sensitive", true, 2)));
    for none in ["4", "", "03", " 3", "３", "../3", "sensitive"] {
        assert_eq!(of(none), None, "{none}");
    }
}

#[test]
fn no_rule_is_for_nothing() {
    let whole = pack();
    let (actors, resources) = (actors(), resources());
    let questions = || {
        actors.iter().flat_map(|(_, actor)| {
            resources
                .iter()
                .flat_map(move |(_, resource)| Action::ALL.iter().map(move |a| (actor, *a, resource)))
        })
    };
    let fits = |(actor, action, resource): &(&Principal, Action, &Resource)| {
        whole.fits(&actor.identity, *action, resource).is_ok()
    };
    let questions: Vec<_> = questions().filter(fits).collect();
    let answer = |pack: &Pack, (actor, action, resource): &(&Principal, Action, &Resource)| {
        let decision = ask(pack, actor, *action, resource);
        (decision.allow, decision.visible)
    };
    // At one level keys may leave Holm, or no rule of escrow made a difference.
    let levels = |text: &str| text.replacen("escrow = false", "escrow = true", 1);
    let open = super::broken::with("pack.toml", levels).unwrap();
    let answers = |pack: &Pack| questions.iter().map(|question| answer(pack, question)).collect::<Vec<_>>();
    let (before, before_open) = (answers(&whole), answers(&open));
    let policies = include_str!("../../packs/aau-2018/policies.cedar");
    let rules: Vec<&str> = policies.split("\n@id(").skip(1).collect();
    assert!(rules.len() > 20);
    for rule in rules {
        let without = policies.replace(&format!("\n@id({rule}"), "\n");
        // Without its only permit an action is nobody's, and the pack is refused.
        if let Ok(pack) = super::broken::with("policies.cedar", |_| without.clone()) {
            let open = super::broken::with_each(|name, text| match name {
                "policies.cedar" => without.clone(),
                "pack.toml" => levels(text),
                _ => text.to_owned(),
            });
            let differs = answers(&pack) != before || answers(&open.unwrap()) != before_open;
            assert!(differs, "it makes no difference: @id({rule}");
        }
    }
}
