//! The real binary against a real holmd: enrolment, exit codes, the way of a request, the log.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

mod common;

use common::{Holmd, mode};
use holm_control::witness::server::{self, Witness};
use holm_control::witness::{CosignerConfig, Serving};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_code_is_told_to_nobody_but_its_holmd() {
    let (holmd, other) = (Holmd::start(), Holmd::start());
    let (name, code) = holmd.codes[0].clone();
    // Somebody else's holmd, with a certificate that is good for the name.
    let said = holmd.fails(&name, &["enrol", &code, "--server", &other.enrolment_at()], 1);
    assert!(said.contains("not the holmd that made this code"), "{said}");
    assert!(!holmd.profile(&name).exists());
    // A letter of the hash mistyped.
    let last = if code.ends_with('a') { "b" } else { "a" };
    let mistyped = format!("{}{last}", &code[..code.len() - 1]);
    let said = holmd.fails(&name, &["enrol", &mistyped, "--server", &holmd.enrolment_at()], 1);
    assert!(said.contains("not the holmd that made this code"), "{said}");
    // The code is good still, in capitals too, and once.
    holmd.ok(&name, &["enrol", &code.to_uppercase(), "--server", &holmd.enrolment_at()]);
    let said = holmd.fails("again", &["enrol", &code, "--server", &holmd.enrolment_at()], 1);
    assert!(said.contains("was used already") && !holmd.profile("again").exists(), "{said}");
    assert_eq!(holmd.json(&name, &["whoami"])["name"], name.as_str());
    // What is enrolled is not replaced by a slip.
    let said = holmd.fails(&name, &["enrol", &code], 1);
    assert!(said.contains("--replace"), "{said}");
}

#[test]
fn exit_codes() {
    let mut holmd = Holmd::with_people();
    holmd.fails("nobody", &["whoami"], 1);
    holmd.fails("olga", &["slice", "show", "x/y"], 1);
    holmd.fails("olga", &["slice", "show", "y"], 2);
    holmd.fails("olga", &["slice", "shwo"], 2);
    holmd.fails("olga", &["wait", "x/y", "nonsense"], 2);
    holmd.fails("olga", &["wait", "ready"], 2);
    holmd.ok("olga", &["host", "invite", "dgx"]);
    holmd.fails("olga", &["wait", "--host", "dgx", "online", "--timeout", "1s"], 4);
    // With JSON asked for, the error is JSON too, with the id under which the log has it.
    let said = holmd.fails("olga", &["audit", "log", "--format", "json"], 1);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["exit"], said["request"].as_str().map(str::len)), (&1.into(), Some(36)));
    let key = holmd.profile("olga").join("key.pem");
    mode(&key, 0o644);
    assert!(holmd.fails("olga", &["whoami"], 1).contains("others may have read this key"));
    mode(&key, 0o600);
    assert!(holmd.ok("olga", &["doctor"]).contains("olga (operator)"));
    holmd.stop();
    assert!(holmd.fails("olga", &["whoami"], 3).contains("cannot reach holmd"));
    holmd.fails("olga", &["doctor"], 3);
}

