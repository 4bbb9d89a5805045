//! A device held through VFIO: its group and its registers are ours until it is dropped.

use super::ioctl::{self, Reached};
use crate::{
    edge::{EdgeError, Result},
    inventory::sysfs::{Bar, PciFunction, Sysfs},
};
use holm_proto::ids::PciAddress;
use holm_scrub::memory::Mapping;
use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    thread,
    time::{Duration, Instant},
};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET, VFIO_GROUP_FLAGS_VIABLE, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

/// Offsets in a function's configuration space.
const CONFIG_ID: u64 = 0;
const CONFIG_COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;

/// How long a group may stay busy after it was closed. A program that another thread begins has a copy of all that
/// this process has open until it has become that program, and a process that was killed is a while in going.
const SETTLES: Duration = Duration::from_secs(5);
const LOOKS_AGAIN: Duration = Duration::from_millis(20);

/// A device that this process holds. Nobody else can open its group meanwhile.
#[derive(Debug)]
pub struct Device {
    // In the order in which they must be closed.
    file: File,
    group: File,
    _container: File,
    address: PciAddress,
    id: String,
    /// Its group's number.
    number: u32,
    /// Everything in the group, itself included.
    members: Vec<PciAddress>,
    /// Where its configuration space begins in `file`.
    config: u64,
    resets_alone: bool,
}

/// Whether something has a device's VFIO group open now: a machine, or a process that is still going away.
/// A device without a VFIO group is not held this way.
pub fn held(function: &PciFunction) -> Result<bool> {
    is_held(function, Duration::ZERO)
}

/// The same of a device that was let go a moment ago.
pub fn still_held(function: &PciFunction) -> Result<bool> {
    is_held(function, SETTLES)
}

fn is_held(function: &PciFunction, patience: Duration) -> Result<bool> {
    let Some(group) = function.group else { return Ok(false) };
    match unless_busy(patience, || open(&group_path(group))) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(true),
        Err(error) => Err(failed("ask whether something holds", function.address)(error)),
    }
}

/// Tries again while it is busy, so long at most.
#[expect(clippy::disallowed_methods, reason = "there is no event for a group that is let go")]
fn unless_busy<T>(patience: Duration, mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match open() {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && began.elapsed() < patience => {
                thread::sleep(LOOKS_AGAIN);
            }
            outcome => return outcome,
        }
    }
}

/// Opens the group of a device and checks that all of it is on vfio-pci.
pub(super) fn open_viable_group(function: &PciFunction) -> Result<File> {
    let address = function.address;
    let number = function.group.ok_or_else(|| no_group(address))?;
    let group = unless_busy(SETTLES, || open(&group_path(number))).map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => {
            EdgeError::new(format!("something holds IOMMU group {number} of `{address}`: stop it first"))
        }
        _ => EdgeError::because(format!("cannot open IOMMU group {number} of `{address}`"), error),
    })?;
    let flags = ioctl::group_status(&group).map_err(failed("ask for the group's status of", address))?;
    if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
        return Err(EdgeError::new(format!(
            "IOMMU group {number} of `{address}` is not viable: another member is not on vfio-pci"
        )));
    }
    Ok(group)
}

impl Device {
    /// Takes a device. It must be on vfio-pci, in a viable group that nobody holds.
    pub fn open(sysfs: &Sysfs, function: &PciFunction) -> Result<Self> {
        let address = function.address;
        let number = function.group.ok_or_else(|| no_group(address))?;
        let members = sysfs.group_members(number)?.iter().map(|member| member.address).collect();
        let container = open("/dev/vfio/vfio").map_err(failed("open a VFIO container for", address))?;
        ioctl::check_container(&container).map_err(failed("use VFIO for", address))?;
        let group = open_viable_group(function)?;
        ioctl::set_container(&group, &container)
            .map_err(failed("put into a container the group of", address))?;
        ioctl::set_iommu(&container).map_err(failed("set up the IOMMU for", address))?;
        let file = File::from(ioctl::device(&group, address).map_err(failed("open", address))?);
        let info = ioctl::device_info(&file).map_err(failed("ask VFIO what it is of", address))?;
        if info.flags & VFIO_DEVICE_FLAGS_PCI == 0 || info.regions <= VFIO_PCI_CONFIG_REGION_INDEX {
            return Err(EdgeError::new(format!("VFIO says that `{address}` is no PCI device")));
        }
        let config = ioctl::region(&file, VFIO_PCI_CONFIG_REGION_INDEX)
            .map_err(failed("find the configuration space of", address))?
            .offset;
        let resets_alone = info.flags & VFIO_DEVICE_FLAGS_RESET != 0;
        Ok(Self {
            file,
            group,
            _container: container,
            address,
            id: function.id.clone(),
            number,
            members,
            config,
            resets_alone,
        })
    }

    /// Resets the device and waits until it answers again. A reset that would reach a device outside its
    /// group is refused: its neighbour may be another project's.
    pub fn reset(&self) -> Result<()> {
        let address = self.address;
        if self.resets_alone {
            ioctl::reset(&self.file).map_err(failed("reset", address))?;
        } else {
            let scope = ioctl::hot_reset_scope(&self.file)
                .map_err(failed("ask what a reset reaches beside", address))?;
            if let Some(neighbour) = outside(&scope, self.number, &self.members) {
                return Err(EdgeError::new(format!(
                    "a reset of `{address}` would reach `{neighbour}`: refused"
                )));
            }
            ioctl::hot_reset(&self.file, &self.group).map_err(failed("reset the bus of", address))?;
        }
        // The kernel returns when the device is ready; one that fell off the bus reads as all ones.
        let (vendor, product) = (self.config16(CONFIG_ID)?, self.config16(CONFIG_ID + 2)?);
        let id = format!("{vendor:04x}:{product:04x}");
        if id == self.id {
            Ok(())
        } else {
            Err(EdgeError::new(format!("after a reset `{address}` says it is {id}, not {}", self.id)))
        }
    }

