//! Keeping the kernel from resetting a device, and letting it again.
//!
//! vfio-pci resets a device when it is opened. Where that must not be, an empty `reset_method` takes every way of
//! resetting the function itself away; the word `default` brings back what the kernel found at boot.
//!
//! A reset of the whole bus, which who holds all of it can ask VFIO for, is not held back by this. QEMU asks for it
//! where the device itself cannot be reset, once at each start and restart of its machine (seen with QEMU 10.0.2 on
//! Linux 6.12), and the kernel has no switch against it.

use super::bind::{found, write};
use crate::{
    edge::{EdgeError, Result},
    inventory::sysfs::Sysfs,
};
use holm_proto::ids::PciAddress;

const ATTRIBUTE: &str = "reset_method";

/// Whether every way to reset the device is taken away.
pub fn are_suppressed(sysfs: &Sysfs, address: PciAddress) -> Result<bool> {
    Ok(found(sysfs, address)?.reset_methods.is_empty())
}

/// Takes every way to reset the device away. Nothing happens where that is so.
pub fn suppress(sysfs: &Sysfs, address: PciAddress) -> Result<()> {
    if are_suppressed(sysfs, address)? {
        return Ok(());
    }
    // Nothing is no write at all: the line end is what says that the list is empty.
    set(sysfs, address, "\n", "suppress the resets of")?;
    match are_suppressed(sysfs, address)? {
        true => Ok(()),
        false => Err(EdgeError::new(format!("the kernel keeps its ways to reset `{address}`"))),
    }
}

/// Brings the kernel's own ways to reset the device back. Nothing happens where there are some.
pub fn allow(sysfs: &Sysfs, address: PciAddress) -> Result<()> {
    if !are_suppressed(sysfs, address)? {
        return Ok(());
    }
    set(sysfs, address, "default\n", "allow the resets of")?;
    match are_suppressed(sysfs, address)? {
        true => Err(EdgeError::new(format!("the kernel knows no way to reset `{address}`"))),
        false => Ok(()),
    }
}

fn set(sysfs: &Sysfs, address: PciAddress, text: &str, doing: &str) -> Result<()> {
    write(&sysfs.device(address).join(ATTRIBUTE), text)
        .map_err(|error| EdgeError::because(format!("cannot {doing} `{address}`"), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::fixture::Machine;
    use std::fs;

    const GPU: &str = "0000:34:00.0";

    #[test]
    fn each_is_done_once() {
        let machine = Machine::dgx2();
        let (sysfs, gpu) = (machine.sysfs(), GPU.parse().unwrap());
        let text = || fs::read_to_string(sysfs.device(gpu).join("reset_method")).unwrap();
        allow(&sysfs, gpu).unwrap();
        assert_eq!(text(), "bus\n");
        for _ in 0..2 {
            suppress(&sysfs, gpu).unwrap();
            assert!(are_suppressed(&sysfs, gpu).unwrap() && text() == "\n");
        }
        for _ in 0..2 {
            allow(&sysfs, gpu).unwrap();
            assert_eq!(text(), "default\n");
        }
        assert!(!are_suppressed(&sysfs, gpu).unwrap());
    }

    #[test]
    fn what_did_not_take_is_an_error() {
        let machine = Machine::dgx2();
        let (sysfs, gpu) = (machine.sysfs(), GPU.parse().unwrap());
        machine.set(GPU, "reset_method", None);
        suppress(&sysfs, gpu).unwrap();
        assert!(
            allow(&sysfs, gpu).unwrap_err().chain().contains("cannot allow the resets of `0000:34:00.0`")
        );
        assert!(suppress(&sysfs, "0000:99:00.0".parse().unwrap()).is_err());
    }
}
