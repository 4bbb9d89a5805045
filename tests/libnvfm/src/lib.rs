//! A stand-in for NVIDIA Fabric Manager and its client library `libnvfm.so.1`, for tests.
//!
//! It exports the calls of C that an agent makes and refuses what the Fabric Manager User Guide says is refused.
//! It is written from that guide and shares no code with what it tests. The Fabric Manager that a test talks to
//! is a directory, whose path is the address it connects to: so tests in one process each have their own, and one
//! outlives the agent that spoke with it.
//!
//! ```text
//!   control   written by the test, looked at with each call, one a line:
//!               fail CALL STATUS [TIMES]   the call returns STATUS and does nothing; once where no number is said
//!               late CALL STATUS           the call does its work, and returns STATUS; once
//!               hang CALL                  the call does not return while the line is there
//!               restart                    it was restarted with FABRIC_MODE_RESTART=1; done once
//!               start SECONDS              it was started afresh and is ready after so long; done once
//!               stop                       it is not there; done once, until it is started
//!               mismatch                   it is of another version
//!               missing PARTITION          the partition is not offered
//!               gpu NUMBER ADDRESS         the GPU is somewhere else
//!   clock     its clock, seconds; 0 where there is no file
//!   state     its own, as is control-taken: what it has read of control
//!   trace     what was called, one a line
//! ```
//!
//! ```text
//!   Ready ──restart──▶ Waiting ──fmSetActivatedFabricPartitions within 60 s──▶ Ready
//!     ▲                   └──────────────── too late ───▶ Gone ◀── stop ── any
//!     └── when it is time ── Starting ◀── start ── any
//! ```

#![allow(
    unsafe_code,
    reason = "a library of C is what it stands in for: calls are exported, and memory of the caller's is written"
)]

mod manager;

use manager::{ACTIVATE, CONNECT, DEACTIVATE, GET, Manager, SET};
use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// `fmReturn_t`
pub const SUCCESS: c_int = 0;
/// A parameter, a partition or a handle that is none.
pub const BADPARAM: c_int = -1;
/// Something went wrong.
pub const GENERIC_ERROR: c_int = -2;
/// Not in this mode.
pub const NOT_SUPPORTED: c_int = -3;
/// The library was not initialised; the partition is not active.
pub const UNINITIALIZED: c_int = -4;
/// The structure is of another version.
pub const VERSION_MISMATCH: c_int = -6;
/// Active, or overlapping one that is.
pub const IN_USE: c_int = -7;
/// It starts.
pub const NOT_CONFIGURED: c_int = -8;
/// There is nobody at the other end.
pub const CONNECTION_NOT_VALID: c_int = -9;

const MOST_PARTITIONS: usize = 64;
const MOST_GPUS: usize = 16;
const INTERFACE: u32 = 1 << 24;

/// `fmConnectParams_v1`
#[repr(C)]
pub struct ConnectParams {
    version: u32,
    address: [c_char; 256],
    timeout_ms: u32,
    is_unix_socket: u32,
}

/// `fmFabricPartitionGpuInfo_t`
#[derive(Clone, Copy)]
#[repr(C)]
struct GpuInfo {
    physical_id: u32,
    uuid: [u8; 80],
    pci_bus_id: [u8; 32],
    links: u32,
    most_links: u32,
    line_rate_mbps: u32,
}

/// `fmFabricPartitionInfo_t`
#[derive(Clone, Copy)]
#[repr(C)]
struct PartitionInfo {
    id: u32,
    is_active: u32,
    gpu_count: u32,
    gpus: [GpuInfo; MOST_GPUS],
}

/// `fmFabricPartitionList_v2`
#[repr(C)]
pub struct PartitionList {
    version: u32,
    count: u32,
    most: u32,
    partitions: [PartitionInfo; MOST_PARTITIONS],
}

/// `fmActivatedFabricPartitionList_v1`
#[repr(C)]
pub struct ActivatedList {
    version: u32,
    count: u32,
    ids: [u32; MOST_PARTITIONS],
}

/// A client's connections, and whether the library was initialised.
struct Client {
    initialised: bool,
    /// Where, and to the how-manieth Fabric Manager there. A handle is a place in here, and one.
    connections: Vec<Option<(PathBuf, u64)>>,
}

static CLIENT: Mutex<Client> = Mutex::new(Client { initialised: false, connections: Vec::new() });

fn client() -> MutexGuard<'static, Client> {
    CLIENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a handle leads.
fn connection(handle: *mut c_void) -> Result<(PathBuf, u64), c_int> {
    let client = client();
    if !client.initialised {
        return Err(UNINITIALIZED);
    }
    let place = handle.addr().checked_sub(1).ok_or(BADPARAM)?;
    client.connections.get(place).cloned().flatten().ok_or(BADPARAM)
}

fn status(outcome: Result<(), c_int>) -> c_int {
    outcome.err().unwrap_or(SUCCESS)
}

/// Initialises the library.
#[unsafe(no_mangle)]
pub extern "C" fn fmLibInit() -> c_int {
    let mut client = client();
    if client.initialised {
        return IN_USE;
    }
    client.initialised = true;
    SUCCESS
}

