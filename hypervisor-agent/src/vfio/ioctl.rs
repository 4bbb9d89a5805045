//! The ioctls of VFIO that are used here, each as a function that cannot be called wrongly.

use holm_proto::ids::PciAddress;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use std::{
    ffi::{CString, c_void},
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_PCI_HOT_RESET_FLAG_DEV_ID, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_CAPS, VFIO_TYPE, VFIO_TYPE1v2_IOMMU, vfio_device_info, vfio_group_status,
    vfio_pci_dependent_device, vfio_region_info, vfio_region_sparse_mmap_area,
};

/// The longest answer that is made room for: thousands of devices, or of areas.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// `argsz`, `flags` and `count` of `vfio_pci_hot_reset_info`.
const HOT_RESET_HEAD_BYTES: usize = 12;

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

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// `VFIO_DEVICE_FLAGS_*`
    pub flags: u32,
    /// How many regions it has: BARs, ROM, configuration space.
    pub regions: u32,
}

/// Asks what a device is.
pub fn device_info(device: impl AsFd) -> io::Result<DeviceInfo> {
    let mut info = vfio_device_info { argsz: size::<vfio_device_info>(), ..Default::default() };
    // SAFETY: the kernel writes a `vfio_device_info` of at most `argsz` bytes, which `info` is.
    unsafe { by_pointer(&device, DEVICE_GET_INFO, &mut info) }?;
    Ok(DeviceInfo { flags: info.flags, regions: info.num_regions })
}

/// Where a region of a device lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// `VFIO_REGION_INFO_FLAG_*`
    pub flags: u32,
    /// How long it is.
    pub size: u64,
    /// Where it begins.
    pub offset: u64,
    /// The parts that can be mapped, where it is not all of it: begin and length.
    pub areas: Option<Vec<(u64, u64)>>,
}

impl Region {
    /// Whether all of it can be mapped at once.
    pub fn is_mappable_whole(&self) -> bool {
        self.areas.as_ref().is_none_or(|areas| *areas == [(0, self.size)])
    }
}

/// Asks where a region is.
pub fn region(device: impl AsFd, index: u32) -> io::Result<Region> {
    let head = size_of::<vfio_region_info>();
    let first = answer(&device, DEVICE_GET_REGION_INFO, index, head)?.done()?;
    let needed = usize::try_from(u32_at(&first, 0)?).unwrap_or(usize::MAX);
    // With capabilities it is longer, and says so.
    let bytes =
        if needed > head { answer(&device, DEVICE_GET_REGION_INFO, index, needed)?.done()? } else { first };
    parse_region(&bytes)
}

/// Reads a `vfio_region_info` and the capabilities behind it.
fn parse_region(bytes: &[u8]) -> io::Result<Region> {
    let flags = u32_at(bytes, 4)?;
    let mut region = Region { flags, size: u64_at(bytes, 16)?, offset: u64_at(bytes, 24)?, areas: None };
    let mut at = if flags & VFIO_REGION_INFO_FLAG_CAPS == 0 { 0 } else { offset(u32_at(bytes, 12)?)? };
    let mut before = 0;
    while at != 0 {
        // Each lies behind the one before, so that a chain has an end.
        if at <= before {
            return Err(io::Error::other("capabilities of a region lead back to one another"));
        }
        let (id, next) = (u16_at(bytes, at)?, offset(u32_at(bytes, at + 4)?)?);
        if u32::from(id) == VFIO_REGION_INFO_CAP_SPARSE_MMAP {
            let count = offset(u32_at(bytes, at + 8)?)?;
            let area = |number: usize| {
                let start = at + 16 + number * size_of::<vfio_region_sparse_mmap_area>();
                Ok((u64_at(bytes, start)?, u64_at(bytes, start + 8)?))
            };
            // One that is not there ends it, whatever number was said.
            region.areas = Some((0..count).map(area).collect::<io::Result<Vec<_>>>()?);
        }
        (before, at) = (at, next);
    }
    Ok(region)
}

/// Resets this function and no other.
pub fn reset(device: impl AsFd) -> io::Result<()> {
    by_value(&device, DEVICE_RESET, 0).map(drop)
}

