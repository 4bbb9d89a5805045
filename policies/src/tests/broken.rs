//! A pack that is wrong in one place is refused, and the error says where. Also: levels really are data.

use super::{ask, person, project};
use crate::{Action, Obligation, Pack, PackError};
use std::{fs, path::Path};

const FILES: [(&str, &str); 3] = [
    ("pack.toml", include_str!("../../packs/aau-2018/pack.toml")),
    ("schema.cedarschema", include_str!("../../packs/aau-2018/schema.cedarschema")),
    ("policies.cedar", include_str!("../../packs/aau-2018/policies.cedar")),
];

/// Load the built-in pack with one file changed.
pub(super) fn with(file: &str, change: impl Fn(&str) -> String) -> Result<Pack, PackError> {
    with_each(|name, text| if name == file { change(text) } else { text.to_owned() })
}

/// Load the built-in pack with any of its files changed.
pub(super) fn with_each(change: impl Fn(&str, &str) -> String) -> Result<Pack, PackError> {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in FILES {
        fs::write(directory.path().join(name), change(name, text)).unwrap();
    }
    Pack::load(directory.path())
}

/// With `from` replaced by `to`, which must be there to replace: an error in this file, near the change, whose
/// text has all of `said`.
fn breaks(file: &str, from: &str, to: &str, said: &[&str]) {
    let text = FILES.iter().find(|(name, _)| *name == file).unwrap().1;
    let offset = text.find(from).unwrap_or_else(|| panic!("`{from}` is not in {file}"));
    let line = text[..offset].matches('\n').count() + 1;
    let error = with(file, |text| text.replacen(from, to, 1)).expect_err(to);
    let shown = error.to_string();
    for part in said {
        assert!(shown.contains(part), "`{part}` is not in: {shown}");
    }
    assert_eq!(error.file().file_name().unwrap(), file, "{shown}");
    let told = error.line().unwrap_or_else(|| panic!("no line: {shown}"));
    // The start of the level or rule that the change is in, or somewhere in it.
    let lines = line.saturating_sub(4)..=line + to.matches('\n').count() + 9;
    assert!(lines.contains(&told), "line {told} instead of one of {lines:?}: {shown}");
}

#[test]
fn unchanged_it_loads() {
    assert_eq!(with("", str::to_owned).unwrap().id(), "aau-2018/7");
    let error = Pack::builtin("../aau-2018").unwrap_err().to_string();
    assert_eq!(error, "../aau-2018: no pack of this name comes with Holm: there is aau-2018, aau-2026");
}

