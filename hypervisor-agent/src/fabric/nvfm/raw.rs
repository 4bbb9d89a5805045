//! The C interface of `libnvfm.so.1`, as far as it is used here.
//!
//! Structures and calls are those of the Fabric Manager User Guide, chapter "Fabric Manager SDK"; the sizes of
//! the strings, the values of `fmReturn_t` and the version macro are those of its public header `nv_fm_types.h`
//! (NVIDIA/go-nvfm carries it). Every structure begins with its version: its own size, and from bit 24 on the
//! number of the interface. A library of another interface refuses it with `FM_ST_VERSION_MISMATCH`.

use libloading::os::unix::{Library as Loaded, RTLD_LOCAL, RTLD_NOW};
use std::{
    ffi::{OsStr, c_char, c_int, c_void},
    mem::ManuallyDrop,
};

/// `FM_MAX_FABRIC_PARTITIONS`
pub const MOST_PARTITIONS: usize = 64;
/// `FM_MAX_NUM_GPUS`
pub const MOST_GPUS: usize = 16;
/// `FM_MAX_STR_LENGTH`
const ADDRESS_BYTES: usize = 256;
/// `FM_UUID_BUFFER_SIZE`
const UUID_BYTES: usize = 80;
/// `FM_DEVICE_PCI_BUS_ID_BUFFER_SIZE`
const PCI_BYTES: usize = 32;

/// `fmReturn_t`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Status(pub c_int);

impl Status {
    pub const SUCCESS: Self = Self(0);
    pub const BADPARAM: Self = Self(-1);
    pub const GENERIC_ERROR: Self = Self(-2);
    pub const NOT_SUPPORTED: Self = Self(-3);
    pub const UNINITIALIZED: Self = Self(-4);
    pub const TIMEOUT: Self = Self(-5);
    pub const VERSION_MISMATCH: Self = Self(-6);
    pub const IN_USE: Self = Self(-7);
    pub const NOT_CONFIGURED: Self = Self(-8);
    pub const CONNECTION_NOT_VALID: Self = Self(-9);
    pub const NVLINK_ERROR: Self = Self(-10);
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match *self {
            Self::SUCCESS => "SUCCESS",
            Self::BADPARAM => "BADPARAM",
            Self::GENERIC_ERROR => "GENERIC_ERROR",
            Self::NOT_SUPPORTED => "NOT_SUPPORTED",
            Self::UNINITIALIZED => "UNINITIALIZED",
            Self::TIMEOUT => "TIMEOUT",
            Self::VERSION_MISMATCH => "VERSION_MISMATCH",
            Self::IN_USE => "IN_USE",
            Self::NOT_CONFIGURED => "NOT_CONFIGURED",
            Self::CONNECTION_NOT_VALID => "CONNECTION_NOT_VALID",
            Self::NVLINK_ERROR => "NVLINK_ERROR",
            Self(other) => return write!(f, "fmReturn_t {other}"),
        };
        write!(f, "FM_ST_{name}")
    }
}

/// `MAKE_FM_PARAM_VERSION(T, number)`
const fn version<T>(number: u32) -> u32 {
    assert!(size_of::<T>() < 1 << 24);
    size_of::<T>() as u32 | (number << 24)
}

/// `fmConnectParams_v1`
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct ConnectParams {
    version: u32,
    address: [c_char; ADDRESS_BYTES],
    timeout_ms: u32,
    address_is_unix_socket: u32,
}

/// `fmFabricPartitionGpuInfo_t`
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct GpuInfo {
    pub physical_id: u32,
    uuid: [c_char; UUID_BYTES],
    pci_bus_id: [c_char; PCI_BYTES],
    pub links_available: u32,
    pub links_at_most: u32,
    line_rate_mbps: u32,
}

impl GpuInfo {
    const NONE: Self = Self {
        physical_id: 0,
        uuid: [0; UUID_BYTES],
        pci_bus_id: [0; PCI_BYTES],
        links_available: 0,
        links_at_most: 0,
        line_rate_mbps: 0,
    };

    /// Empty on machines whose GPUs Fabric Manager does not look at.
    pub fn uuid(&self) -> String {
        text(&self.uuid)
    }

    /// `00000000:34:00.0`, or empty likewise.
    pub fn pci_bus_id(&self) -> String {
        text(&self.pci_bus_id)
    }
}