/// A function that a hot reset would reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Where it is.
    pub address: PciAddress,
    /// Its IOMMU group, where the kernel says it.
    pub group: Option<u32>,
}

/// Every function that a hot reset of the device's bus would reach.
pub fn hot_reset_scope(device: impl AsFd) -> io::Result<Vec<Reached>> {
    // Without room for any, the kernel says how many there are.
    let bytes = match answer(&device, DEVICE_GET_PCI_HOT_RESET_INFO, 0, HOT_RESET_HEAD_BYTES)? {
        Answer::Whole(bytes) => bytes,
        Answer::Short(bytes) => {
            let count = offset(u32_at(&bytes, 8)?)?;
            let needed = HOT_RESET_HEAD_BYTES + count.saturating_mul(size_of::<vfio_pci_dependent_device>());
            answer(&device, DEVICE_GET_PCI_HOT_RESET_INFO, 0, needed)?.done()?
        }
    };
    parse_hot_reset(&bytes)
}

/// Reads a `vfio_pci_hot_reset_info` and the devices behind it.
fn parse_hot_reset(bytes: &[u8]) -> io::Result<Vec<Reached>> {
    let (flags, count) = (u32_at(bytes, 4)?, offset(u32_at(bytes, 8)?)?);
    let reached = |number: usize| {
        let at = HOT_RESET_HEAD_BYTES + number * size_of::<vfio_pci_dependent_device>();
        let [bus, devfn] = array(bytes, at + 6)?;
        Ok(Reached {
            address: PciAddress {
                domain: u16_at(bytes, at + 4)?,
                bus,
                device: devfn >> 3,
                function: devfn & 7,
            },
            // Under the other way to hold devices it is a number of the holder's, not a group.
            group: (flags & VFIO_PCI_HOT_RESET_FLAG_DEV_ID == 0).then_some(u32_at(bytes, at)?),
        })
    };
    (0..count).map(reached).collect()
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

/// What the kernel wrote.
enum Answer {
    /// All that there is.
    Whole(Vec<u8>),
    /// There was no room for it all (`ENOSPC`): its head, which says how much there is.
    Short(Vec<u8>),
}

impl Answer {
    fn done(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Whole(bytes) => Ok(bytes),
            Self::Short(_) => Err(io::Error::other("the answer grew while it was read")),
        }
    }
}

/// Asks what has an answer as long as the kernel likes: `argsz` and `flags`, for some `index`, then more.
fn answer(fd: &impl AsFd, number: u32, index: u32, room: usize) -> io::Result<Answer> {
    if room > MAX_ANSWER_BYTES {
        return Err(io::Error::other(format!(
            "an answer of {room} bytes is longer than any that is expected"
        )));
    }
    let argsz = u32::try_from(room).map_err(io::Error::other)?;
    let two = |first: u32, second: u32| {
        (u64::from(first) << 32 | u64::from(second)).rotate_left(
            // In memory the first one comes first, whichever end a number begins with.
            if cfg!(target_endian = "little") { 32 } else { 0 },
        )
    };
    // Words, so that it is aligned as the structures want it.
    let mut words = vec![0u64; room.div_ceil(8).max(2)];
    for (word, value) in words.iter_mut().zip([two(argsz, 0), two(index, 0)]) {
        *word = value;
    }
    let call = Call { number, argument: words.as_mut_ptr().cast() };
    // SAFETY: the kernel reads and writes at most `argsz` bytes, and `words` has as many.
    let outcome = unsafe { ioctl(fd, call) };
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.truncate(room);
    match outcome {
        Ok(_) => Ok(Answer::Whole(bytes)),
        Err(rustix::io::Errno::NOSPC) => Ok(Answer::Short(bytes)),
        Err(error) => Err(error.into()),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let part = at.checked_add(N).and_then(|end| bytes.get(at..end));
    part.and_then(|part| part.try_into().ok())
        .ok_or_else(|| io::Error::other("the kernel's answer ends early"))
}

fn u16_at(bytes: &[u8], at: usize) -> io::Result<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    array(bytes, at).map(u64::from_ne_bytes)
}

