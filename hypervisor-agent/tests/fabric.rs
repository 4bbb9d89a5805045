//! `holm-agent fabric show`, over the simulated fabric and over the stand-in for Fabric Manager's library.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const HOST: &str = r#"
[host.devices.physical_ids]
"0000:34:00.0" = 1
"0000:36:00.0" = 3
[host.storage]
base_image = "/usr/lib/holm/base.raw"
[host.guest]
kernel = "/usr/lib/holm/vmlinuz"
initrd = "/usr/lib/holm/initrd.img"
cmdline = ""
"#;

/// A configuration of this machine's own, with a section about the fabric.
fn show(directory: &Path, fabric: &str, arguments: &[&str]) -> Output {
    let library = std::env::current_exe().unwrap().parent().unwrap().join("libnvfm.so");
    let record = directory.join("record");
    let config = directory.join("agent.toml");
    let fabric = fabric
        .replace("LIBRARY", library.to_str().unwrap())
        .replace("DIRECTORY", directory.to_str().unwrap());
    fs::write(&config, format!("[agent]\nrecord = {record:?}\n[simulate]\ncall_ms = 0\n{fabric}{HOST}"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_holm-agent"));
    command.args(["fabric", "show", "--config"]).arg(&config).args(arguments).output().unwrap()
}

const SHARED: &str = r#"
[host.fabric]
model = "shared-nvswitch"
library = "LIBRARY"
address = "DIRECTORY/fm"
record = "DIRECTORY/fabric.json"
"#;

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_simulated_fabric_agrees_with_its_table() {
    let directory = tempfile::tempdir().unwrap();
    let shown = text(&show(directory.path(), "", &["--simulate", "dgx2"]));
    let first: Vec<&str> = shown.lines().take(4).collect();
    assert_eq!(
        first,
        [
            "# dgx-2, shared-nvswitch, simulated: 33 partitions",
            "# up: none",
            "[host.devices.physical_ids]",
            "\"0000:34:00.0\" = 1"
        ]
    );
    assert_eq!(shown.lines().count(), 3 + 16);
}

#[test]
fn fabric_manager_is_compared_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let fm = directory.path().join("fm");
    fs::create_dir(&fm).unwrap();
    fs::write(fm.join("state"), "ready\nactive 9\nactive 17\n").unwrap();
    fs::write(fm.join("control"), "missing 0").unwrap();
    let shown = text(&show(directory.path(), SHARED, &[]));
    let first: Vec<&str> = shown.lines().take(4).collect();
    assert_eq!(
        first,
        [
            "# dgx-2, shared-nvswitch: 32 partitions",
            "# up: 9, 17",
            "# differs: partition `0` of a `dgx-2` is not offered: a GPU, a switch or a link of it failed",
            "# differs: `0000:36:00.0` is GPU 2 and the configuration says 3",
        ]
    );
    // It is a section of a configuration as it stands.
    let section: toml::Table = toml::from_str(&shown).unwrap();
    assert_eq!(section["host"]["devices"]["physical_ids"]["0000:e7:00.0"].as_integer(), Some(16));
    let shown: serde_json::Value =
        serde_json::from_str(&text(&show(directory.path(), SHARED, &["--format", "json"]))).unwrap();
    assert_eq!(shown["partitions"][0]["id"], 1);
    assert_eq!((&shown["platform"], &shown["simulated"]), (&"dgx-2".into(), &false.into()));
    assert_eq!(shown["physical_ids"]["0000:57:00.0"], 5);
    // The two above, and each GPU that the configuration lacks.
    assert_eq!(shown["differences"].as_array().unwrap().len(), 2 + 14);
    assert!(!directory.path().join("fabric.json").exists(), "the record is the agent's");
    // A restarted one waits for the agent, which knows what is up.
    fs::write(fm.join("control"), "restart").unwrap();
    assert!(error(&show(directory.path(), SHARED, &[])).contains("knows no partitions yet"));
    assert!(!fs::read_to_string(fm.join("trace")).unwrap().contains("Set"));
}

#[test]
fn without_a_fabric_there_is_nothing_to_learn() {
    let directory = tempfile::tempdir().unwrap();
    let said = error(&show(directory.path(), "", &[]));
    assert!(said.contains("`model` in `[host.fabric]` is `none`"), "{said}");
    let said = error(&show(directory.path(), SHARED, &[]));
    assert!(said.contains("cannot be reached at"), "{said}");
}