#[test]
fn a_manifest_is_read_strictly() {
    let f = "pack.toml";
    breaks(f, "version = 7", "version = 3\nmoat = \"red\"", &["pack.toml:5", "unknown field `moat`"]);
    breaks(f, "colour = \"red\"", "colour = \"pink\"", &["unknown variant `pink`"]);
    breaks(f, "name = \"public\"", "name = \"public\"\nsecret = true", &["unknown field `secret`"]);
    breaks(f, "version = 7", "version = \"1\"", &["pack.toml:4"]);
    breaks(f, "version = 7", "version = 0", &["versions count from 1"]);
    breaks(f, "version = 7", "version = -1", &["pack.toml:4"]);
    breaks(f, "version = 7", "version = 1 1", &["pack.toml:4"]);
    breaks(f, "aau-2018", "../aau", &["`../aau` is no name"]);
    breaks(f, "aau-2018", "", &["is no name"]);
    breaks(f, "id = \"1\"", "id = \"0\"", &["two levels `0`"]);
    breaks(f, "id = \"1\"", "id = 1", &["pack.toml"]);
    breaks(f, "id = \"1\"", "id = \"１\"", &["is no level"]);
    breaks(f, "id = \"1\"", "", &["missing field `id`"]);
    breaks(f, "approvals = 1", "", &["say how many `approvals`"]);
    breaks(f, "approvals = 1", "approvals = 0", &["1 approval or more"]);
    breaks(f, "approvals = 1", "approvals = 1\nrefusal = \"no\"", &["has no `refusal`"]);
    breaks(f, "runs_here = false", "runs_here = true", &["`approvals`"]);
    breaks(f, "keep_closed_days = 0", "keep_closed_days = 3654", &["`keep_closed_days` is 3653 at most"]);
    breaks(f, "lease_days = 365", "lease_days = 4294967296", &["invalid value"]);
    breaks(f, "closing_days = 30", "closing_days = 3654", &["`closing_days` is 3653 at most"]);
    let least = "`log_days` is 180 at least and 3653 at most, or 0: for ever";
    for days in [1, 179] {
        breaks(
            f,
            "closing_days = 30",
            &format!("closing_days = 30\nlog_days = {days}"),
            &["level `2`", least],
        );
        breaks(f, "# log_days = 1827", &format!("log_days = {days}"), &[least]);
    }
    breaks(f, "closing_days = 30", "log_days = 3654", &["`log_days` is 3653 at most"]);
    breaks(f, "# log_days = 1827", "log_days = 3654", &[least]);
    breaks(f, "runs_here = false", "runs_here = false\nlog_days = 365", &["has no `log_days`"]);
    breaks(f, "runs_here = false", "runs_here = false\nlease_days = 1", &["has no `lease_days`"]);
    breaks(
        f,
        "runs_here = false",
        "runs_here = false\nrestore_drill_days = 0",
        &["has no `restore_drill_days`"],
    );
    breaks(f, "runs_here = false", "runs_here = false\nescrow = false", &["has no `escrow`"]);
    breaks(f, "keep_closed_days = 0", "keep_closed_days = -1", &["invalid value"]);
    breaks(f, "runs_here = false", "runs_here = false\nkeep_closed_days = 0", &["has no `keep_closed_days`"]);
    breaks(f, "runs_here = false", "runs_here = false\napprovals = 1", &["has no `approvals`"]);
    breaks(f, "runs_here = false", "runs_here = false\nobligations = [\"vtpm\"]", &["has no `obligations`"]);
    breaks(f, "runs_here = false", "runs_here = \"false\"", &["pack.toml"]);
    breaks(f, "runs_here = true", "runs_here = false", &["where to go instead"]);
    breaks(
        f,
        "\"vtpm\"",
        "\"vtpm\", \"moat\"",
        &["nothing in Holm enforces `moat`: there is encrypted_volume"],
    );
    let sworn = "\"dpia\", \"oath\"";
    breaks(f, "\"dpia\"", sworn, &["unknown variant `oath`", "`legal_basis`"]);
    breaks(f, "\"dpia\"", "\"dpia\", \"dpia\"", &["demands this evidence twice"]);
    breaks(f, "runs_here = false", "runs_here = false\nmust_file = [\"dpia\"]", &["has no `must_file`"]);
    breaks(f, "\"vtpm\"", "\"vtpm\", \"vtpm\"", &["twice"]);
    breaks(f, "{shared_cluster}", "{other}", &["is not one line of plain text"]);
    breaks(f, "\"use the shared", "\"\\n\\u0007 the shared", &["is not one line of plain text"]);
}

#[test]
fn a_rule_of_the_site_points_at_what_there_is() {
    let f = "pack.toml";
    breaks(f, "number = 14", "number = 13", &["two rules 13"]);
    breaks(f, "number = 14", "number = 0", &["rules count from 1"]);
    breaks(f, "\"holm/sanitising\"", "", &["rule 14: say in `by`"]);
    breaks(
        f,
        "\"holm/sanitising\"",
        "\"holm/magic\"",
        &["rule 14: `holm/magic`: there is audit-before-effect"],
    );
    breaks(f, "\"holm/sanitising\"", "\"sanitising\"", &["`sanitising` points at nothing"]);
    breaks(
        f,
        "\"policy/level.runs-here\"",
        "\"policy/level.run\"",
        &["no rule in policies.cedar has this id"],
    );
    breaks(
        f,
        "\"obligation/no_network\", \"obligation/terminal_only\"]\nmissing",
        "\"obligation/moat\"]\nmissing",
        &["nothing in Holm enforces `moat`"],
    );
    breaks(
        f,
        "\"encrypted_volume\", \"locked_memory\", \"no_network\"]",
        "\"encrypted_volume\", \"locked_memory\", \"no_network\", \"recorded_terminals\"]",
        &["level `2`: `recorded_terminals` takes `terminal_only`"],
    );
    breaks(f, "\"must_file/research\"", "\"must_file/oath\"", &["`must_file/oath`: there is legal_basis"]);
    breaks(
        f,
        "\"setting/approvals\"",
        "\"setting/approval\"",
        &["there is approvals, second_factor_hours, keep_closed_days"],
    );
    // Nothing demands it: then it sees to nothing.
    breaks(
        f,
        "\"setting/approvals\"",
        "\"setting/restore_drill_days\"",
        &["no level that runs here sets it"],
    );
    let without = |text: &str| text.replace(", \"outside_approver\"", "");
    let error = with(f, without).unwrap_err().to_string();
    assert!(
        error.contains("rule 7: `obligation/outside_approver`: no level that runs here demands it"),
        "{error}"
    );
    // A policy that a rule of the site relies on is not taken out unnoticed.
    let error =
        with("policies.cedar", |t| t.replace("@id(\"slice.own-project\")", "@id(\"slice.own-slice\")"));
    assert!(error.unwrap_err().to_string().contains("`policy/slice.own-project`"));
}

