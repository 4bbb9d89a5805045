//! Cleaning a device's memory between two owners: reset, overwrite all of it, read all of it back, reset.
//!
//! A VFIO reset does not clear device memory; this does, and says what it saw. Whatever goes wrong, the
//! evidence says `cleaned: false` and why, and the device stays dirty: there is no answer that means
//! "nothing to do".

use crate::{
    config::DevicesConfig,
    edge::{EdgeError, Result},
    inventory::sysfs::{Bar, Sysfs},
    vfio::{Device, Mapping},
};
use holm_proto::{ids::PciAddress, v1::Evidence};
use std::time::Instant;

/// Every memory BAR, through VFIO.
const METHOD: &str = "bar";
const TOOL: &str = concat!("holm-agent ", env!("CARGO_PKG_VERSION"));

/// Cleans one device. The run's id is the caller's to fill in.
pub fn run(sysfs: &Sysfs, devices: &DevicesConfig, address: PciAddress) -> Evidence {
    let started = Instant::now();
    let mut evidence = Evidence {
        address: address.to_string(),
        method: METHOD.to_owned(),
        tool: TOOL.to_owned(),
        ..Default::default()
    };
    match clean(sysfs, devices, address, &mut evidence) {
        Ok(()) => evidence.cleaned = true,
        Err(error) => evidence.detail = error.chain(),
    }
    evidence.took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    evidence
}

fn clean(sysfs: &Sysfs, devices: &DevicesConfig, address: PciAddress, evidence: &mut Evidence) -> Result<()> {
    let function = sysfs
        .function(address)?
        .ok_or_else(|| EdgeError::new(format!("there is no device at `{address}`")))?;
    if !devices.memory_in_bar.iter().any(|id| id.as_str() == function.id) {
        return Err(EdgeError::new(format!(
            "writing the BARs of `{address}` ({}) would not reach all of its memory, so it is not clean: name \
             its kind in `memory_in_bar` only where the BAR is the memory",
            function.id
        )));
    }
    let bars: Vec<Bar> = function.memory_bars().collect();
    if bars.is_empty() {
        return Err(EdgeError::new(format!(
            "`{address}` shows no memory BAR, so nothing of it can be cleaned"
        )));
    }
    evidence.bytes_total = function.memory_bytes();
    let device = Device::open(sysfs, &function)?;
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
    use crate::inventory::fixture::Machine;

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

    #[test]
    fn memory_behind_a_window_is_never_called_clean() {
        let machine = Machine::dgx2();
        let devices = DevicesConfig { memory_in_bar: Vec::new(), ..machine.devices() };
        let evidence = run(&machine.sysfs(), &devices, "0000:34:00.0".parse().unwrap());
        assert!(!evidence.cleaned && evidence.detail.contains("would not reach all"), "{}", evidence.detail);
    }

    #[test]
    fn without_a_memory_bar_there_is_no_nothing_to_do() {
        let machine = Machine::dgx2();
        machine.set("0000:34:00.0", "resource", Some("0x0 0xfff 0x200\n"));
        let evidence = run(&machine.sysfs(), &machine.devices(), "0000:34:00.0".parse().unwrap());
        assert!(!evidence.cleaned && evidence.detail.contains("no memory BAR"), "{}", evidence.detail);
    }

    #[test]
    fn what_cannot_be_reached_is_not_clean() {
        let machine = Machine::dgx2();
        for address in ["0000:34:00.0", "0000:99:00.0"] {
            let evidence = run(&machine.sysfs(), &machine.devices(), address.parse().unwrap());
            assert!(!evidence.cleaned && !evidence.detail.is_empty());
            assert_eq!((evidence.bytes_written, evidence.bytes_verified), (0, 0));
            assert_eq!((evidence.address.as_str(), evidence.method.as_str()), (address, "bar"));
            assert!(evidence.tool.starts_with("holm-agent "));
        }
    }
}
