//! The method `bar`: all memory BARs through VFIO, by this process, for kinds of device whose memory lies open in
//! them: reset, overwrite all of it, read all of it back, reset. With a pattern first, so that memory that drops what is
//! written, or shows one stretch twice, is not taken for clean because it reads as zeros.

use super::{Sanitiser, TOOL};
use crate::{
    config::CleanMethod,
    edge::{EdgeError, Result},
    inventory::sysfs::{Bar, PciFunction, Sysfs},
    vfio::Device,
};
use holm_proto::{ids::RunId, v1::Evidence};
use holm_scrub::{
    memory::PATTERN_TEXT,
    overwrite::{Stretch, overwrite},
};
use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

/// How many devices are cleaned at a time.
const CLEANERS: usize = 2;

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
            pattern: PATTERN_TEXT.to_owned(),
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
    let (mut stretches, mut before) = (Vec::new(), 0);
    for bar in bars {
        stretches.push(device.map(bar, before)?);
        before += bar.bytes;
    }
    count(&mut stretches, evidence)?;
    drop(stretches);
    device.reset()?;
    if evidence.bytes_verified != evidence.bytes_total {
        return Err(EdgeError::new(format!(
            "of {} bytes of `{address}` only {} were verified",
            evidence.bytes_total, evidence.bytes_verified
        )));
    }
    Ok(())
}

/// Overwrites all of it and reads it back, and notes what was seen.
fn count(stretches: &mut [impl Stretch], evidence: &mut Evidence) -> Result<()> {
    let counts = overwrite(stretches, &mut |_| {}).map_err(|failure| EdgeError::new(failure.to_string()))?;
    evidence.bytes_dirty_before = counts.dirty_before;
    evidence.bytes_written = counts.written;
    evidence.bytes_verified = counts.verified;
    match counts.written - counts.verified {
        0 => Ok(()),
        left => Err(EdgeError::new(format!("{left} bytes read back otherwise than they were written"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use holm_scrub::{Failure, overwrite::Fill};

    /// Memory some of whose bytes keep what they hold.
    struct Bytes {
        held: Vec<u8>,
        stuck: Vec<usize>,
    }

    fn wanted(fill: Fill, at: usize) -> u8 {
        if fill == Fill::Zero { 0 } else { (at % 251) as u8 + 1 }
    }

    impl Stretch for Bytes {
        fn bytes(&self) -> u64 {
            self.held.len() as u64
        }

        fn fill(&mut self, fill: Fill) -> std::result::Result<(), Failure> {
            let stuck = &self.stuck;
            let free = self.held.iter_mut().enumerate().filter(|(at, _)| !stuck.contains(at));
            free.for_each(|(at, byte)| *byte = wanted(fill, at));
            Ok(())
        }

        fn mismatches(&mut self, fill: Fill) -> std::result::Result<u64, Failure> {
            Ok(self.held.iter().enumerate().filter(|(at, byte)| **byte != wanted(fill, *at)).count() as u64)
        }
    }

    fn seen(held: Vec<u8>, stuck: Vec<usize>) -> (Result<()>, Evidence) {
        let mut evidence = Evidence::default();
        let outcome = count(&mut [Bytes { held, stuck }], &mut evidence);
        (outcome, evidence)
    }

    #[test]
    fn what_was_there_is_counted_and_gone() {
        let (outcome, evidence) = seen((0..=255).cycle().take(4096).collect(), Vec::new());
        outcome.unwrap();
        assert_eq!(
            (evidence.bytes_dirty_before, evidence.bytes_written, evidence.bytes_verified),
            (4080, 4096, 4096)
        );
    }

    #[test]
    fn memory_that_keeps_a_byte_is_not_clean() {
        let (outcome, evidence) = seen(vec![0xff; 4096], vec![4095]);
        assert!(outcome.is_err());
        assert!(evidence.bytes_verified < evidence.bytes_written);
    }

    #[test]
    fn memory_that_drops_what_is_written_is_not_clean_because_it_reads_as_zeros() {
        let (outcome, evidence) = seen(vec![0; 4096], (0..4096).collect());
        assert!(outcome.is_err());
        assert_eq!((evidence.bytes_dirty_before, evidence.bytes_verified), (0, 0));
    }
}