#[test]
fn the_twenty_rules_are_in_each_pack() {
    for name in crate::built_in() {
        let pack = Pack::builtin(name).unwrap();
        let numbers: Vec<u32> = pack.site_rules().iter().map(|rule| rule.number).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<u32>>(), "{name}");
        assert!(pack.site_rules().iter().all(|rule| !rule.source.is_empty()));
    }
}

#[test]
fn a_schema_fits_holm() {
    let f = "schema.cedarschema";
    breaks(f, "entity Person in [Role];", "entity Person in [Roll];", &["Roll"]);
    breaks(f, "entity System;", "entity System", &["schema.cedarschema:"]);
    let error = with(f, |t| t.replace("entity System;", "entity Sistem;")).unwrap_err();
    assert!(
        error.to_string().contains("`System` has not been declared") && error.line().is_some(),
        "{error}"
    );
    breaks(f, "\"audit.read\"", "\"audit.write\"", &["`audit.write` is no action of Holm"]);
    breaks(
        f,
        "\"project.create\", ",
        "\"project.create\", \"project.burn\", ",
        &["`project.burn` is no action"],
    );
    let error = with(f, |t| t.replace(", \"slice.request\"", "")).unwrap_err().to_string();
    assert!(error.ends_with("schema.cedarschema: there is no action `slice.request`"), "{error}");
    // Cedar would take both; but what holmd asks would never fit.
    let error =
        with(f, |t| t.replace("  requested_by: Person,", "  requested_by: Person,\n  colour: String,"));
    assert!(error.unwrap_err().to_string().contains("nothing that holmd asks fits `slice.read`"));
    let error = with(f, |t| t.replace("entity Log;", "entity Log { open: Bool };")).unwrap_err();
    assert!(error.to_string().contains("nothing that holmd asks fits `audit.read`"), "{error}");
}

#[test]
fn a_rule_has_a_name_a_reason_and_an_effect() {
    let f = "policies.cedar";
    let whole = "@id(\"audit.read\")\n";
    breaks(f, whole, "", &["needs a name"]);
    breaks(f, whole, "@id(\"Audit Read\")\n", &["is no name for a rule"]);
    breaks(f, whole, "@id(\"host.read\")\n", &["two rules `host.read`"]);
    breaks(f, whole, "@id(\"audit.read\")\n@ticket(\"7\")\n", &["`@ticket` is not known"]);
    breaks(f, "@reason(\"only officers and auditors read the log\")\n", "", &["needs words for a person"]);
    breaks(f, "auditors read the log", "auditors read the log: {password}", &["names `{password}`"]);
    breaks(f, "auditors read the log", "auditors read the log: {", &["names `{}`"]);
    breaks(f, "action == Action::\"audit.read\"", "action == Action::\"audit.raed\"", &["audit.raed"]);
    breaks(f, "Role::\"auditor\" }", "Role::\"auditer\" }", &["auditer"]);
    breaks(f, "resource.requested_by == principal };", "resource.asked_by == principal };", &["asked_by"]);
    breaks(
        f,
        "resource.requested_by == principal };",
        "resource.requested_by == \"lina\" };",
        &["policies.cedar:"],
    );
    breaks(
        f,
        "resource.requested_by == principal };",
        "resource.requested_by == principal",
        &["policies.cedar:"],
    );
    breaks(
        f,
        whole,
        "@id(\"any\")\n@reason(\"all may\")\npermit (principal, action, resource);\n@id(\"audit.read\")\n",
        &["rule `any` permits every action"],
    );
    breaks(
        f,
        whole,
        "@id(\"t\")\n@reason(\"r\")\npermit (principal == ?principal, action, resource);\n@id(\"audit.read\")\n",
        &["a template is not a rule"],
    );
    // It could never apply: a host has no role.
    breaks(
        f,
        "principal in Role::\"operator\", action == Action::\"device.release\"",
        "principal is Host in Role::\"operator\", action == Action::\"device.release\"",
        &["policies.cedar:"],
    );
}