/// Ends it, and every connection.
#[unsafe(no_mangle)]
pub extern "C" fn fmLibShutdown() -> c_int {
    let mut client = client();
    if !client.initialised {
        return UNINITIALIZED;
    }
    client.initialised = false;
    client.connections.clear();
    SUCCESS
}

/// Connects to a Fabric Manager.
///
/// # Safety
/// As in C: `params` leads to connection parameters as long as their version says, `handle` to room for one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fmConnect(params: *mut ConnectParams, handle: *mut *mut c_void) -> c_int {
    if !client().initialised {
        return UNINITIALIZED;
    }
    if params.is_null() || handle.is_null() {
        return BADPARAM;
    }
    // SAFETY: the caller vouches for it; the version is read before anything that it says is there.
    if unsafe { (*params).version } != INTERFACE | size::<ConnectParams>() {
        return VERSION_MISMATCH;
    }
    // SAFETY: the version has just said that it is one.
    let params = unsafe { &*params };
    if !params.address.contains(&0) || params.is_unix_socket != 1 || params.timeout_ms == 0 {
        return BADPARAM;
    }
    // SAFETY: the array holds a zero.
    let address = unsafe { CStr::from_ptr(params.address.as_ptr()) };
    let Ok(address) = address.to_str() else { return BADPARAM };
    let path = Path::new(address);
    if !path.is_dir() {
        return CONNECTION_NOT_VALID;
    }
    let outcome = Manager::call(path, None, CONNECT, "", |manager| Ok(manager.epoch()));
    let epoch = match outcome {
        Ok(epoch) => epoch,
        Err(status) => return status,
    };
    let mut client = client();
    client.connections.push(Some((path.to_owned(), epoch)));
    let number = client.connections.len();
    // SAFETY: not null, and the caller vouches that there is room.
    unsafe { *handle = std::ptr::without_provenance_mut(number) };
    SUCCESS
}

/// Ends a connection.
#[unsafe(no_mangle)]
pub extern "C" fn fmDisconnect(handle: *mut c_void) -> c_int {
    if let Err(status) = connection(handle) {
        return status;
    }
    match handle.addr().checked_sub(1).and_then(|place| client().connections.get_mut(place).map(Option::take))
    {
        Some(_) => SUCCESS,
        None => BADPARAM,
    }
}

