//! The machine's PCI devices, as sysfs shows them.

use crate::{Failure, protocol::port_of};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The most that is read of one attribute; the kernel writes a page at most.
const ATTRIBUTE_MAX: usize = 4096;
/// A BAR below a page is registers.
const PAGE_BYTES: u64 = 4096;

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// `dddd:bb:dd.f`
    pub address: String,
    /// `vvvv:dddd`
    pub id: String,
    /// Where sysfs has it.
    pub path: PathBuf,
    /// Its memory: number and bytes of each prefetchable BAR.
    pub memory: Vec<(u32, u64)>,
}

impl Function {
    /// The function at an address.
    pub fn at(sysfs: &Path, address: &str) -> Result<Self, Failure> {
        if !is_address(address) {
            return Err(Failure(format!(
                "`{}` is not a PCI address: write it as `0000:34:00.0`",
                address.escape_debug()
            )));
        }
        let path = sysfs.join("bus/pci/devices").join(address);
        let read = |name: &str| {
            attribute(&path.join(name))
                .map_err(|error| Failure::because(format!("sysfs does not describe `{address}`"), error))
        };
        let hex = |text: String| text.strip_prefix("0x").unwrap_or(&text).to_owned();
        Ok(Self {
            id: format!("{}:{}", hex(read("vendor")?), hex(read("device")?)),
            memory: memory_bars(&read("resource")?)
                .ok_or_else(|| Failure(format!("the resources of `{address}` are not understood")))?,
            address: address.to_owned(),
            path,
        })
    }

    /// The one function behind the port of a place.
    pub fn behind_port(sysfs: &Path, slot: u8) -> Result<Self, Failure> {
        let (device, function) = port_of(slot);
        let port = format!("0000:00:{device:02x}.{function}");
        let failed =
            |error: io::Error| Failure::because(format!("nothing can be seen behind port {port}"), error);
        let mut found = Vec::new();
        for entry in fs::read_dir(sysfs.join("bus/pci/devices").join(&port)).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            found.extend(name.to_str().filter(|name| is_address(name)).map(str::to_owned));
        }
        match found.as_slice() {
            [address] => Self::at(sysfs, address),
            [] => Err(Failure(format!("there is no device behind port {port}"))),
            _ => Err(Failure(format!("there is more than one device behind port {port}"))),
        }
    }

    /// All of its memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add)
    }
}

/// The prefetchable memory BARs out of the first six lines of `resource`.
fn memory_bars(text: &str) -> Option<Vec<(u32, u64)>> {
    const MEMORY_PREFETCH: u64 = 0x2200;
    let mut bars = Vec::new();
    for (index, line) in (0..6).zip(text.lines()) {
        let mut fields = line
            .split_whitespace()
            .map(|text| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok());
        let (start, end, flags) = (fields.next()??, fields.next()??, fields.next()??);
        let bytes =
            end.checked_sub(start).filter(|length| *length > 0).map(|length| length.saturating_add(1));
        if let Some(bytes) =
            bytes.filter(|bytes| flags & MEMORY_PREFETCH == MEMORY_PREFETCH && *bytes >= PAGE_BYTES)
        {
            bars.push((index, bytes));
        }
    }
    Some(bars)
}

fn is_address(text: &str) -> bool {
    let hex = |text: &str, digits| {
        text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts = || {
        let (domain, rest) = text.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (device, function) = rest.split_once('.')?;
        Some(hex(domain, 4) && hex(bus, 2) && hex(device, 2) && hex(function, 1))
    };
    parts().unwrap_or(false)
}

fn attribute(path: &Path) -> io::Result<String> {
    let mut bytes = fs::read(path)?;
    bytes.truncate(ATTRIBUTE_MAX);
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert!(is_address("0000:34:00.0") && is_address("ffff:e7:1f.7"));
        for bad in ["", "34:00.0", "0000:34:00", "0000:34:0.0", "../../..", "0000:3G:00.0", "0000:34:00.0/"] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn only_what_is_memory_counts() {
        let text = "0x00000000fe000000 0x00000000fe0000ff 0x0000000000040200\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                    0x0000380000000000 0x0000380000ffffff 0x000000000014220c\n";
        assert_eq!(memory_bars(text), Some(vec![(2, 16 << 20)]));
        assert_eq!(memory_bars("0x0 0x1"), None);
        assert_eq!(memory_bars(""), Some(Vec::new()));
    }
}