#[test]
fn every_action_is_somebodys() {
    let error = with("policies.cedar", |t| t[..t.find("// ---- The log").unwrap()].to_owned()).unwrap_err();
    assert!(error.to_string().contains("covers `audit.read`"), "{error}");
    assert_eq!(error.file().file_name().unwrap(), "schema.cedarschema");
    assert!(error.line().is_some());
    assert!(with("policies.cedar", |_| String::new()).is_err());
}

#[test]
fn a_pack_keeps_its_own_levels() {
    let error =
        with("policies.cedar", |t| t.replacen("unless { resource.level.runs_here };", "unless { true };", 1));
    assert!(error.is_err());
    let error = with("policies.cedar", |t| {
        t.replacen("unless { resource.level.runs_here };", "when { resource.level.runs_here };", 1)
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("`project.create` is allowed at level `0`, which does not run here"), "{error}");
}

#[test]
fn a_pack_holds_to_the_time_that_its_levels_give() {
    let text = "when { resource.lease_over };";
    let some = "when { resource.lease_over && resource.level.approvals == 1 };";
    let error = with("policies.cedar", |t| t.replacen(text, some, 1)).unwrap_err().to_string();
    assert!(error.contains("level `3` has `lease_days`, and `slice.start` is allowed after that"), "{error}");
    // Where no level gives a time there is nothing to hold to.
    let none = with_each(|file, t| match file {
        "pack.toml" => t
            .replace("lease_days = 365", "lease_days = 0")
            .replace("lease_days = 180", "lease_days = 0")
            .replace(", \"setting/lease_days\"", ""),
        _ => t.replacen(text, some, 1),
    });
    none.unwrap();
}

#[test]
fn a_pack_holds_to_what_its_levels_demand_to_be_filed() {
    let some = "unless { resource.missing.isEmpty() || resource.level.approvals == 1 };";
    let error = with("policies.cedar", |t| t.replacen("unless { resource.missing.isEmpty() };", some, 1));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("level `2` has `must_file`, and `slice.request` is allowed"), "{error}");
    let error = with("policies.cedar", |t| {
        t.replacen(
            "    Action::\"slice.connect\"\n  ],\n  resource\n)\nunless { resource.missing",
            "    Action::\"slice.start\"\n  ],\n  resource\n)\nunless { resource.missing",
            1,
        )
    });
    assert!(error.unwrap_err().to_string().contains("`slice.connect` is allowed whatever is filed"));
}

#[test]
fn files_that_are_no_pack() {
    for (file, _) in FILES {
        assert!(with(file, |_| "\u{0}\u{1}".to_owned()).is_err());
        assert!(with(file, |_| String::new()).is_err());
        let error = with(file, |_| " ".repeat((1 << 20) + 1)).unwrap_err().to_string();
        assert!(error.ends_with("is larger than 1 MiB"), "{error}");
    }
    let error = Pack::load(Path::new("/nonexistent")).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/pack.toml: cannot be read");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn levels_are_data() {
    // The site's levels since 2026, 1 to 4, under the same rules.
    let manifest = r#"
        name = "aau-2026"
        version = 7
        shared_cluster = "use the shared cluster"
        level = [
            { id = "1", name = "open", runs_here = false, refusal = "{shared_cluster}" },
            { id = "2", name = "confidential", runs_here = true, approvals = 1 },
            { id = "3", name = "sensitive", runs_here = true, approvals = 3, obligations = ["vtpm"] },
            { id = "4", name = "secret", runs_here = false, refusal = "it may not be on any server here" },
        ]
    "#;
    let pack = with("pack.toml", |_| manifest.to_owned()).unwrap();
    assert_eq!(pack.id(), "aau-2026/7");
    let level = pack.level("3").unwrap();
    assert_eq!((level.approvals, level.obligations.iter().next()), (3, Some(&Obligation::Vtpm)));
    let lead = person("lina", &["lead"]);
    let create = |level: &str| ask(&pack, &lead, Action::ProjectCreate, &project(level));
    assert!(create("2").allow && create("3").allow);
    assert_eq!(
        create("4").reasons,
        ["level 4 (secret) may not run here: it may not be on any server here (rule level.runs-here)"]
    );
    assert_eq!(
        create("0").reasons,
        ["`0` is no level in aau-2026/7: here run 2 (confidential), 3 (sensitive) (rule level.runs-here)"]
    );
}

