//! The method `bar`: all memory BARs through VFIO, by this process, for kinds of device whose memory lies open in
//! them: reset, overwrite all of it, read all of it back, reset.

use super::{Sanitiser, TOOL};
use crate::{
    config::CleanMethod,
    edge::{EdgeError, Result},
    inventory::sysfs::{Bar, PciFunction, Sysfs},
    vfio::{Device, Mapping},
};
use holm_proto::{ids::RunId, v1::Evidence};
use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// How many devices are cleaned at a time.
const CLEANERS: usize = 2;

/// What is written.
const PATTERN: &str = "zero";

/// Cleans through VFIO.
#[derive(Debug)]
pub struct Bars {
    /// Where the devices are looked at.
    pub sysfs: Sysfs,
}

impl Sanitiser for Bars {
    fn sanitise(
        &self,
        _run: RunId,
        devices: &[PciFunction],
        _hold: Arc<dyn Any + Send + Sync>,
    ) -> Vec<Evidence> {
        let left = Mutex::new(devices.iter().enumerate());
        let found = Mutex::new(BTreeMap::new());
        let work = || {
            loop {
                let device = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((at, function)) = device else { return };
                let evidence = self.one(function);
                found.lock().unwrap_or_else(PoisonError::into_inner).insert(at, evidence);
            }
        };
        thread::scope(|scope| {
            for _ in 1..CLEANERS.min(devices.len()) {
                let helper = thread::Builder::new().name("sanitise".to_owned()).spawn_scoped(scope, work);
                if let Err(error) = helper {
                    tracing::warn!(%error, "devices are cleaned one after the other");
                }
            }
            work();
        });
        found.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
    }
}

impl Bars {
    fn one(&self, function: &PciFunction) -> Evidence {
        let started = Instant::now();
        let mut evidence = Evidence {
            address: function.address.to_string(),
            method: CleanMethod::Bar.as_str().to_owned(),
            pattern: PATTERN.to_owned(),
            tool: TOOL.to_owned(),
            ..Default::default()
        };
        match clean(&self.sysfs, function, &mut evidence) {
            Ok(()) => evidence.cleaned = true,
            Err(error) => evidence.detail = error.chain(),
        }
        evidence.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        evidence
    }
}

fn clean(sysfs: &Sysfs, function: &PciFunction, evidence: &mut Evidence) -> Result<()> {
    let address = function.address;
    let bars: Vec<Bar> = function.memory_bars().collect();
    if bars.is_empty() {
        return Err(EdgeError::new(format!(
            "`{address}` shows no memory BAR, so nothing of it can be cleaned"
        )));
    }
    evidence.bytes_total = function.memory_bytes();
    let device = Device::open(sysfs, function)?;
    device.reset()?;
    device.enable_memory()?;
    for bar in bars {
        overwrite(&mut device.map(bar)?, evidence).map_err(|error| {
            EdgeError::because(format!("BAR {} of `{address}` is not clean", bar.index), error)
        })?;
    }
    device.reset()?;
    if evidence.bytes_verified != evidence.bytes_total {
        return Err(EdgeError::new(format!(
            "of {} bytes of `{address}` only {} were verified",
            evidence.bytes_total, evidence.bytes_verified
        )));
    }
    Ok(())
}

/// Memory of a device, or of a test.
trait Memory {
    /// How much there is.
    fn bytes(&self) -> u64;
    /// Reads all of it and counts the bytes that are not zero.
    fn count_nonzero(&self) -> u64;
    /// Overwrites all of it with zeros.
    fn zero(&mut self);
}

impl Memory for Mapping {
    fn bytes(&self) -> u64 {
        self.bytes()
    }

    fn count_nonzero(&self) -> u64 {
        self.count_nonzero()
    }

    fn zero(&mut self) {
        self.zero();
    }
}

/// Overwrites one stretch and reads it back, counting as it goes.
fn overwrite(memory: &mut impl Memory, evidence: &mut Evidence) -> Result<()> {
    evidence.bytes_dirty_before += memory.count_nonzero();
    memory.zero();
    evidence.bytes_written += memory.bytes();
    let left = memory.count_nonzero();
    evidence.bytes_verified += memory.bytes().saturating_sub(left);
    match left {
        0 => Ok(()),
        _ => Err(EdgeError::new(format!("{left} bytes read back otherwise than they were written"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory some of whose bytes keep what they hold.
    struct Bytes {
        held: Vec<u8>,
        stuck: Vec<usize>,
    }

    impl Memory for Bytes {
        fn bytes(&self) -> u64 {
            self.held.len() as u64
        }

        fn count_nonzero(&self) -> u64 {
            self.held.iter().filter(|byte| **byte != 0).count() as u64
        }

        fn zero(&mut self) {
            for (at, byte) in self.held.iter_mut().enumerate().filter(|(at, _)| !self.stuck.contains(at)) {
                let _ = at;
                *byte = 0;
            }
        }
    }

    #[test]
    fn what_was_there_is_counted_and_gone() {
        let mut memory = Bytes { held: (0..=255).cycle().take(4096).collect(), stuck: Vec::new() };
        let mut evidence = Evidence::default();
        overwrite(&mut memory, &mut evidence).unwrap();
        assert_eq!(
            (evidence.bytes_dirty_before, evidence.bytes_written, evidence.bytes_verified),
            (4080, 4096, 4096)
        );
        assert_eq!(memory.count_nonzero(), 0);
    }

    #[test]
    fn memory_that_keeps_a_byte_is_not_clean() {
        let mut memory = Bytes { held: vec![0xff; 4096], stuck: vec![4095] };
        let mut evidence = Evidence::default();
        let error = overwrite(&mut memory, &mut evidence).unwrap_err();
        assert_eq!(error.chain(), "1 bytes read back otherwise than they were written");
        assert_eq!((evidence.bytes_written, evidence.bytes_verified), (4096, 4095));
    }
}
