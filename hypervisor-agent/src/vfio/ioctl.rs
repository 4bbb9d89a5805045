//! The ioctls of VFIO that are used here, each as a function that cannot be called wrongly.

use holm_proto::ids::PciAddress;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::{
    ffi::{CString, c_void},
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_TYPE, VFIO_TYPE1v2_IOMMU, vfio_device_info, vfio_group_status,
    vfio_pci_dependent_device, vfio_region_info,
};

/// The most devices that a hot reset is expected to reach; more is an error, not a truncation.
const MAX_RESET_DEVICES: usize = 256;

const GET_API_VERSION: u32 = 0;
const CHECK_EXTENSION: u32 = 1;
const SET_IOMMU: u32 = 2;
const GROUP_GET_STATUS: u32 = 3;
const GROUP_SET_CONTAINER: u32 = 4;
const GROUP_GET_DEVICE_FD: u32 = 6;
const DEVICE_GET_INFO: u32 = 7;
const DEVICE_GET_REGION_INFO: u32 = 8;
const DEVICE_RESET: u32 = 11;
const DEVICE_GET_PCI_HOT_RESET_INFO: u32 = 12;
const DEVICE_PCI_HOT_RESET: u32 = 13;

/// Refuses a kernel with another VFIO or without the type 1 (version 2) IOMMU.
pub fn check_container(container: impl AsFd) -> io::Result<()> {
    let version = by_value(&container, GET_API_VERSION, 0)?;
    if u32::try_from(version) != Ok(VFIO_API_VERSION) {
        return Err(io::Error::other(format!(
            "the kernel speaks version {version} of VFIO, not {VFIO_API_VERSION}"
        )));
    }
    match by_value(&container, CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU)? {
        0 => Err(io::Error::other("the kernel offers no type 1 IOMMU: load `vfio_iommu_type1`")),
        _ => Ok(()),
    }
}

/// Gives the container its IOMMU. It must hold a group.
pub fn set_iommu(container: impl AsFd) -> io::Result<()> {
    by_value(&container, SET_IOMMU, VFIO_TYPE1v2_IOMMU).map(drop)
}

/// The flags of a group: `VFIO_GROUP_FLAGS_*`.
pub fn group_status(group: impl AsFd) -> io::Result<u32> {
    let mut status = vfio_group_status { argsz: size::<vfio_group_status>(), flags: 0 };
    // SAFETY: the kernel writes a `vfio_group_status` of at most `argsz` bytes, which `status` is.
    unsafe { by_pointer(&group, GROUP_GET_STATUS, &mut status) }?;
    Ok(status.flags)
}

/// Puts a group into a container.
pub fn set_container(group: impl AsFd, container: impl AsFd) -> io::Result<()> {
    let mut number = container.as_fd().as_raw_fd();
    // SAFETY: the kernel reads one `int` and keeps its own reference to the container.
    unsafe { by_pointer(&group, GROUP_SET_CONTAINER, &mut number) }.map(drop)
}

