//! holmd as a process: its commands, what they print, how they end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

fn holmd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_holmd")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

fn good(arguments: &[&str]) -> String {
    let output = holmd(arguments);
    assert!(output.status.success(), "holmd {arguments:?}: {}", said(&output));
    said(&output)
}

fn bad(arguments: &[&str]) -> String {
    let output = holmd(arguments);
    assert!(!output.status.success(), "holmd {arguments:?}: {}", said(&output));
    said(&output)
}

struct Made {
    _dir: tempfile::TempDir,
    path: PathBuf,
    config: String,
}

fn made() -> Made {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holmd");
    let at = path.to_str().unwrap();
    let ports = ["--listen", "127.0.0.1:0", "--enrol-listen", "127.0.0.1:0"];
    let people = ["--operator", "olga", "--officer", "frida", "--officer", "gustav"];
    let said = good(&[&["init", "--dir", at], &ports[..], &people[..]].concat());
    assert_eq!(said.matches(" holm1-").count(), 3, "{said}");
    assert!(bad(&["init", "--dir", at, "--operator", "olga"]).contains("not empty"));
    let config = path.join("holmd.toml").to_str().unwrap().to_owned();
    Made { _dir: dir, path, config }
}

fn serve(config: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_holmd"))
        .args(["serve", "--config", config])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.starts_with("holmd ready: listening on 127.0.0.1:"), "{line}");
    (child, out)
}

#[test]
fn a_new_holm_is_in_order_serves_and_stops() {
    let made = made();
    assert!(!good(&["check", "--config", &made.config]).contains("WRONG"));
    let (mut child, _out) = serve(&made.config);
    // Store and log are one process's.
    assert!(bad(&["rebuild", "--check", "--config", &made.config]).contains("stop holmd"));
    let pid = rustix::process::Pid::from_child(&child);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|w| *w == "0").count(), 2, "{core}");
    // As root nothing forbids it: every mapping is locked, so that no key reaches swap.
    if rustix::process::geteuid().is_root() {
        let maps = std::fs::read_to_string(format!("/proc/{}/smaps", child.id())).unwrap();
        let flags: Vec<&str> = maps.lines().filter(|l| l.starts_with("VmFlags:")).collect();
        let locked = flags.iter().filter(|l| l.split_whitespace().any(|flag| flag == "lo")).count();
        assert!(locked > 10 && locked + 8 > flags.len(), "{locked} of {} mappings are locked", flags.len());
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    // Three invitations; and, since it has served, which rules are in force, and how it is watched.
    assert!(good(&["rebuild", "--check", "--config", &made.config]).contains("5 entries, 8 records"));
}

#[test]
fn a_lost_or_spoilt_store_is_made_anew_from_the_log() {
    let made = made();
    let (store, aside) = (made.path.join("store"), made.path.join("aside"));
    std::fs::rename(&store, &aside).unwrap();
    let no_store = bad(&["serve", "--config", &made.config]);
    assert!(no_store.contains("there is no store") && no_store.contains("holmd rebuild"), "{no_store}");
    // To look makes none.
    for look in [["rebuild", "--check"].as_slice(), &["check"]] {
        let said = bad(&[look, &["--config", &made.config]].concat());
        assert!(said.contains("there is no store") && !store.exists(), "{said}");
    }
    // One that was emptied is read from the log at the next start.
    std::fs::create_dir(&store).unwrap();
    assert!(good(&["rebuild", "--check", "--config", &made.config]).contains("the log said 3 entries ago"));
    std::fs::remove_dir_all(&store).unwrap();
    assert!(good(&["rebuild", "--config", &made.config]).contains("6 records"));
    good(&["rebuild", "--check", "--config", &made.config]);
    good(&["check", "--config", &made.config]);
    let (mut child, _out) = serve(&made.config);
    child.kill().unwrap();
    child.wait().unwrap();
    good(&["check", "--config", &made.config]);
}