/// `fmFabricPartitionInfo_t`
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PartitionInfo {
    pub partition_id: u32,
    pub is_active: u32,
    gpus: u32,
    gpu_info: [GpuInfo; MOST_GPUS],
}

impl PartitionInfo {
    const NONE: Self = Self { partition_id: 0, is_active: 0, gpus: 0, gpu_info: [GpuInfo::NONE; MOST_GPUS] };

    /// Its GPUs; `None` where it claims more than there can be.
    pub fn gpus(&self) -> Option<&[GpuInfo]> {
        self.gpu_info.get(..usize::try_from(self.gpus).ok()?)
    }
}

/// `fmFabricPartitionList_v2`, whose interface has the number 1.
#[repr(C)]
pub struct PartitionList {
    version: u32,
    partitions: u32,
    partitions_at_most: u32,
    partition_info: [PartitionInfo; MOST_PARTITIONS],
}

impl PartitionList {
    /// The partitions; `None` where it claims more than there can be.
    pub fn partitions(&self) -> Option<&[PartitionInfo]> {
        self.partition_info.get(..usize::try_from(self.partitions).ok()?)
    }
}

/// `fmActivatedFabricPartitionList_v1`
#[repr(C)]
struct ActivatedList {
    version: u32,
    partitions: u32,
    partition_ids: [u32; MOST_PARTITIONS],
}

/// `fmHandle_t`: a connection. It is the library's, and only handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Handle(*mut c_void);

type Init = unsafe extern "C" fn() -> Status;
type Connect = unsafe extern "C" fn(*mut ConnectParams, *mut Handle) -> Status;
type Disconnect = unsafe extern "C" fn(Handle) -> Status;
type GetSupported = unsafe extern "C" fn(Handle, *mut PartitionList) -> Status;
type OnPartition = unsafe extern "C" fn(Handle, u32) -> Status;
type SetActivated = unsafe extern "C" fn(Handle, *mut ActivatedList) -> Status;

/// The library, loaded. It stays until the process ends: it may have threads of its own, and a call that was
/// given up may still be in it. For the same reason it is not shut down, which would cut every connection of
/// this process.
#[derive(Debug)]
pub struct Library {
    init: Init,
    connect: Connect,
    disconnect: Disconnect,
    get_supported: GetSupported,
    activate: OnPartition,
    deactivate: OnPartition,
    set_activated: SetActivated,
    _loaded: ManuallyDrop<Loaded>,
}

impl Library {
    /// Loads it from a path, or by a name that the loader looks for.
    pub fn load(name: &OsStr) -> Result<Self, libloading::Error> {
        // SAFETY: loading runs the library's initialisers. It is the one that the operator named, and is
        // trusted as the driver is that it belongs to.
        let loaded = ManuallyDrop::new(unsafe { Loaded::open(Some(name), RTLD_NOW | RTLD_LOCAL) }?);
        // SAFETY: each symbol has the type that the header gives it, and what is copied out of it stays valid
        // because the library is never unloaded.
        unsafe {
            Ok(Self {
                init: *loaded.get::<Init>(b"fmLibInit\0")?,
                connect: *loaded.get::<Connect>(b"fmConnect\0")?,
                disconnect: *loaded.get::<Disconnect>(b"fmDisconnect\0")?,
                get_supported: *loaded.get::<GetSupported>(b"fmGetSupportedFabricPartitions\0")?,
                activate: *loaded.get::<OnPartition>(b"fmActivateFabricPartition\0")?,
                deactivate: *loaded.get::<OnPartition>(b"fmDeactivateFabricPartition\0")?,
                set_activated: *loaded.get::<SetActivated>(b"fmSetActivatedFabricPartitions\0")?,
                _loaded: loaded,
            })
        }
    }

    /// `fmLibInit`; `IN_USE` says that it was called before.
    pub fn init(&self) -> Status {
        // SAFETY: takes nothing.
        unsafe { (self.init)() }
    }

