//! `libcuda.so.1` as far as Holm calls it, with devices in this machine's memory: it shows what is done with a
//! driver, never how a GPU behaves. The kernel is known by its name and counted out here.
//!
//! `HOLM_LIBCUDA` says how it behaves, `NAME=VALUE,…`:
//!
//! | name | value |
//! |---|---|
//! | `at` | addresses of its devices, separated by `+` |
//! | `mib` | memory of each |
//! | `keeps_kib` | of that, what it hands out to nobody |
//! | `stuck` | an offset in the memory handed out at which a byte keeps its value; of the last device |
//! | `same` | `1`: every stretch handed out is the first one |
//! | `init` | what `cuInit` answers |
//! | `launch` | what a launch answers; `hang`: nothing |
//! | `allocate` | what an allocation answers once it has no more |

#![allow(unsafe_code, reason = "what C calls is unsafe to export and is handed raw pointers")]
#![allow(non_snake_case, reason = "names are the driver's")]

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

const SUCCESS: c_int = 0;
const INVALID: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NOT_FOUND: c_int = 500;
/// What the memory holds at first: what somebody left there.
const LEFT: u8 = 0xd1;

#[derive(Debug, Default)]
struct Driver {
    devices: Vec<Device>,
    current: usize,
    settings: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Device {
    address: String,
    free: usize,
    stretches: BTreeMap<u64, Box<[u8]>>,
    /// Address of the byte that keeps its value.
    stuck: Option<u64>,
    handed_out: usize,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(|| {
    let text = std::env::var("HOLM_LIBCUDA").unwrap_or_default();
    let settings: BTreeMap<String, String> = text
        .split(',')
        .filter_map(|setting| setting.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    Mutex::new(Driver { settings, ..Driver::default() })
});

fn driver() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    fn number(&self, name: &str) -> Option<usize> {
        self.settings.get(name).and_then(|value| value.parse().ok())
    }

    fn code(&self, name: &str) -> Option<c_int> {
        self.settings.get(name).and_then(|value| value.parse().ok())
    }

    fn device(&mut self) -> Option<&mut Device> {
        let current = self.current;
        self.devices.get_mut(current)
    }
}

impl Device {
    /// The bytes from an address on, which lie in one stretch.
    fn bytes(&mut self, start: u64, length: usize) -> Option<&mut [u8]> {
        let (from, stretch) = self.stretches.range_mut(..=start).next_back()?;
        let at = usize::try_from(start - from).ok()?;
        stretch.get_mut(at..at.checked_add(length)?)
    }
}

/// Writes through a pointer of the caller's.
///
/// # Safety
/// As `cuda.h` says of the call: the pointer is null or good for one value.
unsafe fn give<T>(to: *mut T, value: T) -> c_int {
    if to.is_null() {
        return INVALID;
    }
    // SAFETY: the caller vouches for it.
    unsafe { to.write(value) };
    SUCCESS
}

/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_int {
    let mut driver = driver();
    let (mib, keeps) = (driver.number("mib").unwrap_or(8), driver.number("keeps_kib").unwrap_or(0));
    let at = driver.settings.get("at").cloned().unwrap_or_default();
    driver.devices = at
        .split('+')
        .filter(|address| !address.is_empty())
        .map(|address| Device {
            address: address.to_owned(),
            free: (mib << 20) - (keeps << 10),
            stretches: BTreeMap::new(),
            stuck: None,
            handed_out: 0,
        })
        .collect();
    driver.code("init").unwrap_or(SUCCESS)
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { give(count, driver().devices.len() as c_int) }
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { give(device, ordinal) }
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(text: *mut c_char, length: c_int, device: c_int) -> c_int {
    let driver = driver();
    let Some(device) = driver.devices.get(device as usize) else { return INVALID };
    // The real one writes upper case.
    let address = device.address.to_uppercase();
    if text.is_null() || address.len() >= length as usize {
        return INVALID;
    }
    // SAFETY: it fits, with its end, in what the caller promised.
    unsafe {
        ptr::copy_nonoverlapping(address.as_ptr().cast(), text, address.len());
        text.add(address.len()).write(0);
    }
    SUCCESS
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { give(bytes, driver().number("mib").unwrap_or(8) << 20) }
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_int {
    // SAFETY: as the caller promised. A context is its device's number, from 1.
    unsafe { give(context, ptr::without_provenance_mut(device as usize + 1)) }
}

/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> c_int {
    SUCCESS
}

/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_int {
    driver().current = context.addr().wrapping_sub(1);
    SUCCESS
}

/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    SUCCESS
}

/// As in `cuda.h`. Any source is taken.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, _image: *const c_void) -> c_int {
    // SAFETY: as the caller promised.
    unsafe { give(module, ptr::without_provenance_mut(1)) }
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    _module: *mut c_void,
    name: *const c_char,
) -> c_int {
    // SAFETY: as the caller promised, it ends in zero.
    if unsafe { CStr::from_ptr(name) } != c"holm_mismatches" {
        return NOT_FOUND;
    }
    // SAFETY: as the caller promised.
    unsafe { give(function, ptr::without_provenance_mut(1)) }
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(start: *mut u64, bytes: usize) -> c_int {
    let mut driver = driver();
    let last = driver.devices.len().wrapping_sub(1) == driver.current;
    let stuck = driver.number("stuck").filter(|_| last);
    let same = driver.settings.contains_key("same");
    let out = driver.code("allocate").unwrap_or(OUT_OF_MEMORY);
    let Some(device) = driver.device() else { return INVALID };
    if bytes > device.free {
        return out;
    }
    device.free -= bytes;
    // The first is where the kernel counts: it is no memory that is cleaned.
    let counter = device.stretches.is_empty();
    let first = device.stretches.values().nth(1).filter(|first| same && first.len() >= bytes);
    if let Some(first) = first {
        let address = first.as_ptr().addr() as u64;
        // SAFETY: as the caller promised.
        return unsafe { give(start, address) };
    }
    let stretch = vec![LEFT; bytes].into_boxed_slice();
    let address = stretch.as_ptr().addr() as u64;
    device.stretches.insert(address, stretch);
    if !counter {
        if let Some(stuck) = stuck.filter(|at| (device.handed_out..device.handed_out + bytes).contains(at)) {
            device.stuck = Some(address + (stuck - device.handed_out) as u64);
        }
        device.handed_out += bytes;
    }
    // SAFETY: as the caller promised.
    unsafe { give(start, address) }
}

/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(start: u64) -> c_int {
    let mut driver = driver();
    for device in &mut driver.devices {
        if let Some(stretch) = device.stretches.remove(&start) {
            device.free += stretch.len();
        }
    }
    SUCCESS
}

/// As in `cuda.h`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32_v2(start: u64, value: c_uint, words: usize) -> c_int {
    let mut driver = driver();
    let Some(device) = driver.device() else { return INVALID };
    let stuck = device.stuck;
    let Some(bytes) = device.bytes(start, words * 4) else { return INVALID };
    let kept = stuck
        .and_then(|at| usize::try_from(at.checked_sub(start)?).ok())
        .and_then(|at| bytes.get(at).map(|byte| (at, *byte)));
    for word in bytes.chunks_exact_mut(4) {
        word.copy_from_slice(&value.to_le_bytes());
    }
    if let Some((at, kept)) = kept
        && let Some(byte) = bytes.get_mut(at)
    {
        *byte = kept;
    }
    SUCCESS
}

/// As in `cuda.h`.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, length: usize) -> c_int {
    let mut driver = driver();
    let Some(bytes) = driver.device().and_then(|device| device.bytes(from, length)) else { return INVALID };
    // SAFETY: as the caller promised, there is room for as many.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), length) };
    SUCCESS
}

/// As in `cuda.h`: the one kernel there is.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "as many as the driver's has")]
pub unsafe extern "C" fn cuLaunchKernel(
    _function: *mut c_void,
    blocks: c_uint,
    _: c_uint,
    _: c_uint,
    threads: c_uint,
    _: c_uint,
    _: c_uint,
    _shared: c_uint,
    _stream: *mut c_void,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    let hangs = driver().settings.get("launch").is_some_and(|value| value == "hang");
    if hangs {
        loop {
            std::thread::park();
        }
    }
    let mut driver = driver();
    if let Some(code) = driver.code("launch") {
        return code;
    }
    if blocks == 0 || threads == 0 || threads > 1024 || arguments.is_null() {
        return INVALID;
    }
    // SAFETY: the kernel has four arguments, and the caller promised to point at each.
    let (start, words, wanted, found) = unsafe {
        (
            (*arguments).cast::<u64>().read(),
            (*arguments.add(1)).cast::<u64>().read(),
            (*arguments.add(2)).cast::<u32>().read(),
            (*arguments.add(3)).cast::<u64>().read(),
        )
    };
    let Some(device) = driver.device() else { return INVALID };
    let Some(bytes) = device.bytes(start, words as usize * 4) else { return INVALID };
    let wrong = bytes
        .chunks_exact(4)
        .flat_map(|word| word.iter().zip(wanted.to_le_bytes()))
        .filter(|(byte, wanted)| **byte != *wanted)
        .count() as u64;
    let Some(counter) = device.bytes(found, 8) else { return INVALID };
    let mut sum = [0; 8];
    sum.copy_from_slice(counter);
    counter.copy_from_slice(&u64::from_le_bytes(sum).wrapping_add(wrong).to_le_bytes());
    SUCCESS
}