    /// Lets the device answer at its memory BARs, and keeps it from reaching the host's memory. A reset
    /// takes this back.
    pub fn enable_memory(&self) -> Result<()> {
        let address = self.address;
        let wanted = (self.config16(CONFIG_COMMAND)? | COMMAND_MEMORY) & !COMMAND_BUS_MASTER;
        self.file
            .write_all_at(&wanted.to_le_bytes(), self.config + CONFIG_COMMAND)
            .map_err(failed("switch on the memory of", address))?;
        if self.config16(CONFIG_COMMAND)? & COMMAND_MEMORY == 0 {
            return Err(EdgeError::new(format!("the memory of `{address}` does not switch on")));
        }
        Ok(())
    }

    /// Maps all of a BAR. Its memory must be switched on, or the first access ends the process. `before`: bytes of the
    /// device's memory in BARs before this one.
    pub fn map(&self, bar: Bar, before: u64) -> Result<Mapping> {
        let address = self.address;
        let what = format!("BAR {} of `{address}`", bar.index);
        let region = ioctl::region(&self.file, bar.index)
            .map_err(|error| EdgeError::because(format!("cannot find {what}"), error))?;
        if region.size != bar.bytes {
            return Err(EdgeError::new(format!(
                "{what} has {} bytes for VFIO and {} for sysfs",
                region.size, bar.bytes
            )));
        }
        let needed = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP;
        if region.flags & needed != needed || !region.is_mappable_whole() {
            return Err(EdgeError::new(format!(
                "{what} cannot be mapped whole: VFIO flags {:#x}, areas {:x?}",
                region.flags, region.areas
            )));
        }
        Mapping::new(&self.file, region.offset, region.size, before)
            .map_err(|error| EdgeError::because(format!("cannot map {what}"), error))
    }

    fn config16(&self, offset: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        self.file
            .read_exact_at(&mut bytes, self.config + offset)
            .map_err(failed("read the configuration space of", self.address))?;
        Ok(u16::from_le_bytes(bytes))
    }
}

/// The first device that a reset would reach and that is not one's own. Sysfs and VFIO must agree about whose it
/// is.
fn outside(scope: &[Reached], group: u32, members: &[PciAddress]) -> Option<PciAddress> {
    let own = |reached: &&Reached| {
        members.contains(&reached.address) && reached.group.is_none_or(|number| number == group)
    };
    scope.iter().find(|reached| !own(reached)).map(|reached| reached.address)
}

fn no_group(address: PciAddress) -> EdgeError {
    EdgeError::new(format!("`{address}` has no IOMMU group: is the IOMMU switched on?"))
}

fn group_path(group: u32) -> String {
    format!("/dev/vfio/{group}")
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn failed(doing: &str, address: PciAddress) -> impl FnOnce(io::Error) -> EdgeError {
    let what = format!("cannot {doing} `{address}`");
    move |error| EdgeError::because(what, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::fixture::Machine;

    #[test]
    fn a_reset_stays_within_the_group() {
        let address = |text: &str| text.parse::<PciAddress>().unwrap();
        let own = [address("0000:34:00.0"), address("0000:34:00.1")];
        let in_group = |group| own.map(|address| Reached { address, group });
        let neighbour = Reached { address: address("0000:36:00.0"), group: Some(20) };
        assert_eq!(outside(&in_group(Some(20)), 20, &own), None);
        assert_eq!(outside(&in_group(None), 20, &own), None);
        assert_eq!(outside(&[], 20, &own), None);
        assert_eq!(outside(&[in_group(None)[0], neighbour], 20, &own), Some(neighbour.address));
        // Sysfs and VFIO contradict each other.
        assert_eq!(outside(&in_group(Some(21)), 20, &own), Some(own[0]));
    }

    #[test]
    fn what_is_busy_for_a_moment_is_waited_for_and_what_stays_so_is_not() {
        let busy = || io::Error::from(ErrorKind::ResourceBusy);
        let tried_until = |free: u32, patience| {
            let mut tries = 0;
            let outcome = unless_busy(patience, || {
                tries += 1;
                if tries < free { Err(busy()) } else { Ok(()) }
            });
            (outcome.map_err(|error| error.kind()), tries)
        };
        assert_eq!(tried_until(3, SETTLES), (Ok(()), 3));
        assert_eq!(tried_until(2, Duration::ZERO), (Err(ErrorKind::ResourceBusy), 1));
        let (outcome, tries) = tried_until(u32::MAX, LOOKS_AGAIN * 2);
        assert!(outcome == Err(ErrorKind::ResourceBusy) && tries > 1);
        let other = unless_busy(SETTLES, || Err::<(), _>(io::Error::from(ErrorKind::NotFound)));
        assert_eq!(other.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn without_an_iommu_nothing_is_held_or_opened() {
        let machine = Machine::dgx2();
        machine.remove_iommu();
        let function = machine.sysfs().function("0000:34:00.0".parse().unwrap()).unwrap().unwrap();
        assert!(!held(&function).unwrap() && !still_held(&function).unwrap());
        let error = open_viable_group(&function).unwrap_err();
        assert!(error.chain().starts_with("`0000:34:00.0` has no IOMMU group"));
    }
}