#[test]
fn the_way_of_a_request() {
    let holmd = Holmd::with_people();
    holmd.invite("ada", "lead");
    holmd.project("ada", "heart", "3", "=1+1, \"x\"");
    let said = holmd.fails("ada", &["slice", "request", "main", "--gpus", "2"], 2);
    assert!(said.contains("holm project switch"), "{said}");
    holmd.ok("ada", &["project", "switch", "heart"]);
    holmd.fails("ada", &["project", "switch", "other"], 1);
    let dry = holmd.json("ada", &["slice", "request", "main", "--gpus", "2", "--memory", "64G", "--dry-run"]);
    assert_eq!(
        (&dry["memory_mib"], &dry["gpus"], &dry["state"]),
        (&65536.into(), &2.into(), &"requested".into())
    );
    assert!(dry["vcpus"].as_u64().unwrap() > 0 && dry["disk_gib"].as_u64().unwrap() > 0);
    assert_eq!(holmd.json("ada", &["slice", "list"]), serde_json::json!([]));
    holmd.ok("ada", &["slice", "request", "main", "--gpus", "2"]);
    holmd.fails("ada", &["slice", "approve", "main"], 1);
    let said = holmd.ok("frida", &["slice", "approve", "heart/main", "--comment", "seen"]);
    assert!(said.contains("approvals 1 of 2: frida"), "{said}");
    let said = holmd.ok("ada", &["slice", "explain", "main"]);
    assert!(said.contains("waits for  1 approval") && said.contains("next: holm slice watch"), "{said}");
    // A second approval is another officer's: frida is not told to approve again, gustav is.
    assert!(!holmd.ok("frida", &["slice", "explain", "heart/main"]).contains("holm slice review"));
    assert!(holmd.ok("gustav", &["slice", "explain", "heart/main"]).contains("next: holm slice review"));
    let said = holmd.ok("gustav", &["slice", "review", "heart/main"]);
    for part in [
        "it will have  disks are encrypted",
        "stopped after 180 days, unless it is approved anew",
        "nothing: this is the project's first",
        "next: holm slice approve heart/main --id ",
    ] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    assert!(!holmd.ok("frida", &["slice", "review", "heart/main"]).contains("next:"), "she has approved it");
    // Whatever a script forgets to fill in is not taken for "any".
    holmd.fails("gustav", &["slice", "approve", "heart/main", "--id", ""], 2);
    for question in [
        &["policy", "explain", "slice.approve", "--slice", "heart/main"][..],
        &["policy", "explain", "slice.approve", "--slice", "heart/main", "--as", "frida"],
        &["policy", "explain", "project.create", "--level", "1"],
        &["policy", "explain", "audit.read", "--log"],
        &["policy", "explain", "policy.read"],
    ] {
        holmd.ok("gustav", question);
    }
    holmd.fails("gustav", &["policy", "explain", "slice.read", "--slice", "heart/main", "--log"], 2);
    let review = holmd.json("gustav", &["slice", "review", "heart/main"]);
    assert_eq!((&review["slice"]["gpus"], &review["level"]["days"]["lease_days"]), (&2.into(), &180.into()));
    // Who may not invite hosts is not told to.
    assert!(!holmd.ok("ada", &["host", "list"]).contains("holm host invite"));
    holmd.fails("ada", &["slice", "close", "main"], 2);
    assert_eq!(
        holmd
            .ok("ada", &["project", "list", "--format", "csv"])
            .lines()
            .nth(1)
            .map(|l| l.ends_with("\"'=1+1, \"\"x\"\"\"")),
        Some(true)
    );
    holmd.ok("ada", &["slice", "withdraw", "main"]);
    holmd.fails("ada", &["slice", "watch", "main"], 1);
    holmd.fails("ada", &["wait", "main", "ready"], 1);
    // The project is taken from the environment, too.
    let shown =
        holmd.command("frida", &["slice", "show", "main"]).env("HOLM_PROJECT", "heart").output().unwrap();
    assert!(shown.status.success());
}