/// Opens a device of a group that is in a container with an IOMMU.
pub fn device(group: impl AsFd, address: PciAddress) -> io::Result<OwnedFd> {
    let mut name = CString::new(address.to_string())?.into_bytes_with_nul();
    let name = name.as_mut_slice();
    let call = Call { number: GROUP_GET_DEVICE_FD, argument: name.as_mut_ptr().cast() };
    // SAFETY: the kernel reads a string that ends in zero, which `name` is and stays during the call.
    let fd = unsafe { ioctl(group, call) }?;
    // SAFETY: on success the kernel returns a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The flags of a device: `VFIO_DEVICE_FLAGS_*`.
pub fn device_flags(device: impl AsFd) -> io::Result<u32> {
    let mut info = vfio_device_info { argsz: size::<vfio_device_info>(), ..Default::default() };
    // SAFETY: the kernel writes a `vfio_device_info` of at most `argsz` bytes, which `info` is.
    unsafe { by_pointer(&device, DEVICE_GET_INFO, &mut info) }?;
    Ok(info.flags)
}

/// Where a region of the device lies in its file: flags, size, offset.
pub fn region(device: impl AsFd, index: u32) -> io::Result<vfio_region_info> {
    let mut info = vfio_region_info { argsz: size::<vfio_region_info>(), index, ..Default::default() };
    // SAFETY: the kernel writes a `vfio_region_info` of at most `argsz` bytes, which `info` is.
    unsafe { by_pointer(&device, DEVICE_GET_REGION_INFO, &mut info) }?;
    Ok(info)
}

/// Resets this function and no other.
pub fn reset(device: impl AsFd) -> io::Result<()> {
    by_value(&device, DEVICE_RESET, 0).map(drop)
}

/// Every function that a hot reset of the device's bus would reach.
pub fn hot_reset_scope(device: impl AsFd) -> io::Result<Vec<PciAddress>> {
    #[repr(C)]
    struct Info {
        argsz: u32,
        flags: u32,
        count: u32,
        devices: [vfio_pci_dependent_device; MAX_RESET_DEVICES],
    }
    let none = vfio_pci_dependent_device::default();
    let mut info = Info { argsz: size::<Info>(), flags: 0, count: 0, devices: [none; MAX_RESET_DEVICES] };
    // SAFETY: `Info` is `vfio_pci_hot_reset_info` with room for the devices that `argsz` promises.
    unsafe { by_pointer(&device, DEVICE_GET_PCI_HOT_RESET_INFO, &mut info) }?;
    let count = usize::try_from(info.count).unwrap_or(usize::MAX);
    let reached =
        info.devices.get(..count).ok_or_else(|| io::Error::other("more devices than were asked for"))?;
    Ok(reached
        .iter()
        .map(|device| PciAddress {
            domain: device.segment,
            bus: device.bus,
            device: device.devfn >> 3,
            function: device.devfn & 7,
        })
        .collect())
}

/// Resets the device's bus and all on it. The kernel wants every group it reaches; one is given.
pub fn hot_reset(device: impl AsFd, group: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Request {
        argsz: u32,
        flags: u32,
        count: u32,
        group: i32,
    }
    let mut request =
        Request { argsz: size::<Request>(), flags: 0, count: 1, group: group.as_fd().as_raw_fd() };
    // SAFETY: `Request` is `vfio_pci_hot_reset` followed by the one descriptor that `count` promises.
    unsafe { by_pointer(&device, DEVICE_PCI_HOT_RESET, &mut request) }.map(drop)
}

/// An ioctl of VFIO.
struct Call {
    number: u32,
    argument: *mut c_void,
}

// SAFETY: the opcode is one of VFIO's, `argument` is what the maker of the `Call` vouches for, and the
// output is the plain return value.
unsafe impl Ioctl for Call {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::none(VFIO_TYPE, (VFIO_BASE + self.number) as u8)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(output)
    }
}

/// Calls with a number in place of a pointer.
fn by_value(fd: &impl AsFd, number: u32, value: u32) -> io::Result<i32> {
    let call = Call { number, argument: std::ptr::without_provenance_mut(value as usize) };
    // SAFETY: the callers' ioctls take a number or nothing: the kernel dereferences no pointer.
    Ok(unsafe { ioctl(fd, call) }?)
}

/// Calls with a pointer to what the kernel reads and writes.
///
/// # Safety
/// `T` must be what the kernel expects for `number`, and as long as its `argsz`, where it has one, says.
unsafe fn by_pointer<T>(fd: &impl AsFd, number: u32, argument: &mut T) -> io::Result<i32> {
    let call = Call { number, argument: std::ptr::from_mut(argument).cast() };
    // SAFETY: the caller vouches for the type, and the reference lives until the call returns.
    Ok(unsafe { ioctl(fd, call) }?)
}

fn size<T>() -> u32 {
    const { assert!(size_of::<T>() <= u32::MAX as usize) };
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// `_IO(';', 100 + n)` as linux/vfio.h defines them.
    #[test]
    fn opcodes_are_the_kernels() {
        for (number, wanted) in
            [(GET_API_VERSION, 0x3b64), (GROUP_GET_DEVICE_FD, 0x3b6a), (DEVICE_PCI_HOT_RESET, 0x3b71)]
        {
            assert_eq!(Call { number, argument: std::ptr::null_mut() }.opcode(), wanted);
        }
    }

    #[test]
    fn what_is_not_vfio_is_an_error() {
        let null = File::open("/dev/null").unwrap();
        assert!(check_container(&null).is_err());
        assert!(group_status(&null).is_err());
        assert!(set_container(&null, &null).is_err());
        assert!(device(&null, "0000:34:00.0".parse().unwrap()).is_err());
        assert!(device_flags(&null).is_err());
        assert!(region(&null, 0).is_err());
        assert!(reset(&null).is_err());
        assert!(hot_reset_scope(&null).is_err());
        assert!(hot_reset(&null, &null).is_err());
    }
}