#[test]
fn what_is_wrong_is_named() {
    let made = made();
    let text = std::fs::read_to_string(&made.config).unwrap();
    std::fs::write(&made.config, format!("skip_sanitising = true\n{text}")).unwrap();
    let said = bad(&["serve", "--config", &made.config]);
    assert!(
        said.contains("skip_sanitising") && said.contains("holmd.toml") && said.contains("line 1"),
        "{said}"
    );
    std::fs::write(&made.config, text.replace("aau-2018", "./nowhere")).unwrap();
    assert!(bad(&["serve", "--config", &made.config]).contains("./nowhere"));
    std::fs::write(&made.config, &text).unwrap();
    for secret in ["ca/ca.key", "keys/kek", "log.key"] {
        let file = made.path.join(secret);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(bad(&["serve", "--config", &made.config]).contains("chmod 600"), "{secret}");
        assert!(bad(&["check", "--config", &made.config]).contains("WRONG"), "{secret}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert!(bad(&["serve", "--config", "/nowhere/holmd.toml"]).contains("holmd init"));
    assert!(bad(&["keys", "try", "--config", &made.config, "/nowhere/disk"]).contains("there is no disk"));
}

#[test]
fn a_changed_log_keeps_holmd_from_starting() {
    let made = made();
    let entries = made.path.join("log/tile/entries/000.p");
    let file = std::fs::read_dir(entries).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(4).position(|w| w == b"olga").unwrap();
    bytes[at] = b'x';
    std::fs::write(&file, bytes).unwrap();
    let said = bad(&["serve", "--config", &made.config]);
    assert!(said.contains("does not agree with the signed checkpoint"), "{said}");
}

#[test]
fn completions_and_help() {
    assert!(good(&["completion", "bash"]).contains("holmd"));
    assert!(good(&["--help"]).contains("rebuild"));
    assert!(bad(&["init", "--dir", "/tmp/x", "--operator", "../x"]).contains("is not a name"));
    assert!(!Path::new("/tmp/x/holmd.toml").exists());
}

#[test]
fn where_no_officer_is_left_whoever_has_the_machine_lifts_a_lock_and_the_log_says_so() {
    use holm_control::domain::{lock, records::Lock};
    use holm_control::ledger::{Call, Decided};
    let made = made();
    let open =
        || holm_control::app::App::open(holm_control::config::Config::load(Path::new(&made.config)).unwrap());
    let subject: lock::Subject = "person/gustav".parse().unwrap();
    {
        let app = open().unwrap();
        let decide = |state: &holm_control::domain::State, at| {
            let by = "frida".parse().unwrap();
            let lock = Lock { subject: subject.clone(), by, at, reason: "a coup".to_owned() };
            Ok(Decided::new(lock::set(state, lock)?, ()))
        };
        app.ledger.commit(&Call::own("test", "person/gustav".to_owned()), decide).unwrap();
    }
    let at = ["--config", made.config.as_str()];
    let unlock = ["recover", "unlock", "person/gustav", "--reason"];
    assert!(bad(&[&unlock[..3], &at].concat()).contains("--reason"));
    assert!(bad(&[&unlock[..], &["two\nlines"], &at].concat()).contains("on one line"));
    assert!(
        bad(&["recover", "unlock", "robot/x", "--reason", "x"]).contains("is nothing that can be locked")
    );
    assert!(good(&[&unlock[..], &["frida locked us out"], &at].concat()).contains("not locked any more"));
    assert!(bad(&[&unlock[..], &["again"], &at].concat()).contains("is not locked"));
    let none = ["recover", "confirm", "gerda", "--id", "1f0c2d3e", "--reason", "x"];
    assert!(bad(&[&none[..], &at].concat()).contains("no code for `gerda` waits"));
    let app = open().unwrap();
    assert!(app.ledger.state().locks.is_empty());
    let all = app.ledger.entries(0, app.ledger.size()).unwrap();
    let entry = all.iter().map(|body| String::from_utf8_lossy(body).into_owned());
    let lifted = entry
        .filter(|e| e.contains("lock.lift") && e.contains("frida locked us out") && e.contains("offline"));
    assert_eq!(lifted.count(), 1);
}