    /// `fmConnect`. An address that begins with `/` is a socket in the file system; one that is too long is
    /// `BADPARAM`.
    pub fn connect(&self, address: &str, timeout_ms: u32) -> Result<Handle, Status> {
        let mut params = ConnectParams {
            version: version::<ConnectParams>(1),
            address: [0; ADDRESS_BYTES],
            timeout_ms,
            address_is_unix_socket: u32::from(address.starts_with('/')),
        };
        // The last byte stays zero and ends the string.
        if address.len() >= ADDRESS_BYTES || address.contains('\0') {
            return Err(Status::BADPARAM);
        }
        for (to, from) in params.address.iter_mut().zip(address.bytes()) {
            *to = c_char::from_ne_bytes([from]);
        }
        let mut handle = Handle(std::ptr::null_mut());
        // SAFETY: both live until the call returns, and `params` is as its version says.
        match unsafe { (self.connect)(&mut params, &mut handle) } {
            Status::SUCCESS => Ok(handle),
            status => Err(status),
        }
    }

    /// `fmDisconnect`. The handle must not be used again.
    pub fn disconnect(&self, handle: Handle) -> Status {
        // SAFETY: the handle came from `connect`.
        unsafe { (self.disconnect)(handle) }
    }

    /// `fmGetSupportedFabricPartitions`
    pub fn supported(&self, handle: Handle) -> Result<Box<PartitionList>, Status> {
        let mut list = Box::new(PartitionList {
            version: version::<PartitionList>(1),
            partitions: 0,
            partitions_at_most: 0,
            partition_info: [PartitionInfo::NONE; MOST_PARTITIONS],
        });
        // SAFETY: the handle came from `connect`; the list lives until the call returns, is as its version
        // says, and consists of integers, so that whatever is written into it is a value.
        match unsafe { (self.get_supported)(handle, &mut *list) } {
            Status::SUCCESS => Ok(list),
            status => Err(status),
        }
    }

    /// `fmActivateFabricPartition`
    pub fn activate(&self, handle: Handle, partition: u32) -> Status {
        // SAFETY: the handle came from `connect`.
        unsafe { (self.activate)(handle, partition) }
    }

    /// `fmDeactivateFabricPartition`
    pub fn deactivate(&self, handle: Handle, partition: u32) -> Status {
        // SAFETY: the handle came from `connect`.
        unsafe { (self.deactivate)(handle, partition) }
    }

    /// `fmSetActivatedFabricPartitions`; more than there can be are `BADPARAM`.
    pub fn set_activated(&self, handle: Handle, active: impl ExactSizeIterator<Item = u32>) -> Status {
        if active.len() > MOST_PARTITIONS {
            return Status::BADPARAM;
        }
        let mut list = ActivatedList {
            version: version::<ActivatedList>(1),
            partitions: u32::try_from(active.len()).unwrap_or(0),
            partition_ids: [0; MOST_PARTITIONS],
        };
        for (to, id) in list.partition_ids.iter_mut().zip(active) {
            *to = id;
        }
        // SAFETY: the handle came from `connect`; the list lives until the call returns and is as its version
        // says.
        unsafe { (self.set_activated)(handle, &mut list) }
    }
}

/// A string of C in an array, which need not end in zero.
fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> =
        bytes.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a compiler of C lays the header's structures out on x86-64: integers of 32 bits and strings of whole
    /// multiples of four, so nothing is padded.
    #[test]
    fn structures_are_as_long_as_the_headers() {
        assert_eq!(version::<ConnectParams>(1), 0x0100_010c);
        assert_eq!((size_of::<GpuInfo>(), size_of::<PartitionInfo>()), (128, 12 + 16 * 128));
        assert_eq!(version::<PartitionList>(1), (1 << 24) + 12 + 64 * 2060);
        assert_eq!(version::<ActivatedList>(1), (1 << 24) + 8 + 64 * 4);
        assert_eq!(std::mem::offset_of!(GpuInfo, pci_bus_id), 84);
        assert_eq!(std::mem::offset_of!(PartitionList, partition_info), 12);
    }

    #[test]
    fn what_claims_too_much_is_nothing() {
        let info = PartitionInfo { gpus: 17, ..PartitionInfo::NONE };
        assert!(info.gpus().is_none());
        assert_eq!(PartitionInfo { gpus: 16, ..info }.gpus().unwrap().len(), 16);
    }

    #[test]
    fn strings_end() {
        let bytes = |text: &[u8]| text.iter().map(|byte| c_char::from_ne_bytes([*byte])).collect::<Vec<_>>();
        assert_eq!(text(&bytes(b"GPU-1\0rest")), "GPU-1");
        assert_eq!(text(&bytes(b"whole")), "whole");
        assert_eq!(text(&bytes(b"\xff\0")), "\u{fffd}");
    }
}
