//! The GPUs that are really there, and a device file of each for Slurm to count.

use crate::{
    command::run,
    failed::{Failed, Of as _, Outcome},
    files,
};
use rustix::fs::{FileType, Mode};
use std::{fs, os::unix::fs::symlink, path::Path};

const DEVICES: &str = "/sys/bus/pci/devices";

/// The addresses of devices of these kinds, in the order in which they are numbered.
pub fn found(kinds: &[String]) -> Outcome<Vec<String>> {
    found_below(Path::new(DEVICES), kinds)
}

fn found_below(devices: &Path, kinds: &[String]) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for address in files::names(devices).of(DEVICES)? {
        let part = |name: &str| -> Outcome<String> {
            let id = files::read(devices.join(&address).join(name))?;
            Ok(id.trim().trim_start_matches("0x").to_owned())
        };
        if kinds.contains(&format!("{}:{}", part("vendor")?, part("device")?)) {
            found.push(address);
        }
    }
    Ok(found)
}

/// Where NVIDIA's driver runs, its device of each; elsewhere one that nobody can open.
pub fn device_files(gpus: &[String]) -> Outcome<Vec<String>> {
    let files = driven(gpus)?;
    if files.is_empty() { undriven(gpus) } else { Ok(files) }
}

fn driven(gpus: &[String]) -> Outcome<Vec<String>> {
    if Path::new("/usr/bin/nvidia-smi").exists() {
        // The driver's own tool loads it and makes the devices.
        run(&["nvidia-smi", "-L"])?;
    }
    let mut files = Vec::new();
    for address in gpus {
        if let Ok(about) = files::read(format!("/proc/driver/nvidia/gpus/{address}/information")) {
            files.extend(minor(&about).map(|minor| format!("/dev/nvidia{minor}")));
        }
    }
    if !files.is_empty() && files.len() != gpus.len() {
        return Err(Failed(format!("the driver runs {} of {} GPUs", files.len(), gpus.len())));
    }
    Ok(files)
}

/// The number of a GPU's device, of what the driver says about it.
fn minor(about: &str) -> Option<u32> {
    let line = about.lines().find(|line| line.starts_with("Device Minor"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Where no driver runs: for Slurm to count, a device file of each GPU that nobody can open; and beside it a short name of
/// the GPU itself, whose memory the prolog gives to a job's user.
fn undriven(gpus: &[String]) -> Outcome<Vec<String>> {
    let mut files = Vec::new();
    for (number, address) in gpus.iter().enumerate() {
        let (file, gpu) = (format!("/run/holm/gpu{number}"), format!("/run/holm/pci{number}"));
        for left in [&file, &gpu] {
            files::remove(left).of(left)?;
        }
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(rustix::fs::CWD, file.as_str(), FileType::CharacterDevice, Mode::empty(), null)
            .of(&file)?;
        symlink(format!("{DEVICES}/{address}"), &gpu).of(&gpu)?;
        fs::write(format!("{gpu}/enable"), "1").of(&gpu)?;
        files.push(file);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_a_kind_are_found_in_order() {
        let place = tempfile::tempdir().unwrap();
        for (address, vendor, device) in [
            ("0000:0b:00.0", "0x1af4", "0x1110"),
            ("0000:00:01.0", "0x1af4", "0x1041"),
            ("0000:0a:00.0", "0x1af4", "0x1110"),
        ] {
            let at = place.path().join(address);
            fs::create_dir(&at).unwrap();
            fs::write(at.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(at.join("device"), format!("{device}\n")).unwrap();
        }
        let found = |kind: &str| found_below(place.path(), &[kind.to_owned()]).unwrap();
        assert_eq!(found("1af4:1110"), ["0000:0a:00.0", "0000:0b:00.0"]);
        assert_eq!(found("10de:1db8"), [""; 0]);
    }

    #[test]
    fn the_driver_says_which_device_is_whose() {
        let about =
            "Model: \t\t Tesla V100-SXM3-32GB\nIRQ:   \t\t 42\nDevice Minor: \t 3\nGPU Excluded:\t No\n";
        assert_eq!(minor(about), Some(3));
        assert_eq!(minor("Model: x\n"), None);
    }
}