#[test]
fn a_project_files_what_its_level_demands() {
    let holmd = Holmd::with_people();
    holmd.invite("ada", "lead");
    // A form, filled in as far as somebody got.
    let form = holmd.ok("ada", &["project", "form", "--level", "3"]);
    let filled = form
        .replacen("name = \"\"", "name = \"heart\"", 1)
        .replacen("purpose = \"\"", "purpose = \"beats\"", 1)
        .replacen("legal_basis = \"\"", "legal_basis = \"e\"", 1)
        .replacen("special_categories = \"\"", "special_categories = \"no\"", 1)
        .replacen("dpia = \"\"", "dpia = \"DPIA-17\"", 1)
        .replacen("dpia_expires = \"\"", "dpia_expires = \"10d\"", 1);
    let file = holmd.dir.path().join("form.toml");
    std::fs::write(&file, filled).unwrap();
    let file = file.to_str().unwrap();
    let dry = holmd.json("ada", &["project", "create", "--file", file, "--dry-run"]);
    assert_eq!(dry["missing"].as_array().unwrap().len(), 4, "{dry}");
    assert_eq!(holmd.json("ada", &["project", "list"]), serde_json::json!([]));
    let said = holmd.ok("ada", &["project", "create", "--file", file, "--research"]);
    assert!(said.contains("next: holm project file heart"), "{said}");
    assert!(said.contains("missing       an ethics approval (--ethics)"), "{said}");
    let said = holmd.fails("ada", &["slice", "request", "heart/main", "--gpus", "1"], 1);
    assert!(said.contains("an end date (--ends)"), "{said}");
    holmd.fails("ada", &["project", "file", "heart"], 1);
    holmd.fails("ada", &["project", "file", "heart", "--ethics-expires", "10d"], 2);
    holmd.fails("ada", &["project", "file", "heart", "--research", "perhaps"], 2);
    let rest = ["--ethics", "N-4711", "--data-management-plan", "DMP-3", "--ends", "400d"];
    let filed: Vec<&str> = ["project", "file", "heart"].into_iter().chain(rest).collect();
    let said = holmd.ok("ada", &filed);
    assert!(
        said.contains("next: holm slice request heart/main") && said.contains("DPIA-17, until"),
        "{said}"
    );
    holmd.ok("ada", &["slice", "request", "heart/main", "--gpus", "1"]);
    let list = holmd.ok("ada", &["project", "list"]);
    assert!(list.contains("its DPIA ends in 9 days"), "{list}");
    let nothing = holmd.fails("ada", &["project", "create", "--file", "/nonexistent"], 2);
    assert!(nothing.contains("holm project form"), "{nothing}");
    holmd.fails("ada", &["project", "create", "x"], 2);
}

#[test]
fn a_level_is_lowered_by_two() {
    let holmd = Holmd::with_people();
    holmd.invite("ada", "lead");
    holmd.project("ada", "heart", "3", "beats");
    let said =
        holmd.ok("ada", &["project", "add-data", "heart", "ecgs", "--owner", "the clinic", "--level", "3"]);
    assert!(said.contains("ecgs: level 3, of the clinic"), "{said}");
    let ask = ["project", "declassify", "heart", "--data-set", "ecgs", "--to", "2"];
    holmd.fails("ada", &ask, 2);
    let asked: Vec<&str> = ask.into_iter().chain(["--reason", "names were removed"]).collect();
    let said = holmd.ok("ada", &asked);
    assert!(
        said.contains(
            "ecgs to level 2, AND THE PROJECT FROM 3 TO 2, asks ada: names were removed; 0 of 2 approvals"
        ),
        "{said}"
    );
    holmd.fails("ada", &["project", "declassify", "heart", "--approve"], 1);
    holmd.ok("frida", &["project", "declassify", "heart", "--approve"]);
    let done = holmd.json("gustav", &["project", "declassify", "heart", "--approve", "--comment", "seen"]);
    assert_eq!((&done["level"], &done["declassification"]), (&"2".into(), &serde_json::Value::Null));
    holmd.fails("frida", &["project", "declassify", "heart", "--reject"], 1);
    holmd.fails("frida", &["project", "declassify", "heart"], 2);
}

#[test]
fn what_was_asked_about_is_printed_and_nothing_else() {
    let holmd = Holmd::with_people();
    holmd.ok("olga", &["host", "invite", "dgx"]);
    let drained = holmd.json("olga", &["host", "drain", "dgx", "--reason", "firmware"]);
    assert_eq!((&drained["host"], &drained["maintenance"]["reason"]), (&"dgx".into(), &"firmware".into()));
    assert_eq!(drained.as_object().unwrap().len(), 2);
    let list = holmd.ok("olga", &["host", "list"]);
    assert!(list.contains("OUT OF SERVICE") && list.contains("the host"), "{list}");
    let back = holmd.json("olga", &["host", "resume", "dgx"]);
    assert_eq!(back, serde_json::json!({ "host": "dgx", "maintenance": null }));
}