/// A number that counts bytes or things in an answer.
fn offset(number: u32) -> io::Result<usize> {
    usize::try_from(number)
        .ok()
        .filter(|number| *number <= MAX_ANSWER_BYTES)
        .ok_or_else(|| io::Error::other(format!("{number} is beyond any answer")))
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

    /// As a kernel on a little-endian machine writes it.
    fn bytes(hex: &str) -> Vec<u8> {
        data_encoding::HEXLOWER.decode(hex.split_whitespace().collect::<String>().as_bytes()).unwrap()
    }

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    #[test]
    fn a_hot_reset_says_what_it_reaches() {
        // Two functions of bus 0x34 in group 20, one of bus 0xb7 in segment 1 and group 33.
        let whole =
            "24000000 00000000 03000000  14000000 0000 34 00  14000000 0000 34 01  21000000 0100 b7 fa";
        let reached = parse_hot_reset(&bytes(whole)).unwrap();
        let one = |text, group| Reached { address: address(text), group };
        assert_eq!(
            reached,
            [one("0000:34:00.0", Some(20)), one("0000:34:00.1", Some(20)), one("0001:b7:1f.2", Some(33))]
        );
        // The other way to hold devices: no groups.
        let by_id = "14000000 03000000 01000000  00000000 0000 34 00";
        assert_eq!(parse_hot_reset(&bytes(by_id)).unwrap(), [one("0000:34:00.0", None)]);
        assert_eq!(parse_hot_reset(&bytes("0c000000 00000000 00000000")).unwrap(), []);
        for broken in [
            "",
            "0c000000 00000000",
            "14000000 00000000 02000000  14000000 0000 34 00",
            "0c000000 00000000 ffffffff",
        ] {
            assert!(parse_hot_reset(&bytes(broken)).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_region_says_what_of_it_can_be_mapped() {
        // READ, WRITE, MMAP; index 2; no capabilities; 16 MiB at 2 << 40.
        let plain = "20000000 07000000 02000000 00000000 0000000100000000 0000000000020000";
        let region = parse_region(&bytes(plain)).unwrap();
        let wanted = Region { flags: 7, size: 16 << 20, offset: 2 << 40, areas: None };
        assert_eq!(region, wanted);
        assert!(region.is_mappable_whole());
        let with = |capabilities: &str| {
            parse_region(&bytes(&format!(
                "40000000 0f000000 02000000 20000000 0000000100000000 0000000000020000 {capabilities}"
            )))
        };
        // A capability that is not known, then two areas around an interrupt table.
        let sparse = with(
            "0300 0100 28000000  0100 0100 00000000 02000000 00000000 \
             0000000000000000 0010000000000000 0020000000000000 00e0ff0000000000",
        )
        .unwrap();
        assert_eq!(sparse.areas, Some(vec![(0, 0x1000), (0x2000, 0xff_e000)]));
        assert!(!sparse.is_mappable_whole());
        let all = with("0100 0100 00000000 01000000 00000000 0000000000000000 0000000100000000").unwrap();
        assert!(all.is_mappable_whole());
        for broken in [
            "",
            "0100 0100 20000000 00000000 00000000",
            "0300 0100 10000000",
            "0300 0100 ff000000",
            "0100 0100 00000000 02000000 00000000 0000000000000000 0000000100000000",
            "0100 0100 00000000 ffffffff 00000000",
        ] {
            assert!(with(broken).is_err(), "{broken}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_is_read_beyond_its_end(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse_hot_reset(&bytes);
            let _ = parse_region(&bytes);
        }
    }

    #[test]
    fn an_answer_that_is_too_long_is_not_asked_for() {
        let null = File::open("/dev/null").unwrap();
        assert!(answer(&null, DEVICE_GET_REGION_INFO, 0, MAX_ANSWER_BYTES + 1).is_err());
    }

    #[test]
    fn what_is_not_vfio_is_an_error() {
        let null = File::open("/dev/null").unwrap();
        assert!(check_container(&null).is_err());
        assert!(group_status(&null).is_err());
        assert!(set_container(&null, &null).is_err());
        assert!(device(&null, "0000:34:00.0".parse().unwrap()).is_err());
        assert!(device_info(&null).is_err());
        assert!(region(&null, 0).is_err());
        assert!(reset(&null).is_err());
        assert!(hot_reset_scope(&null).is_err());
        assert!(hot_reset(&null, &null).is_err());
    }
}
