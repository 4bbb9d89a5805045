//! `holm-agent` as somebody runs it by hand, on a simulated host.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

fn agent(directory: &Path, arguments: &[&str]) -> Command {
    let config = directory.join("agent.toml");
    let record = directory.join("record");
    fs::write(&config, format!("[agent]\nrecord = {record:?}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holm-agent"));
    command.args(arguments);
    if !arguments.contains(&"completion") {
        command.arg("--config").arg(config).args(["--simulate", "dgx2"]);
    }
    command
}

fn said(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = agent(directory, arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_simulated_host_is_not_called_checked() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text, _) = said(directory.path(), &["commission"]);
    assert!(code == Some(2) && text.starts_with("NOTHING WAS CHECKED"), "{code:?} {text}");
    let (code, json, _) = said(directory.path(), &["commission", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, &json["passed"], &json["simulated"]),
        (Some(2), &serde_json::Value::Null, &true.into())
    );
}

#[test]
fn a_device_is_named_as_people_type_it() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text, error) = said(directory.path(), &["sanitise", "--device", "34:00.0"]);
    assert!(code == Some(0) && text.contains("\"0000:34:00.0\""), "{text} {error}");
    let (code, _, error) = said(directory.path(), &["sanitise", "--device", "FF:00.0"]);
    assert!(code == Some(1) && error.contains("there is no device `ff:00.0`"), "{error}");
    let (_, _, error) = said(directory.path(), &["sanitise", "--device", "GPU-3"]);
    assert!(error.contains("`GPU-3` is not a PCI address"), "{error}");
}

/// As with `| head`.
#[test]
fn a_reader_who_leaves_ends_it_quietly() {
    let directory = tempfile::tempdir().unwrap();
    for arguments in [&["inventory"][..], &["fabric", "show"], &["commission"], &["completion", "bash"]] {
        let mut child =
            agent(directory.path(), arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{arguments:?}");
        assert!(output.status.code().is_some(), "{arguments:?}");
    }
}
