//! The few calls of CUDA's driver that are needed, as functions that cannot be called wrongly. The library is
//! looked for at the first of them.

#![allow(unsafe_code, reason = "CUDA's driver is a C library; each use says why it is sound")]

use crate::{
    Failure,
    overwrite::{Fill, Stretch},
};
use cudarc::driver::{
    result::DriverError,
    sys::{self, CUresult},
};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    ptr,
};

/// What a 32-bit word holds in the pattern's pass, but for the number of its chunk.
const PATTERN: u32 = 0x5ca1_ab1e;
/// In words for people.
pub const PATTERN_TEXT: &str = "0x5ca1ab1e xor number of chunk, then zero";
/// The smallest chunk that is asked for; the driver hands out whole pages, of 2 MiB at most.
const CHUNK_MIN: usize = 64 << 10;
const CHUNK_MAX: usize = 1 << 30;
const BLOCKS_MAX: u32 = 2048;
const THREADS: u32 = 256;
const WORD: usize = size_of::<u32>();
const KERNEL: &CStr = c"holm_mismatches";
const PTX: &str = include_str!("mismatches.ptx");

/// A device that the driver has.
#[derive(Debug, Clone, Copy)]
pub struct Gpu {
    handle: c_int,
}

/// Finds the library and starts it, and gives the devices that it has.
pub fn gpus() -> Result<Vec<Gpu>, Failure> {
    // SAFETY: the library's initialisers run, as they would in any program that uses CUDA.
    if !unsafe { sys::is_culib_present() } {
        return Err(Failure("there is no `libcuda.so.1`: NVIDIA's driver is not installed".to_owned()));
    }
    // SAFETY: 0 is the only value that the driver takes.
    call("start CUDA", unsafe { sys::cuInit(0) })?;
    let mut count = 0;
    // SAFETY: the driver writes one number.
    call("count the devices", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
    (0..count)
        .map(|number| {
            let mut handle = 0;
            // SAFETY: the driver writes one number.
            call("find a device", unsafe { sys::cuDeviceGet(&raw mut handle, number) })?;
            Ok(Gpu { handle })
        })
        .collect()
}

impl Gpu {
    /// `dddd:bb:dd.f`
    pub fn address(self) -> Result<String, Failure> {
        let mut text: [c_char; 32] = [0; 32];
        // SAFETY: the driver writes a string of at most as many bytes as it is told, its end included.
        call("ask where a device is", unsafe {
            sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as c_int, self.handle)
        })?;
        let bytes: Vec<u8> = text.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
        Ok(String::from_utf8_lossy(&bytes).to_ascii_lowercase())
    }

    /// All the memory that the driver shows.
    pub fn bytes(self) -> Result<u64, Failure> {
        let mut bytes = 0;
        // SAFETY: the driver writes one number.
        call("ask for a device's memory", unsafe { sys::cuDeviceTotalMem_v2(&raw mut bytes, self.handle) })?;
        Ok(bytes as u64)
    }
}

/// A device in use by this thread, and all of its memory that the driver hands out.
#[derive(Debug)]
pub struct Taken {
    gpu: Gpu,
    function: sys::CUfunction,
    /// Where the kernel counts. 0 until it is there.
    counter: sys::CUdeviceptr,
    chunks: Vec<(sys::CUdeviceptr, usize)>,
}

impl Taken {
    /// Takes the device, then chunk after chunk, ever smaller ones, until the driver has no more.
    pub fn all_of(gpu: Gpu) -> Result<Self, Failure> {
        let mut context = ptr::null_mut();
        // SAFETY: the handle is one of the driver's, which writes one pointer.
        call("use the device", unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, gpu.handle) })?;
        let mut taken = Self { gpu, function: ptr::null_mut(), counter: 0, chunks: Vec::new() };
        // SAFETY: the context was just given; it lives until `taken` is dropped.
        call("use the device", unsafe { sys::cuCtxSetCurrent(context) })?;
        let source = CString::new(PTX).map_err(|error| Failure::because("the kernel is none", error))?;
        let mut module = ptr::null_mut();
        // SAFETY: the source ends in zero and lives during the call.
        call("load the kernel", unsafe { sys::cuModuleLoadData(&raw mut module, source.as_ptr().cast()) })?;
        // SAFETY: the module was just loaded; the name ends in zero. Both end with the context.
        call("find the kernel", unsafe {
            sys::cuModuleGetFunction(&raw mut taken.function, module, KERNEL.as_ptr())
        })?;
        taken.counter = allocate(size_of::<u64>())?
            .ok_or_else(|| Failure("the device has no memory free at all".to_owned()))?;
        let mut chunk = CHUNK_MAX;
        while chunk >= CHUNK_MIN {
            match allocate(chunk)? {
                Some(start) => taken.chunks.push((start, chunk)),
                None => chunk /= 2,
            }
        }
        Ok(taken)
    }

    /// Its chunks, to be worked on.
    pub fn stretches(&self) -> Vec<Chunk<'_>> {
        (0_u32..)
            .zip(&self.chunks)
            .map(|(number, (start, bytes))| Chunk { taken: self, number, start: *start, words: bytes / WORD })
            .collect()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let counter = (self.counter != 0).then_some(self.counter);
        for start in self.chunks.iter().map(|(start, _)| *start).chain(counter) {
            // SAFETY: it was allocated here and is freed once; no `Chunk` outlives `self`.
            let _ = unsafe { sys::cuMemFree_v2(start) };
        }
        // SAFETY: it was retained by `all_of`, and is released once.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.gpu.handle) };
    }
}

