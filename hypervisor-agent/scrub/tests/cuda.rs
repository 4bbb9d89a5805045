//! The method `cuda` on a stand-in for NVIDIA's driver library. No GPU is there: what is shown is what is done
//! with the driver's answers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

const A: &str = "0000:06:00.0";
const B: &str = "0000:07:00.0";
const MIB: u64 = 1 << 20;

/// A directory with the stand-in as `libcuda.so.1` and a machine's sysfs.
struct Ground {
    directory: tempfile::TempDir,
}

impl Ground {
    fn new(devices: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Cargo builds it for this test and leaves it beside it.
        let beside = std::env::current_exe().unwrap().parent().unwrap().join("libholm_libcuda.so");
        assert!(beside.is_file(), "{}", beside.display());
        fs::create_dir(directory.path().join("lib")).unwrap();
        symlink(beside, directory.path().join("lib/libcuda.so.1")).unwrap();
        for (slot, address) in devices.iter().enumerate() {
            let device = directory.path().join("sys/bus/pci/devices").join(address);
            fs::create_dir_all(&device).unwrap();
            for (name, text) in [
                ("vendor", "0x10de\n"),
                ("device", "0x1db8\n"),
                ("resource", "0x92000000 0x92ffffff 0x40200\n0x38000000000 0x387ffffffff 0x14220c\n"),
            ] {
                fs::write(device.join(name), text).unwrap();
            }
            let port = format!("0000:00:{:02x}.{}", 0x10 + slot / 8, slot % 8);
            let port = directory.path().join("sys/bus/pci/devices").join(port);
            fs::create_dir_all(port.join(address)).unwrap();
        }
        Self { directory }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn command(&self, settings: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holm-scrub"));
        command
            .env("LD_LIBRARY_PATH", self.path("lib"))
            .env("HOLM_LIBCUDA", settings)
            .arg("--sysfs")
            .arg(self.path("sys"));
        command
    }

    fn by_hand(&self, settings: &str, devices: &[&str]) -> (bool, Vec<Value>, String) {
        let mut command = self.command(settings);
        command.args(["--method", "cuda", "--json"]);
        for device in devices {
            command.args(["--device", device]);
        }
        let Output { status, stdout, stderr } = command.output().unwrap();
        let lines = String::from_utf8(stdout).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (status.success(), lines, String::from_utf8(stderr).unwrap())
    }

    /// An order as a scrubbing machine hears it. `None` where no report comes.
    fn served(&self, settings: &str, order: &Value) -> Option<Value> {
        let mut child = self
            .command(settings)
            .args(["--serve", "--port", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{order}").unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let last: Value = serde_json::from_str(said.lines().last()?).unwrap();
        last.get("report").cloned()
    }
}

fn order(bytes: u64, slots: &[u8]) -> Value {
    let devices: Vec<Value> =
        slots.iter().map(|slot| json!({ "slot": slot, "id": "10de:1db8", "bytes": bytes })).collect();
    json!({ "run": "a-run", "nonce": "a-nonce", "method": "cuda", "devices": devices })
}

#[test]
fn all_that_the_driver_hands_out_is_cleaned_and_what_it_keeps_is_said() {
    let ground = Ground::new(&[A, B]);
    let (ok, lines, said) = ground.by_hand(&format!("at={A}+{B},mib=2,keeps_kib=256"), &[A, B]);
    assert!(ok, "{said}");
    for (line, address) in lines.iter().zip([A, B]) {
        let unreached = line["bytes_unreached"].as_u64().unwrap();
        // What the driver keeps, and what it could not give in one piece beside the counter.
        assert!((256 << 10..=320 << 10).contains(&unreached), "{line}");
        let reached = json!(2 * MIB - unreached);
        assert_eq!((&line["address"], &line["cleaned"]), (&json!(address), &json!(true)));
        assert_eq!((&line["bytes_total"], &line["bytes_written"]), (&json!(2 * MIB), &reached));
        assert_eq!((&line["bytes_verified"], &line["bytes_dirty_before"]), (&reached, &reached));
    }
}

#[test]
fn a_byte_that_is_stuck_is_no_clean_device() {
    let ground = Ground::new(&[A, B]);
    for at in [0, 4097, (1 << 20) + 5] {
        let (ok, lines, _) = ground.by_hand(&format!("at={A}+{B},mib=2,stuck={at}"), &[A, B]);
        assert!(!ok);
        assert_eq!((&lines[0]["cleaned"], &lines[1]["cleaned"]), (&json!(true), &json!(false)));
        assert!(lines[1]["detail"].as_str().unwrap().contains("read back otherwise"), "{}", lines[1]);
        assert!(lines[1]["bytes_verified"].as_u64() < lines[1]["bytes_written"].as_u64());
    }
}

#[test]
fn memory_handed_out_twice_shows() {
    let ground = Ground::new(&[A]);
    let (ok, lines, _) = ground.by_hand(&format!("at={A},mib=2,same=1"), &[A]);
    assert!(!ok, "{lines:?}");
}

#[test]
fn every_word_of_the_driver_but_the_right_one_is_a_failure() {
    let ground = Ground::new(&[A]);
    for (settings, word) in [
        ("init=100", "CUDA_ERROR_NO_DEVICE"),
        ("init=802", "NVreg_NvLinkDisable"),
        ("launch=719", "CUDA_ERROR_LAUNCH_FAILED"),
        ("allocate=719", "CUDA_ERROR_LAUNCH_FAILED"),
    ] {
        let (ok, lines, said) = ground.by_hand(&format!("at={A},mib=2,{settings}"), &[A]);
        assert!(!ok && format!("{said}{lines:?}").contains(word), "{settings}: {said}{lines:?}");
    }
    let (ok, lines, _) = ground.by_hand(&format!("at={B}"), &[A]);
    assert!(!ok && lines[0]["detail"] == "the driver does not have it");
    fs::remove_file(ground.path("lib/libcuda.so.1")).unwrap();
    let (ok, _, said) = ground.by_hand(&format!("at={A}"), &[A]);
    assert!(!ok && said.contains("driver is not installed"), "{said}");
}

#[test]
fn a_launch_that_hangs_gives_no_report() {
    let ground = Ground::new(&[A]);
    let mut child = ground
        .command(&format!("at={A},mib=2,launch=hang"))
        .args(["--method", "cuda", "--device", A])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    // It has come to the first launch, and stays there.
    while !said.next().unwrap().unwrap().ends_with("look") {}
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    assert!(child.wait_with_output().unwrap().stdout.is_empty());
}

#[test]
fn an_order_is_carried_out_and_its_report_names_it() {
    let ground = Ground::new(&[A, B]);
    let settings = format!("at={B}+{A},mib=2,keeps_kib=128");
    let report = ground.served(&settings, &order(3 * MIB, &[0, 1])).unwrap();
    assert_eq!((&report["run"], &report["nonce"]), (&json!("a-run"), &json!("a-nonce")));
    for (slot, device) in report["devices"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&device["slot"], &device["cleaned"]), (&json!(slot), &json!(true)), "{device}");
        // The total is what the host knows, not what the driver shows.
        let (written, unreached) = (&device["bytes_written"], &device["bytes_unreached"]);
        assert_eq!(written.as_u64().unwrap() + unreached.as_u64().unwrap(), 3 * MIB);
        assert_eq!(device["bytes_verified"], *written);
    }
}

#[test]
fn fewer_or_more_devices_than_ordered_are_a_failure_of_all() {
    let ground = Ground::new(&[A, B]);
    for settings in [format!("at={A},mib=2"), format!("at={A}+{B}+0000:08:00.0,mib=2")] {
        let report = ground.served(&settings, &order(2 * MIB, &[0, 1])).unwrap();
        let devices = report["devices"].as_array().unwrap();
        assert!(devices.len() == 2 && devices.iter().all(|device| device["cleaned"] == json!(false)));
    }
    // One that is not where it should be is a failure of its own.
    let report = ground.served(&format!("at={A}+{B},mib=2"), &order(2 * MIB, &[0, 2])).unwrap();
    let cleaned: Vec<&Value> = report["devices"].as_array().unwrap().iter().map(|d| &d["cleaned"]).collect();
    assert_eq!(cleaned, [&json!(true), &json!(false)]);
}

#[test]
fn an_order_that_is_none_gets_no_report() {
    let ground = Ground::new(&[A]);
    for bad in [json!({}), json!({ "run": 1 }), json!("clean all")] {
        assert_eq!(ground.served(&format!("at={A}"), &bad), None);
    }
    let mut more = order(2 * MIB, &[0]);
    more["skip"] = json!(true);
    assert_eq!(ground.served(&format!("at={A}"), &more), None);
}
