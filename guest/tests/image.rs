//! What the image's recipe makes of its settings, before it builds anything.

#![allow(clippy::unwrap_used, reason = "tests say what they expect")]

use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_holm-guest");

/// `deploy/guest-image/build path` with these settings.
fn path(settings: &[(&str, &str)]) -> Output {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/guest-image/build"))
        .arg("path")
        .env("HOLM_GUEST", PROGRAM)
        .env_remove("HOLM_NVIDIA")
        .env_remove("HOLM_NVIDIA_OPTIONS")
        .envs(settings.iter().copied())
        .output()
        .unwrap()
}

fn recipe(settings: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = path(settings);
    assert!(status.success(), "{settings:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn a_driver_that_there_is_not_is_refused_with_those_that_there_are() {
    for (settings, why) in [
        (
            &[("HOLM_NVIDIA", "open")][..],
            "HOLM_NVIDIA is 'open', and Debian trixie has NVIDIA's driver of these series: 550 535",
        ),
        (&[("HOLM_NVIDIA", "5.0")], "HOLM_NVIDIA is '5.0'"),
        (&[("HOLM_NVIDIA_OPTIONS", "NVreg_NvLinkDisable=1")], "only with HOLM_NVIDIA"),
        (
            &[("HOLM_NVIDIA", "550"), ("HOLM_NVIDIA_OPTIONS", "a=1; b")],
            "NAME=VALUE, several with spaces between",
        ),
    ] {
        let refused = path(settings);
        assert_eq!(refused.status.code(), Some(2), "{settings:?}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(why), "{settings:?}: {said}");
    }
}

#[test]
fn each_driver_and_each_option_is_an_image_of_its_own() {
    let mut recipes = vec![
        recipe(&[]),
        recipe(&[("HOLM_NVIDIA", "550")]),
        recipe(&[("HOLM_NVIDIA", "535")]),
        recipe(&[
            ("HOLM_NVIDIA", "550"),
            ("HOLM_NVIDIA_OPTIONS", "NVreg_NvLinkDisable=1 NVreg_RegistryDwords=a=1;b=2"),
        ]),
    ];
    assert_eq!(recipe(&[("HOLM_NVIDIA", "")]), recipes[0]);
    recipes.sort();
    recipes.dedup();
    assert_eq!(recipes.len(), 4);
}