/// The partitions there are.
///
/// # Safety
/// As in C: `list` leads to a list as long as its version says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fmGetSupportedFabricPartitions(
    handle: *mut c_void,
    list: *mut PartitionList,
) -> c_int {
    let (path, epoch) = match connection(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    if list.is_null() {
        return BADPARAM;
    }
    // SAFETY: the caller vouches for it; the version is read before anything that it says is there.
    if unsafe { (*list).version } != INTERFACE | size::<PartitionList>() {
        return VERSION_MISMATCH;
    }
    // SAFETY: the version has just said that it is one, and consists of integers.
    let list = unsafe { &mut *list };
    status(Manager::call(&path, Some(epoch), GET, "", |manager| {
        manager.ready()?;
        let offered = manager.offered();
        list.count = u32::try_from(offered.len()).unwrap_or(0);
        list.most = manager::TABLE_LENGTH;
        for (to, (id, gpus, links)) in list.partitions.iter_mut().zip(offered) {
            to.id = id;
            to.is_active = u32::from(manager.is_active(id));
            to.gpu_count = u32::try_from(gpus.len()).unwrap_or(0);
            for (to, gpu) in to.gpus.iter_mut().zip(gpus) {
                *to = GpuInfo {
                    physical_id: *gpu,
                    uuid: string(&format!("GPU-00000000-0000-0000-0000-{gpu:012}")),
                    pci_bus_id: string(&manager.address(*gpu)),
                    links,
                    most_links: 6,
                    line_rate_mbps: 25_781,
                };
            }
        }
        Ok(())
    }))
}

/// Brings a partition up.
#[unsafe(no_mangle)]
pub extern "C" fn fmActivateFabricPartition(handle: *mut c_void, partition: u32) -> c_int {
    let (path, epoch) = match connection(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    status(Manager::call(&path, Some(epoch), ACTIVATE, &partition.to_string(), |manager| {
        manager.activate(partition)
    }))
}

/// Takes it down.
#[unsafe(no_mangle)]
pub extern "C" fn fmDeactivateFabricPartition(handle: *mut c_void, partition: u32) -> c_int {
    let (path, epoch) = match connection(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    status(Manager::call(&path, Some(epoch), DEACTIVATE, &partition.to_string(), |manager| {
        manager.deactivate(partition)
    }))
}

/// Tells one that was restarted which partitions are up.
///
/// # Safety
/// As in C: `list` leads to a list as long as its version says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fmSetActivatedFabricPartitions(
    handle: *mut c_void,
    list: *mut ActivatedList,
) -> c_int {
    let (path, epoch) = match connection(handle) {
        Ok(found) => found,
        Err(status) => return status,
    };
    if list.is_null() {
        return BADPARAM;
    }
    // SAFETY: the caller vouches for it; the version is read before anything that it says is there.
    if unsafe { (*list).version } != INTERFACE | size::<ActivatedList>() {
        return VERSION_MISMATCH;
    }
    // SAFETY: the version has just said that it is one.
    let list = unsafe { &*list };
    let Some(ids) = usize::try_from(list.count).ok().and_then(|count| list.ids.get(..count)) else {
        return BADPARAM;
    };
    let shown: Vec<String> = ids.iter().map(u32::to_string).collect();
    status(Manager::call(&path, Some(epoch), SET, &format!("[{}]", shown.join(",")), |manager| {
        manager.set_active(ids)
    }))
}

fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(0)
}

/// A string of C, cut where it does not fit.
fn string<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// One test: the library is initialised once a process.
    #[test]
    fn it_refuses_what_fabric_manager_refuses() {
        let directory = std::env::temp_dir().join(format!("holm-libnvfm-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        let control = |text: &str| fs::write(directory.join("control"), text).unwrap();
        let clock = |seconds: u64| fs::write(directory.join("clock"), seconds.to_string()).unwrap();
        let mut params = ConnectParams {
            version: INTERFACE | size::<ConnectParams>(),
            address: string::<256>(directory.to_str().unwrap()).map(|byte| c_char::from_ne_bytes([byte])),
            timeout_ms: 1000,
            is_unix_socket: 1,
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: the arguments are what the calls want.
        let mut connect = |handle: &mut *mut c_void| unsafe { fmConnect(&mut params, handle) };
        assert_eq!(connect(&mut handle), UNINITIALIZED);
        assert_eq!((fmLibInit(), fmLibInit()), (SUCCESS, IN_USE));
        assert_eq!(connect(&mut handle), SUCCESS);
        let set = |handle, ids: &[u32]| {
            let mut list = ActivatedList {
                version: INTERFACE | size::<ActivatedList>(),
                count: u32::try_from(ids.len()).unwrap(),
                ids: [0; MOST_PARTITIONS],
            };
            list.ids[..ids.len()].copy_from_slice(ids);
            // SAFETY: the list is as its version says.
            unsafe { fmSetActivatedFabricPartitions(handle, &mut list) }
        };
        let activate = |handle, id| fmActivateFabricPartition(handle, id);
        assert_eq!(activate(handle, 9), SUCCESS);
        assert_eq!([activate(handle, 9), activate(handle, 5), activate(handle, 17)], [IN_USE; 3]);
        assert_eq!([activate(handle, 33), activate(handle, 64)], [BADPARAM; 2]);
        assert_eq!(activate(std::ptr::null_mut(), 1), BADPARAM);
        assert_eq!(fmDeactivateFabricPartition(handle, 10), UNINITIALIZED);
        assert_eq!(set(handle, &[9]), NOT_SUPPORTED);
        control("restart");
        assert_eq!(activate(handle, 10), CONNECTION_NOT_VALID);
        assert_eq!(connect(&mut handle), SUCCESS);
        clock(60);
        assert_eq!(
            (activate(handle, 10), fmDeactivateFabricPartition(handle, 9)),
            (NOT_CONFIGURED, NOT_CONFIGURED)
        );
        assert_eq!((set(handle, &[9, 17]), set(handle, &[33])), (BADPARAM, BADPARAM));
        assert_eq!(
            (set(handle, &[9]), activate(handle, 10), activate(handle, 17)),
            (SUCCESS, SUCCESS, IN_USE)
        );
        control("restart");
        assert_eq!(activate(handle, 10), CONNECTION_NOT_VALID);
        clock(121);
        assert_eq!(connect(&mut handle), CONNECTION_NOT_VALID);
        control("start 5\nfail fmActivateFabricPartition -2 2\nlate fmActivateFabricPartition -5");
        assert_eq!(connect(&mut handle), SUCCESS);
        assert_eq!([activate(handle, 0), activate(handle, 0)], [GENERIC_ERROR; 2]);
        assert_eq!(set(handle, &[]), NOT_CONFIGURED);
        clock(126);
        assert_eq!((activate(handle, 0), activate(handle, 0)), (-5, IN_USE));
        assert_eq!((fmDisconnect(handle), fmDisconnect(handle)), (SUCCESS, BADPARAM));
        // SAFETY: a list of another version is looked at no further.
        let mut other: PartitionList = unsafe { std::mem::zeroed() };
        assert_eq!(connect(&mut handle), SUCCESS);
        // SAFETY: as above.
        assert_eq!(unsafe { fmGetSupportedFabricPartitions(handle, &mut other) }, VERSION_MISMATCH);
        other.version = INTERFACE | size::<PartitionList>();
        // SAFETY: the list is as its version says.
        assert_eq!(unsafe { fmGetSupportedFabricPartitions(handle, &mut other) }, SUCCESS);
        assert_eq!((other.count, other.partitions[0].is_active, other.partitions[32].gpu_count), (33, 1, 1));
        assert_eq!((fmLibShutdown(), activate(handle, 1)), (SUCCESS, UNINITIALIZED));
        fs::remove_dir_all(&directory).unwrap();
    }
}