/// As with `| head`: nobody is told that nobody reads.
#[test]
fn a_reader_who_leaves_ends_it_quietly() {
    let holmd = Holmd::with_people();
    for arguments in [&["person", "list"][..], &["completion", "bash"], &["--help"]] {
        let mut command = holmd.command("olga", arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let said = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(said.stderr).unwrap(), "", "{arguments:?}");
        assert!(said.status.code().is_some(), "{arguments:?}");
    }
    // Nor does it panic where standard error is closed as well.
    let mut command = holmd.command("olga", &["slice", "show", "x/y"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_watch_outlives_holmd() {
    let mut holmd = Holmd::with_people();
    holmd.invite("ada", "lead");
    holmd.project("ada", "heart", "2", "x");
    holmd.ok("ada", &["slice", "request", "heart/main", "--gpus", "1"]);
    let mut watching = holmd
        .command("ada", &["slice", "watch", "heart/main", "--timeout", "60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("requested"));
    holmd.stop();
    holmd.start_again();
    holmd.ok("frida", &["slice", "reject", "heart/main", "--comment", "no DPIA"]);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(rest.last().unwrap().contains("rejected by frida: no DPIA"), "{rest:?}");
    assert_eq!(rest.iter().filter(|l| l.contains("requested")).count(), 0, "{rest:?}");
    assert_eq!(watching.wait().unwrap().code(), Some(1));
}

#[test]
fn the_log_is_recomputed_here() {
    let holmd = Holmd::with_people();
    let key = holmd.ok("frida", &["audit", "key"]);
    assert!(holmd.fails("olga", &["audit", "log"], 1).contains("officers and auditors"));
    let first = holmd.run("frida", &["audit", "verify"]);
    assert!(
        String::from_utf8_lossy(&first.stderr).contains(key.trim()),
        "the key is shown when it is first seen"
    );
    let before = holmd.json("frida", &["audit", "verify"])["verified_before"].as_u64();
    assert!(before.is_some());
    let export = holmd.dir.path().join("export");
    let export = export.to_str().unwrap();
    holmd.ok("frida", &["audit", "export", export]);
    holmd.fails("frida", &["audit", "export", export], 2);
    holmd.ok("frida", &["audit", "verify", export]);
    holmd.ok("nobody", &["audit", "verify", export, "--key", key.trim()]);
    holmd.fails("nobody", &["audit", "verify", export], 2);
    let entries =
        std::fs::read_dir(format!("{export}/tile/entries/000.p")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&entries).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&entries, bytes).unwrap();
    assert!(holmd.fails("frida", &["audit", "verify", export], 1).contains("NOT the log"));
    let log = holmd.json("frida", &["audit", "log", "--action", "enrol"]);
    assert_eq!(log.as_array().unwrap().len(), 3);
    assert_eq!(holmd.json("frida", &["audit", "show", "0"])["index"], 0);
    assert_eq!(holmd.json("frida", &["audit", "log", "--last", "2"]).as_array().unwrap().len(), 2);
    let all = holmd.json("frida", &["audit", "log", "--all"]);
    let indices: Vec<u64> = all.as_array().unwrap().iter().map(|e| e["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..indices.len() as u64).collect::<Vec<_>>());
    assert!(holmd.fails("frida", &["audit", "log", "--outcome", "maybe"], 2).contains("possible values"));
    assert!(holmd.fails("frida", &["audit", "log", "--since", "soon"], 2).contains("is no time"));
    // Another key than the one that is known.
    let pin = holmd.profile("frida").join("log.toml");
    let text = std::fs::read_to_string(&pin).unwrap();
    std::fs::write(&pin, text.replacen(key.trim(), "localhost/holm+00000000+AAAA", 1)).unwrap();
    assert!(holmd.fails("frida", &["audit", "verify"], 1).contains("ALARM"));
    assert!(holmd.fails("frida", &["audit", "key"], 1).contains("ALARM"));
}

#[test]
fn locked_lifted_renewed_and_revoked() {
    let holmd = Holmd::with_people();
    holmd.invite("ada", "lead");
    let lock = holmd.json("frida", &["lock", "set", "person/ada", "--reason", "a suspicion"]);
    assert_eq!((&lock["subject"], &lock["by"]), (&"person/ada".into(), &"frida".into()));
    let said = holmd.fails("ada", &["whoami"], 1);
    assert!(said.contains("ask `frida`") && !said.contains("a suspicion"), "{said}");
    assert!(holmd.ok("gustav", &["lock", "list"]).contains("a suspicion"));
    holmd.fails("olga", &["lock", "lift", "person/ada", "--reason", "x"], 1);
    holmd.ok("gustav", &["lock", "lift", "person/ada", "--reason", "settled"]);
    assert_eq!(holmd.json("frida", &["lock", "list"]), serde_json::json!([]));

    let read = |file: &str| std::fs::read(holmd.profile("ada").join(file)).unwrap();
    let (key, certificate) = (read("key.pem"), read("cert.pem"));
    assert!(holmd.ok("ada", &["renew"]).contains("is person/ada until"));
    assert!(read("key.pem") != key && read("cert.pem") != certificate);
    holmd.ok("ada", &["whoami"]);
    let uses = holmd.json("frida", &["audit", "log", "--action", "certificate.use"]);
    assert_eq!(uses.as_array().unwrap().len(), 1);
    // The one before is good for nothing.
    let renewed = (read("key.pem"), read("cert.pem"));
    let write = |file: &str, bytes: &[u8]| std::fs::write(holmd.profile("ada").join(file), bytes).unwrap();
    write("key.pem", &key);
    write("cert.pem", &certificate);
    assert!(holmd.fails("ada", &["whoami"], 1).contains("replaced by a newer one"));
    write("key.pem", &renewed.0);
    write("cert.pem", &renewed.1);

    holmd.fails("olga", &["person", "revoke", "ada", "--reason", "x"], 1);
    let dry = holmd.ok("frida", &["person", "revoke", "ada", "--reason", "stolen", "--dry-run"]);
    assert!(dry.starts_with("nothing was changed"), "{dry}");
    holmd.ok("ada", &["whoami"]);
    holmd.ok("frida", &["person", "revoke", "ada", "--reason", "stolen"]);
    assert!(holmd.fails("ada", &["whoami"], 1).contains("was revoked by `frida`"));
    assert!(holmd.fails("ada", &["renew"], 1).contains("was revoked by `frida`"));
    assert!(holmd.ok("frida", &["person", "show", "ada"]).contains("certificate revoked"));
    holmd.ok("olga", &["host", "invite", "dgx"]);
    let revoked = holmd.json("olga", &["host", "revoke", "dgx", "--reason", "stolen"]);
    assert_eq!(revoked["identity"], "spiffe://holm/host/dgx");
}

#[test]
fn what_became_of_a_project_and_who_was_there() {
    let holmd = Holmd::with_people();
    holmd.invite("ada", "lead");
    holmd.invite("rosa", "researcher");
    holmd.ok("ada", &["project", "create", "heart", "--level", "2", "--purpose", "a study"]);
    holmd.ok("ada", &["project", "add-member", "heart", "rosa"]);
    let filed = ["--legal-basis", "e", "--special-categories", "no", "--research", "yes"];
    let papers = ["--data-management-plan", "DMP-3", "--ends", "400d"];
    let file: Vec<&str> = ["project", "file", "heart"].into_iter().chain(filed).chain(papers).collect();
    holmd.ok("ada", &file);
    holmd.ok("ada", &["slice", "request", "heart/main", "--gpus", "1"]);
    holmd.ok("frida", &["slice", "show", "heart/main"]);
    holmd.fails("rosa", &["slice", "approve", "heart/main"], 1);
    holmd.ok("frida", &["slice", "reject", "heart/main", "--comment", "no DPIA"]);

    let steps = holmd.json("frida", &["audit", "timeline", "heart"]);
    let told: Vec<(&str, &str)> = steps
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (step["action"].as_str().unwrap(), step["what"].as_str().unwrap()))
        .collect();
    let actions: Vec<&str> = told.iter().map(|(action, _)| *action).collect();
    let expected = [
        "project.create",
        "project.add-member",
        "project.file",
        "slice.request",
        "slice.approve",
        "slice.reject",
    ];
    assert_eq!(actions, expected, "what was only looked at is left out");
    assert!(told[4].1.starts_with("refused: "), "{told:?}");
    assert_eq!(told[5].1, "main is rejected");
    assert!(holmd.ok("frida", &["audit", "timeline", "nothing"]).contains("nothing was decided"));

    let access = holmd.json("frida", &["audit", "access", "rosa"]);
    assert_eq!(access["did"].as_array().unwrap().len(), 1, "{access}");
    let heart = &access["did"][0];
    assert_eq!(
        (&heart["project"], &heart["allowed"], &heart["refused"]),
        (&"heart".into(), &0.into(), &1.into())
    );
    let made: Vec<&str> =
        access["made_by"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert!(made.contains(&"project.add-member") && made.contains(&"person.invite"), "{made:?}");

    let found = holmd.json("frida", &["audit", "log", "--text", "dpia NO", "--project", "heart"]);
    assert_eq!(found[0]["action"], "slice.reject");
    let to = |name: &str| holmd.dir.path().join(name).to_str().unwrap().to_owned();
    let (lines, csv, parquet) = (to("heart.jsonl"), to("heart.csv"), to("heart.parquet"));
    for file in [&lines, &csv, &parquet] {
        holmd.ok("frida", &["audit", "export", file, "--project", "heart"]);
        holmd.fails("frida", &["audit", "export", file, "--project", "heart"], 2);
    }
    let key = holmd.ok("frida", &["audit", "key"]);
    let proven = holmd.ok("nobody", &["audit", "verify", &lines, "--key", key.trim()]);
    assert!(proven.contains("each proven to be in the log"), "{proven}");
    let text = std::fs::read_to_string(&lines).unwrap();
    std::fs::write(&lines, text.replacen("person/rosa", "person/nora", 1)).unwrap();
    assert!(holmd.fails("nobody", &["audit", "verify", &lines, "--key", key.trim()], 1).contains("NOT what"));
    let csv = std::fs::read_to_string(&csv).unwrap();
    assert!(csv.lines().count() == text.lines().count() && csv.contains("project.add-member"), "{csv}");
    assert_eq!(std::fs::read(&parquet).unwrap()[..4], *b"PAR1");
    holmd.fails("frida", &["audit", "export", &to("all"), "--project", "heart"], 2);
    assert!(holmd.fails("frida", &["audit", "who-had", "dgx"], 2).contains("is no device"));
    assert!(holmd.fails("frida", &["audit", "who-had", "dgx/0000:34:00.0"], 1).contains("has nothing"));
    holmd.fails("ada", &["audit", "timeline", "heart"], 1);
}

#[test]
fn who_follows_the_log_sees_what_comes() {
    let holmd = Holmd::with_people();
    let mut following = holmd
        .command(
            "frida",
            &["audit", "log", "--follow", "--last", "1", "--action", "person", "--format", "json"],
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
    let before = next()["index"].as_u64().unwrap();
    holmd.invite("ada", "lead");
    let came = next();
    assert_eq!(came["action"], "person.invite");
    assert!(came["index"].as_u64().unwrap() > before);
    following.kill().unwrap();
    following.wait().unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).unwrap();
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

/// Until a witness has cosigned all that is in the log now.
fn cosigned(holmd: &Holmd) {
    let (app, began) = (holmd.app(), Instant::now());
    let size = app.ledger.size();
    while app.witnesses.all().values().all(|w| w.newest.as_ref().is_none_or(|newest| newest.size < size)) {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not cosigned: {:?}", app.witnesses.all());
        holmd.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
    }
}

#[test]
fn a_witness_says_how_far_the_log_is_covered() {
    let mut holmd = Holmd::with_people();
    let outside = tempfile::tempdir().unwrap();
    let log = holmd.ok("frida", &["audit", "key"]).trim().to_owned();
    let said = holmd.ok("frida", &["audit", "witnesses"]);
    assert!(said.contains("nobody holds the log's head outside"), "{said}");

    let (path, key) = server::init(outside.path(), "w.test/1").unwrap();
    let mut config = server::WitnessConfig::load(&path).unwrap();
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.logs.push(log.clone());
    let witness = Arc::new(Witness::open(&config).unwrap());
    let serving = holmd.runtime.block_on(Serving::bind(&config, Arc::clone(&witness))).unwrap();
    let url = format!("http://{}/", serving.address);
    holmd.runtime.spawn(serving.run());
    let cosigner = CosignerConfig { url, key: key.vkey(), ca_file: "/nowhere".into() };
    holmd.stop();
    holmd.start_again_with(|config| {
        config.witness.every_seconds = 1;
        config.witness.cosigners.insert("w1".parse().unwrap(), cosigner);
    });
    cosigned(&holmd);
    let yesterday = holmd.dir.path().join("yesterday");
    let data = holmd.dir.path().join("holmd");
    holmd.stop();
    copy(&data, &yesterday);
    holmd.start_again();
    holmd.invite("ada", "lead");
    cosigned(&holmd);

    let listed = holmd.json("frida", &["audit", "witnesses"]);
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&"w1".into(), &"covered".into()));
    assert_eq!(listed[0]["key"], key.vkey());
    // A log's key is none of a witness's, and one that signed nothing covers nothing.
    holmd.fails("frida", &["audit", "verify", "--witness", &log], 2);
    let verified = holmd.json("frida", &["audit", "verify", "--witness", &key.vkey()]);
    assert_eq!(verified["witnesses"][0]["witness"], "w.test/1");
    assert!(verified["witnesses"][0]["entries"].as_u64().unwrap() > 0, "{verified}");
    // It is remembered.
    let said = holmd.ok("frida", &["audit", "verify"]);
    assert!(said.contains("cosigned by w.test/1") && said.contains("verified here by its key"), "{said}");
    let (_, stranger) = server::init(&outside.path().join("other"), "w.test/2").unwrap();
    let said = holmd.ok("gustav", &["audit", "verify", "--witness", &stranger.vkey()]);
    assert!(said.contains("nothing is cosigned by w.test/2"), "{said}");

    // The same in a copy, offline.
    cosigned(&holmd);
    let export = holmd.dir.path().join("export");
    let export = export.to_str().unwrap();
    holmd.ok("frida", &["audit", "export", export]);
    let offline = ["audit", "verify", export, "--key", &log, "--witness", &key.vkey(), "--format", "json"];
    let verified: serde_json::Value = serde_json::from_str(&holmd.ok("nobody", &offline)).unwrap();
    let covered = verified["witnesses"][0]["entries"].as_u64().unwrap();
    assert!(covered > 0 && covered <= verified["entries"].as_u64().unwrap(), "{verified}");

    // What the witness shows to everybody.
    let logs = std::fs::read_dir(outside.path().join("logs")).unwrap().next().unwrap().unwrap().file_name();
    let hash = logs.to_str().unwrap().trim_end_matches(".note");
    let head = outside.path().join("head");
    std::fs::write(&head, witness.latest(hash).unwrap()).unwrap();
    let head = head.to_str().unwrap();

    // Yesterday's copy, on a machine whose holmd asks no witness, for somebody who has seen nothing of today.
    holmd.stop();
    holmd.start_again_with(|config| {
        std::fs::remove_dir_all(&data).unwrap();
        copy(&yesterday, &data);
        config.witness.cosigners.clear();
    });
    std::fs::remove_file(holmd.profile("gustav").join("log.toml")).unwrap();
    holmd.ok("gustav", &["audit", "verify", "--key", &log]);
    let outside = ["audit", "verify", "--witness", &key.vkey(), "--head", head];
    let said = holmd.fails("gustav", &outside, 1);
    assert!(said.contains("ALARM: w.test/1 cosigned") && said.contains("rolled back"), "{said}");
    let export = holmd.dir.path().join("rolled");
    let export = export.to_str().unwrap();
    holmd.ok("gustav", &["audit", "export", export]);
    let offline = ["audit", "verify", export, "--key", &log, "--witness", &key.vkey(), "--head", head];
    let said = holmd.fails("gustav", &offline, 1);
    assert!(said.contains("ALARM: w.test/1 cosigned another history"), "{said}");
    // Grown beyond it, it is another history.
    while holmd.app().ledger.size() <= covered + 20 {
        holmd.ok("frida", &["audit", "checkpoint"]);
    }
    let said = holmd.fails("gustav", &outside, 1);
    assert!(said.contains("it was forked or changed"), "{said}");
}
