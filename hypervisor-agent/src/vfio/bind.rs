//! Taking a device from the host's drivers and giving it to vfio-pci.

use super::device::open_viable_group;
use crate::{
    edge::{EdgeError, Result},
    inventory::sysfs::{PciFunction, Sysfs},
};
use holm_proto::ids::PciAddress;
use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    path::Path,
};

/// What hands devices out.
pub const DRIVER: &str = "vfio-pci";

/// Binds the device to vfio-pci, where it is not yet, and checks that its group can be handed out.
///
/// `driver_override` comes first, so that no other driver can take the device in between.
pub fn bind(sysfs: &Sysfs, address: PciAddress) -> Result<()> {
    let function = found(sysfs, address)?;
    check_interrupts(sysfs)?;
    if function.driver.as_deref() != Some(DRIVER) {
        rebind(sysfs, &function)?;
    }
    let function = found(sysfs, address)?;
    keep_awake(sysfs, address)?;
    match function.driver.as_deref() {
        Some(DRIVER) => open_viable_group(&function).map(drop),
        Some(other) => Err(EdgeError::new(format!("`{address}` stays with the driver `{other}`"))),
        None => Err(EdgeError::new(format!("`{DRIVER}` does not take `{address}`: see the kernel's log"))),
    }
}

fn rebind(sysfs: &Sysfs, function: &PciFunction) -> Result<()> {
    let address = function.address;
    if !sysfs.path("bus/pci/drivers").join(DRIVER).exists() {
        return Err(EdgeError::new(format!("the driver `{DRIVER}` is not loaded: run `modprobe {DRIVER}`")));
    }
    let failed = |doing: &str, error| EdgeError::because(format!("cannot {doing} `{address}`"), error);
    let device = sysfs.device(address);
    write(&device.join("driver_override"), DRIVER).map_err(|error| failed("choose vfio-pci for", error))?;
    if function.driver.is_some() {
        write(&device.join("driver/unbind"), &address.to_string())
            .map_err(|error| failed("unbind the driver of", error))?;
    }
    write(&sysfs.path("bus/pci/drivers_probe"), &address.to_string())
        .map_err(|error| failed("have vfio-pci look at", error))
}

/// Keeps an idle device from being powered down: some do not come back from D3cold after they changed hands
/// often. What the kernel does not offer there is nothing to switch off of.
fn keep_awake(sysfs: &Sysfs, address: PciAddress) -> Result<()> {
    let device = sysfs.device(address);
    for (name, wanted) in [("d3cold_allowed", "0"), ("power/control", "on")] {
        let path = device.join(name);
        if sysfs.attribute(&path)?.is_some_and(|now| now != wanted) {
            write(&path, wanted).map_err(|error| {
                EdgeError::because(format!("cannot keep `{address}` from sleeping by `{name}`"), error)
            })?;
        }
    }
    Ok(())
}

/// Without interrupt remapping a guest could inject interrupts into the host; the kernel refuses that
/// unless it was told not to.
fn check_interrupts(sysfs: &Sysfs) -> Result<()> {
    let path = sysfs.path("module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
    match sysfs.attribute(&path)?.as_deref() {
        Some("Y" | "1") => Err(EdgeError::new(
            "`vfio_iommu_type1` allows unsafe interrupts: load it with `allow_unsafe_interrupts=0`",
        )),
        _ => Ok(()),
    }
}

pub(super) fn found(sysfs: &Sysfs, address: PciAddress) -> Result<PciFunction> {
    sysfs.function(address)?.ok_or_else(|| EdgeError::new(format!("there is no device at `{address}`")))
}

pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    // To cut it short changes nothing of an attribute; a file of a test then shows what an attribute would.
    OpenOptions::new().write(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::fixture::Machine;
    use std::fs;

    const GPU: &str = "0000:34:00.0";

    /// A machine whose sysfs takes writes and does nothing about them.
    fn machine() -> Machine {
        let machine = Machine::dgx2();
        let sysfs = machine.sysfs();
        fs::create_dir_all(sysfs.path("bus/pci/drivers/vfio-pci")).unwrap();
        fs::write(sysfs.path("bus/pci/drivers_probe"), "").unwrap();
        fs::write(sysfs.device(GPU.parse().unwrap()).join("driver_override"), "").unwrap();
        machine
    }

    #[test]
    fn a_binding_that_did_not_take_is_an_error() {
        let machine = machine();
        let sysfs = machine.sysfs();
        let error = bind(&sysfs, GPU.parse().unwrap()).unwrap_err();
        assert_eq!(error.chain(), "`vfio-pci` does not take `0000:34:00.0`: see the kernel's log");
        let device = sysfs.device(GPU.parse().unwrap());
        assert_eq!(fs::read_to_string(device.join("driver_override")).unwrap(), "vfio-pci");
        assert_eq!(fs::read_to_string(sysfs.path("bus/pci/drivers_probe")).unwrap(), GPU);
    }

    #[test]
    fn another_driver_is_unbound_first() {
        let machine = machine();
        let sysfs = machine.sysfs();
        fs::create_dir_all(sysfs.path("bus/pci/drivers/nvidia")).unwrap();
        let driver = sysfs.device(GPU.parse().unwrap()).join("driver");
        std::os::unix::fs::symlink(sysfs.path("bus/pci/drivers/nvidia"), driver).unwrap();
        fs::write(sysfs.path("bus/pci/drivers/nvidia/unbind"), "").unwrap();
        let error = bind(&sysfs, GPU.parse().unwrap()).unwrap_err();
        assert_eq!(error.chain(), "`0000:34:00.0` stays with the driver `nvidia`");
        assert_eq!(fs::read_to_string(sysfs.path("bus/pci/drivers/nvidia/unbind")).unwrap(), GPU);
    }

    #[test]
    fn what_is_bound_is_not_bound_again() {
        let machine = machine();
        machine.bind(GPU, "vfio-pci");
        let error = bind(&machine.sysfs(), GPU.parse().unwrap()).unwrap_err();
        // It goes on to the group, which no kernel stands behind here.
        assert!(error.chain().contains("IOMMU group 20"), "{}", error.chain());
        assert_eq!(fs::read_to_string(machine.sysfs().path("bus/pci/drivers_probe")).unwrap(), "");
    }

    #[test]
    fn a_device_is_kept_awake() {
        let machine = machine();
        let device = machine.sysfs().device(GPU.parse().unwrap());
        machine.bind(GPU, "vfio-pci");
        machine.set(GPU, "d3cold_allowed", Some("1\n"));
        machine.set(GPU, "power/control", Some("auto\n"));
        bind(&machine.sysfs(), GPU.parse().unwrap()).unwrap_err();
        let read = |name| fs::read_to_string(device.join(name)).unwrap();
        assert_eq!((read("d3cold_allowed").as_str(), read("power/control").as_str()), ("0", "on"));
    }

    #[test]
    fn unsafe_interrupts_and_a_missing_driver_are_refused() {
        let machine = machine();
        let sysfs = machine.sysfs();
        fs::remove_dir_all(sysfs.path("bus/pci/drivers/vfio-pci")).unwrap();
        let error = bind(&sysfs, GPU.parse().unwrap()).unwrap_err();
        assert!(error.chain().contains("modprobe vfio-pci"));
        let parameters = sysfs.path("module/vfio_iommu_type1/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::write(parameters.join("allow_unsafe_interrupts"), "Y\n").unwrap();
        let error = bind(&sysfs, GPU.parse().unwrap()).unwrap_err();
        assert!(error.chain().contains("unsafe interrupts"));
    }
}