/// A stretch of a device's memory.
#[derive(Debug)]
pub struct Chunk<'a> {
    taken: &'a Taken,
    number: u32,
    start: sys::CUdeviceptr,
    words: usize,
}

impl Chunk<'_> {
    fn wanted(&self, fill: Fill) -> u32 {
        match fill {
            Fill::Pattern => PATTERN ^ self.number,
            Fill::Zero => 0,
        }
    }
}

impl Stretch for Chunk<'_> {
    fn bytes(&self) -> u64 {
        (self.words * WORD) as u64
    }

    fn fill(&mut self, fill: Fill) -> Result<(), Failure> {
        let value = self.wanted(fill);
        // SAFETY: exactly the words that were allocated.
        call("overwrite memory", unsafe { sys::cuMemsetD32_v2(self.start, value, self.words) })?;
        synchronise()
    }

    fn mismatches(&mut self, fill: Fill) -> Result<u64, Failure> {
        let counter = self.taken.counter;
        // SAFETY: the counter is 8 bytes, two words.
        call("set the counter", unsafe { sys::cuMemsetD32_v2(counter, 0, 2) })?;
        let (mut start, mut words, mut wanted, mut found) =
            (self.start, self.words as u64, self.wanted(fill), counter);
        let mut arguments: [*mut c_void; 4] = [
            (&raw mut start).cast(),
            (&raw mut words).cast(),
            (&raw mut wanted).cast(),
            (&raw mut found).cast(),
        ];
        let blocks = c_uint::try_from(words.div_ceil(THREADS.into())).unwrap_or(BLOCKS_MAX).min(BLOCKS_MAX);
        // SAFETY: four arguments of the kinds that the kernel declares; it reads the words that were allocated
        // and writes the counter.
        call("start the kernel", unsafe {
            sys::cuLaunchKernel(
                self.taken.function,
                blocks,
                1,
                1,
                THREADS,
                1,
                1,
                0,
                ptr::null_mut(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        })?;
        synchronise()?;
        let mut wrong = 0_u64;
        // SAFETY: 8 bytes from the counter into a number of 8 bytes.
        call("read the counter", unsafe {
            sys::cuMemcpyDtoH_v2((&raw mut wrong).cast(), counter, size_of::<u64>())
        })?;
        Ok(wrong)
    }
}

/// `None` where the driver has no such stretch left.
fn allocate(bytes: usize) -> Result<Option<sys::CUdeviceptr>, Failure> {
    let mut start = 0;
    // SAFETY: the driver writes one address.
    match unsafe { sys::cuMemAlloc_v2(&raw mut start, bytes) } {
        CUresult::CUDA_SUCCESS => Ok(Some(start)),
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
        other => call("allocate memory", other).map(|()| None),
    }
}

fn synchronise() -> Result<(), Failure> {
    // SAFETY: it waits for what was begun in this thread's context.
    call("wait for the device", unsafe { sys::cuCtxSynchronize() })
}

fn call(doing: &str, result: CUresult) -> Result<(), Failure> {
    result.result().map_err(|DriverError(code)| {
        let hint = match code {
            CUresult::CUDA_ERROR_SYSTEM_NOT_READY => {
                ": the driver waits for the fabric; load it with `NVreg_NvLinkDisable=1`"
            }
            _ => "",
        };
        Failure(format!("cannot {doing}: {code:?}{hint}"))
    })
}
