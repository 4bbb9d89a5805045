//! The GPUs that are really there, and a device file of each for Slurm to count.

use crate::{
    command::run,
    failed::{Failed, Of as _, Outcome},
    files,
};
use rustix::fs::Mode;
use std::{collections::BTreeSet, fs, io::ErrorKind, os::unix::fs::symlink, path::Path};

const DEVICES: &str = "/sys/bus/pci/devices";
const UIO: &str = "/sys/bus/pci/drivers/uio_pci_generic/new_id";
/// There where the image has NVIDIA's driver.
pub const NVIDIA_SMI: &str = "/usr/bin/nvidia-smi";
/// There while that driver runs.
const RUNS: &str = "/proc/driver/nvidia";
const NVIDIA: &str = "10de:";

/// The addresses of devices of these kinds, in the order in which they are numbered.
pub fn found(kinds: &[String]) -> Outcome<Vec<String>> {
    found_below(Path::new(DEVICES), kinds)
}

fn found_below(devices: &Path, kinds: &[String]) -> Outcome<Vec<String>> {
    let mut found = Vec::new();
    for address in files::names(devices).of(DEVICES)? {
        if kinds.contains(&kind(devices, &address)?) {
            found.push(address);
        }
    }
    Ok(found)
}

/// `1af4:1110`
fn kind(devices: &Path, address: &str) -> Outcome<String> {
    let part = |name: &str| -> Outcome<String> {
        let id = files::read(devices.join(address).join(name))?;
        Ok(id.trim().trim_start_matches("0x").to_owned())
    };
    Ok(format!("{}:{}", part("vendor")?, part("device")?))
}

/// Where NVIDIA's driver runs, its device of each; elsewhere that by which the kernel hands a device to a program.
pub fn device_files(gpus: &[String]) -> Outcome<Vec<String>> {
    let files = driven(gpus)?;
    if files.is_empty() { undriven(gpus) } else { Ok(files) }
}

fn driven(gpus: &[String]) -> Outcome<Vec<String>> {
    let kinds = gpus.iter().map(|gpu| kind(Path::new(DEVICES), gpu)).collect::<Outcome<Vec<_>>>()?;
    // It refuses to be loaded where it has nothing to drive.
    if kinds.iter().any(|kind| kind.starts_with(NVIDIA)) && Path::new(NVIDIA_SMI).exists() {
        run(&["/usr/lib/holm/nvidia"])?;
    }
    let mut files = Vec::new();
    for address in gpus {
        if let Ok(about) = files::read(format!("{RUNS}/gpus/{address}/information")) {
            files.extend(minor(&about).map(|minor| format!("/dev/nvidia{minor}")));
        }
    }
    if !files.is_empty() && files.len() != gpus.len() {
        return Err(Failed(format!("the driver runs {} of {} GPUs", files.len(), gpus.len())));
    }
    Ok(files)
}

/// Whether a driver runs that can be asked how busy its GPUs are.
pub fn tell() -> bool {
    Path::new(RUNS).exists() && Path::new(NVIDIA_SMI).exists()
}

/// The number of a GPU's device, of what the driver says about it.
fn minor(about: &str) -> Option<u32> {
    let line = about.lines().find(|line| line.starts_with("Device Minor"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Where no driver runs: the device file of each that the kernel's driver for programs (UIO) makes, which Slurm keeps for the
/// job that has the GPU, as it does with NVIDIA's; and beside it a short name of the GPU itself, whose memory the prolog gives
/// to a job's user.
fn undriven(gpus: &[String]) -> Outcome<Vec<String>> {
    let mut files = Vec::new();
    for kind in gpus.iter().map(|gpu| kind(Path::new(DEVICES), gpu)).collect::<Outcome<BTreeSet<_>>>()? {
        // It takes those that it is told of, at once.
        match fs::write(UIO, kind.replace(':', " ")) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).of(UIO),
            _ => {}
        }
    }
    for (number, address) in gpus.iter().enumerate() {
        let gpu = format!("/run/holm/pci{number}");
        files::remove(&gpu).of(&gpu)?;
        symlink(format!("{DEVICES}/{address}"), &gpu).of(&gpu)?;
        let made = files::names(format!("{gpu}/uio")).of(&gpu)?;
        let made = made.first().ok_or_else(|| Failed(format!("no driver takes the GPU at {address}")))?;
        let file = format!("/dev/{made}");
        // As NVIDIA's are: whose it is, is up to Slurm.
        rustix::fs::chmod(&file, Mode::from_raw_mode(0o666)).of(&file)?;
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
