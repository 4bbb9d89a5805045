//! VFIO: taking a device from the host's drivers, looking at its IOMMU group, resetting it and reaching its
//! memory.
//!
//! The IOMMU group is the unit of ownership: only one holder can have a group open, and only a group whose
//! every member is on vfio-pci (or is a bridge) can be used. Both are asked of the kernel each time.
//!
//! Memory that is mapped from a device can vanish under the reader: the kernel then sends SIGBUS and the
//! agent ends. Nothing but this process can take it away while it has the group open, save a hardware fault;
//! the device was dirty before and is dirty after.

#![allow(unsafe_code, reason = "VFIO is ioctls and mapped device memory; each use says why it is sound")]

mod bind;
mod device;
mod ioctl;
mod resets;

pub use self::{
    bind::{DRIVER, bind},
    device::{Device, held, still_held},
    resets::{allow, are_suppressed, suppress},
};
