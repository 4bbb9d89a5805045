//! NVIDIA's management library, loaded when it is needed and not linked against.

use super::{Reading, Source};
use crate::edge::{EdgeError, Result};
use holm_proto::ids::PciAddress;
use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{EccCounter, MemoryError, RetirementCause, TemperatureSensor},
    error::NvmlError,
};

/// No GPU has more NVLinks; the library says which exist.
const MOST_LINKS: u32 = 18;
/// Characters of a version, which comes from a device.
const MOST_CHARS: usize = 32;

/// NVML, open until it is dropped.
#[derive(Debug)]
pub struct Library {
    nvml: Nvml,
    name: String,
}

impl Library {
    /// Loads it. Where there is no driver there is no library either.
    pub fn open() -> Result<Box<dyn Source>> {
        let nvml = Nvml::init().map_err(|error| EdgeError::because("NVML cannot be opened", error))?;
        let version =
            nvml.sys_driver_version().map_err(|error| EdgeError::because("NVML has no version", error))?;
        let name = format!("nvml {}", short(&version));
        Ok(Box::new(Self { nvml, name }))
    }
}

impl Source for Library {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, gpu: PciAddress) -> Result<Reading> {
        self.try_read(gpu).map_err(|error| EdgeError::because(format!("it does not tell of `{gpu}`"), error))
    }
}

impl Library {
    fn try_read(&self, gpu: PciAddress) -> std::result::Result<Reading, NvmlError> {
        let device = self.nvml.device_by_pci_bus_id(gpu.to_string())?;
        let ecc = told(device.is_ecc_enabled())?.map(|mode| mode.currently_enabled);
        // Without ECC the counters are noughts that nobody counted.
        let counts = |error, counter| match ecc {
            Some(true) => told(device.total_ecc_errors(error, counter)),
            _ => Ok(None),
        };
        Ok(Reading {
            ecc,
            corrected: counts(MemoryError::Corrected, EccCounter::Aggregate)?,
            uncorrected_now: counts(MemoryError::Uncorrected, EccCounter::Volatile)?,
            uncorrected: counts(MemoryError::Uncorrected, EccCounter::Aggregate)?,
            retired_pages: retired(&device)?,
            retiring: told(device.are_pages_pending_retired())?,
            xids: Vec::new(),
            links: links(&device)?,
            firmware: told(device.vbios_version())?.map(|version| short(&version)).unwrap_or_default(),
            temperature_c: told(device.temperature(TemperatureSensor::Gpu))?,
        })
    }
}

/// Pages of both causes. Newer GPUs remap rows instead and have none.
fn retired(device: &Device<'_>) -> std::result::Result<Option<u32>, NvmlError> {
    let mut pages = None;
    for cause in [RetirementCause::MultipleSingleBitEccErrors, RetirementCause::DoubleBitEccError] {
        if let Some(list) = told(device.retired_pages(cause))? {
            let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
            pages = Some(pages.unwrap_or(0u32).saturating_add(count));
        }
    }
    Ok(pages)
}

/// Links that are up, of those there are; nothing where there are none.
fn links(device: &Device<'_>) -> std::result::Result<Option<(u32, u32)>, NvmlError> {
    let (mut up, mut all) = (0, 0);
    for link in 0..MOST_LINKS {
        match device.link_wrapper_for(link).is_active() {
            Ok(active) => {
                all += 1;
                up += u32::from(active);
            }
            // That link does not exist.
            Err(NvmlError::InvalidArg) => {}
            Err(error) => {
                told::<bool>(Err(error))?;
            }
        }
    }
    Ok((all > 0).then_some((up, all)))
}

/// What this GPU does not count, or this driver does not know, is absent. All else that fails is an error, and
/// the GPU's health unknown.
fn told<T>(answer: std::result::Result<T, NvmlError>) -> std::result::Result<Option<T>, NvmlError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MOST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_absent_and_a_lost_gpu_is_an_error() {
        assert_eq!(told(Ok(3)).unwrap(), Some(3));
        assert_eq!(told::<u32>(Err(NvmlError::NotSupported)).unwrap(), None);
        assert!(told::<u32>(Err(NvmlError::GpuLost)).is_err());
        assert!(told::<u32>(Err(NvmlError::NoPermission)).is_err());
    }

    /// Those that NVIDIA's driver has.
    fn gpus_of_this_machine() -> Vec<PciAddress> {
        let Ok(found) = std::fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
        found.map(|gpu| gpu.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
    }

    /// On a machine with the driver it is looked at for real.
    #[test]
    fn the_library_of_this_machine_or_why_there_is_none() {
        match Library::open() {
            Ok(library) => {
                let nobody = "0000:00:00.0".parse().unwrap();
                assert!(library.name().starts_with("nvml ") && library.read(nobody).is_err());
                for gpu in gpus_of_this_machine() {
                    let reading = library.read(gpu).unwrap();
                    println!("{gpu}: {}: {reading:?}", library.name());
                    assert!(reading.temperature_c.is_some_and(|degrees| (1..120).contains(&degrees)));
                    assert!(!reading.firmware.is_empty());
                }
            }
            Err(error) => assert!(error.chain().starts_with("NVML cannot be opened: "), "{}", error.chain()),
        }
    }
}
