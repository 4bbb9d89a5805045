//! The method `bar` by hand, on a file in the place of a BAR.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests say what they expect")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const ADDRESS: &str = "0000:34:00.0";
const BYTES: usize = 1 << 20;

fn device(root: &Path) -> PathBuf {
    let device = root.join("bus/pci/devices").join(ADDRESS);
    fs::create_dir_all(&device).unwrap();
    fs::write(device.join("vendor"), "0x1af4\n").unwrap();
    fs::write(device.join("device"), "0x1110\n").unwrap();
    fs::write(device.join("resource"), "0x0 0xff 0x40200\n0x0 0x0 0x0\n0x38000000 0x380fffff 0x14220c\n")
        .unwrap();
    fs::write(device.join("resource2"), vec![0x5a; BYTES]).unwrap();
    device
}

fn scrub(root: &Path, address: &str) -> (bool, String) {
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_holm-scrub"))
        .args(["--method", "bar", "--device", address, "--sysfs"])
        .arg(root)
        .output()
        .unwrap();
    (status.success(), String::from_utf8(stdout).unwrap())
}

#[test]
fn a_device_that_no_driver_has_is_cleaned() {
    let root = tempfile::tempdir().unwrap();
    let device = device(root.path());
    let (ok, said) = scrub(root.path(), ADDRESS);
    assert!(ok && said.contains("1048576 of 1048576 bytes overwritten and read back"), "{said}");
    assert!(!said.contains("not reached"), "{said}");
    assert!(fs::read(device.join("resource2")).unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(fs::read_to_string(device.join("enable")).unwrap(), "1");
}

#[test]
fn one_that_a_driver_has_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let device = device(root.path());
    fs::create_dir(device.join("driver")).unwrap();
    let (ok, said) = scrub(root.path(), ADDRESS);
    assert!(!ok && said.contains("NOT CLEAN: a driver has"), "{said}");
    assert_eq!(fs::read(device.join("resource2")).unwrap(), vec![0x5a; BYTES]);
}

#[test]
fn what_is_not_there_is_not_clean() {
    let root = tempfile::tempdir().unwrap();
    let device = device(root.path());
    for address in ["0000:36:00.0", "../../etc", ""] {
        let (ok, said) = scrub(root.path(), address);
        assert!(!ok && said.contains("NOT CLEAN"), "{said}");
    }
    fs::write(device.join("resource"), "0x0 0xff 0x40200\n").unwrap();
    let (ok, said) = scrub(root.path(), ADDRESS);
    assert!(!ok && said.contains("no memory BAR"), "{said}");
}