#[test]
fn what_is_nested_too_deeply_is_refused_before_cedar_reads_it() {
    let rule = |inner: String| format!("permit (principal, action, resource) when {{ {inner} }};\n");
    let around = |open: &str, inner: &str, close: &str, deep: usize| {
        rule(format!("{}{inner}{}", open.repeat(deep), close.repeat(deep)))
    };
    let deep = [
        around("(", "true", ")", 100_000),
        around("[", "", "]", 100_000),
        around("{a: ", "1", "}", 100_000),
        around("if true then ", "true", " else true", 20_000),
        // What closes another bracket hides none, and a `;` in between neither.
        rule("(]".repeat(100_000)),
        rule("[;,".repeat(100_000)),
        rule("1if true then ".repeat(20_000)),
        format!("//\r{}", rule("(".repeat(100_000))),
    ];
    for text in deep {
        let error = with("policies.cedar", |all| format!("{text}{all}")).unwrap_err();
        assert_eq!(
            error.to_string().rsplit('/').next(),
            Some("policies.cedar:1: it is nested more than 32 deep: split it")
        );
    }
    let chains = [
        rule("true && ".repeat(100_000)),
        rule(format!("resource{}", ".level".repeat(100_000))),
        rule(format!("{}2 == 2", "1 + ".repeat(100_000))),
    ];
    for text in chains {
        let error = with("policies.cedar", |all| format!("{text}{all}")).unwrap_err();
        assert!(
            error.to_string().ends_with("policies.cedar:1: `{` is not closed, or far from here"),
            "{error}"
        );
    }
    let error = with("policies.cedar", |all| format!("{}{all}", "@a(\"x\") ".repeat(1000))).unwrap_err();
    assert!(error.to_string().contains("more than 2000 words and signs"), "{error}");
    for text in ["Set<".repeat(100_000), "{ a: ".repeat(100_000)] {
        let error = with("schema.cedarschema", |all| format!("{all}entity Deep {{ a: {text}"));
        assert!(error.unwrap_err().to_string().contains("more than 32 deep"));
    }
}

#[test]
fn what_is_as_deep_as_may_be_is_read_by_a_thread_of_holmd() {
    let all = FILES.map(|(_, text)| text);
    let [manifest, schema, policies] = all;
    // In quotes and comments nothing is open.
    let quiet = format!("// {0}\n", "(".repeat(1000));
    let deepest = format!(
        "{quiet}@id(\"deep\")\n@reason(\"\\\"{0}\")\nforbid (principal, action, resource) when {{ {1}principal in Role::\"officer\" && principal in Role::\"operator\"{2} }};\n",
        "(".repeat(1000),
        "(".repeat(31),
        ")".repeat(31),
    );
    let longest = format!(
        "@id(\"long\")\n@reason(\"x\")\nforbid (principal, action, resource) when {{ {}principal in Role::\"operator\" }};\n",
        "principal in Role::\"officer\" && ".repeat(240)
    );
    let policies = format!("{deepest}{longest}{policies}");
    let read = || Pack::from_texts([manifest, schema, &policies]).map(|pack| pack.id().to_owned());
    // As large as the stacks of its threads.
    let stack = std::thread::Builder::new().stack_size(2 << 20);
    let id = std::thread::scope(|all| stack.spawn_scoped(all, read).unwrap().join().unwrap());
    assert_eq!(id.unwrap(), "aau-2018/7");
}
